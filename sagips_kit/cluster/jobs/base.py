"""How ranks are started on a cluster, as values: the line that starts them, the script of a job, the scheduler's words.

A value here knows neither engines nor notebooks: `launchers` gives it the program of the engines, `batch` that of a
notebook.  An option that is None has not been given yet; an empty one leaves its line out.
"""

import math
import os
import re
import shlex
import shutil
import subprocess
import time
import warnings
from dataclasses import dataclass, fields
from typing import Annotated, ClassVar, Literal

import pydantic
from pydantic import Field

from ..._value import Count, value

Text = Annotated[str, Field(pattern=r"^[^\n]*$")] | None
Line = Annotated[str, Field(pattern=r"^[^\n]*$")]
Number = Annotated[int, Field(ge=0)]

_PASSED = ("IPYTHONDIR", "PYTHONPATH")
EXAMPLES = {"account": "PROJECT", "walltime": "00:30:00", "filesystems": "home:eagle"}


@dataclass(frozen=True)
class JobState:
    """What the scheduler says of a job.

    Attributes
    ----------
    phase : {"queued", "running", "ended", "unknown"}
        "unknown" if the scheduler did not answer.
    words : str
        The scheduler's own.
    """

    phase: Literal["queued", "running", "ended", "unknown"]
    words: str


@value
class Ranks:
    """Ranks on nodes that are there already.

    Parameters
    ----------
    mpiexec : str
        Command that starts all ranks; {n}, {nodes}, {ranks_per_node}, {cores_per_rank} stand for numbers.
    ranks_per_node : int
        0 puts all on one node.
    cores_per_rank : int
        Cores for each rank.
    threads : int
        Threads of each rank (OMP_NUM_THREADS).
    affinity : str
        Shell commands that each rank runs before MPI starts, for instance to choose its GPU.
    interface : str
        Network by which engines reach the controller, such as "hsn0"; the host's name where there is none.
    """

    mpiexec: Line = "mpiexec -n {n}"
    ranks_per_node: Number = 0
    cores_per_rank: Count = 1
    threads: Count = 1
    affinity: Line = ""
    interface: Line = ""

    def missing(self):
        """Names of options that have to be given still."""
        return [field.name for field in fields(self) if getattr(self, field.name) is None]

    def sizes(self, n):
        """The numbers that options can refer to, for n ranks: dict."""
        per_node = min(self.ranks_per_node or n, n)
        nodes = math.ceil(n / per_node)
        return {"n": n, "nodes": nodes, "ranks_per_node": per_node, "cores_per_rank": self.cores_per_rank}

    def command(self, n, program):
        """The shell command that starts `program` (list of str) on n ranks."""
        wrapper = ["bash", "-c", f'{self.affinity}; exec "$0" "$@"'] if self.affinity else []
        return f"{self.filled('mpiexec', n)} {shlex.join([*wrapper, *program])}"

    def filled(self, name, n):
        """An option with the numbers of n ranks in it."""
        text, sizes = getattr(self, name), self.sizes(n)
        try:
            return text.format(**sizes)
        except (KeyError, IndexError, ValueError):
            allowed = ", ".join(f"{{{size}}}" for size in sizes)
            raise ValueError(f"{name} = {text!r}: may hold {allowed}; other braces are doubled.") from None


