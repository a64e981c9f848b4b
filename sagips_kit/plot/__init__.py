"""Pictures of runs: `plot.X(run)` draws what `analysis.X(run)` computes, and returns matplotlib's Axes.

`posterior` draws the group of that name of the store, and `overview` draws all pictures of a run on one sheet.
Estimate, reference and truth differ by marker and line style as well as by colour, so the pictures can be read in grey.
No global setting of matplotlib is changed.
"""

from typing import TYPE_CHECKING

from .._text import allowed
from .adversaries import discriminator, evolution
from .answer import estimate, residuals
from .breakdown import impacts
from .learned import fit
from .pairs import posterior
from .planes import image, plane
from .sheet import overview, pictures
from .spectra import densities, observed_and_generated
from .speed import pace
from .steps import convergence, losses, staleness, timeline

__all__ = [
    "convergence",
    "densities",
    "discriminator",
    "estimate",
    "evolution",
    "fit",
    "image",
    "impacts",
    "losses",
    "observed_and_generated",
    "overview",
    "pace",
    "pictures",
    "plane",
    "posterior",
    "residuals",
    "staleness",
    "timeline",
]

if not TYPE_CHECKING:  # type checkers take a module with __getattr__ to have every name

    def __getattr__(name):
        raise AttributeError(f"sagips_kit.plot has no {name!r}. {allowed(name, __all__)}")


def __dir__() -> list[str]:
    return __all__
