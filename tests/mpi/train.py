"""Train the Gaussian problem in every mode of exchange; each rank saves its final state.

Argument: the folder for the ranks' files.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from gaussian import QUICK, Gaussian

from sagips_kit import AllReduce, Exponential, FlatGradient, Independent, OneSided, Ring, Trainer
from sagips_kit.ranks.world import World


def main(folder):
    world = World.here()
    world.timeout_s = 60.0
    events = Gaussian().observed(2000, np.random.default_rng(0))
    found = {}
    exchanges = {"Independent": Independent(), "AllReduce": AllReduce(), "Ring": Ring()}
    for name, exchange in exchanges.items():
        found |= {f"{name} short {key}": item for key, item in train(events, 30, world, exchange).items()}
        found |= {f"{name} long {key}": item for key, item in train(events, 400, world, exchange).items()}
        found[f"{name} own loop"] = own_loop(events, world, exchange)
    uneven = {"one-sided": OneSided(), "exponential": Exponential()}
    for name, exchange in uneven.items():
        found |= {f"{name} long {key}": item for key, item in train(events, 400, world, exchange).items()}
    np.savez(Path(folder, f"{world.rank}.npz"), **found)


def train(events, n_steps, world, exchange):
    with Trainer(Gaussian(), QUICK, events, n_steps=n_steps, seed=1, world=world, exchange=exchange) as trainer:
        record = trainer.run()
    return {
        "theta": record.theta,
        "draws": trainer.draws,
        "generator": flattened(trainer.gan.generator),
        "discriminator": flattened(trainer.gan.discriminator),
    }


def flattened(network):
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()]).numpy()


def own_loop(events, world, exchange):
    """A user's torch loop: least squares on this rank's share of the events; returns weight and bias."""
    share = torch.as_tensor(events[world.rank :: world.size], dtype=torch.float64)
    network = torch.nn.Linear(1, 1, dtype=torch.float64)
    torch.nn.init.zeros_(network.weight)
    torch.nn.init.zeros_(network.bias)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.3)
    flat = FlatGradient(network.parameters())
    with exchange.open(world, flat.buffer) as channel:
        for step in range(100):
            optimiser.zero_grad()
            (network(share) - share**2).square().mean().backward()
            channel.mix_(flat.pack(), step)
            flat.unpack()
            optimiser.step()
    return flattened(network)


main(sys.argv[1])
