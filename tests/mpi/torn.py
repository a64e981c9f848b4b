"""All ranks write and read slots as fast as they can; each records whether it ever read parts of different steps.

Arguments: the folder for the ranks' files; seconds; "shared" or "remote" memory.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np

from sagips_kit.ranks.mailboxes import RemoteSlots, SharedSlots, slot_bytes
from sagips_kit.ranks.world import World

N_ITEMS = 200_000


def main(folder, seconds, kind):
    world = World.from_mpi(device="cpu", timeout_s=60)
    memory = (world.share if kind == "shared" else world.expose)(slot_bytes(N_ITEMS, np.float32))
    slots = (SharedSlots if kind == "shared" else RemoteSlots)(memory, world.rank, world.size, N_ITEMS, np.float32)
    seen = {"torn": 0, "reads": 0, "noticed": 0, "steps": 0, "newest": 0}
    copy = np.empty(N_ITEMS, np.float32)
    random = np.random.default_rng(world.rank)
    end = time.perf_counter() + float(seconds)
    while time.perf_counter() < end:
        slots.publish(np.full(N_ITEMS, seen["steps"], np.float32), seen["steps"])
        seen["steps"] += 1
        slots.look()
        for origin in random.permutation(world.size)[: 1 + world.rank % 2]:
            if slots.newest(origin) is None:
                continue
            step = slots.read(origin, lambda buffer: np.copyto(copy, buffer))
            seen["reads"] += 1
            seen["noticed"] += step is None
            seen["torn"] += step is not None and not (copy == step).all()
            seen["newest"] = max(seen["newest"], step or 0)
    world.wait(slots.requests(), "the last copies of other ranks' slots")
    memory.close()
    Path(folder, f"{world.rank}.json").write_text(json.dumps({name: int(number) for name, number in seen.items()}))


main(*sys.argv[1:])
