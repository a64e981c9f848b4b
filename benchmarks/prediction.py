"""Simulated cost of the modes of exchange on hundreds of GPUs and more, checked against measurements.

    python benchmarks/prediction.py      # about 5 minutes; JSON and a figure in benchmarks/results

The script reads the results of `scaling.py` and `exchange.py` and does three things.  It simulates the runs that
`scaling.py` measured, from the costs of single exchanges; the differences are the error of the simulation.  It
simulates the published algorithm with three numbers taken from the published figure (both grouped modes on 4 ranks,
ARAR on 100), and compares the other twelve numbers.  It predicts the modes of this package for 400, 4 096 and 65 536
ranks, with several group sizes and periods.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from scaling import usual_modes
from simulate import Compute, Costs, Forwarding, simulate

from sagips_kit.exchange import AllReduce, Chain, Every, Hypercube, Independent, Leaders, OneSided, Ring, Within

HERE = Path(__file__).parent
NODE = 4  # GPUs per node of the assumed machine

# Millions of events per second, by number of ranks: arXiv 2407.00051.  The values for 400 ranks are printed there; the
# others were read off a figure, to 2 to 4 %.
EVENTS_OF_A_STEP = 102_400
ALONE = 3.1
PUBLISHED = {
    "ARAR": {4: 8.0, 20: 39.0, 100: 169.0, 200: 280.0, 400: 422.0},
    "ARAR-ARAR": {4: 8.4, 20: 42.0, 100: 213.0, 200: 420.0, 400: 836.0},
    "RMA-ARAR-ARAR": {4: 8.1, 20: 40.0, 100: 198.0, 200: 395.0, 400: 791.0},
}
SIZES, PERIODS = (4, 16), (10, 100, 1000)
N_RANKS = (400, 4096, 65536)
# Network of the assumed machine (not measured): time of a message including its Python code, and 10 GB/s.
MESSAGE_S, BYTES_PER_S, N_BYTES = 1e-4, 1e10, 4 * 51_206


def measured_costs(n, mode, results, step_s, cores):
    """Costs of this mode's exchanges among `n` ranks of one node, as measured without compute between them."""
    bare, idle_s = results[mode]["bare"], results["independent"]["bare"]["usual"]["wall_s"]
    if mode == "synchronous":
        # All ranks leave at the same moment, so their other work shares the cores just as it does without compute.
        return Costs(node=n, buffer_s=bare["usual"]["wall_s"] / 2)
    # The time of a step without exchange and without compute, on all ranks at once, is not a cost of the exchange.
    usual_s = max(0.0, bare["usual"]["wall_s"] - idle_s)
    outer_s = max(0.0, bare["outer"]["wall_s"] - bare["usual"]["wall_s"])
    if "one-sided" in mode:
        return Costs(
            node=n, slots_s=(on_shared_cores(bare["usual"]["cpu_s"], n, step_s, cores), 0.0), meeting_s=(outer_s, 0.0)
        )
    return Costs(node=n, meeting_s=(usual_s, 0.0))


def on_shared_cores(cpu_s, n, step_s, cores):
    """Duration of work of `cpu_s` in each step of `n` ranks if it has to wait for cores that other ranks use."""
    added_s = cpu_s
    for _ in range(100):  # fixed-point iteration: a longer step leaves the cores less busy
        busy = n * cpu_s / (cores * (step_s + added_s))
        added_s = cpu_s / max(1 - busy, cpu_s / step_s)
    return added_s


def validate(measured, seed=1):
    """Simulate the measured runs; returns simulated and measured rates, a list of dict."""
    options, found = measured["options"], []
    for n, results in measured["ranks"].items():
        alone_s = 1 / results["alone"]["rate_hz"]
        compute = Compute(
            alone_s, options["jitter"], options["pauses"], overlap=options["overlap"], n_polls=options["polls"]
        )
        for name, result in results.items():
            if name == "alone" or int(n) < 2 or int(n) % min(int(n), options["size"]):
                continue
            costs = measured_costs(int(n), name, results, alone_s, measured["cores"])
            mode = usual_modes(min(int(n), options["size"]), options["period"])[name]
            outcomes = [simulate(mode, int(n), compute, costs, options["steps"], seed + k) for k in range(5)]
            rate = float(np.mean([outcome.rate for outcome in outcomes]))
            found.append(
                {
                    "ranks": int(n),
                    "mode": name,
                    "measured": result["rate"],
                    "simulated": rate,
                    "error": rate / result["rate"] - 1,
                    "staleness measured": result["staleness"],
                    "staleness simulated": float(np.mean([outcome.staleness for outcome in outcomes])),
                    "cores_busy": result["cores_busy"],
                }
            )
    return found


