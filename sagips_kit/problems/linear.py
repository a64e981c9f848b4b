"""The linear-Gaussian problem: a polynomial through points with normal errors, whose posterior is known exactly.

For tests and teaching: the mean, deviations and correlations that a method finds can be compared with those of linear
regression.
"""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from .._value import Count, Positive, ValueClass, value
from .base import Problem

_RANGE = 2.0  # of each coefficient, on both sides of zero


@value
class Linear(Problem, metaclass=ValueClass):
    """Closure test whose posterior is known exactly: a polynomial of x with normal errors, x uniform in [-1, 1].

    Parameters
    ----------
    n_coefficients : int
        Number of coefficients of the polynomial: `c0` (constant), `c1` (slope) and so on.
    sigma : float
        Standard deviation of y at each x, above 0.
    n_observed : int
        Number of observed events (x, y).

    See Also
    --------
    Octants : A problem with two answers.
    Proxy : The publication's problem of six parameters.

    Examples
    --------
    >>> import numpy as np
    >>> from sagips_kit import Linear, fit_likelihood
    >>> problem = Linear(n_coefficients=2)
    >>> events = problem.observed(1000, np.random.default_rng(0))
    >>> mean, covariance = problem.posterior(events)
    >>> fit = fit_likelihood(problem, events)
    >>> np.allclose(fit.theta, mean), np.allclose(fit.covariance, covariance)
    (True, True)
    """

    n_coefficients: Count = 3
    sigma: Positive = 0.5
    n_observed: Count = 10_000

    observables = ("x", "y")
    noise_dim = 2

    @property
    def parameters(self) -> tuple[str, ...]:
        """tuple of str: Names of the coefficients."""
        return tuple(f"c{k}" for k in range(self.n_coefficients))

    @property
    def lower(self) -> tuple[float, ...]:
        """tuple of float (parameter,): Lower ends of the ranges."""
        return (-_RANGE,) * self.n_coefficients

    @property
    def upper(self) -> tuple[float, ...]:
        """tuple of float (parameter,): Upper ends of the ranges."""
        return (_RANGE,) * self.n_coefficients

    @property
    def truth(self) -> tuple[float, ...]:
        """tuple of float (parameter,): Coefficients that observed events are made with."""
        return tuple((-1) ** k / (1 + 0.5 * k) for k in range(self.n_coefficients))

    def simulate(self, theta: Tensor, noise: Tensor) -> Tensor:
        x = 2 * noise[:, 0] - 1
        # Away from 0 and 1, where the inverse of the normal distribution is infinite.
        u = noise[:, 1].clamp(1e-6, 1 - 1e-6)
        return torch.stack([x, self._powers(x) @ theta + self.sigma * math.sqrt(2) * torch.erfinv(2 * u - 1)], dim=-1)

    def observed(self, n_events: int | None, rng: np.random.Generator) -> "NDArray[Any]":
        x = rng.uniform(-1, 1, n_events or self.n_observed)
        return np.stack([x, np.polynomial.Polynomial(self.truth)(x) + rng.normal(0, self.sigma, x.size)], axis=-1)

    def features(self, events: Tensor) -> Tensor:
        # The scores are x^k (y - polynomial of x): linear in these.
        x, y = events[..., 0], events[..., 1:]
        return torch.cat(
            [
                y * self._powers(x),
                x[..., None] ** torch.arange(1, 2 * self.n_coefficients, dtype=x.dtype, device=x.device),
            ],
            dim=-1,
        )

    def log_likelihood(self, theta: Tensor, statistic: Tensor) -> Tensor:
        x, y = statistic.T
        return -0.5 * ((y - self._powers(x) @ theta) / self.sigma).square().sum()

    def posterior(self, events: "ArrayLike") -> "tuple[NDArray[np.float64], NDArray[np.float64]]":
        """Return the exact posterior for a flat, unbounded prior.

        Parameters
        ----------
        events : array_like (event, observable)
            Observed points (x, y).

        Returns
        -------
        mean : ndarray (parameter,)
            Mean of the coefficients.
        covariance : ndarray (parameter, parameter)
            Their covariance.
        """
        x, y = np.asarray(events, dtype=float).T
        design = np.vander(x, self.n_coefficients, increasing=True)
        covariance = self.sigma**2 * np.linalg.inv(design.T @ design)
        return covariance @ (design.T @ y) / self.sigma**2, covariance

    def _powers(self, x: Tensor) -> Tensor:
        """Powers of x: (...) -> (..., coefficient)."""
        return torch.stack([x**k for k in range(self.n_coefficients)], dim=-1)
