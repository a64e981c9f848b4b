"""Profiles: installation, options, and the exact scripts that a scheduler receives."""

import dataclasses
import json
import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from pbs_machine import read_script

from sagips_kit.cli import main
from sagips_kit.cluster import profiles
from sagips_kit.cluster.jobs import PBS, Job, Slurm

ROOT = Path(__file__).parents[1]
GOLDEN = Path(__file__).parent / "golden"
SITES = [name for name in profiles.profiles() if profiles.find(name).is_job]
GIVEN = {"account": "physics", "walltime": "00:30:00", "filesystems": "home:eagle"}


@pytest.fixture(autouse=True)
def ipython_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.delenv("PYTHONPATH", raising=False)
    before = os.umask(0o022)
    yield tmp_path / "ipython"
    os.umask(before)


def shown(name, n=4, **options):
    """A job script, with the folders of this machine replaced by fixed names."""
    text = profiles.show_profile(name, n, **options)
    return text.replace(os.environ["IPYTHONDIR"], "/home/me/.ipython").replace(shlex.quote(sys.executable), "python")


def given(name):
    """The mandatory options of a profile."""
    return {option: GIVEN[option] for option in profiles.find(name).missing}


def sagips(capsys, *arguments):
    status = main([str(argument) for argument in arguments])
    return status, *capsys.readouterr()


# Installation


def test_install_copies_every_file_and_can_be_repeated(ipython_dir):
    for name in profiles.profiles():
        for _ in range(2):
            folder = profiles.install_profile(name)
        assert folder == ipython_dir / f"profile_{name}"
        for source in (ROOT / "cluster_profiles" / name).glob("*.py"):
            assert (folder / source.name).read_bytes() == source.read_bytes()
        assert {"ipcluster_config.py", "ipcontroller_config.py", "ipengine_config.py"} <= set(os.listdir(folder))


def kit(folder, monkeypatch, text):
    """Simulate another version of the kit, whose only profile is `local`, with a single file."""
    (folder / "local").mkdir(parents=True, exist_ok=True)
    (folder / "local" / "ipcluster_config.py").write_text(text)
    monkeypatch.setattr(profiles, "_source", lambda: folder)


