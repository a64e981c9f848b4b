"""Requests from outside to stop soon: signals of a scheduler, and the end of the time that the scheduler granted."""

import math
import os
import signal
import threading
import time
from types import FrameType

# What schedulers send before they end a job (Slurm and PBS the first; Grid Engine, LSF and `#SBATCH --signal` the next
# two), and a terminal that is closed.
_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)
# Seconds since 1970: the job scripts of this package set the first variable, Slurm sets the second.
_ENDS = ("SAGIPS_ENDS_AT", "SLURM_JOB_END_TIME")
# A run begins to stop this long before the end of its time, or at this fraction of the time that it has at its start,
# whichever is shorter; earlier if stopping takes longer.
_MARGIN_S, _MARGIN = 120.0, 0.1


class Signals:
    """While this context lasts, SIGTERM, SIGUSR1, SIGUSR2 and SIGHUP only ask the run to stop.

    However often they arrive: a scheduler and mpiexec may both send the same signal.  A signal that is ignored, as
    `nohup` does with SIGHUP, remains ignored.

    Raises
    ------
    ValueError
        If an environment variable that should hold the end of the job's time is not a number.
    """

    def __init__(self) -> None:
        self._has_come, self._before = False, {}
        ends_at = next((_seconds(name) for name in _ENDS if os.environ.get(name)), math.inf)
        # The system clock is read only once, because it may be adjusted during the run.
        left_s = ends_at - time.time()
        # A run that starts after the end of its time has been granted more.
        self._ends_at = time.monotonic() + left_s if left_s > 0 else math.inf
        self._margin_s = min(_MARGIN_S, _MARGIN * left_s)

    def __enter__(self) -> "Signals":
        # Only the main thread can set handlers; a run in another thread is asked to stop through its store alone.
        if threading.current_thread() is threading.main_thread():
            numbers = [number for number in _SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
            self._before = {number: signal.signal(number, self._note) for number in numbers}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            # None is a handler that was not installed from Python, and that Python cannot restore.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._has_come = True

    def ask_to_end(self, takes_s: float = 0.0) -> bool:
        """Whether a signal has come, or too little time is left if stopping takes `takes_s` seconds."""
        return self._has_come or time.monotonic() > self._ends_at - max(self._margin_s, takes_s)


def _seconds(name: str) -> float:
    try:
        return float(os.environ[name])
    except ValueError:
        raise ValueError(
            f"{name} = {os.environ[name]!r}: should be the time at which the job ends, in seconds since 1970. For "
            f"example, `export {name}=$(($(date +%s) + 3600))` sets it to one hour from now."
        ) from None
