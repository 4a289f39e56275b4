"""What holds for every notebook: sources and notebooks agree, cells are short, equations run, exercises can be solved.

Executing the notebooks is nbval's part; see `tools/course.py test`.
"""

import ast
import contextlib
import io
import linecache
import re
import sys
from pathlib import Path
from statistics import median

import jupytext
import nbformat
import pytest
from jupytext.config import load_jupytext_config
from jupytext.paired_paths import paired_paths

from ddpm_helpers.exercises import EXERCISES, solution

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import reading  # noqa: E402

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SOURCES = sorted((ROOT / "notebooks" / "src").glob("*.py"))
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
each_source = pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)


def read(path: Path):
    return nbformat.read(path, as_version=4) if path.suffix == ".ipynb" else jupytext.read(path)


def code_cells(path: Path):
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def tags(cell) -> list[str]:
    return cell.metadata.get("tags", [])


def test_every_source_has_its_notebook():
    assert [path.stem for path in SOURCES] == [path.stem for path in NOTEBOOKS]
    assert NOTEBOOKS


@each_source
def test_jupyter_keeps_both_sides_in_step(path):
    """The pairing declared in pyproject.toml is the one that JupyterLab's jupytext extension finds."""
    config = load_jupytext_config(str(path))
    formats = config.default_formats(str(path))
    pairs = {Path(pair) for pair, _ in paired_paths(str(path), {"extension": ".py", "format_name": "percent"}, formats)}
    assert pairs == {path, ROOT / "notebooks" / f"{path.stem}.ipynb"}


@each_notebook
def test_notebook_equals_its_source(path):
    source = read(path.parent / "src" / f"{path.stem}.py")
    cells = [(cell.cell_type, cell.source, tags(cell)) for cell in read(path).cells]
    assert cells == [(cell.cell_type, cell.source, tags(cell)) for cell in source.cells], "run: make notebooks"


@each_notebook
def test_executed_in_order_without_error(path):
    cells = code_cells(path)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        assert not [output for output in cell.outputs if output.output_type == "error"], cell.source
        assert "standing in" not in str(cell.outputs), "committed outputs come from real data"


@each_notebook
def test_cells_are_short_and_files_small(path):
    lengths = [len([line for line in cell.source.splitlines() if line.strip()]) for cell in code_cells(path)]
    assert max(lengths) <= 20
    assert median(lengths) <= 6
    assert path.stat().st_size < 1_500_000
    assert "widgets" not in read(path).metadata, "GitHub refuses notebooks with widget state"


@each_notebook
def test_every_picture_has_alt_text_and_a_caption(path):
    cells = read(path).cells
    for place, cell in enumerate(cells):
        for alt in re.findall(r"!\[(.*?)\]\(", cell.source) if cell.cell_type == "markdown" else []:
            assert len(alt) > 10
        for output in cell.get("outputs", []):
            for kind in ("image/png", "image/gif"):
                if kind in output.get("data", {}):
                    assert len(output.metadata.get(kind, {}).get("alt", "")) > 10, cell.source
                    # The words about it: in the next text, at most one code cell (another picture) away.
                    assert any(c.cell_type == "markdown" for c in cells[place + 1 : place + 3]), cell.source


@each_source
def test_header_says_what_you_will_need_and_how_long(path):
    header = read(path).cells[0].source
    assert header.startswith("# ")
    for word in ("**You will** ", "**You need** ", "**Time** "):
        assert word in re.sub(r"\s+", " ", header)


@each_source
def test_prose_is_plain(path):
    for cell in read(path).cells:
        if cell.cell_type == "markdown":
            text = re.sub(r"```.*?```|`[^`]*`|\$\$.*?\$\$|\$[^$]*\$|!\[.*?\]", "", cell.source, flags=re.S)
            assert "!" not in text, text
            assert not re.search(r"\b(simply|obviously|just|as we can see)\b", text, flags=re.I), text


@each_source
def test_setup_cell_is_the_same_everywhere(path):
    first = code_cells(path)[0]
    assert tags(first) == ["setup"]
    lines = first.source.splitlines()[:6]
    assert lines == code_cells(SOURCES[0])[0].source.splitlines()[:6]


@each_source
def test_every_notebook_ends_alike(path):
    last = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
    places = [
        last.find(part)
        for part in ("\n## What to remember, and what broke\n", "\n**What broke:** ", "\n### Experiments to try\n")
    ]
    assert -1 not in places
    assert places == sorted(places)


def prose(path: Path) -> str:
    """The text cells of a notebook in one line, without code and formulas."""
    cells = [cell.source for cell in read(path).cells if cell.cell_type == "markdown"]
    text = re.sub(r"```.*?```|`[^`]*`|\$\$.*?\$\$|\$[^$]*\$", "", "\n\n".join(cells), flags=re.S)
    return re.sub(r"\s+", " ", text)


@each_source
def test_links_lead_to_files(path):
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", prose(path)):
        assert (path.parent.parent / link).is_file(), link


NUMBERED = {tag for path in SOURCES for tag in re.findall(r"\\tag\{([\d.]+)\}", path.read_text(encoding="utf-8"))}


@each_source
def test_cited_equations_exist(path):
    """(4.3), or equation 4.3, is a number that some notebook gives; if it is a link, then to that notebook."""
    text = prose(path)
    for cited in re.findall(r"\((\d+\.\d+)\)|[Ee]quations? (\d+\.\d+)", text):
        assert "".join(cited) in NUMBERED, cited
    for number, notebook in re.findall(r"\[\((\d+)\.\d+\)\]\((\d\d)_", text):
        assert int(number) == int(notebook)


