"""Profile `polaris`: one PBS Pro job on Polaris at Argonne, four A100 and 32 cores a node.

The notebook runs on a login node.  Every option can be switched off or changed, for other machines too.
"""

from sagips_kit.cluster.configuration import configure_cluster

c = get_config()  # noqa: F821  provided by IPython when it reads this file

# What all clusters share: the controller's network, where keys are kept, what ipcluster prints.
configure_cluster(c)

# All engines are one MPI world, in one job.
c.Cluster.engine_launcher_class = "sagips_kit.cluster.launchers.PBSEngines"

c.PBSEngines.defaults = {
    # Project that the node hours are charged to (-A); "" leaves the line out, here and below.  Mandatory.
    "account": None,
    # Queue: debug (2 nodes, 1 h), debug-scaling (10 nodes, 1 h), preemptable (10 nodes; ended without warning), prod
    # (10 nodes and more).
    "queue": "debug",
    # Longest duration, HH:MM:SS; the scheduler then ends the job.  Mandatory.
    "walltime": None,
    # Filesystems that hold your environment, notebooks and runs, such as "home:eagle".  Mandatory.
    "filesystems": None,
    # Nodes of the job; 0 takes as many as the engines need.
    "nodes": 0,
    # What is asked of each node: to be one of Polaris; nodes are given whole.
    "select": "system=polaris",
    # How the nodes are chosen: each only once.
    "place": "scatter",
    # Further options of the scheduler, as on its command line, separated by ";": "-m abe; -M me@example.org".
    "directives": "",
    # Shell commands that make the environment on the nodes: PBS jobs begin with a fresh one.  The Python of the engines
    # is the notebook's in any case, so a virtual environment needs no activation here.
    "setup": "module use /soft/modulefiles; module load conda; conda activate base",
    # Command that starts all engines, each bound to cores of its own.
    "mpiexec": "mpiexec -n {n} --ppn {ranks_per_node} --depth={cores_per_rank} --cpu-bind depth",
    # Engines on each node: one for each GPU.
    "ranks_per_node": 4,
    # Cores for each engine: a quarter of a node's.
    "cores_per_rank": 8,
    # Threads of each engine: one on each of its cores.
    "threads": 8,
    # Shell commands that each rank runs before MPI starts: it sees one GPU only.  GPUs are numbered opposite to cores.
    "affinity": "export CUDA_VISIBLE_DEVICES=$((3 - PMI_LOCAL_RANK % 4))",
    # Network by which engines reach the controller: the high-speed one, which login and compute nodes share.  Where
    # there is none of this name, the host's name is used.
    "interface": "hsn0",
}
