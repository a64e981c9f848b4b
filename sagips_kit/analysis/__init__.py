"""Results of runs: estimates, distances to references, convergence, pace, and events compared with data.

Each function takes a run (the DataTree of `open_run`) and returns a Dataset, a table, a text or a number; none of them
draws or writes.  Given several runs (the DataTree of `open_runs`), it returns the same for each, along their dimension.
All of them are methods of a run, too: `analysis.estimate(run)` is `run.sagips.estimate()`.  Distances are in *floor
units*: standard deviations of the maximum-likelihood estimate from the same events, below which no method can resolve
parameters.
"""

from typing import TYPE_CHECKING

from .._text import allowed
from . import calibration
from .adversaries import discriminator, evolution
from .answer import Verdict as Verdict
from .answer import verdict
from .base import each_run, state, written
from .base import single_run as single_run
from .estimates import coverage, distance_to_fit, distance_to_mle, estimate, estimate_of, residuals, summary_of
from .events import densities, observed_and_generated, snapshots
from .facts import describe, environment, fact, spec
from .fits import fit, impacts
from .history import convergence, losses, pace, staleness, timeline, warnings_of
from .planes import image, plane
from .table import summary

__all__ = [
    "calibration",
    "convergence",
    "coverage",
    "densities",
    "describe",
    "discriminator",
    "distance_to_fit",
    "distance_to_mle",
    "each_run",
    "environment",
    "estimate",
    "estimate_of",
    "evolution",
    "fact",
    "fit",
    "image",
    "impacts",
    "losses",
    "observed_and_generated",
    "pace",
    "plane",
    "residuals",
    "snapshots",
    "spec",
    "staleness",
    "state",
    "summary",
    "summary_of",
    "timeline",
    "verdict",
    "warnings_of",
    "written",
]

if not TYPE_CHECKING:  # type checkers take a module with __getattr__ to have every name

    def __getattr__(name):
        raise AttributeError(f"sagips_kit.analysis has no {name!r}. {allowed(name, __all__)}")


def __dir__() -> list[str]:
    return __all__
