# %% [markdown]
# # Inside the U-Net
#
# ![Three rows: strokes, half of them readable digits; the same samples all black or all white; the digits of a repaired network](../figures/06_two_drawings.png)
#
# *The first two rows are the same twelve samples of one network, drawn in two ways. (The empty frames are pictures
# that are white all over.) One of the drawings hides what is wrong with the network. The third row is the repair.*
#
# **You will** take a diffusion U-Net apart, write its four working parts yourself, see where its parameters and its
# multiplications are, and find a fault that a loss curve does not show. **You need** [notebook
# 02](02_forward_process.ipynb) for the symbols, and [notebook 05](05_time_conditioning.ipynb) for what a convolution
# does and how a network is conditioned on the time. **Time** 60 minutes of reading; the cells run in about 4 minutes
# on 2 CPU cores.

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
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from ddpm_helpers import BasicUNet, LayerNormUNet, SimpleUNet, TrainConfig, Trainer, UNet, budget, check
from ddpm_helpers import count_parameters, ddpm_step, ddpm_trajectory, image_noise, linear_schedule, load_images
from ddpm_helpers import multiply_adds, q_sample, to_float, verify, viz
from ddpm_helpers.nets import ResidualBlock, SelfAttention

generator = torch.Generator().manual_seed(0)

# %%
data = load_images("mnist")
schedule = linear_schedule(1000)
print(data.source)

# %% [markdown]
# ## How far does a network see?
#
# Take one pixel of a network's output. Which pixels of the input can change it? They are its **receptive field**. In a
# chain of layers it grows like this: layer $i$ has a kernel $k_i$ pixels wide, so it adds $k_i - 1$ neighbours, and
# these lie $s_i$ input pixels apart, where $s_i$ is what all strides and poolings before that layer multiply to.
#
# $$r = 1 + \sum_i (k_i - 1)\, s_i \tag{6.1}$$
#
# On its way down the `SimpleUNet` of [notebook 05](05_time_conditioning.ipynb) has a 3x3 convolution, a 2x2 pooling,
# and at half size two more 3x3 convolutions. To measure the field no formula is needed: the gradient of one output
# pixel with respect to the input is zero wherever a pixel has no say.

