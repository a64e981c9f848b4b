"""One slot for each origin rank in memory that the others read: the newest buffer of each, and the step it was made in.

A rank writes to its own slot only and reads the others' whenever it likes; nobody waits.  A slot holds two buffers that
are written in turn, each with a count that is changed before the buffer is: a reader that finds the same count before
and after has seen a single step.  Across nodes a reader fetches whole slots in the background, and a checksum of each
buffer tells whether a single step arrived.  Windows, ranks to wait for and what is done with the buffers do not belong
here.
"""

import zlib
from functools import partial

import numpy as np

_N_HEADER = 8  # int64: how many were published, has left, and for each of the two buffers its count, step and checksum
_LATEST, _LEFT, _COUNT, _STEP, _CHECKSUM = 0, 1, 2, 4, 6


def slot_bytes(n_items, dtype):
    """Bytes of memory for a slot of buffers of `n_items`."""
    return 8 * _N_HEADER + 2 * _padded(n_items, dtype)


def _padded(n_items, dtype):
    return -(-n_items * np.dtype(dtype).itemsize // 64) * 64


class Slots:
    """The slots of all ranks on one node, as `rank` sees them.

    Parameters
    ----------
    memory : SharedMemory
        Of `slot_bytes` bytes of each rank.
    rank, size, n_items : int
    dtype : dtype
    """

    def __init__(self, memory, rank, size, n_items, dtype):
        self.rank, self.size, self._memory = rank, size, memory
        self._n_bytes, self._dtype = n_items * np.dtype(dtype).itemsize, dtype
        self._headers, self._buffers = zip(*map(self._parts, self._of_ranks()), strict=True)

    def _of_ranks(self):
        return self._memory.of_ranks

    def _parts(self, bytes_):
        """A slot's header and its two buffers."""
        start = 8 * _N_HEADER
        length = (len(bytes_) - start) // 2
        buffers = [bytes_[start + k * length :][: self._n_bytes].view(self._dtype) for k in range(2)]
        return bytes_[:start].view(np.int64), buffers

    def look(self):
        """Take notice of what the others have published."""

    def under_way(self):
        """Requests for what is being fetched, list."""
        return []

    def publish(self, flat, step):
        """Make `flat` (number,) the newest buffer of this rank."""
        header = self._headers[self.rank]
        count = int(header[_LATEST]) + 1
        which = count % 2
        # Readers of the buffer before the last one are warned, and only then is it overwritten.
        header[_COUNT + which] = count
        self._memory.fence()
        self._buffers[self.rank][which][:] = flat
        header[_STEP + which] = step
        self._seal(header, self._buffers[self.rank][which], count)
        self._memory.fence()
        header[_LATEST] = count

    def _seal(self, header, buffer, count):
        """Let readers recognise a complete buffer; on one node its count is enough."""

    def leave(self):
        """Tell the others that no buffer will follow."""
        self._headers[self.rank][_LEFT] = 1
        self._memory.fence()

    def has_left(self, origin):
        """Whether no buffer of `origin` will follow."""
        return bool(self._headers[origin][_LEFT])

    def count(self, origin):
        """Buffers that `origin` has published so far."""
        return int(self._headers[origin][_LATEST])

    def newest(self, origin):
        """Step of the newest buffer of `origin`: int; None if it has none, or has left."""
        header = self._headers[origin]
        count = int(header[_LATEST])
        return None if count == 0 or header[_LEFT] else int(header[_STEP + count % 2])

    def read(self, origin, use):
        """Let `use` look at the newest buffer of `origin`.

        Returns
        -------
        int or None
            Its step; None if it was overwritten meanwhile, so that what `use` saw is worth nothing.
        """
        header = self._headers[origin]
        count = int(header[_LATEST])
        which = count % 2
        self._memory.fence()
        step = int(header[_STEP + which])
        use(self._buffers[origin][which])
        self._memory.fence()
        return step if header[_COUNT + which] == count else None

    def mean(self, origins, out):
        """Write the mean of the newest buffers of `origins` to `out`; returns their steps, list of int."""
        while (steps := self._add_up(origins, out)) is None:
            pass  # a buffer was overwritten while it was read: all over again, with newer ones
        out /= len(origins)
        return steps

    def _add_up(self, origins, out):
        def add(buffer):
            np.add(out, buffer, out=out)

        steps = []
        # In the same order on all ranks: those who see the same buffers get the same bits.
        for origin in origins:
            steps.append(self.read(origin, add if steps else partial(np.copyto, out)))
            if steps[-1] is None:
                return None
        return steps


class RemoteSlots(Slots):
    """The slots of ranks on any nodes: a rank has copies of the others', and fetches newer ones in the background.

    Parameters
    ----------
    memory : RemoteMemory
        Of `slot_bytes` bytes of each rank.
    rank, size, n_items : int
    dtype : dtype
    """

    def __init__(self, memory, rank, size, n_items, dtype):
        super().__init__(memory, rank, size, n_items, dtype)
        others = [origin for origin in range(size) if origin != rank]
        self._incoming = {origin: np.zeros_like(memory.own) for origin in others}
        self._requests = {origin: memory.fetch(origin, self._incoming[origin]) for origin in others}

    def _of_ranks(self):
        own = self._memory.own
        return [own if origin == self.rank else np.zeros_like(own) for origin in range(self.size)]

    def look(self):
        for origin, request in self._requests.items():
            if request.Test():
                self._take(origin)
                self._requests[origin] = self._memory.fetch(origin, self._incoming[origin])

    def under_way(self):
        return list(self._requests.values())

    def _seal(self, header, buffer, count):
        header[_CHECKSUM + count % 2] = _checksum(header, buffer, count)

    def _take(self, origin):
        """Keep the newest complete buffer that was fetched from `origin`."""
        header, buffers = self._parts(self._incoming[origin])
        kept = self._headers[origin]
        kept[_LEFT] = header[_LEFT]
        latest = int(header[_COUNT : _COUNT + 2].max())
        for count in range(latest, max(int(kept[_LATEST]), latest - 2), -1):
            which = count % 2
            if header[_COUNT + which] == count and header[_CHECKSUM + which] == _checksum(
                header, buffers[which], count
            ):
                self._buffers[origin][which][:] = buffers[which]
                kept[_COUNT + which], kept[_STEP + which], kept[_LATEST] = count, header[_STEP + which], count
                return


def _checksum(header, buffer, count):
    """CRC-32 of a buffer, its count and its step, which part of another buffer would change."""
    # Not a plain sum: parts of the buffers before and after can make up for each other in it.
    return zlib.crc32(buffer.view(np.uint8), zlib.crc32(np.array([count, header[_STEP + count % 2]])))
