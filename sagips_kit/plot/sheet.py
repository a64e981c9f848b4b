"""All pictures of a run together."""

import textwrap
from collections.abc import Callable
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np

from .. import analysis
from .._text import counted
from ..store import schema
from ..store.status import RunStatus
from .adversaries import discriminator, evolution
from .answer import estimates, pulls
from .pairs import posterior
from .spectra import densities, events
from .steps import convergence, losses, staleness, timeline

_N_CATEGORIES = 12  # an observable with so few values sorts the events
_N_OBSERVABLES = 4  # pictures of events in a report
_FULL, _HALF, _TOLD = 12.0, 6.0, 1.0  # widths, and the height of a text, inches


@dataclass(frozen=True)
class Picture:
    """A picture of a run, not yet drawn.

    Attributes
    ----------
    name, caption : str
    draw : callable
        Called with a Figure, it draws and returns Axes; it raises ValueError if the run has nothing to show.
    width, height : float
        Inches.
    """

    name: str
    caption: str
    draw: Callable
    width: float
    height: float


def pictures(run):
    """All pictures of a run, in the order of a report: list of Picture."""
    analysis.single_run(run, "plot.pictures", "plot.comparison(runs)")
    n_parameters = len(run.attrs[schema.PARAMETERS_KEY])
    rows_height = 1.6 + 0.3 * n_parameters

    def on_axes(draw):
        return lambda figure: draw(run, ax=figure.add_subplot())

    def on_figure(draw, *args):
        return lambda figure: draw(run, *args, figure=figure)

    # Of what is known at the end there is but a line of text before.
    is_over = analysis.state(run) == "finished"

    def at_the_end(height):
        return height if is_over else _TOLD

    found = [
        Picture("convergence", "Distance to the maximum-likelihood estimate", on_axes(convergence), _HALF, 3.8),
        Picture("losses", "Losses of the two networks", on_axes(losses), _HALF, 3.8),
        Picture("estimates", "Estimates and their deviations", on_axes(estimates), _HALF, at_the_end(rows_height)),
        Picture("pulls", "Pulls: residuals in their deviations", on_axes(pulls), _HALF, at_the_end(rows_height)),
    ]
    names, by = _observables(run)
    for name in names:
        width = _HALF if by is None else _FULL
        caption = f"Observed and generated events: {name}"
        found.append(Picture(f"events-{name}", caption, on_figure(events, name, by), width, at_the_end(4.2)))
        found.append(Picture(f"densities-{name}", f"{caption}, on the way", on_figure(densities, name, by), width, 4.2))
    n_shown = min(n_parameters, 6)
    way_height = 1 + 2 * -(-n_shown // 3)
    found += [
        Picture("posterior", "Posterior", on_figure(posterior), _FULL, at_the_end(1.0 + 1.6 * n_shown)),
        Picture("evolution", "Generated parameters on the way", on_figure(evolution), _FULL, way_height),
        Picture("timeline", "Where the time went", on_axes(timeline), _HALF, 3.6),
        Picture("staleness", "Age of the messages used", on_axes(staleness), _HALF, 3.6),
        Picture("discriminator", "What the discriminators say", on_axes(discriminator), _HALF, 3.6),
    ]
    return found


def report(run, figure=None):
    """All pictures of a run on one sheet; where there is nothing to show, it says why.

    Parameters
    ----------
    run : DataTree
        May still be running.
    figure : Figure or None
        None makes one of the right size; `plt.gcf().savefig(...)` keeps it.

    Returns
    -------
    dict of str to Axes or ndarray of Axes
        By the names of the pictures.
    """
    rows = _rows(pictures(run))
    heights = [max(picture.height for picture in row) for row in rows]
    figure = figure or plt.figure(figsize=(_FULL, sum(heights)), layout="constrained")
    grid = figure.add_gridspec(len(rows), 2, height_ratios=heights)
    axes = {}
    for k, row in enumerate(rows):
        for column, picture in enumerate(row):
            place = grid[k, :] if picture.width == _FULL else grid[k, column]
            axes[picture.name] = drawn(picture, figure.add_subfigure(place))
    figure.suptitle(_title(run))
    return axes


def drawn(picture, figure):
    """Draw a picture, or why there is none, into a Figure or SubFigure; returns its Axes."""
    try:
        return picture.draw(figure)
    except ValueError as error:
        figure.clear()
        ax = figure.add_subplot()
        ax.text(0.5, 0.5, textwrap.fill(f"{picture.caption}: {error}", 60), ha="center", va="center", color="0.4")
        ax.set_axis_off()
        return ax


def _rows(found):
    """Pictures line by line: two of half the width, or one of the full."""
    rows = []
    for picture in found:
        if rows and picture.width == _HALF == rows[-1][-1].width and len(rows[-1]) == 1:
            rows[-1].append(picture)
        else:
            rows.append([picture])
    return rows


def _observables(run):
    """Which observables to show, and the one that sorts the events into categories, if there is one."""
    observed = run[schema.OBSERVED].to_dataset().isel({schema.EVENT: slice(10_000)})
    few = [name for name in observed.data_vars if len(np.unique(observed[name])) <= _N_CATEGORIES]
    names = [name for name in observed.data_vars if name not in few][:_N_OBSERVABLES]
    return (names, few[0] if len(few) == 1 else None) if names else (few[:_N_OBSERVABLES], None)


def _title(run):
    facts = [run.attrs[schema.PROBLEM_KEY], analysis.fact(run, "mode"), counted(analysis.fact(run, "ranks"), "rank")]
    status = RunStatus.from_run(run)
    return ", ".join([*filter(None, facts), f"step {status.step} of {status.n_steps}"])
