"""Observed events in a file of the user's: which columns, which rows, in which units.

A value that travels with the run.  How each format is read is the subject of `formats`; which rows a random sample or a
window takes, that of `sampling`.
"""

import hashlib
import warnings
from collections.abc import Iterator
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field

from .._text import did_you_mean, listed
from .._value import ValueClass, value
from .columns import Ranges
from .formats import FORMATS, RANDOM_ACCESS, blocks
from .sampling import WeightedSample, window_ranges
from .streams import Stream, numpy_stream

if TYPE_CHECKING:
    from ..problems.base import Problem

_N_KNOWN = 256  # rows by which a file is recognised
_FEW = 0.1  # fraction of weighted events below which a warning says how few are taken
_Number = Annotated[float, Field(allow_inf_nan=False)]


def _a_range(given: Any) -> Any:
    if not (isinstance(given, tuple) and len(given) == 2):
        raise ValueError("should be (low, high), where None leaves an end open")
    return given


_Range = Annotated[tuple[_Number | None, _Number | None], BeforeValidator(_a_range)]


@value(positional=("path",))
class Observed(metaclass=ValueClass):
    """Observed events in a file: which columns and rows to take, and in which units.

    For RunSpec(events=Observed(...)).  Formats are known by their endings: `.npy`, `.npz`, `.csv`, `.parquet`, `.h5`,
    `.hdf5`, `.zarr` and `.root` (a TTree or an RNTuple); Parquet, HDF5 and ROOT need `pip install "sagips_kit[data]"`.
    A file is read block by block and only in the columns that are needed, so it may be larger than the memory.  Pickles
    are never loaded.

    Parameters
    ----------
    path : str
        The file; "~" is the home folder.
    columns : tuple of str or None
        The column of each of the problem's observables, in the order of `problem.observables`; None takes the columns
        with the observables' own names.  Columns without names, as in a two-dimensional array, are called "0", "1" and
        so on; None takes all of these in their order.
    table : str or None
        The table to read, where a file can hold several: the ROOT tree, the HDF5 group or dataset, the zarr group or
        array, or the array of an `.npz` file.  None takes the only one there is, or the columns at the file's top.
    within : dict of str to (low, high)
        Ranges of columns, both ends included; an event is taken only if it lies in all of them.  None leaves an end
        open.  Columns other than the observables are allowed.  In the file's own units, before `scale`.
    scale : dict of str to float
        Factors that convert columns of observables to the problem's units, for instance {"E": 1e-3} from keV to MeV.
    weights : str or None
        Column with the number of events that a row stands for, up to a common factor; not negative.  Each row is taken
        with a probability proportional to its weight, which is 1 for the largest weight.  The result is a sample of
        events without weights that follows the weighted density.
    stream : bool
        Train on all events of a file that does not fit into memory.  The store keeps a random sample of
        `RunSpec.n_observed` events for plots and the likelihood fit, and each rank trains on its share of the file,
        about that many rows at a time.  Every rank must find the file under `path`, and the format must allow rows to
        be read in any order: `.npy`, `.h5`, `.hdf5`, `.zarr` or `.root`.

    Raises
    ------
    ValueError
        When the object is made: for an unknown ending, a `stream` from a format that does not allow it, or a range
        whose ends are exchanged.  When the file is read, see EventFileError below.
    EventFileError
        A ValueError, by `read` and by a run: for a file that cannot be read, a missing column, or an entry that is not
        a finite number.  The message names file, column and row.

    See Also
    --------
    sagips_kit.RunSpec : A run, with `events=Observed(...)`.
    sagips_kit.check_problem : Test a problem against events, `check_problem(problem, file.read(problem))`.

    Examples
    --------
    An array without column names, with only the events whose first observable is above 0.2:

    >>> from pathlib import Path
    >>> from sagips_kit import Observed, Proxy, RunSpec
    >>> file = Observed("events.npy", within={"0": (0.2, None)})
    >>> file.read(Proxy(), n_events=1000).shape
    (1000, 2)
    >>> spec = RunSpec(problem=Proxy(), store="runs/mine.zarr", events=file, n_observed=1000)

    Named columns in other units, and a selection by a column that is no observable:

    >>> _ = Path("run7.csv").write_text("a,b,quality\\n10,40,1\\n20,50,0\\n30,60,1\\n")
    >>> percent = {"a": 0.01, "b": 0.01}
    >>> Observed("run7.csv", columns=("a", "b"), within={"quality": (1, None)}, scale=percent).read(Proxy())
    array([[0.1, 0.4],
           [0.3, 0.6]])
    """

    path: Annotated[str, Field(min_length=1)]
    columns: tuple[str, ...] | None = None
    table: str | None = None
    within: dict[str, _Range] = field(default_factory=dict)
    scale: dict[str, _Number] = field(default_factory=dict)
    weights: str | None = None
    stream: bool = False

    if TYPE_CHECKING:

        def __init__(
            self,
            path: str,
            *,
            columns: tuple[str, ...] | None = None,
            table: str | None = None,
            within: dict[str, tuple[float | None, float | None]] = ...,
            scale: dict[str, float] = ...,
            weights: str | None = None,
            stream: bool = False,
        ) -> None: ...

    def __post_init__(self):
        ending = Path(self.path).suffix.lower()
        if ending not in FORMATS:
            raise ValueError(f"path = {self.path!r}: should be a file that ends in {', '.join(FORMATS)}.")
        if self.stream and ending not in RANDOM_ACCESS:
            raise ValueError(
                f"path = {self.path!r}, stream = True: should be {', '.join(RANDOM_ACCESS)}, which allow rows to be "
                "read in any order. Convert the file, or use a random sample of it: stream=False and "
                "RunSpec(n_observed=...)."
            )
        for name, (low, high) in self.within.items():
            if low is not None and high is not None and low > high:
                raise ValueError(f"within = {{{name!r}: ({low}, {high})}}: the first end is above the second one.")

    def read(self, problem: "Problem", n_events: int | None = None, seed: int = 0) -> "NDArray[np.float64]":
        """Read the selected events, or a random sample of them.

        Parameters
        ----------
        problem : Problem
            Whose observables are read.
        n_events : int or None
            Size of a random sample without repetition; None takes all selected events.
        seed : int
            Seed of the random sample.

        Returns
        -------
        ndarray (event, observable)
            In the order of the file and the problem's units.

        Raises
        ------
        FileNotFoundError, ModuleNotFoundError
            If the file, or the package that reads it, is missing.
        EventFileError
            For a file that cannot be read, a missing column, or an entry that is not a finite number; the message names
            file, column and row.
        ValueError
            If no event is selected, or fewer than `n_events`.

        Warns
        -----
        UserWarning
            If a few heavy weights leave less than a tenth of the events.
        """
        sample = WeightedSample(n_events, numpy_stream(seed, Stream.ROWS, 0))
        for rows, weights in self._blocks(problem):
            sample.add(rows, weights)
        events = sample.events(len(problem.observables))
        if n_events is not None and len(events) < n_events:
            weighted = f" after {sample.n_seen} weighted ones were thinned" if self.weights else ""
            raise ValueError(
                f"`{self.path}` has {len(events)} events in the selection{weighted}; {n_events} were asked for. "
                f"Ask for at most {len(events)}, or for all of them: n_observed=None."
            )
        if not len(events):
            raise ValueError(self._why_none(sample.n_seen))
        if self.weights and n_events is None and len(events) < _FEW * sample.n_seen:
            warnings.warn(
                f"`{self.path}`: only {len(events)} of {sample.n_seen} events are taken, because the largest weight in "
                f"{self.weights} is far above the mean. If few rows have such weights, leave them out: "
                f"within={{{self.weights!r}: (None, ...)}}.",
                stacklevel=2,
            )
        return events

    def window(self, problem: "Problem", number: int, n_rows: int, seed: int = 0) -> "NDArray[np.float64]":
        """Read the selected events of some rows from all over the file, for `stream=True`.

        A window takes rows from each of many equal parts of the file, so it is representative of the file even if that
        is sorted.  The windows 0, 1, ... cover the file once, then once more with rows combined differently.

        Parameters
        ----------
        problem : Problem
            Whose observables are read.
        number : int
            Which window, from 0 on.
        n_rows : int
            Approximate number of rows of a window.
        seed : int
            The same for all windows.

        Returns
        -------
        ndarray (event, observable)
            In the problem's units.

        Raises
        ------
        FileNotFoundError, ModuleNotFoundError
            If the file, or the package that reads it, is missing.
        EventFileError
            For a file that cannot be read, a missing column, or an entry that is not a finite number.
        """
        sample = WeightedSample(None, numpy_stream(seed, Stream.ROWS, 1 + number))
        for rows, weights in self._blocks(problem, lambda n_all: window_ranges(n_all, number, n_rows, seed)):
            sample.add(rows, weights)
        return sample.events(len(problem.observables))

    def digest(self, problem: "Problem") -> dict[str, int | str]:
        """Number of rows and a digest of 256 of them, by which a resumed run recognises its file, for `stream=True`.

        The rows come from all over the file, so a partial replacement is noticed too.

        Parameters
        ----------
        problem : Problem
            Whose observables are read.

        Returns
        -------
        dict
            "rows" (int) and "sha256" (str).
        """
        sizes, digest = [], hashlib.sha256()

        def single_rows(n_all):
            sizes.append(n_all)
            return [(row, row + 1) for row in sorted({(n_all - 1) * k // (_N_KNOWN - 1) for k in range(_N_KNOWN)})]

        for rows, weights in self._blocks(problem, single_rows):
            digest.update(np.column_stack([rows, weights]).astype("<f8").tobytes())
        return {"rows": sizes[0], "sha256": digest.hexdigest()}

    def _why_none(self, n_seen: int) -> str:
        """Why no event is taken, as a message."""
        if n_seen:
            return f"`{self.path}`: all weights of the selected rows, in column {self.weights}, are 0."
        if self.within:
            return (
                f"`{self.path}` has no event within = {self.within}. Ranges are in the file's own units: compare them, "
                "or widen the ranges."
            )
        return f"`{self.path}` has no event."

    def _blocks(self, problem: "Problem", ranges: Ranges | None = None) -> Iterator[tuple[NDArray[np.float64], ...]]:
        """Yield the selected rows (event, observable) and their weights (event,), block by block."""
        path = Path(self.path).expanduser()
        try:
            for first_row, block in blocks(path, self.table, lambda names: self._needed(names, problem), ranges):
                yield self._selected(block, self._observables(tuple(block), problem), first_row)
        except (FileNotFoundError, ModuleNotFoundError, EventFileError):
            raise
        except Exception as error:
            # Each reader raises exceptions of its own for a file that is not what its ending says.
            text = f"`{path}` cannot be read: {' '.join(str(error).split()).rstrip('.')}."
            raise EventFileError(text, path=self.path) from None

    def _needed(self, names: tuple[str, ...], problem: "Problem") -> tuple[str, ...]:
        """The columns to read, out of those that the file has."""
        observables = self._observables(names, problem)
        others = (*self.within, *([self.weights] if self.weights else []))
        for name in (*observables, *others, *self.scale):
            if name in names:
                continue
            why = f"{type(problem).__name__} observes {', '.join(problem.observables)}. "
            why += "Name their columns: Observed(..., columns=(...))"
            if name not in observables:
                kind = "within" if name in self.within else "weights" if name == self.weights else "scale"
                why = f"Change {kind} = {getattr(self, kind)!r}"
            text = f"`{self.path}` has no column {name!r}. {did_you_mean(name, names)}It has: {listed(names)}. {why}."
            raise EventFileError(text, path=self.path, column=name)
        for name in self.scale:
            if name not in observables:
                raise EventFileError(
                    f"scale = {self.scale}: column {name!r} of `{self.path}` is not that of an observable, so the "
                    f"factor would have no effect. Allowed: {', '.join(observables)}.",
                    path=self.path,
                    column=name,
                )
        return tuple(dict.fromkeys((*observables, *others)))

    def _observables(self, names: tuple[str, ...], problem: "Problem") -> tuple[str, ...]:
        """The column of each observable."""
        n = len(problem.observables)
        wanted = ", ".join(problem.observables)
        if self.columns is not None:
            if len(self.columns) == n:
                return self.columns
            text = f"columns = {self.columns}: should be {n} names, one for each of {wanted}."
            raise EventFileError(text, path=self.path)
        if names != tuple(map(str, range(len(names)))):
            return problem.observables
        if len(names) == n:
            return names
        how = f"Choose them: Observed(..., columns={names[:n]})."
        if len(names) < n:
            how = "Use a file with a column for each, or change the problem's observables."
        has = f"{len(names)} column{'s' * (len(names) > 1)} without names"
        text = f"`{self.path}` has {has}, and {type(problem).__name__} needs {n}: {wanted}. {how}"
        raise EventFileError(text, path=self.path)

    def _selected(
        self, block: dict[str, NDArray[Any]], columns: tuple[str, ...], first_row: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The selected rows of a block, (event, observable), and their weights (event,)."""
        numbers = {name: self._numbers(name, column, first_row) for name, column in block.items()}
        is_wanted = np.ones(len(next(iter(numbers.values()))), bool)
        for name, (low, high) in self.within.items():
            # NaN lies in no range.
            is_wanted &= numbers[name] >= (-np.inf if low is None else low)
            is_wanted &= numbers[name] <= (np.inf if high is None else high)
        for name in (*columns, *([self.weights] if self.weights else [])):
            is_bad = is_wanted & ~np.isfinite(numbers[name])
            if is_bad.any():
                raise self._not_finite(name, numbers[name], is_bad, first_row)
        weights = np.ones(is_wanted.sum())
        if self.weights:
            weights = numbers[self.weights][is_wanted]
            is_negative = is_wanted & (numbers[self.weights] < 0)
            if is_negative.any():
                raise self._negative(self.weights, is_negative, first_row)
        return np.stack([self.scale.get(name, 1.0) * numbers[name][is_wanted] for name in columns], axis=-1), weights

    def _numbers(self, name: str, column: NDArray[Any], first_row: int) -> NDArray[np.float64]:
        """A column as float64; raises for the first entry that is not a number."""
        if np.ndim(column) == 1 and column.dtype.kind in "fiub":
            return column.astype(float)
        for row, entry in enumerate(column):
            try:
                is_number = np.ndim(entry) == 0 and isinstance(float(entry), float)
            except (TypeError, ValueError):
                is_number = False
            if not is_number:  # older NumPy would take an array of one number for a number
                raise self._error(name, first_row + row, f"holds {entry!r}, which is not a number")
        return np.array([float(entry) for entry in column])

    def _not_finite(
        self, name: str, numbers: NDArray[np.float64], is_bad: NDArray[np.bool_], first_row: int
    ) -> "EventFileError":
        # Any range, even one without ends, excludes NaN; an infinite number is excluded only by finite ends.
        ends = (None, None) if np.isnan(numbers[is_bad]).all() else (-1e30, 1e30)
        advice = f"Drop such rows with within={self.within | {name: ends}}, or in the file."
        return self._error(name, first_row + int(is_bad.argmax()), "is empty, NaN or infinite", is_bad.sum(), advice)

    def _negative(self, name: str, is_negative: NDArray[np.bool_], first_row: int) -> "EventFileError":
        advice = (
            f"No sample of events has negative weights. Drop such rows with within={self.within | {name: (0, None)}}"
        )
        what = "is negative: a weight is a number of events"
        return self._error(name, first_row + int(is_negative.argmax()), what, is_negative.sum(), f"{advice}.")

    def _error(self, name: str, row: int, what: str, n_such: int = 1, advice: str = "") -> "EventFileError":
        line = f" (line {row + 2})" if self.path.lower().endswith(".csv") else ""
        more = f", the first of {n_such} such rows" if n_such > 1 else ""
        text = f"`{self.path}`: column {name}, row {row}{line}, {what}{more}. {advice}".rstrip()
        return EventFileError(text, path=self.path, column=name, row=row)


class EventFileError(ValueError):
    """A file of observed events that cannot be used.

    Raised when events are read: by `Observed.read`, when a run is prepared, or by a rank of a run that streams.  The
    message says what is wrong, where, and what to type.

    Parameters
    ----------
    message : str
        The text.
    path : str
        The file.
    column : str or None
        The column, if the error concerns one.
    row : int or None
        The row, counted from 0 without the header of a CSV file, if the error concerns one.

    Attributes
    ----------
    path : str
        The file.
    column : str or None
        The column, if the error concerns one.
    row : int or None
        The first row, counted from 0 without the header of a CSV file, if the error concerns one.

    See Also
    --------
    sagips_kit.Observed : The description of a file, whose `within` drops rows.

    Examples
    --------
    >>> from pathlib import Path
    >>> from sagips_kit import Observed, Proxy
    >>> from sagips_kit.events.observed import EventFileError
    >>> _ = Path("broken.csv").write_text("x1,x2\\n0.5,0.5\\n0.5,\\n")
    >>> try:
    ...     Observed("broken.csv").read(Proxy())
    ... except EventFileError as error:
    ...     print(error.column, error.row)
    ...     print(error)
    x2 1
    `broken.csv`: column x2, row 1 (line 3), is empty, NaN or infinite. Drop such rows with
    within={'x2': (None, None)}, or in the file.
    """

    def __init__(self, message: str, path: str, column: str | None = None, row: int | None = None):
        super().__init__(message)
        self.path, self.column, self.row = path, column, row

    def __reduce__(self):
        return type(self), (str(self), self.path, self.column, self.row)
