# %% [markdown]
# # Flow matching: back to the straight line
#
# ![Ten rows of twelve samples: two velocity networks with 4 to 50 calls, and a noise network whose digits are blots](../figures/14_rows.png)
#
# *Three networks, trained for the same few hundred steps: two predict the velocity along a straight line, one the noise,
# as in notebook 07. Each row is one sampler with its number of network calls. Which row would you stop at?*
#
# **You will** return to the straight line of notebook 01, this time with a proof; derive the velocity that moves one
# distribution into another from the conservation of mass; train a network on it; and see that you knew most of it
# already. **You need** [notebook 04](04_bound_to_noise.ipynb) up to (4.7), and [notebook 08](08_sampling.ipynb).
# **Time** 70 minutes of reading; the cells ran in 14 minutes on one slow CPU core.

# %% tags=["setup"]
REPO = ""  # owner/name on GitHub; `make badges REPO=owner/name` fills it in
try:
    import ddpm_helpers
except ImportError:
    assert REPO, "The helper module is missing: start this notebook with `make lab`, or see Colab in the README."
    get_ipython().run_line_magic("pip", f"install -q git+https://github.com/{REPO}")

from functools import partial

import numpy as np
import torch
import torch.nn.functional as F

from ddpm_helpers import TrainConfig, Trainer, UNet, budget, check, cosine_schedule, ddim_step
from ddpm_helpers import ddpm_loss, default_device, guided_eps, load_images, load_pretrained
from ddpm_helpers import per_image, q_sample, sample, to_float, verify, viz
from ddpm_helpers.lessons import flow
from ddpm_helpers.lessons.flow import exact_velocity
from ddpm_helpers.lessons.toy import Mixture, path_density
from ddpm_helpers.sampling import image_noise

device = default_device()
generator = torch.Generator().manual_seed(0)

# %% [markdown]
# ## The line we came from
#
# [Notebook 01](01_corrupt_and_predict.ipynb) mixed image and noise along a straight line, asked a network for the
# image, and walked towards its answer. It had no proof, and its samples were poor. The proof came by another way: small
# Gaussian steps, a bound, a noise to predict. Today many large models are trained on the straight line again, and
# there is a proof for it, too. It is shorter than the one of notebooks 03 and 04. This notebook gives it (Lipman et al.
# 2023; Liu et al. 2023; Albergo & Vanden-Eijnden 2023).
#
# Call the amount of noise $a$, from 0, the image, to 1, noise. With Gaussian noise ${\color{#D55E00}{\epsilon}}$,
#
# $$x_a = (1 - a)\, {\color{#0072B2}{x_0}} + a\, {\color{#D55E00}{\epsilon}} \tag{14.1}$$
#
# For one image and one noise, $x_a$ is a point that moves as $a$ grows. Its **velocity** is the same all the way:
#
# $$\frac{d x_a}{d a} = {\color{#D55E00}{\epsilon}} - {\color{#0072B2}{x_0}} \tag{14.2}$$
#
# (The papers disagree about the direction of time. Many let $t = 0$ be noise and $t = 1$ the image, so their $t$ is our
# $1 - a$ and their velocity is ours with the other sign. We keep the direction of this course.)
#
# ### Exercise 14.1 - `interpolate`
#
# `x0` and `noise` have shape (B, ...), `a` has shape (B,). Return $x_a$ and its velocity, both of shape (B, ...).
# `per_image(a, x0)` gives `a` the axes that it lacks.

# %% tags=["exercise", "nbval-check-output"]
def interpolate(x0, noise, a):
    share = per_image(a, x0)
    x_a = ...
    velocity = ...
    return x_a, velocity


interpolate = check(interpolate)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Differentiate (14.1) with respect to $a$: two terms, one with a minus.
#
# </details>

# %%
data = load_images("mnist")
print(data.source)

# %% tags=["nbval-check-output"]
x0 = to_float(data.images[:8]).double()
eps = torch.randn(x0.shape, generator=generator).double()
a = torch.rand(8, generator=generator).double()
x_a, velocity = interpolate(x0, eps, a)
verify("14.1", x_a, torch.lerp(x0, eps, per_image(a, x0)))
later, _ = interpolate(x0, eps, a + 1e-6 * (1 - a))
verify("14.2", velocity, (later - x_a) / (1e-6 * per_image(1 - a, x0)), tol=1e-6)

