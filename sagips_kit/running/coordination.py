"""Steps at which all ranks of a run act together, to write a checkpoint or to stop, agreed on through the store.

No message is needed.  Rank 0, or the lowest rank that still has steps to make, writes a step ahead of the fastest rank
into the store, and every rank reads it after each block of rows.  Anybody who wants a run to stop asks that rank.  What
the ranks do at such a step does not belong here.
"""

import math
import time
import uuid
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..store import schema
from ..store.group import array_of, identity, open_group
from ..store.heartbeat import forget
from ..store.location import explained

_MARGIN_S = 1.0  # time for all ranks to see what has been written, before the fastest rank gets there
_N_BLOCKS = 2  # least distance ahead: a rank may have completed a block that the store does not show yet
_N_LAST_BLOCKS = _N_BLOCKS + 2  # blocks from the request to the stop: the current one, those ahead, one for delays
_PAUSES_S = (0.1, 1.0, 3.0)  # between attempts: a busy shared file system may refuse access for a moment

T = TypeVar("T")


class StopRequests(Protocol):
    """What `Milestones` needs to know about requests to stop; `Signals` is the implementation."""

    def ask_to_end(self, takes_s: float) -> bool:
        """Whether the run should begin to stop, if stopping takes `takes_s` seconds."""
        ...


class Due(NamedTuple):
    """What a rank has to do at the end of a block of rows.

    Attributes
    ----------
    stop : bool
        Whether the rank stops here.
    checkpoint : bool
        Whether the rank writes a checkpoint here.
    """

    stop: bool
    checkpoint: bool


class Control:
    """The numbers in a store through which the ranks agree; each is read or written at once.

    Parameters
    ----------
    path : path, URL or zarr Store
        The store of the run.
    """

    def __init__(self, path: Any) -> None:
        root: Any = open_group(path, "r+")
        names = (schema.STOP_STEP, schema.CHECKPOINT_STEP, schema.ASKED)
        self._arrays = {name: array_of(path, root, schema.CONTROL, name) for name in names}
        self._progress = array_of(path, root, schema.HISTORY, schema.PROGRESS)
        self._path, self._run_id = path, identity(root)

    def __getitem__(self, name: str) -> int:
        return int(self._persistently(lambda: np.asarray(self._arrays[name][()])))

    def __setitem__(self, name: str, number: int) -> None:
        def write():
            self._arrays[name][()] = number

        self._persistently(write)

    def steps(self, ranks: int | slice = slice(None)) -> NDArray[np.int64]:
        """Steps that the ranks have completed, ndarray (rank,); of all ranks, or only of `ranks`."""
        return self._persistently(lambda: np.asarray(self._progress[ranks]))

    def reset(self) -> None:
        """Withdraw all requests, and forget the signs of life of those who made them, before a run is resumed."""
        forget(self._path)
        self[schema.STOP_STEP], self[schema.CHECKPOINT_STEP], self[schema.ASKED] = schema.NO_STOP, 0, 0

    def take(self) -> str:
        """Make the caller the only owner of the run, and return the token that proves it."""
        owner = uuid.uuid4().hex
        open_group(self._path, "r+")[schema.CONTROL].attrs[schema.OWNER_KEY] = owner
        return owner

    def check_owner(self, owner: str) -> None:
        """Raise RuntimeError if the run has a newer owner than `owner`."""
        # What another node has just written may take a moment to become visible here.
        for pause_s in (*_PAUSES_S, 0):
            if self._owner() == owner:
                return
            time.sleep(pause_s)
        raise RuntimeError(f"{self._what_happened()} This process stops, and has written nothing since.")

    def _what_happened(self) -> str:
        """Why this process is no longer the owner of the run, and what to do."""
        path = self._path
        try:
            root = open_group(path, "r")
        except FileNotFoundError:
            return (
                f"`{path}` has been removed or renamed while the run was trained. Rename it back and type "
                "run(spec, resume=True) (`sagips run --resume`) to continue from its newest checkpoint."
            )
        except ValueError as error:
            return f"`{path}` has been changed while the run was trained: {error}"
        one_each = "Start a job only after the job before it has ended, or give each run its own store."
        if identity(root) != self._run_id:
            return f"`{path}` has been overwritten by another run, which another process has started. {one_each}"
        return f"Another process has resumed `{path}`. Only one process may write a run. {one_each}"

    def _owner(self):
        try:
            return self._persistently(lambda: open_group(self._path, "r")[schema.CONTROL].attrs.get(schema.OWNER_KEY))
        except (FileNotFoundError, ValueError):  # deleted, or no longer a run
            return None

    def _persistently(self, act: Callable[[], T]) -> T:
        for pause_s in _PAUSES_S:
            try:
                return act()
            except FileNotFoundError:
                raise
            except OSError:
                time.sleep(pause_s)
        with explained(f"Cannot reach `{self._path}`", "What has been written is safe; resume the run."):
            return act()