def published(jitter):
    """Simulate the published algorithm, with the times of a step in a node and of a hop from the figure."""
    step_s, hop_s = _calibrated()
    inner = Within(Forwarding(), size=NODE)
    one_sided_s = EVENTS_OF_A_STEP * 4 / (1e6 * PUBLISHED["RMA-ARAR-ARAR"][4])
    outer = {"size": NODE, "hand_down": False}
    cases = {
        "ARAR": (Forwarding(), step_s),
        "ARAR-ARAR": (Every(1000, Leaders(Forwarding(), **outer), otherwise=inner), step_s),
        "RMA-ARAR-ARAR": (
            Every(1000, Leaders(Forwarding(), **outer), otherwise=Within(OneSided(), size=NODE)),
            one_sided_s,
        ),
    }
    found = {}
    for name, (mode, seconds) in cases.items():
        compute, costs = Compute(seconds, jitter, overlap=0.0), Costs(node=NODE, message_s=hop_s)
        rates = {n: simulate(mode, n, compute, costs, 1000).rate for n in PUBLISHED[name]}
        found[name] = {
            n: {"published": PUBLISHED[name][n], "simulated": rate * n * EVENTS_OF_A_STEP / seconds / 1e6}
            for n, rate in rates.items()
        }
    return {"step_s": step_s, "hop_s": hop_s, "one_sided_step_s": one_sided_s, "jitter": jitter, "curves": found}


def _calibrated():
    """Times of a step inside a node and of a hop, in s, from ARAR-ARAR on 4 ranks and ARAR on 100, without jitter."""
    of_4 = EVENTS_OF_A_STEP * 4 / (1e6 * PUBLISHED["ARAR-ARAR"][4])
    of_100 = EVENTS_OF_A_STEP * 100 / (1e6 * PUBLISHED["ARAR"][100])
    hop_s = (of_100 - of_4) / (99 - 3)
    return of_4 - 3 * hop_s, hop_s


def assumed_costs(exchange_costs):
    """Costs with sums in memory as measured on 4 ranks of this machine, and messages as assumed."""
    of_4 = exchange_costs["ranks"]["4"]["median_us"]
    meeting, slots = (of_4[name] * 1e-6 / 4 for name in ("Ring()", "OneSided()"))
    return Costs(NODE, (0.0, meeting), (0.0, slots), MESSAGE_S, N_BYTES / BYTES_PER_S)


def grouped(inner, size, period, outer):
    return Chain(Within(inner, size=size), Every(period, Leaders(outer, size=size)))


def candidates():
    """The modes that are predicted for many ranks: name -> Exchange."""
    one_sided, weights, tree = OneSided(), Ring(payload="weights"), Hypercube(payload="weights")
    return {
        "independent": Independent(),
        "published ring": Forwarding(),
        "synchronous": AllReduce(),
        "ring": Ring(),
        "hypercube": Hypercube(),
        "grouped, outer ring": grouped(Ring(), NODE, 100, weights),
        "grouped, outer hypercube": grouped(Ring(), NODE, 100, tree),
        "grouped, one-sided, outer ring": grouped(one_sided, NODE, 100, weights),
        "grouped, one-sided, outer hypercube": grouped(one_sided, NODE, 100, tree),
    }


def predict(costs, compute, n_steps):
    """Predict rates, waits and staleness of the candidates, and rates by group size and period."""
    table, choices = {}, {}
    for n in N_RANKS:
        table[n] = {}
        for name, mode in candidates().items():
            outcome = simulate(mode, n, compute, costs, n_steps)
            millions = outcome.rate * n * EVENTS_OF_A_STEP / compute.mean_s / 1e6
            table[n][name] = {**vars(outcome), "millions_of_events_per_s": millions}
        choices[n] = {
            f"size {size}, every {period}": simulate(
                grouped(OneSided(), size, period, Hypercube(payload="weights")), n, compute, costs, 1000
            ).rate
            for size in SIZES
            for period in PERIODS
        }
    return {"table": table, "choices": choices}


