"""The run that a user asks for, as one value: written in a notebook cell or a JSON file, it travels to every rank."""

import contextlib
import dataclasses
import importlib
import json
import os
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, InstanceOf

from .. import exchange, problems
from .._text import did_you_mean, guesses, listed
from .._value import Count, NonNegative, ValueClass, value
from ..events.observed import Observed
from ..exchange import Exchange, Independent
from ..problems.base import Problem
from ..store.schema import SPEC_KEY
from ..training.settings import Settings

if TYPE_CHECKING:
    import xarray as xr

# The base class of each family, and the module whose classes a spec may name without their module.
_FAMILIES: dict[str, tuple[type, ModuleType]] = {"problem": (Problem, problems), "exchange": (Exchange, exchange)}


def _a_file(events: Any) -> Any:
    if isinstance(events, (list, tuple)) or hasattr(events, "__array__"):
        raise ValueError(
            "should be a file, not the events themselves: np.save('events.npy', events), then events='events.npy'. Or "
            "let the problem's `observed` return them"
        )
    if not isinstance(events, (str, Observed, type(None))):
        raise ValueError("should be the name of a file as a string, or Observed('events.npy', ...)")
    return events


def _a_place(store: Any) -> Any:
    """A path with the values of its environment variables, as a shell would read it; a URL as it is."""
    if not isinstance(store, str) or "://" in store:
        return store
    path = os.path.expandvars(store)
    if unset := re.search(r"\$(\w+|\{\w+\})", path):
        raise ValueError(f"should be a path, but {unset[0]} is not set in this environment")
    return path


def _object_of(family: str) -> BeforeValidator:
    """A check whose error says what to type instead of a class or a name."""

    def check(given: Any) -> Any:
        base, _ = _FAMILIES[family]
        if isinstance(given, base):
            return given
        ready = _ready(family)
        guess = (guesses(given, ready) or ready)[0]
        if isinstance(given, type) and issubclass(given, base):
            guess = given.__name__
        raise ValueError(f"should be an object, such as {guess}()")

    return BeforeValidator(check)


