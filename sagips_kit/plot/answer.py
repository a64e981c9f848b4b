"""The estimates beside what they can be compared with: the two fits of a run, truth and published values."""

from collections.abc import Iterable

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from .. import analysis
from ..analysis.fits import Reference, reference_of
from ..store import schema
from .base import (
    ENSEMBLE,
    LEARNED,
    PRIOR,
    REFERENCE,
    TRUTH,
    Style,
    beside_the_estimate,
    chosen,
    folded,
    is_several,
    legend_above,
    new_axes,
    of_interest,
    parameter_axes,
    run_styles,
    symbol,
)

_LABELS = {"mean": "chains: mean and spread", "mle": "MLE [floor units]", "fit": "fit [its deviations]"}
_FIT: Style = {"marker": "s", "ms": 5, "mfc": "white", "color": LEARNED}


def estimate(run: xr.DataTree, parameters: str | Iterable[str] | None = None, ax: Axes | None = None) -> Axes:
    """Draw mean and spread of the chains and the fit by the learned score, relative to the maximum-likelihood estimate.

    Each parameter has a row.  Distances are in floor units: standard deviations of the maximum-likelihood estimate
    (MLE) from the same events.  The bands show 1 and 2 of them.  If a run has no likelihood fit, its distances are
    relative to the fit by the learned score, in standard deviations of that fit; without any fit, to the estimate
    itself, in its standard deviations.

    Parameters
    ----------
    run : DataTree
        A run that `open_run` has opened, or several that `open_runs` has opened.  Of a single run, the fit by the
        learned score, priors, truth and published values are drawn too; several runs are drawn side by side.
    parameters : str, iterable of str or None
        The parameters to draw, in this order; None draws those of interest, or all if the problem does not name any.
    ax : Axes or None
        Axes to draw on; None makes a new figure.

    Returns
    -------
    Axes
        The axes with the picture.

    Raises
    ------
    ValueError
        If no chain has been written yet, if a single run has neither a fit nor several chains, or if none of several
        runs has a fit.

    See Also
    --------
    sagips_kit.analysis.estimate : The numbers that are drawn.
    sagips_kit.plot.residuals : Distances to truth and published values, in standard deviations.

    Examples
    --------
    >>> from sagips_kit import open_run, plot
    >>> run = open_run("runs/proxy.zarr")
    >>> ax = plot.estimate(run)
    >>> ax.get_xlabel()
    'distance to the MLE [floor units]'
    """
    values = analysis.estimate(run)
    if is_several(run):
        names = chosen(parameters, values[schema.PARAMETER].values.tolist(), values.sizes[schema.PARAMETER])
        return _estimate_of_each(run, values.sel(parameter=names), ax)
    reference, names = reference_of(run), of_interest(run, parameters)
    values = beside_the_estimate(values.assign(centre=reference.centre, width=reference.deviation))
    values = values.sel(parameter=names)
    zero, unit, xlabel = values["centre"], values["width"], _distance(reference)
    if not reference.name:
        zero, unit, xlabel = values["mean"], values["deviation"], "distance to the estimate [its standard deviations]"
    if unit.isnull().all():
        raise ValueError(
            "The run has one chain and no fit, so no unit is known in which distances could be drawn. Type "
            "analysis.summary(run) for a table of the estimates."
        )
    ax = parameter_axes([symbol(run, name) for name in names], xlabel, ax, note=folded(run, names))
    rows = np.arange(len(names))

    def draw(name: str, deviation: str | None, offset: float, style: Style) -> None:
        x = (values[name] - zero) / unit
        if x.notnull().any():
            error = None if deviation is None else values[deviation] / unit
            style = {"capsize": 0, "lw": 1.6, "ls": "", "label": _LABELS.get(name, name)} | style
            ax.errorbar(x, rows + offset, xerr=error, **style)

    draw("mean", "deviation", 0, {"marker": "o", "ms": 6, "color": ENSEMBLE})
    draw("fit", "fit_deviation", -0.25, _FIT)
    draw("truth", None, 0, {"marker": "*", "ms": 10, "mfc": "white", "color": TRUTH})
    draw("published", "published_deviation", 0.25, {"marker": "D", "ms": 5, "mfc": "white", "color": TRUTH})
    # Most priors are much wider than what the events say, and would leave no room for the rest.
    limits = ax.get_xlim()
    draw("prior", "prior_deviation", 0.35, {"marker": "", "color": PRIOR, "alpha": 0.8})
    draw("prior", None, 0.35, {"marker": "|", "ms": 8, "color": PRIOR, "label": "_prior"})
    ax.set_xlim(limits)
    legend_above(ax)
    return ax


def _distance(reference: Reference) -> str:
    """Label of an axis of distances to the reference."""
    return f"distance to the {reference.label} [{reference.unit}]"


