"""A page in which the shipped network draws digits: build/play, to be opened from there or put on any server.

    python tools/play.py

What runs the network in a browser, ONNX Runtime Web, comes from npm. Where it or the packages of the extra `play` are
missing, a sentence says so, and there is no build/play.
"""

import base64
import gzip
import hashlib
import inspect
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from string import Template

import torch

from ddpm_helpers import NoiseSchedule, count_parameters, load_pretrained

ROOT = Path(__file__).resolve().parent.parent
PLAY = ROOT / "build" / "play"
RUNTIME = "onnxruntime-web@1.30.0"
SHA512 = (  # of the package, in two halves
    "ab4cbe26baedba45d2cec05610c71c55fa97db92d19a8b171c5f8269126683ca"
    "590a5cdc57bb2f35ce2b298de32f4d956fb42644c0ecd528a0a91e025c07ca61"
)


class Missing(Exception):
    """Something that the page needs cannot be had here; the message says what."""


def export(model: torch.nn.Module) -> bytes:
    """A network with labels as ONNX: x (B, 1, 28, 28) float32, t (B,) int64, label (B,) int64 -> eps (B, 1, 28, 28)."""
    try:
        import onnxscript  # noqa: F401 - what the exporter is made of
    except ImportError:
        raise Missing("the packages onnx and onnxscript are not installed: pip install -e '.[play]'") from None
    if "dynamo" not in inspect.signature(torch.onnx.export).parameters:
        raise Missing(f"PyTorch {torch.__version__} cannot export such a network: a newer one can")
    example = torch.zeros(2, 1, 28, 28), torch.tensor([1, 1]), torch.tensor([0, 0])
    any_count = {0: torch.export.Dim("B")}
    # In two parts: alone, the exporter to ONNX would go on with a fixed number of images where another one fails.
    program = torch.export.export(model, example, dynamic_shapes=(any_count, any_count, (any_count,)))
    names = {"input_names": ["x", "t", "label"], "output_names": ["eps"]}
    return torch.onnx.export(program, dynamo=True, verbose=False, **names).model_proto.SerializeToString()


def runtime() -> dict[str, bytes]:
    """The files of ONNX Runtime Web that a page needs, name -> content."""
    npm = shutil.which("npm")
    if npm is None:
        raise Missing("npm is not installed (it comes with Node.js)")
    with tempfile.TemporaryDirectory() as folder:
        fetch = [npm, "pack", RUNTIME, "--ignore-scripts", "--fetch-retries=1", "--pack-destination", folder]
        done = subprocess.run(fetch, capture_output=True, text=True)
        if done.returncode:
            raise Missing(f"npm does not get {RUNTIME}: {done.stderr.strip()[-300:]}")
        [package] = Path(folder).iterdir()
        return files_of(package)


def files_of(package: Path) -> dict[str, bytes]:
    if hashlib.sha512(package.read_bytes()).hexdigest() != SHA512:
        sys.exit(f"{RUNTIME} is not the package that it was: its SHA-512 differs from the one in tools/play.py")
    names = ("ort.wasm.min.js", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
    with tarfile.open(package) as archive:
        return {name: archive.extractfile(f"package/dist/{name}").read() for name in names}


def parts(net: bytes, schedule: NoiseSchedule, script: bytes, wasm: bytes) -> str:
    """parts.js: what a page opened from a folder could not fetch, compressed, and the tables of the schedule."""
    files = {"net": net, "script": script, "wasm": wasm}
    packed = {name: base64.b64encode(gzip.compress(content, mtime=0)).decode() for name, content in files.items()}
    tables = {"signal": schedule.sqrt_alpha_bar.tolist(), "sigma": schedule.sigma.tolist()}  # float32, as 64 bits
    return f"const parts = {json.dumps({**packed, **tables})};\n"


def write(folder: Path) -> None:
    """The page with all that it needs, in a new `folder`."""
    model, schedule, _ = load_pretrained("mnist_labels")
    main, script, wasm = runtime().values()
    content = parts(export(model), schedule, script, wasm)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / "tools" / "play", folder)
    shutil.copy(ROOT / "figures" / "08_reverse.gif", folder)
    (folder / "ort.wasm.min.js").write_bytes(main)
    (folder / "parts.js").write_text(content, encoding="utf-8")
    choice = '<label><input type="radio" name="digit" value="{}"{}><span>{}</span></label>'
    digits = [choice.format(digit, " checked" if digit == 7 else "", digit) for digit in range(model.classes)]
    digits += [choice.format(model.classes, "", "anything")]
    page = Template((folder / "play.html").read_text(encoding="utf-8"))
    facts = {"weights": f"{count_parameters(model):,}", "megabytes": round(len(content) / 1e6)}
    (folder / "play.html").write_text(page.substitute(facts, digits="\n".join(digits)), encoding="utf-8")


def main() -> int:
    shutil.rmtree(PLAY, ignore_errors=True)  # no older one, if this one fails
    try:
        write(PLAY)
    except Missing as error:
        print(f"No page with a network in it: {error}")
        return 0
    size = sum(path.stat().st_size for path in PLAY.iterdir())
    print(f"{PLAY / 'play.html'}: a network draws in the page ({size / 1e6:.1f} MB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
