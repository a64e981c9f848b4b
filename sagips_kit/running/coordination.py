"""Steps at which all ranks of a run act together, to write a checkpoint or to stop, agreed on through the store.

No message is needed.  Rank 0, or the lowest rank that still has steps to make, writes a step ahead of the fastest rank
into the store, and every rank reads it.  Anybody who wants a run to stop asks that rank.  What the ranks do at such a
step does not belong here.
"""

import contextlib
import math
import os
import time
import uuid
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from zarr.abc.store import Store

from ..store import schema
from ..store.group import array_of, identity, open_group
from ..store.heartbeat import forget
from ..store.location import explained, is_on_disk, local_path

_MARGIN_S = 1.0  # time for all ranks to see what has been written, before the fastest rank gets there
# Least distance ahead: a rank may have completed a block, or a row, that the store does not show yet.
_N_BLOCKS = _N_ROWS = 2
_LOOK_S, _LOOK_REMOTE_S = 0.5, 10.0  # between two looks for a request to stop; behind URLs, they take longer
_SHORT_S = 0.2  # between rows that are stored by themselves, once there is a request
# From the request to the stop: looks, answers and the margin; and rows in which a rank can do none of them
_STOPPING_S, _N_LAST_ROWS = 2 * _LOOK_S + 3 * _SHORT_S + _MARGIN_S, 8
_PAUSES_S = (0.1, 1.0, 3.0)  # between attempts: a busy shared file system may refuse access for a moment

T = TypeVar("T")


class StopRequests(Protocol):
    """What `Milestones` needs to know about requests to stop; `Signals` is the implementation."""

    def ask_to_end(self, takes_s: float) -> bool:
        """Whether the run should begin to stop, if stopping takes `takes_s` seconds."""
        ...


