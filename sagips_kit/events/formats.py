"""File formats, read block by block: one function for each, so that no file has to fit into memory.

Some formats give any rows on request; the others can only be read from the first row to the last.  What the columns
mean, which rows are selected and whether their entries are valid is the subject of `selection`.
"""

import importlib
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .columns import Block, Choose, Mapped, Member, Ranges, columns_of_array, columns_of_tree, no_table, slices
from .files import ending_of
from .stored import Stored, frames_of_pandas, text_of
from .texts import TEXTS, layout
from .trees import Clusters

_BLOCK = 200_000  # rows
_ENTRIES = 2_000_000  # most numbers of a block, where all columns have to be read
_BYTES = 2**20  # read at a time from a column of Parquet, whose groups of rows may be large

Sequential = Callable[[Path, str | None, Choose], Iterator[Block]]
RandomAccess = Callable[[Path, str | None, Choose, Ranges], Iterator[Block]]


def blocks(path: Path, table: str | None, choose: Choose, ranges: Ranges | None = None) -> Iterator[Block]:
    """Yield the columns of a file, some rows at a time: the number of the first row, and {name: array (row,)}.

    Parameters
    ----------
    path : Path
        The file; its ending, one of FORMATS, gives the format.
    table : str or None
        Which table of the file, where it can hold several.
    choose : callable
        Gets the names of all columns ("0", "1", ... if they have none) and returns those to read.
    ranges : callable or None
        Gets the number of rows and returns those to read, as pairs (start, stop) in rising order; None reads all rows.
        Only for the formats in RANDOM_ACCESS.

    Yields
    ------
    int, dict
        The number of the block's first row, and its columns, masked where entries are missing.

    Raises
    ------
    ValueError
        For ranges of rows that the format cannot give, or a file without the table or of the wrong shape.  The packages
        that read the formats raise other exceptions for damaged files.
    ModuleNotFoundError
        If the package that reads the format is not installed; the message gives the line to install it.
    """
    ending = ending_of(path, FORMATS)
    try:
        if ending in _RANDOM_ACCESS:
            yield from _RANDOM_ACCESS[ending](path, table, choose, ranges or _all_rows)
        elif ending is None:
            raise ValueError(f"it should end in {', '.join(FORMATS)}")
        elif ranges is None:
            yield from _SEQUENTIAL[ending](path, table, choose)
        else:
            raise ValueError(f"rows can be read in any order only from {', '.join(RANDOM_ACCESS)}")
    except ImportError as error:
        what = "astropy" if ending == ".fits" else '"sagips_kit[data]"'
        text = f"`{path}` needs the package {error.name}. Type: pip install {what}"
        raise ModuleNotFoundError(text, name=error.name) from None


def _all_rows(n_rows: int) -> list[tuple[int, int]]:
    return [(start, min(start + _BLOCK, n_rows)) for start in range(0, n_rows, _BLOCK)]


def _numpy(path: Path, table: str | None, choose: Choose, ranges: Ranges) -> Iterator[Block]:
    # Mapped, not loaded: a mapped file cannot hold pickles, which could run any code.
    yield from slices(columns_of_array(Mapped(path)), choose, ranges)


def _numpy_archive(path: Path, table: str | None, choose: Choose) -> Iterator[Block]:
    # Opened here, because NumPy leaves a damaged file open.
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        arrays = {name: Member(archive, name) for name in archive.files}
        arrays = {name: array for name, array in arrays.items() if array.ndim}
        yield from slices(columns_of_tree(arrays, table), choose, _all_rows)


