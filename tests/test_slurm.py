"""A real Slurm of one node: engines as a job, notebooks as jobs, and what the user sees when a job ends early."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest
import slurm_machine
from gaussian import Slow, long_run
from test_notebooks import execute
from test_resume import assert_same_bits

from sagips_kit import analysis, open_run, read_status
from sagips_kit.cluster import connect, profiles
from sagips_kit.running.checkpoints import FOLDER

ROOT = Path(__file__).parents[1]
N = 2
pytestmark = [
    pytest.mark.scheduler,
    pytest.mark.mpi,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        bool(slurm_machine.missing()),
        reason=f"no {', '.join(slurm_machine.missing())}: apt-get install slurm-wlm munge",
    ),
]
# The MPI of PyPI's mpich speaks PMI 2 with Slurm.
OPTIONS = {"walltime": "10:00", "mpiexec": "srun --mpi=pmi2 -K --ntasks={n}"}


@pytest.fixture(scope="module", autouse=True)
def environment(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slurm")
    with pytest.MonkeyPatch.context() as patch, slurm_machine.slurm(folder) as found:
        for name, text in found.environment.items():
            patch.setenv(name, text)
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests")]))
        yield


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The folder of a test, with the profile installed; no job of an earlier test is left."""
    assert not jobs()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "my ipython é 100%j"))
    profiles.install_profile("slurm", **OPTIONS)
    yield tmp_path
    for job_id in jobs():
        subprocess.run(["scancel", job_id], check=True)
    until(lambda: not jobs())


def jobs():
    """Ids of the jobs that are queued or running."""
    return subprocess.run(["squeue", "--noheader", "--format=%i"], capture_output=True, text=True).stdout.split()


def until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


@contextlib.contextmanager
def background(*command):
    """A program that runs in parallel with the test; its output is in `.log`."""
    log = Path("background.log")
    with open(log, "w") as file:
        process = subprocess.Popen([sys.executable, *command], stdout=file, stderr=file)
    process.log = log
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


def slow_run(store):
    """A run of several seconds, with an early checkpoint."""
    return long_run(store, 400, Slow(n_observed=200), checkpoint_s=0.5)


def cancel_after_a_checkpoint(path):
    """Cancel all jobs once both ranks have written a checkpoint."""
    until(lambda: len({file.name[13:19] for file in Path(path).glob(f"{FOLDER}/*.safetensors")}) == N, 120)
    subprocess.run(["scancel", *jobs()], check=True)


