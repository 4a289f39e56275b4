# %% [markdown]
# # Training a DDPM
#
# ![Six rows of twelve samples: the first row holds frayed blots, the last one clean strokes, most of which are digits](../figures/07_rounds.png)
#
# *One training run, looked at six times, each time from the same twelve noise images. Follow a column down: what is
# settled early, what late, and which columns never become a digit?*
#
# **You will** write the training loop of a DDPM, measure what each of the usual improvements is worth, train a network
# that draws digits, and kill a run without losing anything. **You need** a PyTorch training loop seen once, and
# [notebook 04](04_bound_to_noise.ipynb) for where the loss comes from. **Time** 60 minutes of reading; the cells run in
# about 8 minutes on 2 CPU cores.

# %% tags=["setup"]
REPO = ""  # owner/name on GitHub; `make badges REPO=owner/name` fills it in
try:
    import ddpm_helpers
except ImportError:
    assert REPO, "The helper module is missing: start this notebook with `make lab`, or see Colab in the README."
    get_ipython().run_line_magic("pip", f"install -q git+https://github.com/{REPO}")

import signal
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F
from torchvision.transforms.functional import to_pil_image, to_tensor

from ddpm_helpers import CheckpointError, TrainConfig, Trainer, TrainingError, UNet, budget, check
from ddpm_helpers import cosine_schedule, default_device, files, load_images, machine, per_image
from ddpm_helpers import q_sample, sample, snr, to_float, verify, viz

generator = torch.Generator().manual_seed(0)

# %%
data = load_images("mnist")
device = default_device()
schedule = cosine_schedule(1000).to(device)
print(data.source)
print("device:", machine.device_name(device))

# %% [markdown]
# ## Algorithm 1
#
# The pieces are there: the closed form of $x_t$ ([notebook 02](02_forward_process.ipynb)), the loss ([notebook
# 04](04_bound_to_noise.ipynb)), a network conditioned on the step ([notebook 05](05_time_conditioning.ipynb)) and its
# layers ([notebook 06](06_unet.ipynb)). Draw an image, a step and a noise; mix image and noise; let the network guess
# the noise; take the squared error. With $D$ pixels an image, and $t$ uniform in $1 \dots T$, the loss is
#
# $$\begin{aligned}
# L(\theta) &= \mathbb{E}_{x_0,\, t,\, {\color{#D55E00}{\epsilon}}}\; \frac{1}{D}\, \big\lVert\, {\color{#D55E00}{\epsilon}} - {\color{#009E73}{\epsilon_\theta}}(x_t, t) \big\rVert^2, \\
# x_t &= {\color{#0072B2}{\sqrt{\bar\alpha_t}\, x_0}} + {\color{#D55E00}{\sqrt{1 - \bar\alpha_t}\, \epsilon}}
# \end{aligned} \tag{7.1}$$
#
# Blue is signal, orange noise, green the model. Algorithm 1 of Ho et al. (2020) is gradient descent on (7.1), one
# random draw at a time; a batch does 64 draws at once:
#
# | line | Algorithm 1 | code |
# |---|---|---|
# | 1 | repeat | `for _ in range(steps):` |
# | 2 | $x_0 \sim q(x_0)$ | `x0 = to_float(images[torch.randint(len(images), (64,))])` |
# | 3 | $t \sim \mathrm{Uniform}\{1, \dots, T\}$ | `t = torch.randint(1, T + 1, (64,))` |
# | 4 | $\epsilon \sim \mathcal{N}(0, I)$ | `noise = torch.randn(x0.shape)` |
# | 5 | a gradient step on the squared error | `loss = ddpm_loss(model, schedule, x0, t, noise)`, then `zero_grad`, `backward`, `step` as in [notebook 01](01_corrupt_and_predict.ipynb) |
#
# ### Exercise 7.1 - `ddpm_loss`
#
# Return the loss of one batch, a scalar: the mean over images and pixels. `x0` and `noise` have shape (B, C, H, W), `t`
# has shape (B,), and `model(x, t)` returns the predicted noise. `q_sample(schedule, x0, t, noise)` returns $x_t$.


# %% tags=["exercise", "nbval-check-output"]
def ddpm_loss(model, schedule, x0, t, noise):
    ...  # make x_t, predict, compare


ddpm_loss = check(ddpm_loss)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Two lines. The network sees $x_t$ and $t$, and nothing else. What should come out of it?
#
# </details>
#
# Does the average over random draws give (7.1)? A model so poor that the expectation can be worked out by hand tells:
# let it answer $c\, x_t$, whatever the step. Then $\epsilon - c\, x_t = (1 - c\, \sigma_t)\, \epsilon - c
# \sqrt{\bar\alpha_t}\, x_0$ with $\sigma_t = \sqrt{1 - \bar\alpha_t}$. Since $\epsilon$ has mean 0 and variance 1, the
# loss at one $t$ is $(1 - c\,\sigma_t)^2 + c^2\, \bar\alpha_t\, P$, where $P$ is the mean square of a pixel.

# %% tags=["nbval-check-output"]
few, tables, c = to_float(data.images[:1000]), cosine_schedule(1000), 0.7
draws = []
for _ in range(2000):
    x0 = few[torch.randint(1000, (8,), generator=generator)]
    t, noise = torch.randint(1, 1001, (8,), generator=generator), torch.randn(x0.shape, generator=generator)
    draws.append(ddpm_loss(lambda x, t: c * x, tables, x0, t, noise))
