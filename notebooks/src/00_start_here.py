# %% [markdown]
# # Start here
#
# ![Thirty-two drawings in four rows, white on black; about half can be read as digits](../figures/00_one_page.png)
#
# *Nobody wrote these. Fewer than ninety lines of code made them from noise, after a few minutes of training. How many
# can you read? All of the code stands in the second half of this notebook.*
#
# **You will** draw a digit from noise, solve a first exercise that marks itself, and train a whole diffusion model
# that fits on one page. **You need** a little Python and the idea of an average. **Time** 20 minutes of reading; the
# cells ran in 8 minutes on one slow CPU core; no GPU is needed.

# %% tags=["setup"]
REPO = ""  # owner/name on GitHub; `make badges REPO=owner/name` fills it in
try:
    import ddpm_helpers
except ImportError:
    assert REPO, "The helper module is missing: start this notebook with `make lab`, or see Colab in the README."
    get_ipython().run_line_magic("pip", f"install -q git+https://github.com/{REPO}")

import torch

from ddpm_helpers import check, environment_report, load_pretrained, sample, to_uint8
from ddpm_helpers import verify, viz

# %% [markdown]
# Click the cell above, press Shift-Enter, and go on like this from top to bottom. Here is what the course is about:

# %%
network, schedule, recipe = load_pretrained("mnist")
viz.image_grid(sample(network, schedule, 1, steps=50, seed=2), alt="One digit, white on black")

# %% [markdown]
# *A network that comes with the course made this from noise. Give `seed` another number and run the cell again. At the
# end of this notebook your own network draws.*
#
# ## Guess, write, check
#
# While a cell works, a star stands beside it. If you change a cell, run those below it again: they share their
# variables. Every notebook runs alone, without an internet connection, so you can start anywhere. A term is in bold
# where it is explained; [notebook 99](99_glossary.ipynb) lists them all.
#
# **Guess.** Where the text says so, guess before you run: a prediction that failed is remembered.
#
# **Write.** An exercise is a function with `...` where your lines go. Here is one. On disk an image is uint8: integers
# $u$ from 0 (black) to 255 (white). Inside a diffusion model it is a float $x$ between -1 and 1, a range like that of
# the noise that will be added:
#
# $$x = \frac{2u}{255} - 1 \tag{0.1}$$
#
# ### Exercise 0.1 - `to_float`
#
# Turn uint8 images of any shape into 32-bit floats by (0.1), in one line. (`images` is a **tensor**, PyTorch's array:
# arithmetic, slices and methods like `.mean()` work as in NumPy.) Run the cell as it stands first: the notebook goes
# on with the course's own version, so you may skip an exercise.

# %% tags=["exercise", "nbval-check-output"]
def to_float(images):
    ...  # one line


to_float = check(to_float)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `images.float()` makes floats of the integers. Do that before you multiply.
#
# </details>
#
# **Check.** Before you leave, give a wrong answer on purpose: `return images * 2 / 255 - 1`, without `.float()`.
# `check` names the mistakes that people often make; for anything else it shows the call that failed and how far off
# you were. If you are stuck, `from ddpm_helpers import show_solution` and `show_solution("to_float")`, in a new cell,
# print the course's version. If a check does not come back, a loop in your answer has no end: the square above the
# notebook stops the cell (in Colab, the one at its left).
#
# The course checks itself, too. A cell near each numbered equation computes both sides, or something that must follow
# from it, prints how far apart they are (relative to the largest value on the right; where draws are averaged, in
# standard errors, which [notebook 02](02_forward_process.ipynb) explains), and stops if that is too far. Here is (0.1)
# for 0, 102 and 255, with the right-hand side worked out by hand.

# %% tags=["nbval-check-output"]
verify("0.1", to_float(torch.tensor([0, 102, 255], dtype=torch.uint8)), torch.tensor([-1.0, -0.2, 1.0]))

# %% [markdown]
# To look at a picture that a model made, we need the reverse. A model is free to answer 1.3 or -2, so the reverse
# rounds, and *clips* what lies outside of the range:
#
# $$u = \mathrm{clip}\left(\mathrm{round}\left(\tfrac{255}{2}\,(x + 1)\right),\ 0,\ 255\right) \tag{0.2}$$
#
# For every one of the 256 greys, there and back must change nothing.

# %% tags=["nbval-check-output"]
greys = torch.arange(256, dtype=torch.uint8)
verify("0.2", to_uint8(to_float(greys)), greys, tol=0)
print(to_uint8(torch.tensor([-2.0, 1.3])))

# %% [markdown]
# *The second line shows the clipping. On many machines a plain cast wraps around instead, and a pixel a little darker
# than black becomes a white dot in a black corner.*
#
# ## Your machine, and help
#
# `docs/HELP.md` in the course's folder has the usual cures. With any other question, send this report. (Its last three
# lines are settings: where your images are, how long to train, and whether a wrong answer stops the notebook.)

