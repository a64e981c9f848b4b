"""The ring all-reduce of the paper's ARAR mode: neighbours only, one fused buffer, non-blocking messages.

A reduce-scatter followed by an all-gather moves 2 (n - 1) messages and twice the buffer's bytes per rank and step,
however many ranks there are.  Each chunk of the mean is computed once and copied around, so all ranks end with the same
bits.
"""

from ..settings import value
from ..topology import all_gather_steps, chunk_bounds, reduce_scatter_steps, ring_neighbours
from .base import Mixed
from .mean import Mean, MeanChannel

_TAG = 1  # any tag would take the notice of a failed rank for a chunk


@value
class Ring(Mean):
    """Mean over all ranks, passed around a ring (ARAR)."""

    def open(self, world, like):
        return _RingChannel(self, world, like)


class _RingChannel(MeanChannel):
    def mean(self, flat, step):
        rank, size = self.world.rank, self.world.size
        chunks = [flat[start:stop] for start, stop in chunk_bounds(flat.size, size)]
        incoming = self.scratch(max(chunk.size for chunk in chunks), flat.dtype)
        for sent, added in reduce_scatter_steps(rank, size):
            received = incoming[: chunks[added].size]
            yield self._pass_on(chunks[sent], received, step)
            chunks[added] += received
        for sent, received in all_gather_steps(rank, size):
            yield self._pass_on(chunks[sent], chunks[received], step)
        flat /= size
        return Mixed(received=size - 1)

    def _pass_on(self, outgoing, incoming, step):
        world = self.world
        before, after = ring_neighbours(world.rank, world.size)
        # One tag throughout: messages of one sender arrive in the order they were sent.
        requests = [
            world.comm.Irecv(incoming, source=before, tag=_TAG),
            world.comm.Isend(outgoing, dest=after, tag=_TAG),
        ]
        return requests, f"{world.name(before)}, before this one on the ring, in step {step}"
