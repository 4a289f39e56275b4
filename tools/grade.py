"""Mark the exercises in learners' notebooks: python grade.py FOLDER --csv marks.csv

FOLDER holds a subfolder or a notebook for each learner, called as the learner. Each notebook runs in a process of
its own (grade_worker.py), within limits of time and memory. First only the set-up cell and the cells with exercises
run; where an answer then misses a name, all cells up to the last exercise run. A cell that runs too long or ends the
process is left out, and the rest starts again.

The limits are against accidents. They are no protection from a learner who sets out to deceive or to harm: answers
run with the rights of whoever grades, and are marked in the process in which they run.
"""

import argparse
import ast
import csv
import difflib
import hashlib
import json
import os
import queue
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from grade_worker import OUT_OF_MEMORY

import ddpm_helpers
from ddpm_helpers.exercises import EXERCISES, solution

PACKAGE = Path(ddpm_helpers.__file__).resolve().parent
STARTS = 5  # how often a notebook is started; each start leaves out one cell more
START_SECONDS = 120  # to import PyTorch, on a slow disk
INTERRUPTED = 130  # what shells say of a command that Ctrl-C ended
BEST_FIRST = ("right", "wrong", "not run", "not tried")
COLUMNS = ("learner", "right", "of", "files", "problem", "same as", "checksum")
NOT_YET, NOTHING = "not marked yet", "handed in nothing"
stopping = threading.Event()  # set by Ctrl-C: the threads that mark give up


@dataclass(frozen=True)
class Mark:
    """One exercise of one learner; `kind` is one of BEST_FIRST."""

    kind: str
    reason: str = ""  # which mistake, or why it could not be run

    def __str__(self) -> str:
        return f"{self.kind}: {self.reason}" if self.reason else self.kind


@dataclass
class Cell:
    """A code cell; `names` are the exercises that it defines."""

    source: str
    names: list[str]
    setup: bool
    run: bool = True


@dataclass
class Notebook:
    """One file, read before any other learner's code runs; `asked` are the exercises that it should have."""

    file: str
    cells: list[Cell] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    problem: str = ""  # why there are no marks
    marks: dict[str, Mark] = field(default_factory=dict)
    done: bool = False


@dataclass
class Learner:
    """One row of the table."""

    name: str
    notebooks: list[Notebook] = field(default_factory=list)
    checksum: str = ""  # of the notebooks, the course and the limits
    same: str = ""  # whose answers are the same

    @property
    def marks(self) -> dict[str, Mark]:
        """The best mark of each exercise, in the course's order."""
        found = [item for notebook in self.notebooks for item in notebook.marks.items()]
        best = dict(sorted(found, key=lambda item: -BEST_FIRST.index(item[1].kind)))
        return {name: best[name] for name in EXERCISES if name in best}

    @property
    def problem(self) -> str:
        if not self.notebooks:
            return NOTHING
        several = len(self.notebooks) > 1
        problems = [(book.file, book.problem or NOT_YET * (not book.done)) for book in self.notebooks]
        return "; ".join(f"{file}: {text}" if several else text for file, text in problems if text)


# -------------------------------------------------------------------------------------------- what was handed in


def read_class(paths: list[Path], roster: list[str], limits: tuple[float, float]) -> list[Learner]:
    """All notebooks of all learners; those of the roster who handed in nothing come last.

    Raises:
        ValueError: if a path is neither a folder with notebooks nor a notebook.
    """
    homes: dict[Path, str] = {}  # a learner's folder, or file -> name
    files: dict[Path, Path] = {}  # file -> home
    for path in paths:
        found = [file for file in files_below(path) if is_notebook(file)] if path.is_dir() else [path]
        if path.is_dir() and not found:
            raise ValueError(f"{path}: no .ipynb file in this folder")
        if not path.is_dir() and not (is_notebook(path) and path.is_file()):
            raise ValueError(f"{path}: neither a folder nor an .ipynb file")
        for file in found:
            parts = file.relative_to(path).parts if path.is_dir() else ()
            home = path.resolve() / parts[0] if len(parts) > 1 else file.resolve()
            homes.setdefault(home, home.stem if home == file.resolve() else home.name)
            files.setdefault(file.resolve(), home)
    for depth in range(1, max(len(home.parts) for home in homes)):
        often = Counter(homes.values())
        for home, name in homes.items():
            if often[name] > 1:
                homes[home] = "/".join([*home.parent.parts[-depth:], home.stem if is_notebook(home) else home.name])
    learners: dict[str, Learner] = {}
    checksums = defaultdict(lambda: hashlib.sha256(f"{course_checksum()} {limits}".encode()))
    for file, home in files.items():
        name = on_roster(shown(homes[home]), roster)
        notebook, content = read_notebook(file, shown(file.relative_to(home).as_posix() if home != file else file.name))
        learners.setdefault(name, Learner(name)).notebooks.append(notebook)
        checksums[name].update(hashlib.sha256(content).digest())
        learners[name].checksum = checksums[name].hexdigest()[:16]
    return [*learners.values(), *(Learner(name) for name in roster if name not in learners)]


