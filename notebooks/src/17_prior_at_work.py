# %% [markdown]
# # A prior at work: mend, sharpen, edit
#
# ![Upper halves of a few digits, and under each four answers to the question how it goes on below](../figures/17_answers.png)
#
# *The upper half of a digit is known, and a network that was trained on nothing but whole digits is asked for the rest,
# four times each. Which answers are right? And do they come as often as they should?*
#
# **You will** ask a trained network questions that it was never trained for, measure on worlds with a known answer
# which of four ways to ask are wrong and by how much, and edit pictures with them. **You need** the score
# [(4.20)](04_bound_to_noise.ipynb), the samplers of [notebook 08](08_sampling.ipynb) and guidance, [(12.4)](12_guidance.ipynb).
# **Time** 70 minutes of reading; the cells ran in 3 minutes on one slow CPU core.

# %% tags=["setup"]
REPO = ""  # owner/name on GitHub; `make badges REPO=owner/name` fills it in
try:
    import ddpm_helpers
except ImportError:
    assert REPO, "The helper module is missing: start this notebook with `make lab`, or see Colab in the README."
    get_ipython().run_line_magic("pip", f"install -q git+https://github.com/{REPO}")

import torch
import torch.nn.functional as F

from ddpm_helpers import budget, check, cosine_schedule, ddim_invert, ddim_trajectory, default_device, guide
from ddpm_helpers import evaluate, image_noise, linear_schedule, load_feature_net, load_images, load_pretrained
from ddpm_helpers import q_sample, to_float, verify, viz
from ddpm_helpers.lessons import prior
from ddpm_helpers.lessons.prior import World, answers, data_term, guided, inpaint, matrix_of
from ddpm_helpers.lessons.toy import double, log_normal
from ddpm_helpers.metrics import FeatureNet

device = default_device()
generator = torch.Generator().manual_seed(0)

# %% [markdown]
# ## The rest of this digit
#
# In Part I the network was asked for "a digit", and in [notebook 12](12_guidance.ipynb) for "a seven", which it had been
# trained for with labels. Now the question is: what is the rest of **this** digit, of which I have a half? What was it
# before somebody blurred it? One could train a network for each question. But by **Bayes' rule** an answer needs two things
# only: how likely an image is, the **prior**, and how likely the measurement is if that was the image:
#
# $$q(x_0 \mid y) = \frac{{\color{#0072B2}{q(x_0)}}\; p(y \mid x_0)}{p(y)}, \qquad y = A x_0 + n, \quad n \sim \mathcal{N}(0, s^2 I) \tag{17.1}$$
#
# (In [notebook 03](03_likelihood_bound.ipynb) the prior was that of $x_T$; here it is that of images.) The first factor is
# what a diffusion model has learned. The second we know ourselves: $A$ is the **operator** that takes an image to what is
# measured of it, a half, a blur. On the left stands the **posterior** of images: not one answer but a distribution of
# them.
#
# For digits nobody knows the posterior. So we begin where it can be written down, with a mixture of Gaussians in one
# pixel, and one in two pixels. Two questions to the second: *the first pixel is known, what is the other?* and *the mean of both is
# known*. One to the first: *what was it without the noise?*

# %%
def mixture(weights, means, covariances):
    return World(*(torch.tensor(values, dtype=torch.float64) for values in (weights, means, covariances)))

one = mixture([0.4, 0.3, 0.3], [[-1.2], [0.2], [1.1]], [[[0.09]], [[0.09]], [[0.04]]])
two = mixture([0.4, 0.3, 0.3], [[-1.0, -0.6], [0.2, 0.9], [0.6, -0.5]],
            [[[0.09, 0.072], [0.072, 0.09]], [[0.12, -0.04], [-0.04, 0.06]], [[0.09, 0.036], [0.036, 0.04]]])

# %%
def itself(x):
    return x

def first(x):
    return x[:, :1]

def mean(x):
    return x.mean(1, keepdim=True)

# %% tags=["nbval-check-output"]
A, s, y = matrix_of(first, 2), 0.1, torch.tensor([0.4], dtype=torch.float64)
posterior = two.given(y, A, s)
x = torch.randn(1000, 2, generator=generator).double()
evidence = two.seen(A, torch.tensor([s**2], dtype=torch.float64)).log_density(y[None])
log_p_y = log_normal(y, first(x), s**2)[:, 0]
verify("17.1", posterior.log_density(x).exp(), (two.log_density(x) + log_p_y - evidence).exp(), tol=1e-9)

# %% [markdown]
# `matrix_of` finds the matrix of an operator by asking it. It has one only if it is linear; the exact posterior needs that,
# and some of the ways below do not:

# %%
try:
    matrix_of(lambda x: x.square(), 2)
except ValueError as error:
    print(error)

