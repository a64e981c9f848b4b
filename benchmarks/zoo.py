"""How near `fit` comes to the likelihood fit, on problems from several sciences that it was not tuned for.

    python benchmarks/zoo.py [--seeds 3] [--events 20000] [--problems Weibull Ring ...]

Each problem has an exact likelihood, and its events come from NumPy, not from its own simulator.  For each seed: the
distance of both fits per parameter in units of the likelihood's covariance, the deviations relative to the
likelihood's, the goodness of fit, the findings and the CPU seconds.
"""

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch

from sagips_kit import Pipeline, Problem, Separate, fit, fit_likelihood

HERE = Path(__file__).parent


def inverse(cdf, density, u, low, high):
    """Where an increasing function reaches u, with the derivative with respect to the parameters in it."""
    with torch.no_grad():
        low, high = torch.full_like(u, low), torch.full_like(u, high)
        for _ in range(60):
            middle = 0.5 * (low + high)
            is_below = cdf(middle) < u
            low, high = torch.where(is_below, middle, low), torch.where(is_below, high, middle)
        x = 0.5 * (low + high)
    reached = cdf(x)
    return x - (reached - reached.detach()) / density(x).detach()


def accepted(propose, probability, n_events, rng):
    """Events by acceptance and rejection."""
    kept = []
    while sum(map(len, kept)) < n_events:
        events = propose(4 * n_events)
        kept.append(events[rng.random(len(events)) < probability(events)])
    return np.concatenate(kept)[:n_events]


class Normal(Problem):
    """Two correlated observables."""

    parameters = ("mean_x", "mean_y", "deviation_x", "deviation_y", "rho")
    lower, upper, truth = (-3, -3, 0.3, 0.3, -0.9), (3, 3, 3, 3, 0.9), (0.6, -1.1, 1.3, 0.7, 0.55)
    observables, noise_dim = ("x", "y"), 2

    def simulate(self, theta, noise):
        a, b = torch.special.ndtri(noise).unbind(-1)
        mean_x, mean_y, x, y, rho = theta
        return torch.stack([mean_x + x * a, mean_y + y * (rho * a + (1 - rho**2).sqrt() * b)], -1)

    def observed(self, n_events, rng):
        mean_x, mean_y, x, y, rho = self.truth
        return rng.multivariate_normal([mean_x, mean_y], [[x * x, rho * x * y], [rho * x * y, y * y]], n_events)

    def log_likelihood(self, theta, statistic):
        mean_x, mean_y, x, y, rho = theta
        a, b = (statistic[:, 0] - mean_x) / x, (statistic[:, 1] - mean_y) / y
        squares = (a**2 - 2 * rho * a * b + b**2) / (1 - rho**2)
        return -(x.log() + y.log() + 0.5 * (1 - rho**2).log() + 0.5 * squares).sum()


class NearlyDegenerate(Normal):
    """A correlation of 0.99."""

    lower, upper, truth = (-2, -2, 0.3, 0.3, 0.5), (2, 2, 3, 3, 0.999), (0.3, 0.4, 1.0, 1.0, 0.99)


class Normal5(Problem):
    """Five observables, 20 parameters: means and the Cholesky factor of the covariance."""

    _pairs = tuple((i, j) for i in range(5) for j in range(i + 1))
    observables, noise_dim = ("a", "b", "c", "d", "e"), 5
    parameters = (*(f"mean_{k}" for k in "abcde"), *(f"factor_{i}{j}" for i, j in _pairs))
    lower = (-3.0,) * 5 + tuple([0.2 if i == j else -2.0 for i, j in _pairs])
    upper = (3.0,) * 5 + tuple([3.0 if i == j else 2.0 for i, j in _pairs])
    truth = (0.6, 0.6, -0.1, -0.4, -0.9, *[1.0 + 0.1 * i if i == j else 0.3 * (-1) ** j for i, j in _pairs])

    def _factor(self, theta):
        matrix = torch.zeros(5, 5, dtype=theta.dtype)
        return matrix.index_put(tuple(torch.tensor(self._pairs).T), theta[5:])

    def simulate(self, theta, noise):
        return theta[:5] + torch.special.ndtri(noise) @ self._factor(theta).T

    def observed(self, n_events, rng):
        truth = torch.tensor(self.truth).double()
        return truth[:5].numpy() + rng.normal(size=(n_events, 5)) @ self._factor(truth).numpy().T

    def log_likelihood(self, theta, statistic):
        factor = self._factor(theta)
        z = torch.linalg.solve_triangular(factor, (statistic - theta[:5]).T, upper=False)
        return -0.5 * z.square().sum() - len(statistic) * factor.diagonal().log().sum()


