"""Everything that only a machine with an accelerator can tell, in at most 8 minutes; checks come first.

    python benchmarks/gpu.py                       # writes benchmarks/results/gpu.json, and prints a table last
    python benchmarks/gpu.py --seconds 120
    python benchmarks/gpu.py --device cpu --small  # in a minute, to see that the script works

It needs PyTorch and NumPy alone: what else the kit imports, and is not installed, is replaced by the few lines of
it that a training step uses.  The checks: random numbers are those of the CPU, bit by bit; simulated events and their
derivatives agree in double precision, and training steps in single; recorded steps do what plain ones do; and a
resumed run has the same bits.
"""

import argparse
import ast
import contextlib
import dataclasses
import importlib
import json
import os
import platform
import sys
import time
import types
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))


def stand_ins():
    """Replace packages that are missing by what a training step needs of them; returns their names."""
    needed = ("lazy_loader", "psutil", "pydantic", "scipy")
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    for name in missing:
        sys.modules[name] = types.ModuleType(name)
        globals()[f"_{name}"](sys.modules[name])
    return missing


def _lazy_loader(module):
    def attach_stub(package, file):
        tree, places = ast.parse(Path(file).with_suffix(".pyi").read_text()), {}
        for node in tree.body:
            if isinstance(node, ast.ImportFrom):
                places |= {alias.name: f"{package}.{node.module}" for alias in node.names}
        return lambda name: getattr(importlib.import_module(places[name]), name), lambda: [*places], [*places]

    module.attach_stub = attach_stub


def _psutil(module):
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    module.virtual_memory = lambda: types.SimpleNamespace(total=total)


def _pydantic(module):
    def dataclass(config=None, **options):
        return dataclasses.dataclass(**options)

    module.dataclasses = types.SimpleNamespace(dataclass=dataclass)
    module.ConfigDict, module.Field, module.BeforeValidator = dict, lambda *_, **__: None, lambda function: function
    module.InstanceOf = type("InstanceOf", (), {"__class_getitem__": lambda _, kind: kind})
    module.ValidationError = type("ValidationError", (ValueError,), {})


def _scipy(module):
    for name in ("special", "stats", "optimize"):
        setattr(module, name, types.ModuleType(f"scipy.{name}"))
        sys.modules[f"scipy.{name}"] = getattr(module, name)
    for name in ("ndtr", "ndtri"):
        function = getattr(torch.special, name)
        setattr(module.special, name, lambda x, function=function: function(torch.as_tensor(x)).numpy())


MISSING = stand_ins()
from sagips_kit import Proxy, Settings, Trainer, World  # noqa: E402
from sagips_kit.events.random_bits import RandomBits  # noqa: E402

WIDTHS, FLOP_PER_EVENT, BYTES_PER_EVENT = (128,) * 4, 0.8e6, 4 * 128 * 4 * 6
SHAPES = {"1024 x 100": (1024, 100), "64 x 100": (64, 100)}
MEMBERS = (1, 2, 4, 8, 16, 32, 64)


class Clock:
    """What is left of the time, and the time that functions take on the device."""

    def __init__(self, device, seconds):
        self.device, self._end = torch.device(device), time.perf_counter() + seconds

    @property
    def left_s(self):
        return self._end - time.perf_counter()

    def wait(self):
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)

    def median_s(self, function, seconds, n=1):
        """Median time of a call; `function` does `n` of them at once."""
        function()
        self.wait()
        times, end = [], time.perf_counter() + min(seconds, self.left_s)
        while len(times) < 3 or time.perf_counter() < end:
            start = time.perf_counter()
            function()
            self.wait()
            times.append((time.perf_counter() - start) / n)
        return float(np.median(times))


