"""A mean in memory that all ranks see: each brings its buffer, adds up its share of all, and collects the others'.

The shares and the order of the sums are those of a ring of messages, so both give the same bits; but nobody waits for
more than two things, that all have brought their buffers and that all have added up their shares.  Windows, and how a
rank waits, do not belong here.
"""

import numpy as np

from .._partition import chunk_bounds

_N_HEADER = 8  # int64, a cache line: how many buffers a rank has brought, and how many shares it has added up
_BROUGHT, _ADDED = 0, 1


def meeting_bytes(n_items, dtype):
    """Bytes of memory that each rank brings to a meeting about buffers of `n_items`."""
    return 8 * _N_HEADER + 2 * n_items * np.dtype(dtype).itemsize


class Meeting:
    """The meeting of all ranks, as `rank` sees it.  Every rank calls `bring`, `add_up` and `collect` in turn.

    Parameters
    ----------
    memory : SharedMemory
        Of `meeting_bytes` bytes of each rank.
    rank, size, n_items : int
    dtype : dtype
    """

    def __init__(self, memory, rank, size, n_items, dtype):
        start, n_bytes = 8 * _N_HEADER, n_items * np.dtype(dtype).itemsize
        self._memory, self._headers = memory, [part[:start].view(np.int64) for part in memory.of_ranks]
        buffers, sums = (
            [part[first : first + n_bytes].view(dtype) for part in memory.of_ranks]
            for first in (start, start + n_bytes)
        )
        shares = [slice(*bounds) for bounds in chunk_bounds(n_items, size)]
        self._own_header, self._own_buffer = self._headers[rank], buffers[rank]
        # A ring hands share k + 1 to rank k in the end, after it has passed ranks k + 1, k + 2, ...
        mine = (rank + 1) % size
        self._to_add = [buffers[(mine + k) % size][shares[mine]] for k in range(size)]
        self._own_sum = sums[rank][shares[mine]]
        self._to_collect = [(shares[(owner + 1) % size], sums[owner]) for owner in range(size)]
        self._count = 0

    def bring(self, flat):
        """Show `flat` (number,) to the others."""
        # All have taken the last sums home, or they would not have been followed by this rank's.
        self._count += 1
        self._own_buffer[:] = flat
        self._memory.fence()
        self._own_header[_BROUGHT] = self._count

    def all_brought(self):
        """Whether all ranks have brought their buffers."""
        return self._is_reached(_BROUGHT)

    def add_up(self):
        """Add up this rank's share of all buffers."""
        self._memory.fence()
        np.add(self._to_add[0], self._to_add[1], out=self._own_sum)
        for share in self._to_add[2:]:
            self._own_sum += share
        self._memory.fence()
        self._own_header[_ADDED] = self._count

    def all_added(self):
        """Whether all ranks have added up their shares."""
        return self._is_reached(_ADDED)

    def collect(self, out):
        """Write the sums to `out` (number,)."""
        self._memory.fence()
        for share, sums in self._to_collect:
            out[share] = sums[share]

    def late(self):
        """The ranks that this one waits for, list of int."""
        done = [int(header[_BROUGHT] + header[_ADDED]) for header in self._headers]
        return [rank for rank, count in enumerate(done) if count == min(done)]

    def _is_reached(self, which):
        return all(header[which] >= self._count for header in self._headers)
