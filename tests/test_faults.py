"""The matrix of faults: none makes a run hang, none loses a row that was stored, and every run comes to its end."""

import pytest
from faults import CELLS, attempt, make_spec, play

QUICK = {("exception", "during the exchange"), ("SIGKILL", "checkpoint"), ("full disk", "store write")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The store of a run without faults."""
    spec = make_spec(tmp_path_factory.mktemp("whole"), "whole")
    status, output, _ = attempt(spec)
    assert status == 0, output
    return spec.store


@pytest.mark.mpi
@pytest.mark.parametrize(
    ("kind", "where"), [pytest.param(*cell, marks=() if cell in QUICK else pytest.mark.slow) for cell in CELLS]
)
def test_a_fault_costs_time_and_nothing_else(tmp_path, whole, kind, where):
    cell = play(tmp_path, kind, where, whole)
    assert not cell["hangs"] and cell["is_finished"] and cell["rows_lost"] == 0, cell
    assert cell["seen"] != "nothing" or kind == "slow"
    if kind == "NaN":
        assert cell["rejected"][0] == 0 and cell["rejected"][1] > 0
    else:
        assert cell["is_same"] and cell["rejected"] == [0, 0], cell
    if kind not in ("slow", "NaN") and (kind, where) not in {("full disk", "checkpoint")}:
        assert not cell["survived"] and cell["from_step"] > 0, cell
