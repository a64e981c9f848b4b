"""The 2-D proxy: a density of two correlated observables with five parameters, a closure test with a known truth.

A(x, y) = x^a (1-x)^b y^c (1-y)^d (1 + e x y) on [0.001, 0.999]^2.  Because A is a sum of two products, the distribution
of x and that of y given x follow from integrals on one-dimensional grids, and no table of the plane is needed.
"""

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .._value import Count, ValueClass, value
from .base import Problem
from .constants import Constant
from .samplers import cumulative

_LOW, _HIGH = 0.001, 0.999
_N_GRID, _N_CELLS = 512, 50
# Finer towards the pole of x^a, by the square of the distance.
_GRID = _LOW + (_HIGH - _LOW) * torch.linspace(0, 1, _N_GRID + 1, dtype=torch.float64) ** 2
_ON_GRID = Constant(_GRID), Constant(torch.stack([_GRID.log(), torch.log1p(-_GRID)]))
_EDGES = torch.linspace(_LOW, _HIGH, _N_CELLS + 1, dtype=torch.float64)
_AT_EDGES = Constant(_EDGES), Constant(torch.stack([_EDGES.log(), torch.log1p(-_EDGES)]))


@value
class Proxy2D(Problem, metaclass=ValueClass):
    """Closure test with two correlated observables and five parameters.

    The density is x^a (1-x)^b y^c (1-y)^d (1 + e x y) for x and y from 0.001 to 0.999.

    Parameters
    ----------
    n_observed : int
        Number of observed events.
    sampler : {"pathwise", "LOITS"}
        "pathwise" draws x from its distribution, then y from its distribution given x; each event moves smoothly with
        all parameters.  "LOITS" (local orthogonal inverse transform sampling) chooses one of 50 x 50 cells, which has
        no derivative, then draws x and y inside the cell.  Its derivative misses what moves between cells; it is
        offered for comparison.

    See Also
    --------
    Proxy : Two independent observables with six parameters.
    Image : Two observables whose density has no formula.

    References
    ----------
    LOITS: arXiv 2507.15768.

    Examples
    --------
    >>> import numpy as np
    >>> from sagips_kit import Proxy2D
    >>> events = Proxy2D().observed(1000, np.random.default_rng(0))
    >>> events.shape
    (1000, 2)
    >>> Proxy2D().noise_dim, Proxy2D(sampler="LOITS").noise_dim
    (2, 3)
    """

    n_observed: Count = 51_200
    sampler: Literal["pathwise", "LOITS"] = "pathwise"

    parameters = ("a", "b", "c", "d", "e")
    lower = (-0.5, 2.75, 0.0, 3.0, 0.0)
    upper = (1.0, 4.0, 1.3, 4.5, 1.5)
    truth = (0.505, 3.0, 0.299, 4.005, 0.75)
    observables = ("x", "y")
    labels = {name: f"${name}$" for name in (*parameters, *observables)}

    @property
    def noise_dim(self) -> int:
        """int: Number of uniform random numbers that one event consumes."""
        return 2 if self.sampler == "pathwise" else 3

    def simulate(self, theta: Tensor, noise: Tensor) -> Tensor:
        sample = _pathwise if self.sampler == "pathwise" else _by_cells
        return torch.stack(sample(theta, noise.T.contiguous()), dim=-1)

    def observed(self, n_events: int | None, rng: np.random.Generator) -> "NDArray[Any]":
        noise = torch.as_tensor(rng.random((2, n_events or self.n_observed)))
        return torch.stack(_pathwise(torch.tensor(self.truth, dtype=noise.dtype), noise), dim=-1).numpy()

    def features(self, events: Tensor) -> Tensor:
        # The scores: logarithms for the four powers, and x y / (1 + e x y) at e = 1, near the middle of its range.
        product = events.prod(-1, keepdim=True)
        return torch.cat([events.log(), torch.log1p(-events), product / (1 + product)], dim=-1)

    def log_likelihood(self, theta: Tensor, statistic: Tensor) -> Tensor:
        (x, y), (power_x, power_y) = statistic.T, (theta[:2], theta[2:4])
        logarithms = (torch.stack([one.log(), torch.log1p(-one)]) for one in (x, y))
        at_events = sum(power @ each for power, each in zip((power_x, power_y), logarithms, strict=True))
        at_events = at_events + torch.log1p(theta[4] * x * y)
        (plain_x, first_x), (plain_y, first_y) = _moments(theta)[..., -1]
        return at_events.sum() - len(x) * (plain_x * plain_y + theta[4] * first_x * first_y).log()


