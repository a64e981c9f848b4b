"""Differentiable sampling: events as a smooth function of fixed uniform numbers and of the density's table.

For problems to use in `simulate`; nothing here knows parameters or networks.
"""

import math

import torch
from torch import Tensor

_LEAST = 1e-7  # fraction below an event: where the density fades away, less has no digits to be differentiated


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
