"""What has two axes: two observables at once, and parameters that are the pixels of an image."""

import numpy as np
import xarray as xr

from .._text import allowed
from ..store import schema
from ..store.shown import Shown
from .base import for_each_run, group_of, written
from .estimates import estimate
from .events import on_the_circle

_ON_AVERAGE = 25  # observed events in a cell
_FEW = 5  # events in a cell, observed and expected together, from which a difference is shown


@for_each_run
def plane(run: xr.DataTree, x: str, y: str, bins: int | None = None) -> xr.Dataset:
    """Normalised histograms of the observed and of the generated events in two observables at once.

    Parameters
    ----------
    run : DataTree
        One run, or several of `open_runs`.
    x, y : str
        The two observables.
    bins : int or None
        Number of equal bins of each, over the range of the observed events or the interval of a periodic observable.
        None takes as many, from 8 to 40, as give a cell 25 observed events on average.

    Returns
    -------
    Dataset (bin_y, bin_x)
        observed, generated : densities, those of all chains together.
        pull : observed minus generated, in standard deviations from the numbers of events; NaN in cells that are almost
        empty.
        low_x, high_x, low_y, high_y : edges; the coordinates `bin_x` and `bin_y` are the centres.

    Raises
    ------
    ValueError
        For an unknown observable, twice the same one, or if no chain has been written yet.

    See Also
    --------
    observed_and_generated : One observable.

    Examples
    --------
    >>> from sagips_kit import analysis, open_run
    >>> values = analysis.plane(open_run("runs/proxy.zarr"), "x1", "x2", bins=10)
    >>> values["pull"].dims, values.sizes["bin_x"]
    (('bin_y', 'bin_x'), 10)
    """
    observed = group_of(run, schema.OBSERVED).load()
    for name in (x, y):
        if name not in observed:
            raise ValueError(f"The run has no observable {name!r}. {allowed(name, map(str, observed))}")
    if x == y:
        raise ValueError(f"x and y are both {x!r}: should be two observables.")
    bins = bins or int(np.clip(np.sqrt(observed.sizes[schema.EVENT] / _ON_AVERAGE), 8, 40))
    generated, edges = written(run, schema.PREDICTIVE), []
    for name in (x, y):
        observed, generated, ends = on_the_circle(observed, generated, name, bins)
        edges.append(ends)
    counts = np.stack(
        [
            np.histogram2d(sample[y].values.ravel(), sample[x].values.ravel(), edges[::-1])[0]
            for sample in (observed, generated)
        ]
    )
    n = np.array([max(1, int(sample[x].notnull().sum())) for sample in (observed, generated)])
    area = np.outer(np.diff(edges[1]), np.diff(edges[0]))
    shares = counts / n[:, None, None]
    # If both have the same density, it is best known from all events together.
    together = counts.sum(0) / n.sum()
    error = np.sqrt(together * (1 / n).sum())
    is_filled = n.min() * together >= _FEW
    pull = np.where(is_filled, shares[0] - shares[1], np.nan) / np.where(is_filled, error, 1)
    coords = {}
    for axis, name, ends in zip("xy", (x, y), edges, strict=True):
        coords[f"bin_{axis}"] = (f"bin_{axis}", (ends[:-1] + ends[1:]) / 2, observed[name].attrs)
        coords |= {f"low_{axis}": (f"bin_{axis}", ends[:-1]), f"high_{axis}": (f"bin_{axis}", ends[1:])}
    values = {"observed": shares[0] / area, "generated": shares[1] / area, "pull": pull}
    return xr.Dataset({name: (("bin_y", "bin_x"), one) for name, one in values.items()}, coords)


@for_each_run
def image(run: xr.DataTree) -> xr.Dataset:
    """The estimates of parameters that are the pixels of an image, as images.

    Parameters
    ----------
    run : DataTree
        One run, or several of `open_runs`, of a problem with `image`.

    Returns
    -------
    Dataset (row, column)
        estimate, deviation : as in `summary`: of the fit by the learned score or, without it, of the chains.
        truth : NaN where unknown.
        pull : (estimate - truth) / deviation.

    Raises
    ------
    ValueError
        If the parameters are no image, or no chain has been written yet.

    See Also
    --------
    estimate : The same for all parameters, and more.

    Examples
    --------
    >>> from sagips_kit import analysis, open_run
    >>> analysis.image(open_run("runs/proxy.zarr"))
    Traceback (most recent call last):
        ...
    ValueError: The parameters of Proxy are no image. Set `image = (rows, columns)` in the class of the problem.
    """
    shape = Shown.from_attributes(run.attrs).image
    if shape is None:
        name = run.attrs[schema.PROBLEM_KEY]
        raise ValueError(
            f"The parameters of {name} are no image. Set `image = (rows, columns)` in the class of the problem."
        )
    values = estimate(run)
    has_fit = bool(values["fit"].notnull().any())
    middle, deviation = ("fit", "fit_deviation") if has_fit else ("mean", "deviation")
    found = {"estimate": values[middle], "deviation": values[deviation], "truth": values["truth"]}
    found["pull"] = (found["estimate"] - found["truth"]) / found["deviation"]
    return xr.Dataset({name: (("row", "column"), one.values.reshape(shape)) for name, one in found.items()})
