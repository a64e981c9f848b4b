"""Profile `polaris`: one PBS Pro job on Polaris at Argonne, four A100 and 32 cores per node.

The notebook runs on a login node.  Each option can be switched off or changed, for instance for other machines.
"""

from sagips_kit.cluster.configuration import configure_cluster

c = get_config()  # noqa: F821  provided by IPython when it reads this file

# Settings shared by all clusters: the controller's network, protection of its keys, the output of ipcluster.
configure_cluster(c)

# All engines form one MPI world, in one job.
c.Cluster.engine_launcher_class = "sagips_kit.cluster.launchers.PBSEngines"

# The options of this profile.  Options in ipcluster_config.json, where `sagips profiles install` writes those that you
# give, have priority.
c.PBSEngines.defaults = {
    # Project that the node hours are charged to (-A); "" leaves the option out, here and below.  Mandatory.
    "account": None,
    # Queue: debug (2 nodes, 1 h), debug-scaling (10 nodes, 1 h), preemptable (10 nodes; ended without warning), prod
    # (10 nodes and more).
    "queue": "debug",
    # Longest duration, HH:MM:SS, after which the scheduler ends the job.  Mandatory.
    "walltime": None,
    # Filesystems that hold your environment, notebooks and runs, such as "home:eagle".  Mandatory.
    "filesystems": None,
    # Nodes of the job; 0 takes as many as the engines need.
    "nodes": 0,
    # Resources of each node: any node of Polaris; nodes are allocated as a whole.
    "select": "system=polaris",
    # How the nodes are chosen: each of them only once.
    "place": "scatter",
    # Further options of the scheduler, as on its command line, separated by ";": "-m abe; -M me@example.org".
    "directives": "",
    # Shell commands that prepare the environment on the nodes, because a PBS job begins with a fresh one.  The engines
    # use the notebook's Python in any case, so a virtual environment needs no activation here.
    "setup": "module use /soft/modulefiles; module load conda; conda activate base",
    # Command that starts all engines, each bound to its own cores.
    "mpiexec": "mpiexec -n {n} --ppn {ranks_per_node} --depth={cores_per_rank} --cpu-bind depth",
    # Engines on each node: one for each GPU.
    "ranks_per_node": 4,
    # Cores for each engine: a quarter of a node's.
    "cores_per_rank": 8,
    # Threads of each engine: one per core.
    "threads": 8,
    # Shell commands that each rank executes before MPI starts: each sees one GPU only.  GPUs are numbered
    # in the opposite order of cores.
    "affinity": "export CUDA_VISIBLE_DEVICES=$((3 - PMI_LOCAL_RANK % 4))",
    # Network by which engines reach the controller: the high-speed network that login and compute nodes share.  If
    # no network has this name, the host's name is used.
    "interface": "hsn0",
    # Type of device that the engines train on: "cpu", "cuda" (NVIDIA and AMD), "xpu" (Intel); "" takes an accelerator
    # if there is one.
    "device": "",
}
