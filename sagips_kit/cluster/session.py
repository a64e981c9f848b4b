"""Engines that are one MPI world, as the notebook uses them: check them, submit a run, close them.

Nothing here blocks; how engines are started is in `cluster`, what becomes of a submitted run in `handle`.
"""

import os
import pickle
import platform
import socket
import sys
import time
from collections import Counter

from .._text import listed, tail
from ..report.progress_line import ProgressLine
from ..store.location import absolute
from .attached import Elsewhere
from .handle import POLL_S, RunHandle

_ANSWER_S = 60.0  # for idle engines to say what they are
VERSIONS = ("python", "torch", "mpi4py", "cloudpickle", "sagips_kit")


class Session:
    """Engines that are one MPI world; made by `connect`, closed by `close` or at the end of a `with` block.

    Attributes
    ----------
    n : int
        Engines, which is the number of MPI ranks.
    """

    def __init__(self, engines, n):
        self._engines, self.n = engines, n
        self._client = None
        self._facts, self._results = [], []

    def open(self, timeout, queue_timeout=None):
        """Start or join the engines and check them; called by `connect`.

        Raises
        ------
        RuntimeError
            If engines are missing or different; those that were started here are ended.
        """
        try:
            self._client = self._engines.open(timeout)
            deadline = self._await_engines(timeout, queue_timeout)
            # Engines in the middle of a run answer nothing: they are checked before the next one.
            if not self._busy():
                self._check_engines(deadline)
        except BaseException:
            self.close()
            raise

    @property
    def is_open(self):
        is_whole = self._client is not None and len(self._client.ids) == self.n
        return is_whole and self._engines.state().phase != "ended"

    def _await_engines(self, timeout, queue_timeout):
        """Wait until all engines are there; returns when the rest should be done, on the monotonic clock."""
        line, profile, started = ProgressLine(), self._engines.profile, time.monotonic()
        deadline = None
        while (n := len(self._client.ids)) < self.n:
            state, waited = self._engines.state(), time.monotonic() - started
            if state.phase in ("queued", "unknown"):
                line.show(f"{profile}: {state.words}, for {waited:.0f} s")
                if queue_timeout is not None and waited > queue_timeout:
                    raise RuntimeError(self._still_queued(state, waited))
            else:
                deadline = deadline or time.monotonic() + timeout
                line.show(f"{profile}: {n} of {self.n} engines after {waited:.0f} s {state.words}")
                if state.phase == "ended" or time.monotonic() > deadline:
                    raise RuntimeError(self._missing_engines(n, waited, state))
            time.sleep(POLL_S)
        line.end(f"{profile}: {n} of {self.n} engines after {time.monotonic() - started:.0f} s")
        return deadline or time.monotonic() + timeout

    def _still_queued(self, state, waited):
        return (
            f"Profile {self._engines.profile!r} was still in the queue after {waited:.0f} s ({state.words}), which is "
            "given up. Allow more time with connect(queue_timeout=...), ask for less, or try another queue."
        )

    def _missing_engines(self, n, waited, state):
        why = state.words if state.phase == "ended" else "the others have not registered"
        return (
            f"{self.n} engines were asked for, {n} came within {waited:.0f} s: {why}. If they are slow, type "
            f"connect(timeout=...); if the machine is too small, fewer engines. The last words of "
            f"`{self._engines.command}`:\n{tail(self._engines.output())}"
        )

    def _check_idle(self):
        if self._client is None:
            raise RuntimeError("This session is closed. Type session = connect(...) to open another.")
        if not self.is_open:
            state = self._engines.state()
            why = f": {state.words}" if state.phase == "ended" else f", {len(self._client.ids)} are left"
            raise RuntimeError(
                f"Of {self.n} engines some are gone{why}, and an MPI world is whole or nothing. Type session.close(), "
                f"then connect(...) again.\n{tail(self._engines.output())}"
            )
        if busy := self._busy():
            raise RuntimeError(
                f"Busy with a run: engines {listed(busy)}. Wait for it, or end it with its handle's stop(); a "
                "run submitted from another notebook is found by session.attach(path)."
            )

    def _busy(self):
        """Ranks that are in the middle of a run: set of int."""
        status = self._client.queue_status()
        busy = {rank for rank in self._client.ids if status[rank]["queue"]}
        # What was submitted a moment ago may not have reached the queues.
        return busy | {rank for rank, result in enumerate(self._results) if not result.ready()}

    def _check_engines(self, deadline):
        from ipyparallel.error import RemoteError

        try:
            self._facts = self._ask(self._client[:].apply_async(_facts), deadline)
        except RemoteError as error:
            raise RuntimeError(
                f"The engines cannot run the kit: {error}. They need the environment of this notebook, {sys.prefix}: "
                "install what is missing there, or start the engines from it."
            ) from None
        differences = _differences(self._facts, self.n, self._engines.command)
        if differences:
            raise RuntimeError("The engines are not the one MPI world that was asked for.\n" + "\n".join(differences))

    def _ask(self, answers, deadline):
        while not answers.ready():
            if time.monotonic() > deadline:
                raise RuntimeError("The engines are there but do not answer. Allow more time: connect(timeout=...).")
            time.sleep(POLL_S)
        return answers.get()

    def preview(self):
        """Text: profile, launcher, command line, a table of the engines, and the job script if there is one."""
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
            table = [f"{self.n} engines in the middle of a run: session.attach(path) finds it"]
        script = ["", self._engines.script] if self._engines.script else []
        return "\n".join([*head, "", *table, *script])

    def submit(self, spec, resume=False):
        """Create the store of a run and start it on all engines; returns at once.

        Parameters
        ----------
        spec : RunSpec
        resume : bool
            Go on with this run if the store holds it already, from its newest checkpoint; a finished one stays as it
            is.  So the same cell starts a run and, after a job that was ended, goes on with it.

        Returns
        -------
        RunHandle

        Raises
        ------
        ValueError, FileExistsError
            If the spec cannot be run; no engine has been touched.
        RuntimeError
            If the engines are gone or busy.
        """
        self._check_idle()
        if not self._facts:
            self._check_engines(time.monotonic() + _ANSWER_S)
        from ..running import launch

        launch.prepare(spec, n_ranks=self.n, resume=resume)
        return RunHandle(
            absolute(spec.store), self._start(launch.run_rank, spec, None, resume), self._facts, self._engines
        )

    def tune(self, spec, seconds=2.0):
        """Try modes of exchange for the generators of `spec` on the engines: `Tuning`; waits for it.

        Parameters
        ----------
        spec : RunSpec
            Its own exchange does not matter.
        seconds : float
            For each mode.
        """
        self._check_idle()
        from ..running.tune import tune_run

        return self._start(tune_run, spec, None, seconds)[0].get()

    def attach(self, path):
        """The handle of a run on these engines that another notebook has submitted, or this one before its restart.

        Parameters
        ----------
        path : path
            The store of the run.

        Returns
        -------
        RunHandle

        Raises
        ------
        FileNotFoundError, ValueError
            If there is no run at `path`, or one of another number of ranks.
        """
        from ..store.status import read_status

        n_ranks = len(read_status(path).steps)
        if n_ranks != self.n:
            raise ValueError(
                f"`{path}` is a run of {n_ranks} ranks, and this session has {self.n} engines: it runs elsewhere. Look "
                "at it with open_run(...)."
            )
        path = absolute(path)
        self._results = [Elsewhere(self._client, rank, path) for rank in range(self.n)]
        return RunHandle(path, self._results, self._facts, self._engines)

    def _start(self, function, *args):
        import cloudpickle

        call = cloudpickle.dumps((function, args))
        self._results = [self._client[rank].apply_async(run_in, os.getcwd(), call) for rank in range(self.n)]
        return self._results

    def close(self, keep_run=False, patience_s=3):
        """End the engines if this session started them; can be called again.

        Parameters
        ----------
        keep_run : bool
            Leave engines alone that are in the middle of a run; `connect` joins them again, and `attach` finds the run.
        patience_s : int
            Seconds for engines of this machine to end by themselves; a run may write its checkpoint meanwhile.
        """
        is_busy = not all(result.ready() for result in self._results)
        client, self._client = self._client, None
        self._engines.close(client, patience_s, is_busy, is_kept=keep_run and is_busy)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def __repr__(self):
        state = "open" if self.is_open else "closed" if self._client is None else "engines lost"
        return f"Session({self._engines.profile!r}, n={self.n}, {self._engines.origin}, {state})"