def _text(path: Path, table: str | None, choose: Choose) -> Iterator[Block]:
    import pandas

    found = layout(path)
    wanted = {name: found.index(name) for name in choose(found.names)}
    # Blank lines are rows, so that row numbers follow line numbers.  All columns are read: if only some were requested,
    # pandas would read rows with too many entries without a warning.
    with warnings.catch_warnings():
        warnings.simplefilter("error", pandas.errors.ParserWarning)
        how: dict[str, Any] = {"skip_blank_lines": False, "skipinitialspace": True, "index_col": False}
        if pandas.__version__ < "3":  # which rounds a little otherwise
            how["float_precision"] = "round_trip"
        reader: Any = pandas.read_csv(
            path,
            sep=found.separator,
            header=None,
            names=list(range(len(found.names))),
            skiprows=found.first_line,
            chunksize=max(1, min(_BLOCK, _ENTRIES // len(found.names))),
            dtype_backend="numpy_nullable",
            low_memory=False,
            encoding="utf-8-sig",
            **how,
        )
        with reader:
            for block in reader:
                if len(block):
                    yield block.index[0], {name: _of_pandas(block[k]) for name, k in wanted.items()}


def _of_pandas(column: Any) -> np.ndarray:
    """A column of nullable type as a masked array."""
    values = column.array
    data = values.to_numpy(dtype=values.dtype.numpy_dtype, na_value=0) if hasattr(values.dtype, "numpy_dtype") else None
    return column.to_numpy(dtype=object) if data is None else np.ma.array(data, mask=np.asarray(column.isna()))


def _parquet(path: Path, table: str | None, choose: Choose) -> Iterator[Block]:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path, pre_buffer=False, buffer_size=_BYTES) as file:
        wanted = choose(tuple(file.schema_arrow.names))
        batches = file.iter_batches(_BLOCK, columns=list(wanted), use_threads=False)
        yield from _of_batches(batches, wanted)


def _arrow(path: Path, table: str | None, choose: Choose) -> Iterator[Block]:
    import pyarrow.ipc

    with pyarrow.OSFile(str(path)) as source, pyarrow.ipc.open_file(source) as file:
        names = file.schema.names
        wanted = choose(tuple(names))
        n_batches = file.num_record_batches
    options = pyarrow.ipc.IpcReadOptions(included_fields=sorted({names.index(name) for name in wanted}))
    with pyarrow.OSFile(str(path)) as source, pyarrow.ipc.open_file(source, options=options) as file:
        yield from _of_batches((file.get_batch(k) for k in range(n_batches)), wanted)


def _of_batches(batches: Any, wanted: tuple[str, ...]) -> Iterator[Block]:
    """Blocks from record batches of Arrow."""
    n_rows = 0
    for batch in batches:
        yield n_rows, {name: _of_arrow(batch.column(name)) for name in wanted}
        n_rows += batch.num_rows


def _of_arrow(column: Any) -> np.ndarray:
    """A column with its empty entries masked, so that integers beside them stay integers."""
    import pyarrow

    if isinstance(column, pyarrow.DictionaryArray):
        words = column.dictionary.to_pylist()
        return np.array([None if k is None else words[k] for k in column.indices.to_pylist()], dtype=object)
    kind = column.type
    if not (column.null_count and (pyarrow.types.is_integer(kind) or pyarrow.types.is_boolean(kind))):
        return column.to_numpy(zero_copy_only=False)
    filled = column.fill_null(False if pyarrow.types.is_boolean(kind) else 0)
    mask = column.is_null().to_numpy(zero_copy_only=False)
    return np.ma.array(filled.to_numpy(zero_copy_only=False), mask=mask)


def _hdf5(path: Path, table: str | None, choose: Choose, ranges: Ranges) -> Iterator[Block]:
    import h5py

    is_netcdf = path.suffix.lower() == ".nc"
    arrays: dict[str, Stored] = {}

    def add(name: str, item: Any) -> None:
        is_placeholder = text_of(item.attrs.get("NAME", "")).startswith(_PLACEHOLDER)
        is_index = "/_i_" in name  # of PyTables
        if isinstance(item, h5py.Dataset) and item.ndim and not is_placeholder and not is_index:
            arrays[name] = Stored(item, dict(item.attrs), name, is_netcdf)

    with h5py.File(path, locking=False) as file:  # some parallel file systems have no locks
        file.visititems(add)
        yield from slices(columns_of_tree(frames_of_pandas(arrays), table), choose, ranges)


_PLACEHOLDER = "This is a netCDF dimension but not a netCDF variable"


def _netcdf(path: Path, table: str | None, choose: Choose, ranges: Ranges) -> Iterator[Block]:
    with path.open("rb") as file:
        if file.read(3) != b"CDF":
            yield from _hdf5(path, table, choose, ranges)
            return
    from scipy.io import netcdf_file

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # that arrays of it are still in use
        with netcdf_file(path, mmap=True) as file:
            arrays = {k: Stored(v.data, v._attributes, k, True) for k, v in file.variables.items() if v.shape}
            yield from slices(columns_of_tree(arrays, table), choose, ranges)


def _zarr(path: Path, table: str | None, choose: Choose, ranges: Ranges) -> Iterator[Block]:
    import zarr

    found = zarr.open(path, mode="r")
    members = found.members(max_depth=None) if isinstance(found, zarr.Group) else [("", found)]
    arrays = {name: _of_zarr(name, array) for name, array in members if isinstance(array, zarr.Array) and array.ndim}
    yield from slices(columns_of_tree(arrays, table), choose, ranges)


def _of_zarr(name: str, array: Any) -> Stored:
    attributes = dict(array.attrs)
    if array.metadata.zarr_format == 2 and "_ARRAY_DIMENSIONS" in attributes and array.fill_value is not None:
        attributes.setdefault("_FillValue", array.fill_value)  # as xarray writes it
    return Stored(array, attributes, name)


def _root(path: Path, table: str | None, choose: Choose, ranges: Ranges) -> Iterator[Block]:
    import uproot

    without_cache: Any = {"array_cache": None}
    opened: Any = uproot.open(path, **without_cache)  # a directory of the file, but typed as whatever a path may name
    with opened as file:
        names = {name.partition(";")[0] for name, kind in file.classnames().items() if kind in _TREES}
        chosen = names if table is None else names & {table}
        if len(chosen) != 1:
            raise no_table(table, sorted(names))
        tree = Clusters(file[chosen.pop()], _BLOCK)
        wanted = choose(tuple(tree.names))
        for start, stop in ranges(tree.n_rows):
            yield start, tree.read(wanted, start, stop)


def _fits(path: Path, table: str | None, choose: Choose) -> Iterator[Block]:
    # By name, because astropy is in no extra: type checkers would miss it.
    fits: Any = importlib.import_module("astropy.io.fits")
    read: Any = importlib.import_module("astropy.table").Table.read
    with fits.open(path) as file:
        kinds = (fits.BinTableHDU, fits.TableHDU)
        tables = [(hdu.name or str(k), hdu) for k, hdu in enumerate(file) if isinstance(hdu, kinds)]
        chosen = [hdu for name, hdu in tables if table in (None, name)]
        if len(chosen) != 1:
            raise no_table(table, [name for name, _ in tables])
        rows = read(chosen[0])
        yield from slices({name: np.ma.asarray(rows[name]) for name in rows.colnames}, choose, _all_rows)


_TREES = ("TTree", "TNtuple", "TNtupleD", "ROOT::RNTuple")
_RANDOM_ACCESS: dict[str, RandomAccess] = {
    ".npy": _numpy,
    ".h5": _hdf5,
    ".hdf5": _hdf5,
    ".nc": _netcdf,
    ".zarr": _zarr,
    ".root": _root,
}
_SEQUENTIAL: dict[str, Sequential] = {
    ".npz": _numpy_archive,
    ".parquet": _parquet,
    ".feather": _arrow,
    ".arrow": _arrow,
    ".fits": _fits,
}
_SEQUENTIAL |= dict.fromkeys(TEXTS, _text)
RANDOM_ACCESS = tuple(_RANDOM_ACCESS)
FORMATS = (*_RANDOM_ACCESS, *_SEQUENTIAL)
