"""Whitened features: categories have equal weight, and the features carry the Fisher information."""

import numpy as np
import pytest
import torch
from gaussian import Gaussian

from sagips_kit import DayaBay, Problem
from sagips_kit.problems.noise import stratified_noise
from sagips_kit.training.features import WhiteFeatures
from sagips_kit.training.networks import to_unit

CPU = torch.device("cpu")


class OneFeature(Gaussian):
    """The discriminator sees only x, as in a minimal user-defined problem."""

    features = Problem.features


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
    found = WhiteFeatures(problem, events, torch.ones(1), CPU).information(y, noise, problem.statistic(events), 0.0)
    expected = torch.diag(torch.tensor([1.0, 2.0]) / theta[1] ** 2 * slope**2)
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02 * float(expected.max()))
