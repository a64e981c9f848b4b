"""Folders of runs, several runs side by side, `run.sagips`, and exports: ArviZ, netCDF, tables, a page."""

import base64
import json
import os
import re
import shutil
import tarfile
from html.parser import HTMLParser

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import yaml
from test_analysis import LEARNED, TRUTH, make_run, make_theta
from test_store import rows_of
from zarr.storage import MemoryStore

from sagips_kit import analysis, list_runs, open_run, open_runs
from sagips_kit.report import export
from sagips_kit.report.hepdata import to_hepdata
from sagips_kit.report.html import html_report
from sagips_kit.store.writer import RunWriter

plt.switch_backend("Agg")


@pytest.fixture
def folder(tmp_path):
    """Runs of two modes and seeds, one of them unfinished, in folders as users create them."""
    for name, mode, seed, n_steps in [("ring", "Ring()", 1, None), ("old/all", "AllReduce()", 2, None)]:
        make_run(make_theta(), tmp_path / f"{name}.zarr", mode=mode, spec={"seed": seed}, n_steps=n_steps)
    make_run(make_theta(), tmp_path / "under way.zarr", mode="Ring()", spec={"seed": 3}, n_steps=300)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "today.txt").write_text("")
    return tmp_path


def test_a_folder_of_runs_is_a_table(folder):
    table = list_runs(folder)
    assert sorted(table.index) == ["old/all.zarr", "ring.zarr", "under way.zarr"]
    assert table.loc["ring.zarr", ["mode", "ranks", "seed", "state"]].tolist() == ["Ring()", 4, 1, "finished"]
    assert table.loc["under way.zarr", ["state", "step", "n_steps"]].tolist() == ["unfinished", 300, 1000]
    assert table.loc["ring.zarr", "distance"] == analysis.distance_to_mle(open_run(folder / "ring.zarr"))
    assert np.isnan(table.loc["under way.zarr", "distance"])


def test_a_damaged_run_is_listed_with_the_reason(folder):
    shutil.rmtree(folder / "ring.zarr" / "control")
    state = list_runs(folder).loc["ring.zarr", "state"]
    assert "control/stop_step is missing" in state
    assert list_runs(folder / "notes").empty
    with pytest.raises(FileNotFoundError, match="There is no folder `.*nowhere`"):
        list_runs(folder / "nowhere")
    with pytest.raises(ValueError, match="is a store itself. Type open_run"):
        list_runs(folder / "ring.zarr")


def test_a_folder_that_cannot_be_read_hides_no_other_runs(folder, monkeypatch):
    def refusing(read):
        def checked(path="."):
            if str(path).endswith("old"):
                raise PermissionError(13, "Permission denied", str(path))
            return read(path)

        return checked

    for name in ("scandir", "listdir"):
        monkeypatch.setattr(os, name, refusing(getattr(os, name)))
    table = list_runs(folder)
    assert "finished" in set(table["state"]) and "Permission denied" in table.loc["old", "state"]
    with pytest.warns(UserWarning, match="old` and what is in it was left out: .*Permission denied"):
        assert "ring" in open_runs(folder).children


@pytest.mark.parametrize(
    ("paths", "along", "labels"),
    [
        ("*/*.zarr", "run", ["all"]),
        ("", "run", ["all", "ring", "under way"]),
        ("", "seed", [2, 1, 3]),
        (["ring.zarr", "old/all.zarr"], "mode", ["Ring()", "AllReduce()"]),
    ],
)
def test_runs_are_opened_along_the_property_in_which_they_differ(folder, paths, along, labels):
    paths = folder / paths if isinstance(paths, str) else [folder / path for path in paths]
    runs = open_runs(paths, along=along)
    assert runs[along].values.tolist() == labels
    assert list(runs.children) == [str(label) for label in labels]
    one = runs[str(labels[0])]
    assert one["history"]["theta"].notnull().any() and along not in one.coords
    assert one.sagips.reopen().attrs == one.attrs


def test_runs_take_labels_and_may_be_open_already(folder):
    runs = open_runs([open_run(folder / "ring.zarr"), str(folder / "old" / "all.zarr")], "period", labels=[2, 1 / 3])
    assert runs.sagips.estimate()["period"].values.tolist() == [2, 1 / 3]


