"""Every numbered equation can fail: each is broken on purpose, one wrong factor at a time, and `verify` must notice.

A notebook is run cell by cell with its pictures left out. Where a cell verifies equations, it is run again with each
of the mistakes below written into it.
"""

import ast
import re
from collections.abc import Iterable
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import torch

import ddpm_helpers
from ddpm_helpers import EquationError, lessons
from ddpm_helpers.data import _drawn_digits

SOURCES = Path(__file__).parent.parent / "notebooks" / "src"

# notebook -> equation -> what is written in its cell, and the mistake to put there instead
BREAKS: dict[str, dict[str, list[tuple[str, str]]]] = {}

BREAKS["02_forward_process"] = {
    "2.1": [("expected=x0", "expected=0.0"), ("expected=x0", "expected=2**0.5 * x0")],
    "2.2": [("200 * s**2", "200 * s"), ("200 * s**2", "201 * s**2 * 2**0.5")],
    "2.3": [("+ b**2", "+ b"), ("a**2 / 3", "a / 3")],
    "2.4": [("forward_step(coins, 0.3, z)", "(0.7 * coins + 0.3**0.5 * z)"), ("0.3, z)", "0.3, 0.3**0.5 * z)")],
    "2.5": [("** 50", "** 100"), ("math.sqrt(1 - beta) * m", "(1 - beta) * m")],
    "2.6": [("(4.0 - 1)", "4.0"), ("* v + beta", "* v + beta**2")],
    "2.7": [("(t - 1) / 999", "t / 1000"), ("(t - 1) / 999", "t / 999")],
    "2.8": [("schedule.alpha_bar[1:]", "schedule.alpha_bar[:-1]"), ("(1 - beta).cumprod(0)", "(1 - beta)")],
    "2.9": [("sigma[1] * noise_1", "sigma[1] ** 2 * noise_1"), ("schedule.beta[1]", "schedule.beta[2]")],
    "2.10": [("alpha.sqrt() * sigma", "sigma"), ("beta.sqrt() * noise_t", "beta * noise_t")],
    "2.11": [("3 * v**2", "v**2"), ("b**2 + c**2", "(b + c) ** 2")],
    "2.12": [("sigma[:-1] ** 2", "sigma[:-1]"), ("schedule.alpha[1:]", "schedule.alpha[1:] ** 0.5")],
    "2.13": [("signal[steps].item()", "signal[steps].item() ** 2"), (".item() ** 2", ".item() ** 2 * 2**0.5")],
    "2.14": [("beta[1 : t + 1] *", "beta[1 : t + 1] ** 0.5 *"), ("/ alpha_bar[1 : t + 1]", "/ alpha_bar[:t]")],
    "2.15": [("exact / (1 - exact)", "(exact / (1 - exact)) ** 0.5"), ("exact / (1 - exact)", "exact")],
    "2.16": [(".log().sigmoid()", ".sigmoid()")],
    "2.17": [("short.sqrt_alpha_bar[300]", "short.alpha_bar[300]"), ("short.sqrt_alpha_bar[300]", "0.0")],
    "2.18": [("(1e-4 + 0.02) / 2", "(1e-4 + 0.02)"), ("(1e-4 + 0.02) / 2", "0.02 / 2")],
    "2.19": [(") ** 2", ")"), ("0.008) / 1.008", "0.008)"), ("f / f[0]", "f")],
    "2.20": [("4 * x.var()", "2 * x.var()")],
}

BREAKS["03_likelihood_bound"] = {
    "3.1": [("log_density(x).exp()", "log_density(x).exp() ** 0.5"), ("density.sum() * dx", "density.sum()")],
    "3.2": [("noised(schedule, 3)", "noised(schedule, 4)"), ("density @ noising", "noising @ density")],
    "3.3": [("step**3", "step**2"), ("log_step(x_0, x_1, 1)", "log_step(x_1, x_0, 1)")],
    "3.4": [("sum((1, 2))", "sum((0, 1))"), ("coarse)[0]", "coarse)[1]")],
    "3.5": [
        ("over_data(log_q) - torch.xlogy(", "over_data(log_q) + torch.xlogy("),
        ("density / values", "values / density"),
    ],
    "3.6": [(".exp(), expected", ", expected"), ("expected=log_p", "expected=2**0.5 * log_p")],
    "3.7": [("above / below", "below / above"), ("(schedule, path[t - 1]", "(schedule, path[0]")],
    "3.8": [("expected=bounds", "expected=log_p"), ("torch.minimum", "torch.maximum")],
    "3.9": [("log_p[name] - bounds[name]", "bounds[name] - log_p[name]"), ("chain_gap(model", "chain_gap(ideal")],
    "3.10": [(" / p[t - 1][:, None]", ""), ("p[t][None, :]", "p[t - 1][None, :]")],
    "3.11": [(".exp().sum(0)", ".exp().sum(1)"), (".exp() * x)", ".exp() * x * 2**0.5)")],
    "3.12": [("closed[t - 1] / closed[t]", "closed[t] / closed[t - 1]"), ("(closed[1]", "(closed[2]")],
    "3.13": [("-values.sum()", "values.sum()"), ("-values.sum()", "-values[:-1].sum()")],
}

