"""Differentiable sampling: events as smooth functions of fixed uniform numbers and of a tabulated density.

Building blocks of `simulate`.  Parameters and networks do not belong here.
"""

from __future__ import annotations

import copy
import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Generic, Self, TypeVar

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from .constants import Constant

# Lowest cumulative fraction of an event: where a density fades away, less leaves no digits to differentiate.
_LEAST = 1e-7
EDGE = 1e-6  # distance from 0 and 1, where inverse distributions are infinite or have no neighbouring point
WITHOUT = "A simulator of events that has no density needs no Pipeline: write `simulate` in the class of the problem."

Density = TypeVar("Density")


def cumulative(density: Tensor, grid: Tensor) -> Tensor:
    """Return the cumulative integral by trapezoids.

    Parameters
    ----------
    density : Tensor (..., grid)
        Values at the points of the grid.
    grid : Tensor (grid,)
        Increasing.

    Returns
    -------
    Tensor (..., grid)
        Integrals from the first point to each; the last column is the norm.
    """
    cells = (density[..., 1:] + density[..., :-1]) * (0.5 * grid.diff())
    return torch.nn.functional.pad(cells.cumsum(-1), (1, 0))


def inverse_cdf(density: Tensor, grid: Tensor, noise: Tensor) -> Tensor:
    """Sample a tabulated density by inverting its cumulative distribution F.

    The derivative of an event is that of implicit reparameterisation, dx = -dF(x) / f(x), for the piecewise linear F
    that made it.  It flows through the integral at the two points of the grid around the event.

    Parameters
    ----------
    density : Tensor (..., grid)
        Values at the points of the grid, not negative, of any norm; positive somewhere in each row.
    grid : Tensor (grid,)
        Increasing.
    noise : Tensor (..., event)
        Uniform numbers in [0, 1), with the leading dimensions of `density`.

    Returns
    -------
    Tensor (..., event)
        Events between the ends of the grid.

    References
    ----------
    Figurnov, Mohamed and Mnih, Implicit Reparameterization Gradients, arXiv 1805.08498.
    """
    integral = cumulative(density, grid)
    target = noise.clamp(min=_LEAST) * integral[..., -1:]
    right = torch.searchsorted(integral.detach(), target.detach(), right=True).clamp(1, grid.numel() - 1)
    ends = torch.cat([right - 1, right], -1)  # of each event's cell, both at once
    low, high = integral.gather(-1, ends).chunk(2, -1)
    before, after = grid[ends].chunk(2, -1)
    return torch.lerp(before, after, (target - low) / (high - low))


def inverse_cdf_between(rows: Tensor, grid: Tensor, left: Tensor, part: Tensor, noise: Tensor) -> Tensor:
    """Sample, for each event, the density interpolated between two rows of a table, as `inverse_cdf` does.

    Parameters
    ----------
    rows : Tensor (row, grid)
        Cumulative integrals of densities, as `cumulative` returns them.
    grid : Tensor (grid,)
        Increasing.
    left : Tensor (event,) of int
        Index of the row before each event.
    part : Tensor (event,)
        Position between this row (0) and the next (1), both excluded.
    noise : Tensor (event,)
        Uniform numbers in [0, 1).

    Returns
    -------
    Tensor (event,)
        Events between the ends of the grid.
    """
    n, table = grid.numel(), rows.flatten()
    row = n * left

    def integral(table: Tensor, part: Tensor, column: Tensor) -> Tensor:
        at = row + column
        return torch.lerp(table.gather(0, at), table.gather(0, at + n), part)

    last = torch.full_like(left, n - 1)
    target = noise.clamp(min=_LEAST) * integral(table, part, last)
    # A bisection for each event touches, and differentiates, no other entries of the table.
    fixed, wanted = (table.detach(), part.detach()), target.detach()
    low, high = torch.zeros_like(left), last
    for _ in range(math.ceil(math.log2(n - 1))):
        middle = (low + high) // 2
        is_before = integral(*fixed, middle) <= wanted
        low, high = torch.where(is_before, middle, low), torch.where(is_before, high, middle)
    below, above = integral(table, part, low), integral(table, part, low + 1)
    return grid[low] + (target - below) / (above - below) * (grid[low + 1] - grid[low])


