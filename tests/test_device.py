"""Training steps on an accelerator: nothing comes from the host or waits for it between two records."""

import contextlib
import sys

import numpy as np
import pytest
import torch
from device_work import OnDevice

from sagips_kit import DayaBay, Image, Linear, Octants, Proxy, Proxy2D, Settings, Trainer, World
from sagips_kit.ranks import accelerators
from sagips_kit.statistics.basis import Basis
from sagips_kit.statistics.features import AutomaticFeatures, of_events
from sagips_kit.statistics.simulated import Observation

SMALL = Settings(n_members=3, n_events=64, generator_widths=(8, 8), discriminator_widths=(8, 8))
# The most launches of a step, which does not depend on numbers of members or events
BUDGETS = {
    "Proxy": (Proxy(n_observed=500), 216),
    "Proxy2D": (Proxy2D(n_observed=500), 408),
    "Proxy2D, LOITS": (Proxy2D(n_observed=500, sampler="LOITS"), 308),
    "Image": (Image(n_pixels=4, n_observed=500), 406),
    "Linear": (Linear(n_observed=500), 182),
    "Octants": (Octants(n_observed=500), 158),
    "DayaBay": (DayaBay(), 420),
}


@pytest.fixture(autouse=True)
def adam_on_meta(monkeypatch):
    """PyTorch knows no fused optimiser of the meta device, but has the operator."""
    optimisers = sys.modules[torch.optim.Optimizer.__module__]  # `del optimizer` hides it in torch.optim
    monkeypatch.setattr(optimisers, "_get_fused_kernels_supported_devices", lambda: ["cpu", "meta"])


def make_trainer(problem, settings=SMALL, device="meta", **options):
    events = problem.observed(2000 if isinstance(problem, DayaBay) else None, np.random.default_rng(0))
    return Trainer(problem, settings, events, n_steps=200, world=World.alone(device), **options)


def step_between_records(trainer):
    """The work of a step far from its records, axes and new blocks of random numbers."""
    trainer.step = 1
    for _ in range(2):  # the first copies constants to the device
        trainer._train_step()
    with OnDevice("meta") as work:
        trainer._train_step()
    return work


@pytest.mark.parametrize("name", BUDGETS)
def test_a_step_needs_nothing_of_the_host(name):
    problem, most = BUDGETS[name]
    work = step_between_records(make_trainer(problem))
    assert work.n <= most, work.launches.most_common()
    assert work.n_copies <= 6, work.launches  # changes of type, on the device


def test_the_host_would_be_noticed():
    numbers = torch.zeros(3, device="meta")
    for mixed in (
        lambda: numbers + torch.tensor(1.0),
        lambda: torch.ones(3).to("meta"),
        lambda: numbers.copy_(torch.ones(3)),
    ):
        with OnDevice("meta"), pytest.raises(AssertionError, match="not on 'meta'"):
            mixed()
    with OnDevice("meta"), pytest.raises(AssertionError, match="depends on a mask"):
        torch.ops.aten.index(torch.zeros(3, device="meta"), [torch.zeros(3, device="meta", dtype=torch.bool)])


@pytest.mark.parametrize("problem", [Linear(n_observed=400), DayaBay()], ids=["score", "score and categories"])
def test_the_learned_score_needs_nothing_of_the_host(problem):
    """Its functions, and those of events without declared features, are on the device, too."""
    events = problem.observed(2000 if isinstance(problem, DayaBay) else None, np.random.default_rng(0)).astype(float)
    observation = Observation(problem, events)
    function = Basis(observation.coordinates, 4)
    matrix = torch.zeros(
        function(observation.coordinates(observation.events, category=observation.category)[0]).shape[1], 2
    )
    automatic = AutomaticFeatures(problem, observation.events.float())
    some, there = torch.zeros(50, len(problem.observables), device="meta"), matrix.to("meta")
    for context in (contextlib.nullcontext(), OnDevice("meta")):  # constants are copied to the device once
        with context:
            automatic(some)
            of_events(problem, observation.coordinates, lambda z: function.combined(z, there), some)


@pytest.fixture
def machine(monkeypatch):
    """A machine with so many accelerators of a kind."""

    def make(kind, n):
        monkeypatch.setattr(torch.accelerator, "is_available", lambda: n > 0)
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device(kind))
        monkeypatch.setattr(torch.accelerator, "device_count", lambda: n)
        monkeypatch.setattr(accelerators, "_hardware", lambda: "a GPU of Intel" if kind == "xpu" else "")

    monkeypatch.delenv("SAGIPS_DEVICE", raising=False)
    return make


@pytest.mark.parametrize(
    ("kind", "n", "wanted", "expected"),
    [
        ("cuda", 4, "", ["cuda:0", "cuda:1", "cuda:2", "cuda:3", "cuda:0"]),
        ("xpu", 1, "", ["xpu:0"] * 5),  # each rank sees its own, by ZE_AFFINITY_MASK
        ("xpu", 12, "xpu", ["xpu:0", "xpu:1", "xpu:2", "xpu:3", "xpu:4"]),
        ("cuda", 4, "cpu", ["cpu"] * 5),
        ("mps", 1, "", ["cpu"] * 5),
        ("mps", 1, "mps", ["mps:0"] * 5),
        ("cuda", 0, "", ["cpu"] * 5),
    ],
)
def test_ranks_take_the_accelerators_of_their_node_in_turn(machine, monkeypatch, kind, n, wanted, expected):
    machine(kind, n)
    monkeypatch.setenv("SAGIPS_DEVICE", wanted)
    assert [accelerators.pick_device(rank, 12) for rank in range(5)] == expected


def test_an_idle_accelerator_is_reported_once_on_a_node(machine):
    machine("cuda", 4)
    with pytest.warns(
        UserWarning, match="2 of the 4 accelerators of this machine are idle, because it has only 2 ranks"
    ):
        accelerators.pick_device(0, 2)
    accelerators.pick_device(1, 2)
    machine("xpu", 0)  # of which this PyTorch knows nothing
    with pytest.warns(UserWarning, match="a GPU of Intel, which this PyTorch .* does not support.*SAGIPS_DEVICE=cpu"):
        accelerators.pick_device(0)


def test_a_device_that_is_not_there_is_refused(machine, monkeypatch):
    machine("cuda", 2)
    monkeypatch.setenv("SAGIPS_DEVICE", "xpu")
    with pytest.raises(ValueError, match="'xpu': this PyTorch .* finds no such device on this machine, only 'cuda'"):
        accelerators.pick_device(0)
    monkeypatch.setenv("SAGIPS_DEVICE", "gpu")
    with pytest.raises(ValueError, match="'gpu': should be one of cpu, cuda, xpu, mps, or empty"):
        World.alone()


@pytest.mark.skipif(not torch.accelerator.is_available(), reason="there is no accelerator")
def test_an_accelerator_does_what_the_cpu_does():
    """The random numbers are the same, so that whole runs agree, and a resumed run has the same bits."""
    problem, device = Proxy(n_observed=2000), World.alone().device
    on_cpu, there, resumed = (make_trainer(problem, device=where) for where in ("cpu", device, device))
    np.testing.assert_allclose(there.run(40).theta, on_cpu.run(40).theta, rtol=1e-2, atol=1e-2)
    resumed.load_state_dict(there.state_dict())
    there.run()
    resumed.run()
    np.testing.assert_array_equal(resumed.draws, there.draws)
