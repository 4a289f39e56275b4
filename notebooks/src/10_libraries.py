# %% [markdown]
# # Libraries, and a ladder
#
# ![Nine dots, one for each design: the distance of its samples from real digits](../figures/10_ladder.png)
#
# *Nine designs that tutorials and libraries teach, trained on the same digits by the same trainer for the same time.
# Further left is better, and the axis is logarithmic. Parameters and speed stand beside each dot: do they explain the
# order?*
#
# **You will** find out that this course and the libraries compute the same numbers, train their networks in our
# trainer, and read a comparison of nine designs without being fooled by it. **You need** the samplers of [notebook
# 08](08_sampling.ipynb) and, for the last part, the Frechet distance of [notebook 09](09_evaluation.ipynb). **Time** 40
# minutes of reading; the cells run in about a minute on 2 CPU cores.

# %% tags=["setup"]
REPO = ""  # owner/name on GitHub; `make badges REPO=owner/name` fills it in
try:
    import ddpm_helpers
except ImportError:
    assert REPO, "The helper module is missing: start this notebook with `make lab`, or see Colab in the README."
    get_ipython().run_line_magic("pip", f"install -q git+https://github.com/{REPO}")

from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F

from ddpm_helpers import TrainConfig, Trainer, budget, check, cosine_schedule, count_parameters
from ddpm_helpers import ddim_step, ddim_steps, ddim_trajectory, ddpm_loss, ddpm_step
from ddpm_helpers import default_device, files, image_noise, linear_schedule, load_images
from ddpm_helpers import load_pretrained, predict_x0, q_sample, sample, snr, to_float, verify, viz
from ddpm_helpers.lessons import show
from ddpm_helpers.lessons.ladder import ladder_samples, ladder_table, load_ladder
from ddpm_helpers.lessons.ladder import naive_objective
from ddpm_helpers.lessons.libraries import DeepinvUNet, colour_unet2d, find_library, grey_unet2d

device = default_device()
generator = torch.Generator().manual_seed(0)

# %% [markdown]
# Two libraries are compared with this course: **diffusers** (networks and samplers for diffusion models) and
# **deepinv** (inverse problems such as deblurring, which uses diffusion models as its knowledge of images). Both are
# optional. Where one is missing, the next cell says how to get it, and the cells that need it do nothing.

# %%
diffusers, deepinv = find_library("diffusers"), find_library("deepinv")
for library in (diffusers, deepinv):
    if library:
        print(library.__name__, library.__version__)

# %% [markdown]
# ## The same thing under other names
#
# | | this course | diffusers |
# |---|---|---|
# | steps | `t` = 1 ... T; 0 is the clean image | `timestep` = `t - 1` = 0 ... T - 1; the clean image has no number |
# | share of signal | `schedule.alpha_bar[t]` | `scheduler.alphas_cumprod[t - 1]` |
# | closed form | `q_sample(schedule, x0, t, noise)` | `scheduler.add_noise(x0, noise, t - 1)` |
# | one step of Algorithm 2 | `ddpm_step(schedule, x_t, t, eps, noise)` | `DDPMScheduler.step(eps, t - 1, x_t).prev_sample` |
# | its variance | `"beta"` (our default), `"posterior"` | `"fixed_large"`, `"fixed_small"` (their default) |
# | clipped guess | `clip=True` | `clip_sample=True` |
# | one step of DDIM | `ddim_step(schedule, x_t, t, s, eps)` | `DDIMScheduler.step(eps, t - 1, x_t).prev_sample`; its $s$ is always `T // n` lower, $n$ from `set_timesteps(n)` |
# | after a clipped guess | the noise is made to fit it | `use_clipped_model_output=True` (not their default) |
# | which steps | `ddim_steps(T, n)`, from T down | `timestep_spacing="trailing"`, if n divides T (the default of these two is `"leading"`) |
# | cosine schedule | `cosine_schedule(T)` | `beta_schedule="squaredcos_cap_v2"` |
# | a network's answer | `net(x, t)` | `net(x, t - 1).sample` |
#
# What they call a **scheduler** is our schedule and our sampler in one object. The one trap is the first row. Write $a$
# for their table `alphas_cumprod`, counted from 0:
#
# $$a_{t-1} = \bar\alpha_t, \qquad t = 1, \dots, T \tag{10.1}$$

# %% tags=["nbval-check-output"]
schedules = {"linear": linear_schedule(), "cosine": cosine_schedule()}
names = {"linear": "linear", "cosine": "squaredcos_cap_v2"}
if diffusers:
    for name, ours in schedules.items():
        theirs = diffusers.DDPMScheduler(beta_schedule=names[name])
        verify("10.1", theirs.alphas_cumprod, ours.alpha_bar[1:], tol=1e-6)

