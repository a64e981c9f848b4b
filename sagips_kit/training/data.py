"""What the members of one rank learn from: the observed events, resampled for each member, and the constraints.

Networks and the exchange between ranks do not belong here.
"""

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..events.batches import Supply, in_batch_order
from ..events.resampling import Resampling, shifts_of_external, weights_of_categories
from ..problems.base import n_external
from .networks import to_unit

if TYPE_CHECKING:
    from ..problems.base import Problem
    from .settings import Settings


class RankData:
    """The observed events of one rank.

    Parameters
    ----------
    problem : Problem
        Defines categories, statistic, constraints, priors and measurements.
    settings : Settings
        `n_events` is the size of a batch.
    events : ndarray (event, observable)
        Observed events that `check_events` has accepted.
    resampling : Resampling
        Which events each member learns from.
    keys : sequence of int
        The key of each member's random bits, for its batches.
    device : torch.device
        Where batches and statistics are needed.
    windows : callable or None
        Maps the number of a window to its events (event, observable), if these are too many for memory.
    share : (int, int)
        Position of this rank among the ranks of its replica, and their number.

    Attributes
    ----------
    observed : Tensor (event, observable)
        All observed events, in batch order, on the CPU.
    category_weights : Tensor (category,)
        Weight of a simulated event of each category, on the CPU.
    constraints : Constraints
        Constraints, priors and measurements, with the statistic of each member's own events.
    batches : Supply
        The stream of batches of each member.
    """

    def __init__(
        self,
        problem: "Problem",
        settings: "Settings",
        events: NDArray,
        resampling: Resampling,
        keys: Sequence[int],
        device: torch.device,
        windows: Callable[[int], NDArray] | None = None,
        share: tuple[int, int] = (0, 1),
    ):
        # Ordered once, since resampling keeps the order.
        self.observed, categories = in_batch_order(problem, events, settings.n_events)
        self.category_weights = weights_of_categories(problem, self.observed)
        indices = resampling.indices(len(self.observed))
        statistics = (problem.statistic(self.observed[chosen]) for chosen in indices)
        statistics = [statistic.to(device, torch.float32) for statistic in statistics]
        self.constraints = Constraints(problem, statistics, _shifts(problem, resampling), len(self.observed))
        self.batches = Supply(problem, settings.n_events, resampling, keys, windows, share, device)
        if windows is not None and (self.category_weights == 0).any():
            raise ValueError(
                f"The {len(self.observed)} events of the random sample have none in category "
                f"{int((self.category_weights == 0).nonzero()[0])}, and there should be events of all "
                f"{problem.n_categories}. Take a larger sample, RunSpec(n_observed=...), or leave this category out of "
                "the problem."
            )
        if windows is None:
            self.batches.fill(self.observed, categories, indices)


class Constraints:
    """The constraints, priors and measurements of a problem as a part of the generators' loss.

    Parameters
    ----------
    problem : Problem
        Defines constraints, priors and measurements.
    statistics : sequence of Tensor
        The problem's statistic of the events of each member.
    shifts : Tensor (member, external)
        Shifts of the values of priors and measurements of each member, in standard deviations.
    n_events : int
        Number of observed events.
    """

    def __init__(self, problem: "Problem", statistics: Sequence[Tensor], shifts: Tensor, n_events: int):
        self.statistics, self.n_events = statistics, n_events
        self._problem, self._n_members = problem, len(shifts)
        self.shifts = shifts.to(statistics[0].device)

    @functools.cached_property
    def _statistic(self) -> Any:
        """The statistics of all members as one argument of `residuals`, and its axis of members.

        Resamples differ in length, so that their events, which are the statistic by default, cannot be stacked.
        Constraints that need no statistic work with nothing in its place.
        """
        if all(one is self.statistics[0] for one in self.statistics):
            return self.statistics[0], None
        try:
            self._problem.constraints(self._middle[0], _Nothing())  # pyright: ignore[reportArgumentType]
            return _Nothing(), None
        except Exception:  # of any type, from a function of the user that needs its statistic
            pass
        if len({one.shape for one in self.statistics}) == 1:
            return torch.stack([*self.statistics]), 0
        return None

    @property
    def _middle(self) -> Tensor:
        """The middle of the ranges, (1, parameter)."""
        middle = torch.full((1, len(self._problem.parameters)), 0.5, device=self.shifts.device)
        return self._problem.scale(middle)

    @functools.cached_property
    def n_residuals(self) -> int:
        """int: How many values the constraints, priors and measurements have together."""
        return len(self._problem.residuals(self._middle[0], self.statistics[0], self.shifts[0]))

    def _of_members(self, function: Callable[[Tensor, Tensor, Tensor], Tensor], each: Tensor) -> Tensor:
        """A function of what belongs to a member, its statistic and its shifts, for all members: (member, ...)."""
        if self._statistic is not None:
            statistic, axis = self._statistic
            return torch.vmap(function, in_dims=(0, axis, 0))(each, statistic, self.shifts)
        return torch.stack([function(*one) for one in zip(each, self.statistics, self.shifts, strict=True)])

    def information(self, t: Tensor) -> Tensor:
        """Their information per event on t, in units of the ranges: (member, parameter, parameter), on the CPU.

        At t (member, parameter), in double precision; zero where they are not defined.
        """
        pulls = self._pulls(t, lambda t: t).cpu().double()
        return (pulls.mT @ pulls).nan_to_num(0.0) / self.n_events

    def information_at(self, y: Tensor, is_periodic: Tensor | None) -> Tensor:
        """Their information on the unbounded parameters y (member, parameter): (member, parameter, parameter)."""
        pulls = self._pulls(y, lambda y: to_unit(y, is_periodic))
        return pulls.mT @ pulls

    def _pulls(self, at: Tensor, t_of: Callable[[Tensor], Tensor]) -> Tensor:
        """Derivatives of the residuals, (member, residual, parameter), with respect to `at`, which gives t."""

        def pulls(at: Tensor, statistic: Tensor, shifts: Tensor) -> Tensor:
            return torch.func.jacrev(
                lambda at: self._problem.residuals(self._problem.scale(t_of(at)), statistic, shifts)
            )(at)

        return self._of_members(pulls, at)

    def residuals(self, theta: Tensor) -> Tensor:
        """Residuals of all sets of each member: (member, set, parameter) -> (member, set, residual).

        Their part of the generators' loss is half their squares per event and set, as in the likelihood.
        """
        return self._of_members(torch.vmap(self._problem.residuals, in_dims=(0, None, None)), theta)


class _Nothing:
    """Stands for a statistic that is not used; any use is an error."""


def _shifts(problem, resampling):
    """Shifts of priors and measurements of each member, Tensor (member, external); zero without bootstrap."""
    n, n_chains, seed = n_external(problem), resampling.n_chains, resampling.seed
    shifts = [shifts_of_external(n, chain, n_chains, seed) for chain in resampling.chains]
    return torch.tensor(np.array(shifts), dtype=torch.float32) * resampling.bootstrap
