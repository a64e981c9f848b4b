"""The engines of all profiles, one for each MPI rank."""

c = get_config()  # noqa: F821  provided by IPython when it reads this file

# Seconds to wait for the controller's connection file and for its answer: both may start at the same time.
c.IPEngine.wait_for_url_file = 60
c.IPEngine.timeout = 60

# An engine whose controller has ended stops after this many missed heartbeats (20 x 3.5 s, counted only while the
# engine is idle), so that no engine is left behind.
c.IPEngine.max_heartbeat_misses = 20

# Errors only: the warnings concern debugging, and encryption, which the loopback device does not need.
c.IPEngine.log_level = 40
