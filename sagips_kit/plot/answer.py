"""The answer beside what it can be compared with."""

import numpy as np

from .. import analysis
from ..store import schema
from .base import ENSEMBLE, REFERENCE, TRUTH, new_axes


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
    analysis.single_run(run, "plot.estimates", "plot.comparison(runs)")
    values = analysis.estimate(run)
    has_floor = bool(values["floor"].notnull().any())
    zero, unit = (values["mle"], values["floor"]) if has_floor else (values["mean"], values["deviation"])
    if unit.isnull().all():
        raise ValueError(
            "There is no unit to draw in: the run has one chain and no likelihood reference. Look at "
            "analysis.summary(run) instead."
        )
    names = values[schema.PARAMETER].values
    ax = ax or new_axes(6.4, 1.4 + 0.32 * len(names))
    rows = np.arange(len(names))
    for width, shade in [(2, "0.94"), (1, "0.86")]:
        ax.axvspan(-width, width, color=shade, lw=0)
    ax.axvline(0, color=REFERENCE, lw=1)

    def draw(name, deviation, offset, **style):
        x = (values[name] - zero) / unit
        if x.notnull().any():
            error = None if deviation is None else values[deviation] / unit
            ax.errorbar(x, rows + offset, xerr=error, capsize=0, lw=1.6, ls="", **style)

    draw("mean", "deviation", 0, marker="o", ms=6, color=ENSEMBLE, label="estimate")
    draw("truth", None, 0, marker="*", ms=10, mfc="white", color=TRUTH, label="truth")
    draw("published", "published_deviation", 0.25, marker="D", ms=5, mfc="white", color=TRUTH, label="published")
    ax.set(yticks=rows, yticklabels=names, ylim=(len(names) - 0.4, -0.6))
    ax.set_xlabel("distance to the MLE [floor units]" if has_floor else "distance to the estimate [its deviation]")
    ax.tick_params(axis="y", length=0)
    ax.spines[["top", "left", "right"]].set_visible(False)
    ax.legend(frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1))
    return ax


def pulls(run, ax=None):
    """Residuals in units of their deviations: of each parameter, or of several runs as a histogram.

    Parameters
    ----------
    run : DataTree
        One run, or several side by side.
    ax : Axes or None

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If nothing is known that the estimates could be compared with.
    """
    values = analysis.residuals(run)["pull"]
    if values.isnull().all():
        raise ValueError(
            "There is no pull to draw: the run has one chain, or neither truth nor published values nor a likelihood "
            "reference. Look at analysis.summary(run) instead."
        )
    if schema.ALONG_KEY in run.attrs:
        return _draw_histogram(values, ax)
    names = values[schema.PARAMETER].values
    ax = ax or new_axes(6.4, 1.4 + 0.32 * len(names))
    for width, shade in [(2, "0.94"), (1, "0.86")]:
        ax.axvspan(-width, width, color=shade, lw=0)
    ax.axvline(0, color=REFERENCE, lw=1)
    rows = np.arange(len(names))
    styles = {
        "truth": {"marker": "*", "ms": 10, "mfc": "white", "color": TRUTH},
        "mle": {"marker": "o", "ms": 6, "color": ENSEMBLE, "label": "MLE [floor units]"},
        "published": {"marker": "D", "ms": 5, "mfc": "white", "color": TRUTH},
    }
    for name, style in styles.items():
        x = values.sel(reference=name)
        if x.notnull().any():
            ax.plot(x, rows, ls="", **{"label": name} | style)
    ax.set(yticks=rows, yticklabels=names, ylim=(len(names) - 0.4, -0.6), xlabel="(estimate - reference) / deviation")
    ax.tick_params(axis="y", length=0)
    ax.spines[["top", "left", "right"]].set_visible(False)
    ax.legend(frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1))
    return ax


def _draw_histogram(values, ax):
    ax = ax or new_axes(6.4, 4.0)
    # To the truth or a published value: distances to the fit of the same events follow no normal distribution.
    values = values.sel(reference=["truth", "published"]).values.ravel()
    values = values[np.isfinite(values)]
    edges = np.linspace(-4, 4, 17)
    found = f"{len(values)} pulls: mean {values.mean():.2f}, deviation {values.std():.2f}"
    ax.hist(np.clip(values, -4, 4), edges, density=True, color=ENSEMBLE, alpha=0.5, label=found)
    x = np.linspace(-4, 4, 200)
    ax.plot(x, np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi), color=REFERENCE, lw=1.6, label="standard normal")
    ax.set(xlabel="(estimate - truth or published) / deviation", ylabel="density", xlim=(-4, 4))
    ax.legend(frameon=False)
    return ax
