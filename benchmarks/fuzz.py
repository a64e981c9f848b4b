"""Many malformed inputs for each entry point: specs, stores, checkpoints, files of events, messages.

    python benchmarks/fuzz.py                       # 10 000 for each entry; writes benchmarks/results/fuzz.json
    python benchmarks/fuzz.py --inputs 200 --only messages --output /tmp/fuzz.json

The inputs and the required outcomes are those of tests/test_fuzz.py; the tests use fewer inputs.
"""

import argparse
import base64
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from xml.etree import ElementTree

HERE = Path(__file__).parent
TESTS = HERE.parent / "tests" / "test_fuzz.py"
PROMISED = "as promised"
_STATISTICS = "hypothesis-statistics-"


def fuzz(name, n_inputs, report):
    """Run one test with `n_inputs` inputs, which writes a report in JUnit's format; returns its `entry`."""
    # The time limits of the tests are meant for few inputs.
    options = ["-q", "-o", "timeout=0", "-o", "faulthandler_timeout=0", "-p", "no:cacheprovider"]
    line = [sys.executable, "-m", "pytest", f"{TESTS}::{name}", *options, f"--junitxml={report}"]
    roots = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"SAGIPS_FUZZ": str(n_inputs), "PYTHONPATH": roots}
    done = subprocess.run(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        print(done.stdout, flush=True)
    return entry(report)


def entry(report):
    """Summary of the report on a single test with all its parameters: dict."""
    tree = ElementTree.parse(report)
    cases = list(tree.iter("testcase"))
    properties = (item for item in tree.iter("property") if item.get("name").startswith(_STATISTICS))
    statistics = "".join(base64.b64decode(item.get("value")).decode() for item in properties)
    # Inputs that hypothesis discarded before the test saw them are invalid and are not counted.
    counts = [list(map(int, numbers)) for numbers in re.findall(r"(\d+) passing[^,]*, (\d+) failing", statistics)]
    # JUnit calls a failing fixture an error.
    failures = [found for case in cases for kind in ("failure", "error") for found in case.iter(kind)]
    return {
        "entry": cases[0].get("name").partition("[")[0].removeprefix("test_").replace("_", " "),
        "inputs": sum(map(sum, counts)),
        "failing": sum(failing for _, failing in counts),
        "seconds": round(sum(float(case.get("time")) for case in cases), 1),
        "outcome": failures[0].get("message")[:300] if failures else PROMISED,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=10_000, help="inputs for each entry point (default: 10000)")
    parser.add_argument("--only", default="", help="run only tests whose names contain this text")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="parallel tests (default: one for each core)")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "fuzz.json", help="file of the results")
    options = parser.parse_args()
    names = [name for name in re.findall(r"^def (test_\w+)", TESTS.read_text(), re.MULTILINE) if options.only in name]
    if not names:
        raise SystemExit(f"--only {options.only}: no test in {TESTS} has a name that contains this text.")
    result = {"asked": options.inputs, "machine": platform.machine(), "entries": []}
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(options.jobs) as jobs:
        # The slowest tests are the last ones in the file, so start with them.
        waiting = [jobs.submit(fuzz, name, options.inputs, Path(folder, f"{name}.xml")) for name in names[::-1]]
        for future in as_completed(waiting):
            found = future.result()
            print("{entry:50}{inputs:8} inputs {seconds:8} s  {outcome}".format(**found), flush=True)
            result["entries"].append(found)
            options.output.write_text(json.dumps(result, indent=1) + "\n")
    sys.exit(any(found["outcome"] != PROMISED for found in result["entries"]))


if __name__ == "__main__":
    main()
