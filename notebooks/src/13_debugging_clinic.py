# %% [markdown]
# # The debugging clinic: my loss is low, my samples are bad
#
# ![Sixteen rows of six pictures from broken systems, numbered: noise, dirt, grey, wrong digits, and digits like any](../figures/13_cases.png)
#
# *Sixteen diffusion models of 64 digits, each with one mistake in its code, seldom longer than a line. Of the two
# numbers beside a row the first belongs to the six pictures at the left, the second to those at the right. Which of the
# sixteen would you have shipped?*
#
# **You will** look at sixteen broken systems, decide what is wrong with each before you are told, and leave with a list
# of measurements for your own model. **You need** the loss from [notebook 04](04_bound_to_noise.ipynb) and the samplers
# from [notebook 08](08_sampling.ipynb). **Time** 45 minutes of reading; the cells run in about half a minute on 2 CPU
# cores.

# %% tags=["setup"]
REPO = ""  # owner/name on GitHub; `make badges REPO=owner/name` fills it in
try:
    import ddpm_helpers
except ImportError:
    assert REPO, "The helper module is missing: start this notebook with `make lab`, or see Colab in the README."
    get_ipython().run_line_magic("pip", f"install -q git+https://github.com/{REPO}")

import contextlib
import io

import torch

from ddpm_helpers import IdealDenoiser, budget, check, default_device, diagnose, linear_schedule
from ddpm_helpers import load_images, load_pretrained, q_sample, sample, to_float, verify, viz
from ddpm_helpers.lessons import clinic, quiz, show
from ddpm_helpers.lessons.diagnosis import loss_by_t

device = default_device()
generator = torch.Generator().manual_seed(0)

# %% [markdown]
# ## What the loss does not see
#
# The usual state of a diffusion model that does not work is this: the loss is low, and the samples are bad. There are
# two reasons. The loss is measured *with the process of the training loop*. If that mixes image and noise in a wrong
# way, the network learns to undo the wrong way, and is good at it. And the loss knows nothing of the sampler: what it
# starts from, what it adds, how often it asks, and what happens to the samples until somebody sees them.
#
# So a number from the log does not find the mistake. A picture seldom does, because many mistakes look alike. What
# finds it is a measurement that only one mistake can fail.

# %% tags=["figure-13_cases"]
data = load_images("mnist")
print(data.source)
images = to_float(data.images[:64])  # (64, 1, 28, 28) in [-1, 1]
show.show_cases(quiz.CASES, images)

# %% [markdown]
# *At the left, 8 looks as it should; at the right, 14 and 15 do, and 10 and 11 if you do not count. The framed white
# squares of 7 are pictures, and 16 is shown brighter than it is.*
#
# ## A patient that falls ill in a second
#
# To see what one mistake does, everything else must be right, and a trained network never is. So we take data for which
# the perfect network can be written down: 64 digits, each as likely as the others. Given $x_t$, image $x^{(i)}$
# explains it if the noise that is then left is likely. Bayes' rule turns that into a weight, and the best guess at the
# clean image, for the squared error, is the mean with these weights (Karras et al. 2022, appendix B.3):
#
# $$\begin{aligned}
# {\color{#009E73}{\hat x_0}} &= \sum_{i=1}^{N} w_i\, x^{(i)}, \\
# w &= \mathrm{softmax}_i \left( -\frac{\lVert x_t - \sqrt{\bar\alpha_t}\; x^{(i)} \rVert^2}{2\, \sigma_t^2} \right)
# \end{aligned} \tag{13.1}$$
#
# Here $\sigma_t^2 = 1 - \bar\alpha_t$. (Softmax: the exponentials, divided by their sum; the exponent is the log
# density of that noise, up to a constant.) A network that predicts noise would answer
#
# $${\color{#009E73}{\hat\epsilon}} = \frac{x_t - \sqrt{\bar\alpha_t}\; {\color{#009E73}{\hat x_0}}}{\sigma_t} = -\sigma_t\, \nabla_{x_t} \log q(x_t) \tag{13.2}$$
#
# where $q(x_t)$ is the density of all noisy images at step $t$: 64 Gaussians, one around each image.
#
# ### Exercise 13.1 - `ideal_x0`
#
# `images` has shape (N, C, H, W), `x_t` (B, C, H, W), and `signal` and `sigma` hold $\sqrt{\bar\alpha_t}$ and
# $\sigma_t$ of each $x_t$, shape (B,).

# %% tags=["exercise", "nbval-check-output"]
def ideal_x0(images, x_t, signal, sigma):
    distance = ...  # (B, N): squared, from each x_t to each image times the signal of that x_t
    weight = ...  # (B, N): the softmax of (13.1)
    mean = ...  # (B, C, H, W)
    return mean


