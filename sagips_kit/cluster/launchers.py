"""How ipyparallel starts engines on a cluster: as one job of a scheduler, or inside an allocation.

ipyparallel's own launchers of jobs start an array of engines without MPI, never ask the scheduler, and write their
script into the current folder.  Only ipyparallel imports this module, by the names in a profile's
`ipcluster_config.py`; the text of the job scripts is written in `jobs`.
"""

import contextlib
import shlex
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import psutil
from ipyparallel.cluster.app import IPClusterStart
from ipyparallel.cluster.launcher import (
    EngineLauncher,
    LauncherError,
    LocalControllerLauncher,
    MPIEngineSetLauncher,
    NotRunning,
)
from traitlets import Dict, Float, Unicode

from .jobs import EXAMPLES, PBS, Job, JobState, JobWatch, Placement, Slurm, passed_environment


class NetworkController(LocalControllerLauncher):
    """A controller that listens on the network of the engines' option `interface`.

    `Cluster.controller_ip`, or `ipcluster start --ip=...`, has priority.
    """

    entrypoint_name = f"{__name__}.NetworkController"  # its name in the files that describe a cluster

    def find_args(self) -> list[str]:
        args = super().find_args()
        if self.parent is None or any(arg.startswith("--ip=") for arg in args):
            return args
        engines = self.parent.engine_launcher_class(parent=self.parent)
        ip, location = controller_address(getattr(engines, "given", {}).get("interface", ""))
        return [*args, f"--ip={ip}", f"--location={location}"]


def controller_address(interface: str) -> tuple[str, str]:
    """Where the controller listens, and where engines look for it.

    Parameters
    ----------
    interface : str
        A network interface of this host, such as "hsn0".  If there is none of this name, the controller listens on all
        interfaces and is found by the host's name.

    Returns
    -------
    tuple of str
        The IP address to listen on, and the address for the engines.
    """
    for address in psutil.net_if_addrs().get(interface, []):
        if address.family == socket.AF_INET:
            return address.address, address.address
    return "*", socket.gethostname()


class PlacedEngines(EngineLauncher):
    """Engines that are started by the options of a profile."""

    kind: ClassVar[type[Placement]] = Placement
    defaults = Dict(config=True, help="Options of the profile: fields of its kind in sagips_kit.cluster.jobs")
    defaults.tag(to_dict=True)
    options = Dict(config=True, help="The same as the user has given them; they have priority").tag(to_dict=True)

    @property
    def given(self) -> dict[str, Any]:
        """The options before they are validated."""
        return {**self.defaults, **self.options}

    @property
    def placement(self) -> Placement:
        """The options as a value; ValueError if one is wrong."""
        return self.kind(**self.given)


class AllocationEngines(PlacedEngines, MPIEngineSetLauncher):
    """Engines on nodes that have been allocated to this process already."""

    entrypoint_name = f"{__name__}.AllocationEngines"

    def find_args(self) -> list[str]:
        return shlex.split(self.placement.command(self.n, [*self.program, *self.program_args]))

    def get_env(self) -> dict[str, str]:
        return super().get_env() | self.placement.variables

    def script(self, n: int) -> str:
        """What starts n engines, as text."""
        self.n = n
        variables = " ".join(f"{name}={text}" for name, text in self.placement.variables.items())
        return f"{variables} {shlex.join(self.args)}\n"


