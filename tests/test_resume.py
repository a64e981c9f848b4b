"""A run that ended early continues where it stopped, with the same bits, or the error says why it cannot."""

import contextlib
import dataclasses
import errno
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
import types

import numpy as np
import pytest
import safetensors.torch
import torch
import zarr
from gaussian import QUICK, Gaussian, exact_fit
from mpi_launcher import TESTS, command, environment, mpiexec

from sagips_kit import (
    AllReduce,
    Chain,
    Every,
    Exponential,
    Independent,
    Leaders,
    Observed,
    OneSided,
    Ring,
    RunSpec,
    Trainer,
    open_run,
    prepare,
    read_status,
    request_stop,
    run,
    run_rank,
    verify,
)
from sagips_kit.ranks.world import World
from sagips_kit.running import coordination, probe, resume, signals
from sagips_kit.running.checkpoints import FOLDER, Checkpoints
from sagips_kit.running.coordination import Control, Due, Milestones
from sagips_kit.running.signals import Signals
from sagips_kit.store import extend, files, location, schema
from sagips_kit.store.group import open_group
from sagips_kit.store.status import stop_soon
from sagips_kit.store.writer import RunWriter
from sagips_kit.training.state_dicts import collected, flattened, nested

SMALL = dataclasses.replace(QUICK, n_events=64, n_draws=3, n_predictive=4, record_every=5, rows_per_block=4)
SMALL = dataclasses.replace(SMALL, bootstrap=True)
TIMES = {"waited_s", "elapsed_s"}


@pytest.fixture
def spec(tmp_path):
    problem = Gaussian(n_observed=200)
    return RunSpec(
        problem=problem, store=str(tmp_path / "a.zarr"), settings=SMALL, n_steps=203, reference=False, fit=False
    )


def change(spec, **changes):
    return dataclasses.replace(spec, **changes)


def alone(spec, **options):
    return run(spec, World.alone("cpu"), **options)


def file_of(spec):
    """Write the spec into a file next to the store."""
    path = location.local_path(spec.store).with_suffix(".json")
    path.write_text(spec.to_json())
    return path


def stop_at(spec, step, n_ranks=1, nest=None):
    """Train the run up to `step`, where it is asked to stop."""
    prepare(spec, n_ranks)
    request_stop(spec.store, step)
    if n_ranks == 1:
        run_rank(spec, World.alone("cpu"))
    else:
        done = mpiexec(n_ranks, *nest.stub, TESTS / "mpi" / "rank.py", file_of(spec))
        assert done.returncode == 0, done.stdout


@contextlib.contextmanager
def after_s(seconds, act):
    """Call `act` in another thread while the `with` block lasts."""
    timer = threading.Timer(seconds, act)
    timer.start()
    try:
        yield
    finally:
        timer.join()


def files_of(path):
    return sorted((location.local_path(path) / FOLDER).glob("*.safetensors"))


def assert_same_bits(path, other):
    """Assert that all results of the training are the same, except for the times."""
    one, two = open_run(path), open_run(other)
    for group in ("history", "posterior", "posterior_predictive"):
        for name in one[group].data_vars.keys() - TIMES:
            np.testing.assert_array_equal(one[group][name], two[group][name], err_msg=name)
    assert read_status(path).is_finished


EVENTS = Gaussian().observed(500, np.random.default_rng(0))


def make_trainer(**changes):
    return Trainer(Gaussian(), dataclasses.replace(SMALL, record_every=1, **changes), EVENTS, n_steps=40)


@pytest.mark.parametrize("step", [0, 1, 7, 8, 25, 39])
def test_a_trainer_continues_from_the_state_of_another(step):
    whole, begun, resumed = make_trainer(), make_trainer(), make_trainer()
    records = list(whole.iterate())[step:]
    begun.run(step)
    state = nested(flattened(begun.state_dict()))
    begun.run(3)  # the saved state stays as it was
    resumed.load_state_dict(state)
    for record, again in zip(records, resumed.iterate(), strict=True):
        assert record.step == again.step and again.elapsed_s > 0
        for name in ("theta", "loss_discriminator", "loss_generator"):
            np.testing.assert_array_equal(getattr(record, name), getattr(again, name))
    np.testing.assert_array_equal(whole.draws, resumed.draws)
    np.testing.assert_array_equal(whole.predict(), resumed.predict())


def test_the_state_of_a_matrix_that_is_stored_by_columns_is_written():
    columns = torch.arange(6.0).reshape(2, 3).T
    part = types.SimpleNamespace(state_dict=lambda: {"matrix": columns})
    state = safetensors.torch.load(safetensors.torch.save(flattened(collected({"part": part}))))
    assert torch.equal(state["part/matrix"], columns)


@pytest.mark.parametrize("changes", [{"n_members": 3}, {"generator_widths": (9,)}, {"n_draws": 4}])
def test_a_trainer_refuses_the_state_of_another_kind(changes):
    other = make_trainer(**changes)
    other.run(3)
    with pytest.raises(ValueError, match=r"^state/[\w/]+ does not fit this run: "):
        make_trainer().load_state_dict(other.state_dict())


