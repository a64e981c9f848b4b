"""Many tensors as one contiguous buffer, so that an exchange sends one message instead of one per tensor.

The rows of the buffer are members: parameters have a leading member axis, and so does everything packed here.  The
parameters of an ordinary module have none: use `n_members=None`, which makes the buffer a single row.
"""

from collections.abc import Iterable

import torch


class _Flat:
    """Many tensors and one buffer (member, weight).

    Parameters
    ----------
    parameters : iterable of Tensor (member, ...)
        Tensors on one device and of one dtype.
    n_members : int or None
        Length of their first axis; None if they have no member axis.
    """

    def __init__(self, parameters: Iterable[torch.Tensor], n_members: int | None = None) -> None:
        self.parameters = list(parameters)
        if not self.parameters:
            raise ValueError(
                f"{type(self).__name__} got no parameters. Pass tensors, for instance generator.parameters()."
            )
        rows = n_members or 1
        for parameter in self.parameters if n_members else ():
            if parameter.ndim == 0 or len(parameter) != n_members:
                raise ValueError(
                    f"{type(self).__name__} got a parameter of shape {tuple(parameter.shape)}, whose first axis is not "
                    f"{n_members} members long. For parameters without a member axis, pass n_members=None."
                )
        sizes = [parameter.numel() // rows for parameter in self.parameters]
        first = self.parameters[0]
        self.buffer: torch.Tensor = torch.zeros((rows, sum(sizes)), dtype=first.dtype, device=first.device)
        columns = self.buffer.split(sizes, dim=1)
        self._sizes = sizes
        self._views = [column.view(p.shape) for column, p in zip(columns, self.parameters, strict=True)]


class FlatGradient(_Flat):
    """The gradients of many parameters as one contiguous buffer, to exchange them in one message.

    Parameters
    ----------
    parameters : iterable of Tensor (member, ...)
        Parameters with gradients, on one device and of one dtype.
    n_members : int or None
        Length of their first axis, the member axis; None for the parameters of an ordinary module, which have none.

    Attributes
    ----------
    parameters : list of Tensor
        The parameters, in the order in which they are packed.
    buffer : Tensor (member, weight)
        Contiguous; the same memory in every step.  It has one row if `n_members` is None.

    Raises
    ------
    ValueError
        If there are no parameters, or one has no first axis of `n_members`.

    See Also
    --------
    FlatWeights : The same for the values of the parameters.

    Examples
    --------
    Average the gradients of a network over all ranks; here there is only one:

    >>> import torch
    >>> from sagips_kit import FlatGradient, Ring, World
    >>> network = torch.nn.Linear(3, 2)
    >>> flat = FlatGradient(network.parameters())
    >>> flat.buffer.shape
    torch.Size([1, 8])
    >>> network(torch.ones(5, 3)).sum().backward()
    >>> with Ring().open(World.alone("cpu"), flat.buffer) as channel:
    ...     mixed = channel.mix_(flat.pack(), 0)
    ...     flat.unpack()
    >>> network.bias.grad
    tensor([5., 5.])
    """

    def pack(self) -> torch.Tensor:
        """Copy the gradients to the buffer; a missing gradient counts as zero.

        Returns
        -------
        Tensor (member, weight)
            The buffer.
        """
        rows = len(self.buffer)
        each = [torch.zeros_like(one) if one.grad is None else one.grad for one in self.parameters]
        torch.cat([gradient.reshape(rows, -1) for gradient in each], 1, out=self.buffer)
        return self.buffer

    def unpack(self) -> None:
        """Copy the contents of the buffer to the gradients of the parameters."""
        rows = len(self.buffer)
        for parameter in self.parameters:
            if parameter.grad is None or not parameter.grad.is_contiguous():
                parameter.grad = torch.empty_like(parameter, memory_format=torch.contiguous_format)
        each = [parameter.grad.view(rows, -1) for parameter in self.parameters if parameter.grad is not None]
        torch.split_with_sizes_copy(self.buffer, self._sizes, 1, out=each)


class FlatWeights(_Flat):
    """The values of many parameters as one contiguous buffer, to exchange them in one message.

    Parameters
    ----------
    parameters : iterable of Tensor (member, ...)
        Parameters, and buffers if these are to be exchanged too, on one device and of one dtype.
    n_members : int or None
        Length of their first axis, the member axis; None for the parameters of an ordinary module, which have none.

    Attributes
    ----------
    parameters : list of Tensor
        The parameters, in the order in which they are packed.
    buffer : Tensor (member, weight)
        Contiguous; the same memory in every step.  It has one row if `n_members` is None.

    Raises
    ------
    ValueError
        If there are no parameters, or one has no first axis of `n_members`.

    See Also
    --------
    FlatGradient : The same for the gradients of the parameters.

    Examples
    --------
    Average the weights of a network over all ranks in every 100th step; here there is only one rank:

    >>> import torch
    >>> from sagips_kit import Every, FlatWeights, Ring, World
    >>> network = torch.nn.Linear(3, 2)
    >>> flat = FlatWeights(network.parameters())
    >>> with Every(100, Ring(payload="weights")).open(World.alone("cpu"), flat.buffer) as channel:
    ...     for step in range(200):
    ...         if channel.wants_weights(step):
    ...             print("step", step)
    ...             mixed = channel.mix_weights_(flat.pack(), step)
    ...             flat.unpack()
    step 99
    step 199
    """

    @torch.no_grad()
    def pack(self) -> torch.Tensor:
        """Copy the values of the parameters to the buffer.

        Returns
        -------
        Tensor (member, weight)
            The buffer.
        """
        rows = len(self.buffer)
        torch.cat([parameter.reshape(rows, -1) for parameter in self.parameters], 1, out=self.buffer)
        return self.buffer

    @torch.no_grad()
    def unpack(self) -> None:
        """Copy the contents of the buffer to the parameters."""
        for view, parameter in zip(self._views, self.parameters, strict=True):
            parameter.copy_(view)
