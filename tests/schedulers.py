"""Events that happen to jobs, for each scheduler and each door of the kit: what the user sees, and what is lost.

The doors are a notebook (`connect`, `submit`, `wait`), the commands `sagips run` and `sagips engines`, and `sagips
batch`.  Slurm is a real one (`slurm_machine`), PBS a simulated one that gives the answers of a real one
(`pbs_machine`), and `local` has no scheduler.  `play` returns one cell of the table, as a dict.
"""

import contextlib
import dataclasses
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import nbformat
import pbs_machine
import psutil
import slurm_machine
from gaussian import Slow, long_run
from mpi_launcher import command as mpi_command

from sagips_kit import read_status
from sagips_kit.cluster import connect, profiles
from sagips_kit.cluster.configuration import mpiexec_beside_python
from sagips_kit.cluster.jobs import PBS, Slurm
from sagips_kit.running.checkpoints import FOLDER
from sagips_kit.running.coordination import identity
from sagips_kit.store.group import open_group

ROOT, N = Path(__file__).parents[1], 2
# Slurm takes up to 8 s to end a job, and this must not be enough for the run to finish.
N_STEPS = 1500
LIMIT_S = 60.0  # from when the scheduler knows, until the user does
_HANG_S = 150.0
EVENTS = (
    "fails at once",
    "cancelled in the queue",
    "cancelled",
    "node lost",
    "requeued",
    "preempted",
    "warned",
    "time up",
    "server restarted",
    "history off",
    "greeting lines",
    "--clusters",
)
SCHEDULERS, DOORS = ("slurm", "pbs", "local"), ("notebook", "command", "batch")
_MODULE = "no such module: gcc"
_NO_JOBS = "engines of this machine are no job"
_NO_CLUSTERS = "an option of Slurm"
_NO_WARNING = "PBS sends no signal before the time of a job is over"
_ELSEWHERE = "`sagips batch` refuses profiles that submit no jobs, before anything is written"
# Cells that cannot happen, with the reason
EXCLUDED = {
    **{
        ("local", event, door): _NO_JOBS
        for event in EVENTS
        if event not in ("fails at once", "node lost", "time up", "server restarted")
        for door in ("notebook", "command")
    },
    **{("local", event, "batch"): _ELSEWHERE for event in EVENTS if event != "fails at once"},
    ("local", "server restarted", "command"): "`sagips run` needs no controller",
    **{("pbs", "--clusters", door): _NO_CLUSTERS for door in DOORS},
    **{("pbs", "warned", door): _NO_WARNING for door in DOORS},
    **{(one, "history off", "batch"): "the job asks nobody about itself" for one in ("slurm", "pbs")},
}
CELLS = [
    (scheduler, event, door)
    for scheduler in SCHEDULERS
    for event in EVENTS
    for door in DOORS
    if (scheduler, event, door) not in EXCLUDED
]


def slow_run(store, overwrite=False, n_steps=N_STEPS):
    """A run of some 20 seconds with an early checkpoint."""
    return long_run(store, n_steps, Slow(n_observed=200), checkpoint_s=0.5, overwrite=overwrite)


_SHORT = slow_run("short.zarr", n_steps=20)


def until(condition, seconds=240.0):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{condition} for {seconds} s")
        time.sleep(0.1)


def has_checkpoint(path):
    """Whether both ranks have written a checkpoint."""
    return len({file.name[13:19] for file in Path(path).glob(f"{FOLDER}/*.safetensors")}) == N


def text_of(*command):
    """What a command prints."""
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=90, check=False)
    return done.stdout + done.stderr


def sagips(*words):
    """What the command `sagips` prints."""
    return text_of(sys.executable, "-m", "sagips_kit", *words)