BREAKS["04_bound_to_noise"] = {
    "4.1": [("s.alpha[4].sqrt() * y", "s.alpha[4] * y"), ("/ s.sigma[3] ** 2", "/ s.sigma[3]")],
    "4.2": [("s.alpha[2:] / s.beta[2:]", "1 / s.beta[2:]"), ("(x - grid_mean) ** 2", "x**2")],
    "4.3": [("(back * x).sum()", "(back * x**2).sum()"), ("mean[0], grid_mean", "2**0.5 * mean[0], grid_mean")],
    "4.4": [("bells @ hidden", "bells @ density"), ("+ log_m2 - log_m3[386]", "+ log_m2")],
    "4.5": [("log_1 - log_2", "log_2 - log_1"), ("(log_1.exp()", "(log_2.exp()")],
    "4.6": [("distances / (2 * schedule", "distances / (schedule"), ("constant + distances", "distances")],
    "4.7": [("error, floor + ", "error, "), ("(best - model.mean(x, t)) ** 2", "(best - model.mean(x, t)).abs()")],
    "4.8": [("t_images, noise), images", "t_images, -noise), images"), ("t_images, images)", "t_images - 1, images)")],
    "4.9": [("mean_from_eps(long, noisy, t_images,", "mean_from_eps(long, noisy, t_images - 1,")],
    "4.10": [("schedule.beta[t] ** 2", "schedule.beta[t]"), ("(schedule.alpha[t] *", "(")],
    "4.11": [("C + w * errors", "w * errors"), ("C + w * errors", "C + 2**0.5 * w * errors")],
    "4.12": [("0.5 * (ratio", "(ratio"), ("ratio[1:-1] / ratio[2:]", "ratio[2:] / ratio[1:-1]")],
    "4.13": [("- C) / w", "- C) * w"), ("[:-1] - C)", "[:-1])")],
    "4.14": [("samples=draws", "samples=draws / T"), ("samples=draws", "samples=2**0.5 * draws")],
    "4.15": [("(eps - guess)", "(eps + guess)"), (".square().sum(1), expected", ".abs().sum(1), expected")],
    "4.16": [(".exp().sum()", ".sum()"), ("log_grey(greys,", "log_grey(greys[1:],")],
    "4.17": [("999 * (C_long", "(C_long"), ("+ w_large[t] * errors", "+ errors")],
    "4.18": [("theta**2 * power", "theta * power"), ("((v * schedule.sigma[1:])", "((v * schedule.sigma[1:] ** 2)")],
    "4.19": [("noisy - sigma", "noisy + sigma"), ("sigma * noisy + signal * velocity", "sigma * noisy + velocity")],
    "4.20": [("-ideal_eps", "ideal_eps"), (" / schedule.sigma[t]", "")],
    "4.21": [
        ("error, signal**2", "error, signal"),
        ("error, sigma**2", "error, sigma"),
        ("ratio[t_images]", "ratio[1:65]"),
    ],
}

BREAKS["05_time_conditioning"] = {
    "5.1": [
        ("- price, expected", ", expected"),
        ("(with_t, noise), (with_t, without_t)", "(with_t, noise), (without_t, noise)"),
    ],
    "5.2": [("append_time(x, t, 1000)", "append_time(x, t - 1, 1000)"), ("longer[:, 1]", "longer[:, 0]")],
    "5.3": [("[300]).sqrt()", "[300])"), ("snr(schedule)[100] / snr(schedule)[300]", "snr(schedule)[300]")],
    "5.4": [("h[..., 1:-1, 1:-1], right[..., 1:-1, 1:-1]", "h, right"), ("sum((1, 2))", "mean((1, 2))")],
    "5.5": [("(-k / 32)", "(-2 * k / 32)"), ("E[[0, 1, 998], :32]", "E[[0, 1, 998], 32:]")],
    "5.6": [("(frequency * apart).cos()", "(frequency * apart).sin()"), ("double() / 32)", "double() / 31)")],
    "5.7": [("(1 + scale[b, c])", "scale[b, c]"), ("h[b, c] + shift[b, c]", "h[b, c]")],
}

