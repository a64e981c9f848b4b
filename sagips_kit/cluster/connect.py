"""Engines: `connect`, which starts them by a profile or joins running ones.

Each engine is one MPI rank; the notebook's own process never starts MPI.  `profiles` reads what a profile says,
`session` uses the engines.
"""

import atexit
import contextlib
import os
import time
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from . import profiles
from .clusters import is_here, unreadable
from .engines import Joined, Started, connection_of, controller_of, described, is_of_a_cluster, owner_of, runs
from .handle import RankError, RunHandle
from .session import Session

__all__ = ["RankError", "RunHandle", "Session", "connect"]

_LAST_PATIENCE_S = 1  # Jupyter and papermill kill a kernel that takes longer than 2.5 s to end
_ENGINES_S = 5.0  # for a controller that has just been started to be given its engines
_sessions: dict[Path, Session] = {}


def connect(
    profile: str = "local",
    n: int = 4,
    timeout_s: float = 120,
    queue_timeout_s: float | None = None,
    fresh: bool = False,
    **options: Any,
) -> Session:
    """Start engines, or join running ones, and check that they are one MPI world.

    Engines that `ipcluster start --profile=<profile>` has started are joined, and so are those that a notebook left
    running when its kernel was killed.  Otherwise n engines are started; on a cluster they are one job, which may have
    to wait in the queue.  A second call returns the open session.

    Parameters
    ----------
    profile : str
        One of `profiles()`, or an IPython profile of your own whose engines are started by MPI.  Profiles that submit
        jobs have to be installed first: `sagips profiles install <profile>`.
    n : int
        Number of engines, each of them one MPI rank.  Running engines must be exactly as many, because the size of an
        MPI world is fixed.
    timeout_s : float
        Longest time to wait for the engines, counted from when their job runs, in seconds.
    queue_timeout_s : float or None
        Longest time to wait in the queue, in seconds; None waits as long as it takes.  Interrupting the cell cancels
        the job.
    fresh : bool
        Start new engines: close the open session of this notebook, and leave running engines of others alone.  Engines
        that are joined otherwise say who started them, when, and which code of the kit they use.
    **options : str or int
        Options of the profile for engines that are started now, such as walltime="01:00:00"; they are not kept.
        Running engines are used only if they were started with the same ones.

    Returns
    -------
    Session
        The engines; `session.submit(spec)` starts a run on them.

    Raises
    ------
    ValueError
        If the profile is unknown or not installed, an option is unknown, wrong or missing, or `n` or an option differs
        from that of running engines; nothing was submitted.
    RuntimeError
        If mpiexec or the scheduler is missing, or if engines are missing or differ from each other; engines that were
        started here have been ended.

    See Also
    --------
    profiles : The names of the kit's profiles.
    install_profile : Install a profile, with the options of your account and site.
    show_profile : Print the job script without submitting it.
    run : Train in this process, without engines.

    Examples
    --------
    >>> from sagips_kit import Proxy, RunSpec, Settings, connect, open_run
    >>> settings = Settings(n_members=1, n_events=64)
    >>> spec = RunSpec(problem=Proxy(), store="runs/d.zarr", settings=settings, n_steps=20, reference=False, fit=False)
    >>> session = connect("local", n=2)
    >>> handle = session.submit(spec)
    >>> handle.wait()
    >>> open_run("runs/d.zarr")["history"].sizes["rank"]
    2
    >>> session.close()
    """
    if not isinstance(profile, str):
        raise TypeError(f"profile = {profile!r}: should be the name of a profile. Type connect('local', n=4).")
    if not isinstance(n, int) or n < 1:
        raise ValueError(f"n = {n!r}: should be a number of engines, 1 or more.")
    found = _found(profile).with_options(**options)
    session = _sessions.get(found.folder)
    if session is not None:
        if session.is_open and not fresh:
            _check_number(profile, n, session.n, "This notebook already has", "Type session.close()")
            _check_options(found, options, session.options, "This notebook already has")
            return session
        session.close()
    joined = None if fresh else _running(found, n)
    if joined is not None:
        _check_options(found, options, joined.options, f"The cluster {profile!r} has")
    session = Session(joined or Started(found, n), n)
    session.open(timeout_s, queue_timeout_s)
    _sessions[found.folder] = session
    atexit.unregister(_leave)
    atexit.register(_leave)  # after ipyparallel's own, to run before it, which is slow and noisy
    return session


