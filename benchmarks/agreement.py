"""How far the replicas of a grouped run drift apart, inside groups and between groups, under three outer rules.

    python benchmarks/agreement.py        # 8 ranks in 2 groups, 2 000 steps; JSON and a figure in benchmarks/results

Each rank uses Adam and noisy gradients to minimise a rippled quadratic.  Its minimum differs from rank to rank, as the
minima of bootstrap samples do, so replicas that do not agree end in different places.  The script starts mpiexec
itself.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from ranks import start_ranks

from sagips_kit.exchange import Chain, Every, Leaders, Ring, Within
from sagips_kit.ranks.flat import FlatGradient, FlatWeights
from sagips_kit.ranks.world import World

N_WEIGHTS, GROUP, PERIOD, LOOK_EVERY = 500, 4, 100, 10
HERE = Path(__file__).parent
_INNER = Within(Ring(), size=GROUP)

RULES = {
    "no outer step": _INNER,
    "the paper's outer rule": Every(PERIOD, Leaders(Ring(), size=GROUP, hand_down=False), otherwise=_INNER),
    "weights": Chain(_INNER, Every(PERIOD, Leaders(Ring(payload="weights"), size=GROUP))),
    "updates with momentum": Chain(_INNER, Every(PERIOD, Leaders(Ring(payload="updates"), size=GROUP))),
}


def train(world, exchange, n_steps, seed=0):
    """Spread inside groups and between groups: dict of lists; steps are counted from 1."""
    common, own = (np.random.default_rng([seed, k]) for k in (99, world.rank))
    weights = torch.nn.Parameter(torch.as_tensor(common.normal(size=(1, N_WEIGHTS))))
    minimum = torch.as_tensor(common.normal(size=N_WEIGHTS) + 0.3 * own.normal(size=N_WEIGHTS))
    optimiser = torch.optim.Adam([weights], lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, n_steps)
    gradient, values = FlatGradient([weights], 1), FlatWeights([weights], 1)
    history = {"step": [], "inside": [], "between": [], "after_outer": []}
    with exchange.open(world, gradient.buffer) as channel:
        for step in range(n_steps):
            noise = torch.as_tensor(own.normal(size=N_WEIGHTS))
            offset = weights.detach() - minimum
            weights.grad = offset + 1.5 * torch.sin(5 * weights.detach()) + noise
            channel.mix_(gradient.pack(), step)
            gradient.unpack()
            optimiser.step()
            schedule.step()
            if channel.wants_weights(step):
                channel.mix_weights_(values.pack(), step)
                values.unpack()
            if (step + 1) % LOOK_EVERY == 0:
                look(world, weights.detach().numpy()[0], step + 1, history)
    return history


def look(world, weights, step, history):
    groups = np.array(world.comm.allgather(weights)).reshape(-1, GROUP, N_WEIGHTS)
    means = groups.mean(1, keepdims=True)
    history["step"].append(step)
    history["inside"].append(float(np.sqrt(np.square(groups - means).mean())))
    history["between"].append(float(np.sqrt(np.square(means - means.mean(0)).mean())))
    history["after_outer"].append(step % PERIOD == 0)


def summary(history):
    inside, between, is_after = (np.array(history[name]) for name in ("inside", "between", "after_outer"))
    return {
        "inside, at the end": inside[-1],
        "between, at the end": between[-1],
        "inside, largest right after an outer step": inside[is_after].max(),
        "between, largest right after an outer step": between[is_after].max(),
        "inside, mean of the second half": inside[len(inside) // 2 :].mean(),
        "between, mean of the second half": between[len(between) // 2 :].mean(),
    }


def draw(histories, path):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4.4), sharey=True, layout="constrained")
    # Curves of rules that agree coincide; the first ones are wider, so that they stay visible.
    styles = [("0.8", 6, "-"), ("#d1495b", 1.6, "-"), ("#1b6ca8", 3, "-"), ("0.1", 1, "--")]
    for ax, name in zip(axes, ("inside", "between"), strict=True):
        for (rule, history), (color, width, line) in zip(histories.items(), styles, strict=True):
            ax.semilogy(history["step"], np.maximum(history[name], 1e-9), color=color, lw=width, ls=line, label=rule)
        ax.set(xlabel="step", title=f"spread {name} groups")
    axes[0].set_ylabel("rms difference of weights")
    figure.legend(*axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, dpi=120)


def run_rank(path, n_steps):
    world = World.from_mpi(device="cpu", timeout_s=60)
    histories = {name: train(world, exchange, n_steps) for name, exchange in RULES.items()}
    if world.rank == 0:
        Path(path).write_text(json.dumps(histories))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2000, help="steps of each run (default: 2000)")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "agreement.json", help="file of the results")
    parser.add_argument("--rank", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank:
        return run_rank(options.rank, options.steps)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    start_ranks(__file__, 8, "--rank", options.out, "--steps", options.steps)
    histories = json.loads(options.out.read_text())
    facts = {"n_weights": N_WEIGHTS, "ranks": 8, "group": GROUP, "period": PERIOD, "steps": options.steps}
    rules = {name: repr(exchange) for name, exchange in RULES.items()}
    result = {rule: summary(history) for rule, history in histories.items()}
    for rule, numbers in result.items():
        print(rule, *(f"  {name}: {number:.2g}" for name, number in numbers.items()), sep="\n")
    text = json.dumps(facts | {"rules": rules, "summary": result, "histories": histories}, indent=None)
    options.out.write_text(text + "\n")
    draw(histories, options.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