@each_source
def test_cited_works_are_listed(path):
    """Ho et al. 2020, Wu & He (2018), Vincent 2011: each is in the last notebook's list, under the same name."""
    listed = prose(SOURCES[-1])
    works = r"[A-Z][\w-]+(?:(?:, [A-Z][\w-]+)* & [A-Z][\w-]+|(?:, [A-Z][\w-]+)? et al\.)?,? \(?(?:19|20)\d\d\b"
    for work in re.findall(works, text := prose(path)):
        name = re.sub(r",? \(?(?=\d{4}$)", " ", work)
        assert f"**{name}**" in listed, f"{name}: {text[text.index(work) - 60 :][:120]}"


def test_glossary_leads_to_where_words_are_used():
    """A row of the glossary: word, meaning, link to the notebook that explains it, which therefore has the word."""
    table = "\n".join(cell.source for cell in read(SOURCES[-1]).cells if "| word |" in cell.source)
    rows = re.findall(r"^\| ([^|]+) \|.*\| \[\d\d\]\((\w+)\.ipynb\) \|$", table, flags=re.M)
    assert len(rows) == table.count("\n|") - 2  # all but the head
    assert [word.lower() for word, _ in rows] == sorted(word.lower() for word, _ in rows)
    for word, notebook in rows:
        text = prose(ROOT / "notebooks" / "src" / f"{notebook}.py")
        assert word.lower() in text.lower(), f"{word} in {notebook}"


@each_source
def test_every_numbered_equation_is_run(path):
    """Each \\tag{n.m} has a verify("n.m", ...) after it and before the next notebook part ends; none is spare."""
    number = str(int(path.stem[:2]))
    tagged, verified = {}, {}
    for place, cell in enumerate(read(path).cells):
        if cell.cell_type == "markdown":
            for tag in re.findall(r"\\tag\{([\d.]+)\}", cell.source):
                assert tag not in tagged, f"({tag}) is numbered twice"
                tagged[tag] = place
        else:
            for tag in re.findall(r'verify\(\s*"([\d.]+)"', cell.source):
                verified.setdefault(tag, place)
    assert set(tagged) == set(verified)
    assert list(tagged) == [f"{number}.{i}" for i in range(1, len(tagged) + 1)]
    for tag, place in tagged.items():
        assert 0 < verified[tag] - place <= 7, f"({tag}) is not run in the next cells"


@each_source
def test_stated_facts_are_compared(path):
    """nbval compares the text of cells that check or verify."""
    for cell in code_cells(path):
        if re.search(r"= check\(|verify\(", cell.source):
            assert "nbval-check-output" in tags(cell), cell.source


def exercise_cells():
    for path in SOURCES:
        cells = code_cells(path)
        for cell in cells:
            if "exercise" in tags(cell):
                yield pytest.param(cells[0].source, cell.source, id=re.search(r"= check\((\w+)\)", cell.source)[1])


EXERCISE_CELLS = list(exercise_cells())


def test_every_exercise_is_asked_once_and_in_order():
    asked = [cell.id for cell in EXERCISE_CELLS]
    assert sorted(asked) == sorted(EXERCISES)
    text = "".join(path.read_text(encoding="utf-8") for path in SOURCES)
    headings = re.findall(r"^# #+ Exercise ([\d.]+) - `(\w+)`", text, flags=re.M)
    assert headings == [(EXERCISES[name].tag, name) for name in asked]


def run_cell(source: str, namespace: dict) -> str:
    """Execute a cell as Jupyter would (its source can be inspected); what it printed."""
    name = f"<cell {hash(source)}>"
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(source, name, "exec"), namespace)
    return printed.getvalue()


@pytest.mark.parametrize(("setup", "cell"), EXERCISE_CELLS)
def test_skeleton_is_greeted(setup, cell):
    namespace = {}
    run_cell(setup, namespace)
    assert "is yours to write" in run_cell(cell, namespace)


@pytest.mark.parametrize(("setup", "cell"), EXERCISE_CELLS)
def test_solved_notebook(setup, cell):
    """The printed solution, in place of the skeleton: the notebook's imports and exercises are all that it needs."""
    exercise = EXERCISES[re.search(r"= check\((\w+)\)", cell)[1]]
    namespace = {name: other.reference for name, other in EXERCISES.items() if other is not exercise}
    run_cell(setup, namespace)
    skeleton, [written] = ast.parse(cell).body[0], ast.parse(solution(exercise)).body
    assert [argument.arg for argument in written.args.args] == [argument.arg for argument in skeleton.args.args]
    assert not re.search(r"_check|raise |\b_\w+\(", solution(exercise)), "no checks, nothing private"
    solved = "\n".join([solution(exercise), *cell.splitlines()[skeleton.end_lineno :]])
    assert run_cell(solved, namespace) == f"Exercise {exercise.tag} ({exercise.name}): correct.\n"
    assert namespace[exercise.name] is not exercise.reference


def test_one_sitting_each():
    """3,500 words and 90 minutes; what is looked up, and not read, may be longer. Part I: aim at 38,000."""
    notebooks = {path.stem[:2]: read(path) for path in NOTEBOOKS if path.stem[:2] != "99"}
    words = {number: reading.words(notebook) for number, notebook in notebooks.items()}
    assert max(words.values()) <= 3500, words
    assert sum(words[f"{number:02}"] for number in range(14)) <= 40_000
    assert max(map(reading.minutes, notebooks.values())) <= 90
