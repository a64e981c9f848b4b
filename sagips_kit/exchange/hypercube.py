"""All-reduce along the edges of a hypercube (recursive doubling): few messages, each of the whole buffer."""

from .._value import value
from ..ranks.topology import hypercube_partners
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
        incoming = self.scratch(flat)
        corner, partners = hypercube_partners(rank, size)
        if corner != rank:  # one rank too many for the cube: a corner stands for it
            yield [comm.Isend(self.message(self.packed(flat)), dest=corner, tag=_TAG)], self._why(corner, step)
            yield [comm.Irecv(self.message(incoming), source=corner, tag=_TAG)], self._why(corner, step)
            flat.copy_(incoming)
            return Mixed(received=size - 1)
        extra = [other for other in range(size) if other != rank and hypercube_partners(other, size)[0] == rank]
        for other in extra:
            yield [comm.Irecv(self.message(incoming), source=other, tag=_TAG)], self._why(other, step)
            flat += incoming
        for partner in partners:
            outgoing = self.packed(flat.clone())
            receive = comm.Irecv(self.message(incoming), source=partner, tag=_TAG)
            send = comm.Isend(self.message(outgoing), dest=partner, tag=_TAG)
            yield [receive, send], self._why(partner, step)
            # Both add the same two messages, whose sum has the same bits in either order: so all corners agree.
            flat.copy_(outgoing)
            flat += incoming
        flat /= size
        flat.copy_(handed := self.packed(flat))
        for other in extra:
            yield [comm.Isend(self.message(handed), dest=other, tag=_TAG)], self._why(other, step)
        return Mixed(received=size - 1)

    def _why(self, rank, step):
        return f"{self.world.name(rank)}, a neighbour on the hypercube, in step {step}"
