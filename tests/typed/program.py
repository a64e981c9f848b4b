"""A user's program for a type checker; it is never run.

It contains README's example, every mode of its table, a problem with a pipeline, and a user's training loop.
"""

from pathlib import Path

import numpy as np
import torch
import xarray as xr
from matplotlib.axes import Axes
from numpy.typing import NDArray
from torch import Tensor

import sagips_kit
from sagips_kit import (
    AllReduce,
    Chain,
    Every,
    Exponential,
    FlatGradient,
    Hypercube,
    Independent,
    Leaders,
    Measurement,
    Observed,
    OneSided,
    Pipeline,
    Problem,
    Proxy,
    Ring,
    RunSpec,
    Select,
    Separate,
    Settings,
    Smear,
    Trainer,
    Within,
    World,
    analysis,
    check_problem,
    connect,
    fisher_information,
    fit,
    fit_likelihood,
    floor_step,
    list_runs,
    open_run,
    open_runs,
    plot,
    read_status,
)
from sagips_kit.exchange import Channel, Exchange, Mixed


def first_example() -> None:
    session = connect("local", n=4)
    spec = RunSpec(
        problem=Proxy(), settings=Settings(n_members=8), exchange=Ring(), store="runs/proxy.zarr", n_steps=2000
    )
    handle = session.submit(spec)
    handle.watch()
    handle.wait(timeout_s=60.0)
    step: int = handle.status().step
    finished: bool = read_status("runs/proxy.zarr").is_finished
    run: xr.DataTree = open_run("runs/proxy.zarr")
    table: xr.Dataset = analysis.estimate(run)
    plot.posterior(run)
    ax: Axes = plot.estimate(run)
    learned: xr.Dataset = analysis.fit(run)
    distance: float = run.sagips.distance_to_fit()
    correlations: Axes = plot.fit(run)[1]
    print(learned, distance, correlations, RunSpec(problem=Proxy(), store="runs/quick.zarr", fit=False))
    again = RunSpec.from_dict(spec.to_dict())
    print(step, finished, table, ax, again == spec, Path(spec.store), sagips_kit.__version__)


MODES: list[Exchange] = [
    Independent(),
    AllReduce(),
    AllReduce(library="torch"),
    Ring(),
    Within(Ring(), size=4),
    Chain(Within(Ring(), size=4), Every(100, Leaders(Ring(payload="weights"), size=4))),
    Chain(Within(Ring(), size=4), Every(100, Leaders(Ring(payload="updates", momentum=0.9, outer_rate=0.7), size=4))),
    OneSided(),
    OneSided(payload="gradient", max_staleness=3, beyond="wait"),
    Chain(Within(OneSided(), size=4), Every(100, Leaders(Ring(payload="weights"), size=4))),
    Every(1000, Leaders(Ring(), size=4, hand_down=False), otherwise=Within(Ring(), size=4)),
    Ring(precision="bfloat16"),
    Hypercube(),
    Exponential(),
]

MASS = torch.linspace(0.0, 10.0, 201)


def spectrum(theta: Tensor, mass: Tensor) -> Tensor:
    position, fraction = theta
    peak = torch.exp(-0.5 * ((mass - position) / 0.3) ** 2) / 0.752
    return fraction * peak + (1 - fraction) * torch.exp(-mass / 4) / 3.67


class Resonance(Problem):
    """A peak on a falling background, smeared and cut."""

    parameters = ("position", "fraction")
    lower, upper, truth = (2.0, 0.0), (8.0, 1.0), (5.0, 0.3)
    units = {"position": "GeV"}
    priors = {"fraction": (0.3, 0.1)}
    measurements = {"product": Measurement(lambda theta: theta[0] * theta[1], 1.5, 0.2)}
    observables = ("mass",)
    detector = Pipeline(spectrum, Separate(MASS), Smear(0.1), Select((0.5, 9.5)))
    noise_dim = detector.noise_dim

    def simulate(self, theta: Tensor, noise: Tensor) -> Tensor:
        return self.detector.simulate(theta, noise)

    def log_likelihood(self, theta: Tensor, events: Tensor) -> Tensor:
        return self.detector.log_likelihood(theta, events)

    def observed(self, n_events: int | None, rng: np.random.Generator) -> NDArray[np.float64]:
        return rng.exponential(4.0, (n_events or 1000, 1))

    def features(self, events: Tensor) -> Tensor:
        return torch.cat([events, events**2], dim=-1)


def polar(theta: Tensor) -> tuple[Tensor, Tensor]:
    return theta[1] * theta[0].cos(), theta[1] * theta[0].sin()


class Direction(Problem):
    """An angle and a length, of which the components are known with correlated errors."""

    parameters, lower, upper = ("phi", "length"), (0.0, 0.1), (360.0, 2.0)
    observables, noise_dim = ("hour",), 1
    periodic = {"phi": (0, 360), "hour": (0, 24)}
    measurements = {"components": Measurement(polar, (0.5, 0.2), covariance=np.diag([0.1, 0.2]))}

    def simulate(self, theta: Tensor, noise: Tensor) -> Tensor:
        return theta[0] / 15 + noise


class Phase(Direction):
    """The same with the names of periodic parameters alone."""

    periodic = ("phi",)
    measurements = {"length": Measurement(lambda theta: theta[1], 1.0, 0.1)}


class Weighted(Problem):
    """A simulator that returns weights with its events."""

    parameters, lower, upper = ("slope",), np.zeros(1), np.ones(1)
    observables, noise_dim = ("x",), 1

    def simulate(self, theta: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        return noise, theta[0] * noise[:, 0]


def own_problem() -> None:
    problem = Resonance()
    print(check_problem(problem))
    events = problem.observed(None, np.random.default_rng(0))
    learned = fit(problem, events)
    axes: NDArray[np.object_] = plot.fit(learned, truth=problem.truth)
    print(learned.findings, axes.shape)
    best = fit_likelihood(problem, events)
    deviations: NDArray[np.float64] = best.deviation
    information = fisher_information(problem, best.theta, events)
    with Trainer(problem, Settings(), events, n_steps=2000, exchange=Ring()) as trainer:
        for record in trainer.iterate():
            if abs(floor_step(problem, record.theta.mean(axis=0), events)).max() < 0.3:
                break
    spec = RunSpec(problem=problem, store="runs/resonance.zarr", events=Observed("run7.root", within={"mass": (1, 9)}))
    print(deviations, information, sagips_kit.run(spec), list_runs("runs"), open_runs("runs/*.zarr", along="mode"))


def own_loop(network: torch.nn.Module, optimizer: torch.optim.Optimizer, n_steps: int) -> None:
    world = World.here()
    flat = FlatGradient(network.parameters())
    with Ring().open(world, flat.buffer) as channel:
        for step in range(n_steps):
            mixed: Mixed = channel.mix_(flat.pack(), step)
            flat.unpack()
            optimizer.step()
            print(mixed.staleness, mixed.waited_s)


class Nobody(Channel):
    """A user-defined channel."""

    def mixing(self, flat, step, payload):
        return Mixed()
        yield
