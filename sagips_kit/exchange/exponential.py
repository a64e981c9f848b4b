"""The one-peer exponential graph: each rank averages with one other per exchange, at distance 1, 2, 4, ... in turn."""

from collections.abc import Mapping
from typing import Any, Literal

import torch

from .._value import value
from ..ranks.topology import exponential_peers
from ..ranks.world import World
from .mean import Mean, MeanChannel
from .mixing import Mixed, Mixing, Wait

_TAG = 3


@value
class Exponential(Mean):
    """Each rank averages its weights with those of one other rank, at distance 1, 2, 4, ... in successive exchanges.

    A rank sends one message per exchange, whatever the number n of ranks.  The mean over all ranks is conserved.  If n
    is a power of two, all ranks hold this mean after log2(n) exchanges without training in between.

    Parameters
    ----------
    payload : {"weights"}
        What is averaged: weights, after the optimiser's step.
    momentum : float
        Not used: weights have no outer optimiser, and only the default is accepted.
    outer_rate : float
        Not used, like `momentum`.
    precision : {"full", "bfloat16"}
        Floating-point precision of the messages.  "bfloat16" halves the bytes of float32 and rounds the numbers sent,
        with a relative error of up to 0.4 %; sums are formed in full precision.

    See Also
    --------
    Hypercube : The exact mean over all ranks, in log2(n) messages.
    Ring : The exact mean over all ranks.

    References
    ----------
    Ying et al., arXiv 2110.13363.

    Examples
    --------
    >>> from sagips_kit import Exponential
    >>> Exponential().n_replicas(8)
    1
    >>> Exponential().carries("weights", step=0)
    True
    """

    payload: Literal["weights"] = "weights"

    def open(self, world: World, like: torch.Tensor) -> MeanChannel:
        return _ExponentialChannel(self, world, like)


class _ExponentialChannel(MeanChannel):
    def __init__(self, exchange: Exponential, world: World, like: torch.Tensor) -> None:
        super().__init__(exchange, world, like)
        # Not derived from the step: within Every(h, ...) the steps may all be multiples of h.
        self._n_mixed = 0

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"n_mixed": self._n_mixed}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._n_mixed = int(state["n_mixed"])

    def mean(self, flat: torch.Tensor, step: int) -> Mixing:
        comm, incoming, outgoing = self.world.communicator(), self.scratch(flat), self.packed(flat.clone())
        source, dest = exponential_peers(self.world.rank, self.world.size, self._n_mixed)
        self._n_mixed += 1
        receive = comm.Irecv(self.message(incoming), source=source, tag=_TAG)
        send = comm.Isend(self.message(outgoing), dest=dest, tag=_TAG)
        yield Wait([receive, send], f"{self.world.name(source)} (its peer of this exchange, step {step})")
        flat += incoming
        flat /= 2
        return Mixed(received=1)
