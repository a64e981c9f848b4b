"""Analysis: known answers on synthetic runs, without torch, MPI or ipyparallel."""

import html
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from test_store import fill_run, make_events, make_problem
from zarr.storage import MemoryStore

from sagips_kit import analysis
from sagips_kit.analysis.collection import list_runs, open_runs
from sagips_kit.report.accessor import ChainsAccessor, RunAccessor
from sagips_kit.report.html import html_report
from sagips_kit.store import schema
from sagips_kit.store.contributions import Contribution
from sagips_kit.store.create import create_run
from sagips_kit.store.findings import Finding
from sagips_kit.store.layout import RunLayout
from sagips_kit.store.reader import open_run
from sagips_kit.store.writer import RunWriter

pytestmark = pytest.mark.filterwarnings("error")

TRUTH = (1.0, -2.0)
LEARNED = (np.array([1.05, -2.05]), np.array([[0.01, 0.01], [0.01, 0.04]]))
FIT = {"mle": np.array([1.1, -2.1]), "deviation": np.array([0.1, 0.2]), "covariance": np.diag([0.01, 0.04])}


def make_run(
    theta,
    where=None,
    *,
    n_steps=None,
    reference=FIT,
    learned=None,
    findings=(),
    events=None,
    n_replicas=None,
    spec=None,
    mode="",
    shown=None,
    **problem,
):
    """A run with the chains theta (chain, draw, parameter): two members on each rank, unless n_replicas is given.

    `learned` is the estimate and the covariance of the fit by the learned score.
    """
    rng = np.random.default_rng(3)
    where = MemoryStore() if where is None else where
    n_chains, n_draws, n_parameters = theta.shape
    n_replicas = n_replicas or max(1, n_chains // 2)
    layout = RunLayout(
        n_ranks=n_replicas,
        n_replicas=n_replicas,
        n_members=n_chains // n_replicas,
        n_steps=1000,
        record_every=10,
        rows_per_block=25,
        n_draws=n_draws,
        n_predictive=50,
        n_snapshots=5,
        n_sets=3,
        n_scores=100,
    )
    events = make_events(rng, 5000) if events is None else events
    given = {"spec": spec or {}, "mode": mode, "events": events, "reference": reference, "shown": shown}
    create_run(where, make_problem(n_parameters, **problem), layout, **given)
    fill_run(where, layout, theta, make_events(rng, n_chains, n_draws, 50), n_steps=n_steps)
    if learned is not None:
        write_fit(where, *learned, findings)
    return open_run(where)


def write_fit(where, estimate, covariance, findings=()):
    """Write a fit by the learned score, as rank 0 does; 64 % of the variances come from events, 36 % from a prior."""
    findings = [Finding("several answers", text).to_dict() for text in findings]
    words = {"state": "made", "findings": findings, "information": {"functions": 1.0}}
    deviation = np.sqrt(np.diag(covariance))
    parts = [Contribution("events", "events", 0.8 * deviation), Contribution("clock", "priors", -0.6 * deviation, 2.5)]
    words["contributions"] = [one.to_dict() for one in parts]
    numbers = {"fit_covariance": covariance, "fit_goodness": 7.0, "fit_n_freedom": 9}
    with RunWriter(where, 0) as writer:
        writer.write_fit(words, fit=estimate, fit_deviation=np.sqrt(np.diag(covariance)), **numbers)


def fit_at(theta):
    """A likelihood fit that chains (chain, draw, parameter) agree with."""
    means = theta.mean(1)
    return {"mle": means.mean(0), "deviation": means.std(0, ddof=1), "covariance": np.diag(means.var(0, ddof=1))}


def make_theta(n_chains=8, n_draws=40, mean=TRUTH, deviation=(0.1, 0.2), within=0.1):
    """Draws whose chains' means scatter by `deviation`, and each chain by a fraction `within` of it."""
    rng = np.random.default_rng(4)
    means = rng.normal(mean, deviation, (n_chains, len(mean)))
    return means[:, None] + rng.normal(0, within * np.asarray(deviation), (n_chains, n_draws, len(mean)))


def test_the_deviation_is_that_of_the_chains():
    theta = np.array([[[0.0, 5.0], [2.0, 5.0]], [[4.0, 7.0], [6.0, 7.0]]])
    result = analysis.estimate(make_run(theta, truth=TRUTH))
    assert result["mean"].values.tolist() == [3, 6]
    # Means of the chains 1 and 5, and 5 and 7; the draws within a chain do not matter.
    np.testing.assert_allclose(result["deviation"], np.sqrt([8, 2]))
    # Student's t distribution with one degree of freedom.
    np.testing.assert_allclose(result["high"] - result["mean"], 1.837 * np.sqrt([8, 2]), rtol=1e-3)
    np.testing.assert_allclose(result["to_mle"], [19, 40.5])
    np.testing.assert_allclose(result["pull"], [(3 - 1) / np.sqrt(8), (6 + 2) / np.sqrt(2)])
    assert result["published_pull"].isnull().all()
    assert "units" not in result["mean"].attrs
    assert result.attrs["uncertainty"] == "bootstrap ensemble"


def test_estimate_finds_the_distribution_the_draws_came_from():
    result = analysis.estimate(make_run(make_theta(n_chains=400), published={"theta1": (-2.0, 0.1)}))
    np.testing.assert_allclose(result["mean"], TRUTH, atol=0.03)
    np.testing.assert_allclose(result["deviation"], [0.1, 0.2], rtol=0.1)
    np.testing.assert_allclose(result["high"] - result["low"], [0.2, 0.4], rtol=0.15)
    assert abs(result["published_pull"].values[1]) < 0.2


def test_a_single_chain_does_not_know_its_spread():
    result = analysis.estimate(make_run(make_theta(n_chains=1)))
    assert result["deviation"].isnull().all()
    assert result["mean"].notnull().all()


def test_the_description_answers_the_questions_of_a_new_reader():
    text = analysis.describe(make_run(make_theta(), n_steps=300))
    assert "step 300 of 1000" in text
    assert "8 independent generators" in text
    assert "5000 observed" in text


def test_distance_counts_floor_units():
    theta = np.broadcast_to(FIT["mle"] + [0.3, 0.8], (2, 3, 2))
    assert analysis.distance_to_mle(make_run(theta)) == pytest.approx(np.sqrt((3**2 + 4**2) / 2))


def test_distance_needs_a_reference():
    with pytest.raises(ValueError, match="no likelihood reference.*estimate"):
        analysis.distance_to_mle(make_run(make_theta(), reference=None))


def test_estimates_wait_for_chains():
    with pytest.raises(ValueError, match="step 300 of 1000.*convergence"):
        analysis.estimate(make_run(make_theta(), n_steps=300))


def test_chains_count_as_soon_as_they_are_written():
    run = make_run(make_theta(), n_steps=300)
    assert len(analysis.convergence(run)["step"]) == 30
    where = MemoryStore()
    make_run(make_theta(n_chains=4), where, n_steps=300)
    theta = make_theta(n_chains=2)
    RunWriter(where, 0, 0).write_chains(theta, np.ones((2, 40, 50, 2)))
    np.testing.assert_allclose(analysis.estimate(open_run(where))["mean"], theta.mean((0, 1)))


def test_convergence_ends_at_the_estimate():
    run = make_run(make_theta())
    result = analysis.convergence(run)
    assert result["theta"].dims == ("step", "parameter")
    assert result["distance_each"].dims == ("rank", "member", "step")
    assert result["distance"][0] > 10
    assert float(result["distance"][-1]) == pytest.approx(analysis.distance_to_mle(run), rel=0.01)
    assert result["distance"].attrs["units"] == "floor units"
    assert result["step"].values[-1] == 1000
    np.testing.assert_allclose(result["theta"][-1], make_theta().mean((0, 1)), atol=1e-3)


def test_convergence_has_a_mean_where_all_ranks_have_rows():
    where = MemoryStore()
    make_run(make_theta(), where, n_steps=300)
    RunWriter(where, 2).set_progress(500)
    result = analysis.convergence(open_run(where))
    assert result["step"].values[-1] == 500
    assert result["distance"].notnull().values.tolist() == [True] * 30 + [False] * 20
    assert result["distance_each"].sel(rank=2).notnull().all()


def test_histograms_have_area_one():
    run = make_run(make_theta())
    histograms = analysis.observed_and_generated(run, "energy", bins=30)
    width = histograms["high"] - histograms["low"]
    assert (histograms["observed"] * width).sum() == pytest.approx(1)
    assert (histograms["generated"] * width).sum() == pytest.approx(1, abs=2e-3)
    pull = (histograms["observed"] - histograms["generated"]) / histograms["observed_error"]
    assert abs(pull.where(histograms["observed"] > 0.01)).mean() < 1.5
    assert histograms["bin"].attrs["units"] == "MeV"


def test_histograms_by_category():
    events = np.array([[0.5, 1], [0.6, 1], [1.5, 1], [1.5, 2]])
    run = make_run(make_theta(), events=events)
    histograms = analysis.observed_and_generated(run, "energy", bins=[0, 1, 2], by="hall")
    assert histograms["observed"].dims == ("hall", "bin")
    assert histograms["hall"].values.tolist() == [1, 2]
    np.testing.assert_allclose(histograms["observed"], [[2 / 3, 1 / 3], [0, 1]])
    np.testing.assert_allclose(histograms["observed_error"], [[np.sqrt(2) / 3, 1 / 3], [0, 1]])
    energy, hall = (run["posterior_predictive"][name].values for name in ("energy", "hall"))
    chosen = energy[hall == 2]
    expected = ((chosen >= 0) & (chosen < 1)).mean()
    assert histograms["generated"].sel(hall=2)[0] == pytest.approx(expected, rel=0.1)


def test_bands_do_not_contain_the_chance_of_their_events(rng):
    # Chains that generate from the same distribution differ by chance only.
    theta = make_theta(n_chains=16, n_draws=40)
    alike = analysis.observed_and_generated(make_run(theta), "energy", bins=20)
    chance = alike["generated_error"] * np.sqrt(16)
    assert (alike["generated_spread"] < chance)[2:-4].all()
    assert float((alike["generated_spread"] / chance)[2:-4].mean()) < 0.4
    where = MemoryStore()
    make_run(theta, where)
    shifted = make_events(rng, 16, 40, 50) + np.stack([0.3 * rng.normal(size=16), np.zeros(16)], -1)[:, None, None]
    for rank in range(8):
        with RunWriter(where, rank, replica=rank) as writer:
            writer.write_chains(theta[2 * rank : 2 * rank + 2], shifted[2 * rank : 2 * rank + 2])
    different = analysis.observed_and_generated(open_run(where), "energy", bins=20)
    assert float((different["generated_spread"] / chance)[2:8].mean()) > 1


def test_ratios_of_neighbours_with_few_events_are_one():
    values = analysis.observed_and_generated(make_run(make_theta()), "energy", bins=60)
    group, width = values["group"].values, (values["high"] - values["low"]).values
    observed = np.round((values["observed"] / values["observed_error"]).fillna(0).values ** 2)
    assert np.bincount(group, observed).min() >= 25 and group.max() < 59
    tail = group == group.max()
    merged = (values["observed"] * width)[tail].sum() / (values["generated"] * width)[tail].sum()
    np.testing.assert_allclose(values["ratio"][tail], merged)


def test_densities_during_training_come_from_the_snapshots():
    events = np.array([[0.5, 1], [1.5, 1], [1.5, 2]])
    run = make_run(make_theta(), events=events, n_steps=600)
    densities = analysis.densities(run, "energy", bins=[0, 1, 2], by="hall")
    assert densities["step"].values.tolist() == [200, 400, 600]
    np.testing.assert_allclose(densities["observed"], [[0.5, 0.5], [0, 1]])
    taken = run["snapshots"]["events"].sel(step=400)
    energy, hall = (taken.sel(observable=name).values for name in ("energy", "hall"))
    wanted = [np.histogram(e[h == 2], [0, 1, 2])[0] / (h == 2).sum() for e, h in zip(energy, hall, strict=True)]
    found = densities["generated"].sel(step=400, hall=2)
    np.testing.assert_allclose(found, np.mean(wanted, axis=0))


def test_evolution_separates_spread_within_and_between_chains():
    run = make_run(make_theta(), n_steps=600)
    values = analysis.evolution(run)
    assert values["quantiles"].dims == ("parameter", "step", "quantile")
    assert values["step"].values.tolist() == [200, 400, 600]
    # The vectors of a chain are 0, 1 and 2 times 1 / step away from its end.
    np.testing.assert_allclose(values["within"] * values["step"], np.sqrt(2 / 3), rtol=1e-3)
    between = run["snapshots"]["parameters"].sel(step=200).mean("set").std("chain", ddof=1)
    np.testing.assert_allclose(values["between"].sel(step=200), between, rtol=1e-5)
    with pytest.raises(ValueError, match="no snapshot yet: the first one is taken at step 200"):
        analysis.evolution(make_run(make_theta(), n_steps=100))


def test_auc_is_the_probability_of_a_higher_score():
    run = make_run(make_theta())
    # Observed events score 0 to 99; generated events score the number of their rank, 0 to 3.
    auc = analysis.discriminator(run)["auc"]
    np.testing.assert_allclose(auc, np.broadcast_to([[0.995], [0.985], [0.975], [0.965]], (4, 2)))
    assert analysis.discriminator(run)["auc_error"] == pytest.approx(np.sqrt(201 / 120_000))
    with pytest.raises(ValueError, match="No scores have been written yet: the run is at step 600 of 1000"):
        analysis.discriminator(make_run(make_theta(), n_steps=600))


def test_chance_gives_an_auc_of_one_half(rng):
    where = MemoryStore()
    make_run(make_theta(n_chains=100), where)
    for rank in range(50):
        RunWriter(where, rank).write_scores(observed=rng.normal(size=(2, 100)), generated=rng.normal(size=(2, 100)))
    values = analysis.discriminator(open_run(where))
    assert values["auc"].mean() == pytest.approx(0.5, abs=4 * float(values["auc_error"]) / 10)
    assert values["auc"].std() == pytest.approx(float(values["auc_error"]), rel=0.3)


def test_estimates_of_derived_quantities():
    run = make_run(make_theta())
    chains = run["posterior"].to_dataset().assign(ratio=lambda ds: ds.theta0 / ds.theta1)
    found = analysis.estimate_of(chains)
    for name in ("mean", "deviation", "low", "high"):
        np.testing.assert_array_equal(found[name].sel(parameter=["theta0", "theta1"]), analysis.estimate(run)[name])
    ratios = chains["ratio"].values.mean(1)
    np.testing.assert_allclose(found.sel(parameter="ratio")["deviation"], ratios.std(ddof=1))
    with pytest.raises(
        ValueError, match="No variable has exactly the dimensions chain and draw; the dimensions are rank"
    ):
        analysis.estimate_of(run["history"].to_dataset())


def test_histograms_refuse_what_makes_no_sense():
    run = make_run(make_theta())
    with pytest.raises(ValueError, match="no observable 'charge'. Allowed: energy, hall"):
        analysis.observed_and_generated(run, "charge")
    with pytest.raises(ValueError, match="by='energy' has 5000 values: should be categorical"):
        analysis.observed_and_generated(run, "hall", by="energy")


def test_residuals_are_estimate_minus_reference():
    theta = np.array([[[0.8, -1.5]], [[1.4, -2.1]]])
    run = make_run(theta, truth=TRUTH, published={"theta0": (0.9, 0.4)})
    values = analysis.residuals(run)
    assert values["difference"].dims == ("reference", "parameter")
    np.testing.assert_allclose(values["difference"].sel(reference="truth"), [0.1, 0.2])
    np.testing.assert_allclose(values["floor_units"].sel(reference="mle"), [0, 1.5], atol=1e-9)
    np.testing.assert_allclose(values["pull"].sel(reference="mle"), [0, 1.5], atol=1e-9)
    deviation = 0.6 / np.sqrt(2)
    np.testing.assert_allclose(values["pull"].sel(reference="truth"), [0.1 / deviation, 0.2 / deviation])
    np.testing.assert_allclose(values["pull"].sel(reference="published"), [0.2 / np.hypot(deviation, 0.4), np.nan])


def make_many(n_runs=20, n_parameters=10, n_chains=5):
    """Runs whose estimates scatter around the truth as their chains do around the estimates."""
    rng, runs, truth = np.random.default_rng(6), [], np.arange(n_parameters, dtype=float)
    for _ in range(n_runs):
        centre = rng.normal(truth, 0.1)
        theta = rng.normal(centre, 0.1, (n_chains, 1, n_parameters))
        theta += centre - theta.mean(0)
        options = {"truth": tuple(truth), "events": np.ones((2, 2)), "reference": None}
        runs.append(make_run(theta, n_replicas=1, **options))
    return open_runs(runs, along="seed", labels=range(n_runs))


def test_coverage_is_what_the_intervals_promise():
    result = analysis.coverage(make_many())
    assert result["coverage"].dims == ("level", "parameter")
    error = np.sqrt([0.68 * 0.32 / 200, 0.95 * 0.05 / 200])
    assert (abs(result["pooled"] - result["level"]) < 3 * error).all()


def test_coverage_needs_a_truth():
    with pytest.raises(ValueError, match="no run has both a known truth and several chains"):
        analysis.coverage(make_run(make_theta()))
    with pytest.raises(ValueError, match="several chains"):
        analysis.coverage(make_run(make_theta(n_chains=1), truth=TRUTH))


def test_a_run_that_had_not_converged_is_reported(tmp_path):
    run = make_run(make_theta(), tmp_path / "a.zarr", reference=fit_at(make_theta()))
    assert analysis.warnings_of(run) == []
    with RunWriter(tmp_path / "a.zarr", 0) as writer:
        writer.write_rows(99, {"theta": run["history"]["theta"][0, :, 99:].values + np.array([0.0, 8.0])})
    [sentence] = analysis.warnings_of(open_run(tmp_path / "a.zarr"))
    assert re.match(r"In the second half of the run .* more than a standard deviation: theta1 \(\d+\.\d\)\.", sentence)
    assert html.escape(sentence, quote=False) in html_report(open_run(tmp_path / "a.zarr"))


def make_timed(waited, elapsed, staleness=None, n_members=1):
    """A run of len(waited) ranks with these rows (rank, row), one every 10 steps."""
    where = MemoryStore()
    n_ranks, n_rows = np.shape(waited)
    theta = np.zeros((n_ranks, 1, 2))
    layout = {"n_ranks": n_ranks, "n_replicas": n_ranks, "n_members": n_members, "n_steps": 10 * n_rows}
    layout = RunLayout(**layout, record_every=10, rows_per_block=5, n_draws=1, n_predictive=1)
    options = {"spec": {"settings": {"n_events": 64}}, "events": np.ones((2, 2))}
    create_run(where, make_problem(theta.shape[-1]), layout, **options)
    for rank in range(n_ranks):
        n = int(np.isfinite(elapsed[rank]).sum())
        rows = {"waited_s": np.array(waited[rank][:n]), "elapsed_s": np.array(elapsed[rank][:n])}
        rows |= {"staleness": np.array((staleness or waited)[rank][:n])}
        with RunWriter(where, rank) as writer:
            writer.write_rows(0, rows)
            writer.set_progress(10 * n)
    return open_run(where)


def test_the_timeline_shows_when_each_rank_waited():
    times = analysis.timeline(make_timed([[0, 4, 0, 0], [1, 1, 1, np.nan]], [[1, 5, 9, 10], [2, 4, 6, np.nan]]), 10)
    np.testing.assert_allclose(times["time"], np.arange(10) + 0.5)
    np.testing.assert_allclose(times["waiting"][0], [0, 1, 1, 1, 1, 0, 0, 0, 0, 0], atol=1e-9)
    np.testing.assert_allclose(times["waiting"][1], [0.5] * 6 + [np.nan] * 4)
    assert times["waited_s"].values.tolist() == [4, 3] and times["compute_s"].values.tolist() == [6, 3]


def test_timelines_of_several_runs_may_include_one_without_rows():
    begun, new = make_timed([[0, 4]], [[1, 5]]), make_timed([[np.nan] * 2], [[np.nan] * 2])
    times = analysis.timeline(open_runs([begun, new], labels=["begun", "new"]), 10)
    assert times["waited_s"].sel(run="begun").item() == 4
    assert times["waiting"].sel(run="new").isnull().all()


def test_the_pace_is_that_of_the_slowest_rank():
    values = analysis.pace(make_timed([[0, 4, 0, 0], [1, 1, 1, 1]], [[1, 5, 9, 10], [2, 4, 6, 8]], n_members=3))
    assert float(values["duration"]) == 10 and int(values["ranks"]) == 2
    assert float(values["step_rate"]) == 4 and float(values["event_rate"]) == 4 * 2 * 3 * 64
    assert float(values["waiting"]) == pytest.approx(8 / 18)
    slow_start = make_timed([[3, 1, 0, 0]], [[7, 9, 10, 11]])
    values = analysis.pace(slow_start, after=19)  # from the row of step 10 to that of step 40
    assert float(values["duration"]) == 4 and float(values["step_rate"]) == 30 / 4
    assert float(values["waiting"]) == 1 / 4
    assert analysis.pace(slow_start, after=40)["step_rate"].isnull()
    assert analysis.pace(make_run(make_theta(), n_steps=0))["step_rate"].isnull()


def test_staleness_is_summarised_over_the_ranks():
    ages = [[0, 2, 4], [0, 4, 8]]
    values = analysis.staleness(make_timed([[0.0] * 3] * 2, [[1.0, 2, 3]] * 2, ages))
    assert [values[name].values.tolist() for name in ("mean", "low", "high")] == [[0, 3, 6], [0, 2, 4], [0, 4, 8]]


@pytest.mark.parametrize(("n_rows", "steps"), [(None, 100), (40, 34), (7, 7)])
def test_long_histories_are_thinned_up_to_the_last_row(n_rows, steps):
    result = analysis.convergence(make_run(make_theta()), n_rows)
    assert len(result["step"]) == steps and result["step"].values[-1] == 1000


def test_several_runs_are_analysed_along_their_dimension():
    runs = [make_run(make_theta(n_chains), mode=mode) for n_chains, mode in [(4, "Ring()"), (8, "Independent()")]]
    both = open_runs(runs, along="mode")
    estimates = analysis.estimate(both)
    assert estimates["mean"].dims == ("mode", "parameter")
    np.testing.assert_array_equal(estimates["mean"].sel(mode="Ring()"), analysis.estimate(runs[0])["mean"])
    assert analysis.convergence(both)["distance_each"].sizes == {"mode": 2, "rank": 4, "member": 2, "step": 100}
    np.testing.assert_allclose(analysis.distance_to_mle(both), [analysis.distance_to_mle(run) for run in runs])
    assert analysis.summary(both).index.names == ["mode", "parameter"]
    assert analysis.describe(both).count("2 members each") == 2
    with pytest.raises(ValueError, match=r"mode = b: No chain has been written"):
        analysis.estimate(open_runs([runs[0], make_run(make_theta(), n_steps=30)], "mode", ["a", "b"]))


# Further arguments of each function of a run
OTHERS = {"fact": ["seed"], "written": ["posterior"], "observed_and_generated": ["energy"], "densities": ["energy"]}
OTHERS["plane"] = ["energy", "hall"]
OF_RUNS = sorted(
    name
    for name in analysis.__all__
    if not inspect.ismodule(getattr(analysis, name)) and "run" in inspect.signature(getattr(analysis, name)).parameters
)


@pytest.fixture(scope="module")
def several():
    """Three runs that differ in every respect: one has fewer chains, and one has just been started."""
    options = [(4, None, "Ring()", 1), (8, None, "AllReduce()", "b"), (4, 300, "Ring()", 3)]
    return [
        make_run(
            make_theta(n_chains),
            n_steps=n_steps,
            mode=mode,
            spec={"seed": seed},
            truth=TRUTH,
            learned=LEARNED,
            shown={"image": [1, 2]},
        )
        for n_chains, n_steps, mode, seed in options
    ]


@pytest.mark.parametrize("name", OF_RUNS)
def test_functions_of_one_run_also_take_several(several, name):
    function, others = getattr(analysis, name), OTHERS.get(name, [])
    runs = open_runs(several[:2], along="attempt", labels=["a", "b"])
    if name == "spec":
        with pytest.raises(
            ValueError, match=r"spec takes a single run, and these are 2. Take one, such as runs\['a'\]"
        ):
            function(runs)
        return
    one, both = function(several[0], *others), function(runs, *others)
    if isinstance(both, xr.Dataset) and name != "coverage":
        for key in one.data_vars:
            found = both[key].sel(attempt="a", drop=True)
            xr.testing.assert_equal(one[key], found.sel(one[key].coords.to_dataset().indexes))
    elif isinstance(both, xr.DataArray):
        assert both.sel(attempt="a") == one and both.dims == ("attempt",)
    elif isinstance(both, pd.DataFrame):
        row = both.loc["a"]
        assert (row == one[row.index]).all() if isinstance(one, pd.Series) else row.equals(one)
    elif isinstance(both, str):
        assert f"attempt = a\n{one}\n\nattempt = b" in both
    elif isinstance(both, list):
        assert both == [f"attempt = {label}: {text}" for label in "ab" for text in function(runs[label])]


def test_facts_of_several_runs_keep_their_types(several):
    runs = open_runs(several, along="attempt", labels=[1, 2, 3])
    assert analysis.state(runs).values.tolist() == ["finished", "finished", "unfinished"]
    assert analysis.fact(runs, "mode").values.tolist() == ["Ring()", "AllReduce()", "Ring()"]
    assert analysis.fact(runs, "seed").values.tolist() == [1, "b", 3]
    assert analysis.fact(runs, "colour").values.tolist() == [None] * 3


def test_coverage_leaves_out_runs_without_chains(several):
    several = [make_run(make_theta(), truth=TRUTH) if run is several[1] else run for run in several]
    some = analysis.coverage(open_runs(several[::2], along="attempt", labels="ab"))
    xr.testing.assert_equal(some, analysis.coverage(several[0]))


def test_methods_are_the_functions():
    def parameters(function):
        signature = inspect.signature(function, eval_str=True)
        return list(signature.parameters.values())[1:], signature.return_annotation

    for name in OF_RUNS:
        assert parameters(getattr(RunAccessor, name)) == parameters(getattr(analysis, name)), name
    rest = set(analysis.__all__) - set(OF_RUNS) - {"calibration"}
    assert rest == {"estimate_of", "summary_of"}
    for name in rest:
        method = getattr(ChainsAccessor, name.removesuffix("_of"))
        assert parameters(method) == parameters(getattr(analysis, name)), name
    text = inspect.getdoc(RunAccessor.densities)
    assert "Parameters\n----------\nobservable : str\n" in text and "DataTree" not in text and ">>>" not in text
    assert "Parameters" not in inspect.getdoc(RunAccessor.estimate)


def test_facts_describe_a_run(tmp_path):
    spec = {"seed": 3, "events": None, "settings": {"n_events": 512, "generator_widths": [8]}}
    run = make_run(make_theta(), tmp_path / "a.zarr", spec=spec, mode="Ring()")
    names = ("seed", "n_events", "mode", "ranks", "members", "problem", "state")
    assert [analysis.fact(run, name) for name in names] == [3, 512, "Ring()", 4, 2, "SimpleNamespace", "finished"]
    assert [analysis.fact(run, name) for name in ("events", "generator_widths", "colour")] == [None] * 3
    assert analysis.state(make_run(make_theta(), n_steps=30)) == "unfinished"
    with RunWriter(tmp_path / "a.zarr", 1) as writer:
        writer.write_facts(host="nid7", device="cuda:0", library="MPICH 4.3.0")
    environment = analysis.environment(open_run(tmp_path / "a.zarr"))
    assert environment["host"] == "3 ranks: unknown, 1 rank: nid7"
    assert {"git revision", "created", "python", "zarr", *schema.of_group("environment")} <= set(environment.index)


@pytest.mark.parametrize(
    ("options", "columns"),
    [
        ({"truth": TRUTH}, ["estimate", "deviation", "truth", "mle", "floor", "distance"]),
        (
            {"published": {"theta0": (1.0, 0.1)}, "reference": None},
            ["estimate", "deviation", "published", "published_deviation"],
        ),
    ],
)
def test_summary_shows_what_is_known(options, columns):
    table = analysis.summary(make_run(make_theta(), units={"theta0": "GeV"}, **options))
    assert list(table.columns) == columns
    assert list(table.index) == ["theta0", "theta1"]
    assert "theta0 [GeV]" in repr(table) and "theta0 [GeV]" in table._repr_html_()


LAPTOP = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "mpi4py", "ipyparallel"):
            raise ImportError(f"{name} is not installed here")