class Room:
    """A scheduler as its users and its administrators see it, from the folder `folder`."""

    name, held, kind = "", {}, None
    more_reasons = {}
    options = {"walltime": "00:10:00"}

    def __init__(self, folder):
        self.folder, self.timers = folder, []

    @contextlib.contextmanager
    def open(self):
        """Run the scheduler, with its profile installed, and this process in its folder."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.chdir(self.folder))
            environment = {
                "IPYTHONDIR": str(self.folder / "my ipython"),
                "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
            }
            before = {**os.environ}
            stack.callback(lambda: (os.environ.clear(), os.environ.update(before)))
            os.environ.update(environment)
            self.start(stack)
            profiles.install_profile(self.name, **self.options)
            yield self

    def start(self, stack):
        """Start the scheduler."""

    def submitted(self, body):
        """Submit a job that executes a shell command; returns its id."""
        job = self.kind(**{name: text for name, text in self.options.items() if name != "mpiexec"})
        text = job.script(N, [body], "run", os.path.abspath("job.log"), _environment(), reruns=True)
        Path("job.sh").write_text(text)
        return job.submit("job.sh")

    def reason(self, event):
        """Pattern of what the user reads about the end of a job."""
        return _REASONS.get(event, "") + self.more_reasons.get(event, "")


def _environment():
    names = ("PYTHONPATH", "IPYTHONDIR", "SLURM_CONF")
    return {name: os.environ[name] for name in names if name in os.environ}


class SlurmRoom(Room):
    name, held, kind = "slurm", {"directives": "--hold"}, Slurm
    # The MPI of PyPI's mpich speaks PMI 2 with Slurm.
    options = {"walltime": "10:00", "mpiexec": "srun --mpi=pmi2 -K --ntasks={n}"}
    run = "srun --mpi=pmi2 -K --ntasks={n}"
    short = {"walltime": "2:00"}
    second_lives = ("requeued", "node lost", "preempted")
    # Engines are asked to stop before their job has ended, and Slurm forgets jobs once a minute.
    more_reasons = {"history off": "|CANCELLED|asked to stop by a signal"}

    def start(self, stack):
        (self.folder / "slurm").mkdir()
        self.slurm = stack.enter_context(slurm_machine.slurm(self.folder / "slurm"))
        os.environ.update(self.slurm.environment)

    def jobs(self):
        command = ["squeue", "--noheader", "--format=%i"]
        while (asked := subprocess.run(command, capture_output=True, text=True, check=False)).returncode:
            time.sleep(0.5)  # while its server is down
        return asked.stdout.split()

    def knows(self, job_id):
        """Whether Slurm knows that this life of a job is over."""
        command = ["scontrol", "--oneliner", "show", "job", job_id]
        asked = subprocess.run(command, capture_output=True, text=True, check=False)
        if asked.returncode and "Invalid job id" not in asked.stderr:
            return False  # its server is down
        found = dict(re.findall(r"(\w+)=(\S*)", asked.stdout))
        return found.get("JobState") not in ("PENDING", "CONFIGURING", "RUNNING") or found.get("Restarts") != "0"

    def cancel(self, job_id):
        subprocess.run(["scancel", job_id], check=True)

    def lose_node(self, job_id):
        update = ["scontrol", "update", f"NodeName={self.slurm.host}"]
        subprocess.run([*update, "State=DOWN", "Reason=test"], check=True)
        until(lambda: self.knows(job_id))
        subprocess.run([*update, "State=RESUME"], check=False)  # it may have come back by itself

    def requeue(self, job_id):
        return subprocess.run(["scontrol", "requeue", job_id], capture_output=True, text=True, check=False).stderr

    def preempt(self, job_id):
        line = ["sbatch", "--partition=urgent", "--exclusive", "--output=/dev/null", "--wrap=sleep 2"]
        subprocess.run(line, check=True, capture_output=True)
        until(lambda: self.knows(job_id))

    def warn(self, job_id):
        """As `#SBATCH --signal=USR2@180` does."""
        subprocess.run(["scancel", "--signal=USR2", job_id], check=True)

    def stop_server(self):
        self.slurm.stop_controller()

    def start_server(self):
        self.slurm.start("slurmctld")
        until(lambda: "UP" in text_of("scontrol", "ping"))

    @contextlib.contextmanager
    def forgetful(self):
        self.slurm.forget_jobs_after(2)
        yield
        self.slurm.forget_jobs_after(300)

    @contextlib.contextmanager
    def wrapped(self, **scripts):
        """Commands of Slurm in front of the real ones."""
        folder = self.folder / "bin"
        folder.mkdir()
        for name, script in scripts.items():
            (folder / name).write_text(f"#!/bin/bash\nreal=/usr/bin/{name}\n{script}\n")
            (folder / name).chmod(0o755)
        path = os.environ["PATH"]
        os.environ["PATH"] = f"{folder}{os.pathsep}{path}"
        yield
        os.environ["PATH"] = path
        for name in scripts:
            (folder / name).unlink()
        folder.rmdir()

    def greeting(self):
        return self.wrapped(sbatch='echo "Welcome. 12 nodes are down."\n$real "$@"\necho "Charged: 3 hours"')

    def clusters(self):
        """Slurm with several clusters needs a database; its commands are imitated, on the one real cluster."""
        # A command without --clusters does not find the job, as it is on another cluster.
        needs = '[ "$1" = --clusters=big ] || { echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1; }\n'
        return self.wrapped(
            sbatch='id=$($real "$@") && echo "$id;big"',
            squeue=f'[ "$1" = --noheader -a "$2" = --format=%i ] && exec $real "$@"\n{needs}'
            'shift\necho "CLUSTER: big"\nexec $real "$@"',
            scancel=f'{needs}shift\nexec $real "$@"',
        )


class PbsRoom(Room):
    name, held, kind = "pbs", {"queue": "full"}, PBS
    run = f"{mpiexec_beside_python()} -n {{n}}"
    options = {"walltime": "00:10:00", "mpiexec": run}
    short = {"walltime": "00:02:00"}
    second_lives = ("requeued", "node lost")

    def start(self, stack):
        self.machine = self.folder / "pbs"
        os.environ["PATH"] = f"{pbs_machine.install(self.machine)}{os.pathsep}{os.environ['PATH']}"

    def _job(self, job_id):
        return self.machine / "jobs" / job_id

    def jobs(self):
        return [job.name for job in (self.machine / "jobs").iterdir() if not (job / "status").exists()]

    def knows(self, job_id):
        return (self._job(job_id) / "status").exists()

    def cancel(self, job_id):
        subprocess.run(["qdel", job_id], check=True)

    def lose_node(self, job_id):
        pbs_machine.lose_node(self.machine, job_id)

    def requeue(self, job_id):
        return subprocess.run(["qrerun", job_id], capture_output=True, text=True, check=False).stderr

    def preempt(self, job_id):
        subprocess.run(["qsig", "-s", "suspend", job_id], check=True)
        time.sleep(8)  # longer than the kit waits between two questions
        subprocess.run(["qsig", "-s", "resume", job_id], check=True)

    def stop_server(self):
        (self.machine / "down").touch()

    def start_server(self):
        (self.machine / "down").unlink()

    @contextlib.contextmanager
    def forgetful(self):
        (self.machine / "no-history").touch()
        yield
        (self.machine / "no-history").unlink()

    @contextlib.contextmanager
    def greeting(self):
        (self.machine / "greeting").write_text("Welcome. 12 nodes are down.\n")
        yield
        (self.machine / "greeting").unlink()


class LocalRoom(Room):
    name, options = "local", {}


ROOMS = {room.name: room for room in (SlurmRoom, PbsRoom, LocalRoom)}


class Watch(threading.Thread):
    """Notes when the scheduler knows that a job is over; `seconds()` after that, the user does."""

    def __init__(self, room, job_id):
        super().__init__(daemon=True)
        self._room, self._job_id, self._known, self._is_over = room, job_id, None, False
        self.start()

    def run(self):
        while self._known is None and not self._is_over:
            if self._room.knows(self._job_id):
                self._known = time.monotonic()
            time.sleep(0.2)

    def seconds(self):
        """Seconds since then; None if it has not ended."""
        now, self._is_over = time.monotonic(), True
        known = now if self._known is None and self._room.knows(self._job_id) else self._known
        return None if known is None else round(max(0.0, now - known), 1)


def play(room, event, door):
    """Let an event happen, and do what the message says.

    Parameters
    ----------
    room : Room
        A scheduler that is running.
    event, door : str
        From `EVENTS` and `DOORS`.

    Returns
    -------
    dict
        scheduler, event, door; outcome ("reported", "continued" or "refused"); seconds until the user knows (None if
        the run continued); seen (what is printed), has_reason, has_log (the last lines of the job's output are shown);
        is_kept (no run was deleted); advice (what was done), and advice_works.
    """
    until(lambda: room.name == "local" or not room.jobs())
    began = time.monotonic()
    folder = room.folder / f"{event} {door}".strip("-")
    folder.mkdir()
    with contextlib.chdir(folder):
        try:
            cell = {"notebook": in_notebook, "command": by_command, "batch": in_batch}[door](room, event)
        finally:
            for timer in room.timers:
                timer.join()
            room.timers.clear()
    return {"scheduler": room.name, "event": event, "door": door, **cell, "took_s": round(time.monotonic() - began, 1)}


def is_good(cell):
    """Whether a cell is as it should be."""
    in_time = cell["seconds"] is None or cell["seconds"] <= LIMIT_S
    return in_time and all(cell[name] for name in ("has_reason", "has_log", "is_kept", "advice_works"))


def _cell(outcome, seconds, seen, reason, log="", kept=True, advice="", works=True):
    short = re.sub(r"/[^\s'`]*/(?=[^\s/])", "", re.sub(r"\s+", " ", seen)).strip()  # paths by their last part
    return {
        "outcome": outcome,
        "seconds": seconds,
        "seen": short[:600],
        "has_reason": bool(re.search(reason, seen)),
        "has_log": bool(re.search(log, seen)),
        "is_kept": kept,
        "advice": advice,
        "advice_works": works,
    }


# A notebook

# What the user reads about the end of a job
_REASONS = {
    "fails at once": "FAILED|exit status 1|forgotten|mpiexec has ended",
    "cancelled in the queue": "CANCELLED|exit status 271|forgotten",
    "cancelled": "CANCELLED|exit status 271|forgotten|asked to stop by a signal",
    "node lost": "NODE_FAIL|DOWN|exit status -1|have died|forgotten|by a signal",
    "requeued": "[Dd]isabled|not rerunnable",
    "preempted": "PREEMPTED|CANCELLED|asked to stop by a signal",
    "warned": "asked to stop by a signal",
    "time up": "nearly out of time",
    "history off": "forgotten by the scheduler",
}
_ADVICE = "session.close(), connect(...), submit(spec, resume=True)"


def in_notebook(room, event):
    """The event as a notebook sees it that has engines."""
    if event in ("fails at once", "cancelled in the queue"):
        return _connect_in_vain(room, event)
    contexts = {"history off": "forgetful", "greeting lines": "greeting", "--clusters": "clusters"}
    with getattr(room, contexts[event])() if event in contexts else contextlib.nullcontext():
        if event in ("greeting lines", "--clusters"):
            return _connect_and_close(room, event)
        return _lose_a_run(room, event)


def _connect_in_vain(room, event):
    options, script = room.held, None
    if event == "fails at once":
        options = {"setup": f"echo {_MODULE}; exit 1"}
        if room.name == "local":
            options, config = {}, profiles.installed("local") / profiles.GIVEN
            script = {"MPILauncher": {"mpi_cmd": ["bash", "-c", f"echo {_MODULE}; exit 1"]}}
            config.write_text(json.dumps(script))
    watches = []

    def interfere():
        until(room.jobs)
        [job_id] = room.jobs()
        watches.append(Watch(room, job_id))
        if event != "fails at once":
            room.cancel(job_id)

    thread = threading.Thread(target=interfere, daemon=True)
    began = time.monotonic()
    if room.name != "local":
        thread.start()
    try:
        connect.connect(room.name, N, **options).close()
        said = "connected"
    except RuntimeError as error:
        said = str(error)
    seconds = watches[0].seconds() if watches else round(time.monotonic() - began, 1)
    if script:
        config.unlink()
    works = _trains(room, _SHORT)
    log = _MODULE if event == "fails at once" else ""
    return _cell("reported", seconds, said, room.reason(event), log, advice="connect(...) again", works=works)


def _trains(room, spec, resume=False):
    """Whether engines can be started, and train a run to its end."""
    with connect.connect(room.name, N) as session:
        return _train(session, spec, resume)


def _train(session, spec, resume=False):
    handle = session.submit(spec, resume=resume)
    handle.wait(timeout_s=_HANG_S)
    return handle.status().is_finished and all(rank["steps"] == spec.n_steps for rank in handle.result())


def _connect_and_close(room, event):
    with connect.connect(room.name, N) as session:
        [job_id] = room.jobs()
        said = session._engines.state().words
        finished = _train(session, _SHORT)
        began = time.monotonic()
    until(lambda: not room.jobs(), LIMIT_S)
    seconds = round(time.monotonic() - began, 1)
    known = f"job {re.split('[.]', job_id)[0]}\\b.*R"
    return _cell("continued", seconds, said, known, advice="session.close() cancels the job", works=finished)


def _lose_a_run(room, event):
    options = room.short if event == "time up" and room.name != "local" else {}
    if event == "time up" and room.name == "local":
        os.environ["SAGIPS_ENDS_AT"] = str(int(time.time()) + 40)
    session = connect.connect(room.name, N, **options)
    os.environ.pop("SAGIPS_ENDS_AT", None)
    spec = slow_run("a.zarr")
    if event == "time up":
        spec = dataclasses.replace(spec, n_steps=100_000)
    handle = session.submit(spec)
    until(lambda: has_checkpoint("a.zarr"))
    before, job_id = run_id("a.zarr"), next(iter(room.jobs()), None) if room.name != "local" else None
    watch = Watch(room, job_id) if job_id else None
    began, refused = time.monotonic(), _happen(room, event, job_id, session)
    try:
        handle.wait(timeout_s=_HANG_S)
        said, outcome = refused or "", "refused" if refused else "continued"
    except (RuntimeError, TimeoutError) as error:
        said, outcome = str(error), "reported"
    seconds = (watch.seconds() if watch else round(time.monotonic() - began, 1)) if outcome == "reported" else None
    if event in ("time up", "warned"):
        seconds = 0.0 if seconds is None else seconds  # it stops before its job is over
    session.close()
    if outcome != "reported":
        works = handle.status().is_finished
    elif event == "time up":
        with connect.connect(room.name, N) as session:
            resumed = session.submit(spec, resume=True)
            resumed.watch(until=read_status("a.zarr").step + 20)
            works = bool(open_group("a.zarr", "r")["control"].attrs["resumed"])
    else:
        works = _trains(room, spec, resume=True)
    reason = room.reason(event) if outcome != "continued" else ""
    kept, advice = run_id("a.zarr") == before, _ADVICE if outcome == "reported" else ""
    return _cell(outcome, seconds, said, reason, kept=kept, advice=advice, works=works)


def _happen(room, event, job_id, session=None):
    """Let the event happen to a job that is running; returns why it did not, if so."""
    if event in ("cancelled", "history off"):
        room.cancel(job_id)
    elif event == "node lost" and room.name == "local":
        os.kill(session._facts[1]["pid"], signal.SIGKILL)
    elif event == "node lost":
        room.lose_node(job_id)
    elif event == "requeued":
        return room.requeue(job_id)
    elif event == "preempted":
        room.preempt(job_id)
    elif event == "warned":
        room.warn(job_id)
    elif event == "server restarted" and room.name == "local":
        session._engines.cluster.controller.process.kill()
    elif event == "server restarted":
        room.stop_server()
        room.timers.append(threading.Timer(12, room.start_server))
        room.timers[-1].start()  # longer than the kit waits between two questions
    return None


def run_id(path):
    return identity(open_group(path, "r"))


# `sagips run` and `sagips engines`


def by_command(room, event):
    """The event as a user of the terminal sees it."""
    if event in ("cancelled in the queue", "history off", "greeting lines", "--clusters"):
        return _engines_of_a_terminal(room, event)
    name = "none.json" if event == "fails at once" else "spec.json"
    spec = slow_run(Path("a.zarr").absolute(), overwrite=True)
    if event == "time up":
        spec = dataclasses.replace(spec, n_steps=100_000)
    Path("spec.json").write_text(spec.to_json())
    words = ["-m", "mpi4py", "-m", "sagips_kit", "run", str(Path(name).absolute())]
    if room.name == "local":
        return _run_here(room, event, words)
    # PBS does not tell a job that it runs again.
    line = f"{room.run.format(n=N)} {shlex.join([sys.executable, *words])}{' --resume' * (room.name == 'pbs')}"
    short = room.short if event == "time up" else {}
    with _options(room, short):
        job_id = room.submitted(f"cd {shlex.quote(os.getcwd())} && {line}")
    again = f"cd {shlex.quote(os.getcwd())} && {line} --resume"
    return _follow(room, event, job_id, "job.log", "a.zarr", lambda: room.submitted(again))


@contextlib.contextmanager
def _options(room, changes):
    before = room.options
    room.options = before | changes
    yield
    room.options = before


def _follow(room, event, job_id, log, store, again):
    """Follow a job to its end: its life after the event, if it has one, or a second job that `again` submits."""
    watch, before, refused = Watch(room, job_id), None, ""
    if event != "fails at once":
        until(lambda: has_checkpoint(store))
        before, refused = run_id(store), _happen(room, event, job_id)
    until(lambda: job_id not in room.jobs(), 2 * _HANG_S)
    seconds = watch.seconds()
    said = _read(log) + _read(f"{log}.pbs") + _read(re.sub(r"-\d+\.log$", ".log.pbs", str(log)))
    if event == "fails at once":
        return _cell("reported", seconds, said[-2000:], "There is no|no such|NoSuch|not found", "Type|Current|sagips")
    status = read_status(store)
    outcome, advice = "continued", ""
    if not status.is_finished or event == "time up":
        outcome, advice = "reported", "the same command with --resume"
        again_id = again()
        if event == "time up":
            until(lambda: open_group(store, "r")["control"].attrs.get("resumed"))
            room.cancel(again_id)
        until(lambda: not room.jobs(), 2 * _HANG_S)
    works = read_status(store).is_finished or event == "time up"
    notes = open_group(store, "r")["control"].attrs.get("resumed", [])
    is_kept = run_id(store) == before and all(note["from_step"] > 0 for note in notes)
    if event in room.second_lives and outcome == "continued" and not refused:
        is_kept = is_kept and bool(notes)  # its second life has resumed
    seconds = seconds if outcome == "reported" else None
    reason = (
        "before step|nearly out of time|asked to stop|asked this job to end|CANCELLED|killed"
        if outcome == "reported"
        else ""
    )
    return _cell(outcome, seconds, said[-3000:], reason, kept=is_kept, advice=advice, works=works)


def _read(log):
    return Path(log).read_text(errors="replace") if Path(log).exists() else ""


def _run_here(room, event, words):
    environment = {**os.environ}
    if event == "time up":
        environment["SAGIPS_ENDS_AT"] = str(int(time.time()) + 30)
    line = mpi_command(N, *words)
    log = Path("out.log")
    with log.open("w") as file:
        process = subprocess.Popen(line, stdout=file, stderr=file, env=environment)
    before = None
    if event != "fails at once":
        until(lambda: has_checkpoint("a.zarr"))
        before = run_id("a.zarr")
    began = time.monotonic()
    if event == "node lost":
        ranks = [one for one in psutil.Process(process.pid).children(recursive=True) if "run" in one.cmdline()]
        ranks[-1].kill()
    process.wait(_HANG_S)
    seconds, said = round(time.monotonic() - began, 1), log.read_text()
    if event == "fails at once":
        return _cell("reported", seconds, said, "none.json", "sagips")
    if event == "time up":
        resumed = subprocess.Popen([*line, "--resume"], env={**os.environ})
        until(lambda: open_group("a.zarr", "r")["control"].attrs.get("resumed"))
        resumed.terminate()
        works = resumed.wait(_HANG_S) is not None
        seconds = 0.0
    else:
        works = subprocess.run([*line, "--resume"], check=False, timeout=_HANG_S).returncode == 0
        works = works and read_status("a.zarr").is_finished
    reason = "before step" if event == "time up" else "KILLED BY SIGNAL|EXIT CODE"
    kept = run_id("a.zarr") == before
    return _cell("reported", seconds, said, reason, kept=kept, advice="the same command with --resume", works=works)


def _engines_of_a_terminal(room, event):
    """`ipcluster start` in a terminal, and `sagips engines` in another one."""
    held = event == "cancelled in the queue"
    contexts = {"history off": "forgetful", "greeting lines": "greeting", "--clusters": "clusters"}
    with getattr(room, contexts[event])() if event in contexts else contextlib.nullcontext():
        if held:
            profiles.install_profile(room.name, **room.held)
        line = [sys.executable, "-m", "ipyparallel.cluster", "start", f"--profile={room.name}", f"--n={N}"]
        with open("terminal.log", "w") as log:
            terminal = subprocess.Popen(line, stdout=log, stderr=log)
        try:
            until(room.jobs)
            [job_id] = room.jobs()
            until(lambda: "job " in sagips("engines"), 30)
            ends = event in ("cancelled in the queue", "history off")
            if ends:
                room.cancel(job_id)
            began = time.monotonic()
            if ends:  # ipcluster says so; its controller may stay
                until(lambda: re.search(room.reason(event), _read("terminal.log")), LIMIT_S)
            said = _read("terminal.log") * ends + sagips("engines") + sagips("engines", "--end", room.name)
            until(lambda: not room.jobs(), LIMIT_S)
            seconds = round(time.monotonic() - began, 1)
            until(lambda: "There are no engines" in sagips("engines"), LIMIT_S)
        finally:
            profiles.install_profile(room.name, overwrite=True, **room.options)
            terminal.send_signal(signal.SIGINT)
            terminal.wait(60)
    reason = {"greeting lines": "job ", "--clusters": "job \\d+;big: "}.get(event, room.reason(event))
    return _cell("reported", seconds, said, reason, advice="sagips engines --end NAME")


# `sagips batch`

PARAMETERS = f"""
profile = "local"
n = 2
store = "a.zarr"
resume = False
n_steps = {N_STEPS}
"""
# As published notebooks once were: the first attempt would be deleted by the second one.
CELL = """
import dataclasses
from sagips_kit import connect
from schedulers import slow_run

session = connect(profile, n=n)
spec = dataclasses.replace(slow_run(store, overwrite=not resume), n_steps=n_steps)
session.submit(spec, resume=resume).wait()
session.close()
"""


def write_notebook(path):
    parameters = nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=[parameters, nbformat.v4.new_code_cell(CELL)], metadata=kernel), path)


def in_batch(room, event):
    """The event as it happens to a notebook that is a job."""
    write_notebook("train.ipynb")
    if room.name == "local":
        said = sagips("batch", "train.ipynb", "--profile", "local")
        return _cell("refused", 0.0, said, "submits no jobs. Allowed: .*slurm", advice="a profile that it names")
    options = {"fails at once": {"setup": f"echo {_MODULE}; exit 1"}, "cancelled in the queue": room.held}
    options = room.short if event == "time up" else options.get(event, {})
    steps = (("n_steps", 100_000),) if event == "time up" else ()
    contexts = {"greeting lines": "greeting", "--clusters": "clusters"}
    with getattr(room, contexts[event])() if event in contexts else contextlib.nullcontext():
        said, job = submit_batch(room, *steps, **options)
        number = re.split("[.;]", job["job"])[0]
        job_id = job["job"] if room.name == "pbs" else number
        if event in ("greeting lines", "--clusters"):
            until(lambda: not room.jobs(), 2 * _HANG_S)
            works = read_status(job["store"]).is_finished
            return _cell("continued", None, said, f"job +{number}", works=works)
    if event == "cancelled in the queue":
        watch = Watch(room, job_id)
        room.cancel(job_id)
        until(lambda: not room.jobs())
        seconds, is_clean = watch.seconds(), not Path(job["store"]).exists()
        return _cell("reported", seconds, said, number, advice="the scheduler's own list", works=is_clean)
    if event == "fails at once":
        watch = Watch(room, job_id)
        until(lambda: not room.jobs())
        return _cell("reported", watch.seconds(), _read(job["log"]), _MODULE, _MODULE, advice="the log says why")

    def again():
        more = (("store", job["store"]), ("resume", True), *steps)
        _, found = submit_batch(room, *more)
        return found["job"] if room.name == "pbs" else re.split("[.;]", found["job"])[0]

    return _follow(room, event, job_id, job["log"], job["store"], again)


def submit_batch(room, *parameters, **options):
    """Submit the notebook by `sagips batch`; returns what it prints, and the same as a dict."""
    words = [str(word) for pair in parameters for word in ("-p", *pair)]
    words += [str(word) for name, text in options.items() for word in (f"--{name}", text)]
    said = sagips("batch", "train.ipynb", "--profile", room.name, "--submit", *words)
    return said, dict(line.split(maxsplit=1) for line in said.splitlines())
