"""Problems with one observable."""

import math

import numpy as np
import scipy.stats
import torch

from sagips_kit import Pipeline, Separate

from .common import (
    Known,
    Mixture,
    accepted,
    exponential,
    grid_of,
    inverse,
    tabulated,
)


class Energies(Known):
    """Energies of cosmic rays in eV: a logarithm that is normal, numbers around 10^12."""

    science = "astronomy"
    parameters, lower, upper, truth = ("mean", "deviation"), (11.0, 0.1), (13.0, 1.0), (12.1, 0.42)
    observables, noise_dim = ("energy",), 1

    def simulate(self, theta, noise):
        return 10 ** (theta[0] + theta[1] * torch.special.ndtri(noise))

    def draw(self, n, rng, mean, deviation):
        return 10 ** rng.normal(mean, deviation, n)

    def log_likelihood(self, theta, statistic):
        return -(theta[1].log() + 0.5 * ((statistic.log10() - theta[0]) / theta[1]) ** 2).sum()


class HeavyTails(Known):
    """Student's t with 2 degrees of freedom, which has no variance."""

    science = "statistics"
    parameters, lower, upper, truth = ("position", "scale"), (-5.0, 0.2), (5.0, 5.0), (1.3, 0.8)
    observables, noise_dim = ("x",), 1

    def simulate(self, theta, noise):
        return theta[0] + theta[1] * (2 * noise - 1) * (2 / (4 * noise * (1 - noise))).sqrt()

    def draw(self, n, rng, position, scale):
        return position + scale * rng.standard_t(2, n)

    def log_likelihood(self, theta, statistic):
        return -(theta[1].log() + 1.5 * torch.log1p(((statistic - theta[0]) / theta[1]) ** 2 / 2)).sum()


class Weibull(Known):
    """Wind speeds at a mast."""

    science = "meteorology"
    parameters, lower, upper, truth = ("scale", "shape"), (1.0, 0.5), (20.0, 5.0), (8.0, 2.0)
    observables, noise_dim = ("speed",), 1

    def simulate(self, theta, noise):
        return theta[0] * (-torch.log1p(-noise)) ** (1 / theta[1])

    def draw(self, n, rng, scale, shape):
        return scale * rng.weibull(shape, n)

    def log_likelihood(self, theta, statistic):
        ratio = statistic / theta[0]
        return ((theta[1] / theta[0]).log() + (theta[1] - 1) * ratio.log() - ratio ** theta[1]).sum()


class Lifetimes(Mixture):
    """Two lifetimes and their fractions."""

    science = "nuclear physics"
    parameters, lower, upper, truth = ("short", "long", "fraction"), (0.2, 1.5, 0.05), (1.5, 6.0, 0.95), (0.6, 2.5, 0.4)
    observables, noise_dim, _within = ("time",), 1, ((0.0, 300.0),)

    def _parts(self, theta):
        short, long, fraction = theta
        return [fraction, 1 - fraction], [[exponential(short), exponential(long)]]

    def draw(self, n, rng, short, long, fraction):
        return rng.exponential(np.where(rng.random(n) < fraction, short, long))


class Pulse(Known):
    """A decay after a pulse, at unix times of 1.7e9 s, with a resolution of 0.5 s."""

    science = "nuclear physics"
    parameters, lower, upper = ("start", "lifetime"), (1.7e9 - 100, 0.5), (1.7e9 + 100, 50.0)
    truth, observables, noise_dim = (1.7e9 + 3, 7.0), ("time",), 2
    _resolution = 0.5

    def simulate(self, theta, noise):
        decay = theta[0] - theta[1] * torch.log1p(-noise[:, 0])
        return (decay + self._resolution * torch.special.ndtri(noise[:, 1]))[:, None]

    def draw(self, n, rng, start, lifetime):
        return start + rng.exponential(lifetime, n) + 0.5 * rng.normal(size=n)

    def log_likelihood(self, theta, statistic):
        rate, delay = 1 / theta[1], statistic[:, 0] - theta[0]
        tail = torch.special.log_ndtr((delay - 0.25 * rate) / 0.5)
        return (rate.log() + rate * (0.125 * rate - delay) + tail).sum()


