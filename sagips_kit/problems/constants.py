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
from torch.overrides import TorchFunctionMode


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


class NumbersOnDevice(TorchFunctionMode):
    """A context in which 2 * theta[0] copies nothing from the host to an accelerator, also inside vmap.

    There, each number that meets a tensor without dimensions would become a tensor on the host and be copied.
    """

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in _ARITHMETIC and len(args) == 2:
            args = (_tensor_beside(args[0], args[1]), _tensor_beside(args[1], args[0]))
        return function(*args, **(kwargs or {}))


_ARITHMETIC = {
    getattr(place, name)
    for place, names in (
        (torch, "add sub mul div true_divide"),
        (Tensor, "add sub mul div true_divide __add__ __radd__ __sub__ __mul__ __rmul__ __truediv__ __rtruediv__"),
    )
    for name in names.split()
}


def _tensor_beside(one: Any, other: Any) -> Any:
    """A number as a tensor like the other operand, if that has no dimensions and is on an accelerator."""
    if not isinstance(one, float | int) or isinstance(one, bool) or not isinstance(other, Tensor):
        return one
    if other.ndim or not other.is_floating_point() or other.device.type == "cpu":
        return one
    return _number(float(one), other.device, other.dtype)


@functools.lru_cache(maxsize=1024)
def _number(value: float, device: torch.device, dtype: torch.dtype) -> Tensor:
    with outside_transforms():
        return torch.full((), value, device=device, dtype=dtype)
