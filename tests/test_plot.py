"""Plots: axes with labels and units, no warnings, no global settings touched."""

import inspect

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from test_analysis import make_run, make_timed
from test_store import make_events

from sagips_kit import analysis, plot
from sagips_kit.analysis.collection import open_runs
from sagips_kit.plot.paths import paths
from sagips_kit.statistics.fit import ScoreFit
from sagips_kit.store.contributions import Contribution

plt.switch_backend("Agg")
pytestmark = pytest.mark.filterwarnings("error")


def make_fitted_run(n_parameters, n_chains=8, **options):
    rng = np.random.default_rng(5)
    mle = np.linspace(-2, 2, n_parameters)
    root = rng.normal(0, 0.05, (n_parameters, n_parameters)) + 0.1 * np.eye(n_parameters)
    covariance = root @ root.T
    fit = {"mle": mle, "deviation": np.sqrt(np.diag(covariance)), "covariance": covariance}
    means = mle + rng.normal(size=(n_chains, n_parameters)) @ root.T
    theta = means[:, None] + rng.normal(0, 0.01, (n_chains, 20, n_parameters))
    return make_run(
        theta, **{"reference": fit, "truth": tuple(mle + 0.1), "published": {"theta0": (-2, 0.1)}} | options
    )


@pytest.fixture(autouse=True)
def no_traces():
    before = dict(matplotlib.rcParams)
    yield
    assert dict(matplotlib.rcParams) == before
    for number in plt.get_fignums():
        plt.figure(number).canvas.draw()
    plt.close("all")


@pytest.fixture(scope="module")
def run():
    """A run with one more parameter than figures show by default."""
    return make_fitted_run(7, n_chains=16)


def texts(legend):
    return [text.get_text() for text in legend.get_texts()]


def test_convergence(run):
    ax = plot.convergence(run)
    assert isinstance(ax, Axes)
    assert (ax.get_xlabel(), ax.get_yscale()) == ("step", "log")
    assert "floor units" in ax.get_ylabel()
    assert texts(ax.get_legend()) == ["each generator", "mean of all generators", "statistical floor"]


def test_estimates(run):
    ax = plot.estimate(run)
    assert [label.get_text() for label in ax.get_yticklabels()] == run["reference"]["parameter"].values.tolist()
    assert ax.get_xlabel() == "distance to the MLE [floor units]"
    assert texts(ax.get_legend()) == ["chains: mean and spread", "truth", "published"]


@pytest.mark.parametrize("parameters", [None, ["theta5"], ["theta3", "theta0"]])
def test_posterior(run, parameters):
    axes = plot.posterior(run, parameters)
    names = parameters or [f"theta{k}" for k in range(6)]
    labels = [name.replace("theta0", "theta0 [days]") for name in names]
    assert axes.shape == (len(names), len(names))
    assert [ax.get_xlabel() for ax in axes[-1]] == labels
    assert [ax.get_ylabel() for ax in axes[1:, 0]] == labels[1:]
    assert [ax.get_visible() for ax in axes.ravel()] == np.tri(len(names), dtype=bool).ravel().tolist()
    (legend,) = axes[0, 0].figure.legends
    assert legend.get_title().get_text() == f"{len(names)} of 7 parameters"


def test_posterior_shows_ellipses_of_the_covariance(run):
    ax = plot.posterior(run)[3, 1]
    covariance = run["reference"]["covariance"].values[np.ix_([1, 3], [1, 3])]
    ellipse = ax.patches[0]
    points = ellipse.get_patch_transform().transform(ellipse.get_path().interpolated(20).vertices)
    away = points - run["reference"]["mle"].values[[1, 3]]
    np.testing.assert_allclose(np.einsum("ki,ij,kj->k", away, np.linalg.inv(covariance), away), 1, rtol=0.1)


def test_posterior_refuses_unknown_parameters(run):
    with pytest.raises(ValueError, match="no parameter phi. Allowed: theta0, theta1"):
        plot.posterior(run, ["phi"])


