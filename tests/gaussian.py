"""A problem with an exactly known answer: mean and standard deviation of a normal distribution."""

import itertools
import math
import os
import time

import torch

from sagips_kit import Independent, Problem, RunSpec, Settings
from sagips_kit._value import Count, value


@value
class Gaussian(Problem):
    """Its maximum-likelihood estimate is the mean and the deviation of the observed sample."""

    n_observed: Count = 5000

    parameters = ("mu", "sigma")
    lower = (-2.0, 0.5)
    upper = (2.0, 2.5)
    observables = ("x",)
    noise_dim = 1
    truth = (0.6, 1.1)

    def simulate(self, theta, noise):
        # Away from 0 and 1, where the inverse of the normal distribution is infinite.
        u = noise.clamp(1e-6, 1 - 1e-6)
        return theta[0] + theta[1] * math.sqrt(2) * torch.erfinv(2 * u - 1)

    def observed(self, n_events, rng):
        return rng.normal(*self.truth, (n_events or self.n_observed, 1))

    def features(self, events):
        return torch.cat([events, events**2], dim=-1)

    def log_likelihood(self, theta, statistic):
        return -(((statistic - theta[0]) / theta[1]).square() / 2 + theta[1].log()).sum()


@value
class Slow(Gaussian):
    """The same numbers, but slow on any machine."""

    def simulate(self, theta, noise):
        time.sleep(0.005)
        return super().simulate(theta, noise)


@value
class Calibrated(Gaussian):
    """The mean is also known from a prior, more precisely than from the events."""

    priors = {"mu": (0.4, 0.01)}


@value
class Faulty(Gaussian):
    """Its simulator fails on MPI rank 1 in the 30th call."""

    _calls = itertools.count(1)

    def simulate(self, theta, noise):
        if next(self._calls) == 30 and os.environ.get("PMI_RANK") == "1":
            raise ValueError("the magnet of rank 1 quenched")
        return super().simulate(theta, noise)


@value
class Poisoned(Gaussian):
    """Its simulator gives NaN on MPI rank 1 in the 30th call."""

    _calls = itertools.count(1)

    def simulate(self, theta, noise):
        is_bad = next(self._calls) == 30 and os.environ.get("PMI_RANK") == "1"
        return super().simulate(theta, noise) * (math.nan if is_bad else 1.0)


def exact_fit(events):
    """The maximum-likelihood estimate and its deviation, (parameter,) each."""
    sigma, n_events = events.std(), len(events)
    return (events.mean(), sigma), (sigma / math.sqrt(n_events), sigma / math.sqrt(2 * n_events))


# Close to the exact answer after 400 steps
QUICK = Settings(
    n_members=2,
    n_events=512,
    generator_widths=(8,),
    discriminator_widths=(8,),
    generator_rate=3e-3,
    discriminator_rate=6e-2,
    settled_rate=1.0,
    averaging=0.5,
    n_draws=5,
    bootstrap=False,
)


def long_run(store, n_steps=100_000, problem=None, **changes):
    """A run of small networks that does not end in a test unless it is given few steps."""
    return RunSpec(
        problem=problem or Gaussian(n_observed=200),
        settings=Settings(n_members=2, n_events=64, n_draws=3, n_predictive=4, rows_per_block=2),
        exchange=Independent(),
        store=str(store),
        n_steps=n_steps,
        reference=False,
        fit=False,
        **changes,
    )
