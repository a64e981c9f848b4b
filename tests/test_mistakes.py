"""Typical mistakes in a notebook, and what the user sees of each: the own line and the message, in at most ten lines.

`python tests/test_mistakes.py` prints the table with all texts.
"""

import atexit
import os
import re
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

import sagips_kit
from sagips_kit.report import exceptions

BEGIN = """
import os
import numpy as np
import xarray as xr
from sagips_kit import *
from sagips_kit import analysis, plot
settings = Settings(n_members=2, n_events=64, n_draws=3, n_predictive=4, record_every=5, rows_per_block=4)
small = dict(settings=settings, n_steps=20, n_observed=200, reference=False, fit=False)
spec = RunSpec(problem=Proxy(), store="runs/a.zarr", **small)
if not os.path.exists("runs/a.zarr"):
    prepare(spec, n_ranks=1)
with open("events.csv", "w") as file:
    file.write("x1,x2\\n0.5,0.5\\n0.5,far\\n")

class Broken(Proxy):
    def simulate(self, theta, noise):
        return theta[7] * noise

class Stuck(Proxy):
    def simulate(self, theta, noise):
        if os.environ.get("PMI_RANK") == "1" and os.path.exists("c.zarr"):
            raise ZeroDivisionError("no events left")
        return super().simulate(theta, noise)

session = connect("local", n=2)
"""

# What was done wrong: the cell, and what must be among the lines that are shown
MISTAKES = {
    "class instead of instance": ('RunSpec(problem=Proxy, store="b.zarr")', r"Proxy\(\)"),
    "misspelt path": ('open_run("runs/aa.zarr")', r"no run at `runs/aa.zarr`. Did you mean a.zarr\?"),
    "misspelt folder": ('open_run("rans/a.zarr")', "no run at `rans/a.zarr`"),
    "folder of runs instead of a run": ('open_run("runs")', "exists but is not a run"),
    "file instead of a run": ('open_run("events.csv")', r"a run is a folder.*events='events.csv'"),
    "text in a column": ('run(RunSpec(problem=Proxy(), store="b.zarr", events="events.csv"))', "events.csv.*far"),
    "column that is not there": ('Observed("events.csv", columns=("x1", "y")).read(Proxy())', "no column.*y|y.*not"),
    "file that is not there": (
        'run(RunSpec(problem=Proxy(), store="b.zarr", events="evnts.csv"))',
        r"Did you mean events.csv\?",
    ),
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
    "swapped arguments": (
        "Trainer(settings, Proxy(), np.zeros((9, 2)), n_steps=9)",
        "not a problem, which comes first",
    ),
    "events of another shape": ("fit(Proxy(), np.zeros((9, 3)))", "events"),
    "events that are not finite": ("fit(Proxy(), np.full((900, 2), np.nan))", "events.*NaN|NaN.*events"),
    "mistake in the user's simulator": (
        "fit(Broken(), np.random.rand(900, 2))",
        r"In a cell, line .*, in simulate\n---> return theta.7. \* noise",
    ),
    "parameter that is not there": ('fit(Proxy(), np.random.rand(900, 2), fixed={"theta9": 1.0})', "theta9"),
    "tree that is no run": ("xr.DataTree().sagips", "not a run"),
    "step that is past": ('request_stop("runs/a.zarr", 0)', "step = 0"),
    "other number of engines": ('connect("local", n=3)', r"already has 2 engines, but n=3"),
    "error on one rank": (
        "handle = session.submit(RunSpec(problem=Stuck(), store='c.zarr', **small))\nhandle.wait()",
        r"Rank 1 on .* failed: ZeroDivisionError: no events left(.*\n)+.*--> .*raise ZeroDivisionError",
    ),
    "busy session": ("session._start(__import__('time').sleep, 2)\nsession.submit(spec)", "Busy with a run"),
    "closed session": ("session.close()\nsession.submit(spec)", "This session is closed"),
}


class Notebook:
    """A shell of IPython that runs cells, and returns what it shows of their errors."""

    def __enter__(self):
        config = Config(HistoryManager={"enabled": False})
        self.shell = InteractiveShell.instance(config=config)
        exceptions.install()
        self.shown = []
        self.shell._showtraceback = lambda kind, error, lines: self.shown.append("\n".join(lines))
        return self

    def __exit__(self, *exception):
        self.run("session.close()")
        atexit.unregister(self.shell.atexit_operations)
        InteractiveShell.clear_instance()

    def run(self, cell):
        self.shown.clear()
        self.shell.run_cell(cell)
        return re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(self.shown))

    def table(self):
        """Each mistake and what is shown of it."""
        self.run(BEGIN)
        return {name: self.run(cell) for name, (cell, _) in MISTAKES.items()}


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch, Notebook() as notebook:
        folder = tmp_path_factory.mktemp("notebook")
        patch.chdir(folder)
        patch.setenv("IPYTHONDIR", str(folder))
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
        yield notebook


@pytest.fixture(scope="module")
def table(notebook):
    return notebook.table()


@pytest.mark.mpi
@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_shows_the_own_line_and_what_to_do(table, name):
    (cell, text), shown = MISTAKES[name], table[name]
    lines = [line for long in shown.splitlines() for line in textwrap.wrap(long, 120)]
    assert len(lines) <= 10 and lines[-1].endswith("%tb shows the full traceback."), shown
    assert re.search(text, shown), shown
    assert f"---> {cell.splitlines()[-1]}" in shown and "Traceback" not in shown


def test_the_magic_tb_shows_all_frames(notebook):
    assert "base.py" not in notebook.run("from sagips_kit import RunSpec, run\nrun(3)")
    full = notebook.run("%tb")
    assert "sagips_kit/running/launch.py" in full and "TypeError" in full
    assert notebook.run("%tb") == full


@pytest.mark.parametrize(
    "cell",
    ["1 / 0", "raise ValueError('mine')", "from sagips_kit import _text\n_text.listed(3)", "int('x')"],
    ids=["arithmetic", "own error", "mistake in the kit", "Python's"],
)
def test_other_errors_are_shown_as_ever(notebook, cell):
    shown = notebook.run(cell)
    assert "Traceback (most recent call last)" in shown and "%tb" not in shown


def test_a_module_of_the_user_beside_the_kit_is_the_users():
    frames = {}
    for end in (os.sep, "_of_mine"):
        code = compile("import sys; frame = sys._getframe()", f"{Path(sagips_kit.__file__).parent}{end}/a.py", "exec")
        exec(code, frames.setdefault(end, {}))
    assert [exceptions._is_of_user(names["frame"]) for names in frames.values()] == [False, True]


def test_another_handler_of_errors_stays(notebook):
    before = notebook.shell.custom_exceptions
    notebook.shell.set_custom_exc((KeyError,), lambda *given, **options: [])
    exceptions.install()
    assert notebook.shell.custom_exceptions == (KeyError,)
    notebook.shell.set_custom_exc(before, exceptions._show)


def test_without_ipython_nothing_changes():
    code = "import sagips_kit; sagips_kit.run(3)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "Traceback (most recent call last)" in done.stderr and "launch.py" in done.stderr


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, Notebook() as shown:
        os.chdir(folder)
        os.environ["IPYTHONDIR"] = folder
        for name, text in shown.table().items():
            print(f"## {name}\n\n{text}\n")
        os.chdir("/")
