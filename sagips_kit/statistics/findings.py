"""What speaks against using the estimate of a fit: the tests of a solution, each with a sentence and what to do."""

import math

import numpy as np
import scipy.special
import torch
from numpy.typing import NDArray
from torch import Tensor

from .._circular import intervals
from ..store.findings import ARRIVED, BOUND, DATA, HALVES, MISFIT, SEVERAL, STRUCTURE, Finding
from .derivatives import edge_slopes
from .sample import solve_hermitian
from .simulated import Observation, Simulation
from .solve import DETERMINED, Solution, units_of

NEAR = 0.3  # deviations that a solution may have moved since its score was learned
_N_SIMULATED = 65536  # events whose range and whose ends are looked at
_REPEATED, _OUTSIDE = 1e-3, 1e-3  # fractions of observed events that are reported
_SHARED = 5e-3  # fraction of the events from which equal ones are no repetitions
_TAIL, _LAST, _EDGE = 16, 64, 2.0  # of a moving edge: fractions 1/16 and 1/64 of the events, and ratio of informations
_MOTION = 0.7  # least motion of an edge by a deviation, in distances between the events next to it
_SHARE = 0.01  # of a parameter's information in a ramp from which an edge is looked for
_PART = 0.05  # least part of a parameter in a combination that is named
_REJECTED = 1e-3  # p-value of a test below which the model or the data are reported


def findings_of(
    simulation: Simulation,
    observed: Observation,
    solution: Solution,
    others: list[Tensor],
    goodness: tuple[float, int],
    edges: list[str],
) -> list[Finding]:
    """What speaks against using the estimate, in sentences; the most basic reason first."""
    misfit = _misfit(simulation, observed, solution.t, *goodness)
    by_kind = {
        DATA: _repeated(observed) + _outside(simulation, observed, solution.t),
        STRUCTURE: edges + _undetermined(simulation, solution),
        BOUND: _at_ends(simulation, solution, bool(misfit)),
        HALVES: _halves(observed, solution),
        SEVERAL: _others(simulation, others),
        ARRIVED: _not_converged(solution),
        MISFIT: misfit,
    }
    return [Finding(kind, text) for kind, texts in by_kind.items() for text in texts]


def _others(simulation: Simulation, others: list[Tensor]) -> list[str]:
    """Other answers."""
    found = []
    for other in others:
        where = ", ".join(
            f"{name} = {value:.4g}"
            for name, value in zip(simulation.parameters, simulation.theta(other).tolist(), strict=True)
        )
        found.append(f"There is another answer that agrees about as well: {where}. Restrict the ranges to one of them.")
    return found


def _not_converged(solution: Solution) -> list[str]:
    """Whether the equations are solved where the score was learned."""
    if solution.move <= NEAR and solution.step <= 0.1:
        return []
    return [
        f"The fit has not converged: it last moved by {max(solution.move, solution.step):.2g} deviations. Narrow the "
        "ranges, or start a fit with another seed."
    ]


def _misfit(simulation: Simulation, observed: Observation, t: Tensor, chi_squared: float, n_freedom: int) -> list[str]:
    """Whether the means of functions that the fit did not use agree, and where not."""
    if not n_freedom or scipy.special.chdtrc(n_freedom, chi_squared) >= _REJECTED:
        return []
    return [
        f"The model does not fit: chi-squared {chi_squared:.0f} for {n_freedom} degrees of freedom. "
        f"{_where_it_differs(simulation, observed, t)}The deviations are valid for the parameters that come closest, "
        "which need not be the true ones."
    ]


