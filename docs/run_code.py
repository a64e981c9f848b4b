"""Run the code of the how-to pages and of the first steps, exactly as printed, in a folder as the pages expect it.

    python docs/run_code.py                    # all pages: some minutes
    python docs/run_code.py own_problem toys   # some of them

Blocks below a comment `not run: reason` are left out.  Tests run the pages that take seconds (tests/test_site.py).
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = {path.stem: path for path in sorted((ROOT / "docs" / "howto").glob("*.md"))} | {"start": ROOT / "docs/start.md"}
_BLOCK = re.compile(
    r"^(?P<indent> *)(?:<!-- not run: (?P<why>.+?) -->\n *)?```(?P<kind>python|console)\n(?P<code>.*?)^ *```$",
    re.M | re.S,
)


def blocks(page):
    """The blocks of a page that are run: "python" or "console", and the code without indentation and prompts."""
    for found in _BLOCK.finditer(page.read_text(encoding="utf-8")):
        code = re.sub(rf"^{found['indent']}", "", found["code"], flags=re.M)
        if not found["why"]:
            yield found["kind"], re.sub(r"^\$ ", "", code, flags=re.M) if found["kind"] == "console" else code


def prepare(folder, fit):
    """Make what pages expect: files of events, and two short finished runs, of which the first may have a fit."""
    import numpy as np

    from sagips_kit import Proxy, RunSpec, Settings, run

    shutil.copy(ROOT / "docs/data/dimuons.root", folder)
    np.save(folder / "events.npy", Proxy().observed(20_000, np.random.default_rng(1)))
    problem = Proxy(n_observed=2000)
    settings = Settings(n_members=4, n_events=64, n_draws=5, n_predictive=50, n_scores=100, record_every=2)
    for seed, name in enumerate(("proxy", "proxy2")):
        store = f"{folder}/runs/{name}.zarr"
        spec = RunSpec(problem=problem, settings=settings, store=store, n_steps=80, seed=seed, fit=fit and seed == 0)
        run(spec)


def run_page(page):
    """Run the blocks of a page in the current folder, in their order; returns the names that they define."""
    names = {"__name__": "__main__"}
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    try:
        for kind, code in blocks(page):
            if kind == "python":
                exec(compile(code, str(page), "exec"), names)
            else:
                subprocess.run(["bash", "-ec", code], env=environment, check=True, timeout=300)
        return names
    finally:
        if "session" in names:  # also after an error
            names["session"].close()


def main(chosen):
    import matplotlib

    matplotlib.use("Agg")
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["IPYTHONDIR"] = f"{folder}/ipython"
        (Path(folder) / "start").mkdir()
        prepare(Path(folder) / "start", fit=True)
        for name in chosen or PAGES:
            start = time.monotonic()
            os.chdir(shutil.copytree(Path(folder) / "start", Path(folder) / name / "here"))
            try:
                run_page(PAGES[name])
            except Exception:
                traceback.print_exc()
                failed.append(name)
            print(f"==> {name}: {'failed, ' if name in failed else ''}{time.monotonic() - start:.0f} s", flush=True)
        os.chdir(ROOT)
    if failed:
        sys.exit(f"Pages whose code failed: {', '.join(failed)}")


if __name__ == "__main__":
    main(sys.argv[1:])
