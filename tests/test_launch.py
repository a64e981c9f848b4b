"""Runs on one process and under mpiexec: what they leave in the store, and what a failure does."""

import contextlib
import dataclasses
import math
import os
import re
import time
import types
import warnings
import weakref
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from gaussian import QUICK, Faulty, Gaussian, exact_fit
from mpi_launcher import mpiexec

from sagips_kit import (
    Independent,
    Observed,
    Ring,
    RunSpec,
    RunStatus,
    Trainer,
    World,
    analysis,
    list_runs,
    open_run,
    prepare,
    read_status,
    request_stop,
    run,
    run_rank,
)
from sagips_kit.cli import main
from sagips_kit.cluster.handle import RunHandle
from sagips_kit.cluster.jobs import JobState
from sagips_kit.ranks import launcher
from sagips_kit.report import html
from sagips_kit.report.dashboard import Dashboard
from sagips_kit.report.progress_line import snapshot
from sagips_kit.running import launch, reference, resume
from sagips_kit.running.launch import observed_events
from sagips_kit.running.rank_run import RankRun
from sagips_kit.statistics.fit import ScoreFit
from sagips_kit.statistics.likelihood import LikelihoodFit
from sagips_kit.store import diagnostics
from sagips_kit.store.findings import Finding
from sagips_kit.store.heartbeat import SCORE, read_pulse
from sagips_kit.store.writer import RunWriter
from sagips_kit.training import predictions

SMALL = dataclasses.replace(
    QUICK, n_events=64, n_draws=3, n_predictive=4, record_every=5, rows_per_block=4, n_snapshots=20
)


@pytest.fixture
def spec(tmp_path):
    where = str(tmp_path / "a.zarr")
    return RunSpec(
        problem=Gaussian(n_observed=200), store=where, settings=SMALL, n_steps=103, fit=False, start="ranges"
    )


def change(spec, **changes):
    return dataclasses.replace(spec, **changes)


def listing(folder):
    """Everything on disk, hidden or not."""
    return sorted(path.relative_to(folder) for path in folder.rglob("*"))


def observed(spec):
    return np.stack([open_run(spec.store)["observed_data"][name] for name in spec.problem.observables], axis=-1)


def test_store_holds_what_the_trainer_makes(spec):
    result = run(spec, World.alone("cpu"))
    stored = open_run(spec.store)
    trainer = Trainer(spec.problem, spec.settings, observed(spec), n_steps=spec.n_steps)
    records = list(trainer.iterate())
    history = stored["history"]
    assert history["step"].values.tolist() == [record.step for record in records] == [*range(5, 101, 5), 103]
    np.testing.assert_array_equal(history["theta"][0], np.stack([record.theta for record in records], axis=1))
    for name in ("loss_discriminator", "loss_generator"):
        expected = np.stack([getattr(record, name) for record in records], axis=1)
        np.testing.assert_array_equal(history[name][0], expected)
    np.testing.assert_array_equal(np.stack([stored["posterior"][n] for n in ("mu", "sigma")], -1), trainer.draws)
    np.testing.assert_array_equal(stored["posterior_predictive"]["x"], trainer.predict()[..., 0])
    generated, observed_ = predictions.scores(trainer, stored["posterior_predictive"]["x"].values[..., None])
    np.testing.assert_array_equal(stored["scores"]["generated"][0], generated)
    np.testing.assert_array_equal(stored["scores"]["observed"][0], observed_)
    snapshots = stored["snapshots"]
    assert snapshots["step"].values[[0, 18, 19]].tolist() == [5, 95, 103], "20 of 21 rows"
    rows = history["theta"][0].sel(step=snapshots["step"])
    np.testing.assert_allclose(snapshots["parameters"].mean("set"), rows, rtol=1e-6)
    assert (np.diff(history["elapsed_s"][0]) > 0).all()
    assert read_status(spec.store).is_finished
    wanted = {"rank": 0, "replica": 0, "steps": 103, "waited_s": 0.0, "device": "cpu"}
    assert result == result | wanted
    assert result["elapsed_s"] == history["elapsed_s"].values[0, -1]