ideal_x0 = check(ideal_x0)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `x_t.flatten(1)[:, None] - signal[:, None, None] * images.flatten(1)` has shape (B, N, D). `torch.softmax(..., 1)`, or
# `.softmax(1)`, runs over the images. `weight @ images.flatten(1)` is a mean of flat images; `reshape(x_t.shape)` makes
# it an image again.
#
# </details>
#
# Two checks that know nothing of each other. For data of two points, $-1$ and $1$, the weights are a sigmoid of $2
# \sqrt{\bar\alpha_t}\, x_t / \sigma_t^2$, and the mean is $\tanh(\sqrt{\bar\alpha_t}\, x_t / \sigma_t^2)$. And the
# right side of (13.2) is a gradient, which autograd finds from the density alone.

# %% tags=["nbval-check-output"]
schedule = linear_schedule(100)
signal, sigma = schedule.sqrt_alpha_bar[1:], schedule.sigma[1:]  # (100,)
points, x = torch.tensor([-1.0, 1.0]).reshape(2, 1, 1, 1), torch.linspace(-2, 2, 100)
verify("13.1", ideal_x0(points, x.reshape(100, 1, 1, 1), signal, sigma).flatten(), torch.tanh(signal * x / sigma**2), tol=1e-5)

# %% tags=["nbval-check-output"]
ideal, t = IdealDenoiser(images.double(), schedule), torch.tensor([10, 40, 60, 90])
noise = torch.randn(4, 1, 28, 28, generator=generator).double()
x_t = q_sample(schedule, images[:4].double(), t, noise).requires_grad_()
away = x_t.flatten(1)[:, None] - signal[t - 1, None, None] * images.double().flatten(1)  # (4, 64, 784)
log_q = torch.logsumexp(-away.square().sum(2) / (2 * sigma[t - 1, None] ** 2), 1)  # up to a constant
score = torch.autograd.grad(log_q.sum(), x_t)[0]
verify("13.2", ideal(x_t.detach(), t), -sigma[t - 1].reshape(4, 1, 1, 1) * score, tol=1e-5)

# %% [markdown]
# The **ideal denoiser**, `IdealDenoiser`, is (13.2) as a module, with nothing to train. Where a mistake lies in
# training, the clinic answers as a network would that was trained with it. Guess before you run: what does the sampler
# make of a perfect network?

# %%
good = clinic.healthy(images)
apart = torch.cdist(good.samples.flatten(1), images.flatten(1)).min(1).values
print(f"distance of a sample to the nearest of the 64 images: median {apart.median():.4f}")
print(f"for comparison, between two of the images:            median {torch.pdist(images.flatten(1)).median():.1f}")
viz.image_grid(good.samples[:16], alt="Sixteen samples of the ideal denoiser: clean handwritten digits")

# %% [markdown]
# *The samples are the data. The best possible network copies: new images come from networks that fall short of the
# optimum. For us it is a gift: whatever differs from these digits is the fault of the code.*
#
# ## The one curve to draw
#
# A single loss hides where it is bad. Measure it at each $t$ by itself. And compare it with something: the number 0.03
# is bad at $t = T$, where $x_t$ *is* the noise, and excellent at $t = 1$. The simplest competitor guesses the noise in
# each pixel from that pixel alone, as a **straight line** $a\, x_t + b$. If the pixel has the variance $v$ over the
# data, the share $h = \sigma_t^2 / (\bar\alpha_t v + \sigma_t^2)$ of the variance of $x_t$ is noise, and the best line
# calls that share of a deviation noise. By [(4.15)](04_bound_to_noise.ipynb), with $v$ for the mean of $d^2$, it leaves
# $(1 - h)^2 + \frac{\bar\alpha_t}{\sigma_t^2}\, h^2 v = 1 - h$, the share of the signal:
#
# $$\min_{a, b}\; \mathbb{E} \big( \epsilon - a\, x_t - b \big)^2 = \frac{\bar\alpha_t\, v}{\bar\alpha_t\, v + \sigma_t^2} \tag{13.3}$$
#
# A network that does clearly worse than that at some $t$ is ill, whatever its mean loss, or was not meant to be good
# there. (Clearly: above 1.1 times the line plus 0.0005. Close to $T$ the line itself goes to 0, and a healthy network
# stays a hair above it.)
#
# ### Exercise 13.2 - `straight_line_loss`
#
# Average (13.3) over the pixels. `images` has shape (N, C, H, W), `t` has shape (K,); return one number for each step,
# shape (K,). Take the variance as `torch.var` gives it.

# %% tags=["exercise", "nbval-check-output"]
def straight_line_loss(schedule, images, t):
    variance = ...  # (D,): of each pixel, over the images
    loss = ...  # (K, D): (13.3)
    mean = ...  # (K,)
    return mean


straight_line_loss = check(straight_line_loss)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `images.var(0)` is the variance over the first axis. `schedule.alpha_bar[t, None]` has shape (K, 1), and meets (D,) as (K, D).
#
# </details>
#
# The check takes one pixel of many images, adds noise, and lets least squares find $a$ and $b$.

