"""Arrays in files as named columns that are read when they are sliced.

It makes no difference whether a file holds one array for each column, a table of numbers or a table of records.  File
formats are the subject of `formats`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

Block = tuple[int, dict[str, NDArray[Any]]]  # the number of the first row, and the columns (row,)
Choose = Callable[[tuple[str, ...]], tuple[str, ...]]  # the names of all columns -> the names of those to read
Ranges = Callable[[int], Iterable[tuple[int, int]]]  # the number of rows -> those to read, as (start, stop), rising


class Column(Protocol):
    """What can be sliced by rows: an array of NumPy, h5py or zarr, or one of the classes below."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, rows: slice, /) -> ArrayLike: ...


class Arrays(Protocol):
    """What gives arrays by name: an HDF5 or zarr group, or an open `.npz` file."""

    def __getitem__(self, name: str, /) -> Any: ...


def columns_of_group(group: Arrays, names: Sequence[str], table: str | None = None) -> dict[str, Column]:
    """The columns of a group: its one-dimensional arrays, or the columns of `table` or of the group's only array."""
    if table is not None or len(names) == 1:
        return columns_of_array(group[only(table, names)], names[0])
    return {name: group[name] for name in names if group[name].ndim == 1}


def columns_of_array(array: Any, name: str = "0") -> dict[str, Column]:
    """The columns of one array (row,) or (row, column), or of an array of records.

    Parameters
    ----------
    array : array_like
        Of NumPy, h5py or zarr, or `Mapped`.
    name : str
        The name of the column of a one-dimensional array.

    Returns
    -------
    dict
        Name to `Column`; the columns of a two-dimensional array are "0", "1", ...

    Raises
    ------
    ValueError
        For an array of another number of dimensions.
    """
    if array.dtype.names:
        return {name: _Field(array, name) for name in array.dtype.names}
    if array.ndim == 1:
        return {name: array}
    if array.ndim == 2:
        return {str(k): _Column(array, k) for k in range(array.shape[1])}
    raise ValueError(f"it holds an array of shape {array.shape}, not (event, column)")


def only(table: str | None, tables: Sequence[str]) -> str:
    """The table that was asked for; without a name, the only one there is."""
    if table is None and len(tables) == 1:
        return tables[0]
    if table is None or table not in tables:
        raise ValueError(f"table = {table!r}: the file holds {', '.join(tables) or 'no table'}")
    return table


def slices(columns: dict[str, Column], choose: Choose, ranges: Ranges) -> Iterator[Block]:
    """Yield the chosen columns, some rows at a time."""
    wanted = choose(tuple(columns))
    lengths = {name: columns[name].shape[0] for name in wanted}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"its columns have different lengths: {lengths}")
    for start, stop in ranges(max(lengths.values())):
        yield start, {name: np.asarray(columns[name][start:stop]) for name in wanted}


class _Column:
    """One column of a two-dimensional array."""

    def __init__(self, array: Any, k: int):
        self._array, self._k = array, k

    @property
    def shape(self) -> tuple[int, ...]:
        return self._array.shape[:1]

    def __getitem__(self, rows: slice) -> ArrayLike:
        return self._array[rows, self._k]


class _Field:
    """One field of an array of records."""

    def __init__(self, array: Any, name: str):
        self._array, self._name = array, name

    @property
    def shape(self) -> tuple[int, ...]:
        return self._array.shape[:1]

    def __getitem__(self, rows: slice) -> ArrayLike:
        if hasattr(self._array, "fields"):  # h5py reads a single field this way
            return self._array.fields(self._name)[rows]
        return self._array[rows][self._name]


class Mapped:
    """The array of a `.npy` file, mapped anew for each slice: an open map keeps in memory all that was read of it."""

    def __init__(self, path: Path):
        self._path = path
        array = self._array()
        self.dtype, self.shape, self.ndim = array.dtype, array.shape, array.ndim

    def __getitem__(self, key: Any) -> NDArray[Any]:
        return np.array(self._array()[key])

    def _array(self) -> NDArray[Any]:
        return np.lib.format.open_memmap(self._path, mode="r")
