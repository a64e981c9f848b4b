"""Fisher information and the distance to the solution, from the derivative of the simulation and features of events."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from .._circular import circles, difference, intervals
from ..events.resampling import check_events, weights_of_categories
from ..problems.arguments import require_arguments
from ..problems.base import Problem, events_of
from ..problems.noise import stratified_noise
from .features import features_of
from .information import Information

# Simulated events whose features are compared, per observed event and at most: even without stratified noise they would
# add an error of only a tenth of a floor unit.
_PER_OBSERVED, _MOST = 100, 4_000_000


def fisher_information(
    problem: Problem, theta: ArrayLike, events: ArrayLike, n_simulated: int = 20_000, seed: int = 0
) -> Information:
    """Compute how precisely a sample of events determines the parameters, without a likelihood.

    It is the information in linear functions of the problem's features and in its constraints, priors and measurements.
    If the features span the derivatives of the log-likelihood, this is the Fisher information; otherwise it is less,
    namely what a discriminator of these features can use to first order.

    Parameters
    ----------
    problem : Problem
        The problem, of which the derivative of `simulate` is used.
    theta : array_like (parameter,)
        Parameters inside their ranges, at which the information is computed.
    events : array_like (event, observable)
        Observed events.  Used are their number, the shares of their categories, and what the constraints need.
    n_simulated : int
        Number of simulated events.
    seed : int
        Seed of the simulation's noise.

    Returns
    -------
    Information
        The information matrix, with the deviations that follow from it.

    Warns
    -----
    UserWarning
        If events and constraints leave a direction undetermined; the text names its parameters.

    See Also
    --------
    fit_likelihood : The maximum-likelihood estimate and its deviations, if there is a likelihood.
    floor_step : Distance of parameters from the solution.

    Examples
    --------
    >>> import numpy as np
    >>> from sagips_kit import Linear, fisher_information
    >>> problem = Linear()
    >>> events = problem.observed(2000, np.random.default_rng(0))
    >>> information = fisher_information(problem, problem.truth, events)
    >>> _, covariance = problem.posterior(events)
    >>> np.allclose(information.deviation, np.sqrt(np.diag(covariance)), rtol=0.1)
    True
    """
    require_arguments("fisher_information(problem, theta, events)", problem, events, theta)
    information, _ = information_and_score(problem, theta, events, n_simulated, seed)
    information.warn(type(problem).__name__)
    return information


def floor_step(
    problem: Problem, theta: ArrayLike, events: ArrayLike, n_simulated: int = 100_000, seed: int = 0
) -> NDArray[np.float64]:
    """Compute how far parameters are from the solution, in floor units, without a likelihood.

    The solution is where the mean features of simulated and observed events agree.  The result is one step of Fisher
    scoring towards it, from the derivative of `simulate`.  It shows whether a run has converged or has merely slowed
    down.

    Parameters
    ----------
    problem : Problem
        The problem, of which the derivative of `simulate` is used.
    theta : array_like (parameter,)
        Parameters inside their ranges, for example the estimate of a run.
    events : array_like (event, observable)
        Observed events.  Their features are compared with those of 100 times as many simulated events, at most 4
        million, which takes some seconds.
    n_simulated : int
        Number of simulated events of the derivative.
    seed : int
        Seed of the simulation's noise.

    Returns
    -------
    ndarray (parameter,)
        The step in floor units: below about 0.3 the parameter has converged.  NaN for parameters that events and
        constraints do not determine.  Steps of periodic parameters go the shorter way around.

    See Also
    --------
    fisher_information : The information that defines the floor units.
    fit_likelihood : The maximum-likelihood estimate, if there is a likelihood.

    Notes
    -----
    A step of many units only says that the solution is far.  Features that hold less information than the likelihood
    have their solution a fraction of a unit away from the maximum-likelihood estimate.

    Examples
    --------
    A point two floor units above the solution:

    >>> import numpy as np
    >>> from sagips_kit import Linear, floor_step
    >>> problem = Linear(n_coefficients=1)
    >>> events = problem.observed(2000, np.random.default_rng(0))
    >>> mean, covariance = problem.posterior(events)
    >>> step = floor_step(problem, mean + 2 * np.sqrt(np.diag(covariance)), events, n_simulated=20_000)
    >>> np.allclose(step, -2, atol=0.1)
    True
    """
    require_arguments("floor_step(problem, theta, events)", problem, events, theta)
    n_compared = min(_PER_OBSERVED * len(np.asarray(events)), _MOST)
    information, score = information_and_score(problem, theta, events, n_simulated, seed, n_compared)
    step = information.step(score)
    if problem.periodic:
        _, period = circles(problem.parameters, intervals(problem))
        step = difference(step, 0.0, period / information.deviation)
    return step


def information_and_score(
    problem: Problem, theta: ArrayLike, events: ArrayLike, n_simulated: int, seed: int, n_compared: int = 0
) -> tuple[Information, NDArray[np.float64]]:
    """Information, and the slope (parameter,) of the function whose curvature it is, both in units of the ranges.

    The observed features are compared with those of `n_compared` simulated events if these are more than
    `n_simulated`.
    """
    events = torch.as_tensor(check_events(problem, events).astype(np.float64))
    width = np.subtract(problem.upper, problem.lower)
    t = torch.as_tensor((np.asarray(theta, dtype=float) - problem.lower) / width)
    random = torch.Generator().manual_seed(seed)
    noise = stratified_noise(n_simulated, problem.noise_dim, random).double()
    category_weights, statistic = weights_of_categories(problem, events), problem.statistic(events)
    features_at = features_of(problem, events)

    def seen(theta: Tensor, noise: Tensor):
        simulated = events_of(problem, theta, noise)
        features, weights = features_at(simulated), category_weights[problem.category(simulated)]
        return features, weights, (weights[:, None] * features).mean(0)

    def responses(t: Tensor):
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
    score = len(events) * slopes.T @ inverse @ (features_at(events).mean(0) - mean) - pulls.T @ constraints
    return Information(tuple(problem.parameters), width, matrix.numpy()), score.numpy()