BREAKS["06_unet"] = {
    "6.1": [("(2 - 1) * 1", "(2 - 1) * 2"), ("+ (3 - 1) * 2 + (3 - 1) * 2", "+ (3 - 1) * 1 + (3 - 1) * 1")],
    "6.2": [("F.group_norm(x, 4)", "F.group_norm(x, 3)"), ("F.group_norm(x, 4)", "F.group_norm(x, 4, eps=1e-3)")],
    "6.3": [("5 * x + 7", "-5 * x + 7"), ("5 * x + 7", "x**2")],
    "6.4": [
        ("(1 + film[i, c])", "film[i, c]"),
        ("film[i, 24 + c]", "film[i, c]"),
        ("block.shortcut(x[i]) + block.last", "block.last"),
    ],
    "6.5": [
        ("block.shortcut(x), tol", "0 * block.shortcut(x), tol"),
        ("block.shortcut(x), tol", "2 * block.shortcut(x), tol"),
    ],
    "6.6": [("expected=32.0", "expected=1.0"), ("expected=32.0", "expected=32.0**0.5")],
    "6.7": [
        (" / math.sqrt(8)", ""),
        ("scores.softmax(2)", "scores.softmax(1)"),
        ("product_attention(q, k, v)", "product_attention(k, q, v)"),
    ],
    "6.8": [("4 * n * C**2 + 2", "3 * n * C**2 + 2"), ("+ 2 * n**2 * C)", "+ 2 * n * C)")],
    "6.9": [("28 * 28 * 3**2", "28 * 3**2"), ("3**2 * 128 * 64", "128 * 64"), ("1**2 * 128 * 64", "1**2 * 64 * 64")],
    "6.10": [("1 / 784", "1.0"), ("1 / 784", "1 / 28")],
    "6.11": [("alpha[400].sqrt()", "alpha[400]"), ("beta[400].sqrt() * push", "beta[400] * push")],
    "6.12": [
        ("stretched / 64)", "stretched / 8)"),
        ("1 / a_bar[1000] + (beta", "(beta"),
        ("beta[2:] /", "beta[2:] ** 0.5 /"),
    ],
}

BREAKS["07_train_ddpm"] = {
    "7.1": [("(1 - c * tables.sigma[1:]) ** 2 + ", "(1 - tables.sigma[1:]) ** 2 + "), ("+ c**2 * tables", "+ tables")],
    "7.2": [("expected=variance / B)", "expected=variance)"), ("exact[independent - 1]", "exact[spread - 1]")],
    "7.3": [("(variance - between) / B)", "variance / B)"), ("exact[spread - 1]", "exact[independent - 1]")],
    "7.4": [
        ("ema_update(start, value, 0.9)", "ema_update(value, start, 0.9)"),
        ("value, start, 0.9))", "value, start, 0.99))"),
    ],
    "7.5": [("(1 - d) * powers", "powers"), ("(n - 1, -1, -1", "(n, 0, -1")],
    "7.6": [("(1 - d) / (1 + d)", "(1 - d)"), ("samples=average**2", "samples=average.abs()")],
    "7.7": [("ramps.min(0)", "ramps.max(0)"), ("0, -1) / 750", "0, -1) / 3000")],
    "7.8": [("min(1, 1 / g", "min(1, 2 / g"), (".square().sum().sqrt()", ".square().sum()")],
}

BREAKS["08_sampling"] = {
    "8.1": [
        ("exact.sigma[t] * noise)", "exact.sigma[t] ** 2 * noise)"),
        ("/ exact.sqrt_alpha_bar[t]", "/ exact.alpha_bar[t]"),
    ],
    "8.2": [
        ("sigma[t - 1] ** 2 / sigma[t] ** 2", "sigma[t - 1] / sigma[t]"),
        ("signal[t - 1] * beta[t] /", "beta[t] /"),
    ],
    "8.3": [
        ("(x_t - beta[t] / sigma[t] * noise)", "(x_t - beta[t] * noise)"),
        ("noise) / alpha[t].sqrt()", "noise) / alpha[t]"),
    ],
    "8.4": [
        ("beta[t].item()]", "exact.posterior_variance[t].item()]"),
        ("(pixel - beta[t]", "(pixel + beta[t]"),
        ("beta[t].item()]", "beta[t].sqrt().item()]"),
    ],
    "8.5": [
        ("sigma[1:-1] ** 2 / sigma[2:] ** 2", "sigma[1:-1] / sigma[2:]"),
        ("/ beta[2:], ratio", "/ beta[1:-1], ratio"),
    ],
    "8.6": [("- phi**2).sqrt()", "- phi**2)"), ("- phi**2)", "- phi)"), ("signal[s] * x_0 + (", "signal[t] * x_0 + (")],
    "8.7": [
        ("phi**2, posterior", "phi, posterior"),
        ("eps, z, eta=eta", "eps, z, eta=0.5"),
        ("(1 - a_bar[2:] /", "(1 + a_bar[2:] /"),
    ],
    "8.8": [
        ("700, 200, true_noise), x_200", "700, 199, true_noise), x_200"),
        ("q_sample(exact, x0, torch.full((4,), 200)", "q_sample(exact, x0, torch.full((4,), 700)"),
    ],
    "8.9": [("rho[200] - rho[700]", "rho[700] - rho[200]"), ("x_700 / signal[700]", "x_700")],
    "8.10": [("0.75**2 + 0.25**2", "1.0"), ("0.5**2 + 0.5**2]", "0.5 + 0.5]")],
    "8.11": [
        ("(0.3 * theta).sin()", "(0.3 * theta)"),
        ("(x.norm() / aside.norm())", "1"),
        ("torch.tensor([0.3]", "torch.tensor([0.7]"),
    ],
}