# %% [markdown]
# ## The score of an answer
#
# To draw from the posterior with the sampler of notebook 08 we need the score of *its* noisy versions. Bayes' rule
# holds for $x_t$ as well, and in the slope of a logarithm $p(y)$ disappears, as in [(12.3)](12_guidance.ipynb):
#
# $$\nabla \log q_t(x_t \mid y) = {\color{#0072B2}{\nabla \log q_t(x_t)}} + {\color{#D55E00}{\nabla \log p(y \mid x_t)}} \tag{17.2}$$
#
# The first term the network has. In the second stands the catch of this whole notebook: $p(y \mid x_0)$ is known, and
# $p(y \mid x_t)$ is wanted, the probability of the measurement when only the *noisy* image is known. The ways to ask
# differ in what they put there, or in how they go round it. In our worlds it is a formula, `log_likelihood`.
#
# Multiply by $\sigma_t^2 / \sqrt{\bar\alpha_t}$, add $x_t / \sqrt{\bar\alpha_t}$, and by (4.20) the scores become clean guesses. The measurement moves the guess:
#
# $$\mathbb{E}[x_0 \mid x_t, y] = {\color{#009E73}{\hat x_0}} + \frac{\sigma_t^2}{\sqrt{\bar\alpha_t}}\, {\color{#D55E00}{\nabla \log p(y \mid x_t)}} \tag{17.3}$$

# %%
exact, at = double(cosine_schedule(200)), 100

def slope(log_p, x):
    return prior.data_gradient(itself, x, log_p)[0]

def pull(x, y=0.4):  # the second term of (17.2)
    ys = torch.full((len(x), 1), y, dtype=torch.float64)
    return slope(lambda x: two.log_likelihood(exact, x, at, ys, A, s), x)

def guess(world, x):
    t = torch.full((len(x),), at)
    return (x - exact.sigma[at] * world.model(exact)(x, t)) / exact.sqrt_alpha_bar[at]

# %% tags=["nbval-check-output"]
left = slope(posterior.noised(exact, at).log_density, x)
verify("17.2", left, slope(two.noised(exact, at).log_density, x) + pull(x), tol=1e-9)
ratio = exact.sigma[at] ** 2 / exact.sqrt_alpha_bar[at]
verify("17.3", guess(posterior, x), guess(two, x) + ratio * pull(x), tol=1e-9)

# %% [markdown]
# ## First way: replacement
#
# Some pixels are known. So, while sampling, put the known pixels in at each step, with the noise that pixels have
# at that step (Song, Sohl-Dickstein et al. 2021):
#
# $$x_t \leftarrow \begin{cases} \sqrt{\bar\alpha_t}\; {\color{#0072B2}{y}} + \sigma_t\, {\color{#D55E00}{z}} & \text{where known} \\ x_t & \text{where missing} \end{cases} \tag{17.4}$$
#
# ### Exercise 17.1 - `replaced`
#
# `x_t`, `y` and `noise` have one shape (B, ...), `mask` too: it is boolean, True where `y` is known. `t` is an integer.

# %% tags=["exercise", "nbval-check-output"]
def replaced(schedule, x_t, t, y, mask, noise):
    steps = torch.full((len(y),), t, device=y.device)
    known = ...  # y, with the noise of step t
    return ...


replaced = check(replaced)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `q_sample` takes the steps as a tensor. `torch.where(mask, a, b)` is `a` where the mask is True.
#
# </details>
#
# One thing is odd about it. The missing pixels come from a step that knew the old noise of the known ones; then those get
# fresh noise, and the two no longer belong together. **Resampling** (Lugmayr et al. 2022) lets them settle: go one step back up,
# from $s$ to $t$ (here $s$ is the step below $t$, as in notebook 08, not the noise of (17.1)), and down again, several rounds at each step. Up means
#
# $$x_t = \sqrt{\frac{\bar\alpha_t}{\bar\alpha_s}}\; x_s + \sqrt{1 - \frac{\bar\alpha_t}{\bar\alpha_s}}\; z \tag{17.5}$$
#
# which makes an image with the noise of step $s$ one with the noise of step $t$. It costs a call of the network for each round.

# %% tags=["nbval-check-output"]
n, mask = 100_000, torch.tensor([[True, False]]).expand(100_000, 2)
x_t, z, clean = torch.randn(3, n, 2, generator=generator).double()
clean[:] = torch.tensor([0.4, -0.5])
both = replaced(exact, x_t, at, clean, mask, z)
fresh = torch.cat([both, (both - both.mean(0)) ** 2], 1)
known = [exact.sqrt_alpha_bar[at] * 0.4, exact.sigma[at] ** 2]  # mean and variance
verify("17.4", samples=fresh, expected=[known[0], 0.0, known[1], 1.0])

# %% tags=["nbval-check-output"]
lower = q_sample(exact, clean, torch.full((n,), 90), z)
keep = exact.sqrt_alpha_bar[at] / exact.sqrt_alpha_bar[90]
upper = keep * lower + (1 - keep**2).sqrt() * x_t
squares = (upper - exact.sqrt_alpha_bar[at] * clean) ** 2
verify("17.5", samples=torch.cat([upper, squares], 1), expected=[known[0], -known[0] * 5 / 4, known[1], known[1]])

