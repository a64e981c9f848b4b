"""What changes during a run, as functions of the fraction that is done.  Nothing here knows networks or data."""

import math

_SPREAD = 0.3  # of the generator's input at the start
_RAMP = 0.2  # fraction of the run in which damping and constraints come to their final values
# Constraints begin with this part of their weight: with all of it they would take the generator to wherever they can be
# met first, which may be far from the parameters that the events tell.
_FIRST_CONSTRAINTS = 1e-3


def first_rates(n_steps, settings):
    """Learning rates of generators and discriminators at the first step of a run of `n_steps`."""
    part = math.sqrt(min(1.0, settings.full_rate_steps / n_steps))
    return part * settings.generator_rate, part * settings.discriminator_rate


def rate_factor(done, settings):
    """Learning rates in units of the first ones: half a cosine, from 1 to `final_rate`."""
    return settings.final_rate + (1 - settings.final_rate) * _half_cosine(done)


def generator_factor(done, settings):
    """The same for generators, which keep only a part of their rate after the exploration."""
    return rate_factor(done, settings) * (1.0 if done < settings.exploration else settings.settled_rate)


def latent_spread(done, settings):
    """Standard deviation of the generator's input, which is zero after the exploration."""
    return _SPREAD * _half_cosine(done / settings.exploration) if settings.exploration else 0.0


def damping(done, settings):
    """Information per event below which a direction is not stretched: from 1 to `damping`."""
    return settings.damping ** (1 - _to_come(done))


def constraint_weight(done, settings):
    """Weight of the constraints: from a thousandth of `constraint_weight` to all of it."""
    return settings.constraint_weight * _FIRST_CONSTRAINTS ** _to_come(done)


def _half_cosine(phase):
    return 0.5 * (1 + math.cos(math.pi * min(1.0, phase)))


def _to_come(done):
    return max(0.0, 1 - done / _RAMP)
