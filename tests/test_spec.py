"""The spec of a run: conversion to JSON and back, and the errors for mistakes."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from gaussian import Gaussian

from sagips_kit import AllReduce, DayaBay, Independent, Problem, Proxy, Ring, RunSpec, Settings, prepare
from sagips_kit.ranks.accelerators import memory_of
from sagips_kit.running.spec import require_spec
from sagips_kit.training.footprint import require_memory

SPEC = RunSpec(problem=Proxy(), store="runs/a.zarr")
WRONG = {
    "problem": [None, "Proxy", Proxy],
    "store": [None, "", 3],
    "settings": [None, {"n_members": 3}],
    "exchange": [None, "Ring", Ring, 5],
    "n_steps": [0, 1.5, "10", None, True],
    "seed": [-1, 0.5, "0", None],
    "events": [3, b"a.npy"],
    "n_observed": [0, 1.5, "10"],
    "reference": [None, 1, "yes"],
    "fit": [None, 1, "yes"],
    "start": ["middle", 3, None],
    "overwrite": [None, 1],
    "checkpoint_s": [None, -1.0, "300", float("inf")],
}


def refuse(message, given, kind=ValueError):
    """The one-line text with which `from_dict` refuses."""
    with pytest.raises(kind, match=message) as caught:
        RunSpec.from_dict(given)
    assert "\n" not in str(caught.value) and "ArgsKwargs" not in str(caught.value)


def changed(**changes):
    return SPEC.to_dict() | changes


class Plain(Problem):
    """A user's own problem that is not a dataclass."""

    parameters, lower, upper, observables, noise_dim = ("a",), (0.0,), (1.0,), ("x",), 1

    def simulate(self, theta, noise):
        return theta + noise

    def observed(self, n_events, rng):
        return rng.random((n_events or 100, 1))


@pytest.mark.parametrize("problem", [Proxy(), Proxy(n_observed=70), DayaBay(), DayaBay(period="all"), Gaussian()])
@pytest.mark.parametrize("exchange", [Independent(), AllReduce(), Ring()])
def test_json_round_trip_is_the_same_spec(problem, exchange):
    settings = Settings(n_members=3, generator_widths=(5, 6), discriminator_widths=(), loss="logistic")
    spec = RunSpec(
        problem=problem,
        store="a.zarr",
        settings=settings,
        exchange=exchange,
        n_steps=7,
        seed=3,
        events="b.npy",
        n_observed=50,
        reference=False,
        fit=False,
        overwrite=True,
    )
    assert RunSpec.from_dict(json.loads(spec.to_json())) == spec


def test_names_of_classes_in_json():
    assert SPEC.to_dict()["problem"] == {"type": "Proxy", "n_observed": 51_200, "truth": list(Proxy.truth)}
    own = dataclasses.replace(SPEC, problem=Gaussian(n_observed=9)).to_dict()["problem"]
    assert own == {"type": "gaussian:Gaussian", "n_observed": 9}


def test_a_users_class_need_not_be_a_dataclass():
    spec = RunSpec.from_dict(changed(problem={"type": "test_spec:Plain"}))
    assert type(spec.problem).__name__ == "Plain" and spec.to_dict()["problem"] == {"type": f"{__name__}:Plain"}


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"exchange": "ring"}, r"exchange = 'ring': should be an object, such as Ring\(\)"),
        ({"exchange": Ring}, r"exchange = .*: should be an object, such as Ring\(\)"),
        ({"problem": Proxy}, r"problem = .*: should be an object, such as Proxy\(\)"),
        ({"problem": "proxi"}, r"problem = 'proxi': should be an object, such as Proxy\(\)"),
        ({"events": 3}, "events = 3: should be the name of a file as a string, or Observed"),
    ],
)
def test_the_error_says_what_to_type_instead_of_a_class_or_a_name(changes, text):
    with pytest.raises(ValueError, match=text):
        dataclasses.replace(SPEC, **changes)


@pytest.mark.parametrize(
    ("given", "text"),
    [("a.json", r"'a.json' is not a RunSpec. Type RunSpec.from_file\('a.json'\)"), ({}, r"Type RunSpec.from_dict\(")],
)
def test_the_error_says_how_to_make_a_spec(given, text):
    with pytest.raises(TypeError, match=text):
        require_spec(given)


