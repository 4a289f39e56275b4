"""Pictures. Images are clipped to their range, never rescaled by their own extremes: drift must stay visible.

Drawn with two pixels for each one shown, which sharp screens need; every picture carries its width and its text.
"""

import io
import sys
import textwrap
import time

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
            _plain_ticks(axes.xaxis)
            _plain_ticks(axes.yaxis)
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
    buffer, values = io.BytesIO(), np.asarray(picture.convert("RGB"))
    if (values == values[..., :1]).all():  # one channel is enough for grey
        picture = picture.convert("L")
    picture.save(buffer, "png")
    return Image(buffer.getvalue(), format="png", metadata={"alt": alt, "width": picture.width // 2})


def image_grid(images: Tensor, *, alt: str, columns: int = 8, value_range: tuple[float, float] = (-1, 1)) -> None:
    """Show images (N, C, H, W), uint8 or floats within `value_range` (clipped), row by row."""
    show(mosaic(in_rows(images, columns), value_range=value_range), alt)


def in_rows(images: Tensor, columns: int) -> dict[str, Tensor]:
    """Rows without names (of spaces nothing is seen)."""
    return {" " * i: images[i : i + columns] for i in range(0, len(images), columns)}


def image_rows(
    rows: dict[str, Tensor], *, alt: str, titles: list[str] = (), value_range: tuple[float, float] = (-1, 1)
) -> None:
    """Show rows of images (N, C, H, W) under each other, named by the dictionary's keys, under titles for the columns:
    uint8, or floats of which `value_range` is black to white, the rest clipped. An image of NaN is an empty place."""
    show(mosaic(rows, titles, value_range), alt)


def mosaic(
    rows: dict[str, Tensor], titles: list[str] = (), value_range=(-1, 1), *, width: int = 1600, high: int = 84
) -> PILImage.Image:
    """The picture that `image_rows` shows. Every pixel of an image is the same whole number of pixels wide; images are
    `high` pixels high, or up to twice that, as `width` allows. White ones get a thin frame."""
    images = [_pixels(row, value_range) for row in rows.values()]
    names, most = [textwrap.fill(name, 16) for name in rows], max(map(len, images))
    room = max(FONT.getlength(line) for name in names for line in name.split("\n"))
    left, top = round(room + 3 * GAP) if room else 0, 40 if titles else 0
    height, wide = images[0].shape[1:3]
    times = max(1, round(high / height), min(round(2 * high / height), ((width - left - GAP) // most - GAP) // wide))
    high, wide = height * times, wide * times
    across = left + GAP + most * (wide + GAP)
    picture = PILImage.new("RGB", (across + across % 2, top + GAP + len(images) * (high + GAP)), "white")
    pen = ImageDraw.Draw(picture)
    for i, (name, row) in enumerate(zip(names, images, strict=True)):
        y = top + GAP + i * (high + GAP)
        pen.multiline_text((GAP + room, y + high / 2), name, "black", FONT, anchor="rm", align="right")
        for j, image in enumerate(row):
            x = left + GAP + j * (wide + GAP)
            if np.concatenate([image[[0, -1]].ravel(), image[:, [0, -1]].ravel()]).mean() > 0.9:
                pen.rectangle((x - 2, y - 2, x + wide + 1, y + high + 1), "#A0A0A0")
            if not np.isnan(image).any():
                small = PILImage.fromarray((255 * image).round().astype(np.uint8))
                picture.paste(small.resize((wide, high), PILImage.Resampling.NEAREST), (x, y))
    for i, title in enumerate(titles):
        middle, half = left + GAP + wide / 2 + i * (wide + GAP), FONT.getlength(title) / 2
        pen.text((min(middle, picture.width - half), top / 2), title, "black", FONT, anchor="mm")
    return picture


def joined(first: PILImage.Image, second: PILImage.Image, *, beside: bool = False) -> PILImage.Image:
    """Two pictures as one: the second below the first, or beside it."""
    x, y = (first.width, 0) if beside else (0, first.height)
    both = PILImage.new("RGB", (max(first.width, x + second.width), max(first.height, y + second.height)), "white")
    both.paste(first, (0, (both.height - first.height) // 2 if beside else 0))
    both.paste(second, (x, y))
    return both.quantize(256, dither=PILImage.Dither.NONE)


def _pixels(images: Tensor, value_range: tuple[float, float]) -> np.ndarray:
    """(N, C, H, W) -> (N, H, W, 3) of floats in [0, 1], or NaN."""
    images = torch.as_tensor(images)
    whole = images.dtype == torch.uint8
    if images.ndim != 4 or images.shape[1] not in (1, 3) or not (whole or images.is_floating_point()):
        found = f"{tuple(images.shape)} of {images.dtype}"
        raise ValueError(f"expected images (N, C, H, W), C 1 or 3, as floats or uint8, got {found}")
    low, high = (0, 255) if whole else value_range
    x = ((images.detach().float().cpu() - low) / (high - low)).clamp(0, 1)
    return x.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()


class LiveLoss:
    """A progress bar and a curve of the loss, called `label`, that grow while a training loop runs; call it with the
    loss once a step, `steps` times, of which a run that goes on has made those with `losses` (N,).

    Means over `mean_over` steps are drawn every few `seconds`; until then losses stay on the device, so that watching
    does not slow training down. `samples`, a callable () -> images (N, C, H, W) in [-1, 1] to draw under the curve, is
    called at the end, and as often as keeps it below a tenth of the time. If it fails the run goes on without.
    """

    def __init__(self, steps, *, label="loss", mean_over=50, seconds=3.0, losses=(), samples=None):
        self.steps, self.label, self.mean_over, self.seconds = steps, label, mean_over, seconds
        self.samples, self.count = samples, len(losses)
        self._losses = torch.zeros(steps)  # one tensor: thousands of small ones keep much memory from being reused
        self._losses[: self.count] = torch.as_tensor(losses)
        self.images, self.sampled, self.sampling = None, time.monotonic(), 1.0
        self.handle = display(self._picture(), display_id=True)  # None outside of a notebook
        self.drawn = time.monotonic()
        self.bar = tqdm(total=steps, initial=self.count, unit="step", mininterval=1.0, ncols=88, file=sys.stdout)

    def __call__(self, loss: Tensor) -> None:
        if self.count == self.steps:
            raise ValueError(f"LiveLoss was made for {self.steps} steps, and this is one more: make another")
        loss = torch.as_tensor(loss)
        self._losses = self._losses.to(loss.device)
        self._losses[self.count] = loss.detach()
        self.count += 1
        self.bar.update()
        if self.count == self.steps:
            self.close(sample=True)
        elif time.monotonic() - self.drawn > self.seconds:
            self._draw(time.monotonic() - self.sampled > 10 * self.sampling)

    def close(self, sample: bool = False) -> None:
        """Draw what there is, and end the line of the progress bar: after the last step, or where a run stops."""
        if not self.bar.disable:  # as it is once closed
            self._draw(sample)
            self.bar.close()

    @property
    def losses(self) -> Tensor:
        """The losses so far, (N,)."""
        return self._losses[: self.count]

    def means(self, length: int) -> list[float]:
        """Mean losses of consecutive stretches of `length` steps (an epoch, say), an incomplete last one left out."""
        return self.losses[: self.count // length * length].reshape(-1, length).mean(1).tolist()

    def _draw(self, sample: bool = False) -> None:
        """Nothing that goes wrong here may end the run: it is worth more than its picture."""
        try:
            if sample and self.samples:
                began = time.monotonic()
                self.images = mosaic(in_rows(self.samples(), 8))
                self.sampled = time.monotonic()
                self.sampling = self.sampled - began
        except Exception as error:
            self.samples = None
            tqdm.write(f"Samples are not shown: {error}", file=sys.stdout)
        try:
            if self.handle:
                self.handle.update(self._picture())
        except Exception as error:
            self.handle = None
            tqdm.write(f"The curve is no longer shown: {error}", file=sys.stdout)
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
        fall = f": from {means[0]:.4f} to {means[-1]:.4f}" if means else ""
        text = f"Curve of {self.label} over {self.count} steps{fall}"
        if self.images is None:
            return _image(figure, text)
        return _image(joined(chart(figure), self.images), f"{text}; below it, samples of the model")


def plot_curves(
    curves: dict, *, alt: str, xlabel: str = "step t", ylabel: str = "", level: float | None = None, log: str = ""
) -> None:
    """Draw curves, with their names beside their ends where these lie far enough apart.

    `curves` is name -> y (N,), drawn over 0 ... N-1, or name -> (x, y); or title -> such a dictionary, for panels side
    by side with the same y axis. `level` is the height of a thin line, `log` the logarithmic axes: "x", "y" or "xy".
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
    """Write the names of the lines beside their right ends, if these lie at one x and clearly apart."""
    lines = [line for line in axes.lines if not line.get_label().startswith("_")]
    ends = [line.get_xydata()[-1] for line in lines]
    x, y = axes.transLimits.transform(axes.transScale.transform(ends)).T
    if not np.isfinite(y).all() or np.ptp(x) > 0.01 or (np.diff(np.sort(y)) < 0.08).any():
        return False
    for line, end in zip(lines, ends, strict=True):
        axes.annotate(line.get_label(), end, (5, 0), textcoords="offset points", va="center", fontsize=10)
    return True


def plot_walks(panels: dict[str, tuple[Tensor, Tensor, Tensor]], *, alt: str, ylabel: str = "$x_t$") -> None:
    """Draw random walks side by side: title -> (walks (steps, N), mean (steps,), standard deviation (steps,)); the
    walks as thin lines, the mean as a thick one, and a band of two standard deviations to either side."""
    figure, axes = subplots(1, len(panels), size=(8, 3.2), sharey=True, squeeze=False)
    for axis, (title, (walks, mean, std)) in zip(axes[0], panels.items(), strict=True):
        t = range(len(walks))
        axis.fill_between(t, mean - 2 * std, mean + 2 * std, color=COLOURS[1], alpha=0.25, linewidth=0)
        axis.plot(t, walks.numpy(), color="0.35", linewidth=0.5)
        axis.plot(t, mean, color=COLOURS[0], linewidth=2.5)
        axis.set(title=title, xlabel="step t")
    axes[0, 0].set_ylabel(ylabel)
    show(figure, alt)


def explore(frames: dict[str, list], *, slider: str = "step", menu: str = "") -> widgets.VBox:
    """A slider and a Play button over frames, and a menu where there are several series of them.

    `frames` is name of a series -> its frames, each a line of text and rows of images (N, C, H, W) in [-1, 1]; `slider`
    and `menu` say what is chosen. Pictures are drawn before the widget appears, so the slider only swaps them. A page
    that shows no widgets has a sheet of up to 72 frames in its place; the course's site makes a slider of it.
    """

    def picture(rows: list[Tensor]) -> bytes:
        return _image(mosaic({" " * i: row for i, row in enumerate(rows)}, width=0), "").data

    drawn = {name: [(text, picture(rows)) for text, rows in series] for name, series in frames.items()}
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
    box = _Explorer([widgets.HBox([names] * (len(drawn) > 1) + [play, place]), label, image])
    box.sheet = _sheet(frames)
    box.sheet.metadata["frames"] |= {"slider": slider, "menu": menu}
    return box


def _sheet(frames: dict[str, list]) -> Image:
    """Frames one after the other, row by row, a pixel for each of an image, in 16 levels (noise does not compress)."""
    every = -(-sum(map(len, frames.values())) // 72)
    kept = {name: series[(len(series) - 1) % every :: every] for name, series in frames.items()}  # the last one, too
    rows = [rows for series in kept.values() for _, rows in series]
    drawn = [np.concatenate([np.concatenate(_pixels(row, (-1, 1)), 1) for row in frame]) for frame in rows]
    height, width, _ = drawn[0].shape
    across = min(len(drawn), max(1, 900 // width))
    drawn += [np.ones_like(drawn[0])] * (-len(drawn) % across)
    sheet = np.concatenate([np.concatenate(drawn[i : i + across], 1) for i in range(0, len(drawn), across)])
    texts = [[name, [text for text, _ in series]] for name, series in kept.items()]  # a file would sort a dictionary
    image = _image(PILImage.fromarray((sheet * 15).round().astype(np.uint8) * 17), f"{len(rows)} moments, row by row")
    image.metadata |= {"width": sheet.shape[1], "frames": {"series": texts, "width": width, "height": height}}
    return image


class _Explorer(widgets.VBox):
    def __repr__(self) -> str:
        return "Controls that move: run this notebook to use them."

    def _repr_mimebundle_(self, **options) -> tuple[dict, dict]:
        data, metadata = self.sheet._repr_mimebundle_()
        return {**super()._repr_mimebundle_(**options), **data}, metadata
