"""Uniform numbers for simulations, stratified so that batches scatter little."""

import torch
from torch import Tensor


def stratified_noise(n_events, noise_dim, random) -> Tensor:
    """Latin-hypercube uniforms: in each column every interval [k/n, (k+1)/n) holds one number: (event, noise_dim).

    The columns are shuffled independently, so that any subset of the events is a random one.
    """
    cells = torch.stack([torch.randperm(n_events, generator=random) for _ in range(noise_dim)], dim=1)
    jitter = torch.rand((n_events, noise_dim), generator=random)
    return ((cells + jitter) / n_events).clamp_(max=1 - 2**-24)