BREAKS["09_evaluation"] = {
    "9.1": [("-p[classes].log()", "-p[classes].log2()"), ("* math.log(2))", ")"), ("math.log(10)", "10.0")],
    "9.2": [("(2.0 - 0.5) ** 2", "(2.0**2 - 0.5**2) ** 2"), ("y).sort().values", "y)"), ("(1.0 - 2.5) ** 2 +", "")],
    "9.3": [
        ("root(A, -0.5)\n", "root(A)\n"),
        ("M @ A @ M, B", "M @ B @ M, A"),
        ("A) @ B @ root(A))", "B) @ A @ root(B))"),
    ],
    "9.4": [
        ("A + B - 2 *", "A + B -"),
        ("apart.square().sum() +", "apart.square().sum().sqrt() +"),
        ("x @ M.T", "x @ B"),
    ],
    "9.5": [("real.sqrt().sum()", "real.sum()"), ("(A @ B).real", "(A + B).real"), ("+ torch.linalg.inv(Z)", "+ Z")],
    "9.6": [("/ 50)", "/ 100)"), (".cov().trace()", ".cov().sum()"), ("=2 * ", "="), ("order[50:100]", "order[:100]")],
    "9.7": [("- 2 * product", "- product"), ("/ 784", "/ 28"), ("mean((2, 3, 4))", "sum((2, 3, 4))")],
    "9.8": [
        ("(log_q - log_p)", "(-log_p)"),
        ("/ math.log(2)).fl", ").fl"),
        ("range(toy.T, 0, -1)", "range(toy.T, 1, -1)"),
    ],
    "9.9": [("nats.item() / math.log(2)", "nats.item()"), ("short.sigma[-1])", "short.sigma[-1] ** 2)")],
    "9.10": [
        ("2 * exact.alpha * exact.sigma**2", "2 * exact.sigma**2"),
        ("0.5 * (r - 1 - r.log())", "0.5 * (r - 1 + r.log())"),
        ("price[t - 1] +", ""),
        ("exact.beta[t].reshape", "exact.posterior_variance[t].reshape"),
    ],
    "9.11": [("(levels[1:] + levels[:-1]) / 2", "levels[1:]"), ("torch.tensor(0.4)", "torch.tensor(0.4**2)")],
}

BREAKS["10_libraries"] = {
    "10.1": [("ours.alpha_bar[1:]", "ours.alpha_bar[:-1]"), ("theirs.alphas_cumprod, ours", "theirs.alphas, ours")],
    "10.2": [
        ("sigma / (2 * signal)", "sigma / signal"),
        ("(x_t / signal + 1) / 2", "(x_t + 1) / 2"),
        ("denoised, (guess + 1) / 2", "denoised, guess"),
    ],
    "10.3": [("snr(schedule)[t].item() * image_error", "image_error"), ("x_t - sigma * eps_hat", "x_t - eps_hat")],
    "10.4": [("loss.backward(loss)", "loss.backward()"), ("** 2 / 2, conv", "** 2, conv")],
}

BREAKS["11_colour_and_scale"] = {
    "11.1": [("2 * 9 * 32 + 1)", "2 * 9 * 32)"), ("(3 - 1) * 2**2", "(3 - 1) * 2"), ("2 * 9 * 32", "9 * 32")],
    "11.2": [("expected=1 / d**2", "expected=1 / d"), ("noise.mean(1)", "noise.sum(1)")],
    "11.3": [
        ("+ 2 * np.log(d)", "+ np.log(d)"),
        ("/ cosine.sqrt_alpha_bar[500]", ""),
        ("cosine, large, t, torch", "cosine, large, t - 100, torch"),
    ],
    "11.4": [
        ("- 2 * np.log(d)", "- np.log(d)"),
        ("shifted(cosine, d))", "shifted(cosine, d**0.5))"),
        ("snr(cosine)[1:].log()", "snr(linear)[1:].log()"),
        ("shifted(cosine, 2), large", "shifted(cosine, 1), large"),
    ],
    "11.5": [("-sigma / signal * (eps", "sigma / signal * (eps"), ("-sigma / signal * (eps", "-sigma * (eps")],
    "11.6": [
        ("-sigma * (v_hat", "-sigma / signal * (v_hat"),
        ("(signal * noise - sigma * real)", "(signal * noise + sigma * real)"),
        ('wrong["velocity"], -sigma', 'wrong["noise"], -sigma'),
    ],
    "11.7": [(".mean(0), tol", ".sum(0), tol"), ("rank, 3) for part", "0, 3) for part"), ("range(3)", "range(2)")],
}

