# %% [markdown]
# # Are the samples good?
#
# ![Eight rows of ten images with a number each, rising from copies over samples with fresh noise, noisy digits, samples in 50, 10 and 5 steps, and blurred digits to noise](../figures/09_ranking.png)
#
# *Eight sets of images, ranked by the number that this notebook builds; smaller is better. The top row wins. It is a
# thief, and of all other numbers only one tells. And would you have put the blurred digits below the broken ones?*
#
# **You will** judge a generative model honestly: examine a feature network, compute a distance between sets of images
# and find its floor and its bias, look for copies, and measure likelihood in bits. **You need** Gaussians, and the
# eigenvalues of a matrix; [notebook 04](04_bound_to_noise.ipynb) for the last part. **Time** 65 minutes of reading; the
# cells run in about 4 minutes on 2 CPU cores.

# %% tags=["setup"]
REPO = ""  # owner/name on GitHub; `make badges REPO=owner/name` fills it in
try:
    import ddpm_helpers
except ImportError:
    assert REPO, "The helper module is missing: start this notebook with `make lab`, or see Colab in the README."
    get_ipython().run_line_magic("pip", f"install -q git+https://github.com/{REPO}")

import math
import zlib

import torch
import torch.nn.functional as F
from torch.distributions import Normal, kl_divergence

from ddpm_helpers import bits_per_dim, budget, check, count_parameters, default_device, evaluate
from ddpm_helpers import forward_step, frechet_floor, linear_schedule, load_feature_net, load_images
from ddpm_helpers import load_pretrained, per_image, posterior, predict_x0, q_sample, sample
from ddpm_helpers import to_float, to_uint8, verify, viz
from ddpm_helpers.lessons import show
from ddpm_helpers.lessons.toy import double, log_normal
from ddpm_helpers.metrics import discretised_log_likelihood

device = default_device()
generator = torch.Generator().manual_seed(0)

# %% [markdown]
# ## Three pictures of one model
#
# [Notebook 08](08_sampling.ipynb) made images in many ways, and could not say which are better. Here we learn to
# measure that. The shipped model of MNIST draws samples with 50, with 10 and with 5 DDIM steps from the same starts,
# and with 50 once more, with fresh noise in each step: $\eta = 1$ in [(8.7)](08_sampling.ipynb).

# %%
model, schedule, _ = load_pretrained("mnist", device)
n = budget(gpu=1000, cpu=1000, quick=140, unit="samples of each kind")
samples = {}  # number of steps -> (n, 1, 28, 28)
for steps in (50, 10, 5):
    samples[steps] = sample(model, schedule, n, steps=steps, batch_size=100).cpu()
fresh = sample(model, schedule, n, steps=50, eta=1.0, batch_size=100).cpu()

# %%
train, test = load_images("mnist"), load_images("mnist", train=False)
print(train.source, test.source, sep="\n")
net = load_feature_net(device)

# %% [markdown]
# Below are three rows of twelve, from three models that might be worth publishing. Guess before you read on: how much
# better is the first model than the third?

# %%
with torch.no_grad():
    certainty = net(samples[50].to(device)).softmax(1).amax(1).cpu()  # (n,)
ranked = certainty.argsort(descending=True)
rows = {"A": samples[50][ranked[:12]], "B": samples[50][:12], "C": samples[50][ranked[-12:]]}
viz.image_rows(rows, alt="Three rows of twelve digits: clear ones, mixed ones, and broken ones")

# %% [markdown]
# *It is one model, and one set of samples with 50 steps. Row B is the first twelve. Row A is the twelve that a
# classifier is surest of, row C the twelve that it is least sure of. Whoever shows you row A need not lie: "samples of
# our model" is true of it. This is **cherry-picking**, and it works in both directions.*
#
# So we ask three questions, and find a number for each:
#
# - Are the samples **good**: does each of them look like a digit?
# - Are they **varied**: do all kinds of digits come, as often as they should?
# - Are they **new**: or does the model hand us what it was trained on?
#
# ## A feature network
#
# The classifier above is a small convolutional network that reads digits; its weights are shipped (`python
# tests/benchmarks/train_feature_net.py` trains it). It shall judge our samples, so it must be examined first.

# %%
kept = 10 * n  # real images that we look at
reals = to_float(test.images[:kept])
seen = evaluate(net, reals)  # features (kept, 64), and what follows from them
answers = net.head(seen.features.to(device)).argmax(1).cpu()
right = (answers == test.labels[:kept]).float().mean()
print(f"{count_parameters(net):,} parameters; reads {right:.2%} of {kept:,} test images")

# %% [markdown]
#
#
# The answer is only the last layer. One layer before it the network has turned an image into 64 numbers from which the
# answer can be read off; they are its **features**, and for their sake it is called a **feature network**. Images that
# look different and mean the same lie close together there. We draw the two directions along which the features of real
# images vary most.

# %% tags=["figure-09_features"]
made = {steps: evaluate(net, images) for steps, images in samples.items()}
centre = seen.features.mean(0)
_, _, directions = torch.linalg.svd(seen.features - centre, full_matrices=False)  # rows: (64, 64), most important first
shown = {f"{n} real images": seen.features[:n], f"{n} samples, 50 steps": made[50].features}
panels = {}
for title, features in shown.items():
    classes = net.head(features.to(device)).argmax(1).cpu()
    panels[title] = (features - centre) @ directions[:2].T, classes
alt = "Features of real images and of samples in two directions, coloured by the predicted class"
show.plot_points(panels, alt=alt, xlabel="first direction", ylabel="second direction")

# %% [markdown]
# *Each dot is an image, its colour the class that the network predicts. The samples fill the same clouds, but look at
# the spaces between them. Real digits are rare there; samples are not. An image between two clouds is something between
# two digits.*
#
# ## Good and varied, first attempt
#
# With such a network, two of the questions look easy. **Good**: the share of images of whose class it is at least 95 %
# sure; call it **recognisable**. **Varied**: the histogram of the classes, or in one number its **entropy**. If class
# $k$ has the share $p_k$,
#
# $$H = -\sum_k p_k \log p_k \tag{9.1}$$
#
# It is the mean surprise $-\log p_k$ of a reader who is told one class after another: $\log 10 = 2.303$ if all ten come
# equally often, 0 if one class is all there is.

