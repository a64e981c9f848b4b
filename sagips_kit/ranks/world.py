"""The ranks of a run: who am I, how many are we, and how to wait for the others without ever blocking for good.

`mpi4py.MPI` is imported only when a world of several ranks is made, since its import starts MPI.  Every wait polls with
a deadline and looks out for the notice of a peer that failed, so that one rank's exception ends all within seconds.
"""

import contextlib
import dataclasses
import logging
import math
import os
import socket
import time
from dataclasses import dataclass

import torch

from .gpu import check_device_buffers
from .memory import RemoteMemory, SharedMemory
from .topology import groups

_LOG = logging.getLogger("sagips_kit")
_FAILURE_TAG = 7
_SPINS = 5  # polls before that: a message between neighbours takes some microseconds
_YIELD_S = 0.01  # ranks may share cores: so long, give the core to others between two polls; a nap lasts longer
_NAP_S = 5e-5
_LOOK_S = 0.1  # between two looks for failure notices
_NOTICE_CHARACTERS = 2000  # of an error's text: a short message leaves at once, even if nobody receives it
_LAUNCHER_SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "PMIX_SIZE", "MPI_LOCALNRANKS", "PALS_LOCAL_SIZE")
_UNFINISHED = []  # requests nobody waits for any more: MPI may use their buffers until the process ends


class PeerError(RuntimeError):
    """Another rank failed, or did not answer in time.

    Attributes
    ----------
    rank : int or None
        The rank that failed first, if known.
    """

    def __init__(self, message, rank=None):
        super().__init__(message)
        self.rank = rank

    def __reduce__(self):
        return PeerError, (self.args[0], self.rank)


