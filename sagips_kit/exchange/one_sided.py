"""One-sided exchange: every rank publishes its newest buffer, averages the newest it knows of all ranks, never waits.

Ranks that mix gradients, as published, add nearly the same updates to weights that differ by how far each rank has got.
Their weights therefore stay different, and none of them need end where the mean gradient vanishes.  Ranks that mix
updates cannot drift apart: each has a position, which only its own updates move, and all continue from the mean of the
newest positions.
"""

import math
import time
from collections.abc import Generator, Mapping
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from .._value import value
from ..ranks.mailboxes import RemoteSlots, SharedSlots, Slots, slot_bytes
from ..ranks.memory import Memory, keep_until_exit
from ..ranks.world import PeerError, World
from .base import Exchange
from .channel import Channel
from .mixing import Mixed, Mixing, Payload, Wait


@value
class OneSided(Exchange):
    """Mean of the newest known updates or gradients of all ranks, without waiting for any of them.

    Choose this for ranks of unequal speed.  Each rank leaves its newest buffer in memory that the others read when they
    need it: shared memory on one node, remote memory access between nodes.  Which buffer is the newest is a matter of
    timing, so that runs do not repeat bit for bit.

    Parameters
    ----------
    payload : {"updates", "gradient"}
        What is averaged.  "updates": every rank moves a position by its own updates and continues from the mean of the
        newest positions; each update counts once and ranks stay together.  "gradient": as published (RMA-ARAR); ranks
        of unequal speed drift apart.
    max_staleness : int or None
        Largest age of a contribution, in steps; None allows any.  Every rank counts its own steps, so a rank that is
        always slower than the others exceeds any limit in the end.
    beyond : {"leave out", "wait"}
        What to do about a rank whose newest buffer is older than that, or that has published nothing for `timeout_s` of
        its world: average without it, or wait for it, for this time at most.  Updates are never left out, so for these
        a limit of the staleness requires "wait".

    See Also
    --------
    Ring : The exact mean of the same step, for which ranks wait.
    Within : A one-sided exchange inside each group of ranks.

    References
    ----------
    arXiv 2407.00051, the modes with remote memory access (RMA).

    Examples
    --------
    >>> from sagips_kit import Chain, Every, Leaders, OneSided, Ring, Within
    >>> OneSided().n_replicas(8)
    1

    Ranks run at most 10 steps ahead of the slowest one:

    >>> mode = OneSided(max_staleness=10, beyond="wait")

    One-sided inside groups of 4 ranks, the mean of the groups' weights in every 100th step:

    >>> mode = Chain(Within(OneSided(), size=4), Every(100, Leaders(Ring(payload="weights"), size=4)))
    """

    payload: Literal["updates", "gradient"] = "updates"
    max_staleness: Annotated[int, Field(ge=0)] | None = None
    beyond: Literal["leave out", "wait"] = "leave out"

    def __post_init__(self) -> None:
        if self.payload == "updates" and self.max_staleness is not None and self.beyond == "leave out":
            raise ValueError(
                f"max_staleness = {self.max_staleness} with beyond = 'leave out': updates are never left out, since "
                'each has to count once. Write beyond="wait", or leave max_staleness out.'
            )

    @property
    def mixes_deltas(self) -> bool:
        return self.payload == "updates"

    def waits(self, step: int) -> bool:
        return False  # not even with beyond="wait", for a rank that has left

    def open(self, world: World, like: torch.Tensor) -> Channel:
        return _OneSidedChannel(self, world, like)

    def replicas(self, size: int) -> tuple[int, ...]:
        return (0,) * size

    def carries(self, payload: Payload, step: int) -> bool:
        return payload == ("gradient" if self.payload == "gradient" else "weights")


class _Position:
    """Where this rank's own updates have moved it, and the mean position from which it made its last step.

    Parameters
    ----------
    position, mean : ndarray (number,)
        Both are copied.
    """

    def __init__(self, position: NDArray, mean: NDArray) -> None:
        self.position, self.mean = position.copy(), mean.copy()

    def move(self, weights: NDArray) -> NDArray:
        """Move by what `weights` (number,) differ from the last mean; returns the position."""
        self.position += weights - self.mean
        np.copyto(self.mean, weights)  # until there is a newer mean
        return self.position

    def start_from(self, mean: NDArray) -> None:
        """Continue from `mean` (number,), except where it is not finite: the trainer keeps its own weights there."""
        np.copyto(self.mean, mean, where=np.isfinite(mean))

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {name: torch.as_tensor(getattr(self, name).copy()) for name in ("position", "mean")}


