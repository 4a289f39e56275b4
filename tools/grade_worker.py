"""The process in which grade.py runs one learner's cells.

It gets its job as JSON on stdin, {"token", "cells"}, each cell {"source", "names", "setup", "run"}, and reports after
every step: its start, then, for each cell that is to run, the cell and each answer in it. A report is the token and
JSON, on a line of its own. The learner's code has neither stream: both are moved away first.
"""

import ast
import contextlib
import ctypes
import json
import os
import signal
import sys
import time

OUT_OF_MEMORY = 77  # the exit status where more memory is taken than may be
SUBREAPER, PARENT_DEATH_SIGNAL = 36, 1  # Linux's numbers for prctl
RUN_AS_PLAIN = ("%%time", "%%timeit", "%%capture")  # cells of all other magics are left out


def keep(gigabytes: float) -> None:
    """On Linux: go on in a child. This process stays, to end all that comes of it and to measure its memory.

    Whatever a learner's code forks away becomes a child of this one (a subreaper), so that none is missed.
    """
    prctl = ctypes.CDLL(None).prctl
    prctl(SUBREAPER, 1)
    prctl(PARENT_DEATH_SIGNAL, signal.SIGTERM)  # when the grader itself is killed
    signal.signal(signal.SIGTERM, lambda *_: end(1))
    if (worker := os.fork()) == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.setsid()  # the learner's signals to "all of us" do not reach the keeper
        prctl(PARENT_DEATH_SIGNAL, signal.SIGKILL)
        return
    while True:
        time.sleep(0.2)
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == worker:
                status = os.waitstatus_to_exitcode(ended[1])
                end(status if status >= 0 else 128 - status)  # as shells say it
        if sum(map(memory, below(os.getpid()))) > gigabytes * 1e9:
            end(OUT_OF_MEMORY)


def end(status: int) -> None:
    """Kill every process below this one, then exit: orphans come back to this one until none is left."""
    with contextlib.suppress(ChildProcessError):
        while True:
            for pid in below(os.getpid()):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            os.waitpid(-1, 0)
    os._exit(status)


def below(pid: int) -> list[int]:
    """The processes that come of this one."""
    parents = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
            parents[int(name)] = int(file.read().rpartition(b")")[2].split()[1])
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found[1:]


def memory(pid: int) -> int:
    """Bytes that a process has written, shared ones divided among those that share them; files do not count."""
    with contextlib.suppress(OSError, ValueError), open(f"/proc/{pid}/smaps_rollup", "rb") as file:
        sizes = dict(line.split()[:2] for line in file.read().splitlines()[1:])
        return 1024 * (int(sizes.get(b"Pss_Anon:", 0)) + int(sizes.get(b"Pss_Shmem:", 0)))
    return 0


def limit_memory(gigabytes: float) -> None:
    """Data, not address space: PyTorch maps gigabytes of libraries into the latter before it computes anything."""
    import resource

    resource.setrlimit(resource.RLIMIT_DATA, (int(gigabytes * 1e9),) * 2)


def move_streams():
    """The job, and where to report; afterwards stdin is empty, and stdout and stderr lead nowhere."""
    job = json.load(sys.stdin.buffer)
    report = os.fdopen(os.dup(1), "wb", buffering=0)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    return job, report


class LeaveOutCheck(ast.NodeTransformer):
    """Takes `name = check(name)` out of a cell: the grader marks by itself, whatever `check` has become."""

    def visit_Module(self, module: ast.Module) -> ast.Module:
        module.body = [line for line in module.body if not self.is_check(line)]
        return module

    @staticmethod
    def is_check(line: ast.stmt) -> bool:
        call = line.value if isinstance(line, ast.Assign | ast.Expr) else None
        function = call.func if isinstance(call, ast.Call) else None
        return getattr(function, "id", getattr(function, "attr", None)) == "check"


def make_shell():
    """IPython in which shell commands and magics (%pip, %matplotlib) do nothing; only %time does what it says."""
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    shell = InteractiveShell.instance(config=Config(HistoryManager={"enabled": False}))
    shell.ast_transformers.append(LeaveOutCheck())
    magic = shell.run_line_magic
    shell.run_line_magic = lambda name, line, depth=1, **more: (
        magic(name, line, _stack_depth=depth + 1) if name == "time" else None
    )
    shell.run_cell_magic = shell.system = lambda *_, **more: None
    shell.getoutput = lambda *_, **more: []
    return shell


def without_magic(source: str) -> str:
    first, _, rest = source.lstrip().partition("\n")
    if not first.startswith("%%"):
        return source
    return rest if first.startswith(RUN_AS_PLAIN) else ""


def tidy(text: str) -> str:
    """On one line, short, and without what a terminal would obey."""
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= 300 else text[:297] + "..."


def why_stopped(problem: BaseException | None) -> str:
    if problem is None:
        return "its cell deletes it"
    nobody = " (nobody answers input() here)" if isinstance(problem, EOFError) else ""
    return f"its cell stopped with {type(problem).__name__}: {problem}{nobody}"


def marked(mark, exercise, answer) -> tuple[str, str, bool]:
    try:
        verdict = mark(exercise, answer)
    except BaseException as error:  # SystemExit, too
        return "wrong", f"It stopped with {type(error).__name__}: {error}", False
    return "right" if verdict.right else "wrong" if verdict.tried else "not tried", verdict.problem, verdict.right


def main() -> None:
    gigabytes = float(sys.argv[1])
    if sys.platform == "linux":  # elsewhere the system does not keep such a limit
        keep(gigabytes)
        limit_memory(gigabytes)
    job, report = move_streams()
    pid, steps = os.getpid(), 0

    def say(kind: str = "", reason: str = "") -> None:
        nonlocal steps
        if os.getpid() != pid:  # a learner's cell has forked, and this is the copy
            os._exit(0)
        line = json.dumps({"step": steps, "kind": kind, "reason": tidy(reason)})
        report.write(f"\n{job['token']} {line}\n".encode())
        steps += 1

    from ddpm_helpers.exercises import EXERCISES
    from ddpm_helpers.marking import mark

    exercises = dict(EXERCISES)
    shell = make_shell()
    given: dict = {}  # what set-up and the answers so far have defined: put back where a cell deletes it

    def mend() -> None:
        shell.user_ns.update({name: value for name, value in given.items() if name not in shell.user_ns})

    say()
    for cell in job["cells"]:
        problem = None
        if cell["run"]:
            mend()
            for name in cell["names"]:
                shell.user_ns.pop(name, None)  # the course's own, of an import
            result = shell.run_cell(without_magic(cell["source"]), store_history=False)
            problem = result.error_before_exec or result.error_in_exec
            if isinstance(problem, MemoryError) or "can't allocate memory" in str(problem):
                os._exit(OUT_OF_MEMORY)  # the cell's variables still hold it
            if cell["setup"]:
                given |= shell.user_ns
            say()
        for name in cell["names"]:
            answer, right = shell.user_ns.get(name), False
            if cell["run"] and answer is None:
                say("not run", why_stopped(problem))
            elif cell["run"]:
                mend()
                kind, reason, right = marked(mark, exercises[name], answer)
                say(kind, reason)
            given[name] = shell.user_ns[name] = answer if right else exercises[name].reference
    os._exit(0)  # whatever threads a learner's cell has left running


if __name__ == "__main__":
    main()
