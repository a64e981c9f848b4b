"""Reading a run at any time, also while its ranks write it.

Values are read when they are used.  A rank's `progress` says which of its rows are valid; everything beyond reads NaN.
"""

from collections.abc import Hashable
from typing import Any

import numpy as np
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing
from zarr.abc.store import Store

from . import schema
from .group import check_contents, damage_explained, expect, identity, open_group
from .location import Location, the_match


def open_run(path: Location) -> xr.DataTree:
    """Open a run, finished or not; values are read when they are used.

    The run shows what had been written when it was opened.  Open it again to see what has been written since.

    Parameters
    ----------
    path : path, URL or zarr Store
        Where the run is.  A path may contain the wildcards `*`, `?` and `[...]` if it matches a single run.  URLs are
        those of fsspec, such as "s3://bucket/run.zarr" or "memory://run.zarr".

    Returns
    -------
    DataTree
        The groups `posterior`, `posterior_predictive`, `history`, `snapshots`, `scores`, `observed_data`, `reference`,
        `environment` and `control`; what has not been written yet is NaN.

    Raises
    ------
    FileNotFoundError
        If there is nothing at `path`.
    ValueError
        If it is not a run, or an incomplete or damaged one, or one of a newer version.

    See Also
    --------
    open_runs : Open several runs for comparison.
    list_runs : The runs in a folder, as a table.
    read_status : How far a run is, without opening all of it.

    Examples
    --------
    >>> from sagips_kit import open_run
    >>> run = open_run("runs/proxy.zarr")
    >>> run["posterior"].sizes["chain"]
    2
    >>> run["history"]["theta"].dims
    ('rank', 'member', 'step', 'parameter')
    >>> table = run.sagips.summary()
    """
    return _opened(the_match(path))


def _opened(path: Location) -> xr.DataTree:
    root = open_group(path, "r")
    table, version = schema.variables(*schema.names_of(root.attrs)), int(str(root.attrs[schema.VERSION_KEY]))
    with damage_explained(path):
        # Times stay numbers, since a parameter may have the unit "days".  Only zarr 3 is read: objects of earlier
        # formats are pickles.
        tree = xr.open_datatree(
            root.store,  # pyright: ignore[reportArgumentType]  # xarray takes zarr's stores, but its types do not say so
            engine="zarr",
            consolidated=False,
            zarr_format=3,
            decode_times=False,
        )
        check_contents(path, tree, table, version)
        # In the order of the table, since a folder lists its entries in any.
        groups = {group: _complete(tree[group].to_dataset(), variables) for group, variables in table.items()}
        # The progress is read now and rows are read later, when there can only be more of them.
        progress = groups[schema.HISTORY][schema.PROGRESS].load()
        expect(root, progress.values)
    valid = {
        schema.HISTORY: (groups[schema.HISTORY][schema.STEP] <= progress).transpose(schema.RANK, schema.STEP),
        schema.SNAPSHOTS: groups[schema.SNAPSHOTS][schema.STEP] <= progress.max(),
    }
    run_id = identity(root)
    lazy = {group: _read_when_used(path, run_id, group, dataset, valid.get(group)) for group, dataset in groups.items()}
    run = xr.DataTree.from_dict({"/": tree.to_dataset(), **lazy})
    run.encoding = {"source": path if isinstance(path, Store) else str(path)}
    return run


def _complete(dataset: xr.Dataset, variables: dict[str, schema.Variable]) -> xr.Dataset:
    """The shown variables of a group; those that an earlier version of the schema did not have read their fill."""
    shown = {name: variable for name, variable in variables.items() if variable.is_shown}
    new = {name: variable for name, variable in shown.items() if name not in dataset}
    fills = {
        name: (one.dims, np.full([dataset.sizes[dim] for dim in one.dims], one.fill, one.dtype), one.attributes)
        for name, one in new.items()
    }
    return dataset.assign(fills)[list(shown)]


def _read_when_used(
    path: Location, run_id: str, group: str, dataset: xr.Dataset, is_valid: xr.DataArray | None
) -> xr.Dataset:
    """The variables of a group, to be read when they are used, and NaN where `is_valid` is false."""

    def lazily(name: Hashable, is_valid: xr.DataArray | None = None) -> tuple:
        array = dataset[name]
        if is_valid is not None and not set(is_valid.dims) <= set(array.dims):
            is_valid = None  # no rows
        source = _Read(path, run_id, f"{group}/{name}", array.variable, None if is_valid is None else is_valid.variable)
        return array.dims, indexing.LazilyIndexedArray(source), array.attrs

    # Indexes have been read by xarray; the other coordinates were written with the template, and all are valid.
    others = [name for name in dataset.coords if name not in dataset.indexes]
    return dataset.assign(
        {name: lazily(name, is_valid) for name in dataset.data_vars if name != schema.PROGRESS}
    ).assign_coords({name: lazily(name) for name in others})


class _Read(BackendArray):
    """A variable that is read when it is used; reads NaN where `is_valid`, along some of its dimensions, is false."""

    def __init__(
        self, path: Location, run_id: str, name: str, variable: xr.Variable, is_valid: xr.Variable | None
    ) -> None:
        self._path, self._run_id, self._name, self.variable, self.is_valid = path, run_id, name, variable, is_valid
        self.shape, self.dtype = variable.shape, variable.dtype

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._read)

    def _read(self, key: tuple) -> np.ndarray:
        where = dict(zip(self.variable.dims, key, strict=True))
        try:
            with damage_explained(self._path, self._name):
                values = self.variable.isel(where).load()
        finally:
            self._check_identity()
        if self.is_valid is None:
            return values.values
        # Chunks beyond the progress may hold rows of an unfinished block, or of a run that went back to a checkpoint.
        return values.where(self.is_valid.isel({dim: where[dim] for dim in self.is_valid.dims})).values

    def _check_identity(self) -> None:
        """Raise ValueError if what has been read may belong to another run, which has replaced the one opened."""
        if identity(open_group(self._path, "r")) != self._run_id:
            raise ValueError(
                f"`{self._path}` holds another run than when it was opened: it has been replaced or continued. Open it "
                "again."
            )
