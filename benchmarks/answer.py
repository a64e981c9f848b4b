"""Distance of the answer from the maximum-likelihood fit of the same events, for several truths and seeds of the proxy.

    python benchmarks/answer.py              # 5 truths x 3 seeds on 2 ranks, then the published recipe

Each finished run is saved immediately in benchmarks/results/answer.json, so an interrupted benchmark continues from
there; a figure is drawn at the end.  Distances are root mean squares over the six parameters, in floor units.  The
script starts mpiexec itself.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import recipe
from closures import Results, draw_truths
from ranks import start_ranks

from sagips_kit import Proxy, Ring, Settings, Trainer, World, fit_likelihood

N_RANKS, N_EVENTS, N_TRUTHS, N_SEEDS = 2, 102_400, 5, 3
SETTINGS, N_STEPS = Settings(), 2000
# The recipe gets the full budget of events that either method may use, although the kit uses less.
BUDGET = 20_000_000
RECIPE_STEPS = BUDGET // (recipe.N_SETS * recipe.N_EVENTS)
HERE = Path(__file__).parent


def plan(n_recipes):
    """The properties that distinguish the runs; those of the kit come first."""
    truths = [Proxy.truth, *draw_truths(N_TRUTHS - 1, N_EVENTS)]
    kit = [("kit", number, seed) for seed in range(N_SEEDS) for number in range(N_TRUTHS)]
    recipes = [("recipe", number, 0) for number in range(n_recipes)]
    return [
        {"kind": kind, "number": number, "truth": list(truths[number]), "seed": seed}
        for kind, number, seed in kit + recipes
    ]


def run_rank(job):
    """Run one rank of a run; rank 0 writes the result."""
    world = World.from_mpi(device="cpu", timeout_s=600)
    problem = Proxy(n_observed=N_EVENTS, truth=tuple(job["truth"]))
    events = problem.observed(None, np.random.default_rng([job["seed"], job["number"], 1]))
    world.barrier()
    start = time.perf_counter()
    if job["kind"] == "recipe":
        theta, n_generated = recipe.train(problem, events, world, RECIPE_STEPS, job["seed"]), BUDGET
    else:
        with Trainer(
            problem, SETTINGS, events, n_steps=N_STEPS, seed=job["seed"], world=world, exchange=Ring()
        ) as trainer:
            trainer.run()
        theta = trainer.draws.mean((0, 1))
        n_generated = N_STEPS * SETTINGS.n_events * SETTINGS.n_members
    elapsed_s = time.perf_counter() - start
    if world.rank == 0:
        fit = fit_likelihood(problem, events, n_starts=1)
        to_mle = (theta - fit.theta) / fit.deviation
        found = {
            "theta": theta.tolist(),
            "mle": fit.theta.tolist(),
            "floor": fit.deviation.tolist(),
            "distance": float(np.sqrt(np.square(to_mle).mean())),
            "to_mle": to_mle.tolist(),
            "events_per_rank": n_generated,
            "elapsed_s": round(elapsed_s, 1),
        }
        Path(job["out"]).write_text(json.dumps(found))
    world.close()


def summary(runs):
    result = {}
    for kind in ("kit", "recipe"):
        distances = [run["distance"] for run in runs if run["kind"] == kind]
        if distances:
            result[kind] = {
                "runs": len(distances),
                "median distance": float(np.median(distances)),
                "largest distance": max(distances),
                "largest time [s]": max(run["elapsed_s"] for run in runs if run["kind"] == kind),
                "events per rank": max(run["events_per_rank"] for run in runs if run["kind"] == kind),
            }
    to_mle = np.array([run["to_mle"] for run in runs if run["kind"] == "kit"])
    if len(to_mle) > 1:
        # A bias has the same sign in all runs; a root mean square would hide it.
        result["kit"]["mean of (estimate - MLE) / floor"] = to_mle.mean(0).round(3).tolist()
        result["kit"]["its error"] = (to_mle.std(0, ddof=1) / np.sqrt(len(to_mle))).round(3).tolist()
    return result


def draw(runs, path):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    styles = {"kit": ("#1b6ca8", "o", "sagips_kit"), "recipe": ("#d1495b", "s", "the published recipe")}
    for kind, (color, marker, label) in styles.items():
        of_kind = [run for run in runs if run["kind"] == kind]
        at = [run["number"] + 1 + 0.12 * (run["seed"] - 1) for run in of_kind]
        axes[0].semilogy(at, [run["distance"] for run in of_kind], marker, color=color, label=label)
    axes[0].axhline(1, color="0.6", lw=1)
    axes[0].set(xlabel="truth", ylabel="RMS distance to the MLE [floor units]", xticks=range(1, N_TRUTHS + 1))
    axes[0].legend(frameon=False)
    kit = [run for run in runs if run["kind"] == "kit"]
    parameters = np.arange(len(Proxy.parameters))
    for k, run in enumerate(kit):
        axes[1].plot(parameters + 0.03 * (k - len(kit) / 2), run["to_mle"], ".", color=styles["kit"][0])
    axes[1].axhline(0, color="0.6", lw=1)
    axes[1].set(ylabel="(estimate - MLE) / floor", ylim=(-1.5, 1.5))
    axes[1].set_xticks(parameters, Proxy.parameters)
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipes", type=int, default=2, help="number of truths for the published recipe (default: 2)")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "answer.json", help="file of the results")
    parser.add_argument("--rank", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank:
        return run_rank(json.loads(options.rank))
    facts = {"ranks": N_RANKS, "events": N_EVENTS, "settings": repr(SETTINGS), "exchange": "Ring()", "steps": N_STEPS}
    results = Results(options.out, facts | {"recipe steps": RECIPE_STEPS})
    one = options.out.with_suffix(".one")
    for key in plan(options.recipes):
        if results.has(**key):
            continue
        start_ranks(__file__, N_RANKS, "--rank", json.dumps(key | {"out": str(one)}))
        results.add(key | json.loads(one.read_text()))
        one.unlink()
        last = results.runs[-1]
        print(key, f"{last['distance']:.3f} floor units, {last['elapsed_s']:.0f} s", flush=True)
    results.write(summary(results.runs))
    print(json.dumps(summary(results.runs), indent=1))
    draw(results.runs, options.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
