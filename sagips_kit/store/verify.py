"""A look at every file of a run: which are damaged or lost, and what can still be used."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import zarr
from zarr.abc.store import Store

from .._text import counted, listed
from . import schema
from .files import CHECKPOINTS, Files, is_intact
from .group import array_of, expect, group_of, open_group
from .location import Location

_MOST_SHOWN = 20


@dataclass(frozen=True, eq=False)
class Verification:
    """What `verify` has found; printed, it says which files are damaged and what can still be used.

    Parameters
    ----------
    path : str
        The run.
    damages : dict of str
        What is wrong with each damaged or lost file, by its name in the run; the progress of the ranks is named
        by its group.
    n_checked : int
        Number of metadata files, chunks of numbers and checkpoints that were tested.
    has_checksums : bool
        Whether the run has checksums; those of earlier versions have none, so not all damage is found.

    Attributes
    ----------
    is_whole : bool
        Whether nothing is damaged.
    whole_groups : tuple of str
        The groups of the run of which everything can be used.

    See Also
    --------
    verify : Test every file of a run.

    Examples
    --------
    >>> from sagips_kit import verify
    >>> found = verify("runs/proxy.zarr")
    >>> found.is_whole, found.damages
    (True, {})
    """

    path: str
    damages: dict[str, str] = field(default_factory=dict)
    n_checked: int = 0
    has_checksums: bool = True

    @property
    def is_whole(self) -> bool:
        """Whether nothing is damaged."""
        return not self.damages

    @property
    def whole_groups(self) -> tuple[str, ...]:
        """The groups of the run of which everything can be used, tuple of str."""
        if "zarr.json" in self.damages:
            return ()
        damaged = {name.partition("/")[0] for name in self.damages}
        return tuple(group for group in schema.GROUPS if group not in damaged)

    def __str__(self) -> str:
        old = "" if self.has_checksums else " It is of a version without checksums, so that not all damage is found."
        if self.is_whole:
            return f"`{self.path}`: all {counted(self.n_checked, 'part')} are whole.{old}"
        names = [*self.damages]
        lines = [f"`{self.path}`: {len(names)} of {counted(self.n_checked, 'part')} are damaged or lost.{old}"]
        lines += [f"  {name}: {self.damages[name]}" for name in names[:_MOST_SHOWN]]
        lines += [f"  ... and {len(names) - _MOST_SHOWN} more"] if len(names) > _MOST_SHOWN else []
        lines.append(f"Copy {'it' if len(names) == 1 else 'them'} again from another copy of the run, if there is one.")
        if self.whole_groups:
            lines.append(f"Can still be used: {listed(self.whole_groups)}.")
            if any(name.endswith("zarr.json") for name in names):
                lines.append(
                    "open_run refuses a run whose metadata are damaged: xarray.open_zarr("
                    f"{self.path!r}, group={self.whole_groups[0]!r}, consolidated=False) reads a single group."
                )
        else:
            lines.append("Nothing can be used.")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"Verification({self.path!r}, {len(self.damages)} of {counted(self.n_checked, 'part')} damaged)"


def verify(path: Location) -> Verification:
    """Read every file of a run, and tell which are damaged or lost.

    In a terminal, `sagips verify STORE` does the same.

    Parameters
    ----------
    path : path, URL or zarr Store
        The run, finished or not.

    Returns
    -------
    Verification
        The damage, and what can still be used.

    Raises
    ------
    FileNotFoundError
        If there is nothing at `path`.
    ValueError
        If it is no run.

    See Also
    --------
    open_run : Open a run; what is damaged is refused when it is read.

    Examples
    --------
    >>> from sagips_kit import verify
    >>> print(verify("runs/proxy.zarr"))
    `runs/proxy.zarr`: all ... parts are whole.
    """
    damages: dict[str, str] = {}
    try:
        root = open_group(path, "r")
    except ValueError as error:
        if "` is damaged" not in str(error):
            raise
        return Verification(str(path), {"zarr.json": _reason(error)}, 1)
    version: Any = root.attrs[schema.VERSION_KEY]
    has_checksums = version >= schema.CHECKED_SINCE
    progress = _try(damages, schema.HISTORY, _numbers, path, root)
    if progress is not None:
        expect(root, progress)
    n_checked = 1
    for group, name in _arrays(path, root, version, damages):
        array = _try(damages, f"{group}/{name}/zarr.json", array_of, path, root, group, name)
        n_checked += 1
        if array is None:
            continue
        for place in np.ndindex(array.cdata_shape):
            where = tuple(slice(k * n, (k + 1) * n) for k, n in zip(place, array.chunks, strict=True))
            key = "/".join([group, name, "c", *map(str, place)])
            _try(damages, key, array.__getitem__, where)
            n_checked += 1
    n_checked += _verify_checkpoints(path, damages)
    return Verification(str(path), damages, n_checked, has_checksums)


def _numbers(path: Location, root: zarr.Group) -> list[int]:
    return np.asarray(array_of(path, root, schema.HISTORY, schema.PROGRESS)[:]).tolist()


def _arrays(path: Location, root: zarr.Group, version: int, damages: dict[str, str]) -> Iterator[tuple[str, str]]:
    """The groups of a run, and names of the arrays that each must have."""
    for group, variables in schema.variables(*schema.names_of(root.attrs)).items():
        if _try(damages, f"{group}/zarr.json", group_of, path, root, group) is None:
            continue
        for variable in (*variables.values(), *schema.coordinates(group).values()):
            if variable.since <= version:
                yield group, variable.name


def _verify_checkpoints(path: Location, damages: dict[str, str]) -> int:
    """Test the checkpoints of a run; returns their number."""
    if isinstance(path, Store):
        return 0
    files = Files(path, CHECKPOINTS)
    names = [name for name in files.names() if name.endswith(".safetensors")]
    for name in names:
        content = _try(damages, f"{CHECKPOINTS}/{name}", files.read, name)
        if content is None and name not in files.names():
            del damages[f"{CHECKPOINTS}/{name}"]  # a run that is under way has removed it
        elif content is not None and not is_intact(name, content):
            damages[f"{CHECKPOINTS}/{name}"] = "its checksum differs from the one in its name"
    return len(names)


def _try(damages: dict[str, str], name: str, read: Callable[..., Any], *args: Any) -> Any:
    """What `read(*args)` returns, or None after noting its error."""
    try:
        return read(*args)
    except Exception as error:  # of whatever type: the file cannot be read
        damages[name] = _reason(error)
        return None


def _reason(error: Exception) -> str:
    cause = error.__cause__ or error
    text = str(cause)
    return text if len(text) < 200 and "`" not in text else type(cause).__name__