# %%
print(environment_report())

# %% [markdown]
# ## A whole diffusion model on one page
#
# What follows is complete, and runs by itself if you copy its cells into a file. The helper module gives the pictures
# (`load_images`) and says how long to train (`budget`); the rest is PyTorch. Take every line on trust today: above
# each cell stands the notebook that explains it.

# %%
import torch
import torch.nn.functional as F
from IPython.display import display
from torch import nn
from torchvision.transforms.functional import to_pil_image
from torchvision.utils import make_grid

from ddpm_helpers import budget, load_images

# %% [markdown]
# **Pictures.** MNIST (LeCun et al. 1998): handwritten digits of 28 x 28 grey pixels. `load_images` takes them from the
# folder that the variable `DDPM_DATA` names, or from `data` beside this notebook, or downloads them; without a
# connection it draws digits of its own. The last line says which. (Captions describe MNIST.) [Notebook
# 01](01_corrupt_and_predict.ipynb) damages such pictures, and repairs them.

# %%
data = load_images("mnist")
device = "cuda" if torch.cuda.is_available() else "cpu"
images = data.images.to(device)  # (N, 1, 28, 28) uint8
print(data.source)

# %% [markdown]
# **How much noise.** In $T$ small steps a picture becomes noise. After step $t$ it is `signal[t]` times the picture
# plus `sigma[t]` times noise. [Notebook 02](02_forward_process.ipynb) explains these tables, along a cosine (Nichol &
# Dhariwal 2021).

# %%
T = 250
f = torch.cos((torch.arange(T + 1).double() / T + 0.008) / 1.008 * torch.pi / 2) ** 2
alpha = F.pad((f[1:] / f[:-1]).clamp(min=0.001), (1, 0), value=1)  # (T+1,); alpha[0] = 1
alpha_bar = alpha.cumprod(0)
tables = 1 - alpha, alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
beta, signal, sigma = (table.float().to(device) for table in tables)  # (T+1,) each

# %% [markdown]
# **What is learned.** Mix picture and noise at a random step; the network sees the mixture and the step, and must name
# the noise. Its squared error is the loss. Notebooks [03](03_likelihood_bound.ipynb) and [04](04_bound_to_noise.ipynb)
# derive it from the wish to make the data likely.

# %%
def loss_of(net, x0, t, noise):
    x_t = signal[t].reshape(-1, 1, 1, 1) * x0 + sigma[t].reshape(-1, 1, 1, 1) * noise
    return F.mse_loss(net(x_t, t), noise)

# %% [markdown]
# **The step, as waves.** The network gets the number of the step as 64 waves, from fast to slow. [Notebook
# 05](05_time_conditioning.ipynb) says why, and what it is worth.

# %%
def waves(t):
    angle = t[:, None] * 10_000 ** (-torch.arange(32, device=t.device) / 32)
    return torch.cat([angle.sin(), angle.cos()], dim=1)  # (B, 64)

# %% [markdown]
# **The network**, a small U-Net. Its block: two convolutions beside a shortcut, between them a scale and a shift for
# each channel that depend on the step. [Notebook 06](06_unet.ipynb) puts it together part by part.

# %%
def norm_conv(c_in, c_out):
    conv = nn.Conv2d(c_in, c_out, 3, padding=1)
    return nn.Sequential(nn.GroupNorm(8, c_in), nn.SiLU(), conv)

class Block(nn.Module):
    def __init__(self, c_in, c_out):
        super().__init__()
        self.first = norm_conv(c_in, c_out)
        self.norm, self.film = nn.GroupNorm(8, c_out, affine=False), nn.Linear(128, 2 * c_out)
        self.last = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.shortcut = nn.Conv2d(c_in, c_out, 1)
        nn.init.zeros_(self.last.weight)

    def forward(self, x, time):
        scale, shift = self.film(time)[:, :, None, None].chunk(2, dim=1)
        h = self.norm(self.first(x)) * (1 + scale) + shift
        return self.shortcut(x) + self.last(F.silu(h))

# %% [markdown]
# The whole: patches of 2 x 2 pixels become channels, so the picture is 14 x 14; one block looks at that, three at its
# 7 x 7 half, and the last joins both (still [notebook 06](06_unet.ipynb)).

