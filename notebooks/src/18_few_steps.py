# %% [markdown]
# # Few steps: from fifty calls to four, two, one
#
# ![Three panels: the exact paths of a world of one pixel from noise to data, and the DDIM paths of one, two and four calls, which cut their corners](../figures/18_chords.png)
#
# *Where noise should go on a world of one pixel (grey), and where DDIM takes it with one, two and four calls (orange).
# With one call everything ends at the same place. Which place is that?*
#
# **You will** see why few steps fail, write down the function that a perfect single step computes, derive two ways of teaching
# it to a network, and measure what a network of one, two or four calls has lost. **You need**
# [notebook 15](15_solvers.ipynb). **Time** 65 minutes of reading; the cells ran in a minute on one slow CPU core.

# %% tags=["setup"]
REPO = ""  # owner/name on GitHub; `make badges REPO=owner/name` fills it in
try:
    import ddpm_helpers
except ImportError:
    assert REPO, "The helper module is missing: start this notebook with `make lab`, or see Colab in the README."
    get_ipython().run_line_magic("pip", f"install -q git+https://github.com/{REPO}")

import copy
from itertools import pairwise

import torch

from ddpm_helpers import VelocityNet, budget, check, cosine_schedule, default_device, load_pretrained
from ddpm_helpers import ddim_step, sample, verify, viz
from ddpm_helpers.lessons import few_steps, sde
from ddpm_helpers.lessons.few_steps import distribution, quantile, step
from ddpm_helpers.lessons.toy import Mixture, log_normal

device = default_device()
generator = torch.Generator().manual_seed(0)
pixels = Mixture(*torch.tensor([[0.4, 0.3, 0.3], [-1.2, 0.2, 1.1], [0.15, 0.3, 0.1]]).double())

# %% [markdown]
# ## What a single call can know
#
# Whatever this course has drawn, it asked the network again and again: fifty calls for each answer, and
# [notebook 15](15_solvers.ipynb) brought that to ten or twenty with better solvers. No solver brings it to one. To see
# why, ask what the network says at the start, where it sees pure noise. It was trained with a squared error, so it says the
# mean of all images that could have led there, $\hat x_0 = \mathbb{E}[x_0 \mid x_t]$, and DDIM with one step returns exactly that.
# A mean varies less than what it is the mean of. The **law of total variance** says by how much:
#
# $$\operatorname{Var}\big(\mathbb{E}[x_0 \mid x_t]\big) = \operatorname{Var}(x_0) - \mathbb{E}\big[\operatorname{Var}(x_0 \mid x_t)\big] \tag{18.1}$$
#
# This is the blur of [notebook 01](01_corrupt_and_predict.ipynb), said precisely: all the variance that $x_t$ does not decide is
# missing from the answer. Guess before you run: the data of this world has a standard deviation of almost 1. What is that of the
# samples with one call?

# %%
times = torch.linspace(1, 0, 101).double()
start = quantile(pixels, torch.linspace(0.02, 0.98, 25).double(), 1.0)
paths = [start]
for t, s in pairwise(times.tolist()):  # four steps of Heun's method between two dots
    paths.append(sde.heun(pixels, paths[-1], torch.linspace(t, s, 5).double()))

# %% tags=["figure-18_chords"]
figure, axes = viz.subplots(1, 3, size=(8, 3.2), sharey=True)
for axis, calls in zip(axes, (1, 2, 4), strict=True):
    axis.plot(times, torch.stack(paths), color="0.75", linewidth=0.8)
    few = torch.linspace(1, 0, calls + 1).double()
    stops = [sde.ddim(pixels, start[::3], few[: n + 1]) for n in range(calls + 1)]
    axis.plot(few, torch.stack(stops), color=viz.COLOURS[1], marker=".", linewidth=1)
    axis.set(title=f"{calls} call{'s' * (calls > 1)}", xlabel="time t", xlim=(1.03, -0.06))
axes[0].set_ylabel("x")
viz.show(figure, "Exact paths in grey and DDIM with one, two and four calls in orange")

# %% [markdown]
# *Grey: the exact paths, from noise at the left to data at the right. Orange: DDIM, from dot to dot; the lines between are for the eye.*