class JobEngines(PlacedEngines):
    """Engines as one job: all of them, or none."""

    kind: ClassVar[type[Job]] = Job
    job_id = Unicode().tag(to_dict=True)
    output_file = Unicode().tag(to_dict=True)
    poll_s = Float(5.0, config=True, help="Seconds between two queries of the scheduler")

    _job_watch: JobWatch | None = None

    @property
    def job(self) -> Job:
        """The options as a value; ValueError if one is wrong."""
        return self.kind(**self.given)

    def script(self, n: int) -> str:
        """The text of the job script for n engines."""
        self.n = n
        self.output_file = str(self._file("log"))
        connection = [f"--profile-dir={self.profile_dir}", f"--cluster-id={self.cluster_id}"]
        program = [*self.engine_cmd, "--mpi", *connection, *self.engine_args]
        body = [self.job.command(n, program)]
        return self.job.script(n, body, self._name, self.output_file, passed_environment() | self.environment)

    @property
    def _name(self) -> str:
        # Clusters that share a profile differ in their ids; the job's number is not known before it is submitted.
        return "-".join(filter(None, ("sagips", self.cluster_id)))

    def _file(self, ending: str) -> Path:
        return Path(self.profile_dir, "jobs", f"{self._name}.{ending}")

    def find_args(self) -> list[str]:
        return [*self.kind.submit_command, str(self._file("sh"))]

    def start(self, n: int) -> str:
        """Write the script and submit it, after checking that no option is missing or wrong; returns the job's id."""
        try:
            missing, text = self.job.missing(), self.script(n)
        except ValueError as error:  # an option that was edited by hand
            self._refuse(str(error))
        if missing:
            name = Path(self.profile_dir).name.removeprefix("profile_")
            words = " ".join(f"--{option} {EXAMPLES.get(option, '...')}" for option in missing)
            self._refuse(f"{', '.join(missing)} missing. Type `sagips profiles install {name} {words}`.")
        path = self._file("sh")
        path.parent.mkdir(parents=True, exist_ok=True)
        # The output of an earlier cluster of this name would be mistaken for that of this one.
        Path(self.output_file).unlink(missing_ok=True)
        path.write_text(text)
        path.chmod(0o700)
        try:
            self.job_id = self.job.submit(path)
        except (OSError, RuntimeError, subprocess.TimeoutExpired) as error:
            self._refuse(str(error))
        self.notify_start({"job_id": self.job_id})
        self.log.info(f"Job {self.job_id} submitted: {path}")
        self._watch()
        return self.job_id

    def _refuse(self, text: str) -> NoReturn:
        # ipcluster would continue without engines.
        if IPClusterStart.initialized():
            self.log.critical(text)
            IPClusterStart.instance().exit(1)
        raise LauncherError(text)

    @classmethod
    def from_dict(cls, d: dict[str, Any], **kwargs: Any) -> "JobEngines":
        """The launcher of a job that was submitted by another process; NotRunning if the job has ended."""
        launcher = super().from_dict(d, **kwargs)
        if launcher.poll() is not None:
            raise NotRunning(f"job {launcher.job_id}: {launcher.job_state().words}")
        launcher._watch()
        return launcher

    def job_state(self) -> JobState:
        """The scheduler's latest answer, at most `poll_s` seconds old."""
        if self._job_watch is None:
            self._job_watch = JobWatch(self.job, self.job_id, self.poll_s)
        return self._job_watch.state()

    def poll(self) -> int | None:
        """None while the job is queued or running, then 0."""
        return 0 if self.job_state().phase == "ended" else None

    def _watch(self) -> None:
        loop = self.loop
        threading.Thread(target=self._follow, args=(loop,), daemon=True, name=f"job {self.job_id}").start()

    def _follow(self, loop: Any) -> None:
        """In a thread: log each new state of the job, and notify the cluster when the job has ended."""
        words = None
        while self.state == "running":
            state = self.job_state()
            if state.words != words:
                words = state.words
                self.log.info(f"Job {self.job_id}: {words}")
            if state.phase == "ended":
                if self._job_watch and self._job_watch.was_requeued:
                    self.job.cancel(self.job_id)  # its engines would look for an MPI world that is given up
                data = {"job_id": self.job_id, "state": words, "exit_code": 1}
                # The loop of a notebook may have been closed since.
                with contextlib.suppress(RuntimeError):
                    loop.add_callback(self.notify_stop, data)
                return
            time.sleep(self.poll_s)

    def stop(self) -> None:
        """Cancel the job; a job that has ended already is no error."""
        if self.state == "running":
            self.job.cancel(self.job_id)
            self.notify_stop({"job_id": self.job_id, "exit_code": 0})

    def get_output(self, remove: bool = False) -> str:
        """What the job has printed, and what the scheduler has added; the files stay."""
        files = (Path(self.output_file), Path(f"{self.output_file}.{self.kind.scheduler}"))
        return "\n".join(file.read_text(errors="replace") for file in files if self.output_file and file.is_file())


class PBSEngines(JobEngines):
    """Engines as one job of PBS Pro or OpenPBS."""

    kind: ClassVar[type[Job]] = PBS
    entrypoint_name = f"{__name__}.PBSEngines"


class SlurmEngines(JobEngines):
    """Engines as one job of Slurm."""

    kind: ClassVar[type[Job]] = Slurm
    entrypoint_name = f"{__name__}.SlurmEngines"
