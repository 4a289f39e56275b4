# %% [markdown]
# # Solvers: the same path in continuous time
#
# ![Errors of four solvers against the number of steps on logarithmic axes: two lines of slope one, two of slope two](../figures/15_orders.png)
#
# *How far four solvers end from the exact solution, on a world where it is known. Twice as many steps halve the error of
# two of them and quarter that of the others. Which one would you choose for ten calls of a large network?*
#
# **You will** take the number of steps to infinity, find the random walk and the smooth path in one family, measure the
# order of each solver, compute a likelihood without a bound, and see why some models cannot draw the night. **You need**
# [notebook 08](08_sampling.ipynb), and the continuity equation (14.4) from [notebook 14](14_flow_matching.ipynb).
# **Time** 70 minutes of reading; the cells ran in 2 minutes on one slow CPU core.

# %% tags=["setup"]
REPO = ""  # owner/name on GitHub; `make badges REPO=owner/name` fills it in
try:
    import ddpm_helpers
except ImportError:
    assert REPO, "The helper module is missing: start this notebook with `make lab`, or see Colab in the README."
    get_ipython().run_line_magic("pip", f"install -q git+https://github.com/{REPO}")

import math
from itertools import pairwise

import torch

from ddpm_helpers import budget, check, cosine_schedule, ddim_trajectory, default_device
from ddpm_helpers import linear_schedule, load_images, load_pretrained, sample, to_float, verify, viz
from ddpm_helpers.lessons import sde
from ddpm_helpers.lessons.toy import Mixture, double
from ddpm_helpers.metrics import bits_per_dim, evaluate, load_feature_net
from ddpm_helpers.schedule import tables

device = default_device()
generator = torch.Generator().manual_seed(0)
pixels = Mixture(*torch.tensor([[0.4, 0.3, 0.3], [-1.2, 0.2, 1.1], [0.15, 0.3, 0.1]]).double())

# %% [markdown]
# ## A thousand steps, and then infinitely many
#
# One step of the forward process shrinks by $\sqrt{1 - \beta}$ and adds noise of variance $\beta$. Let $t$ run from 0 to
# 1, cut it into $N$ steps of length $h = 1/N$, and give each the variance $\beta(t)\, h$. For small $h$ the root is $1 -
# \frac{1}{2} \beta(t)\, h$, so in a short time $dt$, with $dw$ for fresh noise of variance $dt$,
#
# $$dx = -\tfrac{1}{2}\, \beta(t)\, x\, dt + \sqrt{\beta(t)}\; {\color{#D55E00}{dw}} \tag{15.1}$$
#
# a **stochastic differential equation** (Song, Sohl-Dickstein et al. 2021, who call this one *variance preserving*).
# What is left of the image after the time $t$ is the limit of the product of all the roots, an exponential:
#
# $$\prod_{i} \sqrt{1 - \beta(t_i)\, h} \;\to\; {\color{#0072B2}{m(t)}} = \exp\Big(-\tfrac{1}{2} \int_0^t \beta(s)\, ds\Big), \qquad \sigma(t)^2 = 1 - m(t)^2 \tag{15.2}$$
#
# We take their $\beta(t)$, a line from 0.1 to 20; it is the linear schedule of the DDPM. (15.1) is checked by its
# effect: in a short time the mean of $x$ moves by $-\frac{1}{2} \beta x\, h$ and its variance by $\beta (1 - v)\, h$.

# %% tags=["nbval-check-output"]
n, t = 100_000, 0.4
times = (torch.arange(n).double() + 0.5) / n
product = (1 - sde.beta(times) / n).sqrt().log().cumsum(0).exp()
verify("15.2", product[[9_999, 49_999, 99_999]], sde.signal([0.1, 0.5, 1.0]), tol=1e-3)

# %% tags=["nbval-check-output"]
h, x, z = 1e-4, 2.0, torch.randn(1_000_000, generator=generator).double()
moves = -sde.beta(t) / 2 * x * h + (sde.beta(t) * h).sqrt() * z
m = sde.signal(t + h) / sde.signal(t)  # exact: what is left of x after the time h
squares = (moves - moves.mean()) ** 2
verify("15.1", samples=torch.stack([moves, squares], 1), expected=[(m - 1) * x, 1 - m**2])

