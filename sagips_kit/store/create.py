"""The template of a run: the whole store, complete but empty, before any rank starts.

Whoever writes later only fills chunks that exist already, so no two writers ever touch the same file.  How they do that
is in `store`; what the arrays are called is in `schema`.
"""

import contextlib
import datetime
import errno
import importlib.metadata
import json
import platform
import secrets
import shutil
import socket
import subprocess
from dataclasses import asdict

import numpy as np
import xarray as xr
import zarr
from zarr.abc.store import Store
from zarr.codecs import BloscCodec
from zarr.storage import LocalStore

from .._text import spaced
from . import schema
from .location import beside, explained, is_empty, is_on_disk, local_path, located, old_prefix
from .status import read_status

# Rows of float32 shrink to two thirds with it, those of float64 to 60 %; without shuffled bits it is nine tenths.
_COMPRESSION = BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle")
_EVENTS_PER_CHUNK = 2**17
_PACKAGES = ("sagips_kit", "numpy", "xarray", "zarr", "torch", "mpi4py", "ipyparallel")


def create_run(
    path,
    problem,
    layout,
    *,
    spec,
    events,
    reference=None,
    mode="",
    source="",
    uncertainty="bootstrap ensemble",
    marks=None,
    overwrite=False,
):
    """Write the complete, empty template of a run.

    A folder is built beside its place and renamed into it, so nothing half-written is ever visible and a failure leaves
    nothing behind; what is not a folder is written in place, and counts as a run when it is complete.

    Parameters
    ----------
    path : path, URL or zarr Store
    problem : Problem, or anything that describes one
        Read for parameters, lower, upper, observables, units, long_names, truth and published.
    layout : RunLayout
    spec : dict
        What the user asked for, as JSON values.
    events : ndarray (event, observable)
        The observed events.
    reference : dict or None
        A likelihood fit of the same events: any of "mle" (parameter,), "deviation" (parameter,) and "covariance"
        (parameter, parameter).
    mode : str
        The mode of exchange, as a user types it.
    source : str
        Where the observed events come from.
    uncertainty : str
        What the spread of the posterior means.
    marks : dict or None
        By what `resume` knows the run again: attributes of the control group.
    overwrite : bool
        Replace a run at `path` once the new template is complete.  What is not a run is never replaced.

    Raises
    ------
    FileExistsError
        If there is something at `path` already.
    OSError
        If the template cannot be written.
    ValueError
        If names or shapes do not fit together.
    """
    given = _given(problem, layout, spec, events, reference, mode, source, uncertainty, marks)
    replaces = check_free(path, overwrite)
    if isinstance(path, Store) or not is_on_disk(path):
        with explained(f"Cannot create the run `{path}`", "Delete what is there before you try again."):
            _write_template(located(path), problem, layout, given, replaces)
    else:
        _create_folder(local_path(path), problem, layout, given, overwrite)


def _create_folder(path, problem, layout, given, overwrite):
    advice = "Nothing half-written was left behind. Choose a path in a folder that you may write to and that has space."
    with explained(f"Cannot create the run `{path}`", advice), beside(path) as partial:
        _write_template(LocalStore(partial), problem, layout, given)
        if _take_place(partial, path, overwrite):
            return
    check_free(path, overwrite)
    raise FileExistsError(f"`{path}` was made by another process in this moment. Choose another path, or try again.")


def _given(problem, layout, spec, events, reference, mode, source, uncertainty, marks):
    """All that is known before the run, group by group."""
    schema.check_names(tuple(problem.parameters), tuple(problem.observables))
    return {
        "/": xr.Dataset(attrs=_provenance(problem, layout, spec, mode)),
        **_axes(problem, layout, uncertainty),
        schema.OBSERVED: _observed(problem, np.asarray(events, float), source),
        schema.REFERENCE: _references(problem, reference or {}),
        schema.CONTROL: xr.Dataset(attrs=marks),
    }


