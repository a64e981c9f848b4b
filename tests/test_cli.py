"""The command `sagips`: what it prints, its exit status, and its error messages."""

import argparse
import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from gaussian import QUICK, Gaussian
from mpi_launcher import environment, mpiexec

from sagips_kit import RunSpec, cli, open_run, prepare, read_status, request_stop, run_rank
from sagips_kit._value import value
from sagips_kit.cli import main
from sagips_kit.ranks.world import World
from sagips_kit.statistics.fit import ScoreFit
from sagips_kit.store.findings import Finding
from sagips_kit.store.group import open_group
from sagips_kit.store.writer import RunWriter

SMALL = dataclasses.replace(QUICK, n_events=64, n_draws=3, n_predictive=4, bootstrap=True, rows_per_block=1)


@value
class Misnamed(Gaussian):
    units = {"X": "mm"}


@pytest.fixture
def spec(tmp_path):
    return RunSpec(
        problem=Gaussian(n_observed=200), store=str(tmp_path / "a.zarr"), settings=SMALL, n_steps=20, fit=False
    )


@pytest.fixture
def path(spec, tmp_path):
    path = tmp_path / "spec.json"
    path.write_text(spec.to_json())
    return path


def sagips(capsys, *arguments):
    """Exit status, stdout and stderr of the command."""
    status = main([str(argument) for argument in arguments])
    return status, *capsys.readouterr()


def test_run_trains_and_prints_the_estimates(capsys, path, spec):
    status, out, err = sagips(capsys, "run", path)
    assert (status, err) == (0, "")
    first, *table = out.splitlines()
    assert first.startswith("20 steps on 1 rank in ") and first.endswith(spec.store)
    assert [line.split()[0] for line in table[-2:]] == ["mu", "sigma"]
    assert read_status(spec.store).is_finished


