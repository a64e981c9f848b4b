"""The documentation: what is public has a page, pages are in an index, their links lead somewhere, their code runs."""

import re
import shutil
import tomllib
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import run_code
from test_docs import IN_HAND, PUBLIC

import sagips_kit
from sagips_kit import exchange, problems

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [path for path in sorted(DOCS.rglob("*.md")) if "generated" not in path.parts]
# Pages whose code takes a second or two; `make docs-code` runs all.
CHEAP = ["act_on_a_verdict", "choose_a_mode", "compare_runs", "figures", "file_formats", "read_a_store"]


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
    others = {thing.__qualname__ for thing in IN_HAND} | {*exchange.__all__, *problems.__all__}
    assert others <= {name.rpartition(".")[2] for name in found}


def entries(path):
    """The entries of the tables of contents of a page."""
    for block in re.findall(r"```\{toctree\}\n(.*?)```", path.read_text(), re.S):
        yield from (line for line in block.splitlines() if line and not line.startswith(":"))


def test_every_page_is_in_a_table_of_contents():
    found = {(path.parent / f"{entry}.md").resolve() for path in PAGES for entry in entries(path)}
    assert set(PAGES) - found == {DOCS / "index.md"}
    notebooks = {entry.rpartition("/")[2] for entry in entries(DOCS / "tutorials.md")}
    assert notebooks == {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}


@pytest.mark.parametrize(
    "path", [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=lambda path: path.relative_to(ROOT).as_posix()
)
def test_links_lead_somewhere(path):
    made = ("cli", "figures", "profiles", "schedulers", "schema", "settings", "verdict")
    for link in re.findall(r"\]\(([^)#\s:]+?)(?:#[^)]*)?\)", path.read_text()):
        target = (path.parent / link).resolve()
        if target.parent == DOCS / "generated":
            assert target.stem in made, link
        elif target.suffix == ".ipynb":
            assert (ROOT / "notebooks" / target.name).is_file(), link
        else:
            assert target.is_file(), link


def test_each_question_has_an_answer_that_names_a_page():
    sections = (DOCS / "questions.md").read_text().split("\n## ")[1:]
    assert len(sections) >= 10
    for section in sections:
        title, _, answer = section.partition("\n")
        assert title.endswith("?") or "? " in title, title
        assert re.search(r"\]\(\S+\)", answer) and len(answer.split()) < 90, title


def test_names_of_measured_numbers_are_known():
    claims = tomllib.loads((DOCS / "claims.toml").read_text())
    used = {name for path in PAGES for name in re.findall(r"\{\{ *(\w+) *\}\}", path.read_text())}
    assert used and used <= set(claims)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder as the pages expect it, but for the fit, which takes longer than all that is tested here."""
    folder = tmp_path_factory.mktemp("pages")
    run_code.prepare(folder, fit=False)
    return folder


def test_code_of_pages_can_be_read():
    for page in run_code.PAGES.values():
        for kind, code in run_code.blocks(page):
            if kind == "python":
                compile(code, str(page), "exec")


@pytest.mark.parametrize("name", CHEAP)
def test_code_of_pages_runs(name, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(shutil.copytree(folder, tmp_path / "here"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    run_code.run_page(run_code.PAGES[name])
    plt.close("all")