def test_file_round_trip(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(SPEC.to_json())
    assert RunSpec.from_file(path) == SPEC


def test_only_problem_and_store_are_needed():
    spec = RunSpec.from_dict({"problem": {"type": "Proxy"}, "store": "runs/a.zarr"})
    assert spec == SPEC and spec.exchange == Independent() and spec.settings == Settings()


def test_every_field_is_tried_here():
    assert set(WRONG) == {field.name for field in dataclasses.fields(RunSpec)}


@pytest.mark.parametrize(("name", "given"), [(name, given) for name, all_given in WRONG.items() for given in all_given])
def test_wrong_values_are_refused(name, given):
    with pytest.raises(ValueError, match=rf"^RunSpec: {name} = .*: should ") as caught:
        dataclasses.replace(SPEC, **{name: given})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (3, "A spec should be an object with fields such as problem and store, not 3"),
        ([], r"not \[\]"),
        ({"store": "a"}, "field 'problem' is missing"),
        ({"problem": {"type": "Proxy"}}, "field 'store' is missing"),
        (changed(n_step=3), r"unknown field 'n_step'. Did you mean n_steps\? Allowed: problem, store,"),
        (
            changed(problem="Proxy"),
            'problem = \'Proxy\': should be an object with a type, for instance {"type": "DayaBay"}',
        ),
        (changed(problem={"n_observed": 3}), "should be an object with a type"),
        (
            changed(problem={"type": "Proxi"}),
            "Unknown problem 'Proxi'. Did you mean Proxy. Allowed: DayaBay, Image, Linear, Octants, Proxy, Proxy2D, or",
        ),
        (changed(problem={"type": "Proxy", "n": 3}), r"Proxy: unknown field 'n'.* Allowed: n_observed"),
        (changed(problem={"type": "Proxy", "n_observed": "3"}), "Proxy: n_observed = '3': should be a valid integer"),
        (changed(problem={"type": "DayaBay", "period": "5AD"}), "DayaBay: period = '5AD': should be '6AD', '8AD'"),
        (changed(problem={"type": "nowhere:Gauss"}), "'nowhere:Gauss' cannot be imported: No module named 'nowhere'"),
        (changed(problem={"type": "gaussian:Gauss"}), "cannot be imported: module 'gaussian' has no attribute 'Gauss'"),
        (changed(problem={"type": ":Gauss"}), "cannot be imported: Empty module name"),
        (changed(problem={"type": ".a:Gauss"}), "cannot be imported: TypeError: the 'package' argument is required"),
        (changed(problem={"type": "this:Gauss"}), "'this:Gauss' is not a Problem: this belongs to Python itself"),
        (changed(problem={"type": "sagips_kit.__main__:A"}), "module 'sagips_kit.__main__' has no attribute 'A'"),
        (changed(problem={"type": "gaussian:exact_fit"}), "problem 'gaussian:exact_fit' is not a Problem"),
        (changed(exchange={"type": "gaussian:Gaussian"}), "exchange 'gaussian:Gaussian' is not an Exchange"),
        (
            changed(exchange={"type": "Rings"}),
            "Unknown exchange 'Rings'. Did you mean Ring. Allowed: AllReduce, Chain, .*Within, or one of your own",
        ),
        (changed(exchange={"type": "Channel"}), "Unknown exchange 'Channel'"),
        (changed(exchange={"type": "Ring", "period": 3}), "Ring: unknown field 'period'"),
        (changed(settings=3), "settings = 3: should be an object with the fields of Settings"),
        (changed(settings={"n_members": 0}), "Settings: n_members = 0: should be greater than or equal to 1"),
    ],
)
def test_mistakes_in_json_are_reported_in_one_line(given, message):
    refuse(message, given)


def test_an_abstract_class_is_refused():
    refuse("abstract", changed(problem={"type": "sagips_kit.problems.base:Problem"}), TypeError)


