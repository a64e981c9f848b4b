"""Values are validated on construction; errors say in one line what is wrong and what is allowed."""

import dataclasses
import inspect
import pickle
import pkgutil
import re
import runpy
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

import sagips_kit
from sagips_kit import Chain, DayaBay, Every, Independent, Proxy, Ring, RunSpec, Settings
from sagips_kit._value import value

COUNTS = [field.name for field in dataclasses.fields(Settings) if type(field.default) is int]
NUMBERS = [field.name for field in dataclasses.fields(Settings) if type(field.default) is float]
WRONG = {
    **{name: [-1, 1.5, "3", None, True] for name in COUNTS},
    **{name: [-0.1, "0.1", None, float("nan"), True] for name in NUMBERS},
    "generator_widths": [64, [64], (64, 0), (64.5,), "64", None],
    "discriminator_widths": [64, [64], (64, 0), (64.5,), "64", None],
    "generator": ["transformer", 1, None],
    "precision": ["float64", 16, None],
    "capture": ["always", True, None],
    "loss": ["wasserstein", 1, None],
    "bootstrap": [1, "yes", None],
    "max_rollbacks": [0, 1.5, None],
}


def refuse(message, make=Settings, *args, **fields):
    """Assert that `make` refuses with one line of text."""
    with pytest.raises(ValueError, match=message) as caught:
        make(*args, **fields)
    assert "\n" not in str(caught.value) and "ArgsKwargs" not in str(caught.value)


def test_every_field_is_tested_here():
    assert set(WRONG) == {field.name for field in dataclasses.fields(Settings)}


@pytest.mark.parametrize(("name", "given"), [(name, given) for name, all_given in WRONG.items() for given in all_given])
def test_wrong_values_are_refused(name, given):
    shown = f"{name}[{len(given) - 1}] = {given[-1]!r}" if isinstance(given, tuple) else f"{name} = {given!r}"
    refuse(rf"^Settings: {re.escape(shown)}: should be ", **{name: given})


@pytest.mark.parametrize("name", ["generator_rate", "constraint_weight", "exploration", "averaging"])
def test_infinity_is_refused(name):
    refuse(f"Settings: {name} = inf: should be", **{name: float("inf")})


def test_all_mistakes_are_reported_at_once():
    refuse(
        r"n_members = 0: .* loss = 'x': should be 'likelihood', 'logistic' or 'least squares'", n_members=0, loss="x"
    )


def test_unknown_field_is_refused_with_the_nearest_and_all_others():
    refuse(r"unknown field 'n_member'. Did you mean n_members\? Allowed: n_members, .*, max_rollbacks\.", n_member=3)
    refuse(r"^Independent: unknown field 'period'. Allowed: none\.", Independent, period=3)


def test_fields_need_their_names():
    refuse(r"^Settings: 5 has no name. Give fields by name: n_members, ", Settings, 5)


def test_events_must_divide_into_sets():
    refuse(
        "^Settings: n_events = 1000: should be a multiple of n_sets = 3, for instance 999.$", n_events=1000, n_sets=3
    )
    refuse("should be a multiple of n_sets = 8, for instance 8", n_events=3, n_sets=8)


def test_missing_field_is_named():
    @value
    class Needy:
        theta: float

    refuse("^Needy: field 'theta' is missing.", Needy)


def test_a_class_may_raise_its_own_errors():
    @value
    class Even:
        n: int

        def __post_init__(self):
            if self.n % 2:
                raise ValueError(f"n = {self.n} is odd.")

    refuse("^Even: n = 3 is odd.$", Even, n=3)
    assert Even(n=4).n == 4


@pytest.mark.parametrize("one", [Settings(n_members=2, generator_widths=(3,)), Proxy(n_observed=7), DayaBay(), Ring()])
def test_values_are_frozen_comparable_and_travel(one):
    copy = pickle.loads(pickle.dumps(one))
    assert copy == one and hash(copy) == hash(one) and repr(copy) == repr(one)
    assert dataclasses.replace(one) == one
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.n_members = 3


def test_replace_checks_too():
    refuse("n_members = 0", dataclasses.replace, Settings(), n_members=0)


def test_a_value_defined_in_a_notebook_travels_by_value():
    """After unpickling it is still validated, frozen and comparable, with the same repr."""
    define = "from sagips_kit._value import Count, value\n@value\nclass Own:\n    n: Count = 3\n"
    send = define + "import cloudpickle, sys; sys.stdout.buffer.write(cloudpickle.dumps(Own(n=4)))"
    sent = subprocess.run([sys.executable, "-c", send], capture_output=True, check=True).stdout
    own = pickle.loads(sent)
    kind = type(own)
    assert repr(own) == "Own(n=4)" and repr(kind()) == "Own()"
    assert dataclasses.replace(own, n=3) == kind()
    with pytest.raises(ValueError, match=r"^Own: n = 0: should be greater than or equal to 1"):
        kind(n=0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        own.n = 5


def test_help_shows_names_and_defaults():
    shown = str(inspect.signature(Settings))
    assert shown.startswith("(*, n_members=4, n_sets=4") and "generator_widths=(64, 64)" in shown
    assert str(inspect.signature(Every)) == "(period, part, *, otherwise=Independent())"
    assert str(inspect.signature(Chain)) == "(*parts)"
    assert str(inspect.signature(RunSpec)).startswith("(*, problem, store, settings=Settings(), ")


def test_type_checkers_know_the_fields_of_values():
    """The file is also run, because type checkers see constructors that do not exist at run time."""
    path = Path(__file__).with_name("typed") / "values.py"
    checker = Path(sys.executable).with_name("basedpyright")
    command = [checker, "--level", "error", "--pythonpath", sys.executable, path]
    result = subprocess.run(command, cwd=path.parents[2], capture_output=True, text=True)
    assert result.stdout.startswith("0 errors"), result.stdout
    made = runpy.run_path(str(path))
    assert repr(made["Wrapped"](made["detector"], size=2)) == "Wrapped(Detector(n_layers=3), size=2)"


def dataclasses_of_arrays():
    """All dataclasses of the package with a field that holds an array."""
    for module in pkgutil.walk_packages(sagips_kit.__path__, "sagips_kit."):
        if module.name.rpartition(".")[2] in ("__main__", "launchers"):
            continue
        for kind in vars(import_module(module.name)).values():
            if dataclasses.is_dataclass(kind) and kind.__module__ == module.name:
                types = [str(field.type) for field in dataclasses.fields(kind)]
                if any(re.search("array|Tensor", name, flags=re.IGNORECASE) for name in types):
                    yield kind


def test_dataclasses_of_arrays_can_be_compared():
    """Comparing their fields would give an array, which has no truth value."""
    kinds = list(dataclasses_of_arrays())
    assert len(kinds) >= 3
    for kind in kinds:
        one, other = object.__new__(kind), object.__new__(kind)
        for name in (field.name for field in dataclasses.fields(kind)):
            object.__setattr__(one, name, np.zeros(2))
            object.__setattr__(other, name, np.zeros(2))
        assert one == one and one != other, kind