def _observed(problem, events, source):
    if events.ndim != 2 or events.shape[1] != len(problem.observables):
        names = ", ".join(problem.observables)
        raise ValueError(f"events of shape {events.shape}: should be (event, observable), with the columns {names}.")
    columns = zip(problem.observables, events.T, strict=True)
    # Several chunks, so that readers of millions of events decompress them side by side.
    layout = {"chunks": (min(_EVENTS_PER_CHUNK, max(1, len(events))),), "compressors": (_COMPRESSION,)}
    variables = {name: (schema.EVENT, column, _named(problem, name), layout) for name, column in columns}
    return xr.Dataset(variables, attrs={schema.SOURCE_KEY: source} if source else {})


def _references(problem, fit):
    """Every variable of the reference, NaN where nothing is given."""
    unknown = set(fit) - set(schema.FIT)
    if unknown:
        raise ValueError(f"reference: unknown {', '.join(sorted(unknown))}. Allowed: {', '.join(schema.FIT)}.")
    published = np.array([problem.published.get(name, (np.nan, np.nan)) for name in problem.parameters], float)
    given = fit | {
        "published": published[:, 0],
        "published_deviation": published[:, 1],
        "truth": problem.truth,
        "lower": problem.lower,
        "upper": problem.upper,
    }
    variables = {}
    for name, dims in schema.REFERENCES.items():
        shape = (len(problem.parameters),) * len(dims)
        values = np.full(shape, np.nan) if given.get(name) is None else np.asarray(given[name], float)
        if values.shape != shape:
            raise ValueError(f"{name} of shape {values.shape}: should be {shape}.")
        variables[name] = (dims, values, describe(name))
    names = np.array(problem.parameters, object)  # zarr 3 specifies no arrays of fixed-width strings
    coords = {name: (name, names, describe(name)) for name in (schema.PARAMETER, schema.PARAMETER_2)}
    return xr.Dataset(variables, coords)


