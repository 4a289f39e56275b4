# %% [markdown]
# # Sampling: a thousand steps, or fifty
#
# ![Thirty-two squares of noise turn into handwritten digits, over and over](../figures/08_reverse.gif)
#
# *A thousand steps of Algorithm 2, run by the code of this notebook; 19 moments are shown. Watch one square: when do
# you first know which digit it will be? The network knows earlier.*
#
# **You will** turn a trained network into images with 1000 random steps, then derive a second way down that needs 50
# and no randomness, and use it to blend digits and to run images backwards into noise. **You need** the posterior from
# [notebook 04](04_bound_to_noise.ipynb) or its result on trust; nothing is trained here. **Time** 70 minutes of
# reading; the cells run in about 3 minutes on 2 CPU cores.

# %% tags=["setup"]
REPO = ""  # owner/name on GitHub; `make badges REPO=owner/name` fills it in
try:
    import ddpm_helpers
except ImportError:
    assert REPO, "The helper module is missing: start this notebook with `make lab`, or see Colab in the README."
    get_ipython().run_line_magic("pip", f"install -q git+https://github.com/{REPO}")

import math
import time
from itertools import pairwise

import torch

from ddpm_helpers import Step, budget, check, ddim_invert, ddim_trajectory, default_device
from ddpm_helpers import image_noise, load_images, load_pretrained, predict_x0, q_sample, sample
from ddpm_helpers import to_float, verify, viz
from ddpm_helpers.lessons import show
from ddpm_helpers.lessons.toy import double

device = default_device()
generator = torch.Generator().manual_seed(0)

# %% [markdown]
# ## The network, and where it comes from
#
# [Notebook 07](07_train_ddpm.ipynb) left it to a function to make images of predictions. This notebook opens that
# function. The network is shipped with the course: a U-Net ([notebook 06](06_unet.ipynb)), wider than those of notebook
# 07, that learned to predict the noise in 14,000 steps, with weighted timestep sampling
# ([(16.4)](16_targets_and_weights.ipynb)). Its file holds the recipe, too.

# %%
model, schedule, recipe = load_pretrained("mnist", device)
for name, value in recipe.items():
    print(f"{name:14} {value}")
print(schedule)

# %% [markdown]
# *The loss is the mean squared error per pixel of the velocity that belongs to the predicted noise,
# [(16.1)](16_targets_and_weights.ipynb). The last line is the schedule ([notebook 02](02_forward_process.ipynb)):
# sampling must use the one that the network was trained with. Today the command is `python -m ddpm_helpers.cli
# --weighted --steps 14000 --base 48 --export mine.safetensors`. The very last steps weigh so little that this run never
# drew them: at $t = T$, where each sample begins, the network goes by what it learned below.*
#
# Does it work? Here are 16 images, by the method that the second half of this notebook derives.

# %%
start = time.perf_counter()
grid = sample(model, schedule, 16, steps=50)
print(f"16 digits in 50 steps: {time.perf_counter() - start:.1f} seconds on {device.type}")
viz.image_grid(grid, columns=4, alt="Sixteen sampled digits in a 4 x 4 grid")

# %% [markdown]
# *How many would you take for handwriting? Keep the number in mind. It is an opinion; [notebook
# 09](09_evaluation.ipynb) measures.*
#
# ### A promise about seeds
#
# A picture that cannot be made again cannot be discussed. In this course image number $i$ depends on the seed and on
# $i$, and on nothing else. `image_noise` keeps the promise by giving every image a random stream of its own; it returns
# a function, and each call of that function draws the next noise of these images.

# %%
shape = (1, 28, 28)
together, two = image_noise(seed=0, images=range(16), shape=shape)(), image_noise(seed=0, images=[11, 3], shape=shape)()
print("images 11 and 3 get the same noise alone as among 16:", torch.equal(two, together[[11, 3]]))
again = sample(model, schedule, 4, steps=50, batch_size=3)
print(f"largest difference of the first 4 images, made 3 at a time: {(again - grid[:4]).abs().max():.1g}")

# %% [markdown]
# *The noise is equal to the last bit. The images can differ in late digits, because a network may add up its numbers in
# another order when the batch has another size.*
#
# ## Algorithm 2
#
# We have a network that predicts noise, $\hat\epsilon = \epsilon_\theta(x_t, t)$. We need a step from $x_t$ to
# $x_{t-1}$. It is made of three things: a guess, the posterior, and fresh noise. (Blue is signal, orange is noise,
# green is what the network contributes; $\alpha_t = 1 - \beta_t$.)
#
# **A guess at the clean image.** The closed form $x_t = \sqrt{\bar\alpha_t}\,x_0 + \sigma_t\,\epsilon$, with
# $\sigma_t = \sqrt{1 - \bar\alpha_t}$, solved for $x_0$, with the predicted noise in place of the true one:
#
# $${\color{#009E73}{\hat x_0}} = \frac{x_t - \sigma_t\, {\color{#009E73}{\hat\epsilon}}}{\sqrt{\bar\alpha_t}} \tag{8.1}$$
#
# **The posterior.** If the clean image were known, $x_{t-1}$ would be Gaussian [(4.3)](04_bound_to_noise.ipynb). Put
# the guess in its place, and the mean is a mix of the guess and of where we are:
#
# $${\color{#009E73}{\hat\mu}} = \frac{\sqrt{\bar\alpha_{t-1}}\; \beta_t}{\sigma_t^2}\, {\color{#009E73}{\hat x_0}}
# + \frac{\sqrt{\alpha_t}\; \sigma_{t-1}^2}{\sigma_t^2}\, x_t \tag{8.2}$$
#
# Put (8.1) into (8.2) and $\hat x_0$ disappears, as in [(4.9)](04_bound_to_noise.ipynb). This is how the paper writes
# it (Ho et al. 2020, equation 11):
#
# $${\color{#009E73}{\hat\mu}} = \frac{1}{\sqrt{\alpha_t}} \Big(x_t - \frac{\beta_t}{\sigma_t}\, {\color{#009E73}{\hat\epsilon}}\Big) \tag{8.3}$$
#
# We check these three formulas where the noise is known. `exact` holds the tables of our schedule in 64 bits.