def run_in(folder, call):
    # Relative paths and modules beside the notebook mean the same here, so the folder comes before the unpickling.
    os.chdir(folder)
    function, args = pickle.loads(call)
    return function(*args)


def _facts():
    """What an engine says of itself; runs on the engines, the only place where MPI is imported."""
    from mpi4py import MPI

    return {
        "rank": MPI.COMM_WORLD.rank,
        "size": MPI.COMM_WORLD.size,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "device": _device(),
        "library": MPI.Get_library_version().splitlines()[0].strip("\0 "),
        **_versions(),
    }


def _device():
    import torch

    return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}" if torch.cuda.is_available() else "cpu"


def _versions():
    from ..store.create import installed_version

    return {name: platform.python_version() if name == "python" else installed_version(name) for name in VERSIONS}


def _differences(facts, n, command):
    lines = []
    if sizes := {fact["size"] for fact in facts} - {n}:
        lines.append(
            f"{n} engines, but MPI worlds of size {listed(sizes)}: the engines' MPI is {facts[0]['library']}, which is "
            f"not the one of `{command}`. Use the mpiexec of that MPI, e.g. `pip install mpich` beside mpi4py."
        )
    elif [fact["rank"] for fact in facts] != list(range(n)):
        ranks = listed(fact["rank"] for fact in facts)
        lines.append(f"The engines 0 to {n - 1} have the MPI ranks {ranks}: they were started without --mpi.")
    if len({fact["device"] for fact in facts}) > 1:
        counts = ", ".join(f"{device} on {count}" for device, count in Counter(f["device"] for f in facts).items())
        lines.append(f"devices: {counts} engines. Give every rank its GPU before MPI starts: the profile's affinity.")
    here = _versions()
    for name in VERSIONS:
        found = Counter(fact[name] for fact in facts)
        if set(found) != {here[name]}:
            counts = ", ".join(f"{version} on {count}" for version, count in found.items())
            lines.append(f"{name}: {here[name]} in the notebook, {counts} engines. Use one environment for all.")
    return lines
