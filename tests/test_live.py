"""The line of text that shows the progress of a run, from stores whose numbers are known."""

import math

import numpy as np
import pytest

from sagips_kit.report import progress_line
from sagips_kit.store import create, schema, status
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
    for words in ("50/100", "[00:05<00:05", "10.00step/s", "ranks at 50 to 55", "moved 2 floor", "waiting 25%", "stal"):
        assert words in line


def test_without_a_likelihood_the_fit_is_the_unit(tmp_path):
    path = train(tmp_path / "a.zarr", (50, 50))
    with RunWriter(path, 0) as writer:
        writer.write_fit({"state": "made", "findings": [], "information": {}}, fit=[0.5], fit_deviation=[0.1])
    now = progress_line.snapshot(path)
    assert now.moved == pytest.approx(1) and now.moved_unit == "deviations of the fit"


def test_a_fit_under_way_is_shown(tmp_path):
    path = train(tmp_path / "a.zarr", (0, 0))
    with RunWriter(path, 0) as writer:
        assert writer.wants_fit() and "fitting" not in progress_line.snapshot(path).line()
        writer.write_fit({"state": "under way"})
        assert writer.wants_fit() and "fitting by the learned score, ranks at 0" in progress_line.snapshot(path).line()
        writer.write_fit({"state": "refused", "reason": "Too many parameters."})
        assert not writer.wants_fit() and "fitting" not in progress_line.snapshot(path).line()


def test_work_in_a_terminal_shows_its_time(capsys):
    with progress_line.working("fitting", interval_s=0.01):
        pass
    assert capsys.readouterr().err == "fitting: 0 s\n"


def test_without_a_reference_the_range_is_the_unit(tmp_path):
    now = progress_line.snapshot(train(tmp_path / "a.zarr", (50, 50)))
    assert now.moved == pytest.approx(5) and now.moved_unit == "% of the range"


def test_a_run_that_was_asked_to_stop_ends_there(tmp_path):
    path = train(tmp_path / "a.zarr", (50, 50))
    status.request_stop(path, 60)
    now = progress_line.snapshot(path)
    assert now.status.stop_step == 60 and "asked to stop there, before 100" in now.line()


@pytest.mark.parametrize("steps", [(0, 0), (0, 20), (5, 5)])
def test_a_run_that_has_just_begun_has_a_line_too(tmp_path, steps):
    now = progress_line.snapshot(train(tmp_path / "a.zarr", steps))
    assert now.status.step == steps[0] and math.isnan(now.rate) and math.isnan(now.moved)
    assert f"{steps[0]}/100" in now.line() and "moved" not in now.line()