loss_at_t = (1 - c * tables.sigma[1:]) ** 2 + c**2 * tables.alpha_bar[1:] * few.square().mean()  # (1000,)
verify("7.1", samples=torch.stack(draws), expected=loss_at_t.mean())
print(f"loss of a model that answers {c} x_t: about {loss_at_t.mean():.1f}")

# %% [markdown]
# Put $c = 0$: a model that always answers 0 has the loss 1, at every $t$. Keep this number. It is the best score of a
# network without any idea of the noise.
#
# ## A plain loop
#
# Nothing hidden: the five lines, a few hundred steps, Adam (Kingma & Ba 2015), which divides each weight's step by the
# recent size of its gradient, and a U-Net with two levels of 32 and 64 channels, on patches of 2x2 pixels. `images`
# lies on the device; the random numbers are drawn on the CPU, so that they are the same on every machine.

# %%
images = data.images.to(device)  # (N, 1, 28, 28) uint8

def draw(count):
    """Lines 2 to 4 of Algorithm 1."""
    x0 = to_float(images[torch.randint(len(images), (count,), generator=generator).to(device)])
    t = torch.randint(1, schedule.T + 1, (count,), generator=generator).to(device)
    return x0, t, torch.randn(x0.shape, generator=generator).to(device)

# %%
torch.manual_seed(0)
plain = UNet(base=32, multipliers=(1, 2), patch=2).to(device)
optimizer = torch.optim.Adam(plain.parameters(), lr=1e-3)
steps, norms = budget(gpu=300, cpu=300, quick=10), []
live = viz.LiveLoss(steps, mean_over=10)
for _ in range(steps):
    loss = ddpm_loss(plain, schedule, *draw(64))
    optimizer.zero_grad()
    loss.backward()
    norms.append(torch.nn.utils.clip_grad_norm_(plain.parameters(), torch.inf))  # measures the gradient, clips nothing
    optimizer.step()
    live(loss)

# %% [markdown]
# *The very first loss is 1, since the last layer of this U-Net begins at zero. (The curve's first point is a mean over
# ten steps.) In a full run the curve falls below 0.15: more than four fifths of what the network did not know seem to
# be learned.*
#
# Guess before you run: at a loss near 0.1, what will the samples look like? (`sample` draws them in 25 steps; [notebook
# 08](08_sampling.ipynb) takes it apart.)

# %%
plain.eval()  # for use, not for training: dropout, where a network has it, is off
viz.image_grid(sample(plain, schedule, 12, steps=25), columns=12, alt="Twelve samples of the plain loop: blotches with a hint of digits")

# %% [markdown]
# *In a full run: blots on a grainy ground, with a hint of a digit here and there. Nearly all of the fall of the loss
# buys this; the small rest is what makes digits. So training long, and wasting nothing on the way, is worth some care.
# Five levers follow, each measured.*
#
# ## Lever 1: leave the data where the work is
#
# Many training loops convert images one by one, in every epoch anew: open a picture, make it a tensor, scale it, stack
# 64 of them. The other way: keep the whole data set on the device as uint8, pick a batch by its indices, and convert
# that at once. (The fastest of several tries counts.)

# %%
def milliseconds(action, tries=8):
    times = []
    for _ in range(tries):
        start = time.perf_counter()
        action().sum().item()  # reading a number waits until the device is done
        times.append(1000 * (time.perf_counter() - start))
    return min(times)

def train_step():
    plain.zero_grad()
    loss = ddpm_loss(plain, schedule, *fixed)
    loss.backward()
    return loss

# %%
fixed = draw(64)
pictures = [to_pil_image(image) for image in data.images[:1000]]
choice = torch.randint(1000, (64,), generator=generator)
one_by_one = milliseconds(lambda: torch.stack([2 * to_tensor(pictures[i]) - 1 for i in choice.tolist()]).to(device))
at_once = milliseconds(lambda: to_float(images[choice.to(device)]))
print(f"64 images, one by one {one_by_one:6.2f} ms\n64 images at once     {at_once:6.2f} ms")
print(f"forward and backward  {milliseconds(train_step):6.2f} ms")
print(f"all images: {images.numel() / 1e6:.0f} MB as uint8, {images.numel() * 4 / 1e6:.0f} MB as floats")

# %% [markdown]
# *Compare the first two lines with the third. On a CPU the step is so slow that the lever is worth little. On a GPU,
# where we have not measured it, the third line should shrink and the first does not. The last line says why images stay
# uint8 until they are in a batch.*
#
# ## Lever 2: fewer digits
#
# `bfloat16` has the range of `float32` and about two and a half decimal digits instead of seven, in half the memory,
# and hardware that knows it multiplies faster. **Autocast** lets the convolutions and matrix products run in it, while
# the weights, the optimizer and the loss stay in float32. (Else a small step added to a weight would be rounded away.)

# %%
for dtype in (torch.float32, torch.float16, torch.bfloat16):
    about = torch.finfo(dtype)
    print(f"{dtype!s:15} largest {about.max:.0e}, smallest normal {about.tiny:.0e}, the next after 1 is 1 + {about.eps:.0e}")

