"""What a session executes on its engines: calls in the notebook's folder, what an engine is, whether its code is right.

An engine lives longer than the code that it has imported.  Modules of the user that have been edited since are imported
again, and a problem that still computes other numbers than in the notebook is reported.
"""

import ast
import functools
import getpass
import importlib
import importlib.util
import os
import pickle
import platform
import socket
import sys
import sysconfig
import time
import types
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from .._text import ago, listed

if TYPE_CHECKING:
    from ..problems.base import Problem

VERSIONS = ("python", "torch", "mpi4py", "cloudpickle", "sagips_kit")
_INSTALLED = ("site-packages", "dist-packages")
_KIT = f"{Path(__file__).parents[1]}{os.sep}"
_loaded: dict[str, tuple[str, int, int]] = {}  # modules of the user, as they were imported: file, time of change, size
_folders = [""]  # the last folder in which a call was made


def run_in(folder: str, call: bytes) -> Any:
    """Call a pickled function in a folder; executed on the engines."""
    # Relative paths and modules beside the notebook mean the same here, so the folder comes before the unpickling.
    os.chdir(folder)
    if sys.path[:1] != [""]:
        sys.path[:] = ["", *filter(None, sys.path)]
    own = _own_modules()
    is_first = _folders == [""]
    if not is_first and (_folders != [folder] or any(own.get(name, state) != state for name, state in _loaded.items())):
        for name in own:
            del sys.modules[name]
        _loaded.clear()
        importlib.invalidate_caches()
    _folders[:] = [folder]
    function, args = pickle.loads(call)
    _note()  # now, because a call may take hours
    try:
        return function(*args)
    finally:
        _note()


def other_code(problem: "Problem", known: dict[str, list[float]], versions: dict[str, str]) -> str:
    """What a problem computes differently here than in the notebook, and the file of its code; empty if nothing.

    Packages that it uses, and that have other versions here than in the notebook, are named, too.
    """
    from ..running.probe import changes

    if not (changed := changes(problem, known)):
        return ""
    file = getattr(sys.modules.get(type(problem).__module__), "__file__", None)
    where = f" ({file})" if file and type(problem).__module__ != "__main__" else ""
    here = versions_used(problem)
    others = [f"{name} {here[name]} there, {versions[name]} here" for name in here if here[name] != versions.get(name)]
    return f"{changed} of {type(problem).__name__}{where}{'; ' * bool(others)}{', '.join(others)}"


def other_code_explained(problem: "Problem", ranks: list[int], what: str, stop_line: str) -> str:
    """The message about engines whose code is not that of the notebook."""
    module = type(problem).__module__
    own = [name for name in _used(module) if name in _own_modules()]
    again = ", ".join(f"importlib.reload({name})" for name in own)
    again = f"Type {again}" if own else "Type importlib.reload(...) for each of your modules that it uses"
    last = "execute the cell of the class again" if module == "__main__" else "make the problem again"
    end = f"type `{stop_line}` in a terminal and restart" if stop_line else "restart"
    return (
        f"The engines of ranks {listed(ranks)} compute other {what} than this notebook, so one of them uses old code. "
        f"{again}, and {last}, so that the notebook uses the code as it was saved. If this message comes back, "
        f"{end} the kernel of the notebook. Nothing was written."
    )


def versions_used(problem: "Problem") -> dict[str, str]:
    """The versions, as they were imported, of the packages that the modules of a problem use, without the kit."""
    own, kit = _own_modules(), __name__.partition(".")[0]
    packages = {name.partition(".")[0] for name in _used(type(problem).__module__) if name not in own} - {kit}
    versions = {name: getattr(sys.modules.get(name), "__version__", None) for name in sorted(packages)}
    return {name: str(version) for name, version in versions.items() if version is not None}


def _used(module: str) -> list[str]:
    """A module and those that it imports, also through other modules of the user; what others import comes first."""
    own, found = _own_modules(), dict[str, None]()

    def visit(name: str) -> None:
        if name in found or name not in sys.modules:
            return
        found[name] = None
        for other in _imports(name) if name in own or name == "__main__" else ():
            visit(other)
        found[name] = found.pop(name)  # behind them

    visit(module)
    return list(found)


def _imports(name: str) -> Iterator[str]:
    """The names of the modules that a module imports; of a notebook, which has no file, what it uses by name."""
    module = sys.modules[name]
    try:
        tree = ast.parse(Path(module.__file__ or "").read_bytes())
    except (AttributeError, OSError, SyntaxError, ValueError):
        for thing in list(vars(module).values()):
            yield thing.__name__ if isinstance(thing, types.ModuleType) else str(getattr(thing, "__module__", ""))
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            base = importlib.util.resolve_name(base, module.__package__) if node.level else base
            yield from (base, *(f"{base}.{alias.name}" for alias in node.names))


def _note() -> None:
    for name, state in _own_modules().items():
        _loaded.setdefault(name, state)


