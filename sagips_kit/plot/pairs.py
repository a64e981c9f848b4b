"""Pairs of parameters: the posterior draws beside the likelihood's ellipses."""

from __future__ import annotations

from collections.abc import Iterable

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.patches import Ellipse
from matplotlib.ticker import MaxNLocator, NullLocator
from numpy.typing import NDArray

from .. import analysis
from ..analysis.fits import Reference, reference_of
from ..store import schema
from .base import (
    ENSEMBLE,
    LEARNED,
    PRIOR,
    REFERENCE,
    SEVERAL,
    TRUTH,
    Style,
    beside_the_estimate,
    label,
    number,
    of_interest,
    power_of,
)

_N_SHOWN = 6  # parameters in a pair plot that stays legible
_N_POINTS = 5000  # draws in one panel, at most
_WIDE = 0.3  # deviation of draws within a chain, relative to that between chains, for which a histogram is drawn
_CHAIN: Style = {"ls": "", "marker": "o", "ms": 4, "mfc": ENSEMBLE, "mec": "white", "mew": 0.5}
_FIT: Style = {"fmt": "s", "ms": 4, "mfc": "white", "color": LEARNED, "lw": 1.2, "capsize": 0}


def posterior(
    run: xr.DataTree, parameters: str | Iterable[str] | None = None, figure: Figure | SubFigure | None = None
) -> NDArray[np.object_]:
    """Draw pairs of parameters: draws and mean of each chain, the likelihood's ellipses, truth and published values.

    On the diagonal is the answer, that of the fit by the learned score or, without it, of the chains, with two digits
    of its standard deviation in brackets.  Below it are the densities, all of the same height, of the reference, of
    the prior if there is one, and of the chains: a histogram of the draws or, where chains have settled and their draws
    hardly vary, the normal distribution of their means.  In the corner of each pair is the correlation of the reference
    or, without one, of the chains.

    The projections of the ellipses onto the axes are the intervals of 1 and 2 standard deviations of the
    maximum-likelihood estimate (MLE) or, without a likelihood, of the fit by the learned score.  That fit is also drawn
    as a mark with its intervals of 1 standard deviation.  The spread between the chains is the uncertainty of the run;
    the spread of draws within a chain is remaining noise of the training.  Axes of periodic parameters are centred on
    their means, and may go beyond the ends of their ranges.

    Parameters
    ----------
    run : DataTree
        A run that `open_run` has opened, of which some chain has been written.
    parameters : str, iterable of str or None
        The parameters to draw, in this order; None draws those of interest, or the first six if the problem does not
        name any.
    figure : Figure or None
        Figure or SubFigure to draw on; None makes a new figure.

    Returns
    -------
    ndarray of Axes (parameter, parameter)
        Axes above the diagonal are hidden.

    Raises
    ------
    ValueError
        If the run does not have such a parameter, if no chain has been written yet, or if several runs are given.

    See Also
    --------
    sagips_kit.plot.estimate : The estimates and their standard deviations.
    sagips_kit.report.export.to_arviz : The draws for ArviZ, which has many more plots.

    Examples
    --------
    >>> from sagips_kit import open_run, plot
    >>> run = open_run("runs/proxy.zarr")
    >>> axes = plot.posterior(run, ["theta0", "theta1", "theta2"])
    >>> [ax.get_xlabel() for ax in axes[-1]]
    ['$\\\\theta_0$', '$\\\\theta_1$', '$\\\\theta_2$']
    """
    analysis.single_run(run, "plot.posterior", SEVERAL)
    reference = reference_of(run)
    values = analysis.estimate(run).assign(centre=reference.centre, width=reference.deviation)
    values = beside_the_estimate(values)
    names = of_interest(run, parameters, _N_SHOWN)
    chains = analysis.written(run, schema.POSTERIOR)[names]
    values, n = values.sel(parameter=names), len(names)
    stored = run[schema.REFERENCE].to_dataset()[schema.COVARIANCE]
    both = analysis.fit(run)["covariance"] if reference.name == "fit" else stored
    covariance = both.sel(parameter=names, parameter_2=names).values
    has_room = n > 3  # for a legend above the diagonal
    size = (1.2 + 1.6 * n + (0 if has_room else 2), 0.8 + 1.6 * n)
    figure = figure or plt.figure(figsize=size, layout="constrained")
    axes = figure.subplots(n, n, squeeze=False)
    limits = [_limits(values.isel(parameter=k), chains[name]) for k, name in enumerate(names)]
    powers = [power_of(max(map(abs, one))) for one in limits]
    for (row, column), ax in np.ndenumerate(axes):
        if column > row:
            ax.set_visible(False)
            continue
        pair = values.isel(parameter=[column, row])
        ax.set_xlim(limits[column])
        if row == column:
            _draw_marginal(ax, chains[names[row]], pair.isel(parameter=0))
        else:
            ax.set_ylim(limits[row])
            block = covariance[np.ix_([column, row], [column, row])]
            _draw_pair(ax, chains[names[column]], chains[names[row]], pair, block)
        _trim(ax, has_y=row != column, is_left=column == 0, is_bottom=row == n - 1)
        _scale(ax, powers[column], powers[row])
        ax.set_xlabel(label(run, names[column], powers[column]) if row == n - 1 else "")
        ax.set_ylabel(label(run, names[row], powers[row]) if column == 0 < row else "")
    # Only these have labels; looking for those of all would take half the time of the picture.
    figure.align_xlabels(list(axes[-1]))
    figure.align_ylabels(list(axes[:, 0]))
    n_known = len(schema.names_of(run.attrs)[0])
    title = f"{n} of {n_known} parameters" if n < n_known else None
    # The padding keeps a legend inside the figure off its edge.
    place, padding = ("upper right", 1.5) if has_room else ("outside right upper", None)
    figure.legend(handles=_pair_legend(values, reference), frameon=False, title=title, loc=place, borderaxespad=padding)
    return axes


