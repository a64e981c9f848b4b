"""The answer and what it can be compared with: likelihood fit, truth, published values."""

import numpy as np
import xarray as xr

from ..store import schema
from . import calibration
from .base import each_run, for_each_run, rms, written

_REFERENCES = ("truth", "mle", "published")


@for_each_run
def estimate(run):
    """Estimates of the parameters beside everything they can be compared with.

    Parameters
    ----------
    run : DataTree

    Returns
    -------
    Dataset (parameter)
        mean, deviation : over the chains, each taken at the mean of its draws.  Chains learned from different
        resamples, so their deviation is the uncertainty; NaN for a single chain, which knows nothing of its own spread.
        n_chains : their number.
        low, high : central interval of 68 %, by Student's distribution since the chains are few.
        mle, floor : maximum-likelihood estimate and its standard deviation.
        truth, published, published_deviation : where known, else NaN.
        to_mle : (mean - mle) / floor.
        pull : (mean - truth) / deviation.
        published_pull : (mean - published) / deviation of the difference.

    Raises
    ------
    ValueError
        If no chain has been written yet.
    """
    reference = run[schema.REFERENCE].to_dataset().drop_dims(schema.PARAMETER_2).load()
    result = estimate_of(written(run, schema.POSTERIOR)).assign(
        mle=reference["mle"],
        floor=reference["deviation"],
        **{name: reference[name] for name in ("truth", "published", "published_deviation")},
    )
    result["to_mle"] = (result["mean"] - result["mle"]) / result["floor"]
    result["pull"] = (result["mean"] - result["truth"]) / result["deviation"]
    both = np.hypot(result["deviation"], result["published_deviation"])
    result["published_pull"] = (result["mean"] - result["published"]) / both
    # What xarray carried over describes the operands, such as the unit of one parameter.
    return result.drop_attrs().assign_attrs(
        {schema.UNCERTAINTY_KEY: run[schema.POSTERIOR].attrs[schema.UNCERTAINTY_KEY]}
    )


def estimate_of(chains):
    """Estimates of whatever is a variable of the chains: some parameters, or quantities derived from them.

    Parameters
    ----------
    chains : Dataset (chain, draw)
        The posterior of a run, or what was computed from it.

    Returns
    -------
    Dataset (parameter)
        mean, deviation, n_chains, low and high as in `estimate`.

    Raises
    ------
    ValueError
        If no variable has both dimensions.
    """
    wanted = {schema.CHAIN, schema.DRAW}
    names = [name for name, variable in chains.data_vars.items() if set(variable.dims) == wanted]
    if not names:
        raise ValueError(
            f"No variable has the dimensions chain and draw alone; there are {', '.join(map(str, chains.dims))}. Take "
            'them from a run: run["posterior"].to_dataset().'
        )
    means = chains[names].mean(schema.DRAW).to_dataarray(schema.PARAMETER)
    n_chains = means.sizes[schema.CHAIN]
    mean = means.mean(schema.CHAIN)
    deviation = means.std(schema.CHAIN, ddof=1) if n_chains > 1 else np.nan * mean
    half_width = calibration.half_width(deviation, n_chains, 0.6827)
    values = {"mean": mean, "deviation": deviation, "n_chains": n_chains}
    return xr.Dataset(values | {"low": mean - half_width, "high": mean + half_width}).drop_attrs()


@for_each_run
def distance_to_mle(run):
    """Root mean square over the parameters of (mean - mle) / floor.

    Parameters
    ----------
    run : DataTree

    Returns
    -------
    float
        In floor units: below 1 the run is closer to the maximum-likelihood estimate than the events can tell.

    Raises
    ------
    ValueError
        If the run has no likelihood reference, or no chain has been written yet.
    """
    _require_reference(run)
    return float(rms(estimate(run)["to_mle"]))


@for_each_run
def residuals(run):
    """How far the estimates are from what they can be compared with: estimate minus reference.

    Parameters
    ----------
    run : DataTree

    Returns
    -------
    Dataset (reference, parameter)
        difference : in the units of the parameters.
        floor_units : difference / floor.
        pull : difference / its deviation.  That of the estimate for the truth, that of both for published values, and
            the floor for the maximum-likelihood fit of the same events.
        Each is NaN where a reference, "truth", "mle" or "published", is not known.  Distances to the fit of the same
        events are `residuals(run)["floor_units"].sel(reference="mle")`.

    Raises
    ------
    ValueError
        If no chain has been written yet.
    """
    values = estimate(run)
    deviations = {"truth": values["deviation"], "mle": values["floor"]}
    deviations["published"] = np.hypot(values["deviation"], values["published_deviation"])
    names = xr.DataArray(list(_REFERENCES), dims="reference", name="reference")
    difference = xr.concat([values["mean"] - values[name] for name in _REFERENCES], names)
    deviation = xr.concat([deviations[name] for name in _REFERENCES], names)
    result = {"difference": difference, "floor_units": difference / values["floor"], "pull": difference / deviation}
    return xr.Dataset(result).assign_coords(reference=list(_REFERENCES)).drop_attrs()


def coverage(run, levels=calibration.LEVELS):
    """How often the intervals of the estimates hold the truth.

    Parameters
    ----------
    run : DataTree
        One run, or better several with observed events of their own (other seeds); those count that have finished, know
        their truth and have several chains.
    levels : sequence of float
        Probability of the central intervals, by Student's distribution since the chains are few.

    Returns
    -------
    Dataset (level, parameter)
        See `calibration.coverage`.

    Raises
    ------
    ValueError
        If no run counts.
    """
    values = [estimate(one) for one in each_run(run).values()]
    counting = [one for one in values if one["pull"].notnull().any()]
    if not counting:
        raise ValueError(
            "No truth is known, or no run has several chains, so there is no coverage. It needs a closure test: a "
            "problem with `truth`, and runs of several members or replicas."
        )
    return calibration.coverage(calibration.collect(counting), levels)


@for_each_run
def summary(run):
    """The estimates as a small table for a notebook.

    Parameters
    ----------
    run : DataTree

    Returns
    -------
    pandas.DataFrame
        One row for each parameter; columns estimate, deviation, truth, published, published_deviation, mle, floor and
        distance (to the mle, in floor units), without those that the run does not know.
    """
    names = {"mean": "estimate", "to_mle": "distance"}
    columns = ["mean", "deviation", "truth", "published", "published_deviation", "mle", "floor", "to_mle"]
    return estimate(run)[columns].to_dataframe()[columns].rename(columns=names).dropna(axis="columns", how="all")


def _require_reference(run):
    if not run[schema.REFERENCE]["mle"].notnull().any():
        raise ValueError(
            "The run has no likelihood reference, so there are no distances in floor units. estimate(run) compares it "
            "with the truth or published values."
        )