# %% [markdown]
# ## The walk and the path
#
# How does the density $q_t(x)$ change? The drift carries it along, as in (14.4). The noise spreads it, as heat spreads:
# a jump of variance $\beta\, dt$ changes the density by half of that times its second derivative. Together this is the
# **Fokker-Planck** equation:
#
# $$\frac{\partial q_t}{\partial t} = \frac{\partial}{\partial x} \Big( \tfrac{1}{2} \beta\, x\, q_t \Big) + \frac{\beta}{2}\, \frac{\partial^2 q_t}{\partial x^2} \tag{15.3}$$
#
# Now a trick with one line: $\partial q / \partial x = q\; \partial \log q / \partial x$. So the spreading term is a flow, too,
# with the velocity $-\frac{\beta}{2} \nabla \log q_t$, and (15.3) becomes a continuity equation
#
# $$\frac{\partial q_t}{\partial t} = -\frac{\partial}{\partial x} \big( v\, q_t \big), \qquad v(x, t) = -\tfrac{1}{2}\, \beta(t) \big( x + \nabla \log q_t(x) \big) \tag{15.4}$$
#
# Grains that move with $v$, without any noise, have the same density at each $t$ as the random walk. This is the
# **probability-flow ODE**, and the DDIM path is one of its solutions. The score in it is the noise, known from
# [(4.20)](04_bound_to_noise.ipynb): $\nabla \log q_t = -\mathbb{E}[\epsilon \mid x] / \sigma(t)$.

# %%
x = torch.linspace(-3, 3, 301).double().requires_grad_()
t = torch.full((301,), 0.3, dtype=torch.float64).requires_grad_()

def d(y, by):
    return torch.autograd.grad(y.sum(), by, create_graph=True)[0]

# %% tags=["nbval-check-output"]
q, beta = sde.log_density(pixels, x, t).exp(), sde.beta(0.3)
verify("15.3", d(q, t), d(beta / 2 * x * q, x) + beta / 2 * d(d(q, x), x), tol=1e-9)
verify("15.4", d(q, t), -d(sde.slope(pixels, x, t) * q, x), tol=1e-9)

# %% [markdown]
# Run it backwards from noise, and one may add fresh noise again, if the drift makes up for it: noise spreads the
# density, and a larger step along the score gathers it. With $\lambda$ times the forward noise, in backward time $r = 1 -
# t$ (Anderson 1982 for $\lambda = 1$):
#
# $$dx = \Big[ \tfrac{1}{2} \beta\, x + \frac{1 + \lambda^2}{2}\, \beta\, \nabla \log q_t(x) \Big] dr + \lambda \sqrt{\beta}\; {\color{#D55E00}{dw}} \tag{15.5}$$
#
# $\lambda = 0$ is the path, $\lambda = 1$ the reverse of the walk, and everything between is allowed: this is what
# $\eta$ was in [(8.7)](08_sampling.ipynb).
#
# ### Exercise 15.1 - `reverse_drift`
#
# Return the bracket of (15.5). `x` and `score` are tensors of one shape, `beta` and `share`, which is $\lambda$, numbers.

# %% tags=["exercise", "nbval-check-output"]
def reverse_drift(x, score, beta, share):
    ...  # one line


reverse_drift = check(reverse_drift)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Two terms. In backward time the forward drift turns its sign. The fresh noise counts by its variance.
#
# </details>

# %% tags=["nbval-check-output"]
for share in (0.0, 0.7, 1.0):
    flow = reverse_drift(x, sde.score(pixels, x, t), beta, share) * q
    verify("15.5", -d(q, t), -d(flow, x) + share**2 * beta / 2 * d(d(q, x), x), tol=1e-9)

# %% [markdown]
# ## Two discretizations of one walk
#
# A computer takes steps. **Euler-Maruyama** freezes the bracket of (15.5) for a step. With $b = \beta(t)\, h$ its mean
# is $x + \frac{b}{2} x + b\, \nabla \log q$. The DDPM's step, **ancestral sampling**, [(8.3)](08_sampling.ipynb), has the mean
# $(x + b\, \nabla \log q) / \sqrt{1 - b}$. They add the same noise, and expanding the root, $1 + \frac{b}{2} + \frac{3}{8} b^2 + \dots$,
#
# $$\mu_{\text{DDPM}} - \mu_{\text{EM}} = b^2 \Big( \tfrac{3}{8}\, x + \tfrac{1}{2}\, \nabla \log q \Big) + O(b^3) \tag{15.6}$$
#
# So both follow the same equation, and differ by the square of a step. A third ingredient needs no time at all. Noise
# spreads, the score gathers, and at half the strength of noise they are in balance: a density that does both at fixed $t$ stays
# what it is. This is **Langevin** dynamics, and a sampler may put such steps between others as a *corrector*:
#
# $$0 = -\frac{\partial}{\partial x} \Big( \tfrac{1}{2}\, q_t\, \nabla \log q_t \Big) + \tfrac{1}{2}\, \frac{\partial^2 q_t}{\partial x^2} \tag{15.7}$$

