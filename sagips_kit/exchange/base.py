"""The contract of all exchanges: a value that the user writes down, and the resource it opens on every rank.

A channel describes one exchange as a generator: it yields what it waits for, and whoever drives it does the waiting.
So parts are nested by `yield from`, and an exchange can start now and finish later, with other work in between.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch

_UNFINISHED = []  # exchanges that failed: messages for their buffers may come until the process ends


@dataclass(frozen=True)
class Mixed:
    """What one exchange did.

    Attributes
    ----------
    received : int
        Other ranks whose contribution is in the mean.
    staleness : int
        Age of the oldest contribution, in steps.
    waited_s : float
        Time spent waiting for messages, in seconds.
    """

    received: int = 0
    staleness: int = 0
    waited_s: float = 0.0

    def then(self, other):
        """Both exchanges as one: the mean of means has all the contributions of the inner ones."""
        received = (1 + self.received) * (1 + other.received) - 1
        return Mixed(received, max(self.staleness, other.staleness), self.waited_s + other.waited_s)


class Exchange(ABC):
    """A mode of exchange: a frozen value that travels from the notebook to the ranks and into the store."""

    @abstractmethod
    def open(self, world, like):
        """The channel of this rank for gradients shaped like `like` (member, weight).  Collective."""

    @abstractmethod
    def replicas(self, size):
        """The replica of each of `size` ranks, numbered from 0: tuple of int; None if it depends on the nodes."""

    def carries(self, payload, step):
        """Whether `payload`, "gradient" or "weights", travels in `step`."""
        return payload == "gradient"

    def has_positions(self):
        """Whether each rank moves a position of its own, and knows the mean of all only as far as it has heard."""
        return False

    def after(self, earlier):
        """This exchange as it is opened next to `earlier`, whose results it mixes."""
        return self

    def replica(self, rank, size):
        """The replica that `rank` belongs to: ranks of one replica hold the same generators."""
        replicas = self.replicas(size)
        if replicas is None:
            raise ValueError(
                f"{self}: how many replicas {size} ranks are depends on how many of them share a node. "
                "Say how many make a group, for instance Within(Ring(), size=4)."
            )
        return replicas[rank]

    def n_replicas(self, size):
        """Number of different generators per member in a run of `size` ranks."""
        self.replica(0, size)
        return len(set(self.replicas(size)))


class Channel(ABC):
    """One rank's end of an exchange; owns its buffers and messages.

    Parameters
    ----------
    exchange : Exchange
    world : World
    like : Tensor (member, weight)
        The gradients to come have its shape, dtype and device.
    """

    def __init__(self, exchange, world, like):
        self.exchange, self.world = exchange, world
        # What the first buffer of weights is like is seen when it comes.
        self._forms = {"gradient": (like.shape, like.dtype)}
        self._stages = {}
        self._under_way = None

    def __enter__(self):
        return self

    def __exit__(self, kind, *exception):
        if kind is None:
            return self.close()
        # Who fails must not wait for the others, who may wait for it.
        if self._under_way is not None:
            _UNFINISHED.append(self._under_way)
        self.abandon()

    def mix_(self, gradient, step):
        """Replace `gradient` (member, weight), in place, by the mean over the ranks of this mode.

        Returns
        -------
        Mixed
        """
        self.start(gradient, step)
        return self.finish()

    def wants_weights(self, step):
        """Whether `mix_weights_` does anything in `step`; the same on all ranks."""
        return self.exchange.carries("weights", step)

    def mix_weights_(self, weights, step):
        """The same for the weights (member, weight), after the optimiser's step; returns Mixed."""
        self.start(weights, step, "weights")
        return self.finish()

    def start(self, buffer, step, payload="gradient"):
        """Begin to mix `buffer`, which belongs to the channel until `finish`."""
        if self._under_way is not None:
            raise RuntimeError("An exchange is under way already. Call finish() before the next start(...).")
        self._check(buffer, payload)
        stage = self._stage(buffer, payload)
        mixing = self.mixing(stage.detach().view(-1), step, payload)
        self._under_way = [mixing, None, buffer, stage, Mixed()]
        self._advance()

    def finish(self):
        """Wait for what `start` began; returns Mixed."""
        if self._under_way is None:
            raise RuntimeError("There is nothing to finish. Call start(buffer, step) first.")
        waited_s = 0.0
        try:
            while (waiting := self._under_way[1]) is not None:
                waited_s += self.world.wait(*waiting)
                self._advance()
            _, _, buffer, stage, mixed = self._under_way
        except BaseException:
            _UNFINISHED.append(self._under_way)
            raise
        finally:
            self._under_way = None
        if stage is not buffer:
            buffer.copy_(stage)
        return replace(mixed, waited_s=waited_s)

    def poll(self):
        """Take the exchange under way as far as it gets without waiting; True if only `finish` is left."""
        while self._under_way and self._under_way[1] is not None:
            if not self.world.is_done(self._under_way[1][0]):
                return False
            self._advance()
        return True

    def _advance(self):
        try:
            self._under_way[1] = next(self._under_way[0])
        except StopIteration as end:
            self._under_way[1], self._under_way[4] = None, end.value

    def _check(self, buffer, payload):
        shape, dtype = self._forms.setdefault(payload, (buffer.shape, buffer.dtype))
        if buffer.shape != shape or buffer.dtype != dtype or not buffer.is_contiguous():
            raise ValueError(
                f"mix_ got a buffer of shape {tuple(buffer.shape)} and {buffer.dtype}; this channel was opened for a "
                f"contiguous one of shape {tuple(shape)} and {dtype}. Open another channel for it."
            )

    def _stage(self, buffer, payload):
        # A GPU's buffer goes through pinned host memory, unless the user said that MPI reads the GPU's.
        if buffer.device.type == "cpu" or self.world.device_buffers:
            return buffer
        if payload not in self._stages:
            self._stages[payload] = torch.empty(buffer.shape, dtype=buffer.dtype, pin_memory=True)
        return self._stages[payload].copy_(buffer)

    @abstractmethod
    def mixing(self, flat, step, payload):
        """Mix `flat`, Tensor (number,), in place: a generator that returns Mixed.

        It yields pairs for `World.wait`: requests, or a function that tells whether they are done; and for whom.
        """

    @staticmethod
    def message(flat):
        """`flat`, Tensor (number,), as mpi4py takes it: the same memory, with all work on it done."""
        if flat.dtype == torch.bfloat16:
            flat = flat.view(torch.int16)  # MPI only carries the bits
        if flat.device.type == "cpu":
            return flat.numpy()
        torch.cuda.current_stream(flat.device).synchronize()
        return flat

    def state_dict(self):
        """What the next exchange depends on besides its buffer, as nested dicts of tensors and numbers; {} if nothing.

        Taken between two exchanges.
        """
        return {}

    def load_state_dict(self, state):
        """Go on where `state` was taken, on all ranks in the same step, in a channel that has exchanged nothing yet."""

    def close(self):
        """Give back what the channel owns.  Collective, and harmless when called again."""

    def abandon(self):
        """Leave after an error, without waiting for anybody."""
