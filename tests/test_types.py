"""Types as a user's editor shows them: a program that uses the whole public API, and mistakes that are found."""

import json
import subprocess
import sys
from pathlib import Path

TYPED = Path(__file__).parent / "typed"
CHECKER = Path(sys.executable).with_name("basedpyright")


def errors_in(path, tmp_path):
    """Line numbers (from 1) on which the checker finds errors, with its messages."""
    settings = {"include": [str(path)], "typeCheckingMode": "basic", "extraPaths": [str(TYPED.parents[1])]}
    project = tmp_path / "pyrightconfig.json"
    project.write_text(json.dumps(settings), encoding="utf-8")
    command = [CHECKER, "--project", project, "--pythonpath", sys.executable, "--outputjson"]
    found = json.loads(subprocess.run(command, capture_output=True, text=True).stdout)["generalDiagnostics"]
    return [(item["range"]["start"]["line"] + 1, item["message"]) for item in found if item["severity"] == "error"]


def test_a_users_program_has_no_type_errors(tmp_path):
    assert errors_in(TYPED / "program.py", tmp_path) == []


def test_typical_mistakes_are_errors(tmp_path):
    path = TYPED / "mistakes.py"
    lines = path.read_text(encoding="utf-8").splitlines()
    wrong = {number for number, line in enumerate(lines, 1) if line.endswith("# error")}
    assert {number for number, _ in errors_in(path, tmp_path)} == wrong