class Energies(Problem):
    """Energies of cosmic rays in eV: a logarithm that is normal, numbers around 10^12."""

    parameters, lower, upper, truth = ("mean", "deviation"), (11.0, 0.1), (13.0, 1.0), (12.1, 0.42)
    observables, noise_dim = ("energy",), 1

    def simulate(self, theta, noise):
        return 10 ** (theta[0] + theta[1] * torch.special.ndtri(noise))

    def observed(self, n_events, rng):
        return 10 ** rng.normal(12.1, 0.42, (n_events, 1))

    def log_likelihood(self, theta, statistic):
        return -(theta[1].log() + 0.5 * ((statistic.log10() - theta[0]) / theta[1]) ** 2).sum()


class HeavyTails(Problem):
    """Student's t with 2 degrees of freedom."""

    parameters, lower, upper, truth = ("position", "scale"), (-5.0, 0.2), (5.0, 5.0), (1.3, 0.8)
    observables, noise_dim = ("x",), 1

    def simulate(self, theta, noise):
        return theta[0] + theta[1] * (2 * noise - 1) * (2 / (4 * noise * (1 - noise))).sqrt()

    def observed(self, n_events, rng):
        return 1.3 + 0.8 * rng.standard_t(2, (n_events, 1))

    def log_likelihood(self, theta, statistic):
        return -(theta[1].log() + 1.5 * torch.log1p(((statistic - theta[0]) / theta[1]) ** 2 / 2)).sum()


class Weibull(Problem):
    """Wind speeds at a mast."""

    parameters, lower, upper, truth = ("scale", "shape"), (1.0, 0.5), (20.0, 5.0), (8.0, 2.0)
    observables, noise_dim = ("speed",), 1

    def simulate(self, theta, noise):
        return theta[0] * (-torch.log1p(-noise)) ** (1 / theta[1])

    def observed(self, n_events, rng):
        return 8 * rng.weibull(2, (n_events, 1))

    def log_likelihood(self, theta, statistic):
        ratio = statistic / theta[0]
        return ((theta[1] / theta[0]).log() + (theta[1] - 1) * ratio.log() - ratio ** theta[1]).sum()


class Lifetimes(Problem):
    """Two lifetimes and their fractions."""

    parameters, lower, upper, truth = ("short", "long", "fraction"), (0.2, 1.5, 0.05), (1.5, 6.0, 0.95), (0.6, 2.5, 0.4)
    observables, noise_dim = ("time",), 1

    def _density(self, theta, x):
        short, long, fraction = theta
        return fraction / short * torch.exp(-x / short) + (1 - fraction) / long * torch.exp(-x / long)

    def simulate(self, theta, noise):
        short, long, fraction = theta

        def cdf(x):
            return 1 - fraction * torch.exp(-x / short) - (1 - fraction) * torch.exp(-x / long)

        return inverse(cdf, lambda x: self._density(theta, x), noise, 0.0, 300.0)

    def observed(self, n_events, rng):
        return rng.exponential(np.where(rng.random(n_events) < 0.4, 0.6, 2.5))[:, None]

    def log_likelihood(self, theta, statistic):
        return self._density(theta, statistic).log().sum()


