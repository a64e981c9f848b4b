"""What changes during a run, as functions of the fraction of the run that is done.

Networks and data do not belong here.
"""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .settings import Settings

_SPREAD = 0.3  # standard deviation of the generator's input at the start
_TRAVEL = 16.0  # deviations that a generator could move in a run at its first rate; at the real ones it is half of them
_STRIDE = 4.0  # of a witness that begins 2 deviations away
_WARM_UP = 0.1  # fraction of the run after which generators that begin at a fit have their full rate
_FEW, _MOST_DECAY = 1000, 20.0  # observed events, which discriminators must not learn by heart
_RAMP = 0.2  # fraction of the run after which damping and constraints have their final values
# At full weight from the start, constraints would take the generator to the nearest place where they are met, which
# may be far from the parameters that the events favour.
_FIRST_CONSTRAINTS = 1e-3


def first_rates(n_steps: int, settings: "Settings") -> tuple[float, float]:
    """Learning rates of generators and discriminators in the first step of a run of `n_steps`."""
    factor = math.sqrt(min(1.0, settings.full_rate_steps / n_steps))
    return factor * settings.generator_rate, factor * settings.discriminator_rate


def first_rates_at_a_fit(n_steps: int, n_events: int, settings: "Settings") -> tuple[float, float]:
    """The same for generators that begin at a fit, whose deviation along an axis is 1/sqrt(n_events)."""
    return _TRAVEL / (n_steps * math.sqrt(n_events)), first_rates(n_steps, settings)[1]


def weight_decay(n_observed: int) -> float:
    """Rate at which the weights of discriminators decay, relative to their learning rate.

    Without it, discriminators learn few observed events by heart, and take generators away from the answer: with 100
    events of a normal distribution in two dimensions by 2.5 deviations in 500 steps, with it by 0.2.
    """
    return min(_MOST_DECAY, (_FEW / n_observed) ** 2)


def witness_stride(farther: float) -> float:
    """How far a witness steps, relative to a generator that stays; it begins so many times farther away than usual.

    Its discriminator sees little of the way in each batch, so that many of its steps lead nowhere.
    """
    return _STRIDE * farther**1.2


def generator_rate_factor_at_a_fit(done: float, settings: "Settings") -> float:
    """Generators wait until their discriminators have learned something."""
    return rate_factor(done, settings) * min(1.0, done / _WARM_UP)


def rate_factor(done: float, settings: "Settings") -> float:
    """Learning rate relative to the first step: half a cosine, from 1 to `final_rate`."""
    return settings.final_rate + (1 - settings.final_rate) * _half_cosine(done)


def generator_rate_factor(done: float, settings: "Settings", explores: bool = True) -> float:
    """The same for generators, whose rate is multiplied by `settled_rate` after the exploration, if there is one."""
    explores = explores and done < settings.exploration
    return rate_factor(done, settings) * (1.0 if explores else settings.settled_rate)


def latent_spread(done: float, settings: "Settings") -> float:
    """Standard deviation of the generator's input, which is zero after the exploration."""
    return _SPREAD * _half_cosine(done / settings.exploration) if settings.exploration else 0.0


def damping(done: float, settings: "Settings") -> float:
    """Damping of the Fisher information per event: from 1 to `damping`."""
    return settings.damping ** (1 - _ramp_left(done))


def constraint_weight(done: float, settings: "Settings") -> float:
    """Weight of the constraints: from a thousandth of `constraint_weight` to all of it."""
    return settings.constraint_weight * _FIRST_CONSTRAINTS ** _ramp_left(done)


def _half_cosine(phase):
    return 0.5 * (1 + math.cos(math.pi * min(1.0, phase)))


def _ramp_left(done):
    return max(0.0, 1 - done / _RAMP)