# %% tags=["nbval-check-output"]
b, score = 1e-4, sde.score(pixels, x, t)
ancestral, euler_maruyama = (x + b * score) / math.sqrt(1 - b), x + b / 2 * x + b * score
verify("15.6", (ancestral - euler_maruyama) / b**2, 3 / 8 * x + score / 2, tol=1e-3)
verify("15.7", d(q * score / 2, x), d(d(q, x), x) / 2, tol=1e-9)

# %%
start = torch.randn(20_000, generator=generator).double()
quantiles = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95]).double()
grid = torch.linspace(-3, 3, 60_001).double()
exact = grid[(pixels.log_density(grid).exp().cumsum(0) * 1e-4)[:, None].sub(quantiles).abs().argmin(0)]
rows = {"exact": exact}

# %%
for n in (50, 500):
    times = torch.linspace(1, 1e-3, n + 1).double()
    rows[f"Euler-Maruyama, {n}"] = sde.random_walk(pixels, start, times, generator).quantile(quantiles)
    rows[f"ancestral, {n}"] = sde.random_walk(pixels, start, times, generator, ancestral=True).quantile(quantiles)
    rows[f"ODE by Euler, {n}"] = sde.euler(pixels, start, times).quantile(quantiles)

# %%
for name, row in rows.items():
    print(f"{name:20}", "  ".join(f"{value:6.2f}" for value in row))

# %% [markdown]
# *Quantiles of 20,000 samples, each good to about 0.01 in the dense places and 0.03 in the sparse ones. All three come to the
# data as steps get many. With 50 steps compare the last column: where the steps are long, they differ.*
#
# ## The order of a solver
#
# From here on the path alone. [Notebook 08](08_sampling.ipynb) saw that DDIM is Euler's method in $\rho = \sigma / m$. There
# is a way to see what is left to gain. Write $\ell = \log(m / \sigma)$, half the log of the signal-to-noise ratio. The part of the
# equation that is linear in $x$ can be solved exactly, and what remains is an integral over the clean guess $\hat x_0$,
# from $t$ to $s$:
#
# $$x_s = \frac{\sigma_s}{\sigma_t}\, x_t + \sigma_s \int_{\ell_t}^{\ell_s} e^{\ell}\; {\color{#009E73}{\hat x_0}}\; d\ell \tag{15.8}$$
#
# The cell follows the path with tiny steps and computes both sides.

# %%
def log_snr(t):
    return sde.signal(t).log() - sde.sigma(t).log()

# %%
t, s = torch.tensor(0.6).double(), torch.tensor(0.3).double()
start, fine = torch.linspace(-2, 2, 101).double(), torch.linspace(log_snr(t), log_snr(s), 4001).double()
path, guesses = start, []
for now, after in zip(fine, [*fine[1:], None], strict=True):
    guesses.append(sde.clean_guess(pixels, path, sde.time_of(now)))
    path = path if after is None else sde.heun(pixels, path, sde.time_of(torch.stack([now, after])))

# %% tags=["nbval-check-output"]
integral = torch.trapezoid(fine.exp()[:, None] * torch.stack(guesses), fine, dim=0)
verify("15.8", path, sde.sigma(s) / sde.sigma(t) * start + sde.sigma(s) * integral, tol=1e-5)

