"""Observed and generated events side by side, at the end of a run and during training."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from .._text import allowed
from ..store import schema
from .base import for_each_run, group_of, inside, quantiles, spread_of_chains, witnesses_of, written

_N_CATEGORIES = 50


@for_each_run
def observed_and_generated(
    run: xr.DataTree, observable: str, bins: int | ArrayLike = 50, by: str | None = None
) -> xr.Dataset:
    """Normalised histograms of the observed and of the generated events.

    Parameters
    ----------
    run : DataTree
        One run, or several of `open_runs`.
    observable : str
        The observable to histogram.
    bins : int or ndarray (edge,)
        Number of equal bins over the observed range, or over the interval of a periodic observable; or edges.
    by : str or None
        A categorical observable, such as a detector's number: one pair of histograms, each of area 1, for each value.

    Returns
    -------
    Dataset (bin) or (by, bin)
        observed, observed_error : density and its statistical error.
        generated, generated_error : mean density over the chains and its standard deviation among them (NaN for one).
        generated_quantiles (..., quantile, bin) : 2.5, 16, 50, 84 and 97.5 % quantiles over the chains; with fewer than
        40 chains the outermost are close to the range of the chains.
        low, high : edges; the coordinate `bin` is the centre.

    Raises
    ------
    ValueError
        For an unknown observable, a `by` with more than 50 values, or if no chain has been written yet.

    See Also
    --------
    densities : The generated events during training.
    discriminator : How well a network separates the two.

    Examples
    --------
    >>> from sagips_kit import analysis, open_run
    >>> values = analysis.observed_and_generated(open_run("runs/proxy.zarr"), "x1", bins=20)
    >>> values["observed"].sizes["bin"]
    20
    >>> area = (values["observed"] * (values["high"] - values["low"])).sum()
    >>> round(float(area), 6)
    1.0
    """
    observed = group_of(run, schema.OBSERVED).load()
    _check_observables(observed, observable, by)
    observed, generated, edges = _on_the_circle(observed, written(run, schema.PREDICTIVE), observable, bins)
    return _each_category(observed, generated, by, lambda one, other: _compare(one, other, observable, edges))


@for_each_run
def densities(run: xr.DataTree, observable: str, bins: int | ArrayLike = 50, by: str | None = None) -> xr.Dataset:
    """Densities of the generated events during training, with that of the observed ones.

    Parameters
    ----------
    run : DataTree
        One run, or several of `open_runs`; they may still be running.
    observable : str
        The observable to histogram.
    bins : int or ndarray (edge,)
        Number of equal bins over the observed range, or over the interval of a periodic observable; or edges.
    by : str or None
        A categorical observable, such as a detector's number: one set of densities for each value.

    Returns
    -------
    Dataset (step, bin) or (by, step, bin)
        generated_quantiles (..., step, quantile, bin) : quantiles over the chains, for all snapshots that have been
        written.
        observed, observed_error (..., bin) : density and its statistical error.
        low, high : edges; the coordinate `bin` is the centre.

    Raises
    ------
    ValueError
        For an unknown observable, a `by` with more than 50 values, or if there is no snapshot yet.

    See Also
    --------
    observed_and_generated : The comparison at the end of the run.
    snapshots : The events themselves.

    Examples
    --------
    >>> from sagips_kit import analysis, open_run
    >>> values = analysis.densities(open_run("runs/proxy.zarr"), "x1", bins=20)
    >>> values["generated_quantiles"].sizes["bin"], int(values["step"][-1])
    (20, 200)
    """
    observed = group_of(run, schema.OBSERVED).load()
    _check_observables(observed, observable, by)
    generated = snapshots(run)[schema.TAKEN_EVENTS].to_dataset(schema.OBSERVABLE)
    observed, generated, edges = _on_the_circle(observed, generated, observable, bins)

    def one_category(observed: xr.Dataset, generated: xr.Dataset) -> xr.Dataset:
        # While a run is running, some chains may have more snapshots than others.
        at_each_step = [
            _each_chain(generated[observable].sel(step=step).dropna(schema.CHAIN, how="all"), edges)
            for step in generated[schema.STEP].values
        ]
        spread = xr.concat([quantiles(chains, schema.CHAIN) for chains in at_each_step], generated[schema.STEP])
        return _observed(observed[observable], edges).assign(generated_quantiles=spread)

    return _each_category(observed, generated, by, one_category)


@for_each_run
def snapshots(run: xr.DataTree) -> xr.Dataset:
    """The snapshots that have been written, without those of witnesses, in memory.

    Parameters
    ----------
    run : DataTree
        One run, or several of `open_runs`; they may still be running.

    Returns
    -------
    Dataset (chain, step, ...)
        parameters (chain, step, set, parameter) : parameter vectors that the generators proposed.
        events (chain, step, event, observable) : events that they generated.

    Raises
    ------
    ValueError
        If there is no snapshot yet.

    See Also
    --------
    evolution : Spread of the parameter vectors.
    densities : Densities of the events.

    Examples
    --------
    >>> from sagips_kit import analysis, open_run
    >>> analysis.snapshots(open_run("runs/proxy.zarr"))["parameters"].dims
    ('chain', 'step', 'set', 'parameter')
    """
    found = group_of(run, schema.SNAPSHOTS).load().isel({schema.CHAIN: ~witnesses_of(run)})
    # Chains write at different times: steps that no chain has written are dropped, and chains that have written none.
    found = found.dropna(schema.STEP, how="all", subset=[schema.TAKEN_PARAMETERS])
    found = found.dropna(schema.CHAIN, how="all", subset=[schema.TAKEN_PARAMETERS])
    if not found.sizes[schema.STEP]:
        first = int(group_of(run, schema.SNAPSHOTS)[schema.STEP][0])
        raise ValueError(f"There is no snapshot yet: the first one is taken at step {first}. Open the run again then.")
    return found


def _check_observables(observed: xr.Dataset, *names: str | None) -> None:
    for name in {*names} - {None}:
        if name not in observed:
            raise ValueError(f"The run has no observable {name!r}. {allowed(name, map(str, observed))}")


def _on_the_circle(
    observed: xr.Dataset, generated: xr.Dataset, observable: str, bins: int | ArrayLike
) -> tuple[xr.Dataset, xr.Dataset, np.ndarray]:
    """The events with a periodic observable inside its interval, and the edges of its bins."""
    interval = schema.intervals_of(observed.attrs).get(observable)
    if interval is None:
        return observed, generated, np.histogram_bin_edges(observed[observable], bins)
    low, high = interval
    observed, generated = (
        events.assign({observable: inside(events[observable], xr.DataArray(low), xr.DataArray(high - low))})
        for events in (observed, generated)
    )
    return observed, generated, np.histogram_bin_edges([], bins, (low, high))


def _each_category(
    observed: xr.Dataset,
    generated: xr.Dataset,
    by: str | None,
    function: Callable[[xr.Dataset, xr.Dataset], xr.Dataset],
) -> xr.Dataset:
    """What `function` returns for the events of each category, along `by`, or for all events."""
    if by is None:
        return function(observed, generated)
    # Generated events are stored in single precision.
    values = np.unique(observed[by].astype(np.float32))
    if len(values) > _N_CATEGORIES:
        raise ValueError(f"by={by!r} has {len(values)} values: should be categorical, with {_N_CATEGORIES} at most.")
    parts = [
        function(observed.where(observed[by].astype(np.float32) == value), generated.where(generated[by] == value))
        for value in values
    ]
    return xr.concat(parts, xr.Variable((by,), values))


def _compare(observed: xr.Dataset, generated: xr.Dataset, observable: str, edges: np.ndarray) -> xr.Dataset:
    """One pair of histograms; events that are NaN do not count."""
    chains = _each_chain(generated[observable], edges)
    spread = spread_of_chains(chains, generated.attrs)
    return _observed(observed[observable], edges).assign(
        generated=chains.mean(schema.CHAIN), generated_error=spread, generated_quantiles=quantiles(chains, schema.CHAIN)
    )


def _observed(events: xr.DataArray, edges: np.ndarray) -> xr.Dataset:
    density, error = _density(events.values, edges)
    coords = {
        "bin": ("bin", (edges[:-1] + edges[1:]) / 2, events.attrs),
        "low": ("bin", edges[:-1]),
        "high": ("bin", edges[1:]),
    }
    return xr.Dataset({"observed": ("bin", density), "observed_error": ("bin", error)}, coords)


def _each_chain(events: xr.DataArray, edges: np.ndarray) -> xr.DataArray:
    densities = [_density(chain.values, edges)[0] for chain in events.transpose(schema.CHAIN, ...)]
    return xr.DataArray(densities, {schema.CHAIN: events[schema.CHAIN]}, (schema.CHAIN, "bin"))


def _density(events: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Histogram of area 1 (less the part outside the edges) and its statistical error."""
    events = events[np.isfinite(events)]
    # All events count for the area, so a tail outside the edges does not raise the density inside.
    counts, _ = np.histogram(events, edges)
    area = np.diff(edges) * max(len(events), 1)
    return counts / area, np.sqrt(counts) / area
