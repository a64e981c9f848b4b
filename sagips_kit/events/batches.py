"""The order in which observed events are drawn: each batch is a small representative image of all of them."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from .ahead import Ahead
from .random_bits import RandomBits, positive

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
    """Batches of all members: equal shares of all categories, with one event from each of many cells of equal content.

    Within an epoch no position in the order is drawn twice, and consecutive batches take positions far from each other
    in each cell, so the next batches contain what one batch lacks.  A batch follows from its number alone.

    Parameters
    ----------
    events : Tensor (event, observable)
        In `batch_order`.
    categories : Tensor (event,) of int
        The category of each event, 0 to n_categories - 1.
    indices : sequence of Tensor (event,) of int
        Which events each member has, in rising order.
    n_categories : int
        Number of categories.
    batch_size : int
        Events of a batch.
    keys : sequence of int
        The key of each member's random bits.
    device : torch.device or str
        Where the events and the batches are.
    turn : int
        Number of the first turn of random bits; each epoch takes one.

    Attributes
    ----------
    n_batches : tuple of int
        Batches in an epoch of each member.

    Raises
    ------
    ValueError
        If there are fewer events in a batch than categories, or none of some category.
    """

    def __init__(
        self,
        events: Tensor,
        categories: Tensor,
        indices: Sequence[Tensor],
        n_categories: int,
        batch_size: int,
        keys: Sequence[int],
        device: torch.device | str = "cpu",
        turn: int = 0,
    ) -> None:
        if batch_size < n_categories:
            raise ValueError(
                f"n_events = {batch_size}: should be at least {n_categories}, so that a batch holds an event of each "
                f"category. Type Settings(n_events=...)."
            )
        ends = torch.tensor([batch_size * (k + 1) // n_categories for k in range(n_categories)])
        sizes = ends.diff(prepend=torch.tensor([0]))
        counts = torch.stack([torch.bincount(categories[chosen], minlength=n_categories) for chosen in indices])
        if (counts == 0).any():
            raise ValueError(
                f"No observed event is in category {int((counts == 0).any(0).nonzero()[0])}, and there should be "
                f"events of all {n_categories}. Take more events, or leave this category out of the problem."
            )
        # As many batches as the smallest category fills; larger categories are thinned evenly.
        n_batches = (counts // sizes).min(1).values.clamp(min=1)
        self.n_batches = tuple(n_batches.tolist())
        device = torch.device(device)
        self._events = torch.cat([events[chosen] for chosen in indices]).to(device)
        column = torch.repeat_interleave(torch.arange(n_categories), sizes)  # the category of each event of a batch
        cell = torch.arange(batch_size) - (ends - sizes)[column]
        first = (counts.flatten().cumsum(0) - counts.flatten()).view(counts.shape)
        # A cell is cut into as many parts as there are batches, in units in which all of these are integers.
        whole = n_batches[:, None] * counts[:, column]
        tables = (n_batches[:, None], counts[:, column], whole, cell * whole, n_batches[:, None] * sizes[column])
        self._tables = [table.to(device) for table in (*tables, first[:, column])]
        self._stride = torch.tensor([[_stride(n)] for n in self.n_batches], device=device)
        self._bits, self._turn = RandomBits(keys, batch_size, device), turn

    def positions(self, numbers: Tensor) -> Tensor:
        """Where the batches of these numbers (batch,) of int, from 0 on, have their events: (batch, member, event)."""
        n_batches, n_events, whole, before, unit, first = self._tables
        numbers = numbers[:, None, None]
        epoch, part = numbers // n_batches, numbers % n_batches * self._stride % n_batches
        at = (positive(self._bits(epoch + self._turn)) + part * n_events) % whole
        return first + (before + at) // unit

    def take(self, positions: Tensor) -> Tensor:
        """The events at these positions (member, event): (member, event, observable)."""
        return self._events[positions]


def _stride(n: int) -> int:
    """A number without a common divisor with n, near the golden section of n, whose multiples are spread evenly."""
    return min(filter(lambda k: math.gcd(k, n) == 1, range(1, n + 1)), key=lambda k: abs(k - 0.618 * n))


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
    keys : sequence of int
        The key of each member's random bits.
    windows : callable or None
        Gets the number of a window and returns its events (event, observable); None for events given by `fill`.
    share : (int, int)
        The position of this rank in its replica, and the number of ranks in the replica.
    device : torch.device or str
        Where the events and the batches are.
    """

    def __init__(
        self,
        problem: "Problem",
        batch_size: int,
        resampling: "Resampling",
        keys: Sequence[int],
        windows: Callable[[int], NDArray[Any]] | None = None,
        share: tuple[int, int] = (0, 1),
        device: torch.device | str = "cpu",
    ):
        self._problem, self._batch_size, self._resampling, self._keys = problem, batch_size, resampling, keys
        self._windows, self._share, self._device = windows, share, device
        self._n_windows, self._n_drawn = 0, 0
        self._batches: Batches
        self._ahead: Ahead

    def fill(self, events: Tensor, categories: Tensor, indices: list[Tensor]) -> None:
        """Give each member its events, by their indices (event,) in events that are in `batch_order`."""
        n, complete = self._problem.n_categories, []
        for chosen in indices:
            # A resample may lack a rare category, of which such a member gets all events.
            is_lacking = torch.bincount(categories[chosen], minlength=n) == 0
            complete.append(torch.cat([chosen, torch.nonzero(is_lacking[categories]).flatten()]).sort().values)
        self._batches = Batches(
            events,
            categories,
            complete,
            n,
            self._batch_size,
            self._keys,
            self._device,
            turn=self._n_windows << 32,
        )
        n_numbers = self._batch_size * len(self._keys)
        self._ahead = Ahead(lambda numbers: [self._batches.positions(numbers)], n_numbers, self._device)
        self._n_drawn = 0

    @property
    def reads_windows(self) -> bool:
        """Whether the events are read from a file during training."""
        return self._windows is not None

    def advance(self) -> None:
        """Count a batch, and read the next window if it begins there; before each `draw`."""
        if self._windows and (not self._n_windows or self._n_drawn >= self._batches.n_batches[0]):
            self._open(self._n_windows)
        self._ahead.prepare(self._n_drawn)
        self._n_drawn += 1

    def draw(self) -> Tensor:
        """The next batch of each member, (member, event, observable); works on the device alone."""
        return self._batches.take(*self._ahead.take())

    def state_dict(self) -> dict[str, Any]:
        """The number of windows opened so far, and of batches drawn since then."""
        return {"n_windows": self._n_windows, "n_drawn": self._n_drawn}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the position at which `state` was taken."""
        n_windows, n_drawn = int(state["n_windows"]), int(state["n_drawn"])
        if n_windows:
            self._open(n_windows - 1)
        self._n_drawn = n_drawn

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
        self._n_windows = number + 1
        # The resamples of a window, too, add up to the window over all chains.
        self.fill(events, categories, self._resampling.indices(len(events), window))

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