class Sampler(ABC, Generic[Density]):
    """Sampler of a density that a theory gives at the points of grids; the base of `Separate` and `Plane`.

    Parameters
    ----------
    *grids : array_like (grid,)
        Increasing points, one grid for each observable.
    """

    def __init__(self, *grids: ArrayLike):
        self._grids = self._given = tuple(Constant(_checked_grid(grid)) for grid in grids)
        self._n_finer = 1

    @property
    def grids(self) -> tuple[Tensor, ...]:
        """Points of each observable, tuple of Tensor (grid,) in float64."""
        return tuple(grid.values for grid in self._grids)

    def refined(self, n: int) -> Self:
        """Return the same sampler with `n` - 1 further points in each cell of its grids.

        A theory that works only at the given points is a table, and is interpolated linearly.

        Parameters
        ----------
        n : int
            How many times as fine the grids become, at least 1.

        Returns
        -------
        Separate or Plane
            A new sampler.

        Raises
        ------
        ValueError
            If `n` is not a whole number of at least 1.
        """
        if not (isinstance(n, int) and n >= 1):
            raise ValueError(f"refined({n!r}): should be a whole number of at least 1, how many times as fine.")
        finer = copy.copy(self)
        finer._n_finer = n * self._n_finer
        finer._grids = tuple(Constant(_refined(grid.values, 0, finer._n_finer)) for grid in self._given)
        return finer

    def density(self, theory: Callable[..., Any], theta: Tensor) -> Density:
        """Return the density of a theory at the points of the grids.

        Parameters
        ----------
        theory : function
            (theta, *grids) -> density, see `Pipeline`.
        theta : Tensor (parameter,)
            The parameters.

        Returns
        -------
        list of Tensor (grid,), or Tensor (x, y)
            One density for each observable of a Separate, or the table of a Plane.
        """
        if self._n_finer > 1:
            try:
                return self._asked(theory, theta, self.grids_like(theta))
            except Exception:  # raised by a user's function, so of any type; other checks report what is wrong with it
                return self._interpolated(self._asked(theory, theta, [grid.like(theta) for grid in self._given]))
        return self._asked(theory, theta, self.grids_like(theta))

    def grids_like(self, tensor: Tensor) -> list[Tensor]:
        """Return the grids in the type and on the device of a tensor.

        Parameters
        ----------
        tensor : Tensor
            Of any shape.

        Returns
        -------
        list of Tensor (grid,)
            The grids.
        """
        return [grid.like(tensor) for grid in self._grids]

    @abstractmethod
    def sample(self, density: Density, noise: Tensor) -> list[Tensor]:
        """Draw true values of a density.

        Parameters
        ----------
        density : list of Tensor (grid,), or Tensor (x, y)
            At the points of the grids, as `density` returns it.
        noise : Tensor (observable, event)
            Uniform numbers in [0, 1).

        Returns
        -------
        list of Tensor (event,)
            The values of each observable.
        """

    @abstractmethod
    def weigh(self, density: Density, factors: Sequence[Tensor]) -> Density:
        """Multiply a density by a factor of each observable.

        Parameters
        ----------
        density : list of Tensor (grid,), or Tensor (x, y)
            At the points of the grids.
        factors : sequence of Tensor (grid,)
            One for each observable.

        Returns
        -------
        list of Tensor (grid,), or Tensor (x, y)
            The product.
        """

    @abstractmethod
    def integral(self, density: Density) -> Tensor:
        """Return the integral of a density over all observables.

        Parameters
        ----------
        density : list of Tensor (grid,), or Tensor (x, y)
            At the points of the grids.

        Returns
        -------
        Tensor ()
            The integral by trapezoids, differentiable.
        """

    @abstractmethod
    def convolve(self, density: Density, responses: Sequence[Tensor]) -> Density:
        """Return the density of measured values.

        Parameters
        ----------
        density : list of Tensor (grid,), or Tensor (x, y)
            Of the true values, at the points of the grids.
        responses : sequence of Tensor (measured, grid)
            Of each observable, the density of measured values for each true one times the width of its cell.

        Returns
        -------
        list of Tensor (measured,), or Tensor (measured x, measured y)
            The density at the measured values.
        """

    @abstractmethod
    def log_at(self, density: Density, points: Sequence[Tensor], events: Tensor) -> Tensor:
        """Return the logarithm of an interpolated density at events.

        Parameters
        ----------
        density : list of Tensor (measured,), or Tensor (measured x, measured y)
            At the points.
        points : sequence of Tensor (measured,)
            Increasing, for each observable.
        events : Tensor (event, observable)
            Where.

        Returns
        -------
        Tensor (event,)
            The logarithms, summed over independent observables.
        """

    @abstractmethod
    def _asked(self, theory: Callable[..., Any], theta: Tensor, grids: Sequence[Tensor]) -> Density:
        """The theory's density at the points of these grids, with its shape checked."""

    @abstractmethod
    def _interpolated(self, density: Density) -> Density:
        """A density at the given points, interpolated to the finer ones."""


