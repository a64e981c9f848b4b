"""Who talks to whom, as pure functions of rank and size; no messages, no MPI."""


def ring_neighbours(rank, size):
    """The ranks before and after `rank` on a ring of `size`."""
    return (rank - 1) % size, (rank + 1) % size


def reduce_scatter_steps(rank, size):
    """The chunk to send and the chunk to add in each of the size - 1 steps: after them `rank` owns chunk rank + 1."""
    return [((rank - k) % size, (rank - k - 1) % size) for k in range(size - 1)]


def all_gather_steps(rank, size):
    """The chunk to send and the chunk to receive in each of the size - 1 steps that hand the owned chunks around."""
    return [((rank + 1 - k) % size, (rank - k) % size) for k in range(size - 1)]


def groups(size, group_size):
    """Cut `size` ranks into groups of `group_size` consecutive ones, the last perhaps smaller: list of tuple."""
    return [tuple(range(first, min(first + group_size, size))) for first in range(0, size, group_size)]


def numbered(labels):
    """Labels of ranks as numbers from 0, in the order in which they first appear: tuple of int."""
    numbers = {}
    return tuple(numbers.setdefault(label, len(numbers)) for label in labels)


def joined(partitions):
    """The finest partition of the ranks that keeps together what any of `partitions` keeps together.

    Parameters
    ----------
    partitions : list of (tuple of int, or None)
        A label for each rank; None for a partition that is not known.

    Returns
    -------
    tuple of int, or None
        None if it is not known, since a partition is not and the others leave more than one class.
    """
    known = [labels for labels in partitions if labels is not None]
    if not known:
        return None
    root = list(range(len(known[0])))
    for labels in known:
        first = {}
        for rank, label in enumerate(labels):
            a, b = _root_of(root, rank), _root_of(root, first.setdefault(label, rank))
            root[max(a, b)] = min(a, b)
    result = numbered(_root_of(root, rank) for rank in range(len(root)))
    return result if len(known) == len(partitions) or not any(result) else None


def _root_of(root, rank):
    while root[rank] != rank:
        rank = root[rank]
    return rank


def hypercube_partners(rank, size):
    """The corner of the largest hypercube that stands for `rank`, and its neighbours: int, list of int."""
    n_corners = 1 << (size.bit_length() - 1)
    corner = rank % n_corners
    return corner, [corner ^ (1 << k) for k in range(n_corners.bit_length() - 1)]


def exponential_peers(rank, size, turn):
    """The ranks to receive from and to send to: 1, 2, 4, ... away in turn."""
    distance = 1 << (turn % max(1, (size - 1).bit_length()))
    return (rank - distance) % size, (rank + distance) % size
