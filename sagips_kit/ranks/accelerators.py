"""The accelerator of a rank, and whether the MPI library can read its memory, which is tried first, lest it crash.

PyTorch calls GPUs of NVIDIA and of AMD "cuda", those of Intel "xpu", and those of Apple "mps".
"""

import ctypes
import glob
import os
import warnings
from pathlib import Path
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
VARIABLE, KINDS = "SAGIPS_DEVICE", ("", "cpu", "cuda", "xpu", "mps")
_CUDA = 0  # MPICH's MPIX_GPU_SUPPORT_CUDA
_N_ITEMS = 100_000  # large enough to take the same path as long messages


def pick_device(local_rank: int, n_local: int = 1) -> str:
    """The device of a rank, by its number on its node and the number of ranks there.

    The variable SAGIPS_DEVICE names the type of device: "cpu", "cuda", "xpu" or "mps"; without it, an accelerator is
    taken if PyTorch finds one.  Ranks share accelerators if there are fewer of them.  Those that an affinity mask
    (CUDA_VISIBLE_DEVICES, ROCR_VISIBLE_DEVICES, ZE_AFFINITY_MASK) hides from this rank do not count.

    Raises
    ------
    ValueError
        If there is no such device.

    Warns
    -----
    UserWarning
        On the first rank of a node, if an accelerator is left idle.
    """
    wanted, kind = os.environ.get(VARIABLE, ""), _kind()
    if wanted not in KINDS:
        allowed = ", ".join(filter(None, KINDS))
        raise ValueError(f"{VARIABLE} = {wanted!r}: should be one of {allowed}, or empty for what there is.")
    if wanted not in ("", "cpu", kind):
        raise ValueError(
            f"{VARIABLE} = {wanted!r}: this PyTorch ({torch.__version__}) finds no such device on this machine, only "
            f"{kind!r}. Install the PyTorch of this machine, or unset {VARIABLE}."
        )
    if wanted == "cpu" or kind == "cpu" or (kind == "mps" and not wanted):  # on which nobody has tried it
        if not wanted and local_rank == 0 and (hardware := _hardware()):
            warnings.warn(
                f"This machine has {hardware}, which this PyTorch ({torch.__version__}) does not support, so ranks "
                f"train on the CPU. Install the PyTorch of this machine, or export {VARIABLE}=cpu if that is intended.",
                stacklevel=2,
            )
        return "cpu"
    n = torch.accelerator.device_count()
    if local_rank == 0 and 1 < n_local < n:
        warnings.warn(
            f"{n - n_local} of the {n} accelerators of this machine are idle, because it has only {n_local} ranks. "
            f"Start {n} ranks on each node (ranks_per_node of a profile).",
            stacklevel=2,
        )
    return f"{kind}:{local_rank % n}"


def name_of(device: torch.device) -> str:
    """A device with the name of the hardware, where PyTorch knows it."""
    module = torch.get_device_module(device) if device.type in ("cuda", "xpu") else None
    return str(device) if module is None else f"{device}: {module.get_device_name(device)}"


def inventory() -> str:
    """The accelerators that this process can use, in words."""
    if (kind := _kind()) == "cpu":
        return kind
    return f"{torch.accelerator.device_count()} x {name_of(torch.device(kind, 0)).partition(': ')[2] or kind}"


def _kind() -> str:
    """The type of the accelerators that PyTorch finds, or "cpu"."""
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return "cpu" if found is None else found.type


def _hardware() -> str:
    """Accelerators that the operating system shows, in words, whatever PyTorch supports; empty if there are none."""
    if glob.glob("/dev/nvidia[0-9]*"):
        return "a GPU of NVIDIA"
    if Path("/dev/kfd").exists():
        return "a GPU of AMD"
    for place in glob.glob("/sys/bus/pci/devices/*"):
        try:
            kind, vendor = (Path(place, name).read_text().strip() for name in ("class", "vendor"))
        except OSError:
            continue
        if (kind, vendor) == ("0x038000", "0x8086"):  # not the graphics of a desktop
            return "a GPU of Intel"
    return ""


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
        problem = f"its device is {str(device)!r}, not a GPU of NVIDIA or AMD"
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
    torch.accelerator.synchronize(device)
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
    if device.type in ("cuda", "xpu"):
        return torch.get_device_module(device).get_device_properties(device).total_memory, f"{device}"
    return psutil.virtual_memory().total, "this machine"
