"""Mark learners' notebooks: python -m ddpm_helpers.exercises grade FILES... [--csv marks.csv]"""

import argparse
import sys
from pathlib import Path

from tqdm import tqdm

from .grading import grade, notebooks_in, others_in, summary, write_csv

INTERRUPTED = 130  # what shells say of a command that Ctrl-C ended


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m ddpm_helpers.exercises", description=__doc__)
    commands = parser.add_subparsers(dest="command")
    grader = commands.add_parser("grade", help="mark the exercises in learners' notebooks")
    grader.add_argument("files", nargs="+", type=Path, help="notebooks, or folders with notebooks")
    grader.add_argument("--csv", type=Path, help="write the table there, for a spreadsheet")
    grader.add_argument("--seconds", type=float, default=60, help="what a cell may take; the default is 60")
    grader.add_argument("--memory", type=float, default=4, metavar="GB", help="what a notebook may take; default: 4")
    options = parser.parse_args()
    if options.command is None:
        parser.print_help()
        return 0
    try:
        notebooks = notebooks_in(options.files)
    except ValueError as error:
        grader.error(str(error))
    if options.csv and not options.csv.absolute().parent.is_dir():
        grader.error(f"{options.csv}: there is no such folder")
    if others := others_in(options.files):
        print(f"Passed over, no notebooks: {', '.join(others[:9])}{' ...' * (len(others) > 9)}", file=sys.stderr)
    if sys.platform != "linux":
        print("This system cannot limit the memory of a process; the time limit holds.", file=sys.stderr)
    graded, stopped = [], False
    try:
        for learner, file in tqdm(notebooks.items(), unit="notebook", disable=None):
            graded.append(grade(file, learner, options.seconds, options.memory))
    except KeyboardInterrupt:
        stopped = True
        print(f"Stopped: {len(graded)} of {len(notebooks)} notebooks are marked.", file=sys.stderr)
        if not graded:
            return INTERRUPTED
    print(summary(graded))
    if options.csv:
        try:
            write_csv(graded, options.csv)
        except OSError as error:
            print(f"{options.csv}: cannot be written ({error.strerror})", file=sys.stderr)
            return 1
    return INTERRUPTED if stopped else 0


if __name__ == "__main__":
    sys.exit(main())
