# %% [markdown]
# # From likelihood to a bound
#
# ![Three panels, one per model: the log-likelihood of each data point, and the bound below it; the shaded gap between them is wide for the untrained model and thin for the ideal one](../figures/03_bound.png)
#
# *Three models of the same data, from useless to ideal. The solid line is what we want to raise, the dashed line is
# all that we can compute for images. What is the shaded gap between them made of?*
#
# **You will** go from "make the data likely" to a bound that splits into one term for each step, and run every line of
# the derivation on a world small enough to compute exactly. **You need** logarithms, integrals as areas, and [notebook
# 02](02_forward_process.ipynb); the rules of probability that we use stand below. **Time** an hour, with pen and
# paper; the cells run in 10 seconds on 2 CPU cores.

# %% tags=["setup"]
REPO = ""  # owner/name on GitHub; `make badges REPO=owner/name` fills it in
try:
    import ddpm_helpers
except ImportError:
    assert REPO, "The helper module is missing: start this notebook with `make lab`, or see Colab in the README."
    get_ipython().run_line_magic("pip", f"install -q git+https://github.com/{REPO}")

import math

import torch

from ddpm_helpers import check, cosine_schedule, forward_step, verify, viz
from ddpm_helpers.lessons.toy import Mixture, ReverseModel, double, log_closed_form, log_forward, log_normal

GREEN, PINK = "#009E73", "#CC79A7"
generator = torch.Generator().manual_seed(0)
torch.set_num_threads(1)  # the tensors here are small: threads would wait for each other longer than they work

# %% [markdown]
# ## Where we stand
#
# [Notebook 02](02_forward_process.ipynb) built the **forward process** $q$, which turns every image, very nearly, into
# a draw from $\mathcal{N}(0, I)$. If we could walk the same steps backwards we could start from noise and end at an
# image. We must learn the backward steps, and to learn we need a number to improve. This notebook and the next find
# the number.
#
# The answer fits on one line: show a network a noisy image, ask it for the noise, take the squared error. Why should
# *that* have anything to do with making the data likely? The way has eight stops: likelihood, importance weights, a
# bound, a sum over steps, a posterior, a distance of means, a distance of noises, one random step. This notebook takes
# the first four, and [notebook 04](04_bound_to_noise.ipynb) the others. (Pictures first? Go on to [notebook
# 05](05_time_conditioning.ipynb) and take the loss on trust until you come back.)
#
# ### Notation
#
# In all formulas ${\color{#0072B2}{\text{signal}}}$, what comes from the clean image, is blue,
# ${\color{#D55E00}{\text{noise}}}$ is orange, and whatever the ${\color{#009E73}{\text{model}}}$ contributes is green.
# What is both, like $x_t$, has no colour. The symbols of notebook 02 stay: $x_0$, $x_t$, $\epsilon$, $\beta_t$,
# $\alpha_t = 1 - \beta_t$, $\bar\alpha_t = \alpha_1 \cdots \alpha_t$ with $\bar\alpha_0 = 1$, and
# $\sigma_t = \sqrt{1 - \bar\alpha_t}$. New are:
#
# | symbol | meaning | name in our code | name in other libraries |
# |:--|:--|:--|:--|
# | $\mathcal{N}(x;\, m, v)$ | density of a Gaussian at $x$: mean $m$, *variance* $v$ | `log_normal(x, m, v)` is its logarithm | |
# | $\epsilon_\theta(x_t, t)$ | the model's guess of the noise; $\theta$ stands for all that is learned | `model.eps(x_t, t)` | `model_output`, `noise_pred` |
# | $\hat\epsilon$, $\hat x_0$ | in later notebooks: one such guess, and the clean image that it implies | `eps`, `x0_hat` | `model_output`, `pred_original_sample` |
# | $\tilde\mu_t$, $\tilde\beta_t$ | mean and variance of $q(x_{t-1} \mid x_t, x_0)$ | `posterior(...)` | `_get_variance` for $\tilde\beta_t$ |
# | $\mu_\theta$, $s_t^2$ | mean and variance of the model's step | `model.mean`, `model.variance[t]` | `variance_type` chooses $s_t^2$ |
#
# Ho et al. 2020 write $\sigma_t^2$ for the variance of the *model's* step. Here $\sigma_t$ is the noise in $x_t$, as
# in notebook 02, and the model's variance is $s_t^2$.
#
# ### Six rules of probability
#
# Skip them if you know them.
#
# | rule | in words |
# |:--|:--|
# | $\int q(x)\, \mathrm{d}x = 1$ | A **density** $q(x)$ is the height of an infinitely fine histogram; the area under it is 1. |
# | $\mathcal{N}(x;\, m, v) = \dfrac{1}{\sqrt{2\pi v}}\, e^{-(x - m)^2 / (2v)}$ | The density of a Gaussian. Its logarithm is a parabola. |
# | $\mathbb{E}_{q(x)}[f(x)] = \int f(x)\, q(x)\, \mathrm{d}x$ | The average of $f$ over draws of $x$ from $q$. |
# | $q(a, b) = q(b)\; q(a \mid b)$ | The **joint density** of a pair is the density of $b$ times the **conditional density** of $a$, once $b$ is known. So an average over pairs may be taken over $a$ first, for each $b$. |
# | $q(a) = \int q(a, b)\, \mathrm{d}b$ | The **marginal density**: add up over what you do not ask about. |
# | $q(a \mid b) = \dfrac{q(b \mid a)\; q(a)}{q(b)}$ | **Bayes' rule**: the joint density, written both ways. |
#
# The last three hold as well if everything is given $c$.
#
# ## 1. A world with one pixel
#
# None of the quantities below can be computed for 784 pixels. So take a world with one. An "image" is a number $x_0$,
# and the data are a **mixture of Gaussians** with two peaks:
#
# $$q(x_0) = \sum_k w_k\, \mathcal{N}(x_0;\, m_k,\, d_k^2) \tag{3.1}$$
#
# In one dimension every integral is a sum over a fine grid, accurate to nine digits or more for smooth curves that
# fade to nothing at both ends: that is what "exact" means below.

