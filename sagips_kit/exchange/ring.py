"""The ring all-reduce of the paper's ARAR mode: neighbours only, one fused buffer, non-blocking messages.

A reduce-scatter followed by an all-gather moves 2 (n - 1) messages and twice the buffer's bytes per rank and step,
however many ranks there are.  Each chunk of the mean is computed once and copied around, so all ranks end with the same
bits.
"""

import numpy as np

from ..settings import value
from ..topology import all_gather_steps, chunk_bounds, reduce_scatter_steps, ring_neighbours
from .base import Channel, Exchange, Mixed

_TAG = 1  # any tag would take the notice of a failed rank for a chunk


@value
class Ring(Exchange):
    """Mean of the generator's gradient over all ranks, passed around a ring (ARAR)."""

    def open(self, world, like):
        return _RingChannel(world, like)

    def replica(self, rank, size):
        return 0


class _RingChannel(Channel):
    def __init__(self, world, like):
        super().__init__(world, like)
        self._bounds = chunk_bounds(like.numel(), world.size)
        longest = max(stop - start for start, stop in self._bounds)
        self._incoming = np.empty(longest, dtype=like.detach().cpu().numpy().dtype)

    def _mix(self, flat, step):
        rank, size = self.world.rank, self.world.size
        waited_s = 0.0
        for sent, added in reduce_scatter_steps(rank, size):
            chunk = self._chunk(flat, added)
            incoming = self._incoming[: chunk.size]
            waited_s += self._pass_on(self._chunk(flat, sent), incoming, step)
            chunk += incoming
        for sent, received in all_gather_steps(rank, size):
            waited_s += self._pass_on(self._chunk(flat, sent), self._chunk(flat, received), step)
        flat /= size
        return Mixed(received=size - 1, waited_s=waited_s)

    def _chunk(self, flat, index):
        start, stop = self._bounds[index]
        return flat[start:stop]

    def _pass_on(self, outgoing, incoming, step):
        before, after = ring_neighbours(self.world.rank, self.world.size)
        comm = self.world.comm
        # One tag throughout: messages of one sender arrive in the order they were sent.
        requests = [comm.Irecv(incoming, source=before, tag=_TAG), comm.Isend(outgoing, dest=after, tag=_TAG)]
        return self.world.wait(requests, f"rank {before}, before this one on the ring, in step {step}")
