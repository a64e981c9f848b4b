"""The documentation: what is public has a page, pages are in an index, their links lead somewhere, their code runs."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from test_docs import IN_HAND, PUBLIC

import sagips_kit

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [path for path in sorted(DOCS.rglob("*.md")) if "generated" not in path.parts]
HOW_TO = {path.stem: path for path in PAGES if path.parent.name == "howto" and path.stem != "index"}
BLOCK = re.compile(
    r"^( *)(?:<!-- not run: (?P<why>.+?) -->\n\1)?```(?P<kind>python|console)\n(?P<code>.*?)^\1```", re.M | re.S
)


def listed():
    """Names in the lists of the reference, each with its module."""
    for path in PAGES:
        for module, names in re.findall(
            r"currentmodule:: (\S+)\n\n\.\. autosummary::\n   :toctree: \S+\n\n((?:   \S+\n)+)", path.read_text()
        ):
            yield from (f"{module}.{name}" for name in names.split())


def test_every_public_name_is_in_the_reference():
    found = list(listed())
    assert len(found) == len(set(found)), "a name is listed twice"
    public = {f"sagips_kit.{name}" for name in sagips_kit.__all__} - {"sagips_kit.__version__"}
    public -= {"sagips_kit.analysis", "sagips_kit.plot"}
    public |= {f"sagips_kit.{name}" for name in PUBLIC if name.startswith(("analysis.", "plot."))}
    assert public <= set(found)
    assert {thing.__qualname__ for thing in IN_HAND} <= {name.rpartition(".")[2] for name in found}


def entries(path):
    """The entries of the tables of contents of a page."""
    for block in re.findall(r"```\{toctree\}\n(.*?)```", path.read_text(), re.S):
        yield from (line for line in block.splitlines() if line and not line.startswith(":"))


def test_every_page_is_in_a_table_of_contents():
    found = {(path.parent / f"{entry}.md").resolve() for path in PAGES for entry in entries(path)}
    assert set(PAGES) - found == {DOCS / "index.md"}
    notebooks = {entry.rpartition("/")[2] for entry in entries(DOCS / "tutorials.md")}
    assert notebooks == {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(DOCS).as_posix())
def test_links_lead_somewhere(path):
    made = ("cli", "figures", "profiles", "schema", "settings")
    for link in re.findall(r"\]\(([^)#\s:]+?)(?:#[^)]*)?\)", path.read_text()):
        target = (path.parent / link).resolve()
        if target.parent == DOCS / "generated":
            assert target.stem in made, link
        elif target.suffix == ".ipynb":
            assert (ROOT / "notebooks" / target.name).is_file(), link
        else:
            assert target.is_file(), link


def test_names_of_measured_numbers_are_known():
    claims = tomllib.loads((DOCS / "claims.toml").read_text())
    used = {name for path in PAGES for name in re.findall(r"\{\{ *(\w+) *\}\}", path.read_text())}
    assert used and used <= set(claims)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder as the pages expect it: two finished runs of the proxy, and a file of events."""
    folder = tmp_path_factory.mktemp("pages")
    problem = sagips_kit.Proxy(n_observed=2000)
    np.save(folder / "events.npy", problem.observed(None, np.random.default_rng(1)))
    settings = sagips_kit.Settings(n_members=4, n_events=64, n_draws=5, n_predictive=50, n_scores=100)
    for seed, name in enumerate(("proxy", "proxy2")):
        store = str(folder / f"runs/{name}.zarr")
        spec = sagips_kit.RunSpec(problem=problem, settings=settings, store=store, n_steps=60, seed=seed)
        sagips_kit.run(spec)
    return folder


def has_engines(path):
    return any("connect(" in found["code"] and not found["why"] for found in BLOCK.finditer(path.read_text()))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.mpi] * has_engines(path)) for name, path in HOW_TO.items()]
)
def test_code_of_how_to_pages_runs(name, folder, tmp_path, monkeypatch, request):
    run_page(HOW_TO[name], folder, tmp_path, monkeypatch, request)


@pytest.mark.slow
def test_code_of_the_first_page_runs(folder, tmp_path, monkeypatch, request):
    run_page(DOCS / "start.md", folder, tmp_path, monkeypatch, request)


def run_page(path, folder, tmp_path, monkeypatch, request):
    """Run all blocks of a page, in their order, except those that say why not."""
    monkeypatch.chdir(shutil.copytree(folder, tmp_path / "here"))
    engines = request.getfixturevalue("two_engines") if has_engines(path) else tmp_path / "ipython"
    monkeypatch.setenv("IPYTHONDIR", str(engines))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{shutil.os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    names = {}
    for found in BLOCK.finditer(path.read_text()):
        code = re.sub(rf"^{found[1]}", "", found["code"], flags=re.M)
        if found["why"]:
            continue
        if found["kind"] == "python":
            exec(compile(code, str(path), "exec"), names)
        else:
            commands = re.sub(r"^\$ ", "", code, flags=re.M)
            done = subprocess.run(["bash", "-ec", commands], capture_output=True, text=True, timeout=120)
            assert done.returncode == 0, done.stdout + done.stderr
    plt.close("all")