# %% tags=["nbval-check-output"]
mixture = Mixture(*torch.tensor([[0.35, 0.65], [-1.2, 0.7], [0.25, 0.35]], dtype=torch.float64))
x = torch.linspace(-8, 8, 801, dtype=torch.float64)  # (801,) the grid
dx = x[1] - x[0]
density = mixture.log_density(x).exp()  # (801,) q(x_0) at each grid point
verify("3.1", density.sum() * dx, 1.0, tol=1e-9)

# %% [markdown]
# From [notebook 02](02_forward_process.ipynb): one step is
# $q(x_t \mid x_{t-1}) = \mathcal{N}(\sqrt{\alpha_t}\, x_{t-1},\, \beta_t)$, and the closed form of $t$ steps is
# $q(x_t \mid x_0) = \mathcal{N}(\sqrt{\bar\alpha_t}\, x_0,\, \sigma_t^2)$. A Gaussian that is shrunk and blurred by a
# Gaussian stays one, so each peak of the mixture moves and widens on its own:
#
# $$q(x_t) = \int q(x_t \mid x_0)\, q(x_0)\, \mathrm{d}x_0
# = \sum_k w_k\, \mathcal{N}\big(x_t;\; {\color{#0072B2}{\sqrt{\bar\alpha_t}\, m_k}},\;
# {\color{#0072B2}{\bar\alpha_t d_k^2}} + {\color{#D55E00}{\sigma_t^2}}\big) \tag{3.2}$$
#
# Eight steps are enough here. `max_beta` makes the last of them gentler, and `double` keeps the tables in 64 bits.
# `log_forward(schedule, x_prev, x_t, t)` and `log_closed_form(schedule, x0, x_t, t)` are the logarithms of step and
# closed form. Given a column `x[:, None]` and a row `x[None, :]`, they return a matrix with an entry for each pair.

# %% tags=["nbval-check-output"]
schedule = double(cosine_schedule(8, max_beta=0.9))
T = schedule.T
noising = log_closed_form(schedule, x[:, None], x[None, :], 3).exp()  # (801, 801): row x_0, column x_3
verify("3.2", density @ noising * dx, mixture.noised(schedule, 3).log_density(x).exp(), tol=1e-9)

# %%
figure, axes = viz.subplots(1, 5, size=(8, 2))
for t, axis in zip([0, 1, 2, 4, 8], axes, strict=True):
    axis.fill_between(x, mixture.noised(schedule, t).log_density(x).exp(), alpha=0.4)
    axis.plot(x, log_normal(x, 0.0, 1.0).exp(), "--", color="black", linewidth=1)
    axis.set(title=f"t = {t}", xlim=(-3, 3), ylim=(0, 0.8), yticks=[])
viz.show(figure, "Five densities: two separate peaks at t = 0 melt into one standard normal curve at t = 8")

# %% [markdown]
# *Dashed, the standard normal. At $t = 8$ all that is left of $x_0$ is the factor $\sqrt{\bar\alpha_8}$, the last of
# these nine numbers:*

# %% tags=["nbval-check-output"]
print([round(a, 3) for a in schedule.sqrt_alpha_bar.tolist()])

# %% [markdown]
# ## 2. A model that walks backwards, and what it should maximise
#
# The model starts where the forward process ends and takes $T$ steps down. Each step is a Gaussian whose mean
# ${\color{#009E73}{\mu_\theta(x_t, t)}}$ a network computes and whose variance $s_t^2$ we fix by hand. The density of
# the start, $p(x_T)$, is called the **prior**:
#
# $$\begin{aligned}
# {\color{#009E73}{p_\theta(x_0, x_1, \dots, x_T)}} &= p(x_T) \prod_{t=1}^{T} {\color{#009E73}{p_\theta(x_{t-1} \mid x_t)}}, \\
# p(x_T) &= \mathcal{N}(0, 1), \qquad
# {\color{#009E73}{p_\theta(x_{t-1} \mid x_t)}} = \mathcal{N}\big({\color{#009E73}{\mu_\theta(x_t, t)}},\, s_t^2\big)
# \end{aligned} \tag{3.3}$$
#
# That is the density of a whole **path**, from noise to image. We see only images. The model's density of an image,
# the path density summed over all paths that end there, is called the **likelihood**:
#
# $${\color{#009E73}{p_\theta(x_0)}} = \int \! \cdots \! \int {\color{#009E73}{p_\theta(x_0, x_1, \dots, x_T)}}\;
# \mathrm{d}x_1 \cdots \mathrm{d}x_T \tag{3.4}$$
#
# Take it literally first: two steps, a coarse grid of 161 points, and every path there is. `ReverseModel` holds a
# schedule, the variances and a function that guesses the noise; the guess decides the model (notebook 04 says how). In
# this world the guess with the smallest squared error is known, `mixture.ideal_eps`.

# %% tags=["nbval-check-output"]
short, coarse = double(cosine_schedule(2, max_beta=0.9)), x[::5]
step = coarse[1] - coarse[0]
little = ReverseModel(short, short.beta, mixture.ideal_eps(short))
x_0, x_1, x_2 = coarse[:, None, None], coarse[None, :, None], coarse[None, None, :]
paths = (little.log_prior(x_2) + little.log_step(x_1, x_2, 2) + little.log_step(x_0, x_1, 1)).exp()
print(f"{tuple(paths.shape)}: {paths.numel():,} paths")
verify("3.3", paths.sum() * step**3, 1.0)

