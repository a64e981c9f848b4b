"""What faults cost: each kind, in each place, on one of two ranks; what the user sees, and the time to resume.

    python benchmarks/faults.py                     # writes benchmarks/results/faults.json
    python benchmarks/faults.py --only SIGKILL --output /tmp/faults.json

The faults are those of the tests (tests/faults.py), which judge what is only listed here.
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
    parser.add_argument("--only", help="a kind of fault")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "faults.json")
    options = parser.parse_args()
    cells = []
    with tempfile.TemporaryDirectory() as folder:
        whole = make_spec(Path(folder), "whole")
        status, output, seconds = attempt(whole)
        if status != 0:
            raise SystemExit(output)
        for kind, where in CELLS:
            if options.only in (None, kind):
                cells.append(play(Path(folder), kind, where, whole.store))
                print(f"{kind:16}{where:22}{_words(cells[-1])}", flush=True)
    about = {"ranks": 2, "machine": platform.processor() or platform.machine(), "undisturbed_s": round(seconds, 1)}
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
