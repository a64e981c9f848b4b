"""What the verdict on a run says of runs that are right, and of runs in which something is wrong.

    python benchmarks/verdict.py                                     # about an hour of one core
    python benchmarks/verdict.py --kind regular --seeds 3 --out /tmp/verdict.json
    python benchmarks/verdict.py --kind faults --problems Normal Ring

Runs have the default settings with 4 chains, except for their length.  Those of regular problems should find no fault;
those of sabotaged problems, whose data or model is wrong, and those with a fault in the method should be "not
reliable", or at least not "no fault found".  The problems are those of `zoo.py`, with events of independent
generators.  Each result is saved immediately, so an interrupted benchmark continues from there.
"""

import argparse
import contextlib
import json
import math
import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from closures import Results
from problems import KINDS
from zoo import counts, digest, joint_distance, likelihood_fit, own_seed

from sagips_kit import RunSpec, Settings, analysis, open_run, run
from sagips_kit.ranks.world import World
from sagips_kit.statistics.fit import ScoreFit
from sagips_kit.statistics.start import Start
from sagips_kit.training import schedules

HERE = Path(__file__).parent
PACKAGE = HERE.parent / "sagips_kit"
FAULTY = ("Normal", "HeavyTails", "Ring", "Weibull", "Spectrum", "Triple")
REFUSED = "refused"
BESIDE = 1.5  # deviations by which a faulty fit is off (RMS)


@contextlib.contextmanager
def no_training():
    """Generators do not move."""
    with mock.patch.object(schedules, "first_rates_at_a_fit", lambda n_steps, n_events, settings: (0.0, 1e-3)):
        yield


@contextlib.contextmanager
def wrong_fit():
    """The fit, and with it the start of all chains, is off in a random direction; its score is right."""
    start = ScoreFit.start

    def beside(self):
        right = start(self)
        deviation = right.state["covariance"].diag().sqrt()
        step = torch.as_tensor(np.random.default_rng(5).normal(size=len(deviation)))
        t = right.state["t"] + BESIDE * deviation * step / step.square().mean().sqrt()
        return Start(right.problem, right.observed, right.score, right.state | {"t": t.clamp(0.001, 0.999)})

    with mock.patch.object(ScoreFit, "start", beside):
        yield


FAULTS = {
    "cold start of 400 steps": (contextlib.nullcontext, {"start": "ranges", "n_steps": 400}),
    "generators that do not move": (no_training, {}),
    f"a start {BESIDE} deviations beside the answer": (wrong_fit, {}),
}


def study(kind, name, fault, seed, n_events, n_steps):
    """The verdict on one run."""
    key = {"kind": kind, "problem": name, "fault": fault, "seed": seed}
    problem = KINDS[kind][name]()
    seed_here = own_seed(name, seed)
    events = problem.observed(n_events, np.random.default_rng(seed_here))
    folder = tempfile.mkdtemp(prefix="verdict")
    given = {"n_steps": n_steps, "seed": seed_here, "settings": Settings(n_members=4), "reference": False}
    context, changes = FAULTS.get(fault, (contextlib.nullcontext, {}))
    begin = time.process_time()
    try:
        np.save(f"{folder}/events.npy", events)
        spec = RunSpec(problem=problem, store=f"{folder}/run.zarr", events=f"{folder}/events.npy", **(given | changes))
        try:
            with context():
                run(spec, World.alone("cpu"))
        except ValueError as error:
            if "cannot be trained" not in str(error):
                raise
            return key | {"state": REFUSED, "tests": {}, "texts": [str(error)], "cpu_s": time.process_time() - begin}
        stored = open_run(spec.store).load()
    finally:
        shutil.rmtree(folder)
    row, verdict = key | {"cpu_s": time.process_time() - begin}, analysis.verdict(stored)
    row |= {"state": verdict.state, "tests": verdict.tests, "texts": verdict.sentences()}
    if kind == "regular":
        values = analysis.estimate(stored)
        reference, _ = likelihood_fit(problem, events, problem.truth)
        row["joint_distance"] = joint_distance(values["fit"].values - reference.theta, reference.covariance)
        row["squared_spreads"] = ((values["deviation"].values / reference.deviation) ** 2).tolist()
    return row