# %% [markdown]
# ## Many lines cross: the mean velocity
#
# Now draw many images and many noises. Their lines cross: through one point $x$ at one amount $a$ pass lines to
# different images, with different velocities. A sampler that stands at $x$ knows none of the images. It can only follow
# the **mean** of the velocities that pass there, each as likely as its pair is, given that it passes there:
#
# $${\color{#009E73}{v(x, a)}} = \mathbb{E}\big[\, {\color{#D55E00}{\epsilon}} - {\color{#0072B2}{x_0}} \;\big|\; x_a = x \,\big] \tag{14.3}$$
#
# Is it allowed to follow a mean? That is the question of this notebook. We ask it where all can be computed, in the
# world with one pixel of [notebook 03](03_likelihood_bound.ipynb): the data is a mixture of three Gaussians.
# `exact_velocity` is (14.3) in closed form, and the cell checks it against the bare definition, an integral over all
# clean images.

# %% tags=["nbval-check-output"]
pixels = Mixture(*torch.tensor([[0.4, 0.3, 0.3], [-1.2, 0.2, 1.1], [0.15, 0.3, 0.1]]).double())
v, amount = exact_velocity(pixels), 0.4
x, clean = torch.linspace(-3, 3, 61).double()[:, None], torch.linspace(-4, 4, 8001).double()
noise = (x - (1 - amount) * clean) / amount  # (61, 8001): the noise that leads from `clean` to x
weight = (pixels.log_density(clean) - noise**2 / 2).softmax(1)
verify("14.3", v(x[:, 0], amount), (weight * (noise - clean)).sum(1))

# %%
starts = torch.randn(40, generator=generator).double()
which = torch.multinomial(pixels.weights, 40, True, generator=generator)
images = pixels.means[which] + pixels.stds[which] * torch.randn(40, generator=generator)
time = torch.linspace(1, 0, 201).double()
straight = time[:, None] * starts + (1 - time[:, None]) * images
walk = [starts, *flow.flow_trajectory(v, starts, 200, flow.heun_step)]
panels = {"pairs": straight, "mean velocity": torch.stack(walk)}
figure, axes = viz.subplots(1, 2, size=(8, 3.2), sharey=True)
for axis, (title, y) in zip(axes, panels.items(), strict=True):
    axis.plot(time, y, color="#0072B2", alpha=0.5, linewidth=0.8)
    axis.set(title=title, xlabel="amount of noise a", xlim=(1, 0))
viz.show(figure, "Left: straight lines that cross. Right: curves from the same starts that never cross")

# %% [markdown]
# *Time runs from left, noise, to right, image. Left: forty pairs, each on its straight line; they cross everywhere.
# Right: from the same forty starts, along the mean velocity. These paths never cross (at one point there is one
# velocity), so they bend. And yet they end in the same three places, as often as the pairs do. Why?*
#
# ## Conservation of mass
#
# Think of probability as sand. Let $q_a(x)$ be its density at $x$ when the amount is $a$, and let it flow with the
# velocity $v$. Through the point $x$ flows $q_a(x)\, v(x, a)$ of it in a unit of $a$. In a small interval from $x$ to
# $x + dx$ the sand grows by what flows in at the left, less what flows out at the right. Divided by $dx$:
#
# $$\frac{\partial q_a(x)}{\partial a} = -\frac{\partial}{\partial x} \Big( q_a(x)\, {\color{#009E73}{v(x, a)}} \Big) \tag{14.4}$$
#
# This is the **continuity equation**. It holds for single lines: each pair is a grain that moves with its own velocity.
# Add the grains of all pairs, and the flow through $x$ is the density there times the *mean* of the velocities there.
# So the density of all pairs obeys (14.4) with (14.3). Nothing else about the velocities counts. That is the proof: sand
# that moves with the mean velocity and sand that moves along the crossing lines have the same density at each $a$.
#
# The exact density of $x_a$ is known here, so both sides of (14.4) can be computed, by automatic differentiation.

