"""Coordinates of events that do not depend on units: normal scores of each observable, and functions of them.

They are made from the observed events alone.  What the functions are used for does not belong here.
"""

import math
from collections.abc import Sequence

import numpy as np
import scipy.special
import torch
from numpy.typing import NDArray
from torch import Tensor

_N_KNOTS = 65  # of an empirical distribution function, evenly spaced in probability, and as many in its normal score
_FEW_VALUES = 12  # an observable with at most so many different values is described by the indicator of each


class _NormalScore:
    """The normal score of one observable: piecewise linear between quantiles, logarithmic beyond the observed range.

    Parameters
    ----------
    values : ndarray (event,)
        Observed values.
    """

    n_columns = 1

    def __init__(self, values: NDArray[np.float64]) -> None:
        ordered = np.sort(values)
        n = len(ordered)
        edge = scipy.special.ndtri(0.5 / n)
        even = scipy.special.ndtr(np.linspace(edge, -edge, _N_KNOTS))
        levels = np.unique(np.concatenate([np.linspace(0.5 / n, 1 - 0.5 / n, _N_KNOTS), even]))
        knots = np.unique(np.interp(levels * n - 0.5, np.arange(n), ordered))
        # Of equal values the middle rank.
        ranks = 0.5 * (np.searchsorted(ordered, knots, "left") + np.searchsorted(ordered, knots, "right"))
        scores = scipy.special.ndtri(np.clip(ranks / n, 0.5 / n, 1 - 0.5 / n))
        self._knots, self._scores = torch.as_tensor(knots), torch.as_tensor(scores)
        self._slopes = self._scores.diff() / self._knots.diff()
        k = min(4, len(knots) - 1)
        self._first = float((scores[k] - scores[0]) / (knots[k] - knots[0]))
        self._last = float((scores[-1] - scores[-1 - k]) / (knots[-1] - knots[-1 - k]))

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (event, 1) of the values (event,), and their derivatives."""
        knots, scores = self._knots, self._scores
        k = torch.searchsorted(knots, x.contiguous()).clamp(1, len(knots) - 1) - 1
        z, slope = scores[k] + self._slopes[k] * (x - knots[k]), self._slopes[k]
        below, above = self._first * (knots[0] - x).clamp(min=0), self._last * (x - knots[-1]).clamp(min=0)
        z = torch.where(
            x < knots[0], scores[0] - below.log1p(), torch.where(x > knots[-1], scores[-1] + above.log1p(), z)
        )
        outside = torch.where(x < knots[0], self._first / (1 + below), self._last / (1 + above))
        return z[:, None], torch.where((x < knots[0]) | (x > knots[-1]), outside, slope)[:, None]


class _Indicators:
    """Whether an observable has each of its few values; they have no derivative.

    Parameters
    ----------
    values : ndarray (value,)
        The different observed values.
    """

    def __init__(self, values: NDArray[np.float64]) -> None:
        self._values = torch.as_tensor(values[1:])  # the first is where all others are not
        self.n_columns = len(self._values)

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        is_value = (x[:, None] == self._values).to(x.dtype)
        return is_value, torch.zeros_like(is_value)


class _Angle:
    """Cosine and sine of a periodic observable.

    Parameters
    ----------
    period : float
        Its period.
    """

    n_columns = 2

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
    periods : dict of int to float
        Period of each periodic observable, by its column.

    Attributes
    ----------
    n_columns : int
        Number of coordinates.
    """

    def __init__(self, events: NDArray[np.float64], periods: dict[int, float] | None = None) -> None:
        self._parts: list[tuple[int, _NormalScore | _Indicators | _Angle]] = []
        for column, values in enumerate(np.asarray(events, dtype=np.float64).T):
            different = np.unique(values)
            if len(different) == 1:
                continue
            if column in (periods or {}):
                part = _Angle((periods or {})[column])
            else:
                part = _Indicators(different) if len(different) <= _FEW_VALUES else _NormalScore(values)
            self._parts.append((column, part))
        self.n_columns = sum(part.n_columns for _, part in self._parts)
        self.is_score = [isinstance(part, _NormalScore) for _, part in self._parts for _ in range(part.n_columns)]

    def __call__(self, events: Tensor, tangents: Sequence[Tensor] = ()) -> tuple[Tensor, list[Tensor]]:
        """Coordinates of events, and the directional derivatives along tangents.

        Parameters
        ----------
        events : Tensor (event, observable)
            In double precision.
        tangents : sequence of Tensor (event, observable)
            Derivatives of the events with respect to parameters.

        Returns
        -------
        z : Tensor (event, coordinate)
            Coordinates.
        dz : list of Tensor (event, coordinate)
            Their derivatives, one for each tangent.
        """
        z, dz = [], [[] for _ in tangents]
        for column, part in self._parts:
            value, slope = part(events[:, column])
            z.append(value)
            for kept, tangent in zip(dz, tangents, strict=True):
                kept.append(slope * tangent[:, column, None])
        return torch.cat(z, -1), [torch.cat(kept, -1) for kept in dz]


class Waves:
    """Functions of coordinates whose means are compared: coordinates, their products, and waves over each quantile.

    Parameters
    ----------
    coordinates : Coordinates
        What `z` holds.
    n_waves : int
        Number of waves cos(pi k u) of each normal score, u being its quantile.
    """

    def __init__(self, coordinates: Coordinates, n_waves: int) -> None:
        self._is_score = torch.tensor(coordinates.is_score)
        self._k = math.pi * torch.arange(1, n_waves + 1, dtype=torch.float64)
        first, second = torch.triu_indices(coordinates.n_columns, coordinates.n_columns)
        # The square of an indicator is itself.
        keep = (first != second) | self._is_score[first]
        self._pairs = first[keep], second[keep]

    def __call__(self, z: Tensor) -> Tensor:
        """(event, coordinate) -> (event, function)."""
        first, second = self._pairs
        u = 0.5 * (1 + torch.erf(z[:, self._is_score] * math.sqrt(0.5)))
        waves = torch.cos(u[:, :, None] * self._k).flatten(1)
        return torch.cat([z, z[:, first] * z[:, second], waves], -1)
