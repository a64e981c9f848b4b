"""A problem under test, with the parameters, the noise and the events that it is tested with."""

import functools

import numpy as np
import torch

from ..problems.base import events_of
from ..problems.noise import stratified_noise


class Case:
    """A problem and what to try it with; everything follows from the seed.

    Parameters
    ----------
    problem : Problem
    events : array_like (event, observable) or None
        None takes the problem's own.
    n_observed : int or None
        How many of these; None takes the usual number.
    seed : int
    """

    def __init__(self, problem, events, n_observed, seed):
        self.problem, self._given, self._n_observed, self._seed = problem, events, n_observed, seed

    @property
    def is_closure(self):
        """The observed events were made with the problem's truth."""
        return self._given is None and self.problem.truth is not None

    def random(self):
        """A random stream, (re)started."""
        return torch.Generator().manual_seed(self._seed)

    def noise(self, n_events, dtype=torch.float64):
        """Uniform numbers as the trainer makes them, (event, noise_dim)."""
        return stratified_noise(n_events, self.problem.noise_dim, self.random()).to(dtype)

    @property
    def width(self):
        """Widths of the ranges, (parameter,)."""
        return torch.as_tensor(np.subtract(self.problem.upper, self.problem.lower))

    @property
    def middle(self):
        """Where a single point has to do: the truth, or the middle of the ranges, (parameter,)."""
        if self.problem.truth is not None:
            return torch.tensor(self.problem.truth, dtype=torch.float64)
        return self.problem.scale(torch.full_like(self.width, 0.5))

    @property
    def points(self):
        """Some parameter vectors well inside their ranges, (point, parameter)."""
        t = 0.15 + 0.7 * torch.rand((2, len(self.width)), generator=self.random(), dtype=torch.float64)
        return torch.cat([self.middle[None], self.problem.scale(t)])

    @functools.cached_property
    def observed(self):
        """The observed events, as they are given."""
        if self._given is not None:
            return self._given
        return self.problem.observed(self._n_observed, np.random.default_rng(self._seed))

    @functools.cached_property
    def events(self):
        """The observed events, Tensor (event, observable)."""
        return torch.as_tensor(np.array(self.observed, dtype=np.float64))

    @functools.cached_property
    def statistic(self):
        return self.problem.statistic(self.events)

    def features(self, theta, noise):
        """Features of simulated events, (event, feature)."""
        return self.problem.features(events_of(self.problem, theta, noise))
