# %% [markdown]
# # Guidance: how do I ask for a digit?
#
# ![Ten rows of seven digits: in the first column anything, from the second on more and more clearly the digits 0 to 9](../figures/12_scales.png)
#
# *Each row was asked for one digit, 0 at the top, 9 at the bottom, and started from one noise, the same in all seven
# columns. What changes from left to right is one number, the scale. In the first column nobody listens. Where would you
# stop, and why not go further?*
#
# **You will** condition a network on a label, to tell it what to draw, derive the step that makes it listen, find out
# what that step is *not*, and measure what it costs. **You need** the samplers of [notebook 08](08_sampling.ipynb), the
# score at the end of [notebook 04](04_bound_to_noise.ipynb), and the feature network of [notebook
# 09](09_evaluation.ipynb). **Time** 50 minutes of reading; the cells run in about 3 minutes on 2 CPU cores.

# %% tags=["setup"]
REPO = ""  # owner/name on GitHub; `make badges REPO=owner/name` fills it in
try:
    import ddpm_helpers
except ImportError:
    assert REPO, "The helper module is missing: start this notebook with `make lab`, or see Colab in the README."
    get_ipython().run_line_magic("pip", f"install -q git+https://github.com/{REPO}")

import torch
import torch.nn.functional as F

from ddpm_helpers import budget, check, cosine_schedule, ddim_trajectory, default_device
from ddpm_helpers import evaluate, frechet_distance, frechet_floor, guide, image_noise
from ddpm_helpers import load_feature_net, load_images, load_pretrained, q_sample, sample
from ddpm_helpers import to_float, verify, viz
from ddpm_helpers.lessons import show
from ddpm_helpers.lessons.toy import Mixture, double

device = default_device()
generator = torch.Generator().manual_seed(0)

# %% [markdown]
# ## Telling the network
#
# Whoever wanted a seven from the model of [notebook 08](08_sampling.ipynb) had to draw about ten samples and throw nine
# away. But the training images come with labels, and to predict with such a hint is called **conditioning**: the
# network is conditioned on the label. How is that done?
#
# It is already conditioned on the time: a vector, here $\tau(t)$, scales and shifts the features in every block (the
# FiLM of [notebook 05](05_time_conditioning.ipynb)). The label goes the same way. A table with one row of numbers per
# class is learned with the rest, a learned **embedding**, and the row $e_y$ of the label $y$ is added:
#
# $$c(t, y) = \tau(t) + e_y \tag{12.1}$$
#
# The table has one row more than there are classes: row 10 says **no label**, written $\varnothing$. We load a network
# with such a table.

# %% tags=["nbval-check-output"]
model, schedule, recipe = load_pretrained("mnist_labels", device)
net, none = model.net, model.classes  # the U-Net inside, and the row of "no label"
seven = torch.full((3,), 7, device=device)
x, t = torch.zeros(3, 1, 28, 28, device=device), torch.tensor([10, 500, 990], device=device)
with torch.no_grad():
    shift = net.embed(x, t, seven) - net.embed(x, t, torch.full_like(seven, none))
    verify("12.1", shift, (net.label.weight[7] - net.label.weight[none]).expand(3, -1), tol=1e-4)
print(f"table: {tuple(net.label.weight.shape)}; trained for {recipe['steps']:,} steps with label_dropout = {recipe['label_dropout']}")

# %% [markdown]
# *Whatever the time, the label "seven" in place of "no label" moves the vector by the same
# amount. What the blocks make of it may differ from step to step.*
#
# ## Hiding the label
#
# Row 10 must be trained as well, or it means nothing. So during training some labels are replaced by it, each by its own
# coin; here one in ten. From then on one network answers two questions: what is the noise in $x_t$ if this is a seven, and
# what is it if you know nothing? (Ho & Salimans 2022, algorithm 1.)
#
# ### Exercise 12.1 - `drop_labels`
#
# `labels` has shape (B,), int64. `chance` has shape (B,): the coins, uniform in [0, 1). Where a coin is below `share`,
# put `none` in place of the label. Return a new tensor (B,).

