"""Engines of a cluster, under one contract: those that this process starts and ends, and those that it finds running.

Both connect a client, report the state of the scheduler or of mpiexec, and return what the engines have printed.
`session` checks whether the engines are what a run needs.
"""

import contextlib
import itertools
import json
import logging
import os
import re
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import psutil

from ..ranks.segments import require_start
from .jobs import Job, JobState, JobWatch
from .profiles import CONFIG, KINDS, Profile

if TYPE_CHECKING:
    from ipyparallel import Client

_ANSWER_S = 20.0  # for a controller to answer one request
_POLL_S = 5.0  # between two queries of a scheduler
_FINALIZE_S = 0.5  # for idle engines to finalize MPI
_WRITING_S = 1.0  # for a description that is being written: ipyparallel does not replace the file at once
_ALLOCATIONS = ("PBS_JOBID", "SLURM_JOB_ID")  # set where this process runs inside a job
_counter = itertools.count()
_WITHOUT_CONTROLLER = JobState("ended", "their controller has ended, without which they cannot be reached")


class Engines(Protocol):
    """What a session uses of its engines.

    Attributes
    ----------
    profile : str
        Name of the profile.
    n : int
        Number of engines.
    origin : str
        Who started them, and how to end them.
    stop_line : str
        The command that ends engines which somebody else has started; empty for those that this process has started.
    launcher_name : str
        Name of ipyparallel's launcher.
    options : Mapping
        The options of the profile that they were started with, as far as they are known.
    """

    profile: str
    n: int
    origin: str
    stop_line: str
    launcher_name: str
    options: Mapping[str, Any]

    @property
    def command(self) -> str:
        """The command line that started the engines."""
        ...

    @property
    def script(self) -> str:
        """The job script as it was submitted; empty where there is none."""
        ...

    def open(self, timeout_s: float) -> "Client":
        """Start the engines if they are not running, and connect to their controller."""
        ...

    def state(self) -> JobState:
        """The state of the job or of mpiexec: whether engines can still come, and are still there."""
        ...

    def output(self) -> str:
        """What mpiexec and the engines have printed."""
        ...

    def close(self, client: "Client | None", patience_s: float, is_busy: bool, is_kept: bool) -> None:
        """Close the client, and end the engines if this process started them."""
        ...