# %% tags=["nbval-check-output"]
p = torch.tensor([1 / 2, 1 / 4, 1 / 8, 1 / 8], dtype=torch.float64)
classes = torch.multinomial(p, 100_000, replacement=True, generator=generator)
verify("9.1", samples=-p[classes].log(), expected=(0.5 * 1 + 0.25 * 2 + 0.125 * 3 + 0.125 * 3) * math.log(2))
verify("9.1", torch.special.entr(torch.full((10,), 0.1, dtype=torch.float64)).sum(), math.log(10))

# %% [markdown]
# Now five sets of images: real ones, our samples, Gaussian noise clipped to [-1, 1], black images, and one real digit a
# thousand times. Guess before you run: what share of the *noise* will be recognisable? And of the *black* images?

# %%
noise = torch.randn(n, 1, 28, 28, generator=generator).clamp(-1, 1)
sets = {"real": reals[:n], "samples": samples[50], "noise": noise}
sets |= {"black": torch.full_like(noise, -1), "one digit": reals[:1].expand(n, -1, -1, -1)}
print(f"{'':10} recognisable  entropy  most frequent class")
for name, images in sets.items():
    found = evaluate(net, images)
    top = found.histogram.argmax()
    print(f"{name:10} {found.recognisable:12.1%}  {found.entropy:7.3f}  {top}: {found.histogram[top]:.1%}")
alt = "Eight images of each of five sets: real digits, samples, noise, black, and one digit repeated"
viz.image_rows({name: images[:8] for name, images in sets.items()}, alt=alt)

# %% [markdown]
# *The network is almost certain that noise is an eight, and that black is a one: it has to answer with a digit, and
# nobody taught it to say "none of these". So "recognisable" means something only where you know already that the images
# are more or less digits. The entropy finds them out. But ten good digits, each copied a hundred times, would have top
# marks in both columns. We need to compare sets with sets.*
#
# ## The distance between two sets
#
# The features of real images and of samples are two clouds in 64 dimensions. How far apart are they? Begin with one
# dimension and sand: $a$ and $b$ are two heaps. Moving a grain by $d$ costs $d^2$. What does it cost per grain, at the
# least, to turn heap $a$ into heap $b$?

# %%
u = torch.randn(12, generator=generator).sort().values
v = (1.5 + 0.5 * torch.randn(12, generator=generator)).sort().values
shuffled = v[torch.randperm(12, generator=generator)]
print(f"in order {(u - v).square().mean():.2f}, at random {(u - shuffled).square().mean():.2f}")

# %%
figure, axes = viz.subplots(1, 2, size=(8, 2.2))
for axis, (title, goal) in zip(axes, {"in order": v, "at random": shuffled}.items(), strict=True):
    look = {"color": viz.COLOURS[0], "linewidth": 1, "markersize": 4}
    axis.plot(torch.stack([u, goal]).numpy(), [[1.0] * 12, [0.0] * 12], "o-", **look)
    axis.set(title=title, yticks=[0, 1], yticklabels=["heap b", "heap a"])
viz.show(figure, alt="Twelve grains of one heap are joined with twelve of another: left in order, right with crossing lines")

# %% [markdown]
# *Crossing lines waste effort: uncross any two and you save. So the cheapest way keeps the order: the leftmost grain
# goes to the leftmost place.* For two Gaussians, keeping the order is $y = \mu_b + \frac{\sigma_b}{\sigma_a}(x -
# \mu_a)$, and the mean of $(x - y)^2$ is
#
# $$d^2 = (\mu_a - \mu_b)^2 + (\sigma_a - \sigma_b)^2 \tag{9.2}$$
#
# We check it without the formula for $y$: draw a million numbers from each Gaussian, sort both, and pay.

# %% tags=["nbval-check-output"]
x, y = torch.randn(2, 1_000_000, generator=generator, dtype=torch.float64)
cost = ((1.0 + 2.0 * x).sort().values - (2.5 + 0.5 * y).sort().values).square().mean()
verify("9.2", cost, (1.0 - 2.5) ** 2 + (2.0 - 0.5) ** 2, tol=5e-3)

# %% [markdown]
# In 64 dimensions a Gaussian has a mean $\mu$ (64 numbers) and a **covariance**, a 64 x 64 matrix: entry $(i, j)$ is
# the mean product of the deviations of features $i$ and $j$ from their means. Call the two matrices $A$ and $B$. In
# place of $\sigma_b / \sigma_a$ stands a matrix $M$ that changes the cloud $A$ into the cloud $B$; as $M x$ has the
# covariance $M A M^\top$, that means $M A M^\top = B$. Many matrices do, since one may rotate the cloud on the way. The
# cheapest is the one without a rotation: symmetric and without negative eigenvalues (Dowson & Landau 1982):
#
# $$M = A^{-1/2} \big(A^{1/2} B A^{1/2}\big)^{1/2} A^{-1/2}, \qquad M A M = B \tag{9.3}$$
#
# $A^{1/2}$ is the **root** of $A$, the symmetric matrix without negative eigenvalues whose product with itself is $A$:
# keep the eigenvectors of $A$ and take the roots of its eigenvalues. In one dimension (9.3) says $M = \sigma_b /
# \sigma_a$. And the cost of $y = \mu_b + M(x - \mu_a)$? $x - y$ has the covariance $A + B - M A - A M$. The mean of a
# squared length is the squared length of the mean plus the sum of the variances, the diagonal of the covariance: that
# sum is its **trace**, tr. In a trace factors may go round, $\mathrm{tr}(P Q) = \mathrm{tr}(Q P)$, so $M A$ and $A M$
# both have the trace of the middle root of (9.3), and the mean cost is
#
# $$d^2 = \lVert \mu_a - \mu_b \rVert^2 + \mathrm{tr}\Big(A + B - 2 \big(A^{1/2} B A^{1/2}\big)^{1/2}\Big) \tag{9.4}$$
#
# This is the **Frechet distance** of two Gaussians (squared, strictly; everybody leaves that out). We run both in four
# dimensions, (9.4) by moving 100,000 grains.