# %% tags=["nbval-check-output"]
points = torch.linspace(-3, 3, 301).double().requires_grad_()
amounts = torch.full((301,), 0.4).double().requires_grad_()
density = path_density(pixels, points, 1 - amounts, amounts).exp()  # (301,): q_a(x)
growth = torch.autograd.grad(density.sum(), amounts, retain_graph=True)[0]
through = density * v(points, amounts)
verify("14.4", growth, -torch.autograd.grad(through.sum(), points)[0], tol=1e-9)

# %% [markdown]
# Follow one grain. Along its path the density changes because the flow spreads or squeezes: expand (14.4) by the
# product rule, divide by $q_a$, and what is left of the change along the path is
#
# $$\frac{d}{da} \log q_a\big(x(a)\big) = -\frac{\partial v}{\partial x}\big(x(a), a\big) \tag{14.5}$$
#
# So who moves along $v$ from noise, whose density is known, knows the density of each sample at the end. In many
# dimensions the derivative becomes the divergence (Chen et al. 2018); [notebook 15](15_solvers.ipynb) returns to it for the likelihood of
# digits. Here: 2,001 grains from $a = 1$ to $a = 0$, the density carried along, against the exact one.

# %% tags=["nbval-check-output"]
def slope_and_spread(x, a):
    x = x.detach().requires_grad_()
    velocity = v(x, a)
    return velocity.detach(), torch.autograd.grad(velocity.sum(), x)[0]

x = torch.linspace(-4, 4, 2001).double()
log_q, n = -x**2 / 2 - 0.5 * torch.log(torch.tensor(2 * torch.pi)), 400
for i in range(n, 0, -1):  # the midpoint method: the slope half-way counts
    first, _ = slope_and_spread(x, i / n)
    slope, spread = slope_and_spread(x - first / (2 * n), (i - 0.5) / n)
    x, log_q = x - slope / n, log_q + spread / n
verify("14.5", log_q.exp(), pixels.log_density(x).exp(), tol=1e-4)

# %% [markdown]
# *The sampler starts from a Gaussian, follows the mean velocity, and its density is that of the data, not nearly but
# exactly, but for the size of the steps. So the recipe of notebook 01 was sound. What it lacked was a network that is
# conditioned on the amount, and somebody who had seen this page.*
#
# ## A loss without the mean
#
# We cannot regress on $v$, which nobody knows for images. But a squared error splits, as in
# [(4.7)](04_bound_to_noise.ipynb): whatever $f(x, a)$ we propose, with $u = \epsilon - x_0$,
#
# $$\mathbb{E}\, \lVert {\color{#009E73}{f}} - u \rVert^2 = \mathbb{E}\, \lVert {\color{#009E73}{f}} - v \rVert^2 + \mathbb{E}\, \lVert v - u \rVert^2 \tag{14.6}$$
#
# The last term does not depend on $f$. Regression on the velocity of single pairs and regression on the mean velocity
# have the same minimum, and the same gradient at every $\theta$:
#
# $$\nabla_\theta\, \mathbb{E}\, \lVert {\color{#009E73}{f_\theta}} - u \rVert^2 = \nabla_\theta\, \mathbb{E}\, \lVert {\color{#009E73}{f_\theta}} - v \rVert^2 \tag{14.7}$$
#
# The cell tries both with a poor model, $f = \theta x$, and 400,000 pairs. On the left stand draws, on the right an integral
# over $x$ with the exact density.

# %% tags=["nbval-check-output"]
grid, amount, theta = torch.linspace(-6, 6, 6001).double(), 0.4, 0.7
chance = path_density(pixels, grid, 1 - amount, amount).exp()
which = torch.multinomial(pixels.weights, 400_000, True, generator=generator)
clean = pixels.means[which] + pixels.stds[which] * torch.randn(400_000, generator=generator)
noise = torch.randn(400_000, generator=generator).double()
x, u = interpolate(clean, noise, torch.full((400_000,), amount))
floor = (v(x, amount) - u).square().mean()
apart = theta * grid - v(grid, amount)
gained = (theta * x - u) ** 2 - (v(x, amount) - u) ** 2
verify("14.6", samples=gained, expected=torch.trapezoid(chance * apart**2, grid))
verify("14.7", samples=2 * x * (theta * x - u), expected=torch.trapezoid(chance * 2 * grid * apart, grid))
print(f"what no model can get rid of at a = {amount}: {floor:.2f}")

