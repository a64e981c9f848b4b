"""An exchange inside each group of ranks: a node, or a number of consecutive ranks."""

from typing import TYPE_CHECKING

import torch
from pydantic import InstanceOf

from .._value import Count, value
from ..ranks.topology import groups, numbered
from ..ranks.world import World
from .base import Exchange
from .channel import Channel
from .mixing import Mixing, Payload


@value(positional=("part",))
class Within(Exchange):
    """An exchange inside each group of ranks; groups are independent of each other.

    Parameters
    ----------
    part : Exchange
        What the ranks of a group do.
    size : int or None
        Number of consecutive ranks in a group, the last of which may be smaller; None makes each node a group.  Give
        the number if a run has to be prepared before its ranks start, since it determines the number of chains.

    See Also
    --------
    Leaders : An exchange between groups.
    Chain : Joins both.

    References
    ----------
    arXiv 2407.00051, the grouped modes.

    Examples
    --------
    Three independent replicas, each trained by 4 ranks:

    >>> from sagips_kit import Ring, Within
    >>> Within(Ring(), size=4).replicas(12)
    (0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2)
    """

    part: InstanceOf[Exchange]
    size: Count | None = None

    if TYPE_CHECKING:

        def __init__(self, part: Exchange, *, size: int | None = None) -> None: ...

    @property
    def mixes_deltas(self) -> bool:
        return self.part.mixes_deltas

    def waits(self, step: int) -> bool:
        return self.part.waits(step)

    def open(self, world: World, like: torch.Tensor) -> Channel:
        return _WithinChannel(self, world, like)

    def replicas(self, size: int) -> tuple[int, ...] | None:
        if self.size is None:
            return None
        labels: list[tuple[int, int]] = []
        for index, group in enumerate(groups(size, self.size)):
            inner = self.part.replicas(len(group))
            if inner is None:
                return None
            labels += [(index, replica) for replica in inner]
        return numbered(labels)

    def carries(self, payload: Payload, step: int) -> bool:
        return self.part.carries(payload, step)


class _WithinChannel(Channel):
    def __init__(self, exchange: Within, world: World, like: torch.Tensor) -> None:
        super().__init__(exchange, world, like)
        group = world.part(world.groups(exchange.size))
        assert group is not None  # every rank is in a group
        self._group = group
        self.parts = {"part": exchange.part.open(group, like)}

    def mixing(self, flat: torch.Tensor, step: int, payload: Payload) -> Mixing:
        return self.parts["part"].mixing_in_reach(flat, step, payload)

    def close(self) -> None:
        super().close()
        self._group.close()
