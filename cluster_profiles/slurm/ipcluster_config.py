"""Profile `slurm`: a starting point for any site with Slurm.

Install it under this name with your site's options, or copy the folder and edit the copy.
"""

from sagips_kit.cluster.configuration import configure_cluster

c = get_config()  # noqa: F821  provided by IPython when it reads this file

# Settings shared by all clusters: the controller's network, protection of its keys, the output of ipcluster.
configure_cluster(c)

# All engines form one MPI world, in one job.
c.Cluster.engine_launcher_class = "sagips_kit.cluster.launchers.SlurmEngines"

# The options of this profile.  Options in ipcluster_config.json, where `sagips profiles install` writes those that you
# give, have priority.
c.SlurmEngines.defaults = {
    # Project that the node hours are charged to (--account); "" leaves the option out, here and below.
    "account": "",
    # Partition; "" is the site's default.
    "queue": "",
    # Quality of service.
    "qos": "",
    # Longest duration, HH:MM:SS, after which the scheduler ends the job.  Mandatory.
    "walltime": None,
    # Nodes of the job; 0 takes as many as the engines need.
    "nodes": 0,
    # Kind of nodes, such as "gpu".
    "constraint": "",
    # GPUs of each node; 0 asks for none.
    "gpus_per_node": 0,
    # Further options of the scheduler, as on its command line, separated by ";": "--mail-type=END; --exclusive".
    "directives": "",
    # Shell commands that prepare the environment on the nodes; a Slurm job begins with that of the notebook.
    "setup": "",
    # Command that starts all engines.  srun needs the interface of the MPI that mpi4py was built with: --mpi=pmi2 for
    # MPICH, --mpi=pmix for Open MPI; `srun --mpi=list` shows what is available.
    # -K ends all engines when one fails.
    "mpiexec": "srun -K --ntasks={n} --cpus-per-task={cores_per_rank}",
    # Engines on each node; 0 puts all on one.
    "ranks_per_node": 0,
    # Cores for each engine.
    "cores_per_rank": 1,
    # Threads of each engine.
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
