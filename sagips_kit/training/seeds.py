"""Which random stream each member of a rank draws from, so that results do not depend on how members are distributed.

Streams that all ranks of a replica must share are numbered by the replica, all others by the rank.
"""

import torch
from torch import Tensor

from ..events.streams import Stream, torch_stream
from ..problems.noise import stratified_noise

_SHARED = (Stream.GENERATOR, Stream.AXES)  # the ranks of a replica hold the same generators
_OWN = (Stream.DISCRIMINATOR, Stream.NOISE, Stream.BATCHES, Stream.PREDICTION)


def random_streams(seed: int, replica: int, rank: int, n_members: int) -> dict[str, list[torch.Generator]]:
    """Random generators of one rank: name of the purpose, such as "noise" -> one generator for each member."""
    streams = {}
    for purpose in _SHARED + _OWN:
        first = (replica if purpose in _SHARED else rank) * n_members
        streams[purpose.name.lower()] = [torch_stream(seed, purpose, first + member) for member in range(n_members)]
    return streams


def snapshot_noise(seed: int, chain: int, step: int, n_events: int, noise_dim: int) -> Tensor:
    """Noise (event, noise_dim) for the snapshot of one chain, from a stream of its own, so training is unaffected."""
    return stratified_noise(n_events, noise_dim, torch_stream(seed, Stream.SNAPSHOTS, chain, step))