@pytest.mark.parametrize(("by", "n_panels"), [(None, 1), ("hall", 3)])
def test_observed_and_generated(run, by, n_panels):
    axes = plot.observed_and_generated(run, "energy", by=by, bins=25)
    assert axes.shape == (2, n_panels)
    assert {ax.get_xlabel() for ax in axes[1]} == {"energy [MeV]"}
    assert axes[0, 0].get_ylabel() == "density [1/MeV]"
    assert [ax.get_title() for ax in axes[0]] == ([""] if by is None else ["hall = 1", "hall = 2", "hall = 3"])
    low, high = axes[1, 0].get_ylim()
    assert low + high == pytest.approx(2)


def test_events_in_another_unit_are_reported_as_not_covered():
    events = {"energy": 1e6 + np.arange(500.0), "hall": np.ones(500)}
    axes = plot.observed_and_generated(make_fitted_run(2, events=np.column_stack(list(events.values()))), "energy")
    assert "no generated events where the observed ones are" in [text.get_text() for text in axes[1, 0].texts]


def test_events_have_bands(run):
    axes = plot.observed_and_generated(run, "energy")
    assert texts(axes[0, 0].get_legend()) == [
        "95 % of the chains",
        "68 % of the chains",
        "generated, mean of the chains",
        "observed",
    ]


def test_categories_have_panels_and_names_without_asking():
    names = [(1, "near"), (2, "middle"), (3, r"$\theta_{far}$")]
    run = make_fitted_run(2, shown={"category": "hall", "category_names": names})
    axes = plot.observed_and_generated(run, "energy")
    assert [ax.get_title() for ax in axes[0]] == [name for _, name in names]
    assert plot.densities(run, "energy").shape == (2, 3)
    assert plot.observed_and_generated(run, "energy", by=None).shape == (2, 1)
    assert plot.observed_and_generated(run, "hall").shape == (2, 1), "not by itself"


def test_sparse_bins_have_one_ratio_together(run):
    ratio = plot.observed_and_generated(run, "energy", bins=100)[1, 0].containers[0]
    values = analysis.observed_and_generated(run, "energy", bins=100)
    assert len(ratio.lines[0].get_xdata()) == len(np.unique(values["group"])) < 100


def test_what_matplotlib_cannot_draw_is_replaced_by_the_name():
    run = make_fitted_run(2, shown={"labels": {"theta0": r"$\nonsense{$", "theta1": r"$\theta_1$"}})
    assert [text.get_text() for text in plot.estimate(run).get_yticklabels()] == ["theta0", r"$\theta_1$"]


def test_parameters_of_interest_come_first_and_others_are_folded():
    shown = {"interest": ["theta2", "theta1"], "priors": {"theta1": (0.0, 0.3)}}
    run = make_fitted_run(4, shown=shown, learned=(np.linspace(-2, 2, 4), 0.01 * np.eye(4)))
    ax = plot.estimate(run)
    assert [text.get_text() for text in ax.get_yticklabels()] == shown["interest"]
    assert ax.get_xlabel().endswith("\n2 other parameters not shown (parameters=[...] chooses)")
    assert len(plot.estimate(run, ["theta0", "theta3"]).get_yticks()) == 2
    assert plot.posterior(run).shape == (2, 2) and len(plot.evolution(run)) == 2
    estimates, _ = plot.fit(run)
    assert len(estimates.get_yticks()) == 2 and "prior" in texts(estimates.get_legend())
    assert "prior" in texts(plot.posterior(run)[0, 0].figure.legends[0])
    table = analysis.summary(run)
    assert table.index.tolist() == ["theta2", "theta1", "theta0", "theta3"]
    assert table["prior_deviation"].dropna().to_dict() == {"theta1": 0.3}
    assert "<details><summary>2 other parameters</summary>" in table._repr_html_()


def test_small_numbers_have_a_power_of_ten_at_the_axis():
    rng = np.random.default_rng(0)
    run = make_run(2.4e-3 + 5e-5 * rng.normal(size=(8, 20, 1)), reference=None, units={"theta0": "eV^2"})
    (ax,) = plot.posterior(run).ravel()
    assert ax.get_xlabel() == "theta0 [$10^{-3}$ eV$^{2}$]"
    ax.figure.canvas.draw()
    assert {text.get_text() for text in ax.get_xticklabels()} <= {f"{k / 20:g}" for k in range(100)}


