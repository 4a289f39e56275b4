"""The site that `make course` writes: links land, pages are light, and all works without network and kernel."""

import html
import re
import runpy
import sys
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urldefrag

import nbformat
import pytest

for name in ("sphinx", "myst_nb", "sphinx_book_theme"):
    pytest.importorskip(name, reason=f"{name} is not installed: pip install -e '.[site]'")

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import build  # noqa: E402

KINDS = {"index": 1280, "notebooks/03_likelihood_bound": 390, "notebooks/08_sampling": 1280, "core": 390}
KINDS |= {"notebooks/13_debugging_clinic": 390, "notebooks/99_glossary": 390, "search": 1280, "docs/HELP": 390}


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site") / "course"
    assert build.site(ROOT / "notebooks", folder, "-W", "--keep-going") == 0, "Sphinx had a warning"
    return folder


class Page:
    """What a page holds: its ids, where its links lead with their texts, what it loads."""

    def __init__(self, path: Path):
        text = path.read_text(encoding="utf-8")
        self.ids = set(re.findall(r'\sid="([^"]+)"', text))
        links = re.findall(r'<a\b[^>]*?\shref="([^"]*)"[^>]*>(.*?)</a>', text, flags=re.S)
        self.links = [(html.unescape(address), re.sub(r"<[^>]+>", "", inside)) for address, inside in links]
        tags = re.findall(r'<(?:script|img|link)\b(?![^>]*\srel="(?!stylesheet|preload|icon))[^>]*>', text)
        self.loads = re.findall(r'\s(?:src|href)="(?!data:)([^"]*)"', "".join(tags))


parsed = cache(Page)


def pages(site: Path) -> list[Path]:
    return [path for path in site.rglob("*.html") if path.parent.name != "_static"]  # a template of the theme


def test_links_land(site):
    broken = []
    for path in pages(site):
        for address in (address for address, _ in parsed(path).links if not address.startswith("https://")):
            file, anchor = urldefrag(unquote(address))
            target = (path.parent / file).resolve() if file else path
            there = target.is_relative_to(site) and target.is_file()
            if not there or (anchor and anchor not in parsed(target).ids):
                broken.append(f"{path.relative_to(site)}: {address}")
    assert not broken


def test_equations_and_words_lead_to_their_places(site):
    home = {}
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        text = "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells)
        home |= dict.fromkeys(re.findall(r"\\tag\{([\d.]+)\}", text), path.stem)
    assert len(home) > 100
    for number, stem in home.items():
        assert f"equation-{number}" in parsed(site / "notebooks" / f"{stem}.html").ids, number
    links = [link for path in site.glob("notebooks/*.html") for link in parsed(path).links]
    cited = [(address, text[1:-1]) for address, text in links if re.fullmatch(r"\(\d+\.\d+\)", text)]
    assert len(cited) > 250
    assert [(address, number) for address, number in cited if not address.endswith(f"#equation-{number}")] == []
    assert ("99_glossary.html#entry-noise-schedule", "noise schedule") in links
    assert ("../core.html#ddpm_helpers.schedule.q_sample", "q_sample") in links
    source = "_modules/ddpm_helpers/schedule.html#q_sample"
    assert source in [address for address, _ in parsed(site / "core.html").links], "beside the function"


@pytest.mark.parametrize("repo", ["", "someone/course"])
def test_the_address_is_the_one_setting(monkeypatch, repo):
    monkeypatch.setattr(build, "setting", lambda: repo)
    conf = runpy.run_path(str(ROOT / "docs" / "conf.py"))
    assert conf["html_baseurl"] == ("https://someone.github.io/course/" if repo else "")
    assert conf["html_theme_options"].get("repository_url", "") == ("https://github.com/someone/course" if repo else "")


def test_weights(site):
    pictures = ("png", "gif", "webp")
    for path in pages(site):
        own = {(path.parent / load).resolve() for load in parsed(path).loads if load.endswith(pictures)}
        weight = path.stat().st_size + sum(file.stat().st_size for file in own)
        assert weight < (400_000 if path == site / "index.html" else 2_000_000), f"{path.name}: {weight:,} bytes"
    assert sum(file.stat().st_size for file in site.rglob("*") if file.is_file()) < 35_000_000


def test_nothing_is_fetched_from_elsewhere(site):
    """Every script, style, font and picture is a file of the site, named relative to the page."""
    for path in pages(site):
        for load in parsed(path).loads:
            assert (path.parent / load.partition("?")[0]).is_file(), f"{path.name} loads {load}"
    for path in site.rglob("*.css"):
        assert not re.findall(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", path.read_text(encoding="utf-8")), path.name


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", KINDS)
def test_in_a_browser_without_network(browser, site, name, scheme):
    context = browser.new_context(color_scheme=scheme, viewport={"width": KINDS[name], "height": 900}, offline=True)
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    page, said = context.new_page(), []
    page.set_default_timeout(120_000)  # for formulas, on a machine that has much else to do
    page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("requestfailed", lambda request: said.append(request.url))
    page.goto((site / f"{name}.html").as_uri())
    page.wait_for_function(
        "!window.MathJax?.startup || MathJax.startup.promise?.then(() => (window.done = true)) && window.done"
    )
    assert page.evaluate("document.documentElement.scrollWidth") == KINDS[name], "the page scrolls sideways"
    assert page.locator("mjx-merror, [data-mjx-error]").count() == 0
    if "/0" in name:
        assert page.locator("mjx-container").count() > 50
    assert said == []
    # Parts of formulas and of coloured code would take axe-core a minute.
    page.locator("mjx-container, .highlight span").evaluate_all("all => all.forEach(x => x.replaceWith(x.textContent))")
    violations = axe.Axe().run(page).response["violations"]
    assert [(violation["id"], node["html"][:200]) for violation in violations for node in violation["nodes"]] == []
    context.close()


def test_sliders_questions_and_search_without_a_kernel(browser, site):
    page = browser.new_page()
    page.set_default_timeout(120_000)
    page.goto((site / "notebooks" / "02_forward_process.html").as_uri())
    box = page.locator(".explorer")
    canvas, line = box.locator("canvas"), box.locator("output")
    line.get_by_text("t = 1 of 1000").wait_for()
    seen = [canvas.screenshot()]
    box.locator("input").press("End")
    assert "t = 1000 of 1000" in line.inner_text()
    seen.append(canvas.screenshot())
    box.locator("select").select_option(index=2)
    assert "t = 300 of 300" in line.inner_text(), "the schedule with too few steps"
    seen.append(canvas.screenshot())
    assert len(set(seen)) == 3
    page.goto((site / "notebooks" / "13_debugging_clinic.html").as_uri())
    first, second = page.locator(".quiz").nth(0), page.locator(".quiz").nth(1)
    for place, reply in ((0, "No, not a."), (2, "Yes: c.")):
        assert not first.get_by_text(reply).is_visible()
        first.locator("summary").nth(place).click()
        assert first.get_by_text(reply).is_visible()
    second.locator("summary").nth(1).click()
    second.get_by_text("Right at the first choice: 1 of 2.").wait_for()
    page.goto((site / "search.html").as_uri() + "?q=posterior")
    page.locator("#search-results a", has_text="From a bound to the noise").first.wait_for()
    page.close()
