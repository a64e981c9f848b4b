"""The state of a tree of parts as nested dicts of tensors, which is the content of a checkpoint.

A part is a module, an optimiser, a random generator, anything with `state_dict` and `load_state_dict`, or a dict or
list of parts.  Files, and the meaning of the parts, do not belong here.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

_MISFIT = (KeyError, IndexError, TypeError, ValueError, RuntimeError, AttributeError)


class Numbers:
    """A part that consists of numbers which are attributes of `owner`.

    Parameters
    ----------
    owner : object
        The object with the attributes.
    names : sequence of str
        Names of the attributes.
    """

    def __init__(self, owner: object, names: Sequence[str]):
        self._owner, self._names = owner, names

    def state_dict(self):
        return {name: getattr(self._owner, name) for name in self._names}

    def load_state_dict(self, state):
        for name, number in {name: state[name].item() for name in self._names}.items():
            setattr(self._owner, name, type(getattr(self._owner, name))(number))


def collected(parts: Any) -> Any:
    """Copy the present state of `parts` to nested dicts of tensors in host memory."""
    if isinstance(parts, torch.Generator):
        return parts.get_state()
    if isinstance(parts, torch.optim.Optimizer):
        return _tensors(parts.state_dict()["state"])
    if isinstance(parts, dict):
        return {name: collected(part) for name, part in parts.items()}
    if isinstance(parts, list | tuple):
        return {str(k): collected(part) for k, part in enumerate(parts)}
    return _tensors(parts.state_dict())


def restore(parts: Any, state: Any, name: str = "state") -> None:
    """Restore a state of `parts` that `collected` returned for parts of the same structure.

    Parameters
    ----------
    parts : module, optimiser, torch.Generator, object with `load_state_dict`, or dict or list of such
        What is restored, in order.
    state : dict or Tensor
        The state.
    name : str
        Name of the part in messages.

    Raises
    ------
    ValueError
        If the state belongs to parts of another structure.
    """
    if isinstance(parts, dict | list | tuple):
        for key, part in parts.items() if isinstance(parts, dict) else enumerate(parts):
            # A part without state is absent from the file.
            restore(part, state.get(str(key), {}) if isinstance(state, dict) else {}, f"{name}/{key}")
        return
    try:
        if isinstance(parts, torch.Generator):
            parts.set_state(state)
        elif isinstance(parts, torch.optim.Optimizer):
            _restore_optimiser(parts, state)
        else:
            parts.load_state_dict(state)
    except _MISFIT as error:
        raise ValueError(f"{name} does not fit this run: {type(error).__name__}: {error}") from error


def flattened(tree: dict[str, Any], prefix: str = "") -> dict[str, torch.Tensor]:
    """Nested dicts of tensors as one dict: path -> tensor."""
    flat = {}
    for name, item in tree.items():
        flat |= flattened(item, f"{prefix}{name}/") if isinstance(item, dict) else {prefix + name: item}
    return flat


def nested(flat: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Nested dicts of tensors from one dict, path -> tensor: the inverse of `flattened`, except for empty dicts."""
    tree = {}
    for path, item in flat.items():
        *folders, name = path.split("/")
        branch = tree
        for folder in folders:
            branch = branch.setdefault(folder, {})
            if not isinstance(branch, dict):
                raise ValueError(f"{path!r} is below a name that is a tensor.")
        if name in branch:
            raise ValueError(f"{path!r} occurs twice.")
        branch[name] = item
    return tree


def _tensors(state):
    if isinstance(state, dict):
        return {str(name): _tensors(item) for name, item in state.items()}
    tensor = torch.as_tensor(np.asarray(state) if not isinstance(state, torch.Tensor) else state).detach().cpu()
    # A file holds rows one after the other; decompositions of matrices return columns.
    return tensor.clone(memory_format=torch.contiguous_format)


def _restore_optimiser(optimiser, state):
    weights = [weight for group in optimiser.param_groups for weight in group["params"]]
    given = {int(k): dict(items) for k, items in state.items()}
    for k, items in given.items():
        for name, item in items.items():
            if item.ndim and item.shape != weights[k].shape:
                raise ValueError(f"{name} of shape {tuple(item.shape)}: should be {tuple(weights[k].shape)}.")
    optimiser.load_state_dict({"state": given, "param_groups": optimiser.state_dict()["param_groups"]})
