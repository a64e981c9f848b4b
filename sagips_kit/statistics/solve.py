"""Where the means of functions of simulated and observed events agree: a search in the ranges, and a solution."""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from .basis import Basis
from .sample import Function, Sample, solve_hermitian
from .score import information_matrix
from .simulated import MOST_WIDTH, NARROW, WIDE, Observation, Simulation

_N_SCAN, _N_POLISHED = 48, 12  # points of the scan, and the best of them that are polished
_N_SEARCH, _N_SET, _N_SETS = 1024, 8192, 8  # simulated events of the search; of the solution, in independent sets
N_LEARN = 65536  # simulated events that a score is learned from
_N_COMPARED = 16384  # simulated events by which several answers are compared
_MOST_IN_SET = 32768  # events of a set, where smaller ones would add to the deviations
_N_MANY = 262144  # simulated events of a set whose derivatives are not needed
_ENOUGH = 10.0  # simulated events per observed one, in effect, from which larger sets are not needed
DETERMINED = 12.0  # least information, in units of the range, along a direction that events determine
_STRIDE, _MOST_BENDS = 0.3, 4  # of a descent: longest step, in units of the ranges, and corrections of a step
_MOST_OF_FEW = 0.6  # fraction of the squares of derivatives in 1 % of the events, above which differences teach better
_MOST_DIFFERENCES = 10  # directions; differences cost two simulations for each
_ARRIVED = 0.05  # gain in the distance of the means from which a descent does not continue
_FIRST_WIDTH = 0.05  # of the first differences, in units of the ranges
AT_END = 1e-6  # distance (in units of the range) from an end of a range that is at the end
APART = 5.0  # deviations between two places that are different answers
_AS_GOOD = 4.0  # difference in the distance of the means up to which two answers are equally good


@dataclass(frozen=True, eq=False)
class Solution:
    """Where the means agree.

    Parameters
    ----------
    t : Tensor (parameter,)
        The place, in fractions of the ranges.
    information, covariance : Tensor (parameter, parameter)
        Of the solution, in units of the ranges.
    of_events, of_simulation : Tensor (parameter, parameter)
        The parts of the covariance that come from the observed and from the simulated events.
    move, step : float
        Distance from where the search for it began, and length of the step that remains, in deviations.
    beyond : Tensor (parameter,)
        What leads from here to where the equations would be solved if the ranges had no ends.
    influence, external : Tensor (parameter, component), (parameter, residual)
        How the place moves with the mean score and with what residuals are compared with.
    sample : Sample
        Simulated events there.
    halves : list of (Tensor, Tensor)
        Mean and covariance of the score over the first and over the second half of the observed events.
    """

    t: Tensor
    information: Tensor
    covariance: Tensor
    of_events: Tensor
    of_simulation: Tensor
    move: float
    step: float
    beyond: Tensor
    influence: Tensor
    external: Tensor
    sample: Sample
    halves: list[tuple[Tensor, Tensor]]


def search(simulation: Simulation, observed: Observation, basis: Basis, start: Tensor | None = None) -> "list[End]":
    """The best place by the means of simple functions, and others that are as good; or only the one near a start."""
    mean, covariance = observed.moments(basis)
    weight = covariance + 1e-3 * torch.diag(covariance.diag().clamp(min=1e-12))
    noise = simulation.noise(_N_SEARCH, 0)

    def cost(t: Tensor) -> float:
        sample = observed.simulated(simulation, t, noise)
        values = basis(sample.z)
        distance = (mean - sample.mean(values))[:, None]
        value = float((distance.T @ solve_hermitian(weight + sample.covariance(values), distance)).squeeze())
        value = observed.n * value + float(simulation.residuals(t).square().sum())
        return value if math.isfinite(value) else math.inf

    if start is None:
        engine = torch.quasirandom.SobolEngine(len(simulation.parameters), scramble=True, seed=1)
        points = engine.draw(_N_SCAN, dtype=torch.float64)
        costs = [cost(point) for point in points]
        starts = [points[k] for k in np.argsort(costs)[:_N_POLISHED] if math.isfinite(costs[k])]
    else:
        starts = [start]
    ends: list[End] = []
    for point in starts:
        # Far away, where simulated events hardly vary, their covariance alone would be misleading.
        end = _polish(simulation, observed, basis, mean, point, ends, noise, weight)
        if end is not None and math.isfinite(end.cost):
            ends.append(end)
    if not ends:
        raise ValueError(
            f"{type(simulation.problem).__name__}.simulate gives no finite events at "
            f"{'the start' if start is not None else f'{_N_SCAN} places of the ranges'}. "
            "check_problem(problem) shows where."
        )
    found = _apart(simulation, ends, _AS_GOOD * (1 + observed.n / _N_SEARCH))
    # More simulated events bring the best nearer to the solution, and show whether the others are as good as that.
    noise = simulation.noise(_N_COMPARED, 0)
    again: list[End] = []
    for end in found:
        better = _polish(simulation, observed, basis, mean, end.t, again, noise)
        again += [better] if better is not None else []
    found = _apart(simulation, again, _AS_GOOD * (1 + observed.n / _N_COMPARED))
    return found


