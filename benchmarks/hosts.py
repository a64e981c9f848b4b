"""Modes of exchange on several hosts that are connected by slow links, and with a link that is cut for a while.

    sudo .venv/bin/python benchmarks/hosts.py         # Linux, as root; benchmarks/results/hosts.json

Each host is a network namespace of this machine, and a bridge connects them.  MPICH treats the namespaces as separate
computers and sends between them by TCP; ranks of one host share memory.  Links are slowed by `tc`: a token bucket
limits the rate, and `netem` adds latency or loss.  Not every kernel has `netem`; links that cannot be emulated are left
out, and the output says so.  Compute is emulated as in `scaling.py`.

The first part takes the link of the last host down in the middle of a run.  It measures the rates at which ranks step
before, during and after the interruption, how soon after it all ranks continue, and whether they all end with the mean
of all weights, so that nothing was lost.  Groups whose leaders exchange two-sided train until their next outer exchange
is due, and wait there; groups whose leaders exchange one-sided do not wait.  MPI sends by TCP here, which repeats lost
packets.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from scaling import N_WEIGHTS, measure_alone, measure_mode, store_in, summary, take_step, usual_modes
from simulate import Compute

from sagips_kit.ranks.world import World

HERE = Path(__file__).parent
PREFIX, NETWORK = "sagips-host", "10.77.0"


def ip(*words):
    subprocess.run(["ip", *map(str, words)], check=True)


@contextlib.contextmanager
def hosts(n):
    """Create `n` network namespaces, `sagips-host0` and so on, on one bridge, and remove them at the end."""
    made = []
    try:
        for name in (f"{PREFIX}s", *(f"{PREFIX}{k}" for k in range(n))):
            ip("netns", "add", name)
            made.append(name)
            ip("-n", name, "link", "set", "lo", "up")
        ip("-n", f"{PREFIX}s", "link", "add", "bridge", "type", "bridge")
        ip("-n", f"{PREFIX}s", "link", "set", "bridge", "up")
        for k in range(n):
            host, port = ["-n", f"{PREFIX}{k}"], ["-n", f"{PREFIX}s"]
            ip(
                "link",
                "add",
                "net0",
                "netns",
                f"{PREFIX}{k}",
                "type",
                "veth",
                "peer",
                f"port{k}",
                "netns",
                f"{PREFIX}s",
            )
            ip(*port, "link", "set", f"port{k}", "master", "bridge", "up")
            ip(*host, "addr", "add", f"{NETWORK}.{k + 1}/24", "dev", "net0")
            ip(*host, "link", "set", "net0", "up")
        yield
    finally:
        for name in made:
            ip("netns", "del", name)


def slow_down(n, link):
    """Limit all links to "free", a rate, or options of netem.  Returns False if the kernel cannot do so."""
    words = ["netem", *link.split()] if " " in link else ["tbf", "rate", link, "burst", "256kb", "latency", "100ms"]
    ends = [(f"{PREFIX}{k}", "net0") for k in range(n)] + [(f"{PREFIX}s", f"port{k}") for k in range(n)]
    for space, device in ends if link != "free" else []:
        command = ["tc", "-n", space, "qdisc", "replace", "dev", device, "root", *words]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
        if "qdisc kind is unknown" in done.stderr:
            return False
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return True


def start_on_hosts(path, n_hosts, per_host, *options):
    """Start this file on all hosts with `path` for the result; returns the Popen of mpiexec."""
    launcher = path.with_name("launcher")
    # mpiexec calls the launcher as it would call ssh: options, the host, the command.
    launcher.write_text(
        '#!/bin/sh\nwhile [ "${1#-}" != "$1" ]; do shift; done\nk=$((${1##*.} - 1)); shift\n'
        f'exec ip netns exec {PREFIX}$k unshare --uts sh -c "hostname host$k; $*"\n'
    )
    launcher.chmod(0o700)
    mpiexec = Path(sys.executable).with_name("mpiexec")
    mpiexec = str(mpiexec) if mpiexec.exists() else shutil.which("mpiexec")
    names = ",".join(f"{NETWORK}.{k + 1}" for k in range(n_hosts))
    command = ["ip", "netns", "exec", f"{PREFIX}0", mpiexec, "-launcher", "ssh", "-launcher-exec", launcher]
    command += [
        "-hosts",
        names,
        "-ppn",
        per_host,
        "-n",
        n_hosts * per_host,
        sys.executable,
        __file__,
        "--rank",
        path,
        *options,
    ]
    # UCX looks past namespaces and would use the memory that they share.
    env = os.environ | {"UCX_TLS": "tcp,self", "UCX_NET_DEVICES": "net0"}
    env["UCX_TCP_KEEPIDLE"] = "600s"  # otherwise it gives up a silent connection after 16 s
    env |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE)])}
    return subprocess.Popen([*map(str, command)], env=env)


def measure_rates(world, options):
    """Measure the rates of all modes, as `scaling.py` does."""
    compute = Compute(options.step_ms / 1e3, options.jitter)
    rng = np.random.default_rng([0, world.rank])
    with tempfile.TemporaryDirectory() as own:
        folder = world.comm.bcast(own)
        path = store_in(folder, "alone", world, options)
        rounds = {"alone": [measure_alone(world, compute, options.steps, path)]}
        for index, (name, mode) in enumerate(usual_modes(world.size // options.hosts, options.period).items()):
            path = store_in(folder, f"{index}", world, options)
            rounds[name] = [measure_mode(world, mode, compute, options.steps, options.period, path, rng)]
        world.barrier()
    return summary(rounds, compute)


def modes_to_cut(size, period):
    """The modes that are tested with a cut link: name -> Exchange."""
    modes = usual_modes(size, period)
    return {
        "outer two-sided": modes["grouped, one-sided"],
        "outer one-sided": modes["grouped, one-sided throughout"],
    }


def measure_cut(world, options):
    """Record when each rank ended each step, in seconds of the machine's clock, and the final error of the weights.

    Nothing is trained here, so all weights should end at the mean over ranks of the initial weights.
    """
    compute = Compute(options.step_ms / 1e3, options.jitter)
    rng = np.random.default_rng([1, world.rank])
    mode = modes_to_cut(world.size // options.hosts, options.period)[options.cut]
    buffer, ended = torch.randn(1, N_WEIGHTS, generator=torch.Generator().manual_seed(world.rank)), []
    mean = np.mean(world.comm.allgather(buffer.numpy().copy()), axis=0)
    with mode.open(world, buffer) as channel:
        for step, work_s in enumerate(compute.draw(rng, options.steps)):
            take_step(channel, buffer, step, work_s, compute)
            ended.append(time.perf_counter())
            if step == options.period and world.rank == 0:
                Path(f"{options.rank}.begun").touch()
    off = world.comm.allgather(float(np.abs(buffer.numpy() - mean).max()))
    return {"ended": world.comm.allgather(ended), "off_the_mean": max(off)}


def run_rank(options):
    world = World.from_mpi(device="cpu", timeout_s=120)
    result = (measure_cut if options.cut else measure_rates)(world, options)
    if world.rank == 0:
        Path(options.rank).write_text(json.dumps(result))


def cut(ranks, n_hosts, path, cut_s):
    """Cut the last host's link for `cut_s` once training has started; returns start and end of the cut, in seconds."""
    begun = Path(f"{path}.begun")
    while not begun.exists():
        if ranks.poll() is not None:
            raise RuntimeError(f"mpiexec ended with {ranks.returncode}.")
        time.sleep(0.05)
    begun.unlink()
    host = ["-n", f"{PREFIX}{n_hosts - 1}", "link", "set", "net0"]
    ip(*host, "down")
    start = time.perf_counter()
    time.sleep(cut_s)
    ip(*host, "up")
    return start, time.perf_counter()