# %% tags=["nbval-check-output"]
t, pixel = torch.tensor([20]), to_float(data.images[:5000, :, 14:15, 14:15])  # (5000, 1, 1, 1)
eps = torch.randn(20 * len(pixel), generator=generator)
x_t = schedule.sqrt_alpha_bar[t] * pixel.flatten().repeat(20) + schedule.sigma[t] * eps
table = torch.stack([x_t, torch.ones_like(x_t)], 1)
left = eps - table @ torch.linalg.lstsq(table, eps[:, None]).solution[:, 0]
verify("13.3", samples=left.square(), expected=straight_line_loss(schedule, pixel, t)[0])

# %%
t = torch.arange(1, 101)
curves = {"straight line": (t, straight_line_loss(schedule, images, t))}
curves["ideal"] = t, loss_by_t(good.model, schedule, images, t)
alt = "Loss by t: the straight line falls from 0.6 to 0, the ideal stays near 0"
viz.plot_curves(curves, ylabel="loss", alt=alt)

# %% [markdown]
# *The black of MNIST has no variance, so even a straight line finds the noise there, and the curve starts below 1. The
# ideal denoiser of 64 images is at almost 0 everywhere: they lie so far apart that it is seldom in doubt which one it
# sees. A network that learned from real data lies between the two.*
#
# ## How a case works
#
# A cell shows eight samples of the repaired system, below them eight of the broken one from the same starts, and beside
# them the loss **as its author measures it**, with the straight line for comparison. Then there are four diagnoses.
# Decide before you go on: the cells after it name the fault. Choose by the buttons, or by a line of code:
# `quiz.answer(1, "a")`. A wrong choice tells you what you would see if it were that. What settles the case, and the
# repair, are folded away.

# %% [markdown]
# ## Noise where a digit should be
#
# ### Case 1: the loss came down to 1, and stays
#
# The log says 1, give or take a little, for a day.

# %%
case = quiz.case(1)
show.show_case(case, images)
show.ask(case)

# %% [markdown]
# *The loss is level: no $t$ is easier than another. Nothing of the task has been learned, not even at $t = T$.*
#
# <details><summary>What settles it</summary>
#
# Print the shape of `prediction - noise`. It has four axes and one of them is too long. Then the best prediction is the
# mean of all noises of the batch, of which $1/B$ of one's own is known:
#
# $$\mathbb{E}\Big[ \frac{1}{B} \sum_{j=1}^{B} \epsilon_j \,\Big|\, \epsilon_i \Big] = \frac{\epsilon_i}{B} \tag{13.4}$$
#
# ```python
# # before
# loss = (model(x_t, t).squeeze(1) - noise).square().mean()  # (B, H, W) - (B, 1, H, W) is (B, B, H, W)
#
# # after
# loss = F.mse_loss(model(x_t, t), noise)  # one shape; and mse_loss warns where two shapes differ
# ```
#
# </details>

# %% tags=["nbval-check-output"]
prediction, noise = torch.zeros(16, 28, 28), torch.randn(16, 1, 28, 28, generator=generator)
print("prediction - noise:", tuple((prediction - noise).shape))
eps = torch.randn(200_000, 16, generator=generator)
verify("13.4", samples=eps.mean(1) * eps[:, 0], expected=1 / 16)  # the slope of the line through the mean
show.show_case(case, images, answered=True)

# %% [markdown]
# *(13.4) is checked as a slope: the mean of all times one's own noise is $1/16$. After the repair the loss lies at 0;
# before it, measured with the right shapes, at $(1 - 1/16)^2 \approx 0.88$.*

# %% [markdown]
# ### Case 2: grey digits
#
# Digits are there, but under a veil. The mean loss is a quarter.

# %%
case = quiz.case(2)
show.show_case(case, images)
show.ask(case)

# %% [markdown]
# *The curve is a little too high at large $t$, dips below the straight line around the middle, and leaves the picture
# at small $t$.*
#
# <details><summary>What settles it</summary>
#
# Ask the network about the same picture at two steps. The answers must differ, and do not: `t` never arrives.
#
# ```python
# # before
# h = self.block(h)
#
# # after
# h = self.block(h, self.embed(t))
# ```
#
# </details>

# %%
broken, x = case.fault(images), images[:4]
one, fifty = (broken.model(x, torch.full((4,), t)) for t in (1, 50))
print(f"largest difference between the answers at t = 1 and at t = 50: {(one - fifty).abs().max()}")
show.show_case(case, images, answered=True)

# %% [markdown]
# *The stand-in always believes $t = 50$, and there its curve is as good as the healthy one. A network that is trained
# without $t$ finds a compromise over all steps, so its curve is flatter ([notebook 05](05_time_conditioning.ipynb)
# trains one); but the difference between the two answers is 0 there, too.*

# %% [markdown]
# ### Case 3: a perfect loss, and noise
#
# The loss is almost 0. The author trained for 1000 steps.

# %%
case = quiz.case(3)
show.show_case(case, images)
show.ask(case)

# %% [markdown]
# *The curve lies on the axis: what was measured there did not make the samples.*
#
# <details><summary>What settles it</summary>
#
# Measure the loss of the very module that the sampler calls. After 1000 steps with decay 0.9999 nine tenths of the
# average are still the network's first weights, whose last layer is 0.
#
# ```python
# # before
# decay = 0.9999
#
# # after
# decay = min(0.9999, (1 + step) / (10 + step))  # young averages forget faster
# ```
#
# </details>

