"""What a user sees: the quickstart in JupyterLab, run by Run All in a browser without a window."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from sagips_kit import read_progress

ROOT = Path(__file__).parents[1]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.mpi,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium"),
]
SMALL = {"n": 2, "n_steps": 60, "n_members": 2, "n_events": 384}


@pytest.fixture
def quickstart(tmp_path):
    """The quickstart with fewer engines, steps and members, in a folder of its own."""
    notebook = nbformat.read(ROOT / "notebooks" / "00_quickstart.ipynb", as_version=4)
    cell = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    for name, number in SMALL.items():
        cell.source = re.sub(rf"^{name} = .*$", f"{name} = {number}", cell.source, flags=re.MULTILINE)
    nbformat.write(notebook, tmp_path / "quickstart.ipynb")
    return tmp_path / "quickstart.ipynb"


@pytest.fixture
def lab(quickstart):
    """The address of the notebook in a running JupyterLab."""
    folder = quickstart.parent
    settings = {"JUPYTER_CONFIG_DIR": folder / "config", "JUPYTER_RUNTIME_DIR": folder / "runtime"}
    settings |= {"IPYTHONDIR": folder / "ipython", "PYTHONPATH": ROOT}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.port=0"]
    with open(folder / "lab.log", "w") as log:
        process = subprocess.Popen(
            [*command, f"--ServerApp.root_dir={folder}", "--IdentityProvider.token=secret"],
            env=os.environ | {name: str(path) for name, path in settings.items()},
            stdout=log,
            stderr=log,
        )
    try:
        deadline = time.monotonic() + 120
        while not (found := list((folder / "runtime").glob("jpserver-*.json"))):
            assert time.monotonic() < deadline and process.poll() is None, (folder / "lab.log").read_text()
            time.sleep(0.2)
        yield f"{json.loads(found[0].read_text())['url']}lab/tree/{quickstart.name}?token=secret&reset"
    finally:
        process.terminate()
        process.wait(60)


@pytest.mark.timeout(600)
def test_run_all_shows_progress_and_figures(lab, quickstart):
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1200, "height": 6000})
        page.set_default_timeout(120_000)
        page.goto(lab)
        page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status=idle]", state="attached")
        page.locator(".lm-MenuBar-itemLabel", has_text=re.compile("^Run$")).click()
        page.locator(".lm-Menu-itemLabel", has_text=re.compile("^Run All Cells$")).click()
        # The last cell closes the session and says nothing: it has a number when all are done.
        last = page.locator(".jp-CodeCell .jp-InputPrompt").last
        deadline = time.monotonic() + 400
        while not re.fullmatch(r"\[\d+\]:", last.inner_text()):
            assert time.monotonic() < deadline
            assert not page.locator("text=Traceback").count()
            page.wait_for_timeout(500)
        page.screenshot(path=os.environ.get("SAGIPS_SCREENSHOT", quickstart.parent / "quickstart.png"))
        shown = page.locator(".jp-OutputArea-output").all_inner_texts()
        n_figures = page.locator(".jp-RenderedImage img").count()
        browser.close()
    assert any("100%" in text and "60/60" in text and "moved" in text for text in shown)
    assert n_figures >= 5
    assert read_progress(quickstart.parent / "runs" / "quickstart.zarr").is_finished