# %%
noise = torch.randn(20_000, generator=generator).double()
for calls in (1, 2, 4, 8, 50):
    x = sde.ddim(pixels, noise, torch.linspace(1, 0, calls + 1).double())
    print(f"{calls:2} calls: standard deviation {x.std():.3f}")

# %%
grid, x = torch.linspace(-4, 4, 2001).double(), torch.linspace(-7, 7, 1401).double()
m, sigma = sde.signal(0.5), sde.sigma(0.5)
likely = (pixels.log_density(grid) + log_normal(x[:, None], m * grid, sigma**2)).softmax(1)  # q(x_0 | x)
mean = likely @ grid
spread = likely @ grid**2 - mean**2

# %% tags=["nbval-check-output"]
weight = sde.log_density(pixels, x, 0.5).exp() * 0.01  # of each x in the integral
every = (pixels.log_density(grid).exp() * grid**2).sum() * 0.004 - (weight @ mean) ** 2
verify("18.1", weight @ (mean - weight @ mean) ** 2, every - weight @ spread, tol=1e-5)

# %% [markdown]
# *With one call nothing is left of the variance: whatever the noise was, it ends at the mean of the data. With two and four calls
# samples are too close together.*
#
# After the first call the trouble goes on. In $y = x / m$ and $\rho = \sigma / m$ a DDIM step is a straight line,
# [(8.9)](08_sampling.ipynb), with the slope $\hat\epsilon$ that the path has where the step begins. The path turns; the line does not. For a
# step of length $h$ in $\rho$,
#
# $$y_{\text{exact}} - y_{\text{DDIM}} = \frac{h^2}{2}\, \frac{d\hat\epsilon}{d\rho} + O(h^3) \tag{18.2}$$
#
# with the derivative *along* the path. Fifty steps are a way to keep $h^2$ small, and the solvers of [notebook 15](15_solvers.ipynb) allow for the turn. Two ways change what is asked: straighter paths, which is the
# reflow of [notebook 14](14_flow_matching.ipynb), and a network that knows where the path *ends*. This notebook is about the second.

# %%
t, h = torch.tensor(0.3).double(), 1e-3
rho, x = sde.sigma(t) / sde.signal(t), torch.linspace(-1.5, 1.5, 61).double()
s = sde.time_of(-(rho - h).log())

# %% tags=["nbval-check-output"]
y, first = sde.heun(pixels, x, torch.linspace(t, s, 9, dtype=torch.float64)), sde.noise_guess(pixels, x, t)
turn = (sde.noise_guess(pixels, y, s) - first) / -h  # of the slope, along the path
missed = y / sde.signal(s) - (x / sde.signal(t) - h * first)
verify("18.2", missed / h**2, turn / 2, tol=1e-2)

# %% [markdown]
# ## The exact flow map
#
# Follow every grain of noise to its end, and call the result $x_0 = f(x_t, t)$, the **flow map**. On a line it can be
# written down. Paths of an ODE never cross, so the share of grains below a given grain stays what it is. The reason is the
# continuity equation (15.4), summed up from below. With $F_t(x)$ for the share of the noised data below $x$,
#
# $$\frac{\partial F_t(x)}{\partial t} = -v(x, t)\, q_t(x) \tag{18.3}$$
#
# so along a path $\frac{d}{dt} F_t(x(t)) = -v q_t + q_t v = 0$. A grain that starts at the 30 % point of the noise ends at the 30 % point of the
# data. With the inverse function $Q_t$, the quantiles,
#
# $$x_s = Q_s\big(F_t(x_t)\big) \tag{18.4}$$
#
# ### Exercise 18.1 - `flow_map`
#
# From `x` at time `t` to time `s`. `distribution(data, x, t)` is $F_t(x)$, and `quantile(data, share, t)` its inverse $Q_t$.

# %% tags=["exercise", "nbval-check-output"]
def flow_map(data, x, t, s):
    share = ...
    return ...


flow_map = check(flow_map)

# %% [markdown]
# <details><summary>Hint</summary>
#
# The first function belongs to the time where the grain is, the second to the time where it goes.
#
# </details>

