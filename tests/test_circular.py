"""Angles: how a problem declares them, and what follows in training, fits, tables and pictures."""

import dataclasses
import math
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import zarr
from gaussian import QUICK
from test_analysis import make_run

from sagips_kit import (
    Measurement,
    Problem,
    Trainer,
    _circular,
    analysis,
    check_problem,
    fit,
    fit_likelihood,
    floor_step,
    plot,
)
from sagips_kit.check.report import OK
from sagips_kit.report.progress_line import snapshot
from sagips_kit.store import schema
from sagips_kit.store.diagnostics import complaints
from sagips_kit.training.networks import to_unit

PI = math.pi


class Vector(Problem):
    """A vector of unknown direction and length, measured with normal errors of 1; the direction is near the end."""

    parameters = ("phi", "length")
    lower, upper, truth = (-PI, 0.5), (PI, 3.0), (3.1, 1.5)
    observables, noise_dim = ("x", "y"), 2
    periodic = ("phi",)

    def simulate(self, theta, noise):
        errors = math.sqrt(2) * torch.erfinv(2 * noise.clamp(1e-6, 1 - 1e-6) - 1)
        return theta[1] * torch.stack([theta[0].cos(), theta[0].sin()]) + errors

    def observed(self, n_events, rng):
        phi, length = Vector.truth
        return length * np.array([math.cos(phi), math.sin(phi)]) + rng.normal(size=(n_events or 2000, 2))

    def log_likelihood(self, theta, statistic):
        return -0.5 * (statistic - theta[1] * torch.stack([theta[0].cos(), theta[0].sin()])).square().sum()


class Unbounded(Vector):
    """The same without the declaration."""

    periodic = ()


class Wheel(Problem):
    """Directions around an unknown one, with a normal distribution; the observable is periodic, too."""

    parameters = ("direction",)
    lower, upper, truth = (0.0,), (360.0,), (350.0,)
    observables, noise_dim = ("angle", "weight"), 2
    periodic = {"direction": (0, 360), "angle": (0, 360)}
    spread = 20.0

    def simulate(self, theta, noise):
        z = math.sqrt(2) * torch.erfinv(2 * noise[:, 0].clamp(1e-6, 1 - 1e-6) - 1)
        angle = theta[0] + self.spread * z
        return torch.stack([angle - 360 * (angle / 360).detach().floor(), noise[:, 1]], dim=-1)

    def observed(self, n_events, rng):
        n = n_events or 3000
        return np.stack([rng.normal(350.0, self.spread, n) % 360, rng.random(n)], axis=-1)


class Axis(Wheel):
    """The same with directions of which the sense is not seen: two answers."""

    periodic = {"direction": (0, 360), "angle": (0, 180)}

    def simulate(self, theta, noise):
        angle, weight = super().simulate(theta, noise).T
        return torch.stack([torch.where(angle < 180, angle, angle - 180), weight], dim=-1)


def exact(events):
    """Direction and length of the mean vector, and the deviation of the direction."""
    x, y = events.mean(0)
    return math.atan2(y, x), math.hypot(x, y), 1 / math.sqrt(len(events)) / math.hypot(x, y)


# The helpers


def test_differences_go_the_shorter_way_around():
    period = np.array([2 * PI, np.nan])
    found = _circular.difference(np.array([3.1, 3.1]), np.array([-3.1, -3.1]), period)
    np.testing.assert_allclose(found, [6.2 - 2 * PI, 6.2])
    tensor = _circular.wrapped(torch.tensor([6.2, 0.3]), 2 * PI)
    torch.testing.assert_close(tensor, torch.tensor([6.2 - 2 * PI, 0.3]))


@pytest.mark.parametrize(("low", "high"), [(-PI, PI), (0.0, 2 * PI), (0.0, 360.0), (0.0, 24.0)])
def test_statistics_do_not_depend_on_where_the_circle_is_cut(low, high, rng):
    period = high - low
    straight = rng.normal(0.0, 0.02 * period, 500)
    for centre in low + period * np.array([0.0, 0.3, 0.5, 0.999]):
        cut = _circular.inside(centre + straight, low, period)
        assert cut.min() >= low and cut.max() < high
        together = _circular.gathered(cut, low, period)
        assert together.std() == pytest.approx(straight.std())
        mean = _circular.mean(cut, low, period)
        assert abs(_circular.difference(mean, centre + straight.mean(), period)) < 1e-9 * period
        assert low <= mean < high


