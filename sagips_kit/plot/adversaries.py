"""The two adversaries: what the generators proposed on the way, and what the discriminators say in the end."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import MaxNLocator

from .. import analysis
from ..store import schema
from .base import ENSEMBLE, REFERENCE, TRUTH, chosen, draw_bands, label, new_axes

_N_COLUMNS = 3


def evolution(run, parameters=None, figure=None):
    """How the generated parameter vectors spread on the way: median, 68 % and 95 % of them, of all chains together.

    Parameters
    ----------
    run : DataTree
        May still be running.
    parameters : str, sequence of str or None
        Which to show; None takes the first six.
    figure : Figure or None

    Returns
    -------
    ndarray of Axes (parameter,)

    Raises
    ------
    ValueError
        For an unknown parameter, or if there is no snapshot yet.
    """
    analysis.single_run(run, "plot.evolution", "plot.comparison(runs)")
    values = analysis.evolution(run)["quantiles"]
    names = chosen(parameters, list(values[schema.PARAMETER].values), 6)
    n_columns = min(len(names), _N_COLUMNS)
    n_rows = -(-len(names) // n_columns)
    figure = figure or plt.figure(figsize=(0.6 + 3.6 * n_columns, 0.9 + 2.1 * n_rows), layout="constrained")
    axes = figure.subplots(n_rows, n_columns, sharex=True, squeeze=False).ravel()
    reference = run[schema.REFERENCE].to_dataset().load()
    for name, ax in zip(names, axes, strict=False):
        one = values.sel(parameter=name)
        draw_bands(ax, one, "all vectors", x=one[schema.STEP])
        _draw_reference(ax, reference.sel(parameter=name))
        ax.yaxis.set_major_locator(MaxNLocator(4))
        ax.set(ylabel=label(run, name), xlim=(0, run.attrs[schema.LAYOUT_KEY]["n_steps"]))
    for ax in axes[len(names) :]:
        ax.set_visible(False)
    for ax in axes[max(0, len(names) - n_columns) : len(names)]:
        ax.set_xlabel("step")
        ax.tick_params(labelbottom=True)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, ncols=len(labels), loc="outside upper center")
    return axes[: len(names)]


def _draw_reference(ax, values):
    if values["mle"].notnull():
        centre, deviation = float(values["mle"]), float(values["deviation"])
        ax.axhline(centre, color=REFERENCE, lw=1.6, ls="--", label="MLE")
        for sign, text in [(-1, "MLE $\\pm$ 1 floor unit"), (1, None)]:
            if np.isfinite(deviation):
                ax.axhline(centre + sign * deviation, color=REFERENCE, lw=0.7, ls="--", label=text)
    for name, style in [("truth", (0, (1, 1))), ("published", "-.")]:
        if values[name].notnull():
            ax.axhline(float(values[name]), color=TRUTH, lw=1.4, ls=style, label=name)


def discriminator(run, ax=None):
    """What the discriminators say, at the end, of generated and of observed events: histograms of scores, and the AUC.

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
        If no scores have been written yet.
    """
    analysis.single_run(run, "plot.discriminator", "plot.comparison(runs)")
    values = analysis.discriminator(run)
    ax = ax or new_axes(6.4, 3.8)
    edges = [*values["low"].values, values["high"].values[-1]]
    ax.stairs(values["generated"], edges, fill=True, color=ENSEMBLE, alpha=0.3, lw=0, label="generated events")
    ax.stairs(values["observed"], edges, color=REFERENCE, lw=1.6, label="observed events")
    if analysis.fact(run, "loss") != "least squares":
        ax.axvline(0, color=TRUTH, ls=":", lw=1.4, label="cannot tell")
    auc = values["auc"].values[np.isfinite(values["auc"].values)]
    found = f"AUC {auc.mean():.3f}"
    if len(auc) > 1:
        found += f", {auc.min():.3f} to {auc.max():.3f} in {len(auc)} discriminators"
    ax.set_title(f"{found}; chance 0.5 $\\pm$ {float(values['auc_error']):.3f}", fontsize="medium", loc="left")
    ax.set(xlabel="discriminator's score", ylabel="density", xlim=(edges[0], edges[-1]))
    ax.set_ylim(top=1.25 * ax.get_ylim()[1])
    ax.legend(frameon=False, ncols=3, loc="upper center")
    return ax
