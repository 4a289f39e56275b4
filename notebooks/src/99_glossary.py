# %% [markdown]
# # Words, symbols, further reading
#
# **You will** look up what a symbol or a word of this course means and where it is explained, and find out what to read
# next. **You need** nothing; open it beside the other notebooks. **Time** 2 minutes at a time; the cells run in 8 seconds
# on 2 CPU cores.

# %% tags=["setup"]
REPO = ""  # owner/name on GitHub; `make badges REPO=owner/name` fills it in
try:
    import ddpm_helpers
except ImportError:
    assert REPO, "The helper module is missing: start this notebook with `make lab`, or see Colab in the README."
    get_ipython().run_line_magic("pip", f"install -q git+https://github.com/{REPO}")

from ddpm_helpers import cosine_schedule, linear_schedule, snr

# %% [markdown]
# ## Symbols
#
# The last column names the equation where a symbol first appears, or is explained. In formulas
# ${\color{#0072B2}{\text{blue}}}$ is signal, what comes from the clean image, ${\color{#D55E00}{\text{orange}}}$ is
# noise, and ${\color{#009E73}{\text{green}}}$ comes from the model. A subscript $\theta$ marks a function that is
# learned, a hat one of its answers, a tilde the posterior, and a bar a product or a mean. In code, shapes are written
# (B, C, H, W): images in a batch, channels, height, width.
#
# ### The images
#
# | symbol | meaning | in code | equation |
# |:--|:--|:--|:--|
# | $x_0$ | the clean image; in [0, 1] in notebook 01, in [-1, 1] from notebook 02 on | `x0` | [(1.1)](01_corrupt_and_predict.ipynb) |
# | $x_t$ | the noisy image after $t$ steps | `x_t` | [(2.4)](02_forward_process.ipynb) |
# | $\epsilon$ | the noise in it; $\mathcal{N}(0, I)$ from notebook 02 on | `noise` | [(1.1)](01_corrupt_and_predict.ipynb) |
# | $D$ | how many numbers an image has: pixels times channels |  | [(1.2)](01_corrupt_and_predict.ipynb) |
# | $u$ | a pixel as an integer from 0 to 255 |  | [(0.1)](00_start_here.ipynb) |
#
# ### The schedule
#
# | symbol | meaning | in code | equation |
# |:--|:--|:--|:--|
# | $t$, $T$ | the step, from 1 to $T$; 0 is the clean image | `t`, `schedule.T` | [(2.7)](02_forward_process.ipynb) |
# | $s$ | another step below $t$, where a sampler goes | `s` | [(5.3)](05_time_conditioning.ipynb) |
# | $\beta_t$ | variance of the noise that step $t$ adds | `schedule.beta[t]` | [(2.7)](02_forward_process.ipynb) |
# | $\alpha_t$ | $1 - \beta_t$: what step $t$ keeps of the variance | `schedule.alpha[t]` | [(2.8)](02_forward_process.ipynb) |
# | $\bar\alpha_t$ | $\alpha_1 \cdots \alpha_t$: what $t$ steps keep of it | `schedule.alpha_bar[t]` | [(2.8)](02_forward_process.ipynb) |
# | $\sqrt{\bar\alpha_t}$ | weight of the clean image in $x_t$ | `schedule.sqrt_alpha_bar[t]` | [(2.13)](02_forward_process.ipynb) |
# | $\sigma_t$ | $\sqrt{1 - \bar\alpha_t}$: weight of the noise in $x_t$ | `schedule.sigma[t]` | [(3.2)](03_likelihood_bound.ipynb) |
# | $\mathrm{SNR}_t$ | $\bar\alpha_t / \sigma_t^2$: the signal-to-noise ratio | `snr(schedule)[t]` | [(2.15)](02_forward_process.ipynb) |
# | $\rho_t$ | $\sigma_t / \sqrt{\bar\alpha_t}$: the noise per signal |  | [(8.9)](08_sampling.ipynb) |
#
# ### The densities, and the bound
#
# | symbol | meaning | in code | equation |
# |:--|:--|:--|:--|
# | $q$ | densities of the data and of the forward process |  | [(3.1)](03_likelihood_bound.ipynb) |
# | $p_\theta$ | densities of the model; $\theta$ stands for all that is learned |  | [(3.3)](03_likelihood_bound.ipynb) |
# | $\tilde\mu_t$, $\tilde\beta_t$ | mean and variance of the posterior $q(x_{t-1} \mid x_t, x_0)$ | `posterior(...)` | [(4.3)](04_bound_to_noise.ipynb) |
# | $\mu_\theta$, $s_t^2$ | mean and variance of the model's step | `model.mean`, `model.variance` | [(3.3)](03_likelihood_bound.ipynb) |
# | $L_T$, $L_{t-1}$, $L_0$ | the terms of the bound: prior, steps, decoder | `terms`, `bits_per_dim` | [(3.13)](03_likelihood_bound.ipynb) |
# | $w_t$, $C_t$ | weight and constant of a step in the bound | `loss_weight` | [(4.11)](04_bound_to_noise.ipynb) |
# | $L_{simple}$ | the loss with all weights equal | `ddpm_loss` | [(4.13)](04_bound_to_noise.ipynb) |
# | $W$ | the importance weight of a path | `log_weight` is its logarithm | [(3.6)](03_likelihood_bound.ipynb) |
#
# ### The network, and what it predicts
#
# | symbol | meaning | in code | equation |
# |:--|:--|:--|:--|
# | $\epsilon_\theta(x_t, t)$ | the network that predicts the noise | `model(x_t, t)` | [(4.10)](04_bound_to_noise.ipynb) |
# | $\hat\epsilon$ | the noise that it predicted | `eps` | [(8.1)](08_sampling.ipynb) |
# | $\hat x_0$ | the clean image that follows from it | `x0_hat` | [(8.1)](08_sampling.ipynb) |
# | $\hat\mu$ | the mean of the step that follows from it | `mean` | [(8.2)](08_sampling.ipynb) |
# | $v$ | the velocity $\sqrt{\bar\alpha_t}\, \epsilon - \sigma_t x_0$ | `VelocityNet` | [(4.19)](04_bound_to_noise.ipynb) |
# | $\nabla \log q(x_t)$ | the score; $-\sigma_t$ times it is the ideal noise |  | [(4.20)](04_bound_to_noise.ipynb) |
# | $e(t)$ | the sinusoidal embedding of the time | `sinusoidal_embedding` | [(5.5)](05_time_conditioning.ipynb) |
# | $\gamma$, $\delta$ | scale and shift of the features (FiLM); in min-SNR weighting $\gamma$ is a limit | `film` | [(5.7)](05_time_conditioning.ipynb) |
# | $y$, $\varnothing$ | a label; no label | `labels` | [(12.1)](12_guidance.ipynb) |
# | $\tau(t)$, $e_y$ | in notebook 12 what the network makes of the time, and the learned row of the label $y$ | `net.label.weight[y]` is $e_y$ | [(12.1)](12_guidance.ipynb) |
# | $h$ | share of the noise in the variance of $x_t$; in notebook 05 features |  | [(4.15)](04_bound_to_noise.ipynb) |
#
# ### Training and sampling
#
# | symbol | meaning | in code | equation |
# |:--|:--|:--|:--|
# | $\bar\theta_n$, $d$ | average of the weights after $n$ training steps, and its decay; in (5.5) and (6.6) $d$ is a length | `trainer.ema` | [(7.4)](07_train_ddpm.ipynb) |
# | $\min(1, 1 / \mathrm{SNR}_t)$ | the weight of the smaller of two errors, noise and clean image | `min_snr_loss` | [(16.3)](16_targets_and_weights.ipynb) |
# | $w_t$, $p_t$ | in notebook 16 the weight of step $t$ in a loss, and its probability in weighted timestep sampling | `step_weight`, `weighted_steps` | [(16.4)](16_targets_and_weights.ipynb) |
# | $c_{in}$, $c_{skip}$, $c_{out}$, $F$ | numbers around a network $F$, for images of mean square $s^2$ and noise $\rho$ | `preconditioning` | [(16.6)](16_targets_and_weights.ipynb) |
# | $K_s$, $\omega_t$ | in notebook 16 the bound of an image with the noise of step $s$; the weight of a loss, relative to the bound's | `noised_bounds` | [(16.10)](16_targets_and_weights.ipynb) |
# | $\eta$ | in notebook 07 the learning rate | `learning_rate` | [(7.7)](07_train_ddpm.ipynb) |
# | $\eta$, $\varphi$ | in notebook 08 the share of fresh noise in a step of DDIM, and its standard deviation | `eta` | [(8.7)](08_sampling.ipynb) |
# | $z$ | fresh noise in a step of a sampler | `noise` | [(8.4)](08_sampling.ipynb) |
# | $y$, $A$, $s$ | in notebook 17 a measurement, its operator, and the standard deviation of its noise | `data_term` | [(17.1)](17_prior_at_work.ipynb) |
# | $s$ | in notebook 12 the guidance scale | `guide(model, s)` | [(12.4)](12_guidance.ipynb) |
#
# ### Everywhere
#
# | symbol | meaning | in code | equation |
# |:--|:--|:--|:--|
# | $\mathbb{E}$, $\operatorname{Var}$ | mean and variance over all that is random |  | [(1.2)](01_corrupt_and_predict.ipynb), [(2.2)](02_forward_process.ipynb) |
# | $\lVert x \rVert^2$ | sum of the squared entries |  | [(1.2)](01_corrupt_and_predict.ipynb) |
# | $\mathcal{N}(m, v)$ | Gaussian with mean $m$ and *variance* $v$ | `log_normal` | [(3.1)](03_likelihood_bound.ipynb) |
# | $\mathcal{N}(0, I)$ | pure noise: every pixel drawn from $\mathcal{N}(0, 1)$, independently |  | [(2.13)](02_forward_process.ipynb) |
# | $\sim$, $\propto$ | is drawn from; equals, but for a constant factor |  | [(2.11)](02_forward_process.ipynb), [(12.6)](12_guidance.ipynb) |
# | $a \mid b$ | $a$ given $b$: in a mean or a density, once $b$ is known |  | [(2.1)](02_forward_process.ipynb) |
# | $\mathrm{KL}(q \Vert p)$ | how far $p$ is from $q$, in nats | `gaussian_kl` | [(3.5)](03_likelihood_bound.ipynb) |
# | $\Phi$ | distribution function: the probability that a draw from $\mathcal{N}(0, 1)$ is below a number |  | [(4.16)](04_bound_to_noise.ipynb) |

