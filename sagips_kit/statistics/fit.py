"""A fit without a likelihood: parameters at which a learned score has the same mean over simulated and observed events.

A scan of the ranges and a polish by the means of simple functions find the place, the score is learned there, and the
equation of the means is solved.  How the score is learned is in `score`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import scipy.stats
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from .._circular import circles, intervals
from ..events.resampling import check_events
from ..problems.arguments import require_arguments
from ..problems.base import Problem
from .coordinates import Waves
from .score import Sample, Score, covariance_of, means_and_slopes, solve_hermitian
from .simulated import Observation, Simulation

_LEAST_EVENTS = 100  # fewer say too little about the distribution of an observable
_N_SCAN, _N_POLISHED = 48, 4  # points of the scan, and the best of them that are polished
_N_SEARCH, _N_LEARN, _N_SOLVE, _N_COMPARED = 4096, 65536, 65536, 16384  # simulated events, powers of two
_COARSE, _FINE = 8, 32  # waves for the search, and at most for the score
_EDGE, _AT_END = 1e-7, 1e-6  # distance (in units of the range) that the fit keeps from the ends; and that is at an end
_N_ROUNDS, _MOVE = 5, 0.3  # learn again, so many times, where the solution has moved by more deviations
_DETERMINED = 12.0  # least information, in units of the range, along a direction that events determine
_APART = 5.0  # deviations between two places that are different answers
_AS_GOOD = 4.0  # difference in the distance of the means up to which two answers are equally good
_OUTSIDE = 1e-3  # fraction of observed events outside of the simulated range that is reported
_WRONG_SLOPE, _SIGNIFICANT = 0.3, 6.0  # relative difference of two derivatives that is reported, if so many errors
_REJECTED = 1e-3  # p-value of the goodness of fit below which the model is reported not to fit


@dataclass(frozen=True, eq=False)
class ScoreFit:
    """What `fit` found.

    Parameters
    ----------
    parameters : tuple of str
        Names of the parameters.
    theta : ndarray (parameter,)
        The estimate, in the parameters' units.
    covariance : ndarray (parameter, parameter)
        Its covariance, by the sandwich formula: it is also valid where the model describes the events imperfectly.
    information : dict of str to float
        Information per event of the parts of the score on simulated events they were not learned from, as a fraction of
        what simple functions hold.
    goodness : float
        Chi-squared of the means of functions that the fit did not use.
    n_freedom : int
        Its degrees of freedom; 0 if nothing was tested.
    findings : tuple of str
        Reasons why the estimate should not be used as it is; empty if none was found.
    period : ndarray (parameter,) or None
        Period of each parameter, NaN where it is not periodic; None if none is.

    See Also
    --------
    fit : Make the fit.

    Examples
    --------
    >>> import numpy as np
    >>> from sagips_kit.statistics.fit import ScoreFit
    >>> result = ScoreFit(("a",), np.array([1.5]), np.array([[0.01]]), {}, 3.0, 4, ())
    >>> result.deviation, round(result.p_value, 2)
    (array([0.1]), 0.56)
    """

    parameters: tuple[str, ...]
    theta: NDArray[np.float64]
    covariance: NDArray[np.float64]
    information: dict[str, float]
    goodness: float
    n_freedom: int
    findings: tuple[str, ...]
    period: NDArray[np.float64] | None = None

    @property
    def deviation(self) -> NDArray[np.float64]:
        """ndarray (parameter,): Standard deviations, in the parameters' units."""
        return np.sqrt(np.diag(self.covariance))

    @property
    def p_value(self) -> float:
        """float: Probability of a worse goodness of fit if the model is right; NaN if nothing was tested."""
        return float(scipy.stats.chi2.sf(self.goodness, self.n_freedom)) if self.n_freedom else math.nan

    def __str__(self) -> str:
        width = max(map(len, self.parameters))
        rows = zip(self.parameters, self.theta, self.deviation, strict=True)
        lines = [f"{name:{width}}  {value:.7g} +- {deviation:.2g}" for name, value, deviation in rows]
        tested = f"chi-squared {self.goodness:.1f} / {self.n_freedom}, p = {self.p_value:.2g}"
        lines.append(f"goodness of fit: {tested if self.n_freedom else 'not tested'}")
        return "\n".join([*lines, *(f"NOT RELIABLE: {text}" for text in self.findings)])


