"""A run on the engines, as the notebook sees it: how far it is, its end, its failure.

How far a run is comes from its store, whether it failed from the engines' results, which are polled: an engine inside
a collective operation would hold the notebook for ever when another rank has failed.
"""

import re
import time

from .._text import listed, tail
from ..report.progress_line import ProgressLine
from ..running.coordination import Control
from ..store import schema

CARRIER = "run_in"  # the function that carries a call to an engine, in `session`
POLL_S = 0.1  # between two looks at the engines
_GRACE_S = 2.0  # for other ranks to fail too, before a failure is reported
_GO_ON = "Type session.close(), connect(...), and submit(spec, resume=True) to go on."
_SECONDARY = ("PeerError",)  # raised on a rank because another one failed: never the cause


class RankError(RuntimeError):
    """A rank of a run failed.

    Attributes
    ----------
    rank : int or None
        None if no rank is known to have failed, as when a job was cancelled.
    host : str or None
    failures : dict of int to str
        The remote traceback of every rank that failed.
    """

    def __init__(self, text, rank, host, failures):
        super().__init__(text)
        self.rank, self.host, self.failures = rank, host, failures


class RunHandle:
    """A run on the engines; losing the handle changes nothing for the run.

    Attributes
    ----------
    path : Path
        The store of the run.
    """

    def __init__(self, path, results, facts, engines):
        self.path = path
        self._results, self._facts, self._engines = results, facts, engines

    def status(self):
        """Read from the store how far the run is.

        Returns
        -------
        RunStatus
            The steps that each rank has completed (`steps`), the length of the run (`n_steps`) and its state in one
            word (`state`), among others.
        """
        from ..store.status import read_status

        return read_status(self.path)

    def open(self):
        """The run as a DataTree, at any time; open it again to see more."""
        from ..report import accessor

        return accessor.open_run(self.path)

    def dashboard(self, interval=2.0):
        """A live view of the run in the notebook, with a button that stops it.

        Parameters
        ----------
        interval : float
            Seconds between two looks at the store.

        Returns
        -------
        Dashboard
        """
        from ..report.dashboard import Dashboard

        return Dashboard(self.path, interval, self.stop, lambda: bool(self._failed()))

    def watch(self, until=None, interval=1.0):
        """Show how the run goes until it ends; interrupting the cell leaves the run alone.

        One line tells the steps, time used and left, the steps of the slowest and the fastest rank, how far the answer
        has moved during the last tenth of the run, the part of the time that ranks wait, and the age of messages.

        Parameters
        ----------
        until : int or None
            Return as soon as all ranks have written so many steps, `record_every * rows_per_block` at a time.
        interval : float
            Seconds between two looks at the store.

        Raises
        ------
        RankError
            If a rank has failed.
        """
        line = ProgressLine()
        try:
            while not self._is_over():
                line.show(self._bar())
                if until is not None and self.status().step >= until:
                    return
                time.sleep(interval)
        except KeyboardInterrupt:
            line.end(f"{self._bar()}\nThe run goes on. Look again with .watch(), end it with .stop().")
            return
        self._await_failed()
        line.end(self._bar())
        self.wait()

    def wait(self, timeout=None):
        """Wait until all ranks have ended.

        Parameters
        ----------
        timeout : float or None
            Seconds to wait at most.

        Raises
        ------
        RankError
            As soon as a rank has failed, even if others go on; or if a signal or its job's time ended the run early.
        TimeoutError
            If the run goes on.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._is_over():
            if deadline is not None and time.monotonic() > deadline:
                status, how = self.status(), "Call .wait() again, or .stop() to end it."
                if status.state == "stopping":
                    how = f"It will stop at step {status.stop_step}, {status.step} are made: call .wait() again."
                raise TimeoutError(f"{self.path} goes on after {timeout} s. {how}")
            time.sleep(POLL_S)
        self._await_failed()
        if self._failed():
            raise self._error()
        if not self._is_ready():
            raise self._lost()
        if self._was_ended():
            raise self._ended()

    def stop(self):
        """Ask the ranks to end cleanly at a step that none of them has reached; returns at once."""
        from ..store import status

        status.stop_soon(self.path)

    def result(self):
        """What each rank returned, in the order of the ranks; waits for the end as `wait` does."""
        self.wait()
        return [result.get() for result in self._results]

    def _is_ready(self):
        return all(result.ready() for result in self._results)

    def _is_over(self):
        # Engines that end with their job answer nothing any more, and their controller waits for them for an hour.
        return self._is_ready() or bool(self._failed()) or self._engines.state().phase == "ended"

    def _failed(self):
        return [rank for rank, result in enumerate(self._results) if result.ready() and not result.successful()]

    def _await_failed(self):
        """Give other ranks time to fail too: the first error to arrive need not be the cause."""
        deadline = time.monotonic() + _GRACE_S
        while self._is_over() and not self._is_ready() and time.monotonic() < deadline:
            time.sleep(POLL_S)

    def _was_ended(self):
        return not self.status().is_finished and Control(self.path)[schema.ASKED] == schema.BY_SIGNAL

    def _ended(self):
        status = self.status()
        text = (
            f"The run was asked to end by a signal, or because its job is nearly out of time. It ended at step "
            f"{status.step} of {status.n_steps}; what is in {self.path} is safe. {_GO_ON}"
        )
        return RankError(text, None, None, {})

    def _lost(self):
        status = self.status()
        text = (
            f"The engines are gone, and the run with them: {self._engines.state().words}. What is in {self.path} up to "
            f"step {status.step} of {status.n_steps} is safe. {_GO_ON}\n"
            f"{tail(self._engines.output())}"
        )
        return RankError(text, None, None, {})

    def _error(self):
        errors = {rank: self._results[rank].exception() for rank in self._failed()}
        first = min(errors, key=lambda rank: (errors[rank].ename in _SECONDARY, self._ended_at(rank), rank))
        failures = {rank: _user_frames(error.traceback or str(error)) for rank, error in errors.items()}
        host = self._facts[first]["host"] if self._facts else None
        on_host = f" on {host}" if host else ""
        if all(error.ename == "EngineError" for error in errors.values()):
            text = (
                f"The engines of ranks {listed(errors)} have died{on_host}; when one process dies, MPI ends them all. "
                f"What is in {self.path} is safe. {_GO_ON}\n"
                f"{tail(self._engines.output())}"
            )
            return RankError(text, first, host, failures)
        lines = [f"Rank {first}{on_host} failed: {errors[first].ename}: {errors[first].evalue}\n\n{failures[first]}\n"]
        others = {}
        for rank in errors.keys() - {first}:
            others.setdefault(f"{errors[rank].ename}: {errors[rank].evalue}", []).append(rank)
        busy = [rank for rank, result in enumerate(self._results) if not result.ready()]
        lines += [f"Failed too: {listed(ranks)}: {error}" for error, ranks in others.items()]
        lines += [f"Not ended yet: {listed(busy)}; session.close() ends them by force."] if busy else []
        return RankError("\n".join(lines), first, host, failures)

    def _ended_at(self, rank):
        ended = self._results[rank].metadata["completed"]
        return ended.timestamp() if ended else float("inf")

    def _bar(self):
        from ..report import progress_line

        return progress_line.snapshot(self.path).line()

    def __repr__(self):
        try:
            status, end = self.status(), ", failed" if self._failed() else ""
        except (ValueError, OSError):
            status, end = "its store cannot be read", ""
        return f"RunHandle({str(self.path)!r}, ranks={len(self._results)}, {status}{end})"


def _user_frames(traceback):
    """A remote traceback without colours and without the frames that carried the call to the engine."""
    blocks = re.sub(r"\x1b\[[0-9;]*m", "", traceback).split("\n\n")
    carriers = [i for i, block in enumerate(blocks) if f" in {CARRIER}(" in block]
    return "\n\n".join(blocks[carriers[-1] + 1 :] if carriers else blocks)
