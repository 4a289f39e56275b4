# %% [markdown]
# # From a bound to the noise
#
# ![The weight of the squared noise error at each step: that of the bound falls a hundredfold, that of L simple is a flat line](../figures/04_weights.png)
#
# *How much the squared error of the predicted noise counts at each step. Black is what the bound asks for, coloured
# what a DDPM is trained with. Where does the black line come from, and what does it cost to make it flat?*
#
# **You will** turn each term of the bound into a squared distance of means, that into a squared error of the predicted
# noise, and see what is lost on the way. **You need** the bound (3.13) of [notebook 03](03_likelihood_bound.ipynb),
# and its world with one pixel, which is built again below. **Time** an hour, with pen and paper; the cells run in 15
# seconds on 2 CPU cores.

# %% tags=["setup"]
REPO = ""  # owner/name on GitHub; `make badges REPO=owner/name` fills it in
try:
    import ddpm_helpers
except ImportError:
    assert REPO, "The helper module is missing: start this notebook with `make lab`, or see Colab in the README."
    get_ipython().run_line_magic("pip", f"install -q git+https://github.com/{REPO}")

import math

import torch

from ddpm_helpers import check, cosine_schedule, linear_schedule, load_images, per_image, predict_eps, q_sample, snr
from ddpm_helpers import to_float, verify, viz
from ddpm_helpers.lessons.toy import Mixture, ReverseModel, double, log_closed_form, log_forward, log_normal

BLUE, ORANGE, GREEN, PINK = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
generator = torch.Generator().manual_seed(0)
torch.set_num_threads(1)  # the tensors here are small: threads would wait for each other longer than they work

# %% [markdown]
# ## Where we stand
#
# [Notebook 03](03_likelihood_bound.ipynb) ended with a bound of $T + 1$ terms. The $L_{t-1}$ are averages of distances
# between $q(x_{t-1} \mid x_t, x_0)$ and the model's step. On a grid they are sums. For images they must become
# formulas. Symbols and colours stay, and so does the world: an image is one number $x_0$, the data are a mixture of
# two Gaussians, eight steps of noise are enough, and integrals are sums over a fine grid, exact to nine digits or
# more. Three models walk backwards, all with $s_t^2 = \beta_t$: one guesses that there is no noise, one half of the
# ideal answer, one the ideal answer.

# %%
mixture = Mixture(*torch.tensor([[0.35, 0.65], [-1.2, 0.7], [0.25, 0.35]], dtype=torch.float64))
x = torch.linspace(-8, 8, 801, dtype=torch.float64)  # (801,) the grid
dx, density, inside, here = x[1] - x[0], mixture.log_density(x).exp(), x.abs() <= 3, 435  # x[435] is 0.7
schedule = double(cosine_schedule(8, max_beta=0.9))
T, steps, ideal_eps = schedule.T, range(1, schedule.T + 1), mixture.ideal_eps(schedule)


def model_with(share):
    """The model that guesses this share of the ideal noise."""
    return ReverseModel(schedule, schedule.beta, lambda x_t, t: share * ideal_eps(x_t, t))


models = {"guesses 0": model_with(0.0), "half the ideal": model_with(0.5), "ideal": model_with(1.0)}
half, ideal = models["half the ideal"], models["ideal"]

# %% [markdown]
# The terms of the bound, by sums over the grid. `log_forward` and `log_closed_form` are the logarithms of
# $q(x_t \mid x_{t-1})$ and $q(x_t \mid x_0)$; a column `x[:, None]` and a row `x[None, :]` give a matrix of all pairs.

# %%
def over_data(values):
    """Average of a function on the grid over the data: E_q(x_0)[values]."""
    return (density * values).sum() * dx


def log_back(t, x0):
    """log q(x_{t-1} | x_t, x_0) on the grid, from (3.11): row x_{t-1}, column x_t."""
    up = log_forward(schedule, x[:, None], x[None, :], t)
    return up + log_closed_form(schedule, x0, x, t - 1)[:, None] - log_closed_form(schedule, x0, x, t)[None, :]


def terms(model, x0):
    """L_0, L_1, ..., L_T of (3.13) at one x_0, by sums over the grid: (T+1,)."""
    first, last = log_closed_form(schedule, x0, x, 1).exp(), log_closed_form(schedule, x0, x, T)
    values = [-(first * model.log_step(x0, x, 1)).sum() * dx]
    for t in range(2, T + 1):
        back = log_back(t, x0)  # (801, 801): row x_{t-1}, column x_t
        inner = (back.exp() * (back - model.log_step(x[:, None], x[None, :], t))).sum(0) * dx  # a KL for each x_t
        values.append((log_closed_form(schedule, x0, x, t).exp() * inner).sum() * dx)
    return torch.stack([*values, (last.exp() * (last - model.log_prior(x))).sum() * dx])


all_terms = {name: terms(model, x[here]) for name, model in models.items()}

# %% [markdown]
# And the ELBO [(3.8)](03_likelihood_bound.ipynb) for every $x_0$ on the grid, for section 6.

# %%
def elbo(model, x):
    """E_q[log W] for each x_0 on the grid, exactly: (n,)."""
    s, row, column, dx = model.schedule, x[:, None], x[None, :], x[1] - x[0]
    total = log_closed_form(s, row, column, s.T).exp() @ model.log_prior(x) * dx
    for t in range(1, s.T + 1):
        log_q = log_forward(s, row, column, t)  # (n, n): row x_{t-1}, column x_t
        inner = (log_q.exp() * (model.log_step(row, column, t) - log_q)).sum(1) * dx  # (n,) of x_{t-1}
        total = total + (inner if t == 1 else log_closed_form(s, row, column, t - 1).exp() @ inner * dx)
    return total


bounds = {name: elbo(model, x) for name, model in models.items()}

# %% [markdown]
# ## 1. The posterior: complete the square
#
# $q(x_{t-1} \mid x_t, x_0)$ is called the **posterior**: what is known about $x_{t-1}$ after seeing the rest. Solved
# for it, [(3.11)](03_likelihood_bound.ipynb) says that it is
# $q(x_t \mid x_{t-1})\, q(x_{t-1} \mid x_0) / q(x_t \mid x_0)$: above the line two Gaussians, below it nothing that
# depends on $x_{t-1}$. Minus twice its logarithm is
#
# $$-2 \log q(x_{t-1} \mid x_t, x_0) = \frac{(x_t - \sqrt{\alpha_t}\, x_{t-1})^2}{\beta_t}
# + \frac{(x_{t-1} - \sqrt{\bar\alpha_{t-1}}\, {\color{#0072B2}{x_0}})^2}{\sigma_{t-1}^2} + \text{const} \tag{4.1}$$

# %% tags=["nbval-check-output"]
s, x_0, x_4, y = schedule, x[here], x[450], x[inside]  # x_0 = 0.7, x_4 = 1
square = (x_4 - s.alpha[4].sqrt() * y) ** 2 / s.beta[4] + (y - s.sqrt_alpha_bar[3] * x_0) ** 2 / s.sigma[3] ** 2
bayes = -2 * log_back(4, x_0)[inside, 450]  # from (3.11)
verify("4.1", square - square[0], bayes - bayes[0], tol=1e-9)

