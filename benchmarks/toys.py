"""How often intervals of `fit` contain the truth, on problems of the zoo.

    python benchmarks/toys.py                    # 1000 toys with the score as it was learned for five problems, and 50
                                                 # data sets for three of them, for each of which it is learned again
    python benchmarks/toys.py --events 500 --again 100 --out /tmp/toys.json

Right are 68.3 % for one deviation and 95.4 % for two.  Data sets of the second kind come from independent generators;
for the first, the truth is the estimate of one of these.  Each result is saved immediately, so an interrupted benchmark
continues from there.
"""

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from closures import Results
from problems import REGULAR
from zoo import digest

from sagips_kit import fit

HERE = Path(__file__).parent
FROZEN = ("Weibull", "HeavyTails", "Normal", "Lifetimes", "Ring")
AGAIN = ("Weibull", "HeavyTails", "Normal")


def frozen(name, n_events, n_toys):
    """Coverage by toys of one fit, mean over the parameters."""
    problem = REGULAR[name]()
    start = time.process_time()
    result = fit(problem, problem.observed(n_events, np.random.default_rng(0)))
    toys = result.toys(n_toys)
    return {
        "one": float(toys.coverage().mean()),
        "two": float(toys.coverage(2).mean()),
        "bias": toys.bias.tolist(),
        "cpu_s": time.process_time() - start,
    }


def again(name, n_events, seed):
    """Distances of one fit from the truth, in its deviations."""
    problem = REGULAR[name]()
    start = time.process_time()
    result = fit(problem, problem.observed(n_events, np.random.default_rng([seed, 3])), seed=seed)
    pulls = (result.theta - np.array(problem.truth)) / result.deviation
    return {"pulls": pulls.tolist(), "findings": list(result.findings), "cpu_s": time.process_time() - start}


def summary(rows):
    """Fractions of intervals that contain the truth, over all parameters of a problem: {kind: {problem: dict}}."""
    found = {"frozen": {}, "again": {}}
    for row in rows:
        if row["kind"] == "frozen":
            found["frozen"][row["problem"]] = {name: row[name] for name in ("one", "two")}
    for name in dict.fromkeys(row["problem"] for row in rows if row["kind"] == "again"):
        pulls = np.array([row["pulls"] for row in rows if row["kind"] == "again" and row["problem"] == name])
        size = np.sqrt((pulls**2).mean(0))
        found["again"][name] = {
            "data sets": len(pulls),
            "one": float((abs(pulls) < 1).mean()),
            "two": float((abs(pulls) < 2).mean()),
            # Of independent pulls; those of correlated parameters count less.
            "error of one": math.sqrt(0.683 * 0.317 / pulls.size),
            "RMS pulls": size.tolist(),
        }
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=2000, help="observed events of a data set (default: 2000)")
    parser.add_argument("--toys", type=int, default=1000, help="with a score as it was learned (default: 1000)")
    parser.add_argument("--again", type=int, default=50, help="data sets for which it is learned again (default: 50)")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "toys.json", help="file of the results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = Results(options.out, {"events": options.events, "toys": options.toys, "sources": digest()})
    tasks = [{"kind": "frozen", "problem": name} for name in FROZEN]
    tasks += [{"kind": "again", "problem": name, "seed": seed} for name in AGAIN for seed in range(options.again)]
    for task in tasks:
        if not results.has(**task):
            name = task["problem"]
            is_frozen = task["kind"] == "frozen"
            found = (
                frozen(name, options.events, options.toys) if is_frozen else again(name, options.events, task["seed"])
            )
            results.add(task | found)
    results.write(summary(results.runs))
    print(json.dumps(summary(results.runs), indent=1))


if __name__ == "__main__":
    main()
