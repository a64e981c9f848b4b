"""Whitened features: categories have equal weight, and the features carry the Fisher information."""

import math

import numpy as np
import pytest
import torch
from gaussian import Gaussian

from sagips_kit import DayaBay, Problem, fisher_information
from sagips_kit.problems.noise import stratified_noise
from sagips_kit.statistics.features import features_of
from sagips_kit.training.features import WhiteFeatures
from sagips_kit.training.networks import to_unit

CPU = torch.device("cpu")


class OneFeature(Gaussian):
    """The discriminator sees only x, as in a minimal user-defined problem."""

    def features(self, events):
        return events


def test_features_of_the_observed_events_are_white():
    events = torch.tensor(Gaussian().observed(5000, np.random.default_rng(0)), dtype=torch.float32)
    white = WhiteFeatures(Gaussian(), events, torch.ones(1), CPU)(events).double()
    torch.testing.assert_close(white.mean(0), torch.zeros_like(white[0]), rtol=0, atol=1e-4)
    torch.testing.assert_close(torch.cov(white.T), torch.eye(white.shape[1]).double(), rtol=0, atol=2e-3)


def test_a_single_feature_is_whitened_too(rng):
    problem = OneFeature()
    events = torch.tensor(problem.observed(5000, rng), dtype=torch.float32)
    white = WhiteFeatures(problem, events, torch.ones(1), CPU)(events)
    assert white.shape == (5000, 1)
    assert white.mean().item() == pytest.approx(0, abs=1e-4) and white.std().item() == pytest.approx(1, abs=1e-3)


def test_categories_count_alike_however_many_events_they_have():
    problem = DayaBay()
    events = torch.tensor(problem.observed(200_000, np.random.default_rng(0)))
    features = WhiteFeatures(problem, events, torch.ones(3), CPU)
    white = features(events).double()
    halls = problem.category(events)
    means = torch.stack([white[halls == hall].mean(0) for hall in range(3)])
    assert len(features) == white.shape[1]
    torch.testing.assert_close(means.mean(0), torch.zeros_like(white[0]), rtol=0, atol=0.03)
    assert white.mean(0).abs().max() > 0.1  # the unweighted mean is dominated by the near halls


def test_information_is_that_of_the_likelihood():
    """x and x^2 carry the full information on mean and deviation of a normal distribution: 1 / sigma^2, 2 / sigma^2."""
    problem = Gaussian()
    noise = stratified_noise(20_000, problem.noise_dim, torch.Generator().manual_seed(0))
    y = torch.tensor([0.1, -0.2])
    theta = problem.scale(to_unit(y))
    slope = torch.func.jacrev(lambda y: problem.scale(to_unit(y)))(y).diagonal()
    events = problem.simulate(theta, noise)
    found = WhiteFeatures(problem, events, torch.ones(1), CPU).information(y, noise)
    expected = torch.diag(torch.tensor([1.0, 2.0]) / theta[1] ** 2 * slope**2)
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02 * float(expected.max()))


class Heavy(Problem):
    """Times with a heavy tail, an angle and a type of detector; no features are declared."""

    parameters, lower, upper = ("scale", "middle"), (0.5, -1.0), (5.0, 1.0)
    observables, noise_dim, n_categories = ("time", "angle", "detector"), 3, 2
    periodic = {"angle": (-180.0, 180.0)}
    _scale = 1.0

    def simulate(self, theta, noise):
        time = theta[0] * self._scale * torch.tan(0.5 * math.pi * noise[:, 0])
        return torch.stack([time, 90 * (theta[1] + noise[:, 1]), (noise[:, 2] < 0.5).to(time)], dim=-1)

    def category(self, events):
        return events[..., 2].long()


@pytest.mark.parametrize("unit", [1.0, 1e12])
def test_automatic_features_suit_any_events(unit):
    problem = Heavy()
    problem._scale = unit
    noise = torch.rand(4000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    events = problem.simulate(torch.tensor([2.0, 0.1]), noise)
    features = features_of(problem, events)
    assert features(events.float().view(4, 1000, 3)).shape == (4, 1000, features(events).shape[1])
    assert features(events.float().to("meta")).shape == features(events).shape
    # Nothing far away: each is of order one, and the same for other units.
    assert features(events).abs().max() < 20
    other = Heavy()
    same = other.simulate(torch.tensor([2.0, 0.1]), noise)
    torch.testing.assert_close(features(events), features_of(other, same)(same), rtol=1e-4, atol=1e-4)
    slopes = torch.func.jacrev(lambda theta: features(problem.simulate(theta, noise)).mean(0))(torch.tensor([2.0, 0.1]))
    step = torch.tensor([0.05, 0.0])
    after, before = (features(problem.simulate(torch.tensor([2.0, 0.1]) + h, noise)).mean(0) for h in (step, -step))
    torch.testing.assert_close(slopes[:, 0], ((after - before) / 0.1).to(slopes), rtol=0.05, atol=0.01)


def test_automatic_features_hold_the_information_of_heavy_tails():
    class Cauchy(Problem):
        parameters, lower, upper, observables, noise_dim = ("middle", "width"), (-5, 0.2), (5, 5), ("x",), 1

        def simulate(self, theta, noise):
            return theta[0] + theta[1] * torch.tan(math.pi * (noise - 0.5))

    events = np.random.default_rng(0).standard_cauchy((20_000, 1))
    information = fisher_information(Cauchy(), (0.0, 1.0), events)
    np.testing.assert_allclose(information.deviation, math.sqrt(2 / 20_000), rtol=0.06)