class Due(NamedTuple):
    """What a rank has to do at the end of a row or of a block of rows.

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

    Attributes
    ----------
    look_s : float
        Time between two calls of `is_asked`, in seconds.
    """

    def __init__(self, path: Any) -> None:
        root: Any = open_group(path, "r+")
        names = (schema.STOP_STEP, schema.CHECKPOINT_STEP, schema.ASKED)
        self._arrays = {name: array_of(path, root, schema.CONTROL, name) for name in names}
        self._progress = array_of(path, root, schema.HISTORY, schema.PROGRESS)
        self._path, self._run_id = path, identity(root)
        is_file = not isinstance(path, Store) and is_on_disk(path)
        self._request = local_path(path) / schema.CONTROL / schema.ASKED / "c" if is_file else None
        self._seen: tuple[int, int] | None = None  # the file of the last request that was looked at
        self.look_s = _LOOK_S if is_file else _LOOK_REMOTE_S

    def __getitem__(self, name: str) -> int:
        return int(self._persistently(lambda: np.asarray(self._arrays[name][()])))

    def __setitem__(self, name: str, number: int) -> None:
        def write():
            self._arrays[name][()] = number

        self._persistently(write)

    def is_asked(self) -> bool:
        """Whether the run has been asked to stop; cheap enough to be called often."""
        if self._request is not None:
            # Opened, because network file systems then ask the server.
            with self._request.open("rb") as file:
                status = os.fstat(file.fileno())
            if self._seen == (status.st_ino, status.st_mtime_ns):
                return False
            self._seen = status.st_ino, status.st_mtime_ns
        return bool(self[schema.ASKED])

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
    """Decides what one rank has to do after each row, and after each block of rows.

    A rank that finds a request to stop stores its rows as soon as they are made.  Once all ranks do so, the planner
    knows where the fastest one is, and chooses a step that none of them reaches before it has seen that step.

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
    row_steps : int or None
        Steps from row to row; None for those of a block.
    """

    def __init__(
        self,
        control: Control,
        rank: int,
        block_steps: int,
        n_steps: int,
        every_s: float,
        signals: StopRequests,
        row_steps: int | None = None,
    ) -> None:
        self._control, self._rank = control, rank
        self._block_steps, self._row_steps, self._n_steps = block_steps, row_steps or block_steps, n_steps
        self._every_s, self._signals = every_s, signals
        self._planner = 0  # the lowest rank that may still have steps to make
        self._is_asked, self._stop_step = False, n_steps  # as far as this rank has seen
        self._answers: _Answers | None = None
        self._row_s = self._block_s = math.inf
        self._saved = self._row = self._block = self._looked = self._stored = time.monotonic()

    def wants_rows(self, step: int) -> bool:
        """Whether to store the rows up to `step`, and to call `reached`, though their block is not complete."""
        now = time.monotonic()
        self._row_s, self._row = now - self._row, now
        if not self._is_asked and (self._must_end() or now - self._looked > self._control.look_s):
            self._looked = now
            with contextlib.suppress(OSError, ValueError):  # which the end of the block explains
                self._is_asked = self._control.is_asked()
        return self._is_asked and (step >= self._stop_step or now - self._stored > _SHORT_S)

    def reached(self, step: int) -> Due:
        """What is due at `step`, whose row is stored but not declared valid yet."""
        now, control = time.monotonic(), self._control
        self._stored = now
        if step % self._block_steps == 0:
            self._block_s, self._block = now - self._block, now
        self._must_end()
        self._is_asked = self._is_asked or bool(control[schema.ASKED])
        if self._is_planner():
            self._plan(step)
        self._stop_step = control[schema.STOP_STEP]
        stop = step >= self._stop_step
        return Due(stop=stop, checkpoint=stop or step == control[schema.CHECKPOINT_STEP])

    def _must_end(self) -> bool:
        """Whether this process must end soon; the first time, all ranks are asked to stop."""
        rows_s = _N_LAST_ROWS * self._row_s if math.isfinite(self._row_s) else 0.0
        if self._is_asked or not self._signals.ask_to_end(_STOPPING_S + rows_s):
            return False
        if not self._control[schema.ASKED]:
            self._control[schema.ASKED] = schema.BY_SIGNAL
        return True

    def _is_planner(self) -> bool:
        """Whether all lower ranks have made all their steps; such ranks no longer plan."""
        while self._planner < self._rank and self._control.steps(self._planner) >= self._n_steps:
            self._planner += 1
        return self._planner == self._rank

    def _plan(self, step: int) -> None:
        """Write down what all ranks have to do, and at which step, which none of them has reached."""
        control, now = self._control, time.monotonic()
        if control[schema.STOP_STEP] < self._n_steps:
            return
        if self._is_asked:
            self._plan_stop(step)
        elif self._every_s and now - self._saved > self._every_s and self._is_complete():
            # A rank that is too late to see this lacks one checkpoint.  Too late for a stop, it would wait in vain.
            n_blocks = max(_N_BLOCKS, math.ceil(min(_MARGIN_S, self._every_s) / self._block_s))
            ahead = max(step, int(self._under_way().max())) + n_blocks * self._block_steps
            try:
                self._set(schema.CHECKPOINT_STEP, ahead, self._block_steps)
            except OSError as error:
                warnings.warn(f"No checkpoint was requested, and the run continues: {error}", stacklevel=3)
            self._saved = now

    def _plan_stop(self, step: int) -> None:
        """Choose the step at which all ranks stop, once each of them is known to store every row."""
        steps = self._control.steps()
        steps[self._rank] = step
        if self._answers is None:
            self._answers = _Answers(steps)
        is_under_way = steps < self._n_steps
        is_under_way[self._rank] = False  # the planner need not answer itself
        self._answers.look(steps)
        if not self._answers.are_all_of(is_under_way):
            return
        rate = max(self._answers.rate(), self._row_steps / max(self._row_s, 1e-3))
        fastest = int(steps[steps < self._n_steps].max(initial=step))
        ahead = _N_ROWS * self._row_steps + math.ceil((_MARGIN_S + _SHORT_S) * rate)
        self._set(schema.STOP_STEP, fastest + ahead, self._row_steps)

    def _under_way(self) -> NDArray[np.int64]:
        """Steps of the ranks that have steps left, ndarray (rank,); this rank is among them."""
        steps = self._control.steps()
        return steps[steps < self._n_steps]

    def _is_complete(self) -> bool:
        """Whether all ranks have passed the last checkpoint; else a slow rank would share none with the others."""
        return bool(self._under_way().min() >= self._control[schema.CHECKPOINT_STEP])

    def _set(self, name: str, step: int, multiple: int) -> None:
        ahead = math.ceil(step / multiple) * multiple
        if ahead < self._n_steps:
            self._control[name] = ahead


class _Answers:
    """Which ranks have answered a request to stop, by declaring rows valid, and how fast they are.

    Parameters
    ----------
    steps : ndarray (rank,)
        Steps of the ranks when the planner saw the request.
    """

    def __init__(self, steps: NDArray[np.int64]) -> None:
        self._last, self._n = steps, np.zeros(len(steps), int)
        # Where each rank was when it answered for the first time; its steps before came in blocks.
        self._from, self._since = steps.copy(), np.full(len(steps), time.monotonic())

    def look(self, steps: NDArray[np.int64]) -> None:
        """Take note of the steps of the ranks at this moment."""
        has_answered = steps != self._last
        is_first = has_answered & (self._n == 0)
        self._from[is_first], self._since[is_first] = steps[is_first], time.monotonic()
        self._n += has_answered
        self._last = steps

    def are_all_of(self, ranks: NDArray[np.bool_]) -> bool:
        """Whether all `ranks` have answered."""
        # The first rows may have been on their way when the request was made; the second are of a rank that knows.
        return bool((self._n[ranks] >= 2).all())

    def rate(self) -> float:
        """Steps per second of the fastest rank."""
        return float(((self._last - self._from) / (time.monotonic() - self._since + _SHORT_S)).max())
