"""Differentiable sampling: events as a smooth function of fixed uniform numbers and of the density's table.

For problems to use in `simulate`; nothing here knows parameters or networks.
"""

import contextlib
import contextvars
import math

import torch
from torch import Tensor

_LEAST = 1e-7  # fraction below an event: where the density fades away, less has no digits to be differentiated
EDGE = 1e-6  # away from 0 and 1, where inverses of distributions are infinite or have no neighbour
WITHOUT = "A simulator of events that has no density needs no pipeline: write `simulate` in the class of the problem."
_is_finer = contextvars.ContextVar("is_finer", default=False)


@contextlib.contextmanager
def finer_grids():
    """Let `Separate` and `Plane` use grids twice as fine meanwhile: what changes is the error of the grids.

    A theory that refuses other grids than its own is a table, which says itself what is between its points: a line.
    """
    token = _is_finer.set(True)
    try:
        yield
    finally:
        _is_finer.reset(token)


def cumulative(density: Tensor, grid: Tensor) -> Tensor:
    """Cumulative integral by trapezoids: density (..., grid) at the points grid (grid,) -> (..., grid), from zero.

    The last column is the norm.
    """
    cells = 0.5 * (density[..., 1:] + density[..., :-1]) * grid.diff()
    return torch.nn.functional.pad(cells.cumsum(-1), (1, 0))


def inverse_cdf(density: Tensor, grid: Tensor, noise: Tensor) -> Tensor:
    """Sample a tabulated density by its inverse cumulative function.

    Events are found by bisection.  Their derivative flows through the integral at the two points of the grid beside
    each, and is that of implicit reparameterisation, dx = -dF(x) / f(x), of the piecewise-linear F that made them.

    Parameters
    ----------
    density : Tensor (..., grid)
        Non-negative, of any norm, at each point of the grid; positive somewhere in each row.
    grid : Tensor (grid,)
        Rising.
    noise : Tensor (..., event)
        Uniform numbers in [0, 1), with the leading dimensions of `density`.

    Returns
    -------
    Tensor (..., event)
        Between the ends of the grid.

    References
    ----------
    Figurnov, Mohamed and Mnih, Implicit Reparameterization Gradients, arXiv 1805.08498.
    """
    integral = cumulative(density, grid)
    target = noise.clamp(min=_LEAST) * integral[..., -1:]
    right = torch.searchsorted(integral.detach(), target.detach(), right=True).clamp(1, grid.numel() - 1)
    low, high = integral.gather(-1, right - 1), integral.gather(-1, right)
    return grid[right - 1] + (target - low) / (high - low) * (grid[right] - grid[right - 1])


def inverse_cdf_between(rows: Tensor, grid: Tensor, left: Tensor, part: Tensor, noise: Tensor) -> Tensor:
    """Sample densities between two rows of a table, another one for each event, as `inverse_cdf` does.

    Parameters
    ----------
    rows : Tensor (row, grid)
        Integrals of densities up to each point of the grid, as `cumulative` makes them.
    grid : Tensor (grid,)
        Rising.
    left : Tensor (event,) of int
        The row before each event.
    part : Tensor (event,)
        At which fraction of the way to the next row it is, above 0 and below 1.
    noise : Tensor (event,)
        Uniform numbers in [0, 1).

    Returns
    -------
    Tensor (event,)
    """
    n, table = grid.numel(), rows.flatten()

    def integral(table, part, column):
        before, after = table.gather(0, left * n + column), table.gather(0, (left + 1) * n + column)
        return (1 - part) * before + part * after

    last = torch.full_like(left, n - 1)
    target = noise.clamp(min=_LEAST) * integral(table, part, last)
    # Bisection for each event: no other entries of the table are touched, nor differentiated.
    fixed, wanted = (table.detach(), part.detach()), target.detach()
    low, high = torch.zeros_like(left), last
    for _ in range(math.ceil(math.log2(n - 1))):
        middle = (low + high) // 2
        is_before = integral(*fixed, middle) <= wanted
        low, high = torch.where(is_before, middle, low), torch.where(is_before, high, middle)
    below, above = integral(table, part, low), integral(table, part, low + 1)
    return grid[low] + (target - below) / (above - below) * (grid[low + 1] - grid[low])


