"""The course's commands, the same on Linux, macOS and Windows; needs Python 3.10 or newer and nothing else.

    python tools/course.py lab                     JupyterLab, opened on your own copy of notebook 00
    python tools/course.py lab --new 07            the same, with a new copy of 07 and your answers in it
    python tools/course.py lab --from FOLDER       the same, with answers from an older course
    python tools/course.py edit                    for authors: JupyterLab on notebooks/, each paired with its source
    python tools/course.py test                    ruff, unit tests, every notebook under nbval, network off
    python tools/course.py course                  the site, to build/course; --run runs every notebook here first
    python tools/course.py play                    a page in which a network draws, to build/play
    python tools/course.py notebooks [01 ...]      rebuild the committed notebooks from notebooks/src
    python tools/course.py badges owner/name       Colab links and clone address for your fork ("" removes them)
    python tools/course.py grade FOLDER [...]      mark learners' notebooks: see docs/INSTRUCTORS.md
    python tools/course.py lab-kit [DATA-FOLDER]   what an instructor needs, to build/lab-kit.zip
    python tools/course.py readme                  the tables of README.md and docs/RESULTS.md

Each sets up .venv first, once; with --current-env the packages of the running Python (conda, say) are used. What takes
hours is in tools/long_runs.py.
"""

import sys

if sys.version_info < (3, 10):  # noqa: UP036 - older Pythons do read this line, and the rest as far as its grammar
    sys.exit(
        "The course needs Python 3.10 or newer; this is " + sys.version.split()[0] + " (" + sys.executable + "). "
        "If you have a newer one, name it: make lab PYTHON=python3.12, or python3.12 tools/course.py lab"
    )

import argparse
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import my_notebooks

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
NOTEBOOKS = ROOT / "notebooks"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"  # PyTorch's packages without CUDA
PATIENCE = 5  # seconds for that index to answer
DRIVER = Path("/proc/driver/nvidia/version")
# Two processes of one thread each do more than one of two; the tests of a file, or cells of a notebook, stay together.
TWO = ("-n", "2", "--dist", "loadfile")
SANITIZE = f"--nbval-sanitize-with={ROOT / 'tests' / 'sanitize.cfg'}"
NBVAL = ("--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout=600", SANITIZE)


def set_up() -> str:
    """Make .venv and install the course in it, unless that was done for this pyproject.toml and TORCH; its Python."""
    python = python_of(VENV)
    stamp = VENV / "installed-for"
    # Not the tools' tables: they install nothing. The folder counts: a moved checkout must be installed anew.
    needed = (ROOT / "pyproject.toml").read_bytes().partition(b"[tool.")[0]
    wanted = hashlib.sha256(needed + str(ROOT).encode()).hexdigest()
    asked = torch_choice()
    found, _, chosen = stamp.read_text().partition(" ") if stamp.is_file() else ("", "", "")
    if found == wanted and asked in ("", chosen) and starts(python):
        return str(python)
    with only_one(VENV.with_name(".venv-setup")):
        print("Setting up .venv (once; PyTorch is large, so this takes a few minutes) ...", flush=True)
        make_environment(VENV, *last_green())
        stamp.write_text(f"{wanted} {asked}")
    return str(python)


def last_green() -> tuple[str, ...]:
    """pip's options for the versions of the last green run, if they are those of this Python on this system."""
    file = ROOT / "constraints.txt"
    same = file.is_file() and "Python {}.{} on {}:".format(*sys.version_info, platform.system()) in file.read_text()
    return ("-c", str(file)) if same else ()


def starts(python: Path) -> bool:
    """False for an environment whose Python was upgraded away."""
    try:
        return subprocess.run([str(python), "-c", ""], capture_output=True).returncode == 0
    except OSError:
        return False


@contextmanager
def only_one(lock: Path):
    """Two set-ups at once would delete each other's packages."""
    try:
        lock.touch(exist_ok=False)
    except FileExistsError:
        sys.exit(f"Another command is setting .venv up: wait for it. If none is (it was killed), delete {lock}")
    try:
        yield
    finally:
        lock.unlink()


