"""Profile `allocation`: engines on the nodes of the PBS or Slurm job in which the notebook itself runs.

For a notebook in an interactive job (`qsub -I`, `salloc`) and for batch jobs; nothing is submitted.
"""

import os

from sagips_kit.cluster.configuration import configure_cluster, mpiexec_beside_python

c = get_config()  # noqa: F821  provided by IPython when it reads this file

# Settings shared by all clusters: the controller's network, protection of its keys, the output of ipcluster.
configure_cluster(c)

# All engines form one MPI world.
c.Cluster.engine_launcher_class = "sagips_kit.cluster.launchers.AllocationEngines"

mpiexec = mpiexec_beside_python()
# The options of this profile.  Options in ipcluster_config.json, where `sagips profiles install` writes those that you
# give, have priority.
c.AllocationEngines.defaults = {
    # Command that starts all engines on the nodes of the job: srun in a Slurm job, else the mpiexec that belongs to
    # the running Python's mpi4py.
    "mpiexec": "srun -K --overlap -n {n}" if "SLURM_JOB_ID" in os.environ else mpiexec + " -n {n}",
    # Engines on each node, for a command that contains {ranks_per_node}.
    "ranks_per_node": 0,
    # Cores for each engine, for a command that contains {cores_per_rank}.
    "cores_per_rank": 1,
    # Threads of each engine; several engines share a node's cores.
    "threads": 1,
    # Shell commands that each rank executes before MPI starts; "" for none.  With GPUs, give each rank its own:
    # "export CUDA_VISIBLE_DEVICES=$SLURM_LOCALID" (Slurm), ...=$PMI_LOCAL_RANK (Cray), ...=$MPI_LOCALRANKID (MPICH).
    "affinity": "",
    # Network by which engines reach the controller, such as "ib0" or "hsn0"; "" uses the host's name.
    "interface": "",
    # Type of device that the engines train on: "cpu", "cuda" (NVIDIA and AMD), "xpu" (Intel); "" takes an accelerator
    # if there is one.
    "device": "",
}

# Seconds between requesting mpiexec to end and killing it: an engine inside an MPI call cannot react to the request.
c.AllocationEngines.stop_seconds_until_kill = 3
