"""A pipeline of stages: exact smearing, efficiencies, and events that move smoothly through all stages."""

import math

import numpy as np
import pytest
import scipy.stats
import torch

from sagips_kit import Pipeline, Plane, Problem, Select, Separate, Smear, check_problem, fit_likelihood

GRID = torch.linspace(-6, 10, 1601, dtype=torch.float64)
SIGMA = 0.6


def peak(theta, x):
    """Normal, of position and width theta."""
    return torch.exp(-0.5 * ((x - theta[0]) / theta[1]) ** 2)


def slanted(theta, x, y):
    """The density of two observables that depend on each other."""
    return torch.exp(-0.5 * (x - theta[0]) ** 2 - 0.5 * ((y - theta[1] * x) / 0.5) ** 2)


THETA = torch.tensor([1.0, 0.8], dtype=torch.float64)
SMEARED = Pipeline(peak, Separate(GRID), Smear(SIGMA))
CUT = Pipeline(peak, Separate(GRID), Smear(SIGMA), Select((0.5, 2.0)))
AXIS = torch.linspace(-5, 5, 161)
IN_PLANE = Pipeline(slanted, Plane(AXIS, AXIS), Smear(0.3, 0.2), Select((-0.5, None), (None, 1.5)))
BY_TRUE = Pipeline(peak, Separate(GRID), Smear(lambda x: 0.2 + 0.05 * x.abs()), Select((0.5, None)))
ALL = pytest.mark.parametrize("pipeline", [SMEARED, CUT, IN_PLANE, BY_TRUE], ids=["smeared", "cut", "plane", "by true"])


def simulate(pipeline, theta=THETA, n_events=200_000, seed=0):
    noise = torch.rand((n_events, pipeline.noise_dim), generator=torch.Generator().manual_seed(seed)).double()
    return pipeline.simulate(theta, noise)


def test_smearing_widens_a_peak_in_quadrature():
    events = simulate(SMEARED)[:, 0]
    assert events.mean().item() == pytest.approx(1.0, abs=5 / 200_000**0.5)
    assert events.std().item() == pytest.approx(math.hypot(0.8, SIGMA), rel=5 * 0.5 / 200_000**0.5)


def test_selected_events_follow_the_truncated_smeared_density():
    events = simulate(CUT)[:, 0].numpy()
    width = math.hypot(0.8, SIGMA)
    truncated = scipy.stats.truncnorm((0.5 - 1) / width, (2 - 1) / width, 1, width)
    assert scipy.stats.kstest(events, truncated.cdf).pvalue > 1e-3
    assert events.min() >= 0.5 and events.max() <= 2.0


def test_efficiency_is_the_fraction_that_a_cut_leaves():
    width = math.hypot(0.8, SIGMA)
    wanted = scipy.stats.norm(1, width).cdf(2.0) - scipy.stats.norm(1, width).cdf(0.5)
    assert CUT.efficiency(THETA).item() == pytest.approx(wanted, rel=1e-4)
    assert SMEARED.efficiency(THETA).item() == pytest.approx(1.0, rel=1e-9)
    # For more than one observable, compare with events that are really discarded.
    free = Pipeline(slanted, Plane(AXIS, AXIS), Smear(0.3, 0.2))
    events = simulate(free)
    kept = events[(events[:, 0] > -0.5) & (events[:, 1] < 1.5)]
    error = 5 * 0.5 / len(events) ** 0.5
    assert IN_PLANE.efficiency(THETA).item() == pytest.approx(len(kept) / len(events), abs=error)
    selected = simulate(IN_PLANE, seed=1)
    for one, other in zip(kept.T, selected.T, strict=True):
        assert scipy.stats.ks_2samp(one.numpy(), other.numpy()).pvalue > 1e-3
    correlation = [np.corrcoef(sample.numpy().T)[0, 1] for sample in (kept, selected)]
    assert correlation[0] == pytest.approx(correlation[1], abs=0.01)


