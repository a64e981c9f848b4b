"""Which mode of exchange suits the machine: each mode is tried for some seconds on the user's own ranks.

Compute is emulated by sleeping, which leaves the processor free as a GPU does.  So the trial measures only what the
exchange costs a rank.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from .._text import counted
from ..exchange import AllReduce, Chain, Every, Exchange, Hypercube, Independent, Leaders, OneSided, Ring, Within
from ..ranks.device_group import obstacle
from ..ranks.topology import groups
from ..ranks.world import World
from ..training.trainer import Trainer
from .launch import all_ranks, observed_events
from .spec import RunSpec, require_spec

_N_STEPS = (20, 2000)
_GOOD = 0.95  # a mode this close to the best rate counts as equally good
_PERIOD = 100
_N_WARM = 20  # steps before a rank's step is timed


@dataclass(frozen=True)
class Trial:
    """The measured performance of one mode.

    Parameters
    ----------
    exchange : Exchange
        The mode.
    rate : float
        Steps per second of the slowest rank, relative to its rate without exchange.
    waited_s : float
        Time spent waiting for other ranks, in seconds per step, averaged over ranks.
    staleness : int
        Age of the oldest gradient used, in steps.
    """

    exchange: Exchange
    rate: float
    waited_s: float
    staleness: int


@dataclass(frozen=True)
class Tuning:
    """The result of `tune_exchange` and `Session.tune`; printed, it is a table.

    Parameters
    ----------
    trials : tuple of Trial
        The modes that were tried, each with its `exchange`, `rate`, `waited_s` and `staleness`, in order of preference:
        modes with an exact mean first, then groups that average weights, then one-sided modes.
    best : Exchange
        The recommended mode: the first whose rate is within 5 % of the highest.
    n_weights : int
        Number of weights that a rank exchanges in a step.
    n_ranks : int
        Number of ranks on which the modes were tried.
    step_s : float
        Duration of a step without exchange, in seconds.

    Examples
    --------
    >>> from sagips_kit import Ring, World, tune_exchange
    >>> tuning = tune_exchange(World.alone("cpu"), n_weights=1000, step_s=0.001, trial_s=0.02, modes=[Ring()])
    >>> tuning.best, tuning.trials[0].staleness
    (Ring(), 0)
    >>> print(tuning)
    1 rank, 1000 weights, 1 ms of compute per step
      rate  waits (ms)  staleness  exchange
    ...
    recommended: exchange=Ring()
    """

    trials: tuple[Trial, ...]
    best: Exchange
    n_weights: int
    n_ranks: int
    step_s: float

    def __str__(self) -> str:
        ranks, step_ms = counted(self.n_ranks, "rank"), 1e3 * self.step_s
        lines = [
            f"{ranks}, {self.n_weights} weights, {step_ms:.3g} ms of compute per step",
            "  rate  waits (ms)  staleness  exchange",
        ]
        for trial in self.trials:
            mark = "*" if trial.exchange == self.best else " "
            numbers = f"{trial.rate:6.3f} {1e3 * trial.waited_s:11.3f} {trial.staleness:10d}"
            lines.append(f"{mark}{numbers[1:]}  {trial.exchange!r}")
        return "\n".join([*lines, f"recommended: exchange={self.best!r}"])


def tune_exchange(
    world: World, n_weights: int, step_s: float, trial_s: float = 2.0, modes: Sequence[Exchange] | None = None
) -> Tuning:
    """Try modes of exchange on the ranks of `world`, and recommend one.  Collective.

    Each mode exchanges buffers of `n_weights` numbers between steps that only sleep, so nothing is trained.
    `Session.tune` and `sagips tune` measure `n_weights` and `step_s` of a run first.

    Parameters
    ----------
    world : World
        The ranks, for instance `World.here()`.
    n_weights : int
        Number of weights of the generators on a rank, over all members: the length of the gradient it exchanges.
    step_s : float
        Duration of a step without exchange, in seconds.
    trial_s : float
        Time for each mode, in seconds; a trial has at least 20 and at most 2000 steps.
    modes : sequence of Exchange or None
        Modes to try, in order of preference.  None takes those that make sense on these ranks.

    Returns
    -------
    Tuning
        The measurements and the recommended mode (`best`), the same on all ranks.

    Raises
    ------
    ValueError
        If `n_weights`, `step_s` or `trial_s` is not positive.
    PeerError
        If another rank has failed, or has not answered in time.

    See Also
    --------
    RunSpec : The field `exchange` takes the recommended mode.

    Examples
    --------
    >>> from sagips_kit import AllReduce, Ring, World, tune_exchange
    >>> world = World.alone("cpu")
    >>> tuning = tune_exchange(world, n_weights=1000, step_s=0.001, trial_s=0.02, modes=[Ring(), AllReduce()])
    >>> [trial.exchange for trial in tuning.trials]
    [Ring(), AllReduce()]
    """
    for name, number in {"n_weights": n_weights, "step_s": step_s, "trial_s": trial_s}.items():
        if not number > 0:
            raise ValueError(f"tune_exchange: {name} = {number!r}: should be larger than 0.")
    modes = tuple(modes or usual_modes(world))
    n_steps = int(np.clip(trial_s / step_s, *_N_STEPS))
    alone_s, *_ = _try(world, Independent(), n_weights, step_s, n_steps)
    trials = []
    for exchange in modes:
        took_s, waited_s, staleness = _try(world, exchange, n_weights, step_s, n_steps)
        trials.append(Trial(exchange, min(alone_s) / max(took_s), float(np.mean(waited_s)), int(max(staleness))))
    return Tuning(tuple(trials), recommended(trials), n_weights, world.size, step_s)


def tune_run(spec: RunSpec, world: World | None = None, trial_s: float = 2.0) -> Tuning:
    """Time a step of a run on every rank, then try modes of exchange for its generators.  Collective.

    Parameters
    ----------
    spec : RunSpec
        The run; its own exchange does not matter, and nothing is stored.
    world : World or None
        None takes all ranks that an MPI launcher started together with this one.
    trial_s : float
        Time for each mode, in seconds.

    Returns
    -------
    Tuning
        The same on all ranks.
    """
    require_spec(spec)
    with all_ranks(world) as world:
        try:
            n_weights, step_s = _measure_step(spec, world)
            return tune_exchange(world, n_weights, step_s, trial_s)
        except BaseException as error:
            world.announce_failure(error)
            raise


def recommended(trials: Sequence[Trial]) -> Exchange:
    """The exchange of the first of `trials` that is about as good as the fastest."""
    fastest = max(trial.rate for trial in trials)
    return next(trial.exchange for trial in trials if trial.rate >= _GOOD * fastest)


def usual_modes(world: World) -> list[Exchange]:
    """Modes that make sense on these ranks, in order of preference.  Collective."""
    if world.size == 1:
        return [Independent()]
    modes: list[Exchange] = [Ring(), AllReduce(), Hypercube()]
    inner: list[Exchange] = [Ring(), OneSided()]
    if not obstacle(world, world.device) and world.device.type != "cpu":
        on_devices = AllReduce(library="torch")
        modes.insert(2, on_devices)
        inner.insert(1, on_devices)
    nodes = world.groups()
    size = len(nodes[0])
    if 1 < size < world.size and world.size % size == 0 and nodes == groups(world.size, size):
        outer = Every(_PERIOD, Leaders(Ring(payload="weights"), size=size))
        modes += [Chain(Within(part, size=size), outer) for part in inner]
    return [*modes, OneSided()]


def _measure_step(spec: RunSpec, world: World) -> tuple[int, float]:
    """Weights of the generators on a rank, and seconds per step of the slowest rank while all train alone."""
    events, _ = observed_events(spec)
    lone = World.alone(world.device)
    trainer = Trainer(spec.problem, spec.settings, events, n_steps=10 * _N_WARM, seed=spec.seed, world=lone)
    trainer.run(_N_WARM)
    world.barrier("all ranks to time a step")
    start = time.perf_counter()
    trainer.run(_N_WARM)
    return trainer.n_weights, max(_of_all(world, (time.perf_counter() - start) / _N_WARM))


def _try(
    world: World, exchange: Exchange, n_weights: int, step_s: float, n_steps: int
) -> tuple[list[float], list[float], list[float]]:
    """Seconds per step, seconds waited per step, and staleness, each of all ranks."""
    buffer = torch.zeros(1, n_weights, device=world.device)
    waited_s, staleness = 0.0, 0
    with exchange.open(world, buffer) as channel:
        channel.mix_(buffer, 0)
        world.barrier("all ranks to begin a trial")
        start = time.perf_counter()
        for step in range(1, n_steps + 1):
            channel.start(buffer, step)
            for _ in range(3):  # the step of the discriminator, as the trainer makes it
                time.sleep(step_s / 6)
                channel.poll()
            mixed = channel.finish()
            if channel.wants_weights(step):
                mixed = mixed.then(channel.mix_weights_(buffer, step))
            time.sleep(step_s / 2)
            waited_s, staleness = waited_s + mixed.waited_s, max(staleness, mixed.staleness)
        took_s = time.perf_counter() - start
    return _of_all(world, took_s / n_steps), _of_all(world, waited_s / n_steps), _of_all(world, staleness)


def _of_all(world: World, number: float) -> list[float]:
    return world.comm.allgather(number) if world.comm else [number]
