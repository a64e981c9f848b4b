"""The random streams of a rank: one for each role and member, all from the run's seed, and who shares which."""

import numpy as np
import torch

ROLES = ("generator", "axes", "discriminator", "noise", "batches", "prediction")
_SHARED = ("generator", "axes")  # by the ranks of a replica


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