# %%
broken, t = case.fault(images), torch.arange(1, 101, 10)
for name, net in {"last weights": broken.model, "average": broken.average}.items():
    print(f"{name:12}: loss {loss_by_t(net, schedule, images, t).mean():.3f}")
print(f"share of the start after 1000 steps: {0.9999**1000:.2f}")
show.show_case(case, images, answered=True)

# %% [markdown]
# *The curves are those of the last weights, so nothing changes in them. (The repair is what the trainer of [notebook
# 07](07_train_ddpm.ipynb) does.)*

# %% [markdown]
# ### Case 4: a perfect loss, and dirt
#
# This time the sampler uses the last weights.

# %%
case = quiz.case(4)
show.show_case(case, images)
show.ask(case)

# %% [markdown]
# *Digits, not always the same as above, with dirt inside and outside of the strokes. The curve lies on the axis.*
#
# <details><summary>What settles it</summary>
#
# The variances of the two parts must add up to 1: $\bar\alpha_t + \sigma_t^2 = 1$. Measure that with the training
# loop's own factors. Or draw the loss by $t$ with `q_sample` in place of the loop's line, as below.
#
# ```python
# # before
# x_t = alpha_bar[t] * x0 + (1 - alpha_bar[t]) * noise
#
# # after
# x_t = alpha_bar[t].sqrt() * x0 + (1 - alpha_bar[t]).sqrt() * noise
# ```
#
# </details>

# %%
for name, a, b in (("without roots", schedule.alpha_bar, 1 - schedule.alpha_bar), ("with roots", signal, sigma)):
    total = a**2 + b**2
    print(f"{name:13}: variances add up to {total.min():.2f} ... {total.max():.2f}")
show.show_case(case, images, answered=True)

# %% [markdown]
# *This is the lesson of the whole notebook. The orange curve was on the axis when its author drew it, with his own
# process. With the process that the sampler follows it leaves the picture. **Never measure with the code that you
# doubt.***

# %% [markdown]
# ### Case 5: finished digits in a snowstorm
#
# The samples are saved as PNG files.

# %%
case = quiz.case(5)
show.show_case(case, images)
show.ask(case)

# %% [markdown]
# *The strokes are smooth and the digits are those of the healthy row. Only single pixels are wrong, and those by as
# much as can be.*
#
# <details><summary>What settles it</summary>
#
# Look at the values before they become bytes: some lie below -1, by a hundredth or more. Such a value becomes the grey
# level -1, and as a byte -1 is 255.
#
# ```python
# # before
# pixels = ((x + 1) * 127.5).to(torch.uint8)
#
# # after
# pixels = ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)  # or to_uint8(x)
# ```
#
# </details>

# %%
x = torch.tensor([-1.01, -1.0, 0.0, 1.0, 1.01])
raw = (x + 1) * 127.5
print("wrapped:", (raw.long() % 256).tolist())
print("clipped:", raw.clamp(0, 255).round().long().tolist())
show.show_case(case, images, answered=True)

# %% [markdown]
# *A black of -1.01 became 255, a white of 1.01 became 0. The rule in this course: one function makes bytes, `to_uint8`,
# and it clips.*

# %% [markdown]
# ## Grey, white and black
#
# ### Case 6: white on grey
#
# Everything converged.

# %%
case = quiz.case(6)
show.show_case(case, images)
show.ask(case)

# %% [markdown]
# *The digits are perfect; every ground is the same grey. The dashed curve is lower than in the other cases, and that is
# a hint.*
#
# <details><summary>What settles it</summary>
#
# Print the smallest and the largest value of what the training loop hands to `q_sample`. (The straight line is lower
# because half the range has a quarter of the variance.)
#
# ```python
# # before
# x0 = batch.float() / 255
#
# # after
# x0 = batch.float() / 127.5 - 1  # or to_float(batch)
# ```
#
# </details>

# %%
broken = case.fault(images)
for name, x in (("images in training", broken.images), ("samples", broken.samples)):
    print(f"{name:18}: {x.min():.2f} to {x.max():.2f}")
show.show_case(case, images, answered=True)

# %% [markdown]
# *All that is made for $[-1, 1]$ is off now: the display, the clipping, the noise, which is twice as strong for such
# images ([notebook 02](02_forward_process.ipynb)), and every comparison with the numbers of others.*

# %% [markdown]
# ### Case 7: nights and days
#
# The sampler follows the formulas and does not clip. The loss has one bad place, at the smallest $t$.

# %%
case = quiz.case(7)
show.show_case(case, images)
show.ask(case)

