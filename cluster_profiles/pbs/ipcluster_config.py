"""Profile `pbs`: a starting point for any site with PBS Pro or OpenPBS.

Install it under this name with your site's options, or copy the folder and edit the copy.
"""

from sagips_kit.cluster.configuration import configure_cluster, mpiexec_beside_python

c = get_config()  # noqa: F821  provided by IPython when it reads this file

# Settings shared by all clusters: the controller's network, protection of its keys, the output of ipcluster.
configure_cluster(c)

# All engines form one MPI world, in one job.
c.Cluster.engine_launcher_class = "sagips_kit.cluster.launchers.PBSEngines"

# The options of this profile.  Options in ipcluster_config.json, where `sagips profiles install` writes those that you
# give, have priority.
c.PBSEngines.defaults = {
    # Project that the node hours are charged to (-A); "" leaves the option out, here and below.
    "account": "",
    # Queue (-q); "" is the site's default.
    "queue": "",
    # Longest duration, HH:MM:SS, after which the scheduler ends the job.  Mandatory.
    "walltime": None,
    # Nodes of the job; 0 takes as many as the engines need.
    "nodes": 0,
    # Resources of each node.  With GPUs add :ngpus={ranks_per_node}; if engines have several threads, request more
    # cores, such as ncpus=32.
    "select": "ncpus={ranks_per_node}:mpiprocs={ranks_per_node}",
    # How the nodes are chosen: "scatter" takes each node once.
    "place": "",
    # Filesystems that the job needs, if the site asks for them.
    "filesystems": "",
    # Further options of the scheduler, as on its command line, separated by ";": "-m abe; -M me@example.org".
    "directives": "",
    # Shell commands that prepare the environment on the nodes, as you type them after logging in, because a PBS job
    # begins with a fresh one.  For instance "module load mpich".
    "setup": "",
    # Command that starts all engines: mpiexec of the MPI that the running Python's mpi4py was built with.
    "mpiexec": mpiexec_beside_python() + " -n {n}",
    # Engines on each node; 0 puts all on one.
    "ranks_per_node": 0,
    # Cores for each engine, for options that contain {cores_per_rank}.
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
