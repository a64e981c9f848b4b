"""Which rows are taken: of a file a weighted random sample or those of one window, of events evenly spaced ones.

Nothing here knows files or columns.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from .streams import Stream, numpy_stream

_N_STRETCHES = 1024  # places all over the file that the rows of a window come from


def window_ranges(n_all: int, number: int, n_rows: int, seed: int) -> list[tuple[int, int]]:
    """Rows of a window, as pairs (start, stop): one stretch from each of many equal parts of the file.

    Parameters
    ----------
    n_all : int
        Rows of the file.
    number : int
        Which window, from 0 on.  Consecutive windows cover the file once, then again in another combination.
    n_rows : int
        Approximate number of rows of a window.
    seed : int
        The same for all windows.
    """
    n_windows = max(1, -(-n_all // n_rows))
    turn, number = divmod(number, n_windows)
    shifts = numpy_stream(seed, Stream.WINDOWS, turn).integers(n_windows, size=_N_STRETCHES)
    # In each part, the windows of a turn take one stretch after the other, beginning with a random one.
    which = [part * n_windows + (number + int(shift)) % n_windows for part, shift in enumerate(shifts)]
    ranges = [(n_all * k // (_N_STRETCHES * n_windows), n_all * (k + 1) // (_N_STRETCHES * n_windows)) for k in which]
    return [(start, stop) for start, stop in ranges if start < stop]


class WeightedSample:
    """A random sample of rows without repetition, each row taken with a probability proportional to its weight.

    Rows are added block by block; only those that may still belong to the sample are held.

    Parameters
    ----------
    n : int or None
        The size of the sample; None takes as many rows as the weights allow, the heaviest ones always.
    rng : numpy.random.Generator
        The source of randomness.

    Attributes
    ----------
    n_seen : int
        Number of rows added so far.
    """

    def __init__(self, n: int | None, rng: np.random.Generator):
        self._n, self._rng = n, rng
        self._parts: list[NDArray[np.float64]] = []
        self._keys: list[NDArray[np.float64]] = []
        self._heaviest, self._highest, self._n_held = 0.0, np.inf, 0
        self.n_seen = 0

    def add(self, rows: NDArray[np.float64], weights: NDArray[np.float64]) -> None:
        """Offer rows (event, observable) with weights (event,) to the sample."""
        self.n_seen += len(rows)
        self._heaviest = max(self._heaviest, weights.max(initial=0.0))
        # Each row gets a random number over its weight: the chance that this is below a given limit is proportional to
        # the weight, as long as no chance exceeds 1.
        with np.errstate(divide="ignore", invalid="ignore"):
            keys = self._rng.random(len(rows)) / weights
        is_in = keys < self._limit
        self._parts.append(rows[is_in])
        self._keys.append(keys[is_in])
        self._n_held += int(is_in.sum())
        if self._n is not None and self._n_held > 2 * self._n:
            self._thin()

    def events(self, n_columns: int) -> NDArray[np.float64]:
        """The sample (event, observable), in the order in which its rows were added."""
        if not self._parts:
            return np.empty((0, n_columns))
        self._thin()
        return self._parts[0]

    @property
    def _limit(self) -> float:
        """The key below which rows are taken: the chance of the heaviest row is at most 1."""
        return min(self._highest, 1 / self._heaviest if self._heaviest else np.inf)

    def _thin(self) -> None:
        """Keep only the rows with the smallest keys, in their order."""
        rows, keys = np.concatenate(self._parts), np.concatenate(self._keys)
        kept = np.flatnonzero(keys < self._limit)
        if self._n is not None and len(kept) > self._n:
            kept = kept[np.sort(np.argpartition(keys[kept], self._n)[: self._n])]
            self._highest = np.nextafter(keys[kept].max(), np.inf)
        self._parts, self._keys, self._n_held = [rows[kept]], [keys[kept]], len(kept)


def evenly_spaced(n_all: int, n_most: int) -> torch.Tensor:
    """Positions (position,) of at most `n_most` of `n_all` events, evenly spaced."""
    # In single precision, the last of some ten million positions could be beyond the end.
    return torch.linspace(0, n_all - 1, min(n_all, n_most), dtype=torch.float64).long()
