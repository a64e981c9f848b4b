"""The controller of all cluster profiles, which routes messages between notebooks and engines.

It runs where the notebook runs, and listens to engines on other nodes.
"""

c = get_config()  # noqa: F821  provided by IPython when it reads this file

# Other users can reach it, so all messages are encrypted, and only holders of the connection files (mode 0600) are
# served.
c.IPController.enable_curve = True

# Its schedulers are threads: further processes would be unwelcome on a login node.
c.IPController.use_threads = True

# A training engine rarely returns to its event loop, so it counts as lost only after an hour without a heartbeat
# (1200 x 3 s) instead of half a minute.  The watcher process of an engine still reports immediately if the engine dies,
# and the scheduler reports the end of a job.
c.HeartMonitor.period = 3000
c.HeartMonitor.max_heartmonitor_misses = 1200

# Critical messages only: at every start, the controller reports a harmless greeting from each engine (iopub_welcome) as
# an error.
c.IPController.log_level = 50
