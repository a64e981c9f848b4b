"""How numbers and lists are written in messages."""


def listed(items):
    return ", ".join(str(item) for item in items)


def tail(output, n_lines=15):
    lines = [line for line in output.splitlines() if line.strip() and "KernelNanny" not in line]
    return "\n".join(lines[-n_lines:])


def spaced(number):
    return f"{number:,}".replace(",", " ")


def counted(number, name):
    """A number of things: "1 rank", "12 ranks"."""
    return f"{number} {name}{'' if number == 1 else 's'}"