class Separate(Sampler[list[Tensor]]):
    """Sampler of independent observables, each from its own density on its own grid.

    The theory gets each grid as (grid,) and returns one density (grid,), or a list with one for each observable.

    Parameters
    ----------
    *grids : array_like (grid,)
        Increasing points, one grid for each observable.  They should be several times finer than all that varies.

    See Also
    --------
    Plane : Two observables that depend on each other.
    Pipeline : Where the sampler is used.

    Examples
    --------
    >>> import torch
    >>> from sagips_kit import Pipeline, Separate
    >>> def decays(theta, time):
    ...     return torch.exp(-time / theta[0])
    >>> pipeline = Pipeline(decays, Separate(torch.linspace(0, 10, 501)))
    >>> median = pipeline.simulate(torch.tensor([2.0]), torch.tensor([[0.5]]))
    >>> round(median.item(), 2)
    1.37
    """

    def sample(self, density: list[Tensor], noise: Tensor) -> list[Tensor]:
        grids = self.grids_like(noise)
        return [inverse_cdf(*each) for each in zip(density, grids, noise, strict=True)]

    def weigh(self, density: list[Tensor], factors: Sequence[Tensor]) -> list[Tensor]:
        return [one * factor for one, factor in zip(density, factors, strict=True)]

    def integral(self, density: list[Tensor]) -> Tensor:
        grids = self.grids_like(density[0])
        norms = (cumulative(*each)[-1] for each in zip(density, grids, strict=True))
        return functools.reduce(torch.mul, norms)

    def convolve(self, density: list[Tensor], responses: Sequence[Tensor]) -> list[Tensor]:
        return [matrix @ one for matrix, one in zip(responses, density, strict=True)]

    def log_at(self, density: list[Tensor], points: Sequence[Tensor], events: Tensor) -> Tensor:
        values = [_between(*each) for each in zip(density, points, events.T, strict=True)]
        return torch.stack(values).log().sum(0)

    def _asked(self, theory: Callable[..., Any], theta: Tensor, grids: Sequence[Tensor]) -> list[Tensor]:
        found = theory(theta, *grids)
        found = [found] if isinstance(found, Tensor) else found
        _check_shapes(theory, [tuple(one.shape) for one in found], [tuple(grid.shape) for grid in grids])
        return found

    def _interpolated(self, density: list[Tensor]) -> list[Tensor]:
        return [_refined(one, 0, self._n_finer) for one in density]


