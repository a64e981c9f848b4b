"""Installation: the installer's words and remedies, the wheel with nothing but its dependencies, and missing extras."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import warnings
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from sagips_kit import Proxy, RunSpec, Settings, analysis, open_run, run

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]


@pytest.fixture(scope="module")
def install():
    spec = importlib.util.spec_from_file_location("install", ROOT / ".ci" / "install.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("Collecting pandas>=2.1 (from sagips_kit==0.1.0)", "looking up pandas>=2.1"),
        (
            "  Downloading pandas-3.1.1-cp312-cp312-manylinux_2_24_x86_64.manylinux_2_28_x86_64.whl (12.0 MB)",
            "fetching pandas-3.1.1 (12.0 MB)",
        ),
        ("  Downloading numpy-1.25.0.tar.gz (10.4 MB)", "fetching numpy-1.25.0 (10.4 MB)"),
        ("  Using cached tabulate-0.10.0-py3-none-any.whl.metadata (40 kB)", "fetching tabulate-0.10.0 (40 kB)"),
        ("  Building wheel for kiwisolver (pyproject.toml): started", "building kiwisolver"),
        ("Saved ./wheels/pandas-3.1.1-cp312-cp312-manylinux_2_24_x86_64.whl", "saving pandas-3.1.1"),
        ("  Preparing metadata (pyproject.toml): started", "preparing metadata"),
        ("Requirement already satisfied: pip in ./.venv/lib", None),
    ],
)
def test_progress_says_what_pip_is_doing(install, line, words):
    assert install.doing(line) == words


def test_progress_counts_the_packages_that_are_written(install, monkeypatch):
    monkeypatch.setattr(install, "n_installed", lambda: 20)
    assert (
        install.doing("Installing collected packages: mpmath, numpy, torch") == "writing packages: {there} of 23 done"
    )


@pytest.fixture
def pip(tmp_path, monkeypatch):
    """A function that puts a program in pip's place, which prints a text and ends with an exit code."""

    def stand_in(text, code=1, seconds=0.0):
        (tmp_path / "pip.py").write_text(
            f"import time\nprint({text!r}, flush=True)\ntime.sleep({seconds})\nexit({code})\n"
        )
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    return stand_in


def test_progress_is_printed_while_pip_works(install, pip, tmp_path, monkeypatch, capsys):
    pip("Collecting torch==2.13.0", code=0, seconds=1.0)
    monkeypatch.setattr(install, "INTERVAL_S", 0.1)
    assert install.main(tmp_path / "log", "install", "torch") == 0
    out, err = capsys.readouterr()
    assert re.search(r"^ +\d+ s  looking up torch==2.13.0$", out, re.MULTILINE) and not err
    assert (tmp_path / "log").read_text() == "Collecting torch==2.13.0\n"


# What pip 26.3 and 23.0.1 print, recorded from failures that were caused on purpose
RETRYING = "WARNING: Retrying (Retry(total=0, connect=None, read=None, redirect=None, status=None)) after connection "
NOT_FOUND = (
    "\nERROR: Could not find a version that satisfies the requirement tabulate==0.9.0 (from versions: {})\n"
    "ERROR: No matching distribution found for tabulate==0.9.0"
)
NO_REGISTRY = {
    "refused": "broken by 'NewConnectionError(\"HTTPSConnection(host='127.0.0.1', port=9): Failed to establish a new "
    "connection: [Errno 111] Connection refused\")': /simple/tabulate/",
    "no name": "broken by 'NameResolutionError(\"HTTPSConnection(host='pypi.org', port=443): Failed to resolve "
    "'pypi.org' ([Errno -2] Name or service not known)\")': /simple/tabulate/",
    "no name, pip 23.0.1": "broken by 'NewConnectionError('<pip._vendor.urllib3.connection.HTTPSConnection object at "
    "0x7f4f9ccffe10>: Failed to establish a new connection: [Errno -2] Name or service not known')': /simple/tabulate/",
}
SSL_ERROR = (
    "SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed "
    "certificate (_ssl.c:992)'))"
)
CERTIFICATE = (
    f"broken by '{SSL_ERROR}': /simple/tabulate/\nCould not fetch URL https://pypi.org/simple/tabulate/: There was a "
    "problem confirming the ssl certificate: HTTPSConnectionPool(host='pypi.org', port=443): Max retries exceeded with "
    f"url: /simple/tabulate/ (Caused by {SSL_ERROR}) - skipping"
)
COMPILER = (
    "      building 'kiwisolver._cext' extension\n      error: [Errno 2] No such file or directory: 'g++'\n"
    "      [end of output]\n  ERROR: Failed building wheel for kiwisolver\nFailed to build kiwisolver\n"
    "error: failed-wheel-build-for-install"
)
OTHER_PYTHON = (
    "ERROR: Ignored the following versions that require a different python version: 2.5.0 Requires-Python >=3.12"
)
CONFLICT = (
    "ERROR: Cannot install tabulate==0.10.0 and tabulate==0.9.0 because these package versions have conflicting "
    "dependencies.\nERROR: ResolutionImpossible: for help visit https://pip.pypa.io/en/latest/topics/"
)
FAILURES = {
    "disk": ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "TMPDIR"),
    "permission": (
        "ERROR: Could not install packages due to an OSError: [Errno 13] Permission denied: '/opt/lib/tabulate'\n"
        "Check the permissions.",
        "A folder cannot be written",
    ),
    "read-only": (
        "ERROR: Could not install packages due to an OSError: [Errno 30] Read-only file system: '/opt/lib/tabulate'",
        "A folder cannot be written",
    ),
    **{name: (RETRYING + text + NOT_FOUND.format("none"), "https_proxy") for name, text in NO_REGISTRY.items()},
    "certificate": (RETRYING + CERTIFICATE + NOT_FOUND.format("none"), "PIP_CERT"),
    "compiler": (COMPILER, "apt install build-essential python3-dev"),
    "version": (OTHER_PYTHON + NOT_FOUND.format("0.3, 0.10.0"), "PYTHON=python3.12"),
    "conflict": (CONFLICT, "PYTHON=python3.12"),
    "unknown": ("ERROR: Something that nobody has seen", "read the whole log"),
}