def _leave() -> None:
    """Close all sessions with this process; but a run continues if the kernel is being restarted."""
    with contextlib.ExitStack() as stack:  # which closes the others, too, if one cannot be closed
        for session in _sessions.values():
            stack.callback(session.close, _is_restarting(), _LAST_PATIENCE_S)


def _is_restarting() -> bool:
    from IPython import get_ipython

    # The kernel's own answer to the request to end; nothing else distinguishes a restart from a shutdown.
    answer = getattr(getattr(get_ipython(), "kernel", None), "_shutdown_message", None)
    return answer is not None and answer["content"]["restart"]


def _found(name: str) -> profiles.Profile:
    """The installed profile; those that need no options of a site are installed when they are first used."""
    found = profiles.find(name)
    if name not in profiles.profiles():
        return found
    if found.is_job and not profiles.is_installed(name):
        raise ValueError(
            f"Profile {name!r} is not installed. Type `{found.install_line}` in a terminal; then `sagips profiles show "
            f"{name}` prints the job script."
        )
    with contextlib.suppress(FileExistsError):  # the user's changes win
        profiles.install_profile(name)
    return profiles.find(name)


def _check_number(profile: str, n: int, running: int, whose: str, remedy: str) -> None:
    if n != running:
        raise ValueError(
            f"{whose} {running} engines, but n={n} were requested. An MPI world cannot grow or shrink: type "
            f"connect({profile!r}, n={running}) to use all of them. {remedy} to start others."
        )


def _check_options(profile: profiles.Profile, given: Iterable[str], running: Mapping[str, Any], whose: str) -> None:
    """Refuse the options `given` if running engines have others; those that nobody has recorded are not compared."""
    wanted = {name: profile.options[name] for name in given}
    if others := [name for name in wanted if running.get(name, wanted[name]) != wanted[name]]:
        has, wants = (", ".join(f"{name}={some[name]!r}" for name in others) for some in (running, wanted))
        raise ValueError(
            f"{whose} engines with {has}, but {wants} was requested. Options of running engines cannot change: leave "
            "them out to use these engines, or type connect(..., fresh=True) to start others."
        )


def _running(profile: profiles.Profile, n: int) -> Joined | None:
    """Running engines of this profile that do not belong to another notebook, or None."""
    for file in sorted((profile.folder / "security").glob("cluster-*.json")):
        try:
            joined = _joined(profile, file)
        except FileNotFoundError:  # it has just ended
            continue
        except (OSError, ValueError, KeyError, TypeError) as error:
            warnings.warn(unreadable(file, error), stacklevel=3)
            continue
        if joined is not None and joined.n and not joined.state().is_over:
            remedy = f"Type connect(..., fresh=True), or `{joined.stop_line}` in a terminal,"
            _check_number(profile.name, n, joined.n, f"The cluster {profile.name!r} has", remedy)
            return joined
    return None


def _joined(profile: profiles.Profile, file: Path) -> Joined | None:
    """The engines that a file of ipyparallel describes, if they can be joined."""
    state = described(file)
    cluster_id = state["cluster"]["cluster_id"]
    connection = connection_of(file.parent, cluster_id)
    # Process ids are valid on their own host only, and login nodes share this folder.
    if not connection.exists() or not is_here(described(connection)["location"]):
        return None
    owner, controller = owner_of(cluster_id), controller_of(state)
    # Sessions of this process that are open are found before: what is left of it is a run that was kept.
    is_of_another = owner is not None and owner != os.getpid() and runs(owner)
    if is_of_another or controller is None or not is_of_a_cluster(controller):
        return None
    # ipyparallel adds the engines a second after the controller.
    deadline = time.monotonic() + _ENGINES_S
    while not state["engines"]["sets"] and time.monotonic() < deadline:
        time.sleep(0.1)
        state = described(file)
    return Joined(profile, state, connection)