# %% [markdown]
# *So this is the whole method: draw an image, a noise, an amount; mix; let the network say the velocity; take the
# squared error. It has the form of Algorithm 1, and the loss can be called by the same name. (For training the course's
# networks, which take whole steps, $a = t / T$.)*
#
# ### Exercise 14.2 - `flow_matching_loss`
#
# The loss of one batch, a scalar. `t` holds steps in $1 \dots T$, shape (B,); of `schedule` only `schedule.T` is needed.
# `F.mse_loss` stands for the mean squared error.

# %% tags=["exercise", "nbval-check-output"]
def flow_matching_loss(model, schedule, x0, t, noise):
    ...  # mix, predict, compare


flow_matching_loss = check(flow_matching_loss)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `interpolate` gives what the network sees and what it should say. The network is asked `model(x_a, t)`.
#
# </details>
#
# ## The same network, four answers
#
# A velocity, a noise, a clean image and a score are one prediction in different units. On the straight line through $x_a$ with the velocity $v$
# lie a clean image, $a$ behind, and a noise, $1 - a$ ahead:
#
# $${\color{#009E73}{\hat x_0}} = x_a - a\, {\color{#009E73}{v}}, \qquad {\color{#009E73}{\hat\epsilon}} = x_a + (1 - a)\, {\color{#009E73}{v}} \tag{14.8}$$
#
# And the **score**, the gradient of the log density, is minus the noise over its size, as in
# [(4.20)](04_bound_to_noise.ipynb) (Tweedie's formula; Vincent 2011):
#
# $$\nabla_x \log q_a(x) = -\frac{x + (1 - a)\, {\color{#009E73}{v(x, a)}}}{a} \tag{14.9}$$
#
# ### Exercise 14.3 - `from_velocity`
#
# Return $\hat x_0$ and $\hat\epsilon$ of (14.8), in this order. `a` is a number.

# %% tags=["exercise", "nbval-check-output"]
def from_velocity(x_a, a, velocity):
    x0 = ...
    noise = ...
    return x0, noise


from_velocity = check(from_velocity)

# %% [markdown]
# <details><summary>Hint</summary>
#
# On the line one moves by the velocity times the difference in $a$. How far is it from $a$ to 0, and from $a$ to 1?
#
# </details>

# %% tags=["nbval-check-output"]
x_a, velocity = interpolate(x0, eps, torch.full((8,), 0.3).double())
verify("14.8", torch.stack(from_velocity(x_a, 0.3, velocity)), torch.stack([x0, eps]))
points = torch.linspace(-2, 2, 101).double().requires_grad_()
score = torch.autograd.grad(path_density(pixels, points, 0.7, 0.3).sum(), points)[0]
_, guess = from_velocity(points, 0.3, v(points, 0.3))
verify("14.9", score, -guess / 0.3)

