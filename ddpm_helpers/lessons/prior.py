"""A diffusion model as a prior: answers x to a measurement y = operator(x) + noise (notebook 17).

Points of the exact worlds are (N, D) in float64, images (B, C, H, W). An `operator` takes clean images or points to
what is measured of them; `model`, a callable (x, t (B,)) -> noise, and `noise`, () -> noise, are as in `sampling`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ..checks import check_counts
from ..sampling import Model, Noise, ddim_step, ddim_steps, ddim_trajectory
from ..schedule import NoiseSchedule, per_image, predict_eps, predict_x0, q_sample

Operator = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class World:
    """A mixture of Gaussians in D pixels: all that a perfect network knows about it is a formula."""

    weights: Tensor  # (K,), they sum to 1
    means: Tensor  # (K, D)
    covariances: Tensor  # (K, D, D)

    def seen(self, matrix: Tensor, variances: Tensor) -> "World":
        """The distribution of matrix x + noise, matrix (M, D), with noise of these variances (M,)."""
        covariances = matrix @ self.covariances @ matrix.T + variances.diag()
        return World(self.weights, self.means @ matrix.T, covariances)

    def noised(self, schedule: NoiseSchedule, t: int) -> "World":
        """The distribution of x_t."""
        eye = torch.eye(self.means.shape[1], dtype=torch.float64)
        return self.seen(schedule.sqrt_alpha_bar[t] * eye, schedule.sigma[t] ** 2 * eye.diag())

    def given(self, y: Tensor, matrix: Tensor, s: float) -> "World":
        """The exact posterior, for one measurement y (M,) = matrix x + noise of standard deviation s."""
        measured = self.seen(matrix, torch.full((len(matrix),), s**2, dtype=torch.float64))
        gain = self.covariances @ matrix.T @ measured.covariances.inverse()  # (K, D, M)
        weights = measured._log_peaks(y[None])[0].softmax(0)
        means = self.means + (gain @ (y - measured.means)[..., None])[..., 0]
        return World(weights, means, self.covariances - gain @ matrix @ self.covariances)

    def log_density(self, x: Tensor) -> Tensor:
        """log q(x) of x (N, D): (N,)."""
        return self._log_peaks(x).logsumexp(1)

    def _log_peaks(self, x: Tensor) -> Tensor:
        square = (self._pulled(x) * (x[:, None] - self.means)).sum(2)  # (N, K)
        return self.weights.log() - 0.5 * (square + (2 * torch.pi * self.covariances).logdet())

    def _pulled(self, x: Tensor) -> Tensor:
        """What lies between x and each mean, times the inverse covariance: minus the score of each peak, (N, K, D)."""
        away = (x[:, None] - self.means).transpose(0, 1)  # (K, N, D)
        return (away @ self.covariances.inverse()).transpose(0, 1)

    def covariance(self) -> Tensor:
        """(D, D), of the whole mixture."""
        away = self.means - self.weights @ self.means
        return torch.einsum("k,kij->ij", self.weights, self.covariances + away[:, :, None] * away[:, None])

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """(count, D) points."""
        peak = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        z = torch.randn(count, self.means.shape[1], 1, generator=generator).double()
        return self.means[peak] + (torch.linalg.cholesky(self.covariances)[peak] @ z)[..., 0]

    def model(self, schedule: NoiseSchedule) -> Model:
        """The perfect network: (x_t (N, D), t (N,), all the same) -> E[noise | x_t]."""

        def eps(x: Tensor, t: Tensor) -> Tensor:
            peaks = self.noised(schedule, int(t[0]))
            return schedule.sigma[t[0]] * (peaks._log_peaks(x).softmax(1)[..., None] * peaks._pulled(x)).sum(1)

        return eps

    def log_likelihood(self, schedule: NoiseSchedule, x_t: Tensor, t: int, y: Tensor, matrix: Tensor, s: float):
        """log p(y | x_t) of measurements y (N, M): (N,), the density of both less that of x_t."""
        M, D = matrix.shape
        both = torch.cat([schedule.sqrt_alpha_bar[t] * torch.eye(D, dtype=torch.float64), matrix])
        variances = torch.cat([(schedule.sigma[t] ** 2).expand(D), torch.full((M,), s**2, dtype=torch.float64)])
        joint = self.seen(both, variances).log_density(torch.cat([x_t, y], 1))
        return joint - self.noised(schedule, t).log_density(x_t)


def matrix_of(operator: Operator, D: int) -> Tensor:
    """The matrix (M, D) of a linear operator on points (N, D)."""
    u, v = torch.randn(2, 8, D, generator=torch.Generator().manual_seed(0)).double()
    if not torch.allclose(operator(2 * u - 3 * v), 2 * operator(u) - 3 * operator(v)):
        raise ValueError(
            "matrix_of: this operator is not linear: of 2u - 3v it does not make 2 and -3 times what it makes of u and "
            "v. The exact posterior needs a matrix; guidance through the clean guess takes any differentiable operator"
        )
    return operator(torch.eye(D, dtype=torch.float64)).T


def replaced(schedule: NoiseSchedule, x_t: Tensor, t: int, y: Tensor, mask: Tensor, noise: Tensor) -> Tensor:
    """x_t (B, ...) whose known pixels, where `mask` (B, ...) is True, are those of y (B, ...) noised to step t (Song,
    Sohl-Dickstein et al. 2021, appendix I.2)."""
    return torch.where(mask, q_sample(schedule, y, torch.full((len(y),), t, device=y.device), noise), x_t)


@torch.no_grad()
def inpaint(
    model: Model,
    schedule: NoiseSchedule,
    y: Tensor,
    mask: Tensor,
    noise: Noise,
    steps: int | Iterable[int] = 50,
    rounds: int = 1,
    clip: bool = True,
) -> Tensor:
    """Images (B, ...) that agree with y where the boolean `mask` is True: at each step the known pixels are replaced.
    In more rounds, each step is taken back with fresh noise and made again (Lugmayr et al. 2022, algorithm 1)."""
    if mask.dtype != torch.bool or mask.shape != y.shape:
        raise ValueError(
            f"inpaint: the mask is {mask.dtype} of shape {tuple(mask.shape)}, and must say for each pixel of y "
            f"{tuple(y.shape)} whether it is known: a torch.bool tensor, mask.expand_as(y)"
        )
    check_counts("inpaint", rounds=rounds)
    x = noise()
    for t, s in pairwise([*ddim_steps(schedule.T, steps), 0]):
        keep = schedule.sqrt_alpha_bar[t] / schedule.sqrt_alpha_bar[s]
        for left in reversed(range(rounds)):
            x_t = replaced(schedule, x, t, y, mask, noise())
            eps = model(x_t, torch.full((len(y),), t, device=y.device))
            x = ddim_step(schedule, x_t, t, s, eps, noise(), 1.0, clip)
            if left:
                x = keep * x + (1 - keep**2).sqrt() * noise()
    return torch.where(mask, y, x)


def data_term(y: Tensor, operator: Operator, variance: float | Tensor) -> Callable:
    """The function of clean images: log N(y; operator(images), variance) of each, (B,), but for a constant; `variance`
    is a number, or one for each image, and no step t counts."""

    def log_p(images: Tensor, t: Tensor | None = None) -> Tensor:
        measured = operator(images)
        if measured.shape != y.shape:
            raise ValueError(f"data_term: y has shape {tuple(y.shape)}, the operator gives {tuple(measured.shape)}")
        return -(y - measured).square().flatten(1).sum(1) / (2 * variance)

    return log_p


def data_gradient(denoise: Callable, x_t: Tensor, log_p: Callable) -> tuple[Tensor, Tensor]:
    """The gradient of log_p(denoise(x_t)) in x_t (B, ...), each image's own, log_p giving (B,); and denoise(x_t)."""
    with torch.enable_grad():
        x_t = x_t.detach().requires_grad_()
        guess = denoise(x_t)
        [gradient] = torch.autograd.grad(log_p(guess).sum(), x_t)
    return gradient, guess.detach()