def test_numbers_without_a_period_and_missing_ones_stay():
    values = np.array([[3.0, np.nan, -3.1], [3.0, np.nan, -3.1]])
    found = _circular.gathered(values, [np.nan, -PI], [np.nan, 2 * PI])
    np.testing.assert_allclose(found, [values[0], [3.0, np.nan, 2 * PI - 3.1]])


def test_paths_end_where_they_did_and_do_not_jump():
    path = np.array([3.0, 3.1, -3.1, -3.0, 3.1, -3.1])
    found = _circular.continuous(path, 2 * PI)
    assert found[-1] == -3.1 and np.abs(np.diff(found)).max() < 0.2
    np.testing.assert_allclose(np.cos(found), np.cos(path))


# The declaration


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("phi", r"^periodic = 'phi': should be a tuple of names of parameters, such as \('phi',\)"),
        (("psi",), "^periodic has 'psi', which does not exist. Did you mean phi[?] Allowed: phi, length, x, y"),
        (("x",), "^periodic has 'x', an observable, whose period is not known. Give the interval"),
        ({"x": 3.0}, r"^periodic\['x'\] = 3.0: should be its interval, two finite numbers"),
        ({"x": (1.0, 0.0)}, r"^periodic\['x'\] = \(1.0, 0.0\): should be its interval"),
        (
            {"phi": (0, 6.28)},
            r"^periodic\['phi'\] = \(0, 6.28\): should be the range of the parameter, which is -3.14159",
        ),
    ],
)
def test_unclear_declarations_are_refused_in_words(given, text):
    mine = type("Mine", (Vector,), {"periodic": given})()
    (found,) = check_problem(mine).to_fix
    assert found.check == "names" and re.search(text, found.text)
    with pytest.raises(ValueError, match="^Mine: " + text.removeprefix("^")):
        fit_likelihood(mine, mine.observed(200, np.random.default_rng(0)))


class AtTheEnd(Vector):
    truth = (PI, 1.5)


def test_a_truth_may_be_at_the_end_of_a_circle():
    (names,) = [finding for finding in check_problem(AtTheEnd()).findings if finding.check == "names"]
    assert names.verdict == OK


def test_intervals_are_plain_numbers_whatever_the_ranges_are():
    arrays = type("Arrays", (Vector,), {"lower": np.float32([-PI, 0.5]), "upper": np.float32([PI, 3.0])})()
    (ends,) = _circular.intervals(arrays).values()
    assert [type(end) for end in ends] == [float, float]


def test_good_declarations_are_kept():
    for problem in (Vector(), Wheel()):
        assert check_problem(problem).is_ok, check_problem(problem)


def test_events_outside_of_their_interval_are_refused():
    events = Wheel().observed(500, np.random.default_rng(0))
    events[:, 0] = np.where(events[:, 0] > 180, events[:, 0] - 360, events[:, 0])
    (found,) = check_problem(Wheel(), events).to_fix
    assert found.check == "shapes" and re.search(
        r"^angle: \d+ of 500 observed values are outside .* 0 to 360", found.text
    )
    assert "low + (angle - low) % (high - low)" in found.text


class Degrees(Vector):
    """An angle in radians with a range in degrees."""

    lower, upper = (-180.0, 0.5), (180.0, 3.0)


class Prior(Vector):
    """A condition that jumps at the ends of the range."""

    def constraints(self, theta, statistic):
        return (theta[:1] - 3.1) / 0.1


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (Degrees, "^simulate makes other events at phi = -180 than at 180"),
        (Prior, "^constraints differ at phi = -3.14"),
    ],
)
def test_ends_that_differ_are_found(kind, text):
    found = [finding.text for finding in check_problem(kind()).findings if finding.check == "periodic"]
    assert any(re.search(text, one) for one in found), found


def test_default_features_of_a_periodic_observable_are_cosine_and_sine():
    events = torch.tensor([[90.0, 0.3], [359.9, 0.4]])
    found = Wheel().features(events[None])
    torch.testing.assert_close(found[0, 0], torch.tensor([0.0, 1.0, 0.3]))
    assert found.shape == (1, 2, 3) and Vector().features(events) is events


