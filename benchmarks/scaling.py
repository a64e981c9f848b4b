"""Weak scaling of the real exchange and store: steps per second of each rank, as the number of ranks grows.

    python benchmarks/scaling.py                  # 1 to 64 ranks, half an hour; writes benchmarks/results/scaling.json
    python benchmarks/scaling.py --ranks 2 4 --steps 40 --period 20 --rounds 1 --out /tmp/scaling.json

The script starts mpiexec itself.  The compute of a GPU is emulated by sleeping, so that many ranks fit on few cores: a
step takes a given time, with jitter.  Everything else is real: channels, messages, shared memory, and rows of the
history in a store.  As in training, the exchange starts after the generator's part of a step and is finished after the
discriminator's part; on a GPU, the host only launches the discriminator's part and polls the exchange in the meantime.

The result is the mean rate of the ranks divided by the rate of a single rank that works in the same processes while the
others sleep.  `cores_busy` is the fraction of the machine's cores in use.  As it approaches 1, the ranks compete for
cores that they would not share on a real cluster, and the result is a lower bound.
"""

import argparse
import contextlib
import json
import os
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from ranks import start_ranks
from simulate import Compute

from sagips_kit.exchange import AllReduce, Chain, Every, Independent, Leaders, OneSided, Ring, Within
from sagips_kit.problems import Proxy
from sagips_kit.ranks.world import World
from sagips_kit.store.create import create_run
from sagips_kit.store.layout import RunLayout
from sagips_kit.store.writer import RunWriter
from sagips_kit.training.settings import Settings

N_WEIGHTS = 51_206  # weights of the published generator
N_BARE = 20  # consecutive exchanges without compute, to measure their cost
ROWS = {name: getattr(Settings(), name) for name in ("record_every", "rows_per_block")}  # as in training
HERE = Path(__file__).parent


def usual_modes(size, period):
    """The modes to compare, with groups of `size` and an outer exchange every `period` steps: name -> Exchange."""
    outer = Every(period, Leaders(Ring(payload="weights"), size=size))
    one_sided = Within(OneSided(), size=size)
    return {
        "independent": Independent(),
        "grouped, one-sided": Chain(one_sided, outer),
        "grouped, one-sided throughout": Chain(one_sided, Every(period, Leaders(OneSided(), size=size))),
        "grouped": Chain(Within(Ring(), size=size), outer),
        "one-sided ring": OneSided(),
        "ring": Ring(),
        "synchronous": AllReduce(),
    }


class Pen:
    """Writes what the trainer's loop would write: rows of the history, one block at a time."""

    def __init__(self, path, rank):
        self._writer = RunWriter(path, rank)
        self._n_rows = self._n_waiting = 0

    def step(self, step):
        """Count a step (from 1), and write a block when the step completes it."""
        self._n_waiting += step % ROWS["record_every"] == 0
        if self._n_waiting < ROWS["rows_per_block"]:
            return
        n = self._n_waiting
        rows = {"theta": np.ones((1, n, 6)), "loss_discriminator": np.ones((1, n)), "loss_generator": np.ones((1, n))}
        rows |= {name: np.ones(n) for name in ("waited_s", "elapsed_s", "staleness", "rejected")}
        self._writer.write_rows(self._n_rows, rows)
        self._writer.set_progress(step)
        self._n_rows, self._n_waiting = self._n_rows + self._n_waiting, 0

    def close(self):
        self._writer.close()


def take_step(channel, buffer, step, work_s, compute):
    """Take one step as the trainer does, with sleep in place of compute; returns Mixed."""
    time.sleep((1 - compute.overlap) * work_s)
    channel.start(buffer, step)
    channel.poll()
    for _ in range(compute.n_polls):
        time.sleep(compute.overlap * work_s / compute.n_polls)
        channel.poll()
    mixed = channel.finish()
    if channel.wants_weights(step):
        mixed = mixed.then(channel.mix_weights_(buffer, step))
    return mixed


def train(channel, buffer, works_s, first_step, compute, pen):
    """Take steps of these lengths, and return their rate, waiting, staleness and CPU time: dict of floats."""
    started, cpu_s, waited_s, staleness = time.perf_counter(), time.process_time(), 0.0, []
    for k, work_s in enumerate(works_s):
        mixed = take_step(channel, buffer, first_step + k, work_s, compute)
        pen.step(k + 1)
        waited_s += mixed.waited_s
        staleness.append(mixed.staleness)
    elapsed_s = time.perf_counter() - started
    return {
        "rate": len(works_s) / elapsed_s,
        "waited_s": waited_s / len(works_s),
        "staleness": float(np.mean(staleness)),
        "staleness_max": max(staleness),
        "cpu_s": (time.process_time() - cpu_s) / len(works_s),
    }


