"""A fit without a likelihood: parameters at which a learned score has the same mean over simulated and observed events.

A scan of the ranges and a polish by the means of simple functions find the place, the score is learned there, and the
equation of the means is solved.  How the score is learned is in `score`.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import scipy.stats
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ..events.resampling import check_events
from ..problems.base import Problem, require_problem
from .basis import Basis
from .sample import Sample, solve_hermitian
from .score import Score, information_matrix
from .simulated import Observation, Simulation

_LEAST_EVENTS = 100  # fewer say too little about the distribution of an observable
_N_SCAN, _N_POLISHED = 48, 4  # points of the scan, and the best of them that are polished
_N_SEARCH, _N_LEARN, _N_SOLVE, _N_COMPARED = 4096, 65536, 65536, 16384  # simulated events, powers of two
_COARSE, _FINE = 8, 32  # waves for the search, and at most for the score
_EDGE, _AT_END = 1e-7, 1e-6  # distance (in units of the range) that the fit keeps from the ends; and that is at an end
_N_ROUNDS, _MOVE = 8, 0.3  # learn again, so many times, where the solution has moved by more deviations
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
        Estimate, covariance, goodness of fit, and the findings that speak against using them.

    Raises
    ------
    ValueError
        If the events do not fit the problem, are too few, or no place in the ranges gives finite events.

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
    require_problem(problem)
    checked = check_events(problem, events).astype(np.float64)
    if len(checked) < _LEAST_EVENTS:
        raise ValueError(f"{len(checked)} events are too few: fit needs {_LEAST_EVENTS} or more.")
    observed = Observation(problem, checked)
    simulation = Simulation(problem, problem.statistic(observed.events), seed)
    coarse = Basis(observed.coordinates, _COARSE)
    bases = [coarse, Basis(observed.coordinates, _FINE), Basis(observed.coordinates, _COARSE, _FINE)]
    t, others = _search(simulation, observed, coarse)
    information, is_rough = None, True
    for _ in range(_N_ROUNDS):
        axes, sample = _along_axes(simulation, observed, coarse, t, information)
        score = Score(sample, bases, seed, is_rough)
        solution = _solve(simulation, observed, score, t, axes)
        t, information = solution.t, solution.information
        is_near = solution.move < _MOVE and float(torch.linalg.eigvalsh(axes.T @ information @ axes).max()) < 2 * observed.n
        # A solution at an end of the ranges is pushed there: to learn once more would not help.
        is_at_end = bool(((t <= _AT_END) | (t >= 1 - _AT_END)).any())
        if (is_near and score.is_complete) or is_at_end:
            break
        is_rough = not is_near
    compared = _compared(simulation, observed, solution)
    goodness, n_freedom = _goodness(observed, score, coarse, compared, solution)
    scale = simulation.scale(t).numpy()
    result = ScoreFit(
        tuple(problem.parameters),
        simulation.theta(t).numpy(),
        solution.covariance.numpy() * np.outer(scale, scale),
        score.gains,
        goodness,
        n_freedom,
        (),
    )
    findings = _findings(simulation, observed, coarse, solution, compared, others, result)
    return replace(result, findings=tuple(findings))


def _search(simulation: Simulation, observed: Observation, basis: Basis) -> tuple[Tensor, list[Tensor]]:
    """The best place by the means of simple functions, and the others that are as good."""
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

    n_parameters = len(simulation.problem.parameters)
    points = torch.quasirandom.SobolEngine(n_parameters, scramble=True, seed=1).draw(_N_SCAN, dtype=torch.float64)
    costs = [cost(point) for point in points]
    starts = [points[k] for k in np.argsort(costs)[:_N_POLISHED] if math.isfinite(costs[k])]
    ends = sorted((_polish(simulation, observed, basis, mean, start) for start in starts), key=lambda end: end[0])
    if not ends or not math.isfinite(ends[0][0]):
        raise ValueError(
            f"{type(simulation.problem).__name__}.simulate gives no finite events at {_N_SCAN} places of the ranges. "
            "check_problem(problem) shows where."
        )
    best, t, information = ends[0]
    others = [end[1] for end in ends[1:] if end[0] < best + _AS_GOOD and _distance(end[1] - t, information) > _APART]
    return t, others


def _distance(difference: Tensor, information: Tensor) -> float:
    """Length of a difference of t, in deviations per direction."""
    return math.sqrt(max(0.0, float(difference @ information @ difference)) / len(difference))


def _polish(
    simulation: Simulation, observed: Observation, basis: Basis, mean: Tensor, start: Tensor
) -> tuple[float, Tensor, Tensor]:
    """Levenberg-Marquardt on the means of `basis`: the distance of the means, the place, and the information there."""
    noise, n, damping, n_parameters = simulation.noise(_N_SEARCH, 0), observed.n, 1e-2, len(start)
    best, t, at, axes = math.inf, start, start, torch.eye(n_parameters, dtype=torch.float64)
    matrix, gradient = axes, start.new_zeros(n_parameters)
    for _ in range(30):
        sample = observed.sample(simulation, at, noise, axes)
        values, slopes = basis(sample.z), sample.slopes(basis)
        covariance = sample.covariance(values)
        covariance = covariance + 1e-6 * torch.diag(covariance.diag() + 1e-12)
        distance = mean - sample.mean(values)
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
        at = (t + step.clamp(-0.3, 0.3)).clamp(_EDGE, 1 - _EDGE)
    return best, t, matrix


def _along_axes(
    simulation: Simulation, observed: Observation, basis: Basis, t: Tensor, information: Tensor | None
) -> tuple[Tensor, Sample]:
    """Axes along which one event determines t to one deviation, and events to learn from.

    Without an information of all events, they are as far as `basis` sees.
    """
    sample = observed.sample(simulation, t, simulation.noise(_N_LEARN, 1), torch.eye(len(t), dtype=torch.float64))
    if information is None:
        pulls = simulation.pulls(t)
        information = observed.n * information_matrix(basis, sample) + pulls.T @ pulls
    eigenvalues, vectors = torch.linalg.eigh(information / observed.n)
    # A direction that these functions hardly see is stretched to a range at most.
    axes = vectors * eigenvalues.clamp(min=_DETERMINED / observed.n).rsqrt()
    return axes, sample.along(axes)


def _solve(simulation: Simulation, observed: Observation, score: Score, start: Tensor, axes: Tensor) -> _Solution:
    """Solve the equality of the means of the score, by Gauss-Newton steps."""
    n, t, noise = observed.n, start, simulation.noise(_N_SOLVE, 2)
    mean, observed_covariance = observed.moments(score)
    inverse_axes = torch.linalg.inv(axes)
    sample = observed.sample(simulation, t, noise, axes)
    values, slopes = score(sample.z), sample.slopes(score) @ inverse_axes
    for _ in range(12):
        covariance = sample.covariance(values)
        weighted = solve_hermitian(covariance, torch.cat([slopes, (mean - sample.mean(values))[:, None]], 1))
        residuals, pulls = simulation.residuals(t), simulation.pulls(t)
        information = n * slopes.T @ weighted[:, :-1] + pulls.T @ pulls
        gradient = n * slopes.T @ weighted[:, -1] - pulls.T @ residuals
        step = _inverse(information) @ gradient
        size = _distance(step, information)
        if size < 0.01:
            break
        t = (t + min(1.0, 5.0 / size) * step).clamp(_EDGE, 1 - _EDGE)
        sample = observed.sample(simulation, t, noise, axes)
        values, slopes = score(sample.z), sample.slopes(score) @ inverse_axes
    inverse, moved = _inverse(information), t - start
    # Blocks of a Sobol sequence are as even as the whole, so this overestimates the error of the whole.
    blocks = values.reshape(8, -1, len(mean)).mean(1)
    n_effective = float(8 * covariance.trace() / torch.cov(blocks.T).reshape(len(mean), -1).trace().clamp(min=1e-300))
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


def _compared(simulation: Simulation, observed: Observation, solution: _Solution) -> Sample:
    """Simulated events at the solution, and beside it in each parameter, by a third of one event's deviation.

    That is wide enough to average over the steps that roundings and cuts make.
    """
    deviation = solution.information.diag().clamp(min=_DETERMINED).rsqrt() * math.sqrt(observed.n)
    t = solution.t
    step = torch.minimum((0.6 * deviation).clamp(max=0.1), torch.minimum(t, 1 - t))
    axes = torch.eye(len(t), dtype=torch.float64)
    return observed.sample(simulation, t, simulation.noise(_N_COMPARED, 3), axes, step)


def _goodness(
    observed: Observation, score: Score, basis: Basis, compared: Sample, solution: _Solution
) -> tuple[float, int]:
    """Chi-squared of what the score does not see of `basis` and of its own products, and its degrees of freedom."""
    sample, n_directions = solution.sample, solution.sample.n_directions
    functions = _WithProducts(score, basis, n_directions)
    values, slopes = functions(sample.z), compared.slopes(functions) * solution.information.diag().rsqrt()
    mean, _ = observed.moments(functions)
    s_slopes = slopes[:n_directions]
    projection = slopes[n_directions:] @ torch.linalg.pinv(s_slopes, rtol=1e-6)
    rest = values[:, n_directions:] - values[:, :n_directions] @ projection.T
    distance = mean - sample.mean(values)
    distance = distance[n_directions:] - projection @ distance[:n_directions]
    covariance = sample.covariance(rest)
    scale = covariance.diag().clamp(min=1e-300).rsqrt()
    eigenvalues, vectors = torch.linalg.eigh(covariance * scale[:, None] * scale)
    keep = eigenvalues > 1e-6 * eigenvalues.max()
    along = (vectors.T @ (scale * distance))[keep]
    factor = observed.n / (1 + observed.n / solution.n_effective)
    return float(factor * (along.square() / eigenvalues[keep]).sum()), int(keep.sum())


class _WithProducts:
    """The score, simple functions, and the products of pairs of the score's components."""

    def __init__(self, score: Score, basis: Basis, n_directions: int) -> None:
        self._score, self._basis = score, basis
        self._first, self._second = torch.triu_indices(n_directions, n_directions)

    def __call__(self, z: Tensor) -> Tensor:
        s = self._score(z)
        return torch.cat([s, self._basis(z), s[:, self._first] * s[:, self._second]], -1)

    def slopes(self, sample: Sample) -> Tensor:
        raise NotImplementedError("Products have no closed form; use a sample with pairs.")


