"""The line of text that shows the progress of a run, from stores whose numbers are known."""

import json
import math
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from fsspec import register_implementation
from fsspec.implementations.memory import MemoryFileSystem

from sagips_kit import open_run, verify
from sagips_kit.report import html, line, progress_line
from sagips_kit.store import create, heartbeat, schema, status
from sagips_kit.store.writer import RunWriter

LAYOUT = schema.RunLayout(
    n_ranks=2, n_replicas=1, n_members=1, n_steps=100, record_every=5, rows_per_block=4, n_draws=2, n_predictive=2
)


class Slope:
    """The part of a problem that a store needs."""

    parameters, lower, upper, units, long_names = ("slope",), (0.0,), (2.0,), {}, {}
    observables, truth, published, periodic = ("x",), None, {}, ()


def train(path, steps, deviation=None):
    """A run whose steps take 0.1 s each, half of which rank 1 waits; the slope grows by 0.01 per step."""
    fit = {} if deviation is None else {"deviation": np.array([deviation])}
    create.create_run(path, Slope(), LAYOUT, spec={}, events=np.zeros((3, 1)), reference=fit)
    step = np.array(LAYOUT.steps, float)
    for rank, end in enumerate(steps):
        with RunWriter(path, rank) as writer:
            rows = {
                "theta": (0.01 * step)[None, :, None],
                "elapsed_s": 0.1 * step,
                "waited_s": np.full(len(step), 0.25 * rank),
                "staleness": np.full(len(step), 2.0 * rank),
            }
            writer.write_rows(0, rows)
            writer.set_progress(end)
    return path


def test_dropped_steps_are_counted(tmp_path):
    path = train(tmp_path / "a.zarr", [100, 100])
    assert "dropped" not in progress_line.snapshot(path).line()
    with RunWriter(path, 1) as writer:
        writer.write_rows(18, {"rejected": np.array([3.0, 4.0])})
    assert progress_line.snapshot(path).line().endswith(", 7 bad steps dropped]")


def test_a_snapshot_has_the_numbers_of_the_run(tmp_path):
    now = progress_line.snapshot(train(tmp_path / "a.zarr", (50, 55), deviation=0.05))
    assert (now.status.steps.tolist(), now.status.stop_step, now.staleness) == ([50, 55], 100, 2.0)
    assert now.rate == pytest.approx(10) and now.elapsed_s == pytest.approx(5) and now.waited == pytest.approx(0.25)
    # A tenth of 20 rows is 2 of 5 steps each: 0.1 in units of 0.05.
    assert now.moved == pytest.approx(2) and now.moved_unit == "floor units"
    line = now.line()
    for words in ("50/100", "[00:05<0:05", "10.00step/s", "ranks at 50 to 55", "moved 2 floor", "waiting 25%", "stal"):
        assert words in line


def test_without_a_likelihood_the_fit_is_the_unit(tmp_path):
    path = train(tmp_path / "a.zarr", (50, 50))
    with RunWriter(path, 0) as writer:
        writer.write_fit({"state": "made", "findings": [], "information": {}}, fit=[0.5], fit_deviation=[0.1])
    now = progress_line.snapshot(path)
    assert now.moved == pytest.approx(1) and now.moved_unit == "deviations of the fit"


def test_work_in_a_terminal_shows_its_time(capsys):
    with line.working("fitting", interval_s=0.01):
        pass
    assert capsys.readouterr().err == "fitting: 0 s\n"


def beat(path, phase, started_s, phase_s, step_s=0.0, at_s=0.0, node=0, **state):
    """Write the sign of life of a node: times are seconds before now."""
    times = {"started": started_s, "phase_at": phase_s, "step_at": step_s, "at": at_s}
    state = {"id": "a", "error": "", "n_nodes": 1, "step": 0, "first_step": 0, "pause_s": 0.5, **state, "phase": phase}
    state |= {name: time.time() - ago_s for name, ago_s in times.items()}
    (path / "control" / schema.ASKED / f"alive-{node}.json").write_text(json.dumps(state))