@pytest.mark.parametrize("stop", [20, 100, 200])
def test_a_stopped_run_continues_with_the_same_bits(spec, tmp_path, stop):
    whole = change(spec, store=str(tmp_path / "whole.zarr"))
    alone(whole)
    stop_at(spec, stop)
    assert read_status(spec.store).step == stop
    result = alone(spec, resume=True)
    assert (result["steps"], result["first_step"]) == (203, stop)
    assert_same_bits(spec.store, whole.store)
    [note] = open_run(spec.store)["control"].attrs["resumed"]
    assert (note["from_step"], note["reached"]) == (stop, stop)
    assert [file.name[:12] for file in files_of(spec.store)] == ["000000000203"]  # to be continued
    assert (np.diff(open_run(spec.store)["history"]["elapsed_s"]) > 0).all()


def test_resuming_is_idempotent(spec):
    first = alone(spec, resume=True)
    assert (first["first_step"], first["steps"]) == (0, 203)
    again = alone(spec, resume=True)
    assert again == first | {"first_step": 203}
    assert "resumed" not in open_run(spec.store)["control"].attrs


def test_a_spec_that_was_taken_from_a_run_does_not_delete_it(spec):
    alone(change(spec, overwrite=True))
    again = RunSpec.from_run(open_run(spec.store))
    assert again == spec and alone(again, resume=True)["first_step"] == 203
    with pytest.raises(FileExistsError, match="already holds a finished run"):
        alone(again)


def test_a_run_without_a_checkpoint_starts_again(spec, tmp_path):
    whole = change(spec, store=str(tmp_path / "whole.zarr"))
    alone(whole)
    stop_at(spec, 60)
    for file in files_of(spec.store):
        file.unlink()
    assert alone(spec, resume=True)["first_step"] == 0
    assert_same_bits(spec.store, whole.store)


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "pickle"])
def test_a_damaged_checkpoint_is_reported_and_the_previous_one_is_used(spec, damage):
    stop_at(spec, 60)
    older = files_of(spec.store)
    request_stop(spec.store, None)
    checkpoints = Checkpoints(spec.store, 0, 203, (0,))
    trainer = Trainer(Gaussian(), SMALL, EVENTS, n_steps=203)
    trainer.run(120)
    checkpoints.write(120, trainer.state_dict())
    [newer] = set(files_of(spec.store)) - set(older)
    data = newer.read_bytes()
    spoilt = {"cut": data[:-7], "flip": data[:999] + bytes([data[999] ^ 1]) + data[1000:], "empty": b"", "pickle": b"."}
    newer.write_bytes(spoilt[damage])
    damaged = r"checkpoint 000000000120-.* is damaged: .*"
    with pytest.warns(UserWarning, match=f"{damaged} The run resumes from the checkpoint of step 60"):
        assert alone(spec, resume=True)["first_step"] == 60


def test_if_all_checkpoints_are_damaged_the_run_starts_again_and_says_so(spec):
    stop_at(spec, 60)
    for file in files_of(spec.store):
        file.write_bytes(b"")
    with pytest.warns(UserWarning, match="is damaged: .* no other checkpoint .* the run starts again from its first"):
        assert alone(spec, resume=True)["first_step"] == 0


def test_a_progress_that_a_loss_of_power_has_emptied_follows_from_the_checkpoint(spec, tmp_path):
    whole = change(spec, store=str(tmp_path / "whole.zarr"))
    alone(whole)
    stop_at(spec, 60)
    progress = location.local_path(spec.store) / "history" / "progress" / "c" / "0"
    progress.write_bytes(b"")
    with pytest.raises(ValueError, match="a.zarr` is damaged: .*checksum"):
        read_status(spec.store)
    with pytest.warns(UserWarning, match="progress of rank 0 .* is damaged .* read from the newest checkpoint instead"):
        assert alone(spec, resume=True)["first_step"] == 60
    assert_same_bits(spec.store, whole.store)
    # A finished run is not trained again.
    progress.write_bytes(b"")
    with pytest.warns(UserWarning, match="progress of rank 0 .* is damaged"):
        assert alone(spec, resume=True)["first_step"] == 203
    assert_same_bits(spec.store, whole.store)


def test_the_last_two_checkpoints_are_kept(spec):
    prepare(spec, n_ranks=2)
    mine, other = (Checkpoints(spec.store, rank, 203, (0, 0)) for rank in range(2))
    state = {"a": {"b": torch.arange(3.0)}, "n": torch.tensor(7)}
    for step in (20, 40, 60):
        mine.write(step, state)
        other.write(step, state)
    assert mine.steps() == other.steps() == {40, 60}
    # Checkpoints that some rank lacks do not replace those that all ranks have.
    mine.write(80, state)
    mine.write(100, state)
    assert mine.steps() == {60, 80, 100} and other.steps() == {40, 60}
    read = mine.read(80)
    assert torch.equal(read["a"]["b"], state["a"]["b"]) and int(read["n"]) == 7
    open_run(spec.store).load()  # readers of the store do not notice them


