"""The fit without a likelihood, against likelihood fits of problems with events from independent generators."""

import math

import numpy as np
import pytest
import torch

from sagips_kit import Linear, Problem, fit, fit_likelihood
from sagips_kit.statistics.coordinates import Coordinates, Waves
from sagips_kit.statistics.score import Sample, means_and_slopes


class Bivariate(Problem):
    """A bivariate normal distribution."""

    parameters = ("mean_x", "mean_y", "deviation_x", "deviation_y", "rho")
    lower, upper = (-3, -3, 0.3, 0.3, -0.9), (3, 3, 3, 3, 0.9)
    truth = (0.6, -1.1, 1.3, 0.7, 0.55)
    observables, noise_dim = ("x", "y"), 2

    def simulate(self, theta, noise):
        a, b = torch.special.ndtri(noise).unbind(-1)
        mean_x, mean_y, x, y, rho = theta
        return torch.stack([mean_x + x * a, mean_y + y * (rho * a + (1 - rho**2).sqrt() * b)], -1)

    def observed(self, n_events, rng):
        _, _, x, y, rho = self.truth
        covariance = [[x * x, rho * x * y], [rho * x * y, y * y]]
        return rng.multivariate_normal(self.truth[:2], covariance, n_events or 20_000)

    def log_likelihood(self, theta, statistic):
        mean_x, mean_y, x, y, rho = theta
        a, b = (statistic[:, 0] - mean_x) / x, (statistic[:, 1] - mean_y) / y
        squares = (a**2 - 2 * rho * a * b + b**2) / (1 - rho**2)
        return -(x.log() + y.log() + 0.5 * (1 - rho**2).log() + 0.5 * squares).sum()


class Energies(Problem):
    """Energies in eV whose logarithm is normal: observed numbers around 10^12."""

    parameters, lower, upper, truth = ("mean", "deviation"), (11.0, 0.1), (13.0, 1.0), (12.1, 0.42)
    observables, noise_dim = ("energy",), 1

    def simulate(self, theta, noise):
        return 10 ** (theta[0] + theta[1] * torch.special.ndtri(noise))

    def observed(self, n_events, rng):
        return 10 ** rng.normal(12.1, 0.42, (n_events or 20_000, 1))

    def log_likelihood(self, theta, statistic):
        return -(theta[1].log() + 0.5 * ((statistic.log10() - theta[0]) / theta[1]) ** 2).sum()


class HeavyTails(Problem):
    """Student's t with 2 degrees of freedom, which has no variance."""

    parameters, lower, upper, truth = ("position", "scale"), (-5.0, 0.2), (5.0, 5.0), (1.3, 0.8)
    observables, noise_dim = ("x",), 1

    def simulate(self, theta, noise):
        return theta[0] + theta[1] * (2 * noise - 1) * (2 / (4 * noise * (1 - noise))).sqrt()

    def observed(self, n_events, rng):
        return 1.3 + 0.8 * rng.standard_t(2, (n_events or 20_000, 1))

    def log_likelihood(self, theta, statistic):
        return -(theta[1].log() + 1.5 * torch.log1p(((statistic - theta[0]) / theta[1]) ** 2 / 2)).sum()


class Triple(Problem):
    """Three observables that depend on each other only all together: no pair of them tells anything."""

    parameters, lower, upper, truth = ("a",), (-0.9,), (0.9,), (0.5,)
    observables, noise_dim = ("x", "y", "z"), 3

    def simulate(self, theta, noise):
        x, y, u = (2 * noise - 1).unbind(-1)
        k = theta[0] * x * y
        # The inverse of (z + 1) / 2 + k (z^2 - 1) / 4, in a form that is stable at k = 0.
        root = ((1 - k) ** 2 + 2 * k * (u + 1)).sqrt()
        return torch.stack([x, y, (2 * u + k) / (1 + root)], -1)

    def observed(self, n_events, rng):
        events = rng.uniform(-1, 1, (4 * (n_events or 20_000), 3))
        kept = events[rng.random(len(events)) < (1 + 0.5 * events.prod(1)) / 1.5]
        return kept[: n_events or 20_000]

    def log_likelihood(self, theta, statistic):
        return torch.log1p(theta[0] * statistic.prod(1)).sum()


