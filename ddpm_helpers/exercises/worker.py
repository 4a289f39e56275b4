"""The process in which the grader runs one learner's cells; see grading.py, which starts it.

It gets its job as JSON on stdin, a list of cells {"source", "names", "setup", "run"}, and writes one line of JSON to
stdout whenever something begins or is known. The learner's code has neither of the two: both are moved away first.
"""

import ast
import json
import os
import sys
from typing import BinaryIO

OUT_OF_MEMORY = 77  # this process's exit status where a cell takes more memory than it may


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


def move_streams() -> tuple[list[dict], BinaryIO]:
    """The job, and where to report; afterwards stdin is empty, and stdout and stderr lead nowhere."""
    job = json.load(sys.stdin.buffer)
    report = os.fdopen(os.dup(1), "wb", buffering=0)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    return job, report


def limit_memory(gigabytes: float) -> None:
    """Data, not address space: PyTorch maps gigabytes of libraries into the latter before it computes anything."""
    import resource

    resource.setrlimit(resource.RLIMIT_DATA, (int(gigabytes * 1e9),) * 2)


def tidy(text: str) -> str:
    """On one line, short, and without what a terminal would obey."""
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= 300 else text[:297] + "..."


def main() -> None:
    job, report = move_streams()
    if sys.platform == "linux":  # elsewhere the system does not keep such a limit
        limit_memory(float(sys.argv[1]))
    pid = os.getpid()

    def say(**what) -> None:
        if os.getpid() != pid:  # a learner's cell has forked, and this is the copy
            os._exit(0)
        report.write(json.dumps(what).encode() + b"\n")

    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    from ..marking import EXERCISES, Verdict, mark

    exercises = dict(EXERCISES)
    shell = InteractiveShell.instance(config=Config(HistoryManager={"enabled": False}))
    shell.ast_transformers.append(LeaveOutCheck())
    given: dict = {}  # what set-up and the answers so far have defined: put back where a cell deletes it

    def mend() -> None:
        shell.user_ns.update({name: value for name, value in given.items() if name not in shell.user_ns})

    say(ready=True)
    for place, cell in enumerate(job):
        problem = None
        if cell["run"]:
            mend()
            for name in cell["names"]:
                shell.user_ns.pop(name, None)  # the course's own, of an import
            say(begins=place)
            result = shell.run_cell(cell["source"], store_history=False)
            problem = result.error_before_exec or result.error_in_exec
            if isinstance(problem, MemoryError) or "can't allocate memory" in str(problem):
                os._exit(OUT_OF_MEMORY)  # the cell's variables still hold it
            if cell["setup"]:
                given |= shell.user_ns
        for name in cell["names"]:
            exercise, answer = exercises[name], shell.user_ns.get(name)
            verdict = Verdict(right=False)
            if cell["run"] and answer is None:
                why = f"its cell stopped with {type(problem).__name__}: {problem}" if problem else "its cell deletes it"
                why += " (nobody answers input() here)" if isinstance(problem, EOFError) else ""
                say(name=name, stopped=tidy(why))
            elif cell["run"]:
                say(marks=name)
                mend()
                try:
                    verdict = mark(exercise, answer)
                except BaseException as error:  # SystemExit, too
                    verdict = Verdict(right=False, problem=f"It stopped with {type(error).__name__}: {error}")
                say(name=name, right=verdict.right, tried=verdict.tried, problem=tidy(verdict.problem))
            given[name] = shell.user_ns[name] = answer if verdict.right else exercise.reference
    say(done=True)
    os._exit(0)  # whatever threads a learner's cell has left running


if __name__ == "__main__":
    main()
