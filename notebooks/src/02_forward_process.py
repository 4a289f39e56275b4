# %% [markdown]
# # The forward process
#
# ![Four digits fade into noise over nine columns; the last column is the same kind of noise in every row](../figures/02_closed_form.png)
#
# *Four digits on their way to noise; the step $t$ stands above each column. In the last column the noise no longer
# tells which digit it came from.*
#
# **You will** build a noise process that ends in the same distribution whatever it starts from, prove that any number
# of its steps can be taken at once, by a closed form, and measure how close to pure noise it ends. **You need** mean
# and variance, Gaussians, and [notebook 01](01_corrupt_and_predict.ipynb) for the motive. **Time** 45 minutes of
# reading; the cells run in 10 seconds on 2 CPU cores.

# %% tags=["setup"]
REPO = ""  # owner/name on GitHub; `make badges REPO=owner/name` fills it in
try:
    import ddpm_helpers
except ImportError:
    assert REPO, "The helper module is missing: start this notebook with `make lab`, or see Colab in the README."
    get_ipython().run_line_magic("pip", f"install -q git+https://github.com/{REPO}")

import math
import time

import torch

from ddpm_helpers import check, cosine_schedule, linear_schedule, load_images, per_image, to_float, verify, viz
from ddpm_helpers.lessons import show

generator = torch.Generator().manual_seed(0)

# %%
data = load_images("mnist")
images = to_float(data.images)  # (N, 1, 28, 28) in [-1, 1]
print(data.source)

# %% [markdown]
# ## Where we are
#
# [Notebook 01](01_corrupt_and_predict.ipynb) turned noise into digits by a recipe without a proof and without a
# likelihood. This notebook starts again with the first half, the destruction, now in many small random steps:
#
# **Which noise process ends in exactly $\mathcal{N}(0, I)$, whatever the data?**
#
# ($\mathcal{N}(m, v)$ is the Gaussian with mean $m$ and variance $v$. $\mathcal{N}(0, I)$ is pure noise: every pixel
# is drawn from $\mathcal{N}(0, 1)$, independently of the others.) Sampling starts at that end, before we know any
# image. From here on images lie in [-1, 1], and all noise is Gaussian. Pixels get independent noise, so we can study
# one at a time: below, $x_0$ is a number as often as it is an image.
#
# ## First try: add noise, again and again
#
# Take small steps. Each adds $s\,\epsilon_t$ with a fresh draw $\epsilon_t \sim \mathcal{N}(0, 1)$:
# $x_t = x_{t-1} + s\,\epsilon_t$. Guess before you go on: start at $x_0 = 0.8$ with $s = 0.2$. Where is $x_{200}$ on
# average, and how far does it stray?
#
# Every step adds noise of mean 0, so the mean never moves. The noises are independent, so their variances add up (read
# the bar as "given": over all walks from this $x_0$):
#
# $$\mathbb{E}[x_t \mid x_0] = x_0 \tag{2.1}$$
#
# $$\mathrm{Var}[x_t \mid x_0] = t\, s^2 \tag{2.2}$$

# %% tags=["nbval-check-output"]
x0, s = 0.8, 0.2
noise = torch.randn(201, 20_000, generator=generator)  # 200 steps of 20,000 walks
noise[0] = 0.0  # there is no step 0
naive = x0 + (s * noise).cumsum(0)  # (201, 20000): x_0 to x_200 of each walk
verify("2.1", samples=naive[200], expected=x0)
verify("2.2", samples=(naive[200] - x0) ** 2, expected=200 * s**2)

# %% [markdown]
# (A mean over $n$ draws is itself random; its standard deviation is called the **standard error**. `verify` says how
# many of them lie between the mean and the value that the equation gives.)
#
# So $x_{200}$ has mean 0.8 and standard deviation $0.2\sqrt{200} \approx 2.8$. Both go wrong. The mean remembers $x_0$
# for ever, and the variance grows without bound: this process ends nowhere.
#
# ## Repair: shrink before you add
#
# Something has to pull back. Multiply by a number $a$ below 1 before adding noise of standard deviation $b$. A factor
# enters a variance squared, and the two parts are independent:
#
# $$\mathrm{Var}[a\,x + b\,\epsilon] = a^2\, \mathrm{Var}[x] + b^2 \tag{2.3}$$
#
# Which $a$ keeps a variance of 1 at 1? Put 1 on both sides: $1 = a^2 + b^2$, so $a = \sqrt{1 - b^2}$. The variance of
# the added noise gets its usual name, $\beta = b^2$, and the step becomes
#
# $$x_t = {\color{#0072B2}{\sqrt{1 - \beta}\; x_{t-1}}} + {\color{#D55E00}{\sqrt{\beta}\; \epsilon_t}},
# \qquad 0 < \beta < 1 \tag{2.4}$$
#
# Blue is what stays of the signal, orange is noise, in every formula of this notebook.