# %% [markdown]
# Next the closed form [(2.13)](02_forward_process.ipynb), for all thousand steps.

# %% tags=["nbval-check-output"]
x0, noise = torch.randn(2, 1000, 1, 2, 3, generator=generator)
x0, every_t = x0.clamp(-1, 1), torch.arange(1, 1001)
if diffusers:
    for name, ours in schedules.items():
        theirs = diffusers.DDPMScheduler(beta_schedule=names[name])
        apart = q_sample(ours, x0, every_t, noise) - theirs.add_noise(x0, noise, every_t - 1)
        print(f"{name}: equal to 1e-5 at every t: {bool(apart.abs().max() < 1e-5)}")

# %% [markdown]
# And the step down, for each $t$, with a guess of the noise that is a little wrong, as that of a network is. Their step
# draws its noise inside; we repeat the draw with the same seed.

# %%
def step_apart(ours, theirs, t):
    """How far their step from t lands from ours, as a share of the largest value."""
    x_t, eps = q_sample(ours, x0[:5], torch.full((5,), t), noise[:5]), noise[:5] + 0.1 * noise[5:10]
    their_x = theirs.step(eps, t - 1, x_t, generator=torch.Generator().manual_seed(t)).prev_sample
    fresh = torch.randn(x_t.shape, generator=torch.Generator().manual_seed(t))
    our_x = ddpm_step(ours, x_t, t, eps, fresh, variance="posterior")
    return ((our_x - their_x).abs().max() / their_x.abs().max()).item()

# %% [markdown]
# Guess before you run: where is the agreement worst, at small $t$, where almost nothing happens, or at large $t$, where
# $\sqrt{\bar\alpha_t}$ is tiny and we divide by it?

# %%
curves, edges = {}, torch.logspace(0, 3, 31).long().unique()  # stretches of t that grow
for name, ours in schedules.items() if diffusers else ():
    theirs = diffusers.DDPMScheduler(beta_schedule=names[name])
    for digits in ("as it ships", "its table in 64 bits"):
        if digits != "as it ships":
            theirs.alphas_cumprod = (1 - theirs.betas.double()).cumprod(0)
        apart = torch.tensor([step_apart(ours, theirs, t) for t in range(1, 1001)])
        worst = torch.stack([apart[a - 1 : b].max() for a, b in pairwise(edges.tolist())])
        curves[f"{name}, {digits}"] = edges[:-1], worst.clamp(min=1e-8)
        print(f"{name}, {digits}: at most {apart.max():.0e}; above 1e-5 at {int((apart > 1e-5).sum())} steps of 1000")
if diffusers:
    alt = "Difference of their step and ours over t, with two precisions"
    viz.plot_curves(curves, log="xy", ylabel="relative difference", alt=alt)

# %% [markdown]
# *Each point is the worst of a stretch of steps; exact agreement would be drawn at 1e-8. At most steps the two agree to
# six or seven digits, about all that 32 bits hold. In the first ten (linear) or twenty (cosine) they agree to four or
# five only.*
#
# *It is no error in a formula but a loss of digits. Near $t = 1$ the table $\bar\alpha_t$ is almost 1. Stored in 32
# bits it is rounded to steps of 6e-8, and $1 - \bar\alpha_t$, which begins at 1e-4 (linear), inherits that as an error
# in its fourth digit. With their table recomputed in 64 bits the gap closes. This is why our schedule computes every
# table in 64 bits and stores* $\sqrt{1 - \bar\alpha_t}$ *in a table of its own.*

# %% tags=["nbval-check-output"]
if diffusers:
    theirs = diffusers.DDPMScheduler()
    print(f"1 - alpha_bar_1 is {schedules['linear'].beta[1]:.6e}; from their table it is {1 - theirs.alphas_cumprod[0]:.6e}")

# %% [markdown]
# You would not see this in a picture. But if two implementations differ by 1e-4 at $t = 3$ only, you now know where to
# look.
#
# ### DDIM, and which steps it takes
#
# With 50 steps, each step of DDIM, ours and theirs:

# %% tags=["nbval-check-output"]
for name, ours in schedules.items() if diffusers else ():
    theirs = diffusers.DDIMScheduler(beta_schedule=names[name], timestep_spacing="trailing")
    theirs.set_timesteps(50)
    worst = 0.0
    for t, s in pairwise([*ddim_steps(1000, 50), 0]):
        x_t, eps = q_sample(ours, x0[:5], torch.full((5,), t), noise[:5]), noise[:5] + 0.1 * noise[5:10]
        their_x = theirs.step(eps, t - 1, x_t, use_clipped_model_output=True).prev_sample
        worst = max(worst, ((ddim_step(ours, x_t, t, s, eps) - their_x).abs().max() / their_x.abs().max()).item())
    same = [t - 1 for t in ddim_steps(1000, 50)] == theirs.timesteps.tolist()
    print(f"{name}: same steps: {same}; agreement to 1e-5 at each: {worst < 1e-5}")

# %% [markdown]
# So the steps agree. The *choice* of steps is another matter. `"trailing"` is ours where $n$ divides $T$: from $T$
# down. Unless told otherwise, their `DDPMScheduler` and `DDIMScheduler` count from the other end: `"leading"` takes the
# $n$ timesteps $0, k, 2k, \dots, (n - 1)\, k$ with $k = \lfloor T / n \rfloor$, the largest first.
#
# ### Exercise 10.1 - `leading_steps`
#
# Return those steps in *our* counting, as a list of integers, largest first. For `T = 1000` and `steps = 5`, which are
# they? `T // steps` is $k$.

# %% tags=["exercise", "nbval-check-output"]
def leading_steps(T, steps):
    chosen = ...  # a list of integers
    return chosen


leading_steps = check(leading_steps)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Their timesteps are `k * i` for `i` from `steps - 1` down to 0. Which number is added to turn a timestep into a step?
#
# </details>
#
# Now a whole run in ten steps: our network, once in our loop and once in theirs, from the same starts.

# %%
model, schedule, recipe = load_pretrained("mnist", device)
begin = image_noise(0, range(12), (1, 28, 28), device)()

def their_loop(**options):
    theirs, x = diffusers.DDIMScheduler(beta_schedule="squaredcos_cap_v2"), begin
    theirs.set_timesteps(10)
    for timestep in theirs.timesteps.tolist():
        with torch.no_grad():
            eps = model(x, torch.full((12,), timestep + 1, device=device))
        x = theirs.step(eps, timestep, x, **options).prev_sample
    return x

# %%
*_, trailing = ddim_trajectory(model, schedule, begin, 10)
*_, leading = ddim_trajectory(model, schedule, begin, leading_steps(1000, 10))
rows = {"trailing": trailing.x, "leading": leading.x}
if diffusers:
    rows["their loop"] = their_loop(use_clipped_model_output=True)
    rows["their defaults"] = their_loop()
    for name in ("their loop", "their defaults"):
        print(f"{name}: largest difference from leading {(rows[name] - leading.x).abs().max():.0e}")
print("our steps, trailing:", ddim_steps(1000, 10), "\nour steps, leading: ", leading_steps(1000, 10))
alt = "Twelve starts sampled in ten steps by our loop and by diffusers', with two choices of steps"
viz.image_rows(rows, alt=alt)

# %% [markdown]
# *Rows two and three are the same run in two loops, ours and theirs. Rows one and two have the same starts and the same
# network, and some columns show another digit. Leading tells the network that pure noise is an image at $t = 901$, a
# small lie, and in return puts its last question at $t = 1$. The last row is what diffusers does unless told otherwise:
# where a guess was clipped it keeps the noise that no longer fits it, a difference that can hardly be seen. Nothing
# here is wrong. But the same weights give different images in two libraries, and now you can say why.*
#
# ## Their network, our trainer
#
# `UNet2DModel` is diffusers' U-Net. It counts from 0, and it answers with an object whose attribute `sample` is the
# tensor.
#
# ### Exercise 10.2 - `ask_diffusers`
#
# `net` is such a network, `x` has shape (B, C, H, W), and `t` has shape (B,) and counts as in this course. Return its
# prediction, shape (B, C, H, W).

# %% tags=["exercise", "nbval-check-output"]
def ask_diffusers(net, x, t):
    ...  # one line


ask_diffusers = check(ask_diffusers)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Our first step is $t = 1$; theirs is 0. Each image of the batch has a step of its own.
#
# </details>
#
# This line is the whole adapter, `DiffusersUNet`: its `forward(x, t)` calls it.
#
# ### What the minus one is worth
#
# Suppose that you forget it. Nothing stops: the network is conditioned on $t + 1$ instead of $t$. We measure the damage
# on two networks of the course, both trained with the right $t$: that of [notebook 12](12_guidance.ipynb), asked
# without a label, which saw all steps equally often, and the one from above, whose weighted timestep sampling
# ([(16.4)](16_targets_and_weights.ipynb)) hardly ever drew the first ones. Guess before you run: at which $t$ does it
# matter?