# %% tags=["nbval-check-output"]
def root(S, power=0.5):
    values, vectors = torch.linalg.eigh(S)
    return (vectors * values.clamp(min=0) ** power) @ vectors.T

mixes = torch.randn(2, 4, 4, generator=generator, dtype=torch.float64)
A, B = mixes @ mixes.mT + torch.eye(4, dtype=torch.float64)
M = root(A, -0.5) @ root(root(A) @ B @ root(A)) @ root(A, -0.5)
verify("9.3", M @ A @ M, B, tol=1e-9)

# %% tags=["nbval-check-output"]
apart = torch.tensor([1.0, -2.0, 0.0, 0.5], dtype=torch.float64)  # mean of b minus mean of a
x = torch.randn(100_000, 4, generator=generator, dtype=torch.float64) @ torch.linalg.cholesky(A).T  # covariance A
moved = x @ M.T + apart
squared_distance = apart.square().sum() + (A + B - 2 * root(root(A) @ B @ root(A))).trace()
verify("9.4", samples=(x - moved).square().sum(1), expected=squared_distance)

# %% [markdown]
# In papers you will find the root of $A B$ instead. Only its trace matters, and the two traces agree: $A^{1/2} B
# A^{1/2}$ has the same eigenvalues $\lambda_i$ as $A B$.
#
# $$\mathrm{tr}\, \big(A^{1/2} B A^{1/2}\big)^{1/2} = \sum_i \sqrt{\lambda_i(A B)} \tag{9.5}$$
#
# To check it we take the root on the left side by an iteration that knows no eigenvalues (Denman & Beavers 1976): start
# with $Y$ the matrix and $Z = I$, and replace both by $(Y + Z^{-1})/2$ and $(Z + Y^{-1})/2$ until nothing moves.

# %% tags=["nbval-check-output"]
Y, Z = root(A) @ B @ root(A), torch.eye(4, dtype=torch.float64)
for _ in range(20):
    Y, Z = (Y + torch.linalg.inv(Z)) / 2, (Z + torch.linalg.inv(Y)) / 2
verify("9.5", Y.trace(), torch.linalg.eigvals(A @ B).real.sqrt().sum(), tol=1e-9)

# %% [markdown]
# Then why the longer form? $A B$ is not symmetric. Its eigenvalues are not negative in theory; let us see in practice,
# for covariances of 40 real images each. (They fill at most 39 of the 64 dimensions, since their mean is taken off, so
# at least 25 eigenvalues are 0.)

# %%
few_a, few_b = (seen.features[i : i + 40].T.cov() for i in (0, 40))  # (64, 64) each, float32 as usual
values = torch.linalg.eigvals(few_a @ few_b)
print(f"of A B: {(values.real < 0).sum()} of 64 eigenvalues have a negative real part, {(values.imag != 0).sum()} are complex")
print("sum of their real roots:", values.real.sqrt().sum())
for bits, (a, b) in {32: (few_a, few_b), 64: (few_a.double(), few_b.double())}.items():
    print(f"symmetric form, in {bits} bits: {root(root(a) @ b @ root(a)).trace():.1f}")

# %% [markdown]
# *Rounding turns zeros into small numbers of either sign, and pairs of them into complex ones; the roots are then not
# numbers. Some programs throw the imaginary part away. The symmetric form has real eigenvalues always, and those that
# rounding made negative are set to 0, where they belong.*
#
# ### Exercise 9.1 - `frechet_distance`
#
# `a` has shape (N, D), `b` has shape (M, D): features. Return (9.4) for their means and covariances (those that divide
# by N - 1), a number. Compute in 64 bits: the distance of two similar sets is a small difference of large numbers.

# %% tags=["exercise", "nbval-check-output"]
def frechet_distance(a, b):
    a, b = a.double(), b.double()
    distance = ...  # (9.4), a few lines
    return distance


frechet_distance = check(frechet_distance)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `x.T.cov()` is the covariance (D, D) of the rows of `x`. A root: `values, vectors = torch.linalg.eigh(S)`, then
# `vectors * values.clamp(min=0).sqrt() @ vectors.T`. The trace of a root is the sum of the roots of the eigenvalues, which
# `torch.linalg.eigvalsh` returns.
#
# </details>
#
# Two Gaussians whose covariances share their axes can be done with (9.2) axis by axis, and your function should agree:

# %%
wide = torch.randn(5000, 2, generator=generator, dtype=torch.float64)
white = (wide - wide.mean(0)) @ root((wide - wide.mean(0)).T.cov(), -0.5)  # mean 0, covariance I, exactly
a, b = white * torch.tensor([1.0, 3.0]), white * torch.tensor([2.0, 3.0]) + torch.tensor([0.0, 4.0])
print(f"frechet_distance {frechet_distance(a, b):.6f}, axis by axis {(1 - 2) ** 2 + (3 - 3) ** 2 + 4**2}")

# %% [markdown]
# And the first real number:

# %%
one, other = seen.features[torch.randperm(kept, generator=generator)[: 2 * n]].chunk(2)
print(f"samples against real: {frechet_distance(made[50].features, one):.1f}")
print(f"real against real:    {frechet_distance(other, one):.1f}")

# %% [markdown]
# *The distance of real to real is not 0; we come to that. And the numbers have no unit: they depend on the feature
# network.* That is why **this is not FID**. The Frechet inception distance (Heusel et al. 2017) is (9.4) with the 2048
# features of one particular network, Inception, trained on photographs. Ours can be compared with ours, and with
# nothing in any paper.
#
# Nor does the distance work without a cloud. Of the sets that fooled the network, noise is found out, and a set that
# does not vary is refused:

# %%
print(f"noise: {frechet_distance(evaluate(net, noise).features, one):,.0f}")
try:
    ddpm_helpers.frechet_distance(evaluate(net, sets["one digit"]).features, one)
except ValueError as error:
    print("one digit:", error)

# %% [markdown]
# ## What it sees
#
# A measure is worth what it notices. We damage real images in four ways, more and more, and watch the distance. (The
# base is training images, so that nothing is compared with itself.) Guess before you run: which of the four will it
# punish hardest? And how much for one digit missing altogether?

# %%
def blur(x, width):
    weight = (-(torch.arange(-4.0, 5.0) ** 2) / (2 * width**2)).exp()
    weight = weight / weight.sum()  # (9,)
    across = F.conv2d(F.pad(x, (4, 4, 4, 4), value=-1.0), weight.reshape(1, 1, 1, 9))
    return F.conv2d(across, weight.reshape(1, 1, 9, 1))

def against_real(features, tries=10):
    """Distances to `tries` random sets of as many real images."""
    draw = torch.Generator().manual_seed(0)
    orders = [torch.randperm(kept, generator=draw)[: len(features)] for _ in range(tries)]
    return torch.tensor([frechet_distance(features, seen.features[order]) for order in orders])

# %%
chosen = torch.randperm(len(train.images), generator=generator)
base, labels = to_float(train.images[chosen[: 2 * n]]), train.labels[chosen[: 2 * n]]
grain = torch.randn(base[:n].shape, generator=generator)
damage = {
    "blur": ((0.3, 0.5, 0.7, 1.0), lambda s: blur(base[:n], s)),
    "noise": ((0.1, 0.2, 0.3, 0.5), lambda s: (base[:n] + s * grain).clamp(-1, 1)),
    "brighter": ((0.1, 0.2, 0.3, 0.5), lambda s: (base[:n] + s).clamp(-1, 1)),
    "moved": ((1, 2, 3, 4), lambda s: base[:n].roll(s, 3)),
}

# %%
def distance(images):
    return against_real(evaluate(net, images).features).mean().item()

harm = {name: [distance(act(s)) for s in strengths] for name, (strengths, act) in damage.items()}
untouched, fifty = distance(base[:n]), distance(samples[50])
no_fives = distance(base[labels != 5][:n])
print(f"untouched {untouched:.1f}; no fives {no_fives:.1f}; samples, 50 steps {fifty:.1f}")

# %%
figure, axes = viz.subplots(1, 4, size=(8, 2.6), sharey=True)
for axis, (name, (strengths, _)) in zip(axes, damage.items(), strict=True):
    axis.semilogy([0, *strengths], [untouched, *harm[name]], "o-")
    axis.axhline(no_fives, linestyle=":", color=viz.COLOURS[1])
    axis.axhline(fifty, linestyle=":", color=viz.COLOURS[2])
    axis.set(title=name, ylim=(5, 2000), xlabel="strength")
axes[0].set_ylabel("distance")
alt = "Distance against the strength of blur, noise, brightness and shift: four rising curves"
viz.show(figure, f"{alt}; dotted lines mark a set without fives, and our samples")

# %%
rows = {}
for name, (strengths, act) in damage.items():
    rows[name] = torch.cat([base[:1], *(act(s)[:1] for s in strengths)])
viz.image_rows(rows, titles=["0", *"1234"], alt="One digit under growing blur, noise, brightness and shift")

# %% [markdown]
# *Strength grows to the right; blur and move in pixels, the other two on the scale from -1 to 1. The dotted lines are
# real digits without any five (orange) and our samples (green). On real MNIST, the third blur, which leaves the digit
# easy to read, costs more than a missing class; the third noise, which you notice at once, costs less. Every feature
# network has such preferences. So a distance orders sets well if they have the same kind of fault, and poorly if one is
# blurred and the other is noisy. Being moved by a pixel costs little, because the network was trained on digits moved
# by up to two. Our samples are not as far away as real digits of which one class is missing.*
#
# ## The floor, and a trap with n
#
# Two sets of real images have the same distribution, so their distance should be 0. It is not: each of the two means is
# off by chance. A mean of $n$ draws has $1/n$ of the variance of one, and the trace adds up the variances of all
# features, so the first term of (9.4) alone has the expectation
#
# $$\mathbb{E}\, \lVert m_a - m_b \rVert^2 = \frac{2\, \mathrm{tr}\, A}{n} \tag{9.6}$$
#
# where $m_a, m_b$ are the means of the two sets and $A$ the covariance of all. The covariances add about twice as much.
# Here the true distance is 0 and no estimate is below it, so their mean is above it: estimates are **biased**. (For
# samples, too: the first term gains $\mathrm{tr}\, A / n + \mathrm{tr}\, B / n$, whatever the true distance.)

# %% tags=["nbval-check-output"]
features = seen.features.double()
gaps = torch.empty(1000, dtype=torch.float64)
for i in range(1000):
    order = torch.randperm(kept, generator=generator)
    gaps[i] = (features[order[:50]].mean(0) - features[order[50:100]].mean(0)).square().sum()
verify("9.6", samples=gaps, expected=2 * features.T.cov().trace() / 50)

# %% [markdown]
# So each distance needs its **floor**: real against real at the same $n$. `frechet_floor` splits real images at random
# and computes it.

# %%
sizes = [k for k in (100, 200, 500, 1000, 2000, 5000) if 2 * k <= kept]
floor, ours = {}, {}
for k in sizes:
    floor[k] = torch.tensor([frechet_floor(seen.features, k, seed=i) for i in range(10)])
    print(f"n = {k:5}: floor {floor[k].mean():6.1f} ({floor[k].min():.1f} to {floor[k].max():.1f})", end="")
    if k <= n:
        order = torch.randperm(n, generator=generator)[:k]
        ours[k] = against_real(made[50].features[order])
    print(f", samples {ours[k].mean():6.1f}" if k in ours else "")