def test_install_replaces_an_older_version_of_the_kit(monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        kit(tmp_path / "older", patch, "c = get_config()  # older\n")
        folder = profiles.install_profile("local")
    profiles.install_profile("local")
    assert "older" not in (folder / "ipcluster_config.py").read_text()


def test_install_keeps_what_the_user_changed(monkeypatch, tmp_path):
    changed = profiles.install_profile("polaris") / "ipcluster_config.py"
    mine = changed.read_text().replace('"queue": "debug"', '"queue": "prod"')
    changed.write_text(mine)
    profiles.install_profile("polaris", walltime="10:00")
    assert changed.read_text() == mine
    assert profiles.find("polaris").options | {"queue": "prod", "walltime": "10:00"} == profiles.find("polaris").options
    profiles.install_profile("polaris", overwrite=True)
    assert changed.read_bytes() == (ROOT / "cluster_profiles" / "polaris" / "ipcluster_config.py").read_bytes()
    assert not (changed.parent / "ipcluster_config.json").exists()


def test_a_file_that_user_and_kit_have_changed_is_not_overwritten_silently(monkeypatch, tmp_path):
    kit(tmp_path / "kit", monkeypatch, "c = get_config()\n")
    changed = profiles.install_profile("local") / "ipcluster_config.py"
    changed.write_text("# mine\n")
    kit(tmp_path / "kit", monkeypatch, "c = get_config()  # newer\n")
    with pytest.raises(FileExistsError, match=r"ipcluster_config.py.*overwrite=True.*install local --overwrite"):
        profiles.install_profile("local")
    assert changed.read_text() == "# mine\n"
    profiles.install_profile("local", overwrite=True)
    assert "newer" in changed.read_text()


def test_a_profile_of_other_origin_is_not_overwritten_silently(ipython_dir):
    (ipython_dir / "profile_local").mkdir(parents=True)
    (ipython_dir / "profile_local" / "ipcluster_config.py").write_text("# ipython profile create --parallel\n")
    with pytest.raises(FileExistsError, match="differ from the kit's: ipcluster_config.py. Nothing was written"):
        profiles.install_profile("local")


def test_options_are_written_into_json_alone_and_stay():
    folder = profiles.install_profile("polaris", account="physics", nodes="3")
    profiles.install_profile("polaris", walltime="01:00:00")
    given = {"account": "physics", "nodes": 3, "walltime": "01:00:00"}
    assert json.loads((folder / "ipcluster_config.json").read_text()) == {"PBSEngines": {"options": given}}
    assert profiles.find("polaris").options | given == profiles.find("polaris").options
    assert profiles.find("polaris").missing == ["filesystems"]
    assert "#PBS -A physics\n" in shown("polaris", 12, filesystems="home")
    profiles.install_profile("polaris", overwrite=True)
    assert profiles.find("polaris").missing == ["account", "walltime", "filesystems"]


def test_json_that_the_user_has_edited_is_kept_and_explained_where_it_is_wrong():
    file = profiles.install_profile("slurm", walltime="10:00") / "ipcluster_config.json"
    file.write_text('{"SlurmEngines": {"options": {"queue": "gpu"}, "poll_s": 9.0}, "Cluster": {"n": 8}}')
    profiles.install_profile("slurm", walltime="5:00")
    assert json.loads(file.read_text()) == {
        "SlurmEngines": {"options": {"queue": "gpu", "walltime": "5:00"}, "poll_s": 9.0},
        "Cluster": {"n": 8},
    }
    file.write_text('{"SlurmEngines": {"options": {"que": "gpu"}}}')
    with pytest.raises(
        ValueError, match=r"unknown field 'que'. Did you mean queue.*options of .*'slurm' are in .*slurm"
    ):
        profiles.show_profile("slurm")
    file.write_text('{"SlurmEngines": {')
    with pytest.raises(ValueError, match="ipcluster_config.json is not valid JSON: .*Correct it, or delete it"):
        profiles.show_profile("slurm")


@pytest.mark.parametrize("name", ["local", "polaris"])
def test_ipcluster_reads_the_files_as_the_kit_does_and_json_has_priority(name, caplog):
    from ipyparallel import Cluster

    options = given(name)
    folder = profiles.install_profile(name, **options)
    file = folder / "ipcluster_config.json"
    content = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(content | {"Cluster": {"engine_timeout": 7}}))
    cluster = Cluster(profile_dir=str(folder), cluster_id="")  # loads the files with traitlets
    found = profiles.find(name)
    assert cluster.engine_timeout == 7 and cluster.config.Cluster == found.config.Cluster
    if found.section:
        launcher = cluster.engine_launcher_class(parent=cluster)
        assert launcher.given == found.options and launcher.options == options
        # Defaults and given options are different traits, so traitlets does not warn about each of them.
        assert not [record for record in caplog.records if "options" in record.getMessage()]


def test_options_of_one_call_leave_the_profile_as_it_was():
    found = profiles.find("slurm")
    other = found.with_options(queue="gpu")
    assert (found.options["queue"], other.options["queue"]) == ("", "gpu")


@pytest.mark.parametrize("name", profiles.profiles())
def test_the_controller_listens_where_the_interface_says(name):
    from ipyparallel import Cluster

    options = {"interface": "lo"} if profiles.find(name).section else {}
    config = profiles.find(name).with_options(**options).config
    cluster = Cluster(load_profile=False, config=config)
    args = cluster.controller_launcher_class(parent=cluster).args
    if name == "local":
        assert cluster.controller_ip == "127.0.0.1"
        return
    assert args[-2:] == ["--ip=127.0.0.1", "--location=127.0.0.1"]
    elsewhere = profiles.find(name).with_options(interface="nowhere").config
    cluster = Cluster(load_profile=False, config=elsewhere)
    args = cluster.controller_launcher_class(parent=cluster).args
    assert args[-2:] == ["--ip=*", f"--location={socket.gethostname()}"]
    chosen = cluster.controller_launcher_class(parent=cluster, controller_args=["--ip=10.0.0.1"]).args
    assert chosen[-1] == "--ip=10.0.0.1"  # as for `ipcluster start --ip=10.0.0.1`


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("lokal", {}, "no profile 'lokal'. Did you mean local. Allowed: allocation, aurora, frontier, ifarm, local"),
        ("polaris", {"acount": "x"}, "no option 'acount'. Did you mean account"),
        ("polaris", {"nodes": "two"}, "nodes = 'two': should be a valid integer"),
        ("slurm", {"setup": "a\nb"}, "setup = 'a"),
        ("local", {"account": "x"}, "no option 'account'. Allowed: none"),
    ],
)
def test_mistakes_leave_nothing_behind(ipython_dir, name, options, message):
    with pytest.raises(ValueError, match=message):
        profiles.install_profile(name, **options)
    assert not list(ipython_dir.glob("profile_*"))


