"""Shared memory of a node: how much of it is left, and what killed programs have left behind in it.

Linux keeps it as files in /dev/shm.  A process that writes to a file there for which there is no room ends with a bus
error, so its room is tested before.  How ranks use shared memory belongs to `memory`.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

SHARED = Path("/dev/shm")
# How MPI libraries begin the names of their files: MPICH and Cray MPICH, Open MPI, Intel MPI, the network layers PSM.
_MPI_NAMES = ("mpich", "MPICH", "cray-shared-mem", "vader_segment", "sm_segment", "Intel_MPI", "psm2_shm", "psm3_shm")
_LEAST_AGE_S = 60.0  # of a leftover: a younger file may belong to a program that has yet to map it
_START_BYTES = 4_000_000  # of MPI itself, for each rank of a node; MPICH 5 needs 1 MB, and more on nodes of many ranks


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


def require_start(n_ranks: int) -> None:
    """Raise MemoryError if MPI cannot start ranks on this node, for lack of shared memory; it would be a bus error."""
    left, needed = room_left(), n_ranks * _START_BYTES
    if left is not None and left < needed:
        raise MemoryError(explain(needed, left))


def unused() -> list[Segment]:
    """The files of MPI libraries in shared memory that belong to this user, and that no process has open or mapped.

    Processes in another container, which this one cannot see, are not noticed.
    """
    try:
        found = [entry for entry in os.scandir(SHARED) if entry.name.startswith(_MPI_NAMES)]
    except OSError:
        return []
    old = []
    for entry in found:
        with contextlib.suppress(OSError):  # removed in the meantime
            status = entry.stat(follow_symlinks=False)
            age_s = time.time() - max(status.st_mtime, status.st_ctime)
            if status.st_uid == os.getuid() and age_s > _LEAST_AGE_S:
                old.append(Segment(Path(entry.path), 512 * status.st_blocks))
    used = set(_used()) if old else set()
    return [segment for segment in old if str(segment.path) not in used]


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