def files_below(folder: Path) -> Iterator[Path]:
    """All files but hidden ones, in order."""
    for place, folders, names in os.walk(folder, onerror=lambda e: say(f"{e.filename}: {e.strerror}", sys.stderr)):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place, name) for name in sorted(names) if not name.startswith("."))


def is_notebook(path: Path) -> bool:
    return path.suffix.lower() == ".ipynb"


def shown(name: str) -> str:
    r"""A Mac may take letters apart, u and its dots; what is not UTF-8 becomes \udcfc and can be written anywhere."""
    return unicodedata.normalize("NFC", name).encode("utf-8", "backslashreplace").decode()


def read_roster(path: Path) -> list[str]:
    """One name a line."""
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("cp1252", "replace")
    return list(dict.fromkeys(shown(line.strip()) for line in text.splitlines() if line.strip()))


def on_roster(name: str, roster: list[str]) -> str:
    """The name on the roster with which this one begins: an LMS appends numbers, and learners that of the notebook."""
    fits = [one for one in roster if re.match(re.escape(one) + r"(?![^\W\d_])", name, re.IGNORECASE)]
    return max(fits, key=len, default=name)


def course_checksum() -> str:
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def read_notebook(path: Path, file: str) -> tuple[Notebook, bytes]:
    """A notebook, and its bytes; nothing in it makes this raise."""
    content = b""
    try:
        content = path.read_bytes()
        cells, tags = cells_of(content)
    except OSError as error:
        return Notebook(file, problem=f"the file cannot be read ({error.strerror})", done=True), content
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return Notebook(file, problem="the file is damaged, or not a notebook", done=True), content
    asked = exercises_of(cells, tags)
    if not asked:
        return Notebook(file, problem="no exercise of this course is in it", done=True), content
    for cell in cells:  # a helper that is called like another notebook's exercise is the learner's own business
        cell.names = [name for name in cell.names if name in asked]
    return Notebook(file, cells, asked), content