@contextlib.contextmanager
def products(name):
    """Let matrix products be as the name says, "float32" or "TF32"; other figures are those of PyTorch's own choice."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = not name.startswith("float32")
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def make_trainer(problem, device, n_steps=10**6, **changes):
    events = problem.observed(None, np.random.default_rng(0))
    settings = Settings(**{"record_every": 10, "n_snapshots": 1, **changes})
    return Trainer(problem, settings, events, n_steps=n_steps, world=World.alone(device))


def checks(clock):
    """Whether the device does what the CPU does: name -> (largest difference, whether it is small enough)."""
    device, problem, cpu = clock.device, Proxy(n_observed=2000), torch.device("cpu")
    found = {}
    turns = torch.arange(5)[:, None, None]
    bits = [RandomBits([3, 2**63 + 5], 1000, where)(turns.to(where)).cpu() for where in (cpu, device)]
    found["random bits"] = float((bits[0] != bits[1]).sum()), torch.equal(*bits)

    kinds = [torch.float32] if device.type == "mps" else [torch.float64, torch.float32]
    for kind, limit in zip(kinds, (1e-9, 1e-3) if len(kinds) > 1 else (1e-3,), strict=True):
        values = []
        for where in (cpu, device):
            theta = torch.tensor(problem.truth, dtype=kind, device=where).requires_grad_()
            noise = torch.linspace(0.01, 0.99, 400, dtype=torch.float64).view(200, 2).to(kind).to(where)
            events = problem.simulate(theta, noise)
            (slope,) = torch.autograd.grad(events.square().sum(), theta)
            values.append(torch.cat([events.detach().flatten(), slope]).double().cpu())
        difference = float(((values[0] - values[1]).abs() / (1 + values[0].abs())).max())
        found[f"events and derivatives, {kind}".replace("torch.", "")] = difference, difference < limit

    small = {"n_events": 256, "n_members": 2, "n_draws": 3}
    plain = make_trainer(problem, "cpu", 40, **small)
    runs = {"steps": {"capture": "off"}} | ({"recorded steps": {}} if device.type == "cuda" else {})
    reference = plain.run().theta
    for name, changes in runs.items():
        difference = float(np.abs(make_trainer(problem, device, 40, **small, **changes).run().theta - reference).max())
        found[f"{name} like those of the CPU"] = difference, difference < 0.02
    whole, first, second = (make_trainer(problem, device, 40, **small) for _ in range(3))
    whole.run()
    first.run(20)
    second.load_state_dict(first.state_dict())
    second.run()
    difference = float(np.abs(second.draws - whole.draws).max())
    found["resumed with the same bits"] = difference, difference == 0
    return {name: {"difference": off, "passed": bool(is_good)} for name, (off, is_good) in found.items()}


def ceilings(clock, seconds, small):
    """Rates that nothing on this device exceeds: of matrix products and of memory."""
    n, result = 512 if small else 8192, {}
    for name, kind in (("float32", torch.float32), ("TF32", torch.float32), ("bfloat16", torch.bfloat16)):
        one, other = (torch.randn(n, n, device=clock.device).to(kind) for _ in range(2))
        out = torch.empty_like(one)
        with products(name):
            cost = clock.median_s(lambda one=one, other=other, out=out: torch.mm(one, other, out=out), seconds)
        result[f"{name}, TFLOP/s"] = 2e-12 * n**3 / cost
    source = torch.empty(2**22 if small else 2**28, device=clock.device)
    target = torch.empty_like(source)
    result["memory, GB/s"] = 8e-9 * len(source) / clock.median_s(lambda: target.copy_(source), seconds)
    return result


def rates(clock, limits, seconds, small):
    """Events per second of the publication's networks and batches, and as a fraction of the lower ceiling."""
    result = {}
    for title, (n_sets, n_each) in SHAPES.items():
        n_sets = n_sets // 64 if small else n_sets
        shape = {"n_sets": n_sets, "n_events": n_sets * n_each, "latent_dim": 6, "n_members": 1, "bootstrap": False}
        for name, changes in {
            "float32": {"capture": "off"},
            "float32, recorded": {},
            "TF32": {"capture": "off"},
            "TF32, recorded": {},
            "bfloat16, recorded": {"precision": "bfloat16"},
        }.items():
            problem = Proxy(n_observed=20_000 if small else 204_800)
            widths = {"generator_widths": WIDTHS, "discriminator_widths": WIDTHS}
            trainer = make_trainer(problem, clock.device, **shape, **widths, **changes)
            with products(name):
                cost = clock.median_s(lambda trainer=trainer: trainer.run(10), seconds, 10)
            rate = n_sets * n_each / cost
            of_products = limits[f"{name.split(',')[0]}, TFLOP/s"] * 1e12 / FLOP_PER_EVENT
            ceiling = min(of_products, limits["memory, GB/s"] * 1e9 / BYTES_PER_EVENT)
            result[f"{title}, {name}"] = {"events_per_s": rate, "of_ceiling": rate / ceiling}
            if clock.left_s < 60:
                return result
    return result


def members(clock, seconds, small):
    """Time of a step with many members at the default settings, relative to one."""
    result, first = {}, None
    for n in MEMBERS[:3] if small else MEMBERS:
        trainer = make_trainer(Proxy(n_observed=20_000), clock.device, n_members=n)
        cost = clock.median_s(lambda trainer=trainer: trainer.run(10), seconds, 10)
        first = first or cost
        result[str(n)] = {"ms": 1e3 * cost, "over_one": cost / first}
        if clock.left_s < 45:
            break
    return result


