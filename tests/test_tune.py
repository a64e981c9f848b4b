"""Trying modes of exchange on the available ranks: what is measured, and what is recommended."""

import dataclasses
import time

import numpy as np
import pytest
from gaussian import QUICK, Gaussian
from mpi_launcher import mpiexec

from sagips_kit import AllReduce, Independent, OneSided, Problem, Ring, RunSpec, World, tune_exchange
from sagips_kit._value import value
from sagips_kit.cli import main
from sagips_kit.exchange import Channel, Mixed
from sagips_kit.running import tune
from sagips_kit.running.tune import Trial, recommended, usual_modes


@value
class Sleepy(Independent):
    """An exchange that takes a given time."""

    seconds: float = 0.01

    def open(self, world, like):
        return _SleepyChannel(self, world, like)


class _SleepyChannel(Channel):
    def mixing(self, flat, step, payload):
        time.sleep(self.exchange.seconds)
        return Mixed(staleness=step)
        yield


@pytest.fixture
def path(tmp_path):
    settings = dataclasses.replace(QUICK, n_events=64)
    spec = RunSpec(
        problem=Gaussian(n_observed=200), store=str(tmp_path / "a.zarr"), settings=settings, n_steps=20, fit=False
    )
    path = tmp_path / "spec.json"
    path.write_text(spec.to_json())
    return path


def test_a_mode_that_costs_too_much_is_not_recommended():
    slow, fast = Sleepy(seconds=0.02), Sleepy(seconds=0.0)
    tuning = tune_exchange(World.alone("cpu"), 10, step_s=0.005, trial_s=0.1, modes=[slow, fast])
    assert tuning.best == fast
    first, second = tuning.trials
    assert first.rate < 0.5 < second.rate
    assert first.staleness == 20
    assert f"recommended: exchange={fast!r}" in str(tuning)
    assert [line[0] for line in str(tuning).splitlines()[2:4]] == [" ", "*"]


def test_of_equally_fast_modes_the_preferred_one_is_recommended():
    rates = {"ring": 0.9, "all-reduce": 0.96, "one-sided": 1.0}
    trials = [Trial(exchange=name, rate=rate, waited_s=0.0, staleness=0) for name, rate in rates.items()]
    assert recommended(trials) == "all-reduce"


@pytest.mark.parametrize("wrong", [{"n_weights": 0}, {"step_s": -1.0}, {"trial_s": float("nan")}])
def test_numbers_that_are_not_positive_are_refused(wrong):
    name, number = next(iter(wrong.items()))
    with pytest.raises(ValueError, match=rf"tune_exchange: {name} = {number!r}: should be larger than 0"):
        tune_exchange(World.alone("cpu"), **({"n_weights": 10, "step_s": 0.01, "trial_s": 0.1} | wrong))


@pytest.mark.parametrize(
    ("nodes", "is_grouped"),
    [([(0, 1, 2, 3)], False), ([(0, 1), (2, 3)], True), ([(0, 2), (1, 3)], False), ([(0, 1, 2), (3,)], False)],
)
def test_groups_are_tried_if_nodes_have_equally_many_ranks(nodes, is_grouped):
    world = World.alone("cpu")
    world.size, world.groups = 4, lambda size=None: nodes
    modes = usual_modes(world)
    assert modes[0] == Ring() and modes[-1] == OneSided()
    assert any("Within" in repr(mode) for mode in modes) == is_grouped


@pytest.mark.parametrize(
    ("device", "obstacle", "is_tried"), [("cuda", "", True), ("cuda", "why", False), ("cpu", "", False)]
)
def test_sums_on_accelerators_are_tried_where_they_work(monkeypatch, device, obstacle, is_tried):
    monkeypatch.setattr(tune, "obstacle", lambda world, device: obstacle)
    world = World.alone(device)
    world.size, world.groups = 4, lambda size=None: [(0, 1), (2, 3)]
    found = [mode for mode in usual_modes(world) if "torch" in repr(mode)]
    assert len(found) == (2 if is_tried else 0) and (not found or found[0] == AllReduce(library="torch"))


def test_a_single_rank_has_no_choice(path, capsys):
    assert main(["tune", str(path), "--trial-s", "0.1"]) == 0
    assert capsys.readouterr().out.endswith("recommended: exchange=Independent()\n")


class WithoutEvents(Gaussian):
    """A problem whose events are in a file."""

    observed = Problem.observed


def test_the_step_is_timed_with_the_events_of_the_run(path, tmp_path, monkeypatch):
    np.save(tmp_path / "events.npy", np.random.default_rng(0).normal(size=(300, 1)))
    spec = RunSpec.from_file(path)
    spec = dataclasses.replace(spec, problem=WithoutEvents(), events=str(tmp_path / "events.npy"))
    seen, make = [], tune.Trainer

    def note(problem, settings, events, **options):
        seen.append(np.shape(events))
        return make(problem, settings, events, **options)

    monkeypatch.setattr(tune, "Trainer", note)
    assert tune.tune_run(spec, World.alone("cpu"), 0.1).best == Independent() and seen == [(300, 1)]


@pytest.mark.mpi
def test_ranks_of_mpiexec_print_one_table(path, nest):
    done = mpiexec(2, *nest.stub, "-m", "mpi4py", "-m", "sagips_kit", "tune", path, "--trial-s", 0.2)
    assert done.returncode == 0, done.stdout
    imports, head, columns, *rows, last = done.stdout.splitlines()
    assert imports == "sagips: the spec imports the module gaussian"  # once, not by each rank
    assert head.startswith("2 ranks, ") and columns.split() == ["rate", "waits", "(ms)", "staleness", "exchange"]
    tried = [row.split(maxsplit=3)[3] for row in rows]
    assert tried == ["Ring()", "AllReduce()", "Hypercube()", "OneSided()"]
    assert last.removeprefix("recommended: exchange=") in tried
