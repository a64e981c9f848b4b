"""Problems in which one observable depends on another: laws of two quantities, copulas, signal and background."""

import math

import numpy as np
import scipy.stats
import torch

from .common import Known, Mixture, Part, exponential, exponential_below, normal

_TINY = 1e-16


class Arrhenius(Known):
    """Rates of a reaction from 280 to 320 K: prefactor and activation energy in kJ/mol are nearly degenerate."""

    science = "chemistry"
    parameters, observables, noise_dim = ("log_prefactor", "energy", "scatter"), ("temperature", "rate"), 2
    lower, upper, truth = (10.0, 20.0, 0.02), (40.0, 100.0, 0.5), (24.0, 58.0, 0.1)
    _gas = 8.314462618e-3

    def simulate(self, theta, noise):
        temperature = 280 + 40 * noise[:, 0]
        log_rate = theta[0] - theta[1] / (self._gas * temperature) + theta[2] * torch.special.ndtri(noise[:, 1])
        return torch.stack([temperature, log_rate.exp()], -1)

    def draw(self, n, rng, log_prefactor, energy, scatter):
        temperature = rng.uniform(280, 320, n)
        return np.stack([temperature, rng.lognormal(log_prefactor - energy / (self._gas * temperature), scatter)], -1)

    def log_likelihood(self, theta, statistic):
        temperature, rate = statistic.unbind(-1)
        z = (rate.log() - theta[0] + theta[1] / (self._gas * temperature)) / theta[2]
        return -(0.5 * z**2 + theta[2].log()).sum()


class Enzyme(Known):
    """Rates of an enzyme at concentrations over four decades (Michaelis and Menten)."""

    science = "chemistry"
    parameters, observables, noise_dim = ("fastest", "half", "scatter"), ("concentration", "rate"), 2
    lower, upper, truth = (1.0, 0.01, 0.02), (90.0, 100.0, 0.5), (12.0, 0.8, 0.1)

    def simulate(self, theta, noise):
        s = 10 ** (4 * noise[:, 0] - 2)
        rate = theta[0] * s / (theta[1] + s) * torch.exp(theta[2] * torch.special.ndtri(noise[:, 1]))
        return torch.stack([s, rate], -1)

    def draw(self, n, rng, fastest, half, scatter):
        s = 10 ** rng.uniform(-2, 2, n)
        return np.stack([s, fastest * s / (half + s) * rng.lognormal(0, scatter, n)], -1)

    def log_likelihood(self, theta, statistic):
        s, rate = statistic.unbind(-1)
        z = (rate.log() - (theta[0] * s / (theta[1] + s)).log()) / theta[2]
        return -(0.5 * z**2 + theta[2].log()).sum()


class Tuning(Known):
    """The response of a neuron to directions from -pi to pi."""

    science = "neuroscience"
    parameters, observables, noise_dim = ("base", "height", "narrowness", "best", "noise"), ("direction", "response"), 2
    lower, upper, truth = (0.0, 2.0, 0.5, -2.0, 0.5), (10.0, 40.0, 8.0, 2.0, 5.0), (3.0, 14.0, 2.5, 0.7, 1.8)

    def simulate(self, theta, noise):
        direction = math.pi * (2 * noise[:, 0] - 1)
        response = self._mean(theta, direction) + theta[4] * torch.special.ndtri(noise[:, 1])
        return torch.stack([direction, response], -1)

    @staticmethod
    def _mean(theta, direction):
        return theta[0] + theta[1] * torch.exp(theta[2] * (torch.cos(direction - theta[3]) - 1))

    def draw(self, n, rng, base, height, narrowness, best, noise):
        direction = rng.uniform(-np.pi, np.pi, n)
        mean = base + height * np.exp(narrowness * (np.cos(direction - best) - 1))
        return np.stack([direction, rng.normal(mean, noise)], -1)

    def log_likelihood(self, theta, statistic):
        z = (statistic[:, 1] - self._mean(theta, statistic[:, 0])) / theta[4]
        return -(0.5 * z**2 + theta[4].log()).sum()


