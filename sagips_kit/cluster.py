"""Engines: the profiles that say how they are started, and `connect`, which starts or joins them.

Engines are started by an IPython profile that the kit brings, each of them one MPI rank; the notebook's own process
never starts MPI.  What is done with them is in `session`.
"""

import atexit
import contextlib
import hashlib
import itertools
import json
import logging
import os
import re
import shlex
import shutil
import socket
import sys
import time
from pathlib import Path

import psutil

from .handle import RankError, RunHandle
from .session import Session

__all__ = ["RankError", "RunHandle", "Session", "connect", "install_profile", "profiles"]

_CONFIG = "ipcluster_config.py"
_MANIFEST = ".sagips_kit.json"
_sessions = {}
_counter = itertools.count()


def profiles():
    """Names of the profiles that the kit brings."""
    return sorted(config.parent.name for config in _source().glob(f"*/{_CONFIG}"))


def install_profile(name, overwrite=False):
    """Copy a profile of the kit to `$IPYTHONDIR/profile_<name>`, where `ipcluster start --profile=<name>` finds it.

    Parameters
    ----------
    name : str
        One of `profiles()`.
    overwrite : bool
        Replace files even if they were changed since they were installed.

    Returns
    -------
    Path

    Raises
    ------
    ValueError
        If the kit has no such profile.
    FileExistsError
        If the installed files were changed, or come from elsewhere; nothing is written.
    """
    if name not in profiles():
        raise ValueError(f"The kit has no profile {name!r}. Allowed: {', '.join(profiles())}.")
    folder = _installed(name)
    files = {path.name: path.read_bytes() for path in (_source() / name).glob("*.py")}
    changed = [file for file in files if _is_changed(folder, file, files[file])]
    if changed and not overwrite:
        raise FileExistsError(
            f"{folder} holds changed files: {', '.join(changed)}. They are kept; to replace them with the kit's, type "
            f"install_profile({name!r}, overwrite=True)."
        )
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in files.items():
        (folder / file).write_bytes(content)
    (folder / _MANIFEST).write_text(json.dumps({file: _digest(content) for file, content in files.items()}))
    return folder


def _source():
    package = Path(__file__).parent
    for folder in (package / "cluster_profiles", package.parent / "cluster_profiles"):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"No cluster_profiles in or beside {package}. Type `pip install sagips_kit`.")


def _installed(name):
    from IPython.paths import get_ipython_dir

    return Path(get_ipython_dir()) / f"profile_{name}"


def _digest(content):
    return hashlib.sha256(content).hexdigest()


def _is_changed(folder, file, content):
    if not (folder / file).exists():
        return False
    manifest = folder / _MANIFEST
    known = json.loads(manifest.read_text()) if manifest.exists() else {}
    return _digest((folder / file).read_bytes()) not in (known.get(file), _digest(content))


def connect(profile="local", n=4, timeout=120):
    """Start engines, or join running ones, and check that they are one MPI world.

    Engines started by `ipcluster start --profile=<profile>` are joined, and so are those that a notebook left when its
    kernel was killed; else n engines are started.  Called again, it returns the open session.

    Parameters
    ----------
    profile : str
        One of `profiles()`, or an IPython profile of your own whose engines are started by MPI.
    n : int
        Engines, each of them one MPI rank.  Running engines must be exactly as many: their MPI world is fixed.
    timeout : float
        Seconds to wait for the engines.

    Returns
    -------
    Session

    Raises
    ------
    ValueError
        For an unknown profile, or an `n` that is not what is running.
    RuntimeError
        If mpiexec is missing, engines are missing, or they differ; no engines that were started here are left behind.
    """
    if not isinstance(n, int) or n < 1:
        raise ValueError(f"n = {n!r}: should be a number of engines, 1 or more.")
    folder = _folder(profile)
    session = _sessions.get(folder)
    if session is not None:
        if session.is_open:
            _check_number(n, session.n, "This notebook already has", "Type session.close()")
            return session
        session.close()
    session = Session(_running(profile, folder, n) or _Started(profile, folder, n), n)
    session.open(timeout)
    _sessions[folder] = session
    atexit.register(session.close)  # after ipyparallel's own, to run before it, which is slow and noisy
    return session


def _folder(profile):
    if profile in profiles():
        try:
            return install_profile(profile)
        except FileExistsError:  # the user's changes win
            return _installed(profile)
    folder = _installed(profile)
    if not (folder / _CONFIG).exists():
        raise ValueError(
            f"No profile {profile!r}: the kit brings {', '.join(profiles())}, and {folder} does not hold a {_CONFIG}. "
            "Type connect('local')."
        )
    return folder


def _check_number(n, running, whose, remedy):
    if n != running:
        raise ValueError(
            f"{whose} {running} engines, n={n} were asked for. An MPI world cannot grow or shrink: type "
            f"connect(n={running}) to use all of them. {remedy} to start others."
        )


