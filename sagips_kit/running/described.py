"""What a run stores of a problem so that pictures and tables can show it without the problem."""

from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..events.sampling import evenly_spaced
from ..problems.base import Problem
from ..store.shown import Shown

_MOST = 50  # values that an observable has whose values are categories
_FEW = 1000  # events that show whether it has more
_ENOUGH = 200_000  # evenly spaced events that show the values and categories of all


def shown_of(problem: Problem, events: NDArray[Any]) -> dict[str, Any]:
    """How pictures show a problem, as JSON values, without what it does not say."""
    category, names = _category(problem, events)
    shown = Shown(
        dict(problem.labels),
        tuple(problem.interest),
        {name: (float(value), float(deviation)) for name, (value, deviation) in problem.priors.items()},
        None if problem.image is None else (int(problem.image[0]), int(problem.image[1])),
        category,
        names,
    )
    return {name: item for name, item in asdict(shown).items() if item}


def _category(problem: Problem, events: NDArray[Any]) -> tuple[str | None, tuple[tuple[float, str], ...]]:
    """The observable of which each value is a category of its own, if there is one, and the names of its values."""
    if problem.n_categories == 1:
        return None, ()
    events = events[evenly_spaced(len(events), _ENOUGH).numpy()]
    categories = problem.category(torch.as_tensor(events, dtype=torch.float32)).numpy()
    for observable, column in zip(problem.observables, events.T, strict=True):
        if len(np.unique(column[:_FEW])) > _MOST:  # so that columns of many events need not be sorted
            continue
        values, first, inverse = np.unique(column.astype(np.float32), return_index=True, return_inverse=True)
        numbers = categories[first]
        is_one_to_one = len({*numbers}) == len(values) and (numbers[inverse] == categories).all()
        if len(values) <= _MOST and is_one_to_one:
            titles = [str(name) for name in problem.category_names]
            of_values = [titles[number] for number in numbers] if titles else []
            return observable, tuple(zip(values.tolist(), of_values, strict=False))
    return None, ()
