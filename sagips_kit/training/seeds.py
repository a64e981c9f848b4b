"""Random numbers of each member of a rank, which do not depend on how members are distributed.

Streams that all ranks of a replica must share are numbered by the replica, all others by the rank.
"""

import torch
from torch import Tensor

from ..events.ahead import Ahead
from ..events.random_bits import N_BITS, RandomBits, normal, words
from ..events.streams import Stream, key, torch_stream
from ..problems.noise import ShiftedNet, stratified_noise
from .settings import Settings

_N_INFORMATION = 512  # events that estimate the Fisher information
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


class StepNoise:
    """The random numbers of all steps but those of batches; what belongs to a step follows from its number.

    Parameters
    ----------
    whose : (int, int, int, int)
        Seed, replica, rank and number of members.
    settings : Settings
        Numbers of sets and events, and the dimension of the generators' inputs.
    noise_dim : int
        Numbers that an event needs.
    device : torch.device
        Where they are made.
    """

    def __init__(
        self, whose: tuple[int, int, int, int], settings: Settings, noise_dim: int, device: torch.device
    ) -> None:
        n_sets, n_latent = settings.n_sets, settings.n_sets * settings.latent_dim
        self._net = ShiftedNet(n_sets, settings.n_events // n_sets, noise_dim, N_BITS, device)
        self._axes_net = ShiftedNet(1, _N_INFORMATION, noise_dim, N_BITS, device)
        self._axes_bits = RandomBits(random_keys(*whose, Stream.AXES), noise_dim, device)
        bits = RandomBits(random_keys(*whose, Stream.NOISE), n_latent + noise_dim, device)
        self._device = device

        def make(steps: Tensor) -> list[Tensor]:
            latent, shift = words(bits(steps[:, None, None])).split([n_latent, noise_dim], -1)
            return [normal(latent).unflatten(-1, (n_sets, settings.latent_dim)), shift.to(torch.int32)]

        self._ahead = Ahead(make, settings.n_members * (n_latent + noise_dim), device)

    def prepare(self, step: int) -> None:
        """Make sure that `take` gives what belongs to a step."""
        self._ahead.prepare(step)

    def take(self) -> tuple[Tensor, Tensor]:
        """Normal numbers (member, set, latent_dim), and uniform ones (member, set, event, noise_dim); on the device."""
        latent, shift = self._ahead.take()
        return latent, self._net(shift)

    def for_axes(self, step: int) -> Tensor:
        """Uniform numbers for the estimate of the Fisher information, (member, event, noise_dim)."""
        bits = self._axes_bits(torch.full((), step, device=self._device))
        return self._axes_net(words(bits).to(torch.int32))[:, 0]


def snapshot_noise(seed: int, chain: int, step: int, n_events: int, noise_dim: int) -> Tensor:
    """Noise (event, noise_dim) for the snapshot of one chain, from a stream of its own, so training is unaffected."""
    return stratified_noise(n_events, noise_dim, torch_stream(seed, Stream.SNAPSHOTS, chain, step))
