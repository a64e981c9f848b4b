"""Shared parts of the closure benchmarks: truths that events determine, and results that survive an interruption."""

import json
import os
import warnings
from pathlib import Path

import numpy as np

from sagips_kit import Proxy, fisher_information

_MARGIN = 3.0  # smallest distance between a truth and the ends of its range, in floor units


def draw_truths(n_truths, n_events, seed=0):
    """Truths of the proxy for closure tests: list of tuples.

    They are uniform in the inner 60 % of all ranges.  Truths that `n_events` events cannot distinguish from an end of a
    range are left out, because no method gives symmetric intervals for a parameter pressed against its range.
    """
    rng = np.random.default_rng([seed, 7])
    lower, width = np.array(Proxy.lower), np.subtract(Proxy.upper, Proxy.lower)
    truths = []
    while len(truths) < n_truths:
        t = rng.uniform(0.2, 0.8, len(width))
        problem = Proxy(n_observed=n_events, truth=tuple((lower + width * t).round(4).tolist()))
        with warnings.catch_warnings():
            # A truth that the events do not determine is discarded anyway, so no warning is needed.
            warnings.simplefilter("ignore", UserWarning)
            information = fisher_information(problem, problem.truth, problem.observed(None, rng), n_simulated=4000)
        floor = information.deviation / width
        if np.isfinite(floor).all() and (np.minimum(t, 1 - t) > _MARGIN * floor).all():
            truths.append(problem.truth)
    return truths


class Results:
    """A list of finished runs in a JSON file; runs that are in the file are not repeated.

    Parameters
    ----------
    path : Path
        The JSON file.
    facts : dict
        What all runs have in common.  A file whose facts differ is refused.
    """

    def __init__(self, path, facts):
        self.path, self.facts, self.runs = Path(path), json.loads(json.dumps(facts)), []
        if self.path.exists():
            found = json.loads(self.path.read_text())
            if found["facts"] != self.facts:
                raise SystemExit(f"{path} holds runs with other settings. Move it away, or choose another --out.")
            self.runs = found["runs"]

    def has(self, **key):
        return any(key.items() <= run.items() for run in self.runs)

    def add(self, run):
        """Save one more run immediately."""
        self.runs.append(run)
        self.write({})

    def write(self, summary):
        text = json.dumps({"facts": self.facts, "summary": summary, "runs": self.runs}, indent=1)
        partial = self.path.with_suffix(".partial")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text + "\n")
        os.replace(partial, self.path)
