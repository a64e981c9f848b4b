"""Pictures of a run: each function draws what a function of `analysis` computes, and returns Axes.

Legible in grey: what was estimated, the reference and the truth differ by marker and line, not only by colour.  No
global setting of matplotlib is touched.
"""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Ellipse
from matplotlib.ticker import MaxNLocator, NullLocator

from . import analysis, schema

_ENSEMBLE = "#1b6ca8"
_TRUTH = "#d1495b"
_REFERENCE = "0.15"
_FAINT = "0.75"
_N_SHOWN = 6  # parameters in a pair plot that stays legible
_N_POINTS = 5000  # draws in one of its panels, at most


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
    path = analysis.convergence(run)
    if path["distance_each"].isnull().all():
        raise ValueError(
            "There is no distance to draw: the run has no likelihood reference or no rows yet. Type "
            'analysis.convergence(run).theta.plot(x="step", hue="parameter") to see the parameters themselves.'
        )
    ax = ax or _new_axes(6.4, 4.0)
    each = path["distance_each"].stack(generator=(schema.RANK, schema.MEMBER)).transpose("generator", schema.STEP)
    ax.plot(path[schema.STEP], each.T, color=_FAINT, lw=0.8, label=["each generator"] + [None] * (len(each) - 1))
    ax.plot(path[schema.STEP], path["distance"], color=_ENSEMBLE, lw=2.4, label="mean of all generators")
    ax.axhline(1, color=_REFERENCE, ls="--", lw=1.2, label="statistical floor")
    ax.set(yscale="log", xlabel="step", ylabel="RMS distance to the MLE [floor units]")
    ax.set_xlim(0, path[schema.STEP].max())
    ax.legend(frameon=False)
    return ax


def estimates(run, ax=None):
    """Every estimate and its deviation, relative to the maximum-likelihood estimate and in its deviations.

    Without a likelihood reference, relative to the estimate itself and in its own deviations.

    Parameters
    ----------
    run : DataTree
    ax : Axes or None

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If the run has a single chain and no likelihood reference.
    """
    values = analysis.estimate(run)
    has_floor = bool(values["floor"].notnull().any())
    zero, unit = (values["mle"], values["floor"]) if has_floor else (values["mean"], values["deviation"])
    if unit.isnull().all():
        raise ValueError(
            "There is no unit to draw in: the run has one chain and no likelihood reference. Look at "
            "analysis.summary(run) instead."
        )
    names = values[schema.PARAMETER].values
    ax = ax or _new_axes(6.4, 1.4 + 0.32 * len(names))
    rows = np.arange(len(names))
    for width, shade in [(2, "0.94"), (1, "0.86")]:
        ax.axvspan(-width, width, color=shade, lw=0)
    ax.axvline(0, color=_REFERENCE, lw=1)

    def draw(name, deviation, offset, **style):
        x = (values[name] - zero) / unit
        if x.notnull().any():
            error = None if deviation is None else values[deviation] / unit
            ax.errorbar(x, rows + offset, xerr=error, capsize=0, lw=1.6, ls="", **style)

    draw("mean", "deviation", 0, marker="o", ms=6, color=_ENSEMBLE, label="estimate")
    draw("truth", None, 0, marker="*", ms=10, mfc="white", color=_TRUTH, label="truth")
    draw("published", "published_deviation", 0.25, marker="D", ms=5, mfc="white", color=_TRUTH, label="published")
    ax.set(yticks=rows, yticklabels=names, ylim=(len(names) - 0.4, -0.6))
    ax.set_xlabel("distance to the MLE [floor units]" if has_floor else "distance to the estimate [its deviation]")
    ax.tick_params(axis="y", length=0)
    ax.spines[["top", "left", "right"]].set_visible(False)
    ax.legend(frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1))
    return ax


