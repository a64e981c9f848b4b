"""Events in files of text: which lines are the header, and what separates the entries of a line.

An answer that is not certain is refused, because a wrong one would change or lose events.
"""

import csv
import gzip
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from .._text import counted
from .entries import is_number

TEXTS = tuple(ending + packed for ending in (".csv", ".tsv", ".txt", ".dat") for packed in ("", ".gz"))
_N_LINES, _LONGEST = 50, 2**20  # lines by which a file is judged, and characters of a line
_BLANKS = r"\s+"
_SEPARATORS = (",", ";", "\t", _BLANKS)
_EMPTY = ("", "-", "na", "n/a", "null", "none")  # what stands for no number


class Layout(NamedTuple):
    """How a file is to be read.

    Attributes
    ----------
    names : tuple of str
        The columns; "0", "1", ... without a header.
    separator : str
        What separates entries, as for `pandas.read_csv`.
    first_line : int
        The line of the first event, from 0.
    """

    names: tuple[str, ...]
    separator: str
    first_line: int

    def index(self, name: str) -> int:
        """Where a column is; raises ValueError if several have this name."""
        if self.names.count(name) > 1:
            raise ValueError(f"{self.names.count(name)} columns are called {name}. Give them different names")
        return self.names.index(name)


def layout(path: Path) -> Layout:
    """How the file is to be read, judged by its first lines.

    A first line of numbers is an event.  Leading lines that begin with "#" are comments; the last of them is the header
    if there is no other and it has a name for each column.

    Raises
    ------
    ValueError
        If there is no line, or if the first one may be a header as well as an event.
    """
    lines = _first_lines(path)
    n_comments = next((k for k, line in enumerate(lines) if not _is_comment(line)), None)
    if n_comments is None:
        raise ValueError("it has no events")
    separator = _separator([line for line in lines[n_comments:] if not _is_comment(line)])
    first = _split(lines[n_comments], separator)
    are_numbers = [is_number(entry) for entry in first]
    below = next((_split(line, separator) for line in lines[n_comments + 1 :] if line.strip()), [])
    if not any(are_numbers) or (not all(are_numbers) and _is_header(first, below)):
        if any(below[len(first) :]):
            raise ValueError(
                f"its header has {counted(len(first), 'name')}, and the next line {len(below)} entries, "
                f"{', '.join(below)!r:.60}. If their commas are decimal ones, type pandas.read_csv(path, sep=';', "
                "decimal=',').to_csv('points.csv', index=False)"
            )
        return Layout(tuple(first), separator, n_comments + 1)
    if not all(are_numbers):
        raise ValueError(
            f"its first line has names and numbers, {lines[n_comments].strip()!r:.80}, so it is not clear whether it "
            f"is a header or an event. Write a header with a name for each column above it, or change the numbers in "
            f"it into names"
        )
    if len(first) > 1 and first == [str(k) for k in range(len(first))]:
        raise ValueError(
            f"its first line, {lines[n_comments].strip()!r:.80}, is a header or an event. Write a header of names: "
            f"{','.join('abcdefgh'[: len(first)])}, for instance"
        )
    comments = [line.lstrip("#").strip() for line in lines[:n_comments] if line.strip()]
    header = _split(comments[-1], separator) if comments else []
    is_sentence = len(header) == 1 and " " in header[0]
    if len(header) == len(first) and not is_sentence and not any(map(is_number, header)):
        return Layout(tuple(header), separator, n_comments)
    return Layout(tuple(map(str, range(len(first)))), separator, n_comments)


def _first_lines(path: Path) -> list[str]:
    """The comments and the first lines that are none."""
    lines: list[str] = []
    n_others = 0
    how = gzip.open if path.name.lower().endswith(".gz") else open
    try:
        with how(path, "rt", encoding="utf-8-sig", newline=None) as file:
            while n_others < _N_LINES and (line := file.readline(_LONGEST)):
                if "\0" in line or (len(line) == _LONGEST and line[-1] != "\n"):
                    raise ValueError("it is no table of text")
                lines.append(line.rstrip("\n"))
                n_others += not _is_comment(line)
    except UnicodeDecodeError:
        raise ValueError(f"it is no text in UTF-8. Type: iconv -f latin1 -t utf-8 {path.name} > new.csv") from None
    return lines


def _is_comment(line: str) -> bool:
    return line.startswith("#") or not line.strip()


def _split(line: str, separator: str) -> list[str]:
    """The entries of a line."""
    if separator == _BLANKS:
        return line.split()
    return [entry.strip() for entry in next(csv.reader([line], delimiter=separator, skipinitialspace=True))]


def _separator(lines: list[str]) -> str:
    """What divides all lines into equally many entries; if several do, that which leaves most numbers in the last."""
    found = []
    for separator in _SEPARATORS:
        counts = Counter(len(_split(line, separator)) for line in lines)
        if len(counts) == 1 and max(counts) > 1:
            entries = _split(lines[-1], separator)
            found.append((sum(map(is_number, entries)) / len(entries), separator))
    if found:
        return max(found, key=lambda one: (one[0], -_SEPARATORS.index(one[1])))[1]
    # Lines of different lengths: that of the header, and the reader reports the line.
    return next((separator for separator in _SEPARATORS[:3] if separator in lines[0]), ",")


def _is_header(first: list[str], below: list[str]) -> bool:
    """Whether a line of names and numbers is a header: it is that of a pandas index, or names stand above numbers."""
    if first == ["", *map(str, range(len(first) - 1))]:
        return True
    pairs = [(name, entry) for name, entry in zip(first, below, strict=False) if not is_number(name)]
    return bool(pairs) and all(name.lower() not in _EMPTY and is_number(entry) for name, entry in pairs)
