"""Profile `frontier`: one Slurm job on Frontier at Oak Ridge, eight GPUs (half an MI250X each) and 56 cores a node.

The notebook runs on a login node.  Compute nodes cannot write to home directories: set IPYTHONDIR to a folder on Lustre
(`export IPYTHONDIR=/lustre/orion/PROJECT/scratch/$USER/ipython`) before installing this profile and starting Jupyter.
"""

from sagips_kit.cluster.configuration import configure_cluster

c = get_config()  # noqa: F821  provided by IPython when it reads this file

# What all clusters share: the controller's network, where keys are kept, what ipcluster prints.
configure_cluster(c)

# All engines are one MPI world, in one job.
c.Cluster.engine_launcher_class = "sagips_kit.cluster.launchers.SlurmEngines"

c.SlurmEngines.defaults = {
    # Project that the node hours are charged to; "" leaves the line out, here and below.  Mandatory.
    "account": None,
    # Partition: "batch" or "extended".
    "queue": "batch",
    # Quality of service: "debug" for short tests.
    "qos": "",
    # Longest duration, HH:MM:SS; the scheduler then ends the job.  Mandatory.
    "walltime": None,
    # Nodes of the job; 0 takes as many as the engines need.
    "nodes": 0,
    # Kind of nodes: all are alike, but "nvme" brings local disks.
    "constraint": "",
    # GPUs of each node.
    "gpus_per_node": 8,
    # Further options of the scheduler, as on its command line, separated by ";": "--mail-type=END; --core-spec=8".
    "directives": "",
    # Shell commands that make the environment on the nodes; Slurm jobs begin with that of the notebook.
    "setup": "",
    # Command that starts all engines; each sees the GPU next to its cores, and no other.
    # -K ends all when one fails.
    "mpiexec": "srun -K --ntasks={n} --cpus-per-task={cores_per_rank} --gpus-per-task=1 --gpu-bind=closest",
    # Engines on each node: one for each GPU.
    "ranks_per_node": 8,
    # Cores for each engine: one of eight is the system's.
    "cores_per_rank": 7,
    # Threads of each engine: one on each of its cores.
    "threads": 7,
    # Shell commands that each rank runs before MPI starts; "" for none, as srun chooses the GPUs.
    "affinity": "",
    # Network by which engines reach the controller: the high-speed one, which login and compute nodes share.  Where
    # there is none of this name, the host's name is used.
    "interface": "hsn0",
}
