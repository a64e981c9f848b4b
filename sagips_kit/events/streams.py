"""The random streams of a run: each is made from the run's seed, the number of its purpose, and indices.

They are here because this is the lowest package that draws random numbers; the trainer imports them from above.
"""

from enum import IntEnum, unique

import numpy as np
import torch


@unique
class Stream(IntEnum):
    """The purpose of a random stream: the second word of its seed, after the seed of the run.

    NumPy pads short seeds with zeros: [7, 102] and [7, 102, 0, 0] are the same stream.  So no number may occur twice,
    and a purpose should always take the same number of indices.  Observed events are drawn from the seed alone, which
    is [seed, 0, 0] as well; but that is a NumPy stream, and GENERATOR a PyTorch stream, which makes other numbers.
    """

    # PyTorch streams, and keys of random bits (AXES, NOISE and BATCHES); index: the member, counted through all
    # replicas (the first two) or all ranks (the others)
    GENERATOR = 0
    AXES = 1
    DISCRIMINATOR = 2
    NOISE = 3
    BATCHES = 4
    PREDICTION = 5
    # NumPy streams.  The index of a window is 0 for all events, and 1, 2, ... for the windows of a file.
    RESAMPLING = 101  # indices: the first chain of a block, and the window
    PRIOR_SHIFTS = 102
    ROWS = 103  # choice of rows in a file; index: the window
    WINDOWS = 104  # composition of windows; index: how often the whole file has been read
    WITNESS = 106  # where a witness begins; index: the chain
    # PyTorch stream; indices: the chain, counted through all ranks, and the step
    SNAPSHOTS = 105


def numpy_stream(seed: int, purpose: Stream, *indices: int) -> np.random.Generator:
    """The NumPy stream of a purpose."""
    return np.random.default_rng(_words(seed, purpose, indices))


def torch_stream(seed: int, purpose: Stream, *indices: int) -> torch.Generator:
    """The PyTorch stream of a purpose, on the CPU."""
    return torch.Generator().manual_seed(key(seed, purpose, *indices) >> 1)


def key(seed: int, purpose: Stream, *indices: int) -> int:
    """The key of a purpose for numbers that follow from a key and a counter: 64 bits."""
    return int(np.random.SeedSequence(_words(seed, purpose, indices)).generate_state(1, np.uint64)[0])


def _words(seed, purpose, indices):
    return [seed, int(purpose), *indices]
