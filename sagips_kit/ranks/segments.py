"""Shared memory of a node: how much of it is left, and what killed programs have left behind in it.

Linux keeps it as files in /dev/shm.  A process that writes to a file there for which there is no room ends with a bus
error, so its room is tested before.  How ranks use shared memory belongs to `memory`.
"""

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from .launcher import was_restarted

SHARED = Path("/dev/shm")
# How MPI libraries begin the names of their files: MPICH and Cray MPICH, Open MPI, Intel MPI, the network layers PSM.
_MPI_NAMES = ("mpich", "MPICH", "cray-shared-mem", "vader_segment", "sm_segment", "Intel_MPI", "psm2_shm", "psm3_shm")
_LEAST_AGE_S = 10.0  # of a leftover: a younger file may belong to a program that has yet to map it
_START_S = 60.0  # in which all ranks of a node start
_START_BYTES = 1_100_000  # that MPICH 5 itself needs for each rank of a node


@dataclass(frozen=True)
class Segment:
    """A file of shared memory that no process uses any more.

    Attributes
    ----------
    path : Path
        The file.
    n_bytes : int
        The memory that it takes.
    """

    path: Path
    n_bytes: int


def room_left() -> int | None:
    """Bytes of shared memory that are left on this node; None on a system that keeps it elsewhere."""
    try:
        room = os.statvfs(SHARED)
    except OSError:
        return None
    return room.f_bavail * room.f_frsize


def explain(needed: int, left: int) -> str:
    """What to do about a node with too little shared memory, in bytes."""
    text = (
        f"The ranks of this node need {needed / 1e6:.0f} MB of shared memory, and {SHARED} has {left / 1e6:.0f} MB "
        "left. Enlarge it: start a container with --shm-size=2g (docker, podman) or with the /dev/shm of the host "
        "(apptainer)."
    )
    if lost := sum(one.n_bytes for one in unused()):
        text += (
            f" Programs that were killed have left {lost / 1e6:.0f} MB there: type `sagips engines --clear` on this "
            "node."
        )
    return text


def fits(n_bytes: int) -> bool:
    """Whether that much shared memory is left on this node, as far as the system says."""
    left = room_left()
    return left is None or left >= n_bytes


def require_start(n_ranks: int | None = None) -> None:
    """Raise MemoryError if MPI cannot start for lack of shared memory, which would be a bus error.

    In a job that the scheduler runs again, what the first attempt has left is removed before.

    Parameters
    ----------
    n_ranks : int or None
        Ranks of this node; None takes the number that the launcher has given, and checks nothing if MPI is running.
    """
    started = sys.modules.get("mpi4py.MPI")
    if n_ranks is None and started is not None and started.Is_initialized():
        return
    if n_ranks is None and was_restarted():
        clear()  # MPI names files after the job, and would take those of its first attempt for its own
    needed = _START_BYTES * (n_ranks or int(os.environ.get("MPI_LOCALNRANKS", "1")))
    # Other ranks of this node may have taken theirs a moment ago.
    taken = 0 if n_ranks else sum(segment.n_bytes for segment, age_s in _own() if age_s < _START_S)
    if not fits(needed - taken):
        raise MemoryError(explain(needed, room_left() or 0))


def bus_error_explained(output: str) -> str:
    """What to do if `output` is that of a program that has ended with a bus error; empty for any other."""
    if "Bus error" not in output:
        return ""
    return (
        f"A bus error means that {SHARED} of that node is full: enlarge it (docker, podman: --shm-size=2g), or type "
        "`sagips engines --clear` on the node, which removes what killed programs have left there. "
    )


def unused() -> list[Segment]:
    """The files of MPI libraries in shared memory that belong to this user, and that no process has open or mapped.

    Processes in another container, which this one cannot see, are not noticed.
    """
    old = [segment for segment, age_s in _own() if age_s > _LEAST_AGE_S]
    used = set(_used()) if old else set()
    return [segment for segment in old if str(segment.path) not in used]


def _own() -> Iterator[tuple[Segment, float]]:
    """The files of MPI libraries in shared memory that belong to this user, and their ages in seconds."""
    with contextlib.suppress(OSError):
        for entry in os.scandir(SHARED):
            if not entry.name.startswith(_MPI_NAMES):
                continue
            with contextlib.suppress(OSError):  # removed in the meantime
                status = entry.stat(follow_symlinks=False)
                if status.st_uid == os.getuid():
                    age_s = time.time() - max(status.st_mtime, status.st_ctime)
                    yield Segment(Path(entry.path), 512 * status.st_blocks), age_s


def clear() -> list[Segment]:
    """Remove the files that `unused` finds; returns those that are gone."""
    gone = []
    for segment in unused():
        with contextlib.suppress(OSError):
            segment.path.unlink()
            gone.append(segment)
    return gone


def _used() -> Iterator[str]:
    """Files in shared memory that processes of this user have open or mapped."""
    for process in psutil.process_iter():
        # Those of other users cannot be looked at, and do not use files of this one; others end in the meantime.
        with contextlib.suppress(OSError, psutil.Error):
            for line in Path(f"/proc/{process.pid}/maps").read_text(errors="replace").splitlines():
                if (start := line.find(f" {SHARED}/")) >= 0:
                    yield line[start + 1 :].removesuffix(" (deleted)")
            for file in Path(f"/proc/{process.pid}/fd").iterdir():
                yield os.readlink(file)
