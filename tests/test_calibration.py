"""Intervals, coverage and ranks: right for calibrated ensembles, and sensitive to the errors of others."""

import numpy as np
import pytest
import xarray as xr

from sagips_kit.analysis import calibration, estimate_of
from sagips_kit.events.resampling import balanced_resample
from sagips_kit.store import schema

COVARIANCE = np.array([[1.0, 0.6], [0.6, 4.0]])


def make_chains(rng, n_runs, n_chains, scale=1.0, bias=0.0):
    """Chains (run, chain, parameter) around estimates of the truth 0, balanced as a bootstrap's are."""
    root = np.linalg.cholesky(COVARIANCE)
    estimates = rng.normal(size=(n_runs, 1, 2)) @ root.T
    residuals = rng.normal(size=(n_runs, n_chains, 2)) @ root.T
    return estimates + bias + scale * (residuals - residuals.mean(1, keepdims=True))


def make_estimates(chains):
    dims = ("run", "parameter")
    return xr.Dataset(
        {
            "mean": (dims, chains.mean(1)),
            "deviation": (dims, chains.std(1, ddof=1)),
            "truth": (dims, np.zeros_like(chains[:, 0])),
            "n_chains": chains.shape[1],
        },
        {"parameter": ["a", "b"]},
    )


@pytest.mark.parametrize("n_chains", [2, 4, 8])
def test_intervals_of_few_chains_have_the_stated_coverage(rng, n_chains):
    table = calibration.coverage(make_estimates(make_chains(rng, 4000, n_chains)))
    for level in (0.68, 0.95):
        one = table.sel(level=level)
        assert (abs(one["coverage"] - level) < 4 * one["error"]).all()
        assert abs(one["pooled"] - level) < 4 * one["pooled_error"]


def test_errors_of_coverage_are_the_scatter_of_repetitions(rng):
    tables = [calibration.coverage(make_estimates(make_chains(rng, 40, 8))) for _ in range(200)]
    at_68 = xr.concat([table.sel(level=0.68) for table in tables], "repetition")
    assert at_68["coverage"].std("repetition").mean() == pytest.approx(float(at_68["error"][0]), rel=0.15)
    # The two parameters are correlated, so their mean is less certain than that of 80 independent numbers.
    assert at_68["pooled"].std("repetition") == pytest.approx(float(at_68["pooled_error"].mean()), rel=0.15)


@pytest.mark.parametrize(("scale", "bias", "covered"), [(0.5, 0.0, 0.37), (2.0, 0.0, 0.95), (1.0, 3.0, 0.1)])
def test_wrong_ensembles_show(rng, scale, bias, covered):
    found = make_estimates(make_chains(rng, 1000, 8, scale, bias))
    assert calibration.coverage(found)["coverage"].sel(level=0.68, parameter="a") == pytest.approx(covered, abs=0.1)
    assert calibration.ranks(found)["p_value"].max() < 1e-3


def test_ranks_of_right_ensembles_are_uniform(rng):
    found = calibration.ranks(make_estimates(make_chains(rng, 1000, 8)))
    assert found["rank"].dims == ("run", "parameter")
    assert found["p_value"].min() > 0.01
    np.testing.assert_allclose(
        found["rank"].quantile([0.1, 0.5, 0.9], "run"), np.full((2, 3), [0.1, 0.5, 0.9]).T, atol=0.04
    )


def test_relative_covariance_is_the_unit_matrix_for_what_is_expected(rng):
    chains = make_chains(rng, 2000, 8)
    expected = np.broadcast_to(COVARIANCE, (2000, 2, 2))
    np.testing.assert_allclose(calibration.relative_covariance(chains, expected), np.eye(2), atol=0.05)
    np.testing.assert_allclose(calibration.relative_covariance(chains, 4 * expected), np.eye(2) / 4, atol=0.02)


def test_a_single_chain_has_no_interval():
    assert np.isnan(calibration.half_width(np.nan, 1, 0.68))


def test_no_truth_is_an_error(rng):
    found = make_estimates(make_chains(rng, 3, 2))
    with pytest.raises(ValueError, match="truth of some runs is unknown"):
        calibration.coverage(found.assign(truth=found["truth"] * np.nan))


def test_runs_are_collected(rng):
    found = make_estimates(make_chains(rng, 5, 4)).assign(other=1.0)
    collected = calibration.collect(found.isel(run=k) for k in range(5))
    assert "other" not in collected
    xr.testing.assert_allclose(calibration.coverage(collected), calibration.coverage(found))


def test_means_of_balanced_resamples_vary_as_the_bootstrap_says(rng):
    """The chains' deviation needs no correction: the negative correlation of resamples of one block cancels."""
    x = rng.normal(size=2000)
    variances = []
    for seed in range(200):
        means = [np.average(x, weights=balanced_resample(len(x), chain, 8, seed)) for chain in range(8)]
        variances.append(np.var(means, ddof=1))
    assert np.mean(variances) == pytest.approx(x.var() / len(x), rel=0.1)


@pytest.mark.parametrize(("n_chains", "n_kept"), [(8, 8), (8, 6), (33, 33), (33, 24)])
def test_the_spread_of_many_chains_is_that_of_the_bootstrap(rng, n_chains, n_kept):
    """Also if some of them, the witnesses, do not count."""
    x, n_seeds, means = rng.normal(size=400), 300, {}
    for seed in range(n_seeds):
        copies = (balanced_resample(len(x), chain, n_chains, seed) for chain in range(n_kept))
        means[f"x{seed}"] = (("chain", "draw"), [[np.average(x, weights=each)] for each in copies])
    chains = xr.Dataset(means, {"chain": range(n_kept)}, {schema.RESAMPLED_KEY: n_chains})
    variance = (estimate_of(chains)["deviation"] ** 2).mean() / (x.var() / len(x))
    assert float(variance) == pytest.approx(1, abs=2 * np.sqrt(2 / (n_seeds * (n_kept - 1))))