def calls(clock):
    """What the host asks of a device in a step, from the profiler; only of GPUs of NVIDIA and AMD."""
    if clock.device.type != "cuda":
        return {}
    from torch.profiler import ProfilerActivity, profile

    result, n = {}, 8
    for name, changes in {"plain": {"capture": "off"}, "recorded": {}}.items():
        trainer = make_trainer(Proxy(n_observed=20_000), clock.device, record_every=1000, axes_every=0, **changes)
        trainer.run(20)
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
            for _ in range(n):
                trainer._train_step()
            clock.wait()
        counts = {}
        for event in seen.key_averages():
            if event.key.startswith(("cuda", "hip")):
                counts[event.key] = event.count / n
        result[name] = counts
    return result


def floor(clock, n_steps, small):
    """Seconds until the proxy's chains are at the likelihood fit of the same events, and how near they come."""
    problem = Proxy(n_observed=5000 if small else 51_200)
    events = torch.tensor(problem.observed(None, np.random.default_rng(0)))
    lower, upper = (torch.tensor(end, dtype=torch.float64) for end in (problem.lower, problem.upper))

    def loss(theta):
        return problem.residuals(theta, events).square().sum() / 2 - problem.log_likelihood(theta, events)

    t = ((torch.tensor(problem.truth, dtype=torch.float64) - lower) / (upper - lower)).requires_grad_()
    search = torch.optim.LBFGS(
        [t], max_iter=500, history_size=20, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def closure():
        search.zero_grad()
        value = loss(lower + (upper - lower) * t) / len(events)
        value.backward()
        return value

    search.step(closure)
    theta = (lower + (upper - lower) * t).detach()
    curvature = torch.func.hessian(loss)(theta)
    trainer = make_trainer(problem, clock.device, n_steps, bootstrap=False)
    start = time.perf_counter()
    trainer.run()
    clock.wait()
    elapsed_s = time.perf_counter() - start
    off = torch.tensor(trainer.draws.mean(1)) - theta
    joint = torch.einsum("mi,ij,mj->m", off, curvature, off).div(len(theta)).sqrt()
    return {"steps": n_steps, "seconds": elapsed_s, "joint_distance": [round(float(one), 3) for one in joint]}


def table(found):
    """The results as lines of text."""
    yield f"{found['device']}, torch {found['torch']}, {found['date']}"
    if found["stand_ins"]:
        yield f"not installed, and replaced: {', '.join(found['stand_ins'])}"
    for name, check in found["checks"].items():
        yield f"  {'passed' if check['passed'] else 'FAILED'}  {name} ({check['difference']:.2g})"
    for name, rate in found.get("ceilings", {}).items():
        yield f"  {name:34s} {rate:14,.1f}"
    for name, rate in found.get("rates", {}).items():
        yield f"  {name:34s} {rate['events_per_s']:14,.0f} events/s, {rate['of_ceiling']:.0%} of the lower ceiling"
    for n, cost in found.get("members", {}).items():
        yield f"  {n + ' members':34s} {cost['ms']:14.2f} ms, {cost['over_one']:.2f} x one"
    for name, counts in found.get("calls", {}).items():
        yield f"  calls of a step, {name}: {json.dumps(counts)}"
    if "floor" in found:
        one = found["floor"]
        yield f"  proxy, {one['steps']} steps: {one['seconds']:.1f} s, joint distances {one['joint_distance']}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default=None, help="for instance cuda, xpu or cpu; by default what there is")
    parser.add_argument("--seconds", type=float, default=420.0, help="after which nothing new is begun")
    parser.add_argument("--small", action="store_true", help="small batches, to see that the script works")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "gpu.json", help="file of the results")
    options = parser.parse_args()
    world = World.alone(options.device)
    clock, short = Clock(world.device, options.seconds), 0.2 if options.small else 4.0
    name = str(world.device)
    if world.device.type in ("cuda", "xpu"):
        name = torch.get_device_module(world.device).get_device_name(world.device)
    found = {"device": f"{name} ({platform.machine()})", "torch": torch.__version__, "stand_ins": MISSING}
    found |= {"date": time.strftime("%Y-%m-%d"), "checks": checks(clock)}
    found["calls"] = calls(clock)
    found["ceilings"] = ceilings(clock, short / 4, options.small)
    found["floor"] = floor(clock, 60 if options.small else 1500, options.small)
    for section, measure in (
        ("rates", lambda: rates(clock, found["ceilings"], short, options.small)),
        ("members", lambda: members(clock, short, options.small)),
    ):
        if clock.left_s > 45:
            found[section] = measure()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found))
    print("\n".join(table(found)))
    if not all(check["passed"] for check in found["checks"].values()):
        sys.exit("A check failed: the figures say nothing.")


if __name__ == "__main__":
    main()
