"""All profiles of clusters: the controller, which routes messages between notebooks and engines.

It runs where the notebook runs, and listens to the engines of other nodes.
"""

c = get_config()  # noqa: F821  provided by IPython when it reads this file

# Others can reach it, so all messages are encrypted, and only holders of the connection files (mode 0600) are served.
c.IPController.enable_curve = True

# Its schedulers are threads: further processes would be unwelcome on a login node.
c.IPController.use_threads = True

# A training engine returns to its loop rarely: it is given up after an hour without a heartbeat (1200 x 3 s), not
# after half a minute.  The watcher process beside an engine still reports at once that the engine has died, and the
# scheduler that a job has ended.
c.HeartMonitor.period = 3000
c.HeartMonitor.max_heartmonitor_misses = 1200

# Critical messages only: at every start the controller reports a harmless greeting of each engine (iopub_welcome) as an
# error.
c.IPController.log_level = 50
