"""What a mean over ranks is formed of: gradients, weights, or updates since the last mean with an outer momentum.

A topology inherits `Mean` and `MeanChannel` and implements how the mean is formed.
"""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from .._value import Positive, value
from ..ranks.world import World
from .base import Exchange
from .channel import Channel
from .mixing import Mixed, Mixing, Payload


@value
class Mean(Exchange):
    """Base of the topologies that form a mean over all ranks.

    Parameters
    ----------
    payload : {"gradient", "weights", "updates"}
        What is averaged: gradients before the optimiser's step, weights after it, or the updates of the weights since
        the last exchange.  The mean update is not applied as it is, but by an outer optimiser, Nesterov's, which has a
        momentum (DiLoCo).
    momentum : float
        Momentum of the outer optimiser, from 0 to below 1; for updates only.
    outer_rate : float
        Learning rate of the outer optimiser; for updates only.
    precision : {"full", "bfloat16"}
        Floating-point precision of the numbers in messages.
    """

    payload: Literal["gradient", "weights", "updates"] = "gradient"
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.5
    outer_rate: Positive = 0.5
    precision: Literal["full", "bfloat16"] = "full"

    def __post_init__(self) -> None:
        if self.payload != "updates" and (self.momentum, self.outer_rate) != (Mean.momentum, Mean.outer_rate):
            raise ValueError(
                f"momentum = {self.momentum} and outer_rate = {self.outer_rate} belong to the outer optimiser, which "
                f'payload = "{self.payload}" does not have. Leave them out, or write payload="updates".'
            )

    def replicas(self, size: int) -> tuple[int, ...]:
        return (0,) * size

    def carries(self, payload: Payload, step: int) -> bool:
        return payload == ("gradient" if self.payload == "gradient" else "weights")


@dataclass(eq=False)
class _OuterOptimiser:
    """Nesterov's momentum for the mean updates of all ranks, the same on all of them.

    Parameters
    ----------
    start : Tensor (number,)
        Weights after the last exchange.
    velocity : Tensor (number,)
        Sum of all mean updates, damped by the momentum.

    References
    ----------
    DiLoCo: arXiv 2311.08105, algorithm 1.
    """

    start: torch.Tensor
    velocity: torch.Tensor

    def step(self, update: torch.Tensor, momentum: float, rate: float) -> None:
        self.velocity *= momentum
        self.velocity += update
        self.start += rate * (update + momentum * self.velocity)


class MeanChannel(Channel):
    """A channel that forms means; a topology implements `mean`."""

    exchange: Mean

    def __init__(self, exchange: Mean, world: World, like: torch.Tensor) -> None:
        super().__init__(exchange, world, like)
        self._outer: _OuterOptimiser | None = None
        self._scratch = torch.empty(0)

    def mixing(self, flat: torch.Tensor, step: int, payload: Payload) -> Mixing:
        if self.world.size == 1 or not self.exchange.carries(payload, step):
            return Mixed()
        mix = self._mean_update if self.exchange.payload == "updates" else self.mean
        return (yield from mix(flat, step))

    def state_dict(self) -> dict[str, Any]:
        return {} if self._outer is None else {"start": self._outer.start, "velocity": self._outer.velocity}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if "start" in state:
            device = self.world.device if self.world.device_buffers or self.stays_on_device else "cpu"
            self._outer = _OuterOptimiser(*(state[name].to(device, copy=True) for name in ("start", "velocity")))

    @abstractmethod
    def mean(self, flat: torch.Tensor, step: int) -> Mixing:
        """Replace `flat` (number,) by its mean over the ranks of this world: a generator like `mixing`."""

    def packed(self, flat: torch.Tensor) -> torch.Tensor:
        """`flat` (number,) as it is sent: itself, or rounded."""
        return flat.to(torch.bfloat16) if self.exchange.precision == "bfloat16" else flat

    def scratch(self, flat: torch.Tensor) -> torch.Tensor:
        """Memory for received numbers (number,), in the precision of messages; the same in every step."""
        dtype = torch.bfloat16 if self.exchange.precision == "bfloat16" else flat.dtype
        if len(self._scratch) != len(flat) or self._scratch.dtype != dtype:
            self._scratch = torch.empty(len(flat), dtype=dtype, device=flat.device)
        return self._scratch

    def _mean_update(self, flat: torch.Tensor, step: int) -> Mixing:
        if (outer := self._outer) is None:  # there is no common start before the first exchange, which makes one
            own = flat.clone()
            mixed = yield from self.mean(flat, step)
            self._outer = _OuterOptimiser(torch.where(flat.isfinite(), flat, own), torch.zeros_like(flat))
            return mixed
        flat -= outer.start
        mixed = yield from self.mean(flat, step)
        # NaN and infinity are reported to the trainer, but must not enter the outer optimiser, which would keep them.
        is_bad = ~flat.isfinite()
        flat[is_bad] = 0.0
        outer.step(flat, self.exchange.momentum, self.exchange.outer_rate)
        flat[:] = outer.start
        flat[is_bad] = torch.nan
        return mixed