def test_a_problem_may_be_in_the_current_folder(capsys, tmp_path, monkeypatch):
    (tmp_path / "decays.py").write_text("from gaussian import Gaussian\n\n\nclass Mine(Gaussian):\n    pass\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    status, out, err = sagips(capsys, "spec", "decays:Mine", "--store", "a.zarr")
    assert (status, err) == (0, "") and '"decays:Mine"' in out


def test_check_reports_what_to_fix(capsys, path, spec):
    status, out, err = sagips(capsys, "check", path)
    assert (status, err) == (0, "") and out.startswith("Gaussian: keeps its contract\n  ok ")
    faulty = dataclasses.replace(spec, problem=Misnamed(n_observed=200))
    path.write_text(faulty.to_json())
    status, out, _ = sagips(capsys, "check", path)
    assert status == 1 and out.startswith("Misnamed: 1 to fix\n  FIX     names        units has 'X'")


@pytest.mark.parametrize("findings", [(), (Finding("several answers", "There is another answer."),)])
def test_fit_prints_the_estimates_and_what_speaks_against_them(capsys, path, monkeypatch, findings):
    def made(problem, events, *, start=None, fixed=None, seed=0):
        covariance = np.diag([0.04, 0.01])
        return ScoreFit(problem.parameters, np.array([0.5, 1.25]), covariance, {"functions": 1.0}, np.nan, 0, findings)

    monkeypatch.setattr("sagips_kit.statistics.fit.fit", made)
    status, out, err = sagips(capsys, "fit", path)
    assert status == len(findings) and out.startswith("mu     0.50 +- 0.20\nsigma  1.25 +- 0.10\n")
    assert ("NOT RELIABLE: There is another answer." in out) == bool(findings)
    first, last = err.splitlines()
    assert (
        first.startswith("200 events (x) from Gaussian(") and last == "fitting 2 parameters by the learned score: 0 s"
    )
    status, out, _ = sagips(capsys, "fit", path, "--json")
    assert status == len(findings)
    values = json.loads(out)
    assert values["theta"] == [0.5, 1.25] and values["deviation"] == [0.2, 0.1] and values["goodness"] is None
    assert values["parameters"] == ["mu", "sigma"] and values["findings"] == [one.to_dict() for one in findings]
    assert values["covariance"] == [[0.04, 0], [0, 0.01]] and values["information"] == {"functions": 1.0}


def test_fit_keeps_what_is_fixed_and_begins_where_it_is_asked_to(capsys, path):
    status, out, _ = sagips(capsys, "fit", path, "--fixed", "mu=0.5", "--start", "sigma=1")
    assert status == 0 and out.startswith("sigma  ") and "note: Fixed: mu = 0.5." in out
    status, _, err = sagips(capsys, "fit", path, "--fixed", "mean=0.5")
    assert status == 2 and "fixed has 'mean', which is no parameter of Gaussian" in err
    with pytest.raises(SystemExit):
        sagips(capsys, "fit", path, "--fixed", "mu")
    assert "'mu' should be NAME=VALUE, such as theta0=1.5" in capsys.readouterr().err


def test_fit_tests_its_intervals_by_toys(capsys, path):
    status, out, _ = sagips(capsys, "fit", path, "--toys", "20")
    assert status == 0 and "20 simulated data sets; intervals of 1 and 2 deviations with the truth" in out
    status, out, _ = sagips(capsys, "fit", path, "--toys", "20", "--json")
    values = json.loads(out)
    assert values["toys"]["n_toys"] == 20 and len(values["toys"]["coverage_1"]) == 2
    assert [one["name"] for one in values["contributions"]] == ["events", "simulation"]
    with pytest.raises(SystemExit):
        sagips(capsys, "fit", path, "--toys", "1")
    assert "'1' should be a number of data sets, 2 or more" in capsys.readouterr().err


def test_fit_that_cannot_be_made_ends_with_2(capsys, path, spec):
    path.write_text(dataclasses.replace(spec, n_observed=99).to_json())
    status, out, err = sagips(capsys, "fit", path)
    assert (status, out) == (2, "") and "sagips: 99 events are too few" in err


def test_describe_prints_each_finding_once(capsys, path, spec):
    prepare(spec, n_ranks=1)
    with RunWriter(spec.store, 0) as writer:
        finding = {"kind": "several answers", "text": "There is another answer."}
        writer.write_fit({"state": "made", "findings": [finding], "information": {}})
    run_rank(spec, World.alone("cpu"))
    _, out, _ = sagips(capsys, "describe", spec.store)
    sentence = "There is another answer."
    assert out.startswith(f"verdict   NOT RELIABLE (several answers): {sentence}\n") and out.count(sentence) == 1


def test_run_refuses_a_store_in_use_and_takes_another(capsys, path, spec, tmp_path):
    prepare(spec, n_ranks=1)
    status, out, err = sagips(capsys, "run", path)
    assert (status, out) == (2, "")
    assert err.startswith("sagips: `") and "already holds an unfinished run" in err and err.count("\n") == 1
    assert sagips(capsys, "run", path, "--store", tmp_path / "b.zarr")[0] == 0
    assert read_status(spec.store).step == 0 and read_status(tmp_path / "b.zarr").is_finished
    assert sagips(capsys, "run", path, "--overwrite")[0] == 0
    assert read_status(spec.store).is_finished


def test_a_stopped_run_ends_well(capsys, path, spec):
    prepare(spec, n_ranks=1)
    request_stop(spec.store, 10)
    run_rank(spec, World.alone("cpu"))
    status, out, err = sagips(capsys, "describe", spec.store)
    assert (status, err) == (0, "") and "step 10 of 20" in out


def test_describe_prints_run_progress_and_estimates(capsys, path, spec):
    prepare(spec, n_ranks=1)
    status, out, _ = sagips(capsys, "describe", spec.store)
    assert status == 0 and "step 0 of 20" in out and "estimate" not in out
    run_rank(spec, World.alone("cpu"))
    status, out, err = sagips(capsys, "describe", spec.store)
    assert (status, err) == (0, "")
    for text in ("Gaussian", "mu", "sigma", "200 observed", "Independent", "step 20 of 20", "estimate", "mle"):
        assert text in out


def test_a_run_that_would_be_lost_with_the_process_is_refused(capsys, path):
    status, _, err = sagips(capsys, "run", path, "--store", "memory://a.zarr")
    assert status == 2 and "store = 'memory://a.zarr' is in the memory of this process" in err


def test_what_a_store_says_cannot_write_to_the_terminal(capsys, spec):
    """Neither escape sequences nor lines that look like ours."""
    prepare(spec, n_ranks=1)
    root = open_group(spec.store, "r+")
    root.attrs.update({"mode": "\x1b]0;owned\x07\nverdict   USABLE", "hostname": "\u202ehost"})
    for command in ("describe", "list", "verify"):
        _, out, err = sagips(capsys, command, spec.store if command != "list" else Path(spec.store).parent)
        assert not any(sign in out + err for sign in ("\x1b", "\x07", "\u202e", "\nverdict   USABLE")), command
    root.attrs["parameters"] = ["\x1b[31m", "sigma"]
    status, out, err = sagips(capsys, "describe", spec.store)
    assert status == 2 and "\x1b" not in out + err and "cannot be the name of a variable" in err


def test_describe_without_a_run(capsys, tmp_path):
    status, out, err = sagips(capsys, "describe", tmp_path / "a.zarr")
    assert (status, out) == (2, "") and err.startswith("sagips: There is no run at `") and err.count("\n") == 1


def test_list_report_and_export_read_what_run_wrote(capsys, path, spec, tmp_path):
    assert sagips(capsys, "list", tmp_path) == (0, f"There is no run in {tmp_path}.\n", "")
    assert sagips(capsys, "run", path)[0] == 0
    status, out, err = sagips(capsys, "list", tmp_path)
    assert (status, err) == (0, "")
    assert out.splitlines()[-1].split()[:3] == ["a.zarr", "Gaussian", "Independent()"] and "finished" in out
    (tmp_path / "none.zarr").mkdir()
    (tmp_path / "none.zarr" / "zarr.json").write_text("{}")
    _, out, _ = sagips(capsys, "list", tmp_path)
    assert "none.zarr  " in out and "cannot be opened" in out and "\nnone.zarr: `" in out
    whole = next(line for line in out.splitlines() if line.startswith("a.zarr"))
    assert "1.00" not in whole and " 20 " in whole  # counts stay integers even if another run has none
    assert sagips(capsys, "report", spec.store) == (0, f"{tmp_path}/a.html\n", "")
    assert "Independent()" in (tmp_path / "a.html").read_text()
    assert sagips(capsys, "export", spec.store, "--to", "netcdf") == (0, f"{tmp_path}/a.nc\n", "")
    with xr.open_datatree(tmp_path / "a.nc", engine="h5netcdf") as run:
        assert np.isfinite(run["posterior/mu"]).all()
    status, out, _ = sagips(capsys, "export", spec.store, "--to", "csv", "--output", tmp_path / "tables")
    assert status == 0 and out.splitlines()[-1] == f"{tmp_path}/tables/posterior.csv"
    assert sagips(capsys, "export", spec.store, "--to", "trace") == (0, f"{tmp_path}/a.trace.json\n", "")
    status, out, err = sagips(capsys, "export", spec.store, "--to", "netcdf")
    assert (status, out) == (2, "") and "a.nc` exists already" in err


@pytest.mark.parametrize("problem", ["Proxy", "DayaBay", "gaussian:Gaussian"])
@pytest.mark.parametrize("exchange", [(), ("--exchange", "AllReduce")])
def test_spec_prints_json_that_run_reads(capsys, tmp_path, problem, exchange):
    status, out, err = sagips(capsys, "spec", problem, "--store", "b.zarr", *exchange)
    assert (status, err) == (0, "")
    (tmp_path / "b.json").write_text(out)
    spec = RunSpec.from_file(tmp_path / "b.json")
    assert spec.store == "b.zarr" and type(spec.problem).__name__ == problem.split(":")[-1]
    assert type(spec.exchange).__name__ == (exchange[1] if exchange else "Ring")
    assert json.loads(out)["settings"]["n_members"] == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "missing.json"), "There is no spec `missing.json`. Write one: sagips spec Proxy"),
        (("run", "."), "Is a directory"),
        (
            ("spec", "Proxi", "--store", "a"),
            "Unknown problem 'Proxi'. Did you mean Proxy? Allowed: DayaBay, Image, Linear",
        ),
        (("spec", "Proxy", "--store", ""), "store = '': should have at least 1 character"),
        (("spec", "Proxy", "--store", "a", "--exchange", "Rings"), "Unknown exchange 'Rings'"),
    ],
)
def test_mistakes_are_reported_in_one_line(capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    status, out, err = sagips(capsys, *arguments)
    assert (status, out) == (2, "")
    assert err.startswith("sagips: ") and message in err and err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_mistakes_in_the_spec_leave_nothing_behind(capsys, path, spec, tmp_path):
    fields = spec.to_dict()
    fields["settings"]["n_member"] = 3
    path.write_text(json.dumps(fields))
    status, out, err = sagips(capsys, "run", path)
    assert (status, out) == (2, "") and "unknown field 'n_member'. Did you mean n_members?" in err
    assert list(tmp_path.iterdir()) == [path]


def all_parsers(parser):
    """A parser and the parsers of its sub-commands, by their names."""
    yield parser.prog, parser
    for action in parser._actions:
        for one in action.choices.values() if isinstance(action, argparse._SubParsersAction) else ():
            yield from all_parsers(one)


def test_every_command_and_argument_is_explained():
    parsers = dict(all_parsers(cli._parser()))
    commands = {name for name, parser in parsers.items() if parser.get_default("command")}
    assert commands <= {" ".join(row.split()) for row in re.findall(r"^ *(sagips (?:[a-z]+ )+)", cli.__doc__, re.M)}
    for name, parser in parsers.items():
        assert parser.description in parser.format_help().replace("\n", " "), name
        assert all(action.help for action in parser._actions if action.metavar not in ("COMMAND", "ACTION")), name


@pytest.mark.parametrize("arguments", [(), ("train",), ("run",), ("spec", "Proxy"), ("profiles", "list", "--no", "x")])
def test_wrong_arguments_print_the_usage(capsys, arguments):
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    assert caught.value.code == 2 and capsys.readouterr().err.startswith("usage: sagips")


def test_python_m_sagips_kit_is_the_command(path, spec, tmp_path):
    def call(*arguments):
        command = [sys.executable, "-m", "sagips_kit", "run", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment())

    done = call(path)
    assert done.returncode == 0 and done.stdout.startswith("20 steps on 1 rank")
    assert done.stderr == "sagips: the spec imports the module gaussian\n", "before its code is executed"
    assert np.isfinite(open_run(spec.store)["posterior"]["mu"]).all()
    done = call(tmp_path / "none.json")
    assert (done.returncode, done.stdout) == (2, "") and done.stderr.startswith("sagips: There is no spec")


@pytest.mark.mpi
def test_a_mistake_in_the_spec_is_reported_once_for_all_ranks(tmp_path):
    done = mpiexec(3, "-m", "sagips_kit", "run", "none.json", cwd=tmp_path)
    assert done.returncode != 0
    assert done.stdout.count("sagips: ") == 1 == done.stdout.count("There is no spec `none.json`")


def test_run_resumes_and_says_so(capsys, path, spec):
    prepare(spec, n_ranks=1)
    request_stop(spec.store, 10)
    run_rank(spec, World.alone("cpu"))
    status, out, err = sagips(capsys, "run", path, "--resume")
    assert (status, err) == (0, "")
    assert out.startswith("20 steps on 1 rank in ") and f" s, resumed at step 10: {spec.store}\n" in out
    assert "resumed   1 time, last from step 10 at 20" in sagips(capsys, "describe", spec.store)[1]
    status, out, err = sagips(capsys, "run", path, "--resume")
    assert (status, err) == (0, "") and f" s, was already finished: {spec.store}\n" in out and "sigma" in out


def test_run_that_is_stopped_says_how_to_continue(capsys, path, spec, monkeypatch):
    monkeypatch.setattr("sagips_kit.running.signals.Signals.ask_to_end", lambda self, takes_s: True)
    path.write_text(dataclasses.replace(spec, n_steps=100_000).to_json())
    status, out, err = sagips(capsys, "run", path)
    assert (status, err) == (0, "")
    assert out.splitlines()[1] == "Stopped before step 100000. Add --resume to the same command to continue."
