"""Simple functions of the coordinates of events, whose means describe a distribution of events."""

import math

import torch
from torch import Tensor

from ..problems.constants import Constant
from .coordinates import Coordinates
from .sample import Sample

_COARSE, _FINE = 8, 32  # waves for a search, and at most for a score
_TAILS = (1.5, 2.5)  # normal scores from which squares see the tails, where a score may grow but waves do not


class Basis:
    """Coordinates, their products, waves, and squares in the tails; in each category their own.

    Parameters
    ----------
    coordinates : Coordinates
        What `z` holds.
    n_waves : int
        Number of waves cos(pi k u) of each observable, u being its quantile; of an angle, of its harmonics.
    n_positions : int
        Number of waves of its position within the observed range.
    has_tails : bool
        Whether squares of the distance from normal scores far from the middle are among the functions.
    """

    def __init__(
        self, coordinates: Coordinates, n_waves: int, n_positions: int = 0, *, has_tails: bool = False
    ) -> None:
        kinds = coordinates.kinds
        self._coordinates, self._n_waves, self._n_positions = coordinates, n_waves, n_positions
        plain = torch.tensor([k for k, kind in enumerate(kinds) if kind not in ("category", "position")])
        self._plain = Constant(plain.long())
        first, second = torch.triu_indices(len(plain), len(plain))
        # The square of an indicator is itself.
        keep = (first != second) | torch.tensor([kinds[k] != "indicator" for k in plain])[first]
        self._first, self._second = Constant(first[keep]), Constant(second[keep])
        self._tails = Constant(_TAILS if has_tails else ())
        self._scores = [k for k, kind in enumerate(kinds) if kind == "score"]
        self._positions = [k for k, kind in enumerate(kinds) if kind == "position"]
        self._angles = [k for k, kind in enumerate(kinds) if kind == "cosine"]

    def __call__(self, z: Tensor) -> Tensor:
        """(event, coordinate) -> (event, function)."""
        values = self._values(z)
        n_categories = self._coordinates.n_categories
        if n_categories == 1:
            return values
        each = torch.arange(n_categories, device=z.device)
        is_category = (self._coordinates.category(z)[:, None] == each).to(values)
        return (is_category[:, :, None] * values[:, None]).flatten(1)

    def combined(self, z: Tensor, matrix: Tensor) -> Tensor:
        """(event, coordinate) -> (event, direction): the functions times `matrix` (function, direction)."""
        n_categories = self._coordinates.n_categories
        if n_categories == 1:
            return self._values(z) @ matrix
        category, values = self._coordinates.category(z), self._values(z)
        if z.device.type != "cpu":  # whose shapes should not depend on numbers, for which the host would wait
            blocks = enumerate(matrix.chunk(n_categories))
            return torch.stack([(category == k).to(values)[:, None] * (values @ block) for k, block in blocks]).sum(0)
        result = values.new_empty(len(z), matrix.shape[1])
        for k, block in enumerate(matrix.chunk(n_categories)):
            part = (category == k).nonzero()[:, 0]
            result.index_copy_(0, part, values.index_select(0, part) @ block)
        return result

    def slopes(self, sample: Sample) -> Tensor:
        """Derivatives (function, direction) of the means over a sample that has tangents."""
        n_categories, tangents = self._coordinates.n_categories, sample.tangents
        assert tangents is not None
        if n_categories == 1:
            return self._slopes(sample.z, tangents, sample.weights)
        category = self._coordinates.category(sample.z)
        parts = [category == k for k in range(n_categories)]
        slopes = [self._slopes(sample.z[part], tangents[:, part], sample.weights[part]) for part in parts]
        return torch.cat([part.sum() / len(sample.z) * one for part, one in zip(parts, slopes, strict=True)])

    def _values(self, z: Tensor) -> Tensor:
        plain, (first, second) = self._plain_of(z), self._pairs(z)
        values = [plain, plain.index_select(-1, first) * plain.index_select(-1, second)]
        for angle, _, _, n in self._waves(z):
            values.append(_cosines(angle, n))
        for k in self._angles:
            angle = torch.atan2(z[:, k + 1], z[:, k])
            values += [waves(angle, self._n_waves)[:, 1:] for waves in (_cosines, _sines)]
        for k in self._scores:
            values += [beyond.square() for beyond in self._beyond(z[:, k])]
        return torch.cat(values, -1)

    def _slopes(self, z: Tensor, dz: Tensor, weights: Tensor) -> Tensor:
        weighted = weights / len(z)
        plain, tangents = self._plain_of(z), self._plain_of(dz)
        products = torch.einsum("ei,dej->ijd", weighted[:, None] * plain, tangents)
        products = products + products.transpose(0, 1)
        slopes = [torch.einsum("e,dej->jd", weighted, tangents), products[self._pairs(z)]]
        for angle, slope, k, n in self._waves(z):
            slopes.append(self._along(-_sines(angle, n), slope * weighted, dz[:, :, k]))
        for k in self._angles:
            angle, n = torch.atan2(z[:, k + 1], z[:, k]), self._n_waves
            turn = z[:, k] * dz[:, :, k + 1] - z[:, k + 1] * dz[:, :, k]
            slopes += [self._along(one, weighted, turn)[1:] for one in (-_sines(angle, n), _cosines(angle, n))]
        for k in self._scores:
            above, below = self._beyond(z[:, k])
            slopes += [2 * one.T @ (weighted[:, None] * dz[:, :, k].T) for one in (above, -below)]
        return torch.cat(slopes)

    def _beyond(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Distances (event, tail) of normal scores (event,) from where the upper and the lower tails begin."""
        tails = self._tails.like(z)
        return (z[:, None] - tails).clamp(min=0), (-z[:, None] - tails).clamp(min=0)

    def _plain_of(self, z: Tensor) -> Tensor:
        return z.index_select(-1, self._plain.like(z))

    def _pairs(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Numbers of the two coordinates of each product."""
        return self._first.like(z), self._second.like(z)

    def _waves(self, z: Tensor) -> list[tuple[Tensor, Tensor, int, int]]:
        """For each set of waves: the angle (event,), its derivative, the coordinate, and the number of waves."""
        sets = []
        for k in self._scores:
            slope = math.sqrt(math.pi / 2) * torch.exp(-0.5 * z[:, k].square())
            sets.append((0.5 * math.pi * (1 + torch.erf(z[:, k] * math.sqrt(0.5))), slope, k, self._n_waves))
        if self._n_positions:
            slope = torch.full_like(z[:, 0], math.pi)
            sets += [(math.pi * z[:, k], slope, k, self._n_positions) for k in self._positions]
        return sets

    @staticmethod
    def _along(derivatives: Tensor, weights: Tensor, tangents: Tensor) -> Tensor:
        """Means (wave, direction) of k-th derivatives (event, wave) times k, along tangents (direction, event)."""
        k = torch.arange(1, derivatives.shape[1] + 1, dtype=derivatives.dtype, device=derivatives.device)
        return k[:, None] * (derivatives.T @ (weights[:, None] * tangents.T))


def _cosines(angle: Tensor, n: int) -> Tensor:
    """Cosines (event, n) of 1 to n times an angle (event,)."""
    cos = angle.cos()
    return _multiples([torch.ones_like(cos), cos], 2 * cos, n)


def _sines(angle: Tensor, n: int) -> Tensor:
    """Sines (event, n) of 1 to n times an angle (event,)."""
    return _multiples([torch.zeros_like(angle), angle.sin()], 2 * angle.cos(), n)


def _multiples(first: list[Tensor], twice_cos: Tensor, n: int) -> Tensor:
    """The functions of 1 to n times an angle that begin with those of 0 and 1 times the angle (Chebyshev)."""
    waves = first
    for _ in range(1, n):
        waves.append(twice_cos * waves[-1] - waves[-2])
    return torch.stack(waves[1:]).T


def bases_of(coordinates: Coordinates) -> list[Basis]:
    """The sets of functions of which a score takes the one that gains most."""
    numbers = (_COARSE, 0), (_COARSE, _COARSE), (_FINE, 0), (_COARSE, _FINE)
    return [Basis(coordinates, *numbers_of_waves, has_tails=True) for numbers_of_waves in numbers]


def coarse_bases_of(coordinates: Coordinates) -> tuple[Basis, Basis]:
    """Few functions for searches and tests, without and with positions; tails are too few events for a test."""
    return Basis(coordinates, _COARSE), Basis(coordinates, _COARSE, _COARSE)