# %%
test = load_images("mnist", train=False)
print(test.source)
images = to_float(test.images[:100]).to(device)
eps = torch.randn(images.shape, generator=generator).to(device)

def loss_at(net, t, condition):
    x_t = q_sample(schedule, images, torch.full((100,), t, device=device), eps)
    with torch.no_grad():
        return F.mse_loss(net(x_t, torch.full((100,), condition, device=device)), eps).item()

# %%
labelled = load_pretrained("mnist_labels", device).model
unasked = lambda x, t: labelled(x, t, torch.full_like(t, labelled.classes))  # noqa: E731
networks = {"uniform steps": unasked, "weighted steps": model}
for t in (1, 2, 3, 5, 10, 30, 100, 300, 900):
    for name, net in networks.items():
        right, wrong = loss_at(net, t, t), loss_at(net, t, t + 1)
        times = wrong / right
        print(f"t = {t:3}, {name:14}: loss {right:.4f}, with t + 1 {times:.3f} times that")

# %% [markdown]
# *From $t = 100$ on the factor is 1.000: no loss curve will ever show you the mistake. At the first few steps the noise
# level changes by a large share from one step to the next, and there the loss of the first network grows, by a tenth at
# most. The second is so much worse there that a wrong step makes no difference. An error that you cannot see in the
# loss is best kept out by a test. Ours gives `ask_diffusers` a network that notes each timestep it gets.*
#
# The other direction is worse. $t - 1$ for the clean image, $t = 0$, is timestep -1, and in Python the index -1 is the
# *last* entry:

# %% tags=["nbval-check-output"]
if diffusers:
    theirs = diffusers.DDPMScheduler()
    before_first = theirs.add_noise(x0[:5], noise[:5], torch.full((5,), -1))
    last = theirs.add_noise(x0[:5], noise[:5], torch.full((5,), 999))
    print("timestep -1 is pure noise, not the clean image:", torch.equal(before_first, last))

# %% [markdown]
# ## Another library, another convention
#
# `DiffUNet` of deepinv is the network of a larger world: 256x256 faces, six levels. It has three habits of its own.
#
# - It takes a timestep only if asked: `net(x, t - 1, type_t="timestep")` predicts noise. Without `type_t` the second
#   argument is a **noise level**, and the answer a clean image.
# - Height and width must divide by 32. If they do not, it pads them *circularly*: what leaves at the right comes in at
#   the left. For digits we pad to 32x32 with black ourselves, and cut the border off afterwards.
# - For colour it answers with six channels, three of them variances (as in Nichol & Dhariwal 2021). Our adapter,
#   `DeepinvUNet`, drops those.
#
# A training keeps five numbers for each weight (the weight, its gradient, two running means of AdamW, our average), so
# to stay within a laptop's memory we let only its last two blocks learn.

# %%
data = load_images("mnist")
print(data.source)
grey32 = F.pad(data.images[:2000], [2] * 4)  # (2000, 1, 32, 32)

# %%
steps = budget(gpu=100, cpu=4, quick=2)
if deepinv:
    torch.manual_seed(0)
    net = DeepinvUNet(channels=1)
    print(f"{count_parameters(net):,} parameters; training all would hold {20 * count_parameters(net) / 1e9:.1f} GB")
    net.requires_grad_(False)
    torch.nn.ModuleList([net.net.output_blocks[-2:], net.net.out]).requires_grad_(True)
    print(f"{count_parameters(net):,} of them learn here")
    trainer = Trainer(net, linear_schedule(), grey32, TrainConfig(steps, 8, 1e-4, warmup=2), device)
    print("losses:", [round(loss.item(), 3) for loss in trainer.run()])

# %% [markdown]
# ### A noise level is a step in disguise
#
# Asked with a noise level, the network expects $y = \text{image} + \text{level} \cdot \epsilon$ with images in [0, 1].
# Ours are in [-1, 1], twice as wide, and shrunk by $\sqrt{\bar\alpha_t}$. Undo both, and a step $t$ becomes a noise
# level, half the noise per signal $\rho_t$ of [(8.9)](08_sampling.ipynb):
#
# $$y = \frac{1}{2} \Big( \frac{x_t}{\sqrt{\bar\alpha_t}} + 1 \Big), \qquad \text{level} = \frac{\sigma_t}{2 \sqrt{\bar\alpha_t}} \tag{10.2}$$
#
# Its answer must then be our guess $\hat x_0$, clipped and brought to [0, 1]. Left, their formula; right, ours.