def guided(model: Model, schedule: NoiseSchedule, log_p: Callable, of_guess: bool = True) -> Model:
    """A model whose noise is less sigma_t times the gradient of log_p(clean guess, t) (Chung et al. 2023), or, where it
    is known, of log_p(x_t, t); for any trajectory."""

    def answer(x: Tensor, t: Tensor) -> Tensor:
        if of_guess:
            denoise = lambda x: predict_x0(schedule, x, t, model(x, t))  # noqa: E731
            gradient, guess = data_gradient(denoise, x, lambda guess: log_p(guess, t))
            eps = predict_eps(schedule, x, t, guess)
        else:
            gradient, _ = data_gradient(lambda x: x, x, lambda x: log_p(x, t))
            eps = model(x, t)
        return eps - per_image(schedule.sigma[t], x) * gradient

    return answer


def answers(model: Model, schedule: NoiseSchedule, noise: Noise, steps=50, clip: bool = True) -> Tensor:
    """Samples (B, ...) by DDIM with as much fresh noise as DDPM has."""
    *_, last = ddim_trajectory(model, schedule, noise(), steps, 1.0, noise, clip)
    return last.x


def calibrated(answers: Tensor, truth: Tensor) -> bool:
    """A test of coverage: each truth (N,) lies between the least and the largest of its own 19 answers (19, N) with
    probability 18/20, if they are drawn from its posterior. True if the share found is within 3 standard errors."""
    inside = (truth > answers.amin(0)) & (truth < answers.amax(0))
    return abs(inside.double().mean().item() - 0.9) <= 3 * (0.9 * 0.1 / len(truth)) ** 0.5


