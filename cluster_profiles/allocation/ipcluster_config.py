"""Profile `allocation`: engines on the nodes of the PBS or Slurm job in which the notebook runs itself.

For a notebook in an interactive job (`qsub -I`, `salloc`) and for batch jobs; nothing is submitted.
"""

import os

from sagips_kit.cluster.configuration import configure_cluster, mpiexec_beside_python

c = get_config()  # noqa: F821  provided by IPython when it reads this file

# What all clusters share: the controller's network, where keys are kept, what ipcluster prints.
configure_cluster(c)

# All engines are one MPI world.
c.Cluster.engine_launcher_class = "sagips_kit.cluster.launchers.AllocationEngines"

mpiexec = mpiexec_beside_python()
c.AllocationEngines.defaults = {
    # Command that starts all engines on the nodes of the job: with Slurm its own, else the mpiexec that belongs to the
    # running Python's mpi4py.
    "mpiexec": "srun -K --overlap -n {n}" if "SLURM_JOB_ID" in os.environ else mpiexec + " -n {n}",
    # Engines on each node, for a command that says {ranks_per_node}.
    "ranks_per_node": 0,
    # Cores for each engine, for a command that says {cores_per_rank}.
    "cores_per_rank": 1,
    # Threads of each engine; several engines share a node's cores.
    "threads": 1,
    # Shell commands that each rank runs before MPI starts; "" for none.  With GPUs, give each rank its own:
    # "export CUDA_VISIBLE_DEVICES=$SLURM_LOCALID" (Slurm), ...=$PMI_LOCAL_RANK (Cray), ...=$MPI_LOCALRANKID (MPICH).
    "affinity": "",
    # Network by which engines reach the controller, such as "ib0" or "hsn0"; "" takes the host's name.
    "interface": "",
}

# Seconds between asking mpiexec to end and forcing it: an engine inside an MPI call does not hear the question.
c.AllocationEngines.stop_seconds_until_kill = 3
