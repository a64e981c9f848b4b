"""Folders of runs, several runs side by side, and `run.sagips`: all that can be asked of a run, as its methods."""

import contextlib
import glob
from pathlib import Path

import pandas as pd
import xarray as xr
from zarr.abc.store import Store

from . import analysis, export, plot, schema
from .dashboard import Dashboard
from .page import page
from .place import is_url, local_path
from .store import open_run

__all__ = ["RunAccessor", "list_runs", "open_run", "open_runs"]

_DEPTH = 3  # folders below the one that is listed
_COLUMNS = ("problem", "mode", "ranks", "members", "seed", "state", "step", "n_steps", "distance", "created")


def list_runs(folder="."):
    """The runs in a folder and its subfolders, as a table.

    Parameters
    ----------
    folder : path

    Returns
    -------
    pandas.DataFrame
        One row for each run, by its path below the folder: problem, mode, ranks, members, seed, state, step, n_steps,
        distance (of the estimate to the maximum-likelihood one, in floor units), created.  A run that cannot be opened
        tells why as its state.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    ValueError
        If it is a store itself.
    """
    folder = local_path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder `{folder}`. Current folder: {Path.cwd()}")
    if (folder / "zarr.json").exists():
        raise ValueError(f"`{folder}` is a store itself. Type open_run({str(folder)!r}), or sagips info {folder}")
    rows = {str(path.relative_to(folder)): _row(path) for path in _stores(folder, _DEPTH)}
    table = pd.DataFrame.from_dict(rows, orient="index", columns=list(_COLUMNS))
    return table.sort_values("created", kind="stable").rename_axis("run")


def open_runs(paths, along="run", labels=None):
    """Open several runs for comparison, side by side along a dimension.

    Parameters
    ----------
    paths : str, or sequence of paths, URLs, zarr Stores or opened runs
        A text may hold wildcards, such as "runs/*.zarr", or be a folder of runs.
    along : str
        What the runs differ by: "run" (their names), "mode", "ranks", "seed", or another field of their specs or
        settings, such as "n_events".  With `labels`, any name.
    labels : sequence or None
        Values along that dimension, one for each run; None takes the runs' own.

    Returns
    -------
    DataTree
        A child for each run, by its label, and the labels as a coordinate.  The functions of `analysis` take it as they
        take a run, and what they return has the dimension `along`; `plot.comparison` and `plot.scaling` draw it.

    Raises
    ------
    FileNotFoundError
        If there is no run.
    ValueError
        If the runs do not differ by `along`, or do not know it.
    """
    runs = [one if isinstance(one, xr.DataTree) else open_run(one) for one in _found(paths)]
    names = [_name(run) for run in runs]
    if labels is None:
        labels = names if along == "run" else [analysis.fact(run, along) for run in runs]
    labels = list(labels)
    if len(labels) != len(runs):
        raise ValueError(f"{len(labels)} labels for {len(runs)} runs: should be one for each, of {', '.join(names)}.")
    if unknown := [name for name, label in zip(names, labels, strict=True) if label is None]:
        raise ValueError(
            f"{', '.join(unknown)}: no {along!r} is known. Allowed: run, mode, ranks, members, problem, state, the "
            "fields of a spec and of its settings, or any name with labels=[...]."
        )
    keys = [str(label).replace("/", "|") for label in labels]
    if len(set(keys)) < len(keys):
        table = ", ".join(f"{name} ({label})" for name, label in zip(names, labels, strict=True))
        raise ValueError(f"Several runs have the same {along!r}: {table}. Choose others, or give labels=[...].")
    root = xr.Dataset(coords={along: (along, labels)}, attrs={schema.ALONG_KEY: along})
    # Without an index the labels stay where they are; runs would inherit an indexed coordinate.
    tree = xr.DataTree(root.drop_indexes(along))
    for key, run in zip(keys, runs, strict=True):
        child = run.copy()
        child.encoding = run.encoding
        tree[key] = child
    return tree


