"""No exchange: every rank trains its own generators, an ensemble."""

import torch

from .._value import value
from ..ranks.world import World
from .base import Exchange
from .channel import Channel
from .mixing import Mixed, Mixing, Payload


@value
class Independent(Exchange):
    """No exchange: N ranks train N independent replicas, an ensemble.

    Results of different ranks scatter by what training and the resampled events make uncertain.  Choose this if each
    rank can finish a run alone.

    See Also
    --------
    Ring : All ranks train the same generators.
    Within : Groups of ranks are independent of each other.

    References
    ----------
    arXiv 2407.00051, the ensemble analysis.

    Examples
    --------
    >>> from sagips_kit import Independent
    >>> Independent().n_replicas(8)
    8
    """

    def open(self, world: World, like: torch.Tensor) -> Channel:
        return _SilentChannel(self, world, like)

    def replicas(self, size: int) -> tuple[int, ...]:
        return tuple(range(size))

    def carries(self, payload: Payload, step: int) -> bool:
        return False


class _SilentChannel(Channel):
    def mixing(self, flat: torch.Tensor, step: int, payload: Payload) -> Mixing:
        yield from ()
        return Mixed()
