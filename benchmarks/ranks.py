"""How a benchmark starts itself again on several MPI ranks; run the other files of this folder, not this one."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

# MPICH takes each rank to be on a node of its own, and sends everything through the network.
APART = {"MPIR_CVAR_NOLOCAL": "1"}


def start_ranks(script, n_ranks, *options, env=None):
    """Run `script` with `options` on `n_ranks` ranks, one thread each, and wait for their end."""
    beside = Path(sys.executable).with_name("mpiexec")
    launcher = str(beside) if beside.exists() else shutil.which("mpiexec")
    command = [launcher, "-n", str(n_ranks), sys.executable, script, *map(str, options)]
    roots = os.pathsep.join([str(Path(script).parents[1]), os.environ.get("PYTHONPATH", "")])
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": roots} | (env or {})
    subprocess.run(command, check=True, env=env)
