"""How a benchmark starts itself again on several MPI ranks; run the other files of this folder, not this one."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

# MPICH takes each rank to be on a node of its own, and sends everything through the network.
APART = {"MPIR_CVAR_NOLOCAL": "1"}


def mpiexec_line(n_ranks, *arguments):
    """The command line that runs `python ARGUMENTS` on some ranks."""
    beside = Path(sys.executable).with_name("mpiexec")
    launcher = str(beside) if beside.exists() else shutil.which("mpiexec")
    return [launcher, "-n", str(n_ranks), sys.executable, *map(str, arguments)]


def rank_environment(env=None):
    """That of this process, with one thread for each rank and this checkout first."""
    roots = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": roots} | (env or {})


def start_ranks(script, n_ranks, *options, env=None):
    """Run `script` with `options` on `n_ranks` ranks, one thread each, and wait for their end."""
    subprocess.run(mpiexec_line(n_ranks, script, *options), check=True, env=rank_environment(env))
