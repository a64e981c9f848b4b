"""Each rank asks for device buffers, and prints what it is told.  Argument: the device."""

import sys

from sagips_kit.world import World

try:
    world = World.from_mpi(device=sys.argv[1], device_buffers=True)
    print(f"rank {world.rank} has them", flush=True)
except ValueError as error:
    print(error, flush=True)
