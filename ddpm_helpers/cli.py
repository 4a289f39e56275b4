"""Train a DDPM from a terminal, on one process or several.

    python -m ddpm_helpers.cli --data mnist --steps 3000 --checkpoint runs/mnist.safetensors --samples runs/mnist.png
    torchrun --nproc-per-node 2 -m ddpm_helpers.cli --data mnist --steps 3000 --checkpoint runs/mnist.safetensors

Run the same line again after an interruption: it goes on from the checkpoint. Several processes share each batch, so
they make the run that one process makes, in less time.
"""

import argparse
import datetime
import os
import shlex
import sys
import tempfile
import warnings
from dataclasses import asdict
from pathlib import Path

import torch
import torch.distributed as dist

from .data import DataError, ImageData, load_images
from .files import WEIGHTS, CheckpointError, difference, read
from .losses import ddpm_loss, velocity_loss
from .machine import default_device, device_name
from .nets import UNet, VelocityNet
from .pretrained import SCHEDULES, save_pretrained
from .sampling import sample
from .train import TrainConfig, Trainer, TrainingError


def arguments(line: list[str] | None = None) -> argparse.Namespace:
    defaults, kind = TrainConfig(steps=3000), argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m ddpm_helpers.cli", description=__doc__, formatter_class=kind)

    def add(name: str, text: str, default=None, **more) -> None:
        if default is not None:
            more = {"type": type(default), "default": default, **more}
            text += " (default: %(default)s)"
        parser.add_argument(name, help=text, **more)

    add("--data", "mnist, fashion, cifar10, digits, or a folder of pictures", "mnist")
    add("--only", "use the pictures of these classes alone, such as: --only automobile ship horse", nargs="+")
    add("--size", "crop and resize pictures to this height and width", type=int)
    add("--steps", "optimizer steps", defaults.steps)
    add("--batch-size", "images per step, over all processes", defaults.batch_size)
    add("--learning-rate", "at its highest", defaults.learning_rate)
    add("--ema-decay", "of the average of the weights", defaults.ema_decay)
    add("--seed", "of the first weights, and of what is drawn in training", defaults.seed)
    add("--schedule", "how much noise each step adds", "cosine", choices=SCHEDULES)
    add("--T", "steps of the schedule", 1000)
    add("--target", "what the network predicts", "noise", choices=("velocity", "noise"))
    text = "draw this share of the steps by weight, the others uniformly; alone: all by weight. Learns faster"
    add("--weighted", text, 0.0, nargs="?", const=1.0, metavar="SHARE")
    add("--base", "width of the U-Net's first level", 32)
    add("--multipliers", "width of each level, in --base (default: 1 2)", type=int, nargs="+")
    add("--patch", "side of the patches taken as one pixel", 2)
    add("--labels", "tell the network what each picture shows, to ask for it later", action="store_true")
    add("--flip", "mirror half of the pictures, left to right", action="store_true")
    add("--checkpoint", "file NAME.safetensors to save to every minute, and to go on from")
    add("--start-from", "start from the averaged weights of such a network: a checkpoint, or weights by file or name")
    add("--other-images", "go on from the checkpoint although its images differ from these", action="store_true")
    add("--export", "file NAME.safetensors for the averaged weights, in half precision, with their recipe")
    add("--samples", "file NAME.png for 64 samples, 50 DDIM steps")
    return parser.parse_args(line)


def train(options: argparse.Namespace) -> None:
    device = join_the_others()
    if dist.is_initialized() and dist.get_rank():
        warnings.simplefilter("ignore")  # the first process says the same
    export, samples = try_place(options.export, ".safetensors"), try_place(options.samples, ".png", ".jpg", ".jpeg")
    data = load_images(options.data, size=options.size, strict=options.data != "digits")
    data = only(data, options.only) if options.only else data
    shape, classes = tuple(data.images.shape[1:]), len(data.classes) if options.labels else None
    net = {"channels": shape[0], "classes": classes, "multipliers": options.multipliers or [1, 2]}
    net |= {"base": options.base, "patch": options.patch}
    names = ("steps", "batch_size", "learning_rate", "ema_decay", "seed", "flip", "weighted")
    config = TrainConfig(**{name: getattr(options, name) for name in names})
    schedule, velocity = SCHEDULES[options.schedule](options.T), options.target == "velocity"
    torch.manual_seed(options.seed)
    model = VelocityNet(UNet(**net), schedule) if velocity else UNet(**net)
    before = start_from(options.start_from, model) if options.start_from else {}
    objective = velocity_loss if velocity or options.weighted else ddpm_loss
    trainer = Trainer(model, schedule, data.images, config, device, objective, data.labels if options.labels else None)
    model = trainer.fit(options.checkpoint, other_images=options.other_images)
    if trainer.rank:
        return

    def draw() -> None:
        from torchvision.utils import save_image  # torchvision takes a second to import

        labels = torch.arange(64, device=device) % classes if classes else None
        images = sample(model, trainer.schedule, 64, shape, steps=min(50, options.T), labels=labels)
        save_image(images.clamp(-1, 1) / 2 + 0.5, samples)

    def weigh() -> None:
        save_pretrained(export, model, net, options.schedule, options.T, recipe(trainer, data.source) | before)

    problems = []
    for path, write in ((export, weigh), (samples, draw)):
        try:
            write() if path else None
        except Exception as error:  # neither may cost the other
            problems.append(f"{path}: {error}")
    if problems:
        raise TrainingError("; ".join(problems))


def only(data: ImageData, kinds: list[str]) -> ImageData:
    """The images of these classes, whose labels are then 0, 1 ... in this order."""
    if missing := set(kinds) - set(data.classes):
        raise DataError(f"--only: there is no class {', '.join(sorted(missing))}; there are {', '.join(data.classes)}")
    chosen = torch.cat([(data.labels == data.classes.index(kind)).nonzero()[:, 0] for kind in kinds])
    labels = torch.tensor([kinds.index(data.classes[label]) for label in data.labels[chosen].tolist()])
    return ImageData(data.images[chosen], labels, tuple(kinds), f"{data.source[:-1]}, only {', '.join(kinds)}.")


def start_from(name: str, model: torch.nn.Module) -> dict:
    """Give the model the averaged weights of a checkpoint or of a file of weights; what a recipe says of that."""
    path = name if Path(name).suffix else WEIGHTS / f"{name}.safetensors"
    state = read(path, "training state", "weights")
    net = model.net if isinstance(model, VelocityNet) else model  # the same weights can learn the other target
    averaged = state["ema"] if "ema" in state else state["weights"]
    weights = {key.removeprefix("net."): value.float() for key, value in averaged.items()}
    if problem := difference(net.state_dict(), weights):
        raise CheckpointError(f"--start-from {name}: that is another network: {problem}")
    net.load_state_dict(weights)
    return {"started from": state.get("recipe", f"step {state.get('step')} of {name}")}


def try_place(name: str | None, *endings: str) -> Path | None:
    """The path of a file to be written at the end; an error now, not after hours of training, if it cannot be."""
    if not name:
        return None
    path = Path(os.path.expanduser(name))
    try:
        if path.suffix not in endings:
            raise OSError(f"the name must end in {endings[0]}")
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError("it is a folder")
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise CheckpointError(f"{name}: cannot be written ({error}); name another place") from error
    return path


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
        "command": f"python -m ddpm_helpers.cli {shlex.join(sys.argv[1:])}",
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
