"""The ladder: what well-known designs reached on the same data, in the same time (`tests/benchmarks/ladder.py`)."""

import json
import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..schedule import NoiseSchedule
from .naive import naive_loss

RESULTS = Path(__file__).parent.parent / "results"
COLUMNS = {  # of `ladder_table`: key of a row -> title, width, format
    "name": ("", "<27", ""),  # or as wide as the longest
    "parameters": ("parameters", ">12", ","),
    "images_per_second": ("images/s", ">10", ",.0f"),
    "train_steps": ("steps", ">8", ","),
    "loss": ("loss", ">9", ".4f"),
    "frechet": ("distance", ">10", ",.0f"),
    "recognisable": ("recognis.", ">11", ".0%"),
    "entropy": ("entropy", ">9", ".2f"),
    "seconds_for_64": ("s for 64", ">10", ".1f"),
}


def naive_objective(model, schedule: NoiseSchedule, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """Notebook 01's loss from the trainer's ingredients: the share t / T of uniform noise, images in [0, 1]."""
    uniform = torch.special.ndtr(noise)  # the normal distribution function makes normal numbers uniform
    return naive_loss(lambda x: model(x, torch.ones_like(t)), (x0 + 1) / 2, t / schedule.T, uniform)


def load_ladder(name: str = "ladder_cpu") -> dict:
    """The results of a shipped ladder: "device", "date", "command" ... , and the rows "systems" and "faults"."""
    file = RESULTS / f"{name}.json"
    if not os.path.isfile(file):  # False also for a name that no file can have
        raise FileNotFoundError(f"{file}: there is no such ladder; python tests/benchmarks/ladder.py {file} makes it")
    return parse(file)


def parse(file: Path) -> dict:
    """Results with their rows, each a dictionary with a name; ValueError if the file holds something else."""
    try:
        results = json.loads(file.read_text(encoding="utf-8"))
        rows = results["systems"] + results["faults"]
        if not isinstance(rows, list) or not all(isinstance(row["name"], str) for row in rows):
            raise TypeError("its rows are no rows, or have no names")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{file}: not the results of a ladder ({error!r})") from error
    return results


def ladder_samples(name: str = "ladder_cpu") -> dict[str, Tensor]:
    """What each row of a shipped ladder drew: name -> (20, 1, 28, 28) uint8, the first samples, not chosen ones."""
    results, file = load_ladder(name), RESULTS / f"{name}.png"
    names = [row["name"] for row in results["systems"] + results["faults"]]
    try:
        with Image.open(file) as picture:
            pixels = torch.from_numpy(np.array(picture))
    except FileNotFoundError:
        raise
    except Exception as error:  # what is in a file can make Pillow fail in any way
        raise ValueError(f"{file}: cannot be read as a picture ({error})") from error
    if pixels.ndim != 2 or pixels.shape[0] != 28 * len(names) or pixels.shape[1] % 28:
        raise ValueError(f"{file}: {len(pixels) // 28} rows of samples, and {len(names)} rows of results")
    pixels = pixels.reshape(len(names), 28, -1, 28).permute(0, 2, 1, 3)  # rows, height, samples, width
    return {name: row[:, None] for name, row in zip(names, pixels, strict=True)}


def ladder_table(rows: list[dict]) -> str:
    """Rows of a ladder as text, a line each below a line of titles; what a row does not have is left empty."""
    columns = {key: column for key, column in COLUMNS.items() if any(key in row for row in rows)}
    columns["name"] = "", f"<{max(27, *(len(row['name']) + 1 for row in rows))}", ""
    lines = ["".join(f"{title:{width}}" for title, width, _ in columns.values())]
    for row in rows:
        cells = (f"{format(row[key], how) if key in row else '':{width}}" for key, (_, width, how) in columns.items())
        lines.append("".join(cells).rstrip())
    return "\n".join(lines)
