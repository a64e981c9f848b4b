"""What one line says of a run while it trains: how far, how fast, whether the answer still moves, who waits.

Everything comes from the store, so any process may look, also one that has not started the run.
"""

import math
import sys
from dataclasses import dataclass

import numpy as np

from ..store import schema
from ..store.group import damage_explained, open_group
from ..store.status import RunStatus, read_status

_MOVE = 0.1  # of the run: over so many steps the movement is measured
_N_RANKS = 32  # that are looked at, evenly spread: each has files of its own


@dataclass(frozen=True)
class Snapshot:
    """A run at one moment.

    Attributes
    ----------
    status : RunStatus
        Steps of each rank, and where the run ends.
    elapsed_s : float
        Since the run started, in seconds.
    rate : float
        Steps of the slowest rank in a second.
    moved : float
        How far the generators' mean has moved during the last tenth of the run's steps, in `moved_unit`: root mean
        square over the parameters.
    moved_unit : str
    waited : float
        Fraction of the time that ranks have waited for others.
    staleness : float
        Age of the oldest message used, in steps.
    rejected : int
        Steps that were dropped because of numbers that were not finite, of the ranks that were looked at, during those
        last steps.
    """

    status: RunStatus
    elapsed_s: float = 0.0
    rate: float = math.nan
    moved: float = math.nan
    moved_unit: str = ""
    waited: float = math.nan
    staleness: float = math.nan
    rejected: int = 0

    def line(self):
        """The snapshot as a line of text: bar, steps, time used and left, rate, movement, waiting, staleness."""
        from tqdm import tqdm

        now = self.status
        words = [f"ranks {now.step}...{now.steps.max()}"]
        if now.stop_step < now.n_steps:
            words.insert(0, f"asked to stop there, before {now.n_steps}")
        if not math.isnan(self.moved):
            words.append(f"moved {self.moved:.2g} {self.moved_unit}")
        if not math.isnan(self.waited):
            words.append(f"waiting {self.waited:.0%}")
        if not math.isnan(self.staleness):
            words.append(f"staleness {self.staleness:.0f}")
        if self.rejected:
            words.append(f"{self.rejected} bad steps dropped")
        return tqdm.format_meter(
            now.step,
            now.stop_step,
            self.elapsed_s,
            rate=None if math.isnan(self.rate) else self.rate,
            unit="step",
            postfix=", ".join(words),
            bar_format="{percentage:3.0f}%|{bar:16}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]",
        )


def snapshot(path):
    """Look at a run: Snapshot."""
    with damage_explained(path):
        return _snapshot(path)


def _snapshot(path):
    root = open_group(path, "r")
    now = read_status(path)
    layout = schema.RunLayout(**root.attrs[schema.LAYOUT_KEY])
    row = int(np.searchsorted(layout.steps, now.step, side="right")) - 1
    if row < 1:
        return Snapshot(now)
    back = max(0, row - max(1, round(_MOVE * len(layout.steps))))
    history, ranks = root[schema.HISTORY], slice(None, None, math.ceil(layout.n_ranks / _N_RANKS))
    elapsed = history["elapsed_s"][ranks, back : row + 1]
    waited = history["waited_s"][ranks, back + 1 : row + 1].sum(axis=1)
    duration = np.maximum(elapsed[:, -1] - elapsed[:, 0], 1e-9)
    moved, unit = _moved(root, history["theta"][ranks, :, row] - history["theta"][ranks, :, back])
    return Snapshot(
        now,
        elapsed_s=float(np.nan_to_num(elapsed[:, -1]).max()),
        rate=(layout.steps[row] - layout.steps[back]) / float(duration.max()),
        moved=moved,
        moved_unit=unit,
        waited=float((waited / duration).mean()),
        staleness=float(history["staleness"][ranks, row].max()),
        rejected=int(np.nansum(history["rejected"][ranks, back + 1 : row + 1])),
    )


def _moved(root, ways):
    """How far the mean over ranks and members went, from the way (rank, member, parameter) of each; and the unit."""
    way = ways.mean(axis=(0, 1))
    reference = root[schema.REFERENCE]
    unit, name = reference["deviation"][:], "floor units"
    if not np.isfinite(unit).all():
        unit, name = (reference["upper"][:] - reference["lower"][:]) / 100, "% of the range"
    return float(np.sqrt(np.mean((way / unit) ** 2))), name


class Line:
    """A line of text that is replaced in place: an output of the cell in a notebook, else a line of the terminal."""

    def __init__(self):
        from IPython import get_ipython

        self._in_notebook = getattr(get_ipython(), "kernel", None) is not None
        self._output = None
        self._last = ""

    def show(self, text):
        if self._in_notebook:
            self._display(text)
        elif sys.stderr.isatty():
            print(f"\r{text.ljust(len(self._last))}", end="", file=sys.stderr, flush=True)
        self._last = text

    def end(self, text):
        self.show(text)
        if not self._in_notebook:
            print("" if sys.stderr.isatty() else text, file=sys.stderr, flush=True)

    def _display(self, text):
        from IPython.display import display

        content = {"text/plain": text}
        if self._output is None:
            self._output = display(content, raw=True, display_id=True)
        elif text != self._last:
            self._output.update(content, raw=True)
