"""Whether the intervals of ensembles contain the truth as often as they claim, over many data sets.

    python benchmarks/calibration.py                  # 40 data sets; --data-sets 200 then adds 160

Each data set has its own truth, 10 240 events, and an ensemble of 8 members, each trained on its own resample of a
balanced bootstrap.  For comparison, the same statistics are computed without a GAN: the likelihood fits of 8 resamples
show what the method itself can reach.  Two axes of the covariances belong to the two norms.  The norms are known so
precisely that the variance along these axes is dominated by the curvature of the surface on which they agree, with
either method.  Each finished data set is saved immediately in benchmarks/results/calibration.json, so an interrupted
benchmark continues from there.
"""

import argparse
import json
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from closures import Results, draw_truths

from sagips_kit import Proxy, Settings, Trainer, fisher_information, fit_likelihood
from sagips_kit.analysis import calibration
from sagips_kit.events.resampling import balanced_resample

N_EVENTS, N_STEPS = 10_240, 2000
SETTINGS = Settings(n_members=8)
METHODS = {"ensemble": "GAN ensemble", "likelihood": "likelihood fits of resamples"}
HERE = Path(__file__).parent


def run(data_set, truth):
    """The ensemble, the likelihood fits and the expected covariance of one data set."""
    torch.set_num_threads(1)
    problem = Proxy(n_observed=N_EVENTS, truth=truth)
    events = problem.observed(None, np.random.default_rng([data_set, 1]))
    start = time.process_time()
    trainer = Trainer(problem, SETTINGS, events, n_steps=N_STEPS, seed=data_set)
    trainer.run()
    cpu_s = time.process_time() - start
    fit = fit_likelihood(problem, events, n_starts=1)
    n_members = SETTINGS.n_members
    resamples = [balanced_resample(N_EVENTS, member, n_members, data_set + 1) for member in range(n_members)]
    fits = [fit_likelihood(problem, np.repeat(events, copies, axis=0), n_starts=1).theta for copies in resamples]
    return {
        "data set": data_set,
        "truth": list(truth),
        "mle": fit.theta.tolist(),
        "floor": fit.deviation.tolist(),
        "expected covariance": fisher_information(problem, truth, events).covariance.tolist(),
        "ensemble": trainer.draws.mean(1).tolist(),
        "likelihood": np.array(fits).tolist(),
        "cpu_s": round(cpu_s, 1),
    }


def estimates(runs, method):
    """Estimates in the form that `calibration` expects: Dataset (run, parameter)."""
    chains = np.array([run[method] for run in runs])
    dims = (calibration.RUN, "parameter")
    return xr.Dataset(
        {
            "mean": (dims, chains.mean(1)),
            "deviation": (dims, chains.std(1, ddof=1)),
            "truth": (dims, np.array([run["truth"] for run in runs])),
            "n_chains": chains.shape[1],
        },
        {"parameter": list(Proxy.parameters)},
    )


def summary(runs):
    result = {"data sets": len(runs), "CPU time of a data set [s]": float(np.median([run["cpu_s"] for run in runs]))}
    floor, mle = (np.array([run[name] for run in runs]) for name in ("floor", "mle"))
    expected = np.array([run["expected covariance"] for run in runs])
    for method in METHODS:
        found = estimates(runs, method)
        table = calibration.coverage(found)
        to_mle = (found["mean"].values - mle) / floor
        relative = calibration.relative_covariance([run[method] for run in runs], expected)
        result[method] = {
            f"{level:.0%} intervals hold the truth": {
                "pooled": float(table["pooled"].sel(level=level)),
                "its error": float(table["pooled_error"].sel(level=level)),
                "per parameter": table["coverage"].sel(level=level).values.round(3).tolist(),
                "binomial error": float(table["error"].sel(level=level)),
            }
            for level in calibration.LEVELS
        } | {
            "uniform ranks, p-value": calibration.ranks(found)["p_value"].values.round(3).tolist(),
            "distance to the MLE, RMS per data set": np.sqrt(np.square(to_mle).mean(1)).round(3).tolist(),
            "mean of (estimate - MLE) / floor": to_mle.mean(0).round(3).tolist(),
            "variance over the expected one": np.diag(relative).round(3).tolist(),
            "eigenvalues of covariance over the expected one": np.linalg.eigvalsh(relative).round(3).tolist(),
        }
    return result


def draw(runs, path):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(14, 4.2), layout="constrained")
    colors = {"ensemble": "#1b6ca8", "likelihood": "0.55"}
    at = np.arange(len(Proxy.parameters) + 1)
    bins = np.linspace(0, 1, 11)
    for k, (method, label) in enumerate(METHODS.items()):
        found = estimates(runs, method)
        table = calibration.coverage(found)
        for level in calibration.LEVELS:
            one = table.sel(level=level)
            axes[0].errorbar(
                at + 0.2 * k - 0.1,
                [*one["coverage"].values, float(one["pooled"])],
                [float(one["error"])] * (len(at) - 1) + [float(one["pooled_error"])],
                fmt="o",
                ms=4,
                color=colors[method],
                label=label if level == calibration.LEVELS[0] else None,
            )
        axes[1].hist(calibration.ranks(found)["rank"].values.ravel(), bins, histtype="step", lw=2, color=colors[method])
        relative = calibration.relative_covariance(
            [run[method] for run in runs], [run["expected covariance"] for run in runs]
        )
        axes[2].plot(np.linalg.eigvalsh(relative), "o-", color=colors[method])
    for level in calibration.LEVELS:
        axes[0].axhline(level, color="0.8", lw=1, zorder=0)
    axes[0].set_xticks(at, [*Proxy.parameters, "all"], rotation=40)
    axes[0].set(ylabel="intervals that contain the truth", ylim=(0.4, 1.03))
    axes[0].legend(frameon=False, loc="lower left")
    each = len(runs) * len(Proxy.parameters) / (len(bins) - 1)
    axes[1].axhline(each, color="0.8", lw=1, zorder=0)
    axes[1].set(xlabel="rank of the truth in the posterior", ylabel="data sets x parameters")
    axes[2].axhline(1, color="0.8", lw=1, zorder=0)
    axes[2].set(xlabel="axis", ylabel="variance over inverse Fisher information", yscale="log")
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-sets", type=int, default=40, help="number of data sets (default: 40)")
    parser.add_argument("--workers", type=int, default=2, help="single-threaded processes (default: 2)")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "calibration.json", help="file of the results")
    options = parser.parse_args()
    results = Results(options.out, {"events": N_EVENTS, "settings": repr(SETTINGS), "steps": N_STEPS})
    truths = draw_truths(options.data_sets, N_EVENTS)
    left = [number for number in range(options.data_sets) if not results.has(**{"data set": number})]
    with ProcessPoolExecutor(options.workers) as pool:
        for future in as_completed([pool.submit(run, number, truths[number]) for number in left]):
            results.add(future.result())
            print(f"{len(results.runs)} of {options.data_sets} data sets", flush=True)
    results.runs.sort(key=lambda one: one["data set"])
    results.write(summary(results.runs))
    print(json.dumps(summary(results.runs), indent=1))
    draw(results.runs, options.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