# Training and fits


def test_the_generator_passes_through_the_end_of_the_range():
    is_periodic = torch.tensor([True, False])
    y = torch.tensor([2 * PI, 0.3], dtype=torch.float64)  # a quarter of a turn beyond what a sine allows

    def phi(y):
        return Vector().scale(to_unit(y, is_periodic))[0]

    for shift in (-1e-3, 0.0, 1e-3):
        at = 2.0 + shift  # t = 1, the upper end
        slope = torch.func.grad(phi)(y.index_fill(0, torch.tensor(0), at))[0]
        assert float(slope) == pytest.approx(2 * PI / 4)
    before, after = (float(phi(y.index_fill(0, torch.tensor(0), at))) for at in (2 - 1e-6, 2 + 1e-6))
    assert before == pytest.approx(PI, abs=1e-5) and after == pytest.approx(-PI, abs=1e-5)
    assert to_unit(y).max() <= 1 and float(Vector().scale(torch.tensor([1.25, 0.5]))[0]) == pytest.approx(-PI / 2)


def test_an_angle_near_the_end_is_found_by_all_members():
    """They are on both sides of the end; without the declaration some are at one end and some at the other."""
    events = Vector().observed(2000, np.random.default_rng(0))
    phi, _, deviation = exact(events)
    trainer = Trainer(Vector(), QUICK, events, n_steps=300)
    for record in trainer.iterate():
        assert (np.abs(record.theta[:, 0]) <= PI).all()
    assert (np.abs(trainer.draws[..., 0]) <= PI).all()
    means = _circular.mean(trainer.draws[..., 0], -PI, 2 * PI)
    np.testing.assert_allclose(_circular.difference(means, phi, 2 * PI) / deviation, 0, atol=1.5)


def test_members_start_near_an_answer_and_near_different_ones_if_there_are_two():
    """From the other side of the circle, events of a narrow distribution would never meet the observed ones."""
    events = Wheel().observed(2000, np.random.default_rng(0))
    settings = dataclasses.replace(QUICK, n_members=6)
    places = Trainer(Wheel(), settings, events, n_steps=1).run().theta[:, 0]
    assert np.abs(_circular.difference(places, 350.0, 360.0)).max() < 60
    alone = Trainer(Wheel(), dataclasses.replace(QUICK, n_members=1), events, n_steps=1).run().theta[:, 0]
    assert abs(_circular.difference(alone, places[:1], 360.0)) < 5
    doubled = np.stack([events[:, 0] % 180, events[:, 1]], axis=-1)
    places = Trainer(Axis(), settings, doubled, n_steps=1).run().theta[:, 0]
    assert np.abs(_circular.difference(places, 170.0, 180.0)).max() < 30 and 0 < (places < 180).sum() < 6


def test_averages_of_sets_and_steps_are_those_on_the_circle():
    trainer = Trainer(Vector(), QUICK, Vector().observed(200, np.random.default_rng(0)), n_steps=10)
    trainer.theta = torch.tensor([[[3.1, 1.0], [-3.1, 2.0]]]).repeat(2, 1, 1)
    np.testing.assert_allclose(np.abs(trainer._averages(trainer._mean_theta())), [[PI, 1.5]] * 2, rtol=1e-6)
    for step, phi in zip(range(5, 9), (3.1, -3.1, 3.0, -3.0), strict=True):
        trainer._draws.add(step, np.array([[phi, 1.0]] * 2))
    trainer._draws.add(9, np.array([[-3.13, 1.0]] * 2))
    assert (np.abs(trainer.draws[..., 0]) > 2.9).all()


@pytest.mark.parametrize("n_starts", [1, 3])
def test_a_likelihood_fit_knows_no_end_of_the_range(n_starts, recwarn):
    events = Vector().observed(2000, np.random.default_rng(3))
    turned = events - events.mean(0) + [-1.5, 1e-4]  # the best direction is within 1e-4 of the end
    fit = fit_likelihood(Vector(), turned, n_starts=n_starts)
    phi, length, deviation = exact(turned)
    np.testing.assert_allclose(fit.theta, [phi, length], rtol=1e-6)
    assert fit.deviation[0] == pytest.approx(deviation, rel=1e-4)
    assert not [one for one in recwarn if issubclass(one.category, UserWarning)]
    with pytest.warns(UserWarning, match="phi at 3.14"):
        fit_likelihood(Unbounded(), turned)


