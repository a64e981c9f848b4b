"""What the closure benchmarks share: truths that events can determine, and results that survive an interruption."""

import json
import os
import warnings
from pathlib import Path

import numpy as np

from sagips_kit import Proxy, fisher_information

_MARGIN = 3.0  # floor deviations between a truth and the ends of its range


def draw_truths(n_truths, n_events, seed=0):
    """Truths of the proxy for closure tests: list of tuples.

    Uniform in the inner 60 % of all ranges, less those that so many events cannot tell from an end of a range: a
    parameter pressed against its range has no symmetric interval, by no method.
    """
    rng = np.random.default_rng([seed, 7])
    lower, width = np.array(Proxy.lower), np.subtract(Proxy.upper, Proxy.lower)
    truths = []
    while len(truths) < n_truths:
        t = rng.uniform(0.2, 0.8, len(width))
        problem = Proxy(n_observed=n_events, truth=tuple((lower + width * t).round(4).tolist()))
        with warnings.catch_warnings():
            # A truth that events leave undetermined is thrown away, and needs no words.
            warnings.simplefilter("ignore", UserWarning)
            information = fisher_information(problem, problem.truth, problem.observed(None, rng), n_simulated=4000)
        floor = information.deviation / width
        if np.isfinite(floor).all() and (np.minimum(t, 1 - t) > _MARGIN * floor).all():
            truths.append(problem.truth)
    return truths


class Results:
    """A list of finished runs in a JSON file; what is there is not done again.

    Parameters
    ----------
    path : Path
    facts : dict
        What all runs have in common; another set of facts starts a new list.
    """

    def __init__(self, path, facts):
        self.path, self.facts, self.runs = Path(path), json.loads(json.dumps(facts)), []
        if self.path.exists():
            found = json.loads(self.path.read_text())
            if found["facts"] != self.facts:
                raise SystemExit(f"{path} holds runs of other settings. Move it away, or give another --out.")
            self.runs = found["runs"]

    def has(self, **key):
        return any(key.items() <= run.items() for run in self.runs)

    def add(self, run):
        """Keep one more run, at once."""
        self.runs.append(run)
        self.write({})

    def write(self, summary):
        text = json.dumps({"facts": self.facts, "summary": summary, "runs": self.runs}, indent=1)
        partial = self.path.with_suffix(".partial")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text + "\n")
        os.replace(partial, self.path)
