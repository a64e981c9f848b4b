"""A run in formats that other tools read: ArviZ, netCDF, comma-separated values, timelines."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from .. import analysis
from ..store import schema

if TYPE_CHECKING:
    import arviz  # pyright: ignore[reportMissingImports]  (optional: an extra brings it)


_DISTANCE = "distance"


def to_arviz(run: xr.DataTree) -> arviz.InferenceData | xr.DataTree:
    """Convert the posterior draws and events of a run for ArviZ.

    Chains that have not been written yet are left out.

    Parameters
    ----------
    run : DataTree
        A run that `open_run` has opened, of which some chain has been written.

    Returns
    -------
    InferenceData or DataTree
        The groups `posterior`, `posterior_predictive` and `observed_data`, as the installed ArviZ expects them: an
        InferenceData before ArviZ 1, a DataTree from ArviZ 1.

    Raises
    ------
    ModuleNotFoundError
        If ArviZ is not installed.
    ValueError
        If no chain has been written yet, or if several runs are given.

    See Also
    --------
    sagips_kit.report.export.to_netcdf : The whole run in one file.
    sagips_kit.plot.posterior : Pairs of parameters without ArviZ.

    Notes
    -----
    Each chain is trained on its own resample of the events, so chains differ by as much as the statistical uncertainty.
    ArviZ's `r_hat` and `ess` test whether chains agree; they mean nothing here.

    Examples
    --------
    >>> from sagips_kit import open_run
    >>> from sagips_kit.report.export import to_arviz
    >>> data = to_arviz(open_run("runs/proxy.zarr"))
    >>> data["posterior"]["theta0"].dims
    ('chain', 'draw')
    """
    analysis.single_run(run, "to_arviz")
    groups = {group: analysis.written(run, group) for group in (schema.POSTERIOR, schema.PREDICTIVE)}
    tree = xr.DataTree.from_dict(groups | {schema.OBSERVED: run[schema.OBSERVED].to_dataset().load()})
    require_package("arviz")
    if int(importlib.metadata.version("arviz").partition(".")[0]) >= 1:
        return tree
    import arviz

    return arviz.InferenceData.from_datatree(tree)


def to_netcdf(run: xr.DataTree, path: str | os.PathLike[str]) -> Path:
    """Write a run to one netCDF file, which `xarray.open_datatree` opens without sagips_kit.

    In a terminal, `sagips export STORE --to netcdf` does the same.

    Parameters
    ----------
    run : DataTree
        A run that `open_run` has opened; it may be unfinished.
    path : path
        The file to write; it must not exist.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    FileExistsError
        If `path` exists.
    ModuleNotFoundError
        If h5netcdf is not installed.
    ValueError
        If several runs are given, if the run is damaged, or if netCDF cannot hold it.

    See Also
    --------
    sagips_kit.report.export.to_csv : Estimates, draws and convergence as tables.

    Examples
    --------
    >>> import xarray as xr
    >>> from sagips_kit import open_run
    >>> from sagips_kit.report.export import to_netcdf
    >>> path = to_netcdf(open_run("runs/proxy.zarr"), "proxy.nc")
    >>> with xr.open_datatree(path, engine="h5netcdf") as tree:
    ...     print(tree["posterior/theta0"].dims)
    ('chain', 'draw')
    """
    analysis.single_run(run, "to_netcdf")
    path = new_path(path)
    require_package("h5netcdf")
    groups = {node.path: _plain(node.to_dataset(inherit=False)) for node in run.subtree}
    with replacing(path) as partial:
        try:
            xr.DataTree.from_dict(groups).to_netcdf(partial, engine="h5netcdf")
        except Exception as error:
            # Values are read only now, and may turn out to be damaged; what xarray refuses, it calls netCDF's.
            if isinstance(error, (ValueError, OSError)) and "netCDF" not in str(error):
                raise
            raise ValueError(
                f"netCDF cannot hold this run ({type(error).__name__}: {error}). Look for unusual names or attributes "
                "in its store, or share the store itself: xarray opens it, too."
            ) from error
    return path


def to_csv(run: xr.DataTree, folder: str | os.PathLike[str]) -> list[Path]:
    """Write the estimates, draws and convergence of a run as tables of comma-separated values.

    In a terminal, `sagips export STORE --to csv` does the same.

    Parameters
    ----------
    run : DataTree
        A run that `open_run` has opened; it may be unfinished.
    folder : path
        The folder to write; it must not exist.

    Returns
    -------
    list of Path
        The files: convergence.csv, and once a chain has been written estimates.csv and posterior.csv.  Parameters keep
        their names; if one is called "distance" or "elapsed_s", the column of the run becomes "run.distance" or
        "run.elapsed_s".

    Raises
    ------
    FileExistsError
        If `folder` exists.
    ValueError
        If several runs are given, or if the run is damaged.

    See Also
    --------
    sagips_kit.report.export.to_netcdf : The whole run in one file.

    Examples
    --------
    >>> from sagips_kit import open_run
    >>> from sagips_kit.report.export import to_csv
    >>> [path.name for path in to_csv(open_run("runs/proxy.zarr"), "proxy_csv")]
    ['convergence.csv', 'estimates.csv', 'posterior.csv']
    """
    analysis.single_run(run, "to_csv")
    folder = new_path(folder)
    path = analysis.convergence(run, n_rows=None)
    parameters = run.attrs[schema.PARAMETERS_KEY]
    table = path["theta"].to_dataset(schema.PARAMETER).to_dataframe()
    for name, values in ((_DISTANCE, path["distance"]), (schema.ELAPSED, path["elapsed"])):
        # Refuses a name that exists.
        table.insert(table.shape[1], f"run.{name}" if name in parameters else name, values.to_series())
    tables = {"convergence": table}
    if _has_chains(run):
        tables["estimates"] = analysis.summary(run)
        draws = analysis.written(run, schema.POSTERIOR).to_dataframe()
        tables["posterior"] = draws.loc[:, [*parameters, *draws.columns.difference(parameters)]]
    with replacing(folder) as partial:
        partial.mkdir(parents=True)
        for name, table in tables.items():
            table.to_csv(partial / f"{name}.csv")
    return sorted(folder.iterdir())


def to_trace(run: xr.DataTree, path: str | os.PathLike[str], n_rows: int = 1000) -> Path:
    """Write how the ranks spent their time as a timeline for Perfetto (ui.perfetto.dev) or chrome://tracing.

    In a terminal, `sagips export STORE --to trace` does the same.

    Parameters
    ----------
    run : DataTree
        A run that `open_run` has opened; it may be unfinished.
    path : path
        The file to write, in Chrome's trace event format (JSON); it must not exist.
    n_rows : int
        Largest number of slices for each rank; if the history has more rows, neighbouring rows are merged.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    FileExistsError
        If `path` exists.
    ValueError
        If several runs are given, or if the run is damaged.

    See Also
    --------
    sagips_kit.plot.timeline : The same as a picture.

    Notes
    -----
    Each rank appears as a process with one slice for each row of its history.  The time that the rank waited during a
    row is drawn at the end of its slice, because the history holds only its length.  Times begin with the training of
    each rank.  Train with `record_every=1` to get a slice for each step.

    Examples
    --------
    >>> import json
    >>> from sagips_kit import open_run
    >>> from sagips_kit.report.export import to_trace
    >>> path = to_trace(open_run("runs/proxy.zarr"), "proxy.trace.json")
    >>> json.loads(path.read_text())["traceEvents"][0]["name"]
    'process_name'
    """
    analysis.single_run(run, "to_trace")
    path = new_path(path)
    history, environment = (run[group].to_dataset() for group in (schema.HISTORY, schema.ENVIRONMENT))
    events: list[dict[str, Any]] = []
    for rank, host in enumerate(environment[schema.HOST].values):
        # A rank takes the place of what the format calls a process.
        name = {"name": f"rank {rank} on {host}"}
        events.append({"ph": "M", "name": "process_name", "pid": rank, "args": name})
        events += _slices(history.isel({schema.RANK: rank}), rank, n_rows)
    with replacing(path) as partial:
        partial.write_text(json.dumps({"displayTimeUnit": "ms", "traceEvents": events}), encoding="utf-8")
    return path


def _has_chains(run: xr.DataTree) -> bool:
    return bool(run[schema.POSTERIOR].to_dataset().load().dropna(schema.CHAIN, how="all").sizes[schema.CHAIN])


def _slices(history: xr.Dataset, rank: int, n_rows: int) -> Iterator[dict[str, Any]]:
    """Events of one rank: steps, waiting times, and ages of messages, with times in whole microseconds.

    Slices of a process must be nested or disjoint, so times are rounded before lengths are computed from them.
    """
    history = history.isel({schema.STEP: history[schema.STEP].values <= int(history[schema.PROGRESS])})
    n = history.sizes[schema.STEP]
    last = np.arange(n - 1, -1, -max(1, -(-n // n_rows)))[::-1]
    columns = {name: history[name].values for name in (schema.ELAPSED, schema.WAITED, schema.STALENESS)}
    ends = _microseconds(columns[schema.ELAPSED][last])
    waits = np.minimum(np.diff(_microseconds(np.cumsum(columns[schema.WAITED])[last])), np.diff(ends)).tolist()
    ends, steps = ends.tolist(), np.r_[0, history[schema.STEP].values[last]].astype(int)
    for k, row in enumerate(last):
        common = {"ph": "X", "pid": rank, "tid": 0}
        steps_of = {"name": f"steps {steps[k] + 1} to {steps[k + 1]}", "ts": ends[k], "dur": ends[k + 1] - ends[k]}
        yield common | steps_of
        yield common | {"name": "waiting (total)", "ts": ends[k + 1] - waits[k], "dur": waits[k]}
        age = float(columns[schema.STALENESS][row])
        if np.isfinite(age):  # JSON has no NaN
            yield {"ph": "C", "pid": rank, "name": "staleness", "ts": ends[k + 1], "args": {"steps": age}}


def _microseconds(seconds: ArrayLike) -> NDArray[np.int64]:
    """Points in time in whole microseconds (row + 1,), with a 0 in front."""
    return np.rint(1e6 * np.r_[0.0, seconds]).astype(np.int64)


def _plain(dataset: xr.Dataset) -> xr.Dataset:
    """The dataset with texts and attributes of types that netCDF supports."""
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


def _plain_attribute(item: Any) -> Any:
    is_known = isinstance(item, str | float | np.number | np.ndarray) or (type(item) is int and abs(item) < 2**63)
    return item if is_known else json.dumps(item)


def new_path(path: str | os.PathLike[str]) -> Path:
    """The path, unless it exists."""
    path = Path(path).expanduser()
    if path.exists():
        raise FileExistsError(f"`{path}` exists already and is not overwritten. Delete it, or choose another name.")
    return path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a hidden path beside `path`; what is written there is renamed at the end, or removed after an error."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        shutil.rmtree(partial) if partial.is_dir() else partial.unlink(missing_ok=True)
        raise


def require_package(package: str) -> None:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        text = f'This needs the package {package}. Type: pip install "sagips_kit[explore]"'
        raise ModuleNotFoundError(text, name=package) from None
