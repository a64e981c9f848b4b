"""The image: events follow the pixels, the derivative sees the flow between pixels, and training recovers them."""

import numpy as np
import pytest
import torch

from sagips_kit import Image, Settings, Trainer, check_problem, fisher_information, fit_likelihood
from sagips_kit.training.state_dicts import flattened

SMALL = Image(n_pixels=4, n_observed=20_000)


def mass_in_the_corner(theta, n_events=50_000):
    """A smooth measure of the events around the pixel in the corner at (1, 1)."""
    noise = torch.rand((n_events, 2), generator=torch.Generator().manual_seed(0)).double()
    x, y = SMALL.simulate(theta, noise).T
    return (torch.sigmoid((x - 0.7) / 0.03) * torch.sigmoid((y - 0.7) / 0.03)).mean()


def test_events_follow_the_pixels():
    events = SMALL.observed(200_000, np.random.default_rng(0))
    density = torch.tensor(SMALL.truth).view(4, 4).exp()
    counts = np.histogram2d(*events.T, bins=3, range=[(0, 1), (0, 1)])[0] / 200_000
    # The density is bilinear between pixels, so a cell contains the mean of its corners.
    expected = (density[1:, 1:] + density[:-1, 1:] + density[1:, :-1] + density[:-1, :-1]) / 4 / 9
    np.testing.assert_allclose(counts, expected, atol=5 * 0.5 / 200_000**0.5)


def test_mass_moves_to_a_pixel_that_becomes_brighter():
    theta = torch.tensor(SMALL.truth, dtype=torch.float64)
    slope = torch.func.grad(mass_in_the_corner)(theta)
    for pixel in (15, 0, 6):
        step = torch.zeros_like(theta).index_fill(0, torch.tensor(pixel), 0.02)
        moved = (mass_in_the_corner(theta + step) - mass_in_the_corner(theta - step)) / 0.04
        assert slope[pixel].item() == pytest.approx(moved.item(), rel=0.02, abs=2e-4)
    # Mass flows from all other cells; if the choice of a cell had no derivative, the slope would be almost 0.
    assert slope[15] > 0.01 and slope[0] < 0


def test_it_keeps_its_contract():
    report = check_problem(SMALL)
    assert report.is_ok, report


def test_features_hold_most_of_the_information_of_the_likelihood():
    """They hold all of it for a flat image; for steeper images, more is left to the discriminator's perceptron."""
    events = SMALL.observed(None, np.random.default_rng(0))
    fit = fit_likelihood(SMALL, events, n_starts=1)
    assert np.abs((fit.theta - SMALL.truth) / fit.deviation).max() < 4
    np.testing.assert_allclose(fisher_information(SMALL, fit.theta, events).deviation, fit.deviation, rtol=0.25)


def test_an_image_needs_two_pixels():
    with pytest.raises(ValueError, match="n_pixels = 1: should be at least 2"):
        Image(n_pixels=1)


def test_a_large_image_needs_no_matrix_of_all_pixels():
    problem, settings = Image(n_pixels=45, n_observed=2000), Settings(generator="convolution", n_events=64)
    trainer = Trainer(problem, settings, problem.observed(None, np.random.default_rng(0)), n_steps=2)
    theta = trainer.run().theta
    assert theta.shape == (4, 45 * 45) and np.isfinite(theta).all()
    state = flattened(trainer.state_dict()).values()
    assert max(tensor.numel() for tensor in state) < (45 * 45) ** 2 / 10


def test_a_large_image_has_no_likelihood_fit():
    problem = Image(n_pixels=45)
    with pytest.raises(ValueError, match=r"2025 parameters: .* at most 2000, .*reference=False"):
        fit_likelihood(problem, problem.observed(100, np.random.default_rng(0)))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Rank 0, step .* of pixel")  # a dark pixel gets near the end of its range
def test_training_recovers_a_hundred_pixels():
    problem = Image(n_observed=50_000)
    events = problem.observed(None, np.random.default_rng(0))
    fit = fit_likelihood(problem, events, n_starts=1)
    trainer = Trainer(problem, Settings(n_members=4), events, n_steps=1000)
    trainer.run()
    distance = (trainer.draws.mean((0, 1)) - fit.theta) / fit.deviation
    assert np.sqrt(np.mean(distance**2)) < 1.5 and np.median(np.abs(distance)) < 0.8
