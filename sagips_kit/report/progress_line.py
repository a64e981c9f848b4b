"""The progress of a run as one line of text: how far, how fast, whether the estimate still moves, who waits.

Everything is read from the store, so any process can show the line, even if it has not started the run.
"""

import contextlib
import math
import os
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from numpy.typing import NDArray

from .. import _circular
from ..store import schema
from ..store.group import array_of, damage_explained, expect, open_group
from ..store.status import RunStatus, is_fitting, read_status

if TYPE_CHECKING:
    from zarr.abc.store import Store

    Location = str | os.PathLike[str] | Store

_WINDOW = 0.1  # of the run: rate, movement and waiting are measured over the last rows, so many of all
_N_RANKS = 32  # evenly spaced ranks that are read, since each has its own files


@dataclass(frozen=True)
class Snapshot:
    """The progress of a run at one moment.

    Rates and fractions refer to the last tenth of the rows of the whole run, or to those that there are.

    Attributes
    ----------
    status : RunStatus
        The steps of each rank, and where the run ends.
    elapsed_s : float
        Time since the start of the run in seconds.
    rate : float
        Steps per second of the slowest rank.
    moved : float
        How far the mean of the generators has moved: root mean square over the parameters, in `moved_unit`.
    moved_unit : str
        "floor units"; without a likelihood fit "deviations of the fit", the one by the learned score; without that
        "% of the range".
    waited : float
        Fraction of the time that ranks waited for others.
    staleness : float
        Age of the oldest message used in the last row, in steps.
    rejected : int
        Steps that were dropped because their numbers were not finite.
    is_fitting : bool
        Whether the ranks wait for the fit by the learned score.
    """

    status: RunStatus
    elapsed_s: float = 0.0
    rate: float = math.nan
    moved: float = math.nan
    moved_unit: str = ""
    waited: float = math.nan
    staleness: float = math.nan
    rejected: int = 0
    is_fitting: bool = False

    def line(self) -> str:
        """The snapshot as text: bar, steps, time used and left, rate, movement, waiting, staleness."""
        from tqdm import tqdm

        step, stop_step, n_steps = self.status.step, self.status.stop_step, self.status.n_steps
        words = [f"ranks at {step} to {self.status.steps.max()}"]
        if stop_step < n_steps:
            words.insert(0, f"asked to stop there, before {n_steps}")
        if self.is_fitting:
            words.insert(0, schema.FITTING)
        if not math.isnan(self.moved):
            words.append(f"moved {self.moved:.2g} {self.moved_unit}")
        if not math.isnan(self.waited):
            words.append(f"waiting {self.waited:.0%}")
        if not math.isnan(self.staleness):
            words.append(f"staleness {self.staleness:.0f}")
        if self.rejected:
            words.append(f"{self.rejected} bad steps dropped")
        return tqdm.format_meter(
            step,
            stop_step,
            self.elapsed_s,
            rate=None if math.isnan(self.rate) else self.rate,
            unit="step",
            postfix=", ".join(words),
            bar_format="{percentage:3.0f}%|{bar:16}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]",
        )


def snapshot(path: "Location") -> Snapshot:
    """Read the progress of the run at `path`; cheap, and possible while the run is written."""
    with damage_explained(path):
        return _snapshot(path, open_group(path, "r"), read_status(path))