def bare_cost(world, channel, buffer, steps):
    """Time of each exchange in these steps without compute in between: wall time of the slowest rank, and CPU time."""
    no_compute, walls_s = Compute(step_s=0.0), []
    world.barrier()
    cpu_s = time.process_time()
    for step in steps:
        started = time.perf_counter()
        take_step(channel, buffer, step, 0.0, no_compute)
        walls_s.append(time.perf_counter() - started)
    cpu_s = (time.process_time() - cpu_s) / len(steps)
    # The median, because a single pause of the machine can take as long as all exchanges together.
    seen = np.array(world.comm.allgather((np.median(walls_s), cpu_s)))
    return {"wall_s": float(seen[:, 0].max()), "cpu_s": float(seen[:, 1].mean())}


def measure_alone(world, compute, n_steps, path):
    """Rate of rank 0 while the others sleep, without jitter, which would not change the mean."""
    world.barrier()
    rate = None
    if world.rank == 0:
        with contextlib.closing(Pen(path, 0)) as pen, Independent().open(world, torch.zeros(1, N_WEIGHTS)) as channel:
            works_s = np.full(n_steps, compute.step_s)
            rate = train(channel, torch.zeros(1, N_WEIGHTS), works_s, 0, compute, pen)["rate"]
    else:
        time.sleep(1.02 * n_steps * compute.step_s)  # not in a barrier, which would poll
    return world.comm.bcast(rate)


