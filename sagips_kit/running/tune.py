"""Which mode of exchange suits the machine: each is tried for some seconds on the user's own ranks.

Compute is emulated by sleeping, as a GPU's is: what is left is what an exchange costs a rank.
"""

import time
from dataclasses import dataclass

import numpy as np
import torch

from ..exchange import AllReduce, Chain, Every, Exchange, Hypercube, Independent, Leaders, OneSided, Ring, Within
from ..ranks.topology import groups
from ..ranks.world import World
from ..training.trainer import Trainer
from .spec import require_spec

_N_STEPS = (20, 2000)
_GOOD = 0.95  # of the best rate: as good as it, for who prefers another mode
_PERIOD = 100
_N_WARM = 20  # steps before a rank's own step is timed


@dataclass(frozen=True)
class Trial:
    """How one mode did.

    Attributes
    ----------
    exchange : Exchange
    rate : float
        Steps per second of the slowest rank, in units of its rate without exchange.
    waited_s : float
        Time spent waiting for other ranks, in seconds per step, mean over ranks.
    staleness : int
        Age of the oldest gradient used, in steps.
    """

    exchange: Exchange
    rate: float
    waited_s: float
    staleness: int


@dataclass(frozen=True)
class Tuning:
    """What `tune_exchange` found; printed, it is a table.

    Attributes
    ----------
    trials : tuple of Trial
        In order of preference: exact means first, then groups that average weights, then one-sided modes.
    best : Exchange
        The first of them that is as good as the fastest, to 5 %.
    n_weights, n_ranks : int
    step_s : float
        Length of a step without exchange, in seconds.
    """

    trials: tuple
    best: Exchange
    n_weights: int
    n_ranks: int
    step_s: float

    def __str__(self):
        lines = [
            f"{self.n_ranks} ranks, {self.n_weights} weights, {1e3 * self.step_s:.3g} ms of compute a step",
            "  rate  waits (ms)  staleness  exchange",
        ]
        for trial in self.trials:
            mark = "*" if trial.exchange == self.best else " "
            numbers = f"{trial.rate:6.3f} {1e3 * trial.waited_s:11.3f} {trial.staleness:10d}"
            lines.append(f"{mark}{numbers[1:]}  {trial.exchange!r}")
        return "\n".join([*lines, f"recommended: exchange={self.best!r}"])


def tune_exchange(world, n_weights, step_s, seconds=2.0, modes=None):
    """Try modes of exchange on the ranks of `world`, and recommend one.  Collective.

    Parameters
    ----------
    world : World
    n_weights : int
        Length of the generators' gradient on a rank, over all members.
    step_s : float
        Length of a step without exchange, in seconds.
    seconds : float
        For each mode.
    modes : list of Exchange or None
        To try, in order of preference; None takes those that make sense on these ranks.

    Returns
    -------
    Tuning
        The same on all ranks.
    """
    for name, number in {"n_weights": n_weights, "step_s": step_s, "seconds": seconds}.items():
        if not number > 0:
            raise ValueError(f"tune_exchange: {name} = {number!r} should be larger than 0.")
    modes = tuple(modes or usual_modes(world))
    n_steps = int(np.clip(seconds / step_s, *_N_STEPS))
    alone_s, *_ = _try(world, Independent(), n_weights, step_s, n_steps)
    trials = []
    for exchange in modes:
        took_s, waited_s, staleness = _try(world, exchange, n_weights, step_s, n_steps)
        trials.append(Trial(exchange, min(alone_s) / max(took_s), float(np.mean(waited_s)), max(staleness)))
    return Tuning(tuple(trials), recommended(trials), n_weights, world.size, step_s)


def tune_run(spec, world=None, seconds=2.0):
    """The same for the generators of a run, whose step is timed first on every rank.  Collective.

    Parameters
    ----------
    spec : RunSpec
        Its own exchange does not matter.
    world : World or None
        None takes all ranks of this MPI world.
    """
    require_spec(spec)
    world = world or World.here()
    try:
        n_weights, step_s = _measure_step(spec, world)
        return tune_exchange(world, n_weights, step_s, seconds)
    except BaseException as error:
        world.announce_failure(error)
        raise


def _measure_step(spec, world):
    """The generators' weights on a rank, and the seconds that a step takes the slowest rank while all train alone."""
    events = spec.problem.observed(spec.n_observed, np.random.default_rng(spec.seed))
    lone = World.alone(world.device)
    trainer = Trainer(spec.problem, spec.settings, events, n_steps=10 * _N_WARM, seed=spec.seed, world=lone)
    trainer.run(_N_WARM)
    world.barrier("all ranks to time a step")
    start = time.perf_counter()
    trainer.run(_N_WARM)
    return trainer.n_weights, max(_of_all(world, (time.perf_counter() - start) / _N_WARM))


def recommended(trials):
    """The exchange of the first of `trials` that is about as good as the fastest."""
    fastest = max(trial.rate for trial in trials)
    return next(trial.exchange for trial in trials if trial.rate >= _GOOD * fastest)


def usual_modes(world):
    """Modes that make sense on these ranks, in order of preference: list of Exchange.  Collective."""
    if world.size == 1:
        return [Independent()]
    modes = [Ring(), AllReduce(), Hypercube()]
    nodes = world.groups()
    size = len(nodes[0])
    if 1 < size < world.size and world.size % size == 0 and nodes == groups(world.size, size):
        outer = Every(_PERIOD, Leaders(Ring(payload="weights"), size=size))
        modes.append(Chain(Within(Ring(), size=size), outer))
        modes.append(Chain(Within(OneSided(), size=size), outer))
    return [*modes, OneSided()]


def _try(world, exchange, n_weights, step_s, n_steps):
    """Seconds per step, seconds waited per step, and staleness, each of all ranks."""
    buffer = torch.zeros(1, n_weights, device=world.device)
    waited_s, staleness = 0.0, 0
    with exchange.open(world, buffer) as channel:
        channel.mix_(buffer, 0)
        world.barrier("all ranks to begin a trial")
        start = time.perf_counter()
        for step in range(1, n_steps + 1):
            channel.start(buffer, step)
            for _ in range(3):  # the discriminator's step, as the trainer takes it
                time.sleep(step_s / 6)
                channel.poll()
            mixed = channel.finish()
            if channel.wants_weights(step):
                mixed = mixed.then(channel.mix_weights_(buffer, step))
            time.sleep(step_s / 2)
            waited_s, staleness = waited_s + mixed.waited_s, max(staleness, mixed.staleness)
        took_s = time.perf_counter() - start
    return tuple(_of_all(world, number) for number in (took_s / n_steps, waited_s / n_steps, staleness))


def _of_all(world, number):
    return world.comm.allgather(number) if world.comm else [number]