# %% [markdown]
# Take $\hat x_0$ as constant over a step, and the integral gives DDIM, [(8.8)](08_sampling.ipynb). Take it as a straight line in $\ell$ through
# this guess and the one before, at $r$, and its value in the middle of the step stands for all of it. With $h = \ell_s - \ell_t$ and
# $h' = \ell_t - \ell_r$ this is **DPM-Solver++(2M)** (Lu et al. 2022b): second order, and still one call a step, for the guess before costs
# nothing.
#
# $$x_s = \frac{\sigma_s}{\sigma_t}\, x_t - m_s \big(e^{-h} - 1\big) \Big( {\color{#009E73}{\hat x_0}} + \frac{h}{2 h'} \big( {\color{#009E73}{\hat x_0}} - {\color{#009E73}{\hat x_0^{\text{before}}}} \big) \Big) \tag{15.9}$$
#
# ### Exercise 15.2 - `dpm_solver_step`
#
# From step `t` to step `s` of `schedule`, integers, with the clean guess at `t` and the one before, at `r`. `signal[t]` is $m_t$.

# %% tags=["exercise", "nbval-check-output"]
def dpm_solver_step(schedule, x_t, t, s, guess, r, before):
    signal, sigma = schedule.sqrt_alpha_bar, schedule.sigma
    log_snr = (signal.double().log() - sigma.double().log()).float()
    h, last = ..., ...
    ahead = ...  # the guess, carried on to the middle of the step
    return ...


dpm_solver_step = check(dpm_solver_step)

# %% [markdown]
# <details><summary>Hint</summary>
#
# $h$ is positive: the signal-to-noise ratio grows on the way to the image. `torch.expm1(-h)` is $e^{-h} - 1$.
#
# </details>
#
# For a guess that *is* a line in $\ell$, say $p + q\, \ell$, the integral of (15.8) has a closed form, since $e^{\ell} (p + q\, (\ell - 1))$
# has the right derivative. A short step must come to the same. And then the orders: the four solvers, between two fixed noise levels, in float64, against a
# very fine solution. A method has order $p$ if its error goes like
#
# $$\text{error}(n) \propto n^{-p} \tag{15.10}$$

# %% tags=["nbval-check-output"]
cosine, r, t, s = double(cosine_schedule()), 504, 502, 500
ell = (cosine.sqrt_alpha_bar / cosine.sigma).log()[:, None]  # (T+1, 1)
p, q, x_t = torch.randn(3, 100, generator=generator).double()
guess, sums = p + q * ell, ell.exp() * (p + q * (ell - 1))  # (T+1, 100)
exact = cosine.sigma[s] / cosine.sigma[t] * x_t + cosine.sigma[s] * (sums[s] - sums[t])
verify("15.9", dpm_solver_step(cosine, x_t, t, s, guess[t], r, guess[r]), exact, tol=1e-6)

# %%
start, ends = torch.linspace(-2, 2, 101).double(), torch.tensor([0.7, 0.05]).double()
def spaced(n):
    return sde.time_of(torch.linspace(*log_snr(ends), n + 1).double())

exact, counts = sde.heun(pixels, start, spaced(8192)), [16, 32, 64, 128, 256, 512]

# %% tags=["nbval-check-output"]
solvers = {"Euler in t": sde.euler, "DDIM": sde.ddim, "Heun": sde.heun, "DPM-Solver++": sde.dpm_solver}
errors = {}
for name, solver in solvers.items():
    errors[name] = torch.stack([(solver(pixels, start, spaced(n)) - exact).abs().mean() for n in counts])
    print(f"{name:13} order {torch.log2(errors[name][-2] / errors[name][-1]):.2f}")
orders = torch.stack([torch.log2(e[-2] / e[-1]) for e in errors.values()])
verify("15.10", orders, torch.tensor([1.0, 1.0, 2.0, 2.0]), tol=0.05)

# %% tags=["figure-15_orders"]
curves = {name: (counts, error) for name, error in errors.items()}
alt = "Errors of four solvers against steps on logarithmic axes: slopes one, one, two, two"
viz.plot_curves(curves, xlabel="steps", ylabel="mean error", log="xy", alt=alt)

# %% [markdown]
# *Both solvers of second order leave the others far behind, and DPM-Solver++ does it with one call a step where Heun takes
# two. DDIM is above Euler in $t$ here: the order says how fast an error falls, not where it starts. With few steps, at the
# left, it says little: there what counts is how far the first long steps go wrong.*
#
# ## With a network
#
# Does it carry over to digits? The shipped network, with 5, 10 and 20 calls. Steps may be spread evenly in $t$, or evenly in $\ell$
# (`spacing="log-snr"`), which puts many of them where little noise is left. The number is the share of samples that the feature
# network recognises, with its standard error. It is no measure of quality alone (a model that always draws the same one would get 100 %):
# [notebook 09](09_evaluation.ipynb).

