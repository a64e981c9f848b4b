"""A simulated PBS, because no package provides one: it reads scripts as PBS Pro does and runs them on this machine.

Jobs begin with a fresh environment, deliver their output when they have ended, and are ended when their walltime is
over.  `qsub`, `qstat`, `qdel`, `qrerun` and `qsig` accept the options that the kit and the tests use and refuse all
others; answers and exit statuses are those of OpenPBS 23.06.  Files in its folder change its behaviour:

==============  ====================================================================
`down`          the server does not answer
`no-history`    the server forgets a job when it ends, as OpenPBS does by default
`greeting`      what `qsub` prints before and after the id of a job
==============  ====================================================================
"""

import argparse
import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
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
    """Write the commands of PBS into `folder`/bin; returns that folder."""
    (folder / "bin").mkdir(parents=True)
    (folder / "jobs").mkdir()
    for command in COMMANDS:
        file = folder / "bin" / command
        line = shlex.join([sys.executable, __file__, command, str(folder / "jobs")])
        file.write_text(f'#!/bin/sh\nexec {line} "$@"\n')
        file.chmod(0o755)
    return folder / "bin"


def lose_node(folder, job_id):
    """Let the node of a job fail: a job that may not run again ends, any other is queued again."""
    job = folder / "jobs" / job_id
    _kill(job)
    if _is_rerunnable(job):
        _run_again(folder / "jobs", job_id)
    else:
        (job / "status").write_text("-1")


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
        _start(jobs, job_id)
    greeting = jobs.parent / "greeting"
    print(*([greeting.read_text().strip()] if greeting.exists() else []), job_id, sep="\n")


def _start(jobs, job_id):
    command = [sys.executable, __file__, "run", jobs, job_id]
    nothing = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.Popen(command, start_new_session=True, **nothing)


def _run(jobs, job_id):
    job = jobs / job_id
    script = read_script((job / "script").read_text())
    environment = {name: os.environ[name] for name in ("HOME", "USER", "LANG") if name in os.environ}
    environment |= {"PATH": "/usr/bin:/bin", "PBS_JOBID": job_id, "PBS_NODEFILE": str(job / "nodes")}
    limit_s = _seconds(script.resources.get("walltime"))
    with open(job / "output", "w") as output:
        process = subprocess.Popen(
            ["bash", "-l", job / "script"],
            cwd=environment["HOME"],
            env=environment,
            stdout=output,
            stderr=output,
            umask=0o077,  # the default of PBS
        )
        (job / "pid").write_text(str(os.getpid()))
        try:
            status = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            output.write(f"=>> PBS: job killed: walltime {limit_s + 1} exceeded limit {limit_s}\n")
            output.flush()
            for one in _session(os.getpid())[1:]:
                os.kill(one, signal.SIGKILL)
            process.wait()
            status = -29
    Path(script.output).write_text((job / "output").read_text())
    (job / "status").write_text(str(status))


def _seconds(walltime):
    """A walltime in seconds, None without one."""
    if walltime is None:
        return None
    hours, minutes, seconds = ["0", "0", *walltime.split(":")][-3:]
    return 3600 * int(hours) + 60 * int(minutes) + int(seconds)


def _run_again(jobs, job_id):
    (jobs / job_id / "pid").unlink()
    _start(jobs, job_id)


def _is_rerunnable(job):
    return "#PBS -r n" not in (job / "script").read_text()


def _unknown(command, job_id):
    print(f"{command}: Unknown Job Id {job_id}", file=sys.stderr)
    sys.exit(153)


def _qstat(jobs, *words):
    *options, job_id = words
    job, forgets = jobs / job_id, (jobs.parent / "no-history").exists()
    if options not in (["-x", "-f"], ["-f"]):
        sys.exit(f"qstat: illegal option in {options}")
    if forgets and "-x" in options:
        print("PBS is not configured to maintain job history", file=sys.stderr)
        return
    has_ended = (job / "status").exists()
    if not job.is_dir() or (has_ended and forgets):
        _unknown("qstat", job_id)
    if has_ended and "-x" not in options:
        print(f"qstat: {job_id} Job has finished, use -x or -H to obtain historical job information", file=sys.stderr)
        sys.exit(35)
    letter = "F" if has_ended else "S" if (job / "suspended").exists() else "R" if (job / "pid").exists() else "Q"
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
    _kill(job, patience_s=5)


def _qrerun(jobs, job_id):
    job = jobs / job_id
    if not _is_rerunnable(job):
        print(f"qrerun: Job not rerunnable {job_id}", file=sys.stderr)
        sys.exit(45)
    _kill(job)
    _run_again(jobs, job_id)


def _qsig(jobs, option, name, job_id):
    """Suspend or resume a job, as preemption does."""
    job = jobs / job_id
    if option != "-s" or name not in ("suspend", "resume"):
        sys.exit(f"qsig: illegal option {option} {name}")
    number = signal.SIGSTOP if name == "suspend" else signal.SIGCONT
    for process in _session(int((job / "pid").read_text())):
        os.kill(process, number)
    if name == "suspend":
        (job / "suspended").touch()
    else:
        (job / "suspended").unlink()


def _kill(job, patience_s=0):
    """End all processes of a job: the script, mpiexec and the engines; by SIGTERM first if there is time."""
    import psutil

    if not (job / "pid").exists():
        return
    # First the process that records how the job ended; otherwise it would record how it was killed.
    recorder, *others = _session(int((job / "pid").read_text()))
    _signal(recorder, signal.SIGKILL)
    for pid in others if patience_s else ():
        _signal(pid, signal.SIGTERM)
    deadline = time.monotonic() + patience_s
    while any(map(psutil.pid_exists, others)) and time.monotonic() < deadline:
        time.sleep(0.1)
    for pid in others:
        _signal(pid, signal.SIGKILL)


def _signal(pid, number):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _session(pid):
    import psutil

    try:
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    except psutil.NoSuchProcess:
        return []


COMMANDS = {"qsub": _qsub, "qstat": _qstat, "qdel": _qdel, "qrerun": _qrerun, "qsig": _qsig}

if __name__ == "__main__":
    _, command, folder, *words = sys.argv
    if command != "run" and Path(folder).with_name("down").exists():
        print(f"Connection refused\n{command}: cannot connect to server here (errno=15010)", file=sys.stderr)
        sys.exit(255)
    try:
        (COMMANDS | {"run": _run})[command](Path(folder), *words)
    except (ValueError, TypeError) as error:
        sys.exit(f"{command}: illegal value: {error}")
