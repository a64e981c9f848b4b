"""Whether a problem keeps its contract: each check tries one promise and says what to mend.

Meant for problems of users' own, before anything is trained; nothing here trains or knows ranks and files.
"""

from ..events.observed import Observed
from ..problems.base import Problem
from .answer import grids, likelihood, observed, parameters, speed
from .case import Case
from .contract import batches, derivative, device, names, shapes
from .report import OK, Report, findings, skipped
from .simulation import finite, gradient, noise, reproducible

# What fails a stage fails everywhere after it too, with worse words.
_STAGES = ({"names": names}, {"shapes": shapes}, {"derivative": derivative})
_REST = {
    "batches": batches,
    "device": device,
    "noise": noise,
    "reproducible": reproducible,
    "finite": finite,
    "gradient": gradient,
    "observed": observed,
    "likelihood": likelihood,
    "grids": grids,
    "parameters": parameters,
    "speed": speed,
}

_N_EVENTS = 2000  # of which the shapes of what is made of them are seen

__all__ = ["Report", "check_problem", "require"]


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
        For what is no problem, for instance a class instead of its object, or a file instead of its events.
    """
    if not isinstance(problem, Problem):
        name = problem.__name__ if isinstance(problem, type) else "MyProblem"
        raise TypeError(f"{problem!r} is not a Problem. Type check_problem({name}()), of a class derived from Problem.")
    if isinstance(events, (str, Observed)):
        file = Observed(events) if isinstance(events, str) else events
        raise TypeError(f"events = {events!r}: should be an array (event, observable). Type {file!r}.read(problem).")
    case = Case(problem, events, n_observed, seed)
    return _report(case, (*_STAGES, _REST))


def require(problem, events):
    """Raise ValueError for a problem that cannot be trained at all; it takes no time.

    Parameters
    ----------
    problem : Problem
    events : ndarray (event, observable)
        Observed events, checked; some of them do.
    """
    report = _report(Case(problem, events[:: 1 + len(events) // _N_EVENTS], None, 0), _STAGES)
    if not report.is_ok:
        first = report.to_mend[0].text
        raise ValueError(f"{report.problem} cannot be trained: {first} Type print(check_problem(...)) to see the rest.")


def _report(case, stages):
    found = []
    for stage in stages:
        can_go_on = all(finding.verdict == OK for finding in found)
        for name, check in stage.items():
            found += findings(name, check, case) if can_go_on else [skipped(name)]
    return Report(type(case.problem).__name__, tuple(found))
