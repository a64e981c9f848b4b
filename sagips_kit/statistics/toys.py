"""Repetitions of a fit on simulated data sets, with the score that it has learned."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from .._circular import difference
from ..problems.base import Problem
from .limits import bounded_interval
from .score import Score
from .shifts import Shifts, shifts_of
from .simulated import Observation, Simulation
from .solve import Solution, inverse_of

_MOST_EVENTS = 100_000  # of a data set that is simulated; above, its mean score is drawn from a normal distribution
_N_NOISE = 16384  # simulated events from which the mean score is known as a function of the parameters
_STEP = 1.5  # deviations between the places where it is computed


@dataclass(frozen=True, eq=False)
class Toys:
    """Fits of simulated data sets.

    Parameters
    ----------
    parameters : tuple of str
        Names of the parameters.
    truth : ndarray (parameter,)
        Parameters that the data sets were simulated with: the estimate of the fit.
    theta, deviation : ndarray (toy, parameter)
        Estimates and standard deviations from each data set.
    period : ndarray (parameter,) or None
        Period of each parameter, NaN where it is not periodic; None if none is.

    Examples
    --------
    >>> import numpy as np
    >>> from sagips_kit.statistics.toys import Toys
    >>> toys = Toys(("a",), np.array([1.0]), np.array([[0.9], [1.3]]), np.array([[0.2], [0.2]]))
    >>> toys.coverage(), toys.bias.round(1)
    (array([0.5]), array([0.5]))
    """

    parameters: tuple[str, ...]
    truth: NDArray[np.float64]
    theta: NDArray[np.float64]
    deviation: NDArray[np.float64]
    period: NDArray[np.float64] | None = None

    @property
    def bias(self) -> NDArray[np.float64]:
        """ndarray (parameter,): Mean difference from the truth, in standard deviations."""
        return self._pulls().mean(0)

    def coverage(self, n_deviations: float = 1.0) -> NDArray[np.float64]:
        """Return the fraction of the data sets whose interval contains the truth.

        Parameters
        ----------
        n_deviations : float
            Half the length of the intervals, in standard deviations.

        Returns
        -------
        ndarray (parameter,)
            The fractions; 0.683 is right for one deviation, 0.954 for two.
        """
        return (abs(self._pulls()) < n_deviations).mean(0)

    def __str__(self) -> str:
        width = max(map(len, self.parameters))
        lines = [f"{len(self.theta)} simulated data sets; intervals of 1 and 2 deviations with the truth; bias"]
        rows = zip(self.parameters, self.coverage(), self.coverage(2.0), self.bias, strict=True)
        lines += [f"{name:{width}}  {one:6.1%}  {two:6.1%}  {bias:+.2f} deviations" for name, one, two, bias in rows]
        return "\n".join(lines)

    def _pulls(self) -> NDArray[np.float64]:
        """Differences from the truth (toy, parameter) in standard deviations, the shorter way around for angles."""
        period = np.nan if self.period is None else self.period
        return difference(self.theta, self.truth, period) / self.deviation


@dataclass(frozen=True, eq=False)
class Frozen:
    """What is needed to repeat a fit: the simulation, its score, and the solution."""

    simulation: Simulation
    observed: Observation
    score: Score
    solution: Solution
    period: NDArray[np.float64] | None

    def toys(self, n_toys: int, seed: int) -> Toys:
        """Fits of data sets that are simulated at the solution, as large as the observed one."""
        simulation, solution, n = self.simulation, self.solution, self.observed.n
        random = torch.Generator().manual_seed(seed)
        expansion = _Expansion(self)
        pulls = simulation.pulls(solution.t)
        found = []
        for _ in range(n_toys):
            mean, covariance = self._data(random, expansion)
            # Values of priors and measurements would be others, too.
            shift = torch.randn(len(pulls), generator=random, dtype=torch.float64)
            found.append(_fitted(expansion, mean, covariance, n, pulls, shift))
        t = torch.stack([solution.t + expansion.axes @ u for u, _ in found])
        deviation = torch.stack([(expansion.axes @ matrix @ expansion.axes.T).diag().sqrt() for _, matrix in found])
        theta = torch.stack([simulation.theta(one) for one in t]).numpy()
        scale = torch.stack([simulation.scale(one) for one in t]).numpy()
        truth = simulation.theta(solution.t).numpy()
        return Toys(tuple(simulation.parameters), truth, theta, deviation.numpy() * scale, self.period)

    def limits(self, level: float) -> NDArray[np.float64]:
        """Confidence intervals (parameter, 2) that respect the ends of the ranges."""
        simulation, solution = self.simulation, self.solution
        deviation = solution.covariance.diag().sqrt()
        measured = solution.t + solution.beyond
        intervals = [(-math.inf, math.inf) if around else (0.0, 1.0) for around in simulation.is_periodic.tolist()]
        found = [
            bounded_interval(float(value), float(error), *ends, level)
            for value, error, ends in zip(measured, deviation, intervals, strict=True)
        ]
        return torch.stack([simulation.theta(end) for end in torch.tensor(found, dtype=torch.float64).T], -1).numpy()

    def shifts(self, variations: Mapping[str, Problem | ArrayLike]) -> Shifts:
        """Changes of the estimate if the events were others."""
        return shifts_of(self.simulation, self.observed, self.score, self.solution, variations, self.period)

    def _data(self, random: torch.Generator, expansion: "_Expansion") -> tuple[Tensor, Tensor]:
        """Mean score (component,) of a simulated data set, and its covariance for one event."""
        n, problem = self.observed.n, self.simulation.problem
        if n > _MOST_EVENTS or problem.n_categories > 1:
            half = torch.linalg.cholesky(expansion.covariance / n)
            normal = torch.randn(len(half), generator=random, dtype=torch.float64)
            return expansion.mean + half @ normal, expansion.covariance
        noise = torch.rand(n, problem.noise_dim, generator=random, dtype=torch.float64).clamp(1e-10, 1 - 1e-10)
        values = self.score(self.observed.simulated(self.simulation, self.solution.t, noise).z)
        return values.mean(0), torch.cov(values.T).reshape(values.shape[1], -1)


class _Expansion:
    """The mean score near the solution, to second order, as a function of u in deviations along axes.

    Parameters
    ----------
    frozen : Frozen
        The fit.
    """

    def __init__(self, frozen: Frozen) -> None:
        simulation, observed, score = frozen.simulation, frozen.observed, frozen.score
        t, noise = frozen.solution.t, simulation.noise(_N_NOISE, 6)
        values, vectors = torch.linalg.eigh(inverse_of(frozen.solution.information))
        self.axes = vectors * values.clamp(min=0).sqrt()
        sample = observed.simulated(simulation, t, noise)
        at = score(sample.z)
        self.mean, self.covariance = sample.mean(at), sample.covariance(at)

        def mean(*directions: Tensor) -> Tensor:
            place = simulation.inside(t + self.axes @ torch.stack(directions).sum(0))
            sample = observed.simulated(simulation, place, noise)
            return sample.mean(score(sample.z)) - self.mean

        n = len(t)
        steps = _STEP * torch.eye(n, dtype=torch.float64)
        after, before = (torch.stack([mean(sign * step) for step in steps], -1) for sign in (1.0, -1.0))
        self.slopes = (after - before) / (2 * _STEP)
        curvature = torch.diag_embed((after + before) / _STEP**2)
        for j in range(n):
            for k in range(j):
                mixed = mean(steps[j], steps[k]) - after[:, j] - after[:, k]
                curvature[:, j, k] = curvature[:, k, j] = mixed / _STEP**2
        self.curvature = curvature

    def __call__(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Mean score (component,) at u, and its slopes (component, direction)."""
        bent = self.curvature @ u
        return self.mean + self.slopes @ u + 0.5 * bent @ u, self.slopes + bent


def _fitted(
    expansion: _Expansion, mean: Tensor, covariance: Tensor, n: int, pulls: Tensor, shift: Tensor
) -> tuple[Tensor, Tensor]:
    """Where the mean score is that of a data set, in u, and its covariance there."""
    pulls = pulls @ expansion.axes
    u = pulls.new_zeros(pulls.shape[1])
    weight = torch.linalg.pinv(covariance, hermitian=True)
    matrix = u
    for _ in range(8):
        expected, slopes = expansion(u)
        weighted = n * slopes.T @ weight
        matrix = torch.linalg.pinv(weighted @ slopes + pulls.T @ pulls, hermitian=True, rtol=1e-6)
        step = matrix @ (weighted @ (mean - expected) + pulls.T @ (shift - pulls @ u))
        u = u + step * min(1.0, 3.0 / max(float(step.norm()) / math.sqrt(len(u)), 1e-9))
        if float(step.norm()) < 1e-3:
            break
    return u, matrix