def test_signs_of_life_move_the_line_between_rows(tmp_path):
    path = train(tmp_path / "a.zarr", (0, 0))
    assert progress_line.snapshot(path).line().startswith("  0%")
    beat(path, heartbeat.SCORE, 7, 7)
    assert progress_line.snapshot(path).line().startswith("learning the score (the fit):   0%")
    assert "[00:07<?" in progress_line.snapshot(path).line()
    # 30 of 40 s for 15 steps, the last of which was made 1 s ago: 85 steps at 0.5 steps/s are left.
    beat(path, heartbeat.TRAINING, 40, 31, step_s=1, step=20, first_step=5)
    now = progress_line.snapshot(path)
    assert now.step == 20 and now.left_s == pytest.approx(159, abs=0.5)
    assert now.line().startswith("training:  20%") and "[00:40<2:39" in now.line()


def test_a_killed_run_does_not_look_alive(tmp_path):
    path = train(tmp_path / "a.zarr", (50, 55))
    beat(path, heartbeat.TRAINING, 40, 30, step_s=20, at_s=20, step=52)
    now = progress_line.snapshot(path)
    assert now.line().startswith("training, no sign of life for 0:20:  52%") and math.isnan(now.left_s)
    assert now.elapsed_s < 25, "the clock stops"
    beat(path, heartbeat.TRAINING, 400, 300, step_s=200, at_s=200)
    assert "no sign of life for 3:20, so it was probably killed" in progress_line.snapshot(path).line()
    beat(path, heartbeat.FAILED, 400, 300, step_s=200, at_s=200, error="ValueError: no\x1b events")
    assert "failed (ValueError: no" in progress_line.snapshot(path).line() and "\x1b" not in now.line()
    beat(path, heartbeat.ENDED, 400, 300, step_s=200, at_s=200)
    assert progress_line.snapshot(path).doing() == "ended early"
    beat(path, heartbeat.ENDED, 400, 300, step_s=200, at_s=200, step=100)
    assert "50/100" in progress_line.snapshot(path).line(), "the other ranks did not arrive"


def test_the_slowest_and_the_most_silent_node_count(tmp_path):
    path = train(tmp_path / "a.zarr", (0, 0))
    beat(path, heartbeat.TRAINING, 40, 30, at_s=0, step=30, n_nodes=3)
    beat(path, heartbeat.WRITING, 40, 30, at_s=0, step=100, n_nodes=3, node=1)
    beat(path, heartbeat.TRAINING, 40, 30, at_s=9, step=25, n_nodes=3, node=2)
    beat(path, heartbeat.FAILED, 40, 30, at_s=9, node=3)  # of an earlier attempt on more nodes
    pulse = heartbeat.read_pulse(path)
    assert (pulse.phase, pulse.step) == (heartbeat.TRAINING, 25) and pulse.age_s == pytest.approx(9, abs=0.5)


def test_a_node_is_late_only_after_the_time_at_which_its_next_sign_of_life_is_due(tmp_path):
    """Many nodes, slow file systems and URLs have fewer of them."""
    path = train(tmp_path / "a.zarr", (0, 0))
    many = heartbeat.Heartbeat(path, n_nodes=200)
    many._write()
    beat(path, heartbeat.TRAINING, 40, 30, at_s=11, step=25, node=1, pause_s=heartbeat.read_pulse(path).pause_s)
    pulse = heartbeat.read_pulse(path)
    assert pulse.age_s > 10 and not pulse.is_late and pulse.elapsed_s == pytest.approx(0, abs=1)
    beat(path, heartbeat.TRAINING, 40, 30, at_s=5, step=25, node=8)
    assert heartbeat.read_pulse(path).is_late and heartbeat.read_pulse(path).age_s == pytest.approx(5, abs=1)


class Unreliable(MemoryFileSystem):
    """Files behind a URL whose client reports errors of its own."""

    protocol = "unreliable"

    def pipe_file(self, path, value, **options):
        raise RuntimeError("no connection")


def test_a_sign_of_life_that_cannot_be_written_ends_no_run():
    register_implementation("unreliable", Unreliable, clobber=True)
    with heartbeat.Heartbeat("unreliable://a.zarr") as beats:
        beats.enter(heartbeat.TRAINING)
    assert heartbeat.read_pulse("unreliable://a.zarr") is None


def test_a_store_that_does_not_answer_is_reported_in_the_line(tmp_path, monkeypatch):
    follower = progress_line.Follower(train(tmp_path / "a.zarr", (50, 55)))

    def silent(path):
        raise TimeoutError

    monkeypatch.setattr(progress_line, "read_status", silent)
    assert follower.line().startswith("the store cannot be read: TimeoutError [0:0")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"id": 3}', "\xff", '{"phase": "training", "at": NaN}'])