@pytest.mark.parametrize(
    ("paths", "options", "error", "text"),
    [
        ("*.zap", {}, FileNotFoundError, r"No run matches `.*\*.zap`"),
        ("", {"along": "mode"}, ValueError, r"same 'mode': all \(AllReduce\(\)\), ring \(Ring\(\)\), under way"),
        ("", {"along": "colour"}, ValueError, "all, ring, under way: no 'colour' is known. Allowed: run, mode"),
        ("", {"labels": [1]}, ValueError, "1 labels for 3 runs"),
    ],
)
def test_runs_that_cannot_be_compared_say_why(folder, paths, options, error, text):
    with pytest.raises(error, match=text):
        open_runs(folder / paths, **options)


def test_an_empty_list_is_no_run():
    with pytest.raises(FileNotFoundError, match="empty list"):
        open_runs([])


def test_a_run_offers_its_analysis_as_methods(folder):
    run = open_run(folder / "ring.zarr")
    for name in ("estimate", "residuals", "convergence", "pace"):
        xr.testing.assert_identical(getattr(run.sagips, name)(), getattr(analysis, name)(run))
    assert run.sagips.summary().equals(analysis.summary(run))
    assert run.sagips.describe() == analysis.describe(run)
    assert run.sagips.spec() == {"seed": 1}
    assert run.sagips.evolution().equals(analysis.evolution(run))
    assert run.sagips.discriminator(5)["generated"].sizes == {"score": 5}
    chains = run["posterior"].to_dataset()
    assert chains.sagips.estimate().equals(analysis.estimate_of(chains))
    assert chains.sagips.summary()["estimate"].equals(run.sagips.summary()["estimate"])
    assert run.sagips.environment()["python"]
    assert "posterior" in run.sagips.overview()
    assert run.sagips.report() == html_report(run)
    plt.close("all")


def test_what_is_not_a_run_has_no_analysis():
    with pytest.raises(ValueError, match="not a run. Open one with open_run"):
        _ = xr.DataTree(xr.Dataset()).sagips


def test_a_reopened_run_has_what_was_written_since(folder):
    run = open_run(folder / "under way.zarr")
    for rank in range(4):
        RunWriter(folder / "under way.zarr", rank).set_progress(500)
    assert run["history"]["progress"].max() == 300
    assert run.sagips.reopen()["history"]["progress"].max() == 500
    with pytest.raises(ValueError, match="reopen takes a single run, and these are 3. Take one, such as runs"):
        open_runs(folder).sagips.reopen()
    with pytest.raises(ValueError, match="does not come from a store"):
        xr.DataTree(xr.Dataset(attrs=run.attrs)).sagips.reopen()


def test_arviz_reads_the_run():
    az = pytest.importorskip("arviz")
    run = make_run(make_theta(n_chains=4), truth=TRUTH)
    data = export.to_arviz(run)
    table = az.summary(data, round_to="none")
    np.testing.assert_allclose(table["mean"].astype(float), analysis.estimate(run)["mean"], rtol=1e-2)
    assert az.plot_pair(data, var_names=["theta0", "theta1"]) is not None
    plt.close("all")
    assert data["observed_data"]["energy"].size == 5000


def test_arviz_gets_the_chains_that_exist():
    pytest.importorskip("arviz")
    where = MemoryStore()
    make_run(make_theta(n_chains=4), where, n_steps=300)
    with pytest.raises(ValueError, match="No chain has been written"):
        open_run(where).sagips.to_arviz()
    RunWriter(where, 1, 1).write_chains(make_theta(n_chains=2), np.ones((2, 40, 50, 2)))
    assert open_run(where).sagips.to_arviz()["posterior"]["chain"].values.tolist() == [2, 3]


def test_parameters_may_be_called_like_columns(tmp_path):
    names = ("distance", "elapsed_s")
    make_run(make_theta(), tmp_path / "a.zarr", parameters=names)
    export.to_csv(open_run(tmp_path / "a.zarr"), tmp_path / "a")
    table = pd.read_csv(tmp_path / "a" / "convergence.csv")
    path = analysis.convergence(open_run(tmp_path / "a.zarr"), n_rows=None)
    for name in names:
        np.testing.assert_allclose(table[name], path["theta"].sel(parameter=name).values.ravel())
    np.testing.assert_allclose(table["run.distance"], path["distance"])
    np.testing.assert_allclose(table["run.elapsed_s"], path["elapsed"])