# %% tags=["nbval-check-output"]
x, t = torch.linspace(-2.5, 2.5, 101).double(), torch.tensor(0.4).double()
growth = torch.autograd.functional.jacobian(lambda t: distribution(pixels, x, t), t)
flux = sde.slope(pixels, x, 0.4) * sde.log_density(pixels, x, 0.4).exp()
verify("18.3", growth, -flux, tol=1e-6)

# %% tags=["nbval-check-output"]
ode = sde.heun(pixels, x, torch.linspace(1, 0, 1001).double())
verify("18.4", flow_map(pixels, x, 1.0, 0.0), ode, tol=1e-3)

# %% [markdown]
# A thousand steps of Heun's method, two thousand calls, and two calls of a function: the same numbers. So there is a
# function that draws in one call without any loss. What does it look like? Grains are conserved, so where $f$ is steep the data
# are sparse:
#
# $$\frac{\partial f(x_t, t)}{\partial x_t} = \frac{q_t(x_t)}{q_0\big(f(x_t, t)\big)} \tag{18.5}$$

# %% tags=["nbval-check-output"]
x = torch.linspace(-2.5, 2.5, 1001).double()
ends = flow_map(pixels, x, 1.0, 0.0)
slopes = (flow_map(pixels, x + 1e-6, 1.0, 0.0) - flow_map(pixels, x - 1e-6, 1.0, 0.0)) / 2e-6
exact = (sde.log_density(pixels, x, 1.0) - pixels.log_density(ends)).exp()
verify("18.5", slopes, exact, tol=1e-5)
print(f"its largest slope is {exact.max():.0f}, where x_0 is {ends[exact.argmax()]:.2f}")

# %%
curves = {"one call of DDIM": (x, sde.ddim(pixels, x, torch.tensor([1.0, 0.0]).double()))}
curves["the flow map"] = (x, ends)
alt = "The flow map from noise to data is a staircase; one call of DDIM is nearly a flat line"
viz.plot_curves(curves, xlabel="noise, x at time 1", ylabel="where it ends", alt=alt)

# %% [markdown]
# *A staircase: a landing for each narrow kind of data, a slope for the broad one in the middle, and a cliff at each gap between them. The mean, which is what a diffusion network says
# here, is a smooth line. A network that is to draw in one call has to learn the cliffs.*
#
# ## Consistency
#
# How could a network learn $f$ without being shown ends of paths, each of which costs fifty calls? All points of one path have the
# same end, and at time 0 a point *is* its end:
#
# $$f(x_t, t) = f(x_s, s) \quad \text{for } x_t, x_s \text{ on one path}, \qquad f(x, 0) = x \tag{18.6}$$
#
# A network that answers alike at neighbouring points of a path, and right at its end, is right everywhere: this is the idea of
# **consistency models** (Song, Dhariwal et al. 2023). Without the second half of (18.6) it could answer 0 everywhere and be perfectly consistent. So
# the second half is built in. Let the network's answer $F$ be added to a multiple of the input,
#
# $$f_\theta(x, t) = c_{\text{skip}}\, x + c_{\text{out}}\, {\color{#009E73}{F_\theta(x, t)}}, \qquad c_{\text{skip}} = \frac{m\, s^2}{m^2 s^2 + \sigma^2}, \quad c_{\text{out}} = \frac{s\, \sigma}{\sqrt{m^2 s^2 + \sigma^2}} \tag{18.7}$$
#
# where $s$ is the standard deviation of the data, as in [notebook 16](16_targets_and_weights.ipynb), and no time, and $F_\theta$ a network, not the share $F_t$. At time 0 we have $m = 1$ and $\sigma = 0$, so $c_{\text{skip}} = 1$, $c_{\text{out}} = 0$,
# and $f_\theta(x, 0) = x$ whatever the network says. In between, Karras et al. 2022 chose them by this rule: what is left for $F$, $(x_0 - c_{\text{skip}}\, x) / c_{\text{out}}$,
# should have variance 1, and $c_{\text{out}}$, by which the network's errors count, should be as small as possible. That makes $c_{\text{skip}}$ the
# coefficient of a linear regression of $x_0$ on $x$, $\operatorname{Cov}(x_0, x) / \operatorname{Var}(x)$, so what is left is not
# correlated with the input (for data of mean 0; and they have $m = 1$, a world in which noise is added and nothing shrinks).
#
# ### Exercise 18.2 - `with_skip`
#
# Return $f_\theta$ of (18.7). `x` and `answer` are tensors, `signal` $m$ and `sigma` $\sigma$ tensors that fit them, `spread` the number $s$.