def test_starts_of_a_fit_are_all_around_the_circle():
    """On the other side of the circle the likelihood is flat."""
    events = Vector().observed(500, np.random.default_rng(0))
    for turn in np.linspace(0, 2 * PI, 9):
        rotation = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
        turned = events @ rotation.T
        assert fit_likelihood(Vector(), turned).theta[0] == pytest.approx(exact(turned)[0], abs=1e-5)


@pytest.mark.parametrize("problem", [Vector(), Wheel()], ids=lambda problem: type(problem).__name__)
def test_a_fit_by_a_learned_score_knows_no_end_of_the_range(problem, rng):
    events = problem.observed(None, rng)
    result = fit(problem, events)
    if isinstance(problem, Wheel):
        expected, deviation = 350.0, 20.0 / math.sqrt(len(events))
    else:
        expected, _, deviation = exact(events)
    distance = _circular.difference(result.theta, [expected, *problem.truth[1:]], result.period)
    assert abs(distance[0]) < 3.5 * deviation and result.deviation[0] == pytest.approx(deviation, rel=0.15)
    assert problem.lower[0] <= result.theta[0] < problem.upper[0]
    assert result.findings == ()


def test_a_fit_finds_an_answer_across_the_end(rng):
    events = Vector().observed(None, rng)
    turned = events * [1.0, -1.0]  # the direction is beyond the other end
    one, other = fit(Vector(), events), fit(Vector(), turned)
    assert one.theta[0] == pytest.approx(-other.theta[0], abs=0.015) and one.findings == other.findings == ()


def test_a_fit_names_another_answer_on_a_circle(rng):
    events = Axis().observed(None, rng)
    events[:, 0] %= 180
    assert "another answer" in " ".join(fit(Axis(), events).findings)


def beyond(theta):
    d = theta[0] + 3.1
    return torch.atan2(d.sin(), d.cos())


class WithPrior(Vector):
    priors = {"phi": (-3.1, 0.01)}


class WithMeasurement(Vector):
    measurements = {"phi": Measurement(beyond, 0.0, 0.01)}


def test_a_prior_counts_across_the_end():
    events = Vector().observed(2000, np.random.default_rng(0))
    assert check_problem(WithPrior(), events).is_ok and check_problem(WithMeasurement(), events).is_ok
    by_measurement = fit_likelihood(WithMeasurement(), events)
    phi, _, deviation = exact(events)
    weights = np.array([deviation, 0.01]) ** -2.0
    expected = np.average([phi, 2 * PI - 3.1], weights=weights)
    fit = fit_likelihood(WithPrior(), events)
    np.testing.assert_allclose(by_measurement.theta, fit.theta, rtol=1e-6)
    assert abs(_circular.difference(fit.theta[0], expected, 2 * PI)) < 1e-4
    step = floor_step(WithPrior(), fit.theta, events, n_simulated=20_000)
    assert abs(step[0]) < 0.3


def test_steps_to_the_solution_go_the_shorter_way():
    events = Vector().observed(2000, np.random.default_rng(0))
    phi, length, deviation = exact(events)
    other_side = phi + 3 * deviation - 2 * PI
    step = floor_step(Vector(), [other_side, length], events, n_simulated=20_000)
    assert step[0] == pytest.approx(-3, abs=0.2)


def test_a_parameter_on_a_circle_is_at_no_end():
    theta, losses = np.full((20, 2, 2), [-3.14, 0.5]), np.full((20, 2), 1.38)
    given = (theta, losses, Vector.lower, Vector.upper, Vector.parameters)
    assert re.search("phi .*, length", complaints(*given)["lower"])
    assert "phi" not in complaints(*given, periodic=("phi",))["lower"]


# Tables and pictures of a stored run


MEAN, DEVIATION = 3.13, 0.1  # of theta0


