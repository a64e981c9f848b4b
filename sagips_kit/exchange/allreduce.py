"""The synchronous baseline: one fused all-reduce over all ranks."""

from typing import Literal

from .._value import value
from .base import Mixed
from .mean import Mean, MeanChannel


@value
class AllReduce(Mean):
    """Synchronous mean over all ranks, by the MPI library's own algorithm; MPI adds up in full precision only."""

    precision: Literal["full"] = "full"

    def open(self, world, like):
        return _Collective(self, world, like)


class _Collective(MeanChannel):
    def mean(self, flat, step):
        from mpi4py import MPI

        request = self.world.comm.Iallreduce(MPI.IN_PLACE, self.message(flat), op=MPI.SUM)
        yield [request], f"the all-reduce of step {step}"
        flat /= self.world.size
        return Mixed(received=self.world.size - 1)