class Separate:
    """Sampler of independent observables, each by its own density on its own grid.

    Parameters
    ----------
    *grids : Tensor (grid,)
        Rising, one for each observable.
    """

    def __init__(self, *grids):
        self._grids = tuple(_checked_grid(grid) for grid in grids)

    @property
    def grids(self):
        """Points of each observable, ((grid,), ...)."""
        return tuple(_halved(grid, 0) for grid in self._grids) if _is_finer.get() else self._grids

    def sample(self, density, noise):
        """True values (observable, event) of densities ((grid,), ...) by noise (observable, event)."""
        grids = self.grids_like(noise)
        return [inverse_cdf(*each) for each in zip(density, grids, noise, strict=True)]

    def weigh(self, density, factors):
        """The densities times ((grid,), ...), a factor for each observable."""
        return [one * factor for one, factor in zip(density, factors, strict=True)]

    def integral(self, density):
        """One for each observable, and their product for all: a scalar."""
        grids = self.grids_like(density[0])
        return math.prod(cumulative(*each)[-1] for each in zip(density, grids, strict=True))

    def convolve(self, density, responses):
        """Densities of measured values, by ((measured, grid), ...)."""
        return [matrix @ one for matrix, one in zip(responses, density, strict=True)]

    def log_at(self, density, points, events):
        """Logarithms of the densities, given at points ((measured,), ...), at the events: (event,)."""
        values = [_between(*each) for each in zip(density, points, events.T, strict=True)]
        return torch.stack(values).log().sum(0)

    def density(self, theory, theta):
        """What the theory says at the grids' points."""
        if _is_finer.get():
            try:
                return self._asked(theory, theta, self.grids)
            except Exception:  # the user's own, of any type; what is wrong with it, other checks tell
                return self._interpolated(self._asked(theory, theta, self._grids))
        return self._asked(theory, theta, self._grids)

    def _asked(self, theory, theta, grids):
        found = theory(theta, *(grid.to(theta) for grid in grids))
        found = [found] if isinstance(found, torch.Tensor) else found
        _check_shapes(theory, [tuple(one.shape) for one in found], [tuple(grid.shape) for grid in grids])
        return found

    def _interpolated(self, density):
        return [_halved(one, 0) for one in density]

    def grids_like(self, tensor):
        """The grids in the type and on the device of a tensor."""
        return [grid.to(tensor) for grid in self.grids]


class Plane(Separate):
    """Sampler of two observables that depend on each other: the first by its own distribution, then the second.

    Parameters
    ----------
    x, y : Tensor (grid,)
        Rising; the theory gets x as a column, (x, 1), and y as a row, (1, y), and returns the density (x, y).
    """

    def __init__(self, x, y):
        super().__init__(x, y)

    def sample(self, density, noise):
        x, y = self.grids_like(noise)
        rows = cumulative(density, y)
        first = inverse_cdf(rows[:, -1], x, noise[0])
        # Linear between the grid's points in x: at their lines nothing jumps.
        left, part = _cell(x, first)
        part = part.clamp(EDGE, 1 - EDGE)  # on a line where the density is zero, the one beside it tells the rest
        return [first, inverse_cdf_between(rows, y, left, part, noise[1])]

    def weigh(self, density, factors):
        return density * factors[0][:, None] * factors[1]

    def integral(self, density):
        x, y = self.grids_like(density)
        return cumulative(cumulative(density, y)[:, -1], x)[-1]

    def convolve(self, density, responses):
        return responses[0] @ density @ responses[1].T

    def log_at(self, density, points, events):
        (i, in_x), (j, in_y) = (_cell(*each) for each in zip(points, events.T, strict=True))
        left, right = (density[i, k] * (1 - in_x) + density[i + 1, k] * in_x for k in (j, j + 1))
        return (left * (1 - in_y) + right * in_y).log()

    def _asked(self, theory, theta, grids):
        x, y = (grid.to(theta) for grid in grids)
        how = f"x comes as a column, ({len(x)}, 1), and y as a row, (1, {len(y)})"
        try:
            found = theory(theta, x[:, None], y[None, :])
        except RuntimeError as error:
            raise ValueError(f"{_name(theory)}: {error}. In a Plane {how}.") from error
        _check_shapes(theory, [tuple(found.shape)], [(len(x), len(y))], f": {how}")
        return found

    def _interpolated(self, density):
        return _halved(_halved(density, 0), 1)


def _checked_grid(grid):
    grid = torch.as_tensor(grid, dtype=torch.float64)
    if grid.ndim != 1 or len(grid) < 2 or not (grid.diff() > 0).all():
        raise ValueError(f"A grid of shape {tuple(grid.shape)}: should be (grid,) of at least 2 rising numbers.")
    return grid


def _check_shapes(theory, given, wanted, how=""):
    if given != wanted:
        text = f"{_name(theory)} returns densities of shapes {given}: should be {wanted}"
        raise ValueError(f"{text}, the density at every point of the grids{how}. {WITHOUT}")


def _name(theory):
    return getattr(theory, "__name__", type(theory).__name__)


def _halved(values, dim):
    """Values along `dim` with their means between them."""
    values = values.movedim(dim, 0)
    middle = (values[1:] + values[:-1]) / 2
    pairs = torch.stack([values[:-1], middle], 1).flatten(0, 1)
    return torch.cat([pairs, values[-1:]]).movedim(0, dim)


def _between(values, points, x):
    """Linear interpolation."""
    left, part = _cell(points, x)
    return (1 - part) * values[left] + part * values[left + 1]


def _cell(points, x):
    """Between which points x is, as the index of the left one, and at which fraction of the way."""
    left = torch.searchsorted(points, x.detach().contiguous(), right=True).clamp(1, len(points) - 1) - 1
    return left, (x - points[left]) / (points[left + 1] - points[left])