# %% [markdown]
# Write $y$ for $x_{t-1}$; "const" is whatever has no $y$ in it.
#
# | line | because |
# |:--|:--|
# | $\dfrac{(x_t - \sqrt{\alpha_t}\, y)^2}{\beta_t} + \dfrac{(y - \sqrt{\bar\alpha_{t-1}}\, {\color{#0072B2}{x_0}})^2}{\sigma_{t-1}^2}$ | (4.1) |
# | $= y^2 \Big(\dfrac{\alpha_t}{\beta_t} + \dfrac{1}{\sigma_{t-1}^2}\Big) - 2y \Big(\dfrac{\sqrt{\alpha_t}\, x_t}{\beta_t} + \dfrac{\sqrt{\bar\alpha_{t-1}}\, {\color{#0072B2}{x_0}}}{\sigma_{t-1}^2}\Big) + \text{const}$ | multiply out, collect powers of $y$ |
# | $= A y^2 - 2By + \text{const}$ | names for the two brackets |
# | $= A\, (y - B/A)^2 + \text{const}$ | complete the square; $B^2/A$ has no $y$ in it |
#
# Minus twice the logarithm of $\mathcal{N}(y;\, m, v)$ is $(y - m)^2 / v$ and a constant, so the posterior is a
# Gaussian with variance $1/A$ and mean $B/A$.
#
# | line | because |
# |:--|:--|
# | $A = \dfrac{\alpha_t}{\beta_t} + \dfrac{1}{\sigma_{t-1}^2} = \dfrac{\alpha_t \sigma_{t-1}^2 + \beta_t}{\beta_t\, \sigma_{t-1}^2}$ | common denominator |
# | $\alpha_t \sigma_{t-1}^2 + \beta_t = \alpha_t - \alpha_t \bar\alpha_{t-1} + 1 - \alpha_t$ | $\sigma_{t-1}^2 = 1 - \bar\alpha_{t-1}$ and $\beta_t = 1 - \alpha_t$ |
# | $= 1 - \bar\alpha_t = \sigma_t^2$ | $\alpha_t$ cancels, $\alpha_t \bar\alpha_{t-1} = \bar\alpha_t$. Remember this line, it returns in section 3 |
#
# $$\tilde\beta_t = \frac{1}{A} = \Big(\frac{\alpha_t}{\beta_t} + \frac{1}{\sigma_{t-1}^2}\Big)^{-1} = \beta_t\, \frac{\sigma_{t-1}^2}{\sigma_t^2} \tag{4.2}$$
#
# And the mean is $B$ times $\tilde\beta_t$:
#
# | line | because |
# |:--|:--|
# | $\dfrac{B}{A} = \Big(\dfrac{\sqrt{\alpha_t}\, x_t}{\beta_t} + \dfrac{\sqrt{\bar\alpha_{t-1}}\, {\color{#0072B2}{x_0}}}{\sigma_{t-1}^2}\Big) \cdot \beta_t\, \dfrac{\sigma_{t-1}^2}{\sigma_t^2}$ | $B$ from above, $1/A$ from (4.2) |
# | $= \dfrac{\sqrt{\alpha_t}\, \sigma_{t-1}^2}{\sigma_t^2}\, x_t + \dfrac{\sqrt{\bar\alpha_{t-1}}\, \beta_t}{\sigma_t^2}\, {\color{#0072B2}{x_0}}$ | in the first term $\beta_t$ cancels, in the second $\sigma_{t-1}^2$ |
#
# $$\tilde\mu_t(x_t, x_0) = \frac{B}{A} = \frac{\sqrt{\bar\alpha_{t-1}}\, \beta_t}{\sigma_t^2}\, {\color{#0072B2}{x_0}}
# + \frac{\sqrt{\alpha_t}\, \sigma_{t-1}^2}{\sigma_t^2}\, x_t \tag{4.3}$$
#
# (Ho et al. 2020, equation 7.) It is a mixture of where we are and where we should end. At $t = 1$ there is no noise
# below, $\sigma_0 = 0$: the variance is 0 and the mean is $x_0$.
#
# ### Exercise 4.1 - `posterior`
#
# `x0` and `x_t` have shape (B, ...), `t` has shape (B,). Return the mean, of the images' shape, and the variance, of
# shape (B, 1, ..., 1). `per_image(values, x0)` gives a (B,) tensor that shape. Index the tables with `t` and `t - 1`.

# %% tags=["exercise", "nbval-check-output"]
def posterior(schedule, x0, x_t, t):
    mean = ...  # (4.3): one weight for x0, one for x_t
    variance = ...  # (4.2)
    return mean, variance


posterior = check(posterior)

# %% [markdown]
# <details><summary>Hint</summary>
#
# The weight of `x0` is `schedule.sqrt_alpha_bar[t - 1] * schedule.beta[t] / schedule.sigma[t] ** 2`, shape (B,): wrap
# it in `per_image`. The variance is a table already: `schedule.posterior_variance`.
#
# </details>
#
# Both sides of (4.2); then mean and variance of the density on the grid, from Bayes' rule.

# %% tags=["nbval-check-output"]
by_hand = 1 / (s.alpha[2:] / s.beta[2:] + 1 / s.sigma[1:-1] ** 2)
verify("4.2", s.posterior_variance[2:], by_hand, tol=1e-9)
mean, variance = posterior(schedule, x_0[None], x_4[None], torch.tensor([4]))  # (1,), (1,)
back = log_back(4, x_0)[:, 450].exp()  # (801,) q(x_3 | x_4 = 1, x_0 = 0.7)
grid_mean = (back * x).sum() * dx
verify("4.3", mean[0], grid_mean, tol=1e-9)
verify("4.2", variance[0], (back * (x - grid_mean) ** 2).sum() * dx, tol=1e-9)

# %%
figure, axis = viz.subplots(size=(8, 2.8))
axis.plot(x, log_closed_form(s, x_0, x, 3).exp(), color=BLUE, label="$q(x_3 | x_0)$: what $x_0$ says of $x_3$")
axis.plot(x, log_forward(s, x, x_4, 4).exp(), color=ORANGE, label="$q(x_4 | x_3)$: what $x_4$ says of $x_3$")
axis.plot(x, back, color="black", label="posterior $q(x_3 | x_4, x_0)$")
axis.fill_between(x, log_normal(x, mean, variance).exp(), color="black", alpha=0.15, label="(4.2) and (4.3)")
axis.set(xlim=(-1.5, 3.5), xlabel="$x_3$, given $x_0 = 0.7$ and $x_4 = 1$")
axis.legend(frameon=False, fontsize=9)
viz.show(figure, "Two bell curves and their normalised product, a narrower bell curve between them")

# %% [markdown]
# *The posterior is the product of the two curves, scaled to area 1: between them, and narrower than both. The grey
# area, from the two formulas, fills the black line, from Bayes' rule on the grid.*
#
# ### Is it allowed to look at $x_0$?
#
# In training, yes: we made $x_t$ from $x_0$, and [(3.13)](03_likelihood_bound.ipynb) is an exact identity. When
# sampling there is no $x_0$, so the model gets $x_t$ alone. What it would need is the step without $x_0$. Take the
# joint density of $x_{t-1}$ and $x_0$ given $x_t$, split it, and integrate $x_0$ away: the average of the posteriors
# over all clean images that may hide behind $x_t$.
#
# $$q(x_{t-1} \mid x_t) = \int q(x_{t-1} \mid x_t, {\color{#0072B2}{x_0}})\; q({\color{#0072B2}{x_0}} \mid x_t)\, \mathrm{d}x_0 \tag{4.4}$$
#
# Left side by Bayes' rule from the marginals [(3.2)](03_likelihood_bound.ipynb), right side from `posterior`, at
# $t = 3$ and $x_3 = -0.28$:

# %% tags=["nbval-check-output"]
t, x_3 = 3, x[386]
log_m2, log_m3 = (mixture.noised(schedule, k).log_density(x) for k in (2, 3))
left = (log_forward(schedule, x, x_3, t) + log_m2 - log_m3[386]).exp()  # (801,) q(x_2 | x_3)
hidden = (mixture.log_density(x) + log_closed_form(schedule, x, x_3, t) - log_m3[386]).exp()  # (801,) q(x_0 | x_3)
mean, variance = posterior(schedule, x, x_3.expand(801), torch.full((801,), t))  # (801,), (801,), one per x_0
bells = log_normal(x[:, None], mean[None, :], variance[None, :]).exp()  # row x_2, column x_0
verify("4.4", left, bells @ hidden * dx, tol=1e-9)

