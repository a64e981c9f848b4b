"""The notebooks run unchanged as batch jobs and end with complete stores."""

import importlib.util
import logging
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import papermill
import pytest
from test_analysis import make_run, make_theta

from sagips_kit import RunSpec, analysis, list_runs, open_run, read_status
from sagips_kit.store.writer import RunWriter

ROOT = Path(__file__).parents[1]
NOTEBOOKS = {"00_quickstart": "quickstart", "01_dayabay": "dayabay", "04_on_a_cluster": "cluster"}


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_papermill_reads_every_parameter(path, caplog):
    """Papermill reads them line by line; a comment after a value can make it skip the line."""
    cells = nbformat.read(path, as_version=4).cells
    source = next(cell.source for cell in cells if "parameters" in cell.metadata.get("tags", []))
    names = [line.partition(" = ")[0] for line in source.splitlines() if not line.startswith("#")]
    found = papermill.inspect_notebook(str(path))
    # Another test may have made Papermill announce what it reads.
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert list(found) == names
    assert all(entry["default"] != "None" for entry in found.values())


def execute(notebook, folder, ipython_dir=None, **parameters):
    """Run a notebook by papermill in `folder`, with fewer engines, steps and members."""
    given = {"n": 2, "n_steps": 60, "n_members": 2, "n_events": 384} | parameters
    options = [word for name, value in given.items() for word in ("-p", name, str(value))]
    # Sockets need a short path, and the user's own profiles should not matter.
    environment = os.environ | {"IPYTHONDIR": str(ipython_dir or folder / "ipython"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "papermill", ROOT / f"notebooks/{notebook}.ipynb", folder / "executed.ipynb"]
    options += ["--cwd", str(folder), "--no-progress-bar"]
    return subprocess.run([*command, *options], env=environment, capture_output=True, text=True, timeout=400)


@pytest.mark.mpi
@pytest.mark.parametrize("notebook", sorted(NOTEBOOKS))
def test_notebook_runs_as_a_batch_job(notebook, tmp_path):
    # Of three chains one is a witness.  The first period has fewer events.
    more = {"period": "6AD", "n_knots": 14} if notebook == "01_dayabay" else {}
    done = execute(notebook, tmp_path, n_members=3, **more)
    assert done.returncode == 0, done.stderr[-3000:]
    path = tmp_path / "runs" / f"{NOTEBOOKS[notebook]}.zarr"
    assert read_status(path).is_finished
    estimates = analysis.estimate(open_run(path))
    assert np.isfinite(estimates["mean"]).all() and (estimates["deviation"] > 0).all()
    known = estimates[["truth", "published"]].to_dataarray().mean("variable")
    # The likelihood fit of the notebook's events is at the answer; a run of 60 steps is not there yet.
    assert float(abs((estimates["mle"] - known) / estimates["floor"]).max()) < 4
    assert len(list((tmp_path / "runs" / "figures").glob("*.png"))) >= 5
    text = (tmp_path / "executed.ipynb").read_text()
    assert "Traceback" not in text and not re.search(r"= nan\b", text)


def test_the_demo_prints_how_far_its_runs_are_and_nothing_else(tmp_path, monkeypatch, capfd):
    spec = importlib.util.spec_from_file_location("demo", ROOT / "notebooks" / "demo.py")
    demo = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(demo)
    make_run(make_theta(), tmp_path / "runs" / "quickstart.zarr")  # of an earlier demo

    def execute_notebook(notebook, executed, parameters, progress_bar, **_):
        store = tmp_path / "runs" / f"{demo.NOTEBOOKS[Path(notebook).stem]}.zarr"
        assert parameters == {"n": 4} and not progress_bar
        time.sleep(0.2)
        shutil.rmtree(store, ignore_errors=True)
        make_run(make_theta(), store)
        time.sleep(0.3)

    monkeypatch.setattr(demo, "HERE", tmp_path)
    monkeypatch.setattr(sys, "argv", ["demo.py"])
    monkeypatch.setattr(papermill, "execute_notebook", execute_notebook)
    demo.main()
    out, err = capfd.readouterr()
    for notebook in demo.NOTEBOOKS:
        result = rf"^{notebook}: \d\.\d\d floor units .*\n\n[A-Z ]+.*\n\n +estimate .*(\n.*)+\n"
        result += rf"  notebook  .*{notebook}.ipynb$"
        assert f"{notebook}.ipynb on 4 MPI engines\n" in out and re.search(result, out, re.MULTILINE), out
    # Where nobody looks, the last state of each.
    loading, *training = err.splitlines()
    assert re.fullmatch(r"loading Jupyter and sagips_kit: \d+ s", loading) and len(training) == len(demo.NOTEBOOKS)
    assert all(re.fullmatch(r" +\d+ s  .* \d+/1000 \[.*\]", line) for line in training), err


def test_the_notebook_on_accuracy_runs_as_a_batch_job(tmp_path):
    done = execute("03_how_good_is_it", tmp_path, n_observed=2000, n_fits=5, results=ROOT / "benchmarks" / "results")
    assert done.returncode == 0, done.stderr[-3000:]
    text = (tmp_path / "executed.ipynb").read_text()
    assert "Traceback" not in text and "theta0 (+0.89), theta3 (+0.45)" in text
    assert read_status(tmp_path / "runs" / "how_good.zarr").is_finished
    assert len(list((tmp_path / "runs" / "figures").glob("*.png"))) == 3


@pytest.mark.mpi
def test_the_notebook_on_modes_trains_in_all_of_them(tmp_path):
    done = execute("02_modes", tmp_path, n_members=1, n_steps=20, uneven_steps=20, tune_seconds=0.1)
    assert done.returncode == 0, done.stderr[-3000:]
    stores = sorted((tmp_path / "runs").glob("modes_*.zarr"))
    assert len(stores) == 8 and all(read_status(path).is_finished for path in stores)
    assert len(list((tmp_path / "runs" / "figures").glob("modes_*.png"))) == 2
    assert "Traceback" not in (tmp_path / "executed.ipynb").read_text()


@pytest.mark.mpi
def test_a_problem_defined_in_its_notebook_is_checked_and_solved(tmp_path):
    done = execute("06_your_own_problem", tmp_path, n_observed=4000)
    assert done.returncode == 0, done.stderr[-3000:]
    text = (tmp_path / "executed.ipynb").read_text()
    assert "Traceback" not in text
    assert "FirstTry: 2 to fix" in text and "Smooth: keeps" in text and "Resonance: keeps its contract" in text
    path = tmp_path / "runs" / "own_problem.zarr"
    assert read_status(path).is_finished
    estimates = analysis.estimate(open_run(path))
    assert float(abs((estimates["mle"] - estimates["truth"]) / estimates["floor"]).max()) < 4
    assert len(list((tmp_path / "runs" / "figures").glob("own_problem_*.png"))) == 3
    # The store contains the name of the class; its code is only in the notebook.
    with pytest.raises(ValueError, match="Run the cell of `class Resonance` first"):
        RunSpec.from_run(open_run(path))


@pytest.mark.mpi
def test_the_notebook_on_two_dimensions_trains_on_both_problems(tmp_path):
    done = execute("07_two_dimensions", tmp_path, n_observed=2000, n_pixels=4)
    assert done.returncode == 0, done.stderr[-3000:]
    for name in ("Proxy2D", "Image"):
        path = tmp_path / "runs" / f"two_dimensions_{name}.zarr"
        assert read_status(path).is_finished
        estimates = analysis.estimate(open_run(path))
        assert float(abs((estimates["mle"] - estimates["truth"]) / estimates["floor"]).max()) < 4
    assert len(list((tmp_path / "runs" / "figures").glob("two_dimensions_*.png"))) == 2
    text = (tmp_path / "executed.ipynb").read_text()
    assert "Traceback" not in text and "of the events are selected" in text


@pytest.mark.mpi
def test_a_folder_of_runs_is_explored(tmp_path):
    done = execute("05_explore", tmp_path, n_observed=2000)
    assert done.returncode == 0, done.stderr[-3000:]
    table = list_runs(tmp_path / "runs" / "explore")
    assert set(table["mode"]) == {"Ring()", "AllReduce()", "Independent()"}
    assert (table["state"] == "finished").all() and np.isfinite(table["distance"]).all()
    assert len(list((tmp_path / "runs" / "figures").glob("explore_*.png"))) == 8
    # For someone who only has the folder, nothing is repeated.
    before = list_runs(tmp_path / "runs" / "explore")
    assert execute("05_explore", tmp_path, profile="none").returncode == 0
    assert list_runs(tmp_path / "runs" / "explore").equals(before)


def test_the_notebook_on_the_zoo_compares_fits_and_names_what_is_wrong(tmp_path):
    (tmp_path / "benchmarks").symlink_to(ROOT / "benchmarks")  # as in a clone
    done = execute("09_zoo", tmp_path, names="Energies Oscillation", broken="Twice", n_observed=2000)
    assert done.returncode == 0, done.stderr[-3000:]
    text = (tmp_path / "executed.ipynb").read_text()
    assert "Traceback" not in text and "likelihood" in text
    assert "Twice: Each event twice." in text and "exact repetitions" in text
    assert (tmp_path / "runs" / "figures" / "zoo.png").exists()


@pytest.mark.mpi
def test_the_notebook_on_scaling_measures_only_what_is_missing(tmp_path):
    folder, small = tmp_path / "runs" / "scaling", {"n_sets": 4, "n_steps": 20, "group": 1}
    done = execute("08_scaling", tmp_path, **small)
    assert done.returncode == 0, done.stderr[-3000:]
    table = list_runs(folder)
    assert sorted(table["ranks"]) == [1, 1, 1, 2, 2, 2] and (table["state"] == "finished").all()
    rates = pd.read_csv(folder / "rates.csv", index_col=["ranks", "mode"])
    assert len(rates) == 6 and (rates["event_rate"] > 0).all()
    assert rates.loc[1, "efficiency"].max() == pytest.approx(1)
    assert (tmp_path / "runs" / "figures" / "scaling.png").exists()
    # All points exist, so no engines are started (this profile has none).
    assert execute("08_scaling", tmp_path, profile="none", **small).returncode == 0
    assert list_runs(folder).equals(table)
    # One point was interrupted in the middle, and another by the end of its job before it had a single row.
    for name, step in [("ring, 2 ranks.zarr", 10), ("grouped, 2 ranks.zarr", 0)]:
        with RunWriter(folder / name, rank=0) as writer:
            writer.set_progress(step)
    assert execute("08_scaling", tmp_path, **small).returncode == 0
    again = list_runs(folder)
    assert (again["state"] == "finished").all()
    repeated = again.index[again["created"] != table["created"].reindex(again.index)]
    assert sorted(repeated) == ["grouped, 2 ranks.zarr", "ring, 2 ranks.zarr"]


@pytest.mark.mpi
def test_a_notebook_with_a_mistake_ends_with_the_message_and_leaves_no_engine(tmp_path):
    done = execute("00_quickstart", tmp_path, n_events=383)
    assert done.returncode != 0
    assert "n_events = 383: should be a multiple of n_sets = 4" in done.stderr
    assert not (tmp_path / "runs" / "quickstart.zarr").exists()
