"""The numbers in the README and in the documentation are those that the benchmarks have stored."""

import json
import re
import tomllib
from decimal import Decimal
from pathlib import Path

import generate
import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
NUMBER, SCRIPT = r"(?P<number>-?[\d .]+?)(?P<percent> %)?", r"`(?P<script>\w+)\.py`"
ROW = re.compile(rf"\| (?P<what>[^|]+) \| {NUMBER} \| {SCRIPT} \| (?P<entry>[^|]+) \|")


def table():
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n## Figures\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")][1:]
    return [ROW.fullmatch(line) or pytest.fail(f"not a row of the table: {line}") for line in lines]


def stored(script, entry):
    """The number at `entry`, names separated by " / ", of a script's results."""
    found = json.loads((RESULTS / f"{script}.json").read_text())
    for name in entry.split(" / "):
        found = found[name]
    return float(np.median(found))


def half_a_digit(number):
    """Half a unit of the last digit given, where trailing zeros of a large round number do not count as digits."""
    digits = Decimal(number).normalize() if "." not in number else Decimal(number)
    return 0.5 * 10.0 ** digits.as_tuple().exponent


def test_every_figure_is_what_was_measured():
    assert table()
    for row in table():
        claimed, found = row["number"].replace(" ", ""), stored(row["script"], row["entry"])
        found *= 100 if row["percent"] else 1
        assert abs(float(claimed) - found) <= half_a_digit(claimed) * (1 + 1e-9), f"{row['what']}: {found}"


def claims():
    return tomllib.loads((ROOT / "docs" / "claims.toml").read_text(encoding="utf-8"))


def test_every_figure_can_be_measured_again():
    scripts = {row["script"] for row in table()} | {claim["script"] for claim in claims().values()}
    assert all((ROOT / "benchmarks" / f"{script}.py").is_file() for script in scripts)


def test_every_figure_of_the_readme_is_a_claim_of_the_documentation():
    known = {(claim["script"], claim["entry"]) for claim in claims().values()}
    assert all((row["script"], row["entry"]) in known for row in table())


def test_every_claim_has_a_measured_number():
    numbers = {name: text.replace("\N{NO-BREAK SPACE}", " ") for name, text in generate.figures().items()}
    assert numbers.keys() == claims().keys()
    assert all(re.fullmatch(r"-?[\d .]*\d( %)?", text) for text in numbers.values())
    assert (numbers["rate_one_core"], numbers["answer_median"], numbers["toys_normal_one"]) == (
        "107 000",
        "0.05",
        "70 %",
    )


@pytest.mark.parametrize(("number", "half"), [("107000", 500), ("4.2", 0.05), ("0.50", 0.005), ("0", 0.5)])
def test_what_was_written_says_how_exact_it_is(number, half):
    assert half_a_digit(number) == pytest.approx(half)
