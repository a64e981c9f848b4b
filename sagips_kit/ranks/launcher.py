"""Whether MPI started this process, and whether this process can start MPI."""

import os
import sys
from importlib.util import find_spec

_LAUNCHER_SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "PMIX_SIZE", "MPI_LOCALNRANKS", "PALS_LOCAL_SIZE")


def under_mpi() -> bool:
    """Whether this process is one of several that an MPI launcher started, or MPI is running in it already."""
    started = sys.modules.get("mpi4py.MPI")
    if started is not None and started.Is_initialized():
        return True
    return any(int(os.environ.get(name, "1")) > 1 for name in _LAUNCHER_SIZES)


def require_mpi4py() -> None:
    """Raise ModuleNotFoundError, with the line to type, if mpi4py is not installed."""
    if find_spec("mpi4py") is None:
        text = 'Several ranks need mpi4py. Type: pip install "sagips_kit[mpi]", or build it with the MPI of the site.'
        raise ModuleNotFoundError(text, name="mpi4py")
