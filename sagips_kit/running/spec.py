"""The run a user asks for, as one value: it is written in a notebook cell or a JSON file and travels to every rank."""

import dataclasses
import difflib
import importlib
import json
import sys
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field, InstanceOf

from .. import exchange, problems
from .._value import Count, NonNegative, value
from ..events.observed import Observed
from ..exchange import Exchange, Independent
from ..problems.base import Problem
from ..store.schema import SPEC_KEY
from ..training.settings import Settings

_FAMILIES = {"problem": (Problem, problems), "exchange": (Exchange, exchange)}


def _a_file(events):
    if isinstance(events, (list, tuple)) or hasattr(events, "__array__"):
        raise ValueError(
            "should be a file: np.save('events.npy', events), then events='events.npy'. Or let the problem's "
            "`observed` return them"
        )
    if not isinstance(events, (str, Observed, type(None))):
        raise ValueError("should be the name of a file as a text, or Observed('events.npy', ...)")
    return events


def _object_of(family):
    """A check that says what to type in the place of a class or a name."""

    def check(given):
        base, _ = _FAMILIES[family]
        if isinstance(given, base):
            return given
        ready = {name.lower(): name for name in _ready(family)}
        close = difflib.get_close_matches(str(given).lower(), ready, n=1)
        guess = ready[close[0] if close else min(ready)]
        if isinstance(given, type) and issubclass(given, base):
            guess = given.__name__
        raise ValueError(f"should be an object, such as {guess}()")

    return BeforeValidator(check)


@value
class RunSpec:
    """Everything that determines a run, apart from the number of ranks.

    Parameters
    ----------
    problem : Problem
    store : str
        Folder of the zarr store that the run writes, for instance "runs/proxy.zarr", or a URL that fsspec knows.
    settings : Settings
    exchange : Exchange
    n_steps : int
    seed : int
        Start of all random streams; the same seed and number of ranks give the same run.
    events : Observed, str or None
        A file of observed events, or its name alone; None takes the problem's own events.
    n_observed : int or None
        How many events: of the problem's own (None: its usual number), or of the file's, at random (None: all).  Of a
        file with `stream`, so many at a time.
    reference : bool
        Fit the same events by maximum likelihood too, if the problem has a likelihood, to judge the run by.
    overwrite : bool
        Replace a run that is in the store already.
    checkpoint_s : float
        Seconds between two checkpoints, from which a run that was killed can go on; 0 writes none but at a stop.
    """

    problem: Annotated[InstanceOf[Problem], _object_of("problem")]
    store: Annotated[str, Field(min_length=1)]
    settings: Settings = dataclasses.field(default_factory=Settings)
    exchange: Annotated[InstanceOf[Exchange], _object_of("exchange")] = dataclasses.field(default_factory=Independent)
    n_steps: Count = 2000
    seed: Annotated[int, Field(ge=0)] = 0
    events: Annotated[InstanceOf[Observed] | str | None, BeforeValidator(_a_file)] = None
    n_observed: Count | None = None
    reference: bool = True
    overwrite: bool = False
    checkpoint_s: NonNegative = 300.0

    def __post_init__(self):
        if self.settings.generator == "convolution":
            self.problem.image_of_parameters()
        if self.streams and self.n_observed is None:
            raise ValueError(
                "events with stream = True, and no n_observed: how many events should a rank hold at a time? For "
                "instance n_observed=1_000_000."
            )

    @property
    def streams(self):
        """Whether the ranks read the file of events themselves, a window at a time."""
        return isinstance(self.events, Observed) and self.events.stream

    def to_dict(self):
        """The spec as JSON values; `from_dict` makes an equal spec of them."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return fields | {
            "settings": dataclasses.asdict(self.settings),
            "events": dataclasses.asdict(self.events) if isinstance(self.events, Observed) else self.events,
            "problem": _described(self.problem, "problem"),
            "exchange": _described(self.exchange, "exchange"),
        }

    def to_json(self):
        """The spec as the text of a JSON file."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    @classmethod
    def from_dict(cls, given):
        """Make a spec of JSON values.

        A problem that is not the kit's own is named with its module, which is imported: so a spec, and a store's, is
        to be trusted like the modules on Python's path.

        Raises
        ------
        ValueError
            For unknown fields, wrong types or unknown problems and exchanges, with what is allowed.
        """
        if not isinstance(given, dict):
            raise ValueError(f"A run's spec should be an object with fields such as problem and store, not {given!r}.")
        fields = dict(given)
        if "settings" in fields:
            fields["settings"] = _made(Settings, fields["settings"], "settings")
        if isinstance(fields.get("events"), dict):
            fields["events"] = _made(Observed, fields["events"], "events")
        for family in _FAMILIES:
            if family in fields:
                fields[family] = _from_description(family, fields[family])
        return cls(**fields)

    @classmethod
    def from_run(cls, run):
        """The spec that an opened run was started with; without `overwrite`, which would delete that run.

        Parameters
        ----------
        run : DataTree
            Of `open_run`.
        """
        return cls.from_dict(json.loads(run.attrs[SPEC_KEY]) | {"overwrite": False})

    @classmethod
    def from_file(cls, path):
        """Read a spec from a JSON file."""
        try:
            given = json.loads(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise FileNotFoundError(
                f"There is no spec `{path}`. Write one: sagips spec Proxy --store runs/proxy.zarr > {path}"
            ) from None
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"`{path}` is not JSON: {error}.") from None
        return cls.from_dict(given)