# %% tags=["nbval-check-output"]
t, linear = 50, linear_schedule().to(device)
signal, sigma = linear.sqrt_alpha_bar[t], linear.sigma[t]
x_t = signal * to_float(grey32[:2]).to(device) + sigma * torch.randn(2, 1, 32, 32, generator=generator).to(device)
if deepinv:
    with torch.no_grad():
        denoised = trainer.ema.net((x_t / signal + 1) / 2, (sigma / (2 * signal)).item(), type_t="noise_level")
        steps_t = torch.full((2,), t, device=device)
        guess = predict_x0(linear, x_t, steps_t, trainer.ema(x_t, steps_t)).clamp(-1, 1)
    verify("10.2", denoised, (guess + 1) / 2, tol=1e-4)

# %% [markdown]
# ### Saved, loaded, sampled again
#
# A **checkpoint**, a file of `Trainer.save`, holds all that is needed to go on training. To *use* a network its weights
# are enough, in half precision. We round them before we sample, so that the file holds exactly what was used; then we
# load the file into a network made from nothing.

# %%
import tempfile

def four_steps(net):
    return sample(net, linear, 2, (1, 32, 32), steps=4)

folder = tempfile.TemporaryDirectory()
file = Path(folder.name) / "diffunet.safetensors"
if deepinv:
    trained = trainer.ema.half().float()
    del trainer, net  # large, and no longer needed
    before = four_steps(trained)
    weights = trained.half().state_dict()
    files.write(file, "weights", {"net": "DiffUNet", "channels": 1, "weights": weights})
    print(f"{file.stat().st_size / 1e6:.0f} MB")
    del trained, weights

# %% tags=["nbval-check-output"]
if deepinv:
    found = files.read(file, "weights")
    loaded = DeepinvUNet(found["channels"]).eval()
    loaded.load_state_dict(found["weights"])
    print("the same samples, to the bit:", torch.equal(four_steps(loaded.to(device)), before))
    del loaded, found
folder.cleanup()

# %% [markdown]
# ## Two trainings of one network
#
# Back to diffusers, with the classic small settings of `UNet2DModel`. We train it twice for a few steps: to predict the
# clean image, as in [notebook 01](01_corrupt_and_predict.ipynb), and to predict noise. Our `Trainer` takes the loss as
# its argument `objective`.

# %%
def few_steps(make_net, schedule, images, steps, batch_size, objective=ddpm_loss):
    torch.manual_seed(0)
    config = TrainConfig(steps, batch_size, learning_rate=1e-3, warmup=2)
    trainer = Trainer(make_net(), schedule, images, config, device, objective)
    losses = [loss.item() for loss in trainer.run()]
    print(f"{count_parameters(trainer.model):,} parameters, ", end="")
    print(f"loss of the first step {losses[0]:.3f}, of the last {losses[-1]:.3f}")
    return trainer.ema

# %%
steps = budget(gpu=300, cpu=8, quick=2)
if diffusers:
    for name, objective in {"clean image": naive_objective, "noise": ddpm_loss}.items():
        print(f"predicting the {name}: ", end="")
        few_steps(grey_unet2d, linear_schedule(), data.images, steps, 16, objective)

# %% [markdown]
# *One network, two targets, two losses, which cannot be compared: they differ in range and unit. The finished trainings
# are two rows of the ladder below.*
#
# ### Colour
#
# The same class for 32x32 images in colour: digits in a random ink on a random paper. The cosine schedule ends in noise
# for any $T$, so 50 steps will do here.

# %%
ink, paper = torch.rand(2, 2000, 3, 1, 1, generator=generator)
painted = (255 * paper + (ink - paper) * grey32).to(torch.uint8)  # (2000, 3, 32, 32)
viz.image_grid(painted[:12], columns=12, alt="Twelve digits, each in one random colour on another")

# %% [markdown]
# *Twelve of the 2,000 training images.*

# %%
steps, short = budget(gpu=300, cpu=6, quick=2), cosine_schedule(50)
if diffusers:
    colour = few_steps(colour_unet2d, short, painted, steps, 8)
    for name, count in {"Algorithm 2": None, "DDIM, 10 steps": 10}.items():
        x = sample(colour, short.to(device), 2, (3, 32, 32), steps=count)
        print(f"{name}: {tuple(x.shape)}, from {x.min():.2f} to {x.max():.2f}")

