"""The one-peer exponential graph: each rank averages with one other per exchange, 1, 2, 4, ... ranks away in turn."""

from typing import Literal

from .._value import value
from ..ranks.topology import exponential_peers
from .base import Mixed
from .mean import Mean, MeanChannel

_TAG = 3


@value
class Exponential(Mean):
    """Half own weights and half those of a peer: one message per step, whatever the number of ranks.

    The mean over all ranks is conserved, and after log2(n) exchanges without training in between, where n is a power
    of two, all ranks have it.

    References
    ----------
    Ying et al., arXiv 2110.13363.
    """

    payload: Literal["weights"] = "weights"

    def open(self, world, like):
        return _ExponentialChannel(self, world, like)


class _ExponentialChannel(MeanChannel):
    def __init__(self, exchange, world, like):
        super().__init__(exchange, world, like)
        # Counted here: with Every(h, ...) the steps themselves may all be multiples of the period.
        self._n_mixed = 0

    def state_dict(self):
        return super().state_dict() | {"n_mixed": self._n_mixed}

    def load_state_dict(self, state):
        super().load_state_dict(state)
        self._n_mixed = int(state["n_mixed"])

    def mean(self, flat, step):
        comm, incoming, outgoing = self.world.comm, self.scratch(flat), self.packed(flat.clone())
        source, dest = exponential_peers(self.world.rank, self.world.size, self._n_mixed)
        self._n_mixed += 1
        receive = comm.Irecv(self.message(incoming), source=source, tag=_TAG)
        send = comm.Isend(self.message(outgoing), dest=dest, tag=_TAG)
        yield [receive, send], f"{self.world.name(source)}, whose turn it is, in step {step}"
        flat += incoming
        flat /= 2
        return Mixed(received=1)
