"""The groups and arrays of a stored run, and clear errors where they are missing or damaged.

What a store says is checked against the table in `schema` before it is used, so damage is found here and not further
up, where it could not be distinguished from a mistake in the code.
"""

import contextlib
import dataclasses
import glob
import json
import os
import reprlib
import shlex
import traceback
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr
import zarr
from zarr.abc.store import Store
from zarr.storage import LocalStore

from .._text import counted, did_you_mean, listed
from . import schema
from .contributions import is_stored_contribution
from .findings import is_stored_finding
from .integrity import WRITE_ALL, CheckedStore, Expected
from .layout import LISTS
from .location import Location, is_on_disk, is_url, local_path, located, old_prefix, stores_below

_ROOT = ""
# Attributes that the groups of all runs have, and their types
_ATTRIBUTES: dict[str, dict[str, type]] = {
    _ROOT: {
        schema.PARAMETERS_KEY: list,
        schema.OBSERVABLES_KEY: list,
        schema.LAYOUT_KEY: dict,
        schema.VERSIONS_KEY: dict,
        schema.PROBLEM_KEY: str,
        schema.SPEC_KEY: str,
        schema.MODE_KEY: str,
        schema.CREATED_KEY: str,
        schema.HOSTNAME_KEY: str,
        schema.REVISION_KEY: str,
    },
    schema.POSTERIOR: {schema.UNCERTAINTY_KEY: str},
}
# Notes, of which there may be any number, and what each must have
_RESUMED: dict[str, type] = {"at": str, "from_step": int, "reached": int}
_CONTINUED: dict[str, type] = {"from_step": int, schema.CREATED_KEY: str, schema.HOSTNAME_KEY: str}
_MOST_NAMED = 5
_START = "Start one with session.submit(spec) or `sagips run`"
# Mistakes in code.  Damaged files cause them, too, but then it is zarr or xarray that stumbles.
_MISTAKES = (TypeError, AttributeError, NameError, AssertionError)
_PACKAGE = __name__.partition(".")[0]


@contextlib.contextmanager
def damage_explained(path: Location, what: str = "it") -> Iterator[None]:
    """Report errors that damaged files cause, which may be of any type, as a ValueError that names the path.

    Other errors pass as they are: those that name the path already, those of the operating system, missing packages,
    and mistakes in this package's own code.
    """
    try:
        yield
    except (OSError, ImportError):
        raise
    except Exception as error:
        names_path = isinstance(error, ValueError) and f"`{path}`" in str(error)
        if names_path or _is_our_mistake(error):
            raise
        raise ValueError(
            f"`{path}` is damaged: {what} cannot be read ({type(error).__name__}: {error}). Copy it again; if there is "
            "no other copy, start the run again."
        ) from error


def _is_our_mistake(error: Exception) -> bool:
    """Whether it is the kind of error that a mistake in code causes, and this package's own code raised it."""
    if not isinstance(error, _MISTAKES):
        return False
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return frames[-1].f_globals.get("__name__", "").partition(".")[0] == _PACKAGE


def open_group(path: Location, mode: Literal["r", "r+"]) -> zarr.Group:
    """The root group of a run."""
    store = located(path, read_only=mode == "r")
    is_local = isinstance(store, LocalStore)
    if isinstance(store, LocalStore) and not store.root.exists():
        _check_not_moved(path, store.root)
        others = sorted(other.name for other in store.root.parent.glob("*.zarr"))
        meant = did_you_mean(store.root.name, others)
        hint = f"{meant}That folder holds {listed(others)}." if others else f"{_START}, or check the folder."
        raise FileNotFoundError(f"There is no run at `{path}`. {hint}")
    checked = CheckedStore(store.with_read_only(True) if mode == "r" and not store.read_only else store)
    try:
        with damage_explained(path):
            root = zarr.open_group(checked, mode=mode, zarr_format=3, use_consolidated=False)
    except FileNotFoundError:
        if not is_local:
            raise FileNotFoundError(f"There is no run in {path}. {_START}.") from None
        root = None
    except (ValueError, FileExistsError):
        if checked.is_damaged:
            raise
        root = None
    if root is None or schema.PROBLEM_KEY not in root.attrs:
        raise ValueError(f"`{path}` exists but is not a run of sagips_kit.{_runs_near(path)}")
    version = root.attrs.get(schema.VERSION_KEY)
    _check_version(path, version)
    with damage_explained(path):
        _check_attributes(_ROOT, root.attrs.asdict())
        if isinstance(version, int) and version >= schema.CHECKED_SINCE:
            checked.expect(Expected(schema.layout_of(root.attrs)))
    return root