def _apart(simulation: Simulation, ends: "list[End]", difference: float) -> "list[End]":
    """The best end, and those that are worse by no more than a difference and far from each other."""
    found: list[End] = []
    for end in sorted(ends, key=lambda end: end.cost):
        # A place from where the descent would continue is on the way to another one.
        is_good = not found or (end.cost <= found[0].cost + difference and end.left < difference)
        if is_good and all(simulation.distance(end.t, other.t, other.information) > APART for other in found):
            found.append(end)
    return found


@dataclass(frozen=True, eq=False)
class End:
    """Where a descent ended: the distance of the means, the place, the information there, and what is left to gain."""

    cost: float
    t: Tensor
    information: Tensor
    left: float


def _polish(
    simulation: Simulation,
    observed: Observation,
    basis: Basis,
    mean: Tensor,
    start: Tensor,
    known: list[End],
    noise: Tensor,
    more: Tensor | None = None,
) -> End | None:
    """Levenberg-Marquardt on the means of `basis`; None where it comes to an end that is known.

    They are weighted by the covariance of simulated events, or by its mean with a further one.
    """
    n, damping, n_parameters = observed.n, 1e-2, len(start)
    best, t, at = math.inf, start, start
    matrix, gradient = torch.eye(n_parameters, dtype=torch.float64), torch.zeros_like(start)
    seen = n / _FIRST_WIDTH**2 * matrix
    for _ in range(30):
        units = units_of(seen, n)
        sample = observed.sample(simulation, at, noise, torch.diag(units))
        values, slopes = basis(sample.z), sample.slopes(basis) / units
        covariance = sample.covariance(values)
        covariance = covariance if more is None else (covariance + more) / 2
        covariance = covariance + 1e-6 * torch.diag(covariance.diag() + 1e-12)
        distance = mean - sample.mean(values)
        weighted = solve_hermitian(covariance, torch.cat([slopes, distance[:, None]], 1))
        residuals, pulls = simulation.residuals(at), simulation.pulls(at)
        value = n * float(distance @ weighted[:, -1]) + float(residuals.square().sum())
        if math.isfinite(value) and value < best:
            gain, best, t, damping = best - value, value, at, damping / 5
            seen = n * slopes.T @ weighted[:, :-1]
            matrix = seen + pulls.T @ pulls
            gradient = n * slopes.T @ weighted[:, -1] - pulls.T @ residuals
            if any(simulation.distance(t, end.t, end.information) < APART and value < 2 * end.cost for end in known):
                return None
            if gain < _ARRIVED:
                break
        else:
            damping *= 10
            if _left(matrix, gradient) < _ARRIVED:
                break
        if damping > 1e6 or not math.isfinite(best):
            break
        diagonal = matrix.diag() + 1e-9 * matrix.diag().max() + 1e-12
        damped = matrix + damping * torch.diag(diagonal)
        step = torch.linalg.solve(damped, gradient).clamp(-_STRIDE, _STRIDE)
        at = corrected(simulation, t, step, damped)
    return End(best, t, matrix, _left(matrix, gradient))