# %% tags=["nbval-check-output"]
a, b = 0.7, 0.5
x = 2 * torch.rand(200_000, generator=generator) - 1  # uniform in [-1, 1]: mean 0, variance 1/3
z = torch.randn(200_000, generator=generator)
verify("2.3", samples=(a * x + b * z) ** 2, expected=a**2 / 3 + b**2)

# %% [markdown]
# ### Exercise 2.1 - `forward_step`
#
# Write (2.4). `x` and `noise` are tensors of one shape, `beta` is a number.


# %% tags=["exercise", "nbval-check-output"]
def forward_step(x, beta, noise):
    x_t = ...  # one line
    return x_t


forward_step = check(forward_step)

# %% [markdown]
# <details><summary>Hint</summary>
#
# The formula has two square roots; `beta ** 0.5` is one way to write them. Do not draw new noise: use the argument.
#
# </details>
#
# If (2.4) is right, it keeps a variance of 1, even if $x$ is not Gaussian at all. Coin flips of $\pm 1$ have variance 1.

# %% tags=["nbval-check-output"]
coins = torch.randint(0, 2, (200_000,), generator=generator) * 2.0 - 1  # -1 or 1
z = torch.randn(200_000, generator=generator)
verify("2.4", samples=forward_step(coins, 0.3, z) ** 2, expected=1.0)

# %% [markdown]
# ## The fixed point
#
# Repeat the step with the same $\beta$, and write $m_t$ and $v_t$ for mean and variance of $x_t$. The noise has mean
# 0, so $m_t = \sqrt{1-\beta}\; m_{t-1}$, and (2.3) says $v_t = (1-\beta)\, v_{t-1} + \beta$. Subtract 1 on both sides
# of the second: $v_t - 1 = (1-\beta)(v_{t-1} - 1)$. After $t$ steps
#
# $$m_t = (1-\beta)^{t/2}\, m_0 \tag{2.5}$$
#
# $$v_t = 1 + (1-\beta)^t\, (v_0 - 1) \tag{2.6}$$
#
# Whatever $m_0$ and $v_0$ are, the mean goes to 0 and the variance to 1, exponentially fast.

# %% tags=["nbval-check-output"]
beta, m, v = 0.02, 0.8, 4.0
for _ in range(100):
    m, v = math.sqrt(1 - beta) * m, (1 - beta) * v + beta
verify("2.5", m, (1 - beta) ** 50 * 0.8)
verify("2.6", v, 1 + (1 - beta) ** 100 * (4.0 - 1))

# %%
repaired = torch.full((201, 20_000), x0)
for t in range(1, 201):
    repaired[t] = forward_step(repaired[t - 1], s**2, noise[t])  # the noise of the naive walks

# %%
t = torch.arange(201)
kept = (1 - s**2) ** t  # (201,)
left = (naive[:, :30], torch.full((201,), x0), s * t.sqrt())
right = (repaired[:, :30], x0 * kept.sqrt(), (1 - kept).sqrt())
alt = "Left: walks spread around 0.8 without end. Right: walks settle around 0 in a band of constant width"
viz.plot_walks({"add noise": left, "shrink, then add the same noise": right}, alt=alt)

# %% [markdown]
# *Thirty walks from 0.8, with mean (blue) and two standard deviations (orange band) by the formulas. Each walk on the
# right uses the noise of its twin on the left; there the start is forgotten and the band stops widening: shrinking and
# adding balance.*
#
# Mean and variance are only two numbers. Does the whole *distribution* become Gaussian? Guess which of these three
# starts takes longest: two spikes at $\pm 1.5$, one value far out at 3, or a wide uniform.

# %%
n = 20_000
starts = {
    "spikes": torch.randint(0, 2, (n,), generator=generator) * 3.0 - 1.5,
    "far out": torch.full((n,), 3.0),
    "wide": 7 * torch.rand(n, generator=generator) - 3.5,
}
panels = {}
for name, x in starts.items():
    for t in range(501):
        if t in (0, 15, 60, 500):
            panels[f"{name}, t = {t}"] = {"x": x}
        x = forward_step(x, 0.02, torch.randn(n, generator=generator))
show.plot_histograms(panels, alt="Histograms of three starts at four steps; all three end on the standard Gaussian")