@pytest.mark.parametrize("command", ["install", "wheel"])
@pytest.mark.parametrize(("text", "what_to_do"), FAILURES.values(), ids=FAILURES)
def test_each_failure_has_its_remedy(install, pip, tmp_path, capsys, text, what_to_do, command):
    pip(text)
    log = tmp_path / "log"
    assert install.main(log, command, "tabulate==0.9.0") == 1
    err = capsys.readouterr().err
    errors, _, remedy = err.rpartition("\n\n")
    printed = next(line for line in text.splitlines() if line.lstrip().lower().startswith("error"))
    assert what_to_do in remedy and str(log) in remedy and printed in errors
    assert log.read_text() == f"{text}\n"


def test_a_long_error_is_cut(install, pip, tmp_path, capsys):
    pip(NOT_FOUND.format(", ".join(map(str, range(1000)))))
    install.main(tmp_path / "log", "install", "tabulate==0.9.0")
    assert max(map(len, capsys.readouterr().err.splitlines())) < 500


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_is_reported_when_the_log_cannot_be_written(install, pip, capsys):
    pip("Collecting torch", code=0)
    assert install.main("/dev/full", "install", "torch") == 1
    assert "The disk is full" in capsys.readouterr().err


def make(folder, *arguments, **environment):
    """Run make with this Makefile in another folder."""
    command = ["make", "--no-print-directory", f"--file={ROOT / 'Makefile'}", f"--directory={folder}", *arguments]
    names = {"PATH": os.environ["PATH"], "HOME": str(folder)} | environment
    names = {name: value for name, value in names.items() if value is not None}
    return subprocess.run(command, env=names, capture_output=True, text=True)


def a_python(path, has_ensurepip, version="3.11"):
    """A program that answers as a Python does which cannot create environments, or is too old."""
    path.write_text(
        '#!/bin/sh\ncase "$*" in\n  --version) echo Python 3.11.2 ;;\n'
        f"  *version_info\\ \\<*) exit {int(version < '3.11')} ;;\n"
        f"  *'import ensurepip'*) exit {int(not has_ensurepip)} ;;\n"
        "  *-venv*) echo python3.11-venv ;;\n  *) exit 1 ;;\nesac\n"
    )
    path.chmod(0o700)
    return path


@pytest.mark.parametrize(
    ("python", "words"),
    [
        ({"has_ensurepip": False}, "apt install python3.11-venv"),
        ({"has_ensurepip": True}, "is this folder writable"),
        ({"has_ensurepip": True, "version": "3.10"}, "needs Python 3.11 or newer"),
        (None, "was not found.*make PYTHON=python3.12"),
    ],
    ids=["no venv", "venv fails", "too old", "none"],
)
def test_make_reports_what_is_wrong_with_a_python(tmp_path, python, words):
    program = tmp_path / "python"
    if python:
        a_python(program, **python)
    ended = make(tmp_path, ".venv/bin/python", f"PYTHON={program}")
    assert ended.returncode and re.search(words, ended.stderr) and not (tmp_path / ".venv").exists()