# %% tags=["nbval-check-output"]
exact, t = double(schedule), 400
x0 = grid[:4].cpu().double().clamp(-1, 1)  # (4, 1, 28, 28)
noise = torch.randn(x0.shape, generator=generator, dtype=torch.float64)
x_t = q_sample(exact, x0, torch.full((4,), t), noise)
x0_hat = (x_t - exact.sigma[t] * noise) / exact.sqrt_alpha_bar[t]
verify("8.1", x0_hat, x0, tol=1e-9)

# %% tags=["nbval-check-output"]
alpha, beta, sigma, signal = exact.alpha, exact.beta, exact.sigma, exact.sqrt_alpha_bar
of_guess = signal[t - 1] * beta[t] / sigma[t] ** 2
of_x_t = alpha[t].sqrt() * sigma[t - 1] ** 2 / sigma[t] ** 2
mean = of_guess * x0_hat + of_x_t * x_t
pull, hold = alpha[t].sqrt() / beta[t] * x_t, signal[t - 1] / sigma[t - 1] ** 2 * x0_hat  # Bayes: two Gaussians in x_{t-1}
verify("8.2", mean, (pull + hold) / (alpha[t] / beta[t] + 1 / sigma[t - 1] ** 2), tol=1e-9)
verify("8.3", mean, (x_t - beta[t] / sigma[t] * noise) / alpha[t].sqrt(), tol=1e-9)
print(f"at t = {t} the guess has weight {of_guess:.4f}, the image at hand {of_x_t:.4f}")

# %% [markdown]
# *What (8.2) is compared with is computed from scratch, by multiplying two Gaussians. Look at the last line: a single
# step moves towards the guess by less than one part in a hundred. The guess may be poor, because it will be made anew
# 399 times.*
#
# **Fresh noise.** The posterior has a variance, so the step ends with a draw $z \sim \mathcal{N}(0, I)$. For its
# variance $s_t^2$ take $\beta_t$ for now:
#
# $$x_{t-1} = {\color{#009E73}{\hat\mu}} + {\color{#D55E00}{s_t\; z}}, \qquad s_t^2 = \beta_t, \qquad z = 0 \text{ at } t = 1 \tag{8.4}$$
#
# One thing is missing in the formulas. Images lie in [-1, 1], and the guess (8.1) may be far outside. So it is
# **clipped** to [-1, 1] before (8.2). (The paper's code clips, too. Its formula (8.3) cannot: there is no guess left in
# it.)
#
# ### Exercise 8.1 - `ddpm_step`
#
# Write the step: guess, clip, mean, noise. All images of a batch are at the same step, so `t` is an integer and the
# tables give plain numbers: `schedule.sigma[t]`, `schedule.sqrt_alpha_bar[t]`, `schedule.beta[t]`, `schedule.alpha[t]`.
# `eps` is what the network answered, `noise` is $z$; all images have shape (B, C, H, W).

# %% tags=["exercise", "nbval-check-output"]
def ddpm_step(schedule, x_t, t, eps, noise):
    x0_hat = ...  # (8.1), clipped to [-1, 1]
    mean = ...  # (8.2)
    x_before = ...  # (8.4): mind the last step
    return x_before


ddpm_step = check(ddpm_step)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `x0_hat.clamp(-1, 1)` clips. The weights of (8.2) are in the cell that checks it, for the tables in 64 bits. A
# variance is added as its square root times the noise. At `t == 1` return the mean.
#
# </details>
#
# A step is random, so we test its mean and its variance over 100,000 draws of one pixel.

# %% tags=["nbval-check-output"]
t, n = 5, 100_000
pixel, pixel_noise = 0.3, -0.4  # and what the network says about the noise in it
draws = torch.randn(n, 1, 1, 1, generator=generator, dtype=torch.float64)
before = ddpm_step(exact, torch.full_like(draws, pixel), t, torch.full_like(draws, pixel_noise), draws)
mean = (pixel - beta[t] / sigma[t] * pixel_noise) / alpha[t].sqrt()
moments = torch.stack([before, (before - mean) ** 2], 1).flatten(1)  # (n, 2)
verify("8.4", samples=moments, expected=[mean.item(), beta[t].item()])

# %% [markdown]
# That is all of **Algorithm 2**, or **ancestral sampling**. Line by line beside the loop below:
#
# | Algorithm 2 (Ho et al. 2020) | the loop below |
# |:--|:--|
# | 1: draw $x_T \sim \mathcal{N}(0, I)$ | `x = noise()` |
# | 2: for $t = T, \dots, 1$ | `for t in range(schedule.T, 0, -1)` |
# | 3: draw $z \sim \mathcal{N}(0, I)$ if $t > 1$, else $z = 0$ | `noise()`; your step ignores it at $t = 1$ |
# | 4: $x_{t-1}$ from $x_t$, $\epsilon_\theta(x_t, t)$ and $z$ | `eps = model(x, at)`, then `ddpm_step` |
# | 5, 6: end, return $x_0$ | `x`, after the loop |
#
# In addition we keep every $x$ and every guess: a `Step` is a tuple with the names `t`, `x` and `x0_hat`.

