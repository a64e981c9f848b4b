"""Simulated events as coordinates with their derivatives, and the moments of functions over them."""

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor


class Function(Protocol):
    """Functions of an event whose means are compared."""

    def __call__(self, z: Tensor) -> Tensor:
        """Values (event, function) at coordinates (event, coordinate)."""
        ...

    def slopes(self, sample: "Sample") -> Tensor:
        """Derivatives (function, direction) of the means over a sample that has derivatives of its coordinates."""
        ...


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
    dz : Tensor (direction, event, coordinate)
        Derivatives of the coordinates.
    """

    z: Tensor
    weights: Tensor
    category: Tensor
    dz: Tensor

    def part(self, first: int, last: int) -> "Sample":
        """The events from `first` to `last`, weighted to the same shares of categories."""
        category, weights = self.category[first:last], self.weights[first:last].clone()
        for k in category.unique():
            is_k = category == k
            weights[is_k] *= self.weights[self.category == k].sum() / len(self.z) * len(category) / weights[is_k].sum()
        return Sample(self.z[first:last], weights, category, self.dz[:, first:last])

    def along(self, directions: Tensor) -> "Sample":
        """The same events with derivatives along other directions, (direction, new direction)."""
        return replace(self, dz=torch.einsum("pec,pd->dec", self.dz, directions))

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


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Simulated events at a place and beside it, for differences in place of derivatives.

    Parameters
    ----------
    sample : Sample
        The events at the place, without derivatives.
    before, after : Tensor (parameter, event, coordinate)
        Coordinates of the same events, with each parameter half a step lower and higher.
    step : Tensor (parameter,)
        The steps.
    """

    sample: Sample
    before: Tensor
    after: Tensor
    step: Tensor


def solve_hermitian(matrix: Tensor, right: Tensor) -> Tensor:
    """Pseudo-inverse of a covariance, (function, function), times `right`; functions may depend on each other."""
    # What does not vary, apart from rounding, has no weight.
    variance = matrix.diag()
    scale = torch.where(variance > 1e-14 * variance.max(), variance.clamp(min=1e-300).rsqrt(), 0.0)
    values, vectors = torch.linalg.eigh(matrix * scale[:, None] * scale)
    inverse = torch.where(values > 1e-9 * values.max(), 1 / values, 0.0)
    return scale[:, None] * (vectors @ (inverse[:, None] * (vectors.T @ (scale[:, None] * right))))