@pytest.mark.parametrize("name", profiles.profiles())
def test_every_option_has_its_line_and_its_explanation(name):
    lines = (ROOT / "cluster_profiles" / name / "ipcluster_config.py").read_text().splitlines()
    found = profiles.find(name)
    for option in found.options:
        at = [i for i, line in enumerate(lines) if line.startswith(f'    "{option}": ')]
        assert len(at) == 1 and lines[at[0]].endswith(",") and lines[at[0] - 1].startswith("    # ")
    if found.kind:
        assert set(found.options) == {field.name for field in dataclasses.fields(found.kind)}


@pytest.mark.parametrize("name", profiles.profiles())
def test_keys_stay_in_files_and_remote_controllers_encrypt(name):
    config = profiles.find(name).config
    assert config.Cluster.send_engines_connection_env is False
    folder = profiles.install_profile(name)
    is_beyond = config.Cluster.controller_ip != "127.0.0.1"
    assert is_beyond == ("c.IPController.enable_curve = True" in (folder / "ipcontroller_config.py").read_text())


# Scripts


@pytest.mark.parametrize("n_nodes", [1, 2, 10])
def test_the_script_for_polaris_is_exact(n_nodes):
    queue = "debug" if n_nodes <= 2 else "prod"
    text = shown("polaris", 4 * n_nodes, queue=queue, **GIVEN)
    assert text == (GOLDEN / f"polaris_{n_nodes}.sh").read_text()


@pytest.mark.parametrize("n_nodes", [1, 2])
def test_the_script_for_aurora_is_exact(n_nodes):
    text = shown("aurora", 12 * n_nodes, **GIVEN | {"filesystems": "home:flare"})
    assert text == (GOLDEN / f"aurora_{n_nodes}.sh").read_text()


def test_each_rank_of_a_node_of_aurora_sees_another_tile():
    script = read_script(shown("aurora", 24, **GIVEN))
    options, program = script.mpiexec()
    assert (options.n, options.ppn, options.depth) == (24, 12, 8) and options.ppn * options.depth <= 104
    asked = [*program[:3], "printenv", "ZE_AFFINITY_MASK"]
    ranks = [os.environ | {"PALS_LOCAL_RANKID": str(rank)} for rank in range(12)]
    seen = [subprocess.run(asked, env=rank, capture_output=True, text=True).stdout.strip() for rank in ranks]
    assert seen == [str(tile) for tile in range(12)]


def test_the_device_of_a_profile_reaches_the_ranks():
    assert "export SAGIPS_DEVICE=cpu\n" in shown("polaris", device="cpu", **GIVEN)
    assert "SAGIPS_DEVICE=cpu " in shown("allocation", device="cpu")
    with pytest.raises(ValueError, match="device = 'gpu'"):
        shown("polaris", device="gpu", **GIVEN)


@pytest.mark.parametrize("name", SITES)
def test_bash_reads_every_script(name):
    text = shown(name, 8, **given(name))
    assert subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True).stderr == ""
    assert "{" not in text.replace("${", "").replace("$((", "")
    assert text.count(" --mpi ") == 1 and " -m ipyparallel.engine " in text


@pytest.mark.parametrize("n_nodes", [1, 2, 10])
def test_pbs_and_mpiexec_understand_the_script_for_polaris(n_nodes):
    script = read_script(shown("polaris", 4 * n_nodes, **GIVEN))
    assert (script.account, script.nodes, script.chunk) == ("physics", n_nodes, {"system": "polaris"})
    assert script.resources["filesystems"] == "home:eagle" and script.resources["place"] == "scatter"
    options, program = script.mpiexec()
    assert (options.n, options.ppn, options.depth, options.cpu_bind) == (4 * n_nodes, 4, 8, "depth")
    assert options.ppn * options.depth == 32  # cores of a node
    assert program[:2] == ["bash", "-c"] and program[3:7] == ["python", "-m", "ipyparallel.engine", "--mpi"]


def test_each_rank_of_a_node_sees_another_gpu():
    _, program = read_script(shown("polaris", 4, **GIVEN)).mpiexec()
    asked = [*program[:3], "printenv", "CUDA_VISIBLE_DEVICES"]
    ranks = [os.environ | {"PMI_LOCAL_RANK": str(rank)} for rank in range(4)]
    seen = [subprocess.run(asked, env=rank, capture_output=True, text=True).stdout.strip() for rank in ranks]
    assert seen == ["3", "2", "1", "0"]


