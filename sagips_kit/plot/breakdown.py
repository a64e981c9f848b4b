"""What an uncertainty is made of, and what external knowledge it rests on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from .. import analysis
from .._text import allowed
from ..analysis.fits import PART, impacts_of
from ..store import schema
from ..store.contributions import Contribution, by_group
from .base import ENSEMBLE, FAINT, PRIOR, REFERENCE, SEVERAL, TRUTH, draw_units, number, of_interest, symbol, unit_of

_MOST_ROWS = 20
_FAR = 2.0  # deviations from where a pull is in the colour of a warning


class FitWithParts(Protocol):
    """What a picture of impacts needs of a fit; `fit` returns it."""

    @property
    def parameters(self) -> tuple[str, ...]: ...
    @property
    def theta(self) -> NDArray[np.float64]: ...
    @property
    def deviation(self) -> NDArray[np.float64]: ...
    @property
    def contributions(self) -> tuple[Contribution, ...]: ...


def impacts(
    result: FitWithParts | xr.DataTree, parameter: str | None = None, figure: Figure | SubFigure | None = None
) -> NDArray[np.object_]:
    """Draw what the uncertainty of one parameter is made of: its pulls and impacts.

    Each row is a part of the uncertainty, the largest first.  On the right is how much it contributes: grey bars are
    standard deviations that events, simulated events and other parts leave; coloured ones are the change of the
    estimate if a number that is known from elsewhere were one of its standard deviations larger (filled) or smaller
    (open).  The squares of all add up to the variance.  On the left is how far the estimate is from this number, in
    its standard deviations; more than 2 is drawn in red.

    Parameters
    ----------
    result : ScoreFit or DataTree
        What `fit` returned, or a run that `open_run` has opened.
    parameter : str or None
        The parameter; None takes the first one, of those of interest of a run.
    figure : Figure or None
        Figure or SubFigure to draw on; None makes a new figure.

    Returns
    -------
    ndarray of Axes (2,)
        The axes of the pulls and of the impacts.

    Raises
    ------
    ValueError
        If there is no such parameter, the run has no fit by the learned score, or several runs are given.

    See Also
    --------
    sagips_kit.analysis.impacts : The numbers of a run that are drawn.
    sagips_kit.plot.fit : The estimates and their correlations.

    Examples
    --------
    >>> from sagips_kit import open_run, plot
    >>> pulls, impacts = plot.impacts(open_run("runs/proxy.zarr"), "theta1")
    >>> pulls.get_xlabel(), [label.get_text() for label in pulls.get_yticklabels()]
    ('pull [deviations]', ['events', 'constraints', 'simulation'])
    """
    values, name, unit = _values(result, parameter)
    values = values.isel({PART: np.argsort(-abs(values["impact"].values), kind="stable")})
    rows = values.isel({PART: slice(0, _MOST_ROWS)})
    if figure is None:
        figure = plt.figure(figsize=(8.0, 1.6 + 0.32 * max(3, rows.sizes[PART])), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[1, 1.6])
    _draw_pulls(left, rows["pull"].values)
    _draw_impacts(right, rows["impact"].values, rows["pull"].notnull().values)
    left.set(yticks=range(rows.sizes[PART]), yticklabels=rows[PART].values, xlabel="pull [deviations]")
    left.set_ylim(rows.sizes[PART] - 0.5, -0.5)
    right.set_xlabel(f"impact on {name}{f' [{unit}]' if unit else ''}")
    if n_more := values.sizes[PART] - rows.sizes[PART]:
        left.annotate(f"{n_more} smaller ones are not shown", (0, 0), (4, 4), "axes fraction", "offset points")
    figure.suptitle(_title(values, name, unit), fontsize="medium")
    return np.array([left, right])


def _values(result: FitWithParts | xr.DataTree, parameter: str | None) -> tuple[xr.Dataset, str, str]:
    """The parts of one parameter's uncertainty, its symbol, and its unit."""
    if isinstance(result, xr.DataTree):
        analysis.single_run(result, "plot.impacts", SEVERAL)
        values = analysis.impacts(result)
        wanted = of_interest(result, None)[0] if parameter is None else parameter
        name, unit = (
            (symbol(result, wanted), unit_of(result, wanted)) if wanted in values[schema.PARAMETER] else ("", "")
        )
    else:
        if not result.contributions:
            raise ValueError("This result does not know its contributions. Type result = fit(problem, events) again.")
        values = impacts_of(result.parameters, result.theta, result.deviation, result.contributions)
        wanted = name = result.parameters[0] if parameter is None else parameter
        unit = ""
    if wanted not in values[schema.PARAMETER]:
        raise ValueError(f"No parameter {wanted!r}. {allowed(wanted, map(str, values[schema.PARAMETER].values))}")
    return values.sel({schema.PARAMETER: wanted}), name, unit


def _draw_pulls(ax: Axes, pulls: NDArray[np.float64]) -> None:
    draw_units(ax)
    ax.axvline(0, color=FAINT, lw=0.8)
    for row, pull in enumerate(pulls):
        if np.isfinite(pull):
            ax.plot(pull, row, "o", ms=5, color=TRUTH if abs(pull) > _FAR else REFERENCE)
    largest = np.nanmax(np.abs(pulls), initial=0) if np.isfinite(pulls).any() else 0
    ax.set_xlim(-max(2.5, 1.2 * largest), max(2.5, 1.2 * largest))


def _draw_impacts(ax: Axes, impacts: NDArray[np.float64], is_number: Sequence[bool] | NDArray[np.bool_]) -> None:
    for row, (size, has_sign) in enumerate(zip(impacts, is_number, strict=True)):
        if has_sign:
            ax.barh(row, size, height=0.6, color=PRIOR)
            ax.barh(row, -size, height=0.6, fill=False, edgecolor=PRIOR)
        else:
            ax.barh(row, 2 * size, left=-size, height=0.6, color=FAINT)
    ax.axvline(0, color=ENSEMBLE, lw=0.8)
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.set_xlim(*(sign * 1.1 * np.abs(impacts).max() for sign in (-1, 1)))


def _title(values: xr.Dataset, name: str, unit: str) -> str:
    """The estimate, and what each group of parts contributes to its deviation."""
    deviation = float(values["deviation"])
    rows = zip(values[PART].values, values["group"].values, values["impact"].values, strict=True)
    groups = by_group(Contribution(str(part), str(group), np.array([size])) for part, group, size in rows)
    parts = ", ".join(f"{group} {float(size[0]):.2g}" for group, size in groups.items())
    return (
        f"{name} = {number(float(values['fit']), deviation)} {unit}".rstrip() + f"\ndeviation {deviation:.2g}: {parts}"
    )
