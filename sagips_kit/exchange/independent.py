"""No exchange: every rank trains generators of its own, an ensemble."""

from .._value import value
from .base import Channel, Exchange, Mixed


@value
class Independent(Exchange):
    """Ensemble mode: N ranks are N independent replicas."""

    def open(self, world, like):
        return _Silence(self, world, like)

    def replicas(self, size):
        return tuple(range(size))

    def carries(self, payload, step):
        return False


class _Silence(Channel):
    def mixing(self, flat, step, payload):
        return Mixed()
        yield