def joint_distance(result, reference):
    """Distance of two estimates per parameter, in units of the reference's covariance."""
    difference = result.theta - reference.theta
    return math.sqrt(difference @ np.linalg.solve(reference.covariance, difference) / len(difference))


@pytest.mark.parametrize("kind", [Bivariate, Energies, HeavyTails, Triple])
def test_the_fit_agrees_with_the_likelihood(kind, rng):
    problem = kind()
    events = problem.observed(None, rng)
    result, reference = fit(problem, events), fit_likelihood(problem, events)
    assert joint_distance(result, reference) < 0.15
    assert result.deviation == pytest.approx(reference.deviation, rel=0.06)
    assert result.findings == () and result.p_value > 0.001


def test_priors_count_as_in_the_likelihood(rng):
    class Known(HeavyTails):
        priors = {"position": (1.35, 0.005)}

    problem = Known()
    events = problem.observed(4000, rng)
    result, reference = fit(problem, events), fit_likelihood(problem, events)
    assert joint_distance(result, reference) < 0.15
    assert result.deviation == pytest.approx(reference.deviation, rel=0.06)


# What makes an estimate useless is reported


def finding(problem, events):
    return " ".join(fit(problem, events).findings)


def test_a_parameter_that_events_do_not_determine_is_named(rng):
    class Sum(HeavyTails):
        parameters, lower, upper = ("a", "b", "scale"), (-5.0, -5.0, 0.2), (5.0, 5.0, 5.0)

        def simulate(self, theta, noise):
            return super().simulate(torch.stack([theta[0] + theta[1], theta[2]]), noise)

    problem = Sum()
    result = fit(problem, problem.observed(4000, rng))
    assert "do not determine a combination" in result.findings[0] and "a (" in result.findings[0]
    assert result.theta[0] + result.theta[1] == pytest.approx(1.3, abs=0.1)  # what they do determine is found


def test_a_model_that_does_not_fit_is_reported(rng):
    problem = Bivariate()
    events = problem.observed(4000, rng)
    events[:200] = rng.uniform(-3, 3, (200, 2))
    assert "The model does not fit" in finding(problem, events)


def test_events_in_other_units_are_reported(rng):
    assert "Compare units" in finding(Energies(), 1e6 * Energies().observed(2000, rng))


def test_a_second_answer_is_reported(rng):
    class Squared(Problem):
        parameters, lower, upper, observables, noise_dim = ("a",), (-3.0,), (3.3,), ("x",), 1

        def simulate(self, theta, noise):
            return theta[0] ** 2 + torch.special.ndtri(noise)

    result = fit(Squared(), rng.normal(2, 1, (4000, 1)))
    assert abs(result.theta[0]) == pytest.approx(math.sqrt(2), abs=0.05)
    assert "another answer that agrees about as well: a = " in " ".join(result.findings)


def test_a_fit_at_the_end_of_a_range_is_reported(rng):
    class Narrow(HeavyTails):
        upper = (1.25, 5.0)

    assert "position is less than a deviation from the end 1.25" in finding(Narrow(), Narrow().observed(4000, rng))


def test_a_choice_without_derivative_is_reported(rng):
    class Mixture(Problem):
        parameters, lower, upper = ("fraction", "mean"), (0.05, -2.0), (0.95, 2.0)
        observables, noise_dim = ("x", "y"), 4

        def simulate(self, theta, noise):
            z = torch.special.ndtri(noise[:, :3])
            x = torch.where(noise[:, 3] < theta[0], theta[1] + z[:, 0], 3 + 0.5 * z[:, 1])
            return torch.stack([x, z[:, 2] + 0.1 * theta[1]], -1)

    x = np.where(rng.random(4000) < 0.4, rng.normal(0.5, 1, 4000), rng.normal(3, 0.5, 4000))
    events = np.stack([x, rng.normal(0.05, 1, 4000)], -1)
    assert "The derivative of simulate with respect to fraction" in finding(Mixture(), events)


