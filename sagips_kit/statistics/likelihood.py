"""The reference: the maximum-likelihood fit of the same events, and its statistical floor.

A GAN is judged by its distance to this fit in units of the Cramer-Rao deviations, not by its distance to the truth:
the events cannot tell more than their likelihood.
"""

import warnings
from dataclasses import dataclass

import numpy as np
import scipy.optimize
import torch

from .information import Information

_MOST = 2000  # parameters, whose information is a matrix of all pairs
_EDGE = 1e-6  # the fit stays this far (in units of the range) inside the parameter bounds
_AT_EDGE = 1e-4  # and is told to be at one of them


@dataclass(frozen=True, eq=False)
class LikelihoodFit:
    """Maximum-likelihood estimate and the inverse of the observed information.

    Attributes
    ----------
    theta : ndarray (parameter,)
    covariance : ndarray (parameter, parameter)
        NaN for parameters in a direction that events and constraints do not determine.
    """

    theta: np.ndarray
    covariance: np.ndarray

    @property
    def deviation(self):
        """Statistical floor of each parameter, (parameter,)."""
        return np.sqrt(np.diag(self.covariance))


def fit_likelihood(problem, events, n_starts=3, seed=0):
    """Maximise the likelihood of the events, constraints and priors included.

    Parameters
    ----------
    problem : Problem
        With a `log_likelihood`.
    events : array_like (event, observable)
    n_starts : int
        Starting points: the middle of the parameter ranges, then random ones; the best end wins.

    Returns
    -------
    LikelihoodFit

    Raises
    ------
    ValueError
        For more than 2000 parameters, whose information matrix would fill the memory.
    RuntimeError
        If no start converged.

    Warns
    -----
    UserWarning
        Names the directions that events and constraints do not determine, and parameters at an end of their ranges.
    """
    n_parameters = len(problem.parameters)
    if n_parameters > _MOST:
        raise ValueError(
            f"{type(problem).__name__} has {n_parameters} parameters: a likelihood fit takes at most {_MOST}, because "
            "of the matrix of all pairs of them. Train without this reference: RunSpec(..., reference=False)."
        )
    statistic = problem.statistic(torch.as_tensor(np.array(events, dtype=np.float64)))

    def loss(t):
        theta = problem.scale(t)
        penalty = 0.5 * problem.residuals(theta, statistic).square().sum()
        return (penalty - problem.log_likelihood(theta, statistic)) / n_events

    n_events = len(events)
    starts = np.random.default_rng(seed).uniform(0.2, 0.8, (n_starts, n_parameters))
    starts[0] = 0.5
    t = _polish(loss, _lowest([_descend(loss, start) for start in starts], problem))
    _warn_at_the_edge(problem, t)
    information = Information(
        tuple(problem.parameters),
        np.subtract(problem.upper, problem.lower),
        torch.func.hessian(loss)(torch.as_tensor(t)).numpy() * n_events,
    )
    information.warn(f"The likelihood fit of {type(problem).__name__}")
    return LikelihoodFit(theta=problem.scale(torch.as_tensor(t)).numpy(), covariance=information.covariance)


def _lowest(ends, problem):
    """Where the best of all descents ended."""
    value, t = min(ends, key=lambda end: end[0] if np.isfinite(end[0]) else np.inf)
    if np.isfinite(value):
        return t
    raise RuntimeError(
        f"The likelihood fit of {type(problem).__name__} found no finite value from {len(ends)} starting points: some "
        "events may lie where it says that none can be, by their units or the order of their columns. "
        "check_problem(problem, events) tells where; else look at log_likelihood and constraints in the middle of the "
        "parameter ranges."
    )


def _warn_at_the_edge(problem, t):
    """Warn of parameters at an end of their ranges, where the floor does not mean what it says."""
    at_edge = [
        f"{name} at {high if t_one > 0.5 else low}"
        for name, low, high, t_one in zip(problem.parameters, problem.lower, problem.upper, t, strict=True)
        if min(t_one, 1 - t_one) < _AT_EDGE
    ]
    if at_edge:
        warnings.warn(
            f"The likelihood fit of {type(problem).__name__} ends at the end of a range: {', '.join(at_edge)}. Allow "
            "wider ranges; if they are physical limits, deviations mean little there.",
            stacklevel=3,
        )


def _descend(loss, start):
    """A local minimum and where it is."""
    gradient_and_value = torch.func.grad_and_value(loss)

    def fun(t):
        gradient, value = gradient_and_value(torch.as_tensor(t))
        return float(value), gradient.numpy()

    bounds = scipy.optimize.Bounds(_EDGE, 1 - _EDGE)
    options = {"maxiter": 500, "ftol": 1e-12, "gtol": 1e-7}
    end = scipy.optimize.minimize(fun, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    return end.fun, end.x


def _polish(loss, t):
    """Newton steps to where the gradient vanishes: quasi-Newton ones stop early along nearly flat directions."""
    for _ in range(5):
        at = torch.as_tensor(t)
        step = np.linalg.lstsq(torch.func.hessian(loss)(at).numpy(), -torch.func.grad(loss)(at).numpy(), rcond=1e-12)[0]
        candidate = np.clip(t + step, _EDGE, 1 - _EDGE)
        if not loss(torch.as_tensor(candidate)) < loss(at):
            break
        t = candidate
    return t