def test_everything_of_polaris_can_be_switched_off():
    off = {"account": "", "queue": "", "filesystems": "", "select": "", "place": "", "setup": "", "affinity": ""}
    text = shown("polaris", 2, walltime="5:00", mpiexec="mpiexec -n {n}", threads=1, interface="", **off)
    options = [line for line in text.splitlines() if line.startswith("#PBS")]
    assert options[:3] == ["#PBS -N sagips", "#PBS -l select=1", "#PBS -l walltime=5:00"]
    assert "polaris" not in text.replace("profile_polaris", "") and "CUDA" not in text and "module" not in text
    assert read_script(text).mpiexec()[1][:3] == ["python", "-m", "ipyparallel.engine"]


def test_the_documented_line_makes_any_pbs_of_the_profile_polaris(capsys):
    page = (ROOT / "docs" / "howto" / "pbs.md").read_text(encoding="utf-8").replace("\\\n", " ")
    line = next(line for line in page.splitlines() if 'profiles install polaris --account ""' in line)
    assert sagips(capsys, *shlex.split(line.replace("$(which mpiexec)", "mpiexec"))[2:])[0] == 0
    options = [line for line in shown("polaris", 2).splitlines() if line.startswith("#PBS")]
    assert [line.split()[1] for line in options] == ["-N", "-l", "-l", "-j", "-o", "-r"]


def test_slurm_sites_ask_for_whole_nodes():
    perlmutter = shown("perlmutter", 8, account="m1_g", walltime="1:00:00")
    for line in ("--constraint=gpu", "--nodes=2", "--ntasks-per-node=4", "--cpus-per-task=32", "--gpus-per-node=4"):
        assert f"#SBATCH {line}\n" in perlmutter
    assert "srun -K --ntasks=8 --cpus-per-task=32 --cpu-bind=cores --gpu-bind=none bash -c " in perlmutter
    frontier = shown("frontier", 16, account="phy1", walltime="1:00:00")
    assert "#SBATCH --nodes=2\n" in frontier and "#SBATCH --partition=batch\n" in frontier
    assert "srun -K --ntasks=16 --cpus-per-task=7 --gpus-per-task=1 --gpu-bind=closest python " in frontier


@pytest.mark.parametrize(
    ("name", "walltime", "seconds"),
    [
        ("pbs", "3600", 3600),
        ("pbs", "30:00", 1800),
        ("pbs", "00:30:00", 1800),
        ("pbs", "1:00:00.5", 3600),
        ("slurm", "30", 1800),
        ("slurm", "5:00", 300),
        ("slurm", "00:30:00", 1800),
        ("slurm", "1-0", 86400),
        ("slurm", "1-12:30", 131400),
        ("slurm", "2-01:00:00", 176400),
    ],
)
def test_runs_of_a_job_know_when_its_time_ends(name, walltime, seconds):
    assert f"export SAGIPS_ENDS_AT=$(($(date +%s) + {seconds}))\n" in shown(name, walltime=walltime)


@pytest.mark.parametrize("walltime", ["0", "UNLIMITED", "infinite", "-1"])
def test_a_job_without_a_limit_has_no_end(walltime):
    text = shown("slurm", walltime=walltime)
    assert f"--time={walltime}\n" in text and "SAGIPS_ENDS_AT" not in text


@pytest.mark.parametrize(
    ("name", "walltime", "allowed"),
    [
        ("pbs", "tomorrow", "HH:MM:SS, MM:SS or seconds"),
        ("pbs", "1-12:00:00", "HH:MM:SS, MM:SS or seconds"),
        ("pbs", "1:2:3:4", "HH:MM:SS, MM:SS or seconds"),
        ("slurm", "1h", "HH:MM:SS, MM:SS, minutes, D-HH, "),
        ("slurm", "1-", "HH:MM:SS, MM:SS, minutes, D-HH, "),
        ("slurm", "1-2:3:4:5", "HH:MM:SS, MM:SS, minutes, D-HH, "),
    ],
)
def test_a_walltime_that_the_scheduler_does_not_read_is_refused(name, walltime, allowed):
    message = f"walltime = '{walltime}': should be {allowed}.*runs stop cleanly before.*--walltime 00:30:00"
    with pytest.raises(ValueError, match=message):
        profiles.install_profile(name, walltime=walltime)
    with pytest.raises(ValueError, match=message):
        {"pbs": PBS, "slurm": Slurm}[name](walltime=walltime)


