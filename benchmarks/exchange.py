"""Time of one exchange in each mode, and how much a slow rank delays the others.

    python benchmarks/exchange.py                 # 2, 4 and 8 ranks; writes benchmarks/results/exchange.json
    python benchmarks/exchange.py --ranks 4 --seconds 2

The script starts mpiexec itself: first with all ranks on one node, as they really are, then as if each rank were on a
separate node (TCP on the loopback device; MPICH only).  Modes take turns in short blocks, so that all of them see the
same load of the machine.  The result is the median over blocks of the slowest rank's mean time per exchange.
"""

import argparse
import json
import os
import platform
import time
from pathlib import Path

import numpy as np
import torch
from ranks import APART, start_ranks

from sagips_kit import exchange as kit
from sagips_kit.ranks.world import World

N_WEIGHTS = 51_206  # weights of the published generator
# Its layers, 6 -> 4 x 128 -> 6: weights and biases.
TENSORS = [6 * 128, 128, *[128 * 128, 128] * 3, 128 * 6, 6]
N_BLOCKS = 4  # at least; the first one is for warming up
HERE = Path(__file__).parent
ONE_SIDED = ("OneSided()", 'OneSided(payload="gradient")')

MODES = {
    "AllReduce()": kit.AllReduce(),
    "Ring()": kit.Ring(),
    **{name: eval(name, vars(kit)) for name in ONE_SIDED},
    "Within(Ring(), size=2)": kit.Within(kit.Ring(), size=2),
    "hierarchical": kit.Chain(kit.Within(kit.Ring(), size=2), kit.Leaders(kit.Ring(), size=2)),
    "Hypercube()": kit.Hypercube(),
    "Exponential()": kit.Exponential(),
}


def fused_allreduce(world, flat):
    """The reference: the MPI library's own blocking call."""
    from mpi4py import MPI

    world.comm.Allreduce(MPI.IN_PLACE, flat, op=MPI.SUM)
    flat /= world.size


def per_tensor_forwarding(world, flat):
    """The published ring, reimplemented: each tensor is sent separately and as a whole, n - 1 times around the ring."""
    before, after = (world.rank - 1) % world.size, (world.rank + 1) % world.size
    start = 0
    for n_items in TENSORS:
        tensor = flat[start : start + n_items]
        start += n_items
        total, passing, incoming = tensor.copy(), tensor.copy(), np.empty_like(tensor)
        for _ in range(world.size - 1):
            request = world.comm.Isend(passing, dest=after)
            world.comm.Recv(incoming, source=before)
            request.Wait()
            total += incoming
            passing, incoming = incoming.copy(), np.empty_like(tensor)
        tensor[:] = total / world.size


def contestants(world, flat, stack):
    """Functions of the step that do one exchange, by name."""
    found = {
        "fused MPI.Allreduce": lambda step: fused_allreduce(world, flat.numpy()[0]),
        "published: per tensor, full forwarding": lambda step: per_tensor_forwarding(world, flat.numpy()[0]),
    }
    for name, mode in MODES.items():
        channel = stack.enter_context(mode.open(world, flat))
        if mode.carries("weights", 0):
            found[name] = lambda step, channel=channel: channel.mix_weights_(flat, step)
        else:
            found[name] = lambda step, channel=channel: channel.mix_(flat, step)
    return found


def measure_costs(world, seconds):
    """Microseconds per exchange of each mode: lists over blocks, by name."""
    import contextlib

    flat = torch.zeros(1, N_WEIGHTS)
    blocks, step, end = {}, 0, time.perf_counter() + seconds
    with contextlib.ExitStack() as stack:
        modes = contestants(world, flat, stack)
        while len(blocks.get("Ring()", ())) < N_BLOCKS or world.comm.bcast(time.perf_counter() < end):
            for name, mix in modes.items():
                n_steps = 5 if "published" in name else 20
                flat.normal_()
                world.comm.Barrier()
                start = time.perf_counter()
                for _ in range(n_steps):
                    mix(step)
                    step += 1
                mine = (time.perf_counter() - start) / n_steps * 1e6
                blocks.setdefault(name, []).append(max(world.comm.allgather(mine)))
    return {name: costs[1:] for name, costs in blocks.items()}  # without the block for warming up


