"""How far a run is, and requests to stop it; both are cheap and work while the ranks write.

Every part of the package that reports the progress of a run takes its words from `RunStatus`.
"""

from __future__ import annotations

import math
import numbers
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from . import schema
from .files import permissions_of
from .group import array_of, damage_explained, open_group
from .location import explained

if TYPE_CHECKING:
    import xarray as xr
    from zarr.abc.store import Store

State = Literal["unfinished", "stopping", "stopped", "finished"]


@dataclass(frozen=True, eq=False, repr=False)
class RunStatus:
    """How far a run is, as `read_status(path)` finds it in the store of the run.

    Parameters
    ----------
    steps : ndarray (rank,)
        Steps that each rank has completed and stored.
    n_steps : int
        Length of the run in steps.
    stop_step : int
        Step at which the ranks end: `n_steps`, or an earlier step if the run was asked to stop there.

    Attributes
    ----------
    step : int
        Steps that every rank has completed.
    state : {"unfinished", "stopping", "stopped", "finished"}
        The state in one word.
    is_finished : bool
        Whether every rank has made all `n_steps` steps.
    has_ended : bool
        Whether the run is finished or stopped.

    See Also
    --------
    read_status : Read the status from a store.
    request_stop : Ask the ranks of a run to stop.

    Notes
    -----
    The four states are

    ==============  ==========================================================================
    "unfinished"    Ranks have steps left.  They may be training, or may have been killed.
    "stopping"      The run was asked to stop at `stop_step`, which some rank has not reached.
    "stopped"       All ranks stopped at `stop_step`, before the end; the run can be resumed.
    "finished"      All ranks made all `n_steps` steps, and the results are complete.
    ==============  ==========================================================================

    Examples
    --------
    >>> import numpy as np
    >>> from sagips_kit import RunStatus
    >>> status = RunStatus(steps=np.array([400, 420]), n_steps=2000, stop_step=600)
    >>> status
    RunStatus(step 400 of 2000, stopping at step 600)
    >>> status.state, status.has_ended
    ('stopping', False)
    """

    steps: NDArray[np.int64]
    n_steps: int
    stop_step: int

    @classmethod
    def from_run(cls, run: xr.DataTree) -> RunStatus:
        """Take the status from an opened run.

        Parameters
        ----------
        run : DataTree
            A run that `open_run` returned.  Its status is that of the moment at which it was opened.

        Returns
        -------
        RunStatus
            The same as `read_status` returned at that moment.
        """
        steps = np.asarray(run[schema.HISTORY][schema.PROGRESS].values, np.int64)
        stop_step = int(run[schema.CONTROL].to_dataset()[schema.STOP_STEP])
        n_steps = run.attrs[schema.LAYOUT_KEY]["n_steps"]
        return cls(steps, n_steps, min(n_steps, stop_step))

    @property
    def step(self) -> int:
        """Steps that every rank has completed."""
        return int(self.steps.min())

    @property
    def state(self) -> State:
        """The state in one word: "unfinished", "stopping", "stopped" or "finished"."""
        if self.is_finished:
            return "finished"
        if self.stop_step >= self.n_steps:
            return "unfinished"
        return "stopped" if self.has_ended else "stopping"

    @property
    def is_finished(self) -> bool:
        """Whether every rank has made all `n_steps` steps."""
        return self.step >= self.n_steps

    @property
    def has_ended(self) -> bool:
        """Whether the run is finished or stopped, so that no rank trains any more."""
        return self.step >= self.stop_step

    def __str__(self) -> str:
        where = f" at step {self.stop_step}" if self.state == "stopping" else ""
        return f"step {self.step} of {self.n_steps}, {self.state}{where}"

    def __repr__(self) -> str:
        return f"RunStatus({self})"


def read_status(path: str | os.PathLike[str] | Store) -> RunStatus:
    """Read how far a run is from its store, at any time during the run or after it.

    This reads two small arrays, so it can be called often and for runs of any size.

    Parameters
    ----------
    path : path, URL or zarr Store
        The store of the run, for instance "runs/proxy.zarr" or a URL that fsspec knows.

    Returns
    -------
    RunStatus
        The steps that each rank has completed (`steps`), the length of the run (`n_steps`) and its state in one word
        (`state`), among others.

    Raises
    ------
    FileNotFoundError
        If there is nothing at `path`.
    ValueError
        If there is something other than a run at `path`, or a damaged run.

    See Also
    --------
    request_stop : Ask the ranks of a run to stop.
    open_run : Open the results of a run, finished or not.

    Examples
    --------
    >>> from sagips_kit import read_status
    >>> status = read_status("runs/proxy.zarr")
    >>> status
    RunStatus(step 200 of 200, finished)
    >>> status.is_finished, status.steps.tolist()
    (True, [200])
    """
    with damage_explained(path):
        return _status(path, open_group(path, "r"))