# %% [markdown]
# *The same model gets one number at $n = 100$ and a much better one at $n = 1000$: **numbers of different $n$ must
# never be compared**. And the range in brackets is wide: at $n = 1000$ two single distances that are ten or twenty
# units apart may belong to equally good models. So we take the mean over ten sets of real images. (The one set of
# samples keeps its own chance.)*
#
# If the bias is $a / n$, then the distance $d(n) \approx d_\infty + a / n$ is a straight line over $1/n$, and where it
# meets the axis we read off the distance of infinitely many samples (Chong & Forsyth 2020, for FID). The code fits $n\,
# d(n) \approx d_\infty\, n + a$: the scatter of $d(n)$ falls about like $1/n$, so that of $n\, d(n)$ is about the same
# for all $n$, as a least-squares line wants it.

# %%
def extrapolate(found):
    """The distance at 1/n = 0, and the slope, from {n: distances}."""
    k = torch.tensor(list(found), dtype=torch.float64)
    d = torch.stack([v.double().mean() for v in found.values()])
    return torch.linalg.lstsq(torch.stack([k, torch.ones_like(k)], 1), (k * d)[:, None]).solution[:, 0].tolist()

lines = {"real": extrapolate(floor), "samples": extrapolate(ours)}
for name, (limit, slope) in lines.items():
    print(f"{name:8}: {limit:6.1f} + {slope:,.0f} / n")

# %% tags=["figure-09_bias"]
figure, axis = viz.subplots(size=(7, 3.2))
for i, (name, found) in enumerate({"real": floor, "samples": ours}.items()):
    places, (limit, slope) = [1 / k for k in found for _ in range(10)], lines[name]
    dots = {"color": viz.COLOURS[i], "markersize": 4, "alpha": 0.6}
    axis.plot(places, torch.cat(list(found.values())), "o", **dots)
    axis.plot([0, 0.01], [limit, limit + 0.01 * slope], color=viz.COLOURS[i], label=f"{name} against real")
axis.set(xlabel="1 / n", ylabel="distance", ylim=(-15, None))
axis.axhline(0, color="black", linewidth=0.8)
axis.legend(frameon=False)
alt = "Distance against 1/n for real images and for samples: two rising lines"
viz.show(figure, f"{alt}; one starts near 0, the other well above it")

# %% [markdown]
# *The line of the real images runs into 0, as it must. The line of the samples ends well above. That height is what is
# wrong with the model; the slopes are what is wrong with small samples.*
#
# "Two sets of real images" sounds safe. Take the first half of the file and the second:

# %%
half = kept // 2
random_halves = torch.tensor([frechet_floor(seen.features, half, seed=i) for i in range(10)])
print(f"first half against second half: {frechet_distance(seen.features[:half], seen.features[half:]):.1f}")
print(f"random halves: {random_halves.mean():.1f} ({random_halves.min():.1f} to {random_halves.max():.1f})")

# %% [markdown]
# *On real MNIST the halves of the test set differ by many times the floor: other people wrote the first half (the data
# set's own page says so). Shuffle before you split.*
#
# ## New, or copied?
#
# A model could learn its training images by heart. Its distance would be the floor itself. So for some samples we look
# for the **nearest** training image: the smallest root of the mean squared difference of pixels. All pairs at once are
# cheap:
#
# $$\mathrm{mean}\, (x - y)^2 = \mathrm{mean}\, x^2 + \mathrm{mean}\, y^2 - 2\, \mathrm{mean}\, (x\, y) \tag{9.7}$$
#
# The last term, for all pairs, is one product of matrices. `torch.cdist` does this (with the root taken, and sums in
# place of means).

# %% tags=["nbval-check-output"]
x, y = reals[:5].double(), samples[50][:7].double()
direct = (x[:, None] - y[None]).square().mean((2, 3, 4))  # (5, 7)
product = x.flatten(1) @ y.flatten(1).T / 784
verify("9.7", direct, x.square().mean((1, 2, 3))[:, None] + y.square().mean((1, 2, 3)) - 2 * product, tol=1e-9)

# %% [markdown]
# ### Exercise 9.2 - `nearest_images`
#
# `samples` has shape (N, C, H, W), `images` has shape (M, C, H, W). Return two tensors of shape (N,): for each sample the
# index of the nearest image, and the distance to it, a root of the mean squared difference. M will be 60,000, so never
# hold all differences, (N, M, C, H, W), at once.

# %% tags=["exercise", "nbval-check-output"]
def nearest_images(samples, images):
    pairs = ...  # (N, M)
    indices, distances = ...  # (N,) each
    return indices, distances


nearest_images = check(nearest_images)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `torch.cdist(a, b)` wants (N, D) and (M, D): `.flatten(1)`. It takes the root of a sum over D values; you want the
# root of their mean. `.min(1)` returns values and indices, in this order. If you take (9.7) instead: in 32 bits a copy
# can come out a little below 0, so `.clamp(min=0)` before the root.
#
# </details>
#
# Below ten samples and, under each, the training image that is nearest to it of all. (The cell also asks for `held-out`
# images, random test images, for later.)

# %%
library, k = to_float(train.images), n // 5
near = {}
unseen = reals[torch.randperm(kept, generator=generator)[:k]]
for name, images in {"samples": samples[50][:k], "held-out": unseen}.items():
    near[name] = nearest_images(images, library)
rows = {"samples": samples[50][:10], "nearest": library[near["samples"][0][:10]]}
titles = [f"{d:.2f}" for d in near["samples"][1][:10]]
viz.image_rows(rows, titles=titles, alt="Ten samples, and below each the nearest training image")

# %% [markdown]
# *The numbers are the distances. The pairs resemble each other, and none is the same image twice: look at slants, loops
# and ends of strokes.* But is 0.3 near? There is a perfect yardstick: real digits that the model was not trained on.

