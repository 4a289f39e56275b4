"""The same pictures from the same seeds: each notebook executed twice, in new kernels, and its pictures compared."""

import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import patch

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[2]
TIMED = "show.plot_growth("  # its picture shows how long something took


def pictures(most: int) -> dict:
    """So many notebooks, in the order of their numbers; quick budget, drawn digits, one thread each."""
    paths = sorted((ROOT / "notebooks").glob("*.ipynb"))[:most]
    with tempfile.TemporaryDirectory() as empty:
        environment = {
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "offline")]),
            "OMP_NUM_THREADS": "1",
            "DDPM_BUDGET": "quick",
            "DDPM_DATA": empty,
            "XDG_CACHE_HOME": empty,
        }
        # For these kernels alone: the parts that follow have images of their own.
        with patch.dict(os.environ, environment), ThreadPoolExecutor(os.cpu_count()) as pool:
            runs = list(pool.map(pictures_of, [path for path in paths for _ in range(2)]))
    compared, different = 0, []
    for path, once, again in zip(paths, runs[::2], runs[1::2], strict=True):
        assert once.keys() == again.keys(), path
        compared += len(once)
        different += [f"{path.stem}, cell {cell}" for cell in once if once[cell] != again[cell]]
    return {
        "ok": compared > 0 and not different,
        "result": f"{compared - len(different)} of {compared} pictures equal to the byte",
        "different": different,
    }


def pictures_of(path: Path) -> dict[int, list]:
    """Executes a notebook; number of a cell -> its pictures, of the cells that have some and show no time."""
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(path.parent)}}
    NotebookClient(notebook, timeout=1200, kernel_name="python3", resources=resources).execute()
    shown = {}
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type == "code" and TIMED not in cell.source:
            data = [output.data for output in cell.outputs if output.output_type in ("display_data", "execute_result")]
            images = [data[kind] for data in data for kind in sorted(data) if kind.startswith("image/")]
            if images:
                shown[number] = images
    return shown
