"""All pictures of a run together."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from numpy.typing import NDArray

from .. import analysis
from .._text import counted
from ..analysis.fits import fit_words
from ..store import schema
from ..store.status import RunStatus
from .adversaries import discriminator, evolution
from .answer import estimate, residuals
from .base import SEVERAL
from .learned import fit
from .pairs import posterior
from .spectra import densities, observed_and_generated
from .steps import convergence, losses, staleness, timeline

_N_CATEGORIES = 12  # an observable with at most so many values divides the events into categories
_N_OBSERVABLES = 4  # that are drawn, at most
_FULL, _HALF, _TEXT = 12.0, 6.0, 1.0  # widths, and the height of a line of text, in inches

Drawn = Axes | NDArray[np.object_]


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture of a run that has not been drawn yet.

    Attributes
    ----------
    name : str
        The name of the function that draws it, followed by the observable where there is one.
    caption : str
        What it shows.
    draw : callable
        Draws it on a Figure or SubFigure and returns its Axes; it raises ValueError if the run has nothing to show yet.
    width, height : float
        Size in inches.
    """

    name: str
    caption: str
    draw: Callable[[Figure | SubFigure], Drawn]
    width: float
    height: float


def pictures(run: xr.DataTree) -> list[Picture]:
    """List all pictures of a run, in the order of `overview`, without drawing them.

    Parameters
    ----------
    run : DataTree
        A run that `open_run` has opened; it may be unfinished.

    Returns
    -------
    list of Picture
        Each has a `name`, a `caption`, a `width` and `height` in inches, and a method `draw(figure)`, which raises
        ValueError if the run has nothing to show yet.

    Raises
    ------
    ValueError
        If several runs are given.

    See Also
    --------
    sagips_kit.plot.overview : All of them on one sheet.

    Examples
    --------
    >>> from sagips_kit import open_run, plot
    >>> run = open_run("runs/proxy.zarr")
    >>> [picture.name for picture in plot.pictures(run)][:5]
    ['convergence', 'losses', 'estimate', 'residuals', 'observed_and_generated x1']
    """
    analysis.single_run(run, "plot.pictures", SEVERAL)
    n_parameters = len(run.attrs[schema.PARAMETERS_KEY])
    rows_height = 1.6 + 0.3 * n_parameters

    def on_axes(draw: Callable[..., Axes]) -> Callable[[Figure | SubFigure], Axes]:
        return lambda figure: draw(run, ax=figure.add_subplot())

    def on_figure(draw: Callable[..., Drawn], **options: Any) -> Callable[[Figure | SubFigure], Drawn]:
        return lambda figure: draw(run, figure=figure, **options)

    # Pictures of final results are a line of text until there are any.
    is_finished = RunStatus.from_run(run).is_finished

    has_fit = fit_words(run)["state"] == schema.MADE

    def at_the_end(height: float) -> float:
        return height if is_finished else _TEXT

    found = [
        Picture("convergence", "Distance to the fit of the same events", on_axes(convergence), _HALF, 3.8),
        Picture("losses", "Losses of the two networks", on_axes(losses), _HALF, 3.8),
        Picture("estimate", "Estimates and standard deviations", on_axes(estimate), _HALF, at_the_end(rows_height)),
        Picture("residuals", "Residuals of the estimates", on_axes(residuals), _HALF, at_the_end(rows_height)),
    ]
    names, by = _observables(run)
    for name in names:
        width = _HALF if by is None else _FULL
        draw = on_figure(observed_and_generated, observable=name, by=by)
        caption = f"Observed and generated events: {name}"
        found.append(Picture(f"observed_and_generated {name}", caption, draw, width, at_the_end(4.2)))
        draw, caption = on_figure(densities, observable=name, by=by), f"{caption}, during training"
        found.append(Picture(f"densities {name}", caption, draw, width, 4.2))
    n_shown = min(n_parameters, 6)
    evolution_height = 1 + 2 * -(-n_shown // 3)
    found += [
        Picture("posterior", "Posterior", on_figure(posterior), _FULL, at_the_end(1.0 + 1.6 * n_shown)),
        Picture("evolution", "Generated parameters during training", on_figure(evolution), _FULL, evolution_height),
        Picture("fit", "Fit by the learned score", on_figure(fit), _FULL, rows_height + 0.8 if has_fit else _TEXT),
        Picture("timeline", "Computing and waiting times of the ranks", on_axes(timeline), _HALF, 3.6),
        Picture("staleness", "Age of the messages used", on_axes(staleness), _HALF, 3.6),
        Picture("discriminator", "Scores of the discriminators", on_axes(discriminator), _HALF, at_the_end(3.6)),
    ]
    return found


def overview(run: xr.DataTree, figure: Figure | None = None) -> dict[str, Drawn]:
    """Draw all pictures of a run on one sheet.

    Where the run has nothing to show yet, the reason is written instead.

    Parameters
    ----------
    run : DataTree
        A run that `open_run` has opened; it may be unfinished.
    figure : Figure or None
        Figure to draw on; None makes one of the right size, which `plt.gcf().savefig("overview.pdf")` saves.

    Returns
    -------
    dict of str to Axes or ndarray of Axes
        The axes of each picture by its name, which is that of the function in `plot`, followed by the observable where
        there is one.

    Raises
    ------
    ValueError
        If several runs are given.

    See Also
    --------
    sagips_kit.plot.pictures : The same pictures one by one.
    sagips_kit.report.html.html_report : The pictures, estimates and settings of a run as an HTML page.

    Examples
    --------
    >>> from sagips_kit import open_run, plot
    >>> run = open_run("runs/proxy.zarr")
    >>> axes = plot.overview(run)
    >>> axes["convergence"].get_ylabel()
    'RMS distance to the MLE [floor units]'
    """
    rows = _rows(pictures(run))
    heights = [max(picture.height for picture in row) for row in rows]
    figure = figure or plt.figure(figsize=(_FULL, sum(heights)), layout="constrained")
    grid = figure.add_gridspec(len(rows), 2, height_ratios=heights)
    axes = {}
    for k, row in enumerate(rows):
        for column, picture in enumerate(row):
            place = grid[k, :] if picture.width == _FULL else grid[k, column]
            axes[picture.name] = _drawn(picture, figure.add_subfigure(place))
    figure.suptitle(_title(run))
    return axes


def _drawn(picture: Picture, figure: SubFigure) -> Drawn:
    """Draw a picture, or write why it cannot be drawn; returns its Axes."""
    try:
        return picture.draw(figure)
    except ValueError as error:
        figure.clear()
        ax = figure.add_subplot()
        ax.text(0.5, 0.5, textwrap.fill(f"{picture.caption}: {error}", 60), ha="center", va="center", color="0.4")
        ax.set_axis_off()
        return ax


def _rows(found: list[Picture]) -> list[list[Picture]]:
    """Pictures row by row: two of half the width, or one of the full width."""
    rows: list[list[Picture]] = []
    for picture in found:
        if rows and picture.width == _HALF == rows[-1][-1].width and len(rows[-1]) == 1:
            rows[-1].append(picture)
        else:
            rows.append([picture])
    return rows


def _observables(run: xr.DataTree) -> tuple[list[str], str | None]:
    """The observables to draw, and the one that divides the events into categories, if there is exactly one."""
    observed = run[schema.OBSERVED].to_dataset().isel({schema.EVENT: slice(10_000)})
    known = [str(name) for name in observed.data_vars]
    few = [name for name in known if len(np.unique(observed[name])) <= _N_CATEGORIES]
    names = [name for name in known if name not in few][:_N_OBSERVABLES]
    return (names, few[0] if len(few) == 1 else None) if names else (few[:_N_OBSERVABLES], None)


def _title(run: xr.DataTree) -> str:
    ranks = counted(run.attrs[schema.LAYOUT_KEY]["n_ranks"], "rank")
    facts = [run.attrs[schema.PROBLEM_KEY], analysis.fact(run, "mode"), ranks]
    return ", ".join([*map(str, filter(None, facts)), str(RunStatus.from_run(run))])
