"""The measurement for the day on which there is an accelerator works, with PyTorch and NumPy alone."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu.py"
# As on a machine without the other packages
HIDE = """
import importlib.util, runpy, sys
hidden = ("lazy_loader", "psutil", "pydantic", "pydantic_core", "scipy")
class Hidden:
    def find_spec(self, name, *given):
        if name.partition(".")[0] in hidden:
            raise ModuleNotFoundError(name, name=name)
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *given: None if name in hidden else find(name, *given)
sys.meta_path.insert(0, Hidden())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
import torch
assert not torch.backends.cuda.matmul.allow_tf32, "a choice for one figure is that of others, too"
"""


def test_it_runs_on_a_bare_machine(tmp_path):
    out = tmp_path / "gpu.json"
    command = [sys.executable, "-c", HIDE, SCRIPT, "--device=cpu", "--small", "--seconds=60", f"--out={out}"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(out.read_text())
    assert found["stand_ins"] == ["lazy_loader", "psutil", "pydantic", "scipy"]
    assert len(found["checks"]) == 5 and all(check["passed"] for check in found["checks"].values())
    assert all(0 < distance < 1e4 for distance in found["floor"]["joint_distance"])
    assert found["ceilings"]["memory, GB/s"] > 0 and "passed  resumed with the same bits" in done.stdout