# %%
figure, axis = viz.subplots(size=(7, 2.8))
for i, (name, (_, far)) in enumerate(near.items()):
    look = {"histtype": "step", "linewidth": 2} if i else {"alpha": 0.6}
    axis.hist(far.numpy(), [j / 50 for j in range(31)], color=viz.COLOURS[i], label=name, **look)
axis.axvline(0, color="black", linestyle=":", label="a training image itself")
axis.set(xlabel="distance to the nearest training image", ylabel="images")
axis.legend(frameon=False)
alt = "Histograms of the distance to the nearest training image, of samples and of held-out images"
viz.show(figure, f"{alt}, and a line at 0")

# %%
for name, (_, far) in near.items():
    print(f"{name:9}: smallest {far.min():.3f}, median {far.median():.3f}")

# %% [markdown]
# *Neither histogram reaches 0, and the samples lie, if anything, farther away from the training images than unseen
# handwriting does. So none of these 200 samples is a copy, pixel for pixel. Farther is not better, though: a broken
# stroke is far from every digit. And the distance is one of pixels: a training digit moved by two would look new to
# it.*
#
# ## Likelihood, in bits
#
# A fourth question needs no feature network: how probable does the model find *real* images that it has not seen
# ([notebook 03](03_likelihood_bound.ipynb))? A probability $p$ is a **code length**: a good code spends $-\log_2 p$
# bits on what has probability $p$. Divided by the number of pixels (and channels) it is the **bits per dimension**. An
# image file without any compression takes 8.
#
# The likelihood itself is out of reach, so we compute the bound, as in [notebook 04](04_bound_to_noise.ipynb), now for
# a trained network (Ho et al. 2020, equation 5). Per dimension of $D$, in bits:
#
# $$-\frac{\log_2 p_\theta(x_0)}{D} \le \frac{1}{D \log 2} \Big(L_T + \sum_{t=2}^{T} L_{t-1} + L_0\Big) \tag{9.8}$$
#
# In (9.8) each $L$ belongs to a whole image; below we write them per pixel, already divided by $D$. The **prior** term
# $L_T$ says how far $x_T$ is from $\mathcal{N}(0, I)$. Each **step** term $L_{t-1}$ says how far the model's step is
# from the true one, and the **decoder** term $L_0$ what it costs to name the exact grey level at the end. The sum must
# be what we had before anything was rearranged, the mean of $\log q(x_1, \dots, x_T \mid x_0) - \log p_\theta(x_0,
# \dots, x_T)$ over walks. We run that on images of one pixel, with 50 steps and an ideal model for data $\mathcal{N}(0,
# 1/4)$.

# %%
toy = linear_schedule(50)

def ideal(x, t):
    """The best prediction of the noise for data N(0, 1/4)."""
    a_bar, sigma = per_image(toy.alpha_bar[t], x), per_image(toy.sigma[t], x)
    return sigma * x / (a_bar / 4 + sigma**2)

# %% tags=["nbval-check-output"]
x0 = torch.full((5_000, 1, 1, 1), 2 * 100 / 255 - 1)  # grey level 100
path, log_q = [x0], 0
for t in range(1, toy.T + 1):
    path.append(forward_step(path[-1], toy.beta[t], torch.randn(x0.shape, generator=generator)))
    log_q = log_q + log_normal(path[t], toy.alpha[t].sqrt() * path[t - 1], toy.beta[t])
log_p = log_normal(path[-1], 0, torch.ones(()))
for t in range(toy.T, 0, -1):
    steps = torch.full((len(x0),), t)
    mean, _ = posterior(toy, predict_x0(toy, path[t], steps, ideal(path[t], steps)), path[t], steps)
    if t > 1:
        log_p = log_p + log_normal(path[t - 1], mean, toy.beta[t])
log_p = log_p + discretised_log_likelihood(x0, mean, toy.beta[1].sqrt())  # the mean of step 1
bound = bits_per_dim(ideal, toy, x0.repeat(40, 1, 1, 1), clip=False).total
verify("9.8", samples=((log_q - log_p) / math.log(2)).flatten(), expected=bound)

# %% [markdown]
# ### The prior
#
# $x_T$ is Gaussian with mean $\sqrt{\bar\alpha_T}\, x_0$ and variance $1 - \bar\alpha_T$. Its divergence from
# $\mathcal{N}(0, 1)$, per pixel and in nats, is that of two Gaussians, [(4.5)](04_bound_to_noise.ipynb):
#
# $$L_T = \tfrac{1}{2} \big(\bar\alpha_T\, x_0^2 - \bar\alpha_T - \log(1 - \bar\alpha_T)\big) \tag{9.9}$$
#
# ### Exercise 9.3 - `prior_bits`
#
# Return the mean of (9.9) over all pixels of `images` (N, C, H, W), in bits: a Python number. `schedule.alpha_bar` has
# $T + 1$ entries, the last one is $\bar\alpha_T$. One nat is $1 / \log 2$ bits. Our $\bar\alpha_T$ is so small that
# $1 - \bar\alpha_T$, in 32 bits, is rounded to 1, and (9.9) would come out negative: take `torch.log1p(-a_bar)`, which
# is $\log(1 - \bar\alpha_T)$ without that rounding.

# %% tags=["exercise", "nbval-check-output"]
def prior_bits(schedule, images):
    a_bar = ...
    nats = ...  # (9.9), the mean
    return nats / math.log(2)


prior_bits = check(prior_bits)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `a_bar` is `schedule.alpha_bar[-1]`, a tensor of one number, as `torch.log1p` wants it; `math.log1p` takes a number.
# `images.square()` squares each pixel, `.mean().item()` makes a number.
#
# </details>

# %% tags=["nbval-check-output"]
short, pictures = double(linear_schedule(300, rescale=False)), reals[:3].double()
end = Normal(short.sqrt_alpha_bar[-1] * pictures, short.sigma[-1])
nats = kl_divergence(end, Normal(0.0, 1.0)).mean()
verify("9.9", prior_bits(short, pictures), nats.item() / math.log(2), tol=1e-9)