@pytest.mark.parametrize("home", [None, "/nonexistent/home", "/proc/self/nothing"])
def test_a_home_that_cannot_be_written_is_replaced(tmp_path, home):
    folder = tmp_path / "a folder"
    folder.mkdir()
    show = '--eval=show: ; @echo "$$HOME"'
    assert make(folder, show, "show", HOME=home).stdout.strip() == f"{folder}/.venv/home"
    assert make(folder, show, "show", HOME=str(tmp_path)).stdout.strip() == str(tmp_path)


def test_make_installs_what_each_target_needs(tmp_path):
    for name in ("pyproject.toml", "constraints.txt", ".ci/install.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")

    def extras(target):
        return [set(found.split(",")) for found in re.findall(r"\.\[(.*?)\]", make(tmp_path, "-n", target).stdout)]

    demo, everything = {"mpi", "dayabay", "notebooks"}, set(EXTRAS) - {"dev", "docs"}
    assert extras("demo") == [demo]
    assert extras("docs") == extras("docs-links") == [demo, {"docs"}]
    assert extras("test") == extras("test-quick") == extras("lint") == extras("install") == [demo, everything]
    # A wheel for the kit itself, its builder and pip are needed where there is no network.
    assert extras("wheels") == [everything]
    assert re.search(r"install\.py \S+ wheel .* pip editables hatchling ", make(tmp_path, "-n", "wheels").stdout)