# %% [markdown]
# ## Second way: the gradient of a guess
#
# Replacement needs known *pixels*. A blurred image has none. Chung et al. (2023) put the clean guess where the clean image
# belongs, $p(y \mid x_t) \approx p(y \mid \hat x_0(x_t))$, and let autograd find the slope, through the network
# (**DPS**, diffusion posterior sampling):
#
# $${\color{#D55E00}{\nabla \log p(y \mid x_t)}} \approx -\nabla_{x_t} \frac{\lVert y - A\, {\color{#009E73}{\hat x_0}}(x_t) \rVert^2}{2 s^2} = J^\top A^\top\, \frac{y - A\, {\color{#009E73}{\hat x_0}}}{s^2}, \qquad J = \frac{\partial {\color{#009E73}{\hat x_0}}}{\partial x_t} \tag{17.6}$$
#
# ### Exercise 17.2 - `data_gradient`
#
# `denoise` takes `x_t` (B, ...) to clean guesses, `log_p` takes those to one number for each image, (B,). Return the gradient of
# `log_p(denoise(x_t))` in `x_t`, each image's own, and the guess, as a pair.

# %% tags=["exercise", "nbval-check-output"]
def data_gradient(denoise, x_t, log_p):
    with torch.enable_grad():
        x_t = x_t.detach().requires_grad_()
        guess = ...
        gradient = ...
    return gradient, guess.detach()


data_gradient = check(data_gradient)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `torch.autograd.grad(scalar, x_t)` returns a list with one entry. No image's number depends on another image, so their sum
# has each image's own gradient.
#
# </details>
#
# What is $J$? The less certain a guess is, the more it follows $x_t$: for *any* data
#
# $$J = \frac{\sqrt{\bar\alpha_t}}{\sigma_t^2}\, C_t, \qquad C_t = \operatorname{Cov}[x_0 \mid x_t] \tag{17.7}$$
#
# so the pull of one pixel's measurement reaches others through their covariance. And here is what the guess forgets. Suppose that $x_0$
# given $x_t$ is Gaussian. Then $y$ is $A \hat x_0$, plus $A (x_0 - \hat x_0)$, which has the covariance $A\, C_t A^\top$, plus the noise:
#
# $$p(y \mid x_t) = \mathcal{N}\big(y;\; A\, {\color{#009E73}{\hat x_0}},\; s^2 I + A\, C_t A^\top\big) \tag{17.8}$$
#
# (17.6) has $s^2$ alone. It takes its guess for the truth, and while there is much noise, $A C_t A^\top$ is far larger than $s^2$.
# (The algorithm of Chung et al. puts a step size, tuned by hand and divided by $\lVert y - A \hat x_0 \rVert$, in the place of $1 / s^2$. What we call
# DPS and measure below is the formula as it stands.)

# %% tags=["nbval-check-output"]
some, eye = x[:20], torch.eye(2).double()
J = torch.stack([torch.autograd.functional.jacobian(lambda v: guess(two, v[None])[0], v) for v in some])
seeing = exact.sqrt_alpha_bar[at] * eye  # x_t, taken as a measurement of x_0
C = torch.stack([two.given(v, seeing, exact.sigma[at].item()).covariance() for v in some])
verify("17.7", J, exact.sqrt_alpha_bar[at] / exact.sigma[at] ** 2 * C, tol=1e-9)

# %% tags=["nbval-check-output"]
ys = torch.full((20, 1), 0.4, dtype=torch.float64)
gradient, x0_hat = data_gradient(lambda v: guess(two, v), some, data_term(ys, first, s**2))
back = (ys - first(x0_hat)) / s**2 @ A  # (20, 2): A^T (y - A guess) / s^2
verify("17.6", gradient, torch.einsum("ni,nij->nj", back, J), tol=1e-9)

# %% tags=["nbval-check-output"]
peak = World(torch.ones(1).double(), two.means[:1], two.covariances[:1])
C_t = peak.given(some[0], seeing, exact.sigma[at].item()).covariance()
left = peak.log_likelihood(exact, some, at, ys, A, s)
right = log_normal(ys, first(guess(peak, some)), s**2 + A @ C_t @ A.T)
verify("17.8", left, right[:, 0], tol=1e-9)

# %%
grid, fine = torch.linspace(-2.4, 2.4, 13).double(), torch.linspace(-2.5, 2.5, 80).double()
where = torch.cartesian_prod(grid, grid)
log_p = data_term(torch.full((169, 1), 0.4).double(), first, s**2)
arrows = {"the prior": slope(two.noised(exact, at).log_density, where), "the measurement, exactly": pull(where),
          "the measurement, by DPS": data_gradient(lambda v: guess(two, v), where, log_p)[0]}
figure, axes = viz.subplots(1, 3, size=(8, 3.4), sharey=True)
density = two.noised(exact, at).log_density(torch.cartesian_prod(fine, fine))
for axis, (title, arrow), colour in zip(axes, arrows.items(), viz.COLOURS, strict=False):
    axis.contour(fine, fine, density.exp().reshape(80, 80).T, colors="0.8", linewidths=0.8)
    axis.quiver(*where.T, *arrow.T, color=colour, angles="xy", scale=300 if "DPS" in title else 30, width=0.006)
    axis.set(title=title, xlabel="first pixel of $x_t$", aspect="equal")
axes[0].set_ylabel("second pixel")
alt = "Three fields of arrows over the density of noisy pixels: to its peak; to the right; "
viz.show(figure, alt + "to the right, too, but drawn ten times shorter and still long")