def test_finished_replicas_wait_for_nobody(spec):
    prepare(spec, n_ranks=2)
    apart, together = (Checkpoints(spec.store, 1, 203, replicas) for replicas in ((0, 1), (0, 0)))
    for steps, agreed, shared in [
        ([{40, 203}, {40, 60}], [203, 60], [40, 40]),
        ([{203}, {203}], [203, 203], [203, 203]),
        ([{203}, set()], [203, 0], [0, 0]),
        ([{40}, {60}], [0, 0], [0, 0]),
    ]:
        assert apart.agreed(steps) == agreed
        assert together.agreed(steps) == shared
    outer = Every(50, Leaders(Ring(payload="weights"), size=1))  # in step 199, which is the 200th
    one_sided, chain, never = (
        Checkpoints(spec.store, 1, 203, (0, 0, 0), exchange.waits)
        for exchange in (OneSided(), Chain(OneSided(), outer), Chain(OneSided(), Every(300, Ring())))
    )
    for steps, agreed, back in [
        ([{40, 203}, {40, 60}, {60}], [203, 60, 60], [0, 0, 0]),
        ([{40, 203}, {40, 60}, {40}], [203, 40, 40], [40, 40, 40]),
        ([{40, 203}, {40, 199}, {199}], [203, 199, 199], [0, 0, 0]),
        ([{40, 203}, {40, 200}, {200}], [203, 200, 200], [203, 200, 200]),
        ([{40}, {40, 60}, {60}], [0, 0, 0], [0, 0, 0]),
        ([{203}, {203}, {203}], [203, 203, 203], [203, 203, 203]),
        ([{203}, set(), {60}], [203, 0, 0], [0, 0, 0]),
    ]:
        assert one_sided.agreed(steps) == never.agreed(steps) == agreed
        assert chain.agreed(steps) == back
    state = {"a": torch.arange(3.0)}
    Checkpoints(spec.store, 0, 203, (0, 1)).write(203, state)
    for step in (20, 40):
        apart.write(step, state)
    assert apart.steps() == {20, 40}
    apart.write(60, state)
    assert apart.steps() == {40, 60}


def test_rows_are_safe_before_the_checkpoint_that_relies_on_them(spec, monkeypatch):
    synced, sync = set(), files._sync

    def note(path):
        synced.add(str(path.relative_to(spec.store)))
        sync(path)

    def write(self, step, state):
        assert {"history/theta/c/0/0/0/0", "history/loss_generator/c/0/0/0", "history/progress/c/0"} <= synced
        synced.add("all")

    monkeypatch.setattr(files, "_sync", note)
    monkeypatch.setattr(Checkpoints, "write", write)
    stop_at(spec, 60)
    assert "all" in synced


def test_a_checkpoint_that_cannot_be_read_for_a_moment_is_not_given_up(spec, tmp_path, monkeypatch):
    whole = change(spec, store=str(tmp_path / "whole.zarr"))
    alone(whole)
    stop_at(spec, 60)
    before = files_of(spec.store)

    def refuse(self, name):
        raise OSError(116, "Stale file handle")

    with monkeypatch.context() as patch:
        patch.setattr(files.Files, "read", refuse)
        with pytest.raises(OSError, match="cannot read its checkpoint 000000000060-.*Stale.* Nothing was changed"):
            alone(spec, resume=True)
    assert files_of(spec.store) == before and read_status(spec.store).step == 60
    assert alone(spec, resume=True)["first_step"] == 60
    assert_same_bits(spec.store, whole.store)


@contextlib.contextmanager
def after_step(step, act):
    """Call `act` once rank 0 has declared the rows up to `step` valid."""
    set_progress = RunWriter.set_progress

    def set_and_act(self, reached):
        set_progress(self, reached)
        if reached == step:
            act()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunWriter, "set_progress", set_and_act)
        yield


TAKEN = {
    "resumed": "Another process has resumed `.*a.zarr`. Only one process may write a run",
    "overwritten": "a.zarr` has been overwritten by another run, which another process has started",
    "deleted": r"a.zarr` has been removed or renamed .* Rename it back and type run\(spec, resume=True\)",
}


@pytest.mark.parametrize("how", TAKEN)
def test_a_run_that_another_process_has_taken_is_left_to_it(spec, tmp_path, monkeypatch, how):
    """Nothing is written to what is there now; the next thing to write is a snapshot."""
    spec = change(spec, settings=dataclasses.replace(SMALL, n_snapshots=40))
    other = change(spec, seed=1, overwrite=True)
    take = {
        "resumed": lambda: Control(spec.store).take(),
        "overwritten": lambda: prepare(other, n_ranks=1),
        "deleted": lambda: shutil.rmtree(spec.store),
    }[how]
    monkeypatch.setattr("sagips_kit.running.coordination._PAUSES_S", (0.0,))
    prepare(spec, n_ranks=1)
    with after_step(100, take), pytest.raises(RuntimeError, match=TAKEN[how]):
        run_rank(spec, World.alone("cpu"))
    if how == "deleted":
        assert not location.local_path(spec.store).exists()
        return
    if how == "overwritten":
        assert not (location.local_path(spec.store) / "snapshots" / "events" / "c").exists()
    assert read_status(spec.store).step == (100 if how == "resumed" else 0)
    spec = spec if how == "resumed" else change(other, overwrite=False)
    whole = change(spec, store=str(tmp_path / "whole.zarr"))
    alone(whole)
    assert alone(spec, resume=True)["first_step"] == 0
    assert_same_bits(spec.store, whole.store)


def test_a_file_system_that_refuses_once_does_not_end_the_run(spec, monkeypatch):
    refusals, read = [], zarr.Array.__getitem__

    def refuse(self, where):
        if self.path == "control/stop_step" and len(refusals) < 2:
            refusals.append(self.path)
            raise OSError(116, "Stale file handle")
        return read(self, where)

    monkeypatch.setattr("sagips_kit.running.coordination._PAUSES_S", (0.0, 0.0))
    prepare(spec, n_ranks=1)
    monkeypatch.setattr(zarr.Array, "__getitem__", refuse)
    assert run_rank(spec, World.alone("cpu"))["steps"] == 203
    assert len(refusals) == 2


