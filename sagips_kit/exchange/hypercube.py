"""All-reduce along the edges of a hypercube (recursive doubling): few messages, each of the whole buffer."""

import numpy as np

from ..settings import value
from ..topology import hypercube_partners
from .base import Mixed
from .mean import Mean, MeanChannel

_TAG = 2


@value
class Hypercube(Mean):
    """Mean over all ranks in log2(n) exchanges of the whole buffer: for small buffers on networks of high latency."""

    def open(self, world, like):
        return _HypercubeChannel(self, world, like)


class _HypercubeChannel(MeanChannel):
    def mean(self, flat, step):
        comm, rank, size = self.world.comm, self.world.rank, self.world.size
        incoming = self.scratch(flat.size, flat.dtype)
        corner, partners = hypercube_partners(rank, size)
        if corner != rank:  # one rank too many for the cube: a corner stands for it
            yield [comm.Isend(flat, dest=corner, tag=_TAG)], self._why(corner, step)
            yield [comm.Irecv(flat, source=corner, tag=_TAG)], self._why(corner, step)
            return Mixed(received=size - 1)
        extra = [other for other in range(size) if other != rank and hypercube_partners(other, size)[0] == rank]
        for other in extra:
            yield [comm.Irecv(incoming, source=other, tag=_TAG)], self._why(other, step)
            flat += incoming
        for partner in partners:
            outgoing = flat.copy()
            receive = comm.Irecv(incoming, source=partner, tag=_TAG)
            yield [receive, comm.Isend(outgoing, dest=partner, tag=_TAG)], self._why(partner, step)
            # A sum of two has the same bits in either order, so all corners end with the same ones.
            np.add(flat, incoming, out=flat)
        flat /= size
        for other in extra:
            yield [comm.Isend(flat, dest=other, tag=_TAG)], self._why(other, step)
        return Mixed(received=size - 1)

    def _why(self, rank, step):
        return f"{self.world.name(rank)}, a neighbour on the hypercube, in step {step}"
