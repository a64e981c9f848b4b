"""The features of events, whitened, and the Fisher information that linear functions of them carry.

The discriminator sees whitened features, so all directions are equally easy for it; to first order it can tell as much
about the parameters as these features can, and that is what the generator's axes follow.
"""

import torch

from ..problems.base import events_of
from .networks import to_unit

_JITTER = 1e-6  # relative; below float32's resolution of a feature's variance no whitening is possible
_N_EVENTS = 200_000  # observed events that determine the whitening


class WhiteFeatures:
    """The problem's features, taken to mean 0 and covariance 1 over the observed events.

    Parameters
    ----------
    problem : Problem
    events : Tensor (event, observable)
        The observed events; every category counts alike, however many events it has.
    category_weights : Tensor (category,)
        Weight of a simulated event of each category.
    device : torch.device
    """

    def __init__(self, problem, events, category_weights, device):
        self._problem = problem
        categories = problem.category(events)
        chosen = _even_shares(categories, problem.n_categories)
        features = problem.features(events[chosen]).double()
        mean, whitening = features.mean(0), _whitening(features)
        white = (features - mean) @ whitening
        weights = category_weights.cpu().double()[categories[chosen]]
        self._gram = (white.T @ (white * weights[:, None]) / len(white)).float().to(device)
        self._mean, self._whitening = mean.float().to(device), whitening.float().to(device)

    def __len__(self):
        return len(self._mean)

    def __call__(self, events):
        """(..., observable) -> (..., feature)."""
        return (self._problem.features(events) - self._mean) @ self._whitening

    def information(self, y, noise, statistic, constraint_weight):
        """Fisher information per event on the unbounded parameters y, as far as these features show it.

        Parameters
        ----------
        y : Tensor (parameter,)
            Where; `to_unit` and the problem's `scale` take it to theta.
        noise : Tensor (event, noise_dim)
        statistic : Tensor
            The problem's statistic of the observed events, for its constraints.
        constraint_weight : float
            Information per event in one constraint known to one deviation.

        Returns
        -------
        Tensor (parameter, parameter)
        """

        def responses(y):
            theta = self._problem.scale(to_unit(y))
            return self(events_of(self._problem, theta, noise)).mean(0), self._problem.residuals(theta, statistic)

        # Reverse mode: forward mode through a user's simulator meets more operators without a rule.
        features, constraints = torch.func.jacrev(responses)(y)
        return features.T @ self._gram @ features + constraint_weight * constraints.T @ constraints


def _even_shares(categories, n_categories):
    """Indices of events with equal shares of all categories, spread over the sample."""
    n_each = min(_N_EVENTS // n_categories, int(torch.bincount(categories, minlength=n_categories).min()))
    chosen = []
    for category in range(n_categories):
        indices = (categories == category).nonzero()[:, 0]
        chosen.append(indices[torch.linspace(0, len(indices) - 1, n_each, dtype=torch.float64).long()])
    return torch.cat(chosen)


def _whitening(features):
    """Matrix that takes features (event, feature) to uncorrelated ones of variance 1, (feature, feature)."""
    covariance = torch.cov(features.T).reshape(features.shape[1], -1)  # of a single feature it is a number
    covariance = covariance + _JITTER * torch.diag(covariance.diag()) + 1e-12 * torch.eye(len(covariance))
    return torch.linalg.inv(torch.linalg.cholesky(covariance)).T
