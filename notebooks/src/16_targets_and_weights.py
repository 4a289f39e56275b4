# %% [markdown]
# # What to predict, and how much each step counts
#
# ![Three rows of twelve samples from the same noise, by a network that predicts the noise, by one that predicts the velocity, and by one that was also trained mostly on other steps](../figures/16_targets.png)
#
# *One small network, trained three times: the same start, images and number of steps. In the first row it was asked for
# the noise; in the second for the velocity; in the third for the velocity again, on other steps. All rows start from the
# same noise. Which row would you keep, and would you bet that another seed agrees?*
#
# **You will** see all targets of a network as one family, derive the one that amplifies its errors least, learn how a
# weight of each step can be drawn instead of multiplied, measure which noise levels deserve training, and find out when a
# weighted loss is still a bound. **You need** [notebook 07](07_train_ddpm.ipynb) for the training loop, and
# [notebook 04](04_bound_to_noise.ipynb) for the bound and for (4.21). **Time** 75 minutes of reading; the cells ran
# in 2 minutes on one slow CPU core.

# %% tags=["setup"]
REPO = ""  # owner/name on GitHub; `make badges REPO=owner/name` fills it in
try:
    import ddpm_helpers
except ImportError:
    assert REPO, "The helper module is missing: start this notebook with `make lab`, or see Colab in the README."
    get_ipython().run_line_magic("pip", f"install -q git+https://github.com/{REPO}")

import copy

import torch

from ddpm_helpers import TrainConfig, Trainer, UNet, VelocityNet, budget, check, cosine_schedule, ddpm_loss
from ddpm_helpers import default_device, load_images, load_pretrained, per_image, predict_x0, q_sample
from ddpm_helpers import sample, snr, step_weight, stratified_steps, to_float, velocity_loss, verify, viz
from ddpm_helpers.lessons import show, targets
from ddpm_helpers.lessons.ladder import load_ladder
from ddpm_helpers.lessons.toy import Mixture, ReverseModel, double, path_density, path_means
from ddpm_helpers.losses import draw_steps

generator = torch.Generator().manual_seed(0)

# %%
data = load_images("mnist")
device = default_device()
schedule = cosine_schedule(1000).to(device)
images = data.images.to(device)  # (N, 1, 28, 28) uint8
print(data.source)

# %% [markdown]
# ## One answer, four names
#
# [Notebook 15](15_solvers.ipynb) ended with a network that was there already. What should it have been asked for?
# [(4.21)](04_bound_to_noise.ipynb) said that noise, clean image and velocity are one prediction in different units. They
# are three of a family: a **target** is a mixture of the two things that $x_t$ is made of,
#
# $$y = a_t\, {\color{#0072B2}{x_0}} + b_t\, {\color{#D55E00}{\epsilon}}$$
#
# Who sees $x_t$ and guesses $y$ has guessed both parts: two unknowns, two equations. And their errors are tied, for
# $x_t$ itself is known without error: $\sqrt{\bar\alpha_t}\, (x_0 - \hat x_0) = -\sigma_t\, (\epsilon - \hat\epsilon)$. Put
# that into $y - \hat y$:
#
# $$\big\lVert y - \hat y \big\rVert^2 = \Big( b_t - a_t\, \frac{\sigma_t}{\sqrt{\bar\alpha_t}} \Big)^2\, \big\lVert {\color{#D55E00}{\epsilon}} - {\color{#009E73}{\hat\epsilon}} \big\rVert^2 \tag{16.1}$$
#
# With $\rho = \sigma_t / \sqrt{\bar\alpha_t}$, the noise per signal, and $s^2$, the mean square of a pixel:
#
# | target | $a_t$ | $b_t$ | its squared error is that of the noise, times | who asks for it |
# |:--|:--|:--|:--|:--|
# | noise | $0$ | $1$ | $1$ | the DDPM |
# | clean image | $1$ | $0$ | $\rho^2 = 1 / \mathrm{SNR}_t$ | [notebook 01](01_corrupt_and_predict.ipynb) |
# | velocity | $-\sigma_t$ | $\sqrt{\bar\alpha_t}$ | $1 + \rho^2 = 1 / \bar\alpha_t$ | Salimans & Ho 2022 |
# | $F$ of EDM | $\rho / (s \sqrt{s^2 + \rho^2})$ | $-s / \sqrt{s^2 + \rho^2}$ | $1 + \rho^2 / s^2$ | Karras et al. 2022, derived below |
#
# The cell invents an answer that is somewhat wrong, and compares both sides for all four.

# %%
test = to_float(load_images("mnist", train=False).images[:256]).to(device)
test_noise = torch.randn(test.shape, generator=generator).to(device)
test_t = stratified_steps(torch.full((256,), 0.5), schedule.T).to(device)  # the middle of each stretch
root, sigma = (per_image(x[test_t], test) for x in (schedule.sqrt_alpha_bar, schedule.sigma))
x_t = q_sample(schedule, test, test_t, test_noise)
eps_hat = test_noise + 0.3 * torch.randn(test.shape, generator=generator).to(device)
x0_hat = predict_x0(schedule, x_t, test_t, eps_hat)

