"""Tables of numbers on the device and in the precision of what they meet, copied there once instead of in each step.

A tensor made inside a transform of torch.func (vmap, jacrev) must not outlive it, so copies are made outside of all.
"""

import functools
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor


def outside_transforms() -> AbstractContextManager[Any]:
    """A context in which new tensors belong to no transform, even if it is entered inside one."""
    return torch._C._DisableFuncTorch()  # there is no public name for it


class Constant:
    """An array whose copies on devices are kept.

    Parameters
    ----------
    values : array_like
        Numbers, or booleans.  They and their copies must not be changed.
    """

    def __init__(self, values: ArrayLike | Tensor) -> None:
        with outside_transforms():
            self.values: Tensor = torch.as_tensor(values).detach().cpu()
        self._copies: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"values": self.values, "_copies": {}}

    def like(self, tensor: Tensor) -> Tensor:
        """The values on the device of a tensor; floating-point ones in its type."""
        dtype = tensor.dtype if self.values.is_floating_point() else self.values.dtype
        where = (tensor.device, dtype)
        if where not in self._copies:
            with outside_transforms():
                self._copies[where] = self.values.to(dtype).to(tensor.device)
        return self._copies[where]


def constant(values: ArrayLike, kind: type = float) -> Constant:
    """The constant with these numbers, in one dimension; the same object whenever they are given again.

    For numbers that a property of a problem makes anew each time.
    """
    return _of(tuple(np.asarray(values, dtype=kind).tolist()), kind)


@functools.lru_cache(maxsize=1024)
def _of(values: tuple[float, ...], kind: type) -> Constant:
    return Constant(np.array(values, dtype=kind))