def _left(matrix: Tensor, gradient: Tensor) -> float:
    """What a descent would still gain if its equations were linear."""
    return float(gradient @ torch.linalg.pinv(matrix, hermitian=True) @ gradient)


def corrected(simulation: Simulation, t: Tensor, straight: Tensor, matrix: Tensor) -> Tensor:
    """Where a step leads that follows the curvature of the residuals, which may be sharp and cost little to compute."""
    residuals, pulls = simulation.residuals(t), simulation.pulls(t)
    at, bend = simulation.inside(t + straight), math.inf
    step, before = straight, residuals.new_zeros(len(residuals))
    for _ in range(_MOST_BENDS if len(residuals) else 0):
        curved = simulation.residuals(at) - residuals - pulls @ step
        if not float((curved - before).norm()) < bend:
            break
        bend, before = 0.5 * float((curved - before).norm()), curved
        step = (straight - torch.linalg.solve(matrix, pulls.T @ curved)).clamp(-_STRIDE, _STRIDE)
        at = simulation.inside(t + step)
    return at


def units_of(information: Tensor, n: int) -> Tensor:
    """Deviations (parameter,) of one of n events that have this information, at most a tenth of a range."""
    return (n / information.diag().clamp(min=1e-300)).sqrt().clamp(max=MOST_WIDTH)


def along_axes(
    simulation: Simulation, observed: Observation, basis: Basis, t: Tensor, information: Tensor, is_learned: bool
) -> tuple[Tensor, Sample]:
    """Axes along which one event determines t to one deviation, and events to learn from.

    The information is that of all events; unless it comes from a learned score, the axes follow what `basis` sees.
    """
    (noise, weights), units = simulation.wide_noise(N_LEARN, 1), units_of(information, observed.n)
    sample = observed.sample(simulation, t, noise, torch.diag(units)).weighted(weights)
    if not is_learned:
        pulls = simulation.pulls(t)
        seen = information_matrix(basis, sample) / units / units[:, None]
        information = observed.n * seen + pulls.T @ pulls
    eigenvalues, vectors = torch.linalg.eigh(information / observed.n)
    # A direction that these functions hardly see is stretched to a range at most.
    axes = vectors * eigenvalues.clamp(min=DETERMINED / observed.n).rsqrt()
    if sample.tangents is None:
        return axes, observed.differences(simulation, t, noise, axes, WIDE).weighted(weights)
    tangents = torch.einsum("pec,pd->dec", sample.tangents, axes / units[:, None])
    if len(t) <= _MOST_DIFFERENCES and _is_scattered(tangents, sample.weights):
        return axes, observed.differences(simulation, t, noise, axes, WIDE).weighted(weights)
    return axes, replace(sample, tangents=tangents)


