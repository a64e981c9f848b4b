"""Parts of the uncertainty of a fit: events, simulated events, and each piece of external knowledge."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

EVENTS, SIMULATION, CONSTRAINTS, PRIORS, MEASUREMENTS = "events", "simulation", "constraints", "priors", "measurements"
RANGES = "ranges"
GROUPS = (EVENTS, SIMULATION, CONSTRAINTS, PRIORS, MEASUREMENTS, RANGES)


@dataclass(frozen=True, eq=False)
class Contribution:
    """A part of the uncertainty of a fit.

    Parameters
    ----------
    name : str
        "events", "simulation", "constraints", "ranges", or the name of a prior or measurement, with "(prior)" or
        "(measurement)" behind it if it would name two parts.
    group : str
        The same, or "priors" or "measurements".
    impact : ndarray (parameter,)
        What it contributes to the standard deviations, in the parameters' units; the squares of all contributions add
        up.  For a single number from elsewhere, how the estimate would change if it were one of its standard deviations
        larger, which may be negative.
    pull : float
        Difference of the estimate from this number, in its standard deviations; NaN for all others.

    Examples
    --------
    >>> import numpy as np
    >>> from sagips_kit.store.contributions import Contribution
    >>> clock = Contribution("clock", "priors", np.array([0.02, -0.01]), 0.3)
    >>> Contribution.from_dict(clock.to_dict()).impact
    array([ 0.02, -0.01])
    """

    name: str
    group: str
    impact: NDArray[np.float64]
    pull: float = math.nan

    def to_dict(self) -> dict[str, Any]:
        """Return the contribution as JSON has it.

        Returns
        -------
        dict
            With None for a pull that there is not.
        """
        pull = self.pull if math.isfinite(self.pull) else None
        return {"name": self.name, "group": self.group, "impact": self.impact.tolist(), "pull": pull}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Self:
        """Return the contribution that `to_dict` gave.

        Parameters
        ----------
        stored : dict
            What it returned.

        Returns
        -------
        Contribution
            The same as before.
        """
        pull = math.nan if stored["pull"] is None else float(stored["pull"])
        return cls(stored["name"], stored["group"], np.array(stored["impact"], float), pull)


def by_group(contributions: Iterable[Contribution]) -> dict[str, NDArray[np.float64]]:
    """What each group contributes to the standard deviations (parameter,), in the order of `GROUPS`."""
    squares: dict[str, NDArray[np.float64]] = {}
    for one in contributions:
        squares[one.group] = squares.get(one.group, 0.0) + np.square(one.impact)
    return {group: np.sqrt(squares[group]) for group in GROUPS if group in squares}


def is_stored_contribution(value: object) -> bool:
    """Whether a JSON value is a contribution, as `to_dict` makes it."""
    if not isinstance(value, dict) or value.get("group") not in GROUPS or not isinstance(value.get("name"), str):
        return False
    impact, pull = value.get("impact"), value.get("pull", "")
    numbers = [*impact, 0.0 if pull is None else pull] if isinstance(impact, list) else [""]
    return all(isinstance(one, int | float) for one in numbers)