def test_a_long_run_keeps_only_its_last_records(spec, monkeypatch):
    """Otherwise memory would grow with the steps, because small objects kept from many steps fragment it."""
    made, alive = [], []

    def iterate(self, original=Trainer.iterate):
        for record in original(self):
            made.append(weakref.ref(record))
            alive.append(sum(reference() is not None for reference in made))
            yield record

    monkeypatch.setattr(Trainer, "iterate", iterate)
    run(change(spec, n_steps=300), World.alone("cpu"))
    # The records that the early warnings use, and a block that has not been written yet.
    assert len(made) == 60 and max(alive) <= max(diagnostics.N_ROWS, SMALL.rows_per_block) + 2


def test_store_holds_the_reference_and_the_spec(spec):
    prepare(spec, n_ranks=1)
    assert open_run(spec.store)["reference"]["mle"].isnull().all(), "rank 0 makes the fit"
    with RankRun(spec, World.alone("cpu")) as rank_run:
        rank_run.fit()
    stored = open_run(spec.store)
    best, deviation = exact_fit(observed(spec))
    np.testing.assert_allclose(stored["reference"]["mle"], best, rtol=1e-6)
    np.testing.assert_allclose(stored["reference"]["deviation"], deviation, rtol=1e-4)
    assert RunSpec.from_run(stored) == spec
    assert stored.attrs["mode"] == repr(spec.exchange)
    prepare(change(spec, reference=False, overwrite=True), n_ranks=1)
    assert open_run(spec.store)["reference"]["mle"].isnull().all()


def fake_fit(problem, events, *, seed=0):
    best, deviation = exact_fit(events)
    findings = (Finding("data", f"It was made from {len(events)} events with the seed {seed}."),)
    return ScoreFit(problem.parameters, np.array(best), np.diag(deviation) ** 2, {"functions": 1.0}, 3.0, 2, findings)


def test_store_holds_the_fit_of_the_events(spec, monkeypatch):
    monkeypatch.setattr(reference, "fit", fake_fit)
    without = run(change(spec, seed=2), World.alone("cpu")) and open_run(spec.store).load()
    spec = change(spec, seed=2, fit=True, overwrite=True)
    prepare(spec, n_ranks=1)
    assert analysis.fit(open_run(spec.store)).attrs["state"] == "none", "a notebook does not wait for it"
    run_rank(spec, World.alone("cpu"))
    stored = open_run(spec.store)
    best, deviation = exact_fit(observed(spec))
    np.testing.assert_array_equal(stored["reference"]["fit"], best)
    np.testing.assert_allclose(stored["reference"]["fit_deviation"], deviation)
    np.testing.assert_allclose(stored["reference"]["fit_covariance"], np.diag(deviation) ** 2)
    assert stored["reference"]["fit_goodness"] == 3 and stored["reference"]["fit_n_freedom"] == 2
    findings = [{"kind": "data", "text": "It was made from 200 events with the seed 2."}]
    words = {"state": "made", "start": "", "findings": findings, "notes": [], "information": {"functions": 1.0}}
    words["contributions"] = []
    assert stored["reference"].attrs["fit"] == words
    # It changes nothing else.
    np.testing.assert_array_equal(stored["history"]["theta"], without["history"]["theta"])


def raise_(error):
    raise error


def test_a_run_whose_start_fails_explores_the_ranges_and_says_why(spec, monkeypatch):
    monkeypatch.setattr(reference, "fit", lambda *given, **options: dataclasses.replace(fake_fit(*given), findings=()))
    run(change(spec, fit=True, start="fit", n_steps=20), World.alone("cpu"))
    stored = open_run(spec.store)
    why = "Generators did not begin at the fit, because this failed: ValueError: This result holds no score"
    assert any(text.startswith(why) for text in analysis.verdict(stored).not_tested)
    assert "which began in the middle of the ranges" in analysis.describe(stored)


