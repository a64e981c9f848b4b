"""What a training step asks of a device, seen below autograd and vmap: for devices that this machine does not have."""

from collections import Counter

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_NO_WORK = {"aten::detach", "aten::empty", "aten::empty_like", "aten::empty_strided", "aten::_unsafe_view"}
# These wait for the device, since the host needs a number of it.
_WAITS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal", "aten::is_nonzero"}
_WAITS |= {"aten::unique_dim", "aten::_unique2", "aten::repeat_interleave", "aten::bincount"}
_COPIES = {"aten::_to_copy", "aten::copy_", "aten::lift_fresh", "aten::lift"}


class OnDevice(TorchDispatchMode):
    """Counts the operations on a device, and fails if one of them mixes devices or makes the host wait.

    Parameters
    ----------
    device : str
        The type of device on which everything has to be.

    Attributes
    ----------
    launches : Counter
        Operations by name, without those that only make a view.
    """

    def __init__(self, device):
        super().__init__()
        self.device, self.launches = device, Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name
        masks = [leaf for leaf in tree_leaves(args[1:2]) if isinstance(leaf, torch.Tensor) and leaf.dtype == torch.bool]
        assert not (name in ("aten::index", "aten::index_put_") and masks), f"{name}: the shape depends on a mask"
        assert name not in _WAITS, f"{name} makes the host wait"
        result = function(*args, **(kwargs or {}))
        if name.startswith("profiler::"):
            return result
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, torch.Tensor)]
        elsewhere = [
            (tensor.device.type, tuple(tensor.shape)) for tensor in tensors if tensor.device.type != self.device
        ]
        assert not elsewhere, f"{name} has tensors that are not on {self.device!r}: {elsewhere}"
        if not _is_view(function._schema) and name not in _NO_WORK:
            self.launches[name] += 1
        return result

    @property
    def n(self):
        """int: Number of launches."""
        return self.launches.total()

    @property
    def n_copies(self):
        """int: Number of copies, all of which are inside the device."""
        return sum(self.launches[name] for name in _COPIES)


def _is_view(schema):
    reads = any(argument.alias_info is not None and not argument.alias_info.is_write for argument in schema.arguments)
    return reads and bool(schema.returns) and schema.returns[0].alias_info is not None
