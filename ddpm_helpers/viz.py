"""Pictures. Images are clipped to their range, never rescaled by their own extremes: drift must stay visible.

Drawn with two pixels for each one shown, which sharp screens need; every picture carries its width and its text.
"""

import io
import sys
import textwrap
import time
from collections.abc import Callable

import ipywidgets as widgets
import matplotlib
import matplotlib.style
import numpy as np
import torch
from IPython.display import Image, display
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont
from matplotlib.legend import Legend
from matplotlib.text import Text
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from PIL import Image as PILImage
from PIL import ImageDraw, ImageFont
from torch import Tensor
from tqdm import tqdm

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe-Ito: told apart by all
STYLE = {
    "axes.prop_cycle": matplotlib.cycler(color=COLOURS),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "font.size": 11,
    "legend.fontsize": 10,
    "legend.frameon": False,
}
FONT = ImageFont.truetype(findfont("DejaVu Sans"), 28)  # 10 pt at 200 dpi, as in the charts
GAP = 8  # pixels between images


def subplots(rows: int = 1, columns: int = 1, *, size: tuple[float, float] = (7.0, 3.2), **options):
    """`Figure.subplots` in the course's style: figure and axes. `size` is width and height in inches."""
    with matplotlib.style.context(["default", STYLE]):  # without what a reader's own settings say
        figure = Figure(figsize=size, dpi=200, layout="constrained")
        return figure, figure.subplots(rows, columns, **options)


def show(picture: Figure | PILImage.Image, alt: str) -> None:
    """Display a chart, or a picture with two pixels for each one shown, with a text for those who cannot see it."""
    display(_image(picture, alt))


def chart(figure: Figure) -> PILImage.Image:
    """The figure at 200 dpi in 64 colours, readable whatever style cells or a reader's settings gave its texts."""
    with matplotlib.style.context(["default", STYLE]):
        for axes in figure.axes:
            for axis in (axes.xaxis, axes.yaxis):
                _plain_ticks(axis)
        for text in figure.findobj(Text):
            text.set(usetex=False, fontsize=max(9, text.get_fontsize()))
        for legend in figure.findobj(Legend):
            legend.set_frame_on(False)
            for text in legend.findobj(Text):
                text.set_color("black")
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
    picture = PILImage.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    return picture.quantize(64, dither=PILImage.Dither.NONE)


def _plain_ticks(axis) -> None:
    """Plain numbers, at 1, 2, 5 where there is room for them, on a logarithmic axis whose ticks nobody has set."""
    if axis.get_scale() == "log" and isinstance(axis.get_major_locator(), LogLocator):
        low, high = sorted(axis.get_view_interval())
        decades = np.log10(high / low)
        log = LogLocator(subs=(1, 2, 5) if 3 * decades < axis.get_tick_space() else (1,))
        axis.set_major_locator(log if decades > 0.8 else MaxNLocator(5, steps=[1, 2, 5, 10]))
        axis.set_major_formatter(lambda x, _: f"{x:,.0f}" if x >= 1e4 else f"{x:.4g}".replace("e-0", "e-"))
        axis.set_minor_formatter(NullFormatter())