@xr.register_datatree_accessor("sagips")
class RunAccessor:
    """What can be asked of a run, or of several, as methods: `run.sagips.summary()`.

    The methods are the functions of `analysis` of the same names; each takes the options of its function.
    """

    def __init__(self, run):
        if schema.PARAMETERS_KEY not in run.attrs and schema.ALONG_KEY not in run.attrs:
            raise ValueError("This DataTree is not a run. Open one with open_run(path), several with open_runs.")
        self._run = run

    def estimate(self):
        """Dataset (parameter): see `analysis.estimate`."""
        return analysis.estimate(self._run)

    def residuals(self):
        """Dataset (reference, parameter): see `analysis.residuals`."""
        return analysis.residuals(self._run)

    def convergence(self, n_rows=1000):
        """Dataset (step): see `analysis.convergence`."""
        return analysis.convergence(self._run, n_rows)

    def coverage(self, levels=(0.68, 0.95)):
        """Dataset (level, parameter): see `analysis.coverage`."""
        return analysis.coverage(self._run, levels)

    def evolution(self):
        """Dataset (parameter, step): see `analysis.evolution`."""
        return analysis.evolution(self._run)

    def discriminator(self, n_bins=40):
        """Dataset (rank, member), (score): see `analysis.discriminator`."""
        return analysis.discriminator(self._run, n_bins)

    def pace(self, after=0):
        """Dataset: see `analysis.pace`."""
        return analysis.pace(self._run, after)

    def summary(self):
        """pandas.DataFrame: see `analysis.summary`."""
        return analysis.summary(self._run)

    def __repr__(self):
        return self.describe()

    def describe(self):
        """str: see `analysis.describe`."""
        return analysis.describe(self._run)

    def spec(self):
        """dict: see `analysis.spec`."""
        return analysis.spec(self._run)

    def environment(self):
        """pandas.Series: see `analysis.environment`."""
        return analysis.environment(self._run)

    def report(self, figure=None):
        """All pictures on one sheet: see `plot.report`."""
        return plot.report(self._run, figure)

    def page(self):
        """The run as an HTML page, str."""
        return page(self._run)

    def to_arviz(self):
        """InferenceData or DataTree: see `export.to_arviz`."""
        return export.to_arviz(self._run)

    def reopen(self):
        """The run as it is now, DataTree."""
        return open_run(self._source())

    def dashboard(self, interval=2.0):
        """A live view of the run in a notebook: see `Dashboard`."""
        return Dashboard(self._source(), interval)

    def _source(self):
        if "source" not in self._run.encoding:
            raise ValueError("This run does not come from a store, so it cannot be opened again. Type open_run(path).")
        return self._run.encoding["source"]


@xr.register_dataset_accessor("sagips")
class ChainsAccessor:
    """What can be asked of chains that were taken from a run, or computed from them: `ds.sagips.estimate()`.

    Whoever wants a quantity that is no parameter computes it with xarray, of all draws:
    `run["posterior"].to_dataset().assign(ratio=lambda ds: ds.theta0 / ds.theta3)`.
    """

    def __init__(self, chains):
        self._chains = chains

    def estimate(self):
        """Dataset (parameter): see `analysis.estimate_of`."""
        return analysis.estimate_of(self._chains)

    def summary(self):
        """pandas.DataFrame: the estimates as a small table."""
        columns = {"mean": "estimate", "deviation": "deviation", "low": "low", "high": "high"}
        return self.estimate()[list(columns)].to_dataframe()[list(columns)].rename(columns=columns)


def _found(paths):
    if isinstance(paths, str | Path) and not is_url(paths):
        folder = local_path(paths)
        found = sorted(glob.glob(str(Path(paths).expanduser())))
        if folder.is_dir() and not (folder / "zarr.json").exists():
            found = list(_stores(folder, _DEPTH))
        if not found:
            raise FileNotFoundError(f"No run matches `{paths}`. Current folder: {Path.cwd()}")
        return found
    given = [paths] if isinstance(paths, str | Store | xr.DataTree) else list(paths)
    if not given:
        raise FileNotFoundError("There is no run in an empty list. Give paths, or a text such as 'runs/*.zarr'.")
    return given


def _name(run):
    source = run.encoding.get("source", "memory")
    return str(source).rstrip("/").rpartition("/")[2].removesuffix(".zarr")


def _stores(folder, depth):
    """Zarr stores in a folder, not looking inside them nor into hidden folders."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.is_dir():
            continue
        if (path / "zarr.json").exists():
            yield path
        elif depth > 1:
            yield from _stores(path, depth - 1)


def _row(path):
    try:
        run = open_run(path)
        row = {name: analysis.fact(run, name) for name in ("problem", "mode", "ranks", "members", "seed", "state")}
        row["step"] = int(run[schema.HISTORY][schema.PROGRESS].min())
        row["n_steps"] = run.attrs[schema.LAYOUT_KEY]["n_steps"]
        row["created"] = run.attrs[schema.CREATED_KEY]
    except (ValueError, OSError) as error:
        return {"state": str(error), "created": ""}
    with contextlib.suppress(ValueError):  # no likelihood reference, or no chain yet
        row["distance"] = analysis.distance_to_mle(run)
    return row