def test_two_observables_at_once(run):
    axes = plot.plane(run, "energy", "hall", bins=10)
    assert axes[0].get_xlabel() == "energy [MeV]" and axes[0].get_ylabel() == "hall"
    values = analysis.plane(run, "energy", "hall", bins=10)
    area = (values["high_x"] - values["low_x"]) * (values["high_y"] - values["low_y"])
    assert float((values["observed"] * area).sum()) == pytest.approx(1)
    # Both samples come from the same distribution.
    assert float((values["pull"] ** 2).mean()) == pytest.approx(1, abs=0.5)
    with pytest.raises(ValueError, match="x and y are both 'hall'"):
        plot.plane(run, "hall", "hall")


def test_an_image_is_drawn_beside_its_truth():
    run = make_fitted_run(6, shown={"image": [2, 3]})
    axes = plot.image(run)
    assert [ax.get_title() for ax in axes] == [
        "truth",
        "estimate",
        "standard deviation",
        "(estimate - truth) / deviation",
    ]
    np.testing.assert_allclose(analysis.image(run)["truth"].values.ravel(), run["reference"]["truth"])
    assert len(plot.image(make_fitted_run(6, shown={"image": [2, 3]}, truth=None))) == 2
    with pytest.raises(ValueError, match="no image. Set `image = "):
        plot.image(make_fitted_run(6))


@pytest.mark.parametrize(("by", "n_panels"), [(None, 1), ("hall", 3)])
def test_densities(run, by, n_panels):
    axes = plot.densities(run, "energy", by=by)
    assert axes.shape == (2, n_panels)
    steps = ["step 200", "step 400", "step 600", "step 1000"]
    legend = axes[0, 0].get_legend() or axes[0, 0].figure.legends[0]
    assert texts(legend) == [*steps, "observed"]
    # Lines of few events in a bin would scatter like a misfit.
    assert len(axes[0, 0].containers[0].lines[0].get_xdata()) == (13 if by is None else 6)
    assert axes[0, 0].get_ylim()[0] == 0 and axes[1, 0].get_ylabel() == "generated /\nobserved"
    some = plot.densities(run, "energy", steps=[0, 10, 790])
    assert texts(some[0, 0].get_legend()) == ["step 200", "step 800", "observed"], "the nearest snapshots, each once"
    with pytest.raises(ValueError, match="5 steps: should be at most 4"):
        plot.densities(run, "energy", steps=range(5))


def test_evolution(run):
    axes = plot.evolution(run)
    assert [ax.get_ylabel() for ax in axes] == ["theta0 [days]", *(f"theta{k}" for k in range(1, 6))]
    assert len(plot.evolution(run, ["theta1"])) == 1
    with pytest.raises(ValueError, match="no parameter phi"):
        plot.evolution(run, ["phi"])


def test_discriminator(run):
    ax = plot.discriminator(run)
    assert texts(ax.get_legend()) == ["generated events", "observed events", "undecided"]
    assert "in 16 discriminators; by chance 0.5" in ax.get_title(loc="left")


def test_pictures_are_drawn_on_the_given_axes_and_figures(run):
    _, (left, right) = plt.subplots(1, 2)
    assert plot.convergence(run, ax=left) is left
    assert plot.estimate(run, ax=right) is right
    pair, histogram = plt.figure(), plt.figure()
    assert plot.posterior(run, ["theta1", "theta2"], figure=pair)[0, 0].figure is pair
    assert plot.observed_and_generated(run, "hall", figure=histogram)[0, 0].figure is histogram
    assert len(plt.get_fignums()) == 3


def test_residuals(run):
    ax = plot.residuals(run)
    assert texts(ax.get_legend()) == ["truth", "MLE [floor units]", "published"]
    assert ax.get_xlabel() == "(estimate - reference) / standard deviation"
    with pytest.raises(ValueError, match="no residual to draw: the run has a single chain"):
        plot.residuals(make_fitted_run(3, n_chains=1, reference=None))


