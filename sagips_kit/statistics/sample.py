"""Simulated events as coordinates with their derivatives, and the moments of functions over them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Function(Protocol):
    """Functions of an event whose means are compared."""

    def __call__(self, z: Tensor) -> Tensor:
        """Values (event, function) at coordinates (event, coordinate)."""
        ...

    def slopes(self, sample: "Sample") -> Tensor:
        """Derivatives (function, direction) of the means over a sample that has tangents."""
        ...


class Differences(NamedTuple):
    """The events of a sample at two places on a line through its own place, for each direction.

    Parameters
    ----------
    before, after : Tensor (direction, event, coordinate)
        Their coordinates there.
    width : Tensor (direction,)
        Distance of the two places.
    """

    before: Tensor
    after: Tensor
    width: Tensor


@dataclass(frozen=True, eq=False)
class Sample:
    """Simulated events as coordinates, and how they change along directions in the space of parameters.

    Parameters
    ----------
    z : Tensor (event, coordinate)
        Coordinates of the events.
    weights : Tensor (event,)
        Weights of the events, 1 in the mean, which give each category its observed share.
    category : Tensor (event,) of int
        Their categories.
    tangents : Tensor (direction, event, coordinate) or None
        Derivatives of the coordinates.
    differences : Differences or None
        In place of tangents, where these are missing or wrong.
    """

    z: Tensor
    weights: Tensor
    category: Tensor
    tangents: Tensor | None = None
    differences: Differences | None = None

    @property
    def n_directions(self) -> int:
        """int: Number of directions."""
        if self.tangents is not None:
            return len(self.tangents)
        return 0 if self.differences is None else len(self.differences.width)

    def slopes(self, function: Function) -> Tensor:
        """Derivatives (function, direction) of the means of functions."""
        if self.tangents is not None:
            return function.slopes(self)
        assert self.differences is not None
        places = zip(*self.differences, strict=True)
        return torch.stack(
            [self.mean(function(after) - function(before)) / width for before, after, width in places], -1
        )

    def parts(self, n: int) -> "list[Sample]":
        """So many parts of equal size."""
        size = len(self.z) // n
        return [self.part(k * size, (k + 1) * size) for k in range(n)]

    def part(self, first: int, last: int) -> "Sample":
        """The events from `first` to `last`, weighted to the same shares of categories."""
        category, weights = self.category[first:last], self.weights[first:last].clone()
        for k in category.unique():
            is_k = category == k
            weights[is_k] *= self.weights[self.category == k].sum() / len(self.z) * len(category) / weights[is_k].sum()
        tangents, differences = self.tangents, self.differences
        if tangents is not None:
            tangents = tangents[:, first:last]
        if differences is not None:
            before, after, width = differences
            differences = Differences(before[:, first:last], after[:, first:last], width)
        return Sample(self.z[first:last], weights, category, tangents, differences)

    def weighted(self, weights: Tensor) -> "Sample":
        """The same events with further weights (event,), which keep the shares of the categories."""
        share = torch.nn.functional.one_hot(self.category).to(weights)
        means = (weights @ share) / share.sum(0).clamp(min=1)
        return replace(self, weights=self.weights * weights / means[self.category])

    def mean(self, values: Tensor) -> Tensor:
        """Means (function,) of values (event, function)."""
        return self.weights @ values / len(self.z)

    def covariance(self, values: Tensor) -> Tensor:
        """Covariance (function, function) of values (event, function) of one event, within categories.

        The shares of the categories do not depend on the parameters, so differences between them are no error.
        """
        root = self.weights.sqrt()[:, None]
        share = torch.nn.functional.one_hot(self.category).to(values) * root
        weighted = root * values
        means = (share.T @ weighted) / share.square().sum(0).clamp(min=1e-300)[:, None]
        centred = torch.addmm(weighted, share, means, alpha=-1)
        return centred.T @ centred / len(values)


def solve_hermitian(matrix: Tensor, right: Tensor) -> Tensor:
    """Pseudo-inverse of a covariance, (function, function), times `right`; functions may depend on each other."""
    return solve_with_ridges(matrix, right, (0.0,))[0]


def solve_with_ridges(matrix: Tensor, right: Tensor, ridges: Sequence[float]) -> list[Tensor]:
    """The same with the diagonal larger by each of the ridges, which are relative."""
    # What does not vary, apart from rounding, has no weight.
    variance = matrix.diag()
    scale = torch.where(variance > 1e-14 * variance.max(), variance.clamp(min=1e-300).rsqrt(), 0.0)
    values, vectors = torch.linalg.eigh(matrix * scale[:, None] * scale)
    along, solutions = vectors.T @ (scale[:, None] * right), []
    for ridge in ridges:
        inverse = torch.where(values + ridge > 1e-9 * (values.max() + ridge), 1 / (values + ridge), 0.0)
        solutions.append(scale[:, None] * (vectors @ (inverse[:, None] * along)))
    return solutions
