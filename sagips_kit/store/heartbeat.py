"""Signs of life of a run: what each node does now, in one small file a node, which a thread replaces by the clock.

Rows of the history come with each block, which may take minutes, and a killed run looks like one that is slow.  The
files lie below the node of an array, where readers of zarr do not look.  Nothing in a result depends on them.
"""

import contextlib
import json
import math
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

from zarr.abc.store import Store

from .._text import printable
from . import schema
from .files import Files
from .location import Location, is_on_disk

# Phases of a run, in the words that are shown
LIKELIHOOD = "fitting the likelihood"
SCORE = "learning the score (the fit)"
NETWORKS = "making the networks"
TRAINING = "training"
WRITING = "writing the results"
ENDED, FAILED = "ended", "failed"
_PHASES = (LIKELIHOOD, SCORE, NETWORKS, TRAINING, WRITING, ENDED, FAILED)

_FOLDER = f"{schema.CONTROL}/{schema.ASKED}"
_PER_SECOND = 20  # files written by all nodes together
_SHORTEST_S, _SHORTEST_REMOTE_S = 0.5, 5.0  # between two files of a node; behind URLs, each may cost money
_MOST_OF_CPU = 0.0015  # spent on files
_PAUSES = 4  # of a slow file system between two files, in times that it needed for the last one
# How late the next file of a node may be before it is worth a word, and how late no cache of a file system makes it
_LATE_S, _SILENT_S = 3.0, 60.0
_MOST_READ, _MOST_NOTES = 32, 10


@dataclass(frozen=True)
class Pulse:
    """What a run does now, as its nodes last reported it.

    Parameters
    ----------
    phase : str
        What the node does that is furthest behind: one of the phases of this module.
    step : int
        Steps that this node has made.
    rate : float
        Steps per second since its training began; NaN before the second step.
    elapsed_s : float
        Time since the start of the run, or since it was resumed, until its end or its last sign of life, in seconds.
    in_phase_s : float
        The part of it that the phase has taken, in seconds.
    age_s : float
        Time since the last sign of life of the node that is most overdue, in seconds.
    pause_s : float
        Time between two signs of life of that node, in seconds.
    step_age_s : float
        Time since the last step, in seconds.
    error : str
        Why the run has failed, if it has.
    notes : tuple of str
        Warnings that concern the user.
    """

    phase: str
    step: int = 0
    rate: float = math.nan
    elapsed_s: float = 0.0
    in_phase_s: float = 0.0
    age_s: float = 0.0
    pause_s: float = 0.0
    step_age_s: float = 0.0
    error: str = ""
    notes: tuple[str, ...] = ()

    @property
    def has_ended(self) -> bool:
        """Whether the processes have ended, by themselves or by an error."""
        return self.phase in (ENDED, FAILED)

    @property
    def is_late(self) -> bool:
        """Whether the last sign of life is older than it should be, so that nothing may be extrapolated from it."""
        return not self.has_ended and self.age_s > self.pause_s + _LATE_S

    @property
    def is_silent(self) -> bool:
        """Whether it is so old that the run was probably killed."""
        return not self.has_ended and self.age_s > self.pause_s + _SILENT_S


