"""Sampling from tables: the right distribution, and exact derivatives."""

import numpy as np
import pytest
import torch

from sagips_kit.problems.samplers import cumulative, inverse_cdf, inverse_cdf_between

GRID = torch.linspace(0.5, 3.0, 400, dtype=torch.float64)


def exponential(rate):
    return torch.exp(-rate * GRID)


def test_cumulative_is_exact_for_straight_lines():
    density = torch.stack([GRID, 3 - GRID])
    expected = torch.stack([(GRID**2 - 0.25) / 2, 3 * (GRID - 0.5) - (GRID**2 - 0.25) / 2])
    torch.testing.assert_close(cumulative(density, GRID), expected)


def test_events_are_where_the_integral_has_their_fraction():
    noise = torch.rand(5000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = inverse_cdf(7.0 * exponential(2.0), GRID, noise)
    exact = -torch.log(np.exp(-1.0) - noise * (np.exp(-1.0) - np.exp(-6.0))) / 2
    torch.testing.assert_close(x, exact, rtol=0, atol=1e-4)


@pytest.mark.parametrize("noise", [[0.0], [1 - 2**-24]])
def test_the_ends_of_the_noise_are_the_ends_of_the_grid(noise):
    x = inverse_cdf(exponential(0.1), GRID, torch.tensor(noise, dtype=torch.float64))
    assert GRID[0] <= x <= GRID[-1] and min(x - GRID[0], GRID[-1] - x) < 1e-5


def test_no_events_lie_where_the_density_is_zero():
    density = torch.where((GRID > 1) & (GRID < 2), 0.0, 1.0).requires_grad_()
    x = inverse_cdf(density, GRID, torch.rand(1000, dtype=torch.float64))
    assert not ((x > 1.01) & (x < 1.99)).any()
    x.sum().backward()
    assert density.grad.isfinite().all()


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_derivatives_are_those_of_finite_differences(shape):
    random = torch.Generator().manual_seed(1)
    grid = torch.linspace(0, 1, 12, dtype=torch.float64)
    density = (0.5 + torch.rand(*shape, 12, generator=random, dtype=torch.float64)).requires_grad_()
    noise = torch.rand(*shape, 6, generator=random, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda density: inverse_cdf(density, grid, noise), density)


def test_derivatives_are_those_of_implicit_reparameterisation():
    noise = torch.rand(50, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    rate = torch.tensor(1.3, dtype=torch.float64)
    x, slope = torch.func.jvp(
        lambda rate: inverse_cdf(exponential(rate), GRID, noise), (rate,), (torch.ones_like(rate),)
    )

    def fraction_below(rate):
        return (torch.exp(-0.5 * rate) - torch.exp(-rate * x)) / (torch.exp(-0.5 * rate) - torch.exp(-3 * rate))

    density = rate * torch.exp(-rate * x) / (torch.exp(-0.5 * rate) - torch.exp(-3 * rate))
    expected = -torch.func.jvp(fraction_below, (rate,), (torch.ones_like(rate),))[1] / density
    # F is piecewise linear, so the density in the denominator is a cell's mean: off by at most half a cell's slope.
    torch.testing.assert_close(slope, expected, rtol=5e-3, atol=0)


def test_rows_and_vmap_give_the_same():
    rates, noise = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64), torch.rand(3, 20, dtype=torch.float64)
    rows = inverse_cdf(torch.stack([exponential(rate) for rate in rates]), GRID, noise)
    mapped = torch.vmap(lambda rate, u: inverse_cdf(exponential(rate), GRID, u))(rates, noise)
    torch.testing.assert_close(rows, mapped)


@pytest.mark.parametrize("n", [2, 9, 16, 17])
def test_between_rows_it_is_the_same_as_of_each_interpolated_density(n):
    random = torch.Generator().manual_seed(3)
    table = torch.rand(5, n, generator=random, dtype=torch.float64)
    table[0, n // 2 :] = 0  # an interval without events
    grid = torch.rand(n, generator=random, dtype=torch.float64).cumsum(0)
    left = torch.randint(4, (300,), generator=random)
    part, noise = (0.01 + 0.98 * torch.rand(300, generator=random, dtype=torch.float64) for _ in range(2))

    def one_by_one(table, part):
        density = (1 - part)[:, None] * table[left] + part[:, None] * table[left + 1]
        return inverse_cdf(density, grid, noise[:, None])[:, 0]

    def between(table, part):
        return inverse_cdf_between(cumulative(table, grid), grid, left, part, noise)

    torch.testing.assert_close(between(table, part), one_by_one(table, part))
    for slope in (0, 1):
        wanted = torch.func.jacrev(one_by_one, slope)(table, part)
        torch.testing.assert_close(torch.func.jacrev(between, slope)(table, part), wanted)
