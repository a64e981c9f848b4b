"""The training loop of one rank: in each step one update of its discriminators, one exchange, one of its generators.

The loop is a generator of records; the caller decides what to do with them.  It knows an exchange only by its contract,
and files not at all.
"""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from .. import _circular
from ..events.resampling import Resampling, check_events, require_resolution
from ..events.streams import Stream
from ..exchange import Independent
from ..problems.arguments import require_arguments
from ..problems.constants import NumbersOnDevice
from ..problems.noise import stratified_noise
from ..ranks.accelerators import memory_of
from ..ranks.world import World
from ..statistics.start import Start
from ..store.diagnostics import Watch
from ..store.witnesses import DISPLACED, is_witness, stretch
from . import predictions, schedules, state_dicts
from .capture import Dials, Recorder, Repeated, recorder_for
from .data import RankData
from .footprint import require_memory
from .gan import GAN, Begin
from .nonfinite import Guard
from .records import Draws, Record
from .seeds import StepNoise, random_keys, random_streams
from .settings import Settings

if TYPE_CHECKING:
    from ..exchange import Exchange
    from ..exchange.channel import Channel
    from ..problems.base import Problem

_CALL = "Trainer(problem, settings, events, n_steps=...)"
_CLOCK = ("step", "_waited_s", "_elapsed_s", "_staleness")


