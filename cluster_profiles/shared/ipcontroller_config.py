"""All profiles of clusters: the controller, which routes messages between notebooks and engines.

It runs where the notebook runs, and listens to the engines of other nodes.
"""

c = get_config()  # noqa: F821  provided by IPython when it reads this file

# Others can reach it, so every message is encrypted and only holders of the connection files (mode 0600) are heard.
c.IPController.enable_curve = True

# Its schedulers are threads: processes of their own would be unwelcome on a login node.
c.IPController.use_threads = True

# A training engine returns to its loop rarely: it is given up after an hour without a sign of life (1200 x 3 s), not
# after half a minute.  An engine that dies is noticed at once all the same, by the watcher process beside it, and a job
# that ends by the scheduler's word.
c.HeartMonitor.period = 3000
c.HeartMonitor.max_heartmonitor_misses = 1200

# Critical messages only: at every start the controller reports a harmless greeting of each engine (iopub_welcome) as an
# error.
c.IPController.log_level = 50
