"""Problems that `fit` was not tuned for, by kind: {name: class}.

`REGULAR` ones have an exact likelihood; `AMBIGUOUS` ones have several answers; in `SABOTAGED` ones something is wrong.
Events come from NumPy and SciPy, never from the simulations.
"""

from . import ambiguous, dependence, one, sabotaged, several, spectra, steps
from .common import Known, drawn_truth


def _problems_in(*modules):
    found = [(name, kind) for module in modules for name, kind in vars(module).items() if _is_of(kind, module)]
    return dict(found)


def _is_of(kind, module):
    is_known = isinstance(kind, type) and issubclass(kind, Known) and hasattr(kind, "parameters")
    return is_known and kind.__module__ == module.__name__


REGULAR = _problems_in(one, spectra, several, dependence, steps)
AMBIGUOUS, SABOTAGED = _problems_in(ambiguous), _problems_in(sabotaged)
KINDS = {"regular": REGULAR, "several": AMBIGUOUS, "sabotaged": SABOTAGED}
__all__ = ["AMBIGUOUS", "KINDS", "REGULAR", "SABOTAGED", "Known", "drawn_truth"]