# %%
network, schedule, _ = load_pretrained("mnist", device)
n, feature_net = budget(gpu=400, cpu=100, quick=4, unit="samples"), load_feature_net(device)
names, rows = {"ddim": "DDIM", "heun": "Heun", "dpm_solver": "DPM++"}, {}

# %%
for method, spacing in [("ddim", "even"), *((name, "log-snr") for name in names)]:
    for calls in (5, 10, 20):
        count = (calls + 1) // 2 if method == "heun" else calls  # n steps of Heun ask 2 n - 1 times
        x = sample(network, schedule, n, steps=count, method=method, spacing=spacing).clamp(-1, 1)
        share = evaluate(feature_net, x).recognisable
        error = math.sqrt(share * (1 - share) / n)
        name = f"{names[method]} {spacing} {calls}"
        print(f"{name:16} calls: {share:4.0%} +- {error:.0%}")
        rows[name] = x[:12].cpu()

# %%
viz.image_rows(rows, alt="Twelve samples a row from the same noise: four samplers with 5, 10 and 20 calls")

# %% [markdown]
# *All rows start from the same noise, so columns can be compared. In a full run, Heun with five calls ends in noise: its
# three steps are so long that the mean of two slopes overshoots. And the feature network is sure of nine tenths of it,
# which is what [notebook 09](09_evaluation.ipynb) warned of. Now compare 10 with 20 calls in the rows of DPM-Solver++: most columns have settled, and
# Heun with 20 comes to nearly the same digits. That is where the path leads. DDIM with even steps ends elsewhere, and its digits
# are recognised more often. A solver follows the path that the network points out, and the network errs; to follow
# it more closely is not the same as to draw better.*
#
# ## A likelihood without a bound
#
# Grains on a smooth path carry their density along. [(14.5)](14_flow_matching.ipynb), integrated along the path from an image to noise, whose
# density is known, gives the log density of the *image*, where [notebook 04](04_bound_to_noise.ipynb) only had a bound:
#
# $$\log q_0\big(x(0)\big) = \log \mathcal{N}\big(x(1)\big) + \int_0^1 \nabla \cdot v\big(x(t), t\big)\, dt \tag{15.11}$$

# %%
def slope_and_divergence(x, t):
    x = x.detach().requires_grad_()
    v = sde.slope(pixels, x, t)
    return v.detach(), torch.autograd.grad(v.sum(), x)[0]

# %%
x = start = torch.linspace(-1.6, 1.5, 301).double()
total, times = torch.zeros(301).double(), 1e-6 + torch.linspace(0, 0.999, 2001).double() ** 2
for t, s in pairwise(times):
    (v, div), h = slope_and_divergence(x, t), s - t
    v_end, div_end = slope_and_divergence(x + h * v, s)
    x, total = x + h / 2 * (v + v_end), total + h / 2 * (div + div_end)

# %% tags=["nbval-check-output"]
noise = sde.log_density(pixels, x, times[-1])  # nearly N(0, 1)
verify("15.11", noise + total, pixels.log_density(start), tol=1e-4)

# %% [markdown]
# In 784 dimensions the divergence is a sum of 784 derivatives. **Hutchinson's** trick (1989) estimates it by one: draw signs $z$, each 1
# or -1 by a coin. Then $\mathbb{E}[z_i z_j]$ is 1 for $i = j$ and 0 else, so with the derivative $J$ of $v$
#
# $$\mathbb{E}_z\big[ z^\top J\, z \big] = \sum_i J_{ii} = \nabla \cdot v, \qquad \operatorname{Var}_z\big[ z^\top J\, z \big] = \sum_{i \ne j} J_{ij}\, (J_{ij} + J_{ji}) \tag{15.12}$$
#
# ### Exercise 15.3 - `hutchinson`
#
# `velocity` is a function of images `x` (B, ...); `signs` has the shape of `x`. Return $z^\top J z$ of each image, shape (B,).

# %% tags=["exercise", "nbval-check-output"]
def hutchinson(velocity, x, signs):
    x = x.detach().requires_grad_()
    pulled = ...  # (B, ...): the gradient of (velocity(x) * signs).sum()
    return ...