class Cepheids(Mixture):
    """Brightness against the logarithm of the period, with outliers that are 0.5 brighter and wider."""

    science = "astronomy"
    parameters = ("zero", "slope", "scatter", "outliers", "wide")
    lower, upper, truth = (-4.0, -5.0, 0.03, 0.01, 0.5), (0.0, 0.0, 0.4, 0.4, 3.0), (-1.4, -2.8, 0.12, 0.08, 1.2)
    observables, noise_dim, _within = ("log_period", "brightness"), 2, ((-60.0, 60.0),)

    def _parts(self, theta):
        outliers = theta[3]
        return [1 - outliers, outliers], [[normal(0.0, theta[2]), normal(-0.5, theta[4])]]

    def simulate(self, theta, noise):
        log_period = 2 * noise[:, 0]
        rest = super().simulate(theta, noise[:, 1:])[:, 0]
        return torch.stack([log_period, theta[0] + theta[1] * log_period + rest], -1)

    def draw(self, n, rng, zero, slope, scatter, outliers, wide):
        log_period = rng.uniform(0, 2, n)
        rest = np.where(rng.random(n) < outliers, rng.normal(-0.5, wide, n), rng.normal(0, scatter, n))
        return np.stack([log_period, zero + slope * log_period + rest], -1)

    def log_likelihood(self, theta, statistic):
        log_period, brightness = statistic.unbind(-1)
        return super().log_likelihood(theta, (brightness - theta[0] - theta[1] * log_period)[:, None])


class Photons(Known):
    """Numbers of photons of a lamp, 12 on average, and the charge that a multiplier makes of them."""

    science = "particle physics"
    parameters, observables, noise_dim = ("pedestal", "gain", "noise", "spread"), ("photons", "charge"), 2
    lower, upper, truth = (-2.0, 0.5, 0.1, 0.05), (2.0, 3.0, 2.0, 1.0), (0.3, 1.2, 0.4, 0.3)
    _table = torch.as_tensor(scipy.stats.poisson.cdf(np.arange(60), 12))

    def simulate(self, theta, noise):
        photons = torch.searchsorted(self._table, noise[:, 0].contiguous().double()).to(theta)
        charge = self._mean(theta, photons) + self._width(theta, photons) * torch.special.ndtri(noise[:, 1])
        return torch.stack([photons, charge], -1)

    @staticmethod
    def _mean(theta, photons):
        return theta[0] + theta[1] * photons

    @staticmethod
    def _width(theta, photons):
        return (theta[2] ** 2 + theta[3] ** 2 * photons).sqrt()

    def draw(self, n, rng, pedestal, gain, noise, spread):
        photons = rng.poisson(12, n)
        charge = pedestal + gain * photons + rng.normal(0, noise, n) + np.sqrt(photons) * rng.normal(0, spread, n)
        return np.stack([photons, charge], -1)

    def log_likelihood(self, theta, statistic):
        photons, charge = statistic.unbind(-1)
        width = self._width(theta, photons)
        return -(0.5 * ((charge - self._mean(theta, photons)) / width) ** 2 + width.log()).sum()


class Portfolio(Known):
    """Returns of two shares that fall together: logistic distributions joined by a Clayton copula."""

    science = "finance"
    parameters = ("position_a", "scale_a", "position_b", "scale_b", "dependence")
    lower, upper, truth = (-2.0, 0.2, -2.0, 0.2, 0.2), (2.0, 3.0, 2.0, 3.0, 6.0), (0.1, 0.7, -0.2, 1.1, 1.5)
    observables, noise_dim = ("a", "b"), 2

    def simulate(self, theta, noise):
        u, w = noise.unbind(-1)
        k = theta[4]
        log_v = -torch.log1p(torch.expm1(-k / (1 + k) * w.log()) * torch.exp(-k * u.log())) / k
        logit_v = log_v - torch.log(-torch.expm1(log_v))
        return torch.stack([theta[0] + theta[1] * torch.logit(u), theta[2] + theta[3] * logit_v], -1)

    def draw(self, n, rng, position_a, scale_a, position_b, scale_b, dependence):
        # A common gamma-distributed frailty (Marshall and Olkin).
        frailty = np.maximum(rng.gamma(1 / dependence, 1, (n, 1)), 1e-250)
        log_u = -np.log1p(rng.exponential(size=(n, 2)) / frailty) / dependence
        return [position_a, position_b] + np.array([scale_a, scale_b]) * (log_u - np.log(-np.expm1(log_u)))

    def log_likelihood(self, theta, statistic):
        k, z = theta[4], (statistic - theta[[0, 2]]) / theta[[1, 3]]
        log_u, log_rest = torch.nn.functional.logsigmoid(z), torch.nn.functional.logsigmoid(-z)
        high = -k * log_u.min(1).values  # of logarithms of u^-k
        low = -k * log_u.max(1).values
        total = high + torch.log(1 + torch.exp(low - high) - torch.exp(-high))
        copula = torch.log1p(k) - (1 + k) * log_u.sum(1) - (2 + 1 / k) * total
        return (copula + (log_u + log_rest).sum(1) - theta[1].log() - theta[3].log()).sum()


