"""Exercises of notebook 15: the drift backwards, DPM-Solver++, the divergence, betas that end in pure noise."""

import torch

from ..lessons.sde import hutchinson, rescaled_beta, reverse_drift
from ..marking import Exercise
from ..sampling import dpm_solver_step
from ..schedule import cosine_schedule, linear_beta, linear_schedule, tables


def _normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + shape[0]), dtype=torch.float64)


def _drift(n: int, beta: float, share: float) -> tuple:
    return _normal(n, 3), _normal(n, 3, seed=9), beta, share


def _steps(schedule, r: int, t: int, s: int) -> tuple:
    x, guess, before = (_normal(3, 1, 4, 2, seed=seed).float() for seed in range(3))
    return schedule, x, t, s, guess, r, before


def _bent(x):
    return torch.sin(2 * x) + x.flip(-1) * x.square()


def _signs(*shape: int) -> tuple:
    return _bent, _normal(*shape), _normal(*shape, seed=5).sign()


Exercise(
    tag="15.1",
    reference=reverse_drift,
    cases=lambda: [_drift(4, 3.0, 1.0), _drift(5, 0.7, 0.0), _drift(6, 11.0, 0.4)],
    table="""
return beta / 2 * x + (1 + share**2) / 2 * beta * score

beta / 2 * x + (1 + share) / 2 * beta * score
  the share is not squared: variances add up, and the variance of the fresh noise is share^2 beta.
beta / 2 * x + beta * score
  the share is left out: this is right for share = 1 alone.
beta / 2 * x + beta / 2 * score
  the share is left out: this is right for share = 0, the ODE, alone.
-beta / 2 * x + (1 + share**2) / 2 * beta * score
  the sign of the first term is that of the forward process. Backwards x grows again.
beta / 2 * x - (1 + share**2) / 2 * beta * score
  the score has a minus: you walk to where the density is smaller.
-beta / 2 * x - (1 + share**2) / 2 * beta * score
  this is the drift in forward time. Time runs backwards here, so both signs turn.
beta / 2 * x + share**2 * beta * score
  the score counts share^2 beta. Half of beta is needed even without fresh noise: without it x would not know the data.
beta * x + (1 + share**2) * beta * score
  a factor 1/2 is missing in both terms.
beta / 2 * x + (1 + share**2) * beta * score
  a factor 1/2 is missing in front of the score.
beta * x + (1 + share**2) / 2 * beta * score
  a factor 1/2 is missing in front of x.
""",
)

Exercise(
    tag="15.2",
    reference=dpm_solver_step,
    cases=lambda: [_steps(cosine_schedule(), 700, 500, 350), _steps(linear_schedule(200), 150, 140, 90)],
    table="""
signal, sigma = schedule.sqrt_alpha_bar, schedule.sigma
log_snr = (signal.double().log() - sigma.double().log()).float()
h, last = log_snr[s] - log_snr[t], log_snr[t] - log_snr[r]
ahead = guess + h / last / 2 * (guess - before)
return sigma[s] / sigma[t] * x_t - signal[s] * torch.expm1(-h) * ahead

ahead = guess
  the guess before is not used: this is DDIM's step, of first order.
ahead = before
  the guess before is used alone.
ahead = guess - h / last / 2 * (guess - before)
  the line is followed backwards, to the guess before.
ahead = guess + h / last * (guess - before)
  the line is followed over the whole step. Its middle counts, so half of h.
ahead = guess + last / h / 2 * (guess - before)
  h and the step before have changed places in the fraction.
ahead = guess + (guess - before) / 2
  the two steps are taken as equally long. Divide h by the length of the one before.
ahead = (guess + before) / 2
  the two guesses are averaged: that looks back. Here they are carried on.
sigma[s] / sigma[t] * x_t + signal[s] * torch.expm1(-h) * ahead
  the sign of the second term is turned: exp(-h) - 1 is negative, so its minus makes a plus.
signal[s] / signal[t] * x_t - signal[s] * torch.expm1(-h) * ahead
  x_t is multiplied by the ratio of the signals, which is for a solver that carries the noise. Take that of the
  sigmas.
sigma[s] / sigma[t] * x_t - signal[s] * torch.expm1(h) * ahead
  the exponent has the wrong sign: exp(-h) belongs there.
sigma[s] / sigma[t] * x_t - sigma[s] * torch.expm1(-h) * ahead
  sigma stands in front of the guess. A clean image is multiplied by the signal.
sigma[s] / sigma[t] * x_t - signal[t] * torch.expm1(-h) * ahead
  the signal is that of t, where the step begins. It is that of s.
log_snr = log_snr * 2 ; h, last = log_snr[s] * 2 - log_snr[t] * 2, log_snr[t] - log_snr[r]
  h is twice as long: the logarithm of the signal-to-noise ratio, which is (signal / sigma)^2.
""",
)

Exercise(
    tag="15.3",
    reference=hutchinson,
    cases=lambda: [_signs(5, 1, 4, 2), _signs(3, 2, 3, 3)],
    table="""
x = x.detach().requires_grad_()
pulled = torch.autograd.grad((velocity(x) * signs).sum(), x)[0]
return (pulled * signs).flatten(1).sum(1)

pulled.flatten(1).sum(1)
  the signs are missing on one side: z J is summed up, and z J z is wanted.
pulled = torch.autograd.grad(velocity(x).sum(), x)[0]
  the velocity is not multiplied by the signs before its gradient is taken.
pulled = torch.autograd.grad(velocity(x).sum(), x)[0] ; pulled.flatten(1).sum(1)
  there are no signs at all: the sum of all derivatives of all outputs, and only those on the diagonal are wanted.
(pulled * signs).sum()
  the images are added up: one number for each is wanted.
(pulled * signs).flatten(1).mean(1)
  the mean over the pixels is taken. The divergence is their sum.
(velocity(x) * signs).flatten(1).sum(1).detach()
  there is no derivative in it.
(pulled * x).flatten(1).sum(1).detach()
  x stands where the signs belong.
""",
)

Exercise(
    tag="15.4",
    reference=rescaled_beta,
    names={"tables": tables},
    cases=lambda: [(linear_beta(1000),), (linear_beta(50, rescale=False),), (linear_beta(300, 1e-3, 0.01, False),)],
    table="""
root = tables(beta)["sqrt_alpha_bar"]
new = (root[1:] - root[-1]) * root[1] / (root[1] - root[-1])
every = torch.cat([root[:1], new])
return torch.cat([beta[:1], 1 - every[1:] ** 2 / every[:-1] ** 2])

new = (root[1:] - root[-1])
  the square roots are shifted, not stretched: the first step loses some signal. Multiply by
  root[1] / (root[1] - root[-1]).
new = (root[1:] - root[-1]) / (root[1] - root[-1])
  the first step keeps all of the signal now: multiply by root[1], what it had before.
root = tables(beta)["alpha_bar"] ; new = ((root[1:] - root[-1]) * root[1] / (root[1] - root[-1])).sqrt()
  alpha_bar itself is shifted. Its square root is.
torch.cat([beta[:1], 1 - every[1:] / every[:-1]])
  the ratio of the square roots is not squared: alpha_t is the ratio of two alpha_bar.
torch.cat([beta[:1], every[1:] ** 2 / every[:-1] ** 2])
  this is alpha_t. beta_t is 1 less alpha_t.
1 - every[1:] ** 2 / every[:-1] ** 2
  beta[0] = 0 is missing: T + 1 numbers are wanted.
every**2
  this is the new alpha_bar. The betas are wanted: 1 less the ratio of neighbours.
""",
)
