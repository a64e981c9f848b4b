"""Memory of a run on a file larger than memory: each rank reads its share of the file, one window at a time.

    python benchmarks/large_file.py --gib 5 --ranks 4      # writes benchmarks/results/large_file.json
    python benchmarks/large_file.py --gib 0.1 --steps 200 --held 20000 --output /tmp/large_file.json

The file is a `.npy` array (event, observable) of float32.  It contains a million events of the proxy, each repeated as
often as needed for the size, and is sorted by the first observable, which is the worst order for reading only a piece.
The memory reported is the largest resident set of each process, including memory that it shares with others.
"""

import argparse
import json
import os
import platform
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from ranks import start_ranks

from sagips_kit import Observed, Proxy, Ring, RunSpec, Settings, analysis, open_run, run
from sagips_kit.ranks.world import World

HERE = Path(__file__).parent
N_DISTINCT = 2**20


def write_file(path, gib):
    """Write a sorted file of about this size; returns the number of events."""
    events = Proxy().observed(N_DISTINCT, np.random.default_rng(0)).astype(np.float32)
    events = events[events[:, 0].argsort()]
    n_times = max(1, round(gib * 2**30 / events.nbytes))
    array = np.lib.format.open_memmap(path, "w+", np.float32, (n_times * N_DISTINCT, 2))
    for start in range(0, N_DISTINCT, 2**12):
        stop = start + 2**12
        array[n_times * start : n_times * stop] = np.repeat(events[start:stop], n_times, axis=0)
    array.flush()
    return len(array)


def peak_bytes():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def rank(folder):
    """Train one rank of the run, which writes its memory and times into the folder."""
    world = World.here()
    before, start = peak_bytes(), time.perf_counter()
    result = run(RunSpec.from_file(folder / "spec.json"), world)
    facts = {"peak_bytes": peak_bytes(), "before_bytes": before, "wall_s": time.perf_counter() - start}
    facts |= {name: result[name] for name in ("elapsed_s", "waited_s", "steps")}
    (folder / f"rank-{world.rank}.json").write_text(json.dumps(facts))
    world.close()


def measure(folder, options):
    path = folder / "events.npy"
    start = time.perf_counter()
    n_events = write_file(path, options.gib)
    written_s, n_bytes = time.perf_counter() - start, path.stat().st_size
    spec = RunSpec(
        problem=Proxy(),
        store=str(folder / "run.zarr"),
        settings=Settings(n_members=options.members),
        exchange=Ring(),
        n_steps=options.steps,
        events=Observed(str(path), stream=True),
        n_observed=options.held,
        fit=False,
    )
    (folder / "spec.json").write_text(spec.to_json())
    start_ranks(__file__, options.ranks, "--rank", folder)
    found = open_run(spec.store)
    return {
        "file": {"bytes": n_bytes, "events": n_events, "written_s": written_s},
        "held_events": options.held,
        "members": options.members,
        "ranks": [json.loads((folder / f"rank-{k}.json").read_text()) for k in range(options.ranks)],
        "distance_to_fit_of_held": analysis.distance_to_mle(found),
        "machine": {"cores": os.cpu_count(), "processor": platform.machine(), "load": os.getloadavg()},
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--gib", type=float, default=5.0, help="size of the file in GiB (default: 5)")
    parser.add_argument("--ranks", type=int, default=4, help="number of ranks (default: 4)")
    parser.add_argument("--members", type=int, default=2, help="members on each rank (default: 2)")
    parser.add_argument("--steps", type=int, default=1000, help="steps of the run (default: 1000)")
    parser.add_argument("--held", type=int, default=250_000, help="events in a rank's memory (default: 250000)")
    parser.add_argument("--folder", type=Path, help="folder for the temporary file")
    parser.add_argument("--output", type=Path, default=HERE / "results/large_file.json", help="file of the results")
    parser.add_argument("--rank", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank:
        rank(options.rank)
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        result = measure(Path(folder), options)
    for k, facts in enumerate(result["ranks"]):
        print(f"rank {k}: at most {facts['peak_bytes'] / 2**20:.0f} MiB, {facts['wall_s']:.0f} s")
    options.output.parent.mkdir(exist_ok=True)
    options.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