def cells_of(content: bytes) -> tuple[list[Cell], list[str]]:
    """The code cells of a notebook, and the tags ("2.1") in its exercises' headings."""
    code, tags = [], []
    for cell in json.loads(content)["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code":
            names = [name for name in dict.fromkeys(functions(source)) if name in EXERCISES]
            code.append(Cell(source, names, "setup" in cell.get("metadata", {}).get("tags", [])))
        elif cell["cell_type"] == "markdown":
            tags += re.findall(r"^#+ Exercise (\d+\.\d+)", source, flags=re.M)
    return code, tags


def functions(source: str) -> list[str]:
    return re.findall(r"^def\s+(\w+)", source, flags=re.M)


def exercises_of(cells: list[Cell], tags: list[str]) -> list[str]:
    """All exercises of the course's notebook from which most of the headings and functions in this one come.

    The file's name says nothing: learners rename files.
    """
    tags = tags + [EXERCISES[name].tag for cell in cells for name in cell.names]
    known = {exercise.tag for exercise in EXERCISES.values()}
    numbers = Counter(tag.split(".")[0] for tag in tags if tag in known)
    if not numbers:
        return []
    [(number, _)] = numbers.most_common(1)
    return [name for name, exercise in EXERCISES.items() if exercise.tag.split(".")[0] == number]


# ------------------------------------------------------------------------------------------------------- marking


def grade(notebook: Notebook, seconds: float = 60, gigabytes: float = 4) -> dict[str, Mark]:
    """The marks of one notebook. No cell, and no marking of an answer, may take longer than `seconds`."""
    last = max((place for place, cell in enumerate(notebook.cells) if cell.names), default=-1)
    cells = notebook.cells[: last + 1]
    marks = run([cell for cell in cells if cell.setup or cell.names], seconds, gigabytes)
    if any("NameError" in mark.reason for mark in marks.values()):
        whole = run(cells, seconds, gigabytes)
        marks |= {name: whole[name] for name, mark in marks.items() if "NameError" in mark.reason}
    return {name: marks.get(name) or missing(name, notebook) for name in notebook.asked}


def missing(name: str, notebook: Notebook) -> Mark:
    sources = [cell.source for cell in notebook.cells]
    if any(re.search(rf"^{name}\b[^=\n]*=\s*lambda\b", source, flags=re.M) for source in sources):
        return Mark("not run", f"{name} is a lambda: it has no name to mark it by; write it as `def {name}(...):`")
    others = {other for source in sources for other in functions(source)} - set(notebook.asked)
    near = difflib.get_close_matches(name, sorted(others), n=1)
    hint = f"; was it renamed to {near[0]}?" if near else ""
    return Mark("not run", f"no cell defines a function {name}{hint}")


def run(cells: list[Cell], seconds: float, gigabytes: float) -> dict[str, Mark]:
    """The marks of all exercises that these cells define."""
    marks: dict[str, Mark] = {}
    for _ in range(STARTS):
        culprit, reason = run_once(cells, marks, seconds, gigabytes)
        if reason is None:
            return marks
        if culprit is None:
            break
        cells[culprit].run = False
        for name in cells[culprit].names:
            better(marks, name, Mark("not run", reason))
    for cell in cells:
        for name in cell.names:
            marks.setdefault(name, Mark("not run", f"the notebook had to be stopped; the last time: {reason}"))
    return marks


def better(marks: dict[str, Mark], name: str, mark: Mark) -> None:
    """The last cell that defines a function counts, but a skeleton takes nothing from an answer elsewhere."""
    if name not in marks or mark.kind != "not tried":
        marks[name] = mark


def run_once(
    cells: list[Cell], marks: dict[str, Mark], seconds: float, gigabytes: float
) -> tuple[int | None, str | None]:
    """Run the cells in a process and add to `marks`; the place of the cell that ended it, and why. None: it did not."""
    steps: list[tuple[int | None, str]] = [(None, "")]
    for place, cell in enumerate(cells):
        steps += [(place, name) for name in ["", *cell.names]] if cell.run else []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        process, reports = start(cells, gigabytes, folder)
        try:
            for number, (place, name) in enumerate(steps):
                doing = "the start" if place is None else f"a call of {name}" if name else "its cell"
                report = next_report(process, reports, number, START_SECONDS if place is None else seconds)
                if report is None:
                    break
                if name:
                    kind = report.get("kind")
                    better(marks, name, Mark(kind if kind in BEST_FIRST else "not run", str(report.get("reason", ""))))
            else:
                return None, None
            status = process.wait()
        except TimeoutError:
            return place, f"{doing} ran longer than {seconds:g} s"
        finally:
            kill(process)
    if status == OUT_OF_MEMORY:
        return place, f"{doing} took more than {gigabytes:g} GB of memory"
    with suppress(ValueError):  # not a signal
        return place, f"{doing} ended the process ({signal.Signals(-status if status < 0 else status - 128).name})"
    return place, f"{doing} ended the process (exit status {status})"


def start(cells: list[Cell], gigabytes: float, folder: str) -> tuple[subprocess.Popen, queue.Queue]:
    """A worker in an empty folder of its own, and what it reports."""
    environment = {
        **{name: value for name, value in os.environ.items() if name != "DDPM_STRICT"},
        "DDPM_BUDGET": "quick",
        "DDPM_DATA": data_folder(),
        "IPYTHONDIR": folder,
        "MPLBACKEND": "agg",
        "CUDA_VISIBLE_DEVICES": "",  # marks are the same everywhere
        "PYTHONPATH": os.pathsep.join(filter(None, [str(PACKAGE.parent), os.environ.get("PYTHONPATH")])),
    }
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).resolve().with_name("grade_worker.py")), f"{gigabytes}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=folder,
        env=environment,
        start_new_session=True,  # so that whatever it starts can be ended with it, and Ctrl-C is ours alone
    )
    token = secrets.token_hex(8)
    with suppress(OSError), process.stdin as stdin:
        stdin.write(json.dumps({"token": token, "cells": [vars(cell) for cell in cells]}).encode())
    reports: queue.Queue[dict] = queue.Queue()
    threading.Thread(target=listen, args=(process.stdout, token.encode(), reports), daemon=True).start()
    return process, reports


