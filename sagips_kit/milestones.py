"""Steps at which all ranks of a run act together, a checkpoint or a stop: agreed through the store, without a message.

Rank 0 writes down a step ahead of the fastest rank, and every rank looks at it after each block of rows.  What is done
at such a step does not belong here.
"""

import math
import time

from . import schema
from .place import array_of, open_group

_MARGIN_S = 1.0  # ahead of the fastest rank: time for all to see what rank 0 has written
_N_BLOCKS = 2  # ahead at least: a rank may have finished one that the store does not show yet


class Control:
    """The numbers in a store by which ranks agree; each is read and written at once."""

    def __init__(self, path):
        root = open_group(path, "r+")
        names = (schema.STOP_STEP, schema.CHECKPOINT_STEP, schema.ASKED)
        self._arrays = {name: array_of(path, root, schema.CONTROL, name) for name in names}
        self._progress = array_of(path, root, schema.HISTORY, schema.PROGRESS)

    def __getitem__(self, name):
        return int(self._arrays[name][()])

    def __setitem__(self, name, number):
        self._arrays[name][()] = number

    def steps(self):
        """Steps that each rank has completed, ndarray (rank,)."""
        return self._progress[:]

    def reset(self):
        """Forget all requests, before a run goes on."""
        self[schema.STOP_STEP], self[schema.CHECKPOINT_STEP], self[schema.ASKED] = schema.NO_STOP, 0, 0


class Milestones:
    """What one rank has to do after each block of rows.

    Parameters
    ----------
    path : path
        The store of the run.
    rank, block_steps, n_steps : int
        Steps between two blocks of rows, and of the whole run.
    every_s : float
        Seconds between two checkpoints; 0 for none.
    signals : Signals
    """

    def __init__(self, path, rank, block_steps, n_steps, every_s, signals):
        self._control, self._rank, self._block_steps, self._n_steps = Control(path), rank, block_steps, n_steps
        self._every_s, self._signals = every_s, signals
        self._has_asked, self._block_s = False, math.inf
        self._saved = self._last = time.monotonic()

    def reached(self, step):
        """What is due at `step`, the end of a block: (bool, bool), whether to stop and to write a checkpoint."""
        now = time.monotonic()
        self._block_s, self._last = now - self._last, now
        if self._signals.ask_to_end and not self._has_asked:
            self._control[schema.ASKED], self._has_asked = 1, True
        if self._rank == 0:
            self._plan(step)
        stops = step >= self._control[schema.STOP_STEP]
        saves = stops or step == self._control[schema.CHECKPOINT_STEP]
        return stops, saves

    def _plan(self, step):
        """Ask all ranks for what is due, at a step that none has come to."""
        control = self._control
        if control[schema.STOP_STEP] != schema.NO_STOP:
            return
        if control[schema.ASKED]:
            self._set(schema.STOP_STEP, step, _MARGIN_S)
        elif self._every_s and self._last - self._saved > self._every_s and self._is_complete():
            # A rank that comes too late to see this has one checkpoint less; one that misses a stop would wait in vain.
            self._set(schema.CHECKPOINT_STEP, step, min(_MARGIN_S, self._every_s))
            self._saved = self._last

    def _is_complete(self):
        """Whether all have come past the last checkpoint: else a rank far behind would have none that others have."""
        return self._control.steps().min() >= self._control[schema.CHECKPOINT_STEP]

    def _set(self, name, step, margin_s):
        n_blocks = max(_N_BLOCKS, math.ceil(margin_s / self._block_s))
        ahead = max(step, int(self._control.steps().max())) + n_blocks * self._block_steps
        if ahead < self._n_steps:
            self._control[name] = ahead