def measure_mode(world, mode, compute, n_steps, period, path, rng):
    """Measure one mode on all ranks: rates and waits of the ranks, and the cost of the exchanges alone."""
    buffer = torch.randn(1, N_WEIGHTS)
    with contextlib.closing(Pen(path, world.rank)) as pen, mode.open(world, buffer) as channel:
        # The first exchange of each kind allocates memory.
        for step in (0, period - 1):
            take_step(channel, buffer, step, 0.0, compute)
        usual = [step for step in range(period, period + 2 * N_BARE) if (step + 1) % period][:N_BARE]
        bare = {"usual": bare_cost(world, channel, buffer, usual)}
        bare["outer"] = bare_cost(world, channel, buffer, [(N_BARE + k) * period - 1 for k in range(N_BARE // 4)])
        first_step = 2 * N_BARE * period
        # All ranks should have seen steps of these numbers before staleness is measured.
        for step in range(first_step - 3, first_step):
            take_step(channel, buffer, step, compute.step_s, compute)
        world.barrier()
        seen = train(channel, buffer, compute.draw(rng, n_steps), first_step, compute, pen)
    return {"ranks": world.comm.allgather(seen), "bare": bare}


def run_rank(options):
    """Measure all modes in turn, in several rounds, so that all of them see the same load of the machine."""
    world = World.from_mpi(device="cpu", timeout_s=120)
    compute = Compute(
        options.step_ms / 1e3, options.jitter, options.pauses, overlap=options.overlap, n_polls=options.polls
    )
    rng = np.random.default_rng([options.seed, world.size, world.rank])
    modes = usual_modes(options.size, options.period)
    modes = {name: modes[name] for name in options.modes}
    rounds = {"alone": [], **{name: [] for name in modes}}
    with tempfile.TemporaryDirectory() as own:
        folder = world.comm.bcast(own)
        for turn in range(options.rounds):
            rounds["alone"].append(
                measure_alone(world, compute, options.steps, store_in(folder, f"{turn}", world, options))
            )
            for index, (name, mode) in enumerate(modes.items()):
                path = store_in(folder, f"{turn}-{index}", world, options)
                rounds[name].append(measure_mode(world, mode, compute, options.steps, options.period, path, rng))
        world.barrier()
    if world.rank == 0:
        Path(options.rank).write_text(json.dumps(summary(rounds, compute)))


def store_in(folder, name, world, options):
    """Let rank 0 create an empty store; returns its path.  Collective."""
    path = Path(folder) / f"{name}.zarr"
    with world.rank_0_first("rank 0 to create the store"):
        if world.rank == 0:
            n = world.size
            layout = RunLayout(
                n_ranks=n, n_replicas=n, n_members=1, n_steps=options.steps, n_draws=1, n_predictive=1, **ROWS
            )
            problem = Proxy()
            create_run(path, problem, layout, spec={}, events=problem.observed(100, np.random.default_rng(0)))
    return path


def summary(rounds, compute):
    """Rates relative to a single rank, and means of the rest over rounds and ranks: name -> dict."""
    alone = rounds.pop("alone")
    result = {"alone": {"rate_hz": float(np.mean(alone)), "rounds_hz": alone}}
    for name, runs in rounds.items():
        seen = [run["ranks"] for run in runs]
        column = {key: np.array([[rank[key] for rank in ranks] for ranks in seen]) for key in seen[0][0]}
        relative = column["rate"].mean(1) / alone
        busy = column["cpu_s"].sum(1) * column["rate"].mean(1) / os.cpu_count()
        result[name] = {
            "rate": float(relative.mean()),
            "rounds": relative.tolist(),
            "slowest": float((column["rate"].min(1) / alone).mean()),
            "waited": float(column["waited_s"].mean() / compute.step_s),
            "staleness": float(column["staleness"].mean()),
            "staleness_max": int(column["staleness_max"].max()),
            "cores_busy": float(busy.mean()),
            "bare": {
                kind: {key: float(np.median([run["bare"][kind][key] for run in runs])) for key in costs}
                for kind, costs in runs[0]["bare"].items()
            },
        }
    return result


def show(n, result):
    print(f"\n{n} ranks: rate per rank / rate of a single rank ({result['alone']['rate_hz']:.2f} steps/s)")
    print("    rate  slowest  waited  staleness  cores busy  exchange (ms)  outer (ms)")
    for name, found in result.items():
        if name != "alone":
            bare = [1e3 * found["bare"][kind]["wall_s"] for kind in ("usual", "outer")]
            numbers = "{rate:8.3f} {slowest:8.3f} {waited:7.3f} {staleness:10.1f} {cores_busy:11.2f}".format(**found)
            print(f"{numbers} {bare[0]:14.2f} {bare[1]:11.2f}  {name}", flush=True)


def parsed():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64], help="numbers of ranks")
    parser.add_argument("--modes", nargs="+", choices=usual_modes(1, 1), default=[*usual_modes(1, 1)])
    parser.add_argument("--step-ms", type=float, default=50.0, help="mean length of a step, in ms")
    parser.add_argument("--jitter", type=float, default=0.1, help="standard deviation of a step, in mean steps")
    parser.add_argument("--pauses", type=float, default=0.0, help="fraction of steps that last 5 mean steps longer")
    parser.add_argument("--overlap", type=float, default=0.4, help="fraction of a step that hides the exchange")
    parser.add_argument("--polls", type=int, default=8, help="polls of the exchange in that part; 1 on a CPU")
    parser.add_argument("--steps", type=int, default=200, help="per mode and round, a multiple of the period")
    parser.add_argument("--rounds", type=int, default=2, help="rounds over all modes")
    parser.add_argument("--size", type=int, default=4, help="ranks in a group")
    parser.add_argument("--period", type=int, default=100, help="steps between outer exchanges")
    parser.add_argument("--seed", type=int, default=0, help="seed of the jitter")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "scaling.json", help="file of the results")
    parser.add_argument("--rank", help=argparse.SUPPRESS)
    return parser.parse_args()


def main():
    options = parsed()
    if options.rank:
        return run_rank(options)
    given = {name: option for name, option in vars(options).items() if name not in ("ranks", "out", "rank")}
    flags = []
    for name, option in given.items():
        flags += [f"--{name.replace('_', '-')}", *(option if isinstance(option, list) else [option])]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    facts = {"n_weights": N_WEIGHTS, "cores": os.cpu_count(), "machine": platform.machine(), "options": given}
    facts["load_before"] = os.getloadavg()[0]
    runs, part = {}, options.out.with_suffix(".tmp")
    for n in options.ranks:
        start_ranks(__file__, n, "--rank", part, *flags)
        runs[str(n)] = json.loads(part.read_text())
        part.unlink()
        show(n, runs[str(n)])
        # Write after each size, so that an interruption loses nothing that was measured.
        options.out.write_text(json.dumps(facts | {"load_after": os.getloadavg()[0], "ranks": runs}, indent=1) + "\n")


if __name__ == "__main__":
    main()
