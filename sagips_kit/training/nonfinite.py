"""Protection against NaN and infinity: they reach no other rank, and the discriminators recover from them.

A generator's gradient is computed from events, scores and the discriminator's weights, so it is finite only if these
are.  It is tested on the device without waiting for the result, which is acted upon at the next record.
"""

import math

import torch
from torch import Tensor

_MOST = math.sqrt(torch.finfo(torch.float32).max)  # norm of a gradient whose square is still a number


class Guard:
    """Tests the generators' gradients of one rank, and keeps the last good state of its discriminators.

    Parameters
    ----------
    discriminator : Module
        All its parameters have a first axis of members.
    optimiser : torch.optim.Optimizer
        The optimiser of the discriminator.
    max_rollbacks : int
        Consecutive rollbacks allowed.

    Attributes
    ----------
    n_rollbacks : int
        Rollbacks so far.
    """

    def __init__(self, discriminator: torch.nn.Module, optimiser: torch.optim.Optimizer, max_rollbacks: int):
        self._weights, self._optimiser = list(discriminator.parameters()), optimiser
        self._max_rollbacks = max_rollbacks
        first = self._weights[0]
        self._rejected = torch.zeros(len(first), dtype=torch.long, device=first.device)
        self._damaged = torch.zeros((), dtype=torch.long, device=first.device)
        self.n_rollbacks = self._n_consecutive = 0
        self._keep()

    def zero_nonfinite_(self, gradient: Tensor) -> Tensor:
        """Set the rows of `gradient` (member, weight) that are not finite to zero, in place; returns it."""
        # Adam keeps squares: an infinite one would hold a weight in place for the rest of the run.
        is_bad = ~(gradient.norm(dim=1, keepdim=True) < _MOST)
        self._rejected += is_bad[:, 0]
        return gradient.masked_fill_(is_bad, 0.0)

    def zero_received_(self, gradient: Tensor) -> Tensor:
        """Like `zero_nonfinite_`, of a mean of finite gradients: rows that are not finite were damaged on their way."""
        before = self._rejected.sum()
        self.zero_nonfinite_(gradient)
        self._damaged += self._rejected.sum() - before
        return gradient

    def n_damaged(self) -> int:
        """Number of received gradients of members that were damaged since the last call."""
        n_damaged = int(self._damaged)
        self._damaged.zero_()
        return n_damaged

    def replace_nonfinite_(self, weights: Tensor, own: Tensor) -> Tensor:
        """Replace numbers in `weights` (member, weight) that are not finite by those of `own`, in place; returns it."""
        is_bad = ~weights.isfinite()
        self._rejected += is_bad.any(1)
        return weights.copy_(torch.where(is_bad, own, weights))

    def check(self) -> int:
        """Roll back the discriminators of members with numbers that were not finite since the last check.

        Returns
        -------
        int
            Number of rejected steps, summed over members.

        Raises
        ------
        RuntimeError
            After more consecutive rollbacks than allowed.
        """
        sums = torch.stack([tensor.flatten(1).sum(1) for tensor in self._tensors()]).sum(0)
        is_bad = ~sums.isfinite() | (self._rejected > 0)
        # A discriminator that became bad in the last step has not affected a gradient yet.
        n_rejected = int(torch.maximum(self._rejected, is_bad.long()).sum())
        self._rejected.zero_()
        if not is_bad.any():
            self._n_consecutive = 0
        else:
            self.n_rollbacks, self._n_consecutive = self.n_rollbacks + 1, self._n_consecutive + 1
            self._roll_back(is_bad)
        self._keep()
        if self._n_consecutive > self._max_rollbacks:
            raise RuntimeError(
                f"The gradients of {int(is_bad.sum())} of {len(is_bad)} generators are NaN or infinite, even after "
                f"{self._max_rollbacks} consecutive rollbacks (max_rollbacks). Check that simulate and its derivatives "
                "are finite everywhere inside the ranges, ends included, or lower generator_rate."
            )
        return n_rejected

    def state_dict(self):
        """The counters; taken after a check, when the last good state is the present one."""
        return {"n_rollbacks": self.n_rollbacks, "n_consecutive": self._n_consecutive, "rejected": self._rejected}

    def load_state_dict(self, state):
        """Continue where `state` was taken; discriminators and optimiser must have been restored before."""
        self.n_rollbacks, self._n_consecutive = int(state["n_rollbacks"]), int(state["n_consecutive"])
        self._rejected.copy_(state["rejected"])
        self._keep()

    def _tensors(self):
        """Weights and the optimiser's moments of them, each with a first axis of members."""
        kept = (self._optimiser.state.get(weight, {}).values() for weight in self._weights)
        moments = [item for items in kept for item in items if item.ndim]
        return [weight.detach() for weight in self._weights] + moments

    def _keep(self):
        self._good = [tensor.clone() for tensor in self._tensors()]

    def _roll_back(self, is_bad):
        tensors = self._tensors()
        # Before its first step an optimiser has no moments; zeros stand for them.
        good = self._good + [torch.zeros_like(tensor) for tensor in tensors[len(self._good) :]]
        for tensor, kept in zip(tensors, good, strict=True):
            tensor[is_bad] = kept[is_bad]
