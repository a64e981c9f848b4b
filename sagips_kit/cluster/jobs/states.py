"""Commands of a scheduler, and the state of a job as they report it; it is queried rarely, and never waited for.

What the commands are and how their answers read belongs to the jobs themselves.
"""

import dataclasses
import os
import subprocess
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from .base import Job

_PATIENCE_S = 1.0  # for an answer of the scheduler, before its last one is taken
# What a job must not inherit from a job or a rank in which it is submitted: its own scheduler and mpiexec set them.
_OUTER = ("SLURM_", "PBS_", "PMI_", "PMIX_", "PALS_", "OMPI_COMM_", "SAGIPS_ENDS_AT", "SAGIPS_RESTARTS")
_KEPT = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT", "PBS_CONF_FILE", "PBS_DEFAULT", "PBS_EXEC", "PBS_SERVER")

Phase: TypeAlias = Literal["queued", "running", "ending", "ended", "unknown"]


@dataclass(frozen=True)
class JobState:
    """The state of a job, as the scheduler reports it.

    Attributes
    ----------
    phase : {"queued", "running", "ending", "ended", "unknown"}
        "ending" while the scheduler ends the processes of the job, "unknown" if it did not answer.
    words : str
        The scheduler's own description.
    """

    phase: Phase
    words: str

    @property
    def is_over(self) -> bool:
        """Whether the processes of the job have ended, or are about to."""
        return self.phase in ("ending", "ended")


FORGOTTEN = JobState("ended", "ended, and forgotten by the scheduler")


class JobWatch:
    """A job whose state is read often but queried rarely, because a scheduler serves many users.

    Queries are made in a thread: a scheduler that does not answer holds up nobody.

    Parameters
    ----------
    job : Job
        Its options.
    job_id : str
        Its id.
    poll_s : float
        Least time between two queries of the scheduler, in seconds.

    Attributes
    ----------
    was_requeued : bool
        Whether the job has been queued again after it had run; its ranks have ended.
    """

    def __init__(self, job: "Job", job_id: str, poll_s: float):
        self.job, self.job_id, self._poll_s = job, job_id, poll_s
        self._state = JobState("unknown", "the scheduler has not answered yet")
        self._asked = -poll_s
        self._query: threading.Thread | None = None
        self._lock = threading.Lock()
        self._has_run = self.was_requeued = False

    def state(self) -> JobState:
        """The scheduler's latest answer, at most `poll_s` seconds old if it answers."""
        with self._lock:
            if self._query is None and self._is_due():
                self._query = threading.Thread(target=self._ask, daemon=True)
                self._query.start()
            query = self._query
        if query is not None:
            query.join(_PATIENCE_S)
        return self._state

    def _is_due(self) -> bool:
        return self._state.phase != "ended" and time.monotonic() - self._asked >= self._poll_s

    def _ask(self) -> None:
        state = self._state
        try:
            state = self._answer()
        finally:
            with self._lock:
                self._state, self._asked, self._query = state, time.monotonic(), None

    def _answer(self) -> JobState:
        state = self.job.state(self.job_id)
        if state.phase == "queued" and self._has_run:
            self.was_requeued = True
            state = JobState("ended", f"queued again after it had run ({state.words}), so its ranks have ended")
        self._has_run = self._has_run or state.phase == "running"
        if state.phase == "unknown" and self._state.phase != "unknown":
            words = self._state.words.partition("; no answer")[0]
            return dataclasses.replace(self._state, words=f"{words}; no answer since then: {state.words}")
        return state


def run_command(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command of a scheduler as on a login node, for at most a minute."""
    environment = {name: text for name, text in os.environ.items() if name in _KEPT or not name.startswith(_OUTER)}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, env=environment, check=False
    )