# %%
longest = budget(gpu=1000, cpu=1000, quick=100)  # the longest walk of the comparisons further down
n = 32 if longest == 1000 else 2
noise = image_noise(0, range(n), shape, device)
x, path, start = noise(), [], time.perf_counter()
for t in range(schedule.T, 0, -1):
    at = torch.full((n,), t, device=device)
    with torch.no_grad():
        eps = model(x, at)
    x0_hat = predict_x0(schedule, x, at, eps).clamp(-1, 1)
    x = ddpm_step(schedule, x, t, eps, noise())
    path.append(Step(t - 1, x, x0_hat))
print(f"{n} images in 1000 steps: {time.perf_counter() - start:.0f} seconds")

# %% [markdown]
# ### What the network sees on the way
#
# Guess before you look: at $t = 800$ you see noise. What does the network see?

# %% tags=["figure-08_guesses"]
ends = (999, 950, 900, 800, 700, 600, 500, 400, 300, 200, 100, 0)
kept = [step for step in path if step.t in ends]
rows = {}
for i in range(min(3, n)):
    rows[f"image {i}"] = torch.cat([step.x[i : i + 1] for step in kept])
    rows["its guess" + " " * i] = torch.cat([step.x0_hat[i : i + 1] for step in kept])
viz.image_rows(rows, titles=[str(t) for t in ends], alt="Three images at twelve steps, each above the clean image guessed there")

# %% [markdown]
# *For each image: where it is at step $t$, and below it the clean image that the network guessed on the way there. At
# 999 the guess is black and white, with no grey: (8.1) divides by almost nothing, and clipping stops the rest. Then it
# is a grey cloud, as in [notebook 01](01_corrupt_and_predict.ipynb): much is still open, and the answer is a mean. By
# the time that you find a digit in the upper row, the guess below has had it for a hundred steps or more. (A guess can
# be wrong: that of the first image looked like a 7, then like a 5, before it became a 4.)*
#
# The walk once more, in one picture that moves, and in one that you move.

# %% tags=["figure-08_reverse"]
moments = (750, 620, *range(540, -1, -36))
frames = [image_noise(0, range(n), shape)()] + [step.x for step in path if step.t in moments]
show.animate(frames, alt="An animation: squares of noise turn into handwritten digits, then start again")

# %%
eight = [Step(step.t, step.x[:8], step.x0_hat[:8]) for step in path]
viz.explore(show.trajectory_frames(eight))

# %% [markdown]
# *Push the slider slowly from the left, or press Play. In which column does the guess change its mind, and at which
# step is that over?*
#
# ## Four details that decide
#
# Algorithm 2 is short, and in each of its lines a small mistake can hide. We change one thing at a time. The starts and
# the noise stay those of the first images above, so each column shows what one change did. Three of the changes need a
# whole walk; they go side by side, with one call of the network per step for all (`chunk(3)` cuts its answer in three).
# What is changed stands in the three lines of `walks`: the course's own step has a switch for `clip` and one for
# `variance`.

# %%
step, few = ddpm_helpers.ddpm_step, min(8, n)
noise = image_noise(0, range(few), shape, device)
walks, reach = dict.fromkeys(("no noise", "no clipping", "posterior"), noise()), {}
for t in range(schedule.T, 0, -1):
    at = torch.full((3 * few,), t, device=device)
    with torch.no_grad():
        eps = model(torch.cat(list(walks.values())), at).chunk(3)
    reach[t] = predict_x0(schedule, walks["no clipping"], at[:few], eps[1]).abs().max().item()
    z = noise()
    walks = {
        "no noise": step(schedule, walks["no noise"], t, eps[0], 0 * z),
        "no clipping": step(schedule, walks["no clipping"], t, eps[1], z, clip=False),
        "posterior": step(schedule, walks["posterior"], t, eps[2], z, variance="posterior"),
    }

# %% [markdown]
# *Nothing to see yet. Guess each time.*
#
# ### No noise at the last step
#
# At $t = 1$ the mean is the image that we want, and noise on top is nothing but noise. How bad is it to forget that?

# %%
for name, last_beta in (("our schedule", beta[1].item()), ("linear with 50 steps", 0.002)):
    print(f"{name:20}: standard deviation {math.sqrt(last_beta):.4f}, {127.5 * math.sqrt(last_beta):.1f} grey levels of 255")
clean, z = path[-1].x[:few], image_noise(1, range(few), shape, device)()
rows = {"no noise": clean, "our beta": clean + beta[1].sqrt().item() * z, "50 steps": clean + 0.002**0.5 * z}
viz.image_rows(rows, alt="The same digits without noise at the last step, with a little, and with more")

# %% [markdown]
# *With our schedule the eye cannot tell: less than one grey level. Such a mistake lives until somebody takes the code
# to another schedule. The last row has the $\beta_1 = 0.002$ of a linear schedule with 50 steps: its black is not black
# any more.*
#
# ### Noise at all the other steps
#
# Then why add any? Guess before you run: with $z = 0$ at *all* steps, do the digits come out cleaner, blurred, or not
# at all?

# %%
def spread(images):
    """Mean distance between two of the images."""
    flat = images.flatten(1).cpu()
    return torch.cdist(flat, flat).sum().item() / (len(flat) * (len(flat) - 1))

print(f"mean distance between two images: {spread(clean):.1f} with noise, {spread(walks['no noise']):.1f} without")
viz.image_rows({"with noise": clean, "without": walks["no noise"]}, alt="Eight different digits; below, almost the same stroke eight times")