def _where_it_differs(simulation: Simulation, observed: Observation, t: Tensor) -> str:
    """A sentence about the observable whose distribution function differs most; empty if there are categories."""
    if simulation.problem.n_categories > 1:
        return ""
    simulated, most = simulation.events(t, simulation.noise(_N_SIMULATED, 4)), (0.0, "", 0.0, 0.0, 0.0)
    for name, seen, made in zip(simulation.problem.observables, observed.events.T, simulated.T, strict=True):
        at = seen.sort().values.contiguous()
        below = torch.arange(1, len(at) + 1, dtype=torch.float64) / len(at)
        expected = torch.searchsorted(made.sort().values, at, right=True) / len(made)
        is_last = torch.cat([at[1:] > at[:-1], torch.ones(1, dtype=torch.bool)])  # of those that are equal
        k = int(((below - expected).abs() * is_last).argmax())
        most = max(most, (abs(float(below[k] - expected[k])), name, float(at[k]), float(below[k]), float(expected[k])))
    size, name, place, share, expected_share = most
    n_both = observed.n * _N_SIMULATED / (observed.n + _N_SIMULATED)
    if scipy.special.kolmogorov(size * math.sqrt(n_both)) > _REJECTED:
        return "No observable differs by itself: what differs is how they depend on each other. "
    unit = f" {simulation.problem.units[name]}" if name in simulation.problem.units else ""
    return (
        f"It shows most in {name}: {share:.1%} of the observed values are at most {place:.4g}{unit}, and "
        f"{expected_share:.1%} of the simulated ones. "
    )


def _repeated(observed: Observation) -> list[str]:
    """Rows that occur more than once, if an observable is continuous."""
    events = observed.events.numpy()
    if all(_is_on_grid(values) for values in events.T):
        return []
    _, counts = np.unique(events, axis=0, return_counts=True)
    # A value that many events share, such as 0, is part of the distribution.
    n_repeated = int((counts - 1)[counts <= max(5, _SHARED * observed.n)].sum())
    if n_repeated <= 5 + _REPEATED * observed.n:
        return []
    return [
        f"{n_repeated} of {observed.n} observed events are exact repetitions of others, so they hold less information "
        "than the deviations assume. Were files read twice? Remove the repetitions: numpy.unique(events, axis=0)."
    ]


def _is_on_grid(values: NDArray[np.float64]) -> bool:
    """Whether values have so few digits that equal ones are no surprise."""
    if np.array_equal(values, values.astype(np.float32)):
        return True
    gaps = np.diff(np.unique(values))
    if len(gaps) == 0 or not (gaps < gaps.max()).any():
        return True
    ratio = gaps / gaps.min()
    return bool((abs(ratio - ratio.round()) < 0.01).mean() > 0.99)


def _outside(simulation: Simulation, observed: Observation, t: Tensor) -> list[str]:
    """Observables of which many observed values are where nothing is simulated, or of another kind."""
    found = []
    simulated = simulation.events(t, simulation.noise(_N_SIMULATED, 4))
    columns = zip(simulation.problem.observables, observed.events.T, simulated.T, strict=True)
    for name, seen, made in columns:
        n_outside = int(((seen < made.min()) | (seen > made.max())).sum())
        if n_outside > 5 + _OUTSIDE * observed.n:
            found.append(
                f"{n_outside} of {observed.n} observed values of {name} are outside of the simulated range, "
                f"{float(made.min()):.6g} to {float(made.max()):.6g}. Compare units and the order of columns; if they "
                "are background, model it or cut it away."
            )
        if len(seen.unique()) > 12 and bool((seen == seen.round()).all()) and not bool((made == made.round()).all()):
            found.append(
                f"Observed values of {name} are integers, simulated ones are not. Add uniform numbers to the observed "
                "ones, or round in the simulation and use a likelihood."
            )
        if len(seen.unique()) == 1 and len(made.unique()) > 1:
            found.append(
                f"All observed values of {name} are {float(seen[0]):g}, simulated ones vary. Look at the file, or "
                f"leave {name} out of the observables."
            )
    return found


