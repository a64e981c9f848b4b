"""The linear-Gaussian problem: a polynomial through points with normal errors, whose posterior is known exactly.

For tests and teaching: whatever a method says of mean, deviations and correlations can be compared with the truth of
linear regression.
"""

import math

import numpy as np
import torch

from .._value import Count, Positive, value
from .base import Problem

_RANGE = 2.0  # of each coefficient, to both sides of zero


@value
class Linear(Problem):
    """Points (x, y): x uniform in [-1, 1], y a polynomial of x with normal errors.

    Parameters
    ----------
    n_coefficients : int
        Of the polynomial, `c0` (constant), `c1` and so on.
    sigma : float
        Deviation of y at every x.
    n_observed : int
        Size of the observed sample.
    """

    n_coefficients: Count = 3
    sigma: Positive = 0.5
    n_observed: Count = 10_000

    observables = ("x", "y")
    noise_dim = 2

    @property
    def parameters(self):
        return tuple(f"c{k}" for k in range(self.n_coefficients))

    @property
    def lower(self):
        return (-_RANGE,) * self.n_coefficients

    @property
    def upper(self):
        return (_RANGE,) * self.n_coefficients

    @property
    def truth(self):
        return tuple((-1) ** k / (1 + 0.5 * k) for k in range(self.n_coefficients))

    def simulate(self, theta, noise):
        x = 2 * noise[:, 0] - 1
        # Away from 0 and 1, where the inverse of the normal distribution is infinite.
        u = noise[:, 1].clamp(1e-6, 1 - 1e-6)
        return torch.stack([x, self._powers(x) @ theta + self.sigma * math.sqrt(2) * torch.erfinv(2 * u - 1)], dim=-1)

    def observed(self, n_events, rng):
        x = rng.uniform(-1, 1, n_events or self.n_observed)
        return np.stack([x, np.polynomial.Polynomial(self.truth)(x) + rng.normal(0, self.sigma, x.size)], axis=-1)

    def features(self, events):
        # The scores are x^k (y - polynomial of x): linear in these.
        x, y = events[..., 0], events[..., 1:]
        return torch.cat([y * self._powers(x), x[..., None] ** torch.arange(1, 2 * self.n_coefficients).to(x)], dim=-1)

    def log_likelihood(self, theta, statistic):
        x, y = statistic.T
        return -0.5 * ((y - self._powers(x) @ theta) / self.sigma).square().sum()

    def posterior(self, events):
        """The exact posterior for a flat prior without ends: mean (parameter,) and covariance (parameter, parameter).

        Parameters
        ----------
        events : array_like (event, observable)
        """
        x, y = np.asarray(events, dtype=float).T
        design = np.vander(x, self.n_coefficients, increasing=True)
        covariance = self.sigma**2 * np.linalg.inv(design.T @ design)
        return covariance @ (design.T @ y) / self.sigma**2, covariance

    def _powers(self, x):
        """(...,) -> (..., coefficient)."""
        return torch.stack([x**k for k in range(self.n_coefficients)], dim=-1)