def submit_batch(notebook, *parameters):
    """Submit a notebook by `sagips batch`; returns what it prints about the job: dict."""
    command = [sys.executable, "-m", "sagips_kit", "batch", str(notebook), "--profile", "slurm", "--submit"]
    words = [str(word) for pair in parameters for word in ("-p", *pair)]
    done = subprocess.run([*command, *words], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return dict(line.split(maxsplit=1) for line in done.stdout.splitlines())


def assert_good(path):
    assert read_status(path).is_finished
    estimates = analysis.estimate(open_run(path))
    assert (estimates["deviation"] > 0).all()
    assert float(abs((estimates["mle"] - estimates["truth"]) / estimates["floor"]).max()) < 4


@pytest.mark.slow
def test_a_notebook_joins_the_engines_that_ipcluster_has_started(folder):
    with background("-m", "ipyparallel.cluster", "start", "--profile=slurm", f"--n={N}") as terminal:
        until(lambda: "RUNNING" in terminal.log.read_text())
        done = execute("00_quickstart", folder, os.environ["IPYTHONDIR"], profile="slurm", n=N)
        assert done.returncode == 0, done.stderr[-3000:]
        assert_good(folder / "runs" / "quickstart.zarr")
        assert "ipcluster stop --profile=slurm" in (folder / "executed.ipynb").read_text()
        assert len(jobs()) == 1  # the end of the notebook has not ended the engines
        script = (profiles.installed("slurm") / "jobs" / "sagips.sh").read_text()
        assert script == profiles.show_profile("slurm", N)
    until(lambda: not jobs())


@pytest.mark.slow
def test_a_notebook_runs_as_a_job(folder):
    small = [("n", N), ("n_steps", 60), ("n_members", 2), ("n_events", 384)]
    job = submit_batch(ROOT / "notebooks" / "00_quickstart.ipynb", *small)
    assert job["job"] in jobs() and job["store"] == str(folder / "runs" / f"00_quickstart-{job['job']}.zarr")
    until(lambda: not jobs(), 200)
    log = Path(job["log"]).read_text()
    assert Path(job["notebook"]).is_file(), log
    assert_good(job["store"])
    assert "allocation" in Path(job["notebook"]).read_text()
    assert not list((folder / "runs").glob("*.ipython"))


def test_a_job_that_is_cancelled_is_reported_as_such_and_another_resumes_its_run(folder):
    with connect.connect("slurm", N) as session:
        assert f"#SBATCH --ntasks={N}" in session.preview()
        done = subprocess.run(["scontrol", "requeue", *jobs()], capture_output=True, text=True)
        assert done.returncode and "disabled" in done.stderr
        run = session.submit(slow_run("a.zarr"))
        cancel_after_a_checkpoint("a.zarr")
        began = time.monotonic()
        # Fast ranks stop cleanly before they are killed.
        seen = r"(?s)(engines are gone.*job \d+: CANCELLED|asked to stop by a signal).* of 400.*is safe.*session.resume"
        with pytest.raises(connect.RankError, match=seen):
            run.wait(timeout_s=60)
        assert time.monotonic() - began < 30
        until(lambda: not session.is_open)
        with pytest.raises(RuntimeError, match=r"(?s)some are gone: job \d+: (CANCELLED|COMPLETING.* CANCELLED AT)"):
            session.submit(long_run("b.zarr"))
    reached = read_status("a.zarr").step
    with connect.connect("slurm", N) as session:
        session.submit(long_run("whole.zarr", 400)).wait(timeout_s=60)
        first_steps = {rank["first_step"] for rank in session.submit(slow_run("a.zarr"), resume=True).result()}
    assert len(first_steps) == 1 and 0 < first_steps.pop() <= reached < 400
    assert_same_bits("a.zarr", "whole.zarr")


PARAMETERS = """
profile = "local"
n = 2
store = "a.zarr"
resume = False
"""
CELL = """
from sagips_kit import connect
from test_slurm import slow_run

session = connect(profile, n=n)
session.submit(slow_run(store), resume=resume).wait()
session.close()
"""


def test_a_notebook_whose_job_is_cancelled_continues_as_another_job(folder):
    parameters = nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    notebook = nbformat.v4.new_notebook(cells=[parameters, nbformat.v4.new_code_cell(CELL)], metadata=kernel)
    nbformat.write(notebook, "train.ipynb")
    first = submit_batch("train.ipynb")
    cancel_after_a_checkpoint(first["store"])
    until(lambda: not jobs())
    assert 0 < read_status(first["store"]).step < 400
    second = submit_batch("train.ipynb", ("store", first["store"]), ("resume", True))
    assert second["store"] == first["store"] and second["notebook"] != first["notebook"]
    until(lambda: not jobs(), 200)
    assert read_status(first["store"]).is_finished, Path(second["log"]).read_text()
    [note] = open_run(first["store"])["control"].attrs["resumed"]
    assert note["from_step"] > 0
    assert open_run(first["store"])["history"]["theta"].notnull().all()


def test_waiting_in_a_queue_is_given_up_after_the_timeout():
    with pytest.raises(
        RuntimeError, match=r"The job of profile 'slurm' was still in the queue after \d+ s \(job \d+: PENDING, JobHeld"
    ):
        connect.connect("slurm", N, queue_timeout_s=6, directives="--hold")
    until(lambda: not jobs())


def test_the_wait_in_the_queue_may_be_longer_than_the_wait_for_engines(monkeypatch):
    """The time allowed for engines starts when their job runs."""
    released = []

    def show(self, text):
        lines.append(text)
        if "PENDING" in text and text.endswith(" 8 s") and not released:
            released.extend(jobs())
            subprocess.run(["scontrol", "release", *released], check=True)

    lines = []
    monkeypatch.setattr("sagips_kit.cluster.session.ProgressLine.show", show)
    with connect.connect("slurm", N, timeout_s=60, directives="--hold") as session:
        assert session.is_open and len(released) == 1
    assert any("PENDING, JobHeldUser" in line for line in lines)


def test_the_last_output_of_a_job_that_dies_early_is_quoted():
    message = r"(?s)2 engines were requested, but only 0 came .*: job \d+: FAILED.*no such module: gcc"
    with pytest.raises(RuntimeError, match=message):
        connect.connect("slurm", N, setup="echo no such module: gcc; exit 1")


def test_what_slurm_refuses_is_quoted():
    with pytest.raises(RuntimeError, match="(?s)sbatch refused .*nvalid partition"):
        connect.connect("slurm", N, queue="nowhere")
    assert not jobs()


NOTEBOOK = """
import sys, time
from test_slurm import *
session = connect.connect("slurm", N)
session.submit(long_run("a.zarr", int(sys.argv[1])))
print("submitted", flush=True)
time.sleep(300)
"""


def test_two_clusters_from_one_folder_at_once_and_a_run_outlives_its_notebook(request):
    with background("-c", NOTEBOOK, "50000") as other:
        until(lambda: "submitted" in other.log.read_text(), 120)
        # The other notebook is running, so its engines are not joined.
        with connect.connect("slurm", N) as mine:
            assert "started here" in mine.preview() and len(jobs()) == 2
            mine.submit(long_run("b.zarr", 50)).wait(timeout_s=100)
        until(lambda: len(jobs()) == 1)
        controller = psutil.Process(other.pid).children(recursive=True)
        request.addfinalizer(lambda: [process.kill() for process in psutil.wait_procs(controller, timeout=0)[1]])
        other.kill()
        other.wait()
        # Now no notebook owns these engines, as after a restart of the kernel.
        with connect.connect("slurm", N) as found:
            assert "joined" in found.preview() and len(jobs()) == 1
            with pytest.raises(RuntimeError, match=r"Busy with a run.*session.attach\(path\)"):
                found.submit(long_run("c.zarr"))
            with pytest.raises(FileNotFoundError, match="There is no run at `c.zarr`"):
                found.attach("c.zarr")
            run = found.attach("a.zarr")
            run.stop()
            run.watch()
            assert run.status().state == "stopped"
            assert {rank["steps"] for rank in run.result()} == set(run.status().steps)
            stop = found._engines.stop_line.split()
        assert len(jobs()) == 1
        subprocess.run([sys.executable, "-m", "ipyparallel.cluster", *stop[1:]], check=True, timeout=60)
    until(lambda: not jobs())
