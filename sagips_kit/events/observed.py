"""Observed events in a file of the user's: which columns, which rows, in which units.

A value that travels with the run; how each format is read is in `tables`.
"""

import hashlib
import warnings
from dataclasses import field
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import BeforeValidator, Field

from .._value import value
from .formats import ANYWHERE, FORMATS, blocks
from .streams import Stream, numpy_stream

_N_STRETCHES = 1024  # places all over a file that the rows of a window come from
_N_KNOWN = 256  # rows by which a file is known again
_FEW = 0.1  # fraction of weighted events below which it is told how few are taken
_Number = Annotated[float, Field(allow_inf_nan=False)]


def _a_range(given):
    if not (isinstance(given, tuple) and len(given) == 2):
        raise ValueError("should be (low, high), where None leaves an end open")
    return given


_Range = Annotated[tuple[_Number | None, _Number | None], BeforeValidator(_a_range)]


@value(positional=("path",))
class Observed:
    """Observed events in a file: `.npy`, `.npz`, `.csv`, `.parquet`, `.h5`, `.hdf5`, `.zarr` or `.root`.

    Only the columns that are needed are read, block by block; no pickle is ever loaded.

    Parameters
    ----------
    path : str
    columns : tuple of str or None
        The column of each of the problem's observables, in their order; None takes columns of the observables' names.
        Columns without names are "0", "1" and so on, and None takes them all in their order.
    table : str or None
        Where the file can hold several: the ROOT tree, HDF5 group or dataset, zarr group or array, or array of an
        `.npz` file.
    within : dict of str to (low, high)
        Take only events whose columns, also others than observables, lie in these ranges, both ends included; None
        leaves an end open.  In the file's own units.
    scale : dict of str to float
        Factors that take columns to the problem's units, for instance {"E": 1e-3} from keV to MeV.
    weights : str or None
        A column that says how many events a row stands for, up to a factor.  Each row is taken with a probability in
        proportion to it, that of the largest weight being 1: what is taken are events without weights, of the weighted
        density.
    stream : bool
        For a file that does not fit into memory: a run keeps `n_observed` of its events, at random, to be looked at and
        fitted, and each rank trains on the rows of its share of the file, `n_observed` at a time.  The ranks then read
        the file themselves, anywhere in it, which `.npy`, `.h5`, `.hdf5`, `.zarr` and `.root` allow.
    """

    path: Annotated[str, Field(min_length=1)]
    columns: tuple[str, ...] | None = None
    table: str | None = None
    within: dict[str, _Range] = field(default_factory=dict)
    scale: dict[str, _Number] = field(default_factory=dict)
    weights: str | None = None
    stream: bool = False

    def __post_init__(self):
        ending = Path(self.path).suffix.lower()
        if ending not in FORMATS:
            raise ValueError(f"path = {self.path!r}: should be a file that ends in {', '.join(FORMATS)}.")
        if self.stream and ending not in ANYWHERE:
            raise ValueError(
                f"path = {self.path!r}, stream = True: rows can be read anywhere in {', '.join(ANYWHERE)}. Convert the "
                "file, or take a random sample of it: stream=False and n_observed."
            )
        for name, (low, high) in self.within.items():
            if low is not None and high is not None and not low < high:
                raise ValueError(f"within = {{{name!r}: ({low}, {high})}}: the first end should be below the second.")

    def read(self, problem, n_events=None, seed=0):
        """The events as an array (event, observable), in the order of the file.

        Parameters
        ----------
        problem : Problem
        n_events : int or None
            So many events of the selected ones, drawn at random without repetition; None takes them all.
        seed : int

        Raises
        ------
        FileNotFoundError, ModuleNotFoundError
            If the file, or the package that reads it, is not there.
        ValueError
            For a file that cannot be read, columns that are not there, and entries that are no finite numbers: the
            text names file, column and row.
        """
        sample = _Sample(n_events, numpy_stream(seed, Stream.ROWS))
        for rows, weights in self._blocks(problem):
            sample.add(rows, weights)
        events = sample.events(len(problem.observables))
        if n_events is not None and len(events) < n_events:
            weighted = f" after {sample.n_seen} weighted ones were thinned" if self.weights else ""
            raise ValueError(
                f"`{self.path}` has {len(events)} events in the selection{weighted}; {n_events} were asked for."
            )
        if not len(events):
            raise ValueError(f"`{self.path}` has no event, or none within = {self.within}, in the file's own units.")
        if self.weights and n_events is None and len(events) < _FEW * sample.n_seen:
            warnings.warn(
                f"`{self.path}`: {len(events)} of {sample.n_seen} events are taken, since the largest weight in "
                f"{self.weights} is far above the mean. If few rows have such weights, leave them out: within={{...}}.",
                stacklevel=2,
            )
        return events

    def window(self, problem, number, n_rows, seed=0):
        """The wanted events of some rows from all over the file, (event, observable).

        A window takes rows from each of many equal parts of the file, so it looks like the whole even if the file is
        sorted.  The windows 0, 1, ... of a file cover it once, then once more with rows put together otherwise.

        Parameters
        ----------
        problem : Problem
        number : int
        n_rows : int
            Rows of a window, about.
        seed : int
            The same for all windows.

        Raises
        ------
        FileNotFoundError, ModuleNotFoundError, ValueError
            As by `read`.
        """
        sample = _Sample(None, numpy_stream(seed, Stream.ROWS, number))
        for rows, weights in self._blocks(problem, lambda n_all: _stretches(n_all, number, n_rows, seed)):
            sample.add(rows, weights)
        return sample.events(len(problem.observables))

    def digest(self, problem):
        """What a file that can be streamed is known again by: the number of its rows, and a digest of some of them.

        They are from all over the file, so it is also known when it was replaced in parts.

        Returns
        -------
        dict
            "rows" and "sha256", as JSON values.
        """
        sizes, digest = [], hashlib.sha256()

        def single_rows(n_all):
            sizes.append(n_all)
            return [(row, row + 1) for row in sorted({(n_all - 1) * k // (_N_KNOWN - 1) for k in range(_N_KNOWN)})]

        for rows, weights in self._blocks(problem, single_rows):
            digest.update(np.column_stack([rows, weights]).astype("<f8").tobytes())
        return {"rows": sizes[0], "sha256": digest.hexdigest()}

    def _blocks(self, problem, ranges=None):
        """Yield the wanted rows, (event, observable), and their weights (event,), block by block."""
        path = Path(self.path).expanduser()
        try:
            for first_row, block in blocks(path, self.table, lambda names: self._needed(names, problem), ranges):
                yield self._selected(block, self._observables(tuple(block), problem), first_row)
        except (FileNotFoundError, ModuleNotFoundError, EventFileError):
            raise
        except Exception as error:
            # Each reader has exceptions of its own for a file that is not what its name says.
            raise EventFileError(f"`{path}` cannot be read: {' '.join(str(error).split()).rstrip('.')}.") from None

    def _needed(self, names, problem):
        """The columns to read, of those that there are."""
        observables = self._observables(names, problem)
        others = (*self.within, *([self.weights] if self.weights else []))
        for name in (*observables, *others, *self.scale):
            if name not in names:
                why = f"{type(problem).__name__} observes {', '.join(problem.observables)}; name their columns: "
                why += "Observed(..., columns=(...))"
                if name not in observables:
                    field = "within" if name in self.within else "weights" if name == self.weights else "scale"
                    why = f"{field} = {getattr(self, field)!r} names it"
                raise EventFileError(f"`{self.path}` has no column {name!r}. It has: {', '.join(names)}. {why}.")
        return tuple(dict.fromkeys((*observables, *others)))

    def _observables(self, names, problem):
        """The column of each observable."""
        n = len(problem.observables)
        if self.columns is None:
            have_names = names != tuple(map(str, range(len(names))))
            if not have_names and len(names) != n:
                how = f"Choose them: Observed(..., columns={names[:n]})."
                if len(names) < n:
                    how = "Take a file with a column for each, or name others as the problem's observables."
                has = f"{len(names)} column{'s' * (len(names) > 1)} without names"
                raise EventFileError(
                    f"`{self.path}` has {has}, and {type(problem).__name__} needs {n}: "
                    f"{', '.join(problem.observables)}. {how}"
                )
            return problem.observables if have_names else names
        if len(self.columns) != n:
            raise EventFileError(
                f"columns = {self.columns}: should be {n} names, one for each of {', '.join(problem.observables)}."
            )
        return self.columns

    def _selected(self, block, columns, first_row):
        """The wanted rows of a block, (event, observable), and their weights (event,)."""
        numbers = {name: self._numbers(name, column, first_row) for name, column in block.items()}
        is_wanted = np.ones(len(next(iter(numbers.values()))), bool)
        for name, (low, high) in self.within.items():
            # What is not a number lies in no range.
            is_wanted &= numbers[name] >= (-np.inf if low is None else low)
            is_wanted &= numbers[name] <= (np.inf if high is None else high)
        for name in (*columns, *([self.weights] if self.weights else [])):
            is_bad = is_wanted & ~np.isfinite(numbers[name])
            if is_bad.any():
                raise self._not_finite(name, numbers[name], is_bad, first_row)
        weights = numbers[self.weights][is_wanted] if self.weights else np.ones(is_wanted.sum())
        if (weights < 0).any():
            row = first_row + int(np.flatnonzero(is_wanted)[(weights < 0).argmax()])
            raise self._complaint(self.weights, row, "is negative: no number of events is", (weights < 0).sum())
        return np.stack([self.scale.get(name, 1.0) * numbers[name][is_wanted] for name in columns], axis=-1), weights

    def _numbers(self, name, column, first_row):
        """A column as float64, or a complaint about the first entry that is no number."""
        if np.ndim(column) == 1 and column.dtype.kind in "fiub":
            return column.astype(float)
        for row, entry in enumerate(column):
            try:
                float(entry)
            except (TypeError, ValueError):
                raise self._complaint(name, first_row + row, f"holds {entry!r}, which is not a number") from None
        return np.array([float(entry) for entry in column])

    def _not_finite(self, name, numbers, is_bad, first_row):
        # A range, even one without ends, holds no NaN; an infinite number lies in one that is open.
        ends = (None, None) if np.isnan(numbers[is_bad]).all() else (-1e30, 1e30)
        advice = f" Drop such rows with within={self.within | {name: ends}}, or in the file."
        return self._complaint(
            name, first_row + int(is_bad.argmax()), "is empty, NaN or infinite", is_bad.sum(), advice
        )

    def _complaint(self, name, row, what, n_such=1, advice=""):
        line = f" (line {row + 2})" if self.path.lower().endswith(".csv") else ""
        more = f", the first of {n_such} such rows" if n_such > 1 else ""
        return EventFileError(f"`{self.path}`: column {name}, row {row}{line}, {what}{more}.{advice}")


class EventFileError(ValueError):
    """A file of observed events that cannot be used: the text names file, column and row."""


def _stretches(n_all, number, n_rows, seed):
    """Rows of a window, as pairs (start, stop): one stretch of each of many equal parts of the file."""
    n_windows = max(1, -(-n_all // n_rows))
    turn, number = divmod(number, n_windows)
    shifts = numpy_stream(seed, Stream.WINDOWS, turn).integers(n_windows, size=_N_STRETCHES)
    # In each part the windows of a turn take the stretches one after the other, from a random one on.
    which = [part * n_windows + (number + int(shift)) % n_windows for part, shift in enumerate(shifts)]
    ranges = [(n_all * k // (_N_STRETCHES * n_windows), n_all * (k + 1) // (_N_STRETCHES * n_windows)) for k in which]
    return [(start, stop) for start, stop in ranges if start < stop]


class _Sample:
    """Rows at random, each with a chance in proportion to its weight: so many of them, or as many as there can be."""

    def __init__(self, n, rng):
        self._n, self._rng, self._parts, self._keys = n, rng, [], []
        self._heaviest, self._highest, self._n_held = 0.0, np.inf, 0
        self.n_seen = 0

    def add(self, rows, weights):
        self.n_seen += len(rows)
        self._heaviest = max(self._heaviest, weights.max(initial=0.0))
        # Every row draws a number; of the rows whose number is below any limit, shares are as the weights.
        with np.errstate(divide="ignore", invalid="ignore"):
            keys = self._rng.random(len(rows)) / weights
        is_in = keys < self._limit
        self._parts.append(rows[is_in])
        self._keys.append(keys[is_in])
        self._n_held += int(is_in.sum())
        if self._n is not None and self._n_held > 2 * self._n:
            self._thin()

    def events(self, n_columns):
        if not self._parts:
            return np.empty((0, n_columns))
        self._thin()
        return self._parts[0]

    @property
    def _limit(self):
        """No row's chance may be above 1."""
        return min(self._highest, 1 / self._heaviest if self._heaviest else np.inf)

    def _thin(self):
        """Keep the rows of the smallest numbers, in their order."""
        rows, keys = np.concatenate(self._parts), np.concatenate(self._keys)
        kept = np.flatnonzero(keys < self._limit)
        if self._n is not None and len(kept) > self._n:
            kept = kept[np.sort(np.argpartition(keys[kept], self._n)[: self._n])]
            self._highest = np.nextafter(keys[kept].max(), np.inf)
        self._parts, self._keys, self._n_held = [rows[kept]], [keys[kept]], len(kept)
