# %% [markdown]
# # Telling the network the time
#
# ![Three rows of sixteen samples, one row per network: grainy, then clean but broken, then a little more whole](../figures/05_three_networks.png)
#
# *The same sixteen starts, the same training, three ways of telling a network how noisy its input is: not at all, by
# one number, by waves that scale its features. What is the grain in the top row, and why is it gone below?*
#
# **You will** measure what **time conditioning** is worth, telling a network how noisy its input is, find out where,
# and build the part that does it: waves, a small network, a scale and a shift. **You need** [notebook
# 02](02_forward_process.ipynb), and from [notebook 04](04_bound_to_noise.ipynb) that the loss is the squared error of
# the predicted noise. **Time** 50 minutes of reading; the cells run in about 4 minutes on 2 CPU cores.

# %% tags=["setup"]
REPO = ""  # owner/name on GitHub; `make badges REPO=owner/name` fills it in
try:
    import ddpm_helpers
except ImportError:
    assert REPO, "The helper module is missing: start this notebook with `make lab`, or see Colab in the README."
    get_ipython().run_line_magic("pip", f"install -q git+https://github.com/{REPO}")

import math

import torch
import torch.nn.functional as F
from torch import nn

from ddpm_helpers import SimpleUNet, TrainConfig, Trainer, budget, check, count_parameters, default_device
from ddpm_helpers import ddim_step, ddim_trajectory, image_noise, linear_schedule, load_images, q_sample, snr
from ddpm_helpers import to_float, verify, viz
from ddpm_helpers.lessons import show

device = default_device()
generator = torch.Generator().manual_seed(0)

# %%
data, test = load_images("mnist"), load_images("mnist", train=False)
schedule = linear_schedule(1000)
print(data.source)

# %% [markdown]
# ## Two answers that disagree
#
# [Notebook 04](04_bound_to_noise.ipynb) left us with a loss: show a network $x_t$ at a random step $t$, and ask for
# the noise $\epsilon$ in it. One network has to serve all 1000 steps. How does it know which one it is looking at?
# Notebook 04: it cannot, because one and the same $x_t = 0.5$ asks for eight different answers at eight steps.
# [Notebook 01](01_corrupt_and_predict.ipynb): it need not be told, because a small network reads the amount of noise
# off the image. Both were measured, the first on *one* pixel, the second on 784.
#
# What lies between? Write $m_t(x) = \mathbb{E}[\epsilon \mid x_t = x,\, t]$ for the best guess of somebody who knows
# $t$. Somebody who does not know $t$ can only weigh the steps by how probable this $x$ makes them, $p(t \mid x)$, and
# average: $m(x) = \sum_t p(t \mid x)\, m_t(x)$. What does that cost?
#
# $$\begin{aligned}
# \mathbb{E}\,\lVert {\color{#D55E00}{\epsilon}} - m(x_t)\rVert^2
# &= \mathbb{E}\,\lVert {\color{#D55E00}{\epsilon}} - m_t(x_t)\rVert^2 \\
# &\quad + \mathbb{E}\,\lVert m_t(x_t) - m(x_t)\rVert^2
# \end{aligned} \tag{5.1}$$
#
# (For a given $x$ and $t$ the mean of $\epsilon$ is $m_t(x)$, so this is [(1.3)](01_corrupt_and_predict.ipynb) again,
# with $c = m(x)$.) The left side is the best loss without $t$, the next term the best loss with $t$. The last one is
# **the price of not knowing $t$**: how far the ideal answer varies over the steps that are plausible for this $x$.
#
# In a world of coin flips we can compute all three. Let an image be $D$ pixels, each $+1$ or $-1$ with equal chance.
# At step $t$ the odds of $+1$ against $-1$ are the ratio of two Gaussian densities at $x$, around
# $\sqrt{\bar\alpha_t}$ and around $-\sqrt{\bar\alpha_t}$, which is $e^{2 \sqrt{\bar\alpha_t}\, x / \sigma_t^2}$. With
# odds of $o$ to 1 the mean of the pixel is $(o - 1) / (o + 1)$, here $\tanh(\sqrt{\bar\alpha_t}\, x / \sigma_t^2)$,
# and the guess of the noise follows by [(4.8)](04_bound_to_noise.ipynb). (In the code `a` is $\sqrt{\bar\alpha_t}$ and
# `s` is $\sigma_t$. All steps are equally likely, so `softmax`, which makes shares of logarithms, turns log densities
# into $p(t \mid x)$.)

# %%
steps = torch.arange(10, 1001, 10)  # 100 steps, equally likely
signal, sigma = schedule.sqrt_alpha_bar[steps], schedule.sigma[steps]  # (100,) each