def _axes(problem, layout, uncertainty):
    """The coordinates and attributes of the groups that the ranks fill."""
    chain = np.arange(layout.n_chains)
    chains = {
        schema.CHAIN: chain,
        schema.DRAW: np.arange(layout.n_draws),
        schema.REPLICA: (schema.CHAIN, chain // layout.n_members),
        schema.MEMBER: (schema.CHAIN, chain % layout.n_members),
    }
    ranks = {schema.RANK: np.arange(layout.n_ranks)}
    history = ranks | {
        schema.MEMBER: np.arange(layout.n_members),
        schema.STEP: layout.steps,
        schema.PARAMETER: np.array(problem.parameters, object),
    }
    snapshots = {name: chains[name] for name in chains if name != schema.DRAW} | {
        schema.STEP: layout.snapshot_steps,
        schema.PARAMETER: history[schema.PARAMETER],
        schema.OBSERVABLE: np.array(problem.observables, object),
    }
    attributes = {
        schema.CREATED_KEY: _now(),
        schema.LIBRARY_KEY: "sagips_kit",
        schema.LIBRARY_VERSION_KEY: installed_version("sagips_kit"),
        schema.UNCERTAINTY_KEY: uncertainty,
    }
    groups = {
        schema.POSTERIOR: xr.Dataset(coords=chains, attrs=attributes),
        schema.PREDICTIVE: xr.Dataset(coords=chains, attrs=attributes),
        schema.HISTORY: xr.Dataset(coords=history),
        schema.SNAPSHOTS: xr.Dataset(coords=snapshots),
        schema.SCORES: xr.Dataset(coords=ranks | {schema.MEMBER: history[schema.MEMBER]}),
        schema.ENVIRONMENT: xr.Dataset(coords=ranks),
    }
    for group in groups.values():
        for name in group.coords:
            group[name].attrs.update(describe(name))
    return groups


def _named(problem, name):
    """Attributes of a parameter or an observable."""
    return {
        "long_name": problem.long_names.get(name, name),
        "units": problem.units.get(name, schema.DIMENSIONLESS),
    }


def describe(name):
    """Attributes of what every run has."""
    unit = schema.UNITS.get(name, schema.UNITS_OF_PARAMETERS if name in schema.REFERENCES else None)
    return {"long_name": schema.LONG_NAMES[name]} | ({"units": unit} if unit else {})


def _provenance(problem, layout, spec, mode):
    return {
        schema.PROBLEM_KEY: type(problem).__name__,
        schema.PARAMETERS_KEY: list(problem.parameters),
        schema.OBSERVABLES_KEY: list(problem.observables),
        schema.SPEC_KEY: json.dumps(spec),
        schema.MODE_KEY: mode,
        schema.LAYOUT_KEY: asdict(layout),
        schema.VERSIONS_KEY: {"python": platform.python_version()}
        | {name: installed_version(name) for name in _PACKAGES},
        schema.CREATED_KEY: _now(),
        schema.HOSTNAME_KEY: socket.gethostname(),
        schema.REVISION_KEY: _git_revision(),
    }


def _now():
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def installed_version(package):
    """The version of a package, or "not installed"."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _git_revision():
    """Commit of the folder the notebook runs in, with "-dirty" if it differs; empty outside a repository."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _write_template(store, problem, layout, given, replaces=False):
    # The mode "w" deletes whatever lies there, "w-" refuses to write if anything does.
    mode = "w" if replaces else "w-"
    # Consolidated metadata would be a second copy, which zarr 3 does not specify.
    xr.DataTree.from_dict(given).to_zarr(store, mode=mode, consolidated=False, zarr_format=3)
    root = zarr.open_group(store, mode="r+", use_consolidated=False)
    for group, arrays in schema.empty_arrays(layout, problem.parameters, problem.observables).items():
        for name, array in arrays.items():
            root[group].create_array(
                name,
                shape=array.shape,
                chunks=array.chunks,
                dtype=array.dtype,
                fill_value=array.fill,
                compressors="auto" if array.dtype == "str" else _COMPRESSION,
                dimension_names=array.dims,
                attributes=_named(problem, name) if group in (schema.POSTERIOR, schema.PREDICTIVE) else describe(name),
            )
    # Last of all: what has a version is complete.
    root.attrs[schema.VERSION_KEY] = schema.SCHEMA_VERSION


def _take_place(partial, path, overwrite):
    """Rename `partial` to `path`, whose old run goes only then; False if what is there now must stay."""
    old, is_claimed = path.with_name(f"{old_prefix(path)}{secrets.token_hex(8)}"), False
    try:
        # Not what was there when the template was begun.
        if check_free(path, overwrite):
            path.rename(old)
        else:
            path.mkdir()  # of several processes one can; a rename would replace an empty folder of another one
            is_claimed = True
        partial.rename(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            if is_claimed:
                path.rmdir()
            elif old.exists():
                old.rename(path)
        if isinstance(error, FileExistsError) or getattr(error, "errno", None) == errno.ENOTEMPTY:
            return False
        raise
    # The root first: what still has one is whole, and found by `place` if this process is killed.
    with contextlib.suppress(OSError):
        (old / "zarr.json").unlink(missing_ok=True)
    shutil.rmtree(old, ignore_errors=True)
    return True


def check_free(path, overwrite=False):
    """Whether there is a run at `path`, to be replaced; raises FileExistsError if anything is there that must stay."""
    located(path)  # or an error that says what is wrong with a URL
    try:
        status = read_status(path)
    except FileNotFoundError:
        if is_empty(path):
            return False
        raise FileExistsError(
            f"`{path}` holds files but no run of sagips_kit. They are not overwritten; choose another path."
        ) from None
    except ValueError as error:
        raise FileExistsError(f"{error} It is not overwritten; choose another path.") from None
    if not overwrite:
        done, go_on = f"a finished run ({spaced(status.n_steps)} steps)", ""
        if not status.is_finished:
            article = "an" if status.state == "unfinished" else "a"
            done = f"{article} {status.state} run (at step {spaced(status.step)} of {spaced(status.n_steps)})"
            go_on = " go on with it by resume=True (`sagips run --resume`),"
        raise FileExistsError(
            f"`{path}` already holds {done}. Open it with open_run(...),{go_on} or replace it by overwrite=True "
            "(`--overwrite`)."
        )
    return True
