"""The profile `polaris` without the options of Polaris, on a simulated PBS that runs its jobs on this machine."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pbs_machine
import psutil
import pytest
from gaussian import long_run
from test_slurm import until

from sagips_kit.cluster import connect, notebook_job, profiles
from sagips_kit.cluster.configuration import mpiexec_beside_python

N = 2
ROOT = Path(__file__).parents[1]
pytestmark = [pytest.mark.mpi, pytest.mark.timeout(300)]


@pytest.fixture(autouse=True)
def installed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{pbs_machine.install(tmp_path / 'pbs')}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests")]))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    profiles.install_profile(
        "polaris",
        account="",
        filesystems="",
        walltime="00:10:00",
        select="",
        place="",
        setup="",
        affinity="",
        interface="",
        threads=1,
        mpiexec=f"{mpiexec_beside_python()} -n {{n}}",
    )


def test_polaris_runs_on_a_plain_pbs(tmp_path):
    with connect.connect("polaris", N) as session:
        assert "launcher  PBSEngines" in session.preview() and "#PBS -l select=1\n" in session.preview()
        pids = [fact["pid"] for fact in session._facts]
        assert session.submit(long_run("a.zarr", 40)).result()[1]["steps"] == 40
        # PBS starts jobs with a umask of 077.
        assert not [path for path in Path("a.zarr").rglob("*") if not path.stat().st_mode & 0o044]
        run = session.submit(long_run("b.zarr"))
        until(lambda: run.status().step > 0)
        job_id = session._engines.cluster.engine_set.job_id
        pbs_machine.lose_node(tmp_path / "pbs", job_id)
        with pytest.raises(connect.RankError, match=r"(?s)job 1.here: F, exit status -1.*is safe"):
            run.wait(timeout_s=60)
        assert repr(run).endswith(" unfinished, but its engines are gone)")
        with pytest.raises(RuntimeError, match=r"some are gone: job 1.here: F.*session.close\(\), then connect\(...\)"):
            session.submit(long_run("c.zarr"))
    until(lambda: not any(map(psutil.pid_exists, pids)))


def test_waiting_in_a_queue_is_given_up_after_the_timeout():
    message = r"'polaris' was still in the queue after .*job 1.here: Q, Not Running: Insufficient amount .* A: 2 T: 2\)"
    with pytest.raises(RuntimeError, match=message):
        connect.connect("polaris", N, queue="full", queue_timeout_s=1)


@pytest.mark.parametrize(
    ("qstat", "message"),
    [
        # A server that keeps no history, and has forgotten a job that died at once.
        (
            "[ $1 = -x ] && exec echo PBS is not configured to maintain job history >&2\n"
            "while [ ! -e pbs/jobs/1.here/status ]; do sleep 0.1; done; echo qstat: Unknown Job Id >&2; exit 153",
            r"(?s)0 came .*job 1.here: ended, and forgotten by the scheduler.*no such module: conda",
        ),
        (
            "echo qstat: cannot connect to server >&2; exit 255",
            r"has not started any engine after . s \(job 1.here: qstat: cannot connect to server\)",
        ),
        ("sleep 6", r"has not started any engine after . s \(job 1.here: the scheduler has not answered yet\)"),
    ],
)
def test_a_server_without_history_or_without_an_answer_is_understood_in_time(tmp_path, qstat, message):
    (tmp_path / "pbs" / "bin" / "qstat").write_text(f"#!/bin/bash\n{qstat}\n")
    # A login shell that is killed may leave locks behind, so jobs that are cancelled at once never start.
    options = {"queue_timeout_s": 60} if "-x" in qstat else {"queue_timeout_s": 2, "queue": "full"}
    began = time.monotonic()
    with pytest.raises(RuntimeError, match=message):
        connect.connect("polaris", N, setup="echo no such module: conda; exit 1", **options)
    assert time.monotonic() - began < 40


def test_interrupting_the_wait_cancels_the_job(tmp_path, monkeypatch):
    def interrupt(self, text):
        if "Q, Not Running" in text:
            raise KeyboardInterrupt

    monkeypatch.setattr("sagips_kit.cluster.session.ProgressLine.show", interrupt)
    with pytest.raises(KeyboardInterrupt):
        connect.connect("polaris", N, queue="full")
    assert (tmp_path / "pbs" / "jobs" / "1.here" / "status").read_text() == "271"


@pytest.mark.parametrize("is_error", [False, True])
def test_a_session_warns_of_a_job_that_it_could_not_cancel(tmp_path, is_error):
    qdel = tmp_path / "pbs" / "bin" / "qdel"
    works = qdel.read_text()
    session = connect.connect("polaris", N)
    controller = session._engines._processes()
    qdel.write_text("#!/bin/sh\necho cannot connect to server >&2; exit 255\n")
    message = "Job 1.here was not cancelled.*: cannot connect to server. Type `qdel 1.here` in a terminal"
    try:
        # The controller ends even if warnings are errors.
        with pytest.raises(UserWarning, match=message) if is_error else pytest.warns(UserWarning, match=message):
            session.close()
        assert controller and not psutil.wait_procs(controller, timeout=5)[1]
    finally:
        qdel.write_text(works)
        session.close()
        subprocess.run(["qdel", "1.here"], check=not is_error, capture_output=True)
    assert (tmp_path / "pbs" / "jobs" / "1.here" / "status").read_text() == "271"


def test_a_job_is_cancelled_though_ipyparallel_cannot_stop_it(tmp_path, monkeypatch):
    def stop():
        raise RuntimeError("Event loop is closed")

    session = connect.connect("polaris", N)
    with monkeypatch.context() as patch:
        patch.setattr(session._engines.cluster, "stop_engines_sync", stop)
        session.close()
    assert (tmp_path / "pbs" / "jobs" / "1.here" / "status").read_text() == "271"
    session.close()


def test_the_last_output_of_a_job_that_dies_early_is_quoted():
    message = r"(?s)0 came .*job 1.here: F, exit status 1.*no such module: conda"
    with pytest.raises(RuntimeError, match=message):
        connect.connect("polaris", N, setup="echo no such module: conda; exit 1")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"account": "x"}, "walltime, filesystems missing. Type `sagips profiles install polaris --walltime 00:30:00"),
        ({"account": "x", "filesystems": "home", "walltime": "5:00", "place": "nowhere"}, "qsub refused"),
    ],
)
def test_ipcluster_gives_the_reason_if_no_job_can_be_submitted(options, message):
    profiles.install_profile("polaris", overwrite=True, **options)
    command = [sys.executable, "-m", "ipyparallel.cluster", "start", "--profile=polaris", f"--n={N}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and message in done.stderr
    assert "Traceback" not in done.stderr


def test_ipcluster_gives_the_reason_if_an_option_in_the_file_is_wrong():
    config = profiles.installed("polaris") / "ipcluster_config.json"
    config.write_text(config.read_text().replace('"walltime": "00:10:00"', '"walltime": "tomorrow"'))
    command = [sys.executable, "-m", "ipyparallel.cluster", "start", "--profile=polaris", f"--n={N}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "walltime = 'tomorrow': should be HH:MM:SS, MM:SS or seconds" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_pbs_refuses_is_quoted():
    with pytest.raises(RuntimeError, match="(?s)qsub refused .*illegal value: walltime or place in .*nowhere"):
        connect.connect("polaris", N, place="nowhere")


def test_a_notebook_runs_as_a_job(tmp_path):
    notebook = ROOT / "notebooks" / "04_on_a_cluster.ipynb"
    written = notebook_job.write_batch(notebook, "polaris", {"n": "8"}, ranks_per_node=4, nodes=2)
    script = pbs_machine.read_script(written.path.read_text())
    assert (script.nodes, script.name) == (2, "sagips-04_on_a_cluster")
    for words in ("--ranks_per_node 4", "-p profile allocation -p n 8 -p store", f"cd {tmp_path}"):
        assert any(words in line for line in script.lines)
    scaling = ROOT / "notebooks" / "08_scaling.ipynb"
    large = notebook_job.write_batch(scaling, "polaris", {"n": "400", "group": "4"}, ranks_per_node=4, queue="prod")
    script = pbs_machine.read_script(large.path.read_text())
    assert (script.nodes, script.queue, script.name) == (100, "prod", "sagips-08_scaling")
    assert any("-p profile allocation -p n 400 -p group 4" in line for line in script.lines)
    with pytest.raises(
        ValueError, match=r"takes no parameter 'n_step'. Did you mean n_steps\? Allowed: figures, n, n_events"
    ):
        notebook_job.write_batch(notebook, "polaris", {"n_step": 3})
    with pytest.raises(ValueError, match="Profile 'local' submits no jobs. Allowed: aurora, frontier, ifarm, pbs"):
        notebook_job.write_batch(notebook, "local")
    with pytest.raises(FileNotFoundError, match="There is no notebook `none.ipynb`"):
        notebook_job.write_batch("none.ipynb", "polaris")
