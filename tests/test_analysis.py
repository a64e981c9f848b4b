"""Analysis: known answers on synthetic runs, without torch, MPI or ipyparallel."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_store import fill_run, make_events, make_problem
from zarr.storage import MemoryStore

from sagips_kit import analysis
from sagips_kit.schema import RunLayout
from sagips_kit.store import RunWriter, open_run
from sagips_kit.template import create_run

pytestmark = pytest.mark.filterwarnings("error")

TRUTH = (1.0, -2.0)
FIT = {"mle": np.array([1.1, -2.1]), "deviation": np.array([0.1, 0.2]), "covariance": np.diag([0.01, 0.04])}


def make_run(theta, where=None, *, n_steps=None, reference=FIT, events=None, n_replicas=None, **problem):
    """A run whose chains hold theta (chain, draw, parameter), two members on each rank unless n_replicas says more."""
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
    )
    events = make_events(rng, 5000) if events is None else events
    create_run(where, make_problem(n_parameters, **problem), layout, spec={}, events=events, reference=reference)
    fill_run(where, layout, theta, make_events(rng, n_chains, n_draws, 50), n_steps=n_steps)
    return open_run(where)


def make_theta(n_chains=8, n_draws=40, mean=TRUTH, deviation=(0.1, 0.2), within=0.1):
    """Draws whose chains' means scatter by `deviation`, and each chain by a fraction `within` of it."""
    rng = np.random.default_rng(4)
    means = rng.normal(mean, deviation, (n_chains, len(mean)))
    return means[:, None] + rng.normal(0, within * np.asarray(deviation), (n_chains, n_draws, len(mean)))


def test_the_deviation_is_that_of_the_chains():
    theta = np.array([[[0.0, 5.0], [2.0, 5.0]], [[4.0, 7.0], [6.0, 7.0]]])
    result = analysis.estimate(make_run(theta, truth=TRUTH))
    assert result["mean"].values.tolist() == [3, 6]
    # Means of the chains 1 and 5, and 5 and 7; draws within a chain do not count.
    np.testing.assert_allclose(result["deviation"], np.sqrt([8, 2]))
    # Student's distribution with one degree of freedom.
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


def test_the_description_names_what_a_stranger_asks_for():
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


def test_chains_that_are_written_count_already():
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


def test_convergence_has_a_mean_where_all_ranks_have_been():
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


def test_histograms_refuse_what_makes_no_sense():
    run = make_run(make_theta())
    with pytest.raises(ValueError, match="no observable 'charge'. Allowed: energy, hall"):
        analysis.observed_and_generated(run, "charge")
    with pytest.raises(ValueError, match="by='energy' has 5000 values: should be categorical"):
        analysis.observed_and_generated(run, "hall", by="energy")


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
    table = analysis.summary(make_run(make_theta(), **options))
    assert list(table.columns) == columns
    assert list(table.index) == ["theta0", "theta1"]


LAPTOP = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "mpi4py", "ipyparallel"):
            raise ImportError(f"{name} is not installed here")
sys.meta_path.insert(0, Missing())
import matplotlib
matplotlib.use("Agg")
from sagips_kit import analysis, plot, store
run = store.open_run(sys.argv[1])
plot.convergence(run), plot.estimates(run), plot.posterior(run), plot.events(run, "energy", by="hall")
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
