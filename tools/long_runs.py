"""What takes hours, or environments of its own; for those who change the course.

python tools/long_runs.py bench                   measurements, to docs/results and ddpm_helpers/results
python tools/long_runs.py soak [kill=15 ...]      kills, damaged files, no network, load: see tests/soak
python tools/long_runs.py versions oldest|newest  the tests with the oldest or newest packages that are allowed
"""

import re
import sys

import course


def bench(rest: list[str]) -> int:
    python = course.set_up()
    scripts = sorted((course.ROOT / "tests" / "benchmarks").glob("bench_*.py"))
    return sum(course.run([python, str(script), *rest]) for script in scripts)


def soak(rest: list[str]) -> int:
    return course.run([course.set_up(), str(course.ROOT / "tests" / "soak"), *rest])


def versions(rest: list[str]) -> int:
    """The whole test command, in an environment with the oldest allowed version of each package, or the newest."""
    if rest not in (["oldest"], ["newest"]):
        sys.exit("python tools/long_runs.py versions oldest, or newest")
    folder = course.ROOT / "build" / "versions" / rest[0]
    folder.mkdir(parents=True, exist_ok=True)
    bounds = folder.with_suffix(".txt")
    bounds.write_text("\n".join(oldest() if rest == ["oldest"] else []))
    course.make_environment(folder, "-c", str(bounds))
    course.run([str(course.python_of(folder)), "-m", "pip", "freeze", "--exclude-editable"])
    return course.test(str(course.python_of(folder)), [])


def oldest() -> list[str]:
    """The lower bounds of pyproject.toml as pip's constraints: torch>=2.4 becomes torch==2.4.*; an extra's win."""
    text = (course.ROOT / "pyproject.toml").read_text(encoding="utf-8").partition("[project]")[2]
    bounds = dict(re.findall(r'"([\w-]+)>=([\d.]+)"', text))
    return [f"{name}=={bound}.*" for name, bound in bounds.items()]


if __name__ == "__main__":
    commands = {"bench": bench, "soak": soak, "versions": versions}
    if len(sys.argv) < 2 or sys.argv[1] not in commands:
        sys.exit(__doc__)
    sys.exit(commands[sys.argv[1]](sys.argv[2:]))
