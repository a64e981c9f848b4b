"""Engines that are one MPI world, as the notebook uses them: check them, submit a run, close them.

Nothing here blocks; how engines are started is in `cluster`, what becomes of a submitted run in `handle`.
"""

import atexit
import importlib.metadata
import os
import pickle
import platform
import socket
import sys
import time
from collections import Counter
from pathlib import Path

from .handle import POLL_S, Line, RunHandle, listed, tail

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

    def open(self, timeout):
        """Start or join the engines and check them; called by `connect`.

        Raises
        ------
        RuntimeError
            If engines are missing, busy or different; those that were started here are ended.
        """
        try:
            deadline = time.monotonic() + timeout
            self._client = self._engines.open(timeout)
            self._await_engines(deadline)
            self._check_idle()
            self._check_engines(deadline)
        except BaseException:
            self.close()
            raise

    @property
    def is_open(self):
        return self._client is not None and len(self._client.ids) == self.n

    def _await_engines(self, deadline):
        line, started = Line(), time.monotonic()
        while (n := len(self._client.ids)) < self.n:
            line.show(f"{self._engines.profile}: {n} of {self.n} engines after {time.monotonic() - started:.0f} s")
            if self._engines.has_ended or time.monotonic() > deadline:
                raise RuntimeError(self._missing_engines(n, time.monotonic() - started))
            time.sleep(POLL_S)
        line.end(f"{self._engines.profile}: {n} engines after {time.monotonic() - started:.0f} s")

    def _missing_engines(self, n, waited):
        ended = self._engines.has_ended
        why = "mpiexec has ended" if ended else "the others have not registered"
        return (
            f"{self.n} engines were asked for, {n} came within {waited:.0f} s: {why}. If they are slow, type "
            f"connect(timeout=...); if the machine is too small, fewer engines. The last words of "
            f"`{self._engines.command}`:\n{tail(self._engines.output())}"
        )

    def _check_idle(self):
        if self._client is None:
            raise RuntimeError("This session is closed. Type session = connect(...) to open another.")
        if not self.is_open:
            raise RuntimeError(
                f"Of {self.n} engines {len(self._client.ids)} are left, and an MPI world is whole or nothing. Type "
                f"session.close(), then connect(...) again.\n{tail(self._engines.output())}"
            )
        status = self._client.queue_status()
        busy = {rank for rank in self._client.ids if status[rank]["queue"]}
        # What was submitted a moment ago may not have reached the queues.
        busy |= {rank for rank, result in enumerate(self._results) if not result.ready()}
        if busy:
            raise RuntimeError(
                f"The engines {listed(busy)} are busy with a run. Wait for it, or end it with its handle's stop(); a "
                "run submitted from another notebook can be watched with open_run(path)."
            )

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
        """Text: profile, launcher, command line, and a table of the engines."""
        names = ("rank", "host", "pid", "device", *VERSIONS)
        rows = [names, *([str(fact[name]) for name in names] for fact in self._facts)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        table = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        head = [
            f"profile   {self._engines.profile} ({self._engines.origin})",
            f"launcher  {self._engines.launcher_name}",
            f"command   {self._engines.command}",
        ]
        return "\n".join([*head, "", *table])

    def submit(self, spec):
        """Create the store of a run and start it on all engines; returns at once.

        Parameters
        ----------
        spec : RunSpec

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
        from . import launch
        from .place import is_url

        launch.prepare(spec, n_ranks=self.n)
        store = spec.store if is_url(spec.store) else Path(spec.store).absolute()
        return RunHandle(store, self._start(launch.run_rank, spec), self._facts, self._engines)

    def _start(self, function, *args):
        import cloudpickle

        call = cloudpickle.dumps((function, args))
        self._results = [self._client[rank].apply_async(run_in, os.getcwd(), call) for rank in range(self.n)]
        return self._results

    def close(self):
        """End the engines if this session started them; can be called again."""
        client, self._client = self._client, None
        if client is not None:
            client.close()
        self._engines.close()
        atexit.unregister(self.close)

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
    return {name: platform.python_version() if name == "python" else _version(name) for name in VERSIONS}


def _version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


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
    here = _versions()
    for name in VERSIONS:
        found = Counter(fact[name] for fact in facts)
        if set(found) != {here[name]}:
            counts = ", ".join(f"{version} on {count}" for version, count in found.items())
            lines.append(f"{name}: {here[name]} in the notebook, {counts} engines. Use one environment for all.")
    return lines
