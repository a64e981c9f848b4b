"""An exchange among leaders, one for each group of ranks, whose result is passed on to the whole group."""

from typing import TYPE_CHECKING

import torch
from pydantic import InstanceOf

from .._value import Count, value
from ..ranks.topology import groups, numbered
from ..ranks.world import World
from .base import Exchange
from .channel import Channel
from .mixing import Mixed, Mixing, Payload, Wait


@value(positional=("part",))
class Leaders(Exchange):
    """An exchange among the leaders of groups, the first rank of each; a leader passes the result on to its group.

    In a `Chain` after a one-sided exchange of updates, a leader passes on by how much its weights change, and the ranks
    of its group add this to their own: they may hold updates that the leader has not received yet.

    Parameters
    ----------
    part : Exchange
        What the leaders do.
    size : int or None
        Number of consecutive ranks in a group, the last of which may be smaller; None makes each node a group.
    hand_down : bool
        Whether leaders pass the result on to their groups.  False is the published rule, by which it stays with the
        leader, so that the ranks of a group drift apart.

    See Also
    --------
    Within : An exchange inside each group.
    Every : Repeats an exchange only every so many steps.

    References
    ----------
    arXiv 2407.00051, the grouped modes.

    Examples
    --------
    Gradients inside groups of 4 ranks in every step, weights between groups in every 100th:

    >>> from sagips_kit import Chain, Every, Leaders, Ring, Within
    >>> outer = Leaders(Ring(payload="weights"), size=4)
    >>> mode = Chain(Within(Ring(), size=4), Every(100, outer))
    >>> mode.n_replicas(16)
    1

    The published rule:

    >>> mode = Every(1000, Leaders(Ring(), size=4, hand_down=False), otherwise=Within(Ring(), size=4))
    """

    part: InstanceOf[Exchange]
    size: Count | None = None
    hand_down: bool = True

    if TYPE_CHECKING:

        def __init__(self, part: Exchange, *, size: int | None = None, hand_down: bool = True) -> None: ...

    @property
    def mixes_deltas(self) -> bool:
        return self.part.mixes_deltas

    def open(self, world: World, like: torch.Tensor) -> Channel:
        return _LeadersChannel(self, world, like)

    def replicas(self, size: int) -> tuple[int, ...] | None:
        if self.size is None:
            is_one = self.hand_down and self.part.replicas(size) == (0,) * size
            return (0,) * size if is_one else None
        all_groups = groups(size, self.size)
        outer = self.part.replicas(len(all_groups))
        if outer is None:
            return None
        labels: list[tuple[int, int]] = []
        for replica, group in zip(outer, all_groups, strict=True):
            labels += [(replica, 0 if self.hand_down or rank == group[0] else rank) for rank in group]
        return numbered(labels)

    def carries(self, payload: Payload, step: int) -> bool:
        return self.part.carries(payload, step)

    def waits(self, step: int) -> bool:
        # A leader hands down to ranks that wait for it.
        return super().waits(step) if self.hand_down else self.part.waits(step)


class _LeadersChannel(Channel):
    exchange: Leaders

    def __init__(self, exchange: Leaders, world: World, like: torch.Tensor) -> None:
        super().__init__(exchange, world, like)
        all_groups = world.groups(exchange.size)
        self._n_groups = len(all_groups)
        group = world.part(all_groups)
        assert group is not None  # every rank is in a group
        self._group = group
        self._leaders = world.part([tuple(group[0] for group in all_groups)])
        if self._leaders is not None:
            self.parts = {"part": exchange.part.open(self._leaders, like)}
        self._keeps_deltas = False

    def keep_deltas(self) -> None:
        self._keeps_deltas = True

    def mixing(self, flat: torch.Tensor, step: int, payload: Payload) -> Mixing:
        if not self.exchange.carries(payload, step):
            return Mixed()
        mixed, hands_down = Mixed(), self.exchange.hand_down and self._group.size > 1
        own = flat.clone() if hands_down and self._keeps_deltas and payload == "weights" else None
        if outer := self.parts.get("part"):
            mixed = yield from outer.mixing_in_reach(flat, step, payload)
        if hands_down:
            passed = self.in_reach_of_mpi(flat if own is None else flat - own, f"{payload} handed down")
            request = self._group.communicator().Ibcast(self.message(passed))
            yield Wait([request], f"{self._group.name(0)} (the leader of its group, step {step})")
            if outer is None and own is not None:
                flat += passed.to(flat.device)
            elif outer is None and passed is not flat:
                flat.copy_(passed)
            mixed = Mixed(self._n_groups - 1, mixed.staleness)
        return mixed

    def close(self) -> None:
        super().close()
        if self._leaders is not None:
            self._leaders.close()
        self._group.close()
