"""The order in which observed events are drawn, so that a batch is a small image of all of them."""

import numpy as np
import torch


def neighbour_order(events, n_cells):
    """Indices that put events into at least `n_cells` cells of equal content, one after the other: (event,).

    Cells come from cutting at the median, along one observable after the other (a k-d tree).
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


def batch_order(events, categories, n_cells):
    """Indices that put events in `neighbour_order` within each category, one category after the other: (event,)."""
    parts = [np.flatnonzero(categories == category) for category in np.unique(categories)]
    return np.concatenate([part[neighbour_order(events[part], n_cells)] for part in parts])


def in_batch_order(problem, events, n_cells):
    """Events (event, observable) in `batch_order`, and their categories (event,), as tensors."""
    events = torch.tensor(events, dtype=torch.float32)
    categories = problem.category(events)
    order = torch.as_tensor(batch_order(events.numpy(), categories.numpy(), n_cells))
    return events[order], categories[order]


class Batches:
    """Batches of one member: events of each category in equal shares, one from each of many cells of equal content.

    Within an epoch no position is drawn twice, so what one batch lacks the next ones bring.

    Parameters
    ----------
    events : Tensor (event, observable)
        In `batch_order`.
    categories : Tensor (event,) of int
        The category of each event, 0 to n_categories - 1.
    n_categories, batch_size : int
    random : torch.Generator
    """

    def __init__(self, events, categories, n_categories, batch_size, random):
        if batch_size < n_categories:
            raise ValueError(f"n_events = {batch_size}: should be at least {n_categories}, the number of categories.")
        shares = torch.tensor([batch_size * (k + 1) // n_categories for k in range(n_categories)])
        self._random = random
        self._parts = []
        for category, size in enumerate(shares.diff(prepend=torch.tensor([0])).tolist()):
            part = events[categories == category]
            if len(part) == 0:
                raise ValueError(f"No observed event is in category {category} of {n_categories}.")
            self._parts.append((part, size))
        self._columns = []
        self._start, self._n_drawn = random.get_state(), 0

    @property
    def is_spent(self):
        """Whether the next batch begins another epoch."""
        return not self._columns

    def draw(self):
        """The next batch, (event, observable)."""
        if not self._columns:
            self._start, self._n_drawn = self._random.get_state(), 0
            self._columns = self._epoch()
        self._n_drawn += 1
        return self._columns.pop()

    def state_dict(self):
        """Where in the events this is: the random state that the epoch began with, and the batches drawn since."""
        return {"random": self._start, "n_drawn": self._n_drawn}

    def load_state_dict(self, state):
        """Go on where `state` was taken."""
        self._start, self._n_drawn = state["random"], int(state["n_drawn"])
        self._random.set_state(self._start)
        self._columns = self._epoch() if self._n_drawn else []
        if not 0 <= self._n_drawn <= len(self._columns):
            raise ValueError(f"n_drawn = {self._n_drawn}: an epoch has {len(self._columns)} batches.")
        del self._columns[len(self._columns) - self._n_drawn :]

    def _epoch(self):
        # As many batches as the smallest category fills; larger ones are thinned evenly.
        n_batches = max(1, min(len(part) // size for part, size in self._parts))
        epochs = [self._positions(len(part), size, n_batches) for part, size in self._parts]
        return [
            torch.cat([part[at[:, k]] for (part, _), at in zip(self._parts, epochs, strict=True)])
            for k in range(n_batches)
        ]

    def _positions(self, n_events, size, n_batches):
        """Where in the order each batch takes its events: (cell, batch)."""
        turn = torch.rand((size, n_batches), generator=self._random).argsort(dim=1)
        jitter = torch.rand((size, n_batches), generator=self._random, dtype=torch.float64)
        within = (turn + jitter) / n_batches
        at = (torch.arange(size)[:, None] + within) * (n_events / size)
        return at.long().clamp_(max=n_events - 1)


class Supply:
    """What a rank's members draw their batches from: all events, or one window after the other of a file's.

    The ranks of a replica take turns in the windows, so each reads only its share of the file, and together they read
    all of it.  Every replica does, since its chains are resamples of all events.

    Parameters
    ----------
    problem : Problem
    batch_size : int
    resampling : Resampling
    randoms : list of torch.Generator
        One for each member.
    windows : callable or None
        Gets the number of a window and returns its events (event, observable).
    share : (int, int)
        Which rank of its replica this is, and of how many.
    """

    def __init__(self, problem, batch_size, resampling, randoms, windows=None, share=(0, 1)):
        self._problem, self._batch_size, self._resampling, self._randoms = problem, batch_size, resampling, randoms
        self._windows, self._share = windows, share
        self._n_windows, self._batches = 0, []

    def fill(self, events, categories, indices):
        """Give each member its events, by their indices, out of events that are in `batch_order`."""
        members = zip(indices, self._randoms, strict=True)
        self._batches = [
            Batches(events[chosen], categories[chosen], self._problem.n_categories, self._batch_size, random)
            for chosen, random in members
        ]

    def draw(self):
        """The next batch of each member, (member, event, observable)."""
        if self._windows and (not self._n_windows or self._batches[0].is_spent):
            self._open(self._n_windows)
        return torch.stack([batches.draw() for batches in self._batches])

    def state_dict(self):
        """How many windows have been opened, and where in the events each member is."""
        return {"n_windows": self._n_windows} | {str(k): each.state_dict() for k, each in enumerate(self._batches)}

    def load_state_dict(self, state):
        """Go on where `state` was taken."""
        if n_windows := int(state["n_windows"]):
            self._open(n_windows - 1)
        for k, batches in enumerate(self._batches):
            batches.load_state_dict(state[str(k)])

    def _open(self, number):
        """Read this rank's next window; the same number is never another rank's of its replica."""
        rank, n_ranks = self._share
        window = rank + n_ranks * number
        events, categories = in_batch_order(self._problem, self._windows(window), self._batch_size)
        # Resamples of a window, too, add up to it over all chains.
        self.fill(events, categories, self._resampling.indices(len(events), window))
        self._n_windows = number + 1
