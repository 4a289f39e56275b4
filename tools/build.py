"""Notebooks from their sources, the site from notebooks, links from the one setting. Called by tools/course.py."""

import re
import shutil
import subprocess
import sys
import time
from base64 import b64decode
from pathlib import Path

import jupytext
import my_notebooks
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode
from tqdm import tqdm

import tables
from ddpm_helpers.exercises import EXERCISES
from tables import fill, in_words, measured

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
SOURCES = NOTEBOOKS / "src"
PAGES = ROOT / "build" / "course"


def notebooks(names: list[str]) -> int:
    """Execute every notebook source (or those whose name starts with one of `names`); write it and its figures."""
    failed = 0
    for source in sorted(SOURCES.glob("*.py")):
        if names and not source.name.startswith(tuple(names)):
            continue
        notebook = from_source(source)
        if execute(notebook, source.stem):
            write_figures(notebook)
            nbformat.write(notebook, NOTEBOOKS / f"{source.stem}.ipynb")
        else:
            failed += 1
    write_readme(setting())
    return failed


def from_source(source: Path) -> NotebookNode:
    """The notebook of a percent-format source, not executed; cell ids depend on the place alone, for small diffs."""
    notebook = jupytext.read(source)
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for place, cell in enumerate(notebook.cells):
        cell.id = f"{source.stem[:2]}-{place:03d}"
    return notebook


def execute(notebook: NotebookNode, name: str) -> bool:
    """Run all cells in place, with a progress bar; False, and the error printed, if a cell fails."""
    start = time.monotonic()
    with tqdm(total=len(notebook.cells), desc=name, unit="cell") as bar:
        client = NotebookClient(
            notebook,
            timeout=7200,
            kernel_name="python3",
            record_timing=False,
            resources={"metadata": {"path": str(NOTEBOOKS)}},
            on_cell_complete=lambda cell, cell_index: bar.update(cell_index + 1 - bar.n),
        )
        try:
            client.execute()
        except CellExecutionError as error:
            print(f"{name} failed:\n" + re.sub(r"\x1b\[[\d;]*m", "", str(error)), file=sys.stderr)
            return False
    notebook.metadata.pop("widgets", None)  # GitHub refuses to show notebooks that carry widget state
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = joined(cell.outputs)
    print(f"{name}: {time.monotonic() - start:.0f} s")
    return True


