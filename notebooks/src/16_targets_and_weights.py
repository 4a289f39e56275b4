# %% [markdown]
# # What to predict, and how much each step counts
#
# ![Three rows of twelve samples from the same noise, by a network that predicts the noise, by one that predicts the velocity, and by one that was also trained with another weight of each step](../figures/16_targets.png)
#
# *One network, trained three times: the same start, images and number of steps. In the first row it was asked for the
# noise; in the second for the velocity; in the third for the velocity again, with another weight of each step in the
# loss. All rows start from the same noise. How do they differ, and which would you keep?*
#
# **You will** let a network predict the velocity instead of the noise, give each step a weight in the loss, and then
# put that weight into the choice of the steps: weighted timestep sampling. **You need**
# [notebook 07](07_train_ddpm.ipynb) for the training loop, and [notebook 04](04_bound_to_noise.ipynb) for the four
# coordinates of one prediction. **Time** 30 minutes of reading; the cells run in about 4 minutes on 2 CPU cores.

# %% tags=["setup"]
REPO = ""  # owner/name on GitHub; `make badges REPO=owner/name` fills it in
try:
    import ddpm_helpers
except ImportError:
    assert REPO, "The helper module is missing: start this notebook with `make lab`, or see Colab in the README."
    get_ipython().run_line_magic("pip", f"install -q git+https://github.com/{REPO}")

import torch

from ddpm_helpers import TrainConfig, Trainer, UNet, VelocityNet, budget, check, cosine_schedule
from ddpm_helpers import ddpm_loss, default_device, load_images, per_image, predict_x0, q_sample
from ddpm_helpers import sample, snr, step_weight, stratified_steps, to_float, velocity_loss, verify, viz

generator = torch.Generator().manual_seed(0)

# %%
data = load_images("mnist")
device = default_device()
schedule = cosine_schedule(1000).to(device)
images = data.images.to(device)  # (N, 1, 28, 28) uint8
print(data.source)

# %% [markdown]
# ## Where is the error?
#
# [Notebook 07](07_train_ddpm.ipynb) trained a network to predict the noise and took its loss apart: at small $t$ the
# noise is hard to see, and at large $t$ a tiny error of the noise is a large one of the clean image. We measure here as
# there, on images that no network is trained on: on 256 of them, with steps spread evenly over $1 \dots T$, and step by
# step on 64 of them. Steps and noise are always the same.

# %%
test = to_float(load_images("mnist", train=False).images[:256]).to(device)
test_noise = torch.randn(test.shape, generator=generator).to(device)
test_t = stratified_steps(torch.full((256,), 0.5), schedule.T).to(device)  # the middle of each stretch
places = torch.tensor([1, 2, 5, 10, 20, 50, 100, 150, *range(200, 1000, 100), 950])
ratio = snr(schedule).cpu()[places]

def by_step(model):
    with torch.no_grad():
        steps = [t.expand(64).to(device) for t in places]
        values = [ddpm_loss(model, schedule, test[:64], t, test_noise[:64]) for t in steps]
    return torch.stack(values).cpu()  # (len(places),), the error of the noise

# %% [markdown]
# ## Another target
#
# The late steps are hard for one more reason. There $x_t$ is almost the noise itself, so a network that predicts the
# noise has little more to do than to repeat its input, and the rest, in which the clean image hides, is a small
# correction to it. Salimans & Ho (2022) let the network predict the velocity
# $v = \sqrt{\bar\alpha_t}\, \epsilon - \sigma_t\, x_0$ of [(4.19)](04_bound_to_noise.ipynb) instead. Late it is minus the
# clean image, early it is the noise: always the part that is hard to see. `VelocityNet` dresses such a network as one
# that predicts noise, $\hat\epsilon = \sigma_t x_t + \sqrt{\bar\alpha_t}\, \hat v$, so samplers, `Trainer` and all the
# rest stay as they are. What changes is the error that is squared. By [(4.21)](04_bound_to_noise.ipynb)
#
# $$\big\lVert v - \hat v \big\rVert^2 = \frac{1}{\bar\alpha_t}\, \big\lVert {\color{#D55E00}{\epsilon}} - {\color{#009E73}{\hat\epsilon}} \big\rVert^2 \tag{16.1}$$

