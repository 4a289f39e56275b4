"""The learner's own notebooks: copies of the course's, made once, without outputs, never overwritten.

Called by `tools/course.py lab`; uses nothing but Python. A copy is not paired with a source, so whatever edits it
(JupyterLab, VS Code, a copy of the folder, an LMS) nothing in it can be lost.
"""

import ast
import datetime
import hashlib
import json
import os
import re
import shutil
import sys
from pathlib import Path

MADE_FROM = ".made-from.json"  # copy's name -> fingerprint of the course's notebook that it was made from


def prepare(root: Path, renew: str = "", older: str = "") -> Path:
    """Make the copies that are missing; set aside and make anew what `renew` names ("07", "07 08", "all").

    Answers are carried over by function name: from the learner's notebooks, and from those in the folder `older`.
    Returns the folder of the copies: `root`/my_notebooks, or one in the home folder where `root` is read-only.
    """
    folder = writable_folder(root)
    course = {path.name: read(path) for path in sorted((root / "notebooks").glob("*.ipynb")) if has_source(path)}
    skeletons = {name: exercise for notebook in course.values() for name, exercise in exercises(notebook).items()}
    record = folder / MADE_FROM
    made_from = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
    wanted = {name for name in course if renew == "all" or name[:2] in renew.split()}
    missing = {name for name in course if not (folder / name).exists()}
    if unknown := set(renew.replace("all", "").split()) - {name[:2] for name in course}:
        sys.exit(f"There is no notebook {', '.join(sorted(unknown))}; NEW takes numbers such as 07, or all.")
    if older and not Path(older).expanduser().is_dir():
        sys.exit(f"FROM={older}: there is no such folder")
    places = [root / "notebooks", *([Path(older).expanduser()] if older else []), folder]
    answers = find_answers([path for place in places for path in by_time(place)], skeletons) if wanted | missing else {}
    for name in sorted(wanted - missing):
        print(f"{name} is set aside as {set_aside(folder / name).name}")
    carried, refused = set(), set()
    for name in sorted(wanted | missing):
        write(folder / name, learners_copy(course[name], answers, carried, refused))
        made_from[name] = fingerprint(course[name])
    write(record, made_from)
    if (rules := root / "notebooks" / "AGENTS.md").is_file():  # what an assistant may do for a learner
        shutil.copy(rules, folder)
    if carried:
        print(f"Carried over: your answers to {', '.join(sorted(carried))}")
    if refused:
        print(f"Not carried over, since their arguments are other ones now: {', '.join(sorted(refused))}")
    for name in sorted(course.keys() - wanted - missing):
        if made_from.get(name) != fingerprint(course[name]):
            print(f"{name} of the course has changed since your copy was made. make lab NEW={name[:2]} sets your copy")
            print("aside and makes a new one, with your answers in it; until then yours stays as it is.")
    return folder


def writable_folder(root: Path) -> Path:
    """my_notebooks in the checkout; where that cannot be, in the home folder, with the figures beside it."""
    folder = root / "my_notebooks"
    try:
        folder.mkdir(exist_ok=True)
        (folder / ".writable").touch()
        (folder / ".writable").unlink()
    except OSError:
        folder = Path("~/ddpm-course/my_notebooks").expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copytree(root / "figures", folder.parent / "figures", dirs_exist_ok=True)
        print(f"The course's folder cannot be written to: your notebooks are in {folder}")
    return folder


def has_source(path: Path) -> bool:
    """A notebook of the course, and not one that somebody left beside them."""
    return (path.parent / "src" / f"{path.stem}.py").is_file()


def by_time(folder: Path) -> list[Path]:
    """The notebooks in a folder and below it, the last changed one last: its answers count."""
    found = [path for path in folder.rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts]
    return sorted(found, key=lambda path: path.stat().st_mtime)


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def write(path: Path, content: dict) -> None:
    """Beside it first: a kill half-way leaves the older file."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def set_aside(path: Path) -> Path:
    """Rename a copy; its new name has the date, and a number if there is one of today."""
    name = f"{path.stem}.{datetime.date.today()}"
    number = next(n for n in range(1, 10_000) if not path.with_name(numbered(name, n)).exists())
    return path.rename(path.with_name(numbered(name, number)))


def numbered(name: str, number: int) -> str:
    return f"{name}{'' if number == 1 else f'-{number}'}.ipynb"


def source(cell: dict) -> str:
    return "".join(cell["source"])


def fingerprint(notebook: dict) -> str:
    """Changes with the text and code of a notebook, and not with its outputs."""
    cells = [(cell["cell_type"], source(cell)) for cell in notebook["cells"]]
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()


def functions(text: str) -> dict[str, tuple[list[str], str]]:
    """name -> (arguments, what it computes) of the functions that a cell defines; of broken code, as far as it goes."""
    plain = re.sub(r"(?m)^\s*[!%].*$", "", text)
    try:
        tree = ast.parse(plain)
    except SyntaxError:  # an answer under way is an answer, too
        return {
            name: ([part.split(":")[0].split("=")[0].strip() for part in arguments.split(",")], text)
            for name, arguments in re.findall(r"(?m)^def (\w+)\(([^)]*)\)", text)
        }
    return {
        node.name: ([argument.arg for argument in node.args.args], ast.dump(node))
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
    }


def exercises(notebook: dict) -> dict[str, tuple[list[str], str]]:
    """The skeletons of a notebook: name -> as `functions`."""
    cells = [cell for cell in notebook["cells"] if "exercise" in cell["metadata"].get("tags", [])]
    return {name: function for cell in cells for name, function in functions(source(cell)).items()}


def find_answers(paths: list[Path], skeletons: dict) -> dict[str, str]:
    """Function name -> the cell that defines it, of each exercise for which there is more than the skeleton."""
    found = {}
    for path in paths:
        try:
            cells = read(path)["cells"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            print(f"{path.name} cannot be read as a notebook, and stays as it is ({error})")
            continue
        for cell in cells:
            if cell.get("cell_type") == "code":
                for name, (_, body) in functions(source(cell)).items():
                    if name in skeletons and body != skeletons[name][1]:
                        found[name] = source(cell)
    return found


def learners_copy(notebook: dict, answers: dict[str, str], carried: set[str], refused: set[str]) -> dict:
    """A notebook without outputs; the answers whose arguments fit are `carried` over, the others `refused`."""
    version = ".".join(map(str, sys.version_info[:3]))
    language = {  # what a kernel says of itself: without it JupyterLab would change the file on opening
        "codemirror_mode": {"name": "ipython", "version": 3},
        "file_extension": ".py",
        "mimetype": "text/x-python",
        "name": "python",
        "nbconvert_exporter": "python",
        "pygments_lexer": "ipython3",
        "version": version,
    }
    kernel = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    copy = {**notebook, "metadata": {"kernelspec": kernel, "language_info": language}, "cells": []}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell = {**cell, "outputs": [], "execution_count": None}
            for name, (arguments, _) in exercises({"cells": [cell]}).items():
                if name not in answers:
                    continue
                fits = functions(answers[name])[name][0][: len(arguments)] == arguments
                (carried if fits else refused).add(name)
                if fits:
                    check = "" if f"check({name})" in answers[name] else f"\n\n\n{name} = check({name})"
                    cell["source"] = (answers[name] + check).splitlines(keepends=True)
        copy["cells"].append(cell)
    return copy