# %% [markdown]
# *The two terms of (17.2) at $t = T/2$, the second one also as DPS has it, on the density of $x_t$ (grey), for the question "the first pixel is 0.4". The arrows of DPS are
# drawn ten times shorter, and most are still longer: it pulls far harder than it should.*
#
# ## Which of them are right?
#
# A right sampler gives the posterior. Its mean and its spread we can compare with the formula, at one question. Whether its
# answers spread as far as they should over many questions has a test that needs no formula at all, only truths: draw $x_0$ from the prior, measure $y$, and ask
# for 19 answers. If they are drawn from the posterior, the truth is one draw more of the same kind, and each of the
# twenty places among them is equally likely. Two places lie outside of the interval from least to largest answer:
#
# $$P\big( \min_i x^{(i)} < x_0 < \max_i x^{(i)} \big) = \frac{18}{20}, \qquad i = 1, \dots, 19 \tag{17.9}$$
#
# So this is a 90 % interval, and its **coverage** can be counted.
#
# ### Exercise 17.3 - `calibrated`
#
# Write a test that a right sampler passes and a wrong one fails. `answers` has shape (19, N), `truth` (N,): N questions. Return True if
# the share of truths inside is 0.9, give or take three standard errors that a share of N has if 0.9 is right. Which ways to be wrong must it notice?

# %% tags=["exercise", "nbval-check-output"]
def calibrated(answers, truth):
    inside = ...  # (N,) booleans
    return ...


calibrated = check(calibrated)

# %% [markdown]
# <details><summary>Hint</summary>
#
# A coin that is 1 with probability $p$ has the variance $p (1 - p)$, the mean of $N$ coins one $N$-th of it. Here $p = 0.9$. Intervals can be too narrow and too wide.
#
# </details>

# %% tags=["nbval-check-output"]
draws = torch.randn(20, 50_000, generator=generator).double()
least, largest = draws[1:].amin(0), draws[1:].amax(0)
verify("17.9", samples=((draws[0] > least) & (draws[0] < largest)).double(), expected=0.9)
for name, given in {"right": draws[1:], "too narrow": 0.8 * draws[1:], "too wide": 1.2 * draws[1:]}.items():
    print(f"{name:10} passes: {calibrated(given, draws[0])}")

# %% [markdown]
# Now four ways, with 200 steps each: replacement, replacement with five rounds, DPS, and the exact second term of (17.2). Guess before you run: which have the right mean, and whose intervals are too narrow? And
# what about somebody who does not look at $y$ and draws from the prior?

# %%
walk = double(cosine_schedule(budget(gpu=200, cpu=200, quick=10)))
def start(y, D=2):
    return lambda: torch.randn(len(y), D, generator=generator).double()

def replacement(y, rounds=1):
    known, mask = torch.cat([y, 0 * y], 1), torch.tensor([[True, False]]).expand(len(y), 2)
    return inpaint(two.model(walk), walk, known, mask, start(y), walk.T, rounds, clip=False)

def dps(world, operator, s, y):
    model = guided(world.model(walk), walk, data_term(y, operator, s**2))
    return answers(model, walk, start(y, world.means.shape[1]), walk.T, clip=False)

def exactly(world, operator, s, y):
    matrix = matrix_of(operator, world.means.shape[1])
    log_p = lambda x, t: world.log_likelihood(walk, x, int(t[0]), y, matrix, s)  # noqa: E731
    model = guided(world.model(walk), walk, log_p, of_guess=False)
    return answers(model, walk, start(y, world.means.shape[1]), walk.T, clip=False)

# %%
questions = {"one pixel, noise": (one, itself, 0.5, 0.6), "first of two known": (two, first, 0.1, 0.4),
             "mean of two known": (two, mean, 0.1, 0.2)}
ways = {"DPS": dps, "exact": exactly}
rows = [(name, way, *question, ways[way]) for name, question in questions.items() for way in ways]
only = ("first of two known", two, first, 0.1, 0.4)
rows[2:2] = [(only[0], way, *only[1:], lambda w, o, s, y, f=f: f(y)) for way, f in {
    "prior alone": lambda y: two.draw(len(y), generator), "replacement": replacement,
    "replacement, 5 rounds": lambda y: replacement(y, 5)}.items()]

# %%
N = budget(gpu=500, cpu=300, quick=20, unit="questions")
table = {}
for name, way, world, operator, s, y, method in rows:
    asked = lambda ys, m=method, w=world, o=operator, s=s: m(w, o, s, ys)  # noqa: E731
    table[name, way] = prior.trial(asked, world, operator, s, y, 8 * N, N, generator)

# %%
print(f"{'':42} mean          variance      coverage")
for (name, way), row in table.items():
    signs = {"mean": "+", "variance": "+", "coverage": ""}
    numbers = [f"{value:{signs[of]}6.0%} +- {error:3.0%}" for of, (value, error) in row.items()]
    print(f"{name:19} {way:21} " + "  ".join(numbers))

