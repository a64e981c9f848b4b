"""What has two axes: two observables at once, and parameters that are the pixels of an image."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from numpy.typing import NDArray

from .. import analysis
from .base import SEVERAL, label

_FAR = 4.0  # deviations from which colours do not change any more


def plane(
    run: xr.DataTree, x: str, y: str, bins: int | None = None, figure: Figure | SubFigure | None = None
) -> NDArray[np.object_]:
    """Draw observed events, generated events and their difference in two observables at once.

    Parameters
    ----------
    run : DataTree
        A run that `open_run` has opened, of which some chain has been written.
    x, y : str
        Names of the two observables.
    bins : int or None
        Number of equal bins of each; None takes as many, from 8 to 40, as give a cell 25 observed events on average.
    figure : Figure or None
        Figure or SubFigure to draw on; None makes a new figure.

    Returns
    -------
    ndarray of Axes (3,)
        Density of the observed events, density of the generated ones, and the difference in standard deviations, whose
        root mean square, about 1 if both agree, is in the title.

    Raises
    ------
    ValueError
        If the run does not have such observables, if no chain has been written yet, or if several runs are given.

    See Also
    --------
    sagips_kit.analysis.plane : The numbers that are drawn.
    sagips_kit.plot.observed_and_generated : One observable.

    Examples
    --------
    >>> from sagips_kit import open_run, plot
    >>> axes = plot.plane(open_run("runs/proxy.zarr"), "x1", "x2")
    >>> axes[0].get_xlabel(), axes[0].get_ylabel()
    ('$x_1$', '$x_2$')
    """
    analysis.single_run(run, "plot.plane", SEVERAL)
    values = analysis.plane(run, x, y, bins)
    figure = figure or plt.figure(figsize=(12, 3.8), layout="constrained")
    axes = figure.subplots(1, 3, sharex=True, sharey=True)
    edges = [[*values[f"low_{axis}"].values, values[f"high_{axis}"].values[-1]] for axis in "xy"]
    densities = [values[name].where(values[name] > 0) for name in ("observed", "generated")]
    top = float(max(one.max() for one in densities))
    for ax, one, title in zip(axes, densities, ("observed", "generated"), strict=False):
        image = ax.pcolormesh(*edges, one, cmap="viridis", vmin=0, vmax=top, rasterized=True)
        ax.set_title(title)
    figure.colorbar(image, ax=axes[:2], label="density", pad=0.01)
    style = {"cmap": "RdBu_r", "vmin": -_FAR, "vmax": _FAR, "rasterized": True}
    image = axes[2].pcolormesh(*edges, values["pull"], **style)
    figure.colorbar(image, ax=axes[2], label="difference [deviations]", extend="both", pad=0.01)
    axes[2].set_title(f"observed - generated, RMS {float((values['pull'] ** 2).mean() ** 0.5):.2f}")
    for ax in axes:
        ax.set_xlabel(label(run, x))
        ax.set_facecolor("0.95")
    axes[0].set_ylabel(label(run, y))
    return axes


def image(run: xr.DataTree, figure: Figure | SubFigure | None = None) -> NDArray[np.object_]:
    """Draw parameters that are the pixels of an image: estimate, standard deviation and, if known, the truth.

    Parameters
    ----------
    run : DataTree
        A run that `open_run` has opened, of which some chain has been written.
    figure : Figure or None
        Figure or SubFigure to draw on; None makes a new figure.

    Returns
    -------
    ndarray of Axes (2,) or (4,)
        Estimate and standard deviation; if the truth is known, then also the truth and the difference to it in standard
        deviations.

    Raises
    ------
    ValueError
        If the parameters are no image, if no chain has been written yet, or if several runs are given.

    See Also
    --------
    sagips_kit.analysis.image : The numbers that are drawn.

    Examples
    --------
    >>> from sagips_kit import open_run, plot
    >>> plot.image(open_run("runs/proxy.zarr"))
    Traceback (most recent call last):
        ...
    ValueError: The parameters of Proxy are no image. Set `image = (rows, columns)` in the class of the problem.
    """
    analysis.single_run(run, "plot.image", SEVERAL)
    values = analysis.image(run)
    both = [values[name] for name in ("estimate", "truth")]
    limits = {"vmin": float(min(np.nanmin(one) for one in both if one.notnull().any()))}
    limits["vmax"] = float(max(np.nanmax(one) for one in both if one.notnull().any()))
    panels: dict[str, tuple[str, dict[str, Any]]] = {
        "truth": ("truth", limits),
        "estimate": ("estimate", limits),
        "deviation": ("standard deviation", {"vmin": 0}),
        "pull": ("(estimate - truth) / deviation", {"cmap": "RdBu_r", "vmin": -_FAR, "vmax": _FAR}),
    }
    panels = {name: how for name, how in panels.items() if values[name].notnull().any()}
    figure = figure or plt.figure(figsize=(3.2 * len(panels), 3.2), layout="constrained")
    axes = np.ravel(figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False))
    for ax, (name, (title, style)) in zip(axes, panels.items(), strict=True):
        _draw_image(ax, values[name], title, style)
    axes[0].set_ylabel("row")
    return axes


def _draw_image(ax: Axes, values: xr.DataArray, title: str, style: dict[str, Any]) -> None:
    shown = ax.imshow(values, **style)
    ax.figure.colorbar(shown, ax=ax, shrink=0.8, pad=0.02)
    ax.set_title(title, fontsize="medium")
    ax.set_xlabel("column")
