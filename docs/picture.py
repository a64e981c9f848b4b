"""Make docs/answer.png, the picture of an answer in README.md and on the first page: a real run of some minutes.

python docs/picture.py
"""

import sys
import tempfile
from pathlib import Path

import matplotlib
import numpy as np
import torch

from sagips_kit import Pipeline, Problem, RunSpec, Separate, Settings, open_run, plot, run

PICTURE = Path(__file__).with_name("answer.png")
GRID = torch.linspace(0, 10, 801, dtype=torch.float64)


def density(theta, mass):
    """Events per GeV: a resonance on a falling background."""
    position, width, signal, slope = theta
    peak = torch.exp(-0.5 * ((mass - position) / width) ** 2) / (width * (2 * torch.pi) ** 0.5)
    background = slope * torch.exp(-slope * mass) / (1 - torch.exp(-10 * slope))
    return signal * peak + (1 - signal) * background


class Resonance(Problem):
    """The problem of notebooks/06_your_own_problem.ipynb."""

    parameters = ("position", "width", "signal", "slope")
    lower, upper, truth = (4.0, 0.2, 0.1, 0.1), (6.0, 1.0, 0.5, 0.6), (5.1, 0.5, 0.25, 0.3)
    units = {"position": "GeV", "width": "GeV", "slope": "1/GeV", "mass": "GeV"}
    observables = ("mass",)
    pipeline = Pipeline(density, Separate(GRID))
    noise_dim = pipeline.noise_dim
    simulate, log_likelihood = staticmethod(pipeline.simulate), staticmethod(pipeline.log_likelihood)

    def observed(self, n_events, rng):
        noise = torch.as_tensor(rng.random((n_events or 20_000, self.noise_dim)))
        return self.simulate(torch.tensor(self.truth).double(), noise).numpy()


def main():
    matplotlib.use("Agg")
    with tempfile.TemporaryDirectory() as folder:
        store = f"{folder}/resonance.zarr"
        run(RunSpec(problem=Resonance(), settings=Settings(n_members=8), store=store, n_steps=1000))
        finished = open_run(store)
        print(finished.sagips.verdict())
        print(finished.sagips.summary().to_string())
        if finished.sagips.verdict().state != "no fault found":
            sys.exit("The picture has not been changed.")
        np.ravel(plot.fit(finished))[0].figure.savefig(PICTURE, dpi=90, bbox_inches="tight")


if __name__ == "__main__":
    main()
