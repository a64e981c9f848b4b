"""The cost of each kind of fault, in each place, on one of 2 or 4 ranks: what the user sees, and the time to resume.

    python benchmarks/faults.py                     # writes benchmarks/results/faults.json
    python benchmarks/faults.py --only SIGKILL --output /tmp/faults.json

The faults are those of tests/faults.py.  The tests assert the outcome; this script only records it.
"""

import argparse
import json
import platform
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))

from faults import CELLS, attempt, make_spec, play  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help="a single kind of fault, such as SIGKILL")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "faults.json", help="file of the results")
    options = parser.parse_args()
    cells = []
    with tempfile.TemporaryDirectory() as folder:
        wholes, undisturbed_s = {}, {}
        for n_ranks in sorted({cell[-1] for cell in CELLS}):
            wholes[n_ranks] = make_spec(Path(folder), f"whole-{n_ranks}")
            status, output, seconds = attempt(wholes[n_ranks], n_ranks)
            undisturbed_s[n_ranks] = round(seconds, 1)
            if status != 0:
                raise SystemExit(output)
        for kind, where, n_ranks in CELLS:
            if options.only in (None, kind):
                cells.append(play(Path(folder), kind, where, n_ranks, wholes[n_ranks].store))
                print(f"{kind:16}{where:22}{n_ranks} ranks: {_words(cells[-1])}", flush=True)
    about = {"machine": platform.processor() or platform.machine(), "undisturbed_s": undisturbed_s}
    options.output.write_text(json.dumps(about | {"cells": cells}, indent=1) + "\n")


def _words(cell):
    if cell["hangs"]:
        return "HANGS"
    if cell["survived"]:
        return f"survived; {cell['seen']}"
    words = f"{cell['rows_lost']} rows lost, {cell['rows_repeated']} repeated, resumed in {cell['seconds_to_resume']} s"
    return f"{words}, {'same' if cell['is_same'] else 'OTHER'} bits; {cell['seen']}"


if __name__ == "__main__":
    main()
