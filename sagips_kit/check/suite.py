"""All checks of a problem in their order: each tries one promise of the contract and says what to fix.

Meant for users' own problems, before anything is trained; training, ranks and files do not belong here.
"""

from __future__ import annotations

from numpy.typing import ArrayLike, NDArray

from ..events.observed import Observed
from ..problems.arguments import require_arguments
from ..problems.base import Problem
from .answer import grids, likelihood, observed, parameters
from .case import Case
from .contract import batches, derivative, device, names, precision, shapes
from .report import OK, Check, Finding, Report, findings, skipped
from .simulation import finite, gradient, noise, periodic, reproducible
from .speed import speed

# In stages: a problem that fails one would fail all later ones, with less helpful messages.
_STAGES: tuple[dict[str, Check], ...] = (
    {"names": names},
    {"shapes": shapes},
    {"derivative": derivative, "precision": precision},
)
_REST: dict[str, Check] = {
    "batches": batches,
    "device": device,
    "noise": noise,
    "reproducible": reproducible,
    "finite": finite,
    "gradient": gradient,
    "periodic": periodic,
    "observed": observed,
    "likelihood": likelihood,
    "grids": grids,
    "parameters": parameters,
    "speed": speed,
}

_N_EVENTS = 2000  # enough to see the shapes of all that is computed from events


def check_problem(
    problem: Problem, events: ArrayLike | None = None, n_observed: int | None = None, seed: int = 0
) -> Report:
    """Test whether a problem keeps its contract, and say what to fix.

    The checks take a second or two and train nothing: names and ranges; shapes; derivatives by autograd and against
    finite differences; batches and devices; hidden randomness; finite numbers up to the ends of the ranges; both ends
    of periodic parameters; observed against simulated events; the likelihood, if there is one; directions that events
    do not determine; the grids of a `Pipeline`; and speed.

    Parameters
    ----------
    problem : Problem
        An object of the class under test.
    events : array_like (event, observable) or None
        Observed events, in the problem's units; None takes the problem's own.  Those of a file are
        `Observed("events.npy").read(problem)`.
    n_observed : int or None
        Number of events to take if they are the problem's own; None takes its usual number.  It also sets how fine the
        grids of a `Pipeline` must be.
    seed : int
        Seed of the noise and of the problem's own events.

    Returns
    -------
    Report
        Prints as a table with one line for each finding, marked "ok", "note" (worth knowing), "FIX" (makes the answer
        wrong or impossible) or "skipped" (not tried before the rest is fixed).  `report.is_ok` is True if there is
        nothing to fix; `report.to_fix` lists what there is.

    Raises
    ------
    TypeError
        If `problem` is not a Problem, for instance a class instead of an object, or `events` is a file.

    See Also
    --------
    sagips_kit.Problem : The contract.
    sagips_kit.fisher_information : How well the events determine the parameters.

    Examples
    --------
    A simulator that takes the uniform noise for normal numbers:

    >>> from sagips_kit import Problem, check_problem
    >>> class Peak(Problem):
    ...     parameters, lower, upper, truth = ("mass",), (1.0,), (9.0,), (5.0,)
    ...     observables, noise_dim = ("mass_seen",), 1
    ...     def simulate(self, theta, noise):
    ...         return theta[0] + 0.2 * noise
    ...     def observed(self, n_events, rng):
    ...         return 5.0 + 0.2 * rng.normal(size=(n_events or 2000, 1))
    >>> report = check_problem(Peak())
    >>> print(report)
    Peak: 1 to fix
      ok      names        ...
      FIX     observed     mass_seen: observed events and those simulated at the truth have different
                           distributions (the fractions below ... differ by ...). Noise is uniform in [0, 1),
                           not normal; or `observed` uses other formulas or units.
      ...
    >>> [finding.check for finding in report.to_fix]
    ['observed']
    """
    if isinstance(events, Problem) and not isinstance(problem, Problem):
        require_arguments("check_problem(problem, events)", problem, events)
    if not isinstance(problem, Problem):
        name = problem.__name__ if isinstance(problem, type) else "MyProblem"
        given = repr(problem) if isinstance(problem, type | str) else type(problem).__name__
        raise TypeError(f"{given} is not a Problem. Type check_problem({name}()), of a class derived from Problem.")
    if isinstance(events, (str, Observed)):
        file = Observed(events) if isinstance(events, str) else events
        raise TypeError(f"events = {events!r}: should be an array (event, observable). Type {file!r}.read(problem).")
    case = Case(problem, events, n_observed, seed)
    return _report(case, (*_STAGES, _REST))


def require(problem: Problem, events: NDArray) -> None:
    """Raise ValueError for a problem that cannot be trained at all, without spending time on the other checks.

    Parameters
    ----------
    problem : Problem
        The problem of a run.
    events : ndarray (event, observable)
        Its observed events, checked; only some of them are used.
    """
    report = _report(Case(problem, events[:: 1 + len(events) // _N_EVENTS], None, 0), _STAGES)
    if not report.is_ok:
        first = report.to_fix[0].text
        raise ValueError(f"{report.problem} cannot be trained: {first} Type print(check_problem(...)) to see the rest.")


def _report(case: Case, stages: tuple[dict[str, Check], ...]) -> Report:
    found: list[Finding] = []
    for stage in stages:
        can_continue = all(finding.verdict == OK for finding in found)
        for name, check in stage.items():
            found += findings(name, check, case) if can_continue else [skipped(name)]
    return Report(type(case.problem).__name__, tuple(found))
