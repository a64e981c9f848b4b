"""Division of items into contiguous parts."""

import itertools
import math


def chunk_bounds(n_items: int, n_chunks: int) -> list[tuple[int, int]]:
    """Bounds (start, stop) of `n_chunks` contiguous parts of `n_items`, whose lengths differ by at most one."""
    edges = [n_items * k // n_chunks for k in range(n_chunks + 1)]
    return list(itertools.pairwise(edges))


def is_witness(chain: int, n_chains: int) -> bool:
    """Whether a chain begins away from the fit: the last quarter of all, and none if there is one chain only."""
    return n_chains > 1 and chain >= n_chains - math.ceil(n_chains / 4)
