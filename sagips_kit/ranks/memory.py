"""Memory of a rank that other ranks read by themselves: shared memory on one node, remote memory across nodes.

Both begin with zeros, are made and closed by all ranks together, and say nothing about what is in them.
"""

import numpy as np


class SharedMemory:
    """Memory of each rank that all ranks of one node see as their own.  Collective.

    Parameters
    ----------
    world : World
        All of its ranks on one node.
    n_bytes : int
        Of each rank.

    Attributes
    ----------
    of_ranks : list of ndarray of uint8
        The memory of each rank.
    """

    def __init__(self, world, n_bytes):
        from mpi4py import MPI

        self._world = world
        world.barrier("all ranks to share memory")
        self._window = MPI.Win.Allocate_shared(n_bytes, 1, comm=world.comm)
        parts = [self._window.Shared_query(rank)[0] for rank in range(world.size)]
        self.of_ranks = [np.frombuffer(part, dtype=np.uint8, count=n_bytes) for part in parts]
        _open(world, self._window, self.of_ranks[world.rank])

    def fence(self):
        """Order what this rank wrote and read before and after."""
        self._window.Sync()

    def close(self):
        """Give the memory back.  Collective, and harmless when called again."""
        if self._window is not None:
            _close(self._world, self._window)
            self._window = self.of_ranks = None


class RemoteMemory:
    """Memory of each rank that the others fetch through the network.  Collective.

    Parameters
    ----------
    world : World
    n_bytes : int
        Of each rank.

    Attributes
    ----------
    own : ndarray of uint8
        This rank's memory.
    """

    def __init__(self, world, n_bytes):
        from mpi4py import MPI

        self._world = world
        world.barrier("all ranks to open their memory")
        self._window = MPI.Win.Allocate(n_bytes, 1, comm=world.comm)
        self.own = np.frombuffer(self._window, dtype=np.uint8)
        _open(world, self._window, self.own)

    def fence(self):
        """Order what this rank wrote and read before and after."""
        self._window.Sync()

    def fetch(self, rank, into):
        """Begin to copy the whole memory of `rank` to `into` (byte,): a request that MPI completes."""
        return self._window.Rget(into, rank)

    def close(self):
        """Give the memory back.  Collective, and harmless when called again; all that was fetched has to be there."""
        if self._window is not None:
            _close(self._world, self._window)
            self._window = self.own = None


def _open(world, window, own):
    from mpi4py import MPI

    own[:] = 0
    window.Lock_all(MPI.MODE_NOCHECK)
    window.Sync()
    world.barrier("all ranks to clear their memory")


def _close(world, window):
    world.barrier("all ranks to give their memory back")
    window.Unlock_all()
    window.Free()