def _moments(theta: Tensor) -> Tensor:
    """Cumulative integrals of x^a (1-x)^b and x^(a+1) (1-x)^b, then the same of y: (2, 2, grid)."""
    grid, logarithms = (table.like(theta) for table in _ON_GRID)
    density = torch.exp(theta[:4].view(2, 2) @ logarithms)
    return cumulative(torch.stack([density, grid * density], 1), grid)


def _pathwise(theta: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Values x and y, (event,) each, from noise (2, event)."""
    along_x, along_y = _moments(theta)
    correlation, (plain_y, first_y) = theta[4], along_y[:, -1]
    x = _invert(along_x, correlation * first_y / plain_y, noise[0])
    return x, _invert(along_y, correlation * x, noise[1])


def _invert(moments: Tensor, weight: Tensor, u: Tensor) -> Tensor:
    """Values at which the integral moments[0] + `weight` x moments[1] reaches the fraction u of its end: (event,).

    Linear inside a cell of the grid.  The choice of the cell has no derivative and needs none, because nothing jumps
    at the edges.
    """
    grid = _ON_GRID[0].like(u)

    def rise(k: Tensor) -> Tensor:
        plain, first = moments.gather(1, k.expand(2, -1))
        return torch.addcmul(plain, weight, first)

    target = u * torch.addcmul(moments[0, -1], weight, moments[1, -1])
    with torch.no_grad():
        cell = torch.zeros_like(u, dtype=torch.long)
        for power in reversed(range(_N_GRID.bit_length() - 1)):
            further = cell + 2**power
            cell = torch.where(rise(further) <= target, further, cell)
    low, high = rise(cell), rise(cell + 1)
    return torch.lerp(grid[cell], grid[cell + 1], (target - low) / (high - low))


def _by_cells(theta: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Values x and y by LOITS, (event,) each, from noise (3, event): first the cell, then the place in it."""
    edges, logarithms = (table.like(theta) for table in _AT_EDGES)
    x, y = edges[:, None], edges[None, :]
    along = theta[:4].view(2, 2) @ logarithms
    corners = torch.exp(along[0][:, None] + along[1]) * (1 + theta[4] * x * y)
    in_x, in_y = 0.5 * (corners[:, 1:] + corners[:, :-1]), 0.5 * (corners[1:] + corners[:-1])
    weights = (0.5 * (in_x[1:] + in_x[:-1])).flatten().detach().cumsum(0)  # all cells have the same area
    cell = torch.searchsorted(weights, noise[0] * weights[-1], right=True).clamp(max=_N_CELLS**2 - 1)
    i, j = cell // _N_CELLS, cell % _N_CELLS
    width = edges[1] - edges[0]
    along_x = _in_line(in_x[i, j], in_x[i + 1, j], noise[1])
    along_y = _in_line(in_y[i, j], in_y[i, j + 1], noise[2])
    return edges[i] + width * along_x, edges[j] + width * along_y


def _in_line(left: Tensor, right: Tensor, u: Tensor) -> Tensor:
    """Inverse of the distribution on [0, 1] whose density is linear from `left` to `right`: (event,)."""
    return u * (left + right) / (left + torch.sqrt(left**2 + (right**2 - left**2) * u))