def test_losses_timeline_and_staleness():
    run = make_timed([[0, 4, 0, 0], [1, 1, 1, 1]], [[1, 5, 9, 10], [2, 4, 6, 8]])
    ax = plot.losses(run)
    assert (ax.get_ylabel(), ax.get_yscale()) == ("RMS distance of the loss\nfrom that by guessing", "log")
    with pytest.raises(ValueError, match="No row of the history has been written yet"):
        plot.losses(make_fitted_run(3, n_steps=0))
    assert plot.staleness(run).get_ylabel() == "staleness [steps]"
    ax = plot.timeline(run)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("time since the start [s]", "rank")
    assert ax.get_title(loc="left").startswith("44.4% of the ranks' time was spent waiting")
    with pytest.raises(ValueError, match="No row of the history has been written yet"):
        plot.timeline(make_fitted_run(3, n_steps=0))


def test_the_row_of_a_single_rank_has_its_height():
    ax = plot.timeline(make_timed([[0, 4, 0, 0]], [[1, 5, 9, 10]]))
    (mesh,) = ax.collections
    assert mesh.get_datalim(ax.transData).intervaly.tolist() == [-0.5, 0.5]
    assert [tick for tick in ax.get_yticks() if abs(tick) <= 0.5] == [0]


def test_the_axis_of_the_distance_always_has_numbers():
    ax = plot.convergence(make_fitted_run(2))
    ax.set_ylim(0.4, 1.7)
    ax.figure.canvas.draw()
    shown = {label.get_text() for label in ax.get_yticklabels(which="both")}
    assert {"0.5", "1"} <= shown and not any("10^" in text for text in shown), "and no powers of ten between them"


def test_densities_can_be_logarithmic_and_ratios_beyond_the_axis_are_marked():
    events = make_events(np.random.default_rng(0), 5000) * [1.5, 1]
    run = make_fitted_run(2, events=events)
    axes = plot.observed_and_generated(run, "energy", log=True)
    assert axes[0, 0].get_yscale() == "log" and axes[0, 0].get_ylim()[0] > 0
    low, high = axes[1, 0].get_ylim()
    n_marks = {line.get_marker(): len(line.get_xdata()) for line in axes[1, 0].lines}
    shown = np.nan_to_num(np.array(axes[1, 0].containers[0].lines[0].get_ydata(), float), nan=1.0)
    assert (n_marks["^"], n_marks["v"]) == ((shown > high).sum(), (shown < low).sum())
    assert n_marks["^"] + n_marks["v"] > 0


def test_many_generators_are_a_band():
    ax = plot.convergence(make_fitted_run(2, n_chains=100))
    assert texts(ax.get_legend())[0] == "90 % of the generators" and len(ax.lines) == 2


@pytest.mark.parametrize("draw", [plot.posterior, plot.evolution])
def test_one_parameter_may_be_given_by_its_name(run, draw):
    first = run.attrs["parameters"][0]
    assert np.size(draw(run, first)) == 1
    with pytest.raises(ValueError, match="The run has no parameter mass. Allowed"):
        draw(run, "mass")


def test_the_path_of_a_run_is_refused():
    for function in (plot.overview, plot.posterior, analysis.summary, analysis.estimate):
        with pytest.raises(TypeError, match=r"'runs/a.zarr' is not an opened run. Type open_run\('runs/a.zarr'\)"):
            function("runs/a.zarr")


@pytest.fixture(scope="module")
def runs():
    spec = {"settings": {"n_events": 512}}
    made = [make_fitted_run(3, n_chains=n, mode=mode, spec=spec) for n, mode in [(4, "Ring()"), (8, "Independent()")]]
    return open_runs(made, along="mode")


@pytest.mark.parametrize("name", ["convergence", "estimate", "pace"])
def test_several_runs_side_by_side(runs, name):
    ax = getattr(plot, name)(runs)
    assert isinstance(ax, Axes) and ax.get_xlabel()
    assert {"Ring()", "Independent()"} <= set(texts(ax.get_legend()))


