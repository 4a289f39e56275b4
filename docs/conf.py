"""Sphinx's settings of the site, which `make course` builds; what it does beyond them is in site/pages.py."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tools"), str(ROOT / "docs" / "site")]
import build  # noqa: E402

REPO = build.setting()  # owner/name on GitHub, or nothing: then the pages name no address
OWNER, _, NAME = REPO.partition("/")

project = html_title = "Diffusion models, built"
language = "en"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "pages"]
notebooks = str(ROOT / "notebooks")  # of pages.py: the notebooks to show

nb_execution_mode = "off"
nb_merge_streams = True
nb_code_prompt_show = "Show the set-up"
nb_code_prompt_hide = "Hide the set-up"
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 4
mathjax_path = "mathjax/tex-chtml.js"
mathjax3_config = {
    "loader": {"load": ["[tex]/color"]},
    "tex": {"packages": {"[+]": ["color"]}},
    "options": {"enableMenu": False},
}
autodoc_member_order = "bysource"
autodoc_typehints = "none"
default_role = "code"

html_theme = "sphinx_book_theme"
html_baseurl = f"https://{OWNER}.github.io/{NAME}/" if REPO else ""
html_static_path = ["site/static"]
html_css_files = ["course.css"]
html_js_files = ["course.js"]
html_copy_source = False
html_context = {"default_mode": "auto"}
html_sidebars = {"**": ["search-button-field.html", "sbt-sidebar-nav.html"]}
html_use_index = html_domain_indices = False
html_theme_options = {
    "home_page_in_toc": True,
    "show_toc_level": 2,
    "use_download_button": False,
    "navbar_persistent": [],  # one field to search with is enough
    "footer_content_items": [],
}
if REPO:
    html_theme_options |= {
        "repository_url": f"https://github.com/{REPO}",
        "repository_branch": "main",
        "use_repository_button": True,
        "launch_buttons": {"colab_url": "https://colab.research.google.com"},
    }