def test_a_script_carries_no_more_of_the_environment_than_python_needs(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/home/me/my modules")
    monkeypatch.setenv("API_TOKEN", "secret")
    text = shown("polaris", **GIVEN)
    assert "export PYTHONPATH='/home/me/my modules'\n" in text and "secret" not in text and "#PBS -V" not in text


@pytest.mark.parametrize("name", SITES)
def test_missing_options_are_reported_with_the_line_to_type(name, capsys):
    missing = profiles.find(name).missing
    assert "walltime" in missing
    status, out, err = sagips(capsys, "profiles", "show", name)
    assert (status, out) == (2, "")
    line = err.split("`")[1]
    status, out, err = sagips(capsys, *shlex.split(line)[1:])
    assert (status, err) == (0, "") and str(profiles.installed(name)) in out
    assert sagips(capsys, "profiles", "show", name)[0] == 0


def test_ranks_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="n = 9 ranks do not fit on nodes = 2 with ranks_per_node = 4: take nodes = 3"):
        shown("polaris", 9, nodes=2, **GIVEN)
    assert "select=2:" in shown("polaris", 5, **GIVEN)


def test_a_command_with_unknown_braces_is_refused():
    with pytest.raises(ValueError, match=r"mpiexec = 'mpiexec -n \{ranks\}': may contain \{n\}, \{nodes\}"):
        shown("pbs", walltime="5:00", mpiexec="mpiexec -n {ranks}")


def test_each_further_option_of_a_scheduler_has_its_line():
    text = shown("slurm", walltime="5:00", directives="--exclusive; --mail-type=END")
    assert "#SBATCH --exclusive\n#SBATCH --mail-type=END\n" in text


# The command


def test_list_shows_what_is_installed(capsys):
    profiles.install_profile("local")
    status, out, _ = sagips(capsys, "profiles", "list")
    lines = out.splitlines()
    assert status == 0 and [line.split()[0] for line in lines[::2]] == profiles.profiles()
    assert [line.strip().startswith("installed in") for line in lines[1::2]].count(True) == 1


def test_install_names_the_options_that_are_still_missing(capsys):
    status, out, _ = sagips(capsys, "profiles", "install", "polaris", "--account", "physics", "--ranks-per-node=2")
    assert status == 0
    assert "Options that are still missing: walltime, filesystems. Type `sagips profiles install polaris" in out
    assert profiles.find("polaris").options["ranks_per_node"] == 2


def test_options_for_one_script_are_not_kept(capsys):
    profiles.install_profile("slurm", walltime="10:00")
    _, out, _ = sagips(capsys, "profiles", "show", "slurm", "-n", 2, "--queue", "gpu", "--walltime", "5:00")
    assert "--partition=gpu\n" in out and "--time=5:00\n" in out and "--ntasks=2\n" in out
    assert profiles.find("slurm").options["walltime"] == "10:00"


def test_arguments_that_are_not_options_are_refused(capsys):
    status, _, err = sagips(capsys, "profiles", "install", "polaris", "physics")
    assert status == 2 and "options of a profile are written as --name value" in err


# Output of schedulers


@pytest.mark.parametrize(
    ("text", "phase", "words"),
    [
        ("PENDING|Priority\n", "queued", "PENDING, Priority"),
        ("RUNNING|None\n", "running", "RUNNING"),
        ("COMPLETING|None\n", "ending", "COMPLETING"),
        ("CLUSTER: big\nRUNNING|None\n", "running", "RUNNING"),
        ("CANCELLED|None\n", "ended", "CANCELLED"),
        ("TIMEOUT|TimeLimit\n", "ended", "TIMEOUT, TimeLimit"),
        ("POWER_UP_NODE|None\n", "queued", "POWER_UP_NODE"),
        ("A_NEW_STATE|None\n", "unknown", "A_NEW_STATE"),
        ("CLUSTER: big\n", "ended", "ended, and forgotten by the scheduler"),
    ],
)
def test_output_of_slurm_is_read(text, phase, words):
    state = Slurm.read_state(text)
    assert (state.phase, state.words) == (phase, words)


