"""Random numbers as a function of a key and a counter: the same on all devices, for all members at once, with no state.

A generator of PyTorch belongs to one device, makes other numbers on another, and serves one member at a time.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_WORD = 1 << 64
_GOLDEN = 0x9E3779B97F4A7C15  # distance of consecutive counters
_FACTORS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_SHIFTS = (30, 27, 31)
N_BITS = 23  # of a uniform number, so that the middle of each interval is a number of single precision


class RandomBits:
    """64 random bits for each member, turn and number: SplitMix64, of which member and turn choose the counter.

    Parameters
    ----------
    keys : sequence of int
        64 bits for each member; members with different keys are independent.
    n : int
        How many numbers belong to a turn.
    device : torch.device
        Where they are made.

    References
    ----------
    Steele, Lea and Flood, OOPSLA 2014, DOI 10.1145/2660193.2660195.
    """

    def __init__(self, keys: Sequence[int], n: int, device: torch.device) -> None:
        each = torch.tensor([_signed(key) for key in keys])[:, None] + _signed(_GOLDEN) * torch.arange(1, n + 1)
        self._origin, self._turn = each.to(device), _signed(n * _GOLDEN)

    def __call__(self, turn: Tensor) -> Tensor:
        """The bits of a turn as integers of both signs, (member, number); of many turns, (turn, member, number).

        Parameters
        ----------
        turn : Tensor () or (member, 1), or (turn, 1, 1) or (turn, member, 1), of int
            Which turn, from 0 on, of all members or of each.
        """
        z = self._origin + turn * self._turn
        for shift, factor in zip(_SHIFTS, (*_FACTORS, None), strict=True):
            # Integers have signs, and a shift to the right copies it.
            z = z ^ ((z >> shift) & ((1 << (64 - shift)) - 1))
            z = z if factor is None else z.mul_(_signed(factor))
        return z


def positive(bits: Tensor) -> Tensor:
    """Integers from 0 to 2^62 - 1."""
    return bits & ((1 << 62) - 1)


def words(bits: Tensor) -> Tensor:
    """Integers of as many bits as a uniform number has."""
    return (bits >> 40) & ((1 << N_BITS) - 1)


def uniform(words: Tensor) -> Tensor:
    """Numbers in the middles of 2^23 equal intervals between 0 and 1, neither of which occurs, in single precision."""
    return (words.float() + 0.5).mul_(2.0**-N_BITS)


def normal(words: Tensor) -> Tensor:
    """Standard normal numbers, up to 5.3 deviations from 0, in single precision."""
    half = 2 ** (N_BITS - 1)
    return (words.float() - (half - 0.5)).mul_(1 / half).erfinv_().mul_(math.sqrt(2))


def _signed(number: int) -> int:
    """The integer with a sign that has the lowest 64 bits of a number."""
    return (number + _WORD // 2) % _WORD - _WORD // 2
