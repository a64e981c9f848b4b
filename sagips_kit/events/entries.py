"""What an entry of a column becomes: the number that it is, or a refusal.  All readers of files, and arrays, meet here.

Which columns and rows are wanted is the subject of `selection`.
"""

import math
import re
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SHORT = 60  # characters of an entry in a message
_EXACT = 2.0**53  # integers beyond are not all numbers of double precision
_LOST = 1e-3  # the largest harmless rounding by single precision, root mean square in units of the spread
_NUMBER = re.compile(r"\s*[+-]?((\d+\.?\d*|\.\d+)(e[+-]?\d+)?|nan|inf(inity)?)\s*", re.ASCII | re.IGNORECASE)
_INTEGER = re.compile(r"\s*[+-]?\d+\s*", re.ASCII)


class EntryError(ValueError):
    """An entry that cannot be used: `row`, counted from the first one given, and what to do about it, `advice`."""

    def __init__(self, row: int, what: str, advice: str = ""):
        super().__init__(what)
        self.row, self.advice = row, advice


def as_numbers(column: Any) -> NDArray[Any]:
    """A column as float64, or as integers of 64 bits if it holds integers.

    Parameters
    ----------
    column : array_like (row,)
        Of any type; masked entries of a NumPy array are empty.

    Returns
    -------
    ndarray (row,)
        Empty entries are NaN; those among integers are masked.

    Raises
    ------
    EntryError
        For the first entry that is not a real number.
    """
    if not np.ma.is_masked(column):
        return _unmasked(np.ma.getdata(column))
    is_empty = np.ma.getmaskarray(column)
    there = np.flatnonzero(~is_empty)
    try:
        found = _unmasked(np.ma.getdata(column)[there])
    except EntryError as error:
        raise EntryError(int(there[error.row]), str(error), error.advice) from None
    numbers = np.zeros(len(is_empty), found.dtype)
    numbers[there] = found
    return np.ma.array(numbers, mask=is_empty) if _are_integers(numbers) else np.where(is_empty, np.nan, numbers)


def as_floats(numbers: NDArray[Any]) -> NDArray[np.float64]:
    """The same numbers in double precision; raises EntryError for the first integer that it cannot hold."""
    floats = np.ma.getdata(numbers).astype(np.float64)
    is_empty = np.ma.getmaskarray(numbers)
    if _are_integers(numbers):
        for row in np.flatnonzero(~is_empty & (np.abs(floats) >= _EXACT)):
            _exactly(int(numbers[row]), int(row))
    return np.where(is_empty, np.nan, floats)


def lies_in(numbers: NDArray[Any], low: float | None, high: float | None) -> NDArray[np.bool_]:
    """Whether numbers lie in a range, both ends included; integers are compared as integers, and NaN lies in none."""
    if _are_integers(numbers):
        low, high = low if low is None else math.ceil(low), high if high is None else math.floor(high)
    is_in = ~np.ma.getmaskarray(numbers)
    numbers = np.ma.getdata(numbers)
    is_in &= ~np.isnan(numbers)
    is_in &= True if low is None else numbers >= low
    return is_in & (True if high is None else numbers <= high)


def _are_integers(numbers: NDArray[Any]) -> bool:
    return numbers.dtype.kind in "iu"


def is_text(column: Any, text: str) -> NDArray[np.bool_]:
    """Whether the entries of a column of texts are this one; empty ones are not."""
    data, is_there = np.ma.getdata(column), ~np.ma.getmaskarray(column)
    if data.dtype.kind not in "OSUT" and is_there.any():
        row = int(is_there.argmax())
        are_truths = data.dtype.kind == "b"
        advice = "Select truth values by True or False." if are_truths else "Select numbers by a range, (low, high)."
        raise EntryError(row, f"holds {_short(data[row])}, which is not text", advice)
    entries = (entry.decode() if isinstance(entry, bytes) else entry for entry in data)
    return is_there & [isinstance(entry, str) and entry == text for entry in entries]  # NA of pandas equals nothing


def is_number(text: str) -> bool:
    """Whether a text is a number with a decimal point, NaN or infinite."""
    return bool(_NUMBER.fullmatch(text))