# %% [markdown]
# *float16, the older half precision, has one digit more, and a narrow range. Gradients below the 6e-05 in its line lose
# their digits and then vanish; one above 65,504 (the 7e+04) becomes infinite. So float16 needs a loss that is scaled up
# and down on the way. bfloat16 does not.*

# %%
# On an Apple GPU autocast is left out: older versions of PyTorch do not have it there.
for dtype in [torch.float32] if device.type == "mps" else [torch.float32, torch.bfloat16]:
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        print(f"{dtype!s:15} loss {train_step():.4f}, {milliseconds(train_step):.1f} ms")
print("fast_dtype chooses", machine.fast_dtype(device))

# %% [markdown]
# *The loss of one and the same batch agrees to about three digits. Whether bfloat16 is faster depends on the hardware:
# recent CPUs for servers and GPUs since Ampere compute in it, others imitate it and lose time. `fast_dtype` asks the
# hardware, and the trainer below does what it says.*
#
# ## Lever 3: spread the steps
#
# With independent uniform $t$, a batch of 64 may hold many small steps, where the noise is hard to see, or few. Its
# loss then says more about this accident than about the network. Write $\ell(t)$ for the mean loss at $t$, and suppose
# that an image at step $t$ scores that and nothing else. The mean over $B$ independent steps has the variance
#
# $$\mathrm{Var}\Big[\frac{1}{B} \sum_{i=1}^{B} \ell(t_i)\Big] = \frac{\mathrm{Var}_t[\ell(t)]}{B} \tag{7.2}$$
#
# Instead, cut $1 \dots T$ into $B$ equal stretches and draw one step from each: **stratified** sampling. (Kingma et al.
# 2021 do something similar.) Every step is still as likely as any other, so the mean stays, but only the variance
# *within* the stretches remains. Let $m_k$ be the mean of $\ell$ over stretch $k$. The deviation of $\ell(t)$ from the
# mean of all is its deviation from $m_k$ plus that of $m_k$; squared and averaged, the mixed term vanishes, as in
# [(4.7)](04_bound_to_noise.ipynb). So $\mathrm{Var}_t[\ell(t)]$ is the mean variance within the stretches plus
# $\mathrm{Var}_k[m_k]$, the variance of the means (the law of total variance), and the second part drops out:
#
# $$\mathrm{Var}\Big[\frac{1}{B} \sum_{k=1}^{B} \ell(t_k)\Big] = \frac{\mathrm{Var}_t[\ell(t)] - \mathrm{Var}_k[m_k]}{B} \tag{7.3}$$
#
# ### Exercise 7.2 - `stratified_steps`
#
# `u` has shape (B,), uniform in [0, 1); `u[i]` says where in its stretch image `i` lands, and 0 is the first step of
# the stretch. Return B steps, int64 in $1 \dots T$. Image `i` belongs to the stretch from $i/B$ to $(i+1)/B$ of the
# way.


# %% tags=["exercise", "nbval-check-output"]
def stratified_steps(u, T):
    place = ...  # (B,) in [0, 1], rising, on the device of u
    chosen = ...  # (B,) int64 in 1 ... T
    return chosen


stratified_steps = check(stratified_steps)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `torch.arange(len(u), device=u.device)` counts the images, on the device of `u`. `(place * T).long()` cuts off the
# fraction and gives $0 \dots T - 1$, and steps start at 1. Where `u` is very close to 1, rounding may make the last
# place exactly 1: `.clamp(max=T - 1)` before you add 1 cures it.
#
# </details>
#
# For the poor model above $\ell(t)$ is known exactly, so both equations can be tested.

# %% tags=["nbval-check-output"]
exact, B = loss_at_t.double(), 50  # (1000,): 50 stretches of 20 steps each
independent = torch.randint(1, 1001, (4000, B), generator=generator)
spread = torch.stack([stratified_steps(torch.rand(B, generator=generator), 1000) for _ in range(4000)])  # (4000, B)
variance, between = exact.var(correction=0), exact.reshape(B, 20).mean(1).var(correction=0)
verify("7.2", samples=(exact[independent - 1].mean(1) - exact.mean()) ** 2, expected=variance / B)
verify("7.3", samples=(exact[spread - 1].mean(1) - exact.mean()) ** 2, expected=(variance - between) / B)
print(f"the variance is more than {variance / (variance - between) // 1000 * 1000:,.0f} times smaller")

# %% [markdown]
# That was a model whose loss depends on nothing but $t$. Now the network of the plain loop. The optimizer does not see
# the loss, it sees the gradient, so we measure how much *that* scatters, too. Guess before you run: how much does each
# gain?

# %%
def scatter(net, objective, choose, tries):
    """Loss and gradient of several batches: how far they lie from their mean (root mean square)."""
    losses, total, power = [], 0, 0
    for _ in range(tries):
        x0, _, noise = draw(64)
        net.zero_grad()
        loss = objective(net, schedule, x0, choose().to(device), noise)
        loss.backward()
        gradient = torch.cat([p.grad.flatten() for p in net.parameters()])  # (parameters,)
        losses.append(loss.detach())
        total, power = total + gradient, power + gradient.square().sum()
    spread = power / tries - (total / tries).square().sum()  # mean squared length, minus squared length of the mean
    return torch.stack(losses).std().item(), spread.sqrt().item()

