"""What happened on the way: convergence, losses, waiting and staleness."""

import numpy as np
from matplotlib.ticker import LogLocator, MaxNLocator

from .. import analysis
from ..store import schema
from .base import ENSEMBLE, FAINT, REFERENCE, TRUTH, new_axes

_N_LINES = 64  # generators that can be told apart
_N_POINTS = 500  # along a line; more than a figure resolves


def convergence(run, ax=None):
    """Distance to the maximum-likelihood estimate against the step, of each generator and of their mean.

    Parameters
    ----------
    run : DataTree
        May still be running.
    ax : Axes or None

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If the run has no likelihood reference.
    """
    analysis.single_run(run, "plot.convergence", "plot.comparison(runs)")
    path = analysis.convergence(run, _N_POINTS)
    if not path.sizes[schema.STEP]:
        raise ValueError("There is no distance to draw: the run has no rows yet. Open it again later.")
    if path["distance_each"].isnull().all():
        raise ValueError(
            "There is no distance to draw: the run has no likelihood reference. Type "
            'analysis.convergence(run).theta.plot(x="step", hue="parameter") to see the parameters themselves.'
        )
    ax = ax or new_axes(6.4, 4.0)
    each = path["distance_each"].stack(generator=(schema.RANK, schema.MEMBER)).transpose("generator", schema.STEP)
    steps = path[schema.STEP].values
    if len(each) <= _N_LINES:
        ax.plot(steps, each.T, color=FAINT, lw=0.8, label=["each generator"] + [None] * (len(each) - 1))
    else:
        low, high = np.nanquantile(each.values, [0.05, 0.95], axis=0)
        ax.fill_between(steps, low, high, color=FAINT, lw=0, label="90 % of the generators")
    ax.plot(steps, path["distance"], color=ENSEMBLE, lw=2.4, label="mean of all generators")
    draw_floor(ax)
    ax.set(xlabel="step", ylabel="RMS distance to the MLE [floor units]")
    ax.set_xlim(0, steps.max())
    # The band reaches down as far as there is anything to see.
    ax.set_ylim(bottom=min(0.5, 0.7 * float(np.nanmin([path["distance"].min(), each.min()]))))
    ax.legend(frameon=False)
    return ax


def draw_floor(ax):
    """The band in which no method can tell parameters apart, on an axis that is logarithmic from here on."""
    ax.set_yscale("log")
    # Few decades have few powers of ten.
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=9))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.axhspan(1e-9, 1, color="0.9", lw=0, zorder=0, label="statistical floor")
    ax.axhline(1, color=REFERENCE, ls="--", lw=1.2)


def losses(run, ax=None):
    """Losses of discriminators and generators against the step: mean and range over ranks and members.

    Parameters
    ----------
    run : DataTree
        May still be running.
    ax : Axes or None

    Returns
    -------
    Axes
    """
    analysis.single_run(run, "plot.losses", "plot.comparison(runs)")
    values = analysis.losses(run)
    ax = ax or new_axes(6.4, 3.2)
    for name, colour, line in [("discriminator", REFERENCE, "-"), ("generator", ENSEMBLE, "--")]:
        one = values.sel(network=name)
        ax.fill_between(one[schema.STEP], one["low"], one["high"], color=colour, alpha=0.2, lw=0)
        ax.plot(one[schema.STEP], one["mean"], color=colour, ls=line, lw=1.6, label=name)
    loss = analysis.fact(run, "loss")
    if loss != "least squares":
        ax.axhline(2 * np.log(2), color=TRUTH, ls=":", lw=1.4, label="blind discriminator: 2 log 2")
    ax.set(xlabel="step", ylabel="loss")
    ax.legend(frameon=False)
    return ax


def timeline(run, ax=None):
    """Who waited when: one line for each rank, white while it computes, black while it waits for others.

    Parameters
    ----------
    run : DataTree
        May still be running.
    ax : Axes or None

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If there are no rows yet.
    """
    analysis.single_run(run, "plot.timeline", "plot.comparison(runs)")
    times = analysis.timeline(run)
    if times["waiting"].isnull().all():
        raise ValueError("There are no rows yet, so there is no time to show. Open the run again later.")
    n_ranks = times.sizes[schema.RANK]
    ax = ax or new_axes(6.4, np.clip(1.6 + 0.15 * n_ranks, 2.4, 6))
    most = float(np.clip(times["waiting"].max(), 0.1, 1))
    middles = times["time"].values
    # Edges, since the middle of a single rank does not tell how high it is.
    edges = 2 * middles[0] * np.arange(len(middles) + 1), np.arange(n_ranks + 1) - 0.5
    image = ax.pcolormesh(*edges, times["waiting"], cmap="Greys", vmin=0, vmax=most, rasterized=True)
    ax.set_facecolor("#cfe3f3")  # where a rank has no rows
    ax.figure.colorbar(image, ax=ax, label="share of time spent waiting", pad=0.02)
    share = float(times["waited_s"].sum() / (times["waited_s"] + times["compute_s"]).sum())
    ax.set_title(f"{share:.1%} of all time was spent waiting (blue: not training)", fontsize="medium", loc="left")
    ax.yaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    ax.set(xlabel="time since the start [s]", ylabel="rank", ylim=(n_ranks - 0.5, -0.5))
    return ax


def staleness(run, ax=None):
    """Age of the oldest message in each mean against the step: mean and range over the ranks.

    Parameters
    ----------
    run : DataTree
        May still be running.
    ax : Axes or None

    Returns
    -------
    Axes
    """
    analysis.single_run(run, "plot.staleness", "plot.comparison(runs)")
    age = analysis.staleness(run)
    ax = ax or new_axes(6.4, 3.2)
    ax.fill_between(age[schema.STEP], age["low"], age["high"], color=FAINT, lw=0, label="all ranks")
    ax.plot(age[schema.STEP], age["mean"], color=ENSEMBLE, lw=1.6, label="mean of the ranks")
    ax.set(xlabel="step", ylabel="staleness [steps]")
    top = max(1, 1.1 * float(age["high"].max())) if age.sizes[schema.STEP] else 1
    ax.set_ylim(-0.04 * top, top)  # 0 is what most modes have, and shall be seen
    ax.legend(frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1, 1))
    return ax
