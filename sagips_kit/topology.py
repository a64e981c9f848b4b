"""Who talks to whom, as pure functions of rank and size; no messages, no MPI."""

import itertools


def ring_neighbours(rank, size):
    """The ranks before and after `rank` on a ring of `size`."""
    return (rank - 1) % size, (rank + 1) % size


def chunk_bounds(n_items, n_chunks):
    """Cut `n_items` into `n_chunks` contiguous pieces whose lengths differ by one at most: list of (start, stop)."""
    edges = [n_items * k // n_chunks for k in range(n_chunks + 1)]
    return list(itertools.pairwise(edges))


def reduce_scatter_steps(rank, size):
    """The chunk to send and the chunk to add in each of the size - 1 steps: after them `rank` owns chunk rank + 1."""
    return [((rank - k) % size, (rank - k - 1) % size) for k in range(size - 1)]


def all_gather_steps(rank, size):
    """The chunk to send and the chunk to receive in each of the size - 1 steps that hand the owned chunks around."""
    return [((rank + 1 - k) % size, (rank - k) % size) for k in range(size - 1)]
