"""Sums over ranks by PyTorch's own library for their device: NCCL (NVIDIA and AMD), XCCL (Intel) or Gloo (CPU).

MPI starts the ranks, and tells them where they meet.  The default process group of torch.distributed, which belongs to
the user, is neither needed nor touched.
"""

import socket
import threading
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as distributed
from torch import Tensor

from .memory import keep_until_exit
from .waiting import PeerError

if TYPE_CHECKING:
    from .world import World

_LIBRARIES = {"cuda": "NCCL", "xpu": "XCCL", "cpu": "Gloo"}
_LOOPBACK = "127.0.0.1"
_LONGEST_S = 7 * 24 * 3600.0  # NCCL ends a process whose sum takes longer, but the world raises an error before
_MPI_INSTEAD = 'Use the MPI library: AllReduce(library="mpi"), or Ring().'


class DeviceGroup:
    """The ranks of a world, for sums of what is on their devices.  Collective.

    Parameters
    ----------
    world : World
        At least two ranks.
    device : torch.device
        Where the numbers of this rank are.

    Raises
    ------
    ValueError
        On all ranks, if PyTorch has no library for the device of one of them, if their devices are of different kinds,
        or if two of them are on one accelerator.
    PeerError
        If another rank failed, or did not come in time.
    """

    def __init__(self, world: "World", device: torch.device) -> None:
        self._world, self._device = world, device
        self.library = _LIBRARIES.get(device.type, "")
        if reason := obstacle(world, device):
            raise ValueError(f'AllReduce(library="torch"): {reason} {_MPI_INSTEAD}')
        self._listener: socket.socket | None = None
        is_local = world.is_one_node()
        address = world.from_rank_0(lambda: self._listen(is_local), "rank 0 to open a port")
        self._group: Any = None
        self._store: Any = None
        self._error: BaseException | None = None
        # Meeting the others blocks, so a thread does it, which may be left behind if one of them fails.
        meeting = threading.Thread(target=self._meet, args=(*address, is_local), daemon=True)
        meeting.start()
        world.wait(lambda: not meeting.is_alive(), f"all ranks to meet by {self.library} at {address[0]}:{address[1]}")
        if self._error is not None:
            world.look_for_failures(for_s=1.0)
            raise RuntimeError(
                f"{world.name(world.rank)} cannot reach the other ranks by {self.library}, PyTorch's library for "
                f"{str(device)!r}, at {address[0]}:{address[1]}: {self._error}. If nodes have several networks, name "
                f"the right one, for instance export {self._network_variable}=hsn0. {_MPI_INSTEAD}"
            ) from self._error

    @property
    def _network_variable(self) -> str:
        return {"NCCL": "NCCL_SOCKET_IFNAME", "XCCL": "CCL_KVS_IFACE"}.get(self.library, "GLOO_SOCKET_IFNAME")

    def start(self, numbers: Tensor) -> Any:
        """Start to replace numbers (number,) by their sum over all ranks: a torch.distributed.Work."""
        return self._group.allreduce([numbers], distributed.AllreduceOptions())

    def finish(self, work: Any) -> None:
        """Complete a sum whose `is_completed` says so.

        Raises
        ------
        PeerError
            If it failed, because another rank has left.
        """
        try:
            work.wait()
        except RuntimeError as error:
            self._world.look_for_failures(for_s=1.0)  # the notice that a rank sends before it leaves gives the cause
            raise PeerError(f"{self.library} lost another rank during a sum: {error}") from error

    def close(self) -> None:
        """Leave together with all other ranks.  Collective; closing again does nothing."""
        if self._group is None:
            return
        self._world.barrier(f"all ranks to end their sums by {self.library}")
        _call(self._group, "shutdown")
        self._group = None
        # Rank 0 has the address book, which the others may look into until they have left.
        self._world.barrier(f"all ranks to leave {self.library}")
        self._store = None

    def abandon(self) -> None:
        """Leave after an error, without waiting for other ranks."""
        if self._group is not None:
            # In a thread, since it may wait for ranks that have failed.
            threading.Thread(target=_call, args=(self._group, "abort"), daemon=True).start()
            keep_until_exit(self._group, self._store)

    def _listen(self, is_local: bool) -> tuple[str, int]:
        """Open a port that the operating system chooses; only for this machine if no other one is needed."""
        self._listener = socket.create_server((_LOOPBACK if is_local else "", 0))
        return (_LOOPBACK if is_local else self._world.hostname), self._listener.getsockname()[1]

    def _meet(self, host: str, port: int, is_local: bool) -> None:
        """Meet the other ranks and add up 1, which opens all connections."""
        try:
            self._store = self._address_book(host, port)
            self._group = self._made(is_local)
            ones = torch.ones(1, device=self._device)
            self.start(ones).wait()
            if (total := int(ones)) != self._world.size:
                raise RuntimeError(f"1 from each of {self._world.size} ranks add up to {total}")
        except BaseException as error:  # of any type, raised by the thread that waits for this one
            self._error = error

    def _address_book(self, host: str, port: int) -> Any:
        world = self._world
        return distributed.TCPStore(  # pyright: ignore[reportPrivateImportUsage]
            host,
            port,
            world.size,
            world.rank == 0,
            timeout=timedelta(seconds=min(world.timeout_s, _LONGEST_S)),
            wait_for_workers=False,
            master_listen_fd=None if self._listener is None else self._listener.detach(),
            use_libuv=False,  # with which PyTorch 2.6 takes no open port
        )

    def _made(self, is_local: bool) -> Any:
        rank, size = self._world.rank, self._world.size
        kind: Any = getattr(distributed, f"ProcessGroup{self.library}")
        if self.library == "Gloo":
            options = kind._Options()
            options._devices = [kind.create_device(hostname=_LOOPBACK) if is_local else kind.create_default_device()]
        else:
            options = kind.Options()
        options._timeout = timedelta(seconds=_LONGEST_S)
        return kind(self._store, rank, size, options)


