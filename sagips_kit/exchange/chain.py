"""Several exchanges one after the other, in every step."""

from dataclasses import replace

from pydantic import InstanceOf

from .._value import value
from ..ranks.topology import joined
from .base import Channel, Exchange, Mixed


@value(positional=("*parts",))
class Chain(Exchange):
    """All `parts` in turn: what one has mixed is what the next one mixes.

    Parameters
    ----------
    parts : tuple of Exchange
        Gradients pass through all of them first, then, after the optimiser's step, weights.
    """

    parts: tuple[InstanceOf[Exchange], ...]

    def __post_init__(self):
        if not self.parts:
            raise ValueError(
                "needs parts, for instance Chain(Within(Ring()), Every(1000, Leaders(Ring(payload='weights'))))."
            )

    def has_positions(self):
        return any(part.has_positions() for part in self.parts)

    def after(self, earlier):
        return replace(self, parts=tuple(part.after(earlier) for part in self.parts))

    def open(self, world, like):
        return _ChainChannel(self, world, like)

    def replicas(self, size):
        return joined([part.replicas(size) for part in self.parts])

    def carries(self, payload, step):
        return any(part.carries(payload, step) for part in self.parts)


class _ChainChannel(Channel):
    def __init__(self, exchange, world, like):
        super().__init__(exchange, world, like)
        self._links = []
        for k, part in enumerate(exchange.parts):
            for earlier in exchange.parts[:k]:
                part = part.after(earlier)
            self._links.append(part.open(world, like))

    def mixing(self, flat, step, payload):
        mixed = Mixed()
        for link in self._links:
            mixed = mixed.then((yield from link.mixing(flat, step, payload)))
        return mixed

    def state_dict(self):
        return {str(k): link.state_dict() for k, link in enumerate(self._links)}

    def load_state_dict(self, state):
        for k, link in enumerate(self._links):
            link.load_state_dict(state.get(str(k), {}))

    def close(self):
        for link in self._links:
            link.close()

    def abandon(self):
        for link in self._links:
            link.abandon()
