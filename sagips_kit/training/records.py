"""What training leaves: rows of the history and the draws of each chain.  Nothing here knows networks or files."""

from dataclasses import dataclass

import numpy as np

from .._partition import chunk_bounds


@dataclass(frozen=True)
class Record:
    """What a human looks at after a step; a row of the history.

    Attributes
    ----------
    step : int
        Steps done.
    theta : ndarray (member, parameter)
        Mean of the generated parameters.
    loss_discriminator, loss_generator : ndarray (member,)
        The discriminator's loss of random guesses is 2 log 2 = 1.386 for the logistic one.
    waited_s : float
        Seconds spent waiting for other ranks since the record before.
    elapsed_s : float
        Seconds of training, from the first step on.
    staleness : int
        Steps, of the oldest message used.
    rejected : int
        Steps of members whose numbers were not finite, and that were dropped, since the record before.
    """

    step: int
    theta: np.ndarray
    loss_discriminator: np.ndarray
    loss_generator: np.ndarray
    waited_s: float
    elapsed_s: float
    staleness: int
    rejected: int = 0


class Draws:
    """Averages of theta over consecutive stretches of the last steps of a run.

    Parameters
    ----------
    shape : tuple (member, draw, parameter)
    n_steps : int
        Length of the run.
    n_averaged : int
        How many of its last steps are averaged.

    Attributes
    ----------
    values : ndarray (member, draw, parameter)
        NaN for stretches that have not begun.
    """

    def __init__(self, shape, n_steps, n_averaged):
        self.values = np.full(shape, np.nan)
        self._first = n_steps - n_averaged
        self._starts, self._stops = np.array(chunk_bounds(n_averaged, shape[1])).T

    def wants(self, step):
        """Whether `step`, counted from 0, is in the part that is averaged."""
        return step >= self._first

    def state_dict(self):
        """The averages so far."""
        return {"values": self.values}

    def load_state_dict(self, state):
        """Go on from the averages of `state`."""
        values = np.asarray(state["values"])
        if values.shape != self.values.shape:
            raise ValueError(f"draws of shape {values.shape}: should be {self.values.shape}.")
        self.values[:] = values

    def add(self, step, theta):
        """Take theta (member, parameter) of a step that is wanted into the averages."""
        at = step - self._first
        # In a run with fewer steps than draws, neighbouring draws share a step.
        taking = (self._starts <= at) & (at < np.maximum(self._stops, self._starts + 1))
        n_before = (at - self._starts[taking])[:, None]
        old = np.where(n_before == 0, 0.0, self.values[:, taking])
        self.values[:, taking] = old + (theta[:, None] - old) / (n_before + 1)
