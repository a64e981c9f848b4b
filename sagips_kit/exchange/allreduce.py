"""The synchronous baseline: one fused all-reduce over all ranks, by MPI or on the accelerators themselves."""

from typing import Literal

import torch

from .._value import value
from ..ranks.device_group import DeviceGroup
from ..ranks.world import World
from .mean import Mean, MeanChannel
from .mixing import Mixed, Mixing, Wait


@value
class AllReduce(Mean):
    """Mean over all ranks by the all-reduce of the MPI library, or of PyTorch: the synchronous baseline.

    Choose this to compare with, on machines whose MPI has a very good all-reduce, or with `library="torch"` where each
    rank has an accelerator of its own.

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
    library : {"mpi", "torch"}
        What sums.  "torch" is PyTorch's own library for the device of the ranks (NCCL for GPUs of NVIDIA and AMD, XCCL
        for those of Intel, Gloo for CPUs): numbers go from accelerator to accelerator, not through host memory.  Each
        rank needs an accelerator of its own; on CPUs MPI is faster.  Ranks of one node meet at a port that only this
        node reaches, those of several at an open port of rank 0's host.

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

    Gradients from accelerator to accelerator in each node, weights between nodes by MPI:

    >>> from sagips_kit import Chain, Every, Leaders, Ring, Within
    >>> mode = Chain(Within(AllReduce(library="torch")), Every(100, Leaders(Ring(payload="weights"))))
    """

    precision: Literal["full"] = "full"
    library: Literal["mpi", "torch"] = "mpi"

    def open(self, world: World, like: torch.Tensor) -> MeanChannel:
        kind = _DeviceChannel if self.library == "torch" and world.size > 1 else _AllReduceChannel
        return kind(self, world, like)


class _AllReduceChannel(MeanChannel):
    def mean(self, flat: torch.Tensor, step: int) -> Mixing:
        from mpi4py import MPI

        comm, size = self.world.communicator(), self.world.size
        request = comm.Iallreduce(MPI.IN_PLACE, self.message(flat), op=MPI.SUM)
        yield Wait([request], f"the all-reduce of step {step}")
        flat /= size
        return Mixed(received=size - 1)


class _DeviceChannel(MeanChannel):
    def __init__(self, exchange: Mean, world: World, like: torch.Tensor) -> None:
        super().__init__(exchange, world, like)
        self._group = DeviceGroup(world, like.device)

    @property
    def stays_on_device(self) -> bool:
        return True

    def mean(self, flat: torch.Tensor, step: int) -> Mixing:
        work = self._group.start(flat)
        yield Wait(work.is_completed, f"the all-reduce of step {step} by {self._group.library}")
        self._group.finish(work)
        flat /= self.world.size
        return Mixed(received=self.world.size - 1)

    def close(self) -> None:
        super().close()
        self._group.close()

    def abandon(self) -> None:
        super().abandon()
        self._group.abandon()
