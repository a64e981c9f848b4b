"""Problems in which something is wrong, with the finding that must say so.

`finding` is a regular expression for it.  Where some quantities are nevertheless right, `valid(theta)` returns them: a
fit of the sabotaged problem must find them as they are at the truth.
"""

import math

import numpy as np
import torch

from sagips_kit import Problem

from .common import Known
from .dependence import Arrhenius
from .one import Energies, HeavyTails, Pulse, Weibull
from .several import Normal

MISFIT = "does not fit"


class Sabotaged:
    """The likelihood of the right problem is not that of the sabotaged one, which has none."""

    log_likelihood = Problem.log_likelihood

    def valid(self, theta):
        """Quantities that a fit of the sabotaged events still finds; none."""
        return theta[:0]


# Events that the model does not describe


class Tails(Sabotaged, Normal):
    """5 % of the events at twice the deviation."""

    finding = MISFIT

    def draw(self, n, rng, *truth):
        events = super().draw(n, rng, *truth)
        return np.where(rng.random((n, 1)) < 0.05, truth[:2] + 2 * (events - truth[:2]), events)

    def valid(self, theta):
        return theta[:2]  # the means


class Background5(Sabotaged, Normal):
    """5 % background that the model lacks."""

    finding, _share = MISFIT, 0.05

    def draw(self, n, rng, *truth):
        return np.where(rng.random((n, 1)) < self._share, rng.uniform(-3, 3, (n, 2)), super().draw(n, rng, *truth))


class Background2(Background5):
    """2 % background that the model lacks."""

    _share = 0.02


class Resolution(Sabotaged, Pulse):
    """A resolution that is 10 % worse than the model's, where the lifetime is as short as the resolution."""

    finding, upper, truth = MISFIT, (1.7e9 + 100, 5.0), (1.7e9 + 3, 0.6)

    def draw(self, n, rng, start, lifetime):
        return start + rng.exponential(lifetime, n) + 0.55 * rng.normal(size=n)


class Correlation10(Sabotaged, Normal):
    """A correlation of 0.1 that the model lacks."""

    parameters, lower, upper, truth = Normal.parameters[:4], Normal.lower[:4], Normal.upper[:4], Normal.truth[:4]
    finding, _rho = MISFIT, 0.1

    def simulate(self, theta, noise):
        return theta[:2] + theta[2:] * torch.special.ndtri(noise)

    def draw(self, n, rng, *truth):
        return super().draw(n, rng, *truth, self._rho)

    def valid(self, theta):
        return theta


class Correlation05(Correlation10):
    """A correlation of 0.05 that the model lacks."""

    _rho = 0.05


# Events that are not independent events of one distribution


class Drift(Sabotaged, Normal):
    """A mean that differs between the halves of the events by 10 deviations of its estimate."""

    finding = "half|halves|drift"

    def draw(self, n, rng, *truth):
        events = super().draw(n, rng, *truth)
        events[n // 2 :, 0] += 10 * truth[2] / math.sqrt(n)
        return events


class Twice(Sabotaged, Normal):
    """Each event twice."""

    finding = "repeat|twice|identical|duplicate"

    def draw(self, n, rng, *truth):
        return rng.permutation(np.repeat(super().draw((n + 1) // 2, rng, *truth), 2, axis=0)[:n])

    def valid(self, theta):
        return theta


# Ranges without the truth, and what the events do not tell


class Outside10(Sabotaged, HeavyTails):
    """A position beyond the end of its range by 10 deviations of its estimate."""

    finding, upper, _by = "end .* of its range", (1.25, 5.0), 10

    def draw(self, n, rng, position, scale):
        # The information of an event on the position is (f + 1) / (f + 3) / scale^2, f being the degrees of freedom.
        return super().draw(n, rng, self.upper[0] + self._by * scale * math.sqrt(5 / (3 * n)), scale)


class Outside3(Outside10):
    """A position beyond the end of its range by 3 deviations of its estimate."""

    _by = 3


class UnseenParameter(Sabotaged, HeavyTails):
    """A parameter that the simulation does not use."""

    finding = "not determine.*idle"
    parameters, lower, upper, truth = ("position", "idle", "scale"), (-5.0, 0.0, 0.2), (5.0, 1.0, 5.0), (1.3, 0.5, 0.8)

    def simulate(self, theta, noise):
        return super().simulate(theta[[0, 2]], noise)

    def draw(self, n, rng, position, idle, scale):
        return super().draw(n, rng, position, scale)

    def valid(self, theta):
        return theta[[0, 2]]


class UnseenCombination(Sabotaged, HeavyTails):
    """Two parameters of which only the sum matters."""

    finding = "not determine.*a .*b "
    parameters, lower, upper, truth = ("a", "b", "scale"), (-5.0, -5.0, 0.2), (5.0, 5.0, 5.0), (1.0, 0.3, 0.8)

    def simulate(self, theta, noise):
        return super().simulate(torch.stack([theta[0] + theta[1], theta[2]]), noise)

    def draw(self, n, rng, a, b, scale):
        return super().draw(n, rng, a + b, scale)

    def valid(self, theta):
        return theta[[0, 2]] + theta[1] * np.array([1, 0])


# Distributions that end at a parameter


class MovingEnd(Sabotaged, Known):
    """A uniform distribution from 0 to the parameter."""

    finding = "edge|ends? at|support"
    parameters, lower, upper, truth = ("end",), (1.0,), (10.0,), (4.0,)
    observables, noise_dim = ("x",), 1

    def simulate(self, theta, noise):
        return theta * noise

    def draw(self, n, rng, end):
        return rng.uniform(0, end, n)


class MovingStart(Sabotaged, Known):
    """An exponential distribution that begins at a parameter."""

    finding = "edge|(begin|start|end)s? at|support"
    parameters, lower, upper, truth = ("start", "lifetime"), (-5.0, 0.5), (5.0, 5.0), (1.2, 2.0)
    observables, noise_dim = ("time",), 1

    def simulate(self, theta, noise):
        return theta[0] - theta[1] * torch.log1p(-noise)

    def draw(self, n, rng, start, lifetime):
        return start + rng.exponential(lifetime, n)

    def valid(self, theta):
        return theta[:1] + theta[1:]  # the mean


# Columns that are not what the model takes them for


class Units(Sabotaged, Weibull):
    """Speeds in mm/s where the model has m/s."""

    finding = "units"

    def draw(self, n, rng, scale, shape):
        return 1000 * super().draw(n, rng, scale, shape)


class UnitsOfEnergy(Sabotaged, Energies):
    """Energies in meV where the model has eV, in a problem of logarithms."""

    finding = "units|end .* of its range"  # a wide distribution at the end of its ranges may reach them

    def draw(self, n, rng, mean, deviation):
        return 1000 * super().draw(n, rng, mean, deviation)


class Swapped(Sabotaged, Arrhenius):
    """Two columns swapped."""

    finding = "order of columns"

    def draw(self, n, rng, *truth):
        return super().draw(n, rng, *truth)[:, ::-1]


class Integers(Sabotaged, Weibull):
    """Speeds that were rounded, where the model's are not."""

    finding = "integers"

    def draw(self, n, rng, scale, shape):
        return super().draw(n, rng, scale, shape).round()


class Constant(Sabotaged, Normal):
    """An observable that is always the same, as from a dead channel."""

    finding = "constant|always|vary|one value|same value|not determine.*_y "

    def draw(self, n, rng, *truth):
        events = super().draw(n, rng, *truth)
        events[:, 1] = 0.0
        return events

    def valid(self, theta):
        return theta[[0, 2]]
