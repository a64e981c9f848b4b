"""A run on disk, after its template: each rank fills chunks that it alone owns, and readers come at any time.

Two writers in one chunk lose data without an error, so chunks follow ownership: history by rank, posterior by replica.
A chunk holds many blocks of rows; its owner replaces it as a whole with every block, so a reader finds it old or new.
A rank's `progress` is written after its rows and is what makes them valid; readers mask everything beyond it, so a run
can be opened at any time while it is written.  Nothing here knows networks, MPI or plots.
"""

import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing
from zarr.abc.store import Store

from . import schema
from .group import check_contents, damage_explained, open_group
from .location import the_match


def open_run(path):
    """Open a run, finished or not; values are read when they are used.

    Open it again to see what has been written since.

    Parameters
    ----------
    path : path, URL or zarr Store
        A path may hold the wildcards *, ? and [...] if it matches a single run.  URLs are those of fsspec, such as
        "s3://bucket/run.zarr" or "memory://run.zarr".

    Returns
    -------
    DataTree
        The groups `posterior`, `posterior_predictive`, `history`, `snapshots`, `scores`, `observed_data`, `reference`,
        `environment` and `control`; what has not been completed is NaN.

    Raises
    ------
    FileNotFoundError
        If there is nothing at `path`.
    ValueError
        If it is not a run, an incomplete or a damaged one, or one of another version.
    """
    path = the_match(path)
    with damage_explained(path):
        return _opened(path)


def _opened(path):
    root = open_group(path, "r")
    # Times stay numbers: a parameter may have the unit "days".  Nothing is read of an earlier format, whose objects are
    # pickles.
    tree = xr.open_datatree(root.store, engine="zarr", consolidated=False, zarr_format=3, decode_times=False)
    # The listing of a folder has no order of its own.
    names = schema.variables(root.attrs[schema.PARAMETERS_KEY], root.attrs[schema.OBSERVABLES_KEY])
    check_contents(path, tree, names)
    groups = {group: tree[group].to_dataset()[list(variables)] for group, variables in names.items()}
    history = groups[schema.HISTORY]
    # Progress is read now, rows later: they can only have become more.
    valid = {
        schema.HISTORY: (history[schema.STEP] <= history[schema.PROGRESS].load()).transpose(schema.RANK, schema.STEP),
        schema.SNAPSHOTS: groups[schema.SNAPSHOTS][schema.STEP] <= history[schema.PROGRESS].max(),
    }
    for group, dataset in groups.items():
        lazy = [name for name in names[group] if name != schema.PROGRESS]
        # Indexes have been read already; other coordinates are valid as a whole.
        others = [name for name in dataset.coords if name not in dataset.indexes]
        lazily = {name: _lazily(path, dataset[name], group, valid.get(group)) for name in lazy}
        groups[group] = dataset.assign(lazily).assign_coords(
            {name: _lazily(path, dataset[name], group) for name in others}
        )
    run = xr.DataTree.from_dict({"/": tree.to_dataset(), **groups})
    run.encoding = {"source": path if isinstance(path, Store) else str(path)}
    return run


def _lazily(path, array, group, is_valid=None):
    """The array as a variable that is read when it is used, and NaN where it is not valid."""
    is_valid = None if is_valid is None else is_valid.variable
    source = _Read(path, f"{group}/{array.name}", array.variable, is_valid)
    return array.dims, indexing.LazilyIndexedArray(source), array.attrs


class _Read(BackendArray):
    """A lazy variable that explains damage, and reads NaN where `is_valid`, of some of its dimensions, is false."""

    def __init__(self, path, name, variable, is_valid):
        self._path, self._name, self.variable, self.is_valid = path, name, variable, is_valid
        self.shape, self.dtype = variable.shape, variable.dtype

    def __getitem__(self, key):
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._read)

    def _read(self, key):
        where = dict(zip(self.variable.dims, key, strict=True))
        with damage_explained(self._path, self._name):
            values = self.variable.isel(where)
            if self.is_valid is None:
                return values.values
            # Chunks beyond the progress may hold rows of a block under way, or of a run that went back to a checkpoint.
            return values.where(self.is_valid.isel({dim: where[dim] for dim in self.is_valid.dims})).values