# %% [markdown]
# There is a cheaper order. The step from $t$ to $t - 1$ looks only at $x_t$, so sum over $x_T$ first, then over
# $x_{T-1}$, and so on. Each sum is a product of a matrix (row $x_{t-1}$, column $x_t$) with a vector.

# %%
def marginals(model, x):
    """The model's density of x_T, ..., x_0 on the grid: (T+1, n), row t for x_t."""
    p = [model.log_prior(x).exp()]
    for t in range(model.schedule.T, 0, -1):
        p.append(model.log_step(x[:, None], x[None, :], t).exp() @ p[-1] * (x[1] - x[0]))
    return torch.stack(p[::-1])


# %% tags=["nbval-check-output"]
verify("3.4", paths.sum((1, 2)) * step**2, marginals(little, coarse)[0], tol=1e-9)

# %% [markdown]
# Guess before you run. Eight steps from one $x_0$: how many paths on the grid? How many multiplications of numbers by
# way of matrices? And how many entries does one vector of the second way have for images of 784 pixels?

# %% tags=["nbval-check-output"]
print(f"one pixel, path by path:  801^8 = {801.0**8:.0e} paths")
print(f"one pixel, by matrices:   8 * 801^2 = {8 * 801**2:,} multiplications")
print(f"784 pixels, by matrices:  801^784 = 10^{784 * math.log10(801):.0f} entries in a single vector")
print("784 pixels, a grid of 10: 10^784 entries; the universe has about 10^80 atoms")

# %% [markdown]
# *For images even one vector of the cheap way is out of reach, on any grid: this integral is **intractable**.
# Everything that follows is a way around it.*
#
# Three models, all with $s_t^2 = \beta_t$: one always guesses that there is no noise, as an untrained network might,
# one guesses half of the ideal answer, one is ideal.

# %%
ideal_eps = mixture.ideal_eps(schedule)


def model_with(share):
    """The model that guesses this share of the ideal noise."""
    return ReverseModel(schedule, schedule.beta, lambda x_t, t: share * ideal_eps(x_t, t))


models = {"guesses 0": model_with(0.0), "half the ideal": model_with(0.5), "ideal": model_with(1.0)}

# %% [markdown]
# **Maximum likelihood** asks for the model that makes the data as likely as possible on average. Is there a ceiling?
#
# | line | because |
# |:--|:--|
# | $\mathbb{E}_{q(x_0)} \log {\color{#009E73}{p_\theta(x_0)}}$ | what we want to raise |
# | $= \mathbb{E}_{q(x_0)} \log q(x_0) - \mathbb{E}_{q(x_0)} \big[\log q(x_0) - \log {\color{#009E73}{p_\theta(x_0)}}\big]$ | add and subtract $\log q(x_0)$ |
# | $= \mathbb{E}_{q(x_0)} \log q(x_0) - \mathrm{KL}\big(q(x_0)\,\Vert\,{\color{#009E73}{p_\theta(x_0)}}\big)$ | the definition of the **KL divergence**, $\mathrm{KL}(q \Vert p) = \mathbb{E}_q[\log q - \log p]$ |
#
# A KL divergence is never negative, and 0 only if both densities agree (section 3 proves it). So the ceiling does not
# depend on the model, and raising the likelihood is the same as lowering a distance to the data:
#
# $$\mathbb{E}_{q(x_0)} \log {\color{#009E73}{p_\theta(x_0)}} = \underbrace{\mathbb{E}_{q(x_0)} \log q(x_0)}_{\text{ceiling}}
# - \mathrm{KL}\big(q(x_0)\,\Vert\,{\color{#009E73}{p_\theta(x_0)}}\big) \tag{3.5}$$

# %%
def over_data(values):
    """Average of a function on the grid over the data: E_q(x_0)[values]."""
    return (density * values).sum() * dx


# %% tags=["nbval-check-output"]
log_q = mixture.log_density(x)
log_p = {name: marginals(model, x)[0].log() for name, model in models.items()}
for name, values in log_p.items():
    print(f"{name:15} log-likelihood {over_data(values):.3f}, ceiling {over_data(log_q):.3f} nats")
    verify("3.5", over_data(values), over_data(log_q) - torch.xlogy(density, density / values.exp()).sum() * dx, tol=1e-9)

