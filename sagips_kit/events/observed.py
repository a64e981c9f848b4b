"""Observed events in a file of the user's: which columns, which rows, in which units.

A value that travels with the run.  How each format is read is the subject of `formats`; which rows a random sample or a
window takes, that of `sampling`.
"""

import hashlib
import math
import warnings
from collections.abc import Iterator
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field

from .._value import ValueClass, value
from .columns import Ranges
from .errors import EventFileError as EventFileError
from .files import ending_of, files_of, stamp
from .formats import FORMATS, RANDOM_ACCESS, blocks
from .sampling import WeightedSample, window_ranges
from .selection import Selection
from .streams import Stream, numpy_stream

if TYPE_CHECKING:
    from ..problems.base import Problem

_N_KNOWN = 256  # rows by which a file is recognised
_FEW = 0.1  # fraction of weighted events below which a warning says how few are taken
_CONVERSIONS = {
    ".pkl": "Pickles can run any code. Type: pandas.read_pickle('a.pkl').to_parquet('a.parquet').",
    ".json": "Type: pandas.read_json('a.json').to_parquet('a.parquet').",
    ".xlsx": "Type: pandas.read_excel('a.xlsx').to_parquet('a.parquet').",
}
_Number = Annotated[float, Field(allow_inf_nan=False)]
_End = int | float | None  # an integer is kept, because large ones are not all numbers of double precision
_Name = Annotated[str, Field(min_length=1)]


def _a_choice(given: Any) -> Any:
    is_range = isinstance(given, tuple) and len(given) == 2
    if isinstance(given, (str, bool)) or (is_range and all(map(_is_end, given))):
        return given
    if is_range and isinstance(given[0], str):
        raise ValueError(f"a text is selected alone: {given[0]!r}")
    single = f"; ({given}, {given}) takes one number" if isinstance(given, (int, float)) else ""
    raise ValueError(f"should be (low, high), where None leaves an end open{single}. Or a text, or True or False")


def _is_end(given: Any) -> bool:
    return given is None or (type(given) in (int, float) and math.isfinite(given))


_Choice = Annotated[tuple[_End, _End] | str | bool, BeforeValidator(_a_choice)]


