"""Whether uncertainties are right: intervals, and how often they contain the truth over many data sets.

Numbers in, numbers out.  How estimates are formed and read does not belong here.

Examples
--------
>>> import numpy as np
>>> import xarray as xr
>>> from sagips_kit.analysis import calibration
>>> rng, dims = np.random.default_rng(0), ("run", "parameter")
>>> chains = rng.normal(size=(500, 1, 2)) + rng.normal(size=(500, 8, 2))
>>> chains += rng.normal(size=(500, 1, 2)) - chains.mean(1, keepdims=True)
>>> estimates = xr.Dataset(
...     {"mean": (dims, chains.mean(1)), "deviation": (dims, chains.std(1, ddof=1)), "truth": 0.0, "n_chains": 8},
...     {"parameter": ["a", "b"]},
... )
>>> estimates["truth"] = xr.zeros_like(estimates["mean"])
>>> coverage = calibration.coverage(estimates)
>>> bool((abs(coverage["pooled"] - coverage["level"]) < 0.05).all())
True
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from ..store import schema
from .base import difference

RUN = "run"
LEVEL = "level"
LEVELS = (0.68, 0.95)


def half_width(deviation: Any, n_chains: Any, level: float) -> Any:
    """Half width of the central interval of a mean over few chains.

    The chains share a balanced bootstrap, so their mean has no resampling noise, and only the standard deviation among
    them is uncertain.  This gives Student's distribution with n_chains - 1 degrees of freedom.

    Parameters
    ----------
    deviation : float, ndarray or DataArray
        Standard deviation among the chains.
    n_chains : int, ndarray or DataArray
        Number of chains.
    level : float
        Probability inside the interval.

    Returns
    -------
    float, ndarray or DataArray
        In the units of `deviation`; NaN for a single chain.

    Examples
    --------
    >>> from sagips_kit.analysis import calibration
    >>> round(float(calibration.half_width(1.0, 2, 0.68)), 3)
    1.819
    """
    from scipy.special import stdtrit  # takes a third of a second to import

    return xr.apply_ufunc(lambda n: stdtrit(n - 1, 0.5 + level / 2), n_chains) * deviation


def collect(estimates: Iterable[xr.Dataset]) -> xr.Dataset:
    """The estimates of many runs in one Dataset, for `coverage` and `ranks`.

    Parameters
    ----------
    estimates : iterable of Dataset (parameter)
        What `analysis.estimate` returns for runs with a known truth; mean, deviation, truth, n_chains and period are
        used.

    Returns
    -------
    Dataset (run, parameter)
        The variables mean, deviation, truth, n_chains and period.

    Examples
    --------
    >>> from sagips_kit import analysis, open_run
    >>> values = analysis.estimate(open_run("runs/proxy.zarr"))
    >>> analysis.calibration.collect([values, values]).sizes["run"]
    2
    """
    names = ["mean", "deviation", "truth", "n_chains", "circle"]
    return xr.concat([estimate[[name for name in names if name in estimate]] for estimate in estimates], RUN)


def coverage(estimates: xr.Dataset, levels: Sequence[float] = LEVELS) -> xr.Dataset:
    """How often intervals contain the truth.

    Parameters
    ----------
    estimates : Dataset (run, parameter)
        With mean, deviation, truth, n_chains and, for periodic parameters, period.
    levels : sequence of float
        Probabilities of the central intervals.

    Returns
    -------
    Dataset (level)
        coverage (level, parameter) : fraction of the runs whose interval contains the truth.
        error (level,) : binomial standard deviation of that fraction, if the level is right.
        pooled (level,) : mean over the parameters.
        pooled_error (level,) : standard deviation of `pooled`, from the scatter of the runs, since the parameters of
        one run are not independent; NaN for one run.

    Raises
    ------
    ValueError
        If the truth of some run is unknown.

    See Also
    --------
    ranks : A finer test of the same.

    Examples
    --------
    >>> from sagips_kit import analysis, open_run
    >>> values = analysis.calibration.collect([analysis.estimate(open_run("runs/proxy.zarr"))])
    >>> analysis.calibration.coverage(values, levels=[0.9])["coverage"].shape
    (1, 6)
    """
    _require_truth(estimates)
    n_runs = estimates.sizes[RUN]
    offset = np.abs(_beyond(estimates))
    along = xr.DataArray(list(levels), dims=LEVEL, coords={LEVEL: list(levels)})
    is_inside = xr.concat(
        [offset <= half_width(estimates["deviation"], estimates["n_chains"], level) for level in along.values], along
    )
    of_a_run = is_inside.mean(schema.PARAMETER)
    return xr.Dataset(
        {
            "coverage": is_inside.mean(RUN),
            "error": np.sqrt(along * (1 - along) / n_runs),
            "pooled": of_a_run.mean(RUN),
            "pooled_error": of_a_run.std(RUN, ddof=1) / np.sqrt(n_runs) if n_runs > 1 else np.nan * along,
        }
    )


def ranks(estimates: xr.Dataset) -> xr.Dataset:
    """Simulation-based calibration: where in its posterior the truth of each run is, from 0 to 1.

    The posterior is Student's distribution around the mean.  Ranks among the chains themselves would not be uniform,
    because the chains of a balanced bootstrap are negatively correlated.

    Parameters
    ----------
    estimates : Dataset (run, parameter)
        With mean, deviation, truth, n_chains and, for periodic parameters, period.

    Returns
    -------
    Dataset
        rank (run, parameter) : uniform over the runs if the uncertainties are right; too often in the middle if they
        are too large, at the ends if they are too small, on one side if the estimates are biased.
        p_value (parameter,) : of a uniform distribution, from the test of Kolmogorov and Smirnov.

    Raises
    ------
    ValueError
        If the truth of some run is unknown.

    See Also
    --------
    coverage : The same as one number for each level.

    References
    ----------
    S. Talts et al., Validating Bayesian inference algorithms with simulation-based calibration, arXiv:1804.06788

    Examples
    --------
    >>> from sagips_kit import analysis, open_run
    >>> values = analysis.calibration.collect([analysis.estimate(open_run("runs/proxy.zarr"))])
    >>> analysis.calibration.ranks(values)["rank"].dims
    ('run', 'parameter')
    """
    from scipy.special import stdtr
    from scipy.stats import kstest  # takes a second to import

    _require_truth(estimates)
    pull = _beyond(estimates) / estimates["deviation"]
    rank = xr.apply_ufunc(stdtr, estimates["n_chains"] - 1, pull)

    p_values = [kstest(rank.sel({schema.PARAMETER: name}), "uniform").pvalue for name in rank.parameter]
    return xr.Dataset({"rank": rank, "p_value": (schema.PARAMETER, p_values)})


def relative_covariance(chains: ArrayLike, covariance: ArrayLike) -> np.ndarray:
    """The covariance among chains relative to the expected one: the unit matrix if they agree.

    Parameters
    ----------
    chains : array_like (run, chain, parameter)
        Estimates of the chains.
    covariance : array_like (run, parameter, parameter)
        The expected covariance: the inverse Fisher information of each run's events.

    Returns
    -------
    ndarray (parameter, parameter)
        Mean over the runs, in the basis in which the expected covariance is the unit matrix.

    Examples
    --------
    >>> import numpy as np
    >>> from sagips_kit.analysis import calibration
    >>> chains = np.random.default_rng(0).normal(size=(2000, 8, 2))
    >>> expected = np.broadcast_to(np.eye(2), (2000, 2, 2))
    >>> calibration.relative_covariance(chains, expected).round(1) + 0.0
    array([[1., 0.],
           [0., 1.]])
    """
    chains, covariance = np.asarray(chains, dtype=float), np.asarray(covariance, dtype=float)
    residuals = chains - chains.mean(1, keepdims=True)
    white = np.linalg.solve(np.linalg.cholesky(covariance), residuals.swapaxes(1, 2))
    return (white @ white.swapaxes(1, 2)).mean(0) / (chains.shape[1] - 1)


def _beyond(estimates: xr.Dataset) -> xr.DataArray:
    """Truth minus mean, along the shorter way around for periodic parameters."""
    period = estimates.get("circle", xr.full_like(estimates["mean"], np.nan))
    return difference(estimates["truth"], estimates["mean"], period)


def _require_truth(estimates: xr.Dataset) -> None:
    if estimates["truth"].isnull().any():
        raise ValueError("The truth of some runs is unknown, so coverage is undefined for them. Leave them out.")