# %%
tries = budget(gpu=100, cpu=40, quick=3, unit="batches")
ways = {
    "independent": lambda: torch.randint(1, 1001, (64,), generator=generator),
    "stratified": lambda: stratified_steps(torch.rand(64, generator=generator), 1000),
}
for name, choose in ways.items():
    loss_scatter, gradient_scatter = scatter(plain, ddpm_loss, choose, tries)
    print(f"{name:12} loss scatters by {loss_scatter:.4f}, gradient by {gradient_scatter:.3f}")

# %% [markdown]
# *In a full run the loss scatters less than half as much, and the gradient a seventh less: most of the gradient's
# scatter comes from the images and the noise. So do not expect stratified steps to train much faster. They make the
# curve that you watch calmer, at no cost.*
#
# ## Lever 4: average the weights
#
# With a constant learning rate the weights never settle. Each step follows one batch, and they jitter around a good
# place; the average of many positions is closer to it than the last one is. An **exponential moving average** (EMA; Ho
# et al. 2020 use one with a decay of 0.9999) needs one copy of the weights. With a **decay** $d$ a little below 1,
# after each step
#
# $$\bar\theta_n = d\, \bar\theta_{n-1} + (1 - d)\, \theta_n \tag{7.4}$$
#
# ### Exercise 7.3 - `ema_update`
#
# Write (7.4). `average` and `value` are tensors of one shape, `decay` is a number. Return a new tensor.


# %% tags=["exercise", "nbval-check-output"]
def ema_update(average, value, decay):
    ...  # one line


ema_update = check(ema_update)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Which of the two must hardly change when `decay` is 0.999?
#
# </details>
#
# What does the average remember? Put (7.4) into itself $n$ times: each older value has been multiplied by $d$ once
# more.
#
# $$\bar\theta_n = d^{\,n}\, \bar\theta_0 + (1 - d) \sum_{i=1}^{n} d^{\,n-i}\, \theta_i \tag{7.5}$$
#
# So the last $1/(1-d)$ values count, roughly: 1,000 of them for $d = 0.999$. If the $\theta_i$ jitter independently
# with variance $v$ around a fixed place, the variance of the average is $v$ times the sum of the squares of their
# factors in (7.5). For large $n$ that is a geometric series, and $1 - d^2 = (1 - d)(1 + d)$:
#
# $$\mathrm{Var}[\bar\theta_n] = (1 - d)^2 \sum_{k=0}^{\infty} d^{\,2k}\; v = \frac{(1 - d)^2}{1 - d^2}\; v = \frac{1 - d}{1 + d}\; v \tag{7.6}$$

# %% tags=["nbval-check-output"]
start, value = few[0].double(), few[1].double()
verify("7.4", ema_update(start, value, 0.9), torch.lerp(value, start, 0.9))
d, n = 0.9, 100
thetas = torch.randn(n, 50_000, generator=generator, dtype=torch.float64)  # 50,000 jittering weights, v = 1
average = torch.zeros(50_000, dtype=torch.float64)
for theta in thetas:
    average = ema_update(average, theta, d)
powers = d ** torch.arange(n - 1, -1, -1, dtype=torch.float64)  # (n,): the newest has d to the power 0
verify("7.5", average, (1 - d) * powers @ thetas)
verify("7.6", samples=average**2, expected=(1 - d) / (1 + d))

# %% [markdown]
# At $d = 0.999$ that is 2,000 times less variance. Real jitter is not independent from step to step, so the gain is
# smaller, and there is a price: while the weights still travel, their average lags behind by about $1/(1-d)$ steps, and
# early in a run it would consist of weights that knew nothing. So in its step $n$, counted from 0, the trainer uses the
# decay $(1 + n)/(10 + n)$, which remembers about the last ninth of the run so far, until that would exceed 0.999 (never
# in a run of 3,000).
#
# ## Lever 5: the learning rate, and a limit on the gradient
#
# At the start Adam knows nothing about the size of the gradients: **warm-up** of the learning rate $\eta$ over $w$
# steps keeps the first steps small. At the end the jitter should die down: over the last quarter of the $N$ steps the
# rate falls to zero. For step $i = 0, \dots, N - 1$:
#
# $$\eta_i = \eta \cdot \min\Big(\frac{i + 1}{w},\; 1,\; \frac{N - i}{N / 4}\Big) \tag{7.7}$$
#
# And one odd batch may have a gradient $g$ that is many times as long as usual. **Clipping** (Pascanu et al. 2013)
# shortens it to a largest norm $c$, and keeps its direction:
#
# $$g \;\to\; g \cdot \min\Big(1,\; \frac{c}{\lVert g \rVert}\Big) \tag{7.8}$$