class Plane(Sampler[Tensor]):
    """Sampler of two observables that depend on each other: x from its own distribution, then y given x.

    The theory gets x as a column (x, 1) and y as a row (1, y), and returns the table of the density (x, y).

    Parameters
    ----------
    x, y : array_like (grid,)
        Increasing points of each observable.  They should be several times finer than all that varies.

    See Also
    --------
    Separate : Observables that are independent of each other.
    Pipeline : Where the sampler is used.

    Examples
    --------
    >>> import torch
    >>> from sagips_kit import Pipeline, Plane
    >>> def tilted(theta, x, y):
    ...     return 1 + theta[0] * x * y
    >>> axis = torch.linspace(-1, 1, 101)
    >>> pipeline = Pipeline(tilted, Plane(axis, axis))
    >>> noise = torch.rand((20_000, 2), generator=torch.Generator().manual_seed(0))
    >>> events = pipeline.simulate(torch.tensor([0.9]), noise)
    >>> round(torch.corrcoef(events.T)[0, 1].item(), 1)  # a third of theta
    0.3
    """

    def __init__(self, x: ArrayLike, y: ArrayLike):
        super().__init__(x, y)

    def sample(self, density: Tensor, noise: Tensor) -> list[Tensor]:
        x, y = self.grids_like(noise)
        rows = cumulative(density, y)
        first = inverse_cdf(rows[:, -1], x, noise[0])
        # Linear between the grid's points in x, so nothing jumps at its lines.
        left, part = _cell(x, first)
        part = part.clamp(EDGE, 1 - EDGE)  # exactly on a line where the density is zero there would be no distribution
        return [first, inverse_cdf_between(rows, y, left, part, noise[1])]

    def weigh(self, density: Tensor, factors: Sequence[Tensor]) -> Tensor:
        return density * factors[0][:, None] * factors[1]

    def integral(self, density: Tensor) -> Tensor:
        x, y = self.grids_like(density)
        return cumulative(cumulative(density, y)[:, -1], x)[-1]

    def convolve(self, density: Tensor, responses: Sequence[Tensor]) -> Tensor:
        return responses[0] @ density @ responses[1].T

    def log_at(self, density: Tensor, points: Sequence[Tensor], events: Tensor) -> Tensor:
        (i, in_x), (j, in_y) = (_cell(*each) for each in zip(points, events.T, strict=True))
        left, right = (density[i, k] * (1 - in_x) + density[i + 1, k] * in_x for k in (j, j + 1))
        return (left * (1 - in_y) + right * in_y).log()

    def _asked(self, theory: Callable[..., Any], theta: Tensor, grids: Sequence[Tensor]) -> Tensor:
        x, y = grids
        how = f"x comes as a column, ({len(x)}, 1), and y as a row, (1, {len(y)})"
        try:
            found = theory(theta, x[:, None], y[None, :])
        except RuntimeError as error:
            raise ValueError(f"{_name(theory)}: {error}. In a Plane {how}.") from error
        _check_shapes(theory, [tuple(found.shape)], [(len(x), len(y))], f": {how}")
        return found

    def _interpolated(self, density: Tensor) -> Tensor:
        return _refined(_refined(density, 0, self._n_finer), 1, self._n_finer)


def _checked_grid(grid: ArrayLike) -> Tensor:
    grid = torch.as_tensor(grid, dtype=torch.float64)
    if grid.ndim != 1 or len(grid) < 2 or not (grid.diff() > 0).all():
        raise ValueError(
            f"A grid of shape {tuple(grid.shape)}: should be (grid,) of at least 2 increasing numbers, as of "
            "torch.linspace(0, 10, 801)."
        )
    return grid


def _check_shapes(theory: Callable[..., Any], given: Any, wanted: Any, how: str = "") -> None:
    if given != wanted:
        text = f"{_name(theory)} returns densities of shapes {given}: should be {wanted}"
        raise ValueError(f"{text}, the density at every point of the grids{how}. {WITHOUT}")


def _name(theory: Callable[..., Any]) -> str:
    return getattr(theory, "__name__", type(theory).__name__)


def _refined(values: Tensor, dim: int, n: int) -> Tensor:
    """Values along `dim` with n - 1 linearly interpolated ones between any two."""
    values = values.movedim(dim, 0)
    steps = [values[:-1] + (values[1:] - values[:-1]) * (k / n) for k in range(n)]
    return torch.cat([torch.stack(steps, 1).flatten(0, 1), values[-1:]]).movedim(0, dim)


def _between(values: Tensor, points: Tensor, x: Tensor) -> Tensor:
    """Values at the points, interpolated linearly at x: (event,)."""
    left, part = _cell(points, x)
    return (1 - part) * values[left] + part * values[left + 1]


def _cell(points: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Index of the point to the left of each x, and the fraction of the way to the next: (event,) each."""
    left = torch.searchsorted(points, x.detach().contiguous(), right=True).clamp(1, len(points) - 1) - 1
    return left, (x - points[left]) / (points[left + 1] - points[left])
