"""Jobs as values: what schedulers answer to their commands, and what a job script says, without any scheduler."""

import json
import os
import shlex
import time
from pathlib import Path

import nbformat
import pytest
from pbs_machine import read_script

from sagips_kit.cluster import notebook_job
from sagips_kit.cluster.jobs import PBS, JobState, JobWatch, Slurm


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Put commands of a scheduler on PATH: command(name, script)."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")

    def write(name, script):
        file = tmp_path / "bin" / name
        file.write_text(f"#!/bin/bash\n{script}\n")
        file.chmod(0o755)

    return write


# Ids and states


@pytest.mark.parametrize(
    ("kind", "answer", "job_id"),
    [
        (PBS, "1234.server-01", "1234.server-01"),
        (PBS, "Welcome to node 12.\n3 jobs are waiting\n1234", "1234"),
        (PBS, "1234.polaris-pbs-01.hsn.cm.polaris.alcf.anl.gov\n", "1234.polaris-pbs-01.hsn.cm.polaris.alcf.anl.gov"),
        (Slurm, "1234", "1234"),
        (Slurm, "24 hours of maintenance on 2026-12-01\n1234;big", "1234;big"),
        (Slurm, "sbatch: Charging project 77\nSubmitted batch job 1234 on cluster big", "1234;big"),
        (Slurm, "Submitted batch job 1234\n", "1234"),
    ],
)
def test_the_id_of_a_job_is_found_in_what_sites_print(kind, answer, job_id, command):
    command(kind.submit_command[0], f"printf %s {shlex.quote(answer)}")
    assert kind().submit("job.sh") == job_id


@pytest.mark.parametrize("kind", [PBS, Slurm])
def test_a_refusal_is_quoted_whole(kind, command):
    command(kind.submit_command[0], "echo 'your quota: 3 jobs'; echo 'limit 90 reached' >&2; exit 1")
    with pytest.raises(RuntimeError, match=f"(?s){kind.submit_command[0]} refused job.sh:\nlimit 90.*quota: 3 jobs"):
        kind().submit("job.sh")


def test_commands_about_a_job_name_its_cluster(command, tmp_path):
    for name in ("squeue", "scancel"):
        command(name, f'echo "$@" >>{tmp_path}/seen; [ {name} = scancel ] || echo "RUNNING|None"')
    Slurm().cancel("12;big")
    assert Slurm().state("12;big") == JobState("running", "RUNNING")
    first, second = (tmp_path / "seen").read_text().splitlines()
    assert first == "--clusters=big 12" and second.startswith("--clusters=big --noheader") and second.endswith("12")


NO_HISTORY = 'if [ "$1" = -x ]; then echo PBS is not configured to maintain job history >&2; exit 0; fi\n'


@pytest.mark.parametrize(
    ("answer", "phase", "words"),
    [
        (NO_HISTORY + "printf 'Job Id: 12.here\n    job_state = R\n'", "running", "R"),
        (NO_HISTORY + "echo qstat: Unknown Job Id 12.here >&2; exit 153", "ended", "forgotten"),
        (NO_HISTORY + "echo qstat: cannot connect to server here >&2; exit 255", "unknown", "cannot connect"),
        ("exit 255", "unknown", "qstat returned exit status 255"),
        *((f"printf 'Job Id: 12.here\n    job_state = {letter}\n'", "queued", letter) for letter in "QHWT"),
        *((f"printf 'Job Id: 12.here\n    job_state = {letter}\n'", "running", letter) for letter in "RSUB"),
        ("printf 'Job Id: 12.here\n    job_state = E\n'", "ending", "E"),
        ("printf 'Job Id: 12.here\n    job_state = X\n'", "ended", "X"),
        ("printf 'Job Id: 12.here\n    job_state = M\n'", "unknown", "M"),
    ],
)
def test_pbs_with_and_without_history_is_understood(answer, phase, words, command):
    command("qstat", answer)
    state = PBS().state("12.here")
    assert state.phase == phase and words in state.words


