"""All-reduce along the edges of a hypercube (recursive doubling): few messages, each with the whole buffer."""

import torch

from .._value import value
from ..ranks.topology import hypercube_partners
from ..ranks.world import World
from .mean import Mean, MeanChannel
from .mixing import Mixed, Mixing, Wait

_TAG = 2


@value
class Hypercube(Mean):
    """Mean over all ranks in log2(n) exchanges of the whole buffer between pairs of ranks (recursive doubling).

    Choose this for small buffers on networks of high latency: a ring needs 2 (n - 1) messages, but sends fewer bytes.

    Parameters
    ----------
    payload : {"gradient", "weights", "updates"}
        What is averaged: gradients before the optimiser's step, weights after it, or the updates of the weights since
        the last exchange.  The mean update is not applied as it is, but by an outer optimiser, Nesterov's, which has a
        momentum (DiLoCo).
    momentum : float
        Momentum of the outer optimiser, from 0 to below 1; for updates only.
    outer_rate : float
        Learning rate of the outer optimiser; for updates only.  If the mean update stays the same, each exchange moves
        the weights by outer_rate / (1 - momentum) times this mean; by default the factor is 1.  Factors much larger
        than 1, such as the 0.7 / (1 - 0.9) of DiLoCo, take a GAN far away from its answer.
    precision : {"full", "bfloat16"}
        Floating-point precision of the messages.  "bfloat16" halves the bytes of float32 and rounds the numbers sent,
        with a relative error of up to 0.4 % each time; sums are formed in full precision.

    See Also
    --------
    Ring : The same mean with fewer bytes and more messages.
    Exponential : One message per step.

    References
    ----------
    Thakur, Rabenseifner and Gropp, Int. J. High Perform. Comput. Appl. 19 (2005) 49.
    DiLoCo: arXiv 2311.08105, algorithm 1.

    Examples
    --------
    >>> from sagips_kit import Every, Hypercube
    >>> Hypercube().n_replicas(8)
    1
    >>> mode = Every(100, Hypercube(payload="weights"))
    >>> [step for step in range(300) if mode.carries("weights", step)]
    [99, 199, 299]
    """

    def open(self, world: World, like: torch.Tensor) -> MeanChannel:
        return _HypercubeChannel(self, world, like)


class _HypercubeChannel(MeanChannel):
    def mean(self, flat: torch.Tensor, step: int) -> Mixing:
        comm, rank, size = self.world.communicator(), self.world.rank, self.world.size
        incoming = self.scratch(flat)
        corner, partners = hypercube_partners(rank, size)
        if corner != rank:  # beyond the largest power of two: the corner adds this rank's buffer to its own
            whom = self._whom(corner, step)
            yield Wait([comm.Isend(self.message(self.packed(flat)), dest=corner, tag=_TAG)], whom)
            yield Wait([comm.Irecv(self.message(incoming), source=corner, tag=_TAG)], whom)
            flat.copy_(incoming)
            return Mixed(received=size - 1)
        extra = [other for other in range(size) if other != rank and hypercube_partners(other, size)[0] == rank]
        for other in extra:
            yield Wait([comm.Irecv(self.message(incoming), source=other, tag=_TAG)], self._whom(other, step))
            flat += incoming
        for partner in partners:
            outgoing = self.packed(flat.clone())
            receive = comm.Irecv(self.message(incoming), source=partner, tag=_TAG)
            send = comm.Isend(self.message(outgoing), dest=partner, tag=_TAG)
            yield Wait([receive, send], self._whom(partner, step))
            # Both partners add the same two messages, and a + b has the bits of b + a: all corners get the same bits.
            flat.copy_(outgoing)
            flat += incoming
        flat /= size
        flat.copy_(result := self.packed(flat))
        for other in extra:
            yield Wait([comm.Isend(self.message(result), dest=other, tag=_TAG)], self._whom(other, step))
        return Mixed(received=size - 1)

    def _whom(self, rank: int, step: int) -> str:
        return f"{self.world.name(rank)} (its neighbour on the hypercube, step {step})"
