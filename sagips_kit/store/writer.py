"""Writing a run, after its template: each rank fills chunks that it alone owns.

Two writers in one chunk lose data without an error, so chunks follow ownership: history by rank, posterior by replica.
A chunk holds many blocks of rows; its owner replaces it as a whole with every block, so a reader finds it old or new.
A rank's `progress` is written after its rows and makes them valid; readers mask everything beyond it, so a run can be
opened at any time while it is written.  Nothing here knows networks, MPI or plots.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self

import numpy as np
import zarr
from numpy.typing import ArrayLike

from .._text import allowed, spaced
from . import schema
from .group import array_of, expect, group_of, open_group
from .location import Location, explained


class RunWriter:
    """Writes what one rank owns of a run.

    Parameters
    ----------
    path : path, URL or zarr Store
        The run.
    rank : int
        The rank that writes.
    replica : int or None
        The replica whose chains this rank writes; None unless it is that replica's leader.
    check : callable or None
        Called before anything is written; it raises an error if this rank must not write any more.

    Attributes
    ----------
    layout : RunLayout
        Sizes of the run.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no run at `path`; ValueError by methods that write, if what was written before is damaged.
    OSError
        By every method that writes, if the disk refuses; the message says which rows are safe.
    """

    def __init__(
        self, path: Location, rank: int, replica: int | None = None, check: Callable[[], None] | None = None
    ) -> None:
        self._root = open_group(path, "r+")
        self.layout = schema.layout_of(self._root.attrs)
        sizes = [(schema.RANK, rank, self.layout.n_ranks), (schema.REPLICA, replica, self.layout.n_replicas)]
        for name, index, n in sizes:
            if index is not None and not 0 <= index < n:
                raise ValueError(f"{name} = {index}: `{path}` was created for {n}, so it should be 0 to {n - 1}.")
        self.path, self.rank, self.replica, self._check = path, rank, replica, check
        self._rows = {name: self._array(schema.HISTORY, name) for name in schema.ROWS}
        self._progress = self._array(schema.HISTORY, schema.PROGRESS)
        # Found once, because finding the arrays of a snapshot takes longer than writing them.
        self._snapshots = {name: self._array(schema.SNAPSHOTS, name) for name in schema.of_group(schema.SNAPSHOTS)}
        self._snapshot_steps = self.layout.snapshot_steps
        progress = np.asarray(self._progress[:])
        self._expected = expect(self._root, progress)
        self.step = int(progress[rank])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the store."""
        self._root.store.close()

    def write_facts(self, **facts: str) -> None:
        """Write what this rank runs on, as texts: host, device and library (of MPI)."""
        with self._safely():
            for name, text in facts.items():
                self._array(schema.ENVIRONMENT, name)[self.rank] = text

    def write_rows(self, first_row: int, rows: Mapping[str, ArrayLike]) -> None:
        """Write rows of the history; they stay invisible until `set_progress` covers them.

        Parameters
        ----------
        first_row : int
            Index of the first of them.  Rows may be written again.
        rows : dict of str to ndarray (member, step, parameter), (member, step) or (step,)
            New rows of the variables of the history; those of variables that are not given become NaN.
        """
        # All shapes are checked before anything is written, so a mistake leaves the block as it was.
        n_rows = max((self._n_rows(name, first_row, np.shape(values)) for name, values in rows.items()), default=0)
        with self._safely():
            for name, array in self._rows.items():
                array[self._place(name, first_row, n_rows)] = np.asarray(rows.get(name, np.nan))

    def write_chains(self, posterior: ArrayLike, predictive: ArrayLike) -> None:
        """Write all draws of this rank's replica.

        Parameters
        ----------
        posterior : ndarray (member, draw, parameter)
            The parameter vectors.
        predictive : ndarray (member, draw, event, observable)
            Events generated from each draw.
        """
        parameters, observables = schema.names_of(self._root.attrs)
        self._write_group(schema.POSTERIOR, parameters, np.asarray(posterior))
        self._write_group(schema.PREDICTIVE, observables, np.asarray(predictive))

    def write_snapshot(self, step: int, **values: ArrayLike) -> None:
        """Write what this replica's generators propose at `step`, one of the steps of `wants_snapshot`.

        Parameters
        ----------
        step : int
            The step of the snapshot.
        **values : ndarray
            parameters (member, set, parameter) and events (member, event, observable).
        """
        where = (self._chains(), self._snapshot_steps.index(step))
        for name, array in values.items():
            self._write(self._snapshots[name], where, np.asarray(array))

    def write_scores(self, **values: ArrayLike) -> None:
        """Write the scores that this rank's discriminators give: generated and observed, ndarray (member, event)."""
        for name, array in values.items():
            self._write(self._array(schema.SCORES, name), (self.rank,), np.asarray(array))

    def write_fit(self, words: Mapping[str, Any], **values: ArrayLike) -> None:
        """Write the fit by the learned score, or its state.

        Parameters
        ----------
        words : dict
            The state, and the reason, findings and information, as JSON values.  They are written last, so a reader
            that finds a state of "made" also finds the numbers.
        **values : ndarray (parameter,), (parameter, parameter) or ()
            Variables of the reference that rank 0 writes.
        """
        if self.rank != 0:
            raise ValueError(f"Rank {self.rank} writes no fit: rank 0 does.")
        for name, array in values.items():
            self._write(self._array(schema.REFERENCE, name), (...,), np.asarray(array))
        with self._safely():
            self._root[schema.REFERENCE].attrs[schema.FIT_KEY] = dict(words)

    def write_starts(self, fits: ArrayLike, starts: ArrayLike) -> None:
        """Write the fit of each resample, and where the chains of this rank's replica began, (member, parameter)."""
        for name, values in ((schema.CHAIN_FIT, fits), (schema.CHAIN_START, starts)):
            self._write(self._array(schema.REFERENCE, name), (self._chains(),), np.asarray(values))

    def write_ends(self, ends: ArrayLike) -> None:
        """Write where the chains of this rank's replica ended, (member, parameter), if they began at the fit."""
        self._write(self._array(schema.REFERENCE, schema.CHAIN_END), (self._chains(),), np.asarray(ends))

    def write_witnesses(self, is_witness: ArrayLike) -> None:
        """Write which of this rank's generators are witnesses, (member,) of bool."""
        self._write(self._array(schema.HISTORY, schema.WITNESS), (self.rank,), np.asarray(is_witness, dtype=int))

    def write_verdict(self, words: Mapping[str, Any]) -> None:
        """Write whether the result may be used, as JSON values; for the last rank, when the run is finished."""
        with self._safely():
            self._root.attrs[schema.VERDICT_KEY] = dict(words)

    def wants_fit(self) -> bool:
        """Whether this rank writes a fit by the learned score: the store has a place for it, but none that is over."""
        reference = group_of(self.path, self._root, schema.REFERENCE)
        is_over = schema.fit_state(reference.attrs) not in (None, schema.UNDER_WAY)
        return self.rank == 0 and schema.FIT in reference and not is_over

    def wants_snapshot(self, step: int) -> bool:
        """Whether this rank writes a snapshot at `step`."""
        return self.replica is not None and step in self._snapshot_steps

    def set_progress(self, step: int) -> None:
        """Declare all rows up to `step` valid: after writing them, and the last time after the chains as well."""
        with self._safely():
            # From here on readers use the rows.
            self._progress[self.rank] = step
        self.step = step
        if self._expected is not None:
            self._expected.progress[self.rank] = step

    def _array(self, group: str, name: str) -> zarr.Array:
        return array_of(self.path, self._root, group, name)

    def _n_rows(self, name: str, first_row: int, shape: tuple[int, ...]) -> int:
        """Number of rows in values of this shape for the array `name`; ValueError if they do not fit."""
        if name not in schema.ROWS:
            raise ValueError(f"The history has no {name!r}. {allowed(name, schema.ROWS)}")
        dims, sizes = schema.ROWS[name].dims, self._rows[name].shape
        axis = dims.index(schema.STEP)
        n_left = sizes[axis] - first_row
        n_rows = shape[axis - 1] if len(shape) == len(dims) - 1 else 0
        if shape != (*sizes[1:axis], n_rows, *sizes[axis + 1 :]) or n_rows > n_left:
            wanted = ", ".join(dim if dim == schema.STEP else f"{dim} {n}" for dim, n in zip(dims, sizes, strict=True))
            wanted = wanted.partition(", ")[2]
            raise ValueError(
                f"{name} of shape {shape}: should be ({wanted}), and from row {first_row} on there are {n_left} rows."
            )
        return n_rows

    def _place(self, name: str, first_row: int, n_rows: int) -> tuple[int | slice, ...]:
        """Where in the array `name` these rows are."""
        dims = schema.ROWS[name].dims
        return tuple(
            {schema.RANK: self.rank, schema.STEP: slice(first_row, first_row + n_rows)}.get(dim, slice(None))
            for dim in dims
        )

    def _write_group(self, group: str, names: list[str], values: np.ndarray) -> None:
        wanted = (self.layout.n_members, *self._array(group, names[0]).shape[1:], len(names))
        if values.shape != wanted:
            raise ValueError(f"{group} of shape {values.shape}: should be {wanted}, the last for {names}.")
        for index, name in enumerate(names):
            self._write(self._array(group, name), (self._chains(),), values[..., index])

    def _write(self, array: zarr.Array, where: tuple[Any, ...], values: np.ndarray) -> None:
        wanted = np.broadcast_to(False, array.shape)[where].shape
        if values.shape != wanted:
            raise ValueError(f"{array.path} of shape {values.shape}: should be {wanted}.")
        with self._safely():
            array[where] = values

    def _chains(self) -> slice:
        """Where in a group the chains of this replica are."""
        if self.replica is None:
            raise ValueError(f"Rank {self.rank} owns no chains. Make it a leader: RunWriter(path, rank, replica=...).")
        n_members = self.layout.n_members
        return slice(self.replica * n_members, (self.replica + 1) * n_members)

    @contextlib.contextmanager
    def _safely(self) -> Iterator[None]:
        if self._check is not None:
            self._check()
        advice = f"Its rows up to step {spaced(self.step)} are safe: open_run({str(self.path)!r}) reads them."
        try:
            with explained(f"Rank {self.rank} cannot write to `{self.path}`", advice):
                yield
        except ValueError as error:  # shapes have been checked, so it is what was written before
            raise ValueError(
                f"`{self.path}` is damaged, so that rank {self.rank} cannot write to it: {error}. `sagips verify` "
                "names all that is damaged: restore it from a copy and resume the run, or start the run again."
            ) from error
