"""Memory of one rank that other ranks read without its help: shared memory on one node, remote memory across nodes.

Both kinds are filled with zeros when they are opened, are opened and closed by all ranks together, and do not interpret
their contents.
"""

import warnings
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .segments import explain, fits, room_left

if TYPE_CHECKING:
    from mpi4py import MPI

    from .world import World

Bytes: TypeAlias = NDArray[np.uint8]

_PAGE = 4096
_KEPT: list[object] = []


def keep_until_exit(*objects: object) -> None:
    """Keep `objects` alive until the process ends.

    After an error, messages under way are neither completed nor cancelled, because either could block on a rank that
    has failed.  MPI may still read and write their buffers, so neither these nor their owners may be freed.
    """
    _KEPT.extend(objects)


class Memory(Protocol):
    """What shared and remote memory have in common."""

    def fence(self) -> None:
        """Complete this rank's earlier reads and writes before its later ones."""

    def close(self) -> None:
        """Free the memory.  Collective; closing again does nothing."""


class NodeMemory(Memory, Protocol):
    """Memory of which a rank sees the part of every rank: `of_ranks`, list of ndarray (byte,)."""

    of_ranks: list[Bytes]


class FetchedMemory(Memory, Protocol):
    """Memory of which a rank sees only its part, `own` (byte,), and copies those of others."""

    own: Bytes

    def fetch(self, rank: int, into: Bytes) -> "MPI.Request":
        """Start to copy all memory of `rank` to `into` (byte,); the request completes when the copy is there."""
        ...


class SharedMemory:
    """Memory of each rank that all ranks of one node address directly.  Collective.

    Parameters
    ----------
    world : World
        Ranks that all run on one node.
    n_bytes : int
        Size of each rank's part.

    Attributes
    ----------
    of_ranks : list of ndarray (byte,)
        The part of each rank.
    """

    def __init__(self, world: "World", n_bytes: int) -> None:
        from mpi4py import MPI

        self._world, self._is_open = world, True
        comm = world.communicator()
        world.barrier("all ranks to allocate shared memory")
        self._window = MPI.Win.Allocate_shared(n_bytes, 1, comm=comm)
        parts = [self._window.Shared_query(rank)[0] for rank in range(world.size)]
        self.of_ranks: list[Bytes] = [np.frombuffer(part.cast("B"), np.uint8, n_bytes) for part in parts]
        _open(world, self._window, self.of_ranks[world.rank])

    def fence(self) -> None:
        """Complete this rank's earlier reads and writes before its later ones."""
        self._window.Sync()

    def close(self) -> None:
        """Free the memory.  Collective; closing again does nothing."""
        if self._is_open:
            self._is_open, self.of_ranks = False, []
            _close(self._world, self._window)


class RemoteMemory:
    """Memory of each rank that the others copy through the network.  Collective.

    MPI takes it from the shared memory of each node; where there is too little, it is memory of the rank alone.

    Parameters
    ----------
    world : World
        Ranks on any nodes.
    n_bytes : int
        Size of each rank's part.

    Attributes
    ----------
    own : ndarray (byte,)
        This rank's part.
    """

    def __init__(self, world: "World", n_bytes: int) -> None:
        from mpi4py import MPI

        self._world, self._is_open = world, True
        comm = world.communicator()
        if _fits(world, n_bytes):
            self._window = MPI.Win.Allocate(n_bytes, 1, comm=comm)
            self.own: Bytes = np.frombuffer(self._window.tomemory().cast("B"), np.uint8)
        else:
            self.own = np.zeros(n_bytes, np.uint8)
            self._window = MPI.Win.Create(self.own, 1, comm=comm)
        _open(world, self._window, self.own)

    def fence(self) -> None:
        """Complete this rank's earlier reads and writes before its later ones."""
        self._window.Sync()

    def fetch(self, rank: int, into: Bytes) -> "MPI.Request":
        """Start to copy all memory of `rank` to `into` (byte,); the request completes when the copy is there."""
        return self._window.Rget(into, rank)

    def close(self) -> None:
        """Free the memory.  Collective; all copies must be complete.  Closing again does nothing."""
        if self._is_open:
            self._is_open, self.own = False, np.empty(0, np.uint8)
            _close(self._world, self._window)


def shared_memory(world: "World", n_bytes: int) -> SharedMemory | None:
    """Memory of `n_bytes` of each rank, which all run on one node; None if there is too little.  Collective."""
    if _fits(world, n_bytes):
        return SharedMemory(world, n_bytes)
    if world.rank == 0:
        text = explain(n_bytes * world.size, room_left() or 0)
        warnings.warn(f"{text} Until then, ranks send messages, which is slower.", stacklevel=2)
    return None


def _fits(world: "World", n_bytes: int) -> bool:
    """Whether memory of each rank fits into the shared memory of its node, on all nodes.  Collective."""
    here = next(len(node) for node in world.groups() if world.rank in node)
    # MPI begins each part with a new page.
    is_enough = fits(here * (n_bytes + _PAGE))
    world.barrier("all ranks to look for shared memory")
    return all(world.communicator().allgather(is_enough))


def _open(world: "World", window: "MPI.Win", own: Bytes) -> None:
    from mpi4py import MPI

    own[:] = 0
    window.Lock_all(MPI.MODE_NOCHECK)
    window.Sync()
    world.barrier("all ranks to clear their memory")


def _close(world: "World", window: "MPI.Win") -> None:
    world.barrier("all ranks to free their memory")
    window.Unlock_all()
    window.Free()
