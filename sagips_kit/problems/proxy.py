"""The 1-D proxy of SAGIPS: six parameters, two observables, a closure test with a known truth.

Two densities on x in [0.1, 0.99999], mixtures of u(x) = theta0 x^theta1 (1-x)^theta2 and
d(x) = theta3 x^theta4 (1-x)^theta5: sigma1 = 4 u + d and sigma2 = 4 d + u (arXiv 2407.00051).  The events do not fix
the common scale of theta0 and theta3, so the two norms are constraints.
"""

import functools
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from .._value import Count, ValueClass, value
from .base import Problem
from .constants import Constant, constant, outside_transforms
from .samplers import inverse_cdf

_GRID = torch.linspace(0.1, 0.99999, 1000, dtype=torch.float64)
_ON_GRID = Constant(_GRID), Constant(torch.stack([_GRID.log(), torch.log1p(-_GRID)]))
_WIDTHS = Constant((pad(_GRID.diff(), (1, 0)) + pad(_GRID.diff(), (0, 1))) / 2)  # of the trapezoidal rule
_MIXTURE = Constant([[4.0, 1.0], [1.0, 4.0]])  # of u and d, in sigma1 and sigma2
_NORM_ERROR = 1e-3  # relative; much smaller than the deviation that events alone allow, so practically exact


@value
class Proxy(Problem, metaclass=ValueClass):
    """The publication's closure test: six parameters of two mixed densities, two observables.

    Each event is a pair (x1, x2) of independent draws from the normalised sigma1 = 4 u + d and sigma2 = 4 d + u, where
    u(x) = theta0 x^theta1 (1-x)^theta2 and d(x) = theta3 x^theta4 (1-x)^theta5, for x from 0.1 to 0.99999.  Events do
    not determine the common scale of theta0 and theta3; the integrals of sigma1 and sigma2 are constraints that do.

    Parameters
    ----------
    n_observed : int
        Number of observed events.
    truth : tuple of float
        The six parameters that observed events are made with, inside their ranges.  The constraints use the integrals
        at these parameters.

    Raises
    ------
    ValueError
        For a truth outside the ranges.

    See Also
    --------
    Proxy2D : Two observables that depend on each other.
    Linear : A problem whose answer is known exactly.

    References
    ----------
    SAGIPS, arXiv 2407.00051, section 4.

    Examples
    --------
    >>> import numpy as np
    >>> from sagips_kit import Proxy, fisher_information
    >>> problem = Proxy()
    >>> events = problem.observed(None, np.random.default_rng(0))
    >>> events.shape
    (51200, 2)
    >>> information = fisher_information(problem, problem.truth, events)
    >>> dict(zip(problem.parameters, information.deviation.round(2).tolist()))
    {'theta0': 0.11, 'theta1': 0.02, 'theta2': 0.05, 'theta3': 0.13, 'theta4': 0.05, 'theta5': 0.14}
    """

    n_observed: Count = 51_200
    truth: tuple[float, float, float, float, float, float] = (2.1875, -0.5, 3.0, 1.09375, -0.5, 4.0)

    parameters = ("theta0", "theta1", "theta2", "theta3", "theta4", "theta5")
    lower = (0.0, -1.0, 0.0, 0.0, -1.0, 0.0)
    upper = (3.0, 1.0, 5.0, 3.0, 1.0, 5.0)
    observables = ("x1", "x2")
    labels = {name: rf"$\theta_{name[-1]}$" for name in parameters} | {"x1": "$x_1$", "x2": "$x_2$"}
    noise_dim = 2

    def __post_init__(self) -> None:
        for name, low, true, high in zip(self.parameters, self.lower, self.truth, self.upper, strict=True):
            if not low < true < high:
                raise ValueError(f"truth: {name} = {true}: should be above {low} and below {high}, its range.")

    def simulate(self, theta: Tensor, noise: Tensor) -> Tensor:
        grid, logarithms = (table.like(theta) for table in _ON_GRID)
        return inverse_cdf(self._density(theta, logarithms), grid, noise.T.contiguous()).T

    def observed(self, n_events: int | None, rng: np.random.Generator) -> "NDArray[Any]":
        noise = torch.as_tensor(rng.random((n_events or self.n_observed, self.noise_dim)))
        return self.simulate(torch.tensor(self.truth, dtype=noise.dtype), noise).numpy()

    def features(self, events: Tensor) -> Tensor:
        # The scores of all six parameters are almost linear in these, so no information on theta is lost.
        return torch.cat([events.log(), torch.log1p(-events), events], dim=-1)

    def constraints(self, theta: Tensor, statistic: Tensor) -> Tensor:
        norms = self._norms(theta)
        return (norms / constant(_true_norms(self.truth)).like(norms) - 1) / _NORM_ERROR

    def log_likelihood(self, theta: Tensor, statistic: Tensor) -> Tensor:
        norms = self._norms(theta)
        at_events = torch.stack([self._density(theta, _logarithms(x))[k] for k, x in enumerate(statistic.T)])
        return (at_events.log() - norms.log()[:, None]).sum()

    @staticmethod
    def _norms(theta: Tensor) -> Tensor:
        """Integrals of both densities: (observable,)."""
        return Proxy._density(theta, _ON_GRID[1].like(theta)) @ _WIDTHS.like(theta)

    @staticmethod
    def _density(theta: Tensor, logarithms: Tensor) -> Tensor:
        """Both densities at points with these logarithms of x and 1 - x, (2, point): (observable, point)."""
        scale, powers = theta.view(2, 3).split([1, 2], 1)
        return _MIXTURE.like(theta) @ (scale * torch.exp(powers @ logarithms))


def _logarithms(x: Tensor) -> Tensor:
    """Logarithms of x and of 1 - x, (2, point)."""
    return torch.stack([x.log(), torch.log1p(-x)])


@functools.lru_cache
def _true_norms(truth: tuple[float, ...]) -> tuple[float, ...]:
    """Integrals of sigma1 and sigma2 at the truth, by the same rule that the sampler uses."""
    with outside_transforms():
        return tuple(Proxy._norms(torch.tensor(truth, dtype=_GRID.dtype)).tolist())
