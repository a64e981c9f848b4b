"""Public docstrings: complete for `help()` alone, and with an example that runs."""

import dataclasses
import doctest
import inspect
import pydoc
import re
import shutil

import matplotlib.pyplot as plt
import numpy as np
import pytest
from numpydoc.validate import validate

import sagips_kit
from sagips_kit import exchange
from sagips_kit.check.report import Report
from sagips_kit.cluster.handle import RankError, RunHandle
from sagips_kit.cluster.jobs import PBS, Slurm
from sagips_kit.cluster.session import Session
from sagips_kit.report import export
from sagips_kit.report.accessor import ChainsAccessor, RunAccessor
from sagips_kit.report.dashboard import Dashboard
from sagips_kit.report.hepdata import to_hepdata
from sagips_kit.report.html import html_report
from sagips_kit.report.line import ProgressLine
from sagips_kit.running.tune import Tuning
from sagips_kit.statistics.fit import ScoreFit
from sagips_kit.statistics.information import Information
from sagips_kit.statistics.likelihood import LikelihoodFit
from sagips_kit.statistics.shifts import Shifts
from sagips_kit.store.contributions import Contribution
from sagips_kit.store.writer import RunWriter
from sagips_kit.training.records import Record

# Classes that users receive without importing their names
IN_HAND = [exchange.Channel, exchange.Exchange, exchange.Mixed, Dashboard, Information, LikelihoodFit, PBS]
IN_HAND += [RankError, Record, Report, RunAccessor, ChainsAccessor, RunHandle, ScoreFit, Session, Slurm, Tuning]
IN_HAND += [export.to_arviz, export.to_csv, export.to_netcdf, export.to_trace, to_hepdata, html_report, ProgressLine]
IN_HAND += [Contribution, Shifts]
# An unknown section, sections out of order, no docstring, parameters and results that are not described, no summary
CHECKS = {"GL06", "GL07", "GL08", "PR01", "PR02", "PR03", "PR04", "PR07", "RT01", "RT03", "SS01", "SS03", "YD01"}
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def public():
    """Public functions and classes by name."""
    found = {}
    for name in sagips_kit.__all__:
        thing = getattr(sagips_kit, name)
        if inspect.ismodule(thing):
            things = {f"{name}.{one}": getattr(thing, one) for one in thing.__all__}
            found |= {key: one for key, one in things.items() if not inspect.ismodule(one)}
        elif name != "__version__":
            found[name] = thing
    return found | {thing.__qualname__: thing for thing in IN_HAND}


PUBLIC = public()
EXAMPLES = {name: doctest.DocTestFinder(recurse=False).find(thing, name, globs={}) for name, thing in PUBLIC.items()}
WITH_ENGINES = {name for name, found in EXAMPLES.items() if any("connect(" in test.docstring for test in found)}


def test_help_shows_what_users_need_of_a_value():
    values = {name: thing for name, thing in PUBLIC.items() if hasattr(thing, "_positional")}
    assert {"Ring", "Settings", "RunSpec", "Proxy", "Observed", "PBS"} < set(values)
    for name, thing in values.items():
        text = pydoc.render_doc(thing, renderer=pydoc.plaintext)
        assert not re.search(r"^ \|  _|pydantic|dataclass_", text, flags=re.MULTILINE), name
        assert all(field.name in text for field in dataclasses.fields(thing))


def test_signatures_name_array_types_in_short():
    functions = {path: member for thing in PUBLIC.values() for path, member in functions_of(thing)}
    assert len(functions) > 100
    long = {
        path: text for path, member in functions.items() if "_SupportsArray" in (text := str(inspect.signature(member)))
    }
    assert not long


def functions_of(thing):
    """A function, or a class with its public methods, by paths."""
    yield path_of(thing), thing
    for path, is_property in methods_of(thing) if inspect.isclass(thing) else ():
        if not is_property:
            yield path, getattr(thing, path.rpartition(".")[2])


def path_of(thing):
    return f"{thing.__module__}.{thing.__qualname__}"


def methods_of(kind):
    """Paths of public methods and properties that the kit defines, except those that only inherit their docstring."""
    for name, member in inspect.getmembers(kind):
        function = inspect.unwrap(getattr(member, "fget", None) or getattr(member, "func", None) or member)
        is_ours = (getattr(function, "__module__", None) or "").startswith("sagips_kit")
        if member.__doc__ is None and inspect.getdoc(member):
            continue
        if not name.startswith("_") and is_ours and (inspect.isroutine(member) or isinstance(member, property)):
            yield f"{path_of(kind)}.{name}", isinstance(member, property)


def findings(path, is_property=False):
    skipped = {"PR01", "RT01", "RT03"} if is_property else set()
    return [f"{path}: {code} {text}" for code, text in validate(path)["errors"] if code in CHECKS - skipped]


@pytest.mark.parametrize("name", PUBLIC)
def test_docstrings_are_complete(name):
    thing = PUBLIC[name]
    found = findings(path_of(thing))
    for path, is_property in methods_of(thing) if inspect.isclass(thing) else ():
        found += findings(path, is_property)
    assert not found
    assert any(test.examples for test in EXAMPLES[name]), "there is no example"


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    """A folder with events and a small finished run, as the examples expect."""
    folder = tmp_path_factory.mktemp("examples")
    events = sagips_kit.Proxy().observed(2000, np.random.default_rng(1))
    np.save(folder / "events.npy", events)
    settings = sagips_kit.Settings(n_members=2, n_events=256)
    spec = sagips_kit.RunSpec(
        problem=sagips_kit.Proxy(),
        store=str(folder / "runs/proxy.zarr"),
        settings=settings,
        n_steps=200,
        n_observed=2000,
        fit=False,
    )
    sagips_kit.run(spec)
    mle = sagips_kit.open_run(spec.store)["reference"].to_dataset()
    with RunWriter(spec.store, 0) as writer:  # as a real fit would, which takes longer than all examples
        values = {"fit": mle["mle"], "fit_deviation": mle["deviation"], "fit_covariance": mle["covariance"]}
        parts = zip(("events", "constraints", "simulation"), (0.8, 0.6, 0.0), strict=True)
        contributions = [Contribution(name, name, size * mle["deviation"].values).to_dict() for name, size in parts]
        words = {"state": "made", "findings": [], "information": {}, "contributions": contributions}
        writer.write_fit(words, fit_goodness=7, fit_n_freedom=9, **values)
    return folder


def names(with_engines):
    return [name for name in PUBLIC if (name in WITH_ENGINES) == with_engines]


def run_examples(name, tmp_path, monkeypatch, folder):
    here = shutil.copytree(folder, tmp_path / "here")
    monkeypatch.chdir(here)
    for test in EXAMPLES[name]:
        outcome = doctest.DocTestRunner(optionflags=FLAGS).run(test, out=(said := []).append)
        assert outcome.failed == 0, "".join(said)
    plt.close("all")


@pytest.mark.parametrize("name", names(with_engines=False))
def test_examples_run(name, finished_run, tmp_path, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))  # where some of them install a profile
    run_examples(name, tmp_path, monkeypatch, finished_run)


@pytest.mark.mpi
@pytest.mark.parametrize("name", names(with_engines=True))
def test_examples_run_on_engines(name, finished_run, two_engines, tmp_path, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(two_engines))
    run_examples(name, tmp_path, monkeypatch, finished_run)