# %% tags=["nbval-check-output"]
guess = torch.randn(test.shape, generator=generator).to(device)
root, sigma = (per_image(x[test_t], test) for x in (schedule.sqrt_alpha_bar, schedule.sigma))
left = (root * test_noise - sigma * test - guess).square().mean()
fixed = VelocityNet(lambda x, t: guess, schedule)  # a network that answers `guess`, whatever it is asked
verify("16.1", velocity_loss(fixed, schedule, test, test_t, test_noise), left, tol=1e-4)

# %% [markdown]
# The same network, the same data, the same number of steps, two targets. Guess before you run: which one is better
# late, and is it worse early?

# %%
count = budget(gpu=3000, cpu=500, quick=12)

def short_run(loss, dress=lambda net: net):
    torch.manual_seed(0)
    net = dress(UNet(base=32, multipliers=(1, 2), patch=2))
    run = Trainer(net, schedule, data.images, TrainConfig(steps=count), objective=loss)
    for _ in run.run():
        pass
    return run.ema

def dressed(net):
    return VelocityNet(net, schedule)

targets = {"noise": short_run(ddpm_loss), "velocity": short_run(velocity_loss, dressed)}

# %%
curves = {name: by_step(model) / ratio for name, model in targets.items()}
for t in (1, 100, 500, 900, 950):
    here = (places == t).nonzero()[0, 0]
    print(f"t = {t:3}: {curves['noise'][here]:.5f} noise, {curves['velocity'][here]:.5f} velocity")
average = to_float(data.images).mean(0).to(device)  # of all digits
print(f"the mean of all digits scores {(average - test[:64]).square().mean():.5f},", end=" ")
print(f"a grey image {test[:64].square().mean():.5f}")

# %%
viz.plot_curves(
    {f"predicts the {name}": (places, values) for name, values in curves.items()},
    log="y",
    ylabel="squared error\nof the clean image",
    alt="Error of the clean image by step, for two targets: equal early, the velocity lower late",
)

# %%
rows = {f"the {name}": sample(model, schedule, 12, steps=25) for name, model in targets.items()}
viz.image_rows(rows, alt="Samples of a network that predicts the noise, and of one that predicts the velocity")

