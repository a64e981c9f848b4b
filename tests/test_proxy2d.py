"""The 2-D proxy: its density, its derivative by moving events, and LOITS, whose events stay in their cells."""

import numpy as np
import pytest
import scipy.integrate
import torch

from sagips_kit import Proxy2D, Settings, Trainer, check_problem, fisher_information, fit_likelihood

TRUTH = torch.tensor(Proxy2D.truth, dtype=torch.float64)
SAMPLERS = [Proxy2D(), Proxy2D(sampler="LOITS")]
both = pytest.mark.parametrize("problem", SAMPLERS, ids=["pathwise", "LOITS"])


def density(y, x, theta=Proxy2D.truth):
    """The published density, implemented independently."""
    a, b, c, d, e = theta
    return x**a * (1 - x) ** b * y**c * (1 - y) ** d * (1 + e * x * y)


def integral(high_x, high_y, theta=Proxy2D.truth):
    return scipy.integrate.dblquad(density, 0.001, high_x, 0.001, high_y, args=(theta,))[0]


def simulate(problem, n_events, theta=TRUTH):
    noise = torch.rand((n_events, problem.noise_dim), dtype=torch.float64)
    return problem.simulate(theta, noise)


@pytest.mark.parametrize(
    ("problem", "theta"),
    [(SAMPLERS[0], Proxy2D.truth), (SAMPLERS[0], (-0.5, 4.0, 0.0, 3.0, 1.5)), (SAMPLERS[1], TRUTH)],
)
def test_events_follow_the_density(problem, theta):
    theta = tuple(float(number) for number in theta)
    events = simulate(problem, 400_000, torch.tensor(theta, dtype=torch.float64))
    assert events.min() >= 0.001 and events.max() <= 0.999
    whole = integral(0.999, 0.999, theta)
    for x, y in [(0.02, 0.999), (0.2, 0.999), (0.5, 0.999), (0.999, 0.03), (0.999, 0.2), (0.15, 0.1), (0.4, 0.3)]:
        below = ((events[:, 0] < x) & (events[:, 1] < y)).double().mean().item()
        # Five standard deviations of the fraction; LOITS is coarse, with 50 x 50 cells.
        coarse = 0.002 if problem.sampler == "LOITS" else 0.0
        assert below == pytest.approx(integral(x, y, theta) / whole, abs=5 * 0.5 / 400_000**0.5 + coarse)


def test_observables_are_correlated_as_the_density_says():
    theta = torch.tensor([0.5, 2.75, 0.3, 3.0, 1.5], dtype=torch.float64)
    noise = torch.rand((400_000, 2), dtype=torch.float64)
    together = Proxy2D().simulate(theta, noise)
    shuffled = torch.stack([together[:, 0], together[:, 1].flip(0)], dim=-1)

    def mean(function):
        top = scipy.integrate.dblquad(
            lambda y, x: function(x, y) * density(y, x, theta.tolist()), 0.001, 0.999, 0.001, 0.999
        )[0]
        return top / integral(0.999, 0.999, theta.tolist())

    covariance = mean(lambda x, y: x * y) - mean(lambda x, y: x) * mean(lambda x, y: y)
    assert torch.cov(together.T)[0, 1].item() == pytest.approx(covariance, rel=0.15)
    assert abs(torch.cov(shuffled.T)[0, 1].item()) < 0.3 * covariance


def test_gradient_is_that_of_finite_differences():
    noise = torch.rand((200, 2), dtype=torch.float64)
    jacobian = torch.func.jacrev(Proxy2D().simulate)(TRUTH, noise)
    for k in range(5):
        step = torch.zeros_like(TRUTH).index_fill(0, torch.tensor(k), 1e-6)
        difference = (Proxy2D().simulate(TRUTH + step, noise) - Proxy2D().simulate(TRUTH - step, noise)) / 2e-6
        # An event that changes its grid cell between the two points has a kink there.
        torch.testing.assert_close(jacobian[..., k], difference, rtol=1e-3, atol=1e-5)


def mass_in_the_corner(problem, theta):
    """A smooth measure of the events at small x, which are in a few cells of LOITS."""
    x = simulate(problem, 100_000, theta)[:, 0]
    return torch.sigmoid((0.2 - x) / 0.02).mean()


@both
def test_mass_moves_between_cells_where_the_derivative_sees_it(problem):
    torch.manual_seed(0)
    slope = torch.func.grad(lambda theta: mass_in_the_corner(problem, theta))(TRUTH)[0]
    torch.manual_seed(0)
    more = mass_in_the_corner(problem, TRUTH + torch.tensor([0.02, 0, 0, 0, 0]))
    torch.manual_seed(0)
    less = mass_in_the_corner(problem, TRUTH - torch.tensor([0.02, 0, 0, 0, 0]))
    moved = (more - less) / 0.04
    assert moved < -0.2
    if problem.sampler == "pathwise":
        assert slope.item() == pytest.approx(moved.item(), rel=0.02)
    else:
        assert abs(slope) < 0.1 * abs(moved)


def test_the_check_of_problems_distinguishes_the_samplers():
    pathwise, loits = (check_problem(problem, n_observed=5000) for problem in SAMPLERS)
    assert pathwise.is_ok
    assert {finding.check for finding in loits.to_fix} == {"gradient", "parameters"}


def test_features_hold_the_information_of_the_likelihood():
    events = Proxy2D().observed(None, np.random.default_rng(0))
    fit = fit_likelihood(Proxy2D(), events, n_starts=1)
    assert np.abs((fit.theta - Proxy2D.truth) / fit.deviation).max() < 4
    np.testing.assert_allclose(fisher_information(Proxy2D(), fit.theta, events).deviation, fit.deviation, rtol=0.03)


def test_likelihood_is_normalised():
    """The mean of exp(log-likelihood) over the unit square is 1."""
    x, y = torch.rand((2, 200_000), dtype=torch.float64) * 0.998 + 0.001
    each = torch.vmap(lambda event: Proxy2D().log_likelihood(TRUTH, event[None]))(torch.stack([x, y], dim=-1))
    assert 0.998**2 * each.exp().mean().item() == pytest.approx(1, abs=0.02)


@pytest.mark.slow
def test_training_reaches_the_statistical_floor():
    events = Proxy2D().observed(20_000, np.random.default_rng(0))
    fit = fit_likelihood(Proxy2D(), events, n_starts=1)
    trainer = Trainer(Proxy2D(), Settings(n_members=2), events, n_steps=2000)
    trainer.run()
    distance = (trainer.draws.mean((0, 1)) - fit.theta) / fit.deviation
    assert np.sqrt(np.mean(distance**2)) < 1
