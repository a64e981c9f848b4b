"""Run the first two notebooks as a batch job would, and print their results: `make demo`."""

import argparse
import signal
import sys
import time
from pathlib import Path

from sagips_kit.report.line import ticking, working

HERE = Path(__file__).parent
NOTEBOOKS = {"00_quickstart": "quickstart", "01_dayabay": "dayabay"}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=4, help="number of MPI engines (default: 4)")
    options = parser.parse_args()
    with working("loading Jupyter and sagips_kit"):
        import papermill

        from sagips_kit.report.progress_line import Follower
    runs = HERE / "runs"
    runs.mkdir(exist_ok=True)
    started = time.monotonic()
    for notebook, name in NOTEBOOKS.items():
        executed = runs / f"{notebook}.ipynb"
        print(f"{notebook}.ipynb on {options.n} MPI engines", flush=True)
        # Show errors only: a kernel on this machine needs no encryption, but would warn about its absence.
        quiet = {"progress_bar": False, "extra_arguments": ["--log-level=40"]}
        run = Follower(runs / f"{name}.zarr", before="starting the notebook and its engines")
        with ticking(lambda run=run: f"    {time.monotonic() - started:4.0f} s  {run.line()}"):
            papermill.execute_notebook(HERE / f"{notebook}.ipynb", executed, {"n": options.n}, cwd=HERE, **quiet)
    for notebook, name in NOTEBOOKS.items():
        report(runs, notebook, name)
    print(f"\nBoth notebooks together took {(time.monotonic() - started) / 60:.1f} minutes.")


def report(runs, notebook, name):
    from sagips_kit import analysis, open_run

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
