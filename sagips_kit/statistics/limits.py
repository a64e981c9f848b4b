"""Confidence intervals near the ends of a range."""

import numpy as np

_FAR = 6.0  # deviations from a measurement within which limits are looked for
_N_TRUE, _N_MEASURED = 1201, 4001  # values that are tried, and measurements by which each is judged


def bounded_interval(measured: float, deviation: float, low: float, high: float, level: float) -> tuple[float, float]:
    """The interval of Feldman and Cousins for the mean of a normal distribution that is between two ends.

    A value is in the interval if its likelihood ratio to the best allowed one is at least as large as in a fraction
    `level` of measurements of that value.

    Parameters
    ----------
    measured : float
        The measurement, which may be beyond an end.
    deviation : float
        Its standard deviation.
    low, high : float
        Ends of the allowed values; may be infinite.
    level : float
        Confidence level.

    Returns
    -------
    tuple of float
        Lower and upper limit.
    """
    low, high, nearest = ((end - measured) / deviation for end in (low, high, min(max(measured, low), high)))
    # In deviations from the measurement
    values = np.linspace(max(low, nearest - _FAR), min(high, nearest + _FAR), _N_TRUE)
    others = np.linspace(-_FAR, _FAR, _N_MEASURED)
    weights = np.exp(-(others**2) / 2)
    accepted = []
    for value in values:
        at = value + others
        loss = others**2 - (at - np.clip(at, low, high)) ** 2
        seen = value**2 - nearest**2
        accepted.append(weights[loss < seen].sum() <= level * weights.sum())
    inside = values[accepted]
    if len(inside) == 0:
        return measured + deviation * nearest, measured + deviation * nearest
    return measured + deviation * inside[0], measured + deviation * inside[-1]