@dataclass(frozen=True, eq=False)
class _Solution:
    """Where the means agree.

    Parameters
    ----------
    t : Tensor (parameter,)
        The place, in fractions of the ranges.
    information, covariance : Tensor (parameter, parameter)
        Of the solution, in units of the ranges.
    move, step : float
        Distance from where the search for it began, and length of its last step, in deviations.
    sample : Sample
        Simulated events there.
    n_effective : float
        Number of independent events with the same error of the mean score.
    """

    t: Tensor
    information: Tensor
    covariance: Tensor
    move: float
    step: float
    sample: Sample
    n_effective: float


def fit(problem: Problem, events: ArrayLike, *, seed: int = 0) -> ScoreFit:
    """Fit the parameters to observed events by a score learned from the simulator; no likelihood is needed.

    The score, the derivative of the log-density of an event with respect to the parameters, holds all information that
    an event has.  It is learned from simulated events and their derivatives, near the solution; the estimate is where
    its means over simulated and observed events agree, together with constraints and priors.  This takes some seconds
    for a few parameters.

    Parameters
    ----------
    problem : Problem
        Its `simulate` must be differentiable.  Its `features` and `log_likelihood` are not used.
    events : array_like (event, observable)
        Observed events, 100 or more.
    seed : int
        Seed of the simulated events and of the network.

    Returns
    -------
    ScoreFit
        Estimate, covariance, goodness of fit, and the findings that speak against using them.  Estimates of periodic
        parameters are inside their ranges, which have no ends.

    Raises
    ------
    ValueError
        If the events do not fit the problem, are too few, or no place in the ranges gives finite events.
    NotImplementedError
        If the problem has categories.

    See Also
    --------
    fit_likelihood : The fit of a problem that declares a likelihood.
    fisher_information : Deviations that the problem's own features allow.

    References
    ----------
    The local score of simulators with likelihood-ratio weights: Brehmer et al., arXiv 1805.12244.

    Examples
    --------
    >>> import numpy as np
    >>> from sagips_kit import Linear, fit
    >>> problem = Linear(n_coefficients=1)
    >>> events = problem.observed(2000, np.random.default_rng(0))
    >>> result = fit(problem, events)
    >>> mean, covariance = problem.posterior(events)
    >>> np.allclose(result.theta, mean, atol=0.1 * np.sqrt(covariance[0, 0])), result.findings
    (True, ())
    """
    require_arguments("fit(problem, events)", problem, events)
    if problem.n_categories > 1:
        raise NotImplementedError(
            f"{type(problem).__name__} has {problem.n_categories} categories of events, which fit does not take yet. "
            "Use fit_likelihood if there is a likelihood, or train a run."
        )
    checked = check_events(problem, events).astype(np.float64)
    if len(checked) < _LEAST_EVENTS:
        raise ValueError(f"{len(checked)} events are too few: fit needs {_LEAST_EVENTS} or more.")
    observed = Observation(checked, problem)
    simulation = Simulation(problem, problem.statistic(observed.events), seed)
    coarse = Waves(observed.coordinates, _COARSE)
    t, others = _search(simulation, observed, coarse)
    for _ in range(_N_ROUNDS):
        sample = observed.sample(simulation, t, simulation.noise(_N_LEARN, 1))
        axes = _axes(coarse, sample, simulation.pulls(t), observed.n)
        score = Score(sample.along(axes), [coarse, Waves(observed.coordinates, _FINE)], seed)
        solution = _solve(simulation, observed, score, t)
        # A solution at an end of the ranges is pushed there: to learn once more would not help.
        is_at_end = bool(simulation.is_near_an_end(solution.t, _AT_END).any())
        t = solution.t
        if solution.move < _MOVE or is_at_end:
            break
    goodness, n_freedom = _goodness(observed, score, coarse, solution)
    scale = simulation.scale(t).numpy()
    result = ScoreFit(
        tuple(problem.parameters),
        simulation.theta(t).numpy(),
        solution.covariance.numpy() * np.outer(scale, scale),
        score.gains,
        goodness,
        n_freedom,
        (),
        circles(problem.parameters, intervals(problem))[1] if problem.periodic else None,
    )
    findings = _findings(simulation, observed, coarse, solution, others, result)
    return replace(result, findings=tuple(findings))