class Trees(Known):
    """Heights and stems of trees: Weibull and lognormal distributions joined by a Frank copula."""

    science = "ecology"
    parameters = ("height", "shape", "log_stem", "spread", "dependence")
    lower, upper, truth = (5.0, 0.8, 1.0, 0.1, 0.5), (40.0, 8.0, 5.0, 1.5, 15.0), (18.0, 2.6, 3.1, 0.45, 5.0)
    observables, noise_dim = ("height_seen", "stem"), 2

    def simulate(self, theta, noise):
        height, shape, log_stem, spread, k = theta
        u, w = noise.unbind(-1)
        v = -torch.log1p(w * torch.expm1(-k) / (w + (1 - w) * torch.exp(-k * u))) / k
        stem = torch.exp(log_stem + spread * torch.special.ndtri(v.clamp(_TINY, 1 - _TINY)))
        return torch.stack([height * (-torch.log1p(-u)) ** (1 / shape), stem], -1)

    def draw(self, n, rng, height, shape, log_stem, spread, dependence):
        # A common frailty (Marshall and Olkin).
        frailty = rng.logseries(-np.expm1(-dependence), (n, 1))
        u, v = (-np.log1p(np.expm1(-dependence) * np.exp(-rng.exponential(size=(n, 2)) / frailty)) / dependence).T
        return np.stack([
            scipy.stats.weibull_min.ppf(u, shape, scale=height),
            scipy.stats.lognorm.ppf(v, spread, scale=np.exp(log_stem)),
        ], -1)  # fmt: skip

    def log_likelihood(self, theta, statistic):
        height, shape, log_stem, spread, k = theta
        ratio, z = statistic[:, 0] / height, (statistic[:, 1].log() - log_stem) / spread
        u, v = -torch.expm1(-(ratio**shape)), torch.special.ndtr(z)
        margins = (shape / height).log() + (shape - 1) * ratio.log() - ratio**shape - 0.5 * z**2 - spread.log()
        end = -torch.expm1(-k)
        inside = end - torch.expm1(-k * u) * torch.expm1(-k * v)
        return (margins + (k * end).log() - k * (u + v) - 2 * inside.log()).sum()


class Storms(Known):
    """Duration, depth and temperature of storms: Weibull, Gumbel and logistic, joined by a Gaussian copula."""

    science = "hydrology"
    parameters = ("time", "shape", "depth", "width", "temperature", "range", "r_12", "r_13", "r_23_1")
    lower = (1.0, 0.6, 10.0, 2.0, 0.0, 0.5, -0.8, -0.8, -0.8)
    upper = (12.0, 4.0, 60.0, 20.0, 25.0, 5.0, 0.8, 0.8, 0.8)
    truth = (5.0, 1.5, 28.0, 7.0, 14.0, 2.0, 0.6, -0.3, 0.2)
    observables, noise_dim = ("duration", "depth_seen", "temperature_seen"), 3

    def simulate(self, theta, noise):
        log_ndtr = torch.special.log_ndtr
        a, b, c = (torch.special.ndtri(noise) @ self._factor(theta[6:]).T).unbind(-1)
        duration = theta[0] * (-log_ndtr(-a)) ** (1 / theta[1])
        depth = theta[2] - theta[3] * torch.log(-log_ndtr(b))
        return torch.stack([duration, depth, theta[4] + theta[5] * (log_ndtr(c) - log_ndtr(-c))], -1)

    @staticmethod
    def _factor(r):
        """The Cholesky factor of two correlations and a partial one."""
        one, zero, rest = torch.ones_like(r[0]), torch.zeros_like(r[0]), (1 - r**2).sqrt()
        rows = [[one, zero, zero], [r[0], rest[0], zero], [r[1], r[2] * rest[1], rest[1] * rest[2]]]
        return torch.stack([torch.stack(row) for row in rows])

    def draw(self, n, rng, time, shape, depth, width, temperature, logistic, r_12, r_13, r_23_1):
        r_23 = r_12 * r_13 + r_23_1 * np.sqrt((1 - r_12**2) * (1 - r_13**2))
        z = rng.multivariate_normal(np.zeros(3), [[1, r_12, r_13], [r_12, 1, r_23], [r_13, r_23, 1]], n)
        u = scipy.stats.norm.cdf(z)
        return np.stack([
            scipy.stats.weibull_min.ppf(u[:, 0], shape, scale=time),
            scipy.stats.gumbel_r.ppf(u[:, 1], depth, width),
            scipy.stats.logistic.ppf(u[:, 2], temperature, logistic),
        ], -1)  # fmt: skip

    def log_likelihood(self, theta, statistic):
        ratio, y = statistic[:, 0] / theta[0], (statistic[:, 1] - theta[2]) / theta[3]
        logit = (statistic[:, 2] - theta[4]) / theta[5]
        margins = (theta[1] / theta[0]).log() + (theta[1] - 1) * ratio.log() - ratio ** theta[1]
        margins = margins - y - torch.exp(-y) - theta[3].log()
        margins = margins + torch.nn.functional.logsigmoid(logit) + torch.nn.functional.logsigmoid(-logit)
        u = torch.stack([-torch.expm1(-(ratio ** theta[1])), torch.exp(-torch.exp(-y)), logit.sigmoid()])
        z = torch.special.ndtri(u.clamp(_TINY, 1 - _TINY))
        factor = self._factor(theta[6:])
        white = torch.linalg.solve_triangular(factor, z, upper=False)
        copula = 0.5 * (z.square() - white.square()).sum(0) - factor.diagonal().log().sum()
        return (margins + copula - theta[5].log()).sum()