# %% [markdown]
# *Clean, and all the same: whatever the start, the walk ends at the same thin stroke. For data that are $\mathcal{N}(0,
# 1)$ the formula shows why: $x_t$ has variance 1, the share $\sigma_t^2$ of it is noise, so the best guess of
# $\sigma_t\, \epsilon$ is $\sigma_t^2\, x_t$, and (8.3) becomes $\sqrt{\alpha_t}\, x_t$. Without noise $T$ such steps
# leave $\sqrt{\bar\alpha_T}\, x_T$, almost 0 for every start. The noise of each step puts back the variance that the
# mean takes away. So leaving out the noise is not a way to a deterministic sampler. Remember this when you meet one
# below.*
#
# ### Clipping
#
# (8.1) divides by $\sqrt{\bar\alpha_t}$. Our schedule ends with a very small one, so near $t = T$ the smallest error of
# the network becomes an enormous error of the guess.

# %%
print(f"an error of the noise at t = T is multiplied by {(schedule.sigma[-1] / schedule.sqrt_alpha_bar[-1]).item():,.0f}")
of_guess = schedule.sqrt_alpha_bar[-2] * schedule.beta[-1] / schedule.sigma[-1] ** 2  # its weight in (8.2) at t = T
print(f"weight of the guess in the first of 1000 steps: {of_guess.item():.4f}, in that of 50: {schedule.sqrt_alpha_bar[980].item():.4f}")
for t in (1000, 990, 900, 500, 1):
    print(f"t = {t:4}: unclipped guesses reach {reach[t]:8.1f}")
rows = {"1000, clipped": clean, "1000, not": walks["no clipping"]}
rows |= {"50, clipped": grid[:few], "50, not": sample(model, schedule, few, steps=50, clip=False)}
viz.image_rows(rows, alt="The same starts with and without clipping: without it, some digits and much dirt in 1000 steps, and ruins in 50")

# %% [markdown]
# *The upper two rows take 1000 steps; the second is the bare formula (8.3). In the first step a guess beyond two
# thousand, with the weight 0.0016, moves the image by at most 3.4, beside noise of size 1. Three images got over it,
# two of them as other digits than above. In the other five the network met pixels such as no training image has,
# answered them wrongly, and the next steps built on it.*
#
# *The lower two rows take 50 steps of the method derived below. The first goes down to 980, where the guess weighs
# about 0.03; times two thousand that is more than 60, and is not repaired any more. All pictures are on one scale:
# rescaled by its own extremes a picture would hide such an error. Clipping uses a fact that the network need not learn:
# pixels stay between -1 and 1. But it makes another model, whose steps are no longer those of (8.2), and it hides how
# far off a network is.*
#
# ### Which variance?
#
# (8.4) used $s_t^2 = \beta_t$. The posterior has a smaller variance, $\tilde\beta_t$ [(4.2)](04_bound_to_noise.ipynb).
# Ho et al. (2020, section 3.2) tried both: $\beta_t$ is right for data that are noise already, $\tilde\beta_t$ for data
# that are one single image; the truth is in between. Their ratio:
#
# $$\frac{\tilde\beta_t}{\beta_t} = \frac{\sigma_{t-1}^2}{\sigma_t^2} = \frac{1 - \bar\alpha_{t-1}}{1 - \bar\alpha_t} \tag{8.5}$$

# %% tags=["nbval-check-output"]
posterior_variance = 1 / (alpha[2:] / beta[2:] + 1 / sigma[1:-1] ** 2)  # (T-1,): precisions add up
ratio = sigma[1:-1] ** 2 / sigma[2:] ** 2
verify("8.5", posterior_variance / beta[2:], ratio, tol=1e-9)
print("ratio at t = 2, 10, 100:", [f"{ratio[t - 2].item():.2f}" for t in (2, 10, 100)])

# %%
figure, axis = viz.subplots(size=(7, 2.6))
axis.semilogx(range(1, schedule.T + 1), torch.cat([torch.zeros(1), ratio]))
axis.set(xlabel="step t", ylabel="posterior variance / beta", ylim=(0, 1.05))
viz.show(figure, alt="The ratio of the two variances rises from 0 at t = 1 to nearly 1 at t = 100 and stays there")

# %%
print(f"mean difference of a pixel: {127.5 * (walks['posterior'] - clean).abs().mean():.1f} grey levels")
viz.image_rows({"beta": clean, "posterior": walks["posterior"]}, alt="Digits sampled with either variance: the rows look alike")

# %% [markdown]
# *The two differ in the last few steps only, the very steps that add next to no noise. So the two rows agree, digit by
# digit. The choice matters for the likelihood ([notebook 09](09_evaluation.ipynb)), where a wrong variance is paid for,
# and when there are few steps: a long step changes $\sigma$ so much that the ratio is well below 1 at many of them.*
#
# ## Another way down
#
# A thousand calls of the network for a batch of images. Can we leave some out? Algorithm 2 says no: it undoes the steps
# of a Markov chain, and there are $T$ of them. But look at what the network has learned from. Its loss contains the
# closed form, $q(x_t \mid x_0)$, one $t$ at a time, and nothing else. These distributions are the **marginals** of the
# process; two neighbours of one walk are never in the loss. So any other process with the same marginals would have led
# to the same network, and we may undo that one (Song, Meng & Ermon 2021).
#
# Let us build such a process. We want $x_s$ for any $s < t$, given $x_t$ and $x_0$. Both together tell the noise in
# $x_t$: $\epsilon = (x_t - \sqrt{\bar\alpha_t}\, x_0) / \sigma_t$. Keep some of it, and add some fresh noise $z$ with a
# standard deviation $\varphi$ between 0 and $\sigma_s$:
#
# $$x_s = {\color{#0072B2}{\sqrt{\bar\alpha_s}\; x_0}} + {\color{#D55E00}{\sqrt{\sigma_s^2 - \varphi^2}\; \epsilon + \varphi\, z}} \tag{8.6}$$
#
# Given $x_0$ alone, $\epsilon$ and $z$ are independent standard Gaussians, so the orange part has the variance
# $(\sigma_s^2 - \varphi^2) + \varphi^2 = \sigma_s^2$. That is the closed form at $s$, exactly, **for every $\varphi$
# and every $s$**. Run it: draw $x_{600}$ in closed form, go to $s = 200$ by (8.6) with three different $\varphi$, and
# ask for the moments of the closed form there.