@value
class RunSpec(metaclass=ValueClass):
    """Everything that determines a run, apart from the number of ranks.

    A spec is a frozen value: it can be compared, pickled and written as JSON, and `dataclasses.replace(spec, seed=1)`
    makes a changed copy.

    Parameters
    ----------
    problem : Problem
        The inverse problem, for instance `Proxy()` or an object of your own subclass of `Problem`.
    store : str
        Folder of the zarr store that the run writes, for instance "runs/proxy.zarr" or "$SCRATCH/proxy.zarr", or a URL
        that fsspec knows.
    settings : Settings
        How the GANs are built and trained: sizes of networks and batches, learning rates, number of members and draws.
    exchange : Exchange
        Mode of training: what the ranks exchange and when.  `Independent()`, the default, exchanges nothing.
    n_steps : int
        Length of the run in steps; a step is one update of discriminator and generator on every rank.  A finished run
        is continued by a larger number and `resume=True`.
    seed : int
        Seed of all random numbers; the same seed and number of ranks give the same run.
    events : Observed, str or None
        File of observed events, or its name alone.  None takes the problem's own events.
    n_observed : int or None
        Number of observed events.  None takes the usual number of the problem, or all events of a file; a number takes
        a random sample of the file.  With `Observed(..., stream=True)`, the number that a rank holds in memory at a
        time.
    reference : bool
        Also fit the same events by maximum likelihood, if the problem has a likelihood, as a reference for the results.
    fit : bool
        Also fit the same events by a learned score, as `fit` does without a likelihood, for problems of up to 60
        parameters (24 if generators do not begin there).  Rank 0 does this before the ranks train, which takes 2 to
        60 s; where it is not possible, the run continues, and the store says why.
    start : {"fit", "ranges"}
        Where generators begin.  "fit": each at the fit of its own resample, and discriminators see the learned score;
        the last quarter of the chains (of three or more) are witnesses, which begin 2 deviations away, or more in a
        short run, and do not see it.  A few hundred steps are then enough.  "ranges": in the middle of the ranges,
        which they explore.  So they do, too, if there is no fit or it is in doubt where the answer is, and if
        generators make images or events are streamed; then they need more steps.
    overwrite : bool
        Replace a run that is already in the store.
    checkpoint_s : float
        Seconds between two checkpoints, from which a killed run can be resumed.  0 writes checkpoints only when the run
        is asked to stop, and after its last step.

    Raises
    ------
    ValueError
        For an unknown field or a value that is not allowed; the text says what is allowed.

    See Also
    --------
    run : Prepare a run and train it.
    Settings : How the GANs are built and trained.

    Examples
    --------
    >>> from sagips_kit import Proxy, Ring, RunSpec
    >>> spec = RunSpec(problem=Proxy(), store="runs/ring.zarr", exchange=Ring(), n_steps=1000)
    >>> spec
    RunSpec(problem=Proxy(), store='runs/ring.zarr', exchange=Ring(), n_steps=1000)
    >>> RunSpec.from_dict(spec.to_dict()) == spec
    True
    """

    problem: Annotated[InstanceOf[Problem], _object_of("problem")]
    store: Annotated[str, Field(min_length=1), BeforeValidator(_a_place)]
    settings: Settings = dataclasses.field(default_factory=Settings)
    exchange: Annotated[InstanceOf[Exchange], _object_of("exchange")] = dataclasses.field(default_factory=Independent)
    n_steps: Count = 2000
    seed: Annotated[int, Field(ge=0)] = 0
    events: Annotated[InstanceOf[Observed] | str | None, BeforeValidator(_a_file)] = None
    n_observed: Count | None = None
    reference: bool = True
    fit: bool = True
    start: Literal["fit", "ranges"] = "fit"
    overwrite: bool = False
    checkpoint_s: NonNegative = 300.0

    def __post_init__(self) -> None:
        if self.settings.generator == "convolution":
            self.problem.image_of_parameters()
        if self.streamed and self.n_observed is None:
            raise ValueError(
                "events with stream=True need n_observed, the number of events that a rank holds in memory at a time. "
                "For instance n_observed=1_000_000."
            )

    @property
    def streamed(self) -> Observed | None:
        """The file of events that the ranks read themselves, window by window; None if they do not."""
        return self.events if isinstance(self.events, Observed) and self.events.stream else None

    @property
    def begins_at_fit(self) -> bool:
        """bool: Whether generators begin at the fit, if there is one that leaves no doubt where the answer is."""
        return self.fit and self.start == "fit" and self.settings.generator != "convolution" and not self.streamed

    def to_dict(self) -> dict[str, Any]:
        """The spec as JSON values.

        Returns
        -------
        dict
            Fields by name, from which `from_dict` makes an equal spec.

        Raises
        ------
        ValueError
            If a field of the problem or the exchange cannot be written as JSON.
        """
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return fields | {
            "settings": dataclasses.asdict(self.settings),
            "events": dataclasses.asdict(self.events) if isinstance(self.events, Observed) else self.events,
            "problem": _described(self.problem, "problem"),
            "exchange": _described(self.exchange, "exchange"),
        }

    def to_json(self) -> str:
        """The spec as the text of a JSON file, which `sagips run` and `from_file` read.

        Returns
        -------
        str
            The JSON text.

        Raises
        ------
        ValueError
            If a field of the problem or the exchange cannot be written as JSON.
        """
        return json.dumps(self.to_dict(), indent=2) + "\n"

    @classmethod
    def from_dict(cls, given: dict[str, Any]) -> "RunSpec":
        """Make a spec from JSON values.

        A problem or exchange that is not part of the package is named as "module:Class", and the module is imported.
        So a spec, also that of a stored run, needs the same trust as a module on Python's path.

        Parameters
        ----------
        given : dict
            Fields by name, as `to_dict` returns them.  Missing fields take their defaults.

        Returns
        -------
        RunSpec
            The spec.

        Raises
        ------
        ValueError
            For unknown fields, wrong types, or unknown problems and exchanges; the text says what is allowed.
        """
        if not isinstance(given, dict):
            raise ValueError(f"A spec should be an object with fields such as problem and store, not {given!r}.")
        try:
            return cls._from_fields(dict(given))
        except RecursionError:
            raise ValueError("The spec is nested too deeply.") from None

    @classmethod
    def _from_fields(cls, fields: dict[str, Any]) -> "RunSpec":
        if "settings" in fields:
            fields["settings"] = _made(Settings, fields["settings"], "settings")
        if isinstance(fields.get("events"), dict):
            fields["events"] = _made(Observed, fields["events"], "events")
        for family in _FAMILIES:
            if family in fields:
                fields[family] = _from_description(family, fields[family])
        return cls(**fields)

    @classmethod
    def from_run(cls, run: "xr.DataTree") -> "RunSpec":
        """The spec with which an opened run was started.

        Parameters
        ----------
        run : DataTree
            A run that `open_run` returned.

        Returns
        -------
        RunSpec
            The same spec, but with `overwrite=False`, so that using it again does not delete the run.

        Raises
        ------
        ValueError
            If the problem or the exchange of the run cannot be imported here.
        """
        return cls.from_dict(json.loads(run.attrs[SPEC_KEY]) | {"overwrite": False})

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> "RunSpec":
        """Read a spec from a JSON file.

        Parameters
        ----------
        path : path
            The file, as `to_json` or `sagips spec` writes it.

        Returns
        -------
        RunSpec
            The spec.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If the file is not JSON, or its fields are not those of a spec; the text says what is allowed.
        """
        try:
            given = json.loads(Path(path).read_text(encoding="utf-8"), object_pairs_hook=_without_duplicates)
        except FileNotFoundError:
            raise FileNotFoundError(
                f"There is no spec `{path}`. Write one: sagips spec Proxy --store runs/proxy.zarr > {path}"
            ) from None
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"`{path}` is not JSON: {error}.") from None
        except ValueError as error:
            raise ValueError(f"`{path}`: {error}") from None
        except RecursionError:
            raise ValueError(f"`{path}` is no spec: its objects or lists are nested too deeply.") from None
        try:
            return cls.from_dict(given)
        except ValueError as error:
            raise ValueError(f"`{path}`: {error}") from error.__cause__


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; ValueError if it has a field twice, of which Python would take the last in silence."""
    names = [name for name, _ in pairs]
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        values = listed(repr(item) for name, item in pairs if name == twice[0])
        raise ValueError(f"{twice[0]!r} is given {names.count(twice[0])} times: {values}. Keep one of them.")
    return dict(pairs)


def modules_of(path: str | os.PathLike[str]) -> list[str]:
    """The modules that the spec in a file names, and that are imported with it; none if it cannot be read."""
    found: list[str] = []

    def look(fields: dict[str, Any]) -> dict[str, Any]:
        place, colon, _ = str(fields.get("type")).partition(":")
        found.extend([place] if colon and place not in found else [])
        return fields

    with contextlib.suppress(OSError, ValueError, RecursionError):  # which `from_file` explains
        json.loads(Path(path).read_text(encoding="utf-8"), object_hook=look)
    return found


def require_spec(given: Any) -> None:
    """Raise TypeError, with the line to type, for anything but a RunSpec."""
    if not isinstance(given, RunSpec):
        how = {str: f"from_file({given!r})", dict: "from_dict(...)"}.get(type(given), "from_file(path)")
        raise TypeError(f"{given!r} is not a RunSpec. Type RunSpec.{how}, or RunSpec(problem=..., store=...).")


def _described(value: Any, family: str) -> dict[str, Any]:
    """A problem or exchange as JSON values; `type` is its name, with its module unless it belongs to the package."""
    kind = type(value)
    is_ready = getattr(_FAMILIES[family][1], kind.__name__, None) is kind
    name = kind.__name__ if is_ready else f"{kind.__module__}:{kind.__qualname__}"
    if not dataclasses.is_dataclass(value):
        return {"type": name}
    fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    described = {name: _with_parts_described(item, family) for name, item in fields.items()}
    for field, item in described.items():
        try:
            json.dumps(item)
        except (TypeError, ValueError):
            raise ValueError(
                f"{family} {name}: {field} is a {type(item).__name__}, which cannot be written as JSON. Fields should "
                "be numbers, strings or tuples of them; load or compute everything else in the class."
            ) from None
    return {"type": name} | described


def _with_parts_described(item: Any, family: str) -> Any:
    """A field as JSON values; the parts of an exchange are exchanges too."""
    if isinstance(item, _FAMILIES[family][0]):
        return _described(item, family)
    if isinstance(item, tuple):
        return [_with_parts_described(one, family) for one in item]
    return dataclasses.asdict(item) if dataclasses.is_dataclass(item) and not isinstance(item, type) else item


def _from_description(family: str, given: Any) -> Any:
    if not isinstance(given, dict) or not isinstance(given.get("type"), str):
        raise ValueError(
            f'{family} = {given!r}: should be an object with a type, for instance {{"type": "{_ready(family)[0]}"}}.'
        )
    fields = {name: _with_parts_made(item, family) for name, item in given.items()}
    return _made(_kind(family, fields.pop("type")), fields, family)


def _with_parts_made(item: Any, family: str) -> Any:
    if isinstance(item, dict) and "type" in item:
        return _from_description(family, item)
    return [_with_parts_made(one, family) for one in item] if isinstance(item, list) else item


def _kind(family: str, name: str) -> type:
    """The class that `name` stands for."""
    base, module = _FAMILIES[family]
    if name in (ready := _ready(family)):
        return getattr(module, name)
    place, colon, kind_name = name.partition(":")
    if not colon:
        raise ValueError(
            f"Unknown {family} {name!r}. {did_you_mean(name, ready)}Allowed: {listed(ready)}, or one of your own as "
            "'module:Class'."
        )
    if place.partition(".")[0] in sys.stdlib_module_names:  # importing some of them has side effects
        raise ValueError(f"{family} {name!r} is not {_a(base)}: {place} belongs to Python itself.")
    try:
        kind = getattr(importlib.import_module(place), kind_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{family} {name!r} cannot be imported: {error}. {_advice(place, kind_name)}") from None
    except Exception as error:
        # An error of the user's module, of any type; its traceback shows where.
        what = f"{type(error).__name__}: {error}"
        raise ValueError(f"{family} {name!r} cannot be imported: {what}. {_advice(place, kind_name)}") from error
    if not (isinstance(kind, type) and issubclass(kind, base)):
        raise ValueError(f"{family} {name!r} is not {_a(base)}.")
    return kind


def _a(base: type) -> str:
    return f"{'an' if base.__name__[0] in 'AEIOU' else 'a'} {base.__name__}"


def _advice(place: str, kind_name: str) -> str:
    if place == "__main__":
        return (
            f"It was defined in a notebook or script, and files keep only its name. Run the cell of `class "
            f"{kind_name}` first, or put the class into a module on Python's path."
        )
    return "Put it in a module on Python's path."


def _ready(family: str) -> list[str]:
    """Names of the classes of a family that belong to the package."""
    base, module = _FAMILIES[family]
    kinds = {name: getattr(module, name) for name in module.__all__}
    return sorted(name for name, kind in kinds.items() if issubclass(kind, base) and kind is not base)


def _made(kind: type, fields: Any, what: str) -> Any:
    if not isinstance(fields, dict):
        raise ValueError(f"{what} = {fields!r}: should be an object with the fields of {kind.__name__}.")
    # JSON has lists only; fields that hold several numbers are tuples, because values are immutable.
    return kind(**{name: _with_tuples(item) for name, item in fields.items()})


def _with_tuples(item: Any) -> Any:
    if isinstance(item, dict):
        return {name: _with_tuples(one) for name, one in item.items()}
    return tuple(_with_tuples(one) for one in item) if isinstance(item, list) else item
