"""A problem with two answers: a mixing angle of which only sin^2 of its double is seen.

For tests and teaching: an angle and its complement to 90 degrees make the same events, so the posterior has two modes
of equal weight, of which a single generator finds one.
"""

import math

import torch

from .._value import Count, value
from .base import Problem


@value
class Octants(Problem):
    """Measurements x of sin^2(2 angle) with normal errors of an unknown deviation.

    Parameters
    ----------
    n_observed : int
        Size of the observed sample.
    """

    n_observed: Count = 5000

    parameters = ("angle", "sigma")
    lower, upper, truth = (0.0, 0.1), (math.pi / 2, 0.9), (0.5, 0.4)
    observables = ("x",)
    noise_dim = 1
    units = {"angle": "rad"}
    long_names = {"angle": "mixing angle", "x": "measured sin^2(2 angle)"}

    @property
    def modes(self):
        """Both answers that the events cannot tell apart, ((parameter, ...), (parameter, ...))."""
        angle, sigma = self.truth
        return self.truth, (math.pi / 2 - angle, sigma)

    def simulate(self, theta, noise):
        # Away from 0 and 1, where the inverse of the normal distribution is infinite.
        u = noise.clamp(1e-6, 1 - 1e-6)
        return torch.sin(2 * theta[0]) ** 2 + theta[1] * math.sqrt(2) * torch.erfinv(2 * u - 1)

    def observed(self, n_events, rng):
        return rng.normal(math.sin(2 * self.truth[0]) ** 2, self.truth[1], (n_events or self.n_observed, 1))

    def features(self, events):
        return torch.cat([events, events**2], dim=-1)

    def log_likelihood(self, theta, statistic):
        pulls = (statistic - torch.sin(2 * theta[0]) ** 2) / theta[1]
        return -(pulls.square() / 2 + theta[1].log()).sum()