# %% tags=["nbval-check-output"]
t, s, n_draws = 600, 200, 200_000
x_0, eps_true = 0.8, torch.randn(n_draws, generator=generator, dtype=torch.float64)
x_t = signal[t] * x_0 + sigma[t] * eps_true
for phi in (0.0, 0.1, sigma[s].item()):
    z = torch.randn(n_draws, generator=generator, dtype=torch.float64)
    eps = (x_t - signal[t] * x_0) / sigma[t]
    x_s = signal[s] * x_0 + (sigma[s] ** 2 - phi**2).sqrt() * eps + phi * z
    centred = torch.stack([x_s, (x_s - signal[s] * x_0) ** 2], 1)  # (n_draws, 2)
    verify("8.6", samples=centred, expected=[(signal[s] * x_0).item(), (sigma[s] ** 2).item()])

# %% [markdown]
# Sampling replaces $x_0$ and $\epsilon$ by what the network predicts, as before. Song, Meng & Ermon (equation 16) give
# the dial $\varphi$ a scale from $\eta = 0$ to $\eta = 1$:
#
# $$\varphi = \eta\; \frac{\sigma_s}{\sigma_t} \sqrt{1 - \frac{\bar\alpha_t}{\bar\alpha_s}} \tag{8.7}$$
#
# Why this? Take $\eta = 1$ and $s = t - 1$. Then $\bar\alpha_t / \bar\alpha_s = \alpha_t$, the root is
# $\sqrt{\beta_t}$, and $\varphi^2 = \beta_t\, \sigma_{t-1}^2 / \sigma_t^2$ is the variance of the posterior. The whole
# step is then the step of Algorithm 2 with that variance. Both claims are run.

# %% tags=["nbval-check-output"]
a_bar, eta = exact.alpha_bar, 1.0
phi = eta * sigma[1:-1] / sigma[2:] * (1 - a_bar[2:] / a_bar[1:-1]).sqrt()  # all t from 2 to T at once, s = t - 1
verify("8.7", phi**2, posterior_variance, tol=1e-9)
x_t, eps, z = torch.randn(3, 4, 1, 28, 28, generator=generator, dtype=torch.float64)
for t in (2, 100, 1000):
    ddim = ddpm_helpers.ddim_step(exact, x_t, t, t - 1, eps, z, eta=eta)
    ddpm = ddpm_helpers.ddpm_step(exact, x_t, t, eps, z, variance="posterior")
    verify("8.7", ddim, ddpm, tol=1e-9)

# %% [markdown]
# ## DDIM: no noise at all
#
# The other end of the dial is $\eta = 0$: no fresh noise, and the whole of the predicted noise is put back at the
# strength of step $s$. This is the step of **DDIM**, the denoising diffusion *implicit* model:
#
# $$x_s = \sqrt{\bar\alpha_s}\; {\color{#009E73}{\hat x_0}} + \sigma_s\, {\color{#009E73}{\hat\epsilon}} \tag{8.8}$$
#
# The walk that collapsed above took the mean and dropped the noise, so its variance shrank. Here the weights are those
# of the closed form, so an $x_s$ looks as noisy as step $s$ should.
#
# One trap, and it is about clipping again. After $\hat x_0$ is clipped, $\hat\epsilon$ no longer fits:
# $\sqrt{\bar\alpha_t}\,\hat x_0 + \sigma_t \hat\epsilon$ would not be $x_t$. So the noise is computed once more from
# $x_t$ and the clipped $\hat x_0$.
#
# ### Exercise 8.2 - `ddim_step`
#
# Write (8.8): from step `t` down to step `s`, both integers, with clipping and with the noise that fits the clipped
# guess.

# %% tags=["exercise", "nbval-check-output"]
def ddim_step(schedule, x_t, t, s, eps):
    x0_hat = ...  # (8.1), clipped to [-1, 1]
    eps = ...  # the noise in x_t if x0_hat is right
    x_s = ...  # (8.8)
    return x_s


ddim_step = check(ddim_step)

# %% [markdown]
# <details><summary>Hint</summary>
#
# The second line is the closed form solved for the noise: `(x_t - schedule.sqrt_alpha_bar[t] * x0_hat) /
# schedule.sigma[t]`. The tables are read at `t` in the first two lines, and at `s` in the third.
#
# </details>
#
# The test: if the prediction is perfect, the step from $t$ must land on $x_s$ as the closed form makes it of the same
# noise.

# %% tags=["nbval-check-output"]
true_noise = torch.randn(x0.shape, generator=generator, dtype=torch.float64)
x_700 = q_sample(exact, x0, torch.full((4,), 700), true_noise)
x_200 = q_sample(exact, x0, torch.full((4,), 200), true_noise)
verify("8.8", ddim_step(exact, x_700, 700, 200, true_noise), x_200, tol=1e-9)