# %% tags=["exercise", "nbval-check-output"]
def drop_labels(labels, chance, share, none):
    kept = ...  # one line
    return kept


drop_labels = check(drop_labels)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `labels.masked_fill(mask, value)` replaces the entries where the mask, a boolean tensor (B,), is true.
#
# </details>
#
# That is all that training needs. `Trainer(..., labels=...)` of [notebook 07](07_train_ddpm.ipynb) calls your
# function's twin on every batch, and the loss stays what it was. (The network above learned the velocity,
# [(16.1)](16_targets_and_weights.ipynb). `model` turns its answer into noise.)

# %%
labels, coins = torch.arange(100_000) % 10, torch.rand(100_000, generator=generator)
kept = drop_labels(labels, coins, 0.1, none)
print("labels for the network:", kept[:24].tolist())
print(f"share of 'no label': {(kept == none).float().mean():.3f}")
print(f"share of sevens that keep their label: {(kept[labels == 7] == 7).float().mean():.3f}")

# %% [markdown]
# What does a network learn that is asked with row 10? The same as ever, the mean of all noises that may be in $x_t$.
# And that mean can be written with the answers of the classes: ask which class it may be, then take each class's answer
# with that weight.
#
# $$\mathbb{E}[{\color{#D55E00}{\epsilon}} \mid x_t] = \sum_k p(k \mid x_t)\; \mathbb{E}[{\color{#D55E00}{\epsilon}} \mid x_t, k] \tag{12.2}$$
#
# We check it in a world where every answer is exact: one pixel, as in [notebook 03](03_likelihood_bound.ipynb). Class 0
# is one peak at $-1$. Class 1 comes in two styles, at $0.5$ and at $1.5$; the one at $0.5$ resembles the other class.

# %% tags=["nbval-check-output"]
def peaks(weights, means, stds):
    return Mixture(*(torch.tensor(values, dtype=torch.float64) for values in (weights, means, stds)))

exact = double(cosine_schedule(1000))
both, classes = peaks([0.5, 0.25, 0.25], [-1.0, 0.5, 1.5], [0.5, 0.3, 0.3]), [peaks([1.0], [-1.0], [0.5]), peaks([0.5, 0.5], [0.5, 1.5], [0.3, 0.3])]
x, at = torch.linspace(-4, 4, 9, dtype=torch.float64), 400
weight = torch.stack([0.5 * one.noised(exact, at).log_density(x).exp() for one in classes])  # (2, 9), each p(k) p(x_t | k)
answers = torch.stack([one.ideal_eps(exact)(x, at) for one in classes])
verify("12.2", both.ideal_eps(exact)(x, at), (weight / weight.sum(0) * answers).sum(0), tol=1e-9)

# %% [markdown]
# So where $x_t$ already shows the class, the label is no news: one weight is 1, and both questions have the same
# answer. Where $x_t$ is almost noise, the label is news, but there is little of the image to see. Back to digits: guess
# before you run at which $t$ the label helps the network most. And what does a *wrong* label do?

