"""The synchronous baseline: one fused all-reduce over all ranks."""

from typing import Literal

import torch

from .._value import value
from ..ranks.world import World
from .channel import Mixed, Mixing, Wait
from .mean import Mean, MeanChannel


@value
class AllReduce(Mean):
    """Mean over all ranks by the all-reduce of the MPI library: the synchronous baseline.

    Choose this to compare with, or on machines whose MPI has a very good all-reduce.

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
    precision : {"full"}
        Floating-point precision of the messages: MPI sums numbers in full precision only.

    See Also
    --------
    Ring : The same mean by messages between neighbours, or through memory that the ranks of a node share.
    Hypercube : The same mean in few messages.

    References
    ----------
    DiLoCo: arXiv 2311.08105, algorithm 1.

    Examples
    --------
    >>> from sagips_kit import AllReduce
    >>> AllReduce().n_replicas(8)
    1
    >>> AllReduce(payload="weights").carries("gradient", step=0)
    False
    """

    precision: Literal["full"] = "full"

    def open(self, world: World, like: torch.Tensor) -> MeanChannel:
        return _AllReduceChannel(self, world, like)


class _AllReduceChannel(MeanChannel):
    def mean(self, flat: torch.Tensor, step: int) -> Mixing:
        from mpi4py import MPI

        comm, size = self.world.communicator(), self.world.size
        request = comm.Iallreduce(MPI.IN_PLACE, self.message(flat), op=MPI.SUM)
        yield Wait([request], f"the all-reduce of step {step}")
        flat /= size
        return Mixed(received=size - 1)
