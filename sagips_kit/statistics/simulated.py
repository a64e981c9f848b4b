"""Simulated and observed events in the same coordinates, as functions of parameters in fractions of their ranges."""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..problems.base import Problem, events_of
from .coordinates import Coordinates
from .sample import Function, Sample

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
        self.is_log = torch.as_tensor((lower > 0) & (upper > 100 * lower))
        self._lower, self._upper = torch.as_tensor(lower), torch.as_tensor(upper)
        self._noise: dict[tuple[int, int], Tensor] = {}

    def theta(self, t: Tensor) -> Tensor:
        """Parameters (parameter,): a linear function of t, or an exponential one for wide positive ranges."""
        linear = self._lower + (self._upper - self._lower) * t
        one = torch.ones_like(self._lower)
        lower = torch.where(self.is_log, self._lower, one)
        return torch.where(self.is_log, lower * torch.where(self.is_log, self._upper / lower, one) ** t, linear)

    def scale(self, t: Tensor) -> Tensor:
        """Derivative of each parameter with respect to its t."""
        ratio = torch.where(self.is_log, self._upper / self._lower, 1.0)
        return torch.where(self.is_log, self.theta(t) * ratio.log(), self._upper - self._lower)

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
        at = t.clone().requires_grad_()
        rows = [torch.autograd.grad(one, at, retain_graph=True)[0] for one in self.residuals(at)]
        return torch.stack(rows) if rows else t.new_zeros(0, len(t))

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
    problem : Problem
        What was observed.
    events : ndarray (event, observable)
        The events.
    """

    def __init__(self, problem: Problem, events: NDArray[np.float64]) -> None:
        self.events, self.n, self._problem = torch.as_tensor(events), len(events), problem
        self.category = self._categories(self.events)
        self._shares = torch.bincount(self.category, minlength=problem.n_categories) / self.n
        self.coordinates = Coordinates(events, self.category.numpy(), problem.n_categories)

    def _categories(self, events: Tensor) -> Tensor:
        if self._problem.n_categories == 1:
            return torch.zeros(len(events), dtype=torch.long)
        return self._problem.category(events)

    def moments(self, function: Function) -> tuple[Tensor, Tensor]:
        """Mean (function,) of a function over the events, and its covariance (function, function) within categories."""
        chunks = zip(self.events.split(_CHUNK), self.category.split(_CHUNK), strict=True)
        sums, products = [], []
        shift = None
        for events, category in chunks:
            values = function(self.coordinates(events, category=category)[0])
            # Products of differences from a value nearby do not cancel.
            shift = values.mean(0) if shift is None else shift
            values = values - shift
            products.append(values.T @ values)
            ones = torch.nn.functional.one_hot(category, self._problem.n_categories).to(values)
            sums.append(ones.T @ values)
        by_category = torch.stack(sums).sum(0)
        counts = (self._shares * self.n).clamp(min=1)
        between = by_category.T @ (by_category / counts[:, None])
        mean = by_category.sum(0) / self.n + shift
        return mean, (torch.stack(products).sum(0) - between) / (self.n - 1)

    def values(self, function: Function, simulation: "Simulation", t: Tensor, noise: Tensor) -> Tensor:
        """Mean (function,) over simulated events."""
        plain = self.simulated(simulation, t, noise)
        return plain.mean(function(plain.z))

    def simulated(self, simulation: Simulation, t: Tensor, noise: Tensor) -> Sample:
        """Simulated events in the coordinates of the observed ones, without derivatives."""
        events = simulation.events(t, noise)
        category = self._categories(events)
        z, _ = self.coordinates(events, category=category)
        return Sample(z, self._weights(category), category, z.new_zeros(0, *z.shape))

    def sample(
        self, simulation: Simulation, t: Tensor, noise: Tensor, axes: Tensor, step: Tensor | None = None
    ) -> Sample:
        """Simulated events with derivatives along axes (parameter, direction); with steps, the events beside them."""
        if step is None:
            events, tangents = simulation.with_tangents(t, noise)
            category = self._categories(events)
            z, dz = self.coordinates(events, tangents, category)
            along = torch.einsum("pec,pd->dec", torch.stack(dz), axes)
            return Sample(z, self._weights(category), category, along)
        plain = self.simulated(simulation, t, noise)
        pairs = [
            torch.stack(
                [self.simulated(simulation, t + sign / 2 * h * axis, noise).z for h, axis in zip(step, axes.T, strict=True)]
            )
            for sign in (-1, 1)
        ]
        return replace(plain, pairs=torch.stack(pairs), step=step)

    def _weights(self, category: Tensor) -> Tensor:
        """Weights (event,) of simulated events that give each category its observed share."""
        made = torch.bincount(category, minlength=self._problem.n_categories) / len(category)
        return (self._shares / made.clamp(min=1e-300))[category].double()
