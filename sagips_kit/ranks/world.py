"""The ranks of a run: which one this is, how many there are, and how to wait for the others without blocking forever.

`mpi4py.MPI` is imported only where a world of several ranks is made, because importing it starts MPI.  Every wait polls
with a deadline and looks for the notice of a failed rank, so that an exception on one rank ends all within seconds.
"""

import contextlib
import dataclasses
import math
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import torch

from .accelerators import check_device_buffers, pick_device
from .launcher import require_mpi4py, require_one_world, under_mpi
from .memory import RemoteMemory, SharedMemory, keep_until_exit, shared_memory
from .segments import require_start
from .topology import groups
from .waiting import NAP_S, PeerError, Until, Whom, is_done, poll

if TYPE_CHECKING:
    from mpi4py import MPI

_FAILURE_TAG = 7
_LOOK_S = 0.1  # between two looks for failure notices
_NOTICE_CHARACTERS = 2000  # of an error's text: a short message is sent at once, even if nobody receives it

T = TypeVar("T")


@dataclass
class World:
    """The ranks that train together, as seen by one of them.

    Make one with `World.here()`, `World.from_mpi()` or `World.alone()` rather than by the constructor.

    Parameters
    ----------
    rank : int
        Number of this rank, from 0.
    size : int
        Number of ranks.
    device : torch.device
        Where this rank computes.
    comm : mpi4py.MPI.Intracomm or None
        Communicator of these ranks alone, which no other code uses; None for a single rank without MPI.
    hosts : tuple of str
        Host of each rank of the whole run, for messages.
    timeout_s : float
        Longest wait for another rank, in seconds; the run then ends with an error.
    report_s : float
        Time after which a wait is logged as a warning, in seconds.
    device_buffers : bool
        Whether MPI reads and writes the GPU's memory itself; otherwise messages pass through host memory.

    Attributes
    ----------
    whole : World or None
        The world of all ranks, in the world of a group of them; None in the former.
    ranks : tuple of int or None
        Numbers of these ranks in `whole`; None in the world of all ranks.

    See Also
    --------
    Trainer : Trains the generators of one rank of a world.
    Exchange.open : Opens an exchange between the ranks of a world.

    Examples
    --------
    A process that `mpiexec` started is one rank of many, any other is a rank alone:

    >>> from sagips_kit import World
    >>> world = World.here()

    Without MPI, in a notebook for instance:

    >>> world = World.alone("cpu")
    >>> world.rank, world.size
    (0, 1)
    >>> world.device
    device(type='cpu')
    >>> world.groups()
    [(0,)]
    """

    rank: int
    size: int
    device: torch.device
    _: dataclasses.KW_ONLY
    comm: "MPI.Intracomm | None" = None
    hosts: tuple[str, ...] = ()
    timeout_s: float = 300.0
    report_s: float = 30.0
    device_buffers: bool = False
    whole: "World | None" = field(default=None, init=False)
    ranks: tuple[int, ...] | None = field(default=None, init=False)
    _looked: float = field(default=0.0, init=False, repr=False)

    @classmethod
    def alone(cls, device: torch.device | str | None = None) -> "World":
        """A single rank, without MPI.

        Parameters
        ----------
        device : torch.device, str or None
            Where to compute; None takes the first accelerator, or the CPU if there is none, unless the environment has
            SAGIPS_DEVICE=cpu, cuda, xpu or mps.

        Returns
        -------
        World
            A world of size 1.
        """
        return cls(0, 1, torch.device(device or pick_device(0)), hosts=(socket.gethostname(),))

    @classmethod
    def from_mpi(
        cls,
        comm: "MPI.Intracomm | None" = None,
        device: torch.device | str | None = None,
        timeout_s: float = 300.0,
        device_buffers: bool | None = None,
    ) -> "World":
        """All ranks of an MPI communicator.  Collective.

        Parameters
        ----------
        comm : mpi4py.MPI.Intracomm or None
            The communicator, which is duplicated; None takes MPI.COMM_WORLD.
        device : torch.device, str or None
            Where this rank computes; None takes an accelerator of the node, one rank after the other, or the CPU if
            there is none, unless the environment has SAGIPS_DEVICE=cpu, cuda, xpu or mps.
        timeout_s : float
            Longest wait for another rank, in seconds.
        device_buffers : bool or None
            Whether MPI reads and writes the GPU's memory itself; None looks whether the environment has
            SAGIPS_DEVICE_BUFFERS=1.

        Returns
        -------
        World
            The world as seen by this rank.

        Raises
        ------
        ValueError, ModuleNotFoundError
            On all ranks, if device buffers are asked for and do not work on one of them; if mpi4py is not installed.
        RuntimeError, MemoryError
            If the launcher does not belong to the MPI of mpi4py, so that each of its processes would be alone; if MPI
            has not been started, and the node has too little shared memory for it.
        """
        require_mpi4py()
        require_start()
        from mpi4py import MPI

        require_one_world(MPI.COMM_WORLD.size, MPI.Get_library_version().splitlines()[0].strip("\0 "))
        comm = (MPI.COMM_WORLD if comm is None else comm).Dup()
        node = comm.Split_type(MPI.COMM_TYPE_SHARED)
        device = torch.device(device or pick_device(node.rank, node.size))
        node.Free()
        hosts = tuple(comm.allgather(socket.gethostname()))
        if device_buffers is None:
            device_buffers = os.environ.get("SAGIPS_DEVICE_BUFFERS") == "1"
        if device_buffers:
            check_device_buffers(comm, device)
        return cls(
            comm.rank, comm.size, device, comm=comm, hosts=hosts, timeout_s=timeout_s, device_buffers=device_buffers
        )

    @classmethod
    def here(cls) -> "World":
        """All ranks if an MPI launcher has started this process, else a single rank.  Collective.

        Returns
        -------
        World
            The world as seen by this rank.
        """
        return cls.from_mpi() if under_mpi() else cls.alone()

    @property
    def hostname(self) -> str:
        """Host of this rank."""
        return self.hosts[self._in_whole(self.rank)] if self.hosts else socket.gethostname()

    def _in_whole(self, rank: int) -> int:
        return rank if self.ranks is None else self.ranks[rank]

    def name(self, rank: int) -> str:
        """How messages name a rank: by its number in the whole run, and by its host.

        Parameters
        ----------
        rank : int
            A rank of this world.

        Returns
        -------
        str
            For instance "rank 3 on node7".
        """
        rank = self._in_whole(rank)
        return f"rank {rank} on {self.hosts[rank]}" if self.hosts else f"rank {rank}"

    def communicator(self) -> "MPI.Intracomm":
        """The MPI communicator of this world, for messages.

        Returns
        -------
        mpi4py.MPI.Intracomm
            The same as `comm`.

        Raises
        ------
        RuntimeError
            If this is a single rank without MPI.
        """
        if self.comm is None:
            raise RuntimeError("This world has no communicator: it is a single rank without MPI, or has been closed.")
        return self.comm

    def groups(self, size: int | None = None) -> list[tuple[int, ...]]:
        """The ranks of this world in groups.  Collective.

        Parameters
        ----------
        size : int or None
            Number of consecutive ranks in a group, the last of which may be smaller; None makes each node a group.

        Returns
        -------
        list of tuple of int
            The ranks of each group.
        """
        if size is not None or self.comm is None:
            return groups(self.size, size or 1)
        from mpi4py import MPI

        self.barrier("all ranks to report their nodes")
        node = self.comm.Split_type(MPI.COMM_TYPE_SHARED)
        first = node.bcast(self.rank)
        node.Free()
        firsts = self.comm.allgather(first)
        return [tuple(rank for rank in range(self.size) if firsts[rank] == first) for first in sorted(set(firsts))]

    def part(self, parts: Sequence[tuple[int, ...]]) -> "World | None":
        """The world of the group that this rank is in.  Collective.

        Parameters
        ----------
        parts : list of tuple of int
            Ranks of each group; the same on all ranks.

        Returns
        -------
        World or None
            None if this rank is in no group.
        """
        own = next((ranks for ranks in parts if self.rank in ranks), None)
        if self.comm is None:
            return None if own is None else dataclasses.replace(self, rank=0, size=1)
        from mpi4py import MPI

        # MPI's split blocks, but not for long once all ranks are here.
        self.barrier("all ranks to form groups")
        comm = self.comm.Split(MPI.UNDEFINED if own is None else own[0], self.rank)
        if own is None or not isinstance(comm, MPI.Intracomm):
            return None
        group = dataclasses.replace(self, rank=comm.rank, size=comm.size, comm=comm)
        group.whole, group.ranks = self.whole or self, tuple(map(self._in_whole, own))
        return group

    def is_one_node(self) -> bool:
        """Whether all ranks share one node's memory.  Collective.

        Returns
        -------
        bool
            The same on all ranks.
        """
        return len(self.groups()) == 1

    def share(self, n_bytes: int) -> SharedMemory | None:
        """Allocate memory that all ranks address directly; they must run on one node.  Collective.

        Parameters
        ----------
        n_bytes : int
            Size of each rank's part.

        Returns
        -------
        SharedMemory or None
            Filled with zeros; None, and a warning, if the node has too little shared memory.
        """
        return shared_memory(self, n_bytes)

    def expose(self, n_bytes: int) -> RemoteMemory:
        """Allocate memory that the other ranks, on any nodes, can copy.  Collective.

        Parameters
        ----------
        n_bytes : int
            Size of each rank's part.

        Returns
        -------
        RemoteMemory
            Filled with zeros.
        """
        return RemoteMemory(self, n_bytes)

    def close(self) -> None:
        """Free the communicator.  Collective; closing again does nothing."""
        if self.comm is not None:
            self.comm.Free()
            self.comm = None

    def is_done(self, until: Until) -> bool:
        """Whether a wait is over.

        Parameters
        ----------
        until : list of mpi4py.MPI.Request, or callable
            Requests that all have to complete, or a function without arguments that returns whether the wait is over.

        Returns
        -------
        bool
            Whether it is.
        """
        return is_done(until)

    def wait(self, until: Until, whom: Whom, timeout_s: float | None = None) -> float:
        """Wait for messages, or for a condition.

        Parameters
        ----------
        until : list of mpi4py.MPI.Request, or callable
            Requests that all have to complete, or a function without arguments that returns whether the wait is over.
        whom : str, or callable
            What this rank waits for, for messages; a function without arguments finds it out when it is needed.
        timeout_s : float or None
            Longest wait, in seconds; None takes that of the world.

        Returns
        -------
        float
            Time waited, in seconds.

        Raises
        ------
        PeerError
            If another rank failed, or the wait took too long.
        """
        try:
            return poll(
                until,
                partial(self._waiting, whom),
                self.look_for_failures,
                timeout_s=self.timeout_s if timeout_s is None else timeout_s,
                report_s=self.report_s,
            )
        except BaseException as error:
            if not callable(until):
                keep_until_exit(*until)
            # MPI fails to complete what a rank offered that has left since; the notice it sent before gives the cause.
            if type(error).__module__.startswith("mpi4py"):
                self.look_for_failures(for_s=1.0)
            raise

    def _waiting(self, whom: Whom, waited_s: float) -> str:
        name = self.name(self.rank)
        return f"{name[0].upper()}{name[1:]} waited {waited_s:.0f} s for {whom() if callable(whom) else whom}"

    def barrier(self, whom: Whom = "the other ranks", timeout_s: float | None = None) -> None:
        """Wait until all ranks have called this.  Collective.

        Parameters
        ----------
        whom : str, or callable
            What this rank waits for, for messages.
        timeout_s : float or None
            Longest wait, in seconds; None takes that of the world.

        Raises
        ------
        PeerError
            If another rank failed, or did not come in time.
        """
        if self.comm is not None:
            self.wait([self.comm.Ibarrier()], whom, timeout_s)

    @contextlib.contextmanager
    def rank_0_first(self, whom: Whom) -> Iterator[None]:
        """Run a `with` block on rank 0, then on the others; on none of them if rank 0 fails.  Collective.

        The others wait without a deadline, since what rank 0 does may take long, a likelihood fit for instance.

        Parameters
        ----------
        whom : str, or callable
            What the other ranks wait for, for messages.

        Yields
        ------
        None
            When it is this rank's turn.

        Raises
        ------
        PeerError
            On the other ranks, if rank 0 fails.
        """
        if self.rank != 0:
            self.barrier(whom, math.inf)
        try:
            yield
        except BaseException as error:
            self.announce_failure(error)
            raise
        if self.rank == 0:
            self.barrier(whom, math.inf)

    def from_rank_0(self, make: Callable[[], T], whom: Whom) -> T:
        """Call a function on rank 0 only, and return its result on all ranks.  Collective.

        Parameters
        ----------
        make : callable
            Called without arguments; its result must be picklable.
        whom : str, or callable
            What the other ranks wait for, for messages.

        Returns
        -------
        object
            What `make()` returned on rank 0.

        Raises
        ------
        PeerError
            On the other ranks, if rank 0 fails.
        """
        made = []
        with self.rank_0_first(whom):
            if self.rank == 0:
                made.append(make())
        return (made if self.comm is None else self.comm.bcast(made))[0]

    def announce_failure(self, error: BaseException) -> None:
        """Notify all other ranks that this one failed, so that none of them waits for it in vain.

        Parameters
        ----------
        error : BaseException
            Why it failed.  A PeerError that names the rank at fault is not announced: all ranks have its notice.
        """
        if self.whole is not None:  # ranks look for notices in the world of all ranks
            self.whole.announce_failure(error)
            return
        if self.comm is None or (isinstance(error, PeerError) and error.rank is not None):
            return
        text = f"{self.name(self.rank)} failed: {type(error).__name__}: {error}"[:_NOTICE_CHARACTERS]
        peers = [peer for peer in range(self.size) if peer != self.rank]
        keep_until_exit(*[self.comm.isend((self.rank, text), dest=peer, tag=_FAILURE_TAG) for peer in peers])

    def look_for_failures(self, for_s: float | None = None) -> None:
        """Raise the error of a rank that failed.  Cheap enough for every step.

        Parameters
        ----------
        for_s : float or None
            Keep looking for this time, in seconds; None looks once, and at most every 0.1 s.

        Raises
        ------
        PeerError
            If a rank has announced its failure.
        """
        if self.whole is not None:
            self.whole.look_for_failures(for_s)
            return
        start = time.perf_counter()
        if self.comm is None or (for_s is None and start - self._looked < _LOOK_S):
            return
        self._looked = start
        while not (has_failed := self.comm.Iprobe(tag=_FAILURE_TAG)) and time.perf_counter() - start < (for_s or 0.0):
            time.sleep(NAP_S)
        if has_failed:
            rank, text = self.comm.recv(tag=_FAILURE_TAG)
            raise PeerError(f"Stopped because {text}", rank)