class _Peers:
    """The newest buffers of all ranks, and which of them count.

    Parameters
    ----------
    exchange : OneSided
        What to do about old buffers.
    world : World
        All ranks.
    own : ndarray (number,)
        A buffer of this rank, which has the shape and dtype of all.
    """

    def __init__(self, exchange: OneSided, world: World, own: NDArray) -> None:
        self.exchange, self.world = exchange, world
        n_bytes, form = slot_bytes(own.size, own.dtype), (world.rank, world.size, own.size, own.dtype)
        self.slots: Slots
        self._memory: Memory
        if world.is_one_node() and (shared := world.share(n_bytes)):
            self._memory, self.slots = shared, SharedSlots(shared, *form)
        else:
            self._memory = remote = world.expose(n_bytes)
            self.slots = RemoteSlots(remote, *form)
        self._seen = [(0, time.perf_counter())] * world.size

    def is_counted(self, origin: int, step: int) -> bool:
        """Whether the newest buffer of `origin` is in the mean of `step`."""
        if self.exchange.mixes_deltas:
            return self.slots.count(origin) > 0
        return self.is_recent(origin, step)

    def is_settled(self, origin: int, step: int) -> bool:
        """Whether there is nothing to wait for: `origin` has published lately, or has left for good."""
        self.slots.look()
        return self.slots.has_left(origin) or self.is_recent(origin, step)

    def is_recent(self, origin: int, step: int) -> bool:
        """Whether `origin` is still there, and its newest buffer not too old."""
        newest = self.slots.newest(origin)
        limit = self.exchange.max_staleness
        return newest is not None and (limit is None or step - newest <= limit) and not self.is_silent(origin)

    def is_silent(self, origin: int) -> bool:
        """Whether `origin` has published nothing for the timeout of the world."""
        count, now = self.slots.count(origin), time.perf_counter()
        if count != self._seen[origin][0]:
            self._seen[origin] = count, now
        return now - self._seen[origin][1] > self.world.timeout_s

    def are_all_known(self) -> bool:
        """Whether all ranks have published a buffer."""
        self.slots.look()
        return all(self.slots.count(origin) for origin in range(self.world.size))

    def have_all_left(self) -> bool:
        """Whether no rank has steps left; those that have may take hours, but not in silence."""
        self.slots.look()
        staying = [origin for origin in range(self.world.size) if not self.slots.has_left(origin)]
        silent = [self.world.name(origin) for origin in staying if self.is_silent(origin)]
        if silent:
            raise PeerError(
                f"{', '.join(silent)} did not finish: nothing was received for {self.world.timeout_s:.0f} s. "
                "The other ranks continued without, and have finished."
            )
        return not staying

    def whom(self, origin: int, step: int) -> str:
        return f"{self.world.name(origin)} (which published step {self.slots.newest(origin)} last, step {step})"

    def close(self) -> None:
        self.slots.leave()
        self.world.wait(self.have_all_left, "all ranks to finish their steps", math.inf)
        self.world.wait(self.slots.requests(), "the last copies of other ranks' buffers")
        self._memory.close()

    def abandon(self) -> None:
        self.slots.leave()
        keep_until_exit(self)  # other ranks may still copy from its memory, and it from theirs


class _OneSidedChannel(Channel):
    exchange: OneSided
    _peers: _Peers | None = None
    _position: _Position | None = None

    def mixing(self, flat: torch.Tensor, step: int, payload: Payload) -> Mixing:
        if self.world.size == 1 or not self.exchange.carries(payload, step):
            return Mixed()
        host = flat.cpu()
        own = host.numpy()
        if (peers := self._peers) is None:
            peers = self._peers = _Peers(self.exchange, self.world, own)
            yield from self._begin(peers, own, step)
        position = self._position
        self.world.look_for_failures()
        peers.slots.publish(own if position is None else position.move(own), step)
        peers.slots.look()
        origins = []
        for origin in range(self.world.size):
            if self.exchange.beyond == "wait" and not peers.is_settled(origin, step):
                yield Wait(partial(peers.is_settled, origin, step), peers.whom(origin, step))
            if origin == self.world.rank or peers.is_counted(origin, step):
                origins.append(origin)
        steps = peers.slots.mean(origins, own)
        if position is not None:
            position.start_from(own)
        if host is not flat:
            flat.copy_(host)
        return Mixed(received=len(origins) - 1, staleness=max(0, step - min(steps)))

    def _begin(self, peers: _Peers, own: NDArray, step: int) -> Generator[Wait, None, None]:
        if self._position is not None:  # resumed: a mean over fewer positions than all would be a jump
            peers.slots.publish(self._position.position, step)
            yield Wait(peers.are_all_known, f"the positions of all ranks (step {step})")
        elif self.exchange.mixes_deltas:
            # All ranks start from the same weights, so it does no harm that these contain the first update already.
            self._position = _Position(own, own)

    def stand_by(self, step: int, payload: Payload) -> None:
        if self.world.size == 1 or self._peers is not None or not self.exchange.carries(payload, step):
            return
        shape, dtype = self._forms["gradient"]
        own = torch.zeros(shape, dtype=dtype).numpy().ravel() if self._position is None else self._position.position
        self._peers = _Peers(self.exchange, self.world, own)
        if self._position is not None:
            self._peers.slots.publish(own, step)
        self._peers.slots.leave()

    def state_dict(self) -> dict[str, Any]:
        return {} if self._position is None else self._position.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._position = _Position(state["position"].numpy(), state["mean"].numpy()) if state else None

    def close(self) -> None:
        if self._peers is not None:
            self._peers.close()
        self._peers = None

    def abandon(self) -> None:
        if self._peers is not None:
            self._peers.abandon()
        self._peers = None