# %% [markdown]
# *The dashed line is $\mathcal{N}(0, 1)$. By $t = 500$ you cannot tell the rows apart. The one that is off longest is
# the start far out: a mean shrinks with $(1-\beta)^{t/2}$, and the excess variance with $(1-\beta)^t$, twice as fast.
# (Tall histograms are cut off.) Nothing in the step knows about the start: the answer to our question is (2.4). The
# Gaussian shape is only seen here; (2.13) will prove it.*
#
# One word in the question stays open: *exactly*. After finitely many steps a little of the start is left. How much?
#
# ## Let the steps differ: a schedule
#
# Early steps meet fine detail, which little noise destroys. Late steps meet an image that is mostly noise, where a
# small step changes next to nothing. So let $\beta$ grow. A **noise schedule** is a list $\beta_1, \dots, \beta_T$.
# That of Ho et al. (2020, section 4), the **linear schedule**, takes $T = 1000$ steps on a line from
# $\beta_1 = 0.0001$ to $\beta_T = 0.02$:
#
# $$\beta_t = \beta_1 + \frac{t-1}{T-1}\,(\beta_T - \beta_1), \qquad t = 1, \dots, T \tag{2.7}$$
#
# Two more names make the formulas short. What a step keeps of the variance is $\alpha_t = 1 - \beta_t$, and what $t$
# steps keep of it is the product
#
# $$\bar\alpha_t = \prod_{s=1}^{t} \alpha_s = \prod_{s=1}^{t} (1 - \beta_s), \qquad \bar\alpha_0 = 1 \tag{2.8}$$
#
# | symbol | meaning | in this course | in other libraries |
# |---|---|---|---|
# | $t$ | step, counted from 1 to $T$; 0 is the clean image | `t` | timestep, counted from 0: `t - 1` |
# | $x_0$, $x_t$ | clean image; noisy image, after $t$ steps | `x0`, `x_t` | `x_start` or `original_samples`, `sample` |
# | $\epsilon$ | noise, $\mathcal{N}(0, I)$ | `noise`; predicted: `eps` | `noise`; `"epsilon"` |
# | $\beta_t$ | variance of the noise that step $t$ adds | `schedule.beta[t]` | `betas[t - 1]` |
# | $\alpha_t$ | $1 - \beta_t$ | `schedule.alpha[t]` | `alphas[t - 1]` |
# | $\bar\alpha_t$ | product of $\alpha_1$ to $\alpha_t$ | `schedule.alpha_bar[t]` | `alphas_cumprod[t - 1]` |
# | $\sqrt{\bar\alpha_t}$ | weight of the image in $x_t$ | `schedule.sqrt_alpha_bar[t]` | `sqrt_alphas_cumprod[t - 1]` |
# | $\sqrt{1-\bar\alpha_t}$ | weight of the noise in $x_t$ | `schedule.sigma[t]` | `sqrt_one_minus_alphas_cumprod[t - 1]` |
#
# Careful with one letter: some papers (Karras et al. 2022) write $\sigma$ for the ratio
# $\sqrt{1-\bar\alpha_t} / \sqrt{\bar\alpha_t}$ of the last two rows, which is $\rho_t$ in this course. Here $\sigma_t$
# is the last row alone. (All symbols: [notebook 99](99_glossary.ipynb).)

# %% tags=["nbval-check-output"]
schedule = linear_schedule(1000)
t = torch.arange(1, 1001, dtype=torch.float64)
beta = 1e-4 + (t - 1) / 999 * (0.02 - 1e-4)
verify("2.7", schedule.beta[1:], beta)
verify("2.8", schedule.alpha_bar[1:], (1 - beta).cumprod(0))
print("alpha_bar at steps 0, 1, 1000:", [f"{schedule.alpha_bar[i].item():.6f}" for i in (0, 1, 1000)])

# %% [markdown]
# ## All steps at once: the closed form
#
# Training will need $x_t$ for random $t$, again and again. Walking there takes $t$ steps. One formula is enough, the
# **closed form** of the forward process:
#
# *Claim.* $x_t = {\color{#0072B2}{\sqrt{\bar\alpha_t}\; x_0}} + {\color{#D55E00}{\sqrt{1-\bar\alpha_t}\; \epsilon}}$
# with a single $\epsilon \sim \mathcal{N}(0, I)$.
#
# The proof is by **induction**: show it for $t = 1$, then show that if it holds for $t - 1$ it holds for $t$.
#
# **Start.** For $t = 1$ the product (2.8) has one factor, $\bar\alpha_1 = 1 - \beta_1$, and the step (2.4) *is* the
# claim:
#
# $$x_1 = {\color{#0072B2}{\sqrt{\bar\alpha_1}\; x_0}} + {\color{#D55E00}{\sqrt{1-\bar\alpha_1}\; \epsilon_1}} \tag{2.9}$$

# %% tags=["nbval-check-output"]
x0 = images[:4]  # (4, 1, 28, 28)
noise_1 = torch.randn(x0.shape, generator=generator)
signal, sigma = schedule.sqrt_alpha_bar, schedule.sigma  # (1001,) each
verify("2.9", forward_step(x0, schedule.beta[1].item(), noise_1), signal[1] * x0 + sigma[1] * noise_1)