BREAKS["12_guidance"] = {
    "12.1": [("net.label.weight[7] -", "net.label.weight[6] -"), (" - net.label.weight[none])", ")")],
    "12.2": [
        ("weight / weight.sum(0)", "weight"),
        ("log_density(x).exp()", "log_density(x)"),
    ],
    "12.3": [("slope(log_p[y]) -", "slope(log_p[y]) +"), ("log_p.log_softmax(0)[y]", "log_p.softmax(0)[y]")],
    "12.4": [("eps - 3.0", "eps + 3.0"), ("exact.sigma[at] *", ""), ("exact.sigma[at] *", "exact.sigma[at] ** 2 *")],
    "12.5": [("(1 + w) * eps_y - w", "w * eps_y - (w - 1)"), ("- w * eps", "+ w * eps")],
    "12.6": [("scale * log_p_y", "(scale - 1) * log_p_y"), ("log_both + scale", "log_one + scale")],
    "12.7": [
        ("(scale + (1 - scale) * 0.5)", "scale"),
        ("0.5 / (scale", "1 / (scale"),
        ("(grid - mean) ** 2", "grid**2"),
    ],
    "12.8": [("0.5**scale", "0.5 / (scale + (1 - scale) * 0.5)"), ("(high - low) ** 2", "(high - low)")],
    "12.9": [
        ("eps - 1.5", "eps - 3.0"),
        ("(eps_a + eps_b) / 2", "(eps_a + eps_b)"),
        ("log_softmax(0).sum(0)", "sum(0)"),
    ],
}

BREAKS["13_debugging_clinic"] = {
    "13.1": [
        ("torch.tanh(signal * x / sigma**2)", "torch.tanh(signal * x / sigma)"),
        ("torch.tanh(signal * x / sigma**2)", "torch.tanh(x / sigma**2)"),
        ("torch.tanh(", "torch.sigmoid("),
    ],
    "13.2": [
        (" / (2 * sigma", " / (sigma"),
        ("-sigma[t - 1].reshape", "sigma[t - 1].reshape"),
        ("signal[t - 1, None, None] * images", "images"),
    ],
    "13.3": [
        ("schedule.sqrt_alpha_bar[t] * pixel", "schedule.alpha_bar[t] * pixel"),
        ("schedule.sigma[t] * eps", "schedule.sigma[t] ** 2 * eps"),
        ("left.square()", "left.abs()"),
    ],
    "13.4": [("expected=1 / 16", "expected=1 / 4"), ("eps.mean(1)", "eps.sum(1)"), ("eps[:, 0]", "eps.mean(1)**0")],
}

BREAKS["14_flow_matching"] = {
    "14.1": [("torch.lerp(x0, eps,", "torch.lerp(eps, x0,")],
    "14.2": [("(later - x_a) /", "(x_a - later) /")],
    "14.3": [("* clean) / amount", "* clean)"), ("(noise - clean)", "(clean - noise)")],
    "14.4": [("growth, -torch", "growth, torch"), ("density * v(", "v(")],
    "14.5": [("log_q + spread / n", "log_q - spread / n"), ("x - slope / n", "x + slope / n")],
    "14.6": [(" - (v(x, amount) - u) ** 2", ""), ("theta * grid - v(", "grid - v(")],
    "14.7": [("samples=2 * x *", "samples=x *"), ("chance * 2 * grid", "chance * grid")],
    "14.8": [("0.3, velocity)), torch", "0.7, velocity)), torch"), ("[x0, eps]", "[eps, x0]")],
    "14.9": [("-guess / 0.3", "guess / 0.3"), ("-guess / 0.3", "-guess")],
    "14.10": [("noise, amounts[t])", "noise, schedule.sigma[t])")],
    "14.11": [("(amounts[500] - amounts[700])", "(amounts[700] - amounts[500])"), ("size[500] * euler", "euler")],
    "14.12": [("(c * h) ** 2 / 2", "(c * h) ** 2"), ("1 + c * h", "1 - c * h")],
    "14.13": [("torch.pi * s / 2", "torch.pi * s")],
    "14.14": [("without + 2.5", "without - 2.5"), ("with_label)[1], 2.5", "with_label)[1], 1.5")],
}

BREAKS["15_solvers"] = {
    "15.1": [("(m - 1) * x", "m * x"), ("1 - m**2]", "1 - m]")],
    "15.2": [("n).sqrt()", "n)"), ("[0.1, 0.5, 1.0]", "[0.1, 0.5, 0.9]")],
    "15.3": [("beta / 2 * d(d(q, x), x)", "beta * d(d(q, x), x)"), ("d(beta / 2 * x", "d(-beta / 2 * x")],
    "15.4": [("d(q, t), -d(", "d(q, t), d("), ("sde.slope(pixels, x, t) * q", "sde.slope(pixels, x, t)")],
    "15.5": [("-d(q, t), -d(flow", "d(q, t), -d(flow"), ("share**2 * beta / 2", "share * beta / 2 + 0.1")],
    "15.6": [("3 / 8 * x", "x / 2"), ("score / 2, tol", "score, tol")],
    "15.7": [("d(q * score / 2, x)", "d(q * score, x)")],
    "15.8": [("sde.sigma(s) * integral", "sde.sigma(t) * integral"), ("path, sde.sigma(s) / sde.sigma(t) *", "path, ")],
    "15.9": [("r, guess[r]", "r, guess[t]"), ("(ell - 1)", "ell"), ("x_t + cosine", "x_t - cosine")],
    "15.10": [("[1.0, 1.0, 2.0, 2.0]", "[1.0, 2.0, 2.0, 2.0]")],
    "15.11": [("noise + total, pix", "noise - total, pix"), ("noise + total, pix", "total, pix")],
    "15.12": [("J.trace(), off", "J.sum(), off"), (" - 2 * J.diag().square().sum()", "")],
    "15.13": [("(s * kept) ** 2", "s**2"), ("(last.x / D**0.5) ** 2", "last.x.abs()")],
    "15.14": [("(old[1] - old[-1]))[1", "old[1])[1"), ("((old - old[-1])", "(old")],
}

