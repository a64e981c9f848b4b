"""The contract of channels: what an exchange opens on every rank, and what it does there.

A channel describes one exchange as a generator: it yields what it waits for, and whoever drives it does the waiting.
Parts are therefore nested by `yield from`, and an exchange can start now and finish later, with other work in between.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from ..ranks.memory import keep_until_exit
from ..ranks.world import World
from .mixing import Mixed, Mixing, Payload, Wait

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from mpi4py.typing import BufSpec

    from .base import Exchange


@dataclass(eq=False)
class _UnderWay:
    """An exchange between its start and its end.

    Parameters
    ----------
    mixing : generator
        What the channel does, up to its next wait.
    wait : Wait or None
        What the exchange waits for now; None once it has ended.
    result : Mixed
        What it did, once it has ended.
    """

    mixing: Mixing
    wait: Wait | None = None
    result: Mixed = field(default_factory=Mixed)

    def advance(self) -> None:
        """Continue up to the next wait."""
        try:
            self.wait = next(self.mixing)
        except StopIteration as end:
            self.wait, self.result = None, end.value


class Channel(ABC):
    """One rank's end of an exchange, which owns its buffers and messages; `Exchange.open` makes one.

    Use it as a context manager: at the end of the block it is closed, which is collective, or abandoned after an error,
    which waits for nobody.

    Parameters
    ----------
    exchange : Exchange
        The value that opened it.
    world : World
        The ranks that exchange.
    like : Tensor (member, weight)
        Gradients to be mixed have its shape, dtype and device.

    Attributes
    ----------
    exchange : Exchange
        The value that opened it.
    world : World
        The ranks that exchange.
    parts : dict of str to Channel
        The channels inside this one.

    See Also
    --------
    FlatGradient : Packs the gradients of a network into one buffer.
    FlatWeights : Packs its weights.

    Examples
    --------
    A training loop of your own, here on a single rank:

    >>> import torch
    >>> from sagips_kit import FlatGradient, Ring, World
    >>> network = torch.nn.Linear(1, 1)
    >>> optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    >>> flat = FlatGradient(network.parameters())
    >>> with Ring().open(World.alone("cpu"), flat.buffer) as channel:
    ...     for step in range(3):
    ...         optimizer.zero_grad()
    ...         network(torch.ones(8, 1)).square().mean().backward()
    ...         channel.start(flat.pack(), step)
    ...         # Work that does not need the mean goes here.
    ...         mixed = channel.finish()
    ...         flat.unpack()
    ...         optimizer.step()
    >>> mixed.received
    0
    """

    def __init__(self, exchange: "Exchange", world: World, like: torch.Tensor) -> None:
        self.exchange, self.world = exchange, world
        self.parts: dict[str, Channel] = {}
        # The form of weights is that of the first buffer of them.
        self._forms = {"gradient": (like.shape, like.dtype)}
        self._stages: dict[str, torch.Tensor] = {}
        self._under_way: _UnderWay | None = None

    def __enter__(self) -> "Self":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: "TracebackType | None"
    ) -> None:
        if kind is None:
            return self.close()
        # A rank that fails must not wait for the others, which may be waiting for it.
        keep_until_exit(self._under_way)
        self.abandon()

    def mix_(self, gradient: torch.Tensor, step: int) -> Mixed:
        """Replace a gradient, in place, by the mean over the ranks of this mode.

        Parameters
        ----------
        gradient : Tensor (member, weight)
            Contiguous.
        step : int
            Number of the step, from 0.

        Returns
        -------
        Mixed
            What was done.

        Raises
        ------
        ValueError
            If the buffer is not like the one that the channel was opened for.
        PeerError
            If another rank failed, or did not answer in time.
        """
        self.start(gradient, step)
        return self.finish()

    def wants_weights(self, step: int) -> bool:
        """Whether `mix_weights_` exchanges anything in a step.

        Parameters
        ----------
        step : int
            Number of the step, from 0.

        Returns
        -------
        bool
            The same on all ranks.
        """
        return self.exchange.carries("weights", step)

    def mix_weights_(self, weights: torch.Tensor, step: int) -> Mixed:
        """Replace weights, in place, by what this mode makes of them, after the optimiser's step.

        Parameters
        ----------
        weights : Tensor (member, weight)
            Contiguous, and of the same shape in every step.
        step : int
            Number of the step, from 0.

        Returns
        -------
        Mixed
            What was done.

        Raises
        ------
        ValueError
            If the buffer is not like the first one.
        PeerError
            If another rank failed, or did not answer in time.
        """
        self.start(weights, step, "weights")
        return self.finish()

    def start(self, buffer: torch.Tensor, step: int, payload: Payload = "gradient") -> None:
        """Start to mix a buffer, which must not be used until `finish` has returned.

        Parameters
        ----------
        buffer : Tensor (member, weight)
            Contiguous.
        step : int
            Number of the step, from 0.
        payload : {"gradient", "weights"}
            What the buffer contains.

        Raises
        ------
        RuntimeError
            If another exchange is under way.
        ValueError
            If the buffer is not like the one that the channel was opened for.
        """
        if self._under_way is not None:
            raise RuntimeError("An exchange is under way already. Call finish() before the next start(...).")
        self._check(buffer, payload)
        self._under_way = _UnderWay(self.mixing_in_reach(buffer.detach().view(-1), step, payload))
        self._under_way.advance()

    def finish(self) -> Mixed:
        """Wait for the exchange that `start` began.

        Returns
        -------
        Mixed
            What was done.

        Raises
        ------
        RuntimeError
            If no exchange is under way.
        PeerError
            If another rank failed, or did not answer in time.
        """
        if (under_way := self._under_way) is None:
            raise RuntimeError("No exchange is under way. Call start(buffer, step) first.")
        waited_s = 0.0
        try:
            while (wait := under_way.wait) is not None:
                waited_s += self.world.wait(*wait)
                under_way.advance()
        except BaseException:
            keep_until_exit(under_way)
            raise
        finally:
            self._under_way = None
        return replace(under_way.result, waited_s=waited_s)

    def poll(self) -> bool:
        """Continue the exchange under way as far as possible without waiting.

        Returns
        -------
        bool
            Whether only `finish` is left to be called.
        """
        while self._under_way is not None and self._under_way.wait is not None:
            if not self.world.is_done(self._under_way.wait.until):
                return False
            self._under_way.advance()
        return True

    def _check(self, buffer: torch.Tensor, payload: Payload) -> None:
        shape, dtype = self._forms.setdefault(payload, (buffer.shape, buffer.dtype))
        if buffer.shape != shape or buffer.dtype != dtype or not buffer.is_contiguous():
            how = "a contiguous" if buffer.is_contiguous() else "a non-contiguous"
            raise ValueError(
                f"The channel got {how} buffer of shape {tuple(buffer.shape)} and {buffer.dtype}, but was opened for a "
                f"contiguous one of shape {tuple(shape)} and {dtype}. Open another channel for this buffer."
            )

    @property
    def stays_on_device(self) -> bool:
        """Whether `mixing` gets a buffer of an accelerator as it is, rather than its copy in host memory.

        True if it is for one of the parts, each of which is called by `mixing_in_reach`.
        """
        return any(part.stays_on_device for part in self.parts.values())

    def mixing_in_reach(self, flat: torch.Tensor, step: int, payload: Payload) -> Mixing:
        """Do what `mixing` does, in host memory where a channel can only work there.

        Parameters
        ----------
        flat : Tensor (number,)
            All members one after the other, on any device.
        step : int
            Number of the step, from 0.
        payload : {"gradient", "weights"}
            What the buffer contains.

        Returns
        -------
        Mixed
            What was done.

        Yields
        ------
        Wait
            What has to happen before the generator is continued.
        """
        is_sent = self.world.size > 1 and self.exchange.carries(payload, step)
        reached = self.in_reach_of_mpi(flat, payload) if is_sent and not self.stays_on_device else flat
        mixed = yield from self.mixing(reached, step, payload)
        if reached is not flat:
            flat.copy_(reached)
        return mixed

    def in_reach_of_mpi(self, flat: torch.Tensor, name: str) -> torch.Tensor:
        """Copy what is on an accelerator to pinned host memory, unless MPI reads the accelerator's memory itself.

        Parameters
        ----------
        flat : Tensor (number,)
            On any device.
        name : str
            Of the host memory, which is the same in every step.

        Returns
        -------
        Tensor (number,)
            The same tensor, or its copy.
        """
        if flat.device.type == "cpu" or self.world.device_buffers:
            return flat
        if name not in self._stages:
            self._stages[name] = torch.empty(flat.shape, dtype=flat.dtype, pin_memory=True)
        return self._stages[name].copy_(flat)

    @abstractmethod
    def mixing(self, flat: torch.Tensor, step: int, payload: Payload) -> Mixing:
        """Mix a flat buffer in place, as a generator that yields what it waits for.

        Parameters
        ----------
        flat : Tensor (number,)
            All members one after the other, in host memory unless MPI reads the GPU's or the channel stays on it.
        step : int
            Number of the step, from 0.
        payload : {"gradient", "weights"}
            What the buffer contains.

        Returns
        -------
        Mixed
            What was done.

        Yields
        ------
        Wait
            What has to happen before the generator is continued.
        """

    @staticmethod
    def message(flat: torch.Tensor) -> "BufSpec":
        """A flat buffer as mpi4py takes it, without a copy.

        Parameters
        ----------
        flat : Tensor (number,)
            On a GPU, all work on it is completed first.

        Returns
        -------
        ndarray or Tensor (number,)
            The same memory.
        """
        if flat.dtype == torch.bfloat16:
            flat = flat.view(torch.int16)  # MPI transports the bits only
        if flat.device.type == "cpu":
            return flat.numpy()
        torch.accelerator.current_stream(flat.device).synchronize()
        return flat

    def keep_deltas(self) -> None:
        """Keep updates of this rank that others have not received, instead of overwriting its weights.

        A chain calls this where an earlier part mixes deltas; a part that only averages has nothing to change.
        """
        for part in self.parts.values():
            part.keep_deltas()

    def state_dict(self) -> dict[str, Any]:
        """What the next exchange depends on besides its buffer; to be taken between two exchanges.

        Returns
        -------
        dict
            Nested, of tensors and numbers; empty if there is nothing.
        """
        return {name: part.state_dict() for name, part in self.parts.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume where a state was taken, in a channel that has exchanged nothing yet; on all ranks in the same step.

        Parameters
        ----------
        state : dict
            What `state_dict` returned.
        """
        for name, part in self.parts.items():
            part.load_state_dict(state.get(name, {}))

    def stand_by(self, step: int, payload: Payload) -> None:
        """Let the other ranks make an exchange without this one, which had made all its steps before a run was resumed.

        Collective, with the first exchange of the others; called for all exchanges that they have left, in their order.

        Parameters
        ----------
        step : int
            Number of the step, from 0.
        payload : {"gradient", "weights"}
            What the others exchange.
        """
        for part in self.parts.values():
            part.stand_by(step, payload)

    def close(self) -> None:
        """Free what the channel owns.  Collective; closing again does nothing."""
        for part in self.parts.values():
            part.close()

    def abandon(self) -> None:
        """Leave after an error, without waiting for other ranks."""
        for part in self.parts.values():
            part.abandon()
