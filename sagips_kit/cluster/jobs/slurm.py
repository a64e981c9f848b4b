"""Jobs of Slurm."""

import re
from typing import ClassVar

from ..._value import value
from .base import Job, JobState, Number, Text


@value
class Slurm(Job):
    """A job of Slurm.

    Parameters
    ----------
    qos : str
        Quality of service; some sites call it queue.
    constraint : str
        Kind of nodes, such as "gpu".
    gpus_per_node : int
        0 asks for none.
    """

    qos: Text = ""
    constraint: Text = ""
    gpus_per_node: Number = 0

    scheduler: ClassVar[str] = "slurm"
    mark: ClassVar[str] = "#SBATCH"
    submit: ClassVar[tuple] = ("sbatch", "--parsable")
    delete: ClassVar[tuple] = ("scancel",)
    job_id: ClassVar[str] = r"^\d+"
    id_variable: ClassVar[str] = "$SLURM_JOB_ID"
    walltimes: ClassVar[str] = "HH:MM:SS, MM:SS, minutes, D-HH, D-HH:MM, D-HH:MM:SS or UNLIMITED"
    _ask: ClassVar[tuple] = ("squeue", "--noheader", "--states=all", "--format=%T|%r", "--jobs")
    _gone: ClassVar[str] = "Invalid job id|already completing or completed"

    def _directives(self, n, name, log):
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
            "output": log.replace("{id}", "%j"),
        }
        return [f"--{word}={text}" for word, text in words.items() if text]

    @staticmethod
    def seconds(walltime):
        """The seconds in minutes[:seconds], hours:minutes:seconds or days-hours[:minutes[:seconds]].

        Returns
        -------
        int or None
            0 for no limit, None for what Slurm does not read.
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
    def read_state(text):
        """The state of a job in the output of `squeue --format=%T|%r`."""
        state, _, reason = text.strip().splitlines()[0].partition("|")
        queued = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT")
        running = ("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING")
        phase = "queued" if state in queued else "running" if state in running else "ended"
        return JobState(phase, f"{state}, {reason}" if reason not in ("", "None") else state)
