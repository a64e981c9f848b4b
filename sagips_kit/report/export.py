"""A run in the shapes that other tools read: ArviZ, netCDF, tables of text, timelines."""

import contextlib
import importlib.metadata
import json
import secrets
import shutil
from pathlib import Path

import numpy as np
import xarray as xr

from .. import analysis
from ..store import schema


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
    with _whole(path) as partial:
        try:
            xr.DataTree.from_dict(groups).to_netcdf(partial, engine="h5netcdf")
        except (ValueError, OSError):  # values are read only now, and may turn out to be damaged
            raise
        except Exception as error:
            raise ValueError(
                f"netCDF cannot hold this run ({type(error).__name__}: {error}). Look for unusual names or attributes "
                "in its store, or keep that instead: it opens with xarray, too."
            ) from error
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
    with _whole(folder) as partial:
        partial.mkdir(parents=True)
        for name, table in tables.items():
            table.to_csv(partial / f"{name}.csv")
    return sorted(folder.iterdir())


def to_trace(run, path, n_rows=1000):
    """Write how the ranks spent their time as a timeline for Perfetto (ui.perfetto.dev) or chrome://tracing.

    Each rank is a process with a slice for each row of its history, and below it what the rank waited in that time,
    drawn at its end: a row says how long, not when.  Clocks start with each rank's own training.  For a slice for each
    step train with `record_every=1`.

    Parameters
    ----------
    run : DataTree
        May still be running.
    path : path
        It must not exist; JSON in Chrome's trace event format.
    n_rows : int
        Slices of a rank at most; beyond that, neighbouring rows are drawn as one.

    Returns
    -------
    Path
    """
    analysis.single_run(run, "to_trace")
    path = _new(path)
    history, hosts = run[schema.HISTORY].to_dataset(), run[schema.ENVIRONMENT]["host"].values
    events = []
    for rank, host in enumerate(hosts):
        # What the format calls a process is a rank here.
        name = {"name": f"rank {rank} on {host}"}
        events.append({"ph": "M", "name": "process_name", "pid": rank, "args": name})
        events += _slices(history.isel({schema.RANK: rank}), rank, n_rows)
    with _whole(path) as partial:
        partial.write_text(json.dumps({"displayTimeUnit": "ms", "traceEvents": events}), encoding="utf-8")
    return path


def _slices(history, rank, n_rows):
    """Events of one rank: its steps, its waiting, and the age of what it used; times in whole microseconds.

    Slices of a thread must lie inside or beside each other: rounded after the sums, they would not.
    """
    history = history.isel({schema.STEP: history[schema.STEP].values <= int(history[schema.PROGRESS])})
    n = history.sizes[schema.STEP]
    last = np.arange(n - 1, -1, -max(1, -(-n // n_rows)))[::-1]
    columns = {name: history[name].values for name in ("elapsed_s", "waited_s", "staleness")}
    ends = _microseconds(columns["elapsed_s"][last])
    waits = np.minimum(np.diff(_microseconds(np.cumsum(columns["waited_s"])[last])), np.diff(ends)).tolist()
    ends, steps = ends.tolist(), np.r_[0, history[schema.STEP].values[last]].astype(int)
    for k, row in enumerate(last):
        common = {"ph": "X", "pid": rank, "tid": 0}
        steps_of = {"name": f"steps {steps[k] + 1} to {steps[k + 1]}", "ts": ends[k], "dur": ends[k + 1] - ends[k]}
        yield common | steps_of
        yield common | {"name": "waiting, in total", "ts": ends[k + 1] - waits[k], "dur": waits[k]}
        age = float(columns["staleness"][row])
        if np.isfinite(age):  # JSON has no other numbers
            args = {"steps": age}
            yield {
                "ph": "C",
                "pid": rank,
                "name": schema.variable(schema.HISTORY, schema.STALENESS).long_name,
                "ts": ends[k + 1],
                "args": args,
            }


def _microseconds(seconds):
    """Points in time, and 0 before them: ndarray of int."""
    return np.rint(1e6 * np.r_[0.0, seconds]).astype(np.int64)


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
    for described in (data, *data.variables.values()):
        described.attrs = {key: _plain_attribute(item) for key, item in described.attrs.items()}
    return data


def _plain_attribute(item):
    is_known = isinstance(item, str | float | np.number | np.ndarray) or (type(item) is int and abs(item) < 2**63)
    return item if is_known else json.dumps(item)


def _new(path):
    path = Path(path).expanduser()
    if path.exists():
        raise FileExistsError(f"`{path}` exists already and is not overwritten. Delete it, or choose another name.")
    return path


@contextlib.contextmanager
def _whole(path):
    """Yield a hidden name beside `path`; the file or folder there becomes `path` in the end, or is removed."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        shutil.rmtree(partial) if partial.is_dir() else partial.unlink(missing_ok=True)
        raise


def _require(package):
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        text = f'This needs the package {package}. Type: pip install "sagips_kit[explore]"'
        raise ModuleNotFoundError(text, name=package) from None
