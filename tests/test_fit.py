"""The fit without a likelihood, against likelihood fits of problems with events from independent generators."""

import importlib
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sagips_kit import Linear, fit, fit_likelihood
from sagips_kit.statistics.coordinates import Coordinates, Waves
from sagips_kit.statistics.score import Sample, means_and_slopes

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.append(str(BENCHMARKS))  # at the end of the path, because files in both folders may have the same names
problems = importlib.import_module("problems")
Normal, Energies, HeavyTails, Triple = (
    problems.REGULAR[name] for name in ("Normal", "Energies", "HeavyTails", "Triple")
)


def joint_distance(result, reference):
    """Distance of two estimates per parameter, in units of the reference's covariance."""
    difference = result.theta - reference.theta
    return math.sqrt(difference @ np.linalg.solve(reference.covariance, difference) / len(difference))


@pytest.mark.parametrize("kind", [Normal, Energies, HeavyTails, Triple])
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
    problem = problems.SABOTAGED["UnseenCombination"]()
    result = fit(problem, problem.observed(4000, rng))
    assert "do not determine a combination" in result.findings[0] and "a (" in result.findings[0]
    assert result.theta[0] + result.theta[1] == pytest.approx(1.3, abs=0.1)  # what they do determine is found


def test_a_model_that_does_not_fit_is_reported(rng):
    problem = Normal()
    events = problem.observed(4000, rng)
    events[:200] = rng.uniform(-3, 3, (200, 2))
    assert "The model does not fit" in finding(problem, events)


def test_events_in_other_units_are_reported(rng):
    assert "Compare units" in finding(Energies(), 1e6 * Energies().observed(2000, rng))


def test_a_second_answer_is_reported(rng):
    problem = problems.AMBIGUOUS["Square"](truth=(math.sqrt(2),))
    result = fit(problem, problem.observed(4000, rng))
    assert abs(result.theta[0]) == pytest.approx(math.sqrt(2), abs=0.05)
    assert "another answer that agrees about as well: a = " in " ".join(result.findings)


def test_a_fit_at_the_end_of_a_range_is_reported(rng):
    class Narrow(HeavyTails):
        upper = (1.25, 5.0)

    assert "position is less than a deviation from the end 1.25" in finding(Narrow(), Narrow().observed(4000, rng))


def test_a_choice_without_derivative_is_reported(rng):
    problem = problems.SABOTAGED["Where"]()
    assert "The derivative of simulate with respect to fraction" in finding(problem, problem.observed(4000, rng))


def test_what_cannot_be_fitted_is_refused_in_words(rng):
    problem = Normal()
    with pytest.raises(TypeError, match=r"Normal is a class; .* Type Normal\(\)"):
        fit(Normal, rng.normal(size=(200, 2)))
    with pytest.raises(TypeError, match="ndarray is not a problem, which comes first"):
        fit(rng.normal(size=(200, 2)), problem)
    with pytest.raises(ValueError, match=r"shape \(200, 3\) and type float64: Normal needs .* the columns x, y"):
        fit(problem, rng.normal(size=(200, 3)))
    with pytest.raises(ValueError, match="1 of 201 observed events hold NaN or infinity.* Drop them"):
        fit(problem, np.vstack([rng.normal(size=(200, 2)), [[np.nan, 0]]]))
    with pytest.raises(ValueError, match="50 events are too few"):
        fit(problem, rng.normal(size=(50, 2)))

    class TwoHalls(Normal):
        n_categories = 2

    with pytest.raises(NotImplementedError, match="TwoHalls has 2 categories"):
        fit(TwoHalls(), problem.observed(1000, rng))

    class Rounded(Normal):
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
