"""The cost of writing, keeping and reading a large store, and whether it can be read while it is being written.

    python benchmarks/store.py                     # 400 ranks, 100 000 steps; writes benchmarks/results/store.json
    python benchmarks/store.py --ranks 20 --openings 50 --output /tmp/store.json

There are three parts: a store of synthetic rows, written by the writer that all runs use and read in a separate
process; the time of writing a block of rows, and of checksums and digests, and the CPU time of signs of life and of
looking for a request to stop, compared with the time of training; and a reader that opens a run of 4 ranks while they
train.  Parts that are not chosen keep their stored results.
"""

import argparse
import inspect
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec

from sagips_kit import open_run, read_status, request_stop
from sagips_kit.store import integrity
from sagips_kit.store.create import create_run
from sagips_kit.store.layout import RunLayout
from sagips_kit.store.writer import RunWriter

HERE = Path(__file__).parent
N_LIVE = 4  # number of ranks that train while a reader opens their store
TRUTH = (2.1875, -0.5, 3.0, 1.09375, -0.5, 4.0)


def synthetic_rows(layout, rng):
    """Rows as a rank would write them: parameters that converge, losses, times."""
    n, members = len(layout.steps), layout.n_members
    settling = np.exp(-np.arange(n) / (0.1 * n))[:, None]
    theta = TRUTH + settling + 1e-3 * rng.normal(size=(members, n, len(TRUTH))).cumsum(1) / np.sqrt(n)
    return {
        "theta": theta.astype(np.float32),
        "loss_discriminator": (1.386 + 0.02 * rng.normal(size=(members, n))).astype(np.float32),
        "loss_generator": (0.02 * rng.normal(size=(members, n))).astype(np.float32),
        "waited_s": rng.exponential(0.01, n),
        "elapsed_s": np.cumsum(0.1 + rng.exponential(0.01, n)),
        "staleness": rng.integers(0, 4, n).astype(float),
        "rejected": np.zeros(n),
    }


def part_of(rows, first, stop):
    return {name: values[:, first:stop] if values.ndim > 1 else values[first:stop] for name, values in rows.items()}


def write_large(path, n_ranks, n_steps, n_members):
    """Write the synthetic run: rank 0 block by block, as in training, and each other rank in one piece.

    Returns the seconds of creating the store, and of each block of rank 0.
    """
    from sagips_kit import Proxy, Settings

    layout = RunLayout(
        n_ranks=n_ranks,
        n_replicas=n_ranks,
        n_members=n_members,
        n_steps=n_steps,
        record_every=10,
        rows_per_block=Settings().rows_per_block,
        n_draws=50,
        n_predictive=20,
        n_snapshots=Settings().n_snapshots,
        n_sets=4,
        n_scores=2000,
    )
    rng = np.random.default_rng(0)
    problem = Proxy()
    reference = {"mle": np.array(TRUTH), "deviation": np.full(6, 0.1), "covariance": 0.01 * np.eye(6)}
    events = problem.observed(None, rng)
    started = time.perf_counter()
    create_run(path, problem, layout, spec={"settings": {"n_events": 1024}}, events=events, reference=reference)
    create_s = time.perf_counter() - started
    blocks_s = []
    for rank in range(n_ranks):
        rows = synthetic_rows(layout, rng)
        with RunWriter(path, rank, rank) as writer:
            block = layout.rows_per_block if rank == 0 else len(layout.steps)
            for first in range(0, len(layout.steps), block):
                started = time.perf_counter()
                writer.write_rows(first, part_of(rows, first, first + block))
                writer.set_progress(layout.steps[min(first + block, len(layout.steps)) - 1])
                blocks_s += [time.perf_counter() - started] if rank == 0 else []
            for step in layout.snapshot_steps:
                sets = rng.normal(TRUTH, 0.1, (n_members, layout.n_sets, 6))
                writer.write_snapshot(step, parameters=sets, events=rng.random((n_members, layout.n_predictive, 2)))
            scores = rng.normal(0, 0.1, (2, n_members, layout.n_scores))
            writer.write_scores(generated=scores[0], observed=scores[1])
            draws = TRUTH + 0.1 * rng.normal(size=(n_members, layout.n_draws, 6))
            writer.write_chains(draws, rng.random((n_members, layout.n_draws, layout.n_predictive, 2)))
    return create_s, blocks_s


