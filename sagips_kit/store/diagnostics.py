"""Early warnings: what the last rows of a history say about a GAN that cannot get better by itself, and what to do.

Numbers in, sentences out; who shows them does not belong here.
"""

import collections
from types import SimpleNamespace

import numpy as np

N_ROWS = 20  # that must agree before anything is said
KINDS = ("rejected", "diverged", "saturated", "lower", "upper")
GUESSING = {"likelihood": 2 * np.log(2), "logistic": 2 * np.log(2), "least squares": 0.5}
_SEEN = ("step", "theta", "loss_discriminator")  # of a record
_SATURATED = 0.2  # discriminator's loss, in units of the one of random guesses
_REJECTED = (
    "Some numbers were not finite. Their gradients counted as zero, and discriminators went back to their last good "
    "state; the history counts them as `rejected`. Check that simulate and its derivatives are finite everywhere "
    "inside the ranges, ends included."
)
_AT_END = 0.01  # distance from an end of the range, in units of the range


def complaints(theta, loss_discriminator, lower, upper, parameters, loss="likelihood"):
    """What is wrong with all of the rows.

    Parameters
    ----------
    theta : array_like (row, chain, parameter)
    loss_discriminator : array_like (row, chain)
    lower, upper : array_like (parameter,)
    parameters : sequence of str
    loss : {"likelihood", "logistic", "least squares"}
        As in the settings.

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
            f"{n_saturated} of {n_chains} discriminators tell generated from observed events almost without fail: "
            f"loss {np.nanmin(loss_discriminator[-1]):.2g}, where guessing gives {GUESSING[loss]:.3g}. Their gradients "
            "hardly depend on how wrong the generator is. Check that simulate can make events like the observed "
            "ones, then lower discriminator_rate."
        )
    t = (theta - lower) / np.subtract(upper, lower)
    for end, is_there in [("lower", t < _AT_END), ("upper", t > 1 - _AT_END)]:
        n_stuck = is_there.all(0).sum(0)
        names = [f"{parameters[k]} ({n_stuck[k]} of {n_chains} generators)" for k in np.flatnonzero(n_stuck)]
        if names:
            found[end] = (
                f"The generator stays at the {end} end of the range of {', '.join(names)}. If the range is a choice, "
                "widen it; if nothing is known against the end, the estimate is a limit and its interval is not valid."
            )
    return found


class Watch:
    """Looks at the rows of a history as they come, and tells each kind of trouble once.

    Parameters
    ----------
    problem : Problem
    loss : str
        As in the settings.
    first_step : float
        Rows before do not count: generators explore at first.
    """

    def __init__(self, problem, loss, first_step):
        self._problem, self._loss, self._first_step = problem, loss, first_step
        self._recent, self._told = collections.deque(maxlen=N_ROWS), set()

    def look(self, record):
        """Sentences about trouble that this row, or a full stretch of rows with it, agrees on: list of str."""
        self._recent.append(record)
        found = {"rejected": _REJECTED} if record.rejected else {}
        if len(self._recent) == N_ROWS and self._recent[0].step >= self._first_step:
            found |= self._complaints()
        new = sorted(found.keys() - self._told)
        self._told |= found.keys()
        return [found[kind] for kind in new]

    def _complaints(self):
        theta, losses = (
            np.stack([getattr(one, name) for one in self._recent]) for name in ("theta", "loss_discriminator")
        )
        problem = self._problem
        return complaints(theta, losses, problem.lower, problem.upper, problem.parameters, self._loss)

    def state_dict(self):
        """The rows that it remembers, and what it has told already."""
        rows = {name: np.array([getattr(one, name) for one in self._recent]) for name in _SEEN}
        return rows | {"told": np.array([kind in self._told for kind in KINDS])}

    def load_state_dict(self, state):
        """Remember what `state` does."""
        rows = zip(*(np.asarray(state[name]) for name in _SEEN), strict=True)
        self._recent.clear()
        self._recent.extend(SimpleNamespace(**dict(zip(_SEEN, row, strict=True))) for row in rows)
        self._told = {kind for kind, was_told in zip(KINDS, np.asarray(state["told"]), strict=True) if was_told}