class Milestones:
    """Decides what one rank has to do after each block of rows.

    Parameters
    ----------
    control : Control
        The numbers in the store through which the ranks agree.
    rank : int
        The rank that this object belongs to.
    block_steps, n_steps : int
        Steps in a block of rows, and in the whole run.
    every_s : float
        Seconds between two checkpoints; 0 for none.
    signals : StopRequests
        Requests to stop that reach this process.
    """

    def __init__(
        self, control: Control, rank: int, block_steps: int, n_steps: int, every_s: float, signals: StopRequests
    ) -> None:
        self._control, self._rank = control, rank
        self._block_steps, self._n_steps = block_steps, n_steps
        self._every_s, self._signals = every_s, signals
        self._planner = 0  # the lowest rank that may still have steps to make
        self._has_asked, self._block_s = False, math.inf
        self._saved = self._last = time.monotonic()

    def reached(self, step: int) -> Due:
        """What is due at `step`, the end of a block."""
        now = time.monotonic()
        self._block_s, self._last = now - self._last, now
        control = self._control
        if not self._has_asked and self._signals.ask_to_end(_N_LAST_BLOCKS * self._block_s):
            self._has_asked = True
            if not control[schema.ASKED]:
                control[schema.ASKED] = schema.BY_SIGNAL
        if self._is_planner():
            self._plan(step)
        stop = step >= control[schema.STOP_STEP]
        return Due(stop=stop, checkpoint=stop or step == control[schema.CHECKPOINT_STEP])

    def _is_planner(self) -> bool:
        """Whether all lower ranks have made all their steps; such ranks no longer plan."""
        while self._planner < self._rank and self._control.steps(self._planner) >= self._n_steps:
            self._planner += 1
        return self._planner == self._rank

    def _plan(self, step: int) -> None:
        """Write down what all ranks have to do, and at which step, which none of them has reached."""
        control = self._control
        if control[schema.STOP_STEP] < self._n_steps:
            return
        if control[schema.ASKED]:
            self._set(schema.STOP_STEP, step, _MARGIN_S)
        elif self._every_s and self._last - self._saved > self._every_s and self._is_complete():
            # A rank that is too late to see this lacks one checkpoint.  Too late for a stop, it would wait in vain.
            try:
                self._set(schema.CHECKPOINT_STEP, step, min(_MARGIN_S, self._every_s))
            except OSError as error:
                warnings.warn(f"No checkpoint was requested, and the run continues: {error}", stacklevel=3)
            self._saved = self._last

    def _under_way(self) -> NDArray[np.int64]:
        """Steps of the ranks that have steps left, ndarray (rank,); this rank is among them."""
        steps = self._control.steps()
        return steps[steps < self._n_steps]

    def _is_complete(self) -> bool:
        """Whether all ranks have passed the last checkpoint; else a slow rank would share none with the others."""
        return bool(self._under_way().min() >= self._control[schema.CHECKPOINT_STEP])

    def _set(self, name: str, step: int, margin_s: float) -> None:
        n_blocks = max(_N_BLOCKS, math.ceil(margin_s / self._block_s))
        ahead = max(step, int(self._under_way().max())) + n_blocks * self._block_steps
        if ahead < self._n_steps:
            self._control[name] = ahead
