"""An image as the unknown: a density of two observables, given by its logarithm at the points of a square grid.

Nothing but the events says what it looks like, and every one of them moves smoothly with the pixels around it.
"""

import functools
import math

import torch

from .._value import Count, value
from .base import Problem
from .pipeline import Pipeline
from .samplers import Plane

_RANGE = 3.0  # of the logarithm, to both sides of that of a uniform density
_N_BETWEEN = 8  # points of the sampler's grid for each pixel, between which it makes flat steps,
_N_GRID = 400  # but not many more than these along a side
_N_HATS = 24  # features along a side: with more pixels than that, the discriminator's perceptron tells them apart
_NORM_ERROR = 1e-3  # relative: the scale of the image is a convention, events do not tell it


@value
class Image(Problem):
    """Closure test: a density on the unit square, linear between its pixels, of integral 1.

    Parameters
    ----------
    n_pixels : int
        Along each side; `pixel_i_j` is the logarithm of the density at x = i / (n_pixels - 1), y = j / (n_pixels - 1).
        Above 44, there is no likelihood fit: `RunSpec(..., reference=False)`.
    n_observed : int
        Size of the observed sample.
    """

    n_pixels: Count = 10
    n_observed: Count = 100_000

    observables = ("x", "y")
    noise_dim = 2

    def __post_init__(self):
        if self.n_pixels < 2:
            raise ValueError(f"n_pixels = {self.n_pixels}: should be at least 2, for a density between them.")

    @property
    def parameters(self):
        return tuple(f"pixel_{i}_{j}" for i in range(self.n_pixels) for j in range(self.n_pixels))

    @property
    def image(self):
        return (self.n_pixels, self.n_pixels)

    @property
    def lower(self):
        return (-_RANGE,) * self.n_pixels**2

    @property
    def upper(self):
        return (_RANGE,) * self.n_pixels**2

    @property
    def truth(self):
        return _truth(self.n_pixels)

    def simulate(self, theta, noise):
        return _pipeline(self.n_pixels).simulate(theta, noise)

    def observed(self, n_events, rng):
        noise = torch.as_tensor(rng.random((n_events or self.n_observed, self.noise_dim)))
        return self.simulate(torch.tensor(self.truth, dtype=noise.dtype), noise).numpy()

    def features(self, events):
        # The weights of the points of a grid around an event; their sum is 1, so the last one tells nothing.
        hats = _hats(events, min(self.n_pixels, _N_HATS))
        return (hats[..., 0, :, None] * hats[..., 1, None, :]).flatten(-2)[..., :-1]

    def constraints(self, theta, statistic):
        return (_pipeline(self.n_pixels).norm(theta)[None] - 1) / _NORM_ERROR

    def log_likelihood(self, theta, statistic):
        return _pipeline(self.n_pixels).log_likelihood(theta, statistic)


def _pipeline(n_pixels):
    # Not kept: tensors made inside a transform (vmap, grad) must not outlive it.
    n_between = min(_N_BETWEEN, math.ceil(_N_GRID / n_pixels))
    grid = torch.linspace(0, 1, n_between * (n_pixels - 1) + 1, dtype=torch.float64)

    def theory(theta, x, y):
        return _hats(x[:, 0], n_pixels) @ theta.view(n_pixels, n_pixels).exp() @ _hats(y[0], n_pixels).mT

    return Pipeline(theory, Plane(grid, grid))


def _hats(x, n_pixels):
    """Weights of linear interpolation between the pixels, (...) -> (..., pixel)."""
    return torch.relu(1 - (x[..., None] * (n_pixels - 1) - torch.arange(n_pixels).to(x)).abs())


@functools.lru_cache
def _truth(n_pixels):
    """A ring and a spot beside it, on a flat ground."""
    at = torch.linspace(0, 1, n_pixels, dtype=torch.float64)
    x, y = at[:, None], at[None, :]
    radius = ((x - 0.4) ** 2 + (y - 0.45) ** 2).sqrt()
    ring = torch.exp(-0.5 * ((radius - 0.28) / 0.09) ** 2)
    spot = torch.exp(-0.5 * ((x - 0.85) ** 2 + (y - 0.85) ** 2) / 0.1**2)
    density = 0.25 + 2 * ring + 3 * spot
    return tuple((density / Plane(at, at).integral(density)).log().flatten().tolist())
