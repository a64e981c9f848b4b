"""An image as the unknown: a density of two observables, given by its logarithm at the points of a square grid.

Only the events determine the image, and each moves smoothly with the pixels around it.
"""

import functools
import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .._value import Count, ValueClass, value
from .base import Problem
from .constants import Constant, constant, outside_transforms
from .pipeline import Pipeline
from .samplers import Plane

_RANGE = 3.0  # of the logarithm, on both sides of that of a uniform density
_N_BETWEEN = 8  # points of the sampler's grid per pixel: events are uniform between two of them
_N_GRID = 400  # points along a side from which on large images get fewer points per pixel
_N_HATS = 24  # features along a side; more pixels are resolved by the discriminator's perceptron
_NORM_ERROR = 1e-3  # relative; events do not determine the scale of the image, so it is a convention


@value
class Image(Problem, metaclass=ValueClass):
    """Closure test with an unknown image: a density on the unit square, linear between its pixels, of integral 1.

    The parameter `pixel_i_j` is the logarithm of the density at x = i / (n_pixels - 1), y = j / (n_pixels - 1).  The
    truth is a ring with a spot beside it on a flat background.

    Parameters
    ----------
    n_pixels : int
        Number of pixels along each side, at least 2.  Above 44 there is no likelihood fit; use
        `RunSpec(..., reference=False)`.
    n_observed : int
        Number of observed events.

    Raises
    ------
    ValueError
        For fewer than 2 pixels.

    See Also
    --------
    Proxy2D : Two observables whose density has five parameters.
    Settings : `generator="convolution"` suits images.

    Examples
    --------
    >>> import numpy as np
    >>> from sagips_kit import Image
    >>> problem = Image(n_pixels=4)
    >>> len(problem.parameters), problem.parameters[:2]
    (16, ('pixel_0_0', 'pixel_0_1'))
    >>> problem.observed(1000, np.random.default_rng(0)).shape
    (1000, 2)
    """

    n_pixels: Count = 10
    n_observed: Count = 100_000

    observables = ("x", "y")
    noise_dim = 2

    def __post_init__(self) -> None:
        if self.n_pixels < 2:
            raise ValueError(
                f"n_pixels = {self.n_pixels}: should be at least 2, as the density is linear between pixels."
            )

    @property
    def parameters(self) -> tuple[str, ...]:
        """tuple of str: Names of the pixels, row by row."""
        return tuple(f"pixel_{i}_{j}" for i in range(self.n_pixels) for j in range(self.n_pixels))

    @property
    def image(self) -> tuple[int, int]:
        """(int, int): Numbers of rows and columns."""
        return (self.n_pixels, self.n_pixels)

    @property
    def lower(self) -> tuple[float, ...]:
        """tuple of float (parameter,): Lower ends of the ranges."""
        return (-_RANGE,) * self.n_pixels**2

    @property
    def upper(self) -> tuple[float, ...]:
        """tuple of float (parameter,): Upper ends of the ranges."""
        return (_RANGE,) * self.n_pixels**2

    @property
    def truth(self) -> tuple[float, ...]:
        """tuple of float (parameter,): Logarithms of the density that observed events are made with."""
        return _truth(self.n_pixels)

    @property
    def pipeline(self) -> Pipeline:
        """Pipeline: The density on a grid finer than the pixels, and its sampler."""
        return _pipeline(self.n_pixels)

    def simulate(self, theta: Tensor, noise: Tensor) -> Tensor:
        return self.pipeline.simulate(theta, noise)

    def observed(self, n_events: int | None, rng: np.random.Generator) -> "NDArray[Any]":
        noise = torch.as_tensor(rng.random((n_events or self.n_observed, self.noise_dim)))
        return self.simulate(torch.tensor(self.truth, dtype=noise.dtype), noise).numpy()

    def features(self, events: Tensor) -> Tensor:
        # The weights of the grid's points around an event; their sum is 1, so the last one is redundant.
        hats = _hats(events, min(self.n_pixels, _N_HATS))
        return (hats[..., 0, :, None] * hats[..., 1, None, :]).flatten(-2)[..., :-1]

    def constraints(self, theta: Tensor, statistic: Tensor) -> Tensor:
        return (self.pipeline.norm(theta)[None] - 1) / _NORM_ERROR

    def log_likelihood(self, theta: Tensor, statistic: Tensor) -> Tensor:
        return self.pipeline.log_likelihood(theta, statistic)


@functools.lru_cache
def _pipeline(n_pixels: int) -> Pipeline:
    n_between = min(_N_BETWEEN, math.ceil(_N_GRID / n_pixels))

    def density(theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
        of_x, of_y = (_hats_on_grid(one.numel(), n_pixels).like(theta) for one in (x, y))
        return of_x @ theta.view(n_pixels, n_pixels).exp() @ of_y.mT

    with outside_transforms():
        grid = torch.linspace(0, 1, n_between * (n_pixels - 1) + 1, dtype=torch.float64)
        return Pipeline(density, Plane(grid, grid))


@functools.lru_cache
def _hats_on_grid(n_points: int, n_pixels: int) -> Constant:
    """The weights at evenly spaced points: (point, pixel)."""
    with outside_transforms():
        return Constant(_hats(torch.linspace(0, 1, n_points, dtype=torch.float64), n_pixels))


def _hats(x: Tensor, n_pixels: int) -> Tensor:
    """Weights of linear interpolation between the pixels, (...) -> (..., pixel)."""
    return torch.relu(1 - (x[..., None] * (n_pixels - 1) - constant(range(n_pixels)).like(x)).abs())


@functools.lru_cache
def _truth(n_pixels: int) -> tuple[float, ...]:
    """Logarithms of a ring and a spot beside it on a flat background, (parameter,)."""
    at = torch.linspace(0, 1, n_pixels, dtype=torch.float64)
    x, y = at[:, None], at[None, :]
    radius = ((x - 0.4) ** 2 + (y - 0.45) ** 2).sqrt()
    ring = torch.exp(-0.5 * ((radius - 0.28) / 0.09) ** 2)
    spot = torch.exp(-0.5 * ((x - 0.85) ** 2 + (y - 0.85) ** 2) / 0.1**2)
    density = 0.25 + 2 * ring + 3 * spot
    values = (density / Plane(at, at).integral(density)).log().flatten()
    return tuple(value.item() for value in values)  # older torch has no `tolist` while it differentiates