def test_netcdf_opens_with_xarray_alone(folder, tmp_path):
    pytest.importorskip("h5netcdf")
    run = open_run(folder / "under way.zarr")
    path = export.to_netcdf(run, tmp_path / "a.nc")
    with xr.open_datatree(path, engine="h5netcdf", decode_times=False) as copy:
        assert set(copy.children) == set(run.children)
        for group in run.children:
            xr.testing.assert_equal(copy[group].to_dataset(), run[group].to_dataset())
        assert copy["posterior"]["theta0"].attrs == run["posterior"]["theta0"].attrs
        assert json.loads(copy.attrs["layout"]) == run.attrs["layout"]
    with pytest.raises(FileExistsError, match="a.nc` exists already and is not overwritten"):
        export.to_netcdf(run, path)


def test_netcdf_takes_attributes_of_any_kind_and_names_what_it_cannot(folder, tmp_path):
    pytest.importorskip("h5netcdf")
    run = open_run(folder / "under way.zarr")
    run["history"]["theta"].attrs |= {"limit": np.float32(0.5), "weights": np.arange(3), "seen": True, "huge": 10**40}
    path = export.to_netcdf(run, tmp_path / "a.nc")
    with xr.open_datatree(path, engine="h5netcdf", decode_times=False) as copy:
        attributes = copy["history"]["theta"].attrs
    assert attributes["limit"] == 0.5 and attributes["weights"].tolist() == [0, 1, 2]
    assert attributes["seen"] == "true" and int(attributes["huge"]) == 10**40
    run.attrs[""] = "nobody"
    with pytest.raises(ValueError, match=r"netCDF cannot hold this run .*unusual names"):
        export.to_netcdf(run, tmp_path / "b.nc")
    assert not list(tmp_path.glob("*b.nc*"))


def test_tables_hold_estimates_draws_and_convergence(folder, tmp_path):
    run = open_run(folder / "ring.zarr")
    assert [path.name for path in export.to_csv(run, tmp_path / "a")] == [
        "convergence.csv",
        "estimates.csv",
        "posterior.csv",
    ]
    draws = pd.read_csv(tmp_path / "a" / "posterior.csv")
    assert len(draws) == 8 * 40
    assert draws["theta1"].iloc[-1] == pytest.approx(float(run["posterior"]["theta1"][-1, -1]))
    way = pd.read_csv(tmp_path / "a" / "convergence.csv")
    assert len(way) == 100 and {"step", "theta0", "distance", "elapsed_s"} <= set(way.columns)
    under_way = export.to_csv(open_run(folder / "under way.zarr"), tmp_path / "b")
    assert [path.name for path in under_way] == ["convergence.csv"]


def test_hepdata_has_estimates_with_their_errors_and_covariance(tmp_path):
    pytest.importorskip("hepdata_lib")
    learned = (np.array([1.7e9 + 0.123, 0.5]), np.array([[0.04, 0.01], [0.01, 0.09]]))
    run = make_run(make_theta(), tmp_path / "a.zarr", learned=learned)
    with pytest.warns(UserWarning, match="The verdict on this run is exported with it: NOT"):
        archive = to_hepdata(run, tmp_path / "out")
    with tarfile.open(archive) as tar:
        tables = {name: yaml.safe_load(tar.extractfile(name)) for name in tar.getnames() if name != "submission.yaml"}
        described = list(yaml.safe_load_all(tar.extractfile("submission.yaml")))
    assert set(tables) == {"estimates.yaml", "covariance.yaml", "correlation.yaml"}
    estimate = tables["estimates.yaml"]["dependent_variables"][0]["values"]
    assert estimate[0]["value"] == 1.7e9 + 0.123, "no digit is lost"
    assert estimate[0]["errors"] == [
        {"label": "events", "symerror": pytest.approx(0.16)},
        {"label": "priors", "symerror": pytest.approx(0.12)},
    ]
    covariance = [one["value"] for one in tables["covariance.yaml"]["dependent_variables"][0]["values"]]
    assert covariance == [0.04, 0.01, 0.01, 0.09]
    assert "Verdict: NOT" in described[1]["description"]
    assert described[0]["comment"] == f"Result of {run.attrs['problem']}, 8 chains."
    with pytest.raises(FileExistsError, match="exists already and is not overwritten"):
        to_hepdata(run, tmp_path / "out")
    with pytest.warns(UserWarning):
        to_hepdata(make_run(make_theta(), tmp_path / "b.zarr"), tmp_path / "without a fit")
    assert not (tmp_path / "without a fit" / "covariance.yaml").exists()


