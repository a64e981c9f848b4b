"""The template of a run: the whole store, complete but empty, before any rank starts.

Those that write later only fill chunks of arrays that exist already, so no two writers ever touch the same file.  How
they do that is in `writer`; what the arrays are is in `schema`.
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
import uuid
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import xarray as xr
import zarr
from numpy.typing import ArrayLike
from zarr.abc.codec import BytesBytesCodec
from zarr.abc.store import Store
from zarr.codecs import BloscCodec, ZstdCodec
from zarr.storage import LocalStore

from .._circular import Named, intervals
from .._text import allowed, listed, spaced
from . import schema
from .integrity import CHECKSUM, WRITE_ALL, CheckedStore, due_step
from .location import Location, beside, explained, is_empty, is_on_disk, local_path, located, old_prefix
from .status import read_status

# Rows of float32 shrink to two thirds with it, those of float64 to 60 %; without shuffled bits it is nine tenths.
_COMPRESSION = BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle")
_EVENTS_PER_CHUNK = 2**17
_PACKAGES = ("sagips_kit", "numpy", "xarray", "zarr", "torch", "mpi4py", "ipyparallel")


class Described(Named, Protocol):
    """What a run records of its problem; every `Problem` has it."""

    @property
    def truth(self) -> Any: ...
    @property
    def published(self) -> Mapping[str, Any]: ...
    @property
    def units(self) -> Mapping[str, str]: ...
    @property
    def long_names(self) -> Mapping[str, str]: ...


def create_run(
    path: Location,
    problem: Described,
    layout: schema.RunLayout,
    *,
    spec: Mapping[str, Any],
    events: ArrayLike,
    reference: Mapping[str, Any] | None = None,
    mode: str = "",
    source: str = "",
    uncertainty: str = "bootstrap ensemble",
    marks: Mapping[str, Any] | None = None,
    shown: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Write the complete, empty template of a run.

    On disk it is built in a hidden folder and then renamed, so nothing half-written is ever visible and a failure
    leaves nothing behind.  Elsewhere it is written in place, and counts as a run once it is complete.

    Parameters
    ----------
    path : path, URL or zarr Store
        Where the run will be.
    problem : Problem, or anything that describes one
        Its parameters, lower, upper, observables, units, long_names, truth, published and periodic are read.
    layout : RunLayout
        Sizes of the arrays.
    spec : dict
        What the user asked for, as JSON values.
    events : ndarray (event, observable)
        The observed events.
    reference : dict or None
        A likelihood fit of the same events: any of "mle" (parameter,), "deviation" (parameter,) and "covariance"
        (parameter, parameter).
    mode, source, uncertainty : str
        The mode of exchange, as a user types it; where the observed events come from; what the spread of the posterior
        means.
    marks : dict or None
        Attributes of the control group, by which `resume` recognises the run.
    shown : dict or None
        How pictures and tables show the problem, as JSON values: the fields of `Shown`.
    overwrite : bool
        Whether to replace a run at `path`, once the new template is complete; nothing but a run is ever replaced.

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
    given["/"].attrs |= {schema.SHOWN_KEY: dict(shown)} if shown else {}
    replaces = check_free(path, overwrite)
    if is_on_disk(path) and not isinstance(path, Store):
        _create_folder(local_path(path), problem, layout, given, overwrite)
        return
    with explained(f"Cannot create the run `{path}`", "Delete what is there before you try again."):
        _write_template(located(path), problem, layout, given, replaces)


def _create_folder(
    path: Path, problem: Described, layout: schema.RunLayout, given: dict[str, xr.Dataset], overwrite: bool
) -> None:
    advice = "Nothing half-written was left behind. Choose a path in a folder that you may write to and that has space."
    with explained(f"Cannot create the run `{path}`", advice), beside(path) as partial:
        _write_template(LocalStore(partial), problem, layout, given)
        if take_place(partial, path, overwrite):
            return
    check_free(path, overwrite)
    raise FileExistsError(f"`{path}` has just been created by another process. Choose another path, or try again.")


def _given(
    problem: Described,
    layout: schema.RunLayout,
    spec: Mapping[str, Any],
    events: ArrayLike,
    reference: Mapping[str, Any] | None,
    mode: str,
    source: str,
    uncertainty: str,
    marks: Mapping[str, Any] | None,
) -> dict[str, xr.Dataset]:
    """Everything that is known before the run, group by group."""
    schema.check_names(tuple(problem.parameters), tuple(problem.observables))
    posterior = {
        schema.CREATED_KEY: _now(),
        schema.LIBRARY_KEY: "sagips_kit",
        schema.LIBRARY_VERSION_KEY: installed_version("sagips_kit"),
        schema.UNCERTAINTY_KEY: uncertainty,
        schema.RESAMPLED_KEY: layout.n_chains,
    }
    known = {
        schema.POSTERIOR: xr.Dataset(attrs=posterior),
        schema.PREDICTIVE: xr.Dataset(attrs=posterior),
        schema.OBSERVED: _observed(problem, np.asarray(events, float), source),
        schema.REFERENCE: _references(problem, reference or {}),
        schema.CONTROL: xr.Dataset(attrs=marks),
    }
    around = intervals(problem)
    of_groups = {
        schema.POSTERIOR: problem.parameters,
        schema.PREDICTIVE: problem.observables,
        schema.OBSERVED: problem.observables,
    }
    for group, names in of_groups.items():
        if periodic := {name: around[name] for name in names if name in around}:
            known[group] = known[group].assign_attrs({schema.PERIODIC_KEY: json.dumps(periodic)})
    groups = {
        group: known.get(group, xr.Dataset()).assign_coords(_coordinates(group, problem, layout))
        for group in schema.GROUPS
    }
    return {"/": xr.Dataset(attrs=_origin(problem, layout, spec, mode)), **groups}


def _table(problem: Described) -> dict[str, dict[str, schema.Variable]]:
    return schema.variables(problem.parameters, problem.observables, problem.units, problem.long_names)


def _observed(problem: Described, events: np.ndarray, source: str) -> xr.Dataset:
    if events.ndim != 2 or events.shape[1] != len(problem.observables):
        names = ", ".join(problem.observables)
        raise ValueError(f"events of shape {events.shape}: should be (event, observable), with the columns {names}.")
    # Several chunks, so that readers can decompress millions of events in parallel.
    layout = {"chunks": (min(_EVENTS_PER_CHUNK, max(1, len(events))),)}
    table = _table(problem)[schema.OBSERVED]
    columns = {
        name: (table[name].dims, column, table[name].attributes, layout)
        for name, column in zip(problem.observables, events.T, strict=True)
    }
    return xr.Dataset(columns, attrs={schema.SOURCE_KEY: source} if source else {})


def _references(problem: Described, fit: Mapping[str, Any]) -> xr.Dataset:
    """The variables of the reference that are known before the run, NaN where nothing is given."""
    unknown = set(fit) - set(schema.LIKELIHOOD_FIT)
    if unknown:
        text = allowed(min(unknown), schema.LIKELIHOOD_FIT)
        raise ValueError(f"reference: unknown {listed(sorted(unknown))}. {text}")
    published = np.array([problem.published.get(name, (np.nan, np.nan)) for name in problem.parameters], float)
    given = {
        **fit,
        schema.PUBLISHED: published[:, 0],
        schema.PUBLISHED_DEVIATION: published[:, 1],
        schema.TRUTH: problem.truth,
        schema.LOWER: problem.lower,
        schema.UPPER: problem.upper,
    }
    variables = {}
    for name, variable in schema.of_group(schema.REFERENCE).items():
        if variable.owner != "creator":
            continue
        shape = (len(problem.parameters),) * len(variable.dims)
        values = np.full(shape, np.nan) if given.get(name) is None else np.asarray(given[name], float)
        if values.shape != shape:
            raise ValueError(f"{name} of shape {values.shape}: should be {shape}.")
        variables[name] = (variable.dims, values, variable.attributes)
    return xr.Dataset(variables)


def _coordinates(group: str, problem: Described, layout: schema.RunLayout) -> dict[str, tuple]:
    """The coordinates of a group, as xarray takes them: name -> (dims, values, attributes)."""
    chain = np.arange(layout.n_chains)
    along_chain = {schema.REPLICA: chain // layout.n_members, schema.MEMBER: chain % layout.n_members}
    names = np.array(problem.parameters, object)  # zarr 3 specifies no arrays of fixed-width strings
    values = {
        schema.CHAIN: chain,
        schema.DRAW: np.arange(layout.n_draws),
        schema.RANK: np.arange(layout.n_ranks),
        schema.MEMBER: np.arange(layout.n_members),
        schema.STEP: layout.snapshot_steps if group == schema.SNAPSHOTS else layout.steps,
        schema.PARAMETER: names,
        schema.PARAMETER_2: names,
        schema.OBSERVABLE: np.array(problem.observables, object),
    }
    return {
        name: (
            one.dims,
            (along_chain if one.dims == (schema.CHAIN,) else {}).get(name, values.get(name)),
            one.attributes,
        )
        for name, one in schema.coordinates(group).items()
    }


def _origin(problem: Described, layout: schema.RunLayout, spec: Mapping[str, Any], mode: str) -> dict[str, Any]:
    return {
        schema.PROBLEM_KEY: type(problem).__name__,
        schema.PARAMETERS_KEY: list(problem.parameters),
        schema.OBSERVABLES_KEY: list(problem.observables),
        schema.SPEC_KEY: json.dumps(spec),
        schema.MODE_KEY: mode,
        schema.LAYOUT_KEY: asdict(layout),
    } | provenance()


def provenance() -> dict[str, Any]:
    """Attributes that say when, where and by which versions a run, or its continuation, was begun; with a new name."""
    return {
        schema.VERSIONS_KEY: {"python": platform.python_version()}
        | {name: installed_version(name) for name in _PACKAGES},
        schema.RUN_KEY: uuid.uuid4().hex,
        schema.CREATED_KEY: _now(),
        schema.HOSTNAME_KEY: socket.gethostname(),
        schema.REVISION_KEY: _git_revision(),
    }


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def installed_version(package: str) -> str:
    """The version of a package, or "not installed"."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _git_revision() -> str:
    """Commit of the current folder, with "-dirty" if files differ from it; empty outside a repository."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _write_template(
    store: Store,
    problem: Described,
    layout: schema.RunLayout,
    given: dict[str, xr.Dataset],
    replaces: bool = False,
) -> None:
    # The mode "w" deletes whatever is there, "w-" refuses to write if there is anything.
    mode = "w" if replaces else "w-"
    # Consolidated metadata would be a second copy, which zarr 3 does not specify.
    store = CheckedStore(store)
    xr.DataTree.from_dict({group: _checked(one) for group, one in given.items()}).to_zarr(
        store,  # pyright: ignore[reportArgumentType]  # xarray takes zarr's stores, but its types do not say so
        mode=mode,
        consolidated=False,
        zarr_format=3,
        write_empty_chunks=True,
    )
    root = zarr.open_group(store, mode="r+", use_consolidated=False)
    for group, arrays in schema.empty_arrays(_table(problem), layout).items():
        for name, array in arrays.items():
            created = root.create_array(
                f"{group}/{name}",
                shape=array.shape,
                chunks=array.chunks,
                dtype=array.variable.dtype,
                fill_value=array.variable.fill,
                compressors=compressors(array.variable.dtype == "str"),
                dimension_names=array.variable.dims,
                attributes=dict(array.variable.attributes),
                config=WRITE_ALL,
            )
            if due_step(array.variable, layout) == 0:
                created[...] = array.variable.fill
    # Written last: a run that has a version is complete.
    root.attrs[schema.VERSION_KEY] = schema.SCHEMA_VERSION


def compressors(is_text: bool) -> tuple[BytesBytesCodec, ...]:
    """What compresses the chunks of an array and adds their checksums."""
    return (ZstdCodec(level=0) if is_text else _COMPRESSION, CHECKSUM)


def _checked(dataset: xr.Dataset) -> xr.Dataset:
    """The dataset, whose variables will be written with checksums."""
    for name, variable in dataset.variables.items():
        dataset[name].encoding["compressors"] = compressors(variable.dtype.kind in "OTU")
    return dataset


def take_place(partial: Path, path: Path, overwrite: bool) -> bool:
    """Rename `partial` to `path`, replacing an old run only then; False if what is there now must not be replaced."""
    old, is_claimed = path.with_name(f"{old_prefix(path)}{secrets.token_hex(8)}"), False
    try:
        # What is at `path` may have changed since the template was begun.
        if check_free(path, overwrite):
            path.rename(old)
        else:
            path.mkdir()  # succeeds in one process only, whereas a rename would replace another one's empty folder
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
    # The root's own file is removed first.  If this process is killed before that, the old run is whole, and
    # `open_group` offers to restore it.
    with contextlib.suppress(OSError):
        (old / "zarr.json").unlink(missing_ok=True)
    shutil.rmtree(old, ignore_errors=True)
    return True


def check_free(path: Location, overwrite: bool = False) -> bool:
    """Whether there is a run at `path` to be replaced; FileExistsError if anything is there that must not be."""
    located(path)  # raises an error that says what is wrong with a URL
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
        done = f"a finished run ({spaced(status.n_steps)} steps)"
        resume = " continue it with a larger n_steps and resume=True (`sagips run --resume`),"
        if not status.is_finished:
            article = "an" if status.state == "unfinished" else "a"
            done = f"{article} {status.state} run (at step {spaced(status.step)} of {spaced(status.n_steps)})"
            resume = " continue it with resume=True (`sagips run --resume`),"
        raise FileExistsError(
            f"`{path}` already holds {done}. Open it with open_run(...),{resume} or replace it with overwrite=True "
            "(`--overwrite`)."
        )
    return True
