"""What the members of one rank learn from: the observed events, resampled for each member, and the constraints.

Networks and the exchange between ranks do not belong here.
"""

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..events.batches import Supply, in_batch_order
from ..events.resampling import Resampling, shifts_of_external, weights_of_categories
from ..problems.base import n_external

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
    randoms : list of torch.Generator
        One for each member, for its batches.
    device : torch.device
        Where batches, weights and statistics are needed.
    windows : callable or None
        Maps the number of a window to its events (event, observable), if these are too many for memory.
    share : (int, int)
        Position of this rank among the ranks of its replica, and their number.

    Attributes
    ----------
    observed : Tensor (event, observable)
        All observed events, in batch order, on the CPU.
    category_weights : Tensor (category,)
        Weight of a simulated event of each category.
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
        randoms: list[torch.Generator],
        device: torch.device,
        windows: Callable[[int], NDArray] | None = None,
        share: tuple[int, int] = (0, 1),
    ):
        # Ordered once, since resampling keeps the order.
        self.observed, categories = in_batch_order(problem, events, settings.n_events)
        self.category_weights = weights_of_categories(problem, self.observed).to(device)
        indices = resampling.indices(len(self.observed))
        statistics = (problem.statistic(self.observed[chosen]) for chosen in indices)
        statistics = [statistic.to(device, torch.float32) for statistic in statistics]
        self.constraints = Constraints(problem, statistics, _shifts(problem, resampling), len(self.observed))
        self.batches = Supply(problem, settings.n_events, resampling, randoms, windows, share)
        if windows is not None and (self.category_weights == 0).any():
            raise ValueError(
                f"The {len(self.observed)} events of the random sample have none in category "
                f"{int((self.category_weights == 0).nonzero()[0])}, and there should be events of all "
                f"{problem.n_categories}. Take a larger sample, RunSpec(n_observed=...), or leave this category out of "
                "the problem."
            )
        if windows is None:
            self.batches.fill(self.observed, categories, indices)
        self._device = device

    def draw(self) -> Tensor:
        """The next batch of each member, Tensor (member, event, observable), on the device."""
        return self.batches.draw().to(self._device)


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
        self._problem = problem
        self._residuals = torch.vmap(problem.residuals, in_dims=(0, None, None))
        self.shifts = shifts.to(statistics[0].device)

    @functools.cached_property
    def n_residuals(self) -> int:
        """int: How many values the constraints, priors and measurements have together."""
        middle = torch.full((1, len(self._problem.parameters)), 0.5, device=self.shifts.device)
        return self._residuals(self._problem.scale(middle), self.statistics[0], self.shifts[0]).shape[1]

    def information(self, t: Tensor) -> Tensor:
        """Their information per event on t, in units of the ranges: (member, parameter, parameter) of float64.

        At t (member, parameter); zero where they are not defined.
        """

        def pulls(t: Tensor, statistic: Tensor, shifts: Tensor) -> Tensor:
            return torch.func.jacrev(lambda t: self._problem.residuals(self._problem.scale(t), statistic, shifts))(t)

        each = [pulls(*one).double() for one in zip(t, self.statistics, self.shifts, strict=True)]
        return torch.stack([one.T @ one for one in each]).nan_to_num(0.0) / self.n_events

    def __call__(self, theta: Tensor) -> Tensor:
        """Half the squared residuals per event, as in the likelihood: (member, set, parameter) -> (member,)."""
        each = [self._residuals(*one) for one in zip(theta, self.statistics, self.shifts, strict=True)]
        return torch.stack(each).square().sum(-1).mean(-1) / (2 * self.n_events)


def _shifts(problem, resampling):
    """Shifts of priors and measurements of each member, Tensor (member, external); zero without bootstrap."""
    n, n_chains, seed = n_external(problem), resampling.n_chains, resampling.seed
    shifts = [shifts_of_external(n, chain, n_chains, seed) for chain in resampling.chains]
    return torch.tensor(np.array(shifts), dtype=torch.float32) * resampling.bootstrap
