"""What happens to runs and their users when jobs fail, are cancelled, requeued or preempted, or lose nodes and servers.

    python benchmarks/schedulers.py                     # 20 minutes; writes benchmarks/results/schedulers.json
    python benchmarks/schedulers.py --only slurm --event "node lost" --output /tmp/schedulers.json

Each cell of the table is an event, a scheduler and a door of the kit: `play` of tests/schedulers.py.  Slurm is a real
one of one node; PBS, of which no package exists, is simulated with the answers of a real one.  Cells that are not
chosen keep the results that are stored.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))

from schedulers import CELLS, EXCLUDED, LIMIT_S, ROOMS, is_good, play  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=list(ROOMS), help="a single scheduler")
    parser.add_argument("--event", help="a single event")
    parser.add_argument("--door", help="a single door")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "schedulers.json", help="file of the results")
    options = parser.parse_args()
    cells = []
    for name, room in ROOMS.items():
        chosen = [cell[1:] for cell in CELLS if cell[0] == name and options.only in (None, name)]
        chosen = [(event, door) for event, door in chosen if options.event in (None, event)]
        chosen = [(event, door) for event, door in chosen if options.door in (None, door)]
        if not chosen:
            continue
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, room(Path(folder)).open() as opened:
            for event, door in chosen:
                try:
                    cells.append(play(opened, event, door))
                except Exception:
                    traceback.print_exc()
                    cells.append({"scheduler": name, "event": event, "door": door, "outcome": "FAILED"})
                print(_words(cells[-1]), flush=True)
    is_good_now = all(cell["outcome"] != "FAILED" and is_good(cell) for cell in cells)
    known = json.loads(options.output.read_text())["cells"] if options.output.exists() else []
    found = {_key(cell): cell for cell in [*known, *cells]}
    cells = [found[cell] for cell in CELLS if cell in found]
    excluded = [[*cell, reason] for cell, reason in EXCLUDED.items()]
    about = {"limit_s": LIMIT_S, "slurm": _version(), "excluded": excluded, "cells": cells}
    options.output.write_text(json.dumps(about, indent=1) + "\n")
    sys.exit(not is_good_now)


def _key(cell):
    return cell["scheduler"], cell["event"], cell["door"]


def _version():
    return subprocess.run(["sbatch", "--version"], capture_output=True, text=True, check=False).stdout.strip()


def _words(cell):
    words = f"{cell['scheduler']:6}{cell['event']:24}{cell['door']:10}{cell['outcome']:10}"
    if cell["outcome"] == "FAILED":
        return words
    bad = [name for name in ("has_reason", "has_log", "is_kept", "advice_works") if not cell[name]]
    return f"{words}{cell['seconds']!s:6} s{' NOT GOOD: ' * (not is_good(cell))}{bad or ''} ({cell['took_s']} s)"


if __name__ == "__main__":
    main()
