"""Start ranks as a user would, with a deadline: a hang is a failure, and no process is left behind."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

TESTS = Path(__file__).parent


def environment():
    """The environment of this process, extended so that the modules next to the tests can be imported."""
    path = os.pathsep.join([str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


# Makes MPICH treat each rank as if it were on a separate node and send everything through the network.
APART = {"MPIR_CVAR_NOLOCAL": "1"}


def command(n_ranks, *arguments):
    """The command line that runs `python ARGUMENTS` on `n_ranks` ranks."""
    pytest.importorskip("mpi4py")
    beside = Path(sys.executable).with_name("mpiexec")
    launcher = beside if beside.exists() else shutil.which("mpiexec")
    if launcher is None:
        pytest.skip("there is no mpiexec")
    return [str(launcher), "-n", str(n_ranks), sys.executable, *map(str, arguments)]


def mpiexec(n_ranks, *arguments, timeout=120, cwd=None, env=None):
    """Run `python ARGUMENTS` on `n_ranks` ranks; stdout and stderr are merged in `.stdout`."""
    line = command(n_ranks, *arguments)
    process = subprocess.Popen(
        line,
        cwd=cwd or TESTS.parent,
        env=environment() | (env or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        # The ranks are in other process groups.
        for one in [*psutil.Process(process.pid).children(recursive=True), process]:
            one.kill()
        output, _ = process.communicate()
        pytest.fail(f"{' '.join(line)} did not end within {timeout} s:\n{output}")
    return subprocess.CompletedProcess(line, process.returncode, output)


class Nest:
    """Starts ranks without the time for their imports: they are forked from a process that has imported torch.

    Attributes
    ----------
    stub : list of str
        Arguments for `command` and `mpiexec`, before those of the ranks.
    """

    _SCRIPT = str(TESTS / "mpi" / "nest.py")

    def __enter__(self):
        self._folder = tempfile.TemporaryDirectory(prefix="sagips")  # paths of sockets have to be short
        path = os.path.join(self._folder.name, "nest")
        self.stub = ["-I", "-S", self._SCRIPT, "stub", path]
        line = [sys.executable, self._SCRIPT, "serve", path]
        self._server = subprocess.Popen(line, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._server.stdout.readline() == b"ready\n"
        return self

    def __exit__(self, *exception):
        self.settle()
        with self._server:
            self._server.stdin.close()
        self._folder.cleanup()

    def ranks(self):
        """The running ranks: list of psutil.Process."""
        guardians = psutil.Process(self._server.pid).children()
        return [rank for guardian in guardians for rank in _children(guardian)]

    def settle(self):
        """Wait for ranks that are being killed: mpiexec ends with their stubs, a little before them."""
        assert not psutil.wait_procs(self.ranks(), timeout=20)[1]


def _children(process):
    try:
        return process.children()
    except psutil.NoSuchProcess:
        return []