# %% [markdown]
# ### Which steps?
#
# With $n$ steps, spread them evenly over $T$. The first one must be $T$, since the start is pure noise. The last one
# ends at 0.
#
# ### Exercise 8.3 - `ddim_steps`
#
# `steps` is the number $n$. Return a list of the $n$ steps at which the network is asked, largest first, 0 left out.
# The $i$-th from the end is $T\, i / n$, rounded down. `ddim_steps(1000, 4)` is `[1000, 750, 500, 250]`.

# %% tags=["exercise", "nbval-check-output"]
def ddim_steps(T, steps):
    chosen = ...  # a list of integers
    return chosen


ddim_steps = check(ddim_steps)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `range(steps, 0, -1)` counts $i$ down from $n$ to 1. `//` divides integers and rounds down.
#
# </details>
#
# With these two functions the sampler is a short loop, for which `pairwise` makes the pairs (1000, 980), (980, 960),
# ..., (20, 0).

# %%
chosen = ddim_steps(schedule.T, 50)
begin = image_noise(0, range(16), shape, device)()
x, start = begin, time.perf_counter()
for t, s in pairwise([*chosen, 0]):
    with torch.no_grad():
        eps = model(x, torch.full((16,), t, device=device))
    x = ddim_step(schedule, x, t, s, eps)
print(f"16 images in 50 steps: {time.perf_counter() - start:.1f} seconds")
print(f"largest difference from the grid at the top: {(x - grid).abs().max():.1g}")

# %% [markdown]
# *These are the sixteen digits of the first picture: `sample(..., steps=50)` runs this loop. `ddim_trajectory` yields
# its steps one by one; `*_, last = ...` keeps the last.*
#
# ## How few are enough?
#
# Now the same starts with ever fewer steps. Guess before you run: which row is the first that you would send back?

# %% tags=["figure-08_steps"]
counts = [c for c in (1000, 250, 100, 50, 20, 10, 5) if c <= longest]
begin = image_noise(0, range(12 if longest == 1000 else 4), shape, device)()
ends, seconds = {}, {}
for count in counts:
    start = time.perf_counter()
    *_, last = ddim_trajectory(model, schedule, begin, count)
    ends[count], seconds[count] = last.x, time.perf_counter() - start
viz.image_rows({f"{c} steps": x for c, x in ends.items()}, alt="The same starts sampled by DDIM with fewer and fewer steps")

# %% [markdown]
# *But for the last column, the first four rows can hardly be told apart, so most of the thousand calls bought nothing
# that you can see. The last column is the surprise: an 8, at 100 steps a 9, at 50 an 8 again. That start lies where two
# digits meet, and a small error tips it over. Further down strokes change, and whole digits do: long steps trust a
# guess that is still a cloud.*
#
# How far apart are the rows?

# %%
def distance(a, b):
    """Root of the mean squared difference of the pixels of two images; the median over all pairs."""
    return (a - b).square().mean((1, 2, 3)).sqrt().median().item()

far = {count: distance(x, ends[counts[0]]) for count, x in ends.items()}
other = distance(ends[counts[0]], ends[counts[0]].roll(1, 0))
for count in counts:
    print(f"{count:4} steps: {seconds[count]:6.1f} s, distance from {counts[0]} steps {far[count]:.3f}")
print(f"for comparison, two different starts: {other:.3f}")

# %%
figure, axis = viz.subplots(size=(6, 3))
axis.loglog(counts[1:], [far[c] for c in counts[1:]], "o-", label="measured")
guide = [far[counts[-1]] * counts[-1] / c for c in counts[1:]]
axis.loglog(counts[1:], guide, "--", color="black", linewidth=1, label="twice the steps, half the distance")
axis.set(xlabel="steps", ylabel=f"distance from {counts[0]} steps")
axis.legend(frameon=False)
viz.show(figure, alt="Distance from the longest run against the number of steps, both axes logarithmic: it falls")

# %% [markdown]
# *The time falls in proportion to the steps, because it is all spent in the network. The measured line is on the whole
# about as steep as the dashed one, which starts at the same point by choice; (8.9) will explain why. It is not smooth
# (100 steps come no closer than 50): the median of a dozen images is a rough measure. And it measures the distance to
# another run, not quality: a digit that differs may be as good a digit.*
#
# ### The first step is the dirtiest
#
# At $t = T$ the guess is dirt. With 1000 steps that does no harm: the next step is at 999, where a guess weighs next to
# nothing. With five steps the next one is at 800, where it weighs $\sqrt{\bar\alpha_{800}}$. Should the network rather
# be asked a little lower, at 950? A start of pure noise is then a small lie, since a true $x_{950}$ would hold some
# image.

# %%
steps = [950, 760, 570, 380, 190]
*_, lower = ddim_trajectory(model, schedule, begin, steps)
weights = schedule.sqrt_alpha_bar[[999, 950, 800]].tolist()
print("weight of the image at t = 999, 950, 800:", [f"{w:.4f}" for w in weights])
for name, x in {"5 steps from 1000": ends[5], "5 steps from 950": lower.x}.items():
    print(f"{name}: distance from {counts[0]} steps {distance(x, ends[counts[0]]):.3f}")
rows = {f"{counts[0]} steps": ends[counts[0]], "5 from 1000": ends[5], "5 from 950": lower.x}
viz.image_rows(rows, alt="The same starts with many steps, with five steps from 1000, and with five from 950")

# %% [markdown]
# *The median says that the five steps from 950 stay closer to the first row: their strokes are as bright and as thick.
# In columns 5 and 6 they keep a digit that the five from 1000 lose. But in columns 4, 7, 8, 9 and 12 they leave loops
# and specks that the others do not: the small lie at the start has its price, too. Where the steps lie matters, not
# only how many there are. Libraries differ in that, which is one reason why two of them give different images from the
# same weights.*
#
# ### With some noise
#
# Between the two ends of the dial, with ten steps:

# %%
rows = {}
for eta in (0.0, 0.5, 1.0):
    noise = image_noise(0, range(12), shape, device)
    *_, last = ddim_trajectory(model, schedule, noise(), 10, eta, noise)
    rows[f"eta = {eta}"] = last.x
viz.image_rows(rows, alt="Twelve starts in ten steps with three shares of fresh noise: the rows show different digits")

# %% [markdown]
# *With fresh noise the start does not decide alone any more. Which row is best? Song, Meng & Ermon (2021, table 1)
# found $\eta = 0$ ahead when steps are few, on other data. [Notebook 09](09_evaluation.ipynb) measures, and finds a
# surprise at fifty steps.*
#
# ## Why few steps are enough: it is a path
#
# Divide (8.8) by $\sqrt{\bar\alpha_s}$, put in (8.1), and write $\rho_t = \sigma_t / \sqrt{\bar\alpha_t}$ for the noise
# per signal (Song, Meng & Ermon 2021, equation 13):
#
# $$\frac{x_s}{\sqrt{\bar\alpha_s}} = \frac{x_t}{\sqrt{\bar\alpha_t}} + (\rho_s - \rho_t)\, {\color{#009E73}{\hat\epsilon}} \tag{8.9}$$
#
# This is [notebook 01](01_corrupt_and_predict.ipynb) again: **Euler's method**. The image, scaled, moves along a path
# whose slope with respect to $\rho$ is $\hat\epsilon$, and a DDIM step follows the tangent for a while. (A field's name
# for it is probability flow, [notebook 15](15_solvers.ipynb).) A path that bends little can be followed in few straight
# pieces, and an Euler path with half the step has about half the error, once the steps are short. This is the slope of
# the dashed line, as far as clipping and the first, very long step allow. Algorithm 2 has no such path: fresh noise
# kicks it off at every step.

# %% tags=["nbval-check-output"]
rho = sigma / signal
left = ddim_step(exact, x_700, 700, 200, true_noise) / signal[200]
verify("8.9", left, x_700 / signal[700] + (rho[200] - rho[700]) * true_noise, tol=1e-9)

# %% [markdown]
# A path has no dice, so the start decides everything. That makes the starts a space that we can walk in.
#
# ## Between two digits
#
# Take two starts $x$ and $y$, and go from one to the other. The straight line $(1-a)\,x + a\,y$ (**lerp**) has a flaw.
# Both ends are independent noise, and so variances add up:
#
# $$\mathrm{Var}[(1-a)\,x + a\,y] = (1-a)^2 + a^2 \tag{8.10}$$
#
# In the middle that is 1/2. The network was never shown noise that weak at $t = T$. In 784 dimensions this is no matter
# of luck: all noise images have a length close to $\sqrt{784} = 28$, and the straight line cuts through where there are
# none. The way around is an arc. With $\theta$ for the angle between $x$ and $y$ (**slerp**, Shoemake 1985):
#
# $$\begin{aligned}
# \mathrm{slerp}(x, y, a) &= \frac{\sin((1-a)\,\theta)}{\sin\theta}\, x + \frac{\sin(a\,\theta)}{\sin\theta}\, y, \\
# \cos\theta &= \frac{x \cdot y}{\lVert x \rVert\, \lVert y \rVert}
# \end{aligned} \tag{8.11}$$
#
# ### Exercise 8.4 - `slerp`
#
# `x` and `y` have shape (B, C, H, W), `amount` has shape (B,). Every image has its own angle to its partner.

# %% tags=["exercise", "nbval-check-output"]
def slerp(x, y, amount):
    angle = ...  # (B,)
    mixed = ...  # (B, C, H, W), (8.11)
    return mixed


slerp = check(slerp)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `x.flatten(1)` is (B, C H W), one long vector per image; `torch.cosine_similarity(a, b)` divides their product by both
# lengths, and `torch.acos` undoes the cosine. The two weights have shape (B,), so give them three more axes:
# `weight.reshape(-1, 1, 1, 1)`.
#
# </details>
#
# The check of (8.11) builds the arc in another way: it turns $x$ towards $y$ by the angle $a\,\theta$. Then two pairs
# of starts, nine places on the way each (`expand` repeats a start nine times, and copies nothing).

# %% tags=["nbval-check-output"]
x, y = torch.randn(2, 200_000, generator=generator, dtype=torch.float64)
quarter, half = 0.75 * x + 0.25 * y, 0.5 * x + 0.5 * y
verify("8.10", samples=torch.stack([quarter**2, half**2], 1), expected=[0.75**2 + 0.25**2, 0.5**2 + 0.5**2])
x, y = torch.randn(2, 1, 1, 28, 28, generator=generator, dtype=torch.float64)
y = y * x.norm() / y.norm()  # of one length
aside = y - (x * y).sum() / (x * x).sum() * x  # the part of y at a right angle to x
theta = torch.atan2(aside.norm(), (x * y).sum() / x.norm())
turned = (0.3 * theta).cos() * x + (0.3 * theta).sin() * aside * (x.norm() / aside.norm())
verify("8.11", slerp(x, y, torch.tensor([0.3], dtype=torch.float64)), turned, tol=1e-9)

# %% tags=["figure-08_between"]
amount, rows = torch.linspace(0, 1, 9, device=device), {}
ends_a, ends_b = image_noise(0, (1, 4), shape, device)(), image_noise(0, (6, 9), shape, device)()
for i in range(2 if longest == 1000 else 1):
    a, b = ends_a[i].expand(9, -1, -1, -1), ends_b[i].expand(9, -1, -1, -1)
    for name, begin in {"arc": slerp(a, b, amount), "line": torch.lerp(a, b, amount.reshape(-1, 1, 1, 1))}.items():
        *_, last = ddim_trajectory(model, schedule, begin, 50)
        rows[f"pair {i + 1}, {name}"] = last.x
    rows[f"pair {i + 1}, pixels"] = torch.lerp(last.x[:1], last.x[-1:], amount.reshape(-1, 1, 1, 1))
