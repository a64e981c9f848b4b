"""Each rank requests device buffers and prints the result.  Argument: the device."""

import sys

from sagips_kit.ranks.world import World

try:
    world = World.from_mpi(device=sys.argv[1], device_buffers=True)
    answer = f"rank {world.rank} has them"
except ValueError as error:
    answer = str(error)
# In one piece, so that output of other ranks does not break the line.
sys.stdout.write(answer + "\n")
