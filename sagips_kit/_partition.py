"""Cutting a number of items into contiguous pieces."""

import itertools


def chunk_bounds(n_items, n_chunks):
    """Cut `n_items` into `n_chunks` contiguous pieces whose lengths differ by one at most: list of (start, stop)."""
    edges = [n_items * k // n_chunks for k in range(n_chunks + 1)]
    return list(itertools.pairwise(edges))
