"""Observed events beside generated ones."""

import matplotlib.pyplot as plt
import numpy as np

from .. import analysis
from .base import ENSEMBLE, REFERENCE, label, unit_of


def events(run, observable, by=None, bins=50, figure=None):
    """Observed and generated events of one observable, and their ratio below.

    Parameters
    ----------
    run : DataTree
    observable : str
    by : str or None
        A categorical observable: one picture for each of its values.
    bins : int or ndarray (edge,)
    figure : Figure or None

    Returns
    -------
    ndarray of Axes (2, picture)
        Densities in the first row, ratios in the second.
    """
    analysis.single_run(run, "plot.events", "plot.comparison(runs)")
    histograms = analysis.observed_and_generated(run, observable, bins, by)
    parts = [histograms] if by is None else [histograms.sel({by: value}) for value in histograms[by].values]
    n = len(parts)
    width = 6.4 if n == 1 else 1 + n * np.clip(12 / n, 2, 3.2)
    figure = figure or plt.figure(figsize=(width, 4.8), layout="constrained")
    axes = figure.subplots(2, n, sharex=True, sharey="row", squeeze=False, height_ratios=[3, 1])
    for part, (top, bottom) in zip(parts, axes.T, strict=True):
        _draw_densities(top, part)
        _draw_ratio(bottom, part)
        bottom.set_xlabel(label(run, observable))
        if by is not None:
            top.set_title(f"{by} = {part[by].item():g}")
    unit = unit_of(run, observable)
    axes[0, 0].set_ylabel(f"density [1/{unit}]" if unit else "density")
    axes[1, 0].set_ylabel("observed /\ngenerated")
    axes[1, 0].set_ylim(_ratio_limits(histograms))
    axes[0, 0].set_ylim(bottom=0)
    axes[0, -1].legend(frameon=False)
    figure.align_ylabels(axes[:, 0])
    return axes


def _edges(part):
    return [*part["low"].values, part["high"].values[-1]]


def _draw_densities(ax, part):
    edges = _edges(part)
    low, high = part["generated"] - part["generated_error"], part["generated"] + part["generated_error"]
    ax.stairs(high, edges, baseline=low, fill=True, color=ENSEMBLE, alpha=0.3, lw=0)
    ax.stairs(part["generated"], edges, color=ENSEMBLE, lw=1.6, label="generated")
    ax.errorbar(part["bin"], part["observed"], part["observed_error"], fmt=".", color=REFERENCE, lw=1, label="observed")


def _draw_ratio(ax, part):
    part = part.where(part["generated"] > 0)
    band = part["generated_error"] / part["generated"]
    edges = _edges(part)
    ax.stairs(1 + band, edges, baseline=1 - band, fill=True, color=ENSEMBLE, alpha=0.3, lw=0)
    ax.axhline(1, color=ENSEMBLE, lw=1.6)
    ratio, error = part["observed"] / part["generated"], part["observed_error"] / part["generated"]
    ax.errorbar(part["bin"], ratio, error, fmt=".", color=REFERENCE, lw=1)


def _ratio_limits(histograms):
    """Symmetric limits that show every point with its error but those in the outermost tails."""
    generated = histograms["generated"] * (histograms["high"] - histograms["low"])
    below = generated.cumsum("bin") / generated.sum("bin")
    bulk = histograms.where((below > 0.01) & (below < 0.99) & (generated > 0))
    away = abs(bulk["observed"] / bulk["generated"] - 1) + bulk["observed_error"] / bulk["generated"]
    width = float(np.clip(1.1 * away.max(), 0.02, 1))
    return 1 - width, 1 + width