def test_a_damaged_sign_of_life_is_none(tmp_path, content):
    path = train(tmp_path / "a.zarr", (0, 0))
    (path / "control" / schema.ASKED / "alive-0.json").write_text(content)
    assert heartbeat.read_pulse(path) is None and "0/100" in progress_line.snapshot(path).line()


def test_a_process_gives_signs_of_life_until_it_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(heartbeat, "_SHORTEST_S", 0.01)
    path, step = train(tmp_path / "a.zarr", (0, 0)), [0]

    def until(condition):
        deadline = time.monotonic() + 10
        while not condition(heartbeat.read_pulse(path)) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert condition(heartbeat.read_pulse(path))

    with pytest.raises(ZeroDivisionError), heartbeat.Heartbeat(path) as first:
        first.enter(heartbeat.TRAINING, lambda: step[0])
        step[0] = 7
        until(lambda pulse: pulse is not None and (pulse.phase, pulse.step) == (heartbeat.TRAINING, 7))
        assert ", unfinished (training at 20" in html._lead(open_run(path)), "a page says what the run does, and when"
        raise ZeroDivisionError("0")
    assert heartbeat.read_pulse(path).error == "ZeroDivisionError: 0"
    with heartbeat.Heartbeat(path) as old, heartbeat.Heartbeat(path) as new:
        new.enter(heartbeat.WRITING)
        until(lambda pulse: pulse.phase == heartbeat.WRITING)
        assert not old._write(), "the file belongs to the process that has taken over the run"
    assert heartbeat.read_pulse(path).has_ended
    heartbeat.forget(path)
    assert heartbeat.read_pulse(path) is None
    assert verify(path).is_whole and not list(path.rglob("*.partial"))


def test_signs_of_life_cost_at_most_a_500th_of_the_time(tmp_path):
    path, n_files = train(tmp_path / "a.zarr", (0, 0)), 50
    beats = heartbeat.Heartbeat(path)
    began = time.thread_time()
    for _ in range(n_files):
        beats._write()
    assert (time.thread_time() - began) / n_files < 0.002 * heartbeat._SHORTEST_S


def test_a_run_that_is_about_to_be_replaced_is_not_shown(tmp_path):
    path = train(tmp_path / "a.zarr", (50, 55))
    follower = progress_line.Follower(path, is_new=True)
    assert follower.line().startswith("checking the problem and its events [0:0")
    shutil.rmtree(path)
    assert follower.line().startswith("checking the problem and its events [0:0")
    train(path, (0, 0))
    assert follower.line().startswith("0/100 steps, no sign of life yet [0:0")


@pytest.mark.parametrize("name", ["mpiexec", "other"])
def test_a_rank_that_writes_into_a_pipe_of_mpiexec_writes_to_its_terminal(tmp_path, name):
    launcher, code = tmp_path / name, "from sagips_kit.report import line; print(line.is_terminal())"
    launcher.write_text('#!/bin/sh\n"$@" 2>&1 | cat\n')
    launcher.chmod(0o755)
    ours, theirs = os.openpty()
    done = subprocess.run([launcher, sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=theirs, text=True)
    os.close(ours), os.close(theirs)
    assert done.stdout.strip() == str(name == "mpiexec")


def test_without_a_reference_the_range_is_the_unit(tmp_path):
    now = progress_line.snapshot(train(tmp_path / "a.zarr", (50, 50)))
    assert now.moved == pytest.approx(5) and now.moved_unit == "% of the range"


def test_a_run_that_was_asked_to_stop_ends_there(tmp_path):
    path = train(tmp_path / "a.zarr", (50, 50))
    status.request_stop(path, 60)
    now = progress_line.snapshot(path)
    assert now.status.stop_step == 60 and "stops at step 60" in now.line() and "50/100" in now.line()


@pytest.mark.parametrize("steps", [(0, 0), (0, 20), (5, 5)])
def test_a_run_that_has_just_begun_has_a_line_too(tmp_path, steps):
    now = progress_line.snapshot(train(tmp_path / "a.zarr", steps))
    assert now.status.step == steps[0] and math.isnan(now.rate) and math.isnan(now.moved)
    assert f"{steps[0]}/100" in now.line() and "moved" not in now.line()
