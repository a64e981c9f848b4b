"""The contract of all exchanges: a value that the user writes down, and the resource it opens on every rank."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch


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


class Exchange(ABC):
    """A mode of exchange: a frozen value that travels from the notebook to the ranks and into the store."""

    @abstractmethod
    def open(self, world, like):
        """The channel of this rank for buffers shaped like `like` (member, weight).  Collective."""

    @abstractmethod
    def replica(self, rank, size):
        """The replica that `rank` belongs to: ranks of one replica hold the same generators."""

    def n_replicas(self, size):
        """Number of different generators per member in a run of `size` ranks."""
        return len({self.replica(rank, size) for rank in range(size)})


class Channel(ABC):
    """One rank's end of an exchange; owns its buffers and messages.

    Parameters
    ----------
    world : World
    like : Tensor (member, weight)
        The buffers to come have its shape, dtype and device.
    """

    def __init__(self, world, like):
        self.world = world
        self.shape, self.dtype = like.shape, like.dtype
        # MPI reads host memory; a GPU's buffer is staged through pinned memory, since GPU-aware MPI cannot be detected.
        is_host = like.device.type == "cpu"
        self._stage = None if is_host else torch.empty(like.shape, dtype=like.dtype, pin_memory=True)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def mix_(self, buffer, step):
        """Replace `buffer` (member, weight), in place, by the mean over the ranks of this mode.

        Returns
        -------
        Mixed
        """
        if buffer.shape != self.shape or buffer.dtype != self.dtype or not buffer.is_contiguous():
            raise ValueError(
                f"mix_ got a buffer of shape {tuple(buffer.shape)} and {buffer.dtype}; this channel was opened for a "
                f"contiguous one of shape {tuple(self.shape)} and {self.dtype}. Open another channel for it."
            )
        if self._stage is None:
            return self._mix(buffer.detach().view(-1).numpy(), step)
        self._stage.copy_(buffer)
        mixed = self._mix(self._stage.view(-1).numpy(), step)
        buffer.copy_(self._stage)
        return mixed

    @abstractmethod
    def _mix(self, flat, step):
        """Mix the host array `flat` (number,) in place."""

    def close(self):
        """Give back what the channel owns.  Collective, and harmless when called again."""
