"""The outputs that are stored in the notebooks: they are those of the code, small, and tell nothing of a machine."""

import base64
import copy
import importlib.util
import io
import os
import re
import socket
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def load():
    spec = importlib.util.spec_from_file_location("execute", ROOT / "notebooks" / "execute.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


execute = load()


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request):
    return request.param


def test_outputs_are_those_of_the_code(path):
    notebook = nbformat.read(path, as_version=4)
    again = f"type: make notebooks ARGS={path.stem}"
    assert execute.is_fresh(notebook), f"The code of {path.name} was changed after it was executed; {again}"
    cells = execute.code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), again
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert any("image/png" in output.get("data", {}) for output in outputs), "a picture tells most"


def test_stored_outputs_tell_nothing_of_the_machine(path):
    outputs = [cell.outputs for cell in execute.code_cells(nbformat.read(path, as_version=4))]
    assert not execute.private(str(outputs))


def test_stored_notebooks_are_small(path):
    assert path.stat().st_size < 500_000
    assert sum(path.stat().st_size for path in NOTEBOOKS) < 3_000_000


def test_a_notebook_says_what_a_reader_needs(path):
    notebook = nbformat.read(path, as_version=4)
    texts = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    first, everything = texts[0], "\n".join(texts)
    assert first.startswith("# ") and "```\n" in first, "a drawing of what happens"
    assert "**How long it takes.**" in first
    assert "## When not to believe" in everything and "## What to change next" in everything
    assert re.search(r"\$.*=|\$\$", everything), "a formula"
    has_draws = any("plot.posterior(" in cell.source for cell in execute.code_cells(notebook))
    for word in ("floor", "chain", "verdict", *["draw"] * has_draws):
        assert re.search(rf"\b{word}", everything), word


@pytest.fixture
def notebook():
    return new_notebook(cells=[new_markdown_cell("Text"), new_code_cell("1 + 1")])


def test_a_change_of_the_code_is_seen_and_one_of_the_text_is_not(notebook):
    assert not execute.is_fresh(notebook)
    notebook.metadata[execute.KEY] = {"code": execute.code_hash(notebook)}
    other = copy.deepcopy(notebook)
    other.cells[0].source = "Better text"
    assert execute.is_fresh(other)
    other.cells[1].source = "1 + 2"
    assert not execute.is_fresh(other)


def test_what_tells_of_a_machine_is_seen():
    for text in ("in /home/ann/runs/a.zarr", "'/tmp/tmp1/a'", "rank  host  pid  device", "pid=4711"):
        assert execute.private(text), text
    for text in ("runs/a.zarr", "./runs/tmp/a", "sagips_kit/.venv/bin/mpiexec -n 2", "events / step", "rapid 3"):
        assert not execute.private(text), text


def test_outputs_are_made_small_and_general():
    figure, ax = plt.subplots(figsize=(8, 6))
    ax.plot(np.sin(np.linspace(0, 9, 300)[:, None] * np.arange(1, 8)))
    figure.savefig(png := io.BytesIO(), dpi=200)
    plt.close(figure)
    picture = base64.b64encode(png.getvalue()).decode()
    host = socket.gethostname()
    outputs = [
        new_output(
            "display_data", {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "Box"}
        ),
        new_output("stream", text=f"{execute.WORK}/05_explore/runs/a.zarr on {host}, {ROOT}/.venv\n"),
        new_output("stream", name="stderr", text="/tmp/ipykernel_4711/22.py:1: UserWarning: careful\n"),
        new_output("display_data", {"image/png": picture, "image/svg+xml": "<svg/>", "text/plain": "<Figure>"}),
    ]
    first, second, third = execute.stored(outputs)
    assert first.text == "./runs/a.zarr on localhost, sagips_kit/.venv\n"
    assert second.text == "UserWarning: careful\n"
    assert set(third.data) == {"image/png", "text/plain"}
    assert len(third.data["image/png"]) < len(picture) / 2
    width, height = Image.open(io.BytesIO(base64.b64decode(third.data["image/png"]))).size
    assert width == execute.WIDTH and height == round(0.75 * width)


def test_a_notebook_is_executed_in_the_folder_of_its_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(execute, "WORK", tmp_path / "work")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    path = tmp_path / "one.ipynb"
    cells = [new_markdown_cell("Text"), new_code_cell("from pathlib import Path\n\nprint(Path.cwd() / 'runs')")]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    nbformat.write(new_notebook(cells=[*cells, new_code_cell("2 * 3")], metadata=kernel), path)
    execute.execute(path)
    notebook = nbformat.read(path, as_version=4)
    first, second = execute.code_cells(notebook)
    assert execute.is_fresh(notebook) and first.outputs[0].text == "./runs\n"
    assert second.outputs[0].data["text/plain"] == "6" and second.execution_count == 2
    first.source = f"print('/' + 'tmp/{os.getpid()}')"
    nbformat.write(notebook, path)
    before = path.read_bytes()
    with pytest.raises(RuntimeError, match="tell of this machine: /tmp/"):
        execute.execute(path)
    assert path.read_bytes() == before
