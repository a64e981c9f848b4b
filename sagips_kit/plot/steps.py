"""The course of training: convergence, losses, waiting times and staleness."""

from typing import Literal

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from .. import analysis
from ..store import schema
from .base import (
    ENSEMBLE,
    FAINT,
    LEARNED,
    REFERENCE,
    SEVERAL,
    draw_floor,
    in_two_lines,
    is_several,
    legend_above,
    new_axes,
    run_styles,
)

_N_LINES = 64  # generators whose lines can be told apart


def convergence(
    run: xr.DataTree,
    n_rows: int | None = 500,
    against: Literal["step", "time"] = "step",
    ax: Axes | None = None,
) -> Axes:
    """Draw the distance to the fit of the same events during training.

    The distance is the root mean square over the parameters, in floor units: standard deviations of the
    maximum-likelihood estimate (MLE) from the same events.  Below 1, in the shaded range, the generators are closer to
    the MLE than the events can resolve.  For a run without a likelihood fit, the fit by the learned score takes its
    place; the label of the axis says so.

    Parameters
    ----------
    run : DataTree
        A run that `open_run` has opened, which may be unfinished, or several that `open_runs` has opened.  Of a single
        run, each generator is drawn as well as their mean; of several, the mean of each run.
    n_rows : int or None
        Largest number of points of a line; None draws every row of the history.
    against : {"step", "time"}
        Horizontal axis: the training step, to the planned end of a single run, or the time since the start in seconds.
        Runs of different modes need different times for a step, so compare their cost by time.
    ax : Axes or None
        Axes to draw on; None makes a new figure.

    Returns
    -------
    Axes
        The axes with the picture.

    Raises
    ------
    ValueError
        If no row has been written yet, if no run has a fit, or if `against` is not one of the two words.

    See Also
    --------
    sagips_kit.analysis.convergence : The numbers that are drawn.
    sagips_kit.plot.evolution : The generated parameters themselves during training.
    sagips_kit.plot.losses : The losses of the networks during training.

    Examples
    --------
    >>> from sagips_kit import open_run, plot
    >>> run = open_run("runs/proxy.zarr")
    >>> ax = plot.convergence(run)
    >>> ax.get_xlabel(), ax.get_ylabel()
    ('step', 'RMS distance to the MLE [floor units]')
    """
    if against not in ("step", "time"):
        raise ValueError(f'against = {against!r}: should be "step" or "time".')
    paths = {str(key): analysis.convergence(one, n_rows) for key, one in analysis.each_run(run).items()}
    _check_distances(list(paths.values()), is_several(run))
    x = {key: (path[schema.STEP] if against == "step" else path["elapsed"]).values for key, path in paths.items()}
    ax = ax or new_axes(6.4, 4.0)
    if is_several(run):
        for (key, path), style in zip(paths.items(), run_styles(len(paths)), strict=True):
            ax.plot(x[key], path["distance"], lw=1.8, markevery=0.1, ms=5, label=key, **style)
        # Runs that have just begun have no rows.
        last, lowest = None, [float(path["distance"].min()) for path in paths.values() if path.sizes[schema.STEP]]
    else:
        ((key, path),) = paths.items()
        lowest = [_draw_generators(ax, x[key], path), float(path["distance"].min())]
        label = "mean of the others" if path["witness"].any() else "mean of all generators"
        ax.plot(x[key], path["distance"], color=ENSEMBLE, lw=2.4, label=label)
        last = run.attrs[schema.LAYOUT_KEY]["n_steps"] if against == "step" else x[key].max()
    draw_floor(ax)
    xlabel = "step" if against == "step" else "time since the start [s]"
    ax.set(xlabel=xlabel, ylabel=_distance(list(paths.values())), xlim=(0, last))
    # The shaded range reaches down only as far as there is something to see.
    ax.set_ylim(bottom=min(0.5, 0.7 * float(np.nanmin(lowest))))
    if is_several(run):
        ax.legend(frameon=False, title=run.attrs[schema.ALONG_KEY], fontsize="small")
    else:
        legend_above(ax, 2, fontsize="small")
    return ax


