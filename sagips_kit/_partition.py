"""Division of items into contiguous parts."""

import itertools


def chunk_bounds(n_items: int, n_chunks: int) -> list[tuple[int, int]]:
    """Bounds (start, stop) of `n_chunks` contiguous parts of `n_items`, whose lengths differ by at most one."""
    edges = [n_items * k // n_chunks for k in range(n_chunks + 1)]
    return list(itertools.pairwise(edges))