def ideal_guesses(x):
    """(n, D) pixels -> the best guess of the noise for each step (n, 100, D), how plausible each step is (n, 100)."""
    x, a, s = x[:, None], signal[:, None], sigma[:, None]  # (n, 1, D), (100, 1), (100, 1)
    guess = (x - a * torch.tanh(a * x / s**2)) / s
    log_density = torch.logaddexp(-(((x - a) / s) ** 2) / 2, -(((x + a) / s) ** 2) / 2) - s.log()
    return guess, log_density.sum(2).softmax(1)

# %% [markdown]
# Guess before you run: at one pixel, and at 784 pixels, by how many percent is the loss higher for want of $t$?

# %% tags=["nbval-check-output"]
def squared_errors(D, n):
    step = torch.arange(n) % 100  # every step equally often
    x0 = torch.randint(0, 2, (n, D), generator=generator) * 2.0 - 1
    noise = torch.randn(n, D, generator=generator)
    guess, plausible = ideal_guesses(signal[step, None] * x0 + sigma[step, None] * noise)
    with_t = guess[torch.arange(n), step]  # (n, D)
    without_t = (plausible[..., None] * guess).sum(1)  # (n, D)
    pairs = [(without_t, noise), (with_t, noise), (with_t, without_t)]
    return [(a - b).square().mean(1) for a, b in pairs]  # per image: loss without t, loss with t, price

without, knowing, price = squared_errors(1, 40_000)
verify("5.1", samples=without - knowing - price, expected=0.0)

