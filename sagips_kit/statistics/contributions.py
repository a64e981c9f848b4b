"""What the uncertainty of a fit is made of."""

from collections.abc import Sequence

from torch import Tensor

from ..problems.base import Problem, n_external
from ..store.contributions import CONSTRAINTS, EVENTS, GROUPS, MEASUREMENTS, PRIORS, RANGES, SIMULATION, Contribution
from .simulated import Simulation
from .solve import Solution

_LEAST = 1e-6  # part of a variance below which what is missing is rounding


def contributions_of(simulation: Simulation, solution: Solution) -> list[Contribution]:
    """The parts of the covariance of a solution."""
    scale = simulation.scale(solution.t)
    residuals, external = simulation.residuals(solution.t), solution.external * scale[:, None]

    def of_variances(name: str, variances: Tensor) -> Contribution:
        return Contribution(name, name, (scale.square() * variances).clamp(min=0).sqrt().numpy())

    found = [
        of_variances(EVENTS, solution.of_events.diag()),
        of_variances(SIMULATION, solution.of_simulation.diag()),
    ]
    first = 0
    for name, group, n in _known(simulation.problem, len(residuals)):
        some = external[:, first : first + n]
        if n == 1:
            found.append(Contribution(name, group, some[:, 0].numpy(), float(residuals[first])))
        else:
            found.append(Contribution(name, group, some.square().sum(1).sqrt().numpy()))
        first += n
    variances = solution.covariance.diag()
    missing = variances - solution.of_events.diag() - solution.of_simulation.diag() - solution.external.square().sum(1)
    if bool((missing > _LEAST * variances).any()):
        found.append(of_variances(RANGES, missing))
    return found


def _known(problem: Problem, n_residuals: int) -> Sequence[tuple[str, str, int]]:
    """Name, group and number of values of what is known from elsewhere, in the order of the residuals.

    No two parts have one name, whatever parameters and measurements are called.
    """
    n_constraints = n_residuals - n_external(problem)
    taken = {*GROUPS, *(problem.priors.keys() & problem.measurements.keys())}

    def unlike(name: str, what: str) -> str:
        return f"{name} ({what})" if name in taken else name

    return [
        *([(CONSTRAINTS, CONSTRAINTS, n_constraints)] if n_constraints else []),
        *((unlike(name, "prior"), PRIORS, 1) for name in problem.priors),
        *((unlike(name, "measurement"), MEASUREMENTS, len(one)) for name, one in problem.measurements.items()),
    ]