def data_folder() -> str:
    """Absolute, for the worker runs elsewhere; empty means none."""
    chosen = os.environ.get("DDPM_DATA") or ("data" if os.path.isdir("data") else "")
    return os.path.abspath(os.path.expanduser(chosen)) if chosen else ""


def listen(output, token: bytes, reports: queue.Queue) -> None:
    """Pass on the worker's reports. Whatever else a learner's code writes to the pipe does not count, even as life."""
    with output:
        while line := output.readline(1_000_000):
            with suppress(ValueError, RecursionError):
                report = json.loads(line.removeprefix(token)) if line.startswith(token) else None
                if isinstance(report, dict):
                    reports.put(report)


def next_report(process: subprocess.Popen, reports: queue.Queue, number: int, seconds: float) -> dict | None:
    """The worker's report on its step `number`; None if it ended before.

    Raises:
        TimeoutError: if it takes longer than `seconds`.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if stopping.is_set():
            raise KeyboardInterrupt
        # The pipe alone does not tell: a process that the learner's code has started may keep it open.
        ended = process.poll() is not None
        try:
            report = reports.get(timeout=1 if ended else 0.1)  # its last words may be on their way
        except queue.Empty:
            if ended:
                return None
            continue
        if report.get("step") == number:
            return report
    raise TimeoutError


def kill(process: subprocess.Popen) -> None:
    """End the worker and all that it has started."""
    if os.name == "nt":
        subprocess.run(["taskkill", "/F", "/T", "/PID", str(process.pid)], capture_output=True, check=False)
    if sys.platform == "linux":
        process.terminate()  # it ends the others first; see grade_worker.keep
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
    if os.name == "posix":
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


# ---------------------------------------------------------------------------------------------- what is made of it


def note_same_answers(learners: list[Learner]) -> None:
    """Answers that differ in nothing but blanks and comments; those of a single line are the same by nature."""
    who: dict[tuple[str, str], list[str]] = defaultdict(list)
    for learner in learners:
        for book in learner.notebooks:
            for name in book.asked:
                texts = [shape(cell.source, name) for cell in book.cells if name in cell.names]
                if learner.marks.get(name, Mark("not tried")).kind != "not tried" and any(texts):
                    who[name, [text for text in texts if text][-1]].append(learner.name)
    same = defaultdict(list)
    for (name, text), names in who.items():
        course = ["the course's own"] if text == shape(solution(EXERCISES[name]), name) else []
        for one in dict.fromkeys(names):
            others = course + [other for other in dict.fromkeys(names) if other != one]
            more = f" and {len(others) - 4} more" if len(others) > 4 else ""
            if others:
                same[one].append(f"{EXERCISES[name].tag} {', '.join(others[:4])}{more}")
    for learner in learners:
        learner.same = "; ".join(same[learner.name])


def shape(source: str, name: str) -> str:
    """A function as Python reads it; empty if it is not there, or has one line only."""
    found = re.search(rf"^def\s+{name}\b.*?(?=^[^\s)]|\Z)", source, flags=re.M | re.S)
    try:
        function = ast.parse(found[0]).body[0]
    except (TypeError, SyntaxError, ValueError, RecursionError, MemoryError):
        return ""
    body = function.body[ast.get_docstring(function) is not None :]
    return "\n".join(map(ast.dump, [function.args, *body])) if len(body) > 1 else ""


def table(learners: list[Learner]) -> list[list[str]]:
    """One row a learner, one column an exercise, with a header."""
    names = columns(learners)
    rows = [[*COLUMNS[:3], *(f"{EXERCISES[name].tag} {name}" for name in names), *COLUMNS[3:]]]
    for one in learners:
        right = sum(mark.kind == "right" for mark in one.marks.values())
        files = ", ".join(book.file for book in one.notebooks)
        checksum = one.checksum if all(book.done for book in one.notebooks) else ""
        marks = [one.marks.get(name, "") for name in names]
        row = [one.name, right, len(one.marks), *marks, files, one.problem, one.same, checksum]
        rows.append([escaped(str(cell)) for cell in row])
    return rows


def columns(learners: list[Learner]) -> list[str]:
    """The exercises that occur, in the course's order."""
    return [name for name in EXERCISES if any(name in learner.marks for learner in learners)]


