"""The progress of a run as one line of text: what it does, how far and fast, whether the estimate moves, who waits.

Everything is read from the store, so any process can show the line, even if it has not started the run.  What is known
of steps comes from the rows, which are written in blocks; between them, the signs of life of the nodes move the line.
"""

import math
import os
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from numpy.typing import NDArray

from .. import _circular
from ..store import schema
from ..store.group import array_of, damage_explained, expect, identity, open_group
from ..store.heartbeat import ENDED, FAILED, TRAINING, Pulse, read_pulse
from ..store.status import RunStatus, read_status
from .line import clock

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
    pulse : Pulse or None
        What the run does now; None if it has given no sign of life.
    is_asked : bool
        Whether the ranks have been asked to stop.
    trained_s : float
        Time that the training had taken at the last row, in seconds.
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
    """

    status: RunStatus
    pulse: Pulse | None = None
    is_asked: bool = False
    trained_s: float = 0.0
    rate: float = math.nan
    moved: float = math.nan
    moved_unit: str = ""
    waited: float = math.nan
    staleness: float = math.nan
    rejected: int = 0

    @property
    def step(self) -> int:
        """Steps that every rank has made, also those that are not stored yet."""
        # When a node has ended, others that were behind it may have failed.
        reported = 0 if self.pulse is None or self.pulse.has_ended else self.pulse.step
        step = max(self.status.step, reported)
        return min(step, self.status.stop_step)

    @property
    def elapsed_s(self) -> float:
        """Time since the start of the run, in seconds; without signs of life, that of its training."""
        return self.trained_s if self.pulse is None else self.pulse.elapsed_s

    @property
    def left_s(self) -> float:
        """Time until the ranks end, in seconds, extrapolated to this moment; NaN if it is not known."""
        rate, since_s = self.rate, 0.0
        if self.pulse is not None:
            rate = self.pulse.rate if math.isnan(rate) else rate
            since_s = self.pulse.step_age_s
            if self.pulse.phase != TRAINING or self.pulse.is_late:
                return math.nan
        n_left = self.status.stop_step - self.step
        return max(0.0, n_left / rate - since_s) if rate > 0 else math.nan

    def doing(self) -> str:
        """What the run does now, in words; empty if that is not known."""
        if self.status.has_ended or self.pulse is None:
            return self.status.state if self.status.has_ended else ""
        is_stopping = self.pulse.phase == TRAINING and (self.is_asked or self.status.state == "stopping")
        phase = "ended early" if self.pulse.phase == ENDED else self.pulse.phase
        return stale(self.pulse) or ("stopping" if is_stopping else phase)

    def line(self) -> str:
        """The snapshot as text: what is done, bar, steps, time used and left, rate, movement, waiting, staleness."""
        from tqdm import tqdm

        status, doing = self.status, self.doing()
        words = [f"ranks at {status.step} to {status.steps.max()}"] if status.steps.max() > status.step else []
        if status.stop_step < status.n_steps:
            words.insert(0, f"{'stopped' if status.has_ended else 'stops'} at step {status.stop_step}")
        if not math.isnan(self.moved):
            words.append(f"moved {self.moved:.2g} {self.moved_unit}")
        if not math.isnan(self.waited):
            words.append(f"waiting {self.waited:.0%}")
        if not math.isnan(self.staleness):
            words.append(f"staleness {self.staleness:.0f}")
        if self.rejected:
            words.append(f"{self.rejected} bad steps dropped")
        rate = self.rate if self.pulse is None or not math.isnan(self.rate) else self.pulse.rate
        left = "" if status.has_ended else f"<{'?' if math.isnan(self.left_s) else clock(self.left_s)}"
        own: Any = {"doing": f"{doing}: " * bool(doing), "left": left}
        return tqdm.format_meter(
            self.step,
            status.n_steps,
            self.elapsed_s,
            rate=None if math.isnan(rate) else rate,
            unit="step",
            postfix=", ".join(words),
            bar_format="{doing}{percentage:3.0f}%|{bar:16}| {n_fmt}/{total_fmt} [{elapsed}{left}, {rate_fmt}{postfix}]",
            **own,
        )


def stale(pulse: Pulse) -> str:
    """What is said of a run whose signs of life are late, or that has failed; else nothing."""
    if pulse.phase == FAILED:
        return f"failed ({pulse.error})"
    if not pulse.is_late:
        return ""
    why = ", so it was probably killed" if pulse.is_silent else ""
    return f"{pulse.phase}, no sign of life for {clock(pulse.age_s)}{why}"


def snapshot(path: "Location") -> Snapshot:
    """Read the progress of the run at `path`; possible while the run is written."""
    return Follower(path).snapshot()


class Follower:
    """Reads the progress of a run again and again: rows only when there are new ones, signs of life every time.

    Parameters
    ----------
    path : path, URL or zarr Store
        The run.
    is_new : bool
        Whether the run is about to be created, in place of one that may be there now.
    before : str
        What is done until then.
    """

    def __init__(
        self, path: "Location", is_new: bool = False, before: str = "checking the problem and its events"
    ) -> None:
        self._path, self._before, self._began = path, before, time.monotonic()
        self._known: tuple[Any, Snapshot] | None = None
        self.notes: tuple[str, ...] = ()  # warnings of the ranks, as they were last read
        self._is_new, self._replaced = is_new, _identity(path) if is_new else None

    def snapshot(self) -> Snapshot:
        """The progress at this moment."""
        with damage_explained(self._path):
            root, status = open_group(self._path, "r"), read_status(self._path)
            key = (identity(root), status.steps.tolist())
            if self._known is None or self._known[0] != key:
                self._known = (key, _of_rows(self._path, root, status))
            is_asked = bool(array_of(self._path, root, schema.CONTROL, schema.ASKED)[()])
            pulse = read_pulse(self._path)
        self.notes = () if pulse is None else pulse.notes
        return replace(self._known[1], status=status, pulse=pulse, is_asked=is_asked)

    @property
    def is_created(self) -> bool:
        """Whether the run is there."""
        if self._is_new:
            found = _identity(self._path)
            self._is_new = found is None or found == self._replaced
        return not self._is_new

    def line(self) -> str:
        """The progress as text, also before the run is created and while the store cannot be read."""
        elapsed = clock(time.monotonic() - self._began)
        if not self.is_created:
            return f"{self._before} [{elapsed}]"
        try:
            now = self.snapshot()
            is_begun = now.pulse is not None or now.status.steps.any()
            return now.line() if is_begun else f"0/{now.status.n_steps} steps, no sign of life yet [{elapsed}]"
        except (OSError, ValueError) as error:
            if isinstance(error, FileNotFoundError) and self._known is None:
                return f"{self._before} [{elapsed}]"
            what = str(error).partition("\n")[0] or type(error).__name__  # a TimeoutError may have no text
            return f"the store cannot be read: {what} [{elapsed}]"


class ShownInNotebooks:
    """A handle whose `path` is a run, which a notebook shows by its progress and, at the end, its estimates."""

    path: "Location"

    def _repr_html_(self) -> str:
        from .html import html_handle  # with pandas and matplotlib, which progress does not need

        return html_handle(self.path, repr(self))


def _identity(path: "Location") -> str | None:
    """What distinguishes the run at `path`; None if there is none, or it cannot be read."""
    try:
        return identity(open_group(path, "r"))
    except (OSError, ValueError):
        return None


def _of_rows(path: "Location", root: zarr.Group, status: RunStatus) -> Snapshot:
    expect(root, status.steps.tolist())
    layout = schema.layout_of(root.attrs)
    row = int(np.searchsorted(layout.steps, status.step, side="right")) - 1
    if row < 1:
        return Snapshot(status)
    back = max(0, row - max(1, round(_WINDOW * len(layout.steps))))
    ranks = slice(None, None, math.ceil(layout.n_ranks / _N_RANKS))

    def rows(name: str, *selection: int | slice) -> NDArray[np.floating]:
        return np.asarray(array_of(path, root, schema.HISTORY, name)[(ranks, *selection)])

    elapsed, waited = rows(schema.ELAPSED, slice(back, row + 1)), rows(schema.WAITED, slice(back + 1, row + 1))
    duration = np.maximum(elapsed[:, -1] - elapsed[:, 0], 1e-9)
    moved, unit = _moved(path, root, *(rows(schema.THETA, slice(None), one) for one in (row, back)))
    return Snapshot(
        status,
        trained_s=float(np.nan_to_num(elapsed[:, -1]).max()),
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
