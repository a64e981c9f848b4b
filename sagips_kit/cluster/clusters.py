"""The clusters of this user: what engines there are, who started them, and how to end them and what they have left.

A cluster is described by the files that ipyparallel has written into the folder of its profile.  Nothing connects to
its engines here: they may be busy, stopped, or gone.
"""

import contextlib
import socket
import warnings
from dataclasses import dataclass
from pathlib import Path

import psutil

from .engines import Joined, connection_of, controller_of, described, end_processes, is_of_a_cluster, owner_of, runs
from .jobs import JobState
from .profiles import find

_PATIENCE_S = 5.0  # for processes to end by themselves


@dataclass(frozen=True)
class Cluster:
    """A controller and its engines, as their files describe them.

    Attributes
    ----------
    name : str
        The id of the cluster, or the name of its profile if `ipcluster` has started it without an id.
    profile : str
        Name of the profile.
    n : int
        Number of engines.
    origin : str
        Who started it.
    engines : JobState
        The state of the engines.
    controller : int or None
        Process id of the controller; None if it has ended.
    host : str
        The host of the controller, empty for this one.
    """

    name: str
    profile: str
    n: int
    origin: str
    engines: JobState
    controller: int | None
    host: str
    _file: Path
    _joined: Joined

    @property
    def is_over(self) -> bool:
        """Whether only files are left."""
        return not self.host and self.controller is None and self.engines.phase == "ended"

    @property
    def words(self) -> str:
        """The state of the cluster, for a list."""
        words = self.engines.words or "running"
        if self.host:
            return f"on the host {self.host}: {words}"
        if self.engines.is_over and self.controller is not None:
            return f"its engines are gone ({words}), its controller is still there"
        if self.controller is None:
            return f"ended: {words}" if self.engines.is_over else f"its controller is gone; engines: {words}"
        return words

    def end(self) -> None:
        """End engines and controller, by force if they do not end by themselves, and remove their files.

        Raises
        ------
        RuntimeError
            If the cluster is on another host.
        """
        if self.host:
            raise RuntimeError(f"{self.name} is on the host {self.host}: type the same command there.")
        if not self.engines.is_over:
            self._joined.end(_PATIENCE_S)
        if self.controller is not None:
            end_processes(self.controller, _PATIENCE_S)
        controller = self._joined.connection.name.removesuffix("client.json")
        for name in (self._file.name, f"{controller}client.json", f"{controller}engine.json"):
            self._file.with_name(name).unlink(missing_ok=True)


def clusters() -> list[Cluster]:
    """All clusters in the profiles of this user, on any host; files that are no description of one are skipped."""
    from IPython.paths import get_ipython_dir

    found = []
    for file in sorted(Path(get_ipython_dir()).glob("profile_*/security/cluster-*.json")):
        try:
            found.append(_read(file))
        except (OSError, ValueError, KeyError, TypeError) as error:
            warnings.warn(unreadable(file, error), stacklevel=2)
    return found


def unreadable(file: Path, error: Exception) -> str:
    """What is said of a file that should describe a cluster, and does not."""
    return f"{file} does not describe engines of this kit ({type(error).__name__}: {error}), and is skipped."


def named(name: str) -> Cluster:
    """The cluster of this name; ValueError if there is none, or more than one."""
    found = clusters()
    chosen = [one for one in found if one.name == name]
    if len(chosen) == 1:
        return chosen[0]
    if chosen:
        profiles = ", ".join(one.profile for one in chosen)
        raise ValueError(f"The profiles {profiles} have a cluster {name!r} each: set IPYTHONDIR to end one of them.")
    known = ", ".join(one.name for one in found) or "there is none"
    raise ValueError(f"No engines are called {name!r}. Allowed: {known}. Type `sagips engines` to see them.")


def _read(file: Path) -> Cluster:
    state = described(file)
    profile = file.parents[1].name.removeprefix("profile_")
    cluster_id = state["cluster"]["cluster_id"]
    connection = connection_of(file.parent, cluster_id)
    joined = Joined(find(profile), state, connection)
    host = _host(connection)
    pid = controller_of(state)
    is_there = pid is not None and not host and is_of_a_cluster(pid)
    return Cluster(
        name=cluster_id or profile,
        profile=profile,
        n=joined.n,
        origin=_origin(cluster_id),
        engines=_engines(joined, host),
        controller=pid if is_there else None,
        host=host,
        _file=file,
        _joined=joined,
    )


def _engines(joined: Joined, host: str) -> JobState:
    if host and not joined.is_job:
        return JobState("unknown", "only that host knows its processes")
    return joined.asked()


def _host(connection: Path) -> str:
    """The host of a controller, empty for this one and where it is not known."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        location = described(connection)["location"]
        return "" if is_here(location) else str(location)
    return ""


def _origin(cluster_id: str) -> str:
    owner = owner_of(cluster_id)
    if owner is None:
        return "ipcluster"
    return f"notebook, process {owner}" + (", which has ended" if not runs(owner) else "")


def is_here(location: str) -> bool:
    """Whether the location of a controller is this host."""
    addresses = (address.address for network in psutil.net_if_addrs().values() for address in network)
    return location in (socket.gethostname(), *addresses)
