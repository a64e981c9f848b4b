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
from ..store.shown import Shown
from ..store.status import RunStatus
from .adversaries import discriminator, evolution
from .answer import estimate
from .base import SEVERAL
from .learned import fit
from .pairs import posterior
from .planes import image, plane
from .spectra import densities, observed_and_generated
from .steps import convergence, losses, staleness, timeline

_N_CATEGORIES = 12  # an observable with at most so many values divides the events into categories
_N_OBSERVABLES = 4  # that are drawn, at most
_FULL, _HALF = 12.0, 6.0  # widths in inches

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
    """List the pictures of a run that have something to show, in the order of `overview`, without drawing them.

    Parameters
    ----------
    run : DataTree
        A run that `open_run` has opened; it may be unfinished.

    Returns
    -------
    list of Picture
        Each has a `name`, a `caption`, a `width` and `height` in inches, and a method `draw(figure)`.

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
    >>> [picture.name for picture in plot.pictures(run)][:4]
    ['fit', 'convergence', 'losses', 'observed_and_generated x1']
    """
    analysis.single_run(run, "plot.pictures", SEVERAL)
    has, shown = _what_is_there(run), Shown.from_attributes(run.attrs)
    n_rows = len(shown.interest or run.attrs[schema.PARAMETERS_KEY])
    n_shown = len(shown.interest) or min(n_rows, 6)
    found = []

    def add(name: str, needs: bool, caption: str, draw: Callable[..., Drawn], width: float, height: float) -> None:
        if needs:
            found.append(Picture(name, caption, draw, width, height))

    def on_axes(draw: Callable[..., Axes]) -> Callable[[Figure | SubFigure], Axes]:
        return lambda figure: draw(run, ax=figure.add_subplot())

    def on_figure(draw: Callable[..., Drawn], **options: Any) -> Callable[[Figure | SubFigure], Drawn]:
        return lambda figure: draw(run, figure=figure, **options)

    rows_height = 1.9 + 0.3 * n_rows
    text = "Fit by the learned score"
    add("fit", has["fit"] and not shown.image, text, on_figure(fit), _FULL, max(3.2, rows_height + 0.8))
    text = "Image: estimate and standard deviation"
    add("image", has["chains"] and shown.image is not None, text, on_figure(image), _FULL, 3.2)
    text = "Estimates and standard deviations"
    # The picture of the fit shows the same, relative to itself.
    can_estimate = has["chains"] and has["unit"] and has["known"] and not (has["fit"] or shown.image)
    add("estimate", can_estimate, text, on_axes(estimate), _HALF, max(3.2, rows_height))
    text = "Distance to the fit of the same events"
    add("convergence", has["rows"] and has["reference"], text, on_axes(convergence), _HALF, 3.8)
    add("losses", has["rows"], "Losses of the two networks", on_axes(losses), _HALF, 3.8)
    names, by = _observables(run)
    for name in names:
        width, text = _HALF if by is None else _FULL, f"Observed and generated events: {name}"
        draw = on_figure(observed_and_generated, observable=name, by=by, log=_has_a_tail(run, name))
        add(f"observed_and_generated {name}", has["chains"], text, draw, width, 4.2)
    if len(names) > 1:
        x, y = names[:2]
        text = f"Observed and generated events: {x} and {y}"
        add(f"plane {x} {y}", has["chains"] and by is None, text, on_figure(plane, x=x, y=y), _FULL, 3.8)
    # Of an image, single pixels say little.
    add(
        "posterior",
        has["chains"] and not shown.image,
        "Posterior",
        on_figure(posterior),
        _FULL,
        1.0 + 1.6 * max(2, n_shown),
    )
    text, height = "Generated parameters during training", 1 + 2 * -(-n_shown // 3)
    add("evolution", has["snapshots"] and not shown.image, text, on_figure(evolution), _FULL, max(3.2, height))
    for name in names:
        width, text = _HALF if by is None else _FULL, f"Observed and generated events: {name}, during training"
        add(f"densities {name}", has["snapshots"], text, on_figure(densities, observable=name, by=by), width, 4.2)
    add("discriminator", has["scores"], "Scores of the discriminators", on_axes(discriminator), _HALF, 3.6)
    text = "Computing and waiting times of the ranks"
    add("timeline", has["rows"] and has["ranks"], text, on_axes(timeline), _HALF, 3.6)
    add("staleness", has["rows"] and has["ranks"], "Age of the messages used", on_axes(staleness), _HALF, 3.6)
    return found


def missing(run: xr.DataTree) -> str:
    """What `pictures` leaves out because the run has not come so far, in one sentence; empty if nothing is."""
    has, status = _what_is_there(run), RunStatus.from_run(run)
    if not has["rows"]:
        return f"The run has not begun to train, so it has no pictures of its training and its answer: {status}."
    if not has["chains"]:
        return f"The chains, and the events generated from them, come at the end of the run: {status}."
    return ""


def _what_is_there(run: xr.DataTree) -> dict[str, bool]:
    """What of a run has been written, so that it can be drawn."""
    status, layout, has_fit = (
        RunStatus.from_run(run),
        schema.layout_of(run.attrs),
        fit_words(run)["state"] == schema.MADE,
    )
    known = run[schema.REFERENCE].to_dataset()
    has_reference = has_fit or bool(known[schema.MLE].notnull().any())
    posterior = run[schema.POSTERIOR].to_dataset()
    written = [posterior[name].isel(draw=0).notnull() for name in run.attrs[schema.PARAMETERS_KEY]]
    n_chains = int(xr.concat(written, "each").any("each").sum().item())
    return {
        "rows": bool((status.steps >= layout.steps[0]).any()),
        "chains": n_chains > 0,
        "unit": has_reference or n_chains > 1,
        "known": has_reference or bool(known[[schema.TRUTH, schema.PUBLISHED]].to_array().notnull().any()),
        "fit": has_fit,
        "reference": has_reference,
        "snapshots": bool((status.steps >= layout.snapshot_steps[0]).any()),
        "scores": bool(run[schema.SCORES].to_dataset()[schema.SCORE_OBSERVED].notnull().any()),
        "ranks": layout.n_ranks > 1,
    }


def overview(run: xr.DataTree, figure: Figure | None = None) -> dict[str, Drawn]:
    """Draw all pictures of a run on one sheet.

    Pictures for which the run has nothing to show yet are left out, and a line says which these are.

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
    rows, later = _rows(pictures(run)), missing(run)
    heights = [max(picture.height for picture in row) for row in rows]
    figure = figure or plt.figure(figsize=(_FULL, max(1, sum(heights))), layout="constrained")
    grid = figure.add_gridspec(max(1, len(rows)), 2, height_ratios=heights or [1])
    axes = {}
    for k, row in enumerate(rows):
        for column, picture in enumerate(row):
            place = grid[k, :] if picture.width == _FULL else grid[k, column]
            axes[picture.name] = _drawn(picture, figure.add_subfigure(place))
    figure.suptitle("\n".join(filter(None, [_title(run), textwrap.fill(later, 120)])))
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
    category = Shown.from_attributes(run.attrs).category or (few[0] if len(few) == 1 else None)
    names = [name for name in known if name not in few and name != category][:_N_OBSERVABLES]
    return (names, category) if names else (few[:_N_OBSERVABLES], None)


def _has_a_tail(run: xr.DataTree, observable: str) -> bool:
    """Whether nine of ten events are in a third of the range, so that a linear axis shows little."""
    low, most, least, high = np.quantile(run[schema.OBSERVED].to_dataset()[observable][:10_000], [0, 0.9, 0.1, 1])
    return bool(min(most - low, high - least) < (high - low) / 3)


def _title(run: xr.DataTree) -> str:
    ranks = counted(run.attrs[schema.LAYOUT_KEY]["n_ranks"], "rank")
    facts = [run.attrs[schema.PROBLEM_KEY], analysis.fact(run, "mode"), ranks]
    return ", ".join([*map(str, filter(None, facts)), str(RunStatus.from_run(run))])