def _running(profile, folder, n):
    """Running engines of this profile that do not belong to another notebook, or None."""
    for file in sorted((folder / "security").glob("cluster-*.json")):
        state = _state(file)
        cluster_id = state["cluster"]["cluster_id"]
        owner = re.match(r"notebook-(\d+)-", cluster_id)
        controller = (state.get("controller") or {}).get("state") or {}
        if (owner and psutil.pid_exists(int(owner[1]))) or not psutil.pid_exists(controller.get("pid", -1)):
            continue
        connection = folder / "security" / f"ipcontroller{'-' * bool(cluster_id)}{cluster_id}-client.json"
        if connection.exists() and json.loads(connection.read_text())["location"] == socket.gethostname():
            joined = _Joined(profile, state, connection)
            _check_number(n, joined.n, f"The cluster {profile!r} has", f"Type `{joined.stop_line}` in a terminal")
            return joined
    return None


def _state(file):
    """What ipyparallel has written of a cluster, once it has started the engines: a second after the controller."""
    deadline = time.monotonic() + 5
    while not (state := json.loads(file.read_text()))["engines"]["sets"] and time.monotonic() < deadline:
        time.sleep(0.1)
    return state


class _Started:
    """Engines that this process starts and ends."""

    origin = "started here"

    def __init__(self, profile, folder, n):
        import ipyparallel

        self.profile, self.n = profile, n
        self.cluster = ipyparallel.Cluster(
            profile_dir=str(folder),
            cluster_id=f"notebook-{os.getpid()}-{next(_counter)}",
            n=n,
            log_level=logging.CRITICAL,  # below it, a normal stop prints the log of every engine into the notebook
        )
        self.launcher_name = self.cluster.engine_launcher_class.__name__
        self._check_launcher(folder)

    def _check_launcher(self, folder):
        from ipyparallel.cluster.launcher import LocalEngineSetLauncher, MPILauncher

        launcher = self.cluster.engine_launcher_class
        is_plain, is_mpiexec = (issubclass(launcher, kind) for kind in (LocalEngineSetLauncher, MPILauncher))
        if is_plain:
            raise ValueError(
                f"Profile {self.profile!r} starts engines without MPI ({launcher.__name__}): set "
                f"c.Cluster.engine_launcher_class in {folder / _CONFIG}, or type connect('local')."
            )
        if is_mpiexec:
            command = launcher(parent=self.cluster, profile_dir=str(folder)).mpi_cmd[0]
            if shutil.which(command) is None:
                raise RuntimeError(
                    f"No {command}: neither in {Path(sys.executable).parent} nor on PATH, and engines are MPI ranks. "
                    "Type `pip install mpich`, or load the MPI module of your site before you start Jupyter."
                )

    def open(self, timeout):
        self.cluster.start_cluster_sync(n=self.n)
        return self.cluster.connect_client_sync(timeout=timeout)

    @property
    def command(self):
        return shlex.join(self.cluster.engine_set.args)

    @property
    def has_ended(self):
        return self.cluster.engine_set.poll() is not None

    def output(self):
        """What mpiexec and the engines have printed."""
        return self.cluster.engine_set.get_output() if self.cluster.engine_set else ""

    def close(self):
        """End engines and controller, by force where they do not end by themselves: an engine may be inside MPI."""
        processes = self._processes()
        # Engines first: their watchers linger for seconds when there is no controller to take leave of.
        for stop in (self.cluster.stop_engines_sync, self.cluster.stop_controller_sync):
            with contextlib.suppress(OSError, RuntimeError):
                stop()
        for process in psutil.wait_procs(processes, timeout=3)[1]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.cluster.shutdown_atexit = False

    def _processes(self):
        found = []
        for launcher in (self.cluster.engine_set, self.cluster.controller):
            if getattr(launcher, "process", None) is not None:
                with contextlib.suppress(psutil.NoSuchProcess):
                    found += [launcher.process, *launcher.process.children(recursive=True)]
        return found


class _Joined:
    """Engines that were started in a terminal, or left by a notebook whose kernel was killed."""

    def __init__(self, profile, state, connection):
        self.profile, self.connection = profile, connection
        cluster_id = state["cluster"]["cluster_id"]
        self.stop_line = f"ipcluster stop --profile={profile}" + f" --cluster-id={cluster_id}" * bool(cluster_id)
        self.origin = f"joined; `{self.stop_line}` ends it"
        self.launcher_name = state["engines"]["class"]
        self._sets = list(state["engines"]["sets"].values())
        self.n = sum(engines["n"] for engines in self._sets)
        self.command = "; ".join(shlex.join(_command_line(engines["pid"])) for engines in self._sets)

    def open(self, timeout):
        import ipyparallel

        try:
            return ipyparallel.Client(str(self.connection), timeout=min(timeout, 20))
        except TimeoutError:
            raise RuntimeError(
                f"The cluster of {self.connection} does not answer. Type `{self.stop_line}` in a terminal; if that "
                "does not help, delete this file."
            ) from None

    @property
    def has_ended(self):
        return any(not psutil.pid_exists(engines["pid"]) for engines in self._sets)

    def output(self):
        """What mpiexec and the engines have printed."""
        files = (Path(engines.get("output_file", "")) for engines in self._sets)
        return "\n".join(file.read_text() for file in files if file.is_file())

    def close(self):
        """Nothing: whoever started the engines ends them."""


def _command_line(pid):
    try:
        return psutil.Process(pid).cmdline()
    except psutil.NoSuchProcess:
        return []
