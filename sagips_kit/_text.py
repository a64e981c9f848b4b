"""How numbers, lists and misspelt names are written in messages."""

import difflib
import math
import unicodedata
from collections.abc import Iterable

_ALIKE, _SIMILAR = 0.74, 0.6  # similarity of two names, 1 if they are equal: of a misspelling, and the least to mention
_MOST_RELATED = 4
_CONTROL = ("Cc", "Cf", "Zl", "Zp")  # of Unicode: control, format, and separators of lines and paragraphs


def listed(items: Iterable[object]) -> str:
    """Items with commas between them."""
    return ", ".join(str(item) for item in items)


def printable(text: object) -> str:
    """Text without control characters, which could do anything to a terminal; lines and tabs stay.

    Examples
    --------
    >>> printable("red \\x1b[31m")
    'red \\\\x1b[31m'
    """
    return "".join(one if one in "\n\t" or not has_control(one) else repr(one)[1:-1] for one in str(text))


def has_control(text: str) -> bool:
    """Whether there are control characters in a text, ends of lines among them, or others that change its direction."""
    return any(unicodedata.category(one) in _CONTROL for one in text)


def guesses(given: object, names: Iterable[str]) -> list[str]:
    """Names that a wrong one may stand for, whatever its case: those that it begins, or is like, or shares a word with.

    Examples
    --------
    >>> guesses("rinq", ["Ring", "Chain"])
    ['Ring']
    >>> guesses("learning_rate", ["n_events", "generator_rate", "final_rate"])
    ['generator_rate', 'final_rate']
    """
    names, wrong = list(names), str(given).lower()
    if longer := [name for name in names if len(wrong) > 3 and name.lower().startswith(wrong)]:
        return longer[:_MOST_RELATED]
    words = {word for word in wrong.split("_") if len(word) > 2}
    related = [name for name in names if words & {*name.lower().split("_")}]
    related.sort(key=lambda name: name.lower().rpartition("_")[2] not in words)
    return closest(given, names, _ALIKE) or related[:_MOST_RELATED] or closest(given, names, _SIMILAR)


def closest(given: object, names: Iterable[str], similarity: float) -> list[str]:
    """The name that is spelt most like a given one, if their similarity is at least this (1 if they are equal)."""
    spelt = {name.lower(): name for name in names}
    return [spelt[low] for low in difflib.get_close_matches(str(given).lower(), spelt, n=1, cutoff=similarity)]


def allowed(given: object, names: Iterable[str]) -> str:
    """What a message says about a name that is not allowed: "Did you mean Ring? Allowed: Chain, Ring."."""
    names = list(names)
    return f"{did_you_mean(given, names)}Allowed: {listed(names) or 'none'}."


def did_you_mean(given: object, names: Iterable[str]) -> str:
    """ "Did you mean Ring? ", or nothing if no name is close."""
    found = guesses(given, names)
    return f"Did you mean {' or '.join(filter(None, [listed(found[:-1]), found[-1]]))}? " if found else ""


def tail(output: str, n_lines: int = 15) -> str:
    """The last lines of a program's output, without empty ones and IPython's own remarks."""
    lines = [line for line in output.splitlines() if line.strip() and "KernelNanny" not in line]
    return "\n".join(lines[-n_lines:])


def spaced(number: int) -> str:
    """A number with spaces between thousands: "20 000"."""
    return f"{number:,}".replace(",", " ")


def with_error(value: float, deviation: float, sign: str = "+-") -> str:
    """A value and its standard deviation, rounded to two digits of the latter.

    Examples
    --------
    >>> with_error(0.0857112, 0.00214), with_error(12034.4, 310.0), with_error(2.44312e-3, 4.96e-5)
    ('0.0857 +- 0.0021', '12030 +- 310', '(2.443 +- 0.050)e-03')
    """
    if not (math.isfinite(value) and math.isfinite(deviation) and deviation > 0):
        return f"{value:.5g} {sign} {deviation:.2g}"
    is_usual = 1e-4 <= deviation < 1e5
    power = 0 if is_usual else math.floor(math.log10(max(abs(value), deviation)))
    value, deviation = value / 10.0**power, deviation / 10.0**power
    n_digits = 1 - int(f"{deviation:.1e}".partition("e")[2])
    numbers = [f"{round(one, n_digits) + 0.0:.{max(0, n_digits)}f}" for one in (value, deviation)]
    text = f" {sign} ".join(numbers)
    return f"({text})e{power:+03d}" if power else text


def concise(value: float, deviation: float) -> str:
    """A value with two digits of its standard deviation in brackets, in units of the value's last digits.

    Examples
    --------
    >>> concise(2.4603e-3, 4.31e-5), concise(0.0857112, 0.00214), concise(12.34, 2.1), concise(12034.4, 310.0)
    ('0.002460(43)', '0.0857(21)', '12.3(2.1)', '12030(310)')
    >>> concise(-0.00002, 0.0013), concise(2.4e-9, 3.1e-11), concise(1.5, float("nan"))
    ('-0.0000(13)', '2.400(31)e-09', '1.5')
    """
    if not (math.isfinite(value) and math.isfinite(deviation) and deviation > 0):
        return f"{value:.4g}"
    power = math.floor(math.log10(max(abs(value), deviation)))
    power = 0 if -5 < power < 7 else power
    value, deviation = value / 10.0**power, deviation / 10.0**power
    n_digits = 1 - int(f"{deviation:.1e}".partition("e")[2])
    shown = [f"{round(one, n_digits):.{max(0, n_digits)}f}" for one in (value, deviation)]
    brackets = shown[1] if deviation >= 0.995 else shown[1].replace(".", "").lstrip("0")
    return f"{shown[0]}({brackets})" + (f"e{power:+03d}" if power else "")


def ago(duration_s: float) -> str:
    """A time in its largest unit: "40 s", "12 min", "3 h", "2 days".

    Examples
    --------
    >>> ago(40), ago(750), ago(3 * 3600), ago(50 * 3600)
    ('40 s', '12 min', '3 h', '2 days')
    """
    for unit, length in (("day", 86400), ("h", 3600), ("min", 60)):
        if duration_s >= length:
            number = int(duration_s // length)
            return counted(number, unit) if unit == "day" else f"{number} {unit}"
    return f"{max(0, round(duration_s))} s"


def counted(number: int, name: str) -> str:
    """A number of things: "1 rank", "12 ranks"."""
    return f"{number} {name}{'' if number == 1 else 's'}"
