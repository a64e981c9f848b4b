"""Files of a run beside its arrays, each there as a whole or not at all; and what makes files safe, or removes halves.

What is in them, and what zarr writes by itself, does not belong here.
"""

import contextlib
import os

from zarr.abc.store import Store
from zarr.storage import LocalStore

from . import schema
from .location import is_on_disk, local_path, located


class Files:
    """Files that lie with the arrays of a run, each written as a whole.

    Parameters
    ----------
    path : path or URL
        Of the run.
    folder : str
        Inside the run.

    Raises
    ------
    ValueError
        If the run is in the memory of this process, without a name by which another one would find it.
    """

    def __init__(self, path, folder):
        if isinstance(path, Store):
            raise ValueError(f"{path!r} holds arrays only. Give the run's path or URL.")
        self._fs = None
        if not is_on_disk(path):
            import fsspec

            self._fs, root = fsspec.url_to_fs(str(path))
            self._folder = f"{root.rstrip('/')}/{folder}"
        else:
            self._folder = local_path(path) / folder

    def names(self):
        """Names of all files: list of str."""
        if self._fs is None:
            return [file.name for file in self._folder.iterdir()] if self._folder.is_dir() else []
        self._fs.invalidate_cache()
        found = self._fs.ls(self._folder, detail=False) if self._fs.exists(self._folder) else []
        return [str(file).rpartition("/")[2] for file in found]

    def read(self, name):
        """The bytes of a file."""
        if self._fs is None:
            return (self._folder / name).read_bytes()
        return self._fs.cat_file(f"{self._folder}/{name}")

    def write(self, name, data):
        """Write a file: when this returns it is there, and safe from a loss of power; before, there is none."""
        if self._fs is not None:
            self._fs.pipe_file(f"{self._folder}/{name}", data)  # object stores show whole objects only
            return
        partial = self._folder / f"{name}.partial"
        try:
            with partial.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, self._folder / name)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        _sync(self._folder)  # the name, too, is safe only now

    def remove(self, name):
        """Remove a file, if it is there."""
        if self._fs is None:
            (self._folder / name).unlink(missing_ok=True)
        else:
            with contextlib.suppress(FileNotFoundError):
                self._fs.rm_file(f"{self._folder}/{name}")


def remove_partial_files(path):
    """Remove what writers that were killed have left unfinished; only while nobody writes."""
    store = located(path)
    for file in store.root.rglob("*.partial") if isinstance(store, LocalStore) else ():
        file.unlink(missing_ok=True)


def sync_rows(path, rank):
    """Make what a rank has written to the history safe from a loss of power; elsewhere than in a folder, it is."""
    store = located(path)
    if not isinstance(store, LocalStore):
        return
    for first in (store.root / schema.HISTORY).glob(f"*/c/{rank}"):
        for each in [first, *first.rglob("*"), first.parent]:
            _sync(each)


def _sync(path):
    # Some file systems do it by themselves, and refuse to be asked for folders.
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
