"""A long run whose ranks are killed and paused at random: is it complete, is its answer good, does its memory grow?

    python benchmarks/soak.py                       # 4 ranks, 30 minutes; writes benchmarks/results/soak.json
    python benchmarks/soak.py --minutes 2 --output /tmp/soak.json

Ranks are killed during the first half of the time, and the run is resumed after each kill.  The second half measures
the memory, whose growth shows only in a process that lives long.  Ranks are paused during the whole time.
"""

import argparse
import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
from ranks import mpiexec_line, rank_environment

from sagips_kit import Proxy, Ring, RunSpec, Settings, analysis, open_run, read_status

HERE = Path(__file__).parent
PILOT_STEPS = 400
CHECKPOINT_S = 10.0
PART_TRAINED = 0.8  # fraction of the time for training; the rest is for starts, pauses and repeated steps
PAUSE_S = (0.2, 5.0)
_LOOK_S = 0.5
_WARM = 0.25  # fraction of the last process's life that is left out, while libraries and buffers are loaded
_MIB = 2.0**20


def make_spec(folder, name, n_steps):
    """The spec of a run, which is also written as a JSON file next to its store."""
    spec = RunSpec(
        problem=Proxy(),
        settings=Settings(),
        exchange=Ring(),
        store=str(folder / f"{name}.zarr"),
        n_steps=n_steps,
        fit=False,
        checkpoint_s=CHECKPOINT_S,
    )
    (folder / f"{name}.json").write_text(spec.to_json())
    return spec


def start(spec, n_ranks, log):
    """Start or resume a run as a user would."""
    arguments = ("-m", "mpi4py", "-m", "sagips_kit", "run", Path(spec.store).with_suffix(".json"), "--resume")
    return subprocess.Popen(mpiexec_line(n_ranks, *arguments), env=rank_environment(), stdout=log, stderr=log)


def ranks_of(process):
    """The processes of the ranks, ordered by rank: list of psutil.Process."""
    found = {}
    with contextlib.suppress(psutil.NoSuchProcess):
        for one in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                if one.exe() == os.path.realpath(sys.executable) and "PMI_RANK" in one.environ():
                    found[int(one.environ()["PMI_RANK"])] = one
    return [found[rank] for rank in sorted(found)]


class Soak:
    """Kills and pauses the ranks of a run until it is finished.

    Attributes
    ----------
    kills, pauses : int
        Number of kills and of pauses so far.
    memory : list of tuple of float
        Samples since the last (re)start: seconds since then, and MiB of each rank.
    """

    def __init__(self, spec, n_ranks, length_s, rng, log):
        self.spec, self.n_ranks, self.log = spec, n_ranks, log
        self._rng, self._kill_gap_s = rng, max(20.0, length_s / 40)
        self._start, self._length_s = time.monotonic(), length_s
        self.kills = self.pauses = 0
        self.memory = []

    def run(self):
        """Resume the run until it ends without being killed; returns its exit status."""
        while True:
            process, self.memory = start(self.spec, self.n_ranks, self.log), []
            try:
                if not self._live(process):
                    return process.wait()
                process.wait(timeout=60)
            finally:
                for one in ranks_of(process):
                    one.kill()
            print(f"{self._passed():6.0f} s: killed at step {self._step()}", flush=True)

    def _live(self, process):
        """Watch the ranks from a start to their end; returns whether a kill ended them."""
        born = self._passed()
        kill_at, pause_at = (born + self._rng.exponential(gap) for gap in (self._kill_gap_s, self._kill_gap_s / 2))
        while process.poll() is None:
            time.sleep(_LOOK_S)
            ranks = ranks_of(process)
            if len(ranks) < self.n_ranks:
                continue
            with contextlib.suppress(psutil.NoSuchProcess):
                self.memory.append((self._passed() - born, *(rank.memory_info().rss / _MIB for rank in ranks)))
                if kill_at < self._passed() < self._length_s / 2:
                    self._rng.choice(ranks).send_signal(signal.SIGKILL)
                    self.kills += 1
                    return True
                if self._passed() > pause_at:
                    self._pause(self._rng.choice(ranks))
                    pause_at = self._passed() + self._rng.exponential(self._kill_gap_s / 2)
            if self._passed() > 4 * self._length_s:
                raise SystemExit(f"The run hangs or is too slow: step {self._step()} of {self.spec.n_steps}.")
        return False

    def _pause(self, rank):
        rank.send_signal(signal.SIGSTOP)
        time.sleep(self._rng.uniform(*PAUSE_S))
        rank.send_signal(signal.SIGCONT)
        self.pauses += 1

    def _passed(self):
        return time.monotonic() - self._start

    def _step(self):
        return read_status(self.spec.store).step if Path(self.spec.store).exists() else 0