def trial(method: Callable, world: World, operator: Operator, s: float, y: float, n: int, N: int, generator) -> dict:
    """How far a `method`, measurements (B, 1) -> answers (B, D), is from the exact posterior of the last pixel: from
    the same question y n times, mean (in the exact standard deviation) and variance (relative); from N questions with
    19 answers, the coverage of 90 % intervals. Each is (value, standard error)."""
    posterior = world.given(torch.tensor([y], dtype=torch.float64), matrix_of(operator, world.means.shape[1]), s)
    mean, std = posterior.weights @ posterior.means[:, -1], posterior.covariance()[-1, -1].sqrt()
    truth = world.draw(N, generator)
    questions = operator(truth) + s * torch.randn(N, 1, generator=generator).double()
    found = method(torch.cat([torch.full((n, 1), y, dtype=torch.float64), questions.repeat(19, 1)]))[:, -1]
    x, answers, truth = (found[:n] - mean) / std, found[n:].reshape(19, N), truth[:, -1]
    squares, inside = (x - x.mean()) ** 2, ((truth > answers.amin(0)) & (truth < answers.amax(0))).double()
    values = {"mean": x, "variance": squares - 1, "coverage": inside}
    return {name: (value.mean().item(), value.std().item() / len(value) ** 0.5) for name, value in values.items()}


def edit_start(schedule: NoiseSchedule, guide: Tensor, strength: float, steps: list[int], noise: Tensor):
    """Where SDEdit begins (Meng et al. 2022): of falling `steps` those up to strength T, strength in (0, 1], and the
    guide (B, ...) noised to the first of them: x_t (B, ...), steps."""
    if not 0 < strength <= 1 or min(steps) > strength * schedule.T:
        raise ValueError(f"edit_start: strength must lie in (0, 1] and leave some of the steps, got {strength!r}")
    left = [t for t in steps if t <= strength * schedule.T]
    t = torch.full((len(guide),), left[0], device=guide.device)
    return q_sample(schedule, guide, t, noise), left


def scribble() -> Tensor:
    """A two as if drawn with a ruler, three strokes like a Z: (1, 1, 28, 28) in [-1, 1]."""
    picture = Image.new("L", (28, 28))
    ImageDraw.Draw(picture).line([(7, 7), (20, 7), (7, 21), (21, 21)], fill=255, width=3)
    return torch.tensor(list(picture.tobytes())).reshape(1, 1, 28, 28) / 127.5 - 1