class Pulse(Problem):
    """A decay after a pulse, at unix times of 1.7e9 s, with a resolution of 0.5 s."""

    parameters, lower, upper = ("start", "lifetime"), (1.7e9 - 100, 0.5), (1.7e9 + 100, 50.0)
    truth, observables, noise_dim = (1.7e9 + 3, 7.0), ("time",), 2

    def simulate(self, theta, noise):
        return (theta[0] - theta[1] * torch.log1p(-noise[:, 0]) + 0.5 * torch.special.ndtri(noise[:, 1]))[:, None]

    def observed(self, n_events, rng):
        return (1.7e9 + 3 + rng.exponential(7, n_events) + 0.5 * rng.normal(size=n_events))[:, None]

    def log_likelihood(self, theta, statistic):
        rate, delay = 1 / theta[1], statistic[:, 0] - theta[0]
        tail = torch.special.log_ndtr((delay - 0.25 * rate) / 0.5)
        return (rate.log() + rate * (0.125 * rate - delay) + tail).sum()


class Peak(Problem):
    """A peak on a falling spectrum with a wave in it."""

    parameters, observables, noise_dim = ("mass", "width", "fraction", "slope", "wave"), ("mass",), 1
    lower, upper, truth = (3, 0.05, 0.02, 1, -0.3), (7, 0.6, 0.6, 10, 0.3), (5, 0.2, 0.15, 4, 0.1)

    @staticmethod
    def _density(theta, x):
        mass, width, fraction, slope, wave = theta
        peak = torch.exp(-0.5 * ((x - mass) / width) ** 2) / (width * math.sqrt(2 * math.pi))
        end, rate = torch.exp(-10 / slope), 1 / slope
        norm = slope * (1 - end) + wave * (rate + end * (math.sin(10) - rate * math.cos(10))) / (1 + rate**2)
        return fraction * peak + (1 - fraction) * torch.exp(-x / slope) * (1 + wave * torch.cos(x)) / norm

    _pipeline = Pipeline(_density.__func__, Separate(torch.linspace(0, 10, 4001, dtype=torch.float64)))

    def simulate(self, theta, noise):
        return self._pipeline.simulate(theta, noise)

    def observed(self, n_events, rng):
        mass, width, fraction, slope, wave = self.truth

        def propose(n):
            x = rng.exponential(slope, n)
            return x[x < 10]

        background = accepted(propose, lambda x: (1 + wave * np.cos(x)) / (1 + wave), n_events, rng)
        is_peak = rng.random(n_events) < fraction
        return np.where(is_peak, rng.normal(mass, width, n_events), background)[:, None]

    def log_likelihood(self, theta, statistic):
        return self._density(theta, statistic[:, 0]).log().sum()


class Angles(Problem):
    """An angular distribution: 1 + a c^2 + b (1 - c^2) cos 2 phi."""

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

    def observed(self, n_events, rng):
        def propose(n):
            return np.stack([rng.uniform(-1, 1, n), rng.uniform(0, 2 * np.pi, n)], -1)

        def probability(events):
            c, phi = events.T
            return (1 + 0.7 * c**2 + 0.2 * (1 - c**2) * np.cos(2 * phi)) / 2.2

        return accepted(propose, probability, n_events, rng)

    def log_likelihood(self, theta, statistic):
        a, b = theta
        c, phi = statistic.unbind(-1)
        return torch.log((1 + a * c**2 + b * (1 - c**2) * torch.cos(2 * phi)) / (2 + 2 * a / 3)).sum()


class Resonance(Problem):
    """A narrow resonance in the sum of two observables that are broad each."""

    parameters, lower, upper, truth = ("position", "width"), (-1.0, 0.02), (1.0, 0.5), (0.2, 0.1)
    observables, noise_dim = ("x", "y"), 2

    def simulate(self, theta, noise):
        a, b = torch.special.ndtri(noise).unbind(-1)
        half = 0.5 * (theta[0] + theta[1] * a)
        return torch.stack([half + b, half - b], -1)

    def observed(self, n_events, rng):
        half, b = 0.5 * rng.normal(0.2, 0.1, n_events), rng.normal(size=n_events)
        return np.stack([half + b, half - b], -1)

    def log_likelihood(self, theta, statistic):
        return -(theta[1].log() + 0.5 * ((statistic.sum(1) - theta[0]) / theta[1]) ** 2).sum()


