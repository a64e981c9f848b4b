"""Early warnings: what the last rows of a history say about a GAN that cannot get better by itself, and what to do.

Numbers in, sentences out; who shows them does not belong here.
"""

import collections

import numpy as np

N_ROWS = 20  # that must agree before anything is said
GUESSING = {"likelihood": 2 * np.log(2), "logistic": 2 * np.log(2), "least squares": 0.5}
_SATURATED = 0.2  # discriminator's loss, in units of the one of random guesses
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
        """Sentences about trouble that a full stretch of rows, with this one, agrees on: list of str."""
        self._recent.append(record)
        if len(self._recent) < N_ROWS or self._recent[0].step < self._first_step:
            return []
        theta, losses = (
            np.stack([getattr(one, name) for one in self._recent]) for name in ("theta", "loss_discriminator")
        )
        problem = self._problem
        found = complaints(theta, losses, problem.lower, problem.upper, problem.parameters, self._loss)
        new = sorted(found.keys() - self._told)
        self._told |= found.keys()
        return [found[kind] for kind in new]
