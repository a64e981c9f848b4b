"""Files of columns, read block by block: one function for each format, so that no file needs to fit into memory.

Some formats give any rows that are asked for, others only all of them from the first to the last.

What the columns mean, which rows are wanted and what is wrong with them does not belong here.
"""

import contextlib
import warnings
from pathlib import Path

import numpy as np

_BLOCK = 200_000  # rows


def blocks(path, table, choose, ranges=None):
    """Yield a file's columns, some rows at a time: the number of the first row, and {name: array (row,)}.

    Parameters
    ----------
    path : Path
    table : str or None
        Which table of the file, where it can hold several.
    choose : callable
        Gets the names of all columns ("0", "1", ... if they have none) and returns those to read.
    ranges : callable or None
        Gets the number of rows and returns those to read, as pairs (start, stop) in rising order; None reads them all.
        For the formats in ANYWHERE alone.
    """
    ending = path.suffix.lower()
    if ending not in FORMATS:
        raise ValueError(f"its ending is none of {', '.join(FORMATS)}")
    if not path.exists():
        raise FileNotFoundError(f"There is no file of observed events `{path}`. Current folder: {Path.cwd()}")
    try:
        yield from FORMATS[ending](path, table, choose, *([] if ranges is None else [ranges]))
    except ImportError as error:
        text = f'`{path}` needs {error.name}. Type: pip install "sagips_kit[data]"'
        raise ModuleNotFoundError(text, name=error.name) from None


def _all_rows(n_rows):
    return [(start, min(start + _BLOCK, n_rows)) for start in range(0, n_rows, _BLOCK)]


def _numpy(path, table, choose, ranges=_all_rows):
    # Mapped, not loaded, so it cannot hold pickles, which could run any code.
    yield from _slices(_columns(_Mapped(path)), choose, ranges)


def _numpy_archive(path, table, choose):
    # Opened here: of a damaged one numpy leaves the file open.
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        yield from _slices(_members(archive, archive.files, table), choose)


def _text(path, table, choose):
    import pandas

    # Blank lines count, so that rows have the numbers of their lines.  All columns are read: asked for some, pandas
    # would take them from rows with too many entries without a word.
    options = {"skip_blank_lines": False, "skipinitialspace": True, "index_col": False}
    with warnings.catch_warnings():
        warnings.simplefilter("error", pandas.errors.ParserWarning)
        wanted = choose(tuple(pandas.read_csv(path, nrows=0, **options).columns))
        with pandas.read_csv(path, chunksize=_BLOCK, **options) as reader:
            for block in reader:
                yield block.index[0], {name: block[name].to_numpy() for name in wanted}


def _parquet(path, table, choose):
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        wanted = choose(tuple(file.schema_arrow.names))
        n_rows = 0
        for batch in file.iter_batches(_BLOCK, columns=list(wanted)):
            yield n_rows, {name: batch.column(name).to_numpy(zero_copy_only=False) for name in wanted}
            n_rows += batch.num_rows


def _hdf5(path, table, choose, ranges=_all_rows):
    import h5py

    with h5py.File(path) as file:
        found = file[table or "/"]
        is_group = isinstance(found, h5py.Group)
        yield from _slices(_members(found, list(found), None) if is_group else _columns(found), choose, ranges)


def _zarr(path, table, choose, ranges=_all_rows):
    import zarr

    found = zarr.open(path, path=table, mode="r")
    is_group = isinstance(found, zarr.Group)
    columns = _members(found, sorted(found.array_keys()), None) if is_group else _columns(found)
    yield from _slices(columns, choose, ranges)


def _root(path, table, choose, ranges=_all_rows):
    import uproot

    with uproot.open(path) as file:
        trees = [
            name.partition(";")[0] for name, kind in file.classnames().items() if kind in ("TTree", "ROOT::RNTuple")
        ]
        tree = file[_only(table, sorted(set(trees)))]
        _check_descriptions(tree)
        wanted = list(choose(tuple(tree.keys())))
        for start, stop in ranges(tree.num_entries):
            yield start, tree.arrays(wanted, entry_start=start, entry_stop=stop, library="np")


def _check_descriptions(ntuple):
    """Compare the checksums of what describes an RNTuple; uproot does so only after it has believed all counts in it.

    A damaged count makes it ask for more memory than the machine has.
    """
    if not hasattr(type(ntuple), "page_list_envelopes"):  # an older kind of tree, without checksums
        return
    with contextlib.suppress(AttributeError, ImportError):  # of another uproot, which has other names, or no xxhash
        ntuple._prepare_header_chunk()
        _check_sum(ntuple._header_chunk)
        ntuple._prepare_footer_chunk()
        _check_sum(ntuple._footer_chunk)
        for group in ntuple.footer.cluster_group_records:
            link = group.page_list_link
            _check_sum(ntuple.read_locator(link.locator, link.env_uncomp_size)[0])


def _check_sum(chunk):
    import xxhash

    data = bytes(chunk.raw_data)
    if int.from_bytes(data[-8:], "little") != xxhash.xxh3_64_intdigest(data[:-8]):
        raise ValueError("a checksum does not agree")


FORMATS = {
    ".npy": _numpy,
    ".npz": _numpy_archive,
    ".csv": _text,
    ".parquet": _parquet,
    ".h5": _hdf5,
    ".hdf5": _hdf5,
    ".zarr": _zarr,
    ".root": _root,
}
ANYWHERE = (".npy", ".h5", ".hdf5", ".zarr", ".root")


def _only(table, tables):
    if table is None and len(tables) == 1:
        return tables[0]
    if table not in tables:
        raise ValueError(f"table = {table!r}: the file holds {', '.join(tables) or 'no table'}")
    return table


def _members(group, names, table):
    """The columns of arrays side by side, or of the only one."""
    if table is not None or len(names) == 1:
        return _columns(group[_only(table, names)], names[0])
    return {name: group[name] for name in names if group[name].ndim == 1}


def _columns(array, name="0"):
    """The columns of one array: {name: what can be sliced}."""
    if array.dtype.names:
        names, reads_fields = array.dtype.names, hasattr(array, "fields")  # so h5py reads a single field
        return {name: array.fields(name) if reads_fields else _Field(array, name) for name in names}
    if array.ndim == 1:
        return {name: array}
    if array.ndim == 2:
        return {str(k): _Column(array, k) for k in range(array.shape[1])}
    raise ValueError(f"it holds an array of shape {array.shape}, not (event, column)")


class _Column:
    """One column of an array, which is read when it is sliced."""

    def __init__(self, array, k):
        self._array, self._k = array, k

    @property
    def shape(self):
        return self._array.shape[:1]

    def __getitem__(self, rows):
        return self._array[rows, self._k]


class _Field(_Column):
    """One field of a structured array, likewise."""

    def __getitem__(self, rows):
        return self._array[rows][self._k]


class _Mapped:
    """An array of a `.npy` file, mapped for each slice alone: while a map is open, what was read of it is in memory."""

    def __init__(self, path):
        self._path = path
        array = self._array()
        self.dtype, self.shape, self.ndim = array.dtype, array.shape, array.ndim

    def __getitem__(self, key):
        return np.array(self._array()[key])

    def _array(self):
        return np.lib.format.open_memmap(self._path, mode="r")


def _slices(columns, choose, ranges=_all_rows):
    wanted = choose(tuple(columns))
    lengths = {name: columns[name].shape[0] for name in wanted}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"its columns have different lengths: {lengths}")
    for start, stop in ranges(max(lengths.values())):
        yield start, {name: np.asarray(columns[name][start:stop]) for name in wanted}
