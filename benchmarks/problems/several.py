"""Problems with two or more observables, of which correlations, shapes or combinations tell the parameters."""

import math

import numpy as np
import torch

from .common import Known, accepted, inverse
from .one import Weibull


def _cholesky(pairs, values, n):
    """A lower triangular matrix (n, n) of its entries, row by row."""
    return torch.zeros(n, n, dtype=values.dtype).index_put(tuple(torch.tensor(pairs).T), values)


class Normal(Known):
    """Two correlated observables."""

    science = "statistics"
    parameters = ("mean_x", "mean_y", "deviation_x", "deviation_y", "rho")
    lower, upper, truth = (-3, -3, 0.3, 0.3, -0.9), (3, 3, 3, 3, 0.9), (0.6, -1.1, 1.3, 0.7, 0.55)
    observables, noise_dim = ("x", "y"), 2

    def simulate(self, theta, noise):
        a, b = torch.special.ndtri(noise).unbind(-1)
        mean_x, mean_y, x, y, rho = theta
        return torch.stack([mean_x + x * a, mean_y + y * (rho * a + (1 - rho**2).sqrt() * b)], -1)

    def draw(self, n, rng, mean_x, mean_y, x, y, rho):
        return rng.multivariate_normal([mean_x, mean_y], [[x * x, rho * x * y], [rho * x * y, y * y]], n)

    def log_likelihood(self, theta, statistic):
        mean_x, mean_y, x, y, rho = theta
        a, b = (statistic[:, 0] - mean_x) / x, (statistic[:, 1] - mean_y) / y
        squares = (a**2 - 2 * rho * a * b + b**2) / (1 - rho**2)
        return -(x.log() + y.log() + 0.5 * (1 - rho**2).log() + 0.5 * squares).sum()


class NearlyDegenerate(Normal):
    """A correlation of 0.99."""

    lower, upper, truth = (-2, -2, 0.3, 0.3, 0.5), (2, 2, 3, 3, 0.999), (0.3, 0.4, 1.0, 1.0, 0.99)


class Normal5(Known):
    """Five observables, 20 parameters: means and the Cholesky factor of the covariance."""

    science = "statistics"
    _pairs = tuple((i, j) for i in range(5) for j in range(i + 1))
    observables, noise_dim = ("a", "b", "c", "d", "e"), 5
    parameters = (*(f"mean_{k}" for k in "abcde"), *(f"factor_{i}{j}" for i, j in _pairs))
    lower = (-3.0,) * 5 + tuple([0.2 if i == j else -2.0 for i, j in _pairs])
    upper = (3.0,) * 5 + tuple([3.0 if i == j else 2.0 for i, j in _pairs])
    truth = (0.6, 0.6, -0.1, -0.4, -0.9, *[1.0 + 0.1 * i if i == j else 0.3 * (-1) ** j for i, j in _pairs])

    def simulate(self, theta, noise):
        return theta[:5] + torch.special.ndtri(noise) @ _cholesky(self._pairs, theta[5:], 5).T

    def draw(self, n, rng, *truth):
        factor = np.zeros((5, 5))
        factor[tuple(np.transpose(self._pairs))] = truth[5:]
        return truth[:5] + rng.normal(size=(n, 5)) @ factor.T

    def log_likelihood(self, theta, statistic):
        factor = _cholesky(self._pairs, theta[5:], 5)
        z = torch.linalg.solve_triangular(factor, (statistic - theta[:5]).T, upper=False)
        return -0.5 * z.square().sum() - len(statistic) * factor.diagonal().log().sum()


