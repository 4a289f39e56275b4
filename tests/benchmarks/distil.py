"""Distil a shipped network to four, two and one calls, and measure what that costs.

    python -m tests.benchmarks.distil train              the student: ddpm_helpers/weights/mnist_few.safetensors
    python -m tests.benchmarks.distil measure teacher    distance and recall: ddpm_helpers/results/few_steps.json
    python -m tests.benchmarks.distil measure student

The teacher is "mnist". The student starts from "mnist_labels", which predicts the velocity, asked without a label.
Progressive distillation (Salimans & Ho 2022) into one network: its label says how many calls it has (0: four, 1: two,
2: one). First the interval of each of four calls is learned from four DDIM steps of the teacher; then that of two calls
from two steps of the student's own average with four; then one call from two. Earlier lessons stay in the batch.
"""

import argparse
import copy
import datetime
import json
from itertools import pairwise

import torch
from torch import Tensor

from ddpm_helpers import UNet, VelocityNet, load_images, load_pretrained, sample, to_float
from ddpm_helpers.data import shuffled_indices
from ddpm_helpers.files import WEIGHTS, write_bytes
from ddpm_helpers.lessons.few_steps import CALLS, RESULTS, distance, distilled_target, recall, walk
from ddpm_helpers.losses import ema_update
from ddpm_helpers.machine import device_name
from ddpm_helpers.metrics import evaluate, load_feature_net
from ddpm_helpers.pretrained import save_pretrained
from ddpm_helpers.sampling import ddim_steps
from ddpm_helpers.schedule import per_image, q_sample

ARGUMENTS = {"channels": 1, "base": 48, "multipliers": [1, 2], "patch": 2, "classes": len(CALLS)}
STAGES = (  # steps, and images of each interval of four, two and one calls
    (50, (6, 0, 0)),
    (50, (2, 8, 0)),
    (110, (1, 3, 14)),
)
RATE, CPU = 1e-3, torch.device("cpu")
COMMAND = "python -m tests.benchmarks.distil"


def without_label() -> VelocityNet:
    """The network with labels, told that there is none: that embedding is added to the time's for good."""
    model, schedule, _ = load_pretrained("mnist_labels")
    weights = dict(model.net.state_dict())
    weights["time.2.bias"] = weights["time.2.bias"] + weights.pop("label.weight")[-1]
    net = UNet(**{**ARGUMENTS, "classes": None})
    net.load_state_dict(weights)
    return VelocityNet(net, schedule)


def train(seed: int = 0) -> None:
    (teacher, schedule, _), beginner = load_pretrained("mnist"), without_label()
    student = VelocityNet(UNet(**ARGUMENTS), schedule).train()
    start = beginner.net.state_dict() | {"label.weight": torch.zeros_like(student.net.label.weight)}
    student.net.load_state_dict(start)
    average = copy.deepcopy(student).eval().requires_grad_(False)
    data, generator = load_images("mnist", strict=True), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(student.parameters(), lr=RATE)
    total, step = sum(steps for steps, _ in STAGES), 0
    for steps, shares in STAGES:
        for _ in range(steps):
            x, t, label, goal = batch(teacher, average, schedule, data.images, shares, step, generator)
            for group in optimizer.param_groups:
                group["lr"] = RATE * min(1, (step + 1) / 10, (total - step) / (total / 4))
            signal, sigma = per_image(schedule.sqrt_alpha_bar[t], x), per_image(schedule.sigma[t], x)
            error = student.net(x, t, label) - (signal * x - goal) / sigma  # of the velocity
            loss = error.square().flatten(1).mean(1)
            optimizer.zero_grad()
            loss.mean().backward()
            torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            optimizer.step()
            step += 1
            with torch.no_grad():
                for old, new in zip(average.parameters(), student.parameters(), strict=True):
                    old.copy_(ema_update(old, new, min(0.95, step / (9 + step))))
            if step % 10 == 0:
                means = {CALLS[i]: round(loss[label == i].mean().item(), 4) for i in label.unique().tolist()}
                print(f"step {step} of {total}, loss by calls {means}", flush=True)
    recipe = {
        "command": f"{COMMAND} train",
        "data": data.source,
        "teacher": "mnist",
        "started from": "mnist_labels, asked without a label",
        "labels": "how many calls it has: 0 four, 1 two, 2 one",
        "steps and images per interval": [list(stage) for stage in STAGES],
        "learning_rate": RATE,
        "seed": seed,
        "device": device_name(CPU),
        "torch": torch.__version__,
        "date": datetime.date.today().isoformat(),
    }
    sampler = {"method": "ddim", "steps": 4}
    save_pretrained(WEIGHTS / "mnist_few.safetensors", average, ARGUMENTS, "cosine", schedule.T, recipe, sampler)