# %% [markdown]
# ## The schedule in numbers
#
# What the symbols of the schedule are worth, for the two schedules of the course with $T = 1000$. The column `small` is
# the variance $\tilde\beta_t$ of the posterior.

# %% tags=["nbval-check-output"]
for schedule in (linear_schedule(1000), cosine_schedule(1000)):
    print(f"{schedule.name}\n   t      beta     small  alpha_bar     sigma       SNR       rho")
    for t in (1, 10, 100, 300, 500, 700, 900, 999):
        row = (schedule.beta, schedule.posterior_variance, schedule.alpha_bar, schedule.sigma, snr(schedule), snr(schedule) ** -0.5)
        print(f"{t:4} " + " ".join(f"{table[t] + 0:9.3g}" for table in row))  # + 0 makes 0 of -0

# %% [markdown]
# *Compare $t = 500$ in the two halves: the same step of two schedules means very different images. $\rho_t$ is the column to
# look at when sampling: DDIM follows it down to 0.*

# %% [markdown]
# ## Words
#
# | word | meaning | notebook |
# |:--|:--|:--|
# | accuracy | In notebook 12: share of samples that the feature network reads as the digit asked for. | [12](12_guidance.ipynb) |
# | activation | A fixed curve that bends each number on its own, such as SiLU. | [01](01_corrupt_and_predict.ipynb) |
# | activations | What the backward pass needs of the forward pass, and so is kept in memory. | [11](11_colour_and_scale.ipynb) |
# | adaLN-Zero | Telling a block by scale, shift and gate; the gate starts at 0. | [19](19_patches_latents_words.ipynb) |
# | Adam | Gradient descent that divides the step of each weight by the recent size of its gradient. AdamW also pulls all weights towards 0. | [07](07_train_ddpm.ipynb) |
# | Algorithm 1 | The training loop of Ho et al. (2020): draw an image, a step and noise, take a gradient step on the squared error of the predicted noise. | [07](07_train_ddpm.ipynb) |
# | Algorithm 2 | Their sampler: $T$ steps down, each with fresh noise but the last. | [08](08_sampling.ipynb) |
# | autocast | Computing some operations in a number format with fewer digits. | [07](07_train_ddpm.ipynb) |
# | autoencoder | A pair of networks that packs an image into fewer numbers and unpacks it. | [13](13_debugging_clinic.ipynb) |
# | autograd | PyTorch's record of what was computed, from which it finds slopes. | [12](12_guidance.ipynb) |
# | autoregressive | Of a model: it draws one number after another, each from a distribution given all before it. | [20](20_memorise_or_generalise.ipynb) |
# | bag of words | A text as the mean of its words' vectors, without their order. | [19](19_patches_latents_words.ipynb) |
# | batch | Images that are computed together. | [01](01_corrupt_and_predict.ipynb) |
# | Bayes' rule | How to turn the density of $a$ given $b$ into that of $b$ given $a$. | [03](03_likelihood_bound.ipynb) |
# | bfloat16 | Numbers of 16 bits, with the range of float32 and about two and a half digits. | [07](07_train_ddpm.ipynb) |
# | biased | Of an estimate: off on average. | [09](09_evaluation.ipynb) |
# | bits per dimension | A likelihood as a code length, per number of the image; 8 for bytes that are not compressed at all, more for a model that is surprised. | [09](09_evaluation.ipynb) |
# | bound | Short for evidence lower bound. | [03](03_likelihood_bound.ipynb) |
# | channel | One of the pictures that a layer takes or makes, such as the red of an image. | [05](05_time_conditioning.ipynb) |
# | checkpoint | A file that holds all that is needed to go on training as if nothing had happened; [notebook 07](07_train_ddpm.ipynb) lists its entries. | [10](10_libraries.ipynb) |
# | cherry-picking | Showing the best samples only. | [09](09_evaluation.ipynb) |
# | classifier | A network, or a formula, that says which class an image is. | [12](12_guidance.ipynb) |
# | classifier-free guidance | Following the difference that a label makes further than the network would. | [12](12_guidance.ipynb) |
# | clean image | The image $x_0$, without noise. | [02](02_forward_process.ipynb) |
# | clipping | Cutting values off at the ends of a range. Of the predicted clean image: notebook 08; of the gradient, where the length is cut: notebook 07. | [08](08_sampling.ipynb) |
# | closed-form sample | An $x_t$ drawn from $x_0$ at once, by the closed form [(2.13)](02_forward_process.ipynb), without the steps between. | [02](02_forward_process.ipynb) |
# | code length | The bits that a good code spends on something: minus the logarithm of its probability. | [09](09_evaluation.ipynb) |
# | collapse | The step from which on the ideal denoiser of $N$ images gives most weight to a single one. | [20](20_memorise_or_generalise.ipynb) |
# | conditional density | The density of $a$ once $b$ is known, $q(a \mid b)$. | [03](03_likelihood_bound.ipynb) |
# | conditioning | Giving a network something to predict from beside the image, such as the step or a label. | [05](05_time_conditioning.ipynb) |
# | consistency models | Networks that name the end of a sampler's path at once, and agree with themselves along it. | [18](18_few_steps.ipynb) |
# | continuity equation | Density changes by what flows in, less what flows out: conservation of mass. | [14](14_flow_matching.ipynb) |
# | convolution | A layer: each output pixel is a weighted sum of the pixels around it, with the same learned weights everywhere. | [01](01_corrupt_and_predict.ipynb) |
# | corrupt | In notebook 01: to mix an image with uniform noise. | [01](01_corrupt_and_predict.ipynb) |
# | cosine schedule | A schedule whose $\bar\alpha_t$ falls like a squared cosine. | [02](02_forward_process.ipynb) |
# | covariance | For each two pixels or features, the mean product of their deviations from their means: a matrix with the variances on its diagonal. | [04](04_bound_to_noise.ipynb) |
# | coverage | How often an interval holds the truth; a 90 % interval should in 90 of 100 questions. | [17](17_prior_at_work.ipynb) |
# | cross-attention | A weighted mean of other vectors, of words say, that each token makes for itself. | [19](19_patches_latents_words.ipynb) |
# | DDIM | A sampler that may skip steps and adds no noise, unless $\eta$ asks for it; without, it is Euler's method in $\rho_t$. | [08](08_sampling.ipynb) |
# | DDPM | Denoising diffusion probabilistic model: trained by Algorithm 1, sampled by Algorithm 2. | [07](07_train_ddpm.ipynb) |
# | decay | What an exponential moving average keeps of itself in each training step. | [07](07_train_ddpm.ipynb) |
# | decoder | The last term of the bound: what it costs to name the exact grey. | [09](09_evaluation.ipynb) |
# | density | How likely values are, as the height of an infinitely fine histogram; the area under it is 1. | [03](03_likelihood_bound.ipynb) |
# | diagnose | The clinic's list of measurements, as one function. | [13](13_debugging_clinic.ipynb) |
# | diffusion transformer | A transformer on patches of noisy images or latents; DiT. | [19](19_patches_latents_words.ipynb) |
# | distillation | Training a network on what another one computes. | [18](18_few_steps.ipynb) |
# | DPS | Diffusion posterior sampling: guidance by how well the clean guess fits a measurement. | [17](17_prior_at_work.ipynb) |
# | eigenvectors | Of a covariance: directions along which coordinates have covariance 0 with each other. The variances along them are the eigenvalues. | [04](04_bound_to_noise.ipynb) |
# | ELBO | See evidence lower bound. | [03](03_likelihood_bound.ipynb) |
# | EMA | See exponential moving average. | [07](07_train_ddpm.ipynb) |
# | embedding | Numbers that stand for something else: sines and cosines for a step (notebook 05), a learned row for a label (notebook 12). | [05](05_time_conditioning.ipynb) |
# | entropy | Mean surprise of somebody who is told one class after another. | [09](09_evaluation.ipynb) |
# | epoch | One pass over all images. | [01](01_corrupt_and_predict.ipynb) |
# | Euler's method | Following a slope in small straight steps. | [01](01_corrupt_and_predict.ipynb) |
# | evidence lower bound | A number below the log-likelihood that can be computed; in short ELBO. | [03](03_likelihood_bound.ipynb) |
# | exponential moving average | A running mean of the weights that forgets old ones; in short EMA. | [07](07_train_ddpm.ipynb) |
# | feature | In a network: one number at one place and channel. Of the feature network: the 64 numbers before its answer. | [09](09_evaluation.ipynb) |
# | feature network | The small network that reads digits, and whose features measure distances. | [09](09_evaluation.ipynb) |
# | FID | The Frechet distance with the features of one network trained on photographs. Ours is not that. | [09](09_evaluation.ipynb) |
# | FiLM | Scaling and shifting features by numbers that depend on what the network is conditioned on. | [05](05_time_conditioning.ipynb) |
# | floor | The best that a measure can reach. Of a loss: what the best answer leaves [(4.7)](04_bound_to_noise.ipynb). Of a distance: real images against real images. | [04](04_bound_to_noise.ipynb) |
# | flow map | Where a path ends, as a function of where it is now. | [18](18_few_steps.ipynb) |
# | flow matching | Learning the velocity along straight lines from images to noise. | [13](13_debugging_clinic.ipynb) |
# | Fokker-Planck | How drift and noise together change a density. | [15](15_solvers.ipynb) |
# | forward process | The noise process $q$, from the clean image to noise. | [02](02_forward_process.ipynb) |
# | Frechet distance | A distance of two sets of images: that of two Gaussians fitted to their features. | [09](09_evaluation.ipynb) |
# | Gaussian | The bell curve: the density $\mathcal{N}(m, v)$, or something drawn from it. | [02](02_forward_process.ipynb) |
# | gradient | The slopes of a number, such as the loss, in every weight or every pixel. | [07](07_train_ddpm.ipynb) |
# | group norm | Makes mean and variance of each group of channels of an image 0 and 1. | [06](06_unet.ipynb) |
# | guidance | Pushing a sampler towards what was asked for. | [12](12_guidance.ipynb) |
# | heads | Several self-attentions side by side, each on its own channels. | [06](06_unet.ipynb) |
# | held-out | Of images: not used in training. | [05](05_time_conditioning.ipynb) |
# | hook | A function that PyTorch calls before or after a module runs. | [06](06_unet.ipynb) |
# | ideal denoiser | The network that cannot be beaten: the mean over a data set small enough to list. | [13](13_debugging_clinic.ipynb) |
# | importance sampling | To draw often what counts much, and to correct for it: by an importance weight, or, where the weight was in the loss before, by leaving it out. | [16](16_targets_and_weights.ipynb) |
# | importance weight | What a draw counts if it was drawn from another density. | [03](03_likelihood_bound.ipynb) |
# | induction | A proof that goes from $t - 1$ to $t$. | [02](02_forward_process.ipynb) |
# | inductive bias | What a network takes for granted before it has seen data, such as that neighbouring pixels belong together. | [20](20_memorise_or_generalise.ipynb) |
# | intractable | Known as a formula, and out of reach of any computer. | [03](03_likelihood_bound.ipynb) |
# | inversion | Running DDIM upwards: from an image to a start that leads to it. | [08](08_sampling.ipynb) |
# | Jensen's inequality | The mean of logarithms is at most the logarithm of the mean. | [03](03_likelihood_bound.ipynb) |
# | joint density | The density of several things together, $q(a, b)$. | [03](03_likelihood_bound.ipynb) |
# | kernel | Of a convolution: its learned weights. Of a notebook: the Python process that runs its cells. | [05](05_time_conditioning.ipynb) |
# | KL divergence | Mean difference of two log densities; 0 only if they agree. | [03](03_likelihood_bound.ipynb) |
# | latent diffusion | Diffusion on what an autoencoder made of the images. | [13](13_debugging_clinic.ipynb) |
# | layer norm | A group norm with one group. | [06](06_unet.ipynb) |
# | learned variances | Letting the network choose $s_t^2$, too. | [13](13_debugging_clinic.ipynb) |
# | learning rate | How far a training step moves the weights. | [07](07_train_ddpm.ipynb) |
# | likelihood | The density that a model gives to an image. | [03](03_likelihood_bound.ipynb) |
# | linear schedule | A schedule whose $\beta_t$ lie on a straight line. | [02](02_forward_process.ipynb) |
# | LoRA | A frozen matrix, and beside it a product of two thin ones that is learned. | [19](19_patches_latents_words.ipynb) |
# | loss by t | The loss at one step at a time; a mean over all steps hides where it is bad. | [13](13_debugging_clinic.ipynb) |
# | marginal density | The density of one thing, whatever the others are. | [03](03_likelihood_bound.ipynb) |
# | Markov | Of a chain: given the present, the future does not depend on the past. | [03](03_likelihood_bound.ipynb) |
# | maximum likelihood | Choosing the model that makes the data as likely as possible. | [03](03_likelihood_bound.ipynb) |
# | mean squared error | Mean of the squared differences; its best answer is a mean. | [01](01_corrupt_and_predict.ipynb) |
# | min-SNR weighting | Multiplying the squared error of the noise by $\min(1, \gamma / \mathrm{SNR}_t)$. With $\gamma = 1$, [(16.3)](16_targets_and_weights.ipynb), that is the smaller of two errors, of the noise and of the clean image. | [16](16_targets_and_weights.ipynb) |
# | mixture | A density that is a weighted sum of others. | [03](03_likelihood_bound.ipynb) |
# | MLP | Multilayer perceptron: linear layers with something bent between them. | [05](05_time_conditioning.ipynb) |
# | multiply-adds | Work counted as multiplications, each with an addition. | [06](06_unet.ipynb) |
# | mutual information | How much, in nats, one thing tells of another on average. | [20](20_memorise_or_generalise.ipynb) |
# | naive | In notebook 10: of a network that predicts the clean image, as in notebook 01. | [10](10_libraries.ipynb) |
# | nat | Unit of a natural logarithm; 1.44 bits. | [03](03_likelihood_bound.ipynb) |
# | negative prompt | The caption that guidance starts from, in place of the empty one. | [19](19_patches_latents_words.ipynb) |
# | no label | A row of the table of labels that stands for none. | [12](12_guidance.ipynb) |
# | noise level | For some libraries: the noise per signal, in place of a step. | [10](10_libraries.ipynb) |
# | noise schedule | The list $\beta_1, \dots, \beta_T$; in short schedule. | [02](02_forward_process.ipynb) |
# | noisy image | The image $x_t$: the clean image shrunk, with noise added. | [02](02_forward_process.ipynb) |
# | objective | The loss that is minimised; an argument of the trainer. | [07](07_train_ddpm.ipynb) |
# | operator | What takes an image to what is measured of it, such as a blur. | [17](17_prior_at_work.ipynb) |
# | optimizer | What turns gradients into steps of the weights; here Adam. | [07](07_train_ddpm.ipynb) |
# | order | Of a solver: the power of the step with which its error falls. | [15](15_solvers.ipynb) |
# | patch | A square of $p \times p$ pixels that becomes one place with $C p^2$ channels, `patch` = $p$. | [06](06_unet.ipynb) |
# | path | All $x_0, \dots, x_T$ of one walk; without fresh noise, the line that DDIM follows. | [03](03_likelihood_bound.ipynb) |
# | posterior | $q(x_{t-1} \mid x_t, x_0)$: the step down of somebody who knows the clean image. | [04](04_bound_to_noise.ipynb) |
# | preconditioning | Numbers before, behind and around a network that give its input and its target one size at every noise level. | [16](16_targets_and_weights.ipynb) |
# | prior | The density that sampling starts from, $p(x_T)$, and not one of $x_0$; also the first term of the bound. In notebook 17 that of images, before anything is measured. | [03](03_likelihood_bound.ipynb) |
# | probability-flow ODE | The smooth path whose density at each time is that of the noising walk. | [15](15_solvers.ipynb) |
# | published | In notebook 10: with network, data range, noise schedule, target and sampler as published. | [10](10_libraries.ipynb) |
# | recall | Share of real images that have a sample near them. | [18](18_few_steps.ipynb) |
# | receptive field | The input pixels that can change one output pixel. | [06](06_unet.ipynb) |
# | recognisable | Of an image: the feature network is at least 95 % sure of its class. | [09](09_evaluation.ipynb) |
# | reconstruction floor | The distance that an autoencoder's rebuilt images have from real ones: a perfect model of its latents would score it. | [19](19_patches_latents_words.ipynb) |
# | rectified flow | Noise and image mixed along a straight line, and a mean followed back. | [01](01_corrupt_and_predict.ipynb) |
# | reflow | Training anew on the pairs of noise and image that a sampler made: the paths become straighter. | [14](14_flow_matching.ipynb) |
# | repaired | In notebook 10: without the faults of the published design. | [10](10_libraries.ipynb) |
# | resampling | Taking a step of a sampler back with fresh noise, and making it again. | [17](17_prior_at_work.ipynb) |
# | residual block | Layers that add to their input instead of replacing it. | [06](06_unet.ipynb) |
# | root | Of a symmetric matrix: the one in the same directions with the roots of its eigenvalues; its square is the matrix. | [09](09_evaluation.ipynb) |
# | sample | An image that a model made, or to make one. | [01](01_corrupt_and_predict.ipynb) |
# | sampler | The rule that turns predictions into an image, step by step. | [08](08_sampling.ipynb) |
# | scale | In notebook 12: how far guidance goes; 0 ignores the label, 1 takes the network at its word. | [12](12_guidance.ipynb) |
# | scaling law | A loss that falls as a power of size, data or computing time, towards a floor. | [20](20_memorise_or_generalise.ipynb) |
# | scheduler | In diffusers: schedule and sampler in one object. | [10](10_libraries.ipynb) |
# | score | The slope of a log density in $x$: which way is more likely. (In statistics: the slope in the parameters.) | [04](04_bound_to_noise.ipynb) |
# | SDEdit | Sampling from a drawing with noise, not from noise alone. | [17](17_prior_at_work.ipynb) |
# | self-attention | A layer in which every pixel looks at every other one. | [06](06_unet.ipynb) |
# | shortcut | The way past the layers of a residual block. | [06](06_unet.ipynb) |
# | signal-to-noise ratio | Variance of the signal over variance of the noise. | [02](02_forward_process.ipynb) |
# | skip connection | What hands features from the way down of a U-Net to the way up, past the levels below. | [01](01_corrupt_and_predict.ipynb) |
# | slerp | Blending two starts along an arc. | [08](08_sampling.ipynb) |
# | softmax | The exponentials of some numbers, divided by their sum: weights that add up to 1. For two numbers it is the sigmoid of their difference $z$, $1 / (1 + e^{-z})$, in statistics the logistic function; [(2.16)](02_forward_process.ipynb) is one. | [06](06_unet.ipynb) |
# | space-to-depth | Making channels of the pixels of each patch. | [06](06_unet.ipynb) |
# | standard error | Standard deviation of a mean. | [02](02_forward_process.ipynb) |
# | stem | The first convolution of a U-Net. | [06](06_unet.ipynb) |
# | step | From $t$ to $t - 1$ or back. A step of the optimizer is called a training step where both occur. | [02](02_forward_process.ipynb) |
# | straight line | The simplest competitor of a network: for each pixel and step $a\, x_t + b$. | [13](13_debugging_clinic.ipynb) |
# | stratified | Drawn one from each of equal stretches, not independently. | [07](07_train_ddpm.ipynb) |
# | strength | Of an edit by SDEdit: how far up the noise goes, as a share of all steps. | [17](17_prior_at_work.ipynb) |
# | stride | How many pixels a convolution moves on from one output pixel to the next. | [05](05_time_conditioning.ipynb) |
# | target | What a network is trained to predict: noise, clean image or velocity. Choosing one is choosing a weight for each step. | [16](16_targets_and_weights.ipynb) |
# | telescopes | Of a product or sum: all but the first and last part cancel. | [03](03_likelihood_bound.ipynb) |
# | tensor | PyTorch's array. | [00](00_start_here.ipynb) |
# | timestep | The libraries' step, counted from 0. | [10](10_libraries.ipynb) |
# | token | One vector of a transformer's list: a patch, or a word. | [19](19_patches_latents_words.ipynb) |
# | torchrun | PyTorch's launcher for several processes. | [11](11_colour_and_scale.ipynb) |
# | trace | Sum of the diagonal of a matrix; of a covariance, the sum of all variances. | [09](09_evaluation.ipynb) |
# | transformer | A stack of blocks of attention and of layers for each token. | [19](19_patches_latents_words.ipynb) |
# | U-Net | A network that goes down to coarse features and up again, with skip connections. | [06](06_unet.ipynb) |
# | unbiased | Of an estimate: right on average. | [04](04_bound_to_noise.ipynb) |
# | uniform | Of a random number: every value of a range is as likely as any other. | [01](01_corrupt_and_predict.ipynb) |
# | variational autoencoder | An autoencoder whose few numbers are drawn at random, trained by a bound on the likelihood. | [20](20_memorise_or_generalise.ipynb) |
# | variety | In notebook 12: mean distance of two samples of one digit, relative to real ones. | [12](12_guidance.ipynb) |
# | velocity | A mixture of noise and clean image that is never easy to see; the direction in which $x_t$ moves along an arc. | [04](04_bound_to_noise.ipynb) |
# | walk | From $x_0$ to $x_t$ one step at a time. | [02](02_forward_process.ipynb) |
# | warm-up | A learning rate that grows over the first training steps. | [07](07_train_ddpm.ipynb) |
# | weighted timestep sampling | Drawing each step as often as it weighs, with no weight in the loss; importance sampling of $t$. | [16](16_targets_and_weights.ipynb) |

