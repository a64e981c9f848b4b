"""A run on engines that another notebook process started."""

import time

_LOOK_S = 1.0  # between two questions to the controller


class Elsewhere:
    """The call of one rank's run by another process: as much of an AsyncResult as RunHandle uses.

    Parameters
    ----------
    client : ipyparallel.Client
    rank : int
    path : Path
    """

    metadata = {"completed": None}

    def __init__(self, client, rank, path):
        self._client, self._rank, self._path = client, rank, path
        self._is_ready, self._looked = False, 0.0

    def ready(self):
        # Each look asks the controller.
        if not self._is_ready and time.monotonic() - self._looked > _LOOK_S:
            self._is_ready, self._looked = not self._is_busy(), time.monotonic()
        return self._is_ready

    def successful(self):
        status = self._status()
        return bool(status.steps[self._rank] >= status.stop_step)

    def exception(self):
        from ipyparallel.error import RemoteError

        status = self._status()
        step = f"step {status.steps[self._rank]} of {status.n_steps}"
        text = f"ended at {step}; the notebook that submitted the run has its message"
        return RemoteError("RunError", text, "")

    def get(self):
        return {"rank": self._rank, "steps": int(self._status().steps[self._rank])}

    def _is_busy(self):
        return self._rank in self._client.ids and self._client.queue_status(self._rank)["queue"] > 0

    def _status(self):
        from ..store.status import read_status

        return read_status(self._path)
