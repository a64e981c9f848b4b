"""Generators and discriminators: the proposed parameters during training, and the scores of events at its end."""

from __future__ import annotations

from collections.abc import Iterable

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from .. import _circular, analysis
from ..analysis.fits import Reference, reference_of
from ..store import schema
from ..store.shown import Shown
from .base import (
    ENSEMBLE,
    LEARNED,
    PRIOR,
    REFERENCE,
    SEVERAL,
    TRUTH,
    Style,
    beside_the_estimate,
    draw_bands,
    edges_of,
    label,
    new_axes,
    of_interest,
    power_of,
)

_N_COLUMNS = 3


def evolution(
    run: xr.DataTree, parameters: str | Iterable[str] | None = None, figure: Figure | SubFigure | None = None
) -> NDArray[np.object_]:
    """Draw the distribution of the generated parameter vectors during training.

    The line is the median of the vectors of all chains together, the bands hold 68 % and 95 % of them.  The
    maximum-likelihood estimate (MLE) and its standard deviation (1 floor unit) or, without a likelihood, the fit by the
    learned score and its standard deviation, truth and published values are drawn where they are known.

    Parameters
    ----------
    run : DataTree
        A run that `open_run` has opened; it may be unfinished.
    parameters : str, iterable of str or None
        The parameters to draw, in this order; None draws those of interest, or the first six if the problem does not
        name any.
    figure : Figure or None
        Figure or SubFigure to draw on; None makes a new figure.

    Returns
    -------
    ndarray of Axes (parameter,)
        The axes of each parameter.

    Raises
    ------
    ValueError
        If the run does not have such a parameter, if no snapshot has been written yet, or if several runs are given.

    See Also
    --------
    sagips_kit.analysis.evolution : The numbers that are drawn.
    sagips_kit.plot.densities : The generated events during training.
    sagips_kit.plot.posterior : The parameters at the end of training.

    Examples
    --------
    >>> from sagips_kit import open_run, plot
    >>> run = open_run("runs/proxy.zarr")
    >>> axes = plot.evolution(run, ["theta0", "theta3"])
    >>> [ax.get_ylabel() for ax in axes]
    ['$\\\\theta_0$', '$\\\\theta_3$']
    """
    analysis.single_run(run, "plot.evolution", SEVERAL)
    values = analysis.evolution(run)["quantiles"]
    names = of_interest(run, parameters, 6)
    n_columns = min(len(names), _N_COLUMNS)
    n_rows = -(-len(names) // n_columns)
    figure = figure or plt.figure(figsize=(0.6 + 3.6 * n_columns, 0.9 + 2.1 * n_rows), layout="constrained")
    axes = figure.subplots(n_rows, n_columns, sharex=True, squeeze=False).ravel()
    reference, last = reference_of(run), values.sel(quantile=0.5).isel(step=-1)
    known = _beside(run, last, reference)
    for name, ax in zip(names, axes, strict=False):
        one = values.sel(parameter=name)
        draw_bands(ax, one, "all vectors", x=one[schema.STEP])
        _draw_fit(ax, reference, known.sel(parameter=name))
        _draw_known(ax, known.sel(parameter=name))
        ax.yaxis.set_major_locator(MaxNLocator(4))
        power = power_of(max(map(abs, ax.get_ylim())))
        if power:
            ax.yaxis.set_major_formatter(lambda value, _, power=power: f"{value / 10.0**power:g}")
        ax.set(ylabel=label(run, name, power), xlim=(0, run.attrs[schema.LAYOUT_KEY]["n_steps"]))
    for ax in axes[len(names) :]:
        ax.set_visible(False)
    for ax in axes[max(0, len(names) - n_columns) : len(names)]:
        ax.set_xlabel("step")
        ax.tick_params(labelbottom=True)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, ncols=2 * n_columns, loc="outside upper center")
    return axes[: len(names)]


