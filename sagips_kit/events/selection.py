"""Which columns and rows of a file are events, and whether their numbers are valid.

How columns are read is the subject of `formats`; what an entry is, that of `entries`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .._text import counted, did_you_mean, listed
from .entries import EntryError, as_floats, as_numbers, is_beyond, is_text, lies_in
from .errors import EventFileError
from .expressions import Expression, needed_for
from .files import ending_of
from .texts import TEXTS, layout

if TYPE_CHECKING:
    from ..problems.base import Problem
    from .observed import Observed


class Selection:
    """The events of a problem in one file.

    Parameters
    ----------
    wanted : Observed
        Which columns and rows.
    problem : Problem
        Whose observables are read.
    path : Path
        The file.
    """

    def __init__(self, wanted: "Observed", problem: "Problem", path: Path):
        self._wanted, self._problem, self._path = wanted, problem, path
        self._observables: tuple[str, ...] = ()

    def needed(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """The columns to read, out of those that the file has; raises EventFileError if one is missing."""
        wanted = self._wanted
        self._observables = self._columns_of_observables(names)
        others = (*wanted.within, *([wanted.weights] if wanted.weights else []))
        needed: dict[str, None] = {}
        for given in (*self._observables, *others, *wanted.scale):
            try:
                columns = needed_for(given, names)
            except ValueError as error:
                raise self.error(str(error), given) from None
            for name in columns:
                if name not in names:
                    raise self.error(self._why_missing(name, given, names), name)
            needed |= dict.fromkeys(columns)
        for name in wanted.scale:
            if name not in self._observables:
                raise self.error(
                    f"scale = {wanted.scale}: column {name!r} of `{self._path}` is not that of an observable, so the "
                    f"factor would have no effect. Allowed: {', '.join(self._observables)}.",
                    name,
                )
        return tuple(needed)

    def rows(self, block: dict[str, Any], first_row: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The selected rows of a block, (event, observable), and their weights (event,).

        Parameters
        ----------
        block : dict
            The needed columns, name -> (row,).
        first_row : int
            The number of its first row.

        Raises
        ------
        EventFileError
            For the first entry that cannot be used.
        """
        wanted = self._wanted
        numbers = {name: self._numbers(name, block, first_row) for name in self._quantities}
        is_wanted = np.ones(len(next(iter(block.values()))), bool)
        for name, ends in wanted.within.items():
            if isinstance(ends, str):
                is_wanted &= self._checked(name, first_row, is_text, block[name], ends)
            else:
                is_wanted &= lies_in(numbers[name], *((ends, ends) if isinstance(ends, bool) else ends))
        chosen = np.flatnonzero(is_wanted)
        events = [self._finite(name, numbers[name], chosen, first_row) for name in self._observables]
        events = [wanted.scale.get(name, 1.0) * each for name, each in zip(self._observables, events, strict=True)]
        for name, each in zip(self._observables, events, strict=True):
            if (is_bad := is_beyond(each)).any():
                raise self._too_large(name, each, first_row + chosen[is_bad])
        weights = np.ones(len(chosen))
        if wanted.weights:
            weights = self._finite(wanted.weights, numbers[wanted.weights], chosen, first_row)
            if (is_bad := weights < 0).any():
                raise self._negative(wanted.weights, first_row + chosen[is_bad])
        return np.stack(events, axis=-1), weights

    @property
    def _quantities(self) -> tuple[str, ...]:
        """What is needed as numbers: columns, and those that are computed."""
        within = [name for name, ends in self._wanted.within.items() if not isinstance(ends, str)]
        weights = [self._wanted.weights] if self._wanted.weights else []
        return tuple(dict.fromkeys((*self._observables, *within, *weights)))

    def _numbers(self, name: str, block: dict[str, Any], first_row: int) -> NDArray[Any]:
        """A column, or one that is computed, as numbers."""
        if name in block:
            return self._checked(name, first_row, as_numbers, block[name])
        formula = Expression(name)
        columns = {each: self._checked(each, first_row, as_numbers, block[each]) for each in formula.names}
        return formula({each: self._checked(each, first_row, as_floats, column) for each, column in columns.items()})

    def _checked(self, name: str, first_row: int, function: Callable[..., NDArray[Any]], *given: Any) -> NDArray[Any]:
        """What a function of a column returns; its error gets the names of file, column and row."""
        try:
            return function(*given)
        except EntryError as error:
            raise self._of_row(name, [first_row + error.row], str(error), error.advice) from None

    def _finite(self, name: str, numbers: NDArray[Any], chosen: NDArray[Any], first_row: int) -> NDArray[np.float64]:
        """The chosen numbers of a column, in double precision; raises EventFileError if one is NaN or infinite."""
        try:
            floats = as_floats(numbers[chosen])
        except EntryError as error:
            raise self._of_row(name, [first_row + int(chosen[error.row])], str(error), error.advice) from None
        if not (is_bad := ~np.isfinite(floats)).any():
            return floats
        # Any range, even one without ends, excludes NaN; an infinite number is excluded only by finite ends.
        ends = (None, None) if np.isnan(floats[is_bad]).all() else (-1e30, 1e30)
        advice = f"Drop such rows with within={self._wanted.within | {name: ends}}, or in the file."
        raise self._of_row(name, first_row + chosen[is_bad], "is empty, NaN or infinite", advice)

    def _too_large(self, name: str, numbers: NDArray[np.float64], rows: NDArray[Any]) -> EventFileError:
        largest = np.abs(numbers).max()
        what = f"is too large for single precision, in which events are simulated (3e38; the largest is {largest:.3g})"
        advice = (
            f"Use larger units, scale={self._wanted.scale | {name: float(f'{1 / largest:.0e}')}}, or drop such rows."
        )
        return self._of_row(name, rows, what, advice)

    def _negative(self, name: str, rows: NDArray[Any]) -> EventFileError:
        advice = (
            "No sample of events has negative weights. Of a generator at higher order: let cell resampling "
            "(arXiv:2109.07851) make them positive in the file. Of a background that was subtracted: leave it in the "
            "events and describe it in the problem. Or drop such rows, which changes the distribution, with "
            f"within={self._wanted.within | {name: (0, None)}}."
        )
        return self._of_row(name, rows, "is negative: a weight is a number of events", advice)

    def _of_row(self, name: str, rows: Any, what: str, advice: str = "") -> EventFileError:
        """The error for rows, of which the first is named."""
        row = int(rows[0])
        line = f" (line {layout(self._path).first_line + row + 1})" if ending_of(self._path, TEXTS) else ""
        more = f", the first of {len(rows)} such rows" if len(rows) > 1 else ""
        text = f"`{self._path}`: column {name}, row {row}{line}, {what}{more}. {advice}".rstrip()
        return self.error(text, name, row)

    def error(self, text: str, column: str | None = None, row: int | None = None) -> EventFileError:
        """An error about this file."""
        return EventFileError(text, path=str(self._path), column=column, row=row)

    def _why_missing(self, name: str, given: str, names: tuple[str, ...]) -> str:
        wanted, problem = self._wanted, self._problem
        kinds = {"within": wanted.within, "weights": wanted.weights or (), "scale": wanted.scale}
        kind = next((kind for kind, names in kinds.items() if given == names or given in names), "")
        why = f"Change {kind} = {getattr(wanted, kind)!r}" if kind else ""
        if given in self._observables:
            why = f"{type(problem).__name__} observes {', '.join(problem.observables)}. "
            why += "Name their columns: Observed(..., columns=(...))"
        guess = did_you_mean(name, names)
        has = f"It has: {listed(names)}"
        if _is_numbered(names):
            has = f"Its columns have no names, and are called {listed(map(repr, names))}"
        return f"`{self._path}` has no column {name!r}. {guess}{has}. {why}."

    def _columns_of_observables(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """The column of each observable."""
        given, n = self._wanted.columns, len(self._problem.observables)
        wanted = ", ".join(self._problem.observables)
        if given is not None:
            if len(given) == n:
                return given
            raise self.error(f"columns = {given}: should be {n} names, one for each of {wanted}.")
        if not _is_numbered(names):
            return self._problem.observables
        if len(names) == n:
            return names
        how = f"Choose them: Observed(..., columns={names[:n]})."
        if len(names) < n:
            how = "Use a file with a column for each, or change the problem's observables."
        has = f"{counted(len(names), 'column')} without names"
        name = type(self._problem).__name__
        raise self.error(f"`{self._path}` has {has}, and {name} needs {n}: {wanted}. {how}")


def _is_numbered(names: tuple[str, ...]) -> bool:
    """Whether these are the names of columns without names."""
    return names == tuple(map(str, range(len(names))))
