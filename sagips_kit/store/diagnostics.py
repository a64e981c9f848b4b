"""Early warnings: what the last rows of a history say about a GAN that will not recover by itself, and what to do.

Numbers in, sentences out.  How they are shown does not belong here.
"""

import collections
from collections.abc import Collection, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike

from . import schema

N_ROWS = 20  # that must agree before anything is reported
KINDS = ("rejected", "diverged", "saturated", "lower", "upper")
# Losses of a discriminator that guesses, and of its generator
GUESSING = {"likelihood": 2 * np.log(2), "logistic": 2 * np.log(2), "least squares": 0.5}
GUESSED = {"likelihood": 0.0, "logistic": np.log(2), "least squares": 0.25}
_SEEN = (schema.STEP, schema.THETA, schema.LOSS_DISCRIMINATOR)  # of a record
_SATURATED = 0.2  # loss of a discriminator, relative to that of random guesses
_REJECTED = (
    "Some numbers were not finite. Their gradients counted as zero, and discriminators went back to their last good "
    "state; the history counts them as `rejected`. Check that simulate and its derivatives are finite everywhere "
    "inside the ranges, ends included."
)
_AT_END = 0.01  # distance from an end of the range, relative to the range


class Ranges(Protocol):
    """What is read of a problem."""

    @property
    def parameters(self) -> tuple[str, ...]: ...
    @property
    def lower(self) -> Any: ...
    @property
    def upper(self) -> Any: ...
    @property
    def periodic(self) -> Collection[str]: ...


def complaints(
    theta: ArrayLike,
    loss_discriminator: ArrayLike,
    lower: ArrayLike,
    upper: ArrayLike,
    parameters: Sequence[str],
    loss: str = "likelihood",
    periodic: Collection[str] = (),
) -> dict[str, str]:
    """What is wrong in all of these rows.

    Parameters
    ----------
    theta : array_like (row, chain, parameter)
        Mean of the generated parameters.
    loss_discriminator : array_like (row, chain)
        Loss of the discriminator.
    lower, upper : array_like (parameter,)
        Ends of the generator's range.
    parameters : sequence of str
        Names of the parameters.
    loss : {"likelihood", "logistic", "least squares"}
        Kind of loss, as in the settings.
    periodic : collection of str
        Names of parameters whose range has no ends, since it is a circle.

    Returns
    -------
    dict of str to str
        Kind of trouble -> a sentence for the user; empty if there is none.
    """
    theta, loss_discriminator = np.asarray(theta, dtype=float), np.asarray(loss_discriminator, dtype=float)
    n_chains = theta.shape[1]
    found = {}
    n_lost = int((~np.isfinite(theta).all(-1)).all(0).sum())
    if n_lost:
        found["diverged"] = (
            f"{n_lost} of {n_chains} generators give numbers that are not finite. Check that simulate and its "
            "derivatives are finite everywhere inside the ranges, ends included, or lower generator_rate."
        )
    n_saturated = int((loss_discriminator < _SATURATED * GUESSING[loss]).all(0).sum())
    if n_saturated:
        found["saturated"] = (
            f"{n_saturated} of {n_chains} discriminators separate generated from observed events almost perfectly: "
            f"loss {np.nanmin(loss_discriminator[-1]):.2g}, where guessing gives {GUESSING[loss]:.3g}. Their gradients "
            "then hardly depend on how wrong the generator is. Check that simulate can produce events like the "
            "observed ones, then lower discriminator_rate."
        )
    t = (theta - np.asarray(lower)) / np.subtract(upper, lower)
    for end, is_there in [("lower", t < _AT_END), ("upper", t > 1 - _AT_END)]:
        n_stuck = is_there.all(0).sum(0)
        names = [
            f"{name} ({n} of {n_chains} generators)"
            for name, n in zip(parameters, n_stuck, strict=True)
            if n and name not in periodic
        ]
        if names:
            found[end] = (
                f"The generator stays at the {end} end of the range of {', '.join(names)}. If the range was a choice, "
                "widen it; if it is a physical limit, the estimate is a limit, too, and its interval is not valid."
            )
    return found


class Watch:
    """Looks at the rows of a history as they come, and reports each kind of trouble once.

    Parameters
    ----------
    problem : Problem
        Its parameters and their ranges are read.
    loss : str
        Kind of loss, as in the settings.
    first_step : float
        Earlier rows are ignored, since generators explore at first.
    """

    def __init__(self, problem: Ranges, loss: str, first_step: float) -> None:
        self._problem, self._loss, self._first_step = problem, loss, first_step
        self._recent = collections.deque(maxlen=N_ROWS)
        self._reported: set[str] = set()

    def look(self, record: Any) -> list[str]:
        """Sentences about trouble in this row, or in all of the last `N_ROWS`: list of str."""
        self._recent.append(record)
        found = {"rejected": _REJECTED} if record.rejected else {}
        if len(self._recent) == N_ROWS and self._recent[0].step >= self._first_step:
            found |= self._complaints()
        new = sorted(found.keys() - self._reported)
        self._reported |= found.keys()
        return [found[kind] for kind in new]

    def _complaints(self) -> dict[str, str]:
        theta, losses = (
            np.stack([getattr(one, name) for one in self._recent]) for name in (schema.THETA, schema.LOSS_DISCRIMINATOR)
        )
        problem = self._problem
        return complaints(theta, losses, problem.lower, problem.upper, problem.parameters, self._loss, problem.periodic)

    def state_dict(self) -> dict[str, np.ndarray]:
        """The rows that it remembers, and what it has reported already."""
        rows = {name: np.array([getattr(one, name) for one in self._recent]) for name in _SEEN}
        return rows | {"reported": np.array([kind in self._reported for kind in KINDS])}

    def load_state_dict(self, state: Mapping[str, ArrayLike]) -> None:
        """Remember what `state` does."""
        rows = zip(*(np.asarray(state[name]) for name in _SEEN), strict=True)
        self._recent.clear()
        self._recent.extend(SimpleNamespace(**dict(zip(_SEEN, row, strict=True))) for row in rows)
        was_reported = np.asarray(state["reported"])
        self._reported = {kind for kind, is_in in zip(KINDS, was_reported, strict=True) if is_in}