hutchinson = check(hutchinson)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `torch.autograd.grad(scalar, x)` returns a list with one entry, $z^\top J$. Multiply by the signs, and sum over all axes but the first.
#
# </details>

# %% tags=["nbval-check-output"]
J = torch.randn(6, 6, generator=generator).double()
signs = torch.randint(0, 2, (200_000, 6), generator=generator).double() * 2 - 1
draws = hutchinson(lambda x: x @ J.T, torch.zeros(200_000, 6).double(), signs)
off = (J * (J + J.T)).sum() - 2 * J.diag().square().sum()
verify("15.12", samples=torch.stack([draws, (draws - draws.mean()) ** 2], 1), expected=[J.trace(), off])

# %% [markdown]
# Now the digits. In $y = x / m$ and $\rho$ the slope is $\hat\epsilon$ alone, so it is followed there, by Heun's method, up the
# schedule. A grey level is a bin of width $2/255$: the image is moved by a random amount inside its bins (*uniform dequantization*),
# and the density times the volume of a bin is the likelihood of the bytes, up to a gap that this, too, leaves as a bound.

# %%
def ode_bits(net, schedule, images, count, generator):
    x = images + (torch.rand(images.shape, generator=generator) - 0.5) * 2 / 255
    signs, D = torch.randn(x.shape, generator=generator).sign(), images[0].numel()
    signal, rho = schedule.sqrt_alpha_bar, schedule.sigma / schedule.sqrt_alpha_bar
    wanted = torch.linspace(rho[1].log(), math.log(80), count)  # evenly spaced, as far as there are steps
    steps = (wanted[:, None] - rho[1:].log()).abs().argmin(1).unique() + 1
    y, total = x / signal[1], torch.zeros(len(x))

    def slope(y, t):  # of y and of the log density, by the logarithm of rho
        def eps(y):
            return net(signal[t] * y, t.expand(len(y)))

        return rho[t] * eps(y).detach(), rho[t] * hutchinson(eps, y, signs)

    for t, s in pairwise(steps):
        (e, div), h = slope(y, t), rho[s].log() - rho[t].log()
        e_end, div_end = slope(y + h * e, s)
        y, total = y + h / 2 * (e + e_end), total + h / 2 * (div + div_end)
    log_q = total - 0.5 * (signal[s] * y).flatten(1).square().sum(1) - D / 2 * math.log(2 * math.pi)
    return -(log_q + D * (signal[s] / signal[1]).log() + D * math.log(2 / 255)) / (D * math.log(2))

# %%
n = budget(gpu=16, cpu=16, quick=2, unit="images")
count = 40 if n == 16 else 6
test = to_float(load_images("mnist", train=False).images[:n])
on_cpu, exact_schedule, _ = load_pretrained("mnist")

# %%
bits = ode_bits(on_cpu, exact_schedule, test, count, generator)
bound = bits_per_dim(on_cpu, exact_schedule, test, steps=60)
print(f"by the ODE:   {bits.mean():.2f} bits per pixel, standard error over {n} images {bits.std() / n**0.5:.2f}")
print(f"by the bound: {bound.total:.2f} bits per pixel")

# %% [markdown]
# *The two are not of the same model: the bound belongs to the random walk with 1000 steps, the ODE to the smooth path, and the
# network fits neither perfectly. The standard error counts the spread of images and of Hutchinson's signs.*
#
# ## Why some models cannot draw the night
#
# The schedule's end is nearly noise, not quite. If $\bar\alpha_T > 0$, training always shows a little of the image at $t = T$, and sampling
# starts from none. For most of an image that is nothing. But noise averages out over many pixels, and the **mean brightness** of $x_T$ is
# known very well. Suppose brightness is Gaussian with the standard deviation $s$ over the data. In the direction of brightness, of $D$
# pixels, $x_T$ has the variance $1 - \bar\alpha_T + \bar\alpha_T D s^2$, and the sampler starts with 1. The path is linear there, so the samples
# come out with
#
# $$\frac{\text{spread of brightness of samples}}{\text{spread of brightness of data}} = \frac{1}{\sqrt{1 - \bar\alpha_T + \bar\alpha_T\, D\, s^2}} \tag{15.13}$$
#
# Lin et al. 2024 found this in large models, whose schedule ends at $\bar\alpha_T = 0.0047$: their pictures are never very dark and never
# very light. The cure is in the schedule: shift the roots $\sqrt{\bar\alpha_t}$ so that the last is 0, and stretch them so that the first
# stays:
#
# $$\sqrt{\bar\alpha_t'} = \big( \sqrt{\bar\alpha_t} - \sqrt{\bar\alpha_T} \big)\; \frac{\sqrt{\bar\alpha_1}}{\sqrt{\bar\alpha_1} - \sqrt{\bar\alpha_T}} \tag{15.14}$$
#
# ### Exercise 15.4 - `rescaled_beta`
#
# `beta` (T+1,) begins with `beta[0] = 0`; `tables(beta)["sqrt_alpha_bar"]` are its roots. Return the betas of (15.14), shape (T+1,).

