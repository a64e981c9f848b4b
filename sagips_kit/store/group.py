"""The groups and arrays of a stored run, and what is wrong if one is missing or damaged."""

import contextlib
import glob
import json
import reprlib
import shlex

import zarr
from zarr.storage import LocalStore

from . import schema
from .location import located, old_prefix

_ROOT = ""
# What all runs have as attributes of their groups, and of which types
_ATTRIBUTES = {
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
_RESUMED = {"at": str, "from_step": int, "reached": int}
_START = "Start one with session.submit(spec) or `sagips run`"


@contextlib.contextmanager
def damage_explained(path, what="it"):
    """Make a ValueError of what damaged files cause, which may be of any type; others name the path already."""
    try:
        yield
    except (OSError, ImportError):
        raise
    except Exception as error:
        if isinstance(error, ValueError) and str(path) in str(error):
            raise
        raise ValueError(
            f"`{path}` is damaged: {what} cannot be read ({type(error).__name__}: {error}). Copy it again; if there is "
            "no other copy, start the run again."
        ) from error


def open_group(path, mode):
    """The root group of a run."""
    store = located(path, read_only=mode == "r")
    is_local = isinstance(store, LocalStore)
    if is_local and not store.root.exists():
        _check_not_moved(path, store.root)
        others = ", ".join(sorted(other.name for other in store.root.parent.glob("*.zarr")))
        hint = f"That folder holds {others}." if others else f"{_START}, or check the folder."
        raise FileNotFoundError(f"There is no run at `{path}`. {hint}")
    try:
        root = zarr.open_group(store, mode=mode, zarr_format=3, use_consolidated=False)
    except FileNotFoundError:
        if not is_local:
            raise FileNotFoundError(f"There is no run in {path}. {_START}.") from None
        root = None
    except (ValueError, FileExistsError):
        root = None
    if root is None or schema.PROBLEM_KEY not in root.attrs:
        raise ValueError(f"`{path}` exists but is not a run of sagips_kit.")
    version = root.attrs.get(schema.VERSION_KEY)
    if version is None:
        raise ValueError(
            f"`{path}` is a run whose creation was interrupted; it holds no results. Delete it and start the run again."
        )
    if version > schema.SCHEMA_VERSION:
        raise ValueError(
            f"`{path}` has the schema {version}, but this sagips_kit reads up to {schema.SCHEMA_VERSION}. "
            "Type: pip install -U sagips_kit."
        )
    with damage_explained(path):
        _check_attributes(_ROOT, root.attrs)
    return root


def _check_not_moved(path, root):
    """Raise ValueError if a run that was being replaced is still there under its other name."""
    found = root.parent.glob(f"{glob.escape(old_prefix(root))}*")
    # The root is the first file of a replaced run to be removed: who has one is whole.
    whole = [run for run in sorted(found) if (run / "zarr.json").exists()]
    if whole:
        old = shlex.quote(str(whole[-1]))
        raise ValueError(
            f"`{path}` is missing: the process that was replacing that run was killed, and the run is still whole. To "
            f"have it back, type: mv {old} {shlex.quote(str(root))}; if it is not needed: rm -r {old}."
        )


def array_of(path, root, group, name):
    """An array of a run, or an error that says what it means that there is none."""
    try:
        return root[group][name]
    except KeyError:
        raise missing(path, f"{group}/{name}") from None


def check_contents(path, tree, names):
    """Raise a ValueError unless the DataTree of the store at `path` is that of a run.

    It has the variables `names`, group -> name -> dimensions, with these dimensions, and its groups their attributes.
    """
    for group, variables in names.items():
        for name, dims in variables.items():
            if group not in tree or name not in tree[group]:
                raise missing(path, f"{group}/{name}")
            if tree[group][name].dims != dims:
                raise ValueError(f"{group}/{name} has the dimensions {tree[group][name].dims}: should be {dims}")
        _check_attributes(group, tree[group].attrs)


def _check_attributes(group, attributes):
    for key, kind in _ATTRIBUTES.get(group, {}).items():
        if not isinstance(attributes.get(key), kind):
            raise ValueError(f"attribute {key} = {reprlib.repr(attributes.get(key))}: should be a {kind.__name__}")
    if group == _ROOT:
        for key in (schema.PARAMETERS_KEY, schema.OBSERVABLES_KEY):
            names = attributes[key]
            if not names or not all(isinstance(name, str) for name in names):
                raise ValueError(f"attribute {key} = {reprlib.repr(names)}: should be names")
        text = attributes[schema.SPEC_KEY]
        if not isinstance(json.loads(text), dict):
            raise ValueError(f"attribute {schema.SPEC_KEY} = {reprlib.repr(text)}: should hold a JSON object")
        schema.RunLayout(**attributes[schema.LAYOUT_KEY])
    for note in attributes.get(schema.RESUMED_KEY, []):
        if not all(isinstance(note[key], kind) for key, kind in _RESUMED.items()):
            raise ValueError(f"note of a resumption {reprlib.repr(note)}: should have {', '.join(_RESUMED)}")


def missing(path, name):
    return ValueError(
        f"`{path}` is a run, but {name} is missing: files were deleted or not copied, or an early version of "
        f"sagips_kit wrote it. Copy it again; what is there opens with xarray.open_datatree({str(path)!r}, "
        'engine="zarr", consolidated=False).'
    )
