"""Pictures. Images are clipped to their range, never rescaled by their own extremes: drift must stay visible."""

import html
import io
import sys
import time
from collections.abc import Callable
from functools import lru_cache

import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import Image, display
from matplotlib.figure import Figure
from PIL import Image as PILImage
from torch import Tensor
from tqdm import tqdm

from .lessons.clinic import System
from .lessons.diagnosis import loss_by_t, straight_line_loss
from .lessons.quiz import LETTERS, Case
from .sampling import Step
from .schedule import NoiseSchedule, q_sample

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe-Ito: told apart by all
GAP = 2  # white pixels between images
STYLE = {
    "axes.prop_cycle": plt.cycler(color=COLOURS),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "font.size": 11,
    "figure.facecolor": "white",
}


def subplots(rows: int = 1, columns: int = 1, *, size: tuple[float, float] = (7.0, 3.2)):
    """`matplotlib.pyplot.subplots` in the course's style; `size` is width and height in inches."""
    with plt.rc_context(STYLE):
        return plt.subplots(rows, columns, figsize=size, layout="constrained")


def show(figure: Figure, alt: str) -> None:
    """Display a figure with a text `alt` for those who cannot see it, and close it."""
    display(_picture(figure, alt))
    plt.close(figure)


def image_grid(images: Tensor, *, alt: str, columns: int = 8, value_range: tuple[float, float] = (-1, 1)) -> None:
    """Show images (N, C, H, W) in a grid, row by row.

    Args:
        images: uint8, or floats within `value_range`; what lies outside is clipped.
        alt: text for those who cannot see the picture.
        columns: images per row.
        value_range: the floats shown as black and as white.
    """
    rows = [images[i : i + columns] for i in range(0, len(images), columns)]
    image_rows({str(i): row for i, row in enumerate(rows)}, alt=alt, value_range=value_range, names=False)


