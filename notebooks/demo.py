"""Run the first two notebooks as a batch job would, and print their results: `make demo`."""

import argparse
import signal
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import papermill

from sagips_kit import analysis, open_run
from sagips_kit.report.progress_line import snapshot

HERE = Path(__file__).parent
NOTEBOOKS = {"00_quickstart": "quickstart", "01_dayabay": "dayabay"}
INTERVAL_S = 15.0  # between two lines of progress


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=4, help="number of MPI engines (default: 4)")
    options = parser.parse_args()
    runs = HERE / "runs"
    runs.mkdir(exist_ok=True)
    started = time.monotonic()
    for notebook, name in NOTEBOOKS.items():
        executed = runs / f"{notebook}.ipynb"
        print(f"{notebook}.ipynb on {options.n} MPI engines", flush=True)
        # Show errors only: a kernel on this machine needs no encryption, but would warn about its absence.
        quiet = {"progress_bar": False, "extra_arguments": ["--log-level=40"]}
        with progress_of(runs / f"{name}.zarr"):
            papermill.execute_notebook(HERE / f"{notebook}.ipynb", executed, {"n": options.n}, cwd=HERE, **quiet)
    for notebook, name in NOTEBOOKS.items():
        report(runs, notebook, name)
    print(f"\nBoth notebooks together took {(time.monotonic() - started) / 60:.1f} minutes.")


@contextmanager
def progress_of(store):
    """Print every few seconds how far the run in a store is, which a notebook makes meanwhile."""
    ended, earlier, started = threading.Event(), written_at(store), time.monotonic()

    def show():
        while not ended.wait(INTERVAL_S):
            line = "preparing the run"
            if written_at(store) not in (None, earlier):  # else the store is that of an earlier demo
                with suppress(OSError, ValueError):  # the store is being created
                    line = snapshot(store).line()
            print(f"    {time.monotonic() - started:4.0f} s  {line}", flush=True)

    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def written_at(store):
    """When a store was created; None if there is none."""
    try:
        return (store / "zarr.json").stat().st_mtime_ns
    except OSError:
        return None


def report(runs, notebook, name):
    run = open_run(runs / f"{name}.zarr")
    print(f"\n{notebook}: {analysis.distance_to_mle(run):.2f} floor units (RMS) from the maximum-likelihood estimate\n")
    print(f"{analysis.verdict(run).headline}\n")
    print(analysis.summary(run).head(6).to_string(float_format="%.4g"))
    print(f"\n  notebook  {runs / notebook}.ipynb\n  store     {runs / name}.zarr")
    print(f"  figures   {runs / 'figures' / name}_*.png")


if __name__ == "__main__":
    # On SIGTERM, exit normally, so that the kernel shuts down and ends its engines.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    main()
