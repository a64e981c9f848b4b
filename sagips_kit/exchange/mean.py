"""What a mean over ranks carries: gradients, weights, or the updates since the last mean, with a momentum of their own.

A topology inherits `Mean` and says how the mean is formed; this file says of what.
"""

from abc import abstractmethod
from typing import Annotated, Literal

import torch
from pydantic import Field

from .._value import Positive, value
from .base import Channel, Exchange, Mixed


@value
class Mean(Exchange):
    """Base of the topologies.

    Parameters
    ----------
    payload : {"gradient", "weights", "updates"}
        "gradient" before the optimiser's step; "weights" after it; "updates": the change of the weights since the last
        exchange, whose mean is one step of an outer optimiser, Nesterov's (DiLoCo).
    momentum, outer_rate : float
        Of the outer optimiser, for "updates".  In the long run it goes outer_rate / (1 - momentum) times as far as the
        mean of the updates; much more than 1, as in DiLoCo (0.9 and 0.7), takes a GAN far away from its answer.
    precision : {"full", "bfloat16"}
        Of the numbers in messages; sums are formed in full precision.  "bfloat16" halves the bytes of float32, and
        leaves the mean with a relative error of up to 0.4 % per rounding.  Inside a node, memory needs no rounding.

    References
    ----------
    DiLoCo: arXiv 2311.08105, algorithm 1.
    """

    payload: Literal["gradient", "weights", "updates"] = "gradient"
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.5
    outer_rate: Positive = 0.5
    precision: Literal["full", "bfloat16"] = "full"

    def replicas(self, size):
        return (0,) * size

    @property
    def carried(self):
        """The payload that is meant."""
        return self.payload

    def carries(self, payload, step):
        return payload == ("gradient" if self.carried == "gradient" else "weights")


class MeanChannel(Channel):
    """A channel that forms means; a topology implements `mean`."""

    def __init__(self, exchange, world, like):
        super().__init__(exchange, world, like)
        self._start = self._velocity = None
        self._scratch = torch.empty(0)

    def mixing(self, flat, step, payload):
        if self.world.size == 1 or not self.exchange.carries(payload, step):
            return Mixed()
        mix = self._mean_update if self.exchange.carried == "updates" else self.mean
        return (yield from mix(flat, step))

    def state_dict(self):
        return {} if self._start is None else {"start": self._start, "velocity": self._velocity}

    def load_state_dict(self, state):
        if "start" in state:
            device = self.world.device if self.world.device_buffers else "cpu"
            self._start, self._velocity = (state[name].to(device, copy=True) for name in ("start", "velocity"))

    @abstractmethod
    def mean(self, flat, step):
        """Replace `flat` by the mean over the ranks of this world: a generator like `mixing`."""

    def packed(self, flat):
        """`flat` (number,) as it is sent: itself, or rounded."""
        return flat.to(torch.bfloat16) if self.exchange.precision == "bfloat16" else flat

    def scratch(self, flat):
        """Memory for what comes in, as it is sent; the same from step to step."""
        dtype = torch.bfloat16 if self.exchange.precision == "bfloat16" else flat.dtype
        if len(self._scratch) != len(flat) or self._scratch.dtype != dtype:
            self._scratch = torch.empty(len(flat), dtype=dtype, device=flat.device)
        return self._scratch

    def _mean_update(self, flat, step):
        if self._start is None:  # the first outer step has no start in common yet, and makes one
            own = flat.clone()
            mixed = yield from self.mean(flat, step)
            self._start, self._velocity = torch.where(flat.isfinite(), flat, own), torch.zeros_like(flat)
            return mixed
        momentum, rate = self.exchange.momentum, self.exchange.outer_rate
        flat -= self._start
        mixed = yield from self.mean(flat, step)
        # What is not finite is told to the trainer, and not kept: it would stay.
        is_bad = ~flat.isfinite()
        flat[is_bad] = 0.0
        self._velocity *= momentum
        self._velocity += flat
        self._start += rate * (flat + momentum * self._velocity)
        flat[:] = self._start
        flat[is_bad] = torch.nan
        return mixed