def image_rows(
    rows: dict[str, Tensor],
    *,
    alt: str,
    titles: list[str] | None = None,
    value_range: tuple[float, float] = (-1, 1),
    names: bool = True,
) -> None:
    """Show rows of images under each other: the dictionary's keys name the rows, `titles` the columns.

    Args:
        rows: name -> images (N, C, H, W), uint8 or floats within `value_range` (clipped).
        alt: text for those who cannot see the picture.
        titles: one per column.
        value_range: the floats shown as black and as white.
        names: write the keys beside the rows.

    Raises:
        ValueError: if a row is not (N, C, H, W) with 1 or 3 channels.
    """
    canvas, (height, width) = _mosaic([_pixels(images, value_range) for images in rows.values()])
    inches = min(0.85 / height, 9.5 / canvas.shape[1])  # per pixel
    longest = max(len(line) for name in rows for line in name.split("\n"))
    room = max(1.3, 0.1 * longest) if names else 0.0  # 0.1 inches a letter
    size = (canvas.shape[1] * inches + room, canvas.shape[0] * inches + 0.3 * bool(titles))
    figure, axis = subplots(size=size)
    axis.imshow(canvas, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axis.set_anchor("E" if names else "C")  # spare room goes to the left, where the names are
    axis.spines[:].set_visible(False)
    middles = [(i + 0.5) * (height + GAP) for i in range(len(rows))]
    axis.set_yticks(middles if names else [], rows if names else [])
    middles = [(i + 0.5) * (width + GAP) for i in range(len(titles or []))]
    axis.set_xticks(middles, titles or [])
    axis.tick_params(length=0, labelbottom=False, labeltop=True)
    show(figure, alt)


class LiveLoss:
    """A progress bar and a loss curve that grow while a training loop runs; call it once a step with the loss.

    Losses stay on the device until the curve is drawn, so that watching does not slow training down.

    Args:
        steps: number of calls to come.
        label: what is drawn.
        mean_over: draw means over this many steps; also the length of what `means` averages.
        seconds: time between two drawings.
        losses: (N,) those of the steps before, where a run goes on.
        samples: callable () -> images (N, C, H, W) in [-1, 1], drawn under the curve; called at the end, and as often
            as keeps it below a tenth of the time.
    """

    def __init__(
        self,
        steps: int,
        *,
        label: str = "loss",
        mean_over: int = 50,
        seconds: float = 3.0,
        losses: Tensor | None = None,
        samples: Callable[[], Tensor] | None = None,
    ):
        self.steps, self.label, self.mean_over, self.seconds = steps, label, mean_over, seconds
        self.samples, self.count = samples, 0 if losses is None else len(losses)
        self._losses = torch.zeros(steps)  # one tensor: thousands of small ones keep much memory from being reused
        if self.count:
            self._losses[: self.count] = losses
        self.images, self.sampled, self.sampling = None, time.monotonic(), 1.0
        self.handle = display(self._picture(), display_id=True)
        self.drawn = time.monotonic()
        self.bar = tqdm(total=steps, initial=self.count, unit="step", mininterval=1.0, ncols=88, file=sys.stdout)

    def __call__(self, loss: Tensor) -> None:
        if self.count == self.steps:
            raise ValueError(
                f"LiveLoss was made for {self.steps} steps, and this is one more: make another for a new loop"
            )
        loss = torch.as_tensor(loss)
        if self._losses.device != loss.device:
            self._losses = self._losses.to(loss.device)
        self._losses[self.count] = loss.detach()
        self.count += 1
        self.bar.update()
        last = self.count == self.steps
        if last or time.monotonic() - self.drawn > self.seconds:
            self._sample(last)
            self._draw()
        if last:
            self.bar.close()

    def close(self) -> None:
        """Where a run stops before its last step: draw what there is, and end the line of the progress bar."""
        if not self.bar.disable:  # as it is once closed
            self._draw()
            self.bar.close()

    @property
    def losses(self) -> Tensor:
        """The losses so far, (N,)."""
        return self._losses[: self.count]

    def means(self, length: int) -> list[float]:
        """Mean losses of consecutive stretches of `length` steps (an epoch, say), an incomplete last one left out."""
        losses = self.losses
        return losses[: len(losses) // length * length].reshape(-1, length).mean(1).tolist()

    def _sample(self, last: bool) -> None:
        began = time.monotonic()
        if self.samples and (last or began - self.sampled > 10 * self.sampling):
            self.images = self.samples()
            self.sampled = time.monotonic()
            self.sampling = self.sampled - began

    def _draw(self) -> None:
        if self.handle:  # there is none outside of a notebook
            self.handle.update(self._picture())
        self.drawn = time.monotonic()

    def _picture(self) -> Image:
        length = min(self.mean_over, max(1, self.count // 4))
        means = self.means(length)
        if self.images is None:
            figure, axis = subplots(size=(7, 2.6))
        else:
            figure, (axis, below) = subplots(2, 1, size=(7, 3.6))
            canvas, _ = _mosaic([_pixels(self.images, (-1, 1))])
            below.imshow(canvas, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            below.set_axis_off()
        axis.plot([length * (i + 1) for i in range(len(means))], means)
        axis.set(xlim=(0, self.steps), xlabel="step")
        axis.set_title(f"{self.label}, mean of {length} steps", loc="left", fontsize=11)
        if means:  # a logarithmic axis needs data
            axis.set_yscale("log")
        fall = f": it falls from {means[0]:.4f} to {means[-1]:.4f}" if means else ""
        below = "; below it, samples of the model" if self.images is not None else ""
        picture = _picture(figure, f"Curve of {self.label} over {self.count} steps{fall}{below}")
        plt.close(figure)
        return picture


def plot_curves(
    curves: dict[str, Tensor | tuple[Tensor, Tensor]],
    *,
    alt: str,
    xlabel: str = "step t",
    ylabel: str = "",
    level: float | None = None,
    log: str = "",
) -> None:
    """Draw named curves in one picture.

    Args:
        curves: name -> y (N,), drawn over 0 ... N-1; or name -> (x, y).
        alt: text for those who cannot see the picture.
        xlabel: name of the horizontal axis.
        ylabel: name of the vertical axis.
        level: height of a thin horizontal line.
        log: the axes that are logarithmic: "x", "y" or "xy".
    """
    figure, axis = subplots()
    for name, curve in curves.items():
        x, y = curve if isinstance(curve, tuple) else (range(len(curve)), curve)
        axis.plot(torch.as_tensor(x).detach().cpu(), torch.as_tensor(y).detach().cpu(), label=name)
    if level is not None:
        axis.axhline(level, color="black", linewidth=0.8)
    axis.set(xlabel=xlabel, ylabel=ylabel, **{f"{name}scale": "log" for name in log})
    axis.legend(frameon=False)
    show(figure, alt)


def plot_panels(
    panels: dict[str, dict[str, tuple[list, Tensor]]], *, alt: str, xlabel: str = "step t", ylabel: str = ""
) -> None:
    """Draw named curves in panels side by side, on the same axes: title -> name -> (x, y)."""
    figure, axes = subplots(1, len(panels), size=(9, 3))
    for i, (axis, (title, curves)) in enumerate(zip(np.atleast_1d(axes), panels.items(), strict=True)):
        for name, (x, y) in curves.items():
            axis.plot(x, torch.as_tensor(y).detach().cpu(), label=name)
        axis.set(title=title, xlabel=xlabel, ylabel="" if i else ylabel)
        axis.sharey(np.atleast_1d(axes)[0])
    np.atleast_1d(axes)[0].legend(frameon=False)
    show(figure, alt)


def plot_growth(panels: dict[str, tuple[list, dict[str, list], float]], *, alt: str) -> None:
    """Draw how numbers grow, side by side on logarithmic axes, against the slope that is expected.

    Args:
        panels: name of the horizontal axis -> (x, name -> y, expected slope). Each y is divided by its first value, so
            that all begin at 1, and so does the dashed line of the expected slope.
        alt: text for those who cannot see the picture.
    """
    figure, axes = subplots(1, len(panels), size=(9, 3.2))
    for axis, (title, (x, curves, slope)) in zip(np.atleast_1d(axes), panels.items(), strict=True):
        for name, y in curves.items():
            axis.loglog(x, [value / y[0] for value in y], "o-", label=name)
        axis.loglog(
            x, [(value / x[0]) ** slope for value in x], "--", color="black", linewidth=1, label=f"slope {slope:g}"
        )
        axis.set_xticks(x, [f"{value:,}" for value in x])
        axis.minorticks_off()
        axis.set(xlabel=title)
        axis.legend(frameon=False, fontsize=9)
    np.atleast_1d(axes)[0].set_ylabel("times the first")
    show(figure, alt)


def heat_maps(panels: dict[str, Tensor], *, alt: str, xlabel: str = "step t", ylabel: str = "dimension") -> None:
    """Draw tables of numbers in [-1, 1] side by side, red to blue: title -> (N, D), N = 1 at the left, D downwards."""
    figure, axes = subplots(1, len(panels), size=(9, 3.4))
    for axis, (title, table) in zip(np.atleast_1d(axes), panels.items(), strict=True):
        extent = (0.5, len(table) + 0.5, table.shape[1] - 0.5, -0.5)
        look = {"cmap": "RdBu", "vmin": -1, "vmax": 1, "interpolation": "nearest"}
        picture = axis.imshow(table.T.numpy(), aspect="auto", extent=extent, **look)
        axis.set(title=title, xlabel=xlabel, ylabel=ylabel)
    figure.colorbar(picture, ax=axes)
    show(figure, alt)


def plot_walks(panels: dict[str, tuple[Tensor, Tensor, Tensor]], *, alt: str, ylabel: str = "$x_t$") -> None:
    """Draw random walks side by side: title -> (walks (steps, N), mean (steps,), standard deviation (steps,)).

    Walks are thin lines, the mean is a thick one, and the band reaches two standard deviations to either side.
    """
    figure, axes = subplots(1, len(panels), size=(9, 3.2))
    for i, (axis, (title, (walks, mean, std))) in enumerate(zip(np.atleast_1d(axes), panels.items(), strict=True)):
        t = range(len(walks))
        axis.fill_between(t, mean - 2 * std, mean + 2 * std, color=COLOURS[1], alpha=0.25, linewidth=0)
        axis.plot(t, walks.numpy(), color="0.35", linewidth=0.5)
        axis.plot(t, mean, color=COLOURS[0], linewidth=2.5)
        axis.set(title=title, xlabel="step t", ylabel="" if i else ylabel)
        axis.sharey(np.atleast_1d(axes)[0])
    show(figure, alt)


def plot_histograms(
    panels: dict[str, dict[str, Tensor]],
    *,
    alt: str,
    columns: int = 4,
    span: tuple[float, float] = (-4, 4),
    normal: dict[str, tuple[float, float]] | None = None,
) -> None:
    """Draw histograms in panels, each over the density of a Gaussian, a dashed line.

    Args:
        panels: title -> name -> samples (N,); the first of a panel is filled, others are outlined.
        alt: text for those who cannot see the picture.
        columns: panels per row.
        span: ends of the horizontal axis.
        normal: title -> (mean, standard deviation) of the dashed line; 0 and 1 where the title is not named.
    """
    rows = -(-len(panels) // columns)
    figure, axes = subplots(rows, columns, size=(9, 0.9 + 1.5 * rows))
    edges, x = np.linspace(*span, 81), np.linspace(*span, 400)
    labelled = None
    for axis, (title, samples) in zip(np.ravel(axes), panels.items(), strict=False):
        for j, (name, values) in enumerate(samples.items()):
            kind = {"histtype": "step", "linewidth": 1.5} if j else {"alpha": 0.45}
            axis.hist(values.detach().cpu().numpy(), edges, density=True, color=COLOURS[j], label=name, **kind)
        mean, std = (normal or {}).get(title, (0.0, 1.0))
        density = np.exp(-(((x - mean) / std) ** 2) / 2) / (std * np.sqrt(2 * np.pi))
        axis.plot(x, density, "--", color="black", linewidth=1.2)
        axis.set(title=title, yticks=[], xlim=span, ylim=(0, 1.6 * density.max()))  # spikes are cut off
        axis.spines["left"].set_visible(False)
        if len(samples) > 1 and not labelled:
            labelled = axis.legend(frameon=False, fontsize=8, loc="upper left")
    show(figure, alt)


def plot_points(panels: dict[str, tuple[Tensor, Tensor]], *, alt: str, xlabel: str = "", ylabel: str = "") -> None:
    """Draw points side by side on the same axes: title -> (points (N, 2), labels (N,), whole numbers from 0).

    A point has its label's colour; the label stands at the median of its points in the first panel, in every panel.
    """
    figure, axes = subplots(1, len(panels), size=(9, 4.2))
    first, classes = next(iter(panels.values()))
    medians = {k: first[classes == k].median(0).values.tolist() for k in classes.unique().tolist()}
    for i, (axis, (title, (points, labels))) in enumerate(zip(np.atleast_1d(axes), panels.items(), strict=True)):
        axis.scatter(*points.T.numpy(), s=5, c=labels.numpy(), cmap="tab10", vmin=0, vmax=9, alpha=0.6, linewidths=0)
        for label, (x, y) in medians.items():
            axis.text(x, y, str(label), fontsize=15, weight="bold", ha="center", va="center")
        axis.set(title=title, xlabel=xlabel, ylabel="" if i else ylabel)
        axis.sharex(np.atleast_1d(axes)[0])
        axis.sharey(np.atleast_1d(axes)[0])
    show(figure, alt)


def plot_ladder(results: dict) -> None:
    """Draw the systems of `ladder.load_ladder` as bars, the closest to real images on top, over the floor.

    Args:
        results: of `ladder.load_ladder`; nothing else is drawn.
    """
    rows = sorted(results["systems"], key=lambda row: -row["frechet"])
    kinds = ["predicts noise or velocity", "as published, with a fault", "predicts the clean image"]
    kind = [2 if row["name"].startswith("naive") else int(row["name"].endswith(", published")) for row in rows]
    left = min(row["floor"] for row in rows) / 2
    figure, axis = subplots(size=(9, 0.9 + 0.38 * len(rows)))
    for i, (row, k) in enumerate(zip(rows, kind, strict=True)):
        axis.barh(i, row["frechet"] - left, left=left, color=COLOURS[(2, 1, 0)[k]], height=0.7)
        facts = f"{row['frechet']:,.0f}   ({row['parameters']:,} parameters, {row['images_per_second']:,.0f} images/s)"
        axis.text(row["frechet"] * 1.04, i, facts, va="center", fontsize=8.5)
    axis.axvline(rows[0]["floor"], color="black", linestyle="--", linewidth=1)
    axis.text(rows[0]["floor"], len(rows) - 0.4, f"real images: {rows[0]['floor']:,.0f}", fontsize=8.5, va="bottom")
    axis.set_yticks(range(len(rows)), [row["name"] for row in rows])
    axis.set(
        xscale="log", xlim=(left, 14 * rows[0]["frechet"]), xlabel="Frechet distance of the features, less is better"
    )
    marks = [axis.barh(0, 0, color=COLOURS[(2, 1, 0)[k]], label=kinds[k]) for k in sorted(set(kind))]
    figure.legend(handles=marks, frameon=False, fontsize=8.5, loc="outside lower center", ncols=len(marks))
    order = ", ".join(f"{row['name']} {row['frechet']:,.0f}" for row in reversed(rows))
    show(figure, f"Bars of the Frechet distance, from the smallest: {order}; real images {rows[0]['floor']:,.0f}")


def plot_levers(results: dict) -> None:
    """Draw what `bench_levers` measured: the recipe, seeds of it, and variants, the closest to real images on top.

    Args:
        results: of `ladder.load_ladder("levers_cpu")`; nothing else is drawn.
    """
    rows = sorted(results["systems"], key=lambda row: -row["frechet"])
    recipe = results["systems"][0]
    seeds = [row["frechet"] for row in rows if row["name"].startswith(recipe["name"])]
    figure, axis = subplots(size=(9, 0.8 + 0.25 * len(rows)))
    axis.axvspan(min(seeds), max(seeds), color="0.88", label=f"{recipe['name']}, {len(seeds)} seeds")
    for colour, name in ((COLOURS[0], "as many steps"), (COLOURS[1], "faster or slower: more or fewer steps")):
        same = [row for row in rows if (row["train_steps"] == recipe["train_steps"]) == (name == "as many steps")]
        axis.plot([row["frechet"] for row in same], [rows.index(row) for row in same], "o", color=colour, label=name)
    for i, row in enumerate(rows):
        axis.annotate(f"{row['frechet']:,.0f}", (row["frechet"], i), (8, 0), textcoords="offset points", va="center")
    axis.set_yticks(range(len(rows)), [row["name"] for row in rows])
    axis.set(xlabel="Frechet distance of the features, less is better", ylim=(-0.7, len(rows) - 0.3))
    axis.margins(x=0.12)
    figure.legend(frameon=False, fontsize=8.5, loc="outside lower center", ncols=3)
    order = ", ".join(f"{row['name']} {row['frechet']:,.0f}" for row in reversed(rows))
    show(figure, f"Dots of the Frechet distance, from the smallest: {order}")


def explore_forward(schedules: list[NoiseSchedule], x0: Tensor, noise: Tensor, *, positions: int = 41) -> widgets.VBox:
    """A slider over the step and a drop-down for the schedule; the same images and noise everywhere.

    Every picture is drawn before the widget appears, so moving the slider only swaps one for another.

    Args:
        schedules: told apart by their names.
        x0: images (N, C, H, W) in [-1, 1], shown in one row.
        noise: same shape as `x0`.
        positions: of the slider, from step 1 to step T.
    """
    if len({schedule.name for schedule in schedules}) < len(schedules):
        raise ValueError(f"two schedules have one name: {', '.join(schedule.name for schedule in schedules)}")
    pictures = {}
    for schedule in schedules:
        steps = torch.linspace(1, schedule.T, positions).round().long()
        signal, sigma = schedule.sqrt_alpha_bar[steps].tolist(), schedule.sigma[steps].tolist()
        pictures[schedule.name] = [
            (
                _enlarged(q_sample(schedule, x0, steps[i].expand(len(x0)), noise)),
                f"t = {steps[i]} of {schedule.T}: {signal[i]:.3f} x image + {sigma[i]:.3f} x noise",
            )
            for i in range(positions)
        ]
    names = widgets.Dropdown(options=list(pictures), description="schedule")
    slider = widgets.IntSlider(0, 0, positions - 1, description="step", readout=False)
    image, label = _picture_box(), widgets.Label()

    def update(_=None) -> None:
        image.value, label.value = pictures[names.value][slider.value]

    for control in (names, slider):
        control.observe(update, "value")
    update()
    return _Explorer([widgets.HBox([names, slider]), label, image])


def explore_trajectory(path: list[Step], *, positions: int = 41) -> widgets.VBox:
    """A slider over a trajectory: the images above, below them the clean images that the model predicted.

    Every picture is drawn before the widget appears, so moving the slider only swaps one for another.

    Args:
        path: completed steps of a sampler, with N images (N, C, H, W) in [-1, 1] each; N columns are shown.
        positions: of the slider, evenly spaced from the first step to the last.
    """
    chosen = [path[i] for i in torch.linspace(0, len(path) - 1, min(positions, len(path))).round().long().tolist()]
    pictures = [_enlarged(step.x, step.x0_hat) for step in chosen]
    slider = widgets.IntSlider(0, 0, len(chosen) - 1, description="step", readout=False)
    image, label = _picture_box(), widgets.Label()

    def update(_=None) -> None:
        image.value = pictures[slider.value]
        label.value = f"t = {chosen[slider.value].t}: above, the images; below, what the model takes for clean"

    slider.observe(update, "value")
    update()
    return _Explorer([slider, label, image])


def explore_guidance(scales: list[float], images: Tensor, names: list[str] | None = None) -> widgets.VBox:
    """A slider over the scale of the guidance and a drop-down for what is asked for.

    Every picture is drawn before the widget appears, so moving the slider only swaps one for another.

    Args:
        scales: S numbers, rising.
        images: (S, K, N, C, H, W) in [-1, 1]: N images of each of K classes at each scale, shown in one row.
        names: of the K classes; 0 ... K - 1 if None.

    Raises:
        ValueError: if there are not images for every scale, and names for every class.
    """
    names = [str(k) for k in range(images.shape[1])] if names is None else names
    if images.ndim != 6 or images.shape[:2] != (len(scales), len(names)):
        raise ValueError(
            f"explore_guidance: expected images (S, K, N, C, H, W) of S = {len(scales)} scales and K = {len(names)} "
            f"classes, got {tuple(images.shape)}"
        )
    pictures = [[_enlarged(row) for row in classes] for classes in images]
    asked = widgets.Dropdown(options=[(name, k) for k, name in enumerate(names)], value=0, description="asked for")
    slider = widgets.IntSlider(0, 0, len(scales) - 1, description="scale", readout=False)
    image, label = _picture_box(), widgets.Label()

    def update(_=None) -> None:
        image.value = pictures[slider.value][asked.value]
        label.value = f"scale {scales[slider.value]:g}, asked for {names[asked.value]}"

    for control in (asked, slider):
        control.observe(update, "value")
    update()
    return _Explorer([widgets.HBox([asked, slider]), label, image])


def show_case(case: Case, images: Tensor, *, count: int = 8, answered: bool = False) -> None:
    """Show a broken system of notebook 12: its samples under those of its repaired twin, beside them its loss by t.

    Before the answer the loss is what the author of the broken code would measure. Afterwards it is measured with
    the right process, before and after the repair, and the rows change places.

    Args:
        case: one of `quiz.CASES`.
        images: the data (N, C, H, W) in [-1, 1].
        count: samples in a row.
        answered: show the picture after the repair.
    """
    broken, repaired = _system(case.fault, images), _system(case.twin, images)
    t = torch.arange(1, broken.schedule.T + 1)
    losses = {"straight line": straight_line_loss(broken.schedule, broken.images, t)}
    rows = {"healthy": case.shown(repaired.samples[:count]), "broken": case.shown(broken.samples[:count])}
    alt = f"Case {case.number}: {case.seen}"
    if answered:
        rows = {"before": rows["broken"], "after": rows["healthy"]}
        steps = torch.arange(1, repaired.schedule.T + 1)
        losses["before"] = loss_by_t(broken.model, broken.schedule, broken.images, t)
        losses["after"] = loss_by_t(repaired.model, repaired.schedule, repaired.images, steps)
        curves = {name: (t if name != "after" else steps, loss) for name, loss in losses.items()}
        alt = f"Case {case.number} before the repair and after it, with the loss by t of both"
    else:
        losses["measured"] = broken.measured_loss(t)
        curves = {name: (t, loss) for name, loss in losses.items()}
    _pictures_and_losses(rows, curves, alt)


def _pictures_and_losses(rows: dict[str, Tensor], curves: dict[str, tuple[Tensor, Tensor]], alt: str) -> None:
    """Rows of images at the left, losses by t at the right; a loss above 1.3 leaves the picture at the top."""
    canvas, (height, _) = _mosaic([_pixels(images, (-1, 1)) for images in rows.values()])
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(
            1, 2, figsize=(8.6, 1.9), layout="constrained", gridspec_kw={"width_ratios": (2.1, 1)}
        )
    left.imshow(canvas, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    left.spines[:].set_visible(False)
    left.set_yticks([(i + 0.5) * (height + GAP) for i in range(len(rows))], rows)
    left.set_xticks([])
    left.tick_params(length=0)
    looks = {"straight line": {"color": "black", "linewidth": 1, "linestyle": "--"}}
    looks |= {name: {"color": COLOURS[1]} for name in ("measured", "before")} | {"after": {"color": COLOURS[2]}}
    for name, (t, loss) in curves.items():
        right.plot(t, loss, label=name, **looks[name])
    right.set(xlabel="step t", ylim=(-0.03, 1.3), xlim=(0, None))
    right.set_title("loss", loc="left", fontsize=10)
    right.legend(frameon=False, fontsize=8, loc="center right")
    show(figure, alt)


@lru_cache(maxsize=64)
def _system(fault: Callable[[Tensor], System], images: Tensor) -> System:
    """A broken system is built once for the same tensor of images: notebook 12 shows each three times."""
    return fault(images)


def show_cases(cases: tuple[Case, ...], images: Tensor, *, count: int = 6) -> None:
    """What all the broken systems return, `count` samples each, in two columns of rows.

    Args:
        cases: of `quiz.CASES`, an even number.
        images: the data (N, C, H, W) in [-1, 1].
        count: samples of each.
    """
    strips = [case.shown(_system(case.fault, images).samples[:count]).clamp(-1, 1) for case in cases]
    half, gap = len(cases) // 2, torch.ones_like(strips[0][:1])
    rows = {
        f"{cases[i].number} and {cases[i + half].number}": torch.cat([strips[i], gap, strips[i + half]])
        for i in range(half)
    }
    image_rows(rows, alt=f"What {len(cases)} broken systems return: noise, grey, wrong digits, and digits like any")


def mark_table(marks: dict[str, list[str]], *, alt: str) -> None:
    """A table of marks: row name -> the columns in which it has one. Columns come in the order of their first mark."""
    columns = list(dict.fromkeys(name for names in marks.values() for name in names))
    table = np.array([[column in names for column in columns] for names in marks.values()], float)
    figure, axis = subplots(size=(1.8 + 0.42 * len(columns), 1.5 + 0.24 * len(marks)))
    axis.imshow(table, cmap="Blues", vmin=0, vmax=1.3, aspect="auto")
    axis.set_yticks(range(len(marks)), marks, fontsize=9)
    axis.set_xticks(range(len(columns)), columns, rotation=45, ha="left", rotation_mode="anchor", fontsize=9)
    axis.set_xticks(np.arange(0.5, len(columns) - 1), minor=True)
    axis.set_yticks(np.arange(0.5, len(marks) - 1), minor=True)
    axis.grid(which="minor", color="0.8", linewidth=0.8)
    axis.tick_params(which="both", length=0, labelbottom=False, labeltop=True)
    show(figure, alt)


def ask(case: Case) -> widgets.VBox:
    """Radio buttons for the diagnosis of a case, and a line that answers."""
    buttons = widgets.RadioButtons(
        options=[(f"{letter}  {text}", letter) for letter, text in case.choices.items()],
        value=None,
        layout=widgets.Layout(width="max-content"),
    )
    line = widgets.HTML()

    def update(_=None) -> None:
        line.value = html.escape(case.reply(buttons.value)) if buttons.value in LETTERS else ""

    buttons.observe(update, "value")
    return _Question(case, [widgets.Label(f"Case {case.number}: what is wrong?"), buttons, line])


def animate(frames: list[Tensor], *, alt: str, columns: int = 8, seconds: float = 0.12, pause: float = 3.0) -> None:
    """Show grids of images one after the other, for ever: an animated GIF.

    Noise does not compress, so greys are rounded to 8 levels, except in the last frame.

    Args:
        frames: of N images (N, C, H, W) each, in [-1, 1]; what lies outside is clipped.
        alt: text for those who cannot see the picture.
        columns: images per row.
        seconds: per frame.
        pause: seconds that the last frame stays.
    """
    pictures = []
    for images in frames:
        rows = [_pixels(images[i : i + columns], (-1, 1)) for i in range(0, len(images), columns)]
        levels = 7 if images is not frames[-1] else 255
        canvas = ((_mosaic(rows)[0] * levels).round() * (255 / levels)).round().astype(np.uint8)
        pictures.append(PILImage.fromarray(canvas.repeat(2, 0).repeat(2, 1)))
    buffer, durations = io.BytesIO(), [round(1000 * s) for s in [seconds] * (len(frames) - 1) + [pause]]
    pictures[0].save(buffer, "gif", save_all=True, append_images=pictures[1:], duration=durations, loop=0)
    display(_image(buffer.getvalue(), alt, "gif"))


class _Explorer(widgets.VBox):
    def __repr__(self) -> str:  # what a page that shows no widgets has in its place
        return "Controls that move: run this notebook to use them."


class _Question(widgets.VBox):
    def __init__(self, case: Case, children: list[widgets.Widget]):
        self.case = case
        super().__init__(children)

    def __repr__(self) -> str:
        return f'{self.case}\nTo answer without buttons: quiz.answer({self.case.number}, "a")'

    def _repr_mimebundle_(self, **options) -> dict[str, str]:  # ipywidgets would cut the text after 110 characters
        return {**super()._repr_mimebundle_(**options), "text/plain": repr(self)}


def _picture_box() -> widgets.Image:
    """For pictures in their own size, or smaller; a box would stretch two images over the whole width."""
    return widgets.Image(format="png", layout=widgets.Layout(align_self="flex-start", max_width="100%"))


def _picture(figure: Figure, alt: str) -> Image:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    picture = PILImage.open(buffer).convert("RGB")
    colours = np.asarray(picture)
    if (colours == colours[..., :1]).all():  # one channel instead of four: a file a third smaller
        buffer = io.BytesIO()
        picture.convert("L").save(buffer, "png", optimize=True)
    return _image(buffer.getvalue(), alt)


def _image(content: bytes, alt: str, kind: str = "png") -> Image:
    return Image(content, format=kind, metadata={"alt": alt})  # the IPython of Colab knows no argument `alt`


def _mosaic(rows: list[np.ndarray]) -> tuple[np.ndarray, tuple[int, int]]:
    """Put rows of pictures on one white canvas; one drawing is much faster than one per picture."""
    height, width = rows[0].shape[1:3]
    colour = any(row.ndim == 4 for row in rows)
    columns = max(len(row) for row in rows)
    canvas = np.ones((len(rows) * (height + GAP) - GAP, columns * (width + GAP) - GAP) + (3,) * colour, np.float32)
    for i, row in enumerate(rows):
        for j, picture in enumerate(row[..., None] if colour and row.ndim == 3 else row):
            top, left = i * (height + GAP), j * (width + GAP)
            canvas[top : top + height, left : left + width] = picture
    return canvas, (height, width)


def _enlarged(*rows: Tensor, times: int = 3) -> bytes:
    """A PNG of rows of images (N, C, H, W) in [-1, 1], each pixel `times` pixels wide."""
    canvas, _ = _mosaic([_pixels(images, (-1, 1)) for images in rows])
    canvas = (canvas * 255).round().astype(np.uint8).repeat(times, 0).repeat(times, 1)
    buffer = io.BytesIO()
    PILImage.fromarray(canvas).save(buffer, "png")
    return buffer.getvalue()


def _pixels(images: Tensor, value_range: tuple[float, float]):
    """(N, C, H, W) -> array (N, H, W) or (N, H, W, 3) of floats in [0, 1]."""
    if not isinstance(images, Tensor) or not (images.is_floating_point() or images.dtype == torch.uint8):
        found = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"expected images as a tensor of floats or of uint8, got {found}")
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"expected images (N, C, H, W) with 1 or 3 channels, got shape {tuple(images.shape)}")
    low, high = (0, 255) if images.dtype == torch.uint8 else value_range
    x = ((images.detach().float().cpu() - low) / (high - low)).clamp(0, 1)
    return x[:, 0].numpy() if x.shape[1] == 1 else x.permute(0, 2, 3, 1).numpy()