# %% [markdown]
# (A **nat** is the unit of a natural logarithm; divide by $\log 2$ for bits. Densities can be above 1, so a
# log-likelihood may be positive.) The model that guesses 0 only ever divides by $\sqrt{\alpha_t}$ (notebook 04), and
# blows $\mathcal{N}(0, 1)$ up. The ideal model still misses the ceiling by a little: its guess has the smallest
# squared error, and that is ideal for the bound of section 3, not for the likelihood.
#
# ## 3. Weights, and a bound
#
# Where a grid is too large, draw at random and average. From which density? Paths drawn from the model almost never
# end at the $x_0$ we ask about. Paths drawn from $q(x_1, \dots, x_T \mid x_0)$ all start there: take an image and add
# noise.
#
# | line | because |
# |:--|:--|
# | ${\color{#009E73}{p_\theta(x_0)}} = \displaystyle\int {\color{#009E73}{p_\theta(x_0, \dots, x_T)}}\, \mathrm{d}x_1 \cdots \mathrm{d}x_T$ | (3.4) |
# | $= \displaystyle\int q(x_1, \dots, x_T \mid x_0)\, \frac{\color{#009E73}{p_\theta(x_0, \dots, x_T)}}{q(x_1, \dots, x_T \mid x_0)}\, \mathrm{d}x_1 \cdots \mathrm{d}x_T$ | multiply and divide by $q$, which is nowhere 0 |
# | $= \mathbb{E}_{q(x_1, \dots, x_T \mid x_0)}\,[\, W \,]$ | an integral against a density is an average |
#
# $${\color{#009E73}{p_\theta(x_0)}} = \mathbb{E}_{q}\,[\,W\,], \qquad
# W = \frac{\color{#009E73}{p_\theta(x_0, x_1, \dots, x_T)}}{q(x_1, \dots, x_T \mid x_0)} \tag{3.6}$$
#
# $W$ is called an **importance weight**. Both path densities are products over steps: that of the model is (3.3), and
# $q(x_1, \dots, x_T \mid x_0) = \prod_{t=1}^{T} q(x_t \mid x_{t-1})$, because each step of the forward process looks
# only at the image before it. So the logarithm of $W$ is a sum:
#
# $$\log W = \log p(x_T) + \sum_{t=1}^{T} \log \frac{\color{#009E73}{p_\theta(x_{t-1} \mid x_t)}}{q(x_t \mid x_{t-1})} \tag{3.7}$$
#
# ### Exercise 3.1 - `log_weight`
#
# `path` has shape (T+1, N): `path[t]` holds $x_t$ of N paths. Return $\log W$ of each path, shape (N,). You have
# `model.log_prior(x_T)`, `model.log_step(x_prev, x_t, t)` and `log_forward(model.schedule, x_prev, x_t, t)`.

# %% tags=["exercise", "nbval-check-output"]
def log_weight(model, path):
    T = model.schedule.T
    total = ...  # the prior; then add T ratios
    return total


log_weight = check(log_weight)

# %% [markdown]
# <details><summary>Hint</summary>
#
# A loop `for t in range(1, T + 1)`. A ratio of densities is a difference of logarithms:
# `log_step(...) - log_forward(...)`, with `path[t - 1]` and `path[t]`.
#
# </details>

# %%
def walk(x0, number):
    """Draw paths from q(x_1, ..., x_T | x_0): (T+1, number)."""
    path = [torch.full((number,), x0, dtype=torch.float64)]
    for t in range(1, T + 1):
        noise = torch.randn(number, generator=generator, dtype=torch.float64)
        path.append(forward_step(path[-1], schedule.beta[t], noise))
    return torch.stack(path)


# %% [markdown]
# We run (3.7) the long way round on five paths, multiplying densities, and (3.6) with 200,000 paths that start at
# $x_0 = 0.7$, the middle of the right peak.

# %% tags=["nbval-check-output"]
ideal, half, steps, here = models["ideal"], models["half the ideal"], range(1, T + 1), 435  # x[435] is 0.7
path = walk(0.7, 200_000)  # (9, 200000)
above = torch.stack([ideal.log_step(path[t - 1], path[t], t).exp() for t in steps]).prod(0)
below = torch.stack([log_forward(schedule, path[t - 1], path[t], t).exp() for t in steps]).prod(0)
product = ideal.log_prior(path[T]).exp() * above / below
verify("3.7", log_weight(ideal, path)[:5], product[:5].log(), tol=1e-9)
verify("3.6", samples=log_weight(ideal, path).exp(), expected=log_p["ideal"][here].exp())

# %% [markdown]
# Averages can be estimated for images too. Why not stop here? An "image" of $D$ independent pixels is $D$ paths side
# by side, and its $\log W$ is the sum of theirs. Group our paths so, and weigh them with the half-ideal model. Guess:
# of 100 draws, how much of the sum is the largest weight?

# %%
for pixels in (1, 10, 100):
    logs = log_weight(half, path).reshape(-1, 100, pixels).sum(2)  # (repetitions, 100 draws)
    largest = logs.softmax(1).max(1).values.mean()  # softmax: exp, then divided by the sum
    print(f"{pixels:3} pixels: the largest of 100 weights makes {largest:.0%} of their sum, on average")

# %% [markdown]
# *With 100 pixels, one draw is nearly everything and the other 99 are wasted. The average is right in principle, and
# useless in practice.* The remedy is to average $\log W$ instead of $W$: over many pixels logarithms add up where
# weights multiply. Which of the two is larger? The logarithm is never above any of its tangents, and the rest is one
# line each:
#
# | line | because |
# |:--|:--|
# | $\log W \le \log c + \dfrac{W - c}{c}$ | the tangent of the logarithm at any $c > 0$ |
# | $\mathbb{E}_q \log W \le \log c + \dfrac{\mathbb{E}_q W - c}{c}$ | average both sides |
# | $\mathbb{E}_q \log W \le \log \mathbb{E}_q W$ | choose $c = \mathbb{E}_q W$; the fraction vanishes. This is **Jensen's inequality** |
# | $\mathbb{E}_q \log W \le \log {\color{#009E73}{p_\theta(x_0)}}$ | (3.6) |
#
# The left side is the **evidence lower bound**:
#
# $$\mathrm{ELBO}(x_0) = \mathbb{E}_{q(x_1, \dots, x_T \mid x_0)} \log W \;\le\; \log {\color{#009E73}{p_\theta(x_0)}} \tag{3.8}$$
#
# (The same tangent proves that no KL is negative: put $W = p/q$ and $c = 1$. The average of $p/q$ over $q$ is
# $\int p = 1$, so the fraction vanishes again. The tangent touches the logarithm only at $W = c$, so a KL of 0 needs
# $p = q$.) On the grid the ELBO is exact, because each term of (3.7) involves two neighbours of the path only, and
# their joint density is $q(x_{t-1} \mid x_0)\, q(x_t \mid x_{t-1})$.