def watched(*states):
    """A watch of a job that has these states, one after the other."""

    class Told(PBS):
        def state(self, job_id):
            state = left.pop(0)
            return state() if callable(state) else state

    left = list(states)
    return JobWatch(Told(), "12", 0)


def test_a_job_that_is_queued_again_has_ended():
    watch = watched(JobState("queued", "Q"), JobState("running", "R"), JobState("queued", "Q, node failed"))
    assert [watch.state().phase for _ in range(4)] == ["queued", "running", "ended", "ended"]
    assert watch.was_requeued and "queued again after it had run (Q, node failed)" in watch.state().words


def test_a_scheduler_that_is_silent_changes_nothing_and_is_reported():
    down = JobState("unknown", "cannot connect")
    watch = watched(down, JobState("running", "R"), down, down, JobState("running", "R"))
    words = ["cannot connect", "R", *["R; no answer since then: cannot connect"] * 2, "R"]
    assert [watch.state().words for _ in words] == words


def test_nobody_waits_for_a_scheduler_that_hangs(monkeypatch):
    monkeypatch.setattr("sagips_kit.cluster.jobs.states._PATIENCE_S", 0.05)
    watch = watched(lambda: time.sleep(1) or JobState("running", "R"), JobState("running", "R"))
    began = time.monotonic()
    assert watch.state().phase == watch.state().phase == "unknown" and time.monotonic() - began < 0.8


def test_a_job_inherits_nothing_of_the_job_in_which_it_is_submitted(command, monkeypatch, tmp_path):
    outer = ("SLURM_NTASKS", "SLURM_CPU_BIND", "PBS_NODEFILE", "PMI_SIZE", "SAGIPS_ENDS_AT", "SAGIPS_RESTARTS")
    for name in (*outer, "SLURM_CONF", "SAGIPS_DEVICE_BUFFERS"):
        monkeypatch.setenv(name, "1")
    command("sbatch", f"env >{tmp_path}/seen; echo 12")
    Slurm().submit("job.sh")
    seen = {line.partition("=")[0] for line in (tmp_path / "seen").read_text().splitlines()}
    assert not seen & {*outer} and {"SLURM_CONF", "SAGIPS_DEVICE_BUFFERS"} <= seen


# Options and scripts


@pytest.mark.parametrize(
    ("kind", "directives"),
    [(Slurm, "--exclusive; --time=10"), (Slurm, "-t 10"), (PBS, "-m abe; -l walltime=10:00"), (PBS, "-lwalltime=9:00")],
)
def test_a_time_limit_belongs_into_its_own_option(kind, directives):
    with pytest.raises(ValueError, match="which limits the time of the job: should be the option walltime.*--walltime"):
        kind(directives=directives)
    kind(directives="-l place=scatter" if kind is PBS else "--time-min=5; --threads-per-core=1")


def test_a_signal_must_reach_the_ranks():
    with pytest.raises(
        ValueError, match=r"'--signal=B:USR1@180', by which Slurm sends the signal to the job script al"
    ):
        Slurm(directives="--exclusive; --signal=B:USR1@180")
    Slurm(directives="--signal=USR1@180")
    Slurm(directives="--signal=B:USR1@180", setup="trap 'touch warned' USR1")


def test_a_walltime_of_seconds_is_refused():
    with pytest.raises(ValueError, match=r"walltime = '30' is 30 s for this scheduler, which reads HH:MM:SS.*60 s or"):
        PBS(walltime="30")
    assert Slurm(walltime="30").walltime_s("30") == 1800


def test_engines_are_never_queued_again_and_notebooks_append_to_their_log():
    for kind, line in ((PBS, "#PBS -r n\n"), (Slurm, "#SBATCH --no-requeue\n")):
        engines = kind().script(2, ["true"], "a", "/log")
        notebook = kind().script(2, ["true"], "a", "/log", reruns=True)
        assert line in engines and line not in notebook
        assert "exec >>/log" in notebook or "#SBATCH --open-mode=append\n" in notebook


