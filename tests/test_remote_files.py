"""A run on storage that is no local disk: an object store, spoken to as users do, and a network file system."""

import dataclasses
import importlib
import os
import subprocess
import sys
import time

import pytest
from gaussian import Gaussian
from mpi_launcher import TESTS, command, environment, mpiexec
from test_resume import SMALL, assert_same_bits, file_of

from sagips_kit import AllReduce, RunSpec, read_status
from sagips_kit.store.status import stop_soon


@pytest.fixture
def spec(tmp_path):
    where = str(tmp_path / "a.zarr")
    return RunSpec(
        problem=Gaussian(n_observed=200), settings=SMALL, store=where, n_steps=203, reference=False, fit=False
    )


def test_a_run_on_s3_is_stopped_resumed_and_replaced(spec):
    for package in ("s3fs", "moto.server"):
        pytest.importorskip(package, reason="pip install s3fs 'moto[s3]' flask flask-cors")
    keys = dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "testing") | {
        "AWS_DEFAULT_REGION": "us-east-1"
    }
    server = importlib.import_module("moto.server").ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        address = environment() | keys | {"AWS_ENDPOINT_URL": f"http://{host}:{port}"}
        make = [sys.executable, "-c", "import s3fs; s3fs.S3FileSystem().mkdir('bucket')"]
        subprocess.run(make, env=address, check=True)
        line = [sys.executable, TESTS / "mpi" / "object_store.py", file_of(spec), "s3://bucket/runs/a.zarr"]
        done = subprocess.run(line, env=address, capture_output=True, text=True, timeout=120)
    finally:
        server.stop()
    assert done.returncode == 0, done.stderr


@pytest.mark.mpi
def test_ranks_train_on_a_network_file_system(spec, tmp_path, nest):
    """Each rank believes for two seconds what it has found out about names and folders, and gets no lock."""
    spec = dataclasses.replace(spec, exchange=AllReduce(), n_steps=703)
    local = dataclasses.replace(spec, store=str(tmp_path / "local.zarr"))
    mpiexec(2, *nest.stub, "-m", "sagips_kit", "run", file_of(local))
    file = file_of(spec)
    line = command(2, *nest.stub, TESTS / "mpi" / "network_files.py", file, "--resume")
    with subprocess.Popen(
        line, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as ranks:
        while not (os.path.exists(spec.store) and read_status(spec.store).step > 100):
            assert ranks.poll() is None, ranks.communicate()[0]
            time.sleep(0.02)
        stop_soon(spec.store)
        output, _ = ranks.communicate(timeout=60)
    one, other = read_status(spec.store).steps
    assert ranks.returncode == 0 and 100 < one == other < 703, output
    output = mpiexec(2, *nest.stub, TESTS / "mpi" / "network_files.py", file, "--resume").stdout
    assert f"resumed at step {one}" in output and "\n0 times, something old was believed" not in f"\n{output}", output
    assert_same_bits(spec.store, local.store)