def read_large(path):
    """Open and plot the run in this process; returns seconds and peak memory."""
    import matplotlib

    matplotlib.use("Agg")
    from sagips_kit import plot

    before, cpu_s = peak_mib(), time.process_time()
    started = time.perf_counter()
    run = open_run(path)
    opened = time.perf_counter()
    plot.convergence(run).figure.savefig(Path(path).with_suffix(".png"), dpi=100)
    drawn = time.perf_counter()
    return {
        "open_s": opened - started,
        "plot_s": drawn - opened,
        "open_and_plot_cpu_s": time.process_time() - cpu_s,
        "peak_mib": peak_mib(),
        "imports_mib": before,
    }


def peak_mib():
    """Peak memory of this process; not `ru_maxrss`, which starts at the value of the parent process."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024


def measure_large(folder, options):
    path = folder / "large.zarr"
    create_s, blocks_s = write_large(path, options.ranks, options.steps, options.members)
    files = [file for file in path.rglob("*") if file.is_file()]
    history = zarr.open_group(path, mode="r")["history"]
    raw = sum(array.nbytes for _, array in history.arrays())
    on_disk = sum(file.stat().st_size for file in (path / "history").rglob("*") if file.is_file())
    command = [sys.executable, __file__, "--read", str(path)]
    read = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return {
        "ranks": options.ranks,
        "steps": options.steps,
        "members": options.members,
        "parameters": 6,
        "create_s": create_s,
        "files": len(files),
        "mib": sum(file.stat().st_size for file in files) / 2**20,
        "history_mib": on_disk / 2**20,
        "history_mib_uncompressed": raw / 2**20,
        "block_ms": 1e3 * statistics.median(blocks_s),
        "block_ms_95": 1e3 * float(np.quantile(blocks_s, 0.95)),
        **read,
    }


def measure_writing(folder, options):
    """The part of training time that writing blocks and snapshots takes, on one rank with the default settings.

    It is the median of three runs, because a disk occasionally takes a hundred times as long for a file.
    """
    runs = sorted(
        (_written_part(folder / f"{number}.zarr", options.training) for number in range(3)),
        key=lambda run: run["fraction_of_training"],
    )
    return runs[1] | {"of_each_run": [run["fraction_of_training"] for run in runs]}


def _written_part(store, n_steps):
    from sagips_kit import Proxy, RunSpec, Settings, World, prepare, run_rank
    from sagips_kit.running.coordination import Milestones
    from sagips_kit.store.heartbeat import Heartbeat
    from sagips_kit.training import predictions

    spec = RunSpec(problem=Proxy(), store=str(store), settings=Settings(), n_steps=n_steps, fit=False, reference=False)
    prepare(spec, n_ranks=1)
    blocks_s, checks_s, beats_s, looks_s = [], [], [], []
    calls = [(RunWriter, name, blocks_s) for name in ("write_rows", "set_progress", "write_snapshot")]
    calls.append((predictions, "snapshot", blocks_s))
    calls += [(Crc32cCodec, name, checks_s) for name in ("_encode_single", "_decode_single")]
    calls += [(integrity, name, checks_s) for name in ("_sealed", "opened")]
    of_cpu = [(Heartbeat, "_write", beats_s), (Milestones, "wants_rows", looks_s)]  # a thread waits for the training
    clocks = [time.perf_counter] * len(calls) + [time.thread_time] * len(of_cpu)
    calls += of_cpu
    untimed = [getattr(owner, name) for owner, name, _ in calls]
    for (owner, name, seconds), function, clock in zip(calls, untimed, clocks, strict=True):
        setattr(owner, name, _timed(function, seconds, clock))
    try:
        result = run_rank(spec, World.alone("cpu"))
    finally:
        for (owner, name, _), function in zip(calls, untimed, strict=True):
            setattr(owner, name, function)
    elapsed_s = result["elapsed_s"]
    return {
        "step_ms": 1e3 * elapsed_s / n_steps,
        "fraction_of_training": sum(blocks_s) / elapsed_s,
        "checksums": len(checks_s),
        "checksums_of_training": sum(checks_s) / elapsed_s,
        "signs_of_life": len(beats_s),
        "signs_of_life_of_training": sum(beats_s) / elapsed_s,
        "looks_for_a_request": len(looks_s),
        "looks_for_a_request_of_training": sum(looks_s) / elapsed_s,
    }


def _timed(function, seconds, clock):
    """The function, which adds its times to a list."""

    def call(*args, **options):
        started = clock()
        try:
            return function(*args, **options)
        finally:
            seconds.append(clock() - started)

    async def call_async(*args, **options):
        started = clock()
        try:
            return await function(*args, **options)
        finally:
            seconds.append(clock() - started)

    return call_async if inspect.iscoroutinefunction(function) else call


def check(history, seen):
    """Raise unless all rows up to the progress exist, no row beyond is visible, and no row has changed since `seen`."""
    theta, steps = history["theta"].values, history["step"].values
    for rank, reached in enumerate(history["progress"].values):
        valid = steps <= reached
        if not np.isfinite(theta[rank][:, valid]).all():
            raise AssertionError(f"rank {rank}: rows up to step {reached} are missing")
        if np.isfinite(theta[rank][:, ~valid]).any():
            raise AssertionError(f"rank {rank}: rows beyond step {reached} are visible")
        known = np.isfinite(seen[rank])
        if (theta[rank][known] != seen[rank][known]).any():
            raise AssertionError(f"rank {rank}: rows have changed")
    return theta


def measure_live(folder, options):
    """Open a run `options.openings` times while 4 ranks train it, writing blocks of two rows."""
    from sagips_kit import Proxy, Ring, RunSpec, Settings

    path = folder / "live.zarr"
    settings = Settings(n_members=2, n_events=128, record_every=1, rows_per_block=2, n_draws=2, n_predictive=2)
    given = {"exchange": Ring(), "settings": settings, "n_steps": 30_000, "fit": False}
    spec = RunSpec(problem=Proxy(n_observed=2000), store=str(path), **given)
    (folder / "live.json").write_text(spec.to_json())
    beside = Path(sys.executable).with_name("mpiexec")
    launcher = str(beside) if beside.exists() else shutil.which("mpiexec")
    command = [launcher, "-n", str(N_LIVE), sys.executable, "-m", "mpi4py", "-m", "sagips_kit", "run"]
    with open(folder / "live.txt", "w") as log:
        ranks = subprocess.Popen([*command, str(folder / "live.json")], stdout=log, stderr=log)
    try:
        while not path.exists() or read_status(path).step == 0:
            if ranks.poll() is not None:
                raise RuntimeError((folder / "live.txt").read_text())
            time.sleep(0.1)
        first, times = read_status(path).step, []
        seen = np.full(open_run(path)["history"]["theta"].shape, np.nan)
        for _ in range(options.openings):
            started = time.perf_counter()
            run = open_run(path)
            times.append(time.perf_counter() - started)
            seen = check(run["history"], seen)
        steps = read_status(path).step - first
        is_live = ranks.poll() is None
        request_stop(path, int(read_status(path).steps.max()) + 200)
        ranks.wait(120)
    finally:
        ranks.kill()
    if not is_live:
        raise RuntimeError("The run ended before the reader did.")
    return {
        "writers": N_LIVE,
        "openings": options.openings,
        "errors": 0,
        "rows_written_meanwhile": steps * N_LIVE,
        "open_ms": 1e3 * statistics.median(times),
    }


PARTS = {"large": measure_large, "writing": measure_writing, "live": measure_live}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=400, help="ranks of the large store")
    parser.add_argument("--steps", type=int, default=100_000, help="steps of the large store")
    parser.add_argument("--members", type=int, default=4, help="members on each of its ranks")
    parser.add_argument("--openings", type=int, default=500, help="how often the running run is opened")
    parser.add_argument("--training", type=int, default=2000, help="steps of the run whose writing is timed")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "store.json", help="file of the results")
    parser.add_argument("--read", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.read:
        print(json.dumps(read_large(options.read)))
        return
    results = json.loads(options.output.read_text()) if options.output.exists() else {}
    results |= {"machine": f"{platform.machine()}, {os.cpu_count()} cores", "python": platform.python_version()}
    results |= {"zarr": zarr.__version__}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in options.parts:
            results[part] = PARTS[part](folder, options)
            print(part, json.dumps(results[part], indent=2), flush=True)
    options.output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