class HeavyTails3(Known):
    """Returns of three shares: a multivariate Student's t with 4 degrees of freedom, 9 parameters."""

    science = "finance"
    _pairs = tuple((i, j) for i in range(3) for j in range(i + 1))
    observables, noise_dim = ("a", "b", "c"), 5
    parameters = ("mean_a", "mean_b", "mean_c", *(f"factor_{i}{j}" for i, j in _pairs))
    lower = (-2.0,) * 3 + tuple([0.2 if i == j else -2.0 for i, j in _pairs])
    upper = (2.0,) * 3 + tuple([3.0 if i == j else 2.0 for i, j in _pairs])
    truth = (0.1, -0.2, 0.3, 1.0, 0.6, 0.8, -0.4, 0.5, 1.3)

    def simulate(self, theta, noise):
        z = torch.special.ndtri(noise[:, :3]) @ _cholesky(self._pairs, theta[3:], 3).T
        return theta[:3] + z / (-0.5 * noise[:, 3:].log().sum(-1, keepdim=True)).sqrt()

    def draw(self, n, rng, *truth):
        factor = np.zeros((3, 3))
        factor[tuple(np.transpose(self._pairs))] = truth[3:]
        return truth[:3] + rng.normal(size=(n, 3)) @ factor.T / np.sqrt(rng.chisquare(4, (n, 1)) / 4)

    def log_likelihood(self, theta, statistic):
        factor = _cholesky(self._pairs, theta[3:], 3)
        z = torch.linalg.solve_triangular(factor, (statistic - theta[:3]).T, upper=False)
        return -3.5 * torch.log1p(z.square().sum(0) / 4).sum() - len(statistic) * factor.diagonal().log().sum()


class Angles(Known):
    """An angular distribution: 1 + a c^2 + b (1 - c^2) cos 2 phi."""

    science = "particle physics"
    parameters, lower, upper, truth = ("a", "b"), (-0.9, -0.5), (2.0, 0.5), (0.7, 0.2)
    observables, noise_dim = ("cosine", "phi"), 2

    def simulate(self, theta, noise):
        a, b = theta
        norm = 2 + 2 * a / 3
        c = inverse(
            lambda c: (c + 1 + a * (c**3 + 1) / 3) / norm, lambda c: (1 + a * c**2) / norm, noise[:, 0], -1.0, 1.0
        )
        k, turn = b * (1 - c**2) / (1 + a * c**2), 2 * math.pi
        phi = inverse(
            lambda p: (p + 0.5 * k * torch.sin(2 * p)) / turn,
            lambda p: (1 + k * torch.cos(2 * p)) / turn,
            noise[:, 1],
            0.0,
            turn,
        )
        return torch.stack([c, phi], -1)

    def draw(self, n, rng, a, b):
        def propose(n):
            return np.stack([rng.uniform(-1, 1, n), rng.uniform(0, 2 * np.pi, n)], -1)

        def probability(events):
            c, phi = events.T
            return (1 + a * c**2 + b * (1 - c**2) * np.cos(2 * phi)) / (1 + max(a, 0) + abs(b))

        return accepted(propose, probability, n, rng)

    def log_likelihood(self, theta, statistic):
        a, b = theta
        c, phi = statistic.unbind(-1)
        return torch.log((1 + a * c**2 + b * (1 - c**2) * torch.cos(2 * phi)) / (2 + 2 * a / 3)).sum()


class Resonance(Known):
    """A narrow resonance in the sum of two observables that are broad each."""

    science = "particle physics"
    parameters, lower, upper, truth = ("position", "width"), (-1.0, 0.02), (1.0, 0.5), (0.2, 0.1)
    observables, noise_dim = ("x", "y"), 2

    def simulate(self, theta, noise):
        a, b = torch.special.ndtri(noise).unbind(-1)
        half = 0.5 * (theta[0] + theta[1] * a)
        return torch.stack([half + b, half - b], -1)

    def draw(self, n, rng, position, width):
        half, b = 0.5 * rng.normal(position, width, n), rng.normal(size=n)
        return np.stack([half + b, half - b], -1)

    def log_likelihood(self, theta, statistic):
        return -(theta[1].log() + 0.5 * ((statistic.sum(1) - theta[0]) / theta[1]) ** 2).sum()


class Triple(Known):
    """Three observables that depend on each other only all together: no pair of them tells anything."""

    science = "statistics"
    parameters, lower, upper, truth = ("a",), (-0.9,), (0.9,), (0.5,)
    observables, noise_dim = ("x", "y", "z"), 3

    def simulate(self, theta, noise):
        x, y, u = (2 * noise - 1).unbind(-1)
        k = theta[0] * x * y
        # The inverse of (z + 1) / 2 + k (z^2 - 1) / 4, in a form that is stable at k = 0.
        return torch.stack([x, y, (2 * u + k) / (1 + ((1 - k) ** 2 + 2 * k * (u + 1)).sqrt())], -1)

    def draw(self, n, rng, a):
        return accepted(lambda n: rng.uniform(-1, 1, (n, 3)), lambda e: (1 + a * e.prod(1)) / (1 + abs(a)), n, rng)

    def log_likelihood(self, theta, statistic):
        return torch.log1p(theta[0] * statistic.prod(1)).sum()