# %% [markdown]
# ## A DDPM on the straight line
#
# The DDPM's path is $x_t = \sqrt{\bar\alpha_t}\, x_0 + \sigma_t\, \epsilon$. It looks different, and is the same path,
# seen through a zoom lens. Divide by the sum of both factors:
#
# $$\frac{x_t}{\sqrt{\bar\alpha_t} + \sigma_t} = (1 - a)\, x_0 + a\, \epsilon, \qquad a = \frac{\sigma_t}{\sqrt{\bar\alpha_t} + \sigma_t} \tag{14.10}$$
#
# | path | signal | noise | who |
# |:--|:--|:--|:--|
# | VP, variance preserving | $\sqrt{\bar\alpha_t}$ | $\sigma_t$ | DDPM, diffusers' `DDPMScheduler` |
# | VE, variance exploding | $1$ | $\sigma$ | Song & Ermon 2019, EDM (Karras et al. 2022) |
# | straight, rectified flow | $1 - a$ | $a$ | flow matching, diffusers' `FlowMatchEulerDiscreteScheduler` |
#
# Equal ratio of signal to noise, equal picture: a network for one path is a network for all three. So the shipped DDPM
# of [notebook 08](08_sampling.ipynb) has a velocity on the straight line: $\hat\epsilon - \hat x_0$. What happens if
# Euler's method follows it? From $a$ to $b$ it goes to $x_a + (b - a)(\hat\epsilon - \hat x_0)$, and with (14.8) that is
#
# $$x_b = (1 - b)\, {\color{#009E73}{\hat x_0}} + b\, {\color{#009E73}{\hat\epsilon}} \tag{14.11}$$
#
# Image and noise as guessed, mixed anew with less noise: this is the step of DDIM,
# [(8.8)](08_sampling.ipynb). DDIM *is* Euler's method on the straight line, at amounts that the schedule chooses.

# %% tags=["nbval-check-output"]
model, schedule, _ = load_pretrained("mnist", device)
size = schedule.sqrt_alpha_bar + schedule.sigma  # (T+1,)
amounts = schedule.sigma / size
t = torch.tensor([100, 300, 500, 700, 800, 900, 950, 990], device=device)
images, noise, t_700 = x0.float().to(device), eps.float().to(device), torch.full_like(t, 700)
zoomed = q_sample(schedule, images, t, noise) / per_image(size[t], images)
verify("14.10", zoomed, interpolate(images, noise, amounts[t])[0], tol=1e-5)
with torch.no_grad():
    x_t = q_sample(schedule, images, t_700, noise)
    eps_hat = model(x_t, t_700)
    x0_hat = (x_t - schedule.sigma[700] * eps_hat) / schedule.sqrt_alpha_bar[700]
    euler = x_t / size[700] + (amounts[500] - amounts[700]) * (eps_hat - x0_hat)
    by_ddim = ddim_step(schedule, x_t, 700, 500, eps_hat, clip=False)
verify("14.11", size[500] * euler, by_ddim, tol=1e-5)

# %% [markdown]
# *What differs between a DDPM and flow matching is therefore none of this. It is how often each amount of noise is
# trained, how its error counts, which amounts the sampler visits, and what the network outputs. All of these can be
# chosen for either.*
#
# ## A better step
#
# Euler's method takes the velocity at the start of a step for all of it. **Heun's** method takes Euler's step on trial,
# asks for the velocity where it lands, and goes with the mean of the two:
#
# $$x_b = x_a + \frac{b - a}{2} \Big( v(x_a, a) + v\big(x_a + (b - a)\, v(x_a, a),\; b\big) \Big) \tag{14.12}$$
#
# ### Exercise 14.4 - `heun_step`
#
# `velocity(x, a)` is a function. Two calls.

# %% tags=["exercise", "nbval-check-output"]
def heun_step(velocity, x, a, b):
    first = ...
    second = ...
    return ...


heun_step = check(heun_step)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `first` is at (x, a). `second` is at the place where Euler's step lands, and at the amount b.
#
# </details>
#
# For the velocity $v = c\, x$, one step of size $h$ is $1 + c h + (c h)^2 / 2$ times $x$: the exponential up to second
# order. And on the one-pixel world the error can be measured against a very fine solution. Guess before you run: with
# twice as many steps, how much smaller is the error of each method?

# %% tags=["nbval-check-output"]
h, c = -0.1, 1.7
stepped = heun_step(lambda x, a: c * x, x0, 0.5, 0.5 + h)
verify("14.12", stepped, (1 + c * h + (c * h) ** 2 / 2) * x0)

# %%
starts = torch.linspace(-2, 2, 200).double()
def end(steps, step):
    *_, last = flow.flow_trajectory(v, starts, steps, step)
    return last

exact, counts = end(4096, heun_step), [8, 16, 32, 64, 128, 256]
curves = {}
for name, step in {"Euler": flow.euler_step, "Heun": heun_step}.items():
    error = torch.stack([(end(n, step) - exact).abs().mean() for n in counts])
    curves[name] = counts, error
    print(f"{name:6} slope {torch.log2(error[-1] / error[-2]):.2f}")