# %% [markdown]
# *Some squares are white, which the frame shows, some black. Where a digit can be seen, its shape is right.*
#
# <details><summary>What settles it</summary>
#
# Add 1 to every pixel of the input. The noise in it is now another one, so the answer must change; a network that
# begins with a norm over the whole image gives the same answer. ([Notebook 06](06_unet.ipynb) derives how the
# brightness then walks.)
#
# ```python
# # before
# h = self.first(self.norm(x))
#
# # after
# h = self.norm(self.first(x))  # GroupNorm, after a convolution to many channels
# ```
#
# </details>

# %%
at = torch.full((4,), 50)
x = q_sample(schedule, images[:4], at, torch.randn(4, 1, 28, 28, generator=generator))
for name, net in {"healthy": good.model, "broken": case.fault(images).model}.items():
    change = (net(x + 1, at) - net(x, at)).abs().max()
    print(f"{name:7}: 1 brighter changes the answer by {change:.5f}")
free = sample(good.model, schedule, 32, clip=False)
print(f"healthy and not clipped: {free.min():.2f} to {free.max():.2f}")
show.show_case(case, images, answered=True)

# %% [markdown]
# *The last line answers those who suspected the missing clipping: a network that sees the brightness needs none here.
# Clipping would have hidden this fault for a while.*

# %% [markdown]
# ### Case 8: nothing wrong with the picture
#
# The pictures are good, the author says, only the statistics must have a bug:

# %%
case = quiz.case(8)
show.show_case(case, images)
x = case.fault(images).samples
for name, each in {"samples": x.mean((1, 2, 3)), "images": images.mean((1, 2, 3))}.items():
    print(f"mean brightness of {name:7}: {each.mean():5.2f}, spread {each.std():.2f}")
near = torch.cdist(x.flatten(1), images.flatten(1)).min(1).values
print(f"distance to the nearest image: median {near.median():.0f}")
show.ask(case)

# %% [markdown]
# *The numbers are of another world.*
#
# <details><summary>What settles it</summary>
#
# Print the smallest and the largest value of the samples *before* they are shown. Plotting functions stretch by
# default: `plt.imshow(x)` without `vmin` and `vmax` does.
#
# ```python
# # before
# plt.imshow(x)
#
# # after
# plt.imshow(x, vmin=-1, vmax=1)  # and what lies outside is clipped, visibly
# ```
#
# </details>

# %%
broken = case.fault(images)
low, high = broken.samples.amin((1, 2, 3)), broken.samples.amax((1, 2, 3))
for i in range(4):
    print(f"sample {i + 1}: {low[i]:6.2f} to {high[i]:6.2f}")
show.show_case(case, images, answered=True)

# %% [markdown]
# *The brightness of case 7 walks here, too. A display that adapts removes the evidence.*

# %% [markdown]
# ## Digits, but not these
#
# ### Case 9: the same again
#
# The pictures are sharp. The author writes of mode collapse.

# %%
case = quiz.case(9)
show.show_case(case, images)
show.ask(case)

# %% [markdown]
# *Many squares, few different digits, all with much ink.*
#
# <details><summary>What settles it</summary>
#
# Look at the noise, not at the network: `start.mean()` must be near 0 and `start.std()` near 1.
#
# ```python
# # before
# x = torch.rand(n, 1, 28, 28)
#
# # after
# x = torch.randn(n, 1, 28, 28)
# ```
#
# </details>

# %%
for name, draw in {"torch.rand": torch.rand, "torch.randn": torch.randn}.items():
    start = draw(32, 1, 28, 28, generator=generator)
    print(f"{name:11}: mean {start.mean():.2f}, standard deviation {start.std():.2f}")
show.show_case(case, images, answered=True)

# %% [markdown]
# *One letter. An image that is bright everywhere and hardly noisy is nearest to the digits with the most ink.*

# %% [markdown]
# ### Case 10: too many zeros
#
# Somebody counts, and finds too many zeros and broad strokes. The schedule ends as it should.

# %%
case = quiz.case(10)
show.show_case(case, images)
print(f"alpha_bar[T] = {case.fault(images).schedule.alpha_bar[-1]:.0e}")
show.ask(case)

# %% [markdown]
# *In some columns the rows agree, in others a thin digit was replaced by a broad one. The loss lies on the axis.*
#
# <details><summary>What settles it</summary>
#
# How much of the image does the training loop leave at $t = T$? Take the loop's own factor. It should be nearly 0.
#
# ```python
# # before
# a = alpha[t]
#
# # after
# a = alpha_bar[t]  # the product of all alphas up to t
# ```
#
# </details>

# %%
for name, a in {"alpha": schedule.alpha, "alpha_bar": schedule.alpha_bar}.items():
    left = 100 * a[-1].sqrt()
    print(f"x_T holds {left:.1f} % of the image, if the loop's closed form has {name}")
show.show_case(case, images, answered=True)

# %% [markdown]
# *As in case 4: low with the author's process, far too high with the sampler's. At small $t$ the two processes are
# still close, and so are the curves.*

# %% [markdown]
# ### Case 11: bold
#
# 50 steps instead of 1000, with the betas of the paper.

# %%
case = quiz.case(11)
show.show_case(case, images)
show.ask(case)