# %%
def pull(f, x):
    """How strongly each input pixel pulls at the middle pixel of f(x), averaged over the images: (H, W)."""
    x = x.clone().requires_grad_()
    y = f(x)  # (B, C, H', W')
    y[:, :, y.shape[2] // 2, y.shape[3] // 2].sum().backward()
    return x.grad.abs().mean((0, 1))

# %% tags=["nbval-check-output"]
torch.manual_seed(0)
simple = SimpleUNet(T=1000)

def way_down(x):
    full = F.silu(simple.down(torch.cat([x, torch.zeros_like(x)], dim=1)))  # the second channel is the time
    return simple.middle(F.max_pool2d(full, 2))

wide = pull(way_down, torch.randn(16, 1, 64, 64, generator=generator))  # (64, 64)
width = (wide.sum(0) > 0).sum()
verify("6.1", width, 1 + (3 - 1) * 1 + (2 - 1) * 1 + (3 - 1) * 2 + (3 - 1) * 2)
print(f"after the way down a pixel has seen {width} pixels across")

# %% [markdown]
# Now whole networks: those of notebooks [01](01_corrupt_and_predict.ipynb), which takes a `t` and ignores it, and 05,
# and two that this notebook takes apart. (A new `UNet` answers 0 to everything, for a reason to come, and then nothing
# pulls at all. `wake` makes its zeros random.)
#
# Guess before you run: images are 28 pixels across. Which of the four see a whole image?

# %%
def wake(net):
    for module in net.modules():
        if isinstance(module, nn.Conv2d) and not module.weight.any():
            module.reset_parameters()  # PyTorch's usual random start
    return net

torch.manual_seed(0)
nets = {"BasicUNet": BasicUNet(), "SimpleUNet": SimpleUNet(T=1000)}
nets |= {"LayerNormUNet": LayerNormUNet(T=1000), "UNet": wake(UNet())}
x, t = torch.randn(16, 1, 28, 28, generator=generator), torch.full((16,), 500)
maps = {name: pull(lambda x, net=net: net(x, t), x) for name, net in nets.items()}

# %%
def side(strength, share=0.95):
    """Side of the smallest square around the middle that holds this share of the pull."""
    middle, size = len(strength) // 2, len(strength)
    for r in range(size):
        box = slice(max(0, middle - r), middle + r + 1)
        if strength[box, box].sum() >= share * strength.sum():
            return min(2 * r + 1, size)

# %%
figure, axes = viz.subplots(1, 4, size=(8, 2.5))
for axis, (name, strength) in zip(axes, maps.items(), strict=True):
    picture = axis.imshow((strength / strength.max()).log10(), vmin=-4, vmax=0)
    axis.set(title=name, xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
figure.colorbar(picture, ax=axes, label="log10 of the pull")
viz.show(figure, alt="Pull of each input pixel at the middle output pixel, for four new networks")

# %%
for name, strength in maps.items():
    pulls = strength > 0
    print(f"{name:<14} {pulls.float().mean():4.0%} of the pixels pull, {pulls.any(0).sum():2} across;", end=" ")
    print(f"{side(strength):2} across hold 95 %")

# %% [markdown]
# *All panels are 28 pixels wide; white pixels do not pull. `SimpleUNet` is blind outside a square of 18 pixels:
# whether a stroke belongs to a 3 or an 8 is decided where it cannot look. `BasicUNet` reaches everywhere, faintly, and
# `UNet` pulls from the whole image the most evenly. Training moves the weights, but no training moves the white
# border.* (The 18 are the 12 of the way down, and 6 that the layers on the way up add.)
#
# The cure is more levels, since each one doubles the $s_i$ in (6.1). But a long chain of plain layers has a problem of
# its own. Guess: 32 different images go through 30 convolutions, each followed by SiLU. How different are the results?

# %%
def through(layers, h):
    with torch.no_grad():
        for depth, layer in enumerate(layers, start=1):
            h = layer(h)  # (32, 32, 14, 14)
            if depth in (1, 10, 30):
                apart, size = h.std(0).mean(), h.abs().mean()
                print(f"after {depth:2} layers the images differ by {apart:.0e}, of a size of {size:.0e}")

# %%
features = torch.randn(32, 32, 14, 14, generator=generator)
torch.manual_seed(0)
through([nn.Sequential(nn.Conv2d(32, 32, 3, padding=1), nn.SiLU()) for _ in range(30)], features)

# %% [markdown]
# *After 30 layers all images look the same to the network, to more digits than a 32-bit float has. What the input was
# is lost on the way.* Two parts cure that: a norm and a shortcut.
#
# ## Group norm
#
# A **group norm** (Wu & He 2018) cuts the channels of an image into groups of neighbours, takes mean $\mu_g$ and
# variance $v_g$ of each group over all its channels and all its pixels, and makes them 0 and 1. For channel $c$ in
# group $g$ and pixel $i$:
#
# $$\mathrm{GN}(x)_{c,i} = \frac{x_{c,i} - \mu_g}{\sqrt{v_g + 10^{-5}}} \tag{6.2}$$
#
# The variance divides by the number of values, not by one less. Each image is normalised alone, so the answer for one
# image does not depend on its neighbours in the batch, as it would with a batch norm. One group for all channels makes
# it a **layer norm** (Ba et al. 2016).
#
# ### Exercise 6.1 - `group_norm`
#
# `x` has shape (B, C, H, W), and `groups` divides C. Return the same shape. Write it with torch, so that gradients can
# flow. (PyTorch has `F.group_norm`; here you build it.)

# %% tags=["exercise", "nbval-check-output"]
def group_norm(x, groups):
    grouped = ...  # give each group an axis of its own
    return grouped


group_norm = check(group_norm)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `x.reshape(len(x), groups, -1)` puts all that belongs to a group along the last axis. `.var(..., correction=0)`
# divides by the number of values.
#
# </details>

# %% tags=["nbval-check-output"]
x = 3 * torch.randn(5, 12, 7, 6, generator=generator, dtype=torch.float64) + 2
verify("6.2", group_norm(x, 4), F.group_norm(x, 4), tol=1e-9)
normed = group_norm(x, 4).reshape(5, 4, -1)
print(f"means up to {normed.mean(2).abs().max():.0e}, variances {normed.var(2, correction=0).min():.4f} and more")

# %% [markdown]
# A norm forgets on purpose. Multiply the input by a positive number and add another, and the output is the same, up to
# the $10^{-5}$:
#
# $$\mathrm{GN}(a\,x + b) = \mathrm{GN}(x), \qquad a > 0 \tag{6.3}$$
#
# Inside a network that is welcome: no layer can blow up or starve the next, and differences between the channels of a
# group survive. Keep (6.3) in mind for the end of this notebook.

# %% tags=["nbval-check-output"]
verify("6.3", group_norm(5 * x + 7, 4), group_norm(x, 4), tol=1e-5)

# %% [markdown]
# ## A residual block, conditioned on the time
#
# The second part is a **shortcut** $s$, a way past the layers: a **residual block** adds something to its input
# instead of replacing it (He et al. 2016). Where the number of channels changes, the shortcut is a 1x1 convolution;
# else it is the input as it is. On the branch beside it are two convolutions, $f_1$ and $f_2$, each after a SiLU
# ($f_1$ begins with a group norm, too), and between them the time enters. A small linear layer (behind a SiLU) turns
# the time embedding into a scale $\gamma$ and a shift $\delta$ for each channel, the same at all pixels: the FiLM of
# [(5.7)](05_time_conditioning.ipynb).
#
# $$y = s(x) + f_2\big((1 + \gamma)\; \mathrm{GN}(f_1(x)) + \delta\big) \tag{6.4}$$
#
# ### Exercise 6.2 - `residual_block`
#
# `block` holds the parts, each of them callable, the SiLUs inside: `block.first` ($f_1$), `block.norm`, `block.film`,
# `block.last` ($f_2$) and `block.shortcut`. `x` has shape (B, C, H, W). `known` is the embedding, one vector for each
# image, (B, K), of all that the network is conditioned on; here that is the time. `block.film(known)` has shape (B, 2
# C'): first all scales, then all shifts, for C' channels out. Write it with torch, so that gradients can flow.

# %% tags=["exercise", "nbval-check-output"]
def residual_block(block, x, known):
    y = ...  # four lines
    return y


residual_block = check(residual_block)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `scale, shift = block.film(known).chunk(2, dim=1)`, and each needs two more axes before it can meet (B, C', H, W).
#
# </details>

# %% tags=["nbval-check-output"]
torch.manual_seed(0)
block = wake(ResidualBlock(16, 24, known=10)).double()
x, known = torch.randn(5, 16, 7, 6).double(), torch.randn(5, 10).double()
film = F.silu(known) @ block.film[1].weight.T + block.film[1].bias  # (5, 48): 24 scales, then 24 shifts
one_by_one = []
for i in range(5):
    h = F.group_norm(block.first(x[i : i + 1]), 8)[0]  # (24, 7, 6)
    h = torch.stack([(1 + film[i, c]) * h[c] + film[i, 24 + c] for c in range(24)])
    one_by_one.append(block.shortcut(x[i]) + block.last(h[None])[0])
verify("6.4", residual_block(block, x, known), torch.stack(one_by_one), tol=1e-9)

# %%
torch.manual_seed(0)
blocks = [wake(ResidualBlock(32, 32, known=10)) for _ in range(30)]
known = torch.randn(1, 10).expand(32, 10)  # one embedding for all 32
through([lambda h, block=block: residual_block(block, h, known) for block in blocks], features)

# %% [markdown]
# *Through 60 convolutions the differences do not fade. They double, and so does their size. The shortcuts carry the
# input through, and the norms keep the branches at one size.*
#
# ### Start at zero
#
# How should a branch begin? In the course's `UNet` the last convolution of every branch starts with all weights at
# zero. So $f_2$ answers 0, whatever it gets, and a new block is its shortcut:
#
# $$y = s(x) \tag{6.5}$$
#
# The last convolution of the whole network starts at 0, too: a new network predicts no noise at all. To watch it wake
# up, we give it a small task: four pictures of pure noise, which it must return as they are.

# %% tags=["nbval-check-output"]
block = ResidualBlock(16, 24, known=10).double()
verify("6.5", residual_block(block, x, torch.randn(5, 10).double()), block.shortcut(x), tol=1e-9)

# %%
torch.manual_seed(0)
net = UNet()
optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
noise, t = torch.randn(4, 1, 28, 28, generator=generator), torch.tensor([100, 400, 700, 1000])
for step in range(4):
    loss = F.mse_loss(net(noise, t), noise)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    reached = [p.grad.ne(0).any().item() for p in net.parameters()]
    print(f"step {step}: loss {loss.item():.3f}, the gradient reaches {sum(reached)} of {len(reached)} tensors of weights")

# %% [markdown]
# *The first loss is the mean square of the noise itself, which is about 1. In step 0 only the two tensors of the last
# layer get a gradient; a step later it reaches along the shortcuts to the zeros in every branch, and then into the
# branches: the network wakes up from its output backwards. (Whether that trains better than an ordinary start, this
# cell does not show; an experiment below asks.)*
#
# ## Self-attention
#
# A convolution looks at neighbours. **Self-attention** (Vaswani et al. 2017) lets every pixel look at every other one.
# A 1x1 convolution makes three vectors of each pixel: a query $q$ ("what I look for"), a key $k$ ("what I am") and a
# value $v$ ("what I say"). The product $q_i \cdot k_j$ says how much pixel $i$ cares about pixel $j$; a **softmax**
# over $j$, the fraction in (6.7), makes weights of these scores that add up to 1, and the answer is the mean of the
# values with these weights. If the entries of $q$ and $k$ are independent, with mean 0 and variance 1, then a product
# of length $d$ has
#
# $$\mathrm{Var}[q \cdot k] = d \tag{6.6}$$
#
# and a softmax of numbers that large has one weight near 1 and the rest near 0, and no gradient to speak of. So the
# scores are divided by $\sqrt d$:
#
# $$a_i = \sum_j w_{ij}\, v_j, \qquad w_{ij} = \frac{\exp(q_i \cdot k_j / \sqrt d)}{\sum_{l} \exp(q_i \cdot k_l / \sqrt d)} \tag{6.7}$$
#
# Several **heads** do this side by side, each on its own $d = C / \text{heads}$ channels.

# %% tags=["nbval-check-output"]
q, k = torch.randn(2, 100_000, 32, generator=generator)
verify("6.6", samples=(q * k).sum(1) ** 2, expected=32.0)

# %% [markdown]
# ### Exercise 6.3 - `attention`
#
# `qkv` has shape (B, 3 C, H, W): along the channels come the queries of all heads, then their keys, then their values.
# Return (B, C, H, W), the heads one after the other. Write it with torch, so that gradients can flow. `rearrange` from
# einops names the axes. This splits the channels into 2 groups and makes one axis of all pixels:
#
# ```python
# rearrange(x, "b (n c) h w -> b n (h w) c", n=2)
# ```

# %% tags=["exercise", "nbval-check-output"]
def attention(qkv, heads):
    answer = ...  # split, look, join
    return answer


attention = check(attention)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `"b (three heads c) h w -> three b heads (h w) c"` gives something that unpacks into q, k and v. After that, either
# (6.7) with `@`, `.softmax(-1)` and `k.mT`, which swaps the last two axes only, or PyTorch's
# `F.scaled_dot_product_attention(q, k, v)`, which is the same and, where it can, does not store the weights. On the way
# back `rearrange` must be given where to cut `(h w)`: `h=qkv.shape[2]`.
#
# </details>

# %% tags=["nbval-check-output"]
qkv = torch.randn(2, 3 * 32, 7, 5, generator=generator, dtype=torch.float64)
q, k, v = qkv.flatten(2).chunk(3, dim=1)  # (2, 32, 35) each
answers = []
for c in range(0, 32, 8):  # one head of 8 channels at a time
    scores = torch.einsum("bci,bcj->bij", q[:, c : c + 8], k[:, c : c + 8]) / math.sqrt(8)
    answers.append(torch.einsum("bij,bcj->bci", scores.softmax(2), v[:, c : c + 8]))
verify("6.7", attention(qkv, heads=4), torch.cat(answers, dim=1).reshape(2, 32, 7, 5), tol=1e-9)

# %% tags=["nbval-check-output"]
q, k, v = rearrange(qkv, "b (three heads c) h w -> three b heads (h w) c", three=3, heads=4)
library = F.scaled_dot_product_attention(q, k, v)
verify("6.7", attention(qkv, heads=4), rearrange(library, "b heads (h w) c -> b (heads c) h w", h=7), tol=1e-9)

# %% [markdown]
# The course's `SelfAttention` is a group norm, the 1x1 convolution, this function, one more 1x1 convolution that
# starts at zero, and a shortcut past it all. What does it cost? Let $n = HW$ be the number of pixels. The convolutions
# take $3nC^2$ and $nC^2$ **multiply-adds** (one multiplication and one addition, the usual unit). There are $n^2$
# pairs of pixels; a pair's score takes $d$ multiply-adds in each head, $C$ in all, and the mean of the values as many
# again:
#
# $$\text{multiply-adds of self-attention} = 4\, n\, C^2 + 2\, n^2\, C \tag{6.8}$$
#
# `multiply_adds` runs a network once and counts what really happens.

# %% tags=["nbval-check-output"]
layer, C = SelfAttention(128), 128
for height in (7, 14, 28):
    n = height**2
    counted = multiply_adds(layer, torch.zeros(1, C, height, height))[""]
    verify("6.8", counted, 4 * n * C**2 + 2 * n**2 * C)
    print(f"{height}x{height}: {counted / 1e6:6.1f} million, {2 * n**2 * C / counted:.0%} of it for looking")

# %% [markdown]
# *Twice the side is 4 times the pixels and 16 times the pairs. That is why attention sits at the lowest level:
# `UNet(attention=1)`, the default, has it there and in the middle, and nowhere else.*
#
# ## Down, middle, up
#
# Now the body of the network. On the way **down** each level is a residual block (and attention at the bottom), and a
# convolution with stride 2 halves the sides. The **middle** is one more block with attention. On the way **up** a
# level again, then the sides double: each pixel becomes four, and a convolution follows. Three levels halve twice and
# double twice: below the lowest level nothing shrinks, and after the last level up nothing grows. Going down loses
# where exactly things are, so each level going down leaves a copy of its output on a stack, and each level going up
# takes one back: the **skip connections** of the U-Net (Ronneberger et al. 2015). Last in, first out.
#
# ### Exercise 6.4 - `down_and_up`
#
# `net` has the lists `net.down` and `net.shrink`, one of each for a level, from the finest down; `net.middle`; and the
# lists `net.up` and `net.grow`, from the lowest upwards. Levels and middle are called with features and the embedding,
# `level(h, known)`; `shrink` and `grow` with features alone. A level going up gets its skip beside its input, as more
# channels: first what came up, then the skip. Return what the last `grow` gives. Call `shrink` and `grow` at every
# level, the last one too. (In `UNet` the last ones return what they get.)

# %% tags=["exercise", "nbval-check-output"]
def down_and_up(net, h, known):
    skips = []
    h = ...  # down, middle, up
    return h


down_and_up = check(down_and_up)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Two loops with `zip`. In the first: `skips.append(...)` after the level, before it shrinks. In the second:
# `torch.cat([h, skips.pop()], dim=1)` before the level, and `grow` after it.
#
# </details>
#
# Before the body of `UNet` comes one convolution, the **stem**, and after it a norm and the convolution that starts at
# zero, `out`. The three together must be the whole network. (`None` says that there is no label; labels come in
# [notebook 12](12_guidance.ipynb).)

# %% tags=["nbval-check-output"]
torch.manual_seed(0)
net = wake(UNet()).eval()
x, t = torch.randn(4, 1, 28, 28, generator=generator), torch.tensor([100, 400, 700, 1000])
with torch.no_grad():
    known = net.embed(x, t, None)  # (4, 128): the embedding of the time
    ours = net.out(down_and_up(net, net.stem(x), known))
    print("same as the network:", torch.allclose(ours, net(x, t), atol=1e-5))

# %% [markdown]
# ## Shape by shape
#
# A **forward hook** is a function that PyTorch calls whenever a module has run. We hang one on each part of the
# network, send one image through, and print the parts in the order in which they ran.

# %%
parts = {}
for name, child in net.named_children():
    pieces = child.named_children() if isinstance(child, nn.ModuleList) else [("", child)]
    parts |= {f"{name}.{i}".rstrip("."): part for i, part in pieces if not isinstance(part, nn.Identity)}
shapes = {}
for name, part in parts.items():
    part.register_forward_hook(lambda module, inputs, output, name=name: shapes.update({name: tuple(output.shape[1:])}))

# %% tags=["nbval-check-output"]
adds = multiply_adds(net, x[:1], t[:1])
print("part       output shape      parameters  multiply-adds")
for name, shape in shapes.items():
    print(f"{name:<10} {shape!s:<16} {count_parameters(parts[name]):>11,} {adds[name]:>14,}")
print(f"{'all':<10} {'':<16} {count_parameters(net):>11,} {adds['']:>14,}")

# %% [markdown]
# *Channels double while sides halve, then back. At the lowest level an image is (128, 7, 7), 8 times as many numbers
# as the image has: a diffusion U-Net is no funnel. `up.0` gets 128 channels from below and 128 over the skip, so it
# has the most parameters. The time, one vector for the whole image, costs next to nothing.*
#
# Where are the parameters, and where is the work? A convolution uses each of its weights once at every pixel of its
# output:
#
# $$\text{multiply-adds of a convolution} = H\,W \cdot k^2\, C_{\text{in}}\, C_{\text{out}} \tag{6.9}$$
#
# So a weight at 28x28 works 16 times as much as one at 7x7. Guess: which share of the parameters is at 7x7, and which
# share of the work?

# %% tags=["nbval-check-output"]
verify("6.9", adds["stem.1"], 28 * 28 * 3**2 * 1 * 32)
verify("6.9", adds["grow.0"], 14 * 14 * 3**2 * 128 * 64)
verify("6.9", adds["up.1.block.shortcut"], 14 * 14 * 1**2 * 128 * 64)

# %%
shares = {}  # side -> [parameters, multiply-adds]
for name, shape in shapes.items():
    if len(shape) == 3:
        share = shares.setdefault(f"{shape[1]}x{shape[2]}", [0, 0])
        share[0] += count_parameters(parts[name]) / count_parameters(net)
        share[1] += adds[name] / adds[""]
for size, (parameters, work) in shares.items():
    print(f"{size:>5}: {parameters:4.0%} of the parameters, {work:4.0%} of the multiply-adds")

# %%
figure, axis = viz.subplots(size=(7, 2.6))
for i, label in enumerate(["parameters", "multiply-adds"]):
    heights = [100 * share[i] for share in shares.values()]
    axis.bar([place + 0.4 * i - 0.2 for place in range(len(shares))], heights, width=0.38, label=label)
axis.set(xticks=range(len(shares)), xticklabels=shares, xlabel="size of the features", ylabel="share in %")
axis.legend(frameon=False)
viz.show(figure, alt="Most parameters are at 7x7; the multiply-adds are spread over the three sizes")

# %% [markdown]
# *Half the sides are a quarter of the pixels, twice the channels are four times the weights of a convolution: in (6.9)
# the two cancel.*
#
# ## Four networks side by side

# %%
print("network          parameters   million multiply-adds   95 % of the pull")
for name, other in nets.items():
    million = multiply_adds(other, x[:1], t[:1])[""] / 1e6
    print(f"{name:<14} {count_parameters(other):>12,} {million:>23.1f} {side(maps[name]):>15} px")

# %% [markdown]
# *Parameters say little about work. `LayerNormUNet` has more parameters than `BasicUNet` or `SimpleUNet` and the least
# work, because it is narrow where images are large. `SimpleUNet` spends four times as much, at the two finest levels,
# and sees least.*
#
# ### A cheaper way in: patches
#
# `UNet(patch=2)` never works at full size. Its first step makes 4 channels of each **patch** of 2x2 pixels, which is
# called **space-to-depth** (in PyTorch `nn.PixelUnshuffle`); its last step makes pixels of channels again, and nothing
# is lost on either way. Everything between has a quarter of the pixels, so by (6.9) three quarters of the work should
# be saved. And in seconds?

# %%
def seconds(net, x, t):
    """The fastest of five forward passes."""
    laps = []
    for _ in range(5):
        start = time.perf_counter()
        with torch.no_grad():
            net(x, t)
        laps.append(time.perf_counter() - start)
    return min(laps)

# %%
images, t_images = torch.randn(16, 1, 28, 28, generator=generator), torch.full((16,), 500)
for patch in (1, 2):
    net = UNet(base=48, multipliers=(1, 2), patch=patch)
    million = multiply_adds(net, images[:1], t_images[:1])[""] / 1e6
    print(f"patch={patch}: {count_parameters(net):,} parameters,", end=" ")
    print(f"{million:.0f} million multiply-adds an image,", end=" ")
    print(f"{1000 * seconds(net, images, t_images):.0f} ms for 16 images")

# %% [markdown]
# *The seconds follow the multiply-adds roughly here. The price: in its first layers the network treats neighbouring
# pixels as channels, not as neighbours. [Notebook 08](08_sampling.ipynb) samples with such a network.*
#
# ## Any size that can be halved
#
# No layer of `UNet` knows how large an image is. The sides must only survive the halvings: with three levels, be
# divisible by 4.

# %% tags=["nbval-check-output"]
colour = UNet(channels=3)
for height, width in [(28, 28), (32, 20), (64, 96)]:
    print(tuple(colour(torch.randn(1, 3, height, width), torch.tensor([500])).shape))
try:
    colour(torch.randn(1, 3, 30, 28), torch.tensor([500]))
except ValueError as error:
    print(error)

# %% [markdown]
# ## What a skip carries
#
# Take a narrow `UNet`, train it briefly, and then cut its skips, one at a time: the half of a level's input that came
# over the skip is set to zero. (A **forward pre-hook** does it: a function that PyTorch calls before a module runs,
# and that may change its input. `Trainer` is [notebook 07](07_train_ddpm.ipynb)'s subject; here it is a loop over
# steps with the loss of [notebook 04](04_bound_to_noise.ipynb).)

# %%
torch.manual_seed(0)
steps = budget(gpu=1000, cpu=150, quick=10)
trainer = Trainer(UNet(base=16), schedule, data.images, TrainConfig(steps=steps, warmup=30))
live = viz.LiveLoss(steps, label="squared error of the noise")
for loss in trainer.run():
    live(loss)

# %% [markdown]
# What does this network still know without a skip? Compare its answer with the true noise, one spatial frequency after
# the other: brightness (no wave across the picture), broad shapes (a few waves), fine detail (many). We look at test
# images at $t = 700$, where most of $x_t$ is noise; the loss there is far smaller than in the curve above, a mean over
# all steps.

# %%
def agreement(a, b):
    """Correlation of images a and b (N, 1, 28, 28), by number of waves across the picture: (15,)."""
    f = torch.fft.fftfreq(28, 1 / 28)
    waves = (f[:, None] ** 2 + f**2).sqrt().round().long().flatten()  # (784,)
    a, b = torch.fft.fft2(a[:, 0]), torch.fft.fft2(b[:, 0])
    products = ((a * b.conj()).real, a.abs() ** 2, b.abs() ** 2)  # (N, 28, 28) each
    both, in_a, in_b = (torch.zeros(21).index_add(0, waves, p.sum(0).flatten()) for p in products)
    return (both / (in_a * in_b).sqrt())[:15]  # 15 to 20 waves fit in along the diagonals alone

def cut(module, inputs):
    h, skip = inputs[0].chunk(2, dim=1)
    return torch.cat([h, torch.zeros_like(skip)], dim=1), *inputs[1:]

# %%
net = trainer.ema.cpu()
x0 = to_float(load_images("mnist", train=False).images[:64])
noise, t = torch.randn(x0.shape, generator=generator), torch.full((64,), 700)
x_t = q_sample(schedule, x0, t, noise)
with torch.no_grad():
    curves = {"whole network": agreement(net(x_t, t), noise)}
    print(f"loss of the whole network {F.mse_loss(net(x_t, t), noise):.4f}")
    for level, size in zip(net.up, (7, 14, 28), strict=True):
        handle = level.register_forward_pre_hook(cut)
        curves[f"without the skip at {size}x{size}"] = agreement(net(x_t, t), noise)
        print(f"without the skip at {size}x{size} {F.mse_loss(net(x_t, t), noise):.4f}")
        handle.remove()

# %%
alt = "Correlation of predicted with true noise by spatial frequency, for the whole net and with one skip cut"
viz.plot_curves(curves, xlabel="waves across the picture", ylabel="correlation", alt=alt)

# %% [markdown]
# *In a full run on a CPU: without the finest skip the loss is that of a network which knows nothing, about 1. Noise is
# different at every pixel, so predicting it needs what only the full size knows, and the shortest way there is that
# skip. Without the skip at 14x14 the loss rises by more than a third; the correlation falls most at 0 waves, the
# brightness. Cutting the skip at 7x7 changes next to nothing: the same features reach this level a second way, through
# the middle, along its shortcuts. (A network that was trained without skips would find other ways: the first
# experiment below.)*
#
# ## A network that cannot see brightness
#
# `LayerNormUNet` is a published design for the same 28x28 images. As published (`input_norm=True`) its first layer is
# a layer norm over the whole input image: a group norm with one group. By (6.3) it forgets two numbers of each image,
# its mean and its spread (the standard deviation of its pixels). And the time is added before that norm, the same at
# every pixel, so it is forgotten, too. `input_norm=False` leaves that one norm out. Compare the two, new and
# untrained:

# %%
x, t = torch.randn(4, 1, 28, 28, generator=generator), torch.tensor([1, 300, 600, 1000])
for input_norm in (True, False):
    torch.manual_seed(0)
    net = LayerNormUNet(T=1000, input_norm=input_norm)
    answer = net(x, t)
    change = (net(x + 5, t) - answer).norm() / answer.norm()
    (answer * torch.randn_like(answer)).sum().backward()
    largest = [f"{level.time[2].weight.grad.abs().max():.0e}" for level in net.down]
    print(f"input_norm={input_norm}: adding 5 to every pixel changes the answer by {change:.0e} of its size,")
    print(f"   largest gradients of the time MLPs on the way down: {', '.join(largest)}")

# %% [markdown]
# *With the norm, an image and the same image made brighter by two and a half times the distance from black to white
# get the same answer, up to rounding. And the time MLP of the first level gets no gradient (6e-08 is rounding, too):
# it can never learn. The MLPs further down still condition the network on the time.*
#
# Does that matter? The noise that the network must predict has a brightness, too: the mean $\bar\epsilon$ of its $D$
# pixels. In Gaussian noise that mean is independent of the deviations from it, and only deviations get past the norm;
# so the best brightness that the blind network can answer is 0. Compared with a network that knows $\bar\epsilon$
# exactly, this costs a loss, per pixel, of
#
# $$\mathbb{E}\big[\bar\epsilon^{\,2}\big] = \frac{1}{D} \tag{6.10}$$
#
# For 28x28 images that is 0.0013. Nobody sees this in a loss curve. Now the same in sampling.

# %% tags=["nbval-check-output"]
noise = torch.randn(20_000, 1, 28, 28, generator=generator)
verify("6.10", samples=noise.mean((1, 2, 3)) ** 2, expected=1 / 784)

# %% [markdown]
# ### What it does to samples
#
# A step of the sampler (the mean in [(4.10)](04_bound_to_noise.ipynb), and [notebook 08](08_sampling.ipynb)) takes a
# share of the predicted noise $\hat\epsilon$ away, stretches what is left, and adds fresh noise $z$:
# $x_{t-1} = (x_t - \frac{\beta_t}{\sigma_t}\, \hat\epsilon) / \sqrt{\alpha_t} + \sqrt{\beta_t}\, z$; the last step, to
# $x_0$, adds none. Take the mean over all pixels on both sides. With a network whose answers have mean 0, the
# brightness $m_t$ of $x_t$ follows
#
# $$m_{t-1} = \frac{m_t}{\sqrt{\alpha_t}} + {\color{#D55E00}{\sqrt{\beta_t}\; \bar z}} \tag{6.11}$$
#
# Nothing pulls it back. Start with $m_T$ of variance $1/D$, as pure noise has. The random push of step $t$ (orange)
# has variance $\beta_t / D$, and all later steps stretch it by $1/\sqrt{\bar\alpha_{t-1}}$ in total (the product of
# their $1/\sqrt\alpha$). Variances of independent pushes add up, and the last step pushes no more:
#
# $$\mathrm{Var}[m_0] = \frac{1}{D}\Big(\frac{1}{\bar\alpha_T} + \sum_{t=2}^{T} \frac{\beta_t}{\bar\alpha_{t-1}}\Big) \tag{6.12}$$
#
# To check both, here is the best blind network for pictures of pure Gaussian pixels, as a formula: $\sigma_t$ times
# the centred image. (Their $x_t$ has variance 1, of which the noise makes $\sigma_t^2$. So $\sigma_t^2\, x_t$ is the
# best guess of $\sigma_t\, \epsilon$, as in section 9 of [notebook 04](04_bound_to_noise.ipynb); a blind network has
# the centred image alone.)

# %%
def blind_guess(x, t):
    return schedule.sigma[t] * (x - x.mean((1, 2, 3), keepdim=True))

x = torch.randn(1000, 1, 8, 8, generator=generator)  # 1,000 pictures of 64 pixels
for t in range(1000, 0, -1):
    x = ddpm_step(schedule, x, t, blind_guess(x, t), torch.randn(x.shape, generator=generator), clip=False)

# %% tags=["nbval-check-output"]
x_t, z = torch.randn(2, 6, 1, 8, 8, generator=generator) + 0.5
step = ddpm_step(schedule, x_t, 400, blind_guess(x_t, 400), z, clip=False)
brightness, push = x_t.mean((1, 2, 3)), z.mean((1, 2, 3))
verify("6.11", step.mean((1, 2, 3)), brightness / schedule.alpha[400].sqrt() + schedule.beta[400].sqrt() * push, tol=1e-5)

# %% tags=["nbval-check-output"]
a_bar, beta = schedule.alpha_bar.double(), schedule.beta.double()
stretched = 1 / a_bar[1000] + (beta[2:] / a_bar[1:1000]).sum()
verify("6.12", samples=x.mean((1, 2, 3)) ** 2, expected=stretched / 64)
for width in (28, 12):
    print(f"{width}x{width} pictures: standard deviation of the brightness {(stretched / width**2).sqrt():.1f}")

# %% [markdown]
# *Nearly 8, where black is -1 and white is 1: a loss that is 0.0013 too high, and samples far outside the range of
# images.*
#
# ### Seen in two networks
#
# Now with real networks. The brightness of 28x28 images is too small a part of the loss for our short training, so we
# shrink the digits to 12x12 pixels, where it is $1/144$. Both networks get the same start, images, steps and noise.

# %%
small = F.avg_pool2d(data.images[:, :, 2:26, 2:26].float(), 2).round().to(torch.uint8)  # (N, 1, 12, 12)
T = budget(gpu=1000, cpu=1000, quick=50, unit="steps of the schedule")
steps = budget(gpu=3000, cpu=1500, quick=10)
short, trained = linear_schedule(T), {}

# %%
for name in ("blind", "repaired"):
    torch.manual_seed(0)
    net = LayerNormUNet(T, size=12, input_norm=name == "blind")
    trainer = Trainer(net, short, small, TrainConfig(steps=steps))
    live = viz.LiveLoss(steps, label=f"{name}: squared error")
    for loss in trainer.run():
        live(loss)
    trained[name] = trainer.ema.cpu()
    print(f"{name}: mean loss of the last steps {trainer.losses[-200:].mean():.4f}")

# %% [markdown]
# *In a full run on a CPU the repaired network ends lower by about 0.01, a little more than the 1/144 of (6.10): the
# norm hides the image's spread and the first level's time as well. But a loss of 0.09 instead of 0.08 alarms nobody.*
#
# Now sample 16 images from each, all $T$ steps of the bare algorithm (`clip=False`: notebook 08 says what there is to
# clip), with the same noise for both, and keep the brightness at every step.

# %%
samples, brightness = {}, {}
for name, net in trained.items():
    noise = image_noise(seed=0, images=range(16), shape=(1, 12, 12))
    x = noise()
    path = [x.mean((1, 2, 3))]  # of step T, T - 1, ..., 0: (16,) each
    for step in ddpm_trajectory(net, short, x, noise, clip=False):
        path.append(step.x.mean((1, 2, 3)))
    samples[name], brightness[name] = step.x, torch.stack(path[::-1])  # (T+1, 16), step 0 first

# %%
variance = torch.full((T + 1,), 1 / 144)  # by (6.11), from T down
for t in range(T, 0, -1):
    variance[t - 1] = variance[t] / short.alpha[t] + short.beta[t] / 144 * (t > 1)
real = to_float(small).mean((1, 2, 3))  # brightness of each training image
expected = short.sqrt_alpha_bar * real.mean(), (short.alpha_bar * real.var() + short.sigma**2 / 144).sqrt()
panels = {"blind": (brightness["blind"], torch.zeros(T + 1), variance.sqrt())}
panels["repaired"] = (brightness["repaired"], *expected)
alt = "Brightness of 16 samples at each step, of the blind net and of the repaired one, over the expected band"
viz.plot_walks(panels, ylabel="brightness", alt=alt)
for name in samples:
    print(f"{name}: brightness of the samples {brightness[name][0].mean():.2f} +- {brightness[name][0].std():.2f}")
print(f"training images: {real.mean():.2f} +- {real.std():.2f}")

# %% [markdown]
# *Sampling runs from right to left: 16 samples (thin), the mean to expect (blue), and two standard deviations to
# either side (orange), on the left by (6.11). In a full run nothing holds the walks on the left, and they spread over
# the band. On the right, on the same scale, sixteen walks and their band are hidden under the blue line, and the
# samples end about as bright as the training images. (After the ten training steps of a quick run both networks
# walk.)*
#
# So the samples of the blind network must look terrible. Do they? Much code draws each picture from its own darkest
# pixel to its own brightest.

# %% tags=["figure-06_two_drawings"]
def stretch(x):
    low, high = x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True)
    return 2 * (x - low) / (high - low) - 1  # each picture fills [-1, 1] by itself

rows = {
    "blind, rescaled": stretch(samples["blind"][:12]),
    "blind": samples["blind"][:12],
    "repaired": samples["repaired"][:12],
}
alt = "Samples of the blind net, rescaled one by one and as they are, and samples of the repaired net"
viz.image_rows(rows, alt=alt)

# %% [markdown]
# *In a full run on a CPU: the second row is what the sampler returned, drawn on the scale of the data. Each picture is
# black or white all over (of a white one you see the frame). The first row holds the same numbers, each picture
# rescaled by itself, and about half of them could pass for digits: the strokes were right, relative to each other.
# `viz` in this course clips and never rescales; [notebook 13](13_debugging_clinic.ipynb) has this bug among its
# cases.*
#
# Norms deeper in the network forget as well, but features have many channels, and shortcuts go around the norms. One
# channel and no shortcut, that is the case to avoid.
#
# ## What to remember, and what broke
#
# - Levels buy sight. Norms and shortcuts make them trainable, skips bring back where things are.
# - Parameters are where the channels are. Work is spread evenly, as long as channels double where sides halve.
# - A norm forgets mean and spread of what it gets. Never put one over the input image of a diffusion model.
# - Look at samples on the scale of the data. A picture that is rescaled by itself can hide anything that is the same
#   at all pixels.
#
# **What broke:** time. Each network here was trained for a minute or two at most, on one machine, in a loop that
# forgets everything when it stops, and the digits are poor. A good model takes several times as many images. How is it
# trained well, fast, and so that nothing is lost when the machine stops half-way? That is [notebook
# 07](07_train_ddpm.ipynb).
#
# ### Experiments to try
#
# - Train `UNet(base=16)` with its finest skip cut from the first step on (`cut` is a hook for that). It finds other
#   ways: guess its loss first.
# - Give `wake(UNet())` the task of the four noises, with three seeds. Does its loss start far above 1? Does it fall
#   faster?
# - Shuffle the pixels of `qkv`, the same way in all channels, and compare the answers of `attention`. What does
#   attention know about where a pixel is?
# - Sample from the blind network with `clip=True`, the default of `ddpm_trajectory`: at each step it clips the
#   predicted clean image to [-1, 1]. How much of the walk does clipping catch, and what do the samples look like?
# - `UNet(attention=3)`: what does it cost by (6.8), and what in seconds?