def _is_scattered(tangents: Tensor, weights: Tensor) -> bool:
    """Whether few events make most of the mean square of a derivative, from which a network would learn only these."""
    squares = weights * tangents.square().sum(-1)
    few = squares.topk(squares.shape[1] // 100).values
    return bool((few.sum(1) > _MOST_OF_FEW * squares.sum(1)).any())


def solve(simulation: Simulation, observed: Observation, score: Function, start: Tensor, axes: Tensor) -> Solution:
    """Solve the equality of the means of the score, by Gauss-Newton steps."""
    n, t, size = observed.n, start, _N_SET
    halves = observed.halves(score)
    mean, observed_covariance = ((first + second) / 2 for first, second in zip(*halves, strict=True))
    inverse_axes, offset, is_refined = torch.linalg.inv(axes), torch.zeros_like(mean), False
    for _ in range(14):
        sample = observed.sample(simulation, t, simulation.noise(size, 2, _N_SETS), axes, NARROW)
        values, slopes = score(sample.z), sample.slopes(score) @ inverse_axes
        covariance = sample.covariance(values)
        weighted = solve_hermitian(covariance, torch.cat([slopes, (mean - sample.mean(values) - offset)[:, None]], 1))
        residuals, pulls = simulation.residuals(t), simulation.pulls(t)
        information = n * slopes.T @ weighted[:, :-1] + pulls.T @ pulls
        gradient = n * slopes.T @ weighted[:, -1] - pulls.T @ residuals
        step = _within(simulation, t, information, gradient)
        left = simulation.distance(step, torch.zeros_like(step), information)
        if not is_refined:
            errors = _errors([one.mean(part) for one, part in zip(sets_of(sample), values.chunk(_N_SETS), strict=True)])
        if left < 0.01:
            # Simulated events per error, of the component that they know least
            n_effective = float((covariance.diag().clamp(min=1e-300) / errors.clamp(min=1e-300)).min())
            if n_effective > _ENOUGH * n or is_refined:
                break
            if size == _MOST_IN_SET:
                # Rare events decide some components, and are few among those that slopes can be computed for.
                means, is_refined = _means_of_many(simulation, observed, score, t), True
                offset, errors = means.mean(0) - sample.mean(values), _errors(list(means))
            size = _MOST_IN_SET
        t = simulation.inside(t + min(1.0, 5.0 / max(left, 1e-9)) * step)
    inverse = inverse_of(information)
    influence, external = n * inverse @ weighted[:, :-1].T, inverse @ pulls.T
    of_events, of_simulation = (influence @ one @ influence.T for one in (observed_covariance / n, torch.diag(errors)))
    of_ranges = inverse @ _missing(information) @ inverse
    return Solution(
        t=t,
        information=information,
        covariance=of_events + of_simulation + external @ external.T + of_ranges,
        of_events=of_events,
        of_simulation=of_simulation,
        move=simulation.distance(t, start, information),
        step=left,
        beyond=inverse @ gradient,
        influence=influence,
        external=external,
        sample=sample,
        halves=halves,
    )


def _within(simulation: Simulation, t: Tensor, information: Tensor, gradient: Tensor) -> Tensor:
    """A Gauss-Newton step of those parameters that it does not push over an end of their ranges."""
    step = inverse_of(information) @ gradient
    at_end = simulation.is_near_an_end(t, AT_END)
    free = torch.arange(len(t))
    while bool((is_pushed := at_end & ((step > 0) == (t > 0.5)) & (step != 0)).any()):
        free = free[~is_pushed[free]]
        step = torch.zeros_like(t)
        step[free] = inverse_of(information[free][:, free]) @ gradient[free]
    return step


def also_solve(
    simulation: Simulation,
    observed: Observation,
    score: Function,
    solution: Solution,
    axes: Tensor,
    others: list[Tensor],
) -> list[Tensor]:
    """Solutions near other places that are far from the one found.

    Simple functions may not determine all parameters; then their means agree in many places, and the score's do not.
    """
    found: list[Tensor] = []
    for other in others:
        one = solve(simulation, observed, score, other, axes)
        known = [solution.t, *found]
        if one.step < 0.1 and all(simulation.distance(one.t, t, solution.information) > APART for t in known):
            found.append(one.t)
    return found


def sets_of(sample: Sample) -> list[Sample]:
    """The independent sets of quasi-random events that the sample of a solution is made of."""
    return sample.parts(_N_SETS)


def _errors(means: list[Tensor]) -> Tensor:
    """Squared errors (component,) of the mean of independent means, each of quasi-random events."""
    return torch.stack(means).var(0) / len(means)


def _means_of_many(simulation: Simulation, observed: Observation, score: Function, t: Tensor) -> Tensor:
    """Means (set, component) of the score over many events, without their derivatives."""
    means = []
    for number in range(_N_SETS):
        noise = simulation.noise(_N_MANY, 10 + number, is_kept=False)
        means.append(observed.simulated_mean(simulation, t, noise, score))
    return torch.stack(means)


def inverse_of(information: Tensor) -> Tensor:
    """Inverse (parameter, parameter) of an information; 1/12 of the squared range along directions it hardly has."""
    values, vectors = torch.linalg.eigh(information)
    return (vectors / values.clamp(min=DETERMINED)) @ vectors.T


def _missing(information: Tensor) -> Tensor:
    """What an information lacks along directions it hardly has."""
    values, vectors = torch.linalg.eigh(information)
    return (vectors * (DETERMINED - values).clamp(min=0)) @ vectors.T