class Heartbeat:
    """Writes the signs of life of one node, from the `with` statement to its end.

    Parameters
    ----------
    path : path, URL or zarr Store
        The run; in a zarr Store, nothing is written.
    node, n_nodes : int
        Number of this node, from 0, and of all nodes.
    is_on : bool
        Whether this process reports for its node; otherwise nothing is written.
    """

    def __init__(self, path: Location, node: int = 0, n_nodes: int = 1, is_on: bool = True) -> None:
        self._files = Files(path, _FOLDER) if is_on and not isinstance(path, Store) else None
        self._name, self._id = _name(node), uuid.uuid4().hex
        shortest_s = _SHORTEST_S if is_on_disk(path) else _SHORTEST_REMOTE_S
        self._every_s = max(shortest_s, n_nodes / _PER_SECOND)
        self._step: Callable[[], int] | None = None
        self._state: dict[str, Any] = {"id": self._id, "n_nodes": n_nodes, "step": 0, "first_step": 0, "error": ""}
        self._state["notes"] = []
        self._state |= {"started": time.time(), "pause_s": self._every_s}
        self._lock, self._is_over = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._beat, name="sagips_kit heartbeat", daemon=True)
        self.enter(NETWORKS)

    def __enter__(self) -> Self:
        if self._files is not None:
            self._thread.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self._is_over.set()
        if self._files is not None:
            self._thread.join()
        self.enter(ENDED if error is None else FAILED)
        self._state["error"] = "" if error is None else f"{type(error).__name__}: {error}"[:300]
        self._write()

    def enter(self, phase: str, step: Callable[[], int] | None = None) -> None:
        """Begin a phase of the run.

        Parameters
        ----------
        phase : str
            What begins now.
        step : callable or None
            Returns the steps made, called without arguments from another thread; None if they do not change.
        """
        with self._lock:
            self._look()
            now, self._step = time.time(), step
            self._state |= {"phase": phase, "phase_at": now, "step_at": now}
            if step is not None:
                self._state["step"] = self._state["first_step"] = step()

    def note(self, text: str) -> None:
        """Add a warning to what is reported."""
        with self._lock:
            self._state["notes"] = [*self._state["notes"], text][:_MOST_NOTES]

    def _look(self) -> None:
        if self._step is not None and (step := self._step()) != self._state["step"]:
            self._state |= {"step": step, "step_at": time.time()}

    def _beat(self) -> None:
        pause_s = 0.0
        while not self._is_over.wait(pause_s):
            began, used_s = time.monotonic(), time.thread_time()
            if not self._write():
                return
            took_s, used_s = time.monotonic() - began, time.thread_time() - used_s
            pause_s = max(self._every_s, _PAUSES * took_s, used_s / _MOST_OF_CPU)
            self._state["pause_s"] = pause_s  # readers of the next file know when to expect another one

    def _write(self) -> bool:
        """Replace the file of this node; False if it belongs to a process that has taken over the run."""
        with self._lock:
            self._look()
            state = self._state | {"at": time.time()}
        if self._files is None:
            return False
        # What refuses now may accept the next one.  No error, which behind URLs may be of any type, must end the run.
        with contextlib.suppress(Exception):
            found = _read(self._files, self._name)
            if found is not None and found["id"] != self._id and found["started"] > state["started"]:
                return False
            self._files.write(self._name, json.dumps(state).encode(), is_durable=False)
        return True


def forget(path: Location) -> None:
    """Remove the signs of life of an earlier attempt, before a run is resumed."""
    if isinstance(path, Store):
        return
    files = Files(path, _FOLDER)
    for name in files.names():
        if name.startswith("alive-"):
            with contextlib.suppress(OSError):
                files.remove(name)


def read_pulse(path: Location) -> Pulse | None:
    """What the run at `path` does now; None if it has given no sign of life."""
    if isinstance(path, Store):
        return None
    files = Files(path, _FOLDER)
    first = _read(files, _name(0))
    if first is None:
        return None
    n_nodes = int(first["n_nodes"])
    others = range(1, n_nodes, math.ceil(n_nodes / _MOST_READ))
    found = [first, *filter(None, (_read(files, _name(node)) for node in others))]
    failed = [state for state in found if state["phase"] == FAILED]
    last = failed[0] if failed else min(found, key=_advance)
    # Clocks of several machines may differ a little.
    now = time.time()
    ages = [(max(0.0, now - state["at"]), state["pause_s"]) for state in found if state["phase"] not in (ENDED, FAILED)]
    age_s, pause_s = max(ages, key=lambda each: each[0] - each[1], default=(0.0, 0.0))
    until = last["at"]
    if last["phase"] not in (ENDED, FAILED):
        until = min(now, until + last["pause_s"] + _LATE_S)
    n_steps, took_s = last["step"] - last["first_step"], last["step_at"] - last["phase_at"]
    return Pulse(
        phase=last["phase"],
        step=last["step"],
        rate=n_steps / took_s if n_steps > 1 and took_s > 0 else math.nan,
        elapsed_s=max(0.0, until - last["started"]),
        in_phase_s=max(0.0, until - last["phase_at"]),
        age_s=age_s,
        pause_s=pause_s,
        step_age_s=max(0.0, until - last["step_at"]),
        error=last["error"],
        notes=first["notes"],
    )


def _advance(state: dict[str, Any]) -> tuple[bool, int, float]:
    """How far a node is, for sorting: by its steps, those that have ended last."""
    return state["phase"] == ENDED, state["step"], -state["phase_at"]


def _name(node: int) -> str:
    return f"alive-{node}.json"


_TYPES = {"id": str, "phase": str, "error": str, "n_nodes": int, "step": int, "first_step": int}
_TIMES = ("at", "started", "phase_at", "step_at", "pause_s")


def _read(files: Files, name: str) -> dict[str, Any] | None:
    """What a node has reported; None if it has not, or in another form."""
    try:
        found = json.loads(files.read(name))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or not all(isinstance(found.get(key), kind) for key, kind in _TYPES.items()):
        return None
    is_time = all(isinstance(found.get(key), int | float) and math.isfinite(found[key]) for key in _TIMES)
    if not is_time or found["n_nodes"] < 1 or found["phase"] not in _PHASES:
        return None
    notes = found.get("notes")
    notes = [note for note in notes if isinstance(note, str)] if isinstance(notes, list) else []
    return found | {"error": printable(found["error"]), "notes": tuple(map(printable, notes))}