@pytest.mark.parametrize(
    ("error", "state", "reason"),
    [
        (ValueError("99 events are too few."), "refused", "99 events are too few."),
        (NotImplementedError("It has categories."), "refused", "It has categories."),
        (RuntimeError("singular"), "failed", "RuntimeError: singular"),
        (None, "refused", "2 parameters are too many: a run makes the fit for up to 1."),
    ],
)
def test_a_run_without_its_fit_continues_and_says_why(spec, monkeypatch, error, state, reason):
    monkeypatch.setattr(reference, "fit", lambda *given, **options: raise_(error))
    if error is None:
        monkeypatch.setattr(reference, "_MOST_PARAMETERS", 1)
    warned = f"The fit by the learned score failed: {reason}. The run continues without it.*fit=False"
    with pytest.warns(UserWarning, match=warned) if state == "failed" else contextlib.nullcontext():
        run(change(spec, fit=True, n_steps=20), World.alone("cpu"))
    stored = open_run(spec.store)
    words = stored["reference"].attrs["fit"]
    assert words["state"] == state and words["reason"].startswith(reason)
    assert read_status(spec.store).is_finished and stored["reference"]["fit"].isnull().all()


def test_a_likelihood_that_is_nowhere_finite_is_refused_at_once(spec, monkeypatch):
    monkeypatch.setattr(Gaussian, "log_likelihood", lambda self, theta, statistic: theta.sum() - math.inf)
    with pytest.raises(RuntimeError, match="found no finite value from 3 starting points"):
        prepare(spec, n_ranks=1)
    assert not Path(spec.store).exists()


def test_warnings_of_the_likelihood_fit_reach_those_who_follow_the_run(spec, monkeypatch):
    def fit_likelihood(problem, events):
        warnings.warn("The fit ends at the end of a range.", stacklevel=1)
        warnings.warn("A function of torch is deprecated.", DeprecationWarning, stacklevel=1)  # concerns no user
        return LikelihoodFit(np.zeros(2), np.eye(2))

    monkeypatch.setattr(reference, "fit_likelihood", fit_likelihood)
    prepare(spec, n_ranks=1)
    with pytest.warns(UserWarning, match="ends at the end"), RankRun(spec, World.alone("cpu")) as rank_run:
        rank_run.fit()
        rank_run.fit()  # once only
    assert read_pulse(spec.store).notes == ("The fit ends at the end of a range.",)


def test_a_large_file_is_left_to_rank_0_but_for_its_first_block(spec, tmp_path, monkeypatch):
    np.save(tmp_path / "events.npy", observed_events(spec)[0])
    spec = change(spec, events=str(tmp_path / "events.npy"))
    assert not launch.is_slow(spec)
    monkeypatch.setattr(launch, "_LARGE_BYTES", 100)
    assert launch.is_slow(spec)
    launch.prepare_later(spec)
    assert not Path(spec.store).exists()
    np.save(tmp_path / "events.npy", np.full((200, 1), np.nan))
    with pytest.raises(ValueError, match="events.npy.*row 0"):
        launch.prepare_later(spec)


def phase_of(path):
    """What the run says that it does, after at most 5 s."""
    deadline = time.monotonic() + 5
    while (pulse := read_pulse(path)) is None or pulse.phase != SCORE:
        if time.monotonic() > deadline:
            break
        time.sleep(0.02)
    return pulse and pulse.phase


def test_a_fit_is_made_once_and_again_if_it_was_killed(spec, monkeypatch):
    made = []

    def fit(*given, **options):
        made.append(phase_of(spec.store))
        if len(made) == 1:
            raise KeyboardInterrupt
        return fake_fit(*given, **options)

    monkeypatch.setattr(reference, "fit", fit)
    spec = change(spec, fit=True)
    with pytest.raises(KeyboardInterrupt):
        run(spec, World.alone("cpu"))
    prepare(spec, n_ranks=1, resume=True)
    request_stop(spec.store, 40)
    for stop in (40, None):
        run_rank(spec, World.alone("cpu"), resume=True)
        assert read_status(spec.store).stop_step == (stop or spec.n_steps) and len(made) == 2
        prepare(spec, n_ranks=1, resume=True)
    assert made == [SCORE, SCORE] and read_status(spec.store).is_finished
    # It may be asked for later.
    prepare(change(spec, fit=False), n_ranks=1, resume=True)


