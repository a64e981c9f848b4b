"""Arrays in files as named columns that are read when they are sliced.

It makes no difference whether a file holds one array for each column, a table of numbers or a table of records.  File
formats are the subject of `formats`.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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


def columns_of_tree(arrays: Mapping[str, Any], table: str | None = None) -> dict[str, Column]:
    """The columns of one table, out of all arrays of a file by their paths, such as "day1/x".

    A table is a folder with one-dimensional arrays, or an array with columns.

    Raises
    ------
    ValueError
        If there are several tables to choose from, or none.
    """
    start = (table or "").strip("/")
    if start in arrays:
        return columns_of_array(arrays[start], start.rpartition("/")[2])
    inside = {path: array for path, array in arrays.items() if not start or path.startswith(f"{start}/")}
    direct = {path.removeprefix(start).strip("/"): path for path in inside}
    columns = {name: arrays[path] for name, path in direct.items() if "/" not in name and _is_column(arrays[path])}
    if columns:
        return columns
    tables = _tables(inside)
    if len(tables) == 1:
        return columns_of_tree(arrays, tables[0])
    raise no_table(table, tables or _tables(arrays))


def _tables(arrays: Mapping[str, Any]) -> list[str]:
    return sorted({path.rpartition("/")[0] if _is_column(array) else path for path, array in arrays.items()})


def _is_column(array: Any) -> bool:
    return array.ndim == 1 and not array.dtype.names


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
        return {name: Field(array, name) for name in array.dtype.names}
    if array.ndim == 1:
        return {name: array}
    if array.ndim == 2:
        return {str(k): _Column(array, k) for k in range(array.shape[1])}
    raise ValueError(f"it holds an array of shape {array.shape}, not (event, column)")


def no_table(table: str | None, tables: Sequence[str]) -> ValueError:
    """The error for a table that is not there, or a choice between several."""
    return ValueError(f"table = {table!r}: the file holds {', '.join(tables) or 'no table'}")


def slices(columns: dict[str, Column], choose: Choose, ranges: Ranges) -> Iterator[Block]:
    """Yield the chosen columns, some rows at a time."""
    wanted = choose(tuple(columns))
    lengths = {name: columns[name].shape[0] for name in wanted}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"its columns have different lengths: {lengths}")
    for start, stop in ranges(max(lengths.values())):
        yield start, {name: np.asanyarray(columns[name][start:stop]) for name in wanted}


class _Column:
    """One column of a two-dimensional array."""

    def __init__(self, array: Any, k: int):
        self._array, self._k = array, k
        self.dtype, self.ndim = array.dtype, 1

    @property
    def shape(self) -> tuple[int, ...]:
        return self._array.shape[:1]

    def __getitem__(self, rows: slice) -> ArrayLike:
        return self._array[rows, self._k]


class Field:
    """One field of an array of records."""

    def __init__(self, array: Any, name: str):
        self._array, self._name = array, name

    @property
    def shape(self) -> tuple[int, ...]:
        return self._array.shape[:1]

    def __getitem__(self, rows: slice) -> ArrayLike:
        if hasattr(self._array, "fields"):  # so that a single field is read
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


class Member:
    """An array of an open `.npz` file, read as a whole when it is first sliced; its type is known before."""

    def __init__(self, archive: Any, name: str):
        self._archive, self._name = archive, name
        with archive.zip.open(f"{name}.npy") as file:
            version = np.lib.format.read_magic(file)
            read_header = getattr(
                np.lib.format, f"read_array_header_{version[0]}_0", np.lib.format.read_array_header_2_0
            )
            self.shape, _, self.dtype = read_header(file)
        self.ndim = len(self.shape)

    def __getitem__(self, key: Any) -> NDArray[Any]:
        return self._whole[key]

    @functools.cached_property
    def _whole(self) -> NDArray[Any]:
        return self._archive[self._name]
