"""What happens to runs when something happens to their jobs: the stored table, and some of its cells."""

import itertools
import json

import generate
import pytest
import slurm_machine
from schedulers import CELLS, DOORS, EVENTS, EXCLUDED, ROOMS, ROOT, SCHEDULERS, is_good, play

RESULTS = ROOT / "benchmarks" / "results" / "schedulers.json"
needs_slurm = [
    pytest.mark.scheduler,
    pytest.mark.skipif(bool(slurm_machine.missing()), reason="no Slurm: apt-get install slurm-wlm munge"),
]
# The others take too long to be tried each time: benchmarks/schedulers.py.
QUICK = [
    pytest.param("slurm", "requeued", "batch", "continued", marks=needs_slurm),
    ("pbs", "history off", "command", "reported"),
    ("local", "fails at once", "batch", "refused"),
]


def test_every_cell_is_tried_or_excluded_for_a_reason():
    assert not {*CELLS} & EXCLUDED.keys() and all(EXCLUDED.values())
    assert {*CELLS} | EXCLUDED.keys() == set(itertools.product(SCHEDULERS, EVENTS, DOORS))


def test_nothing_in_the_stored_table_is_wrong():
    cells = json.loads(RESULTS.read_text())["cells"]
    assert {(cell["scheduler"], cell["event"], cell["door"]) for cell in cells} == {*CELLS}
    assert not [cell for cell in cells if not is_good(cell)]
    page = generate.schedulers()
    assert page.count("| reported, ") == sum(cell["outcome"] == "reported" for cell in cells)


@pytest.mark.mpi
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("scheduler", "event", "door", "outcome"), QUICK)
def test_a_cell(scheduler, event, door, outcome, tmp_path):
    with ROOMS[scheduler](tmp_path).open() as room:
        cell = play(room, event, door)
    assert cell["outcome"] == outcome and is_good(cell), cell