# %% [markdown]
# *How far the mean is off, in standard deviations of the exact posterior; how far the variance is off, relative to it; the
# coverage of intervals that should hold 90 %. Each with one standard error.*
#
# *Exact guidance is right, as far as these numbers can tell. Replacement leans to the prior: the prior alone is off by 30 % of a standard deviation,
# replacement by half of that, to the same side. Five rounds take most of it away, at five times the calls. DPS is off to the other side, by 29 %, and by
# 16 and 20 % in the other two questions. In the first one it also loses a third of the variance, and what it calls 90 % holds 84.*
#
# *The other coverages cannot be told from 90 % with 300 questions, though means and variances are off. And look at the prior alone. It has
# never seen $y$, its mean is as far off as that of DPS, and its coverage cannot be told from 90 %: (17.9) holds for it, because on average over all questions it claims no
# more than it knows. A test of coverage finds who is too sure. It does not find who is idle; for that one needs the mean.*
#
# ## Grey to colour
#
# A pixel with three channels, of which only the mean is known: is it brick or slate? `operator` takes the mean, and the rest of the code stays as it was.

# %%
bricks = torch.diag_embed(torch.full((2, 3), 0.02))
colours = mixture([0.6, 0.4], [[0.5, -0.3, -0.4], [-0.5, -0.1, 0.4]], bricks.tolist())
grey = torch.full((200, 1), -0.07).double()
rows = {"grey": grey.expand(200, 3), "exact": exactly(colours, mean, 0.05, grey),
        "DPS": dps(colours, mean, 0.05, grey)}
posterior_mean = colours.given(grey[0], matrix_of(mean, 3), 0.05)
rows["mean answer"] = (posterior_mean.weights @ posterior_mean.means).expand(200, 3)
print(f"brick has the probability {posterior_mean.weights[0]:.0%}")
for name in ("exact", "DPS"):
    print(f"{name:5} says brick in {(rows[name][:, 0] > 0).float().mean():.0%} of 200 answers")
squares = {name: x[:14, :, None, None].float() for name, x in rows.items()}
viz.image_rows(squares, alt="Grey squares; two rows of squares in brick and slate; the mean, a dull violet")

# %% [markdown]
# *Each square is an answer. Both colours have the same grey on average, so the 60 % are those of the prior, and DPS, too, says "brick" about as often as it should (one standard error is 3 %); so would somebody who ignores the grey. The mean of all answers, which a network trained with a squared error would give, is no answer: nothing in this world
# has that colour.*
#
# ## On digits
#
# The network of [notebook 08](08_sampling.ipynb), which has never been asked anything. Two test digits, the upper half of each, and four
# answers by each way. (Sampling starts at $t = 950$: at $T$ the guess has an error multiplied by 20,000.)

# %%
net, schedule, _ = load_pretrained("mnist", device)
net.requires_grad_(False)  # autograd is to go to the image, not to the weights
feature_net = load_feature_net(device)
test = load_images("mnist", train=False)
print(test.source)
each = budget(gpu=4, cpu=4, quick=1, unit="answers to a question")
steps = range(950, 0, -19 if each > 1 else -190)

# %%
two_digits = to_float(test.images[[9, 18]]).to(device).repeat_interleave(each, 0)  # (8, 1, 28, 28)

def noise(count, seed=0):
    return image_noise(seed, range(count), (1, 28, 28), device)

def ask(y, operator, weight, seed=0, steps=steps):
    model = guided(net, schedule, data_term(y, operator, 1 / weight))
    return answers(model, schedule, noise(len(y), seed), steps).clamp(-1, 1)

def upper(x):
    return x[..., :14, :]

# %%
mask = (torch.arange(28, device=device) < 14)[:, None].expand_as(two_digits)
known = torch.where(mask, two_digits, 0.0)
rows = {"known": known}
for name, chosen, rounds in [("replacement", steps, 1), ("5 rounds", steps[::2], 5)]:
    x = inpaint(net, schedule, known, mask, noise(2 * each), chosen, rounds)
    rows[f"{name}, {len(chosen) * rounds} calls"] = x.clamp(-1, 1)
rows[f"DPS, {len(steps)} calls"] = ask(upper(two_digits), upper, 10)

# %%
for name, x in rows.items():
    off = (upper(x) - upper(two_digits)).square().mean().sqrt()
    print(f"{name:22} known half off by {off:.2f}; read as {feature_net(x).argmax(1).tolist()}")

# %% tags=["figure-17_answers"]
alt = "Upper halves of two digits, and under each four completions by replacement, with five rounds, and by guidance"
viz.image_rows(rows, alt=alt)

# %% [markdown]
# *Grey is missing. Replacement keeps the known half to the bit. With one round some digits look as if two people had drawn them: look along the edge.
# With five rounds the lower half knows about the upper one; the left digit is a nine indeed, the right one a three. DPS keeps the half nearly, and
# pays with specks and bent strokes. Where four answers disagree, that is no fault: half a digit need not say what it is, and one answer alone would
# hide it. (Two digits show what can happen, not how often.)*
#
# A question that replacement cannot be asked: no pixel is known, only means of 4x4 of them, or a blur. The network is
# the same, `operator` is another.

# %%
curve = torch.exp(-(torch.arange(-6.0, 7.0, device=device) ** 2) / (2 * 2.5**2))
kernel = (curve[:, None] * curve / curve.sum() ** 2)[None, None]  # (1, 1, 13, 13)

