"""An exchange every so many steps, and perhaps another in all other steps."""

from dataclasses import replace

from pydantic import InstanceOf

from .._value import Count, value
from ..ranks.topology import joined
from .base import Channel, Exchange
from .independent import Independent


@value(positional=("period", "part"))
class Every(Exchange):
    """`part` in every `period`-th step.

    Parameters
    ----------
    period : int
        Steps (the paper's h).
    part : Exchange
    otherwise : Exchange
        What happens instead in all other steps.
    """

    period: Count
    part: InstanceOf[Exchange]
    otherwise: InstanceOf[Exchange] = Independent()

    def has_positions(self):
        return self.part.has_positions() or self.otherwise.has_positions()

    def after(self, earlier):
        return replace(self, part=self.part.after(earlier), otherwise=self.otherwise.after(earlier))

    def open(self, world, like):
        return _EveryChannel(self, world, like)

    def replicas(self, size):
        return joined([self.part.replicas(size), self.otherwise.replicas(size)])

    def carries(self, payload, step):
        return (self.part if self.is_due(step) else self.otherwise).carries(payload, step)

    def is_due(self, step):
        """Whether `step`, counted from 0, is a `period`-th one; the first is not, unless all are."""
        return (step + 1) % self.period == 0


class _EveryChannel(Channel):
    def __init__(self, exchange, world, like):
        super().__init__(exchange, world, like)
        self._part = exchange.part.open(world, like)
        self._otherwise = exchange.otherwise.open(world, like)

    def mixing(self, flat, step, payload):
        channel = self._part if self.exchange.is_due(step) else self._otherwise
        return channel.mixing(flat, step, payload)

    def state_dict(self):
        return {"part": self._part.state_dict(), "otherwise": self._otherwise.state_dict()}

    def load_state_dict(self, state):
        self._part.load_state_dict(state.get("part", {}))
        self._otherwise.load_state_dict(state.get("otherwise", {}))

    def close(self):
        self._part.close()
        self._otherwise.close()

    def abandon(self):
        self._part.abandon()
        self._otherwise.abandon()
