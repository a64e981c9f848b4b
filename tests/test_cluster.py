"""Profiles, sessions and handles, on real MPI engines of this machine."""

import dataclasses
import getpass
import importlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import ipyparallel.cluster.launcher  # it caches sys.executable, which tests replace
import numpy as np
import psutil
import pytest

from sagips_kit import Proxy, RunSpec, Settings
from sagips_kit.cluster import connect, handle, profiles, remote
from sagips_kit.cluster import engines as engines_module
from sagips_kit.cluster.jobs import JobState
from sagips_kit.report.progress_line import Follower
from sagips_kit.running.coordination import Control, Milestones
from sagips_kit.running.probe import probe
from sagips_kit.running.signals import Signals
from sagips_kit.store import create, schema
from sagips_kit.store.heartbeat import read_pulse
from sagips_kit.store.writer import RunWriter

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "sagips_kit"
N = 2
pytestmark = pytest.mark.timeout(180)


class Line:
    """The part of a problem that a store needs."""

    parameters, lower, upper, units, long_names = ("slope",), (0.0,), (1.0,), {}, {}
    observables, truth, published, periodic = ("x",), None, {}, ()


LAYOUT = schema.RunLayout(
    n_ranks=N, n_replicas=1, n_members=1, n_steps=400, record_every=1, rows_per_block=10, n_draws=2, n_predictive=2
)


def _set_environment(patch, folder):
    """Engines import the kit from this checkout, and profiles are installed in `folder`."""
    patch.setenv("IPYTHONDIR", str(folder))
    patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])))


@pytest.fixture(scope="module")
def engines(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("ipython")
        _set_environment(patch, folder)
        # As in a job of two nodes: local engines stay here all the same.
        (folder / "nodes").write_text("node7\nnode8\n")
        patch.setenv("PBS_JOBID", "12.here")
        patch.setenv("PBS_NODEFILE", str(folder / "nodes"))
        with connect.connect("local", N) as engines:
            yield engines
    assert not _engines_of(os.getpid())


@pytest.fixture
def ipython_dir(tmp_path, monkeypatch):
    _set_environment(monkeypatch, tmp_path / "ipython")
    return tmp_path / "ipython"


@pytest.fixture
def start(engines, tmp_path):
    """Start a function (rank, path) on idle engines, together with the store of a run; returns the handle."""
    path = tmp_path / "run.zarr"
    create.create_run(path, Line(), LAYOUT, spec={}, events=np.zeros((3, 1)))
    yield lambda function: _handle(engines, _ranked(function), path)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and any(engines._client.queue_status()[rank]["queue"] for rank in range(N)):
        time.sleep(0.1)


def _ranked(function):
    def run(path):
        from mpi4py import MPI

        return function(MPI.COMM_WORLD.rank, path)

    return run


def _handle(engines, function, path):
    return connect.RunHandle(path, engines._start(function, path), engines._facts, engines._engines)


def _engines_of(pid):
    children = psutil.Process(pid).children(recursive=True)
    return [child for child in children if child.status() != psutil.STATUS_ZOMBIE and _is_cluster(child)]


def _runs(pid):
    """Whether a process is running; a zombie, which has ended but was not reaped, is not."""
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def _is_cluster(process):
    try:
        return any("ipyparallel" in word or "mpiexec" in word for word in process.cmdline())
    except psutil.NoSuchProcess:
        return False


def _run_python(code, **options):
    command = [sys.executable, "-c", code]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=120, **options)


# Profiles


def test_import_touches_neither_engines_nor_mpi():
    code = "import sys, sagips_kit.cluster.connect\n"
    code += "print([m for m in ('ipyparallel', 'mpi4py', 'torch') if m in sys.modules])"
    assert _run_python(code, cwd=ROOT).stdout == "[]\n"


def test_unknown_profile_names_the_allowed_ones(ipython_dir):
    with pytest.raises(ValueError, match=r"No profile 'lokal'.*brings allocation, .*connect\('local'\)"):
        connect.connect("lokal")


def test_a_profile_that_submits_jobs_has_to_be_installed(ipython_dir):
    with pytest.raises(ValueError, match=r"'polaris' is not installed. Type `sagips profiles install polaris --acc"):
        connect.connect("polaris", N)
    profiles.install_profile("polaris", account="physics", filesystems="home")
    with pytest.raises(ValueError, match=r"'polaris' needs walltime. .*connect\('polaris', ..., walltime="):
        connect.connect("polaris", N)
    with pytest.raises(ValueError, match="has no option 'wall'. Did you mean walltime"):
        connect.connect("polaris", N, wall="1:00:00")
    with pytest.raises(RuntimeError, match=r"No qsub.*login node.*connect\('local'\)"):
        connect.connect("polaris", N, walltime="1:00:00")


