"""The adversarial losses, and the discriminator's forward and backward passes over events.

Events are processed in pieces that fit into a processor's cache, and a single backward pass serves both networks: the
contribution of an event to either gradient is the gradient of its score times the derivative of the loss, which is
known as soon as the score is.  Problems, ranks and files do not belong here.
"""

import functools
import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import softplus

from .settings import Loss

if TYPE_CHECKING:
    from .networks import Discriminator

_CACHE_BYTES = 2**20  # for the outputs of one layer, in the cache of each processor
_LARGEST_RATIO = 10.0  # of the two densities; a larger estimate is not trusted in the likelihood loss
_CLOSE = 0.5  # root mean square of the scores below which the estimated density ratio is trusted
_LEAST_SLOPE = 1e-20  # of the discriminator's loss, so that the ratio of two slopes stays finite

# Curvature of each generator loss relative to the likelihood, which sets the weight of the constraints beside it
CURVATURE: dict[Loss, float] = {"likelihood": 1.0, "logistic": 0.5, "least squares": 0.25}


def observed_loss(loss: Loss, scores: Tensor) -> Tensor:
    """The discriminator's loss for each observed event, scores (member, event) -> (member, event)."""
    return (scores.sigmoid() - 1).square() if loss == "least squares" else softplus(-scores)


def generated_loss(loss: Loss, scores: Tensor) -> Tensor:
    """The discriminator's loss for each generated event, scores (member, event) -> (member, event)."""
    return scores.sigmoid().square() if loss == "least squares" else softplus(scores)


def generator_loss(loss: Loss, scores: Tensor, weights: Tensor | float, trust: Tensor | float = 0.0) -> Tensor:
    """The generator's loss for each generated event, scores and weights (member, event) -> (member, event).

    Without trust, "likelihood" is linear in the scores.  With the best possible discriminator it is the
    Kullback-Leibler divergence of the generated density from the observed one.  Its minimum is the maximum-likelihood
    estimate only to first order: a discriminator also learns the fluctuations of a finite sample, whose squares shift
    the minimum.  With full trust each event is weighted by the density ratio exp(score) as well.  If the discriminator
    was trained with the same trust, the gradient is then that of the likelihood, and the minimum is not shifted.

    Parameters
    ----------
    loss : {"likelihood", "logistic", "least squares"}
        The adversarial loss.
    scores : Tensor (member, event)
        Scores of generated events.
    weights : Tensor (member, event) or float
        Weights of these events.
    trust : Tensor (member, 1) or float
        Trust in the density ratio, from 0 to 1.

    Returns
    -------
    Tensor (member, event)
        The loss of each event.
    """
    if loss == "least squares":
        return weights * (scores.sigmoid() - 1).square()
    if loss == "logistic":
        return weights * softplus(-scores)
    return -weights * _ratio(scores, trust) * scores


def ratio_trust(discriminator: "Discriminator") -> Tensor:
    """Trust in the density ratio that a discriminator estimates, from 0 to 1: Tensor (member, 1).

    It follows from the scores of the last generated events: an estimate of densities that differ much is poor.
    """
    return torch.exp(discriminator.spread * (-1 / (2 * _CLOSE**2)))[:, None]


def backward_observed(discriminator: "Discriminator", features: Tensor, loss: Loss, trust: Tensor) -> Tensor:
    """Add the part of observed events to the gradients of the discriminator, to which generated ones gave theirs.

    Parameters
    ----------
    discriminator : Discriminator
        Its gradients, from `backward_generated`, are changed.
    features : Tensor (member, event, feature)
        Whitened features of observed events.
    loss : {"likelihood", "logistic", "least squares"}
        The adversarial loss.
    trust : Tensor (member, 1)
        Trust in the density ratio; the same as for the generated events of the step.

    Returns
    -------
    Tensor (member,)
        The observed events' part of the discriminator's loss.
    """
    sums, parameters = [], list(discriminator.parameters())
    sofar = [parameter.grad for parameter in parameters if parameter.grad is not None]
    for piece in _pieces(features, discriminator):
        scores = discriminator(piece)
        fixed = scores.detach()
        values, slopes = _observed(loss, fixed)
        slopes = _emphasised(loss, values + fixed, slopes, trust)  # softplus(-x) + x is softplus(x)
        gradients = torch.autograd.grad(scores, parameters, slopes / features.shape[1])
        torch._foreach_add_(sofar, gradients)  # one launch  # pyright: ignore[reportPrivateImportUsage]
        sums.append(values.sum(-1))
    return _total(sums) / features.shape[1]