# %% [markdown]
# **From $t-1$ to $t$.** Suppose the claim holds for $t - 1$, with a noise $\bar\epsilon$ that is made of
# $\epsilon_1, \dots, \epsilon_{t-1}$ and so is independent of $\epsilon_t$. One line at a time:
#
# | | | reason |
# |---|---|---|
# | $x_t$ | $= {\color{#0072B2}{\sqrt{\alpha_t}\; x_{t-1}}} + {\color{#D55E00}{\sqrt{\beta_t}\; \epsilon_t}}$ | the step (2.4) |
# | | $= \sqrt{\alpha_t}\,\big({\color{#0072B2}{\sqrt{\bar\alpha_{t-1}}\; x_0}} + {\color{#D55E00}{\sqrt{1-\bar\alpha_{t-1}}\; \bar\epsilon}}\big) + {\color{#D55E00}{\sqrt{\beta_t}\; \epsilon_t}}$ | the claim for $t-1$ |
# | | $= {\color{#0072B2}{\sqrt{\alpha_t \bar\alpha_{t-1}}\; x_0}} + {\color{#D55E00}{\sqrt{\alpha_t (1-\bar\alpha_{t-1})}\; \bar\epsilon + \sqrt{\beta_t}\; \epsilon_t}}$ | multiply out |
# | | $= {\color{#0072B2}{\sqrt{\bar\alpha_t}\; x_0}} + {\color{#D55E00}{\sqrt{\alpha_t (1-\bar\alpha_{t-1})}\; \bar\epsilon + \sqrt{\beta_t}\; \epsilon_t}}$ | $\bar\alpha_t = \alpha_t \bar\alpha_{t-1}$, from (2.8) |
#
# So far this is algebra; first line and last line are equal for every single draw:
#
# $$\begin{aligned}
# &{\color{#0072B2}{\sqrt{\alpha_t}\; x_{t-1}}} + {\color{#D55E00}{\sqrt{\beta_t}\; \epsilon_t}} \\
# &\quad = {\color{#0072B2}{\sqrt{\bar\alpha_t}\; x_0}} + {\color{#D55E00}{\sqrt{\alpha_t (1-\bar\alpha_{t-1})}\; \bar\epsilon + \sqrt{\beta_t}\; \epsilon_t}}
# \end{aligned} \tag{2.10}$$

# %% tags=["nbval-check-output"]
t = 400
noise_bar, noise_t = torch.randn(2, *x0.shape, generator=generator)
alpha, beta = schedule.alpha[t], schedule.beta[t]
before = signal[t - 1] * x0 + sigma[t - 1] * noise_bar  # the claim for t - 1
orange = alpha.sqrt() * sigma[t - 1] * noise_bar + beta.sqrt() * noise_t
verify("2.10", forward_step(before, beta.item(), noise_t), signal[t] * x0 + orange)

# %% [markdown]
# The orange part is a sum of two independent Gaussians. Such a sum is a Gaussian again (a fact that we borrow, and
# test), and the variances add:
#
# $$b\,\epsilon_1 + c\,\epsilon_2 \sim \mathcal{N}(0,\; b^2 + c^2) \tag{2.11}$$
#
# For mean and variance alone any noise would do, but uniform noise, say, does not keep its shape: its density is a
# box, and that of a sum of two is a triangle or a trapezoid. To test (2.11), compare the averages of square and fourth
# power: a Gaussian of mean 0 and variance $v$ has $\mathbb{E}[z^2] = v$ and $\mathbb{E}[z^4] = 3 v^2$.

# %% tags=["nbval-check-output"]
b, c = 0.6, 1.1
noise_1, noise_2 = torch.randn(2, 400_000, generator=generator)
z, v = b * noise_1 + c * noise_2, b**2 + c**2
verify("2.11", samples=torch.stack([z**2, z**4], 1), expected=[v, 3 * v**2])

# %% [markdown]
# Here $b^2 = \alpha_t (1 - \bar\alpha_{t-1})$ and $c^2 = \beta_t$. Their sum, one line at a time:
#
# | | | reason |
# |---|---|---|
# | $b^2 + c^2$ | $= \alpha_t (1-\bar\alpha_{t-1}) + \beta_t$ | definition |
# | | $= \alpha_t - \alpha_t \bar\alpha_{t-1} + \beta_t$ | multiply out |
# | | $= \alpha_t - \bar\alpha_t + \beta_t$ | $\bar\alpha_t = \alpha_t \bar\alpha_{t-1}$ |
# | | $= 1 - \bar\alpha_t$ | $\alpha_t + \beta_t = 1$ |
#
# $$\alpha_t (1-\bar\alpha_{t-1}) + \beta_t = 1 - \bar\alpha_t \tag{2.12}$$

# %% tags=["nbval-check-output"]
left = schedule.alpha[1:] * sigma[:-1] ** 2 + schedule.beta[1:]  # (1000,): all steps at once
verify("2.12", left, sigma[1:] ** 2)  # the right-hand side, as the table has it ...
verify("2.12", sigma**2, 1 - schedule.alpha_bar)  # ... and as it is written above

