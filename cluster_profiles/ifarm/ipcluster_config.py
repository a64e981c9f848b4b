"""Profile `ifarm`: one Slurm job on the farm of Jefferson Lab, submitted from its interactive nodes.

The notebook runs on an interactive node (ifarm) or in the site's JupyterHub.  Made from the site's public guide
(scicomp.jlab.org/docs), and not run there: `sagips profiles show ifarm` prints the script before you submit it.
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
    # Project that the hours are charged to (--account); `sacctmgr show user $USER` prints yours.  Mandatory.
    "account": None,
    # Partition: "production" (up to 3 days), "priority" (up to a day, with few jobs at a time) or "gpu".
    "queue": "production",
    # Quality of service: the site's default.
    "qos": "",
    # Longest duration, HH:MM:SS, after which the scheduler ends the job.  Mandatory.
    "walltime": None,
    # Nodes of the job; 0 takes as many as the engines need.
    "nodes": 0,
    # Kind of nodes; `sinfo --format="%P %f"` prints what the site distinguishes.
    "constraint": "",
    # GPUs of each node; 0 asks for none.  Nodes have different kinds: prefer the directive --gres=gpu:KIND:NUMBER, with
    # a kind that `sinfo --partition=gpu --format=%G` prints.
    "gpus_per_node": 0,
    # Further options of the scheduler, as on its command line, separated by ";": "--gres=gpu:A100:2; --mem-per-cpu=2G".
    "directives": "",
    # Shell commands that prepare the environment on the nodes, such as those of the documentation's page on Slurm; a
    # Slurm job begins with that of the notebook.
    "setup": "",
    # Command that starts all engines, for an mpi4py that was built with the site's Open MPI; --mpi=pmi2 for MPICH.
    # -K ends all engines when one fails.
    "mpiexec": "srun -K --mpi=pmix --ntasks={n} --cpus-per-task={cores_per_rank}",
    # Engines on each node; 0 puts all on one.
    "ranks_per_node": 0,
    # Cores for each engine.
    "cores_per_rank": 1,
    # Threads of each engine.
    "threads": 1,
    # Shell commands that each rank executes before MPI starts; with GPUs, one for each rank of a node:
    # "export CUDA_VISIBLE_DEVICES=$SLURM_LOCALID".
    "affinity": "",
    # Network by which engines reach the controller; "" uses the name of the host.
    "interface": "",
    # Type of device that the engines train on: "cpu", "cuda" (NVIDIA and AMD), "xpu" (Intel); "" takes an accelerator
    # if there is one.
    "device": "",
}
