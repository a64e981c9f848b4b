"""Folders of runs, and several runs side by side."""

import contextlib
import glob
import os
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr
from zarr.abc.store import Store

from ..store import schema
from ..store.location import Location, is_url, local_path
from ..store.reader import open_run
from ..store.status import RunStatus
from .base import rms
from .estimates import estimate
from .facts import fact
from .fits import reference_of

_COLUMNS = ("problem", "mode", "ranks", "members", "seed", "state", "step", "n_steps", "distance", "verdict", "created")

_DEPTH = 3  # levels of subfolders in which runs are looked for


def list_runs(folder: str | os.PathLike[str] = ".") -> pd.DataFrame:
    """The runs in a folder and its subfolders, as a table.

    Parameters
    ----------
    folder : path
        The folder; three levels of subfolders are searched.

    Returns
    -------
    pandas.DataFrame
        One row for each run, by its path below the folder.  The columns are problem, mode, ranks, members, seed, state,
        step, n_steps, distance (of the estimate to the maximum-likelihood estimate in floor units or, without one, to
        the fit by the learned score in deviations of that fit), verdict ("no fault found", "doubtful", "not reliable"
        or "not tested", when it has ended) and created.  If a run or a folder cannot be opened, its state says why.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    ValueError
        If it is a store itself.

    See Also
    --------
    open_runs : Open several runs for comparison.

    Examples
    --------
    >>> from sagips_kit import list_runs
    >>> list_runs("runs")[["problem", "ranks", "state", "step"]]
               problem  ranks     state  step
    run
    proxy.zarr   Proxy      1  finished   200
    """
    folder = local_path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder `{folder}`. Current folder: {Path.cwd()}")
    if (folder / "zarr.json").exists():
        raise ValueError(f"`{folder}` is a store itself. Type open_run({str(folder)!r}), or sagips describe {folder}")
    stores, unread = _stores(folder)
    rows = {str(path.relative_to(folder)): _row(path) for path in stores}
    rows |= {name: {"state": why, "created": ""} for name, why in unread.items()}
    table = pd.DataFrame.from_dict(rows, orient="index", columns=list(_COLUMNS))
    return table.sort_values("created", kind="stable").rename_axis("run")


def open_runs(
    paths: Location | xr.DataTree | Iterable[Location | xr.DataTree],
    along: str = "run",
    labels: Iterable[Any] | None = None,
) -> xr.DataTree:
    """Open several runs for comparison, side by side along a dimension.

    Parameters
    ----------
    paths : str, or sequence of paths, URLs, zarr Stores or opened runs
        A text may contain wildcards, such as `runs/*.zarr`, or be a folder of runs.
    along : str
        What the runs differ by: "run" (their names), "mode", "ranks", "seed", or another field of their specs or
        settings, such as "n_events".  With `labels`, any name.
    labels : sequence or None
        Values along that dimension, one for each run; None takes them from the runs.

    Returns
    -------
    DataTree
        A child for each run, by its label, and the labels as a coordinate.  The functions of `analysis` take it like a
        single run, and what they return has the dimension `along`; `plot.convergence` and `plot.pace` draw it.

    Raises
    ------
    FileNotFoundError
        If there is no run.
    ValueError
        If two runs have the same value of `along`, or a run does not know it.

    See Also
    --------
    open_run : Open a single run.
    list_runs : The runs in a folder, as a table.

    Examples
    --------
    >>> from sagips_kit import analysis, open_run, open_runs
    >>> run = open_run("runs/proxy.zarr")
    >>> runs = open_runs([run, run], along="attempt", labels=[1, 2])
    >>> analysis.estimate(runs)["mean"].sizes
    Frozen({'attempt': 2, 'parameter': 6})
    >>> runs["1"].sagips.state()
    'finished'
    """
    runs = [one if isinstance(one, xr.DataTree) else open_run(one) for one in _found(paths)]
    if labels is None:
        labels = [_name(run) if along == "run" else fact(run, along) for run in runs]
    return _side_by_side(runs, along, list(labels))


def _side_by_side(runs: Sequence[xr.DataTree], along: str, labels: list[Any]) -> xr.DataTree:
    names = [_name(run) for run in runs]
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
        raise ValueError(f"Several runs have the same {along!r}: {table}. Choose another one, or give labels=[...].")
    root = xr.Dataset(coords={along: (along, labels)}, attrs={schema.ALONG_KEY: along})
    # Without an index the labels stay at the root; an indexed coordinate would be inherited by the runs.
    tree = xr.DataTree(root.drop_indexes(along))
    for key, run in zip(keys, runs, strict=True):
        child = run.copy()
        child.encoding = run.encoding
        tree[key] = child
    return tree


def _found(
    paths: Location | xr.DataTree | Iterable[Location | xr.DataTree],
) -> Sequence[Location | xr.DataTree]:
    if isinstance(paths, str | Path) and not is_url(paths):
        folder = local_path(paths)
        found = sorted(glob.glob(str(Path(paths).expanduser())))
        if folder.is_dir() and not (folder / "zarr.json").exists():
            stores, unread = _stores(folder)
            for name, why in unread.items():
                warnings.warn(f"`{folder / name}` and what is in it was left out: {why}", stacklevel=3)
            return _not_empty(stores, paths)
        return _not_empty(found, paths)
    given = [paths] if isinstance(paths, str | os.PathLike | Store | xr.DataTree) else list(paths)
    if not given:
        raise FileNotFoundError("There is no run in an empty list. Give paths, or a text such as 'runs/*.zarr'.")
    return given


def _stores(folder: Path) -> tuple[list[Path], dict[str, str]]:
    """Stores in a folder and its subfolders, and why some of these folders cannot be read, by their names."""
    found, unread = [], {}

    def note(error: OSError) -> None:
        unread[os.path.relpath(error.filename, folder)] = str(error)

    for here, folders, files in os.walk(folder, onerror=note, followlinks=True):
        path = Path(here)
        if "zarr.json" in files:
            found.append(path)
        is_deep = len(path.relative_to(folder).parts) >= _DEPTH
        folders[:] = (
            [] if is_deep or "zarr.json" in files else sorted(one for one in folders if not one.startswith("."))
        )
    return found, unread


def _not_empty(found: Sequence[Location], paths: str | Path) -> Sequence[Location]:
    if not found:
        raise FileNotFoundError(f"No run matches `{paths}`. Current folder: {Path.cwd()}")
    return found


def _name(run: xr.DataTree) -> str:
    source = run.encoding.get("source", "memory")
    return str(source).rstrip("/").rpartition("/")[2].removesuffix(".zarr")


def _row(path: Path) -> dict[str, Any]:
    try:
        run = open_run(path)
        row = {name: fact(run, name) for name in ("problem", "mode", "ranks", "members", "seed", "state")}
        status = RunStatus.from_run(run)
        row["step"], row["n_steps"] = status.step, status.n_steps
        row["created"] = run.attrs[schema.CREATED_KEY]
        row["verdict"] = run.attrs.get(schema.VERDICT_KEY, {}).get("state")
    except (ValueError, OSError) as error:
        return {"state": str(error), "created": ""}
    if name := reference_of(run).name:
        with contextlib.suppress(ValueError):  # no chain yet
            row["distance"] = float(rms(estimate(run)[f"to_{name}"]))
    return row