# %% tags=["nbval-check-output"]
config = TrainConfig(steps=3000)  # learning_rate 0.002, warmup 100, clip_norm 1, ema_decay 0.999, batch_size 64
rates = torch.tensor([config.learning_rate_at(i) for i in range(3000)], dtype=torch.float64)
ramps = torch.stack([torch.arange(1, 3001) / 100, torch.ones(3000), torch.arange(3000, 0, -1) / 750]).double()
verify("7.7", rates, 2e-3 * ramps.min(0).values)
weight = torch.zeros(5, requires_grad=True)
for g in (torch.tensor([3.0, 0, -4, 0, 12]), torch.tensor([0.3, 0, -0.4, 0, 0])):  # norms 13 and 0.5
    weight.grad = g.clone()
    torch.nn.utils.clip_grad_norm_([weight], 1.0)
    verify("7.8", weight.grad, g * min(1, 1 / g.square().sum().sqrt()))

# %%
viz.plot_curves({"learning rate": rates}, xlabel="training step", alt="A ramp up, a plateau, a ramp down")
sizes = torch.stack(norms).cpu()
print(f"norm of the gradient, plain loop: first step {sizes[0]:.2f}, largest {sizes.max():.2f}, last {sizes[-1]:.2f}")
print(f"steps above the limit of 1: {(sizes > 1).sum()} of {len(sizes)}")

# %% [markdown]
# *In the plain loop the gradient is rarely longer than 1, and never by much. Clipping does next to nothing there: it is
# an insurance.*
#
# Warm-up can be measured in the first steps of `Trainer`, the subject of the next section, with and without it, at the
# learning rate 0.002 and at ten times as much. Guess before you run: what does leaving it out cost?

# %%
def first_losses(rate, warmup):
    torch.manual_seed(0)
    net, config = UNet(base=32, multipliers=(1, 2), patch=2), TrainConfig(3000, learning_rate=rate, warmup=warmup)
    losses = torch.stack(list(islice(Trainer(net, schedule, data.images, config).run(), steps)))
    return losses.cpu().reshape(-1, 5).mean(1)  # means of 5 steps

steps = budget(gpu=120, cpu=120, quick=10)
curves = {}
for rate in (0.002, 0.02):
    for warmup in (0, 100):
        curves[f"rate {rate}, warm-up {warmup}"] = first_losses(rate, warmup)
        print(f"rate {rate:5}, warm-up over {warmup:3} steps: loss {curves[f'rate {rate}, warm-up {warmup}'][-1]:.3f}")

# %%
curves = {name: (5 * torch.arange(1, len(values) + 1), values) for name, values in curves.items()}
viz.plot_curves(curves, xlabel="training step", ylabel="loss", alt="First losses of four runs; one of them stays near 1")

# %% [markdown]
# *In a full run: at the rate 0.002 the run with warm-up (orange) learns later, and by step 120 the two are about equal.
# At 0.02 the run without it (green) jumps above 1 and then stays near 1: its weights are so far off that it learns
# nothing. With warm-up (pink) the very same rate works. Clipping the gradient, as all four runs do, did not help: Adam
# divides by the size of the gradients it has seen, so its first steps are as long as the learning rate says, whatever
# the gradient.*
#
# ## The real run
#
# `Trainer` is the plain loop with the five levers. (Besides, it goes through the images in shuffled passes, and its
# optimizer is AdamW, which is Adam with a slight pull of all weights towards 0; Loshchilov & Hutter 2019.) `run()` is a
# generator: it hands you the loss after each complete step, and you may draw, log or stop. We look at it in six rounds,
# with the averaged weights (`trainer.ema`) and with the raw ones (`trainer.model`): twelve samples, always from the
# same noise, and the loss on 256 test images, always with the same steps and the same noise.

# %%
test = to_float(load_images("mnist", train=False).images[:256]).to(device)
test_noise = torch.randn(test.shape, generator=generator).to(device)
test_t = stratified_steps(torch.full((256,), 0.5), schedule.T).to(device)  # the middle of each stretch

@torch.no_grad()
def held_out(model):
    return ddpm_loss(model, schedule, test, test_t, test_noise).item()

# %%
torch.manual_seed(0)
config = TrainConfig(steps=budget(gpu=12_000, cpu=3000, quick=24))
trainer = Trainer(UNet(base=32, multipliers=(1, 2), patch=2), schedule, data.images, config)
rounds, averaged, raw, losses = config.steps // 6, {}, {}, {"raw": [], "averaged": []}
live = viz.LiveLoss(config.steps, samples=lambda: sample(trainer.ema, schedule, 16, steps=20))
for loss in trainer.run():
    live(loss)
    if trainer.step % rounds == 0:
        averaged[f"step {trainer.step:,}"] = sample(trainer.ema, schedule, 12, steps=25)
        raw[f"step {trainer.step:,}"] = sample(trainer.model, schedule, 12, steps=25)
        losses["averaged"].append(held_out(trainer.ema))
        losses["raw"].append(held_out(trainer.model))

# %% [markdown]
# *The loss (means of 50 steps, logarithmic axis) falls steeply for a few hundred steps and then creeps, with one more
# bend where the learning rate begins to fall. From the curve alone you would stop early.*

# %% tags=["figure-07_rounds"]
viz.image_rows(averaged, alt="Samples of the averaged network after each of six rounds, from the same noise")

# %% [markdown]
# *In a full run on a CPU the outline is settled in the first row. Then the grain vanishes from the ground, and strokes
# get smooth edges. Some columns change their mind on the way, and some end as strokes that are no digit: 3,000 steps of
# 64 images are about three passes through the data, and this network needs more of them.*

