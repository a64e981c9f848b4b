"""A problem with two answers: a mixing angle of which only the sin^2 of twice the angle is observable.

For tests and teaching: an angle and its complement to 90 degrees make the same events, so the posterior has two modes
of equal weight, and a single generator finds one of them.
"""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .._value import Count, ValueClass, value
from .base import Problem


@value
class Octants(Problem, metaclass=ValueClass):
    """Closure test with two answers: x measures sin^2(2 angle) with normal errors of unknown standard deviation.

    Parameters
    ----------
    n_observed : int
        Number of observed events.

    See Also
    --------
    Linear : A problem whose only answer is known exactly.

    Examples
    --------
    >>> import numpy as np
    >>> import torch
    >>> from sagips_kit import Octants
    >>> problem = Octants()
    >>> [[round(value, 2) for value in mode] for mode in problem.modes]
    [[0.5, 0.4], [1.07, 0.4]]
    >>> events = torch.as_tensor(problem.observed(1000, np.random.default_rng(0)))
    >>> one, other = (problem.log_likelihood(torch.tensor(mode).double(), events) for mode in problem.modes)
    >>> bool(torch.isclose(one, other))
    True
    """

    n_observed: Count = 5000

    parameters = ("angle", "sigma")
    lower, upper, truth = (0.0, 0.1), (math.pi / 2, 0.9), (0.5, 0.4)
    observables = ("x",)
    noise_dim = 1
    units = {"angle": "rad"}
    labels = {"angle": r"$\theta$", "sigma": r"$\sigma$"}
    long_names = {"angle": "mixing angle", "x": "measured sin^2(2 angle)"}

    @property
    def modes(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """tuple of tuple (parameter,): The two answers, which no events can distinguish."""
        angle, sigma = self.truth
        return (angle, sigma), (math.pi / 2 - angle, sigma)

    def simulate(self, theta: Tensor, noise: Tensor) -> Tensor:
        # Away from 0 and 1, where the inverse of the normal distribution is infinite.
        u = noise.clamp(1e-6, 1 - 1e-6)
        return torch.sin(2 * theta[0]) ** 2 + theta[1] * math.sqrt(2) * torch.erfinv(2 * u - 1)

    def observed(self, n_events: int | None, rng: np.random.Generator) -> "NDArray[Any]":
        return rng.normal(math.sin(2 * self.truth[0]) ** 2, self.truth[1], (n_events or self.n_observed, 1))

    def features(self, events: Tensor) -> Tensor:
        return torch.cat([events, events**2], dim=-1)

    def log_likelihood(self, theta: Tensor, statistic: Tensor) -> Tensor:
        pulls = (statistic - torch.sin(2 * theta[0]) ** 2) / theta[1]
        return -(pulls.square() / 2 + theta[1].log()).sum()