class Trainer:
    """Train the generators and discriminators of one rank.  Collective if the exchange is.

    `RunSpec` with `run` does the same and writes a store.  Use a Trainer to keep the loop in your own hands.

    Parameters
    ----------
    problem : Problem
        The unknown parameters and the pipeline from them to events.
    settings : Settings
        How to train: numbers of members and events, networks, learning rates and so on.
    events : array_like (event, observable)
        The observed events, the same on all ranks, in the order and units of the problem's observables.
    n_steps : int
        Length of the run in steps.  Learning rates and other schedules depend on it.
    seed : int
        Seed of all random streams.  Give the same on all ranks: each derives different streams from it.
    world : World or None
        The ranks that train together; None for a single rank without MPI.
    exchange : Exchange or None
        How ranks exchange the gradients of their generators, such as Ring(); None for Independent(), no exchange.
    windows : callable or None
        For more events than fit into memory: maps a number 0, 1, ... to the events (event, observable) of that window.
        Batches are then drawn from windows, of which each is read by one rank of a replica, and `events` is a random
        sample of all events.
    start : Start or None
        Begin at a fit, whose score the discriminators see: `fit(problem, events).start()`.  The last quarter of the
        chains are witnesses, which begin 2 deviations away, or more in a short run, and do not see the score.  None
        begins in the middle of the ranges, and explores them.
    earlier : sequence of int
        Last step of each earlier segment, if this continues a finished run: learning rates begin anew, generators do
        not explore again, and draws are those of the last segment.  `load_state_dict` gives the state to continue from.

    Attributes
    ----------
    problem : Problem
        The problem.
    chain_fits, chain_starts : ndarray (member, parameter)
        With a start, the fit of each chain's resample, and where the chain began; else NaN.
    is_witness : ndarray (member,) of bool
        Which chains are witnesses; their draws belong to no posterior.
    settings : Settings
        The settings.
    n_steps : int
        Length of the run in steps.
    seed : int
        Seed of all random streams.
    world : World
        The ranks that train together.
    step : int
        Steps done so far.
    gan : GAN
        The networks (`gan.generator`, `gan.discriminator`), their optimisers, and the features of events.
    data : RankData
        The observed events as this rank uses them.
    theta : Tensor (member, set, parameter)
        Parameter vectors of the last step; empty before the first.

    Raises
    ------
    ValueError
        If the events do not fit the problem, or a network does not.

    See Also
    --------
    run : Train a RunSpec on one or more ranks and write a store.
    FlatGradient : For a training loop that is entirely your own.

    Examples
    --------
    >>> import numpy as np
    >>> from sagips_kit import Proxy, Settings, Trainer
    >>> problem = Proxy(n_observed=1000)
    >>> events = problem.observed(None, np.random.default_rng(0))
    >>> settings = Settings(n_members=2, n_events=128, n_draws=5)

    `iterate` is a loop over records, one for each `settings.record_every` steps; `run` trains to the end at once.

    >>> with Trainer(problem, settings, events, n_steps=50) as trainer:
    ...     for record in trainer.iterate(20):
    ...         print(record.step, record.theta.shape)
    ...     last = trainer.run()
    10 (2, 6)
    20 (2, 6)
    >>> last.step
    50

    After the last step, the draws of each chain are complete: (member, draw, parameter).

    >>> trainer.draws.shape
    (2, 5, 6)
    """

    def __init__(
        self,
        problem: Problem,
        settings: Settings,
        events: ArrayLike,
        *,
        n_steps: int,
        seed: int = 0,
        world: World | None = None,
        exchange: Exchange | None = None,
        windows: Callable[[int], NDArray] | None = None,
        start: Start | None = None,
        earlier: Sequence[int] = (),
    ):
        require_arguments(_CALL, problem, events)
        if not isinstance(settings, Settings):
            raise TypeError(f"{type(settings).__name__} is not Settings, which come second. Type {_CALL}.")
        checked = check_events(problem, events)
        require_resolution(problem, checked)
        exchange, world = exchange or Independent(), world or World.alone()
        require_memory(problem, settings, *memory_of(world.device))
        self.problem, self.settings, self.n_steps, self.seed, self.world = problem, settings, n_steps, seed, world
        self.step, self._first_step = 0, max(earlier, default=0)  # the latter of this segment
        replica = exchange.replica(world.rank, world.size)  # raises an error if the replicas depend on the nodes
        replicas = exchange.replicas(world.size) or ()
        whose = seed, replica, world.rank, settings.n_members
        self._random = random_streams(*whose, Stream.PREDICTION)
        chains = range(replica * settings.n_members, (replica + 1) * settings.n_members)
        n_chains = exchange.n_replicas(world.size) * settings.n_members
        resampling = Resampling(chains, n_chains, seed, settings.bootstrap)
        share = replicas[: world.rank].count(replica), replicas.count(replica)
        keys = random_keys(*whose, Stream.BATCHES)
        self.data = RankData(problem, settings, checked, resampling, keys, world.device, windows, share)
        self._start, begin = start, None
        self.chain_fits = np.full((settings.n_members, len(problem.parameters)), np.nan)
        self.chain_starts, self.is_witness = self.chain_fits, np.zeros(settings.n_members, dtype=bool)
        if start is not None:
            begin = self._begin(start, resampling, n_seen=min(earlier, default=n_steps) * settings.n_events * share[1])
        n_left = n_steps - self._first_step
        networks = {
            name.name.lower(): random_streams(*whose, name) for name in (Stream.GENERATOR, Stream.DISCRIMINATOR)
        }
        self.gan = GAN(problem, settings, self.data, networks, n_left, world.device, begin, bool(earlier))
        self._noise = StepNoise(whose, settings, problem.noise_dim, world.device)
        self._repeat_with(recorder_for(settings, world.device, windows is not None))
        self._numbers = contextlib.nullcontext() if world.device.type == "cpu" else NumbersOnDevice()
        self.theta = torch.empty(settings.n_members, 0, len(problem.parameters))
        self._guard = Guard(self.gan.discriminator, self.gan.optimisers["discriminator"], settings.max_rollbacks)
        self._circles = None
        if problem.periodic:
            self._circles = _circular.circles(problem.parameters, _circular.intervals(problem))
        self._draws = Draws.of_run(settings, n_steps, len(problem.parameters), self._circles, self._first_step)
        self._averaged: list[Tensor] = []  # theta of steps since the last record, on the device
        self._watch = Watch(problem, settings.loss, 0 if earlier else settings.exploration * n_steps)
        self._waited_s, self._elapsed_s, self._staleness = 0.0, 0.0, 0
        self._channel: Channel = exchange.open(world, self.gan.gradient.buffer)

    def _begin(self, start: Start, resampling: Resampling, n_seen: int) -> Begin:
        """Where the members begin that will see so many events, and which of them are witnesses."""
        problem, chains, n_chains = self.problem, resampling.chains, resampling.n_chains
        observed, constraints = self.data.observed, self.data.constraints
        fits = start.fits_of(observed, resampling.indices(len(observed)), constraints.shifts.cpu())
        farther = stretch(n_seen / len(observed))
        starts = start.displaced(fits, chains, n_chains, self.seed, farther * DISPLACED)
        self.chain_fits, self.chain_starts = fits.numpy(), starts.numpy()
        lower, upper = (torch.as_tensor(np.asarray(end, dtype=float)) for end in (problem.lower, problem.upper))
        self.is_witness = np.array([is_witness(chain, n_chains) for chain in chains])
        is_blind = torch.as_tensor(self.is_witness)
        stride = torch.where(is_blind, schedules.witness_stride(farther), 1.0)
        t = (starts - lower) / (upper - lower)
        information, deviation = start.in_ranges()
        return Begin(t, start.features, start.n_components, is_blind, information, stride, deviation)

    def __enter__(self):
        return self

    def __exit__(self, *exception: Any) -> None:
        self._channel.__exit__(*exception)

    def close(self) -> None:
        """Release the messages and buffers of the exchange.  Collective; `with Trainer(...)` does it."""
        self._channel.close()

    def stand_by(self, step: int) -> None:
        """After the last step of a run that was resumed, let the others continue.  Collective.

        Parameters
        ----------
        step : int
            Number of steps that the others have made.
        """
        for number in range(step, self.n_steps):
            self._channel.stand_by(number, "gradient")
            self._channel.stand_by(number, "weights")

    @property
    def has_start(self) -> bool:
        """Whether the chains began at a fit."""
        return self._start is not None

    @property
    def draws(self) -> NDArray:
        """Draws of each chain, ndarray (member, draw, parameter); NaN until the last part of the run."""
        return self._draws.values

    @property
    def chain_ends(self) -> NDArray:
        """Mean of the draws of each chain, ndarray (member, parameter), after the last step."""
        if self._circles is None:
            return self.draws.mean(1)
        return _circular.mean(self.draws.swapaxes(1, 2), *self._circles)

    @property
    def n_weights(self) -> int:
        """Length of the exchanged gradient: number of weights of all members' generators."""
        return self.gan.gradient.buffer.numel()

    def iterate(self, n_steps: int | None = None) -> Iterator[Record]:
        """Train, and yield a record after each `settings.record_every` steps and after the last one.

        Parameters
        ----------
        n_steps : int or None
            Number of further steps; None, or more than are left, to train to the end of the run.

        Yields
        ------
        Record
            Parameters and losses of this rank's members, and times, after a step.

        Raises
        ------
        RuntimeError
            If gradients are NaN or infinite more often in succession than `settings.max_rollbacks` allows.

        Warns
        -----
        UserWarning
            If a GAN is stuck in a way that it cannot leave by itself, or numbers were not finite; the text says what to
            do.
        """
        last = self.n_steps if n_steps is None else min(self.n_steps, self.step + n_steps)
        start = time.perf_counter() - self._elapsed_s
        while self.step < last:
            losses = self._train_step()
            if self._draws.wants(self.step - 1):
                self._averaged.append(self._mean_theta())
            self._elapsed_s = time.perf_counter() - start
            if self.step % self.settings.record_every == 0 or self.step == last:
                self._add_draws()
                yield self._record(losses)

    def run(self, n_steps: int | None = None) -> Record | None:
        """Train, and return the last record.

        Parameters
        ----------
        n_steps : int or None
            Number of further steps; None, or more than are left, to train to the end of the run.

        Returns
        -------
        Record or None
            Parameters and losses of this rank's members after the last step; None if there was no step left.
        """
        record = None
        for record in self.iterate(n_steps):
            pass
        return record

    def predict(self) -> NDArray:
        """Simulate events from each draw, to compare with the observed ones.

        Each call takes new random numbers, which no other part of the run uses.

        Returns
        -------
        ndarray (member, draw, event, observable)
            `settings.n_predictive` events for each draw, with the observed shares of the categories.
        """
        theta = torch.as_tensor(self.draws, dtype=torch.float32, device=self.world.device)
        n_events = self.settings.n_predictive
        n_made, noise_dim = predictions.n_simulated(self, n_events), self.problem.noise_dim
        # Not a net, whose points are more even than those of observed events.
        drawn = [stratified_noise(self.settings.n_draws * n_made, noise_dim, random) for random in self._random]
        noise = torch.stack(drawn).view(len(drawn), -1, n_made, noise_dim).to(self.world.device)
        with torch.no_grad():
            events = predictions.with_observed_shares(self, self.gan.simulate(theta, noise), n_events)
        return events.cpu().numpy()

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the run depends on.

        Take it after a record, before the next step.

        Returns
        -------
        dict
            Nested dicts of tensors in host memory.
        """
        return state_dicts.collected(self._parts())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue, with the same bits, where a `state_dict` was taken.

        Parameters
        ----------
        state : dict
            What `state_dict` returned, of a trainer made with the same arguments.

        Raises
        ------
        ValueError
            If that trainer was made with other arguments.
        """
        if "noise" in state.get("random", {}):
            raise ValueError(
                "The checkpoint is that of an earlier version of sagips_kit, which drew other random numbers. Resume "
                "the run with that version, or start it again with overwrite=True."
            )
        state_dicts.restore(self._parts(), state)
        if self.step == self._first_step:
            self._draws.clear()
        # The optimisers have other tensors now.
        self._repeated.forget()
        if self._dials is not None:
            self._dials.connect()

    def _parts(self):
        """What changes during a run."""
        # The guard comes after the networks and optimisers of which it keeps a copy.
        parts = self.gan.networks() | {"optimisers": self.gan.optimisers, "guard": self._guard, "draws": self._draws}
        parts |= {"watch": self._watch, "channel": self._channel, "random": self._random, "batches": self.data.batches}
        parts |= {} if self._start is None else {"start": self._start}
        return parts | {"clock": state_dicts.Numbers(self, _CLOCK)}

    def _done_at(self, step: int) -> float:
        """Fraction of the segment that is done before a step."""
        return (step - self._first_step) / (self.n_steps - self._first_step)

    def _train_step(self):
        gan, done = self.gan, self._done_at(self.step)
        gan.set_schedule(done)
        for ahead in filter(None, (self._noise, self._dials)):
            ahead.prepare(self.step)
        self.data.batches.advance()
        if gan.updates_axes and self.step % self.settings.axes_every == 0 and done < 1 - self.settings.averaging:
            gan.update_axes(lambda: self._noise.for_axes(self.step))
        # The step of the paper: events from the generators; their gradients, sent to the other ranks; the
        # discriminators' update while messages travel; the generators' update with the mean gradient.
        with self._numbers, self._repeated.stream():
            theta, losses = self._send_gradient()
            loss_observed = self._update_discriminator()
            self._update_generator()
        self.step, self.theta = self.step + 1, theta
        loss_generated, loss_generator = losses
        return (loss_observed, loss_generated), loss_generator

    def _generate(self, theta, noise):
        """Events of all sets of a member: (member, set, parameter) -> (member, event, observable)."""
        return self.gan.simulate(theta, noise).flatten(1, 2)

    def _send_gradient(self):
        theta, losses = self._repeated("gradient", self._make_gradient)
        self._channel.start(self.gan.gradient.buffer, self.step)
        return theta, losses

    def _make_gradient(self):
        """Parameters of the step, and losses; the gradients of the generators are in their buffer."""
        gan = self.gan
        if self._dials is not None:
            self._dials.read()
        latent, noise = self._noise.take()
        theta = gan.generate(gan.latent_spread * latent)
        losses = gan.pull(theta, self._generate(theta, noise))
        self._guard.zero_nonfinite_(gan.gradient.pack())
        return theta.detach(), losses

    def _update_discriminator(self):
        """Complete the discriminators' step, and let the exchange proceed before and after."""
        self._channel.poll()
        loss = self._repeated("discriminator", self._learn)
        self._channel.poll()
        return loss

    def _learn(self):
        loss = self.gan.learn(self.data.batches.draw())
        self.gan.optimisers["discriminator"].step()
        return loss

    def _update_generator(self):
        gan = self.gan
        mixed = self._channel.finish()
        if mixed.received:  # what comes from other ranks may be damaged
            self._guard.zero_received_(gan.gradient.buffer)
        self._repeated("generator", self._step_generator)
        if self._channel.wants_weights(self.step):
            own = gan.weights.pack().clone()
            mixed = mixed.then(self._channel.mix_weights_(gan.weights.buffer, self.step))
            self._guard.replace_nonfinite_(gan.weights.buffer, own)
            gan.weights.unpack()
        self._waited_s += mixed.waited_s
        self._staleness = mixed.staleness

    def _step_generator(self):
        self.gan.gradient.unpack()
        self.gan.optimisers["generator"].step()

    def _repeat_with(self, recorder: Recorder | None) -> None:
        """Record the parts of a step with a recorder, for which all that changes has to be on the device."""
        self._repeated = Repeated(recorder)
        self._dials = None
        if recorder is not None:
            self._dials = Dials(self.gan, lambda step: self.gan.values(self._done_at(step)), self.world.device)

    def _mean_theta(self) -> Tensor:
        """The parameters of each member, averaged over the sets of the last step; all of them where some are angles."""
        return self.theta.mean(1, keepdim=True) if self._circles is None else self.theta.clone()

    def _averages(self, theta: Tensor) -> NDArray:
        """What `_mean_theta` gave, as one vector (member, parameter) each."""
        values = theta.cpu().numpy()
        return values.mean(-2) if self._circles is None else _circular.mean(values.swapaxes(-1, -2), *self._circles)

    def _add_draws(self) -> None:
        """Add the parameters of the steps since the last record to the draws."""
        if self._averaged:
            first = self.step - len(self._averaged)
            for k, theta in enumerate(self._averages(torch.stack(self._averaged))):
                self._draws.add(first + k, theta)
            self._averaged.clear()

    def _record(self, losses):
        loss_discriminator, loss_generator = (losses[0][0] + losses[0][1]).cpu().numpy(), losses[1].cpu().numpy()
        record = Record(
            self.step,
            self._averages(self._mean_theta()).astype(float),
            loss_discriminator,
            loss_generator,
            self._waited_s,
            self._elapsed_s,
            self._staleness,
            self._guard.check(),
        )
        self._waited_s = 0.0
        if n_damaged := self._guard.n_damaged():
            warnings.warn(
                f"Rank {self.world.rank}, step {self.step}: {n_damaged} mean gradients from other ranks were damaged "
                "on their way, and were left out. Other ranks may have used theirs: if this rank holds the same "
                "generators, they now differ by a step, until weights are exchanged. To exclude that, start the run "
                "again.",
                stacklevel=3,
            )
        for sentence in self._watch.look(record):
            warnings.warn(f"Rank {self.world.rank}, step {self.step}: {sentence}", stacklevel=3)
        return record
