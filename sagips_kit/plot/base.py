"""What all pictures share: colours that also differ in grey, new axes, labels with units, and recurring elements."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.mathtext import MathTextParser
from matplotlib.ticker import LogLocator, NullFormatter
from numpy.typing import ArrayLike

from .. import _circular
from .._text import allowed, concise, counted, listed
from ..store import schema
from ..store.shown import Shown

ENSEMBLE = "#1b6ca8"
TRUTH = "#d1495b"
REFERENCE = "0.15"
PRIOR = "#8a6d1f"
FAINT = "0.75"
LEARNED = "#2a7f4f"  # the fit by the learned score
SEVERAL = "plot.convergence(runs)"  # what to type instead where a picture takes one run only

# Keyword arguments of matplotlib, which no type describes.
Style = dict[str, Any]

_LONG = 45  # letters of a label
_LINES = ("-", "--", "-.", ":")
_MARKERS = "osD^vP*X"


def new_axes(width: float, height: float) -> Axes:
    """Axes on a new figure of this size in inches."""
    return plt.figure(figsize=(width, height), layout="constrained").add_subplot()


def is_several(run: xr.DataTree) -> bool:
    """Whether the tree holds several runs, as `open_runs` makes it, or a single one."""
    return schema.ALONG_KEY in run.attrs


def chosen(parameters: str | Iterable[str] | None, known: Sequence[str], n_shown: int) -> list[str]:
    """Names of the parameters to draw: a single name, several, or the first `n_shown` for None.

    Raises
    ------
    ValueError
        If a name is not among the `known`.
    """
    names = [parameters] if isinstance(parameters, str) else list(known[:n_shown] if parameters is None else parameters)
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"The run has no parameter {listed(unknown)}. {allowed(unknown[0], known)}")
    return names


def beside_the_estimate(values: xr.Dataset) -> xr.Dataset:
    """What `analysis.estimate` returns, with each reference of a periodic parameter in the period of its estimate.

    Another fit named "centre" is moved likewise.
    """
    moved = {
        name: values["mean"] + xr.apply_ufunc(_circular.difference, values[name], values["mean"], values["circle"])
        for name in (schema.TRUTH, schema.MLE, schema.FIT, schema.PUBLISHED, "centre")
        if name in values
    }
    return values.assign({name: one.where(values["circle"].notnull(), values[name]) for name, one in moved.items()})


def of_interest(run: xr.DataTree, parameters: str | Iterable[str] | None, n_shown: int | None = None) -> list[str]:
    """Names of the parameters to draw: those given, else those of interest, else the first `n_shown`."""
    known, shown = schema.names_of(run.attrs)[0], Shown.from_attributes(run.attrs)
    if parameters is None and shown.interest:
        return list(shown.interest)
    return chosen(parameters, known, len(known) if n_shown is None else n_shown)


def folded(run: xr.DataTree, names: Sequence[str]) -> str:
    """What is said of parameters that are not drawn; empty if all are."""
    n_others = len(schema.names_of(run.attrs)[0]) - len(names)
    return f"{counted(n_others, 'other parameter')} not shown (parameters=[...] chooses)" if n_others > 0 else ""


def symbol(run: xr.DataTree, name: str) -> str:
    """Symbol of a parameter or observable, or its name if it has none that can be drawn."""
    return drawable(Shown.from_attributes(run.attrs).label(name), name)


@functools.lru_cache
def drawable(text: str, instead: str) -> str:
    """The text, if matplotlib understands its TeX."""
    try:
        MathTextParser("agg").parse(text)
    except ValueError:
        return instead
    return text


def unit_of(run: xr.DataTree, name: str) -> str:
    """Unit of a parameter or observable, its powers raised; empty if it has none."""
    group = schema.POSTERIOR if name in run[schema.POSTERIOR] else schema.OBSERVED
    unit = run[group][name].attrs.get("units", "")
    return "" if unit == schema.DIMENSIONLESS else re.sub(r"\^(-?\d+)", r"$^{\1}$", unit)


def label(run: xr.DataTree, name: str, power: int = 0) -> str:
    """Symbol of a parameter or observable with its unit, times a power of ten, for an axis."""
    parts = [rf"$10^{{{power}}}$" if power else "", unit_of(run, name)]
    unit = " ".join(filter(None, parts))
    return f"{symbol(run, name)} [{unit}]" if unit else symbol(run, name)


def in_two_lines(name: str, unit: str) -> str:
    """Label of an axis, whose unit has a line of its own if the axis may be too short for both."""
    return f"{name}{' ' if len(name + unit) < _LONG else chr(10)}{unit}"


def power_of(largest: float) -> int:
    """The power of ten of an axis that reaches this far from zero: 0 for usual numbers."""
    if not (largest > 0 and math.isfinite(largest)) or 0.01 <= largest < 1e4:
        return 0
    return 3 * math.floor(math.log10(largest) / 3)


def number(value: float, deviation: float) -> str:
    """A value with two digits of its standard deviation in brackets, powers of ten as TeX."""
    digits, _, power = concise(value, deviation).partition("e")
    return rf"{digits} $\times 10^{{{int(power)}}}$" if power else digits


def parameter_axes(
    names: Sequence[str],
    xlabel: str,
    ax: Axes | None = None,
    width: float = 6.4,
    row_height: float = 0.32,
    note: str = "",
) -> Axes:
    """Axes with one row for each parameter, the first at the top at y = 0, and bands at 1 and 2 units from zero.

    A note stands below the label of the axis.
    """
    ax = ax or new_axes(width, 1.4 + row_height * len(names))
    draw_units(ax)
    ax.axvline(0, color=REFERENCE, lw=1)
    ax.set(
        yticks=np.arange(len(names)),
        yticklabels=names,
        ylim=(len(names) - 0.4, -0.6),
        xlabel=f"{xlabel}\n{note}" if note else xlabel,
    )
    ax.tick_params(axis="y", length=0)
    ax.spines[["top", "left", "right"]].set_visible(False)
    return ax


def draw_units(ax: Axes, axis: str = "x") -> None:
    """Shade the bands within 1 and 2 units from zero of an axis, "x" or "y"."""
    span = ax.axvspan if axis == "x" else ax.axhspan
    for half_width, shade in [(2, "0.94"), (1, "0.86")]:
        span(-half_width, half_width, color=shade, lw=0, zorder=0)


def legend_above(ax: Axes, n_columns: int = 3, **options: Any) -> None:
    """A legend above the axes, where it hides nothing."""
    ax.legend(frameon=False, ncols=n_columns, loc="lower center", bbox_to_anchor=(0.5, 1), **options)


def draw_floor(ax: Axes) -> None:
    """Make the y axis logarithmic and shade distances below 1 floor unit, which the events cannot resolve."""
    ax.set_yscale("log")
    # An axis of few decades has few powers of ten.
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=9))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.axhspan(1e-9, 1, color="0.9", lw=0, zorder=0, label="statistical floor")
    ax.axhline(1, color=REFERENCE, ls="--", lw=1.2)


def draw_bands(ax: Axes, quantiles: xr.DataArray, of: str, x: ArrayLike) -> None:
    """Draw `quantiles` (..., quantile) at `x`: the median as a line, 68 % and 95 % as bands."""
    low_95, low_68, middle, high_68, high_95 = (quantiles.isel(quantile=k) for k in range(5))
    for low, high, share, alpha in [(low_95, high_95, 95, 0.2), (low_68, high_68, 68, 0.35)]:
        ax.fill_between(x, low, high, color=ENSEMBLE, alpha=alpha, lw=0, label=f"{share} % of {of}")
    ax.plot(x, middle, marker="." if middle.size == 1 else None, color=ENSEMBLE, lw=1.6, label="generated, median")


def draw_steps(ax: Axes, middle: xr.DataArray, spread: xr.DataArray, edges: Sequence[float]) -> None:
    """Draw a histogram (bin,) as steps, with bands of 1 and 2 times the spread of the chains."""
    for width, share, alpha in [(1.96, 95, 0.2), (1, 68, 0.35)]:
        low, high = (middle - width * spread).clip(min=0), middle + width * spread
        style: Style = {"color": ENSEMBLE, "alpha": alpha, "lw": 0, "label": f"{share} % of the chains"}
        if spread.notnull().any():
            ax.stairs(high.fillna(0), edges, baseline=low.fillna(0), fill=True, **style)
    ax.stairs(middle, edges, baseline=None, color=ENSEMBLE, lw=1.6, label="generated, mean of the chains")


def edges_of(histogram: xr.Dataset) -> list[float]:
    """Edges (edge,) of a histogram with the coordinates `low` and `high`."""
    return [*histogram["low"].values, histogram["high"].values[-1]]


def run_styles(n: int) -> list[Style]:
    """Line styles of `n` runs, which differ by pattern, marker and lightness."""
    shades = plt.get_cmap("viridis")(np.linspace(0, 0.8, max(n, 2)))
    return [{"color": shades[k], "ls": _LINES[k % 4], "marker": _MARKERS[k % 8]} for k in range(n)]