def summary_of_cut(result, window):
    """What the ranks did before the link was cut, while it was cut, and after it was restored."""
    ended, (start, stop) = np.array(result["ended"]), window
    periods = {"before": (ended.min(), start), "meanwhile": (start, stop), "after": (stop, ended.max(1).min())}
    steps = {name: ((ended > low) & (ended <= high)).sum(1) for name, (low, high) in periods.items()}
    return {
        "cut_s": stop - start,
        "steps": {name: counts.tolist() for name, counts in steps.items()},
        "rate_hz": {name: float(steps[name].mean() / (high - low)) for name, (low, high) in periods.items()},
        "first_step_after_s": float(max(times[times > stop].min() - stop for times in ended)),
        "longest_step_s": float(np.diff(ended, axis=1).max()),
        "steps_of_each_rank": ended.shape[1],
        "off_the_mean": result["off_the_mean"],
    }


def show_cut(name, found):
    rates = ", ".join(f"{rate:.1f} {when}" for when, rate in found["rate_hz"].items())
    print(f"\nlink cut for {found['cut_s']:.0f} s, {name}: steps per second: {rates}")
    print(
        "all ranks continue {first_step_after_s:.1f} s after it is restored; longest step {longest_step_s:.1f} s; all "
        "{steps_of_each_rank} steps done; final weights {off_the_mean:.1g} from the mean".format(**found),
        flush=True,
    )