# %%
class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.time = nn.Sequential(nn.Linear(64, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU())
        self.first = nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(4, 32, 3, padding=1))
        self.down, self.up = Block(32, 32), Block(96, 32)
        self.low = nn.ModuleList([Block(32, 64), Block(64, 64), Block(64, 64)])
        self.out = nn.Sequential(norm_conv(32, 4), nn.PixelShuffle(2))

    def forward(self, x, t):
        time = self.time(waves(t))
        fine = self.down(self.first(x), time)  # (B, 32, 14, 14)
        low = F.avg_pool2d(fine, 2)  # (B, 32, 7, 7)
        for block in self.low:
            low = block(low, time)  # (B, 64, 7, 7)
        return self.out(self.up(torch.cat([fine, F.interpolate(low, scale_factor=2)], 1), time))

# %% [markdown]
# **Training**, Algorithm 1 of Ho et al. (2020). The learning rate rises to 0.002, stays, and falls in the last
# quarter. [Notebook 07](07_train_ddpm.ipynb) builds this loop, and measures its parts.

# %%
torch.manual_seed(0)
net = UNet().to(device)
steps = budget(gpu=5000, cpu=1600, quick=20)
optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
rate = torch.optim.lr_scheduler.LambdaLR(
    optimizer, lambda i: min((i + 1) / 100, 1, 4 * (steps - i) / steps)
)
losses = []

# %% [markdown]
# Draw pictures, a step for each, and noise; go downhill. (Dividing first is (0.1) without the mistake that you made on
# purpose.) Every step comes equally often; [notebook 16](16_targets_and_weights.ipynb) asks which ones deserve it.
# Guess before you run: a network that always answers 0 has a loss of 1. Where will this one end?

# %%
for _ in range(steps):
    x0 = images[torch.randint(len(images), (64,), device=device)] / 127.5 - 1  # in [-1, 1]
    t = torch.randint(1, T + 1, (64,), device=device)  # 1 ... T
    loss = loss_of(net, x0, t, torch.randn_like(x0))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    rate.step()
    losses.append(loss.item())
    if len(losses) % 200 == 0:
        print(f"{len(losses):5,} steps, loss {sum(losses[-200:]) / 200:.3f}")

# %% [markdown]
# **One step back.** From $x_t$ and the network's guess of the noise: what picture would that mean, and where was it
# one step earlier? Then a little fresh noise. [Notebook 04](04_bound_to_noise.ipynb) derives this.

# %%
def step(x, t, eps, noise):
    x0 = ((x - sigma[t] * eps) / signal[t]).clamp(-1, 1)
    mean = signal[t - 1] * beta[t] * x0 + (1 - beta[t]).sqrt() * sigma[t - 1] ** 2 * x
    return mean / sigma[t] ** 2 + (t > 1) * beta[t].sqrt() * noise  # x_{t-1}

# %% [markdown]
# **Sampling**, Algorithm 2: noise, and then $T$ steps back. [Notebook 08](08_sampling.ipynb) takes it apart.

# %%
@torch.no_grad()
def draw(net, count):
    x = torch.randn(count, 1, 28, 28, device=device)
    for t in range(T, 0, -1):
        eps = net(x, torch.full((count,), t, device=device))
        x = step(x, t, eps, torch.randn_like(x))
    return x

# %% tags=["figure-00_one_page"]
torch.manual_seed(0)
digits = draw(net, 32)
grid = make_grid(F.interpolate(digits, scale_factor=3), normalize=True, value_range=(-1, 1))
picture = to_pil_image(grid)  # in a file: picture.save("digits.png")
display(picture, metadata={"image/png": {"alt": "32 digits in four rows, white on black"}})

# %% [markdown]
# *Read them as a stranger would: which digit is each? Here about half can be read; the others are frayed, or stand
# between two digits. (Under the quick budget there is only grain.)*
#
# ## What to remember, and what broke
#
# - `check` marks an exercise, and the notebook goes on in any case; `verify` computes both sides of an equation, and
#   stops if they differ.
# - An image is uint8 on disk and a float in [-1, 1] inside a model.
# - A diffusion model is a table of noise, a network that names the noise in a picture, a loop that trains it, and a
#   loop that takes the noise away in small steps.
#
# **What broke:** some digits, and everything was taken on trust. Why this noise? Why should naming noise teach a
# network to draw? Is that the right step back? The course now starts again with nothing, and repairs one failure at a
# time. [Notebook 01](01_corrupt_and_predict.ipynb) tries the simplest recipe that could work.
#
# ### Experiments to try
#
# - Give the last cell a network that is not trained, `draw(UNet().to(device), 32)`. Then leave `.clamp(-1, 1)` out
#   of `step`, and draw with the trained one. Guess first, both times.
# - Train on `load_images("fashion")`. Which two kinds of clothing would you confuse at 28 x 28 pixels?
# - Let the later of two draws be the step, `torch.randint(1, T + 1, (2, 64), device=device).amax(0)`, and train
#   again. Very noisy pictures come more often then. Can you see a difference?
