"""Division of items into contiguous parts."""

import itertools
import math

_MOST_TOGETHER = 16


def chunk_bounds(n_items: int, n_chunks: int) -> list[tuple[int, int]]:
    """Bounds (start, stop) of `n_chunks` contiguous parts of `n_items`, whose lengths differ by at most one."""
    edges = [n_items * k // n_chunks for k in range(n_chunks + 1)]
    return list(itertools.pairwise(edges))


def resampling_blocks(n_chains: int) -> list[tuple[int, int]]:
    """Bounds (start, stop) of the chains among which events are resampled together, at most 16 of them."""
    return chunk_bounds(n_chains, math.ceil(n_chains / _MOST_TOGETHER))