def _distance(paths: list[xr.Dataset]) -> str:
    """Label of the axis of distances; the paths may refer to different fits."""
    labels = {
        in_two_lines(path["distance"].attrs["long_name"], f"[{path['distance'].attrs['units']}]")
        for path in paths
        if path.attrs["reference"]
    }
    return labels.pop() if len(labels) == 1 else "RMS distance to the MLE, or to the fit [its deviations]"


def _check_distances(paths: list[xr.Dataset], is_several: bool) -> None:
    """Raise ValueError if none of the paths, as `analysis.convergence` returns them, has a distance to draw."""
    if not any(path.sizes[schema.STEP] for path in paths):
        raise ValueError(
            "No row of the history has been written yet, so there is no distance to draw. Try again later."
        )
    if not all(path["distance" if is_several else "distance_each"].isnull().all() for path in paths):
        return
    if is_several:
        raise ValueError("None of these runs has a fit, so there are no distances in its standard deviations.")
    raise ValueError(
        "The run has no fit, so there are no distances in its standard deviations. To see the parameters themselves, "
        'type plot.evolution(run), or analysis.convergence(run).theta.plot(x="step", hue="parameter").'
    )


def _draw_generators(ax: Axes, x: np.ndarray, path: xr.Dataset) -> float:
    """Draw the distance of each generator, or a band if they are many; returns the smallest of them."""
    flat = path[["distance_each", "witness"]].stack(generator=(schema.RANK, schema.MEMBER))
    each = flat["distance_each"].transpose("generator", schema.STEP).values
    is_witness = flat["witness"].values
    kinds = [(each[~is_witness], FAINT, "each generator", "90 % of the generators")]
    if is_witness.any():
        kinds.append((each[is_witness], LEARNED, "each witness (began away from the fit)", "90 % of the witnesses"))
    for some, color, label, label_of_band in kinds:
        if len(some) <= _N_LINES:
            for k, one in enumerate(some):
                ax.plot(x, one, color=color, lw=0.8, label=None if k else label)
        else:
            low, high = np.nanquantile(some, [0.05, 0.95], axis=0)
            ax.fill_between(x, low, high, color=color, lw=0, alpha=0.6, label=label_of_band)
    return float(np.nanmin(each))


def losses(run: xr.DataTree, n_rows: int | None = 1000, ax: Axes | None = None) -> Axes:
    """Draw how far the losses of discriminators and generators are from those of a discriminator that guesses.

    The distance is the root mean square over all ranks and members, on a logarithmic axis.  Where it is small,
    discriminators cannot separate generated from observed events: either these are alike, or the discriminators have
    not learned to see the difference.

    Parameters
    ----------
    run : DataTree
        A run that `open_run` has opened; it may be unfinished.
    n_rows : int or None
        Largest number of points of a line; None draws every row of the history.
    ax : Axes or None
        Axes to draw on; None makes a new figure.

    Returns
    -------
    Axes
        The axes with the picture.

    Raises
    ------
    ValueError
        If no row of the history has been written yet, or if several runs are given.

    See Also
    --------
    sagips_kit.analysis.losses : The numbers that are drawn.
    sagips_kit.plot.discriminator : The scores of the discriminators at the end.

    Examples
    --------
    >>> from sagips_kit import open_run, plot
    >>> run = open_run("runs/proxy.zarr")
    >>> ax = plot.losses(run)
    >>> ax.get_ylabel()
    'RMS distance of the loss\\nfrom that by guessing'
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['discriminator', 'generator']
    """
    analysis.single_run(run, "plot.losses", SEVERAL)
    values = analysis.losses(run, n_rows)["distance"]
    if not values.sizes[schema.STEP]:
        raise ValueError("No row of the history has been written yet, so there is no loss to draw. Try again later.")
    ax = ax or new_axes(6.4, 3.2)
    for name, colour, line in [("discriminator", REFERENCE, "-"), ("generator", ENSEMBLE, "--")]:
        one = values.sel(network=name)
        ax.plot(one[schema.STEP], one.where(one > 0), color=colour, ls=line, lw=1.6, label=name)
    ax.set(xlabel="step", ylabel="RMS distance of the loss\nfrom that by guessing", yscale="log")
    legend_above(ax)
    return ax


