"""What happens to engines and to a run when the notebook's kernel is interrupted, restarted or ended."""

import asyncio
import contextlib
import os
from pathlib import Path

import psutil
import pytest

from sagips_kit import read_status

jupyter_client = pytest.importorskip("jupyter_client", reason="no Jupyter: pip install jupyterlab")

ROOT = Path(__file__).parents[1]
pytestmark = [pytest.mark.mpi, pytest.mark.timeout(180)]
BEGIN = """
from sagips_kit import connect
from gaussian import long_run

session = connect("local", n=2)
run = session.submit(long_run("a.zarr"))
run.watch(until=20)
"""
AGAIN = """
from sagips_kit import connect

session = connect("local", n=2)
run = session.attach("a.zarr")
print(session.preview())
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder of the notebook; at the end, no process that was started there is left."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests")]))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    yield tmp_path
    # `ipcluster stop` kills mpiexec after 3 s on a busy machine; its engines notice that and end.
    _, left = psutil.wait_procs(list(processes_of(tmp_path)), timeout=20)
    for process in left:
        process.kill()
    assert not left


def processes_of(folder):
    """Processes of this folder, found by the environment that they inherit, because engines outlive their parents."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            ours = process.environ().get("IPYTHONDIR") == str(folder / "ipython")
            if ours and process.status() != psutil.STATUS_ZOMBIE:
                yield process


class Notebook:
    """A kernel that executes cells, for use in a single event loop."""

    async def __aenter__(self):
        self.kernel = jupyter_client.AsyncKernelManager(kernel_name="python3")
        await self.kernel.start_kernel()
        self.client = self.kernel.client()
        self.client.start_channels()
        return self

    async def __aexit__(self, *exception):
        self.client.stop_channels()
        await self.kernel.shutdown_kernel()
        self.client.context.destroy(linger=0)

    async def run(self, source):
        """Run a cell; returns its output or its traceback."""
        shown = []
        await self.client.wait_for_ready(60)
        await self.client.execute_interactive(
            source, timeout=100, output_hook=lambda message: shown.append(message["content"])
        )
        texts = (part.get("text") or part.get("data", {}).get("text/plain") for part in shown)
        return "\n".join([*filter(None, texts), *(line for part in shown for line in part.get("traceback", []))])

    async def interrupted(self, source):
        """Run a cell and interrupt it after a second."""
        cell = asyncio.create_task(self.run(source))
        await asyncio.sleep(1)
        await self.kernel.interrupt_kernel()
        return await cell


async def interrupt_and_restart():
    async with Notebook() as notebook:
        await notebook.run(BEGIN)
        assert "The run continues. Show it again with .watch()" in await notebook.interrupted("run.watch()")
        await notebook.kernel.restart_kernel()
        assert "joined; `ipcluster stop --profile=local" in await notebook.run(AGAIN)
        assert "unfinished" in await notebook.run("run.watch(until=run.status().step + 20)\nrun")
        assert "stopped:" in await notebook.run("run.stop()\nrun.watch()")
        await notebook.run("import subprocess\nsubprocess.run(session._engines.stop_line, shell=True)")


def test_a_run_outlives_interrupted_cells_and_a_restart(folder):
    asyncio.run(interrupt_and_restart())
    assert read_status("a.zarr").state == "stopped"


async def fail(folder):
    async with Notebook() as notebook:
        assert "ZeroDivisionError" in await notebook.run(f"{BEGIN}\n1 / 0")
        assert len(list(processes_of(folder))) > 3


def test_a_notebook_that_ends_by_an_error_leaves_no_engine(folder):
    asyncio.run(fail(folder))
    assert not list(processes_of(folder))
    assert 20 <= read_status("a.zarr").step < 100_000