# %% [markdown]
# *The digits are clean, but bolder than those above, and of fewer kinds. The loss lies on the axis. One thing about the
# axis is new.*
#
# <details><summary>What settles it</summary>
#
# Print `schedule.alpha_bar[-1]`. The share of the image that is left at the end is its square root. Is that too much?
# Take the mean pixel of $x_T$ by [(2.17)](02_forward_process.ipynb), $\sqrt{\bar\alpha_T}$ times that of the image, and
# divide it by the standard deviation that it has for pure noise, $1 / \sqrt{784}$: it should be off by less than 1.
#
# ```python
# # before
# beta = torch.linspace(1e-4, 0.02, 50)
#
# # after
# schedule = linear_schedule(50)  # larger betas for fewer steps, so that the end is noise again
# ```
#
# </details>

# %%
brightness = images.mean((1, 2, 3)).square().mean().sqrt()  # of the mean pixels
for name, rescale in {"betas of 1000": False, "rescaled": True}.items():
    left = linear_schedule(50, rescale=rescale).sqrt_alpha_bar[-1]
    off = left * brightness * 784**0.5
    print(f"{name:13}: x_T holds {100 * left:.1f} % of the image;", end=" ")
    print(f"its mean pixel is {off:.2f} standard deviations of noise off")
show.show_case(case, images, answered=True)

# %% [markdown]
# *The straight line was a hint as well: at the last step it is still far from 0, so finding the noise is still a task
# there. At the end of a good schedule it is none.*

# %% [markdown]
# ### Case 12: large pixels
#
# The loss is fine except at small $t$, "where it is always bad".

# %%
case = quiz.case(12)
show.show_case(case, images)
show.ask(case)

# %% [markdown]
# *True digits, made of blocks of 2 x 2 pixels.*
#
# <details><summary>What settles it</summary>
#
# Measure the differences inside each 2 x 2 block of the samples. They are 0: what is finer has no way from input to
# output.
#
# ```python
# # before
# h = self.up1(h)
#
# # after
# h = self.up1(torch.cat([h, skips.pop()], dim=1))
# ```
#
# </details>

# %%
for name, x in {"healthy": good.samples, "broken": case.fault(images).samples}.items():
    blocks = x.reshape(-1, 14, 2, 14, 2)
    spread = (blocks.amax((2, 4)) - blocks.amin((2, 4))).max()
    print(f"{name:7}: largest difference inside a block {spread:.3f}")
show.show_case(case, images, answered=True)

# %% [markdown]
# *The straight line beats this network at small $t$. The stand-in makes its guess of the *clean* image through the
# bottleneck. A network that must send the noise through it does worse, and at every $t$: noise is fine-grained
# everywhere. ([Notebook 06](06_unet.ipynb) cuts this skip in such a network.)*

# %% [markdown]
# ## Nothing to see
#
# ### Case 13: two students
#
# Both rows come from the smallest network there is, a straight line for each pixel and step, trained for 60 steps of
# gradient descent. One of the two has a bug.

# %%
case = quiz.case(13)
show.show_case(case, images)
show.ask(case)

# %% [markdown]
# *Neither row is good: a straight line makes no digits. The curve keeps a small distance from the best straight line,
# and does so at large $t$, too.*
#
# <details><summary>What settles it</summary>
#
# Compute one gradient by hand. The argument of `backward` multiplies it.
#
# ```python
# # before
# loss.backward(loss)
#
# # after
# loss.backward()
# ```
#
# </details>

# %%
for name in ("loss.backward()", "loss.backward(loss)"):
    w = torch.tensor(0.3, requires_grad=True)
    loss = w**2  # its gradient is 2 w = 0.6
    loss.backward(loss.detach() if name.endswith("(loss)") else None)
    print(f"{name:19}: gradient {w.grad:.3f}")
show.show_case(case, images, answered=True)

# %% [markdown]
# *At a loss of 0.09 the step is a tenth of what it should be. Adam, which divides by the size of past gradients, hides
# most of this; plain gradient descent does not. The sign was in the curve at large $t$, where the best straight line
# has a loss of 0. (The gradient is that of another function, by [(10.4)](10_libraries.ipynb).)*

# %% [markdown]
# ### Case 14: twice the same, and not
#
# The samples are sharp. The author samples again with the same seed, and gets other digits.

# %%
case = quiz.case(14)
show.show_case(case, images)
show.ask(case)

# %% [markdown]
# *Some columns differ, and both are digits. The loss is level at about a tenth, for all $t$ alike.*
#
# <details><summary>What settles it</summary>
#
# Print `model.training`. Or call the model twice with the same input: in eval mode the answers are equal.
#
# ```python
# # before
# images = sample(model, schedule, 16)
#
# # after
# model.eval()
# images = sample(model, schedule, 16)
# ```
#
# </details>

# %%
net, x, at = case.fault(images).model, images[:4], torch.full((4,), 50)
for train in (True, False):
    net.train(train)
    apart = (net(x, at) - net(x, at)).abs().max()
    print(f"training = {net.training!s:5}: two equal calls differ by up to {apart:.2f}")
