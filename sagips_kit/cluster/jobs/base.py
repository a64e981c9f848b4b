"""Jobs of a batch scheduler, as values: the script, its submission, the state of the job.

These values know neither engines nor notebooks: `launchers` passes them the program of the engines, `notebook_job` that
of a notebook.  An option that is None still has to be given; an empty one leaves its line out of the script.
"""

import math
import os
import re
import shlex
import shutil
import subprocess
import warnings
from collections.abc import Mapping, Sequence
from typing import ClassVar

from ..._text import has_control
from ..._value import value
from .placement import Line, Number, Placement, Text
from .states import FORGOTTEN, JobState, run_command

_PASSED = ("IPYTHONDIR", "PYTHONPATH")
_LEAST_S = 60  # of a walltime
EXAMPLES = {"account": "PROJECT", "walltime": "00:30:00", "filesystems": "home:eagle"}


@value
class Job(Placement):
    """One job of a batch scheduler that contains all ranks; the base of `PBS` and `Slurm`.

    Parameters
    ----------
    mpiexec : str
        Command that starts all ranks, with placeholders such as {n}.
    ranks_per_node : int
        Ranks on each node; 0 puts all ranks on one node.
    cores_per_rank : int
        Cores for each rank.
    threads : int
        Threads of each rank (OMP_NUM_THREADS).
    affinity : str
        Shell commands that each rank executes before MPI starts.
    interface : str
        Network interface by which the engines reach the controller.
    device : {"", "cpu", "cuda", "xpu", "mps"}
        Type of device on which ranks train (SAGIPS_DEVICE); empty takes an accelerator if there is one.
    account : str
        Project that the node hours are charged to.
    queue : str
        Queue, or partition.
    walltime : str
        Longest duration of the job, HH:MM:SS or another format that the scheduler reads.  Runs stop cleanly before it
        is over.
    nodes : int
        Nodes of the job; 0 takes as many as the ranks need.
    directives : str
        Further options of the scheduler, as on its command line, separated by ";".
    setup : str
        Shell commands that prepare the environment on the compute node, such as `module load`.
    """

    account: Text = ""
    queue: Text = ""
    walltime: Text = ""
    nodes: Number = 0
    directives: Line = ""
    setup: Line = ""

    scheduler: ClassVar[str]  # extension of the file to which the scheduler writes its own messages
    mark: ClassVar[str]  # begins a line of the script that holds an option of the scheduler
    submit_command: ClassVar[tuple[str, ...]]
    cancel_command: ClassVar[tuple[str, ...]]
    job_id: ClassVar[str]  # pattern of the line of the answer to `submit_command` that holds the id
    _no_rerun: ClassVar[str]  # the option by which a job is never queued again
    id_variable: ClassVar[str]  # shell expression for the job's number
    walltimes: ClassVar[str]  # the durations that it reads, in words
    _state_commands: ClassVar[tuple[tuple[str, ...], ...]]  # the next one is used if one answers nothing
    _time_limit: ClassVar[str]  # pattern of a directive that limits the time of a job
    _gone: ClassVar[str]  # pattern of its answer about a job that it no longer knows

    def __post_init__(self):
        example = EXAMPLES["walltime"]
        line = f'Type walltime="{example}", or --walltime {example} in a terminal.'
        seconds = self.walltime_s(self.walltime) if self.walltime else 0
        if seconds is None:
            raise ValueError(
                f"walltime = {self.walltime!r}: should be {self.walltimes}, because runs stop cleanly before it is "
                f"over. {line}"
            )
        if 0 < seconds < _LEAST_S:
            raise ValueError(
                f"walltime = {self.walltime!r} is {seconds} s for this scheduler, which reads {self.walltimes}: should "
                f"be {_LEAST_S} s or more, because ranks need that long to start and to stop. {line}"
            )
        if limit := next((one for one in self._words if re.match(self._time_limit, one)), None):
            raise ValueError(
                f"directives has {limit!r}, which limits the time of the job: should be the option walltime, because "
                f"runs stop cleanly before it is over. {line}"
            )

    @property
    def _words(self) -> list[str]:
        """The further options of the scheduler, one by one."""
        return [*filter(None, map(str.strip, self.directives.split(";")))]

    def sizes(self, n: int) -> dict[str, int]:
        """The numbers that replace the placeholders of the options.

        Parameters
        ----------
        n : int
            Number of ranks.

        Returns
        -------
        dict of str to int
            With the keys n, nodes, ranks_per_node and cores_per_rank.

        Raises
        ------
        ValueError
            If the ranks do not fit on the nodes.
        """
        sizes = super().sizes(n)
        if not self.nodes:
            return sizes
        per_node = self.ranks_per_node or math.ceil(n / self.nodes)
        if n > self.nodes * per_node:
            raise ValueError(
                f"n = {n} ranks do not fit on nodes = {self.nodes} with ranks_per_node = {per_node}: take "
                f"nodes = {math.ceil(n / per_node)}, or 0 for as many as are needed."
            )
        return sizes | {"nodes": self.nodes, "ranks_per_node": min(per_node, n)}

    def script(
        self,
        n: int,
        body: Sequence[str],
        name: str,
        log: str,
        environment: Mapping[str, str] | None = None,
        reruns: bool = False,
    ) -> str:
        """The text of the job script.

        Parameters
        ----------
        n : int
            Number of ranks.
        body : list of str
            Shell commands that do the work.
        name : str
            Name of the job in the scheduler's lists.
        log : str
            Absolute path of the file to which the job prints; {id} in it is replaced by the number of the job.
        environment : dict of str to str or None
            Environment variables to set.
        reruns : bool
            Whether the scheduler may run the job once more, for instance after a node has failed; then its output is
            appended.

        Returns
        -------
        str
            A bash script with the scheduler's options in its first lines.

        Raises
        ------
        ValueError
            If the ranks do not fit on the nodes, an option has an unknown placeholder, or a text has control
            characters.
        """
        variables = {**self.variables, **(environment or {})}
        name = re.sub(r"[^A-Za-z0-9_.+-]", "_", name)
        words = [*self._directives(n, name, log), *([] if reruns else [self._no_rerun]), *self._words]
        lines = [
            "#!/bin/bash -l",
            *(f"{self.mark} {word}" for word in words),
            "",
            f"umask {_umask():03o}",
            *self._preamble(log),
            *self._end(),
            *(f"export {variable}={shlex.quote(text)}" for variable, text in variables.items()),
            *([self.setup] if self.setup else []),
            *body,
            "",
        ]
        for line in filter(has_control, lines):
            raise ValueError(
                f"{line!r} cannot be a line of a job script: control characters, such as the end of a line, could turn "
                "a name into commands. Rename the file or folder, or change the option."
            )
        return "\n".join(lines)

    def submit(self, path: str | os.PathLike[str]) -> str:
        """Submit a script to the scheduler.

        Parameters
        ----------
        path : path
            The job script.

        Returns
        -------
        str
            The id of the job.

        Raises
        ------
        RuntimeError
            If the scheduler is not installed here, or refuses the script; its message is quoted.
        """
        command = self.submit_command[0]
        if shutil.which(command) is None:
            raise RuntimeError(f"No {command} on PATH: jobs are submitted from a login node of the site.")
        try:
            done = run_command([*self.submit_command, str(path)])
        except subprocess.TimeoutExpired as error:
            raise RuntimeError(
                f"{command} has not answered within {error.timeout:.0f} s, and may have submitted {path} all the same: "
                "look at your jobs in the queue before you submit it again."
            ) from None
        # Schedulers and sites print greetings and warnings, too; the id comes last.
        lines = reversed(done.stdout.splitlines())
        found = next(filter(None, (re.fullmatch(self.job_id, line.strip()) for line in lines)), None)
        if done.returncode or not found:
            said = "\n".join(filter(None, (done.stderr.strip(), done.stdout.strip())))
            raise RuntimeError(f"{command} refused {path}:\n{said}")
        return ";".join(filter(None, found.groups()))

    def state(self, job_id: str) -> JobState:
        """Ask the scheduler for the state of a job.

        Parameters
        ----------
        job_id : str
            As returned by `submit`.

        Returns
        -------
        JobState
            `.phase` ("queued", "running", "ending", "ended" or "unknown") and `.words`, the scheduler's description.
        """
        words = ""
        for command in self._state_commands:
            try:
                done = run_command(self.about(job_id, command))
            except (OSError, subprocess.TimeoutExpired) as error:
                return JobState("unknown", str(error))
            if done.returncode == 0 and done.stdout.strip():
                return self.read_state(done.stdout)
            words = (done.stderr or done.stdout).strip()
            if done.returncode:
                break
        # Schedulers forget a job soon after its end; any other refusal says nothing about the job.
        if re.search(self._gone, words) or not (words or done.returncode):
            return FORGOTTEN
        return JobState("unknown", words or f"{command[0]} returned exit status {done.returncode}")

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
            The command with the job.
        """
        return [*command, job_id]

    def cancel(self, job_id: str) -> None:
        """Cancel a job; a job that has ended already is no error.

        Parameters
        ----------
        job_id : str
            As returned by `submit`.

        Warns
        -----
        UserWarning
            If the job could not be cancelled and may still be running.
        """
        try:
            done = run_command(self.about(job_id, self.cancel_command))
            words = (done.stderr or done.stdout).strip()
            words = words or f"{self.cancel_command[0]} returned exit status {done.returncode}"
            is_over = not done.returncode or re.search(self._gone, words) or self.state(job_id).is_over
        except (OSError, subprocess.TimeoutExpired) as error:
            words, is_over = str(error), False
        if not is_over:
            line = shlex.join(self.about(job_id, self.cancel_command))
            warnings.warn(
                f"Job {job_id} was not cancelled, and may continue at your account's cost: {words.rstrip('.')}. Type "
                f"`{line}` in a terminal.",
                stacklevel=2,
            )

    def everywhere(self, n: int) -> str:
        """The beginning of a shell command that executes a program once on each node of a job.

        Parameters
        ----------
        n : int
            Number of ranks of the job.

        Returns
        -------
        str
            Words of a shell, empty if the program would run on the first node alone.
        """
        return ""

    def _directives(self, n: int, name: str, log: str) -> list[str]:
        """The job's name, resources and output file as options of the scheduler."""
        raise NotImplementedError

    def _end(self) -> list[str]:
        """The shell command that sets the time at which the job ends, so that runs can stop cleanly before."""
        seconds = self.walltime_s(self.walltime) if self.walltime else 0
        return [f"export SAGIPS_ENDS_AT=$(($(date +%s) + {seconds}))"] if seconds else []

    def _preamble(self, log: str) -> list[str]:
        """Shell commands that come first."""
        return []

    @staticmethod
    def walltime_s(walltime: str) -> int | None:
        """A duration in seconds, as the scheduler reads it.

        Parameters
        ----------
        walltime : str
            The duration.

        Returns
        -------
        int or None
            0 for no limit, None for a text that the scheduler does not read.
        """
        raise NotImplementedError

    @staticmethod
    def read_state(text: str) -> JobState:
        """The state of a job from the scheduler's answer.

        Parameters
        ----------
        text : str
            Output of the scheduler's command.

        Returns
        -------
        JobState
            `.phase` and `.words`, the scheduler's own description.
        """
        raise NotImplementedError


def passed_environment() -> dict[str, str]:
    """Environment variables by which a job's Python finds the same modules and profiles as this one.

    Nothing else is passed on, because schedulers show a job's environment to everybody.
    """
    return {name: os.environ[name] for name in _PASSED if os.environ.get(name)}


def _umask() -> int:
    """The umask of this process, which the files of a job get, too: that of PBS makes them unreadable to others."""
    before = os.umask(0o077)
    os.umask(before)
    return before