def _search(simulation: Simulation, observed: Observation, waves: Waves) -> tuple[Tensor, list[Tensor]]:
    """The best place by the means of `waves`, and the others that are as good."""
    mean, covariance = observed.moments(waves)
    weight = covariance + 1e-3 * torch.diag(covariance.diag().clamp(min=1e-12))
    noise = simulation.noise(_N_SEARCH, 0)

    def cost(t: Tensor) -> float:
        values = waves(observed.coordinates(simulation.events(t, noise))[0])
        distance = (mean - values.mean(0))[:, None]
        value = observed.n * float((distance.T @ solve_hermitian(weight + covariance_of(values), distance)).squeeze())
        value += float(simulation.residuals(t).square().sum())
        return value if math.isfinite(value) else math.inf

    n_parameters = len(simulation.problem.parameters)
    points = torch.quasirandom.SobolEngine(n_parameters, scramble=True, seed=1).draw(_N_SCAN, dtype=torch.float64)
    costs = [cost(point) for point in points]
    starts = [points[k] for k in np.argsort(costs)[:_N_POLISHED] if math.isfinite(costs[k])]
    ends = sorted((_polish(simulation, observed, waves, mean, start) for start in starts), key=lambda end: end[0])
    if not ends or not math.isfinite(ends[0][0]):
        raise ValueError(
            f"{type(simulation.problem).__name__}.simulate gives no finite events at {_N_SCAN} places of the ranges. "
            "check_problem(problem) shows where."
        )
    best, t, information = ends[0]
    as_good = [end[1] for end in ends[1:] if end[0] < best + _AS_GOOD]
    return t, [one for one in as_good if _distance(simulation.difference(one, t), information) > _APART]


def _distance(difference: Tensor, information: Tensor) -> float:
    """Length of a difference of t, in deviations per direction."""
    return math.sqrt(max(0.0, float(difference @ information @ difference)) / len(difference))


def _polish(
    simulation: Simulation, observed: Observation, waves: Waves, mean: Tensor, start: Tensor
) -> tuple[float, Tensor, Tensor]:
    """Levenberg-Marquardt on the means of `waves`: the distance of the means, the place, and the information there."""
    noise, n, damping = simulation.noise(_N_SEARCH, 0), observed.n, 1e-2
    best, t, at = math.inf, start, start
    matrix, gradient = torch.eye(len(start), dtype=torch.float64), torch.zeros(len(start), dtype=torch.float64)
    for _ in range(30):
        values, slopes = means_and_slopes(waves, observed.sample(simulation, at, noise))
        covariance = covariance_of(values) + 1e-6 * torch.diag(values.var(0) + 1e-12)
        distance = mean - values.mean(0)
        weighted = solve_hermitian(covariance, torch.cat([slopes, distance[:, None]], 1))
        residuals, pulls = simulation.residuals(at), simulation.pulls(at)
        value = n * float(distance @ weighted[:, -1]) + float(residuals.square().sum())
        if math.isfinite(value) and value < best:
            gain, best, t, damping = best - value, value, at, damping / 5
            matrix = n * slopes.T @ weighted[:, :-1] + pulls.T @ pulls
            gradient = n * slopes.T @ weighted[:, -1] - pulls.T @ residuals
            if gain < 0.05:
                break
        else:
            damping *= 10
        if damping > 1e6 or not math.isfinite(best):
            break
        diagonal = matrix.diag() + 1e-9 * matrix.diag().max() + 1e-12
        step = torch.linalg.solve(matrix + damping * torch.diag(diagonal), gradient)
        at = simulation.bounded(t + step.clamp(-0.3, 0.3), _EDGE)
    return best, t, matrix


