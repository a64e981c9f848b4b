"""Where a run is stored: a folder, a URL or a zarr Store; what is stored there does not belong here."""

import contextlib
import glob
import os
import re
import secrets
import shutil
from pathlib import Path

from zarr.abc.store import Store
from zarr.core.sync import sync
from zarr.storage import FsspecStore, LocalStore

# Both are fsspec's names of the files of this machine.
_FILE_URL = re.compile(r"^(file|local)://", re.IGNORECASE)


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
