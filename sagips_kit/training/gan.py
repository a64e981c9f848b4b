"""The adversarial networks of one rank: what the discriminators report to the generators, and what they learn.

The training loop, the exchange between ranks and all random numbers belong to the trainer.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..problems.base import events_of, is_periodic
from ..problems.noise import stratified_noise
from ..ranks.flat import FlatGradient, FlatWeights
from ..statistics.solve import DETERMINED
from . import schedules
from .features import WhiteFeatures
from .losses import CURVATURE, backward_generated, backward_observed, ratio_trust
from .networks import Discriminator, Generator

if TYPE_CHECKING:
    from ..problems.base import Problem
    from .data import RankData
    from .settings import Settings

_BETAS = (0.9, 0.999)
_N_STARTS, _N_EVENTS = 16, 512  # places on each circle where a generator may start, and events to compare them by
_FROM_ENDS = 2.0  # deviations from an end of a range, within which axes are as long as there
_MOST_WITH_AXES = 1000  # parameters; natural axes are a matrix of all pairs of them
_MOST_AT_ONCE = 128  # parameters of all members whose derivatives are computed together


@dataclass(frozen=True, eq=False)
class Begin:
    """Where generators begin, and what the discriminators then see.

    Parameters
    ----------
    t : Tensor (member, parameter)
        Their first parameters, as fractions of the ranges.
    score : callable
        Learned score of events: (..., observable) -> (..., component).
    n_components : int
        Number of its components.
    is_blind : Tensor (member,) of bool
        Whose discriminator does not see the score.
    information : Tensor (parameter, parameter)
        Fisher information of all events, in units of the ranges, from which the natural axes follow together with the
        constraints, priors and measurements.
    stride : Tensor (member,)
        How far each member steps along these, relative to what its schedule says.
    deviation : Tensor (parameter,)
        Standard deviations of the fit, in units of the ranges.
    """

    t: Tensor
    score: Callable[[Tensor], Tensor]
    n_components: int
    is_blind: Tensor
    information: Tensor
    stride: Tensor
    deviation: Tensor


class GAN:
    """The generators and discriminators of the members of one rank, with their optimisers.

    A step calls `set_schedule`, `generate`, `simulate`, `pull` and `learn`, in this order, then steps both optimisers.

    Parameters
    ----------
    problem : Problem
        The parameters and the pipeline.
    settings : Settings
        Networks, loss, learning rates and schedules.
    data : RankData
        The observed events and constraints of this rank.
    randoms : dict of str to list of torch.Generator
        One generator for each member, for the initial weights: "generator" and "discriminator".
    n_steps : int
        Length of the run, or of the segment that continues it; longer ones have smaller learning rates.
    device : torch.device
        Where the networks are.
    begin : Begin or None
        Where the generators begin and what the discriminators then see; None begins in the middle of the ranges.
    continues : bool
        Whether generators have looked for the answer in an earlier segment.

    Attributes
    ----------
    generator : Generator
        The generators of all members.
    discriminator : Discriminator
        The discriminators of all members.
    optimisers : dict of str to torch.optim.Adam
        By the names of the networks, "generator" and "discriminator".
    features : WhiteFeatures
        What the discriminators see of events.
    gradient : FlatGradient
        Gradient of the generators, as one buffer (member, weight).
    weights : FlatWeights
        Weights of the generators with their natural axes, as one buffer (member, weight).
    latent_spread : float or Tensor ()
        Standard deviation of the generators' inputs.
    """

    def __init__(
        self,
        problem: "Problem",
        settings: "Settings",
        data: "RankData",
        randoms: dict[str, list[torch.Generator]],
        n_steps: int,
        device: torch.device,
        begin: "Begin | None" = None,
        continues: bool = False,
    ):
        self._problem, self._settings, self._data = problem, settings, data
        self._simulate = torch.vmap(torch.vmap(functools.partial(events_of, problem)))
        self._category_weights = data.category_weights.to(device)
        self._has_constraints = data.constraints.n_residuals > 0
        score = None if begin is None else begin.score
        self.features = WhiteFeatures(problem, data.observed, data.category_weights, device, score)
        self._begin, self._seen, self._explores = begin, None, begin is None and not continues
        if begin is not None and begin.is_blind.any():
            # A discriminator that does not see the score has zeros in its place.
            self._seen = torch.ones(settings.n_members, 1, len(self.features), device=device)
            self._seen[begin.is_blind, :, : begin.n_components] = 0
        n_parameters = len(problem.parameters)
        image = problem.image_of_parameters() if settings.generator == "convolution" else None
        sizes = settings.latent_dim, settings.generator_widths, n_parameters
        has_axes = settings.axes_every > 0 and n_parameters <= _MOST_WITH_AXES
        # On the way of a witness the information of events is nearly the same, but constraints turn.
        has_turning = begin is not None and bool(begin.is_blind.any()) and self._has_constraints
        self.updates_axes = has_axes and (begin is None or has_turning)
        periodic = is_periodic(problem).to(device) if problem.periodic else None
        self.generator = Generator(*sizes, randoms["generator"], image, has_axes, periodic).to(device)
        if begin is None and periodic is not None and has_axes:
            self.generator.start_at(self._places(randoms["generator"], periodic, device))
        widths = settings.discriminator_widths
        self.discriminator = Discriminator(len(self.features), widths, randoms["discriminator"], settings.precision).to(
            device
        )
        self.gradient = FlatGradient(self.generator.parameters(), settings.n_members)
        # With the axes, since weights have a meaning only along them.
        self.weights = FlatWeights([*self.generator.parameters(), *self.generator.buffers()], settings.n_members)
        decay = schedules.weight_decay(data.constraints.n_events)
        self.optimisers: dict[str, torch.optim.Optimizer] = {
            "generator": torch.optim.Adam(self.generator.parameters(), betas=_BETAS, fused=True),
            "discriminator": torch.optim.AdamW(
                self.discriminator.parameters(), betas=_BETAS, weight_decay=decay, fused=True
            ),
        }
        rates = schedules.first_rates(n_steps, settings)
        if begin is not None:
            n_observed = data.constraints.n_events
            self.generator.begin_at(begin.t)
            if has_axes:
                self._update_axes_from(begin, torch.ones_like(begin.is_blind))
            rates = schedules.first_rates_at_a_fit(n_steps, n_observed, settings)
        self._rates = dict(zip(self.optimisers, rates, strict=True))
        self._trust = ratio_trust(self.discriminator)
        self._dials: Tensor | None = None
        self.set_schedule(0.0)

    def _places(self, randoms: list[torch.Generator], periodic: Tensor, device: torch.device) -> Tensor:
        """The best of some random places on the circles for each member, as t (member, parameter).

        A circle has no middle.  On the side opposite to the answer, events would hardly differ from the left to the
        right, and a generator could stay there for long.
        """
        n_periodic = int(periodic.sum())
        places = []
        for random in randoms:
            t = torch.full((_N_STARTS * n_periodic, len(periodic)), 0.5)
            t[:, periodic.cpu()] = torch.rand((len(t), n_periodic), generator=random)
            noise = stratified_noise(_N_EVENTS, self._problem.noise_dim, random).to(device)

            def mean(theta: Tensor, noise: Tensor = noise) -> Tensor:
                return self.features(events_of(self._problem, theta, noise)).mean(0)

            with torch.no_grad():
                distances = torch.vmap(mean)(self._problem.scale(t.to(device))).square().sum(-1)
            places.append(t[int(distances.nan_to_num(math.inf).argmin())])
        return torch.stack(places)

    def networks(self) -> dict[str, torch.nn.Module]:
        """Both networks by their names."""
        return {"generator": self.generator, "discriminator": self.discriminator}

    def set_schedule(self, done: float):
        """Set learning rates, damping and weight of the constraints to their values at a fraction of the run."""
        self._done = done
        if self._dials is None:
            self._turn(self.values(done))

    def values(self, done: float) -> tuple[float, float, float, float]:
        """Both learning rates, the spread of the generators' inputs, and the weight of the constraints."""
        settings, explored = self._settings, self._explored_at(done)
        if self._begin is None:
            factor = schedules.generator_rate_factor(done, settings, self._explores)
        else:
            factor = schedules.generator_rate_factor_at_a_fit(done, settings)
        return (
            self._rates["generator"] * factor,
            self._rates["discriminator"] * schedules.rate_factor(done, settings),
            schedules.latent_spread(explored, settings),
            schedules.constraint_weight(explored, settings) * CURVATURE[settings.loss],
        )

    def _explored_at(self, done: float) -> float:
        """Fraction of the run that is done, for what changes only while generators look for the answer."""
        return done if self._explores else 1.0

    def take_values_from(self, dials: Tensor):
        """From now on, `values` are read from a tensor (4,) on the device, whatever it holds in a step."""
        self._dials = dials
        for optimiser in self.optimisers.values():
            optimiser.param_groups[0]["capturable"] = True
        self._turn(dials.unbind())

    def _turn(self, values: Sequence[float] | Sequence[Tensor]):
        for optimiser, rate in zip(self.optimisers.values(), values, strict=False):
            optimiser.param_groups[0]["lr"] = rate
        self.latent_spread, self._constraint_weight = values[2:]

    def _visible(self, events: Tensor) -> Tensor:
        """Features of events that each member's discriminator sees."""
        features = self.features(events)
        return features if self._seen is None else features * self._seen

    def generate(self, latent: Tensor) -> Tensor:
        """Parameter vectors from the generators: (member, set, latent_dim) -> (member, set, parameter)."""
        return self._problem.scale(self.generator(latent))

    def simulate(self, theta: Tensor, noise: Tensor) -> Tensor:
        """Events of many parameter vectors, Tensor (member, set, event, observable).

        Parameters
        ----------
        theta : Tensor (member, set, parameter)
            The parameter vectors.
        noise : Tensor (member, set, event, noise_dim)
            Uniform numbers.
        """
        return self._simulate(theta, noise)

    def pull(self, theta: Tensor, events: Tensor) -> tuple[Tensor, Tensor]:
        """Turn the discriminators' scores into gradients of the generators.

        The same pass computes the part of the discriminators' gradients that comes from generated events.

        Parameters
        ----------
        theta : Tensor (member, set, parameter)
            What `generate` returned.
        events : Tensor (member, event, observable)
            What `simulate` made of it.

        Returns
        -------
        loss_generated, loss_generator : Tensor (member,)
            The generated events' part of the discriminators' loss, and the generators' loss.
        """
        settings, discriminator = self._settings, self.discriminator
        features = self._visible(events)
        weights = None
        if self._problem.n_categories > 1:
            weights = self._category_weights[self._problem.category(events.detach())]
        self.optimisers["discriminator"].zero_grad()
        self._trust = ratio_trust(discriminator)
        pull, loss_generated, loss_generator = backward_generated(
            discriminator, features.detach(), settings.loss, weights, self._trust
        )
        outputs, slopes = [features], [pull]
        if self._has_constraints:
            residuals = self._data.constraints.residuals(theta)
            outputs.append(residuals)
            # Half the squares have the residuals as their slopes.
            n = self._data.constraints.n_events * theta.shape[1]
            slopes.append(residuals.detach() * (self._constraint_weight / n))
        parameters = list(self.generator.parameters())
        gradients = torch.autograd.grad(outputs, parameters, slopes, materialize_grads=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        return loss_generated, loss_generator

    def learn(self, batch: Tensor) -> Tensor:
        """Complete the discriminators' gradients with observed events.

        Parameters
        ----------
        batch : Tensor (member, event, observable)
            Observed events of each member.

        Returns
        -------
        Tensor (member,)
            The observed events' part of the discriminators' loss.
        """
        return backward_observed(self.discriminator, self._visible(batch), self._settings.loss, self._trust)

    def update_axes(self, noise: Callable[[], Tensor]):
        """Set the generators' axes by the Fisher information per event that the features carry, or that of the fit.

        Parameters
        ----------
        noise : callable
            Gives uniform numbers (member, event, noise_dim) for the events that estimate the information.
        """
        if self._begin is not None:
            self._update_axes_from(self._begin, self._begin.is_blind)
            return
        constraints, y = self._data.constraints, self.generator.centre()
        weight = schedules.constraint_weight(self._explored_at(self._done), self._settings) / constraints.n_events
        # Few members at a time, where a matrix of derivatives is large.
        n_at_once = max(1, _MOST_AT_ONCE // y.shape[1])
        information = torch.vmap(self.features.information, chunk_size=n_at_once)(y, noise())
        if self._has_constraints:
            information = information + weight * constraints.information_at(y, self.generator.is_periodic)
        self.generator.update_axes(information, schedules.damping(self._explored_at(self._done), self._settings))

    def _update_axes_from(self, begin: Begin, which: Tensor):
        """Set the axes of some generators by the information of events at the fit, and of the rest where they are."""
        generator, constraints = self.generator, self._data.constraints
        # At an end of a range the slope is zero, but not a few deviations away, where steps may lead.
        margin = (_FROM_ENDS * begin.deviation).clamp(max=0.5)
        t = generator.unit_centre()
        slopes = generator.slopes(t.cpu().double().clamp(margin, 1 - margin))
        information = begin.information / constraints.n_events + constraints.information(t)
        information = slopes[:, :, None] * information * slopes[:, None]
        information[~which] = math.nan  # the axes of these stay
        generator.update_axes(information, DETERMINED / constraints.n_events, begin.stride)