def escaped(cell: str) -> str:
    """A spreadsheet would compute what begins like a formula."""
    return f"'{cell}" if cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell


def write_csv(learners: list[Learner], path: Path) -> None:
    """As spreadsheets read it (they tell UTF-8 by its mark), and whole or not at all."""
    part = path.with_name(f"{path.name}.part")
    with open(part, "w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file).writerows(table(learners))
    os.replace(part, path)


def use_again(learners: list[Learner], path: Path) -> int:
    """Take the marks of unchanged learners from the table of an earlier run; how many.

    Raises:
        ValueError: if the file is not such a table.
    """
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = list(csv.reader(file))
    header = rows[0] if rows else list(COLUMNS)
    if not set(COLUMNS) <= set(header) or not all(one in COLUMNS or one[:1].isdigit() for one in header):
        raise ValueError(f"{path}: the file is there, and was not written by this grader, or was changed since")
    old = {row[0]: dict(zip(header, row, strict=False)) for row in rows[1:] if row}
    count = 0
    for learner in learners:
        row = old.get(escaped(learner.name), {})
        cells = {name: row.get(f"{exercise.tag} {name}", "") for name, exercise in EXERCISES.items()}
        marks = {name: Mark(*cell.split(": ", 1)) for name, cell in cells.items() if cell}
        known = all(mark.kind in BEST_FIRST for mark in marks.values())
        if learner.checksum and row.get("checksum") == learner.checksum and known:
            count += 1
            for book in learner.notebooks:
                book.marks = {name: marks[name] for name in book.asked if name in marks}
                book.done = True
    return count


def write_feedback(learners: list[Learner], folder: Path) -> None:
    """One text a learner, to hand back."""
    taken: set[str] = set()
    for learner in learners:
        if not all(book.done for book in learner.notebooks) or not learner.notebooks:
            continue
        name = re.sub(r'[<>:"/\\|?*\x00-\x1f]', "_", learner.name)
        while name.casefold() in taken:
            name += "_"
        taken.add(name.casefold())
        marks = [f"{EXERCISES[name].tag} {name}: {mark}" for name, mark in learner.marks.items()]
        right = sum(mark.kind == "right" for mark in learner.marks.values())
        problem = [learner.problem] if learner.problem else []
        text = "\n\n".join([learner.name, *problem, *marks, f"{right} of {len(marks)} right."])
        (folder / f"{name}.txt").write_text(text + "\n", encoding="utf-8")


def summary(learners: list[Learner]) -> str:
    """A table of learners and exercises, then what went wrong, the most frequent first."""
    names = columns(learners)
    width = max(len(learner.name) for learner in learners)
    text = ["  ".join([" " * width, *(f"{EXERCISES[name].tag:9}" for name in names)]).rstrip()]
    for one in learners:
        cells = [f"{one.marks[name].kind if name in one.marks else '':9}" for name in names] if one.marks else []
        text.append("  ".join([f"{one.name:{width}}", *cells, *filter(None, [one.problem])]).rstrip())
    for name in names:
        marks = [learner.marks[name] for learner in learners if name in learner.marks]
        right = sum(mark.kind == "right" for mark in marks)
        text.append(f"\n{EXERCISES[name].tag} {name}: {right} of {len(marks)} right")
        reasons = Counter(str(mark) for mark in marks if mark.kind != "right")
        text += [f"  {count} x {reason}" for reason, count in reasons.most_common()]
    same = [f"  {learner.name}: {learner.same}" for learner in learners if learner.same]
    return "\n".join([*text, *(["\nThe same, but for blanks and comments:", *same] if same else [])])


def say(text: str, stream) -> None:
    """Print, whatever has become of the terminal: nobody's marks are lost because nobody reads."""
    try:
        print(text, file=stream, flush=True)
    except (OSError, ValueError):
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def end_like_ctrl_c() -> None:
    """SIGTERM, and SIGHUP when the terminal goes, as Ctrl-C; the second of them no longer disturbs the saving."""
    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]

    def interrupt(*_) -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in numbers:
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup sets it
            signal.signal(number, interrupt)


