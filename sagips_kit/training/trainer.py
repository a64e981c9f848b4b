"""The training loop of one rank: its members, its own discriminators, its share of the noise, and one exchange a step.

The loop is a generator of records; whoever runs it decides what to do with them.  It knows exchanges only by their
contract and files not at all.
"""

import functools
import time
import warnings

import numpy as np
import torch

from ..events.batches import Supply, in_batch_order
from ..events.resampling import Resampling, check_events, prior_shifts, weights_of_categories
from ..exchange import Independent
from ..problems.base import events_of
from ..problems.noise import stratified_noise
from ..ranks.flat import FlatGradient, FlatWeights
from ..ranks.world import World
from ..store.diagnostics import Watch
from . import schedules, state_dicts
from .features import WhiteFeatures
from .losses import CURVATURE, learn_generated, learn_observed, ratio_trust
from .networks import Discriminator, Generator
from .nonfinite import Guard
from .records import Draws, Record
from .seeds import random_streams

_BETAS = (0.9, 0.999)
_N_INFORMATION = 512  # events that estimate the information
_MOST_TURNED = 1000  # parameters, of which natural axes are matrices of all pairs
_CLOCK = ("step", "_waited_s", "_elapsed_s", "_staleness")


class Trainer:
    """Train the members of one rank.  Collective if the exchange is.

    Parameters
    ----------
    problem : Problem
    settings : Settings
    events : array_like (event, observable)
        The observed events, the same on all ranks.
    windows : callable or None
        For more events than fit into memory: gets a number 0, 1, ... and returns the events (event, observable) of that
        window, of which batches are drawn, each by one rank of a replica; `events` is a random sample of them all then.
    n_steps : int
        Length of the run; the schedules depend on it.
    seed : int
        The same on all ranks, which make different streams of it.
    world : World or None
        A rank alone if None.
    exchange : Exchange

    Attributes
    ----------
    theta : Tensor (member, set, parameter)
        The parameter vectors that the last step was made with.
    observed : Tensor (event, observable)
        The observed events in `batch_order`.
    features : WhiteFeatures
        What the discriminators see of events.

    Raises
    ------
    ValueError
        If the events do not fit the problem.
    """

    def __init__(self, problem, settings, events, *, n_steps, seed=0, world=None, exchange=None, windows=None):
        events = check_events(problem, events)
        exchange = exchange or Independent()
        self.problem, self.settings, self.n_steps, self.seed = problem, settings, n_steps, seed
        self.world = world or World.alone()
        self.step = 0
        n_averaged = max(1, round(settings.averaging * n_steps))
        self._draws = Draws((settings.n_members, settings.n_draws, len(problem.parameters)), n_steps, n_averaged)
        self._replica = exchange.replica(self.world.rank, self.world.size)
        self._n_chains = exchange.n_replicas(self.world.size) * settings.n_members
        self._random = random_streams(seed, self._replica, self.world.rank, settings.n_members)
        self._n_events = len(events)
        replicas = [exchange.replica(rank, self.world.size) for rank in range(self.world.size)]
        share = replicas[: self.world.rank].count(self._replica), replicas.count(self._replica)
        self._load(events, windows, share)
        self._build()
        self._channel = exchange.open(self.world, self._flat.buffer)
        self._guard = Guard(self.discriminator, self._optimisers[self.discriminator], settings.max_rollbacks)
        self._simulate = torch.vmap(torch.vmap(functools.partial(events_of, problem)))
        self._waited_s, self._elapsed_s, self._staleness = 0.0, 0.0, 0
        self._watch = Watch(problem, settings.loss, settings.exploration * n_steps)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._channel.__exit__(*exception)

    def close(self):
        """Give back the exchange's messages and buffers.  Collective."""
        self._channel.close()

    @property
    def draws(self):
        """The draws of each chain, ndarray (member, draw, parameter); NaN before the last part of the run."""
        return self._draws.values

    @property
    def n_weights(self):
        """Length of the gradient that is exchanged: the weights of all members' generators."""
        return self._flat.buffer.numel()

    def iterate(self, n_steps=None):
        """Train for `n_steps` more steps (None: to the end) and yield a Record every `record_every`, and at the end.

        Warns
        -----
        UserWarning
            If the GAN has got stuck in a way that it does not leave by itself; the text says what to do.
        """
        last = self.n_steps if n_steps is None else min(self.n_steps, self.step + n_steps)
        start = time.perf_counter() - self._elapsed_s
        while self.step < last:
            theta, losses = self._train_step()
            if self._draws.wants(self.step - 1):  # else a GPU need not be waited for
                self._draws.add(self.step - 1, theta.cpu().numpy())
            self._elapsed_s = time.perf_counter() - start
            if self.step % self.settings.record_every == 0 or self.step == last:
                yield self._record(theta, losses)

    def run(self, n_steps=None):
        """Train for `n_steps` more steps (None: to the end) and return the last Record."""
        record = None
        for record in self.iterate(n_steps):
            pass
        return record

    def state_dict(self):
        """All that the rest of the run depends on, as nested dicts of tensors; taken between two steps at a record."""
        return state_dicts.collected(self._parts())

    def load_state_dict(self, given):
        """Go on, with the same bits, where `state_dict` was taken of a trainer made by the same arguments.

        Raises
        ------
        ValueError
            If it was made by others.
        """
        state_dicts.restored(self._parts(), given)

    def predict(self):
        """Events generated from each draw: ndarray (member, draw, event, observable)."""
        n_draws, n_events = self.settings.n_draws, self.settings.n_predictive
        noise = self._noise("prediction", n_draws, n_events)
        theta = torch.as_tensor(self.draws, dtype=torch.float32, device=self.world.device)
        with torch.no_grad():
            return self._simulate(theta, noise).cpu().numpy()

    def _parts(self):
        """What changes during a run; the batches draw from random streams of their own."""
        random = {role: streams for role, streams in self._random.items() if role != "batches"}
        networks = {"generator": self.generator, "discriminator": self.discriminator}
        optimisers = {name: self._optimisers[network] for name, network in networks.items()}
        # The guard comes after what it keeps a copy of.
        parts = {"optimisers": optimisers, "guard": self._guard, "draws": self._draws, "watch": self._watch}
        parts |= {"channel": self._channel, "random": random, "batches": self._batches}
        return networks | parts | {"clock": state_dicts.Numbers(self, _CLOCK)}

    def _load(self, events, windows, share):
        """Resample and order the observed events of each member, and summarise them for the constraints."""
        problem, settings, device = self.problem, self.settings, self.world.device
        # Ordered once: resampling keeps the order.
        events, categories = in_batch_order(problem, events, settings.n_events)
        self._category_weights = weights_of_categories(problem, events).to(device)
        first = self._replica * settings.n_members
        chains = range(first, first + settings.n_members)
        resampling = Resampling(chains, self._n_chains, self.seed, settings.bootstrap)
        shifts = [prior_shifts(len(problem.priors), chain, self._n_chains, self.seed) for chain in chains]
        self._shifts = torch.tensor(np.array(shifts), dtype=torch.float32, device=device) * settings.bootstrap
        indices = resampling.indices(len(events))
        statistics = (problem.statistic(events[chosen]) for chosen in indices)
        self._statistics = [statistic.to(device, torch.float32) for statistic in statistics]
        self._batches = Supply(problem, settings.n_events, resampling, self._random["batches"], windows, share)
        if windows is None:
            self._batches.fill(events, categories, indices)
        self.features = WhiteFeatures(problem, events, self._category_weights, device)
        self.observed = events

    def _build(self):
        problem, settings, device = self.problem, self.settings, self.world.device
        image = problem.image_of_parameters() if settings.generator == "convolution" else None
        sizes = settings.latent_dim, settings.generator_widths, len(problem.parameters)
        self._has_axes = settings.axes_every > 0 and len(problem.parameters) <= _MOST_TURNED
        self.generator = Generator(*sizes, self._random["generator"], image, self._has_axes).to(device)
        self.discriminator = Discriminator(
            len(self.features), settings.discriminator_widths, self._random["discriminator"], settings.precision
        ).to(device)
        self._flat = FlatGradient(self.generator.parameters(), settings.n_members)
        # With the axes: weights mean something only along their own.
        self._weights = FlatWeights([*self.generator.parameters(), *self.generator.buffers()], settings.n_members)
        rates = schedules.first_rates(self.n_steps, settings)
        self._rates = dict(zip((self.generator, self.discriminator), rates, strict=True))
        self._optimisers = {
            network: torch.optim.Adam(network.parameters(), betas=_BETAS, foreach=True) for network in self._rates
        }

    def _train_step(self):
        settings = self.settings
        self._set_rates()
        if self._has_axes and self.step % settings.axes_every == 0 and self._done < 1 - settings.averaging:
            self._turn_axes()
        theta = self.problem.scale(self.generator(self._latent()))
        self.theta = theta.detach()
        trust = ratio_trust(self.discriminator)
        loss_generated, loss_generator = self._start_exchange(theta, trust)
        loss_observed = self._update_discriminator(trust)
        self._update_generator()
        self.step += 1
        return self.theta.mean(1), (loss_observed + loss_generated, loss_generator)

    @property
    def _done(self):
        """Fraction of the run that is done."""
        return self.step / self.n_steps

    def _set_rates(self):
        for network, rate in self._rates.items():
            factor = schedules.generator_factor if network is self.generator else schedules.rate_factor
            self._optimisers[network].param_groups[0]["lr"] = rate * factor(self._done, self.settings)

    def _latent(self):
        settings = self.settings
        shape = (settings.n_sets, settings.latent_dim)
        draws = [torch.randn(shape, generator=random) for random in self._random["noise"]]
        return schedules.latent_spread(self._done, settings) * torch.stack(draws).to(self.world.device)

    def _noise(self, role, n_sets, n_events):
        """Uniform numbers, stratified over all events of a member: (member, set, event, noise_dim)."""
        noise_dim = self.problem.noise_dim
        draws = [stratified_noise(n_sets * n_events, noise_dim, random) for random in self._random[role]]
        return torch.stack(draws).view(len(draws), n_sets, n_events, noise_dim).to(self.world.device)

    def _generate(self, theta):
        """Events of all sets of a member, (member, set, parameter) -> (member, event, observable)."""
        n_sets = self.settings.n_sets
        return self._simulate(theta, self._noise("noise", n_sets, self.settings.n_events // n_sets)).flatten(1, 2)

    def _start_exchange(self, theta, trust):
        """Ask the discriminator, as it is, for the generator's gradient, and send that on its way."""
        settings = self.settings
        events = self._generate(theta)
        features = self.features(events)
        weights = self._category_weights[self.problem.category(events.detach())]
        self._optimisers[self.discriminator].zero_grad()
        pull, *losses = learn_generated(self.discriminator, features.detach(), settings.loss, weights, trust)
        weight = schedules.constraint_weight(self._done, settings) * CURVATURE[settings.loss]
        constraints = weight * self._constraints(theta)
        parameters = list(self.generator.parameters())
        gradients = torch.autograd.grad(
            (features, constraints), parameters, (pull, torch.ones_like(constraints)), materialize_grads=True
        )
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        self._channel.start(self._guard.screen_(self._flat.pack()), self.step)
        return losses

    def _update_discriminator(self, trust):
        """The rest of the discriminator's step, which needs nothing from the exchange and takes it further."""
        batch = self._batches.draw().to(self.world.device)
        self._channel.poll()
        loss = learn_observed(self.discriminator, self.features(batch), self.settings.loss, trust)
        self._channel.poll()
        self._optimisers[self.discriminator].step()
        return loss

    def _update_generator(self):
        mixed = self._channel.finish()
        if mixed.received:  # perhaps damaged on the way
            self._guard.screen_(self._flat.buffer)
        self._flat.unpack()
        self._optimisers[self.generator].step()
        if self._channel.wants_weights(self.step):
            own = self._weights.pack().clone()
            mixed = mixed.then(self._channel.mix_weights_(self._weights.buffer, self.step))
            self._guard.keep_(self._weights.buffer, own)
            self._weights.unpack()
        self._waited_s += mixed.waited_s
        self._staleness = mixed.staleness

    def _constraints(self, theta):
        """Half the squared residuals per event, as in the likelihood: (member, set, parameter) -> (member,)."""
        residuals = torch.vmap(self.problem.residuals, in_dims=(0, None, None))
        each = [residuals(*one) for one in zip(theta, self._statistics, self._shifts, strict=True)]
        return torch.stack(each).square().sum(-1).mean(-1) / (2 * self._n_events)

    def _turn_axes(self):
        """Turn the generator's axes to the Fisher information per event, as far as the features show it."""
        damping = schedules.damping(self._done, self.settings)
        weight = schedules.constraint_weight(self._done, self.settings) / self._n_events
        noise = [stratified_noise(_N_INFORMATION, self.problem.noise_dim, random) for random in self._random["axes"]]
        noise = torch.stack(noise).to(self.world.device)
        information = [
            self.features.information(y, one_noise, data, weight)
            for y, one_noise, data in zip(self.generator.centre(), noise, self._statistics, strict=True)
        ]
        self.generator.turn_axes(torch.stack(information), damping)

    def _record(self, theta, losses):
        loss_discriminator, loss_generator = (loss.cpu().numpy() for loss in losses)
        record = Record(
            self.step,
            theta.cpu().numpy().astype(float),
            loss_discriminator,
            loss_generator,
            self._waited_s,
            self._elapsed_s,
            self._staleness,
            self._guard.look(),
        )
        self._waited_s = 0.0
        for sentence in self._watch.look(record):
            warnings.warn(f"Rank {self.world.rank}, step {self.step}: {sentence}", stacklevel=3)
        return record