def test_residuals_of_several_runs_are_a_histogram(runs):
    assert texts(plot.residuals(runs).get_legend())[1] == "standard normal distribution"
    # The fit of the same events is not a reference for a histogram.
    only_fitted = [make_fitted_run(3, truth=None, published={}) for _ in range(2)]
    with pytest.raises(ValueError, match="no residual to draw: the runs have a single chain each, or neither a truth"):
        plot.residuals(open_runs(only_fitted, labels=["a", "b"]))


def test_pictures_of_several_runs_name_what_is_missing(runs):
    with pytest.raises(ValueError, match=r"plot.pace compares several runs, and this is one.*open_runs"):
        plot.pace(runs["Ring()"])
    unfitted = open_runs([make_fitted_run(3, reference=None) for _ in range(2)], labels=["a", "b"])
    with pytest.raises(ValueError, match="None of these runs has a fit.*analysis.summary"):
        plot.estimate(unfitted)
    with pytest.raises(ValueError, match="None of these runs has a fit"):
        plot.convergence(unfitted)


def test_convergence_against_time(run, runs):
    for one in (run, runs):
        assert plot.convergence(one, against="time").get_xlabel() == "time since the start [s]"
    with pytest.raises(ValueError, match='against = \'rank\': should be "step" or "time"'):
        plot.convergence(runs, against="rank")


def test_a_picture_has_the_name_and_the_arguments_of_its_analysis():
    for name in plot.__all__:
        if name in ("overview", "pictures", "posterior"):  # a sheet, a list, and a group of the store
            assert not hasattr(analysis, name)
            continue
        options = list(inspect.signature(getattr(analysis, name)).parameters)[1:]
        assert list(inspect.signature(getattr(plot, name)).parameters)[1 : len(options) + 1] == options, name


@pytest.mark.parametrize("name", plot.__all__)
def test_pictures_of_one_run_refuse_several(runs, name):
    if name in ("convergence", "estimate", "pace", "residuals"):
        return
    of = {"densities": ["energy"], "observed_and_generated": ["energy"], "plane": ["energy", "hall"]}
    with pytest.raises(ValueError, match=r"single run.*runs\['Ring\(\)'\]"):
        getattr(plot, name)(runs, *of.get(name, []))


def test_the_overview_holds_all_pictures(run):
    axes = plot.overview(run)
    assert list(axes) == [picture.name for picture in plot.pictures(run)]
    with_an_observable = {name for name in axes if name.endswith(" energy")}
    drawn = {"convergence", "densities", "discriminator", "estimate", "evolution", "losses", "observed_and_generated"}
    assert {name.removesuffix(" energy") for name in axes} == drawn | {"posterior", "staleness", "timeline"}
    figure = axes["losses"].figure.figure
    assert {axes[name].shape for name in with_an_observable} == {(2, 3)}, "by hall"
    assert figure.get_suptitle() == "SimpleNamespace, 8 ranks, step 1000 of 1000, finished"


@pytest.mark.parametrize(("n_steps", "n_chains"), [(5, 2), (200, 2), (None, 1)])
def test_every_listed_picture_has_something_to_show(n_steps, n_chains):
    run = make_fitted_run(2, n_chains=n_chains, n_steps=n_steps, reference=None)
    for picture in plot.pictures(run):
        axes = np.ravel(picture.draw(Figure()))
        assert all(ax.has_data() for ax in axes if ax.get_visible()), picture.name


def test_steep_spectra_are_drawn_with_a_logarithmic_axis():
    events = make_events(np.random.default_rng(1), 5000)
    for some, scale in ((events, "linear"), (events * [-1, 1], "linear"), (np.exp(events * [3, 0]) + events, "log")):
        found = plot.pictures(make_fitted_run(2, events=some))
        picture = next(one for one in found if one.name == "observed_and_generated energy")
        assert picture.draw(Figure())[0, 0].get_yscale() == scale


def test_a_picture_of_the_estimates_needs_something_to_compare_them_with():
    nothing = {"reference": None, "truth": None, "published": {}}
    assert "estimate" not in [picture.name for picture in plot.pictures(make_fitted_run(2, **nothing))]