# %% tags=["nbval-check-output"]
rho, s = sigma / root, test.square().mean().sqrt()
total = (s**2 + rho**2).sqrt()
family = {"noise": (0, 1), "clean image": (1, 0), "velocity": (-sigma, root), "F": (rho / s / total, -s / total)}
noise_error = (test_noise - eps_hat).square().mean((1, 2, 3))  # (256,)
for a, b in family.values():
    error = (a * (test - x0_hat) + b * (test_noise - eps_hat)).square().mean((1, 2, 3))
    verify("16.1", error / ((b - a * rho) ** 2).flatten(), noise_error, tol=1e-3)

# %% [markdown]
# ## Two of them, tried
#
# At large $t$ a network that predicts the noise has little more to do than to repeat its input; the image hides in a
# small correction to it. The velocity is there minus the clean image, and at small $t$ it is the noise: always the part
# that is hard to see. `VelocityNet` dresses such a network as one that predicts noise,
# [(4.19)](04_bound_to_noise.ipynb), so samplers and `Trainer` stay as they are. The same start, images and steps, two
# targets, each with its own plain error. Guess before you run: which one is better late, and is it worse early?

# %%
steps, stages = budget(gpu=3000, cpu=250, quick=10), {}

def short_run(loss, velocity=True, weighted=0.0):
    torch.manual_seed(0)
    net = UNet(base=16, multipliers=(1, 2), patch=2, attention=0)
    net = VelocityNet(net, schedule) if velocity else net
    run = Trainer(net, schedule, data.images, TrainConfig(steps, weighted=weighted), objective=loss)
    stages["untrained"] = copy.deepcopy(run.ema)
    for _ in run.run():
        if run.step == steps // 2:
            stages["half of the short run"] = copy.deepcopy(run.ema)
    return run.ema

nets = {"noise": short_run(ddpm_loss, velocity=False), "velocity": short_run(velocity_loss)}

# %%
def image_error(model, t, count=64):
    t = torch.full((count,), t, device=device)
    with torch.no_grad():
        error = (model(q_sample(schedule, test[:count], t, test_noise[:count]), t) - test_noise[:count]).square()
    return error.mean((1, 2, 3)) / snr(schedule)[t]  # (count,), of the clean image

# %%
for t in (1, 100, 500, 900, 950):
    found = {name: image_error(net, t) for name, net in nets.items()}
    print(f"t = {t:3}: " + ", ".join(f"{error.mean():.5f} {name}" for name, error in found.items()))
average = to_float(data.images).mean(0).to(device)  # of all digits
print(f"the mean of all digits scores {(average - test[:64]).square().mean():.5f}")

# %% [markdown]
# *The squared error of the clean image, on 64 test images. At t = 1 the two are equal, at 100 the velocity is worse by almost a half, at 500 a little better. Late the error of the noise network runs
# away, since a small error of the noise is divided by a tiny signal-to-noise ratio. The velocity network stays near what the
# mean of all digits scores: so late, little more can be known.*
#
# Beware: two things changed at once, what the output stands for, and the weight of each step in the loss. Let us look
# at the weight alone.
#
# ## A target is a weight
#
# In the table the error of the velocity is $1 + \rho^2$ times that of the noise: the sum of the first two lines.
#
# $$\big\lVert v - \hat v \big\rVert^2 = \big\lVert {\color{#D55E00}{\epsilon}} - {\color{#009E73}{\hat\epsilon}} \big\rVert^2 + \big\lVert x_0 - \hat x_0 \big\rVert^2 \tag{16.2}$$
#
# (That of $F$ is the same sum, with the image's error in units of $s^2$.) So whatever the output stands for, a loss can be
# written as the error of the noise with a weight, or as any other error with another weight; output and weight are two
# separate choices.
#
# A sum looks at its larger part: early at the noise, which is too faint to see, late at the clean image, which is too
# far away to guess. Both stay large whatever the network does. The *smaller* part is large in between:
#
# $$\min\!\Big(\big\lVert {\color{#D55E00}{\epsilon}} - {\color{#009E73}{\hat\epsilon}} \big\rVert^2,\; \big\lVert x_0 - \hat x_0 \big\rVert^2\Big) = \min\!\Big(1,\; \frac{1}{\mathrm{SNR}_t}\Big)\, \big\lVert {\color{#D55E00}{\epsilon}} - {\color{#009E73}{\hat\epsilon}} \big\rVert^2 \tag{16.3}$$
#
# This is min-SNR weighting (Hang et al. 2023), whose weight is $\min(1, \gamma / \mathrm{SNR}_t)$, with $\gamma = 1$; they
# take 5, for photos.
#
# ### Exercise 16.1 - `min_snr_loss`
#
# Return the loss of one batch, a scalar: the mean over images and pixels of the weighted squared errors, so the right
# side of (16.3) divided by the number of pixels. The arguments are those of `ddpm_loss`, and `model(x, t)` returns the
# predicted noise. `snr(schedule)[t]` has shape (B,), `per_image(numbers, x0)` makes of such numbers something that
# multiplies whole images.


# %% tags=["exercise", "nbval-check-output"]
def min_snr_loss(model, schedule, x0, t, noise):
    ...  # the error of the noise, times its weight