# %%
figure, axis = viz.subplots(size=(8, 2.8))
axis.plot(x, left, color="black", label="$q(x_2 | x_3)$: what is true without $x_0$")
for column in (335, 345, 425, 440):
    label = "four posteriors, at a third of their height" if column == 335 else None
    axis.plot(x, bells[:, column] / 3, color=BLUE, linewidth=1, label=label)
axis.plot(x, ideal.log_step(x, x_3, t).exp(), "--", color=GREEN, label="the ideal model's step")
axis.set(xlim=(-2.2, 2.2), ylim=(0, 1.1), xlabel=f"$x_2$, given $x_3 = {x_3:.2f}$")
axis.legend(frameon=False, fontsize=9, loc="upper right")
viz.show(figure, "The true backward step has two humps, an average of many bell curves; the model has one bell curve")

# %% [markdown]
# *Black, the true backward step: an average of bell curves (blue), one for each $x_0$ that is possible, and no bell
# curve itself: from here some images come down on the left peak, some on the right. The model must answer with a
# single bell (dashed). Because that average is no bell, and here wider than $\beta_3$ allows, even the ideal model
# keeps a gap [(3.9)](03_likelihood_bound.ipynb).*
#
# ## 2. The distance between two Gaussians
#
# Every $L_{t-1}$ in [(3.13)](03_likelihood_bound.ipynb) with $t \ge 2$ is an average of KLs of two Gaussians. With
# $q = \mathcal{N}(m_1, v_1)$ and $p = \mathcal{N}(m_2, v_2)$:
#
# | line | because |
# |:--|:--|
# | $\mathrm{KL}(q \Vert p) = \mathbb{E}_q\big[\log q(x) - \log p(x)\big]$ | definition |
# | $= \mathbb{E}_q\Big[\dfrac12 \log \dfrac{v_2}{v_1} - \dfrac{(x - m_1)^2}{2 v_1} + \dfrac{(x - m_2)^2}{2 v_2}\Big]$ | the two log densities; $2\pi$ cancels |
# | $= \dfrac12 \log \dfrac{v_2}{v_1} - \dfrac12 + \dfrac{\mathbb{E}_q (x - m_2)^2}{2 v_2}$ | $\mathbb{E}_q (x - m_1)^2 = v_1$ |
# | $= \dfrac12 \log \dfrac{v_2}{v_1} - \dfrac12 + \dfrac{v_1 + (m_1 - m_2)^2}{2 v_2}$ | $x - m_2 = (x - m_1) + (m_1 - m_2)$; the mixed term averages to 0 |
#
# $$\mathrm{KL}\big(\mathcal{N}(m_1, v_1)\,\Vert\,\mathcal{N}(m_2, v_2)\big)
# = \frac12 \Big(\frac{v_1}{v_2} - 1 - \log \frac{v_1}{v_2} + \frac{(m_1 - m_2)^2}{v_2}\Big) \tag{4.5}$$
#
# ### Exercise 4.2 - `gaussian_kl`
#
# Four tensors that broadcast, variances and not standard deviations; return one KL per element.

# %% tags=["exercise", "nbval-check-output"]
def gaussian_kl(mean_1, variance_1, mean_2, variance_2):
    ...  # one or two lines


gaussian_kl = check(gaussian_kl)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `ratio = variance_1 / variance_2` appears twice, once as `ratio.log()`. The squared distance is divided by the
# *second* variance.
#
# </details>

# %% tags=["nbval-check-output"]
m_1, v_1, m_2, v_2 = torch.tensor([0.3, 0.2, -0.5, 0.6], dtype=torch.float64)
log_1, log_2 = log_normal(x, m_1, v_1), log_normal(x, m_2, v_2)
verify("4.5", gaussian_kl(m_1, v_1, m_2, v_2), (log_1.exp() * (log_1 - log_2)).sum() * dx, tol=1e-9)
print(f"KL(q || p) = {gaussian_kl(m_1, v_1, m_2, v_2):.3f}, KL(p || q) = {gaussian_kl(m_2, v_2, m_1, v_1):.3f}")

# %% [markdown]
# *The order matters: a KL is no distance in the strict sense.* Now put $m_1 = \tilde\mu_t$, $v_1 = \tilde\beta_t$,
# $m_2 = \mu_\theta$, $v_2 = s_t^2$ into (4.5). Both variances are fixed, so only the means are left to learn:
#
# $$\begin{aligned}
# L_{t-1} &= C_t + \frac{1}{2 s_t^2}\; \mathbb{E}_{q(x_t \mid x_0)} \big(\tilde\mu_t(x_t, x_0) - {\color{#009E73}{\mu_\theta(x_t, t)}}\big)^2, \\
# C_t &= \frac12 \Big(\frac{\tilde\beta_t}{s_t^2} - 1 - \log \frac{\tilde\beta_t}{s_t^2}\Big)
# \end{aligned} \tag{4.6}$$
#
# With $s_t^2 = \tilde\beta_t$ the constant is 0; with $s_t^2 = \beta_t$ it is the same for every network. **Here the
# squared error is born**: it is the part of a Gaussian's KL that a network can change.

# %%
def mean_distance(model, x0, t):
    """E (posterior mean - model mean)^2 over q(x_t | x_0), on the grid."""
    mean, _ = posterior(schedule, x0.expand(801), x, torch.full((801,), t))
    return (log_closed_form(schedule, x0, x, t).exp() * (mean - model.mean(x, t)) ** 2).sum() * dx


# %% tags=["nbval-check-output"]
r = schedule.posterior_variance[2:] / schedule.beta[2:]
constant = 0.5 * (r - 1 - r.log())  # (T-1,): C_2 ... C_T
for name, model in models.items():
    distances = torch.stack([mean_distance(model, x[here], t) for t in range(2, T + 1)])
    verify("4.6", constant + distances / (2 * schedule.beta[2:]), all_terms[name][1:-1], tol=1e-9)

# %% [markdown]
# What is the best mean? The model sees $x_t$; the target $\tilde\mu_t$ depends on $x_0$ as well, so one $x_t$ comes
# with many targets. Call their average $\bar\mu(x_t) = \mathbb{E}[\tilde\mu_t \mid x_t]$. Write the error as
# $(\tilde\mu_t - \bar\mu) + (\bar\mu - \mu_\theta)$ and square; the mixed term vanishes, because for each $x_t$ the
# first bracket averages to 0 and the second is fixed. Over data and noise:
#
# $$\mathbb{E} \big(\tilde\mu_t - {\color{#009E73}{\mu_\theta}}\big)^2
# = \underbrace{\mathbb{E} \big(\tilde\mu_t - \bar\mu\big)^2}_{\text{floor, no model in it}}
# + \mathbb{E} \big(\bar\mu - {\color{#009E73}{\mu_\theta}}\big)^2 \tag{4.7}$$
#
# So the best answer is the average of the targets, and the loss of even the best network ends at a floor above 0.
# Scaled by $1/(2 s_t^2)$, and with the constant of (4.6), it is what the ideal model keeps of $L_{t-1}$ (the bars of
# notebook 03), averaged over the data. A loss that stays above 0 does not mean a bad network.

# %% tags=["nbval-check-output"]
t = 4
together = density[:, None] * log_closed_form(schedule, x[:, None], x[None, :], t).exp() * dx**2  # row x_0, column x_4
target = torch.stack([posterior(schedule, x0.expand(801), x, torch.full((801,), t))[0] for x0 in x])  # (801, 801)
best = (together * target).sum(0) / together.sum(0)  # (801,)
floor = (together * (target - best) ** 2).sum()
for name, model in models.items():
    error = (together * (target - model.mean(x, t)) ** 2).sum()
    verify("4.7", error, floor + (together.sum(0) * (best - model.mean(x, t)) ** 2).sum(), tol=1e-9)
    print(f"{name:15} error {error:.4f}, of which the floor is {floor:.4f}")