# %%
def elbo(model, x):
    """E_q[log W] for each x_0 on the grid, exactly: (n,)."""
    s, row, column, dx = model.schedule, x[:, None], x[None, :], x[1] - x[0]
    total = log_closed_form(s, row, column, s.T).exp() @ model.log_prior(x) * dx
    for t in range(1, s.T + 1):
        log_q = log_forward(s, row, column, t)  # (n, n): row x_{t-1}, column x_t
        ratio = model.log_step(row, column, t) - log_q
        inner = (log_q.exp() * ratio).sum(1) * dx  # (n,) of x_{t-1}
        total = total + (inner if t == 1 else log_closed_form(s, row, column, t - 1).exp() @ inner * dx)
    return total


# %% [markdown]
# The average of `log_weight` over paths must hit the exact ELBO at $x_0 = 0.7$. And the inequality: at every grid
# point between -3 and 3, the smaller one of bound and log-likelihood is the bound.

# %% tags=["nbval-check-output"]
inside = x.abs() <= 3
bounds = {name: elbo(model, x) for name, model in models.items()}
for name, model in models.items():
    verify("3.8", samples=log_weight(model, path), expected=bounds[name][here])
    verify("3.8", torch.minimum(bounds[name], log_p[name])[inside], bounds[name][inside], tol=1e-9)

# %% tags=["figure-03_bound"]
figure, axes = viz.subplots(1, 3, size=(8, 3))
for axis, name in zip(axes, models, strict=True):
    exact, bound = log_p[name], bounds[name]
    axis.plot(x, exact, color=GREEN, label="log-likelihood")
    axis.plot(x, bound, "--", color="black", label="ELBO")
    axis.fill_between(x, bound, exact, color="black", alpha=0.12, label="gap")
    axis.set(title=f"{name}: gap {over_data(exact - bound):.2f}", xlim=(-2.2, 2), ylim=(-10, 0.5), xlabel="$x_0$")
axes[0].set_ylabel("nats")
axes[2].legend(loc="lower center", frameon=False)
viz.show(figure, "Log-likelihood and ELBO of three models against x0; the gap between them shrinks from left to right")

# %% [markdown]
# *The gap (in the titles, averaged over the data) shrinks as the guess improves.* What is it?
#
# | line | because |
# |:--|:--|
# | $\log {\color{#009E73}{p_\theta(x_0)}} - \mathrm{ELBO}(x_0)$ | the gap |
# | $= \mathbb{E}_q \big[\log {\color{#009E73}{p_\theta(x_0)}} - \log {\color{#009E73}{p_\theta(x_0, \dots, x_T)}} + \log q(x_1, \dots, x_T \mid x_0)\big]$ | (3.8) written out; $\log p_\theta(x_0)$ does not depend on the path |
# | $= \mathbb{E}_q \big[\log q(x_1, \dots, x_T \mid x_0) - \log {\color{#009E73}{p_\theta(x_1, \dots, x_T \mid x_0)}}\big]$ | joint density divided by the density of $x_0$: conditional density |
#
# $$\log {\color{#009E73}{p_\theta(x_0)}} - \mathrm{ELBO}(x_0)
# = \mathrm{KL}\big(q(x_1, \dots, x_T \mid x_0)\,\Vert\,{\color{#009E73}{p_\theta(x_1, \dots, x_T \mid x_0)}}\big) \tag{3.9}$$
#
# The gap asks: do the paths by which the model could have produced this $x_0$ look like the paths of $q$? For a
# number, read the model's path the other way round, from $x_0$ up to $x_T$. The density of $x_0, \dots, x_t$ is
# $p_\theta(x_t)\, p_\theta(x_{t-1} \mid x_t) \cdots p_\theta(x_0 \mid x_1)$. Divide it by that of
# $x_0, \dots, x_{t-1}$: all steps below $x_{t-1}$ cancel. With $T = 2$ and $t = 2$ one divides
# $p_\theta(x_2)\, p_\theta(x_1 \mid x_2)\, p_\theta(x_0 \mid x_1)$ by $p_\theta(x_1)\, p_\theta(x_0 \mid x_1)$, and
# $p_\theta(x_1 \mid x_2)\, p_\theta(x_2) / p_\theta(x_1)$ remains.
#
# What is left, the density of $x_t$ given all that lies below it, holds $x_t$ and $x_{t-1}$ only. So the conditional
# path density is a product of steps upwards:
#
# $$\begin{aligned}
# {\color{#009E73}{p_\theta(x_1, \dots, x_T \mid x_0)}} &= \prod_{t=1}^T {\color{#009E73}{p_\theta(x_t \mid x_{t-1})}}, \\
# {\color{#009E73}{p_\theta(x_t \mid x_{t-1})}}
# &= \frac{\color{#009E73}{p_\theta(x_{t-1} \mid x_t)\; p_\theta(x_t)}}{\color{#009E73}{p_\theta(x_{t-1})}}
# \end{aligned} \tag{3.10}$$
#
# The marginals $p_\theta(x_t)$ are the rows that `marginals` returned. Now sum the gap step by step:
#
# | line | because |
# |:--|:--|
# | $\mathrm{KL}\big(q(x_1, \dots, x_T \mid x_0)\,\Vert\,{\color{#009E73}{p_\theta(x_1, \dots, x_T \mid x_0)}}\big)$ | the right side of (3.9) |
# | $= \mathbb{E}_q \displaystyle\sum_{t=1}^T \log \frac{q(x_t \mid x_{t-1})}{\color{#009E73}{p_\theta(x_t \mid x_{t-1})}}$ | both path densities are products of steps |
# | $= \displaystyle\sum_{t=1}^T \mathbb{E}_{q(x_{t-1} \mid x_0)}\, \mathbb{E}_{q(x_t \mid x_{t-1})} \log \frac{q(x_t \mid x_{t-1})}{\color{#009E73}{p_\theta(x_t \mid x_{t-1})}}$ | each term involves two neighbours; average over the later one first |
# | $= \displaystyle\sum_{t=1}^T \mathbb{E}_{q(x_{t-1} \mid x_0)}\, \mathrm{KL}\big(q(x_t \mid x_{t-1})\,\Vert\,{\color{#009E73}{p_\theta(x_t \mid x_{t-1})}}\big)$ | the inner average is a KL |
#
# The last line is a second, independent way to the gap:

