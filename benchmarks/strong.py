"""Strong scaling: how many steps a run needs to approach the statistical floor, as the number of ranks grows.

    python benchmarks/strong.py                # 1, 2, 4 and 8 ranks; writes benchmarks/results/strong.json and a figure
    python benchmarks/strong.py --ranks 1 2 --steps 20 40 --data 1 --seeds 2 --out /tmp/strong.json

All runs have the same observed events, and their ranks exchange gradients on a ring.  With *a batch for each rank*,
twice as many ranks generate twice as many events in a step, which twice as many discriminators judge.  With *one batch
for all*, the events of a step are divided among the ranks, so that a step takes each rank only a fraction of the time.

Schedules depend on the length of a run, so the answer after fewer steps comes from a shorter run, not from the first
part of a long run.  Distances are measured from the maximum-likelihood estimate of the same events to the estimate of
the run, in floor units, as the root mean square over parameters, data sets and seeds.  Several seeds on the same events
separate the distance into two parts: *bias*, which would remain in the mean over many seeds, and *noise*, which differs
from seed to seed.

The ranks are real but share the cores of this machine, so time is emulated instead of measured: a step takes
`--step-ms` with a whole batch and proportionally less with a part of it, and exchanges are hidden behind it
(`scaling.py` measures to what extent they are).  The script starts mpiexec itself.  Runs that are already in the JSON
file, with the same settings, are not repeated.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from convergence import train, write
from ranks import start_ranks

from sagips_kit import Proxy, Ring, World, fit_likelihood

HERE = Path(__file__).parent
BATCH, N_SETS = 1024, 4  # events and parameter vectors of a step; the vectors are never divided among ranks
EACH, SHARED = "a batch for each rank", "one batch for all"
GOALS = (1.0, 0.5, 0.3)  # floor units


def batch_of_a_rank(kind, n):
    """Events that each of `n` ranks generates in a step."""
    return BATCH if kind == EACH else BATCH // n


def key(kind, n, n_steps, data, seed):
    # With a single rank, both kinds are the same.
    return f"{kind if n > 1 else EACH}, {n} ranks, {n_steps} steps, data {data}, seed {seed}"


def run_rank(options):
    """Train all missing runs with this number of ranks."""
    world, result = World.from_mpi(device="cpu"), json.loads(options.out.read_text())
    done = result["distances"]
    for data in range(options.data):
        events = Proxy().observed(None, np.random.default_rng(1000 + data))
        with world.rank_0_first("the likelihood fit"):
            fit = fit_likelihood(Proxy(), events) if world.rank == 0 else None
        kinds = [EACH, SHARED] if world.size > 1 else [EACH]
        for seed, n_steps, kind in np.ndindex(options.seeds, len(options.steps), len(kinds)):
            name = key(kinds[kind], world.size, options.steps[n_steps], data, seed)
            if name in done:
                continue
            settings = {"n_events": batch_of_a_rank(kinds[kind], world.size), "n_sets": N_SETS}
            estimate = train(world, Ring(), events, options.steps[n_steps], seed, **settings)
            done[name] = None  # on all ranks, because all must agree on which runs are missing
            if world.rank == 0:
                done[name] = ((estimate - fit.theta) / fit.deviation).tolist()
                write(options.out, result)
                print(f"{name:64s} {rms(done[name]):.2f}", flush=True)


def rms(numbers):
    return float(np.sqrt(np.mean(np.square(numbers))))


def summary(done, options):
    """The approach to the floor for each kind of batch and number of ranks: kind -> ranks -> dict."""
    return {kind: {str(n): way_to_the_floor(done, kind, n, options) for n in options.ranks} for kind in (EACH, SHARED)}


def way_to_the_floor(done, kind, n, options):
    """Distances by the length of the runs, and the cost of reaching each goal."""
    batch = batch_of_a_rank(kind, n)
    rows = []
    for n_steps in options.steps:
        found = [[done[key(kind, n, n_steps, k, s)] for s in range(options.seeds)] for k in range(options.data)]
        rows.append({"steps": n_steps, **parts_of_the_distance(np.array(found))})
    steps_to = {goal: steps_until(rows, goal) for goal in GOALS}
    return {
        "batch_of_a_rank": batch,
        "lengths": rows,
        "goals": {
            str(goal): steps
            and {
                "steps": steps,
                "events": steps * batch * n,
                "emulated_s": steps * options.step_ms * 1e-3 * batch / BATCH,
            }
            for goal, steps in steps_to.items()
        },
    }


def parts_of_the_distance(found):
    """Distance, bias and noise of runs (data, seed, parameter): root mean squares in floor units."""
    n_seeds = found.shape[1]
    noise = found.var(axis=1, ddof=1).mean() if n_seeds > 1 else np.nan
    # The mean over a few seeds still contains noise.
    bias = np.square(found.mean(axis=1)).mean() - noise / n_seeds
    return {"distance": rms(found), "bias": float(np.sqrt(max(0.0, bias))), "noise": float(np.sqrt(noise))}


def steps_until(rows, goal):
    """Steps that runs need to reach `goal`, interpolated between lengths; None if no run reaches it."""
    steps, distances = (np.array([row[name] for row in rows], float) for name in ("steps", "distance"))
    near = np.flatnonzero(distances <= goal)
    if not near.size:
        return None
    k = int(near[0])
    if k == 0:
        return float(steps[0])  # an upper limit: fewer steps may suffice
    between = np.log(distances[k - 1] / goal) / np.log(distances[k - 1] / distances[k])
    return float(steps[k - 1] * (steps[k] / steps[k - 1]) ** between)


def draw(found, path):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
    ranks = [int(n) for n in found[EACH]]
    colors = plt.get_cmap("viridis")(np.linspace(0, 0.85, len(ranks)))
    for kind, line in ((EACH, "-"), (SHARED, "--")):
        for n, color in zip(ranks, colors, strict=True):
            rows = found[kind][str(n)]["lengths"]
            steps, distances = ([row[name] for row in rows] for name in ("steps", "distance"))
            label = f"{n} ranks" if kind == EACH else None
            left.loglog(steps, distances, f"o{line}", color=color, label=label)
        for goal, color in zip(GOALS, ("0.6", "#1b6ca8", "#d1495b"), strict=True):
            points = [(n, found[kind][str(n)]["goals"][str(goal)]) for n in ranks]
            reached = np.array([(n, point["emulated_s"]) for n, point in points if point]).reshape(-1, 2)
            label = f"to {goal} floor units" if kind == EACH else None
            right.loglog(*reached.T, f"o{line}", color=color, base=2, label=label)
            if len(reached) and kind == EACH:
                first, time_s = reached[0]
                right.plot(ranks, time_s * first / np.array(ranks), ":", color=color, lw=1, zorder=0)
    left.axhspan(left.get_ylim()[0], 1, color="0.95", zorder=0)
    left.set(xlabel="steps of a run", ylabel="distance to the likelihood fit (floor units)")
    left.set_title(f"solid: {EACH}; dashed: {SHARED}", fontsize=9)
    right.set(xlabel="ranks", ylabel="emulated time (s)", xticks=ranks, xticklabels=ranks)
    right.set_title("time to reach a distance; dotted: half the time with twice the ranks", fontsize=9)
    left.legend(frameon=False)
    right.legend(frameon=False)
    figure.savefig(path, dpi=120)


def show(found):
    for kind, by_ranks in found.items():
        print(f"\n{kind}: distance (bias, noise) in floor units by steps of a run, and the cost of each goal")
        for n, way in by_ranks.items():
            rows = ("{steps}: {distance:.2f} ({bias:.2f}, {noise:.2f})".format(**row) for row in way["lengths"])
            print(f"{n:>3s} ranks  ", ";  ".join(rows))
            for goal, cost in way["goals"].items():
                words = "{steps:.0f} steps, {events:.2g} events, {emulated_s:.1f} s".format(**cost) if cost else "never"
                print(f"           {goal}: {words}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4, 8], help="numbers of ranks")
    parser.add_argument("--steps", type=int, nargs="+", default=[75, 150, 300, 600, 1200], help="lengths of runs")
    parser.add_argument("--data", type=int, default=2, help="number of sets of observed events")
    parser.add_argument("--seeds", type=int, default=3, help="number of training seeds for each of them")
    parser.add_argument("--step-ms", type=float, default=33.0, help="emulated length of a step with a whole batch")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "strong.json", help="file of the results")
    parser.add_argument("--rank", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank:
        return run_rank(options)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    facts = {"problem": repr(Proxy()), "batch": BATCH, "n_sets": N_SETS, "exchange": repr(Ring())}
    result = json.loads(options.out.read_text()) if options.out.exists() else {}
    if any(result.get(name) != fact for name, fact in facts.items()):
        write(options.out, facts | {"distances": {}})
    shared = ["--steps", *options.steps, "--data", options.data, "--seeds", options.seeds, "--out", options.out]
    for n in options.ranks:
        start_ranks(__file__, n, "--rank", *shared)
    result = json.loads(options.out.read_text())
    result |= {"step_ms": options.step_ms, "summary": summary(result["distances"], options)}
    write(options.out, result)
    show(result["summary"])
    draw(result["summary"], options.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