def expect(root: zarr.Group, progress: Iterable[int]) -> Expected | None:
    """Let the store of a run miss what ranks have written that have made these steps; None for old runs."""
    store = root.store
    if not isinstance(store, CheckedStore) or store.expected is None:
        return None
    expected = Expected(store.expected.layout, progress)
    store.expect(expected)
    return expected


def identity(root: zarr.Group) -> str:
    """What distinguishes a run from those that were, or will be, at the same place."""
    return str(root.attrs.get(schema.RUN_KEY, root.attrs.get(schema.CREATED_KEY)))


def _runs_near(path: Location) -> str:
    """What to open instead of what is no run: the run that it is a part of, or the runs in it; "" if there is none."""
    if isinstance(path, Store):
        return ""
    parts = str(path).rstrip("/").split("/")
    parents = ["/".join(parts[:-n]) for n in (1, 2)] if is_url(path) else map(str, Path(path).parents[:2])
    for run in filter(_is_run, parents):
        group = f"[{parts[-1]!r}]" if parts[-1] in schema.GROUPS else ""
        return f" It is a part of the run `{run}`. Type open_run({run!r}){group}."
    if not is_on_disk(path):
        return ""
    if local_path(path).is_file():
        return f" It is a file, and a run is a folder. Events are given to a run by RunSpec(..., events={str(path)!r})."
    if not local_path(path).is_dir():
        return ""
    folder = local_path(path)
    found = [str(store.relative_to(folder)) for store in stores_below(folder) if _is_run(store)]
    if not found:
        return ""
    shown = listed(found[:_MOST_NAMED]) + (", ..." if len(found) > _MOST_NAMED else "")
    return (
        f" It is a folder with {counted(len(found), 'run')}: {shown}. Type open_run({os.path.join(path, found[0])!r}), "
        f"or open_runs({str(path)!r}) for all of them."
    )


def _is_run(path: Location) -> bool:
    try:
        root = zarr.open_group(located(path, read_only=True), mode="r", zarr_format=3, use_consolidated=False)
    except Exception:  # of whatever type: this is not a run, and it is not the one that was asked for
        return False
    return schema.PROBLEM_KEY in root.attrs


def _check_version(path: Location, version: object) -> None:
    if version is None:
        raise ValueError(
            f"`{path}` is a run whose creation was interrupted; it holds no results. Delete it and start the run again."
        )
    if not isinstance(version, int):
        raise ValueError(f"`{path}` is damaged: its schema is {reprlib.repr(version)}: should be a number.")
    if version > schema.SCHEMA_VERSION:
        raise ValueError(
            f"`{path}` has the schema {version}, but this sagips_kit reads up to {schema.SCHEMA_VERSION}. "
            "Type: pip install -U sagips_kit."
        )


def _check_not_moved(path: Location, root: Path) -> None:
    """Raise ValueError if a run that was being replaced still exists under its temporary name."""
    found = root.parent.glob(f"{glob.escape(old_prefix(root))}*")
    # The root's own file is the first that is removed of a replaced run, so a run that has it is whole.
    whole = [run for run in sorted(found) if (run / "zarr.json").exists()]
    if whole:
        old = shlex.quote(str(whole[-1]))
        raise ValueError(
            f"`{path}` is missing: the process that was replacing that run was killed, and the old run is still whole. "
            f"To restore it, type: mv {old} {shlex.quote(str(root))}; if it is not needed: rm -r {old}."
        )


def group_of(path: Location, root: zarr.Group, group: str) -> zarr.Group:
    """A group of a run; ValueError if it is missing."""
    with damage_explained(path):
        found = root.get(group)
    if not isinstance(found, zarr.Group):
        raise missing(path, group)
    return found


def array_of(path: Location, root: zarr.Group, group: str, name: str) -> zarr.Array:
    """An array of a run, with the dimensions and type that `schema` gives it; ValueError if it is missing."""
    with damage_explained(path):
        found = root.get(f"{group}/{name}")
    if not isinstance(found, zarr.Array):
        raise missing(path, f"{group}/{name}")
    with damage_explained(path):
        dims = getattr(found.metadata, "dimension_names", None)  # arrays of zarr 2 have none
        _check_array(schema.variable(group, name), dims, found.dtype)
    return found.with_config(WRITE_ALL)


def check_contents(
    path: Location, tree: xr.DataTree, table: Mapping[str, Mapping[str, schema.Variable]], version: int
) -> None:
    """Raise ValueError unless the DataTree of the store at `path` is that of a run.

    It has the shown variables of `table` (group -> name -> Variable) that its `version` of the schema knows, and the
    coordinates of their groups, with their dimensions and types, and its groups have their attributes.
    """
    for group, variables in table.items():
        for variable in (*variables.values(), *schema.coordinates(group).values()):
            if not variable.is_shown or variable.since > version:
                continue
            if group not in tree or variable.name not in tree[group].variables:
                raise missing(path, f"{group}/{variable.name}")
            found = tree[group].variables[variable.name]
            _check_array(variable, found.dims, found.dtype)
        _check_attributes(group, tree[group].attrs)