class Started:
    """Engines that this process starts and ends."""

    origin, stop_line = "started here", ""

    def __init__(self, profile: Profile, n: int):
        import ipyparallel

        placement = profile.placement()  # reports missing options
        self.profile, self.n = profile.name, n
        self.options: Mapping[str, Any] = profile.options
        if not profile.is_job:
            require_start(placement.sizes(n)["ranks_per_node"] if placement else n)
        self.cluster = ipyparallel.Cluster(
            load_profile=False,
            config=profile.config,
            profile_dir=str(profile.folder),
            cluster_id=f"notebook-{os.getpid()}-{next(_counter)}",
            n=n,
            log_level=logging.CRITICAL,  # below it, a normal stop prints the log of every engine into the notebook
        )
        self.launcher_name: str = self.cluster.engine_launcher_class.__name__
        self._is_job = profile.is_job
        self._check_launcher(profile)

    def _check_launcher(self, profile: Profile) -> None:
        from ipyparallel.cluster.launcher import LocalEngineSetLauncher

        launcher: Any = self.cluster.engine_launcher_class
        if issubclass(launcher, LocalEngineSetLauncher):
            raise ValueError(
                f"Profile {self.profile!r} starts engines without MPI ({launcher.__name__}): set "
                f"c.Cluster.engine_launcher_class in {profile.folder / CONFIG}, or type connect('local')."
            )
        if profile.section == "AllocationEngines" and not any(name in os.environ for name in _ALLOCATIONS):
            raise RuntimeError(
                f"Profile {self.profile!r} starts engines inside a job, and this process is in none: "
                f"{' and '.join(_ALLOCATIONS)} are not set. Begin a job with `qsub -I` or `salloc`, or type "
                "connect('local')."
            )
        command = launcher(parent=self.cluster, profile_dir=str(profile.folder)).args[0]
        if shutil.which(command) is None:
            raise RuntimeError(f"No {command}: neither in {Path(sys.executable).parent} nor on PATH. {self._remedy()}")
        if not self._is_job and find_spec("mpi4py") is None:
            raise RuntimeError(f"mpi4py is not installed in {sys.prefix}. {self._remedy()}")

    def _remedy(self) -> str:
        if self._is_job:
            return "Jobs are submitted from a login node of the site; elsewhere type connect('local')."
        return (
            'Engines are MPI ranks. Type: pip install "sagips_kit[mpi]". On a cluster, load the MPI module before you '
            "start Jupyter, and build mpi4py with that MPI."
        )

    def open(self, timeout_s: float) -> "Client":
        """Start the controller and the engines, or submit their job; RuntimeError if that fails."""
        from ipyparallel.cluster.launcher import LauncherError

        try:
            self.cluster.start_cluster_sync(n=self.n)
        except LauncherError as error:
            raise RuntimeError(str(error)) from None
        deadline = time.monotonic() + timeout_s
        while True:  # a request may be lost on a busy machine
            try:
                with _quiet():
                    return self.cluster.connect_client_sync(timeout=min(timeout_s, _ANSWER_S))
            except TimeoutError:
                if time.monotonic() > deadline:
                    raise RuntimeError(
                        f"The controller was started, but did not answer within {timeout_s:.0f} s. If this machine is "
                        "very busy, type connect(..., timeout_s=...) with a longer time."
                    ) from None

    @property
    def _launcher(self) -> Any:
        """The launcher of the engines, None before they are started and after they have ended."""
        return self.cluster.engine_set

    @property
    def command(self) -> str:
        return shlex.join(self._launcher.args)

    @property
    def script(self) -> str:
        return Path(self._launcher.args[-1]).read_text() if self._is_job else ""

    def state(self) -> JobState:
        launcher = self._launcher
        if launcher is None:
            return JobState("ended", "the session was closed")
        if not runs(getattr(getattr(self.cluster.controller, "process", None), "pid", -1)):
            return _WITHOUT_CONTROLLER
        if self._is_job:
            return _of_job(launcher.job_id, launcher.job_state())
        return JobState("running", "") if launcher.poll() is None else JobState("ended", "mpiexec has ended")

    def output(self) -> str:
        return self._launcher.get_output() if self._launcher else ""

    def close(self, client: "Client | None", patience_s: float, is_busy: bool, is_kept: bool) -> None:
        """End engines and controller, by force if they do not end by themselves: an engine may be inside MPI.

        Parameters
        ----------
        client : ipyparallel.Client or None
            The client to close; None if `open` failed.
        patience_s : float
            Seconds until force is used.
        is_busy : bool
            Whether the engines are in the middle of a run.
        is_kept : bool
            Leave engines and controller running, also when this process ends.
        """
        self.cluster.shutdown_atexit = False
        if client is not None:
            if not is_busy:
                _finalize(client)
            client.close()
        if is_kept:
            return
        processes = self._processes()
        launcher, has_failed = self._launcher, False
        if launcher and not self._is_job:
            launcher.stop_seconds_until_kill = patience_s
        # Engines first: without a controller to unregister from, their watchers linger for seconds.
        for stop in (self.cluster.stop_engines_sync, self.cluster.stop_controller_sync):
            try:
                stop()
            except (OSError, RuntimeError, UserWarning):  # the latter where warnings are errors
                has_failed = True
        left = psutil.wait_procs(processes, timeout=0.2)[1]
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=1)
        if has_failed and self._is_job and launcher is not None and launcher.job_id:
            # Force has ended all local processes, but it does not reach a job; this warns if nothing does.
            launcher.job.cancel(launcher.job_id)

    def _processes(self) -> list[psutil.Process]:
        found = []
        for launcher in (self._launcher, self.cluster.controller):
            process = getattr(launcher, "process", None)
            if process is not None:
                with contextlib.suppress(psutil.NoSuchProcess):
                    found += [process, *process.children(recursive=True)]
        return found