# %% [markdown]
# *The ideal model sits on the floor.*
#
# ## 3. The mean, in terms of the noise
#
# A network that answers with $\mu_\theta$ would spend its effort on repeating $x_t$, which it is given. What it does
# not know is $x_0$, or, what is the same, the noise. From [notebook 02](02_forward_process.ipynb),
#
# $$x_t = \sqrt{\bar\alpha_t}\, {\color{#0072B2}{x_0}} + \sigma_t\, {\color{#D55E00}{\epsilon}}
# \qquad \Longleftrightarrow \qquad
# {\color{#0072B2}{x_0}} = \frac{x_t - \sigma_t\, {\color{#D55E00}{\epsilon}}}{\sqrt{\bar\alpha_t}} \tag{4.8}$$
#
# Whoever knows $x_t$ and one of the two knows the other.
#
# ### Exercise 4.3 - `predict_x0`
#
# Images (B, ...), `t` of shape (B,), `eps` of the images' shape: return the clean images.

# %% tags=["exercise", "nbval-check-output"]
def predict_x0(schedule, x_t, t, eps):
    return ...  # per_image(schedule.sigma[t], x_t) is the noise's weight, one number an image


predict_x0 = check(predict_x0)

# %% [markdown]
# <details><summary>Hint</summary>
#
# First take the noise away, then undo the shrinking.
#
# </details>
#
# From here on we test on real images as well. (With drawn digits the numbers of sections 5 and 6 are other ones.)

# %%
data = load_images("mnist")
print(data.source)

# %% tags=["nbval-check-output"]
long = double(linear_schedule(1000))
images = to_float(data.images[:64]).double()  # (64, 1, 28, 28)
t_images = torch.randint(2, 1001, (64,), generator=generator)
noise = torch.randn(images.shape, generator=generator, dtype=torch.float64)
noisy = q_sample(long, images, t_images, noise)
verify("4.8", predict_x0(long, noisy, t_images, noise), images, tol=1e-9)
verify("4.8", predict_eps(long, noisy, t_images, images), noise, tol=1e-9)

# %% [markdown]
# Put (4.8) into the posterior mean.
#
# | line | because |
# |:--|:--|
# | $\tilde\mu_t = \dfrac{\sqrt{\bar\alpha_{t-1}}\, \beta_t}{\sigma_t^2}\, {\color{#0072B2}{x_0}} + \dfrac{\sqrt{\alpha_t}\, \sigma_{t-1}^2}{\sigma_t^2}\, x_t$ | (4.3) |
# | $= \dfrac{\sqrt{\bar\alpha_{t-1}}\, \beta_t}{\sigma_t^2} \cdot \dfrac{x_t - \sigma_t {\color{#D55E00}{\epsilon}}}{\sqrt{\bar\alpha_t}} + \dfrac{\sqrt{\alpha_t}\, \sigma_{t-1}^2}{\sigma_t^2}\, x_t$ | (4.8) |
# | $= \dfrac{\beta_t}{\sqrt{\alpha_t}\, \sigma_t^2}\, (x_t - \sigma_t {\color{#D55E00}{\epsilon}}) + \dfrac{\sqrt{\alpha_t}\, \sigma_{t-1}^2}{\sigma_t^2}\, x_t$ | $\sqrt{\bar\alpha_t} = \sqrt{\alpha_t}\, \sqrt{\bar\alpha_{t-1}}$ |
# | $= \dfrac{1}{\sqrt{\alpha_t}} \Big(\dfrac{\beta_t + \alpha_t \sigma_{t-1}^2}{\sigma_t^2}\, x_t - \dfrac{\beta_t}{\sigma_t}\, {\color{#D55E00}{\epsilon}}\Big)$ | take $1/\sqrt{\alpha_t}$ out, collect $x_t$ |
# | $= \dfrac{1}{\sqrt{\alpha_t}} \Big(x_t - \dfrac{\beta_t}{\sigma_t}\, {\color{#D55E00}{\epsilon}}\Big)$ | $\beta_t + \alpha_t \sigma_{t-1}^2 = \sigma_t^2$, the line to remember from section 1 |
#
# $$\tilde\mu_t = \frac{1}{\sqrt{\alpha_t}} \Big(x_t - \frac{\beta_t}{\sigma_t}\, {\color{#D55E00}{\epsilon}}\Big) \tag{4.9}$$
#
# For the mean of one step back, take a little of the noise away, and undo the step's shrinking. (Ho et al. 2020,
# equations 10 and 11; [notebook 08](08_sampling.ipynb) walks these steps.)

# %%
def mean_from_eps(schedule, x_t, t, eps):
    """(4.9) for images (B, ...) and steps (B,)."""
    share = per_image(schedule.beta[t] / schedule.sigma[t], x_t)
    return (x_t - share * eps) / per_image(schedule.alpha[t].sqrt(), x_t)


# %% tags=["nbval-check-output"]
verify("4.9", mean_from_eps(long, noisy, t_images, noise), posterior(long, images, noisy, t_images)[0], tol=1e-9)

# %% [markdown]
# Now give the model's mean the same form, with its guess in the place of the noise. It costs nothing, because for a
# given $x_t$ any mean can be written so; `model.mean` has been doing it all along. Then $x_t$ cancels in the
# difference. (By (4.7) the best mean is an average of (4.9) over the noises that $x_t$ may contain, so the best guess
# is $\mathbb{E}[\epsilon \mid x_t]$: this is what `ideal_eps` computes.)
#
# $$\begin{aligned}
# {\color{#009E73}{\mu_\theta}} &= \frac{1}{\sqrt{\alpha_t}} \Big(x_t - \frac{\beta_t}{\sigma_t}\, {\color{#009E73}{\epsilon_\theta(x_t, t)}}\Big) \\
# \Longrightarrow \quad \big(\tilde\mu_t - {\color{#009E73}{\mu_\theta}}\big)^2 &= \frac{\beta_t^2}{\alpha_t\, \sigma_t^2}\, \big({\color{#D55E00}{\epsilon}} - {\color{#009E73}{\epsilon_\theta(x_t, t)}}\big)^2
# \end{aligned} \tag{4.10}$$

# %% tags=["nbval-check-output"]
t = 5
eps = (x - schedule.sqrt_alpha_bar[t] * 0.7) / schedule.sigma[t]  # (801,) the noise, if x_0 = 0.7
target, _ = posterior(schedule, torch.full_like(x, 0.7), x, torch.full((801,), t))
factor = schedule.beta[t] ** 2 / (schedule.alpha[t] * schedule.sigma[t] ** 2)
verify("4.10", (target - half.mean(x, t)) ** 2, factor * (eps - half.eps(x, t)) ** 2, tol=1e-9)

# %% [markdown]
# To draw $x_t$ from $q(x_t \mid x_0)$ is to draw $\epsilon$ and mix by (4.8) (a reparametrisation), so the average
# over $x_t$ in (4.6) is one over $\epsilon$. Put (4.10) in, and the bound is a weighted sum of squared noise errors:
#
# $$L_{t-1} = C_t + w_t\, \mathbb{E}_{\epsilon} \big({\color{#D55E00}{\epsilon}} - {\color{#009E73}{\epsilon_\theta(x_t, t)}}\big)^2,
# \qquad w_t = \frac{\beta_t^2}{2\, s_t^2\, \alpha_t\, \sigma_t^2} \tag{4.11}$$
#
# (Ho et al. 2020, equation 12.) And $L_0$? It is $-\log$ of a Gaussian around $\mu_\theta(x_1, 1)$ at $x_0$, that is
# $\frac12 \log(2\pi s_1^2) + (x_0 - \mu_\theta)^2 / (2 s_1^2)$, and at $t = 1$ the posterior mean *is* $x_0$. So
# (4.10) holds there too, and (4.11) covers $t = 1$ with $C_1 = \frac12 \log(2\pi s_1^2)$.
#
# ### Exercise 4.4 - `loss_weight`
#
# `schedule` and `variance`, the $s_t^2$, shape (T+1,). Return the weights $w_t$, shape (T+1,), with 0 at index 0,
# where nothing is predicted.