def test_no_label_is_cut_off():
    learned = (np.linspace(-2, 2, 3), 0.01 * np.eye(3))
    run = make_fitted_run(3, reference=None, learned=learned, findings=["There is another answer."])
    for draw in (plot.convergence, paths):
        figure = Figure(figsize=(6, 3.8), layout="constrained")
        draw(run, ax=figure.add_subplot())
        figure.draw_without_rendering()
        ax = figure.axes[0]
        for box in (ax.yaxis.label.get_window_extent(), ax.get_legend().get_window_extent()):
            assert box.y0 >= 0 and box.y1 <= figure.bbox.y1 and box.x0 >= 0 and box.x1 <= figure.bbox.x1


def test_the_paths_of_the_parameters_reach_to_the_planned_end():
    run = make_fitted_run(3, n_steps=500)
    assert plot.convergence(run).get_xlim() == (0, 1000)
    ax = paths(run)
    assert ax.get_ylabel() == "distance to the MLE [floor units]" and ax.get_xlim() == (0, 1000)
    lines = [line for line in ax.lines if line.get_label().startswith("theta")]
    assert [line.get_xdata()[-1] for line in lines] == [500] * 3
    assert [line.get_marker() for line in ax.lines].count("*") == 3, "the truth"
    alone = paths(make_fitted_run(9, reference=None, truth=None, published={}))
    assert alone.get_ylabel().endswith("[% of its half width]")
    assert alone.get_xlabel() == "step\n3 other parameters not shown"
    with pytest.raises(ValueError, match="No row of the history has been written yet"):
        paths(make_fitted_run(3, n_steps=0))


def test_the_overview_says_what_is_missing_yet():
    axes = plot.overview(make_fitted_run(3, n_steps=0))
    assert not axes
    assert "has not begun to train" in plt.gcf().get_suptitle()
    axes = plot.overview(make_fitted_run(3, n_steps=200))
    assert {"convergence", "losses"} <= set(axes) and "posterior" not in axes
    assert "come at the end of the run: step 200 of 1000" in plt.gcf().get_suptitle()


def test_a_run_without_reference_has_pictures_too():
    run = make_fitted_run(3, reference=None, truth=None)
    with pytest.raises(ValueError, match=r"no fit.*plot\.evolution.*theta\.plot"):
        plot.convergence(run)
    assert plot.estimate(run).get_xlabel() == "distance to the estimate [its standard deviations]"
    plot.posterior(run)


def test_a_single_chain_has_pictures_too():
    run = make_fitted_run(3, n_chains=1)
    for draw in (
        plot.convergence,
        plot.estimate,
        plot.posterior,
        lambda run: plot.observed_and_generated(run, "energy", by="hall"),
    ):
        draw(run)
    with pytest.raises(ValueError, match="one chain and no fit"):
        plot.estimate(make_fitted_run(3, n_chains=1, reference=None))


def test_without_a_likelihood_the_fit_takes_its_place():
    learned = (np.array([-2.0, 0.1, 2.0]), np.diag([0.1, 0.2, 0.1]) ** 2)
    run = make_fitted_run(3, reference=None, learned=learned)
    assert plot.convergence(run).get_ylabel() == "RMS distance to the fit [its deviations]"
    assert plot.estimate(run).get_xlabel() == "distance to the fit [its deviations]"
    assert "fit [its deviations]" in texts(plot.residuals(run).get_legend())
    assert "fit, 2 deviations" in texts(plot.posterior(run)[0, 0].figure.legends[0])
    assert "fit $\\pm$ 1 deviation" in texts(plot.evolution(run)[0].figure.legends[0])
    both = open_runs([run, make_fitted_run(3, learned=learned)], labels=["a", "b"])
    assert plot.convergence(both).get_ylabel() == "RMS distance to the MLE, or to the fit [its deviations]"
    assert plot.estimate(both).get_xlabel() == "distance to the MLE [floor units]"
    alone = open_runs([run, run], labels=["a", "b"])
    assert plot.estimate(alone).get_xlabel() == "distance to the fit [its deviations]"
    # A fit that is not reliable is named so.
    doubtful = make_fitted_run(3, reference=None, learned=learned, findings=["There is another answer."])
    assert plot.convergence(doubtful).get_ylabel() == "RMS distance to the fit, which is not reliable\n[its deviations]"