def small(x):
    return F.avg_pool2d(x, 4)

def blurred(x):
    return F.conv2d(F.pad(x, [6] * 4, mode="replicate"), kernel)

# %%
tiny, soft = small(two_digits), blurred(two_digits)
rows = {"7x7": tiny.repeat_interleave(4, 2).repeat_interleave(4, 3), "to 28x28": ask(tiny, small, 10),
        "blurred": soft, "sharpened": ask(soft, blurred, 10), "true": two_digits}
viz.image_rows(rows, alt="Digits of 7x7 pixels and blurred ones, four answers to each, and the true digits")

# %% [markdown]
# *Squint, and each answer looks like the picture above it. Yet they are different digits: the same 7x7 pixels became a nine and a four, an eight and
# something like a two. Who enlarges a picture with a prior sees details that are likely, not details that were there.*
#
# ### How much does the measurement weigh?
#
# (17.6) has the weight $1 / s^2$, and our measurements have no noise at all. But an infinite weight cannot be computed, and the
# table showed that even the right one pulls too hard. So the weight is a knob. Guess before you run: what does a small one do, and
# what a very large one?

# %%
weights = (0.1, 1, 10, 100, 1000)
some = two_digits[:: max(1, each // 2)]  # (4, 1, 28, 28), two answers to each of two questions
y = small(some)
per_answer = torch.tensor(weights, device=device).repeat_interleave(len(y))
tries = ask(y.repeat(len(weights), 1, 1, 1), small, per_answer, seed=1, steps=steps[::2])

# %%
frames, rows = [], {}
for weight, x in zip(weights, tries.split(len(y)), strict=True):
    off = (small(x) - y).square().mean().sqrt()
    frames.append((f"weight {weight:g}: the 7x7 picture is off by {off:.3f}", [x]))
    rows[f"weight {weight:g}"] = x
    print(frames[-1][0])
viz.explore({"": frames}, slider="weight")

# %%
alt = "Answers to two 7x7 digits at five weights: at 0.1 other digits, at 10 some that fit, "
viz.image_rows(rows | {"true": some}, alt=alt + "at 1000 frayed ones")

# %% [markdown]
# *At 0.1 the prior draws what it likes. At 10 the answers fit nearly, and three of the four are whole digits. At 1000 they fit best, and strokes fray. What fits best
# is not what is most likely: (17.1) has two factors.*
#
# What does not fit is refused:

# %%
for wrong in (lambda: inpaint(net, schedule, known, mask[:, :, :14], noise(2)), lambda: ask(tiny, blurred, 10)):
    try:
        wrong()
    except ValueError as error:
        print(error)

# %% [markdown]
# ## From a scribble
#
# You need not measure anything to ask. **SDEdit** (Meng et al. 2022) takes a crude drawing, adds noise up to a step $t$, and
# lets the sampler come down from there. Noise drowns what is crude about it first, and what is large last. How much is kept? For Gaussian data, of
# mean $m$ and variance $v$ for each pixel, the path of DDIM without fresh noise is linear: a drawing $g$ leads to an image with
#
# $$\mathbb{E}[x_0] = m + \kappa\, (g - m), \qquad \operatorname{Var}[x_0] = (1 - \kappa^2)\, v, \qquad \kappa = \sqrt{\frac{\bar\alpha_t\, v}{\bar\alpha_t\, v + \sigma_t^2}} \tag{17.10}$$
#
# $\kappa$ is what is left of the drawing's distance from the mean, and $1 - \kappa^2$ is the variance of the images from one drawing, as a share of $v$. (With as much
# fresh noise as DDPM, which the digits below get, $\kappa^2$ takes the place of $\kappa$ in both.) So faithfulness and variety are one number, and the **strength**
# $t / T$ sets it. There is no free choice of both.
#
# ### Exercise 17.4 - `edit_start`
#
# `steps` is a falling list. Keep those that are at most `strength` times $T$, and noise `guide` (B, ...) to the first of them. Return $x_t$ and the
# list.

# %% tags=["exercise", "nbval-check-output"]
def edit_start(schedule, guide, strength, steps, noise):
    left = ...
    t = ...  # (B,), the first of them
    return q_sample(schedule, guide, t, noise), left


edit_start = check(edit_start)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `torch.full((len(guide),), left[0], device=guide.device)` makes the steps; $T$ is `schedule.T`.
#
# </details>

# %% tags=["nbval-check-output"]
m, v, g, long = -0.5, 0.49, 0.8, double(cosine_schedule(1000))
pixel, z = mixture([1.0], [[m]], [[[v]]]), torch.linspace(-2, 2, 9).double()[:, None]
x_t, left = edit_start(long, torch.full_like(z, g), 0.6, list(range(1000, 0, -1)), z)
*_, end = ddim_trajectory(pixel.model(long), long, x_t, left, clip=False)
part = long.alpha_bar[600] * v
kappa = (part / (part + long.sigma[600] ** 2)).sqrt()
new = (1 - kappa**2).sqrt() * v**0.5 * z  # z is N(0, 1), so this has the variance of (17.10)
verify("17.10", end.x, m + kappa * (g - m) + new, tol=5e-3)

# %%
fresh = lambda: torch.randn(20_000, 1, generator=generator).double()  # noqa: E731
x_t, left = edit_start(long, torch.full((20_000, 1), g).double(), 0.6, list(range(1000, 0, -1)), fresh())
*_, end = ddim_trajectory(pixel.model(long), long, x_t, left, 1.0, fresh, clip=False)
print(f"fresh noise: mean {end.x.mean():.3f}, by kappa^2 {m + kappa**2 * (g - m):.3f}; "
      f"variance {end.x.var():.3f}, by kappa^2 {(1 - kappa**4) * v:.3f}")

# %%
drawing, strengths = prior.scribble().to(device), [0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
n, edits, alike = budget(gpu=32, cpu=16, quick=3, unit="images"), {}, {}
for strength in strengths:
    x_t, left = edit_start(schedule, drawing.expand(n, -1, -1, -1), strength, list(steps[::2]), noise(n)())
    *_, last = ddim_trajectory(net, schedule, x_t, left, 1.0, noise(n, 1))
    edits[strength] = last.x.clamp(-1, 1)
    pairs = torch.cat([edits[strength], drawing]).flatten(1).corrcoef()
    alike[strength] = pairs[-1, :-1]  # (n,), correlation with the drawing

# %%
for strength, x in edits.items():
    found, value = evaluate(feature_net, x), alike[strength]
    twos = (feature_net(x).argmax(1) == 2).float().mean()
    print(f"strength {strength}: like the drawing {value.mean():.2f} +- {value.std() / n**0.5:.2f}; "
          f"recognisable {found.recognisable:4.0%}; read as two {twos:4.0%}")

# %%
twos = [(feature_net(x).argmax(1) == 2).float().mean() for x in edits.values()]
curves = {"correlation with the drawing": (strengths, [a.mean() for a in alike.values()]),
          "share read as a two": (strengths, twos)}
alt = "Correlation with the drawing falls with the strength, and ever faster; so does the share of twos, from 0.7 on"
viz.plot_curves(curves, xlabel="strength", alt=alt)

# %% [markdown]
# *Strength against faithfulness. Move the slider, or look at the rows below it, and find the strength at which the ruler is gone and the two is not.*

# %%
frames = [(f"strength {strength}, correlation with the drawing {alike[strength].mean():.2f}", [x[:8]])
          for strength, x in edits.items()]
viz.explore({"": frames}, slider="strength")

# %%
rows = {"drawing": drawing} | {f"strength {strength}": edits[strength][:8] for strength in (0.2, 0.4, 0.6, 0.8, 0.9)}
alt = "A two drawn with a ruler, and eight images made from it at each of five strengths"
viz.image_rows(rows, alt=alt)

# %% [markdown]
# *With little noise the ruler stays: at 0.4 you still see its corners. At 0.8 most images are a two by somebody's hand. At 0.9 the feature network reads 6 of the 16 as a two (the eight shown
# happen to hold most of them), and others have become a one or a three. Where to stop is a matter of taste, and (17.10) says why nothing can choose for you: what is new and what is kept
# hang on one number. The feature network is no help here: it takes the ruler's Z for a two, too.*
#
# ## The same hand, another digit
#
# An edit of a real image should keep all that it does not change. [Notebook 08](08_sampling.ipynb) led an image up to a start that leads
# back to it. With labels, [notebook 12](12_guidance.ipynb), one can go up with the image's own label and come down with another. What is kept? For
# Gaussian classes, $\mathcal{N}(m_k, v_k)$, a path up keeps the number of standard deviations from the mean, and so does the
# path down. If nothing of the image is left at the top, then
#
# $$\frac{x' - m_l}{\sqrt{v_l}} = \frac{x - m_k}{\sqrt{v_k}} \tag{17.11}$$
#
# Who was unusually slanted for a four becomes unusually slanted for a nine, if slant is how they differ.

# %% tags=["nbval-check-output"]
to_noise = double(linear_schedule(1000))  # almost nothing of the image is left at its end
four, nine = mixture([1.0], [[-0.5]], [[[0.09]]]), mixture([1.0], [[0.8]], [[[0.49]]])
x = torch.linspace(-1.5, 0.5, 21).double()[:, None]
up = ddim_invert(four.model(to_noise), to_noise, x, 500)
*_, down = ddim_trajectory(nine.model(to_noise), to_noise, up, 500, clip=False)
verify("17.11", (down.x - 0.8) / 0.7, (x + 0.5) / 0.3, tol=0.03)

# %%
labelled, schedule_l, _ = load_pretrained("mnist_labels", device)
picked = [4, 0, 3]  # a four, a seven, a nought
real, own = to_float(test.images[picked]).to(device), test.labels[picked].to(device)
up = ddim_invert(lambda x, t: labelled(x, t, own), schedule_l, real, steps)

# %%
rows = {}
for image, start_x, label in zip(real, up, own, strict=True):
    asked, many = torch.arange(10, device=device), start_x.expand(10, -1, -1, -1)
    *_, last = ddim_trajectory(lambda x, t, asked=asked: labelled(x, t, asked), schedule_l, many, steps, clip=False)
    rows[f"a {label}"] = torch.cat([image[None], last.x])
alt = "Three real digits, led up with their own label and down with each of the ten"
viz.image_rows(rows, titles=["image", *map(str, range(10))], alt=alt)

# %% [markdown]
# *Read along a row. In the columns of their own label the images come back. In the others the thin stroke of the four goes along, the heavy one of the nought
# in about half of them, and so does some of the slant. Some of the new digits are broken: the start that was found is none that anybody would have
# drawn, as in notebook 08, and three images are no measurement.*
#
# ## A label by somebody else's gradient
#
# A label is a measurement, too: $p(y \mid x_0)$ is what a classifier says of a clean image. [Notebook 12](12_guidance.ipynb) held that
# the classifier of (12.4) has to read noisy images (Dhariwal & Nichol 2021), so the feature network will not do. But the
# trick of (17.6) works for any $p(y \mid x_0)$ that autograd can go through: ask it about the clean *guess*. Then the network without labels, and
# a classifier that never met noise, draw what is asked for.
#
# Who is to judge? Not the feature network, for the images were pushed until it agreed. A second reader, trained here, has no
# part in it.

# %%
train, reader = load_images("mnist"), FeatureNet().to(device)
optimizer = torch.optim.Adam(reader.parameters(), 1e-3)
for _ in range(budget(gpu=1000, cpu=300, quick=3)):
    some = torch.randint(len(train.images), (64,), generator=generator)
    x, label = to_float(train.images[some]).to(device), train.labels[some].to(device)
    optimizer.zero_grad()
    F.cross_entropy(reader(x), label).backward()
    optimizer.step()
reader.eval()
right = (reader(to_float(test.images[:1000]).to(device)).argmax(1).cpu() == test.labels[:1000]).float().mean()
print(f"the second reader reads {right:.1%} of 1,000 test digits")

# %%
n, short = budget(gpu=100, cpu=30, quick=4, unit="images"), steps[::2]
asked = torch.arange(n, device=device) % 10

def classifier(scale):
    return lambda images, t: scale * feature_net(images).log_softmax(1)[range(n), asked]

rows, samples = {}, {"no guidance": answers(net, schedule, noise(n), short)}
for scale in (1, 5, 20):
    samples[f"classifier, {scale}"] = answers(guided(net, schedule, classifier(scale)), schedule, noise(n), short)
for scale in (1, 3):
    model = guide(labelled, scale)
    free = lambda x, t, model=model: model(x, t, asked)  # noqa: E731
    samples[f"classifier-free, {scale}"] = answers(free, schedule_l, noise(n), short)

# %%
for name, x in samples.items():
    x = x.clamp(-1, 1)
    guiding, second = ((net_(x).argmax(1) == asked).float().mean() for net_ in (feature_net, reader))
    print(f"{name:18} as asked, of {n}: {n * guiding:3.0f} by the feature network, "
          f"{n * second:3.0f} by the second reader")
    rows[name] = x[:10]
alt = "Ten digits asked for, by a classifier's gradient at three scales and by classifier-free guidance"
viz.image_rows(rows, titles=[str(k) for k in range(10)], alt=alt)

# %% [markdown]
# *30 images each. From scale 5 on the feature network sees what it wanted in nearly all of them. The second reader does not follow: it reads 22 to
# 25 as asked, whatever the scale (one standard error is 2 or 3). The gradient found strokes that tip one network's reading, and a push is not a digit: look at the ones. The network with
# labels, which was trained for the question, convinces both, at scale 1, where nothing is pushed, and at 3. A classifier trained on noisy images may do better than ours; that we have
# not tried.*
#
# ## What to remember, and what broke
#
# - A prior and a measurement make a posterior. The network has the score of the prior; the rest is $\nabla \log p(y \mid x_t)$, and there the ways
#   differ.
# - Replacement needs known pixels, and leans to the prior; resampling takes most of that away, for more calls. DPS takes any operator with a
#   gradient, and is too sure of its guess.
# - Measure samplers where the answer is known: mean, variance, coverage. A test of coverage alone is also passed by whoever ignores the question.
# - One answer hides what is not known. Ask for several.
# - In SDEdit one number, the strength, sets what is kept and what is new. Inversion keeps how far an image is from the mean of its class.
#
# **What broke:** every answer to a measurement of a digit took 25 to 125 calls of the network, many of them with a backward pass, and one answer is not enough.
# Four answers to a few questions took minutes. A program that mends pictures while somebody waits, or a table with small standard errors for
# digits and not for two pixels, needs samplers with four calls, or one. That is the subject of [notebook 18](18_few_steps.ipynb).
#
# ### Experiments to try
#
# - Put $s^2 + \sigma_t^2$ in the place of the variance in `data_term`, for `log_p` is given `t`: a crude (17.8). What happens to the DPS rows of the table?
# - Give `inpaint` a mask of single pixels, every second one known. Does replacement still need rounds?
# - `load_pretrained("fashion")`, and a shirt in place of the scribble. At which strength does it become a dress?
# - Ask the feature network for two labels at once, half a gradient each. What does the second reader say?
