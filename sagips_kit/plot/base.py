"""What all pictures share: colours that differ in grey too, axes, labels with units."""

import matplotlib.pyplot as plt

from ..store import schema

ENSEMBLE = "#1b6ca8"
TRUTH = "#d1495b"
REFERENCE = "0.15"
FAINT = "0.75"


def new_axes(width, height):
    return plt.figure(figsize=(width, height), layout="constrained").add_subplot()


def chosen(parameters, known, n_shown):
    """Names of the parameters to show, list of str: one by its name, several, or the first `n_shown` for None.

    Raises
    ------
    ValueError
        For one that is not among the `known`.
    """
    names = [parameters] if isinstance(parameters, str) else list(known[:n_shown] if parameters is None else parameters)
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"The run has no parameter {', '.join(map(str, unknown))}. Allowed: {', '.join(known)}.")
    return names


def unit_of(run, name):
    """Unit of a parameter or observable; empty if it has none."""
    group = schema.POSTERIOR if name in run[schema.POSTERIOR] else schema.OBSERVED
    unit = run[group][name].attrs.get("units", "")
    return "" if unit == schema.DIMENSIONLESS else unit


def label(run, name):
    unit = unit_of(run, name)
    return f"{name} [{unit}]" if unit else name


def draw_bands(ax, quantiles, of, x=None, edges=None):
    """The median of `quantiles` (..., quantile) as a line, 68 % and 95 % as bands at `x`, or as steps."""
    low_95, low_68, middle, high_68, high_95 = (quantiles.isel(quantile=k) for k in range(5))
    for low, high, share, alpha in [(low_95, high_95, 95, 0.2), (low_68, high_68, 68, 0.35)]:
        style = {"color": ENSEMBLE, "alpha": alpha, "lw": 0, "label": f"{share} % of {of}"}
        if edges is None:
            ax.fill_between(x, low, high, **style)
        else:
            ax.stairs(high, edges, baseline=low, fill=True, **style)
    style = {"color": ENSEMBLE, "lw": 1.6, "label": "generated, median"}
    if edges is None:
        ax.plot(x, middle, **style)
    else:
        ax.stairs(middle, edges, baseline=None, **style)