def test_a_fit_is_drawn_from_a_run_and_from_its_result():
    learned = (np.array([-2.0, 0.1, 2.0]), np.array([[0.01, 0.01, 0], [0.01, 0.04, 0], [0, 0, 0.01]]))
    run = make_fitted_run(3, learned=learned, findings=["There is another answer."])
    estimates, correlations = plot.fit(run)
    assert texts(estimates.get_legend()) == ["fit", "MLE", "estimate of the generators", "truth", "published"]
    assert estimates.get_yticklabels()[0].get_text() == "theta0 = -2.00(10) days"
    assert [text.get_text() for text in correlations.texts][1] == "0.50"
    assert "NOT RELIABLE: There is another answer." in estimates.figure.get_suptitle()
    result = ScoreFit(("a", "b", "c"), *learned, {}, 5.0, 4, ())
    estimates, _ = plot.fit(result, truth=(-2.1, 0.1, 9.0))
    assert texts(estimates.get_legend()) == ["fit", "truth"]
    (arrow,) = [line for line in estimates.lines if line.get_marker() == ">" and len(line.get_xdata())]
    assert arrow.get_ydata().tolist() == [2], "70 deviations away"
    assert estimates.figure.get_suptitle() == "Fit by the learned score: chi-squared 5.0 / 4, p = 0.29"
    with pytest.raises(ValueError, match=r"truth of shape \(2,\): should be \(3,\)"):
        plot.fit(result, truth=(1, 2))
    with pytest.raises(ValueError, match=r"no fit by the learned score: it was switched off"):
        plot.fit(make_fitted_run(3, spec={"fit": False}))


def test_impacts_are_drawn_from_a_run_and_from_a_fit():
    learned = (np.array([-2.0, 0.1, 2.0]), np.diag([0.1, 0.2, 0.1]) ** 2)
    run = make_fitted_run(3, learned=learned)
    pulls, impacts = plot.impacts(run)
    assert [label.get_text() for label in pulls.get_yticklabels()] == ["events", "clock"]
    (pull,) = [line for line in pulls.lines if line.get_marker() == "o"]
    assert (pull.get_xdata()[0], pull.get_ydata()[0], pull.get_color()) == (2.5, 1, "#d1495b")
    widths = [bar.get_width() for bar in impacts.patches]
    np.testing.assert_allclose(widths, [0.16, -0.06, 0.06])
    assert pulls.figure.get_suptitle() == "theta0 = -2.00(10) days\ndeviation 0.1: events 0.08, priors 0.06"
    assert impacts.get_xlabel() == "impact on theta0 [days]"
    many = tuple(Contribution(f"p{k}", "priors", np.array([0.1 + k]), 0.0) for k in range(30))
    result = ScoreFit(("a",), np.array([1.0]), np.eye(1), {}, 5.0, 4, (), contributions=many)
    pulls, _ = plot.impacts(result, "a")
    assert pulls.get_yticklabels()[0].get_text() == "p29"
    assert [text.get_text() for text in pulls.texts] == ["10 smaller ones are not shown"]
    with pytest.raises(ValueError, match="No parameter 'b'. Allowed: a"):
        plot.impacts(result, "b")
    with pytest.raises(ValueError, match="No parameter 'thet'. Did you mean theta0"):
        plot.impacts(run, "thet")
    with pytest.raises(ValueError, match="does not know its contributions"):
        plot.impacts(ScoreFit(("a",), np.array([1.0]), np.eye(1), {}, 5.0, 4, ()))


def test_an_unfinished_run_shows_its_convergence():
    assert len(plot.convergence(make_fitted_run(3, n_steps=200)).lines) == 8 + 2
    with pytest.raises(ValueError, match="No row of the history has been written yet"):
        plot.convergence(make_fitted_run(3, n_steps=0))


def test_a_run_that_has_just_begun_does_not_hide_the_others():
    runs = [make_fitted_run(3, n_steps=200), make_fitted_run(3, n_steps=0)]
    ax = plot.convergence(open_runs(runs, labels=["old", "new"]))
    assert [len(line.get_xdata()) for line in ax.lines[:2]] == [20, 0]