def backward_generated(
    discriminator: "Discriminator", features: Tensor, loss: Loss, weights: Tensor | None, trust: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Add the part of generated events to the gradients of the discriminator, and differentiate the generator's loss.

    Parameters
    ----------
    discriminator : Discriminator
        Its gradients and its `spread` are changed.
    features : Tensor (member, event, feature)
        Whitened features of generated events, detached from their graph.
    loss : {"likelihood", "logistic", "least squares"}
        The adversarial loss.
    weights : Tensor (member, event) or None
        Weights of the events in the generator's loss; None for equal ones.
    trust : Tensor (member, 1)
        Trust in the density ratio.

    Returns
    -------
    pull : Tensor (member, event, feature)
        Derivative of the generator's loss with respect to the features.
    loss_generated : Tensor (member,)
        The generated events' part of the discriminator's loss.
    loss_generator : Tensor (member,)
        The generator's loss.
    """
    n_events, pulls, sums = features.shape[1], [], []
    pieces = _pieces(features, discriminator)
    for piece, weight in zip(pieces, _weights_of(weights, pieces), strict=True):
        piece.requires_grad_()
        scores = discriminator(piece)
        fixed = scores.detach()
        values, slopes = _generated(loss, fixed)
        values_generator, slopes_generator = _generator(loss, fixed, weight, trust)
        slopes = _emphasised(loss, values, slopes, trust).clamp(min=_LEAST_SLOPE)
        scores.backward(slopes / n_events)
        # The backward pass is linear in the slope of each event.
        pulls.append(piece.grad * (slopes_generator / slopes)[..., None])  # pyright: ignore[reportOptionalOperand] backward set it
        sums.append(torch.stack([values, values_generator, fixed.square()]).sum(-1))
    loss_generated, loss_generator, spread = _total(sums) / n_events
    # The guard takes care of bad events; the next steps must not depend on them.
    torch.nan_to_num(spread, nan=math.inf, posinf=math.inf, out=discriminator.spread)
    return pulls[0] if len(pulls) == 1 else torch.cat(pulls, dim=1), loss_generated, loss_generator


def _total(parts: list[Tensor]) -> Tensor:
    return functools.reduce(torch.add, parts)


# Values and slopes of the losses for each event.  Autograd would give the same slopes with more operations.


def _observed(loss: Loss, scores: Tensor) -> tuple[Tensor, Tensor]:
    if loss == "least squares":
        p = scores.sigmoid()
        return (p - 1).square(), -2 * p * (1 - p).square()
    back = -scores
    return softplus(back), -back.sigmoid()


def _generated(loss: Loss, scores: Tensor) -> tuple[Tensor, Tensor]:
    p = scores.sigmoid()
    if loss == "least squares":
        return p.square(), 2 * p.square() * (1 - p)
    return softplus(scores), p


def _generator(loss: Loss, scores: Tensor, weights: Tensor | float, trust: Tensor) -> tuple[Tensor, Tensor]:
    if loss == "likelihood":
        slopes = -weights * _ratio(scores, trust)
        return slopes * scores, slopes
    values, slopes = _observed(loss, scores)
    return weights * values, weights * slopes


def _ratio(scores: Tensor, trust: Tensor | float) -> Tensor:
    """The density ratio that scores estimate, as far as it is trusted."""
    return (trust * scores.detach()).exp().clamp(1 / _LARGEST_RATIO, _LARGEST_RATIO)


def _emphasised(loss: Loss, softened: Tensor, slopes: Tensor, trust: Tensor) -> Tensor:
    """The slopes of the discriminator's loss for each event, (member, event), times the weight of the event.

    A discriminator trained with the logistic loss compares means over observed and generated events in which each event
    is weighted by a function of its score.  For the likelihood the observed events should have equal weights: otherwise
    scores that follow the fluctuations of a finite sample reduce the weight of events that are over-represented by
    chance.  With full trust, observed events have the weight 1/2 and generated ones exp(score) / 2.

    The scores come as `softened`, softplus(scores), which is at hand.
    """
    if loss != "likelihood":
        return slopes
    return slopes * (trust * (softened - math.log(2))).exp().clamp(max=_LARGEST_RATIO)


def _weights_of(weights: Tensor | None, pieces: list[Tensor]) -> list[Tensor] | list[float]:
    """The weights of the events of each piece."""
    if weights is None:
        return [1.0] * len(pieces)
    return list(weights.detach().split([piece.shape[1] for piece in pieces], dim=1))


def _pieces(events: Tensor, discriminator: "Discriminator") -> list[Tensor]:
    """Views (member, event, ...) of consecutive events; all at once on an accelerator, which has no such cache."""
    if events.device.type != "cpu":
        return [events.detach()]
    n_bytes = 4 * len(events) * discriminator.n_widest
    return list(events.detach().split(max(64, torch.get_num_threads() * _CACHE_BYTES // n_bytes), dim=1))
