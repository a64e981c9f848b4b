"""Requests from outside to end soon: the signals of a scheduler, and the end of the time that it gave."""

import math
import os
import signal
import threading
import time

_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
# Seconds since 1970; job scripts of the kit set the first, Slurm the second.
_ENDS = ("SAGIPS_ENDS_AT", "SLURM_JOB_END_TIME")
# Before that end: so long, or this part of the time that a run has when it starts; but what ending takes at least.
_MARGIN_S, _MARGIN = 120.0, 0.1


class Signals:
    """While this context lasts, a signal only asks to end, however often: a scheduler and mpiexec may both send it.

    Raises
    ------
    ValueError
        If the environment gives the end of the time in a way that is not understood.
    """

    def __init__(self):
        self._has_come, self._before = False, {}
        ends_at = next((_seconds(name) for name in _ENDS if os.environ.get(name)), math.inf)
        # The clock on the wall may be set while the run goes on: it is looked at once.
        left_s = ends_at - time.time()
        # Who still runs after the end has got more time.
        self._ends_at = time.monotonic() + left_s if left_s > 0 else math.inf
        self._margin_s = min(_MARGIN_S, _MARGIN * left_s)

    def __enter__(self):
        # Handlers belong to the main thread; a run in another one is asked to end through its store alone.
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(self, *exception):
        for number, handler in self._before.items():
            # None stands for a handler that was not Python's, and that Python cannot bring back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _note(self, number, frame):
        self._has_come = True

    def ask_to_end(self, takes_s=0.0):
        """Whether a signal has come, or little is left of the time for an end that takes `takes_s` seconds."""
        return self._has_come or time.monotonic() > self._ends_at - max(self._margin_s, takes_s)


def _seconds(name):
    try:
        return float(os.environ[name])
    except ValueError:
        raise ValueError(
            f"{name} = {os.environ[name]!r}: should be the seconds since 1970 at which the job ends, as "
            f"`export {name}=$(($(date +%s) + 3600))` sets it an hour from now."
        ) from None
