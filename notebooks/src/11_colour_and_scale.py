# %% [markdown]
# # Colour and scale
#
# ![Three rows of twelve small pictures: photos, and below them samples, blurred shapes before a background in similar colours](../figures/11_colour.png)
#
# *Top row: photos that the network was trained on. Below: twenty-four that it made up, after a short training on a CPU.
# From across the room they could be photos. Come close: which of them can you give a name?*
#
# **You will** train on colour photos and on a folder of your own pictures, find out why the noise must grow with the
# picture, share one training among several processes, and measure what grows how. **You need** [notebook
# 07](07_train_ddpm.ipynb) for the trainer and [notebook 08](08_sampling.ipynb) for the samplers. **Time** 50 minutes of
# reading; the cells run in about 3 minutes on 2 CPU cores.

# %% tags=["setup"]
REPO = ""  # owner/name on GitHub; `make badges REPO=owner/name` fills it in
try:
    import ddpm_helpers
except ImportError:
    assert REPO, "The helper module is missing: start this notebook with `make lab`, or see Colab in the README."
    get_ipython().run_line_magic("pip", f"install -q git+https://github.com/{REPO}")

import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from ddpm_helpers import DataError, NoiseSchedule, TrainConfig, Trainer, UNet, VelocityNet
from ddpm_helpers import budget, check, cosine_schedule, count_parameters, ddpm_loss
from ddpm_helpers import default_device, files, linear_schedule, load_images, load_pretrained
from ddpm_helpers import multiply_adds, per_image, predict_x0, q_sample, sample, snr, to_float
from ddpm_helpers import velocity_loss, verify, viz
from ddpm_helpers.lessons import show

device = default_device()
generator = torch.Generator().manual_seed(0)

# %%
data = load_images("cifar10")
print(data.source)
print(f"{tuple(data.images.shape)}, classes: {', '.join(data.classes)}")

# %% [markdown]
# CIFAR-10 (Krizhevsky 2009) is 50,000 photos of ten kinds of things, 32x32 pixels each: the classic next step after
# digits, and still small enough for a CPU to try. If the data cannot be had, painted digits stand in (the line above
# says so), and remarks about photos do not apply.
#
# We take the photos in random order, because they may lie sorted by class.

# %%
order = torch.randperm(len(data.images), generator=generator)
photos = to_float(data.images[order[:2000]])  # (2000, 3, 32, 32) in [-1, 1]
viz.image_grid(photos[:24], columns=12, alt="Twenty-four photos of 32 by 32 pixels: animals, cars, ships, planes")

# %% [markdown]
# *Even for you some of them are hard. No two share a pose, a background, or a light. All digits were white strokes on
# black.*
#
# ## What changes for colour
#
# In the mathematics nothing: an image is a list of numbers, noise is added to each, and $\epsilon$ has the shape of the
# image. In the network two layers: the first one reads $C = 3$ channels instead of one, the last one writes three. Both
# are 3x3 convolutions between the channels (`patch` = $p$ makes one place with $C p^2$ channels of each patch of $p
# \times p$ pixels, [notebook 06](06_unet.ipynb)) and the `base` = $b$ features of the first level; the last one also
# adds a bias to each number that it writes. So colour costs
#
# $$\text{parameters}(C) - \text{parameters}(1) = (C - 1)\, p^2\, (2 \cdot 3^2\, b + 1) \tag{11.1}$$

# %% tags=["nbval-check-output"]
grey, colour = (UNet(channels=c, base=32, multipliers=(1, 2, 4), patch=2) for c in (1, 3))
verify("11.1", count_parameters(colour) - count_parameters(grey), (3 - 1) * 2**2 * (2 * 9 * 32 + 1), tol=1e-9)
print(f"{count_parameters(grey):,} parameters for grey, {count_parameters(colour):,} for colour")

# %% [markdown]
# Less than one percent. What is in the three channels?

# %%
def correlation(a, b):
    return torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1].item()

def agreement(x):
    red, green, blue = x.unbind(1)
    pairs = {"red and green": (red, green), "red and blue": (red, blue), "neighbours": (x[..., 1:], x[..., :-1])}
    return ", ".join(f"{name} {correlation(*pair):.2f}" for name, pair in pairs.items())

# %%
print("photos:", agreement(photos))
print("noise: ", agreement(torch.randn(photos.shape, generator=generator)))

# %% [markdown]
# *Channels of a photo say nearly the same thing three times, and so do neighbouring pixels. Noise agrees with nothing.
# That is why it can be seen at all: what is the same in all channels and all around is picture, what differs everywhere
# is noise.*
#
# ## Mirrored, and as good as new
#
# A photo in a mirror is a photo that somebody could have taken. So we may train on it, too: twice as many pictures, for
# nothing. A mirrored 3 is no 3. Could a stranger tell which is which? Let us ask the simplest one, a linear classifier.
# It sees images, half of them mirrored by a coin, and says "mirrored" or "not". All it can use is the difference of the
# two halves. (The 10 on the diagonal keeps the weights small where pixels hardly vary.)