class Triple(Problem):
    """Three observables that depend on each other only all together."""

    parameters, lower, upper, truth = ("a",), (-0.9,), (0.9,), (0.5,)
    observables, noise_dim = ("x", "y", "z"), 3

    def simulate(self, theta, noise):
        x, y, u = (2 * noise - 1).unbind(-1)
        k = theta[0] * x * y
        return torch.stack([x, y, (2 * u + k) / (1 + ((1 - k) ** 2 + 2 * k * (u + 1)).sqrt())], -1)

    def observed(self, n_events, rng):
        return accepted(lambda n: rng.uniform(-1, 1, (n, 3)), lambda e: (1 + 0.5 * e.prod(1)) / 1.5, n_events, rng)

    def log_likelihood(self, theta, statistic):
        return torch.log1p(theta[0] * statistic.prod(1)).sum()


class Ring(Problem):
    """Hits of a Cherenkov ring."""

    parameters, lower, upper, truth = ("radius", "width", "centre"), (0.5, 0.05, -1.0), (4.0, 1.0, 1.0), (2.0, 0.3, 0.2)
    observables, noise_dim = ("x", "y"), 2

    def simulate(self, theta, noise):
        phi, radius = 2 * math.pi * noise[:, 0], theta[0] + theta[1] * torch.special.ndtri(noise[:, 1])
        return torch.stack([theta[2] + radius * phi.cos(), radius * phi.sin()], -1)

    def observed(self, n_events, rng):
        phi, radius = rng.uniform(0, 2 * np.pi, n_events), rng.normal(2, 0.3, n_events)
        return np.stack([0.2 + radius * np.cos(phi), radius * np.sin(phi)], -1)

    def log_likelihood(self, theta, statistic):
        radius = ((statistic[:, 0] - theta[2]) ** 2 + statistic[:, 1] ** 2).sqrt()
        return -(theta[1].log() + 0.5 * ((radius - theta[0]) / theta[1]) ** 2 + radius.log()).sum()


KINDS = [Normal, NearlyDegenerate, Normal5, Energies, HeavyTails, Weibull, Lifetimes, Pulse, Peak, Angles, Resonance]
PROBLEMS = {kind.__name__: kind for kind in [*KINDS, Triple, Ring]}


def compare(problem, n_events, seed):
    """Both fits of one sample of events, as a row of the table."""
    events = problem.observed(n_events, np.random.default_rng(seed))
    reference = fit_likelihood(problem, events)
    start = time.process_time()
    result = fit(problem, events, seed=seed)
    cpu_s = time.process_time() - start
    difference = result.theta - reference.theta
    joint = math.sqrt(difference @ np.linalg.solve(reference.covariance, difference) / len(difference))
    return {
        "problem": type(problem).__name__,
        "seed": seed,
        "joint_distance": joint,
        "distances": (difference / reference.deviation).tolist(),
        "relative_deviations": (result.deviation / reference.deviation).tolist(),
        "p_value": result.p_value,
        "findings": list(result.findings),
        "cpu_s": cpu_s,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="samples of events for each problem (default: 3)")
    parser.add_argument("--events", type=int, default=20_000, help="observed events (default: 20000)")
    parser.add_argument("--problems", nargs="+", default=list(PROBLEMS), choices=list(PROBLEMS), help="default: all")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "zoo.json", help="JSON file to write")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in options.problems:
        for seed in range(options.seeds):
            rows.append(row := compare(PROBLEMS[name](), options.events, seed))
            ratios = row["relative_deviations"]
            print(
                f"{name:16} seed {seed}  joint distance {row['joint_distance']:.3f}  deviations {min(ratios):.2f} to "
                f"{max(ratios):.2f}  p {row['p_value']:.3f}  {row['cpu_s']:.0f} CPU s  {' '.join(row['findings'])}",
                flush=True,
            )
            options.output.write_text(json.dumps({"n_events": options.events, "rows": rows}, indent=2) + "\n")
    distances = [row["joint_distance"] for row in rows]
    print(f"median {np.median(distances):.3f}, largest {max(distances):.3f} of {len(rows)}")


if __name__ == "__main__":
    main()
