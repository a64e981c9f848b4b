"""The fit without a likelihood, against likelihood fits of problems with events from independent generators."""

import dataclasses
import importlib
import math
import re
import sys
from pathlib import Path

import iminuit
import numpy as np
import pytest
import torch

from sagips_kit import Measurement, Octants, Problem, Proxy, fit, fit_likelihood
from sagips_kit.statistics import score
from sagips_kit.statistics.basis import Basis, bases_of
from sagips_kit.statistics.coordinates import Coordinates
from sagips_kit.statistics.limits import bounded_interval
from sagips_kit.statistics.sample import Sample
from sagips_kit.statistics.simulated import Simulation
from sagips_kit.statistics.toys import Toys

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.append(str(BENCHMARKS))  # at the end of the path, because files in both folders may have the same names
problems = importlib.import_module("problems")
Normal, Energies, HeavyTails, Triple, Floods = (
    problems.REGULAR[name] for name in ("Normal", "Energies", "HeavyTails", "Triple", "Floods")
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


def test_a_few_events_in_a_tail_count_as_in_the_likelihood():
    """For these, functions that do not see the tails gave an estimate 0.3 deviations off."""
    problem = Floods()
    events = problem.observed(None, np.random.default_rng(1))
    assert joint_distance(fit(problem, events, seed=1), fit_likelihood(problem, events)) < 0.2


def test_weights_undo_that_more_noise_is_near_its_ends():
    simulation = Simulation(Triple(), torch.zeros(1, 3), 0)
    noise, weights = simulation.wide_noise(16384, 1)
    assert noise.shape == (16384, 3) and float((noise > 0.999).double().mean()) > 3e-3
    sample = Sample(noise, torch.ones(16384, dtype=torch.float64), torch.zeros(16384, dtype=torch.long))
    sample = sample.weighted(weights)
    means = sample.mean(torch.cat([noise, noise.square(), (noise > 0.999).double()], 1))
    np.testing.assert_allclose(means, [1 / 2] * 3 + [1 / 3] * 3 + [1e-3] * 3, atol=2e-4)
    assert float(weights.max() / weights.min()) > 100 and float(sample.weights.max()) < 2


@pytest.mark.parametrize("is_useful", [False, True])
def test_more_functions_are_taken_only_if_they_are_better_beyond_doubt(is_useful, rng):
    """Random derivatives teach nothing; those of a quick oscillation need many waves."""
    events = rng.normal(size=(8000, 1))
    coordinates = Coordinates(events)
    changes = np.cos(20 * events) if is_useful else rng.normal(size=(8000, 1))
    z, [dz] = coordinates(torch.as_tensor(events), [torch.as_tensor(changes)])
    sample = Sample(z, torch.ones(8000, dtype=torch.float64), torch.zeros(8000, dtype=torch.long), dz[None])
    number, _, information = score._best(bases_of(coordinates), sample.part(0, 6000), sample.part(6000, 8000))
    assert (number > 0) == is_useful
    assert information < 0.1 or is_useful


class Priors(HeavyTails):
    """A calibration that is half as good as the events."""

    priors = {"position": (1.35, 0.015)}


def test_priors_count_as_in_the_likelihood(rng):
    problem = Priors()
    events = problem.observed(4000, rng)
    result, reference = fit(problem, events), fit_likelihood(problem, events)
    assert joint_distance(result, reference) < 0.15
    assert result.deviation == pytest.approx(reference.deviation, rel=0.06)


def test_a_score_is_not_called_poor_because_of_what_is_known_otherwise(monkeypatch, rng):
    """Constraints determine two directions of the proxy, of which events say little."""
    lengths, learn = [], score._learn
    monkeypatch.setattr(score, "_learn", lambda *given: lengths.append(given[4]) or learn(*given))
    fit(Proxy(), Proxy().observed(None, rng))
    assert set(lengths) == {score._N_PILOT_EPOCHS}


class Calibrated(HeavyTails):
    """Priors and a measurement of two correlated numbers, beside the events."""

    priors = {"position": (1.35, 0.015)}
    measurements = {"both": Measurement(lambda theta: theta, (1.3, 0.8), covariance=[[1e-3, 2e-4], [2e-4, 1e-3]])}


def test_parts_of_an_uncertainty_add_up_and_are_what_a_change_makes(rng):
    problem = Calibrated()
    events = problem.observed(4000, rng)
    result = fit(problem, events)
    parts = {one.name: one for one in result.contributions}
    assert [(one.name, one.group) for one in result.contributions] == [
        ("events", "events"),
        ("simulation", "simulation"),
        ("position", "priors"),
        ("both", "measurements"),
    ]
    total = np.sqrt(sum(one.impact**2 for one in result.contributions))
    assert total == pytest.approx(result.deviation, rel=1e-6)
    # A prior that is larger by its standard deviation moves the estimate by its impact.
    problem.priors = {"position": (1.365, 0.015)}
    problem.measurements = {"position": problem.measurements["both"]}  # the name of another part
    again = fit(problem, events)
    moved = again.theta - result.theta
    assert [one.name for one in again.contributions[2:]] == ["position (prior)", "position (measurement)"]
    assert moved == pytest.approx(parts["position"].impact, abs=0.05 * result.deviation.max())
    assert parts["position"].pull == pytest.approx((result.theta[0] - 1.35) / 0.015)
    assert math.isnan(parts["both"].pull) and math.isnan(parts["events"].pull)
    # Without them, only the events are left.
    alone = fit(HeavyTails(), events)
    assert {one.group for one in alone.contributions} == {"events", "simulation"}
    assert parts["events"].impact[0] < 0.7 * alone.deviation[0]
    assert "(events 0.0" in str(result) and "(" not in str(alone)


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
    found = finding(problem, events)
    assert "The model does not fit" in found and re.search(r"It shows most in [xy]: .*% of the observed values", found)
    events = problem.observed(4000, rng)
    events[:2000, 0] = rng.permutation(events[:2000, 0])  # each observable by itself is as before
    assert "what differs is how they depend on each other" in finding(problem, events)


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

    found = finding(Narrow(), Narrow().observed(4000, rng))
    assert "position is less than a deviation from the end 1.25" in found and "does not fit" not in found
    Narrow.upper = (0.8, 5.0)  # so far from the answer that nothing in the range describes the events
    found = finding(Narrow(), Narrow().observed(4000, rng))
    assert "from the end 0.8 of its range, and the model does not fit there" in found and "correct the model" in found


def ending_below_the_answer(kind, name, result, n_deviations):
    """The problem with a range that ends so many deviations below what its events give."""
    k = result.parameters.index(name)
    upper = list(kind.upper)
    upper[k] = result.theta[k] - n_deviations * result.deviation[k]
    return type(f"Bounded{kind.__name__}", (kind,), {"upper": tuple(upper)})()


def test_at_the_end_of_a_range_the_other_parameters_are_the_best_ones(rng):
    events = Normal().observed(4000, rng)
    problem = ending_below_the_answer(Normal, "deviation_x", fit(Normal(), events), 2.0)
    result, at_end = fit(problem, events), {"deviation_x": problem.upper[2]}
    with pytest.warns(UserWarning, match="deviation_x"):
        reference = fit_likelihood(problem, events)
    assert result.theta == pytest.approx(reference.theta, abs=0.15 * result.deviation.min())
    assert ["end" in text for text in result.findings] == [True]
    rest = fit(problem, events, fixed=at_end)
    assert (np.abs(rest.theta - np.delete(result.theta, 2)) < 0.15 * rest.deviation).all()


def test_limits_at_a_physical_end_do_not_depend_on_where_the_fit_stopped(rng):
    events = HeavyTails().observed(4000, rng)
    free = fit(HeavyTails(), events)
    problem = ending_below_the_answer(HeavyTails, "position", free, 0.7)
    limits, upper, deviation = fit(problem, events).limits(0.9), problem.upper[0], free.deviation[0]
    low, high = bounded_interval(free.theta[0], deviation, -np.inf, upper, 0.9)
    assert high == upper and limits[0] == pytest.approx([low, high], abs=0.1 * deviation)
    assert limits[1] == pytest.approx(free.theta[1] + np.array([-1.645, 1.645]) * free.deviation[1], rel=0.02)
    with pytest.raises(ValueError, match=r"The level is 90: should be between 0 and 1, such as 0\.9"):
        free.limits(90)


@pytest.mark.parametrize(
    ("measured", "level", "low", "high"),
    [(-3, 0.9, 0, 0.26), (0, 0.9, 0, 1.64), (1, 0.6827, 0.24, 2.0), (2, 0.9, 0.58, 3.64)],
)
def test_intervals_next_to_an_end_are_those_of_the_published_table(measured, level, low, high):
    # Feldman and Cousins (1998), table X: the mean of a normal distribution that is not negative
    assert bounded_interval(measured, 1, 0, np.inf, level) == pytest.approx((low, high), abs=0.02)


def test_a_start_chooses_one_of_several_answers(rng):
    problem = problems.AMBIGUOUS["Square"](truth=(math.sqrt(2),))
    events = problem.observed(2000, rng)
    for sign in (-1.0, 1.0):
        result = fit(problem, events, start={"a": sign * 1.2})
        assert result.theta[0] == pytest.approx(sign * math.sqrt(2), abs=0.05) and result.findings == ()
        assert result.notes == (
            "Only the answer near the given start was looked for. Without start, all ranges are searched.",
        )


def test_fixed_parameters_leave_the_problem_of_the_others(rng):
    class Centred(HeavyTails):
        parameters, lower, upper, truth = ("scale",), (0.2,), (5.0,), (0.8,)

        def simulate(self, theta, noise):
            return super().simulate(torch.cat([theta.new_tensor([1.3]), theta]), noise)

    events = HeavyTails().observed(2000, rng)
    result, other = fit(HeavyTails(), events, fixed={"position": 1.3}), fit(Centred(), events)
    assert result.parameters == ("scale",) and result.covariance.shape == (1, 1)
    assert result.theta == pytest.approx(other.theta, abs=0.05 * other.deviation[0])
    assert result.deviation == pytest.approx(other.deviation, rel=0.02)
    assert result.notes[0].startswith("Fixed: position = 1.3.")
    assert result.toys(50).theta.shape == (50, 1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"fixed": {"place": 1.0}},
            "fixed has 'place', which is no parameter of HeavyTails. Its parameters are position",
        ),
        ({"fixed": {"position": 9}}, "fixed: position = 9 is outside its range, -5 to 5"),
        ({"fixed": {"position": 1, "scale": 1}}, "fixed names all parameters of HeavyTails"),
        (
            {"start": {"position": 1}},
            "start has the values of position, and needs those of .* fixed: position, scale. Type",
        ),
    ],
)
def test_what_is_given_for_parameters_is_checked_by_name(given, message, rng):
    with pytest.raises(ValueError, match=message):
        fit(HeavyTails(), HeavyTails().observed(500, rng), **given)


