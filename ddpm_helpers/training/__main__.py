"""Train a DDPM from a terminal, on one process or several.

    python -m ddpm_helpers.training --data mnist --steps 3000 --checkpoint runs/mnist.pt --samples runs/mnist.png
    torchrun --nproc-per-node 2 -m ddpm_helpers.training --data mnist --steps 3000 --checkpoint runs/mnist.pt

Run the same line again after an interruption: it goes on from the checkpoint. Several processes share each batch, so
they make the run that one process makes, in less time.
"""

import argparse
import datetime
import os
import shlex
import sys
import warnings
from dataclasses import asdict
from pathlib import Path

import torch
import torch.distributed as dist

from ..checkpoint import NETS, SCHEDULES, CheckpointError, save_pretrained
from ..data import DataError, load_images
from ..nets import VelocityNet
from ..sampling import sample
from . import (
    TrainConfig,
    Trainer,
    TrainingError,
    ddpm_loss,
    default_device,
    device_name,
    velocity_loss,
)


def arguments(line: list[str] | None = None) -> argparse.Namespace:
    defaults = TrainConfig(steps=3000)
    parser = argparse.ArgumentParser(
        prog="python -m ddpm_helpers.training",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--data", default="mnist", help="mnist, fashion, cifar10, digits, or a folder of pictures (default: mnist)")
    add("--size", type=positive, help="crop and resize pictures to this height and width")
    add("--steps", type=int, default=defaults.steps, help="optimizer steps (default: %(default)s)")
    add("--batch-size", type=int, default=defaults.batch_size, help="over all processes (default: %(default)s)")
    add("--learning-rate", type=float, default=defaults.learning_rate, help="(default: %(default)s)")
    add("--ema-decay", type=float, default=defaults.ema_decay, help="(default: %(default)s)")
    add("--seed", type=int, default=defaults.seed, help="(default: %(default)s)")
    add("--schedule", choices=SCHEDULES, default="cosine", help="(default: %(default)s)")
    add("--T", type=int, default=1000, help="steps of the schedule (default: %(default)s)")
    add(
        "--target",
        choices=("velocity", "noise"),
        default="noise",
        help="what the network predicts (default: %(default)s)",
    )
    add("--middle", action="store_true", help="draw the steps in the middle more often: learns faster")
    add("--base", type=int, default=32, help="width of the U-Net's first level (default: %(default)s)")
    add("--multipliers", type=positive, nargs="+", default=[1, 2], help="width of each level, in --base (default: 1 2)")
    add("--patch", type=positive, default=2, help="side of the squares folded into channels (default: %(default)s)")
    add("--labels", action="store_true", help="tell the network what each picture shows, to ask for it later")
    add("--flip", action="store_true", help="mirror half of the pictures, left to right")
    add("--checkpoint", help="file NAME.pt to save to every minute, and to go on from")
    add("--export", help="file NAME.safetensors for the averaged weights, in half precision, with their recipe")
    add("--samples", help="file NAME.png for 64 samples, 50 DDIM steps")
    options = parser.parse_args(line)
    if options.export and not options.export.endswith(".safetensors"):
        parser.error(f"--export: the name must end in .safetensors, got {options.export}")
    if options.samples and not options.samples.endswith((".png", ".jpg", ".jpeg")):
        parser.error(f"--samples: the name must end in .png, got {options.samples}")
    return options


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


def train(options: argparse.Namespace) -> None:
    device = join_the_others()
    if dist.is_initialized() and dist.get_rank():
        warnings.simplefilter("ignore")  # the first process says the same
    data = load_images(options.data, size=options.size, strict=options.data != "digits")
    shape = tuple(data.images.shape[1:])
    net = {
        "channels": shape[0],
        "base": options.base,
        "multipliers": options.multipliers,
        "patch": options.patch,
        "classes": len(data.classes) if options.labels else None,
    }
    torch.manual_seed(options.seed)
    config = TrainConfig(
        steps=options.steps,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        ema_decay=options.ema_decay,
        seed=options.seed,
        flip=options.flip,
        middle=options.middle,
    )
    labels = data.labels if options.labels else None
    schedule = SCHEDULES[options.schedule](options.T)
    model, objective = NETS["UNet"](**net), ddpm_loss
    if options.target == "velocity":
        model = VelocityNet(model, schedule)
    if options.target == "velocity" or options.middle:
        objective = velocity_loss
    trainer = Trainer(model, schedule, data.images, config, device, objective, labels)
    for name in filter(None, (options.export, options.samples)):  # now, and not after hours of training
        try:
            Path(name).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(f"{name}: cannot be written ({error})") from error
    model = trainer.fit(options.checkpoint)
    if trainer.rank:
        return
    if options.export:
        save_pretrained(options.export, model, net, options.schedule, options.T, recipe(trainer, data.source))
    if options.samples:
        from torchvision.utils import save_image  # torchvision takes a second to import

        labels = torch.arange(64, device=device) % model.classes if options.labels else None
        images = sample(model, trainer.schedule, 64, shape, steps=min(50, options.T), labels=labels)
        save_image(images.clamp(-1, 1) / 2 + 0.5, options.samples)


def join_the_others() -> torch.device:
    """Under torchrun, meet the other processes; the device of this one."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return default_device()
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(device)
    return device


def recipe(trainer: Trainer, source: str) -> dict:
    last = trainer.losses[-1000:]
    return {
        "command": f"python -m ddpm_helpers.training {shlex.join(sys.argv[1:])}",
        "data": source,
        **asdict(trainer.config),
        "device": device_name(trainer.device),
        "processes": trainer.world,
        "loss": round(last.mean().item(), 5),
        "loss is": f"the mean of the last {len(last)} steps",
        "torch": torch.__version__,
        "date": datetime.date.today().isoformat(),
    }


def main() -> None:
    try:
        train(arguments())
    except (CheckpointError, TrainingError, DataError, ValueError, OSError) as error:
        sys.exit(f"Error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


if __name__ == "__main__":
    main()
