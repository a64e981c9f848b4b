"""Losses, and passes over events in pieces: their gradients equal those of the complete losses."""

import numpy as np
import pytest
import torch

from sagips_kit.training import losses
from sagips_kit.training.losses import (
    CURVATURE,
    backward_generated,
    backward_observed,
    generated_loss,
    generator_loss,
    observed_loss,
    ratio_trust,
)
from sagips_kit.training.networks import Discriminator

LOSSES = ("likelihood", "logistic", "least squares")
every_loss = pytest.mark.parametrize("loss", LOSSES)


@every_loss
def test_losses_fall_in_the_right_direction(loss):
    scores, ones = torch.linspace(-4, 4, 50, dtype=torch.float64), torch.ones(50)
    assert (observed_loss(loss, scores).diff() < 0).all()
    assert (generated_loss(loss, scores).diff() > 0).all()
    assert (generator_loss(loss, scores, ones).diff() < 0).all()


def test_a_guessing_discriminator_loses_two_log_two():
    none = torch.zeros(())
    both = {loss: (observed_loss(loss, none) + generated_loss(loss, none)).item() for loss in LOSSES}
    assert both == pytest.approx({"likelihood": 2 * np.log(2), "logistic": 2 * np.log(2), "least squares": 0.5})


@every_loss
def test_weights_count_events(loss):
    scores = torch.tensor([0.3, -0.7, 1.1])
    twice = generator_loss(loss, scores[[0, 0, 1, 2]], torch.ones(4)).sum()
    torch.testing.assert_close(generator_loss(loss, scores, torch.tensor([2.0, 1.0, 1.0])).sum(), twice)


@every_loss
def test_curvature_is_the_pull_of_a_small_log_ratio(loss):
    """Near the solution the best score is a small log-ratio; the gradient is then the slope of the loss at 0."""
    scores = torch.zeros((), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(generator_loss(loss, scores, torch.ones(())), scores)
    assert -slope.item() == pytest.approx(CURVATURE[loss])


@pytest.mark.parametrize("trust", [0.0, 0.5, 1.0])
def test_trust_counts_events_by_the_density_ratio_within_a_factor_of_ten(trust):
    scores = torch.tensor([-9.0, -0.6, 0.0, 0.3, 9.0], requires_grad=True)
    (slopes,) = torch.autograd.grad(generator_loss("likelihood", scores, torch.ones(5), trust).sum(), scores)
    np.testing.assert_allclose(-slopes, np.exp(trust * scores.detach().numpy()).clip(0.1, 10.0), rtol=1e-6)


def test_trust_follows_from_the_previous_scores(pieces):
    torch.manual_seed(1)
    discriminator = make_discriminator()
    features = torch.randn(2, 150, 5, dtype=torch.float64)
    scores, ones = discriminator(features), torch.ones(2, 150)
    for before, trust in [(100.0, 0.0), (0.0, 1.0), (0.5, np.exp(-1.0))]:
        discriminator.spread.fill_(before)
        _, _, loss = backward_generated(discriminator, features, "likelihood", ones, ratio_trust(discriminator))
        torch.testing.assert_close(loss, generator_loss("likelihood", scores, ones, trust).mean(1))
        torch.testing.assert_close(discriminator.spread, scores.square().mean(1))


@pytest.fixture(params=[2**20, 64 * 4 * 2 * 8], ids=["one piece", "many pieces"])
def pieces(request, monkeypatch):
    monkeypatch.setattr(losses, "_CACHE_BYTES", request.param // torch.get_num_threads())


def make_discriminator():
    randoms = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    discriminator = Discriminator(5, (8, 7), randoms).double()
    with torch.no_grad():
        for parameter in discriminator.parameters():
            parameter.normal_(std=0.3)  # scores below the bound on their ratios
    return discriminator


def whole_losses(loss, trust, observed, generated):
    """The discriminator's complete loss, from scores (member, event)."""
    if loss == "likelihood" and trust == 1:
        return -observed.mean(1) / 2 + generated.exp().mean(1) / 2
    return observed_loss(loss, observed).mean(1) + generated_loss(loss, generated).mean(1)


@pytest.mark.parametrize(("loss", "trust"), [*((loss, 0.0) for loss in LOSSES), ("likelihood", 1.0)])
def test_passes_give_the_gradients_of_the_whole_losses(loss, trust, pieces):
    torch.manual_seed(1)
    discriminator = make_discriminator()
    observed, generated = torch.randn(2, 2, 150, 5, dtype=torch.float64)
    weights = torch.rand(2, 150, dtype=torch.float64)
    trusts = torch.full((2, 1), trust)
    pull, loss_generated, loss_generator = backward_generated(discriminator, generated, loss, weights, trusts)
    loss_observed = backward_observed(discriminator, observed, loss, trusts)

    generated.requires_grad_()
    scores = discriminator(observed), discriminator(generated)
    of_both = whole_losses(loss, trust, *scores)
    of_generator = generator_loss(loss, scores[1], weights, trust).mean(1)
    # The reported loss is the logistic one, whatever loss the discriminator minimises.
    torch.testing.assert_close(loss_generated + loss_observed, whole_losses(loss, 0.0, *scores))
    torch.testing.assert_close(loss_generator, of_generator)
    parameters = list(discriminator.parameters())
    for parameter, gradient in zip(
        parameters, torch.autograd.grad(of_both.sum(), parameters, retain_graph=True), strict=True
    ):
        torch.testing.assert_close(parameter.grad, gradient)
    (direct,) = torch.autograd.grad(of_generator.sum(), generated)
    torch.testing.assert_close(pull, direct)


@every_loss
@pytest.mark.parametrize("score", [-200.0, 200.0])
@pytest.mark.parametrize("trust", [0.0, 1.0])
def test_a_discriminator_that_is_certain_leaves_finite_gradients(loss, score, trust):
    discriminator = make_discriminator().float()
    with torch.no_grad():
        discriminator.network.biases[-1].fill_(score)
    features, weights = 0.01 * torch.randn(2, 20, 5), torch.ones(2, 20)
    trusts = torch.full((2, 1), trust)
    pull, *losses = backward_generated(discriminator, features, loss, weights, trusts)
    losses.append(backward_observed(discriminator, features, loss, trusts))
    everything = [pull, *losses, *(parameter.grad for parameter in discriminator.parameters())]
    assert all(tensor.isfinite().all() for tensor in everything)
    if loss == "likelihood" or (loss == "logistic" and score < 0):
        assert (pull.abs().sum(-1) > 0).all()
