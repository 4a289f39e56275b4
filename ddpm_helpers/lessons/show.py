"""Pictures and controls that a single notebook uses, from 02 to 13; what several use is in `viz`."""

import html
import io
from collections.abc import Callable
from functools import lru_cache

import ipywidgets as widgets
import numpy as np
import torch
from IPython.display import Image
from torch import Tensor

from .. import viz
from ..sampling import Step
from ..schedule import NoiseSchedule, q_sample
from ..viz import COLOURS
from .clinic import System
from .diagnosis import loss_by_t, straight_line_loss
from .quiz import LETTERS, Case


def plot_histograms(
    panels: dict[str, dict[str, Tensor]],
    *,
    alt: str,
    columns: int = 4,
    span: tuple = (-4, 4),
    normal: dict | None = None,
) -> None:
    """Draw histograms in panels, each over the density of a Gaussian, a dashed line.

    `panels` is title -> name -> samples (N,), the first filled, others outlined; `span` ends the horizontal axis;
    `normal` is title -> (mean, standard deviation) of the dashed line, else 0 and 1.
    """
    rows = -(-len(panels) // columns)
    figure, axes = viz.subplots(rows, columns, size=(8, 0.9 + 1.5 * rows), squeeze=False)
    edges, x = np.linspace(*span, 81), np.linspace(*span, 400)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, (title, samples) in zip(axes.flat, panels.items(), strict=False):
        for j, (name, values) in enumerate(samples.items()):
            kind = {"histtype": "step", "linewidth": 1.5} if j else {"alpha": 0.45}
            axis.hist(values.detach().cpu().numpy(), edges, density=True, color=COLOURS[j], label=name, **kind)
        mean, std = (normal or {}).get(title, (0.0, 1.0))
        density = np.exp(-(((x - mean) / std) ** 2) / 2) / (std * np.sqrt(2 * np.pi))
        axis.plot(x, density, "--", color="black", linewidth=1.2)
        axis.set(title=title, yticks=[], xlim=span, ylim=(0, 1.6 * density.max()))  # spikes are cut off
        axis.spines["left"].set_visible(False)
    handles, names = max((axis.get_legend_handles_labels() for axis in axes.flat), key=lambda found: len(found[1]))
    if len(names) > 1:
        figure.legend(handles, names, loc="outside lower center", ncols=len(names))
    viz.show(figure, alt)


def forward_frames(schedules: list[NoiseSchedule], x0: Tensor, noise: Tensor, positions: int = 41) -> dict:
    """For `viz.explore`: images x0 (N, C, H, W) from step 1 to step T of each schedule, with the same noise."""

    def frame(s: NoiseSchedule, t: Tensor) -> tuple:
        text = f"t = {t} of {s.T}: {s.sqrt_alpha_bar[t]:.3f} x image + {s.sigma[t]:.3f} x noise"
        return text, [q_sample(s, x0, t.expand(len(x0)), noise)]

    return {s.name: [frame(s, t) for t in torch.linspace(1, s.T, positions).round().long()] for s in schedules}


def heat_maps(panels: dict[str, Tensor], *, alt: str) -> None:
    """Draw tables of numbers in [-1, 1] side by side, red to blue: title -> (steps, dimensions), steps rightwards."""
    figure, axes = viz.subplots(1, len(panels), size=(8, 3.2), squeeze=False)
    look = {"cmap": "RdBu", "vmin": -1, "vmax": 1, "interpolation": "nearest", "aspect": "auto"}
    for axis, (title, table) in zip(axes[0], panels.items(), strict=True):
        picture = axis.imshow(table.T.numpy(), extent=(0.5, len(table) + 0.5, table.shape[1] - 0.5, -0.5), **look)
        axis.set(title=title, xlabel="step t")
    axes[0, 0].set_ylabel("dimension")
    figure.colorbar(picture, ax=axes)
    viz.show(figure, alt)


def trajectory_frames(path: list[Step], positions: int = 41) -> dict:
    """For `viz.explore`: the images of completed steps, below them the clean images that the model predicted."""
    places = torch.linspace(0, len(path) - 1, min(positions, len(path))).round().long().tolist()
    text = "above, the images; below, what the model takes for clean"
    return {"": [(f"t = {path[i].t}: {text}", [path[i].x, path[i].x0_hat]) for i in places]}


class Film(Image):
    """A GIF that says, where only text is shown, what one sees elsewhere."""

    def __repr__(self) -> str:
        return f"<a moving picture, shown by JupyterLab and on the pages: {self.metadata['alt']}>"


def animate(frames: list[Tensor], *, alt: str, columns: int = 8, seconds: float = 0.12, pause: float = 3.0) -> None:
    """Show grids of images (N, C, H, W) in [-1, 1] one after the other, for ever, the last one for `pause` seconds.

    Noise does not compress, so greys are rounded to 8 levels, except in the last frame.
    """
    rounded = [(3.5 * frame.clamp(-1, 1) + 3.5).round() / 3.5 - 1 for frame in frames[:-1]]
    pictures = [viz.mosaic(viz.in_rows(frame, columns), width=0, high=56) for frame in (*rounded, frames[-1])]
    durations = [round(1000 * s) for s in [seconds] * len(rounded) + [pause]]
    pictures[0].save(film := io.BytesIO(), "gif", save_all=True, append_images=pictures[1:], duration=durations, loop=0)
    viz.display(Film(film.getvalue(), format="gif", metadata={"alt": alt}))


def plot_points(panels: dict[str, tuple[Tensor, Tensor]], *, alt: str, xlabel: str = "", ylabel: str = "") -> None:
    """Draw points side by side on the same axes: title -> (points (N, 2), labels (N,), whole numbers from 0).

    A point has its label's colour; the label stands at the median of its points in the first panel, in every panel.
    """
    figure, axes = viz.subplots(1, len(panels), size=(8, 4), sharex=True, sharey=True, squeeze=False)
    first, classes = next(iter(panels.values()))
    medians = {k: first[classes == k].median(0).values.tolist() for k in classes.unique().tolist()}
    for axis, (title, (points, labels)) in zip(axes[0], panels.items(), strict=True):
        axis.scatter(*points.T.numpy(), s=5, c=labels.numpy(), cmap="tab10", vmin=0, vmax=9, alpha=0.6, linewidths=0)
        for label, (x, y) in medians.items():
            axis.text(x, y, str(label), fontsize=15, weight="bold", ha="center", va="center")
        axis.set(title=title, xlabel=xlabel)
    axes[0, 0].set_ylabel(ylabel)
    viz.show(figure, alt)


def plot_ladder(results: dict) -> None:
    """Draw the systems of `ladder.load_ladder`, the closest to real images on top, with the floor of real images."""

    def kind(row: dict) -> str:
        if row["name"].startswith("naive"):
            return "predicts the clean image"
        return "as published, with a fault" if row["name"].endswith(", published") else "predicts noise or velocity"

    facts = "{frechet:,.0f}  ({millions:.1f} M parameters, {images_per_second:,.0f} images/s)"
    figure, axis, order = _ranking(results["systems"], kind, facts)
    floor, worst = min(row["floor"] for row in results["systems"]), max(row["frechet"] for row in results["systems"])
    axis.axvline(floor, color="black", linestyle="--", linewidth=1, label=f"real images: {floor:,.0f}")
    axis.set(xscale="log", xlim=(floor / 2, 50 * worst))
    ticks = [digit * 10**k for k in range(6) for digit in (1, 2, 5) if floor / 2 < digit * 10**k < 2 * worst]
    axis.set_xticks(ticks, ticks)
    axis.minorticks_off()
    figure.legend(loc="outside lower center", ncols=2)
    viz.show(figure, f"Dots of the Frechet distance, from the smallest: {order}; real images {floor:,.0f}")


def plot_levers(results: dict) -> None:
    """Draw `load_ladder("levers_cpu")`: the recipe, seeds of it, and variants, the closest to real images on top."""
    recipe, kinds = results["systems"][0], ("faster or slower: more or fewer steps", "as many steps")
    same_steps = lambda row: kinds[row["train_steps"] == recipe["train_steps"]]  # noqa: E731
    figure, axis, order = _ranking(results["systems"], same_steps, "{frechet:,.0f}")
    seeds = [row["frechet"] for row in results["systems"] if row["name"].startswith(recipe["name"])]
    axis.axvspan(min(seeds), max(seeds), color="0.88", label=f"{recipe['name']}, {len(seeds)} seeds")
    axis.margins(x=0.12)
    figure.legend(loc="outside lower center", ncols=3)
    viz.show(figure, f"Dots of the Frechet distance, from the smallest: {order}")


def _ranking(systems: list[dict], kind: Callable[[dict], str], facts: str) -> tuple:
    """A dot for each system, the best on top, beside it `facts`, a format of its row; the best one's kind is blue."""
    rows = sorted(systems, key=lambda row: -row["frechet"])
    figure, axis = viz.subplots(size=(8, 1.1 + 0.25 * len(rows)))
    for colour, name in zip(COLOURS, dict.fromkeys(map(kind, reversed(rows))), strict=False):
        dots = [(row["frechet"], i) for i, row in enumerate(rows) if kind(row) == name]
        axis.plot(*zip(*dots, strict=True), "o", color=colour, label=name)
    for i, row in enumerate(rows):
        text = facts.format(**row, millions=row["parameters"] / 1e6)
        axis.annotate(text, (row["frechet"], i), (8, 0), textcoords="offset points", va="center", fontsize=9)
    axis.set_yticks(range(len(rows)), [row["name"] for row in rows])
    axis.set(xlabel="Frechet distance of the features, less is better", ylim=(-0.7, len(rows) - 0.3))
    return figure, axis, ", ".join(f"{row['name']} {row['frechet']:,.0f}" for row in reversed(rows))


def plot_growth(panels: dict[str, tuple[list, dict[str, list], float]], *, alt: str) -> None:
    """Draw how numbers grow, as multiples of the first, side by side on logarithmic axes, against an expected slope.

    `panels` is name of the horizontal axis -> (x, name -> y, expected slope).
    """
    figure, axes = viz.subplots(1, len(panels), size=(8, 3.2), squeeze=False)
    for axis, (title, (x, curves, slope)) in zip(axes[0], panels.items(), strict=True):
        for name, y in curves.items():
            axis.loglog(x, [value / y[0] for value in y], "o-", label=name)
        expected = [(value / x[0]) ** slope for value in x]
        axis.loglog(x, expected, "--", color="black", linewidth=1, label=f"slope {slope:g}")
        axis.set_xticks(x, [f"{value:,}" for value in x])
        axis.minorticks_off()
        axis.set(xlabel=title)
        axis.legend(fontsize=9)
    axes[0, 0].set_ylabel("times the first")
    viz.show(figure, alt)


def draw_preconditioning() -> None:
    """Draw a network with c_in before it, c_out behind it, and c_skip around it (Karras et al. 2022)."""
    figure, axis = viz.subplots(size=(8, 2.2))
    axis.set(xlim=(0, 8), ylim=(0, 2.2))
    axis.axis("off")
    box = {"boxstyle": "round,pad=0.4", "facecolor": "white", "edgecolor": "black"}
    for (x, y), text in {
        (2, 0.6): r"$\times\, c_{in}$",
        (4, 0.6): "network F",
        (5.6, 0.6): r"$\times\, c_{out}$",
        (4, 1.8): r"$\times\, c_{skip}$",
        (6.8, 0.6): "+",
    }.items():
        axis.text(x, y, text, ha="center", va="center", bbox=box, zorder=3)
    axis.text(0.9, 0.6, r"$x = x_0 + \rho\, \epsilon$", ha="right", va="center")
    axis.text(7.4, 0.6, r"$\hat x_0$", va="center")
    for x, text in ((2.85, "size 1"), (4.9, "size 1")):
        axis.text(x, 0.7, text, ha="center", fontsize=9, color=COLOURS[2])
    line = {"color": "0.4", "zorder": 1}
    axis.annotate("", (7.35, 0.6), (0.95, 0.6), arrowprops={"arrowstyle": "->", "color": "0.4"}, zorder=1)
    axis.plot([1.2, 1.2, 6.8], [0.6, 1.8, 1.8], **line)
    axis.annotate("", (6.8, 0.85), (6.8, 1.8), arrowprops={"arrowstyle": "->", "color": "0.4", "shrinkA": 0})
    viz.show(figure, "A noisy image goes through c_in, the network and c_out; past them, through c_skip, it is added")


def guidance_frames(scales: list[float], images: Tensor) -> dict:
    """For `viz.explore`: images (S, K, N, C, H, W), N of each of K classes at each of S scales; a series a class."""
    return {
        str(k): [(f"scale {scale:g}, asked for {k}", [row[k]]) for scale, row in zip(scales, images, strict=True)]
        for k in range(images.shape[1])
    }


@lru_cache(maxsize=64)  # the notebook shows each system three times, of the same tensor of images
def _system(fault: Callable[[Tensor], System], images: Tensor) -> System:
    return fault(images)


def show_case(case: Case, images: Tensor, *, count: int = 8, answered: bool = False) -> None:
    """Show a broken system: `count` samples under those of its repaired twin, beside them its loss by t.

    The loss is what the author of the broken code would measure; once `answered`, what the right process measures
    before the repair and after it. `images` are the data (N, C, H, W) in [-1, 1].
    """
    broken, repaired = _system(case.fault, images), _system(case.twin, images)
    bad, good = case.shown(broken.samples[:count]), case.shown(repaired.samples[:count])
    t = torch.arange(1, broken.schedule.T + 1)
    curves = {"straight line": straight_line_loss(broken.schedule, broken.images, t)}
    if answered:
        for name, each in (("before", broken), ("after", repaired)):
            steps = torch.arange(1, each.schedule.T + 1)
            curves[name] = loss_by_t(each.model, each.schedule, each.images, steps)
        rows, alt = {"before": bad, "after": good}, "before the repair and after it, with the loss by t of both"
    else:
        curves["measured"] = broken.measured_loss(t)
        rows, alt = {"healthy": good, "broken": bad}, case.seen
    figure, axis = viz.subplots(size=(2.45, 1.9))
    for (name, loss), colour in zip(curves.items(), ("black", *COLOURS[1:]), strict=False):
        axis.plot(range(1, len(loss) + 1), loss, "-" if colour in COLOURS else "--", color=colour, label=name)
    axis.set(xlabel="step t", xlim=(0, None), ylim=(-0.03, 1.3))  # a loss above 1.3 leaves the picture at the top
    axis.set_title("loss", loc="left")
    axis.legend(fontsize=9, labelspacing=0.2)
    both = viz.joined(viz.mosaic(rows, width=1130), viz.chart(figure), beside=True)
    viz.show(both, f"Case {case.number}: {alt}")


def show_cases(cases: tuple[Case, ...], images: Tensor, *, count: int = 6) -> None:
    """What all the broken systems return, `count` samples each, in two columns of rows; an even number of cases."""
    strips = [case.shown(_system(case.fault, images).samples[:count]).clamp(-1, 1) for case in cases]
    half, gap, rows = len(cases) // 2, torch.full_like(strips[0][:1], torch.nan), {}
    for left, right, a, b in zip(cases[:half], cases[half:], strips[:half], strips[half:], strict=True):
        rows[f"{left.number} and {right.number}"] = torch.cat([a, gap, b])
    viz.image_rows(rows, alt=f"What {len(cases)} broken systems return: noise, grey, wrong digits, and digits like any")


def mark_table(marks: dict[str, list[str]], *, alt: str) -> None:
    """A table of marks: row name -> the columns in which it has one. Columns come in the order of their first mark."""
    columns = list(dict.fromkeys(name for names in marks.values() for name in names))
    table = np.array([[column in names for column in columns] for names in marks.values()], float)
    figure, axis = viz.subplots(size=(1.8 + 0.42 * len(columns), 1.5 + 0.24 * len(marks)))
    axis.pcolormesh(table, cmap="Blues", vmin=0, vmax=1.3, edgecolors="0.8", linewidth=0.8)
    axis.invert_yaxis()
    slanted = {"rotation": 45, "ha": "left", "rotation_mode": "anchor"}
    axis.set_yticks(np.arange(len(marks)) + 0.5, marks, fontsize=9)
    axis.set_xticks(np.arange(len(columns)) + 0.5, columns, fontsize=9, **slanted)
    axis.tick_params(length=0, labelbottom=False, labeltop=True)
    viz.show(figure, alt)


def ask(case: Case) -> widgets.VBox:
    """Radio buttons for the diagnosis of a case, and a line that answers."""
    options = [(f"{letter}  {text}", letter) for letter, text in case.choices.items()]
    buttons = widgets.RadioButtons(options=options, value=None, layout=widgets.Layout(width="max-content"))
    line = widgets.HTML()

    def update(_=None) -> None:
        line.value = html.escape(case.reply(buttons.value)) if buttons.value in LETTERS else ""

    buttons.observe(update, "value")
    box = _Question([widgets.Label(f"Case {case.number}: what is wrong?"), buttons, line])
    box.text = f'{case}\nTo answer without buttons: quiz.answer({case.number}, "a")'
    return box


class _Question(widgets.VBox):
    def __repr__(self) -> str:
        return self.text

    def _repr_mimebundle_(self, **options) -> dict[str, str]:  # ipywidgets would cut the text after 110 characters
        return {**super()._repr_mimebundle_(**options), "text/plain": self.text}