class Peak(Known):
    """A peak on a falling spectrum with a wave in it."""

    science = "particle physics"
    parameters, observables, noise_dim = ("mass", "width", "fraction", "slope", "wave"), ("mass_seen",), 1
    lower, upper, truth = (3, 0.05, 0.02, 1, -0.3), (7, 0.6, 0.6, 10, 0.3), (5, 0.2, 0.15, 4, 0.1)

    @staticmethod
    def _density(theta, x):
        mass, width, fraction, slope, wave = theta
        peak = torch.exp(-0.5 * ((x - mass) / width) ** 2) / (width * math.sqrt(2 * math.pi))
        end, rate = torch.exp(-10 / slope), 1 / slope
        norm = slope * (1 - end) + wave * (rate + end * (math.sin(10) - rate * math.cos(10))) / (1 + rate**2)
        return fraction * peak + (1 - fraction) * torch.exp(-x / slope) * (1 + wave * torch.cos(x)) / norm

    _pipeline = Pipeline(_density.__func__, Separate(grid_of(0, 10)))

    def simulate(self, theta, noise):
        return self._pipeline.simulate(theta, noise)

    def draw(self, n, rng, mass, width, fraction, slope, wave):
        def propose(n):
            x = rng.exponential(slope, n)
            return x[x < 10]

        background = accepted(propose, lambda x: (1 + wave * np.cos(x)) / (1 + abs(wave)), n, rng)
        return np.where(rng.random(n) < fraction, rng.normal(mass, width, n), background)

    def log_likelihood(self, theta, statistic):
        return self._density(theta, statistic[:, 0]).log().sum()


class Returns(Known):
    """Daily returns of a share in percent: Student's t with unknown degrees of freedom."""

    science = "finance"
    parameters, observables, noise_dim = ("position", "scale", "freedom"), ("change",), 1
    lower, upper, truth = (-1.0, 0.2, 2.0), (1.0, 4.0, 15.0), (0.05, 0.9, 3.5)
    _grid = grid_of(-16, 16)  # of the inverse hyperbolic sine of standard values

    @staticmethod
    def _log_density(freedom, x):
        norm = torch.lgamma(0.5 * (freedom + 1)) - torch.lgamma(0.5 * freedom) - 0.5 * freedom.log()
        return norm - 0.5 * (freedom + 1) * torch.log1p(x**2 / freedom)

    def simulate(self, theta, noise):
        def log_density(y):
            return self._log_density(theta[2], y.sinh()) + y.cosh().log()

        return (theta[0] + theta[1] * tabulated(log_density, self._grid, noise[:, 0]).sinh())[:, None]

    def draw(self, n, rng, position, scale, freedom):
        return position + scale * rng.standard_t(freedom, n)

    def log_likelihood(self, theta, statistic):
        return (self._log_density(theta[2], (statistic - theta[0]) / theta[1]) - theta[1].log()).sum()


class Cover(Known):
    """The fraction of ground that plants cover: a beta distribution."""

    science = "ecology"
    parameters, lower, upper, truth = ("a", "b"), (0.5, 0.5), (5.0, 8.0), (0.8, 3.0)
    observables, noise_dim = ("cover",), 1
    _grid = grid_of(-60, 60, 12001)  # of logits

    def simulate(self, theta, noise):
        def log_density(y):
            return theta[0] * torch.nn.functional.logsigmoid(y) + theta[1] * torch.nn.functional.logsigmoid(-y)

        return tabulated(log_density, self._grid, noise[:, 0]).sigmoid()[:, None]

    def draw(self, n, rng, a, b):
        return rng.beta(a, b, n)

    def log_likelihood(self, theta, statistic):
        a, b = theta
        norm = torch.lgamma(a + b) - torch.lgamma(a) - torch.lgamma(b)
        return (norm + (a - 1) * statistic.log() + (b - 1) * torch.log1p(-statistic)).sum()


class Directions(Known):
    """Directions in which animals leave: two von Mises distributions, home and away, on the circle from -pi to pi."""

    science = "ecology"
    parameters, observables, noise_dim = ("home", "narrow", "wide", "fraction"), ("direction",), 1
    lower, upper, truth = (-1.5, 2.0, 0.3, 0.5), (1.5, 15.0, 2.0, 0.95), (0.4, 6.0, 1.0, 0.7)
    _grid = grid_of(-math.pi, math.pi)

    @staticmethod
    def _log_density(theta, x):
        home, narrow, wide, fraction = theta
        i0 = torch.special.i0e
        first = fraction.log() + narrow * (torch.cos(x - home) - 1) - i0(narrow).log()
        second = (1 - fraction).log() + wide * (-torch.cos(x - home) - 1) - i0(wide).log()
        return torch.logsumexp(torch.stack([first, second]), 0)

    def simulate(self, theta, noise):
        return tabulated(lambda x: self._log_density(theta, x), self._grid, noise[:, 0])[:, None]

    def draw(self, n, rng, home, narrow, wide, fraction):
        angle = np.where(
            rng.random(n) < fraction, rng.vonmises(home, narrow, n), home + np.pi + rng.vonmises(0, wide, n)
        )
        return np.angle(np.exp(1j * angle))

    def log_likelihood(self, theta, statistic):
        return self._log_density(theta, statistic).sum()


