"""Setup for all tests: one thread each, seeded randomness, a header that names the MPI, no process left behind."""

import os
import subprocess
import sys
import time
import zlib
from importlib.metadata import version
from pathlib import Path

import hypothesis
import matplotlib
import numpy as np
import psutil
import pytest

# Before torch is imported, and for the processes that tests start: several ranks share few cores.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

matplotlib.use("Agg")
# The same examples in every run; and no deadline, since the machine may be busy.
hypothesis.settings.register_profile("sagips_kit", deadline=None, derandomize=True)
hypothesis.settings.load_profile("sagips_kit")

ROOT = Path(__file__).parents[1]
_LAUNCHER_RANKS = ("PMI_RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK")
_MPI = """
from mpi4py import MPI
vendor, numbers = MPI.get_vendor()
print(f"{vendor} {'.'.join(map(str, numbers))}, size {MPI.COMM_WORLD.size}", end="")
"""


ONE_BY_ONE = "one_by_one"


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items):
    """Tests that need several cores, or a scheduler of which a machine has one, run one after another."""
    for item in items:
        if item.get_closest_marker("mpi") or item.get_closest_marker("scheduler"):
            item.add_marker(pytest.mark.xdist_group(ONE_BY_ONE))


def pytest_report_header():
    packages = ("mpi4py", "ipyparallel", "torch", "numpy", "zarr", "xarray")
    return [f"mpi: {_mpi()}", f"versions: {', '.join(f'{name} {version(name)}' for name in packages)}"]


def _mpi():
    if any(name in os.environ for name in _LAUNCHER_RANKS):
        from mpi4py import MPI

        return f"{MPI.get_vendor()[0]}, rank {MPI.COMM_WORLD.rank} of {MPI.COMM_WORLD.size}"
    # Ask another process: the import starts MPI, and this process should stay without it, as a notebook does.
    answer = subprocess.run([sys.executable, "-c", _MPI], capture_output=True, text=True, timeout=60)
    return answer.stdout if answer.returncode == 0 else f"not usable: {answer.stderr.strip().splitlines()[-1]}"


@pytest.fixture
def rng(request):
    """A random generator for one test, the same in every run."""
    name = request.node.nodeid.removesuffix(f"@{ONE_BY_ONE}")  # which pytest-xdist adds
    return np.random.default_rng(zlib.crc32(name.encode()))


@pytest.fixture(scope="session")
def nest():
    """Starts MPI ranks without the seconds that each of them needs for its imports."""
    from mpi_launcher import Nest

    with Nest() as nest:
        yield nest


@pytest.fixture(scope="session")
def two_engines(tmp_path_factory):
    """The folder (IPYTHONDIR) of two engines, started as in a terminal, for all tests that may join some."""
    folder = tmp_path_factory.mktemp("engines")
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"IPYTHONDIR": str(folder), "PYTHONPATH": path}
    subprocess.run([sys.executable, "-m", "sagips_kit", "profiles", "install", "local"], env=environment, check=True)
    command = [sys.executable, "-m", "ipyparallel.cluster", "start", "--profile=local", "--n=2"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 60
            while not list(folder.glob("profile_local/security/cluster-*.json")):
                assert time.monotonic() < deadline and process.poll() is None
                time.sleep(0.1)
            yield folder
        finally:
            process.terminate()


@pytest.fixture(autouse=True)
def _seed_torch():
    """Seed torch's global stream, so that draws from it are the same in every run and for every order of tests."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def _no_process_is_left():
    """Check that engines, kernels and ranks end with the tests that started them."""
    yield
    children = psutil.Process().children(recursive=True)
    # The tracker of multiprocessing ends with this process.
    engines = [child for child in children if "multiprocessing.resource_tracker" not in _command(child)]
    left = psutil.wait_procs(engines, timeout=10)[1]
    assert not left, "left behind by some test:\n" + "\n".join(f"{child.pid} {_command(child)}" for child in left)


def _command(process):
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return "(gone)"