# %% [markdown]
# *In a full run on a CPU: up to $t = 300$ the noise network (blue) is ahead by a little. Beyond 400 it falls behind, and
# towards $T$ its error runs away: at $t = 950$ it is above 1, worse than that of a grey image. The velocity network
# (orange) ends at a quarter of it, which is what the mean of all digits scores: so late, nothing more is known. In the
# samples, compare column by column. The noise network's strokes are fat and flow together: a guess at large $t$ that is
# too bright is built upon by all steps that follow. The rows have the same outlines, and most of the lower ones have the
# stroke width of handwriting.*
#
# Beware: two things changed at once, what the output stands for, and the weight that each step has in the loss. Two
# runs cannot tell which of the two helped. Let us look at the weight alone.
#
# ## Another weight
#
# A target is a weight, too. One answer has an error of the noise and an error of the clean image, and they differ by
# the factor $\mathrm{SNR}_t = \bar\alpha_t / (1 - \bar\alpha_t)$, by [(4.21)](04_bound_to_noise.ipynb). The error of the velocity is their sum,
# because $1 / \bar\alpha_t = 1 + 1 / \mathrm{SNR}_t$ in (16.1):
#
# $$\big\lVert v - \hat v \big\rVert^2 = \big\lVert {\color{#D55E00}{\epsilon}} - {\color{#009E73}{\hat\epsilon}} \big\rVert^2 + \big\lVert x_0 - \hat x_0 \big\rVert^2 \tag{16.2}$$
#
# A sum looks at the larger part: early at the noise, which is too faint to see, late at the clean image, which is too
# far away to guess. Both stay large whatever the network does, so there is little to learn from them; more can be won
# between the two ends. The *smaller* part looks there:
#
# $$\min\!\Big(\big\lVert {\color{#D55E00}{\epsilon}} - {\color{#009E73}{\hat\epsilon}} \big\rVert^2,\; \big\lVert x_0 - \hat x_0 \big\rVert^2\Big) = \min\!\Big(1,\; \frac{1}{\mathrm{SNR}_t}\Big)\, \big\lVert {\color{#D55E00}{\epsilon}} - {\color{#009E73}{\hat\epsilon}} \big\rVert^2 \tag{16.3}$$
#
# Then both ends count little, early because the weight is small, late because the error of the noise is small by
# itself. The steps in the middle count most; here noise and image are equally strong at $t = 496$. (Is the digit not
# decided late? It is, but above $t = 900$ the image $x_t$ tells so little about it that no network gets far.) This is
# min-SNR weighting (Hang et al. 2023), whose weight is $\min(1, \gamma / \mathrm{SNR}_t)$, with $\gamma = 1$; they
# found 5 best for photos.
#
# ### Exercise 16.1 - `min_snr_loss`
#
# Return the loss of one batch, a scalar: the mean over images and pixels of the weighted squared errors, so the right
# side of (16.3) divided by the number of pixels. The arguments are those of `ddpm_loss`, and `model(x, t)` returns the
# predicted noise. `snr(schedule)[t]` has shape (B,), `per_image(numbers, x0)` makes of such numbers something that
# multiplies whole images.


# %% tags=["exercise", "nbval-check-output"]
def min_snr_loss(model, schedule, x0, t, noise):
    ...  # the error of the noise, times its weight


min_snr_loss = check(min_snr_loss)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Begin as in [Exercise 7.1](07_train_ddpm.ipynb): `q_sample`, then the model. But keep the squared errors, shape (B, C, H, W). `.clamp(max=1)` is the minimum with 1.
#
# </details>

# %% tags=["nbval-check-output"]
x_t = q_sample(schedule, test, test_t, test_noise)
eps_hat = fixed(x_t, test_t)
noise_error = (eps_hat - test_noise).square().mean((1, 2, 3))  # (256,)
image_error = (predict_x0(schedule, x_t, test_t, eps_hat) - test).square().mean((1, 2, 3))
batch = (fixed, schedule, test, test_t, test_noise)
verify("16.2", velocity_loss(*batch), (noise_error + image_error).mean(), tol=1e-4)
verify("16.3", min_snr_loss(*batch), torch.minimum(noise_error, image_error).mean(), tol=1e-4)

# %% [markdown]
# The third short run: the velocity as target, as before, with this weight. Guess before you run: where will its error
# be larger than that of the second, and will you see it in the samples?

# %%
targets["velocity, smaller error"] = short_run(min_snr_loss, dressed)
for t in (1, 100, 500, 900, 950):
    here = (places == t).nonzero()[0, 0]
    errors = {name: by_step(model)[here] / ratio[here] for name, model in targets.items()}
    print(f"t = {t:3}: " + ", ".join(f"{error:.5f} {name}" for name, error in errors.items()))

# %% tags=["figure-16_targets"]
rows = {f"the {name}": sample(model, schedule, 12, steps=25) for name, model in targets.items()}
viz.image_rows(rows, alt="Samples of three networks: noise, velocity, velocity with the smaller error's weight")

