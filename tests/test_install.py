"""The installation: PyTorch's CPU packages where they fit and can be had, and uv where it is; it says which and why."""

import json
import socket
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))
import course


@contextmanager
def index(*packages: str):
    """An index of packages, on this machine, that has these."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(200 if self.path.strip("/") in packages else 404)
            self.end_headers()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@contextmanager
def silent():
    """One that takes every call and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def install(tmp_path, monkeypatch):
    """A function that makes an environment on a machine with these programs; the commands that would run."""

    def install(address: str = "http://127.0.0.1:1", programs: tuple = (), system: str = "Linux", fails: str = "-"):
        noted: list[list[str]] = []
        monkeypatch.setattr(course, "run", lambda command: noted.append(command) or fails in command)
        monkeypatch.setattr(course, "CPU_INDEX", address)
        monkeypatch.setattr(course.platform, "system", lambda: system)
        monkeypatch.setattr(course.shutil, "which", lambda name: f"/bin/{name}" if name in programs else None)
        monkeypatch.setattr(course, "DRIVER", tmp_path / "no driver")
        course.make_environment(tmp_path / ".venv", "-c", "constraints.txt")
        return noted

    monkeypatch.delenv("TORCH", raising=False)
    return install


def test_cpu_packages_where_there_is_no_gpu_then_the_rest(install, capsys):
    with index("torch", "torchvision") as address:
        _, torch, rest = install(address)
    assert torch[-5:] == ["--index-url", address, "--no-deps", "torch", "torchvision"]
    assert "constraints.txt" in torch
    assert "constraints.txt" in rest
    assert "--index-url" not in rest
    assert "PyTorch's CPU packages: there is no NVIDIA driver." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("where", "said"),
    [(silent, "torch to offer (timed out"), (lambda: index("torch"), "torchvision to offer (HTTP Error 404")],
)
def test_default_packages_where_the_index_is_of_no_use(install, capsys, monkeypatch, where, said):
    monkeypatch.setattr(course, "PATIENCE", 0.5)
    with where() as address:
        start = time.monotonic()
        assert len(install(address)) == 2
    assert time.monotonic() - start < 10
    assert "PyTorch's default packages: http" in (out := capsys.readouterr().out)
    assert said in out


def test_default_packages_where_those_of_the_index_cannot_be_installed(install, capsys):
    """Say because it has none for this Python."""
    with index("torch", "torchvision") as address:
        assert len(install(address, fails="--no-deps")) == 3
    assert "so PyTorch's default packages" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("machine", "said"),
    [
        ({"programs": ("nvidia-smi",)}, "there is an NVIDIA driver"),
        ({"system": "Windows"}, "on Windows they are the ones for this machine"),
    ],
)
def test_default_packages_elsewhere(install, capsys, machine, said):
    with index("torch", "torchvision") as address:
        assert len(install(address, **machine)) == 2
    assert f"PyTorch's default packages: {said}" in capsys.readouterr().out


@pytest.mark.parametrize(("asked", "commands"), [("cpu", 3), ("cuda", 2), ("default", 2)])
def test_torch_decides_by_hand(install, capsys, monkeypatch, asked, commands):
    monkeypatch.setenv("TORCH", asked)
    assert len(install(programs=("nvidia-smi",) if asked == "cpu" else ())) == commands
    assert f"TORCH={asked} says so" in capsys.readouterr().out


@pytest.mark.parametrize(("asked", "system"), [("gpu", "Linux"), ("cuda", "Windows")])
def test_torch_that_cannot_be_is_refused(install, monkeypatch, asked, system):
    monkeypatch.setenv("TORCH", asked)
    with pytest.raises(SystemExit, match=r"^TORCH"):
        install(system=system)


def test_another_choice_installs_anew(monkeypatch, tmp_path):
    monkeypatch.setattr(course, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(course, "starts", lambda python: True)
    made: list[str] = []
    monkeypatch.setattr(course, "make_environment", lambda folder, *_: folder.mkdir(exist_ok=True) or made.append("."))
    for asked, times in (("", 1), ("cpu", 2), ("cpu", 2), ("", 2), ("cuda", 3)):
        monkeypatch.setenv("TORCH", asked)
        monkeypatch.setattr(course.platform, "system", lambda: "Linux")
        course.set_up()
        assert len(made) == times, asked


@pytest.mark.parametrize("programs", [(), ("uv",)])
def test_uv_installs_where_it_is_there(install, programs):
    with index("torch", "torchvision") as address:
        environment, *installing = install(address, programs)
    python = environment[-1] + ("/bin/python" if course.os.name == "posix" else "\\Scripts\\python.exe")
    wanted = ["/bin/uv", "pip", "install", "--python", python] if programs else [python, "-m", "pip", "install"]
    assert all(command[: len(wanted)] == wanted for command in installing)


def test_the_development_container_gets_the_versions_of_the_last_green_run():
    about = json.loads((course.ROOT / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8"))
    version = about["image"].removeprefix("python:")
    assert f"Python {version} on Linux:" in (course.ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert course.set_up.__name__ in about["postCreateCommand"]


@pytest.mark.parametrize(
    "form", sorted((course.ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")), ids=lambda f: f.stem
)
def test_forms_ask_for_what_is_needed(form):
    """As GitHub wants them; a question carries the report of notebook 00."""
    about = yaml.safe_load(form.read_text(encoding="utf-8"))
    assert {"name", "description", "body"} <= about.keys()
    assert all(part["type"] in ("input", "textarea") and part["attributes"]["label"] for part in about["body"])
    assert all(part["validations"]["required"] for part in about["body"])
    if form.stem == "question":
        assert "environment_report()" in about["body"][-1]["attributes"]["description"]
