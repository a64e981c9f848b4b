"""Observed events beside generated ones, in the end and on the way."""

import numpy as np
import xarray as xr

from ..store import schema
from .base import for_each_run, quantiles, written

_N_CATEGORIES = 50


@for_each_run
def observed_and_generated(run, observable, bins=50, by=None):
    """Normalised histograms of the observed and of the generated events.

    Parameters
    ----------
    run : DataTree
    observable : str
    bins : int or ndarray (edge,)
        Number of equal bins over the observed range, or edges.
    by : str or None
        A categorical observable, such as a detector's number: one pair of histograms, each of area 1, for each value.

    Returns
    -------
    Dataset (bin) or (by, bin)
        observed, observed_error : density and its statistical error.
        generated, generated_error : mean density over the chains and its standard deviation among them (NaN for one).
        generated_quantiles (..., quantile, bin) : 2.5, 16, 50, 84 and 97.5 % of the chains have less; with fewer than
        40 chains the outermost are the chains' range.
        low, high : edges; the coordinate `bin` is the centre.

    Raises
    ------
    ValueError
        For an unknown observable, a `by` with more than 50 values, or if no chain has been written yet.
    """
    observed = run[schema.OBSERVED].to_dataset().load()
    _check_observables(observed, observable, by)
    generated = written(run, schema.PREDICTIVE)
    edges = np.histogram_bin_edges(observed[observable], bins)
    return _each_category(observed, generated, by, lambda *events: _compare(*events, observable, edges))


@for_each_run
def densities(run, observable, bins=50, by=None):
    """Densities of the generated events on the way, beside that of the observed ones.

    Parameters
    ----------
    run : DataTree
        May still be running.
    observable, bins, by
        As in `observed_and_generated`.

    Returns
    -------
    Dataset (step, bin) or (by, step, bin)
        generated_quantiles (..., step, quantile, bin) : over the chains, of all snapshots that are there.
        observed, observed_error (..., bin) : density and its statistical error.
        low, high : edges; the coordinate `bin` is the centre.

    Raises
    ------
    ValueError
        For an unknown observable, a `by` with more than 50 values, or if there is no snapshot yet.
    """
    observed = run[schema.OBSERVED].to_dataset().load()
    _check_observables(observed, observable, by)
    generated = snapshots(run)["events"].to_dataset(schema.OBSERVABLE)
    edges = np.histogram_bin_edges(observed[observable], bins)

    def one_category(observed, generated):
        # While a run goes on, some chains may have come further than others.
        at_each_step = [
            _each_chain(generated[observable].sel(step=step).dropna(schema.CHAIN, how="all"), edges)
            for step in generated[schema.STEP].values
        ]
        spread = xr.concat([quantiles(chains, schema.CHAIN) for chains in at_each_step], generated[schema.STEP])
        return _observed(observed[observable], edges).assign(generated_quantiles=spread)

    return _each_category(observed, generated, by, one_category)


def snapshots(run):
    """The snapshots that are there, in memory: Dataset (chain, step, ...).

    Raises
    ------
    ValueError
        If there is none yet.
    """
    found = run[schema.SNAPSHOTS].to_dataset().load()
    # Chains write at different times: what none of them has is left out, and chains that have nothing.
    found = found.dropna(schema.STEP, how="all", subset=["parameters"])
    found = found.dropna(schema.CHAIN, how="all", subset=["parameters"])
    if not found.sizes[schema.STEP]:
        first = int(run[schema.SNAPSHOTS][schema.STEP][0])
        raise ValueError(f"There is no snapshot yet: the first one is taken at step {first}. Open the run again then.")
    return found


def _check_observables(observed, *names):
    for name in {*names} - {None}:
        if name not in observed:
            raise ValueError(f"The run has no observable {name!r}. Allowed: {', '.join(observed)}.")


def _each_category(observed, generated, by, function):
    """What `function` makes of the events of each category, along `by`, or of all of them."""
    if by is None:
        return function(observed, generated)
    # Generated events are kept in single precision.
    values = np.unique(observed[by].astype(np.float32))
    if len(values) > _N_CATEGORIES:
        raise ValueError(f"by={by!r} has {len(values)} values: should be categorical, with {_N_CATEGORIES} at most.")
    parts = [
        function(observed.where(observed[by].astype(np.float32) == value), generated.where(generated[by] == value))
        for value in values
    ]
    return xr.concat(parts, xr.Variable((by,), values))


def _compare(observed, generated, observable, edges):
    """One pair of histograms; events that are NaN do not count."""
    chains = _each_chain(generated[observable], edges)
    spread = chains.std(schema.CHAIN, ddof=1) if len(chains) > 1 else chains[0] * np.nan
    return _observed(observed[observable], edges).assign(
        generated=chains.mean(schema.CHAIN), generated_error=spread, generated_quantiles=quantiles(chains, schema.CHAIN)
    )


def _observed(events, edges):
    density, error = _density(events.values, edges)
    coords = {
        "bin": ("bin", (edges[:-1] + edges[1:]) / 2, events.attrs),
        "low": ("bin", edges[:-1]),
        "high": ("bin", edges[1:]),
    }
    return xr.Dataset({"observed": ("bin", density), "observed_error": ("bin", error)}, coords)


def _each_chain(events, edges):
    densities = [_density(chain.values, edges)[0] for chain in events.transpose(schema.CHAIN, ...)]
    return xr.DataArray(densities, dims=(schema.CHAIN, "bin"))


def _density(events, edges):
    """Histogram of area 1 (less what lies outside the edges) and its statistical error."""
    events = events[np.isfinite(events)]
    # All events count in the area: a tail outside the edges must not raise what is inside.
    counts, _ = np.histogram(events, edges)
    area = np.diff(edges) * max(len(events), 1)
    return counts / area, np.sqrt(counts) / area
