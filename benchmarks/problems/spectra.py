"""Problems with one observable: spectra, sums of shapes, and a share of events at one value."""

import math

import numpy as np
import torch

from .common import Known, accepted, grid_of, log_integral, tabulated


class Rainfall(Known):
    """Rain of a day, which is 0 on many days (Tobit)."""

    science = "meteorology"
    parameters, lower, upper, truth = ("mean", "deviation"), (-5.0, 1.0), (15.0, 12.0), (2.5, 5.0)
    observables, noise_dim = ("rain",), 1

    def simulate(self, theta, noise):
        return (theta[0] + theta[1] * torch.special.ndtri(noise)).clamp(min=0)

    def draw(self, n, rng, mean, deviation):
        return np.maximum(rng.normal(mean, deviation, n), 0)

    def log_likelihood(self, theta, statistic):
        mean, deviation = theta
        wet = -0.5 * ((statistic - mean) / deviation) ** 2 - deviation.log() - 0.5 * math.log(2 * math.pi)
        return torch.where(statistic > 0, wet, torch.special.log_ndtr(-mean / deviation)).sum()


class Intervals(Known):
    """Intervals between the spikes of a neuron in ms: bursts and pauses, a gamma distribution each."""

    science = "neuroscience"
    parameters = ("shape_burst", "mean_burst", "shape_pause", "mean_pause", "fraction")
    lower, upper = (1.0, 2.0, 1.0, 30.0, 0.1), (8.0, 20.0, 8.0, 300.0, 0.9)
    truth, observables, noise_dim = (3.0, 6.0, 2.0, 90.0, 0.35), ("interval",), 1
    _grid = grid_of(-32, 10, 8001)  # of logarithms

    @staticmethod
    def _log_density(theta, y):
        """Of the logarithm."""

        def gamma(shape, mean):
            return shape * (y + (shape / mean).log()) - shape / mean * y.exp() - torch.lgamma(shape)

        share = theta[4]
        parts = [share.log() + gamma(*theta[:2]), (1 - share).log() + gamma(*theta[2:4])]
        return torch.logsumexp(torch.stack(parts), 0)

    def simulate(self, theta, noise):
        return tabulated(lambda y: self._log_density(theta, y), self._grid, noise[:, 0]).exp()[:, None]

    def draw(self, n, rng, shape_burst, mean_burst, shape_pause, mean_pause, fraction):
        is_burst = rng.random(n) < fraction
        shape, mean = np.where(is_burst, [[shape_burst], [mean_burst]], [[shape_pause], [mean_pause]])
        return rng.gamma(shape, mean / shape)

    def log_likelihood(self, theta, statistic):
        return self._log_density(theta, statistic.log()).sum()


class Galaxies(Known):
    """Luminosities of galaxies in those of the sun, above 10^8 (Schechter)."""

    science = "astronomy"
    parameters, lower, upper, truth = ("index", "knee"), (-1.8, 9.5), (-1.05, 11.0), (-1.25, 10.3)
    observables, noise_dim, _least = ("luminosity",), 1, 1e8
    _grid = grid_of(0, 11.2, 8001)  # of the logarithm, in units of the least

    def _log_density(self, theta, y):
        return (theta[0] + 1) * y - y.exp() * (self._least / 10 ** theta[1])

    def simulate(self, theta, noise):
        return self._least * tabulated(lambda y: self._log_density(theta, y), self._grid, noise[:, 0]).exp()[:, None]

    def draw(self, n, rng, index, knee):
        def propose(n):
            with np.errstate(over="ignore"):
                return self._least * (1 + rng.pareto(-index - 1, n))

        return accepted(propose, lambda x: np.exp(-(x - self._least) / 10**knee), n, rng)

    def log_likelihood(self, theta, statistic):
        norm = log_integral(lambda y: self._log_density(theta, y), self._grid)
        return (self._log_density(theta, (statistic / self._least).log()) - norm).sum()


class Oscillation(Known):
    """Energies in GeV of neutrinos that oscillate over 295 km."""

    science = "particle physics"
    parameters, observables, noise_dim = ("mixing", "splitting", "scale"), ("energy",), 1
    lower, upper, truth = (0.3, 1.5e-3, 0.9), (1.0, 3.5e-3, 1.1), (0.8, 2.5e-3, 1.02)
    _grid = grid_of(0.2, 4)

    @staticmethod
    def _log_density(theta, energy):
        mixing, splitting, scale = theta
        survival = 1 - mixing * torch.sin(1.267 * 295 * splitting / energy) ** 2
        return survival.log() - 0.5 * ((energy / (0.8 * scale)).log() / 0.45) ** 2 - energy.log()

    def simulate(self, theta, noise):
        return tabulated(lambda x: self._log_density(theta, x), self._grid, noise[:, 0])[:, None]

    def draw(self, n, rng, mixing, splitting, scale):
        def propose(n):
            energy = rng.lognormal(np.log(0.8 * scale), 0.45, n)
            return energy[(energy > 0.2) & (energy < 4)]

        return accepted(propose, lambda x: 1 - mixing * np.sin(1.267 * 295 * splitting / x) ** 2, n, rng)

    def log_likelihood(self, theta, statistic):
        norm = log_integral(lambda x: self._log_density(theta, x), self._grid)
        return (self._log_density(theta, statistic) - norm).sum()


class Spectrum(Known):
    """A spectrum without a formula: its logarithm at 25 knots, relative to that at the first of 26."""

    science = "astronomy"
    parameters, observables, noise_dim = tuple(f"knot_{k}" for k in range(1, 26)), ("log_energy",), 1
    lower, upper = (-9.0,) * 25, (2.0,) * 25
    truth = tuple(-0.18 * k + 0.4 * math.sin(k) for k in range(1, 26))
    _knots, _grid = grid_of(0, 5, 26), grid_of(0, 5, 25 * 40 + 1)
    _nodes, _weights = (torch.as_tensor(one) for one in np.polynomial.legendre.leggauss(12))

    @staticmethod
    def _log_density(theta, x):
        values = torch.cat([theta[:1] * 0, theta])
        k = (5 * x).long().clamp(0, 24)
        return values[k] + (5 * x - k) * (values[k + 1] - values[k])

    def simulate(self, theta, noise):
        return tabulated(lambda x: self._log_density(theta, x), self._grid, noise[:, 0])[:, None]

    def draw(self, n, rng, *knots):
        values = np.array([0, *knots])
        steps = np.where(np.abs(np.diff(values)) < 1e-9, 1e-9, np.diff(values))
        shares = np.exp(values[:-1]) * np.expm1(steps) / steps
        chosen = rng.choice(25, n, p=shares / shares.sum())
        return 0.2 * (chosen + np.log1p(rng.random(n) * np.expm1(steps[chosen])) / steps[chosen])

    def log_likelihood(self, theta, statistic):
        # Exact but for rounding: Gauss's rule for each interval.
        x = self._knots[:-1, None] + 0.1 * (1 + self._nodes)
        norm = (0.1 * self._weights * self._log_density(theta, x).exp()).sum().log()
        return (self._log_density(theta, statistic) - norm).sum()