def obstacle(world: "World", device: torch.device) -> str:
    """Why PyTorch cannot sum over ranks what is on their devices, in words; empty if it can.  Collective.

    Parameters
    ----------
    world : World
        The ranks.
    device : torch.device
        Where the numbers of this rank are.
    """
    world.barrier("all ranks to compare their devices")
    own = world.hostname, device.type, _identity(device), _lacking(device)
    return _obstacle(world.comm.allgather(own) if world.comm else [own])


def _lacking(device: torch.device) -> str:
    """What this PyTorch lacks for sums on a device, in words; empty if nothing."""
    library = _LIBRARIES.get(device.type)
    if library is None:
        return f"PyTorch has no library for sums over {device.type!r} devices, only for {', '.join(_LIBRARIES)}"
    if not distributed.is_available():
        return f"this PyTorch ({torch.__version__}) was built without torch.distributed"
    if not hasattr(distributed, f"ProcessGroup{library}"):
        return f"this PyTorch ({torch.__version__}) was built without {library}, its library for {device.type!r}"
    return ""


def _identity(device: torch.device) -> str:
    """What tells an accelerator from the others of its host, whatever this rank sees of them; empty if unknown."""
    if device.type not in ("cuda", "xpu"):
        return ""
    properties = torch.get_device_module(device).get_device_properties(device)
    return str(getattr(properties, "uuid", ""))


def _obstacle(ranks: list[tuple[str, str, str, str]]) -> str:
    """Why ranks cannot add up, by their host, kind of device, its identity and what is lacking; empty if they can."""
    for rank, (_, _, _, lacking) in enumerate(ranks):
        if lacking:
            return f"rank {rank}: {lacking}."
    kinds = sorted({kind for _, kind, _, _ in ranks})
    if len(kinds) > 1:
        return (
            f"ranks are on devices of different kinds ({', '.join(kinds)}), which no library of PyTorch adds up. Set "
            "SAGIPS_DEVICE to one of them."
        )
    first: dict[tuple[str, str], int] = {}
    for rank, (host, kind, identity, _) in enumerate(ranks):
        if identity and (other := first.setdefault((host, identity), rank)) != rank:
            return (
                f"ranks {other} and {rank} share an accelerator of {host}, and {_LIBRARIES[kind]} needs one for each "
                "rank. Start as many ranks on each node as it has accelerators."
            )
    return ""


def _call(group: Any, name: str) -> None:
    """Call a method by which a group is left, where this PyTorch has it."""
    if method := getattr(group, name, None):
        method()
