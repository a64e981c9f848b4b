"""Two ranks sum on their devices, then by MPI, and print what they have, or why they are refused.

Argument: the type of device.
"""

import sys

import torch

from sagips_kit.exchange import AllReduce, Chain, Ring
from sagips_kit.ranks.world import World

world = World.from_mpi(device="cpu" if sys.argv[1] == "cpu" else None)
buffer = torch.full((2, 50_000), float(world.rank), device=world.device)
try:
    with Chain(AllReduce(library="torch"), Ring()).open(world, buffer) as channel:
        channel.mix_(buffer, 0)
    print(f"rank {world.rank} has {buffer.unique().tolist()} on {buffer.device.type}")
except ValueError as error:
    print(error)
