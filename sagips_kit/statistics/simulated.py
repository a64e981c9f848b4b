"""Simulated and observed events in the same coordinates, as functions of parameters in fractions of their ranges."""

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .._circular import intervals
from ..events.sampling import evenly_spaced
from ..problems.base import Problem, events_of, is_periodic
from .coordinates import Coordinates
from .sample import Differences, Function, Sample

_EDGE = 1e-7  # distance (in units of the range) that t keeps from the ends
WIDE, NARROW = 0.2, 0.1  # widths of differences in deviations of one event: to learn from, and for a solution
MOST_WIDTH = 0.1  # of differences, in units of the ranges
_TINY = 1e-10  # distance of noise from 0 and 1
_WIDENED = 1.5  # of normal scores of noise, to learn from
_CHUNK = 16_384  # observed events whose functions are computed at a time


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
    fixed : dict of str to float
        Parameters that keep these values; t has the others only.

    Attributes
    ----------
    parameters : tuple of str
        Names of the parameters that are not fixed.
    lower, upper : Tensor (parameter,)
        Their ranges.
    is_periodic, is_log : Tensor (parameter,) of bool
        Which parameters are on a circle, and which ones are exponentials of t.
    uses_differences : bool
        Whether differences of the events at two places are used in place of derivatives: these are missing or wrong, or
        few events have one, as of mixtures, where an event jumps from one part to another.
    """

    def __init__(
        self, problem: Problem, statistic: Tensor, seed: int, fixed: Mapping[str, float] = MappingProxyType({})
    ) -> None:
        self.problem, self._statistic, self._seed = problem, statistic, seed
        is_free = [name not in fixed for name in problem.parameters]
        self.parameters = tuple(name for name in problem.parameters if name not in fixed)
        self._free = torch.tensor(is_free).nonzero()[:, 0]
        given = [float(fixed.get(name, math.nan)) for name in problem.parameters]
        self._values = torch.tensor(given, dtype=torch.float64)
        lower, upper = (np.asarray(bound, float)[is_free] for bound in (problem.lower, problem.upper))
        self.is_periodic = is_periodic(problem)[self._free]
        self.is_log = torch.as_tensor((lower > 0) & (upper > 100 * lower)) & ~self.is_periodic
        self.lower, self.upper = torch.as_tensor(lower), torch.as_tensor(upper)
        self._noise: dict[tuple[int, int, int], Tensor] = {}
        self.uses_differences = not self._has_derivative()

    def of(self, problem: Problem) -> "Simulation":
        """The simulation of another problem that has the same parameters, with the same ranges and fixed values."""
        other = copy.copy(self)
        other.problem, other._noise = problem, {}
        return other

    def _has_derivative(self) -> bool:
        """Whether simulated events depend on the parameters in a way that is known to autograd."""
        t = torch.full_like(self.lower, 0.5).requires_grad_()
        try:
            return events_of(self.problem, self._all(t), self.noise(16, 0)).requires_grad
        except RuntimeError:  # raised where a tensor with a derivative becomes an array
            return False

    def inside(self, t: Tensor) -> Tensor:
        """The same t on a circle for periodic parameters, and within the range for others."""
        return torch.where(self.is_periodic, t - t.floor(), t.clamp(_EDGE, 1 - _EDGE))

    def distance(self, t: Tensor, other: Tensor, information: Tensor) -> float:
        """Length of the difference of two places, in deviations per direction."""
        difference = t - other
        difference = torch.where(self.is_periodic, difference - difference.round(), difference)
        return math.sqrt(max(0.0, float(difference @ information @ difference)) / len(t))

    def theta(self, t: Tensor) -> Tensor:
        """Free parameters (parameter,): a linear function of t, or an exponential one for wide positive ranges."""
        t = torch.where(self.is_periodic, t - t.detach().floor(), t)
        linear = self.lower + (self.upper - self.lower) * t
        one = torch.ones_like(self.lower)
        lower = torch.where(self.is_log, self.lower, one)
        return torch.where(self.is_log, lower * torch.where(self.is_log, self.upper / lower, one) ** t, linear)

    def t_of(self, theta: Tensor) -> Tensor:
        """The t at which the parameters that are not fixed are theta (parameter,)."""
        linear = (theta - self.lower) / (self.upper - self.lower)
        logarithmic = (theta / self.lower).log() / (self.upper / self.lower).log()
        return self.inside(torch.where(self.is_log, logarithmic, linear))

    def _all(self, t: Tensor) -> Tensor:
        """All parameters of the problem."""
        return self._values.index_copy(0, self._free, self.theta(t))

    def is_near_an_end(self, t: Tensor, distance: Tensor | float) -> Tensor:
        """Which parameters (parameter,) are within a distance from an end of their ranges."""
        return ((t <= distance) | (t >= 1 - distance)) & ~self.is_periodic

    def scale(self, t: Tensor) -> Tensor:
        """Derivative of each parameter with respect to its t."""
        ratio = torch.where(self.is_log, self.upper / self.lower, 1.0)
        return torch.where(self.is_log, self.theta(t) * ratio.log(), self.upper - self.lower)

    def noise(self, n: int, number: int, n_sets: int = 1, is_kept: bool = True) -> Tensor:
        """Scrambled Sobol sequences (set * event, noise_dim), one after the other; others for each number."""
        if (n, number, n_sets) not in self._noise:
            engines = [self._sobol(self.problem.noise_dim, number + 1000 * k) for k in range(n_sets)]
            drawn = torch.cat([engine.draw(n, dtype=torch.float64) for engine in engines])
            # Zero breaks the logarithms of simulators.
            drawn = drawn.clamp(_TINY, 1 - _TINY)
            if not is_kept:
                return drawn
            self._noise[n, number, n_sets] = drawn
        return self._noise[n, number, n_sets]

    def wide_noise(self, n: int, number: int) -> tuple[Tensor, Tensor]:
        """Noise (event, noise_dim) of which more is near 0 and 1 than in events, and weights (event,) to undo that.

        Rare events may decide a parameter, and what is learned from few of them is poor.  In half of the events, the
        normal score of one of the numbers is `_WIDENED` times as large.
        """
        n_dim = self.problem.noise_dim
        drawn = self._sobol(n_dim + 1, number).draw(n, dtype=torch.float64).clamp(_TINY, 1 - _TINY)
        scores, choice = torch.special.ndtri(drawn[:, :n_dim]), (2 * n_dim * drawn[:, n_dim]).long()
        is_wide = choice[:, None] == torch.arange(n_dim)
        scores = torch.where(is_wide, _WIDENED * scores, scores)
        # Densities of each of the numbers if it is wide, relative to those of events
        densities = torch.exp(0.5 * (1 - _WIDENED**-2) * scores.square()) / _WIDENED
        return torch.special.ndtr(scores).clamp(_TINY, 1 - _TINY), 2 / (1 + densities.mean(1))

    def _sobol(self, n_dim: int, number: int) -> torch.quasirandom.SobolEngine:
        return torch.quasirandom.SobolEngine(n_dim, scramble=True, seed=self._seed + number)

    def residuals(self, t: Tensor, statistic: Tensor | None = None) -> Tensor:
        """Residuals of constraints, priors and measurements, with the statistic of the observed or of other events."""
        return self.problem.residuals(self._all(t), self._statistic if statistic is None else statistic)

    def pulls(self, t: Tensor, n: int | None = None) -> Tensor:
        """Their derivatives (residual, parameter), or those of the first n."""
        at = t.clone().requires_grad_()
        rows = [torch.autograd.grad(one, at, retain_graph=True)[0] for one in self.residuals(at)[:n]]
        return torch.stack(rows) if rows else t.new_zeros(0, len(t))

    def events(self, t: Tensor, noise: Tensor) -> Tensor:
        """Simulated events (event, observable)."""
        with torch.no_grad():
            return events_of(self.problem, self._all(t), noise).double()

    def with_tangents(self, t: Tensor, noise: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Events, and their derivatives with respect to each t, by differentiating backward twice."""
        t = t.clone().requires_grad_()
        events = events_of(self.problem, self._all(t), noise).double()
        if not events.requires_grad:
            return events, [torch.zeros_like(events) for _ in t]
        cotangent = torch.zeros_like(events, requires_grad=True)
        (pulled,) = torch.autograd.grad(events, t, cotangent, create_graph=True)
        if not pulled.requires_grad:  # such as of round, whose derivative is 0 everywhere
            return events.detach(), [torch.zeros_like(events) for _ in t]
        tangents = [torch.autograd.grad(one, cotangent, retain_graph=True)[0] for one in pulled]
        return events.detach(), tangents

    def around(self, t: Tensor, axis: Tensor, width: float) -> tuple[Tensor, Tensor, float]:
        """Two places on a line through t, half a width to both sides if the ranges allow, and their distance.

        Width and distance are in lengths of the axis.  One event may say so little about a direction that its deviation
        is longer than the ranges, in which means of functions are not linear: the width is a part of them at most.
        """
        width = min(width, MOST_WIDTH / float(axis.abs().max().clamp(min=1e-300)))
        wide = torch.full_like(t, math.inf)
        up, down = (
            float(torch.where(self.is_periodic | (way == 0), wide, ((way > 0).double() - t).abs() / way.abs()).min())
            for way in (axis, -axis)
        )
        before, after = -min(width / 2, down), min(width / 2, up)
        return self.inside(t + before * axis), self.inside(t + after * axis), max(after - before, 1e-9)


