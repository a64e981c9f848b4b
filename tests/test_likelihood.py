"""The reference fit: exact answers where they are known, agreement with Minuit, and clear failures."""

import numpy as np
import pytest
import torch
from gaussian import Calibrated, Gaussian, exact_fit
from iminuit import Minuit

from sagips_kit import Linear, Proxy, fit_likelihood
from sagips_kit._value import value


@pytest.fixture
def events():
    return Gaussian().observed(3000, np.random.default_rng(0))


def test_fit_is_the_exact_one(events):
    fit = fit_likelihood(Gaussian(), events)
    best, deviation = exact_fit(events)
    np.testing.assert_allclose(fit.theta, best, rtol=1e-6)
    np.testing.assert_allclose(fit.deviation, deviation, rtol=1e-4)
    assert abs(fit.covariance[0, 1]) < 1e-6 * deviation[0] * deviation[1]


@pytest.mark.parametrize("problem", [Calibrated(), Linear(), Proxy()], ids=repr)
def test_minuit_finds_the_same(problem):
    """This includes a prior, correlated parameters, and constraints that make the problem ill-conditioned."""
    events = problem.observed(3000, np.random.default_rng(0))
    statistic = problem.statistic(torch.as_tensor(events))

    def cost(theta):
        penalty = 0.5 * problem.residuals(theta, statistic).square().sum()
        return penalty - problem.log_likelihood(theta, statistic)

    minuit = Minuit(
        lambda theta: float(cost(torch.tensor(theta))),
        problem.truth,
        grad=lambda theta: torch.func.grad(cost)(torch.tensor(theta)).numpy(),
        name=problem.parameters,
    )
    minuit.errordef = Minuit.LIKELIHOOD
    minuit.migrad()
    assert minuit.valid
    fit = fit_likelihood(problem, events, n_starts=1)
    assert np.abs((fit.theta - minuit.values) / fit.deviation).max() < 0.05
    if not isinstance(problem, Proxy):  # whose curvature Minuit's finite differences do not resolve
        minuit.hesse()
        correlations = (fit.covariance - minuit.covariance) / np.outer(fit.deviation, fit.deviation)
        assert np.abs(correlations).max() < 1e-3


def test_fits_can_be_compared(events):
    one, other = (fit_likelihood(Gaussian(), events, n_starts=1) for _ in range(2))
    assert one == one and one != other  # compared by identity, because arrays have no single truth value


@pytest.mark.parametrize("seed", range(3))
def test_fit_does_not_depend_on_its_starting_points(events, seed):
    fit = fit_likelihood(Gaussian(), events, n_starts=2, seed=seed)
    np.testing.assert_allclose(fit.theta, exact_fit(events)[0], rtol=1e-6)


@value
class Pulled(Gaussian):
    """The mean is also known from elsewhere."""

    def constraints(self, theta, statistic):
        return (theta[:1] - 0.4) / 0.01


def test_constraints_count_with_their_deviations(events):
    fit, (best, deviation) = fit_likelihood(Pulled(), events), exact_fit(events)
    # sigma moves a little too, hence the tolerance.
    weights = np.array([1 / deviation[0] ** 2, 1 / 0.01**2])
    assert fit.theta[0] == pytest.approx(np.average([best[0], 0.4], weights=weights), abs=0.1 * fit.deviation[0])
    assert fit.deviation[0] == pytest.approx(weights.sum() ** -0.5, rel=0.02)


@value
class Hidden(Gaussian):
    """A third parameter that the events do not depend on."""

    parameters = ("mu", "sigma", "hidden")
    lower, upper = (-2.0, 0.5, 0.0), (2.0, 2.5, 1.0)


def test_undetermined_parameters_have_no_deviation(events):
    with pytest.warns(UserWarning, match=r"likelihood fit of Hidden: .*hidden \(\+1.00\)"):
        fit = fit_likelihood(Hidden(), events)
    best, deviation = exact_fit(events)
    np.testing.assert_allclose(fit.theta[:2], best, rtol=1e-6)
    np.testing.assert_allclose(fit.deviation, [*deviation, np.nan], rtol=1e-3)


@value
class Broken(Gaussian):
    """A likelihood that is NaN on one side of the middle, or everywhere."""

    edge: float = 0.0

    def log_likelihood(self, theta, statistic):
        good = super().log_likelihood(theta, statistic)
        return torch.where(theta[0] > self.edge, good, torch.nan)


def test_a_start_that_fails_does_not_spoil_the_others(events):
    fit = fit_likelihood(Broken(), events, n_starts=8)
    np.testing.assert_allclose(fit.theta, exact_fit(events)[0], rtol=1e-6)


@value
class Narrow(Gaussian):
    """A problem whose range ends below the answer."""

    upper = (0.5, 2.5)


def test_a_fit_at_the_end_of_a_range_is_reported(events):
    with pytest.warns(UserWarning, match="fit of Narrow ends at the end of a range: mu at 0.5. Allow wider ranges"):
        assert fit_likelihood(Narrow(), events).theta[0] == pytest.approx(0.5, abs=1e-3)


def test_events_may_be_any_view(events):
    view, copy = events[::-1], events[::-1].copy()
    np.testing.assert_array_equal(*(fit_likelihood(Gaussian(), each).theta for each in (view, copy)))


def test_a_likelihood_that_is_never_finite_is_an_error(events):
    with pytest.raises(RuntimeError, match="The likelihood fit of Broken"):
        fit_likelihood(Broken(edge=9.0), events)


class NoLikelihood(Proxy):
    log_likelihood = Gaussian.__mro__[1].log_likelihood


def test_no_likelihood_is_an_error():
    with pytest.raises(NotImplementedError, match="NoLikelihood declares no log_likelihood"):
        fit_likelihood(NoLikelihood(), np.full((5, 2), 0.5))


def test_a_prior_is_a_constraint_on_one_parameter(events):
    by_prior, by_constraint = fit_likelihood(Calibrated(), events), fit_likelihood(Pulled(), events)
    np.testing.assert_allclose(by_prior.theta, by_constraint.theta, rtol=1e-9)
    np.testing.assert_allclose(by_prior.covariance, by_constraint.covariance, rtol=1e-6)
    theta = torch.tensor([0.42, 1.0], dtype=torch.float64)
    shift = torch.tensor([0.5], dtype=torch.float64)
    assert Calibrated().residuals(theta, None, shift).tolist() == pytest.approx([1.5])