# %%
viz.plot_curves({name: (torch.arange(1, 7) * rounds, torch.tensor(values)) for name, values in losses.items()},
                xlabel="training step", ylabel="loss on test images", alt="Loss of raw and averaged weights after each round")
for place, name in enumerate(averaged):
    print(f"{name:>12}: raw {losses['raw'][place]:.4f}, averaged {losses['averaged'][place]:.4f}")

# %%
middle = list(averaged)[2]
viz.image_rows({"raw": raw[middle], "averaged": averaged[middle]}, alt="Samples at half time, raw against averaged weights")

# %% [markdown]
# *The average is ahead of the raw weights in every round but the last: what it has after 1,500 steps, the raw weights
# reach only at about 2,500. In the last round the learning rate falls to zero and the raw weights catch up: both levers
# remove the same jitter, so their gains do not add up. At half time the strokes of the raw weights are thinner here,
# and a moment later they may be thicker. With the average you may look at samples at any time.*
#
# ## Where is the error?
#
# The loss is a mean over $t$. Take it apart: the same test images, all at one step, for one step after the other. On
# the right the same errors in other units: by [(4.21)](04_bound_to_noise.ipynb) the squared error of $\hat x_0$ is that
# of $\hat\epsilon$, divided by the signal-to-noise ratio.

# %%
places = torch.tensor([1, 2, 5, 10, 20, 50, 100, 150, *range(200, 1000, 100), 950])
ratio = snr(schedule).cpu()[places]

def by_step(model):
    with torch.no_grad():
        values = [ddpm_loss(model, schedule, test[:64], t.expand(64).to(device), test_noise[:64]) for t in places]
    return torch.stack(values).cpu()  # (len(places),)

# %%
curves = {"plain loop": by_step(plain), "real run": by_step(trainer.ema)}
for t in (1, 100, 500, 900):
    here = (places == t).nonzero()[0, 0]
    error = curves["real run"][here]
    print(f"t = {t:3}: squared error of the noise {error:.4f}, of the clean image {error / ratio[here]:.5f}")

# %%
figure, axes = viz.subplots(1, 2, size=(8, 3.2))
for name, values in curves.items():
    axes[0].semilogy(places, values, label=name)
    axes[1].semilogy(places, values / ratio, label=name)
axes[0].axhline(1, color="black", linewidth=0.8, label="always 0")
axes[0].legend(loc="lower left")
axes[0].set(title="squared error of the noise", xlabel="step t")
axes[1].set(title="squared error of the clean image", xlabel="step t")
axes[1].legend(loc="upper left")
viz.show(figure, alt="Loss by step: the error of the noise falls with t, the error of the clean image rises")

# %%
with torch.no_grad():
    guess = trainer.ema(q_sample(schedule, test, test_t, test_noise), test_t)
errors = (guess - test_noise).square().mean((1, 2, 3)).cpu()  # (256,): one image for each 1/256 of the steps
first, last = errors[:25].sum() / errors.sum(), errors[128:].sum() / errors.sum()
print(f"the first tenth of the steps makes up {first:.0%} of the loss, the last half {last:.0%}")

# %% [markdown]
# *Left: at small $t$ there is hardly any noise in the image, and it is hard to see. At $t = 1$ the plain loop (blue) is
# barely better than the thin line, the answer 0, and the real run (orange) still makes a large part of that error. At
# large $t$ the image is nearly all noise, and repeating it is nearly right. Right: as errors of the clean image it is
# the other way round, over orders of magnitude.*
#
# In a full run on a CPU the first tenth of the steps makes up a third of the mean, although the clean image is hardly
# off there: at $t = 100$ by about 0.05, the root of the squared error printed above, where black is -1 and white is 1.
# The last half, where the digit is decided, makes up a fifth. The mean loss looks at the grain.
#
# ### A low loss and bad samples
#
# A controlled case: add a constant 0.1 to the answers of the trained network, once at the late steps only ($t > 500$,
# where sampling begins), once at the early ones only. Both faults add $0.1^2 = 0.01$ to the squared error of half of
# the steps (and 0.2 times the network's mean error, which is close to 0), so both raise the mean loss by about 0.005.
# Guess before you run: which row will you be able to tell from the sound one?

# %%
def faulty(low, high):
    return lambda x, t: trainer.ema(x, t) + 0.1 * per_image((t > low) & (t <= high), x)

models = {"sound": trainer.ema, "early": faulty(0, 500), "late": faulty(500, 1000)}
rows = {f"{name}, {held_out(model):.4f}": sample(model, schedule, 12, steps=25) for name, model in models.items()}
viz.image_rows(rows, alt="Samples of the sound network, of one that is wrong early, of one that is wrong late")

# %% [markdown]
# *By the losses, beside the rows, both faults cost the same. In a full run on a CPU the row that is wrong early can
# hardly be told from the sound one. In the row that is wrong late, strokes get thin, break, or vanish, and several
# digits have become other ones or none. A shift of 0.1 in the noise is a darker guess of the image, by $0.1\, \sigma_t
# / \sqrt{\bar\alpha_t}$, and where there is little signal that is a lot; the next steps build on it. So when the loss
# is low and the samples are bad, look at the loss of the late steps, and at the mean brightness of your samples, before
# you train longer. (Other weights and targets: [notebook 16](16_targets_and_weights.ipynb).)*
#
# ## Kill it
#
# Notebooks lose their kernel, Colab disconnects, laptops fall asleep. `trainer.fit(path)` trains as `run()` does, and
# saves to `path` once a minute, at the end, and when it is stopped. If the file is there already, it goes on from it.
#
# Let us put that to the test, on a small run whose recipe is a piece of text, so that another process can have it, too.
# (All of this is on the CPU. A GPU may add up numbers in another order from run to run, so there you get the same run
# up to rounding.)

