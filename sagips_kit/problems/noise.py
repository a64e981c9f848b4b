"""Uniform numbers for simulations, stratified to reduce the variance of batches."""

import torch
from torch import Tensor


def stratified_noise(n_events: int, noise_dim: int, random: torch.Generator) -> Tensor:
    """Return Latin-hypercube numbers: each interval [k/n, (k+1)/n) of each column holds exactly one.

    The columns are shuffled independently, so any subset of the events is a random one.

    Parameters
    ----------
    n_events : int
        Number of rows, n.
    noise_dim : int
        Number of columns.
    random : torch.Generator
        Source of all randomness.

    Returns
    -------
    Tensor (event, noise_dim)
        Numbers in [0, 1), in float32.
    """
    cells = torch.stack([torch.randperm(n_events, generator=random) for _ in range(noise_dim)], dim=1)
    jitter = torch.rand((n_events, noise_dim), generator=random)
    return ((cells + jitter) / n_events).clamp_(max=1 - 2**-24)
