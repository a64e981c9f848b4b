"""A run on disk, after its template: each rank fills chunks that it alone owns, and readers come at any time.

Two writers in one chunk lose data without an error, so chunks follow ownership: history by rank, posterior by replica.
A chunk holds many blocks of rows; its owner replaces it as a whole with every block, so a reader finds it old or new.
A rank's `progress` is written after its rows and is what makes them valid; readers mask everything beyond it, so a run
can be opened at any time while it is written.  Nothing here knows networks, MPI or plots.
"""

import numpy as np

from .._text import spaced
from . import schema
from .group import array_of, open_group
from .location import explained


class RunWriter:
    """One rank's pen: it writes only chunks that this rank owns.

    Parameters
    ----------
    path : path or zarr Store
    rank : int
    replica : int or None
        The replica whose chains this rank writes; None unless it is that replica's leader.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no run at `path`.
    OSError
        By every method that writes, if the disk refuses; the text tells which rows are safe.
    """

    def __init__(self, path, rank, replica=None):
        self._root = open_group(path, "r+")
        self._layout = schema.RunLayout(**self._root.attrs[schema.LAYOUT_KEY])
        for name, index, n in [("rank", rank, self._layout.n_ranks), ("replica", replica, self._layout.n_replicas)]:
            if index is not None and not 0 <= index < n:
                raise ValueError(f"{name} = {index}: `{path}` was created for {n}, so it should be 0 to {n - 1}.")
        self._rows = {name: array_of(path, self._root, schema.HISTORY, name) for name in schema.ROWS}
        self._progress = array_of(path, self._root, schema.HISTORY, schema.PROGRESS)
        # Found once: looking a snapshot's arrays up takes longer than writing them.
        self._taken = {name: array_of(path, self._root, schema.SNAPSHOTS, name) for name in schema.TAKEN}
        self._snapshot_steps = self._layout.snapshot_steps
        self.path, self.rank, self.replica = path, rank, replica
        self.step = int(self._progress[rank])

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def close(self):
        self._root.store.close()

    def write_facts(self, **facts):
        """Write down what this rank runs on: host, device and MPI library, as texts."""
        with self._safely():
            for name, text in facts.items():
                array_of(self.path, self._root, schema.ENVIRONMENT, name)[self.rank] = text

    def write_rows(self, first_row, rows):
        """Write rows of the history; they stay invisible until `set_progress` covers them.

        Parameters
        ----------
        first_row : int
            Where they go.  Rows may be written again.
        rows : dict of str to ndarray (member, step, parameter), (member, step) or (step,)
            New rows of any of the history's variables.
        """
        # All shapes are checked before the first byte, so a mistake leaves the block as it was.
        where = {name: self._where(name, first_row, np.shape(values)) for name, values in rows.items()}
        with self._safely():
            for name, values in rows.items():
                self._rows[name][where[name]] = values

    def write_chains(self, posterior, predictive):
        """Write all draws of this rank's replica.

        Parameters
        ----------
        posterior : ndarray (member, draw, parameter)
        predictive : ndarray (member, draw, event, observable)
            Events generated from each draw.
        """
        self._write_group(schema.POSTERIOR, self._root.attrs[schema.PARAMETERS_KEY], posterior)
        self._write_group(schema.PREDICTIVE, self._root.attrs[schema.OBSERVABLES_KEY], predictive)

    def write_snapshot(self, step, **values):
        """Write what this replica's generators proposed at `step`, if the run keeps a snapshot then.

        Parameters
        ----------
        step : int
        values : ndarray
            parameters (member, set, parameter) and events (member, event, observable).
        """
        where = (self._chains(), self._snapshot_steps.index(step))
        for name, array in values.items():
            self._write(self._taken[name], where, array)

    def write_scores(self, **values):
        """Write the scores that this rank's discriminators give: generated and observed, ndarray (member, event)."""
        for name, array in values.items():
            self._write(array_of(self.path, self._root, schema.SCORES, name), (self.rank,), array)

    def wants_snapshot(self, step):
        """Whether this rank writes a snapshot at `step`."""
        return self.replica is not None and step in self._snapshot_steps

    def set_progress(self, step):
        """Declare all rows up to `step` valid: after the rows, and the last time after the chains too."""
        with self._safely():
            # The hand-over: from here on readers believe the rows.
            self._progress[self.rank] = step
        self.step = step

    def _where(self, name, first_row, shape):
        """Where in the array `name` rows of this shape go."""
        if name not in schema.ROWS:
            raise ValueError(f"The history has no {name!r}. Allowed: {', '.join(schema.ROWS)}.")
        dims, sizes = schema.ROWS[name], self._rows[name].shape
        axis = dims.index(schema.STEP)
        n_left = sizes[axis] - first_row
        n_rows = shape[axis - 1] if len(shape) == len(dims) - 1 else 0
        if shape != (*sizes[1:axis], n_rows, *sizes[axis + 1 :]) or n_rows > n_left:
            wanted = ", ".join(dim if dim == schema.STEP else f"{dim} {n}" for dim, n in zip(dims, sizes, strict=True))
            wanted = wanted.partition(", ")[2]
            raise ValueError(
                f"{name} of shape {shape}: should be ({wanted}), of which row {first_row} leaves {n_left}."
            )
        where = [slice(None)] * len(dims)
        where[0], where[axis] = self.rank, slice(first_row, first_row + n_rows)
        return tuple(where)

    def _write_group(self, name, variables, values):
        wanted = (self._layout.n_members, *self._root[name][variables[0]].shape[1:], len(variables))
        if np.shape(values) != wanted:
            raise ValueError(f"{name} of shape {np.shape(values)}: should be {wanted}, the last for {variables}.")
        for index, variable in enumerate(variables):
            array = array_of(self.path, self._root, name, variable)
            self._write(array, (self._chains(),), np.asarray(values)[..., index])

    def _write(self, array, where, values):
        wanted = np.broadcast_to(False, array.shape)[where].shape
        if np.shape(values) != wanted:
            raise ValueError(f"{array.path} of shape {np.shape(values)}: should be {wanted}.")
        with self._safely():
            array[where] = values

    def _chains(self):
        """Where in a group the chains of this replica are."""
        if self.replica is None:
            raise ValueError(f"Rank {self.rank} owns no chains. Make it a leader: RunWriter(path, rank, replica=...).")
        n_members = self._layout.n_members
        return slice(self.replica * n_members, (self.replica + 1) * n_members)

    def _safely(self):
        advice = f"Its rows up to step {spaced(self.step)} are safe: open_run({str(self.path)!r}) reads them."
        return explained(f"Rank {self.rank} cannot write to `{self.path}`", advice)
