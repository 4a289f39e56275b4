"""No network at all: a network namespace of its own (Linux), in which there is nothing but the machine itself."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LOOPBACK_UP = (
    "import fcntl, socket, struct; s = socket.socket(); fcntl.ioctl(s, 0x8914, struct.pack('16sh22x', b'lo', 1))"
)
PROOF = "import socket; s = socket.socket(); s.settimeout(3); print(s.connect_ex(('192.0.2.1', 80)))"


def without_network(line: list[str], **options) -> subprocess.CompletedProcess:
    """Run a command where only the machine itself can be reached."""
    shell = f'"{sys.executable}" -c "{LOOPBACK_UP}" && exec "$@"'
    return subprocess.run(["unshare", "-rn", "sh", "-c", shell, "sh", *line], cwd=ROOT, check=False, **options)


def why_not() -> str | None:
    """Why no network namespace can be made here; None if one can."""
    if not shutil.which("unshare"):
        return "this system has no unshare"
    done = without_network([sys.executable, "-c", PROOF], capture_output=True, text=True)
    if done.returncode:
        return f"unshare -rn is not allowed here: {done.stderr.strip()[-200:]}"
    assert int(done.stdout) == 101, f"network unreachable was expected, got {os.strerror(int(done.stdout))}"
    return None


def whole_test_command(full: int) -> dict:
    """The README's test command; with a count of 0, one notebook and the tests of data instead."""
    if reason := why_not():
        return {"ok": None, "result": reason}
    command = [sys.executable, "tools/course.py", "test", "--current-env"]
    if not full:
        pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        command = [*pytest, "--nbval-lax", "--nbval-current-env", "notebooks/00_start_here.ipynb", "tests/test_data.py"]
    environment = {name: value for name, value in os.environ.items() if name != "DDPM_DATA"} | {"DDPM_BUDGET": "quick"}
    done = without_network(command, env=environment, capture_output=True, text=True)
    said = done.stdout.strip().splitlines()
    return {
        "ok": not done.returncode,
        "result": said[-1],
        "output": [line for line in said if line.startswith(("FAILED ", "ERROR "))] + said[-5:],
    }