def batch(teacher, average, schedule, images: Tensor, shares: tuple[int, ...], step: int, generator) -> tuple:
    """Noised images, steps, labels and the clean images that a student should answer."""
    parts, size = [], sum(calls * share for calls, share in zip(CALLS, shares, strict=True))
    fresh = to_float(images[shuffled_indices(len(images), size, step, seed=0)])
    for label, (calls, share) in enumerate(zip(CALLS, shares, strict=True)):
        stops = [*ddim_steps(schedule.T, calls), 0]
        for t, s in pairwise(stops):
            if not share:
                continue
            x0, fresh = fresh[:share], fresh[share:]
            t_images = torch.full((share,), t)
            x_t = q_sample(schedule, x0, t_images, torch.randn(x0.shape, generator=generator))
            if label == 0:
                x_s = walk(teacher, schedule, x_t, torch.linspace(t, s, 5).long().tolist())
            else:
                x_s = walk(average, schedule, x_t, [t, (t + s) // 2, s], torch.full((share,), label - 1))
            parts.append((x_t, t_images, torch.full((share,), label), distilled_target(schedule, x_t, t, x_s, s)))
    return tuple(torch.cat(part) for part in zip(*parts, strict=True))


SAMPLERS = [("DDIM", calls, "sqrt") for calls in (1, 2, 4, 8, 16)]  # "sqrt" is the network's own spacing
SAMPLERS += [("DPM-Solver++", 4, "sqrt"), ("DPM-Solver++", 8, "sqrt")]
SAMPLERS += [("Heun", 3, "log-snr"), ("Heun", 7, "log-snr")]
METHODS = {"DDIM": "ddim", "Heun": "heun", "DPM-Solver++": "dpm_solver"}


@torch.no_grad()
def measure(who: str, count: int) -> None:
    """Each row is written at once; those of the other one stay."""
    feature_net, rows = load_feature_net(), []
    real = evaluate(feature_net, to_float(load_images("mnist", train=False, strict=True).images)).features
    path = RESULTS / "few_steps.json"
    about = {
        "command": f"{COMMAND} measure teacher --samples {count}; then the same with student",
        "device": device_name(CPU),
        "torch": torch.__version__,
        "date": datetime.date.today().isoformat(),
        "data": "MNIST; distance to the features of 10,000 test images, its error by 50 bootstrap samples",
        "seeds": "one, 0",
    }

    def add(name: str, calls: int, images: Tensor) -> None:
        seen = evaluate(feature_net, images.clamp(-1, 1))
        value, error = distance(seen.features, real)
        row = {"name": name, "calls": calls, "samples": count, "distance": value, "error": error}
        row |= {"recall": recall(seen.features, real[:count]), "recognisable": seen.recognisable}
        rows.append(row)
        kept = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
        kept = [row for row in kept if (row["name"] == "student") == (who == "teacher")]
        write_bytes(path, (json.dumps({**about, "rows": kept + rows}, indent=1) + "\n").encode())
        print(row, flush=True)

    if who == "student":
        student, schedule, _ = load_pretrained("mnist_few")
        for label, calls in enumerate(CALLS):
            labels = torch.full((count,), label)
            add("student", calls, sample(student, schedule, count, steps=calls, method="ddim", labels=labels))
        return
    add("real digits", 0, to_float(load_images("mnist", strict=True).images[:count]))
    teacher, schedule, _ = load_pretrained("mnist")
    for name, calls, spacing in SAMPLERS:
        options = {"steps": (calls + 1) // 2 if name == "Heun" else calls, "method": METHODS[name]}
        add(name, calls, sample(teacher, schedule, count, spacing=spacing, **options))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("train", "measure"))
    parser.add_argument("who", nargs="?", choices=("teacher", "student"), default="student", help="whom to measure")
    parser.add_argument("--samples", type=int, default=300)
    options = parser.parse_args()
    torch.set_num_threads(1)
    train() if options.what == "train" else measure(options.who, options.samples)


if __name__ == "__main__":
    main()
