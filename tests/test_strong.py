"""The evaluation of runs by the strong-scaling benchmark, in cases with known results, and the benchmark itself."""

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.append(str(BENCHMARKS))  # at the end of the path, because files in both folders may have the same names
strong = importlib.import_module("strong")


def test_bias_and_noise_are_separated(rng):
    bias, noise = rng.normal(0, 0.3, (40, 1, 6)), rng.normal(0, 0.2, (40, 5, 6))
    found = strong.parts_of_the_distance(bias + noise)
    assert found["bias"] == pytest.approx(0.3, rel=0.1) and found["noise"] == pytest.approx(0.2, rel=0.1)
    assert found["distance"] == pytest.approx(np.hypot(0.3, 0.2), rel=0.1)


def test_the_steps_to_a_goal_lie_between_the_lengths_around_it():
    rows = [{"steps": n, "distance": 40 / n} for n in (20, 80, 320)]
    assert strong.steps_until(rows, 0.5) == pytest.approx(80)
    assert strong.steps_until(rows, 0.25) == pytest.approx(160)
    assert strong.steps_until(rows, 0.1) is None
    assert strong.steps_until(rows, 3) == 20


def test_costs_include_all_ranks_and_the_share_of_the_batch():
    # Twice as many ranks reach the goal in half the steps, or in equally many if the batch is divided among them.
    options = SimpleNamespace(steps=[100, 200, 400], data=1, seeds=2, ranks=[1, 4], step_ms=100.0)
    done = {}
    for n, kind in [(1, strong.EACH), (4, strong.EACH), (4, strong.SHARED)]:
        for steps in options.steps:
            distance = 200 / steps / (n if kind == strong.EACH else 1)
            done |= {strong.key(kind, n, steps, 0, seed): [distance] * 6 for seed in range(2)}
    found = strong.summary(done, options)
    assert found[strong.SHARED]["1"] == found[strong.EACH]["1"]
    expected = {"steps": pytest.approx(200), "events": pytest.approx(200 * 1024), "emulated_s": pytest.approx(20)}
    assert found[strong.EACH]["1"]["goals"]["1.0"] == expected
    assert found[strong.SHARED]["4"]["goals"]["1.0"] == expected | {"emulated_s": pytest.approx(5)}
    assert found[strong.EACH]["4"]["goals"]["0.3"]["steps"] == pytest.approx(500 / 3)
    assert found[strong.EACH]["4"]["goals"]["0.3"]["events"] == pytest.approx(500 / 3 * 4 * 1024)
    assert found[strong.EACH]["1"]["goals"]["0.3"] is None


@pytest.mark.mpi
def test_stored_runs_are_not_repeated(tmp_path):
    path = tmp_path / "strong.json"
    command = [sys.executable, BENCHMARKS / "strong.py", "--ranks", "1", "2", "--data", "1", "--seeds", "2"]
    command += ["--out", path, "--steps"]
    subprocess.run([*command, "20"], check=True, capture_output=True, timeout=300)
    first = json.loads(path.read_text())["distances"]
    assert len(first) == 2 * (1 + 2) and all(np.isfinite(distances).all() for distances in first.values())
    output = subprocess.run([*command, "20", "30"], check=True, capture_output=True, text=True, timeout=300).stdout
    result = json.loads(path.read_text())
    assert first.items() <= result["distances"].items() and len(result["distances"]) == 2 * len(first)
    assert output.count(", seed ") == len(first)
    assert result["summary"][strong.SHARED]["2"]["batch_of_a_rank"] == 512
    assert path.with_suffix(".png").exists()
