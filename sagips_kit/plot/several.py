"""Several runs side by side."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

from .. import analysis
from ..store import schema
from .base import REFERENCE, new_axes
from .steps import draw_floor

_LINES = ("-", "--", "-.", ":")
_MARKERS = "osD^vP*X"


def comparison(runs, against="step", ax=None):
    """Distance of each run's mean to the maximum-likelihood estimate, as the runs go on.

    Parameters
    ----------
    runs : DataTree
        Of `open_runs`.
    against : {"step", "time"}
        Time is what an answer costs; runs of different modes take different times for a step.
    ax : Axes or None

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        For a single run, or if no run has a likelihood reference.
    """
    dim = _dimension(runs, "comparison")
    if against not in ("step", "time"):
        raise ValueError(f'against = {against!r}: should be "step" or "time".')
    paths = {label: analysis.convergence(run) for label, run in analysis.each_run(runs).items()}
    if all(path["distance"].isnull().all() for path in paths.values()):
        raise ValueError("No run has a likelihood reference and rows, so there are no distances in floor units.")
    ax = ax or new_axes(6.8, 4.2)
    for (label, path), style in zip(paths.items(), _styles(len(paths)), strict=True):
        x = path[schema.STEP] if against == "step" else path["elapsed"]
        ax.plot(x, path["distance"], lw=1.8, markevery=0.1, ms=5, label=str(label), **style)
    draw_floor(ax)
    unit = "step" if against == "step" else "time since the start [s]"
    ax.set(xlabel=unit, ylabel="RMS distance to the MLE [floor units]", xlim=(0, None))
    lowest = min(float(path["distance"].min()) for path in paths.values())
    ax.set_ylim(bottom=min(0.5, 0.7 * lowest))
    ax.legend(frameon=False, title=dim, fontsize="small")
    return ax


def scaling(runs, ax=None):
    """Events per second of each run against its number of ranks, beside what perfect scaling would bring.

    Parameters
    ----------
    runs : DataTree
        Of `open_runs`.
    ax : Axes or None

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        For a single run, or if no run tells its pace.
    """
    _dimension(runs, "scaling")
    values = analysis.pace(runs)
    name, text = ("event_rate", "events") if values["event_rate"].notnull().any() else ("step_rate", "steps")
    if values[name].isnull().all():
        raise ValueError("No run has rows yet, so there is no pace to show. Open the runs again later.")
    modes = [analysis.fact(run, "mode") or "unknown mode" for run in analysis.each_run(runs).values()]
    ax = ax or new_axes(6.4, 4.2)
    kinds = dict.fromkeys(modes)
    for kind, style in zip(kinds, _styles(len(kinds)), strict=True):
        one = values.isel({runs.attrs[schema.ALONG_KEY]: [mode == kind for mode in modes]}).sortby("ranks")
        ax.plot(one["ranks"], one[name], lw=1.6, ms=6, label=kind, **style)
    ranks = np.array([values["ranks"].min(), values["ranks"].max()])
    best = float((values[name] / (values["ranks"] if name == "event_rate" else 1)).max())
    ideal = best * ranks if name == "event_rate" else [best, best]
    ax.plot(ranks, ideal, color=REFERENCE, ls=(0, (1, 3)), lw=1.2, label="as the fastest for each rank")
    ax.set(xscale="log", yscale="log", xlabel="ranks", ylabel=f"{text} per second [1/s]")
    ticks = np.unique(values["ranks"].values)
    ax.set_xticks(ticks, [str(n) for n in ticks])
    ax.xaxis.minorticks_off()
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter(EngFormatter(sep=""))
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.set_ylim(0.7 * float(values[name].min()), 1.4 * max(float(values[name].max()), ideal[-1]))
    ax.legend(frameon=False, fontsize="small")
    return ax


def compared_estimates(runs, ax=None):
    """The estimates of each run, relative to the maximum-likelihood estimate of its events and in its deviations.

    Parameters
    ----------
    runs : DataTree
        Of `open_runs`.
    ax : Axes or None

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        For a single run, one that has not ended, or if no run has a likelihood reference.
    """
    dim = _dimension(runs, "compared_estimates")
    values = analysis.estimate(runs)
    if values["floor"].isnull().all():
        raise ValueError("No run has a likelihood reference. Look at analysis.summary(runs) instead.")
    names, labels = values[schema.PARAMETER].values, runs[dim].values.tolist()
    ax = ax or new_axes(6.8, 1.4 + (0.2 + 0.1 * len(labels)) * len(names))
    for width, shade in [(2, "0.94"), (1, "0.86")]:
        ax.axvspan(-width, width, color=shade, lw=0)
    ax.axvline(0, color=REFERENCE, lw=1)
    offsets = np.linspace(-0.3, 0.3, len(labels)) if len(labels) > 1 else [0]
    rows = np.arange(len(names))
    for k, (label, style) in enumerate(zip(labels, _styles(len(labels)), strict=True)):
        one, style = values.isel({dim: k}), style | {"ls": ""}
        error = one["deviation"] / one["floor"]
        ax.errorbar(one["to_mle"], rows + offsets[k], xerr=error, lw=1.2, ms=4.5, label=str(label), **style)
    ax.set(yticks=rows, yticklabels=names, ylim=(len(names) - 0.4, -0.6), xlabel="distance to the MLE [floor units]")
    ax.tick_params(axis="y", length=0)
    ax.spines[["top", "left", "right"]].set_visible(False)
    ax.legend(frameon=False, title=dim, fontsize="small", ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1))
    return ax


def _dimension(runs, name):
    if schema.ALONG_KEY not in runs.attrs:
        raise ValueError(f"plot.{name} compares several runs. Open them together: open_runs([...]).")
    return runs.attrs[schema.ALONG_KEY]


def _styles(n):
    """Lines that differ by pattern, marker and lightness."""
    shades = plt.get_cmap("viridis")(np.linspace(0, 0.8, max(n, 2)))
    return [{"color": shades[k], "ls": _LINES[k % 4], "marker": _MARKERS[k % 8]} for k in range(n)]
