"""Many hostile inputs for each entry point: specs, stores, checkpoints, files of events, messages.

    python benchmarks/fuzz.py                       # 10 000 each; writes benchmarks/results/fuzz.json
    python benchmarks/fuzz.py --inputs 200 --only messages --output /tmp/fuzz.json

The inputs and what is asked of the answers are those of the tests (tests/test_fuzz.py), which take fewer.
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
from pathlib import Path
from xml.etree import ElementTree

HERE = Path(__file__).parent
TESTS = HERE.parent / "tests" / "test_fuzz.py"
_STATISTICS = "hypothesis-statistics-"


def fuzz(n_inputs, only, report):
    """Run the tests with so many inputs each; returns their exit status, and leaves a report in JUnit's format."""
    # The limits of single tests are for few inputs.
    options = ["-q", "-o", "timeout=0", "-o", "faulthandler_timeout=0", "-p", "no:cacheprovider", "-k", only]
    line = [sys.executable, "-m", "pytest", str(TESTS), *options, f"--junitxml={report}"]
    roots = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(line, env=os.environ | {"SAGIPS_FUZZ": str(n_inputs), "PYTHONPATH": roots}).returncode


def entries(report):
    """What the report says of each test: list of dict."""
    tree = ElementTree.parse(report)
    statistics = {
        item.get("name").rpartition("::")[2]: base64.b64decode(item.get("value")).decode()
        for item in tree.iter("property")
        if item.get("name").startswith(_STATISTICS)
    }
    return [_entry(case, statistics.get(case.get("name"), "")) for case in tree.iter("testcase")]


def _entry(case, statistics):
    # Inputs that had to be thrown away before the test saw them are invalid, and do not count.
    counts = [list(map(int, numbers)) for numbers in re.findall(r"(\d+) passing[^,]*, (\d+) failing", statistics)]
    failure = case.find("failure")
    return {
        "entry": case.get("name").removeprefix("test_").replace("_", " "),
        "inputs": sum(map(sum, counts)),
        "failing": sum(failing for _, failing in counts),
        "seconds": round(float(case.get("time")), 1),
        "outcome": "as promised" if failure is None else failure.get("message")[:300],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=10_000, help="for each entry point (default: 10000)")
    parser.add_argument("--only", default="", help="part of the name of a test")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "fuzz.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        status = fuzz(options.inputs, options.only, report)
        result = {"asked": options.inputs, "machine": platform.machine(), "entries": entries(report)}
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    for entry in result["entries"]:
        print(f"{entry['entry']:50}{entry['inputs']:8} inputs {entry['seconds']:8} s  {entry['outcome']}")
    sys.exit(status)


if __name__ == "__main__":
    main()