# %% tags=["exercise", "nbval-check-output"]
def with_skip(x, answer, signal, sigma, spread):
    variance = ...  # of x
    skip, out = ..., ...
    return skip * x + out * answer


with_skip = check(with_skip)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `variance.sqrt()` stands below the second fraction, `variance` itself below the first.
#
# </details>

# %%
path = [torch.linspace(-2, 2, 41).double()]
times = torch.linspace(1, 0, 801).double()
for ends in pairwise(times):
    path.append(sde.heun(pixels, path[-1], torch.stack(ends)))

# %% tags=["nbval-check-output"]
for place in (0, 400, 700):
    verify("18.6", flow_map(pixels, path[place], times[place], 0.0), path[-1], tol=1e-3)
verify("18.6", flow_map(pixels, path[-1], 0.0, 0.0), path[-1], tol=1e-9)

# %% tags=["nbval-check-output"]
x0, z = torch.randn(2, 200_000, generator=generator).double() * torch.tensor([[0.5], [1.0]])
for t in (0.1, 0.5, 0.9):
    m, sigma = sde.signal(t), sde.sigma(t)
    x = m * x0 + sigma * z
    skip, out = (with_skip(*pair, m, sigma, 0.5) for pair in torch.eye(2).double())
    left = (x0 - skip * x) / out
    verify("18.7", samples=torch.stack([left**2, left * x], 1), expected=[1.0, 0.0])

# %% [markdown]
# For data of standard deviation 1 the formulas collapse, since $m^2 + \sigma^2 = 1$: $c_{\text{skip}} = m$, $c_{\text{out}} = \sigma$, and with $F = -v$
#
# $$f_\theta(x, t) = m\, x - \sigma\, v \tag{18.8}$$
#
# This is the velocity of [(4.19)](04_bound_to_noise.ipynb). A network of this course that predicts the velocity has had the skip all along.

# %% tags=["nbval-check-output"]
schedule = cosine_schedule()
x, answer = torch.randn(2, 5, 1, 4, 4, generator=generator)
network, t = VelocityNet(lambda x, t: answer, schedule), torch.full((5,), 400)
guess = (x - schedule.sigma[400] * network(x, t)) / schedule.sqrt_alpha_bar[400]
verify("18.8", guess, with_skip(x, -answer, schedule.sqrt_alpha_bar[400], schedule.sigma[400], 1.0), tol=1e-5)

# %% [markdown]
# **Consistency distillation** takes a teacher, the diffusion network. From $x_t$ the teacher takes one solver step $\Phi$ to $x_s$, and the student's answer at $x_t$ is
# pulled to its own at $x_s$, given by an average of its weights through which no gradient flows. Suppose that works perfectly on a grid of $N$ intervals,
# where $\Phi_n$ is the step from $t_n$ to $t_{n-1}$. Then $f_N(x, t_n) = f_N(\Phi_n(x), t_{n-1})$, all the way down, so the best student *is* $N$ steps of the teacher's solver, and inherits
# its error, of the solver's order $p$:
#
# $$f_N(\cdot, t_N) = \Phi_1 \circ \Phi_2 \circ \dots \circ \Phi_N, \qquad \mathbb{E}\, \big| f_N - f \big| \propto N^{-p} \tag{18.9}$$

# %%
x = torch.linspace(-2, 2, 101).double()
solvers, errors = {"DDIM": sde.ddim, "Heun": sde.heun}, {}
def f(x, solver, times):  # the student's answer at x is its answer one solver step on
    return x if len(times) == 1 else f(solver(pixels, x, times[:2]), solver, times[1:])

for name, solver in solvers.items():
    ends = [f(x, solver, torch.linspace(0.7, 0.05, n + 1).double()) for n in (128, 256)]
    errors[name] = [(end - flow_map(pixels, x, 0.7, 0.05)).abs().mean() for end in ends]

