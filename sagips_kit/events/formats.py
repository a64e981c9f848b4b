"""File formats, read block by block: one function for each, so that no file has to fit into memory.

Some formats give any rows on request; the others can only be read from the first row to the last.  What the columns
mean, which rows are selected and whether their entries are valid is the subject of `observed`.
"""

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .checksums import check_descriptions
from .columns import Block, Choose, Mapped, Ranges, columns_of_array, columns_of_group, only, slices

_BLOCK = 200_000  # rows

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
        The number of the block's first row, and its columns.

    Raises
    ------
    ValueError
        For ranges of rows that the format cannot give, or a file without the table or of the wrong shape.  The packages
        that read the formats raise other exceptions for damaged files.
    FileNotFoundError
        If there is no such file.
    ModuleNotFoundError
        If the package that reads the format is not installed; the message gives the line to install it.
    """
    ending = path.suffix.lower()
    if not path.exists():
        raise FileNotFoundError(f"There is no file of observed events `{path}`. Current folder: {Path.cwd()}")
    try:
        if ending in _RANDOM_ACCESS:
            yield from _RANDOM_ACCESS[ending](path, table, choose, ranges or _all_rows)
        elif ranges is None:
            yield from _SEQUENTIAL[ending](path, table, choose)
        else:
            raise ValueError(f"rows can be read in any order only from {', '.join(RANDOM_ACCESS)}")
    except ImportError as error:
        text = f'`{path}` needs the package {error.name}. Type: pip install "sagips_kit[data]"'
        raise ModuleNotFoundError(text, name=error.name) from None


def _all_rows(n_rows: int) -> list[tuple[int, int]]:
    return [(start, min(start + _BLOCK, n_rows)) for start in range(0, n_rows, _BLOCK)]


def _numpy(path: Path, table: str | None, choose: Choose, ranges: Ranges) -> Iterator[Block]:
    # Mapped, not loaded: a mapped file cannot hold pickles, which could run any code.
    yield from slices(columns_of_array(Mapped(path)), choose, ranges)


def _numpy_archive(path: Path, table: str | None, choose: Choose) -> Iterator[Block]:
    # Opened here, because NumPy leaves a damaged file open.
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        yield from slices(columns_of_group(archive, archive.files, table), choose, _all_rows)


def _text(path: Path, table: str | None, choose: Choose) -> Iterator[Block]:
    import pandas

    # Blank lines are rows, so that row numbers follow line numbers.  All columns are read: if only some were requested,
    # pandas would read rows with too many entries without a warning.
    def read(**how):
        return pandas.read_csv(path, skip_blank_lines=False, skipinitialspace=True, index_col=False, **how)

    with warnings.catch_warnings():
        warnings.simplefilter("error", pandas.errors.ParserWarning)
        wanted = choose(tuple(read(nrows=0).columns))
        with read(chunksize=_BLOCK) as reader:
            for block in reader:
                yield block.index[0], {name: block[name].to_numpy() for name in wanted}


def _parquet(path: Path, table: str | None, choose: Choose) -> Iterator[Block]:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        wanted = choose(tuple(file.schema_arrow.names))
        n_rows = 0
        for batch in file.iter_batches(_BLOCK, columns=list(wanted)):
            yield n_rows, {name: batch.column(name).to_numpy(zero_copy_only=False) for name in wanted}
            n_rows += batch.num_rows


def _hdf5(path: Path, table: str | None, choose: Choose, ranges: Ranges) -> Iterator[Block]:
    import h5py

    with h5py.File(path, locking=False) as file:  # some parallel filesystems have no locks
        found = file[table or "/"]
        is_group = isinstance(found, h5py.Group)
        columns = columns_of_group(found, list(found)) if is_group else columns_of_array(found)
        yield from slices(columns, choose, ranges)


def _zarr(path: Path, table: str | None, choose: Choose, ranges: Ranges) -> Iterator[Block]:
    import zarr

    found = zarr.open(path, path=table, mode="r")
    is_group = isinstance(found, zarr.Group)
    columns = columns_of_group(found, sorted(found.array_keys())) if is_group else columns_of_array(found)
    yield from slices(columns, choose, ranges)


def _root(path: Path, table: str | None, choose: Choose, ranges: Ranges) -> Iterator[Block]:
    import uproot

    opened: Any = uproot.open(path)  # a directory of the file, but typed as whatever a path may name
    with opened as file:
        kinds = ("TTree", "ROOT::RNTuple")
        trees = {name.partition(";")[0] for name, kind in file.classnames().items() if kind in kinds}
        tree = file[only(table, sorted(trees))]
        check_descriptions(tree)
        wanted = list(choose(tuple(tree.keys())))
        for start, stop in ranges(tree.num_entries):
            yield start, tree.arrays(wanted, entry_start=start, entry_stop=stop, library="np")


_RANDOM_ACCESS: dict[str, RandomAccess] = {
    ".npy": _numpy,
    ".h5": _hdf5,
    ".hdf5": _hdf5,
    ".zarr": _zarr,
    ".root": _root,
}
_SEQUENTIAL: dict[str, Sequential] = {".npz": _numpy_archive, ".csv": _text, ".parquet": _parquet}
RANDOM_ACCESS = tuple(_RANDOM_ACCESS)
FORMATS = (".npy", ".npz", ".csv", ".parquet", ".h5", ".hdf5", ".zarr", ".root")