# %% tags=["exercise", "nbval-check-output"]
def loss_weight(schedule, variance):
    weight = torch.zeros_like(schedule.beta)
    weight[1:] = ...
    return weight


loss_weight = check(loss_weight)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Use slices `[1:]` of `beta`, `alpha`, `sigma` and `variance`. Five factors: one squared above, and `2`, `variance`,
# `alpha`, `sigma ** 2` below.
#
# </details>

# %%
def noise_error(model, x0, t):
    """E (eps - guess)^2 over the noise, on the grid."""
    eps = (x - schedule.sqrt_alpha_bar[t] * x0) / schedule.sigma[t]
    return (log_closed_form(schedule, x0, x, t).exp() * (eps - model.eps(x, t)) ** 2).sum() * dx


# %% tags=["nbval-check-output"]
w = loss_weight(schedule, schedule.beta)[1:]  # (T,)
C = torch.cat([0.5 * torch.log(2 * torch.pi * schedule.beta[1:2]), constant])  # (T,): C_1 ... C_T
for name, model in models.items():
    errors = torch.stack([noise_error(model, x[here], t) for t in steps])
    verify("4.11", C + w * errors, all_terms[name][:-1], tol=1e-9)

# %% [markdown]
# *All eight learnable terms of the bound, sums over the grid at the start, come out of squared noise errors to nine
# digits.*
#
# ### What the weight does
#
# With $s_t^2 = \tilde\beta_t$ the weight has a meaning. Let $\mathrm{SNR}_t = \bar\alpha_t / \sigma_t^2$, the
# **signal-to-noise ratio** of notebook 02.
#
# | line | because |
# |:--|:--|
# | $w_t = \dfrac{\beta_t^2}{2 \tilde\beta_t \alpha_t \sigma_t^2} = \dfrac{\beta_t}{2\, \alpha_t\, \sigma_{t-1}^2}$ | (4.2) for $\tilde\beta_t$ |
# | $\beta_t = \sigma_t^2 - \alpha_t \sigma_{t-1}^2$ | the line to remember, once more |
# | $w_t = \dfrac12 \Big(\dfrac{\sigma_t^2}{\alpha_t \sigma_{t-1}^2} - 1\Big) = \dfrac12 \Big(\dfrac{\bar\alpha_{t-1} / \sigma_{t-1}^2}{\bar\alpha_t / \sigma_t^2} - 1\Big)$ | $1/\alpha_t = \bar\alpha_{t-1}/\bar\alpha_t$ |
#
# $$w_t = \frac12 \Big(\frac{\mathrm{SNR}_{t-1}}{\mathrm{SNR}_t} - 1\Big) \qquad \text{if } s_t^2 = \tilde\beta_t,\; t \ge 2 \tag{4.12}$$
#
# A step weighs half of what it takes from this ratio, relative to what it leaves. (Kingma et al. 2021 write the whole
# bound in terms of it.)

# %% tags=["nbval-check-output"]
beta_tilde = torch.cat([long.beta[:2], long.posterior_variance[2:]])
w_large, w_small = loss_weight(long, long.beta), loss_weight(long, beta_tilde)
ratio = snr(long)
verify("4.12", w_small[2:], 0.5 * (ratio[1:-1] / ratio[2:] - 1), tol=1e-9)

# %% tags=["nbval-check-output"]
for t in (2, 10, 100, 300, 1000):
    print(f"t = {t:4}: weight {w_large[t]:.4f} with beta, {w_small[t]:.4f} with the posterior variance")
print(f"smallest at t = {w_large[1:].argmin() + 1}; {w_large[:101].sum() / w_large.sum():.0%} of the weight is on t <= 100")

# %% tags=["figure-04_weights"]
figure, axis = viz.subplots(size=(8, 3))
axis.loglog(range(1, 1001), w_large[1:], color="black", label=r"bound, $s_t^2 = \beta_t$")
axis.loglog(range(2, 1001), w_small[2:], "--", color="#777777", label=r"bound, $s_t^2 = \tilde\beta_t$")
axis.axhline(w_large[1:].mean(), color=PINK, label="$L_{simple}$: the same for all (here: the mean)")
axis.set(xlabel="step t", ylabel="weight $w_t$", xlim=(1, 1000))
axis.legend(frameon=False, fontsize=9)
viz.show(figure, "The bound's weight falls a hundredfold from t = 1 to t = 300; the weight of L simple is constant")

# %% [markdown]
# *The linear schedule with 1000 steps. The bound cares most about the first steps, where the image is almost clean.
# Where the curve lies above the coloured line, $L_{simple}$ turns a step down; where it lies below, it turns it up.*
#
# ### Drop the weight
#
# Ho et al. 2020 (equation 14) train with every weight set to 1 and call it **$L_{simple}$**:
#
# $$L_{simple} = \frac1T \sum_{t=1}^{T} \mathbb{E}_{\epsilon} \big({\color{#D55E00}{\epsilon}} - {\color{#009E73}{\epsilon_\theta(x_t, t)}}\big)^2
# = \frac1T \sum_{t=1}^{T} \frac{1}{w_t} \big(L_{t-1} - C_t\big) \tag{4.13}$$
#
# (for one $x_0$; then average over the data): the terms of the bound without their constants, each divided by $w_t$.

# %% tags=["nbval-check-output"]
for name, model in models.items():
    simple = torch.stack([noise_error(model, x[here], t) for t in steps]).mean()
    verify("4.13", simple, ((all_terms[name][:-1] - C) / w).mean(), tol=1e-9)
    print(f"{name:15} L_simple {simple:.3f}")

# %% [markdown]
# Is anything broken by that? The best answer at each $t$, the average $\mathbb{E}[\epsilon \mid x_t]$, is the best one
# under any positive weights. A network that can do everything ends at the same place. A real one cannot, and the
# weights decide where it spends its strength. Section 6 shows the price.
#
# ## 4. One random step instead of all
#
# A sum over 1000 steps would be 1000 calls of the network for each image. But a sum is $T$ times an average, and an
# average can be sampled. Draw $t$ uniformly from $1, \dots, T$; for any function $f$ of the step
#
# $$\sum_{t=1}^{T} f(t) = T \cdot \mathbb{E}_{t}\, [\, f(t)\, ] \tag{4.14}$$
#
# One draw of $t$ and $\epsilon$ gives an **unbiased** estimate of the sum: right on average. We estimate
# $\sum_t w_t\, \mathbb{E}(\epsilon - \epsilon_\theta)^2$ for the half-ideal model at $x_0 = 0.7$ and compare with the
# exact value from the bound.

# %%
def one_random_step(model, x0, number):
    """T w_t (eps - guess)^2 for random t and eps: (number,)."""
    t = torch.randint(1, T + 1, (number,), generator=generator)
    eps = torch.randn(number, generator=generator, dtype=torch.float64)
    x_t = q_sample(schedule, torch.full_like(eps, x0), t, eps)
    guesses = torch.stack([model.eps(x_t, s) for s in steps])  # (T, number): at every step, then pick
    return T * w[t - 1] * (eps - guesses[t - 1, torch.arange(number)]) ** 2


# %%
wanted = (all_terms["half the ideal"][:-1] - C).sum()
print(f"exact sum {wanted:.4f}")
for number in (100, 10_000, 400_000):
    draws = one_random_step(half, 0.7, number)
    print(f"{number:7,} draws: {draws.mean():.4f} with a standard error of {draws.std() / number**0.5:.4f}")

# %% tags=["nbval-check-output"]
verify("4.14", samples=draws, expected=wanted)