def _axes(waves: Waves, sample: Sample, pulls: Tensor, n: int) -> Tensor:
    """Directions (parameter, direction) along which one event determines t to one deviation, as far as `waves` see."""
    values, slopes = means_and_slopes(waves, sample)
    information = slopes.T @ solve_hermitian(covariance_of(values), slopes) + pulls.T @ pulls / n
    eigenvalues, vectors = torch.linalg.eigh(information)
    # A direction that these functions hardly see is stretched to a range at most.
    return vectors * eigenvalues.clamp(min=_DETERMINED / n).rsqrt()


def _solve(simulation: Simulation, observed: Observation, score: Score, start: Tensor) -> _Solution:
    """Solve the equality of the means of the score, by Gauss-Newton steps."""
    n, t, noise = observed.n, start, simulation.noise(_N_SOLVE, 2)
    mean, observed_covariance = observed.moments(score)
    for _ in range(12):
        sample = observed.sample(simulation, t, noise)
        values, slopes = means_and_slopes(score, sample)
        covariance = covariance_of(values)
        weighted = solve_hermitian(covariance, torch.cat([slopes, (mean - values.mean(0))[:, None]], 1))
        residuals, pulls = simulation.residuals(t), simulation.pulls(t)
        information = n * slopes.T @ weighted[:, :-1] + pulls.T @ pulls
        gradient = n * slopes.T @ weighted[:, -1] - pulls.T @ residuals
        step = _inverse(information) @ gradient
        size = _distance(step, information)
        if size < 0.01:
            break
        t = simulation.bounded(t + min(1.0, 5.0 / size) * step, _EDGE)
    inverse, moved = _inverse(information), t - start
    # Blocks of a Sobol sequence are as even as the whole, so this overestimates the error of the whole.
    blocks = values.reshape(8, -1, len(mean)).mean(1)
    n_effective = float(8 * covariance.trace() / covariance_of(blocks).trace().clamp(min=1e-300))
    weights = weighted[:, :-1]
    noise_of_means = (
        n * weights.T @ observed_covariance @ weights + n**2 / n_effective * weights.T @ covariance @ weights
    )
    sandwich = inverse @ (noise_of_means + pulls.T @ pulls) @ inverse
    return _Solution(t, information, sandwich, _distance(moved, information), size, sample, n_effective)


def _inverse(information: Tensor) -> Tensor:
    """Inverse (parameter, parameter) of an information; 1/12 of the squared range along directions it hardly has."""
    values, vectors = torch.linalg.eigh(information)
    return (vectors / values.clamp(min=_DETERMINED)) @ vectors.T


def _goodness(observed: Observation, score: Score, waves: Waves, solution: _Solution) -> tuple[float, int]:
    """Chi-squared of what the score does not see of `waves` and of its own products, and its degrees of freedom."""
    n_directions = len(solution.sample.dz)
    first, second = torch.triu_indices(n_directions, n_directions)

    def functions(z: Tensor) -> Tensor:
        s = score(z)
        return torch.cat([s, waves(z), s[:, first] * s[:, second]], -1)

    values, slopes = means_and_slopes(functions, solution.sample)
    mean, _ = observed.moments(functions)
    s_slopes = slopes[:n_directions]
    projection = slopes[n_directions:] @ torch.linalg.pinv(s_slopes, rtol=1e-6)
    rest = values[:, n_directions:] - values[:, :n_directions] @ projection.T
    distance = mean - values.mean(0)
    distance = distance[n_directions:] - projection @ distance[:n_directions]
    covariance = covariance_of(rest)
    scale = covariance.diag().clamp(min=1e-300).rsqrt()
    eigenvalues, vectors = torch.linalg.eigh(covariance * scale[:, None] * scale)
    keep = eigenvalues > 1e-6 * eigenvalues.max()
    along = (vectors.T @ (scale * distance))[keep]
    factor = observed.n / (1 + observed.n / solution.n_effective)
    return float(factor * (along.square() / eigenvalues[keep]).sum()), int(keep.sum())


