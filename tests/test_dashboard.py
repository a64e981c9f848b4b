"""The live view: it follows the store, ends when the run ends, and can stop the run."""

import re
import threading
import time

import numpy as np
import pytest
from test_analysis import make_run, make_theta
from test_live import beat

from sagips_kit import open_run
from sagips_kit.report import progress_line
from sagips_kit.report.dashboard import Dashboard
from sagips_kit.running.coordination import Control
from sagips_kit.store import heartbeat, schema
from sagips_kit.store.writer import RunWriter

pytest.importorskip("ipywidgets")


@pytest.fixture
def path(tmp_path):
    make_run(make_theta(), tmp_path / "a.zarr", n_steps=300)
    return tmp_path / "a.zarr"


@pytest.fixture
def show():
    shown = []

    def make(*args, **options):
        shown.append(Dashboard(*args, **options))
        return shown[-1]

    yield make
    for one in shown:
        one.close()
    assert not any(thread.name == "sagips_kit dashboard" for thread in threading.enumerate())


def advance(path, step):
    sizes = open_run(path)["posterior_predictive"].sizes
    n_parameters = open_run(path)["history"].sizes["parameter"]
    for rank in range(4):
        with RunWriter(path, rank, rank) as writer:
            if step == 1000:  # a run that has finished has its chains
                draws = np.ones((2, sizes["draw"], n_parameters))
                writer.write_chains(draws, np.ones((2, sizes["draw"], sizes["event"], 2)))
            writer.set_progress(step)


def until(condition):
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert condition()


def parts(dashboard):
    _, (bar, button), facts, image, *_ = (getattr(one, "children", one) for one in dashboard.widget.children)
    return bar, button, facts, image


def test_it_follows_the_run_to_its_end(path, show):
    dashboard = show(path, interval_s=0.01)
    bar, button, facts, image = parts(dashboard)
    assert (bar.value, bar.max) == (300, 1000) and "unfinished</b>: step 300 of 1 000" in facts.value
    assert bytes(image.value).startswith(b"\x89PNG") and not button.disabled
    before = image.value
    advance(path, 500)
    until(lambda: bar.value == 500 and image.value != before)
    assert "steps/s, about" in facts.value
    advance(path, 1000)
    until(lambda: "<b>finished</b>" in facts.value)
    assert button.disabled
    until(lambda: not any(thread.is_alive() for thread in dashboard._threads))
    assert "step 1000" in repr(dashboard)


def test_what_is_shown_never_goes_back(path, show, monkeypatch):
    """A thread and `refresh` say how far the run is: the one with the older numbers must not be the last one."""
    dashboard, snapshot = show(path, interval_s=0.01), progress_line.Follower.snapshot
    has_read, may_show, said = threading.Event(), threading.Event(), []
    parts(dashboard)[2].observe(lambda change: said.append(change["new"]), "value")

    def late(follower):
        now = snapshot(follower)
        if threading.current_thread() is dashboard._threads[0] and not has_read.is_set():
            has_read.set()
            may_show.wait(3)
        return now

    monkeypatch.setattr(progress_line.Follower, "snapshot", late)
    assert has_read.wait(20)
    advance(path, 1000)
    dashboard._say()  # as `refresh` does when it has drawn
    may_show.set()
    until(lambda: not any(thread.is_alive() for thread in dashboard._threads))
    has_ended = ["finished</b>" in text and "unfinished" not in text for text in said]
    assert has_ended == sorted(has_ended) and has_ended[-1]


def test_the_button_stops_the_run(path, show):
    dashboard = show(path, interval_s=60)
    bar, button, facts, _ = parts(dashboard)
    button.click()
    assert Control(path)[schema.ASKED] == schema.BY_USER
    assert "were asked to stop" in facts.value
    Control(path)[schema.STOP_STEP] = 800  # as one of the ranks would
    advance(path, 800)
    dashboard.refresh()
    assert "stopped</b>" in facts.value and button.disabled and (bar.value, bar.max) == (800, 1000)


