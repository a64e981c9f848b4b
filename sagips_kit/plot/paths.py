"""How the parameters move while a run is trained, from the rows that it has written so far."""

import xarray as xr
from matplotlib.axes import Axes

from .. import analysis
from ..analysis.base import circles_of, difference
from ..analysis.fits import reference_of
from ..store import schema
from .base import REFERENCE, SEVERAL, draw_units, folded, in_two_lines, legend_above, new_axes, of_interest, symbol

_N_SHOWN = 6  # parameters whose lines can be told apart
_COLOURS = ("#1b6ca8", "#c2571a", "#2a7f4f", "#7a4ea3", "#8a6d1f", "0.3")  # as dark as each other
_LINES = ("-", "--", "-.", ":")
_WIDE = 6.0  # units from which the axis is logarithmic outside of the bands
_MARKS = {schema.TRUTH: "*", schema.PUBLISHED: "D"}


def paths(run: xr.DataTree, n_rows: int | None = 300, ax: Axes | None = None) -> Axes:
    """Draw mean and spread of the generators against the step, one line for each parameter.

    All parameters have one axis: distances to the fit in its standard deviations or, without a fit, to the middle of
    the range in percent of its half width.  Witnesses, which began away from the fit, are left out.  Marks at the end
    show truth and published values.  The axis of steps reaches to the planned end of the run.

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
    sagips_kit.plot.convergence : One distance for all parameters together, and the witnesses.
    sagips_kit.plot.evolution : The distribution of each parameter, in its own units.

    Examples
    --------
    >>> from sagips_kit import open_run
    >>> from sagips_kit.plot.paths import paths
    >>> paths(open_run("runs/proxy.zarr")).get_ylabel()
    'distance to the MLE [floor units]'
    """
    analysis.single_run(run, "paths", SEVERAL)
    values, names = analysis.convergence(run, n_rows), of_interest(run, None, _N_SHOWN)
    if not values.sizes[schema.STEP]:
        raise ValueError("No row of the history has been written yet, so there is no path to draw. Try again later.")
    ax, n_steps = ax or new_axes(6.4, 4.0), run.attrs[schema.LAYOUT_KEY]["n_steps"]
    known, period = run[schema.REFERENCE].to_dataset().load(), circles_of(run)[1]
    reference, label = reference_of(run), "distance to the middle of the range\n[% of its half width]"
    centre, unit = (known[schema.LOWER] + known[schema.UPPER]) / 2, (known[schema.UPPER] - known[schema.LOWER]) / 200
    if bool(reference.deviation.sel(parameter=names).notnull().all()):
        centre, unit, label = *reference[-2:], in_two_lines(f"distance to the {reference.label}", f"[{reference.unit}]")
        draw_units(ax, "y")
    middle, spread = difference(values["theta"], centre, period) / unit, values["deviation"] / unit
    for k, name in enumerate(names):
        one, width, x = middle.sel(parameter=name), spread.sel(parameter=name), values[schema.STEP]
        color = _COLOURS[k % len(_COLOURS)]
        ax.fill_between(x, one - width, one + width, color=color, alpha=0.15, lw=0)
        ax.plot(x, one, color=color, ls=_LINES[k % len(_LINES)], lw=1.6, label=symbol(run, name))
        for kind, mark in _MARKS.items():
            at = float((difference(known[kind], centre, period) / unit).sel(parameter=name))
            ax.plot(n_steps, at, mark, ms=8, mfc="white", color=color, clip_on=False)
    ax.axhline(0, color=REFERENCE, lw=1, zorder=1)
    if max(map(abs, ax.get_ylim())) > _WIDE:
        ax.set_yscale("symlog", linthresh=2, linscale=1)
    others = folded(run, names).partition(" (")[0]
    ax.set(xlabel=f"step\n{others}" if others else "step", ylabel=label, xlim=(0, n_steps))
    legend_above(ax, fontsize="small")
    return ax