# %%
def chain_gap(model, x):
    """KL between the paths of q and of the model, given x_0, from (3.10): (n,)."""
    s, row, column, dx, log_m = model.schedule, x[:, None], x[None, :], x[1] - x[0], marginals(model, x).log()
    total = torch.zeros_like(x)
    for t in range(1, s.T + 1):
        log_q = log_forward(s, row, column, t)
        log_up = model.log_step(row, column, t) + log_m[t][None, :] - log_m[t - 1][:, None]  # log p(x_t | x_{t-1})
        inner = (log_q.exp() * (log_q - log_up)).sum(1) * dx
        total = total + (inner if t == 1 else log_closed_form(s, row, column, t - 1).exp() @ inner * dx)
    return total


# %% [markdown]
# And by (3.10) each $p_\theta(x_t \mid x_{t-1})$ must be a density: its sum over $x_t$ is 1 for every $x_{t-1}$.

# %% tags=["nbval-check-output"]
for name, model in models.items():
    verify("3.9", (log_p[name] - bounds[name])[inside], chain_gap(model, x)[inside], tol=1e-9)
p = marginals(ideal, x)
for t in steps:
    up = ideal.log_step(x[:, None], x[None, :], t).exp() * p[t][None, :] / p[t - 1][:, None]  # row x_{t-1}
    verify("3.10", up.sum(1)[inside] * dx, torch.ones(301, dtype=torch.float64), tol=1e-9)

# %% [markdown]
# So the bound has two ways to grow: the likelihood rises, or the gap closes. Improve the model in small moves, from
# guessing 0 to the ideal guess and a little past it, and watch both.

# %%
shares = torch.linspace(0, 1.2, 13)
exact = torch.stack([over_data(marginals(model_with(s.item()), x)[0].log()) for s in shares])
bound = torch.stack([over_data(elbo(model_with(s.item()), x)) for s in shares])
for i in (10, 11):
    print(f"{shares[i]:.1f} x the ideal guess: log-likelihood {exact[i]:.3f}, ELBO {bound[i]:.3f}")


# %% [markdown]
# And more steps? Guess: with the ideal guess of the noise, does the gap vanish as $T$ grows? We try two choices of the
# model's variance that Ho et al. 2020 (section 3.2) name as the two extremes: $s_t^2 = \beta_t$, and the smaller
# $s_t^2 = \tilde\beta_t$, `posterior_variance` (notebook 04). (At $t = 1$ that variance is 0, which no density can
# have, so both use $\beta_1$ there.)

# %%
def ideal_gap(T, small):
    """Gap of the model that guesses the noise ideally in T steps, averaged over the data."""
    s = double(cosine_schedule(T, max_beta=0.9))
    variance = torch.cat([s.beta[:2], s.posterior_variance[2:]]) if small else s.beta
    model = ReverseModel(s, variance, mixture.ideal_eps(s))
    return over_data(marginals(model, x)[0].log() - elbo(model, x)).item()


lengths = [8, 16, 32, 64]
gaps = {small: [ideal_gap(T, small) for T in lengths] for small in (False, True)}
for T_now, large, small in zip(lengths, *gaps.values(), strict=True):
    print(f"T = {T_now:2}: gap {large:.3f} with beta, {small:.3f} with the posterior variance")

# %% tags=["figure-03_gap_shrinks"]
figure, (left, right) = viz.subplots(1, 2, size=(8, 3.2))
left.axhline(over_data(log_q), color="black", linewidth=1, linestyle=":", label="ceiling")
left.plot(shares, exact, "o-", color=GREEN, label="log-likelihood")
left.plot(shares, bound, "o--", color="black", label="ELBO")
left.fill_between(shares, bound, exact, color="black", alpha=0.12, label="gap")
left.set(xlabel="share of the ideal noise guess", ylabel="nats, mean over the data")
left.legend(frameon=False, loc="lower right")
right.loglog(lengths, gaps[False], "o-", color="black", label=r"$s_t^2 = \beta_t$")
right.loglog(lengths, gaps[True], "s--", color=PINK, label=r"$s_t^2 = \tilde\beta_t$")
right.set(xlabel="number of steps T", ylabel="gap, nats", ylim=(0.02, 1.5))
right.set_xticks(lengths, lengths, minor=False)
right.minorticks_off()
right.legend(frameon=False, loc="lower left")
viz.show(figure, "Left: ELBO and likelihood rise as the guess improves. Right: the gap against the number of steps")

