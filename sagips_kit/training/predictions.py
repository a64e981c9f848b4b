"""What a trainer shows beside its records: predicted events, snapshots of its generators, scores of its discriminators.

Events in training have equal shares of all categories, but these samples have the observed shares.  Snapshots have
random numbers of their own, so a run is the same with and without them.  Files do not belong here.
"""

import itertools
import math
from typing import TYPE_CHECKING

import torch
from numpy.typing import NDArray
from torch import Tensor

from .seeds import snapshot_noise

_MARGIN = 5.0  # standard deviations by which a category may have fewer simulated events than expected

if TYPE_CHECKING:
    from .settings import Settings
    from .trainer import Trainer


def snapshot(trainer: "Trainer") -> tuple[NDArray, NDArray]:
    """The parameter vectors of a trainer's last step, and new events simulated from them.

    Parameters
    ----------
    trainer : Trainer
        After at least one step.

    Returns
    -------
    parameters : ndarray (member, set, parameter)
        The parameter vectors.
    events : ndarray (member, event, observable)
        `settings.n_predictive` events, shared equally among the sets.
    """
    theta, n_events = trainer.theta, trainer.settings.n_predictive
    n_members, n_sets, _ = theta.shape
    n_each = -(-n_events // n_sets)
    n_made = n_simulated(trainer, n_each)
    noise_dim, first = trainer.problem.noise_dim, trainer.world.rank * n_members
    noise = [
        snapshot_noise(trainer.seed, first + member, trainer.step, n_sets * n_made, noise_dim)
        for member in range(n_members)
    ]
    noise = torch.stack(noise).view(n_members, n_sets, n_made, noise_dim)
    with torch.no_grad():
        events = trainer.gan.simulate(theta, noise.to(theta.device))
    events = with_observed_shares(trainer, events, n_each)
    # The sets alternate, so that dropping events at the end affects all of them alike.
    events = events.transpose(1, 2).flatten(1, 2)[:, :n_events]
    return theta.cpu().numpy(), events.cpu().numpy()


def n_simulated(trainer: "Trainer", n_events: int) -> int:
    """Number of events to simulate, so that enough of each category are among them."""
    if trainer.problem.n_categories == 1:
        return n_events
    n_expected = n_events * float(trainer.data.category_weights.max())
    return math.ceil(n_expected + _MARGIN * math.sqrt(trainer.problem.n_categories * n_expected) + 1)


def with_observed_shares(trainer: "Trainer", events: Tensor, n_events: int) -> Tensor:
    """Some of the simulated events (..., event, observable) of each parameter vector, with shares as observed."""
    problem = trainer.problem
    if problem.n_categories == 1:
        return events
    shares = trainer.data.category_weights / problem.n_categories
    sets = events.flatten(0, -3)
    chosen = [each[_of_each_category(problem.category(each).cpu(), shares, n_events).to(each.device)] for each in sets]
    return torch.stack(chosen).view(*events.shape[:-2], n_events, -1)


def n_scored(settings: "Settings", n_observed: int) -> int:
    """Number of generated, and of observed, events that each discriminator scores: at most as many as there are."""
    return min(settings.n_scores, settings.n_draws * settings.n_predictive, n_observed)


def scores(trainer: "Trainer", predictive: NDArray) -> tuple[NDArray, NDArray]:
    """Scores that the discriminators of a rank give to predicted events and to equally many observed ones.

    Parameters
    ----------
    trainer : Trainer
        The trainer whose discriminators score.
    predictive : ndarray (member, draw, event, observable)
        What `trainer.predict()` returns.

    Returns
    -------
    generated, observed : ndarray (member, event)
        The higher a score, the more an event looks like an observed one.  For the losses "likelihood" and "logistic" it
        is the logarithm of the odds, which is 0 where the discriminator cannot decide.
    """
    problem, observed = trainer.problem, trainer.data.observed
    n = n_scored(trainer.settings, len(observed))
    predicted = torch.as_tensor(predictive).flatten(1, 2)
    predicted = predicted[:, _evenly(predicted.shape[1], n)]
    shares = trainer.data.category_weights / problem.n_categories
    observed = observed[_of_each_category(problem.category(observed), shares, n)]
    observed = observed.expand(len(predicted), -1, -1)
    gan, device = trainer.gan, trainer.world.device
    with torch.no_grad():
        each = [gan.discriminator(gan.features(events.to(device))) for events in (predicted, observed)]
    generated, observed = (one.cpu().numpy() for one in each)
    return generated, observed


def _of_each_category(categories: Tensor, shares: Tensor, n: int) -> Tensor:
    """Indices of `n` events in their order, evenly spaced in each category, with these shares of the categories."""
    ends = [0, *(n * shares.double().cumsum(0)).round().long().tolist()]
    ends[-1] = n
    parts = []
    for category, (first, last) in enumerate(itertools.pairwise(ends)):
        inside = (categories == category).nonzero()[:, 0]
        # A simulator may give none in a category, whose place others take.
        inside = inside if len(inside) else torch.arange(len(categories))
        parts.append(inside[_evenly(len(inside), last - first)])
    return torch.cat(parts).sort().values


def _evenly(n_events, n):
    """Indices of `n` out of `n_events` events, evenly spaced."""
    return (torch.arange(n, dtype=torch.float64) * n_events / max(n, 1)).long()
