"""Whitened features of events, and the Fisher information that linear functions of them carry.

The discriminator sees whitened features, so that it learns equally fast in all directions.  To first order it can
report as much about the parameters as these features contain, and the generator's axes follow that information.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..events.sampling import evenly_spaced
from ..problems.base import events_of, is_periodic
from ..statistics.features import AutomaticFeatures, features_of
from .networks import to_unit

if TYPE_CHECKING:
    from ..problems.base import Problem

_JITTER = 1e-6  # relative; whitening cannot resolve less than float32 does of a feature's variance
_SHARED = 0.1  # the same for automatic features, which share much: what is left of each is learned last
_N_EVENTS = 200_000  # observed events that determine the whitening


class WhiteFeatures:
    """The problem's features, transformed to mean 0 and covariance 1 over the observed events.

    Parameters
    ----------
    problem : Problem
        Defines the features of an event.
    events : Tensor (event, observable)
        The observed events.  Each category has the same influence, however many events it has.
    category_weights : Tensor (category,)
        Weight of a simulated event of each category, on the CPU.
    device : torch.device
        Where features are computed.
    score : callable or None
        Learned score of events, (..., observable) -> (..., component), which becomes the first features.
    """

    def __init__(
        self,
        problem: "Problem",
        events: Tensor,
        category_weights: Tensor,
        device: torch.device,
        score: Callable[[Tensor], Tensor] | None = None,
    ):
        self._problem, own = problem, features_of(problem, events)
        self._parts = [own] if score is None else [score, own]
        categories = problem.category(events)
        chosen = _equal_shares(categories, problem.n_categories)
        parts = [part(events[chosen]).double() for part in self._parts]
        features, jitter = torch.cat(parts, -1), _SHARED if isinstance(own, AutomaticFeatures) else _JITTER
        # Each part by itself: a discriminator that does not see the score sees the others as they are.
        mean, whitening = features.mean(0), torch.block_diag(*(_whitening(part, jitter) for part in parts))
        self._n_of_information = parts[0].shape[1]
        white = (features - mean) @ whitening
        weights = category_weights.double()[categories[chosen]]
        self._gram = (white.T @ (white * weights[:, None]) / len(white)).float().to(device)
        self._mean, self._whitening = mean.float().to(device), whitening.float().to(device)

    def __len__(self) -> int:
        return len(self._mean)

    def __call__(self, events: Tensor) -> Tensor:
        """Whitened features of events: (..., observable) -> (..., feature)."""
        parts = [part(events) for part in self._parts]
        return ((parts[0] if len(parts) == 1 else torch.cat(parts, -1)) - self._mean) @ self._whitening

    def information(self, y: Tensor, noise: Tensor) -> Tensor:
        """Fisher information per event on the unbounded parameters y, as far as these features carry it.

        Parameters
        ----------
        y : Tensor (parameter,)
            Where to compute it; `to_unit` and the problem's `scale` map it to theta.
        noise : Tensor (event, noise_dim)
            Uniform numbers for the simulated events.

        Returns
        -------
        Tensor (parameter, parameter)
            The information matrix, without that of constraints, priors and measurements.
        """

        problem = self._problem
        periodic = is_periodic(problem).to(y.device) if problem.periodic else None

        def means(y: Tensor) -> Tensor:
            return self(events_of(problem, problem.scale(to_unit(y, periodic)), noise)).mean(0)

        # Reverse mode, since more operators of a user's simulator lack a rule for forward mode.
        features = torch.func.jacrev(means)(y)
        n = self._n_of_information  # a score has all information, and what the others see of it would count twice
        features = features[:n]
        return features.T @ self._gram[:n, :n] @ features


def _equal_shares(categories, n_categories):
    """Indices of events with equal shares of all categories, evenly spaced over the sample."""
    n_each = min(_N_EVENTS // n_categories, int(torch.bincount(categories, minlength=n_categories).min()))
    chosen = []
    for category in range(n_categories):
        indices = (categories == category).nonzero()[:, 0]
        chosen.append(indices[evenly_spaced(len(indices), n_each)])
    return torch.cat(chosen)


def _whitening(features, jitter):
    """Matrix (feature, feature) that makes features (event, feature) uncorrelated with variance 1, up to a jitter."""
    covariance = torch.cov(features.T).reshape(features.shape[1], -1)  # for a single feature it is a number
    covariance = covariance + jitter * torch.diag(covariance.diag()) + 1e-12 * torch.eye(len(covariance))
    return torch.linalg.inv(torch.linalg.cholesky(covariance)).T
