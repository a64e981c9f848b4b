"""What checks have found, as a value that prints as a table."""

import textwrap
import traceback
from dataclasses import dataclass
from pathlib import Path

_WIDTH = 100
_KIT = str(Path(__file__).parents[1])
OK, NOTE, MEND, SKIPPED = "ok", "note", "MEND", "skipped"


@dataclass(frozen=True)
class Finding:
    """One line of a report.

    Attributes
    ----------
    check : str
    verdict : {"ok", "note", "MEND", "skipped"}
    text : str
    """

    check: str
    verdict: str
    text: str


@dataclass(frozen=True)
class Report:
    """What `check_problem` has found.

    Attributes
    ----------
    problem : str
    findings : tuple of Finding
    """

    problem: str
    findings: tuple[Finding, ...]

    @property
    def to_mend(self):
        """The findings that keep the problem from being solved."""
        return tuple(finding for finding in self.findings if finding.verdict == MEND)

    @property
    def is_ok(self):
        return not self.to_mend

    def __repr__(self):
        n = len(self.to_mend)
        lines = [f"{self.problem}: " + ("keeps its contract" if self.is_ok else f"{n} to mend")]
        rest = [finding.check for finding in self.findings if finding.verdict == SKIPPED]
        for finding in self.findings[: len(self.findings) - len(rest)]:
            head = f"  {finding.verdict:8}{finding.check:13}"
            lines += textwrap.wrap(finding.text, _WIDTH, initial_indent=head, subsequent_indent=" " * len(head))
        if rest:
            text = f"{', '.join(rest)}: not tried before the above is mended"
            lines += textwrap.wrap(text, _WIDTH, initial_indent=f"  {SKIPPED} ", subsequent_indent=" " * 10)
        return "\n".join(lines)


def note(text):
    """What is worth knowing."""
    return NOTE, text


def mend(text):
    """What has to change."""
    return MEND, text


def skipped(name):
    return Finding(name, SKIPPED, "not tried before the above is mended")


def findings(name, check, case):
    """All findings of one check, a generator of notes and complaints; what it says if it has none is its docstring."""
    try:
        found = list(check(case))
    except Exception as error:
        # Whatever a user's code raises is a finding, not the end of the report.
        found = [mend(f"{place(error)}{type(error).__name__}: {' '.join(str(error).split())}")]
    return [Finding(name, *one) for one in found] or [Finding(name, OK, check.__doc__.splitlines()[0])]


def place(error):
    """The user's own line that raised, as the start of a sentence; "" if it is not known."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(_KIT) and "site-packages" not in frame.filename]
    return f"`{own[-1].line}` raised " if own and own[-1].line else ""
