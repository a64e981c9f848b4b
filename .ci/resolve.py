"""Check that old releases of pip fetch the pinned one, and that the pinned versions exist for all supported Pythons.

    python3 .ci/resolve.py

Takes a minute.  Downloads what describes packages, not the packages; installs nothing but pip, into a temporary folder.
"""

import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parents[1]
CONSTRAINTS = ROOT / "constraints.txt"
OLDEST_PIP = "22.3.1"  # came with Python 3.11.0 and 3.11.1
OTHER_PYTHONS = ("3.12", "3.13", "3.14")
LIMIT_S = 150.0


def fetch_pip(environment):
    """Let the oldest pip install the pinned one; the Python of the environment that has it."""
    python = environment / "bin" / "python"
    oldest = find_python("3.11")  # newer ones do not run that pip
    subprocess.run([oldest or sys.executable, "-m", "venv", environment], check=True)
    pip = [python, "-m", "pip", "--disable-pip-version-check"]
    if oldest:
        subprocess.run([*pip, "install", "-qq", f"pip=={OLDEST_PIP}"], check=True)
    installer = [python, ROOT / ".ci" / "install.py", environment / "log"]
    subprocess.run([*installer, "install", "--constraint", CONSTRAINTS, "pip"], check=True)
    found = subprocess.run([*pip, "--version"], check=True, capture_output=True, text=True).stdout.split()[1]
    pinned = re.search(r"^pip==(.*)$", CONSTRAINTS.read_text(encoding="utf-8"), re.MULTILINE)[1]
    if found != pinned:
        raise SystemExit(f"pip {found} was installed and not {pinned}.")
    return python


def find_python(version):
    """A Python of that version that runs; None if there is none."""
    beside = sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python"))
    for path in (shutil.which(f"python{version}"), *beside):
        if path and subprocess.run([path, "-c", ""], capture_output=True).returncode == 0:
            return path
    return None


def resolve(pip_of, version):
    """Resolve all extras for a Python, which needs wheels for everything that is pinned; what to print about it."""
    start, python = time.monotonic(), find_python(version)
    if python is None:
        return f"Python {version}: not found, skipped"
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    command = [pip_of, "-m", "pip", "--python", python, "install", "--dry-run", "--ignore-installed", "-qq"]
    command += ["--only-binary", ":all:", "--constraint", CONSTRAINTS, f"{ROOT}[{','.join(set(extras) - {'dev'})}]"]
    subprocess.run(command, check=True, timeout=LIMIT_S)
    return f"Python {version}: the pinned versions resolve, {time.monotonic() - start:.0f} s"


def main():
    with tempfile.TemporaryDirectory() as folder:
        start = time.monotonic()
        pip_of = fetch_pip(Path(folder) / "venv")
        print(f"The pinned pip is fetched by pip {OLDEST_PIP}: {time.monotonic() - start:.0f} s", flush=True)
        with ThreadPoolExecutor() as pool:
            for line in pool.map(partial(resolve, pip_of), OTHER_PYTHONS):
                print(line, flush=True)


if __name__ == "__main__":
    main()
