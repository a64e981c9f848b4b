"""Time of a training step, compared with a plain step and with the matrix products that both of them need.

    python benchmarks/train.py                     # one and two threads; writes benchmarks/results/train.json
    python benchmarks/train.py --threads 1 --seconds 20
    python benchmarks/train.py --device cuda

One process trains the networks of the publication (arXiv 2407.00051) with its batch of 1024 parameter sets with 100
events each, or with 64 sets.  The steps under comparison take turns, so that all of them see the same load of the
machine; rates and ratios within a turn are medians over the turns.  The plain step looks each event up in a dense table
of the inverse cumulative distribution, passes through the discriminator once more for the generator, and draws
independent noise.
"""

import argparse
import json
import os
import platform
import time
from pathlib import Path

import numpy as np
import recipe
import torch

from sagips_kit import Proxy, Settings, Trainer
from sagips_kit.ranks.world import World

SHAPES = {"1024 x 100": (1024, 100), "64 x 100": (64, 100)}
FLOP_PER_EVENT = 0.8e6  # of these networks: 0.6e6 in the discriminator's step, 0.2e6 in the generator's
WIDTHS = (128,) * 4
ROWS = (1024, 2048, 4096, 16_384, 102_400)  # rows of a matrix product; the fastest size counts
MEMBERS = (1, 2, 4, 8, 16, 32)
N_OBSERVED = 204_800
HERE = Path(__file__).parent


class PlainStep:
    """A training step as it is usually written."""

    def __init__(self, problem, events, n_sets, n_each, device):
        self.problem, self.shape, self.device = problem, (n_sets, n_each), device
        self.events = torch.tensor(events, dtype=torch.float32, device=device)
        n_parameters = len(problem.parameters)
        self.generator = recipe.perceptron(n_parameters, n_parameters).to(device)
        self.discriminator = recipe.perceptron(len(problem.observables), 1).to(device)
        self.optimisers = [
            torch.optim.Adam(self.generator.parameters(), recipe.GENERATOR_RATE, recipe.BETAS),
            torch.optim.Adam(self.discriminator.parameters(), recipe.DISCRIMINATOR_RATE, recipe.BETAS),
        ]

    def __call__(self):
        n_sets, n_each = self.shape
        latent = torch.randn(n_sets, len(self.problem.parameters), device=self.device)
        theta = self.problem.scale(self.generator(latent).sigmoid())
        noise = torch.rand(n_sets, n_each, 2, device=self.device)
        generated = torch.stack([dense_sample(*table(theta, k), noise[..., k]) for k in range(2)], -1).flatten(0, 1)
        real = self.events[torch.randint(len(self.events), (n_sets * n_each,), device=self.device)]
        recipe.update_discriminator(self.discriminator, self.optimisers[1], real, generated.detach())
        loss = (self.discriminator(generated).sigmoid() - 1).square().mean() + recipe.norm_loss(self.problem, theta)
        self.optimisers[0].zero_grad()
        loss.backward()
        self.optimisers[0].step()


def table(theta, observable):
    """Density of an observable of the proxy, (set, grid), for theta (set, parameter), and the grid."""
    x = torch.linspace(0.1, 0.99999, 1000, device=theta.device)
    theta = theta[..., None]
    u = theta[:, 0] * x ** theta[:, 1] * (1 - x) ** theta[:, 2]
    d = theta[:, 3] * x ** theta[:, 4] * (1 - x) ** theta[:, 5]
    return (4 * u + d if observable == 0 else u + 4 * d), x


def dense_sample(density, x, noise):
    """Invert the cumulative distribution by comparing each event with the whole table.

    Shapes: density (set, grid), x (grid,), noise and result (set, event).
    """
    integral = torch.cumulative_trapezoid(density, x, dim=-1)
    integral = torch.cat([torch.zeros_like(integral[:, :1]), integral], dim=-1) / integral[:, -1:]
    right = (integral.detach()[:, None] <= noise[..., None]).sum(-1).clamp(1, len(x) - 1)
    low, high = integral.gather(-1, right - 1), integral.gather(-1, right)
    return x[right - 1] + (noise - low) / (high - low) * (x[right] - x[right - 1])


def make_trainer(problem, events, device, **changes):
    settings = Settings(bootstrap=False, **changes)
    return Trainer(problem, settings, events, n_steps=10**6, world=World.alone(device))


def sampling(problem, n_sets, n_each, device):
    """A function that simulates the events of a step and propagates derivatives back to the parameters."""
    theta = problem.scale(torch.rand(n_sets, len(problem.parameters), device=device)).requires_grad_()
    noise = torch.rand(n_sets, n_each, problem.noise_dim, device=device)
    pull = torch.randn(n_sets, n_each, len(problem.observables), device=device)
    simulate, constraints = torch.vmap(problem.simulate), torch.vmap(lambda one: problem.constraints(one, None))

    def once():
        residuals = constraints(theta)
        torch.autograd.grad((simulate(theta, noise), residuals), theta, (pull, residuals.detach()))

    return once