class Ring(Known):
    """Hits of a Cherenkov ring."""

    science = "particle physics"
    parameters, lower, upper, truth = ("radius", "width", "centre"), (0.5, 0.05, -1.0), (4.0, 1.0, 1.0), (2.0, 0.3, 0.2)
    observables, noise_dim = ("x", "y"), 2

    def simulate(self, theta, noise):
        phi, radius = 2 * math.pi * noise[:, 0], theta[0] + theta[1] * torch.special.ndtri(noise[:, 1])
        return torch.stack([theta[2] + radius * phi.cos(), radius * phi.sin()], -1)

    def draw(self, n, rng, mean, width, centre):
        phi, radius = rng.uniform(0, 2 * np.pi, n), rng.normal(mean, width, n)
        return np.stack([centre + radius * np.cos(phi), radius * np.sin(phi)], -1)

    def log_likelihood(self, theta, statistic):
        radius = ((statistic[:, 0] - theta[2]) ** 2 + statistic[:, 1] ** 2).sqrt()
        # A radius below zero is one on the other side.
        sides = [-0.5 * ((sign * radius - theta[0]) / theta[1]) ** 2 for sign in (1, -1)]
        return (torch.logsumexp(torch.stack(sides), 0) - theta[1].log() - radius.log()).sum()


class Balance(Known):
    """Two masses of about 1 kg in g: their sum on a coarse balance, their difference on a fine one."""

    science = "metrology"
    parameters, lower, upper, truth = ("a", "b"), (900.0, 900.0), (1100.0, 1100.0), (1003.0, 997.0)
    observables, noise_dim = ("sum", "difference"), 2

    def simulate(self, theta, noise):
        z = torch.special.ndtri(noise)
        return torch.stack([theta[0] + theta[1] + 5 * z[:, 0], theta[0] - theta[1] + 0.005 * z[:, 1]], -1)

    def draw(self, n, rng, a, b):
        return np.stack([rng.normal(a + b, 5, n), rng.normal(a - b, 0.005, n)], -1)

    def log_likelihood(self, theta, statistic):
        total, difference = (statistic[:, 0] - theta.sum()) / 5, (statistic[:, 1] - theta[0] + theta[1]) / 0.005
        return -0.5 * (total.square() + difference.square()).sum()


class Trajectories(Known):
    """Six positions of a particle in an optical trap (Ornstein and Uhlenbeck)."""

    science = "biophysics"
    parameters, lower, upper, truth = (
        ("rate", "centre", "deviation"),
        (0.1, -5.0, 0.2),
        (5.0, 5.0, 3.0),
        (0.8, 1.2, 0.9),
    )
    observables, noise_dim, _step = tuple(f"x{k}" for k in range(6)), 6, 0.3

    def simulate(self, theta, noise):
        rate, centre, deviation = theta
        memory = torch.exp(-rate * self._step)
        z = torch.special.ndtri(noise)
        x = [z[:, 0]]
        for k in range(1, 6):
            x.append(memory * x[-1] + (1 - memory**2).sqrt() * z[:, k])
        return centre + deviation * torch.stack(x, -1)

    def draw(self, n, rng, rate, centre, deviation):
        times = self._step * np.arange(6)
        covariance = deviation**2 * np.exp(-rate * np.abs(times[:, None] - times))
        return rng.multivariate_normal(np.full(6, centre), covariance, n)

    def log_likelihood(self, theta, statistic):
        rate, centre, deviation = theta
        memory, x = torch.exp(-rate * self._step), (statistic - centre) / deviation
        left = (1 - memory**2).log()
        squares = x[:, 0] ** 2 + ((x[:, 1:] - memory * x[:, :-1]) ** 2).sum(1) / (1 - memory**2)
        return -(0.5 * squares + 2.5 * left + 6 * deviation.log()).sum()