# %% [markdown]
# *Both samplers run and end in [-1, 1]. After so few steps there is nothing to look at.*
#
# ## The ladder
#
# How do these designs compare if each gets the same chance? `python tests/benchmarks/ladder.py mine.json` trains them
# one after the other. That takes more than an hour, so it was run beforehand, and the cells below draw what it wrote.

# %%
ladder = load_ladder()
for name in ("device", "date", "torch", "precision", "data", "seconds", "samples", "command"):
    print(f"{name:10} {ladder[name]}")

# %% [markdown]
# Kept equal: the **wall time** (each design got as many steps as fit into `seconds`, by a speed measured in turns with
# the others); the **trainer** of [notebook 07](07_train_ddpm.ipynb); and the feature network and number of samples of
# the distance, beside the **floor** of real images ([notebook 09](09_evaluation.ipynb)).
#
# Not equal: the learning rate and the batch size (0.001 and 128 for most, 0.0001 and 16 for `DiffUNet`, 0.002 and 64
# for the recipe), the warm-up, weighted timestep sampling in the recipe alone, and the sampler. So training steps
# cannot be compared between designs, but images can: a design saw 180 times its images/s.
#
# In the names *naive* means that the network predicts the clean image, *published* that network, data range, noise
# schedule, target and sampler are as published, and *repaired* that the faults of that design are out.
#
# | name | the design | the sampler |
# |---|---|---|
# | `naive ...` | [notebook 01](01_corrupt_and_predict.ipynb), with its network and with that of diffusers | that of notebook 01, 40 steps |
# | `SimpleUNet, published` | the network of [notebook 05](05_time_conditioning.ipynb); images in [0, 1], and 300 steps that do not end in noise | Algorithm 2, 300 steps, no clipping |
# | `SimpleUNet, repaired` | without these two faults | Algorithm 2, 300 steps |
# | `LayerNormUNet, published` | begins with a norm that hides the brightness ([notebook 06](06_unet.ipynb)) | Algorithm 2, 1000 steps |
# | `LayerNormUNet, repaired` | without that norm | Algorithm 2, 1000 steps |
# | `UNet2DModel DDPM` | the network of diffusers predicts noise | DDIM, 50 steps |
# | `DiffUNet` | the network of deepinv predicts noise | DDIM, 20 steps |
# | `the course's recipe` | predicts the velocity; cosine schedule (the diffusion models above: linear) | DDIM with $\eta = 1$, 50 steps, half of them above 700 |
#
# Some things are *not* as published: the trainer, bfloat16, DDIM for the two large networks, and the black border for
# `DiffUNet`. The last row was added nine days after the date above, with speeds measured anew.

# %% tags=["figure-10_ladder"]
show.plot_ladder(ladder)

# %% [markdown]
# *The dashed line is the floor. The course's recipe leads, ten times closer to real digits than `UNet2DModel DDPM`,
# which is last; nobody is near the floor. More parameters did not help: the largest network, with 93.6 million, found
# time for 125 steps of 16 images and is last but one. In a day the order may be another one.*

# %%
print(ladder_table(ladder["systems"]))

# %% [markdown]
# *"recognis." is the share of samples whose digit the feature network is at least 95 % sure of; on its own it can be
# fooled: a model that draws one perfect 1 for ever would score 100 %. So read it with the entropy (2.30 if all ten
# digits come equally often) and the distance. "s for 64" is the price of sampling, which the distance does not know.*
#
# ### Which losses can be compared?
#
# Not those of different targets. The error of the predicted noise and the error of the clean image that it implies are
# two numbers for the same answer, by [(4.21)](04_bound_to_noise.ipynb):
#
# $$\lVert \epsilon - \hat\epsilon \rVert^2 = \frac{\bar\alpha_t}{1 - \bar\alpha_t}\, \lVert x_0 - \hat x_0 \rVert^2 \tag{10.3}$$
#
# and the factor runs through many powers of ten as $t$ goes from 1 to $T$. On top of that, [0, 1] data has half the
# range, and so a quarter of the squared error.

# %% tags=["nbval-check-output"]
some, noise_64 = images[:8].cpu().double(), eps[:8].cpu().double()
for t in (10, 300, 800):
    signal, sigma = schedule.sqrt_alpha_bar[t].item(), schedule.sigma[t].item()
    x_t = signal * some + sigma * noise_64
    with torch.no_grad():
        eps_hat = model(x_t.float().to(device), torch.full((8,), t, device=device)).cpu().double()
    x0_hat = (x_t - sigma * eps_hat) / signal
    error, image_error = (noise_64 - eps_hat).square().sum(), (some - x0_hat).square().sum()
    verify("10.3", error, snr(schedule)[t].item() * image_error, tol=1e-5)

