"""Profile `slurm`: a starting point for any site with Slurm.

Install it under this name with your site's options, or copy the folder and change what is said here.
"""

from sagips_kit.cluster.profiles import controller_address

c = get_config()  # noqa: F821  provided by IPython when it reads this file

# All engines are one MPI world, in one job.
c.Cluster.engine_launcher_class = "sagips_kit.cluster.launchers.SlurmEngines"

c.SlurmEngines.options = {
    # Project that the node hours are charged to (--account); "" leaves the line out, here and below.
    "account": "",
    # Partition; "" is the site's default.
    "queue": "",
    # Quality of service.
    "qos": "",
    # Longest duration, HH:MM:SS; the scheduler then ends the job.  Mandatory.
    "walltime": None,
    # Nodes of the job; 0 takes as many as the engines need.
    "nodes": 0,
    # Kind of nodes, such as "gpu".
    "constraint": "",
    # GPUs of each node; 0 asks for none.
    "gpus_per_node": 0,
    # Further options of the scheduler, as on its command line, separated by ";": "--mail-type=END; --exclusive".
    "directives": "",
    # Shell commands that make the environment on the nodes; Slurm jobs begin with that of the notebook.
    "setup": "",
    # Command that starts all engines.  srun has to speak the language of the MPI that mpi4py was built with: --mpi=pmi2
    # for MPICH, --mpi=pmix for Open MPI; `srun --mpi=list` shows what there is.
    # -K ends all when one fails.
    "mpiexec": "srun -K --ntasks={n} --cpus-per-task={cores_per_rank}",
    # Engines on each node; 0 puts all on one.
    "ranks_per_node": 0,
    # Cores for each engine.
    "cores_per_rank": 1,
    # Threads of each engine.
    "threads": 1,
    # Shell commands that each rank runs before MPI starts; "" for none.  With GPUs, give each rank its own:
    # "export CUDA_VISIBLE_DEVICES=$SLURM_LOCALID" (Slurm), ...=$PMI_LOCAL_RANK (Cray), ...=$MPI_LOCALRANKID (MPICH).
    "affinity": "",
    # Network by which engines reach the controller, such as "ib0" or "hsn0"; "" takes the host's name.
    "interface": "",
}

# The controller listens where the engines can reach it.
c.Cluster.controller_ip, c.Cluster.controller_location = controller_address(c.SlurmEngines.options["interface"])

# Engines find the controller by a file in this folder, which they must be able to read; the key in it never enters the
# environment of a job, which others can see.
c.Cluster.send_engines_connection_env = False

# In a terminal: what the cluster does, and the last of what a job has printed when it ends; a queue may take hours, so
# a late start is no failure.
c.IPClusterStart.logging_config = {"loggers": {"IPClusterStart": {"level": "INFO"}}}
c.IPClusterStart.early_shutdown = 0
c.SlurmEngines.output_limit = 20
