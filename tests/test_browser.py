"""What a learner sees in a browser: JupyterLab with the notebooks, and the HTML pages of `make course`.

Screenshots go to build/browser. All tests here are skipped where playwright or a Chromium is missing.
"""

import ast
import base64
import contextlib
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
import urllib.request
from itertools import pairwise
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from ddpm_helpers.lessons import quiz

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NAMES = [path.stem for path in NOTEBOOKS]
SHOTS = ROOT / "build" / "browser"
sys.path.insert(0, str(ROOT / "tools"))
import build  # noqa: E402

playwright_api = pytest.importorskip("playwright.sync_api", reason="playwright is missing: pip install -e '.[test]'")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")


# ---- the pages ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> Path:
    """The pages of the committed notebooks with their outputs, and `all.html`, which has one of everything."""
    folder = tmp_path_factory.mktemp("course") / "pages"
    build.write_pages({path.stem: nbformat.read(path, as_version=4) for path in NOTEBOOKS}, folder)
    (folder / "all.html").write_text(build.page(one_of_everything(), {"All notebooks": "index.html"}), encoding="utf-8")
    return folder


def one_of_everything():
    line, wide = "+".join(["x_{t-1}"] * 9), "+".join(["x_{t-1}"] * 40)
    colours = " ".join(rf"{{\color{{{colour}}}{{\epsilon}}}}" for colour in ("#0072B2", "#D55E00", "#009E73"))
    code = (
        "@f\ndef f(x: int = 3) -> str:\n    '''Text'''\n    return f'{x!r}\\n' + str(1e-3 if x is None else 2)  # why\n"
    )
    text = (
        f"# All\n\n## Two `code`\n\nA long formula ${line}$ and colours ${colours}$.\n\n$${wide} \\tag{{1.2}}$$\n\n"
        f"| | b |\n|---|:--|\n| {'wide' * 40} | `$c$` |\n\n"
        f"<details><summary>Hint</summary>\n\nOnly if asked.\n\n```python\n{code}```\n\n</details>\n\n"
        "### Three\n\n[another](00_start_here.ipynb) ![a strip](../figures/02_closed_form.png)"
    )
    picture = base64.b64encode((ROOT / "figures" / "08_reverse.gif").read_bytes()).decode()
    about = {"image/gif": {"alt": "it moves", "width": 150}}
    moving = new_output("display_data", {"image/gif": picture}, metadata=about)
    widget = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "Controls: run this."}
    outputs = [new_output("stream", text="out " * 80), new_output("execute_result", widget), moving]
    return new_notebook(cells=[new_markdown_cell(text), new_code_cell(code, outputs=outputs)])