def python_of(environment: Path) -> Path:
    return environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def make_environment(folder: Path, *options: str) -> None:
    """An environment of the running Python in `folder`, with the course and all it uses; `options` are pip's."""
    if run([sys.executable, "-m", "venv", "--clear", str(folder)]):
        sys.exit("Python's venv module is missing here; on Debian or Ubuntu: apt-get install python3-venv")
    uv, python = shutil.which("uv"), str(python_of(folder))
    install = [uv, "pip", "install", "--python", python] if uv else [python, "-m", "pip", "install"]
    install += ["-q", *options]
    # Without what they need: that comes with the course, from where everything else does.
    if without_cuda() and run([*install, "--index-url", CPU_INDEX, "--no-deps", "torch", "torchvision"]):
        print("They cannot be installed here, as the message above says: so PyTorch's default packages.", flush=True)
    if run([*install, "-e", f"{ROOT}[lab,site,test,compare,play]"]):
        sys.exit("The installation failed; the message above says why. Run the same command again to retry.")


def torch_choice() -> str:
    """What the variable TORCH asks for."""
    asked = os.environ.get("TORCH", "")
    if asked not in ("", "cpu", "cuda", "default"):
        sys.exit(f"TORCH is cpu, cuda or default, or not set; got {asked!r}")
    if asked == "cuda" and platform.system() != "Linux":
        sys.exit("TORCH=cuda is for Linux; elsewhere the site pytorch.org says how to install PyTorch for a GPU")
    return asked


def without_cuda() -> bool:
    """Whether to take PyTorch's CPU packages, on Linux far smaller than the default ones, which hold CUDA; says why."""
    asked = torch_choice()
    if asked:
        cpu, why = asked == "cpu", f"TORCH={asked} says so"
    elif platform.system() != "Linux":
        cpu, why = False, f"on {platform.system()} they are the ones for this machine"
    elif shutil.which("nvidia-smi") or DRIVER.exists():
        cpu, why = False, "there is an NVIDIA driver"
    else:
        fault = fault_of(CPU_INDEX)
        cpu, why = not fault, fault or "there is no NVIDIA driver"
    print(f"PyTorch's {'CPU' if cpu else 'default'} packages: {why}. (TORCH=cpu, cuda or default decides by hand.)")
    return cpu


def fault_of(index: str) -> str:
    """Why PyTorch's packages cannot come from this index; "" if they can."""
    end = time.monotonic() + PATIENCE
    for package in ("torch", "torchvision"):
        page = urllib.request.Request(f"{index}/{package}/", method="HEAD")
        try:
            urllib.request.urlopen(page, timeout=max(end - time.monotonic(), 0.1)).close()
        except OSError as error:  # no answer, or one that says no
            return f"{index} has no {package} to offer ({error})"
    return ""


def run(command: list[str], cwd: Path = ROOT, **environment: str) -> int:
    """Run a command, in the course's folder if no other is given, output shown; its exit status."""
    interrupted = False
    with subprocess.Popen(command, cwd=cwd, env={**os.environ, **environment}) as process:
        while True:
            try:
                status = process.wait()
                break
            except KeyboardInterrupt:  # the command got it, too: let it ask, or tidy up
                interrupted = True
    if interrupted and status:
        sys.exit(130)
    return status


def lab(python: str, rest: list[str]) -> int:
    """JupyterLab on the learner's own notebooks, which it does not pair with sources; it asks nobody for news."""
    parser = argparse.ArgumentParser(prog="course.py lab")
    parser.add_argument("--new", default="", help="numbers of the notebooks to copy anew, such as 07, or all")
    parser.add_argument("--from", dest="older", default="", help="a folder with notebooks that hold answers of yours")
    known, rest = parser.parse_known_args(rest)
    folder = my_notebooks.prepare(ROOT, known.new, known.older)
    looks = folder / ".jupyterlab"  # settings are the course's, what is open where is the learner's
    shutil.copytree(ROOT / "tools" / "jupyterlab" / "settings", looks / "settings", dirs_exist_ok=True)
    if not (looks / "workspaces").exists():
        shutil.copytree(ROOT / "tools" / "jupyterlab" / "workspaces", looks / "workspaces")
    unpaired = "jupyter_server.services.contents.largefilemanager.AsyncLargeFileManager"
    options = [
        f"--ServerApp.root_dir={folder.parent}",  # and not the folder itself: the pictures lie in figures/
        f"--ServerApp.contents_manager_class={unpaired}",
        f"--LabApp.default_url=/lab/tree/{folder.name}/00_start_here.ipynb",
        f"--LabApp.app_settings_dir={looks / 'settings'}",
        f"--LabApp.workspaces_dir={looks / 'workspaces'}",
    ]
    return run([python, "-m", "jupyterlab", *options, *rest])


