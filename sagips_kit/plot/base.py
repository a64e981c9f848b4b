"""What all pictures share: colours that differ in grey too, axes, labels with units."""

import matplotlib.pyplot as plt

from .. import schema

ENSEMBLE = "#1b6ca8"
TRUTH = "#d1495b"
REFERENCE = "0.15"
FAINT = "0.75"


def new_axes(width, height):
    return plt.figure(figsize=(width, height), layout="constrained").add_subplot()


def unit_of(run, name):
    """Unit of a parameter or observable; empty if it has none."""
    group = schema.POSTERIOR if name in run[schema.POSTERIOR] else schema.OBSERVED
    unit = run[group][name].attrs.get("units", "")
    return "" if unit == schema.DIMENSIONLESS else unit


def label(run, name):
    unit = unit_of(run, name)
    return f"{name} [{unit}]" if unit else name
