"""Steps at which all ranks of a run act together, a checkpoint or a stop: agreed through the store, without a message.

Rank 0, or the lowest one that is not through, writes down a step ahead of the fastest rank, and every rank looks at it
after each block of rows.  Who wants a run to end asks that rank.  What is done at such a step does not belong here.
"""

import math
import time
import uuid
import warnings

from ..store import schema
from ..store.group import array_of, open_group
from ..store.location import explained

_MARGIN_S = 1.0  # ahead of the fastest rank: time for all to see what has been written
_N_BLOCKS = 2  # ahead at least: a rank may have finished one that the store does not show yet
_N_LAST_BLOCKS = _N_BLOCKS + 2  # from asking for the end to the end: the one under way, those ahead, and one for delays
_PAUSES_S = (0.1, 1.0, 3.0)  # a file system of many users may refuse once


class Control:
    """The numbers in a store by which ranks agree; each is read and written at once."""

    def __init__(self, path):
        root = open_group(path, "r+")
        names = (schema.STOP_STEP, schema.CHECKPOINT_STEP, schema.ASKED)
        self._arrays = {name: array_of(path, root, schema.CONTROL, name) for name in names}
        self._progress = array_of(path, root, schema.HISTORY, schema.PROGRESS)
        self._path = path

    def __getitem__(self, name):
        return int(self._persistently(lambda: self._arrays[name][()]))

    def __setitem__(self, name, number):
        def write():
            self._arrays[name][()] = number

        self._persistently(write)

    def steps(self, ranks=slice(None)):
        """Steps that each rank has completed, ndarray (rank,); or those of some ranks."""
        return self._persistently(lambda: self._progress[ranks])

    def reset(self):
        """Forget all requests, before a run goes on."""
        self[schema.STOP_STEP], self[schema.CHECKPOINT_STEP], self[schema.ASKED] = schema.NO_STOP, 0, 0

    def take(self):
        """Make the run the caller's, who alone goes on with it from now on: str, by which it knows so."""
        owner = uuid.uuid4().hex
        open_group(self._path, "r+")[schema.CONTROL].attrs[schema.OWNER_KEY] = owner
        return owner

    def check_owner(self, owner):
        """Raise RuntimeError if the run is another one's by now."""
        # What another node has just written may take a moment to be seen here.
        for pause_s in (*_PAUSES_S, 0):
            if self._owner() == owner:
                return
            time.sleep(pause_s)
        raise RuntimeError(
            f"Another process has resumed or overwritten `{self._path}`, and only one can write it: this one ends. "
            "Let a job begin when the one before it has ended, or give the runs stores of their own."
        )

    def _owner(self):
        try:
            return self._persistently(lambda: open_group(self._path, "r")[schema.CONTROL].attrs.get(schema.OWNER_KEY))
        except (FileNotFoundError, ValueError):  # gone, or no run any more
            return None

    def _persistently(self, act):
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
    """What one rank has to do after each block of rows.

    Parameters
    ----------
    control : Control
    owner : str
        By which the ranks know that the run is theirs.
    rank, block_steps, n_steps : int
        Steps between two blocks of rows, and of the whole run.
    every_s : float
        Seconds between two checkpoints; 0 for none.
    signals : Signals
    """

    def __init__(self, control, owner, rank, block_steps, n_steps, every_s, signals):
        self._control, self._owner, self._rank = control, owner, rank
        self._block_steps, self._n_steps = block_steps, n_steps
        self._every_s, self._signals = every_s, signals
        self._planner = 0  # the lowest rank that may have steps to do
        self._has_asked, self._block_s = False, math.inf
        self._saved = self._last = time.monotonic()

    def check_owner(self):
        """Raise RuntimeError if the run is another process's by now; before each block is written."""
        self._control.check_owner(self._owner)

    def reached(self, step):
        """What is due at `step`, the end of a block: (bool, bool), whether to stop and to write a checkpoint."""
        now = time.monotonic()
        self._block_s, self._last = now - self._last, now
        control = self._control
        if not self._has_asked and self._signals.ask_to_end(_N_LAST_BLOCKS * self._block_s):
            self._has_asked = True
            if not control[schema.ASKED]:
                control[schema.ASKED] = schema.BY_SIGNAL
        if self._is_planner():
            self._plan(step)
        stops = step >= control[schema.STOP_STEP]
        saves = stops or step == control[schema.CHECKPOINT_STEP]
        return stops, saves

    def _is_planner(self):
        """Whether all lower ranks are through; none plans any more that is."""
        while self._planner < self._rank and self._control.steps(self._planner) >= self._n_steps:
            self._planner += 1
        return self._planner == self._rank

    def _plan(self, step):
        """Ask all ranks for what is due, at a step that none has come to."""
        control = self._control
        if control[schema.STOP_STEP] != schema.NO_STOP:
            return
        if control[schema.ASKED]:
            self._set(schema.STOP_STEP, step, _MARGIN_S)
        elif self._every_s and self._last - self._saved > self._every_s and self._is_complete():
            # A rank that comes too late to see this has one checkpoint less; one that misses a stop would wait in vain.
            try:
                self._set(schema.CHECKPOINT_STEP, step, min(_MARGIN_S, self._every_s))
            except OSError as error:
                warnings.warn(f"No checkpoint is asked for, the run goes on: {error}", stacklevel=3)
            self._saved = self._last

    def _under_way(self):
        """Steps of the ranks that are not through, ndarray (rank,); this one is among them."""
        steps = self._control.steps()
        return steps[steps < self._n_steps]

    def _is_complete(self):
        """Whether all have come past the last checkpoint: else a rank far behind would have none that others have."""
        return self._under_way().min() >= self._control[schema.CHECKPOINT_STEP]

    def _set(self, name, step, margin_s):
        n_blocks = max(_N_BLOCKS, math.ceil(margin_s / self._block_s))
        ahead = max(step, int(self._under_way().max())) + n_blocks * self._block_steps
        if ahead < self._n_steps:
            self._control[name] = ahead
