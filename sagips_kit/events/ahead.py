"""Numbers of the next steps, made for many steps at once, so that the many small operations behind them cost little."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

_MOST_NUMBERS, _MOST_STEPS = 2**20, 64  # that are made together


class Ahead:
    """Tensors that each step needs and that follow from its number alone, in memory that stays the same.

    Parameters
    ----------
    make : callable
        Maps numbers of steps, Tensor (step,) of int, to a sequence of Tensor (step, ...).
    n_each : int
        How many numbers a step needs, about.
    device : torch.device or str
        Where they are made.
    """

    def __init__(self, make: Callable[[Tensor], Sequence[Tensor]], n_each: int, device: torch.device | str) -> None:
        self._make, self._device = make, device
        self._n = max(1, min(_MOST_STEPS, _MOST_NUMBERS // n_each))
        self._made: Sequence[Tensor] = ()
        self._next, self._stop = 0, 0
        self._row = torch.zeros(1, dtype=torch.long, device=device)

    def prepare(self, step: int) -> None:
        """Make sure that `take` gives what belongs to a step."""
        if step != self._next or step >= self._stop:
            made = self._make(torch.arange(step, step + self._n, device=self._device))
            if self._made:
                for old, new in zip(self._made, made, strict=True):
                    old.copy_(new)
            else:
                self._made = made
            self._stop = step + self._n
            self._row.fill_(-1)
        self._next = step + 1

    def take(self) -> list[Tensor]:
        """What belongs to the step that was prepared; on the device alone, without the host."""
        self._row.add_(1)
        return [made.index_select(0, self._row)[0] for made in self._made]
