"""A run in the shapes that other tools read: ArviZ, netCDF, tables of text."""

import contextlib
import importlib.metadata
import json
from pathlib import Path

import numpy as np
import xarray as xr

from . import analysis, schema


def to_arviz(run):
    """The chains and events of a run for ArviZ, those chains left out that have not been written.

    Chains learned from resamples of their own, so they differ by as much as the uncertainty: ArviZ's `r_hat` and `ess`,
    which look for chains that agree, say nothing here.

    Parameters
    ----------
    run : DataTree

    Returns
    -------
    InferenceData or DataTree
        What the installed ArviZ works with: the first before ArviZ 1, the second from there on.

    Raises
    ------
    ModuleNotFoundError
        If ArviZ is not installed.
    ValueError
        If no chain has been written yet.
    """
    analysis.single_run(run, "to_arviz")
    groups = {group: analysis.written(run, group) for group in (schema.POSTERIOR, schema.PREDICTIVE)}
    tree = xr.DataTree.from_dict(groups | {schema.OBSERVED: run[schema.OBSERVED].to_dataset().load()})
    _require("arviz")
    if int(importlib.metadata.version("arviz").partition(".")[0]) >= 1:
        return tree
    import arviz

    return arviz.InferenceData.from_datatree(tree)


def to_netcdf(run, path):
    """Write a run into one netCDF file, which `xarray.open_datatree` opens without this package.

    Parameters
    ----------
    run : DataTree
    path : path
        It must not exist.

    Returns
    -------
    Path
    """
    analysis.single_run(run, "to_netcdf")
    path = _new(path)
    _require("h5netcdf")
    groups = {node.path: _plain(node.to_dataset(inherit=False)) for node in run.subtree}
    xr.DataTree.from_dict(groups).to_netcdf(path, engine="h5netcdf")
    return path


def to_csv(run, folder):
    """Write the estimates, draws and convergence of a run as tables of comma-separated values.

    Parameters
    ----------
    run : DataTree
    folder : path
        It must not exist; estimates.csv, posterior.csv and convergence.csv go there, without those that the run has
        nothing for yet.

    Returns
    -------
    list of Path
    """
    analysis.single_run(run, "to_csv")
    path = analysis.convergence(run, n_rows=None)
    way = path["theta"].to_dataset(schema.PARAMETER)
    tables = {"convergence": way.assign(distance=path["distance"], elapsed_s=path["elapsed"]).to_dataframe()}
    with contextlib.suppress(ValueError):  # no chain has been written yet
        tables["estimates"] = analysis.summary(run)
        tables["posterior"] = analysis.written(run, schema.POSTERIOR).to_dataframe()
    folder = _new(folder)
    folder.mkdir(parents=True)
    for name, table in tables.items():
        table.to_csv(folder / f"{name}.csv")
    return sorted(folder.iterdir())


def _plain(dataset):
    """With the texts and attributes that netCDF knows."""
    texts = {
        name: (variable.dims, np.array(variable.values, object), variable.attrs)
        for name, variable in dataset.variables.items()
        if variable.dtype.kind in "OTU"
    }
    data = dataset.assign({name: text for name, text in texts.items() if name in dataset.data_vars})
    data = data.assign_coords({name: text for name, text in texts.items() if name in dataset.coords})
    data = data.drop_encoding()
    data.attrs = {
        key: item if isinstance(item, str | int | float) else json.dumps(item) for key, item in data.attrs.items()
    }
    return data


def _new(path):
    path = Path(path).expanduser()
    if path.exists():
        raise FileExistsError(f"`{path}` exists already and is not overwritten. Delete it, or choose another name.")
    return path


def _require(package):
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        text = f'This needs the package {package}. Type: pip install "sagips_kit[explore]"'
        raise ModuleNotFoundError(text, name=package) from None
