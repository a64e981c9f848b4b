"""The matrix of faults: no fault makes a run hang or loses a stored row, and every run can be finished."""

import itertools

import pytest
from faults import CELLS, CHANGING, EXCHANGE, EXCLUDED, FAULTS, KINDS, WRITING, attempt, make_spec, play

QUICK = {("exception", "during the exchange", 2), ("SIGKILL", "checkpoint", 2), ("full disk", "store write", 2)}
# The run continues without help from the user
SURVIVED = {(kind, where) for kind in ("slow", "clock jump") for where in FAULTS[kind]} | CHANGING
# The user sees nothing
SILENT = {"slow", "clock jump"}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, nest):
    """A function that returns the store of a run without faults on a number of ranks."""
    stores = {}

    def store(n_ranks):
        if n_ranks not in stores:
            spec = make_spec(tmp_path_factory.mktemp("whole"), "whole")
            status, output, _ = attempt(spec, n_ranks, nest=nest)
            assert status == 0, output
            stores[n_ranks] = spec.store
        return stores[n_ranks]

    return store


def test_every_cell_is_tested_or_excluded_for_a_reason():
    there = {(kind, where) for kind, where, _ in CELLS}
    assert not there & EXCLUDED.keys() and all(EXCLUDED.values())
    assert there | EXCLUDED.keys() == set(itertools.product(KINDS, EXCHANGE + WRITING))
    assert {n_ranks for *_, n_ranks in CELLS} == {2, 4}


@pytest.mark.mpi
@pytest.mark.parametrize(
    ("kind", "where", "n_ranks"),
    [pytest.param(*cell, marks=() if cell in QUICK else pytest.mark.slow) for cell in CELLS],
)
def test_a_fault_costs_time_and_nothing_else(tmp_path, nest, undisturbed, kind, where, n_ranks):
    cell = play(tmp_path, kind, where, n_ranks, undisturbed(n_ranks), nest)
    assert not cell["hangs"] and cell["is_finished"] and cell["rows_lost"] == 0, cell
    assert (cell["seen"] == "nothing") == (kind in SILENT), cell
    rejected = dict(enumerate(cell["rejected"]))
    if kind == "NaN":
        assert rejected.pop(1) > 0
    if (kind, where) == ("corrupt", "during the exchange"):
        # All ranks of a ring receive the same mean and drop it.
        assert set(rejected.values()) == {1}, cell
    else:
        assert not any(rejected.values()) and cell["is_same"] == ((kind, where) not in CHANGING), cell
    assert cell["survived"] == ((kind, where) in SURVIVED), cell
    assert cell["survived"] or cell["from_step"] > 0, cell
