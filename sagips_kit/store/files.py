"""Files of a run next to its arrays: each is written as a whole, and those that matter are safe from a loss of power.

What the files hold, and what zarr writes by itself, does not belong here.
"""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from zarr.abc.store import Store
from zarr.storage import LocalStore

from . import schema
from .location import Location, is_on_disk, local_path, located

# The folder of the checkpoints; it lies below the node of an array, where readers of zarr do not look.
CHECKPOINTS = f"{schema.CONTROL}/{schema.CHECKPOINT_STEP}"


def digest(data: bytes) -> str:
    """The first half of the SHA-256 of a file, which the name of a checkpoint ends with."""
    return hashlib.sha256(data).hexdigest()[:32]


def is_intact(name: str, data: bytes) -> bool:
    """Whether a checkpoint holds what its name says."""
    return name.endswith(f"-{digest(data)}.safetensors")


class Files:
    """Files in one folder of a run, each written as a whole.

    Parameters
    ----------
    path : path or URL
        The run.
    folder : str
        Name of a folder inside the run.

    Raises
    ------
    ValueError
        If the run is a zarr Store, which other processes cannot find by a name.
    """

    def __init__(self, path: Location, folder: str) -> None:
        if isinstance(path, Store):
            raise ValueError(f"{path!r} holds arrays only. Give the run's path or URL.")
        self._fs, self._root = None, ""
        self._folder = Path()
        if not is_on_disk(path):
            import fsspec

            self._fs, root = fsspec.url_to_fs(str(path))
            self._root = f"{root.rstrip('/')}/{folder}"
        else:
            self._folder = local_path(path) / folder

    def names(self) -> list[str]:
        """Names of all files, list of str."""
        if self._fs is None:
            return [file.name for file in self._folder.iterdir()] if self._folder.is_dir() else []
        self._fs.invalidate_cache()
        found = self._fs.ls(self._root, detail=False) if self._fs.exists(self._root) else []
        return [str(file).rpartition("/")[2] for file in found]

    def read(self, name: str) -> bytes:
        """The bytes of a file."""
        if self._fs is None:
            return (self._folder / name).read_bytes()
        return self._fs.cat_file(f"{self._root}/{name}")

    def write(self, name: str, data: bytes, is_durable: bool = True) -> None:
        """Write a file, which appears only when it is complete.

        Parameters
        ----------
        name : str
            Name of the file.
        data : bytes
            All that it shall hold.
        is_durable : bool
            Whether it is safe from a loss of power on return.
        """
        if self._fs is not None:
            self._fs.pipe_file(f"{self._root}/{name}", data)  # object stores show whole objects only
            return
        partial = self._folder / f"{name}.partial"
        try:
            with partial.open("wb") as file:
                file.write(data)
                if is_durable:
                    file.flush()
                    os.fsync(file.fileno())
            os.replace(partial, self._folder / name)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        if is_durable:
            _sync(self._folder)  # makes the new name safe, too

    def remove(self, name: str) -> None:
        """Remove a file if it exists."""
        if self._fs is None:
            (self._folder / name).unlink(missing_ok=True)
        else:
            with contextlib.suppress(FileNotFoundError):
                self._fs.rm_file(f"{self._root}/{name}")


@contextlib.contextmanager
def permissions_of(path: Location) -> Iterator[None]:
    """Give what this process writes the permissions of the run at `path`, whatever the umask of the process is.

    A scheduler may start ranks with another umask than that of the user who has created the run, and whoever may read
    a part of a run must be able to read all of it.
    """
    store, before = located(path), None
    if isinstance(store, LocalStore):
        with contextlib.suppress(OSError):  # whoever opens the run says that there is none
            before = os.umask(0o777 & ~store.root.stat().st_mode)
    try:
        yield
    finally:
        if before is not None:
            os.umask(before)


def remove_partial_files(path: Location) -> None:
    """Remove unfinished files of writers that were killed; allowed only while nobody writes."""
    store = located(path)
    for file in store.root.rglob("*.partial") if isinstance(store, LocalStore) else ():
        file.unlink(missing_ok=True)


def sync_rows(path: Location, rank: int) -> None:
    """Make the rows that a rank has written safe from a loss of power; behind URLs they are already."""
    store = located(path)
    if not isinstance(store, LocalStore):
        return
    for first in (store.root / schema.HISTORY).glob(f"*/c/{rank}"):
        for each in [first, *first.rglob("*"), first.parent]:
            _sync(each)


def _sync(path: Path) -> None:
    # Some file systems refuse this for folders, because they do it by themselves.
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