alt = "Errors fall with the number of steps: Heun's twice as steeply"
viz.plot_curves(curves, xlabel="steps", ylabel="mean error", log="xy", alt=alt)

# %% [markdown]
# *On logarithmic axes the slopes are about -1 and -2: twice as many steps, half the error for Euler, a quarter for
# Heun. A step of Heun costs two calls, so compare it with Euler at twice the steps: it wins already
# with 8 steps against 16.*
#
# ## How straight is it?
#
# If the mean velocity were constant along each path, one Euler step would do. How far it is from that has a number: the
# part of (14.6) that no network can remove, averaged over $a$ (Liu et al. 2023). For one Gaussian $\mathcal{N}(0, s^2)$
# it can be worked out. Given $x_a$, the variance of $\epsilon - x_0$ is $s^2 / ((1 - a)^2 s^2 + a^2)$, and with $r = a /
# (1 - a)$ the integral is one of $s^2 / (s^2 + r^2)$ over all $r > 0$:
#
# $$S = \int_0^1 \mathbb{E}\, \lVert u - v(x_a, a) \rVert^2\, da = \frac{\pi}{2}\, s \tag{14.13}$$

# %% tags=["nbval-check-output"]
s = 0.6
gauss = Mixture(torch.ones(1).double(), torch.zeros(1).double(), torch.full((1,), s).double())
clean = s * torch.randn(200_000, generator=generator).double()
amount = torch.rand(200_000, generator=generator).double()
x, u = interpolate(clean, torch.randn(200_000, generator=generator).double(), amount)
verify("14.13", samples=(u - exact_velocity(gauss)(x, amount)) ** 2, expected=torch.pi * s / 2)

# %% [markdown]
# **Reflow** (Liu et al. 2023) makes it straight. Let the sampler lead each noise to its image, and take these as the new
# pairs instead of random ones. Their lines cross less, so the next mean velocity bends less. In one dimension paths that
# never cross keep their order, and straight lines between pairs in the same order do not cross either: one reflow makes
# all paths straight. Then a single step of Euler is exact.

# %%
starts = torch.randn(20_000, generator=generator).double()
*_, ends = flow.flow_trajectory(v, starts, 200, heun_step)
pairs, new = starts[:10_000].argsort(), starts[10_000:]  # half to learn from, half to try
one_step = new - v(new, 1.0)  # Euler, one step, before reflow
learned = np.interp(new, starts[pairs], (starts - ends)[pairs])  # the new velocity at a = 1
reflowed = new - torch.as_tensor(learned)
quantiles = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95]).double()
ways = {"200 steps": ends[10_000:], "one step": one_step, "one step, reflow": reflowed}
for name, x in ways.items():
    print(f"{name:20}", "  ".join(f"{q:6.3f}" for q in x.quantile(quantiles)))

# %% [markdown]
# *One step along the first velocity lands every start on the mean of the data: at $a = 1$ the noise says nothing about
# the image, so the mean velocity points to the mean image. After reflow one step lands where 200 steps
# do, from starts that no pair had. With images
# it is not so clean: a network has to learn the new velocity, its errors are passed on, and the pairs cost a run of the
# sampler each.*
#
# ## Guidance
#
# [Notebook 12](12_guidance.ipynb) exaggerated what the label changes in the predicted noise. With a velocity it is the
# same formula with the same scale, for the noise of (14.8) is a straight function of the velocity:
#
# $$v_w = v + w\, (v_{\text{label}} - v) \quad\Longleftrightarrow\quad {\color{#009E73}{\hat\epsilon_w}} = {\color{#009E73}{\hat\epsilon}} + w\, ({\color{#009E73}{\hat\epsilon_{\text{label}}}} - {\color{#009E73}{\hat\epsilon}}) \tag{14.14}$$

