"""Target and weights with three seeds each: the same small network and number of steps for all.

    python tests/benchmarks/bench_targets.py [--steps 500 --samples 500]

What `bench_levers` trains from one seed, smaller: a network of 16 and 32 channels learns the noise by its plain error,
the velocity by its plain error, and the velocity with weighted timestep sampling of a share of 0.9. One seed gives all
three the same first weights, images and noise. Writes ddpm_helpers/results/targets_cpu.json, a row at a time, and goes
on with the next row if it is started again. Notebook 16 shows it. Needs MNIST; 12 minutes of one thread.
"""

import argparse
import json
from dataclasses import replace
from functools import partial

from bench_levers import SAME, noise, velocity
from ladder import draw, make_trainer, score
from record import machine, write

from ddpm_helpers import ddpm_loss, load_images, velocity_loss
from ddpm_helpers.lessons.ladder import RESULTS

PATH = RESULTS / "targets_cpu.json"
SMALL = partial(SAME, net=partial(velocity, base=16), objective=velocity_loss, steps=25)
WAYS = (
    SMALL("noise", net=partial(noise, base=16), objective=ddpm_loss),
    SMALL("velocity"),
    SMALL("velocity, weighted 0.9", config={"weighted": 0.9}),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=500, help="of training (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=500, help="to draw of each (default: %(default)s)")
    chosen, data = parser.parse_args(), load_images("mnist", strict=True)
    about = vars(chosen) | {"data": data.source}
    command = f"python tests/benchmarks/bench_targets.py --steps {chosen.steps} --samples {chosen.samples}"
    results = {**about, "command": command, **machine(), "systems": [], "faults": []}
    if PATH.exists():
        results = json.loads(PATH.read_text(encoding="utf-8"))
        if changed := [name for name, value in about.items() if results[name] != value]:
            parser.error(f"{PATH} was made with other {', '.join(changed)}: move it away")
    rows = [replace(way, seed=seed) for seed in range(3) for way in WAYS]
    for system in rows[len(results["systems"]) :]:
        trainer = make_trainer(system, data.images, chosen.steps)
        for _ in trainer.run():
            pass
        row = {"name": system.name, "seed": system.seed, "train_steps": chosen.steps, "sampler_steps": system.steps}
        row |= score(draw(system, trainer, chosen.samples), data.images)
        results["systems"].append(row)
        write(PATH, results)
        print(row, flush=True)


if __name__ == "__main__":
    main()
