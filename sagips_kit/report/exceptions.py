"""Errors in a notebook: the user's own lines and the message, without the frames of this package between them.

An error that this package raises on purpose has a message which says what to do, and frames that mean nothing to a
user.  `%tb` shows them all.  Where Python shows errors without IPython, nothing changes; nor for errors that look like
mistakes in this package.
"""

import dis
import linecache
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from .._text import allowed, printable

_PACKAGE = f"{Path(__file__).parents[1]}{os.sep}"
_INSTALLED = tuple(f"{sysconfig.get_path(name)}{os.sep}" for name in ("stdlib", "platstdlib", "purelib", "platlib"))
_MOST_LINES, _MOST_PLACES = 10, 2
_RAISE = dis.opmap["RAISE_VARARGS"]
_HINT = "%tb shows the full traceback."


def install() -> None:
    """Show errors of this package in the running IPython as this module says; without IPython, nothing happens."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    # Somebody else's way of showing errors is left alone.
    if shell is not None and not shell.custom_exceptions:
        shell.set_custom_exc((Exception,), _show)


def _show(shell: Any, kind: type, error: Exception, place: TracebackType, tb_offset: int | None = None) -> None:
    """Show an error as IPython does, but briefly if it is one of this package."""
    if not hasattr(error, "_render_traceback_") and (lines := brief(error)):
        setattr(error, "_render_traceback_", _first(lines, lambda: _in_full(shell, error)))  # noqa: B010
    shell.showtraceback((kind, error, place), running_compiled_code=True)


def _first(lines: list[str], in_full: Callable[[], list[str]]) -> Callable[[], list[str]]:
    """Returns the lines when it is called for the first time, and later, for `%tb`, the full traceback."""
    kinds = iter([lambda: lines])
    return lambda: next(kinds, in_full)()


def _in_full(shell: Any, error: Exception) -> list[str]:
    return shell.InteractiveTB.structured_traceback(type(error), error, error.__traceback__)


def brief(error: BaseException) -> list[str]:
    """An error of this package, or of the user's code that it has called, in at most ten lines; else no line."""
    frames = [(frame.tb_frame, frame.tb_lineno, frame.tb_lasti) for frame in _frames(error.__traceback__)]
    own = [(frame, line) for frame, line, _ in frames if _is_of_user(frame)]
    if not own or not (_is_meant(error, frames) or _is_name(error)):
        return []
    places = [text for frame, line in own[-_MOST_PLACES:] for text in _place(frame, line)]
    texts = [printable(line) for line in _message(error).splitlines() if line.strip()]
    n_left = _MOST_LINES - len(places) - 1  # lines for the message
    if len(texts) > n_left:
        texts = [*texts[: n_left - 1], f"... and {len(texts) - n_left + 1} more lines"]
    return [*places, *texts, _HINT]


def _frames(place: TracebackType | None) -> list[TracebackType]:
    found = []
    while place is not None:
        found.append(place)
        place = place.tb_next
    return found


def _is_meant(error: BaseException, frames: list[tuple[FrameType, int, int]]) -> bool:
    """Whether this package raised it on purpose, or code of the user that this package has called."""
    last, _, instruction = frames[-1]
    if _is_of_package(last):
        return last.f_code.co_code[instruction] == _RAISE
    return _is_of_user(last) and any(_is_of_package(frame) for frame, _, _ in frames)


def _is_name(error: BaseException) -> bool:
    """Whether it is `from sagips_kit import name` with a name that there is not."""
    is_name = isinstance(error, ImportError) and error.name == "sagips_kit"
    return is_name and str(error).startswith("cannot import name")


def _message(error: BaseException) -> str:
    text = "".join(traceback.format_exception_only(error)).strip()
    if _is_name(error):
        name = str(error).split("'")[1]
        text = f"ImportError: sagips_kit has no {name!r}. {allowed(name, sys.modules['sagips_kit'].__all__)}"
    return text.removeprefix(f"{type(error).__module__}.")


def _is_of_package(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith(_PACKAGE)


def _is_of_user(frame: FrameType) -> bool:
    """Whether it is of a cell or of the user's own module."""
    file = frame.f_code.co_filename
    is_python = file.startswith("<frozen") or file == "<string>"
    return not (is_python or _is_of_package(frame) or file.startswith(_INSTALLED))


def _place(frame: FrameType, line: int) -> list[str]:
    """Where a frame is and its line of code, as two lines of text."""
    file, module = frame.f_code.co_filename, frame.f_globals
    where = f"File {file}, line {line}"
    if module.get("__name__") == "__main__" and "In" in module and not Path(file).exists():
        where = f"In this cell, line {line}" if frame.f_code.co_name == "<module>" else f"In a cell, line {line}"
    if frame.f_code.co_name != "<module>":
        where += f", in {frame.f_code.co_name}"
    return [where, f"---> {linecache.getline(file, line).strip()}"]