def test_the_button_resumes_a_run_that_has_stopped(path, show):
    control = Control(path)

    def resume():
        control[schema.STOP_STEP] = schema.NO_STOP

    dashboard = show(path, interval_s=0.01, resume=resume)
    bar, button, _, _ = parts(dashboard)
    with pytest.raises(RuntimeError, match=r"has not stopped: step 300 of 1000, unfinished. Type .stop\(\) before"):
        dashboard.resume()
    control[schema.STOP_STEP] = 800
    advance(path, 800)
    until(lambda: button.description == "Resume the run" and not button.disabled)
    button.click()
    advance(path, 900)
    until(lambda: bar.value == 900)
    assert button.description == "Stop the run"


def test_a_run_is_resumed_at_once_however_seldom_the_store_is_read(path, show):
    control = Control(path)
    control[schema.STOP_STEP] = 800
    advance(path, 800)

    def resume():
        assert parts(dashboard)[1].disabled, "a second click would stop the run that the first one resumes"
        control[schema.STOP_STEP] = schema.NO_STOP

    dashboard = show(path, interval_s=60, resume=resume)
    began = time.monotonic()
    dashboard.resume()
    assert time.monotonic() - began < 20 and parts(dashboard)[1].description == "Stop the run"


def test_it_shows_failures(path, show):
    dashboard = show(path, interval_s=60, has_failed=lambda: True)
    _, button, facts, _ = parts(dashboard)
    assert "failed</b>" in facts.value and button.disabled


def test_it_continues_after_a_store_was_unavailable(path, show):
    dashboard = show(path, interval_s=0.01)
    facts = parts(dashboard)[2]
    away = path.with_name("away")
    path.rename(away)
    until(lambda: "cannot be read" in facts.value)
    away.rename(path)
    advance(path, 310)
    until(lambda: "step 310" in facts.value)


def test_it_shows_verdict_estimates_and_ranks_and_a_picture_for_sharp_screens(path, show):
    dashboard = show(path, interval_s=60)
    verdict, _, _, image, table, ranks = dashboard.widget.children
    assert "<th>theta0</th>" in table.value and "steps/s" in ranks.children[0].value
    shown, drawn = int(image.layout.width.removesuffix("px")), int.from_bytes(image.value[16:20], "big")
    assert 900 < shown < 1200 and drawn == pytest.approx(2 * shown, abs=2)
    assert verdict.value == "", "nothing speaks against it so far"
    advance(path, 1000)
    dashboard.refresh()
    assert "border-left" in verdict.value and "NOT RELIABLE (not arrived)" in verdict.value


def test_a_run_shows_its_dashboard(path, show):
    dashboard = open_run(path).sagips.dashboard(interval_s=60)
    dashboard.close()
    assert np.all(parts(dashboard)[0].value == 300)
    assert "application/vnd.jupyter.widget-view+json" in dashboard._repr_mimebundle_()


def test_a_run_without_rows_or_reference_has_a_view_too(tmp_path, show):
    make_run(make_theta(), tmp_path / "b.zarr", n_steps=0, reference=None)
    dashboard = show(tmp_path / "b.zarr", interval_s=60)
    assert "step 0 of 1 000" in parts(dashboard)[2].value and "fitting" not in parts(dashboard)[2].value
    beat(tmp_path / "b.zarr", heartbeat.SCORE, 7, 7)
    dashboard.refresh()
    assert re.search(r"<b>learning the score \(the fit\)</b>: step 0 of 1 000, 0:\d\d", parts(dashboard)[2].value)


def test_what_a_store_says_is_shown_as_text(path, show):
    """Otherwise a hostile store could run a script in the notebook of its reader."""

    def stop():
        raise ValueError("<img src=x onerror=alert(1)>")

    dashboard = show(path, stop=stop)
    dashboard.stop()
    assert "&lt;img" in parts(dashboard)[2].value and "<img" not in parts(dashboard)[2].value
