"""Angles and other periodic numbers: which of a problem's are, shortest differences, and means on a circle.

Wherever a period is given, NaN marks numbers that are not periodic; they are treated as usual.  Arrays are numpy's, so
that results open without torch.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._text import allowed

# Names of periodic parameters, or an interval (low, high) by the name of each periodic parameter and observable
Periodic: TypeAlias = Sequence[str] | Mapping[str, tuple[float, float]]


class Named(Protocol):
    """What is read of a problem."""

    @property
    def parameters(self) -> tuple[str, ...]: ...
    @property
    def observables(self) -> tuple[str, ...]: ...
    @property
    def lower(self) -> Any: ...
    @property
    def upper(self) -> Any: ...
    @property
    def periodic(self) -> Periodic: ...


def intervals(problem: Named) -> dict[str, tuple[float, float]]:
    """The interval (low, high) of each periodic parameter and observable, which is one period.

    Raises
    ------
    ValueError
        If the problem's `periodic` does not say so clearly.
    """
    given = problem.periodic
    if isinstance(given, str) or not isinstance(given, Mapping | Sequence):
        raise ValueError(
            f"periodic = {given!r}: should be a tuple of names of parameters, such as ('phi',), or a dictionary with "
            "the interval of each periodic parameter and observable, such as {'phi': (-math.pi, math.pi)}."
        )
    if not given:
        return {}
    ranges = dict(zip(problem.parameters, zip(problem.lower, problem.upper, strict=False), strict=False))
    return {
        name: _interval(name, given[name] if isinstance(given, Mapping) else None, ranges, problem.observables)
        for name in given
    }


def _interval(
    name: Any, given: Any, ranges: Mapping[str, tuple[float, float]], observables: Sequence[str]
) -> tuple[float, float]:
    if name not in ranges and name not in observables:
        raise ValueError(f"periodic has {name!r}, which does not exist. {allowed(name, [*ranges, *observables])}")
    if given is None and name not in ranges:
        raise ValueError(
            f"periodic has {name!r}, an observable, whose period is not known. Give the interval of each name: "
            f"periodic = {{{name!r}: (-math.pi, math.pi)}}."
        )
    try:
        low, high = (float(end) for end in (ranges[name] if given is None else given))
    except (TypeError, ValueError):
        low, high = np.nan, np.nan
    if not (np.isfinite([low, high]).all() and low < high):
        raise ValueError(
            f"periodic[{name!r}] = {given!r}: should be its interval, two finite numbers in rising order, such as "
            "(-math.pi, math.pi)."
        )
    if name in ranges and not np.allclose((low, high), ranges[name], rtol=0, atol=1e-6 * (high - low)):
        at = " to ".join(f"{end:g}" for end in ranges[name])
        raise ValueError(
            f"periodic[{name!r}] = {given!r}: should be the range of the parameter, which is {at}. Change one of them."
        )
    low, high = ranges.get(name, (low, high))
    return float(low), float(high)


def circles(
    names: Sequence[str], intervals: Mapping[str, Sequence[float]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lower end and period of the interval of each name, (name,) each; NaN where there is none."""
    ends = np.array([intervals.get(name, (np.nan, np.nan)) for name in names], float).reshape(-1, 2)
    return ends[:, 0], ends[:, 1] - ends[:, 0]


def wrapped(difference: Any, period: Any) -> Any:
    """The shortest of all equivalent differences, for finite periods and arrays of any kind, also of torch."""
    return difference - period * (difference / period).round()


def difference(one: ArrayLike, other: ArrayLike, period: ArrayLike) -> NDArray[Any]:
    """`one` - `other`, along the shorter way around the circle where there is a period."""
    plain = np.subtract(one, other)
    return np.where(np.isnan(period), plain, wrapped(plain, np.asarray(period)))


def inside(values: ArrayLike, low: ArrayLike, period: ArrayLike) -> NDArray[Any]:
    """The equivalent values from `low` to less than `low` + `period`."""
    values, period = np.asarray(values), np.asarray(period)
    return np.where(np.isnan(period), values, values - period * np.floor((values - low) / period))


def gathered(values: ArrayLike, low: ArrayLike, period: ArrayLike, n_axes: int = 1) -> NDArray[Any]:
    """The equivalent values within half a period of their mean direction, whose usual statistics are those on a circle.

    Parameters
    ----------
    values : array_like (..., *axes)
        NaN where there is no value.
    low, period : array_like (...)
        Lower end and length of the interval that holds the mean direction; the same along the last `n_axes` axes.
    n_axes : int
        Number of axes along which the values belong together.

    Returns
    -------
    ndarray (..., *axes)
        They may lie outside of the interval.
    """
    values = np.asarray(values)
    low, period = (np.asarray(one, dtype=float)[(..., *[None] * n_axes)] for one in (low, period))
    axes = tuple(range(-n_axes, 0))
    angle = 2 * np.pi * values / np.where(np.isnan(period), 1.0, period)
    cos, sin = (np.nansum(part(angle), axis=axes, keepdims=True) for part in (np.cos, np.sin))
    centre = inside(np.arctan2(sin, cos) / (2 * np.pi) * period, low, period)
    return np.where(np.isnan(period), values, centre + difference(values, centre, period)).astype(values.dtype)


def mean(values: ArrayLike, low: ArrayLike, period: ArrayLike) -> NDArray[Any]:
    """Mean along the last axis, (..., item) -> (...), inside the interval where there is a period."""
    return inside(gathered(values, low, period).mean(-1), low, period)


def continuous(values: ArrayLike, period: ArrayLike) -> NDArray[Any]:
    """A path (..., step) without jumps by whole periods (...), which ends where `values` do; NaN has no place."""
    values, period = np.asarray(values), np.asarray(period)[..., None]
    steps = np.diff(values)
    jumps = np.nan_to_num(difference(values[..., 1:], values[..., :-1], period) - steps)
    shift = np.concatenate([np.zeros_like(values[..., :1]), np.cumsum(jumps, axis=-1)], axis=-1)
    return np.where(np.isnan(period), values, values + shift - shift[..., -1:]).astype(values.dtype)
