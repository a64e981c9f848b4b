"""The adversarial losses, and the discriminator's passes over events.

A pass goes through the events in pieces that fit into a processor's cache, and one way back through the discriminator
serves both networks: an event's contribution to either is the gradient of its score times the slope of the loss, and
the slopes are known as soon as the scores are.  Nothing here knows problems, ranks or files.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import softplus

_CACHE_BYTES = 2**20  # that one layer's outputs for a piece of events take in each processor's cache
_LARGEST_RATIO = 10.0  # of the densities, that the likelihood loss believes
_CLOSE = 0.5  # scores (root mean square) of densities so alike that their ratio is believed
_LEAST_SLOPE = 1e-20  # of the discriminator's loss, so that the ratio of two slopes stays finite

# Curvature of each generator loss in units of the likelihood's, for the weight of the constraints beside it
CURVATURE = {"likelihood": 1.0, "logistic": 0.5, "least squares": 0.25}


def real_loss(loss, scores: Tensor) -> Tensor:
    """The discriminator's loss for each observed event, scores (member, event) -> (member, event)."""
    return (scores.sigmoid() - 1).square() if loss == "least squares" else softplus(-scores)


def generated_loss(loss, scores: Tensor) -> Tensor:
    """The discriminator's loss for each generated event, scores (member, event) -> (member, event)."""
    return scores.sigmoid().square() if loss == "least squares" else softplus(scores)


def generator_loss(loss, scores: Tensor, weights: Tensor, trust: Tensor | float = 0.0) -> Tensor:
    """The generator's loss for each generated event, scores and weights (member, event) -> (member, event).

    "likelihood" without trust is linear in the scores; with the best discriminator it is the Kullback-Leibler
    divergence of the generated density from the observed one, whose minimum is the maximum-likelihood estimate to first
    order only: a discriminator also learns the fluctuations of a finite sample, and their squares move the minimum.
    With full trust, (member, 1) or a number, each event counts by the density ratio exp(score) as well.  Then, with a
    discriminator that has learned by the same trust, the gradient is that of the likelihood, and nothing is moved.
    """
    if loss == "least squares":
        return weights * (scores.sigmoid() - 1).square()
    if loss == "logistic":
        return weights * softplus(-scores)
    ratio = (trust * scores.detach()).exp().clamp(1 / _LARGEST_RATIO, _LARGEST_RATIO)
    return -weights * ratio * scores


def ratio_trust(discriminator) -> Tensor:
    """How far its density ratio is believed, from 0 to 1: (member, 1).

    That depends on the scores of the events that were generated last: those of densities that differ much say little.
    """
    return torch.exp(-discriminator.spread / (2 * _CLOSE**2))[:, None]


def learn_observed(discriminator, features: Tensor, loss, trust: Tensor) -> Tensor:
    """Add to the discriminator's gradients what observed events, features (member, event, feature), tell it.

    Parameters
    ----------
    trust : Tensor (member, 1)
        In the density ratio; the same as for the generated events of the step.

    Returns
    -------
    Tensor (member,)
        Their part of its loss.
    """
    means = []
    for piece in _pieces(features, discriminator):
        scores = discriminator(piece)
        values, slopes = _slopes(lambda scores: real_loss(loss, scores), scores)
        scores.backward(slopes * _emphasis(loss, scores, trust) / features.shape[1])
        means.append(values.sum(-1))
    return sum(means) / features.shape[1]


def learn_generated(discriminator, features: Tensor, loss, weights: Tensor, trust: Tensor):
    """Add to the discriminator's gradients what generated events tell it, and find where they should move.

    Parameters
    ----------
    features : Tensor (member, event, feature)
        Not part of a graph.
    weights : Tensor (member, event)
        Of the events in the generator's loss.

    Returns
    -------
    pull : Tensor (member, event, feature)
        Derivative of the generator's loss by the features.
    loss_discriminator, loss_generator : Tensor (member,)
        Their part of the discriminator's loss, and the generator's loss.
    """
    n_events, pulls, means = features.shape[1], [], []
    for piece, weight in zip(_pieces(features, discriminator), _pieces(weights, discriminator), strict=True):
        piece.requires_grad_()
        scores = discriminator(piece)
        values, slopes = _slopes(lambda scores: generated_loss(loss, scores), scores)
        values_generator, slopes_generator = _slopes(
            lambda scores, weight=weight: generator_loss(loss, scores, weight, trust), scores
        )
        slopes = (slopes * _emphasis(loss, scores, trust)).clamp(min=_LEAST_SLOPE)
        scores.backward(slopes / n_events)
        # The way back is linear in the slope of each event.
        pulls.append(piece.grad * (slopes_generator / slopes)[..., None])
        means.append(torch.stack([values.sum(-1), values_generator.sum(-1), scores.detach().square().sum(-1)]))
    *losses, spread = sum(means) / n_events
    # A bad event, which the guard deals with, should not be remembered.
    discriminator.spread.copy_(spread.nan_to_num(nan=math.inf, posinf=math.inf))
    return torch.cat(pulls, dim=1), *losses


def _emphasis(loss, scores, trust):
    """How much an event counts in the discriminator's step.

    The logistic loss makes what is learned of the observed events, their mean weighted by a falling function of the
    scores, agree with the same of the generated ones.  For the likelihood it should be their plain mean: otherwise
    scores that follow the fluctuations of a finite sample make events count less that are over-represented by chance.
    With full trust observed events pull by 1/2, generated ones push by exp(score) / 2, whose balance is that.
    """
    if loss != "likelihood":
        return 1.0
    return (trust * (softplus(scores.detach()) - math.log(2))).exp().clamp(max=_LARGEST_RATIO)


def _slopes(function, scores):
    """Values and derivatives of a function of each score."""
    scores = scores.detach().requires_grad_()
    values = function(scores)
    return values.detach(), torch.autograd.grad(values.sum(), scores)[0]


def _pieces(events, discriminator):
    """Views (member, event, ...) of consecutive events; all of them at once on a GPU, which has no such cache."""
    if events.is_cuda:
        return [events.detach()]
    n_bytes = 4 * len(events) * discriminator.n_widest
    return events.detach().split(max(64, torch.get_num_threads() * _CACHE_BYTES // n_bytes), dim=1)
