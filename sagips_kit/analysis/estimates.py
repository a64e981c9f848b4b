"""The estimates and what they can be compared with: the two fits of a run, truth, published values."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr

from .. import _circular
from ..store import schema
from ..store.shown import Shown
from . import calibration
from .base import (
    circles_of,
    difference,
    each_run,
    for_each_run,
    gathered_chains,
    group_of,
    inside,
    rms,
    spread_of_chains,
    written,
)
from .fits import fit, fit_words, require_fit

_REFERENCES = (schema.TRUTH, schema.MLE, schema.FIT, schema.PUBLISHED)
_COLUMNS = {"mean": "estimate", "deviation": "deviation", "low": "low", "high": "high"}


@for_each_run
def estimate(run: xr.DataTree) -> xr.Dataset:
    """Estimates of the parameters, with everything that they can be compared with.

    The estimate is the mean over the chains, each represented by the mean of its draws.  Chains learned from different
    resamples of the events, so the deviation among them is the uncertainty.  Means and differences of periodic
    parameters are those on the circle.  Witnesses, which began away from the fit of the run, do not count.

    Parameters
    ----------
    run : DataTree
        One run, or several of `open_runs`.

    Returns
    -------
    Dataset (parameter)
        mean, deviation : mean and standard deviation over the chains; the deviation is NaN of a single chain, and of
        chains that learned from the same events (`Settings(bootstrap=False)`).
        n_chains : number of chains.
        low, high : central interval of 68 %, from Student's distribution since there are few chains.  Of a periodic
        parameter it surrounds the mean, so an end may be outside of the range.
        circle : period of periodic parameters, NaN for others.
        mle, floor : maximum-likelihood estimate and its standard deviation.
        fit, fit_deviation : estimate of the fit by the learned score, and its standard deviation.
        truth, published, published_deviation, prior, prior_deviation : NaN where unknown.
        to_mle : (mean - mle) / floor.
        to_fit : (mean - fit) / fit_deviation.
        pull : (mean - truth) / deviation.
        published_pull : (fit - published) / standard deviation of the difference, with the mean of the chains where
        there is no fit.  The difference is taken to be that of independent results; if both use the same events, its
        standard deviation is smaller.

    Raises
    ------
    ValueError
        If no chain has been written yet.

    See Also
    --------
    summary : The same as a small table.
    residuals : Estimate minus reference, for all references at once.
    estimate_of : Estimates of derived quantities.

    Examples
    --------
    >>> from sagips_kit import analysis, open_run
    >>> run = open_run("runs/proxy.zarr")
    >>> values = analysis.estimate(run)
    >>> values["mean"].dims, int(values["n_chains"])
    (('parameter',), 2)
    >>> bool((values["low"] < values["high"]).all())
    True
    """
    return compared(run, estimate_of(written(run, schema.POSTERIOR)))


def compared(run: xr.DataTree, values: xr.Dataset) -> xr.Dataset:
    """Mean and deviation of each parameter with everything that they can be compared with, as of `estimate`."""
    reference = group_of(run, schema.REFERENCE).drop_dims(schema.PARAMETER_2).load()
    learned = fit(run)
    result = values.assign(
        mle=reference[schema.MLE],
        floor=reference[schema.DEVIATION],
        fit=learned["fit"],
        fit_deviation=learned["deviation"],
        truth=reference[schema.TRUTH],
        published=reference[schema.PUBLISHED],
        published_deviation=reference[schema.PUBLISHED_DEVIATION],
        circle=circles_of(run)[1],
    )
    result = result.assign(_priors_of(run))
    to = {name: difference(result["mean"], result[name], result["circle"]) for name in _REFERENCES}
    result["to_mle"] = to[schema.MLE] / result["floor"]
    result["to_fit"] = to[schema.FIT] / result["fit_deviation"]
    result["pull"] = to[schema.TRUTH] / result["deviation"]
    has_fit = result["fit"].notnull()
    answer, deviation = (
        result[one].where(has_fit, result[other]) for one, other in (("fit", "mean"), ("fit_deviation", "deviation"))
    )
    both = xr.ufuncs.hypot(deviation, result["published_deviation"])
    result["published_pull"] = difference(answer, result["published"], result["circle"]) / both
    # xarray carries over attributes of the operands, such as the unit of one parameter.
    return result.drop_attrs().assign_attrs(
        {schema.UNCERTAINTY_KEY: group_of(run, schema.POSTERIOR).attrs[schema.UNCERTAINTY_KEY]}
    )


def estimate_of(chains: xr.Dataset) -> xr.Dataset:
    """Estimates of all variables of some chains: parameters, or quantities derived from them.

    Parameters
    ----------
    chains : Dataset (chain, draw)
        The posterior of a run, or what was computed from it.  Variables of other dimensions are ignored.  The
        attributes of a run's posterior name the periodic parameters; quantities with other names are not periodic.

    Returns
    -------
    Dataset (parameter)
        mean, deviation : mean and standard deviation over the chains; the deviation is NaN of a single chain, and of
        chains that learned from the same events.
        n_chains : number of chains.
        low, high : central interval of 68 %, from Student's distribution since there are few chains.

    Raises
    ------
    ValueError
        If no variable has the dimensions chain and draw.

    See Also
    --------
    estimate : Estimates of a run's parameters, with references.
    summary_of : The same as a small table.

    Examples
    --------
    >>> from sagips_kit import analysis, open_run
    >>> chains = open_run("runs/proxy.zarr")["posterior"].to_dataset()
    >>> chains = chains.assign(ratio=chains.theta0 / chains.theta3)
    >>> float(analysis.estimate_of(chains).sel(parameter="ratio")["mean"]) > 0
    True
    """
    wanted = {schema.CHAIN, schema.DRAW}
    names = [name for name, variable in chains.data_vars.items() if set(variable.dims) == wanted]
    if not names:
        raise ValueError(
            "No variable has exactly the dimensions chain and draw; the dimensions are "
            f'{", ".join(map(str, chains.dims))}. Take chains from a run: run["posterior"].to_dataset().'
        )
    low, period = (
        xr.DataArray(one, {schema.PARAMETER: names})
        for one in _circular.circles([*map(str, names)], schema.intervals_of(chains.attrs))
    )
    means = gathered_chains(chains[names]).mean(schema.DRAW).to_dataarray(schema.PARAMETER)
    n_chains = means.sizes[schema.CHAIN]
    mean = means.mean(schema.CHAIN)
    deviation = spread_of_chains(means, chains.attrs)
    half_width = calibration.half_width(deviation, n_chains, 0.6827)
    mean = inside(mean, low, period)
    values = {"mean": mean, "deviation": deviation, "n_chains": n_chains}
    return xr.Dataset(values | {"low": mean - half_width, "high": mean + half_width}).drop_attrs()


@for_each_run
def distance_to_mle(run: xr.DataTree) -> float:
    """Distance of the estimates to the maximum-likelihood estimate, in floor units.

    It is the root mean square over the parameters of (mean - mle) / floor.

    Parameters
    ----------
    run : DataTree
        One run, or several of `open_runs`.

    Returns
    -------
    float
        Below 1 the run is closer to the maximum-likelihood estimate than the events can resolve.  For several runs a
        DataArray of these.

    Raises
    ------
    ValueError
        If the run has no likelihood reference, or no chain has been written yet.

    See Also
    --------
    distance_to_fit : The distance to the fit by the learned score.
    residuals : The distance of each parameter.
    convergence : The distance during training.

    Examples
    --------
    >>> from sagips_kit import analysis, open_run
    >>> analysis.distance_to_mle(open_run("runs/proxy.zarr")) > 0
    True
    """
    _require_reference(run)
    return float(rms(estimate(run)["to_mle"]))


@for_each_run
def distance_to_fit(run: xr.DataTree) -> float:
    """Distance of the estimates to the fit by the learned score, in standard deviations of that fit.

    It is the root mean square over the parameters of (mean - fit) / fit_deviation.

    Parameters
    ----------
    run : DataTree
        One run, or several of `open_runs`.

    Returns
    -------
    float
        Below 1 the run is closer to the fit than the events can resolve.  For several runs a DataArray of these.

    Raises
    ------
    ValueError
        If the run has no such fit, or no chain has been written yet.

    See Also
    --------
    fit : The fit itself.
    distance_to_mle : The distance to the maximum-likelihood estimate.

    Examples
    --------
    >>> from sagips_kit import analysis, open_run
    >>> analysis.distance_to_fit(open_run("runs/proxy.zarr")) > 0
    True
    """
    require_fit(fit_words(run))
    return float(rms(estimate(run)["to_fit"]))


@for_each_run
def residuals(run: xr.DataTree) -> xr.Dataset:
    """Differences between the estimates and what they can be compared with: estimate minus reference.

    Parameters
    ----------
    run : DataTree
        One run, or several of `open_runs`.

    Returns
    -------
    Dataset (reference, parameter)
        difference : in the units of the parameters.
        floor_units : difference / floor.
        pull : difference / standard deviation.  The standard deviation is that of the estimate for "truth", that of the
        difference for "published", and that of the fit for "mle" and "fit", the fits of the same events.

        All are NaN where a reference is unknown.

    Raises
    ------
    ValueError
        If no chain has been written yet.

    See Also
    --------
    estimate : The estimates themselves.
    distance_to_mle : One number for all parameters.

    Examples
    --------
    >>> from sagips_kit import analysis, open_run
    >>> values = analysis.residuals(open_run("runs/proxy.zarr"))
    >>> values["reference"].values.tolist()
    ['truth', 'mle', 'fit', 'published']
    >>> values["floor_units"].sel(reference="mle").sizes["parameter"]
    6
    """
    values = estimate(run)
    deviations = {schema.TRUTH: values["deviation"], schema.MLE: values["floor"]}
    deviations[schema.FIT] = values["fit_deviation"]
    deviations[schema.PUBLISHED] = xr.ufuncs.hypot(values["deviation"], values["published_deviation"])
    names = xr.DataArray(list(_REFERENCES), dims="reference", name="reference")
    found = xr.concat([difference(values["mean"], values[name], values["circle"]) for name in _REFERENCES], names)
    deviation = xr.concat([deviations[name] for name in _REFERENCES], names)
    result = {"difference": found, "floor_units": found / values["floor"], "pull": found / deviation}
    return xr.Dataset(result).assign_coords(reference=list(_REFERENCES)).drop_attrs()


def coverage(run: xr.DataTree, levels: Sequence[float] = calibration.LEVELS) -> xr.Dataset:
    """How often the intervals of the estimates contain the truth.

    Parameters
    ----------
    run : DataTree
        One run, or better several of `open_runs` with different observed events (other seeds).  Runs count that have
        written chains, know their truth, and have several chains.
    levels : sequence of float
        Probabilities of the central intervals, which come from Student's distribution since there are few chains.

    Returns
    -------
    Dataset (level, parameter)
        coverage (level, parameter) : fraction of the runs whose interval contains the truth.
        error (level,) : binomial standard deviation of that fraction, if the level is right.
        pooled (level,) : mean over the parameters.
        pooled_error (level,) : standard deviation of `pooled`, from the scatter of the runs; NaN for one run.

    Raises
    ------
    ValueError
        If no run counts.

    See Also
    --------
    calibration : Coverage and ranks of any estimates.

    Examples
    --------
    >>> from sagips_kit import analysis, open_run
    >>> analysis.coverage(open_run("runs/proxy.zarr"))["coverage"].sizes
    Frozen({'level': 2, 'parameter': 6})
    """
    values = [estimate(one) for one in each_run(run).values() if _has_chains(one)]
    counting = [one for one in values if one["pull"].notnull().any()]
    if not counting:
        raise ValueError(
            "There is no coverage, because no run has both a known truth and several chains. It needs closure tests: "
            "finished runs of a problem with `truth`, with several members or replicas."
        )
    return calibration.coverage(calibration.collect(counting), levels)


def summary_of(chains: xr.Dataset) -> pd.DataFrame:
    """The estimates of all variables of some chains as a small table.

    Parameters
    ----------
    chains : Dataset (chain, draw)
        The posterior of a run, or what was computed from it.  Variables of other dimensions are ignored.

    Returns
    -------
    pandas.DataFrame
        One row for each variable; the columns are estimate, deviation, and the ends low and high of the central
        interval of 68 %.

    Raises
    ------
    ValueError
        If no variable has the dimensions chain and draw.

    See Also
    --------
    estimate_of : The same as a Dataset.
    summary : The estimates of a run, with references.

    Examples
    --------
    >>> from sagips_kit import analysis, open_run
    >>> chains = open_run("runs/proxy.zarr")["posterior"].to_dataset()
    >>> list(analysis.summary_of(chains[["theta0"]]).columns)
    ['estimate', 'deviation', 'low', 'high']
    """
    columns = list(_COLUMNS)
    return pd.DataFrame(estimate_of(chains)[columns].to_dataframe(), columns=columns).rename(columns=_COLUMNS)


def _priors_of(run: xr.DataTree) -> dict[str, xr.DataArray]:
    """Values and deviations of the priors of a run, (parameter,) each; NaN for parameters without one."""
    names, known = schema.names_of(run.attrs)[0], Shown.from_attributes(run.attrs).priors
    values = np.array([known.get(name, (np.nan, np.nan)) for name in names])
    coordinates = {schema.PARAMETER: names}
    return {
        name: xr.DataArray(values[:, k], coordinates, (schema.PARAMETER,))
        for k, name in enumerate(("prior", "prior_deviation"))
    }


def _has_chains(run: xr.DataTree) -> bool:
    return any(chains.notnull().any() for chains in group_of(run, schema.POSTERIOR).data_vars.values())


def _require_reference(run: xr.DataTree) -> None:
    if not group_of(run, schema.REFERENCE)[schema.MLE].notnull().any():
        raise ValueError(
            "The run has no likelihood reference, so there are no distances in floor units. estimate(run) compares it "
            "with the truth or published values."
        )
