"""A simulated PBS, because no package provides one: it reads scripts as PBS Pro does and runs them on this machine.

Jobs begin with a fresh environment, deliver their output when they have ended, and are never removed from its records.
`qsub`, `qstat` and `qdel` accept the options that the kit uses and refuse all others.
"""

import argparse
import os
import re
import shlex
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

_WALLTIME = re.compile(r"(\d+:)?(\d+:)?\d+")
_CHUNK = re.compile(r"(\d+)((?::[a-z_]+=[\w.-]+)*)")
_PLACES = {"free", "pack", "scatter", "vscatter", "excl", "exclhost"}


class Parser(argparse.ArgumentParser):
    """A parser that raises an exception instead of exiting."""

    def error(self, message):
        raise ValueError(message)


@dataclass
class Script:
    """What PBS and mpiexec read in a job script."""

    name: str
    account: str | None
    queue: str | None
    resources: dict
    nodes: int
    chunk: dict
    output: str
    lines: list

    def mpiexec(self):
        """Options of the line that starts the ranks, and their program: Namespace, list of str."""
        words = next(shlex.split(line) for line in self.lines if "mpiexec" in shlex.split(line)[0])
        parser = Parser(allow_abbrev=False)
        parser.add_argument("-n", type=int, required=True)
        parser.add_argument("--ppn", type=int)
        parser.add_argument("--depth", type=int, default=1)
        parser.add_argument("--cpu-bind", choices=["depth", "none"])
        parser.add_argument("program", nargs=argparse.REMAINDER)
        options = parser.parse_args(words[1:])
        return options, options.program


def read_script(text):
    """Read a job script as PBS Pro does; ValueError for what it would refuse."""
    first, *lines = text.splitlines()
    if not first.startswith("#!/bin/bash"):
        raise ValueError(f"first line {first!r}")
    # Options after the first command are comments.
    n_options = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    words = [word for line in lines[:n_options] if line.startswith("#PBS ") for word in shlex.split(line[5:])]
    if any(line.startswith("#PBS") for line in lines[n_options:]):
        raise ValueError("#PBS after the first command")
    parser = Parser(allow_abbrev=False)
    parser.add_argument("-N", required=True)
    parser.add_argument("-A")
    parser.add_argument("-q")
    parser.add_argument("-l", action="append", default=[])
    parser.add_argument("-j", choices=["oe"])
    parser.add_argument("-o", required=True)
    parser.add_argument("-m")
    parser.add_argument("-r", choices=["y", "n"])
    parser.add_argument("-M")
    options = parser.parse_args(words)
    if not re.fullmatch(r"[A-Za-z][\w.+-]{0,235}", options.N):
        raise ValueError(f"name {options.N!r}")
    resources = dict(resource.split("=", 1) for resource in options.l)
    if len(resources) != len(options.l) or not resources.keys() <= {"select", "place", "walltime", "filesystems"}:
        raise ValueError(f"resources {options.l}")
    if not _WALLTIME.fullmatch(resources.get("walltime", "1")) or resources.get("place", "free") not in _PLACES:
        raise ValueError(f"walltime or place in {resources}")
    chunk = _CHUNK.fullmatch(resources["select"])
    parts = dict(part.split("=") for part in chunk[2].split(":") if part)
    return Script(options.N, options.A, options.q, resources, int(chunk[1]), parts, options.o, lines[n_options:])


def install(folder):
    """Write `qsub`, `qstat` and `qdel` into `folder`/bin; returns that folder."""
    (folder / "bin").mkdir(parents=True)
    (folder / "jobs").mkdir()
    for command in ("qsub", "qstat", "qdel"):
        file = folder / "bin" / command
        line = shlex.join([sys.executable, __file__, command, str(folder / "jobs")])
        file.write_text(f'#!/bin/sh\nexec {line} "$@"\n')
        file.chmod(0o755)
    return folder / "bin"


def _qsub(jobs, path):
    text = Path(path).read_text()
    script = read_script(text)
    job_id = f"{len(list(jobs.iterdir())) + 1}.here"
    job = jobs / job_id
    job.mkdir()
    (job / "script").write_text(text)
    (job / "nodes").write_text("localhost\n")
    # A queue with this name never runs anything.
    if script.queue != "full":
        command = [sys.executable, __file__, "run", jobs, job_id]
        nothing = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.Popen(command, start_new_session=True, **nothing)
    print(job_id)


def _run(jobs, job_id):
    job = jobs / job_id
    environment = {name: os.environ[name] for name in ("HOME", "USER", "LANG") if name in os.environ}
    environment |= {"PATH": "/usr/bin:/bin", "PBS_JOBID": job_id, "PBS_NODEFILE": str(job / "nodes")}
    with open(job / "output", "w") as output:
        process = subprocess.Popen(
            ["bash", "-l", job / "script"], cwd=environment["HOME"], env=environment, stdout=output, stderr=output
        )
        (job / "pid").write_text(str(os.getpid()))
        status = process.wait()
    script = read_script((job / "script").read_text())
    Path(script.output).write_text((job / "output").read_text())
    (job / "status").write_text(str(status))


def _qstat(jobs, *words):
    job_id = words[-1]
    job = jobs / job_id
    if words[:-1] != ("-x", "-f") or not job.is_dir():
        sys.exit(f"qstat: Unknown Job Id {job_id}")
    letter = "F" if (job / "status").exists() else "R" if (job / "pid").exists() else "Q"
    print(f"Job Id: {job_id}\n    Job_Name = sagips\n    job_state = {letter}")
    if letter == "Q":
        print("    comment = Not Running: Insufficient amount of resource: ncpus (R: 8 A:\n\t 2 T: 2)")
    if letter == "F":
        print(f"    Exit_status = {(job / 'status').read_text()}")


def _qdel(jobs, job_id):
    job = jobs / job_id
    if not job.is_dir() or (job / "status").exists():
        sys.exit(f"qdel: Job has finished {job_id}")
    (job / "status").write_text("271")
    if (job / "pid").exists():
        # The job's session: the script, mpiexec and the engines.
        pid = int((job / "pid").read_text())
        for process in _session(pid):
            os.kill(process, signal.SIGKILL)


def _session(pid):
    import psutil

    try:
        # First the process that records how the job ended; otherwise it would record how it was killed.
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    except psutil.NoSuchProcess:
        return []


if __name__ == "__main__":
    _, command, folder, *words = sys.argv
    try:
        {"qsub": _qsub, "run": _run, "qstat": _qstat, "qdel": _qdel}[command](Path(folder), *words)
    except (ValueError, TypeError) as error:
        sys.exit(f"{command}: illegal value: {error}")
