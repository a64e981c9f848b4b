"""Sentences that say what speaks against a result, by kind."""

from collections.abc import Iterable
from typing import Any

# The most basic kind first: what is wrong there makes the tests of later kinds meaningless.
FAILED, DATA, STRUCTURE, BOUND = "failed", "data", "structure", "bound"
HALVES, SEVERAL, ARRIVED, MISFIT = "halves disagree", "several answers", "not arrived", "misfit"
SPREAD = "spread"
KINDS = (FAILED, DATA, STRUCTURE, BOUND, HALVES, SEVERAL, ARRIVED, MISFIT, SPREAD)


class Finding(str):
    """A sentence with the kind of what it reports, one of `KINDS`.

    Parameters
    ----------
    kind : str
        The kind.
    text : str
        The sentence.
    """

    kind: str

    def __new__(cls, kind: str, text: str) -> "Finding":
        if kind not in KINDS:
            raise ValueError(f"{kind!r} is no kind of finding. Allowed: {', '.join(KINDS)}.")
        found = super().__new__(cls, text)
        found.kind = kind
        return found

    @classmethod
    def from_stored(cls, value: Any) -> "Finding":
        """A finding from its JSON value."""
        return cls(STRUCTURE, value) if isinstance(value, str) else cls(value["kind"], value["text"])

    def to_dict(self) -> dict[str, str]:
        """Kind and text as JSON values."""
        return {"kind": self.kind, "text": str(self)}

    def __getnewargs__(self) -> Any:
        return self.kind, str(self)


def is_stored_finding(value: object) -> bool:
    """Whether a JSON value is a finding, as `to_dict` makes it, or a text, as stores of schema 4 have it."""
    if isinstance(value, dict):
        return value.get("kind") in KINDS and isinstance(value.get("text"), str)
    return isinstance(value, str)


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """The findings, the most basic ones first."""
    return sorted(findings, key=lambda finding: KINDS.index(finding.kind))
