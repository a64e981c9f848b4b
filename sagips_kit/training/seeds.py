"""The random streams of a rank: one for each role and member, all from the run's seed, and who shares which."""

import numpy as np
import torch

from ..problems.noise import stratified_noise

ROLES = ("generator", "axes", "discriminator", "noise", "batches", "prediction")
_SHARED = ("generator", "axes")  # by the ranks of a replica
_SNAPSHOT = 102  # sets this random stream apart from those of the training


def random_streams(seed, replica, rank, n_members):
    """Random generators: role -> list of torch.Generator, one for each member.

    Parameters
    ----------
    seed : int
        The same on all ranks.
    replica, rank, n_members : int
    """
    # Counted through all ranks: an ensemble is the same however its members are spread over them.
    first = {role: (replica if role in _SHARED else rank) * n_members for role in ROLES}
    return {role: [_stream(seed, role, first[role] + member) for member in range(n_members)] for role in ROLES}


def _stream(seed, role, index):
    words = np.random.SeedSequence([seed, ROLES.index(role), index]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(words[0] >> 1))


def snapshot_noise(trainer, member, n_events):
    # Counted through all ranks: an ensemble is the same however its members are spread over them.
    chain = trainer.world.rank * trainer.settings.n_members + member
    words = np.random.SeedSequence([trainer.seed, _SNAPSHOT, chain, trainer.step]).generate_state(1, np.uint64)
    return stratified_noise(n_events, trainer.problem.noise_dim, torch.Generator().manual_seed(int(words[0] >> 1)))
