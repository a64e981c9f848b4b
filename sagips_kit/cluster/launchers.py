"""How ipyparallel starts engines on a cluster: as one job of a scheduler, or inside an allocation.

ipyparallel's own launchers of jobs start an array of engines without MPI, never ask the scheduler, and write their
script into the current folder.  Only ipyparallel imports this module, by the names in a profile's
`ipcluster_config.py`; what a script says is in `jobs`.
"""

import contextlib
import shlex
import subprocess
import threading
import time
from pathlib import Path

from ipyparallel.cluster.app import IPClusterStart
from ipyparallel.cluster.launcher import EngineLauncher, LauncherError, MPIEngineSetLauncher, NotRunning
from traitlets import Dict, Float, Unicode

from .jobs import EXAMPLES, PBS, JobWatch, Ranks, Slurm, passed_environment


class AllocationEngines(MPIEngineSetLauncher):
    """Engines on nodes that this process has been given already."""

    kind = Ranks
    entrypoint_name = f"{__name__}.AllocationEngines"  # by which a cluster's file calls it
    options = Dict(config=True, help="Options of sagips_kit.jobs.Ranks")

    @property
    def job(self):
        return self.kind(**self.options)

    def find_args(self):
        return shlex.split(self.job.command(self.n, [*self.program, *self.program_args]))

    def get_env(self):
        return super().get_env() | {"OMP_NUM_THREADS": str(self.job.threads)}

    def script(self, n):
        """What starts n engines, as text."""
        self.n = n
        return f"OMP_NUM_THREADS={self.job.threads} {shlex.join(self.args)}\n"


class JobEngines(EngineLauncher):
    """Engines as one job: all of them, or none."""

    kind = None
    options = Dict(config=True, help="Options of the job: the fields of its kind in sagips_kit.jobs").tag(to_dict=True)
    job_id = Unicode().tag(to_dict=True)
    output_file = Unicode().tag(to_dict=True)
    poll_s = Float(5.0, config=True, help="Seconds between two questions to the scheduler")

    _job_watch = None

    @property
    def job(self):
        return self.kind(**self.options)

    def script(self, n):
        """The text of the job script for n engines."""
        self.n = n
        self.output_file = str(self._file("log"))
        connection = [f"--profile-dir={self.profile_dir}", f"--cluster-id={self.cluster_id}"]
        program = [*self.engine_cmd, "--mpi", *connection, *self.engine_args]
        body = [self.job.command(n, program)]
        return self.job.script(n, body, self._name, self.output_file, passed_environment() | self.environment)

    @property
    def _name(self):
        # Clusters that share a profile differ in their ids; the job's number is not known before it is submitted.
        return "-".join(filter(None, ("sagips", self.cluster_id)))

    def _file(self, ending):
        return Path(self.profile_dir, "jobs", f"{self._name}.{ending}")

    def find_args(self):
        return [*self.kind.submit, str(self._file("sh"))]

    def start(self, n):
        """Write the script and submit it; options that are missing or wrong are told before."""
        try:
            missing, text = self.job.missing(), self.script(n)
        except ValueError as error:  # written into the profile by hand
            self._refuse(str(error))
        if missing:
            name = Path(self.profile_dir).name.removeprefix("profile_")
            words = " ".join(f"--{option} {EXAMPLES.get(option, '...')}" for option in missing)
            self._refuse(f"{', '.join(missing)} missing. Type `sagips profiles install {name} {words}`.")
        path = self._file("sh")
        path.parent.mkdir(parents=True, exist_ok=True)
        # What an earlier cluster of this name has printed would be taken for this one's.
        Path(self.output_file).unlink(missing_ok=True)
        path.write_text(text)
        path.chmod(0o700)
        try:
            self.job_id = self.job.submitted(path)
        except (OSError, RuntimeError, subprocess.TimeoutExpired) as error:
            self._refuse(str(error))
        self.notify_start({"job_id": self.job_id})
        self.log.info(f"Job {self.job_id} submitted: {path}")
        self._watch()
        return self.job_id

    def _refuse(self, text):
        # ipcluster would go on without engines.
        if IPClusterStart.initialized():
            self.log.critical(text)
            IPClusterStart.instance().exit(1)
        raise LauncherError(text)

    @classmethod
    def from_dict(cls, d, **kwargs):
        launcher = super().from_dict(d, **kwargs)
        if launcher.poll() is not None:
            raise NotRunning(f"job {launcher.job_id}: {launcher.job_state().words}")
        launcher._watch()
        return launcher

    def job_state(self):
        """What the scheduler says of the job, a moment ago at most: JobState."""
        if self._job_watch is None:
            self._job_watch = JobWatch(self.job, self.job_id, self.poll_s)
        return self._job_watch.state()

    def poll(self):
        """None while the job is queued or runs, then 0."""
        return 0 if self.job_state().phase == "ended" else None

    def _watch(self):
        loop = self.loop
        threading.Thread(target=self._follow, args=(loop,), daemon=True, name=f"job {self.job_id}").start()

    def _follow(self, loop):
        """In a thread: tell the log what becomes of the job, and the cluster when it has ended."""
        words = None
        while self.state == "running":
            state = self.job_state()
            if state.words != words:
                words = state.words
                self.log.info(f"Job {self.job_id}: {words}")
            if state.phase == "ended":
                data = {"job_id": self.job_id, "state": words, "exit_code": 1}
                # The loop of a notebook may have been closed since.
                with contextlib.suppress(RuntimeError):
                    loop.add_callback(self.notify_stop, data)
                return
            time.sleep(self.poll_s)

    def stop(self):
        """Cancel the job; one that has ended already is no error."""
        if self.state == "running":
            self.job.cancel(self.job_id)
            self.notify_stop({"job_id": self.job_id, "exit_code": 0})

    def get_output(self, remove=False):
        """What the job has printed, and what the scheduler has added; the files stay."""
        files = (Path(self.output_file), Path(f"{self.output_file}.{self.kind.scheduler}"))
        return "\n".join(file.read_text(errors="replace") for file in files if self.output_file and file.is_file())


class PBSEngines(JobEngines):
    """Engines as one job of PBS Pro or OpenPBS."""

    kind = PBS
    entrypoint_name = f"{__name__}.PBSEngines"


class SlurmEngines(JobEngines):
    """Engines as one job of Slurm."""

    kind = Slurm
    entrypoint_name = f"{__name__}.SlurmEngines"