def edit(python: str, rest: list[str]) -> int:
    """JupyterLab for authors: jupytext pairs each notebook with its source, as pyproject.toml says."""
    start = "--LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb"
    return run([python, "-m", "jupyterlab", f"--ServerApp.root_dir={ROOT}", start, *rest])


def test(python: str, rest: list[str]) -> int:
    """Everything, part by part, with the time that each takes."""
    with tempfile.TemporaryDirectory() as folder:
        parts = {
            "ruff": lambda: (
                run([python, "-m", "ruff", "check", "."])
                or run([python, "-m", "ruff", "format", "--check", "--quiet", "."])
            ),
            "unit tests": lambda: run([python, "-m", "pytest", *TWO, *rest], OMP_NUM_THREADS="1"),
            "notebooks": lambda: nbval(colab_python(Path(folder), python)),
        }
        failed, times = [], []
        for name, part in parts.items():
            start = time.monotonic()
            failed += [name] if part() else []
            times.append(f"{name} {time.monotonic() - start:.0f} s")
    print(f"\n{', '.join(times)}")
    print(f"FAILED: {', '.join(failed)}" if failed else "All green: ruff, unit tests, notebooks.", flush=True)
    return len(failed)


def bare_python(folder: Path, python: str) -> str:
    """An environment in `folder` that sees the packages of `python` but not this checkout; its Python."""
    if run([python, "-m", "venv", "--without-pip", str(folder)]):
        sys.exit("No environment could be made for the notebooks; the message above says why.")
    bare = str(python_of(folder))
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    theirs, own = (subprocess.check_output([each, "-c", ask], text=True).strip() for each in (python, bare))
    # A .pth in a folder that a .pth names is not followed: an editable install stays out of sight.
    Path(own, "packages.pth").write_text(theirs)
    return bare


def colab_python(folder: Path, python: str) -> str:
    """An environment like Colab's in `folder`: PyTorch and the rest are there, the course is an installed wheel."""
    bare, source = bare_python(folder / "python", python), folder / "source"
    shutil.copytree(ROOT / "ddpm_helpers", source / "ddpm_helpers", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    offline = ["--no-deps", "--no-build-isolation", "--no-index"]
    if run([bare, "-m", "pip", "install", "-q", "--ignore-installed", *offline, str(source)]):
        sys.exit("The course could not be installed as a wheel; pip's message above says why.")
    return bare


def nbval(python: str, notebooks: list[Path] | None = None) -> int:
    """Every notebook with `python`, alone in a folder: quick budget, network off, drawn digits, whatever lies here."""
    with tempfile.TemporaryDirectory() as name:
        empty, content = Path(name, "empty"), Path(name, "content")
        empty.mkdir()
        for path in notebooks or NOTEBOOKS.glob("*.ipynb"):
            (content / path.stem).mkdir(parents=True)
            shutil.copy(path, content / path.stem)
        return run(
            [python, "-m", "pytest", "-q", *TWO, *NBVAL, "--durations=5", "-p", "no:cacheprovider", str(content)],
            OMP_NUM_THREADS="1",
            PYTHONPATH=str(ROOT / "tests" / "offline"),
            DDPM_BUDGET="quick",
            DDPM_DATA=str(empty),
            XDG_CACHE_HOME=str(empty),
        )


def lab_kit(python: str, rest: list[str]) -> int:
    return run([python, str(ROOT / "tools" / "lab_kit.py"), *(str(Path(folder).resolve()) for folder in rest)])


def grade(python: str, rest: list[str]) -> int:
    return run([python, str(ROOT / "tools" / "grade.py"), *rest], cwd=Path.cwd())


def build(command: str):
    return lambda python, rest: run([python, "tools/build.py", command, *rest])


def play(python: str, rest: list[str]) -> int:
    return run([python, "tools/play.py", *rest])


COMMANDS = {
    "lab": lab,
    "edit": edit,
    "test": test,
    "grade": grade,
    "lab-kit": lab_kit,
    "course": lambda python, rest: play(python, []) or build("course")(python, rest),
    "play": play,
    "notebooks": build("notebooks"),
    "badges": build("badges"),
    "readme": build("readme"),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("--current-env", action="store_true", help="no .venv: use the running Python's packages")
    known, rest = parser.parse_known_args()
    return COMMANDS[known.command](sys.executable if known.current_env else set_up(), rest)


if __name__ == "__main__":
    sys.exit(main())
