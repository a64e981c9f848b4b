"""The ring of the paper's ARAR mode: neighbours pass a buffer around, or each rank leaves its own for all to read.

Two-sided, a reduce-scatter followed by an all-gather moves 2 (n - 1) messages and twice the buffer's bytes per rank and
step, however many ranks there are.  Each chunk of the mean is computed once and copied around, so all ranks end with
the same bits; ranks of one node do the same sums in memory that all of them see.  One-sided, every rank averages the
newest that it knows of all ranks, each with weight 1/n.

One-sided ranks that mix gradients, as published, add much the same to weights that differ by how far each has got: so
they stay different, and none need be where the mean gradient vanishes.  One-sided updates cannot drift apart: each rank
has a position, moved by its own updates alone, and all work at the mean of the newest positions.
"""

import math
import time
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from .._partition import chunk_bounds
from .._value import value
from ..ranks.mailboxes import RemoteSlots, Slots, slot_bytes
from ..ranks.shared_mean import Meeting, meeting_bytes
from ..ranks.topology import all_gather_steps, reduce_scatter_steps, ring_neighbours
from ..ranks.world import PeerError
from .base import Channel, Mixed
from .mean import Mean, MeanChannel

_TAG = 1  # any tag would take the notice of a failed rank for a chunk
_ABANDONED = []


@value
class Ring(Mean):
    """Mean over all ranks of a ring.

    Parameters
    ----------
    payload : {"gradient", "weights", "updates"} or None
        None: gradients if two-sided, updates if one-sided.
    momentum, outer_rate : float
    precision : {"full", "bfloat16"}
        See `Mean`.
    mailbox : {"two-sided", "one-sided"}
        "two-sided": all ranks take part in every step, and get the exact mean of this step (ARAR).  "one-sided": the
        mean of the newest known positions, or gradients (RMA-ARAR), without waiting for anybody.  Both go through
        shared memory if all ranks are on one node, else through messages and remote memory access.
    max_staleness : int or None
        One-sided: age in steps that a contribution may have; None: any.  Steps are each rank's own, so a rank that is
        always slower than the others falls behind it sooner or later.
    beyond : {"leave out", "wait"}
        One-sided: what to do without a rank whose contribution is older than that, or that has published nothing for
        the world's `timeout_s`: go on with the others, or wait for it, and end with an error after that time.  Updates
        that were made once are never left out.
    """

    payload: Literal["gradient", "weights", "updates"] | None = None
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
        if not is_two_sided and self.payload == "weights":
            raise ValueError(
                'payload = "weights" goes around a two-sided ring only: old weights would undo the steps made since. '
                'Write Ring(payload="weights"), or Ring(mailbox="one-sided").'
            )
        if not is_two_sided and (self.momentum, self.outer_rate) != (Ring.momentum, Ring.outer_rate):
            raise ValueError("momentum and outer_rate are for two-sided updates: one-sided, every update counts once.")
        if self.carried == "updates" and self.max_staleness is not None and self.beyond == "leave out":
            raise ValueError('updates are never left out. Write beyond="wait", or leave max_staleness away.')
        if not is_two_sided and self.precision != "full":
            raise ValueError('precision = "bfloat16" is for messages. Write Ring(precision="bfloat16").')

    @property
    def carried(self):
        return self.payload or ("gradient" if self.mailbox == "two-sided" else "updates")

    def has_positions(self):
        return self.mailbox == "one-sided" and self.carried == "updates"

    def open(self, world, like):
        if self.mailbox == "one-sided":
            return _SlotsChannel(self, world, like)
        # Host memory is of no use to who asked for messages between GPUs.
        if world.size > 1 and not world.device_buffers and world.is_one_node():
            return _MeetingChannel(self, world, like)
        return _MessagesChannel(self, world, like)


class _MessagesChannel(MeanChannel):
    def mean(self, flat, step):
        rank, size = self.world.rank, self.world.size
        before, after = ring_neighbours(rank, size)
        comm, why = self.world.comm, f"{self.world.name(before)}, before this one on the ring, in step {step}"
        bounds = chunk_bounds(len(flat), size)
        chunks, incoming = ([whole[start:stop] for start, stop in bounds] for whole in (flat, self.scratch(flat)))
        # All receives are posted ahead, so that no message waits for its receiver's turn on the core.  One tag
        # throughout: messages of one sender arrive in the order they were sent.
        steps = reduce_scatter_steps(rank, size)
        receives = [comm.Irecv(self.message(incoming[added]), source=before, tag=_TAG) for _, added in steps]
        sends = []
        for (sent, added), receive in zip(steps, receives, strict=True):
            sends.append(comm.Isend(self.message(self.packed(chunks[sent])), dest=after, tag=_TAG))
            yield [receive], why
            chunks[added] += incoming[added]
        yield sends, why
        steps = all_gather_steps(rank, size)
        receives = [comm.Irecv(self.message(incoming[received]), source=before, tag=_TAG) for _, received in steps]
        own = steps[0][0]
        chunks[own].copy_(outgoing := self.packed(chunks[own]))
        sends = []
        for (_, received), receive in zip(steps, receives, strict=True):
            sends.append(comm.Isend(self.message(outgoing), dest=after, tag=_TAG))
            yield [receive], why
            chunks[received].copy_(outgoing := incoming[received])
        yield sends, why
        flat /= size
        return Mixed(received=size - 1)


