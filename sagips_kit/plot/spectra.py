"""Observed and generated events: at the end of training, and during it."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from numpy.typing import ArrayLike, NDArray

from .. import analysis
from ..analysis.events import AUTO
from ..store import schema
from ..store.shown import Shown
from .base import ENSEMBLE, REFERENCE, SEVERAL, Style, draw_steps, drawable, edges_of, label, unit_of

_N_STEPS = 4  # densities that can be told apart in one picture
_SHADES, _LINES = ("0.72", "0.55", "0.35", ENSEMBLE), (":", "-.", "--", "-")
_IN_A_BIN, _FEWEST_BINS, _MOST_BINS = 60, 6, 15  # events of a snapshot in a bin, and numbers of bins
_LEAST = 10  # observed events of a bin whose ratio is drawn
_NOT_COVERED = "no generated events where the observed ones are"


def observed_and_generated(
    run: xr.DataTree,
    observable: str,
    bins: int | ArrayLike = 50,
    by: str | None = AUTO,
    log: bool = False,
    figure: Figure | SubFigure | None = None,
) -> NDArray[np.object_]:
    """Draw the densities of observed and generated events of one observable, and their ratio below.

    The line is the mean of the chains, the bands hold 68 % and 95 % of them; what their numbers of events would scatter
    by chance is not in the bands.  The errors of the ratios contain those of the generated events.  Neighbouring bins
    with fewer than 25 events have one ratio together.

    Parameters
    ----------
    run : DataTree
        A run that `open_run` has opened, of which some chain has been written.
    observable : str
        Name of the observable.
    bins : int or array_like (edge,)
        Number of equal bins over the range of the observed events, or the edges of the bins in units of the observable.
    by : str or None
        Name of a categorical observable, such as the number of a detector: each of its values gets a panel.  "auto"
        takes the observable whose values are the categories of the problem, if there is one; None draws all events
        together.
    log : bool
        Whether the axis of the densities is logarithmic, which shows the tails.
    figure : Figure or None
        Figure or SubFigure to draw on; None makes a new figure.

    Returns
    -------
    ndarray of Axes (2, panel)
        The densities are in the first row, their ratios to the mean of the chains in the second.  Triangles mark
        ratios beyond the axis.

    Raises
    ------
    ValueError
        If the run does not have such an observable, if `by` has more than 50 values, if no chain has been written yet,
        or if several runs are given.

    See Also
    --------
    sagips_kit.analysis.observed_and_generated : The numbers that are drawn.
    sagips_kit.plot.densities : The generated events during training.

    Examples
    --------
    >>> from sagips_kit import open_run, plot
    >>> run = open_run("runs/proxy.zarr")
    >>> axes = plot.observed_and_generated(run, "x1", bins=30)
    >>> axes.shape
    (2, 1)
    """
    analysis.single_run(run, "plot.observed_and_generated", SEVERAL)
    histograms = analysis.observed_and_generated(run, observable, bins, by)
    axes, parts = _panels(run, histograms, observable, figure)
    low, high = _ratio_limits(histograms)
    for part, (top, bottom) in zip(parts, axes.T, strict=True):
        draw_steps(top, part["generated"], part["generated_spread"], edges_of(part))
        _draw_observed(top, part)
        if part["ratio"].isnull().all():
            place = {"transform": bottom.transAxes, "ha": "center", "va": "center"}
            bottom.text(0.5, 0.5, _NOT_COVERED, fontsize="small", **place)
            continue
        draw_steps(bottom, xr.ones_like(part["ratio"]), part["ratio_spread"], edges_of(part))
        _draw_ratio(bottom, part, low, high)
    if log:
        positive = histograms["observed"].where(histograms["observed"] > 0)
        axes[0, 0].set(yscale="log", ylim=(0.5 * float(positive.min()), None))
    else:
        axes[0, 0].set_ylim(bottom=0)
    axes[1, 0].set_ylabel("observed /\ngenerated")
    axes[1, 0].set_ylim(low, high)
    _legend(axes)
    return axes


def densities(
    run: xr.DataTree,
    observable: str,
    bins: int | ArrayLike | None = None,
    by: str | None = AUTO,
    steps: Sequence[int] | None = None,
    figure: Figure | SubFigure | None = None,
) -> NDArray[np.object_]:
    """Draw the density of the generated events of one observable at several steps of training.

    Lines are means of the chains, bands hold 68 % of them; what their numbers of events would scatter by chance is not
    in the bands.  The observed events are drawn as points.

    Parameters
    ----------
    run : DataTree
        A run that `open_run` has opened; it may be unfinished.
    observable : str
        Name of the observable.
    bins : int or array_like (edge,) or None
        Number of equal bins over the range of the observed events, or the edges of the bins in units of the observable.
        None takes as many, from 6 to 15, as give a bin 60 events of a snapshot on average.
    by : str or None
        Name of a categorical observable, such as the number of a detector: each of its values gets a panel.  "auto"
        takes the observable whose values are the categories of the problem, if there is one; None draws all events
        together.
    steps : sequence of int or None
        Steps of training, four at most; the nearest snapshot to each is drawn.  None chooses three early snapshots and
        the last one.
    figure : Figure or None
        Figure or SubFigure to draw on; None makes a new figure.

    Returns
    -------
    ndarray of Axes (2, panel)
        The densities are in the first row, their ratios to the observed events in the second.

    Raises
    ------
    ValueError
        If the run does not have such an observable, if `by` has more than 50 values, if no snapshot has been written
        yet, if there are more than four steps, or if several runs are given.

    See Also
    --------
    sagips_kit.analysis.densities : The numbers that are drawn.
    sagips_kit.plot.observed_and_generated : The events at the end of training.
    sagips_kit.plot.evolution : The generated parameters during training.

    Examples
    --------
    >>> from sagips_kit import open_run, plot
    >>> run = open_run("runs/proxy.zarr")
    >>> axes = plot.densities(run, "x1", steps=[50, 200])
    >>> axes[1, 0].get_xlabel()
    '$x_1$'
    """
    analysis.single_run(run, "plot.densities", SEVERAL)
    if steps is not None and len(steps) > _N_STEPS:
        raise ValueError(f"{len(steps)} steps: should be at most {_N_STEPS}, since more cannot be told apart.")
    histograms = analysis.densities(run, observable, _bins(run, by) if bins is None else bins, by)
    if steps is None:
        n = histograms.sizes[schema.STEP]
        histograms = histograms.isel(step=np.unique(np.geomspace(1, n, _N_STEPS).round().astype(int)) - 1)
    else:
        histograms = histograms.sel(step=list(steps), method="nearest").drop_duplicates(schema.STEP)
    axes, parts = _panels(run, histograms, observable, figure)
    shown = histograms[schema.STEP].values
    for part, (top, bottom) in zip(parts, axes.T, strict=True):
        # The ratio of a few events says nothing.
        filled = part.where((part["observed"] / part["observed_error"]) ** 2 >= _LEAST)
        for k, step in enumerate(shown):
            style: Style = {"color": _SHADES[k - len(shown)], "lw": 1.6, "ls": _LINES[k - len(shown)]}
            one = part.sel(step=step)
            _draw_step(top, part, one["generated"], one["generated_spread"], style | {"label": f"step {step}"})
            middle, spread = (one[name] / filled["observed"] for name in ("generated", "generated_spread"))
            _draw_step(bottom, part, middle, spread, style)
        _draw_observed(top, part)
        _draw_observed(bottom, filled, filled["observed"])
    axes[0, 0].set_ylim(bottom=0)
    axes[1, 0].set_ylabel("generated /\nobserved")
    axes[1, 0].set_ylim(0, 2)
    _legend(axes)
    return axes


def _bins(run: xr.DataTree, by: str | None) -> int:
    """Number of bins for the densities of snapshots, which have few events in some categories."""
    events = analysis.snapshots(run)[schema.TAKEN_EVENTS].isel(step=-1)
    by = Shown.from_attributes(run.attrs).category if by == AUTO else by
    least = events.sizes[schema.CHAIN] * events.sizes[schema.EVENT]
    if by in events[schema.OBSERVABLE]:
        least = np.unique(events.sel(observable=by).values, return_counts=True)[1].min()
    return int(np.clip(least // _IN_A_BIN, _FEWEST_BINS, _MOST_BINS))


def _panels(
    run: xr.DataTree, histograms: xr.Dataset, observable: str, figure: Figure | SubFigure | None
) -> tuple[NDArray[np.object_], list[xr.Dataset]]:
    """Axes (2, panel) with labels, and the histograms of each panel."""
    by = next((str(dim) for dim in histograms["observed"].dims if dim != "bin"), None)
    parts = [histograms] if by is None else [histograms.sel({by: value}) for value in histograms[by].values]
    n = len(parts)
    width = 6.4 if n == 1 else 1 + n * float(np.clip(12 / n, 2, 3.2))
    figure = figure or plt.figure(figsize=(width, 4.8), layout="constrained")
    axes = figure.subplots(2, n, sharex=True, sharey="row", squeeze=False, height_ratios=[3, 1])
    shown = Shown.from_attributes(run.attrs)
    for part, (top, bottom) in zip(parts, axes.T, strict=True):
        bottom.set_xlabel(label(run, observable))
        if by is not None:
            value = part[by].item()
            top.set_title(drawable(shown.of_category(by, value), f"{by} = {value:g}"))
    unit = unit_of(run, observable)
    axes[0, 0].set_ylabel(f"density [1/{unit}]" if unit else "density")
    figure.align_ylabels(axes[:, 0])
    return axes, parts


def _legend(axes: NDArray[np.object_]) -> None:
    """A legend inside a single panel; above several, which are small."""
    handles, labels = axes[0, -1].get_legend_handles_labels()
    if axes.shape[1] == 1:
        axes[0, 0].legend(frameon=False, fontsize="small")
    else:
        axes[0, 0].figure.legend(handles, labels, frameon=False, fontsize="small", ncols=5, loc="outside upper center")


def _draw_observed(ax: Axes, part: xr.Dataset, unit: xr.DataArray | float = 1.0) -> None:
    values, error = part["observed"] / unit, part["observed_error"] / unit
    ax.errorbar(part["bin"], values, error, fmt=".", color=REFERENCE, lw=1, label="observed")


def _draw_ratio(ax: Axes, part: xr.Dataset, low: float, high: float) -> None:
    """Draw the ratio of each merged bin (bin,) at its centre, or a triangle where it is beyond the axis."""
    _, first = np.unique(part["group"].values, return_index=True)
    last = np.append(first[1:], part.sizes["bin"]) - 1
    starts, ends = part["low"].values[first], part["high"].values[last]
    x, width = (starts + ends) / 2, np.where(last > first, (ends - starts) / 2, 0)
    ratio, error = part["ratio"].values[first], part["ratio_error"].values[first]
    ax.errorbar(x, ratio, error, width, fmt=".", color=REFERENCE, lw=1, label="observed")
    for is_beyond, height, mark in [(ratio > high, 0.95, "^"), (ratio < low, 0.05, "v")]:
        at = x[is_beyond]
        ax.plot(at, np.full(len(at), height), mark, color=REFERENCE, ms=4, transform=ax.get_xaxis_transform())


def _draw_step(ax: Axes, part: xr.Dataset, middle: xr.DataArray, spread: xr.DataArray, style: Style) -> None:
    edges = edges_of(part)
    if spread.notnull().any():
        low, high = (middle - spread).clip(min=0).fillna(0), (middle + spread).fillna(0)
        ax.stairs(high, edges, baseline=low, fill=True, color=style["color"], alpha=0.25, lw=0)
    ax.stairs(middle, edges, baseline=None, **style)


def _ratio_limits(histograms: xr.Dataset) -> tuple[float, float]:
    """Limits that are symmetric about 1 and show every ratio with its error, except in the outermost tails."""
    generated = histograms["generated"] * (histograms["high"] - histograms["low"])
    below = generated.cumsum("bin") / generated.sum("bin")
    bulk = histograms.where((below > 0.01) & (below < 0.99) & (generated > 0))
    away = abs(bulk["ratio"] - 1) + bulk["ratio_error"]
    width = float(np.clip(np.nan_to_num(1.1 * away.max(), nan=1.0), 0.02, 1))
    return 1 - width, 1 + width
