"""An exchange in every so many steps, and perhaps another in all other steps."""

from typing import TYPE_CHECKING

import torch
from pydantic import InstanceOf

from .._value import Count, value
from ..ranks.topology import joined
from ..ranks.world import World
from .base import Exchange
from .channel import Channel
from .independent import Independent
from .mixing import Mixing, Payload


@value(positional=("period", "part"))
class Every(Exchange):
    """An exchange in every `period`-th step.

    Parameters
    ----------
    period : int
        Number of steps from one exchange to the next (h in the paper).  With a period of 100, the first exchange is in
        step 99, counted from 0.
    part : Exchange
        What happens in these steps.
    otherwise : Exchange
        What happens in all other steps; nothing by default.

    See Also
    --------
    Leaders : What usually happens only now and then: an exchange between groups.
    Chain : Adds exchanges in every step.

    References
    ----------
    arXiv 2407.00051, the grouped modes.

    Examples
    --------
    >>> from sagips_kit import Every, Ring
    >>> mode = Every(100, Ring(payload="weights"))
    >>> [step for step in range(300) if mode.carries("weights", step)]
    [99, 199, 299]
    """

    period: Count
    part: InstanceOf[Exchange]
    otherwise: InstanceOf[Exchange] = Independent()

    if TYPE_CHECKING:

        def __init__(self, period: int, part: Exchange, *, otherwise: Exchange = ...) -> None: ...

    @property
    def mixes_deltas(self) -> bool:
        return self.part.mixes_deltas or self.otherwise.mixes_deltas

    def open(self, world: World, like: torch.Tensor) -> Channel:
        return _EveryChannel(self, world, like)

    def replicas(self, size: int) -> tuple[int, ...] | None:
        return joined([self.part.replicas(size), self.otherwise.replicas(size)])

    def carries(self, payload: Payload, step: int) -> bool:
        return (self.part if self.is_due(step) else self.otherwise).carries(payload, step)

    def waits(self, step: int) -> bool:
        return (self.part if self.is_due(step) else self.otherwise).waits(step)

    def is_due(self, step: int) -> bool:
        """Whether `part` happens in a step, rather than `otherwise`.

        Parameters
        ----------
        step : int
            Number of the step, from 0.

        Returns
        -------
        bool
            True for the last step of each period.
        """
        return (step + 1) % self.period == 0


class _EveryChannel(Channel):
    exchange: Every

    def __init__(self, exchange: Every, world: World, like: torch.Tensor) -> None:
        super().__init__(exchange, world, like)
        self.parts = {"part": exchange.part.open(world, like), "otherwise": exchange.otherwise.open(world, like)}

    def mixing(self, flat: torch.Tensor, step: int, payload: Payload) -> Mixing:
        return self._of(step).mixing_in_reach(flat, step, payload)

    def stand_by(self, step: int, payload: Payload) -> None:
        self._of(step).stand_by(step, payload)

    def _of(self, step: int) -> Channel:
        return self.parts["part" if self.exchange.is_due(step) else "otherwise"]
