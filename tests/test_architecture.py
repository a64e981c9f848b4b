"""The architecture as in CONTRIBUTING.md.  `make lint` checks the layers by contracts in pyproject.toml."""

import ast
import importlib.machinery
import importlib.metadata
import inspect
import pkgutil
import re
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

import sagips_kit

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "sagips_kit"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
TOP_ENTRIES, MODULE_LINES, FUNCTION_LINES = 22, 500, 60
FILES = sorted(PACKAGE.rglob("*.py"))


def test_contributing_draws_the_same_floors():
    layers = PROJECT["tool"]["importlinter"]["contracts"][0]["layers"]
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    floors = re.findall(r"^ ?\d+ +(.+)$", text, flags=re.MULTILINE)
    drawn = [set(re.findall(r"\w+(?=/|\.py\b)", floor)) for floor in floors]
    assert drawn == [set(re.findall(r"\w+", layer)) for layer in layers]


def test_sizes():
    too_long = [path for path in FILES if len(path.read_text(encoding="utf-8").splitlines()) > MODULE_LINES]
    assert not too_long, "a module of this length has more than one idea"
    nodes = [node for path in FILES for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert not [node.name for node in functions if _length(node) >= FUNCTION_LINES]
    assert len([path for path in PACKAGE.iterdir() if path.name != "__pycache__"]) <= TOP_ENTRIES


def _length(function):
    """Lines of a function without its docstring, which is as long as its arguments and examples need."""
    is_described = ast.get_docstring(function) is not None
    described = function.body[0].end_lineno - function.body[0].lineno + 1 if is_described else 0
    return function.end_lineno - function.lineno - described


def test_arguments_that_are_seconds_say_so():
    nodes = [node for path in FILES for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")]
    functions += [node for node in nodes if isinstance(node, ast.FunctionDef) and node.name == "__init__"]
    names = {(node.name, found.arg) for node in functions for found in [*node.args.args, *node.args.kwonlyargs]}
    times = re.compile(r"(^|_)(timeout|interval|seconds|duration|delay|patience)$")
    assert not [f"{function}({name}=)" for function, name in names if times.search(name)]


# What each import loads.  `sagips_kit` alone loads nothing; reading results needs no torch; nothing starts MPI.
READING = "from sagips_kit import analysis, list_runs, open_run, open_runs, plot, read_status"
EVERY_NAME = "[getattr(sagips_kit, name) for name in sagips_kit.__all__]"
EVERY_MODULE = (
    "import pkgutil, importlib; [importlib.import_module(module.name) for module in pkgutil.walk_packages("
    "sagips_kit.__path__, 'sagips_kit.') if module.name.rpartition('.')[2] not in ('__main__', 'launchers')]"
)


@pytest.mark.parametrize(
    ("code", "loads"),
    [
        ("", set()),
        (READING, {"matplotlib", "zarr"}),
        ("from sagips_kit import connect, install_profile", {"zarr", "torch"}),
        (EVERY_NAME, {"matplotlib", "torch", "zarr", "scipy.special"}),
        (EVERY_MODULE, {"matplotlib", "torch", "zarr", "scipy.special"}),
    ],
    ids=["the package", "reading results", "a notebook's cluster", "every name", "every module"],
)
def test_each_import_loads_only_what_it_needs(code, loads):
    watched = {"mpi4py.MPI", "ipyparallel", "torch", "matplotlib", "zarr", "scipy.stats", "scipy.special"}
    code = f"import sys, sagips_kit\n{code}\nprint(*({watched} & set(sys.modules)))"
    command = [sys.executable, "-W", "error", "-c", code]
    loaded = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert set(loaded) <= loads


def test_completion_offers_every_public_name():
    assert set(dir(sagips_kit)) == set(sagips_kit.__all__) - {"__version__"} | ({"__version__"} & set(dir(sagips_kit)))
    assert all(hasattr(sagips_kit, name) for name in sagips_kit.__all__)


def test_a_public_name_is_a_submodule_only_where_it_is_that_submodule():
    packages = [sagips_kit]
    for module in pkgutil.walk_packages(sagips_kit.__path__, "sagips_kit."):
        if module.name.rpartition(".")[2] in ("__main__", "launchers"):
            continue
        found = import_module(module.name)
        packages += [found] if module.ispkg else []
    for package in packages:
        submodules = {module.name for module in pkgutil.iter_modules(package.__path__)}
        same = submodules & set(getattr(package, "__all__", []))
        for name in same:
            assert inspect.ismodule(getattr(package, name)), f"{package.__name__}.{name} hides a submodule"
        # A lazily imported function that shares its name with a submodule is hidden once the submodule is imported.
        assert same <= _imported_as_modules(package), f"in {package.__name__}, a name and a submodule differ"


def _imported_as_modules(package):
    """What a package's stub, or its `__init__`, imports by `from . import name`."""
    file = Path(package.__file__)
    stub = file.with_suffix(".pyi")
    nodes = ast.walk(ast.parse((stub if stub.exists() else file).read_text(encoding="utf-8")))
    own = [node for node in nodes if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module is None]
    return {alias.name for node in own for alias in node.names}


def test_unknown_names_differ_from_failures_of_an_import(monkeypatch):
    with pytest.raises(
        AttributeError, match=r"sagips_kit has no 'Rign'. Did you mean Ring\? Allowed: AllReduce, .*Ring"
    ):
        sagips_kit.Rign  # noqa: B018

    def broken(name):
        raise AttributeError("module 'torch' has no attribute 'vmap'")

    monkeypatch.setattr(sagips_kit, "_load", broken)
    monkeypatch.delitem(sagips_kit.__dict__, "Trainer", raising=False)
    with pytest.raises(ImportError, match="sagips_kit.Trainer cannot be imported: AttributeError: module 'torch'"):
        from sagips_kit import Trainer  # noqa: F401


def test_version():
    version = PROJECT["project"]["version"]
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    try:
        assert sagips_kit.__version__ == version
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the package is not installed")


def test_the_project_speaks_of_itself_alone():
    """No personal notes, and no folders of a developer's machine."""
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


def test_no_benchmark_has_the_name_of_a_package():
    """Tests put the folder of the benchmarks on the path, where they would be imported in place of it."""
    ours = (ROOT / "benchmarks", ROOT / "tests")
    path = [folder for folder in sys.path if not any(Path(folder).resolve().is_relative_to(own) for own in ours)]
    names = [file.stem for file in (ROOT / "benchmarks").glob("*.py")]
    assert not [name for name in names if importlib.machinery.PathFinder.find_spec(name, path)]