def _own_modules() -> dict[str, tuple[str, int, int]]:
    """Imported modules of the user, not of an installed package, Python or the kit, with the states of their files."""
    installed = (*(f"{sysconfig.get_path(name)}{os.sep}" for name in ("stdlib", "platstdlib")), _KIT)
    files = {name: getattr(module, "__file__", None) for name, module in list(sys.modules.items())}
    # Compiled modules cannot be imported twice.
    compiled = {name.partition(".")[0] for name, file in files.items() if isinstance(file, str) and file[-3:] == ".so"}
    found = {}
    for name, file in files.items():
        package = name.partition(".")[0]
        if name == "__main__" or package in compiled or not isinstance(file, str) or not file.endswith(".py"):
            continue
        is_installed = file.startswith(installed) or any(word in file for word in _INSTALLED)
        if not is_installed and not _has_distributions(_folder_of_package(name, file)):
            found[name] = _state(file)
    return found


def _folder_of_package(name: str, file: str) -> str:
    parents, depth = Path(file).parents, name.count(".") + file.endswith("__init__.py")
    return str(parents[min(depth, len(parents) - 1)])


@functools.lru_cache
def _has_distributions(folder: str) -> bool:
    """Whether pip has installed packages into a folder."""
    return any(Path(folder).glob("*.dist-info"))


def _state(file: str) -> tuple[str, int, int]:
    try:
        status = os.stat(file)
    except OSError:
        return file, 0, 0
    return file, status.st_mtime_ns, status.st_size


def facts() -> dict[str, Any]:
    """What an engine is; executed on the engines, the only place where MPI is imported."""
    from mpi4py import MPI

    from ..ranks.accelerators import inventory

    return {
        "rank": MPI.COMM_WORLD.rank,
        "size": MPI.COMM_WORLD.size,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "device": inventory(),
        "library": MPI.Get_library_version().splitlines()[0].strip("\0 "),
        **_versions(),
        **_origin(),
    }


def _origin() -> dict[str, Any]:
    """Whose process this is, since when, and which code of the kit it has imported."""
    folder, started = Path(__file__).parents[1], psutil.Process().create_time()
    # Modules are imported when they are first needed, so an edited kit may be used in parts.
    is_edited = any(file.stat().st_mtime > started for file in folder.rglob("*.py"))
    return {"user": getpass.getuser(), "started": started, "code": str(folder), "is_edited": is_edited}


def origin_explained(found: list[dict[str, Any]]) -> str:
    """Whose engines they are, how old, and which code they use, for those who join them."""
    first, here, fresh = found[0], _origin(), "connect(..., fresh=True) starts new ones"
    if not all(here.keys() <= fact.keys() for fact in found):
        return f"with an older sagips_kit, which does not say where it is: {fresh}"
    age = ago(time.time() - min(fact["started"] for fact in found))
    text = f"started {age} ago by {first['user']}, with sagips_kit {first['sagips_kit']} of {first['code']}"
    if any(fact["code"] != here["code"] for fact in found):
        return f"{text}. This notebook uses {here['code']}: {fresh}"
    if any(fact["is_edited"] for fact in found):
        return f"{text}, whose files have been edited since: {fresh}"
    return text


def _versions() -> dict[str, str]:
    """The versions that this process uses, which a package that was upgraded since shows only in its own module."""
    from ..store.create import installed_version

    loaded = {name: getattr(sys.modules.get(name), "__version__", None) for name in VERSIONS}
    loaded["python"] = platform.python_version()
    return {name: str(version or installed_version(name)) for name, version in loaded.items()}


def differences(found: list[dict[str, Any]], n: int, command: str) -> list[str]:
    """Why the engines are not one MPI world of equal ranks, one line per reason."""
    lines = []
    if sizes := {fact["size"] for fact in found} - {n}:
        lines.append(
            f"{n} engines, but MPI worlds of size {listed(sizes)}: the engines' MPI is {found[0]['library']}, which "
            f"does not belong to `{command}`. Use the mpiexec of that MPI, e.g. `pip install mpich` beside mpi4py."
        )
    elif [fact["rank"] for fact in found] != list(range(n)):
        ranks = listed(fact["rank"] for fact in found)
        lines.append(f"The engines 0 to {n - 1} have the MPI ranks {ranks}: they were started without --mpi.")
    if len({fact["device"] for fact in found}) > 1:
        counts = ", ".join(f"{device} on {count}" for device, count in Counter(f["device"] for f in found).items())
        lines.append(f"devices: {counts} engines. Give each rank its GPU by the profile's option affinity.")
    here = _versions()
    for name in VERSIONS:
        versions = Counter(fact[name] for fact in found)
        if set(versions) != {here[name]}:
            counts = ", ".join(f"{version} on {count}" for version, count in versions.items())
            lines.append(
                f"{name}: {here[name]} in the notebook, {counts} engines. Use one environment for all; if a "
                "package was upgraded, restart the kernel and the engines."
            )
    return lines