def draw(result, path):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (here, there) = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    colors = ["0.6", "#1b6ca8", "#3c9d6b", "#8e5ea2", "#e08a1e", "#d1495b", "#7a5c3e"]
    for color, name in zip(colors, dict.fromkeys(row["mode"] for row in result["validation"]), strict=False):
        rows = [row for row in result["validation"] if row["mode"] == name]
        ranks = [row["ranks"] for row in rows]
        here.semilogx(ranks, [row["simulated"] for row in rows], color=color, base=2)
        here.semilogx(ranks, [row["measured"] for row in rows], "o", color=color, label=name, base=2)
    here.set(xlabel="ranks", ylabel="rate per rank / rate of a single rank", ylim=(0, 1.1))
    here.xaxis.set_major_formatter("{x:.0f}")
    here.set_title("emulated compute on this machine: measured (dots), simulated (lines)", fontsize=9)
    here.legend(fontsize=8, loc="lower left")
    for color, (name, curve) in zip(colors[1:], result["published"]["curves"].items(), strict=False):
        ranks = list(curve)
        there.loglog(
            ranks, [point["published"] / ALONE / n for n, point in curve.items()], "o", color=color, label=name
        )
        there.loglog(ranks, [point["simulated"] / ALONE / n for n, point in curve.items()], color=color)
    for style, name in zip(
        (":", "--", "-"), ("ring", "grouped, outer ring", "grouped, one-sided, outer hypercube"), strict=True
    ):
        rates = [rows[name]["rate"] for rows in result["prediction"]["table"].values()]
        there.loglog(N_RANKS, rates, style, color="0.2", marker="s", mfc="none", label=f"predicted: {name}")
    there.set(xlabel="ranks", ylabel="rate per rank / rate of a single rank")
    there.set_title("published (dots) and simulated (lines); predictions for this package (squares)", fontsize=9)
    there.legend(fontsize=8, loc="lower left")
    figure.savefig(path, dpi=120)


def show(result):
    print("ranks  measured  simulated   error  mode")
    for row in result["validation"]:
        print("{ranks:5d} {measured:9.3f} {simulated:10.3f} {error:+7.1%}  {mode}".format(**row))
    print(f"root mean square error {result['error']['rms']:.1%}, largest {result['error']['largest']:.1%}\n")
    for name, curve in result["published"]["curves"].items():
        pairs = ", ".join(f"{n}: {point['published']:.0f} / {point['simulated']:.0f}" for n, point in curve.items())
        print(f"{name}, published / simulated: {pairs}")
    print(f"largest difference {result['published']['largest']:.1%}\n\nranks    rate  waited  staleness  mode")
    for n, rows in result["prediction"]["table"].items():
        for name, row in rows.items():
            print(f"{n:5d} {row['rate']:7.3f} {row['waited']:7.3f} {row['staleness']:10.1f}  {name}")
    for n, rates in result["prediction"]["choices"].items():
        print(f"{n} ranks, grouped, one-sided, outer hypercube:")
        for size in SIZES:
            print(f"  size {size:3d}", *(f"every {h}: {rates[f'size {size}, every {h}']:.3f}" for h in PERIODS))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measured", type=Path, default=HERE / "results" / "scaling.json", help="from scaling.py")
    parser.add_argument("--exchange", type=Path, default=HERE / "results" / "exchange.json", help="from exchange.py")
    parser.add_argument("--jitter", type=float, default=0.1, help="of predicted steps, in mean steps")
    parser.add_argument("--polls", type=int, default=1000, help="polls of the exchange in a step's second part")
    parser.add_argument("--steps", type=int, default=500, help="steps of the predicted runs")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "prediction.json", help="file of the results")
    options = parser.parse_args()
    validation = validate(json.loads(options.measured.read_text()))
    errors = np.array([row["error"] for row in validation])
    paper = published(jitter=0.0)
    points = [point for curve in paper["curves"].values() for point in curve.values()]
    paper["largest"] = max(abs(point["simulated"] / point["published"] - 1) for point in points)
    compute = Compute(EVENTS_OF_A_STEP / (1e6 * ALONE), options.jitter, n_polls=options.polls)
    costs = assumed_costs(json.loads(options.exchange.read_text()))
    result = {
        "validation": validation,
        "error": {"rms": float(np.sqrt(np.mean(errors**2))), "largest": float(np.abs(errors).max())},
        "published": paper,
        "assumed": {"compute": vars(compute), "costs": vars(costs)},
        "prediction": predict(costs, compute, options.steps),
    }
    show(result)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    draw(result, options.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
