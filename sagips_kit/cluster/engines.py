"""Engines of a cluster, by one name: those that this process starts and ends, and those that it finds running.

Both open a client, say what the scheduler or mpiexec does, and what the engines have printed.  Whether the engines are
what a run needs is checked in `session`.
"""

import contextlib
import itertools
import logging
import os
import shlex
import shutil
import sys
from pathlib import Path

import psutil

from .jobs import JobState, JobWatch
from .profiles import CONFIG, KINDS

_POLL_S = 5.0  # between two questions to a scheduler
_FINALIZE_S = 0.5  # for idle engines to take leave of MPI
_ALLOCATIONS = ("PBS_JOBID", "SLURM_JOB_ID")  # set where this process runs inside a job
_counter = itertools.count()


class Started:
    """Engines that this process starts and ends."""

    origin = "started here"

    def __init__(self, profile, n):
        import ipyparallel

        profile.ranks()  # tells what is missing
        self.profile, self.n = profile.name, n
        self.cluster = ipyparallel.Cluster(
            load_profile=False,
            config=profile.config,
            profile_dir=str(profile.folder),
            cluster_id=f"notebook-{os.getpid()}-{next(_counter)}",
            n=n,
            log_level=logging.CRITICAL,  # below it, a normal stop prints the log of every engine into the notebook
        )
        self.launcher_name = self.cluster.engine_launcher_class.__name__
        self._is_job = profile.is_job
        self._check_launcher(profile)

    def _check_launcher(self, profile):
        from ipyparallel.cluster.launcher import LocalEngineSetLauncher

        launcher = self.cluster.engine_launcher_class
        if issubclass(launcher, LocalEngineSetLauncher):
            raise ValueError(
                f"Profile {self.profile!r} starts engines without MPI ({launcher.__name__}): set "
                f"c.Cluster.engine_launcher_class in {profile.folder / CONFIG}, or type connect('local')."
            )
        if profile.section == "AllocationEngines" and not any(name in os.environ for name in _ALLOCATIONS):
            raise RuntimeError(
                f"Profile {self.profile!r} starts engines inside a job, and this is none: {' and '.join(_ALLOCATIONS)} "
                "are not set. Begin one with `qsub -I` or `salloc`, or type connect('local')."
            )
        command = launcher(parent=self.cluster, profile_dir=str(profile.folder)).args[0]
        if shutil.which(command) is None:
            raise RuntimeError(f"No {command}: neither in {Path(sys.executable).parent} nor on PATH. {self._remedy()}")

    def _remedy(self):
        if self._is_job:
            return "Jobs are submitted from a login node of the site; elsewhere type connect('local')."
        return "Engines are MPI ranks: type `pip install mpich`, or load the MPI module before you start Jupyter."

    def open(self, timeout):
        """Start controller and engines, or submit their job: ipyparallel.Client."""
        from ipyparallel.cluster.launcher import LauncherError

        try:
            self.cluster.start_cluster_sync(n=self.n)
        except LauncherError as error:
            raise RuntimeError(str(error)) from None
        with _quiet():
            return self.cluster.connect_client_sync(timeout=timeout)

    @property
    def command(self):
        return shlex.join(self.cluster.engine_set.args)

    @property
    def script(self):
        """The job script as it was submitted; empty where there is none."""
        return Path(self.cluster.engine_set.args[-1]).read_text() if self._is_job else ""

    def state(self):
        """Whether the engines may still come, or go on: JobState."""
        launcher = self.cluster.engine_set
        if launcher is None:
            return JobState("ended", "the session was closed")
        if self._is_job:
            return _of_job(launcher.job_id, launcher.job_state())
        return JobState("running", "") if launcher.poll() is None else JobState("ended", "mpiexec has ended")

    def output(self):
        """What mpiexec and the engines have printed."""
        return self.cluster.engine_set.get_output() if self.cluster.engine_set else ""

    def close(self, client, patience_s, is_busy, is_kept):
        """End engines and controller, by force where they do not end by themselves: an engine may be inside MPI.

        Parameters
        ----------
        client : ipyparallel.Client or None
            Of `open`, None where that failed; closed here.
        patience_s : int
            Seconds until force is used.
        is_busy : bool
            Whether the engines are in the middle of a run.
        is_kept : bool
            Let them go on, also when this process ends.
        """
        self.cluster.shutdown_atexit = False
        if client is not None:
            if not is_busy:
                _finalize(client)
            client.close()
        if is_kept:
            return
        processes = self._processes()
        if self.cluster.engine_set and not self._is_job:
            self.cluster.engine_set.stop_seconds_until_kill = patience_s
        launcher, has_failed = self.cluster.engine_set, False
        # Engines first: their watchers linger for seconds when there is no controller to take leave of.
        for stop in (self.cluster.stop_engines_sync, self.cluster.stop_controller_sync):
            with contextlib.suppress(OSError):
                try:
                    stop()
                except (RuntimeError, UserWarning):  # the latter where warnings are errors
                    has_failed = True
        left = psutil.wait_procs(processes, timeout=0.2)[1]
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=1)
        if has_failed and self._is_job and launcher is not None and launcher.job_id:
            # Force has ended all that ran here, but it does not reach a job; this tells if nothing does.
            launcher.job.cancel(launcher.job_id)

    def _processes(self):
        found = []
        for launcher in (self.cluster.engine_set, self.cluster.controller):
            if getattr(launcher, "process", None) is not None:
                with contextlib.suppress(psutil.NoSuchProcess):
                    found += [launcher.process, *launcher.process.children(recursive=True)]
        return found