def test_an_independent_fitter_agrees(rng):
    problem = problems.REGULAR["Weibull"]()
    events = problem.observed(4000, rng)
    result = fit(problem, events)

    def loss(theta):
        return -float(problem.log_likelihood(torch.tensor(theta, dtype=torch.float64), torch.as_tensor(events)))

    minuit = iminuit.Minuit(loss, result.theta)
    minuit.errordef = iminuit.Minuit.LIKELIHOOD
    minuit.limits = list(zip(problem.lower, problem.upper, strict=True))
    minuit.migrad()
    minuit.hesse()
    assert minuit.valid and abs(result.theta - np.array(minuit.values)) == pytest.approx(
        0, abs=0.15 * np.array(minuit.errors).min()
    )
    assert result.deviation == pytest.approx(np.array(minuit.errors), rel=0.06)


@pytest.mark.parametrize(("name", "without"), [("Where", "fraction"), ("Atoms", "empty"), ("Counts", "mean, clumping")])
def test_without_derivatives_differences_give_the_answer(name, without, rng):
    problem = problems.REGULAR[name]()
    events = problem.observed(4000, rng)
    result, reference = fit(problem, events), fit_likelihood(problem, events)
    assert joint_distance(result, reference) < 0.2 and result.findings == ()
    assert result.deviation == pytest.approx(reference.deviation, rel=0.08)
    assert f"The derivative of {name}.simulate with respect to {without} is not that" in result.notes[0]
    assert f"note: {result.notes[0]}" in str(result)


