"""Profile `pbs`: a starting point for any site with PBS Pro or OpenPBS.

Install it under this name with your site's options, or copy the folder and change what is said here.
"""

from sagips_kit.cluster.configuration import configure_cluster, mpiexec_beside_python

c = get_config()  # noqa: F821  provided by IPython when it reads this file

# What all clusters share: the controller's network, where keys are kept, what ipcluster prints.
configure_cluster(c)

# All engines are one MPI world, in one job.
c.Cluster.engine_launcher_class = "sagips_kit.cluster.launchers.PBSEngines"

c.PBSEngines.defaults = {
    # Project that the node hours are charged to (-A); "" leaves the line out, here and below.
    "account": "",
    # Queue (-q); "" is the site's default.
    "queue": "",
    # Longest duration, HH:MM:SS; the scheduler then ends the job.  Mandatory.
    "walltime": None,
    # Nodes of the job; 0 takes as many as the engines need.
    "nodes": 0,
    # What is asked of each node.  With GPUs add :ngpus={ranks_per_node}; cores for threads of each engine are asked for
    # with ncpus=32 or so.
    "select": "ncpus={ranks_per_node}:mpiprocs={ranks_per_node}",
    # How the nodes are chosen: "scatter" takes each node once.
    "place": "",
    # Filesystems that the job needs, where the site asks for that.
    "filesystems": "",
    # Further options of the scheduler, as on its command line, separated by ";": "-m abe; -M me@example.org".
    "directives": "",
    # Shell commands that make the environment on the nodes, as you type them after logging in: PBS jobs begin with a
    # fresh one.  For instance "module load mpich".
    "setup": "",
    # Command that starts all engines: that of the MPI which the running Python's mpi4py was built with.
    "mpiexec": mpiexec_beside_python() + " -n {n}",
    # Engines on each node; 0 puts all on one.
    "ranks_per_node": 0,
    # Cores for each engine, for options that say {cores_per_rank}.
    "cores_per_rank": 1,
    # Threads of each engine.
    "threads": 1,
    # Shell commands that each rank runs before MPI starts; "" for none.  With GPUs, give each rank its own:
    # "export CUDA_VISIBLE_DEVICES=$SLURM_LOCALID" (Slurm), ...=$PMI_LOCAL_RANK (Cray), ...=$MPI_LOCALRANKID (MPICH).
    "affinity": "",
    # Network by which engines reach the controller, such as "ib0" or "hsn0"; "" takes the host's name.
    "interface": "",
}