class Joined:
    """Engines that were started in a terminal, or left by a notebook whose kernel was killed.

    Parameters
    ----------
    profile : Profile
    state : dict
        What ipyparallel has written of the cluster.
    connection : Path
        The file by which clients find the controller.
    """

    def __init__(self, profile, state, connection):
        self.profile, self.connection = profile.name, connection
        cluster_id = state["cluster"]["cluster_id"]
        self.stop_line = f"ipcluster stop --profile={profile.name}" + f" --cluster-id={cluster_id}" * bool(cluster_id)
        self.origin = f"joined; `{self.stop_line}` ends it"
        self.launcher_name = state["engines"]["class"].rpartition(".")[2]
        self._kind = KINDS.get(self.launcher_name)
        sets = state["engines"]["sets"].values()
        self._engines = next(iter(sets), {})
        self.n = sum(engines["n"] for engines in sets)
        self._job = None
        if job_id := self._engines.get("job_id"):
            self._job = JobWatch(self._kind(**self._engines["options"]), job_id, _POLL_S)

    @property
    def command(self):
        if self._job:
            return f"{shlex.join(self._kind.submit)} {self._script_path}"
        return shlex.join(_command_line(self._engines["pid"]))

    @property
    def script(self):
        """The job script as it was submitted; empty where there is none."""
        return self._script_path.read_text() if self._job and self._script_path.is_file() else ""

    @property
    def _script_path(self):
        return Path(self._engines["output_file"]).with_suffix(".sh")

    def open(self, timeout):
        """Connect to the controller: ipyparallel.Client."""
        import ipyparallel

        try:
            with _quiet():
                return ipyparallel.Client(str(self.connection), timeout=min(timeout, 20))
        except TimeoutError:
            raise RuntimeError(
                f"The cluster of {self.connection} does not answer. Type `{self.stop_line}` in a terminal; if that "
                "does not help, delete this file."
            ) from None

    def state(self):
        """Whether the engines may still come, or go on: JobState."""
        if self._job:
            return _of_job(self._job.job_id, self._job.state())
        return JobState("running", "") if runs(self._engines["pid"]) else JobState("ended", "mpiexec has ended")

    def output(self):
        """What mpiexec and the engines have printed."""
        file = Path(self._engines.get("output_file", ""))
        return file.read_text(errors="replace") if file.is_file() else ""

    def close(self, client, patience_s, is_busy, is_kept):
        """End the connection alone: whoever started the engines ends them."""
        if client is not None:
            client.close()


def runs(pid):
    """Whether a process of this host runs; one that has ended does not, though nobody has asked how."""
    try:
        return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _finalize(client):
    """Let idle engines take leave of MPI, which leaves its shared memory behind where it is ended by force."""
    from ipyparallel.error import NoEnginesRegistered

    with contextlib.suppress(NoEnginesRegistered):
        client[:].apply_async(_end_mpi).wait(_FINALIZE_S)


def _end_mpi():
    from mpi4py import MPI

    MPI.Finalize()


@contextlib.contextmanager
def _quiet():
    """Without the warning that messages bear no signature: a connection that is encrypted needs none."""
    from traitlets.log import get_logger

    def is_another(record):
        return not record.getMessage().startswith("Message signing is disabled")

    log = get_logger()
    log.addFilter(is_another)
    try:
        yield
    finally:
        log.removeFilter(is_another)


def _of_job(job_id, state):
    return JobState(state.phase, f"job {job_id}: {state.words}")


def _command_line(pid):
    try:
        return psutil.Process(pid).cmdline()
    except psutil.NoSuchProcess:
        return []