# %% [markdown]
# *Left: past the ideal guess the likelihood still rises a little, and the bound falls. The ideal guess is the best for
# the bound. Right: with $s_t^2 = \beta_t$ the last doubling of the steps takes nearly half off the gap; with the
# posterior variance it hardly moves.* The falling line is why diffusion uses many steps: run backwards, a small
# Gaussian step is nearly a Gaussian again, and the smaller the step, the nearer (Sohl-Dickstein et al. 2015, section
# 2.2). The flat line is the surprise. At the smallest $t$ the noise is narrower than the peaks of the data. So $x_t$
# tells $x_0$ only to within about $\sigma_t$, and the true backward step has a variance near $\beta_t$. The posterior
# variance is that of someone who *knows* $x_0$, too small there; and however many steps there are, some lie so close
# to the clean image. We stay with $s_t^2 = \beta_t$.
#
# ## 4. From one path to T + 1 terms
#
# To train we want terms that look at one step each. In (3.7) each ratio compares a step down,
# $p_\theta(x_{t-1} \mid x_t)$, with a step up, $q(x_t \mid x_{t-1})$: densities of two different variables. Turn $q$
# around. Without $x_0$ that fails: Bayes' rule would ask for $q(x_{t-1})$, which depends on what images exist. With
# $x_0$ it works:
#
# | line | because |
# |:--|:--|
# | $q(x_t \mid x_{t-1})$ | for $t \ge 2$ |
# | $= q(x_t \mid x_{t-1}, x_0)$ | **Markov**: given $x_{t-1}$, the next step does not care about $x_0$ |
# | $= \dfrac{q(x_{t-1}, x_t \mid x_0)}{q(x_{t-1} \mid x_0)}$ | conditional density |
# | $= \dfrac{q(x_{t-1} \mid x_t, x_0)\; q(x_t \mid x_0)}{q(x_{t-1} \mid x_0)}$ | split the joint density the other way: Bayes' rule |
#
# $$q(x_t \mid x_{t-1}) = q(x_{t-1} \mid x_t, x_0)\; \frac{q(x_t \mid x_0)}{q(x_{t-1} \mid x_0)} \tag{3.11}$$
#
# Solved for $q(x_{t-1} \mid x_t, x_0)$, (3.11) must be a density in $x_{t-1}$ and sum to 1. And among our 200,000
# paths from $x_0 = 0.7$ pick those that pass $x_4 = 1$: their mean $x_3$ must be the mean of that density.

# %%
def log_back(t, x0):
    """log q(x_{t-1} | x_t, x_0) on the grid, from (3.11): row x_{t-1}, column x_t."""
    up = log_forward(schedule, x[:, None], x[None, :], t)
    return up + log_closed_form(schedule, x0, x, t - 1)[:, None] - log_closed_form(schedule, x0, x, t)[None, :]


# %% tags=["nbval-check-output"]
near = (path[4] - 1.0).abs() < 0.01  # paths that pass x_4 = 1
verify("3.11", log_back(4, x[here]).exp().sum(0)[inside] * dx, torch.ones(301, dtype=torch.float64), tol=1e-9)
verify("3.11", samples=path[3][near], expected=(log_back(4, x[here])[:, 450].exp() * x).sum() * dx)

# %% [markdown]
# In (3.7) the forward step stands below the line, so the fraction at the right end of (3.11) enters upside down, once
# for each $t$. Neighbours cancel: the product **telescopes**.
#
# $$\begin{aligned}
# \prod_{t=2}^{T} \frac{q(x_{t-1} \mid x_0)}{q(x_t \mid x_0)}
# &= \frac{q(x_1 \mid x_0)}{q(x_2 \mid x_0)} \cdot \frac{q(x_2 \mid x_0)}{q(x_3 \mid x_0)} \cdots \frac{q(x_{T-1} \mid x_0)}{q(x_T \mid x_0)} \\
# &= \frac{q(x_1 \mid x_0)}{q(x_T \mid x_0)}
# \end{aligned} \tag{3.12}$$

# %% tags=["nbval-check-output"]
closed = {t: log_closed_form(schedule, path[0], path[t], t).exp() for t in steps}  # q(x_t | x_0)
fractions = torch.stack([closed[t - 1] / closed[t] for t in range(2, T + 1)])
verify("3.12", fractions[:, :5].prod(0), (closed[1] / closed[T])[:5], tol=1e-9)