@contextlib.contextmanager
def opened(browser, path: Path, scheme: str = "light", width: int = 390, plain: bool = False):
    """A page that asks for nothing outside of it, and in which axe-core finds no fault, by its best-practice rules too.

    Axe would take a minute over the parts of formulas and of coloured code of a notebook: `plain` makes them text. (A
    table heading that is a formula alone is empty to axe, not to screen readers.)
    """
    page, asked = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": 900}), []
    page.on("request", lambda request: None if request.url.startswith("data:") else asked.append(request.url))
    page.goto(path.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") == width, "the page itself scrolls sideways"
    if plain:
        page.locator("math, .highlight span").evaluate_all("all => all.forEach(e => e.replaceWith(e.textContent))")
    faults = [
        (each["id"], node["html"][:200])
        for each in axe.Axe().run(page).response["violations"]
        for node in each["nodes"]
    ]
    assert (faults, asked) == ([], [page.url])
    yield page
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_everything_that_a_page_can_hold(browser, pages, scheme, width):
    with opened(browser, pages / "all.html", scheme, width) as page:
        assert not page.get_by_text("Only if asked.").is_visible()
        page.get_by_text("Hint").click()
        assert page.get_by_text("Only if asked.").is_visible()
        images = page.locator("img").evaluate_all("all => all.map(one => [one.alt, one.naturalWidth > 99, one.width])")
        assert [(alt, there) for alt, there, _ in images] == [("a strip", True), ("it moves", True)]
        assert images[1][2] == 150, "as wide as the metadata say"
        assert page.locator("math").count() == 3, "what is in code is no formula"
        assert page.get_by_text("Controls: run this.").is_visible()
        assert page.locator("text=(1.2)").bounding_box()["width"] > 0
        page.keyboard.press("Tab")
        page.get_by_role("link", name="another").click()
        assert page.title() == "Start here"


@pytest.mark.parametrize("name", ["index", *NAMES])
def test_page(browser, pages, name):
    """On a phone, where most is too wide."""
    with opened(browser, pages / f"{name}.html", plain=True) as page:
        assert page.locator("html").get_attribute("lang") == "en"
        levels = page.locator("h1, h2, h3, h4").evaluate_all("all => all.map(one => Number(one.tagName[1]))")
        assert levels.count(1) == 1
        assert all(after <= before + 1 for before, after in pairwise(levels))
        alts = page.locator("img").evaluate_all("all => all.map(one => one.alt)")
        assert all(len(alt) > 10 for alt in alts)
        assert len(alts) >= {"index": len(NAMES) - 1, NAMES[-1]: 0}.get(name, 1)  # the last one is a glossary
        for link in page.locator("a[href$='.html']").evaluate_all("all => all.map(one => one.getAttribute('href'))"):
            assert (pages / link).exists(), link


def test_the_way_through_the_pages(browser, pages):
    with opened(browser, pages / "index.html", width=1280) as page:
        page.get_by_role("link", name="00").click()
        for i in range(len(NAMES) - 1):
            page.locator(("header", "footer")[i % 2]).get_by_role("link", name="Next").click()
        assert page.url.endswith(f"{NAMES[-1]}.html")
        page.get_by_role("link", name="Previous").first.click()
        assert page.url.endswith(f"{NAMES[-2]}.html")
        page.get_by_role("link", name="All notebooks").last.click()
        assert page.url.endswith("index.html")


# ---- JupyterLab -----------------------------------------------------------------------------------------------------

BARE = """import ipywidgets
slider, label = ipywidgets.IntSlider(0, 0, 40), ipywidgets.Label("0")
slider.observe(lambda change: setattr(label, "value", str(change.new)), "value")
ipywidgets.VBox([slider, label])"""

# One step of a slider by its keyboard; the milliseconds until what `watched` selects has changed, and is drawn.
MOVE = """async (cell, watched) => {
    const [seen, handle] = [cell.querySelector(watched), cell.querySelector(".noUi-handle")]
    const state = () => seen.src || seen.textContent
    const [before, start] = [state(), performance.now()]
    handle.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowRight", bubbles: true}))
    while (state() === before) {
        if (performance.now() - start > 10000) throw new Error("nothing changed in 10 seconds")
        await new Promise(requestAnimationFrame)
    }
    if (seen.decode) await seen.decode()
    return performance.now() - start
}"""


def only_needed(path: Path, goal: str):
    """The notebook's code cells up to the one that holds `goal`, without those whose names it has no use for."""
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    last = next(i for i, cell in enumerate(cells) if goal in cell.source)
    wanted, kept = set(), []
    for cell in reversed(cells[: last + 1]):
        tree = list(ast.walk(ast.parse(cell.source)))
        stored = {node.id for node in tree if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
        stored |= {node.name for node in tree if isinstance(node, ast.FunctionDef)}
        if cell is cells[last] or stored & wanted or "setup" in cell.metadata.get("tags", []):
            kept.insert(0, cell)
            wanted = (wanted - stored) | {node.id for node in tree if isinstance(node, ast.Name)} - stored
    notebook.cells = kept
    return notebook


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """JupyterLab as `make lab` starts it, network off, drawn digits; a function name -> address of that notebook."""
    folder = tmp_path_factory.mktemp("lab")
    for part in ("tools", "figures"):
        shutil.copytree(ROOT / part, folder / part)
    notebooks = {path.stem: only_needed(path, goal) for path in NOTEBOOKS if (goal := WIDGETS.get(path.stem[:2]))}
    notebooks |= {NAMES[0]: nbformat.read(NOTEBOOKS[0], as_version=4)}
    notebooks[NAMES[2]].cells.append(new_code_cell(BARE))
    (folder / "notebooks").mkdir()
    for name, notebook in notebooks.items():
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
        nbformat.write(notebook, folder / "notebooks" / f"{name}.ipynb")
    settings = folder / "config" / "lab" / "user-settings" / "@jupyterlab"
    for name, values in {
        "notebook-extension/tracker": {"windowingMode": "none"},  # cells out of sight are in the page, too
        "apputils-extension/themes": {"adaptive-theme": True},  # light or dark as the browser wishes
        "apputils-extension/notification": {"fetchNews": "false"},  # no question over the pictures
    }.items():
        (settings / name).parent.mkdir(parents=True, exist_ok=True)
        (settings / f"{name}.jupyterlab-settings").write_text(json.dumps(values))
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT / "tests" / "offline"), str(ROOT)]),
        "DDPM_BUDGET": "quick",
        **{name: str(folder / "empty") for name in ("DDPM_DATA", "XDG_CACHE_HOME", "IPYTHONDIR")},
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
    }
    (folder / "empty").mkdir()
    command = [sys.executable, "tools/course.py", "--current-env", "lab", "--no-browser", "--allow-root"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
    server = None
    for _ in range(240):
        time.sleep(0.5)
        if found := list((folder / "runtime").glob("jpserver-*.json")):
            server = json.loads(found[0].read_text())
            break
        assert process.poll() is None, (folder / "log").read_text()
    assert server, (folder / "log").read_text()
    yield lambda name: f"{server['url']}lab/tree/notebooks/{name}.ipynb?reset&token={server['token']}"
    headers = {"Authorization": f"token {server['token']}"}
    urllib.request.urlopen(urllib.request.Request(f"{server['url']}api/shutdown", headers=headers, method="POST"))
    process.wait(60)


# The widget of a notebook: what its cell holds.
WIDGETS = {
    "02": "viz.explore(",
    "08": "viz.explore(",
    "12": "viz.explore(",
    "13": "show.ask(",
}


@pytest.fixture
def run(browser, lab):
    """A function that opens a notebook (its number), runs all cells from the menu, and returns the page."""
    page = browser.new_page(viewport={"width": 1200, "height": 900})

    def accept(dialog) -> None:
        print(f"JupyterLab asked: {dialog.inner_text()!r}")
        dialog.locator(".jp-mod-accept").click()

    # A slow start may bring up one over everything, and another after it: so look again, and do not wait for "none".
    # Only actions and `expect` look, `wait_for` does not.
    page.add_locator_handler(page.locator(".jp-Dialog").last, accept, no_wait_after=True)

    def run(number: str):
        page.goto(lab(next(name for name in NAMES if name.startswith(number))))
        # Without a kernel the indicator says "idle", too.
        playwright_api.expect(page.locator(".jp-KernelName")).to_contain_text("Python 3", timeout=120_000)
        idle = page.locator("[data-status=idle].jp-Notebook-ExecutionIndicator")
        playwright_api.expect(idle).to_be_visible(timeout=120_000)
        started = page.locator(".jp-InputPrompt", has_text=re.compile(r"\[[*\d]")).first
        for _ in range(3):  # a click before all of JupyterLab is up may be lost
            page.locator(".lm-MenuBar-itemLabel").get_by_text("Run", exact=True).click()
            page.locator(".lm-Menu-itemLabel").get_by_text("Run All Cells", exact=True).click()
            with contextlib.suppress(AssertionError):
                playwright_api.expect(started).to_be_visible(timeout=20_000)
                break
        else:
            pytest.fail(f"No cell ran. The kernel: {page.locator('.jp-KernelName').inner_text()}")
        page.wait_for_function(
            """() => document.querySelector("[data-mime-type='application/vnd.jupyter.error']") ||
                [...document.querySelectorAll(".jp-CodeCell")].every(cell =>
                    /\\[\\d+\\]/.test(cell.querySelector(".jp-InputPrompt").textContent))""",
            timeout=300_000,
        )
        assert page.locator("[data-mime-type='application/vnd.jupyter.error']").all_inner_texts() == []
        return page

    yield run
    page.close()


def cell_with(page, selector: str, place: int = 0):
    return page.locator(".jp-CodeCell").filter(has=page.locator(selector)).nth(place)


def picture(page, name: str) -> None:
    """Screenshots of the page as it is, in the light theme and in the dark one."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    for scheme in ("dark", "light"):
        page.emulate_media(color_scheme=scheme)
        page.wait_for_timeout(1000)
        page.screenshot(path=SHOTS / f"{name}-{scheme}.png")


def test_a_learner_answers_wrong_then_right(run):
    page = run("00")
    cell = page.locator(".jp-CodeCell", has_text="def to_float").first

    def answer(line: str) -> str:
        cell.locator(".cm-content").click()
        page.keyboard.press("ControlOrMeta+A")
        page.keyboard.insert_text(f"def to_float(images):\n    {line}\n\n\nto_float = check(to_float)")
        before = cell.locator(".jp-InputPrompt").inner_text()
        page.keyboard.press("Shift+Enter")
        playwright_api.expect(cell.locator(".jp-InputPrompt")).not_to_have_text(before)
        playwright_api.expect(cell.locator(".jp-InputPrompt")).not_to_contain_text("*", timeout=30_000)
        return "".join(cell.locator(".jp-OutputArea-output").all_inner_texts())

    assert "you computed in uint8" in answer("return images * 2 / 255 - 1")
    cell.scroll_into_view_if_needed()
    picture(page, "00-wrong")
    assert "correct" in answer("return images.float() * 2 / 255 - 1")
    picture(page, "00-right")


def test_slider_of_the_forward_process_is_quick(run):
    """The picture follows within 200 ms.

    On a machine that needs more than half of that to move a number beside a slider, within twice what that takes
    there, measured in turns. The best of three medians, since something else may be running.
    """
    page = run("02")
    explorer, bare = cell_with(page, ".noUi-handle"), cell_with(page, ".noUi-handle", 1)
    explorer.scroll_into_view_if_needed()
    times = {"picture": [], "number": []}
    for _ in range(3):
        for name, cell, watched in (("picture", explorer, "img"), ("number", bare, ".widget-vbox > .widget-label")):
            times[name].append(statistics.median(cell.evaluate(MOVE, watched) for _ in range(11)))
    print({name: [f"{median:.0f} ms" for median in medians] for name, medians in times.items()})
    assert min(times["picture"]) < max(200, 2 * min(times["number"])), times
    picture(page, "02-slider")


def test_slider_of_the_trajectory(run):
    page = run("08")
    cell = cell_with(page, ".noUi-handle")
    cell.scroll_into_view_if_needed()
    assert cell.evaluate(MOVE, "img") > 0
    cell.locator(".noUi-handle").press("End")
    cell.get_by_text("t = 0: above, the images").wait_for()
    assert cell.locator("img").evaluate("image => image.width === image.naturalWidth"), "two images are not blown up"
    picture(page, "08-slider")


def test_slider_and_menu_of_guidance(run):
    page = run("12")
    cell = cell_with(page, ".noUi-handle")
    cell.scroll_into_view_if_needed()
    before = cell.locator("img").get_attribute("src")
    cell.locator("select").select_option("7")
    cell.get_by_text("scale 0, asked for 7").wait_for()
    assert cell.locator("img").get_attribute("src") != before
    assert cell.evaluate(MOVE, "img") > 0
    cell.get_by_text("scale 0.5, asked for 7").wait_for()
    picture(page, "12-slider")


def test_quiz_tells_right_from_wrong(run):
    page, case = run("13"), quiz.case(1)
    cell = cell_with(page, "input[type=radio]")
    cell.scroll_into_view_if_needed()
    wrong = next(letter for letter in quiz.LETTERS if letter != case.letter)
    for letter in (wrong, case.letter):
        cell.locator("input[type=radio]").nth(quiz.LETTERS.index(letter)).check()
        cell.get_by_text(case.reply(letter)).wait_for()
        picture(page, f"13-{'right' if letter == case.letter else 'wrong'}")
    assert not case.reply(wrong).startswith("Yes")
    assert case.reply(case.letter).startswith("Yes")
