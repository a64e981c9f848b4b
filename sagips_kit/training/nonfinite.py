"""A rank's guard against numbers that are not finite: they reach no other rank, and its discriminators recover.

A generator's gradient comes from events, scores and weights of the discriminator, so it is finite only if they are.  It
is looked at on the device, without waiting for it; what was found is acted upon with the next record.
"""

import torch


class Guard:
    """Watches the generators' gradients of one rank, and keeps the last good state of its discriminators.

    Parameters
    ----------
    discriminator : Module
        All parameters have a first axis of members.
    optimiser : torch.optim.Optimizer
        Of the discriminator.
    limit : int
        Rollbacks in a row that are too many.

    Attributes
    ----------
    n_rollbacks : int
        So far.
    """

    def __init__(self, discriminator, optimiser, limit):
        self._weights, self._optimiser, self._limit = list(discriminator.parameters()), optimiser, limit
        first = self._weights[0]
        self._rejected = torch.zeros(len(first), dtype=torch.long, device=first.device)
        self.n_rollbacks = self._n_in_a_row = 0
        self._keep()

    def screen_(self, gradient):
        """Replace, in place, members' rows of `gradient` (member, weight) that are not finite by zeros; returns it."""
        # Adam keeps squares: one that is infinite would hold a weight where it is for ever.
        is_bad = ~gradient.norm(dim=1, keepdim=True).square().isfinite()
        self._rejected += is_bad[:, 0]
        return gradient.masked_fill_(is_bad, 0.0)

    def keep_(self, weights, own):
        """Put `own` (member, weight) back, in place, where `weights` from other ranks are not finite; returns them."""
        is_bad = ~weights.isfinite()
        self._rejected += is_bad.any(1)
        return weights.copy_(torch.where(is_bad, own, weights))

    def look(self):
        """Act upon what was found since the last look.

        Returns
        -------
        int
            Steps of members whose numbers were not finite, and have been dropped.

        Raises
        ------
        RuntimeError
            If it comes to nothing, time and again.
        """
        sums = torch.stack([tensor.flatten(1).sum(1) for tensor in self._tensors()]).sum(0)
        is_bad = ~sums.isfinite() | (self._rejected > 0)
        # A discriminator that went bad in the last step has not spoilt a gradient yet.
        n_rejected = int(torch.maximum(self._rejected, is_bad.long()).sum())
        self._rejected.zero_()
        if not is_bad.any():
            self._n_in_a_row = 0
        else:
            self.n_rollbacks, self._n_in_a_row = self.n_rollbacks + 1, self._n_in_a_row + 1
            self._roll_back(is_bad)
        self._keep()
        if self._n_in_a_row > self._limit:
            raise RuntimeError(
                f"Gradients of {int(is_bad.sum())} of {len(is_bad)} generators have not been finite, in spite of "
                f"{self._limit} returns in a row to the last good state (max_rollbacks). Check that simulate and its "
                "derivatives are finite everywhere inside the ranges, ends included, or lower generator_rate."
            )
        return n_rejected

    def state_dict(self):
        """Taken after a look, where the last good state is the present one."""
        return {"n_rollbacks": self.n_rollbacks, "n_in_a_row": self._n_in_a_row, "rejected": self._rejected}

    def load_state_dict(self, state):
        """Go on where `state` was taken, with discriminators that are restored already."""
        self.n_rollbacks, self._n_in_a_row = int(state["n_rollbacks"]), int(state["n_in_a_row"])
        self._rejected.copy_(state["rejected"])
        self._keep()

    def _tensors(self):
        """Weights, and what the optimiser keeps of each of them, member by member."""
        kept = (self._optimiser.state.get(weight, {}).values() for weight in self._weights)
        moments = [item for items in kept for item in items if item.ndim]
        return [weight.detach() for weight in self._weights] + moments

    def _keep(self):
        self._good = [tensor.clone() for tensor in self._tensors()]

    def _roll_back(self, is_bad):
        tensors = self._tensors()
        # An optimiser that had not stepped yet has nothing to go back to but zeros.
        good = self._good + [torch.zeros_like(tensor) for tensor in tensors[len(self._good) :]]
        for tensor, kept in zip(tensors, good, strict=True):
            tensor[is_bad] = kept[is_bad]