class _MeetingChannel(MeanChannel):
    _memory = None

    def mean(self, flat, step):
        flat, size = flat.numpy(), self.world.size
        if self._memory is None:  # weights are more numbers than the gradient that the channel was opened with
            self._memory = self.world.share(meeting_bytes(flat.size, flat.dtype))
            self._meeting = Meeting(self._memory, self.world.rank, size, flat.size, flat.dtype)
        meeting = self._meeting

        def why():
            return f"{', '.join(map(self.world.name, meeting.late()))}, on the same ring, in step {step}"

        meeting.bring(flat)
        yield meeting.all_brought, why
        meeting.add_up()
        yield meeting.all_added, why
        meeting.collect(flat)
        flat /= size
        return Mixed(received=size - 1)

    def close(self):
        if self._memory is not None:
            self._memory.close()
        self.abandon()

    def abandon(self):
        self._memory = self._meeting = None


class _SlotsChannel(Channel):
    _memory = _slots = _position = _mean = _restored = None

    def mixing(self, flat, step, payload):
        if self.world.size == 1 or not self.exchange.carries(payload, step):
            return Mixed()
        host = flat.cpu()
        own = host.numpy()
        if self._slots is None:
            self._open_slots(own)
            if self._restored:
                yield from self._take_up(step)
        self.world.look_for_failures()
        self._slots.publish(self._moved(own), step)
        self._slots.look()
        origins = []
        for origin in range(self.world.size):
            if self.exchange.beyond == "wait" and not self._is_usable(origin, step):
                yield (lambda origin=origin: self._is_usable(origin, step)), self._why(origin, step)
            if origin == self.world.rank or self._is_counted(origin, step):
                origins.append(origin)
        steps = self._slots.mean(origins, own)
        if self._position is not None:
            # What is not finite is told to the trainer, which goes on with its own, and is not kept: it would stay.
            np.copyto(self._mean, own, where=np.isfinite(own))
        if host is not flat:
            flat.copy_(host)
        return Mixed(received=len(origins) - 1, staleness=max(0, step - min(steps)))

    def _open_slots(self, own):
        world = self.world
        is_one_node, n_bytes = world.is_one_node(), slot_bytes(own.size, own.dtype)
        self._memory = (world.share if is_one_node else world.expose)(n_bytes)
        kind = Slots if is_one_node else RemoteSlots
        self._slots = kind(self._memory, world.rank, world.size, own.size, own.dtype)
        self._seen = [(0, time.perf_counter())] * world.size
        if self.exchange.has_positions():
            # All begin with the same weights, so that it does not matter that these hold the first update already.
            self._position, self._mean = own.copy(), own.copy()

    def _take_up(self, step):
        """Go on from restored positions, once those of all ranks are known: a mean over fewer would be a jump."""
        self._position, self._mean = (self._restored[name].numpy().copy() for name in ("position", "mean"))
        self._slots.publish(self._position, step)

        def are_all_known():
            self._slots.look()
            return all(self._slots.count(origin) for origin in range(self.world.size))

        yield are_all_known, f"the positions of all ranks, in step {step}"

    def state_dict(self):
        if self._position is None:
            return self._restored or {}
        return {"position": self._position.copy(), "mean": self._mean.copy()}

    def load_state_dict(self, state):
        self._restored = state

    def _moved(self, own):
        """What this rank publishes: its gradient, or its position, moved by what it did since the last mean."""
        if self._position is None:
            return own
        self._position += own - self._mean
        np.copyto(self._mean, own)  # until there is a newer mean
        return self._position

    def _is_counted(self, origin, step):
        if self._position is not None:
            return self._slots.count(origin) > 0
        return self._is_known(origin, step)

    def _why(self, origin, step):
        last = self._slots.newest(origin)
        return f"{self.world.name(origin)}, which published step {last} last, in step {step}"

    def _is_usable(self, origin, step):
        """Whether there is nothing to wait for: it has published lately, or has left for good."""
        self._slots.look()
        return self._slots.has_left(origin) or self._is_known(origin, step)

    def _is_known(self, origin, step):
        newest = self._slots.newest(origin)
        limit = self.exchange.max_staleness
        return newest is not None and (limit is None or step - newest <= limit) and not self._is_silent(origin)

    def _is_silent(self, origin):
        count, now = self._slots.count(origin), time.perf_counter()
        if count != self._seen[origin][0]:
            self._seen[origin] = count, now
        return now - self._seen[origin][1] > self.world.timeout_s

    def _have_all_left(self):
        """Whether no rank has steps to do still; those that have may take hours, but not in silence."""
        self._slots.look()
        staying = [origin for origin in range(self.world.size) if not self._slots.has_left(origin)]
        silent = [self.world.name(origin) for origin in staying if self._is_silent(origin)]
        if silent:
            raise PeerError(
                f"{', '.join(silent)} did not finish: nothing came from there for {self.world.timeout_s:.0f} s. "
                "The others went on without, and have finished."
            )
        return not staying

    def close(self):
        if self._memory is not None:
            self._slots.leave()
            self.world.wait(self._have_all_left, "all ranks to finish their steps", math.inf)
            self.world.wait(self._slots.under_way(), "the last fetched gradients")
            self._memory.close()
            self._memory = None

    def abandon(self):
        if self._memory is not None:
            self._slots.leave()
            _ABANDONED.append(self._slots)  # others may fetch from it still, and it from them
        self._memory = None