class Quiet:
    """A source of signals that never arrive."""

    takes_s = ()

    def ask_to_end(self, takes_s):
        self.takes_s = (*self.takes_s, takes_s)
        return False


def test_the_lowest_unfinished_rank_plans_once_all_others_have_answered(spec):
    prepare(spec, n_ranks=3)
    control = Control(spec.store)
    ranks = [Milestones(control, rank, 20, 203, 0, Quiet(), row_steps=5) for rank in range(3)]
    writers = [RunWriter(spec.store, rank) for rank in range(3)]
    control[schema.ASKED] = schema.BY_USER
    writers[0].set_progress(203)

    def planned(rank, step):
        assert ranks[rank].reached(step) == Due(stop=False, checkpoint=False)
        writers[rank].set_progress(step)
        return control[schema.STOP_STEP]

    # Rank 2 completes a block that it had begun before the request, then stores its rows; only rank 1 plans.
    for rank, step in ((1, 20), (2, 60), (1, 25), (2, 65)):
        assert planned(rank, step) == schema.NO_STOP
    stop_step = planned(1, 30)
    assert 65 + 2 * 5 <= stop_step < 203 and stop_step % 5 == 0
    assert read_status(spec.store).stop_step == stop_step
    assert ranks[2].reached(stop_step) == Due(stop=True, checkpoint=True)


@pytest.fixture
def attentive(monkeypatch):
    """Ranks that look for requests, and store rows once there is one, after every row."""
    for name in ("_LOOK_S", "_SHORT_S"):
        monkeypatch.setattr(coordination, name, 0.0)


def test_a_request_is_noticed_between_blocks(spec):
    spec = change(spec, n_steps=100_000, settings=dataclasses.replace(SMALL, rows_per_block=10_000))
    prepare(spec, n_ranks=1)
    began = time.monotonic()
    with after_s(0.5, lambda: stop_soon(spec.store)):
        run_rank(spec, World.alone("cpu"))
    assert time.monotonic() - began < 15
    status = read_status(spec.store)
    assert status.state == "stopped" and 0 < status.step < 50_000 and status.step % SMALL.record_every == 0
    assert len(files_of(spec.store)) == 1 and open_run(spec.store)["history"]["theta"][0].notnull().any()


@pytest.mark.parametrize("stop", [45, 100, 155])
@pytest.mark.usefixtures("attentive")
def test_a_run_that_was_stopped_between_blocks_continues_with_the_same_bits(spec, tmp_path, stop):
    whole = change(spec, store=str(tmp_path / "whole.zarr"))
    alone(whole)
    prepare(spec, n_ranks=1)
    control = Control(spec.store)
    control[schema.ASKED], control[schema.STOP_STEP] = schema.BY_USER, stop
    run_rank(spec, World.alone("cpu"))
    assert read_status(spec.store).steps.tolist() == [stop]
    assert alone(spec, resume=True)["first_step"] == stop
    assert_same_bits(spec.store, whole.store)


def test_the_end_of_the_time_leaves_time_for_the_last_blocks(spec, monkeypatch):
    monkeypatch.setenv("SAGIPS_ENDS_AT", str(time.time() + 1000))
    signals = Signals()
    assert not signals.ask_to_end(0.0) and not signals.ask_to_end(900.0)
    assert signals.ask_to_end(1100.0)
    prepare(spec, n_ranks=1)
    quiet = Quiet()
    milestones = Milestones(Control(spec.store), 0, 20, 203, 0, quiet)
    time.sleep(0.2)
    milestones.reached(20)
    assert quiet.takes_s[0] > 0.6  # two blocks in advance, plus the current one


def test_a_checkpoint_and_its_name_are_synced_to_disk(spec, monkeypatch):
    """This happens before older checkpoints are removed, so that one survives a loss of power."""
    prepare(spec, 1)
    checkpoints, synced, fsync = Checkpoints(spec.store, 0, 203, (0,)), [], os.fsync

    def note(descriptor):
        synced.append((stat.S_ISDIR(os.fstat(descriptor).st_mode), len(files_of(spec.store))))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    for step in (20, 40, 60):
        checkpoints.write(step, {"a": torch.zeros(1)})
    assert synced == [(False, 0), (True, 1), (False, 1), (True, 2), (False, 2), (True, 3)]


def test_a_checkpoint_that_cannot_be_written_does_not_end_the_run(spec, monkeypatch):
    def refuse(*_, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.Files, "write", refuse)
    prepare(spec, 1)
    request_stop(spec.store, 60)
    with pytest.warns(UserWarning, match="cannot write its checkpoint of step 60: .*No space left.* The run continues"):
        run_rank(spec, World.alone("cpu"))
    assert read_status(spec.store).step == 60