# %%
def told_apart(images):
    """Share of images for which least squares, fitted on one half of them, tells whether the other half is mirrored."""
    x = to_float(images).mean(1)
    features = (x - x.flip(-1))[..., : x.shape[-1] // 2].flatten(1)  # all change sign in the mirror
    side = torch.randint(0, 2, (len(x), 1), generator=generator) * 2.0 - 1
    features, half = features * side, len(x) // 2
    square = features[:half].T @ features[:half] + 10 * torch.eye(features.shape[1])
    weights = torch.linalg.solve(square, features[:half].T @ side[:half])
    return ((features[half:] @ weights).sign() == side[half:]).float().mean().item()

# %% [markdown]
# Guess before you run: what will it score on digits, and what on the photos? A coin scores 50 %.

# %%
digits = load_images("mnist")
print(digits.source)
for name, images in {"digits": digits.images[:8000], "colour images": data.images[order[:8000]]}.items():
    print(f"{name}: {told_apart(images):.0%} told right")

# %%
rows = {"digits": F.pad(to_float(digits.images[:6]), [2] * 4, value=-1), "photos": photos[:6]}
mirrored = {name: torch.cat([x, x.flip(-1)]) for name, x in rows.items()}
viz.image_rows(mirrored, alt="Six digits and their mirror images, six photos and theirs")

# %% [markdown]
# *Digits are told from their mirror images nearly always, and photos not much better than by a coin. (Somebody holds
# the camera, lettering has a direction.) The rule: flip if you could not tell. So never upside down, for the sky is
# above.*
#
# ### Exercise 11.1 - `random_flip`
#
# `x` has shape (B, C, H, W), `chance` has shape (B,), uniform in [0, 1). Return the batch with those images mirrored,
# left to right, whose number is below 1/2.

# %% tags=["exercise", "nbval-check-output"]
def random_flip(x, chance):
    ...  # one line


random_flip = check(random_flip)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `x.flip(axis)` reverses an axis. `torch.where(condition, a, b)` takes from `a` where the condition holds;
# `per_image(chance, x)` gives `chance` the shape (B, 1, 1, 1).
#
# </details>
#
# The trainer does this to each batch with `TrainConfig(flip=True)`. It helps once a network sees each picture many
# times and begins to know it by heart. Ho et al. (2020, appendix B) trained on CIFAR-10 with and without flips and saw
# a slight gain.
#
# ## A large picture is easier to see
#
# The same photos in four sizes: 8 and 16 are averaged down from 32, and 64 is enlarged. All are noised to the same step
# of the same schedule, so every pixel has the same signal-to-noise ratio. Guess before you run: in which size will you
# recognise them?

# %%
def in_size(x, side):
    if side <= x.shape[-1]:
        return F.avg_pool2d(x, x.shape[-1] // side)
    return F.interpolate(x, size=side, mode="bicubic").clamp(-1, 1)

# %%
cosine, linear = cosine_schedule(1000), linear_schedule(1000)
rows, t = {}, 500
for side in (8, 16, 32, 64):
    x0 = in_size(photos[:7], side)
    x_t = q_sample(cosine, x0, torch.full((7,), t), torch.randn(x0.shape, generator=generator))
    rows[f"{side}x{side}"] = F.interpolate(x_t, size=64)
rows["clean, 64x64"] = in_size(photos[:7], 64)
viz.image_rows(rows, alt="Seven photos in four sizes, all at step 500: the larger, the better they can be made out")

# %% [markdown]
# *One noise level in the four upper rows. In the smallest there is nothing to see; in the largest you make out shapes
# and colours. The eye averages over neighbours, and a large picture has more of them.*
#
# How much does averaging remove? The variances of independent numbers add up, and a division by $n$ divides the
# variance by $n^2$. So the mean of $n$ numbers of variance 1 has variance $1/n$, and for a block of $d \times d$ pixels
#
# $$\mathrm{Var}\Big[\frac{1}{d^2} \sum_{i=1}^{d^2} \epsilon_i\Big] = \frac{1}{d^2} \tag{11.2}$$
#
# The signal is hardly touched, because neighbours agree: the mean of a block is the pixel of a smaller photo. So a
# picture, looked at $d$ times more coarsely, has $d^2$ times the signal-to-noise ratio,
#
# $$\log \mathrm{SNR}_d = \log \mathrm{SNR} + 2 \log d \tag{11.3}$$

# %% tags=["nbval-check-output"]
large, t = in_size(photos[:200], 64).double(), torch.full((200,), 500)
x_t = q_sample(cosine, large, t, torch.randn(large.shape, generator=generator, dtype=torch.float64))
for d in (2, 4, 8):
    noise = torch.randn(100_000, d * d, generator=generator)
    verify("11.2", samples=noise.mean(1) ** 2, expected=1 / d**2)
    left = F.avg_pool2d(x_t, d) / cosine.sqrt_alpha_bar[500] - F.avg_pool2d(large, d)  # noise for each unit of signal
    log_snr = snr(cosine)[500].log() + 2 * np.log(d)
    verify("11.3", samples=(left**2).flatten(), expected=(-log_snr).exp())

# %% [markdown]
# So "step 500" does not mean the same in two sizes. Here is a way to see what it means. Take 400 photos, noise one of
# them, and ask an observer who knows all 400 which one it was. The best guess is the photo whose $\sqrt{\bar\alpha_t}\,
# x_0$, the mean of all its noisy versions, lies closest to $x_t$. (The code multiplies out minus half the squared
# distance, as in [(9.7)](09_evaluation.ipynb), without the square of $x_t$, which is the same for all.)

# %%
def recognised(schedule, x, steps):
    """Share of the images x that the best observer recognises at each step."""
    shares = []
    for t in steps:
        x_t = q_sample(schedule, x, torch.full((len(x),), t), torch.randn(x.shape, generator=generator)).flatten(1)
        means = schedule.sqrt_alpha_bar[t] * x.flatten(1)
        closest = (x_t @ means.T - means.square().sum(1) / 2).argmax(1)  # the largest is the closest
        shares.append((closest == torch.arange(len(x))).float().mean().item())
    return torch.tensor(shares)

many = budget(gpu=400, cpu=400, quick=100, unit="photos")
steps = [*range(300, 1000, 25), 999]

# %%
def in_each_size(schedule_of):
    shares = {side: recognised(schedule_of(side), in_size(photos[:many], side), steps) for side in (8, 16, 32, 64)}
    return {f"{side}x{side}": (steps, share) for side, share in shares.items()}

# %%
panels = {"linear": in_each_size(lambda side: linear), "cosine": in_each_size(lambda side: cosine)}
alt = "Share of photos recognised against t: larger sizes stay recognisable longer"
viz.plot_curves(panels, ylabel="share recognised", alt=alt)

# %%
half = steps[int((panels["cosine"]["32x32"][1] < 0.5).nonzero()[0])]
later = int((snr(cosine) < snr(cosine)[half] / 8**2).nonzero()[0])
print(f"cosine: half of the photos are lost by t = {half} for 32x32, and so, by (11.3), by t = {later} for 256x256")

# %% [markdown]
# *Every doubling of the side moves the curve to the right. Read the curve of 32x32 (green) from right to left, as
# sampling goes: at first nothing is decided, then, within a stretch, which picture it will be, and from there on only
# detail. With the linear schedule the first part takes about 200 of the 1000 steps, spent on pure noise; with the
# cosine one next to none. Nichol & Dhariwal (2021) made the cosine schedule for this reason. For 8x8 (blue) the linear
# schedule wastes about half of its steps.*
#
# The other way round, a large picture under the cosine schedule is decided right below $t = T$. At 256x256, says the
# line below the curves, half of the photos are lost about ten steps before the end, and a sampler with 50 steps, 20
# apart, jumps over all ten at once. The repair is (11.3), read backwards. A picture with $d$ times the side of one for
# which the schedule was right needs $d^2$ times the noise variance for the same signal: subtract $2 \log d$ from the
# log-SNR (Hoogeboom et al. 2023; Chen, 2023, does it by shrinking the pictures' range instead). With $\mathrm{SNR} =
# \bar\alpha / (1 - \bar\alpha)$ that is
#
# $$\bar\alpha'_t = \frac{\bar\alpha_t}{\bar\alpha_t + d^2\, (1 - \bar\alpha_t)} \tag{11.4}$$
#
# and each new $\beta'$ follows, since $\bar\alpha'_t / \bar\alpha'_{t-1} = 1 - \beta'_t$.

# %%
def shifted(schedule, d):
    signal, noise = schedule.alpha_bar.double(), d**2 * schedule.sigma.double() ** 2
    beta = 1 - (signal / (signal + noise))[1:] / (signal / (signal + noise))[:-1]
    return NoiseSchedule(torch.cat([torch.zeros(1).double(), beta]), f"{schedule.name}, shifted for {d:g} times the side")

# %% tags=["nbval-check-output"]
for d in (2, 8):
    verify("11.4", snr(shifted(cosine, d))[1:].log(), snr(cosine)[1:].log() - 2 * np.log(d), tol=1e-4)
x_t = q_sample(shifted(cosine, 2), large, t, torch.randn(large.shape, generator=generator, dtype=torch.float64))
left = F.avg_pool2d(x_t, 2) / shifted(cosine, 2).sqrt_alpha_bar[500] - F.avg_pool2d(large, 2)
verify("11.4", samples=(left**2).flatten(), expected=1 / snr(cosine)[500])

# %%
panels = {
    "linear, shifted for each size": in_each_size(lambda side: shifted(linear, side / 32)),
    "cosine, shifted for each size": in_each_size(lambda side: shifted(cosine, side / 32)),
}
alt = "With shifted schedules the curves of all four sizes coincide"
viz.plot_curves(panels, ylabel="share recognised", alt=alt)

# %% [markdown]
# *One curve each, instead of four. With the shift, step $t$ means the same in every size. (The loss does not: each
# single pixel is noisier now.) Only the curve of 8x8 lies a little lower: averaging has cost it some of its contrast.
# For pictures of 64x64 hand `shifted(cosine_schedule(1000), 2)` to the trainer.*
#
# ## Training on colour
#
# The trainer of [notebook 07](07_train_ddpm.ipynb), with flips, twice: a network that predicts the noise, and the same
# network, from the same weights, that predicts the velocity [(16.1)](16_targets_and_weights.ipynb).

# %%
config = TrainConfig(steps=budget(gpu=10_000, cpu=300, quick=4), batch_size=32, flip="standing in" not in data.source)
trained = {}
for target, objective in {"noise": ddpm_loss, "velocity": velocity_loss}.items():
    torch.manual_seed(0)
    net = UNet(channels=3, base=32, multipliers=(1, 2, 4), patch=2)
    net = VelocityNet(net, cosine) if target == "velocity" else net
    trainer = Trainer(net, cosine, data.images, config, objective=objective)
    live = viz.LiveLoss(config.steps, label=f"loss of the {target}", mean_over=20)
    for loss in trainer.run():
        live(loss)
    trained[target] = trainer.ema

# %% [markdown]
# *Two losses of two targets: their heights cannot be compared ([notebook 10](10_libraries.ipynb)). In a full run on a
# CPU both fall fast at first, and have not settled when it ends.*
#
# ## Colour that runs away
#
# The sampler turns each predicted noise into a clean image ([notebook 08](08_sampling.ipynb)): $\hat x_0 = (x_t -
# \sigma_t\, \hat\epsilon) / \sqrt{\bar\alpha_t}$, and $x_0$ is the same with the true $\epsilon$. So an error in the
# one is an error in the other, times a factor, whose square stands in [(4.21)](04_bound_to_noise.ipynb):
#
# $$\hat x_0 - x_0 = -\frac{\sigma_t}{\sqrt{\bar\alpha_t}}\; \big(\hat\epsilon - \epsilon\big) \tag{11.5}$$
#
# For a network that predicts the velocity, by [(4.19)](04_bound_to_noise.ipynb) $\hat x_0 = \sqrt{\bar\alpha_t}\, x_t -
# \sigma_t\, \hat v$, and the factor is another one:
#
# $$\hat x_0 - x_0 = -\sigma_t\; \big(\hat v - v\big) \tag{11.6}$$

# %% tags=["nbval-check-output"]
real, noise = photos[:64].to(device), torch.randn(64, 3, 32, 32, generator=generator).to(device)
table = cosine.to(device)
for step in (100, 500, 900):
    t, signal, sigma = torch.full((64,), step, device=device), cosine.sqrt_alpha_bar[step].item(), cosine.sigma[step].item()
    x_t, wrong = q_sample(table, real, t, noise), {}
    with torch.no_grad():
        for target, net in trained.items():
            wrong[target] = predict_x0(table, x_t, t, net(x_t, t)) - real
        eps_hat, v_hat = trained["noise"](x_t, t), trained["velocity"].net(x_t, t)
    verify("11.5", wrong["noise"], -sigma / signal * (eps_hat - noise), tol=1e-3)
    verify("11.6", wrong["velocity"], -sigma * (v_hat - (signal * noise - sigma * real)), tol=1e-3)

# %%
for name, schedule in {"linear": linear, "cosine": cosine}.items():
    factors = schedule.sigma / schedule.sqrt_alpha_bar
    print(f"{name}: sigma / sqrt(alpha_bar) at t = 100, 500, 900, 990, 1000:", [f"{factors[t]:,.1f}" for t in (100, 500, 900, 990, 1000)])

# %% [markdown]
# *The factor of (11.6) is never above 1. By (11.5) a prediction that is off by 0.01 at $t = T$ misses the clean image
# by 1.6 with the linear schedule and by 200 with the cosine one, where the whole range is from -1 to 1. And what kind
# of error will it be? One that differs from pixel to pixel is grain; one that many pixels share is a tint, or a wrong
# brightness. At the noisy end all that can be seen of a photo is light and dark, and large areas of colour. So that is
# what a network still gets wrong there once it has learned about grain.*
#
# Two remedies: our samplers clip each $\hat x_0$ to [-1, 1], unless you pass `clip=False`; and there is the other
# target. Guess before you run: four rows of samples from the same starts, two networks, with and without clipping.
# Which of them will you be able to look at?

# %%
shape, kinds = (3, 32, 32), {"photos": photos[:32]}
count = budget(gpu=32, cpu=32, quick=4, unit="samples")
for target, net in trained.items():
    for clip in (True, False):
        x = sample(net, table, count, shape, steps=50, clip=clip)
        kinds[f"{target},\n{'clipped' if clip else 'not clipped'}"] = x.cpu()
viz.image_rows({name: x[:10] for name, x in kinds.items()}, alt="Photos, and samples of two networks with clipping and without it")

# %% [markdown]
# *Each column below the photos is one start. In the two rows of the noise network colours glare, in the two of the
# velocity network they are pale.*

# %%
def tint(x):
    """How far the mean colour of an image is from grey: root mean square over the images."""
    means = x.mean((2, 3))  # (N, 3)
    return (means - means.mean(1, keepdim=True)).square().mean().sqrt().item()

def saturated(x):
    return (x.abs() > 0.99).float().mean().item()

# %%
for name, x in kinds.items():
    print(f"{' '.join(name.split()):21} tint {tint(x):7.3f}, {saturated(x):4.0%} of the values at an end or beyond, largest {x.abs().max():,.1f}")

# %% [markdown]
# *In a full run on a CPU: the network that predicts noise, not clipped, ends at values of up to tens of thousands,
# where 1 is full brightness. Clipped its mean colours are no stronger than those of photos, but many more values than
# in a photo lie at an end: that is the glare. With the velocity it hardly matters whether we clip. The other target,
# and the weight that comes with it (both changed here at once), did what clipping only covers. (A noise network that is
# trained for long needs both less.)*
#
# None of the samples looks like a photo, after so short a training. The losses did not say so: they count how well
# noise is told from picture, and in a photo, where neighbours agree, that is easy. To know what a dog looks like lowers
# them by next to nothing.
#
# ## With more time
#
# The shipped network had more of it, and predicts the velocity:

# %%
model, schedule, recipe = load_pretrained("cifar10", device)
print(f"{count_parameters(model):,} parameters, {schedule.name}")
for name in ("data", "steps", "batch_size", "flip", "device", "loss", "date"):
    print(f"{name:12}{recipe[name]}")

# %% [markdown]
# *About as many parameters as ours. 5,000 steps of 64 are about six passes through the photos. For comparison, Ho et
# al. (2020) made 800,000 steps of 128 photos with a network of 35.7 million parameters.*

# %% tags=["figure-11_colour"]
made = sample(model, schedule, 24 if count == 32 else 4, shape, steps=50).cpu()
rows = {"photos": photos[24:36], "samples": made[:12], "more": made[12:]}
viz.image_rows({name: x for name, x in rows.items() if len(x)}, alt="Twelve photos, and below them samples of the shipped colour network")

# %%
for name, x in {"photos": photos[24:48], "samples": made}.items():
    print(f"{name}: {agreement(x)}; tint {tint(x):.3f}, {saturated(x):.0%} at an end")

# %% [markdown]
# *From a distance, photos: there is a ground and something that stands on it, light and shade, colours that go
# together. What a person does not see from near: a thing with a name. Bodies have no heads, edges fray. The printed
# numbers notice next to nothing; only the channels agree less, red and blue above all. What can be said about a pixel
# and those around it comes first, and what a whole picture has to agree on comes last. (For digits it came within
# minutes: a stroke is all there is to agree on.)*
#
# ## Your own pictures
#
# `load_images` takes a folder: one sub-folder for each class, or all pictures in one. Real folders are never clean. Let
# us make one that has everything wrong with it that we could think of.

# %%
def enlarged(i, width, height):
    pixels = data.images[order[i]].permute(1, 2, 0).numpy()
    return Image.fromarray(pixels).resize((width, height))

folder = tempfile.TemporaryDirectory()
mine = Path(folder.name) / "mine"
for name in ("indoors", "outdoors"):
    (mine / name).mkdir(parents=True)

# %%
enlarged(0, 200, 120).save(mine / "indoors" / "a wide one.jpg")
enlarged(1, 90, 250).save(mine / "indoors" / "a tall one.png")
enlarged(2, 20, 20).save(mine / "indoors" / "a small one.png")
enlarged(3, 64, 64).convert("L").save(mine / "indoors" / "grey.png")
enlarged(4, 64, 64).convert("CMYK").save(mine / "outdoors" / "for print.jpg")
enlarged(5, 64, 64).quantize(8).save(mine / "outdoors" / "palette of 8.png")
more = {"save_all": True, "append_images": [enlarged(7, 64, 64)]}
enlarged(6, 64, 64).save(mine / "outdoors" / "animated.gif", **more)

# %% [markdown]
# And four that need more than one line: a transparent one, one with 16 bits, one that is only half there, and a photo
# whose camera was held sideways.

# %%
cut_out, disc = enlarged(8, 64, 64), np.hypot(*np.mgrid[-1:1:64j, -1:1:64j]) < 0.9
cut_out.putalpha(Image.fromarray(disc * np.uint8(255)))  # transparent outside of the disc
cut_out.save(mine / "outdoors" / "cut out.png")
deep = np.asarray(enlarged(9, 64, 64).convert("L")).astype(np.uint16) * 257  # 0 ... 65535
Image.fromarray(deep).save(mine / "indoors" / "16 bits.png")
whole = (mine / "indoors" / "a wide one.jpg").read_bytes()
(mine / "indoors" / "half.jpg").write_bytes(whole[: len(whole) // 2])
(mine / "notes.txt").write_text("not a picture")
exif = Image.Exif()
exif[0x0112] = 6  # the tag Orientation: turn it clockwise to look at it
enlarged(10, 64, 64).rotate(90).save(mine / "outdoors" / "held sideways.jpg", exif=exif)

# %%
import warnings

def load(**options):
    """Load the folder, which prints what was read; print each of its warnings in one line."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            return load_images(mine, **options)
        except DataError as error:
            print("DataError:", error)
        finally:
            for warning in said:
                print("Warning:", warning.message)

# %%
load()

# %% [markdown]
# *Pictures of different sizes cannot be one tensor. With `size` each is cropped to its middle square and resized.*

# %%
own = load(size=32)
print(tuple(own.images.shape), own.classes, own.labels.tolist())
viz.image_grid(own.images, columns=10, alt="The ten readable pictures of the folder, each cropped to a square")

# %% [markdown]
# *Read the warnings before you look at the pictures. What cannot be read is named and left out: half a photo would
# otherwise be half grey for ever. Enlarged pictures are blurred, and a network would learn blur. Everything else needs
# no warning: 16 bits are scaled to 8, a cut-out is put on white, a sideways photo turned upright. A file that claims
# more pixels than Pillow's limit, about 90 million, is skipped as well: a few kilobytes can unpack to fill the memory.*
#
# How many pictures do you need? Ten teach nothing but themselves. A thousand of one kind (faces, flowers, one style) is
# a start, with flips; variety needs more. Then, in a terminal:
#
# ```
# python -m ddpm_helpers.cli --data my_pictures --size 32 --target velocity --flip --steps 20000 --checkpoint runs/mine.safetensors --samples runs/mine.png
# ```
#
# ## Several processes
#
# Several GPUs, or several machines, can share one training. The simplest way: every process has a copy of the network,
# takes a part of each batch, and after the backward pass all of them average their gradients. With $W$ processes, equal
# shares $S_r$ of a batch of $B$ images, and $L_i$ the loss of image $i$
#
# $$\nabla \frac{1}{B} \sum_{i=1}^{B} L_i = \frac{1}{W} \sum_{r=0}^{W-1} \nabla \Big( \frac{W}{B} \sum_{i \in S_r} L_i \Big) \tag{11.7}$$
#
# Left, the gradient of the whole batch; right, the mean of what the processes compute. So they make the very step that
# one process would make, and their copies stay equal. It holds because the loss is a mean over images, and because no
# layer mixes images: GroupNorm does not, BatchNorm would.
#
# ### Exercise 11.2 - `share_of_batch`
#
# `batch` has shape (B, ...), its first axis divides by `world`, the number of processes. Return the part of process
# `rank`, which counts from 0: every `world`-th entry, from its own number on. (Not a block of neighbours: the trainer's
# steps $t$ rise through the batch, [notebook 07](07_train_ddpm.ipynb).)

# %% tags=["exercise", "nbval-check-output"]
def share_of_batch(batch, rank, world):
    ...  # one line


share_of_batch = check(share_of_batch)

# %% [markdown]
# <details><summary>Hint</summary>
#
# A slice is `[begin : end : stride]`, and each of the three may be left out.
#
# </details>

# %% tags=["nbval-check-output"]
net = UNet(channels=3, base=8, multipliers=(1, 2)).double()
x0, noise = torch.randn(2, 12, 3, 8, 6, generator=generator).double()
torch.nn.init.normal_(net.out[2].weight, std=0.1)  # it starts at zero, and would let no gradient through
t = torch.randint(1, 1001, (12,), generator=generator)

def gradient(*batch):
    net.zero_grad()
    ddpm_loss(net, cosine, *batch).backward()
    return torch.cat([p.grad.flatten() for p in net.parameters()])

parts = [[share_of_batch(part, rank, 3) for part in (x0, t, noise)] for rank in range(3)]
shares = [gradient(*part) for part in parts]
verify("11.7", gradient(x0, t, noise), torch.stack(shares).mean(0), tol=1e-9)

# %% [markdown]
# What they must share besides the gradients is luck. Each process of ours draws the random numbers of the *whole*
# batch, from the same seed, and keeps its share. So the run does not depend on how many take part. Let us see: two
# processes on this machine's CPU, and one process here with the same global batch, on the folder that we have made.
# PyTorch's launcher is called **torchrun**, which is short for `python -m torch.distributed.run`. (Where it cannot
# work, the cell says so and the comparison is left out.)

# %%
import os
import subprocess
import sys

def torchrun(processes, *options):
    """Train in several processes on the CPU; True if that went well, else it says why not."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
    program = [f"--nproc-per-node={processes}", "-m", "ddpm_helpers.cli", *map(str, options)]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONWARNINGS": "ignore"}
    try:
        how = {"env": environment, "capture_output": True, "text": True, "timeout": 300}
        done = subprocess.run([*launch, *program], **how)
    except (OSError, subprocess.TimeoutExpired) as error:
        print(f"torchrun cannot be used here ({error}); the next cells leave it out.")
        return False
    reasons = ["no reason given", *(line for line in done.stderr.splitlines() if "Error" in line)]
    failed = f"torchrun cannot be used here ({reasons[-1]}); the next cells leave it out."
    print(failed if done.returncode else done.stdout)
    return done.returncode == 0

# %%
few, file = 12, Path(folder.name) / "two.safetensors"
asked = ["--data", mine, "--size", 16, "--target", "velocity", "--base", 8, "--flip"]
ran = torchrun(2, *asked, "--steps", few, "--batch-size", 8, "--checkpoint", file)

# %%
torch.manual_seed(0)
config = TrainConfig(steps=few, batch_size=8, flip=True)
net = VelocityNet(UNet(channels=3, base=8, multipliers=(1, 2), patch=2), cosine)
one = Trainer(net, cosine, load(size=16).images, config, device="cpu", objective=velocity_loss)
losses = [loss.item() for loss in one.run()]

# %%
if ran:
    two = files.read(file)
    for step, (a, b) in enumerate(zip(losses, two["losses"].tolist(), strict=True), start=1):
        print(f"step {step:2}: loss {a:.6f} in one process, {b:.6f} in two: {abs(a - b) / a:.0e} apart")
    ours, theirs = one.model.state_dict(), two["model"]
    apart = {name: (value - theirs[name]).abs() for name, value in ours.items()}
    worst = max(apart, key=lambda name: apart[name].max())
    median = torch.cat([values.flatten() for values in apart.values()]).median()
    print(f"weights: median difference {median:.0e}, largest {apart[worst].max():.0e}, in {worst}")

# %% [markdown]
# *The losses agree to about six digits: each image is computed by itself, and only the mean over the images is added up
# in another order. The gradients are such sums, too, and what they differ by grows slowly from step to step. The weight
# that differs most here is a bias right in front of a GroupNorm that takes each channel by itself, and so takes every
# bias away: its true gradient is 0, the computed one is rounding, and Adam, which divides by the gradient's own size,
# makes a full step of it. It does no harm. So it is the same run, but for rounding. Was it faster? Not here: two
# processes share two cores that one process would also use. On a machine with several GPUs it is the same line, with
# their number:*
#
# ```
# torchrun --nproc-per-node 4 -m ddpm_helpers.cli --data cifar10 --target velocity --flip --batch-size 256 --steps 100000 --checkpoint runs/colour.safetensors
# ```
#
# `--batch-size` counts over all processes. Keep it, and you get the same run, sooner. Raise it with the number of GPUs,
# and you get another run, with less noise in its gradients; its learning rate may have to be found again.
#
# Beyond one machine the same command is started on each. For two machines with eight GPUs each:
#
# ```
# torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint FIRST:29400 --rdzv-id 7 -m ddpm_helpers.cli --data cifar10 --target velocity --flip --batch-size 1024 --steps 100000 --checkpoint runs/colour.safetensors
# ```
#
# FIRST is the name or address of the first machine; 7 is any number, the same on both. The data has to lie on both, and
# `runs` has to be a folder that both machines see. Hugging Face's **accelerate** starts the same program (with
# `--machine_rank 1` on the second machine; `--num_processes` counts over all machines):
#
# ```
# accelerate launch --multi_gpu --num_machines 2 --num_processes 16 --machine_rank 0 --main_process_ip FIRST --main_process_port 29400 -m ddpm_helpers.cli --data cifar10 --target velocity --flip --batch-size 1024 --steps 100000 --checkpoint runs/colour.safetensors
# ```
#
# All of this copies the network to every GPU. A network that does not fit on one has to be cut up (fully sharded data
# parallel, pipelines); none that this course builds comes near.
#
# ## What grows how
#
# What would it cost to go from here to pictures of 256x256? Guess before you run. When the side doubles: how much
# longer does a training step take, and how much more memory? And when the width `base` doubles?
#
# For memory we count. What the backward pass needs of the forward pass has to be kept meanwhile (the **activations**),
# and PyTorch lets us see everything that it keeps:

# %%
def activations(net, *inputs):
    """Numbers kept for the backward pass, each tensor counted once, weights left out."""
    seen, kept = {p.untyped_storage().data_ptr() for p in net.parameters()}, []

    def keep(tensor):
        place = tensor.untyped_storage().data_ptr()
        if place not in seen:
            seen.add(place)
            kept.append(tensor)  # held, so that no other takes its place
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        net(*inputs)
    return sum(tensor.numel() for tensor in kept)

# %%
import time

def median_seconds(action):
    """Of three calls, after one that warms up; `action` returns a number on the device, and reading it waits for it."""
    times = []
    for _ in range(4):
        start = time.perf_counter()
        action().item()
        times.append(time.perf_counter() - start)
    return sorted(times[1:])[1]

# %%
def costs(side, base):
    """What one picture costs in a training step, forward and backward."""
    net = UNet(channels=3, base=base, multipliers=(1, 2, 4), patch=2).to(device)
    inputs = torch.randn(4, 3, side, side).to(device), torch.full((4,), 500).to(device)

    def step():
        net(*inputs).square().mean().backward()
        return net.out[2].bias.grad.sum()

    return {
        "multiply-adds": multiply_adds(net, *inputs)[""] / 4,
        "activations": activations(net, *inputs) / 4,
        "time of a step": median_seconds(step) / 4,
    }

# %%
longest = budget(gpu=256, cpu=128, quick=64, unit="pixels a side at most")
sides = [side for side in (16, 32, 64, 128, 256) if side <= longest]
bases = [16, 32, 64, 128] if longest > 64 else [16, 32, 64]
by_side, by_base = [costs(side, 32) for side in sides], [costs(32, base) for base in bases]

# %%
counts = [5, 10, 20, 40]
net = trained["noise"]
seconds = [median_seconds(lambda n=n: sample(net, table, 2, shape, steps=n).sum()) for n in counts]

# %%
def by_name(rows):
    return {name: [row[name] for row in rows] for name in rows[0]}

# %%
panels = {
    "pixels": ([side**2 for side in sides], by_name(by_side), 1),
    "base": (bases, by_name(by_base), 2),
    "sampling steps": (counts, {"time to sample": seconds}, 1),
}

# %%
alt = "Cost against pixels, width and sampling steps, on logarithmic axes, with expected slopes"
show.plot_growth(panels, alt=alt)
for name, (x, curves, _) in panels.items():
    slopes = {what: np.log(y[-1] / y[-2]) / np.log(x[-1] / x[-2]) for what, y in curves.items()}
    text = ", ".join(f"{what} {slope:.1f}" for what, slope in slopes.items())
    print(f"{name}, last stretch: slope of {text}")

# %% [markdown]
# *On logarithmic axes a power is a straight line, and its exponent the slope; all curves begin at 1. Left: everything
# is computed for every pixel, so work and memory grow in proportion to the pixels. The time (green) does not follow at
# first: a step for a small picture is mostly overhead. (Attention is work of slope 2; in this network it sits where the
# side is eight times smaller, so it hardly shows.) Middle: each of twice as many features is computed from twice as
# many. Work grows with the square, activations only in proportion. Right: a sampling step is one pass through the
# network.*
#
# What that means for a real training, by these rules, from what is counted at 64x64:

# %%
net, step = UNet(3, 32, (1, 2, 4), patch=2), torch.tensor([500])
at_64 = activations(net, torch.randn(1, 3, 64, 64), step)
for side, base in ((32, 32), (64, 64), (256, 128)):
    per_picture = at_64 * (side / 64) ** 2 * base / 32 * 4
    state = 5 * 4 * count_parameters(UNet(3, base, (1, 2, 4), patch=2))
    print(f"{side}x{side}, base {base}: {state / 1e9:.2f} GB for weights and optimizer, {64 * per_picture / 1e9:.1f} GB for a batch of 64")

# %% [markdown]
# *In 32 bits; bfloat16 halves the second number. A picture of 256x256 costs as much as 64 of 32x32, before the network
# is any wider. Large pictures are made in two ways that avoid it: a small picture first and networks that enlarge it
# (cascades, Ho et al. 2022), or diffusion in a space of fewer numbers, into which another network has packed the
# picture (latent diffusion, Rombach et al. 2022). Our `patch` is the simplest of such packings.*

# %%
folder.cleanup()

# %% [markdown]
# ## What to remember, and what broke
#
# - Colour is three channels, and under one percent more parameters. What is hard is not colour but photos.
# - Flip what you could not tell from its mirror image.
# - The noise has to grow with the picture: twice the side, four times the noise variance for the same signal.
# - Saturated and tinted samples come from the noisy end, where a small error of the noise is a large one of the
#   picture. Clip, predict the velocity, train longer.
# - Several processes are one process, if the batch, the random numbers and the norm layers are right. Measure it.
# - Work and memory grow with the pixels, work with the square of the width, sampling with the steps.
#
# **What broke:** the network draws what it likes. Every photo came with a label, `data.labels`, and we never used it.
# One sample may have been a ship; you cannot ask for another. And at the noisy end, where it could be anything, the
# network's best guess is the mean of ships, horses and frogs. [Notebook 12](12_guidance.ipynb) conditions the network
# on the label, and then exaggerates that.
#
# ### Experiments to try
#
# - Train for ten minutes with `linear` instead of `cosine`, and with `shifted(cosine, 0.5)`. Which samples are tinted
#   most, and does the loss warn you?
# - Set `flip=True` for digits with the trainer of [notebook 07](07_train_ddpm.ipynb). Which digits become unreadable,
#   and which do not mind?
# - `told_apart` compares left and right. Let it compare top and bottom, on photos. What does the score say about skies?
# - Write a small network with BatchNorm, and try (11.7) on it. Which of the two sides is the one that you want?
# - Load a folder of your own photos with `size=32` and `size=64`, and run `recognised` on both. Do your pictures move
#   the curves?