def options_of(arguments: list[str] | None) -> tuple[argparse.Namespace, list[Learner]]:
    """What was asked for, and the class; all that can be wrong with either is found here, before anything runs."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("files", nargs="+", type=Path, help="notebooks, or folders with notebooks")
    parser.add_argument("--csv", type=Path, help="the table; learners unchanged since are not run again")
    parser.add_argument("--roster", type=Path, help="one name a line: who handed in nothing is listed, too")
    parser.add_argument("--feedback", type=Path, metavar="FOLDER", help="write a text for each learner there")
    parser.add_argument("-j", "--jobs", type=int, default=1, help="how many notebooks at once; the default is 1")
    parser.add_argument("--again", action="store_true", help="run unchanged learners, too")
    parser.add_argument("--seconds", type=float, default=60, help="what a cell may take; the default is 60")
    parser.add_argument("--memory", type=float, default=4, metavar="GB", help="what a notebook may take; default: 4")
    options = parser.parse_args(arguments)
    try:
        roster = read_roster(options.roster) if options.roster else []
        learners = read_class(options.files, roster, (options.seconds, options.memory))
        if options.csv and options.csv.exists():
            count = use_again([] if options.again else learners, options.csv)
            say(f"{count} of {len(learners)} learners are unchanged since {options.csv} was written", sys.stderr)
        if options.feedback:
            options.feedback.mkdir(parents=True, exist_ok=True)
        save(learners, options)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    return options, learners


def save(learners: list[Learner], options: argparse.Namespace) -> None:
    if options.csv:
        write_csv(learners, options.csv)
    if options.feedback:
        write_feedback(learners, options.feedback)


def notes(learners: list[Learner], options: argparse.Namespace) -> Iterator[str]:
    """What an instructor may want to look at before the marks."""
    folders = [path for path in options.files if path.is_dir()]
    others = [file.relative_to(path) for path in folders for file in files_below(path) if not is_notebook(file)]
    if others:
        names = [shown(file.as_posix()) for file in others[:9]]
        yield f"Passed over, no notebooks: {', '.join(names)}{' ...' * (len(others) > 9)}"
    for learner in learners:
        asked = [name for book in learner.notebooks for name in book.asked]
        if len(asked) > len(set(asked)):
            yield f"{learner.name} has several files with the same exercises; the best mark of each counts."
    if options.roster:
        roster = read_roster(options.roster)
        if strange := [learner.name for learner in learners if learner.name not in roster]:
            yield f"Not on the roster: {', '.join(strange)}"
    if sys.platform != "linux":
        yield "This system cannot limit the memory of a process; the time limit holds."


def main(arguments: list[str] | None = None) -> int:
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")
    options, learners = options_of(arguments)
    for note in notes(learners, options):
        say(note, sys.stderr)
    books = [book for learner in learners for book in learner.notebooks]
    interrupted = False
    pool = ThreadPoolExecutor(max(1, options.jobs))
    try:
        end_like_ctrl_c()
        waiting = {pool.submit(mark, book, options) for book in books if not book.done}
        while waiting:
            done, waiting = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
            if done:
                say(f"{sum(book.done for book in books)} of {len(books)} notebooks are marked", sys.stderr)
                with suppress(OSError):  # as long as a spreadsheet has it open; the last time it counts
                    save(learners, options)
    except KeyboardInterrupt:
        interrupted = True
        say(f"Stopped: {sum(book.done for book in books)} of {len(books)} notebooks are marked.", sys.stderr)
    finally:
        stopping.set()
        pool.shutdown(cancel_futures=True)
        stopping.clear()
    note_same_answers(learners)
    say(summary(learners), sys.stdout)
    try:
        save(learners, options)
    except OSError as error:
        say(f"The marks cannot be written: {error}", sys.stderr)
        return 1
    return INTERRUPTED if interrupted else 0


def mark(book: Notebook, options: argparse.Namespace) -> None:
    try:
        book.marks, book.done = grade(book, options.seconds, options.memory), True
    except OSError as error:  # no process, or no folder to run it in
        book.problem = f"it could not be run ({error})"


if __name__ == "__main__":
    sys.exit(main())