BREAKS["16_targets_and_weights"] = {
    "16.1": [("(b - a * rho) ** 2", "(b + a * rho) ** 2"), ("(b - a * rho) ** 2", "(b - a * rho).abs() ** 1.5")],
    "16.2": [("(noise_error + clean", "(noise_error - clean"), ("velocity_loss(*batch), (", "ddpm_loss(*batch), (")],
    "16.3": [("torch.minimum(noise", "torch.maximum(noise"), ("min_snr_loss(*batch)", "velocity_loss(*batch)")],
    "16.4": [("samples=weight.mean() * exact", "samples=exact"), ("expected=(weight * exact)", "expected=exact")],
    "16.5": [
        ("(1 - u) * weight", "weight * 0"),
        ("p = u / 1000", "p = u**2 / 1000"),
        ("(mixed[", "(by_weight["),
    ],
    "16.6": [("(c_in * x) ** 2", "(c_in * x).abs()"), ("(c_in * x) ** 2", "(c_in**2 * x) ** 2")],
    "16.7": [
        ("c_skip**2 * r**2", "c_skip * r**2"),
        ("(1 - c_skip) ** 2", "(1 + c_skip) ** 2"),
        ("s**2 - 2 *", "s**2 - "),
    ],
    "16.8": [("tried.min().sqrt()", "tried.min()"), ("choices**2 * r**2", "choices * r**2")],
    "16.9": [
        ("/ c_out, -velocity", "/ c_out, velocity"),
        ("c_in * x, x_t", "x, x_t"),
        (".flatten(), 1.0)", ".flatten(), 0.9)"),
    ],
    "16.10": [
        ("K[:-1] - K[1:]", "K[1:] - K[:-1]"),
        ("sigma[1:] ** 2) - b", "sigma[1:]) - b"),
        ("- bounds[1:]", "- bounds[:-1]"),
    ],
    "16.11": [("omega.diff()", "-omega.diff()"), ("-omega[-1:]", "omega[-1:]"), ("omega[:1],", "0 * omega[:1],")],
    "16.12": [("lam[500]) / 2", "lam[500])"), ('omegas["velocity"]', 'omegas["noise"]')],
}

BREAKS["17_prior_at_work"] = {
    "17.1": [("two.log_density(x) + log_p_y", "two.log_density(x) - log_p_y"), (" - evidence", "")],
    "17.2": [("log_density, x) + pull(x)", "log_density, x) - pull(x)"), ("+ pull(x), tol", ", tol")],
    "17.3": [("ratio * pull(x)", "pull(x)"), ("sigma[at] ** 2 /", "sigma[at] /")],
    "17.4": [("sqrt_alpha_bar[at] * 0.4,", "alpha_bar[at] * 0.4,"), ("sigma[at] ** 2]", "sigma[at]]")],
    "17.5": [("(1 - keep**2).sqrt() * x_t", "(1 - keep) * x_t"), ("keep * lower", "keep**2 * lower")],
    "17.6": [("/ s**2 @ A", "@ A"), ("(ys - first(x0_hat))", "(first(x0_hat) - ys)")],
    "17.7": [("sigma[at] ** 2 * C", "sigma[at] * C"), ("two.given(v, seeing", "two.given(v, eye")],
    "17.8": [("s**2 + A @", "A @"), ("+ A @ C_t @ A.T", "")],
    "17.9": [("draws[1:].amin(0)", "draws[1:10].amin(0)"), ("> least) &", "> least) |")],
    "17.10": [("kappa * (g - m)", "kappa * g"), ("(1 - kappa**2).sqrt()", "(1 - kappa)")],
    "17.11": [("- 0.8) / 0.7", "- 0.8) / 0.3"), ("(x + 0.5)", "(x - 0.5)")],
}

BREAKS["18_few_steps"] = {
    "18.1": [("every - weight @", "every + weight @"), ("(mean - weight @ mean) ** 2", "mean**2")],
    "18.2": [("turn / 2", "turn"), ("- first) / -h", "- first) / h")],
    "18.3": [("growth, -flux", "growth, flux"), ("log_density(pixels, x, 0.4).exp()", "log_density(pixels, x, 0.4)")],
    "18.4": [("x, 1.0, 0.0), ode", "x, 0.9, 0.0), ode"), ("x, 1.0, 0.0), ode", "x, 1.0, 0.1), ode")],
    "18.5": [("log_density(ends)", "log_density(x)"), ("x, 1.0) - pixels", "x, 0.0) - pixels")],
    "18.6": [("times[place], 0.0)", "times[place] * 0.9, 0.0)"), ("path[-1], tol=1e-3", "path[0], tol=1e-3")],
    "18.7": [("x = m * x0 +", "x = x0 +"), ("m, sigma, 0.5)", "m, sigma, 1.0)")],
    "18.8": [("x, -answer", "x, answer"), ("sigma[400], 1.0)", "sigma[400], 0.5)")],
    "18.9": [("[1.0, 2.0]", "[1.0, 1.0]"), ("coarse / fine", "fine / coarse")],
    "18.10": [("two, 400)", "two, 600)"), ("x_t, 800, two", "x_u, 600, two")],
    "18.11": [("rounds=3", "rounds=2"), ("0.2, 9)", "0.2, 5)")],
}

