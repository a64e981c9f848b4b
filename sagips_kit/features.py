"""The features of events, whitened, and the Fisher information that linear functions of them carry.

The discriminator sees whitened features, so all directions are equally easy for it; to first order it can tell as much
about the parameters as these features can, and that is what the generator's axes follow.
"""

import numpy as np
import torch

from .gan import stratified_noise, to_unit
from .information import Information

_JITTER = 1e-6  # relative; below float32's resolution of a feature's variance no whitening is possible
_N_EVENTS = 200_000  # observed events that determine the whitening
# Simulated events for each observed one whose features are compared, and most of them: without layers in their noise,
# they leave an error of a tenth of a floor unit.
_PER_OBSERVED, _MOST = 100, 4_000_000


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
            return self(self._problem.simulate(theta, noise)).mean(0), self._problem.residuals(theta, statistic)

        # Reverse mode: forward mode through a user's simulator meets more operators without a rule.
        features, constraints = torch.func.jacrev(responses)(y)
        return features.T @ self._gram @ features + constraint_weight * constraints.T @ constraints


def fisher_information(problem, theta, events, n_simulated=20_000, seed=0):
    """What a sample of events tells about the parameters, by the derivative of the pipeline: no likelihood is needed.

    Parameters
    ----------
    problem : Problem
    theta : array_like (parameter,)
        Where, inside the ranges.
    events : array_like (event, observable)
        The observed events: their number, the shares of their categories, and what the constraints need of them.
    n_simulated : int
        Events of the pipeline.

    Returns
    -------
    Information
        Of linear functions of the problem's features, and of the constraints.  Fisher's own if the features span the
        likelihood's derivatives, else less: what a discriminator of these features can use.

    Warns
    -----
    UserWarning
        Names the directions that events and constraints do not determine.
    """
    information, _ = information_and_score(problem, theta, events, n_simulated, seed)
    information.warn(type(problem).__name__)
    return information


def floor_step(problem, theta, events, n_simulated=100_000, seed=0):
    """How far `theta` is from where the features of generated and observed events agree, in floor units.

    A Newton step (of Fisher's scoring) on linear functions of the features, by the derivative of the pipeline.  It
    tells whether a run has arrived at the floor, where there is no likelihood to compare with: a run whose generator
    merely slowed down has steps left to go.

    Parameters
    ----------
    problem, theta, events, n_simulated, seed
        As in `fisher_information`.  The features are compared with those of 100 times as many events as observed, of
        4 million at most, which takes some seconds.

    Returns
    -------
    ndarray (parameter,)
        Below about 0.3 nothing is left to gain; NaN for parameters that events and constraints do not determine.
        Far from the solution, where a step is many units long, it is no more than that: far.  Where features hold less
        than the likelihood, it leads elsewhere than to the fit, by a part of a unit.
    """
    n_compared = min(_PER_OBSERVED * len(events), _MOST)
    information, score = information_and_score(problem, theta, events, n_simulated, seed, n_compared)
    return information.step(score)


def information_and_score(problem, theta, events, n_simulated, seed, n_compared=0):
    """Information, and the slope (parameter,) of what it is the curvature of, both in units of the ranges.

    The features are compared with those of `n_compared` events, if these are more than the simulated ones.
    """
    events = torch.as_tensor(np.asarray(events, dtype=np.float64))
    width = np.subtract(problem.upper, problem.lower)
    t = torch.as_tensor((np.asarray(theta, dtype=float) - problem.lower) / width)
    random = torch.Generator().manual_seed(seed)
    noise = stratified_noise(n_simulated, problem.noise_dim, random).double()
    category_weights, statistic = weights_of_categories(problem, events), problem.statistic(events)

    def seen(theta, noise):
        simulated = problem.simulate(theta, noise)
        features, weights = problem.features(simulated), category_weights[problem.category(simulated)]
        return features, weights, (weights[:, None] * features).mean(0)

    def responses(t):
        theta = problem.scale(t)
        features, weights, mean = seen(theta, noise)
        constraints = problem.residuals(theta, statistic)
        return (mean, constraints), (mean, constraints, features, weights)

    (slopes, pulls), (mean, constraints, features, weights) = torch.func.jacrev(responses, has_aux=True)(t)
    for k in range(1, n_compared // n_simulated):
        more = stratified_noise(n_simulated, problem.noise_dim, random).double()
        mean = mean + (seen(problem.scale(t), more)[2] - mean) / (k + 1)
    features = features - mean
    covariance = features.T @ (weights[:, None] * features) / n_simulated
    # Features may depend on each other, as the indicators of all categories do.
    inverse = torch.linalg.pinv(covariance, rtol=1e-10, hermitian=True)
    matrix = len(events) * slopes.T @ inverse @ slopes + pulls.T @ pulls
    score = len(events) * slopes.T @ inverse @ (problem.features(events).mean(0) - mean) - pulls.T @ constraints
    return Information(tuple(problem.parameters), width, matrix.numpy()), score.numpy()


def weights_of_categories(problem, events):
    """Weight of a simulated event of each category, (category,): simulated events have equal shares of them all."""
    counts = torch.bincount(problem.category(events), minlength=problem.n_categories)
    return problem.n_categories * counts / len(events)


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
