"""Jobs of PBS Pro and OpenPBS."""

import re
import shlex
from typing import ClassVar

from ..._value import value
from .base import Job
from .placement import Text
from .states import JobState, Phase

_QUEUED: dict[str, Phase] = dict.fromkeys("QHWT", "queued")
_RUNNING: dict[str, Phase] = dict.fromkeys("RSUB", "running")
# A job that was moved to another server (M) may still run there.
_PHASES: dict[str, Phase] = {**_QUEUED, **_RUNNING, "E": "ending", "F": "ended", "X": "ended"}


@value
class PBS(Job):
    """A job of PBS Pro or OpenPBS that contains all ranks.

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
        Queue.
    walltime : str
        Longest duration of the job: HH:MM:SS, MM:SS or seconds.  Runs stop
        cleanly before it is over.
    nodes : int
        Nodes of the job; 0 takes as many as the ranks need.
    directives : str
        Further options of the scheduler, as on its command line, separated by ";".
    setup : str
        Shell commands that prepare the environment on the compute node, such as "module load mpich".
    select : str
        Resources of each node, such as "system=polaris" or "ncpus=4:mpiprocs=4"; may contain the placeholders above.
    place : str
        How the nodes are chosen, such as "scatter".
    filesystems : str
        Filesystems that the job needs, such as "home:eagle".

    Raises
    ------
    ValueError
        For an unknown option, a value of the wrong type or out of range, or a walltime that PBS does not read.

    See Also
    --------
    sagips_kit.install_profile : Keep such options in a profile.
    sagips_kit.show_profile : Print the job script of a profile.
    sagips_kit.cluster.jobs.Slurm : The same for Slurm.

    Examples
    --------
    >>> from sagips_kit.cluster.jobs import PBS
    >>> job = PBS(account="physics", walltime="00:30:00", ranks_per_node=4, select="ngpus={ranks_per_node}")
    >>> body = [job.command(8, ["python", "train.py"])]
    >>> print(job.script(8, body, "train", "/home/me/train.log"))
    #!/bin/bash -l
    #PBS -N train
    #PBS -A physics
    #PBS -l select=2:ngpus=4
    #PBS -l walltime=00:30:00
    ...
    export OMP_NUM_THREADS=1
    mpiexec -n 8 python train.py
    """

    select: Text = ""
    place: Text = ""
    filesystems: Text = ""

    scheduler: ClassVar[str] = "pbs"
    mark: ClassVar[str] = "#PBS"
    submit_command: ClassVar[tuple[str, ...]] = ("qsub",)
    cancel_command: ClassVar[tuple[str, ...]] = ("qdel",)
    job_id: ClassVar[str] = r"(\d+(?:\.[\w.-]+)?)"
    _no_rerun: ClassVar[str] = "-r n"
    id_variable: ClassVar[str] = "${PBS_JOBID%%.*}"
    walltimes: ClassVar[str] = "HH:MM:SS, MM:SS or seconds"
    # A server that keeps no history of jobs answers nothing to -x.
    _state_commands: ClassVar[tuple[tuple[str, ...], ...]] = (("qstat", "-x", "-f"), ("qstat", "-f"))
    _time_limit: ClassVar[str] = r"-l\s*(?:.*[, ])?walltime="
    _gone: ClassVar[str] = "Unknown Job Id|has finished"

    def _directives(self, n: int, name: str, log: str) -> list[str]:
        nodes = self.sizes(n)["nodes"]
        select = f"{nodes}:{self.filled('select', n)}" if self.select else nodes
        resources = {"place": self.place, "walltime": self.walltime, "filesystems": self.filesystems}
        return [
            f"-N {name}",
            *([f"-A {self.account}"] if self.account else []),
            *([f"-q {self.queue}"] if self.queue else []),
            f"-l select={select}",
            *(f"-l {resource}={text}" for resource, text in resources.items() if text),
            "-j oe",
            f"-o {shlex.quote(log.replace('-{id}', ''))}.pbs",  # PBS does not replace a job's number here
        ]

    def _preamble(self, log: str) -> list[str]:
        # PBS delivers a job's output only when the job has ended.
        file = f'"{self.id_variable}"'.join(map(shlex.quote, log.split("{id}")))
        # bash calls this when its present command has ended, so that the script can clear up.
        return [f"exec >>{file} 2>&1", "trap 'echo PBS has asked this job to end: SIGTERM' TERM"]

    @staticmethod
    def walltime_s(walltime: str) -> int | None:
        """The seconds in [[hours:]minutes:]seconds[.fraction].

        Parameters
        ----------
        walltime : str
            The duration.

        Returns
        -------
        int or None
            None for a text that PBS does not read.
        """
        if not re.fullmatch(r"([0-9]+:){0,2}[0-9]+(\.[0-9]+)?", walltime):
            return None
        total = 0
        for number in walltime.partition(".")[0].split(":"):
            total = 60 * total + int(number)
        return total

    @staticmethod
    def read_state(text: str) -> JobState:
        """The state of a job from the output of `qstat -f`.

        Parameters
        ----------
        text : str
            Output of `qstat -f` for one job.

        Returns
        -------
        JobState
            `.phase` ("queued", "running", "ending", "ended" or "unknown") and `.words`, PBS's own description.
        """
        entries = dict(re.findall(r"^ +(\w+) = (.*)$", text.replace("\n\t", ""), flags=re.MULTILINE))
        letter = entries.get("job_state", "?")
        phase = _PHASES.get(letter, "unknown")
        words = [letter, entries.get("comment", "")]
        if phase == "ended" and "Exit_status" in entries:
            words.append(f"exit status {entries['Exit_status']}")
        return JobState(phase, ", ".join(filter(None, words)))