# %% tags=["nbval-check-output"]
orders = torch.stack([torch.log2(coarse / fine) for coarse, fine in errors.values()])
verify("18.9", orders, torch.tensor([1.0, 2.0]), tol=0.1)

# %% [markdown]
# The check goes from $t = 0.7$ to $0.05$: halving the steps halves DDIM's error and quarters Heun's. So perfect consistency
# loses only what the teacher's steps lose. Whatever more a network loses is lost in *learning*.
#
# ## Two steps in one
#
# The other way goes by halves. **Progressive distillation** (Salimans & Ho 2022) asks the student to do in one DDIM step what
# the teacher does in two; then the student is the teacher. In the plane of $\rho$ and $y$ the target can be drawn.

# %%
rho, y = torch.tensor([2.0, 1.1, 0.5]), torch.tensor([1.2, 0.62, 0.45])
end = (y[2] * rho[0] - y[0] * rho[2]) / (rho[0] - rho[2])

# %%
figure, axis = viz.subplots(size=(7, 3))
axis.plot(rho, y, color=viz.COLOURS[0], marker="o", label="two steps of the teacher")
straight = {"color": viz.COLOURS[1], "linestyle": "--"}
axis.plot([rho[0], 0], [y[0], end], **straight, label="one step of the student")
axis.plot([0], [end], color=viz.COLOURS[1], marker="s", clip_on=False, zorder=5)
for x, at, text in zip([*rho, 0], [*y, end], ["$x_t$", "$x_u$", "$x_s$", r"target $\tilde x$"], strict=True):
    axis.annotate(text, (x, at), (4, -16), textcoords="offset points", fontsize=11)
axis.set(xlabel=r"noise per signal, $\rho$", ylabel="$y = x / m$", xlim=(2.2, 0), ylim=(0, 1.4))
axis.legend()
viz.show(figure, "Two steps of the teacher, and one line through their ends, drawn on to where no noise is left")

# %% [markdown]
# *A DDIM step is a straight line that points at the clean guess, where $\rho = 0$. The student shall go straight from $x_t$ to where the teacher's
# second step ends, so its clean guess has to be where that line, drawn on, meets $\rho = 0$.*
#
# In symbols: a DDIM step with the clean guess $\tilde x$ ends in $x_s = m_s \tilde x + \frac{\sigma_s}{\sigma_t} (x_t - m_t \tilde x)$. Solve for
# $\tilde x$:
#
# $${\color{#009E73}{\tilde x}} = \frac{x_s - \frac{\sigma_s}{\sigma_t}\, x_t}{m_s - \frac{\sigma_s}{\sigma_t}\, m_t} \tag{18.10}$$
#
# ### Exercise 18.3 - `distilled_target`
#
# `x_t` and `x_s` are images at the steps `t` and `s` of `schedule`, integers. Return $\tilde x$.

# %% tags=["exercise", "nbval-check-output"]
def distilled_target(schedule, x_t, t, x_s, s):
    signal, sigma = schedule.sqrt_alpha_bar, schedule.sigma
    ratio = ...
    return ...


distilled_target = check(distilled_target)

# %% [markdown]
# <details><summary>Hint</summary>
#
# The noise in $x_s$ is that in $x_t$, times $\sigma_s / \sigma_t$. Subtract it, and see how much of the clean image is left.
#
# </details>
#
# Three rounds make one step of eight. Let $u$ be the time between $t$ and $s$ where the first of the two steps ends. With a perfect student in each round, one step ends where eight steps of the first teacher do:
#
# $$\Phi^{(k)}_{t \to s} = \Phi^{(k-1)}_{u \to s} \circ \Phi^{(k-1)}_{t \to u} = \dots = \text{$2^k$ DDIM steps from $t$ to $s$} \tag{18.11}$$

# %% tags=["nbval-check-output"]
x_t = torch.randn(5, 1, 4, 4, generator=generator)
x_u = ddim_step(schedule, x_t, 800, 600, torch.sin(3 * x_t), clip=False)  # any network will do
two = ddim_step(schedule, x_u, 600, 400, torch.sin(4 * x_u), clip=False)
target = distilled_target(schedule, x_t, 800, two, 400)
as_noise = (x_t - schedule.sqrt_alpha_bar[800] * target) / schedule.sigma[800]
verify("18.10", ddim_step(schedule, x_t, 800, 400, as_noise, clip=False), two, tol=1e-5)

