"""Observed events beside generated ones, in the end and on the way."""

import matplotlib.pyplot as plt
import numpy as np

from .. import analysis
from ..store import schema
from .base import ENSEMBLE, REFERENCE, draw_bands, label, unit_of

_N_STEPS = 4  # densities that can be told apart in one picture
_SHADES, _LINES = ("0.72", "0.55", "0.35", ENSEMBLE), (":", "-.", "--", "-")


def events(run, observable, by=None, bins=50, log=False, figure=None):
    """Observed and generated events of one observable, and their ratio below.

    The bands hold 68 % and 95 % of the chains; with fewer than 40 of these the outer one is their range.

    Parameters
    ----------
    run : DataTree
    observable : str
    by : str or None
        A categorical observable: one picture for each of its values.
    bins : int or ndarray (edge,)
    log : bool
        A logarithmic axis for the densities, which shows the tails.
    figure : Figure or None

    Returns
    -------
    ndarray of Axes (2, picture)
        Densities in the first row, ratios to the median of the chains in the second; triangles stand for ratios that
        are beyond the axis.
    """
    analysis.single_run(run, "plot.events", "plot.comparison(runs)")
    histograms = analysis.observed_and_generated(run, observable, bins, by)
    axes, parts = _panels(run, histograms, observable, by, figure)
    low, high = _ratio_limits(histograms)
    for part, (top, bottom) in zip(parts, axes.T, strict=True):
        quantiles = part["generated_quantiles"]
        draw_bands(top, quantiles, "the chains", edges=_edges(part))
        _draw_observed(top, part)
        middle = quantiles.sel(quantile=0.5)
        middle = middle.where(middle > 0)  # an empty bin has no ratio
        draw_bands(bottom, quantiles / middle, "the chains", edges=_edges(part))
        _draw_observed(bottom, part, middle)
        if not middle.notnull().any():
            text = "no generated event is where the observed ones are"
            bottom.text(0.5, 0.5, text, transform=bottom.transAxes, ha="center", va="center", fontsize="small")
        ratio = part["observed"] / middle
        for is_beyond, height, mark in [(ratio > high, 0.95, "^"), (ratio < low, 0.05, "v")]:
            x = part["bin"][is_beyond]
            style = {"color": REFERENCE, "ms": 4, "transform": bottom.get_xaxis_transform()}
            bottom.plot(x, np.full(len(x), height), mark, **style)
    if log:
        positive = histograms["observed"].where(histograms["observed"] > 0)
        axes[0, 0].set(yscale="log", ylim=(0.5 * float(positive.min()), None))
    else:
        axes[0, 0].set_ylim(bottom=0)
    axes[1, 0].set_ylabel("observed /\ngenerated")
    axes[1, 0].set_ylim(low, high)
    axes[0, -1].legend(frameon=False, fontsize="small")
    return axes


def densities(run, observable, by=None, bins=25, steps=None, figure=None):
    """How the density of the generated events came to that of the observed ones.

    Parameters
    ----------
    run : DataTree
        May still be running.
    observable : str
    by : str or None
        A categorical observable: one picture for each of its values.
    bins : int or ndarray (edge,)
    steps : sequence of int or None
        Steps of the run, of each of which the nearest snapshot is shown, four at most; None takes some early ones and
        the last.
    figure : Figure or None

    Returns
    -------
    ndarray of Axes (2, picture)
        Densities in the first row, medians over the chains with 68 % of these as bands; ratios to the observed events
        in the second.

    Raises
    ------
    ValueError
        If there is no snapshot yet, or for more than four steps.
    """
    analysis.single_run(run, "plot.densities", "plot.comparison(runs)")
    histograms = analysis.densities(run, observable, bins, by)
    n = histograms.sizes[schema.STEP]
    if steps is None:
        histograms = histograms.isel(step=np.unique(np.geomspace(1, n, _N_STEPS).round().astype(int)) - 1)
    elif len(steps) > _N_STEPS:
        raise ValueError(f"{len(steps)} steps: should be {_N_STEPS} at most, since no more can be told apart.")
    else:
        histograms = histograms.sel(step=list(steps), method="nearest")
    axes, parts = _panels(run, histograms, observable, by, figure)
    shown = histograms[schema.STEP].values
    for part, (top, bottom) in zip(parts, axes.T, strict=True):
        filled = part.where(part["observed"] > 0)
        for k, step in enumerate(shown):
            style = {"color": _SHADES[k - len(shown)], "lw": 1.6, "ls": _LINES[k - len(shown)]}
            _draw_step(top, part, part["generated_quantiles"].sel(step=step), style | {"label": f"step {step}"})
            _draw_step(bottom, part, filled["generated_quantiles"].sel(step=step) / filled["observed"], style)
        _draw_observed(top, part)
        _draw_observed(bottom, filled, filled["observed"])
    axes[0, 0].set_ylim(bottom=0)
    axes[1, 0].set_ylabel("generated /\nobserved")
    axes[1, 0].set_ylim(0, 2)
    axes[0, -1].legend(frameon=False, fontsize="small")
    return axes


def _panels(run, histograms, observable, by, figure):
    """Axes (2, picture), with labels, and the histograms of each picture."""
    parts = [histograms] if by is None else [histograms.sel({by: value}) for value in histograms[by].values]
    n = len(parts)
    width = 6.4 if n == 1 else 1 + n * np.clip(12 / n, 2, 3.2)
    figure = figure or plt.figure(figsize=(width, 4.8), layout="constrained")
    axes = figure.subplots(2, n, sharex=True, sharey="row", squeeze=False, height_ratios=[3, 1])
    for part, (top, bottom) in zip(parts, axes.T, strict=True):
        bottom.set_xlabel(label(run, observable))
        if by is not None:
            top.set_title(f"{by} = {part[by].item():g}")
    unit = unit_of(run, observable)
    axes[0, 0].set_ylabel(f"density [1/{unit}]" if unit else "density")
    figure.align_ylabels(axes[:, 0])
    return axes, parts


def _edges(part):
    return [*part["low"].values, part["high"].values[-1]]


def _draw_observed(ax, part, unit=1.0):
    values, error = part["observed"] / unit, part["observed_error"] / unit
    ax.errorbar(part["bin"], values, error, fmt=".", color=REFERENCE, lw=1, label="observed")


def _draw_step(ax, part, quantiles, style):
    edges = _edges(part)
    low, middle, high = (quantiles.sel(quantile=q) for q in (0.16, 0.5, 0.84))
    ax.stairs(high, edges, baseline=low, fill=True, color=style["color"], alpha=0.25, lw=0)
    ax.stairs(middle, edges, baseline=None, **style)


def _ratio_limits(histograms):
    """Symmetric limits that show every point with its error but those in the outermost tails."""
    generated = histograms["generated"] * (histograms["high"] - histograms["low"])
    below = generated.cumsum("bin") / generated.sum("bin")
    bulk = histograms.where((below > 0.01) & (below < 0.99) & (generated > 0))
    away = abs(bulk["observed"] / bulk["generated"] - 1) + bulk["observed_error"] / bulk["generated"]
    width = float(np.clip(np.nan_to_num(1.1 * away.max(), nan=1.0), 0.02, 1))
    return 1 - width, 1 + width
