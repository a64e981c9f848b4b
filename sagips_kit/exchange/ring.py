"""The ring of the paper's ARAR mode: neighbours pass a buffer around, or each rank leaves its own for all to read.

Two-sided, a reduce-scatter followed by an all-gather moves 2 (n - 1) messages and twice the buffer's bytes per rank and
step, however many ranks there are.  Each chunk of the mean is computed once and copied around, so all ranks end with
the same bits.  One-sided, every rank averages the newest known gradients of all ranks, each with weight 1/n.
"""

import time
from typing import Annotated, Literal

from pydantic import Field

from ..settings import value
from ..slots import Slots, slot_bytes
from ..topology import all_gather_steps, chunk_bounds, reduce_scatter_steps, ring_neighbours
from .base import Channel, Mixed
from .mean import Mean, MeanChannel

_TAG = 1  # any tag would take the notice of a failed rank for a chunk


@value
class Ring(Mean):
    """Mean over all ranks of a ring.

    Parameters
    ----------
    payload : {"gradient", "weights", "updates"}
    momentum, outer_rate : float
        See `Mean`.
    mailbox : {"two-sided", "one-sided"}
        "two-sided": messages between neighbours, and the exact mean of this step (ARAR).  "one-sided": the mean of the
        newest known gradients in a window of shared memory, without waiting for anybody (RMA-ARAR); inside a node only.
    max_staleness : int or None
        One-sided: age in steps that a gradient may have; None: any.
    beyond : {"leave out", "wait"}
        One-sided: what to do without a rank whose gradient is older than that, or that has published nothing for the
        world's `timeout_s`: go on with the others, or wait for it, and end with an error after that time.
    """

    mailbox: Literal["two-sided", "one-sided"] = "two-sided"
    max_staleness: Annotated[int, Field(ge=0)] | None = None
    beyond: Literal["leave out", "wait"] = "leave out"

    def __post_init__(self):
        is_two_sided = self.mailbox == "two-sided"
        if is_two_sided and (self.max_staleness is not None or self.beyond != "leave out"):
            raise ValueError(
                'max_staleness and beyond are for Ring(mailbox="one-sided"): '
                "a two-sided ring mixes gradients of one step."
            )
        if not is_two_sided and self.payload != "gradient":
            raise ValueError(
                f"payload = {self.payload!r} goes around a two-sided ring only: old weights would undo the steps made "
                f"since. Write Ring(payload={self.payload!r})."
            )

    def open(self, world, like):
        return (_RingChannel if self.mailbox == "two-sided" else _SlotsChannel)(self, world, like)


class _RingChannel(MeanChannel):
    def mean(self, flat, step):
        rank, size = self.world.rank, self.world.size
        before, after = ring_neighbours(rank, size)
        comm, why = self.world.comm, f"{self.world.name(before)}, before this one on the ring, in step {step}"
        bounds = chunk_bounds(flat.size, size)
        chunks, incoming = (
            [array[start:stop] for start, stop in bounds] for array in (flat, self.scratch(flat.size, flat.dtype))
        )
        # All receives are posted ahead, so that no message waits for its receiver's turn on the core.  One tag
        # throughout: messages of one sender arrive in the order they were sent.
        steps = reduce_scatter_steps(rank, size)
        receives = [comm.Irecv(incoming[added], source=before, tag=_TAG) for _, added in steps]
        sends = []
        for (sent, added), receive in zip(steps, receives, strict=True):
            sends.append(comm.Isend(chunks[sent], dest=after, tag=_TAG))
            yield [receive], why
            chunks[added] += incoming[added]
        yield sends, why
        steps = all_gather_steps(rank, size)
        receives = [comm.Irecv(chunks[received], source=before, tag=_TAG) for _, received in steps]
        sends = []
        for (sent, _), receive in zip(steps, receives, strict=True):
            sends.append(comm.Isend(chunks[sent], dest=after, tag=_TAG))
            yield [receive], why
        yield sends, why
        flat /= size
        return Mixed(received=size - 1)


class _SlotsChannel(Channel):
    def __init__(self, exchange, world, like):
        super().__init__(exchange, world, like)
        self._memory = None
        if world.size > 1:
            dtype = like.detach().cpu().numpy().dtype
            self._memory = world.share(slot_bytes(like.numel(), dtype))
            self._slots = Slots(self._memory.of_ranks, self._memory.fence, world.rank, like.numel(), dtype)
            self._seen = [(0, time.perf_counter())] * world.size

    def mixing(self, flat, step, payload):
        if self._memory is None or payload != "gradient":
            return Mixed()
        self.world.look_for_failures()
        self._slots.publish(flat, step)
        origins = []
        for origin in range(self.world.size):
            if self.exchange.beyond == "wait" and not self._is_usable(origin, step):
                last = self._slots.newest(origin)
                why = f"{self.world.name(origin)}, which published step {last} last, in step {step}"
                yield (lambda origin=origin: self._is_usable(origin, step)), why
            if origin == self.world.rank or self._is_known(origin, step):
                origins.append(origin)
        steps = self._slots.mean(origins, flat)
        return Mixed(received=len(origins) - 1, staleness=max(0, step - min(steps)))

    def _is_usable(self, origin, step):
        """Whether there is nothing to wait for: its gradient is young enough, or it has left for good."""
        return self._slots.has_left(origin) or self._is_known(origin, step)

    def _is_known(self, origin, step):
        newest = self._slots.newest(origin)
        limit = self.exchange.max_staleness
        return newest is not None and (limit is None or step - newest <= limit) and not self._is_stalled(origin)

    def _is_stalled(self, origin):
        count, now = self._slots.count(origin), time.perf_counter()
        if count != self._seen[origin][0]:
            self._seen[origin] = count, now
        return now - self._seen[origin][1] > self.world.timeout_s

    def close(self):
        if self._memory is not None:
            self._slots.leave()
            self._memory.close()
            self._memory = self._slots = None

    def abandon(self):
        if self._memory is not None:
            self._slots.leave()
        self._memory = None
