"""Values: frozen, validated dataclasses that can be pickled and written as JSON, with clear error messages.

A *value* is what a user writes in a notebook cell: how to train, how to exchange gradients, which problem.  Objects
that own memory, files or messages are no values.
"""

import dataclasses
import functools
import inspect
import reprlib
from abc import ABCMeta
from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Annotated, Any, TypeVar, dataclass_transform, get_origin, overload

import pydantic
from pydantic import Field

from ._text import allowed, listed

Count = Annotated[int, Field(ge=1)]
_HUGE = 1e30  # networks compute in single precision, which ends at 3e38
Positive = Annotated[float, Field(gt=0, le=_HUGE, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, le=_HUGE, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]


T = TypeVar("T")


class ValueClass(ABCMeta):
    """Metaclass of values: `help` and completion show their public attributes, not the internals of dataclasses."""

    def __dir__(cls):
        return [name for name in super().__dir__() if not name.startswith("_")]


@overload
def value(cls: type[T], /) -> type[T]: ...


@overload
def value(*, positional: tuple[str, ...] = ()) -> Callable[[type[T]], type[T]]: ...


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(dataclasses.field,))
def value(cls: Any = None, /, *, positional: tuple[str, ...] = ()) -> Any:
    """Class decorator that makes a frozen dataclass whose constructor validates its fields.

    Parameters
    ----------
    cls : type
        The class to decorate.
    positional : tuple of str
        Fields that may be given without their names, in this order.  If the last one is written "*name", that field
        collects all remaining arguments.  Such a class declares its constructor under `if TYPE_CHECKING:`, because type
        checkers cannot see this argument.

    Returns
    -------
    type
        The class with a validating constructor, a signature with names and defaults, and a repr that is the expression
        which makes the value.  It should have the metaclass `ValueClass`, if its base does not have it.

    Raises
    ------
    ValueError
        When an object is made, for an unknown field, a wrong type or a number out of range.  The message names the
        class, what was given and what is allowed.
    """
    if cls is None:
        return functools.partial(value, positional=positional)
    config = pydantic.ConfigDict(extra="forbid", strict=True)
    cls = pydantic.dataclasses.dataclass(frozen=True, kw_only=True, repr=False, config=config)(cls)
    checked_init = cls.__init__

    @functools.wraps(checked_init)
    def __init__(self, *args, **kwargs):
        unnamed, named = _named(args, positional)
        try:
            if named.keys() & kwargs.keys():
                raise ValueError(f"{cls.__name__}: {', '.join(named.keys() & kwargs.keys())} is given twice.")
            checked_init(self, *unnamed, **named, **kwargs)
        except pydantic.ValidationError as error:
            raise ValueError(_explain(cls, error)) from None

    cls.__init__ = __init__
    cls.__repr__ = _repr
    cls._positional = positional
    cls.__signature__ = _signature(cls)
    return cls


def _signature(cls: Any) -> inspect.Signature:
    """The signature that `help` and notebooks show: names and defaults, without pydantic's types."""
    named = [name.removeprefix("*") for name in cls._positional]
    parameters = []
    for field in sorted(fields(cls), key=lambda field: [*named, field.name].index(field.name)):
        if f"*{field.name}" in cls._positional:
            parameters.append(inspect.Parameter(field.name, inspect.Parameter.VAR_POSITIONAL))
            continue
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD if field.name in named else inspect.Parameter.KEYWORD_ONLY
        default = _default(field)
        default = inspect.Parameter.empty if default is MISSING else default
        parameters.append(inspect.Parameter(field.name, kind, default=default))
    return inspect.Signature(parameters)


def _default(field: dataclasses.Field) -> Any:
    """The default value of a field; MISSING if it has none."""
    # Compared by type: a class that was pickled by value in a notebook has another MISSING where it is unpickled.
    factory: Any = field.default_factory
    return field.default if isinstance(factory, type(MISSING)) else factory()


def _named(args, positional):
    """Split positional arguments into those that no field takes, and a dict of the others by field name."""
    named = {}
    for name in positional:
        if name.startswith("*"):
            return (), named | ({name[1:]: args} if args else {})
        if args:
            named[name], args = args[0], args[1:]
    return args, named


def _repr(self) -> str:
    """The expression that makes this value, without fields that have their default."""
    words, names = [], [name.removeprefix("*") for name in self._positional]
    for field in sorted(fields(self), key=lambda field: field.name not in names):
        item = getattr(self, field.name)
        if f"*{field.name}" in self._positional:
            words += map(repr, item)
        elif field.name in names:
            words.append(repr(item))
        elif item != _default(field):
            words.append(f"{field.name}={item!r}")
    return f"{type(self).__name__}({', '.join(words)})"


def _explain(cls: type, error: pydantic.ValidationError) -> str:
    """Pydantic's errors as one line: for each field what was given and what is allowed."""
    names = [field.name for field in fields(cls)]
    lines = []
    for detail in error.errors():
        name = _location(cls, detail["loc"])
        message = detail["msg"].removeprefix("Value error, ")
        if detail["type"] == "unexpected_positional_argument":
            lines.append(f"{detail['input']!r} has no name. Give fields by name: {listed(names)}.")
        elif detail["type"] == "unexpected_keyword_argument":
            lines.append(f"unknown field {name!r}. {_place_of(cls, name) or allowed(name, names)}")
        elif detail["type"] == "missing":
            lines.append(f"field {name!r} is missing.")
        elif not name:  # raised by __post_init__, about several fields
            lines.append(message)
        else:
            wanted = message.removeprefix("Input ").removeprefix("String ")
            if detail["type"] == "tuple_type":
                wanted = f"should be a tuple, such as {_as_tuple(detail['input'])!r}"
            lines.append(f"{name} = {reprlib.repr(detail['input'])}: {wanted}.")
    return f"{cls.__name__}: " + " ".join(lines)


def _location(cls, loc):
    """The field that an error is about, and where in it: name, name[0] or name['key']; "" for several fields."""
    if not loc:
        return ""
    kind = next((field.type for field in fields(cls) if field.name == loc[0]), None)
    # Where a field may have one of several types, further words are the types that were tried.
    keys = loc[1:2] if get_origin(kind) is dict else [key for key in loc[1:] if isinstance(key, int)]
    return str(loc[0]) + "".join(f"[{key!r}]" for key in keys)


def _place_of(cls: Any, name: str) -> str:
    """Where a field belongs that another value has, which is a field of this one; "" if there is none."""
    for field in fields(cls):
        if dataclasses.is_dataclass(field.type) and name in {inner.name for inner in fields(field.type)}:
            kind: Any = field.type
            return f"It belongs to {field.name}: {cls.__name__}(..., {field.name}={kind.__name__}({name}=...))."
    return ""


def _as_tuple(given):
    return tuple(given) if isinstance(given, list) else (given,)
