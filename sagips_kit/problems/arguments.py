"""Arguments of functions that take a problem: messages for those in the wrong order or of the wrong shape."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from .._text import listed
from .base import Problem, require_problem


def require_arguments(call: str, problem: Any, events: Any, theta: Any = None) -> None:
    """Raise an error for arguments in the wrong order, with the `call` to type, for instance "fit(problem, events)".

    Raises
    ------
    TypeError
        If `problem` is not a problem, or if arguments have been swapped.
    ValueError
        If `theta` is given and is not one number for each parameter.
    """
    if any(_is_problem(other) for other in (events, theta)) and not _is_problem(problem):
        raise TypeError(f"{type(problem).__name__} is not a problem, which comes first. Type {call}.")
    require_problem(problem)
    if theta is None:
        return
    if np.ndim(events) < 2 <= np.ndim(theta):
        raise TypeError(f"theta has the shape {np.shape(theta)}, and events {np.shape(events)}: swapped? Type {call}.")
    if np.shape(theta) != (len(problem.parameters),):
        raise ValueError(
            f"theta has the shape {np.shape(theta)}: should be one number for each parameter of "
            f"{type(problem).__name__}: {listed(problem.parameters)}."
        )


def require_fixed(problem: Problem, fixed: Mapping[str, float]) -> dict[str, float]:
    """Values of the parameters that a fit leaves as they are.

    Raises
    ------
    ValueError
        If a name is no parameter, a value is outside its range, or no parameter is left.
    """
    values = _in_ranges(problem, "fixed", fixed)
    if len(values) == len(problem.parameters):
        raise ValueError(f"fixed names all parameters of {type(problem).__name__}: leave one or more to the fit.")
    return values


def require_start(problem: Problem, start: Mapping[str, float], fixed: Mapping[str, float]) -> dict[str, float]:
    """Values of the parameters at which a fit starts.

    Raises
    ------
    ValueError
        If they are not those of all parameters that are not fixed, or a value is outside its range.
    """
    values = _in_ranges(problem, "start", start)
    wanted = [name for name in problem.parameters if name not in fixed]
    if set(values) != set(wanted):
        raise ValueError(
            f"start has the values of {listed(values) or 'nothing'}, and needs those of all parameters that are not "
            f"fixed: {listed(wanted)}. Type start={{{', '.join(f'{name!r}: ...' for name in wanted)}}}."
        )
    return values


def _in_ranges(problem: Problem, argument: str, given: Mapping[str, float]) -> dict[str, float]:
    """The given values as numbers, each within the range of its parameter."""
    if not isinstance(given, Mapping):
        raise TypeError(
            f"{argument} is {given!r}: should be values by name. Type {argument}={{{problem.parameters[0]!r}: ...}}."
        )
    ranges = dict(zip(problem.parameters, zip(problem.lower, problem.upper, strict=True), strict=True))
    values = {}
    for name, value in given.items():
        if name not in ranges:
            raise ValueError(
                f"{argument} has {name!r}, which is no parameter of {type(problem).__name__}. Its parameters are "
                f"{listed(problem.parameters)}."
            )
        low, high = (float(end) for end in ranges[name])
        values[name] = float(value)
        if not low <= values[name] <= high:
            raise ValueError(f"{argument}: {name} = {value} is outside its range, {low:g} to {high:g}.")
    return values


def _is_problem(given: Any) -> bool:
    return hasattr(given, "simulate")
