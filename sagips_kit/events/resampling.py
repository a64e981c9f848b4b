"""Observed events, checked and resampled for each chain; nothing here knows networks."""

import functools
import math
from dataclasses import dataclass

import numpy as np
import torch

from .._partition import chunk_bounds
from .streams import Stream, numpy_stream

_TICKETS = 16  # chains that share one balanced resampling, at most


def check_events(problem, events):
    """The observed events as an array (event, observable), checked.

    Raises
    ------
    ValueError
        For a wrong number of columns, too few rows or numbers that are not finite; the text says where.
    """
    events = np.asarray(events)
    columns = ", ".join(problem.observables)
    name = type(problem).__name__
    if events.ndim != 2 or events.shape[1] != len(problem.observables) or events.dtype.kind not in "fiu":
        raise ValueError(
            f"Observed events of shape {events.shape} and type {events.dtype}: {name} needs numbers of shape (event, "
            f"observable), with the columns {columns}."
        )
    bad = ~np.isfinite(events).all(axis=1)
    if bad.any():
        raise ValueError(
            f"{bad.sum()} of {len(events)} observed events hold NaN or infinity, the first in row {bad.argmax()}. "
            f"Drop them: events = events[np.isfinite(events).all(axis=1)]."
        )
    if len(events) < 2:
        raise ValueError(f"{len(events)} observed events are too few for {name}.")
    return events


def balanced_resample(n_events, chain, n_chains, seed, *window):
    """How often each event is in the resample of one chain: (event,) of int.  Each window has a resample of its own.

    Each event hands out as many copies as there are chains (in blocks of 16 at most), each copy to a random chain: a
    bootstrap in which the resamples' mean is exactly the data, so their mean estimate carries no resampling noise.

    References
    ----------
    Davison, Hinkley and Schechtman, Biometrika 73 (1986) 555.
    """
    blocks = chunk_bounds(n_chains, math.ceil(n_chains / _TICKETS))
    first, stop = next(block for block in blocks if chain < block[1])
    return (_owners(n_events, stop - first, first, (seed, *window)) == chain - first).sum(axis=1)


@functools.lru_cache(maxsize=1)
def _owners(n_events, n_shared, first, seeds):
    """The chain that each copy of each event goes to: (event, copy)."""
    seed, *window = seeds
    rng = numpy_stream(seed, Stream.RESAMPLING, first, *window)
    return rng.integers(n_shared, size=(n_events, n_shared), dtype=np.uint8)


def prior_shifts(n_priors, chain, n_chains, seed):
    """By how many deviations one chain's priors are moved, (prior,): the resample of what is known beside the events.

    Over all chains the mean is 0, as the mean of their resamples is the data.
    """
    shifts = numpy_stream(seed, Stream.PRIOR_SHIFTS).normal(size=(n_chains, n_priors))
    return (shifts - shifts.mean(axis=0))[chain]


@dataclass(frozen=True)
class Resampling:
    """Which events each member of a rank learns from.

    Attributes
    ----------
    chains : range
        The members' chains.
    n_chains : int
        Of all ranks.
    seed : int
    bootstrap : bool
        Without it all members learn from all events.
    """

    chains: range
    n_chains: int
    seed: int
    bootstrap: bool

    def indices(self, n_events, *window):
        """The events of each member, in their order: list of Tensor (event,) of int."""
        every = torch.arange(n_events)
        if not self.bootstrap:
            return [every] * len(self.chains)
        copies = (balanced_resample(n_events, chain, self.n_chains, self.seed, *window) for chain in self.chains)
        return [torch.repeat_interleave(every, torch.as_tensor(each)) for each in copies]


def weights_of_categories(problem, events):
    """Weight of a simulated event of each category, (category,): simulated events have equal shares of them all."""
    counts = torch.bincount(problem.category(events), minlength=problem.n_categories)
    return problem.n_categories * counts / len(events)