@value(positional=("path",))
class Observed(metaclass=ValueClass):
    """Observed events in a file: which columns and rows to take, and in which units.

    For RunSpec(events=Observed(...)).  Formats are known by their endings: `.npy`, `.npz`, `.parquet`, `.feather`,
    `.arrow`, `.h5`, `.hdf5`, `.nc`, `.zarr`, `.root` (a TTree or an RNTuple), and texts: `.csv`, `.tsv`, `.txt` and
    `.dat`, also with `.gz`.  Parquet, Arrow, HDF5 and ROOT need `pip install "sagips_kit[data]"`, and `.fits` astropy.
    A file is read block by block and only in the columns that are needed, so it may be larger than the memory (FITS and
    `.npz` are read as a whole).  Pickles are never loaded.

    A number is read as the file means it, or refused: packed numbers are scaled and missing ones are empty (CF
    attributes of HDF5, netCDF and zarr); a chunk that is missing, a date, a complex number, and an integer that double
    precision would round are refused.  A first line of numbers in a text is an event, not a header.

    Parameters
    ----------
    path : str or tuple of str
        The file; a pattern such as ``"runs/*.root"``, a folder of files or a tuple of these takes several, in the order
        of their names.  "~" is the home folder.
    columns : tuple of str or None
        The column of each of the problem's observables, in the order of `problem.observables`; None takes the columns
        with the observables' own names.  Columns without names, as in a two-dimensional array, are called "0", "1" and
        so on; None takes all of these in their order.  Instead of a column, here and in `within` and `weights`, a
        formula may be given: numbers, names of columns (odd ones in backquotes), ``+ - * / **`` and the functions sqrt,
        exp, log, log10, abs, hypot, sin, cos, tan, their inverses arcsin, arccos, arctan and arctan2, sinh, cosh, tanh.
    table : str or None
        The table to read, where a file can hold several: the ROOT tree, the HDF5 group or dataset, the zarr group or
        array, or the array of an `.npz` file.  None takes the only one there is, or the columns at the file's top.
    within : dict of str to (low, high), str or bool
        Ranges of columns, both ends included; an event is taken only if it lies in all of them.  None leaves an end
        open; (1, 1) takes the number 1.  A column of texts is selected by one text, {"trigger": "mu"}, one of truth
        values by True or False.  Columns other than the observables are allowed.  In the file's own units, before
        `scale`.
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
        be read in any order: `.npy`, `.h5`, `.hdf5`, `.nc`, `.zarr` or `.root`.

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

    Columns that are computed:

    >>> Observed("run7.csv", columns=("hypot(a, b) / 100", "a / b")).read(Proxy()).round(2)
    array([[0.41, 0.25],
           [0.54, 0.4 ],
           [0.67, 0.5 ]])
    """

    path: _Name | Annotated[tuple[_Name, ...], Field(min_length=1)]
    columns: tuple[str, ...] | None = None
    table: str | None = None
    within: dict[str, _Choice] = field(default_factory=dict)
    scale: dict[str, _Number] = field(default_factory=dict)
    weights: str | None = None
    stream: bool = False

    if TYPE_CHECKING:

        def __init__(
            self,
            path: str | tuple[str, ...],
            *,
            columns: tuple[str, ...] | None = None,
            table: str | None = None,
            within: dict[str, tuple[float | None, float | None] | str | bool] = ...,
            scale: dict[str, float] = ...,
            weights: str | None = None,
            stream: bool = False,
        ) -> None: ...

    def __post_init__(self):
        for path in (self.path,) if isinstance(self.path, str) else self.path:
            self._check(path)
        for name, choice in self.within.items():
            low, high = choice if isinstance(choice, tuple) else (None, None)
            if low is not None and high is not None and low > high:
                raise ValueError(f"within = {{{name!r}: ({low}, {high})}}: the first end is above the second one.")

    def _check(self, path: str) -> None:
        ending = ending_of(path, FORMATS)
        if ending is None and Path(path).expanduser().is_dir():
            return
        if ending is None:
            how = f"path = {path!r}: should be a file that ends in {', '.join(FORMATS)}, or a folder of such files."
            raise ValueError(f"{how} {_CONVERSIONS.get(Path(path).suffix.lower(), '')}".rstrip())
        if self.stream and ending not in RANDOM_ACCESS:
            raise ValueError(
                f"path = {path!r}, stream = True: should be {', '.join(RANDOM_ACCESS)}, which allow rows to be "
                "read in any order. Convert the file, or use a random sample of it: stream=False and "
                "RunSpec(n_observed=...)."
            )

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
            If no event is selected, or fewer than `n_events`; or if a file would be read twice.

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
                f"`{self._name}` has {len(events)} events in the selection{weighted}; {n_events} were asked for. "
                f"Ask for at most {len(events)}, or for all of them: n_observed=None."
            )
        if not len(events):
            raise ValueError(self._why_none(sample.n_seen))
        if self.weights and n_events is None and len(events) < _FEW * sample.n_seen:
            warnings.warn(
                f"`{self._name}`: only {len(events)} of {sample.n_seen} events are taken, because the largest weight "
                f"in {self.weights} is far above the mean. If few rows have such weights, leave them out: "
                f"within={{{self.weights!r}: (None, ...)}}.",
                stacklevel=2,
            )
        return events

    def first(self, problem: "Problem") -> "NDArray[np.float64]":
        """Read the selected events of the first block of the file, to find mistakes before all of it is read.

        Parameters
        ----------
        problem : Problem
            Whose observables are read.

        Returns
        -------
        ndarray (event, observable)
            In the problem's units; there may be none.

        Raises
        ------
        FileNotFoundError, ModuleNotFoundError
            If the file, or the package that reads it, is missing.
        EventFileError
            For a file that cannot be read, a missing column, or an entry that is not a finite number.
        """
        empty = np.empty((0, len(problem.observables)))
        return next((rows for rows, _ in self._blocks(problem)), empty)

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
        ValueError
            If a file would be read twice.
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

    def stamps(self) -> list[list[int]]:
        """Size in bytes and time of the last change in nanoseconds of each file.

        Returns
        -------
        list
            [size, time] of each file.

        Raises
        ------
        FileNotFoundError
            If there is no file.
        ValueError
            If a file would be read twice.
        """
        return [stamp(path) for path in self._files]

    def _why_none(self, n_seen: int) -> str:
        """Why no event is taken, as a message."""
        if n_seen:
            return f"`{self._name}`: all weights of the selected rows, in column {self.weights}, are 0."
        if self.within:
            return (
                f"`{self._name}` has no event within = {self.within}. Ranges are in the file's own units: compare "
                "them, or widen the ranges."
            )
        return f"`{self._name}` has no event."

    @property
    def _name(self) -> str:
        return self.path if isinstance(self.path, str) else ", ".join(self.path)

    @property
    def _files(self) -> list[Path]:
        return files_of((self.path,) if isinstance(self.path, str) else self.path, FORMATS)

    def _blocks(self, problem: "Problem", ranges: Ranges | None = None) -> Iterator[tuple[NDArray[np.float64], ...]]:
        """Yield the selected rows (event, observable) and their weights (event,), block by block."""
        files = self._files
        if ranges is None or len(files) == 1:
            for path in files:
                yield from self._blocks_of_file(problem, path, ranges)
            return
        counts: list[int] = []
        for path in files:
            for _ in self._blocks_of_file(problem, path, lambda n_rows: counts.append(n_rows) or ()):
                pass
        wanted = list(ranges(sum(counts)))
        for path, n_rows, first in zip(files, counts, np.cumsum([0, *counts[:-1]]).tolist(), strict=True):
            here = [(max(0, start - first), min(n_rows, stop - first)) for start, stop in wanted]
            here = [(start, stop) for start, stop in here if start < stop]
            yield from self._blocks_of_file(problem, path, lambda _, here=here: here)

    def _blocks_of_file(self, problem: "Problem", path: Path, ranges: Ranges | None) -> Iterator[Any]:
        """The same for one file."""
        selection, before = Selection(self, problem, path), stamp(path)
        try:
            for first_row, block in blocks(path, self.table, selection.needed, ranges):
                yield selection.rows(block, first_row)
            is_changed = stamp(path) != before
        except (FileNotFoundError, ModuleNotFoundError, EventFileError):
            raise
        except Exception as error:
            # Each reader raises exceptions of its own for a file that is not what its ending says.
            raise selection.error(f"`{path}` cannot be read: {' '.join(str(error).split()).rstrip('.')}.") from None
        if is_changed:
            raise selection.error(f"`{path}` was changed while it was read. Read it again when it is complete.")