# %% tags=["exercise", "nbval-check-output"]
def rescaled_beta(beta):
    root = tables(beta)["sqrt_alpha_bar"]
    new = ...  # (T,): (15.14) for t = 1 ... T
    return ...


rescaled_beta = check(rescaled_beta)

# %% [markdown]
# <details><summary>Hint</summary>
#
# $\beta_t' = 1 - \bar\alpha_t' / \bar\alpha_{t-1}'$, and $\bar\alpha_0' = 1$: put a 1 in front of `new` first.
#
# </details>

# %% tags=["nbval-check-output"]
ends_early = linear_schedule(1000, 0.00085, 0.012)  # alpha_bar_T = 0.0024
D, s = 3 * 64 * 64, 0.25  # numbers in a picture, spread of brightness
along = Mixture(*torch.tensor([[1.0], [0.0], [s * D**0.5]]).double())  # along the direction of brightness
eps = along.ideal_eps(double(ends_early))
x_T = torch.randn(20_000, generator=generator).double()
*_, last = ddim_trajectory(lambda x, t: eps(x, int(t[0])), double(ends_early), x_T, 500, clip=False)
kept = sde.brightness_kept(ends_early, s, D)
verify("15.13", samples=(last.x / D**0.5) ** 2, expected=(s * kept) ** 2)

# %% tags=["nbval-check-output"]
root = tables(rescaled_beta(ends_early.beta.double()))["sqrt_alpha_bar"]
old = ends_early.sqrt_alpha_bar.double()
verify("15.14", root[1:-1], ((old - old[-1]) * old[1] / (old[1] - old[-1]))[1:-1], tol=1e-4)

# %%
names = {"linear, DDPM": linear_schedule(), "0.00085 ... 0.012": ends_early, "cosine": cosine}
for name, table in names.items():
    print(f"{name:18} keeps {sde.brightness_kept(table, s, D):.0%} of the spread of brightness")

# %% [markdown]
# *Colour pictures of 64x64, brightness with a spread of 0.25. The schedule in the middle loses a good part of it, before any network errs.
# With $\bar\alpha_T' = 0$ there is a catch: at $t = T$ the network sees pure noise, and predicting the noise there is no task at all: it is the
# input. So networks for such schedules predict the velocity. Another cure (**offset noise**) adds to the noise a little that is the same
# for all pixels, in training and at the start, so that brightness is drowned as well.*
#
# ## What to remember, and what broke
#
# - The forward process has a limit, an SDE. Its density obeys Fokker-Planck, and so does a smooth path: the score turns noise into flow.
# - DDPM and Euler-Maruyama are discretizations of one walk, DDIM is one of the path. $\lambda$, or $\eta$, is how much of the walk is in it.
# - The order of a solver can be measured. DPM-Solver++ has the second at one call a step.
# - A path carries its density along, which gives likelihoods; Hutchinson's signs make them affordable.
# - Look at $\bar\alpha_T$ times the number of pixels, not at $\bar\alpha_T$.
#
# **What broke:** solver, spacing and schedule were chosen here for a network that was there already. What it should have been asked in
# training, and how often, was a choice, too. [Notebook 16](16_targets_and_weights.ipynb) measures it.
#
# ### Experiments to try
#
# - Put the Langevin corrector, $x + \frac{\delta}{2} \nabla \log q + \sqrt{\delta}\, z$, between the steps of the walk with 50 steps. Does the last
#   column of the table improve? For which $\delta$?
# - Let the orders be measured down to $t = 0$ in place of 0.05. Which solver loses its order, and why?
# - `spacing="karras"` in the cell with the network: is it better than "log-snr" for five calls?