@dataclass
class World:
    """The ranks that train together, as one of them sees them.

    Attributes
    ----------
    rank, size : int
    device : torch.device
    hostname : str
    comm : mpi4py.MPI.Comm or None
        A private duplicate; None for a rank alone.
    timeout_s : float
        Longest wait for another rank, in seconds.
    report_s : float
        Wait after which a warning is logged, in seconds.
    whole : World or None
        The world that this one is a part of; None if it is the whole.
    ranks : tuple of int or None
        Ranks, in the whole world, of the ranks of this part.
    hosts : tuple of str
        The host of each rank of the whole world, for messages.
    device_buffers : bool
        Whether MPI reads and writes the GPU's memory itself.
    """

    rank: int
    size: int
    device: torch.device
    hostname: str
    comm: object = None
    timeout_s: float = 300.0
    report_s: float = 30.0
    whole: "World | None" = None
    ranks: tuple | None = None
    hosts: tuple = ()
    device_buffers: bool = False
    _looked: float = 0.0

    @classmethod
    def alone(cls, device=None):
        """One rank without MPI."""
        return cls(0, 1, torch.device(device or _pick_device(0)), socket.gethostname())

    @classmethod
    def from_mpi(cls, comm=None, device=None, timeout_s=300.0, device_buffers=None):
        """All ranks of `comm` (MPI.COMM_WORLD by default).  Collective.

        `device_buffers` = True lets MPI read and write GPU memory itself, and raises a ValueError if it cannot; None
        looks whether the environment has SAGIPS_DEVICE_BUFFERS=1.
        """
        from mpi4py import MPI

        comm = (MPI.COMM_WORLD if comm is None else comm).Dup()
        node = comm.Split_type(MPI.COMM_TYPE_SHARED)
        device = torch.device(device or _pick_device(node.rank))
        node.Free()
        hostname = socket.gethostname()
        hosts = tuple(comm.allgather(hostname))
        if device_buffers is None:
            device_buffers = os.environ.get("SAGIPS_DEVICE_BUFFERS") == "1"
        if device_buffers:
            check_device_buffers(comm, device)
        return cls(comm.rank, comm.size, device, hostname, comm, timeout_s, hosts=hosts, device_buffers=device_buffers)

    @classmethod
    def here(cls):
        """All ranks if this process was started by an MPI launcher, else one rank alone.  Collective."""
        return cls.from_mpi() if under_mpi() else cls.alone()

    def name(self, rank):
        """What messages call a rank: by its number in the whole world, and its host."""
        rank = self.ranks[rank] if self.ranks else rank
        return f"rank {rank} on {self.hosts[rank]}" if self.hosts else f"rank {rank}"

    def groups(self, size=None):
        """Ranks in groups of `size` consecutive ones, or by node if None: list of tuple.  Collective."""
        if size is not None or self.comm is None:
            return groups(self.size, size or 1)
        self.barrier("all ranks to say on which node they are")
        node = self.comm.Split_type(_shared_type())
        first = node.bcast(self.rank)
        node.Free()
        firsts = self.comm.allgather(first)
        return [tuple(rank for rank in range(self.size) if firsts[rank] == first) for first in sorted(set(firsts))]

    def part(self, parts):
        """The world of this rank's part: World, or None if no part has it.  Collective.

        Parameters
        ----------
        parts : list of tuple of int
            Ranks of this world; the same on all ranks.
        """
        mine = next((ranks for ranks in parts if self.rank in ranks), None)
        if self.comm is None:
            return mine and dataclasses.replace(self, rank=0, size=1)
        # Splitting blocks, but not for long once all ranks are here.
        self.barrier("all ranks to form groups")
        comm = self.comm.Split(mine[0] if mine else _undefined(), self.rank)
        if mine is None:
            return None
        ranks = tuple(self.ranks[rank] if self.ranks else rank for rank in mine)
        whole = self.whole or self
        return dataclasses.replace(self, rank=comm.rank, size=comm.size, comm=comm, whole=whole, ranks=ranks)

    def is_one_node(self):
        """Whether all ranks share memory.  Collective."""
        return len(self.groups()) == 1

    def share(self, n_bytes):
        """`n_bytes` of memory of each rank that all see, on one node: SharedMemory.  Collective."""
        return SharedMemory(self, n_bytes)

    def expose(self, n_bytes):
        """`n_bytes` of memory of each rank that the others can fetch, on any node: RemoteMemory.  Collective."""
        return RemoteMemory(self, n_bytes)

    def close(self):
        """Give back the communicator.  Collective, and harmless when called again."""
        if self.comm is not None:
            self.comm.Free()
            self.comm = None

    def is_done(self, requests):
        """Whether all `requests` are done, or the function that stands for them says so."""
        if callable(requests):
            return requests()
        from mpi4py import MPI

        return MPI.Request.Testall(requests)

    def wait(self, requests, why, timeout_s=None):
        """Wait for all `requests`; returns the seconds that took.

        Parameters
        ----------
        requests : list of mpi4py.MPI.Request, or callable
            A function without arguments tells whether the wait is over.
        why : str, or callable
            Whom this rank waits for, for the texts of the error and of the report that comes before it; a function
            without arguments finds out when it is needed.
        timeout_s : float or None
            Longest wait, in seconds; None takes that of the world.

        Raises
        ------
        PeerError
            If another rank failed, or nothing came in time.
        """
        try:
            return self._poll(requests, why, self.timeout_s if timeout_s is None else timeout_s)
        except BaseException as error:
            _UNFINISHED.extend(requests if isinstance(requests, list) else [])
            # MPI cannot fetch what a rank offered that has left since; the notice that it left behind tells why.
            if type(error).__module__.startswith("mpi4py"):
                self.look_for_failures(for_s=1.0)
            raise

    def _poll(self, requests, why, timeout_s):
        start = time.perf_counter()
        n_polls, report_s = 0, self.report_s
        while not self.is_done(requests):
            n_polls += 1
            waited_s = time.perf_counter() - start
            self.look_for_failures()
            if waited_s > timeout_s:
                raise PeerError(
                    f"{self._waiting(why, timeout_s)} and nothing came: some rank stalled, or left the run. "
                    "Look at the slowest rank with read_status(...)."
                )
            if report_s < waited_s < timeout_s < math.inf:
                _LOG.warning("%s so far; it ends the run after %.0f s.", self._waiting(why, waited_s), timeout_s)
                report_s = math.inf
            if waited_s > _YIELD_S:
                time.sleep(_NAP_S)
            elif n_polls > _SPINS:
                os.sched_yield()
        return time.perf_counter() - start

    def _waiting(self, why, waited_s):
        name = self.name(self.rank)
        return f"{name[0].upper()}{name[1:]} waited {waited_s:.0f} s for {why() if callable(why) else why}"

    def barrier(self, why="the other ranks", timeout_s=None):
        """Wait until all ranks are here.  Collective."""
        if self.comm is not None:
            self.wait([self.comm.Ibarrier()], why, timeout_s)

    @contextlib.contextmanager
    def rank_0_first(self, why):
        """Run the block on rank 0, then on the others; on none of them if rank 0 failed.  Collective.

        What takes rank 0 long, such as a likelihood fit, is waited for without a deadline.
        """
        if self.rank != 0:
            self.barrier(why, math.inf)
        try:
            yield
        except BaseException as error:
            self.announce_failure(error)
            raise
        if self.rank == 0:
            self.barrier(why, math.inf)

    def from_rank_0(self, make, why):
        """What `make()` returns on rank 0, which the others wait for.  Collective."""
        made = None
        with self.rank_0_first(why):
            if self.rank == 0:
                made = make()
        return made if self.comm is None else self.comm.bcast(made)

    def announce_failure(self, error):
        """Tell all other ranks that this one failed, so that none waits for it in vain."""
        # Who stops because of a rank that failed adds no notice: all have that rank's own.
        if self.comm is None or (isinstance(error, PeerError) and error.rank is not None):
            return
        text = f"rank {self.rank} on {self.hostname} failed: {type(error).__name__}: {error}"[:_NOTICE_CHARACTERS]
        peers = [peer for peer in range(self.size) if peer != self.rank]
        _UNFINISHED.extend(self.comm.isend((self.rank, text), dest=peer, tag=_FAILURE_TAG) for peer in peers)

    def look_for_failures(self, for_s=None):
        """Raise the PeerError of a rank that failed.  Looks rarely enough to be called in every step.

        Parameters
        ----------
        for_s : float or None
            Look now, and for so many seconds.
        """
        if self.whole is not None:
            return self.whole.look_for_failures(for_s)
        start = time.perf_counter()
        if for_s is None and start - self._looked < _LOOK_S:
            return
        self._looked = start
        while not (has_failed := self.comm.Iprobe(tag=_FAILURE_TAG)) and time.perf_counter() - start < (for_s or 0.0):
            time.sleep(_NAP_S)
        if has_failed:
            rank, text = self.comm.recv(tag=_FAILURE_TAG)
            raise PeerError(f"Stopped because {text}", rank)


def _shared_type():
    from mpi4py import MPI

    return MPI.COMM_TYPE_SHARED


def _undefined():
    from mpi4py import MPI

    return MPI.UNDEFINED


def under_mpi():
    """True if this process is one of several started by an MPI launcher, or MPI is running in it already."""
    import sys

    started = sys.modules.get("mpi4py.MPI")
    if started is not None and started.Is_initialized():
        return True
    return any(int(os.environ.get(name, "1")) > 1 for name in _LAUNCHER_SIZES)


def _pick_device(local_rank):
    if not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{local_rank % torch.cuda.device_count()}"