# %% [markdown]
# So the orange part is $\mathcal{N}(0, (1-\bar\alpha_t) I)$: $\sqrt{1-\bar\alpha_t}$ times one standard Gaussian. That
# is the claim for $t$, and the proof is done:
#
# $$x_t = {\color{#0072B2}{\sqrt{\bar\alpha_t}\; x_0}} + {\color{#D55E00}{\sqrt{1-\bar\alpha_t}\; \epsilon}},
# \qquad \epsilon \sim \mathcal{N}(0, I) \tag{2.13}$$
#
# For $t > 1$ the $\epsilon$ of the proof is a weighted sum of $\epsilon_1, \dots, \epsilon_t$. When we sample, we draw
# a fresh one instead. So closed form and walk agree in *distribution* at any one $t$. But two closed-form samples
# drawn on their own, one of $x_{t-1}$ and one of $x_t$, are not neighbours on one walk.
#
# In the notation of papers (Ho et al. 2020, equations 2 and 4), $q(a \mid b)$ says how likely each value of $a$ is
# once $b$ is known, and $\mathcal{N}(x;\, m, v)$ is the height of the bell curve at $x$. The step is
# $q(x_t \mid x_{t-1}) = \mathcal{N}(x_t;\, \sqrt{1-\beta_t}\, x_{t-1},\, \beta_t I)$, and the closed form is
# $q(x_t \mid x_0) = \mathcal{N}(x_t;\, \sqrt{\bar\alpha_t}\, x_0,\, (1-\bar\alpha_t) I)$.
#
# ### Exercise 2.2 - `q_sample`
#
# Write the closed form (2.13). `x0` and `noise` have shape (B, C, H, W); `t` has shape (B,), so each image has a step
# of its own. The tables `schedule.sqrt_alpha_bar` and `schedule.sigma` hold both square roots for all steps, so
# `schedule.sigma[t]` has shape (B,), too. `per_image` gives such numbers the axes that let each multiply its own
# image:

# %% tags=["nbval-check-output"]
steps = torch.tensor([3, 500, 1000])  # three images, three steps
print(tuple(sigma[steps].shape), tuple(per_image(sigma[steps], images[:3]).shape))


# %% tags=["exercise", "nbval-check-output"]
def q_sample(schedule, x0, t, noise):
    x_t = ...  # one line, or three
    return x_t


q_sample = check(q_sample)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `per_image(schedule.sigma[t], x0)` is one of the two weights. The noise is an argument again.
#
# </details>
#
# ## Closed form against walk
#
# Take one pixel, 0.8. Walk 300 small steps, 100,000 times, and compare with the mean and the variance that (2.13)
# promises.

# %% tags=["nbval-check-output"]
steps, pixel, n = 300, 0.8, 100_000
walk = torch.full((n, 1), pixel)
for t in range(1, steps + 1):
    walk = forward_step(walk, schedule.beta[t].item(), torch.randn(n, 1, generator=generator))
mean, variance = pixel * signal[steps].item(), sigma[steps].item() ** 2
verify("2.13", samples=torch.cat([walk, (walk - mean) ** 2], 1), expected=[mean, variance])

# %%
panels, normal = {}, {}
for t in (100, 300, 1000):
    noise = torch.randn(n, 1, 1, 1, generator=generator)  # n images of one pixel
    x_t = q_sample(schedule, torch.full_like(noise, pixel), torch.full((n,), t), noise)
    panels[f"t = {t}"] = {"closed form": x_t.flatten()}
    normal[f"t = {t}"] = (pixel * signal[t].item(), sigma[t].item())
panels["t = 300"]["walk"] = walk[:, 0]
alt = "Histograms of closed-form samples at three steps; at 300 the outline of the walks lies on them"
show.plot_histograms(panels, columns=3, normal=normal, span=(-3, 3), alt=alt)

# %% [markdown]
# *The dashed lines are (2.13). In the middle panel the outline of 100,000 walks lies on the histogram of 100,000
# closed-form samples: 300 rounds of noise against one. At $t = 1000$ the pixel's 0.8 is gone. (Each panel has its own
# height scale.)*
#
# The variance can be had without chance, too. Follow each noise to the end of the walk: $\epsilon_s$ enters with
# weight $\sqrt{\beta_s}$ and is then shrunk by every later step, in all by $\sqrt{\bar\alpha_t / \bar\alpha_s}$.
# Squares of weights are variances. From $\beta_s = 1 - \bar\alpha_s / \bar\alpha_{s-1}$ follows
# $\beta_s / \bar\alpha_s = 1/\bar\alpha_s - 1/\bar\alpha_{s-1}$. In the sum over $s$ neighbours cancel, and
# $\bar\alpha_t\,(1/\bar\alpha_t - 1)$ is left:
#
# $$\sum_{s=1}^{t} \beta_s\, \frac{\bar\alpha_t}{\bar\alpha_s} = 1 - \bar\alpha_t \tag{2.14}$$

# %% tags=["nbval-check-output"]
alpha_bar = schedule.alpha_bar
for t in (1, 300, 1000):
    squares = schedule.beta[1 : t + 1] * alpha_bar[t] / alpha_bar[1 : t + 1]  # (t,)
    verify("2.14", squares.sum(), sigma[t] ** 2)

# %% tags=["figure-02_closed_form"]
steps = torch.tensor([1, 50, 100, 200, 300, 400, 500, 700, 1000])
noise = torch.randn(4, 9, 1, 28, 28, generator=generator)
rows = {
    str(data.labels[i].item()): q_sample(schedule, images[i].expand(9, -1, -1, -1), steps, noise[i]) for i in range(4)
}
alt = "Four digits at nine steps from 1 to 1000, ever noisier"
viz.image_rows(rows, titles=[str(t.item()) for t in steps], alt=alt)

