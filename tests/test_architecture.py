"""The house as it is drawn in CONTRIBUTING.md: who may import whom, what stays small, what is imported late."""

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import sagips_kit

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "sagips_kit"

# A room, which is a module or a folder, imports only from lower floors.  A new room gets its place here and in the
# picture in CONTRIBUTING.md.
FLOORS = {
    1: {
        "schema",
        "topology",
        "settings",
        "schedule",
        "windows",
        "device_buffers",
        "health",
        "signals",
        "tables",
        "reactor",
        "samplers",
    },
    2: {
        "world",
        "problem",
        "pipeline",
        "gan",
        "adversary",
        "flat",
        "slots",
        "meeting",
        "data",
        "record",
        "information",
        "observed",
        "jobs",
        "place",
        "analysis",
        "state",
        "guard",
        "streams",
    },
    3: {
        "exchange",
        "problems",
        "store",
        "files",
        "likelihood",
        "features",
        "samples",
        "plot",
        "export",
        "profiles",
        "launchers",
    },
    4: {"checkpoint", "spec", "trainer", "template", "milestones", "page", "dashboard", "live", "engines", "check"},
    5: {"resume", "runs", "tune", "batch"},
    6: {"launch", "handle"},
    7: {"session", "cli"},
    8: {"cluster", "__main__"},
}
FLOOR = {room: number for number, rooms in FLOORS.items() for room in rooms}
# They open results on a laptop that has nothing else installed.
LAPTOP = {"schema", "health", "place", "store", "template", "analysis", "plot", "export", "page", "dashboard", "runs"}
# Folders whose files are variants of one thing, not steps of one thought
FAMILIES = {"exchange", "problems"}
HEAVY = {"torch", "mpi4py", "ipyparallel"}
# Importing them starts MPI, or takes a second that a reader of results need not spend.
LATE = {"mpi4py", "ipyparallel"}
# Imported by ipyparallel alone, whose classes it extends.
LOADED_BY_IPYPARALLEL = PACKAGE / "launchers.py"

MODULE_LINES, FUNCTION_LINES = 320, 60

FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")
every_file = pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(PACKAGE)) for path in FILES])


def tree(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def room(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path, nodes=None):
    """What a file imports: the package's own modules as tuples such as ("exchange", "base"), others as one name."""
    folder = path.relative_to(PACKAGE).parts[:-1]
    for node in ast.walk(tree(path)) if nodes is None else nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.split(".")[0]
        elif isinstance(node, ast.ImportFrom):
            base = folder[: len(folder) + 1 - node.level] + tuple((node.module or "").split(".")) * bool(node.module)
            yield from [base] if base else [(alias.name,) for alias in node.names]


def rooms_imported(path):
    return {target[0] for target in imports(path) if isinstance(target, tuple)} - {room(path)}


def outside_functions(node):
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from outside_functions(child)


def test_every_room_has_a_floor():
    assert {room(path) for path in FILES} == FLOOR.keys()


@every_file
def test_imports_come_from_lower_floors(path):
    unknown = rooms_imported(path) - FLOOR.keys()
    assert not unknown, "names of the package's own top are for users"
    upper = {name for name in rooms_imported(path) if FLOOR[name] >= FLOOR[room(path)]}
    assert not upper


@every_file
def test_nobody_imports_the_top(path):
    assert "sagips_kit" not in imports(path), "write `from . import ...`"


@every_file
def test_parts_of_a_family_know_only_their_bases(path):
    if path.name == "__init__.py" or room(path) not in FAMILIES:
        return
    siblings = {target[1:] for target in imports(path) if isinstance(target, tuple) and target[0] == room(path)}
    assert siblings <= {("base",), ("mean",), ("independent",)}


@pytest.mark.parametrize("name", sorted(LAPTOP))
def test_results_open_without_heavy_packages(name):
    for path in [path for path in FILES if room(path) == name]:
        assert not HEAVY & set(imports(path))
        assert rooms_imported(path) <= LAPTOP


@every_file
def test_mpi_and_ipyparallel_are_imported_inside_functions(path):
    assert ("launchers",) not in set(imports(path)), "only ipyparallel may import it"
    if path == LOADED_BY_IPYPARALLEL:
        return
    assert not LATE & set(imports(path, outside_functions(tree(path))))


@every_file
def test_sizes(path):
    n_lines = len(path.read_text(encoding="utf-8").splitlines())
    assert n_lines <= MODULE_LINES, "a module of this length has more than one idea"
    functions = [node for node in ast.walk(tree(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert not {node.name for node in functions if node.end_lineno - node.lineno >= FUNCTION_LINES}


def test_the_picture_in_contributing_is_this_one():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    lines = re.findall(r"^(\d)  (.+?)(?:  +<-.*)?$", text, flags=re.MULTILINE)
    assert {int(number): set(rooms.replace("/*", "").split()) for number, rooms in lines} == FLOORS


def loaded_after(code):
    """Which of the packages that are slow or dangerous to import a new interpreter has loaded after `code`."""
    watched = {"mpi4py.MPI", "ipyparallel", "torch", "matplotlib", "zarr"}
    code = f"import sys, sagips_kit\n{code}\nprint(*({watched} & set(sys.modules)))"
    command = [sys.executable, "-W", "error", "-c", code]
    return set(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split())


def test_importing_the_package_imports_nothing_else():
    assert loaded_after("") == set()


def test_every_public_name_is_found_without_mpi():
    names = [name for name in sagips_kit.__all__ if name != "__version__"]
    assert loaded_after(f"for name in {names}: getattr(sagips_kit, name)") == {"torch", "matplotlib", "zarr"}


def test_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert f"## {project['version']}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    try:
        assert sagips_kit.__version__ == project["version"]
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the package is not installed")


def test_the_project_speaks_of_itself_alone():
    """No notes to oneself, no folders of the machine it was written on."""
    foreign = re.compile(r"\b(TO" + r"DO|FIX" + r"ME)\b|(?<![\w.~/-])/(work|root)/|/tmp/v" + "env")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git repository")
    found = []
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            text = (ROOT / name).read_text(encoding="utf-8", errors="ignore")
            found += [f"{name}: {match[0]}" for match in foreign.finditer(text)]
    assert not found