def test_paths_may_have_spaces_percent_signs_and_accents():
    log = "/home/Ü me/50%j/a-{id}.log"
    assert "#SBATCH --output='/home/Ü me/50%%j/a-%j.log'\n" in Slurm().script(2, ["true"], "a", log)
    script = PBS().script(2, ["true"], "my nötebook", log)
    assert read_script(script).output == "/home/Ü me/50%j/a.log.pbs" and read_script(script).name == "my_n_tebook"
    assert "exec >>'/home/Ü me/50%j/a-'\"${PBS_JOBID%%.*}\"" in script


# Notebooks as jobs

PARAMETERS = """profile = "local"
n = 2
store = "runs/a.zarr"
rate = 2.0
groups = [1, 2]
is_long = False
"""


@pytest.fixture
def notebook(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    cell = nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})
    path = tmp_path / "books" / "a.ipynb"
    path.parent.mkdir()
    nbformat.write(nbformat.v4.new_notebook(cells=[cell], metadata=kernel), path)
    return path


def test_parameters_of_a_job_have_the_types_of_the_notebook(notebook):
    given = {"store": "007", "rate": "3", "groups": "[4, 1e-05]", "is_long": "true", "n": "4.0"}
    script = notebook_job.write_batch(notebook, "slurm", given, walltime="10:00").path.read_text()
    (line,) = [line for line in script.splitlines() if " -m papermill " in line]
    words = shlex.split(line)
    found = [tuple(words[i : i + 3]) for i, word in enumerate(words) if word in ("-p", "-r")]
    assert {("-r", "store", "007"), ("-p", "rate", "3.0"), ("-p", "is_long", "True"), ("-p", "n", "4")} <= {*found}
    assert words[words.index("-y") + 1] == "{groups: [4, 1.0e-05]}"
    assert f"export PYTHONPATH={notebook.parent}${{PYTHONPATH:+" in script  # modules beside the notebook
    assert '[ -e "$run.ipynb" ] && export SAGIPS_RESTARTS=1 && srun --nodes=1 ' in script and "requeue" not in script


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"groups": "4"}, r"groups = '4': should be a list, like \[1, 2\] in"),
        ({"is_long": "1"}, "is_long = '1': should be True or False"),
        ({"n": "many"}, "n = 'many': should be a number, like 2"),
        ({"n": "0"}, "n = 0: should be a number of ranks"),
    ],
)
def test_a_parameter_of_another_type_is_refused_before_submission(notebook, given, message):
    with pytest.raises(ValueError, match=message):
        notebook_job.write_batch(notebook, "slurm", given, walltime="10:00")
    assert not Path("runs").exists()


def test_what_is_no_notebook_or_has_no_kernel_here_is_refused_before_submission(notebook):
    content = json.loads(notebook.read_text())
    content["metadata"]["kernelspec"]["name"] = "elsewhere"
    notebook.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"kernel 'elsewhere', which is not installed. Allowed: .*python3.* ipykernel"):
        notebook_job.write_batch(notebook, "slurm", walltime="10:00")
    for text in ("print('a script')", "{}", '{"metadata": {}, "cells": 3}'):
        notebook.write_text(text)
        with pytest.raises(ValueError, match="a.ipynb` (is not a Jupyter notebook|has no parameter)"):
            notebook_job.write_batch(notebook, "slurm", walltime="10:00")


def test_options_of_a_profile_may_stand_before_the_notebook(notebook, capsys):
    from sagips_kit.cli import main

    for words in (["--walltime", "00:10:00", str(notebook)], [str(notebook), "--walltime=00:10:00"]):
        assert main(["batch", "--profile", "slurm", *words]) == 0
        assert "#SBATCH --time=00:10:00\n" in Path("runs/a-slurm.sh").read_text()
    assert main(["profiles", "install", "--walltime", "00:20:00", "slurm"]) == 0
    assert "00:20:00" in (Path(os.environ["IPYTHONDIR"]) / "profile_slurm" / "ipcluster_config.json").read_text()
