"""Whether a problem keeps its contract: each check tries one promise and says what to mend.

Meant for problems of users' own, before anything is trained; nothing here trains or knows ranks and files.
"""

from ..problem import Problem
from .answer import likelihood, observed, parameters, speed
from .case import Case
from .contract import batches, device, names, shapes
from .report import OK, Report, findings, skipped
from .simulation import finite, gradient, noise, reproducible

_FIRST = {"names": names, "shapes": shapes}
_REST = {
    "batches": batches,
    "device": device,
    "noise": noise,
    "reproducible": reproducible,
    "finite": finite,
    "gradient": gradient,
    "observed": observed,
    "likelihood": likelihood,
    "parameters": parameters,
    "speed": speed,
}

__all__ = ["Report", "check_problem"]


def check_problem(problem, events=None, n_observed=None, seed=0):
    """Try all that the trainer expects of a problem, and say what to mend.

    Parameters
    ----------
    problem : Problem
    events : array_like (event, observable) or None
        The observed events; None takes the problem's own.
    n_observed : int or None
        How many of the problem's own; None takes its usual number.
    seed : int

    Returns
    -------
    Report
        Prints as a table, one line for each check; `report.is_ok` tells that there is nothing to mend.

    Raises
    ------
    TypeError
        For what is no problem, for instance a class instead of its object.
    """
    if not isinstance(problem, Problem):
        name = problem.__name__ if isinstance(problem, type) else "MyProblem"
        raise TypeError(f"{problem!r} is not a Problem. Type check_problem({name}()), of a class derived from Problem.")
    case = Case(problem, events, n_observed, seed)
    found = []
    for name, check in _FIRST.items():
        found += findings(name, check, case)
    # What has wrong shapes fails everywhere else too, with worse words.
    can_go_on = all(finding.verdict == OK for finding in found)
    for name, check in _REST.items():
        found += findings(name, check, case) if can_go_on else [skipped(name)]
    return Report(type(problem).__name__, tuple(found))