def test_a_curved_dependence_is_no_wrong_derivative(rng):
    problem = Octants()
    result = fit(problem, problem.observed(5000, rng))
    assert result.notes == () and "angle = " in result.findings[0]


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


# Parts


def test_coordinates_do_not_depend_on_units_and_offsets(rng):
    events = rng.exponential(1.0, (1000, 1))
    z, _ = Coordinates(events)(torch.as_tensor(events))
    for moved in (1e12 * events, 1.7e9 + events):
        other, _ = Coordinates(moved)(torch.as_tensor(moved))
        np.testing.assert_allclose(other, z, atol=1e-3)
    score = z[:, 0]
    assert abs(float(score.mean())) < 0.01 and float(score.std()) == pytest.approx(1, abs=0.02)


def test_tangents_of_coordinates_are_their_derivatives(rng):
    columns = [rng.standard_cauchy(500), rng.integers(0, 3, 500), rng.normal(size=500), np.ones(500), rng.random(500)]
    events = np.stack(columns, -1)
    coordinates = Coordinates(events, periods={2: 2 * math.pi})
    assert coordinates.kinds == ["score", *["indicator"] * 2, "cosine", "sine", "score", "position"]
    # Also far outside of the observed range, where they continue.
    given = torch.as_tensor(np.concatenate([events, 100 * events]))
    tangent = torch.as_tensor(rng.normal(size=(1000, 5))) * torch.tensor([1.0, 0.0, 1.0, 1.0, 1.0])
    _, [change] = coordinates(given, [tangent])
    h = 1e-7
    difference = (coordinates(given + h * tangent)[0] - coordinates(given - h * tangent)[0]) / (2 * h)
    off = (change - difference).abs() > 1e-4 * (1 + change.abs())
    assert float(off.double().mean()) < 0.01  # at knots there are two derivatives


