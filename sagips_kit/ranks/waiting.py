"""How a rank waits for others: it polls, with a deadline, and looks for ranks that have failed."""

import logging
import math
import os
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from mpi4py import MPI

_LOG = logging.getLogger("sagips_kit")
_SPINS = 5  # polls without a pause: a message between neighbours takes some microseconds
_YIELD_S = 0.01  # for this long, ranks that share cores yield them between polls; even the shortest sleep takes longer
NAP_S = 5e-5

Until: TypeAlias = "Sequence[MPI.Request] | Callable[[], bool]"
Whom: TypeAlias = str | Callable[[], str]


class PeerError(RuntimeError):
    """Another rank failed, or did not answer in time.

    Parameters
    ----------
    message : str
        What happened.
    rank : int or None
        The rank that failed first, if known.

    Attributes
    ----------
    rank : int or None
        The rank that failed first, if known.
    """

    def __init__(self, message: str, rank: int | None = None) -> None:
        super().__init__(message)
        self.rank = rank

    def __reduce__(self) -> tuple:
        return PeerError, (self.args[0], self.rank)


def is_done(until: Until) -> bool:
    """Whether all requests have completed, or the function that takes their place returns True."""
    if callable(until):
        return until()
    from mpi4py import MPI

    return MPI.Request.Testall(until)


def poll(
    until: Until, waiting: Callable[[float], str], look: Callable[[], None], timeout_s: float, report_s: float
) -> float:
    """Poll until the wait is over; returns the time that took, in seconds.

    Parameters
    ----------
    until : list of mpi4py.MPI.Request, or callable
        Requests that all have to complete, or a function without arguments that returns whether the wait is over.
    waiting : callable
        Returns the beginning of a message: who has waited for whom, for the given time in seconds.
    look : callable
        Called between polls; raises the error of a rank that has failed.
    timeout_s : float
        Longest wait, in seconds.
    report_s : float
        Time after which the wait is logged as a warning, in seconds.

    Raises
    ------
    PeerError
        If the wait took too long.
    """
    start, n_polls = time.perf_counter(), 0
    while not is_done(until):
        n_polls += 1
        waited_s = time.perf_counter() - start
        look()
        if waited_s > timeout_s:
            raise PeerError(
                f"{waiting(timeout_s)} in vain: some rank stalled or left the run. "
                "See which rank is behind in read_status(...).steps."
            )
        if report_s < waited_s < timeout_s < math.inf:
            _LOG.warning("%s so far. The run ends with an error after %.0f s.", waiting(waited_s), timeout_s)
            report_s = math.inf
        if waited_s > _YIELD_S:
            time.sleep(NAP_S)
        elif n_polls > _SPINS:
            os.sched_yield()
    return time.perf_counter() - start
