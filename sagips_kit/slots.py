"""One slot for each origin rank in memory that all of them see: the newest buffer of each, and the step it was made in.

A rank writes to its own slot only and reads the others' whenever it likes; nobody waits.  A slot holds two buffers that
are written in turn, each with a count that is changed before the buffer is: a reader that finds the same count before
and after has seen a single step.  Windows, ranks to wait for and what is done with the buffers do not belong here.
"""

from functools import partial

import numpy as np

_N_HEADER = 8  # int64: how many were published, has left, and for each of the two buffers its count and its step
_LATEST, _LEFT, _COUNT, _STEP = 0, 1, 2, 4


def slot_bytes(n_items, dtype):
    """Bytes of memory for a slot of buffers of `n_items`."""
    return 8 * _N_HEADER + 2 * _padded(n_items, dtype)


def _padded(n_items, dtype):
    return -(-n_items * np.dtype(dtype).itemsize // 64) * 64


class Slots:
    """The slots of all ranks, as `rank` sees them.

    Parameters
    ----------
    memory : list of ndarray of uint8
        Each rank's memory, zero at first, of `slot_bytes` bytes.
    fence : callable
        Called without arguments, it orders what was written before and after, and what was read.
    rank, n_items : int
    dtype : dtype
    """

    def __init__(self, memory, fence, rank, n_items, dtype):
        self.rank, self.size, self._fence = rank, len(memory), fence
        start, length = 8 * _N_HEADER, _padded(n_items, dtype)
        self._headers = [bytes_[:start].view(np.int64) for bytes_ in memory]
        self._buffers = [
            [bytes_[start + k * length :][: n_items * np.dtype(dtype).itemsize].view(dtype) for k in range(2)]
            for bytes_ in memory
        ]

    def publish(self, flat, step):
        """Make `flat` (number,) the newest buffer of this rank."""
        header = self._headers[self.rank]
        count = int(header[_LATEST]) + 1
        which = count % 2
        # Readers of the buffer before the last one are warned, and only then is it overwritten.
        header[_COUNT + which] = count
        self._fence()
        self._buffers[self.rank][which][:] = flat
        header[_STEP + which] = step
        self._fence()
        header[_LATEST] = count

    def leave(self):
        """Tell the others that no buffer will follow, and that they should do without the last one."""
        self._headers[self.rank][_LEFT] = 1
        self._fence()

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
        self._fence()
        step = int(header[_STEP + which])
        use(self._buffers[origin][which])
        self._fence()
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
