"""The 1-D proxy of SAGIPS: six parameters, two observables, a closure test with a known truth.

Two densities on x in [0.1, 0.99999], mixtures of u(x) = theta0 x^theta1 (1-x)^theta2 and
d(x) = theta3 x^theta4 (1-x)^theta5: sigma1 = 4 u + d and sigma2 = 4 d + u (arXiv 2407.00051).  The events do not fix
the common scale of theta0 and theta3, so the two norms are given as constraints.
"""

import functools

import torch

from .._value import Count, value
from .base import Problem
from .samplers import cumulative, inverse_cdf

_GRID = torch.linspace(0.1, 0.99999, 1000, dtype=torch.float64)
_MIXTURE = torch.tensor([[4.0, 1.0], [1.0, 4.0]])  # of u and d, in sigma1 and sigma2
_NORM_ERROR = 1e-3  # relative; far below what the events could tell, so as good as exact


@value
class Proxy(Problem):
    """The closure test with six parameters.

    Parameters
    ----------
    n_observed : int
        Size of the observed sample.
    truth : tuple of float
        The six parameters that observed events are made with, inside their ranges; the norms given as constraints are
        theirs.

    References
    ----------
    SAGIPS, arXiv 2407.00051, section 4.
    """

    n_observed: Count = 51_200
    truth: tuple[float, float, float, float, float, float] = (2.1875, -0.5, 3.0, 1.09375, -0.5, 4.0)

    parameters = ("theta0", "theta1", "theta2", "theta3", "theta4", "theta5")
    lower = (0.0, -1.0, 0.0, 0.0, -1.0, 0.0)
    upper = (3.0, 1.0, 5.0, 3.0, 1.0, 5.0)
    observables = ("x1", "x2")
    noise_dim = 2

    def __post_init__(self):
        for name, low, true, high in zip(self.parameters, self.lower, self.truth, self.upper, strict=True):
            if not low < true < high:
                raise ValueError(f"truth: {name} = {true}: should be above {low} and below {high}, where it is sought.")

    def simulate(self, theta, noise):
        sigma, grid = self._sigma(theta)
        return inverse_cdf(sigma, grid, noise.T.contiguous()).T

    def observed(self, n_events, rng):
        noise = torch.as_tensor(rng.random((n_events or self.n_observed, self.noise_dim)))
        return self.simulate(torch.tensor(self.truth, dtype=noise.dtype), noise).numpy()

    def features(self, events):
        # The scores of all six parameters are almost linear in these: they hold all information on theta.
        return torch.cat([events.log(), torch.log1p(-events), events], dim=-1)

    def constraints(self, theta, statistic):
        sigma, grid = self._sigma(theta)
        norms = cumulative(sigma, grid)[:, -1]
        return (norms / norms.new_tensor(_true_norms(self.truth)) - 1) / _NORM_ERROR

    def log_likelihood(self, theta, statistic):
        sigma, grid = self._sigma(theta)
        norms = cumulative(sigma, grid)[:, -1]
        at_events = torch.stack([self._density(theta, x)[k] for k, x in enumerate(statistic.T)])
        return (at_events.log() - norms.log()[:, None]).sum()

    def _sigma(self, theta):
        grid = _GRID.to(theta)
        return self._density(theta, grid), grid

    @staticmethod
    def _density(theta, x):
        u_and_d = torch.exp(theta.view(2, 3)[:, 1:] @ torch.stack([x.log(), torch.log1p(-x)]))
        return (_MIXTURE.to(theta) * theta[::3]) @ u_and_d


@functools.lru_cache
def _true_norms(truth):
    """Integrals of sigma1 and sigma2 at the truth, by the rule that makes the events."""
    return tuple(cumulative(Proxy._density(torch.tensor(truth, dtype=_GRID.dtype), _GRID), _GRID)[:, -1].tolist())