class Joined:
    """Engines that were started in a terminal, or left running by a notebook whose kernel was killed.

    Parameters
    ----------
    profile : Profile
        The profile whose folder describes the cluster.
    state : dict
        What ipyparallel has written about the cluster.
    connection : Path
        The file by which clients find the controller.
    """

    def __init__(self, profile: Profile, state: Mapping[str, Any], connection: Path):
        self.profile, self.connection = profile.name, connection
        cluster_id = str(state["cluster"]["cluster_id"])
        self._controller = controller_of(state)
        self.stop_line = f"ipcluster stop --profile={profile.name}" + f" --cluster-id={cluster_id}" * bool(cluster_id)
        self.origin = f"joined; `{self.stop_line}` ends it"
        self.launcher_name: str = state["engines"]["class"].rpartition(".")[2]
        sets = state["engines"]["sets"].values()
        self._engines: dict[str, Any] = next(iter(sets), {})
        self.n: int = sum(engines["n"] for engines in sets)
        self.options: Mapping[str, Any] = {**self._engines.get("defaults", {}), **self._engines.get("options", {})}
        self._job = None
        if job_id := self._engines.get("job_id"):
            # Only the launchers of jobs write an id.
            self._job = JobWatch(cast(Job, KINDS[self.launcher_name](**self.options)), job_id, _POLL_S)

    @property
    def command(self) -> str:
        if self._job:
            return f"{shlex.join(self._job.job.submit_command)} {self._script_path}"
        return shlex.join(_command_line(self._engines["pid"]))

    @property
    def script(self) -> str:
        return self._script_path.read_text() if self._job and self._script_path.is_file() else ""

    @property
    def _script_path(self) -> Path:
        return Path(self._engines["output_file"]).with_suffix(".sh")

    def open(self, timeout_s: float) -> "Client":
        """Connect to the controller; RuntimeError if it does not answer."""
        import ipyparallel

        try:
            timeout: Any = min(timeout_s, _ANSWER_S)  # which ipyparallel annotates as int
            with _quiet():
                return ipyparallel.Client(str(self.connection), timeout=timeout)
        except TimeoutError:
            raise RuntimeError(
                f"The cluster of {self.connection} does not answer. Type `{self.stop_line}` in a terminal; if that "
                "does not help, delete this file."
            ) from None

    def state(self) -> JobState:
        if self._controller is not None and not is_of_a_cluster(self._controller):
            return _WITHOUT_CONTROLLER
        if self._job:
            return _of_job(self._job.job_id, self._job.state())
        return self._of_process()

    def asked(self) -> JobState:
        """The state at this moment: waits for the answer of the scheduler, up to a minute."""
        if self._job:
            return _of_job(self._job.job_id, self._job.job.state(self._job.job_id))
        return self._of_process()

    def _of_process(self) -> JobState:
        is_there = is_of_a_cluster(self._engines.get("pid", -1))
        return JobState("running", "") if is_there else JobState("ended", "mpiexec has ended")

    @property
    def is_job(self) -> bool:
        """Whether the engines are a job of a scheduler."""
        return self._job is not None

    def end(self, patience_s: float) -> None:
        """Cancel the job of the engines, or end their processes, by force after `patience_s` seconds."""
        if self._job:
            self._job.job.cancel(self._job.job_id)
        elif is_of_a_cluster(self._engines.get("pid", -1)):
            end_processes(self._engines["pid"], patience_s)

    def output(self) -> str:
        file = Path(self._engines.get("output_file", ""))
        return file.read_text(errors="replace") if file.is_file() else ""

    def close(self, client: "Client | None", patience_s: float, is_busy: bool, is_kept: bool) -> None:
        """Close the connection only: whoever started the engines ends them."""
        if client is not None:
            client.close()


def runs(pid: int) -> bool:
    """Whether a process of this host is running; a zombie, which has ended but was not reaped, is not."""
    try:
        return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def described(file: Path) -> dict[str, Any]:
    """What ipyparallel has written into a file, or is about to write."""
    deadline = time.monotonic() + _WRITING_S
    while True:
        try:
            return json.loads(file.read_text())
        except ValueError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.05)


def connection_of(folder: Path, cluster_id: str) -> Path:
    """The file by which clients find the controller of a cluster, in the folder of its description."""
    return folder / f"ipcontroller{'-' * bool(cluster_id)}{cluster_id}-client.json"


def controller_of(state: Mapping[str, Any]) -> int | None:
    """Process id of the controller, from what ipyparallel has written about a cluster; None if it knows of none."""
    return ((state.get("controller") or {}).get("state") or {}).get("pid")


def owner_of(cluster_id: str) -> int | None:
    """Process id of the notebook that has started a cluster; None if `ipcluster` has."""
    found = re.match(r"notebook-(\d+)-", cluster_id)
    return int(found[1]) if found else None


def is_of_a_cluster(pid: int) -> bool:
    """Whether a process is a controller of this user, or starts engines: numbers of processes are used again."""
    try:
        process = psutil.Process(pid)
        return runs(pid) and process.uids().real == os.getuid() and "ipyparallel" in " ".join(process.cmdline())
    except (psutil.Error, ValueError):  # the latter for a number that no process has
        return False


def end_processes(pid: int, patience_s: float) -> None:
    """End a process and its children, by force if they do not end by themselves."""
    try:
        process = psutil.Process(pid)
        processes = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for way in (psutil.Process.terminate, psutil.Process.kill):
        for one in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                way(one)
        processes = psutil.wait_procs(processes, timeout=patience_s)[1]


def _finalize(client: "Client") -> None:
    """Let idle engines finalize MPI, which leaves its shared memory behind where it is killed."""
    from ipyparallel.error import NoEnginesRegistered

    with contextlib.suppress(NoEnginesRegistered):
        client[:].apply_async(_end_mpi).wait(_FINALIZE_S)


def _end_mpi() -> None:
    from mpi4py import MPI

    MPI.Finalize()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the warning that messages are not signed: an encrypted connection needs no signatures."""
    from traitlets.log import get_logger

    def is_another(record):
        return not record.getMessage().startswith("Message signing is disabled")

    log: Any = get_logger()
    log.addFilter(is_another)
    try:
        yield
    finally:
        log.removeFilter(is_another)


def _of_job(job_id: str, state: JobState) -> JobState:
    return JobState(state.phase, f"job {job_id}: {state.words}")


def _command_line(pid: int) -> list[str]:
    try:
        return psutil.Process(pid).cmdline()
    except psutil.NoSuchProcess:
        return []