show.show_case(case, images, answered=True)

# %% [markdown]
# *Dropout is the harmless half of train mode. With BatchNorm each image would also depend on the others of its batch.*

# %% [markdown]
# ### Case 15: a spike
#
# The log says almost 0. The author measures again, with calls copied from the sampler.

# %%
case = quiz.case(15)
show.show_case(case, images)
show.ask(case)

# %% [markdown]
# *The rows are equal. The curve has a spike at the smallest steps.*
#
# <details><summary>What settles it</summary>
#
# Condition the model on one step more, and on one step fewer, than you believe is right. The offset with the lowest
# loss is the right one, and it should be 0.
#
# ```python
# # before
# for t in range(T - 1, -1, -1):  # the model gets 99 ... 0, and was trained on 100 ... 1
#
# # after
# for t in range(T, 0, -1):
# ```
#
# (The ideal denoiser that stands for a network here has no answer for 0, so at $t = 1$ it gets 1, and is right there. A
# trained network is not so lucky: [notebook 10](10_libraries.ipynb) conditions one on $t + 1$.)
#
# </details>

# %%
broken, t = case.fault(images), torch.arange(3, 8)
for offset in (-1, 0, 1):
    loss = loss_by_t(broken.model, schedule, images, t, offset).mean()
    print(f"conditioned on t{offset:+d}: loss {loss:.4f}")
show.show_case(case, images, answered=True)

# %% [markdown]
# *With 64 images the pictures do not change: the nearest image is the nearest, with a little less noise or a little
# more. Where images lie less far apart, it may well show. Both ways to count are in use ([notebook
# 10](10_libraries.ipynb)); only mixing them is wrong.*

# %% [markdown]
# ### Case 16: a good loss, a good picture
#
# The pictures look right. They are shown eight times as bright here.

# %%
case = quiz.case(16)
show.show_case(case, images)
show.ask(case)

# %% [markdown]
# *Brightened like this, greys come out white in both rows. The black of the lower row has a grain, that of the upper
# row has none.*
#
# <details><summary>What settles it</summary>
#
# Take the difference from a sample without the last noise, or the standard deviation of a part that should be black. It
# is $\sqrt{\beta_1}$.
#
# ```python
# # before
# x = mean + beta[t].sqrt() * noise
#
# # after
# x = mean + (beta[t].sqrt() * noise if t > 1 else 0)
# ```
#
# </details>

# %%
noise = case.fault(images).samples - good.samples
print(f"standard deviation of what was added: {noise.std():.4f}, {127.5 * noise.std():.1f} grey levels of 255")
print(f"sqrt(beta_1) = {schedule.beta[1].sqrt():.4f}")
show.show_case(case, images, answered=True)

# %% [markdown]
# *With 1000 steps it would be a third of that, and no eye would find it ([notebook 08](08_sampling.ipynb)).*

# %% [markdown]
# ## All measurements at once
#
# `diagnose(model, schedule, images, samples, average)` makes the measurements of this notebook and says what it finds.
# Here it examines all sixteen.

# %%
def examine(system):
    with contextlib.redirect_stdout(io.StringIO()):  # its sentences are left out here
        found = diagnose(system.model, system.schedule, system.images, system.samples, system.average)
    return [finding.check for finding in found]

found = {case.fault.__name__: examine(case.fault(images)) for case in quiz.CASES}
alt = "Table of marks: sixteen faults, each with at least one check that finds it"
show.mark_table({"healthy": examine(good), **found}, alt=alt)

# %% [markdown]
# *Rows: the healthy system, which has no mark, and the sixteen cases in order. Columns: the checks. Each fault is found
# by at least one check. Many have several marks, and some share all of them: a mark says where to look, not what is
# wrong. "Loss by t" has the most marks, since it is measured with the process of the schedule and not with the
# author's.*
#
# For one system, in words:

# %%
system = clinic.never_noise(images)
found = diagnose(system.model, system.schedule, system.images, system.samples)

# %% [markdown]
# ### What it does not see
#
# Guess before you run: does it notice that every sample of the healthy system is a copy of a training image? And what
# if all samples are mirror images?

# %%
print("copies: ", end="")
found = diagnose(good.model, schedule, images, good.samples)
print("mirrored: ", end="")
found = diagnose(good.model, schedule, images, good.samples.flip(3))

# %% [markdown]
# *It measures range, brightness, grain and variety of the samples, and no more. It cannot read digits: it does not see
# copies, mirrored or swapped classes, a rare class that is missing, or a model that could be better. And it trusts you
# that `images` are what the training loop has, and `samples` what the sampler returned. An empty list is no proof.*
#
# Last, a patient that was trained: the network that comes with this course, whose samples you saw in [notebook
# 08](08_sampling.ipynb). Guess before you run: is it well?

# %%
model, schedule_1000, _ = load_pretrained("mnist", device)
steps = budget(gpu=50, cpu=20, quick=5)
n = 32 if steps > 5 else 16
samples = sample(model, schedule_1000, n, steps=steps)
found = diagnose(model, schedule_1000, to_float(data.images[:n]).to(device), samples.to(device))

