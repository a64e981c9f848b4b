"""Fisher information and the distance to the solution, by the derivative of the pipeline and features of events."""

import numpy as np
import torch

from ..events.resampling import weights_of_categories
from ..problems.noise import stratified_noise
from .information import Information

# Simulated events for each observed one whose features are compared, and most of them: without layers in their noise,
# they leave an error of a tenth of a floor unit.
_PER_OBSERVED, _MOST = 100, 4_000_000


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