@pytest.mark.parametrize("n_categories", [1, 2])
def test_slopes_of_means_are_those_of_repeated_simulation(n_categories, rng):
    events = np.stack([rng.normal(size=3000), rng.vonmises(0.3, 1.0, 3000), rng.integers(0, 2, 3000)], -1)
    category = events[:, 2].astype(int) if n_categories == 2 else None
    coordinates = Coordinates(events, category, n_categories, {1: 2 * math.pi})
    basis = Basis(coordinates, 4, 3, has_tails=True)
    # No event is at a knot, where there are two derivatives.
    given = torch.as_tensor(events + np.array([0.0123, 0.0, 0.0]))
    tangents = [torch.as_tensor(rng.normal(size=(3000, 3))) * torch.tensor([1.0, 1.0, 0.0]) for _ in range(2)]
    kind = torch.as_tensor(events[:, 2]).long()
    weights = torch.as_tensor(np.where(events[:, 2] == 1, 1.3, 0.7))
    z, dz = coordinates(given, tangents, kind)
    slopes = basis.slopes(Sample(z, weights, kind, torch.stack(dz)))
    for k, tangent in enumerate(tangents):
        h = 1e-5 * tangent
        after, before = (basis(coordinates(given + step, category=kind)[0]) for step in (h, -h))
        np.testing.assert_allclose(slopes[:, k], weights @ (after - before) / 2e-5 / 3000, atol=2e-3)


class TwoHalls(Problem):
    """A spectrum seen by two detectors; the second one sees it at a lower energy."""

    parameters, lower, upper, truth = ("scale", "shift"), (0.5, 0.0), (4.0, 1.0), (2.0, 0.3)
    observables, noise_dim, n_categories = ("energy", "hall"), 2, 2

    def simulate(self, theta, noise):
        hall = (noise[:, 1] >= 0.5).to(theta)
        return torch.stack([-theta[0] * torch.log1p(-noise[:, 0]) * torch.exp(-theta[1] * hall), hall], -1)

    def category(self, events):
        return events[..., 1].long()

    def observed(self, n_events, rng):
        hall = (rng.random(n_events) < 0.2).astype(float)
        return np.stack([rng.exponential(2.0 * np.exp(-0.3 * hall)), hall], -1)

    def log_likelihood(self, theta, statistic):
        scale = theta[0] * torch.exp(-theta[1] * statistic[:, 1])
        return -(scale.log() + statistic[:, 0] / scale).sum()


def test_events_of_several_categories_are_fitted_with_their_observed_shares(rng):
    problem = TwoHalls()
    events = problem.observed(10000, rng)
    result, reference = fit(problem, events), fit_likelihood(problem, events)
    assert joint_distance(result, reference) < 0.15
    assert result.deviation == pytest.approx(reference.deviation, rel=0.06)
    assert result.findings == ()


def test_an_angle_near_the_end_of_its_circle_is_fitted(rng):
    class Direction(Problem):
        parameters, lower, upper = ("phi", "spread"), (-math.pi, 0.1), (math.pi, 1.0)
        observables, noise_dim, periodic = ("angle",), 1, {"phi": (-math.pi, math.pi), "angle": (-math.pi, math.pi)}

        def simulate(self, theta, noise):
            angle = theta[0] + theta[1] * torch.special.ndtri(noise[:, 0])
            return torch.remainder(angle + math.pi, 2 * math.pi)[:, None] - math.pi

    turned = 3.12 + 0.4 * rng.normal(size=(5000, 1))
    result = fit(Direction(), np.remainder(turned + math.pi, 2 * math.pi) - math.pi)
    difference = np.remainder(result.theta[0] - turned.mean() + math.pi, 2 * math.pi) - math.pi
    assert abs(difference) < 0.3 * result.deviation[0] and result.findings == ()
    assert result.deviation == pytest.approx([0.4 / math.sqrt(5000), 0.4 / math.sqrt(10000)], rel=0.06)