def test_tables_of_a_damaged_run_are_refused(folder, tmp_path):
    """Damaged chains are not mistaken for chains that have not been written yet."""
    for chunk in (folder / "ring.zarr" / "posterior" / "theta1" / "c").rglob("*"):
        if chunk.is_file():
            chunk.write_bytes(b"damaged")
    with pytest.raises(ValueError, match="is damaged: posterior/theta1 cannot be read"):
        export.to_csv(open_run(folder / "ring.zarr"), tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_a_timeline_holds_all_time_and_all_waiting(folder, tmp_path):
    run = open_run(folder / "under way.zarr")
    history = run["history"].isel(rank=1).to_dataset().dropna("step", subset=["elapsed_s"])
    for n_rows, n_slices in ((1000, 30), (7, 6)):
        events = json.loads(export.to_trace(run, tmp_path / f"{n_rows}.json", n_rows).read_text())["traceEvents"]
        slices = [event for event in events if event["ph"] == "X" and event["pid"] == 1]
        steps = [event for event in slices if event["name"].startswith("steps")]
        assert len(steps) == n_slices
        assert sum(event["dur"] for event in steps) == pytest.approx(1e6 * history["elapsed_s"].values[-1])
        waits = sum(event["dur"] for event in slices if event["name"] == "waiting (total)")
        assert waits == pytest.approx(1e6 * history["waited_s"].values.sum())
        assert steps[-1]["name"].endswith("to 300")
    with pytest.raises(FileExistsError, match="exists already"):
        export.to_trace(run, tmp_path / "7.json")


@pytest.mark.parametrize("n_rows", [1000, 7])
def test_a_timeline_keeps_the_rules_of_its_format(folder, tmp_path, n_rows):
    """The format is Chrome's trace event format, as Perfetto reads it: JSON object format, phases M, X and C."""
    path = export.to_trace(open_run(folder / "under way.zarr"), tmp_path / "a.json", n_rows)
    trace = json.loads(path.read_text(), parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert trace.keys() == {"traceEvents", "displayTimeUnit"} and trace["displayTimeUnit"] in ("ms", "ns")
    needed = {"M": {"pid", "args"}, "X": {"pid", "tid", "ts", "dur"}, "C": {"pid", "ts", "args"}}
    for event in trace["traceEvents"]:
        assert isinstance(event["name"], str) and needed[event["ph"]] <= event.keys()
        assert all(isinstance(event[name], int) and event[name] >= 0 for name in event.keys() - {"name", "ph", "args"})
        if event["ph"] == "M":
            assert event["name"] == "process_name" and isinstance(event["args"]["name"], str)
        if event["ph"] == "C":
            assert event["args"] and all(isinstance(number, int | float) for number in event["args"].values())
    named = [event["pid"] for event in trace["traceEvents"] if event["ph"] == "M"]
    assert len(named) == len(set(named)) and {event["pid"] for event in trace["traceEvents"]} == set(named)
    for pid in named:
        slices = [event for event in trace["traceEvents"] if event["ph"] == "X" and event["pid"] == pid]
        spans = [(one["ts"], one["ts"] + one["dur"]) for one in slices]
        # Slices of a thread are nested or disjoint: none begins inside another slice and ends after it.
        assert len(spans) > 10 and not any(a < c < b < d for a, b in spans for c, d in spans)


class Page(HTMLParser):
    """The content that a browser would find: texts, embedded images, and anything loaded from elsewhere."""

    def __init__(self, text):
        super().__init__()
        self.words, self.images, self.links = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag == "img":
            self.images.append(base64.b64decode(attrs["src"].removeprefix("data:image/png;base64,")))
        self.links += [attrs[name] for name in ("href", "src") if name in attrs and tag != "img"]

    def handle_data(self, data):
        self.words.append(data)


def test_the_page_holds_everything(folder):
    run = open_run(folder / "ring.zarr")
    found = Page(html_report(run))
    text = " ".join(found.words)
    for words in (
        "Ring()",
        "theta0",
        "RMS distance to the maximum-likelihood fit",
        '"seed": 1',
        "git revision",
        "Observed and generated events",
    ):
        assert words in text
    assert len(found.images) >= 7 and all(image.startswith(b"\x89PNG") for image in found.images)
    assert not found.links
    assert plt.get_fignums() == [], "no figure is left open"


def test_the_page_of_an_unfinished_run_says_what_is_missing(folder):
    text = html_report(open_run(folder / "under way.zarr"))
    assert "step 300 of 1000, unfinished" in text and "<th>theta0 [days]</th>" in text
    assert "The chains are the generators at step 300 of 1000, and may still move." in text
    assert len(Page(text).images) >= 4


def test_the_page_of_a_run_that_has_not_begun_has_no_estimate_and_no_command():
    text = html_report(make_run(make_theta(), n_steps=0, reference=None))
    assert "There is no estimate yet" in text and "convergence(run)" not in text


def test_each_reason_on_the_page_has_the_colour_of_its_weight():
    text = html_report(make_run(make_theta(), learned=LEARNED, findings=["There is another answer."]))
    assert "<p class='verdict not-reliable'>NOT RELIABLE (several answers)" in text
    assert "<p class='verdict not-tested'>NOT TESTED" in html_report(make_run(make_theta()))


def test_the_page_folds_what_is_not_of_interest(tmp_path):
    shown = {"interest": ["theta1"]}
    run = make_run(make_theta(), tmp_path / "a.zarr", shown=shown, learned=LEARNED)
    first, folded, rest = html_report(run).partition("<details><summary>1 other parameter</summary>")
    assert folded and "<th>theta1</th>" in first and "<th>theta0 [days]</th>" in rest and "@media print" in first
    card = run.sagips._repr_html_()
    assert "finished" in card and "theta1" in card and "step 1000 of 1000" in card
    assert "<pre>run = a" in open_runs([tmp_path / "a.zarr"]).sagips._repr_html_()


def test_a_table_for_a_paper():
    run = make_run(make_theta(), shown={"labels": {"theta0": r"$\theta_{13}$"}}, learned=LEARNED)
    lines = analysis.summary(run).latex().splitlines()
    assert lines[0] == r"\begin{tabular}{lrrr}" and lines[2] == r"parameter & estimate & chains & likelihood fit \\"
    assert lines[4].startswith(r"$\theta_{13}$ [days] & $") and lines[5].startswith("theta1 & $")


def test_the_spec_on_the_page_deletes_nothing(tmp_path):
    spec = {"overwrite": True, "problem": {"type": "__main__:Mine"}}
    text = html_report(make_run(make_theta(), tmp_path / "a.zarr", n_replicas=4, spec=spec))
    assert "overwrite" not in text
    assert "mpiexec -n 4 python -m mpi4py -m sagips_kit run spec.json" in text and "was defined in a notebook" in text


def test_the_page_escapes_what_users_write(tmp_path):
    run = make_run(make_theta(), tmp_path / "a.zarr", spec={"events": "<script>alert(1)</script>"})
    assert "<script" not in html_report(run) and "&lt;script&gt;" in html_report(run)


def test_rows_are_what_ranks_wrote(folder):
    """A run that is opened together with others is read lazily, and its invalid rows are hidden."""
    RunWriter(folder / "under way.zarr", 0).write_rows(30, {"waited_s": rows_of(0, 0, 5)[0, :, 0]})
    runs = open_runs(folder)
    assert runs["under way"]["history"]["waited_s"].sel(rank=0)[30:].isnull().all()
    assert re.fullmatch(r"(unfinished|finished)", analysis.state(runs["ring"]))