# %% tags=["nbval-check-output"]
def student(x, t, s, rounds):
    if rounds == 0:
        return step(x, sde.clean_guess(pixels, x, t), t, s)
    u = (t + s) / 2
    two = student(student(x, t, u, rounds - 1), u, s, rounds - 1)
    ratio = sde.sigma(s) / sde.sigma(t)
    return step(x, (two - ratio * x) / (sde.signal(s) - ratio * sde.signal(t)), t, s)

eight = sde.ddim(pixels, start, torch.linspace(1, 0.2, 9).double())
verify("18.11", student(start, 1.0, 0.2, rounds=3), eight, tol=1e-6)

# %% [markdown]
# Again nothing is lost but what the first teacher's steps lose, and in every round the student has
# only to double a step.
#
# ## What learning loses
#
# Now with a student that is a network: two hidden layers of 64, with the skip of (18.7). The first teacher's clean guess is exact, so what goes
# wrong is either its sixteen DDIM steps or the student. Four rounds: eight steps from sixteen, then four, two, one. Guess before you run: which part of the staircase will it miss?

# %%
def draw(n):
    which = torch.multinomial(pixels.weights, n, replacement=True, generator=generator)
    return pixels.means[which] + pixels.stds[which] * torch.randn(n, generator=generator).double()

def teach(student, teacher, n, steps):  # n intervals of the student, twice as many of the teacher
    optimizer = torch.optim.Adam(student.parameters(), lr=3e-3)
    plan = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0.02, steps)
    for _ in range(steps):
        i = torch.randint(1, n + 1, (256,), generator=generator).double()
        t, u, s = i / n, (i - 0.5) / n, (i - 1) / n
        x = sde.signal(t) * draw(256) + sde.sigma(t) * torch.randn(256, generator=generator).double()
        middle = step(x, teacher(x, t), t, u)
        two = step(middle, teacher(middle, u), u, s)
        loss = (step(x, student(x, t), t, s) - two).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        plan.step()

# %%
def run(guess, x, n):
    for t, s in pairwise(torch.linspace(1, 0, n + 1).double()):
        x = step(x, guess(x, t), t, s)
    return x

torch.manual_seed(0)
tiny, steps = few_steps.TinyStudent(), budget(gpu=400, cpu=400, quick=20)
exact_guess = teacher = lambda x, t: sde.clean_guess(pixels, x, t)
students = {}
for n in (8, 4, 2, 1):
    teach(tiny, teacher, n, steps)
    teacher = students[n] = copy.deepcopy(tiny).requires_grad_(False)

# %%
exact = flow_map(pixels, noise, 1.0, 0.0)
def report(name, x):
    gap = ((x > -0.8) & (x < -0.5)).double().mean()
    print(f"{name:18} away from the exact end {(x - exact).abs().mean():.3f}, in the gap {gap:.1%}")

report("exact", exact)
for n in (16, *students):
    report(f"DDIM, {n} calls", run(exact_guess, noise, n))
for n, net in students.items():
    report(f"student, {n} calls", run(net, noise, n))

# %% [markdown]
# *"Away" is the mean distance to where a grain should end, "the gap" is the stretch from -0.8 to -0.5 between the first two kinds of
# data. One run, 20,000 grains (the standard error of a share of 6 % is 0.2 points). After a full run the student with one call ends nearly as close to the exact ends as its teacher with sixteen:
# an eleventh of the distance that DDIM with one call leaves, and a third more than the teacher leaves. From eight calls down to one nothing gets
# worse. What it misses is the cliff: three times as many grains as the teacher's end in the gap, where hardly any should. On digits
# such samples would lie between two kinds.*
#
# ## Digits in four calls, two, one
#
# Now the shipped network of digits. The script `tests/benchmarks/distil.py` made a student of it, by (18.10): first each of four intervals from four DDIM
# steps of the teacher, then each of two from two steps of the student, then one from two. It is *one* network for all three: a label says how
# many calls it has, as in the shortcut models of Frans et al. 2024. It starts from trained weights, those of
# [notebook 12](12_guidance.ipynb) asked without a label, since they predict the velocity: at $t = T$ a predicted noise says nothing
# about the image, and the one call of a student begins there.