# %% [markdown]
# *A hundred times more draws make the standard error ten times smaller. Training never needs the sum itself, only a
# direction that is right on average.*
#
# Draw an image, a step and noise; mix; ask the network for the noise; square the error. That is Algorithm 1 of Ho et
# al. 2020, and you know where each piece comes from:
#
# | we wanted | we took instead | why that is allowed | what it cost |
# |:--|:--|:--|:--|
# | $\log p_\theta(x_0)$ | its lower bound [(3.8)](03_likelihood_bound.ipynb) | Jensen | the gap [(3.9)](03_likelihood_bound.ipynb) |
# | an average over paths | one term for each step, and one for the end [(3.13)](03_likelihood_bound.ipynb) | Markov, Bayes, telescoping | nothing |
# | KLs | squared distances of means (4.6) | all are Gaussians of fixed variance | nothing here; the Gaussian shape was chosen in [(3.3)](03_likelihood_bound.ipynb) |
# | distances of means | distances of noises (4.11) | $x_t$ is known to both | nothing |
# | the bound's weights | none (4.13) | the best answer for each $t$ is the same | section 6 |
# | the sum over $t$ | one random $t$ (4.14) | right on average | noise in the gradient |
#
# ## 5. The same on images
#
# In both Gaussians the pixels are independent, so their log densities add, and the KL is the sum of the pixels' KLs:
# the squared error becomes a squared length. The likelihood is out of reach now, but the bound is not, and one
# denoiser lets us compute it almost exactly without training: pretend that the images are *one* 784-dimensional
# Gaussian, with the mean $m$ and the **covariance** of 10,000 of them (784 x 784 entries: for each two pixels, the
# average product of their deviations from $m$).
#
# Turn the axes so that they point along the covariance's own directions (its eigenvectors). Coordinates along them
# have covariance 0 with each other, which makes them independent in a Gaussian, so we can take one at a time: in two
# dimensions, a tilted ellipse of dots becomes an upright one. A turn changes no squared length, and standard normal
# noise looks the same from every side. Along direction $i$ let $\lambda_i$ be the variance of the images and $d_i$ the
# coordinate of $x_0 - m$. What is the best guess of the noise, if all we see is a sum of two independent Gaussians,
# signal of variance $\bar\alpha_t \lambda_i$ and noise of variance $\sigma_t^2$? The noise's share of the variance,
# $h_i = \sigma_t^2 / (\bar\alpha_t \lambda_i + \sigma_t^2)$, tells how much of the sum to call noise: for any share
# $h$ the error has the variance $(1 - h)^2 \sigma_t^2 + h^2 \bar\alpha_t \lambda_i$, and at $h_i$ its derivative is 0.
#
# | line, for one direction | because |
# |:--|:--|
# | $x_t - \sqrt{\bar\alpha_t}\, m = \sqrt{\bar\alpha_t}\, {\color{#0072B2}{d}} + \sigma_t {\color{#D55E00}{\epsilon}}$ | (4.8), the mean taken off |
# | ${\color{#009E73}{\epsilon_\theta}} = \dfrac{h}{\sigma_t} \big(\sqrt{\bar\alpha_t}\, {\color{#0072B2}{d}} + \sigma_t {\color{#D55E00}{\epsilon}}\big)$ | the share $h$ of that, divided by $\sigma_t$, because we guess $\epsilon$ and not $\sigma_t \epsilon$ |
# | ${\color{#D55E00}{\epsilon}} - {\color{#009E73}{\epsilon_\theta}} = (1 - h)\, {\color{#D55E00}{\epsilon}} - \dfrac{h \sqrt{\bar\alpha_t}}{\sigma_t}\, {\color{#0072B2}{d}}$ | collect |
# | $\mathbb{E}_\epsilon ({\color{#D55E00}{\epsilon}} - {\color{#009E73}{\epsilon_\theta}})^2 = (1 - h)^2 + \dfrac{\bar\alpha_t}{\sigma_t^2}\, h^2\, {\color{#0072B2}{d}}^2$ | $\mathbb{E}\epsilon = 0$, $\mathbb{E}\epsilon^2 = 1$ |
#
# $$\mathbb{E}_\epsilon \lVert {\color{#D55E00}{\epsilon}} - {\color{#009E73}{\epsilon_\theta}} \rVert^2
# = \sum_{i=1}^{784} \Big[ (1 - h_i)^2 + \mathrm{SNR}_t\, h_i^2\, {\color{#0072B2}{d_i^2}} \Big] \tag{4.15}$$

# %%
pixels = to_float(data.images[:10_000]).flatten(1).double()  # (10000, 784)
centre = pixels.mean(0)
small = 1e-4 * torch.eye(784, dtype=torch.float64)  # some pixels are always black: keep the variance above 0
lam, directions = torch.linalg.eigh(pixels.T.cov() + small)  # (784,), (784, 784)


def gaussian_eps(x_t, t):
    """The guess of the noise for flat images (B, 784) and steps (B,)."""
    along = (x_t - per_image(long.sqrt_alpha_bar[t], x_t) * centre) @ directions
    variance = long.alpha_bar[t][:, None] * lam + long.sigma[t][:, None] ** 2  # (B, 784)
    return per_image(long.sigma[t], x_t) * (along / variance) @ directions.T


# %% [markdown]
# For 500 random test images we compute (4.15) at all $t$, and compare one of the half a million numbers, at $t = 100$,
# with 2,000 draws of noise.

# %%
tests = load_images("mnist", train=False).images
choice = torch.randperm(len(tests), generator=generator)[:500]
unseen = to_float(tests[choice]).flatten(1).double()  # (500, 784)
d_squared = ((unseen - centre) @ directions) ** 2  # (500, 784)
h = long.sigma[1:, None] ** 2 / (long.alpha_bar[1:, None] * lam + long.sigma[1:, None] ** 2)  # (1000, 784), row t - 1
exact_errors = ((1 - h) ** 2).sum(1) + ratio[1:] * (h**2 @ d_squared.T).T  # (500, 1000)

# %% tags=["nbval-check-output"]
eps = torch.randn(2000, 784, generator=generator, dtype=torch.float64)
t_100 = torch.full((2000,), 100)
guess = gaussian_eps(q_sample(long, unseen[:1].expand(2000, -1), t_100, eps), t_100)
verify("4.15", samples=(eps - guess).square().sum(1), expected=exact_errors[0, 99])

# %% [markdown]
# $L_T$ and all $L_{t-1}$ follow. $L_0$ needs care. A pixel is one of 256 greys: what is the *probability* of this
# grey? Give each grey the interval around it, $2/255$ wide, and let the outermost ones reach to infinity (Ho et al.
# 2020, equation 13); $\Phi(z)$ is the probability that a standard normal draw is below $z$:
#
# $$\begin{aligned}
# {\color{#009E73}{P_\theta(x_0 \mid x_1)}} &= \Phi\Big(\frac{b_+ - {\color{#009E73}{\mu_\theta}}}{s_1}\Big) - \Phi\Big(\frac{b_- - {\color{#009E73}{\mu_\theta}}}{s_1}\Big), \\
# b_\pm &= x_0 \pm \tfrac{1}{255}, \quad \text{open at } \pm 1
# \end{aligned} \tag{4.16}$$
#
# The probabilities of the 256 greys must add up to 1, whatever the mean.

# %%
from ddpm_helpers.metrics import discretised_log_likelihood as log_grey  # log P of (4.16)

# %% [markdown]
# *(`log_grey(x0, mean, std)` works in the tail where no digit is lost: eight standard deviations out, $\Phi$ itself is
# 0 or 1 in 64 bits.)*

# %% tags=["nbval-check-output"]
greys = to_float(torch.arange(256, dtype=torch.uint8)).double()
for mean in (-1.02, -0.3, 0.99):
    verify("4.16", log_grey(greys, torch.tensor(mean), long.beta[1].sqrt()).exp().sum(), 1.0)

# %% [markdown]
# Divide by the number of pixels and by $\log 2$: the unit is now **bits per dimension**, the length of a code for one
# pixel (the best code spends $-\log_2 P$ bits on what has probability $P$). Uncompressed it is 8.

# %%
zero, unit = torch.zeros(()), torch.ones(())
L_T = gaussian_kl(long.sqrt_alpha_bar[-1] * unseen, long.sigma[-1] ** 2, zero, unit).sum(1)  # (500,)
r = long.posterior_variance[2:] / long.beta[2:]
C_long = 784 * 0.5 * (r - 1 - r.log())  # (999,): C_2 ... C_T, summed over pixels
L_middle = C_long + w_large[2:] * exact_errors[:, 1:]  # (500, 999): L_1 ... L_999