def posterior(run, parameters=None, figure=None):
    """Pairs of parameters: draws, the mean of each chain, the likelihood's ellipses, and truth or published values.

    Parameters
    ----------
    run : DataTree
    parameters : sequence of str or None
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
    values = analysis.estimate(run)
    known = list(values[schema.PARAMETER].values)
    names = known[:_N_SHOWN] if parameters is None else list(parameters)
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"The run has no parameter {', '.join(unknown)}. Allowed: {', '.join(known)}.")
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
        ax.set_xlabel(_label(run, names[column]) if row == n - 1 else "")
        ax.set_ylabel(_label(run, names[row]) if column == 0 < row else "")
    figure.align_labels()
    title = f"{n} of {len(known)} parameters" if n < len(known) else None
    place = {"loc": "upper right", "borderaxespad": 1.5} if has_room else {"loc": "outside right upper"}
    figure.legend(handles=_pair_legend(values), frameon=False, title=title, **place)
    return axes


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
    histograms = analysis.observed_and_generated(run, observable, bins, by)
    parts = [histograms] if by is None else [histograms.sel({by: value}) for value in histograms[by].values]
    n = len(parts)
    width = 6.4 if n == 1 else 1 + n * np.clip(12 / n, 2, 3.2)
    figure = figure or plt.figure(figsize=(width, 4.8), layout="constrained")
    axes = figure.subplots(2, n, sharex=True, sharey="row", squeeze=False, height_ratios=[3, 1])
    for part, (top, bottom) in zip(parts, axes.T, strict=True):
        _draw_densities(top, part)
        _draw_ratio(bottom, part)
        bottom.set_xlabel(_label(run, observable))
        if by is not None:
            top.set_title(f"{by} = {part[by].item():g}")
    unit = _unit(run, observable)
    axes[0, 0].set_ylabel(f"density [1/{unit}]" if unit else "density")
    axes[1, 0].set_ylabel("observed /\ngenerated")
    axes[1, 0].set_ylim(_ratio_limits(histograms))
    axes[0, 0].set_ylim(bottom=0)
    axes[0, -1].legend(frameon=False)
    figure.align_ylabels(axes[:, 0])
    return axes


def _new_axes(width, height):
    return plt.figure(figsize=(width, height), layout="constrained").add_subplot()


def _unit(run, name):
    group = schema.POSTERIOR if name in run[schema.POSTERIOR] else schema.OBSERVED
    return run[group][name].attrs.get("units", "")


def _label(run, name):
    unit = _unit(run, name)
    return f"{name} [{unit}]" if unit else name


def _limits(values, chains):
    """Range of one parameter that shows the draws, three floors around the estimate, and truth or published value."""
    wanted = [*np.quantile(chains, [0.002, 0.998])]
    wanted += [values["mle"] + width * values["floor"] for width in (-2.6, 2.6)]
    wanted += [values[name] for name in ("truth", "published")]
    low, high = np.nanmin(wanted), np.nanmax(wanted)
    margin = 0.06 * (high - low) or 0.5
    return low - margin, high + margin


def _draw_marginal(ax, chains, values):
    ax.hist(chains.values.ravel(), bins=np.linspace(*ax.get_xlim(), 31), density=True, color=_ENSEMBLE, alpha=0.35)
    if values["floor"].notnull():
        x = np.linspace(*ax.get_xlim(), 200)
        height = np.exp(-0.5 * ((x - values["mle"].item()) / values["floor"].item()) ** 2)
        ax.plot(x, height / (values["floor"].item() * np.sqrt(2 * np.pi)), color=_REFERENCE, lw=1.2)
    for name, style in [("truth", "--"), ("published", ":")]:
        if values[name].notnull():
            ax.axvline(values[name].item(), color=_TRUTH, ls=style, lw=1.4)


def _draw_pair(ax, x, y, values, covariance):
    some = slice(None, None, -(-x.size // _N_POINTS))
    points = x.values.ravel()[some], y.values.ravel()[some]
    ax.plot(*points, ".", ms=1.5, color=_ENSEMBLE, alpha=0.25, mew=0, rasterized=True)
    ax.plot(x.mean(schema.DRAW), y.mean(schema.DRAW), "o", ms=4, mfc=_ENSEMBLE, mec="white", mew=0.5)
    ax.plot(*values["mle"], "+", ms=9, color=_REFERENCE)
    if np.isfinite(covariance).all():
        _draw_ellipses(ax, values["mle"].values, covariance)
    ax.plot(*values["truth"], "*", ms=9, mfc="white", color=_TRUTH)
    ax.plot(*values["published"], "D", ms=5, mfc="white", color=_TRUTH)


def _draw_ellipses(ax, centre, covariance):
    """Where the likelihood's distance is 1 and 2 deviations; their shadows on the axes are the intervals."""
    eigenvalues, vectors = np.linalg.eigh(covariance)
    angle = np.degrees(np.arctan2(vectors[1, 1], vectors[0, 1]))
    for width, style in [(1, "-"), (2, "--")]:
        minor, major = 2 * width * np.sqrt(np.maximum(eigenvalues, 0))
        ax.add_patch(Ellipse(centre, major, minor, angle=angle, fill=False, color=_REFERENCE, lw=1.1, ls=style))


