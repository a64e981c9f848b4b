"""The template of a run: the whole store, complete but empty, before any rank starts.

Whoever writes later only fills chunks that exist already, so no two writers ever touch the same file.  How they do that
is in `store`; what the arrays are called is in `schema`.
"""

import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import shutil
import socket
import subprocess
from dataclasses import asdict

import numpy as np
import xarray as xr
import zarr
from zarr.abc.store import Store
from zarr.storage import LocalStore

from . import schema
from .store import explained, local_path, read_progress, spaced


def create_run(
    path, problem, layout, *, spec, events, reference=None, uncertainty="bootstrap ensemble", overwrite=False
):
    """Write the complete, empty template of a run.

    A folder is built beside its place and renamed into it, so nothing half-written is ever visible and a failure leaves
    nothing behind; a zarr store that is not a folder is written in place.

    Parameters
    ----------
    path : path or zarr Store
    problem : Problem, or anything that describes one
        Read for parameters, lower, upper, observables, units, truth and published.
    layout : RunLayout
    spec : dict
        What the user asked for, as JSON values.
    events : ndarray (event, observable)
        The observed events.
    reference : dict or None
        A likelihood fit of the same events: any of "mle" (parameter,), "deviation" (parameter,) and "covariance"
        (parameter, parameter).
    uncertainty : str
        What the spread of the posterior means.
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
    schema.check_names(tuple(problem.parameters), tuple(problem.observables))
    given = {
        "/": xr.Dataset(attrs=_provenance(problem, layout, spec)),
        **_axes(problem, layout, uncertainty),
        schema.OBSERVED: _observed(problem, np.asarray(events, float)),
        schema.REFERENCE: _references(problem, reference or {}),
        schema.CONTROL: xr.Dataset(),
    }
    check_free(path, overwrite)
    if isinstance(path, Store):
        _write_template(path, problem, layout, given)
        return
    path = local_path(path)
    advice = "Nothing half-written was left behind. Choose a path in a folder that you may write to and that has space."
    with explained(f"Cannot create the run `{path}`", advice), _replacing(path) as partial:
        _write_template(LocalStore(partial), problem, layout, given)


def _observed(problem, events):
    if events.ndim != 2 or events.shape[1] != len(problem.observables):
        names = ", ".join(problem.observables)
        raise ValueError(f"events of shape {events.shape}: should be (event, observable), with the columns {names}.")
    columns = zip(problem.observables, events.T, strict=True)
    return xr.Dataset({name: (schema.EVENT, column, _unit(problem, name)) for name, column in columns})


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
    return xr.Dataset(variables, {schema.PARAMETER: names, schema.PARAMETER_2: names})


def _axes(problem, layout, uncertainty):
    """The coordinates and attributes of the groups that the ranks fill."""
    chain = np.arange(layout.n_chains)
    chains = {
        schema.CHAIN: chain,
        schema.DRAW: np.arange(layout.n_draws),
        schema.REPLICA: (schema.CHAIN, chain // layout.n_members),
        schema.MEMBER: (schema.CHAIN, chain % layout.n_members),
    }
    history = {
        schema.RANK: np.arange(layout.n_ranks),
        schema.MEMBER: np.arange(layout.n_members),
        schema.STEP: (schema.STEP, layout.steps, describe(schema.STEP)),
        schema.PARAMETER: np.array(problem.parameters, object),
    }
    attributes = {
        schema.CREATED_KEY: _now(),
        schema.LIBRARY_KEY: schema.LIBRARY,
        schema.LIBRARY_VERSION_KEY: _version(schema.LIBRARY),
        schema.UNCERTAINTY_KEY: uncertainty,
    }
    return {
        schema.POSTERIOR: xr.Dataset(coords=chains, attrs=attributes),
        schema.PREDICTIVE: xr.Dataset(coords=chains, attrs=attributes),
        schema.HISTORY: xr.Dataset(coords=history),
    }


def _unit(problem, name):
    return {"units": problem.units[name]} if name in problem.units else {}


def describe(name):
    texts = {"long_name": schema.LONG_NAMES.get(name), "units": schema.UNITS.get(name)}
    return {key: text for key, text in texts.items() if text}


def _provenance(problem, layout, spec):
    packages = ("sagips_kit", "numpy", "zarr", "torch")
    return {
        schema.VERSION_KEY: schema.SCHEMA_VERSION,
        schema.PROBLEM_KEY: type(problem).__name__,
        schema.PARAMETERS_KEY: list(problem.parameters),
        schema.OBSERVABLES_KEY: list(problem.observables),
        schema.SPEC_KEY: json.dumps(spec),
        schema.LAYOUT_KEY: asdict(layout),
        schema.VERSIONS_KEY: {"python": platform.python_version()} | {name: _version(name) for name in packages},
        schema.CREATED_KEY: _now(),
        schema.HOSTNAME_KEY: socket.gethostname(),
        schema.REVISION_KEY: _git_revision(),
    }


def _now():
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _git_revision():
    """Commit of the folder the notebook runs in, with "-dirty" if it differs; empty outside a repository."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _write_template(store, problem, layout, given):
    # Consolidated metadata would be a second copy, which zarr 3 does not specify.
    xr.DataTree.from_dict(given).to_zarr(store, mode="w", consolidated=False, zarr_format=3)
    root = zarr.open_group(store, mode="r+", use_consolidated=False)
    for group, arrays in schema.empty_arrays(layout, problem.parameters, problem.observables).items():
        for name, array in arrays.items():
            sizes = {"shape": array.shape, "chunks": array.chunks, "dimension_names": array.dims}
            is_named_by_problem = group in (schema.POSTERIOR, schema.PREDICTIVE)
            attributes = _unit(problem, name) if is_named_by_problem else describe(name)
            root[group].create_array(name, dtype=array.dtype, fill_value=array.fill, attributes=attributes, **sizes)


@contextlib.contextmanager
def _replacing(path):
    """Yield a hidden folder beside `path` that takes its place at the end; an old run there goes only then."""
    partial, old = (path.parent / f".{path.name}.{word}-{os.getpid()}" for word in ("partial", "old"))
    try:
        partial.mkdir(parents=True)
        yield partial
        if path.exists():
            path.rename(old)  # no rename replaces a folder that is not empty
        partial.rename(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        if old.exists():
            old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def check_free(path, overwrite=False):
    """Raise FileExistsError if `path` holds anything that must not be replaced."""
    try:
        progress = read_progress(path)
    except FileNotFoundError:
        return
    except ValueError as error:
        raise FileExistsError(f"{error} It is not overwritten; choose another path.") from None
    if not overwrite:
        done = f"a finished run ({spaced(progress.step)} steps)"
        if not progress.is_finished:
            done = f"an unfinished run (at step {spaced(progress.step)} of {spaced(progress.n_steps)})"
        raise FileExistsError(f"`{path}` already holds {done}. Open it with open_run(...), or pass overwrite=True.")
