"""Attributes of problems that look like misspelt names of the contract."""

import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any

from .._text import closest

_CLOSE = 0.84  # similarity of two names (1 if equal) from which one is taken for a misspelling of the other
_OTHER_THINGS = {"period"}  # names that are close to one of the contract, and common


def misspelt_in(cls: type, body: Mapping[str, Any], contract_of: type) -> Iterator[str]:
    """Explain each name of `body`, attributes of `cls`, that is close to a public one of the class `contract_of`."""
    names = {*dir(contract_of), *inspect.get_annotations(contract_of)}
    contract = sorted(name for name in names if not name.startswith("_"))
    declared = {name for base in cls.__mro__ if not issubclass(base, contract_of) for name in vars(base)}
    for name in body:
        if name.startswith("_") or name in declared or name in contract or name in _OTHER_THINGS:
            continue
        for meant in closest(name, contract, _CLOSE):
            # `n_observed` and `true_units` are names of other things, and so is what stands beside the one it is like.
            if meant in body or re.fullmatch(rf"(\w+_)?{meant}(_\w+)?", name):
                continue
            yield (
                f"`{name}` is not part of the contract of a Problem, so it has no effect. Did you mean `{meant}`? If "
                f"it is a helper of your own, name it `_{name}`."
            )
