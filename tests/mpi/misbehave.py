"""Rank 1 misbehaves in an exchange, and every rank records what it saw.

Arguments: the folder for the ranks' files; the exchange; "raise", "stall" or "pause"; the number of weights.
"""

import json
import sys
import time
from pathlib import Path

import torch

from sagips_kit import exchange
from sagips_kit.ranks.world import World


def main(folder, name, how, n_weights):
    world = World.from_mpi(timeout_s=1.5 if how == "stall" else 60)
    buffer = torch.ones(1, int(n_weights))
    seen = {"error": None, "steps": 0}
    try:
        with eval(name, vars(exchange)).open(world, buffer) as channel:
            for step in range(6):
                start = time.perf_counter()
                if step == 3 and world.rank == 1:
                    misbehave(how)
                channel.mix_(buffer, step)
                seen["steps"] += 1
            seen["seconds"] = time.perf_counter() - start
    except (RuntimeError, ValueError) as error:
        world.announce_failure(error)
        seen |= {"error": type(error).__name__, "rank": getattr(error, "rank", None), "text": str(error)}
        seen["seconds"] = time.perf_counter() - start
    Path(folder, f"{world.rank}.json").write_text(json.dumps(seen))


def misbehave(how):
    if how == "raise":
        raise ValueError("no such magnet")
    time.sleep(4)


main(*sys.argv[1:])