def test_generators_that_are_lost_are_not_written_over_those_that_are_not(spec, monkeypatch):
    """Otherwise a resumed run would fail again and again."""
    reached = Milestones.reached

    def lose(self, step):
        if step == 120:
            with torch.no_grad():
                next(self.trainer.gan.generator.parameters())[0, 0] = torch.nan
        return reached(self, step)

    stop_at(spec, 60)
    before = files_of(spec.store)
    monkeypatch.setattr(Trainer, "__enter__", lambda self: setattr(Milestones, "trainer", self) or self)
    monkeypatch.setattr(Milestones, "reached", lose)
    prepare(spec, 1, resume=True)
    request_stop(spec.store, 120)
    with pytest.warns(
        UserWarning, match="writes no checkpoint of step 120, because the weights of its generators are not"
    ):
        run_rank(spec, World.alone("cpu"), resume=True)
    assert files_of(spec.store) == before


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"n_steps": 202}, "n_steps: 203 in the store, 202 now"),
        ({"settings": dataclasses.replace(SMALL, n_events=128)}, "settings.n_events: 64 in the store, 128 now"),
        ({"exchange": Ring()}, "exchange: Independent in the store, Ring now"),
        ({"seed": 5}, "seed: 0 in the store, 5 now"),
    ],
)
def test_another_run_is_refused_with_the_difference(spec, changes, text):
    stop_at(spec, 20)
    with pytest.raises(ValueError, match=rf"cannot be resumed, because it holds another run\. {text}"):
        alone(change(spec, **changes), resume=True)
    assert read_status(spec.store).step == 20


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("simulate", lambda self, theta, noise: theta[0] + theta[1] * (noise - 0.5)),
        ("features", lambda self, events: events**2),
        ("priors", {"mu": (0.4, 0.1)}),
        ("lower", (-3.0, 0.5)),
    ],
)
def test_a_problem_whose_code_was_changed_is_refused(spec, monkeypatch, name, code):
    stop_at(spec, 20)
    monkeypatch.setattr(Gaussian, name, code)
    what = {"simulate": "events", "lower": "ranges"}.get(name, name)
    with pytest.raises(ValueError, match=f"problem: the code of Gaussian now gives other {what} than when"):
        alone(spec, resume=True)
    monkeypatch.undo()
    alone(spec, resume=True)
    assert read_status(spec.store).is_finished


@pytest.mark.parametrize(
    ("variable", "count", "is_restart"),
    [
        ("SLURM_RESTART_COUNT", "0", False),
        ("SLURM_RESTART_COUNT", "1", True),
        ("SLURM_RESTART_COUNT", "many", False),
        ("SAGIPS_RESTARTS", "1", True),
    ],
)
def test_a_job_that_runs_again_resumes_and_deletes_nothing(spec, monkeypatch, variable, count, is_restart):
    stop_at(spec, 20)
    monkeypatch.setenv(variable, count)
    monkeypatch.setitem(sys.modules, "IPython", None)
    first_step = run(change(spec, overwrite=True), World.alone("cpu"))["first_step"]
    assert first_step == (20 if is_restart else 0)


class Seconds(Gaussian):
    """Times of nanoseconds, in seconds."""

    _unit = 1e-9

    def simulate(self, theta, noise):
        return self._unit * super().simulate(theta, noise)


def test_small_numbers_are_compared_as_exactly_as_large_ones(monkeypatch):
    problem = Seconds()
    known = probe.probe(problem)
    assert probe.changes(problem, known) == ""
    monkeypatch.setattr(Seconds, "_unit", 1.001e-9)
    assert "events" in probe.changes(problem, known)


def test_a_notebook_that_is_open_in_a_restarted_job_may_overwrite(spec, monkeypatch):
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: "a kernel"))
    asked = change(spec, overwrite=True)
    assert resume.after_restart(asked, False) == (asked, False)
    monkeypatch.setenv("SAGIPS_RESTARTS", "1")
    assert resume.after_restart(asked, False) == (spec, True)


def test_a_store_without_marks_is_never_left(spec, tmp_path, monkeypatch):
    """It would block the path, and changed code could resume it unnoticed."""
    with monkeypatch.context() as patch:
        patch.setattr(resume, "probe", lambda problem: os.read(-1, 1))
        with pytest.raises(OSError, match="Bad file descriptor"):
            prepare(spec, 1)
    assert not list(tmp_path.iterdir())
    seen, rename = [], type(tmp_path).rename

    def look(self, target):
        seen.append(zarr.open_group(self, mode="r")["control"].attrs["probe"])
        return rename(self, target)

    monkeypatch.setattr(type(tmp_path), "rename", look)
    prepare(spec, 1)
    assert len(seen) == 1 and len(seen[0]["events"]) == 8


@pytest.fixture
def streamed(spec, tmp_path):
    np.save(tmp_path / "events.npy", np.random.default_rng(0).normal(size=(20_000, 1)))
    events = Observed(str(tmp_path / "events.npy"), stream=True)
    return change(spec, events=events, n_observed=1000)


def halved(events):
    return events[:10_000]


def partly_replaced(events):
    return np.concatenate([events[:16_000], events[16_000:] + 1.0])


@pytest.mark.parametrize(
    ("replaced", "text"),
    [
        (halved, "it has 10000 rows now, and had 20000"),
        (partly_replaced, "its 20000 rows hold other numbers"),
    ],
)
def test_a_streamed_file_that_was_replaced_is_refused(streamed, replaced, text):
    stop_at(streamed, 100)
    events = np.load(streamed.events.path)
    np.save(streamed.events.path, replaced(events))
    with pytest.raises(
        ValueError,
        match=rf"another run\. events: `.*events.npy` was changed after the run was started: {text}\. Resume the",
    ):
        alone(streamed, resume=True)
    assert read_status(streamed.store).step == 100
    np.save(streamed.events.path, events)
    assert alone(streamed, resume=True)["first_step"] == 100
    os.remove(streamed.events.path)
    assert alone(streamed, resume=True)["steps"] == 203, "a finished run is left as it is"