# %%
test = load_images("mnist", train=False)
print(test.source)
n = budget(gpu=300, cpu=300, quick=70, unit="images of each kind")
x0, label = to_float(test.images[: n // 2]).to(device), test.labels[: n // 2].to(device)
noise = torch.randn(x0.shape, generator=generator).to(device)
questions = {"right label": label, "no label": torch.full_like(label, none), "wrong label": (label + 1) % 10}
print("   t  " + "  ".join(questions))
for at in (50, 200, 400, 600, 800, 950):
    t = torch.full((len(x0),), at, device=device)
    with torch.no_grad():
        loss = {name: F.mse_loss(model(q_sample(schedule, x0, t, noise), t, asked), noise) for name, asked in questions.items()}
    print(f"{at:4}  " + "  ".join(f"{loss[name]:{len(name)}.4f}" for name in questions))

# %% [markdown]
# *In a full run the label is worth almost nothing at $t = 50$, where the digit stands there for all to see, and most at
# about $t = 800$: there the network without a label errs by about a third more, and with the wrong label twice as much
# as with the right one. That is where it is decided which digit it will be.*
#
# ## Guidance, derived
#
# We could now sample with a label and be done. For our digits that goes well, as you will see; but with a thousand
# classes, or a sentence in place of a label, samples too often ignore half of what was asked. How could it be said
# louder?
#
# Begin with Bayes: $p(x_t \mid y) = p(x_t)\, p(y \mid x_t) / p(y)$. Take logarithms and slopes with respect to $x_t$;
# $p(y)$ does not depend on it and disappears.
#
# $$\nabla \log p(y \mid x_t) = \nabla \log p(x_t \mid y) - \nabla \log p(x_t) \tag{12.3}$$
#
# On the left stands a **classifier** of noisy images, and the slope says: in which direction would $x_t$ look more like
# a $y$? On the right stand two scores, and [(4.20)](04_bound_to_noise.ipynb) says that the ideal noise is $-\sigma_t$
# times the score. To push $s$ times as hard towards $y$ as the label alone would, start at the score without a label
# and add $s$ times the classifier's slope. Times $-\sigma_t$ this is noise, with $\hat\epsilon_\varnothing$ for the
# prediction without a label and $\hat\epsilon_y$ for that with it:
#
# $$\begin{aligned}
# {\color{#009E73}{\hat\epsilon}} &= {\color{#009E73}{\hat\epsilon_\varnothing}} - s\, \sigma_t \nabla \log p(y \mid x_t) \\
# &= {\color{#009E73}{\hat\epsilon_\varnothing}} + s\, \big({\color{#009E73}{\hat\epsilon_y}} - {\color{#009E73}{\hat\epsilon_\varnothing}}\big)
# \end{aligned} \tag{12.4}$$
#
# The classifier has left the formula; hence the name **classifier-free guidance** (Ho & Salimans 2022). $s$ is the
# **scale** (and not, in this notebook, a step): at 0 the label does not count, at 1 the network is taken at its word,
# above 1 what the label changed is exaggerated.
#
# In the one-pixel world the classifier can be written down. We take its slope by **autograd**, PyTorch's record of what
# was computed, and compare.

# %% tags=["nbval-check-output"]
at, y = 400, 1
x_t = torch.linspace(-3, 3, 13, dtype=torch.float64, requires_grad=True)
log_p = torch.stack([one.noised(exact, at).log_density(x_t) for one in classes])  # (2, 13)
slope = lambda values: torch.autograd.grad(values.sum(), x_t, retain_graph=True)[0]  # noqa: E731
classifier = slope(log_p.log_softmax(0)[y])  # both classes are equally likely beforehand
verify("12.3", classifier, slope(log_p[y]) - slope(both.noised(exact, at).log_density(x_t)), tol=1e-9)

# %% [markdown]
# ### Exercise 12.2 - `guided_eps`
#
# The right-hand side of (12.4). `eps` is predicted without the label, `eps_label` with it, both of one shape, whatever
# it is; `scale` is a number.

# %% tags=["exercise", "nbval-check-output"]
def guided_eps(eps, eps_label, scale):
    guided = ...  # (12.4)
    return guided


guided_eps = check(guided_eps)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Test yourself at two scales: at 0 the result must be `eps`, at 1 it must be `eps_label`.
#
# </details>

# %% tags=["nbval-check-output"]
with torch.no_grad():
    eps, eps_y = both.ideal_eps(exact)(x_t, at), classes[y].ideal_eps(exact)(x_t, at)
verify("12.4", guided_eps(eps, eps_y, 3.0), eps - 3.0 * exact.sigma[at] * classifier, tol=1e-9)

# %% [markdown]
# Two remarks for reading papers.
#
# **Another scale.** Ho & Salimans count from the other end. Their $w$ is what is added to the label's own answer, so
# $w = s - 1$:
#
# $${\color{#009E73}{\hat\epsilon}} = (1 + w)\, {\color{#009E73}{\hat\epsilon_y}} - w\, {\color{#009E73}{\hat\epsilon_\varnothing}}, \qquad w = s - 1 \tag{12.5}$$
#
# Most programs call $s$ the guidance scale, some papers print $w$. Whoever takes the one for the other is off by one.

# %% tags=["nbval-check-output"]
w = 2.0
verify("12.5", guided_eps(eps, eps_y, 3.0), (1 + w) * eps_y - w * eps, tol=1e-9)

# %% [markdown]
# **With a classifier.** Dhariwal & Nichol (2021) used the first line of (12.4) for DDIM (their algorithm 2); for steps
# with fresh noise they moved the mean, by nearly as much (algorithm 1). That takes a classifier trained on *noisy*
# images, and its gradient in every step. The advantage is that the diffusion model can do without labels, and a new
# classifier makes it answer new questions. Classifier-free guidance costs two forward passes per step, or one with a
# batch of twice the size, which is what `guide` does.
#
# ## What guidance is not
#
# (12.4) says: push $s$ times as hard. It is tempting to read this as a distribution. At scale 1 it is one: $p(x)\, p(y
# \mid x)$ is, up to a constant, the class $y$ itself. And at any scale the guided score at the clean end, $t = 0$, is
# the score of
#
# $$p_s(x) \propto p(x)\, p(y \mid x)^s \propto p(x)^{1-s}\, p(x \mid y)^s \tag{12.6}$$
#
# ($\propto$: equal but for a constant factor), which is a sensible thing to ask for: the data, reweighted by how surely
# each point is a $y$. Is that what the sampler draws? First the formula, on a fine grid. The two ways of writing it
# must agree.

# %% tags=["nbval-check-output"]
grid = torch.linspace(-5, 6, 11_001, dtype=torch.float64)
log_both, log_one = both.log_density(grid), classes[1].log_density(grid)
log_p_y = torch.stack([one.log_density(grid) for one in classes]).log_softmax(0)[1]

def formula(scale):
    return ((1 - scale) * log_both + scale * log_one).softmax(0) / (grid[1] - grid[0])  # a density on the grid

for scale in (1, 3, 8):
    verify("12.6", formula(scale), (log_both + scale * log_p_y).softmax(0) / (grid[1] - grid[0]), tol=1e-9)

# %% [markdown]
# And now the sampler: DDIM with 1000 steps, the exact noise of both, and your `guided_eps`. Guess before you run. The
# formula keeps both styles of class 1, at $0.5$ and $1.5$, and only trims the left edge. What will the histograms do as
# $s$ grows?

# %%
def guided_ends(everything, asked, scale, starts):
    """Where DDIM leads from `starts` (N,) with the exact noise of two mixtures and the given scale."""
    eps, eps_y = everything.ideal_eps(exact), asked.ideal_eps(exact)

    def guided(x, t):
        return guided_eps(eps(x, int(t[0])), eps_y(x, int(t[0])), scale)

    *_, last = ddim_trajectory(guided, exact, starts, 1000, clip=False)
    return last.x

starts = torch.randn(4000, generator=generator, dtype=torch.float64)
ends = {scale: guided_ends(both, classes[1], scale, starts) for scale in (1, 2, 4, 8)}
for scale, x in ends.items():
    mean = (formula(scale) * grid).sum() * (grid[1] - grid[0])
    print(f"scale {scale}: mean {x.mean():.2f} and standard deviation {x.std():.2f}; mean of the formula {mean:.2f}")

# %%
figure, axes = viz.subplots(1, 4, size=(8, 2.6))
edges, look = torch.linspace(-2, 4, 61).numpy(), {"color": viz.COLOURS[2], "alpha": 0.5}
for axis, (scale, x) in zip(axes, ends.items(), strict=True):
    axis.hist(x.numpy(), edges, density=True, label="guided samples", **look)
    axis.plot(grid, formula(scale), color="black", linewidth=1.3, label="formula")
    axis.plot(grid, log_both.exp(), ":", color=viz.COLOURS[0], linewidth=1, label="all data")
    axis.set(title=f"scale {scale}", xlim=(-2.5, 3.5), ylim=(0, 2.8), yticks=[])
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
alt = "Four histograms of guided samples, the formula as a line: alike at scale 1, then the "
viz.show(figure, alt + "histogram loses its left peak and moves to the right, past the other")

# %% [markdown]
# *At scale 1 the histogram follows the line: that is the class as it is. At 2 the left style is no more than a
# shoulder, and at 4 it is gone, though the formula (the black line) keeps it at every scale. The right style is not
# safe either: at 8 most samples lie on its far side, where there are hardly any data (dotted). Guidance runs away from
# the other class, and further than the data go.*
#
# *So the guided sampler does not draw from (12.6). The reason is the noise. At step $t$ the scores in (12.4) belong to
# noised data, and mixing two of them is not the same as mixing first and noising afterwards. At large $t$, where
# everything overlaps, being a little nearer to class 0 is held against a point, and it is led away before it can tell
# that it belonged to the left style.*
#
# For Gaussians it can be worked out (Bradley & Nakkiran 2024 treat such a pair). Let all data be $\mathcal{N}(0, 1)$
# and those of a class $\mathcal{N}(m, v)$ with $v < 1$. In (12.6) the exponents add up: $-x^2 / 2$ counts $1 - s$
# times, and $-(x - m)^2 / (2 v)$ counts $s$ times. So it is a Gaussian again, and its variance is one over $(1 - s) + s
# / v$:
#
# $$v_{\text{formula}} = \frac{v}{s + (1 - s)\, v} \tag{12.7}$$
#
# For the sampler, use the form [(8.9)](08_sampling.ipynb): the image divided by $\sqrt{\bar\alpha}$ moves with slope
# $\hat\epsilon$ as $\rho = \sigma / \sqrt{\bar\alpha}$ shrinks. Take two starts that differ by 1 and watch the
# difference $\Delta$ of their scaled images. Of the variance $v + \rho^2$ of a scaled image of the class, $\rho^2$ is
# noise. The best guess calls that share of a deviation noise, as in [(4.15)](04_bound_to_noise.ipynb), and the noise
# there is $\rho\, \hat\epsilon$. So between the two the ideal noise of the class differs by $\rho\, \Delta / (v +
# \rho^2)$, that of all data by $\rho\, \Delta / (1 + \rho^2)$, so
#
# | line | because |
# |:--|:--|
# | $\dfrac{\mathrm{d} \Delta}{\mathrm{d} \rho} = \rho\, \Delta \Big( \dfrac{s}{v + \rho^2} + \dfrac{1 - s}{1 + \rho^2} \Big)$ | (12.4) |
# | $\Delta \propto (v + \rho^2)^{s/2}\, (1 + \rho^2)^{(1-s)/2}$ | its logarithm is integrated |
# | $\Delta \approx \rho$ for large $\rho$, so $\Delta = v^{s/2}$ at $\rho = 0$ | a start is divided by $\sqrt{\bar\alpha} \approx 1 / \rho$ |
#
# So the end of a path is a linear function of its start, with slope $\Delta$. Starts have variance 1, and ends have
# variance $\Delta^2$:
#
# $$v_{\text{sampler}} = v^s \tag{12.8}$$
#
# For $v = 1/2$ and $s = 5$ that is 1/32, where the formula has 1/6. We run both: (12.7) on the grid, (12.8) with two
# starts, which is enough for a slope. (Euler's method in 1000 steps is not exact; 2 % are allowed.)

# %% tags=["nbval-check-output"]
everything, one = peaks([1.0], [0.0], [1.0]), peaks([1.0], [1.0], [0.5**0.5])  # v = 1/2, m = 1
for scale in (1, 2, 5):
    density = ((1 - scale) * everything.log_density(grid) + scale * one.log_density(grid)).softmax(0)
    mean = (density * grid).sum()
    verify("12.7", (density * (grid - mean) ** 2).sum(), 0.5 / (scale + (1 - scale) * 0.5), tol=1e-4)

# %% tags=["nbval-check-output"]
for scale in (1, 2, 5):
    low, high = guided_ends(everything, one, scale, torch.tensor([0.0, 1.0], dtype=torch.float64))
    verify("12.8", (high - low) ** 2, 0.5**scale, tol=0.02)

# %% [markdown]
# Guidance is a recipe that works, with a derivation that explains its direction and not where it ends. What it trades
# away is variety, and first where a class borders on another. Is that so with digits?
#
# ## On digits
#
# Seven scales, and at each of them the same starts and the same wishes: image $i$ is asked for the digit $i$ modulo 10.

# %%
scales, steps = (0, 0.5, 1, 2, 3, 5, 8), 25 if n == 300 else 8
asked = torch.arange(n, device=device) % 10
images, options = {}, {"steps": steps, "batch_size": 100, "labels": asked}
for scale in scales:
    images[scale] = sample(guide(model, scale), schedule, n, **options).clamp(-1, 1).cpu()

# %% tags=["figure-12_scales"]
second = lambda k: torch.stack([images[scale][10 + k] for scale in scales])  # noqa: E731
rows, titles = {str(k): second(k) for k in range(10)}, [str(scale) for scale in scales]
alt = "The digits 0 to 9, one row each, at seven scales; at scale 0 they are something else, "
viz.image_rows(rows, titles=titles, alt=alt + "at 2 the digit asked for, at 8 bold and plain")

# %% [markdown]
# *Read along a row: one noise, one wish, seven scales. At 0 the wish does not count, and many of these images are no
# digit at all. At 1 it does, and nearly all are what was asked for. Compare the column 1 with the columns 5 and 8:
# where is the handwriting, and where is the felt pen? (These are the second images of each digit, not chosen further.)*
#
# ### What it gains and what it costs
#
# Three measurements, with the feature network of [notebook 09](09_evaluation.ipynb):
#
# - **Accuracy**: the share of images that the feature network reads as the digit that was asked for.
# - **Variety**: the mean distance of two images that are read as the same digit, in its features, divided by the same
#   number for real digits. 1 is the variety of handwriting; a model that draws one perfect seven has none.
# - **Distance**: the Frechet distance to as many real images, with its floor, the distance of two sets of real ones.
#
# Guess before you run: which scale has the best accuracy, and has it the best distance, too?

# %%
feature_net = load_feature_net(device)
real = evaluate(feature_net, to_float(test.images[:3000]))
features = {s: evaluate(feature_net, x).features for s, x in images.items()}  # (n, 64) each

def read(features):
    return feature_net.head(features.to(device)).argmax(1).cpu()

def spread(features):
    """Mean distance of two images read as the same digit; the mean over the digits."""
    digits = read(features)
    groups = [features[digits == k] for k in range(10)]
    return torch.stack([torch.pdist(group).mean() for group in groups if len(group) > 1]).mean().item()

# %%
table, whole = {}, spread(real.features)
floor = frechet_floor(real.features, n)
for scale, found in features.items():
    right = (read(found) == asked.cpu()).float().mean().item()
    white = (images[scale] > 0.9).float().mean().item()
    table[scale] = (right, spread(found) / whole, frechet_distance(found, real.features[:n]), white)
print("scale  accuracy  variety  distance  white pixels")
for scale, (right, variety, distance, white) in table.items():
    print(f"{scale:5}  {right:8.1%}  {variety:7.2f}  {distance:8.0f}  {white:12.1%}")
right = (read(real.features) == test.labels[:3000]).float().mean()
white = (to_float(test.images[:3000]) > 0.9).float().mean()
print(f" real  {right:8.1%}  {1:7.2f}  {floor:8.0f}  {white:12.1%}")

# %%
figure, (left, right) = viz.subplots(1, 2, size=(8, 3))
for i, name in enumerate(("accuracy", "variety")):
    left.plot(scales, [row[i] for row in table.values()], "o-", color=viz.COLOURS[i], label=name)
left.axhline(1, color="black", linewidth=0.8)
left.set(xlabel="scale", ylim=(0, 1.35), title="accuracy, and variety (1: real digits)")
left.legend()
right.plot(scales, [row[2] for row in table.values()], "o-", color=viz.COLOURS[2])
right.axhline(floor, color="black", linewidth=0.8, linestyle="--")
right.set(xlabel="scale", ylim=(0, None), title="Frechet distance (dashed: real digits)")
alt = "Left: accuracy rises with the scale, variety falls. Right: the distance falls, then rises"
viz.show(figure, alt=alt)

# %% [markdown]
# *In a full run: at 0 one image in ten is right, as it must be if nobody listens. At 1 almost all are, and the distance
# is at its floor: for these data and this network the label as learned is enough. From 2 on the feature network finds
# hardly a mistake. That is all that was left to gain, and it is paid for: a quarter of the variety is gone at 2, a
# third at 3 and 5, and the distance is well over twice the floor. The white pixels say what you saw: strokes get
# bolder, because a bold seven is surer to be a seven. So the best accuracy and the best distance are at different
# scales. Ho & Salimans (2022) found that for ImageNet, too.*
#
# *At 0 and 0.5 the variety is above 1. That is no success: broken digits differ more from each other than whole ones.
# And look how poor scale 0 is. Without a label the network was asked one time in ten, and for the harder question. That
# weak answer is what guidance steps away from, and part of the gain may be that its mistakes are left behind. Karras et
# al. (2024) make a method of it: they guide a network away from a worse version of itself.*
#
# ### Far too much
#
# What does a huge scale do to a picture? The formula has no limit; `guide` accepts up to 100.

# %%
few = asked[:10]
rows = {f"scale {scale}": images[scale][:10] for scale in (1, 5)}
for scale in (20, 100):
    rows[f"scale {scale}"] = sample(guide(model, scale), schedule, 10, steps=steps, labels=few).cpu()
alt = "The ten digits at scales 1, 5, 20 and 100: handwriting, plain, bold, frayed among specks"
viz.image_rows(rows, alt=alt)

# %%
start = image_noise(0, range(10), (1, 28, 28), device)()
for scale in (0, 1, 5, 20, 100):
    guided = guide(model, scale)
    asking = lambda x, t, guided=guided: guided(x, t, few)  # noqa: E731
    first = next(ddim_trajectory(asking, schedule, start, [900])).x0_hat
    share = (first.abs() == 1).float().mean()
    print(f"scale {scale:3}: {share:6.1%} of the pixels of the first guess are clipped")

# %% [markdown]
# *In a full run: at 20 some digits lose their shape; at 100 strokes fray, specks are everywhere, and still you can read
# most of the digits. The second cell says how. It hands the network pure noise at $t = 900$ and looks at its guess at
# the clean image: $s$ times a small difference is a large one, and clipping cuts it at black and white. From then on
# the network has to answer about images that it was never shown.*
#
# A scale below 0 would be the opposite wish: away from the digit, and on beyond the data. This course's `guide` refuses
# it:

# %%
for scale in (-1, float("nan"), 1e6):
    try:
        guide(model, scale)
    except ValueError as error:
        print(error)

# %% [markdown]
# ## Turn it yourself
#
# Choose a digit, then move the scale. The starts stay. (On a page that cannot run Python, the rows below have to do: threes
# and eights at every scale.)

# %%
grouped = [x.reshape(-1, 10, 1, 28, 28).transpose(0, 1)[:, :7] for x in images.values()]
by_digit = torch.stack(grouped)  # (7, 10, 7, 1, 28, 28)
frames = show.guidance_frames(list(scales), by_digit)
viz.explore(frames, slider="scale", menu="asked for")

# %%
gap, pairs = torch.full((1, 1, 28, 28), torch.nan), zip(scales, by_digit, strict=True)
rows = {f"scale {scale:g}": torch.cat([row[3], gap, row[8]]) for scale, row in pairs}
alt = "Seven threes and seven eights from the same starts, one row for each of seven scales"
viz.image_rows(rows, alt=alt)

# %% [markdown]
# *Look for an unusual digit at scale 1, thin or slanted or open. Follow it to larger scales. Is it drawn more clearly,
# or does it turn into another one, bolder and more like its neighbours? It is what happened to the left style in the
# one-pixel world.*
#
# ## Asking for what it never saw
#
# Between "four" and "nine" there is no label. But there are two predictions, and their mean is a prediction, too. What
# does it ask for? By (12.4), half of one classifier's slope and half of the other's:
#
# $$\begin{aligned}
# &{\color{#009E73}{\hat\epsilon_\varnothing}} + s \Big( \frac{{\color{#009E73}{\hat\epsilon_a}} + {\color{#009E73}{\hat\epsilon_b}}}{2} - {\color{#009E73}{\hat\epsilon_\varnothing}} \Big) \\
# &\quad = {\color{#009E73}{\hat\epsilon_\varnothing}} - \frac{s}{2}\, \sigma_t \nabla \log \big[ p(a \mid x_t)\, p(b \mid x_t) \big]
# \end{aligned} \tag{12.9}$$
#
# A product: a picture that is *both*, as far as possible, rather than one or the other. (The mean of two densities
# would be "one or the other", and its score is another mean, with the weights of (12.2).)

# %% tags=["nbval-check-output"]
with torch.no_grad():
    eps_a, eps_b = (one.ideal_eps(exact)(x_t, at) for one in classes)
product = slope(log_p.log_softmax(0).sum(0))
verify("12.9", guided_eps(eps, (eps_a + eps_b) / 2, 3.0), eps - 1.5 * exact.sigma[at] * product, tol=1e-9)

# %% [markdown]
# We mix at scale 3. Guess before you run: half-way between 4 and 9, what will the feature
# network read? And half-way between 0 and 1?

# %%
count, guided, rows = 8, guide(model, 3), {}
for a, b in ((4, 9), (1, 7), (3, 5), (0, 1)):

    def half(x, t, pair=(a, b)):
        return sum(guided(x, t, torch.full_like(t, k)) for k in pair) / 2

    rows[f"{a} and {b}"] = sample(half, schedule, count, steps=steps).cpu()
    digits = read(evaluate(feature_net, rows[f"{a} and {b}"].clamp(-1, 1)).features)
    print(f"half-way between {a} and {b}, read as:", *digits.tolist())
viz.image_rows(rows, alt="Four rows of eight digits: half-way between 4 and 9, 1 and 7, 3 and 5, 0 and 1")

# %% [markdown]
# *In a full run the feature network reads the first three rows as one of the two, now the one and now the other: a 4
# that is closed at the top, a 1 with a flag, a 3 with the roof of a 5. There is something between these digits, and the
# product finds it, though not every time. Between 0 and 1 there is nothing. What comes is a ring with a stroke in it:
# both, as was asked, and no digit.*
#
# ## What to remember, and what broke
#
# - A label is one more thing to condition the network on: a row of a table, added to that of the time. One row says "no
#   label", and hiding some labels in training makes one network answer with and without.
# - Guidance goes past the label: $\hat\epsilon_\varnothing + s\,(\hat\epsilon_y - \hat\epsilon_\varnothing)$. That is
#   Bayes' rule for the direction. The sampler does not draw from $p(x)\, p(y \mid x)^s$.
# - The scale buys obedience with variety. Look at both numbers before you choose it, and say which convention you count
#   in.
#
# **What broke:** nothing that you can see. But you had a trained network, a tested sampler and a known schedule, and
# every number came out as it should. What do you do when the loss is low and the pictures are mud? [Notebook
# 13](13_debugging_clinic.ipynb) opens a clinic for such models.
#
# ### Experiments to try
#
# - Guide in only half of the steps: write a model that uses scale 3 for $t > 500$ and 1 below, and the reverse. Which
#   half earns the accuracy, and which one costs the variety?
# - Mean of two *labels* instead of two predictions: put $(e_4 + e_9)/2$ into `net.label.weight[4]` (under
#   `torch.no_grad()`), and ask for a 4. Is it the same picture as above? (Put the old row back afterwards.)
# - In the one-pixel world, take `ddpm_trajectory` (from `ddpm_helpers`) in place of DDIM. Does fresh noise in every
#   step bring the samples closer to the formula?
# - `sample(guide(model, 5), ..., clip=False)`: how much of what guidance does to the digits is held back by clipping?
# - Train your own: `python -m ddpm_helpers.cli --data fashion --labels --target velocity --base 48 --steps 8000
#   --export fashion_labels.safetensors`, and ask for shoes.
