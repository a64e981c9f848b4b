"""Which random stream each member of a rank draws from, so that results do not depend on how members are distributed.

Streams that all ranks of a replica must share are numbered by the replica, all others by the rank.
"""

import torch
from torch import Tensor

from ..events.streams import Stream, key, torch_stream
from ..problems.noise import stratified_noise

_SHARED = (Stream.GENERATOR, Stream.AXES)  # the ranks of a replica hold the same generators


def random_streams(seed: int, replica: int, rank: int, n_members: int, purpose: Stream) -> list[torch.Generator]:
    """Random generators of one rank for a purpose, one for each member, on the CPU."""
    return [torch_stream(seed, purpose, member) for member in _members(replica, rank, n_members, purpose)]


def random_keys(seed: int, replica: int, rank: int, n_members: int, purpose: Stream) -> list[int]:
    """Keys of the random bits of one rank for a purpose, one for each member."""
    return [key(seed, purpose, member) for member in _members(replica, rank, n_members, purpose)]


def _members(replica: int, rank: int, n_members: int, purpose: Stream) -> range:
    first = (replica if purpose in _SHARED else rank) * n_members
    return range(first, first + n_members)


def snapshot_noise(seed: int, chain: int, step: int, n_events: int, noise_dim: int) -> Tensor:
    """Noise (event, noise_dim) for the snapshot of one chain, from a stream of its own, so training is unaffected."""
    return stratified_noise(n_events, noise_dim, torch_stream(seed, Stream.SNAPSHOTS, chain, step))