def joined(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Neighbouring pieces of one stream put together; of a progress bar, only what was last on its line."""
    result = []
    for output in outputs:
        last = result[-1] if result else None
        if last and output.output_type == last.output_type == "stream" and output.name == last.name:
            last.text += output.text
        else:
            result.append(output)
    for output in result:
        if output.output_type == "stream":
            # Of a bar its end, without the time that this machine took: the header says how long it takes.
            output.text = re.sub(r" \[[\d:]+<[^]\n]*\]", "", re.sub(r"[^\n]*\r", "", output.text))
    return result


def write_figures(notebook: NotebookNode) -> None:
    """Write the picture of each cell tagged figure-NAME to figures/NAME.png (or .gif)."""
    for cell in notebook.cells:
        for tag in cell.metadata.get("tags", []):
            if tag.startswith("figure-"):
                pictures = [o.data for o in cell.outputs if o.output_type in ("display_data", "execute_result")]
                data = next(d for d in pictures if "image/gif" in d or "image/png" in d)
                kind = "gif" if "image/gif" in data else "png"
                target = ROOT / "figures" / f"{tag.removeprefix('figure-')}.{kind}"
                target.write_bytes(b64decode(data[f"image/{kind}"]))


def course(rest: list[str]) -> int:
    """Write the site to build/course, from the committed notebooks; with --run, from notebooks that run here first."""
    failed, folder = [], NOTEBOOKS
    if rest == ["--run"]:
        folder = ROOT / "build" / "executed"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for path in sorted(NOTEBOOKS.glob("*.ipynb")):
            notebook = nbformat.read(path, as_version=4)
            if execute(notebook, path.stem):
                nbformat.write(notebook, folder / path.name)
            else:
                failed.append(path.stem)
    status = site(folder, PAGES)
    print(f"Failed, and left out: {', '.join(failed)}" if failed else f"Open {PAGES / 'index.html'}")
    return status or len(failed)


def site(notebooks: Path, pages: Path, *options: str) -> int:
    """Let Sphinx write the site of the notebooks in a folder to `pages`; docs/conf.py says how. Its exit status."""
    gathered = pages.with_name(f"{pages.name}-source")
    for folder in (pages, gathered):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    command = [sys.executable, "-m", "sphinx", "-q", "-c", "docs", "-D", f"notebooks={notebooks}", *options]
    return subprocess.run([*command, "-d", str(gathered / ".doctrees"), str(gathered), str(pages)], cwd=ROOT).returncode


def title_of(notebook: NotebookNode) -> str:
    return notebook.cells[0].source.splitlines()[0].removeprefix("# ")


def summary_of(notebook: NotebookNode) -> str:
    """The header's "You will ..." sentence, as plain text."""
    match = re.search(r"\*\*You will\*\*\s+(.+?)\s+\*\*You need\*\*", notebook.cells[0].source, flags=re.S)
    text = " ".join(match[1].split()) if match else ""
    return text[:1].upper() + text[1:]


def setting() -> str:
    """The one setting: owner/name of the repository on GitHub, or nothing."""
    return re.search(r'^repo = "(.*)"$', (ROOT / "pyproject.toml").read_text(), flags=re.M)[1]


def badges(rest: list[str]) -> int:
    """Set the repository's owner/name and everything that follows from it: set-up cells, Colab links, README."""
    repo = rest[0] if rest else ""
    if repo and not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        print(f"badges: expected owner/name, as in GitHub's address of your fork; got {repo!r}", file=sys.stderr)
        return 2
    edit(ROOT / "pyproject.toml", lambda text: re.sub(r'^repo = ".*"$', f'repo = "{repo}"', text, flags=re.M))
    for source in SOURCES.glob("*.py"):
        edit(source, lambda text, name=source.stem: link_notebook(text, name, repo))
        path = NOTEBOOKS / f"{source.stem}.ipynb"
        notebook, fresh = nbformat.read(path, as_version=4), from_source(source)
        if len(notebook.cells) != len(fresh.cells):
            print(f"badges: {path.name} is older than its source; type `make notebooks` first", file=sys.stderr)
            return 1
        for old, new in zip(notebook.cells, fresh.cells, strict=True):
            old.source = new.source  # outputs stay
        nbformat.write(notebook, path)
    write_readme(repo)
    print(f"badges: the notebooks link to {repo}; commit and push" if repo else "badges: removed, no REPO was given")
    return 0


def link_notebook(text: str, name: str, repo: str) -> str:
    """A notebook source with its set-up cell and the links under its title for this repository."""
    text = re.sub(r'^REPO = ".*?"', f'REPO = "{repo}"', text, flags=re.M)
    text = re.sub(r"^# \[Open in Colab\].*\n#\n", "", text, flags=re.M)
    link = f"# [Open in Colab]({colab(name, repo)}) or [in Kaggle]({kaggle(name, repo)})\n#\n" if repo else ""
    return re.sub(r"^(# # .*\n#\n)", lambda match: match[1] + link, text, count=1, flags=re.M)


def colab(name: str, repo: str) -> str:
    """The copy on the branch `learn`, in which no guess is answered: see `learn`."""
    return f"https://colab.research.google.com/github/{repo}/blob/learn/notebooks/{name}.ipynb"


def kaggle(name: str, repo: str) -> str:
    return f"https://www.kaggle.com/kernels/welcome?src=https://github.com/{repo}/blob/learn/notebooks/{name}.ipynb"


def learn(rest: list[str]) -> int:
    """Write the notebooks for Colab and Kaggle to a folder: no outputs, pictures and links by their full addresses."""
    repo, folder = setting(), Path(*rest or ["build/learn"]) / "notebooks"
    if not repo:
        print("learn: no repository is set; type `make badges REPO=owner/name` first", file=sys.stderr)
        return 2
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        copy = my_notebooks.learners_copy(my_notebooks.read(path), {}, set(), set())
        for cell in copy["cells"]:
            text = my_notebooks.source(cell)
            if cell["cell_type"] == "markdown":
                cell["source"] = absolute(text, repo)
            elif "setup" in cell["metadata"].get("tags", []):
                cell["source"] = f"# @title Set-up\n{text}"  # Colab folds it, as a form
                cell["metadata"]["cellView"] = "form"
        my_notebooks.write(folder / path.name, copy)
    return 0


def absolute(text: str, repo: str) -> str:
    """Text of a notebook that can be read far from the checkout."""
    text = re.sub(r"(!\[[^]]*\]\()\.\./", rf"\g<1>https://raw.githubusercontent.com/{repo}/main/", text)
    text = re.sub(r"(\]\()\.\./", rf"\g<1>https://github.com/{repo}/blob/main/", text)
    return re.sub(r"(\]\()(\d\d_\w+)\.ipynb", lambda match: match[1] + colab(match[2], repo), text)


def readme(_: list[str]) -> int:
    """Fill the generated parts of README.md and docs/RESULTS.md anew."""
    write_readme(setting())
    return 0


def write_readme(repo: str) -> None:
    """Fill the generated parts of README.md and docs/RESULTS.md."""
    heads = ["", "notebook", "you will", "time", "memory", *(["Colab"] if repo else [])]
    rows = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for source in sorted(SOURCES.glob("*.py")):
        notebook, name = from_source(source), source.stem
        run = measured("notebooks")["notebooks"].get(name[:2], {})
        seconds, memory = run.get("full", {}).get("seconds"), run.get("quick", {}).get("gigabytes")
        cells = [name[:2], f"[{title_of(notebook)}](notebooks/{name}.ipynb)", summary_of(notebook)]
        cells += [in_words(seconds) if seconds else "", f"{memory} GB" if memory else ""]
        rows.append(f"| {' | '.join(cells + [f'[open]({colab(name, repo)})'] * bool(repo))} |")
    address = f"https://github.com/{repo}" if repo else "ADDRESS-OF-THIS-REPOSITORY"
    clone = f"```\ngit clone {address} ddpm-course\ncd ddpm-course\n```"
    parts = {"notebooks": "\n".join(rows), "clone": clone, "facts": facts()}
    results = {name: table() for name, table in tables.TABLES.items()}
    for page, texts in ((ROOT / "README.md", parts), (ROOT / "docs" / "RESULTS.md", results)):
        for name, text in texts.items():
            edit(page, lambda old, name=name, text=text: fill(old, name, text))


def facts() -> str:
    """What the course holds, counted."""
    texts = [source.read_text(encoding="utf-8") for source in SOURCES.glob("*.py")]
    equations = sum(len(re.findall(r"\\tag\{", text)) for text in texts)
    mistakes = sum(len(exercise.wrong) for exercise in EXERCISES.values())
    speed = measured("speed")
    fifty = next(seconds for name, seconds in speed["sampling"].items() if "50 DDIM" in name)
    return "\n".join(
        [
            f"- **{equations} numbered equations, each run** in the cell below it, mostly where all is exact.",
            f"- **{len(EXERCISES)} exercises that mark themselves** and know {mistakes} typical mistakes by name.",
            f"- **Light**: 64 digits take {fifty:.1f} s ({speed['device']}); a run that is killed goes on, to the bit.",
        ]
    )


def edit(path: Path, change) -> None:
    path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    command, *rest = sys.argv[1:]
    sys.exit(
        {"notebooks": notebooks, "course": course, "badges": badges, "learn": learn, "readme": readme}[command](rest)
    )
