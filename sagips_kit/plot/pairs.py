"""Pairs of parameters."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Ellipse
from matplotlib.ticker import MaxNLocator, NullLocator

from .. import analysis
from ..store import schema
from .base import ENSEMBLE, REFERENCE, TRUTH, chosen, label

_N_SHOWN = 6  # parameters in a pair plot that stays legible
_N_POINTS = 5000  # draws in one of its panels, at most


def posterior(run, parameters=None, figure=None):
    """Pairs of parameters: draws, the mean of each chain, the likelihood's ellipses, and truth or published values.

    Parameters
    ----------
    run : DataTree
    parameters : str, sequence of str or None
        Which to show; None takes the first six.
    figure : Figure or None

    Returns
    -------
    ndarray of Axes (parameter, parameter)
        Those above the diagonal are hidden.

    Raises
    ------
    ValueError
        For an unknown parameter.
    """
    analysis.single_run(run, "plot.posterior", "plot.comparison(runs)")
    values = analysis.estimate(run)
    known = list(values[schema.PARAMETER].values)
    names = chosen(parameters, known, _N_SHOWN)
    chains = analysis.written(run, schema.POSTERIOR)[names]
    values, n = values.sel(parameter=names), len(names)
    covariance = run[schema.REFERENCE]["covariance"].sel(parameter=names, parameter_2=names).values
    has_room = n > 3  # for a legend above the diagonal
    size = (1.2 + 1.6 * n + (0 if has_room else 2), 0.8 + 1.6 * n)
    figure = figure or plt.figure(figsize=size, layout="constrained")
    axes = figure.subplots(n, n, squeeze=False)
    limits = [_limits(values.isel(parameter=k), chains[name]) for k, name in enumerate(names)]
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
        ax.set_xlabel(label(run, names[column]) if row == n - 1 else "")
        ax.set_ylabel(label(run, names[row]) if column == 0 < row else "")
    figure.align_labels()
    title = f"{n} of {len(known)} parameters" if n < len(known) else None
    place = {"loc": "upper right", "borderaxespad": 1.5} if has_room else {"loc": "outside right upper"}
    figure.legend(handles=_pair_legend(values), frameon=False, title=title, **place)
    return axes


def _limits(values, chains):
    """Range of one parameter that shows the draws, three floors around the estimate, and truth or published value."""
    wanted = [*np.quantile(chains, [0.002, 0.998])]
    wanted += [values["mle"] + width * values["floor"] for width in (-2.6, 2.6)]
    wanted += [values[name] for name in ("truth", "published")]
    low, high = np.nanmin(wanted), np.nanmax(wanted)
    margin = 0.06 * (high - low) or 0.5
    return low - margin, high + margin


def _draw_marginal(ax, chains, values):
    ax.hist(chains.values.ravel(), bins=np.linspace(*ax.get_xlim(), 31), density=True, color=ENSEMBLE, alpha=0.35)
    if values["floor"].notnull():
        x = np.linspace(*ax.get_xlim(), 200)
        height = np.exp(-0.5 * ((x - values["mle"].item()) / values["floor"].item()) ** 2)
        ax.plot(x, height / (values["floor"].item() * np.sqrt(2 * np.pi)), color=REFERENCE, lw=1.2)
    for name, style in [("truth", "--"), ("published", ":")]:
        if values[name].notnull():
            ax.axvline(values[name].item(), color=TRUTH, ls=style, lw=1.4)


def _draw_pair(ax, x, y, values, covariance):
    some = slice(None, None, -(-x.size // _N_POINTS))
    points = x.values.ravel()[some], y.values.ravel()[some]
    ax.plot(*points, ".", ms=1.5, color=ENSEMBLE, alpha=0.25, mew=0, rasterized=True)
    ax.plot(x.mean(schema.DRAW), y.mean(schema.DRAW), "o", ms=4, mfc=ENSEMBLE, mec="white", mew=0.5)
    ax.plot(*values["mle"], "+", ms=9, color=REFERENCE)
    if np.isfinite(covariance).all():
        _draw_ellipses(ax, values["mle"].values, covariance)
    ax.plot(*values["truth"], "*", ms=9, mfc="white", color=TRUTH)
    ax.plot(*values["published"], "D", ms=5, mfc="white", color=TRUTH)


def _draw_ellipses(ax, centre, covariance):
    """Where the likelihood's distance is 1 and 2 deviations; their shadows on the axes are the intervals."""
    eigenvalues, vectors = np.linalg.eigh(covariance)
    angle = np.degrees(np.arctan2(vectors[1, 1], vectors[0, 1]))
    for width, style in [(1, "-"), (2, "--")]:
        minor, major = 2 * width * np.sqrt(np.maximum(eigenvalues, 0))
        ax.add_patch(Ellipse(centre, major, minor, angle=angle, fill=False, color=REFERENCE, lw=1.1, ls=style))


def _trim(ax, has_y, is_left, is_bottom):
    ax.xaxis.set_major_locator(MaxNLocator(3, prune="both"))
    ax.yaxis.set_major_locator(MaxNLocator(3, prune="both") if has_y else NullLocator())
    ax.tick_params(labelleft=is_left, labelbottom=is_bottom, labelsize="small")
    ax.tick_params(axis="x", rotation=40)


def _pair_legend(values):
    handles = [
        Line2D([], [], ls="", marker=".", ms=4, color=ENSEMBLE, alpha=0.5, label="draws"),
        Line2D([], [], ls="", marker="o", ms=5, color=ENSEMBLE, label="mean of a chain"),
    ]
    if values["floor"].notnull().any():
        handles.append(Line2D([], [], marker="+", ms=9, color=REFERENCE, label="MLE, 1 deviation"))
        handles.append(Line2D([], [], ls="--", color=REFERENCE, label="MLE, 2 deviations"))
    for name, marker, line in [("truth", "*", "--"), ("published", "D", ":")]:
        if values[name].notnull().any():
            handles.append(Line2D([], [], marker=marker, ms=7, mfc="white", ls=line, color=TRUTH, label=name))
    return handles