# %%
one = torch.ones(500, dtype=torch.long)
x_1 = q_sample(long, unseen, one, torch.randn(unseen.shape, generator=generator, dtype=torch.float64))
mean = mean_from_eps(long, x_1, one, gaussian_eps(x_1, one))
L_0 = -log_grey(unseen, mean, long.beta[1].sqrt()).sum(1)  # (500,)

# %%
parts = {"L_T": L_T, "L_1 ... L_(T-1)": L_middle.sum(1), "L_0": L_0}
parts["together"] = sum(parts.values())
for name, values in parts.items():
    in_bits = values / (784 * math.log(2))
    print(f"{name:16} {in_bits.mean():.5f} bits per dimension, standard error {in_bits.std() / 500**0.5:.5f}")

# %% [markdown]
# Together they are minus the ELBO: on average this model needs at most that many bits per pixel. $L_T$ is next to
# nothing, as [notebook 02](02_forward_process.ipynb) promised for a schedule that ends in noise. (The standard errors
# are those of 500 images, with one draw of noise each for $L_0$.)
#
# Last, the random step of (4.14) on images: one random image, one random $t$ from 2 to $T$, one noise, 20,000 times,
# against the exact sum. ($C_t$ is summed over the pixels here.)
#
# $$\begin{aligned}
# &\frac{1}{500} \sum_{x_0} \sum_{t=2}^{T} L_{t-1}(x_0) \\
# &\quad = (T - 1) \cdot \mathbb{E}_{x_0,\, t,\, \epsilon} \Big[ C_t + w_t \lVert {\color{#D55E00}{\epsilon}} - {\color{#009E73}{\epsilon_\theta(x_t, t)}} \rVert^2 \Big]
# \end{aligned} \tag{4.17}$$

# %%
def random_errors(number):
    """Random steps t = 2 ... T and the squared noise error of a random test image there: (number,), (number,)."""
    t = torch.randint(2, 1001, (number,), generator=generator)
    x0 = unseen[torch.randint(500, (number,), generator=generator)]
    eps = torch.randn(x0.shape, generator=generator, dtype=torch.float64)
    return t, (eps - gaussian_eps(q_sample(long, x0, t, eps), t)).square().sum(1)


t, errors = (torch.cat(part) for part in zip(*[random_errors(2000) for _ in range(10)], strict=True))

# %% tags=["nbval-check-output"]
draws = 999 * (C_long[t - 2] + w_large[t] * errors)  # (20000,)
verify("4.17", samples=draws, expected=L_middle.sum(1).mean())

# %% [markdown]
# Unbiased, yes. But how noisy is one draw?

# %%
for name, values in {"bound": w_large[t] * errors, "L_simple": errors}.items():
    print(f"{name:8} one draw spreads by {values.std() / values.mean():.1f} times its mean")

# %% [markdown]
# *Without the weights the draws are more alike: a second reason to drop them. (Nichol & Dhariwal 2021, section 3.3,
# see the gradient of the bound scatter, too, and draw small $t$ more often instead.)*
#
# ## 6. What is lost
#
# How much of the noise errors in the bound, and in $L_{simple}$, comes from the steps up to $t$? We ask the Gaussian
# denoiser.

# %%
errors = exact_errors.mean(0)  # (1000,) squared noise error at t = 1 ... 1000
share_bound, share_simple = ((v * errors).cumsum(0) / (v * errors).sum() for v in (w_large[1:], torch.ones(1000)))
figure, axis = viz.subplots(size=(8, 2.8))
axis.plot(range(1, 1001), share_bound, color="black", label="bound")
axis.plot(range(1, 1001), share_simple, color=PINK, label="$L_{simple}$")
axis.set(xlabel="step t", ylabel="share from steps up to t", ylim=(0, 1.02), xlim=(0, 1000))
axis.legend(frameon=False, loc="lower right")
viz.show(figure, "Cumulative shares of the loss over t; the bound's curve rises far earlier than L simple's")
for last in (1, 20):
    print(f"steps up to t = {last:2}: {share_bound[last - 1]:4.0%} of the bound, {share_simple[last - 1]:4.0%} of L_simple")

# %% [markdown]
# *The bound spends most of its attention on steps where the noise is faint. (Here $t = 1$ counts as in (4.11), not as
# in (4.16).) $L_{simple}$ moves it to later steps.* For a network of limited strength that is a trade: Ho et al. 2020
# (table 1) measure on CIFAR-10 at most 3.70 bits per dimension with the bound and 3.75 with $L_{simple}$, slightly
# worse, and an FID of 13.51 against 3.17, far better samples. (FID is a distance between samples and data, by Heusel
# et al. 2017; [notebook 09](09_evaluation.ipynb) builds its like.) **The price of better samples there is a slightly
# worse likelihood.**
#
# You can see the price in our one-pixel world, with a very limited network: it has one number,
# $\epsilon_\theta(x_t) = \theta x_t$, and does not get $t$. For any weights $u_t$ its loss is a parabola in $\theta$:
#
# | line | because |
# |:--|:--|
# | $\sum_t u_t\, \mathbb{E} ({\color{#D55E00}{\epsilon}} - \theta x_t)^2$ | the loss, weighted by $u_t$ |
# | $= \sum_t u_t \big(1 - 2 \theta\, \mathbb{E}[{\color{#D55E00}{\epsilon}}\, x_t] + \theta^2\, \mathbb{E}[x_t^2]\big)$ | multiply out; $\mathbb{E}\epsilon^2 = 1$ |
# | $0 = \sum_t u_t \big({-2}\, \mathbb{E}[{\color{#D55E00}{\epsilon}}\, x_t] + 2 \theta\, \mathbb{E}[x_t^2]\big)$ | derivative with respect to $\theta$ |
#
# With $x_t$ from (4.8), and $\epsilon$ independent of $x_0$, the two averages are $\sigma_t$ and
# $\bar\alpha_t\, \mathbb{E}[x_0^2] + \sigma_t^2$:
#
# $$\theta^* = \frac{\sum_t u_t\, \mathbb{E}[{\color{#D55E00}{\epsilon}}\, x_t]}{\sum_t u_t\, \mathbb{E}[x_t^2]}
# = \frac{\sum_t u_t\, {\color{#D55E00}{\sigma_t}}}{\sum_t u_t\, \big({\color{#0072B2}{\bar\alpha_t\, \mathbb{E}[x_0^2]}} + {\color{#D55E00}{\sigma_t^2}}\big)} \tag{4.18}$$
#
# At $\theta^*$ PyTorch's derivative must vanish. (`requires_grad_` records what is computed from $\theta$, and
# `autograd.grad` goes through that record backwards.)

# %% tags=["nbval-check-output"]
square = over_data(x**2)  # E[x_0^2]
power = schedule.alpha_bar[1:] * square + schedule.sigma[1:] ** 2  # (T,) E[x_t^2]
for name, v in {"weights of the bound": w, "L_simple": torch.ones_like(w)}.items():
    theta = ((v * schedule.sigma[1:]).sum() / (v * power).sum()).requires_grad_()
    loss = (v * (1 - 2 * theta * schedule.sigma[1:] + theta**2 * power)).sum()
    verify("4.18", torch.autograd.grad(loss, theta)[0] / loss.detach(), 0.0, tol=1e-9)
    answer = theta.item()
    model = ReverseModel(schedule, schedule.beta, lambda x_t, t, answer=answer: answer * x_t)
    simple = (1 - 2 * answer * schedule.sigma[1:] + answer**2 * power).mean()
    print(f"{name:20} theta {answer:.3f}, L_simple {simple:.3f}, ELBO {over_data(elbo(model, x)):.3f} nats")
print(f"{'the ideal model':20} ELBO {over_data(bounds['ideal']):.3f} nats")

