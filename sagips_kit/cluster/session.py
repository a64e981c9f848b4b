"""Engines that are one MPI world, as the notebook uses them: check them, submit a run, close them.

`engines` starts them; `handle` follows a submitted run to its end.
"""

import dataclasses
import functools
import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from .._text import listed, tail
from ..ranks.segments import bus_error_explained
from ..report.line import ProgressLine, working
from ..report.progress_line import Follower
from ..store.location import absolute
from .attached import AttachedResult, RankResult
from .engines import Engines
from .handle import POLL_S, RunHandle
from .jobs import JobState
from .remote import (
    VERSIONS,
    differences,
    facts,
    origin_explained,
    other_code,
    other_code_explained,
    run_in,
    versions_used,
)

if TYPE_CHECKING:
    from ipyparallel import Client

    from ..running.spec import RunSpec
    from ..running.tune import Tuning

_CLOSED = "This session is closed. Type session = connect(...) to open another."
_LONG_S = 1.0  # what takes longer shows its time
_SOON_S = 0.02  # between two looks for an answer of idle engines, which `submit` waits for
_ANSWER_S = 60.0  # for idle engines to report what they are


class Session:
    """Engines that are one MPI world, returned by `connect`; they train one run at a time.

    A session is closed by `close`, at the end of a `with` block, or with the notebook's process.

    Parameters
    ----------
    engines : Engines
        Engines of this process, or running ones that it has found.
    n : int
        Number of engines.

    Attributes
    ----------
    n : int
        Number of engines, which is the number of MPI ranks.

    See Also
    --------
    sagips_kit.connect : Open a session.
    sagips_kit.run : Train in this process, without engines.

    Examples
    --------
    >>> from sagips_kit import Proxy, RunSpec, Settings, connect
    >>> settings = Settings(n_members=1, n_events=64)
    >>> spec = RunSpec(problem=Proxy(), store="runs/c.zarr", settings=settings, n_steps=20, reference=False, fit=False)
    >>> session = connect("local", n=2)
    >>> print(session.preview())
    profile   local (...)
    launcher  ...
    command   ...mpiexec... -n 2 ...
    <BLANKLINE>
    rank  host  ...
    >>> handle = session.submit(spec)
    >>> handle.wait()
    >>> session.is_open
    True
    >>> session.close()
    """

    def __init__(self, engines: Engines, n: int):
        self._engines, self.n = engines, n
        self._open_client: Client | None = None
        self._facts: list[dict[str, Any]] = []
        self._results: Sequence[RankResult] = []
        self._is_closed = False

    @property
    def options(self) -> Mapping[str, Any]:
        """Mapping: the options of the profile that the engines were started with, as far as they are known."""
        return self._engines.options

    def open(self, timeout_s: float, queue_timeout_s: float | None = None) -> None:
        """Start or join the engines and check them; called by `connect`.

        Parameters
        ----------
        timeout_s : float
            Longest time to wait for the engines, counted from when their job runs, in seconds.
        queue_timeout_s : float or None
            Longest time to wait in the queue, in seconds; None waits as long as it takes.

        Raises
        ------
        RuntimeError
            If engines are missing or different; those that were started here are ended.
        """
        try:
            self._answer_s = max(_ANSWER_S, timeout_s)
            with working(f"{self._engines.profile}: starting the controller", after_s=_LONG_S):
                self._open_client = self._engines.open(timeout_s)
            deadline = self._await_engines(timeout_s, queue_timeout_s)
            # Engines in the middle of a run do not answer: they are checked before the next one.
            if not self._busy():
                with working(f"{self._engines.profile}: the engines load PyTorch", after_s=_LONG_S):
                    self._check_engines(deadline)
        except BaseException:
            self.close()
            raise
        if self._engines.stop_line:
            what = origin_explained(self._facts) if self._facts else "in the middle of a run"
            ProgressLine().end(f"{self._engines.profile}: engines {self._engines.origin}; {what}")

    @property
    def _client(self) -> "Client":
        if self._open_client is None:
            raise RuntimeError(_CLOSED)
        return self._open_client

    @property
    def is_open(self) -> bool:
        """Whether all engines are connected."""
        is_whole = self._open_client is not None and len(self._open_client.ids) == self.n
        return is_whole and not self._engines.state().is_over

    def _await_engines(self, timeout_s: float, queue_timeout_s: float | None) -> float:
        """Wait until all engines are there; returns the deadline for their answers, on the monotonic clock."""
        line, profile, started = ProgressLine(), self._engines.profile, time.monotonic()
        deadline = None
        while (n := len(self._client.ids)) < self.n:
            state, waited_s = self._engines.state(), time.monotonic() - started
            if state.phase in ("queued", "unknown"):
                line.show(f"{profile}: {state.words}, for {waited_s:.0f} s")
                if queue_timeout_s is not None and waited_s > queue_timeout_s:
                    raise RuntimeError(self._still_queued(state, waited_s))
            else:
                deadline = deadline or time.monotonic() + timeout_s
                line.show(f"{profile}: {n} of {self.n} engines after {waited_s:.0f} s {state.words}")
                if state.is_over or time.monotonic() > deadline:
                    raise RuntimeError(self._missing_engines(n, waited_s, state))
            time.sleep(POLL_S)
        line.end(f"{profile}: {n} of {self.n} engines after {time.monotonic() - started:.0f} s")
        return deadline or time.monotonic() + timeout_s

    def _still_queued(self, state: JobState, waited_s: float) -> str:
        where = "was still in the queue" if state.phase == "queued" else "has not started any engine"
        return (
            f"The job of profile {self._engines.profile!r} {where} after {waited_s:.0f} s ({state.words}) and has been "
            "cancelled. Allow more time with connect(queue_timeout_s=...), request less, or try another queue."
        )

    def _missing_engines(self, n: int, waited_s: float, state: JobState) -> str:
        why = state.words if state.is_over else "the others have not registered"
        stop_line = self._engines.stop_line
        advice = f"Type `{stop_line}` in a terminal to end this cluster, then connect(...) starts another one."
        if state.is_over:
            advice = "Correct what its output says, and type connect(...) again."
        elif not stop_line:
            advice = (
                "If they are slow, type connect(timeout_s=...); if the machine is too small, request fewer engines."
            )
        output = self._engines.output()
        advice = bus_error_explained(output) or advice
        return (
            f"{self.n} engines were requested, but only {n} came within {waited_s:.0f} s: {why}. {advice.strip()} The "
            f"last output of `{self._engines.command}`:\n{tail(output)}"
        )

    def _require_idle(self) -> None:
        """Raise RuntimeError unless all engines can start a run now."""
        if self._open_client is None:
            raise RuntimeError(_CLOSED)
        if not self.is_open:
            raise RuntimeError(self._gone())
        if busy := self._busy():
            raise RuntimeError(
                f"Busy with a run: engines {listed(busy)}. Wait for it, or end it with its handle's stop(); "
                "session.attach(path) returns the handle of a run that another notebook has submitted."
            )
        if not self._facts:  # they were in the middle of a run when they were joined
            self._check_engines(time.monotonic() + self._answer_s)

    def _gone(self) -> str:
        state = self._engines.state()
        why = f": {state.words}" if state.is_over else f", {len(self._client.ids)} are left"
        return (
            f"Of {self.n} engines some are gone{why}, and an MPI world cannot continue without them. Type "
            f"session.close(), then connect(...) again.\n{tail(self._engines.output())}"
        )

    def _check_code(self, spec: "RunSpec") -> None:
        """Refuse a problem that computes other numbers on the engines than here, before anything is written."""
        from ipyparallel.error import RemoteError

        from ..running.probe import probe

        problem = spec.problem
        try:
            known = probe(problem)
        except Exception:  # `prepare` says what is wrong with such a problem
            return
        versions = versions_used(problem)
        answers = self._start(other_code, problem, known, versions)
        has_hidden_randomness = other_code(problem, known, versions)  # while the engines compute
        try:
            found = self._ask(answers, time.monotonic() + self._answer_s)
        except RemoteError as error:
            raise RuntimeError(
                f"The engines cannot load {type(problem).__name__}: {error.ename}: {error.evalue}. They look for its "
                f"modules in the folder of this notebook, {os.getcwd()}, and in PYTHONPATH as it was at their start."
            ) from None
        # Of hidden randomness, `prepare` says what is wrong.
        if (ranks := [rank for rank, text in enumerate(found) if text]) and not has_hidden_randomness:
            raise RuntimeError(other_code_explained(problem, ranks, found[ranks[0]], self._engines.stop_line))

    def _busy(self) -> set[int]:
        """Ranks that are in the middle of a run."""
        status = self._client.queue_status()
        busy = {rank for rank in self._client.ids if status[rank]["queue"]}
        # What was submitted a moment ago may not have reached the queues.
        return busy | {rank for rank, result in enumerate(self._results) if not result.ready()}

    def _check_engines(self, deadline: float) -> None:
        from ipyparallel.error import RemoteError

        try:
            found = self._ask(self._start(facts), deadline)
        except RemoteError as error:
            raise RuntimeError(
                f"The engines cannot import the kit: {error}. They need the environment of this notebook, {sys.prefix}:"
                " install what is missing there, or start the engines from it."
            ) from None
        if lines := differences(found, self.n, self._engines.command):
            raise RuntimeError("The engines are not the MPI world that was requested.\n" + "\n".join(lines))
        self._facts = found

    def _ask(self, answers: Sequence[RankResult], deadline: float) -> list[Any]:
        """What idle engines answer; RuntimeError if they do not, or are gone."""
        while not all(answer.ready() for answer in answers):
            if self._engines.state().is_over:
                raise RuntimeError(self._gone())
            if time.monotonic() > deadline:
                raise RuntimeError(
                    "The engines are there but have not answered. If packages load slowly here, type session.close(), "
                    "then connect(..., timeout_s=...) with more time."
                )
            time.sleep(_SOON_S)
        if any(getattr(answer.exception(), "ename", "") == "EngineError" for answer in answers):
            raise RuntimeError(self._gone())
        return [answer.get() for answer in answers]

    def preview(self) -> str:
        """What the engines are: profile, launcher, command line, one line per engine, and the job script if any.

        Returns
        -------
        str
            Text to print.
        """
        names = ("rank", "host", "pid", "device", *VERSIONS)
        rows = [names, *([str(fact[name]) for name in names] for fact in self._facts)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        table = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        head = [
            f"profile   {self._engines.profile} ({self._engines.origin})",
            f"launcher  {self._engines.launcher_name}",
            f"command   {self._engines.command}",
        ]
        if not self._facts:
            table = [f"{self.n} engines in the middle of a run: session.attach(path) returns its handle"]
        script = ["", self._engines.script] if self._engines.script else []
        return "\n".join([*head, "", *table, *script])

    def submit(self, spec: "RunSpec", resume: bool = False) -> RunHandle:
        """Create the store of a run and start the run on all engines; returns within seconds.

        The fits are made by rank 0, which also reads a file of events of more than 32 MiB.  What it refuses is an error
        of `RunHandle.watch` and `RunHandle.wait`.

        Parameters
        ----------
        spec : RunSpec
            The run.
        resume : bool
            Resume this run from its newest checkpoint if the store contains it already; a finished run stays as it is,
            unless `n_steps` is larger now, by which it is continued.  So the same cell starts a run and, after its job
            has ended early, resumes it.

        Returns
        -------
        RunHandle
            Follows the run, waits for its end, and stops it.

        Raises
        ------
        TypeError
            If `spec` is not a RunSpec, but for instance the name of a file.
        ValueError, FileExistsError
            If the spec cannot be run, or its store contains another run; no engine was used.
        RuntimeError
            If the session is closed, the engines are gone or busy, or they use other code of the problem than the
            notebook.
        """
        self._require_idle()
        from ..running import launch
        from ..running.resume import after_restart, is_begun
        from ..running.spec import require_spec

        require_spec(spec)
        spec, resume = after_restart(spec, resume)
        self._check_code(spec)
        begin, follower = launch.run_rank, None
        if not (resume and is_begun(spec.store)) and launch.is_slow(spec):
            launch.prepare_later(spec)
            begin, follower = launch.run, Follower(absolute(spec.store), is_new=True)
        else:
            launch.prepare(spec, n_ranks=self.n, resume=resume)
        results, again = self._start(begin, spec, None, resume), functools.partial(self._continue, spec)
        return RunHandle(absolute(spec.store), results, self._facts, self._engines, again, follower)

    def _continue(self, spec: "RunSpec", n_steps: int | None) -> RunHandle:
        """Submit a run again, to be resumed, or continued to another number of steps."""
        n_steps = spec.n_steps if n_steps is None else n_steps
        return self.submit(dataclasses.replace(spec, overwrite=False, n_steps=n_steps), resume=True)

    def resume(self, path: str | os.PathLike[str], n_steps: int | None = None) -> RunHandle:
        """Continue a run on all engines that was stopped, or whose job or notebook has ended.

        Parameters
        ----------
        path : path
            The store of the run, which knows its spec.
        n_steps : int or None
            Continue a finished run up to this step; None leaves its length as it is.

        Returns
        -------
        RunHandle
            Follows the run; a finished run stays as it is.

        Raises
        ------
        FileNotFoundError
            If there is no run at `path`.
        ValueError
            If its problem cannot be imported here or computes other numbers now, or if it was started on another number
            of ranks.
        RuntimeError
            If the session is closed, or the engines are gone or busy.
        """
        from ..running.spec import RunSpec
        from ..store.reader import open_run

        return self._continue(dataclasses.replace(RunSpec.from_run(open_run(path)), store=os.fspath(path)), n_steps)

    def tune(self, spec: "RunSpec", trial_s: float = 2.0) -> "Tuning":
        """Measure the speed of several modes of exchange on the engines, for the generators of a run; waits for it.

        Parameters
        ----------
        spec : RunSpec
            The run; its own exchange does not matter.
        trial_s : float
            Time for each mode, in seconds.

        Returns
        -------
        Tuning
            The speed of each mode, and the recommended exchange as `.best`; printed, it is a table.

        Raises
        ------
        TypeError
            If `spec` is not a RunSpec.
        RuntimeError
            If the session is closed, the engines are gone or busy, or they use other code of the problem than the
            notebook.
        """
        self._require_idle()
        from ..running.spec import require_spec
        from ..running.tune import tune_run

        require_spec(spec)
        self._check_code(spec)
        with working(f"{self._engines.profile}: measuring the speed of the modes of exchange", after_s=_LONG_S):
            return self._ask(self._start(tune_run, spec, None, trial_s), math.inf)[0]

    def attach(self, path: str | os.PathLike[str]) -> RunHandle:
        """The handle of a run on these engines that another notebook has submitted, or this one before its restart.

        Parameters
        ----------
        path : path
            The store of the run.

        Returns
        -------
        RunHandle
            The handle of the run, whether it is running or has ended.

        Raises
        ------
        FileNotFoundError
            If there is no run at `path`.
        ValueError
            If the run has another number of ranks.
        RuntimeError
            If the session is closed.
        """
        from ..store import status

        n_ranks = len(status.read_status(path).steps)
        if n_ranks != self.n:
            raise ValueError(
                f"`{path}` is a run of {n_ranks} ranks, and this session has {self.n} engines: the run is not on these "
                "engines. Look at it with open_run(...)."
            )
        place = absolute(path)
        self._results = [AttachedResult(self._client, rank, place) for rank in range(self.n)]
        return RunHandle(place, self._results, self._facts, self._engines, functools.partial(self.resume, place))

    def _start(self, function: Callable[..., Any], *args: Any) -> Sequence[RankResult]:
        import cloudpickle
        from ipyparallel.error import NoEnginesRegistered

        call = cloudpickle.dumps((function, args))
        try:
            self._results = [self._client[rank].apply_async(run_in, os.getcwd(), call) for rank in range(self.n)]
        except (NoEnginesRegistered, IndexError):  # they have gone a moment ago
            raise RuntimeError(self._gone()) from None
        return self._results

    def close(self, keep_run: bool = False, patience_s: float = 3) -> None:
        """End the engines if this session started them; a second call does nothing.

        Parameters
        ----------
        keep_run : bool
            Leave engines running that are in the middle of a run; `connect` joins them again, and `attach` returns the
            handle of the run.
        patience_s : float
            Time for engines of this machine to end by themselves, in seconds; a run may write its checkpoint meanwhile.
        """
        if self._is_closed:  # engines that were left running then are left running now
            return
        is_busy = not all(result.ready() for result in self._results)
        client, self._open_client = self._open_client, None
        with working(f"{self._engines.profile}: closing the session", after_s=_LONG_S):
            self._engines.close(client, patience_s, is_busy, is_kept=keep_run and is_busy)
        self._is_closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self):
        state = "open" if self.is_open else "closed" if self._open_client is None else "engines lost"
        return f"Session({self._engines.profile!r}, n={self.n}, {self._engines.origin}, {state})"
