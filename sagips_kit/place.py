"""Where a run lies: a folder, a URL or a zarr Store, and what is wrong if there is no run, or half of one.

How a run is written and read does not belong here.
"""

import contextlib
import glob
import json
import os
import re
import reprlib
import secrets
import shlex
import shutil
from pathlib import Path

import zarr
from zarr.abc.store import Store
from zarr.core.sync import sync
from zarr.storage import FsspecStore, LocalStore

from . import schema

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
# Both are fsspec's names of the files of this machine.
_FILE_URL = re.compile(r"^(file|local)://", re.IGNORECASE)
_START = "Start one with session.submit(spec) or `sagips run`"


def is_url(path):
    return "://" in str(path)


def is_on_disk(path):
    """Whether it is a path, or a URL of a file of this machine."""
    return not is_url(path) or _FILE_URL.match(str(path)) is not None


def local_path(path):
    return Path(_FILE_URL.sub("", str(path))).expanduser().resolve()


def absolute(path):
    """A path that stays the same when the process changes its folder; a URL as it is."""
    return path if is_url(path) else Path(path).expanduser().absolute()


def located(path, read_only=False):
    """The zarr Store of a path or URL."""
    if isinstance(path, Store):
        return path
    # Files have a store of their own, which replaces chunks atomically.
    if is_on_disk(path):
        return LocalStore(local_path(path), read_only=read_only)
    try:
        return FsspecStore.from_url(str(path), read_only=read_only)
    except ImportError as error:
        raise ModuleNotFoundError(f"{error} `{path}` is a URL that fsspec opens with that package.") from None
    except ValueError as error:
        raise ValueError(f"`{path}` is not a URL that fsspec knows: {error}.") from None


def the_match(path):
    """The one path that a path with wildcards stands for."""
    if isinstance(path, Store) or is_url(path) or not glob.has_magic(str(path)) or local_path(path).exists():
        return path
    found = sorted(glob.glob(str(Path(path).expanduser())))
    if len(found) > 1:
        raise ValueError(f"`{path}` matches {len(found)} paths: {', '.join(found)}. Type open_runs({str(path)!r}).")
    return found[0] if found else path


def is_empty(path):
    """Whether nothing at all lies at a path or URL, or in a zarr Store; an empty folder is nothing."""
    store = located(path)
    if isinstance(store, FsspecStore):
        store.fs.invalidate_cache()
    return sync(store.is_empty(""))


@contextlib.contextmanager
def explained(what, advice):
    try:
        yield
    except OSError as error:
        raise OSError(f"{what}: {error}. {advice}") from error


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


@contextlib.contextmanager
def beside(path):
    """Yield a hidden folder beside `path`; what has not been moved from it is gone at the end."""
    # In containers all processes have the same few numbers, one that was killed here included.
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        partial.mkdir(parents=True)
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def old_prefix(path):
    """How the name begins that the run at `path` has while another one takes its place."""
    return f".{path.name}.old-"


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


def spaced(number):
    return f"{number:,}".replace(",", " ")