# %% [markdown]
# *Each weighting wins by its own measure, and both stay far below the ideal model.*
#
# ## 7. One prediction, four coordinates
#
# Given $x_t$, the noise and the clean image are two names for one piece of knowledge (4.8). The **velocity** (Salimans
# & Ho 2022) turns the pair $(x_0, \epsilon)$ by an angle, so that both follow from $x_t$ and $v$ without a division,
# because $\bar\alpha_t + \sigma_t^2 = 1$. (As the angle grows, $x_t$ moves along an arc from $x_0$ to $\epsilon$, with
# velocity $v$; that of [notebook 01](01_corrupt_and_predict.ipynb), $\epsilon - x_0$, belongs to a straight line.)
#
# $$v = \sqrt{\bar\alpha_t}\, {\color{#D55E00}{\epsilon}} - \sigma_t\, {\color{#0072B2}{x_0}}, \qquad
# {\color{#0072B2}{x_0}} = \sqrt{\bar\alpha_t}\, x_t - \sigma_t v, \qquad
# {\color{#D55E00}{\epsilon}} = \sigma_t\, x_t + \sqrt{\bar\alpha_t}\, v \tag{4.19}$$

# %% tags=["nbval-check-output"]
signal, sigma = per_image(long.sqrt_alpha_bar[t_images], images), per_image(long.sigma[t_images], images)
velocity = signal * noise - sigma * images  # (64, 1, 28, 28)
verify("4.19", signal * noisy - sigma * velocity, images, tol=1e-9)
verify("4.19", sigma * noisy + signal * velocity, noise, tol=1e-9)

# %% [markdown]
# The **score** is the slope of a log density in $x$: which way is more likely? (In statistics the word means the slope
# in the parameters.) For the closed form it is
# $\nabla_{x_t} \log q(x_t \mid x_0) = -(x_t - \sqrt{\bar\alpha_t}\, x_0)/\sigma_t^2 = -\epsilon / \sigma_t$. Averaged
# over all $x_0$ that may hide behind $x_t$ it becomes a statement about the marginal density, which nobody can write
# down for images:
#
# | line | because |
# |:--|:--|
# | $\nabla \log q(x_t) = \dfrac{\nabla q(x_t)}{q(x_t)}$ | derivative of a logarithm |
# | $= \dfrac{1}{q(x_t)} \displaystyle\int \nabla q(x_t \mid x_0)\, q(x_0)\, \mathrm{d}x_0$ | [(3.2)](03_likelihood_bound.ipynb), derivative under the integral |
# | $= \displaystyle\int \nabla \log q(x_t \mid x_0)\; \frac{q(x_t \mid x_0)\, q(x_0)}{q(x_t)}\, \mathrm{d}x_0$ | $\nabla q = q\, \nabla \log q$ |
# | $= \mathbb{E}\big[{-\epsilon} / \sigma_t \mid x_t\big]$ | the fraction is $q(x_0 \mid x_t)$ |
#
# $$\nabla_{x_t} \log q(x_t) = -\, \frac{\mathbb{E}[\,{\color{#D55E00}{\epsilon}} \mid x_t\,]}{\sigma_t} \tag{4.20}$$
#
# So a network that predicts the noise well has learned the slope of the log density at every noise level. (Solved for
# $x_0$ by (4.8), this is Tweedie's formula. That denoising learns a score was found by Vincent 2011; Song & Ermon 2019
# made a generative model of it.)

# %% tags=["nbval-check-output"]
for t in (1, 4, 8):
    x_t = x.clone().requires_grad_()
    total = mixture.noised(schedule, t).log_density(x_t).sum()  # each x_t enters one summand, so no slopes mix
    slope = torch.autograd.grad(total, x_t)[0]
    verify("4.20", slope, -ideal_eps(x, t) / schedule.sigma[t], tol=1e-9)

# %% [markdown]
# The names are equivalent, their plain squared errors are not. For a fixed $x_t$ an error $\Delta$ in one is an error
# in all: $\Delta\epsilon = -\frac{\sqrt{\bar\alpha_t}}{\sigma_t} \Delta x_0$ by (4.8),
# $\Delta v = -\frac{1}{\sigma_t} \Delta x_0$ by (4.19), $\Delta \text{score} = -\frac{1}{\sigma_t} \Delta\epsilon$ by
# (4.20). Squared:
#
# $$(\Delta \epsilon)^2 = \mathrm{SNR}_t\, (\Delta x_0)^2 = \bar\alpha_t\, (\Delta v)^2 = \sigma_t^2\, (\Delta\, \text{score})^2 \tag{4.21}$$
#
# On real images:

# %% tags=["nbval-check-output"]
guess = noise + 0.1 * torch.randn(noise.shape, generator=generator, dtype=torch.float64)
x0_guess = predict_x0(long, noisy, t_images, guess)
v_guess = signal * guess - sigma * x0_guess
error = (guess - noise) ** 2  # (64, 1, 28, 28)
verify("4.21", error, per_image(ratio[t_images], images) * (x0_guess - images) ** 2)
verify("4.21", error, signal**2 * (v_guess - velocity) ** 2)
verify("4.21", error, sigma**2 * (guess / sigma - noise / sigma) ** 2)

# %%
figure, axis = viz.subplots(size=(8, 3.2))
a, s = long.alpha_bar[1:], long.sigma[1:]
curves = {"noise": (torch.ones(1000), ORANGE), "clean image": (1 / ratio[1:], BLUE), "velocity": (1 / a, PINK)}
curves |= {"score": (1 / s**2, GREEN), "bound": (w_large[1:], "black")}
for name, (weight, colour) in curves.items():
    axis.loglog(ratio[1:], weight, color=colour, label=name, linestyle="--" if name == "bound" else "-")
axis.invert_xaxis()
axis.set(xlabel="signal-to-noise ratio (left: clean, right: noise)", ylabel="weight on the\nsquared noise error")
axis.legend(frameon=False, fontsize=9, ncols=2, loc="upper center")
viz.show(figure, "Weight implied by a plain squared error in four coordinates, against the signal-to-noise ratio")

# %% [markdown]
# *What a plain squared error in each coordinate asks of the noise prediction. Errors in the clean image weigh most
# where there is almost only noise, errors in the score where there is almost none. Choosing a target is choosing a
# weight.* (Others choose the weight directly: Hang et al. 2023, with min-SNR, multiply the squared noise error by
# $\min(1,\, 5 / \mathrm{SNR}_t)$, which turns the least noisy steps down.)
#
# ## What to remember, and what broke
#
# - The term of a step is an average of KLs of two Gaussians; $L_0$ is minus a log density, and ends in the same
#   form. With fixed variances each is a constant and a squared distance of means, and in terms of the noise a squared
#   error with a weight.
# - Drop the weight and draw one random step: that is the loss of a DDPM. It costs a little likelihood.
# - The best answer is an average, so the best possible loss is not 0 but a floor (4.7).
# - Noise, clean image, velocity and score are one prediction. A squared error in one of them is a weighted one in
#   the others.
#
# **What broke:** nothing in the derivation. But a model that answers $\theta x_t$ at every step scores far below the
# ideal one, and neither weighting repairs it. A line cannot bend, and there is more: the ideal guess for one and the
# same $x_t$ changes from step to step.

# %% tags=["nbval-check-output"]
for t in steps:
    print(f"t = {t}: the noise in x_t = 0.5 is, on average, {ideal_eps(torch.tensor(0.5).double(), t):+.3f}")

# %% [markdown]
# *The same input, eight answers, not even of one sign.* One network must serve every $t$. **How does it know which $t$
# it is looking at?** [Notebook 05](05_time_conditioning.ipynb) takes that up.
#
# ### Experiments to try
#
# - Give the limited network of section 6 one number for each step, $\theta_t x_t$. Do the weights $u_t$ still
#   matter?
# - Let the Gaussian denoiser of section 5 see 1,000 images instead of 10,000. How many bits does that cost on images
#   that it has not seen?