def _findings(
    simulation: Simulation,
    observed: Observation,
    waves: Waves,
    solution: _Solution,
    others: list[Tensor],
    result: ScoreFit,
) -> list[str]:
    """What speaks against using the estimate, in sentences; the most basic reason first."""
    t, names, problem = solution.t, result.parameters, simulation.problem
    found = _outside(simulation, observed, t)
    found += _wrong_slopes(simulation, observed, waves, solution, names)
    values, vectors = torch.linalg.eigh(solution.information)
    for value, vector in zip(values, vectors.T, strict=True):
        if value < _DETERMINED:
            order = vector.abs().argsort(descending=True)[:4].tolist()
            parts = ", ".join(f"{names[k]} ({float(vector[k]):+.2f})" for k in order)
            found.append(
                f"The events do not determine a combination of parameters (in fractions of their ranges): {parts}. "
                "Give a prior or a constraint, or fix one of them."
            )
    deviation = solution.covariance.diag().sqrt()
    ends = np.where(t < 0.5, np.asarray(problem.lower, float), np.asarray(problem.upper, float))
    for k in np.flatnonzero(simulation.is_near_an_end(t, deviation)):
        end = ends[k]
        found.append(
            f"{names[k]} is less than a deviation from the end {end:g} of its range. Widen the range; if the end is a "
            "physical limit, the interval is not valid."
        )
    for other in others:
        where = ", ".join(f"{n} = {v:.4g}" for n, v in zip(names, simulation.theta(other).tolist(), strict=True))
        found.append(f"There is another answer that agrees about as well: {where}. Restrict the ranges to one of them.")
    if solution.move > _MOVE or solution.step > 0.1:
        found.append(
            f"The fit has not converged: it last moved by {max(solution.move, solution.step):.2g} deviations. Narrow "
            "the ranges, or start a fit with another seed."
        )
    if result.p_value < _REJECTED:
        found.append(
            f"The model does not fit: chi-squared {result.goodness:.0f} for {result.n_freedom} degrees of freedom. The "
            "deviations are valid for the parameters that come closest, which need not be the true ones."
        )
    return found


def _outside(simulation: Simulation, observed: Observation, t: Tensor) -> list[str]:
    """Observables of which many observed values are where nothing is simulated."""
    found = []
    simulated = simulation.events(t, simulation.noise(_N_SOLVE, 2))
    both = (observed.inside(events).T for events in (observed.events, simulated))
    columns = zip(simulation.problem.observables, *both, strict=True)
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
    return found


def _wrong_slopes(
    simulation: Simulation, observed: Observation, waves: Waves, solution: _Solution, names: tuple[str, ...]
) -> list[str]:
    """Parameters for which the derivative of the simulation is not that of the means of `waves`."""
    noise, t = simulation.noise(_N_COMPARED, 3), solution.t
    deviation = solution.information.diag().clamp(min=_DETERMINED).rsqrt()
    room = torch.where(simulation.is_periodic, 0.5, torch.minimum(t, 1 - t))
    _, slopes = means_and_slopes(waves, observed.sample(simulation, t, noise))
    found = []
    for k, name in enumerate(names):
        # A third of one event's deviation: wide enough to average over the steps that roundings and cuts make.
        step = torch.zeros_like(t)
        step[k] = min(0.3 * float(deviation[k]) * math.sqrt(observed.n), 0.05, float(room[k]) / 2)
        after, before = (waves(observed.coordinates(simulation.events(t + h, noise))[0]) for h in (step, -step))
        change = (after - before) / (2 * step[k])
        slope, error = change.mean(0), change.std(0) / math.sqrt(len(noise))
        size = torch.maximum(slope.abs(), slopes[:, k].abs())
        is_wrong = ((slope - slopes[:, k]).abs() > _WRONG_SLOPE * size) & (size > _SIGNIFICANT * error)
        is_wrong &= (slope - slopes[:, k]).abs() > _SIGNIFICANT * error
        if bool(is_wrong.any()):
            found.append(
                f"The derivative of simulate with respect to {name} is not that of its events: where, round, and cuts "
                "have no derivative. Make the events move smoothly with the parameter; check_problem shows an example."
            )
    return found