# %%
for D in (1, 4, 16, 64, 256, 784):
    without, knowing, price = (errors.mean() for errors in squared_errors(D, 100 * (800 // D)))
    print(f"{D:4} pixels: loss with t {knowing:.3f}, price {price:.4f}, {price / knowing:4.0%} of it")

# %% [markdown]
# *Per pixel: (5.1), divided by $D$. The loss with $t$ is the same at every size, up to chance, because the pixels are
# independent. The price is not: all pixels share one $t$, and each is a little evidence for it. At 784 pixels a
# perfect reader loses 2 %.*
#
# So on paper time conditioning is worth little. (Sun et al. 2025 find the same of large networks: most of their models
# get only somewhat worse without it, and some better.) But what does it cost a network that has to learn to read $t$,
# with few parameters, in a few minutes?
#
# ## A fair comparison
#
# The simplest way to give a convolutional network a number is one more picture. `SimpleUNet` gets, beside the image, a
# channel with $t/T$ at every pixel.
#
# $$x'_{b} = (x_b,\; t_b / T), \qquad x'_{b,\,C+1,\,i,\,j} = \frac{t_b}{T} \tag{5.2}$$
#
# ### Exercise 5.1 - `append_time`
#
# `x` has shape (B, C, H, W), `t` has shape (B,), `T` is a number. Return shape (B, C + 1, H, W), on the device of `x`,
# with $t/T$ as the last channel.

# %% tags=["exercise", "nbval-check-output"]
def append_time(x, t, T):
    ...  # two lines


append_time = check(append_time)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `(t / T).reshape(-1, 1, 1, 1)` has one number per image, and `.expand_as(x[:, :1])` repeats it over the pixels without
# using memory. Then `torch.cat` along `dim=1`.
#
# </details>

# %% tags=["nbval-check-output"]
x = to_float(test.images[:3])  # (3, 1, 28, 28)
t = torch.tensor([1, 400, 1000])
longer = append_time(x, t, 1000)
verify("5.2", longer[:, 1], torch.stack([torch.full((28, 28), step / 1000) for step in (1, 400, 1000)]))
print(tuple(longer.shape), "and the image itself is unchanged:", torch.equal(longer[:, :1], x))

# %% [markdown]
# The rest of `SimpleUNet` is as small as a U-Net can be: one convolution at full size, a max-pool, two convolutions at
# half size, back up, one skip connection that is added, two more convolutions. `base` is the number of channels at
# full size.
#
# (New to these words? A convolution takes several pictures, its **channels**, and makes several others, the features.
# Each number is a weighted sum of the 3 by 3 pixels around its place, in all channels that come in, and a bias; beyond
# the border the layer reads zeros, the `padding`. The weights are its **kernel**: the same at every place, others for
# each channel that goes out. With a **stride** of 2 only every second row and column is computed, which halves the
# sides; `ConvTranspose2d` doubles them. A max-pool keeps the largest of every 2 by 2 pixels.)

# %% tags=["nbval-check-output"]
for base in (64, 32):
    print(f"base {base}: {count_parameters(SimpleUNet(1000, base=base)):,} parameters")
print(SimpleUNet(1000, base=32))

# %% [markdown]
# We take base 32, to save you time. The control must differ in one thing only, and leaving out the channel would
# change the number of weights. So the second network is the first one, given the same step whatever the truth is: a
# **blind** denoiser, which must remove noise of unknown strength. (In PyTorch a network is a class, an `nn.Module`:
# `__init__` makes its parts, and calling it, `net(x, t)`, runs `forward`.)

# %%
class SameStep(nn.Module):
    """A network that is given step 500, always."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x, t):
        return self.net(x, torch.full_like(t, 500))

# %% [markdown]
# `Trainer` is the training loop of this course: it draws images, steps and noise, computes the loss, moves the
# weights. ([Notebook 07](07_train_ddpm.ipynb) opens it.) Both runs start from the same weights and see the same
# images, steps and noise, in the same order. We use `ema`, a running average of the weights, which varies less than
# the weights of the moment. (`lambda: ...` is a function without a name: it makes the network after the seed is set.)

# %%
config = TrainConfig(steps=budget(gpu=1000, cpu=1000, quick=20))

def train(make):
    torch.manual_seed(0)  # the same starting weights
    trainer = Trainer(make(), schedule, data.images, config)
    live = viz.LiveLoss(config.steps)
    for loss in trainer.run():
        live(loss)
    return trainer.ema

timed = train(lambda: SimpleUNet(1000, base=32))

# %%
blind = train(lambda: SameStep(SimpleUNet(1000, base=32)))

# %% [markdown]
# *In a full run the second curve ends about a fifth higher, near 0.050 instead of 0.043.*
#
# ## Where it matters
#
# A mean over all steps hides where the difference is. So take 128 images that neither network has seen, with one noise
# image each, and measure the loss at one step at a time. Guess before you run: where will conditioning help most, at
# small $t$, in the middle, or near $T$?

# %%
clean = to_float(test.images[:128]).to(device)
noise = torch.randn(clean.shape, generator=generator).to(device)
probes = [1, 2, 3, 5, 8, 12, 20, 30, 50, 80, 120, 200, 300, 400, 500, 600, 700, 800, 900, 1000]
noising = schedule.to(device)

@torch.no_grad()
def loss_at(net, t, claim=None):
    """Loss of held-out images at step t, when the network is given the step `claim`; the truth, if there is no claim."""
    x_t = q_sample(noising, clean, torch.full((128,), t, device=device), noise)
    return F.mse_loss(net(x_t, torch.full((128,), claim or t, device=device)), noise).item()

# %%
losses = {name: [loss_at(net, t) for t in probes] for name, net in (("blind", blind), ("t / T", timed))}
curves = {name: (probes, values) for name, values in losses.items()}
viz.plot_curves(curves, ylabel="loss", log="xy", alt="Loss by step of both networks, falling from near 1 to below 0.01")

# %%
def ratio(name, to="t / T"):
    return probes, [a / b for a, b in zip(losses[name], losses[to], strict=True)]

viz.plot_curves({"blind": ratio("blind")}, ylabel="loss / loss with t / T", level=1, log="x",
                alt="Loss of the blind network, divided by that of the one with t/T, by step")

# %% [markdown]
# *First the losses of held-out images, then their ratio; on the thin line, at 1, conditioning would be worth nothing.
# Did you guess small $t$? In a full run neither network can do much there: near $t = 1$ both losses are close to 1,
# the score of the answer 0. Up to step 300 conditioning saves less than a fifth. The ratio is largest near $T$, above
# 2, where both losses are tiny: there the answer is almost $x_t$ itself, and how nearly depends on $t$.*
#
# How much does a fifth of the loss matter? Sample from both, 50 steps of DDIM (Song, Meng & Ermon 2021) from the same
# noise. ([Notebook 08](08_sampling.ipynb) explains that sampler: it walks from $t = 1000$ down to 0, asks the network
# at every step, and adds no noise of its own. `image_noise` returns a function that draws; the empty brackets at the
# end call it.)

# %%
start = image_noise(seed=0, images=range(16), shape=(1, 28, 28), device=device)()
nets = {"blind": blind, "t / T": timed}
paths = {name: list(ddim_trajectory(net, noising, start, 50)) for name, net in nets.items()}
rows = {name: path[-1].x for name, path in paths.items()}
viz.image_rows(rows, alt="Sixteen samples of the blind network, above sixteen of the one with t/T")

# %% [markdown]
# *In a full run most of the upper samples are covered with grain, and the lower ones are nearly clean. (The strokes
# are broken in both rows; the end of this notebook comes back to that.)*
#
# ## Why the grain stays
#
# The loss was measured on images that have exactly the noise of their step. A sampler's images have not: each step
# leaves a small error. The margin of a digit is black, so whatever varies there is noise. Divide its standard
# deviation by $\sigma_t$, which is what the schedule says it should be.

# %%
def noise_in_margin(path):
    """Noise in the three left columns after each step, in units of sigma_t; the last step, sigma_0 = 0, is left out."""
    t = [int(step.t) for step in path[:-1]]
    return t, torch.stack([step.x[..., :3].std().cpu() for step in path[:-1]]) / schedule.sigma[t]

curves = {name: noise_in_margin(path) for name, path in paths.items()}
viz.plot_curves(curves, ylabel="noise / what it should be", level=1, log="y",
                alt="Noise in the margin over sigma, by step: the blind network leaves ever more of it")

# %% [markdown]
# *Sampling runs from right to left. In a full run both networks begin well. The blind one then leaves more and more
# noise, at the end about six times what there should be. The one with $t/T$ strays only near the end, and far less.*
#
# Where does that come from? One step of the sampler, from $t$ down to $s$, reads the clean image off the answer, as in
# [(4.8)](04_bound_to_noise.ipynb), and adds the same answer again, in the size that belongs to step $s$ (equation
# [(8.8)](08_sampling.ipynb) will say why): $x_s = \sqrt{\bar\alpha_s}\, \hat{x}_0 + \sigma_s\, \hat\epsilon$.
#
# Suppose that $x_t$ has got $f_t$ times the noise that it should have,
# $x_t = \sqrt{\bar\alpha_t}\, x_0 + f_t\, \sigma_t\, \epsilon$. A blind network returns noise in the one size that it
# was trained to return, variance 1: it answers $\hat\epsilon = \epsilon$. The sampler removes $\sigma_t\, \epsilon$.
# The excess $(f_t - 1)\, \sigma_t\, \epsilon$ stays, as if it belonged to the image, so on the way to $s$ it is
# multiplied by $\sqrt{\bar\alpha_s / \bar\alpha_t}$, as the image is. In units of $\sigma_s$, the noise that should be
# there, it has grown:
#
# $$f_s - 1 = (f_t - 1)\, \sqrt{\mathrm{SNR}_s / \mathrm{SNR}_t} \tag{5.3}$$
#
# The root of the SNR grows from 0.006 to 100 on the way down, so a small excess does not stay small. A network that
# knows $t$ can compare what it sees with what it should see, and answer $f_t\, \epsilon$. Then $f_s = f_t$: the excess
# shrinks with the noise, and ends at nothing.

# %% tags=["nbval-check-output"]
x0, z = to_float(test.images[:3]), torch.randn(3, 1, 28, 28, generator=generator)
f_t = 1.1  # 10 % too much noise at step 300
x_t = schedule.sqrt_alpha_bar[300] * x0 + f_t * schedule.sigma[300] * z
x_s = ddim_step(schedule, x_t, 300, 100, eps=z, clip=False)  # down to step s = 100, with the answer z
f_s = ((x_s - schedule.sqrt_alpha_bar[100] * x0) * z).sum() / (schedule.sigma[100] * z * z).sum()
verify("5.3", f_s - 1, (f_t - 1) * (snr(schedule)[100] / snr(schedule)[300]).sqrt(), tol=1e-5)
print(f"10 % too much noise at step 300 is {f_s - 1:.0%} too much at step 100")
print(f"root of the SNR: {snr(schedule)[1000] ** 0.5:.3f} at step 1000, {snr(schedule)[1] ** 0.5:.0f} at step 1")

# %% [markdown]
# Is this what our networks do? Give both the held-out images at step 100, with twice the noise that belongs there.

# %%
with torch.no_grad():
    x_t = noising.sqrt_alpha_bar[100] * clean + 2 * noising.sigma[100] * noise
    for name, net in nets.items():
        size = net(x_t, torch.full((128,), 100, device=device)).std()
        print(f"noise of size 2.00 in the image; {name:8} answers with noise of size {size:.2f}")

# %% [markdown]
# *In a full run the first network answers with noise of a size near 1, although there is twice as much. The second
# answers with clearly more, so most of the excess is not taken for image.* **On inputs that are what they should be,
# the channel $t/T$ gains little here. It gains a lot when they are not, because knowing $t$ is knowing how much noise
# there *should* be.** No loss on a test set shows that. (The sampler also clips what it takes for the clean image to
# [-1, 1], which cuts some of the excess away; (5.3) is without clipping.)
#
# ## Why one number is a poor clock
#
# What can a channel of equal pixels do? A convolution of a constant picture is a constant, except at the border, where
# zeros are padded. So time adds one number to each feature channel $c$, and that number lies on a straight line in
# $t$. With $W$ and $b$ for the weights and biases of the first layer, $*$ for the convolution:
#
# $$h_c = W_{c,\,\text{image}} * x_t + b_c + \frac{t}{T} \sum_{i,j} W_{c,\,\text{time},\,i,\,j} \tag{5.4}$$

# %% tags=["nbval-check-output"]
layer = SimpleUNet(1000, base=32).down  # a fresh one, (2, 28, 28) -> (32, 28, 28)
h = layer(append_time(x, t, 1000))  # (3, 32, 28, 28)
line = t[:, None] / 1000 * layer.weight[:, 1].sum((1, 2))  # (3, 32)
right = F.conv2d(x, layer.weight[:, :1], layer.bias, padding=1) + line[:, :, None, None]
verify("5.4", h[..., 1:-1, 1:-1], right[..., 1:-1, 1:-1], tol=1e-5)

# %% [markdown]
# Compare with what is needed. The answer wanted is $\epsilon = (x_t - \sqrt{\bar\alpha_t}\, x_0) / \sigma_t$: whatever
# the network thinks of $x_0$, it has to *divide* by $\sigma_t$.

# %% tags=["nbval-check-output"]
for step in (1, 2, 3, 10, 11, 500, 501):
    print(f"t = {step:3}: the channel holds {step / 1000:.3f}, needed is a factor of 1 / sigma = {1 / schedule.sigma[step]:5.1f}")

# %% [markdown]
# *At small $t$ the input hardly moves, and the output has to jump.* And the time enters by addition, while the task is
# a multiplication. Both can be repaired. First the clock.
#
# ## Time as waves
#
# A clock on the wall has a fast hand, which tells neighbouring seconds apart and says nothing of the hour, and slow
# ones. The **sinusoidal embedding** gives each step $d$ numbers: the heights of $d/2$ waves, from fast to slow, each
# as sine and cosine. Write $k = 0, \dots, d/2 - 1$ for the number of the wave:
#
# $$\begin{aligned}
# e(t) &= \big(\sin \omega_0 t,\; \dots,\; \sin \omega_{d/2-1} t,\;\; \cos \omega_0 t,\; \dots,\; \cos \omega_{d/2-1} t\big), \\
# \omega_k &= 10000^{-k/(d/2)}
# \end{aligned} \tag{5.5}$$
#
# (Vaswani et al. 2017, section 3.5, made it for words in a sentence; Ho et al. 2020 took it over for steps, in their
# code with $d/2 - 1$ in place of $d/2$.) The fastest wave turns by one radian a step, the slowest by 0.00013 if
# $d = 64$.
#
# ### Exercise 5.2 - `sinusoidal_embedding`
#
# `t` has shape (B,), integers; `dim` is the even number $d$. Return float32 of shape (B, `dim`), on the device of `t`:
# first all sines, then all cosines.

# %% tags=["exercise", "nbval-check-output"]
def sinusoidal_embedding(t, dim):
    frequency = ...  # (dim/2,)
    angle = ...  # (B, dim/2)
    return torch.cat([angle.sin(), angle.cos()], dim=1)


sinusoidal_embedding = check(sinusoidal_embedding)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `k = torch.arange(dim // 2, device=t.device)`, and `10_000.0 ** (-k / (dim // 2))` are the frequencies.
# `t.float()[:, None]` has shape (B, 1); its product with the frequencies, shape (dim/2,), has shape (B, dim/2).
#
# </details>

# %% tags=["nbval-check-output"]
every = torch.arange(1, 1001)
E = sinusoidal_embedding(every, 64)  # (1000, 64)
by_hand = [[math.sin(10_000 ** (-k / 32) * step) for k in range(32)] for step in (1, 2, 999)]
verify("5.5", E[[0, 1, 998], :32], by_hand, tol=1e-4)

# %%
alt = "Two heat maps of the embedding: fast waves at the top of each half, then slower and slower ones"
show.heat_maps({"all steps": E, "the first 50 steps": E[:50]}, alt=alt)

# %% [markdown]
# *Each column is one step, each row one dimension: 32 sines above, 32 cosines below. The top rows on the right change
# colour from one step to the next. In the lowest rows of each half next to nothing happens: for 1000 steps a smaller
# number than 10000 would do.*
#
# How alike are two steps? Take the dot product of their embeddings. Guess before you run: what does it depend on?

# %%
curves = {f"t' = {step}": (every, E @ E[step - 1] / 32) for step in (100, 400, 800)}
viz.plot_curves(curves, ylabel="dot product / 32", alt="Dot product of step t with three steps: three peaks of one shape")

# %% [markdown]
# *Three peaks of one shape. The product is 1 at the step itself, falls quickly over its neighbours, and then slowly
# and unevenly: whenever a wave has turned once around, two steps look alike to it again.*
#
# The reason is one line of trigonometry, $\sin u \sin v + \cos u \cos v = \cos(u - v)$, for every wave:
#
# $$e(t) \cdot e(t') = \sum_{k=0}^{d/2-1} \cos\big(\omega_k\, (t - t')\big) \tag{5.6}$$
#
# So the dot product depends on the difference of the steps alone. At $t = t'$ all cosines are 1 and the sum is $d/2$.

# %% tags=["nbval-check-output"]
omega = 10_000 ** (-torch.arange(32).double() / 32)  # (32,)
apart = (every[:, None] - every[None, :]).double()  # (1000, 1000)
verify("5.6", E @ E.T, sum((frequency * apart).cos() for frequency in omega), tol=1e-5)

# %% [markdown]
# ## What a small network makes of it
#
# The layers need numbers such as $1/\sigma_t$. So the embedding goes through a small network with one hidden layer, an
# **MLP** (multilayer perceptron). Test how well an MLP can learn $1/\sigma_t$, from $t/T$ and from waves, in as many
# steps as the networks had.

# %%
wanted = 1 / schedule.sigma[1:, None]  # (1000, 1)

def learn(inputs, width=64):
    """What an MLP makes of `inputs` (1000, n) after training, and the share of the variance that it misses."""
    torch.manual_seed(0)
    mlp = nn.Sequential(nn.Linear(inputs.shape[1], width), nn.SiLU(), nn.Linear(width, 1))
    optimizer = torch.optim.Adam(mlp.parameters(), lr=3e-3)
    target = (wanted - wanted.mean()) / wanted.std()
    for _ in range(config.steps):
        loss = F.mse_loss(mlp(inputs), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return (mlp(inputs).detach() * wanted.std() + wanted.mean())[:, 0], loss.item()

# %%
learned = {"t / T": learn(every[:, None] / 1000), "waves": learn(E)}
for name, (_, missed) in learned.items():
    print(f"from {name:5}: {missed:.3%} of the variance missed")

# %%
curves = {r"wanted: $1/\sigma_t$": (every, wanted[:, 0])}
curves |= {f"learned from {name}": (every, curve) for name, (curve, _) in learned.items()}
alt = "One over sigma by step; what an MLP learned from waves lies on it, what it learned from t/T far below"
viz.plot_curves(curves, log="x", alt=alt)

# %% [markdown]
# *In a full run the line learned from the waves covers the wanted one. From $t/T$ the MLP misses the first hundred
# steps altogether: they are the first tenth of its input, and the curve is steepest there.*
#
# ## From the clock into the layers
#
# The MLP ends in a vector. How does it get into feature maps of shape (B, C, H, W)? Two ways are common. **Add** one
# number per channel to all pixels, as the channel $t/T$ did by (5.4), on a straight line. Or scale as well as shift,
# which is called **FiLM** (feature-wise linear modulation; Perez et al. 2018):
#
# $$h'_{b,c} = \big(1 + \gamma_c(t_b)\big)\, h_{b,c} + \delta_c(t_b) \tag{5.7}$$
#
# The MLP gives $\gamma$ and $\delta$, one number each per image and channel. With the 1, an MLP that answers 0 changes
# nothing. A scale is what a division by $\sigma_t$ needs.
#
# ### Exercise 5.3 - `film`
#
# `h` has shape (B, C, H, W); `scale` ($\gamma$) and `shift` ($\delta$) have shape (B, C).

# %% tags=["exercise", "nbval-check-output"]
def film(h, scale, shift):
    ...  # one line


film = check(film)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `scale[:, :, None, None]` has shape (B, C, 1, 1), and lines up with the first two axes of `h`.
#
# </details>

# %% tags=["nbval-check-output"]
scale, shift = torch.randn(2, 3, 32, generator=generator)  # (3, 32) each
one_by_one = [[(1 + scale[b, c]) * h[b, c] + shift[b, c] for c in range(32)] for b in range(3)]
verify("5.7", film(h, scale, shift), torch.stack([torch.stack(image) for image in one_by_one]))

# %% [markdown]
# Now the third network: `SimpleUNet` as it was, its channel $t/T$ included, and an MLP that scales and shifts the
# features of four layers. The last layer of the MLP starts at zero, so at first this is the very function that `timed`
# started from. (`split` cuts the MLP's answer into four pieces, `chunk` each of those into scale and shift, and
# `*down` hands over such a pair as two arguments.)

# %%
class FilmUNet(SimpleUNet):
    def __init__(self, T, base):
        super().__init__(T, base=base)
        self.sizes = [2 * base, 4 * base, 2 * base, 2 * base]  # scale and shift for each channel of four layers
        self.time = nn.Sequential(nn.Linear(64, 128), nn.SiLU(), nn.Linear(128, sum(self.sizes)))
        nn.init.zeros_(self.time[2].weight)
        nn.init.zeros_(self.time[2].bias)

    def forward(self, x, t):
        pairs = self.time(sinusoidal_embedding(t, 64)).split(self.sizes, dim=1)
        down, middle, grow, up = (pair.chunk(2, dim=1) for pair in pairs)  # (scale, shift) each
        full = F.silu(film(self.down(append_time(x, t, self.T)), *down))  # (B, base, H, W)
        h = self.middle[0](F.max_pool2d(full, 2))  # (B, 2 base, H/2, W/2)
        h = F.silu(self.middle[2](F.silu(film(h, *middle))))
        h = F.silu(film(self.grow(h), *grow)) + full  # (B, base, H, W)
        return self.out(F.silu(film(self.up(h), *up)))

# %%
filmed = train(lambda: FilmUNet(1000, base=32))

# %%
print(f"{sum(p.numel() for p in filmed.parameters()):,} parameters")
losses["FiLM"] = [loss_at(filmed, t) for t in probes]
for step in (1, 20, 200, 1000):
    values = ", ".join(f"{name} {losses[name][probes.index(step)]:.4f}" for name in losses)
    print(f"loss at step {step:4}: {values}")
curves = {name: ratio(name) for name in ("blind", "FiLM")}
viz.plot_curves(curves, ylabel="loss / loss with t / T", level=1, log="xy",
                alt="Loss by step over that with t/T: above 1 if blind, far below 1 with FiLM at both ends")

# %% [markdown]
# *Below the thin line is better than $t/T$ as a channel. In a full run FiLM cuts the loss to about half or less at
# both ends: at small $t$, where $1/\sigma_t$ is steep, and near $T$. To be given $t$ is one thing, to be able to use
# it another. (The network has half as many parameters again, all in the MLP.)*
#
# Does the network listen? Lie to it: images at step 20, while we claim another step.

# %%
claims = [5, 7, 10, 14, 20, 28, 40]
pair = {"t / T": timed, "FiLM": filmed}
curves = {name: (claims, [loss_at(net, 20, claim) for claim in claims]) for name, net in pair.items()}
viz.plot_curves(curves, xlabel="step that the network is given; the truth is 20", ylabel="loss", log="xy",
                alt="Loss by claimed step: nearly flat for t/T, with a sharp minimum at 20 for FiLM")

# %% [markdown]
# *In a full run the network with the channel hardly notices the lie: whether it hears 5 or 20, its loss is the same.
# The one with FiLM has a sharp valley at the truth. It listens, and pays for believing a lie.*

# %% tags=["figure-05_three_networks"]
paths["FiLM"] = list(ddim_trajectory(filmed, noising, start, 50))
rows = {name: path[-1].x for name, path in paths.items()}
viz.image_rows(rows, alt="Sixteen samples of each of three networks, from the same noise")

# %%
curves = {name: noise_in_margin(path) for name, path in paths.items()}
viz.plot_curves(curves, ylabel="noise / what it should be", level=1, log="y",
                alt="Noise in the margin over sigma, by step, for three networks: with FiLM it stays closest to 1")

# %% [markdown]
# *From row to row the background gets cleaner: with FiLM the noise stays nearest to what it should be. Most of the
# shapes, good and bad, are the same in all rows.*
#
# ## Three traps
#
# The first two run without an error, the third with some batch sizes.
#
# **The exponent, doubled.** The paper of 2017 writes $10000^{-2i/d}$, which is the $10000^{-k/(d/2)}$ of (5.5) with
# $i = k$. Whoever divides by $d/2$ and keeps the 2 gets $10000^{-2k/(d/2)}$: twice the exponent.

# %%
k = torch.arange(32)
angle = every[:, None] * 10_000.0 ** (-2 * k / 32)
doubled = torch.cat([angle.sin(), angle.cos()], dim=1)  # (1000, 64)
for name, table in (("right", E), ("doubled", doubled)):
    still, near = table.std(0) < 0.05, (table[1:] - table[:-1]).norm(dim=1).min()
    print(f"{name:8} {still.sum()} of 64 dimensions stand still; neighbouring steps are {near:.2f} apart")

# %%
alt = "Two heat maps: with the doubled exponent more than half of the rows have one colour from end to end"
show.heat_maps({"right": E, "exponent doubled": doubled}, alt=alt)

# %% [markdown]
# *With the doubled exponent 35 of 64 dimensions carry next to nothing. It still tells neighbours apart, and training
# goes on as if nothing had happened.*
#
# **An MLP that squeezes.** Some published code lets the width of the MLP follow the width of the layer that it feeds.
# For the first level that is the number of colour channels: one. The time then goes through one hidden number.

# %%
learned["doubled exponent"] = learn(doubled)
learned["waves through 1 number"] = learn(E, width=1)
for name, (_, missed) in learned.items():
    print(f"from {name:22}: {missed:.3%} of the variance missed")
both = torch.stack([wanted[:, 0], schedule.sqrt_alpha_bar[1:]])
print(f"correlation of 1 / sigma with the image's weight: {torch.corrcoef(both)[0, 1]:.2f}")

# %% [markdown]
# *In a full run the doubled exponent still misses next to nothing. The squeeze is hardly better than no waves at all.
# Everything that comes out of one hidden number is one curve, scaled and shifted. A network needs several,
# $1/\sigma_t$ and $\sqrt{\bar\alpha_t}$ to begin with, and those two have little in common.*
#
# **One axis too few.** `t / T` has shape (B,). Broadcasting lines it up with the *last* axis, the columns. For most
# batch sizes PyTorch refuses; for a batch of 28 images that are 28 pixels wide it does not.

# %%
x, t = to_float(test.images[:28]), torch.linspace(1, 1000, 28).long()
right, wrong = append_time(x, t, 1000)[:, 1:], (t / 1000).expand_as(x)  # (28, 1, 28, 28) each
rows = {"right": right[::4], "wrong": wrong[::4]}
viz.image_rows(rows, titles=[f"t = {step}" for step in t[::4]], value_range=(0, 1),
               alt="Time channel of seven images: flat where right; where wrong, every image has the same ramp")

# %% [markdown]
# *Above, each image has its own grey. Below, all have the same ramp: column $j$ of every image holds the step of image
# $j$. A test with B, C, H and W all different finds this; `check` uses such sizes.*
#
# ## What to remember, and what broke
#
# - A perfect reader of 784 pixels hardly needs time conditioning. Here, without the channel $t/T$, the loss of a
#   small network ends about a fifth higher, and the samples suffer much more: to know $t$ is to know how much noise
#   there *should* be, and only then can an excess be removed.
# - One number, added, is a poor clock. Waves tell neighbours apart, an MLP makes curves of them, and FiLM lets the
#   curves multiply.
# - The test loss did not show the grain. Look at samples, too.
#
# **What broke:** look at the bottom row of samples once more. Every stroke is clean, and many do not belong together.
# How much of the picture can this network see? Ask which input pixels move one output pixel. (After `requires_grad_()`
# an image is treated like a weight: `backward` puts the derivative with respect to each of its pixels into
# `x_t.grad`.)

# %% tags=["nbval-check-output"]
x_t = q_sample(noising, clean, torch.full((128,), 400, device=device), noise).requires_grad_()
filmed(x_t, torch.full((128,), 400, device=device))[:, 0, 14, 14].sum().backward()
seen = x_t.grad.abs().sum((0, 1)).gt(0).cpu()  # (28, 28): does this pixel matter to the one in row 14, column 14?
print(f"{seen.any(1).sum()} rows by {seen.any(0).sum()} columns")

# %%
window = torch.where(seen, clean[:8].cpu(), 0.5)
viz.image_rows({"the image": clean[:8].cpu(), "seen": window},
               alt="Eight digits, and the square part of each that one output pixel can see")

# %% [markdown]
# *Below, the part of each digit that the middle pixel's answer depends on; the rest is light grey. It is a square of
# 18 by 18 pixels, whatever the training.*
#
# Whoever draws the top of a 9 does not see its foot: with two levels, the architecture does not reach further.
# [Notebook 06](06_unet.ipynb) builds a network that does, with more levels, and with layers in which every pixel sees
# every other.
#
# ### Experiments to try
#
# - Run the comparison with another seed, in `TrainConfig(seed=...)` and in `torch.manual_seed`. Which of the
#   differences survive?
# - Train `SameStep(FilmUNet(1000, base=32))`: all of its parameters, and no time. How much of the gain is left?
# - Use shifts alone: put `torch.zeros_like(scale)` into `film`. How much of the gain was the multiplication?
# - Sample the blind network with 500 steps instead of 50. Guess first: more grain, or less?