class ReactionTimes(Known):
    """Reaction times in seconds: a drift to a threshold, and a time before it starts (inverse Gaussian)."""

    science = "neuroscience"
    parameters, observables, noise_dim = ("drift", "threshold", "start"), ("time",), 1
    lower, upper, truth = (1.0, 0.5, 0.05), (6.0, 2.0, 0.4), (3.0, 1.1, 0.2)

    @staticmethod
    def _log_density(drift, threshold, t):
        return threshold.log() - 1.5 * t.log() - 0.5 * (threshold - drift * t) ** 2 / t

    def simulate(self, theta, noise):
        drift, threshold, start = theta

        def cdf(t):
            root, log_ndtr = t.sqrt(), torch.special.log_ndtr
            late = 2 * drift * threshold + log_ndtr(-(drift * t + threshold) / root)
            return torch.special.ndtr((drift * t - threshold) / root) + late.exp()

        def density(t):
            return self._log_density(drift, threshold, t).exp() / math.sqrt(2 * math.pi)

        return (start + inverse(cdf, density, noise[:, 0], 1e-4, 80.0))[:, None]

    def draw(self, n, rng, drift, threshold, start):
        return start + rng.wald(threshold / drift, threshold**2, n)

    def log_likelihood(self, theta, statistic):
        return self._log_density(theta[0], theta[1], statistic - theta[2]).sum()


class Aftershocks(Known):
    """Days from an earthquake to its aftershocks, until day 1000 (Omori and Utsu)."""

    science = "seismology"
    parameters, lower, upper, truth = ("delay", "power"), (1e-3, 1.05), (10.0, 1.9), (0.05, 1.15)
    observables, noise_dim, _end = ("time",), 1, 1000.0

    def simulate(self, theta, noise):
        delay, q = theta[0], 1 - theta[1]
        left = (delay**q * (1 - noise) + (self._end + delay) ** q * noise).log() / q
        return left.exp() - delay

    def draw(self, n, rng, delay, power):
        def propose(n):
            rates = rng.gamma(power - 1, 1 / delay, n)
            return rng.exponential(size=n) / np.maximum(rates, 1e-300)

        return accepted(propose, lambda t: t < self._end, n, rng)

    def log_likelihood(self, theta, statistic):
        delay, power = theta
        norm = (delay ** (1 - power) - (self._end + delay) ** (1 - power)) / (power - 1)
        return -(power * (statistic + delay).log() + norm.log()).sum()


class Floods(Known):
    """Highest water of a year in cm: a generalised extreme-value distribution."""

    science = "hydrology"
    parameters, observables, noise_dim = ("position", "scale", "shape"), ("level",), 1
    lower, upper, truth = (100.0, 10.0, 0.02), (600.0, 200.0, 0.6), (310.0, 60.0, 0.2)

    def simulate(self, theta, noise):
        position, scale, shape = theta
        return position + scale * torch.expm1(-shape * (-noise.log()).log()) / shape

    def draw(self, n, rng, position, scale, shape):
        return scipy.stats.genextreme.rvs(-shape, position, scale, n, random_state=rng)

    def log_likelihood(self, theta, statistic):
        position, scale, shape = theta
        y = torch.log1p(shape * (statistic - position) / scale) / shape
        return -(scale.log() + (1 + shape) * y + torch.exp(-y)).sum()


class Incomes(Known):
    """Incomes (Dagum), with a scale that may be anywhere in four decades."""

    science = "economics"
    parameters, observables, noise_dim = ("scale", "tail", "bottom"), ("income",), 1
    lower, upper, truth = (1e2, 1.2, 0.2), (1e6, 8.0, 3.0), (3e4, 3.0, 0.6)

    def simulate(self, theta, noise):
        scale, tail, bottom = theta
        return scale * torch.expm1(-noise.log() / bottom) ** (-1 / tail)

    def draw(self, n, rng, scale, tail, bottom):
        return scale * scipy.stats.burr.rvs(tail, bottom, size=n, random_state=rng)

    def log_likelihood(self, theta, statistic):
        scale, tail, bottom = theta
        y = tail * (statistic / scale).log()
        return ((tail * bottom).log() - y - (bottom + 1) * torch.nn.functional.softplus(-y)).sum()


class EnergyLoss(Known):
    """Energy that a particle leaves in silicon, in keV (Moyal)."""

    science = "particle physics"
    parameters, lower, upper, truth = ("position", "width"), (20.0, 1.0), (150.0, 20.0), (82.0, 6.0)
    observables, noise_dim = ("energy",), 1

    def simulate(self, theta, noise):
        return theta[0] - 2 * theta[1] * (-torch.special.ndtri(0.5 * noise)).log()

    def draw(self, n, rng, position, width):
        return scipy.stats.moyal.rvs(position, width, n, random_state=rng)

    def log_likelihood(self, theta, statistic):
        y = (statistic - theta[0]) / theta[1]
        return -(theta[1].log() + 0.5 * (y + torch.exp(-y))).sum()