# %% [markdown]
# The recipe predicts the velocity, whose squared error is by [(16.1)](16_targets_and_weights.ipynb) the larger number;
# it has the largest loss of the column and the best samples. And among networks that predict noise `DiffUNet` has the
# lowest loss, and next to the worst samples: a quarter of its 32x32 pixels are a border that is always black, where
# noise is easy to see.
#
# Here are the first samples of each run, not chosen ones. Guess before you run: which row will you like best, and is it
# the one on top of the chart?

# %%
drawn = {name: images[:12] for name, images in ladder_samples().items()}
rows = {row["name"]: drawn[row["name"]] for row in ladder["systems"]}
viz.image_rows(rows, alt="Twelve samples of each design of the ladder, one row for each")

# %% [markdown]
# *In the order of the table. The two naive rows are digits, some of them broken. `SimpleUNet` draws strokes without a
# plan: each of its pixels sees a square of 18x18, no more ([notebook 06](06_unet.ipynb)). The digits of `LayerNormUNet,
# published` stand each on a grey of its own, because this network cannot see brightness; the repaired one sees it and
# leaves noise. Their distances, 1,241 and 1,146, are of one run each and no order. The brightness is one number of 784
# in the loss and is learned late: `UNet2DModel DDPM` and `DiffUNet` still return whole squares of grey or noise.*
#
# ## What each fault costs
#
# Four faults of recipes in circulation, each put alone into the repaired `SimpleUNet`, with the same number of steps:
#
# - **The gradient times the loss.** `loss.backward(loss)` looks harmless. It computes the gradient of another function:
#
# $$L\, \nabla L = \nabla\, \frac{L^2}{2} \tag{10.4}$$
#
# - **Images in [0, 1].** The noise is made for data of variance about 1 around 0.
# - **T too short for its betas.** $T = 300$ with betas from 0.0001 to 0.02 does not end in noise ([notebook
#   02](02_forward_process.ipynb)), and sampling starts there.
# - **Noise at the last step.** It adds $\sqrt{\beta_1}\,z$ to the finished image.

# %% tags=["nbval-check-output"]
conv, (a, b) = torch.nn.Conv2d(1, 1, 3, padding=1), (0.1 * torch.randn(2, 4, 1, 6, 5, generator=generator))
loss = F.mse_loss(conv(a), b)
loss.backward(loss)
squared, = torch.autograd.grad(F.mse_loss(conv(a), b) ** 2 / 2, conv.weight)
verify("10.4", conv.weight.grad, squared)
print(f"T = 300: alpha_bar ends at {linear_schedule(300, rescale=False).alpha_bar[-1]:.3f}")
print(f"noise at the last step: {255 / 2 * linear_schedule(300).beta[1].sqrt():.1f} grey levels of 255")

# %% [markdown]
# Guess before you run: order the four by what they cost.

# %%
repaired = next(row for row in ladder["systems"] if row["name"] == "SimpleUNet, repaired")
noisy = {"name": "noise at the last step", "frechet": repaired["frechet_with_noise_at_the_last_step"]}
print(ladder_table([repaired, *ladder["faults"], noisy]))

# %%
rows = {row["name"]: drawn[row["name"]] for row in [repaired, *ladder["faults"]]}
viz.image_rows(rows, alt="Samples of the repaired network and of each fault alone")

# %% [markdown]
# *Noise at the last step was added to the repaired network's own samples, so it has no row of pictures. One run each: a
# difference of a tenth says nothing. Only the scaled gradient costs: the loss that scales it is not constant, so late
# steps are scaled by a smaller loss than those that AdamW remembers. And the surprise: with the short $T$ the distance
# is smaller here.*
#
# *How can a fault help? Both recipes get 300 steps. The short one never goes far into the noise, so all its steps fall
# where strokes are formed, and the repaired one spends many where all is noise. This network fails at drawing digits
# long before it fails at their brightness. The fault of theory is there ([notebook 13](13_debugging_clinic.ipynb) shows
# what it does to a perfect network), but it is not what limits this system. A repair is worth something once nothing
# else is worse.*
#
# ## What each part is worth
#
# The ladder's best design is a recipe of many parts. Change one, keep the rest, give it the same time, and measure:
# `python tests/benchmarks/bench_levers.py` does that, for more than three hours, and was run beforehand. It starts from
# a plainer recipe, which trains on all steps equally often, with the weights of [(16.3)](16_targets_and_weights.ipynb)
# in the loss, and draws in 50 evenly spaced steps. The recipe of the ladder is among its rows: `weighted timestep
# sampling, near T`.

