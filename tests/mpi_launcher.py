"""Start ranks as a user would, with a deadline: a hang is a failure, and leaves nothing behind."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

TESTS = Path(__file__).parent


def environment():
    """That of this process, in which the modules beside the tests can be imported."""
    path = os.pathsep.join([str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


# MPICH takes each rank to be on a node of its own, and sends everything through the network.
APART = {"MPIR_CVAR_NOLOCAL": "1"}


def command(n_ranks, *arguments):
    """The command line that runs `python ARGUMENTS` on some ranks."""
    pytest.importorskip("mpi4py")
    beside = Path(sys.executable).with_name("mpiexec")
    launcher = beside if beside.exists() else shutil.which("mpiexec")
    if launcher is None:
        pytest.skip("there is no mpiexec")
    return [str(launcher), "-n", str(n_ranks), sys.executable, *map(str, arguments)]


def mpiexec(n_ranks, *arguments, timeout=120, cwd=None, env=None):
    """Run `python ARGUMENTS` on some ranks; stdout and stderr come as `.stdout`, together."""
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
        # The ranks are in process groups of their own.
        for one in [*psutil.Process(process.pid).children(recursive=True), process]:
            one.kill()
        output, _ = process.communicate()
        pytest.fail(f"{' '.join(line)} did not end within {timeout} s:\n{output}")
    return subprocess.CompletedProcess(line, process.returncode, output)