def _estimate_of_each(runs: xr.DataTree, values: xr.Dataset, ax: Axes | None) -> Axes:
    """The estimates of several runs, each relative to the MLE of its own events, or to the other fit if none has it."""
    references = [reference_of(run) for run in analysis.each_run(runs).values()]
    found = next((one for name in ("mle", "fit") for one in references if one.name == name), None)
    if found is None:
        raise ValueError(
            "None of these runs has a fit, so no unit is known in which distances could be drawn. Type "
            "analysis.summary(runs) for a table of the estimates."
        )
    distance, unit = f"to_{found.name}", "floor" if found.name == "mle" else "fit_deviation"
    dim = runs.attrs[schema.ALONG_KEY]
    names, labels = (values[name].values.tolist() for name in (schema.PARAMETER, dim))
    symbols = [symbol(next(iter(runs.children.values())), name) for name in names]
    ax = parameter_axes(symbols, _distance(found), ax, 6.8, 0.2 + 0.1 * len(labels))
    offsets = np.linspace(-0.3, 0.3, len(labels)) if len(labels) > 1 else [0]
    rows = np.arange(len(names))
    for k, (label, style) in enumerate(zip(labels, run_styles(len(labels)), strict=True)):
        one = values.isel({dim: k})
        style |= {"ls": "", "lw": 1.2, "ms": 4.5, "label": str(label)}
        ax.errorbar(one[distance], rows + offsets[k], xerr=one["deviation"] / one[unit], **style)
    legend_above(ax, 2, title=dim, fontsize="small")
    return ax


def residuals(run: xr.DataTree, parameters: str | Iterable[str] | None = None, ax: Axes | None = None) -> Axes:
    """Draw how far the estimates are from truth, both fits and published values, in standard deviations.

    Of a single run, each parameter has a row.  Of several runs, the residuals of all parameters relative to truth or
    published values make one histogram, which is standard normal if the standard deviations are right.

    Parameters
    ----------
    run : DataTree
        A run that `open_run` has opened, or several that `open_runs` has opened.
    parameters : str, iterable of str or None
        The parameters to draw, in this order; None draws those of interest, or all if the problem does not name any.
    ax : Axes or None
        Axes to draw on; None makes a new figure.

    Returns
    -------
    Axes
        The axes with the picture.

    Raises
    ------
    ValueError
        If no chain has been written yet, or if nothing is known that the estimates could be compared with.

    See Also
    --------
    sagips_kit.analysis.residuals : The numbers that are drawn; this picture shows its `pull`.
    sagips_kit.plot.estimate : Distances to the likelihood fit, with the standard deviations of the estimates.

    Examples
    --------
    >>> from sagips_kit import open_run, plot
    >>> run = open_run("runs/proxy.zarr")
    >>> ax = plot.residuals(run)
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['truth', 'MLE [floor units]', 'fit [its deviations]']
    """
    values = analysis.residuals(run)["pull"]
    if is_several(run):
        names = chosen(parameters, values[schema.PARAMETER].values.tolist(), values.sizes[schema.PARAMETER])
        return _residuals_of_several(values.sel(parameter=names), ax)
    if values.isnull().all():
        raise ValueError(
            "There is no residual to draw: the run has a single chain, or it has neither a truth nor published values "
            "nor a fit. Type analysis.summary(run) for a table of the estimates."
        )
    names = of_interest(run, parameters)
    values = values.sel(parameter=names)
    symbols, xlabel = [symbol(run, name) for name in names], "(estimate - reference) / standard deviation"
    ax = parameter_axes(symbols, xlabel, ax, note=folded(run, names))
    rows = np.arange(len(names))
    styles: dict[str, Style] = {
        "truth": {"marker": "*", "ms": 10, "mfc": "white", "color": TRUTH},
        "mle": {"marker": "o", "ms": 6, "color": ENSEMBLE},
        "fit": _FIT,
        "published": {"marker": "D", "ms": 5, "mfc": "white", "color": TRUTH},
    }
    for name, style in styles.items():
        x = values.sel(reference=name)
        if x.notnull().any():
            ax.plot(x, rows, ls="", label=_LABELS.get(name, name), **style)
    legend_above(ax)
    return ax


def _residuals_of_several(values: xr.DataArray, ax: Axes | None) -> Axes:
    """Histogram of the residuals of several runs beside the standard normal distribution."""
    # Distances to the fit of the same events do not follow a normal distribution, so they are left out.
    known = values.sel(reference=["truth", "published"]).values.ravel()
    known = known[np.isfinite(known)]
    if not len(known):
        raise ValueError(
            "There is no residual to draw: the runs have a single chain each, or neither a truth nor published values. "
            "Type analysis.summary(runs) for a table of the estimates."
        )
    ax = ax or new_axes(6.4, 4.0)
    found = f"{len(known)} residuals: mean {known.mean():.2f}, standard deviation {known.std():.2f}"
    ax.hist(np.clip(known, -4, 4), bins=16, range=(-4, 4), density=True, color=ENSEMBLE, alpha=0.5, label=found)
    x = np.linspace(-4, 4, 200)
    ax.plot(x, np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi), color=REFERENCE, lw=1.6, label="standard normal distribution")
    ax.set(xlabel="(estimate - truth or published value) / standard deviation", ylabel="density", xlim=(-4, 4))
    legend_above(ax, 1)
    return ax
