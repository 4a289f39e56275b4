"""A room of learners on one machine: kernels of one notebook started together, and one cold cache for all."""

import asyncio
import functools
import gzip
import hashlib
import http.server
import os
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path

import nbformat
import psutil
import torch
from nbclient import NotebookClient
from torchvision.datasets import MNIST
from torchvision.transforms.functional import to_pil_image

from ddpm_helpers import synthetic_digits

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "notebooks" / "08_sampling.ipynb"


def kernels(count: int) -> dict:
    """Kernels of notebook 08, quick budget, all at once: each finishes; what they take, at most, of memory."""
    os.environ |= {"DDPM_BUDGET": "quick", "OMP_NUM_THREADS": "1"}  # threads of many kernels wait for each other
    rss, pss, together, done = Counter(), Counter(), [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.5):
            shares = 0
            for child in psutil.Process().children():
                try:
                    memory = child.memory_full_info()
                except psutil.Error:
                    continue
                share = getattr(memory, "pss", memory.uss)
                rss[child.pid], pss[child.pid] = max(rss[child.pid], memory.rss), max(pss[child.pid], share)
                shares += share
            together[0] = max(together[0], shares)

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
        "result": f"{count - len(failures)} finished; {together[0] / 1e9:.1f} GB all together",
        "a kernel's own share of memory (PSS), GB, median and most": middle_and_most(pss),
        "a kernel's memory with what it shares (RSS), GB, median and most": middle_and_most(rss),
        "kernels started again": sum(result - 1 for result in results if isinstance(result, int)),
        "failures": failures[:3],
    }


def middle_and_most(sizes: Counter) -> list[float]:
    return [round(size / 1e9, 2) for size in (statistics.median(sizes.values()), max(sizes.values()))]


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
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "empty").mkdir()
        sums = serve_files(folder / "served", images[:, 0], labels)
        for i, image in enumerate(images[:200]):
            place = folder / "pictures" / str(int(labels[i]))
            place.mkdir(parents=True, exist_ok=True)
            to_pil_image(image).save(place / f"{i}.png")
        asked: Counter = Counter()
        handler = functools.partial(Counting, asked, directory=str(folder / "served"))
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        mirrors = [f"http://127.0.0.1:{server.server_port}/"]
        code = LEARNER.format(mirrors=mirrors, sums=sums, pictures=str(folder / "pictures"))
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "DDPM_DATA": str(folder / "empty"),
            "XDG_CACHE_HOME": str(folder / "cache"),
        }
        run = functools.partial(
            subprocess.Popen, [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True
        )
        rounds = [{job.communicate(timeout=3600)[0] for job in [run() for _ in range(n)]} for n in (count, 1)]
        server.shutdown()
    answers = [sorted({tuple(line for line in out.splitlines() if len(line) == 64) for out in each}) for each in rounds]
    equal = len(answers[0]) == 1 and answers[0] == answers[1] and len(answers[0][0]) == 3
    ok = equal and max(asked.values()) == 2  # one fetched (torchvision asks for each twice), the others waited
    return {"ok": ok, "result": "answers all equal" if equal else str(answers), "requests of each file": dict(asked)}


class Counting(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, and counts what is fetched."""

    def __init__(self, asked: Counter, *arguments, **options):
        self.asked = asked
        super().__init__(*arguments, **options)

    def do_GET(self):
        self.asked[self.path] += 1
        super().do_GET()

    def log_message(self, *_):
        pass


def serve_files(folder: Path, images: torch.Tensor, labels: torch.Tensor) -> list[tuple[str, str]]:
    """Small MNIST files in `folder`; their names and checksums, as torchvision wants them."""
    folder.mkdir()
    sums = []
    for file, _ in MNIST.resources:
        array = (images if "images" in file else labels.byte()).numpy()
        head = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
        content = gzip.compress(head + array.tobytes())
        (folder / file).write_bytes(content)
        sums.append((file, hashlib.md5(content).hexdigest()))
    return sums