def test_every_dependency_is_pinned_and_allowed():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = {canonicalize_name(pin.name): pin for pin in (Requirement(line) for line in lines if line[0] != "#")}
    for line in [*PROJECT["dependencies"], *(line for lines in EXTRAS.values() for line in lines)]:
        needed = Requirement(line)
        if needed.name != "sagips_kit":
            (pin,) = pins[canonicalize_name(needed.name)].specifier
            assert pin.operator == "==" and needed.specifier.contains(pin.version), f"{needed} but {pin}"
    assert len(pins) == len([line for line in lines if line[0] != "#"]), "a package is pinned twice"
    assert "pip" in pins


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """The sdist, and the wheel that is built from its content."""
    pytest.importorskip("hatchling", reason="no hatchling: pip install hatchling")
    folder = tmp_path_factory.mktemp("archives")
    build = [sys.executable, "-m", "hatchling", "build", "--directory", str(folder)]
    subprocess.run([*build, "--target", "sdist"], cwd=ROOT, check=True, capture_output=True)
    (sdist,) = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        # Python 3.11.2, that of Debian 12, knows no filters yet.
        archive.extractall(folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    unpacked = folder / sdist.name.removesuffix(".tar.gz")
    subprocess.run([*build, "--target", "wheel"], cwd=unpacked, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    return sdist, wheel


def test_the_wheel_contains_the_package_and_nothing_else(archives):
    with zipfile.ZipFile(archives[1]) as archive:
        names = set(archive.namelist())
    info = f"sagips_kit-{PROJECT['version']}.dist-info"
    assert {name.partition("/")[0] for name in names} == {"sagips_kit", info}
    sources = [*(ROOT / "sagips_kit").rglob("*.py*"), *(ROOT / "cluster_profiles").rglob("*.py")]
    sources = {path.relative_to(ROOT).as_posix() for path in sources if path.suffix != ".pyc"}
    expected = {name if name.startswith("sagips_kit/") else f"sagips_kit/{name}" for name in sources}
    assert {name for name in names if not name.startswith(info)} == expected | {"sagips_kit/py.typed"}
    assert {"sagips_kit/__init__.pyi", "sagips_kit/cluster_profiles/slurm/ipcluster_config.py"} <= expected


def test_the_sdist_can_be_tested_and_holds_nothing_that_is_ignored(archives):
    with tarfile.open(archives[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {
        "Makefile",
        "constraints.txt",
        ".ci/install.py",
        "tests/conftest.py",
        "notebooks/demo.py",
        "LICENSE",
    } <= names
    assert not [name for name in names if name.startswith((".venv", "shared", "notebooks/runs"))]


def needed_by(requirements):
    """Distributions, as installed here, that requirements ask for, and that these need in turn."""
    found, todo = {}, [(Requirement(line), "") for line in requirements]
    while todo:
        requirement, extra = todo.pop()
        name = canonicalize_name(requirement.name)
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        if (name, extra) not in found:
            found[name, extra] = metadata.distribution(name)
            for one in requirement.extras or {""}:
                todo += [(Requirement(line), one) for line in found[name, extra].requires or ()]
    return set(found.values())


@pytest.fixture(scope="module")
def empty(archives, tmp_path_factory):
    """The Python of an environment that has the wheel and what it declares to depend on, without extras."""
    folder = tmp_path_factory.mktemp("empty")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--quiet", "--python", str(python), "install", "--no-deps", "--no-index"]
    subprocess.run([*command, str(archives[1])], check=True)
    (packages,) = (folder / "venv").glob("lib/python*/site-packages")
    for distribution in needed_by(PROJECT["dependencies"]):
        tops = {file.parts[0] for file in distribution.files} - {"..", "__pycache__", "bin", "share"}
        for top in tops:
            if not (packages / top).exists():
                (packages / top).symlink_to(distribution.locate_file(top))
    return python


def in_empty(python, code, folder, *arguments):
    """What a program prints in that environment."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment |= {"MPLBACKEND": "Agg", "PATH": f"{python.parent}:/usr/bin:/bin"}
    command = [python, "-c", code, *map(str, arguments)]
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


SPEC = {
    "problem": Proxy(),
    "settings": Settings(n_members=2, n_events=64),
    "n_steps": 20,
    "n_observed": 500,
    "fit": False,
}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A small run, written by the environment of the tests."""
    path = tmp_path_factory.mktemp("store") / "run.zarr"
    with warnings.catch_warnings(action="ignore"):  # so few steps do not arrive
        run(RunSpec(store=str(path), **SPEC))
    return path


READ = """
import json, sys
import sagips_kit
from sagips_kit import analysis, open_run, plot
run = open_run(sys.argv[1])
plot.overview(run)
print(json.dumps([sagips_kit.__file__, "torch" in sys.modules, analysis.estimate(run)["mean"].values.tolist()]))
"""


def test_the_wheel_alone_reads_a_run(empty, store, tmp_path):
    file, has_torch, mean = json.loads(in_empty(empty, READ, tmp_path, store))
    assert Path(file).is_relative_to(empty.parents[1]) and not has_torch
    assert mean == analysis.estimate(open_run(store))["mean"].values.tolist()


def test_the_wheel_alone_trains_and_has_the_profiles(empty, tmp_path):
    code = (
        "from sagips_kit import Linear, RunSpec, Settings, profiles, read_status, run\n"
        "run(RunSpec(problem=Linear(), settings=Settings(n_members=1, n_events=16), n_steps=2, fit=False,"
        " store='a.zarr'))\n"
        "print(read_status('a.zarr').state, *sorted(profiles()))"
    )
    profiles = sorted(path.name for path in (ROOT / "cluster_profiles").iterdir() if path.name != "shared")
    assert in_empty(empty, code, tmp_path).split() == ["finished", *profiles]
    listed = subprocess.run([empty.with_name("sagips"), "profiles", "list"], capture_output=True, text=True, check=True)
    assert "polaris" in listed.stdout


# What a user types -> the extra whose package is missing.  `fsspec` is hidden, since torch needs it, too.
DOORS = {
    "World.from_mpi()": "mpi",
    "connect('local', n=2)": "mpi",
    "DayaBay().observed(10, None)": "dayabay",
    "Observed('a.parquet').read(Proxy())": "data",
    "Observed('a.h5').read(Proxy())": "data",
    "Observed('a.root').read(Proxy())": "data",
    "open_run(store).sagips.to_arviz()": "explore",
    "export.to_netcdf(open_run(store), 'a.nc')": "explore",
    "Dashboard(store)": "explore",
    "open_run('memory://a.zarr')": "explore",
    "write_batch('a.ipynb', 'slurm')": "notebooks",
}
TRY = """
import json, sys
from importlib.machinery import PathFinder
from pathlib import Path
store, doors = sys.argv[1], json.loads(sys.argv[2])

find = PathFinder.find_spec
PathFinder.find_spec = lambda name, *more: None if name == "fsspec" else find(name, *more)
from sagips_kit import DayaBay, Observed, Proxy, World, connect, open_run
from sagips_kit.cluster.notebook_job import write_batch
from sagips_kit.report import export
from sagips_kit.report.dashboard import Dashboard

for name in ("a.parquet", "a.h5", "a.root"):
    Path(name).write_bytes(b"0")
mpiexec = Path(sys.executable).with_name("mpiexec")  # as of an MPI of the system
mpiexec.write_text("#!/bin/sh")
mpiexec.chmod(0o700)
said = {}
for door in doors:
    try:
        eval(door)
    except (ImportError, RuntimeError) as error:
        said[door] = str(error)
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def messages(empty, store, tmp_path_factory):
    """What each door says in the environment without extras."""
    folder = tmp_path_factory.mktemp("doors")
    return json.loads(in_empty(empty, TRY, folder, store, json.dumps(list(DOORS))).splitlines()[-1])


@pytest.mark.parametrize(("door", "extra"), DOORS.items())
def test_a_missing_extra_is_named_by_the_line_to_type(messages, door, extra):
    assert f'pip install "sagips_kit[{extra}]"' in messages[door]
