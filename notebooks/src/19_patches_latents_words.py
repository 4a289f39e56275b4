# %% [markdown]
# # Patches, latents, words
#
# ![Rows of digits, each row drawn for a caption such as a large thick seven, slanted left](../figures/19_words.png)
#
# *Each row was asked for in words, and starts from the same noise as the others. Read a row's caption, and count the
# digits that obey it. How would you make that a number, without a person who looks?*
#
# **You will** build a diffusion transformer, move diffusion into the latents of an autoencoder, let a network read
# captions and measure whether it obeys, and change its style with a tenth of its numbers. **You need** attention from
# [notebook 06](06_unet.ipynb), guidance from [notebook 12](12_guidance.ipynb), DPM-Solver++ from [notebook
# 15](15_solvers.ipynb). **Time** 75 minutes of reading; the cells ran in 2 minutes on one slow CPU core.

# %% tags=["setup"]
REPO = ""  # owner/name on GitHub; `make badges REPO=owner/name` fills it in
try:
    import ddpm_helpers
except ImportError:
    assert REPO, "The helper module is missing: start this notebook with `make lab`, or see Colab in the README."
    get_ipython().run_line_magic("pip", f"install -q git+https://github.com/{REPO}")

import copy
import json

import torch
import torch.nn.functional as F
from einops import rearrange

from ddpm_helpers import VelocityNet, budget, check, cosine_schedule, count_parameters, load_images
from ddpm_helpers import multiply_adds, sample, synthetic_digits, to_float, verify, viz
from ddpm_helpers.files import WEIGHTS
from ddpm_helpers.lessons import patches, words
from ddpm_helpers.lessons.toy import Mixture, double
from ddpm_helpers.metrics import evaluate, frechet_distance, load_feature_net

generator = torch.Generator().manual_seed(0)
torch.manual_seed(0)  # for the weights of new networks
schedule, feature_net = cosine_schedule(), load_feature_net()

# %% [markdown]
# ## An image as a sentence
#
# [Notebook 18](18_few_steps.ipynb) ended with few calls, of which each still runs over all pixels, and with no more to
# ask for than a digit's class. Large models that draw from a text changed three things, and each fits into small code:
# a transformer in place of the U-Net, an autoencoder around it, and words.
#
# A **transformer** is a stack of blocks that work on a list of vectors, the **tokens**. An image becomes such a list
# when it is cut into square patches of $p$ by $p$ pixels, and each patch is written as one vector of $C p^2$ numbers:
#
# $$N = \frac{H}{p} \cdot \frac{W}{p} \tag{19.1}$$
#
# Nothing is lost; the numbers stand in another order. This is the **patch** of space-to-depth in [notebook
# 11](11_colour_and_scale.ipynb), as a list.
#
# ### Exercise 19.1 - `patchify`
#
# Cut `x` (B, C, H, W) into patches of `side` pixels. Return tokens (B, N, C side²): patches row by row, as text is
# read, and in a token the channels first, then rows, then columns.

# %% tags=["exercise", "nbval-check-output"]
def patchify(x, side):
    return ...  # one line: rearrange(x, "b c ... -> ...", p=side, q=side)


patchify = check(patchify)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `(h p)` on the left says that an axis is made of `h` groups of `p`. What stands last in a bracket runs fastest.
#
# </details>

# %%
x = to_float(load_images("mnist").images[:2000])

# %% tags=["nbval-check-output"]
tokens = patchify(x[:8], 4)
verify("19.1", torch.tensor([tokens.shape[1]]), 28 / 4 * 28 / 4)
print("and back without loss:", torch.equal(patches.unpatchify(tokens, 4, 28), x[:8]))

# %% [markdown]
# In a **diffusion transformer** (DiT; Peebles & Xie 2023) a linear layer makes $d$ numbers of each token, some blocks
# follow, and another linear layer makes pixels again. A block is self-attention, then two layers for each token alone,
# $d \to 4d \to d$. Count the multiplications. Queries, keys, values and the way out: $4 N d^2$. The two layers: $8 N
# d^2$. Every token with every other, once for the weights and once for the means: $2 N^2 d$. And $6 d^2$ once an image,
# to which we come below:
#
# $$\text{multiplications of a block} = 12\, N d^2 + 2\, N^2 d + 6\, d^2 \tag{19.2}$$
#
# Halve $p$, and $N$ is four times as large; the middle term grows sixteenfold.

