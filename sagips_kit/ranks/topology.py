"""Which ranks communicate, as pure functions of rank and number of ranks; no messages, no MPI."""

from collections.abc import Hashable, Iterable, Sequence

Partition = tuple[int, ...]  # for each rank, the number of the class that it belongs to


def ring_neighbours(rank: int, size: int) -> tuple[int, int]:
    """The ranks before and after `rank` on a ring of `size`."""
    return (rank - 1) % size, (rank + 1) % size


def reduce_scatter_steps(rank: int, size: int) -> list[tuple[int, int]]:
    """The chunk to send and the chunk to add in each of the size - 1 steps, after which `rank` owns chunk rank + 1."""
    return [((rank - k) % size, (rank - k - 1) % size) for k in range(size - 1)]


def all_gather_steps(rank: int, size: int) -> list[tuple[int, int]]:
    """The chunk to send and the chunk to receive in each of the size - 1 steps that pass the owned chunks around."""
    return [((rank + 1 - k) % size, (rank - k) % size) for k in range(size - 1)]


def groups(size: int, group_size: int) -> list[tuple[int, ...]]:
    """Divide `size` ranks into groups of `group_size` consecutive ones; the last group may be smaller."""
    return [tuple(range(first, min(first + group_size, size))) for first in range(0, size, group_size)]


def numbered(labels: Iterable[Hashable]) -> Partition:
    """The labels of ranks as numbers from 0, in the order in which they first occur."""
    numbers: dict[Hashable, int] = {}
    return tuple(numbers.setdefault(label, len(numbers)) for label in labels)


def joined(partitions: Sequence[Partition | None]) -> Partition | None:
    """The finest partition of the ranks in which those that any of `partitions` keeps together stay together.

    Parameters
    ----------
    partitions : list of (tuple of int, or None)
        A label for each rank; None for an unknown partition.

    Returns
    -------
    tuple of int, or None
        None if the result is unknown: one of the partitions is, and the others leave more than one class.
    """
    known = [labels for labels in partitions if labels is not None]
    if not known:
        return None
    root = list(range(len(known[0])))
    for labels in known:
        first: dict[int, int] = {}
        for rank, label in enumerate(labels):
            a, b = _root_of(root, rank), _root_of(root, first.setdefault(label, rank))
            root[max(a, b)] = min(a, b)
    result = numbered(_root_of(root, rank) for rank in range(len(root)))
    return result if len(known) == len(partitions) or not any(result) else None


def _root_of(root: Sequence[int], rank: int) -> int:
    while root[rank] != rank:
        rank = root[rank]
    return rank


def hypercube_partners(rank: int, size: int) -> tuple[int, list[int]]:
    """The corner of the largest hypercube that represents `rank`, and this corner's neighbours."""
    n_corners = 1 << (size.bit_length() - 1)
    corner = rank % n_corners
    return corner, [corner ^ (1 << k) for k in range(n_corners.bit_length() - 1)]


def exponential_peers(rank: int, size: int, turn: int) -> tuple[int, int]:
    """The ranks to receive from and to send to: at distance 1, 2, 4, ... in successive turns."""
    distance = 1 << (turn % max(1, (size - 1).bit_length()))
    return (rank - distance) % size, (rank + distance) % size
