"""Observed events, checked and resampled for each chain; nothing here knows networks or files."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from .._partition import resampling_blocks
from .entries import EntryError, as_floats, is_beyond, is_blurred
from .streams import Stream, numpy_stream

if TYPE_CHECKING:
    from ..problems.base import Problem


def check_events(problem: "Problem", events: ArrayLike | Tensor) -> NDArray[Any]:
    """The observed events as an array (event, observable), checked.

    Raises
    ------
    ValueError
        For a wrong number of columns, too few rows, or entries that are not finite numbers that single precision can
        hold; the message says where.
    """
    mask = np.ma.getmaskarray(events) if isinstance(events, np.ma.MaskedArray) else np.zeros(1, bool)
    events = np.ascontiguousarray(np.ma.getdata(events))  # torch takes no reversed views
    columns = ", ".join(problem.observables)
    name = type(problem).__name__
    if events.ndim != 2 or events.shape[1] != len(problem.observables) or events.dtype.kind not in "fiu":
        raise ValueError(
            f"Observed events of shape {events.shape} and type {events.dtype}: {name} needs numbers of shape (event, "
            f"observable), with the columns {columns}."
        )
    if mask.any():
        rows = mask.any(axis=1)
        raise ValueError(
            f"{rows.sum()} of {len(events)} observed events are masked, the first in row {rows.argmax()}. Drop them: "
            "events = numpy.ma.compress_rows(events)."
        )
    if not np.isfinite(events).all():
        bad = ~np.isfinite(events).all(axis=1)
        raise ValueError(
            f"{bad.sum()} of {len(events)} observed events hold NaN or infinity, the first in row {bad.argmax()}. "
            f"Drop them: events = events[np.isfinite(events).all(axis=1)]."
        )
    # What has at most single precision is not too large for it.
    large = [] if events.dtype.kind == "f" and events.itemsize <= 4 else zip(problem.observables, events.T, strict=True)
    for observable, column in large:
        try:
            is_bad = is_beyond(as_floats(column))
        except EntryError as error:
            raise ValueError(f"{observable}: row {error.row} of the observed events {error}. {error.advice}") from None
        if is_bad.any():
            row = is_bad.argmax()
            raise ValueError(
                f"{observable}: row {row} of the observed events, {column[row]:g}, is too large for single precision, "
                "in which events are simulated. Use larger units."
            )
    if len(events) < 2:
        raise ValueError(f"{name} needs at least 2 observed events, and got {len(events)}.")
    return events


def require_resolution(problem: "Problem", events: NDArray[Any]) -> None:
    """Raise ValueError if single precision, in which networks are trained, blurs an observable.

    Parameters
    ----------
    problem : Problem
        Names the observables.
    events : ndarray (event, observable)
        Checked events.
    """
    for k, name in enumerate(problem.observables):
        column = events[:, k].astype(np.float64)
        if is_blurred(column):
            middle = f"{np.median(column):.6g}"
            raise ValueError(
                f"{name}: the observed events lie around {middle} within {np.std(column):.2g}, which single precision "
                f"does not resolve. Subtract a number, as in Observed(..., columns=('{name} - {middle}', ...)), or use "
                "other units; and change the problem in the same way."
            )


def balanced_resample(
    n_events: int, chain: int, n_chains: int, seed: int, window: int | None = None
) -> NDArray[np.int64]:
    """How many copies of each event the resample of one chain holds: (event,) of int.

    Each event is copied once for each chain (in blocks of at most 16 chains), and each copy goes to a random chain.
    This is a bootstrap in which the mean over all resamples is exactly the data, so that the mean of the chains'
    estimates has no noise from resampling.

    Parameters
    ----------
    n_events : int
        Number of observed events.
    chain : int
        Which chain, from 0 to n_chains - 1.
    n_chains : int
        Number of chains of all ranks.
    seed : int
        The same for all chains.
    window : int or None
        Which window, from 0 on, if the events are one window of a larger file: each has resamples of its own.

    References
    ----------
    Davison, Hinkley and Schechtman, Biometrika 73 (1986) 555.
    """
    first, stop = next(block for block in resampling_blocks(n_chains) if chain < block[1])
    index = 0 if window is None else 1 + window
    return (_owners(n_events, stop - first, first, seed, index) == chain - first).sum(axis=1)


@functools.lru_cache(maxsize=1)
def _owners(n_events: int, n_shared: int, first: int, seed: int, window: int) -> NDArray[np.uint8]:
    """The chain that each copy of each event goes to: (event, copy)."""
    rng = numpy_stream(seed, Stream.RESAMPLING, first, window)
    return rng.integers(n_shared, size=(n_events, n_shared), dtype=np.uint8)


def shifts_of_external(n_values: int, chain: int, n_chains: int, seed: int) -> NDArray[np.float64]:
    """Shifts of one chain's priors and measurements in standard deviations, (value,): the resample of such knowledge.

    Their mean over all chains is 0, just as the mean of the resamples is the data.
    """
    shifts = numpy_stream(seed, Stream.PRIOR_SHIFTS).normal(size=(n_chains, n_values))
    return (shifts - shifts.mean(axis=0))[chain]


@dataclass(frozen=True)
class Resampling:
    """Which events each member of a rank is trained on.

    Attributes
    ----------
    chains : sequence of int
        The chain of each member.
    n_chains : int
        Number of chains of all ranks.
    seed : int
        The same on all ranks.
    bootstrap : bool
        Whether each chain has a resample of its own; else all members are trained on the events as they are.
    """

    chains: Sequence[int]
    n_chains: int
    seed: int
    bootstrap: bool

    def indices(self, n_events: int, window: int | None = None) -> list[Tensor]:
        """Indices of each member's events, or of those in a window, in rising order: list of Tensor (event,) of int."""
        every = torch.arange(n_events)
        if not self.bootstrap:
            return [every] * len(self.chains)
        copies = (balanced_resample(n_events, chain, self.n_chains, self.seed, window) for chain in self.chains)
        return [torch.repeat_interleave(every, torch.as_tensor(each)) for each in copies]


def weights_of_categories(problem: "Problem", events: Tensor) -> Tensor:
    """Weight of a simulated event of each category, (category,): its observed share over the equal simulated one."""
    counts = torch.bincount(problem.category(events), minlength=problem.n_categories)
    return problem.n_categories * counts / len(events)
