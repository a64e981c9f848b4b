"""Observed events in a file of the user's: which columns, which rows, in which units.

A value that travels with the run; how each format is read is in `tables`.
"""

from dataclasses import field
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from .settings import value
from .tables import FORMATS, blocks

_SAMPLING = 103  # sets this random stream apart from others of the same seed
_Number = Annotated[float, Field(allow_inf_nan=False)]


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
    """

    path: Annotated[str, Field(min_length=1)]
    columns: tuple[str, ...] | None = None
    table: str | None = None
    within: dict[str, tuple[_Number | None, _Number | None]] = field(default_factory=dict)
    scale: dict[str, _Number] = field(default_factory=dict)

    def __post_init__(self):
        if Path(self.path).suffix.lower() not in FORMATS:
            raise ValueError(f"path = {self.path!r}: should be a file that ends in {', '.join(FORMATS)}.")
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
        path = Path(self.path).expanduser()
        sample = _Sample(n_events, np.random.default_rng([seed, _SAMPLING]))
        n_rows = 0
        try:
            for block in blocks(path, self.table, lambda names: self._needed(names, problem)):
                columns = self._observables(tuple(block), problem)
                sample.add(self._selected(block, columns, n_rows))
                n_rows += len(next(iter(block.values())))
        except (FileNotFoundError, ModuleNotFoundError, _Explained):
            raise
        except Exception as error:
            # Each reader has exceptions of its own for a file that is not what its name says.
            raise ValueError(f"`{path}` cannot be read: {' '.join(str(error).split()).rstrip('.')}.") from None
        events = sample.events(len(problem.observables))
        if n_events is not None and len(events) < n_events:
            raise ValueError(f"`{path}` has {len(events)} events in the selection; {n_events} were asked for.")
        return events

    def _needed(self, names, problem):
        """The columns to read, of those that there are."""
        observables = self._observables(names, problem)
        for name in (*observables, *self.within, *self.scale):
            if name not in names:
                raise _Explained(
                    f"`{self.path}` has no column {name!r}. It has: {', '.join(names)}. {type(problem).__name__} "
                    f"observes {', '.join(problem.observables)}; name their columns: Observed(..., columns=(...))."
                )
        return tuple(dict.fromkeys((*observables, *self.within)))

    def _observables(self, names, problem):
        """The column of each observable."""
        n = len(problem.observables)
        if self.columns is None:
            have_names = names != tuple(map(str, range(len(names))))
            if not have_names and len(names) != n:
                raise _Explained(
                    f"`{self.path}` has {len(names)} columns without names, and {type(problem).__name__} needs {n}: "
                    f"{', '.join(problem.observables)}. Choose them: Observed(..., columns={names[:n]})."
                )
            return problem.observables if have_names else names
        if len(self.columns) != n:
            raise _Explained(
                f"columns = {self.columns}: should be {n} names, one for each of {', '.join(problem.observables)}."
            )
        return self.columns

    def _selected(self, block, columns, first_row):
        """The wanted rows of a block, (event, observable)."""
        numbers = {name: self._numbers(name, column, first_row) for name, column in block.items()}
        is_wanted = np.ones(len(next(iter(numbers.values()))), bool)
        for name, (low, high) in self.within.items():
            # What is not a number lies in no range.
            is_wanted &= numbers[name] >= (-np.inf if low is None else low)
            is_wanted &= numbers[name] <= (np.inf if high is None else high)
        for name in columns:
            is_bad = is_wanted & ~np.isfinite(numbers[name])
            if is_bad.any():
                raise self._complaint(name, first_row + int(is_bad.argmax()), "is empty, NaN or infinite", is_bad.sum())
        return np.stack([self.scale.get(name, 1.0) * numbers[name][is_wanted] for name in columns], axis=-1)

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

    def _complaint(self, name, row, what, n_such=1):
        line = f" (line {row + 2})" if self.path.lower().endswith(".csv") else ""
        more = f", the first of {n_such} such rows" if n_such > 1 else ""
        advice = " Drop such rows with within={...}, or in the file." if "NaN" in what else ""
        return _Explained(f"`{self.path}`: column {name}, row {row}{line}, {what}{more}.{advice}")


class _Explained(ValueError):
    """An error whose text is complete."""


class _Sample:
    """All rows that are added, or so many of them, each set of them being as likely as any other."""

    def __init__(self, n, rng):
        self._n, self._rng, self._parts, self._keys = n, rng, [], []

    def add(self, rows):
        self._parts.append(rows)
        if self._n is None:
            return
        # Every row draws a number; the rows of the smallest ones are kept, in their order.
        self._keys.append(self._rng.random(len(rows)))
        rows, keys = np.concatenate(self._parts), np.concatenate(self._keys)
        if len(rows) > self._n:
            kept = np.sort(np.argpartition(keys, self._n)[: self._n])
            rows, keys = rows[kept], keys[kept]
        self._parts, self._keys = [rows], [keys]

    def events(self, n_columns):
        return np.concatenate(self._parts) if self._parts else np.empty((0, n_columns))
