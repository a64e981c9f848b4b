"""An exchange inside each group of ranks: a node, or so many consecutive ranks."""

from dataclasses import replace

from pydantic import InstanceOf

from .._value import Count, value
from ..ranks.topology import groups, numbered
from .base import Channel, Exchange


@value(positional=("part",))
class Within(Exchange):
    """`part` inside each group; groups know nothing of each other.

    Parameters
    ----------
    part : Exchange
    size : int or None
        Consecutive ranks in a group, the last of which may have fewer; None makes each node a group.
    """

    part: InstanceOf[Exchange]
    size: Count | None = None

    def has_positions(self):
        return self.part.has_positions()

    def after(self, earlier):
        return replace(self, part=self.part.after(earlier))

    def open(self, world, like):
        return _WithinChannel(self, world, like)

    def replicas(self, size):
        if self.size is None:
            return None
        labels = []
        for index, group in enumerate(groups(size, self.size)):
            inner = self.part.replicas(len(group))
            if inner is None:
                return None
            labels += [(index, replica) for replica in inner]
        return numbered(labels)

    def carries(self, payload, step):
        return self.part.carries(payload, step)


class _WithinChannel(Channel):
    def __init__(self, exchange, world, like):
        super().__init__(exchange, world, like)
        self._group = world.part(world.groups(exchange.size))
        self._inner = exchange.part.open(self._group, like)

    def mixing(self, flat, step, payload):
        return self._inner.mixing(flat, step, payload)

    def state_dict(self):
        return self._inner.state_dict()

    def load_state_dict(self, state):
        self._inner.load_state_dict(state)

    def close(self):
        self._inner.close()
        self._group.close()

    def abandon(self):
        self._inner.abandon()
