"""Profile `aurora`: one PBS Pro job on Aurora at Argonne, twelve GPU tiles (six GPUs) and 104 cores per node.

The notebook runs on a login node.  Written from the site's public guide; it has not been run on the machine.
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
    # Queue: debug (few nodes, 1 h), debug-scaling (1 h), prod and others; `qstat -q` lists them with their limits.
    "queue": "debug",
    # Longest duration, HH:MM:SS, after which the scheduler ends the job.  Mandatory.
    "walltime": None,
    # Filesystems that hold your environment, notebooks and runs, such as "home:flare".  Mandatory.
    "filesystems": None,
    # Nodes of the job; 0 takes as many as the engines need.
    "nodes": 0,
    # Resources of each node; "" for any, as nodes are allocated as a whole.
    "select": "",
    # How the nodes are chosen: each of them only once.
    "place": "scatter",
    # Further options of the scheduler, as on its command line, separated by ";": "-m abe; -M me@example.org".
    "directives": "",
    # Shell commands that prepare the environment on the nodes, because a PBS job begins with a fresh one.  The engines
    # use the notebook's Python in any case, so a virtual environment needs no activation here.
    "setup": "module load frameworks",
    # Command that starts all engines, each bound to its own cores.
    "mpiexec": "mpiexec -n {n} --ppn {ranks_per_node} --depth={cores_per_rank} --cpu-bind depth",
    # Engines on each node: one for each tile.
    "ranks_per_node": 12,
    # Cores for each engine: a twelfth of a node's, as whole cores.
    "cores_per_rank": 8,
    # Threads of each engine: one per core.
    "threads": 8,
    # Shell commands that each rank executes before MPI starts: each sees one tile only, the tiles being numbered from
    # 0 to 11.
    "affinity": "export ZE_FLAT_DEVICE_HIERARCHY=FLAT ZE_AFFINITY_MASK=$((PALS_LOCAL_RANKID % 12))",
    # Network by which engines reach the controller: the high-speed network that login and compute nodes share.  If
    # no network has this name, the host's name is used.
    "interface": "hsn0",
    # Type of device that the engines train on: "cpu", "cuda" (NVIDIA and AMD), "xpu" (Intel); "" takes an accelerator
    # if there is one.
    "device": "xpu",
}
