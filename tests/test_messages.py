"""Messages about misspelt names, swapped arguments, paths that are no run, and output that nobody reads."""

import contextlib
import doctest
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from gaussian import QUICK, Gaussian
from test_cli import SMALL

import sagips_kit
from sagips_kit import (
    Proxy,
    RunSpec,
    Settings,
    Trainer,
    _text,
    analysis,
    check_problem,
    connect,
    fisher_information,
    fit,
    fit_likelihood,
    floor_step,
    install_profile,
    list_runs,
    open_run,
    plot,
    prepare,
    read_status,
    run,
    show_profile,
)
from sagips_kit.cli import main

NOTEBOOK = Path(__file__).parents[1] / "notebooks/04_on_a_cluster.ipynb"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with two runs that have not been started, one of them in a subfolder."""
    folder = tmp_path_factory.mktemp("runs")
    for name in ("a.zarr", "late/b.zarr"):
        spec = RunSpec(problem=Gaussian(n_observed=200), store=str(folder / name), settings=SMALL, n_steps=20)
        prepare(spec, n_ranks=1)
    return folder


def test_examples_of_the_words_of_messages():
    assert doctest.testmod(_text).failed == 0


@pytest.mark.parametrize(
    ("given", "names", "meant"),
    [
        ("n_setps", ["n_draws", "n_steps"], "Did you mean n_steps? "),
        ("RING", ["Ring", "Chain"], "Did you mean Ring? "),
        ("observed", ["observe", "observed_and_generated"], "Did you mean observed_and_generated? "),
        ("rate", ["a_rate", "b_rate", "rate_c"], "Did you mean rate_c? "),
        ("x_rate", ["rate_final", "first_rate", "final_rate"], "Did you mean first_rate, final_rate or rate_final? "),
        ("zebra", ["Ring", "Chain"], ""),
        (3, ["Ring"], ""),
        ("Ring", [], ""),
    ],
)
def test_guesses(given, names, meant):
    assert _text.did_you_mean(given, names) == meant


NAMES = {
    "the package": (lambda: sagips_kit.Rinq, AttributeError, "sagips_kit has no 'Rinq'. Did you mean Ring? Allowed: A"),
    "pictures": (lambda: plot.estimates, AttributeError, "sagips_kit.plot has no 'estimates'. Did you mean estimate?"),
    "analysis": (
        lambda: analysis.converge,
        AttributeError,
        "analysis has no 'converge'. Did you mean convergence? All",
    ),
    "a profile": (lambda: connect("polarsi"), ValueError, "Did you mean polaris? Type connect('polaris')."),
    "a profile to install": (lambda: install_profile("polarsi"), ValueError, "Did you mean polaris? Allowed: "),
    "an option": (lambda: show_profile("slurm", waltime="1"), ValueError, "Did you mean walltime? Allowed: mpiexec, "),
    "a setting": (
        lambda: Settings(learning_rate=1e-3),
        ValueError,
        "Did you mean generator_rate, discriminator_rate, settled_rate or final_rate? Allowed: n_members",
    ),
    "a field": (lambda: RunSpec(problem=Proxy(), store="a", step=9), ValueError, "Did you mean n_steps? Allowed: prob"),
    "a setting of a run": (
        lambda: RunSpec(problem=Proxy(), store="a", n_members=8),
        ValueError,
        "RunSpec: unknown field 'n_members'. It belongs to settings: RunSpec(..., settings=Settings(n_members=...)).",
    ),
    "an argument": (lambda: run(None, resum=True), TypeError, "run has no argument 'resum'. Did you mean resume? Allo"),
    "a field of a run": (lambda: run(problem=Proxy()), TypeError, "a field of RunSpec. Type run(RunSpec(..., problem="),
    "a file of a problem": (
        lambda: RunSpec.from_dict({"problem": {"type": "proxi"}, "store": "a"}),
        ValueError,
        "Unknown problem 'proxi'. Did you mean Proxy? Allowed: DayaBay",
    ),
}


@pytest.mark.parametrize("name", NAMES)
def test_misspelt_names_are_recognised(name, tmp_path, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    call, kind, text = NAMES[name]
    with pytest.raises(kind, match=re.escape(text)):
        call()


PROBLEM, THETA = Gaussian(), np.array([0.5, 1.0])
EVENTS = PROBLEM.observed(200, np.random.default_rng(0))


@pytest.mark.parametrize("function", [fit, fit_likelihood, fisher_information, floor_step, check_problem])
def test_swapped_arguments_are_recognised(function):
    right = (PROBLEM, THETA, EVENTS) if function in (fisher_information, floor_step) else (PROBLEM, EVENTS)
    names = ", ".join(["problem", "theta", "events"] if len(right) == 3 else ["problem", "events"])
    wrong = [(EVENTS, THETA, PROBLEM), (THETA, PROBLEM, EVENTS), (PROBLEM, EVENTS, THETA)]
    for arguments in wrong if len(right) == 3 else [(EVENTS, PROBLEM)]:
        with pytest.raises(TypeError, match=re.escape(f"Type {function.__name__}({names}).")):
            function(*arguments)
    for given in (THETA, EVENTS.T):  # events alone, of a wrong shape
        if function is not check_problem:
            with pytest.raises(ValueError, match="Observed events of shape .* needs numbers of shape"):
                function(*right[:-1], given)
    if len(right) == 3:
        with pytest.raises(ValueError, match=r"theta has the shape \(1,\): should be .* of Gaussian: mu, sigma\."):
            function(PROBLEM, THETA[:1], EVENTS)


def test_arguments_of_another_kind_are_refused_in_words():
    call = re.escape("Type Trainer(problem, settings, events, n_steps=...).")
    for arguments in ((PROBLEM, EVENTS, QUICK), (EVENTS, QUICK, PROBLEM)):
        with pytest.raises(TypeError, match=call):
            Trainer(*arguments, n_steps=10)
    with pytest.raises(TypeError, match=r"world = True: should be a World, or None.* run\(spec, resume=True\)"):
        run(RunSpec(problem=PROBLEM, store="a.zarr"), True)
    with pytest.raises(TypeError, match=r"profile = 4: should be the name of a profile. Type connect\('local', n=4\)"):
        connect(4)
    with pytest.raises(TypeError, match="RunSpec is not a path, a URL or a zarr Store. Type spec.store."):
        open_run(RunSpec(problem=PROBLEM, store="a.zarr"))
    with pytest.raises(TypeError, match="ndarray is not a Problem. Type check_problem"):
        check_problem(EVENTS)


@pytest.mark.parametrize("read", [open_run, read_status])
def test_a_folder_of_runs_names_them(read, runs, monkeypatch):
    monkeypatch.chdir(runs.parent)
    found = "exists but is not a run of sagips_kit. It is a folder with 2 runs: a.zarr, late/b.zarr."
    lines = f"Type open_run('{runs.name}/a.zarr'), or open_runs('{runs.name}') for all of them."
    with pytest.raises(ValueError, match=re.escape(f"{found} {lines}")):
        read(runs.name)
    with pytest.raises(ValueError, match="It is a folder with 1 run: b.zarr. "):
        read(runs / "late")
    assert len(list_runs(runs)) == 2


PARTS = {"posterior": "['posterior']", "posterior/mu": "", "zarr.json": "", "history/": "['history']"}


@pytest.mark.parametrize(("part", "group"), PARTS.items())
def test_a_part_of_a_run_names_the_run(part, group, runs):
    store = str(runs / "a.zarr")
    line = f"It is a part of the run `{store}`. Type open_run({store!r}){group}."
    with pytest.raises(ValueError, match=re.escape(line)):
        open_run(f"{store}/{part}")


def test_a_part_of_a_run_at_a_url_names_the_run(runs):
    pytest.importorskip("fsspec").filesystem("memory").put(str(runs / "a.zarr"), "/a.zarr", recursive=True)
    with pytest.raises(
        ValueError, match=r"a part of the run `memory://a.zarr`. Type open_run\('memory://a.zarr'\)\['scores'\]"
    ):
        open_run("memory://a.zarr/scores")


def test_a_folder_without_runs_and_a_misspelt_run(runs, tmp_path):
    with pytest.raises(ValueError, match="exists but is not a run of sagips_kit.$"):
        open_run(tmp_path)
    with pytest.raises(
        FileNotFoundError, match="There is no run at `.*aa.zarr`. Did you mean a.zarr\\? That folder holds"
    ):
        open_run(runs / "aa.zarr")


def closed_output(monkeypatch, buffered):
    """Make standard output a pipe that nobody reads any more."""
    reader, writer = os.pipe()
    os.close(reader)
    output = os.fdopen(writer, "w") if buffered else _Unbuffered(writer)
    monkeypatch.setattr(sys, "stdout", output)
    return output


class _Unbuffered:
    """Text output that is written at once, as by `python -u`."""

    def __init__(self, writer):
        self._writer = writer

    def write(self, text):
        return os.write(self._writer, text.encode())

    def flush(self):
        pass

    def fileno(self):
        return self._writer

    def close(self):
        os.close(self._writer)


COMMANDS = ["spec Proxy --store x.zarr", "check spec.json", "run spec.json --store x.zarr", "list ."]
COMMANDS += ["describe a.zarr", "report a.zarr", "export a.zarr --to csv", "profiles list", "profiles install local"]
COMMANDS += ["profiles show local", "tune spec.json --trial-s 0.02"]
COMMANDS += [f"batch --profile slurm {shlex.quote(str(NOTEBOOK))} --walltime 00:10:00"]
OUTPUTS = [pytest.param("list .", False, id="unbuffered")]
OUTPUTS += [pytest.param(command, True, id=" ".join(command.split()[:2])) for command in COMMANDS]


@pytest.mark.parametrize(("command", "buffered"), OUTPUTS)
def test_a_command_whose_output_is_closed_ends_quietly(command, buffered, runs, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    shutil.copytree(runs / "a.zarr", "a.zarr")
    Path("spec.json").write_text(RunSpec.from_run(open_run("a.zarr")).to_json())
    with contextlib.closing(closed_output(monkeypatch, buffered)):
        assert main(shlex.split(command)) == 141
    assert capfd.readouterr().err == ""


def test_output_that_is_closed_early_leaves_no_message():
    reader, writer = os.pipe()
    os.close(reader)
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-m", "sagips_kit", "spec", "Proxy", "--store", "a.zarr"]
    ended = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, env=environment)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (141, "")
