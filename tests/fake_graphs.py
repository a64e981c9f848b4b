"""Records the work of a function on the CPU and repeats it, as CUDA graphs do on a GPU."""

import contextlib
import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map


def _tensors(tree):
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


class _Tape(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.steps, self._before, self._own = [], {}, set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        written = [
            leaf
            for argument, given in zip(function._schema.arguments, args, strict=False)
            if argument.alias_info is not None and argument.alias_info.is_write
            for leaf in _tensors(given)
        ]
        written += [leaf for name in ("out", "self") for leaf in _tensors(kwargs.get(name))]
        for tensor in written:  # a recording does no work: what it changes is restored
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in self._own:
                self._before.setdefault(storage.data_ptr(), (storage, storage.clone()))
        result = function(*args, **kwargs)
        if not function._schema.name.startswith("profiler::"):
            inputs = {tensor.untyped_storage().data_ptr() for tensor in _tensors((args, kwargs))}
            fresh = [t for t in _tensors(result) if t.untyped_storage().data_ptr() not in inputs]
            self._own |= {tensor.untyped_storage().data_ptr() for tensor in fresh}
            self.steps.append((function, args, kwargs, result, bool(fresh) or bool(written)))
        return result

    def restore(self):
        for storage, content in self._before.values():
            storage.copy_(content)

    @torch.no_grad()
    def replay(self):
        for function, args, kwargs, result, works in self.steps:
            if not works:  # a view
                continue
            again = function(*args, **kwargs)
            for old, new in zip(_tensors(result), _tensors(again), strict=True):
                if old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class FakeGraphs:
    """A recorder on the CPU, which like PyTorch refuses to reuse the memory of recordings that are all gone.

    Attributes
    ----------
    n_recorded, n_repeated : int
        How often it did what.
    """

    def __init__(self):
        self.n_recorded = self.n_repeated = 0
        self._tapes = None

    def stream(self):
        return contextlib.nullcontext()

    def record(self, part):
        tape = _Tape()
        if self._tapes is not None and not len(self._tapes):
            raise RuntimeError("the memory of recordings that are gone")
        with tape:
            result = part()
        tape.restore()
        self.n_recorded += 1
        self._tapes = weakref.WeakSet() if self._tapes is None else self._tapes
        self._tapes.add(tape)

        def repeat():
            self.n_repeated += 1
            tape.replay()

        return repeat, tree_map(lambda leaf: leaf.detach() if isinstance(leaf, torch.Tensor) else leaf, result)

    def forget(self):
        self._tapes = None
