"""Jobs of PBS Pro and OpenPBS."""

import re
import shlex
from typing import ClassVar

from ..._value import value
from .base import Job, JobState, Text


@value
class PBS(Job):
    """A job of PBS Pro or OpenPBS.

    Parameters
    ----------
    select : str
        What a node's share of the job is to have, such as "system=polaris".
    place : str
        How the shares are placed, such as "scatter".
    filesystems : str
        Filesystems that the job needs, such as "home:eagle".
    """

    select: Text = ""
    place: Text = ""
    filesystems: Text = ""

    scheduler: ClassVar[str] = "pbs"
    mark: ClassVar[str] = "#PBS"
    submit: ClassVar[tuple] = ("qsub",)
    delete: ClassVar[tuple] = ("qdel",)
    job_id: ClassVar[str] = r"\d+[\w.-]*"
    id_variable: ClassVar[str] = "${PBS_JOBID%%.*}"
    walltimes: ClassVar[str] = "HH:MM:SS, MM:SS or seconds"
    _ask: ClassVar[tuple] = ("qstat", "-x", "-f")
    _gone: ClassVar[str] = "Unknown Job|has finished"

    def _directives(self, n, name, log):
        sizes = self.sizes(n)
        select = f"{sizes['nodes']}:{self.filled('select', n)}" if self.select else sizes["nodes"]
        resources = {"place": self.place, "walltime": self.walltime, "filesystems": self.filesystems}
        return [
            f"-N {name}",
            *([f"-A {self.account}"] if self.account else []),
            *([f"-q {self.queue}"] if self.queue else []),
            f"-l select={select}",
            *(f"-l {resource}={text}" for resource, text in resources.items() if text),
            "-j oe",
            f"-o {log.replace('-{id}', '')}.pbs",  # PBS knows no number here
        ]

    def _preamble(self, log):
        # PBS brings a job's output only when the job has ended.
        file = f'"{self.id_variable}"'.join(map(shlex.quote, log.split("{id}")))
        return [f"exec >{file} 2>&1"]

    @staticmethod
    def seconds(walltime):
        """The seconds in [[hours:]minutes:]seconds[.fraction]: int, or None for anything else."""
        if not re.fullmatch(r"([0-9]+:){0,2}[0-9]+(\.[0-9]+)?", walltime):
            return None
        total = 0
        for number in walltime.partition(".")[0].split(":"):
            total = 60 * total + int(number)
        return total

    @staticmethod
    def read_state(text):
        """The state of a job in the output of `qstat -f`."""
        entries = dict(re.findall(r"^ +(\w+) = (.*)$", text.replace("\n\t", ""), flags=re.MULTILINE))
        letter = entries.get("job_state", "?")
        phase = "queued" if letter in "QHWTM" else "running" if letter in "RESUB" else "ended"
        words = [letter, entries.get("comment", "")]
        if phase == "ended" and "Exit_status" in entries:
            words.append(f"exit status {entries['Exit_status']}")
        return JobState("unknown" if letter == "?" else phase, ", ".join(filter(None, words)))
