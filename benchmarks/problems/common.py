"""What the problems share: truths that can be set, and simulations by inverse distribution functions."""

import math
from typing import NamedTuple

import numpy as np
import torch

from sagips_kit import Problem
from sagips_kit.problems.samplers import inverse_cdf

N_EVENTS = 20_000


class Known(Problem):
    """A problem whose truth can be set; `draw` makes its events, from NumPy or SciPy and never from `simulate`."""

    science = ""  # where such events come from
    differentiable = True  # whether the derivative of `simulate` is that of its events
    finding = ""  # a regular expression that a finding must match where the fit cannot be used as it is

    def __init__(self, truth=None):
        if truth is not None:
            self.truth = tuple(float(value) for value in truth)

    def observed(self, n_events, rng):
        events = np.asarray(self.draw(n_events or N_EVENTS, rng, *self.truth), dtype=np.float64)
        return events[:, None] if events.ndim == 1 else events

    def draw(self, n, rng, *truth):
        """Events (event, observable), or (event,) of a single observable."""
        raise NotImplementedError


class Part(NamedTuple):
    """The distribution of one observable, as functions of it; both are differentiable in the parameters."""

    cdf: object
    log_density: object


def normal(mean, deviation):
    def log_density(x):
        return -0.5 * ((x - mean) / deviation) ** 2 - deviation.log() - 0.5 * math.log(2 * math.pi)

    return Part(lambda x: torch.special.ndtr((x - mean) / deviation), log_density)


def exponential(scale):
    return Part(lambda x: -torch.expm1(-x / scale), lambda x: -x / scale - scale.log())


def exponential_below(end, scale):
    """An exponential distribution from 0 to an end."""
    norm = -torch.expm1(-end / scale)
    return Part(lambda x: -torch.expm1(-x / scale) / norm, lambda x: -x / scale - (scale * norm).log())


class Mixture(Known):
    """A sum of components, each with independent observables, simulated by conditional inverse distribution functions.

    `_parts(theta)` returns the weights of the components, and for each observable the list of their `Part`s;
    `_within` holds the lowest and the highest value of each observable.
    """

    _within: tuple[tuple[float, float], ...]

    def simulate(self, theta, noise):
        weights, columns = self._parts(theta)
        log_weights, found = [weight.log().expand(len(noise)) for weight in weights], []
        for column, u, (low, high) in zip(columns, noise.unbind(-1), self._within, strict=True):
            total = torch.logsumexp(torch.stack(log_weights), 0)
            shares = [(log_weight - total).exp() for log_weight in log_weights]

            def cdf(x, column=column, shares=shares):
                return sum(share * part.cdf(x) for share, part in zip(shares, column, strict=True))

            def density(x, column=column, shares=shares):
                return sum(share * part.log_density(x).exp() for share, part in zip(shares, column, strict=True))

            found.append(x := inverse(cdf, density, u, low, high))
            log_weights = [known + part.log_density(x) for known, part in zip(log_weights, column, strict=True)]
        return torch.stack(found, -1)

    def log_likelihood(self, theta, statistic):
        weights, columns = self._parts(theta)
        values = zip(columns, statistic.unbind(-1), strict=True)
        logs = [[part.log_density(x) for part in column] for column, x in values]
        components = [weight.log() + sum(column[k] for column in logs) for k, weight in enumerate(weights)]
        return torch.logsumexp(torch.stack(components), 0).sum()


def inverse(cdf, density, u, low, high):
    """Where an increasing function reaches u, with the derivative with respect to the parameters in it."""
    with torch.no_grad():
        low, high = torch.full_like(u, low), torch.full_like(u, high)
        for _ in range(28):
            middle = 0.5 * (low + high)
            is_below = cdf(middle) < u
            low, high = torch.where(is_below, middle, low), torch.where(is_below, high, middle)
        x = 0.5 * (low + high)
        for _ in range(3):
            x = (x - (cdf(x) - u) / density(x).clamp(min=1e-300)).clamp(low, high)
    reached = cdf(x)
    return x - (reached - reached.detach()) / density(x).detach()


def tabulated(log_density, grid, u):
    """Where the integral of a density over a fine grid reaches u, with the derivative; the norm does not matter."""
    values = log_density(grid)
    return inverse_cdf((values - values.detach().max()).exp(), grid, u)


def grid_of(low, high, n=4001):
    return torch.linspace(low, high, n, dtype=torch.float64)


def log_integral(log_density, grid):
    """Logarithm of the integral of a density over a grid."""
    values = log_density(grid)
    top = values.detach().max()
    return top + torch.trapezoid((values - top).exp(), grid).log()


def accepted(propose, probability, n_events, rng):
    """Events by acceptance and rejection."""
    kept = []
    while sum(map(len, kept)) < n_events:
        events = propose(4 * n_events)
        kept.append(events[rng.random(len(events)) < probability(events)])
    return np.concatenate(kept)[:n_events]


def drawn_truth(kind, rng):
    """A truth in the inner 60 % of the ranges; of their logarithms where they span more than a factor of 100."""
    lower, upper = np.asarray(kind.lower, float), np.asarray(kind.upper, float)
    t = rng.uniform(0.2, 0.8, len(lower))
    is_log = (lower > 0) & (upper > 100 * lower)
    ratio = np.where(is_log, upper, 1) / np.where(is_log, lower, 1)
    return tuple(np.where(is_log, lower * ratio**t, lower + (upper - lower) * t).tolist())
