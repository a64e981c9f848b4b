"""How numbers and lists are written in messages."""

from collections.abc import Iterable


def listed(items: Iterable[object]) -> str:
    """Items with commas between them."""
    return ", ".join(str(item) for item in items)


def tail(output: str, n_lines: int = 15) -> str:
    """The last lines of a program's output, without empty ones and IPython's own remarks."""
    lines = [line for line in output.splitlines() if line.strip() and "KernelNanny" not in line]
    return "\n".join(lines[-n_lines:])


def spaced(number: int) -> str:
    """A number with spaces between thousands: "20 000"."""
    return f"{number:,}".replace(",", " ")


def counted(number: int, name: str) -> str:
    """A number of things: "1 rank", "12 ranks"."""
    return f"{number} {name}{'' if number == 1 else 's'}"