# %%
recipe = """
import torch
from ddpm_helpers import TrainConfig, Trainer, UNet, cosine_schedule, synthetic_digits

def fresh():
    torch.manual_seed(0)
    net = UNet(base=8, multipliers=(1, 2), patch=2)
    images, _ = synthetic_digits(500)
    return Trainer(net, cosine_schedule(1000), images, TrainConfig(steps=80, batch_size=16), device="cpu")
"""
namespace = {}
exec(recipe, namespace)  # runs the text as code and keeps its names here
fresh = namespace["fresh"]
whole = fresh()
for _ in whole.run():
    pass
print(f"not interrupted: step {whole.step}, loss {whole.losses[-1]:.5f}")

# %% [markdown]
# ### The stop button
#
# Jupyter's stop button sends the kernel the signal SIGINT, as Ctrl-C does in a terminal. We send it ourselves, while
# the network computes step 38: a **hook** is a function that PyTorch calls after each forward pass; ours ignores its
# arguments (`*_`) and presses the button.

# %%
folder = tempfile.TemporaryDirectory()
path = Path(folder.name) / "stopped.safetensors"
stopped = fresh()
stopped.model.register_forward_hook(lambda *_: signal.raise_signal(signal.SIGINT) if stopped.step == 37 else None)
try:
    stopped.fit(path)
except KeyboardInterrupt:
    print("KeyboardInterrupt: here the cell would have ended.")
half = files.read(path)

# %% [markdown]
# *`fit` noted the signal, finished the step, wrote the file, and only then stopped the cell. Pressing the button a
# second time stops at once.*
#
# Now the kernel restarts: nothing is left but the file.

# %%
resumed = fresh()
model = resumed.fit(path)

# %% [markdown]
# *(Eighty steps of a tiny network draw nothing but noise.)* Is this the run that was never stopped?

# %% tags=["nbval-check-output"]
def everything(trainer):
    return [*trainer.model.state_dict().values(), *trainer.ema.state_dict().values(), *trainer.losses]

def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(everything(a), everything(b), strict=True))

print("weights, averages and all losses equal to the bit:", same(whole, resumed))

# %% [markdown]
# ### Kill -9
#
# The stop button asks. SIGKILL does not: the process is gone between two instructions, perhaps in the middle of writing
# its file. Here another process trains by the same recipe and saves after every step. We kill it half a second after
# its first file.

# %%
path = Path(folder.name) / "killed.safetensors"
script = recipe + f"fresh().fit({str(path)!r}, seconds_between_saves=0)"
child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
print(child.stdout.readline().strip())
while child.poll() is None and not path.exists():
    time.sleep(0.01)
time.sleep(0.5)
child.kill()
print(f"ended with {child.wait()}; the file holds step {files.read(path)['step']}")

# %% [markdown]
# *A process that a signal ended reports the signal's number with a minus; SIGKILL has the number 9. (Windows has no
# such signal, and reports 1. If yours ended with 0, it was done before the kill.) The file is whole, and a fresh
# trainer goes on from it:*

# %%
revived = fresh()
model = revived.fit(path)

# %% tags=["nbval-check-output"]
print("weights, averages and all losses equal to the bit:", same(whole, revived))

# %% [markdown]
# ### What has to be in the file

# %%
def numbers(value):
    parts = value.values() if isinstance(value, dict) else [value]
    return f"{sum(part.numel() for part in parts):,} numbers"

for name, value in half.items():
    print(f"{name:14}", numbers(value) if isinstance(value, (dict, torch.Tensor)) else value)

# %% [markdown]
# *What each is for:*
#
# | entry | for |
# |---|---|
# | `model`, `ema` | the weights and their average |
# | `optimizer` | Adam's two moving averages for each weight, of its gradient and of the square |
# | `step` | the place in the learning rate, in the data and in the random numbers, which all follow from it and the seed |
# | `steps` to `weighted` | the `TrainConfig`; with the next four, to refuse the file of another run |
# | `objective` to `labels` | of the objective (the loss that is minimised) its name, of the others a checksum |
# | `losses` | so that the curve goes on, too |
#
# The file is a **safetensors** file: numbers and text, and nothing that could run when it is read. One checksum covers
# all of it, so a file with a single wrong bit is refused.
#
# The entry that is most often forgotten is the optimizer. What does that cost? The stopped run again, with a fresh
# Adam:

# %%
lazy = fresh()
lazy.model.load_state_dict(half["model"])
lazy.ema.load_state_dict(half["ema"])
lazy.step = half["step"]  # all but the optimizer
for _ in lazy.run():
    pass
for later in (0, 1, 2, 10, 41):
    step = half["step"] + later
    print(f"loss of step {step + 1:2}: {whole.losses[step]:.4f} as it was,", end=" ")
    print(f"{lazy.losses[step]:.4f} without the optimizer")

