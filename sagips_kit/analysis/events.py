"""Observed events beside generated ones."""

import numpy as np
import xarray as xr

from .. import schema
from .base import for_each_run, written


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
        low, high : edges; the coordinate `bin` is the centre.

    Raises
    ------
    ValueError
        For an unknown observable, a `by` with more than 50 values, or if no chain has been written yet.
    """
    observed = run[schema.OBSERVED].to_dataset().load()
    generated = written(run, schema.PREDICTIVE)
    for name in {observable, by} - {None}:
        if name not in observed:
            raise ValueError(f"The run has no observable {name!r}. Allowed: {', '.join(observed)}.")
    edges = np.histogram_bin_edges(observed[observable], bins)
    if by is None:
        return _compare(observed, generated, observable, edges)
    # Generated events are kept in single precision.
    values = np.unique(observed[by].astype(np.float32))
    if len(values) > 50:
        raise ValueError(f"by={by!r} has {len(values)} values: should be categorical, with 50 at most.")
    parts = [
        _compare(
            observed.where(observed[by].astype(np.float32) == value),
            generated.where(generated[by] == value),
            observable,
            edges,
        )
        for value in values
    ]
    return xr.concat(parts, xr.Variable((by,), values))


def _compare(observed, generated, observable, edges):
    """One pair of histograms; events that are NaN do not count."""
    density, error = _density(observed[observable].values, edges)
    chains = [_density(chain.values, edges)[0] for chain in generated[observable]]
    spread = np.std(chains, axis=0, ddof=1) if len(chains) > 1 else np.full(density.shape, np.nan)
    columns = {
        "observed": density,
        "observed_error": error,
        "generated": np.mean(chains, axis=0),
        "generated_error": spread,
    }
    edge_columns = {"low": edges[:-1], "high": edges[1:]}
    centre = (edges[:-1] + edges[1:]) / 2
    attributes = observed[observable].attrs
    return xr.Dataset(
        {name: ("bin", column) for name, column in columns.items()},
        {"bin": ("bin", centre, attributes), **{name: ("bin", column) for name, column in edge_columns.items()}},
    )


def _density(events, edges):
    """Histogram of area 1 (less what lies outside the edges) and its statistical error."""
    events = events[np.isfinite(events)]
    # All events count in the area: a tail outside the edges must not raise what is inside.
    counts, _ = np.histogram(events, edges)
    area = np.diff(edges) * max(len(events), 1)
    return counts / area, np.sqrt(counts) / area
