"""What type checkers know about a `value`.

Lines that they must refuse are marked; a mark on a line without an error is an error, too.
"""
# pyright: reportUnnecessaryTypeIgnoreComment=true

import dataclasses
from typing import TYPE_CHECKING, assert_type

from sagips_kit._value import Count, Positive, value


@value
class Detector:
    """Two fields with defaults, and class attributes that are not fields."""

    n_layers: Count = 1
    spacing: Positive = 0.5
    kinds = ("pixel", "strip")


@value(positional=("part",))
class Wrapped:
    """A positional field: its constructor is declared for type checkers."""

    part: Detector
    size: Count | None = None

    if TYPE_CHECKING:

        def __init__(self, part: Detector, *, size: int | None = None) -> None: ...


@value(positional=("*parts",))
class Several:
    """Any number of positional fields."""

    parts: tuple[Detector, ...]

    if TYPE_CHECKING:

        def __init__(self, *parts: Detector) -> None: ...


@value
class Larger(Detector):
    """A subclass with another default and an additional field."""

    n_layers: Count = 7
    name: str = "large"


detector = Detector(n_layers=3)
assert_type(detector, Detector)
assert_type(detector.n_layers, int)
assert_type(len(detector.kinds), int)
assert_type(Detector.spacing, float)
assert_type(dataclasses.replace(detector, n_layers=4), Detector)
assert_type(Wrapped(detector, size=2).part, Detector)
assert_type(dataclasses.replace(Wrapped(detector), size=None), Wrapped)
assert_type(Several(detector, detector).parts, tuple[Detector, ...])
assert_type(Larger(n_layers=8, name="x", spacing=1.0).spacing, float)

if TYPE_CHECKING:  # refused at run time, too
    Detector(3)  # pyright: ignore[reportCallIssue]
    Detector(n_layer=3)  # pyright: ignore[reportCallIssue]
    Detector(n_layers="3")  # pyright: ignore[reportArgumentType]
    Wrapped()  # pyright: ignore[reportCallIssue]
    Wrapped(detector, 2)  # pyright: ignore[reportCallIssue]
    Several(1)  # pyright: ignore[reportArgumentType]
    detector.n_layers = 5  # pyright: ignore[reportAttributeAccessIssue]
