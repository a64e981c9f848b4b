"""The synchronous baseline: one fused all-reduce over all ranks."""

from ..settings import value
from .base import Channel, Exchange, Mixed


@value
class AllReduce(Exchange):
    """Synchronous mean of the generator's gradient over all ranks, by the MPI library's own algorithm."""

    def open(self, world, like):
        return _Collective(world, like)

    def replica(self, rank, size):
        return 0


class _Collective(Channel):
    def _mix(self, flat, step):
        if self.world.size == 1:
            return Mixed()
        from mpi4py import MPI

        request = self.world.comm.Iallreduce(MPI.IN_PLACE, flat, op=MPI.SUM)
        waited_s = self.world.wait([request], f"the all-reduce of step {step}")
        flat /= self.world.size
        return Mixed(received=self.world.size - 1, waited_s=waited_s)
