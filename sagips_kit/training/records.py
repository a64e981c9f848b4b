"""Results of training: rows of the history, and the draws of each chain.  Networks and files do not belong here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .. import _circular
from .._partition import chunk_bounds

if TYPE_CHECKING:
    from .settings import Settings


@dataclass(frozen=True, eq=False)
class Record:
    """State of one rank after a step: a row of the history, as `Trainer.iterate` yields it.

    Parameters
    ----------
    step : int
        Steps done.
    theta : ndarray (member, parameter)
        Parameters of each member in the problem's units, averaged over the sets of the step.
    loss_discriminator : ndarray (member,)
        Loss of the discriminators.  Where they cannot distinguish generated from observed events it is 2 log 2 = 1.386
        for the losses "likelihood" and "logistic", and 0.5 for "least squares".
    loss_generator : ndarray (member,)
        Loss of the generators, without constraints.
    waited_s : float
        Time spent waiting for other ranks since the previous record, in seconds.
    elapsed_s : float
        Time spent training since the first step, in seconds.
    staleness : int
        Age of the oldest message used in the last exchange, in steps.
    rejected : int
        Steps since the previous record that were dropped because of NaN or infinity, summed over members.

    See Also
    --------
    sagips_kit.Trainer : Its `iterate` yields records.

    Examples
    --------
    >>> import numpy as np
    >>> from sagips_kit import Proxy, Settings, Trainer
    >>> problem = Proxy(n_observed=1000)
    >>> events = problem.observed(None, np.random.default_rng(0))
    >>> with Trainer(problem, Settings(n_members=2, n_events=128), events, n_steps=10) as trainer:
    ...     record = trainer.run()
    >>> record.step, record.theta.shape, record.rejected
    (10, (2, 6), 0)
    """

    step: int
    theta: NDArray
    loss_discriminator: NDArray
    loss_generator: NDArray
    waited_s: float
    elapsed_s: float
    staleness: int
    rejected: int = 0


class Draws:
    """Averages of theta over consecutive stretches of the last steps of a run.

    Parameters
    ----------
    shape : tuple (member, draw, parameter)
        Shape of the averages.
    n_steps : int
        Length of the run.
    n_averaged : int
        Number of steps at its end that are averaged.
    circles : (ndarray, ndarray) or None
        Lower end and period of each parameter, (parameter,) each and NaN where it is not periodic; None if none is.

    Attributes
    ----------
    values : ndarray (member, draw, parameter)
        The averages; NaN for stretches that have not begun.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        n_steps: int,
        n_averaged: int,
        circles: tuple[NDArray, NDArray] | None = None,
    ):
        self.values, self._circles = np.full(shape, np.nan), circles
        self._first = n_steps - n_averaged
        self._starts, self._stops = np.array(chunk_bounds(n_averaged, shape[1])).T

    @classmethod
    def of_run(
        cls,
        settings: Settings,
        n_steps: int,
        n_parameters: int,
        circles: tuple[NDArray, NDArray] | None = None,
        first_step: int = 0,
    ) -> Draws:
        """The draws that the settings ask for in the segment of a run from `first_step` to `n_steps`."""
        shape = settings.n_members, settings.n_draws, n_parameters
        return cls(shape, n_steps, max(1, round(settings.averaging * (n_steps - first_step))), circles)

    def wants(self, step: int) -> bool:
        """Whether `step`, counted from 0, is one of those that are averaged."""
        return step >= self._first

    def state_dict(self):
        """The averages so far."""
        return {"values": self.values}

    def load_state_dict(self, state):
        """Continue from the averages in `state`."""
        values = np.asarray(state["values"])
        if values.shape != self.values.shape:
            raise ValueError(f"draws of shape {values.shape}: should be {self.values.shape}.")
        self.values[:] = values

    def clear(self) -> None:
        """Forget the averages, those of an earlier segment."""
        self.values[:] = np.nan

    def add(self, step: int, theta: NDArray) -> None:
        """Add theta (member, parameter) of a step that is averaged."""
        at = step - self._first
        # In a run with fewer steps than draws, neighbouring draws share a step.
        taking = (self._starts <= at) & (at < np.maximum(self._stops, self._starts + 1))
        n_before = (at - self._starts[taking])[:, None]
        old = np.where(n_before == 0, 0.0, self.values[:, taking])
        if self._circles is None:
            self.values[:, taking] = old + (theta[:, None] - old) / (n_before + 1)
            return
        low, period = self._circles
        moved = old + _circular.difference(theta[:, None], old, period) / (n_before + 1)
        self.values[:, taking] = _circular.inside(moved, low, period)
