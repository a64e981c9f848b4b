"""What the `ipcluster_config.py` of the kit's profiles imports: the settings that all clusters share, and an mpiexec.

Only ipcluster and `profiles` execute those files; the options of a site stand in the files themselves.
"""

import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from traitlets.config import Config


def configure_cluster(c: "Config") -> None:
    """Set in a profile's configuration what all clusters share; later lines of the profile may change it."""
    # The controller listens where the engines of other nodes can reach it: on the network of the option `interface`.
    c.Cluster.controller_launcher_class = "sagips_kit.cluster.launchers.NetworkController"
    # Engines find the controller by a file in the profile's folder, which they must be able to read; the key in it
    # never enters the environment of a job, which others can see.
    c.Cluster.send_engines_connection_env = False
    # In a terminal: what the cluster does, and the last lines that the engines have printed when they end.
    c.IPClusterStart.logging_config = {"loggers": {"IPClusterStart": {"level": "INFO"}}}
    c.EngineLauncher.output_limit = 20
    # A queue may take hours, so a late start is no failure.
    c.IPClusterStart.early_shutdown = 0


def mpiexec_beside_python() -> str:
    """The mpiexec that belongs to the running Python's mpi4py, or else the one on PATH; quoted for a shell."""
    beside = Path(sys.executable).with_name("mpiexec")
    return shlex.quote(str(beside) if beside.exists() else shutil.which("mpiexec") or "mpiexec")