def moving_edges(simulation: Simulation, n_observed: int, solution: Solution, grows: bool = False) -> list[str]:
    """Parameters that move an end of the distribution of an observable.

    The information of a ramp over the last 1/64 of the events is then larger than that of a ramp over the last 1/16,
    and there is no smallest ramp: the information of an event is unbounded.  If what a score learns `grows` from round
    to round, its deviation may already be smaller than the distances between events.
    """
    found = []
    noise, width = simulation.noise(_N_SIMULATED, 5), units_of(solution.information, n_observed)
    events, tangents = edge_slopes(simulation, solution.t, noise, width)
    known, deviation = solution.information.diag(), solution.covariance.diag().sqrt()
    around = intervals(simulation.problem)
    for column, name in enumerate(simulation.problem.observables):
        if name in around or len(events[:, column].unique()) < len(events) / 2:
            continue
        for end, sign in (("lower", 1.0), ("upper", -1.0)):
            x, order = (sign * events[:, column]).sort()
            dx = torch.stack([sign * tangent[order, column] for tangent in tangents])
            tail, last = (_of_ramp(x, dx, k) for k in (_TAIL, _LAST))
            # In units of what all events and priors hold; a share that is small is not looked at.
            share = n_observed * last / known
            is_moving = _motion(x, dx, n_observed) * deviation > _MOTION
            for k in np.flatnonzero((last > _EDGE * tail) & (((share > _SHARE) & is_moving) | grows)):
                found.append(
                    f"The {end} end of the distribution of {name} is an edge that moves with "
                    f"{simulation.parameters[k]}. The events next to it determine that parameter better than "
                    "this fit does, and its deviation is not that of a normal distribution. Use the smallest or "
                    "largest value, or a likelihood."
                )
    return found


def _motion(x: Tensor, dx: Tensor, n_observed: int) -> Tensor:
    """Motion (parameter,) of the lowest of sorted values (event,) in distances between the lowest observed ones."""
    gap = (x[4] - x[0]) / 4 * len(x) / n_observed
    return dx[:, :5].mean(1).abs() / gap.clamp(min=1e-300)


def _of_ramp(x: Tensor, dx: Tensor, k: int) -> Tensor:
    """Information (parameter,) per event of the mean of a ramp over the lowest 1/k of sorted values (event,)."""
    low, high = x[0], x[len(x) // k]
    ramp = ((high - x) / (high - low).clamp(min=1e-300)).clamp(min=0)
    slopes = -(dx * (x < high)).mean(1) / (high - low).clamp(min=1e-300)
    return slopes.square() / ramp.var().clamp(min=1e-300)


def _undetermined(simulation: Simulation, solution: Solution) -> list[str]:
    """Combinations of parameters that the events do not determine."""
    found = []
    values, vectors = torch.linalg.eigh(solution.information)
    for value, vector in zip(values, vectors.T, strict=True):
        if value < DETERMINED:
            order = vector.abs().argsort(descending=True)[:4].tolist()
            parts = ", ".join(
                f"{simulation.parameters[k]} ({float(vector[k]):+.2f})" for k in order if abs(vector[k]) > _PART
            )
            found.append(
                f"The events do not determine a combination of parameters (in fractions of their ranges): {parts}. "
                "Give a prior or a measurement, or fix one of them."
            )
    return found


def _at_ends(simulation: Simulation, solution: Solution, is_misfit: bool) -> list[str]:
    """Parameters near an end of their range, which a misfit may have driven there, or explain."""
    t = solution.t
    deviation, found = solution.covariance.diag().sqrt(), []
    ends = torch.where(t < 0.5, simulation.lower, simulation.upper)
    for k in np.flatnonzero(simulation.is_near_an_end(t, deviation)):
        name, end = simulation.parameters[k], f"{float(ends[k]):g}"
        advice = (
            f"and the model does not fit there. If {end} was a choice, widen the range and fit again: the range may "
            f"exclude the answer. If the misfit stays, {name} absorbs what the model lacks: correct the model, and do "
            "not use this value or a limit."
            if is_misfit
            else "so its deviation is not valid. Widen the range; if its end is a physical limit, "
            "fit(problem, events).limits(0.9) gives intervals for that."
        )
        found.append(f"{name} is less than a deviation from the end {end} of its range, {advice}")
    return found


def _halves(observed: Observation, solution: Solution) -> list[str]:
    """Whether both halves of the events, in their order, have the same mean score."""
    if observed.is_ordered:
        return []
    (first, covariance), (second, _) = solution.halves
    difference = (first - second)[:, None]
    value = float((observed.n / 4 * difference.T @ solve_hermitian(covariance, difference)).squeeze())
    p_value = float(scipy.special.chdtrc(len(difference), value))
    if p_value >= _REJECTED:
        return []
    size = math.sqrt(max(0.0, value / len(difference) - 1))
    return [
        f"The first and the second half of the events, in their order, disagree by {size:.1f} deviations (p = "
        f"{p_value:.1g}): conditions changed while they were taken, or the events are ordered. Fit the halves apart, "
        "or shuffle events whose order means nothing."
    ]
