# %% [markdown]
# # Corrupt and predict
#
# ![Sixty-four digits made by the network of this notebook; about half can be read, the others are broken](../figures/01_forty_steps.png)
#
# *A network made these 64 digits from noise. How many can you read, and what is wrong with the others?*
#
# **You will** train a network to repair damaged digits, turn it into a machine that invents new ones, and find out why
# its first guess is always a blur. **You need** [notebook 00](00_start_here.ipynb); having seen a PyTorch training
# loop once helps. **Time** 30 minutes of reading; the cells run in about 5 minutes on 2 CPU cores.

# %% tags=["setup"]
REPO = ""  # owner/name on GitHub; `make badges REPO=owner/name` fills it in
try:
    import ddpm_helpers
except ImportError:
    assert REPO, "The helper module is missing: start this notebook with `make lab`, or see Colab in the README."
    get_ipython().run_line_magic("pip", f"install -q git+https://github.com/{REPO}")

import math

import torch
import torch.nn.functional as F
from torch import nn

from ddpm_helpers import BasicUNet, batches, budget, check, count_parameters, default_device, load_images
from ddpm_helpers import naive_trajectory, verify, viz
from ddpm_helpers.lessons.toy import Mixture

device = default_device()
generator = torch.Generator().manual_seed(0)

# %%
data = load_images("mnist")
print(data.source)

# %% [markdown]
# ## Damage, in any amount
#
# Damaging an image is easy: mix it with noise. Repairing one is something a network can learn, because we can make as
# many pairs (damaged, clean) as we like. And pure noise is only a very damaged image. So hand the network pure noise,
# ask for a repair, and see what it invents.
#
# In this notebook images lie in [0, 1] (later ones use [-1, 1]), and the noise is **uniform**: each pixel is drawn on
# its own, every value in [0, 1] equally likely. To **corrupt** an image $x_0$ by the amount $a$, take the point that
# lies the fraction $a$ of the way from the image to a noise image $\epsilon$:
#
# $$x_a = (1 - a)\, x_0 + a\, \epsilon, \qquad 0 \le a \le 1 \tag{1.1}$$
#
# ### Exercise 1.1 - `corrupt`
#
# `x` and `noise` have shape (B, C, H, W); `amount` has shape (B,), one number for each image. Return the corrupted
# images.

# %% tags=["exercise", "nbval-check-output"]
def corrupt(x, amount, noise):
    ...  # two lines


corrupt = check(corrupt)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `amount * x` lines up the *last* axes, B with W. First make `amount` of shape (B, 1, 1, 1):
# `amount.reshape(-1, 1, 1, 1)`.
#
# </details>

# %% tags=["nbval-check-output"]
x = data.images[:8].float() / 255  # (8, 1, 28, 28) in [0, 1]
noise = torch.rand(x.shape, generator=generator)
amount = torch.linspace(0, 1, 8)
one_by_one = [torch.lerp(x[i], noise[i], amount[i]) for i in range(8)]  # lerp(p, q, a) is p + a (q - p)
verify("1.1", corrupt(x, amount, noise), torch.stack(one_by_one))

# %% [markdown]
# Guess before you run: up to which amount can you still tell the digit? (`x[i].expand(8, -1, -1, -1)` shows one image
# eight times, without a copy; -1 keeps an axis as it is.)

# %%
rows = {f"image {i + 1}": corrupt(x[i].expand(8, -1, -1, -1), amount, noise) for i in range(3)}
titles = [f"{a:.2f}" for a in amount]
viz.image_rows(rows, titles=titles, value_range=(0, 1), alt="Three digits fade into noise over eight amounts")

