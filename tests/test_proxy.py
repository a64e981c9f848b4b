"""The 1-D proxy: densities, norms, gradients and statistical floor agree with the published formulas."""

import numpy as np
import pytest
import scipy.integrate
import torch

from sagips_kit import Proxy, fit_likelihood

TRUTH = torch.tensor(Proxy.truth, dtype=torch.float64)
# Cramer-Rao deviations of t for 51 200 events, computed independently
FLOOR = np.array([0.0381, 0.0121, 0.0108, 0.0431, 0.0255, 0.0286])
WIDTH = np.subtract(Proxy.upper, Proxy.lower)


def sigma(k, x, theta=Proxy.truth):
    """The published densities, implemented independently."""
    u = theta[0] * x ** theta[1] * (1 - x) ** theta[2]
    d = theta[3] * x ** theta[4] * (1 - x) ** theta[5]
    return 4 * u + d if k == 0 else 4 * d + u


def fraction_below(k, x):
    inside = scipy.integrate.quad(lambda y: sigma(k, y), 0.1, x)[0]
    return inside / scipy.integrate.quad(lambda y: sigma(k, y), 0.1, 0.99999)[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_events_follow_the_densities(dtype):
    n_events = 100_000
    u = (torch.arange(n_events, dtype=torch.float64) + 0.5) / n_events
    events = Proxy().simulate(TRUTH.to(dtype), torch.stack([u, u], dim=-1).to(dtype))
    assert events.dtype == dtype and events.min() >= 0.1 and events.max() <= 0.99999
    for k in range(2):
        for x in (0.12, 0.2, 0.35, 0.6, 0.9):
            below = (events[:, k] < x).double().mean().item()
            assert below == pytest.approx(fraction_below(k, x), abs=5e-5)


OTHER = (1.8, -0.3, 2.2, 1.4, -0.6, 3.5)


@pytest.mark.parametrize("truth", [Proxy.truth, OTHER])
def test_norms_are_the_exact_integrals_at_the_truth(truth):
    problem, theta = Proxy(truth=truth), torch.tensor(truth, dtype=torch.float64)
    assert problem.constraints(theta, torch.empty(0)).abs().max() < 1e-9
    # Relative to exact integrals, in units of the constraints' standard deviation, 1e-3.
    exact = [scipy.integrate.quad(lambda x, k=k: sigma(k, x, truth), 0.1, 0.99999)[0] for k in range(2)]
    norms = problem._norms(theta).numpy()
    np.testing.assert_allclose(norms, exact, rtol=2e-5)
    doubled = theta * torch.tensor([2.0, 1, 1, 2, 1, 1])
    assert problem.constraints(doubled, torch.empty(0)).numpy() == pytest.approx([1000, 1000], rel=1e-3)


def test_events_and_fit_follow_another_truth():
    problem = Proxy(truth=OTHER)
    fit = fit_likelihood(problem, problem.observed(None, np.random.default_rng(0)), n_starts=1)
    assert np.abs((fit.theta - OTHER) / fit.deviation).max() < 4
    assert np.abs((fit.theta - Proxy.truth) / fit.deviation).max() > 10


@pytest.mark.parametrize(
    ("truth", "message"),
    [
        ((3.0, -0.5, 3.0, 1.1, -0.5, 4.0), "theta0 = 3.0: should be above 0.0 and below 3.0"),
        ((1.0, float("nan"), 3.0, 1.1, -0.5, 4.0), "theta1 = nan"),
        ((1.0, 0.5), "truth"),
    ],
)
def test_a_truth_outside_the_ranges_is_refused(truth, message):
    with pytest.raises(ValueError, match=message):
        Proxy(truth=truth)


def test_gradient_is_that_of_finite_differences():
    noise = torch.rand(100, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    jacobian = torch.func.jacrev(Proxy().simulate)(TRUTH, noise)
    for k in range(6):
        step = torch.zeros(6, dtype=torch.float64).index_fill(0, torch.tensor(k), 1e-6)
        difference = (Proxy().simulate(TRUTH + step, noise) - Proxy().simulate(TRUTH - step, noise)) / 2e-6
        torch.testing.assert_close(jacobian[..., k], difference, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("edge", [0.0, 1.0])
def test_features_are_finite_to_the_ends_of_the_ranges(edge):
    t = torch.full((6,), abs(edge - 1e-4))
    theta = Proxy().scale(t)
    u = torch.tensor([[0.0, 0.0], [0.5, 0.5], [1 - 2**-24, 1 - 2**-24]])
    features, gradient = torch.func.vjp(lambda theta: Proxy().features(Proxy().simulate(theta, u)), theta)
    assert features.shape == (3, 6) and features.isfinite().all()
    assert gradient(torch.ones_like(features))[0].isfinite().all()


def test_observed_events_are_reproducible_and_have_the_given_number():
    one, same = (Proxy().observed(1000, np.random.default_rng(3)) for _ in range(2))
    np.testing.assert_array_equal(one, same)
    assert one.shape == (1000, 2) and Proxy(n_observed=70).observed(None, np.random.default_rng(0)).shape == (70, 2)


def test_the_common_scale_is_left_to_the_constraints():
    events = torch.as_tensor(Proxy().observed(2000, np.random.default_rng(0)))
    scaled = TRUTH * torch.tensor([1.3, 1, 1, 1.3, 1, 1], dtype=torch.float64)
    torch.testing.assert_close(Proxy().log_likelihood(TRUTH, events), Proxy().log_likelihood(scaled, events))


def test_deviations_at_the_truth_are_the_known_floor():
    u = (torch.arange(51_200, dtype=torch.float64)[:, None] + 0.5) / 51_200
    # Events without statistical scatter: their observed information equals the expected information.
    events = Proxy().simulate(TRUTH, u.expand(-1, 2))

    information = -torch.func.hessian(Proxy().log_likelihood)(TRUTH, events).numpy()
    constraints = torch.func.jacrev(Proxy().constraints)(TRUTH, events).numpy()
    covariance = np.linalg.inv(information + constraints.T @ constraints)
    np.testing.assert_allclose(np.sqrt(np.diag(covariance)) / WIDTH, FLOOR, rtol=0.01)


def test_pulls_of_estimates_are_standard_normal():
    pulls = []
    for seed in range(5):
        fit = fit_likelihood(Proxy(), Proxy().observed(None, np.random.default_rng(seed)), n_starts=1)
        pulls.append((fit.theta - np.array(Proxy.truth)) / fit.deviation)
    # 30 numbers that should be standard normal
    assert np.sqrt(np.mean(np.square(pulls))) == pytest.approx(1, abs=0.5)
    assert np.abs(pulls).max() < 4