def _findings(
    simulation: Simulation,
    observed: Observation,
    basis: Basis,
    solution: _Solution,
    compared: Sample,
    others: list[Tensor],
    result: ScoreFit,
) -> list[str]:
    """What speaks against using the estimate, in sentences; the most basic reason first."""
    t, names, problem = solution.t, result.parameters, simulation.problem
    found = _outside(simulation, observed, t)
    found += _wrong_slopes(simulation, observed, basis, compared, t, names)
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
    for k in np.flatnonzero((t < deviation) | (t > 1 - deviation)):
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
    return found


def _wrong_slopes(
    simulation: Simulation,
    observed: Observation,
    basis: Basis,
    compared: Sample,
    t: Tensor,
    names: tuple[str, ...],
) -> list[str]:
    """Parameters for which the derivative of the simulation is not that of the means of `basis`."""
    assert compared.pairs is not None and compared.step is not None
    noise = simulation.noise(_N_COMPARED, 3)
    slopes = basis.slopes(observed.sample(simulation, t, noise, torch.eye(len(t), dtype=torch.float64)))
    found = []
    for k, name in enumerate(names):
        before, after = compared.pairs[:, k]
        change = (basis(after) - basis(before)) / compared.step[k]
        slope, error = compared.mean(change), change.std(0) / math.sqrt(len(noise))
        size = torch.maximum(slope.abs(), slopes[:, k].abs())
        is_wrong = ((slope - slopes[:, k]).abs() > _WRONG_SLOPE * size) & (size > _SIGNIFICANT * error)
        is_wrong &= (slope - slopes[:, k]).abs() > _SIGNIFICANT * error
        if bool(is_wrong.any()):
            found.append(
                f"The derivative of simulate with respect to {name} is not that of its events: where, round, and cuts "
                "have no derivative. Make the events move smoothly with the parameter; check_problem shows an example."
            )
    return found
