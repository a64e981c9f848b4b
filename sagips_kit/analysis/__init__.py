"""What runs say: estimates, distances to the reference, convergence, pace, events against data, where they come from.

Every function takes a run (the DataTree of `open_run`) and returns a Dataset, a table, a text or a number; none of them
draws or writes.  Given several runs (the DataTree of `open_runs`), it returns the same for each, along their dimension.
Distances are counted in *floor units*: the standard deviations of the maximum-likelihood estimate from the same events,
below which no method can tell parameters apart.
"""

from . import calibration
from .adversaries import discriminator, evolution
from .base import each_run, single_run, state, written
from .estimates import coverage, distance_to_mle, estimate, estimate_of, residuals, summary
from .events import densities, observed_and_generated, snapshots
from .facts import describe, environment, fact, spec
from .history import convergence, losses, pace, staleness, timeline, warnings_of

__all__ = [
    "calibration",
    "convergence",
    "coverage",
    "densities",
    "describe",
    "discriminator",
    "distance_to_mle",
    "each_run",
    "environment",
    "estimate",
    "estimate_of",
    "evolution",
    "fact",
    "losses",
    "observed_and_generated",
    "pace",
    "residuals",
    "single_run",
    "snapshots",
    "spec",
    "staleness",
    "state",
    "summary",
    "timeline",
    "warnings_of",
    "written",
]


def __dir__():
    return __all__