# %% tags=["nbval-check-output"]
d, h = 64, torch.randn(1, 196, 64, generator=generator)
block = patches.DiTBlock(d, heads=4)
counted = [multiply_adds(block, h[:, :N], h[:, 0])[""] for N in (16, 49, 196)]
N = torch.tensor([16, 49, 196])
verify("19.2", torch.tensor(counted), 12 * N * d**2 + 2 * N**2 * d + 6 * d**2)

# %%
steps = torch.tensor([500])
for side in (2, 4, 7, 14):
    net = patches.DiT(patch=side)
    total, count = multiply_adds(net, x[:1], steps)[""], (28 // side) ** 2
    print(f"patches of {side:2}: {count:3} tokens, {total / 1e6:5.1f} million multiplications")

# %% [markdown]
# *Fewer, larger patches cost less. What they lose is told by no formula: between the pixels of one patch there is no
# attention, and all $p^2$ of them (196 for 14) have to fit into $d = 64$ numbers.*
#
# ### It does not know where anything is
#
# Attention treats its tokens as a set. Let $P$ be a matrix that reorders them. Queries, keys and values are reordered
# alike, the weights in rows and columns, and the means come out in the new order:
#
# $$\operatorname{Attention}(P X) = P \operatorname{Attention}(X) \tag{19.3}$$
#
# An image with shuffled patches would get the same answer, shuffled. So a token is told its place: sines and cosines of
# its row and of its column, as for the time in [notebook 05](05_time_conditioning.ipynb), are added to it.

# %% tags=["nbval-check-output"]
order = torch.randperm(196, generator=generator)
told = h + patches.positions(14, 14, d)
verify("19.3", block.look(h[:, order]), block.look(h)[:, order], tol=1e-5)
apart = (block.look(h[:, order] + patches.positions(14, 14, d)) - block.look(told)[:, order]).abs().max()
print("with positions the two sides differ:", bool(apart > 0.01))

# %% [markdown]
# ## A block that begins by doing nothing
#
# How is the time told? In the U-Net by FiLM, a scale and a shift for each channel. The DiT does the same to the tokens,
# after a norm without numbers of its own, and adds a third: a **gate** on what the branch adds. All three come from
# one linear layer, after a SiLU, of the embedding $c$ of the time:
#
# $$x \leftarrow x + {\color{#D55E00}{\gamma(c)}} \odot f\big( (1 + {\color{#0072B2}{s(c)}}) \odot \operatorname{LN}(x) + {\color{#0072B2}{b(c)}} \big) \tag{19.4}$$
#
# $f$ is attention, then the two layers, each with its own three: that is where $6 d^2$ came from. The linear layer that
# gives them starts at zero: **adaLN-Zero**. So at the start
#
# $$\gamma(c) = 0 \quad \Rightarrow \quad \operatorname{block}(x, c) = x \quad \text{for every } x \text{ and } c \tag{19.5}$$
#
# ```
#  tokens x ───┬───────────────────────────────────────────(+)──┬──────────────────────────────────────────(+)──▶ x
#              └─ LN ─ (1 + s₁)· + b₁ ─ attention ─ γ₁· ────┘   └─ LN ─ (1 + s₂)· + b₂ ─ two layers ─ γ₂· ───┘
#                          ▲       ▲                ▲                         ▲       ▲                 ▲
#  embedding c ─ linear, starts at 0 ──────── six vectors (d) for each image ───────────────────────────┘
# ```
#
# A deep stack begins as a shallow one. It is not stuck: the gradient for $\gamma$ is what $f$ says, times the gradient that arrives at the block. (The last layer of the whole network starts at zero, too; it moves first, and from then on the gates do.)
#
# ### Exercise 19.2 - `adaln_zero`
#
# `x` is (B, N, d); `branch` a function of such a tensor; `shift`, `scale` and `gate` are (B, d). Return (19.4).

# %% tags=["exercise", "nbval-check-output"]
def adaln_zero(x, branch, shift, scale, gate):
    h = F.layer_norm(x, x.shape[-1:])
    h = ...
    return ...


adaln_zero = check(adaln_zero)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `shift[:, None]` is (B, 1, d): the same for all tokens of an image.
#
# </details>

# %% tags=["nbval-check-output"]
shift, scale, gate = torch.randn(3, 1, d, generator=generator)
one = h[0, 5]  # one token, by hand
normed = (one - one.mean()) / (one.var(correction=0) + 1e-5).sqrt()
by_hand = one + gate[0] * torch.tanh((1 + scale[0]) * normed + shift[0])
verify("19.4", adaln_zero(h, torch.tanh, shift, scale, gate)[0, 5], by_hand, tol=1e-5)
verify("19.5", block(h, torch.randn(1, d, generator=generator)), h)
block(h, h[:, 0]).square().mean().backward()
print("the layer that gives the gates has a gradient:", bool(block.adaln[1].weight.grad.any()))

# %% [markdown]
# ### Patches or convolutions, for the same time?
#
# A fair race needs equal time, more than one seed, and the same judge. `tests/benchmarks/patches.py` gave each network
# 40 seconds of one slow core (batches of 32, the same data, the same loss, the same sampler). Guess the order before
# you run; the rows are in the file's order.

# %%
table = json.loads((WEIGHTS.parent / "results" / "patches.json").read_text())
print(table["command"], "|", table["device"], "|", table["date"])
print("                  parameters  multiplications  steps        distance      recognised")
for name in dict.fromkeys(row["net"] for row in table["rows"]):
    rows = [row for row in table["rows"] if row["net"] == name]
    several = lambda key, rows=rows: " ".join(f"{row[key]:>6}" for row in rows)  # noqa: E731
    cost, size = rows[0]["multiplications"] / 1e6, rows[0]["parameters"]
    print(f"{name:16}  {size:10,}  {cost:13.1f} M  {several('steps')}  {several('distance')}  {several('recognised')}")

# %% [markdown]
# *Two seeds a row. After 40 seconds nobody draws digits: of real ones, 500 score about 30, as printed further down. In
# this first stretch the U-Net, whose own patches are of 2, is ahead of both transformers on pixels, with fewer steps, in
# both seeds. A
# likely reason: a convolution knows from the start that neighbours belong together, and a transformer has to learn it
# from data. Between the two the larger patches have the smaller distance, after twice the steps, and the smaller patches are recognised more often. What an hour would say is another
# question, and two seeds are few: change `SECONDS` in that file, and see. (The row "latents" belongs to the next
# section.)*
#
# Here is a run of your own, short:

# %%
steps = budget(gpu=1000, cpu=100, quick=4)
small = VelocityNet(patches.DiT(patch=7), schedule)
losses = patches.fit(small, lambda i, g: patches.diffusion_loss(small, schedule, x[i], g), len(x), steps)
tenth = max(1, len(losses) // 10)
print(f"loss {sum(losses[:tenth]) / tenth:.2f} at the start, {sum(losses[-tenth:]) / tenth:.2f} at the end")

# %% [markdown]
# ## Diffusion on what matters
#
# A patch of 4 by 4 pixels is 16 numbers, and most of what they can say is never said: strokes are smooth. An
# **autoencoder** learns to say it in fewer. Ours turns 28x28 into 4x7x7, 4 numbers for each patch of 16, and back; it
# was trained for 1,200 steps to rebuild digits, with a little noise on the latents so that neighbours decode alike.
# Then diffusion is done on the latents alone (**latent diffusion**, Rombach et al. 2022), and the decoder is asked
# once, at the end.

# %%
autoencoder = words.load_autoencoder()
test = to_float(load_images("mnist", train=False).images[:1000])
with torch.no_grad():
    z = autoencoder.encode(test)
    rebuilt = autoencoder.decode(z)

# %%
few = z[:10].transpose(0, 1)  # (4, 10, 7, 7)
rows = {"image": test[:10], **{f"latent {i + 1}": F.interpolate(few[i][:, None] / 2, size=28) for i in range(4)}}
alt = "Ten digits, their four latents as 7x7 pictures, and the digits rebuilt"
viz.image_rows({**rows, "rebuilt": rebuilt[:10]}, alt=alt)

# %%
real, again = evaluate(feature_net, test), evaluate(feature_net, rebuilt)
half = len(test) // 2
print(f"mean squared error {F.mse_loss(rebuilt, test):.4f}")
print(f"distance of rebuilt and real, other images: {frechet_distance(again.features[:half], real.features[half:]):.1f}")
print(f"distance of real and real, other images:    {frechet_distance(real.features[:half], real.features[half:]):.1f}")

# %% [markdown]
# *What is lost is fine ends and thin gaps. The first distance is the **reconstruction floor**: a perfect model of the
# latents would score it. It is the price; what does it buy?*
#
# ### The scale factor
#
# A schedule is made for data of variance about 1. If latents have the variance $v$, the signal-to-noise ratio at each
# step is $v$ times what it was meant to be, and with it the task changes: for Gaussian latents the least error that any
# network can reach at step $t$ is
#
# $$\mathbb{E}\big[(\epsilon - \hat\epsilon)^2\big] = \frac{v\, \bar\alpha_t}{v\, \bar\alpha_t + \sigma_t^2} \tag{19.6}$$
#
# ($\hat\epsilon$ is a line in $x_t$, and this is 1 less the squared correlation of noise and $x_t$.) So latents are
# divided by their standard deviation, once, by one number for all:
#
# $$k = \frac{1}{\sqrt{\mathbb{E}[z^2] - \mathbb{E}[z]^2}} \quad \Rightarrow \quad \operatorname{Var}(k z) = 1 \tag{19.7}$$

# %% tags=["nbval-check-output"]
exact, v, t = double(schedule), 9.0, 700
eps = Mixture(*torch.tensor([[1.0], [0.0], [v**0.5]]).double()).ideal_eps(exact)
z_0, noise = torch.randn(2, 200_000, generator=generator).double()
x_t = exact.sqrt_alpha_bar[t] * v**0.5 * z_0 + exact.sigma[t] * noise
a_bar = exact.alpha_bar[t]
verify("19.6", samples=(noise - eps(x_t, t)) ** 2, expected=v * a_bar / (v * a_bar + exact.sigma[t] ** 2))

# %% tags=["nbval-check-output"]
raw = (z / autoencoder.scale).double()  # as the encoder gives them
k = 1 / (raw.square().mean() - raw.mean() ** 2).sqrt()
verify("19.7", (k * raw).var(correction=0), 1.0)

# %%
print(f"scale kept in the file: {autoencoder.scale:.3f}, from these images: {k:.3f}")
for t in (200, 500, 800, 950):
    a_bar = schedule.alpha_bar[t]
    print(f"t = {t}: least error with variance 1: {a_bar:.2f}; with 0.01: {0.01 * a_bar / (0.01 * a_bar + 1 - a_bar):.3f}")

# %% [markdown]
# *Latents that are too small drown early: with a variance of 0.01 most of the schedule is spent where nothing can be
# seen, and the error of the noise, which is all that the loss tells, looks better there.*
#
# *Latents against pixels, for the same time, is in the table above. Compare "patches of 4" with "latents": 49 tokens
# both, the same blocks, about as many steps. The latents' distance is lower with both seeds, though very far from real
# digits. (Their loss is of other numbers, and must not be compared.) The bill for it: the autoencoder's own 1,200
# steps, once, and the floor.*
#
# ## Captions that measure themselves
#
# To learn words, a network needs captions; to know whether it obeys, we need to measure. We do both with one ruler. The
# **thickness** of a stroke is twice its area over the length of its outline. For a bar of width $w$ and length $L$ that
# is
#
# $$\frac{2 A}{P} = \frac{2\, w L}{2\, (w + L)} = \frac{w}{1 + w / L} \tag{19.8}$$
#
# a little less than $w$. The **slant** is how far ink moves to the right for each pixel upwards, on average: with $x$
# to the right and $y$ downwards, $-\operatorname{Cov}(x, y) / \operatorname{Var}(y)$. Push each row by $a$ more than
# the row below it, and
#
# $$\text{slant}' = \text{slant} + a \tag{19.9}$$
#
# **Size** is the root mean square distance of the ink from its centre.

# %% tags=["nbval-check-output"]
bars = torch.full((3, 1, 40, 40), -1.0)
wide, long = torch.tensor([2, 3, 5]), torch.tensor([30, 24, 28])
for bar, w, L in zip(bars, wide, long, strict=True):
    bar[0, 5 : 5 + L, 10 : 10 + w] = 1
verify("19.8", words.measure(bars)["thickness"], wide / (1 + wide / long), tol=0.02)

# %% tags=["nbval-check-output"]
digit = F.pad(x[:20], (28, 28, 0, 0), value=-1)  # room to the left and to the right
pushed = torch.stack([digit[:, :, row].roll(14 - row, dims=-1) for row in range(28)], dim=2)
verify("19.9", words.measure(pushed)["slant"], words.measure(digit)["slant"] + 1, tol=1e-4)

# %%
data = load_images("mnist")
images, captions = words.described(to_float(data.images[:5]), data.labels[:5])
for text in captions:
    print(text)
viz.image_rows({"": images}, alt="Five digits of several sizes, to which the captions above belong")

# %% [markdown]
# *Images are made smaller at random, or size would say little. Of each property, the lower and the upper third of the
# training images get a word; about the middle nothing is said. There are 17 words. A word that is none of them gets an
# answer:*

# %%
try:
    words.tokens(["a fat seven"])
except ValueError as error:
    print(error)

# %% [markdown]
# ### A bag of words
#
# Each word is a row $e_w$ of a table, learned with the rest. The simplest reader takes their mean, and adds it to the
# embedding of the time, as the label in [(12.1)](12_guidance.ipynb):
#
# $$\bar e = \frac{1}{L} \sum_{j=1}^{L} e_{w_j} \tag{19.10}$$
#
# A mean forgets the order. "Thin, slanted left" and "left slanted, thin" are one to it, and so would be "a one left of
# a seven" and "a seven left of a one". And every place in the image is told the same.
#
# ### Each place asks for itself
#
# Let each token of the image make its own mean. It has a question, the **query** $q$, and each word has a **key** $k_j$
# and a **value** $v_j$, all linear in the vectors. A word counts the more, the nearer its key is to the query. With a
# Gaussian for "near":
#
# $$\frac{\sum_j e^{-|q - k_j|^2 / 2 \tau}\, v_j}{\sum_j e^{-|q - k_j|^2 / 2 \tau}} = \sum_j \operatorname{softmax}_j\Big( \frac{q \cdot k_j}{\sqrt d} \Big)\, v_j \qquad \text{for } \tau = \sqrt d \text{ and keys of one length} \tag{19.11}$$
#
# since $|q|^2$ and $|k_j|^2$ cancel. The left is a kernel-weighted mean, known from statistics; the right is
# **cross-attention**. (Keys of several lengths add a bonus to long ones.) The text encoder before it is that table, the
# places of the words, and one attention among the words: 4,000 numbers.
#
# ### Exercise 19.3 - `cross_attention`
#
# `q` (B, N, d), `k` (B, L, d), `v` (B, L, e). Captions differ in length, so `real` (B, L), boolean, says which words
# there are. Return the means (B, N, e) and the weights (B, N, L); words that are not there must weigh nothing.

# %% tags=["exercise", "nbval-check-output"]
def cross_attention(q, k, v, real):
    fit = ...  # (B, N, L)
    weights = ...
    return weights @ v, weights


cross_attention = check(cross_attention)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `fit.masked_fill(~real[:, None], -torch.inf)`, before the softmax.
#
# </details>

# %% tags=["nbval-check-output"]
table, told = torch.randn(19, 32, generator=generator), words.tokens(["a thin seven, slanted left"])[0]
e = table[told][None]
shuffled = torch.tensor([0, 3, 4, 1, 2, 5, 6])  # other words in the same caption first
real = told[None] > 0
mean = sum(table[w] for w in told[:5]) / 5
verify("19.10", words.bag_of_words(e[:, shuffled], real[:, shuffled])[0], mean, tol=1e-6)

# %% tags=["nbval-check-output"]
q, k, v = torch.randn(3, 1, 6, 8, generator=generator).double()
k = k / k.norm(dim=-1, keepdim=True)  # keys of one length
near = (-torch.cdist(q, k) ** 2 / (2 * 8**0.5)).exp()
everything = torch.ones(1, 6, dtype=torch.bool)
verify("19.11", cross_attention(q, k, v, everything)[0], near @ v / near.sum(-1, keepdim=True), tol=1e-9)

# %% [markdown]
# ### Empty and negative
#
# One caption in ten was left empty in training, so guidance of [notebook 12](12_guidance.ipynb) works: from the
# prediction for "" past that for the caption. Nothing demands that the first one be empty. With another caption there,
# the **negative prompt**,
#
# $${\color{#009E73}{\hat\epsilon_{\text{neg}}}} + s\, \big( {\color{#009E73}{\hat\epsilon_{\text{pos}}}} - {\color{#009E73}{\hat\epsilon_{\text{neg}}}} \big) = - \sigma_t \nabla \log \big[ p_{\text{pos}}(x_t)^{s}\; p_{\text{neg}}(x_t)^{1 - s} \big] \tag{19.12}$$
#
# and for $s > 1$ the second exponent is negative: what is likely under the unwanted caption is avoided. On the
# one-pixel world, with two captions whose images are known:

# %% tags=["nbval-check-output"]
wanted = Mixture(*torch.tensor([[0.5, 0.5], [-1.0, 0.3], [0.2, 0.3]]).double())
avoided = Mixture(*torch.tensor([[1.0], [0.5], [0.4]]).double())
t, s = 400, 3.0
pixel = torch.linspace(-2, 2, 101).double().requires_grad_()
logs = s * wanted.noised(exact, t).log_density(pixel) + (1 - s) * avoided.noised(exact, t).log_density(pixel)
[score] = torch.autograd.grad(logs.sum(), pixel)
positive, negative = (world.ideal_eps(exact)(pixel, t) for world in (wanted, avoided))
verify("19.12", negative + s * (positive - negative), -exact.sigma[t] * score, tol=1e-9)

# %% [markdown]
# ## Does it obey?
#
# `tests/benchmarks/words.py` trained a DiT with cross-attention on the latents, for 200 seconds of one slow core; it is
# shipped. Rows of one picture start from one noise.

# %%
model, schedule = words.load_words(autoencoder)
options = {"shape": (4, 7, 7), "steps": 16, "method": "dpm_solver", "spacing": "log-snr", "clip": False}

def draw(captions, avoided="", scale=3.0, net=model, seed=0):
    prompted = words.prompted(net, captions, avoided, scale)
    with torch.no_grad():
        drawn = sample(prompted, schedule, len(captions), batch_size=len(captions), seed=seed, **options)
        return autoencoder.decode(drawn)

# %% tags=["figure-19_words"]
prompts = ["a seven", "a thick seven", "a thin seven", "a seven, slanted left", "a large thick seven, slanted left"]
prompts += ["a small thin three, slanted right"]
n = budget(gpu=10, cpu=10, quick=2, unit="images a row")
alt = "Rows of digits, one row for each caption"
viz.image_rows({text: draw([text] * n) for text in prompts}, alt=alt)

# %% [markdown]
# *Columns share their noise: compare the rows in one of them. Stroke, lean and size follow the words. The last row
# fails: in several columns you may read a five, or nothing. The network was trained for minutes.*
#
# Now with the ruler. Each image is asked for a random digit, thickness, slant and size. It obeys if the feature network
# reads the digit, and if the measurement that wrote the captions finds the same third. By luck a third of the images
# obey each of the three, and one in 270 all.

# %%
n = budget(gpu=500, cpu=150, quick=6, unit="images for each scale")
asked = {"digit": torch.randint(10, (n,), generator=generator)}
asked |= {name: torch.randint(3, (n,), generator=generator) for name in words.LEVELS}
captions = [words.caption(*row) for row in zip(*(part.tolist() for part in asked.values()), strict=True)]

def report(name, images, asked=asked):
    got = words.obedience(images, asked, feature_net)
    shares = torch.stack([hit.float().mean() for hit in got.values()])
    errors = (shares * (1 - shares) / n).sqrt()
    print(f"{name:13}" + "".join(f"  {share:4.0%} +- {error:3.0%}" for share, error in zip(shares, errors, strict=True)))
    return shares[-1]

# %%
scales = torch.tensor([0.0, 1.0, 2.0, 3.0, 5.0])
print("scale" + " " * 8 + "".join(f"  {name:>11}" for name in (*asked, "all")))
shares = torch.stack([report(f"{s:.0f}", draw(captions, scale=s)) for s in scales.tolist()])
real, _ = words.described(test[:n], load_images("mnist", train=False).labels[:n])
truth = {"digit": load_images("mnist", train=False).labels[:n], **words.levels(real)}
with torch.no_grad():
    report("real, rebuilt", autoencoder.decode(autoencoder.encode(real)), truth)

# %% [markdown]
# *At scale 0 the caption does not count, and obedience is luck (thickness, over two errors below a third, had little of it). At 1 the network is taken at its word, and one image in
# five obeys in all. Guidance more than doubles that, up to scale 2 or 3; the two cannot be told apart here. At 5 it is
# less again, and the column of size says where. Read the columns apart: at scales 1 and 2 the digit is obeyed least. The
# last row is a yardstick, real digits through the autoencoder, many of which lie near the border of a third.*
#
# ### Exercise 19.4 - `smallest_scale`
#
# Which scale would you ship? More guidance costs variety (notebook 12), so take the smallest one that is as good as the
# best, as far as this measurement can tell: `shares` (S,) of `count` images each. A scale is good enough if it lies at
# most two standard errors of the *difference* below the best share. Return that scale. (The same starts were used for
# all scales, so the true error of a difference is probably smaller; we ignore that.)

# %% tags=["exercise", "nbval-check-output"]
def smallest_scale(scales, shares, count):
    best = shares.max()
    error = ...  # (S,): of the difference to the best
    good = ...
    return ...


smallest_scale = check(smallest_scale)

# %% [markdown]
# <details><summary>Hint</summary>
#
# The variance of a share $p$ of $n$ images is $p(1-p)/n$, and the variances of two shares add up.
#
# </details>

# %%
chosen = smallest_scale(scales, shares, n).item()
print("smallest scale that is good enough:", chosen)
bag = words.load_words(autoencoder, WEIGHTS / "words_bag.safetensors")[0]
_ = report("bag of words", draw(captions, scale=max(chosen, 1.0), net=bag))

# %% [markdown]
# *The bag, trained for the same time and drawn at the same scale, obeys as well as attention: the shares of all lie
# within their errors. (Slant is two errors ahead, one of five columns: a hint at most.) It has to be said: for captions whose words each speak of
# the whole digit, and whose order means nothing, the mean is enough, and the time that attention costs buys nothing that
# 150 images could show. It is needed where "a one left of a seven" has to differ from the reverse.*
#
# ### What a negative prompt does
#
# Sevens at scale 3, steered away from "" or from another caption. The numbers are means of the ruler.

# %%
n = budget(gpu=100, cpu=40, quick=2, unit="sevens each")
for avoided in ("", "a thick seven", "a thin seven", "a seven, slanted right"):
    images = draw(["a seven"] * n, avoided, 3.0)
    found, sevens = words.measure(images), (feature_net(images).argmax(1) == 7).sum()
    means = [f"{name} {value.mean():5.2f} +- {value.std() / n**0.5:.2f}" for name, value in found.items()]
    means.append(f"read as seven {sevens} of {n}")
    print(f"not {avoided or 'anything':24}", "  ".join(means))

# %% [markdown]
# *Steered away from "thick", sevens get thinner, and away from "thin" bolder, by many standard errors; away from
# "slanted right" they lean to the left. The other columns move, too: what differs from the avoided caption in anything
# is exaggerated, wanted or not. And since both captions say "seven", nothing pulls
# towards the digit any more: of those steered away from "a thick seven" only 10 of 40 are still read as one.*
#
# ### Where does it look?
#
# The weights of (19.11), for one image and one step, as a mean over the four blocks: one 7x7 picture for each word, in
# which white is the largest weight of that word.

# %%
text, t = "a large thick seven, slanted left", 500
seven = draw([text], scale=1.0)
with torch.no_grad():
    noisy = schedule.sqrt_alpha_bar[t] * autoencoder.encode(seven)
    noisy = noisy + schedule.sigma[t] * torch.randn(noisy.shape, generator=generator)
    model(noisy, torch.tensor([t]), words.tokens([text]))
weights = torch.stack([block.weights[0] for block in model.net.net.blocks]).mean(0)  # (49, 7)
maps = rearrange(weights / weights.amax(0).clamp(min=1e-6), "(h w) l -> l 1 h w", h=7)[:6]

# %%
titles = ["drawn", "begin", *["large", "thick", "seven", "slanted", "left"]]
shown = torch.cat([(seven + 1) / 2, F.interpolate(maps, size=28)])
alt = "A seven, and for each word of its caption where it is looked at"
viz.image_rows({"": shown}, titles=titles, value_range=(0, 1), alt=alt)
means = [f"{name} {w:.2f}" for name, w in zip(titles[1:], weights.mean(0)[:6], strict=True)]
print("mean weight of each word:", *means)

# %% [markdown]
# *"Begin" gets most of the weight: places with nothing to ask look there, above all the black ones around. "Thick" is
# looked at along the strokes, "seven" in the middle, ink or not, "slanted" at the foot. That is one image, and one step; a map shows where a word was read, and
# not what it did.*
#
# ## A new style for a tenth of the numbers
#
# You have 200 digits in another style, and a network that knows words. To train all of it would make a second file as
# large as the first. **LoRA** (Hu et al. 2022) keeps each weight matrix $W$ ($m$ by $n$) and learns a correction of
# rank $r$:
#
# $$W' = W + B A, \qquad B \in \mathbb{R}^{m \times r},\; A \in \mathbb{R}^{r \times n}, \qquad r\,(m + n) \text{ numbers in place of } m n \tag{19.13}$$
#
# $A$ is random, $B$ zero: at the start nothing is changed. Why not both zero? With $G$ for the gradient of the loss by
# $W'$, the chain rule gives
#
# $$\frac{\partial \mathcal{L}}{\partial B} = G A^\top, \qquad \frac{\partial \mathcal{L}}{\partial A} = B^\top G \tag{19.14}$$
#
# With $B = 0$ only $B$ moves at first; with both zero neither ever would.

# %% tags=["nbval-check-output"]
linear = torch.nn.Linear(64, 192).double()
lora = words.LoRA(copy.deepcopy(linear), 4).double()
seen = torch.randn(10, 64, generator=generator).double()
print("identity at the start:", torch.equal(lora(seen), linear(seen)))
print("numbers:", count_parameters(lora), "of", linear.weight.numel())
torch.nn.init.normal_(lora.B)
verify("19.13", lora(seen), seen @ (linear.weight + lora.B @ lora.A).T + linear.bias, tol=1e-9)
lora(seen).square().sum().backward()
G = 2 * lora(seen).detach().T @ seen
found, derived = (lora.B.grad, lora.A.grad.T), (G @ lora.A.T, G.T @ lora.B)
verify("19.14", torch.cat(found), torch.cat(derived), tol=1e-9)

# %% [markdown]
# The new style: digits that the course draws itself, printed in stripes, two rows of ink and two of none. 200 of them,
# with their captions.

# %%
striped, labels = synthetic_digits(200, seed=5)
dark = torch.arange(28) % 4 >= 2  # rows without ink
striped, told = words.described(to_float(striped), labels)
striped[:, :, dark] = -1
with torch.no_grad():
    z, told = autoencoder.encode(striped), words.tokens(told)

# %%
styled = words.add_lora(copy.deepcopy(model), rank=4)
print(f"{count_parameters(styled):,} numbers learn, of {sum(p.numel() for p in model.parameters()):,}")
steps = budget(gpu=400, cpu=150, quick=3)
loss = lambda i, g: patches.diffusion_loss(styled, schedule, z[i], g, told[i])  # noqa: E731
losses = patches.fit(styled, loss, 200, steps, lr=1e-2)

# %%
asking = [f"a {digit}" for digit in words.DIGITS]
rows = {"examples": striped[:10], "rebuilt": autoencoder.decode(z[:10]).detach()}
rows |= {"before": draw(asking, scale=2.0), "with LoRA": draw(asking, scale=2.0, net=styled)}
for name, drawn in rows.items():
    ink = (drawn + 1) / 2
    print(f"{name:10} share of the ink in the dark rows: {ink[:, :, dark].sum() / ink.sum():.2f}")
viz.image_rows(rows, alt="Striped examples, the same rebuilt, digits drawn before, and with LoRA, zero to nine")

# %% [markdown]
# *The upper rows show some of the 200, in their own order, and what the autoencoder makes of them; below, the digits 0 to 9 from one noise. After 150 steps
# most of the ink has left the dark rows, and many digits are still the ones asked for, though broken. The examples have a
# share of 0, but no network in these latents gets there: the decoder never saw stripes, and rebuilds the examples
# themselves with 0.13. That is most of what is left; the reconstruction floor again.*
#
# ## What to remember, and what broke
#
# - Patches make an image a list; $p$ sets its length, and the price. Attention knows no places unless they are told.
# - adaLN-Zero: time by scale, shift and gate, and a start at which each block does nothing.
# - Latents are fewer numbers, of variance 1 by one factor. Their decoder sets a floor.
# - Cross-attention is a weighted mean over words, made anew at each place. A negative prompt is guidance from another
#   caption.
# - Obedience can be measured, if captions are measurements. Say the error, and choose the scale by it.
# - LoRA: $W + BA$, identity at the start, few numbers.
#
# **What broke:** nothing looks wrong. But our last model saw 200 pictures. How much of what it drew is theirs? And the
# others: does a network that draws like its training images draw *new* ones, or does it hand them back? [Notebook
# 20](20_memorise_or_generalise.ipynb) measures it.
#
# ### Experiments to try
#
# - Train `DiT(patch=4)` without positions (`net.positions.zero_()`). Which digits survive?
# - Multiply the latents by 0.1 in `diffusion_loss` and train anew. Where in the schedule is the loss different, and
#   what do the samples lose?
# - Ask for what never was: "a thin thick seven". Which word wins, and is it the one with more weight in the maps?
# - LoRA with rank 1 and rank 16, the same steps: share of ink in the dark rows, and obedience of the words that it was
#   not taught?
