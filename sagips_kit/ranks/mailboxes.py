"""A slot per rank in memory that the others read: the newest buffer of each rank, and the step it belongs to.

A rank writes only its own slot and reads the others at any time; nobody waits.  A slot holds two buffers that are
written in turn.  Each has a count, which is changed before the buffer is: a reader that finds the same count before and
after reading has seen a single step.  Across nodes a reader copies whole slots in the background, and a checksum of
each buffer shows whether a single step has arrived.  How memory is allocated, which ranks to wait for and what the
buffers mean do not belong here.
"""

import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .memory import Bytes, FetchedMemory, Memory, NodeMemory

if TYPE_CHECKING:
    from mpi4py import MPI

# A header of int64: number of buffers published, whether the rank has left, and the count, step and checksum of each of
# the two buffers.
_N_HEADER = 8
_LATEST, _LEFT, _COUNT, _STEP, _CHECKSUM = 0, 1, 2, 4, 6


def slot_bytes(n_items: int, dtype: DTypeLike) -> int:
    """Bytes of memory of a slot for buffers of `n_items`."""
    n_bytes = n_items * np.dtype(dtype).itemsize
    return 8 * _N_HEADER + 2 * (-(-n_bytes // 64) * 64)


class Slots(ABC):
    """The slots of all ranks, as `rank` sees them.

    Parameters
    ----------
    memory : Memory
        `slot_bytes` bytes of each rank, filled with zeros.
    of_ranks : list of ndarray (byte,)
        The slot of each rank, or this rank's copy of it.
    rank : int
        This rank.
    n_items : int
        Length of the buffers.
    dtype : dtype
        Type of their numbers.
    """

    def __init__(self, memory: Memory, of_ranks: Sequence[Bytes], rank: int, n_items: int, dtype: DTypeLike) -> None:
        self.rank, self._memory = rank, memory
        self._n_bytes, self._dtype = n_items * np.dtype(dtype).itemsize, np.dtype(dtype)
        parts = [self._parts(slot) for slot in of_ranks]
        self._headers, self._buffers = [header for header, _ in parts], [buffers for _, buffers in parts]

    def _parts(self, slot: Bytes) -> tuple[NDArray[np.int64], list[NDArray]]:
        """A slot's header and its two buffers."""
        start = 8 * _N_HEADER
        length = (len(slot) - start) // 2
        buffers = [slot[start + k * length :][: self._n_bytes].view(self._dtype) for k in range(2)]
        return slot[:start].view(np.int64), buffers

    @abstractmethod
    def look(self) -> None:
        """Take in what the other ranks have published."""

    @abstractmethod
    def requests(self) -> "list[MPI.Request]":
        """The copies under way."""

    def publish(self, flat: NDArray, step: int) -> None:
        """Make `flat` (number,) the newest buffer of this rank."""
        header = self._headers[self.rank]
        count = int(header[_LATEST]) + 1
        which = count % 2
        # The count changes first, so that whoever still reads this buffer notices that it is overwritten.
        header[_COUNT + which] = count
        self._memory.fence()
        self._buffers[self.rank][which][:] = flat
        header[_STEP + which] = step
        self._seal(header, self._buffers[self.rank][which], count)
        self._memory.fence()
        header[_LATEST] = count

    @abstractmethod
    def _seal(self, header: NDArray[np.int64], buffer: NDArray, count: int) -> None:
        """Let readers recognise a complete buffer."""

    def leave(self) -> None:
        """Let the other ranks know that this one publishes no more buffers."""
        self._headers[self.rank][_LEFT] = 1
        self._memory.fence()

    def has_left(self, origin: int) -> bool:
        """Whether `origin` publishes no more buffers."""
        return bool(self._headers[origin][_LEFT])

    def count(self, origin: int) -> int:
        """Number of buffers that `origin` has published."""
        return int(self._headers[origin][_LATEST])

    def newest(self, origin: int) -> int | None:
        """Step of the newest buffer of `origin`; None if it has none, or has left."""
        header = self._headers[origin]
        count = int(header[_LATEST])
        return None if count == 0 or header[_LEFT] else int(header[_STEP + count % 2])

    def read(self, origin: int, use: Callable[[NDArray], object]) -> int | None:
        """Call `use` with the newest buffer of `origin`.

        Returns
        -------
        int or None
            Its step; None if it was overwritten in the meantime, so that the result of `use` must be discarded.
        """
        header = self._headers[origin]
        count = int(header[_LATEST])
        which = count % 2
        self._memory.fence()
        step = int(header[_STEP + which])
        use(self._buffers[origin][which])
        self._memory.fence()
        return step if header[_COUNT + which] == count else None

    def mean(self, origins: Sequence[int], out: NDArray) -> list[int]:
        """Write the mean of the newest buffers of `origins` to `out` (number,); returns their steps."""
        while (steps := self._sum(origins, out)) is None:
            pass  # a buffer was overwritten while it was read: start again with newer ones
        out /= len(origins)
        return steps

    def _sum(self, origins: Sequence[int], out: NDArray) -> list[int] | None:
        def add(buffer: NDArray) -> None:
            np.add(out, buffer, out=out)

        steps = []
        # All ranks add in the same order: those that read the same buffers get the same bits.
        for origin in origins:
            step = self.read(origin, add if steps else partial(np.copyto, out))
            if step is None:
                return None
            steps.append(step)
        return steps


class SharedSlots(Slots):
    """The slots of ranks on one node, all in memory that they share.

    Parameters
    ----------
    memory : NodeMemory
        `slot_bytes` bytes of each rank, filled with zeros.
    rank, size : int
        This rank, and the number of ranks.
    n_items : int
        Length of the buffers.
    dtype : dtype
        Type of their numbers.
    """

    def __init__(self, memory: NodeMemory, rank: int, size: int, n_items: int, dtype: DTypeLike) -> None:
        super().__init__(memory, memory.of_ranks[:size], rank, n_items, dtype)

    def look(self) -> None:
        pass  # a rank reads the slots themselves

    def requests(self) -> "list[MPI.Request]":
        return []

    def _seal(self, header: NDArray[np.int64], buffer: NDArray, count: int) -> None:
        pass  # its count is enough


class RemoteSlots(Slots):
    """The slots of ranks on any nodes: a rank keeps copies of the others, and fetches newer ones in the background.

    Parameters
    ----------
    memory : FetchedMemory
        `slot_bytes` bytes of each rank, filled with zeros.
    rank, size : int
        This rank, and the number of ranks.
    n_items : int
        Length of the buffers.
    dtype : dtype
        Type of their numbers.
    """

    def __init__(self, memory: FetchedMemory, rank: int, size: int, n_items: int, dtype: DTypeLike) -> None:
        own, others = memory.own, [origin for origin in range(size) if origin != rank]
        of_ranks = [own if origin == rank else np.zeros_like(own) for origin in range(size)]
        super().__init__(memory, of_ranks, rank, n_items, dtype)
        self._fetch = memory.fetch
        self._incoming = {origin: np.zeros_like(own) for origin in others}
        self._requests = {origin: self._fetch(origin, self._incoming[origin]) for origin in others}

    def look(self) -> None:
        for origin, request in self._requests.items():
            if request.Test():
                self._take(origin)
                self._requests[origin] = self._fetch(origin, self._incoming[origin])

    def requests(self) -> "list[MPI.Request]":
        return list(self._requests.values())

    def _seal(self, header: NDArray[np.int64], buffer: NDArray, count: int) -> None:
        header[_CHECKSUM + count % 2] = _checksum(header, buffer, count)

    def _take(self, origin: int) -> None:
        """Keep the newest complete buffer that was fetched from `origin`."""
        header, buffers = self._parts(self._incoming[origin])
        kept = self._headers[origin]
        kept[_LEFT] = header[_LEFT]
        latest = int(header[_COUNT : _COUNT + 2].max())
        for count in range(latest, max(int(kept[_LATEST]), latest - 2), -1):
            which = count % 2
            is_sealed = header[_CHECKSUM + which] == _checksum(header, buffers[which], count)
            if header[_COUNT + which] == count and is_sealed:
                self._buffers[origin][which][:] = buffers[which]
                kept[_COUNT + which], kept[_STEP + which], kept[_LATEST] = count, header[_STEP + which], count
                return


def _checksum(header: NDArray[np.int64], buffer: NDArray, count: int) -> int:
    """CRC-32 of a buffer, its count and its step."""
    # A plain sum would not do: parts of the buffers before and after can cancel in it.
    about = np.array([count, header[_STEP + count % 2]])
    return zlib.crc32(buffer.view(np.uint8).data, zlib.crc32(about.data))