# %% [markdown]
# *The first loss is the same, because the weights are. Then the two runs part, and the one without the optimizer ends
# higher: a fresh Adam's first steps are as long as the learning rate says, and a run that goes on is usually past its
# warm-up. (This small one is still in it, so the damage is small.) No message appears. Forgetting the average is worse:
# it then starts from random weights, with the decay of a late step, and keeps them for long.*
#
# What would a kill half-way leave, if `save` wrote into the old file? We cut a good one in two:

# %%
def attempt(action):
    try:
        action()
    except (CheckpointError, TrainingError) as error:
        print(f"{type(error).__name__}: {error}")

content = path.read_bytes()
torn = path.with_name("torn.safetensors")
torn.write_bytes(content[: len(content) // 2])
attempt(lambda: fresh().resume(torn))

# %% [markdown]
# *So the new file is written under another name in the same folder, pushed to the disk, and then renamed over the old
# one. Renaming is one operation of the file system: at any moment the good name stands for a whole file, the old or the
# new one.*
#
# ## What goes wrong
#
# A file of another network must not be half loaded. And a loss that is no longer a number must stop the run: every
# weight is NaN one step later, and every save after that worthless. Here is a learning rate five hundred million times
# too large. The last line is the way out: go on from the good file with a smaller rate.

# %%
def another(config, base=8):
    net = UNet(base=base, multipliers=(1, 2), patch=2)
    return Trainer(net, whole.schedule, whole.images, config, device="cpu")

attempt(lambda: another(whole.config, base=16).resume(path))
wild = TrainConfig(steps=160, batch_size=16, learning_rate=1e6, warmup=0)
attempt(lambda: list(another(wild).run()))
tame = TrainConfig(steps=160, batch_size=16, learning_rate=1e-3)
attempt(lambda: another(tame).resume(path))
folder.cleanup()

# %% [markdown]
# *Both errors say what to do. In practice a NaN comes from a learning rate that is too large, from a division by 0 in a
# network of your own, or, in a loop of your own, from the images. The last file from before it accepts another `steps`,
# `batch_size`, `learning_rate`, `warmup` and `clip_norm`: how long and how fast the run learns. All else has to be as
# it was.*
#
# ## A run of your own
#
# Name a folder that outlives the machine, and train longer. In Colab that is one in your Drive, mounted in a cell of
# its own:
#
# ```python
# from google.colab import drive
# drive.mount("/content/drive")
# ```
#
# After a disconnect, mount the Drive again, run the set-up cell, the cell with the data, and this one, with the same
# folder. It goes on from the last save.

# %%
KEEP = None  # a folder: "runs", or in Colab "/content/drive/MyDrive/ddpm"; None trains nothing
if KEEP:
    torch.manual_seed(0)
    net = UNet(base=32, multipliers=(1, 2), patch=2)
    trainer = Trainer(net, schedule, data.images, TrainConfig(steps=20_000))
    model = trainer.fit(f"{KEEP}/mnist.safetensors")
    viz.image_grid(sample(model, schedule, 32, steps=50), alt="Samples of your own run")

# %% [markdown]
# The trainer takes the best device it finds: a CUDA GPU, an Apple GPU (MPS, in float32), or the CPU. The same training
# runs from a terminal, and with torchrun, PyTorch's launcher for several processes, on several GPUs: they share each
# batch, and together make the run that one process would make.
#
# ```
# python -m ddpm_helpers.cli --steps 20000 --checkpoint runs/mnist.safetensors --samples runs/mnist.png
# torchrun --nproc-per-node 2 -m ddpm_helpers.cli --steps 20000 --checkpoint runs/mnist.safetensors
# ```
#
# After an interruption, type the same line again. `--help` lists the rest.
#
# ## What to remember, and what broke
#
# - Training a DDPM is five lines. A network that knows nothing has the loss 1.
# - Here the first tenth of the steps made up a third of the mean loss, and an error there hardly showed in the samples;
#   one at large $t$ did. Look at the loss by step, and at samples, always from the same noise.
# - Average the weights, let the learning rate end at zero, and sample with the average. ([Notebook
#   10](10_libraries.ipynb) takes both away, one at a time.)
# - A run that can be resumed needs weights, average, optimizer, and the place in its random numbers; and a file that is
#   replaced, never overwritten.
#
# **What broke:** nothing here said how a predicted noise becomes an image. The samples came from a function that took
# 25 steps. [Notebook 04](04_bound_to_noise.ipynb) speaks of $T = 1000$ steps, each but the last with fresh noise. Does
# skipping 39 of 40 steps cost anything? And why may `sample` leave out the fresh noise? [Notebook
# 08](08_sampling.ipynb) takes a step apart.
#
# ### Experiments to try
#
# - Set `ema_decay=0` in the real run, and look at the first rounds again. What did the average do there?
# - Train on `load_images("fashion")`. Is the loss lower than for digits, and are the samples better?
# - Put the constant of `faulty` into a narrow window, such as $t$ from 900 to 1000. How narrow can it be before you no
#   longer see it?
# - In `faulty`, add 0.1 times fresh noise instead of a constant. The loss rises by as much. Do the samples suffer as
#   much?
