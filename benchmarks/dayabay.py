"""The spread of a finished ensemble compared with likelihood fits of the same resamples: the error that the GANs add.

    make demo                                                 # runs notebooks/01_dayabay.ipynb, among others
    python benchmarks/dayabay.py notebooks/runs/dayabay.zarr  # 3 minutes; writes benchmarks/results/dayabay.json

Each chain was trained on its own resample of the events and with its own shifted priors.  It is compared with a binned
likelihood fit of the same resample and priors, because eight chains alone determine a standard deviation only to 27 %.
"""

import argparse
import json
import warnings
from pathlib import Path

import numpy as np
import torch

from sagips_kit import RunSpec, fit_likelihood, open_run
from sagips_kit.events.batches import in_batch_order
from sagips_kit.events.resampling import Resampling, shifts_of_external

HERE = Path(__file__).parent


def with_priors_moved(problem, shift):
    """The same problem with its priors shifted up by `shift` (prior,), in units of their standard deviations."""

    class Moved(type(problem)):
        def residuals(self, theta, statistic):
            return super().residuals(theta, statistic, shift)

    return Moved(**vars(problem))


def fits_of_the_resamples(spec, events, n_chains):
    """Likelihood fits of the resamples and priors that the chains were trained on: ndarray (chain, parameter)."""
    problem, bootstrap = spec.problem, spec.settings.bootstrap
    events, _ = in_batch_order(problem, events, spec.settings.n_events)
    resamples = Resampling(range(n_chains), n_chains, spec.seed, bootstrap).indices(len(events))
    fits = []
    for chain, chosen in enumerate(resamples):
        shift = torch.as_tensor(shifts_of_external(len(problem.priors), chain, n_chains, spec.seed)) * bootstrap
        fits.append(fit_likelihood(with_priors_moved(problem, shift), events[chosen].numpy(), n_starts=1).theta)
        print(f"chain {chain}: fitted", flush=True)
    return np.array(fits)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", type=Path, help="a finished run whose problem has a likelihood")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "dayabay.json", help="file of the results")
    options = parser.parse_args()
    run = open_run(options.store)
    spec, names = RunSpec.from_run(run), list(run.attrs["parameters"])
    chains = run["posterior"].to_dataset()[names].mean("draw").to_array().T.values
    mle, floor = (run["reference"][name].values for name in ("mle", "deviation"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fits = fits_of_the_resamples(spec, run["observed_data"].to_dataset().to_array().T.values, len(chains))
    rows = {}
    for k, name in enumerate(names):
        found, fitted = chains[:, k], fits[:, k]
        rows[name] = {
            "to_mle": float((found.mean() - mle[k]) / floor[k]),
            "deviation over the floor": float(found.std(ddof=1) / floor[k]),
            "deviation over that of the fits": float(found.std(ddof=1) / fitted.std(ddof=1)),
            "of a chain to its fit, RMS": float(np.sqrt(np.square((found - fitted) / floor[k]).mean())),
            "correlation": float(np.corrcoef(found, fitted)[0, 1]),
        }
        to_mle, ratio = rows[name]["to_mle"], rows[name]["deviation over that of the fits"]
        print(f"{name:16s} {to_mle:+.2f} floor units from the fit; deviation over that of the fits {ratio:.2f}")
    result = {
        "spec": {name: field for name, field in json.loads(spec.to_json()).items() if name != "store"},
        "chains": len(chains),
        "training_s": float(run["history"]["elapsed_s"].max()),
        "parameters": rows,
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