# %% [markdown]
# *In a full run on MNIST it finds that the network is worse than a straight line at $t = 1$ and at $t = 1000$. Both are
# true. It learned with weighted timestep sampling ([notebook 16](16_targets_and_weights.ipynb)), whose weights are tiny
# at the ends: of the 896,000 steps that were drawn in its training they give $t = 1$ a fifth of one, and $t = 1000$ far
# less. The samples above cannot show what is wrong at $t = 1$: their last step goes from $t = 50$ to 0 (on a GPU from
# 20), so the network was never asked there. So a finding is a question: did you mean that?*
#
# ## The checklist for your own model
#
# What is cheap to look at comes first. `diagnose` does all but the last four; for single lines, `from
# ddpm_helpers.lessons.diagnosis import loss_by_t, straight_line_loss`.
#
# | look at | the line | what it should say |
# |:--|:--|:--|
# | the data | `x0.min(), x0.max()` in the training loop | -1 and 1 |
# | the end of the process | `(schedule.sqrt_alpha_bar[-1] * images.mean((1, 2, 3))).square().mean().sqrt() * images[0].numel() ** 0.5` | at most 1: so many standard deviations of noise the mean pixel of $x_T$ is off, by [(2.17)](02_forward_process.ipynb) |
# | the mode | `model.training` before sampling | `False` |
# | the loss by t | `loss_by_t(model, schedule, images, t)` | below `1.1 * straight_line_loss(schedule, images, t) + 0.0005` everywhere, also at the last steps |
# | the time | `(model(x, t) - model(x, 0 * t + 1)).abs().max()` | not 0 |
# | the offset | `loss_by_t(model, schedule, images, t, asked=1)`, and `-1` | neither more than a twentieth below that with 0, at small t |
# | the brightness | `(model(x + 1, t) - model(x, t)).abs().max()` | not 0 |
# | the batch | `model(x[:1], t[:1]) - model(x, t)[:1]` | near 0 |
# | the average | `loss_by_t(average, ...)` | close to the loss of the last weights |
# | the samples | `samples.min(), samples.max()` before display | -1 and 1, or a little more |
# | the shapes | `(prediction - noise).shape` | (B, C, H, W) |
# | the process | `q_sample(schedule, x0, t, noise) - x_t` of your loop | 0 |
# | the start | `start.mean(), start.std()` | 0 and 1 |
# | the sampler | `IdealDenoiser(images, schedule)` in place of your network | its samples are the images, all of them, about equally often |
#
# The last line narrows the search. If it fails, the mistake is in the sampler or its schedule. If not, look at training
# and the network first. But a few images that lie far apart forgive much: case 15, a step miscounted, passes.

# %% [markdown]
# ## Where the field went from here
#
# Part II goes on by the same rule: whatever has a number is run. [Notebook 14](14_flow_matching.ipynb) returns to the
# straight line of notebook 01, now with a proof: **flow matching** (Lipman et al. 2023). [Notebook
# 15](15_solvers.ipynb) takes the number of steps to infinity (Song, Sohl-Dickstein et al. 2021; Lu et al. 2022).
# [Notebook 16](16_targets_and_weights.ipynb) asks what a network should predict, and which steps deserve the training.
# Three more names: **learned variances** (Nichol & Dhariwal 2021) let the network say where between $\beta_t$ and
# $\tilde\beta_t$ the variance lies; **latent diffusion** (Rombach et al. 2022) runs everything in this course on the
# fewer numbers that an autoencoder makes of an image; **consistency models** (Song, Dhariwal et al. 2023) learn to name
# the end of a sampler's path at once.
#
# ## What to remember, and what broke
#
# - The loss is low with the process it is measured with. Measure with the process that the sampler follows, and by $t$.
# - Compare every number with one that you can compute: the straight line, the ideal denoiser, 0 where two answers must
#   be equal.
# - Put an ideal denoiser in place of the network, and the sampler is tested by itself.
# - Look at samples as they are, in a fixed range. Pictures find less than you think: five of the sixteen rows pass for
#   digits at a glance.
#
# **What broke:** nothing in this notebook that was not meant to. What Part I leaves broken is larger: pictures a few
# dozen pixels wide, networks that know no words ([19](19_patches_latents_words.ipynb)), and a clinic that cannot tell a copy from an
# original ([20](20_memorise_or_generalise.ipynb)). [Notebook 99](99_glossary.ipynb) has the words, the symbols, and what to read next.
#
# ### Experiments to try
#
# - Replace `images` at the top by 64 of one digit, or by `load_images("fashion")`. Which symptoms change?
# - Show the cases with 2 images: `show.show_case(quiz.case(4), images[:2])`. For which faults are the samples still
#   wrong?
# - Break two things at once: `clinic.off_by_one` asks with the wrong step, `clinic.unit_range` has the wrong images.
#   Does `diagnose` report both?
# - Write a seventeenth case: a fault that you have made. Which check finds it?