@pytest.mark.parametrize(
    ("lines", "phase", "words"),
    [
        ("job_state = Q\n    comment = Not Running: Not enough\n\t free nodes", "queued", "Q, Not Running: Not enough"),
        ("job_state = R\n    comment = Job run at 10:00", "running", "R, Job run at 10:00"),
        ("job_state = F\n    Exit_status = 271", "ended", "F, exit status 271"),
        ("Resource_List.walltime = 00:05:00", "unknown", "?"),
    ],
)
def test_output_of_pbs_is_read(lines, phase, words):
    state = PBS.read_state(f"Job Id: 12.here\n    Job_Name = sagips\n    {lines}\n")
    assert state.phase == phase and state.words.startswith(words)


@pytest.mark.parametrize(
    ("kind", "answer", "phase"),
    [
        (Slurm, "echo slurm_load_jobs error: Invalid job id specified >&2; exit 1", "ended"),
        (Slurm, "echo slurm_load_jobs error: Unable to contact slurm controller >&2; exit 1", "unknown"),
        (PBS, "echo qstat: Unknown Job Id 12.here >&2; exit 153", "ended"),
        (PBS, "echo qstat: 12.here Job has finished, use -x or -H >&2; exit 35", "ended"),
        (PBS, "echo 'Connection refused; qstat: cannot connect to server' >&2; exit 255", "unknown"),
    ],
)
def test_a_scheduler_that_does_not_answer_has_not_ended_the_job(kind, answer, phase, monkeypatch, tmp_path):
    for command in ("squeue", "qstat"):
        (tmp_path / command).write_text(f"#!/bin/sh\n{answer}\n")
        (tmp_path / command).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert kind().state("12").phase == phase


REFUSES = {
    PBS: "echo qdel: cannot connect to server >&2; exit 255",
    Slurm: "echo scancel: error: Unable to contact slurm controller >&2; exit 1",
}


def scheduler(folder, monkeypatch, kind, refusal, state):
    """Put a scheduler on PATH that refuses to cancel a job and reports `state` as the state of the job."""
    for command, answer in ((kind.cancel_command[0], refusal), (kind._state_commands[0][0], state)):
        (folder / command).write_text(f"#!/bin/sh\n{answer}\n")
        (folder / command).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


@pytest.mark.parametrize("kind", [PBS, Slurm])
@pytest.mark.parametrize("is_known", [False, True])
def test_a_job_that_was_not_cancelled_is_reported(kind, is_known, monkeypatch, tmp_path):
    running = {PBS: "Job Id: 12.here\n    job_state = R", Slurm: "RUNNING|None"}[kind]
    state = f"echo '{running}'" if is_known else "echo cannot connect >&2; exit 1"
    scheduler(tmp_path, monkeypatch, kind, REFUSES[kind], state)
    line = f"{kind.cancel_command[0]} 12"
    seen = f"Job 12 was not cancelled.*(cannot connect|Unable to contact).*Type `{line}` in a terminal"
    with pytest.warns(UserWarning, match=seen):
        kind().cancel("12")


@pytest.mark.parametrize(
    ("kind", "refusal", "state"),
    [
        (PBS, "exit 0", "exit 1"),
        (PBS, "echo qdel: Job has finished 12 >&2; exit 35", "echo cannot connect >&2; exit 1"),
        (PBS, REFUSES[PBS], "echo qstat: Unknown Job Id 12 >&2; exit 153"),
        (Slurm, "echo Job/step already completing or completed >&2; exit 1", "echo 'COMPLETING|None'"),
        (Slurm, REFUSES[Slurm], "echo 'CANCELLED|None'"),
    ],
)
def test_a_job_that_has_ended_is_left_alone(kind, refusal, state, monkeypatch, tmp_path):
    scheduler(tmp_path, monkeypatch, kind, refusal, state)
    kind().cancel("12")  # a warning would be an error here


@pytest.mark.parametrize("error", [OSError("no process"), subprocess.TimeoutExpired("scancel", 60)])
def test_a_scheduler_that_hangs_has_not_cancelled_the_job(error, monkeypatch):
    def hang(command):
        raise error

    monkeypatch.setattr("sagips_kit.cluster.jobs.base.run_command", hang)
    with pytest.warns(UserWarning, match=r"Job 12 was not cancelled.*(no process|timed out).*Type `scancel 12`"):
        Slurm().cancel("12")


@pytest.mark.parametrize("kind", [PBS, Slurm])
def test_a_missing_scheduler_is_reported(kind, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match=f"No {kind.submit_command[0]} on PATH: .*login node"):
        kind().submit("job.sh")
    assert issubclass(kind, Job) and kind().state("12").phase == "unknown"