def product(n_rows, device):
    """A function with the matrix products of a hidden layer: forward, gradient of inputs, and gradient of weights."""
    rows, other = (torch.randn(n_rows, WIDTHS[0], device=device) for _ in range(2))
    weight, out = torch.randn(WIDTHS[0], WIDTHS[0], device=device), torch.empty(n_rows, WIDTHS[0], device=device)
    gradient = torch.empty_like(weight)

    def once():
        torch.mm(rows, weight, out=out)
        torch.mm(other, weight.T, out=out)
        torch.mm(rows.T, other, out=gradient)

    return once


def take_turns(functions, seconds, device):
    """Run the functions in turns for `seconds`; returns the seconds that each takes: name -> ndarray (turn,)."""
    one_turn(functions, device)  # for warming up
    turns, end = [], time.perf_counter() + seconds
    while len(turns) < 3 or time.perf_counter() < end:
        turns.append(one_turn(functions, device))
    return {name: np.array([turn[name] for turn in turns]) for name in functions}


def one_turn(functions, device):
    costs = {}
    for name, (function, n_repeats) in functions.items():
        start = time.perf_counter()
        for _ in range(n_repeats):
            function()
        if device == "cuda":
            torch.cuda.synchronize()
        costs[name] = (time.perf_counter() - start) / n_repeats
    return costs


def measure_shape(problem, events, shape, seconds, device):
    n_sets, n_each = shape
    n_events = n_sets * n_each
    paper = {
        "n_members": 1,
        "n_sets": n_sets,
        "n_events": n_events,
        "latent_dim": 6,
        "generator_widths": WIDTHS,
        "discriminator_widths": WIDTHS,
    }
    kit = make_trainer(problem, events, device, **paper)
    short = make_trainer(problem, events, device, precision="bfloat16", **paper)
    functions = {
        "kit": (lambda: kit.run(1), 1),
        "kit, bfloat16": (lambda: short.run(1), 1),
        "plain": (PlainStep(problem, events, n_sets, n_each, device), 1),
        "sampling and theory": (sampling(problem, n_sets, n_each, device), 1),
    }
    functions |= {f"product, {n} rows": (product(n, device), max(1, 102_400 // n)) for n in ROWS}
    costs = take_turns(functions, seconds, device)
    flop = 3 * 2 * WIDTHS[0] ** 2
    rates = {name: n_events / cost for name, cost in costs.items() if not name.startswith("product")}
    products = np.array([flop * n / costs[f"product, {n} rows"] for n in ROWS])
    limit = products.max(0) / FLOP_PER_EVENT
    return {
        "events_per_s": {name: _median(rates[name]) for name in ("kit", "kit, bfloat16", "plain")},
        "over_plain": {name: _median(rates[name] / rates["plain"]) for name in ("kit", "kit, bfloat16")},
        "of_matrix_products": {name: _median(rates[name] / limit) for name in ("kit", "kit, bfloat16")},
        "sampling_and_theory_share": _median(costs["sampling and theory"] / costs["kit"]),
        "product_gflop_per_s": {str(n): _median(one / 1e9) for n, one in zip(ROWS, products, strict=True)},
        "n_turns": len(costs["kit"]),
    }


def measure_members(problem, events, seconds, device):
    """Time of a step with many members relative to a single member, with the default settings."""
    trainers = {n: make_trainer(problem, events, device, n_members=n) for n in MEMBERS}
    functions = {n: (lambda trainer=trainer: trainer.run(1), 5) for n, trainer in trainers.items()}
    costs = take_turns(functions, seconds, device)
    return {str(n): {"ms": _median(1e3 * costs[n]), "over_one": _median(costs[n] / costs[1])} for n in MEMBERS}


def _median(values):
    return float(f"{np.median(values):.4g}")


def show(title, result):
    print(f"\n{title}, {result['n_turns']} turns; sampling and theory {result['sampling_and_theory_share']:.1%}")
    for name, rate in result["events_per_s"].items():
        ratios = f"{result['over_plain'][name]:.2f} x plain" if name in result["over_plain"] else ""
        share = f", {result['of_matrix_products'][name]:.0%} of matrix products" if ratios else ""
        print(f"  {name:14s} {rate:12,.0f} events/s  {ratios}{share}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="numbers of threads")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each shape and number of threads")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "train.json", help="file of the results")
    options = parser.parse_args()
    problem = Proxy(n_observed=N_OBSERVED)
    events = problem.observed(None, np.random.default_rng(0))
    name = torch.cuda.get_device_name() if options.device == "cuda" else platform.machine()
    found = {"device": name, "cores": os.cpu_count(), "torch": torch.__version__, "load_before": os.getloadavg()[0]}
    for n_threads in options.threads:
        torch.set_num_threads(n_threads)
        runs = found.setdefault("threads", {}).setdefault(str(n_threads), {})
        for title, shape in SHAPES.items():
            runs[title] = measure_shape(problem, events, shape, options.seconds, options.device)
            show(f"{title}, threads {n_threads}", runs[title])
        runs["members"] = measure_members(problem, events, options.seconds / 2, options.device)
        print(" ".join(f"{n} members: {cost['over_one']:.2f}" for n, cost in runs["members"].items()))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found | {"load_after": os.getloadavg()[0]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