min_snr_loss = check(min_snr_loss)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Begin as in [Exercise 7.1](07_train_ddpm.ipynb): `q_sample`, then the model. But keep the squared errors, shape (B, C,
# H, W). `.clamp(max=1)` is the minimum with 1.
#
# </details>

# %% tags=["nbval-check-output"]
clean_error = (test - x0_hat).square().mean((1, 2, 3))  # (256,)
batch = (lambda x, t: eps_hat, schedule, test, test_t, test_noise)
verify("16.2", velocity_loss(*batch), (noise_error + clean_error).mean(), tol=1e-4)
verify("16.3", min_snr_loss(*batch), torch.minimum(noise_error, clean_error).mean(), tol=1e-4)

# %% [markdown]
# ## A weight without a factor
#
# In units of the velocity's error that weight is $w_t = \min(\bar\alpha_t, 1 - \bar\alpha_t)$. Many steps weigh little, and
# a batch gives them as many images as the others:

# %%
tables = schedule.to("cpu")
weight = step_weight(tables)  # (1000,), of the steps 1 ... T
light = (weight < weight.max() / 5).float().mean()
print(f"{light:.0%} of the steps weigh less than a fifth of what the middle ones do")

# %% [markdown]
# To count a step half as much, we can halve its error. Or we can draw it half as often: **weighted timestep sampling**.
# Write $\ell(t)$ for the mean error at step $t$, $\bar w$ for the mean of all weights, and draw the steps with the
# probabilities $p_t = w_t / (T \bar w)$, which add up to 1:
#
# $$\frac{1}{T} \sum_{t=1}^{T} w_t\, \ell(t) = \bar w \sum_{t=1}^{T} p_t\, \ell(t) = \bar w\; \mathbb{E}_{t \sim p}\big[\ell(t)\big] \tag{16.4}$$
#
# Left is the loss with factors and uniform steps; right there is no factor but $\bar w$, a constant, and AdamW divides
# constants out, where the limit [(7.8)](07_train_ddpm.ipynb) on the gradient does not cut. What differs is the scatter.
# This is **importance sampling**.
#
# ### Exercise 16.2 - `weighted_steps`
#
# Lay the weights on a line, end to end: step $t$ owns a stretch as long as `weight[t - 1]`. As in
# [Exercise 7.2](07_train_ddpm.ipynb) the batch is spread evenly: `u` has shape (B,), uniform in [0, 1), and image $i = 0, \dots, B - 1$ lands at $(i + u_i) / B$ of the whole length. Return the steps that own these places, (B,) int64 in
# $1 \dots T$. (Who owns the very point between two stretches does not matter.) `weight` has shape (T,); all weights are
# positive, and they need not add up to 1.


# %% tags=["exercise", "nbval-check-output"]
def weighted_steps(u, weight):
    ends = ...  # (T,), where the stretch of each step ends; the last one is the length of the line
    places = ...  # (B,), rising, where the images land
    return ...  # (B,) int64 in 1 ... T


weighted_steps = check(weighted_steps)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `weight.cumsum(0)` adds up the weights from the first on. `torch.searchsorted(ends, places)` counts, for each place,
# how many of the rising `ends` lie below it. `torch.arange(len(u), device=u.device)` counts the images, on the device
# where `u` and `weight` lie. As in Exercise 7.2, rounding may take the last place too far:
# `.clamp(max=len(weight) - 1)` before you add 1.
#
# </details>
#
# (16.4) holds for any $\ell$. We take that of a poor model, which answers $\frac{1}{2} x_t$ whatever $t$ is. Its error is
# known exactly at each step, as in [notebook 07](07_train_ddpm.ipynb): $(1 - \sigma_t / 2)^2 + \bar\alpha_t s^2 / 4$.
# 4,000 batches of $B = 50$:

# %% tags=["nbval-check-output"]
B, power = 50, test.square().mean().item()
exact = (1 - tables.sigma[1:] / 2) ** 2 + tables.alpha_bar[1:] / 4 * power  # (1000,), the error of the noise at step t
batches = [weighted_steps(torch.rand(B, generator=generator), weight) for _ in range(4000)]
drawn = torch.stack(batches)  # (4000, B)
verify("16.4", samples=weight.mean() * exact[drawn - 1].mean(1), expected=(weight * exact).mean())

# %% [markdown]
# Now a network, and one loss in two ways. With $\bar w$ kept, both gradients have the same mean. Guess before you run:
# how much less does the second one scatter?

# %%
def scatter(net, objective, choose, tries):
    """The gradients of several batches: how far they lie from their mean (root mean square)."""
    total, power = 0, 0
    for _ in range(tries):
        x0 = to_float(images[torch.randint(len(images), (64,), generator=generator).to(device)])
        noise = torch.randn(x0.shape, generator=generator).to(device)
        net.zero_grad()
        objective(net, schedule, x0, choose().to(device), noise).backward()
        gradient = torch.cat([p.grad.flatten() for p in net.parameters()])  # (parameters,)
        total, power = total + gradient, power + gradient.square().sum()
    return (power / tries - (total / tries).square().sum()).sqrt().item()

# %%
def uniforms():
    return torch.rand(64, generator=generator)

def mean_weight_loss(*batch):
    return weight.mean().item() * velocity_loss(*batch)

tries = budget(gpu=100, cpu=40, quick=3, unit="batches")
net = copy.deepcopy(nets["velocity"]).requires_grad_()
ways = {
    "uniform steps and a factor": (min_snr_loss, lambda: stratified_steps(uniforms(), 1000)),
    "weighted timestep sampling": (mean_weight_loss, lambda: weighted_steps(uniforms(), weight)),
}
for name, (objective, choose) in ways.items():
    print(f"{name:28} gradient scatters by {scatter(net, objective, choose, tries):.4f}")

# %% [markdown]
# *The second scatters less, at no cost. Scatter falls with the root of the batch size: here it is almost a fifth less,
# which is worth a batch larger by a half (40 batches, so roughly).*
#
# ## The steps that never come
#
# A weight as a factor makes a step count little; a weight as a probability can make it never come. Every sampler starts at
# $t = T$, where $w_T$ is next to nothing. So mix in a share $u$ of uniform draws:
#
# $$p_t = \frac{u}{T} + (1 - u)\, \frac{w_t}{T\, \bar w} \tag{16.5}$$
#
# The trainer's `TrainConfig(weighted=0.9)` is $u = 0.1$. A run of 3,000 steps with batches of 64 makes 192,000 draws. Guess
# before you run: how many of them fall on $t \ge 980$ by weight alone, and with $u = 0.1$?

# %%
def draws(weighted):
    g = torch.Generator().manual_seed(0)
    return torch.stack([draw_steps(tables, 64, g, weighted) for _ in range(3000)])  # (3000, 64)

by_weight, mixed = draws(1.0), draws(0.9)
late = weight[979:].sum() / weight.sum() * by_weight.numel()
for name, drawn in {"by weight alone": by_weight, "a share of 0.9": mixed}.items():
    print(f"{name:16} {(drawn >= 980).sum():4} draws at t = 980 or later, the latest at {drawn.max()}")
print(f"expected by weight alone: {late:.1f}")

# %% tags=["nbval-check-output"]
u = 0.1
p = u / 1000 + (1 - u) * weight / (1000 * weight.mean())  # (1000,)
places = torch.tensor([980, 600, 400])
counts = (mixed[:, :, None] >= places).double().sum(1)  # (3000, 3), in each batch
verify("16.5", samples=counts, expected=64 * torch.stack([p[place - 1 :].sum() for place in places]))

# %% [markdown]
# *By weight alone the last fiftieth of the steps is hardly ever trained, and the very last never; the network has to guess
# there by what it learned below. A tenth of uniform draws costs the other steps a tenth of theirs.*
#
# ### Exercise 16.3 - `uniform_share`
#
# A decision: you want the steps `first` to $T$ to make up at least the part `wanted` of all draws, and no more uniform
# draws than that takes. Solve (16.5) for the smallest $u$; 0 if the weight alone is enough. `weight` has shape (T,), `wanted`
# is at most what uniform draws give; return a scalar tensor. Before you write it: which $u$ would you choose so that the last 21 of 1000
# steps make up a thousandth of all draws?

# %% tags=["exercise", "nbval-check-output"]
def uniform_share(weight, first, wanted):
    even = ...  # the part of the last steps if all draws are uniform
    alone = ...  # the same by weight alone
    return ...


uniform_share = check(uniform_share)

# %% [markdown]
# <details><summary>Hint</summary>
#
# From `first` to $T$ there are `len(weight) - first + 1` steps. By (16.5) their part is $u \cdot$ `even` $+ (1 - u) \cdot$
# `alone`: a straight line in $u$. `torch.where(alone < wanted, ..., 0.0)` covers the other case.
#
# </details>

# %%
for wanted in (0.001, 0.005, 0.02):
    print(f"t >= 980 as {wanted:.1%} of all draws: u = {uniform_share(weight, 980, wanted):.3f}")
nets["velocity, weighted 0.9"] = short_run(velocity_loss, weighted=0.9)

# %% tags=["figure-16_targets"]
rows = {f"the {name}": sample(net, schedule, 12, steps=25) for name, net in nets.items()}
viz.image_rows(rows, alt="Samples of three networks: noise, velocity, velocity on weighted steps")

# %% [markdown]
# *The noise network's samples drown in grain: after so short a training its errors are still large, and late they are multiplied
# by $\rho$. The rows of the velocity show mostly the same figures. Whether the third is better than the second, one run each and
# twelve samples cannot say; the table of levers below has seeds.*

# %% [markdown]
# ## Unit variance in, unit variance out
#
# Which target is best asked for at which noise level? Karras et al. (2022; EDM) derive it from what networks like: inputs
# and targets of one size at every noise level, and errors that are not blown up afterwards. They leave the image
# unshrunk, $x = x_0 + \rho\, \epsilon$, and put three numbers for each noise level around a network $F$, its
# **preconditioning**:
#
# $${\color{#009E73}{\hat x_0}} = c_{skip}\, x + c_{out}\, {\color{#009E73}{F(c_{in}\, x)}}$$

# %%
show.draw_preconditioning()

# %% [markdown]
# *What the network sees and what it says have one size; the numbers around it know the noise level. The path at the top
# hands on what can be said about the image without a network.*
#
# **In.** $x_0$ and $\epsilon$ are independent, so their mean squares add up. With $s^2$ for that of a pixel (the variance,
# if the mean is 0), the input has size 1 if
#
# $$\mathbb{E}\big[(c_{in}\, x)^2\big] = c_{in}^2\, (s^2 + \rho^2) = 1 \tag{16.6}$$
#
# **Out.** For $\hat x_0$ to be right, $F$ must say $(x_0 - c_{skip}\, x) / c_{out}$. That has size 1 if
#
# $$c_{out}^2 = \mathbb{E}\big[(x_0 - c_{skip}\, x)^2\big] = (1 - c_{skip})^2\, s^2 + c_{skip}^2\, \rho^2 \tag{16.7}$$
#
# **Errors.** An error of $F$ is an error of the image, times $c_{out}$. So choose the $c_{skip}$ that makes $c_{out}$
# smallest.
#
# ### Exercise 16.4 - `preconditioning`
#
# Work it out with pen and paper: the derivative of (16.7) by $c_{skip}$ is 0 where? Return $c_{in}$, $c_{skip}$ and
# $c_{out}$, in this order. `rho` has shape (B,), `s` is a number.

# %% tags=["exercise", "nbval-check-output"]
def preconditioning(rho, s):
    c_in = ...
    c_skip = ...
    c_out = ...
    return c_in, c_skip, c_out


preconditioning = check(preconditioning)

# %% [markdown]
# <details><summary>Hint</summary>
#
# $-2 (1 - c_{skip})\, s^2 + 2\, c_{skip}\, \rho^2 = 0$. Put what you find into (16.7) and simplify: $c_{out}$ is its root.
#
# </details>
#
# $$c_{skip} = \frac{s^2}{s^2 + \rho^2}, \qquad c_{out} = \frac{\rho\, s}{\sqrt{s^2 + \rho^2}} \tag{16.8}$$
#
# So $c_{skip}\, x$ is the best guess of the image that is a multiple of $x$, and $F$ is asked for the rest, in units of its
# size. First on the exact world with one pixel: integrals for the mean squares, and the smallest $c_{out}$ by trying
# 100,001 values of $c_{skip}$.

# %%
world = Mixture(*torch.tensor([[0.4, 0.3, 0.3], [-1.2, 0.2, 1.1], [0.15, 0.3, 0.1]]).double())
s = (world.weights * (world.means**2 + world.stds**2)).sum().sqrt().item()
levels = torch.tensor([0.05, 0.3, 1.0, 5.0, 40.0]).double()
choices = torch.linspace(0, 1, 100_001).double()

# %% tags=["nbval-check-output"]
for r, c_in, c_skip, c_out in zip(levels, *preconditioning(levels, s), strict=True):
    x = torch.linspace(-10, 10, 4001, dtype=torch.float64) / c_in
    chance = path_density(world, x, 1.0, r).exp() * (x[1] - x[0])
    verify("16.6", (chance * (c_in * x) ** 2).sum(), 1.0, tol=1e-4)
    clean, _ = path_means(world, x, 1.0, r)  # E[x_0 | x]
    rest = s**2 - 2 * c_skip * (chance * clean * x).sum() + c_skip**2 * (chance * x**2).sum()
    verify("16.7", rest, (1 - c_skip) ** 2 * s**2 + c_skip**2 * r**2, tol=1e-4)
    tried = (1 - choices) ** 2 * s**2 + choices**2 * r**2
    best = torch.stack([choices[tried.argmin()], tried.min().sqrt()])
    verify("16.8", torch.stack([c_skip, c_out]), best, tol=1e-4)

# %% [markdown]
# And on 10,000 images. Guess before you run: what is the mean square of the input without $c_{in}$, at $\rho = 40$?

# %%
photos = to_float(data.images[:10_000])
noise, s_images = torch.randn(photos.shape, generator=generator), photos.square().mean().sqrt().item()
for r, c_in, c_skip, c_out in zip(levels, *preconditioning(levels, s_images), strict=True):
    x = photos + r.float() * noise
    sizes = [(v.square().mean()).item() for v in (x, c_in * x, (photos - c_skip * x) / c_out)]
    print("rho {:5.2f}: mean square of x {:9.3f}, of c_in x {:.3f}, of the target {:.3f}".format(r, *sizes))

# %% [markdown]
# *Both columns are 1 to three digits, but for chance, at every level. (MNIST is mostly black, so its mean is far from 0, and
# a good part of $s^2$ is that mean. Zero-mean images have unit variance in the strict sense.)*
#
# This $F$ is the last line of the table at the start. And an old acquaintance: for $s = 1$ it is minus the velocity, and
# $c_{in}\, x$ is the $x_t$ of the DDPM,
#
# $$\frac{x_0 - c_{skip}\, x}{c_{out}} = \sigma_t\, {\color{#0072B2}{x_0}} - \sqrt{\bar\alpha_t}\; {\color{#D55E00}{\epsilon}} = -v, \qquad c_{in}\, x = x_t \qquad \text{if } s = 1 \tag{16.9}$$

# %% tags=["nbval-check-output"]
c_in, c_skip, c_out = (per_image(c, test) for c in preconditioning((sigma / root).flatten(), 1.0))
x = test + sigma / root * test_noise
velocity = root * test_noise - sigma * test
verify("16.9", (test - c_skip * x) / c_out, -velocity, tol=1e-3)
verify("16.9", c_in * x, x_t, tol=1e-4)

# %% [markdown]
# So for images of size 1 the velocity is the target that amplifies errors least. Each of the four targets is a choice of $c_{skip}$: 1 for the noise, 0 for the clean image,
# $1 / (1 + \rho^2)$ for the velocity. (16.7) says what an answer that is off by 1 % of its own size costs the image, here
# for $s = 0.5$, EDM's number for photos:

# %%
rho = torch.logspace(-2, 2, 101).double()
skips = {"noise": 1 + 0 * rho, "clean image": 0 * rho, "velocity": 1 / (1 + rho**2)}
skips["F"] = preconditioning(rho, 0.5)[1]
costs = {name: (rho, ((1 - c) ** 2 * 0.25 + c**2 * rho**2).sqrt()) for name, c in skips.items()}
alt = "Amplification of errors against the noise per signal: F lies lowest everywhere, the noise target grows without end"
viz.plot_curves(costs, xlabel="noise per signal", ylabel="error of the image\nper error of the answer", log="xy", alt=alt)

# %% [markdown]
# *The noise is the best thing to ask for where there is little of it, the clean image where there is much; $F$ changes from
# one to the other and is never worse than either. The velocity does the same, a little late. At $\rho = 80$, where EDM
# begins to sample, a network for the noise would have its errors multiplied by 80.*
#
# ## Which noise levels deserve training
#
# With $F$ all levels start alike: an untrained network that answers 0 has the error 1. EDM's recipe is then a
# measurement: see where a short training lowers the error, and draw the levels there. We measure the error of $F$ by
# log-SNR for four networks: untrained, half of the third short run, all of it, and the shipped one. Guess before you run:
# where does training lower the error first, and where last?

# %%
shipped, _, recipe = load_pretrained("mnist", device)
n = budget(gpu=256, cpu=64, quick=8, unit="images")
log_snr = snr(tables).log()  # (T+1,)
places = (log_snr[1:, None] - torch.linspace(-9, 9, 19)).abs().argmin(0) + 1  # (19,) steps
stages["the short run"], stages["shipped"] = nets["velocity, weighted 0.9"], shipped
factor = snr(schedule)[places] + 1 / s_images**2  # from the image's error to that of F

# %%
by_level = {}
for name, model in stages.items():
    errors = torch.stack([image_error(model, t, n) for t in places.tolist()])  # (19, n)
    by_level[name] = (errors * factor[:, None]).cpu()
chain, at = list(by_level.values()), log_snr[places]
names = ("first half", "second half", "to shipped")
gains = {name: chain[i] - chain[i + 1] for i, name in enumerate(names)}  # what each stretch of training lowered

# %%
figure, axes = viz.subplots(1, 2, size=(8, 3.4))
for name, errors in by_level.items():
    axes[0].plot(at, errors.mean(1), label=name)
axes[0].set(yscale="log", xlabel="log-SNR", title="error of F")
for colour, (name, gain) in zip(viz.COLOURS[3:], gains.items(), strict=True):
    top = gain.mean(1).max()
    axes[1].errorbar(at, gain.mean(1) / top, 2 * gain.std(1) / n**0.5 / top, label=name, color=colour)
axes[1].set(xlabel="log-SNR", title="what training lowered, largest = 1", ylim=(-0.3, 1.4))
for axis in axes:
    axis.legend(fontsize=9, loc="upper center", ncols=2)
axes[0].set_ylim(top=30)
viz.show(figure, "Left: error by noise level of four networks. Right: what each stretch of training lowered, a hill")

# %%
def line(name, parts):
    print(f"{name:14}" + "".join(f"{part:6.0%}" for part in parts / parts.sum()))

print("log-SNR       " + "".join(f"{v:6.0f}" for v in at[1:-1:2]))
for name, weighted in {"uniform": 0.0, "weighted 0.9": 0.9}.items():
    p = (1 - weighted) / 1000 + weighted * weight / weight.sum()
    line(name, torch.stack([p[(log_snr[1:] - v).abs() < 1].sum() for v in at[1:-1:2]]))
for name, gain in gains.items():
    line(name, gain.mean(1)[1:-1:2].clamp(min=0))

# %% [markdown]
# *Bars: two standard errors over the images; one seed. The first half of the short run lowers the error most around log-SNR -1, and
# three quarters as much or more wherever there is more noise: to know the mean image is a gain there. The second half wins most around 4, and what
# the shipped network is ahead by lies around 6. So there is no one hill: as training goes on, it moves to less noise. (The last curve compares two networks: the shipped one is larger, predicts the noise and was drawn by weight alone. In the table negative gains count as 0.) Karras et
# al. 2022 draw their levels from a bell curve around log-SNR 2.4; the logit-normal amounts of
# [notebook 14](14_flow_matching.ipynb) are another. Our weights put most draws around 0, where the outline of a digit is
# settled. At 6 an error of $F$ becomes an error of the image about a twentieth as large, which is hard to see; a likelihood would see it. (The
# shipped network rises far above 1 at the left edge for two reasons that this figure cannot part: it predicts the noise, and it was
# trained by weight alone, so the last steps never came.)*
#
# ## When is a weighted loss still a bound?
#
# [Notebook 04](04_bound_to_noise.ipynb) began with a likelihood and gave it up: (4.13) drops the bound's weights, for better
# samples. Is what we minimise then no likelihood of anything? Kingma & Gao 2023 found that often it is one. Call the terms
# of the bound $L_{t-1}$, as in [(3.13)](03_likelihood_bound.ipynb), and look at the path from $s$ on only. How far are the
# two ways of making it apart, $q(x_s, \dots, x_T \mid x_0)$ and the model's $p_\theta(x_s, \dots, x_T)$?
#
# $K_s = \mathrm{KL}(q \Vert p_\theta)$ of these. Both are made from the noisy end step by step, so it is the sum of the terms above
# $s$, and $L_{t-1}$ is a difference of two such sums. But by its definition it is also an entropy and a bound: that of
# [(3.8)](03_likelihood_bound.ipynb), for the *noised* image $x_s$ as the data and the steps after $s$ as its path.
#
# $$L_{t-1} = K_{t-1} - K_t, \qquad K_s = -H\big[q(x_s \mid x_0)\big] - \mathbb{E}_{q(x_s \mid x_0)}\big[\mathrm{ELBO}(x_s)\big] \tag{16.10}$$
#
# The entropy $H$ of a Gaussian has no network in it. So to make $K_s$ small is maximum likelihood, by its bound, of images
# with noise added: of augmented data. Now give each term a weight $\omega_t$ and sort by $K$:
#
# $$\sum_{t=2}^{T} \omega_t\, L_{t-1} = \omega_2\, K_1 + \sum_{t=2}^{T-1} (\omega_{t+1} - \omega_t)\, K_t - \omega_T\, K_T \tag{16.11}$$
#
# $K_T$ holds nothing to learn. **If $\omega_t$ never falls as noise grows, all other factors are at least 0**: the weighted
# loss is a mixture of bounds, one for each amount of added noise. The cell takes the world of notebook 04, with eight
# steps, and computes the terms as KLs of posteriors, and the bounds with no posterior in them.

# %%
pixel = Mixture(*torch.tensor([[0.35, 0.65], [-1.2, 0.7], [0.25, 0.35]]).double())
grid, clean = torch.linspace(-8, 8, 801, dtype=torch.float64), torch.tensor(0.7).double()
short = double(cosine_schedule(8, max_beta=0.9))
ideal = pixel.ideal_eps(short)
model = ReverseModel(short, short.beta, lambda x, t: 0.5 * ideal(x, t))  # guesses half of the ideal noise

# %% tags=["nbval-check-output"]
L = targets.step_terms(model, clean, grid)  # (9,), entry t is L_{t-1}
bounds = targets.noised_bounds(model, clean, grid)  # (9,), entry s is the mean ELBO of x_s
K = -targets.entropy(short.sigma[1:] ** 2) - bounds[1:]  # (8,): K_1 ... K_8
verify("16.10", L[2:], K[:-1] - K[1:], tol=1e-9)
omega = torch.tensor([1.0, 1.1, 1.5, 1.5, 2.0, 4.0, 7.0]).double()  # of t = 2 ... 8, never falling
parts = torch.cat([omega[:1], omega.diff(), -omega[-1:]])  # what K_1 ... K_8 count
verify("16.11", (omega * L[2:]).sum(), (parts * K).sum(), tol=1e-9)

# %% [markdown]
# What is $\omega_t$ for the losses of this notebook? By (4.12), so with the variance $\tilde\beta_t$, and for small steps the bound weighs a squared error of the noise by half of the step in
# log-SNR, $\lambda_t = \log \mathrm{SNR}_t$. So $\omega_t$ is what a loss puts in front of that error, divided by half the step. For the
# velocity with a cosine schedule and uniform steps, with $\sqrt{\bar\alpha_t} = \cos \varphi$ and $\lambda = -2 \log \tan \varphi$, where $\varphi$
# grows evenly, $d\lambda = -2\, d\varphi / (\sin\varphi \cos\varphi)$, and
#
# $$\omega_t \propto \frac{1}{\bar\alpha_t} \cdot \sin\varphi \cos\varphi = \tan \varphi = e^{-\lambda_t / 2} \tag{16.12}$$
#
# It rises with the noise: this loss *is* a mixture of bounds. The others:

# %%
exact = double(cosine_schedule(1000))
lam = snr(exact).log()
half_step = (lam[:-2] - lam[2:]) / 4  # (999,), half of the step in log-SNR at t = 1 ... 999
w = step_weight(exact)[:-1]
in_front = {"noise": torch.ones(999).double(), "velocity": 1 / exact.alpha_bar[1:-1]}
in_front["min-SNR"] = w * in_front["velocity"]
in_front["velocity, weighted 0.9"] = (0.1 + 0.9 * w / w.mean()) * in_front["velocity"]
omegas = {name: c / half_step / (c / half_step)[499] for name, c in in_front.items()}

# %% tags=["nbval-check-output"]
verify("16.12", omegas["velocity"][49:949], torch.exp(-(lam[50:950] - lam[500]) / 2), tol=5e-3)

# %%
curves = {name: (lam[20:981], omega[19:980]) for name, omega in omegas.items()}
alt = "Weights relative to the bound against log-SNR: the velocity's falls all the way, the others have hills"
viz.plot_curves(curves, xlabel="log-SNR", ylabel="weight relative\nto the bound's", log="y", alt=alt)
for name, omega in omegas.items():
    falls = (omega[19:980].diff() < -1e-6 * omega[20:980]).nonzero()
    text = "never falls as noise grows" if not len(falls) else f"begins to fall at log-SNR {lam[falls[0, 0] + 20]:.1f}"
    print(f"{name:24} {text}")

# %% [markdown]
# *More noise lies to the left. Of the four only the plain velocity's weight rises all the way. The others have a hill: beyond it
# more noise counts less, some $K_t$ gets a negative factor, and the loss is no such bound. That is allowed. It is a choice
# for samples and against likelihood, and only samples can say whether it was right.*
#
# ## What each lever is worth
#
# `python tests/benchmarks/bench_levers.py` trained one recipe, and the recipe with one thing changed, for three minutes of CPU
# each; [notebook 10](10_libraries.ipynb) shows the dots. Its recipe is the velocity with the weights of (16.3), uniform steps, and
# 50 steps of sampling. Most changes have **one seed**, and one seed tells no more than the size of a difference. But four
# designs have three. Their spread, pooled, says how far apart two equal designs may come out; the last column compares
# with that (95 %; of twenty changes that do nothing, one would pass).

# %%
levers = load_ladder("levers_cpu")
middle, limit = targets.chance(levers)
print(f"{levers['samples']:,} samples each, {levers['device']}, {levers['date'][:7]}; the recipe: {middle:.0f}; chance: ± {limit:.0f}")
print(targets.levers_table(levers))

# %%
for lever in ("weighted timestep sampling", "no patches; 16, 32, 64"):
    gain, half = targets.paired(levers, lever)
    print(f"{lever}, the same three seeds with and without: distance lower by {gain:.0f} ± {half:.0f}")

# %% [markdown]
# *Distance of samples from real digits, less is better. Read the first group from below: to minimise the plain error of the
# noise costs most, whether the output is noise or velocity. With its weights right, the target itself makes no difference that
# chance would not. Two gains have three seeds: drawing by weight, which costs nothing, and a network on pixels, which trains
# fewer steps in its time and draws more slowly. Most other levers are within chance: a single run that "improves" by ten says
# nothing.*
#
# ## The recipe of the shipped weights
#
# Now every line of the recipe that [notebook 08](08_sampling.ipynb) loaded can be read.

# %%
def read_aloud(recipe, indent=""):
    for name, value in recipe.items():
        if isinstance(value, dict):
            print(f"{indent}{name}:")
            read_aloud(value, indent + "    ")
        else:
            print(f"{indent}{name:14} {value}")

print("predicts the", "velocity" if isinstance(shipped, VelocityNet) else "noise")
read_aloud(recipe)

# %% [markdown]
# | line | what it decides | where |
# |:--|:--|:--|
# | the first line | the target: what the output stands for | (16.1), (16.9) |
# | `command`, `data` | what was typed (today `ddpm_helpers.cli`, and `--weighted` for `--middle`), and the images | [00](00_start_here.ipynb) |
# | `steps`, `batch_size` | how many images are seen: their product | [07](07_train_ddpm.ipynb) |
# | `learning_rate`, `warmup`, `clip_norm` | how far a step goes | [(7.7)](07_train_ddpm.ipynb), [(7.8)](07_train_ddpm.ipynb) |
# | `ema_decay` | the average that samples are drawn with | [(7.4)](07_train_ddpm.ipynb) |
# | `weighted` | the share of draws by weight, $1 - u$; `True` under its old name `middle` is all of them | (16.4), (16.5) |
# | `seed`, `device`, `processes`, `torch`, `date` | what else a repetition depends on | [07](07_train_ddpm.ipynb) |
# | `label_dropout`, `flip` | nothing here: there are no labels, and digits are not mirrored | [12](12_guidance.ipynb), [11](11_colour_and_scale.ipynb) |
# | `loss`, `loss is` | the error of the velocity over the steps that were drawn: comparable with no other choice of either | (16.2), (16.5) |
# | `started from`, if it is there | the recipe of the run whose weights this one began with; the same weights can learn another target | (16.1) |
#
# To train one as this notebook advises, for the velocity and with uniform draws mixed in, type into a terminal:
#
# ```
# python -m ddpm_helpers.cli --target velocity --weighted 0.9 --steps 20000 --checkpoint runs/velocity.safetensors
# ```
#
# ## What to remember, and what broke
#
# - Noise, clean image, velocity and $F$ are one family. A target decides which error is squared, and so how much each step
#   counts; weights can undo that.
# - Unit variance in and out, errors amplified least: that is EDM's $F$, and for images of size 1 minus the velocity.
# - A weight can be a factor or a probability. As a probability it needs a uniform part, or the last steps never come.
# - Ask where training lowers the error, and train there.
# - A weight that never falls as noise grows, relative to the bound's, is a likelihood of noised images.
#
# **What broke:** three seeds tell a large difference from chance and a small one not; and every number here is a distance of
# samples drawn from nothing. A model that knows what digits look like could do more: mend a torn one, or sharpen a blurred
# one. Nothing so far says how to ask it:
# [notebook 17](17_prior_at_work.ipynb) does.
#
# ### Experiments to try
#
# - The velocity of the straight line, [(14.2)](14_flow_matching.ipynb), is a fifth member of the family. What are $a_t$ and $b_t$, and
#   which factor does its error get?
# - Take $\gamma = 5$ in (16.3), as Hang et al. do. Where does its $\omega_t$ begin to fall?
# - Draw the steps by the square root of the weight, and give the rest as a factor. Does the gradient scatter more or less?
# - Put the uniform draws to 1 %, `weighted=0.99`. How many of 192,000 draws come to $t \ge 980$ now? Guess by (16.5) first.