# %% [markdown]
# *In a full run on a CPU the third network is worse than the second by a quarter at $t = 100$ and by a tenth at
# $t = 950$, and better by a tenth in the middle, at $t = 500$, where the outline of the digit is settled. In the
# samples, compare the last two rows: mostly the same figures, a little smoother below. But one short run of each and
# twelve samples prove nothing. [Notebook 10](10_libraries.ipynb) changes output and weights one at a time, measures a
# thousand samples of each, and says how far chance goes: to minimise the plain error of the noise costs a lot; the error
# of the velocity and the smaller error cannot be told apart.*
#
# ## A weight without a factor
#
# By (16.1) and (16.2) the errors of the noise and of the clean image are $\bar\alpha_t$ and $1 - \bar\alpha_t$ times
# that of the velocity, so the smaller of them is the velocity's, times $w_t = \min(\bar\alpha_t, 1 - \bar\alpha_t)$.
# Many steps weigh little, and a batch gives them as many images as the others:

# %%
weight = step_weight(schedule).cpu()  # (1000,), of the steps 1 ... T
light = (weight < weight.max() / 5).float().mean()
print(f"{light:.0%} of the steps weigh less than a fifth of what the middle ones do")

# %% [markdown]
# To count a step half as much, we can halve its error. Or we can draw it half as often: **weighted timestep sampling**.
# Write $\ell(t)$ for the mean error at step $t$, $\bar w$ for the mean of all weights, and draw the steps with the
# probabilities $p_t = w_t / (T \bar w)$, which add up to 1:
#
# $$\frac{1}{T} \sum_{t=1}^{T} w_t\, \ell(t) = \bar w \sum_{t=1}^{T} p_t\, \ell(t) = \bar w\; \mathbb{E}_{t \sim p}\big[\ell(t)\big] \tag{16.4}$$
#
# Left is the loss with factors and uniform steps; right there is no factor but $\bar w$, a constant, and AdamW divides
# constants out, where the limit [(7.8)](07_train_ddpm.ipynb) on the gradient does not cut. What differs is the scatter.
# This is **importance sampling**. (Nichol & Dhariwal 2021 draw steps by the size of their losses; Karras et al. 2022
# draw noise levels from a bell curve in the middle.)
#
# ### Exercise 16.2 - `weighted_steps`
#
# Lay the weights on a line, end to end: step $t$ owns a stretch as long as `weight[t - 1]`. As in
# [Exercise 7.2](07_train_ddpm.ipynb) the batch is spread evenly: `u` has shape (B,), uniform in [0, 1), and image `i` lands at $(i + u_i) / B$ of the whole length. Return the steps that own these places, (B,) int64 in
# $1 \dots T$. (Who owns the very point between two stretches does not matter.) `weight` has shape (T,); all weights are
# positive, and they need not add up to 1.


# %% tags=["exercise", "nbval-check-output"]
def weighted_steps(u, weight):
    ends = ...  # (T,), where the stretch of each step ends; the last one is the length of the line
    places = ...  # (B,), rising, where the images land
    return ...  # (B,) int64 in 1 ... T


weighted_steps = check(weighted_steps)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `weight.cumsum(0)` adds up the weights from the first on. `torch.searchsorted(ends, places)` counts, for each place,
# how many of the rising `ends` lie below it. `torch.arange(len(u), device=u.device)` counts the images, on the device
# where `u` and `weight` lie. As in Exercise 7.2, rounding may take the last place too far:
# `.clamp(max=len(weight) - 1)` before you add 1.
#
# </details>
#
# (16.4) holds for any $\ell$. We take that of a poor model, which answers $\frac{1}{2} x_t$ whatever $t$ is. Its error is
# known exactly at each step, as in [notebook 07](07_train_ddpm.ipynb): $(1 - \sigma_t / 2)^2 + \bar\alpha_t P / 4$, where
# $P$ is the mean square of a pixel. 4,000 batches of $B = 50$:

