"""Resuming a run that ended early, or continuing a finished one: whether it is the same run, and from which step."""

import dataclasses
import datetime
import json
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from .._text import counted
from ..events.observed import Observed
from ..problems.base import Problem
from ..ranks.launcher import RESTARTS, was_restarted
from ..ranks.world import World
from ..store import files, group, schema
from ..store.extend import extend_run
from ..store.status import RunStatus, read_status
from .checkpoints import Checkpoints, ranks_with_checkpoints
from .coordination import Control
from .probe import changes, probe
from .spec import RunSpec

# Fields of a spec that may change when a run is resumed: where it is stored, how it is kept safe, and what it is
# compared with.
_FREE = ("store", "overwrite", "checkpoint_s", "reference", "fit")


def after_restart(spec: RunSpec, resume: bool) -> tuple[RunSpec, bool]:
    """The spec, and whether its run is resumed: always in a job that the scheduler runs again.

    Its first attempt has begun the same runs, which `overwrite` would delete.  In a notebook, which may be open in such
    a job, only the job scripts of `sagips batch` decide.
    """
    ipython = sys.modules.get("IPython")
    is_notebook = ipython is not None and ipython.get_ipython() is not None
    if was_restarted(RESTARTS[:1] if is_notebook else RESTARTS):
        return dataclasses.replace(spec, overwrite=False), True
    return spec, resume


def is_begun(path: str | os.PathLike[str]) -> bool:
    """Whether there is a run at `path`; raises ValueError if there is something else."""
    try:
        group.open_group(path, "r")
    except FileNotFoundError:
        return False
    return True


def marks(spec: RunSpec) -> dict[str, Any]:
    """Attributes of the store by which a new run can be recognised later, as JSON values."""
    marks: dict[str, Any] = {schema.PROBE_KEY: _trained(probe(spec.problem))}
    # Events that are not streamed are in the store itself.
    file = spec.streamed
    return marks | ({schema.FILE_KEY: file.digest(spec.problem) | {"stamps": file.stamps()}} if file else {})


def reopen(spec: RunSpec, n_ranks: int) -> None:
    """Prepare a run that has ended early to be resumed, or a finished one to be continued by more steps.

    Called once, before any rank starts.

    Raises
    ------
    ValueError
        If the store holds another run than that of `spec` on `n_ranks` ranks; the text lists the differences.
    """
    root: Any = group.open_group(spec.store, "r")
    attributes, control = root.attrs, root[schema.CONTROL].attrs
    stored = json.loads(attributes[schema.SPEC_KEY])
    n_steps, is_longer = stored.get("n_steps", 0), False
    if isinstance(n_steps, int) and spec.n_steps > n_steps:
        stored, is_longer = stored | {"n_steps": spec.n_steps}, True
    differences, wider = _differences(_without_free(stored), _without_free(spec.to_dict())), ""
    if (n_stored := attributes[schema.LAYOUT_KEY]["n_ranks"]) != n_ranks:
        differences.insert(0, f"ranks: {n_stored} in the store, {n_ranks} now")
        wider = (
            "An ensemble on more ranks is another run, too, because the events are resampled jointly for all chains. "
        )
    if spec.n_steps in attributes[schema.LAYOUT_KEY].get("earlier", ()):
        wider = f"This run was continued from step {spec.n_steps} to step {n_steps}: give n_steps={n_steps}. "
    if changed := changes(spec.problem, _trained(control.get(schema.PROBE_KEY))):
        name = type(spec.problem).__name__
        differences.append(f"problem: the code of {name} now gives other {changed} than when the run was started")
    is_finished = False
    if not differences:  # the store of another run is left as it is
        _repair_progress(spec.store, root)
        status = read_status(spec.store)
        is_finished = status.is_finished and not is_longer
        if is_longer:
            _require_end(spec, status)
    if spec.streamed and not differences and not is_finished:
        differences = _changes_of_file(control.get(schema.FILE_KEY), spec.streamed, spec.problem)
    if differences:
        raise ValueError(
            f"`{spec.store}` cannot be resumed, because it holds another run. {'; '.join(differences)}. {wider}Resume "
            "the run as it was started, with RunSpec.from_run(open_run(...)) on the same number of ranks; or choose "
            "another store, or replace the run with overwrite=True instead of resume=True."
        )
    if is_longer:
        extend_run(spec.store, spec.to_dict())
    if not is_finished:
        files.remove_partial_files(spec.store)
        Control(spec.store).reset()


def _require_end(spec: RunSpec, status: RunStatus) -> None:
    """Raise ValueError unless the run has made all its steps, and all ranks have a checkpoint of the last one."""
    n_steps, n_ranks = status.n_steps, len(status.steps)
    again = f"n_steps={n_steps}, as it was started"
    if not status.is_finished:
        raise ValueError(
            f"`{spec.store}` cannot be continued to step {spec.n_steps}, because it has not reached step {n_steps}, "
            f"for which it was started: {status}. Resume it with {again}; when it is finished, give the larger n_steps."
        )
    replicas = spec.exchange.replicas(n_ranks) or ()
    every = [Checkpoints(spec.store, rank, n_steps, replicas) for rank in range(n_ranks)]
    lacking = [of.rank for of in every if n_steps not in of.steps()]
    if lacking:
        damages = [damage for of in every for damage in of.damages]
        sentences = [
            f"`{spec.store}` is finished, but cannot be continued to step {spec.n_steps}: "
            f"{len(lacking)} of {counted(n_ranks, 'rank')} have no checkpoint of the last step.",
            *(damages or ["An earlier version of sagips_kit kept none."]),
            "Start a longer run in another store.",
        ]
        raise ValueError(" ".join(sentences))


