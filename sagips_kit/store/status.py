"""How far a run is, and requests to stop it; cheap, and possible while the run is written."""

from dataclasses import dataclass

import numpy as np

from . import schema
from .group import array_of, damage_explained, open_group
from .location import explained


@dataclass(frozen=True, eq=False)
class Progress:
    """How far a run is.

    Attributes
    ----------
    steps : ndarray (rank,)
        Steps that each rank has completed and stored.
    n_steps, stop_step : int
        Length of the run, and the step at which it was asked to stop (a huge number unless it was).
    """

    steps: np.ndarray
    n_steps: int
    stop_step: int

    @property
    def is_finished(self):
        return self.step >= min(self.n_steps, self.stop_step)

    @property
    def step(self):
        """Steps that every rank has completed."""
        return int(self.steps.min())


def read_progress(path):
    """How far the run at `path` is; cheap, and possible at any time."""
    with damage_explained(path):
        root = open_group(path, "r")
        stop_step = int(array_of(path, root, schema.CONTROL, schema.STOP_STEP)[()])
        steps = array_of(path, root, schema.HISTORY, schema.PROGRESS)[:]
        return Progress(steps, root.attrs[schema.LAYOUT_KEY]["n_steps"], stop_step)


def request_stop(path, step):
    """Ask the ranks of a run to stop at `step`, which none of them has reached; None withdraws the request.

    Raises
    ------
    ValueError
        If not all ranks would stop at the same step: `step` is behind one of them, or some have stopped already.
    """
    progress = read_progress(path)
    # A step behind some rank would stop the others while it waits for their messages.
    reached = int(progress.steps.max())
    if step is not None and step <= reached:
        raise ValueError(f"step = {step}: a rank has reached {reached} already, and all have to stop at the same step.")
    if reached >= progress.stop_step > progress.step:
        raise ValueError(f"step = {step}: ranks have stopped at {progress.stop_step} already, the others follow.")
    _ask(path, schema.STOP_STEP, schema.NO_STOP if step is None else step)


def stop_soon(path):
    """Ask the ranks of a run to end cleanly, all at the same step, which one of them chooses."""
    is_planned = read_progress(path).stop_step != schema.NO_STOP
    has_been_asked = array_of(path, open_group(path, "r"), schema.CONTROL, schema.ASKED)[()]
    if not (is_planned or has_been_asked):
        _ask(path, schema.ASKED, schema.BY_USER)


def _ask(path, name, number):
    array = array_of(path, open_group(path, "r+"), schema.CONTROL, name)
    with explained(f"Cannot write to `{path}`", "The request to stop was not made."):
        array[()] = number
