"""Profile `perlmutter`: one Slurm job on Perlmutter at NERSC, four A100 and 64 cores per GPU node.

The notebook runs on a login node.
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
    # Project that the node hours are charged to, with "_g" at its end for GPUs; "" leaves the option out, here and
    # below.  Mandatory.
    "account": None,
    # Partition: the site chooses it by the quality of service.
    "queue": "",
    # Quality of service, there called queue: "debug", "interactive", "regular", "preempt".
    "qos": "regular",
    # Longest duration, HH:MM:SS, after which the scheduler ends the job.  Mandatory.
    "walltime": None,
    # Nodes of the job; 0 takes as many as the engines need.
    "nodes": 0,
    # Kind of nodes; "gpu&hbm80g" are those with larger GPUs.
    "constraint": "gpu",
    # GPUs of each node.
    "gpus_per_node": 4,
    # Further options of the scheduler, as on its command line, separated by ";": "--mail-type=END; --licenses=scratch".
    "directives": "",
    # Shell commands that prepare the environment on the nodes; a Slurm job begins with that of the notebook.
    "setup": "",
    # Command that starts all engines, each bound to its own cores; the affinity below chooses their GPUs.
    # -K ends all engines when one fails.
    "mpiexec": "srun -K --ntasks={n} --cpus-per-task={cores_per_rank} --cpu-bind=cores --gpu-bind=none",
    # Engines on each node: one for each GPU.
    "ranks_per_node": 4,
    # Cores for each engine, counted with hyper-threads: a quarter of a node's 128.
    "cores_per_rank": 32,
    # Threads of each engine: one per physical core.
    "threads": 16,
    # Shell commands that each rank executes before MPI starts: each sees one GPU only.  GPUs are numbered
    # in the opposite order of cores.
    "affinity": "export CUDA_VISIBLE_DEVICES=$((3 - SLURM_LOCALID % 4))",
    # Network by which engines reach the controller: the high-speed network that login and compute nodes share.  If
    # no network has this name, the host's name is used.
    "interface": "hsn0",
    # Type of device that the engines train on: "cpu", "cuda" (NVIDIA and AMD), "xpu" (Intel); "" takes an accelerator
    # if there is one.
    "device": "",
}
