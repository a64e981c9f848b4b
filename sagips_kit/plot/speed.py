"""How fast runs are, and how that depends on their number of ranks."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

from .. import analysis
from ..store import schema
from .base import REFERENCE, is_several, new_axes, run_styles


def pace(runs: xr.DataTree, after: int = 0, ax: Axes | None = None) -> Axes:
    """Draw the events per second of several runs against their numbers of ranks.

    Runs of the same mode of exchange are connected by a line.  The dotted line shows perfect scaling: every rank
    generates as many events per second as the ranks of the fastest run.  If the number of events in a step is not
    known, steps per second are drawn instead.

    Parameters
    ----------
    runs : DataTree
        Several runs that `open_runs` has opened.
    after : int
        Number of steps at the beginning of each run that are left out.
    ax : Axes or None
        Axes to draw on; None makes a new figure.

    Returns
    -------
    Axes
        The axes with the picture.

    Raises
    ------
    ValueError
        If a single run is given, or if no row of any history has been written yet.

    See Also
    --------
    sagips_kit.analysis.pace : The numbers that are drawn.
    sagips_kit.plot.timeline : When the ranks of a run waited for each other.

    Examples
    --------
    >>> from sagips_kit import open_run, open_runs, plot
    >>> run = open_run("runs/proxy.zarr")
    >>> runs = open_runs([run, run], along="trial", labels=["first", "second"])
    >>> ax = plot.pace(runs)
    >>> ax.get_xlabel(), ax.get_ylabel()
    ('ranks', 'events per second [1/s]')
    """
    if not is_several(runs):
        raise ValueError(
            "plot.pace compares several runs, and this is one. Open them together by open_runs([...]), or type "
            "analysis.pace(run) for the numbers of one."
        )
    values = analysis.pace(runs, after)
    name, text = ("event_rate", "events") if values["event_rate"].notnull().any() else ("step_rate", "steps")
    if values[name].isnull().all():
        raise ValueError("No row of any history has been written yet, so no speed is known. Try again later.")
    modes = [str(analysis.fact(run, "mode") or "unknown mode") for run in analysis.each_run(runs).values()]
    ax = ax or new_axes(6.4, 4.2)
    kinds = list(dict.fromkeys(modes))
    for kind, style in zip(kinds, run_styles(len(kinds)), strict=True):
        one = values.isel({runs.attrs[schema.ALONG_KEY]: [mode == kind for mode in modes]}).sortby("ranks")
        ax.plot(one["ranks"], one[name], lw=1.6, ms=6, label=kind, **style)
    ranks = np.array([values["ranks"].min(), values["ranks"].max()])
    best = float((values[name] / (values["ranks"] if name == "event_rate" else 1)).max())
    ideal = best * ranks if name == "event_rate" else np.array([best, best])
    ax.plot(ranks, ideal, color=REFERENCE, ls=(0, (1, 3)), lw=1.2, label="perfect scaling")
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
