"""The mean of all ranks' buffers in memory that they share: each rank puts its buffer, sums one chunk, gets the mean.

The chunks and the order of the sums are those of a ring of messages, so both give the same bits; but a rank waits only
twice, until all buffers are there and until all chunks are summed.  How memory is allocated and how a rank waits do not
belong here.
"""

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .._partition import chunk_bounds
from .memory import NodeMemory

_N_HEADER = 8  # int64, one cache line: number of buffers that the rank has put, and of chunks that it has summed
_PUT, _REDUCED = 0, 1


def shared_mean_bytes(n_items: int, dtype: DTypeLike) -> int:
    """Bytes of memory per rank for the mean of buffers of `n_items`."""
    return 8 * _N_HEADER + 2 * n_items * np.dtype(dtype).itemsize


class SharedMean:
    """One rank's view of the mean.  Every rank calls `put`, `reduce` and `get` in turn.

    Parameters
    ----------
    memory : NodeMemory
        `shared_mean_bytes` bytes of each rank, filled with zeros.
    rank : int
        This rank.
    size : int
        Number of ranks, at least 2.
    n_items : int
        Length of the buffers.
    dtype : dtype
        Type of their numbers.
    """

    def __init__(self, memory: NodeMemory, rank: int, size: int, n_items: int, dtype: DTypeLike) -> None:
        start, n_bytes = 8 * _N_HEADER, n_items * np.dtype(dtype).itemsize
        self._memory, self._headers = memory, [part[:start].view(np.int64) for part in memory.of_ranks]
        buffers, sums = (
            [part[first : first + n_bytes].view(dtype) for part in memory.of_ranks]
            for first in (start, start + n_bytes)
        )
        chunks = [slice(*bounds) for bounds in chunk_bounds(n_items, size)]
        self._own_header, self._own_buffer = self._headers[rank], buffers[rank]
        # A ring passes chunk k + 1 through ranks k + 1, k + 2, ... and ends at rank k.
        own = (rank + 1) % size
        self._to_sum = [buffers[(own + k) % size][chunks[own]] for k in range(size)]
        self._own_sum = sums[rank][chunks[own]]
        self._to_get = [(chunks[(owner + 1) % size], sums[owner]) for owner in range(size)]
        self._count, self._size = 0, size

    def put(self, flat: NDArray) -> None:
        """Make `flat` (number,) visible to the other ranks."""
        # Nobody reads the previous buffer any more: this rank has waited until all had summed their chunks.
        self._count += 1
        self._own_buffer[:] = flat
        self._memory.fence()
        self._own_header[_PUT] = self._count

    def are_all_put(self) -> bool:
        """Whether all ranks have put their buffers."""
        return self._have_all_reached(_PUT)

    def reduce(self) -> None:
        """Sum this rank's chunk of all buffers."""
        # Nobody reads the previous sums any more: all ranks have got their mean, and put their next buffer since.
        self._memory.fence()
        np.add(self._to_sum[0], self._to_sum[1], out=self._own_sum)
        for chunk in self._to_sum[2:]:
            self._own_sum += chunk
        self._memory.fence()
        self._own_header[_REDUCED] = self._count

    def are_all_reduced(self) -> bool:
        """Whether all ranks have summed their chunks."""
        return self._have_all_reached(_REDUCED)

    def get(self, out: NDArray) -> None:
        """Write the mean to `out` (number,)."""
        self._memory.fence()
        for chunk, sums in self._to_get:
            out[chunk] = sums[chunk]
        out /= self._size

    def late(self) -> list[int]:
        """The ranks that are furthest behind."""
        done = [int(header[_PUT] + header[_REDUCED]) for header in self._headers]
        return [rank for rank, count in enumerate(done) if count == min(done)]

    def close(self) -> None:
        """Free the memory.  Collective."""
        self._memory.close()

    def _have_all_reached(self, which: int) -> bool:
        return all(header[which] >= self._count for header in self._headers)