def require_spec(given):
    """Raise TypeError for what is no RunSpec, with the line that makes one of it."""
    if not isinstance(given, RunSpec):
        how = {str: f"from_file({given!r})", dict: "from_dict(...)"}.get(type(given), "from_file(path)")
        raise TypeError(f"{given!r} is not a RunSpec. Type RunSpec.{how}, or RunSpec(problem=..., store=...).")


def _described(value, family):
    """A problem or exchange as JSON values; `type` is its name, with its module unless the kit brings it."""
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
                f"{family} {name}: {field} is a {type(item).__name__}, which JSON files and stores cannot keep. Fields "
                "should be numbers, texts or tuples of them; load or compute the rest in the class."
            ) from None
    return {"type": name} | described


def _with_parts_described(item, family):
    """A field as JSON values; what an exchange is made of are exchanges too."""
    if isinstance(item, _FAMILIES[family][0]):
        return _described(item, family)
    if isinstance(item, tuple):
        return [_with_parts_described(one, family) for one in item]
    return dataclasses.asdict(item) if dataclasses.is_dataclass(item) else item


def _from_description(family, given):
    if not isinstance(given, dict) or not isinstance(given.get("type"), str):
        raise ValueError(
            f'{family} = {given!r}: should be an object with a type, for instance {{"type": "{_ready(family)[0]}"}}.'
        )
    fields = {name: _with_parts_made(item, family) for name, item in given.items()}
    return _made(_kind(family, fields.pop("type")), fields, family)


def _with_parts_made(item, family):
    if isinstance(item, dict) and "type" in item:
        return _from_description(family, item)
    return [_with_parts_made(one, family) for one in item] if isinstance(item, list) else item


def _kind(family, name):
    base, module = _FAMILIES[family]
    if name in _ready(family):
        return getattr(module, name)
    place, colon, kind_name = name.partition(":")
    if not colon:
        raise ValueError(
            f"Unknown {family} {name!r}. Allowed: {', '.join(_ready(family))}, or one of your own as 'module:Class'."
        )
    if place.partition(".")[0] in sys.stdlib_module_names:  # some do things when they are imported
        raise ValueError(f"{family} {name!r} is not a {base.__name__}: {place} belongs to Python itself.")
    try:
        kind = getattr(importlib.import_module(place), kind_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{family} {name!r} cannot be imported: {error}. {_advice(place, kind_name)}") from None
    except Exception as error:
        # The module's own, of any type; its traceback shows where.
        what = f"{type(error).__name__}: {error}"
        raise ValueError(f"{family} {name!r} cannot be imported: {what}. {_advice(place, kind_name)}") from error
    if not (isinstance(kind, type) and issubclass(kind, base)):
        raise ValueError(f"{family} {name!r} is not a {base.__name__}.")
    return kind


def _advice(place, kind_name):
    if place == "__main__":
        return (
            f"It was defined in a notebook or script, of which files keep the name alone. Run the cell of `class "
            f"{kind_name}` first, or put the class into a module on Python's path."
        )
    return "Put it in a module on Python's path."


def _ready(family):
    base, module = _FAMILIES[family]
    kinds = {name: getattr(module, name) for name in module.__all__}
    return sorted(name for name, kind in kinds.items() if issubclass(kind, base) and kind is not base)


def _made(kind, fields, what):
    if not isinstance(fields, dict):
        raise ValueError(f"{what} = {fields!r}: should be an object with the fields of {kind.__name__}.")
    # JSON has lists only; fields that hold several numbers are tuples, since values do not change.
    return kind(**{name: _with_tuples(item) for name, item in fields.items()})


def _with_tuples(item):
    if isinstance(item, dict):
        return {name: _with_tuples(one) for name, one in item.items()}
    return tuple(_with_tuples(one) for one in item) if isinstance(item, list) else item
