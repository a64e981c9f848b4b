"""The fit by the learned score: its estimates beside what they can be compared with, and their correlations."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from numpy.typing import ArrayLike, NDArray

from .. import analysis
from ..analysis.base import circles_of, difference
from ..analysis.fits import goodness_words, require_fit
from ..store import schema
from .base import (
    ENSEMBLE,
    LEARNED,
    PRIOR,
    REFERENCE,
    TRUTH,
    Style,
    chosen,
    folded,
    legend_above,
    number,
    of_interest,
    parameter_axes,
    symbol,
    unit_of,
)

_N_WRITTEN = 8  # parameters up to which correlations are written as numbers
_FAR = 6.0  # deviations beyond which an arrow is drawn


class Fitted(Protocol):
    """What a picture needs of a fit; `fit` returns it."""

    @property
    def parameters(self) -> tuple[str, ...]: ...
    @property
    def theta(self) -> NDArray[np.float64]: ...
    @property
    def covariance(self) -> NDArray[np.float64]: ...
    @property
    def goodness(self) -> float: ...
    @property
    def n_freedom(self) -> int: ...
    @property
    def p_value(self) -> float: ...
    @property
    def period(self) -> NDArray[np.float64] | None: ...
    @property
    def findings(self) -> tuple[str, ...]: ...


def fit(
    result: Fitted | xr.DataTree,
    truth: ArrayLike | None = None,
    parameters: str | Iterable[str] | None = None,
    figure: Figure | SubFigure | None = None,
) -> NDArray[np.object_]:
    """Draw a fit by the learned score: its estimates beside what they can be compared with, and their correlations.

    On the left, each parameter has a row, which begins with its estimate and standard deviation.  Distances are
    relative to the fit, in its standard deviations; the bands show 1 and 2 of them.  Arrows stand
    for what is more than 6 of them away.  The title gives the goodness of fit and says what speaks against the fit.  On
    the right are the correlations of the estimates.

    Parameters
    ----------
    result : ScoreFit or DataTree
        What `fit` returned, or a run that `open_run` has opened, which may be unfinished.  Of a run, the likelihood
        fit, truth, published values and, at its end, the estimates of its generators are drawn too.
    truth : array_like (parameter,) or None
        Parameters that the events were made with.  None takes those of a run, if they are known.
    parameters : str, iterable of str or None
        The parameters to draw, in this order; None draws those of interest of a run, or all.
    figure : Figure or None
        Figure or SubFigure to draw on; None makes a new figure.

    Returns
    -------
    ndarray of Axes (2,)
        The axes of the estimates and of the correlations.

    Raises
    ------
    ValueError
        If the run has no such fit, or several runs are given, or `truth` has another length.

    See Also
    --------
    sagips_kit.fit : Make such a fit.
    sagips_kit.analysis.fit : The numbers of a run that are drawn.
    sagips_kit.plot.estimate : The estimates of a run's generators.

    Examples
    --------
    >>> from sagips_kit import open_run, plot
    >>> estimates, correlations = plot.fit(open_run("runs/proxy.zarr"))
    >>> estimates.get_xlabel()
    'distance to the fit [its standard deviations]'
    """
    run = result if isinstance(result, xr.DataTree) else None
    values, units = (_of_fit(result), {}) if not isinstance(result, xr.DataTree) else _of_run(result)
    if truth is not None:
        values["truth"] = (schema.PARAMETER, _checked(truth, values.sizes[schema.PARAMETER]))
    known = [str(name) for name in values[schema.PARAMETER].values]
    names = chosen(parameters, known, len(known)) if run is None else of_interest(run, parameters)
    values = values.sel({schema.PARAMETER: names, schema.PARAMETER_2: names})
    symbols = names if run is None else [symbol(run, name) for name in names]
    size = (11.0, 2.2 + 0.34 * max(3, len(names)))
    figure = figure or plt.figure(figsize=size, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1.5, 1])
    _draw_estimates(left, values, _rows(values, symbols, units), "" if run is None else folded(run, names))
    _draw_correlations(right, values["correlation"].values, symbols)
    findings: list[str] = values.attrs["findings"]
    figure.suptitle(_title(values, findings), fontsize="medium", color=TRUTH if findings else REFERENCE)
    return np.array([left, right])


def _of_run(run: xr.DataTree) -> tuple[xr.Dataset, dict[str, str]]:
    """The fit of a run with what it can be compared with, and the units of its parameters."""
    analysis.single_run(run, "plot.fit")
    values = analysis.fit(run)
    require_fit(values.attrs)
    reference = run[schema.REFERENCE].to_dataset()
    known = {"mle": schema.MLE, "mle_deviation": schema.DEVIATION, "truth": schema.TRUTH}
    known |= {"published": schema.PUBLISHED, "published_deviation": schema.PUBLISHED_DEVIATION}
    values = values.assign({name: reference[key].load() for name, key in known.items()})
    values = values.assign(circle=circles_of(run)[1])
    try:
        estimate = analysis.estimate(run)
        wanted = {"mean": "mean", "mean_deviation": "deviation", "prior": "prior", "prior_deviation": "prior_deviation"}
        values = values.assign({name: estimate[key] for name, key in wanted.items()})
    except ValueError:  # no chain has been written yet
        pass
    return values, {str(name): unit_of(run, str(name)) for name in values[schema.PARAMETER].values}


def _of_fit(result: Fitted) -> xr.Dataset:
    """A fit in the form of `analysis.fit`."""
    deviation = np.sqrt(np.diag(result.covariance))
    values = {
        "fit": (schema.PARAMETER, result.theta),
        "deviation": (schema.PARAMETER, deviation),
        "correlation": ((schema.PARAMETER, schema.PARAMETER_2), result.covariance / np.outer(deviation, deviation)),
        "goodness": result.goodness,
        "n_freedom": result.n_freedom,
        "p_value": result.p_value,
        "circle": (schema.PARAMETER, np.full(len(deviation), np.nan) if result.period is None else result.period),
    }
    coordinates = {name: list(result.parameters) for name in (schema.PARAMETER, schema.PARAMETER_2)}
    return xr.Dataset(values, coordinates, {"findings": list(result.findings)})


def _checked(truth: ArrayLike, n_parameters: int) -> NDArray[np.float64]:
    values = np.asarray(truth, float)
    if values.shape != (n_parameters,):
        raise ValueError(f"truth of shape {values.shape}: should be ({n_parameters},), one number for each parameter.")
    return values


def _rows(values: xr.Dataset, symbols: Sequence[str], units: Mapping[str, str]) -> list[str]:
    """Labels of the rows: symbol, estimate with its deviation in brackets, and unit."""
    numbers = (values[name].values for name in (schema.PARAMETER, "fit", "deviation"))
    rows = zip(symbols, *numbers, strict=True)
    return [f"{text} = {number(value, error)} {units.get(str(name), '')}".rstrip() for text, name, value, error in rows]


def _draw_estimates(ax: Axes, values: xr.Dataset, rows: list[str], note: str) -> None:
    parameter_axes(rows, "distance to the fit [its standard deviations]", ax, note=note)
    y = np.arange(len(rows))
    one = np.ones(len(rows))
    ax.errorbar(0 * one, y, xerr=one, ls="", lw=1.6, marker="s", ms=5, mfc="white", color=LEARNED, label="fit")
    styles: dict[str, tuple[str, float, Style]] = {
        "mle": ("MLE", -0.2, {"marker": "+", "ms": 8, "color": REFERENCE}),
        "mean": ("estimate of the generators", 0.2, {"marker": "o", "ms": 5, "color": ENSEMBLE}),
        "truth": ("truth", 0, {"marker": "*", "ms": 10, "mfc": "white", "color": TRUTH}),
        "published": ("published", 0.32, {"marker": "D", "ms": 4.5, "mfc": "white", "color": TRUTH}),
        "prior": ("prior", 0.4, {"marker": "|", "ms": 8, "color": PRIOR}),
    }
    for name, (text, offset, style) in styles.items():
        if name not in values or values[name].isnull().all():
            continue
        x = (difference(values[name], values["fit"], values["circle"]) / values["deviation"]).values
        error = (values[f"{name}_deviation"] / values["deviation"]).values if f"{name}_deviation" in values else None
        # Generators that have not arrived are far away, and would leave no room for the rest.
        is_near = np.abs(x) <= _FAR
        near = np.where(is_near, x, np.nan)
        ax.errorbar(near, y + offset, xerr=error, ls="", lw=1.2, label=text, **style)
        for marker, is_there in [("<", x < -_FAR), (">", x > _FAR)]:
            ax.plot(
                np.sign(x[is_there]) * _FAR, (y + offset)[is_there], **style | {"ls": "", "marker": marker, "ms": 6}
            )
    low, high = ax.get_xlim()
    ax.set_xlim(max(low, -_FAR - 0.5), min(high, _FAR + 0.5))
    legend_above(ax, 3, fontsize="small")


def _draw_correlations(ax: Axes, correlation: NDArray[np.float64], names: Sequence[str]) -> None:
    image = ax.imshow(correlation, cmap="RdBu_r", vmin=-1, vmax=1, aspect="equal")
    ax.figure.colorbar(image, ax=ax, label="correlation of the estimates", pad=0.02)
    ticks = np.arange(len(names))
    ax.set(xticks=ticks, yticks=ticks, yticklabels=names)
    ax.set_xticklabels(names, rotation=40, ha="right", rotation_mode="anchor")
    ax.tick_params(length=0, labelsize="small")
    ax.spines[:].set_visible(False)
    if len(names) > _N_WRITTEN:
        return
    for (row, column), value in np.ndenumerate(correlation):
        colour = "white" if abs(value) > 0.6 else REFERENCE
        ax.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize="x-small", color=colour)


def _title(values: xr.Dataset, findings: list[str]) -> str:
    lines = [f"Fit by the learned score: {goodness_words(values)}"]
    return "\n".join([*lines, *(textwrap.fill(f"NOT RELIABLE: {text}", 130) for text in findings)])
