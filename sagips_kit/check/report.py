"""What the checks have found, as a value that prints as a table."""

import os
import textwrap
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from .case import Case

_WIDTH = 100
_KIT = f"{Path(__file__).parents[1]}{os.sep}"

Verdict = Literal["ok", "note", "FIX", "skipped"]
OK: Verdict = "ok"
NOTE: Verdict = "note"
FIX: Verdict = "FIX"
SKIPPED: Verdict = "skipped"
_NOT_TRIED = "not tried before the above is fixed"

Remark = tuple[Verdict, str]
Check = Callable[["Case"], Iterator[Remark]]  # the first line of its docstring is what a good problem keeps


@dataclass(frozen=True)
class Finding:
    """One line of a report.

    Attributes
    ----------
    check : str
        Name of the check, such as "shapes".
    verdict : {"ok", "note", "FIX", "skipped"}
        "FIX" for what makes the answer wrong or impossible, "note" for what is worth knowing, "skipped" for a check
        that needs the problem to pass the earlier ones.
    text : str
        What was found, why it matters and what to change; for "ok", what holds.
    """

    check: str
    verdict: Verdict
    text: str


@dataclass(frozen=True)
class Report:
    """What `check_problem` has found; it prints as a table with one line for each finding.

    Parameters
    ----------
    problem : str
        Name of the problem's class.
    findings : tuple of Finding
        One or more for each check, in the order of the checks.  Each has `check`, the name of the check; `verdict`,
        which is "ok", "note", "FIX" or "skipped"; and `text`.

    See Also
    --------
    sagips_kit.check_problem : Makes the report.

    Examples
    --------
    >>> from sagips_kit import Proxy, check_problem
    >>> report = check_problem(Proxy(), n_observed=2000)
    >>> report.is_ok, report.to_fix
    (True, ())
    >>> [finding.check for finding in report.findings][:3]
    ['names', 'shapes', 'derivative']
    >>> print(report)
    Proxy: keeps its contract
      ok      names        ...
    """

    problem: str
    findings: tuple[Finding, ...]

    @property
    def to_fix(self) -> tuple[Finding, ...]:
        """The findings with the verdict "FIX", which make the answer wrong or impossible."""
        return tuple(finding for finding in self.findings if finding.verdict == FIX)

    @property
    def is_ok(self) -> bool:
        """Whether there is nothing to fix; notes are allowed."""
        return not self.to_fix

    def __repr__(self) -> str:
        n = len(self.to_fix)
        lines = [f"{self.problem}: " + ("keeps its contract" if self.is_ok else f"{n} to fix")]
        rest = [finding.check for finding in self.findings if finding.verdict == SKIPPED]
        for finding in self.findings[: len(self.findings) - len(rest)]:
            head = f"  {finding.verdict:8}{finding.check:13}"
            lines += textwrap.wrap(finding.text, _WIDTH, initial_indent=head, subsequent_indent=" " * len(head))
        if rest:
            text = f"{', '.join(rest)}: {_NOT_TRIED}"
            lines += textwrap.wrap(text, _WIDTH, initial_indent=f"  {SKIPPED} ", subsequent_indent=" " * 10)
        return "\n".join(lines)


def note(text: str) -> Remark:
    """A remark on what is worth knowing."""
    return NOTE, text


def fix(text: str) -> Remark:
    """A remark on what has to change."""
    return FIX, text


def skipped(name: str) -> Finding:
    """The finding of a check that was not tried."""
    return Finding(name, SKIPPED, _NOT_TRIED)


def findings(name: str, check: Check, case: "Case") -> list[Finding]:
    """All findings of one check; if it has no remark, the first line of its docstring, as what holds."""
    try:
        found = list(check(case))
    except Exception as error:
        # Whatever the user's code raises is a finding, not the end of the report.
        found = [fix(f"{place(error)}{type(error).__name__}: {' '.join(str(error).split())}")]
    return [Finding(name, *one) for one in found] or [Finding(name, OK, (check.__doc__ or name).splitlines()[0])]


def place(error: BaseException) -> str:
    """The line of the user's code that raised, as the start of a sentence; "" if it is unknown."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(_KIT) and "site-packages" not in frame.filename]
    return f"`{own[-1].line}` raised " if own and own[-1].line else ""