@pytest.mark.mpi
def test_other_ranks_wait_for_the_fit_and_then_train(spec, tmp_path):
    path = tmp_path / "spec.json"
    path.write_text(change(spec, exchange=Ring(), fit=True, n_steps=20).to_json())
    script = Path(__file__).parent / "mpi" / "slow_fit.py"
    done = mpiexec(2, script, path, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    stored = open_run(spec.store)
    assert analysis.fit(stored)["fit"].values.tolist() == [0.6, 1.1] and read_status(spec.store).is_finished
    elapsed = stored["history"]["elapsed_s"].values
    assert np.ptp(elapsed[:, 0]) < 1.5, "they begin together, and the fit counts neither as training nor as waiting"


@pytest.mark.parametrize(
    ("exchange", "bootstrap", "n_members", "text"),
    [
        (Independent(), True, 2, "bootstrap ensemble"),
        (Ring(), True, 2, "bootstrap ensemble"),
        (Ring(), True, 1, "none: no resampling"),
        (Independent(), False, 2, "none: no resampling"),
    ],
)
def test_store_says_what_its_spread_means(spec, exchange, bootstrap, n_members, text):
    settings = dataclasses.replace(SMALL, bootstrap=bootstrap, n_members=n_members)
    prepare(change(spec, exchange=exchange, settings=settings), n_ranks=3)
    stored = open_run(spec.store)["posterior"]
    assert stored.attrs["uncertainty"] == text
    assert stored.sizes["chain"] == n_members * exchange.n_replicas(3)


def test_same_seed_same_events_and_another_seed_others(spec, tmp_path):
    stores = [str(tmp_path / name) for name in ("a.zarr", "b.zarr", "c.zarr")]
    for store, seed in zip(stores, (1, 1, 2), strict=True):
        prepare(change(spec, store=store, seed=seed), n_ranks=1)
    one, same, other = (observed(change(spec, store=store)) for store in stores)
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_events_come_from_a_file(spec, tmp_path):
    events = np.random.default_rng(0).normal(size=(50, 1))
    np.save(tmp_path / "events.npy", events)
    prepare(change(spec, events=str(tmp_path / "events.npy")), n_ranks=1)
    np.testing.assert_array_equal(observed(spec), events)


def test_a_file_that_does_not_fit_into_memory_is_trained_on_window_by_window(spec, tmp_path):
    events = np.sort(np.random.default_rng(0).normal(*spec.problem.truth, (40_000, 1)), axis=0)
    np.save(tmp_path / "a.npy", events)
    settings = dataclasses.replace(QUICK, n_members=1)
    file = Observed(str(tmp_path / "a.npy"), stream=True)
    streamed = change(spec, events=file, n_observed=4000, settings=settings, n_steps=400)
    run(streamed, World.alone("cpu"))
    stored = open_run(spec.store)
    assert stored["observed_data"].sizes["event"] == 4000
    assert stored["observed_data"].attrs["source"].endswith("the ranks train on windows of the whole file")
    best, deviation = exact_fit(events)
    found = [float(stored["posterior"][name].mean()) for name in spec.problem.parameters]
    # 50 windows of 8 batches; the tolerance is twice the deviation for 4000 events.
    assert (np.abs(np.subtract(found, best)) < 2 * np.array(deviation) * (40_000 / 4000) ** 0.5).all()


@pytest.mark.parametrize("is_same", [True, False])
def test_a_file_that_changes_after_the_check_is_noticed(spec, tmp_path, is_same):
    path, events = tmp_path / "a.npy", np.random.default_rng(0).normal(size=(1000, 1))
    np.save(path, events)
    spec = change(spec, events=Observed(str(path), stream=True), n_observed=200, n_steps=5, reference=False)
    prepare(spec, n_ranks=1)
    np.save(path, events if is_same else events + 1)
    os.utime(path, (1, 1))
    if is_same:  # as for a copy on another disk
        assert run_rank(spec, World.alone("cpu"))["steps"] == 5
        read = resume.windows(spec)
        assert len(read(0)) > 0
        os.utime(path, (2, 2))
        with pytest.raises(ValueError, match="a.npy` was changed while the ranks read it. Start the run again"):
            read(1)
    else:
        with pytest.raises(ValueError, match="was changed after the run was started: its 1000 rows hold other numbers"):
            run_rank(spec, World.alone("cpu"))


def test_columns_rows_and_number_of_a_file_are_chosen(spec, tmp_path):
    (tmp_path / "events.csv").write_text("E,run\n" + "\n".join(f"{k},{k % 2}" for k in range(100)))
    file = Observed(str(tmp_path / "events.csv"), columns=("E",), within={"run": (1, None)}, scale={"E": 0.01})
    prepare(change(spec, events=file, n_observed=30, reference=False), n_ranks=1)
    events = observed(spec)[:, 0]
    assert len(set(events)) == 30 and set(np.round(100 * events)) <= set(range(1, 100, 2))
    assert open_run(spec.store)["observed_data"].attrs["source"] == f"{file!r}, 30 at random, seed 0"
    assert RunSpec.from_run(open_run(spec.store)).events == file


def test_n_observed_events_are_observed(spec):
    prepare(change(spec, n_observed=77), n_ranks=1)
    assert len(observed(spec)) == 77


BAD_FILES = {
    "nan.npy": (
        np.array([[0.0], [np.nan]]),
        ValueError,
        "nan.npy`: column 0, row 1, is empty, NaN or infinite",
    ),
    "columns.npy": (np.zeros((5, 2)), ValueError, "has 2 columns without names, and Gaussian needs 1: x"),
    "text.npy": (np.full((5, 1), "a"), ValueError, "text.npy`: column 0, row 0, holds .*'a'.*, which is not a number"),
    "pickled.npy": (np.array([[{}]]), ValueError, "pickled.npy` cannot be read: .*Python objects"),
    "few.npy": (np.zeros((1, 1)), ValueError, "needs at least 2 observed events, and got 1"),
    "empty.npy": (b"", ValueError, "empty.npy` cannot be read"),
    "garbage.npy": (b"garbage", ValueError, "garbage.npy` cannot be read: EOF: reading magic string"),
    "missing.npy": (None, FileNotFoundError, "There is no file of observed events `.*missing.npy`"),
    "events.pkl": (b"1.0", ValueError, "should be a file that ends in .npy, .h5"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_events_leave_nothing_behind(spec, tmp_path, name):
    content, kind, message = BAD_FILES[name]
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    elif content is not None:
        np.save(tmp_path / name, content)
    before = listing(tmp_path)
    with pytest.raises(kind, match=message) as caught:
        run(change(spec, events=str(tmp_path / name)), World.alone("cpu"))
    assert "\n" not in str(caught.value)
    assert listing(tmp_path) == before


def test_a_store_under_a_file_leaves_nothing_behind(spec, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match="Cannot create the run `.*file/a.zarr`.*Nothing half-written was left behind"):
        run(change(spec, store=str(tmp_path / "file" / "a.zarr")), World.alone("cpu"))
    assert [str(path) for path in listing(tmp_path)] == ["file"] and (tmp_path / "file").read_text() == "mine"


def test_an_existing_store_is_replaced_only_on_request(spec):
    prepare(spec, n_ranks=1)
    with pytest.raises(FileExistsError, match=r"already holds an unfinished run \(at step 0 of 103\).*overwrite=True"):
        run(change(spec, seed=5), World.alone("cpu"))
    run(change(spec, overwrite=True, seed=5, n_steps=20), World.alone("cpu"))
    assert read_status(spec.store).n_steps == 20


def test_what_is_not_a_run_is_never_replaced(spec, tmp_path):
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "a.zarr" / "thesis.tex").write_text("mine")
    with pytest.raises(FileExistsError, match="exists but is not a run of sagips_kit.* choose another path"):
        run(change(spec, overwrite=True), World.alone("cpu"))
    assert (tmp_path / "a.zarr" / "thesis.tex").read_text() == "mine"


def test_a_store_may_be_a_url(spec):
    spec = change(spec, store="memory://launch/a.zarr")
    prepare(spec, n_ranks=1)
    run_rank(spec, World.alone("cpu"))
    stored = open_run(spec.store)
    assert np.isfinite(stored["posterior"]["mu"]).all()
    assert stored["environment"]["device"].values.tolist() == ["cpu"]
    with pytest.raises(FileExistsError, match="`memory://launch/a.zarr` already holds a finished run"):
        prepare(spec, n_ranks=1)


def test_a_run_that_was_not_prepared_is_an_error(spec):
    with pytest.raises(FileNotFoundError, match="There is no run at"):
        run_rank(spec, World.alone("cpu"))


@pytest.mark.parametrize(("asked", "reached"), [(40, 40), (41, 60), (3, 20)])
def test_stop_request_ends_the_run_at_the_next_block(spec, asked, reached):
    prepare(spec, n_ranks=1)
    request_stop(spec.store, asked)
    result = run_rank(spec, World.alone("cpu"))
    status = read_status(spec.store)
    assert result["steps"] == status.step == reached and status.state == "stopped"
    history = open_run(spec.store)["history"]
    assert history["theta"].notnull().all(("rank", "member", "parameter")).sum() == reached // 5
    assert open_run(spec.store)["posterior"]["mu"].isnull().all()


def test_all_files_of_a_run_have_the_permissions_of_its_creator(spec):
    """Schedulers start ranks with another umask, as PBS does, and a colleague must be able to read all or nothing."""
    before = os.umask(0o027)
    try:
        prepare(spec, n_ranks=1)
        os.umask(0o077)
        request_stop(spec.store, 40)
        run_rank(spec, World.alone("cpu"))
        prepare(spec, n_ranks=1, resume=True)
        request_stop(spec.store, 60)
        run_rank(spec, World.alone("cpu"), resume=True)
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(before)
    paths = list(Path(spec.store).rglob("*"))
    assert any(path.suffix == ".safetensors" for path in paths)
    assert {path.stat().st_mode & 0o777 for path in paths} == {0o750, 0o640}


def test_stop_request_during_the_run(spec, monkeypatch):
    """The stop is requested while the first block is trained, as another process would do."""
    prepare(spec, n_ranks=1)
    set_progress = RunWriter.set_progress

    def set_and_ask(self, step):
        set_progress(self, step)
        if step == 20:
            request_stop(spec.store, 60)

    monkeypatch.setattr(RunWriter, "set_progress", set_and_ask)
    assert run_rank(spec, World.alone("cpu"))["steps"] == 60
    assert read_status(spec.store).step == 60


def words(spec, capsys):
    """The progress of the run as each interface reports it."""
    run, status = open_run(spec.store), read_status(spec.store)
    engines = types.SimpleNamespace(state=lambda: JobState("running", "running"))
    handle = RunHandle(spec.store, [], [], engines)
    with pytest.raises(FileExistsError) as refused:
        prepare(spec, n_ranks=1)
    assert main(["describe", spec.store]) == 0
    dashboard = Dashboard(spec.store, 60)
    dashboard.close()
    texts = {
        "repr": repr(status),
        "analysis.describe": analysis.describe(run),
        "list_runs": list_runs(Path(spec.store).parent)["state"].item(),
        "report": html.html_report(run),
        "handle": repr(handle),
        "dashboard": dashboard._facts.value,
        "prepare": str(refused.value),
        "sagips describe": capsys.readouterr().out,
    }
    states = {
        "status": status.state,
        "opened": RunStatus.from_run(run).state,
        "analysis.state": analysis.state(run),
        "analysis.fact": analysis.fact(run, "state"),
        "progress line": snapshot(spec.store).status.state,
        "RunHandle.status": handle.status().state,
    }
    allowed = "unfinished|stopping|stopped|finished"
    return states | {door: re.search(rf"\b({allowed})\b", text)[1] for door, text in texts.items()}


def test_a_run_has_the_same_state_in_every_interface(spec, capsys):
    spec = change(spec, n_steps=40, reference=False)
    found = {}
    prepare(spec, n_ranks=1)
    found["unfinished"] = words(spec, capsys)
    request_stop(spec.store, 20)
    found["stopping"] = words(spec, capsys)
    run_rank(spec, World.alone("cpu"))
    found["stopped"] = words(spec, capsys)
    run(spec, World.alone("cpu"), resume=True)
    found["finished"] = words(spec, capsys)
    for state, doors in found.items():
        assert set(doors.values()) == {state}, doors


def test_every_call_of_run_frees_its_communicator(spec, monkeypatch):
    """The number of communicators is limited, and a script may train many runs."""
    closed = []
    monkeypatch.setattr(World, "here", lambda: World.alone("cpu"))
    monkeypatch.setattr(World, "close", lambda self: closed.append(self))
    run(change(spec, n_steps=1, reference=False))
    assert len(closed) == 1


@pytest.mark.parametrize("n_steps", [1, 2, 5, 6])
def test_tiny_runs_have_complete_draws(spec, n_steps):
    run(change(spec, n_steps=n_steps), World.alone("cpu"))
    stored = open_run(spec.store)
    assert read_status(spec.store).is_finished
    assert stored["posterior"]["mu"].notnull().all() and stored["posterior_predictive"]["x"].notnull().all()
    assert stored["history"]["theta"].notnull().all()


def run_under_mpi(spec, n_ranks, tmp_path, nest=None):
    path = tmp_path / "spec.json"
    path.write_text(spec.to_json())
    return mpiexec(n_ranks, *(nest.stub if nest else []), "-m", "sagips_kit", "run", path, cwd=tmp_path)


def assert_same_runs(one, other):
    for name, group in one.children.items():
        this, that = group.to_dataset().load(), other[name].to_dataset().load()
        xr.testing.assert_equal(
            this.drop_vars(["elapsed_s"], errors="ignore"), that.drop_vars(["elapsed_s"], errors="ignore")
        )


@pytest.mark.mpi
def test_one_rank_of_mpiexec_equals_a_single_process(spec, tmp_path):
    under = change(spec, store=str(tmp_path / "b.zarr"))
    done = run_under_mpi(under, 1, tmp_path)
    assert done.returncode == 0, done.stdout
    run(spec, World.alone("cpu"))
    assert_same_runs(open_run(spec.store), open_run(under.store))


@pytest.mark.mpi
@pytest.mark.slow
def test_an_ensemble_is_the_same_on_two_ranks_as_on_one(spec, tmp_path, nest):
    run(change(spec, settings=dataclasses.replace(SMALL, bootstrap=True)), World.alone("cpu"))
    spread = dataclasses.replace(SMALL, bootstrap=True, n_members=1)
    apart = change(spec, store=str(tmp_path / "b.zarr"), settings=spread)
    done = run_under_mpi(apart, 2, tmp_path, nest)
    assert done.returncode == 0, done.stdout
    one, two = (open_run(path)["posterior"].to_dataset().load() for path in (spec.store, apart.store))
    xr.testing.assert_allclose(one.drop_vars(["replica", "member"]), two.drop_vars(["replica", "member"]), atol=1e-3)


@pytest.mark.mpi
def test_ring_under_mpiexec_fills_the_whole_store(spec, tmp_path, nest):
    done = run_under_mpi(change(spec, exchange=Ring()), 3, tmp_path, nest)
    assert done.returncode == 0, done.stdout
    assert re.search(r"^103 steps on 3 ranks in \d+ s: ", done.stdout, re.MULTILINE)
    stored = open_run(spec.store)
    assert read_status(spec.store).steps.tolist() == [103] * 3
    assert stored["posterior"].sizes == {"chain": 2, "draw": 3} and stored["posterior"]["mu"].notnull().all()
    for name in ("theta", "loss_discriminator", "loss_generator", "waited_s", "elapsed_s"):
        assert stored["history"][name].notnull().all()
    assert stored["snapshots"]["events"].notnull().all(), "by the leader of the only replica"
    assert (
        stored["scores"].sizes == {"rank": 3, "member": 2, "event": 12} and stored["scores"]["observed"].notnull().all()
    )
    losses = stored["history"]["loss_discriminator"].values
    assert (losses[0] != losses[1]).any() and (losses[1] != losses[2]).any()
    assert (stored["history"]["waited_s"] > 0).any()


@pytest.mark.mpi
def test_stop_request_under_mpiexec_stops_all_ranks_at_one_step(spec, tmp_path, nest):
    long = change(spec, exchange=Ring(), n_steps=1_000_000, reference=False)
    (tmp_path / "stop.py").write_text(
        "import sys\n"
        "from sagips_kit import RunSpec, request_stop, read_status, run_rank\n"
        "from sagips_kit.running.launch import prepare\n"
        "from sagips_kit.ranks.world import World\n"
        "spec, world = RunSpec.from_file('spec.json'), World.here()\n"
        "if world.rank == 0:\n"
        "    prepare(spec, world.size)\n"
        "    request_stop(spec.store, 60)\n"
        "world.barrier()\n"
        "run_rank(spec, world)\n"
    )
    (tmp_path / "spec.json").write_text(long.to_json())
    done = mpiexec(2, *nest.stub, "stop.py", cwd=tmp_path, timeout=60)
    assert done.returncode == 0, done.stdout
    assert read_status(long.store).steps.tolist() == [60, 60]


@pytest.mark.parametrize(
    ("variables", "n_known", "is_refused"),
    [
        ({}, 1, False),
        ({"PMI_SIZE": "2"}, 2, False),
        ({"PMI_SIZE": "1", "SLURM_STEP_NUM_TASKS": "4"}, 1, False),  # Slurm has started the proxies of mpiexec
        ({"SLURM_NTASKS": "4"}, 1, False),  # a single process in a job of four tasks
        ({"OMPI_COMM_WORLD_SIZE": "2"}, 1, True),
        ({"SLURM_STEP_NUM_TASKS": "4"}, 1, True),
        ({"PALS_LOCAL_SIZE": "2"}, 1, True),
    ],
)
def test_copies_of_which_mpi_does_not_know_are_refused(variables, n_known, is_refused, monkeypatch):
    for name in (*launcher._SIZES, *launcher._NODE_SIZES):
        monkeypatch.delenv(name, raising=False)
    for name, text in variables.items():
        monkeypatch.setenv(name, text)
    message = r"copies of this program were started \(.*\), but MPI knows only this one: mpi4py .*An MPI.*MPICC=mpicc"
    with pytest.raises(RuntimeError, match=message) if is_refused else contextlib.nullcontext():
        launcher.require_one_world(n_known, "An MPI 1.0")
    if is_refused:
        assert launcher.under_mpi()


@pytest.mark.mpi
def test_failure_to_prepare_is_reported_once_and_ends_all_ranks(spec, tmp_path, nest):
    prepare(spec, n_ranks=3)
    done = run_under_mpi(spec, 3, tmp_path, nest)
    assert done.returncode != 0
    imports, *failures = done.stdout.splitlines()
    assert imports == "sagips: the spec imports the module gaussian"
    assert len(failures) == 1 and "already holds an unfinished run" in failures[0]
    assert "Traceback" not in done.stdout


@pytest.mark.mpi
@pytest.mark.parametrize("exchange", [Ring(), pytest.param(Independent(), marks=pytest.mark.slow)])
def test_failure_of_one_rank_is_reported_once_and_ends_all_ranks(spec, tmp_path, nest, exchange):
    problem = Faulty(n_observed=200)
    done = run_under_mpi(change(spec, problem=problem, exchange=exchange, reference=False), 3, tmp_path, nest)
    assert done.returncode != 0
    assert done.stdout.splitlines() == [
        "sagips: the spec imports the module gaussian",
        "sagips: the magnet of rank 1 quenched",
    ]
    assert "Traceback" not in done.stdout
    assert read_status(change(spec).store).steps.max() <= 103
