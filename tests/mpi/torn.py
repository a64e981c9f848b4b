"""All ranks write and read slots as fast as they can; each writes down whether it ever saw half of a step.

Arguments: folder for the ranks' files, seconds.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np

from sagips_kit.slots import Slots, slot_bytes
from sagips_kit.world import World

N_ITEMS = 200_000


def main(folder, seconds):
    world = World.from_mpi(device="cpu", timeout_s=60)
    memory = world.share(slot_bytes(N_ITEMS, np.float32))
    slots = Slots(memory.of_ranks, memory.fence, world.rank, N_ITEMS, np.float32)
    seen = {"torn": 0, "reads": 0, "noticed": 0, "steps": 0}
    copy = np.empty(N_ITEMS, np.float32)
    random = np.random.default_rng(world.rank)
    end = time.perf_counter() + float(seconds)
    while time.perf_counter() < end:
        slots.publish(np.full(N_ITEMS, seen["steps"], np.float32), seen["steps"])
        seen["steps"] += 1
        for origin in random.permutation(world.size)[: 1 + world.rank % 2]:
            if slots.newest(origin) is None:
                continue
            step = slots.read(origin, lambda buffer: np.copyto(copy, buffer))
            seen["reads"] += 1
            seen["noticed"] += step is None
            seen["torn"] += step is not None and not (copy == step).all()
    memory.close()
    Path(folder, f"{world.rank}.json").write_text(json.dumps({name: int(number) for name, number in seen.items()}))


main(*sys.argv[1:])
