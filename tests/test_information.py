"""The information in events: exact answers, and the names of undetermined directions."""

import warnings

import numpy as np
import pytest
from gaussian import Gaussian, exact_fit

from sagips_kit import Proxy, fisher_information, fit_likelihood
from sagips_kit._value import value
from sagips_kit.statistics.information import Information

NAMES = ("a", "b", "c")


def test_deviations_are_those_of_the_inverse():
    matrix = np.array([[400.0, 100.0], [100.0, 100.0]])
    information = Information(("a", "b"), np.array([2.0, 10.0]), matrix)
    expected = np.linalg.inv(matrix) * [[4.0, 20.0], [20.0, 100.0]]
    np.testing.assert_allclose(information.covariance, expected)
    np.testing.assert_allclose(information.deviation, np.sqrt(np.diag(expected)))
    assert len(information.undetermined) == 0 and information.describe_undetermined() == ""


def test_an_undetermined_direction_affects_only_its_parameters():
    together = np.array([0.6, -0.8, 0.0])
    other = np.array([0.8, 0.6, 0.0])
    matrix = 100 * np.outer(other, other) + np.diag([0.0, 0.0, 25.0])
    information = Information(NAMES, np.ones(3), matrix)
    np.testing.assert_allclose(np.abs(information.undetermined @ together), 1)
    np.testing.assert_allclose(information.deviation, [np.nan, np.nan, 0.2])
    assert "b (+0.80), a (-0.60). Results for" in information.describe_undetermined()
    with pytest.warns(UserWarning, match=r"^Fit: .*Add a constraint or a prior, or fix one"):
        information.warn("Fit")


def test_information_of_the_pipeline_is_the_exact_one():
    events = Gaussian().observed(3000, np.random.default_rng(0))
    best, deviation = exact_fit(events)
    # The features x and x^2 span the derivatives of the likelihood.
    np.testing.assert_allclose(fisher_information(Gaussian(), best, events).deviation, deviation, rtol=0.01)


def test_information_grows_with_the_events():
    one, four = (
        fisher_information(Gaussian(), (0.5, 1.0), Gaussian().observed(n, np.random.default_rng(0)))
        for n in (1000, 4000)
    )
    np.testing.assert_allclose(one.matrix * 4, four.matrix, rtol=1e-6)


def test_information_of_the_proxy_is_that_of_its_likelihood():
    events = Proxy().observed(None, np.random.default_rng(0))
    fit = fit_likelihood(Proxy(), events, n_starts=1)
    np.testing.assert_allclose(fisher_information(Proxy(), fit.theta, events).deviation, fit.deviation, rtol=0.02)


@value
class Free(Proxy):
    """The proxy without the constraints on its norms."""

    def constraints(self, theta, statistic):
        return theta[:0]


def test_the_common_scale_of_the_proxy_is_named():
    events = Free().observed(None, np.random.default_rng(0))
    with pytest.warns(UserWarning, match=r"^Free: .*theta0 \(\+0\.89\), theta3 \(\+0\.45\)\. Results for"):
        information = fisher_information(Free(), Free.truth, events)
    assert np.isnan(information.deviation).tolist() == [True, False, False, True, False, False]
    # The direction is theta itself: both amplitudes by the same factor.
    (direction,) = information.undetermined
    scale = np.array([2.1875, 0, 0, 1.09375, 0, 0])
    assert abs(direction @ scale) / np.linalg.norm(scale) == pytest.approx(1, abs=1e-6)
    with pytest.warns(UserWarning, match=r"^The likelihood fit of Free: .*theta0 .*theta3"):
        fit = fit_likelihood(Free(), events, n_starts=1)
    np.testing.assert_allclose(fit.deviation, information.deviation, rtol=0.4)


def test_with_its_norms_the_proxy_needs_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fisher_information(Proxy(), Proxy.truth, Proxy().observed(2000, np.random.default_rng(0)))