# %% [markdown]
# *Where do you lose the digit? In these rows between 300 and 500, although at 400 $x_t$ still has the image with a
# weight of 0.44. Neighbouring pixels help the eye; a network can use all 784.*
#
# ## Two curves
#
# Everything that a schedule does to an image is in its two weights.

# %%
curves = {r"image: $\sqrt{\bar\alpha_t}$": signal, r"noise: $\sqrt{1-\bar\alpha_t}$": sigma}
alt = "The weight of the image falls from 1 to 0, the weight of the noise rises from 0 to 1"
viz.plot_curves(curves, ylabel="weight", alt=alt)
crossing = int((signal < sigma).nonzero()[0])
print(
    f"the noise outweighs the image from step {crossing} on; weights of step 400: {signal[400]:.3f} and {sigma[400]:.3f}"
)

# %% [markdown]
# *The squares of the two weights add up to 1 at every step, so the curves cross at $1/\sqrt 2$: early, after about a
# quarter of the steps. From step 700 on the image has a weight below 0.1.*
#
# One number holds both weights, the **signal-to-noise ratio** (SNR), the variance of the signal over that of the
# noise, with the image itself counted as variance 1:
#
# $$\mathrm{SNR}_t = \frac{\bar\alpha_t}{1-\bar\alpha_t} \tag{2.15}$$
#
# It falls from infinity at step 0 towards 0. Its logarithm gives $\bar\alpha_t$ back:
#
# $$\bar\alpha_t = \frac{1}{1 + e^{-\log \mathrm{SNR}_t}} \tag{2.16}$$
#
# ### Exercise 2.3 - `snr`
#
# Return the SNR of every step, shape (T+1,), in float32, as the tables are. Mind the digits: at $t = 1$,
# $1 - \bar\alpha_t$ is a small difference of two 32-bit numbers close to 1. A table holds the same variance to more
# digits.


# %% tags=["exercise", "nbval-check-output"]
def snr(schedule):
    ratio = ...  # (T+1,)
    return ratio