def _trim(ax, has_y, is_left, is_bottom):
    ax.xaxis.set_major_locator(MaxNLocator(3, prune="both"))
    ax.yaxis.set_major_locator(MaxNLocator(3, prune="both") if has_y else NullLocator())
    ax.tick_params(labelleft=is_left, labelbottom=is_bottom, labelsize="small")
    ax.tick_params(axis="x", rotation=40)


def _pair_legend(values):
    handles = [
        Line2D([], [], ls="", marker=".", ms=4, color=_ENSEMBLE, alpha=0.5, label="draws"),
        Line2D([], [], ls="", marker="o", ms=5, color=_ENSEMBLE, label="mean of a chain"),
    ]
    if values["floor"].notnull().any():
        handles.append(Line2D([], [], marker="+", ms=9, color=_REFERENCE, label="MLE, 1 deviation"))
        handles.append(Line2D([], [], ls="--", color=_REFERENCE, label="MLE, 2 deviations"))
    for name, marker, line in [("truth", "*", "--"), ("published", "D", ":")]:
        if values[name].notnull().any():
            handles.append(Line2D([], [], marker=marker, ms=7, mfc="white", ls=line, color=_TRUTH, label=name))
    return handles


def _edges(part):
    return [*part["low"].values, part["high"].values[-1]]


def _draw_densities(ax, part):
    edges = _edges(part)
    low, high = part["generated"] - part["generated_error"], part["generated"] + part["generated_error"]
    ax.stairs(high, edges, baseline=low, fill=True, color=_ENSEMBLE, alpha=0.3, lw=0)
    ax.stairs(part["generated"], edges, color=_ENSEMBLE, lw=1.6, label="generated")
    ax.errorbar(
        part["bin"], part["observed"], part["observed_error"], fmt=".", color=_REFERENCE, lw=1, label="observed"
    )


def _draw_ratio(ax, part):
    part = part.where(part["generated"] > 0)
    band = part["generated_error"] / part["generated"]
    edges = _edges(part)
    ax.stairs(1 + band, edges, baseline=1 - band, fill=True, color=_ENSEMBLE, alpha=0.3, lw=0)
    ax.axhline(1, color=_ENSEMBLE, lw=1.6)
    ratio, error = part["observed"] / part["generated"], part["observed_error"] / part["generated"]
    ax.errorbar(part["bin"], ratio, error, fmt=".", color=_REFERENCE, lw=1)


def _ratio_limits(histograms):
    """Symmetric limits that show every point with its error but those in the outermost tails."""
    generated = histograms["generated"] * (histograms["high"] - histograms["low"])
    below = generated.cumsum("bin") / generated.sum("bin")
    bulk = histograms.where((below > 0.01) & (below < 0.99) & (generated > 0))
    away = abs(bulk["observed"] / bulk["generated"] - 1) + bulk["observed_error"] / bulk["generated"]
    width = float(np.clip(1.1 * away.max(), 0.02, 1))
    return 1 - width, 1 + width
