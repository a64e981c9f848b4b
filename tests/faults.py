"""Faults on one of the ranks: what the user sees, and whether the resumed run reaches the same result.

The faults themselves are in `mpi/faulty.py`.
"""

import dataclasses
import re
import subprocess
import time

import numpy as np
import psutil
from gaussian import QUICK, Gaussian
from mpi_launcher import TESTS, command, environment

from sagips_kit import Ring, RunSpec, open_run, read_status
from sagips_kit.store.location import local_path

KINDS = ("exception", "SIGKILL", "SIGSTOP", "slow", "NaN", "corrupt", "full disk", "read-only store", "clock jump")
EXCHANGE = ("before the exchange", "during the exchange", "after the exchange")
WRITING = ("checkpoint", "store write")
# Kind of fault -> places where it can happen
FAULTS = {
    "exception": EXCHANGE + WRITING,
    "SIGKILL": EXCHANGE + WRITING,
    "SIGSTOP": EXCHANGE + WRITING,
    "slow": EXCHANGE + WRITING,
    "NaN": EXCHANGE,
    "corrupt": ("during the exchange", "checkpoint"),
    "full disk": WRITING,
    "read-only store": WRITING,
    "clock jump": EXCHANGE + WRITING,
}
_UNWRITTEN = "nothing is written during an exchange"
_COMPUTED = "numbers are computed in steps and checked before anything is written; see also tests/test_resume.py"
_NO_MESSAGE = "no message is on its way"
# The excluded cells, with the reasons
EXCLUDED = {(kind, where): _UNWRITTEN for kind in ("full disk", "read-only store") for where in EXCHANGE}
EXCLUDED |= {("NaN", where): _COMPUTED for where in WRITING}
EXCLUDED |= {("corrupt", where): _NO_MESSAGE for where in ("before the exchange", "after the exchange", "store write")}
CELLS = [(kind, where, 2) for kind, places in FAULTS.items() for where in places]
# With more than two ranks, a failing rank has to inform several others.
CELLS += [(kind, "during the exchange", 4) for kind in ("exception", "SIGKILL", "SIGSTOP", "NaN", "corrupt")]
CELLS += [("SIGKILL", where, 4) for where in WRITING]
# These faults change numbers, and the run continues.
CHANGING = {("NaN", where) for where in EXCHANGE} | {("corrupt", "during the exchange")}
_LIMIT_S = 240.0  # a run that takes longer counts as hanging; generous, because machines may be busy
_SETTINGS = dataclasses.replace(
    QUICK, n_events=64, n_draws=3, n_predictive=4, record_every=5, rows_per_block=4, bootstrap=True
)


def make_spec(folder, name):
    """The spec of a short run with frequent checkpoints, also written as a JSON file."""
    spec = RunSpec(
        problem=Gaussian(n_observed=200),
        store=str(folder / f"{name}.zarr"),
        settings=_SETTINGS,
        exchange=Ring(),
        n_steps=403,
        reference=False,
        fit=False,
        checkpoint_s=0.05,
    )
    (folder / f"{name}.json").write_text(spec.to_json())
    return spec


def attempt(spec, n_ranks, kind="none", where="none", nest=None):
    """Run or resume; returns exit status (None if the run hangs), output, and seconds."""
    file = local_path(spec.store).with_suffix(".json")
    before = nest.stub if nest else []
    line = command(n_ranks, *before, "-m", "mpi4py", TESTS / "mpi" / "faulty.py", file, kind, where)
    start = time.monotonic()
    process = subprocess.Popen(
        line, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    try:
        output, _ = process.communicate(timeout=_LIMIT_S)
        status = process.returncode
    except subprocess.TimeoutExpired:
        for one in [*psutil.Process(process.pid).children(recursive=True), process]:
            one.kill()
        output, status = process.communicate()[0], None
    if nest:
        nest.settle()
    return status, output, time.monotonic() - start


def play(folder, kind, where, n_ranks, whole, nest=None):
    """Let a fault happen on rank 1, and resume if it ended the run.

    Parameters
    ----------
    folder : Path
    kind, where : str
    n_ranks : int
    whole : path
        The store of the same run without faults.
    nest : Nest or None
        Starts ranks faster than a user can.

    Returns
    -------
    dict
        kind, where, ranks, seen (what the user saw), hangs, survived, reached and from_step (steps, of the resumption),
        rows_repeated, rows_lost, is_finished, is_same (bit for bit as `whole`), rejected (rank,), seconds, and
        seconds_to_resume: from the command until training continues, and from its end until the command ends.
    """
    spec = make_spec(folder, f"{kind}-{where}-{n_ranks}".replace(" ", "_"))
    status, output, seconds = attempt(spec, n_ranks, kind, where, nest)
    progress = read_status(spec.store)
    cell = {"kind": kind, "where": where, "ranks": n_ranks}
    cell |= {"seen": what_is_seen(status, output), "hangs": status is None}
    cell |= {"survived": progress.step == spec.n_steps, "reached": int(progress.steps.max())}
    cell["seconds"] = round(seconds, 1)
    cell["rows_lost"] = 0 if (kind, where) in CHANGING else rows_lost(spec.store, whole)
    if not cell["survived"]:
        status, output, seconds = attempt(spec, n_ranks, nest=nest)
        notes = open_run(spec.store)["control"].attrs.get("resumed", [])
        cell["from_step"] = notes[-1]["from_step"] if notes else 0
        cell["hangs"] = cell["hangs"] or status is None
        cell["seconds_to_resume"] = round(seconds - training_s(spec.store, cell["from_step"]), 1)
        cell["rows_repeated"] = (cell["reached"] - cell["from_step"]) // _SETTINGS.record_every
    cell["is_finished"] = read_status(spec.store).is_finished
    cell["is_same"] = is_same(spec.store, whole)
    cell["rejected"] = np.nansum(open_run(spec.store)["history"]["rejected"].values, axis=1).astype(int).tolist()
    return cell


def what_is_seen(status, output):
    """The most informative line of the output."""
    if status is None:
        return "nothing: it hangs"
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    patterns = (
        r"^\S*(Error|Exception)\b(?!.*Stopped because)",
        r"Warning:",
        r"Error",
        r"KILLED BY SIGNAL|EXIT STRING|EXIT CODE",
    )
    for pattern in patterns:
        if found := [line for line in lines if re.search(pattern, line)]:
            return re.sub(r"\S*/|^.*Warning: ", "", found[0])[:200]
    return "nothing" if status == 0 else f"exit status {status}"


def rows_lost(path, whole):
    """Number of rows that the store declares valid but that differ from those of the undisturbed run."""
    one, two = (open_run(store)["history"] for store in (path, whole))
    is_valid = one["step"] <= one["progress"]
    same = (one["theta"] == two["theta"]).all(("member", "parameter"))
    return int((is_valid & ~same).sum())


def training_s(path, from_step):
    """Seconds that rank 0 has been training since `from_step`."""
    elapsed = open_run(path)["history"]["elapsed_s"][0]
    return float(elapsed[-1]) - (float(elapsed.sel(step=from_step)) if from_step else 0.0)


def is_same(path, whole):
    one, two = open_run(path), open_run(whole)
    names = [("history", name) for name in ("theta", "loss_discriminator", "loss_generator")]
    names += [("posterior", name) for name in one["posterior"].data_vars]
    return all(np.array_equal(one[group][name], two[group][name]) for group, name in names)
