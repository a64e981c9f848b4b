"""Install or download packages with pip: print a line of progress every few seconds, and a remedy when pip fails.

    python .ci/install.py LOG install|wheel ARGUMENT...

Runs that command of pip for the Python that runs this file.  Everything that pip prints goes to the file LOG.
"""

import re
import subprocess
import sys
import sysconfig
import threading
import time
from pathlib import Path

INTERVAL_S = 5.0  # between two lines of progress
N_LAST, N_CHARACTERS = 12, 400  # how much of pip's errors is printed

# How a line of pip begins, and what pip is doing then
DOING = {
    r"Collecting (\S+)": "looking up {}",
    r"\s*(?:Downloading|Using cached) (\S+?)(?:-py\d|-cp\d|\.tar|\.whl|\.metadata).*?(?: \((.*)\))?$": "fetching {}",
    r"\s*Building wheel for (\S+)": "building {}",
    r"\s*Preparing metadata": "preparing metadata",
    r"Saved (?:.*/)?(\S+?)(?:-py\d|-cp\d|\.whl)": "saving {}",
    r"Installing collected packages: (.*)": "writing packages: {there} of {n} done",
}
# What pip prints when it fails, and what to do.  The first match counts: a certificate that is refused also ends in too
# many retries, and a registry that is not reached in a version that is not found.
REMEDIES = {
    r"No space left on device|Errno 28|Disk quota exceeded": (
        "The disk is full. The kit with all its packages takes about 2 GB, with a CUDA build of torch 8 GB: free "
        "space, or clone into a folder on a larger disk. If it is /tmp, type: mkdir -p .tmp && export TMPDIR=$PWD/.tmp"
    ),
    r"Read-only file system|Permission denied|Errno 13|Errno 30": (
        "A folder cannot be written. Clone into a folder of your own. If it is the folder of temporary files, type: "
        "mkdir -p .tmp && export TMPDIR=$PWD/.tmp"
    ),
    r"CERTIFICATE_VERIFY_FAILED|SSLError": (
        "The certificate of the package registry is not trusted on this machine. Ask for the certificates of your "
        "site, then type: export PIP_CERT=/path/to/certificates.pem"
    ),
    r"NewConnectionError|NameResolutionError|name resolution|Read timed out|ConnectTimeout|Max retries|ProxyError|"
    r"Network is unreachable|ConnectionResetError|Could not find a version that satisfies the requirement pip": (
        "The package registry cannot be reached. Behind a proxy, type: export https_proxy=http://PROXY:PORT. For a "
        "machine without network see docs/howto/install_elsewhere.md."
    ),
    r"error: command '.*(gcc|cc|clang|c\+\+|g\+\+|mpicc)|No such file or directory: '(gcc|cc|c\+\+|g\+\+)'|"
    r"Failed building wheel|Unable to find a compiler|unknown compiler": (
        "A package has no build for this Python and platform, and compiling it failed. Python 3.11, 3.12 and 3.13 on "
        "Linux need no compiler: choose one with make PYTHON=python3.12, or install a compiler (Debian: apt install "
        "build-essential python3-dev)."
    ),
    r"No matching distribution found|ResolutionImpossible|conflicting dependencies": (
        "The pinned versions do not exist for this Python or platform. Python 3.11 to 3.13 on Linux are supported; "
        "choose one with make PYTHON=python3.12, or install without pins: pip install --editable '.[dev]'"
    ),
}


def n_installed():
    """Number of packages that are installed now."""
    return len(list(Path(sysconfig.get_path("purelib")).glob("*.dist-info")))


def doing(line):
    """What pip is doing, in a few words; None if the line does not say.  `{there}` stands for `n_installed()`."""
    for pattern, words in DOING.items():
        if found := re.match(pattern, line):
            name, size = (*found.groups(""), "", "")[:2]
            n = n_installed() + name.count(",") + 1
            return words.format(name, n=n, there="{there}") + (f" ({size})" if size else "")
    return None


def remedy(text):
    """What to do about pip's errors, or where to look further."""
    found = [words for pattern, words in REMEDIES.items() if re.search(pattern, text)]
    return found[0] if found else "If the reason is not clear, read the whole log, in the file named below."


def run_pip(log, command, arguments):
    """Run a command of pip, printing its progress; its exit code, and the lines that it printed."""
    command = [sys.executable, "-m", "pip", command, "--progress-bar", "off", *arguments]
    start, now, lines = time.monotonic(), "starting pip", []
    ended = threading.Event()

    def show():
        while not ended.wait(INTERVAL_S):
            print(f"    {time.monotonic() - start:4.0f} s  {now.replace('{there}', str(n_installed()))}", flush=True)

    shown = threading.Thread(target=show, daemon=True)
    try:
        with (
            open(log, "a", encoding="utf-8") as file,
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process,
        ):
            shown.start()
            for line in process.stdout:
                file.write(line)
                lines.append(line.rstrip())
                now = doing(line) or now
    except OSError as error:  # the log cannot be written
        return 1, [*lines, f"ERROR: {error}"]
    finally:
        ended.set()
    return process.returncode, lines


def main(log, command, *arguments):
    code, lines = run_pip(log, command, arguments)
    if code:
        errors = [line[:N_CHARACTERS] for line in lines if re.match(r"\s*(ERROR|error|Error)", line)] or lines
        print("\n".join(errors[-N_LAST:]), file=sys.stderr)
        print(f"\n{remedy(chr(10).join(lines))}\nThe whole output of pip: {log}", file=sys.stderr)
    return code


if __name__ == "__main__":
    try:
        sys.exit(main(*sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