@value
class Job(Ranks):
    """One job of a batch scheduler, with all ranks in it.

    Parameters
    ----------
    account : str
        Project that the node hours are charged to.
    queue : str
        Queue, or partition.
    walltime : str
        Longest duration, HH:MM:SS, or whatever else the scheduler reads; runs end cleanly before it is over.
    nodes : int
        Nodes of the job; 0 takes as many as the ranks need.
    directives : str
        Further options of the scheduler, as on its command line, separated by ";".
    setup : str
        Shell commands that make the environment on the compute node, such as `module load`.
    """

    account: Text = ""
    queue: Text = ""
    walltime: Text = ""
    nodes: Number = 0
    directives: Line = ""
    setup: Line = ""

    scheduler: ClassVar[str]  # ending of the file in which it leaves messages of its own
    mark: ClassVar[str]  # before its options in a script
    submit: ClassVar[tuple]
    delete: ClassVar[tuple]
    job_id: ClassVar[str]  # what an id looks like in the answer to `submit`
    id_variable: ClassVar[str]  # the shell's expression for a job's number
    walltimes: ClassVar[str]  # what it reads as a duration, in words
    _ask: ClassVar[tuple]
    _gone: ClassVar[str]  # what it says of a job that it has forgotten

    def __post_init__(self):
        if self.walltime and self.seconds(self.walltime) is None:
            example = EXAMPLES["walltime"]
            raise ValueError(
                f"walltime = {self.walltime!r}: should be {self.walltimes}, for runs end cleanly before it is over. "
                f'Type walltime="{example}", or --walltime {example} in a terminal.'
            )

    def sizes(self, n):
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

    def script(self, n, body, name, log, environment=None):
        """The text of the job script.

        Parameters
        ----------
        n : int
            Ranks.
        body : list of str
            Lines that do the work.
        name : str
            What the scheduler's lists call the job.
        log : str
            Absolute name of the file for everything the job prints; {id} in it becomes the number of the job.
        environment : dict
            Variables to set.
        """
        environment = {"OMP_NUM_THREADS": str(self.threads)} | (environment or {})
        words = [*self._directives(n, name, log), *filter(None, map(str.strip, self.directives.split(";")))]
        return "\n".join(
            [
                "#!/bin/bash -l",
                *(f"{self.mark} {word}" for word in words),
                "",
                *self._preamble(log),
                *self._end(),
                *(f"export {variable}={shlex.quote(text)}" for variable, text in environment.items()),
                *([self.setup] if self.setup else []),
                *body,
                "",
            ]
        )

    def submitted(self, path):
        """Submit a script; returns the job's id."""
        if shutil.which(self.submit[0]) is None:
            raise RuntimeError(f"No {self.submit[0]} on PATH: jobs are submitted from a login node of the site.")
        done = _run([*self.submit, str(path)])
        found = re.search(self.job_id, done.stdout)
        if done.returncode or not found:
            raise RuntimeError(f"{self.submit[0]} refused {path}:\n{(done.stderr or done.stdout).strip()}")
        return found[0]

    def state(self, job_id):
        """What the scheduler says of a job: JobState."""
        try:
            done = _run([*self._ask, job_id])
        except (OSError, subprocess.TimeoutExpired) as error:
            return JobState("unknown", str(error))
        if done.returncode == 0 and done.stdout.strip():
            return self.read_state(done.stdout)
        words = (done.stderr or done.stdout).strip()
        # Schedulers forget a job soon after its end; any other refusal says nothing about the job.
        is_gone = re.search(self._gone, words) or not words
        return JobState("ended", "ended, and forgotten by the scheduler") if is_gone else JobState("unknown", words)

    def cancel(self, job_id):
        """End a job; one that has ended already is left alone, of one that may go on a UserWarning tells."""
        try:
            done = _run([*self.delete, job_id])
            words = (done.stderr or done.stdout).strip() or f"{self.delete[0]} ended with status {done.returncode}"
            is_over = not done.returncode or re.search(self._gone, words) or self.state(job_id).phase == "ended"
        except (OSError, subprocess.TimeoutExpired) as error:
            words, is_over = str(error), False
        if not is_over:
            line = shlex.join([*self.delete, job_id])
            warnings.warn(
                f"Job {job_id} was not cancelled, and may go on at your account's cost: {words.rstrip('.')}. Type "
                f"`{line}` in a terminal.",
                stacklevel=2,
            )

    def _directives(self, n, name, log):
        """The job's resources and names as options of the scheduler: list of str."""
        raise NotImplementedError

    def _end(self):
        """The shell command that tells runs when the job's time is over, so that they end cleanly before."""
        seconds = self.seconds(self.walltime) if self.walltime else 0
        return [f"export SAGIPS_ENDS_AT=$(($(date +%s) + {seconds}))"] if seconds else []

    def _preamble(self, log):
        """Shell commands that come first: list of str."""
        return []

    @staticmethod
    def seconds(walltime):
        """A duration as the scheduler reads it: int, 0 for no limit, or None for what it does not read."""
        raise NotImplementedError

    @staticmethod
    def read_state(text):
        """What the scheduler's answer says of a job: JobState."""
        raise NotImplementedError


class JobWatch:
    """A job that is looked at often, and asked for rarely: schedulers serve many users.

    Parameters
    ----------
    job : Job
    job_id : str
    poll_s : float
        Seconds between two questions to the scheduler.
    """

    def __init__(self, job, job_id, poll_s):
        self.job, self.job_id, self._poll_s = job, job_id, poll_s
        self._state, self._asked = None, 0.0

    def state(self):
        """What the scheduler says of the job, or said a moment ago: JobState."""
        now = time.monotonic()
        if self._state is None or (self._state.phase != "ended" and now - self._asked > self._poll_s):
            state = self.job.state(self.job_id)
            # A scheduler that does not answer changes nothing.
            if state.phase != "unknown" or self._state is None:
                self._state = state
            self._asked = now
        return self._state


def passed_environment():
    """Variables by which a job's Python finds what this one finds: dict.

    Nothing else travels: schedulers show a job's environment to everybody.
    """
    return {name: os.environ[name] for name in _PASSED if os.environ.get(name)}


def parsed(kind, name, text):
    """An option given as text on a command line, in the type that it has in `kind`."""
    hints = {field.name: field.type for field in fields(kind)}
    if name not in hints or not isinstance(text, str):
        return text
    try:
        return pydantic.TypeAdapter(hints[name]).validate_python(text, strict=False)
    except pydantic.ValidationError:
        return text  # the constructor says what is wrong with it


def _run(command):
    return subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
