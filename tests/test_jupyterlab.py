"""What a user sees: notebooks in JupyterLab, in a headless browser."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest
from test_analysis import make_run, make_theta

from sagips_kit.running.coordination import Control
from sagips_kit.store import schema
from sagips_kit.store.status import read_status
from sagips_kit.store.writer import RunWriter

pytest.importorskip("jupyterlab", reason="no JupyterLab: pip install jupyterlab")
pytest.importorskip("ipywidgets", reason="no widgets: pip install ipywidgets")
playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright: pip install playwright")

ROOT = Path(__file__).parents[1]
# The system's Chromium: Playwright would download hundreds of megabytes.
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium"),
    pytest.mark.timeout(500),
]
SMALL = {"n": 2, "n_steps": 300, "n_members": 2, "n_events": 384}
FOLDERS = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "runtime"}
FOLDERS |= {"IPYTHONDIR": "ipython"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder that JupyterLab shows; at the end, no process that uses it is left."""
    folder = tmp_path_factory.mktemp("lab")
    yield folder
    left = psutil.wait_procs(_processes_of(folder), timeout=20)[1]
    assert not left, f"left behind: {left}"


def _processes_of(folder):
    """Servers, kernels and engines, found by the environment that they inherit, even after their parents have ended."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("JUPYTER_RUNTIME_DIR") == str(folder / "runtime"):
                yield process


@pytest.fixture(scope="module")
def address(folder):
    """Address and token of a running JupyterLab."""
    settings = {name: str(folder / place) for name, place in FOLDERS.items()} | {"PYTHONPATH": str(ROOT)}
    options = ["--no-browser", "--allow-root", "--ServerApp.port=0", f"--ServerApp.root_dir={folder}"]
    options += ["--IdentityProvider.token=secret", "--LabApp.news_url=None"]
    options += ["--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    with open(folder / "lab.log", "w") as log:
        command = [sys.executable, "-m", "jupyterlab", *options]
        server = subprocess.Popen(command, env=os.environ | settings, stdout=log, stderr=log)
    try:
        until(lambda: list(folder.glob("runtime/jpserver-*.json")) or server.poll() is not None, 120)
        assert server.poll() is None, (folder / "lab.log").read_text()
        (facts,) = folder.glob("runtime/jpserver-*.json")
        yield json.loads(facts.read_text())["url"]
    finally:
        server.terminate()
        server.wait(60)


@pytest.fixture
def open_notebook(folder, address, tmp_path):
    """Write a notebook and open it in the browser; returns the page once a kernel is ready.  Saves a screenshot."""
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])

        def open_notebook(notebook, name, height):
            nbformat.write(notebook, folder / name)
            # High enough for all cells, because JupyterLab renders only visible ones.
            page = browser.new_page(viewport={"width": 1000, "height": height})
            page.set_default_timeout(60_000)
            page.goto(f"{address}lab/tree/{name}?token=secret&reset")
            # The status bar shows the kernel; the notebook's indicator says idle even before a kernel exists.
            page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
            return page

        yield open_notebook
        for page in browser.contexts[0].pages:
            page.screenshot(path=tmp_path / "screen.png")
        browser.close()


def read_quickstart():
    notebook = nbformat.read(ROOT / "notebooks" / "00_quickstart.ipynb", as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return notebook


def until(condition, seconds):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def run_all(page, path, seconds):
    """Choose Run > Run All Cells, wait for the end, save the notebook, and check it: no cell ended with an error."""
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    prompts = page.locator(".jp-CodeCell .jp-InputPrompt")

    def is_done():
        texts = prompts.all_inner_texts()
        if texts[0] != "[1]:" or "[*]:" in texts:
            return False
        # JupyterLab draws only cells near the window, so the file tells more.
        page.keyboard.press("Control+s")
        time.sleep(1)
        cells = code_cells(path)
        has_failed = any(output.output_type == "error" for cell in cells for output in cell.outputs)
        return has_failed or all(cell.execution_count for cell in cells)  # cells after an error are not executed

    until(is_done, seconds)
    for cell in code_cells(path):
        failures = ["\n".join(output.traceback) for output in cell.outputs if output.output_type == "error"]
        assert not failures and cell.execution_count, (cell.source, *failures)


def code_cells(path):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


@pytest.mark.mpi
def test_run_all_shows_progress_and_figures(open_notebook, folder):
    notebook = read_quickstart()
    cell = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    cell.source += "".join(f"\n{name} = {number}" for name, number in SMALL.items())
    page = open_notebook(notebook, "quickstart.ipynb", height=14000)
    run_all(page, folder / "quickstart.ipynb", 300)
    shown = page.locator(".jp-OutputArea-output").all_inner_texts()
    assert any("100%" in text and "300/300" in text and "moved" in text for text in shown)
    assert page.locator(".jp-RenderedImage img").count() >= 6
    assert read_status(folder / "runs" / "quickstart.zarr").is_finished


def test_the_dashboard_is_a_widget_that_follows_the_run_and_stops_it(open_notebook, folder):
    path = folder / "live.zarr"
    make_run(make_theta(), path, n_steps=300)
    source = "from sagips_kit import open_run\n\nopen_run('live.zarr').sagips.dashboard(interval_s=0.2)"
    notebook = read_quickstart()
    notebook.cells = [nbformat.v4.new_code_cell(source)]
    page = open_notebook(notebook, "dashboard.ipynb", height=600)
    run_all(page, folder / "dashboard.ipynb", 30)
    page.get_by_text("unfinished: step 300 of 1 000").wait_for()
    picture = page.locator(".jp-OutputArea-output img.widget-image")
    before = picture.get_attribute("src")
    for rank in range(4):
        RunWriter(path, rank).set_progress(500)
    page.get_by_text("unfinished: step 500 of 1 000").wait_for()
    until(lambda: picture.get_attribute("src") != before, 20)
    assert picture.evaluate("image => image.naturalWidth") > 500
    page.get_by_role("button", name="Stop the run").click()
    page.get_by_text("The ranks were asked to stop").wait_for()
    assert Control(path)[schema.ASKED] == schema.BY_USER
