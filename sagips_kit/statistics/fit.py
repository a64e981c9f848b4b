"""A fit without a likelihood: the means of a learned score over simulated and observed events are made equal.

Which functions tell most is in `score`; here they are searched with, solved, and turned into errors.
"""

import math
from dataclasses import dataclass, field

import numpy as np
import scipy.stats
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ..problems.base import Problem, events_of
from .coordinates import Coordinates, Waves
from .score import Sample, Score, means_and_slopes, solve_hermitian

_N_SCAN, _N_POLISHED = 48, 4
_N_SEARCH, _N_LEARN, _N_SOLVE = 4096, 65536, 65536
_COARSE, _FINE = 8, 32
_EDGE = 1e-7
_MOVE = 0.3  # deviations: learn again where the solution has moved further
_ROUNDS = 5
_DETERMINED = 12.0  # least information (in units of the range) along a direction that events determine


@dataclass(frozen=True, eq=False)
class Fit:
    theta: NDArray[np.float64]
    covariance: NDArray[np.float64]
    moves: list = field(default_factory=list)
    gains: dict = field(default_factory=dict)
    j: float = math.nan
    j_dof: int = 0

    @property
    def deviation(self):
        return np.sqrt(np.diag(self.covariance))


class _Simulation:
    """A problem in fractions t of its ranges, and its simulated events."""

    def __init__(self, problem: Problem, statistic: Tensor, seed: int) -> None:
        self.problem, self._statistic, self._seed = problem, statistic, seed
        lower, upper = (np.asarray(bound, float) for bound in (problem.lower, problem.upper))
        self._is_log = torch.as_tensor((lower > 0) & (upper > 100 * lower))
        self._lower, self._upper = torch.as_tensor(lower), torch.as_tensor(upper)
        self._noise: dict[tuple[int, int], Tensor] = {}

    def theta(self, t: Tensor) -> Tensor:
        linear = self._lower + (self._upper - self._lower) * t
        safe = torch.where(self._is_log, self._lower, torch.ones_like(self._lower))
        ratio = torch.where(self._is_log, self._upper / safe, torch.ones_like(self._lower))
        return torch.where(self._is_log, safe * ratio**t, linear)

    def scale(self, t: Tensor) -> Tensor:
        """Derivative of theta with respect to t."""
        return torch.func.jvp(self.theta, (t,), (torch.ones_like(t),))[1]

    def noise(self, n: int, number: int = 0) -> Tensor:
        if (n, number) not in self._noise:
            engine = torch.quasirandom.SobolEngine(self.problem.noise_dim, scramble=True, seed=self._seed + number)
            self._noise[n, number] = engine.draw(n, dtype=torch.float64).clamp(1e-10, 1 - 1e-10)
        return self._noise[n, number]

    def residuals(self, t: Tensor) -> Tensor:
        return self.problem.residuals(self.theta(t), self._statistic)

    def events(self, t: Tensor, noise: Tensor) -> Tensor:
        with torch.no_grad():
            return events_of(self.problem, self.theta(t), noise).double()

    def with_tangents(self, t: Tensor, noise: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Events, and their derivatives with respect to each t: twice backward, which every simulator has."""
        t = t.clone().requires_grad_()
        events = events_of(self.problem, self.theta(t), noise).double()
        cotangent = torch.zeros_like(events, requires_grad=True)
        (pulled,) = torch.autograd.grad(events, t, cotangent, create_graph=True)
        tangents = [torch.autograd.grad(one, cotangent, retain_graph=True)[0] for one in pulled]
        return events.detach(), tangents


def fit(problem: Problem, events: ArrayLike, *, seed: int = 0, verbose: bool = False) -> Fit:
    observed = np.asarray(events, dtype=np.float64)
    n = len(observed)
    coordinates = Coordinates(observed)
    z_observed, _ = coordinates(torch.as_tensor(observed))
    simulation = _Simulation(problem, problem.statistic(torch.as_tensor(observed)), seed)
    coarse = Waves(coordinates, _COARSE)
    t = _search(simulation, coordinates, coarse, z_observed, n, verbose)
    gains, moves = {}, []
    for k in range(_ROUNDS):
        sample = _sample(simulation, coordinates, t, simulation.noise(_N_LEARN, 1))
        axes = _axes(coarse, sample, simulation, t, n)
        along = sample.along(axes)
        score = Score(along, [coarse, Waves(coordinates, _FINE)], seed)
        gains = score.gains
        t, move, covariance = _solve(simulation, coordinates, score, z_observed, t, axes, n)
        moves.append(move)
        if verbose:
            print("round", k, "gains", gains, "move", move, simulation.theta(t).numpy())
        if move < _MOVE:
            break
    scale = simulation.scale(t).numpy()
    return Fit(simulation.theta(t).numpy(), covariance * np.outer(scale, scale), moves, gains)


def _sample(simulation: _Simulation, coordinates: Coordinates, t: Tensor, noise: Tensor) -> Sample:
    z, dz = coordinates(*simulation.with_tangents(t, noise))
    return Sample(z, torch.stack(dz))


def _axes(waves: Waves, sample: Sample, simulation: _Simulation, t: Tensor, n: int) -> Tensor:
    """Directions (parameter, direction) along which one event determines t to one deviation, as far as `waves` see."""
    values, slopes = means_and_slopes(waves, sample)
    pulls = torch.func.jacrev(simulation.residuals)(t)
    information = slopes.T @ solve_hermitian(torch.cov(values.T), slopes) + pulls.T @ pulls / n
    eigenvalues, vectors = torch.linalg.eigh(information)
    # A direction that these functions hardly see is stretched no further than to a range.
    return vectors * eigenvalues.clamp(min=_DETERMINED / n).rsqrt()


def _search(simulation, coordinates, waves, z_observed, n, verbose) -> Tensor:
    """The best place by the means of `waves`: a scan over the ranges, of which the best places are polished."""
    f_observed = waves(z_observed)
    mean = f_observed.mean(0)
    weight = torch.cov(f_observed.T)
    weight = weight + 1e-3 * torch.diag(weight.diag().clamp(min=1e-12))
    p = len(simulation.problem.parameters)
    points = torch.quasirandom.SobolEngine(p, scramble=True, seed=1).draw(_N_SCAN, dtype=torch.float64)
    noise = simulation.noise(_N_SEARCH)

    def cost(t: Tensor) -> float:
        z, _ = coordinates(simulation.events(t, noise))
        values = waves(z)
        distance = mean - values.mean(0)
        total = weight + torch.cov(values.T)
        value = n * float(distance @ solve_hermitian(total, distance[:, None])[:, 0])
        return value + float(simulation.residuals(t).square().sum())

    costs = [_finite(cost, point) for point in points]
    ends = []
    for k in np.argsort(costs)[:_N_POLISHED]:
        if math.isfinite(costs[k]):
            ends.append(_polish(simulation, coordinates, waves, mean, points[k], n))
    if not ends:
        raise RuntimeError("no place in the ranges gives finite events")
    value, t = min(ends, key=lambda end: end[0])
    if verbose:
        print("search", sorted(costs)[:4], [round(end[0], 1) for end in ends], simulation.theta(t).numpy())
    return t


def _finite(cost, t) -> float:
    try:
        value = cost(t)
    except (ValueError, RuntimeError, FloatingPointError):
        return math.inf
    return value if math.isfinite(value) else math.inf


def _polish(simulation, coordinates, waves, mean, t, n, n_steps=30) -> tuple[float, Tensor]:
    """Levenberg-Marquardt on the means of `waves`, weighted by their simulated covariance."""
    noise, damping, best = simulation.noise(_N_SEARCH), 1e-2, math.inf
    at = t
    for _ in range(n_steps):
        sample = _sample(simulation, coordinates, at, noise)
        values, slopes = means_and_slopes(waves, sample)
        covariance = torch.cov(values.T) + 1e-6 * torch.diag(values.var(0) + 1e-12)
        distance = mean - values.mean(0)
        weighted = solve_hermitian(covariance, torch.cat([slopes, distance[:, None]], 1))
        residuals, pulls = simulation.residuals(at), torch.func.jacrev(simulation.residuals)(at)
        # The logarithm of the covariance keeps the search from places where everything is compatible.
        value = n * float(distance @ weighted[:, -1]) + float(residuals.square().sum())
        value = value if math.isfinite(value) else math.inf
        if value < best:
            improved, best, t, damping = best - value, value, at, damping / 5
            matrix = n * slopes.T @ weighted[:, :-1] + pulls.T @ pulls
            gradient = n * slopes.T @ weighted[:, -1] - pulls.T @ residuals
            if improved < 0.05:
                break
        else:
            damping *= 10
            if damping > 1e6:
                break
        if not math.isfinite(best):
            break
        step = torch.linalg.solve(matrix + damping * torch.diag(matrix.diag() + 1e-9 * matrix.diag().max() + 1e-12), gradient)
        step = step.clamp(-0.3, 0.3)
        at = (t + step).clamp(_EDGE, 1 - _EDGE)
    return best, t


def _solve(simulation, coordinates, score, z_observed, t, axes, n):
    """Gauss-Newton on the equality of the means of the score; returns t, the move in deviations, the covariance."""
    s_observed = score(z_observed)
    mean_observed = s_observed.mean(0)
    start, noise = t, simulation.noise(_N_SOLVE, 2)
    for _ in range(12):
        sample = _sample(simulation, coordinates, t, noise)
        values, slopes = means_and_slopes(score, sample)
        c = torch.cov(values.T).reshape(len(axes.T), -1)
        weighted = solve_hermitian(c, torch.cat([slopes, (mean_observed - values.mean(0))[:, None]], 1))
        residuals, pulls = simulation.residuals(t), torch.func.jacrev(simulation.residuals)(t)
        a = n * slopes.T @ weighted[:, :-1] + pulls.T @ pulls
        step = torch.linalg.lstsq(a, n * slopes.T @ weighted[:, -1] - pulls.T @ residuals).solution
        size = math.sqrt(float(step @ a @ step) / len(step))
        limit = min(1.0, 5.0 / max(size, 1e-9))
        t = (t + limit * step).clamp(_EDGE, 1 - _EDGE)
        if size < 0.01:
            break
    move = math.sqrt(float((t - start) @ a @ (t - start)) / len(step))
    inverse = torch.linalg.pinv(a, hermitian=True)
    c_observed = torch.cov(s_observed.T).reshape(len(axes.T), -1)
    meat = n * weighted[:, :-1].T @ c_observed @ weighted[:, :-1] + pulls.T @ pulls
    return t, move, (inverse @ meat @ inverse).numpy()
