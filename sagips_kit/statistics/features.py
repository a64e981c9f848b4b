"""What discriminators and comparisons see of an event: the features of a problem, or functions that suit any events."""

from collections.abc import Callable

from torch import Tensor

from ..events.sampling import evenly_spaced
from ..problems.base import Problem
from .basis import Basis
from .coordinates import Coordinates
from .sample import Function
from .simulated import Observation

_N_WAVES = 8  # of each observable
_MOST_EVENTS = 200_000  # observed events that the distribution of an observable is taken from


def features_of(problem: Problem, events: Tensor) -> Callable[[Tensor], Tensor]:
    """The function (..., observable) -> (..., feature) that a problem declares, or one that suits the observed events.

    Parameters
    ----------
    problem : Problem
        The problem; its own `features` are taken if it declares them.
    events : Tensor (event, observable)
        Observed events.

    Returns
    -------
    callable
        Differentiable in the events, in their type and on their device.
    """
    if type(problem).features is not Problem.features:
        return problem.features
    return AutomaticFeatures(problem, events)


class AutomaticFeatures:
    """Normal scores of all observables, their products, and waves of their quantiles; in each category its own.

    They are found from the observed events alone, and do not depend on units, scale and offset.  An observable of few
    values is described by the indicator of each, a periodic one by its harmonics.

    Parameters
    ----------
    problem : Problem
        Declares categories and periodic observables.
    events : Tensor (event, observable)
        Observed events.
    """

    def __init__(self, problem: Problem, events: Tensor) -> None:
        some = events[evenly_spaced(len(events), _MOST_EVENTS)].detach().cpu().double()
        self._problem, self._coordinates = problem, Observation(problem, some.numpy()).coordinates
        self._basis = Basis(self._coordinates, _N_WAVES)

    def __call__(self, events: Tensor) -> Tensor:
        """(..., observable) -> (..., feature)."""
        return of_events(self._problem, self._coordinates, self._basis, events)


def of_events(problem: Problem, coordinates: Coordinates, function: Function, events: Tensor) -> Tensor:
    """A function of coordinates as one of events: (..., observable) -> (..., value), in their type."""
    flat = events.flatten(0, -2)
    # Offsets and far events need the precision, where the device has it.
    precise = flat if flat.device.type == "mps" else flat.double()
    z, _ = coordinates(precise, category=problem.category(flat.detach()))
    return function(z.to(events.dtype)).to(events.dtype).unflatten(0, events.shape[:-1])
