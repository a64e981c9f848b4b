"""How near `fit` comes to the likelihood fit, on problems from many sciences that it was not tuned for.

    python benchmarks/zoo.py                                    # all problems with 3 samples of 20 000 events each
    python benchmarks/zoo.py --kind sabotaged --seeds 1 --out /tmp/zoo.json
    python benchmarks/zoo.py --problems Weibull Ring --truths   # other truths than those of the classes

Regular problems have an exact likelihood.  Reported are the distance of both fits per parameter in units of the
likelihood's covariance, the deviations relative to the likelihood's, the goodness of fit, and findings, which are all
false here.  Problems with several answers must report the others.  In sabotaged ones something is wrong, and a finding
must say what.  The problems are in `benchmarks/problems`; their events come from NumPy and SciPy, never from their own
simulators.  Each result is saved immediately, so an interrupted benchmark continues from there.
"""

import argparse
import copy
import hashlib
import json
import math
import re
import time
import warnings
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from closures import Results
from problems import KINDS, drawn_truth

from sagips_kit import fit, fit_likelihood

HERE = Path(__file__).parent
SOURCES = (HERE / "problems", HERE.parent / "sagips_kit" / "statistics")
FAR, NARROW, WIDE = 0.3, 0.9, 1.15  # joint distances, and deviations relative to the likelihood's, that are reported
CERTAIN = 4.0  # deviations that a valid quantity may be from its true value


def study(kind, name, n_events, seed, is_drawn):
    """The fit of one sample of events, and what it should have found."""
    cls = KINDS[kind][name]
    seed_here = own_seed(name, seed)
    problem = cls(drawn_truth(cls, np.random.default_rng([seed_here, 1])) if is_drawn else None)
    events = problem.observed(n_events, np.random.default_rng(seed_here))
    row = {"kind": kind, "problem": name, "seed": seed, "truth": list(problem.truth)}
    start = time.process_time()
    try:
        result = fit(problem, events, seed=seed_here)
    except Exception as error:  # a crash is a result of this benchmark, too
        return row | {"error": f"{type(error).__name__}: {error}", "cpu_s": time.process_time() - start}
    row |= {
        "theta": result.theta.tolist(),
        "deviation": result.deviation.tolist(),
        "p_value": result.p_value,
        "findings": list(result.findings),
        "cpu_s": time.process_time() - start,
    }
    return row | {"regular": regular, "several": several, "sabotaged": sabotaged}[kind](problem, events, result)


def own_seed(name, seed):
    """A seed for each problem: with the same random numbers, similar problems would have the same luck."""
    return zlib.crc32(name.encode()) + seed


def regular(problem, events, result):
    """The result compared with the likelihood fit."""
    reference, facts = likelihood_fit(problem, events, problem.truth)
    return compared(result, reference) | {"reference": facts}


def several(problem, events, result):
    """The result compared with the likelihood fit near that of several answers to which it is nearest."""
    references = [likelihood_fit(problem, events, answer, n_starts=0) for answer in problem.answers(problem.truth)]
    rows = [compared(result, reference) | {"reference": facts} for reference, facts in references]
    n_others = len({text for text in result.findings if re.search(problem.finding, text)})
    return min(rows, key=lambda row: row["joint_distance"]) | {"answers": len(rows), "found": 1 + n_others}


def sabotaged(problem, events, result):
    """Whether the fit says what is wrong, and the distance of valid quantities from the truth in their deviations."""
    truth = np.array(problem.truth)
    steps = 1e-6 * np.subtract(problem.upper, problem.lower)  # not of the deviations, which may be zero
    moved = [problem.valid(result.theta + h) - problem.valid(result.theta - h) for h in np.diag(steps)]
    slopes = np.array(moved).T / (2 * steps)
    deviation = np.sqrt(np.diag(slopes @ result.covariance @ slopes.T))
    return {"valid_distances": ((problem.valid(result.theta) - problem.valid(truth)) / deviation).tolist()}


def compared(result, reference):
    """Differences of two fits in units of the reference's covariance."""
    difference = result.theta - reference.theta
    return {
        "joint_distance": joint_distance(difference, reference.covariance),
        "distances": (difference / reference.deviation).tolist(),
        "relative_deviations": (result.deviation / reference.deviation).tolist(),
    }


def joint_distance(difference, covariance):
    return math.sqrt(difference @ np.linalg.solve(covariance, difference) / len(difference))