@ALL
def test_gradient_is_that_of_finite_differences(pipeline):
    noise = torch.rand((300, pipeline.noise_dim), generator=torch.Generator().manual_seed(2)).double()
    jacobian = torch.func.jacrev(pipeline.simulate)(THETA, noise)
    for k in range(2):
        step = torch.zeros_like(THETA).index_fill(0, torch.tensor(k), 1e-6)
        difference = (pipeline.simulate(THETA + step, noise) - pipeline.simulate(THETA - step, noise)) / 2e-6
        # Events that change their grid cell between the two points have a kink there.
        off = (jacobian[..., k] - difference).abs() > 1e-4 + 1e-3 * difference.abs()
        assert off.any(-1).double().mean() < 0.01


@ALL
def test_the_likelihood_is_that_of_the_events(pipeline):
    """At the true parameters the mean of its slope is 0, within the errors that its curvature gives."""
    n_events = 50_000
    events = simulate(pipeline, n_events=n_events)
    score = torch.func.grad(pipeline.log_likelihood)(THETA, events)
    information = -torch.func.hessian(pipeline.log_likelihood)(THETA, events)
    distance = score @ torch.linalg.solve(information, score)
    assert 0 <= distance < scipy.stats.chi2.isf(1e-4, 2)


def test_likelihood_is_normalised():
    x = torch.linspace(0.5, 2.0, 2001, dtype=torch.float64)
    each = torch.vmap(lambda event: CUT.log_likelihood(THETA, event[None]))(x[:, None])
    assert torch.trapezoid(each.exp(), x).item() == pytest.approx(1, abs=1e-3)


