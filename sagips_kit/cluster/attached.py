"""A run that another notebook process submitted, and the contract that it shares with ipyparallel's results."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from ipyparallel import Client

    from ..store.status import RunStatus

_LOOK_S = 1.0  # between two queries of the controller


class RankResult(Protocol):
    """What `RunHandle` uses of the call of one rank's run: an ipyparallel.AsyncResult, or an `AttachedResult`."""

    metadata: Any  # with the key "completed": datetime or None

    def ready(self) -> bool:
        """Whether the call has ended."""
        ...

    def successful(self) -> bool:
        """Whether it has ended without an exception."""
        ...

    def exception(self) -> Any:
        """The exception that ended it: ipyparallel.error.RemoteError, or None."""
        ...

    def get(self) -> Any:
        """What the rank returned."""
        ...


class AttachedResult:
    """The call of one rank's run by another process, as a `RankResult`.

    Parameters
    ----------
    client : ipyparallel.Client
        Connected to the engines.
    rank : int
        The rank.
    path : Path or str
        The store of the run.
    """

    metadata: Any = {"completed": None}

    def __init__(self, client: "Client", rank: int, path: Path | str):
        self._client, self._rank, self._path = client, rank, path
        self._is_ready, self._looked = False, 0.0

    def ready(self) -> bool:
        # Each look queries the controller.
        if not self._is_ready and time.monotonic() - self._looked > _LOOK_S:
            self._is_ready, self._looked = not self._is_busy(), time.monotonic()
        return self._is_ready

    def successful(self) -> bool:
        status = self._status()
        return bool(status.steps[self._rank] >= status.stop_step)

    def exception(self) -> Any:
        from ipyparallel.error import RemoteError

        status = self._status()
        step = f"step {status.steps[self._rank]} of {status.n_steps}"
        text = f"ended at {step}; the notebook that submitted the run has its message"
        return RemoteError("RunError", text, "")

    def get(self) -> dict[str, int]:
        return {"rank": self._rank, "steps": int(self._status().steps[self._rank])}

    def _is_busy(self) -> bool:
        if self._rank not in self._client.ids:
            return False
        targets: Any = self._rank  # which ipyparallel annotates as str
        return self._client.queue_status(targets)["queue"] > 0

    def _status(self) -> "RunStatus":
        from ..store import status

        return status.read_status(self._path)