def likelihood_fit(problem, events, start, n_starts=3):
    """The likelihood fit, started near the truth as well as everywhere, and whether it can be trusted.

    Its facts are the distance from the truth per parameter, about 1; the distance that a Newton step would move it, in
    deviations; and by how much the logarithm of the likelihood is lower where it started everywhere.
    """
    near = copy.copy(problem)
    lower, upper, start = (np.asarray(each, float) for each in (problem.lower, problem.upper, start))
    half = 0.999 * np.minimum(0.2 * (upper - lower), np.minimum(start - lower, upper - start))
    near.lower, near.upper = start - half, start + half  # a fit begins in the middle
    statistic = problem.statistic(torch.as_tensor(events))

    def value(theta):
        penalty = 0.5 * problem.residuals(theta, statistic).square().sum()
        return problem.log_likelihood(theta, statistic) - penalty

    ends = []
    for one, n in ((near, 1), (problem, n_starts)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            try:
                ends += [fit_likelihood(one, events, n_starts=n)] if n else []
            except RuntimeError:  # no start has a finite likelihood
                continue
    if not ends:
        raise SystemExit(f"{type(problem).__name__} has no finite likelihood near its truth: this problem is wrong.")
    values = [float(value(torch.as_tensor(end.theta))) for end in ends]
    best = ends[int(np.argmax(values))]
    gradient = torch.func.grad(value)(torch.as_tensor(best.theta)).numpy()
    left = math.sqrt(gradient @ best.covariance @ gradient / len(gradient))
    facts = {"to_truth": joint_distance(best.theta - start, best.covariance), "newton_step": left}
    return best, facts | {"lower_by": max(values) - values[-1] if len(ends) > 1 else None}


def is_reported(row):
    """Whether a finding, or the text of an error, says what is wrong."""
    finding = KINDS[row["kind"]][row["problem"]].finding
    return any(re.search(finding, text) for text in [*row.get("findings", ()), row.get("error", "")])


def summary(rows):
    """What all rows say together: {kind: dict}."""
    found = {}
    for kind, summarise in {"regular": _regular, "several": _several, "sabotaged": _sabotaged}.items():
        if chosen := [row for row in rows if row["kind"] == kind]:
            crashes = [row for row in chosen if "error" in row]
            found[kind] = {"samples": len(chosen), "crashes": counts(crashes)} | summarise(chosen)
    return found


def _regular(rows):
    rows = [row for row in rows if "error" not in row]
    distances = [row["joint_distance"] for row in rows] or [math.nan]
    ratios = [ratio for row in rows for ratio in row["relative_deviations"]] or [math.nan]
    wrong = [row for row in rows if not all(NARROW < ratio < WIDE for ratio in row["relative_deviations"])]
    return {
        "median joint distance": float(np.median(distances)),
        "largest joint distance": max(distances),
        f"joint distance above {FAR}": counts(row for row in rows if row["joint_distance"] > FAR),
        "smallest relative deviation": min(ratios),
        "largest relative deviation": max(ratios),
        f"relative deviations outside of {NARROW} to {WIDE}": counts(wrong),
        "medians of relative deviations": _medians(rows),
        "false reports": counts(row for row in rows if row["findings"]),
        "doubtful likelihood fits": counts(row for row in rows if is_doubtful(row["reference"])),
        "median CPU s": float(np.median([row["cpu_s"] for row in rows] or [math.nan])),
    }


def _medians(rows):
    """Smallest and largest median over the samples of a parameter's relative deviation, for each problem."""
    by_problem = {}
    for row in rows:
        by_problem.setdefault(row["problem"], []).append(row["relative_deviations"])
    medians = {name: np.median(ratios, axis=0) for name, ratios in by_problem.items()}
    return {name: [float(each.min()), float(each.max())] for name, each in medians.items()}


def _several(rows):
    return {"all answers found": _share_of(rows, lambda row: row.get("found") == row.get("answers", -1))}


def _sabotaged(rows):
    is_off = [row for row in rows if max(map(abs, row.get("valid_distances", ())), default=0) > CERTAIN]
    return {"reported": _share_of(rows, is_reported), "valid quantities not found": counts(is_off)}


def counts(rows):
    """How many rows each problem has."""
    return dict(Counter(row["problem"] for row in rows))


def _share_of(rows, is_right):
    """The fraction of the rows of each problem that are right."""
    right, n = counts(row for row in rows if is_right(row)), counts(rows)
    return {name: right.get(name, 0) / n[name] for name in n}


def is_doubtful(facts):
    return not (facts["to_truth"] < 3 and facts["newton_step"] < 0.01)


def line(row):
    """One row as text."""
    words = [f"{row['problem']:21} seed {row['seed']}"]
    if "joint_distance" in row:
        ratios = row["relative_deviations"]
        words.append(f"joint {row['joint_distance']:5.3f}  deviations {min(ratios):.2f} to {max(ratios):.2f}")
        words += ["DOUBTFUL REFERENCE"] if is_doubtful(row["reference"]) else []
    if "answers" in row:
        words.append(f"{row['found']} of {row['answers']} answers")
    if row["kind"] == "sabotaged":
        words.append("reported" if is_reported(row) else "NOT REPORTED")
        words += (
            ["valid: " + " ".join(f"{d:+.1f}" for d in row["valid_distances"])] if row.get("valid_distances") else []
        )
    words += [f"p {row['p_value']:.3f}"] if "p_value" in row else []
    words.append(f"{row['cpu_s']:.0f} CPU s")
    return "  ".join([*words, *row.get("findings", ()), row.get("error", "")])


def digest(*more):
    """What the results depend on: the sources of the fit and of the problems, and those in more folders."""
    files = sorted(file for folder in (*SOURCES, *more) for file in folder.glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


def main():
    names = [name for problems in KINDS.values() for name in problems]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="samples of events for each problem (default: 3)")
    parser.add_argument("--events", type=int, default=20_000, help="observed events, 100 or more (default: 20000)")
    parser.add_argument("--kind", nargs="+", default=list(KINDS), choices=list(KINDS), help="default: all")
    parser.add_argument("--problems", nargs="+", default=names, choices=names, metavar="NAME", help="default: all")
    parser.add_argument(
        "--truths", action="store_true", help="draw a truth for each sample from the middle of the ranges"
    )
    parser.add_argument("--out", type=Path, default=HERE / "results" / "zoo.json", help="file of the results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = Results(options.out, {"events": options.events, "drawn truths": options.truths, "sources": digest()})
    for kind in options.kind:
        for name in (name for name in KINDS[kind] if name in options.problems):
            for seed in range(options.seeds):
                if not results.has(problem=name, seed=seed):
                    results.add(study(kind, name, options.events, seed, options.truths))
                    print(line(results.runs[-1]), flush=True)
    results.write(summary(results.runs))
    print(json.dumps(summary(results.runs), indent=1))


if __name__ == "__main__":
    main()