def test_a_streamed_run_without_a_digest_is_resumed(streamed):
    stop_at(streamed, 100)
    control = open_group(streamed.store, "r+")["control"]
    attributes = dict(control.attrs)
    del attributes["events_file"]
    control.attrs.put(attributes)
    np.save(streamed.events.path, np.load(streamed.events.path)[::-1])
    assert alone(streamed, resume=True)["first_step"] == 100


def test_another_number_of_ranks_is_refused(spec):
    prepare(spec, n_ranks=2)
    with pytest.raises(ValueError, match=r"ranks: 2 in the store, 1 now\. An ensemble on more ranks is another run"):
        alone(spec, resume=True)


def test_resuming_and_overwriting_exclude_each_other(spec):
    with pytest.raises(ValueError, match="resume=True continues a run, and overwrite=True deletes it"):
        alone(change(spec, overwrite=True), resume=True)


def test_what_is_not_a_run_is_not_resumed(spec, tmp_path):
    (tmp_path / "a.zarr").mkdir()
    with pytest.raises(ValueError, match="exists but is not a run"):
        alone(spec, resume=True)


def test_a_run_behind_a_url_is_resumed(spec, tmp_path):
    whole = change(spec, store=str(tmp_path / "whole.zarr"))
    alone(whole)
    spec = change(spec, store="memory://resume/a.zarr")
    stop_at(spec, 100)
    assert alone(spec, resume=True)["first_step"] == 100
    assert_same_bits(spec.store, whole.store)


def test_a_finished_run_is_continued(spec):
    alone(spec)
    before, longer = open_run(spec.store).load(), change(spec, n_steps=307)
    alone(longer, resume=True)
    after = open_run(spec.store)
    n_old = before["history"].sizes["step"]
    assert after["history"]["step"].values[n_old - 2 : n_old + 2].tolist() == [200, 203, 205, 210]
    assert after["history"]["step"].values[-1] == 307 and after["history"]["progress"] == 307
    for group in ("history", "snapshots"):  # rows and snapshots are appended
        names = [name for name, array in before[group].data_vars.items() if "step" in array.dims]
        assert len(names) >= 2
        for name in names:
            is_old = after[group]["step"].values <= 203
            np.testing.assert_array_equal(after[group][name].isel(step=is_old), before[group][name], err_msg=name)
            assert np.isfinite(after[group][name].values).all()
    assert (after["posterior"]["mu"] != before["posterior"]["mu"]).all(), "draws are those of the last segment"
    assert (abs(after["posterior"]["mu"] - before["posterior"]["mu"]) < 0.5).all(), "generators did not begin anew"
    [noted] = after.attrs[schema.CONTINUED_KEY]
    assert noted["from_step"] == 203 and noted[schema.VERDICT_KEY] == before.attrs[schema.VERDICT_KEY]
    assert verify(spec.store).is_whole
    assert alone(longer, resume=True)["first_step"] == 307, "it is finished"
    with pytest.raises(ValueError, match="n_steps: 307 in the store, 203 now. This run was continued from step 203"):
        alone(spec, resume=True)


def test_a_continuation_that_was_stopped_continues_with_the_same_bits(spec, tmp_path):
    other = change(spec, store=str(tmp_path / "b.zarr"))
    for one in (spec, other):
        alone(one)
    alone(change(spec, n_steps=403), resume=True)
    longer = change(other, n_steps=403)
    prepare(longer, 1, resume=True)
    request_stop(longer.store, 300)
    run_rank(longer, World.alone("cpu"), resume=True)
    assert read_status(longer.store).state == "stopped"
    assert_rows_are_valid_to(longer.store)
    alone(longer, resume=True)
    assert_same_bits(spec.store, longer.store)


def assert_rows_are_valid_to(path):
    history = open_run(path)["history"]
    theta, progress = history["theta"][0, 0, :, 0], int(history["progress"][0])
    np.testing.assert_array_equal(np.isfinite(theta.values), theta["step"].values <= progress)


def test_the_rates_of_a_continuation_are_those_of_a_run_of_its_length():
    def rate_of(trainer):
        trainer.run(1)
        return trainer.gan.optimisers["generator"].param_groups[0]["lr"]

    first = Trainer(Gaussian(), SMALL, EVENTS, n_steps=40)
    rate = rate_of(first)
    first.run()
    second = Trainer(Gaussian(), SMALL, EVENTS, n_steps=80, earlier=(40,))
    second.load_state_dict(first.state_dict())
    assert np.isnan(second.draws).all() and np.isfinite(first.draws).all()
    assert rate_of(second) == pytest.approx(SMALL.settled_rate * rate), "without another exploration"
    assert second.gan.latent_spread == 0
    second.run()
    assert np.isfinite(second.draws).all()