def test_the_error_of_a_module_that_cannot_be_imported_is_shown(tmp_path, monkeypatch):
    (tmp_path / "broken_module.py").write_text("x = 1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    refuse("cannot be imported: ZeroDivisionError: division by zero", changed(problem={"type": "broken_module:A"}))


def test_missing_file_names_the_line_to_type(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no spec `.*a.json`. Write one: sagips spec Proxy --store"):
        RunSpec.from_file(tmp_path / "a.json")


def test_a_spec_stores_only_the_name_of_a_class_of_a_notebook():
    given = changed(problem={"type": "__main__:Decay"})
    refuse("problem '__main__:Decay' cannot be imported.*defined in a notebook.*Run the cell of `class Decay`", given)


@dataclasses.dataclass(frozen=True)
class Tabulated(Plain):
    table: object = None


def test_fields_that_json_cannot_keep_are_named():
    spec = dataclasses.replace(SPEC, problem=Tabulated(table=np.zeros(3)))
    with pytest.raises(ValueError, match="Tabulated: table is a ndarray, which cannot be written as JSON"):
        spec.to_dict()


@pytest.mark.parametrize("content", [b"{'problem': 1}", b"", b'{"problem": ', b"\xff\xfe{}"])
def test_a_file_that_is_not_json_is_named(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a.json` is not JSON: ") as caught:
        RunSpec.from_file(path)
    assert "\n" not in str(caught.value)


def test_variables_in_the_path_of_a_store_are_those_of_the_environment(monkeypatch):
    """Otherwise the run would be in a folder of that name, beside the notebook."""
    monkeypatch.setenv("SCRATCH", "/lustre/me")
    monkeypatch.delenv("SCRATHC", raising=False)
    for text in ("$SCRATCH/a.zarr", "${SCRATCH}/a.zarr"):
        assert RunSpec(problem=Proxy(), store=text).store == "/lustre/me/a.zarr"
    assert RunSpec(problem=Proxy(), store="s3://runs/$SCRATCH").store == "s3://runs/$SCRATCH"  # nobody else learns it
    with pytest.raises(ValueError, match=r"should be a path, but \$SCRATHC is not set in this environment"):
        RunSpec(problem=Proxy(), store="$SCRATHC/a.zarr")


FILES = {
    '{"store": "a.zarr", "n_steps": 10, "n_steps": 20}': "'n_steps' is given 2 times: 10, 20. Keep one of them",
    '{"settings": {"seed": 1, "seed": 1}}': "'seed' is given 2 times",
    "[" * 10**5 + "]" * 10**5: "nested too deeply",
    '{"problem":' + '{"type": "Proxy", "x":' * 500 + "1" + "}" * 501: "nested too deeply",
    '{"problem": {"type": "Proxy"}, "store": "a", "settings": {"generator_rate": 1e300}}': r"generator_rate = 1e\+300",
    '{"problem": {"type": "Prox"}, "store": "a"}': "Unknown problem 'Prox'",
}


@pytest.mark.parametrize("text", FILES, ids=[*map(str, range(len(FILES)))])
def test_a_file_that_is_refused_is_named(tmp_path, text):
    (tmp_path / "spec.json").write_text(text)
    with pytest.raises(ValueError, match=f"^`.*spec.json`.*{FILES[text]}"):
        RunSpec.from_file(tmp_path / "spec.json")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"n_members": 10**9}, "n_members = 1000000000: these settings need at least .* GiB .* for events, and any"),
        ({"generator_widths": (10**8, 10**8)}, "for networks, .* smaller n_members, generator_widths"),
        ({"n_draws": 10**10}, "for results, .* smaller n_members, n_draws or n_predictive"),
    ],
)
def test_more_memory_than_there_is_is_refused_before_anything_is_made(tmp_path, changes, text):
    spec = RunSpec(problem=Gaussian(n_observed=50), store=str(tmp_path / "a.zarr"), settings=Settings(**changes))
    with pytest.raises(ValueError, match=text):
        prepare(spec, n_ranks=1)
    assert not any(tmp_path.iterdir())
    with pytest.raises(ValueError, match=f"{text.partition(',')[0]}.*and this machine has"):
        require_memory(spec.problem, spec.settings, *memory_of(torch.device("cpu")))