class Charm(Mixture):
    """Masses and decay times of a particle above a background that falls in both."""

    science = "particle physics"
    parameters = ("mass", "width", "lifetime", "slope", "prompt", "fraction")
    lower, upper, truth = (4, 0.05, 0.8, 1, 0.1, 0.05), (6, 0.5, 4, 10, 0.7, 0.7), (5.1, 0.15, 1.5, 4, 0.4, 0.25)
    observables, noise_dim, _within = ("mass_seen", "time"), 2, ((0.0, 10.0), (0.0, 120.0))

    def _parts(self, theta):
        mass, width, lifetime, slope, prompt, fraction = theta
        masses, times = (
            [normal(mass, width), exponential_below(10, slope)],
            [exponential(lifetime), exponential(prompt)],
        )
        return [fraction, 1 - fraction], [masses, times]

    def draw(self, n, rng, mass, width, lifetime, slope, prompt, fraction):
        is_signal = rng.random(n) < fraction
        background = scipy.stats.truncexpon.rvs(10 / slope, scale=slope, size=n, random_state=rng)
        m = np.where(is_signal, rng.normal(mass, width, n), background)
        return np.stack([m, rng.exponential(np.where(is_signal, lifetime, prompt))], -1)


class Polarised(Mixture):
    """The same with an angle, whose distribution is that of a polarised signal and of a flat background."""

    science = "particle physics"
    parameters = (*Charm.parameters, "polarisation")
    lower, upper, truth = (*Charm.lower, -0.9), (*Charm.upper, 2.0), (*Charm.truth, 0.6)
    observables, noise_dim, _within = ("mass_seen", "time", "cosine"), 3, (*Charm._within, (-1.0, 1.0))

    def _parts(self, theta):
        a, norm = theta[6], 2 + 2 * theta[6] / 3
        signal = Part(lambda c: (c + 1 + a * (c**3 + 1) / 3) / norm, lambda c: torch.log1p(a * c**2) - norm.log())
        flat = Part(lambda c: 0.5 * (c + 1), lambda c: torch.full_like(c, -math.log(2)))
        weights, columns = Charm._parts(self, theta[:6])
        return weights, [*columns, [signal, flat]]

    def draw(self, n, rng, mass, width, lifetime, slope, prompt, fraction, polarisation):
        is_signal = rng.random(n) < fraction
        background = scipy.stats.truncexpon.rvs(10 / slope, scale=slope, size=n, random_state=rng)
        m = np.where(is_signal, rng.normal(mass, width, n), background)
        cosine, k = rng.uniform(-1, 1, n), max(polarisation, 0)
        while (again := is_signal & (rng.random(n) * (1 + k) > 1 + polarisation * cosine**2)).any():
            cosine[again] = rng.uniform(-1, 1, again.sum())
            is_signal = again
        return np.stack([m, rng.exponential(np.where(background == m, prompt, lifetime)), cosine], -1)


class Clusters(Mixture):
    """Two types of cells by three markers."""

    science = "biology"
    parameters = (*(f"first_{k}" for k in "abc"), *(f"second_{k}" for k in "abc"), "width", "spread", "fraction")
    lower = (-4.0, -3.0, -3.0, 0.2, -3.0, -3.0, 0.3, 0.3, 0.1)
    upper = (0.0, 3.0, 3.0, 5.0, 3.0, 3.0, 2.0, 2.0, 0.9)
    truth = (-1.0, 0.5, 0.0, 1.2, -0.4, 1.0, 0.8, 1.1, 0.35)
    observables, noise_dim, _within = ("a", "b", "c"), 3, ((-40.0, 40.0),) * 3

    def _parts(self, theta):
        first, second, (width, spread, fraction) = theta[:3], theta[3:6], theta[6:]
        return [fraction, 1 - fraction], [
            [normal(a, width), normal(b, spread)] for a, b in zip(first, second, strict=True)
        ]

    def draw(self, n, rng, *truth):
        width, spread, fraction = truth[6:]
        is_first = rng.random((n, 1)) < fraction
        return np.where(is_first, rng.normal(truth[:3], width, (n, 3)), rng.normal(truth[3:6], spread, (n, 3)))