def _image(picture: Figure | PILImage.Image, alt: str) -> Image:
    picture = chart(picture) if isinstance(picture, Figure) else picture
    return Image(_png(picture), format="png", metadata={"alt": alt, "width": picture.width // 2})


def _png(picture: PILImage.Image) -> bytes:
    buffer, values = io.BytesIO(), np.asarray(picture.convert("RGB"))
    if (values == values[..., :1]).all():  # one channel is enough for grey
        picture = picture.convert("L")
    picture.save(buffer, "png")
    return buffer.getvalue()


def image_grid(images: Tensor, *, alt: str, columns: int = 8, value_range: tuple[float, float] = (-1, 1)) -> None:
    """Show images (N, C, H, W), uint8 or floats within `value_range` (clipped), row by row."""
    show(mosaic(_in_rows(images, columns), value_range=value_range), alt)


def image_rows(
    rows: dict[str, Tensor], *, alt: str, titles: list[str] = (), value_range: tuple[float, float] = (-1, 1)
) -> None:
    """Show rows of images (N, C, H, W) under each other, named by the dictionary's keys, under titles for the columns.

    Images are uint8, or floats of which `value_range` is shown as black to white, the rest clipped. Where an image is
    NaN nothing is shown. ValueError for a shape that is no row of images in grey or colour.
    """
    show(mosaic(rows, titles, value_range), alt)


def mosaic(
    rows: dict[str, Tensor], titles: list[str] = (), value_range: tuple[float, float] = (-1, 1), width: int = 1600
) -> PILImage.Image:
    """The picture that `image_rows` shows: every pixel of an image is the same whole number of pixels wide."""
    images = [_pixels(row, value_range) for row in rows.values()]
    names = [textwrap.fill(name, 16) for name in rows]
    pen = ImageDraw.Draw(PILImage.new("L", (1, 1)))
    room = max(round(pen.multiline_textbbox((0, 0), name, FONT)[2]) for name in names)
    left, top = room + 3 * GAP if room else 0, 40 if titles else 0
    high, wide = images[0].shape[1:3]
    fits = ((width - left) // max(map(len, images)) - GAP) // wide
    times = max(1, round(84 / high), min(round(168 / high), fits))  # none is tiny, should the mosaic get wider for it
    grid = PILImage.fromarray(_grid(images, times))
    picture = PILImage.new("RGB", (left + grid.width + (left + grid.width) % 2, top + grid.height), "white")
    picture.paste(grid, (left, top))
    pen = ImageDraw.Draw(picture)
    for i, name in enumerate(names):
        middle = top + GAP + high * times / 2 + i * (high * times + GAP)
        pen.multiline_text((GAP + room, middle), name, "black", FONT, anchor="rm", align="right")
    for i, title in enumerate(titles):
        middle, half = left + GAP + wide * times / 2 + i * (wide * times + GAP), FONT.getlength(title) / 2
        pen.text((min(middle, picture.width - half), top / 2), title, "black", FONT, anchor="mm")
    return picture


def joined(first: PILImage.Image, second: PILImage.Image, *, beside: bool = False) -> PILImage.Image:
    """Two pictures as one: the second below the first, or beside it."""
    x, y = (first.width, 0) if beside else (0, first.height)
    both = PILImage.new("RGB", (max(first.width, x + second.width), max(first.height, y + second.height)), "white")
    both.paste(first, (0, (both.height - first.height) // 2 if beside else 0))
    both.paste(second, (x, y))
    return both


def _in_rows(images: Tensor, columns: int) -> dict[str, Tensor]:
    """Without names: spaces are not drawn."""
    return {" " * i: images[i : i + columns] for i in range(0, len(images), columns)}


def _pixels(images: Tensor, value_range: tuple[float, float]) -> np.ndarray:
    """(N, C, H, W) -> (N, H, W, 3) of floats in [0, 1], or NaN."""
    if not isinstance(images, Tensor) or not (images.is_floating_point() or images.dtype == torch.uint8):
        found = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"expected images as a tensor of floats or of uint8, got {found}")
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"expected images (N, C, H, W) with 1 or 3 channels, got shape {tuple(images.shape)}")
    low, high = (0, 255) if images.dtype == torch.uint8 else value_range
    x = ((images.detach().float().cpu() - low) / (high - low)).clamp(0, 1)
    return x.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()


def _grid(rows: list[np.ndarray], times: int, levels: int = 255) -> np.ndarray:
    """Rows of images (N, H, W, 3) on white, `times` as large, uint8; what is white at its edge gets a thin frame."""
    height, width = (side * times for side in rows[0].shape[1:3])
    shape = (len(rows) * (height + GAP) + GAP, max(map(len, rows)) * (width + GAP) + GAP, 3)
    canvas = np.full(shape, 255, np.uint8)
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            if np.isnan(image).any():
                continue
            top, left = GAP + i * (height + GAP), GAP + j * (width + GAP)
            if np.concatenate([image[[0, -1]].ravel(), image[:, [0, -1]].ravel()]).mean() > 0.9:
                canvas[top - 2 : top + height + 2, left - 2 : left + width + 2] = 160
            values = ((image * levels).round() * (255 / levels)).round().astype(np.uint8)
            canvas[top : top + height, left : left + width] = values.repeat(times, 0).repeat(times, 1)
    return canvas


class LiveLoss:
    """A progress bar and a loss curve that grow while a training loop runs; call it once a step with the loss.

    Losses stay on the device until the curve is drawn, so that watching does not slow training down. And nothing that
    goes wrong with the picture ends a run.

    Args:
        steps: number of calls to come.
        label: what is drawn, as means over `mean_over` steps, every few `seconds`.
        losses: (N,) those of the steps before, where a run goes on.
        samples: callable () -> images (N, C, H, W) in [-1, 1], drawn under the curve; called at the end, and as often
            as keeps it below a tenth of the time.
    """

    def __init__(self, steps, *, label="loss", mean_over=50, seconds=3.0, losses=None, samples=None):
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
            raise ValueError(f"LiveLoss was made for {self.steps} steps, and this is one more: make another")
        loss = torch.as_tensor(loss)
        if self._losses.device != loss.device:
            self._losses = self._losses.to(loss.device)
        self._losses[self.count] = loss.detach()
        self.count += 1
        self.bar.update()
        last = self.count == self.steps
        if last or time.monotonic() - self.drawn > self.seconds:
            self._show(self._sample, self._draw)
        if last:
            self.bar.close()

    def close(self) -> None:
        """Where a run stops before its last step: draw what there is, and end the line of the progress bar."""
        if not self.bar.disable:  # as it is once closed
            self._show(self._draw)
            self.bar.close()

    @property
    def losses(self) -> Tensor:
        """The losses so far, (N,)."""
        return self._losses[: self.count]

    def means(self, length: int) -> list[float]:
        """Mean losses of consecutive stretches of `length` steps (an epoch, say), an incomplete last one left out."""
        losses = self.losses
        return losses[: len(losses) // length * length].reshape(-1, length).mean(1).tolist()

    def _show(self, *parts: Callable[[], None]) -> None:
        for part in parts:
            try:
                part()
            except Exception as error:
                self.samples = None
                tqdm.write(f"Not shown: {error}", file=sys.stdout)

    def _sample(self) -> None:
        began = time.monotonic()
        if self.samples and (self.count == self.steps or began - self.sampled > 10 * self.sampling):
            self.images = mosaic(_in_rows(self.samples(), 8))
            self.sampled = time.monotonic()
            self.sampling = self.sampled - began

    def _draw(self) -> None:
        if self.handle:  # there is none outside of a notebook
            self.handle.update(self._picture())
        self.drawn = time.monotonic()

    def _picture(self) -> Image:
        length = min(self.mean_over, max(1, self.count // 4))
        means = self.means(length)
        figure, axis = subplots(size=(7, 2.6))
        axis.plot([length * (i + 1) for i in range(len(means))], means)
        axis.set(xlim=(0, self.steps), xlabel="step")
        axis.set_title(f"{self.label}, mean of {length} steps", loc="left")
        if means:  # a logarithmic axis needs data
            axis.set_yscale("log")
        fall = f": it falls from {means[0]:.4f} to {means[-1]:.4f}" if means else ""
        text = f"Curve of {self.label} over {self.count} steps{fall}"
        if self.images is None:
            return _image(figure, text)
        return _image(joined(chart(figure), self.images), f"{text}; below it, samples of the model")


def plot_curves(
    curves: dict, *, alt: str, xlabel: str = "step t", ylabel: str = "", level: float | None = None, log: str = ""
) -> None:
    """Draw named curves, with their names beside their ends where these lie far enough apart.

    Args:
        curves: name -> y (N,), drawn over 0 ... N-1; or name -> (x, y). Or title -> such a dictionary: panels side by
            side with the same y axis.
        alt: text for those who cannot see the picture.
        xlabel, ylabel: names of the axes.
        level: height of a thin horizontal line.
        log: the axes that are logarithmic: "x", "y" or "xy".
    """
    panels = curves if isinstance(next(iter(curves.values())), dict) else {"": curves}
    size = (8, 3) if len(panels) > 1 else (7, 3.2)
    figure, axes = subplots(1, len(panels), size=size, sharey=True, squeeze=False)
    for axis, (title, named) in zip(axes[0], panels.items(), strict=True):
        for name, curve in named.items():
            x, y = curve if isinstance(curve, tuple) else (range(len(curve)), curve)
            axis.plot(torch.as_tensor(x).detach().cpu(), torch.as_tensor(y).detach().cpu(), label=name)
        axis.set(title=title, xlabel=xlabel, **{f"{name}scale": "log" for name in log})
    axes[0, 0].set_ylabel(ylabel)
    if level is not None:
        axes[0, 0].axhline(level, color="black", linewidth=0.8)
    if len(panels) > 1 or not _named_at_their_ends(axes[0, 0]):
        axes[0, 0].legend()
    show(figure, alt)


def _named_at_their_ends(axes: Axes) -> bool:
    """Write the names of the lines beside their right ends, if these lie at one x and, for a while, clearly apart."""
    ends, tails = {}, []
    for line in (line for line in axes.lines if not line.get_label().startswith("_")):
        tail = line.get_xydata()[-max(1, len(line.get_xydata()) // 20) :]
        ends[line.get_label()], places = tail[-1], axes.transLimits.transform(axes.transScale.transform(tail))
        tails.append((places[:, 1].min(), places[:, 1].max(), places[-1, 0]))
    tails = np.array(sorted(tails))
    if not np.isfinite(tails).all() or np.ptp(tails[:, 2]) > 0.01 or (tails[1:, 0] - tails[:-1, 1] < 0.08).any():
        return False
    for name, end in ends.items():
        axes.annotate(name, end, (5, 0), textcoords="offset points", va="center", fontsize=10)
    return True


def plot_walks(panels: dict[str, tuple[Tensor, Tensor, Tensor]], *, alt: str, ylabel: str = "$x_t$") -> None:
    """Draw random walks side by side: title -> (walks (steps, N), mean (steps,), standard deviation (steps,)).

    Walks are thin lines, the mean is a thick one, and the band reaches two standard deviations to either side.
    """
    figure, axes = subplots(1, len(panels), size=(8, 3.2), sharey=True, squeeze=False)
    for axis, (title, (walks, mean, std)) in zip(axes[0], panels.items(), strict=True):
        t = range(len(walks))
        axis.fill_between(t, mean - 2 * std, mean + 2 * std, color=COLOURS[1], alpha=0.25, linewidth=0)
        axis.plot(t, walks.numpy(), color="0.35", linewidth=0.5)
        axis.plot(t, mean, color=COLOURS[0], linewidth=2.5)
        axis.set(title=title, xlabel="step t")
    axes[0, 0].set_ylabel(ylabel)
    show(figure, alt)


def animate(frames: list[Tensor], *, alt: str, columns: int = 8, seconds: float = 0.12, pause: float = 3.0) -> None:
    """Show grids of images one after the other, for ever: an animated GIF. Its last frame stays for `pause` seconds.

    Each frame is N images (N, C, H, W) in [-1, 1], clipped. Noise does not compress, so greys are rounded to 8 levels,
    except in the last frame.
    """
    pictures = []
    for images in frames:
        rows = [_pixels(row, (-1, 1)) for row in _in_rows(images, columns).values()]
        pictures.append(PILImage.fromarray(_grid(rows, 2, 255 if images is frames[-1] else 7)))
    buffer, durations = io.BytesIO(), [round(1000 * s) for s in [seconds] * (len(frames) - 1) + [pause]]
    pictures[0].save(buffer, "gif", save_all=True, append_images=pictures[1:], duration=durations, loop=0)
    display(Image(buffer.getvalue(), format="gif", metadata={"alt": alt}))


def explore(frames: dict[str, list], *, slider: str = "step", menu: str = "") -> widgets.VBox:
    """A slider and a Play button over frames, and a menu where there are several series of them.

    Every picture is drawn before the widget appears, so moving the slider only swaps one for another.

    Args:
        frames: name of a series -> its frames, each a line of text and rows of images (N, C, H, W) in [-1, 1].
        slider: what it moves through.
        menu: what the names are.
    """
    drawn = {name: [(text, _frame(rows)) for text, rows in series] for name, series in frames.items()}
    last = min(map(len, drawn.values())) - 1
    names = widgets.Dropdown(options=list(drawn), description=menu)
    place = widgets.IntSlider(0, 0, last, description=slider, readout=False)
    play = widgets.Play(max=last, interval=200)
    widgets.jslink((play, "value"), (place, "value"))
    # In its own size, or smaller; a box would stretch two images over the whole width.
    image = widgets.Image(format="png", layout=widgets.Layout(align_self="flex-start", max_width="100%"))
    label = widgets.Label()

    def update(_=None) -> None:
        label.value, image.value = drawn[names.value][place.value]

    for control in (names, place):
        control.observe(update, "value")
    update()
    return _Explorer([widgets.HBox([names] * (len(drawn) > 1) + [play, place]), label, image])


def _frame(rows: list[Tensor]) -> bytes:
    images = [_pixels(row, (-1, 1)) for row in rows]
    return _png(PILImage.fromarray(_grid(images, max(1, round(84 / images[0].shape[1])))))


class _Explorer(widgets.VBox):
    def __repr__(self) -> str:  # what a page that shows no widgets has in its place
        return "Controls that move: run this notebook to use them."
