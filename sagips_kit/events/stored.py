"""Arrays in HDF5, netCDF and zarr files: what their attributes say about the numbers, and parts that are missing.

References
----------
NetCDF Climate and Forecast (CF) metadata conventions, sections 2.5.1 (missing data), 4.4 (time) and 8.1 (packed data).
"""

import base64
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .columns import Column, Field, columns_of_array

_UNWRITTEN = {"f4": 9.969209968386869e36, "f8": 9.969209968386869e36}  # single bytes have none, by convention
_UNWRITTEN |= {"i2": -(2**15) + 1, "i4": -(2**31) + 1, "i8": -(2**63) + 2}
_UNWRITTEN |= {"u2": 2**16 - 1, "u4": 2**32 - 1, "u8": 2**64 - 2}


class Stored:
    """An array of numbers scaled and shifted as its attributes say; what they mark as missing is masked.

    Parameters
    ----------
    array : array_like
        Of h5py, zarr or `scipy.io.netcdf_file`.
    attributes : dict
        Its attributes by name.
    name : str
        Its path in the file.
    is_netcdf : bool
        Whether the netCDF library has filled what was never written with numbers of its own.

    Raises
    ------
    ValueError
        By a slice, if parts of the array are missing in the file, or for attributes that cannot be followed.
    """

    def __init__(self, array: Any, attributes: Mapping[str, Any], name: str, is_netcdf: bool = False):
        self._array, self._attributes, self._name = array, attributes, name
        self.dtype, self.shape, self.ndim = array.dtype, tuple(array.shape), len(array.shape)
        self._fills = [
            (key, fill) for key in ("_FillValue", "missing_value") for fill in np.ravel(attributes.get(key, []))
        ]
        if is_netcdf and "_FillValue" not in attributes:
            self._fills += [("_FillValue", fill) for kind, fill in _UNWRITTEN.items() if kind == self.dtype.str[1:]]
        self._is_checked = False

    def __getitem__(self, rows: Any) -> NDArray[Any]:
        return self._decoded(np.array(self._checked()[rows]))

    def fields(self, name: str) -> Column:
        """One field of an array of records."""
        array = self._checked()
        if kind := _of_pandas(self._attributes.get(f"{name}_dtype"), self._attributes.get(f"{name}_kind")):
            raise ValueError(f"{name} holds dates, {kind!r}. Write the time since one of them as a number")
        return array.fields(name) if hasattr(array, "fields") else Field(array, name)

    def _checked(self) -> Any:
        if not self._is_checked:
            _require_complete(self._array)
            self._is_checked = True
        return self._array

    def _decoded(self, raw: NDArray[Any]) -> NDArray[Any]:
        """The numbers that packed ones stand for."""
        units = text_of(self._attributes.get("units", ""))
        if re.match(r"\s*\w+\s+since\s+[-+]?\d", units) or (units := _of_pandas(self._attributes.get("value_type"))):
            raise ValueError(f"it holds dates, {units!r}. Write the time since one of them as a number, in other units")
        if raw.dtype.kind not in "iuf":
            return raw
        if text_of(self._attributes.get("_Unsigned", "")).lower() == "true":
            raw = raw.view(raw.dtype.str.replace("i", "u"))
        is_missing = self._is_missing(raw)
        if self._attributes.keys() & {"scale_factor", "add_offset"}:
            (factor,), (offset,) = self._numbers("scale_factor", 1.0), self._numbers("add_offset", 0.0)
            raw = raw.astype(np.float64) * float(factor) + float(offset)
        return np.ma.array(raw, mask=is_missing) if is_missing.any() else raw

    def _is_missing(self, raw: NDArray[Any]) -> NDArray[np.bool_]:
        is_missing = np.zeros(raw.shape, bool)
        for key, fill in self._fills:
            try:
                is_missing |= raw == _same_type(fill, raw.dtype)
            except (TypeError, ValueError, OverflowError):
                raise self._error(key, "a number") from None
        low, high = self._numbers("valid_range", None, None)
        (low,), (high,) = self._numbers("valid_min", low), self._numbers("valid_max", high)
        if low is not None:
            is_missing |= raw < low
        if high is not None:
            is_missing |= raw > high
        return is_missing

    def _numbers(self, key: str, *otherwise: Any) -> Sequence[Any]:
        """The numbers in an attribute, or others, as many, without it."""
        if key not in self._attributes:
            return otherwise
        found = np.ravel(self._attributes[key])
        if found.dtype.kind not in "iuf" or len(found) != len(otherwise):
            raise self._error(key, "a number" if len(otherwise) == 1 else f"{len(otherwise)} numbers")
        return list(found)

    def _error(self, key: str, what: str) -> ValueError:
        given = self._attributes[key]
        given = given.tolist() if isinstance(given, (np.ndarray, np.generic)) else given
        return ValueError(f"attribute {key} of /{self._name} is {given!r}, and should be {what}. Correct or delete it")