def test_an_allocation_is_required(ipython_dir, monkeypatch):
    for name in ("PBS_JOBID", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(RuntimeError, match="PBS_JOBID and SLURM_JOB_ID are not set. Begin a job with `qsub -I`"):
        connect.connect("allocation", N)


def test_profile_without_mpi_is_refused(ipython_dir):
    plain = ipython_dir / "profile_plain"
    plain.mkdir(parents=True)
    (plain / "ipcluster_config.py").write_text("c = get_config()\n")
    with pytest.raises(ValueError, match="without MPI"):
        connect.connect("plain")


@pytest.mark.parametrize("n", [0, -1, 1.5, "2"])
def test_number_of_engines_is_checked(n):
    with pytest.raises(ValueError, match="should be a number of engines"):
        connect.connect("local", n)


@pytest.fixture
def zombie():
    """The id of a process that has ended and was not reaped."""
    process = subprocess.Popen(["true"])
    deadline = time.monotonic() + 10
    while _runs(process.pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    yield process.pid
    process.wait()


@pytest.fixture
def program():
    """The id of a process that looks like a controller of ipyparallel."""
    with subprocess.Popen([sys.executable, "-c", "input()", "ipyparallel"], stdin=subprocess.PIPE) as process:
        while not engines_module.is_of_a_cluster(process.pid):  # its arguments cannot be read at once
            time.sleep(0.01)
        yield process.pid


@pytest.mark.parametrize("who", ["owner", "controller", "mpiexec", None])
def test_a_process_that_has_ended_counts_as_ended_reaped_or_not(ipython_dir, zombie, program, who):
    pids = {name: zombie if name == who else program for name in ("owner", "controller", "mpiexec")}
    security = profiles.install_profile("local") / "security"
    security.mkdir()
    cluster_id = f"notebook-{pids['owner']}-0" if who in ("owner", None) else "terminal"
    launched = {"class": "x.MPIEngineSetLauncher", "sets": {"1": {"n": N, "pid": pids["mpiexec"]}}}
    state = {"cluster": {"cluster_id": cluster_id}, "controller": {"state": {"pid": pids["controller"]}}}
    (security / f"cluster-{cluster_id}.json").write_text(json.dumps(state | {"engines": launched}))
    location = json.dumps({"location": "127.0.0.1"})
    (security / f"ipcontroller-{cluster_id}-client.json").write_text(location)
    joined = connect._running(profiles.find("local"), N)
    # Engines of a running notebook belong to it, and nothing can be joined without a controller or engines.
    assert (joined is not None) == (who == "owner")
    if joined:
        assert joined.state().phase == "running"


class Deserted:
    """The client of a controller whose engines have unregistered a moment ago."""

    ids = ()

    def __getitem__(self, rank):
        raise ipyparallel.error.NoEnginesRegistered("no engine")


@pytest.mark.parametrize(("letter", "is_joined"), [("R", True), ("Q", True), ("E", False), ("F", False)])
def test_engines_of_a_job_that_ends_are_not_joined(ipython_dir, tmp_path, monkeypatch, program, letter, is_joined):
    (tmp_path / "qstat").write_text(f"#!/bin/sh\nprintf 'Job Id: 12.here\\n    job_state = {letter}\\n'\n")
    (tmp_path / "qstat").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    security = profiles.install_profile("pbs", walltime="10:00") / "security"
    security.mkdir()
    launched = {"n": N, "job_id": "12.here", "defaults": {}, "options": {"walltime": "10:00"}}
    launched |= {"output_file": str(tmp_path / "log")}
    state = {"cluster": {"cluster_id": ""}, "controller": {"state": {"pid": program}}}
    state["engines"] = {"class": "sagips_kit.cluster.launchers.PBSEngines", "sets": {"1": launched}}
    (security / "cluster-.json").write_text(json.dumps(state))
    (security / "ipcontroller-client.json").write_text(json.dumps({"location": "127.0.0.1"}))
    joined = connect._running(profiles.find("pbs"), N)
    assert (joined is not None) == is_joined
    if joined:  # a controller that no engine reaches: the advice leads out
        options = "has engines with walltime='10:00', but walltime='20:00' was requested. .*leave them out.*fresh=True"
        with pytest.raises(ValueError, match=options):
            connect.connect("pbs", N, walltime="20:00")
        session = connect.Session(joined, N)
        message = session._missing_engines(0, 5.0, joined.state())
        assert "Type `ipcluster stop --profile=pbs` in a terminal to end this cluster, then connect(...)" in message
        session._open_client = Deserted()
        with pytest.raises(
            RuntimeError, match=r"Of 2 engines some are gone, 0 are left.*session.close\(\), then connect"
        ):
            session._start(print)


def test_files_that_describe_no_engines_are_skipped_at_once(ipython_dir, program):
    """A description is cut off where the disk was full, and one without engines is that of a start that failed."""
    security = profiles.install_profile("local") / "security"
    security.mkdir()
    state = {"cluster": {"cluster_id": "b"}, "controller": {"state": {"pid": None}}, "engines": {"sets": {}}}
    (security / "cluster-a.json").write_text(json.dumps(state)[:20])
    (security / "cluster-b.json").write_text(json.dumps(state))
    (security / "ipcontroller-b-client.json").write_text(json.dumps({"location": "127.0.0.1"}))
    began = time.monotonic()
    with pytest.warns(UserWarning, match=r"cluster-a.json does not describe engines of this kit \(JSONDecodeError"):
        assert connect._running(profiles.find("local"), N) is None
    assert time.monotonic() - began < connect._ENGINES_S


def test_a_description_that_is_being_written_is_read_when_it_is_complete(tmp_path):
    file = tmp_path / "cluster-.json"
    file.write_text("")
    writer = threading.Timer(0.2, file.write_text, ['{"engines": {}}'])
    writer.start()
    assert engines_module.described(file) == {"engines": {}}
    writer.join()


def test_a_process_of_another_user_is_no_engine(program, monkeypatch):
    assert engines_module.is_of_a_cluster(program) and not engines_module.is_of_a_cluster(-1)
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert not engines_module.is_of_a_cluster(program)


# Failures at the start


@pytest.fixture
def mpiexec(ipython_dir, monkeypatch, tmp_path):
    """Replace mpiexec by a script; the kit looks next to sys.executable first, and then on PATH."""
    real = Path(sys.executable).with_name("mpiexec")
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin")

    def write(script):
        (folder / "mpiexec").write_text(f"#!/bin/sh\n{script.format(real=shlex.quote(str(real)))}\n")
        (folder / "mpiexec").chmod(0o755)

    return write


def test_missing_mpiexec_says_what_to_install(ipython_dir, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match=r'No mpiexec: .*pip install "sagips_kit\[mpi\]".*MPI module'):
        connect.connect("local", N)


def test_fewer_engines_than_requested_are_reported(mpiexec):
    mpiexec('shift 2; exec {real} -n 1 "$@"')
    before = _engines_of(os.getpid())
    with pytest.raises(RuntimeError, match=r"2 engines were requested, but only 1 came within .*connect\(timeout_s="):
        connect.connect("local", 2, timeout_s=8)
    assert _engines_of(os.getpid()) == before


def test_mpiexec_that_ends_at_once_is_quoted(mpiexec):
    mpiexec("echo There are not enough slots; exit 1")
    before = _engines_of(os.getpid())
    with pytest.raises(RuntimeError, match=r"(?s)0 came .*mpiexec has ended.*not enough slots"):
        connect.connect("local", 2)
    assert _engines_of(os.getpid()) == before


def test_mpi_worlds_of_size_one_are_refused(mpiexec):
    mpiexec('shift 2; {real} -n 1 "$@" & {real} -n 1 "$@"; wait')
    with pytest.raises(RuntimeError, match=r"2 engines, but MPI worlds of size 1: .*pip install mpich"):
        connect.connect("local", 2)


# A session


def test_engine_ids_are_mpi_ranks(engines, start):
    assert start(lambda rank, path: rank).result() == list(range(N))
    assert engines._client.ids == list(range(N))


def test_preview_shows_launcher_command_and_engines(engines):
    preview = engines.preview()
    for part in ("local", "MPIEngineSetLauncher", f"mpiexec -n {N}", "--mpi", "torch"):
        assert part in preview.replace("'", "")  # a folder with a space in its name is quoted
    assert len(preview.split("\n\n")[1].splitlines()) == 1 + N


def test_engines_use_one_thread_each(start):
    assert start(lambda rank, path: os.environ["OMP_NUM_THREADS"]).result() == ["1"] * N


def test_connect_again_returns_the_open_session(engines):
    assert connect.connect("local", N) is engines
    with pytest.raises(ValueError, match=r"has 2 engines, but n=3 were requested. .*connect\('local', n=2\)"):
        connect.connect("local", 3)


def test_classes_defined_in_the_notebook_travel(start):
    class Problem:
        def double(self, number):
            return np.multiply(2, number)

    problem = Problem()
    assert start(lambda rank, path: int(problem.double(rank))).result() == [2 * rank for rank in range(N)]

    class Problem:  # the cell was changed, and executed again
        def double(self, number):
            return np.multiply(3, number)

    changed = Problem()
    assert start(lambda rank, path: int(changed.double(rank))).result() == [3 * rank for rank in range(N)]


def test_engines_run_in_the_folder_of_the_notebook(start, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert start(lambda rank, path: os.getcwd()).result() == [str(tmp_path)] * N


def test_submit_prepares_here_and_runs_there(engines, monkeypatch, tmp_path):
    prepared = []
    launch = types.ModuleType("launch")

    def prepare(spec, n_ranks, resume):
        prepared.append((spec.store, n_ranks, resume))
        create.create_run(spec.store, Line(), LAYOUT, spec={}, events=np.zeros((3, 1)))

    launch.prepare, launch.is_slow = prepare, lambda spec: False
    launch.run_rank = lambda spec, world, resume: {"steps": spec.n_steps, "pid": os.getpid(), "resume": resume}
    monkeypatch.setattr("sagips_kit.running.launch", launch, raising=False)
    monkeypatch.setitem(sys.modules, "sagips_kit.running.launch", launch)
    run = engines.submit(RunSpec(problem=Proxy(), store=str(tmp_path / "run.zarr"), n_steps=7), resume=True)
    assert prepared == [(str(tmp_path / "run.zarr"), N, True)]
    assert all(rank["resume"] for rank in run.result())
    assert [rank["steps"] for rank in run.result()] == [7] * N
    assert os.getpid() not in [rank["pid"] for rank in run.result()]


MINE = """
from sagips_kit import Proxy

class Mine(Proxy):
    def log_likelihood(self, theta, statistic):
        return {}
"""


def test_engines_follow_edited_modules_and_never_train_other_code_than_the_notebook(engines, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    spec = RunSpec(problem=Proxy(), store=str(tmp_path / "a.zarr"), fit=False)
    for folder, number in (("one", 1.0), ("one", 2.25), ("another", 3.125)):
        (tmp_path / folder).mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / folder)
        Path("mine.py").write_text(MINE.format(f"theta.sum() * {number}"))
        sys.modules.pop("mine", None)
        module = importlib.import_module("mine")
        monkeypatch.setitem(sys.modules, "mine", module)
        engines._check_code(dataclasses.replace(spec, problem=module.Mine()))
    message = r"ranks 0, 1 compute other likelihood of Mine .*another.mine.py\).*Type importlib.reload\(mine\), and"
    Path("mine.py").write_text(MINE.format("theta.sum() * 4"))
    for call in (engines.submit, engines.tune):
        with pytest.raises(RuntimeError, match=message):
            call(dataclasses.replace(spec, problem=module.Mine()))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RuntimeError, match="cannot load Mine: ModuleNotFoundError: No module named 'mine'.*They look"):
        engines.submit(dataclasses.replace(spec, problem=module.Mine()))
    assert not (tmp_path / "a.zarr").exists()


def test_other_code_is_explained_by_the_modules_and_packages_that_a_problem_uses(tmp_path, monkeypatch):
    package = tmp_path / "site-packages" / "optics_of_tests"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("__version__, ANGLE = '1.0', 4")
    (tmp_path / "tables.py").write_text("from optics_of_tests import ANGLE")
    own = "from tables import ANGLE\nimport optics_of_tests\n" + MINE.format("theta.sum() * optics_of_tests.ANGLE")
    (tmp_path / "mine.py").write_text(own)
    for folder in (tmp_path, package.parent):
        monkeypatch.syspath_prepend(folder)
    for name in ("mine", "tables", "optics_of_tests"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    problem = importlib.import_module("mine").Mine()
    known, versions = probe(problem), remote.versions_used(problem)
    assert versions["optics_of_tests"] == "1.0" and "sagips_kit" not in versions
    assert remote.other_code(problem, known, versions) == ""
    known["likelihood"][0] += 1
    found = remote.other_code(problem, known, versions | {"optics_of_tests": "2.0"})
    assert found == f"likelihood of Mine ({tmp_path}/mine.py); optics_of_tests 1.0 there, 2.0 here"
    text = remote.other_code_explained(problem, [0], found, "ipcluster stop")
    assert "Type importlib.reload(tables), importlib.reload(mine), and make the problem again" in text
    assert "type `ipcluster stop` in a terminal and restart the kernel" in text


def test_only_modules_of_the_user_are_imported_again(tmp_path, monkeypatch):
    """Packages that pip has installed into any folder, and compiled ones, cannot be imported twice."""
    # A folder whose name begins like that of the kit is not the kit.
    monkeypatch.setattr(remote, "_KIT", f"{tmp_path}/kit{os.sep}")
    for folder in ("own", "libs/pack", "libs/pack-1.0.dist-info", "built", "kit", "kit_of_mine"):
        (tmp_path / folder).mkdir(parents=True)
    for file in (
        "own/mine.py",
        "libs/pack/__init__.py",
        "libs/pack/part.py",
        "built/fast.py",
        "kit/part2.py",
        "kit_of_mine/also_mine.py",
    ):
        (tmp_path / file).write_text("")
        name = file.partition("/")[2].removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        monkeypatch.setitem(sys.modules, name, types.SimpleNamespace(__file__=str(tmp_path / file)))
    compiled = types.SimpleNamespace(__file__=str(tmp_path / "built/fast.so"))
    monkeypatch.setitem(sys.modules, "fast.core", compiled)
    assert {*remote._own_modules()} & {"mine", "pack", "pack.part", "fast", "part2", "also_mine"} == {
        "mine",
        "also_mine",
    }


def test_the_versions_of_engines_are_those_that_they_use(monkeypatch):
    """A package that was upgraded under running engines is the new one on disk only."""
    here = remote._versions() | {"rank": 0, "size": 1, "device": "cpu", "library": "none"}
    assert remote.differences([here], 1, "mpiexec") == []
    monkeypatch.setattr("torch.__version__", "1.0")
    (line,) = remote.differences([here], 1, "mpiexec")
    assert line.startswith("torch: 1.0 in the notebook, 2.") and "restart the kernel and the engines" in line


def test_busy_engines_are_refused_before_the_store_is_made(engines, start):
    run = start(lambda rank, path: time.sleep(2))
    for _ in range(2):
        with pytest.raises(RuntimeError, match="Busy with a run: engines 0, 1"):
            engines.submit(None)
        time.sleep(0.5)
        engines._results.clear()  # as after joining engines: only the controller knows about the run
    run.wait(timeout_s=30)


def test_engines_that_differ_are_refused_again_and_again(engines, monkeypatch):
    """Those that were joined in the middle of a run are checked when it has ended."""
    for use in (engines.submit, engines.tune):
        with pytest.raises(TypeError, match=r"'spec.json' is not a RunSpec. Type RunSpec.from_file\('spec.json'\)"):
            use("spec.json")
    monkeypatch.setattr(engines, "_facts", [])
    monkeypatch.setattr("torch.__version__", "1.0")
    for use in (engines.submit, engines.submit, engines.tune):
        with pytest.raises(RuntimeError, match="not the MPI world that was requested.\ntorch: 1.0 in the notebook"):
            use(None)


def test_engines_with_other_code_are_named():
    here = remote._origin() | {"sagips_kit": "0.1", "started": time.time() - 7300, "user": "eve", "is_edited": False}
    for change, text in (
        ({}, rf"^started 2 h ago by eve, with sagips_kit 0.1 of {PACKAGE}$"),
        ({"is_edited": True}, r"whose files have been edited since: connect\(..., fresh=True\) starts new ones$"),
        ({"code": "/old"}, rf"of /old. This notebook uses {PACKAGE}: connect\(..., fresh=True\) starts new ones$"),
    ):
        assert re.search(text, remote.origin_explained([here | change]))
    assert "with an older sagips_kit" in remote.origin_explained([here, {"rank": 1, "sagips_kit": "0.1"}])


# A run


def test_stop_says_where_and_resume_continues(engines, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small = Settings(n_members=1, n_events=64, n_draws=2, n_predictive=2, rows_per_block=100_000)
    spec = RunSpec(
        problem=Proxy(), settings=small, store="long.zarr", n_steps=10**6, n_observed=500, reference=False, fit=False
    )
    run = engines.submit(spec)
    with pytest.raises(RuntimeError, match="has not been stopped: step 0 of 1000000, unfinished"):
        run.resume()
    while (pulse := read_pulse(run.path)) is None or not pulse.step:
        time.sleep(0.1)
    for again in (run.resume, lambda: engines.resume("long.zarr")):
        run.stop()
        stop_step = run.status().stop_step
        shown = capsys.readouterr().err
        assert f"Stopping at step {stop_step} of 1000000, in about 0:0" in shown or f"at step {stop_step}" in shown
        run.wait(timeout_s=60)
        assert run.status().steps.tolist() == [stop_step] * N and stop_step % 10 == 0
        run = again()
        assert run.status().state == "unfinished"
        while not (pulse := read_pulse(run.path)) or pulse.step <= stop_step:
            time.sleep(0.1)
    run.stop()
    assert [rank["first_step"] for rank in run.result()] == [stop_step] * N


def test_failure_surfaces_while_others_continue(start):
    def fail(rank, path):
        if rank == 1:
            raise ZeroDivisionError("no events left")
        time.sleep(8)

    run, began = start(fail), time.monotonic()
    with pytest.raises(connect.RankError, match=r"Rank 1 on .* failed: ZeroDivisionError: no events left") as caught:
        run.wait()
    assert time.monotonic() - began < 6
    assert caught.value.rank == 1
    assert caught.value.host
    assert ".fail(rank" in caught.value.failures[1]
    assert "Ranks still running: 0" in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert "ipyparallel" not in str(caught.value)


def test_cause_is_shown_before_what_follows_from_it(start):
    def fail(rank, path):
        class PeerError(RuntimeError):
            pass

        if rank == 0:
            raise PeerError("rank 1 has failed")
        time.sleep(0.5)
        raise ValueError("bad data")

    with pytest.raises(
        connect.RankError, match=r"(?s)^Rank 1 on .*bad data.*Ranks that failed too: 0: PeerError"
    ) as caught:
        start(fail).wait()
    assert list(caught.value.failures) == [0, 1]


def test_a_rank_that_hangs_ends_the_others_and_is_named(start):
    def train(rank, path):
        import torch

        from sagips_kit import Ring, World

        world, gradient = World.from_mpi(device="cpu", timeout_s=2), torch.ones(1, 4)
        with Ring().open(world, gradient) as channel:
            for step in range(3):
                if (rank, step) == (1, 2):
                    time.sleep(6)
                channel.mix_(gradient, step)

    with pytest.raises(connect.RankError, match=r"Rank 0 on .* waited 2 s for rank 1 on .*: some rank stalled"):
        start(train).wait()


def test_wait_gives_up_and_the_run_continues(start):
    run = start(lambda rank, path: time.sleep(2))
    with pytest.raises(TimeoutError, match="continues after 0.2 s. Call .wait"):
        run.wait(timeout_s=0.2)
    assert repr(run) == f"RunHandle('{run.path}', 2 ranks, step 0 of 400, unfinished)"
    run.wait(timeout_s=30)


@pytest.fixture
def train(start):
    """A run that writes its progress; nested, because only nested functions of a test module are pickled by value."""

    def train(rank, path):
        milestones = Milestones(Control(path), rank, 10, 400, 0, Signals())
        with RunWriter(path, rank) as writer:
            for step in range(10, 401, 10):
                time.sleep(0.1)
                writer.write_rows(step - 10, {schema.ELAPSED: [0.1 * step] * 10})
                writer.set_progress(step)
                if step < 400 and milestones.reached(step).stop:
                    break
        return step

    return lambda: start(train)


def test_progress_and_stop_go_through_the_store(train):
    run = train()
    deadline = time.monotonic() + 30
    while run.status().steps.min() < 20:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    run.stop()
    ends = run.result()
    stop_step = run.status().stop_step
    assert all(stop_step <= end < stop_step + 10 for end in ends)
    assert stop_step < 400
    assert run.open()


def test_a_run_that_its_job_has_ended_is_not_mistaken_for_a_finished_one(train):
    run = train()
    Control(run.path)[schema.ASKED] = 1  # as a rank does when it is sent a signal
    run.stop()
    text = r"asked to stop by a signal.* step \d+ of 400; .*session.resume\(path\)"
    with pytest.raises(connect.RankError, match=text):
        run.wait(timeout_s=30)


def test_a_run_without_a_single_block_says_how_to_get_one(tmp_path):
    create.create_run(tmp_path / "a.zarr", Line(), LAYOUT, spec={}, events=np.zeros((3, 1)))
    run = connect.RunHandle(tmp_path / "a.zarr", [], [], None)
    advice = run._advice(run.status())
    assert "written their first block of 10 steps: allow more time, or shorten blocks by Settings(rows_per" in advice
    with RunWriter(run.path, 0) as first, RunWriter(run.path, 1) as second:
        for writer in (first, second):
            writer.set_progress(10)
    assert run._advice(run.status()).startswith("Type session.close()")


class Elsewhere:
    """Engines, and the calls of their ranks, until a time on the monotonic clock."""

    metadata = {"completed": None}

    def __init__(self, end):
        self._end = end

    def ready(self):
        return time.monotonic() > self._end

    def successful(self):
        return True

    def state(self):
        return JobState("ended" if self.ready() else "running", "mpiexec")

    def output(self):
        return ""


def test_a_run_that_rank_0_has_yet_to_create_is_waited_for(tmp_path, monkeypatch):
    """The run that it replaces, which is still there, is left alone."""
    monkeypatch.setattr(handle, "_AGREE_S", 0.3)
    path = tmp_path / "run.zarr"
    create.create_run(path, Line(), LAYOUT, spec={}, events=np.zeros((3, 1)))
    there = Elsewhere(time.monotonic() + 120)
    run = connect.RunHandle(path, [there] * N, [], there, follower=Follower(path, is_new=True))
    with pytest.raises(TimeoutError, match="Rank 0 is checking the problem.* Call .wait"):
        run.wait(timeout_s=0.2)
    for ask in (run.stop, run.open, run.dashboard):
        with pytest.raises(FileNotFoundError, match=r"no run at `.*` yet: rank 0 is checking.*session.close\(\)"):
            ask()
    assert not Control(path)[schema.ASKED]
    assert "Rank 0 had not created it yet" in str(run._lost())

    def replace():
        create.create_run(path, Line(), LAYOUT, spec={}, events=np.zeros((3, 1)), overwrite=True)
        for rank in range(N):
            with RunWriter(path, rank) as writer:
                writer.write_rows(0, {schema.ELAPSED: [0.1] * 10})
                writer.set_progress(10)

    timer = threading.Timer(0.5, replace)
    timer.start()
    run.watch(until=10)
    timer.join()
    run.stop()
    assert Control(path)[schema.ASKED] == schema.BY_USER


def test_a_run_that_was_continued_keeps_its_new_length(tmp_path):
    path, seen = tmp_path / "run.zarr", []
    create.create_run(path, Line(), LAYOUT, spec={}, events=np.zeros((3, 1)))

    def again(name):
        def submit(n_steps):
            seen.append((name, n_steps))
            return connect.RunHandle(path, [], [], None, again("longer"))

        return submit

    run = connect.RunHandle(path, [], [], None, again("first"))
    run.resume(800).resume()
    assert seen == [("first", 800), ("longer", None)]


def test_watch_ends_with_a_full_bar(train, capsys):
    run = train()
    run.watch(interval_s=0.1)
    assert "100%" in capsys.readouterr().err


def test_a_run_of_another_notebook_is_attached(engines, train, capsys):
    path = train().path
    found = engines.attach(path)
    with pytest.raises(RuntimeError, match=r"Busy with a run: engines 0, 1. .*session.attach\(path\)"):
        engines.submit(None)
    found.watch(until=20)
    assert "unfinished" in repr(found)
    found.stop()
    found.watch(interval_s=0.1)
    assert repr(found).endswith(", stopped)")
    assert f"{found.status().stop_step}/400" in capsys.readouterr().err, "against its planned end"
    assert {rank["steps"] for rank in found.result()} == set(found.status().steps)


def test_the_failure_of_a_run_of_another_notebook_is_reported(engines, start):
    path = start(lambda rank, path: 1 / (1 - rank)).path
    with pytest.raises(connect.RankError, match=r"ended at step 0 of 400; the notebook that submitted the run"):
        engines.attach(path).wait(timeout_s=30)


def test_only_runs_of_these_engines_are_attached(engines, tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no run at"):
        engines.attach(tmp_path / "none.zarr")
    other = dataclasses.replace(LAYOUT, n_ranks=3)
    create.create_run(tmp_path / "other.zarr", Line(), other, spec={}, events=np.zeros((3, 1)))
    with pytest.raises(ValueError, match=r"a run of 3 ranks, and this session has 2 engines: .*open_run"):
        engines.attach(tmp_path / "other.zarr")


def test_interrupting_the_cell_leaves_the_run_alone(train, capsys, monkeypatch):
    run = train()

    def interrupt(seconds):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(handle.time, "sleep", interrupt)
        run.watch()
    assert "The run continues. Show it again with .watch()" in capsys.readouterr().err
    assert run.result() == [400] * N


# The end


def test_dead_engines_are_reported_and_close_leaves_no_process(ipython_dir, tmp_path):
    before = _engines_of(os.getpid())
    mine = connect.connect("local", N)
    run = _handle(mine, lambda path: os.kill(os.getpid(), signal.SIGKILL), tmp_path)
    with pytest.raises(connect.RankError, match="have died"):
        run.wait(timeout_s=30)
    with pytest.raises(RuntimeError, match=r"some are gone.*connect\(...\)"):
        mine.submit(None)
    mine.close()
    mine.close()
    assert "closed" in repr(mine)
    assert _engines_of(os.getpid()) == before


def test_close_ends_engines_that_are_inside_mpi_unless_their_run_is_kept(ipython_dir, tmp_path):
    def block(rank, path):
        from mpi4py import MPI

        if rank:
            time.sleep(100)
        MPI.COMM_WORLD.Barrier()

    before = _engines_of(os.getpid())
    mine = connect.connect("local", N)
    pids = [fact["pid"] for fact in mine._facts]
    _handle(mine, _ranked(block), tmp_path)
    time.sleep(1)
    mine.close(keep_run=True)
    mine.close()  # as at the end of the process
    assert all(map(_runs, pids))
    joined = connect._running(profiles.find("local"), N)
    assert joined is not None and joined.n == N  # by which connect(...) comes back to them
    began = time.monotonic()
    connect.Session(mine._engines, N).close()
    assert time.monotonic() - began < 15
    assert _engines_of(os.getpid()) == before
    assert not any(map(_runs, pids))


def test_process_never_starts_mpi_and_leaves_no_engines_at_exit(ipython_dir):
    code = (
        "import sys; from sagips_kit import connect; session = connect('local', 2)\n"
        "print('mpi4py.MPI' in sys.modules, *(fact['pid'] for fact in session._facts))"
    )
    ended = _run_python(code)
    has_mpi, *pids = ended.stdout.split()
    assert has_mpi == "False"
    assert len(pids) == 2
    assert not any(_runs(int(pid)) for pid in pids)
    assert ended.stderr.strip().endswith("s")


def test_idle_engines_leave_no_shared_memory_behind(ipython_dir):
    mine = connect.connect("local", N)
    maps = [psutil.Process(fact["pid"]).memory_maps() for fact in mine._facts]
    shared = {file.path for files in maps for file in files if file.path.startswith("/dev/shm/mpich")}
    mine.close(patience_s=0)
    assert shared
    assert not any(map(os.path.exists, shared))


def test_joins_engines_started_in_a_terminal(ipython_dir, capsys):
    profiles.install_profile("local")
    command = [sys.executable, "-m", "ipyparallel.cluster", "start", "--profile=local", "--n=3"]
    terminal = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        deadline = time.monotonic() + 30
        while not list((ipython_dir / "profile_local" / "security").glob("*-client.json")):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        with connect.connect("local", 3) as joined:
            assert [fact["rank"] for fact in joined._facts] == [0, 1, 2]
            assert "ipcluster stop --profile=local" in joined.preview()
            whose = rf"engines joined; .*; started \d+ s ago by {getpass.getuser()}, with sagips_kit .* of {PACKAGE}"
            assert re.search(whose, capsys.readouterr().err)
            with connect.connect("local", 1, fresh=True) as new:
                assert new.n == 1 and new.preview().startswith("profile   local (started here)")
        assert _engines_of(terminal.pid)
        with pytest.raises(ValueError, match=r"has 3 engines, but n=2 .*ipcluster stop --profile=local"):
            connect.connect("local", 2)
    finally:
        processes = _engines_of(terminal.pid)
        terminal.send_signal(signal.SIGINT)
        log = terminal.communicate(timeout=30)[0]
    assert "iopub_welcome" not in log
    assert not psutil.wait_procs(processes, timeout=10)[1]
