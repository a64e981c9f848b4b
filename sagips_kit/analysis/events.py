"""Observed and generated events side by side, at the end of a run and during training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from .._text import allowed
from ..store import schema
from ..store.shown import Shown
from .base import for_each_run, group_of, inside, spread_of_chains, witnesses_of, written

AUTO = "auto"  # divides events by the observable that is their category, if there is one
_N_CATEGORIES = 50
_LEAST = 25  # observed, and generated, events of a bin from which its ratio is drawn by itself
_N_SMOOTHED = 5  # bins over which the spread of the chains is averaged


@for_each_run
def observed_and_generated(
    run: xr.DataTree, observable: str, bins: int | ArrayLike = 50, by: str | None = AUTO
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
        "auto" takes the observable whose values are the categories of the problem, if there is one; None takes all
        events together.

    Returns
    -------
    Dataset (bin) or (by, bin)
        observed, observed_error : density and its statistical error.
        generated, generated_error : mean density over the chains and its statistical error, from the number of events.
        generated_spread : standard deviation of the densities of the chains, without that from their numbers of events
        (NaN for one chain).
        ratio, ratio_error : observed over generated density, and its statistical error, that of the generated events
        included.  Neighbouring bins are merged until they hold at least 25 observed and 25 generated events, and have
        the same numbers.
        ratio_spread : generated_spread over generated, in merged bins.
        group : number of the merged bin that a bin belongs to.
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
    by = _checked(run, observed, by, observable)
    observed, generated, edges = on_the_circle(observed, written(run, schema.PREDICTIVE), observable, bins)
    return _each_category(observed, generated, by, lambda one, other: _compare(one, other, observable, edges))


@for_each_run
def densities(run: xr.DataTree, observable: str, bins: int | ArrayLike = 50, by: str | None = AUTO) -> xr.Dataset:
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
        A categorical observable, such as a detector's number: one set of densities for each value.  "auto" takes
        the observable whose values are the categories of the problem, if there is one; None takes all events together.

    Returns
    -------
    Dataset (step, bin) or (by, step, bin)
        generated, generated_error (..., step, bin) : mean density over the chains, for all snapshots that have been
        written, and its statistical error.
        generated_spread (..., step, bin) : standard deviation of the densities of the chains, without that from their
        numbers of events (NaN for one chain).
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
    >>> values["generated"].sizes["bin"], int(values["step"][-1])
    (20, 200)
    """
    observed = group_of(run, schema.OBSERVED).load()
    by = _checked(run, observed, by, observable)
    generated = snapshots(run)[schema.TAKEN_EVENTS].to_dataset(schema.OBSERVABLE)
    observed, generated, edges = on_the_circle(observed, generated, observable, bins)

    def one_category(observed: xr.Dataset, generated: xr.Dataset) -> xr.Dataset:
        # While a run is running, some chains may have more snapshots than others.
        at_each_step = [
            _generated(generated[observable].sel(step=step).dropna(schema.CHAIN, how="all"), edges, generated.attrs)
            for step in generated[schema.STEP].values
        ]
        return xr.merge([_observed(observed[observable], edges), xr.concat(at_each_step, generated[schema.STEP])])

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


def _checked(run: xr.DataTree, observed: xr.Dataset, by: str | None, *names: str) -> str | None:
    """The observable that divides the events; ValueError if one of the names is unknown."""
    if by == AUTO and AUTO not in observed:
        by = Shown.from_attributes(run.attrs).category
        by = None if by in names else by
    for name in {*names, by} - {None}:
        if name not in observed:
            raise ValueError(f"The run has no observable {name!r}. {allowed(name, map(str, observed))}")
    return by


def on_the_circle(
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
    """One pair of histograms and their ratio; events that are NaN do not count."""
    values, attributes = generated[observable].transpose(schema.CHAIN, ...), generated.attrs
    both = _observed(observed[observable], edges).assign(_generated(values, edges, attributes))
    group = _groups(
        *(np.histogram(events.values[events.notnull()], edges)[0] for events in (observed[observable], values))
    )
    firsts = np.unique(group, return_index=True)[1]
    wide = edges[[*firsts, -1]]
    merged = _observed(observed[observable], wide).assign(_generated(values, wide, attributes))
    middle = merged["generated"].where(merged["generated"] > 0)  # an empty bin has no ratio
    ratio = merged["observed"] / middle
    noise = xr.ufuncs.hypot(merged["observed_error"] / middle, ratio * merged["generated_error"] / middle)
    found = {"ratio": ratio, "ratio_error": noise, "ratio_spread": merged["generated_spread"] / middle}
    return both.assign({name: ("bin", one.values[group]) for name, one in found.items()} | {"group": ("bin", group)})


def _groups(*counts: np.ndarray) -> np.ndarray:
    """Number of the merged bin of each bin (bin,): neighbours are merged until all counts are large enough."""
    group, held, current = [], np.zeros(len(counts)), 0
    for one in np.stack(counts, axis=1):
        group.append(current)
        held = held + one
        if (held >= _LEAST).all():
            held, current = np.zeros(len(counts)), current + 1
    # What is left at the end joins the last merged bin.
    return np.minimum(group, max(current - 1, 0))


def _observed(events: xr.DataArray, edges: np.ndarray) -> xr.Dataset:
    density, error = _density(events.values, edges)
    coords = {
        "bin": ("bin", (edges[:-1] + edges[1:]) / 2, events.attrs),
        "low": ("bin", edges[:-1]),
        "high": ("bin", edges[1:]),
    }
    return xr.Dataset({"observed": ("bin", density), "observed_error": ("bin", error)}, coords)


def _generated(events: xr.DataArray, edges: np.ndarray, attributes: Mapping[Any, Any]) -> xr.Dataset:
    """Mean density of the chains, its statistical error, and their spread without that from their numbers of events."""
    found = np.array([_density(chain.values, edges) for chain in events.transpose(schema.CHAIN, ...)])
    density, error = (
        xr.DataArray(found[:, k], {schema.CHAIN: events[schema.CHAIN].values}, (schema.CHAIN, "bin")) for k in (0, 1)
    )
    mean, by_chance = density.mean(schema.CHAIN), (error**2).mean(schema.CHAIN)
    beyond = spread_of_chains(density, attributes) ** 2 - by_chance
    # Relative to the chance of the bins, averages over neighbours do not smear the density.
    chance = by_chance.where(by_chance > 0)
    excess = (beyond / chance).rolling({"bin": _N_SMOOTHED}, center=True, min_periods=1).mean()
    spread = (excess.clip(min=0) * chance) ** 0.5
    return xr.Dataset(
        {
            "generated": mean,
            "generated_error": (by_chance / len(found)) ** 0.5,
            "generated_spread": spread.fillna(0) if len(found) > 1 else spread,
        }
    )


def _density(events: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Histogram of area 1 (less the part outside the edges) and its statistical error."""
    events = events[np.isfinite(events)]
    # All events count for the area, so a tail outside the edges does not raise the density inside.
    counts, _ = np.histogram(events, edges)
    area = np.diff(edges) * max(len(events), 1)
    return counts / area, np.sqrt(counts) / area