def text_of(attribute: Any) -> str:
    """A text that may be stored as characters, as bytes or as an array of these."""
    first = next(iter(np.ravel(attribute)), "")
    return first.decode(errors="replace") if isinstance(first, bytes) else str(first)


_PICKLED = re.compile(r"index|values_block_\d+")


def _of_pandas(*kinds: Any) -> str:
    """The kind of dates that pandas has stored as integers; "" for other ones."""
    return next((text for text in map(text_of, kinds) if text.startswith(("datetime64", "timedelta64"))), "")


def frames_of_pandas(arrays: Mapping[str, Stored]) -> dict[str, Any]:
    """The same arrays, where those in which `pandas.DataFrame.to_hdf` writes a frame are replaced by its columns."""
    columns: dict[str, Any] = {}
    is_unnamed = False
    groups = {path.removesuffix("/axis0") for path in arrays if path.endswith("/axis0")}
    for path, array in arrays.items():
        group, _, name = path.rpartition("/")
        items = arrays.get(f"{group}/{name.removesuffix('_values')}_items")
        if all(_PICKLED.fullmatch(field) for field in array.dtype.names or ("other",)):
            is_unnamed = True
        elif group not in groups:
            columns[path] = array
        elif items is not None and items.dtype.kind == "S" and array.ndim == 2:
            names = [item.decode() for item in items[:]]
            columns |= {
                f"{group}/{each}": column for each, column in zip(names, columns_of_array(array).values(), strict=True)
            }
    if is_unnamed and not columns:
        raise ValueError(
            "pandas has written the names of its columns as a pickle, which could run any code. Write them again: "
            "frame.to_hdf(path, key='events', format='table', data_columns=True)"
        )
    return columns


def _same_type(fill: Any, dtype: np.dtype[Any]) -> Any:
    """The number that marks missing ones, of their type; xarray writes floats to zarr as text in base 64."""
    if isinstance(fill, str) and dtype.kind == "f" and len(fill) == 12:
        fill = np.frombuffer(base64.standard_b64decode(fill), "<f8")[0]
    return np.array(fill).astype(dtype)[()]


def _require_complete(array: Any) -> None:
    """Raise ValueError if an array of h5py or zarr would return its fill value for parts that are not in the file."""
    if hasattr(array, "nchunks_initialized"):
        (n_there, n_all), fill = _parts_of_zarr(array), array.fill_value
        how = ". zarr leaves such chunks out unless you type zarr.config.set({'array.write_empty_chunks': True})"
    elif hasattr(array, "is_virtual"):
        (n_there, n_all), fill, how = _parts_of_hdf5(array), array.fillvalue, ""
    else:
        return
    if n_there < n_all:
        raise ValueError(
            f"of {array.name}, {n_all - n_there} of {n_all} chunks are not in the file, and would be read as {fill}. "
            f"Copy the file again. If their numbers really are {fill}, write the file again with all of them{how}"
        )


def _parts_of_zarr(array: Any) -> tuple[int, int]:
    """How many chunks are in the file, or shards if it has these, out of how many."""
    if array.shards is None:
        return array.nchunks_initialized, array.nchunks
    # zarr counts all chunks of each shard that is there, also those outside the array.
    n_each = math.prod(shard // chunk for shard, chunk in zip(array.shards, array.chunks, strict=True))
    n_all = math.prod(-(-n // step) for n, step in zip(array.shape, array.shards, strict=True))
    return array.nchunks_initialized // n_each, n_all


def _parts_of_hdf5(array: Any) -> tuple[int, int]:
    """How many parts of a dataset are there, in the file or in those of a virtual dataset, out of how many."""
    if array.is_virtual:
        folder = Path(array.file.filename).parent
        sources = {source.file_name for source in array.virtual_sources()}
        return sum(name == "." or (folder / name).exists() for name in sources), len(sources)
    if array.chunks:
        n_all = math.prod(-(-n // step) for n, step in zip(array.shape, array.chunks, strict=True))
        return array.id.get_num_chunks(), n_all
    is_elsewhere = array.id.get_create_plist().get_external_count() > 0
    return int(is_elsewhere or array.size == 0 or array.id.get_storage_size() > 0), 1
