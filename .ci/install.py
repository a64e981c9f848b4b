"""Install packages with pip, with a line of progress every few seconds and advice if something fails.

    python .ci/install.py LOG ARGUMENT...

Runs `pip install ARGUMENT...` with the Python that runs this script.  All output of pip goes to the file LOG.
"""

import re
import subprocess
import sys
import sysconfig
import threading
import time
from pathlib import Path

INTERVAL_S = 5.0  # between two lines of progress
N_LAST = 12  # lines of pip's output to show after a failure

# Beginning of a line of pip's output -> description of what pip is doing
DOING = {
    r"Collecting (\S+)": "looking up {}",
    r"\s*(?:Downloading|Using cached) (\S+?)(?:-py\d|-cp\d|\.tar|\.whl|\.metadata).*?(?: \((.*)\))?$": "fetching {}",
    r"\s*Building wheel for (\S+)": "building {}",
    r"\s*Preparing metadata": "preparing metadata",
    r"Installing collected packages: (.*)": "writing packages: {there} of {n}",
}
# Pattern of an error of pip -> what to do
REMEDIES = {
    r"No space left on device|Errno 28|Disk quota exceeded": (
        "The disk is full. The kit with all its dependencies takes about 2 GB, or 8 GB with CUDA builds of torch: free "
        "some space, or clone into another folder. If /tmp is full, type: export TMPDIR=$PWD/.tmp && mkdir -p .tmp"
    ),
    r"Read-only file system|Permission denied|Errno 13|Errno 30": (
        "A folder is not writable. Clone into a folder that you can write to; if it is pip's cache, type: export "
        "PIP_NO_CACHE_DIR=1"
    ),
    r"NewConnectionError|NameResolutionError|name resolution|Read timed out|ConnectTimeout|Max retries|ProxyError|"
    r"Network is unreachable|ConnectionResetError|Could not find a version that satisfies the requirement pip": (
        "The package registry cannot be reached. Behind a proxy, type: export https_proxy=http://PROXY:PORT. For a "
        "machine without network, download the packages elsewhere with `pip download`."
    ),
    r"CERTIFICATE_VERIFY_FAILED|SSLError": (
        "The registry's certificate is not trusted here. Ask for your site's certificates, then type: export "
        "PIP_CERT=/path/to/certificates.pem"
    ),
    r"error: command '.*(gcc|cc|clang|c\+\+|g\+\+|mpicc)|No such file or directory: '(gcc|cc|c\+\+|g\+\+)'|"
    r"Failed building wheel|Unable to find a compiler|unknown compiler": (
        "A package has no build for this Python and platform, and compiling it failed. Python 3.11, 3.12 and 3.13 on "
        "Linux need no compiler: choose one with make PYTHON=python3.12, or install a compiler (Debian: apt install "
        "build-essential python3-dev)."
    ),
    r"No matching distribution found|ResolutionImpossible|conflicting dependencies": (
        "The pinned versions do not exist for this Python or platform. Python 3.11 to 3.13 are supported; choose one "
        "with make PYTHON=python3.12, or install without pins: pip install --editable '.[dev]'"
    ),
}


def n_installed():
    """Number of packages that are installed now."""
    return len(list(Path(sysconfig.get_path("purelib")).glob("*.dist-info")))


def doing(line):
    """What pip is doing according to a line of its output; None if the line does not say."""
    for pattern, words in DOING.items():
        if found := re.match(pattern, line):
            name, size = (*found.groups(""), "", "")[:2]
            n = n_installed() + name.count(",") + 1
            return words.format(name, n=n, there="{there}") + (f" ({size})" if size else "")
    return None


def remedy(text):
    """What to do about the errors in the output of pip, or where to look for the reason."""
    found = [words for pattern, words in REMEDIES.items() if re.search(pattern, text)]
    return found[0] if found else "If the reason is not clear, read the complete log."


def main(log, *arguments):
    command = [sys.executable, "-m", "pip", "install", "--progress-bar", "off", *arguments]
    start, now, lines = time.monotonic(), "starting pip", []
    ended = threading.Event()

    def show():
        while not ended.wait(INTERVAL_S):
            print(f"    {time.monotonic() - start:4.0f} s  {now.replace('{there}', str(n_installed()))}", flush=True)

    shown = threading.Thread(target=show, daemon=True)
    shown.start()
    with open(log, "a", encoding="utf-8") as file:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for line in process.stdout:
            file.write(line)
            lines.append(line.rstrip())
            now = doing(line) or now
        code = process.wait()
    ended.set()
    shown.join()
    if code:
        errors = [line for line in lines if re.match(r"\s*(ERROR|error|Error)", line)] or lines
        print("\n".join(errors[-N_LAST:]), file=sys.stderr)
        print(f"\n{remedy(chr(10).join(lines))}\nComplete log of pip: {log}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