# %%
for name, s in {"ours": schedule, "T = 300, betas not rescaled": short}.items():
    print(f"{name:28}: prior {prior_bits(s, reals[:n].to(s.beta.device)):.1e} bits per dimension")

# %% [markdown]
# *For our schedule the prior costs nothing. The second line is the trap of [notebook 02](02_forward_process.ipynb), a
# schedule that ends before the image is gone: $x_T$ still says something about $x_0$, and the sampler, which starts
# from $\mathcal{N}(0, I)$, does not have it.*
#
# ### The steps
#
# With the variance $s_t^2 = \beta_t$ of the model's step, the step term is a fixed price $C_t$ for the wrong variance,
# and a weighted squared error. This is [(4.11)](04_bound_to_noise.ipynb), per pixel and in nats:
#
# $$\begin{aligned}
# L_{t-1} &= C_t + w_t\, (\epsilon - {\color{#009E73}{\hat\epsilon}})^2, & C_t &= \tfrac{1}{2}(r_t - 1 - \log r_t), \\
# w_t &= \frac{\beta_t}{2\, \alpha_t\, \sigma_t^2}, & r_t &= \frac{\sigma_{t-1}^2}{\sigma_t^2}
# \end{aligned} \tag{9.10}$$

# %% tags=["nbval-check-output"]
exact, t = double(schedule), torch.tensor([2, 300, 990])
r = exact.sigma[:-1] ** 2 / exact.sigma[1:] ** 2  # r[t - 1] belongs to step t
price, weight = 0.5 * (r - 1 - r.log()), exact.beta / (2 * exact.alpha * exact.sigma**2)
eps, eps_hat = torch.randn(2, 3, 1, 28, 28, generator=generator, dtype=torch.float64)
x_t = q_sample(exact, pictures, t, eps)
mean, variance = posterior(exact, pictures, x_t, t)
guess, _ = posterior(exact, predict_x0(exact, x_t, t, eps_hat), x_t, t)
true = Normal(mean, variance.sqrt())
model_step = Normal(guess, exact.beta[t].reshape(-1, 1, 1, 1).sqrt())
nats = kl_divergence(true, model_step).mean((1, 2, 3))
verify("9.10", nats, price[t - 1] + weight[t] * (eps - eps_hat).square().mean((1, 2, 3)), tol=1e-9)

# %% [markdown]
# ### The decoder
#
# Pixels are one of 256 grey levels, $x = 2u/255 - 1$. The probability of a level is what the last Gaussian, with mean
# $\hat\mu$ and standard deviation $\sigma = \sqrt{\beta_1}$, has within half a level to either side, as in
# [(4.16)](04_bound_to_noise.ipynb) ($\Phi$: the Gaussian's distribution function):
#
# $$P(x) = \Phi\Big(\frac{x + 1/255 - \hat\mu}{\sigma}\Big) - \Phi\Big(\frac{x - 1/255 - \hat\mu}{\sigma}\Big) \tag{9.11}$$
#
# At the two ends the intervals reach to infinity, so that the 256 probabilities add to 1.

# %% tags=["nbval-check-output"]
levels = 2 * torch.arange(256, dtype=torch.float64) / 255 - 1
log_p = discretised_log_likelihood(levels, torch.full_like(levels, 0.31), torch.tensor(0.4))
edges = Normal(0.31, 0.4).cdf((levels[1:] + levels[:-1]) / 2)  # (255,), between the levels
edges = torch.cat([torch.zeros(1), edges, torch.ones(1)])
verify("9.11", log_p.exp(), edges.diff(), tol=1e-5)
verify("9.11", log_p.double().exp().sum(), 1.0)

# %% [markdown]
# ### The bill
#
# Four sets of images: test digits; the same with 0 or 1 grey level of 255 added to each pixel by the throw of a coin
# (white, 255, is first lowered to 254); our samples; and black images. Guess before you run: which set does the model
# find most probable, and by how much does the coin change the price? `steps=count` computes at most that many of the
# 999 step terms, each for a stretch of steps: an estimate of the whole bound, not the bound of a walk with fewer steps.
# zlib is the method inside PNG and ZIP files.

# %%
few, count = (64, 50) if n == 1000 else (16, 20)
digits = test.images[:few]
coins = torch.randint(2, digits.shape, generator=generator, dtype=torch.uint8)
bill = {"test digits": digits, "with coins": digits.clamp(max=254) + coins}
bill |= {"samples": to_uint8(samples[50][:few]), "black": torch.zeros_like(digits)}
print(f"{'bits per dimension':18} prior  steps  decoder  total   zlib")
bounds = {}
for name, images in bill.items():
    bounds[name] = b = bits_per_dim(model, schedule, to_float(images).to(device), steps=count)
    packed = 8 * len(zlib.compress(images.numpy().tobytes(), 9)) / images.numel()
    print(f"{name:18} {b.prior:5.3f}  {b.middle:5.3f}  {b.decoder:7.3f}  {b.total:5.3f}  {packed:5.3f}")
alt = "Ten images of each set: test digits, the same with coins, samples, black"
viz.image_rows({name: images[:10] for name, images in bill.items()}, alt=alt)

# %% [markdown]
# *On real MNIST there are four surprises. A model that invents digits packs them worse than zlib, which has never seen
# one. Coins that nobody can see cost more than a third of a bit per pixel, because they are real information: bits are
# about every grey level, eyes are not. The model finds its own samples less probable than real digits, since their
# black is not quite black. And black images, about which there is nothing to tell, still cost a bit and a half per
# pixel.*
#
# Where do the bits for black come from?

# %%
fixed = price[1:].sum().item() / math.log(2)  # all C_t from t = 2
print(f"prices C_t, whatever the network predicts: {fixed:.3f} bits")
certain = discretised_log_likelihood(-torch.ones(1), -torch.ones(1), exact.beta[1].sqrt())
print(f"decoder, the mean exactly at black:        {-certain.item() / math.log(2):.3f} bits")

