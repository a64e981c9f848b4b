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

from schedulers import CELLS, DOORS, EVENTS, EXCLUDED, LIMIT_S, ROOMS, is_good, play  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=list(ROOMS), help="a single scheduler")
    parser.add_argument("--event", action="append", help="an event; may be repeated")
    parser.add_argument("--door", action="append", help="a door; may be repeated")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "schedulers.json", help="file of the results")
    options = parser.parse_args()
    known = json.loads(options.output.read_text())["cells"] if options.output.exists() else []
    found, are_good = {_key(cell): cell for cell in known}, []
    for name, room in ROOMS.items():
        chosen = [cell[1:] for cell in CELLS if cell[0] == name and options.only in (None, name)]
        chosen = [(event, door) for event, door in chosen if event in (options.event or EVENTS)]
        chosen = [(event, door) for event, door in chosen if door in (options.door or DOORS)]
        if not chosen:
            continue
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, room(Path(folder)).open() as opened:
            for event, door in chosen:
                try:
                    cell = play(opened, event, door)
                except Exception:
                    traceback.print_exc()
                    cell = {"scheduler": name, "event": event, "door": door, "outcome": "FAILED"}
                print(_words(cell), flush=True)
                found[_key(cell)] = cell
                are_good.append(cell["outcome"] != "FAILED" and is_good(cell))
                _write(options.output, found)
    sys.exit(not all(are_good))


def _write(path, found):
    excluded = [[*cell, reason] for cell, reason in EXCLUDED.items()]
    about = {"limit_s": LIMIT_S, "slurm": _version(), "events": EVENTS, "excluded": excluded}
    path.write_text(json.dumps(about | {"cells": [found[cell] for cell in CELLS if cell in found]}, indent=1) + "\n")


def _key(cell):
    return cell["scheduler"], cell["event"], cell["door"]


def _version():
    return subprocess.run(["sbatch", "--version"], capture_output=True, text=True, check=False).stdout.strip()


def _words(cell):
    words = f"{cell['scheduler']:6}{cell['event']:24}{cell['door']:10}{cell['outcome']:10}"
    if cell["outcome"] == "FAILED":
        return words
    bad = [name for name in ("has_reason", "has_log", "is_kept", "advice_works") if not cell[name]]
    words = f"{words}{cell['seconds']!s:6} s, in {cell['took_s']} s"
    return words if is_good(cell) else f"{words} NOT GOOD: {bad}\n    {cell['seen']}"


if __name__ == "__main__":
    main()