def growth(memory):
    """Growth of the memory of each rank: list of dict, in MiB and MiB per hour."""
    kept = np.array([sample for sample in memory if sample[0] >= _WARM * memory[-1][0]])
    seconds, sizes = kept[:, 0], kept[:, 1:]
    slopes = np.polyfit(seconds, sizes, 1)[0] * 3600 if len(kept) > 2 else np.full(sizes.shape[1], np.nan)
    columns = zip(sizes[0], sizes[-1], slopes, strict=True)
    return [
        {"rank": rank, "first": round(first, 1), "last": round(last, 1), "per_hour": round(slope, 2)}
        for rank, (first, last, slope) in enumerate(columns)
    ]


def judged(spec):
    """Checks of the final store: dict."""
    run = open_run(spec.store)
    history, notes = run["history"], run["control"].attrs.get("resumed", [])
    values = [history[name].values for name in ("theta", "loss_discriminator", "loss_generator")]
    left = [path.name for path in Path(spec.store).rglob("*") if path.suffix in (".partial", ".safetensors")]
    return {
        "is_finished": read_status(spec.store).is_finished,
        "rows": int(history.sizes["step"]),
        "rows_missing": int(sum(np.isnan(one).sum() for one in values)),
        "chains": int(run["posterior"].sizes["chain"]),
        "is_whole": all(run["posterior"][name].notnull().all().item() for name in run["posterior"].data_vars),
        "files_left": left,
        "resumptions": len(notes),
        "steps_repeated": sum(note["reached"] - note["from_step"] for note in notes),
        "distance_to_mle": round(analysis.distance_to_mle(run), 3),
    }


def steps_for(folder, n_ranks, length_s, log):
    """Number of steps of a run that takes about `length_s` on these ranks, from a short pilot run."""
    pilot = make_spec(folder, "pilot", PILOT_STEPS)
    if start(pilot, n_ranks, log).wait() != 0:
        raise SystemExit((folder / "log").read_text())
    elapsed = open_run(pilot.store)["history"]["elapsed_s"][0].values
    half = len(elapsed) // 2
    step_s = (elapsed[-1] - elapsed[half]) / (PILOT_STEPS * (1 - (half + 1) / len(elapsed)))
    return max(PILOT_STEPS, round(PART_TRAINED * length_s / step_s))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0, help="duration (default: 30)")
    parser.add_argument("-n", type=int, default=4, help="number of ranks (default: 4)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the kills and pauses")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "soak.json", help="file of the results")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, open(Path(name, "log"), "w") as log:
        folder, length_s = Path(name), 60 * options.minutes
        spec = make_spec(folder, "soak", steps_for(folder, options.n, length_s, log))
        began = time.monotonic()
        soak = Soak(spec, options.n, length_s, np.random.default_rng(options.seed), log)
        if soak.run() != 0:
            raise SystemExit((folder / "log").read_text()[-4000:])
        result = {
            "ranks": options.n,
            "minutes": round((time.monotonic() - began) / 60, 1),
            "n_steps": spec.n_steps,
            "kills": soak.kills,
            "pauses": soak.pauses,
            **judged(spec),
            "memory_mib": growth(soak.memory),
            "memory_minutes": round(soak.memory[-1][0] / 60, 1),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        }
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
