"""Where a run is stored: a folder, a URL or a zarr Store.  What is stored there does not belong here."""

import contextlib
import glob
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

from zarr.abc.store import Store
from zarr.core.sync import sync
from zarr.storage import FsspecStore, LocalStore

Location: TypeAlias = str | os.PathLike[str] | Store

_KILLED_S = 3600.0  # age from which a half-written folder is that of a process that was killed
# fsspec's names for the files of this machine
_FILE_URL = re.compile(r"^(file|local)://", re.IGNORECASE)


def is_url(path: Location) -> bool:
    """Whether it is a URL."""
    return "://" in str(path)


def is_on_disk(path: Location) -> bool:
    """Whether it is a path, or a URL of a file of this machine."""
    return not is_url(path) or _FILE_URL.match(str(path)) is not None


def is_in_memory(path: Location) -> bool:
    """Whether it is a URL of fsspec's files in the memory of this process."""
    return re.search(r"(^|::)memory://", str(path), re.IGNORECASE) is not None


def local_path(path: Location) -> Path:
    """The absolute path of what `is_on_disk`."""
    return Path(_FILE_URL.sub("", str(path))).expanduser().resolve()


def absolute(path: str | os.PathLike[str]) -> str | Path:
    """The path, made independent of the current folder; a URL as it is."""
    return str(path) if is_url(path) else Path(path).expanduser().absolute()


def located(path: Location, read_only: bool = False) -> Store:
    """The zarr Store of a path or URL."""
    if isinstance(path, Store):
        return path
    if not isinstance(path, str | os.PathLike):
        hint = " Type spec.store." if isinstance(getattr(path, "store", None), str) else ""
        raise TypeError(f"{type(path).__name__} is not a path, a URL or a zarr Store.{hint}")
    # LocalStore, unlike fsspec, replaces chunks atomically.
    if is_on_disk(path):
        return LocalStore(local_path(path), read_only=read_only)
    try:
        return FsspecStore.from_url(str(path), read_only=read_only)
    except ImportError as error:
        missing = getattr(error.__cause__, "name", None)  # what fsspec needs for this kind of URL
        line = f"pip install {missing}" if missing else 'pip install "sagips_kit[explore]"'
        raise ModuleNotFoundError(f"`{path}` cannot be opened: {error}. Type: {line}", name=missing) from None
    except ValueError as error:
        raise ValueError(f"`{path}` is not a URL that fsspec knows: {error}.") from None


def the_match(path: Location) -> Location:
    """The single path that a path with wildcards matches; the path itself if it matches none."""
    if isinstance(path, Store) or is_url(path) or not glob.has_magic(str(path)) or local_path(path).exists():
        return path
    found = sorted(glob.glob(str(Path(path).expanduser())))
    if len(found) > 1:
        raise ValueError(f"`{path}` matches {len(found)} paths: {', '.join(found)}. Type open_runs({str(path)!r}).")
    return found[0] if found else path


def stores_below(folder: Path, depth: int = 3) -> Iterator[Path]:
    """Zarr stores in a folder and its subfolders, without looking inside them or into hidden folders."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.is_dir():
            continue
        if (path / "zarr.json").exists():
            yield path
        elif depth > 1:
            yield from stores_below(path, depth - 1)


def is_empty(path: Location) -> bool:
    """Whether there is nothing at a path or URL, or in a zarr Store; an empty folder counts as nothing."""
    store = located(path)
    if isinstance(store, FsspecStore):
        store.fs.invalidate_cache()
    return sync(store.is_empty(""))


@contextlib.contextmanager
def explained(what: str, advice: str) -> Iterator[None]:
    """Add to an OSError what was being done, and what to do now."""
    try:
        yield
    except OSError as error:
        raise OSError(f"{what}: {error}. {advice}") from error


@contextlib.contextmanager
def beside(path: Path) -> Iterator[Path]:
    """Yield a new hidden folder next to `path`; what has not been moved out of it is removed at the end."""
    for remains in path.parent.glob(f".{glob.escape(path.name)}.partial-*"):
        with contextlib.suppress(OSError):  # another process may remove them, too
            if time.time() - remains.stat().st_mtime > _KILLED_S:
                shutil.rmtree(remains, ignore_errors=True)
    # Process numbers are not unique: in containers all processes have the same few, also one that was killed here.
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        partial.mkdir(parents=True)
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def old_prefix(path: Path) -> str:
    """Beginning of the temporary name that the run at `path` has while it is being replaced."""
    return f".{path.name}.old-"
