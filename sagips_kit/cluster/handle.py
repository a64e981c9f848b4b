"""A run on the engines, as the notebook sees it: how far it is, its end, its failure.

The progress of a run is read from its store, failures from the results of the engines.  The results are polled, because
waiting for an engine inside a collective operation would block the notebook forever after another rank has failed.
"""

import functools
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._text import counted, listed, tail
from ..ranks.segments import bus_error_explained
from ..report.line import ProgressLine, clock
from ..report.progress_line import Follower, ShownInNotebooks
from ..running.coordination import Control
from ..store import schema
from ..store.heartbeat import TRAINING
from .attached import RankResult
from .engines import Engines
from .tracebacks import own_frames, without_carriers

if TYPE_CHECKING:
    import xarray as xr

    from ..report.dashboard import Dashboard
    from ..store.status import RunStatus

POLL_S = 0.1  # between two looks at the engines
_NO_SESSION = "This handle belongs to no session. Type session.resume(path)."
_AGREE_S = 10.0  # for the ranks to agree on the step at which they stop
_LOOK_S = 0.25  # between two looks whether they have
_SHOW_S = 1.0  # between two updates of the progress
_GRACE_S = 2.0  # for other ranks to fail too, before a failure is reported
_RESUME = "Type session.close(), session = connect(...), and session.resume(path) to continue it."
_SECONDARY = ("PeerError",)  # raised on a rank because another one failed: never the cause


class RankError(RuntimeError):
    """A rank of a run failed, or the run ended before its last step.

    Parameters
    ----------
    text : str
        The message.
    rank : int or None
        The rank that failed first.
    host : str or None
        The host of that rank.
    failures : dict of int to str
        The remote traceback of each rank that failed.

    Attributes
    ----------
    rank : int or None
        The rank that failed first; None if no rank is known to have failed, as when a job was cancelled.
    host : str or None
        The host of that rank, if it is known.
    failures : dict of int to str
        The remote traceback of each rank that failed.

    See Also
    --------
    sagips_kit.cluster.handle.RunHandle.wait : Raises this error.

    Examples
    --------
    >>> from sagips_kit import Proxy, RunSpec, Settings, connect
    >>> from sagips_kit.cluster.handle import RankError
    >>> settings = Settings(n_members=1, n_events=64)
    >>> spec = RunSpec(problem=Proxy(), store="runs/a.zarr", settings=settings, n_steps=20, reference=False, fit=False)
    >>> session = connect("local", n=2)
    >>> handle = session.submit(spec)
    >>> try:
    ...     handle.wait()
    ... except RankError as error:
    ...     print(f"rank {error.rank} on {error.host}:\\n{error.failures[error.rank]}")
    >>> session.close()
    """

    def __init__(self, text: str, rank: int | None, host: str | None, failures: Mapping[int, str]):
        super().__init__(text)
        self.rank, self.host, self.failures = rank, host, failures


