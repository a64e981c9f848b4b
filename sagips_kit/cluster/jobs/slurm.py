"""Jobs of Slurm."""

import re
import shlex
from collections.abc import Sequence
from typing import ClassVar

from ..._value import value
from .base import Job
from .placement import Number, Text
from .states import FORGOTTEN, JobState, Phase

_QUEUED = "PENDING CONFIGURING EXPEDITING POWER_UP_NODE REQUEUED REQUEUE_FED REQUEUE_HOLD RESV_DEL_HOLD SPECIAL_EXIT"
_RUNNING = "RUNNING SUSPENDED STOPPED SIGNALING STAGE_OUT RESIZING UPDATE_DB"
_ENDED = (
    "BOOT_FAIL CANCELLED COMPLETED DEADLINE FAILED LAUNCH_FAILED NODE_FAIL OUT_OF_MEMORY PREEMPTED RECONFIG_FAIL "
    "REVOKED TIMEOUT"
)
_PHASES: dict[str, Phase] = {
    **dict.fromkeys(_QUEUED.split(), "queued"),
    **dict.fromkeys(_RUNNING.split(), "running"),
    "COMPLETING": "ending",
    **dict.fromkeys(_ENDED.split(), "ended"),
}


@value
class Slurm(Job):
    """A job of Slurm that contains all ranks.

    Parameters
    ----------
    mpiexec : str
        Command that starts all ranks.  The placeholders {n} (ranks), {nodes}, {ranks_per_node} and {cores_per_rank} are
        replaced by numbers.
    ranks_per_node : int
        Ranks on each node; 0 puts all ranks on one node.
    cores_per_rank : int
        Cores for each rank.
    threads : int
        Threads of each rank (OMP_NUM_THREADS).
    affinity : str
        Shell commands that each rank executes before MPI starts, for instance to choose its GPU.
    interface : str
        Network interface by which the engines reach the controller, such as "hsn0".  If the machine has no interface of
        this name, the controller listens on all of them and is found by the host's name.
    device : {"", "cpu", "cuda", "xpu", "mps"}
        Type of device on which ranks train (SAGIPS_DEVICE); empty takes an accelerator if there is one.
    account : str
        Project that the node hours are charged to.  Here and below, empty text leaves the option out of the script.
    queue : str
        Partition.
    walltime : str
        Longest duration of the job: HH:MM:SS, minutes, D-HH:MM:SS or UNLIMITED, among others.  Runs stop
        cleanly before it is over.
    nodes : int
        Nodes of the job; 0 takes as many as the ranks need.
    directives : str
        Further options of the scheduler, as on its command line, separated by ";".
    setup : str
        Shell commands that prepare the environment on the compute node, such as "module load mpich".
    qos : str
        Quality of service.
    constraint : str
        Kind of nodes, such as "gpu".
    gpus_per_node : int
        GPUs of each node; 0 requests none.

    Raises
    ------
    ValueError
        For an unknown option, a value of the wrong type or out of range, or a walltime that Slurm does not read.

    See Also
    --------
    sagips_kit.install_profile : Keep such options in a profile.
    sagips_kit.show_profile : Print the job script of a profile.
    sagips_kit.cluster.jobs.PBS : The same for PBS.

    Examples
    --------
    >>> from sagips_kit.cluster.jobs import Slurm
    >>> job = Slurm(account="physics", walltime="00:30:00", ranks_per_node=4, mpiexec="srun -n {n}")
    >>> body = [job.command(8, ["python", "train.py"])]
    >>> print(job.script(8, body, "train", "/home/me/train-{id}.log"))
    #!/bin/bash -l
    #SBATCH --job-name=train
    #SBATCH --account=physics
    #SBATCH --time=00:30:00
    #SBATCH --nodes=2
    #SBATCH --ntasks=8
    #SBATCH --ntasks-per-node=4
    #SBATCH --cpus-per-task=1
    #SBATCH --output=/home/me/train-%j.log
    ...
    export OMP_NUM_THREADS=1
    srun -n 8 python train.py
    """

    qos: Text = ""
    constraint: Text = ""
    gpus_per_node: Number = 0

    scheduler: ClassVar[str] = "slurm"
    mark: ClassVar[str] = "#SBATCH"
    submit_command: ClassVar[tuple[str, ...]] = ("sbatch", "--parsable")
    cancel_command: ClassVar[tuple[str, ...]] = ("scancel",)
    # With --parsable, and without it if the command of a site leaves it out; of several clusters, the cluster follows.
    job_id: ClassVar[str] = r"(?:Submitted batch job )?(\d+)(?:(?:;| on cluster )([\w.-]+))?"
    _no_rerun: ClassVar[str] = "--no-requeue"
    id_variable: ClassVar[str] = "$SLURM_JOB_ID"
    walltimes: ClassVar[str] = "HH:MM:SS, MM:SS, minutes, D-HH, D-HH:MM, D-HH:MM:SS or UNLIMITED"
    _state_commands: ClassVar[tuple[tuple[str, ...], ...]] = (
        ("squeue", "--noheader", "--states=all", "--format=%T|%r", "--jobs"),
    )
    _time_limit: ClassVar[str] = "--time(?!-min)|-t"
    _gone: ClassVar[str] = "Invalid job id|already completing or completed"

    def __post_init__(self):
        super().__post_init__()
        signal = next((one for one in self._words if re.match(r"--signal[= ]R?BR?:", one)), None)
        if signal and "trap" not in (self.setup or ""):
            raise ValueError(
                f"directives has {signal!r}, by which Slurm sends the signal to the job script alone: it would end "
                "at once, and the job with it. Leave out 'B:', so that the ranks get the signal and stop cleanly."
            )

    def _directives(self, n: int, name: str, log: str) -> list[str]:
        sizes = self.sizes(n)
        words = {
            "job-name": name,
            "account": self.account,
            "partition": self.queue,
            "qos": self.qos,
            "constraint": self.constraint,
            "time": self.walltime,
            "nodes": sizes["nodes"],
            "ntasks": n,
            "ntasks-per-node": sizes["ranks_per_node"],
            "cpus-per-task": self.cores_per_rank,
            "gpus-per-node": self.gpus_per_node,
            "output": shlex.quote(log.replace("%", "%%").replace("{id}", "%j")),
            "open-mode": "append",
        }
        return [f"--{word}={text}" for word, text in words.items() if text]

    def everywhere(self, n: int) -> str:
        """The beginning of a shell command that executes a program once on each node of a job.

        Parameters
        ----------
        n : int
            Number of ranks of the job.

        Returns
        -------
        str
            Words of a shell.
        """
        nodes = self.sizes(n)["nodes"]
        return f"srun --nodes={nodes} --ntasks={nodes} --ntasks-per-node=1 --overlap"

    def about(self, job_id: str, command: Sequence[str]) -> list[str]:
        """The words of a command about a job.

        Parameters
        ----------
        job_id : str
            As returned by `submit`.
        command : list of str
            The command without the job.

        Returns
        -------
        list of str
            The command with the job, and with its cluster if the site has several.
        """
        number, _, cluster = job_id.partition(";")
        name, *words = command
        return [name, *([f"--clusters={cluster}"] if cluster else []), *words, number]

    @staticmethod
    def walltime_s(walltime: str) -> int | None:
        """The seconds in minutes[:seconds], hours:minutes:seconds or days-hours[:minutes[:seconds]].

        Parameters
        ----------
        walltime : str
            The duration.

        Returns
        -------
        int or None
            0 for no limit, None for a text that Slurm does not read.
        """
        if walltime.upper() in ("UNLIMITED", "INFINITE", "-1"):
            return 0
        match = re.fullmatch(r"(?:([0-9]+)-)?([0-9]+)(?::([0-9]+))?(?::([0-9]+))?", walltime)
        if not match:
            return None
        days, *numbers = match.groups()
        # Without days, one or two numbers begin with minutes.
        first = 60 if days is None and numbers[2] is None else 3600
        units = (86400, first, first // 60, 1)
        return sum(unit * int(number or 0) for unit, number in zip(units, match.groups(), strict=True))

    @staticmethod
    def read_state(text: str) -> JobState:
        """The state of a job from the output of `squeue --format=%T|%r`.

        Parameters
        ----------
        text : str
            Output of `squeue` for one job.

        Returns
        -------
        JobState
            `.phase` ("queued", "running", "ending", "ended" or "unknown") and `.words`, Slurm's own description.
        """
        lines = [line for line in text.strip().splitlines() if not line.startswith("CLUSTER:")]
        if not lines:  # the cluster has no such job
            return FORGOTTEN
        state, _, reason = lines[-1].partition("|")
        words = f"{state}, {reason}" if reason not in ("", "None") else state
        return JobState(_PHASES.get(state.strip(), "unknown"), words)