# %%
results = few_steps.load_results()
rows = sorted(results["rows"], key=lambda row: (row["calls"], row["name"]))
print(f"{results['command']}, {results['date']}, {results['device']}")

# %%
for row in rows:
    values = f"{row['distance']:5.0f} +- {row['error']:3.0f}   recall {row['recall']:.0%}"
    print(f"{row['calls'] or '':3} {row['name']:14} distance {values}   {row['samples']} samples")

# %% tags=["figure-18_calls"]
figure, axis = viz.subplots(size=(8, 3.4))
for name in ("DDIM", "Heun", "DPM-Solver++", "student"):
    chosen = [row for row in rows if row["name"] == name]
    calls, distance, error = ([row[key] for row in chosen] for key in ("calls", "distance", "error"))
    axis.errorbar(calls, distance, [2 * e for e in error], fmt="o-", markersize=4, capsize=2, label=name)
[real] = (row["distance"] for row in rows if row["name"] == "real digits")
axis.axhline(real, color="black", linewidth=0.8, label="real digits")
axis.set(xscale="log", yscale="log", xlabel="calls of the network", ylabel="distance to real digits")
figure.legend(loc="outside right upper")
viz.show(figure, "Distance to real digits against calls: three solvers with the teacher, and the student")

# %% [markdown]
# *The distance is that of [notebook 09](09_evaluation.ipynb), for 300 samples each, which alone costs most of what the line of real digits shows.
# Bars are two standard errors, from 50 bootstrap samples; one training run, of 210 steps with 24 digits each, which is little. With one call the student
# has less than half of DDIM's distance, with two little more than half. With four calls the two are within
# each other's errors, so distillation has won nothing there, and DDIM with four calls is ahead of the student with two. Heun with three calls ends in noise, as in [notebook 15](15_solvers.ipynb).*

# %%
teacher, schedule, _ = load_pretrained("mnist", device)
net, _, recipe = load_pretrained("mnist_few", device)
pictures = {}
for calls in (1, 2, 4):
    pictures[f"DDIM, {calls}"] = sample(teacher, schedule, 12, steps=calls, method="ddim")
    label = torch.full((12,), few_steps.CALLS.index(calls), device=device)
    pictures[f"student, {calls}"] = sample(net, schedule, 12, steps=calls, method="ddim", labels=label)
pictures["DDIM, 50"] = sample(teacher, schedule, 12, steps=50, method="ddim")

# %%
pictures = {name: x.clamp(-1, 1).cpu() for name, x in pictures.items()}
viz.image_rows(pictures, alt="Twelve digits a row from the same noise: teacher and student with one, two and four calls")

# %% [markdown]
# *All rows start from the same noise, so columns can be compared. One call of DDIM is not even a mean here: this teacher predicts the noise, at $t = T$ its clean guess
# is a small difference divided by a tiny signal, and clipping makes black and white of it. So a part of the student's lead with one call is that of the velocity.
# In the student's rows some columns are digits, and some, such as the fourth, fifth and ninth, lie between two: the cliffs again. And its three rows nearly agree, column
# by column, as (18.6) asks.*
#
# ## What diversity costs
#
# A set of samples can be sharp and poor. **Recall** (Kynkäänniemi et al. 2019) asks from the other side: of the real digits, how many
# have a sample near them? Near means: nearer than the sample's own third neighbour among the samples, in the space of the feature
# network. It is in the table above; its standard error for 300 real digits is at most 3 points. Real digits
# among themselves reach 84 %. One call of DDIM reaches 31 %, the student 63 %, and with two calls 82 % against 53 %. So one call costs twenty points of
# recall, and two calls next to nothing that this measure could see. (It is no perfect measure: samples that lie far apart reach far, and DDIM
# with sixteen calls comes out above the real digits.)
#
# ### Exercise 18.4 - `fewest_calls`
#
# A decision. Several samplers were measured: `calls` (N,), `distance` (N,) and its standard `error` (N,), independent of each other. Return, as an `int`, the
# smallest number of calls whose distance is not clearly above the smallest distance: the difference is at most twice *its own* standard
# error.