# %% [markdown]
# ## Further reading
#
# One line each on why and when. The number is that of the arXiv preprint, where there is one.
#
# ### Start here
#
# - **Ho et al. 2020**, *Denoising diffusion probabilistic models*, arXiv
#   [2006.11239](https://arxiv.org/abs/2006.11239). The paper that this course follows. After
#   [notebook 08](08_sampling.ipynb) you can read it line by line.
# - **Nakkiran et al. 2024**, *Step-by-step diffusion: an elementary tutorial*, arXiv
#   [2406.08929](https://arxiv.org/abs/2406.08929). The same ideas in another order, with as little mathematics as will
#   do. A second explanation after [notebook 04](04_bound_to_noise.ipynb).
# - **Luo 2022**, *Understanding diffusion models: a unified perspective*, arXiv
#   [2208.11970](https://arxiv.org/abs/2208.11970). The derivation of notebooks 03 and 04 from variational autoencoders
#   on, and every step written out.
# - **Chan 2024**, *Tutorial on diffusion models for imaging and vision*, arXiv
#   [2403.18103](https://arxiv.org/abs/2403.18103). If you come from signal processing.
# - **Prince 2023**, *Understanding deep learning (MIT Press), chapter on diffusion models*. A textbook, also for
#   everything that this course takes for granted about networks.
# - **Bishop & Bishop 2024**, *Deep learning: foundations and concepts (Springer), chapter on diffusion models*. A
#   textbook, if you want the probability first.
# - **Lai et al. 2025**, *The principles of diffusion models*, arXiv [2510.21890](https://arxiv.org/abs/2510.21890). A
#   book on the three views, bound, score and flow. For when the papers below begin to contradict each other in
#   notation.
#
# ### Where it comes from
#
# - **Sohl-Dickstein et al. 2015**, *Deep unsupervised learning using nonequilibrium thermodynamics*, arXiv
#   [1503.03585](https://arxiv.org/abs/1503.03585). The first diffusion model, with the bound of notebook 03.
# - **Vincent 2011**, *A connection between score matching and denoising autoencoders (Neural Computation)*. The
#   argument behind [(4.20)](04_bound_to_noise.ipynb).
# - **Song & Ermon 2019**, *Generative modeling by estimating gradients of the data distribution*, arXiv
#   [1907.05600](https://arxiv.org/abs/1907.05600). The same kind of model, found from the score.
# - **Song, Sohl-Dickstein et al. 2021**, *Score-based generative modeling through stochastic differential equations*,
#   arXiv [2011.13456](https://arxiv.org/abs/2011.13456). Both are one, in continuous time. Read it when steps begin to
#   feel arbitrary.
# - **Kingma et al. 2021**, *Variational diffusion models*, arXiv [2107.00630](https://arxiv.org/abs/2107.00630). The
#   bound in terms of the signal-to-noise ratio, [(4.12)](04_bound_to_noise.ipynb). For likelihoods.
#
# ### Better training and sampling
#
# - **Nichol & Dhariwal 2021**, *Improved denoising diffusion probabilistic models*, arXiv
#   [2102.09672](https://arxiv.org/abs/2102.09672). Cosine schedule, learned variances, fewer steps.
# - **Song, Meng & Ermon 2021**, *Denoising diffusion implicit models*, arXiv
#   [2010.02502](https://arxiv.org/abs/2010.02502). The second half of notebook 08.
# - **Salimans & Ho 2022**, *Progressive distillation for fast sampling of diffusion models*, arXiv
#   [2202.00512](https://arxiv.org/abs/2202.00512). The velocity, and how a network learns to take two steps in one.
# - **Lu et al. 2022**, *DPM-Solver*, arXiv [2206.00927](https://arxiv.org/abs/2206.00927). Ten to twenty steps. Read it
#   after [(8.9)](08_sampling.ipynb).
# - **Lu et al. 2022b**, *DPM-Solver++*, arXiv [2211.01095](https://arxiv.org/abs/2211.01095). The same in terms of the
#   clean image, which works with guidance; [(15.9)](15_solvers.ipynb).
# - **Lin et al. 2024**, *Common diffusion noise schedules and sample steps are flawed*, arXiv
#   [2305.08891](https://arxiv.org/abs/2305.08891). Why models could not draw the night.
# - **Karras et al. 2022**, *Elucidating the design space of diffusion-based generative models*, arXiv
#   [2206.00364](https://arxiv.org/abs/2206.00364). Every choice taken apart and tuned alone. The best next paper if you
#   train models.
# - **Hang et al. 2023**, *Efficient diffusion training via min-SNR weighting strategy*, arXiv
#   [2303.09556](https://arxiv.org/abs/2303.09556). A weight for each step, set by hand, and why.
# - **Kingma & Gao 2023**, *Understanding diffusion objectives as the ELBO with simple data augmentation*, arXiv
#   [2303.00848](https://arxiv.org/abs/2303.00848). Which weights are likelihoods; [(16.11)](16_targets_and_weights.ipynb).
# - **Sun et al. 2025**, *Is noise conditioning necessary for denoising generative models?*, arXiv
#   [2502.13129](https://arxiv.org/abs/2502.13129). [Notebook 05](05_time_conditioning.ipynb) for large networks.
#
# ### Asking for something
#
# - **Dhariwal & Nichol 2021**, *Diffusion models beat GANs on image synthesis*, arXiv
#   [2105.05233](https://arxiv.org/abs/2105.05233). Guidance with a classifier, and U-Nets that became the standard.
# - **Ho & Salimans 2022**, *Classifier-free diffusion guidance*, arXiv [2207.12598](https://arxiv.org/abs/2207.12598).
#   Short, and the source of [(12.4)](12_guidance.ipynb).
# - **Bradley & Nakkiran 2024**, *Classifier-free guidance is a predictor-corrector*, arXiv
#   [2408.09000](https://arxiv.org/abs/2408.09000). What guidance is, if not what its derivation says.
# - **Meng et al. 2022**, *SDEdit: guided image synthesis and editing with stochastic differential equations*, arXiv
#   [2108.01073](https://arxiv.org/abs/2108.01073). From a scribble to a picture; [(17.10)](17_prior_at_work.ipynb).
# - **Lugmayr et al. 2022**, *RePaint: inpainting using denoising diffusion probabilistic models*, arXiv
#   [2201.09865](https://arxiv.org/abs/2201.09865). Replacement with resampling.
# - **Chung et al. 2023**, *Diffusion posterior sampling for general noisy inverse problems*, arXiv
#   [2209.14687](https://arxiv.org/abs/2209.14687). The gradient of a guess; [(17.6)](17_prior_at_work.ipynb).
# - **Karras et al. 2024**, *Guiding a diffusion model with a bad version of itself*, arXiv
#   [2406.02507](https://arxiv.org/abs/2406.02507). Guidance without losing variety.
#
# ### Larger pictures, and other roads
#
# - **Ho et al. 2022**, *Cascaded diffusion models for high fidelity image generation*, arXiv
#   [2106.15282](https://arxiv.org/abs/2106.15282). A small picture first, then networks that enlarge it.
# - **Rombach et al. 2022**, *High-resolution image synthesis with latent diffusion models*, arXiv
#   [2112.10752](https://arxiv.org/abs/2112.10752). Diffusion on packed images, with text. The base of Stable Diffusion.
# - **Hoogeboom et al. 2023**, *Simple diffusion*, arXiv [2301.11093](https://arxiv.org/abs/2301.11093). Large pictures
#   without packing; [(11.4)](11_colour_and_scale.ipynb).
# - **Chen 2023**, *On the importance of noise scheduling for diffusion models*, arXiv
#   [2301.10972](https://arxiv.org/abs/2301.10972). The same problem, another repair.
# - **Peebles & Xie 2023**, *Scalable diffusion models with transformers*, arXiv
#   [2212.09748](https://arxiv.org/abs/2212.09748). A network that is no U-Net.
# - **Lipman et al. 2023**, *Flow matching for generative modeling*, arXiv
#   [2210.02747](https://arxiv.org/abs/2210.02747). The straight line of [notebook 01](01_corrupt_and_predict.ipynb),
#   with a derivation; [notebook 14](14_flow_matching.ipynb) gives one.
# - **Liu et al. 2023**, *Flow straight and fast: learning to generate and transfer data with rectified flow*, arXiv
#   [2209.03003](https://arxiv.org/abs/2209.03003). The same line, and reflow.
# - **Albergo & Vanden-Eijnden 2023**, *Building normalizing flows with stochastic interpolants*, arXiv
#   [2209.15571](https://arxiv.org/abs/2209.15571). The same again, for any path between two distributions.
# - **Esser et al. 2024**, *Scaling rectified flow transformers for high-resolution image synthesis*, arXiv
#   [2403.03206](https://arxiv.org/abs/2403.03206). Which amounts of noise deserve training, tried at scale.
# - **Song, Dhariwal et al. 2023**, *Consistency models*, arXiv [2303.01469](https://arxiv.org/abs/2303.01469). One
#   step.
# - **Bansal et al. 2022**, *Cold diffusion: inverting arbitrary image transforms without noise*, arXiv
#   [2208.09392](https://arxiv.org/abs/2208.09392). Notebook 01 taken seriously: is the noise needed at all?
# - **Biroli et al. 2024**, *Dynamical regimes of diffusion models (Nature Communications)*, arXiv
#   [2402.18491](https://arxiv.org/abs/2402.18491). When a walk commits to a class, and when to one training image.
# - **Kadkhodaie et al. 2024**, *Generalization in diffusion models arises from geometry-adaptive harmonic
#   representations*, arXiv [2310.02557](https://arxiv.org/abs/2310.02557). Two networks, two halves of the data,
#   the same samples.
# - **Kamb & Ganguli 2025**, *An analytic theory of creativity in convolutional diffusion models*, arXiv
#   [2412.20292](https://arxiv.org/abs/2412.20292). New images as mosaics of old ones.
# - **Bonnaire et al. 2025**, *Why diffusion models don't memorize: the role of implicit dynamical regularization in
#   training*, arXiv [2505.17638](https://arxiv.org/abs/2505.17638). The window of time between learning and
#   memorising.
# - **Carlini et al. 2023**, *Extracting training data from diffusion models*, arXiv
#   [2301.13188](https://arxiv.org/abs/2301.13188). Copies in large models, found.
# - **Somepalli et al. 2023**, *Diffusion art or digital forgery? Investigating data replication in diffusion
#   models*, arXiv [2212.03860](https://arxiv.org/abs/2212.03860). Copied parts.

