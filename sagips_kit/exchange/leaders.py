"""An exchange among leaders, one for each group of ranks, whose result is handed to the whole group."""

from dataclasses import replace

from pydantic import InstanceOf

from .._value import Count, value
from ..ranks.topology import groups, numbered
from .base import Channel, Exchange, Mixed


@value(positional=("part",))
class Leaders(Exchange):
    """`part` among the first ranks of all groups.

    Parameters
    ----------
    part : Exchange
    size : int or None
        Consecutive ranks in a group, the last of which may have fewer; None makes each node a group.
    hand_down : bool
        Hand the result to the whole group.  False is the paper's rule, where it stays with the leader.
    as_change : bool
        Hand down by how much weights change, for all to add to their own.  A chain sees to it where it is needed: ranks
        of a one-sided group know updates that their leader has not heard of, which its result would undo.
    """

    part: InstanceOf[Exchange]
    size: Count | None = None
    hand_down: bool = True
    as_change: bool = False

    def has_positions(self):
        return self.part.has_positions()

    def after(self, earlier):
        return replace(self, as_change=self.as_change or earlier.has_positions())

    def open(self, world, like):
        return _LeadersChannel(self, world, like)

    def replicas(self, size):
        if self.size is None:
            is_one = self.hand_down and self.part.replicas(size) == (0,) * size
            return (0,) * size if is_one else None
        all_groups = groups(size, self.size)
        outer = self.part.replicas(len(all_groups))
        if outer is None:
            return None
        labels = []
        for replica, group in zip(outer, all_groups, strict=True):
            labels += [(replica, 0 if self.hand_down or rank == group[0] else rank) for rank in group]
        return numbered(labels)

    def carries(self, payload, step):
        return self.part.carries(payload, step)


class _LeadersChannel(Channel):
    def __init__(self, exchange, world, like):
        super().__init__(exchange, world, like)
        all_groups = world.groups(exchange.size)
        self._n_groups = len(all_groups)
        self._group = world.part(all_groups)
        self._leaders = world.part([tuple(group[0] for group in all_groups)])
        self._outer = exchange.part.open(self._leaders, like) if self._leaders else None

    def mixing(self, flat, step, payload):
        if not self.exchange.carries(payload, step):
            return Mixed()
        mixed, hands_down = Mixed(), self.exchange.hand_down and self._group.size > 1
        own = flat.clone() if hands_down and self.exchange.as_change and payload == "weights" else None
        if self._outer:
            mixed = yield from self._outer.mixing(flat, step, payload)
        if hands_down:
            handed = flat if own is None else flat - own
            yield (
                [self._group.comm.Ibcast(self.message(handed))],
                f"{self._group.name(0)}, the leader of this group, in step {step}",
            )
            if own is not None and not self._outer:
                flat += handed
            mixed = Mixed(self._n_groups - 1, mixed.staleness)
        return mixed

    def state_dict(self):
        return self._outer.state_dict() if self._outer else {}

    def load_state_dict(self, state):
        if self._outer:
            self._outer.load_state_dict(state)

    def close(self):
        if self._outer:
            self._outer.close()
            self._leaders.close()
        self._group.close()

    def abandon(self):
        if self._outer:
            self._outer.abandon()
