"""A folder that cannot be written to, for the length of one command: root, too, who may write everywhere else."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOT_COPIED = (".git", ".venv", "build", "data", "__pycache__", ".*_cache", ".hypothesis", "runs", "*.egg-info")
MOUNTED = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && cd "$1" && shift && exec "$@"'


def run_read_only(folder: Path, line: list[str], cwd: Path, **options) -> subprocess.CompletedProcess:
    """Run a command to which `folder` is read-only; where that cannot be had the test is skipped."""
    if not hasattr(os, "geteuid"):
        pytest.skip("this system has another notion of read-only folders")
    if os.geteuid() == 0:
        apart = ["unshare", "-rm", "sh", "-c"]
        if not shutil.which("unshare") or subprocess.run([*apart, "true"], capture_output=True, check=False).returncode:
            pytest.skip("root may write everywhere, and may not mount a folder read-only here")
        return subprocess.run([*apart, MOUNTED, str(folder), str(cwd), *line], check=False, **options)
    modes = {path: path.stat().st_mode for path in (folder, *folder.rglob("*"))}
    try:
        for path, mode in modes.items():
            path.chmod(mode & ~0o222)
        return subprocess.run(line, cwd=cwd, check=False, **options)
    finally:
        for path, mode in modes.items():
            path.chmod(mode)


def copy_of_the_checkout(folder: Path) -> Path:
    return Path(shutil.copytree(ROOT, folder / "checkout", ignore=shutil.ignore_patterns(*NOT_COPIED)))
