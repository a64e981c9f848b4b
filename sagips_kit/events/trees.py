"""A table of a ROOT file, a TTree or an RNTuple, read in the pieces in which it was written."""

import bisect
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .checksums import check_descriptions

_N_BLOCKS = 5  # longest piece of a TTree that is not cut, in blocks


class Clusters:
    """The rows of a table by number.  A piece is unpacked once, even if its rows are read in several turns.

    Parameters
    ----------
    tree : TTree or RNTuple
        Of uproot.
    n_most : int
        Approximate number of rows of a piece, where a TTree has none of its own.

    Attributes
    ----------
    names : tuple of str
        The columns; fields of records, such as the leaves of a branch, are called "branch.leaf".
    n_rows : int
        Number of rows.
    """

    def __init__(self, tree: Any, n_most: int):
        check_descriptions(tree)
        self._tree, self._n_most = tree, n_most
        self.n_rows = int(tree.num_entries)  # a float in files of Geant4
        self._branches = {name: key for key, branch in tree.items() for name in _columns(key, branch)}
        self.names = tuple(self._branches)
        self._bounds: list[int] = []
        self._last: tuple[int, dict[str, NDArray[Any]]] = (0, {})  # the first row of the last piece read, and its rows

    def read(self, wanted: Sequence[str], start: int, stop: int) -> dict[str, NDArray[Any]]:
        """Some rows of the wanted columns, which should always be the same ones: name -> (row,)."""
        if not self._bounds:
            self._bounds = self._bounds_of_pieces({self._branches[name] for name in wanted})
        parts = []
        while start < stop:
            low, rows = self._piece(wanted, start, stop)
            parts.append({name: rows[name][start - low : stop - low] for name in wanted})
            start = min(stop, low + len(rows[wanted[0]]))
        return {name: np.concatenate([part[name] for part in parts]) for name in wanted}

    def _piece(self, wanted: Sequence[str], start: int, stop: int) -> tuple[int, dict[str, NDArray[Any]]]:
        """All pieces with rows from `start` to `stop`, or the last one read if it has the row `start`."""
        low, rows = self._last
        if rows and low <= start < low + len(rows[wanted[0]]):
            return self._last
        low = self._bounds[bisect.bisect_right(self._bounds, start) - 1]
        end = bisect.bisect_left(self._bounds, stop)
        rows = self._rows(wanted, low, self._bounds[end])
        last = max(low, self._bounds[end - 1])
        self._last = last, {name: rows[name][last - low :].copy() for name in wanted}
        return low, rows

    def _rows(self, wanted: Sequence[str], start: int, stop: int) -> dict[str, NDArray[Any]]:
        branches = list(dict.fromkeys(self._branches[name] for name in wanted))
        arrays = self._tree.arrays(branches, entry_start=start, entry_stop=stop, library="np")
        return {name: _field(arrays, name) for name in wanted}

    def _bounds_of_pieces(self, branches: set[str]) -> list[int]:
        """The first rows of the pieces in which all branches are stored together, and the number of rows."""
        if not hasattr(self._tree, "common_entry_offsets"):  # an RNTuple
            bounds = [cluster.num_first_entry for cluster in self._tree.cluster_summaries]
            return self._ordered(bounds)
        bounds = self._ordered(self._tree.common_entry_offsets(filter_name=lambda name: name in branches))
        # A TTree whose branches are cut at different rows may have no common piece but the whole.
        steps = [range(low, high, _N_BLOCKS * self._n_most) for low, high in itertools.pairwise(bounds)]
        return [*itertools.chain(*steps), self.n_rows]

    def _ordered(self, bounds: Iterable[float]) -> list[int]:
        return sorted({0, self.n_rows, *(int(bound) for bound in bounds if bound < self.n_rows)})


def _columns(key: str, branch: Any) -> list[str]:
    """The columns that a branch or field holds: its leaves, if it has several."""
    leaves = branch.member("fLeaves", none_if_missing=True) if hasattr(branch, "member") else None
    return [key] if leaves is None or len(leaves) < 2 else [f"{key}.{leaf.member('fName')}" for leaf in leaves]


def _field(arrays: dict[str, Any], name: str) -> NDArray[Any]:
    """A column; what belongs to a record is returned as a part of the record."""
    if name in arrays:
        if not isinstance(arrays[name], np.ndarray):
            raise ValueError(f"{name} is a group of branches. Choose one of them")
        return arrays[name]
    record, _, field = name.rpartition(".")
    if not record:
        raise ValueError(f"{field} was not read")
    records = _field(arrays, record)
    if not records.dtype.names:
        raise ValueError(
            f"{name} has several numbers for each event, or none. Choose one, for instance the first, and write it "
            "to a file: numpy.save('x.npy', awkward.to_numpy(awkward.firsts(tree[name].array())))"
        )
    return records[field]
