"""Arguments of functions that take a problem: messages for those in the wrong order or of the wrong shape."""

from typing import Any

import numpy as np

from .._text import listed
from .base import require_problem


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


def _is_problem(given: Any) -> bool:
    return hasattr(given, "simulate")
