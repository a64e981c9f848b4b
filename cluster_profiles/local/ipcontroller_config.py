"""Profile `local`: the controller, which routes messages between notebooks and engines."""

c = get_config()  # noqa: F821  provided by IPython when it reads this file

# Only processes on this machine can reach it.
c.IPController.ip = "127.0.0.1"

# Its schedulers are threads: with a handful of engines, processes would take cores from the training.
c.IPController.use_threads = True

# A training engine rarely returns to its event loop, so it counts as lost only after an hour without a heartbeat
# (1200 x 3 s) instead of half a minute.  The watcher process of an engine still reports immediately if the engine dies.
c.HeartMonitor.period = 3000
c.HeartMonitor.max_heartmonitor_misses = 1200

# Critical messages only: at every start, the controller reports a harmless greeting from each engine (iopub_welcome) as
# an error.
c.IPController.log_level = 50