def _snapshot(path: "Location", root: zarr.Group, status: RunStatus) -> Snapshot:
    expect(root, status.steps.tolist())
    layout = schema.layout_of(root.attrs)
    row = int(np.searchsorted(layout.steps, status.step, side="right")) - 1
    if row < 1:
        return Snapshot(status, is_fitting=is_fitting(path))
    back = max(0, row - max(1, round(_WINDOW * len(layout.steps))))
    ranks = slice(None, None, math.ceil(layout.n_ranks / _N_RANKS))

    def rows(name: str, *selection: int | slice) -> NDArray[np.floating]:
        return np.asarray(array_of(path, root, schema.HISTORY, name)[(ranks, *selection)])

    elapsed, waited = rows(schema.ELAPSED, slice(back, row + 1)), rows(schema.WAITED, slice(back + 1, row + 1))
    duration = np.maximum(elapsed[:, -1] - elapsed[:, 0], 1e-9)
    moved, unit = _moved(path, root, *(rows(schema.THETA, slice(None), one) for one in (row, back)))
    return Snapshot(
        status,
        elapsed_s=float(np.nan_to_num(elapsed[:, -1]).max()),
        rate=(layout.steps[row] - layout.steps[back]) / float(duration.max()),
        moved=moved,
        moved_unit=unit,
        waited=float((waited.sum(axis=1) / duration).mean()),
        staleness=float(rows(schema.STALENESS, row).max()),
        rejected=int(np.nansum(rows(schema.REJECTED, slice(back + 1, row + 1)))),
    )


def _moved(
    path: "Location", root: zarr.Group, now: NDArray[np.floating], before: NDArray[np.floating]
) -> tuple[float, str]:
    """RMS of the mean shift of parameters (rank, member, parameter), and its unit."""
    attributes: Any = root[schema.POSTERIOR].attrs
    _, period = _circular.circles(schema.names_of(root.attrs)[0], schema.intervals_of(attributes))
    shifts = _circular.difference(now, before, period)

    def reference(name: str) -> NDArray[np.floating]:
        return np.asarray(array_of(path, root, schema.REFERENCE, name)[:])

    unit, name = reference(schema.DEVIATION), "floor units"
    if not np.isfinite(unit).all() and schema.FIT_DEVIATION in root[schema.REFERENCE]:
        unit, name = reference(schema.FIT_DEVIATION), "deviations of the fit"
    if not np.isfinite(unit).all():
        unit, name = (reference(schema.UPPER) - reference(schema.LOWER)) / 100, "% of the range"
    return float(np.sqrt(np.mean((shifts.mean(axis=(0, 1)) / unit) ** 2))), name


@contextlib.contextmanager
def working(text: str, interval_s: float = 1.0) -> Iterator[None]:
    """Show a text and the time that the `with` block has taken so far."""
    line, start, is_done = ProgressLine(), time.monotonic(), threading.Event()

    def shown() -> str:
        return f"{text}: {time.monotonic() - start:.0f} s"

    def follow() -> None:
        line.show(shown())
        while not is_done.wait(interval_s):
            line.show(shown())

    thread = threading.Thread(target=follow, name="sagips_kit progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_done.set()
        thread.join()
        line.end(shown())


class ProgressLine:
    """A line of text that is replaced in place: an output of the cell in a notebook, or a line of a terminal.

    Where there is neither, as in a batch job, only the last text is written.

    Examples
    --------
    >>> import contextlib, io
    >>> from sagips_kit.report.progress_line import ProgressLine
    >>> with contextlib.redirect_stderr(io.StringIO()) as written:
    ...     line = ProgressLine()
    ...     line.show("1 of 2 engines")
    ...     line.end("2 of 2 engines")
    >>> written.getvalue()
    '2 of 2 engines\\n'
    """

    def __init__(self):
        from IPython import get_ipython

        self._in_notebook = getattr(get_ipython(), "kernel", None) is not None
        self._output = None
        self._last = ""

    def show(self, text: str) -> None:
        """Replace the line.

        Parameters
        ----------
        text : str
            The new text.
        """
        if self._in_notebook:
            self._display(text)
        elif sys.stderr.isatty():
            print(f"\r{text.ljust(len(self._last))}", end="", file=sys.stderr, flush=True)
        self._last = text

    def end(self, text: str) -> None:
        """Replace the line for the last time, and end it.

        Parameters
        ----------
        text : str
            The last text.
        """
        self.show(text)
        if not self._in_notebook:
            print("" if sys.stderr.isatty() else text, file=sys.stderr, flush=True)

    def _display(self, text: str) -> None:
        from IPython.display import display

        content = {"text/plain": text}
        if self._output is None:
            self._output = display(content, raw=True, display_id=True)
        elif text != self._last:
            self._output.update(content, raw=True)