sys.meta_path.insert(0, Missing())
import matplotlib
matplotlib.use("Agg")
from sagips_kit import analysis, list_runs, open_runs, plot
open_runs(sys.argv[1]).sagips.state(), list_runs(".")
from sagips_kit import open_run
from sagips_kit.report import dashboard, export, progress_line
run = open_run(sys.argv[1])
plot.overview(run)
len(run.sagips.report())
print(analysis.distance_to_mle(run), len(analysis.summary(run)))
"""


def test_a_laptop_needs_neither_torch_nor_mpi(tmp_path):
    run = make_run(make_theta(), tmp_path / "a.zarr")
    root = Path(__file__).parents[1]
    command = [sys.executable, "-W", "error", "-c", LAPTOP, str(tmp_path / "a.zarr")]
    output = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120)
    assert output.returncode == 0, output.stderr
    distance, n_parameters = output.stdout.split()
    assert float(distance) == pytest.approx(analysis.distance_to_mle(run))
    assert n_parameters == "2"


def test_chains_that_learned_from_the_same_events_have_no_standard_deviation():
    run = make_run(make_theta(), spec={"settings": {"bootstrap": False}})
    assert analysis.estimate(run)["deviation"].notnull().all()
    run["posterior"].attrs["uncertainty"] = "none: no resampling"
    values = analysis.estimate(run)
    assert values[["deviation", "low", "high", "pull"]].isnull().all().to_array().all()
    assert values["mean"].notnull().all()
    assert any("all learned from the same events (bootstrap=False)" in one for one in analysis.verdict(run).not_tested)


def test_a_run_shows_what_its_uncertainty_is_made_of():
    run = make_run(make_theta(), learned=LEARNED)
    values = run.sagips.impacts()
    np.testing.assert_allclose(values["impact"], [[0.08, 0.16], [-0.06, -0.12]])
    np.testing.assert_allclose(values["share"], [[0.64, 0.64], [0.36, 0.36]])
    assert values["part"].values.tolist() == ["events", "clock"] and values["group"].values.tolist()[1] == "priors"
    np.testing.assert_array_equal(values["pull"], [np.nan, 2.5])
    both = analysis.impacts(open_runs([run, run], labels=["a", "b"]))
    assert both["impact"].sizes == {"run": 2, "part": 2, "parameter": 2}
    with pytest.raises(ValueError, match="no fit by the learned score: an early version wrote the run"):
        analysis.impacts(make_run(make_theta()))
    run["reference"].attrs["fit"] = {**run["reference"].attrs["fit"], "contributions": []}
    with pytest.raises(ValueError, match="an earlier version, .* Fit the events again: plot.impacts"):
        analysis.impacts(run)


def test_a_run_shows_its_fit_beside_the_estimates():
    run = make_run(make_theta(within=0), learned=LEARNED, truth=TRUTH)
    values = analysis.fit(run)
    np.testing.assert_array_equal(values["fit"], LEARNED[0])
    np.testing.assert_allclose(values["deviation"], [0.1, 0.2])
    np.testing.assert_allclose(values["correlation"], [[1, 0.5], [0.5, 1]])
    assert values["p_value"].item() == pytest.approx(0.6371, abs=1e-4)
    assert values.attrs["state"] == "made" and values.attrs["information"] == {"functions": 1.0}
    estimates = analysis.estimate(run)
    np.testing.assert_allclose(estimates["to_fit"], (estimates["mean"] - LEARNED[0]) / [0.1, 0.2])
    assert analysis.distance_to_fit(run) == pytest.approx(float(np.sqrt((estimates["to_fit"] ** 2).mean())))
    residuals = analysis.residuals(run)["pull"].sel(reference="fit")
    np.testing.assert_allclose(residuals, estimates["to_fit"])
    table = analysis.summary(run)
    assert list(table.columns) == ["estimate", "deviation", "chains", "spread", "truth", "mle", "floor", "distance"]
    np.testing.assert_array_equal(table[["estimate", "chains"]].T, [LEARNED[0], estimates["mean"]])
    np.testing.assert_allclose(table[["deviation", "spread"]].T, [[0.1, 0.2], estimates["deviation"]])
    np.testing.assert_allclose(table["distance"], estimates["to_mle"])
    assert (
        "fit       theta0 = 1.05 +- 0.10, theta1 = -2.05 +- 0.20; chi-squared 7.0 / 9, p = 0.64"
        in run.sagips.describe()
    )


def test_without_a_likelihood_distances_refer_to_the_fit(tmp_path):
    run = make_run(make_theta(), tmp_path / "a.zarr", learned=LEARNED, reference=None)
    path = analysis.convergence(run)
    assert path.attrs["reference"] == "fit"
    assert path["distance"].attrs == {"long_name": "RMS distance to the fit", "units": "its deviations"}
    assert float(path["distance"][-1]) == pytest.approx(analysis.distance_to_fit(run), rel=0.01)
    np.testing.assert_allclose(analysis.summary(run)["distance"], analysis.estimate(run)["to_fit"])
    assert list_runs(tmp_path).loc["a.zarr", "distance"] == analysis.distance_to_fit(run)
    assert "RMS distance to the fit by the learned score: " in html_report(run)


def test_findings_of_the_fit_come_first():
    run = make_run(make_theta(), learned=LEARNED, findings=["There is <another> answer.", "It has not converged."])
    sentences = list(analysis.fit(run).findings)
    assert len(sentences) == 2 and analysis.warnings_of(run)[:2] == sentences
    lines = run.sagips.describe().splitlines()
    assert lines[0] == f"verdict   NOT RELIABLE (several answers): {sentences[0]}"
    assert lines[1] == f"          NOT RELIABLE (several answers): {sentences[1]}"
    page = html_report(run)
    assert page.index("There is &lt;another&gt; answer.") < page.index("<h2>Estimates</h2>")


FAILED = "The fit by the learned score failed"


@pytest.mark.parametrize(
    ("words", "line", "warnings"),
    [
        ({"state": "refused", "reason": "Too many."}, "fit       refused: Too many.", []),
        (
            {"state": "failed", "reason": "Ouch"},
            "fit       failed: Ouch",
            ["The fit by the learned score failed: Ouch"],
        ),
        ({"state": "under way"}, "fit       fitting by the learned score", []),
    ],
)
def test_a_run_says_why_it_has_no_fit(words, line, warnings):
    where = MemoryStore()
    make_run(make_theta(), where, reference=fit_at(make_theta()))
    with RunWriter(where, 0) as writer:
        # Numbers without their words, which are written last, do not count.
        writer.write_fit(words, fit=LEARNED[0])
    run = open_run(where)
    assert line in run.sagips.describe() and analysis.warnings_of(run) == warnings
    assert analysis.fit(run)["fit"].isnull().all() and analysis.estimate(run)["fit"].isnull().all()
    with pytest.raises(ValueError, match="The run has no fit by the learned score"):
        analysis.distance_to_fit(run)
    assert "chains" not in analysis.summary(run) and "\nfit  " not in make_run(make_theta()).sagips.describe()


# The verdict


def verdict_of(theta=None, *, shift=0.0, factor=1.0, n_freedom=9, goodness=7.0, findings=(), **options):
    """The verdict on chains that are some deviations from a fit, and scatter by a factor more than it expects."""
    theta = make_theta() if theta is None else theta
    fit = fit_at(theta)
    covariance = fit["covariance"] / factor**2
    learned = (fit["mle"] - shift * np.sqrt(np.diag(covariance)), covariance)
    where = MemoryStore()
    run = make_run(theta, where, **{"reference": None, "learned": learned, "findings": findings} | options)
    with RunWriter(where, 0) as writer:
        if words := run["reference"].attrs.get("fit"):
            writer.write_fit(words, fit_goodness=goodness, fit_n_freedom=n_freedom)
    return analysis.verdict(open_run(where))


def test_a_run_in_order_says_what_was_tested():
    found = verdict_of()
    assert (found.state, found.findings, found.doubts, found.not_tested) == ("no fault found", (), (), ())
    tests = "goodness of fit p = 0.64; the chains ended .* deviations from the fit; the chains scatter by 1 of its"
    assert re.match(f"NO FAULT FOUND: {tests} deviations. No test sees a misfit", found.headline)
    assert str(found) == found.headline
    assert json.loads(json.dumps(found.to_dict()))["state"] == "no fault found"


@pytest.mark.parametrize(
    ("options", "state", "kind", "text"),
    [
        ({"shift": 0.4}, "no fault found", None, ""),
        ({"shift": 0.7}, "doubtful", "not arrived", "0.7 deviations from the fit by the learned score"),
        ({"shift": 3.0}, "not reliable", "not arrived", "3 deviations .* most in theta"),
        ({"factor": 1.2}, "no fault found", None, ""),
        ({"factor": 3.0}, "doubtful", "spread", "scatter by 3 times the deviations .* they have not settled"),
        ({"factor": 0.3}, "doubtful", "spread", "scatter by 0.3 times"),
        ({"findings": ["b"]}, "not reliable", "several answers", "several answers.: b"),
        ({"n_freedom": 0}, "not tested", None, "The goodness of fit was not tested"),
        ({"learned": None}, "not tested", None, "no fit by the learned score.*: an early version wrote the run"),
        ({"learned": None, "spec": {"fit": False}}, "not tested", None, r"it was switched off \(RunSpec\(fit=Fa"),
        ({"learned": None, "n_steps": 0}, "not tested", None, "whose tests find most faults: it has not been begun"),
        ({"n_steps": 500}, "not tested", None, "tested at the end of the run; it is at step 500 of 1000"),
    ],
)
def test_the_verdict_names_the_most_basic_reason(options, state, kind, text):
    found = verdict_of(**options)
    reasons = [*found.findings, *found.doubts]
    assert found.state == state and [one.kind for one in reasons[:1]] == ([kind] if kind else [])
    assert re.search(text, found.headline) and found.headline.startswith(state.upper())


def test_chains_without_a_spread_or_without_numbers_are_no_confirmation():
    fit = {"learned": (np.array(TRUTH), np.diag([0.01, 0.04])), "reference": None}
    alone = analysis.verdict(make_run(make_theta(1), **fit))
    assert "The spread of the chains, because there is one." in " ".join(alone.not_tested)
    theta = make_theta()
    theta[3] = np.nan
    found = analysis.verdict(make_run(theta, **fit))
    assert found.findings[0].kind == "failed" and "not finite" in found.findings[0]


def test_two_fits_that_disagree_are_reported():
    theta = make_theta()
    fit = fit_at(theta)
    learned = (fit["mle"], fit["covariance"])
    wrong = fit | {"mle": fit["mle"] + 3 * fit["deviation"]}
    found = analysis.verdict(make_run(theta, reference=wrong, learned=learned))
    assert "the likelihood fit of the same events are 3.0 deviations apart" in found.findings[0]


def test_the_verdict_stands_above_the_summary_and_in_the_list(tmp_path):
    run = make_run(make_theta(), tmp_path / "a.zarr", learned=LEARNED)
    table, found = analysis.summary(run), analysis.verdict(run)
    assert repr(table).splitlines()[0] == found.headline and html.escape(found.headline) in table._repr_html_()
    assert type(table.head(1)) is pd.DataFrame
    with RunWriter(tmp_path / "a.zarr", 0) as writer:
        writer.write_verdict(found.to_dict())
    assert list_runs(tmp_path).loc["a.zarr", "verdict"] == found.state
    both = open_runs([run, run], labels=["a", "b"])
    assert [one.state for one in analysis.verdict(both).values] == [found.state] * 2


def begun(theta, began, ended, n_events, n_observed=5000):
    """The verdict on a run whose chains began and ended so many deviations from the fits of their events."""
    deviation = theta.mean(1).std(0, ddof=1)
    learned = (theta.mean((0, 1)), np.diag(deviation**2))
    where, events = MemoryStore(), make_events(np.random.default_rng(0), n_observed)
    spec = {"settings": {"n_events": n_events}}
    fits = theta.mean(1) - np.asarray(ended)[:, None] * deviation
    make_run(theta, where, reference=None, learned=learned, n_replicas=1, spec=spec, events=events)
    with RunWriter(where, 0, 0) as writer:
        writer.write_ends(theta.mean(1))
        writer.write_starts(fits, fits + np.asarray(began)[:, None] * deviation)
    return analysis.verdict(open_run(where))


@pytest.mark.parametrize(
    ("began", "ended", "n_events", "state", "text"),
    [
        ([0, 0, 0, 2], [0.1, 0.1, 0.1, 0.2], 512, "no fault found", "which began 2 deviations away, came back to 0.2"),
        ([0, 0, 0, 2], [0.1, 0.1, 0.1, 0.7], 512, "doubtful", "began 2 .* ended 0.7 .* only in part"),
        ([0, 0, 0, 2], [0.1, 0.1, 0.1, 1.7], 512, "doubtful", "ended 1.7 .* do not confirm"),
        ([0, 0, 0, 0.7], [0, 0, 0, 0.69], 512, "not reliable", "began 0.7 .* ended 0.69 .* hardly moved"),
        ([0, 0, 0, 0.7], [0, 0, 0, 0.45], 512, "doubtful", "began 0.7 .* ended 0.45 .* only in part"),
        ([0, 0, 0, 0.3], [0, 0, 0, 0.3], 512, "not tested", "the witnesses began only 0.3 deviations from it"),
        ([0, 0, 0, 4.5], [0, 0, 0, 1.1], 50, "no fault found", "which began 4.5 deviations away, came back to 1.1"),
        ([0, 0, 0, 4.5], [0, 0, 0, 3.4], 50, "doubtful", "began 4.5 .* ended 3.4 .* do not confirm"),
        ([0, 0, 0, 2], [1, 1, 1, 1.7], 512, "not reliable", "ended 1.7 .* the others left theirs"),
        (
            [0, 0, 0, 20],
            [0, 0, 0, 17],
            2,
            "not tested",
            r"learned from 0.4 times .* at least 0.5 times .* n_steps=1250",
        ),
        ([0, 0, 0, 2], [1, 1, 1, 0.1], 512, "doubtful", "began at the fits of their events left them by 1"),
        ([0, 0, 0, 0], [0, 0, 0, 0], 512, "not tested", "the witnesses began only 0 deviations"),
    ],
)
def test_only_witnesses_confirm_a_fit_at_which_chains_began(began, ended, n_events, state, text):
    found = begun(make_theta(n_chains=4), began, ended, n_events)
    assert found.state == state and re.search(text, found.headline), found.headline