@pytest.mark.parametrize("place", ["copytree", "_extend", "take_place"])
def test_a_run_that_cannot_be_extended_stays_as_it_was(spec, monkeypatch, place):
    alone(spec)
    before = {file: file.read_bytes() for file in location.local_path(spec.store).rglob("*") if file.is_file()}

    def refuse(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(extend.shutil if place == "copytree" else extend, place, refuse)
    with pytest.raises(OSError, match="The run is as it was. It needs .* space for a second copy"):
        alone(change(spec, n_steps=300), resume=True)
    after = {file: file.read_bytes() for file in location.local_path(spec.store).parent.rglob("*") if file.is_file()}
    assert after == before


@pytest.mark.parametrize("how", ["unfinished", "removed", "damaged"])
def test_a_run_that_cannot_be_continued_says_why(spec, how):
    if how == "unfinished":
        stop_at(spec, 100)
        text = "has not reached step 203, .*: step 100 of 203, stopped. Resume it with n_steps=203, as it was started"
    else:
        alone(spec)
        [file] = files_of(spec.store)
        data = bytearray(file.read_bytes())
        file.unlink() if how == "removed" else file.write_bytes(bytes([*data[:-1], data[-1] ^ 1]))
        text = "is finished, but cannot be continued to step 300: 1 of 1 rank have no checkpoint of the last step. "
        text += "An" if how == "removed" else "The checkpoint .* is damaged"
    with pytest.raises(ValueError, match=text):
        alone(change(spec, n_steps=300), resume=True)
    assert open_run(spec.store).attrs["layout"]["n_steps"] == 203


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP])
def test_a_signal_ends_the_run_cleanly_with_a_checkpoint(spec, number):
    spec = change(spec, n_steps=100_000)
    reached = Milestones.reached

    def signalled(self, step):
        if step == 40:
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), number)  # one signal comes from the scheduler, the other from mpiexec
        return reached(self, step)

    before = signal.signal(number, signal.SIG_DFL)  # which ignores SIGHUP under nohup
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Milestones, "reached", signalled)
            result = alone(spec, resume=True)
        assert signal.getsignal(number) == signal.SIG_DFL
    finally:
        signal.signal(number, before)
    assert 40 < result["steps"] == read_status(spec.store).step < 10_000
    assert [file.name[:12] for file in files_of(spec.store)] == [f"{result['steps']:012d}"]


def test_a_run_under_nohup_survives_the_terminal(monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Signals() as signals:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not signals.ask_to_end()
            os.kill(os.getpid(), signal.SIGUSR2)
            assert signals.ask_to_end()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("name", ["SAGIPS_ENDS_AT", "SLURM_JOB_END_TIME"])
def test_the_end_of_the_time_ends_the_run_cleanly(spec, monkeypatch, name):
    # The end is three seconds after the run reads it, however long the start took.
    monkeypatch.setattr(signals, "_seconds", lambda name: time.time() + 3)
    monkeypatch.setenv(name, "soon")
    assert alone(change(spec, n_steps=100_000))["steps"] < 10_000


@pytest.mark.parametrize("days", [-1, 1])
def test_a_clock_that_is_set_does_not_move_the_end(monkeypatch, days):
    """The run neither ends at once nor continues beyond its time."""
    clock, start = time.time, time.monotonic()
    monkeypatch.setenv("SAGIPS_ENDS_AT", str(clock() + 1000))
    signals = Signals()
    monkeypatch.setattr(time, "time", lambda: clock() + 86_400 * days)
    assert not signals.ask_to_end()
    monkeypatch.setattr(time, "monotonic", lambda: start + 1000)
    assert signals.ask_to_end()


def test_an_end_time_that_is_past_or_malformed(spec, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time() - 1)))
    assert alone(spec)["steps"] == 203
    monkeypatch.setenv("SAGIPS_ENDS_AT", "in an hour")
    with pytest.raises(
        ValueError,
        match=r"SAGIPS_ENDS_AT = 'in an hour': should be the time at which the job ends, in seconds since 1970",
    ):
        alone(change(spec, overwrite=True))


def test_checkpoints_are_written_periodically(spec):
    """A single rank writes one every tenth of a second."""
    seen = set()
    write = Checkpoints.write

    def note(self, step, state):
        write(self, step, state)
        seen.update(file.name[:12] for file in files_of(spec.store))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "write", note)
        alone(change(spec, n_steps=1003, checkpoint_s=0.1))
    assert len(seen) > 2


def under_mpi(spec, n_ranks, nest, timeout=120):
    done = mpiexec(n_ranks, *nest.stub, "-m", "sagips_kit", "run", file_of(spec), "--resume", timeout=timeout)
    assert done.returncode == 0, done.stdout
    return done.stdout


# In the second half of a run of 403 steps, no rank waits for another one.
FREE = [
    Independent(),
    OneSided(),
    Chain(OneSided(), OneSided(payload="gradient"), Every(202, Ring(payload="weights"))),
]


