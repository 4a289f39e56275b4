"""What pytest said, as a part of the report."""

import subprocess


def of_pytest(done: subprocess.CompletedProcess) -> dict:
    """Whether all was well, and how many tests passed; the last lines say more where one failed."""
    lines = done.stdout.strip().splitlines()
    return {
        "ok": not done.returncode,
        "result": lines[-1].partition(",")[0].partition(" in ")[0],
        "output": lines[-12:],
    }