def measure_straggler(world, n_steps, step_s=0.02):
    """Rates of the ranks with and without one rank that is three times slower, in units of 1 / step_s."""
    rates = {}
    for name in ("Independent()", "Ring()", *ONE_SIDED):
        for slow in (False, True):
            mode, flat = eval(name, vars(kit)), torch.zeros(1, N_WEIGHTS)
            sleep_s = step_s * (3 if slow and world.rank == 1 else 1)
            with mode.open(world, flat) as channel:
                (channel.mix_weights_ if channel.wants_weights(0) else channel.mix_)(flat, 0)
                world.comm.Barrier()
                start = time.perf_counter()
                staleness = waited_s = 0
                for step in range(1, n_steps + 1):
                    time.sleep(sleep_s)
                    mix = channel.mix_weights_ if channel.wants_weights(step) else channel.mix_
                    mixed = mix(flat, step)
                    staleness, waited_s = max(staleness, mixed.staleness), waited_s + mixed.waited_s
                rate = n_steps * step_s / (time.perf_counter() - start)
            seen = world.comm.allgather({"rate": rate, "staleness": staleness, "waited_s": waited_s})
            rates.setdefault(name, {})["one slow rank" if slow else "all alike"] = seen
    return rates


def run_rank(path, seconds):
    world = World.from_mpi(device="cpu", timeout_s=60)
    blocks = measure_costs(world, seconds)
    result = {"median_us": {name: float(np.median(costs)) for name, costs in blocks.items()}}
    result["quartiles_us"] = {name: np.percentile(costs, [25, 75]).tolist() for name, costs in blocks.items()}
    result["n_blocks"] = {name: len(costs) for name, costs in blocks.items()}
    # Ratios are taken block by block, so that changes of the machine's load cancel.
    fused, published = blocks["fused MPI.Allreduce"], blocks["published: per tensor, full forwarding"]
    result["times_fused"] = {name: float(np.median(np.divide(costs, fused))) for name, costs in blocks.items()}
    result["published_over"] = {name: float(np.median(np.divide(published, costs))) for name, costs in blocks.items()}
    if world.size == 4:
        result["straggler"] = measure_straggler(world, n_steps=100)
    if world.rank == 0:
        Path(path).write_text(json.dumps(result))


def measure(n_ranks, seconds, path, env):
    start_ranks(__file__, n_ranks, "--rank", path, "--seconds", seconds, env=env)
    result = json.loads(path.read_text())
    path.unlink()
    return result


def show(title, run):
    print(f"\n{title}: microseconds, ratio to the fused Allreduce, ratio of the published ring to it")
    for name, cost in run["median_us"].items():
        print(f"  {name:46s} {cost:9.0f} {run['times_fused'][name]:8.2f} {run['published_over'][name]:8.2f}")
    for name, cases in run.get("straggler", {}).items():
        for case, ranks in cases.items():
            rates = " ".join(f"{rank['rate']:.2f}" for rank in ranks)
            print(f"  {name:46s} {case:14s} rates {rates}, staleness {max(rank['staleness'] for rank in ranks)}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4, 8], help="numbers of ranks (default: 2 4 8)")
    parser.add_argument("--seconds", type=float, default=10.0, help="for each number and placement of ranks")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "exchange.json", help="file of the results")
    parser.add_argument("--rank", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank:
        return run_rank(options.rank, options.seconds)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    facts = {"n_weights": N_WEIGHTS, "dtype": "float32", "cores": os.cpu_count(), "machine": platform.machine()}
    facts["load_before"] = os.getloadavg()[0]
    places = {"one node": {}, "a node each": APART}
    runs = {place: {} for place in places}
    for place, env in places.items():
        for n in options.ranks:
            runs[place][str(n)] = measure(n, options.seconds, options.out.with_suffix(f".{n}.tmp"), env)
            show(f"{n} ranks, {place}, {os.cpu_count()} cores", runs[place][str(n)])
    options.out.write_text(
        json.dumps(
            facts
            | {
                "load_after": os.getloadavg()[0],
                "ranks": runs["one node"],
                "ranks on a node each": runs["a node each"],
            },
            indent=1,
        )
        + "\n"
    )


if __name__ == "__main__":
    main()