# %% [markdown]
# ### Also cited
#
# - **Anderson 1982**, *Reverse-time diffusion equation models (Stochastic Processes and their Applications)*.
# - **Ba et al. 2016**, *Layer normalization*, arXiv [1607.06450](https://arxiv.org/abs/1607.06450).
# - **Chen et al. 2018**, *Neural ordinary differential equations*, arXiv
#   [1806.07366](https://arxiv.org/abs/1806.07366).
# - **Chong & Forsyth 2020**, *Effectively unbiased FID and inception score and where to find them*, arXiv
#   [1911.07023](https://arxiv.org/abs/1911.07023).
# - **Denman & Beavers 1976**, *The matrix sign function and computations in systems (Applied Mathematics and
#   Computation)*.
# - **Dowson & Landau 1982**, *The Frechet distance between multivariate normal distributions (Journal of Multivariate
#   Analysis)*.
# - **Frans et al. 2024**, *One step diffusion via shortcut models*, arXiv
#   [2410.12557](https://arxiv.org/abs/2410.12557).
# - **Germain et al. 2015**, *MADE: masked autoencoder for distribution estimation*, arXiv
#   [1502.03509](https://arxiv.org/abs/1502.03509).
# - **Grathwohl et al. 2019**, *FFJORD*, arXiv [1810.01367](https://arxiv.org/abs/1810.01367).
# - **Guo, Shamai & Verdú 2005**, *Mutual information and minimum mean-square error in Gaussian channels (IEEE
#   Transactions on Information Theory)*, arXiv [cs/0412108](https://arxiv.org/abs/cs/0412108).
# - **He et al. 2016**, *Deep residual learning for image recognition*, arXiv
#   [1512.03385](https://arxiv.org/abs/1512.03385).
# - **Heusel et al. 2017**, *GANs trained by a two time-scale update rule converge to a local Nash equilibrium (the
#   source of FID)*, arXiv [1706.08500](https://arxiv.org/abs/1706.08500).
# - **Hu et al. 2022**, *LoRA: low-rank adaptation of large language models*, arXiv
#   [2106.09685](https://arxiv.org/abs/2106.09685).
# - **Hutchinson 1989**, *A stochastic estimator of the trace of the influence matrix (Communications in Statistics)*.
# - **Kaplan et al. 2020**, *Scaling laws for neural language models*, arXiv
#   [2001.08361](https://arxiv.org/abs/2001.08361).
# - **Kingma & Ba 2015**, *Adam: a method for stochastic optimization*, arXiv
#   [1412.6980](https://arxiv.org/abs/1412.6980).
# - **Kingma & Welling 2014**, *Auto-encoding variational Bayes*, arXiv
#   [1312.6114](https://arxiv.org/abs/1312.6114).
# - **Krizhevsky 2009**, *Learning multiple layers of features from tiny images (the source of CIFAR-10)*.
# - **Kynkäänniemi et al. 2019**, *Improved precision and recall metric for assessing generative models*, arXiv
#   [1904.06991](https://arxiv.org/abs/1904.06991).
# - **LeCun et al. 1998**, *Gradient-based learning applied to document recognition (the source of MNIST)*.
# - **Loshchilov & Hutter 2019**, *Decoupled weight decay regularization*, arXiv
#   [1711.05101](https://arxiv.org/abs/1711.05101).
# - **Pascanu et al. 2013**, *On the difficulty of training recurrent neural networks*, arXiv
#   [1211.5063](https://arxiv.org/abs/1211.5063).
# - **Perez et al. 2018**, *FiLM: visual reasoning with a general conditioning layer*, arXiv
#   [1709.07871](https://arxiv.org/abs/1709.07871).
# - **Ronneberger et al. 2015**, *U-Net: convolutional networks for biomedical image segmentation*, arXiv
#   [1505.04597](https://arxiv.org/abs/1505.04597).
# - **Shannon 1948**, *A mathematical theory of communication (Bell System Technical Journal)*.
# - **Shoemake 1985**, *Animating rotation with quaternion curves (SIGGRAPH)*.
# - **Vaswani et al. 2017**, *Attention is all you need*, arXiv [1706.03762](https://arxiv.org/abs/1706.03762).
# - **Wu & He 2018**, *Group normalization*, arXiv [1803.08494](https://arxiv.org/abs/1803.08494).
#
# ## What to remember, and what broke
#
# - One symbol, one meaning. The tables of symbols name the exceptions; a letter that serves for a few lines only is
#   explained there.
# - Papers differ in notation more than in substance. Before you compare two, write down what each means by $t$,
#   $\sigma$, and the scale of its images.
#
# **What broke:** that is for your own models to tell. [Notebook 13](13_debugging_clinic.ipynb) has the checklist.
#
# ### Experiments to try
#
# - Take a paper from the list, and write its notation beside these tables. Which of its symbols has no partner here?
# - Print the table of numbers for `linear_schedule(50)` and for `linear_schedule(50, rescale=False)`, at steps from 1
#   to 50. Which column shows the trap of [notebook 02](02_forward_process.ipynb) first?
