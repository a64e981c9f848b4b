"""A line of text that moves: replaced in place in a notebook or a terminal, while other code works.

Importing this loads nothing that takes long, so that the line can show that other packages are loaded.
"""

import contextlib
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator

import psutil

LOG_S = 60.0  # between two lines where nobody looks
_LAUNCHERS, _TERMINALS = ("mpiexec", "mpirun", "prterun", "orterun"), ("/dev/pts/", "/dev/tty")


def clock(duration_s: float) -> str:
    """A time as "0:40", "12:05" or "1:02:03"."""
    minutes, second = divmod(round(duration_s), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


@contextlib.contextmanager
def working(text: str, interval_s: float = 1.0, is_shown: bool = True, after_s: float | None = None) -> Iterator[None]:
    """Show a text and the time that the `with` block has taken so far; nothing if that is less than `after_s`."""
    start = time.monotonic()
    with ticking(lambda: f"{text}: {time.monotonic() - start:.0f} s", interval_s, is_shown, after_s):
        yield


@contextlib.contextmanager
def ticking(
    text: Callable[[], str], interval_s: float = 1.0, is_shown: bool = True, after_s: float | None = None
) -> Iterator[None]:
    """Show what `text()` returns, which is called by another thread at regular intervals during the `with` block.

    With `is_shown` false, nothing is shown; nor if the block ends within `after_s` seconds.
    """
    if not is_shown:
        yield
        return
    line, is_done, start = ProgressLine(), threading.Event(), time.monotonic()
    if after_s is None:
        line.show(text())

    def follow() -> None:
        if after_s is not None and not is_done.wait(after_s):
            line.show(text())
        while not is_done.wait(interval_s):
            line.show(text())

    thread = threading.Thread(target=follow, name="sagips_kit progress", daemon=True)
    thread.start()
    has_failed = True
    try:
        yield
        has_failed = False
    finally:
        is_done.set()
        thread.join()
        is_shown = after_s is None or time.monotonic() - start > after_s
        if is_shown and (line.is_seen or not has_failed):  # in the log of a job, the error says it all
            line.end(text())


class ProgressLine:
    """A line of text that is replaced in place: an output of the cell in a notebook, or a line of a terminal.

    Where there is neither, as in a batch job, a text is written once a minute, and the last one.

    Attributes
    ----------
    is_seen : bool
        Whether it is replaced in place, because somebody looks.

    Examples
    --------
    >>> import contextlib, io
    >>> from sagips_kit.report.line import ProgressLine
    >>> with contextlib.redirect_stderr(io.StringIO()) as written:
    ...     line = ProgressLine()
    ...     line.show("1 of 2 engines")
    ...     line.end("2 of 2 engines")
    >>> written.getvalue()
    '2 of 2 engines\\n'
    """

    def __init__(self):
        ipython = sys.modules.get("IPython")
        self._in_notebook = ipython is not None and getattr(ipython.get_ipython(), "kernel", None) is not None
        self._in_terminal = not self._in_notebook and is_terminal()
        self.is_seen = self._in_notebook or self._in_terminal
        self._output = None
        self._last, self._logged = "", time.monotonic()

    def show(self, text: str) -> None:
        """Replace the line.

        Parameters
        ----------
        text : str
            The new text.
        """
        if self._in_notebook:
            self._display(text)
        elif self._in_terminal:
            # A line that is longer than the terminal is wide cannot be replaced.
            shown = text[: shutil.get_terminal_size().columns - 1]
            print(f"\r{shown.ljust(len(self._last))}", end="", file=sys.stderr, flush=True)
            text = shown
        elif time.monotonic() - self._logged > LOG_S:
            print(text, file=sys.stderr, flush=True)
            self._logged = time.monotonic()
        self._last = text

    def end(self, text: str) -> None:
        """Replace the line for the last time, and end it.

        Parameters
        ----------
        text : str
            The last text.
        """
        if self._in_notebook:
            self._display(text)
        elif self._in_terminal:
            print(f"\r{text.ljust(len(self._last))}", file=sys.stderr, flush=True)
        else:
            print(text, file=sys.stderr, flush=True)
        self._last = text

    def _display(self, text: str) -> None:
        from IPython.display import display

        content = {"text/plain": text}
        if self._output is None:
            self._output = display(content, raw=True, display_id=True)
        elif text != self._last:
            self._output.update(content, raw=True)


def is_terminal() -> bool:
    """Whether somebody looks at this process: in a terminal, or in that of the mpiexec that has started it."""
    if sys.stderr.isatty():
        return True
    with contextlib.suppress(psutil.Error, OSError):
        for parent in psutil.Process().parents():
            if parent.name().startswith(_LAUNCHERS):
                return os.readlink(f"/proc/{parent.pid}/fd/2").startswith(_TERMINALS)
    return False
