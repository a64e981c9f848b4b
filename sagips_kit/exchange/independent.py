"""No exchange: every rank trains generators of its own, an ensemble."""

from ..settings import value
from .base import Channel, Exchange, Mixed


@value
class Independent(Exchange):
    """Ensemble mode: N ranks are N independent replicas."""

    def open(self, world, like):
        return _Silence(world, like)

    def replica(self, rank, size):
        return rank


class _Silence(Channel):
    def _mix(self, flat, step):
        return Mixed()