# %%
levers = load_ladder("levers_cpu")
for name in ("device", "date", "torch", "precision", "data", "seconds", "samples", "command"):
    print(f"{name:10} {levers[name]}")

# %% [markdown]
# Some names need a word:
#
# | name | the recipe | this row |
# |---|---|---|
# | `weights of the noise`, `weights of the velocity` | the smaller error of [(16.3)](16_targets_and_weights.ipynb) | the error of the noise, of the velocity; the output stays the velocity |
# | `noise as target` | the output stands for the velocity | for the noise; the weights stay |
# | `noise and its weights`, `..., linear schedule` | velocity, the smaller error, cosine | noise, its plain error; with the linear schedule that is the paper's |
# | `weighted timestep sampling` | all steps equally often, the weights in the loss | [(16.4)](16_targets_and_weights.ipynb), and no weights in the loss |
# | `..., small gradient` |  | the same, and the loss times the mean weight |
# | `more steps near T` | 50 even steps in sampling | $1000 \sqrt{i / 50}$, $i = 50, \dots, 1$: half of them above 700 |
# | `no patches; 16, 32, 64` | patches of 2x2 pixels, two levels of 32 and 64 channels | 28x28 pixels, three levels |
# | `no fresh noise` | $\eta = 1$ ([notebook 08](08_sampling.ipynb)) | $\eta = 0$ |
#
# Guess before you run: of the learning rate, the average of the weights, the noise schedule, the weights in the loss
# and bfloat16, which two matter most? And is there a change that makes the recipe better?

# %% tags=["figure-10_levers"]
show.plot_levers(levers)

# %%
print(ladder_table(sorted(levers["systems"], key=lambda row: row["frechet"])))

# %% [markdown]
# *The recipe was trained from three seeds, and came out at 211, 224 and 234: the grey band. (Real digits score 21. The
# ladder evaluated half as many samples, so its distances cannot be compared with these.) Chance goes farther than three
# tries show: a dot less than a band's width beside the band may still be chance, and that is true of most. Three
# findings are larger.*
#
# - *Worse: what the paper does (351), and the plain error of the noise as loss, whether the output is noise or velocity
#   (302 and 305). With the recipe's weights the output hardly matters.*
# - *Better, from each of three seeds, and for the same work: weighted timestep sampling, by 28 to 43. So is the network
#   without patches, by 21 to 38, which is not told apart from that; its samples take longer.*
# - *More steps near $T$ cost nothing: with weighted timestep sampling 156, 174 and 178 instead of 172, 191 and 195.
#   From what the paper does to this recipe the distance is halved, in the same three minutes.*
#
# *It may surprise what cannot be seen to matter here: the average of the weights, and the falling learning rate.
# Beware: both calm the last part of a run, and where one was removed, the other was still there. Changing one part at a
# time cannot see that. And three minutes are a short run; in an hour the list may be another one.*
#
# ## What to remember, and what broke
#
# - Libraries and papers differ in names, in where they count from, and in defaults. Know three of them by heart: $t$ or
#   $t - 1$, which variance, which steps.
# - If two implementations agree to 1e-7 at most steps and to 1e-4 at a few, look for a difference of nearly equal
#   numbers.
# - A comparison is a promise about what was kept equal. Say the time, the data, the feature network, the number of
#   samples, the floor, and what was not equal; never one column alone.
# - To learn what a part is worth, change it alone and give it the same time; and train the unchanged recipe from
#   several seeds, or you will explain chance.
#
# **What broke:** everything on this ladder is grey, 28 pixels wide and made of strokes, and every design got minutes.
# Which of the conclusions survive in colour, on larger pictures of things, and with more time on more than one
# processor? [Notebook 11](11_colour_and_scale.ipynb) is about what grows.
#
# ### Experiments to try
#
# - Run `python tests/benchmarks/ladder.py quick.json --seconds 20 --samples 200` on your machine. Does the order stay?
# - In `their_loop`, use `diffusers.DPMSolverMultistepScheduler(beta_schedule="squaredcos_cap_v2", thresholding=True)`
#   (Lu et al. 2022) instead, with 10 steps: the same path, followed by a better method than Euler's ([notebook
#   15](15_solvers.ipynb)). Then leave `thresholding` out, which clips the guess.
# - Ask `ask_diffusers` with `t` instead of `t - 1` *in training as well*. Is that a mistake at all?
# - Feed `DeepinvUNet` 28x28 images, and look at its answer near the left and the right edge of a shirt from
#   `load_images("fashion")`.
