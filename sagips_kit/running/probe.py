"""The code of a problem, recognised by a few numbers that it computes: on other ranks, and when a run is resumed.

The numbers belong to fixed parameter vectors and fixed noise, are computed in double precision on the CPU, and agree to
many digits on all machines.
"""

import contextlib
from typing import Any

import numpy as np
import torch

from .._circular import intervals
from ..problems.base import Problem, events_of

_N_POINTS, _N_EVENTS = 2, 4
_GOLDEN = (5**0.5 - 1) / 2
_SAME = 1e-6  # relative: results of different machines and versions of torch may differ by this
_ROUNDING = 1e-9  # the same, relative to the largest number of a part
_CAUSES = ("ranges", "priors")  # they change the other numbers, which need not be reported then


def probe(problem: Problem) -> dict[str, list[float]]:
    """Numbers of each part of a problem's code, by the name of the part; all are finite.

    Parts that fail on so few events, as a likelihood may, have no numbers from there on.
    """
    n = len(problem.parameters)
    names = ("ranges", "priors", "measurements", "events", "features", "category", "statistic", "constraints")
    found: dict[str, list[float]] = {name: [] for name in (*names, "likelihood")}
    found["ranges"] += [*problem.lower, *problem.upper]
    for name in sorted(problem.priors):
        found["priors"] += problem.priors[name]
    for name, (low, high) in sorted(intervals(problem).items()):
        found["ranges"] += [float(([*problem.parameters, *problem.observables]).index(name)), low, high]
    with torch.no_grad(), torch.device("cpu"):
        for k in range(_N_POINTS):
            theta = problem.scale(0.2 + 0.6 * _spread(n, k))
            for name in sorted(problem.measurements):
                found["measurements"] += problem.measurements[name].residuals(theta).tolist()
            noise = _spread(_N_EVENTS * problem.noise_dim, k).view(_N_EVENTS, -1)
            events = events_of(problem, theta, noise)
            features = problem.features(events)
            found["events"] += events.flatten().tolist()
            found["features"] += (features @ _spread(features.shape[-1], k).to(features)).tolist()
            found["category"] += problem.category(events).flatten().tolist()
            with contextlib.suppress(Exception):
                _add_statistic(problem, theta, events, found)
    return {name: np.nan_to_num(np.array(numbers, dtype=float)).tolist() for name, numbers in found.items()}


def changes(problem: Problem, known: Any) -> str:
    """Parts of a problem, in a word or two, whose code gives other numbers than those of an earlier `probe`.

    Parts that `known` does not have are not compared: it may be that of an older version of the kit.
    """
    if not isinstance(known, dict):
        return ""
    found = probe(problem)
    changed = [name for name, numbers in found.items() if name in known and not _are_same(numbers, known[name])]
    return " and ".join([name for name in changed if name in _CAUSES] or changed[:1])


def _add_statistic(problem: Problem, theta: torch.Tensor, events: torch.Tensor, found: dict[str, list[float]]) -> None:
    statistic = problem.statistic(events)
    found["statistic"].append(float(_spread(statistic.numel(), 0).to(statistic) @ statistic.flatten()))
    found["constraints"] += problem.constraints(theta, statistic).flatten().tolist()
    if problem.has_likelihood:
        found["likelihood"].append(float(problem.log_likelihood(theta, statistic)))


def _spread(n: int, start: int) -> torch.Tensor:
    """Irregular numbers between 0 and 1, (n,)."""
    return (_GOLDEN * torch.arange(1 + start, 1 + start + n, dtype=torch.float64)).frac()


def _are_same(numbers: list[float], known: Any) -> bool:
    try:
        # Sums may cancel, but numbers may also be small, such as times in seconds.
        rounding = _ROUNDING * np.abs(np.asarray(known, dtype=float)).max(initial=0.0)
        return np.allclose(numbers, known, rtol=_SAME, atol=rounding)
    except (TypeError, ValueError):  # another number of observables, for instance
        return False
