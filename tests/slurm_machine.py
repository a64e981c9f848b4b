"""A real Slurm with this machine as its only node, for the duration of the tests: `with slurm(folder): ...`."""

import contextlib
import getpass
import os
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path

import psutil

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "sinfo")
_LEAST_AGE_S = 300  # for which Slurm knows jobs that have ended: its default
_N_CPUS = 8  # may exceed the cores of the machine: ranks of tests share cores

_CONFIGURATION = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=10
CryptoType=crypto/munge
FirstJobId={first_job}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
MinJobAge={least_age_s}
MpiDefault=pmi2
ReturnToService=2
KillWait=2
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs={n_cpus} State=UNKNOWN
PartitionName=debug Nodes={host} Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=urgent Nodes={host} MaxTime=INFINITE State=UP PriorityTier=9
"""


def missing():
    """Names of programs that Slurm needs and this machine lacks."""
    return [name for name in PROGRAMS if _which(name) is None]


class Slurm:
    """A Slurm that is running.

    Attributes
    ----------
    environment : dict
        Environment variables that programs need to find it.
    host : str
        The name of its node.
    """

    def __init__(self, folder, host, started):
        self.environment, self.host = {"SLURM_CONF": str(folder / "slurm.conf")}, host
        self._folder, self._started = folder, started

    def start(self, name):
        """Start slurmctld or slurmd."""
        command = [_which(name), "-D", "-f", self.environment["SLURM_CONF"]]
        self._started[name] = _start(command, self._folder, self.environment)

    def stop_controller(self):
        """End slurmctld as if its machine failed."""
        self._started["slurmctld"].kill()
        self._started["slurmctld"].wait()

    def forget_jobs_after(self, seconds):
        """How long slurmctld knows about jobs that have ended; it looks for these once a minute."""
        conf = self._folder / "slurm.conf"
        conf.write_text(re.sub("(?m)^MinJobAge=.*", f"MinJobAge={seconds}", conf.read_text()))
        subprocess.run(["scontrol", "reconfigure"], check=True, env=os.environ | self.environment)


@contextlib.contextmanager
def slurm(folder):
    """Start munged, slurmctld and slurmd in `folder`; at the end, stop them and all their jobs.

    Yields
    ------
    Slurm
        With the environment variables that programs need to find it.
    """
    folder = Path(folder)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    host = socket.gethostname().partition(".")[0]
    ports = dict(zip(("controller_port", "node_port"), _free_ports(2), strict=True))
    # MPI names shared memory after the job, so job numbers must differ from those of earlier, killed jobs.
    first_job = int(time.time()) % 6_000_000 * 10
    names = {"host": host, "user": getpass.getuser(), "n_cpus": _N_CPUS, "first_job": first_job}
    names["least_age_s"] = _LEAST_AGE_S
    text = _CONFIGURATION.format(folder=folder, **names, **ports)
    (folder / "slurm.conf").write_text(text)
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o600)
    started = {}
    machine = Slurm(folder, host, started)
    try:
        started["munged"] = _start(_munged(folder), folder)
        _wait_for((folder / "munge.socket").exists, folder, started)
        for name in ("slurmctld", "slurmd"):
            machine.start(name)
        _wait_for(lambda: _is_idle(machine.environment), folder, started)
        yield machine
    finally:
        _end([*started.values()], machine.environment)


def _which(name):
    return shutil.which(name, path=f"{os.environ['PATH']}{os.pathsep}/usr/sbin")


def _munged(folder):
    options = {
        "socket": "munge.socket",
        "key-file": "munge.key",
        "pid-file": "munge.pid",
        "log-file": "munge.log",
        "seed-file": "munge.seed",
    }
    return [_which("munged"), "--foreground", "--force", *(f"--{name}={folder / f}" for name, f in options.items())]


def _start(command, folder, environment=None):
    with open(folder / "daemons.log", "ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | (environment or {}))


def _free_ports(n):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(n)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _is_idle(environment):
    command = ["sinfo", "--noheader", "--format=%T"]
    asked = subprocess.run(command, capture_output=True, text=True, timeout=20, env=os.environ | environment)
    return asked.stdout.strip() == "idle"


def _wait_for(condition, folder, started):
    deadline = time.monotonic() + 60
    while not condition():
        ended = [process.args[0] for process in started.values() if process.poll() is not None]
        if ended or time.monotonic() > deadline:
            logs = "\n".join(file.read_text(errors="replace")[-2000:] for file in sorted(folder.glob("*.log")))
            raise RuntimeError(f"Slurm does not start; ended: {ended}\n{logs}")
        time.sleep(0.1)


def _end(started, environment):
    if len(started) == 3:
        command = ["scancel", "--state=PENDING,RUNNING", f"--user={getpass.getuser()}"]
        subprocess.run(command, capture_output=True, timeout=20, env=os.environ | environment)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and not _is_idle(environment):
            time.sleep(0.2)
    # The processes of a job do not end with the daemon that started them.
    processes = [child for one in started for child in _tree(one.pid)]
    for process in started:
        process.terminate()
    for process in psutil.wait_procs(processes, timeout=10)[1]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    for process in started:
        process.wait()


def _tree(pid):
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
