"""Whether uncertainties are right: intervals, and how often they hold the truth over many data sets.

Numbers in, numbers out; how estimates are formed and read does not belong here.
"""

import numpy as np
import scipy.stats
import xarray as xr

from ..store import schema

RUN = "run"
LEVEL = "level"
LEVELS = (0.68, 0.95)


def half_width(deviation, n_chains, level):
    """Half width of the central interval of a mean over few chains.

    The chains share a balanced bootstrap, so their mean carries no resampling noise and the deviation among them is the
    only thing that is known badly: Student's distribution with n_chains - 1 degrees of freedom.

    Parameters
    ----------
    deviation : array_like
        Standard deviation among the chains.
    n_chains : int or array_like
        NaN comes back for a single one.
    level : float
        Probability inside the interval.
    """
    return xr.apply_ufunc(lambda n: scipy.stats.t.ppf(0.5 + level / 2, n - 1), n_chains) * deviation


def collect(estimates):
    """The estimates of many runs in one Dataset (run, parameter), for the functions below.

    Parameters
    ----------
    estimates : iterable of Dataset (parameter)
        As `analysis.estimate` makes them, of runs with a known truth: mean, deviation, truth and n_chains are used.
    """
    names = ["mean", "deviation", "truth", "n_chains"]
    return xr.concat([estimate[names] for estimate in estimates], RUN)


def coverage(estimates, levels=LEVELS):
    """How often intervals hold the truth.

    Parameters
    ----------
    estimates : Dataset (run, parameter)
        With mean, deviation, truth and n_chains.
    levels : sequence of float

    Returns
    -------
    Dataset (level)
        coverage (level, parameter) : fraction of the runs whose interval holds the truth.
        error : its binomial standard deviation if the level is right, (level,).
        pooled (level,) : the mean over the parameters.
        pooled_error (level,) : its standard deviation over the runs; parameters of one run are not independent.
    """
    _require_truth(estimates)
    n_runs = estimates.sizes[RUN]
    offset = abs(estimates["truth"] - estimates["mean"])
    levels = xr.DataArray(list(levels), dims=LEVEL, coords={LEVEL: list(levels)})
    is_inside = xr.concat(
        [offset <= half_width(estimates["deviation"], estimates["n_chains"], level) for level in levels.values], levels
    )
    of_a_run = is_inside.mean(schema.PARAMETER)
    return xr.Dataset(
        {
            "coverage": is_inside.mean(RUN),
            "error": np.sqrt(levels * (1 - levels) / n_runs),
            "pooled": of_a_run.mean(RUN),
            "pooled_error": of_a_run.std(RUN, ddof=1) / np.sqrt(n_runs) if n_runs > 1 else np.nan * levels,
        }
    )


def ranks(estimates):
    """Simulation-based calibration: where in its posterior the truth of each run is, from 0 to 1.

    The posterior is Student's distribution around the mean.  Ranks among the chains themselves would not be uniform:
    the chains of a balanced bootstrap keep away from each other.

    Parameters
    ----------
    estimates : Dataset (run, parameter)

    Returns
    -------
    Dataset
        rank (run, parameter) : uniform over the runs if the uncertainties are right; in the middle too often if they
        are too large, at the ends if too small, on one side for a bias.
        p_value (parameter,) : of the uniform distribution, by the test of Kolmogorov and Smirnov.
    """
    _require_truth(estimates)
    pull = (estimates["truth"] - estimates["mean"]) / estimates["deviation"]
    rank = xr.apply_ufunc(scipy.stats.t.cdf, pull, estimates["n_chains"] - 1)
    p_values = [scipy.stats.kstest(rank.sel({schema.PARAMETER: name}), "uniform").pvalue for name in rank.parameter]
    return xr.Dataset({"rank": rank, "p_value": (schema.PARAMETER, p_values)})


def relative_covariance(chains, covariance):
    """The covariance among chains in units of the one they should have: the unit matrix, if they have it.

    Parameters
    ----------
    chains : array_like (run, chain, parameter)
    covariance : array_like (run, parameter, parameter)
        The inverse Fisher information of each run's events.

    Returns
    -------
    ndarray (parameter, parameter)
        Mean over the runs, along the axes of the expected covariance.
    """
    chains, covariance = np.asarray(chains, dtype=float), np.asarray(covariance, dtype=float)
    residuals = chains - chains.mean(1, keepdims=True)
    white = np.linalg.solve(np.linalg.cholesky(covariance), residuals.swapaxes(1, 2))
    return (white @ white.swapaxes(1, 2)).mean(0) / (chains.shape[1] - 1)


def _require_truth(estimates):
    if estimates["truth"].isnull().any():
        raise ValueError("Some runs have no truth, so nobody knows whether their intervals hold it. Leave them out.")
