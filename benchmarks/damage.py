"""Damage to stored runs, file by file: deleted, emptied, cut in half, one bit flipped; no number may change in silence.

    python benchmarks/damage.py                    # all files; writes benchmarks/results/damage.json
    python benchmarks/damage.py --flips 1 --output /tmp/damage.json

Two small runs are damaged: one that has finished, and one that is under way.  After each damage, the run is opened and
everything in it is read, and estimates, a summary and the convergence are computed.  An outcome is one of

=========  ==============================================================================
refused    an error when the run was opened or read, or a warning
unchanged  the same numbers and texts as before (a checkpoint, or a space between words)
silent     other numbers or texts, without an error or a warning: a fault
=========  ==============================================================================

`sagips verify` is tested with the same damages: it must report each that was refused.
"""

import argparse
import collections
import json
import platform
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

from sagips_kit import Proxy, RunSpec, Settings, World, analysis, open_run, prepare, request_stop, run_rank, verify
from sagips_kit.store.schema import VERSION_KEY

HERE = Path(__file__).parent
SETTINGS = Settings(n_members=2, n_events=64, n_draws=3, n_predictive=4, record_every=5, rows_per_block=2)
N_STEPS, STOP = 60, 30


def make(store, is_finished):
    """A small run, finished or as it is in the middle of training."""
    options = {"n_steps": N_STEPS, "n_observed": 500, "fit": False, "reference": False}
    spec = RunSpec(problem=Proxy(), store=str(store), settings=SETTINGS, **options)
    prepare(spec, n_ranks=1)
    if not is_finished:
        request_stop(store, STOP)
    run_rank(spec, World.alone("cpu"))
    if not is_finished:
        request_stop(store, None)
    return Path(store)


def contents(store):
    """All numbers and texts of a run, and what is computed of them."""
    run = open_run(store)
    seen = {"attributes": [repr(run.attrs)]}
    for path, node in run.subtree_with_keys:
        seen[f"{path} attributes"] = [repr(sorted(node.attrs.items()))]
        for name, variable in node.to_dataset(inherit=False).variables.items():
            seen[f"{path}/{name}"] = [np.asarray(variable.values), repr(sorted(variable.attrs.items()))]
    # Of a run under way, some of these are refused in words; that must stay the same, too.
    for function in (analysis.estimate, analysis.summary, analysis.convergence):
        try:
            found = function(run)
            seen[function.__name__] = [np.asarray(found[name]) for name in found]
        except ValueError as error:
            if "damaged" in str(error):
                raise
            seen[function.__name__] = [str(error)]
    return seen


def are_equal(one, other):
    return one.keys() == other.keys() and all(
        len(one[key]) == len(other[key]) and all(map(is_same, one[key], other[key])) for key in one
    )


def is_same(one, other):
    if isinstance(one, str) or isinstance(other, str):
        return isinstance(other, type(one)) and one == other
    if one.dtype.kind in "OTU":
        return one.tolist() == other.tolist()
    return one.dtype == other.dtype and one.shape == other.shape and np.array_equal(one, other, equal_nan=True)


def damages(data, rng, n_flips):
    """Names of damages, and what they leave of a file; None if it is deleted."""
    yield "deleted", None
    yield "emptied", b""
    yield "halved", data[: len(data) // 2]
    for _ in range(n_flips if data else 0):
        place = int(rng.integers(8 * len(data)))
        flipped = bytearray(data)
        flipped[place // 8] ^= 1 << place % 8
        yield "one bit", bytes(flipped)


def outcome(store, whole):
    """What becomes of a damaged store, and the error or the first difference."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            found = contents(store)
        except Exception as error:  # a damaged run may be refused by any error, which is recorded
            return "refused", type(error).__name__
    if are_equal(found, whole):
        return "unchanged", ""
    return ("refused", "warning") if warned else ("silent", "")


def sweep(store, rng, n_flips, files=None):
    """Damage each of the files of a store, or all of them, in each way.

    Returns
    -------
    list of dict
        For each trial the file, the damage, the outcome, the error, and whether `verify` reports it.
    """
    whole, trials = contents(store), []
    if is_reported(store):
        raise AssertionError(f"A whole run is reported as damaged: {verify(store)}")
    for file in files or sorted(file for file in store.rglob("*") if file.is_file()):
        data = file.read_bytes()
        for damage, left in damages(data, rng, n_flips):
            file.unlink() if left is None else file.write_bytes(left)
            try:
                came, error = outcome(store, whole)
                trials.append(
                    {
                        "file": str(file.relative_to(store)),
                        "damage": damage,
                        "outcome": came,
                        "error": error,
                        "is_verified": is_reported(store),
                    }
                )
            finally:
                file.write_bytes(data)
    return trials


def is_reported(store):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return not verify(store).is_whole
        except ValueError:  # no run any more
            return True


def counts(trials, key):
    table = collections.defaultdict(collections.Counter)
    for trial in trials:
        table[trial[key]][trial["outcome"]] += 1
    return {name: dict(row) for name, row in table.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--flips", type=int, default=2, help="bits to flip in each file, one at a time (default: 2)")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "damage.json", help="file of the results")
    options = parser.parse_args()
    rng, result = np.random.default_rng(0), {"machine": platform.machine()}
    with tempfile.TemporaryDirectory() as folder:
        for name in ("finished", "under way"):
            started = time.perf_counter()
            store = make(Path(folder) / f"{name}.zarr", name == "finished")
            result["schema"] = open_run(store).attrs[VERSION_KEY]
            trials = sweep(store, rng, options.flips)
            result[name] = {
                "trials": len(trials),
                "silent": [trial for trial in trials if trial["outcome"] == "silent"],
                "by_damage": counts(trials, "damage"),
                "refused_but_not_verified": sum(t["outcome"] == "refused" and not t["is_verified"] for t in trials),
                "errors": dict(collections.Counter(trial["error"] for trial in trials if trial["error"])),
                "seconds": round(time.perf_counter() - started, 1),
            }
            print(name, {key: item for key, item in result[name].items() if key != "silent"}, flush=True)
            print("silent:", result[name]["silent"], flush=True)
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    sys.exit(any(result[name]["silent"] for name in ("finished", "under way")))


if __name__ == "__main__":
    main()
