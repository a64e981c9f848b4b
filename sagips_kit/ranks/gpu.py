"""Whether MPI can read a GPU's memory: asked and tried before it is relied on, since it crashes if it cannot."""

import ctypes

import torch

_HINT = (
    "On Cray MPICH: export MPICH_GPU_SUPPORT_ENABLED=1, and import mpi4py before torch; with Open MPI: a build with "
    "--with-cuda. Or leave device buffers out (unset SAGIPS_DEVICE_BUFFERS): gradients then go through host memory."
)
_CUDA = 0  # MPICH's MPIX_GPU_SUPPORT_CUDA
_N_ITEMS = 100_000  # large enough for the path that long messages take


def check_device_buffers(comm, device):
    """Send a GPU's memory around all ranks, if MPI says that it can.  Collective.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm
    device : torch.device

    Raises
    ------
    ValueError
        On all ranks if it fails on one, with what is wrong.
    """
    problem = None
    if device.type != "cuda":
        problem = f"its device is {str(device)!r}, not a GPU"
    elif not mpi_reads_gpus():
        problem = "its MPI library says that it cannot read GPU memory, or does not say"
    _raise_together(comm, problem)
    _raise_together(comm, _trial(comm, device))


def mpi_reads_gpus():
    """What the MPI library in use says of itself: bool; False also if it does not say."""
    from mpi4py import MPI

    library = ctypes.CDLL(MPI.__file__)  # what the extension is linked against is found through it
    if hasattr(library, "MPIX_Query_cuda_support"):
        return bool(library.MPIX_Query_cuda_support())
    if hasattr(library, "MPIX_GPU_query_support"):
        answer = ctypes.c_int(0)
        return library.MPIX_GPU_query_support(_CUDA, ctypes.byref(answer)) == 0 and bool(answer.value)
    return False


def _trial(comm, device):
    """Pass numbers to the next rank on the GPU: what went wrong, or None."""
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


def _raise_together(comm, problem):
    problems = comm.allgather(problem)
    for rank, text in enumerate(problems):
        if text:
            raise ValueError(f"Device buffers cannot be used: of rank {rank}, {text}. {_HINT}")
