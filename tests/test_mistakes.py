"""Typical mistakes in a notebook, and what the user sees of each: the own line and the message, in at most ten lines.

`python tests/test_mistakes.py` prints the table with all texts.
"""

import re
import sys
from pathlib import Path

import pytest
from IPython.core.interactiveshell import InteractiveShell

sys.path.insert(0, str(Path(__file__).parent))
from sagips_kit.report import exceptions  # noqa: E402

BEGIN = """
import numpy as np
import xarray as xr
from sagips_kit import *
from sagips_kit import analysis, plot
settings = Settings(n_members=2, n_events=64, n_draws=3, n_predictive=4, record_every=5, rows_per_block=4)
small = dict(settings=settings, n_steps=20, n_observed=200, reference=False, fit=False)
spec = RunSpec(problem=Proxy(), store="runs/a.zarr", **small)
if __import__("os").path.exists("runs/a.zarr") is False:
    prepare(spec, n_ranks=1)
with open("events.csv", "w") as file:
    file.write("x1,x2\\n0.5,0.5\\n0.5,far\\n")

class Broken(Proxy):
    def simulate(self, theta, noise):
        return theta[7] * noise

def start(rank):
    if rank:
        raise ZeroDivisionError("no events left")
    return rank
"""

# What was done wrong: the cell, and what must be among the lines that are shown
MISTAKES = {
    "class instead of instance": ('RunSpec(problem=Proxy, store="b.zarr")', r"Proxy\(\)"),
    "misspelt path": ('open_run("runs/aa.zarr")', r"no run at `runs/aa.zarr`. Did you mean a.zarr\?"),
    "misspelt folder": ('open_run("rans/a.zarr")', "no run at `rans/a.zarr`"),
    "folder of runs instead of a run": ('open_run("runs")', "exists but is not a run"),
    "file instead of a run": ('open_run("events.csv")', "is not a run"),
    "text in a column": ('run(RunSpec(problem=Proxy(), store="b.zarr", events="events.csv"))', "events.csv.*far"),
    "column that is not there": ('Observed("events.csv", columns=["x1", "y"]).read(Proxy())', "'y'|y"),
    "file that is not there": ('run(RunSpec(problem=Proxy(), store="b.zarr", events="evnts.csv"))', "evnts.csv"),
    "misspelt public name": ("import sagips_kit\nsagips_kit.Rinq", r"Did you mean Ring\?"),
    "misspelt import": ("from sagips_kit import Rinq", r"Did you mean Ring\?"),
    "misspelt setting": ("Settings(learning_rate=1e-3)", "Did you mean generator_rate"),
    "field of another value": ('RunSpec(problem=Proxy(), store="b", n_members=8)', "belongs to settings"),
    "misspelt field": ('RunSpec(problem=Proxy(), store="b", step=9)', r"Did you mean n_steps\?"),
    "number out of range": ("Settings(n_events=0)", "n_events = 0"),
    "misspelt picture": ("plot.estimates(None)", r"Did you mean estimate\?"),
    "misspelt profile": ('connect("polarsi")', r"Did you mean polaris\?"),
    "no engines": ('connect("local", n=0)', "n = 0: should be a number of engines"),
    "store that exists": ("run(spec)", "already holds .*overwrite=True"),
    "path instead of a spec": ('run("spec.json")', "RunSpec"),
    "misspelt argument": ("run(spec, resum=True)", r"Did you mean resume\?"),
    "swapped arguments": ("Trainer(settings, Proxy(), np.zeros((9, 2)), n_steps=9)", "Type Trainer"),
    "events of another shape": ("fit(Proxy(), np.zeros((9, 3)))", "events"),
    "events that are not finite": ("fit(Proxy(), np.full((900, 2), np.nan))", "events.*NaN|NaN.*events"),
    "mistake in the user's simulator": ("Broken().events(np.ones(6), 10)", "In a cell, line .*, in simulate"),
    "parameter that is not there": ('analysis.evolution(open_run("runs/a.zarr"), "theta9")', "theta9"),
    "tree that is no run": ("xr.DataTree().sagips", "not a run"),
    "step that is past": ('request_stop("runs/a.zarr", 0)', "step = 0"),
    "other number of engines": ('connect("local", n=3)', r"already has 2 engines, but n=3"),
    "error on one rank": ("session.submit(RunSpec(problem=Stuck(), store='c.zarr', **small)).wait()", "Rank 1 on .* failed"),
    "busy session": ("session.submit(spec)", "Busy with a run"),
    "closed session": ("session.close()\nsession.submit(spec)", "This session is closed"),
}


class Notebook:
    """A shell of IPython that runs cells, and returns what each prints."""

    def __init__(self):
        self.shell = InteractiveShell.instance(colors="NoColor")
        exceptions.install()
        self.shown = []
        self.shell._showtraceback = lambda kind, error, lines: self.shown.append("\n".join(lines))

    def run(self, cell):
        self.shown.clear()
        self.shell.run_cell(cell)
        return "\n".join(self.shown)
