"""Witnesses: the chains of a run that begin away from the fit, to show whether the events lead them back to it."""

import math

DISPLACED = 2.0  # deviations (RMS over the parameters) from which a witness must return
SEEN = 50.0  # times as many events as were observed, by which it does so
MOST_STRETCH = 10.0  # times as far away, if it sees fewer


def is_witness(chain: int, n_chains: int) -> bool:
    """Whether a chain begins away from the fit: the last quarter of all.

    At least two others must remain, from which the deviations are found, so a run of one or two chains has none.
    """
    return n_chains > 2 and chain >= n_chains - math.ceil(n_chains / 4)


def stretch(n_times: float) -> float:
    """How many times farther away witnesses begin that see only so many times as many events as were observed.

    If these are few, they do not know their place to a fraction of a deviation, and must come from farther away to
    show anything.
    """
    return min(MOST_STRETCH, math.sqrt(max(1.0, SEEN / max(n_times, 1e-9))))