def summary(rows):
    """What all rows say together."""
    found = {}
    tried = [row for row in rows if row["kind"] == "regular" and not row["fault"]]
    if regular := [row for row in tried if row["state"] != REFUSED]:
        distances = [row["joint_distance"] for row in regular]
        tests = [row["tests"] for row in regular]
        squares = [np.mean(row["squared_spreads"]) for row in regular]  # of each run
        found["regular"] = {
            "runs": len(tried),
            "states": _states(tried),
            "false alarms": counts(row for row in regular if row["state"] == "not reliable"),
            "doubtful": counts(row for row in regular if row["state"] == "doubtful"),
            "median joint distance": float(np.median(distances)),
            "joint distance above 0.3, with no fault found": counts(
                row for row in _missed(regular) if row["joint_distance"] > 0.3
            ),
            "spread over the deviation of the likelihood, pooled": math.sqrt(np.mean(squares)),
            "its error": float(np.std(squares) / math.sqrt(len(squares)) / 2),
            "distance of witnesses, at first": _range(t[k] for t in tests for k in t if k.endswith("at first")),
            "distance of witnesses, at last": _range(t["at last"] for t in tests if "at last" in t),
            "median CPU s": float(np.median([row["cpu_s"] for row in regular])),
        }
    if sabotaged := [row for row in rows if row["kind"] == "sabotaged"]:
        found["sabotaged"] = _of_faults(sabotaged)
    for fault in FAULTS:
        if some := [row for row in rows if row["fault"] == fault]:
            found[fault] = _of_faults(some)
    return found


def _of_faults(rows):
    return {"runs": len(rows), "states": _states(rows), "missed": counts(_missed(rows))}


def _missed(rows):
    return [row for row in rows if row["state"] == "no fault found"]


def _states(rows):
    return dict(Counter(row["state"] for row in rows))


def _range(values):
    """Median, and 10 % and 90 % quantiles."""
    low, middle, high = np.quantile([*values] or [math.nan], [0.1, 0.5, 0.9])
    return {"10 %": float(low), "median": float(middle), "90 %": float(high)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = ("regular", "sabotaged", "faults")
    parser.add_argument("--kind", nargs="+", default=kinds, choices=kinds, help="default: all")
    parser.add_argument(
        "--problems", nargs="+", metavar="NAME", help="default: all; for faults six of the regular ones"
    )
    parser.add_argument("--seeds", type=int, default=1, help="samples of events for each problem (default: 1)")
    parser.add_argument("--events", type=int, default=20_000, help="observed events (default: 20000)")
    parser.add_argument("--steps", type=int, default=500, help="steps of a run (default: 500)")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "verdict.json", help="file of the results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    sources = digest(*(PACKAGE / name for name in ("training", "analysis", "running", "store")))
    conditions = {"events": options.events, "steps": options.steps, "sources": sources}
    results = Results(options.out, conditions)
    wanted = [(kind, name, "") for kind in ("regular", "sabotaged") if kind in options.kind for name in KINDS[kind]]
    if "faults" in options.kind:
        wanted += [("regular", name, fault) for fault in FAULTS for name in options.problems or FAULTY]
    for kind, name, fault in wanted:
        for seed in range(options.seeds) if not options.problems or name in options.problems else ():
            if not results.has(kind=kind, problem=name, fault=fault, seed=seed):
                results.add(study(kind, name, fault, seed, options.events, options.steps))
                row = results.runs[-1]
                print(
                    f"{name:21} {fault or kind:30} seed {seed}  {row['state']:15} {row['cpu_s']:.0f} CPU s", flush=True
                )
                print(*[f"    {text}" for text in row["texts"]], f"    {row['tests']}", sep="\n", flush=True)
    results.write(summary(results.runs))
    print(json.dumps(summary(results.runs), indent=1))


if __name__ == "__main__":
    main()
