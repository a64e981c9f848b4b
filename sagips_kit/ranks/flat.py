"""Many tensors as one contiguous buffer, so that an exchange sends one message instead of one per tensor.

The rows of the buffer are members: parameters have a leading member axis, and so has everything packed here.  For an
ordinary module, whose parameters have none, use `n_members=None`: the buffer is then a single row.
"""

import torch


class _Flat:
    """Many tensors and one buffer (member, weight).

    Parameters
    ----------
    parameters : iterable of Tensor (member, ...)
        Leaves with gradients, all on one device and of one dtype.
    n_members : int or None
        Length of their first axis; None if they have no member axis.

    Attributes
    ----------
    buffer : Tensor (member, weight)
        Contiguous; the same memory in every step.
    """

    def __init__(self, parameters, n_members=None):
        self.parameters = list(parameters)
        if not self.parameters:
            raise ValueError(f"{type(self).__name__} got no parameters. Pass for instance generator.parameters().")
        rows = n_members or 1
        for parameter in self.parameters if n_members else ():
            if parameter.ndim == 0 or len(parameter) != n_members:
                shape = tuple(parameter.shape)
                raise ValueError(
                    f"A parameter of shape {shape} has no first axis of {n_members} members. Pass n_members=None."
                )
        sizes = [parameter.numel() // rows for parameter in self.parameters]
        first = self.parameters[0]
        self.buffer = torch.zeros((rows, sum(sizes)), dtype=first.dtype, device=first.device)
        columns = self.buffer.split(sizes, dim=1)
        self._views = [column.view(p.shape) for column, p in zip(columns, self.parameters, strict=True)]


class FlatGradient(_Flat):
    """The gradients of `parameters` as one buffer (member, weight)."""

    def pack(self):
        """Copy the gradients into the buffer and return it; a missing gradient counts as zero."""
        for view, parameter in zip(self._views, self.parameters, strict=True):
            if parameter.grad is None:
                view.zero_()
            else:
                view.copy_(parameter.grad)
        return self.buffer

    def unpack(self):
        """Make the buffer's contents the gradients of the parameters."""
        for view, parameter in zip(self._views, self.parameters, strict=True):
            if parameter.grad is None:
                parameter.grad = view.clone()
            else:
                parameter.grad.copy_(view)


class FlatWeights(_Flat):
    """The values of `parameters`, and of buffers if they are given too, as one buffer (member, weight)."""

    @torch.no_grad()
    def pack(self):
        """Copy the values into the buffer and return it."""
        for view, parameter in zip(self._views, self.parameters, strict=True):
            view.copy_(parameter)
        return self.buffer

    @torch.no_grad()
    def unpack(self):
        """Give the buffer's contents to the parameters."""
        for view, parameter in zip(self._views, self.parameters, strict=True):
            parameter.copy_(view)
