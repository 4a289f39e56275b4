"""A room of learners on one machine: kernels of one notebook started together, and one cold cache for all."""

import asyncio
import gzip
import hashlib
import http.server
import os
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

import nbformat
import psutil
from fuzz import idx_bytes
from nbclient import NotebookClient
from torchvision.datasets import MNIST
from torchvision.transforms.functional import to_pil_image

from ddpm_helpers import synthetic_digits

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "notebooks" / "08_sampling.ipynb"


def kernels(count: int) -> dict:
    """Kernels of notebook 08, quick budget, all at once: each finishes; what they take, at most, of memory."""
    os.environ |= {"DDPM_BUDGET": "quick", "OMP_NUM_THREADS": "1"}  # threads of many kernels wait for each other
    together, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.5):
            shares = 0
            for child in psutil.Process().children():
                with suppress(psutil.Error):
                    memory = child.memory_full_info()
                    shares += getattr(memory, "pss", memory.uss)
            together.append(shares)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        results = asyncio.run(run_all(count))
    finally:
        done.set()
        watcher.join()
    failures = [repr(result)[-500:] for result in results if isinstance(result, BaseException)]
    return {
        "ok": not failures,
        "result": f"{count - len(failures)} finished; {max(together) / 1e9:.1f} GB all together",
        "kernels started again": sum(result - 1 for result in results if isinstance(result, int)),
        "failures": failures[:3],
    }


async def run_all(count: int) -> list[int | Exception]:
    """How often each kernel had to be started; or what it failed with."""
    return await asyncio.gather(*(run_one() for _ in range(count)), return_exceptions=True)


async def run_one() -> int:
    """Run the notebook. A kernel that dies before it answers is started again, as JupyterLab does.

    Its ports are chosen before it is started, and among many kernels another one may take them in between.
    """
    for starts in range(1, 6):
        notebook = nbformat.read(NOTEBOOK, as_version=4)
        where = {"metadata": {"path": str(NOTEBOOK.parent)}}
        client = NotebookClient(notebook, timeout=7200, startup_timeout=1800, kernel_name="python3", resources=where)
        try:
            await client.async_execute()
            return starts
        except RuntimeError as error:
            if "Kernel died before replying" not in str(error):
                raise
    raise RuntimeError("five kernels in a row died before they answered")


LEARNER = """
import hashlib, sys, warnings
import torchvision.datasets as d
d.MNIST.mirrors, d.MNIST.resources = {mirrors!r}, {sums!r}
from ddpm_helpers import load_images, pictures
pictures.KEEP_AFTER = 0
for name, size in (("mnist", None), ({pictures!r}, None), ({pictures!r}, 16)):
    data = load_images(name, size=size, strict=True)
    print(hashlib.sha256(data.images.numpy().tobytes() + data.labels.numpy().tobytes()).hexdigest())
"""


def cold_cache(count: int) -> dict:
    """`load_images` by so many processes at once on an empty cache, a download and a folder; and once more."""
    images, labels = synthetic_digits(2000)
    for file, _ in MNIST.resources:
        array = (images[:, 0] if "images" in file else labels.byte()).numpy()
        Host.files[file] = gzip.compress(idx_bytes(array))
    sums = [(file, hashlib.md5(content).hexdigest()) for file, content in Host.files.items()]
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Host)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as name:
        pictures = Path(name) / "pictures"
        for i, image in enumerate(images[:200]):
            place = pictures / str(int(labels[i])) / f"{i}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            to_pil_image(image).save(place)
        mirrors = [f"http://127.0.0.1:{server.server_port}/"]
        line = [sys.executable, "-c", LEARNER.format(mirrors=mirrors, sums=sums, pictures=str(pictures))]
        (Path(name) / "empty").mkdir()
        own = {"DDPM_DATA": str(Path(name) / "empty"), "XDG_CACHE_HOME": str(Path(name) / "cache")}
        options = {"env": {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **own}, "text": True}
        answers = []
        for together in (count, 1):
            jobs = [subprocess.Popen(line, stdout=subprocess.PIPE, **options) for _ in range(together)]
            said = [job.communicate(timeout=3600)[0].splitlines() for job in jobs]
            answers += {tuple(text for text in each if len(text) == 64) for each in said}
    server.shutdown()
    equal = len(set(answers)) == 1 and len(answers[0]) == 3
    # One fetched, and the others waited: torchvision asks for each file twice, and we ask whether the first is there.
    ok = equal and max(Host.asked.values()) <= 3
    result = "answers all equal" if equal else str(answers)
    return {"ok": ok, "result": result, "requests of each file": dict(Host.asked)}


class Host(http.server.BaseHTTPRequestHandler):
    """Serves files, and counts what is fetched."""

    files: ClassVar[dict[str, bytes]] = {}
    asked: ClassVar[Counter] = Counter()

    def do_HEAD(self):
        content = self.files[self.path[1:]]
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()

    def do_GET(self):
        self.asked[self.path] += 1
        self.do_HEAD()
        self.wfile.write(self.files[self.path[1:]])

    def log_message(self, *_):
        pass