BREAKS["19_patches_latents_words"] = {
    "19.1": [("28 / 4 * 28 / 4", "28 / 4"), ("patchify(x[:8], 4)", "patchify(x[:8], 7)")],
    "19.2": [("12 * N", "8 * N"), ("2 * N**2 * d", "N**2 * d"), (" + 6 * d**2", "")],
    "19.3": [("block.look(h)[:, order],", "block.look(h),"), ("block.look(h[:, order]),", "block.look(told),")],
    "19.4": [("(1 + scale[0])", "scale[0]"), ("gate[0] * torch", "torch"), ("one.var(corr", "one.std(corr")],
    "19.5": [
        ("block(h, torch.randn", "block.look(h) + block(h, torch.randn"),
        (")), h)", ")), F.layer_norm(h, (d,)))"),
    ],
    "19.6": [("v * a_bar / (v * a_bar +", "a_bar / (a_bar +"), ("v**0.5 * z_0", "z_0")],
    "19.7": [(" - raw.mean() ** 2", ""), (").sqrt()", ")")],
    "19.8": [("wide / (1 + wide / long)", "wide"), ("1 + wide / long", "1 + long / wide")],
    "19.9": [('"slant"] + 1', '"slant"] - 1'), ("14 - row", "row - 14")],
    "19.10": [("told[:5]) / 5", "told) / 7"), (") / 5", ")")],
    "19.11": [("(2 * 8**0.5)", "8**0.5"), ("** 2 / (2", "/ (2"), ("k / k.norm(dim=-1, keepdim=True)", "k")],
    "19.12": [("(1 - s) * avoided", "s * avoided"), ("negative + s * (", "positive + s * (")],
    "19.13": [("lora.B @ lora.A)", "lora.B @ lora.A / 4)"), ("linear.weight + lora.B", "lora.B")],
    "19.14": [("G = 2 *", "G ="), ("(G @ lora.A.T, G.T", "(G @ lora.A.T / 4, G.T")],
}

BREAKS["20_memorise_or_generalise"] = {
    "20.1": [("+ (joint.sum(0)", "- (joint.sum(0)"), ("(f - ideal) ** 2", "(f - ideal).abs()")],
    "20.2": [("* logs.exp(), logs)", ", logs)"), ("2 * math.log(5)", "math.log(5)")],
    "20.3": [("v * (1 - 1 / n), v * (1 + 1 / n)", "v, v"), ("(unseen - mean)", "(unseen - seen)")],
    "20.4": [("2 / (1 + h**2)", "2 / (1 + h)"), ("/ 0.8**2)", "/ 0.8)")],
    "20.5": [(").sum() / 2)", ").sum())"), ("ratio * variances + 1)", "ratio * variances)")],
    "20.6": [("n ** (2 / D)", "n ** (1 / D)"), ("- 1) / s**2", "- 1) / s")],
    "20.7": [("0.6, 0.8, side)", "0.8, 0.6, side)"), ("w_1 @ images[:, 0, 6, 7]", "w @ images[:, 0, 6, 7]")],
    "20.8": [("eta * B / N)", "eta / N)"), ("** k)", "** B)")],
    "20.9": [("expected=n / (n + m)", "expected=m / (n + m)"), ("expected=n / (n + m)", "expected=0.5")],
    "20.10": [("** d / (1 + u.double() ** d)", "** d"), ("expected=u.double() ** d", "expected=u.double()")],
    "20.11": [("(shares - 0.5) ** 2", "(shares - 0.5).abs()"), ("null_error(counts) ** 2", "0.25 / counts.sum()")],
    "20.12": [("a * (1 - floor / L)", "a + 0 * L"), ("-slope, a", "slope, a")],
}


def code_cells(name: str) -> list[str]:
    source = (SOURCES / f"{name}.py").read_text(encoding="utf-8")
    cells = re.split(r"^# %%(.*)\n", source, flags=re.MULTILINE)[1:]  # header, cell, header, cell, ...
    return [cell for header, cell in zip(cells[::2], cells[1::2], strict=True) if "[markdown]" not in header]