def test_repeated_events_are_reported(rng):
    events = HeavyTails().observed(2000, rng)
    assert "exact repetitions" in finding(HeavyTails(), np.concatenate([events, events]))
    # Few digits also make equal values, which are no repetitions.
    assert "repetitions" not in finding(HeavyTails(), events.round(2))


def test_a_drift_is_reported_and_an_order_of_values_is_not(rng):
    events = HeavyTails().observed(4000, rng)
    drifting = events + np.linspace(0, 0.3, 4000)[:, None]
    assert "second half" in finding(HeavyTails(), drifting)
    assert "second half" not in finding(HeavyTails(), np.sort(drifting, axis=0))


def test_a_moving_end_of_the_distribution_is_reported(rng):
    class Uniform(Problem):
        parameters, lower, upper = ("end",), (0.5,), (3.0,)
        observables, noise_dim = ("x",), 1

        def simulate(self, theta, noise):
            return theta[0] * noise

    assert "The upper end of the distribution of x is an edge that moves with end" in finding(
        Uniform(), 1.7 * rng.random((3000, 1))
    )


# Repetitions


@pytest.mark.parametrize("kind", [HeavyTails, Priors], ids=lambda kind: kind.__name__)
def test_intervals_contain_the_truth_as_often_as_they_should(kind, rng):
    problem = kind()
    toys = fit(problem, problem.observed(2000, rng)).toys(600, seed=1)
    assert toys.coverage() == pytest.approx(0.683, abs=0.075)  # four standard deviations of 600 toys
    assert toys.coverage(2) == pytest.approx(0.954, abs=0.035)
    assert toys.bias == pytest.approx(0, abs=0.17)


def test_toys_need_the_score(rng):
    result = fit(HeavyTails(), HeavyTails().observed(500, rng))
    with pytest.raises(ValueError, match="holds no score. Type result = fit"):
        dataclasses.replace(result, frozen=None).toys()


class Late(HeavyTails):
    """Each event is recorded too high."""

    def simulate(self, theta, noise):
        return super().simulate(theta, noise) + 0.01


def test_shifts_are_those_of_another_fit(rng):
    problem = HeavyTails()
    events = problem.observed(4000, rng)
    result = fit(problem, events)
    changed = {"scale": 1.01 * events, "late": events + 0.01, "far": events + 1.0}
    shifts = result.shifts(changed | {"model": Late(), "others": problem.observed(3000, rng)})
    for k, name in enumerate(("scale", "late")):
        again = (fit(problem, changed[name]).theta - result.theta) / result.deviation
        assert shifts.in_deviations[k] == pytest.approx(again, abs=0.05)
        assert (shifts.error[k] < 0.05 * result.deviation).all(), "the same events, changed"
    # A problem stands for where the events come from.
    assert shifts.in_deviations[3] == pytest.approx(shifts.in_deviations[1], abs=0.05)
    assert shifts.error[4] / result.deviation == pytest.approx(math.sqrt(1 + 4000 / 3000), rel=0.1)
    rough = [line for line in str(shifts).splitlines() if "rough, since beyond 3 deviations: fit these events" in line]
    assert [line.split()[0] for line in rough] == ["far"] and shifts.distance[2] > 3


def test_shifts_refuse_what_cannot_be_compared(rng):
    result = fit(HeavyTails(), HeavyTails().observed(500, rng))
    with pytest.raises(ValueError, match="'other' has the parameters .*: should be those of the fit, position, scale"):
        result.shifts({"other": Normal()})
    with pytest.raises(ValueError, match="No variations"):
        result.shifts({})
    with pytest.raises(ValueError, match=r"n_toys = 1: should be 2 or more"):
        result.toys(1)


def test_toys_of_an_angle_take_the_shorter_way_around():
    toys = Toys(("phi",), np.array([3.1]), np.array([[-3.1], [3.0]]), np.full((2, 1), 0.2), np.array([2 * math.pi]))
    assert toys.coverage() == 1 and toys.bias == pytest.approx((2 * math.pi - 6.2 - 0.1) / 0.4)
    assert dataclasses.replace(toys, period=None).coverage() == 0.5
