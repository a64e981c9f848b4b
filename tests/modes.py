"""All modes of exchange, each with its expected effect on the buffers of all ranks."""

import os

import torch

from sagips_kit.exchange import (
    AllReduce,
    Chain,
    Every,
    Exponential,
    Hypercube,
    Independent,
    Leaders,
    OneSided,
    Ring,
    Within,
)


def nothing(buffers, step):
    return buffers


def mean(buffers, step):
    return [(sum(buffers[1:], buffers[0].double()) / len(buffers)).to(buffers[0].dtype)] * len(buffers)


def first(buffers, step):
    return buffers[:1] * len(buffers)


def peers(buffers, step):
    if len(buffers) == 1:
        return buffers
    n_turns = len([k for k in range(10) if 2**k < len(buffers)])
    away = 2 ** (step % n_turns)
    return [(buffers[rank] + buffers[rank - away]) / 2 for rank in range(len(buffers))]


def cut(items, size):
    return [items[k : k + size] for k in range(0, len(items), size)]


def within(part, size):
    return lambda buffers, step: [out for group in cut(buffers, size) for out in part(group, step)]


def leaders(part, size, hand_down=True):
    def play(buffers, step):
        outer = part(buffers[::size], step)
        if hand_down:
            return [outer[rank // size] for rank in range(len(buffers))]
        return [buffers[rank] if rank % size else outer[rank // size] for rank in range(len(buffers))]

    return play


def every(period, part, otherwise=nothing):
    return lambda buffers, step: (otherwise if (step + 1) % period else part)(buffers, step)


def chain(*parts):
    def play(buffers, step):
        for part in parts:
            buffers = part(buffers, step)
        return buffers

    return play


_WEIGHTS = Ring(payload="weights")
APART = os.environ.get("MPIR_CVAR_NOLOCAL") == "1"  # MPICH treats each rank as a separate node

# name: exchange, what happens to gradients, what happens to weights
MODES = {
    "independent": (Independent(), nothing, nothing),
    "all-reduce": (AllReduce(), mean, nothing),
    "ring": (Ring(), mean, nothing),
    "weights": (AllReduce(payload="weights"), nothing, mean),
    "grouped ensemble": (Within(Ring(), size=2), within(mean, 2), nothing),
    "grouped": (
        Chain(Within(Ring(), size=2), Every(3, Leaders(_WEIGHTS, size=2))),
        within(mean, 2),
        every(3, leaders(mean, 2)),
    ),
    "hierarchical": (
        Chain(Within(AllReduce(), size=2), Leaders(Ring(), size=2)),
        chain(within(mean, 2), leaders(mean, 2)),
        nothing,
    ),
    "the paper's outer rule": (
        Every(3, Leaders(Ring(), size=2, hand_down=False), otherwise=Within(Ring(), size=2)),
        every(3, leaders(mean, 2, hand_down=False), within(mean, 2)),
        nothing,
    ),
    "one-sided": (OneSided(), nothing, mean),
    "one-sided, waiting": (OneSided(max_staleness=0, beyond="wait"), nothing, mean),
    "one-sided gradients": (OneSided(payload="gradient"), mean, nothing),
    "one-sided, grouped": (
        Chain(
            Within(OneSided(payload="gradient", max_staleness=5), size=2),
            Every(3, Leaders(Ring(payload="updates", momentum=0.5), size=2)),
        ),
        within(mean, 2),
        nothing,
    ),
    "hypercube": (Hypercube(), mean, nothing),
    "on devices": (AllReduce(library="torch"), mean, nothing),
    "on devices, grouped": (
        Chain(
            Within(AllReduce(library="torch"), size=2),
            Leaders(AllReduce(library="torch"), size=2),
            Every(3, Leaders(_WEIGHTS, size=2)),
        ),
        chain(within(mean, 2), leaders(mean, 2)),
        every(3, leaders(mean, 2)),
    ),
    "exponential": (Exponential(), nothing, peers),
    "by node": (
        Chain(Within(Ring()), Every(2, Leaders(_WEIGHTS))),
        nothing if APART else mean,
        every(2, mean if APART else first),
    ),
    "ring, rounded": (Ring(precision="bfloat16"), mean, nothing),
    "hypercube, rounded": (Hypercube(precision="bfloat16"), mean, nothing),
}


def rounding(name):
    """Largest relative error from the rounding of messages."""
    return 0.02 if "rounded" in name else 0.0


def numbers(rank, shape, dtype, step=0):
    """Integers, whose sums are exact, and which differ for each rank, member, element and step."""
    n_weights = shape[0] * shape[1]
    return (10_000 * (rank + 1) ** 2 + 7 * torch.arange(n_weights) + 1000 * step).to(dtype).view(shape)
