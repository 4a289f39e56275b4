"""The tables of docs/RESULTS.md, from what the benchmarks and the long tests left in docs/results."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def times_table() -> str:
    """What `bench_notebooks` measured."""
    rows = ["| notebook | full budget | quick budget | memory, quick |", "|---|---|---|---|"]
    for number, budgets in measured("notebooks")["notebooks"].items():
        seconds = [in_words(budgets[name]["seconds"]) if name in budgets else "" for name in ("full", "quick")]
        memory = f"{budgets['quick']['gigabytes']} GB" if "quick" in budgets else ""
        rows.append(f"| {number} | {seconds[0]} | {seconds[1]} | {memory} |")
    return "\n".join(rows)


def in_words(seconds: int) -> str:
    return f"{seconds} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def speed_table() -> str:
    """What `bench_speed` measured."""
    result = measured("speed")
    rows = ["| training step of | parameters | images/s in float32 | at best | with |", "|---|---|---|---|---|"]
    for row in result["training"]:
        speeds = row["images_per_second"]
        best = max(speeds, key=speeds.get)
        cells = (row["name"], f"{row['parameters']:,}", f"{speeds['float32']:,.0f}", f"{speeds[best]:,.0f}", best)
        rows.append(f"| {' | '.join(cells)} |")
    rows += ["", "| 64 samples | seconds |", "|---|---|"]
    rows += [f"| {name} | {seconds:.1f} |" for name, seconds in result["sampling"].items()]
    rows += ["", "| loading | images/s |", "|---|---|"]
    rows += [f"| {name} | {rate:,.0f} |" for name, rate in result["loading"].items()]
    machine = f"{result['device']}, torch {result['torch']}, {result['date']}"
    return "\n".join([*rows, "", f"*{machine}; repeat with `{result['command']}`.*"])


def quality_table() -> str:
    """What `bench_quality` measured: the distance after each time, and in brackets in units."""
    result, by_name = measured("quality"), {}
    for row in result["rows"]:
        by_name.setdefault(row["name"], {})[row["minutes"]] = row
    units = {row["samples"]: row["frechet"] for row in result["rows"] if row["name"] == result["unit"]}
    minutes = sorted({row["minutes"] for row in result["rows"] if row["minutes"]})
    heads = ["", "parameters", "images/s", *(f"{m:g} min" for m in minutes)]
    rows = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, speed in result["speed"].items():
        if name not in by_name:
            continue  # the benchmark is under way
        cells = [name, f"{by_name[name][min(by_name[name])]['parameters']:,}", f"{speed['images_per_second']:,.0f}"]
        cells += [in_units(by_name[name][m], units) if m in by_name[name] else "" for m in minutes]
        rows.append(f"| {' | '.join(cells)} |")
    rows += ["", "| | samples | distance | of real digits |", "|---|---|---|---|"]
    for row in result["rows"]:
        if row["minutes"] is None:
            name = row["name"] if "train_steps" in row else f'`load_pretrained("{row["name"]}")`'
            cells = (name, f"{row['samples']:,}", in_units(row, units), f"{row['floor']:.0f}")
            rows.append(f"| {' | '.join(cells)} |")
    machine = f"{result['device']}, torch {result['torch']}, {result['date']}"
    return "\n".join([*rows, "", f"*{machine}; repeat with `{result['command']}`.*"])


def in_units(row: dict, units: dict[int, float]) -> str:
    """A distance, and what part it is of the unit's at as many samples, if that was measured."""
    share = f" ({row['frechet'] / units[row['samples']]:.2g})" if row["samples"] in units else ""
    return f"{row['frechet']:.0f}{share}"


def few_steps_table() -> str:
    """What `distil` measured, of up to four calls: the first records of notebook 18's challenge."""
    path = ROOT / "ddpm_helpers" / "results" / "few_steps.json"
    result = json.loads(path.read_text(encoding="utf-8"))
    rows = ["| sampler | calls | distance | samples |", "|---|---|---|---|"]
    for row in sorted(result["rows"], key=lambda row: (row["calls"], row["distance"])):
        if 0 < row["calls"] <= 4:
            value = f"{row['distance']:.0f} ± {row['error']:.0f}"
            rows.append(f"| {row['name']} | {row['calls']} | {value} | {row['samples']:,} |")
    machine = f"{result['device']}, torch {result['torch']}, {result['date']}"
    return "\n".join([*rows, "", f"*{machine}; repeat with `{result['command']}`.*"])


SOAK = {  # part -> what was done, with its count
    "kill": "training killed {:,} times by SIGKILL, and resumed",
    "torchrun": "one of two processes of torchrun killed, {} times",
    "kernel": "a notebook's kernel killed in training, {} times",
    "disconnect": "notebook 07's own run in kernels like Colab's, {} of them killed",
    "files": "disk full, folder read-only, two runs at one file",
    "fuzz": "{:,} damaged and made-up files, shared out among the readers",
    "hosts": "hosts that are silent, refuse, send half a file or a wrong one",
    "offline": "the whole test command without any network",
    "readonly": "every notebook from a checkout that cannot be written to",
    "flake": "every notebook {} times under nbval",
    "same": "every notebook run twice: are its pictures the same?",
    "lab": "{} kernels of notebook 08, started together",
    "cache": "images loaded by {} processes at once, from an empty cache",
}


def soak_table() -> str:
    """What the long tests found, each part when it was last run; a part that was not yet run has no row."""
    report = json.loads((ROOT / "docs" / "results" / "soak.json").read_text(encoding="utf-8"))
    parts = report["parts"] | {"flake": every_notebook(report["parts"])}
    rows = ["| what was done | result | minutes | date |", "|---|---|---|---|"]
    for name, done in SOAK.items():
        if part := parts.get(name):
            said = "**failed**" if part["ok"] is False else part["result"]
            rows.append(f"| {done.format(part['count'])} | {said} | {part['minutes']} | {part['date']} |")
    machine = f"{report['machine']}, Python {report['python']}, PyTorch {report['torch']}"
    return "\n".join([*rows, "", f"*{machine}; repeat with `python tools/long_runs.py soak`.*"])


def every_notebook(parts: dict[str, dict]) -> dict | None:
    """The rounds of all notebooks that were run, as one part."""
    runs = [part for name, part in parts.items() if name.startswith("flake-")]
    if not runs:
        return None
    return {
        "ok": all(run["ok"] for run in runs),
        "count": min(run["count"] for run in runs),
        "minutes": round(sum(run["minutes"] for run in runs), 1),
        "date": max(run["date"] for run in runs),
        "result": f"{sum(run['count'] for run in runs)} runs, all green",
    }


def measured(name: str) -> dict:
    return json.loads((ROOT / "docs" / "results" / f"{name}.json").read_text(encoding="utf-8"))


def fill(readme: str, name: str, text: str) -> str:
    pattern = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
    return re.sub(pattern, lambda match: f"{match[1]}{text}\n{match[2]}", readme, flags=re.S)


TABLES = {
    "times": times_table,
    "speed": speed_table,
    "quality": quality_table,
    "few_steps": few_steps_table,
    "soak": soak_table,
}