@pytest.mark.mpi
@pytest.mark.parametrize("exchange", FREE, ids=repr)
def test_the_work_of_a_slow_rank_is_kept_after_rank_0_has_finished(spec, tmp_path, nest, exchange):
    spec = change(spec, n_steps=403, exchange=exchange)
    whole = change(spec, store=str(tmp_path / "whole.zarr"))
    under_mpi(whole, 2, nest)
    arguments = command(2, TESTS / "mpi" / "uneven.py", file_of(spec), "--resume")  # mpiexec forwards the signal
    with subprocess.Popen(
        arguments, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        while not location.local_path(spec.store).exists() or read_status(spec.store).steps[0] < 403:
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
    assert "Stopped before step 403" in output
    fast, slow = read_status(spec.store).steps
    assert fast == 403 and 0 < slow < 403
    assert [file.name[:19] for file in files_of(spec.store)] == [f"{slow:012d}-000001", "000000000403-000000"]
    before = open_run(spec.store)["history"]["theta"][0].load()
    under_mpi(spec, 2, nest)
    if exchange == Independent():
        assert_same_bits(spec.store, whole.store)
    assert read_status(spec.store).is_finished
    assert open_run(spec.store)["history"]["theta"][0].equals(before), "rank 0 stands by"
    [note] = open_run(spec.store)["control"].attrs["resumed"]
    assert note["from_step"] == slow


def steps_done(spec):
    return read_status(spec.store).step if location.local_path(spec.store).exists() else 0


def signal_after(spec, n_ranks, n_steps, number, rng, nest, delay_s=0.0):
    """Start or resume the run, and send a rank a signal after `n_steps` more; returns whether it was sent, and output.

    Steps become visible when a block of rows is stored; the signal is sent `delay_s` later, at any moment.
    """
    before, sent = steps_done(spec), False
    arguments = command(n_ranks, *nest.stub, "-m", "sagips_kit", "run", file_of(spec), "--resume")
    with subprocess.Popen(
        arguments, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        while process.poll() is None and not sent:
            if steps_done(spec) >= before + n_steps and nest.ranks():
                time.sleep(delay_s)
                if ranks := nest.ranks():
                    rng.choice(ranks).send_signal(number)
                    sent = True
            time.sleep(0.01)
        output, _ = process.communicate(timeout=90)
    nest.settle()
    return sent, output


MODES = {
    "ensemble": Independent(),
    "all-reduce": AllReduce(),
    "ring": Ring(),
    "outer momentum": Every(7, Ring(payload="updates")),
    "exponential": Exponential(),
}


@pytest.mark.mpi
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_continues_with_the_same_bits(spec, tmp_path, nest, mode):
    spec = change(spec, exchange=MODES[mode])
    whole = change(spec, store=str(tmp_path / "whole.zarr"))
    under_mpi(whole, 2, nest)
    stop_at(spec, 100, 2, nest)
    assert read_status(spec.store).steps.tolist() == [100, 100]
    assert "resumed at step 100" in under_mpi(spec, 2, nest)
    assert_same_bits(spec.store, whole.store)


@pytest.mark.mpi
def test_one_sided_ranks_continue_together(spec, nest):
    """All continue from the same step, but not with the same bits, because the delays of messages are random."""
    spec = change(spec, exchange=OneSided(), n_steps=403)
    stop_at(spec, 200, 2, nest)
    assert "resumed at step 200" in under_mpi(spec, 2, nest)
    theta = open_run(spec.store)["history"]["theta"].mean("member").values
    np.testing.assert_allclose(theta[:, 40], theta[:, 39], atol=0.2)


@pytest.mark.mpi
def test_a_signal_to_one_rank_stops_all_at_the_same_step(spec, rng, nest):
    spec = change(spec, exchange=Ring(), n_steps=100_000)
    sent, output = signal_after(spec, 2, 100, signal.SIGUSR1, rng, nest)
    assert sent and "Stopped before step 100000" in output
    one, other = read_status(spec.store).steps
    assert one == other > 100
    assert {file.name[:12] for file in files_of(spec.store)} == {f"{one:012d}"} and len(files_of(spec.store)) == 2


@pytest.mark.mpi
@pytest.mark.slow
@pytest.mark.parametrize("mode", ["ensemble", "all-reduce", "ring"])
def test_a_run_killed_ten_times_equals_the_undisturbed_one(spec, tmp_path, rng, nest, mode):
    spec = change(spec, exchange=MODES[mode], n_steps=2003, checkpoint_s=0.1)
    whole = change(spec, store=str(tmp_path / "whole.zarr"), checkpoint_s=0.0)
    under_mpi(whole, 2, nest, timeout=300)
    kill_ten_times(spec, rng, nest)
    assert_same_bits(spec.store, whole.store)


def kill_ten_times(spec, rng, nest):
    """Kill the run at any moment (during its start, a block of rows, or a checkpoint), and then let it finish."""
    n_killed = 0
    for n_steps in rng.permutation([0, 0, *rng.integers(1, 150, 8)]):
        n_killed += signal_after(spec, 2, int(n_steps), signal.SIGKILL, rng, nest, rng.uniform(0, 0.1))[0]
    assert n_killed == 10
    under_mpi(spec, 2, nest, timeout=300)
    notes = open_run(spec.store)["control"].attrs["resumed"]
    assert len(notes) >= 5 and max(note["from_step"] for note in notes) > 0


@pytest.mark.mpi
@pytest.mark.slow
def test_a_one_sided_run_killed_ten_times_comes_to_the_same_answer(spec, tmp_path, rng, nest):
    """Even without a kill it is random which messages arrive in time; the answers agree within that spread."""
    spec = change(spec, exchange=OneSided(), n_steps=2003, checkpoint_s=0.1)
    spec = change(spec, settings=dataclasses.replace(SMALL, n_events=256, bootstrap=False), problem=Gaussian())
    whole = change(spec, store=str(tmp_path / "whole.zarr"), checkpoint_s=0.0)
    under_mpi(whole, 2, nest, timeout=300)
    kill_ten_times(spec, rng, nest)
    run, undisturbed = open_run(spec.store), open_run(whole.store)
    _, deviations = exact_fit(run["observed_data"]["x"].values)
    for name, deviation in zip(Gaussian.parameters, deviations, strict=True):
        difference = run["posterior"][name].mean() - undisturbed["posterior"][name].mean()
        assert abs(difference) < deviation, name
    assert np.isfinite(run["history"]["theta"]).all()
    assert [file.name[:12] for file in files_of(spec.store)] == ["000000002003"] * 2