class Movement(Known):
    """Steps of an animal in km and its turns from -pi to pi, which are smaller the longer the step."""

    science = "ecology"
    parameters, lower, upper, truth = ("scale", "shape", "memory"), (0.2, 0.6, 0.1), (5.0, 4.0, 0.95), (1.3, 1.4, 0.7)
    observables, noise_dim = ("stride", "turn"), 2

    def simulate(self, theta, noise):
        scale, shape, memory = theta
        step = scale * (-torch.log1p(-noise[:, 0])) ** (1 / shape)
        r = memory * step / (1 + step)
        turn = 2 * torch.atan((1 - r) / (1 + r) * torch.tan(math.pi * (noise[:, 1] - 0.5)))
        return torch.stack([step, turn], -1)

    def draw(self, n, rng, scale, shape, memory):
        step = scale * rng.weibull(shape, n)
        # A Cauchy distribution, wrapped around the circle.
        turn = -np.log(memory * step / (1 + step)) * rng.standard_cauchy(n)
        return np.stack([step, np.angle(np.exp(1j * turn))], -1)

    def log_likelihood(self, theta, statistic):
        scale, shape, memory = theta
        step, turn = statistic.unbind(-1)
        ratio, r = step / scale, memory * step / (1 + step)
        steps = (shape / scale).log() + (shape - 1) * ratio.log() - ratio**shape
        return (steps + (1 - r**2).log() - (1 + r**2 - 2 * r * turn.cos()).log()).sum()


class GaussianLinearUniform(Known):
    """Ten observables with ten means (the task of this name in arXiv 2101.04653)."""

    science = "sbibm"
    parameters, observables = tuple(f"theta_{k}" for k in range(10)), tuple(f"x{k}" for k in range(10))
    lower, upper, noise_dim = (-1.0,) * 10, (1.0,) * 10, 10
    truth = (0.4, -0.3, 0.1, 0.6, -0.5, 0.2, -0.1, 0.3, -0.6, 0.0)

    def simulate(self, theta, noise):
        return theta + math.sqrt(0.1) * torch.special.ndtri(noise)

    def draw(self, n, rng, *truth):
        return rng.normal(truth, np.sqrt(0.1), (n, 10))

    def log_likelihood(self, theta, statistic):
        return -5 * (statistic - theta).square().sum()


class GaussianLinear(GaussianLinearUniform):
    """The same with normal priors."""

    priors = {f"theta_{k}": (0.0, math.sqrt(0.1)) for k in range(10)}


class GaussianMixture(Known):
    """Two observables with the same mean in a wide and a narrow part (the task of this name in arXiv 2101.04653)."""

    science = "sbibm"
    parameters, lower, upper, truth = ("theta_1", "theta_2"), (-10.0, -10.0), (10.0, 10.0), (2.3, -1.7)
    observables, noise_dim = ("x", "y"), 3

    def simulate(self, theta, noise):
        scale = torch.where(noise[:, 2:] < 0.5, 1.0, 0.1)
        return theta + scale * torch.special.ndtri(noise[:, :2])

    def draw(self, n, rng, *truth):
        return rng.normal(truth, rng.choice([1.0, 0.1], (n, 1)), (n, 2))

    def log_likelihood(self, theta, statistic):
        squares = (statistic - theta).square().sum(1)
        # Not logaddexp, whose second derivative is NaN where one part vanishes.
        return torch.logsumexp(torch.stack([-0.5 * squares, math.log(100) - 50 * squares]), 0).sum()


class ConstantColumn(Weibull):
    """A second observable that is always the same, in the simulation too."""

    observables = ("speed", "mast")

    def simulate(self, theta, noise):
        speed = super().simulate(theta, noise)
        return torch.cat([speed, torch.full_like(speed, 7.0)], -1)

    def draw(self, n, rng, scale, shape):
        return np.stack([super().draw(n, rng, scale, shape), np.full(n, 7.0)], -1)

    def log_likelihood(self, theta, statistic):
        return super().log_likelihood(theta, statistic[:, :1])
