"""Simulated and observed events in the same coordinates, as functions of parameters in fractions of their ranges."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .._circular import circles, inside, intervals, wrapped
from ..problems.base import Problem, events_of, is_periodic
from .coordinates import Coordinates
from .score import Function, Sample

_CHUNK = 100_000  # observed events whose functions are computed at a time


class Simulation:
    """A problem in fractions t of its ranges, and its simulated events.

    Parameters
    ----------
    problem : Problem
        What is simulated.
    statistic : Tensor
        The problem's statistic of the observed events, for its constraints.
    seed : int
        Seed of the quasi-random noise.
    """

    def __init__(self, problem: Problem, statistic: Tensor, seed: int) -> None:
        self.problem, self._statistic, self._seed = problem, statistic, seed
        lower, upper = (np.asarray(bound, float) for bound in (problem.lower, problem.upper))
        self.is_periodic = is_periodic(problem)
        self.is_log = torch.as_tensor((lower > 0) & (upper > 100 * lower)) & ~self.is_periodic
        self._lower, self._upper = torch.as_tensor(lower), torch.as_tensor(upper)
        self._noise: dict[tuple[int, int], Tensor] = {}

    def theta(self, t: Tensor) -> Tensor:
        """Parameters (parameter,): a linear function of t, or an exponential one for wide positive ranges.

        Periodic ones are inside their ranges whatever t is.
        """
        t = torch.where(self.is_periodic, t - t.detach().floor(), t)
        linear = self._lower + (self._upper - self._lower) * t
        one = torch.ones_like(self._lower)
        lower = torch.where(self.is_log, self._lower, one)
        return torch.where(self.is_log, lower * torch.where(self.is_log, self._upper / lower, one) ** t, linear)

    def bounded(self, t: Tensor, edge: float) -> Tensor:
        """The same t, at least `edge` from the ends of the ranges; periodic parameters have none."""
        return torch.where(self.is_periodic, t, t.clamp(edge, 1 - edge))

    def is_near_an_end(self, t: Tensor, distance: Tensor | float) -> Tensor:
        """Which parameters (parameter,) are within a distance from an end of their ranges."""
        return ((t <= distance) | (t >= 1 - distance)) & ~self.is_periodic

    def difference(self, one: Tensor, other: Tensor) -> Tensor:
        """`one` - `other`, along the shorter way around for periodic parameters."""
        return torch.where(self.is_periodic, wrapped(one - other, 1.0), one - other)

    def scale(self, t: Tensor) -> Tensor:
        """Derivative of each parameter with respect to its t."""
        return torch.func.jvp(self.theta, (t,), (torch.ones_like(t),))[1]

    def noise(self, n: int, number: int) -> Tensor:
        """A scrambled Sobol sequence (event, noise_dim); another one for each number."""
        if (n, number) not in self._noise:
            engine = torch.quasirandom.SobolEngine(self.problem.noise_dim, scramble=True, seed=self._seed + number)
            # Zero breaks the logarithms of simulators.
            self._noise[n, number] = engine.draw(n, dtype=torch.float64).clamp(1e-10, 1 - 1e-10)
        return self._noise[n, number]

    def residuals(self, t: Tensor) -> Tensor:
        """Residuals of constraints and priors."""
        return self.problem.residuals(self.theta(t), self._statistic)

    def pulls(self, t: Tensor) -> Tensor:
        """Their derivatives, (residual, parameter)."""
        return torch.func.jacrev(self.residuals)(t)

    def events(self, t: Tensor, noise: Tensor) -> Tensor:
        """Simulated events (event, observable)."""
        with torch.no_grad():
            return events_of(self.problem, self.theta(t), noise).double()

    def with_tangents(self, t: Tensor, noise: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Events, and their derivatives with respect to each t, by differentiating backward twice."""
        t = t.clone().requires_grad_()
        events = events_of(self.problem, self.theta(t), noise).double()
        if not events.requires_grad:
            raise ValueError(
                f"{type(self.problem).__name__}.simulate returns events that do not depend differentiably on theta, so "
                "there is nothing to learn a score from. check_problem(problem) shows what to change."
            )
        cotangent = torch.zeros_like(events, requires_grad=True)
        (pulled,) = torch.autograd.grad(events, t, cotangent, create_graph=True)
        tangents = [torch.autograd.grad(one, cotangent, retain_graph=True)[0] for one in pulled]
        return events.detach(), tangents


class Observation:
    """The observed events as coordinates.

    Parameters
    ----------
    events : ndarray (event, observable)
        The events.
    problem : Problem
        Its periodic observables count as angles.
    """

    def __init__(self, events: NDArray[np.float64], problem: Problem) -> None:
        self.events, self.n = torch.as_tensor(events), len(events)
        self._circles = circles(problem.observables, intervals(problem))
        periods = {k: float(period) for k, period in enumerate(self._circles[1]) if not np.isnan(period)}
        self.coordinates = Coordinates(events, periods)

    def inside(self, events: Tensor) -> Tensor:
        """Events (event, observable) with all periodic observables in their intervals."""
        return torch.as_tensor(inside(events.numpy(), *self._circles))

    def moments(self, function: Function) -> tuple[Tensor, Tensor]:
        """Mean (function,) and covariance (function, function) of a function over the events."""
        parts = [function(self.coordinates(part)[0]) for part in self.events.split(_CHUNK)]
        mean = torch.stack([part.sum(0) for part in parts]).sum(0) / self.n
        products = torch.stack([(part - mean).T @ (part - mean) for part in parts]).sum(0)
        return mean, products / (self.n - 1)

    def sample(self, simulation: Simulation, t: Tensor, noise: Tensor) -> Sample:
        """Simulated events in the coordinates of the observed ones."""
        z, dz = self.coordinates(*simulation.with_tangents(t, noise))
        return Sample(z, torch.stack(dz))