snr = check(snr)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `schedule.sigma` is a square root; the variance of the noise is its square. (`1 - schedule.alpha_bar` is right on
# paper, but at $t = 1$ it subtracts 0.9999 from 1, and four of its seven digits are lost.)
#
# </details>

# %% tags=["nbval-check-output"]
exact = (1 - schedule.beta[1:].double()).cumprod(0)  # alpha_bar once more, in 64 bits
verify("2.15", snr(schedule)[1:].log(), (exact / (1 - exact)).log(), tol=1e-6)
verify("2.16", snr(schedule)[1:].log().sigmoid(), alpha_bar[1:])  # sigmoid(z) is 1 / (1 + exp(-z))

# %% [markdown]
# ## A trap: too few steps
#
# A thousand steps are slow, so let us take fewer: $T = 50$, 200 or 300, with the same ends 0.0001 and 0.02, as some
# tutorials do. Guess: how much of the image is left at the last step?

# %% tags=["nbval-check-output"]
print("    T   alpha_bar_T   weight of the image   weight of the noise")
for T in (50, 200, 300, 1000):
    short = linear_schedule(T, rescale=False)
    print(f"{T:5}   {short.alpha_bar[T]:11.5f}   {short.sqrt_alpha_bar[T]:19.4f}   {short.sigma[T]:19.4f}")

# %%
rows = {}
noise = torch.randn(8, 1, 28, 28, generator=generator)
for T in (50, 200, 300, 1000):
    rows[f"T = {T}"] = q_sample(linear_schedule(T, rescale=False), images[:8], torch.full((8,), T), noise)
rows["pure noise"] = noise
alt = "The last step of four schedules: at T = 50 digits, at 200 shadows of digits, then noise"
viz.image_rows(rows, alt=alt)

# %% [markdown]
# *The last step of each schedule, with the same noise in every row. At $T = 50$ the digits are plain, at 200 shadows,
# and at 300 you see noise. Is 300 good enough, then?*
#
# The sampler will start from $\mathcal{N}(0, I)$, the last row. The network was trained on the row of its own $T$. To
# see what an eye does not, average all pixels of an image. That keeps the image's share and averages the noise away;
# for one image, over many draws of the noise,
#
# $$\mathbb{E}[\,\mathrm{mean}(x_T)\,] = \sqrt{\bar\alpha_T}\; \mathrm{mean}(x_0) \tag{2.17}$$
#
# and for pure noise this mean over 784 pixels is 0 on average, with a standard deviation of $1/\sqrt{784} = 1/28$.

# %% tags=["nbval-check-output"]
short = linear_schedule(300, rescale=False)
one, last = images[:1].expand(4000, -1, -1, -1), torch.full((4000,), 300)
noise = torch.randn(one.shape, generator=generator)
means = q_sample(short, one, last, noise).mean((1, 2, 3))  # (4000,)
verify("2.17", samples=means, expected=short.sqrt_alpha_bar[300] * images[0].mean())

# %%
panels = {}  # of 4,000 different images
for T in (50, 200, 300, 1000):
    s = linear_schedule(T, rescale=False)
    ends = q_sample(s, images[:4000], torch.full((4000,), T), noise).mean((1, 2, 3))
    panels[f"T = {T}"] = {"mean of $x_T$": ends, "mean of noise": noise.mean((1, 2, 3))}
    print(f"T = {T:4}: {abs(ends.mean()) * 28:5.2f} standard deviations from the mean of noise")
normal = dict.fromkeys(panels, (0.0, 1 / 28))
alt = "Mean brightness of the last step against that of noise, for four schedules"
show.plot_histograms(panels, normal=normal, span=(-0.8, 0.3), alt=alt)

# %% [markdown]
# *Blue: the mean pixel of $x_T$, over 4,000 images. Orange: that of noise, where the sampler starts. At $T = 300$,
# where the eye saw noise, the two histograms hardly overlap. A network trained with this schedule has hardly ever met
# an image like the ones that the sampler hands it, and the loss shows nothing of this. Case 11 of [notebook
# 13](13_debugging_clinic.ipynb) shows what becomes of a perfect network's samples at an even shorter $T$; [notebook
# 10](10_libraries.ipynb) trains a small one at $T = 300$, with a surprise.*
#
# ### The repair
#
# What decides is the sum of the betas: $\log \bar\alpha_T = \sum_t \log(1 - \beta_t) \approx -\sum_t \beta_t$. For
# 1000 steps it is about 10, and $e^{-10}$ is small. Fewer steps must be larger. Multiply all betas by $1000/T$, as the
# published code of Nichol & Dhariwal (2021) does, and the sum is the same for every $T$:
#
# $$\sum_{t=1}^{T} \frac{1000}{T}\, \beta_t = 1000 \cdot \frac{\beta_1 + \beta_T}{2} \tag{2.18}$$
#
# ### Exercise 2.4 - `linear_beta`
#
# Return the betas of a linear schedule with `T` steps, both ends rescaled by $1000/T$. The result has `T + 1` entries,
# and entry 0 is the clean image, with $\beta_0 = 0$.


# %% tags=["exercise", "nbval-check-output"]
def linear_beta(T, beta_1, beta_T):
    beta = torch.zeros(T + 1, dtype=torch.float64)
    beta[1:] = ...  # one line
    return beta


linear_beta = check(linear_beta)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `torch.linspace(first, last, count)` includes both ends. How many betas are there after the zero?
#
# </details>

# %% tags=["nbval-check-output"]
sums = [linear_beta(T, 1e-4, 0.02).sum() for T in (50, 200, 300, 1000)]
verify("2.18", torch.stack(sums), torch.full((4,), 1000 * (1e-4 + 0.02) / 2, dtype=torch.float64))
for T in (50, 200, 300, 1000):
    print(f"T = {T:4}: alpha_bar_T = {linear_schedule(T).alpha_bar[T]:.1e}")

# %% [markdown]
# *All small, though not equal: at $T = 50$ betas reach 0.4, where $\log(1 - \beta) \approx -\beta$ is rough. Rescaling
# is the default of `linear_schedule`, which refuses $T = 20$, where the last beta would reach 1. Whatever schedule you
# meet, print $\bar\alpha_T$ before you train.*
#
# ## Another shape: cosine
#
# The linear schedule spends many steps where next to nothing is left to destroy. The **cosine schedule** (Nichol &
# Dhariwal 2021, equation 17) starts from a curve $\bar\alpha_t$ that falls evenly in the middle and is flat at both
# ends, and reads the betas off it: $\beta_t = 1 - \bar\alpha_t / \bar\alpha_{t-1}$, at most 0.999 (without that cut
# the last would be 1). The 0.008 keeps the first betas from being too small.
#
# $$\bar\alpha_t = \frac{f(t)}{f(0)}, \qquad f(t) = \cos^2\!\Big(\frac{t/T + 0.008}{1.008} \cdot \frac{\pi}{2}\Big) \tag{2.19}$$

# %% tags=["nbval-check-output"]
cosine = cosine_schedule(1000)
t = torch.arange(1000, dtype=torch.float64)  # step T itself is the one where beta is cut to 0.999
f = torch.cos((t / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2
verify("2.19", cosine.alpha_bar[:1000], f / f[0])

# %%
trap = linear_schedule(300, rescale=False)
curves = {s.name: (torch.arange(1, s.T + 1) / s.T, snr(s)[1:].log()) for s in (schedule, cosine, trap)}
alt = "Log SNR of three schedules falls with t; the trap ends far above the others"
viz.plot_curves(curves, xlabel="t / T", ylabel="log SNR", level=0, alt=alt)
for s in (schedule, cosine):
    print(f"{s.name}: {(snr(s) < math.exp(-4)).float().mean():.0%} of the steps have log SNR below -4")

# %% [markdown]
# *Cosine crosses the thin line, where signal and noise are equal, in the middle; linear after a quarter, and sinks for
# a long time after that. For two thirds of the way the trap is as good as cosine, but it stops at -3: this plot is the
# quickest way to spot that.*
#
# ## The range of the data counts, too
#
# (2.15) counts the signal as if it had variance 1. Images in [-1, 1] have less, and the same images in [0, 1] have
# half their contrast, which enters squared:
#
# $$\mathrm{Var}[2x - 1] = 4\, \mathrm{Var}[x] \tag{2.20}$$

# %% tags=["nbval-check-output"]
x = data.images[:1000].double() / 255  # in [0, 1]
verify("2.20", (2 * x - 1).var(), 4 * x.var())

# %%
print(f"variance of the pixels: {(2 * x - 1).var():.2f} in [-1, 1], {x.var():.2f} in [0, 1]")

# %%
steps = torch.tensor([1, 50, 100, 200, 300, 400, 500, 700, 1000])
noise = torch.randn(9, 1, 28, 28, generator=generator)
half = q_sample(schedule, (images[:1].expand(9, -1, -1, -1) + 1) / 2, steps, noise)
rows = {
    "data in [-1, 1]": q_sample(schedule, images[:1].expand(9, -1, -1, -1), steps, noise),
    "data in [0, 1]": 2 * half - 1,
}
alt = "The same digit and noise; with data in [0, 1] it fades much earlier"
viz.image_rows(rows, titles=[str(t.item()) for t in steps], alt=alt)

# %% [markdown]
# *Same digit, noise and schedule; each row is shown on the scale of its own data. With [0, 1] the digit is gone by
# $t = 300$: the variance of signal over that of noise is 4 times smaller. The row also turns dark, because noise has
# mean 0, and in [0, 1] 0 is black. No message appears.*
#
# ## Explore
#
# Move the slider; change the schedule where the digits are about to vanish. (Where Python cannot run, the strip below
# shows the same.)

# %%
trio = [schedule, cosine, trap]
noise = torch.randn(8, 1, 28, 28, generator=generator)
viz.explore(show.forward_frames(trio, images[:8], noise), menu="schedule")

# %% tags=["figure-02_schedules"]
rows, shares = {}, torch.linspace(0.1, 1, 10)
for s in trio:
    steps = (shares * s.T).round().long()
    rows[s.name] = q_sample(s, images[:1].expand(10, -1, -1, -1), steps, noise[:1].expand(10, -1, -1, -1))
alt = "One digit under three schedules, at ten shares of T"
viz.image_rows(rows, titles=[f"{share:.0%}" for share in shares], alt=alt)

# %% [markdown]
# *Linear looks like noise from half time on, the other two keep the digit visible to about 70 %. At the right edge you
# see no difference between the rows, although the trap still has the image with a weight of 0.22.*
#
# How much does the closed form save? Time it once: the walk to step 1000 against one call of `q_sample`, for 16
# images.

# %%
batch, noise = images[:16], torch.randn(16, 1, 28, 28, generator=generator)
start = time.perf_counter()
for t in range(1, 1001):
    batch = forward_step(batch, schedule.beta[t].item(), torch.randn(noise.shape, generator=generator))
walked = time.perf_counter() - start
start = time.perf_counter()
at_once = q_sample(schedule, images[:16], torch.full((16,), 1000), noise)
print(f"walk {walked * 1000:.0f} ms, closed form {(time.perf_counter() - start) * 1000:.2f} ms")

# %% [markdown]
# ## What to remember, and what broke
#
# - Shrink by $\sqrt{1-\beta}$, add noise of variance $\beta$: the only distribution that this leaves alone is
#   $\mathcal{N}(0, I)$, because by (2.13) every start ends there.
# - Any number of steps has a closed form, $x_t = \sqrt{\bar\alpha_t}\, x_0 + \sqrt{1-\bar\alpha_t}\, \epsilon$. One
#   random $t$, one line, one training example.
# - "Exactly" holds up to $\bar\alpha_T$, which is 0.00004 for the linear schedule of 1000 steps. For any other
#   schedule, print it.
#
# **What broke:** nothing here goes back. A sampler has to undo a step: draw $x_{t-1}$ given $x_t$. That depends on
# which images exist, and (2.4) does not know any. The closed form is no help either: to guess $x_0$ from $x_T$ in one
# go is the grey cloud of [notebook 01](01_corrupt_and_predict.ipynb). We need a model that learns to undo *small*
# steps, and a loss. The usual one is the squared error of the predicted noise. Why that? [Notebook
# 03](03_likelihood_bound.ipynb) starts from the likelihood of the data and derives it.
#
# ### Experiments to try
#
# - In the picture of the three starts, replace the noise by uniform noise of variance 1, once with $\beta = 0.02$
#   and once with $\beta = 0.9$. Where does the process end now, and which equation above would be wrong?
# - Find the smallest $T$ for which the *unscaled* linear schedule ends with a mean pixel less than half a standard
#   deviation (1/56) from 0.
# - A constant beta for $T = 1000$: which value gives the same $\bar\alpha_T$ as the linear schedule?
