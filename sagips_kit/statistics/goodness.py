"""Whether a model describes the events: means of functions that a fit by a score did not use."""

import torch
from torch import Tensor

from .basis import Basis
from .derivatives import at_neighbours
from .sample import Sample
from .score import Score
from .simulated import Observation, Simulation
from .solve import Solution, sets_of, units_of

_N_COVARIANCE = 65536  # simulated events for the covariance of some hundred functions
_LEAST_VARIANCE = 1e-3  # relative; what varies less is held by the score, but for a few events in the tails
_USUAL = 4.0  # deviations of a component of the score up to which its products are followed


def goodness_of(
    simulation: Simulation, observed: Observation, score: Score, basis: Basis, solution: Solution
) -> tuple[float, int]:
    """Chi-squared of what the score does not see of `basis` and of its own products, and its degrees of freedom."""
    sample, n_directions = solution.sample, solution.sample.n_directions
    functions = _WithProducts(score, basis, sample)
    beside = at_neighbours(simulation, observed, solution.t, units_of(solution.information, observed.n))
    assert beside.differences is not None
    # Means of products are a product of matrices, which the values of all events would be too large for.
    slopes = torch.stack(
        [
            (functions.mean(after, beside.weights) - functions.mean(before, beside.weights)) / width
            for before, after, width in zip(*beside.differences, strict=True)
        ],
        -1,
    )
    projection = slopes[n_directions:] @ torch.linalg.pinv(slopes[:n_directions], rtol=1e-6)

    def rest(values: Tensor) -> Tensor:
        return values[..., n_directions:] - values[..., :n_directions] @ projection.T

    sets, enough = sets_of(sample), sample.part(0, min(len(sample.z), _N_COVARIANCE))
    values = functions(enough.z)
    covariance, before = enough.covariance(rest(values)), enough.covariance(values).diag()[n_directions:]
    scale = before.clamp(min=1e-300).rsqrt()
    eigenvalues, vectors = torch.linalg.eigh(covariance * scale[:, None] * scale)
    keep = eigenvalues > _LEAST_VARIANCE * eigenvalues.max()
    directions = scale[:, None] * vectors[:, keep]
    simulated = rest(torch.stack([functions.mean(one.z, one.weights) for one in sets])) @ directions
    along = rest(observed.mean_by(functions.mean)) @ directions - simulated.mean(0)
    variance = eigenvalues[keep] / observed.n + simulated.var(0) / len(sets)
    return float((along.square() / variance).sum()), int(keep.sum())


class _WithProducts:
    """The score, simple functions, and the products of pairs of the score's components.

    The components are limited to what is usual, since one far event could make most of the mean of a product.
    """

    def __init__(self, score: Score, basis: Basis, sample: Sample) -> None:
        self._score, self._basis = score, basis
        self._first, self._second = torch.triu_indices(sample.n_directions, sample.n_directions)
        values = score(sample.z)
        self._limit = _USUAL * sample.mean(values.square()).sqrt()

    def __call__(self, z: Tensor) -> Tensor:
        s = self._score(z)
        usual = s.clamp(-self._limit, self._limit)
        return torch.cat([s, self._basis(z), usual[:, self._first] * usual[:, self._second]], -1)

    def mean(self, z: Tensor, weights: Tensor) -> Tensor:
        """Weighted means (function,), without the values of all products."""
        s = self._score(z)
        usual = s.clamp(-self._limit, self._limit)
        products = usual.T @ (weights[:, None] * usual) / len(z)
        return torch.cat([weights @ s / len(z), weights @ self._basis(z) / len(z), products[self._first, self._second]])