def is_beyond(numbers: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether numbers are finite, but too large for single precision, in which networks and simulators calculate."""
    with np.errstate(over="ignore"):
        return np.isfinite(numbers) & np.isinf(numbers.astype(np.float32))


def is_blurred(numbers: NDArray[np.float64]) -> bool:
    """Whether single precision rounds finite numbers (event,), far from 0 or tiny, notably within their spread."""
    with np.errstate(over="ignore", under="ignore"):
        # Numbers that were rounded before do not change any more, so what counts is the distance of their neighbours.
        rounding = np.spacing(np.abs(numbers).astype(np.float32)).astype(np.float64) / math.sqrt(12)
    low, high = np.quantile(numbers, (0.05, 0.95))
    spread = float(high - low) or float(np.ptp(numbers))
    return bool(np.sqrt(np.mean(rounding**2)) > _LOST * spread > 0)


def _unmasked(data: NDArray[Any]) -> NDArray[Any]:
    kind = data.dtype.kind
    if data.ndim != 1:
        raise EntryError(0, f"holds {_short(data[0])}, not one number", _ONE_EACH)
    if kind in _REFUSED and len(data):
        raise EntryError(0, f"holds {data[0]!r}, which is {_REFUSED[kind][0]}", _REFUSED[kind][1])
    if kind in "OSUT":
        return _of_entries(data)
    return data.astype({"i": np.int64, "u": np.uint64}.get(kind, np.float64))


_ONE_EACH = (
    "An event has one number in each column. Choose it and write it to a file, for instance the first of a jagged "
    "branch of ROOT: np.save('x.npy', awkward.to_numpy(awkward.firsts(branch.array())))."
)
_REFUSED = {
    "M": ("a date", "Write the time since a fixed date as a number: (t - t[0]) / numpy.timedelta64(1, 's')."),
    "m": ("a duration", "Write it as a number: column / numpy.timedelta64(1, 's')."),
    "c": ("complex", "Write its real and imaginary parts, or abs() and numpy.angle(), as columns of their own."),
    "V": ("a record", "Give the name of one of its fields."),
}


def _of_entries(entries: Iterable[Any]) -> NDArray[np.float64]:
    return np.array([_number(entry, row) for row, entry in enumerate(entries)], dtype=np.float64)


def _number(entry: Any, row: int) -> float:
    """An object as a number."""
    if entry is None or type(entry).__name__ in ("NAType", "NaTType"):  # of pandas
        return math.nan
    entry = entry.decode("ascii", "replace") if isinstance(entry, bytes) else entry
    if isinstance(entry, str):
        if not is_number(entry):
            raise EntryError(row, f"holds {_short(str(entry))}, which is not a number", _of_comma(entry))
        return _exactly(int(entry), row) if _INTEGER.fullmatch(entry) else float(entry)
    try:
        number = float(entry)
        is_real = np.ndim(entry) == 0 and not np.iscomplexobj(entry)
    except (TypeError, ValueError, OverflowError):
        number, is_real = math.nan, False
    if not is_real:  # older NumPy would take an array of one number for a number
        advice = _ONE_EACH if np.ndim(entry) else ""
        raise EntryError(row, f"holds {_short(entry)}, which is not a number", advice)
    return _exactly(int(entry), row) if math.isfinite(number) and entry == int(entry) else number


def _short(entry: Any) -> str:
    """An entry in one short line."""
    text = " ".join(repr(entry).split())
    return text if len(text) <= _SHORT else f"{text[:_SHORT]}..."


def _of_comma(text: str) -> str:
    if re.fullmatch(r"\s*[+-]?\d+,\d+\s*", text):
        return "Write decimal points: pandas.read_csv(path, sep=';', decimal=',').to_csv('points.csv', index=False)."
    return ""


def _exactly(integer: int, row: int) -> float:
    number = float(integer) if abs(integer) < 2**1023 else math.inf
    if number != integer:
        what = f"holds {integer}, an integer that double precision (53 bits) would round"
        raise EntryError(row, what, "Subtract a number from all of them, or split them into two columns, in the file.")
    return number
