"""What a notebook does with engines: check them, submit a run, watch it, stop it.

Nothing here blocks: an engine inside a collective operation would hold the notebook for ever when another rank has
failed, so results are polled, and how far a run is comes from its store.  How engines are started is in `cluster`.
"""

import atexit
import importlib.metadata
import os
import pickle
import platform
import re
import socket
import sys
import time
from collections import Counter
from pathlib import Path

# Seconds between two looks at the engines, and for other ranks to fail too before a failure is reported.
POLL_S = 0.1
GRACE_S = 2.0
VERSIONS = ("python", "torch", "mpi4py", "cloudpickle", "sagips_kit")
# Errors raised on a rank because another one failed: never the cause.
SECONDARY = ("PeerError",)


class RankError(RuntimeError):
    """A rank of a run failed.

    Attributes
    ----------
    rank : int
    host : str
    failures : dict of int to str
        The remote traceback of every rank that failed.
    """

    def __init__(self, text, rank, host, failures):
        super().__init__(text)
        self.rank, self.host, self.failures = rank, host, failures


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
        line, started = _Line(), time.monotonic()
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
            f"connect(timeout=...); if the machine is too small, fewer engines. The last words of `{self._engines.command}`:"
            f"\n{_tail(self._engines.output())}"
        )

    def _check_idle(self):
        if self._client is None:
            raise RuntimeError("This session is closed. Type session = connect(...) to open another.")
        if not self.is_open:
            raise RuntimeError(
                f"Of {self.n} engines {len(self._client.ids)} are left, and an MPI world is whole or nothing. Type "
                f"session.close(), then connect(...) again.\n{_tail(self._engines.output())}"
            )
        status = self._client.queue_status()
        busy = {rank for rank in self._client.ids if status[rank]["queue"]}
        # What was submitted a moment ago may not have reached the queues.
        busy |= {rank for rank, result in enumerate(self._results) if not result.ready()}
        if busy:
            raise RuntimeError(
                f"The engines {_listed(busy)} are busy with a run. Wait for it, or end it with its handle's stop(); a run "
                "submitted from another notebook can be watched with open_run(path)."
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

        launch.prepare(spec, n_ranks=self.n)
        return RunHandle(Path(spec.store).absolute(), self._start(launch.run_rank, spec), self._facts, self._engines)

    def _start(self, function, *args):
        import cloudpickle

        call = cloudpickle.dumps((function, args))
        self._results = [self._client[rank].apply_async(_run_in, os.getcwd(), call) for rank in range(self.n)]
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
        self._started = time.monotonic()

    def progress(self):
        """How far the run is, from its store: `.steps` (rank,), `.n_steps`, `.stop_step`, `.is_finished`."""
        from . import store

        return store.read_progress(self.path)

    def open(self):
        """The run as a DataTree, at any time; open it again to see more."""
        from . import store

        return store.open_run(self.path)

    def watch(self, until=None, interval=1.0):
        """Show a progress bar until the run ends; interrupting the cell leaves the run alone.

        Parameters
        ----------
        until : int or None
            Return as soon as all ranks have completed so many steps.
        interval : float
            Seconds between two looks at the store.

        Raises
        ------
        RankError
            If a rank has failed.
        """
        line = _Line()
        try:
            while not self._failed() and not self._is_ready():
                line.show(self._bar())
                if until is not None and self.progress().step >= until:
                    return
                time.sleep(interval)
            self._await_failed()
        except KeyboardInterrupt:
            line.end(f"{self._bar()}\nThe run goes on. Look again with .watch(), end it with .stop().")
            return
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
            As soon as a rank has failed, even if others go on.
        TimeoutError
            If the run goes on.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._is_ready():
            if self._failed():
                break
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutError(f"{self.path} goes on after {timeout} s. Call .wait() again, or .stop() to end it.")
            time.sleep(POLL_S)
        self._await_failed()
        if self._failed():
            raise self._error()

    def stop(self):
        """Ask the ranks to end cleanly at a step that none of them has reached; returns at once."""
        from . import schema, store

        layout = self.open().attrs[schema.LAYOUT_KEY]
        # A rank looks at the request once a block, so two blocks ahead of the fastest is ahead of everybody.
        ahead = 2 * layout["rows_per_block"] * layout["record_every"]
        store.request_stop(self.path, int(self.progress().steps.max()) + ahead)

    def result(self):
        """What each rank returned, in the order of the ranks; waits for the end as `wait` does."""
        self.wait()
        return [result.get() for result in self._results]

    def _is_ready(self):
        return all(result.ready() for result in self._results)

    def _failed(self):
        return [rank for rank, result in enumerate(self._results) if result.ready() and not result.successful()]

    def _await_failed(self):
        """Give other ranks time to fail too: the first error to arrive need not be the cause."""
        deadline = time.monotonic() + GRACE_S
        while self._failed() and not self._is_ready() and time.monotonic() < deadline:
            time.sleep(POLL_S)

    def _error(self):
        errors = {rank: self._results[rank].exception() for rank in self._failed()}
        first = min(errors, key=lambda rank: (errors[rank].ename in SECONDARY, self._ended_at(rank), rank))
        failures = {rank: _user_frames(error.traceback or str(error)) for rank, error in errors.items()}
        host = self._facts[first]["host"]
        if all(error.ename == "EngineError" for error in errors.values()):
            text = (
                f"The engines of ranks {_listed(errors)} have died on {host}; when one process dies, MPI ends them all. "
                f"What is in {self.path} is safe. Type session.close(), then connect(...).\n"
                f"{_tail(self._engines.output())}"
            )
            return RankError(text, first, host, failures)
        lines = [f"Rank {first} on {host} failed: {errors[first].ename}: {errors[first].evalue}\n\n{failures[first]}\n"]
        others = {}
        for rank in errors.keys() - {first}:
            others.setdefault(f"{errors[rank].ename}: {errors[rank].evalue}", []).append(rank)
        busy = [rank for rank, result in enumerate(self._results) if not result.ready()]
        lines += [f"Failed too: {_listed(ranks)}: {error}" for error, ranks in others.items()]
        lines += [f"Not ended yet: {_listed(busy)}; session.close() ends them by force."] if busy else []
        return RankError("\n".join(lines), first, host, failures)

    def _ended_at(self, rank):
        ended = self._results[rank].metadata["completed"]
        return ended.timestamp() if ended else float("inf")

    def _bar(self):
        from tqdm import tqdm

        progress = self.progress()
        total = min(progress.n_steps, progress.stop_step)
        steps = progress.steps
        ranks = f"ranks {steps.min()}...{steps.max()}"
        elapsed = time.monotonic() - self._started
        return tqdm.format_meter(int(steps.min()), total, elapsed, ncols=100, unit="step", postfix=ranks)

    def __repr__(self):
        state = "failed" if self._failed() else "ended" if self._is_ready() else "running"
        return f"RunHandle({str(self.path)!r}, ranks={len(self._results)}, {state})"


class _Line:
    """A line of text that is replaced in place: an output of the cell in a notebook, else a line of the terminal."""

    def __init__(self):
        from IPython import get_ipython

        self._in_notebook = getattr(get_ipython(), "kernel", None) is not None
        self._output = None
        self._last = ""

    def show(self, text):
        if self._in_notebook:
            self._display(text)
        elif sys.stderr.isatty():
            print(f"\r{text.ljust(len(self._last))}", end="", file=sys.stderr, flush=True)
        self._last = text

    def end(self, text):
        self.show(text)
        if not self._in_notebook:
            print("" if sys.stderr.isatty() else text, file=sys.stderr, flush=True)

    def _display(self, text):
        from IPython.display import display

        content = {"text/plain": text}
        if self._output is None:
            self._output = display(content, raw=True, display_id=True)
        elif text != self._last:
            self._output.update(content, raw=True)


def _run_in(folder, call):
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
            f"{n} engines, but MPI worlds of size {_listed(sizes)}: the engines' MPI is {facts[0]['library']}, which is "
            f"not the one of `{command}`. Use the mpiexec of that MPI, e.g. `pip install mpich` beside mpi4py."
        )
    elif [fact["rank"] for fact in facts] != list(range(n)):
        ranks = _listed(fact["rank"] for fact in facts)
        lines.append(f"The engines 0 to {n - 1} have the MPI ranks {ranks}: they were started without --mpi.")
    here = _versions()
    for name in VERSIONS:
        found = Counter(fact[name] for fact in facts)
        if set(found) != {here[name]}:
            counts = ", ".join(f"{version} on {count}" for version, count in found.items())
            lines.append(f"{name}: {here[name]} in the notebook, {counts} engines. Use one environment for all.")
    return lines


def _listed(items):
    return ", ".join(str(item) for item in items)


def _tail(output, n_lines=15):
    lines = [line for line in output.splitlines() if line.strip() and "KernelNanny" not in line]
    return "\n".join(lines[-n_lines:])


def _user_frames(traceback):
    """A remote traceback without colours and without the frames that carried the call to the engine."""
    blocks = re.sub(r"\x1b\[[0-9;]*m", "", traceback).split("\n\n")
    carriers = [i for i, block in enumerate(blocks) if f" in {_run_in.__name__}(" in block]
    return "\n\n".join(blocks[carriers[-1] + 1 :] if carriers else blocks)