def timeline(run: xr.DataTree, n_bins: int = 200, ax: Axes | None = None) -> Axes:
    """Draw when each rank was computing and when it waited for other ranks.

    Each rank has a row: white where it computes, black where it waits, blue where it is not training.

    Parameters
    ----------
    run : DataTree
        A run that `open_run` has opened; it may be unfinished.
    n_bins : int
        Number of equal intervals of time for which the share of waiting is drawn.
    ax : Axes or None
        Axes to draw on; None makes a new figure.

    Returns
    -------
    Axes
        The axes with the picture.

    Raises
    ------
    ValueError
        If no row of the history has been written yet, or if several runs are given.

    See Also
    --------
    sagips_kit.analysis.timeline : The numbers that are drawn.
    sagips_kit.plot.staleness : The age of the messages that were used.
    sagips_kit.plot.pace : Events per second of several runs.

    Examples
    --------
    >>> from sagips_kit import open_run, plot
    >>> run = open_run("runs/proxy.zarr")
    >>> ax = plot.timeline(run)
    >>> ax.get_xlabel(), ax.get_ylabel()
    ('time since the start [s]', 'rank')
    """
    analysis.single_run(run, "plot.timeline", SEVERAL)
    times = analysis.timeline(run, n_bins)
    if times["waiting"].isnull().all():
        raise ValueError("No row of the history has been written yet, so there is no time to draw. Try again later.")
    n_ranks = times.sizes[schema.RANK]
    ax = ax or new_axes(6.4, float(np.clip(1.6 + 0.15 * n_ranks, 2.4, 6)))
    most = float(np.clip(times["waiting"].max(), 0.1, 1))
    middles = times["time"].values
    # Given only the middle of a single rank, matplotlib could not know the height of its row.
    edges = 2 * middles[0] * np.arange(len(middles) + 1), np.arange(n_ranks + 1) - 0.5
    image = ax.pcolormesh(*edges, times["waiting"], cmap="Greys", vmin=0, vmax=most, rasterized=True)
    ax.set_facecolor("#cfe3f3")  # shows where a rank has no rows
    ax.figure.colorbar(image, ax=ax, label="share of time spent waiting", pad=0.02)
    share = float(times["waited_s"].sum() / (times["waited_s"] + times["compute_s"]).sum())
    ax.set_title(
        f"{share:.1%} of the ranks' time was spent waiting (blue: not training)", fontsize="medium", loc="left"
    )
    ax.yaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    ax.set(xlabel="time since the start [s]", ylabel="rank", ylim=(n_ranks - 0.5, -0.5))
    return ax


def staleness(run: xr.DataTree, n_rows: int | None = 1000, ax: Axes | None = None) -> Axes:
    """Draw the staleness during training: the age of the oldest message that entered each mean, in steps.

    The line is the mean over the ranks, the band their range.

    Parameters
    ----------
    run : DataTree
        A run that `open_run` has opened; it may be unfinished.
    n_rows : int or None
        Largest number of points of the line; None draws every row of the history.
    ax : Axes or None
        Axes to draw on; None makes a new figure.

    Returns
    -------
    Axes
        The axes with the picture.

    Raises
    ------
    ValueError
        If several runs are given.

    See Also
    --------
    sagips_kit.analysis.staleness : The numbers that are drawn.
    sagips_kit.plot.timeline : When ranks waited for each other.

    Examples
    --------
    >>> from sagips_kit import open_run, plot
    >>> run = open_run("runs/proxy.zarr")
    >>> ax = plot.staleness(run)
    >>> ax.get_ylabel()
    'staleness [steps]'
    """
    analysis.single_run(run, "plot.staleness", SEVERAL)
    age = analysis.staleness(run, n_rows)
    ax = ax or new_axes(6.4, 3.2)
    ax.fill_between(age[schema.STEP], age["low"], age["high"], color=FAINT, lw=0, label="range over the ranks")
    ax.plot(age[schema.STEP], age["mean"], color=ENSEMBLE, lw=1.6, label="mean over the ranks")
    ax.set(xlabel="step", ylabel="staleness [steps]")
    top = max(1, 1.1 * float(age["high"].max())) if age.sizes[schema.STEP] else 1
    ax.set_ylim(-0.04 * top, top)  # keeps a line at 0, the value of most modes, off the axis
    ax.legend(frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1, 1))
    return ax
