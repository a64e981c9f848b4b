"""Whether MPI started this process, and whether this process can start MPI."""

import os
import sys
from importlib.util import find_spec

# Variables by which launchers give each copy of a program the number of all copies; those of a node alone come last.
# Of Slurm only that of srun counts: SLURM_NTASKS is also set in a job script, where there is one process.
_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_SIZE", "PALS_SIZE", "SLURM_STEP_NUM_TASKS")
_RANKS = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "PALS_RANKID", "SLURM_PROCID")
_NODE_SIZES = ("MPI_LOCALNRANKS", "PALS_LOCAL_SIZE")
# Variables that count how often a job has been run again: of the job scripts of `sagips batch`, and of Slurm
RESTARTS = ("SAGIPS_RESTARTS", "SLURM_RESTART_COUNT")


def under_mpi() -> bool:
    """Whether this process is one of several that an MPI launcher started, or MPI is running in it already."""
    started = sys.modules.get("mpi4py.MPI")
    if started is not None and started.Is_initialized():
        return True
    return any(_number(name) > 1 for name in (*_SIZES, *_NODE_SIZES))


def rank_of_launcher() -> int:
    """The number that an MPI launcher has given to this process; 0 without one."""
    return next((int(os.environ[name]) for name in _RANKS if os.environ.get(name, "").isdecimal()), 0)


def was_restarted(names: tuple[str, ...] = RESTARTS) -> bool:
    """Whether the scheduler runs this job again, by the variables that count it."""
    return any(os.environ.get(name, "").isdecimal() and int(os.environ[name]) for name in names)


def require_one_world(size: int, library: str) -> None:
    """Raise RuntimeError if a launcher has started several copies of this program and its MPI knows only this one.

    Each copy would train alone, and all of them in one store.
    """
    name = next((name for name in (*_SIZES, *_NODE_SIZES) if name in os.environ), None)
    if size > 1 or name is None or _number(name) <= 1:
        return
    raise RuntimeError(
        f"{_number(name)} copies of this program were started ({name}), but MPI knows only this one: mpi4py was built "
        f"with {library}, and the launcher belongs to another MPI. Use the mpiexec of that MPI (`python -m pip install "
        "mpich` beside mpi4py from PyPI), or build mpi4py with the MPI of the launcher: `MPICC=mpicc python -m pip "
        "install --force-reinstall --no-deps --no-cache-dir --no-binary=mpi4py mpi4py`. With srun, --mpi=pmi2 (MPICH) "
        "or --mpi=pmix (Open MPI) may be missing."
    )


def _number(name: str) -> int:
    text = os.environ.get(name, "")
    # `srun --pty` starts one shell, whatever the number of tasks.
    is_shell = name == "SLURM_STEP_NUM_TASKS" and sys.stdin is not None and sys.stdin.isatty()
    return int(text) if text.isdecimal() and not is_shell else 1


def require_mpi4py() -> None:
    """Raise ModuleNotFoundError, with the line to type, if mpi4py is not installed."""
    if find_spec("mpi4py") is None:
        text = 'Several ranks need mpi4py. Type: pip install "sagips_kit[mpi]", or build it with the MPI of the site.'
        raise ModuleNotFoundError(text, name="mpi4py")
