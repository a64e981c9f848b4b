"""A real Slurm with this machine as its only node, for the duration of the tests: `with slurm(folder): ...`."""

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import psutil

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "sinfo")
_N_CPUS = 8  # may exceed the cores of the machine: ranks of tests share cores

_CONFIGURATION = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
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
MpiDefault=pmi2
ReturnToService=2
KillWait=2
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs={n_cpus} State=UNKNOWN
PartitionName=debug Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def missing():
    """Names of programs that Slurm needs and this machine lacks."""
    return [name for name in PROGRAMS if _which(name) is None]


@contextlib.contextmanager
def slurm(folder):
    """Start munged, slurmctld and slurmd in `folder`; at the end, stop them and all their jobs.

    Yields
    ------
    dict
        Environment variables that programs need to find this Slurm.
    """
    folder = Path(folder)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    host = socket.gethostname().partition(".")[0]
    ports = dict(zip(("controller_port", "node_port"), _free_ports(2), strict=True))
    # MPI names shared memory after the job, so job numbers must differ from those of earlier, killed jobs.
    first_job = int(time.time()) % 6_000_000 * 10
    names = {"host": host, "user": getpass.getuser(), "n_cpus": _N_CPUS, "first_job": first_job}
    text = _CONFIGURATION.format(folder=folder, **names, **ports)
    (folder / "slurm.conf").write_text(text)
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o600)
    environment = {"SLURM_CONF": str(folder / "slurm.conf")}
    started = []
    try:
        started.append(_start(_munged(folder), folder))
        _wait_for((folder / "munge.socket").exists, folder, started)
        for name in ("slurmctld", "slurmd"):
            started.append(_start([_which(name), "-D", "-f", environment["SLURM_CONF"]], folder, environment))
        _wait_for(lambda: _is_idle(environment), folder, started)
        yield environment
    finally:
        _end(started, environment)


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
        ended = [process.args[0] for process in started if process.poll() is not None]
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