# %% [markdown]
# *Together they are more than half of the price of black, and they are part of every bill. It is the price of variances
# that were chosen beforehand: the steps' $C_t$, and a last Gaussian whose standard deviation, 0.8 of a grey level, lets
# it spill over into the next ones. Sampling does not mind ([notebook 08](08_sampling.ipynb)). Nichol & Dhariwal (2021)
# learn the variances, for this reason. The rest is what our network gets wrong where the noise is faintest.*
#
# ### Where the bits are, and where the loss looks
#
# Now the steps one by one. The paper's loss is $L_{simple}$: (9.10) with $w_t$ replaced by 1. So each step has two
# shares, one in the bound and one in that loss. Both leave out $t = 1$, the decoder. (`b.width` says how many steps
# each of the terms `b.per_step` stands for; `b.middle` is the estimate of their sum.)

# %%
b = bounds["test digits"]
error = ((b.per_step * math.log(2) - price[b.steps - 1]) / weight[b.steps]).clamp(min=0)  # (9.10) solved for it
shares = {"bound": b.per_step / b.middle, "L_simple": error / (error * b.width).sum()}
for t in (2, 10, 100, 500):
    print(f"weight of step {t:3} in the bound: {weight[t]:.4f}")
early = b.decoder + (b.per_step * b.width)[b.steps <= 10].sum().item()
print(f"decoder and steps up to t = 10: {early:.2f} of {b.total:.2f} bits")
curves = {name: (b.steps, share) for name, share in shares.items()}
alt = "Share of each step in the bound and in the simple loss, logarithmic axes"
viz.plot_curves(curves, log="xy", ylabel="share of one step", alt=f"{alt}: the bound falls steeply")

# %% [markdown]
# *In the bound ten steps outweigh the other 990: most of the bits are spent where the noise is fainter than a few grey
# levels, on details that cannot be seen. The shapes of the digits are decided at $t$ in the hundreds (notebook 08), and
# there the bound hardly looks. $L_{simple}$ moves the attention there, and weighted timestep sampling, by which our
# network was trained ([notebook 16](16_targets_and_weights.ipynb)), moves it further. This is the **trade-off**: a
# network trained on the bound itself gets better bits and worse-looking samples (Ho et al. 2020, table 1), and the
# other way round.*
#
# ## All together
#
# Eight sets, every number. "Nearest" is the median distance to the nearest training image. Guess the order before you
# run.

# %%
contest = {
    "copies": base[:n],
    "eta = 1": fresh,
    "50 steps": samples[50],
    "10 steps": samples[10],
    "5 steps": samples[5],
    "noisy": (base[:n] + 0.3 * grain).clamp(-1, 1),
    "blurred": blur(base[:n], 0.8),
    "noise": noise,
}
low = torch.tensor([frechet_floor(seen.features, n, seed=i) for i in range(10)]).mean()
print(f"n = {n}, floor {low:.1f}\n{'':12} distance  recognisable  entropy  nearest")
score = {}
for name, images in contest.items():
    found = evaluate(net, images)
    score[name] = against_real(found.features).mean().item()
    new = nearest_images(images[: n // 10], library)[1].median()
    print(f"{name:12} {score[name]:8.1f}  {found.recognisable:12.1%}  {found.entropy:7.3f}  {new:7.3f}")

# %% tags=["figure-09_ranking"]
order = sorted(score, key=score.get)
rows = {f"{name}: {score[name]:,.0f}": contest[name][:10] for name in order}
alt = "Ten images of each of the eight sets, sorted by their distance, which stands beside each row"
viz.image_rows(rows, alt=alt)

# %% [markdown]
# *The winner copies: it is at the floor, recognisable and varied, and only the last column of the table, where it has
# 0, gives it away. Noisy real digits are farther than our best samples, blurred real digits farther than the samples of
# 5 steps, many of which you would send back: the distance has its taste. On real MNIST this network is worse in 10
# steps than in 50. And a surprise: in the same 50 steps it is much better with fresh noise.*
#
# *Song, Meng & Ermon (2021, table 1) found the opposite, for a network that was trained for far longer. A likely
# reason: without fresh noise each error of the network stays in the image, and all later steps build on it. Fresh noise
# covers a part of what is there, right or wrong, and the network has to look again. Where few errors are left to mend,
# it does more harm than good (Karras et al. 2022, section 4).*
#
# *So report, always: the distance with its floor and its $n$, which feature network it is of, a number for variety, the
# nearest training images, and a grid of samples that nobody picked.*
#
# ## What to remember, and what broke
#
# - Three questions: good, varied, new. One number answers at most two of them, and each number can be fooled: know how.
# - A Frechet distance compares two clouds of features, each taken for a Gaussian. It depends on the feature network and
#   on $n$. Its floor is real against real at the same $n$, split at random; over $1/n$ it is a line that can be
#   extended to 0.
# - Copies are found by nearest training images, with unseen real images as the yardstick.
# - Bits per dimension say how well real images are predicted, to the last grey level; looks are another question.
#
# **What broke:** we have a measure and only one model to measure. Would the libraries' networks and schedulers, or the
# recipes in circulation, do better in the same time? And is our code the same thing as theirs in the first place?
# [Notebook 10](10_libraries.ipynb) puts them side by side.
#
# ### Experiments to try
#
# - The trade-off: `python -m ddpm_helpers.cli --data mnist --steps 14000 --base 48 --export plain.safetensors` trains a
#   network like the shipped one with $L_{simple}$. Put `load_pretrained("plain.safetensors", device)` at the top, and
#   compare bits and distances.
# - Replace the features by the 784 pixels. Which of the four damages does the distance then see, and which not?
# - Build a set that beats our samples in all columns of the last table and that you would not call a model. Which
#   measurement finds you out?
# - Compute `bits_per_dim` with `clip=False`. At which steps does clipping save bits, and why there?
