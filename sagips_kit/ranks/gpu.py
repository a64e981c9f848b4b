"""The GPU of a rank, and whether the MPI library can read its memory: it is asked and tried first, lest it crash."""

import ctypes
from typing import TYPE_CHECKING

import psutil
import torch

if TYPE_CHECKING:
    from mpi4py import MPI

_HINT = (
    "With Cray MPICH, export MPICH_GPU_SUPPORT_ENABLED=1 and import mpi4py before torch; with Open MPI, use a build "
    "made with --with-cuda. Or do without device buffers (unset SAGIPS_DEVICE_BUFFERS): gradients then pass through "
    "host memory."
)
_CUDA = 0  # MPICH's MPIX_GPU_SUPPORT_CUDA
_N_ITEMS = 100_000  # large enough to take the same path as long messages


def pick_device(local_rank: int) -> str:
    """The device of a rank, by its number on its node; ranks share GPUs if there are fewer of them."""
    return f"cuda:{local_rank % torch.cuda.device_count()}" if torch.cuda.is_available() else "cpu"


def check_device_buffers(comm: "MPI.Intracomm", device: torch.device) -> None:
    """Send GPU memory around all ranks, if the MPI library reports that it can.  Collective.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm
        All ranks.
    device : torch.device
        This rank's device.

    Raises
    ------
    ValueError
        On all ranks if it fails on one, with the reason.
    """
    problem = None
    if device.type != "cuda":
        problem = f"its device is {str(device)!r}, not a GPU"
    elif not mpi_reads_gpus():
        problem = "its MPI library cannot read GPU memory, or does not report whether it can"
    _raise_together(comm, problem)
    _raise_together(comm, _trial(comm, device))


def mpi_reads_gpus() -> bool:
    """Whether the MPI library reports that it can read GPU memory; False also if it does not report that."""
    from mpi4py import MPI

    library = ctypes.CDLL(MPI.__file__)  # its symbols include those of the MPI library that it is linked to
    if hasattr(library, "MPIX_Query_cuda_support"):
        return bool(library.MPIX_Query_cuda_support())
    if hasattr(library, "MPIX_GPU_query_support"):
        answer = ctypes.c_int(0)
        return library.MPIX_GPU_query_support(_CUDA, ctypes.byref(answer)) == 0 and bool(answer.value)
    return False


def _trial(comm: "MPI.Intracomm", device: torch.device) -> str | None:
    """Pass numbers on the GPU to the next rank: what went wrong, or None."""
    before, after = (comm.rank - 1) % comm.size, (comm.rank + 1) % comm.size
    sent = torch.arange(_N_ITEMS, dtype=torch.float32, device=device) + comm.rank
    received = torch.full_like(sent, -1.0)
    torch.cuda.synchronize(device)
    try:
        comm.Sendrecv(sent, dest=after, recvbuf=received, source=before)
    except Exception as error:  # of any type: mpi4py's, or that of the array interface
        return f"sending GPU memory failed: {type(error).__name__}: {error}"
    n_wrong = int((received != sent - comm.rank + before).sum())
    return f"{n_wrong} of {_N_ITEMS} numbers arrived wrong from GPU memory" if n_wrong else None


def _raise_together(comm: "MPI.Intracomm", problem: str | None) -> None:
    problems = comm.allgather(problem)
    for rank, text in enumerate(problems):
        if text:
            raise ValueError(f"Device buffers cannot be used. Rank {rank}: {text}. {_HINT}")


def memory_of(device: torch.device) -> tuple[int, str]:
    """The memory of a device in bytes, and what to call the device."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory, f"{device}"
    return psutil.virtual_memory().total, "this machine"
