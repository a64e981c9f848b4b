"""A problem under test, with the parameters, the noise and the events for the tests."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from .._circular import circles, inside, intervals
from ..problems.base import Problem, events_of
from ..problems.noise import stratified_noise
from ..statistics.features import AutomaticFeatures, features_of


class Case:
    """A problem and what it is tested with; everything follows from the seed.

    Parameters
    ----------
    problem : Problem
        The problem under test.
    events : array_like (event, observable) or None
        Observed events; None takes the problem's own.
    n_observed : int or None
        Number of the problem's own events; None takes its usual number.
    seed : int
        Seed of the noise and of the problem's own events.
    """

    def __init__(self, problem: Problem, events: ArrayLike | None, n_observed: int | None, seed: int):
        self.problem, self._given, self._n_observed, self._seed = problem, events, n_observed, seed

    @property
    def is_closure(self) -> bool:
        """Whether the observed events were made with the problem's truth."""
        return self._given is None and self.problem.truth is not None

    def random(self) -> torch.Generator:
        """A random stream that starts anew with each call."""
        return torch.Generator().manual_seed(self._seed)

    def noise(self, n_events: int, dtype: torch.dtype = torch.float64) -> Tensor:
        """Stratified uniform numbers, as in training, (event, noise_dim)."""
        return stratified_noise(n_events, self.problem.noise_dim, self.random()).to(dtype)

    def independent_noise(self, n_events: int) -> Tensor:
        """Independent uniform numbers (event, noise_dim), as the events of an experiment need."""
        return torch.rand((n_events, self.problem.noise_dim), generator=self.random(), dtype=torch.float64)

    @property
    def width(self) -> Tensor:
        """Widths of the ranges, (parameter,)."""
        return torch.as_tensor(np.subtract(self.problem.upper, self.problem.lower))

    @property
    def middle(self) -> Tensor:
        """The point for tests at a single one: the truth, or else the middle of the ranges, (parameter,)."""
        if self.problem.truth is not None:
            return torch.tensor(self.problem.truth, dtype=torch.float64)
        return self.problem.scale(torch.full_like(self.width, 0.5))

    @property
    def points(self) -> Tensor:
        """Some parameter vectors well inside their ranges, (point, parameter)."""
        t = 0.15 + 0.7 * torch.rand((2, len(self.width)), generator=self.random(), dtype=torch.float64)
        return torch.cat([self.middle[None], self.problem.scale(t)])

    @functools.cached_property
    def observed(self) -> Any:
        """The observed events as they were given, or as the problem returns them."""
        if self._given is not None:
            return self._given
        return self.problem.observed(self._n_observed, np.random.default_rng(self._seed))

    @functools.cached_property
    def events(self) -> Tensor:
        """The observed events, (event, observable)."""
        return torch.as_tensor(np.array(self.observed, dtype=np.float64))

    @functools.cached_property
    def statistic(self) -> Any:
        """What the likelihood and the constraints need of the observed events."""
        return self.problem.statistic(self.events)

    def simulate(self, theta: Tensor, noise: Tensor) -> Tensor:
        """Simulated events (event, observable)."""
        return events_of(self.problem, theta, noise)

    def around(self, events: Tensor) -> Tensor:
        """The events (event, observable) with periodic observables inside their intervals."""
        if not self.problem.periodic:
            return events
        low, period = circles(self.problem.observables, intervals(self.problem))
        return torch.as_tensor(inside(events, low, period))

    @functools.cached_property
    def features_at(self) -> Callable[[Tensor], Tensor]:
        """Features (..., feature) of events (..., observable), as the trainer takes them."""
        return features_of(self.problem, self.events)

    @functools.cached_property
    def automatic_features_at(self) -> Callable[[Tensor], Tensor]:
        """What the features would be if the problem declared none."""
        return AutomaticFeatures(self.problem, self.events)