def _limits(values: xr.Dataset, chains: xr.DataArray) -> tuple[float, float]:
    """Range of one parameter that shows the draws, 2.6 deviations around the fits, and truth or published value."""
    wanted = [*np.quantile(chains, [0.002, 0.998])]
    wanted += [values["centre"] + width * values["width"] for width in (-2.6, 2.6)]
    wanted += [values["fit"] + sign * values["fit_deviation"] for sign in (-1, 1)]
    wanted += [values[name] for name in ("truth", "published")]
    low, high = float(np.nanmin(wanted)), float(np.nanmax(wanted))
    margin = 0.06 * (high - low) or 0.5
    return low - margin, high + margin


def _draw_marginal(ax: Axes, chains: xr.DataArray, values: xr.Dataset) -> None:
    """Densities of the reference and of the chains, with the mean of each chain; in the title the answer."""
    low, high = ax.get_xlim()
    means, within = chains.mean(schema.DRAW).values, float(chains.std(schema.DRAW).mean())
    if within > _WIDE * float(np.std(means)):
        counts, edges = np.histogram(chains.values[np.isfinite(chains.values)], 30, (low, high))
        ax.stairs(counts / counts.max(), edges, fill=True, color=ENSEMBLE, alpha=0.35)
    elif values["deviation"] > 0:
        # Draws of a chain that has settled are nearly equal: their histogram would be a comb.
        _draw_normal(ax, values["mean"].item(), values["deviation"].item(), color=ENSEMBLE)
    for name, deviation, color in (("centre", "width", REFERENCE), ("prior", "prior_deviation", PRIOR)):
        if np.isfinite(values[deviation]):
            _draw_normal(ax, values[name].item(), values[deviation].item(), color=color)
    top = 1.08
    if values["fit"].notnull():
        top = 1.2
        ax.errorbar(values["fit"], 0.94 * top, xerr=values["fit_deviation"], **_FIT)
    ax.plot(means, np.full(len(means), 0.04 * top), clip_on=False, **_CHAIN)
    ax.set_ylim(0, top)
    for name, style in [("truth", "--"), ("published", ":")]:
        if values[name].notnull():
            ax.axvline(values[name].item(), color=TRUTH, ls=style, lw=1.4)
    name, deviation = ("fit", "fit_deviation") if values["fit"].notnull() else ("mean", "deviation")
    value, error = values[name].item(), values[deviation].item()
    ax.set_title(number(value, error), fontsize="small", pad=3)


def _draw_normal(ax: Axes, mean: float, deviation: float, color: str) -> None:
    x = np.linspace(*ax.get_xlim(), 200)
    height = np.exp(-0.5 * ((x - mean) / deviation) ** 2)
    ax.plot(x, height, color=color, lw=1.2)
    if color == ENSEMBLE:
        ax.fill_between(x, height, color=color, alpha=0.2, lw=0)


