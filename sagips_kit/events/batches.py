"""The order in which observed events are drawn: each batch is a small representative image of all of them."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

if TYPE_CHECKING:
    from ..problems.base import Problem
    from .resampling import Resampling

_N_AHEAD = 100  # windows in which events of each category are looked for


def neighbour_order(events: NDArray[Any], n_cells: int) -> NDArray[np.int64]:
    """Indices (event,) that sort events (event, observable) into at least `n_cells` cells of equal content.

    The cells come from cuts at the median, along one observable after the other (a k-d tree).
    """
    axes = [column for column in events.T if column.min() < column.max()]

    def cut(indices, depth):
        if not axes or len(indices) * n_cells <= max(n_cells, len(events)):
            return indices
        indices = indices[np.argsort(axes[depth % len(axes)][indices], kind="stable")]
        if len(axes) == 1:
            return indices
        middle = len(indices) // 2
        return np.concatenate([cut(indices[:middle], depth + 1), cut(indices[middle:], depth + 1)])

    return cut(np.arange(len(events)), 0)


def batch_order(events: NDArray[Any], categories: NDArray[Any], n_cells: int) -> NDArray[np.int64]:
    """Indices (event,) that put one category after the other, each in `neighbour_order`."""
    parts = [np.flatnonzero(categories == category) for category in np.unique(categories)]
    return np.concatenate([part[neighbour_order(events[part], n_cells)] for part in parts])


def in_batch_order(problem: "Problem", events: ArrayLike | Tensor, n_cells: int) -> tuple[Tensor, Tensor]:
    """Events (event, observable) in `batch_order`, and their categories (event,), as tensors."""
    events = torch.tensor(events, dtype=torch.float32)
    categories = problem.category(events)
    order = torch.as_tensor(batch_order(events.numpy(), categories.numpy(), n_cells))
    return events[order], categories[order]


class Batches:
    """Batches of one member: equal shares of all categories, with one event from each of many cells of equal content.

    Within an epoch no position in the order is drawn twice, so the next batches contain what one batch lacks.

    Parameters
    ----------
    events : Tensor (event, observable)
        In `batch_order`.
    categories : Tensor (event,) of int
        The category of each event, 0 to n_categories - 1.
    n_categories : int
        Number of categories.
    batch_size : int
        Events of a batch.
    random : torch.Generator
        The source of randomness.

    Raises
    ------
    ValueError
        If there are fewer events in a batch than categories, or none of some category.
    """

    def __init__(self, events: Tensor, categories: Tensor, n_categories: int, batch_size: int, random: torch.Generator):
        if batch_size < n_categories:
            raise ValueError(
                f"n_events = {batch_size}: should be at least {n_categories}, so that a batch holds an event of each "
                f"category. Type Settings(n_events=...)."
            )
        shares = torch.tensor([batch_size * (k + 1) // n_categories for k in range(n_categories)])
        self._random = random
        self._parts = []
        for category, size in enumerate(shares.diff(prepend=torch.tensor([0])).tolist()):
            part = events[categories == category]
            if len(part) == 0:
                raise ValueError(
                    f"No observed event is in category {category}, and there should be events of all {n_categories}. "
                    "Take more events, or leave this category out of the problem."
                )
            self._parts.append((part, size))
        self._columns: list[Tensor] = []
        self._start, self._n_drawn = random.get_state(), 0

    @property
    def is_spent(self) -> bool:
        """Whether the next batch begins another epoch."""
        return not self._columns

    def draw(self) -> Tensor:
        """The next batch, (event, observable)."""
        if not self._columns:
            self._start, self._n_drawn = self._random.get_state(), 0
            self._columns = self._epoch()
        self._n_drawn += 1
        return self._columns.pop()

    def state_dict(self) -> dict[str, Any]:
        """The position in the events: the random state at the start of the epoch, and the batches drawn since then."""
        return {"random": self._start, "n_drawn": self._n_drawn}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the position at which `state` was taken."""
        self._start, self._n_drawn = state["random"], int(state["n_drawn"])
        self._random.set_state(self._start)
        self._columns = self._epoch() if self._n_drawn else []
        if not 0 <= self._n_drawn <= len(self._columns):
            raise ValueError(f"n_drawn = {self._n_drawn}: an epoch has {len(self._columns)} batches.")
        del self._columns[len(self._columns) - self._n_drawn :]

    def _epoch(self) -> list[Tensor]:
        # As many batches as the smallest category fills; larger categories are thinned evenly.
        n_batches = max(1, min(len(part) // size for part, size in self._parts))
        epochs = [self._positions(len(part), size, n_batches) for part, size in self._parts]
        return [
            torch.cat([part[at[:, k]] for (part, _), at in zip(self._parts, epochs, strict=True)])
            for k in range(n_batches)
        ]

    def _positions(self, n_events: int, size: int, n_batches: int) -> Tensor:
        """Where in the order each batch takes its events: (cell, batch)."""
        turn = torch.rand((size, n_batches), generator=self._random).argsort(dim=1)
        jitter = torch.rand((size, n_batches), generator=self._random, dtype=torch.float64)
        within = (turn + jitter) / n_batches
        at = (torch.arange(size)[:, None] + within) * (n_events / size)
        return at.long().clamp_(max=n_events - 1)


class Supply:
    """The source of all members' batches on a rank: all observed events, or one window of a file after the other.

    The ranks of a replica take turns in the windows: each reads only its share of the file, and together they read all
    of it.  Each replica reads the whole file, because its chains are resamples of all events.

    Parameters
    ----------
    problem : Problem
        Whose categories are balanced.
    batch_size : int
        Events of a batch.
    resampling : Resampling
        Which events of a window each member is trained on.
    randoms : list of torch.Generator
        One for each member.
    windows : callable or None
        Gets the number of a window and returns its events (event, observable); None for events given by `fill`.
    share : (int, int)
        The position of this rank in its replica, and the number of ranks in the replica.
    """

    def __init__(
        self,
        problem: "Problem",
        batch_size: int,
        resampling: "Resampling",
        randoms: list[torch.Generator],
        windows: Callable[[int], NDArray[Any]] | None = None,
        share: tuple[int, int] = (0, 1),
    ):
        self._problem, self._batch_size, self._resampling, self._randoms = problem, batch_size, resampling, randoms
        self._windows, self._share = windows, share
        self._n_windows, self._batches = 0, []

    def fill(self, events: Tensor, categories: Tensor, indices: list[Tensor]) -> None:
        """Give each member its events, by their indices (event,) in events that are in `batch_order`."""
        n = self._problem.n_categories
        self._batches = []
        for chosen, random in zip(indices, self._randoms, strict=True):
            # A resample may lack a rare category, of which such a member gets all events.
            is_lacking = torch.bincount(categories[chosen], minlength=n) == 0
            chosen = torch.cat([chosen, torch.nonzero(is_lacking[categories]).flatten()]).sort().values
            self._batches.append(Batches(events[chosen], categories[chosen], n, self._batch_size, random))

    def draw(self) -> Tensor:
        """The next batch of each member, (member, event, observable)."""
        if self._windows and (not self._n_windows or self._batches[0].is_spent):
            self._open(self._n_windows)
        return torch.stack([batches.draw() for batches in self._batches])

    def state_dict(self) -> dict[str, Any]:
        """The number of windows opened so far, and the position of each member in its events."""
        return {"n_windows": self._n_windows} | {str(k): each.state_dict() for k, each in enumerate(self._batches)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the position at which `state` was taken."""
        if n_windows := int(state["n_windows"]):
            self._open(n_windows - 1)
        for k, batches in enumerate(self._batches):
            batches.load_state_dict(state[str(k)])

    def _open(self, number: int) -> None:
        """Read this rank's next window, which no other rank of its replica reads in the same turn."""
        if self._windows is None:
            raise ValueError(
                "The checkpoint is that of a run that reads windows of a file, and this run does not. Resume it with "
                "the events it began with: events=Observed(..., stream=True)."
            )
        rank, n_ranks = self._share
        window = rank + n_ranks * number
        events, categories = in_batch_order(self._problem, self._with_all_categories(window), self._batch_size)
        # The resamples of a window, too, add up to the window over all chains.
        self.fill(events, categories, self._resampling.indices(len(events), window))
        self._n_windows = number + 1

    def _with_all_categories(self, window: int) -> NDArray[Any]:
        """The events of a window; if they lack a category, then with those of that category in the windows ahead."""
        assert self._windows is not None
        n = self._problem.n_categories
        events = self._windows(window)
        counts = self._counts(events)
        for ahead in range(1, _N_AHEAD):
            if (counts > 0).all():
                break
            more = self._windows(window + ahead * self._share[1])
            if len(more):
                is_lacking = (counts == 0)[self._categories(more)]
                events = np.concatenate([events, more[is_lacking]])
                counts = self._counts(events)
        if not len(events):
            raise ValueError(
                f"{_N_AHEAD} windows of the file of events have no row in the selection. Widen `within`, or read more "
                "rows at a time: RunSpec(n_observed=...)."
            )
        if (counts == 0).any():
            raise ValueError(
                f"{_N_AHEAD} windows of the file have no event in category {int((counts == 0).argmax())}, and there "
                f"should be events of all {n}. Read more rows at a time, RunSpec(n_observed=...), or leave this "
                "category out of the problem."
            )
        return events

    def _counts(self, events: NDArray[Any]) -> NDArray[np.int64]:
        """Number of events in each category, (category,)."""
        n = self._problem.n_categories
        return np.bincount(self._categories(events), minlength=n) if len(events) else np.zeros(n, np.int64)

    def _categories(self, events: NDArray[Any]) -> NDArray[np.int64]:
        return self._problem.category(torch.tensor(events, dtype=torch.float32)).numpy()
