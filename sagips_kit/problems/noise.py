"""Uniform numbers for simulations, evenly spread to reduce the variance of batches."""

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


class ShiftedNet:
    """Points of a scrambled Sobol sequence, which random digits shift to other places for each member and step.

    A shift takes one random number for each column, however many points there are, and each shifted point is uniform.
    The points of each parameter vector are spread as evenly as all of them together.

    Parameters
    ----------
    n_sets, n_events : int
        Number of parameter vectors, and of points for each of them.
    noise_dim : int
        Number of columns.
    n_bits : int
        Binary digits of a number.
    device : torch.device
        Where the points are.

    References
    ----------
    L'Ecuyer and Lemieux, in Modeling Uncertainty (2002), chapter 20: random digital shifts of nets.
    """

    def __init__(self, n_sets: int, n_events: int, noise_dim: int, n_bits: int, device: torch.device) -> None:
        engine = torch.quasirandom.SobolEngine(noise_dim, scramble=True, seed=0)
        digits = (engine.draw(n_sets * n_events, dtype=torch.float64) * 2**n_bits).to(torch.int32)
        # In this order of memory, simulators take the columns without a copy.
        self._digits = digits.view(n_sets, n_events, noise_dim).mT.contiguous().to(device)
        self._half_of_last = 2.0 ** -(n_bits + 1)
        self._half = torch.tensor(self._half_of_last, device=device)

    def __call__(self, shift: Tensor) -> Tensor:
        """Points shifted for each member.

        Parameters
        ----------
        shift : Tensor (member, noise_dim) of int32
            Random digits, below 2^n_bits.

        Returns
        -------
        Tensor (member, set, event, noise_dim)
            Numbers above 0 and below 1, in float32.
        """
        digits = self._digits ^ shift[:, None, :, None]
        return torch.add(self._half, digits, alpha=2 * self._half_of_last).mT
