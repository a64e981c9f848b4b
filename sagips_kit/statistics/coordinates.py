"""Coordinates of events that do not depend on units: normal scores of each observable, and indicators.

They are made from the observed events alone.  Functions of them are in `basis`; what those are used for is in `score`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import scipy.special
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..problems.constants import Constant

_N_KNOTS = 65  # of an empirical distribution function, evenly spaced in probability, and as many in its normal score
_FEW_VALUES = 12  # an observable with at most so many different values is described by the indicator of each
_SPREAD = 0.03  # least distance of the quartiles, as a fraction of the range, for which positions in it are useful


class _Part(Protocol):
    """Coordinates of one observable: the columns that they are, of which kind, and their derivatives."""

    @property
    def kinds(self) -> tuple[str, ...]: ...

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Coordinates (event, coordinate) of the values (event,), and their derivatives."""
        ...


class _NormalScore:
    """The normal score of one observable: piecewise linear between quantiles, logarithmic beyond the observed range.

    Parameters
    ----------
    values : ndarray (event,)
        Observed values.
    """

    def __init__(self, values: NDArray[np.float64]) -> None:
        ordered = np.sort(values)
        self._low, self._range = float(ordered[0]), float(ordered[-1] - ordered[0])
        is_useful = np.subtract(*np.quantile(ordered, [0.75, 0.25])) > _SPREAD * self._range
        self.kinds = ("score", "position") if is_useful else ("score",)
        n = len(ordered)
        edge = scipy.special.ndtri(0.5 / n)
        even = scipy.special.ndtr(np.linspace(edge, -edge, _N_KNOTS))
        levels = np.unique(np.concatenate([np.linspace(0.5 / n, 1 - 0.5 / n, _N_KNOTS), even]))
        knots = np.unique(np.interp(levels * n - 0.5, np.arange(n), ordered))
        # Of equal values the middle rank.
        ranks = 0.5 * (np.searchsorted(ordered, knots, "left") + np.searchsorted(ordered, knots, "right"))
        scores = scipy.special.ndtri(np.clip(ranks / n, 0.5 / n, 1 - 0.5 / n))
        self._tables = [Constant(table) for table in (knots, scores, np.diff(scores) / np.diff(knots))]
        k = min(4, len(knots) - 1)
        self._first = float((scores[k] - scores[0]) / (knots[k] - knots[0]))
        self._last = float((scores[-1] - scores[-1 - k]) / (knots[-1] - knots[-1 - k]))

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        knots, scores, slopes = (table.like(x) for table in self._tables)
        # Inside vmap, `contiguous` does not see the axis of members.
        at = x.detach().clone(memory_format=torch.contiguous_format)
        k = torch.searchsorted(knots, at).clamp(1, len(knots) - 1) - 1
        z, slope = scores[k] + slopes[k] * (x - knots[k]), slopes[k]
        below, above = self._first * (knots[0] - x).clamp(min=0), self._last * (x - knots[-1]).clamp(min=0)
        z = torch.where(
            x < knots[0], scores[0] - below.log1p(), torch.where(x > knots[-1], scores[-1] + above.log1p(), z)
        )
        outside = torch.where(x < knots[0], self._first / (1 + below), self._last / (1 + above))
        slope = torch.where((x < knots[0]) | (x > knots[-1]), outside, slope)
        if len(self.kinds) == 1:
            return z[:, None], slope[:, None]
        # The position within the observed range sees where events are rare, which the score passes in one step.
        position = ((x - self._low) / self._range).clamp(0, 1)
        moves = ((position > 0) & (position < 1)) / self._range
        return torch.stack([z, position], -1), torch.stack([slope, moves], -1)


class _Indicators:
    """Whether an observable has each of its few values; they have no derivative.

    Parameters
    ----------
    values : ndarray (value,)
        The different observed values.
    """

    def __init__(self, values: NDArray[np.float64]) -> None:
        self._values = Constant(values[1:])  # the first is where all others are not
        self.kinds = ("indicator",) * (len(values) - 1)

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        is_value = (x[:, None] == self._values.like(x)).to(x.dtype)
        return is_value, torch.zeros_like(is_value)


class _Angle:
    """Cosine and sine of a periodic observable.

    Parameters
    ----------
    period : float
        Its period.
    """

    kinds = ("cosine", "sine")

    def __init__(self, period: float) -> None:
        self._factor = 2 * math.pi / period

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        angle = self._factor * x
        cos, sin = angle.cos(), angle.sin()
        return torch.stack([cos, sin], -1), self._factor * torch.stack([-sin, cos], -1)


class Coordinates:
    """Normal scores of all observables; indicators where there are few values, cosine and sine of periodic ones.

    Parameters
    ----------
    events : ndarray (event, observable)
        Observed events.
    category : ndarray (event,) of int
        Their categories.
    n_categories : int
        Number of categories.
    periods : dict of int to float
        Period of each periodic observable, by its column.

    Attributes
    ----------
    kinds : list of str
        What each coordinate is: "category" and "indicator" are 0 or 1, "score" is a normal score, "position" the
        position within the observed range, "cosine" and "sine" are those of an angle.
    n_categories : int
        Number of categories.
    """

    def __init__(
        self,
        events: NDArray[np.float64],
        category: NDArray[np.int64] | None = None,
        n_categories: int = 1,
        periods: Mapping[int, float] | None = None,
    ) -> None:
        self.n_categories = n_categories
        groups = [slice(None)] if category is None else [category == k for k in np.unique(category)]
        self._parts: list[tuple[int, _Part]] = []
        for column, values in enumerate(np.asarray(events, dtype=np.float64).T):
            # What is constant in each category says nothing more.
            if all(np.ptp(values[group]) == 0 for group in groups):
                continue
            period = (periods or {}).get(column)
            self._parts.append((column, _Angle(period) if period else _part(values)))
        self.kinds = ["category"] * (n_categories - 1)
        self.kinds += [kind for _, part in self._parts for kind in part.kinds]

    def __call__(
        self, events: Tensor, tangents: Sequence[Tensor] = (), category: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Coordinates of events, and the directional derivatives along tangents.

        Parameters
        ----------
        events : Tensor (event, observable)
            In double precision.
        tangents : sequence of Tensor (event, observable)
            Derivatives of the events with respect to parameters.
        category : Tensor (event,) of int
            Categories of the events; not needed if there is one.

        Returns
        -------
        z : Tensor (event, coordinate)
            Coordinates.
        dz : list of Tensor (event, coordinate)
            Their derivatives, one for each tangent.
        """
        n_categories = self.n_categories
        indicators = events.new_zeros(len(events), n_categories - 1)
        if n_categories > 1:
            assert category is not None
            indicators = (category[:, None] == torch.arange(1, n_categories, device=events.device)).to(events)
        z, dz = [indicators], [[torch.zeros_like(indicators)] for _ in tangents]
        for column, part in self._parts:
            value, slope = part(events[:, column])
            z.append(value)
            for kept, tangent in zip(dz, tangents, strict=True):
                kept.append(slope * tangent[:, column, None])
        return torch.cat(z, -1), [torch.cat(kept, -1) for kept in dz]

    def category(self, z: Tensor) -> Tensor:
        """Categories (event,) of events with coordinates (event, coordinate)."""
        n = self.n_categories - 1
        return (z[:, :n] @ torch.arange(1, n + 1, dtype=z.dtype, device=z.device)).long()


def _part(values: NDArray[np.float64]) -> _Part:
    """The coordinates that suit the values (event,) of an observable."""
    different = np.unique(values)
    if len(different) <= _FEW_VALUES:
        return _Indicators(different)
    return _NormalScore(values)
