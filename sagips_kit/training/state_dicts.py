"""The state of a tree of parts, as tensors: what a checkpoint holds, whatever the parts are.

A part is a module, an optimiser, a random generator, anything with `state_dict` and `load_state_dict`, or a dict or
list of parts.  Files, and what the parts mean, do not belong here.
"""

import numpy as np
import torch

_MISFIT = (KeyError, IndexError, TypeError, ValueError, RuntimeError, AttributeError)


class Numbers:
    """Attributes of `owner` that are numbers, by their names: a part like others."""

    def __init__(self, owner, names):
        self._owner, self._names = owner, names

    def state_dict(self):
        return {name: getattr(self._owner, name) for name in self._names}

    def load_state_dict(self, state):
        for name, number in {name: state[name].item() for name in self._names}.items():
            setattr(self._owner, name, type(getattr(self._owner, name))(number))


def collected(parts):
    """The state of `parts` at this moment: nested dicts of tensors in host memory that nobody else writes to."""
    if isinstance(parts, torch.Generator):
        return parts.get_state()
    if isinstance(parts, torch.optim.Optimizer):
        return _tensors(parts.state_dict()["state"])
    if isinstance(parts, dict):
        return {name: collected(part) for name, part in parts.items()}
    if isinstance(parts, list | tuple):
        return {str(k): collected(part) for k, part in enumerate(parts)}
    return _tensors(parts.state_dict())


def restored(parts, state, name="state"):
    """Give `parts` the state that `collected` took of parts made alike.

    Raises
    ------
    ValueError
        If the state is not one of such parts.
    """
    if isinstance(parts, dict | list | tuple):
        for key, part in parts.items() if isinstance(parts, dict) else enumerate(parts):
            # What has no state is nowhere to be found in the file.
            restored(part, state.get(str(key), {}) if isinstance(state, dict) else {}, f"{name}/{key}")
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


def flattened(tree, prefix=""):
    """Nested dicts of tensors as one dict: path -> tensor."""
    flat = {}
    for name, item in tree.items():
        flat |= flattened(item, f"{prefix}{name}/") if isinstance(item, dict) else {prefix + name: item}
    return flat


def nested(flat):
    """The inverse of `flattened`, apart from empty dicts."""
    tree = {}
    for path, item in flat.items():
        *folders, name = path.split("/")
        branch = tree
        for folder in folders:
            branch = branch.setdefault(folder, {})
            if not isinstance(branch, dict):
                raise ValueError(f"{path!r} is below a tensor.")
        if name in branch:
            raise ValueError(f"{path!r} is there twice.")
        branch[name] = item
    return tree


def _tensors(state):
    if isinstance(state, dict):
        return {str(name): _tensors(item) for name, item in state.items()}
    return torch.as_tensor(np.asarray(state) if not isinstance(state, torch.Tensor) else state).detach().cpu().clone()


def _restore_optimiser(optimiser, state):
    weights = [weight for group in optimiser.param_groups for weight in group["params"]]
    given = {int(k): dict(items) for k, items in state.items()}
    for k, items in given.items():
        for name, item in items.items():
            if item.ndim and item.shape != weights[k].shape:
                raise ValueError(f"{name} of shape {tuple(item.shape)}: should be {tuple(weights[k].shape)}.")
    optimiser.load_state_dict({"state": given, "param_groups": optimiser.state_dict()["param_groups"]})