# %% tags=["exercise", "nbval-check-output"]
def fewest_calls(calls, distance, error):
    best = distance.argmin()
    gap = ...
    error_of_gap = ...
    return ...


fewest_calls = check(fewest_calls)

# %% [markdown]
# <details><summary>Hint</summary>
#
# The variance of a difference of independent numbers is the sum of their variances. A mask chooses: `calls[mask]`.
#
# </details>

# %%
for names in (("DDIM", "Heun", "DPM-Solver++"), ("DDIM", "Heun", "DPM-Solver++", "student"), ("student",)):
    chosen = [row for row in rows if row["name"] in names]
    columns = (torch.tensor([row[key] for row in chosen]) for key in ("calls", "distance", "error"))
    print(f"{fewest_calls(*columns):2} calls are worth it, of {', '.join(names)}")

# %% [markdown]
# *Of all that was measured eight calls are enough, and nothing with fewer comes within two standard errors of the best, this student
# included. (The rows share their noise and the real digits, so their errors are not quite independent; the rule takes them as if they were.) Its gain is where only one or two calls can be paid; of the student alone two are worth it, for four are not clearly better.*
#
# ## The challenge
#
# Draw better digits with one, two or four calls than we do. `few_steps.score(sampler, calls)` makes the noise, hands it to your
# `sampler(ask, schedule, x_T)` in batches of 100, and counts: `ask(x, t)`, or `ask(x, t, label)`, is one forward pass of one
# batch, and all that a sampler gets of the network. It may be your own, trained as you like: `network="my_file.safetensors"`. Who asks too
# often, sends a larger batch, or runs any module beside `ask`, is refused. (Nobody can refuse everything: a network written without modules, or
# stored digits, would pass. You would know.) It draws 2,000 digits, unless told otherwise, and prints a line for the table of
# records in [docs/RESULTS.md](../docs/RESULTS.md).

# %%
def student_sampler(calls):
    def sampler(ask, schedule, x_T):
        label = torch.full((len(x_T),), few_steps.CALLS.index(calls), device=x_T.device)
        steps = [schedule.T * i // calls for i in range(calls, -1, -1)]
        return few_steps.walk(ask, schedule, x_T, steps, label)

    return sampler

# %%
count = budget(gpu=2000, cpu=300, quick=70, unit="samples")
line = few_steps.score(student_sampler(2), calls=2, count=count, name="our student")
for cheat in (student_sampler(4), lambda ask, schedule, x_T: teacher(x_T, torch.ones(len(x_T)).long())):
    try:
        few_steps.score(cheat, calls=2, count=70)
    except few_steps.Refused as error:
        print("refused:", error)

# %% [markdown]
# *With the number of samples in the last column: fewer samples, larger distance, so compare only lines with the same number of samples.*
#
# ## What to remember, and what broke
#
# - One call of a diffusion network gives a mean. What its input leaves undecided is missing from it, (18.1).
# - There is an exact map from noise to data; on a line it takes quantiles to quantiles. It is steep where data are sparse.
# - A consistency model agrees with itself along a path, and the skip makes it right at the end. The velocity has that skip.
# - Perfect distillation loses what the teacher's steps lose, and nothing else. Networks lose more, first at the cliffs.
# - Count calls, and say how many samples and what error stand behind a distance.
#
# **What broke:** a student trained this way aims no higher than its teacher's many steps, and it is as large: each call still runs over all pixels. What is
# inside the call has not changed since [notebook 06](06_unet.ipynb): pixels in, convolutions, and no more to ask for than a
# digit's class. [Notebook 19](19_patches_latents_words.ipynb) changes the network itself: patches, latents and words.
#
# ### Experiments to try
#
# - Give `TinyStudent` a width of 16, or of 256. Which changes more, the mean distance or the share in the gap?
# - Train a tiny consistency model: one loss, between neighbours of sixteen times, and an average of weights as the target. How many steps does it take
#   to come as far?
# - Ask at $T$ with the label of one call, add fresh noise, $m_s f + \sigma_s z$ with $s = 500$, as Song, Dhariwal et al. 2023 do, and ask there with the
#   label of two. (That of one call was trained at $T$ alone.) Is it better than the student with two calls? `score` will tell.