def _check_array(variable: schema.Variable, dims: tuple[Any, ...] | None, dtype: np.dtype[Any]) -> None:
    name = f"{variable.group}/{variable.name}"
    if tuple(dims or ()) != variable.dims:
        raise ValueError(f"{name} has the dimensions {dims}: should be {variable.dims}")
    # zarr and xarray have several types of texts.
    is_right = dtype.kind in "OTU" if variable.dtype == "str" else dtype == np.dtype(variable.dtype)
    if not is_right:
        raise ValueError(f"{name} has the type {dtype}: should be {variable.dtype}")


def _check_attributes(group: str, attributes: Mapping[Any, Any]) -> None:
    for key, kind in _ATTRIBUTES.get(group, {}).items():
        if not isinstance(attributes.get(key), kind):
            raise ValueError(f"attribute {key} = {reprlib.repr(attributes.get(key))}: should be a {kind.__name__}")
    if group == _ROOT:
        for key in (schema.PARAMETERS_KEY, schema.OBSERVABLES_KEY):
            names = attributes[key]
            if not names or not all(isinstance(name, str) for name in names):
                raise ValueError(f"attribute {key} = {reprlib.repr(names)}: should be names")
        schema.check_names(attributes[schema.PARAMETERS_KEY], attributes[schema.OBSERVABLES_KEY])
        _check_spec(attributes[schema.SPEC_KEY])
        _check_layout(attributes[schema.LAYOUT_KEY])
        _check_notes("a continuation", attributes.get(schema.CONTINUED_KEY, []), _CONTINUED)
    if group == schema.POSTERIOR:
        n_chains = attributes.get(schema.RESAMPLED_KEY, 1)
        if not isinstance(n_chains, int) or n_chains < 1:
            raise ValueError(f"attribute {schema.RESAMPLED_KEY} = {reprlib.repr(n_chains)}: should be a number")
    if group == schema.REFERENCE:
        _check_fit(attributes.get(schema.FIT_KEY, {"state": schema.UNDER_WAY}))
    if group == schema.CONTROL:
        _check_notes("a resumption", attributes.get(schema.RESUMED_KEY, []), _RESUMED)


def _check_spec(text: str) -> None:
    spec = json.loads(text)
    if not isinstance(spec, dict) or not isinstance(spec.get("settings", {}), dict):
        raise ValueError(f"attribute {schema.SPEC_KEY} = {reprlib.repr(text)}: should hold a JSON object")


def _check_layout(sizes: Mapping[str, Any]) -> None:
    names = [field.name for field in dataclasses.fields(schema.RunLayout)]
    if sizes.keys() | {*LISTS} != set(names):
        raise ValueError(f"attribute {schema.LAYOUT_KEY} = {reprlib.repr(sizes)}: should have {', '.join(names)}")
    for name in LISTS:
        if not isinstance(sizes.get(name, []), list | tuple):
            raise ValueError(f"attribute {schema.LAYOUT_KEY}: {name} = {reprlib.repr(sizes[name])}: should be a list")
    schema.layout_of({schema.LAYOUT_KEY: sizes})


def _check_fit(words: Any) -> None:
    is_right = isinstance(words, dict) and words.get("state") in schema.FIT_STATES
    is_right = is_right and isinstance(words.get("reason", ""), str)
    if is_right and words["state"] == schema.MADE:
        findings, information = words.get("findings"), words.get("information")
        is_right = isinstance(findings, list) and all(is_stored_finding(one) for one in findings)
        is_right = is_right and isinstance(information, dict)
        contributions = words.get("contributions", [])
        is_right = is_right and isinstance(contributions, list) and all(map(is_stored_contribution, contributions))
    if not is_right:
        raise ValueError(f"attribute {schema.FIT_KEY} = {reprlib.repr(words)}: should be a state of the fit")


def _check_notes(what: str, notes: object, fields: Mapping[str, type]) -> None:
    if not isinstance(notes, list):
        raise ValueError(f"notes of {what} {reprlib.repr(notes)}: should be a list")
    for note in notes:
        if not isinstance(note, dict) or not all(isinstance(note.get(key), kind) for key, kind in fields.items()):
            raise ValueError(f"note of {what} {reprlib.repr(note)}: should have {', '.join(fields)}")


def missing(path: Location, name: str) -> ValueError:
    """The error for a variable that a run does not have."""
    return ValueError(
        f"`{path}` is a run, but {name} is missing: files were deleted or not copied, or an early version of "
        f"sagips_kit wrote it. Copy it again; what is there opens with xarray.open_datatree({str(path)!r}, "
        'engine="zarr", consolidated=False).'
    )