def _beside(run: xr.DataTree, centre: xr.DataArray, reference: Reference) -> xr.Dataset:
    """Reference, truth and published values, those of periodic parameters in the period of the last generated ones."""
    known = run[schema.REFERENCE].to_dataset()[["truth", "published"]].load()
    priors = Shown.from_attributes(run.attrs).priors
    names = centre[schema.PARAMETER].values.tolist()
    known["prior"] = (schema.PARAMETER, [priors.get(name, (np.nan,))[0] for name in names])
    around = schema.intervals_of(run[schema.POSTERIOR].attrs)
    _, period = _circular.circles(centre[schema.PARAMETER].values.tolist(), around)
    known = known.assign(mean=centre, circle=(schema.PARAMETER, period), centre=reference.centre)
    return beside_the_estimate(known).drop_vars(["mean", "circle"]).assign(width=reference.deviation)


def _draw_fit(ax: Axes, reference: Reference, values: xr.Dataset) -> None:
    """Draw the fit that the run is compared with, for one parameter, as horizontal lines."""
    centre, deviation = float(values["centre"]), float(values["width"])
    if not np.isfinite(centre):
        return
    colour, unit = (REFERENCE, "floor unit") if reference.name == "mle" else (LEARNED, "deviation")
    style: Style = {"color": colour, "ls": "--"}
    ax.axhline(centre, lw=1.6, label=reference.label, **style)
    for sign, text in [(-1, f"{reference.label} $\\pm$ 1 {unit}"), (1, None)]:
        if np.isfinite(deviation):
            ax.axhline(centre + sign * deviation, lw=0.7, label=text, **style)


def _draw_known(ax: Axes, values: xr.Dataset) -> None:
    """Draw truth, published value and prior of one parameter as horizontal lines."""
    for name, style, color in [("truth", (0, (1, 1)), TRUTH), ("published", "-.", TRUTH), ("prior", ":", PRIOR)]:
        if values[name].notnull():
            ax.axhline(float(values[name]), color=color, lw=1.4, ls=style, label=name)


def discriminator(run: xr.DataTree, n_bins: int = 40, ax: Axes | None = None) -> Axes:
    """Draw the scores of generated and observed events at the end of training, and give the AUC.

    The AUC (area under the ROC curve) is the probability that a discriminator gives an observed event a higher score
    than a generated one: 0.5 if it cannot separate them.  The title gives its mean and range over the discriminators,
    and the value that is expected by chance.

    Parameters
    ----------
    run : DataTree
        A finished run that `open_run` has opened.
    n_bins : int
        Number of bins of the histograms.
    ax : Axes or None
        Axes to draw on; None makes a new figure.

    Returns
    -------
    Axes
        The axes with the picture.

    Raises
    ------
    ValueError
        If no scores have been written yet, or if several runs are given.

    See Also
    --------
    sagips_kit.analysis.discriminator : The numbers that are drawn.
    sagips_kit.plot.losses : The losses of the networks during training.

    Examples
    --------
    >>> from sagips_kit import open_run, plot
    >>> run = open_run("runs/proxy.zarr")
    >>> ax = plot.discriminator(run)
    >>> ax.get_title(loc="left")
    'AUC ..., ... to ... in 2 discriminators; by chance 0.5 $\\\\pm$ ...'
    """
    analysis.single_run(run, "plot.discriminator", SEVERAL)
    values = analysis.discriminator(run, n_bins)
    ax = ax or new_axes(6.4, 3.8)
    edges = edges_of(values)
    ax.stairs(values["generated"], edges, fill=True, color=ENSEMBLE, alpha=0.3, lw=0, label="generated events")
    ax.stairs(values["observed"], edges, color=REFERENCE, lw=1.6, label="observed events")
    if analysis.fact(run, "loss") != "least squares":
        ax.axvline(0, color=TRUTH, ls=":", lw=1.4, label="undecided")
    auc = values["auc"].values[np.isfinite(values["auc"].values)]
    found = f"AUC {auc.mean():.3f}"
    if len(auc) > 1:
        found += f", {auc.min():.3f} to {auc.max():.3f} in {len(auc)} discriminators"
    chance = f"by chance 0.5 $\\pm$ {float(values['auc_error']):.3f}"
    ax.set_title(f"{found}; {chance}", fontsize="medium", loc="left")
    ax.set(xlabel="score of the discriminator", ylabel="density", xlim=(edges[0], edges[-1]))
    ax.set_ylim(top=1.25 * ax.get_ylim()[1])
    ax.legend(frameon=False, ncols=3, loc="upper center")
    return ax
