"""Memory for the events of files that are larger than memory: of a run that streams them, and of a sample of them.

    python benchmarks/large_file.py --gib 5 --ranks 4      # writes benchmarks/results/large_file.json
    python benchmarks/large_file.py --gib 0.1 --steps 200 --held 20000 --output /tmp/large_file.json
    python benchmarks/large_file.py --gib 2 --sample .parquet .csv .h5 .root

A run: each rank reads its share of the file, one window at a time.  The file is a `.npy` array (event, observable) of
float32.  It contains a million events of the proxy, each repeated as often as needed for the size, and is sorted by the
first observable, which is the worst order for reading only a piece.

A sample: 10 000 events are taken from all over a file of each format, of random float64 numbers, by a process that has
imported the kit and the package that reads the format.

The memory reported is the largest resident set of each process, including memory that it shares with others.
"""

import argparse
import importlib
import json
import os
import platform
import re
import subprocess
import sys
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
    """The most memory of this process so far; `ru_maxrss` would start at that of the process which has started it."""
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


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


# Samples

N_SAMPLE, N_PIECE = 10_000, 2**20
READERS = {".parquet": "pyarrow.parquet", ".csv": "pandas", ".h5": "h5py", ".root": "uproot"}


def write_columns(path, n_bytes):
    """Write a file of about this size piece by piece, in the format of its ending; returns the number of rows."""
    rng = np.random.default_rng(0)
    n_pieces = max(1, round(n_bytes / (16 * N_PIECE)))

    def piece():
        return {"x1": rng.random(N_PIECE), "x2": rng.random(N_PIECE)}

    if path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        with pyarrow.parquet.ParquetWriter(path, pyarrow.table(piece()).schema) as file:
            for _ in range(n_pieces):
                file.write_table(pyarrow.table(piece()))
    elif path.suffix == ".csv":
        text = "".join(f"{x1!r},{x2!r}\n" for x1, x2 in zip(*(one.tolist() for one in piece().values()), strict=True))
        n_pieces = max(1, round(n_bytes / len(text)))
        with path.open("w") as file:
            file.write("x1,x2\n")
            for _ in range(n_pieces):
                file.write(text)
    elif path.suffix == ".h5":
        import h5py

        with h5py.File(path, "w") as file:
            columns = [file.create_dataset(name, (n_pieces * N_PIECE,), "f8", chunks=(2**16,)) for name in ("x1", "x2")]
            for k in range(n_pieces):
                for column, numbers in zip(columns, piece().values(), strict=True):
                    column[k * N_PIECE : (k + 1) * N_PIECE] = numbers
    else:
        import uproot

        with uproot.recreate(path, compression=None) as file:
            tree = file.mktree("events", {"x1": "f8", "x2": "f8"})
            for _ in range(n_pieces):
                tree.extend(piece())
    return n_pieces * N_PIECE


def sample(path):
    """Take the sample in this process, and print its memory and time."""
    importlib.import_module(READERS[path.suffix])
    problem, before, start = Proxy(), peak_bytes(), time.perf_counter()
    events = Observed(str(path)).read(problem, N_SAMPLE)
    assert events.shape == (N_SAMPLE, 2) and abs(events.mean() - 0.5) < 0.02
    facts = {"before_bytes": before, "peak_bytes": peak_bytes(), "wall_s": round(time.perf_counter() - start, 1)}
    print(json.dumps(facts))


def sample_of(path, n_bytes):
    """Write a file, take a sample of it in another process, and remove the file."""
    try:
        facts = {"rows": write_columns(path, n_bytes), "bytes": path.stat().st_size}
        command = [sys.executable, __file__, "--path", path]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    finally:
        path.unlink(missing_ok=True)
    facts |= json.loads(done.stdout)
    facts["more_mb"] = round((facts["peak_bytes"] - facts["before_bytes"]) / 1e6)
    size, more = f"{facts['bytes'] / 1e9:.2f} GB", f"{facts['more_mb']} MB more"
    print(f"{path.suffix:9}{size}: {more}, {facts['wall_s']:.0f} s", flush=True)
    return facts


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--gib", type=float, default=5.0, help="size of the file in GiB (default: 5)")
    parser.add_argument("--ranks", type=int, default=4, help="number of ranks (default: 4)")
    parser.add_argument("--members", type=int, default=2, help="members on each rank (default: 2)")
    parser.add_argument("--steps", type=int, default=1000, help="steps of the run (default: 1000)")
    parser.add_argument("--held", type=int, default=250_000, help="events in a rank's memory (default: 250000)")
    parser.add_argument("--folder", type=Path, help="folder for the temporary file")
    parser.add_argument("--output", type=Path, default=HERE / "results/large_file.json", help="file of the results")
    parser.add_argument("--sample", nargs="+", choices=[*READERS], help="take a sample of files of these formats")
    parser.add_argument("--rank", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--path", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank or options.path:
        rank(options.rank) if options.rank else sample(options.path)
        return
    result = json.loads(options.output.read_text()) if options.output.exists() else {}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        if options.sample:
            found = {one: sample_of(Path(folder) / f"events{one}", options.gib * 2**30) for one in options.sample}
            result["samples"] = result.get("samples", {}) | found
        else:
            result |= measure(Path(folder), options)
            for k, facts in enumerate(result["ranks"]):
                print(f"rank {k}: at most {facts['peak_bytes'] / 2**20:.0f} MiB, {facts['wall_s']:.0f} s")
    options.output.parent.mkdir(exist_ok=True)
    options.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
