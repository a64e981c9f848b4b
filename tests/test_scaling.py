"""The simulation of many ranks, in cases with exactly known results, and the weak-scaling benchmark on two ranks."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import integrate, stats

from sagips_kit.exchange import (
    AllReduce,
    Chain,
    Every,
    Exponential,
    Hypercube,
    Independent,
    Leaders,
    OneSided,
    Ring,
    Within,
)

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.append(str(BENCHMARKS))  # at the end of the path, because files in both folders may have the same names
prediction, simulation = (importlib.import_module(name) for name in ("prediction", "simulate"))
Compute, Costs, Forwarding, simulate = (
    getattr(simulation, name) for name in ("Compute", "Costs", "Forwarding", "simulate")
)

STEADY = Compute(0.05, jitter=0.0, overlap=0.0)
ONE_SIDED = OneSided()
FREE = Costs()


def grouped(inner, period=10):
    return Chain(Within(inner, size=4), Every(period, Leaders(Ring(payload="weights"), size=4)))


@pytest.mark.parametrize(
    "mode",
    [Independent(), AllReduce(), Ring(), ONE_SIDED, Hypercube(), Forwarding(), grouped(Ring()), grouped(ONE_SIDED)],
    ids=str,
)
def test_steady_ranks_with_free_exchanges_are_as_fast_as_one(mode):
    outcome = simulate(mode, 16, STEADY, FREE, n_steps=20)
    assert outcome.rate == pytest.approx(1)
    assert outcome.waited == pytest.approx(0)


def test_steps_have_the_given_mean_and_spread(rng):
    lengths = Compute(0.05, jitter=0.2).draw(rng, 100_000)
    assert lengths.mean() == pytest.approx(0.05, rel=0.003)
    assert lengths.std() == pytest.approx(0.01, rel=0.02)
    paused = Compute(0.05, jitter=0.0, pauses=0.1, pause_steps=5.0)
    assert paused.draw(rng, 100_000).mean() == pytest.approx(paused.mean_s, rel=0.01)


@pytest.mark.parametrize("n", [2, 16, 400])
def test_synchronous_ranks_go_at_the_pace_of_the_slowest(n):
    variance = np.log1p(0.1**2)
    step = stats.lognorm(s=np.sqrt(variance), scale=np.exp(-variance / 2))
    slowest = integrate.quad(lambda length: 1 - step.cdf(length) ** n, 0, 3)[0]
    outcome = simulate(AllReduce(), n, Compute(0.05, jitter=0.1, overlap=0.0), FREE, n_steps=2000)
    assert outcome.rate == pytest.approx(1 / slowest, rel=0.005)
    # Time is conserved: a rank either works or waits.
    assert 1 / outcome.rate - outcome.waited == pytest.approx(1, rel=0.005)


@pytest.mark.parametrize("node", [4, 1])
def test_polling_the_exchange_more_often_hides_the_slowest_rank(node):
    costs = Costs(node, message_s=1e-4)
    rates = [simulate(Ring(), 4, Compute(0.05, n_polls=n), costs).rate for n in (1, 4, 16)]
    assert rates == sorted(rates)
    assert simulate(Ring(), 4, Compute(0.05, jitter=0.01, overlap=0.9, n_polls=100), costs).rate > 0.995


def test_one_sided_ranks_do_not_wait_and_see_old_contributions():
    alike = simulate(ONE_SIDED, 4, STEADY, FREE)
    assert (alike.waited, alike.staleness_max) == (0, 0)
    across_nodes = simulate(ONE_SIDED, 4, STEADY, Costs(node=1), n_steps=50)
    assert across_nodes.staleness_max == 1
    uneven = simulate(ONE_SIDED, 4, Compute(0.05), FREE)
    assert uneven.waited == 0
    assert 1 < uneven.staleness < uneven.staleness_max < 30


@pytest.mark.parametrize(
    ("mode", "hops", "buffers"),
    [
        (Ring(), 2 * 15, 2 * 15 / 16),
        (Hypercube(), 4, 4),
        (AllReduce(), 2 * 4, 2),
        (Forwarding(), 15, 15),
        (Every(10, Leaders(Ring(payload="weights"), size=4)), (2 * 3 + 2) / 10, (2 * 3 / 4 + 2) / 10),
    ],
    ids=str,
)
def test_each_mode_costs_its_messages(mode, hops, buffers):
    costs = Costs(node=1, message_s=1e-3, buffer_s=1e-2)
    outcome = simulate(mode, 16, STEADY, costs, n_steps=20)
    assert 1 / outcome.rate == pytest.approx(1 + (hops * 1e-3 + buffers * 1e-2) / STEADY.step_s)


@pytest.mark.parametrize(("message_s", "late_s"), [(1e-4, 0.0), (1e-3, 0.01)])
def test_messages_are_hidden_by_the_rest_of_the_step(message_s, late_s):
    compute = Compute(0.05, jitter=0.0, overlap=0.4, n_polls=1000)
    outcome = simulate(Ring(), 16, compute, Costs(node=1, message_s=message_s), n_steps=20)
    assert 1 / outcome.rate == pytest.approx(1 + late_s / compute.step_s)  # 30 messages in 20 ms
    # A part that is not due in a step takes no time.
    idle_first = Chain(Every(100, Leaders(Ring(payload="weights"), size=4)), Ring())
    assert simulate(idle_first, 16, compute, Costs(node=1, message_s=message_s), n_steps=20) == outcome


def test_a_group_waits_for_its_own_ranks_only():
    uneven = Compute(0.05)
    inner = simulate(Within(Ring(), size=4), 64, uneven, FREE).rate
    assert inner == pytest.approx(simulate(Ring(), 4, uneven, FREE).rate, rel=0.01)
    assert simulate(grouped(Ring()), 64, uneven, FREE).rate < inner


def test_the_published_curves_are_those_of_the_published_algorithm():
    for curve in prediction.published(jitter=0.0)["curves"].values():
        for point in curve.values():
            assert point["simulated"] == pytest.approx(point["published"], rel=0.15)


def test_what_cannot_be_simulated_is_refused():
    with pytest.raises(ValueError, match="6 ranks in groups of 4: choose a size that divides the number of ranks"):
        simulate(Within(Ring(), size=4), 6, STEADY, FREE)
    with pytest.raises(TypeError, match="no rule for Exponential"):
        simulate(Exponential(), 4, STEADY, FREE)


@pytest.mark.mpi
def test_two_ranks_are_measured_and_simulated(tmp_path):
    path = tmp_path / "scaling.json"
    options = ["--ranks", "2", "--steps", "40", "--period", "20", "--rounds", "1", "--step-ms", "5", "--size", "2"]
    command = [sys.executable, BENCHMARKS / "scaling.py", *options, "--out", path]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    measured = json.loads(path.read_text())
    found = measured["ranks"]["2"]
    assert found["independent"]["staleness_max"] == 0
    assert found["one-sided ring"]["staleness"] > 0
    assert all(0 < result["slowest"] <= result["rate"] for name, result in found.items() if name != "alone")
    rows = prediction.validate(measured)
    assert {row["mode"] for row in rows} == found.keys() - {"alone"}
    assert all(0 < row["simulated"] < 1.2 for row in rows)