# %% [markdown]
# Put both into $\log W$. The first ratio, $t = 1$, stays: there is no step below it.
#
# | $\log W$ | because |
# |:--|:--|
# | $= \log p(x_T) + \log \dfrac{\color{#009E73}{p_\theta(x_0 \mid x_1)}}{q(x_1 \mid x_0)} + \displaystyle\sum_{t=2}^T \log \frac{\color{#009E73}{p_\theta(x_{t-1} \mid x_t)}}{q(x_t \mid x_{t-1})}$ | (3.7), with $t = 1$ apart |
# | $= \log p(x_T) + \log \dfrac{\color{#009E73}{p_\theta(x_0 \mid x_1)}}{q(x_1 \mid x_0)} + \displaystyle\sum_{t=2}^T \log \frac{\color{#009E73}{p_\theta(x_{t-1} \mid x_t)}}{q(x_{t-1} \mid x_t, x_0)} + \sum_{t=2}^T \log \frac{q(x_{t-1} \mid x_0)}{q(x_t \mid x_0)}$ | (3.11) in each term |
# | $= \log p(x_T) + \log \dfrac{\color{#009E73}{p_\theta(x_0 \mid x_1)}}{q(x_1 \mid x_0)} + \displaystyle\sum_{t=2}^T \log \frac{\color{#009E73}{p_\theta(x_{t-1} \mid x_t)}}{q(x_{t-1} \mid x_t, x_0)} + \log \frac{q(x_1 \mid x_0)}{q(x_T \mid x_0)}$ | (3.12) |
# | $= \log \dfrac{p(x_T)}{q(x_T \mid x_0)} + \displaystyle\sum_{t=2}^T \log \frac{\color{#009E73}{p_\theta(x_{t-1} \mid x_t)}}{q(x_{t-1} \mid x_t, x_0)} + \log {\color{#009E73}{p_\theta(x_0 \mid x_1)}}$ | $q(x_1 \mid x_0)$ cancels; sort |
#
# Average over $q$. The first and the last piece are plain averages. In the sum, each term involves $x_{t-1}$ and $x_t$
# only, and their joint density splits as $q(x_{t-1}, x_t \mid x_0) = q(x_t \mid x_0)\, q(x_{t-1} \mid x_t, x_0)$:
#
# | line | because |
# |:--|:--|
# | $\mathbb{E}_q \log \dfrac{\color{#009E73}{p_\theta(x_{t-1} \mid x_t)}}{q(x_{t-1} \mid x_t, x_0)}$ | one term of the sum |
# | $= \mathbb{E}_{q(x_t \mid x_0)}\, \mathbb{E}_{q(x_{t-1} \mid x_t, x_0)} \log \dfrac{\color{#009E73}{p_\theta(x_{t-1} \mid x_t)}}{q(x_{t-1} \mid x_t, x_0)}$ | average over $x_{t-1}$ first, with $x_t$ held |
# | $= -\, \mathbb{E}_{q(x_t \mid x_0)}\, \mathrm{KL}\big(q(x_{t-1} \mid x_t, x_0)\,\Vert\,{\color{#009E73}{p_\theta(x_{t-1} \mid x_t)}}\big)$ | the inner average is minus a KL, for each $x_t$ another one |
#
# Change all signs, and the bound has $T + 1$ terms:
#
# $$\begin{aligned}
# -\mathrm{ELBO}(x_0) &= \underbrace{\mathrm{KL}\big(q(x_T \mid x_0)\,\Vert\,p(x_T)\big)}_{L_T} \\
# &\quad + \sum_{t=2}^{T} \underbrace{\mathbb{E}_{q(x_t \mid x_0)}\, \mathrm{KL}\big(q(x_{t-1} \mid x_t, x_0)\,\Vert\,{\color{#009E73}{p_\theta(x_{t-1} \mid x_t)}}\big)}_{L_{t-1}} \\
# &\quad \underbrace{-\, \mathbb{E}_{q(x_1 \mid x_0)} \log {\color{#009E73}{p_\theta(x_0 \mid x_1)}}}_{L_0}
# \end{aligned} \tag{3.13}$$
#
# (Ho et al. 2020, equation 5.) Each term has a meaning. $L_T$: does the forward process end where the model starts?
# Nothing to learn. $L_{t-1}$: does one step down agree with $q$'s own step down? $L_0$: the last step must land on
# $x_0$. On the grid all of them are sums.

# %%
def terms(model, x0):
    """L_0, L_1, ..., L_T at one x_0, by sums over the grid: (T+1,)."""
    first, last = log_closed_form(schedule, x0, x, 1).exp(), log_closed_form(schedule, x0, x, T)
    values = [-(first * model.log_step(x0, x, 1)).sum() * dx]
    for t in range(2, T + 1):
        back = log_back(t, x0)  # (801, 801): row x_{t-1}, column x_t
        inner = (back.exp() * (back - model.log_step(x[:, None], x[None, :], t))).sum(0) * dx  # a KL for each x_t
        values.append((log_closed_form(schedule, x0, x, t).exp() * inner).sum() * dx)
    return torch.stack([*values, (last.exp() * (last - model.log_prior(x))).sum() * dx])


# %% tags=["nbval-check-output"]
all_terms = {name: terms(model, x[here]) for name, model in models.items()}
for name, values in all_terms.items():
    verify("3.13", -values.sum(), bounds[name][here], tol=1e-9)
    print(f"{name:15}", " ".join(f"L{t} {v:.3f} " for t, v in enumerate(values.tolist())))

# %%
figure, axis = viz.subplots(size=(8, 3))
for i, (name, values) in enumerate(all_terms.items()):
    axis.bar(torch.arange(T + 1) + 0.27 * (i - 1), values, width=0.25, label=name, color=(PINK, "#999999", GREEN)[i])
axis.axhline(0, color="black", linewidth=0.8)
axis.set_xticks(range(T + 1), [f"$L_{t}$" for t in range(T + 1)])
axis.set(ylabel="nats at $x_0 = 0.7$")
axis.legend(frameon=False, loc="upper left")
viz.show(figure, "The nine terms of the bound for three models; the better the model, the smaller the terms")

# %% [markdown]
# *Every $L_{t-1}$ shrinks as the guess improves; $L_8$ is too small to see, and no model enters it. $L_0$ may be
# negative: it is minus the logarithm of a density, not a KL. Even the ideal model keeps a positive rest in $L_1$ to
# $L_7$; notebook 04 explains it.*
#
# ## What to remember, and what broke
#
# - The likelihood of an image is an integral over paths that nobody can compute. As an average of weights it can be
#   estimated in principle, and one weight swallows the others.
# - The average of the weights' logarithms, the ELBO, lies below the log-likelihood. The gap is the distance between
#   the paths of $q$ and the model's own.
# - The ELBO splits into one term for each step, and one for each end.
#
# **What broke:** every term asks for $q(x_{t-1} \mid x_t, x_0)$, and we have it only as numbers on a grid. For images
# there is no grid. [Notebook 04](04_bound_to_noise.ipynb) finds it as a formula, and at its end stands a squared
# error.
#
# ### Experiments to try
#
# - Make both peaks of `mixture` narrower, with standard deviations of 0.1. Which of $L_0$ to $L_8$ change most, and
#   why those? Why do none of them change for the model that guesses 0?
# - In section 3, weigh the paths with the ideal model instead of the half-ideal one. How many pixels does it take
#   now until one weight is most of the sum?
