"""Start a benchmark again on several MPI ranks.  This module is for the other files in this folder."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

# Makes MPICH treat each rank as if it were on a separate node and send everything through the network.
APART = {"MPIR_CVAR_NOLOCAL": "1"}


def mpiexec_line(n_ranks, *arguments):
    """The command line that runs `python ARGUMENTS` on `n_ranks` ranks."""
    beside = Path(sys.executable).with_name("mpiexec")
    launcher = str(beside) if beside.exists() else shutil.which("mpiexec")
    return [launcher, "-n", str(n_ranks), sys.executable, *map(str, arguments)]


def rank_environment(env=None):
    """The environment of this process, but with one thread for each rank and with this checkout first on the path."""
    roots = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": roots} | (env or {})


def start_ranks(script, n_ranks, *options, env=None):
    """Run `script` with `options` on `n_ranks` ranks, with one thread each, and wait until they end."""
    subprocess.run(mpiexec_line(n_ranks, script, *options), check=True, env=rank_environment(env))