class Lighthouse(Known):
    """Flashes of a lighthouse on the shore: a Cauchy distribution."""

    science = "statistics"
    parameters, lower, upper, truth = ("position", "distance"), (-20.0, 0.1), (20.0, 10.0), (4.0, 1.5)
    observables, noise_dim = ("x",), 1

    def simulate(self, theta, noise):
        return theta[0] + theta[1] * torch.tan(math.pi * (noise - 0.5))

    def draw(self, n, rng, position, distance):
        return position + distance * rng.standard_cauchy(n)

    def log_likelihood(self, theta, statistic):
        return (theta[1].log() - torch.log(theta[1] ** 2 + (statistic - theta[0]) ** 2)).sum()


class SkewNormal(Known):
    """Sizes of cells: a skew normal distribution."""

    science = "biology"
    parameters, observables, noise_dim = ("position", "scale", "skew"), ("size",), 2
    lower, upper, truth = (-5.0, 0.5, 1.0), (15.0, 10.0, 10.0), (4.0, 3.0, 3.0)

    def simulate(self, theta, noise):
        position, scale, skew = theta
        a, b = torch.special.ndtri(noise).unbind(-1)
        return (position + scale * (skew * a.abs() + b) / (1 + skew**2).sqrt())[:, None]

    def draw(self, n, rng, position, scale, skew):
        return scipy.stats.skewnorm.rvs(skew, position, scale, n, random_state=rng)

    def log_likelihood(self, theta, statistic):
        z = (statistic - theta[0]) / theta[1]
        return (torch.special.log_ndtr(theta[2] * z) - 0.5 * z**2 - theta[1].log()).sum()


class Moments(Known):
    """Seismic moments in N m above 10^17: a power law with a taper (Kagan)."""

    science = "seismology"
    parameters, lower, upper, truth = ("index", "corner"), (0.3, 18.5), (1.2, 21.0), (0.65, 19.8)
    observables, noise_dim, _least = ("moment",), 1, 1e17

    def simulate(self, theta, noise):
        index, corner = theta[0], 10 ** theta[1] / self._least

        # In the logarithm of the moment, in units of the least.
        def cdf(y):
            return -torch.expm1(-index * y - y.expm1() / corner)

        def density(y):
            return (index + y.exp() / corner) * torch.exp(-index * y - y.expm1() / corner)

        return self._least * inverse(cdf, density, noise, 0.0, 20.0).exp()

    def draw(self, n, rng, index, corner):
        return np.minimum(self._least * (1 + rng.pareto(index, n)), self._least + rng.exponential(10**corner, n))

    def log_likelihood(self, theta, statistic):
        index, corner, x = theta[0], 10 ** theta[1] / self._least, statistic / self._least
        return ((index / x + 1 / corner).log() - index * x.log() - (x - 1) / corner).sum()


class Consecutive(Known):
    """Times of single molecules through two reactions, one after the other."""

    science = "chemistry"
    parameters, lower, upper, truth = ("fast", "slow"), (2.0, 0.05), (20.0, 1.8), (3.5, 1.1)
    observables, noise_dim = ("time",), 2

    def simulate(self, theta, noise):
        return -(torch.log1p(-noise) / theta).sum(-1, keepdim=True)

    def draw(self, n, rng, fast, slow):
        return rng.exponential(1 / fast, n) + rng.exponential(1 / slow, n)

    def log_likelihood(self, theta, statistic):
        fast, slow = theta
        both = torch.log(-torch.expm1(-(fast - slow) * statistic)) - slow * statistic
        return ((fast * slow / (fast - slow)).log() + both).sum()


class Incubation(Known):
    """Incubation times in days, of which none beyond 21 days is recorded."""

    science = "epidemiology"
    parameters, lower, upper, truth = ("mean", "deviation"), (0.5, 0.2), (3.0, 1.5), (1.7, 0.8)
    observables, noise_dim, _end = ("time",), 1, 21.0

    def simulate(self, theta, noise):
        share = torch.special.ndtr((math.log(self._end) - theta[0]) / theta[1])
        return torch.exp(theta[0] + theta[1] * torch.special.ndtri(share * noise))

    def draw(self, n, rng, mean, deviation):
        return accepted(lambda n: rng.lognormal(mean, deviation, n), lambda t: t < self._end, n, rng)

    def log_likelihood(self, theta, statistic):
        share = torch.special.log_ndtr((math.log(self._end) - theta[0]) / theta[1])
        return -(0.5 * ((statistic.log() - theta[0]) / theta[1]) ** 2 + theta[1].log() + share).sum()