# %% [markdown]
# *At 0.57 the digits can be read, at 0.71 you guess, and from 0.86 on you cannot tell the rows apart: within a column
# all three have the same noise. Yet only the last column holds nothing of the digits.*
#
# ## A network that repairs
#
# `BasicUNet` is a small network of **convolutions**: each output pixel is a weighted sum of the pixels around it, with
# learned weights that are the same everywhere. Three on the way down see ever coarser versions of the image, three on
# the way up return to full size, and two **skip connections** carry fine detail across. (A network of this shape is a
# **U-Net**, Ronneberger et al. 2015; [notebook 06](06_unet.ipynb) takes a larger one apart.) Input and output have the
# same shape. Note what it is not told: the amount.
#
# (`.to(device)` moves numbers to the GPU, if there is one, and `.cpu()` back. Under `torch.no_grad()` PyTorch keeps no
# record for slopes: nothing is trained there.)

# %% tags=["nbval-check-output"]
torch.manual_seed(0)
model = BasicUNet().to(device, memory_format=torch.channels_last)  # a layout that CPUs work faster with
print(f"{count_parameters(model):,} parameters")
print(tuple(model(x.to(device)).shape))

# %% [markdown]
# The network $f$ gets the corrupted image and must return the clean one. We measure its error by the **mean squared
# error** over all pixels, averaged over images, amounts and noise. ($\mathbb{E}$ is the average, and
# $\lVert v \rVert^2$ is the sum of the squared entries of $v$.)
#
# $$L(f) = \mathbb{E}_{x_0,\, a,\, \epsilon}\; \frac{1}{D}\, \lVert f(x_a) - x_0 \rVert^2,
# \qquad D = 28 \cdot 28 \text{ pixels} \tag{1.2}$$
#
# ### Exercise 1.2 - `naive_loss`
#
# Return this loss for one batch, as a scalar: the mean over all images, channels and pixels. Use your `corrupt`.

# %% tags=["exercise", "nbval-check-output"]
def naive_loss(model, x, amount, noise):
    ...  # corrupt, predict, compare


naive_loss = check(naive_loss)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `F.mse_loss(a, b)` averages the squared differences of two tensors. Ask yourself which two.
#
# </details>

# %% tags=["nbval-check-output"]
with torch.no_grad():
    repaired = model(corrupt(x, amount, noise).to(device)).cpu()
    loss = naive_loss(lambda x_a: model(x_a.to(device)).cpu(), x, amount, noise)
squared_norms = (repaired - x).flatten(1).square().sum(1)  # (8,)
verify("1.2", loss, (squared_norms / 784).mean(), tol=1e-5)

# %% [markdown]
# ## Training
#
# An epoch is one pass over all images; we train for three. Every batch gets fresh amounts and fresh noise, so the
# network never sees the same damaged image twice. The lines from `zero_grad` to `step` are one step of gradient
# descent: forget the old slopes, compute the slope of the loss in every parameter, move each parameter a little
# downhill. Adam (Kingma & Ba 2015) decides how far, and `lr` sets the scale.

