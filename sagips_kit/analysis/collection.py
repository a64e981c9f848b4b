"""Folders of runs, and several runs side by side."""

import contextlib
import glob
from pathlib import Path

import pandas as pd
import xarray as xr
from zarr.abc.store import Store

from ..store import schema
from ..store.location import is_url, local_path
from ..store.reader import open_run
from ..store.status import RunStatus
from .estimates import distance_to_mle
from .facts import fact

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
        raise ValueError(f"`{folder}` is a store itself. Type open_run({str(folder)!r}), or sagips describe {folder}")
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
        take a run, and what they return has the dimension `along`; `plot.convergence` and `plot.pace` draw it.

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
        labels = names if along == "run" else [fact(run, along) for run in runs]
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
        row = {name: fact(run, name) for name in ("problem", "mode", "ranks", "members", "seed", "state")}
        status = RunStatus.from_run(run)
        row["step"], row["n_steps"] = status.step, status.n_steps
        row["created"] = run.attrs[schema.CREATED_KEY]
    except (ValueError, OSError) as error:
        return {"state": str(error), "created": ""}
    with contextlib.suppress(ValueError):  # no likelihood reference, or no chain yet
        row["distance"] = distance_to_mle(run)
    return row