def _draw_pair(ax: Axes, x: xr.DataArray, y: xr.DataArray, values: xr.Dataset, covariance: np.ndarray) -> None:
    some = slice(None, None, -(-x.size // _N_POINTS))
    points = x.values.ravel()[some], y.values.ravel()[some]
    ax.plot(*points, ".", ms=1.5, color=ENSEMBLE, alpha=0.25, mew=0, rasterized=True)
    ax.plot(x.mean(schema.DRAW), y.mean(schema.DRAW), **_CHAIN)
    ax.plot(*values["mle"], "+", ms=9, color=REFERENCE)
    if np.isfinite(covariance).all():
        _draw_ellipses(ax, values["centre"].values, covariance)
    if values["fit"].notnull().all():
        (x_error, y_error), (x_fit, y_fit) = values["fit_deviation"].values, values["fit"].values
        ax.errorbar(x_fit, y_fit, xerr=x_error, yerr=y_error, **_FIT)
    rho = covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1])
    if not np.isfinite(rho) and x.sizes[schema.CHAIN] > 2:
        rho = np.corrcoef(x.mean(schema.DRAW), y.mean(schema.DRAW))[0, 1]
    if np.isfinite(rho):
        place: Style = {"xycoords": "axes fraction", "ha": "right", "va": "top", "fontsize": "x-small"}
        ax.annotate(rf"$\rho$ = {rho:.2f}", (0.97, 0.97), color=REFERENCE, **place)
    ax.plot(*values["truth"], "*", ms=9, mfc="white", color=TRUTH)
    ax.plot(*values["published"], "D", ms=5, mfc="white", color=TRUTH)


def _draw_ellipses(ax: Axes, centre: np.ndarray, covariance: np.ndarray) -> None:
    """Draw the ellipses of 1 and 2 standard deviations around `centre` (2,), from the `covariance` (2, 2)."""
    eigenvalues, vectors = np.linalg.eigh(covariance)
    angle = np.degrees(np.arctan2(vectors[1, 1], vectors[0, 1]))
    for width, style in [(1, "-"), (2, "--")]:
        minor, major = 2 * width * np.sqrt(np.maximum(eigenvalues, 0))
        ax.add_patch(
            Ellipse((centre[0], centre[1]), major, minor, angle=angle, fill=False, color=REFERENCE, lw=1.1, ls=style)
        )


def _trim(ax: Axes, has_y: bool, is_left: bool, is_bottom: bool) -> None:
    ax.xaxis.set_major_locator(MaxNLocator(3, prune="both"))
    ax.yaxis.set_major_locator(MaxNLocator(3, prune="both") if has_y else NullLocator())
    ax.tick_params(labelleft=is_left, labelbottom=is_bottom, labelsize="small")
    ax.tick_params(axis="x", rotation=40)


def _scale(ax: Axes, of_x: int, of_y: int) -> None:
    """Divide the numbers at the axes by powers of ten, which their labels name."""
    for axis, power in ((ax.xaxis, of_x), (ax.yaxis, of_y)):
        if power:
            axis.set_major_formatter(lambda value, _, power=power: f"{value / 10.0**power:g}")


def _pair_legend(values: xr.Dataset, reference: Reference) -> list[Line2D]:
    handles = [
        Line2D([], [], ls="", marker=".", ms=4, color=ENSEMBLE, alpha=0.5, label="draws"),
        Line2D([], [], ls="", marker="o", ms=5, color=ENSEMBLE, label="mean of a chain"),
    ]
    if values["floor"].notnull().any():
        handles.append(Line2D([], [], marker="+", ms=9, color=REFERENCE, label="MLE, 1 floor unit"))
        handles.append(Line2D([], [], ls="--", color=REFERENCE, label="MLE, 2 floor units"))
    if values["fit"].notnull().any():
        handles.append(Line2D([], [], marker="s", ms=4, mfc="white", color=LEARNED, label="fit, 1 deviation"))
    if reference.name == "fit":
        handles.append(Line2D([], [], ls="--", color=REFERENCE, label="fit, 2 deviations"))
    if values["prior"].notnull().any():
        handles.append(Line2D([], [], color=PRIOR, lw=1.2, label="prior"))
    for name, marker, line in [("truth", "*", "--"), ("published", "D", ":")]:
        if values[name].notnull().any():
            handles.append(Line2D([], [], marker=marker, ms=7, mfc="white", ls=line, color=TRUTH, label=name))
    return handles
