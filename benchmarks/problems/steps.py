"""Regular problems whose simulation lacks derivatives, for some parameters or for all: the fit takes differences."""

import math

import numpy as np
import scipy.stats
import torch

from .common import Known
from .several import Normal


class Where(Known):
    """A mixture that chooses its component by `where`: the derivative for the fraction is missing."""

    science, differentiable = "spectroscopy", False
    parameters, lower, upper, truth = ("fraction", "mean"), (0.05, -2.0), (0.95, 2.0), (0.4, 0.5)
    observables, noise_dim = ("x", "y"), 4

    def simulate(self, theta, noise):
        z = torch.special.ndtri(noise[:, :3])
        x = torch.where(noise[:, 3] < theta[0], theta[1] + z[:, 0], 3 + 0.5 * z[:, 1])
        return torch.stack([x, z[:, 2] + 0.1 * theta[1]], -1)

    def draw(self, n, rng, fraction, mean):
        x = np.where(rng.random(n) < fraction, rng.normal(mean, 1, n), rng.normal(3, 0.5, n))
        return np.stack([x, rng.normal(0.1 * mean, 1, n)], -1)

    def log_likelihood(self, theta, statistic):
        (x, y), (fraction, mean) = statistic.unbind(-1), theta
        first = fraction.log() - 0.5 * (x - mean) ** 2
        second = (1 - fraction).log() - 0.5 * (x - 3) ** 2 / 0.25 + math.log(2)
        return (torch.logaddexp(first, second) - 0.5 * (y - 0.1 * mean) ** 2).sum()


class Rounded(Normal):
    """One of two observables is rounded to 0.1, by the simulation also."""

    science, differentiable = "meteorology", False

    def simulate(self, theta, noise):
        x, y = super().simulate(theta, noise).unbind(-1)
        return torch.stack([(10 * x).round() / 10, y], -1)

    def draw(self, n, rng, *truth):
        x, y = super().draw(n, rng, *truth).T
        return np.stack([(10 * x).round() / 10, y], -1)

    def log_likelihood(self, theta, statistic):
        mean_x, mean_y, dx, dy, rho = theta
        z = (statistic[:, 1] - mean_y) / dy
        low, high = (
            (statistic[:, 0] + half - mean_x - rho * dx * z) / (dx * (1 - rho**2).sqrt()) for half in (-0.05, 0.05)
        )
        # In the upper tail, by symmetry: differences of numbers near 1 are not precise.
        low, high = torch.where(low + high > 0, -high, low), torch.where(low + high > 0, -low, high)
        inside = torch.special.log_ndtr(high) + torch.log1p(
            -torch.exp(torch.special.log_ndtr(low) - torch.special.log_ndtr(high))
        )
        return (inside - 0.5 * z**2 - dy.log()).sum()


class Atoms(Known):
    """A share of the events is exactly 0, and the share is a parameter."""

    science, differentiable = "detector physics", False
    parameters, lower, upper, truth = ("empty", "mean"), (0.02, 0.2), (0.9, 10.0), (0.3, 2.0)
    observables, noise_dim = ("charge",), 2

    def simulate(self, theta, noise):
        charge = -theta[1] * torch.log1p(-noise[:, 0])
        return torch.where(noise[:, 1] < theta[0], 0.0, charge)[:, None]

    def draw(self, n, rng, empty, mean):
        return np.where(rng.random(n) < empty, 0.0, rng.exponential(mean, n))

    def log_likelihood(self, theta, statistic):
        is_empty = statistic == 0
        seen = (1 - theta[0]).log() - theta[1].log() - statistic / theta[1]
        return torch.where(is_empty, theta[0].log(), seen).sum()


class Counts(Known):
    """Numbers of insects in traps (negative binomial), by a simulation in SciPy, which has no derivative."""

    science, differentiable = "ecology", False
    parameters, lower, upper, truth = ("mean", "clumping"), (1.0, 0.3), (60.0, 10.0), (14.0, 2.0)
    observables, noise_dim = ("count",), 1

    def simulate(self, theta, noise):
        mean, size = theta.tolist()
        counts = scipy.stats.nbinom.ppf(noise.numpy(), size, size / (size + mean))
        return torch.as_tensor(counts).to(noise)

    def draw(self, n, rng, mean, size):
        return rng.negative_binomial(size, size / (size + mean), n)

    def log_likelihood(self, theta, statistic):
        mean, size = theta
        ways = torch.lgamma(statistic + size) - torch.lgamma(size)
        return (ways + size * (size / (size + mean)).log() + statistic * (mean / (size + mean)).log()).sum()