def _repair_progress(path: str | os.PathLike[str], root: Any) -> None:
    """Reset the progress of ranks that a loss of power has damaged; their newest checkpoint then sets it."""
    progress: Any = group.array_of(path, root, schema.HISTORY, schema.PROGRESS)
    for rank in range(progress.shape[0]):
        try:
            progress[rank]
        except ValueError as error:
            if rank not in ranks_with_checkpoints(path):
                continue  # nobody knows how far it is, and `read_status` will say that the store is damaged
            writable: Any = group.array_of(path, group.open_group(path, "r+"), schema.HISTORY, schema.PROGRESS)
            writable[rank] = 0
            warnings.warn(
                f"The progress of rank {rank} in `{path}` is damaged ({error}). It is read from the newest checkpoint "
                "instead.",
                stacklevel=2,
            )


def agreed_steps(checkpoints: Checkpoints, world: World) -> list[int]:
    """The step of the checkpoint from which each rank resumes, 0 where there is none.  Collective."""
    every = [checkpoints.steps()]
    if world.comm is not None:
        world.barrier("all ranks to look for their checkpoints")
        every = world.comm.allgather(every[0])
    agreed = checkpoints.agreed(every)
    for damage in checkpoints.damages:
        step = agreed[world.rank]
        what = (
            f"The run resumes from the checkpoint of step {step}."
            if step
            else "There is no other checkpoint that all ranks have, so the run starts again from its first step."
        )
        warnings.warn(f"{damage} {what}", stacklevel=2)
    return agreed


def note(path: group.Location, step: int, reached: int) -> None:
    """Record in the store that the run had reached step `reached` and was resumed from `step`."""
    root: Any = group.open_group(path, "r+")
    control = root[schema.CONTROL]
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    notes = control.attrs.get(schema.RESUMED_KEY, [])
    control.attrs[schema.RESUMED_KEY] = [*notes, {"at": now, "from_step": step, "reached": reached}]


def _trained(known: Any) -> Any:
    """A probe without the likelihood, of which training knows nothing."""
    return (
        {name: numbers for name, numbers in known.items() if name != "likelihood"} if isinstance(known, dict) else known
    )


def windows(spec: RunSpec) -> Callable[[int], NDArray] | None:
    """Reads one window of a file of events by its number; None unless the ranks read the file themselves.

    Parameters
    ----------
    spec : RunSpec
        The run, whose store says which file was checked.

    Raises
    ------
    ValueError
        If the file is another one than that which was checked when the run was prepared; by the function that is
        returned, also if the file has changed since then.
    """
    file, n_rows = spec.streamed, spec.n_observed
    if file is None or n_rows is None:
        return None
    root: Any = group.open_group(spec.store, "r")
    stored, stamps = root[schema.CONTROL].attrs.get(schema.FILE_KEY), file.stamps()
    # A copy on another disk has other times, and the same rows.
    is_same = isinstance(stored, dict) and stored.get("stamps") == stamps
    if not is_same and (changes := _changes_of_file(stored, file, spec.problem)):
        raise ValueError(f"{changes[0]}. Start the run again: it was checked with other events.")

    def window(number: int) -> NDArray:
        if file.stamps() != stamps:
            raise ValueError(f"events: `{file.path}` was changed while the ranks read it. Start the run again.")
        return file.window(spec.problem, number, n_rows, spec.seed)

    return window


def _changes_of_file(stored: Any, file: Observed, problem: Problem) -> list[str]:
    """What has changed in the file of events that the ranks read themselves."""
    if not isinstance(stored, dict):  # stores written before there were digests
        return []
    now = file.digest(problem)
    if all(stored.get(name) == mark for name, mark in now.items()):
        return []
    n_stored = stored.get("rows")
    what = f"it has {now['rows']} rows now, and had {n_stored}"
    if now["rows"] == n_stored:
        what = f"its {n_stored} rows hold other numbers"
    return [f"events: `{file.path}` was changed after the run was started: {what}"]


def _without_free(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: item for name, item in fields.items() if name not in _FREE}


def _differences(old: Any, new: Any, name: str = "") -> list[str]:
    """Differences between two JSON values."""
    if isinstance(old, dict) and isinstance(new, dict):
        if old.get("type") != new.get("type"):  # the fields of different classes cannot be compared
            return [f"{name}: {old.get('type')} in the store, {new.get('type')} now"]
        keys = sorted(old.keys() | new.keys())
        return [text for key in keys for text in _differences(old.get(key), new.get(key), f"{name}.{key}".lstrip("."))]
    if json.dumps(old) == json.dumps(new):
        return []
    return [f"{name}: {old!r} in the store, {new!r} now"]
