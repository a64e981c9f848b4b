"""What a trainer shows beside its records: events of its generators on the way, and its discriminators' scores.

All random numbers are of its own, so a run is the same whether somebody looks at it or not.  Nothing here knows files.
"""

import functools

import torch

from ..problems.base import events_of
from .seeds import snapshot_noise


def snapshot(trainer):
    """The parameter vectors of a trainer's last step, and new events that show what they stand for.

    Parameters
    ----------
    trainer : Trainer
        After its first step.

    Returns
    -------
    parameters : ndarray (member, set, parameter)
    events : ndarray (member, event, observable)
        As many as a draw's predictive ones; all sets have equal shares.
    """
    problem, n_events = trainer.problem, trainer.settings.n_predictive
    n_members, n_sets, _ = trainer.theta.shape
    n_each = -(-n_events // n_sets)
    noise = [snapshot_noise(trainer, member, n_sets * n_each) for member in range(n_members)]
    noise = torch.stack(noise).view(n_members, n_sets, n_each, problem.noise_dim)
    with torch.no_grad():
        simulate = torch.vmap(torch.vmap(functools.partial(events_of, problem)))
        events = simulate(trainer.theta, noise.to(trainer.theta.device))
    # The sets take turns, so that what is left out at the end is left out of all.
    events = events.transpose(1, 2).flatten(1, 2)[:, :n_events]
    return trainer.theta.cpu().numpy(), events.cpu().numpy()


def n_scored(settings, n_observed):
    """How many events of either kind a discriminator scores: no more than there are."""
    return min(settings.n_scores, settings.n_draws * settings.n_predictive, n_observed)


def scores(trainer, predictive):
    """What the discriminators of a rank say of predicted events, and of as many observed ones.

    Parameters
    ----------
    trainer : Trainer
    predictive : ndarray (member, draw, event, observable)
        What `trainer.predict()` returns.

    Returns
    -------
    generated, observed : ndarray (member, event)
        The higher a score, the more an event looks like an observed one.  Of the logistic losses it is the logarithm
        of the odds, 0 where the discriminator cannot tell.
    """
    problem, n = trainer.problem, n_scored(trainer.settings, len(trainer.observed))
    predicted = torch.as_tensor(predictive).flatten(1, 2)
    predicted = predicted[:, _evenly(predicted.shape[1], n)]
    chosen = _equal_shares(problem.category(trainer.observed), problem.n_categories, n)
    observed = trainer.observed[chosen].expand(len(predicted), -1, -1)
    with torch.no_grad():
        device = trainer.world.device
        each = [trainer.discriminator(trainer.features(events.to(device))) for events in (predicted, observed)]
    generated, observed = (one.cpu().numpy() for one in each)
    return generated, observed


def _equal_shares(categories, n_categories, n):
    """Indices of `n` events, evenly spaced in each category, of which simulated events have equal shares too."""
    parts = []
    for category in range(n_categories):
        inside = (categories == category).nonzero()[:, 0]
        parts.append(inside[_evenly(len(inside), n * (category + 1) // n_categories - n * category // n_categories)])
    return torch.cat(parts)


def _evenly(n_events, n):
    return (torch.arange(n, dtype=torch.float64) * n_events / max(n, 1)).long()
