"""How a fit would change if the events were others, such as those of another model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from .._circular import difference as difference_on_circles
from ..events.resampling import check_events
from ..problems.base import Problem
from .sample import Function
from .simulated import Observation, Simulation
from .solve import Solution, corrected

_N_SIMULATED, _N_SETS = 65536, 4  # simulated events, and independent sets of them
NEAR = 3.0  # deviations up to which a score that is not learned again knows a shift


@dataclass(frozen=True, eq=False)
class Shifts:
    """Changes of an estimate when the events are others.

    Parameters
    ----------
    parameters, variations : tuple of str
        Names of the parameters and of the variations.
    shift, error : ndarray (variation, parameter)
        Changes of the estimate, in the parameters' units, and their standard errors because of finite samples.
    deviation : ndarray (parameter,)
        Standard deviations of the estimate.
    distance : ndarray (variation,)
        Joint length of each shift, in deviations per parameter; beyond 3 the shifts are rough, and `fit` should be
        repeated with these events.

    See Also
    --------
    sagips_kit.statistics.fit.ScoreFit.shifts : Compute them.

    Examples
    --------
    >>> import numpy as np
    >>> from sagips_kit.statistics.shifts import Shifts
    >>> found = Shifts(("a",), ("scale",), np.array([[0.02]]), np.array([[0.001]]), np.array([0.1]), np.array([0.2]))
    >>> found.in_deviations
    array([[0.2]])
    >>> print(found)
    change of the estimate [its standard deviations]
    variation      a  joint
    scale      +0.20   0.20
    """

    parameters: tuple[str, ...]
    variations: tuple[str, ...]
    shift: NDArray[np.float64]
    error: NDArray[np.float64]
    deviation: NDArray[np.float64]
    distance: NDArray[np.float64]

    @property
    def in_deviations(self) -> NDArray[np.float64]:
        """ndarray (variation, parameter): The shifts in standard deviations of the estimate."""
        return self.shift / self.deviation

    def __str__(self) -> str:
        first = max(map(len, ("variation", *self.variations)))
        widths = [max(6, len(name)) for name in self.parameters]
        lines = ["change of the estimate [its standard deviations]"]
        header = zip(self.parameters, widths, strict=True)
        lines.append("  ".join([f"{'variation':{first}}", *(f"{name:>{width}}" for name, width in header), "joint"]))
        for name, row, joint in zip(self.variations, self.in_deviations, self.distance, strict=True):
            numbers = (f"{one:>+{width}.2f}" for one, width in zip(row, widths, strict=True))
            far = f"  rough, since beyond {NEAR:.0f} deviations: fit these events" if not joint <= NEAR else ""
            lines.append("  ".join([f"{name:{first}}", *numbers, f"{joint:5.2f}"]) + far)
        return "\n".join(lines)


def shifts_of(
    simulation: Simulation,
    observed: Observation,
    score: Function,
    solution: Solution,
    variations: Mapping[str, Problem | ArrayLike],
    period: NDArray[np.float64] | None,
) -> Shifts:
    """The shifts by other events, or by events that another problem simulates with the estimate."""
    problem, t = simulation.problem, solution.t
    if not variations:
        raise ValueError('No variations: write result.shifts({"scale +1 %": 1.01 * events}), or several of these.')
    theta, scale = simulation.theta(t), simulation.scale(t)
    places, errors = [], []
    for name, given in variations.items():
        if isinstance(given, Problem):
            _require_alike(name, given, problem)
            difference, covariance = _of_problem(simulation, observed, score, t, given)
            moved = torch.zeros(solution.external.shape[1], dtype=torch.float64)
        else:
            other = observed.of(torch.as_tensor(check_events(problem, given).astype(np.float64)))
            difference, covariance = _of_events(simulation, observed, score, t, other)
            moved = simulation.residuals(t) - simulation.residuals(t, problem.statistic(other.events))
        step = solution.influence @ difference + solution.external @ moved
        places.append(corrected(simulation, t, step, solution.information))
        errors.append((solution.influence @ covariance @ solution.influence.T).diag().clamp(min=0).sqrt())
    shift = np.stack([simulation.theta(place).numpy() for place in places])
    covariance = (solution.covariance * scale * scale[:, None]).numpy()
    shift = difference_on_circles(shift, theta.numpy(), np.nan if period is None else period)
    inverse = np.linalg.pinv(covariance, hermitian=True)
    distance = np.sqrt(np.einsum("vp,pq,vq->v", shift, inverse, shift).clip(min=0) / len(t))
    error = (torch.stack(errors) * scale).numpy()
    return Shifts(simulation.parameters, tuple(variations), shift, error, np.sqrt(covariance.diagonal()), distance)


def _of_events(
    simulation: Simulation, observed: Observation, score: Function, t: Tensor, other: Observation
) -> tuple[Tensor, Tensor]:
    """Change of the mean score (component,) with other observed events, and the covariance of this change."""

    def excess(one: Observation) -> Tensor:
        # Events are simulated with the shares of categories that are observed.
        mean = one.moments(score)[0]
        return mean - one.simulated_mean(simulation, t, simulation.noise(_N_SIMULATED, 7), score)

    if other.n == observed.n:  # which may be the same events, changed
        covariance = observed.covariance_of_change(score, other) / other.n
    else:
        covariance = observed.moments(score)[1] / observed.n + other.moments(score)[1] / other.n
    return excess(other) - excess(observed), covariance


def _of_problem(
    simulation: Simulation, observed: Observation, score: Function, t: Tensor, given: Problem
) -> tuple[Tensor, Tensor]:
    """Change of the mean score (component,) if events are those of another problem, and the covariance of its error."""
    other = simulation.of(given)
    means = torch.stack(
        [
            observed.simulated_mean(one, t, one.noise(_N_SIMULATED, 20 + k), score)
            for k in range(_N_SETS)
            for one in (other, simulation)
        ]
    )
    changes = means[::2] - means[1::2]
    return changes.mean(0), torch.cov(changes.T).reshape(changes.shape[1], -1) / len(changes)


def _require_alike(name: str, given: Problem, problem: Problem) -> None:
    """Refuse a problem of other parameters or observables."""
    for what in ("parameters", "observables"):
        mine, others = (list(getattr(one, what)) for one in (problem, given))
        if mine != others:
            raise ValueError(
                f"{name!r} has the {what} {', '.join(others)}: should be those of the fit, {', '.join(mine)}. Derive "
                f"its class from {type(problem).__name__} and change only `simulate`, or give its events."
            )
