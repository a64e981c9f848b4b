"""Pictures of runs: each function draws what a function of `analysis` computes, and returns Axes.

Legible in grey: what was estimated, the reference and the truth differ by marker and line, not only by colour.  No
global setting of matplotlib is touched.
"""

from .adversaries import discriminator, evolution
from .answer import estimates, pulls
from .pairs import posterior
from .several import compared_estimates, comparison, scaling
from .sheet import pictures, report
from .spectra import densities, events
from .steps import convergence, losses, staleness, timeline

__all__ = [
    "compared_estimates",
    "comparison",
    "convergence",
    "densities",
    "discriminator",
    "estimates",
    "events",
    "evolution",
    "losses",
    "pictures",
    "posterior",
    "pulls",
    "report",
    "scaling",
    "staleness",
    "timeline",
]


def __dir__():
    return __all__
