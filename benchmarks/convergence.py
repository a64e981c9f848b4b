"""Whether each mode of exchange that shares generators finds the answer that a synchronous all-reduce finds.

    python benchmarks/convergence.py              # 4 ranks, 5 seeds; JSON and a figure in benchmarks/results
    python benchmarks/convergence.py --seeds 1 --steps 300

All runs train on the same number of events.  The distance from the maximum-likelihood estimate of the same observed
events is given in floor units (standard deviations of that estimate) as the root mean square over the parameters.  The
script starts mpiexec itself.  Runs that are already in the JSON file, with the same settings, are not repeated.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from ranks import start_ranks

from sagips_kit import Proxy, Settings, Trainer, World, fit_likelihood
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

HERE = Path(__file__).parent
N_RANKS, GROUP, PERIOD = 4, 2, 50
_INNER, _ONE_SIDED = Within(Ring(), size=GROUP), Within(OneSided(), size=GROUP)

MODES = {
    "synchronous": AllReduce(),
    "ring": Ring(),
    "one-sided": OneSided(),
    "one-sided gradients": OneSided(payload="gradient"),
    "hypercube": Hypercube(),
    "hypercube, bfloat16": Hypercube(precision="bfloat16"),
    "exponential": Exponential(),
    "grouped": Chain(_INNER, Every(PERIOD, Leaders(Ring(payload="weights"), size=GROUP))),
    "grouped, outer momentum": Chain(_INNER, Every(PERIOD, Leaders(Ring(payload="updates"), size=GROUP))),
    "one-sided, grouped": Chain(_ONE_SIDED, Every(PERIOD, Leaders(Ring(payload="weights"), size=GROUP))),
    "one-sided throughout": Chain(_ONE_SIDED, Every(PERIOD, Leaders(OneSided(), size=GROUP))),
    "the paper's outer rule": Every(PERIOD, Leaders(Ring(), size=GROUP, hand_down=False), otherwise=_INNER),
    "grouped ensemble": _INNER,
    "ensemble": Independent(),
}


def train(world, exchange, events, n_steps, seed, **options):
    """Train, and return the mean over the chains, (parameter,).  Options are fields of the settings."""
    settings = Settings(n_members=1, bootstrap=False, **options)
    with Trainer(Proxy(), settings, events, n_steps=n_steps, seed=seed, world=world, exchange=exchange) as trainer:
        trainer.run()
    replicas = [exchange.replica(rank, world.size) for rank in range(world.size)]
    chains = dict(zip(reversed(replicas), reversed(world.comm.allgather(trainer.draws.mean((0, 1)))), strict=True))
    return np.mean(list(chains.values()), axis=0)


def run_rank(path, n_steps, n_seeds):
    world, result = World.from_mpi(device="cpu"), json.loads(Path(path).read_text())
    for seed in range(n_seeds):
        events = Proxy().observed(None, np.random.default_rng(1000 + seed))
        fit = fit_likelihood(Proxy(), events) if world.rank == 0 else None
        world.barrier("the likelihood fit")
        for name, exchange in MODES.items():
            key = f"{name}, seed {seed}"
            if key in result["distances"]:
                continue
            estimate = train(world, exchange, events, n_steps, seed)
            if world.rank == 0:
                distances = (estimate - fit.theta) / fit.deviation
                result["distances"][key] = distances.tolist()
                write(path, result)
                print(f"{key:36s} {np.sqrt(np.square(distances).mean()):.2f}", flush=True)


def write(path, result):
    Path(path).write_text(json.dumps(result, indent=1) + "\n")


def summary(done, n_seeds):
    """For each mode, the root mean square over parameters for each seed, and the median and mean over seeds."""
    table = {}
    for name in MODES:
        distances = np.array([done[f"{name}, seed {seed}"] for seed in range(n_seeds)])
        rms = np.sqrt(np.square(distances).mean(-1))
        table[name] = {"rms": rms.tolist(), "median": float(np.median(rms)), "mean": float(rms.mean())}
    return table


def draw(table, path):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(8, 4.6), layout="constrained")
    for row, (name, numbers) in enumerate(table.items()):
        ax.plot(numbers["rms"], [row] * len(numbers["rms"]), "o", color="0.6", mfc="none")
        ax.plot(numbers["median"], row, "|", color="#1b6ca8", ms=16, mew=3)
    ax.axvline(table["synchronous"]["median"], color="0.3", lw=0.8, ls="--")
    ax.set(yticks=range(len(table)), yticklabels=table, xlabel="distance to the likelihood fit (floor units, rms)")
    ax.set_xscale("log")
    left, right = ax.get_xlim()
    ax.axvspan(left, 1, color="0.95", zorder=0)
    ax.set_xlim(left, 1.3 * right)
    ax.invert_yaxis()
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2000, help="steps of each run (default: 2000)")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds (default: 5)")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "convergence.json", help="file of the results")
    parser.add_argument("--rank", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank:
        return run_rank(options.rank, options.steps, options.seeds)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    facts = {"ranks": N_RANKS, "group": GROUP, "period": PERIOD, "steps": options.steps}
    facts |= {"modes": {name: repr(exchange) for name, exchange in MODES.items()}}
    result = json.loads(options.out.read_text()) if options.out.exists() else {}
    if any(result.get(name) != fact for name, fact in facts.items()):
        write(options.out, facts | {"distances": {}})
    start_ranks(__file__, N_RANKS, "--rank", options.out, "--steps", options.steps, "--seeds", options.seeds)
    result = json.loads(options.out.read_text())
    result["summary"] = summary(result["distances"], options.seeds)
    for name, numbers in result["summary"].items():
        print(f"{name:26s} median {numbers['median']:.2f}  all", *(f"{rms:.2f}" for rms in numbers["rms"]))
    write(options.out, result)
    draw(result["summary"], options.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
