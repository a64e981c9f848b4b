"""What a trainer shows beside its records: snapshots of its generators, and the scores of its discriminators.

Snapshots have random numbers of their own, so a run is the same with and without them.  Files do not belong here.
"""

from typing import TYPE_CHECKING

import torch
from numpy.typing import NDArray

from .seeds import snapshot_noise

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
    noise_dim, first = trainer.problem.noise_dim, trainer.world.rank * n_members
    noise = [
        snapshot_noise(trainer.seed, first + member, trainer.step, n_sets * n_each, noise_dim)
        for member in range(n_members)
    ]
    noise = torch.stack(noise).view(n_members, n_sets, n_each, noise_dim)
    with torch.no_grad():
        events = trainer.gan.simulate(theta, noise.to(theta.device))
    # The sets alternate, so that dropping events at the end affects all of them alike.
    events = events.transpose(1, 2).flatten(1, 2)[:, :n_events]
    return theta.cpu().numpy(), events.cpu().numpy()


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
    observed = observed[_equal_shares(problem.category(observed), problem.n_categories, n)]
    observed = observed.expand(len(predicted), -1, -1)
    gan, device = trainer.gan, trainer.world.device
    with torch.no_grad():
        each = [gan.discriminator(gan.features(events.to(device))) for events in (predicted, observed)]
    generated, observed = (one.cpu().numpy() for one in each)
    return generated, observed


def _equal_shares(categories, n_categories, n):
    """Indices of `n` observed events, evenly spaced in each category; equal shares, as simulated events have."""
    parts = []
    for category in range(n_categories):
        inside = (categories == category).nonzero()[:, 0]
        parts.append(inside[_evenly(len(inside), n * (category + 1) // n_categories - n * category // n_categories)])
    return torch.cat(parts)


def _evenly(n_events, n):
    """Indices of `n` out of `n_events` events, evenly spaced."""
    return (torch.arange(n, dtype=torch.float64) * n_events / max(n, 1)).long()
