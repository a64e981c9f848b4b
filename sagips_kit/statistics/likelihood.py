"""The reference: the maximum-likelihood fit of the same events, and its statistical floor.

A GAN is judged by its distance to this fit in units of the Cramer-Rao deviations, not by its distance to the truth:
events hold no more information than their likelihood.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ..events.resampling import check_events
from ..problems.arguments import require_arguments
from ..problems.base import Problem, is_periodic
from .information import Information

Loss: TypeAlias = Callable[[Tensor], Tensor]

_N_STARTS = 3
_MOST = 2000  # parameters; the information is a matrix of all pairs
_EDGE = 1e-6  # distance (in units of the range) that the fit keeps from the ends of the ranges
_AT_EDGE = 1e-4  # distance below which the fit is reported to be at an end


@dataclass(frozen=True, eq=False)
class LikelihoodFit:
    """Maximum-likelihood estimate and its covariance, the inverse of the observed information.

    Parameters
    ----------
    theta : ndarray (parameter,)
        The estimate, in the parameters' units.
    covariance : ndarray (parameter, parameter)
        Its covariance; NaN for parameters in a direction that events and constraints do not determine.

    See Also
    --------
    fit_likelihood : Make the fit.

    Examples
    --------
    >>> import numpy as np
    >>> from sagips_kit.statistics.likelihood import LikelihoodFit
    >>> fit = LikelihoodFit(theta=np.array([1.5]), covariance=np.array([[0.01]]))
    >>> fit.deviation
    array([0.1])
    """

    theta: NDArray[np.float64]
    covariance: NDArray[np.float64]

    @property
    def deviation(self) -> NDArray[np.float64]:
        """ndarray (parameter,): Statistical floor of each parameter, in its unit."""
        return np.sqrt(np.diag(self.covariance))


def fit_likelihood(problem: Problem, events: ArrayLike, n_starts: int = _N_STARTS, seed: int = 0) -> LikelihoodFit:
    """Maximise the likelihood of the events together with constraints, priors and measurements.

    Parameters
    ----------
    problem : Problem
        A problem with a `log_likelihood`.
    events : array_like (event, observable)
        Observed events.
    n_starts : int
        Number of starting points: the middle of the ranges, then random ones; those of periodic parameters are evenly
        spaced around the circle.  The best result is returned.
    seed : int
        Seed of the random starting points.

    Returns
    -------
    LikelihoodFit
        The estimate, its covariance and deviations.  Estimates of periodic parameters are inside their ranges.

    Raises
    ------
    NotImplementedError
        If the problem has no `log_likelihood`.
    ValueError
        For more than 2000 parameters, whose information matrix would fill the memory.
    RuntimeError
        If the likelihood is not finite where the descents end.

    Warns
    -----
    UserWarning
        If events and constraints leave a direction undetermined, or the estimate is at an end of a range; the text
        names the parameters.

    See Also
    --------
    fisher_information : Deviations without a likelihood.
    floor_step : Distance of parameters from the solution, without a likelihood.

    Examples
    --------
    >>> import numpy as np
    >>> from sagips_kit import Linear, fit_likelihood
    >>> problem = Linear()
    >>> events = problem.observed(1000, np.random.default_rng(0))
    >>> fit = fit_likelihood(problem, events)
    >>> mean, covariance = problem.posterior(events)
    >>> np.allclose(fit.theta, mean), np.allclose(fit.deviation, np.sqrt(np.diag(covariance)))
    (True, True)
    """
    loss, n_events = _loss_of(problem, events)
    circular = is_periodic(problem).numpy()
    edge = np.where(circular, -np.inf, _EDGE)
    starts = _starts(n_starts, circular, seed)
    t = _polish(loss, _lowest([_descend(loss, start, edge) for start in starts], problem), edge)
    _warn_at_the_edge(problem, np.where(circular, 0.5, t))
    information = Information(
        tuple(problem.parameters),
        np.subtract(problem.upper, problem.lower),
        torch.func.hessian(loss)(torch.as_tensor(t)).numpy() * n_events,
    )
    information.warn(f"The likelihood fit of {type(problem).__name__}")
    return LikelihoodFit(theta=problem.scale(torch.as_tensor(t)).numpy(), covariance=information.covariance)


def require_finite(problem: Problem, events: NDArray) -> None:
    """Raise the error of a fit that cannot be made, as far as that can be seen at its starting points, in no time."""
    loss, _ = _loss_of(problem, events)
    starts = _starts(_N_STARTS, is_periodic(problem).numpy(), seed=0)
    _lowest([(float(loss(torch.as_tensor(start))), start) for start in starts], problem)


def _loss_of(problem: Problem, events: ArrayLike) -> tuple[Loss, int]:
    """What the fit minimises, as a function of fractions of the ranges, and the number of events."""
    require_arguments("fit_likelihood(problem, events)", problem, events)
    n_parameters = len(problem.parameters)
    if n_parameters > _MOST:
        raise ValueError(
            f"{type(problem).__name__} has {n_parameters} parameters: a likelihood fit takes at most {_MOST}, because "
            "its covariance is a matrix of all pairs. Train without this reference: RunSpec(..., reference=False)."
        )
    events = np.array(check_events(problem, events), dtype=np.float64)
    n_events = len(events)
    statistic = problem.statistic(torch.as_tensor(events))

    def loss(t: Tensor) -> Tensor:
        theta = problem.scale(t)
        penalty = 0.5 * problem.residuals(theta, statistic).square().sum()
        return (penalty - problem.log_likelihood(theta, statistic)) / n_events

    return loss, n_events


def _starts(n_starts: int, circular: NDArray[np.bool_], seed: int) -> NDArray[np.float64]:
    """Starting points in fractions of the ranges, (start, parameter)."""
    rng = np.random.default_rng(seed)
    starts = rng.uniform(0.2, 0.8, (n_starts, len(circular)))
    starts[0] = 0.5
    # On the other side of the circle the likelihood is flat, so no answer should be far from all starts.
    for k in np.flatnonzero(circular):
        starts[1:, k] = (0.5 + rng.permutation(np.arange(1, n_starts)) / n_starts) % 1
    return starts


def _lowest(ends: Sequence[tuple[float, NDArray[np.float64]]], problem: Problem) -> NDArray[np.float64]:
    """The best end (parameter,) of all descents, given as values and places."""
    value, t = min(ends, key=lambda end: end[0] if np.isfinite(end[0]) else np.inf)
    if np.isfinite(value):
        return t
    raise RuntimeError(
        f"The likelihood fit of {type(problem).__name__} found no finite value from {len(ends)} starting points. Some "
        "events may be where the likelihood is zero; compare units and the order of columns, which "
        "check_problem(problem, events) reports. Otherwise evaluate log_likelihood and constraints in the middle of "
        "the parameter ranges."
    )


def _warn_at_the_edge(problem: Problem, t: NDArray[np.float64]) -> None:
    """Warn of parameters at an end of their ranges, where the deviations are not meaningful."""
    at_edge = [
        f"{name} at {high if t_one > 0.5 else low}"
        for name, low, high, t_one in zip(problem.parameters, problem.lower, problem.upper, t, strict=True)
        if min(t_one, 1 - t_one) < _AT_EDGE
    ]
    if at_edge:
        warnings.warn(
            f"The likelihood fit of {type(problem).__name__} ends at the end of a range: {', '.join(at_edge)}. Allow "
            "wider ranges; if the end is a physical limit, the deviations of these parameters are not meaningful.",
            stacklevel=3,
        )


def _descend(loss: Loss, start: NDArray[np.float64], edge: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
    """Value and place (parameter,) of the local minimum that a start leads to."""
    gradient_and_value = torch.func.grad_and_value(loss)

    import scipy.optimize  # takes half a second, which a notebook that only submits a run need not wait

    def fun(t):
        gradient, value = gradient_and_value(torch.as_tensor(t))
        return float(value), gradient.numpy()

    bounds = list(zip(edge.tolist(), (1 - edge).tolist(), strict=True))
    options = {"maxiter": 500, "ftol": 1e-12, "gtol": 1e-7}
    end = scipy.optimize.minimize(fun, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    return end.fun, end.x


def _polish(loss: Loss, t: NDArray[np.float64], edge: NDArray[np.float64]) -> NDArray[np.float64]:
    """Newton steps to where the gradient vanishes; quasi-Newton steps stop early along nearly flat directions."""
    for _ in range(5):
        at = torch.as_tensor(t)
        step = np.linalg.lstsq(torch.func.hessian(loss)(at).numpy(), -torch.func.grad(loss)(at).numpy(), rcond=1e-12)[0]
        candidate = np.clip(t + step, edge, 1 - edge)
        if not loss(torch.as_tensor(candidate)) < loss(at):
            break
        t = candidate
    return t
