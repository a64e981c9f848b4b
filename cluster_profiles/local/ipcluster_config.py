"""Profile `local`: one controller and n MPI engines on this machine.

Read by `ipcluster start --profile=local --n=4` in a terminal and by `sagips_kit.connect("local", n=4)`.
"""

import os
import shlex

from sagips_kit.cluster.configuration import mpiexec_beside_python

c = get_config()  # noqa: F821  provided by IPython when it reads this file

# One mpiexec starts all engines, so they share one MPI world; the launcher adds --mpi, by which each engine requests
# its MPI rank as its id.  The mpiexec beside the running Python belongs to its mpi4py, even if the environment is not
# activated; if there is none, the one on PATH is used.
c.Cluster.engine_launcher_class = "mpi"
c.MPILauncher.mpi_cmd = shlex.split(mpiexec_beside_python())

# Several engines share few cores: one thread each.  Inside a job of PBS or Slurm, MPICH's mpiexec would start them on
# the nodes of the job: "fork" and "user" keep them on this machine.  What the user has set before has priority.
defaults = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
defaults |= {"HYDRA_LAUNCHER": "fork", "HYDRA_RMK": "user"}
c.MPILauncher.environment = {name: os.environ.get(name, default) for name, default in defaults.items()}

# Engines in a terminal without --n: enough to see each exchange at work.
c.Cluster.n = 4

# Only processes on this machine can reach the controller.
c.Cluster.controller_ip = "127.0.0.1"

# The signing key stays in files that only their owner can read and is never put into the environment of a process.
c.Cluster.send_engines_connection_env = False

# Seconds until missing engines count as failed; on a busy laptop, Python imports are slow.
c.Cluster.engine_timeout = 120

# In a terminal, show what the cluster does, but not the logs of all engines (which the debug level would stream), and
# only the last lines of mpiexec's output when it ends.
c.IPClusterStart.logging_config = {"loggers": {"IPClusterStart": {"level": "INFO"}}}
c.MPILauncher.output_limit = 10

# Seconds between requesting mpiexec to end and killing it: an engine inside an MPI call cannot react to the request.
c.MPILauncher.stop_seconds_until_kill = 3