@pytest.fixture(scope="module")
def run():
    """Chains around the end of the range of theta0, on both sides; theta1 and the hall are not periodic."""
    rng = np.random.default_rng(1)
    straight = np.linspace(-1.5, 1.5, 8)
    theta0 = MEAN + DEVIATION * (straight - straight.mean())[:, None] / straight.std(ddof=1) + np.zeros((8, 5))
    chains = np.stack([_circular.inside(theta0, -PI, 2 * PI), rng.normal(1.0, 0.1, (8, 5))], axis=-1)
    fit = {"mle": np.array([-3.1, 1.0]), "deviation": np.array([0.05, 0.1]), "covariance": np.diag([0.0025, 0.01])}
    periodic = {"theta0": (-PI, PI), "energy": (0.0, 10.0)}
    options = {"lower": (-PI, -5.0), "upper": (PI, 5.0), "published": {"theta0": (-3.0, 0.1)}, "truth": (-3.14, 1.0)}
    learned = (np.array([-3.12, 1.0]), np.diag([0.0016, 0.01]))
    return make_run(chains, reference=fit, learned=learned, periodic=periodic, **options)


def test_a_store_knows_what_is_periodic(run):
    assert schema.intervals_of(run["posterior"].attrs) == {"theta0": (-PI, PI)}
    for group in ("observed_data", "posterior_predictive"):
        assert schema.intervals_of(run[group].attrs) == {"energy": (0.0, 10.0)}
    assert schema.intervals_of(run["history"].attrs) == {}


def test_an_estimate_near_the_end_is_not_in_the_middle(run):
    """Half of the chains are near -3.1, half near 3.1: the usual mean is 0.8, with a deviation of 3."""
    raw = run["posterior"]["theta0"]
    assert abs(raw.mean()) < 2 and raw.std() > 2.5
    values = analysis.estimate(run).sel(parameter="theta0")
    assert float(values["mean"]) == pytest.approx(MEAN)
    assert float(values["deviation"]) == pytest.approx(DEVIATION)
    assert float(values["low"]) < MEAN < float(values["high"])
    assert float(values["to_mle"]) == pytest.approx((MEAN - (2 * PI - 3.1)) / 0.05)
    assert float(values["to_fit"]) == pytest.approx((MEAN - (2 * PI - 3.12)) / 0.04)
    assert analysis.distance_to_fit(run) < 3
    assert float(values["pull"]) == pytest.approx((MEAN - (2 * PI - 3.14)) / DEVIATION)
    # That of the fit, which is the estimate of the run
    assert float(values["published_pull"]) == pytest.approx(-0.12 / math.hypot(0.04, 0.1))
    table = analysis.residuals(run).sel(parameter="theta0")
    references = np.array([-3.14, -3.1, -3.12, -3.0])  # truth, likelihood fit, fit by the learned score, published
    np.testing.assert_allclose(table["difference"], MEAN - references - 2 * PI)
    assert analysis.summary(run).loc["theta0", "chains"] == pytest.approx(MEAN)
    assert float(analysis.coverage(run)["coverage"].sel(parameter="theta0").min()) == 1.0
    ranks = analysis.calibration.ranks(analysis.calibration.collect([analysis.estimate(run)]))
    assert 0.4 < float(ranks["rank"][0, 0]) < 0.6


def test_derived_quantities_are_as_usual(run):
    chains = run["posterior"].to_dataset()
    chains = chains.assign(cosine=np.cos(chains.theta0), shifted=chains.theta0 + 100)
    values = analysis.estimate_of(chains)["mean"]
    assert float(values.sel(parameter="theta0")) == pytest.approx(MEAN)
    assert float(values.sel(parameter="cosine")) == pytest.approx(float(chains["cosine"].mean()))
    assert float(values.sel(parameter="shifted")) == pytest.approx(float(chains["shifted"].mean()))


def test_other_parameters_are_as_they_would_be_without_a_period(run):
    plain = make_run(np.stack([run["posterior"][name] for name in ("theta0", "theta1")], axis=-1), truth=(-3.14, 1.0))
    one, other = (analysis.estimate(each).sel(parameter="theta1")["mean"] for each in (run, plain))
    assert float(one) == float(other)