# %%
per_epoch = -(-len(data.images) // 128)  # rounded up
steps = budget(gpu=3 * per_epoch, cpu=3 * per_epoch, quick=60)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
live = viz.LiveLoss(steps, label="squared error")
for batch in batches(data.images, 128, steps):
    x = batch.float() / 255
    amount, noise = torch.rand(len(x), generator=generator), torch.rand(x.shape, generator=generator)
    loss = naive_loss(model, x.to(device), amount.to(device), noise.to(device))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    live(loss)

# %%
print("mean loss of each epoch:", [round(mean, 4) for mean in live.means(min(per_epoch, steps))])

# %% [markdown]
# *It will not reach 0, and the next pictures show why it cannot. (Captions describe a full run. Under the quick budget
# you will see blots.)*
#
# Now the test of what it learned, on images that it has never seen.

# %%
test = load_images("mnist", train=False)
x = test.images[:8].float() / 255
amount = torch.linspace(0, 1, 8)
corrupted = corrupt(x, amount, torch.rand(x.shape, generator=generator))
with torch.no_grad():
    prediction = model(corrupted.to(device)).cpu()
rows = {"clean": x, "corrupted": corrupted, "prediction": prediction}
viz.image_rows(rows, titles=titles, value_range=(0, 1), alt="Clean digits, their corrupted versions, the repairs")

# %% [markdown]
# *Compare the top and bottom rows. Up to about 0.7 the repair is good, although the network was not told how much
# damage to expect. At 0.86 a 4 comes back as something like a 9. In the last column no information is left, and the
# network answers with a grey cloud.*
#
# ## Why the cloud is the best answer
#
# Take a corrupted image $x_a$. Suppose that we know $a$, and that every training image was equally likely before we
# looked. A clean image $x_0$ can have produced it only if the noise that this would have taken,
# $(x_a - (1 - a) x_0) / a$, lies in [0, 1] at every pixel. If it does, that noise is as likely as any other, because
# the noise is uniform. So each training image is either *impossible* or *plausible*, and all the plausible ones are
# equally likely. We can list them, among 20,000 images.

# %%
images = data.images[:20_000].float() / 255  # (N, 1, 28, 28)

def plausible(x_a, a):
    noise_needed = (x_a - (1 - a) * images) / a
    possible = (noise_needed > -1e-5) & (noise_needed < 1 + 1e-5)
    return images[possible.flatten(1).all(1)]  # (number of plausible images, 1, 28, 28)

# %%
rows, noise = {}, torch.rand(1, 1, 28, 28, generator=torch.Generator().manual_seed(7))
for a in (0.9, 0.95, 0.97, 0.99, 1.0):
    x_a = corrupt(images[7:8], torch.tensor([a]), noise)
    candidates = plausible(x_a, a)
    with torch.no_grad():
        answer = model(x_a.to(device)).cpu()
    some = candidates[torch.linspace(0, len(candidates) - 1, 4).long().unique()]
    blank = torch.full((4 - len(some), 1, 28, 28), torch.nan)  # drawn as nothing
    rows[f"{a:.2f}: {len(candidates):,} plausible"] = torch.cat([x_a, some, blank, candidates.mean(0)[None], answer])
titles = ["corrupted", "plausible", "", "", "", "their mean", "network"]
viz.image_rows(rows, titles=titles, value_range=(0, 1), alt="For five amounts: plausible digits, their mean, the answer")

# %% [markdown]
# *One digit, one noise image, five amounts; in each row up to four of the plausible images. As the amount grows, more
# digits become plausible, and their mean loses its shape. Compare the last two columns. At 1.00 they nearly agree: the
# network has learned the mean of all digits. In the rows above, its answer is more blurred than it would have to be:
# the right one takes comparing $x_a$ with 20,000 images pixel by pixel, and this small network has not learned that.*
#
# At amount 1 there is no better answer. Let $m$ be the mean of the plausible images. Whatever answer $c$ somebody
# gives, its expected squared error splits in two, and only the second part depends on $c$:
#
# $$\mathbb{E}\,\lVert c - x_0\rVert^2 = \mathbb{E}\,\lVert m - x_0\rVert^2 + \lVert c - m\rVert^2 \tag{1.3}$$
#
# (Write $c - x_0 = (c - m) + (m - x_0)$ and multiply out. The average of the cross term is
# $2\,(c - m) \cdot \mathbb{E}[m - x_0] = 0$, because $m$ is the mean.) So squared error makes the mean the best
# answer. Run it for the last row, where every image is plausible, with the network's answer as $c$.

# %% tags=["nbval-check-output"]
x0, c = candidates.double(), answer.double()  # (N, 1, 28, 28) and (1, 1, 28, 28)
m = x0.mean(0, keepdim=True)

def squared_norm(difference):
    return difference.flatten(1).square().sum(1).mean()  # mean over the images

verify("1.3", squared_norm(c - x0), squared_norm(m - x0) + squared_norm(c - m))

# %% [markdown]
# **The best repair of pure noise is the mean of all digits, and the mean of all digits is not a digit.**
#
# ## Small steps
#
# The way out is to follow the first guess only a little. Start from noise, ask for the clean image, and move a little
# towards the answer. Ask again: the second answer is a little sharper. Write $x^{(i)}$ for the image after $i$ steps,
# so that $x^{(0)}$ is the noise. With $n$ steps, step $i = 0, \dots, n - 1$ moves the share 1/(steps left) of the way:
#
# $$x^{(i+1)} = x^{(i)} + \frac{\hat{x}_0 - x^{(i)}}{n - i}, \qquad \hat{x}_0 = f(x^{(i)}) \tag{1.4}$$
#
# ### Exercise 1.3 - `naive_step`
#
# `i` counts from 0, and `steps` is $n$. Return the image after the step.

# %% tags=["exercise", "nbval-check-output"]
def naive_step(x, x0_hat, i, steps):
    ...  # one line


naive_step = check(naive_step)

# %% [markdown]
# <details><summary>Hint</summary>
#
# In the last step one step is left, and the result must be `x0_hat` itself. Test your formula on `i = steps - 1`.
#
# </details>

# %% tags=["nbval-check-output"]
start, target = images[:2].double(), images[2:4].double()  # any two images show it
walk = start
for i in range(5):
    walk = naive_step(walk, target, i, 5)
verify("1.4", naive_step(start, target, 2, 5), torch.lerp(start, target, 1 / 3))  # step 2 of 5: three are left
print(f"after 5 steps the distance to the target is {(walk - target).abs().max():.0e}")

# %% [markdown]
# *With a prediction that never changes, five steps end on it. But the predictions do change: that is the point.*

# %% tags=["figure-01_five_steps"]
x = torch.rand(6, 1, 28, 28, generator=generator).to(device)
gap, rows = torch.full_like(x[:1], torch.nan), {}
for i in range(5):
    with torch.no_grad():
        x0_hat = model(x)
    rows[f"step {i}"] = torch.cat([x, gap, x0_hat])
    x = naive_step(x, x0_hat, i, 5)
titles = ["", "", "x", "", "", "", "", "", "", "prediction"]
viz.image_rows(rows, titles=titles, value_range=(0, 1), alt="Left: x in five steps. Right: the prediction at each step")

# %% [markdown]
# *Left, $x$ at the start of each step; right, what the network predicts from it; the last prediction is the result.
# Look down one column on the right. Pure noise says nothing about any digit, but the network reacts to its accidents,
# the step writes that reaction into the image, and the next prediction follows it. By the last row it hardly changes
# any more, digit or not.*
#
# `naive_trajectory` is this loop, made to yield every step. Guess before you run: what do 40 steps improve, the
# sharpness, the shapes, or both? (`*_, last = ...` keeps only what it yields last.)

# %% tags=["figure-01_forty_steps"]
noise = torch.rand(64, 1, 28, 28, generator=generator).to(device)
*_, last = naive_trajectory(model, noise, steps=40)
viz.image_grid(last.x, columns=16, value_range=(0, 1), alt="64 digits sampled in 40 steps; about half can be read")

# %%
rows = {}
for steps in (1, 2, 5, 10, 40):
    *_, last = naive_trajectory(model, noise[:12], steps)
    rows[f"n = {steps}"] = last.x
viz.image_rows(rows, value_range=(0, 1), alt="The same twelve starts, sampled in 1, 2, 5, 10 and 40 steps")

# %% [markdown]
# *The same twelve noise images in every row. One step gives the cloud. More steps give sharper strokes, most of that
# by $n = 5$; the shapes hardly change. At 40 steps there are still blobs and loose ends: more steps alone will not
# mend them.*
#
# ## What the sampler is doing
#
# (1.4) is a textbook method. As the amount $a$ falls from 1 to 0, equation (1.1) moves the image along a straight line
# with the constant velocity $dx_a/da = \epsilon - x_0$. We know neither $\epsilon$ nor $x_0$ at sampling time, but
# (1.1) also says $\epsilon - x_0 = (x_a - x_0)/a$, and for $x_0$ we have a guess. **Euler's method** follows a
# velocity in small straight steps. Here the amount goes from 1 to 0 in $n$ steps of $1/n$, and step $i$ starts at
# $a = 1 - i/n$:
#
# $$x^{(i+1)} = x^{(i)} - \frac{1}{n} \cdot \frac{x^{(i)} - \hat{x}_0}{a} \tag{1.5}$$
#
# Put in $a = (n - i)/n$ and the $n$ cancels: this is (1.4).

# %% tags=["nbval-check-output"]
n, i = 40, 13
a = 1 - i / n
euler = start - (1 / n) * (start - target) / a
verify("1.5", naive_step(start, target, i, n), euler)

# %% [markdown]
# *So sampling means solving a differential equation whose right-hand side is a network. DDIM, in [notebook
# 08](08_sampling.ipynb), is Euler's method, too, along another path.*
#
# ## Is the recipe wrong, or the network?
#
# We chose uniform noise and a straight line because they were at hand. Does the recipe end in the right distribution
# at all? Ask where the answer is known: let an image have one pixel, and let 35 % of all images lie around -1.2 and 65
# % around 0.7, each group spread like a bell. (This small world returns in [notebook 03](03_likelihood_bound.ipynb).)
# The clean pixels that are plausible, given $x_a$ and $a$, lie between $(x_a - a)/(1 - a)$ and $x_a/(1 - a)$. Their
# exact mean is an integral over that stretch: what lies below its upper end minus what lies below its lower end.

# %%
world = Mixture(*torch.tensor([[0.35, 0.65], [-1.2, 0.7], [0.25, 0.35]], dtype=torch.float64))

def below(y):
    """The share of all clean pixels below each y (N,), and the integral of x_0 over them."""
    z = (y[:, None] - world.means) / world.stds  # (N, 2), a column for each group
    share, bell = torch.special.ndtr(z), (-z.square() / 2).exp() / math.sqrt(2 * math.pi)
    return share @ world.weights, (world.means * share - world.stds * bell) @ world.weights

# %% [markdown]
# Guess before you run: 2,000 noise values, evenly spaced in [0, 1], follow (1.4) with this mean. The table has
# quantiles: so much of the data, or of the samples, lies below the number. Which of its rows will agree?

# %%
shares = torch.tensor([0.05, 0.2, 0.32, 0.4, 0.6, 0.95]).double()
grid = torch.linspace(-3, 3, 60_001).double()
table = {"data": grid[torch.searchsorted(below(grid)[0], shares)]}
for n in (5, 40, 1000):
    x = (torch.arange(2000).double() + 0.5) / 2000
    for i in range(n):
        a = 1 - i / n
        (low, sum_low), (high, sum_high) = below((x - a) / (1 - a)), below(x / (1 - a))
        x = naive_step(x, (sum_high - sum_low) / (high - low), i, n)
    table[f"{n} steps"] = x.quantile(shares)
print(f"{'below it':12}" + "".join(f"{share:8.0%}" for share in shares))
for name, row in table.items():
    print(f"{name:12}" + "".join(f"{value:8.3f}" for value in row))

# %% [markdown]
# *In 5 steps the outer quantiles are pulled inwards, in 40 they come nearer, and in 1,000 every one agrees with the
# data's to about 0.003. So the recipe is no mistake: told the amount, and given the exact mean, it draws from the data
# here. It is called **rectified flow** (Liu et al. 2023), a case of flow matching (Lipman et al. 2023).*
#
# *The fault in our digits must then lie with the network. It is small, so its answers are not the means; nobody tells
# it the amount; and while sampling it is fed its own half-finished work, not straight blends of an image and noise.*
#
# ## Why it works without conditioning on the amount
#
# The network is not **conditioned** on the amount. Does it need to be? Let a second, small network guess the amount
# from the corrupted image alone. It measures how strongly each of 32 learned patterns of 3 x 3 pixels is met, on
# average over the image, and makes one number of these 32.

# %%
torch.manual_seed(0)
guesser = nn.Sequential(
    nn.Conv2d(1, 32, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1),
).to(device)  # (B, 1, 28, 28) -> (B, 1)
optimizer = torch.optim.Adam(guesser.parameters(), lr=1e-2)

# %%
steps = budget(gpu=1000, cpu=1000, quick=100)
live = viz.LiveLoss(steps, label="squared error of the guess")
for batch in batches(data.images, 128, steps, seed=1):
    x = batch.float() / 255
    amount, noise = torch.rand(len(x), generator=generator), torch.rand(x.shape, generator=generator)
    guess = guesser(corrupt(x, amount, noise).to(device))[:, 0]
    loss = F.mse_loss(guess, amount.to(device))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    live(loss)

# %%
x = test.images[:1000].float() / 255
amount = torch.rand(1000, generator=generator)
with torch.no_grad():
    guess = guesser(corrupt(x, amount, torch.rand(x.shape, generator=generator)).to(device))[:, 0].cpu()
print(f"on 1,000 new images the guess is off by {(guess - amount).abs().mean():.3f} on average")
figure, axis = viz.subplots(size=(4, 4))
axis.plot([0, 1], [0, 1], color="black", linewidth=1)
axis.plot(amount, guess, ".", markersize=3)
axis.set(xlabel="true amount", ylabel="guessed amount", aspect="equal")
viz.show(figure, alt="Guessed against true amount: the points lie along the diagonal")

# %% [markdown]
# *Every dot is a new image; on the black line the guess is right. Noise leaves its mark on every pixel, so a network
# can read the amount from its input. Here the guesses spread farther above 0.5 than below, and towards 1, where
# sampling starts, they are a little too low. [Notebook 05](05_time_conditioning.ipynb) measures what conditioning is
# worth all the same.*
#
# ## One more limit, hidden in the last line of the network
#
# `BasicUNet` ends with an activation, a fixed bent curve through which each number goes on its own: SiLU,
# $s(z) = z / (1 + e^{-z})$. For images in [0, 1] that does no harm. But its smallest value $-w$ is not far below 0,
# and $w$ satisfies
#
# $$w\, e^{w} = e^{-1} \tag{1.6}$$
#
# (Set the derivative of $s$ to zero: $1 + e^{-z} + z\, e^{-z} = 0$, which is $e^{z} = -(1 + z)$. There $1 + e^{-z}$ is
# $-z\, e^{-z}$, so $s(z) = -e^{z} = z + 1$: that is, $-w = z + 1$ and $w = e^{z}$. Put $z = -1 - w$ into the last:
# $w = e^{-1-w}$.)

# %% tags=["nbval-check-output"]
w = -F.silu(torch.linspace(-3, 0, 3_000_001, dtype=torch.float64)).min().item()
verify("1.6", w * math.exp(w), math.exp(-1))
print(f"the output of this network cannot go below {-w:.4f}")

# %% [markdown]
# *Gaussian noise of mean 0 and variance 1 falls below that about four times in ten, and the black of [notebook
# 00](00_start_here.ipynb) is at -1. This network could never be trained to predict either, and nothing would say why.
# When a loss is stuck, look at the range of the last layer.*
#
# ## What to remember, and what broke
#
# - A network that repairs images can be turned into one that invents them: by many small steps, not by one large
#   one.
# - Squared error makes it answer with a mean. Where the input leaves much open, the mean is a blur.
# - With exact means the recipe drew from the data, in a world of one pixel.
#
# **What broke:** the network's answers, and our knowledge. We have no proof that the recipe must work (Part II has
# one, in [notebook 14](14_flow_matching.ipynb)), and no likelihood: no number that says how probable a model makes an
# image, and that a network could be trained on. [Notebook 02](02_forward_process.ipynb) starts again, with many small
# random steps. Which noise process ends in a known distribution, whatever the data, and is so well understood that the
# way back can be derived?
#
# ### Experiments to try
#
# - Train on `load_images("fashion")`. Which kinds of clothing come out well, and why those?
# - Sample from Gaussian noise instead of uniform noise, with the same network. Guess first.
# - Replace the squared error by `F.l1_loss`. The best answer is then the median of each pixel: what happens to the
#   cloud?