class RunHandle(ShownInNotebooks):
    """A run on the engines, returned by `Session.submit` and `Session.attach`.

    The run does not depend on its handle: when the handle is lost, `Session.attach` returns another one.

    Parameters
    ----------
    path : Path
        The store of the run.
    results : list of ipyparallel.AsyncResult
        The call of each rank.
    facts : list of dict
        What each engine reported about itself.
    engines : Engines
        The engines of the session.
    again : callable or None
        Submits the run once more to be resumed, called with its new length or None, and returns its new handle.
    follower : Follower or None
        Reads the progress of a run that rank 0 is about to create; None if the run is there.

    Attributes
    ----------
    path : Path
        The store of the run.

    See Also
    --------
    sagips_kit.cluster.session.Session : Submits runs.
    sagips_kit.open_run : Open a run by its path.

    Examples
    --------
    >>> from sagips_kit import Proxy, RunSpec, Settings, connect
    >>> settings = Settings(n_members=1, n_events=64)
    >>> spec = RunSpec(problem=Proxy(), store="runs/b.zarr", settings=settings, n_steps=20, reference=False, fit=False)
    >>> session = connect("local", n=2)
    >>> handle = session.submit(spec)
    >>> handle.wait(timeout_s=60)
    >>> handle.status()
    RunStatus(step 20 of 20, finished)
    >>> handle
    RunHandle('...runs/b.zarr', 2 ranks, step 20 of 20, finished)
    >>> run = handle.open()
    >>> session.close()
    """

    path: Path | str

    def __init__(
        self,
        path: Path | str,
        results: Sequence[RankResult],
        facts: Sequence[Mapping[str, Any]],
        engines: Engines,
        again: "Callable[[int | None], RunHandle] | None" = None,
        follower: Follower | None = None,
    ):
        self.path = path
        self._results, self._facts, self._engines, self._again = results, facts, engines, again
        self._follower, self._n_notes = follower or Follower(path), 0

    def status(self) -> "RunStatus":
        """How far the run is, from its store.

        Returns
        -------
        RunStatus
            Among others `.step`, which all ranks have completed, `.steps` (rank,), `.n_steps`, and `.state`:
            "unfinished", "stopping", "stopped" or "finished".

        Raises
        ------
        FileNotFoundError
            If rank 0 has not created the run yet.
        """
        from ..store import status

        self._require_created()
        return status.read_status(self.path)

    def _require_created(self) -> None:
        """Raise FileNotFoundError until rank 0 has created the run, even if one that it replaces is there."""
        if not self._follower.is_created:
            raise FileNotFoundError(
                f"There is no run at `{self.path}` yet: rank 0 is {self._follower.line()}. Try again when it is there; "
                "session.close() ends the engines by force."
            )

    def open(self) -> "xr.DataTree":
        """Open the run, at any time.

        Returns
        -------
        DataTree
            What has been written so far; open the run again to see more.

        Raises
        ------
        FileNotFoundError
            If rank 0 has not created the run yet.
        """
        self._require_created()
        from ..report import accessor

        return accessor.open_run(self.path)

    def dashboard(self, interval_s: float = 1.0) -> "Dashboard":
        """A live view of the run in the notebook, with a button that stops the run, and resumes it.

        Parameters
        ----------
        interval_s : float
            Time between two looks at the store, in seconds.

        Returns
        -------
        Dashboard
            A widget, which the notebook displays.

        Raises
        ------
        FileNotFoundError
            If rank 0 has not created the run yet.
        """
        self._require_created()
        from ..report.dashboard import Dashboard
        from ..store import status

        stop = functools.partial(status.stop_soon, self.path)
        return Dashboard(self.path, interval_s, stop, lambda: bool(self._failed()), self._again and self.resume)

    def watch(self, until: int | None = None, interval_s: float = 1.0) -> None:
        """Show the progress of the run until it ends; interrupting the cell does not affect the run.

        One line, which moves every second, shows what the run does, the steps, the time used and left, the steps of the
        slowest and the fastest rank where they differ, how far the answer has moved during the last tenth of the run,
        the fraction of the time that ranks wait, and the age of messages.  It says if there is no sign of life.

        Parameters
        ----------
        until : int or None
            Return as soon as all ranks have written this step; steps are written in blocks of
            `record_every * rows_per_block`.  None returns when the run has ended.
        interval_s : float
            Time between two looks at the store, in seconds.

        Raises
        ------
        RankError
            If a rank has failed.
        """
        line = ProgressLine()
        try:
            for is_shown in self._looks(line, interval_s):
                if is_shown and until is not None and self._follower.is_created and self.status().step >= until:
                    return
        except KeyboardInterrupt:
            line.end(f"{self._follower.line()}\nThe run continues. Show it again with .watch(), end it with .stop().")
            return
        self._end(line)

    def _looks(self, line: ProgressLine, interval_s: float) -> Iterator[bool]:
        """Show the progress at regular intervals until the run has ended; yields more often, whether it was shown."""
        shown = -math.inf
        while not self._is_over():
            if is_due := time.monotonic() - shown >= interval_s:
                shown = time.monotonic()
                line.show(self._follower.line())
                self._warn()
            yield is_due
            time.sleep(min(POLL_S, interval_s))

    def wait(self, timeout_s: float | None = None) -> None:
        """Wait until all ranks have ended, show the progress meanwhile, and at the end whether the result may be used.

        Parameters
        ----------
        timeout_s : float or None
            Longest time to wait, in seconds; None waits as long as it takes.

        Raises
        ------
        RankError
            As soon as a rank has failed, even if others are still running; or if a signal or the end of its job's time
            has stopped the run early.
        TimeoutError
            If the run has not ended in time; it continues.
        """
        line, deadline = ProgressLine(), math.inf if timeout_s is None else time.monotonic() + timeout_s
        for _ in self._looks(line, _SHOW_S):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.path} continues after {timeout_s} s. {self._how_to_go_on()}")
        self._end(line)

    def _how_to_go_on(self) -> str:
        if not self._follower.is_created:
            return f"Rank 0 is {self._follower.line()}. Call .wait() again; session.close() ends the engines by force."
        status = self.status()
        if status.stop_step < status.n_steps:
            return f"It will stop at step {status.stop_step} and is at step {status.step}: call .wait() again."
        return "Call .wait() again, or .stop() to end it."

    def _end(self, line: ProgressLine) -> None:
        """Show how a run has ended that is over; RankError if it did not end well."""
        self._await_failed()
        line.end(self._follower.line())
        self._warn()
        self._check_end()
        if self.status().is_finished:
            ProgressLine().end(f"Verdict: {self._verdict()}")

    def _check_end(self) -> None:
        if self._failed():
            raise self._error()
        if not self._is_ready():
            raise self._lost()
        if self._was_ended():
            raise self._ended()

    def _verdict(self) -> str:
        from ..analysis.answer import verdict

        try:
            return verdict(self.open()).headline
        except Exception as error:  # the run has its results all the same
            return f"not made: {type(error).__name__}: {error}"

    def stop(self) -> None:
        """Ask the ranks to stop cleanly, all at the same step, and show at which one: within seconds.

        The step is one that no rank has reached yet; all ranks write a checkpoint there.  `resume` continues the run.

        Raises
        ------
        FileNotFoundError
            If rank 0 has not created the run within 10 s, so that the ranks cannot be asked.
        """
        from ..store import status

        line, deadline = ProgressLine(), time.monotonic() + _AGREE_S
        while not (self._follower.is_created or self._is_over()) and time.monotonic() < deadline:
            line.show(self._follower.line())
            time.sleep(_LOOK_S)
        self._require_created()
        status.stop_soon(self.path)
        while not self._is_over() and self.status().state == "unfinished" and time.monotonic() < deadline:
            now = self._follower.snapshot()
            if now.pulse is not None and now.pulse.phase != TRAINING:
                break  # the ranks look for requests while they train
            line.show(now.line())
            time.sleep(_LOOK_S)
        line.end(self._how_it_stops())

    def _how_it_stops(self) -> str:
        now = self._follower.snapshot()
        again = "handle.resume() continues it from there."
        if now.status.is_finished or self._failed():
            return f"The run has ended: {now.doing()}."
        if now.status.state == "stopped":
            return f"Stopped at step {now.status.step} of {now.status.n_steps}. {again}"
        if now.status.state == "stopping":
            left = "" if math.isnan(now.left_s) else f", in about {clock(now.left_s)}"
            return f"Stopping at step {now.status.stop_step} of {now.status.n_steps}{left}. {again}"
        doing = f" (now: {now.doing()})" if now.doing() else ""
        return f"The ranks were asked to stop. They do soon after they have begun to train{doing}."

    def resume(self, n_steps: int | None = None) -> "RunHandle":
        """Continue the run where it was stopped, on the same engines; waits for the stop if that is under way.

        Parameters
        ----------
        n_steps : int or None
            Continue a finished run up to this step; None leaves its length as it is.

        Returns
        -------
        RunHandle
            This handle, which follows the run again.

        Raises
        ------
        RuntimeError
            If the run has not been asked to stop and continues, or if the engines are gone or busy.
        ValueError
            If the problem has changed since the run was started.
        """
        if self._again is None:
            raise RuntimeError(_NO_SESSION)
        if not self._is_over() and not self._is_asked():
            raise RuntimeError(f"{self.path} has not been stopped: {self.status()}. Follow it with .watch().")
        for _ in self._looks(ProgressLine(), _SHOW_S):
            pass
        resumed = self._again(n_steps)
        self._results, self._again = resumed._results, resumed._again  # which knows the new length
        self._follower, self._n_notes = Follower(self.path), 0
        return self

    def _is_asked(self) -> bool:
        return self.status().state == "stopping" or bool(Control(self.path)[schema.ASKED])

    def result(self) -> list[dict[str, Any]]:
        """What each rank returned; waits for the end of the run, without a limit.

        Returns
        -------
        list of dict
            In the order of the ranks.

        Raises
        ------
        RankError
            If a rank has failed, or the run was stopped early by a signal or the end of its job's time.
        """
        while not self._is_over():
            time.sleep(POLL_S)
        self._await_failed()
        self._check_end()
        return [result.get() for result in self._results]

    def _is_ready(self) -> bool:
        return all(result.ready() for result in self._results)

    def _is_over(self) -> bool:
        # Engines that end with their job no longer answer, and their controller waits for them for an hour.
        return self._is_ready() or bool(self._failed()) or self._engines.state().phase == "ended"

    def _failed(self) -> list[int]:
        return [rank for rank, result in enumerate(self._results) if result.ready() and not result.successful()]

    def _await_failed(self) -> None:
        """Give other ranks time to fail too: the first error to arrive need not be the cause."""
        deadline = time.monotonic() + _GRACE_S
        while self._is_over() and not self._is_ready() and time.monotonic() < deadline:
            time.sleep(POLL_S)

    def _was_ended(self) -> bool:
        return not self.status().is_finished and Control(self.path)[schema.ASKED] == schema.BY_SIGNAL

    def _ended(self) -> RankError:
        status, state = self.status(), self._engines.state()
        why = f" ({state.words})" if state.is_over else ""
        text = (
            f"The run was asked to stop by a signal, or because its job is nearly out of time{why}. It ended at step "
            f"{status.step} of {status.n_steps}; what is in {self.path} is safe. {self._advice(status)}"
        )
        return RankError(text, None, None, {})

    def _lost(self) -> RankError:
        safe = "Rank 0 had not created it yet. Type session.close(), session = connect(...), and submit it again."
        if self._follower.is_created:
            status = self.status()
            safe = (
                f"What is in {self.path} up to step {status.step} of {status.n_steps} is safe. {self._advice(status)}"
            )
        text = (
            f"The engines are gone, and the run with them: {self._engines.state().words}. {safe}\n"
            f"{tail(self._engines.output())}"
        )
        return RankError(text, None, None, {})

    def _advice(self, status: "RunStatus") -> str:
        if status.step:
            return _RESUME
        layout = self.open().attrs[schema.LAYOUT_KEY]
        steps = layout["record_every"] * layout["rows_per_block"]
        return (
            f"Not all ranks have written their first block of {steps} steps: allow more time, or shorten blocks by "
            f"Settings(rows_per_block=...), which is {layout['rows_per_block']}. {_RESUME}"
        )

    def _error(self) -> RankError:
        errors = {rank: self._results[rank].exception() for rank in self._failed()}
        first = min(errors, key=lambda rank: (errors[rank].ename in _SECONDARY, self._ended_at(rank), rank))
        failures = {rank: without_carriers(error.traceback or str(error)) for rank, error in errors.items()}
        host = self._facts[first]["host"] if self._facts else None
        on_host = f" on {host}" if host else ""
        if all(error.ename == "EngineError" for error in errors.values()):
            output, state = self._engines.output(), self._engines.state()
            why = f" ({state.words})" if state.is_over else ""
            text = (
                f"The engines of ranks {listed(errors)} have died{on_host}{why}; when one process dies, MPI ends them "
                f"all. {bus_error_explained(output)}What is in {self.path} is safe. {_RESUME}\n{tail(output)}"
            )
            return RankError(text, first, host, failures)
        lines = [f"Rank {first}{on_host} failed: {errors[first].ename}: {errors[first].evalue}"]
        others: dict[str, list[int]] = {}
        for rank in errors.keys() - {first}:
            others.setdefault(f"{errors[rank].ename}: {errors[rank].evalue}", []).append(rank)
        busy = [rank for rank, result in enumerate(self._results) if not result.ready()]
        lines += [f"Ranks that failed too: {listed(ranks)}: {error}" for error, ranks in others.items()]
        lines += [f"Ranks still running: {listed(busy)}; session.close() ends them by force."] if busy else []
        lines += ["", own_frames(failures[first])]
        return RankError("\n".join(lines), first, host, failures)

    def _ended_at(self, rank: int) -> float:
        ended = self._results[rank].metadata["completed"]
        return ended.timestamp() if ended else float("inf")

    def _warn(self) -> None:
        """Repeat warnings of the engines here, each once."""
        for note in self._follower.notes[self._n_notes :]:
            warnings.warn(note, stacklevel=4)
            self._n_notes += 1

    def __repr__(self):
        try:
            status = "failed" if self._failed() else str(self.status())
            if not self.status().has_ended and self._engines.state().is_over:
                status += ", but its engines are gone"
        except (OSError, ValueError):
            status = "no run in its store"  # which was moved or deleted
        return f"RunHandle({str(self.path)!r}, {counted(len(self._results), 'rank')}, {status})"