# %% tags=["nbval-check-output"]
without, with_label = (torch.randn(8, 1, 4, 4, generator=generator).double() for _ in range(2))
x, noise_of = torch.randn(8, 1, 4, 4, generator=generator).double(), partial(from_velocity, a=0.3)
guided = without + 2.5 * (with_label - without)
left = noise_of(x, velocity=guided)[1]
right = guided_eps(noise_of(x, velocity=without)[1], noise_of(x, velocity=with_label)[1], 2.5)
verify("14.14", left, right)

# %% [markdown]
# ## On digits
#
# Three networks, one seed, the same steps and images. The first predicts the velocity, $a$ uniform. The second as well,
# but most of its amounts lie in the middle: the logit of $a$ is normal (Esser et al. 2024). The third is the noise
# network of [notebook 07](07_train_ddpm.ipynb).

# %%
steps = budget(gpu=5000, cpu=600, quick=4)
tables = cosine_schedule(1000)

def in_the_middle(model, schedule, x0, t, noise):
    return flow_matching_loss(model, schedule, x0, flow.logit_normal_steps(t, schedule.T), noise)

networks = {}
losses = {"velocity": flow_matching_loss, "middle": in_the_middle, "noise": ddpm_loss}
for name, objective in losses.items():
    torch.manual_seed(0)
    net = UNet(base=32, multipliers=(1, 2), patch=2)
    trainer = Trainer(net, tables, data.images, TrainConfig(steps=steps), objective=objective)
    networks[name] = trainer.fit()

# %% [markdown]
# *What is left of a velocity's loss is mostly the last term of (14.6), which no network removes. So these losses say
# little beside that of the noise, and nothing beside each other: the amounts are drawn in different ways.*

# %%
def by_flow(name, calls, step=flow.euler_step):
    net = flow.velocity_of(networks[name], 1000)
    start = image_noise(0, range(12), (1, 28, 28), device)()
    count = calls // 2 if step is heun_step else calls
    *_, x = flow.flow_trajectory(net, start, count, step)
    return x.clamp(-1, 1)

# %% tags=["figure-14_rows"]
rows = {f"velocity, Euler, {n} calls": by_flow("velocity", n) for n in (4, 10, 50)}
rows |= {f"velocity, Heun, {n} calls": by_flow("velocity", n, heun_step) for n in (4, 10, 50)}
rows |= {f"middle, Heun, {n} calls": by_flow("middle", n, heun_step) for n in (10, 50)}
for n in (10, 50):
    rows[f"noise, DDIM, {n} calls"] = sample(networks["noise"], tables.to(device), 12, steps=n)
viz.image_rows(rows, alt="Twelve samples a row: velocity and noise networks with 4 to 50 calls")

# %% [markdown]
# *Look at the rows with few calls first. In a full run four calls of Euler already give strokes close to those of fifty.
# Two steps of Heun, four calls as well, leave grain. In the rows of the noise network, after as many steps of training,
# some columns are blots: near $t = T$ a small error of the noise is a large one of the image. One seed and twelve
# pictures do not rank the three; all are trained for far too short a time, and many strokes are no digit.*

# %% [markdown]
# ## What to remember, and what broke
#
# - Density that flows with a velocity obeys the continuity equation, and only the mean velocity at each point counts.
#   So one may follow the mean, and regress on the velocities of single pairs.
# - Velocity, noise, clean image and score are one prediction; VP, VE and the straight line are one path, zoomed.
# - DDIM is Euler's method on the straight line. Heun's step has second order, for two calls.
# - The error that no network removes is also how much the paths bend. Reflow straightens them.
#
# **What broke:** we have followed an ordinary differential equation, without fresh noise, and
# [notebook 08](08_sampling.ipynb) a random walk, and both have the right densities at each step. What is the random walk
# an equation of? How are its steps and those of DDIM related, and which solver is best for how many calls?
# [Notebook 15](15_solvers.ipynb) takes the number of steps to infinity.
#
# ### Experiments to try
#
# - Replace the Gaussian noise of the one-pixel world by uniform noise from -1 to 1, in (14.3). Does the proof need the Gaussian?
# - In the picture of crossing lines, colour each line by its image. Which colours change places on the right?
# - Train the velocity network on `load_images("fashion")`. Are ten calls enough there?