def test_the_path_to_an_angle_has_no_jumps(run):
    path = analysis.convergence(run)
    theta = path["theta"].sel(parameter="theta0")
    assert np.abs(np.diff(theta)).max() < 1 and float(theta[-1]) == pytest.approx(MEAN, abs=0.01)
    assert float(path["deviation"].sel(parameter="theta0")[-1]) < 0.2
    assert float(path["distance"][-1]) < 2 and float(path["distance_each"].isel(step=-1).max()) < 5
    assert not any("second half" in sentence for sentence in analysis.warnings_of(run))
    spread = analysis.evolution(run).sel(parameter="theta0")
    assert np.abs(np.diff(spread["quantiles"].sel(quantile=0.5))).max() < 1
    assert float(spread["between"][-1]) < 0.2 and float(spread["within"][-1]) < 0.2


def test_events_on_a_circle_are_counted_around_it(run):
    for function in (analysis.observed_and_generated, analysis.densities):
        values = function(run, "energy", bins=20)
        assert (float(values["low"][0]), float(values["high"][-1])) == (0.0, 10.0)
        assert float((values["observed"] * 0.5).sum()) == pytest.approx(1.0)  # none is outside
    assert "low" in analysis.observed_and_generated(run, "hall")


def test_pictures_are_centred_on_the_estimate(run):
    plt.switch_backend("Agg")
    axes = plot.posterior(run)
    low, high = axes[0, 0].get_xlim()
    assert high - low < 1.5 and low < MEAN < high
    (chains,) = (line.get_xdata() for line in axes[0, 0].lines if line.get_marker() == "o")
    assert len(chains) > 1 and low < min(chains) and max(chains) < high
    lines = [line.get_xdata()[0] for line in axes[0, 0].lines if line.get_linestyle() in ("--", ":")]
    np.testing.assert_allclose(lines, [2 * PI - 3.14, 2 * PI - 3.0])
    assert max(abs(x) for x in plot.estimate(run).lines[1].get_xdata()) < 10
    for ax in (plot.estimate(run), plot.fit(run)[0]):
        for line in ax.lines:
            drawn = np.abs(np.asarray(line.get_xdata(), float))
            assert not (drawn > 10).any(), line.get_label()
            assert line.get_marker() not in ("<", ">") or not len(drawn)  # none is far away
    first = plot.evolution(run)[0]
    low, high = first.get_ylim()
    assert high - low < 6 and all(low < line.get_ydata()[0] < high for line in first.lines)
    plt.close("all")


def test_a_run_without_a_likelihood_is_compared_with_its_fit_around_the_circle(run):
    """The fit by the learned score is at the other end of the range."""
    plt.switch_backend("Agg")
    chains = np.stack([run["posterior"][name] for name in ("theta0", "theta1")], axis=-1)
    options = {"lower": (-PI, -5.0), "upper": (PI, 5.0), "truth": (-3.14, 1.0), "periodic": ("theta0",)}
    learned = (np.array([-3.12, 1.0]), np.diag([0.0016, 0.01]))
    one = make_run(chains, reference=None, learned=learned, **options)
    path = analysis.convergence(one)
    assert path.attrs["reference"] == "fit" and float(path["distance"][-1]) < 3
    assert float(path["distance_each"].isel(step=-1).max()) < 6
    assert float(analysis.summary(one).loc["theta0", "distance"]) == pytest.approx((MEAN - (2 * PI - 3.12)) / 0.04)
    first = plot.evolution(one)[0]
    centre = next(line.get_ydata()[0] for line in first.lines if line.get_label() == "fit")
    assert centre == pytest.approx(2 * PI - 3.12)
    assert max(np.nanmax(np.abs(np.asarray(line.get_xdata(), float))) for line in plot.estimate(one).lines) < 10
    low, high = plot.posterior(one)[0, 0].get_xlim()
    assert high - low < 1.5 and low < MEAN < high
    plt.close("all")


def test_progress_does_not_count_whole_turns(tmp_path):
    theta = np.zeros((2, 4, 2))
    theta[..., 0] = 3.14
    make_run(theta, tmp_path / "run.zarr", reference=None, lower=(-PI, -5.0), upper=(PI, 5.0), periodic=("theta0",))
    group = zarr.open_group(tmp_path / "run.zarr", mode="r+")
    history = group["history/theta"]
    turned = history[:]
    turned[..., -1, 0] -= 2 * PI
    history[:] = turned
    assert snapshot(tmp_path / "run.zarr").moved < 5