viz.image_rows(rows, titles=[f"{a:.2f}" for a in amount], alt="From one digit to another in nine steps: by arc, by line, and by fading pixels")

# %%
starts_a, starts_b = (image_noise(seed, range(24 if longest == 1000 else 6), shape, device)() for seed in (1, 2))
middle = torch.full((len(starts_a),), 0.5, device=device)
for name, begin in {
    "independent starts": starts_a,
    "middles of arcs": slerp(starts_a, starts_b, middle),
    "middles of lines": torch.lerp(starts_a, starts_b, 0.5),
}.items():
    *_, last = ddim_trajectory(model, schedule, begin, 50)
    print(f"{name:18}: standard deviation {begin.std():.2f}, mean distance between two images {spread(last.x):.1f}")

# %% [markdown]
# *In the rows "arc" and "line" every column is an image of its own, made by 50 steps from a start between two others;
# in the rows "pixels" two finished images fade into each other. Arc and line are both made of strokes all the way. So
# what is wrong with the line? Two rows hardly show it, an average over many pairs does: images from the middles of
# lines lie closer to each other. Starts with too little noise lead to more uniform digits. From the middles of arcs you
# get nearly the variety of fresh noise.*
#
# ## Backwards: which noise makes this image?
#
# Start at a clean image and take the steps (8.9) *up*, $\rho$ growing, with the noise that the network sees at each
# place. The end should be a start from which DDIM comes back to the image. That is **inversion**, and `ddim_invert`
# does it. We try it on real test digits.
#
# There is no clipping: a clipped value cannot be recovered. And we turn around at $t = 950$, where an error of the
# noise is multiplied by 13 in the guess, not by the 20,000 of $t = T$.

# %%
test = load_images("mnist", train=False)
print(test.source)
real = to_float(test.images[:8]).to(device)
counts, rows = (10, 25, 50, 95, 190) if longest == 1000 else (10, 25), {"image": real}
for count in counts:
    steps = range(950, 0, -950 // count)
    found = ddim_invert(model, schedule, real, steps)  # at t = 950
    *_, back = ddim_trajectory(model, schedule, found, steps, clip=False)
    if count in (counts[0], counts[-1]):
        rows |= {f"noise, {count}": found, f"back, {count}": back.x}
    print(f"{count:3} steps up, and down: off by {distance(back.x, real):.3f}; standard deviation of the noise {found.std():.2f}")
viz.image_rows(rows, alt="Real digits, the noise found for each, and what the way back makes of it, with few and with many steps")

# %% [markdown]
# *The number after each name is the count of steps. With 10 steps the way back misses: the tangent taken at the lower
# end of a step is not the one at its upper end. Twice the steps, half the error, as Euler's method promises.*
#
# *Now the surprise: the noise that was found is no draw from $\mathcal{N}(0, I)$. Its standard deviation is too small,
# you can see where the digit was, and a regular pattern lies around it. The way down turns every background, whatever
# noise it came from, into the same flat black. A flat black then does not tell which noise it came from, and on the way
# up there is nothing to make it from. Inversion finds **a** start that leads to the image, not one that anybody would
# have drawn.*
#
# Now both tools together: find the noise of two real digits, walk along the arc, and come down, again without clipping.

# %%
rows = {}
for i in (0, 2):  # with the noise and the steps found last
    begin = slerp(found[i].expand(9, -1, -1, -1), found[i + 1].expand(9, -1, -1, -1), amount)
    *_, last = ddim_trajectory(model, schedule, begin, steps, clip=False)
    rows[f"pair {i // 2 + 1}"] = last.x
viz.image_rows(rows, titles=[f"{a:.2f}" for a in amount], alt="One real digit becomes another in nine images")

# %% [markdown]
# *The two outer columns are real digits, sent up and back down; between them lies what the network puts there. What
# changes is strokes, though nobody defined for it what a stroke is. Look for a place where one digit tips over into
# another between two columns.*
#
# ## What to remember, and what broke
#
# - A step is a guess at the clean image, a mix of it with where you are, and fresh noise. No noise at the last step;
#   all the noise at the others; the guess clipped.
# - The network learned from $q(x_t \mid x_0)$ alone. Every process with those marginals can be undone with it:
#   Algorithm 2 with 1000 steps, or DDIM with 50 and no dice.
# - DDIM follows a path. Therefore the start decides, starts can be blended along arcs, and images can be led back to
#   noise.
#
# **What broke:** nothing failed, and that is the trouble. All that was measured is how far images lie from each other.
# Are the samples *good*? Are they *varied*, or is one digit missing? Are they *new*, or copies of training images?
# [Notebook 09](09_evaluation.ipynb) measures.
#
# ### Experiments to try
#
# - `load_pretrained("fashion")` at the top, and `load_images("fashion", train=False)` for the inversion. Which of the
#   four details matters more for clothing?
# - Give `ddim_trajectory` ten steps from 950 down that are not even: dense at the noisy end, or dense near 0. Which end
#   deserves them? ([Notebook 10](10_libraries.ipynb) shows one answer.)
# - Turn around at $t = 999$ instead of 950 when inverting. Then clip on the way down.
# - Start from $2\,x_T$ and from $x_T / 2$. What does too much noise do, if too little makes plain digits?