# %% tags=["nbval-check-output"]
B, tables, power = 50, schedule.to("cpu"), test.square().mean().item()
exact = (1 - tables.sigma[1:] / 2) ** 2 + tables.alpha_bar[1:] / 4 * power  # (1000,), the error of the noise at step t
batches = [weighted_steps(torch.rand(B, generator=generator), weight) for _ in range(4000)]
drawn = torch.stack(batches)  # (4000, B)
verify("16.4", samples=weight.mean() * exact[drawn - 1].mean(1), expected=(weight * exact).mean())

# %% [markdown]
# Now the network of the last run, and one loss in two ways. With $\bar w$ kept, both gradients have the same mean. Guess
# before you run: how much less does the second one scatter?

# %%
def scatter(net, objective, choose, tries):
    """The gradients of several batches: how far they lie from their mean (root mean square)."""
    total, power = 0, 0
    for _ in range(tries):
        x0 = to_float(images[torch.randint(len(images), (64,), generator=generator).to(device)])
        noise = torch.randn(x0.shape, generator=generator).to(device)
        net.zero_grad()
        objective(net, schedule, x0, choose().to(device), noise).backward()
        gradient = torch.cat([p.grad.flatten() for p in net.parameters()])  # (parameters,)
        total, power = total + gradient, power + gradient.square().sum()
    return (power / tries - (total / tries).square().sum()).sqrt().item()

# %%
def uniforms():
    return torch.rand(64, generator=generator)

def mean_weight_loss(*batch):
    return weight.mean().item() * velocity_loss(*batch)

tries = budget(gpu=100, cpu=40, quick=3, unit="batches")
net = targets["velocity, smaller error"].requires_grad_()
ways = {
    "uniform steps and a factor": (min_snr_loss, lambda: stratified_steps(uniforms(), 1000)),
    "weighted timestep sampling": (mean_weight_loss, lambda: weighted_steps(uniforms(), weight)),
}
for name, (objective, choose) in ways.items():
    print(f"{name:28} gradient scatters by {scatter(net, objective, choose, tries):.4f}")

# %% [markdown]
# *In a full run on a CPU the second gradient scatters by a seventh less, as much as stratified steps won in
# [notebook 07](07_train_ddpm.ipynb). Scatter falls with the root of the batch size, so this is worth as much as a batch larger by a third or more, and
# costs nothing. Of all changes that [notebook 10](10_libraries.ipynb) tries in three minutes of training this one has
# the largest gain beside the weights themselves: from each of three seeds the samples come closer to real digits, by an eighth to almost a fifth.
# (Another change or two have gains that overlap with it; three seeds do not tell them apart.) The
# scatter hardly explains that: there, stratified steps do not help more than chance. (Nor does a batch twice as
# large, but in the same time it makes only about half as many steps.)*
#
# In `Trainer` it is `TrainConfig(weighted=True)` with the objective `velocity_loss`. The network of notebooks
# [08](08_sampling.ipynb) and [09](09_evaluation.ipynb) predicts the noise, as the paper's does, and was trained in this
# way. The weights shipped for [notebook 11](11_colour_and_scale.ipynb) and [notebook 12](12_guidance.ipynb) predict the
# velocity, and were trained with its error on uniform steps. To have both, the velocity and weighted timestep sampling,
# type into a terminal:
#
# ```
# python -m ddpm_helpers.cli --target velocity --weighted --steps 20000 --checkpoint runs/velocity.safetensors
# ```
#
# ## What to remember, and what broke
#
# - What a network predicts decides which error is squared, and so how much each step counts.
# - How much a step weighs in the loss can be said by a factor, or by how often it is drawn. In (16.4) both have the same
#   mean; here the second scattered less.
#
# **What broke:** two things were changed at once in the first comparison, and one run of each proves little.
# [Notebook 10](10_libraries.ipynb) takes them apart.
#
# ### Experiments to try
#
# - Take $\gamma = 5$ in (16.3), as Hang et al. do. At which steps does the error move, and which way?
# - Draw the steps by the square root of the weight, and give the rest as a factor. Does the gradient scatter more or less?