def finished(process, path):
    if process.wait():
        raise RuntimeError(f"mpiexec ended with {process.returncode}.")
    result = json.loads(path.read_text())
    path.unlink()
    return result


def ended_by_signal(number, frame):
    sys.exit(128 + number)  # runs the `finally` clauses, which remove the namespaces


def main():
    signal.signal(signal.SIGTERM, ended_by_signal)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", type=int, default=2, help="number of hosts")
    parser.add_argument("--per-host", type=int, default=4, help="ranks on each host")
    links = ["free", "1gbit", "100mbit", "delay 1ms", "loss 1%"]
    parser.add_argument("--links", nargs="*", default=links, help="rates in bits per second, or options of netem")
    parser.add_argument("--step-ms", type=float, default=50.0, help="mean length of a step, in ms")
    parser.add_argument("--jitter", type=float, default=0.1, help="standard deviation of a step, relative to its mean")
    parser.add_argument("--steps", type=int, default=200, help="steps of each mode, a multiple of the period")
    parser.add_argument("--period", type=int, default=100, help="steps between outer exchanges")
    parser.add_argument("--cut-s", type=float, default=20.0, help="seconds during which the link is cut; 0: skip")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "hosts.json", help="file of the results")
    parser.add_argument("--rank", help=argparse.SUPPRESS)
    parser.add_argument("--cut", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank:
        return run_rank(options)
    if os.geteuid() != 0:
        parser.error("network namespaces need root: put `sudo` in front of the command.")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    names = ("hosts", "step_ms", "jitter", "period")
    shared = [word for name in names for word in (f"--{name.replace('_', '-')}", getattr(options, name))]
    result = {"cores": os.cpu_count()}
    result |= {name: getattr(options, name) for name in (*names, "per_host", "steps")}
    with tempfile.TemporaryDirectory() as folder, hosts(options.hosts):
        path = Path(folder) / "result.json"
        # Four outer exchanges, plus as many steps as fit into twice the time of the cut.
        n_steps = (4 + int(2e3 * options.cut_s / options.step_ms) // options.period) * options.period
        result["cut"] = {}
        for name in modes_to_cut(1, 1) if options.cut_s else []:
            ranks = start_on_hosts(path, options.hosts, options.per_host, "--steps", n_steps, "--cut", name, *shared)
            window = cut(ranks, options.hosts, path, options.cut_s)
            result["cut"][name] = summary_of_cut(finished(ranks, path), window)
            show_cut(name, result["cut"][name])
        result["rates"], result["left out"] = {}, []
        for link in options.links:
            if not slow_down(options.hosts, link):
                result["left out"].append(link)
                print(f"\nlinks: {link}: left out, because this kernel has no netem", flush=True)
                continue
            ranks = start_on_hosts(path, options.hosts, options.per_host, "--steps", options.steps, *shared)
            result["rates"][link] = finished(ranks, path)
            print(f"\nlinks: {link}; rate per rank / rate of a single rank, waiting in steps, staleness")
            for name, found in result["rates"][link].items():
                if name != "alone":
                    print("{rate:8.3f} {waited:7.3f} {staleness:6.1f}".format(**found), name, flush=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