def needed(cells: list[str]) -> list[str]:
    """The cells that verify, and those before them that make or change what they use: the others can take minutes."""
    kept, wanted = [], set()
    for cell in reversed(cells):
        tree = ast.parse(re.sub(r"^%.*", "", cell, flags=re.MULTILINE))
        made = stored(tree.body)
        made |= {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        if "verify(" in cell or "import " in cell or (made | changed(tree)) & wanted:
            kept.append(cell)
            wanted -= stored(target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets)
            wanted |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} - made
            wanted |= stored(node.target for node in tree.body if isinstance(node, ast.AugAssign))  # it was there
    return kept[::-1]


def stored(nodes: Iterable[ast.AST]) -> set[str]:
    """The names that are assigned in these."""
    names = [name for node in nodes for name in ast.walk(node) if isinstance(name, ast.Name)]
    return {name.id for name in names if isinstance(name.ctx, ast.Store)}


def changed(tree: ast.Module) -> set[str]:
    """Names of what statements may change in place: what they assign into, call a method of, or hand to a function."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript | ast.Attribute) and isinstance(node.ctx, ast.Store):
            found |= {name.id for name in ast.walk(node.value) if isinstance(name, ast.Name)}
        call = node.value if isinstance(node, ast.Expr) else node.iter if isinstance(node, ast.For) else None
        if isinstance(call, ast.Call) and not re.match(r"print|verify|viz\.|show\.|range|enumerate", ast.unparse(call)):
            found |= {name.id for name in ast.walk(call) if isinstance(name, ast.Name)}
    return found - {"generator", "schedule", "device", "torch"}


def broken_ways(name: str, cell: str) -> list[tuple[str, str]]:
    """Equation and source of every broken version of a cell."""
    versions = []
    for tag in dict.fromkeys(re.findall(r'verify\(\s*"([\d.]+)"', cell)):
        for right, wrong in BREAKS[name].get(tag, []):
            if right in cell:
                versions.append((tag, cell.replace(right, wrong)))
    return versions


def suspicious(verify):
    """`verify`, which then has to refuse the same equation with its right-hand side slightly off."""

    def doubted(tag, left=None, right=None, *, tol=1e-6, samples=None, expected=None, **others):
        if samples is None:
            verify(tag, left, right, tol=tol)
            right = torch.as_tensor(right).detach().double()
            wrong = [torch.where(right == 0, 10 * tol, right * (1 + 10 * tol))]
            calls = [{"left": left, "right": side, "tol": tol} for side in wrong]
        else:
            verify(tag, samples=samples, expected=expected, **others)
            expected = torch.as_tensor(expected, dtype=torch.float64)
            calls = []
            for place in expected.reshape(-1).nonzero()[:, 0]:  # each expected mean, if it is off by sqrt(2)
                wrong = expected.reshape(-1).clone()
                wrong[place] *= 2**0.5
                calls.append({"samples": samples, "expected": wrong.reshape(expected.shape), **others})
        for call in calls:
            with pytest.raises(EquationError, match=re.escape(f"({tag})")):
                verify(tag, **call)

    return doubted


@pytest.mark.parametrize("name", BREAKS)
def test_each_equation_has_its_mistakes(name):
    text = (SOURCES / f"{name}.py").read_text(encoding="utf-8")
    numbered = set(re.findall(r"\\tag\{([\d.]+)\}", text))
    assert numbered == set(BREAKS[name])
    assert numbered == set(re.findall(r'verify\(\s*"([\d.]+)"', text))


@pytest.fixture
def one_thread():
    """Many small tensors: on a busy machine threads that wait for each other take longer than the work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", BREAKS)
def test_broken_equations_are_noticed(name, monkeypatch):
    for library in ("diffusers", "deepinv") if name == "10_libraries" else ():
        pytest.importorskip(library)
    load, drawn, painted = ddpm_helpers.load_images, *(_drawn_digits(True, "", colour) for colour in (False, True))

    def offline(name="mnist", **options):
        return load(name, **options) if isinstance(name, Path) else painted if name == "cifar10" else drawn

    monkeypatch.setattr(ddpm_helpers, "load_images", offline)
    monkeypatch.setattr(ddpm_helpers, "viz", MagicMock(), raising=False)
    monkeypatch.setattr(lessons, "show", MagicMock(), raising=False)
    monkeypatch.setenv("DDPM_BUDGET", "quick")
    world: dict = {"__name__": name}
    noticed = dict.fromkeys(BREAKS[name], 0)
    cells = code_cells(name)
    for cell in needed([cell for cell in cells if "viz.subplots(" not in cell]):
        if "verify(" not in cell:
            exec(cell, world)
            continue
        before = dict(world)
        states = [world["generator"].get_state()] if "generator" in world else []
        checked = world | {"verify": suspicious(world["verify"])}
        exec(cell, checked)
        states += [world["generator"].get_state()] if states else []
        for tag, broken in broken_ways(name, cell):
            if states:
                world["generator"].set_state(states[0])
            with pytest.raises(EquationError, match=re.escape(f"({tag})")):
                exec(broken, dict(before))
            noticed[tag] += 1
        if states:
            world["generator"].set_state(states[1])
        world |= checked | {"verify": before["verify"]}
    assert noticed == {tag: len(ways) for tag, ways in BREAKS[name].items()}
