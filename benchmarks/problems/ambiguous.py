"""Problems with several answers that describe the events equally well, all of which must be reported."""

import math

import numpy as np
import torch

from .common import Known, Mixture, normal


class Ambiguous(Known):
    """A problem whose `answers(theta)` are the equivalent values of theta, (answer, parameter)."""

    finding = "another answer"

    def answers(self, theta):
        raise NotImplementedError


class Square(Ambiguous):
    """A mean that is the square of the parameter."""

    science = "statistics"
    parameters, lower, upper, truth = ("a",), (-3.0,), (3.3,), (1.4,)
    observables, noise_dim = ("x",), 1

    def simulate(self, theta, noise):
        return theta[0] ** 2 + torch.special.ndtri(noise)

    def draw(self, n, rng, a):
        return rng.normal(a**2, 1, n)

    def log_likelihood(self, theta, statistic):
        return -0.5 * (statistic - theta[0] ** 2).square().sum()

    def answers(self, theta):
        return np.array([[theta[0]], [-theta[0]]])


class Labels(Ambiguous, Mixture):
    """Two populations of which either may be the first."""

    science = "ecology"
    parameters, lower, upper, truth = (
        ("first", "second", "fraction"),
        (-4.0, -4.0, 0.05),
        (4.0, 4.0, 0.95),
        (-1.0, 1.5, 0.3),
    )
    observables, noise_dim, _within = ("x",), 1, ((-20.0, 20.0),)

    def _parts(self, theta):
        first, second, fraction = theta
        width = torch.full_like(fraction, 0.7)
        return [fraction, 1 - fraction], [[normal(first, width), normal(second, width)]]

    def draw(self, n, rng, first, second, fraction):
        return rng.normal(np.where(rng.random(n) < fraction, first, second), 0.7)

    def answers(self, theta):
        return np.array([theta, [theta[1], theta[0], 1 - theta[2]]])


class SLCP(Ambiguous):
    """Simple likelihood, complex posterior: a normal distribution whose deviations are squares (arXiv 2101.04653)."""

    science = "sbibm"
    parameters, lower, upper = tuple(f"theta_{k}" for k in range(1, 6)), (-3.0,) * 5, (3.0,) * 5
    truth, observables, noise_dim = (0.7, -1.2, -1.1, -0.9, 0.6), ("x", "y"), 2

    def simulate(self, theta, noise):
        a, b = torch.special.ndtri(noise).unbind(-1)
        rho = theta[4].tanh()
        x, y = theta[2] ** 2, theta[3] ** 2
        return torch.stack([theta[0] + x * a, theta[1] + y * (rho * a + (1 - rho**2).sqrt() * b)], -1)

    def draw(self, n, rng, *truth):
        x, y, rho = truth[2] ** 2, truth[3] ** 2, np.tanh(truth[4])
        return rng.multivariate_normal(truth[:2], [[x * x, rho * x * y], [rho * x * y, y * y]], n)

    def log_likelihood(self, theta, statistic):
        rho, x, y = theta[4].tanh(), theta[2] ** 2, theta[3] ** 2
        a, b = (statistic[:, 0] - theta[0]) / x, (statistic[:, 1] - theta[1]) / y
        squares = (a**2 - 2 * rho * a * b + b**2) / (1 - rho**2)
        return -(x.log() + y.log() + 0.5 * (1 - rho**2).log() + 0.5 * squares).sum()

    def answers(self, theta):
        return np.array([[*theta[:2], a * theta[2], b * theta[3], theta[4]] for a in (1, -1) for b in (1, -1)])


class TwoMoons(Ambiguous):
    """A crescent that is moved by the parameters in two ways (arXiv 2101.04653; its ends are smooth here)."""

    science = "sbibm"
    parameters, lower, upper, truth = ("theta_1", "theta_2"), (-1.0, -1.0), (1.0, 1.0), (0.35, 0.2)
    observables, noise_dim, _narrowness = ("x", "y"), 2, 4.0
    _angles = torch.linspace(-math.pi, math.pi, 4001, dtype=torch.float64)
    _table = torch.cumulative_trapezoid(torch.exp(_narrowness * (_angles.cos() - 1)), _angles)

    def simulate(self, theta, noise):
        angle = self._angle(noise[:, 0].contiguous()).to(theta)
        radius = 0.1 + 0.01 * torch.special.ndtri(noise[:, 1])
        moved = torch.stack([-theta.sum().abs(), theta[1] - theta[0]]) / math.sqrt(2)
        return torch.stack([radius * angle.cos() + 0.25, radius * angle.sin()], -1) + moved

    def _angle(self, u):
        target = u.double() * self._table[-1]
        k = torch.searchsorted(self._table, target).clamp(1, len(self._table) - 1)
        part = (target - self._table[k - 1]) / (self._table[k] - self._table[k - 1])
        return self._angles[k] + part * (self._angles[k + 1] - self._angles[k])

    def draw(self, n, rng, first, second):
        angle, radius = rng.vonmises(0, self._narrowness, n), rng.normal(0.1, 0.01, n)
        crescent = np.stack([radius * np.cos(angle) + 0.25, radius * np.sin(angle)], -1)
        return crescent + np.array([-abs(first + second), second - first]) / np.sqrt(2)

    def log_likelihood(self, theta, statistic):
        moved = torch.stack([-theta.sum().abs(), theta[1] - theta[0]]) / math.sqrt(2)
        x, y = (statistic - moved).unbind(-1)
        x = x - 0.25
        radius = (x**2 + y**2).sqrt()
        return (self._narrowness * x / radius - 0.5 * ((radius - 0.1) / 0.01) ** 2 - radius.log()).sum()

    def answers(self, theta):
        return np.array([theta, [-theta[1], -theta[0]]])