def test_a_theory_without_a_density_is_refused_with_what_to_do_instead():
    with pytest.raises(
        ValueError, match="theory = 'events.npy': should be a function .* write `simulate` in the class"
    ):
        Pipeline("events.npy", Separate(GRID))
    simulator = Pipeline(lambda theta, grid: torch.zeros(100, 2), Separate(GRID))
    with pytest.raises(ValueError, match=r"shapes \[\(100, 2\)\]: should be .* write `simulate` in the class"):
        simulator.simulate(THETA, torch.rand(5, 1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_far_from_the_window_nothing_breaks(dtype):
    """The peak is ten deviations away, so the selected events lie at the window's edge; they still move."""
    theta = torch.tensor([-5.0, 0.5], dtype=dtype)
    noise = torch.rand((2000, 2), generator=torch.Generator().manual_seed(0)).to(dtype)
    pipeline = Pipeline(peak, Separate(GRID), Smear(0.6), Select((0.5, None)))
    events = pipeline.simulate(theta, noise)
    assert events.dtype == dtype and (events >= 0.5).all() and events.mean() < 0.8
    assert torch.func.jacrev(pipeline.simulate)(theta, noise).isfinite().all()


def fading(theta, x, y):
    """A density that is zero along the lower ends of both axes."""
    return (x + 5) * (y + 5) * torch.exp(-theta[0] * (x + 5) - theta[1] * (y + 5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("noise", [0.0, 0.5, 1 - 2**-24])
def test_grids_may_extend_far_outside_the_window(dtype, noise):
    """Where nothing can be selected, the probability underflows in float32, and no event comes from there."""
    wide = Pipeline(fading, Plane(AXIS, AXIS), Smear(0.1, lambda y: 0.05 + 0.01 * y.abs()), Select((-2, 3), (1, None)))
    rows = torch.tensor([[noise, 0.5, 0.5, 0.5]], dtype=dtype)
    rows = torch.cat([rows, rows.roll(1, -1), rows.roll(2, -1), rows.roll(3, -1), torch.full_like(rows, noise)])
    events, pull = torch.func.vjp(lambda theta: wide.simulate(theta, rows), THETA.to(dtype))
    assert (events[:, 0] >= -2).all() and (events[:, 0] <= 3).all() and (events[:, 1] >= 1).all()
    assert events.isfinite().all() and pull(torch.ones_like(events))[0].isfinite().all()
    assert (wide._accepted(THETA.to(dtype)) >= 0).all()


def test_events_move_smoothly_where_the_peak_crosses_the_middle_of_the_window():
    """There the computation changes from one tail of the window to the other; both must give the same event."""
    narrow = Pipeline(peak, Separate(GRID), Smear(SIGMA), Select((0.5, 1.5)))
    theta, noise = torch.tensor([1.0, 0.5], dtype=torch.float64), torch.tensor([[0.5, 0.9]], dtype=torch.float64)
    middle = (theta[0] + torch.linspace(-1e-3, 1e-3, 20))[:, None]
    events = torch.cat([narrow.simulate(torch.stack([one[0], theta[1]]), noise) for one in middle])
    assert events.diff(dim=0).abs().max() < 1e-3


class Resonance(Problem):
    """A complete problem as a user would write it."""

    parameters, lower, upper, truth = ("position", "width"), (0.0, 0.4), (2.0, 1.5), (1.0, 0.8)
    observables, noise_dim = ("mass",), CUT.noise_dim
    simulate = staticmethod(CUT.simulate)
    log_likelihood = staticmethod(CUT.log_likelihood)

    def observed(self, n_events, rng):
        return self.simulate(THETA, torch.as_tensor(rng.random((n_events or 20_000, 2)))).numpy()

    def features(self, events):
        return torch.cat([events, events**2], dim=-1)


def test_a_problem_with_a_pipeline_keeps_its_contract():
    report = check_problem(Resonance())
    assert report.is_ok, report
    events = Resonance().observed(None, np.random.default_rng(0))
    fit = fit_likelihood(Resonance(), events)
    assert np.abs((fit.theta - Resonance.truth) / fit.deviation).max() < 4


@pytest.mark.parametrize("pipeline", [CUT, IN_PLANE], ids=["separate", "plane"])
def test_a_refined_pipeline_has_points_between_and_the_same_density(pipeline):
    finer = pipeline.refined(2)
    for grid, coarse in zip(finer.sampler.grids, pipeline.sampler.grids, strict=True):
        assert torch.equal(grid[::2], coarse)
        torch.testing.assert_close(grid[1::2], (coarse[1:] + coarse[:-1]) / 2)
    assert finer.noise_dim == pipeline.noise_dim
    torch.testing.assert_close(finer.efficiency(THETA), pipeline.efficiency(THETA), rtol=2e-3, atol=0)
    twice = finer.refined(3)
    assert [len(grid) for grid in twice.sampler.grids] == [6 * len(grid) - 5 for grid in pipeline.sampler.grids]
    noise = torch.rand((100, pipeline.noise_dim), dtype=torch.float64)
    assert torch.equal(pipeline.refined(1).simulate(THETA, noise), pipeline.simulate(THETA, noise))


@pytest.mark.parametrize("kind", [Separate, lambda grid: Plane(grid, grid)], ids=["separate", "plane"])
def test_a_table_is_refined_by_straight_lines(kind):
    """A theory that provides its density only at the given points."""
    points = torch.linspace(0, 1, 5).double()
    sampler = kind(points)
    table = torch.arange(5.0 ** len(sampler.grids)).double().view(*[5] * len(sampler.grids))
    pipeline = Pipeline(lambda theta, *grids: theta[0] * table, sampler)
    torch.testing.assert_close(pipeline.refined(3).norm(THETA), pipeline.norm(THETA))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Pipeline(peak, Separate(GRID), None, Select((0, 1))), "let the sampler's grids end where"),
        (lambda: Pipeline(peak, Separate(GRID), Smear(0.1, 0.2)), "Smear is for 2 observables, the sampler for 1"),
        (lambda: Smear(0.0), "sigma = 0.0: should be above 0"),
        (lambda: Select((2, 1)), "the lower limit should be below the upper one"),
        (lambda: Select(2.0, 9.0), r"2.0 is not a window: should be \(lower, upper\)"),
        (lambda: Pipeline(peak, Separate(GRID), Smear(0.1), Select((20, 30))), "the grid goes from -6 to 10"),
        (lambda: Pipeline(peak, Separate(GRID), Select((0, 1))), "a Select is in the wrong place: should be Pipeline"),
        (lambda: CUT.simulate(THETA, torch.rand(5, 1)), "noise of 1 columns: this Pipeline needs 2"),
        (lambda: CUT.refined(0), r"refined\(0\): should be a whole number of at least 1"),
        (lambda: Separate(torch.tensor([1.0, 1.0])), "2 increasing numbers"),
        (
            lambda: Pipeline(lambda theta, x: theta[0], Separate(GRID)).efficiency(THETA),
            r"<lambda> returns densities of shapes \[\(\)\]: should be \[\(1601,\)\]",
        ),
    ],
)
def test_wrong_stages_are_refused(make, text):
    with pytest.raises(ValueError, match=text):
        make()