def request_stop(path: str | os.PathLike[str] | Store, step: int | None) -> None:
    """Ask the ranks of a run to stop at a given step, or withdraw that request.

    The ranks stop at the end of the block of rows that holds `step`, all at the same step, and write a checkpoint
    there.  The run can be resumed later with `run(spec, resume=True)`.  `RunHandle.stop` stops a run within seconds.

    Parameters
    ----------
    path : path, URL or zarr Store
        The store of the run.
    step : int or None
        A step that no rank has reached yet, below the length of the run.  None withdraws an earlier request.

    Raises
    ------
    FileNotFoundError
        If there is nothing at `path`.
    ValueError
        If the ranks could not all stop at the same step, because one of them has already reached `step` or has
        already stopped; or if `step` is not an integer below the length of the run.
    OSError
        If the store cannot be written.

    See Also
    --------
    read_status : Read how far a run is.

    Notes
    -----
    All ranks must be able to see the request before they reach `step`.  Choose a step at least two blocks, that is
    `2 * record_every * rows_per_block` steps, ahead of the fastest rank.  `RunHandle.stop` and the dashboard let the
    ranks choose the step themselves, which need not be the end of a block.

    Examples
    --------
    >>> from sagips_kit import Proxy, RunSpec, prepare, read_status, request_stop
    >>> spec = RunSpec(
    ...     problem=Proxy(), store="stopped.zarr", n_steps=1000, n_observed=500, reference=False, overwrite=True
    ... )
    >>> prepare(spec, n_ranks=1)
    >>> request_stop(spec.store, 500)
    >>> read_status(spec.store)
    RunStatus(step 0 of 1000, stopping at step 500)
    >>> request_stop(spec.store, None)
    >>> read_status(spec.store).state
    'unfinished'
    """
    status = read_status(path)
    if step is not None and (isinstance(step, bool) or not isinstance(step, numbers.Integral)):
        raise ValueError(f"step = {step!r}: should be an integer, or None to withdraw an earlier request.")
    reached = int(status.steps.max())
    # A step behind some rank would stop the others while it waits for their messages.
    if step is not None and step <= reached:
        raise ValueError(
            f"step = {step}: some rank has already reached step {reached}, and all ranks must stop at the same step. "
            f"Choose a later step, below {status.n_steps}."
        )
    if step is not None and step >= status.n_steps:
        raise ValueError(f"step = {step}: should be below {status.n_steps}, the length of the run.")
    if status.state == "stopping" and reached >= status.stop_step:
        raise ValueError(
            f"step = {step}: some ranks have already stopped at step {status.stop_step}, and the other ranks must stop "
            "there too. Wait until they have, then resume the run."
        )
    if step is None:
        _write_request(path, schema.STOP_STEP, schema.NO_STOP)
        return
    block_steps = schema.layout_of(open_group(path, "r").attrs).block_steps
    _write_request(path, schema.STOP_STEP, min(math.ceil(step / block_steps) * block_steps, status.n_steps))


def stop_soon(path: str | os.PathLike[str] | Store) -> None:
    """Ask the ranks of a run to stop soon, all at the same step, which one of the ranks chooses."""
    with damage_explained(path):
        root: Any = open_group(path, "r")
        has_been_asked = array_of(path, root, schema.CONTROL, schema.ASKED)[()]
        is_needed = _status(path, root).state == "unfinished" and not has_been_asked
    if is_needed:
        _write_request(path, schema.ASKED, schema.BY_USER)


def _status(path: str | os.PathLike[str] | Store, root: Any) -> RunStatus:
    steps = np.asarray(array_of(path, root, schema.HISTORY, schema.PROGRESS)[:], np.int64)
    stop_step = int(np.asarray(array_of(path, root, schema.CONTROL, schema.STOP_STEP)[()]))
    n_steps = root.attrs[schema.LAYOUT_KEY]["n_steps"]
    return RunStatus(steps, n_steps, min(n_steps, stop_step))


def _write_request(path: str | os.PathLike[str] | Store, name: str, number: int) -> None:
    array: Any = array_of(path, open_group(path, "r+"), schema.CONTROL, name)
    with explained(f"Cannot write to `{path}`", "The request to stop was not made."), permissions_of(path):
        array[()] = number