def test_what_cannot_be_fitted_is_refused_in_words(rng):
    problem = Bivariate()
    with pytest.raises(TypeError, match=r"Bivariate is a class; .* Type Bivariate\(\)"):
        fit(Bivariate, rng.normal(size=(200, 2)))
    with pytest.raises(TypeError, match="ndarray is not a problem, which comes first"):
        fit(rng.normal(size=(200, 2)), problem)
    with pytest.raises(ValueError, match=r"shape \(200, 3\) and type float64: Bivariate needs .* the columns x, y"):
        fit(problem, rng.normal(size=(200, 3)))
    with pytest.raises(ValueError, match="1 of 201 observed events hold NaN or infinity.* Drop them"):
        fit(problem, np.vstack([rng.normal(size=(200, 2)), [[np.nan, 0]]]))
    with pytest.raises(ValueError, match="50 events are too few"):
        fit(problem, rng.normal(size=(50, 2)))

    class TwoHalls(Bivariate):
        n_categories = 2

    with pytest.raises(NotImplementedError, match="TwoHalls has 2 categories"):
        fit(TwoHalls(), problem.observed(1000, rng))

    class Rounded(Bivariate):
        def simulate(self, theta, noise):
            return super().simulate(theta, noise).detach()

    with pytest.raises(ValueError, match="do not depend differentiably on theta"):
        fit(Rounded(), problem.observed(200, rng))


# Parts


def test_coordinates_do_not_depend_on_units_and_offsets(rng):
    events = rng.exponential(1.0, (1000, 1))
    z, _ = Coordinates(events)(torch.as_tensor(events))
    for moved in (1e12 * events, 1.7e9 + events):
        other, _ = Coordinates(moved)(torch.as_tensor(moved))
        np.testing.assert_allclose(other, z, atol=1e-3)
    assert abs(float(z.mean())) < 0.01 and float(z.std()) == pytest.approx(1, abs=0.02)


def test_tangents_of_coordinates_are_their_derivatives(rng):
    events = np.stack([rng.standard_t(2, 500), rng.integers(0, 3, 500), rng.normal(size=500), np.ones(500)], -1)
    coordinates = Coordinates(events, {2: 2 * math.pi})
    assert coordinates.n_columns == 1 + 2 + 2  # a score, indicators of two of three values, cosine and sine
    # Also far outside of the observed range, where they continue.
    given = torch.as_tensor(np.concatenate([events, 100 * events]))
    tangent = torch.as_tensor(rng.normal(size=(1000, 4))) * torch.tensor([1.0, 0.0, 1.0, 1.0])
    _, [change] = coordinates(given, [tangent])
    h = 1e-7
    difference = (coordinates(given + h * tangent)[0] - coordinates(given - h * tangent)[0]) / (2 * h)
    off = (change - difference).abs() > 1e-4 * (1 + change.abs())
    assert float(off.double().mean()) < 0.01  # at knots there are two derivatives


def test_slopes_of_means_are_those_of_repeated_simulation(rng):
    problem = Linear(n_coefficients=2)
    events = problem.observed(2000, rng)
    coordinates = Coordinates(events)
    noise, theta = torch.rand(4000, problem.noise_dim, dtype=torch.float64), torch.tensor([0.2, -0.3]).double()
    tangents = torch.func.jacfwd(lambda theta: problem.simulate(theta, noise))(theta).unbind(-1)
    z, dz = coordinates(problem.simulate(theta, noise), tangents)
    waves = Waves(coordinates, 4)
    _, slopes = means_and_slopes(waves, Sample(z, torch.stack(dz)))
    for k in range(2):
        step = 1e-5 * torch.eye(2).double()[k]
        after, before = (waves(coordinates(problem.simulate(theta + h, noise))[0]).mean(0) for h in (step, -step))
        np.testing.assert_allclose(slopes[:, k], (after - before) / 2e-5, atol=2e-3)
