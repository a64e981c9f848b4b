"""Several exchanges one after the other, in every step."""

from typing import TYPE_CHECKING

import torch
from pydantic import InstanceOf

from .._value import value
from ..ranks.topology import joined
from ..ranks.world import World
from .base import Exchange
from .channel import Channel
from .mixing import Mixed, Mixing, Payload


@value(positional=("*parts",))
class Chain(Exchange):
    """Several exchanges one after the other, in every step: each mixes the result of the one before.

    Gradients pass through all parts before the optimiser's step, weights after it; a part acts on what it carries.

    Parameters
    ----------
    *parts : Exchange
        The exchanges, in this order.

    See Also
    --------
    Within : An exchange inside each group, usually the first part.
    Leaders : An exchange between groups, usually the second.
    Every : Repeats a part only every so many steps.

    References
    ----------
    arXiv 2407.00051, the grouped modes.

    Examples
    --------
    Gradients inside groups of 4 ranks in every step, weights between groups in every 100th:

    >>> from sagips_kit import Chain, Every, Leaders, Ring, Within
    >>> mode = Chain(Within(Ring(), size=4), Every(100, Leaders(Ring(payload="weights"), size=4)))
    >>> mode
    Chain(Within(Ring(), size=4), Every(100, Leaders(Ring(payload='weights'), size=4)))
    >>> mode.carries("weights", 98), mode.carries("weights", 99)
    (False, True)
    """

    parts: tuple[InstanceOf[Exchange], ...]

    if TYPE_CHECKING:

        def __init__(self, *parts: Exchange) -> None: ...

    def __post_init__(self) -> None:
        if not self.parts:
            raise ValueError(
                "needs at least one part. Write for instance "
                "Chain(Within(Ring(), size=4), Every(100, Leaders(Ring(payload='weights'), size=4)))."
            )

    @property
    def mixes_deltas(self) -> bool:
        return any(part.mixes_deltas for part in self.parts)

    def open(self, world: World, like: torch.Tensor) -> Channel:
        return _ChainChannel(self, world, like)

    def replicas(self, size: int) -> tuple[int, ...] | None:
        return joined([part.replicas(size) for part in self.parts])

    def carries(self, payload: Payload, step: int) -> bool:
        return any(part.carries(payload, step) for part in self.parts)

    def waits(self, step: int) -> bool:
        return any(part.waits(step) for part in self.parts)


class _ChainChannel(Channel):
    def __init__(self, exchange: Chain, world: World, like: torch.Tensor) -> None:
        super().__init__(exchange, world, like)
        self.parts = {str(k): part.open(world, like) for k, part in enumerate(exchange.parts)}
        has_deltas = False
        for part, channel in zip(exchange.parts, self.parts.values(), strict=True):
            if has_deltas:
                channel.keep_deltas()
            has_deltas = has_deltas or part.mixes_deltas

    def mixing(self, flat: torch.Tensor, step: int, payload: Payload) -> Mixing:
        mixed = Mixed()
        for part in self.parts.values():
            mixed = mixed.then((yield from part.mixing_in_reach(flat, step, payload)))
        return mixed