class Observation:
    """The observed events as coordinates.

    Parameters
    ----------
    problem : Problem
        What was observed; its periodic observables count as angles.
    events : ndarray (event, observable)
        The events.
    """

    def __init__(self, problem: Problem, events: NDArray[np.float64]) -> None:
        self.events, self.n, self._problem = torch.as_tensor(events), len(events), problem
        self.category = self._categories(self.events)
        self._shares = torch.bincount(self.category, minlength=problem.n_categories) / self.n
        around = intervals(problem)
        periods = {k: around[name][1] - around[name][0] for k, name in enumerate(problem.observables) if name in around}
        self.coordinates = Coordinates(events, self.category.numpy(), problem.n_categories, periods)

    def _categories(self, events: Tensor) -> Tensor:
        if self._problem.n_categories == 1:
            return torch.zeros(len(events), dtype=torch.long)
        return self._problem.category(events)

    def some(self, n: int) -> "Observation":
        """At most so many of the events, evenly spaced, in the same coordinates; for a search."""
        if n >= self.n:
            return self
        return self.of(self.events[evenly_spaced(self.n, n)])

    def of(self, events: Tensor) -> "Observation":
        """Other events (event, observable) in the same coordinates."""
        other = copy.copy(self)
        other.events, other.n, other.category = events, len(events), self._categories(events)
        other._shares = torch.bincount(other.category, minlength=len(self._shares)) / other.n
        return other

    def moments(self, function: Function, part: slice = slice(None)) -> tuple[Tensor, Tensor]:
        """Mean (function,) of a function over events, and its covariance (function, function) within categories.

        In a part of the events, categories are weighted to the shares that they have in all.
        """
        n_categories = self._problem.n_categories
        sums, products, shift = [], [], None
        chunks = zip(self.events[part].split(_CHUNK), self.category[part].split(_CHUNK), strict=True)
        for events, category in chunks:
            values = function(self.coordinates(events, category=category)[0])
            # Products of differences from a value nearby do not cancel.
            shift = values.mean(0) if shift is None else shift
            values = values - shift
            products.append(values.T @ values)
            sums.append(torch.nn.functional.one_hot(category, n_categories).to(values).T @ values)
        assert shift is not None
        counts = torch.bincount(self.category[part], minlength=n_categories).clamp(min=1)
        by_category = torch.stack(sums).sum(0) / counts[:, None]
        between = by_category.T @ (counts[:, None] * by_category)
        covariance = (torch.stack(products).sum(0) - between) / (len(self.events[part]) - 1)
        return self._shares.to(by_category) @ by_category + shift, covariance

    def covariance_of_change(self, function: Function, other: "Observation") -> Tensor:
        """Covariance (function, function) of the change of a function's values from these events to as many others."""
        sums, products = [], []
        for before, after in zip(self._values(function), other._values(function), strict=True):
            change = after - before
            sums.append(change.sum(0))
            products.append(change.T @ change)
        mean = torch.stack(sums).sum(0) / self.n
        return torch.stack(products).sum(0) / self.n - mean[:, None] * mean

    def _values(self, function: Function) -> Iterator[Tensor]:
        """Values (event, function) of a function, of few events at a time."""
        for events, category in zip(self.events.split(_CHUNK), self.category.split(_CHUNK), strict=True):
            yield function(self.coordinates(events, category=category)[0])

    @property
    def is_ordered(self) -> bool:
        """bool: Whether events are sorted by an observable or grouped by category, so that halves must differ."""
        n_changes = int((self.category.diff() != 0).sum())
        if self._problem.n_categories > 1 and n_changes < self.n / 10:
            return True
        steps = self.events.diff(dim=0)
        return bool((((steps >= 0).double().mean(0) > 0.9) | ((steps <= 0).double().mean(0) > 0.9)).any())

    def halves(self, function: Function) -> list[tuple[Tensor, Tensor]]:
        """Moments of a function over the first and over the second half of the events."""
        middle = self.n // 2
        return [self.moments(function, slice(0, middle)), self.moments(function, slice(middle, None))]

    def mean_by(self, mean: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Mean over the events by a function of coordinates (event, coordinate) and weights (event,)."""
        chunks = zip(self.events.split(_CHUNK), self.category.split(_CHUNK), strict=True)
        parts = []
        for events, category in chunks:
            z, _ = self.coordinates(events, category=category)
            parts.append(len(z) * mean(z, z.new_ones(len(z))))
        return torch.stack(parts).sum(0) / self.n

    def simulated(self, simulation: Simulation, t: Tensor, noise: Tensor) -> Sample:
        """Simulated events in the coordinates of the observed ones, without derivatives."""
        events = simulation.events(t, noise)
        category = self._categories(events)
        z, _ = self.coordinates(events, category=category)
        return Sample(z, self._weights(category), category)

    def simulated_mean(self, simulation: Simulation, t: Tensor, noise: Tensor, function: Function) -> Tensor:
        """Mean (function,) over simulated events with the observed shares of categories, few of them at a time."""
        n_categories = self._problem.n_categories
        sums, counts = [], []
        for part in noise.split(_CHUNK):
            sample = self.simulated(simulation, t, part)
            in_category = torch.nn.functional.one_hot(sample.category, n_categories).double()
            sums.append(in_category.T @ function(sample.z))
            counts.append(in_category.sum(0))
        by_category = torch.stack(sums).sum(0) / torch.stack(counts).sum(0).clamp(min=1)[:, None]
        return self._shares.to(by_category) @ by_category

    def sample(self, simulation: Simulation, t: Tensor, noise: Tensor, axes: Tensor, width: float = WIDE) -> Sample:
        """Simulated events and how they change along axes (parameter, direction).

        If differences are taken, their places are `width` apart, in lengths of the axes.
        """
        if simulation.uses_differences:
            return self.differences(simulation, t, noise, axes, width)
        return self.tangents(simulation, t, noise, axes)

    def tangents(self, simulation: Simulation, t: Tensor, noise: Tensor, axes: Tensor) -> Sample:
        """Simulated events and their derivatives along each of the axes (parameter, direction)."""
        events, tangents = simulation.with_tangents(t, noise)
        category = self._categories(events)
        z, dz = self.coordinates(events, tangents, category)
        return Sample(z, self._weights(category), category, torch.einsum("pec,pd->dec", torch.stack(dz), axes))

    def differences(self, simulation: Simulation, t: Tensor, noise: Tensor, axes: Tensor, width: float) -> Sample:
        """Simulated events, and the same events at two places along each of the axes (parameter, direction)."""
        places = [simulation.around(t, axis, width) for axis in axes.T]
        before, after = (
            torch.stack([self.simulated(simulation, place, noise).z for place in ends])
            for ends in ([before for before, _, _ in places], [after for _, after, _ in places])
        )
        widths = torch.tensor([width for _, _, width in places], dtype=torch.float64)
        here = self.simulated(simulation, t, noise)
        return replace(here, differences=Differences(before, after, widths))

    def _weights(self, category: Tensor) -> Tensor:
        """Weights (event,) of simulated events that give each category its observed share."""
        made = torch.bincount(category, minlength=self._problem.n_categories) / len(category)
        return (self._shares / made.clamp(min=1e-300))[category].double()
