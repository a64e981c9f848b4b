"""Profile `frontier`: one Slurm job on Frontier at Oak Ridge, eight GPUs (half an MI250X each) and 56 cores per node.

The notebook runs on a login node.  Compute nodes cannot write to home directories: set IPYTHONDIR to a folder on Lustre
(`export IPYTHONDIR=/lustre/orion/PROJECT/scratch/$USER/ipython`) before installing this profile and starting Jupyter.
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
    # Project that the node hours are charged to; "" leaves the option out, here and below.  Mandatory.
    "account": None,
    # Partition: "batch" or "extended".
    "queue": "batch",
    # Quality of service: "debug" for short tests.
    "qos": "",
    # Longest duration, HH:MM:SS, after which the scheduler ends the job.  Mandatory.
    "walltime": None,
    # Nodes of the job; 0 takes as many as the engines need.
    "nodes": 0,
    # Kind of nodes: all are alike, but "nvme" brings local disks.
    "constraint": "",
    # GPUs of each node.
    "gpus_per_node": 8,
    # Further options of the scheduler, as on its command line, separated by ";": "--mail-type=END; --core-spec=8".
    "directives": "",
    # Shell commands that prepare the environment on the nodes; a Slurm job begins with that of the notebook.
    "setup": "",
    # Command that starts all engines; each engine sees only the GPU next to its cores.
    # -K ends all engines when one fails.
    "mpiexec": "srun -K --ntasks={n} --cpus-per-task={cores_per_rank} --gpus-per-task=1 --gpu-bind=closest",
    # Engines on each node: one for each GPU.
    "ranks_per_node": 8,
    # Cores for each engine: seven of eight, because one is reserved for the system.
    "cores_per_rank": 7,
    # Threads of each engine: one per core.
    "threads": 7,
    # Shell commands that each rank executes before MPI starts; "" for none, as srun chooses the GPUs.
    "affinity": "",
    # Network by which engines reach the controller: the high-speed network that login and compute nodes share.  If
    # no network has this name, the host's name is used.
    "interface": "hsn0",
    # Type of device that the engines train on: "cpu", "cuda" (NVIDIA and AMD), "xpu" (Intel); "" takes an accelerator
    # if there is one.
    "device": "",
}
