"""How pictures and tables show a problem: symbols, parameters of interest, priors, categories and the form of an image.

A run stores it as one attribute of its root.  Runs of earlier versions have none, and are shown without.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from . import schema


@dataclass(frozen=True)
class Shown:
    """How pictures and tables show a problem.

    Parameters
    ----------
    labels : dict of str to str
        Symbols of parameters and observables, with TeX between dollars.
    interest : sequence of str
        Parameters that are the answer; empty if all are.
    priors : dict of str to (value, deviation)
        External knowledge of single parameters.
    image : (int, int) or None
        Rows and columns if the parameters are the pixels of an image.
    category : str or None
        The observable whose values are the categories of events.
    category_names : sequence of (value, name)
        Names of these values.

    Examples
    --------
    >>> from sagips_kit.store.shown import Shown
    >>> Shown(labels={"theta": r"$\\theta$"}).label("theta"), Shown().label("theta")
    ('$\\\\theta$', 'theta')
    """

    labels: Mapping[str, str] = field(default_factory=dict)
    interest: tuple[str, ...] = ()
    priors: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    image: tuple[int, int] | None = None
    category: str | None = None
    category_names: tuple[tuple[float, str], ...] = ()

    @classmethod
    def from_attributes(cls, attributes: Mapping[Any, Any]) -> Self:
        """What the attributes of a run's root say."""
        stored: Mapping[str, Any] = attributes.get(schema.SHOWN_KEY, {})
        image = stored.get("image")
        return cls(
            stored.get("labels", {}),
            tuple(stored.get("interest", ())),
            {name: (value, deviation) for name, (value, deviation) in stored.get("priors", {}).items()},
            (image[0], image[1]) if image else None,
            stored.get("category"),
            tuple((value, name) for value, name in stored.get("category_names", ())),
        )

    def label(self, name: str) -> str:
        """The symbol of a parameter or observable, or its name if it has none."""
        return self.labels.get(name, name)

    def in_order(self, names: list[str]) -> list[str]:
        """Names of parameters, those of interest first."""
        return [*self.interest, *(name for name in names if name not in self.interest)]

    def of_category(self, observable: str, value: float) -> str:
        """The title of events in which an observable has this value."""
        names = dict(self.category_names) if observable == self.category else {}
        return names.get(value, f"{self.label(observable)} = {value:g}")
