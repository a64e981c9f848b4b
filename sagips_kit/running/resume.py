"""Resuming a run that ended early: whether it is the same run, and the step that all ranks go back to."""

import datetime
import json
import os
import warnings
from typing import Any

import numpy as np
import torch

from .._circular import intervals
from ..events.observed import Observed
from ..problems.base import Problem, events_of
from ..ranks.world import World
from ..store import files, group, schema
from ..store.status import read_status
from .checkpoints import Checkpoints, ranks_with_checkpoints
from .coordination import Control
from .spec import RunSpec

# The code of a problem is recognised by a few simulated events of fixed noise, at fixed parameter vectors.
_N_POINTS, _N_EVENTS = 2, 4
_GOLDEN = (5**0.5 - 1) / 2
_SAME = 1e-6  # relative and absolute: results of different machines and versions of torch may differ by this
# Fields of a spec that may change when a run is resumed: where it is stored, how it is kept safe, and what it is
# compared with.
_FREE = ("store", "overwrite", "checkpoint_s", "reference", "fit")


def is_begun(path: str | os.PathLike[str]) -> bool:
    """Whether there is a run at `path`; raises ValueError if there is something else."""
    try:
        group.open_group(path, "r")
    except FileNotFoundError:
        return False
    return True


def marks(spec: RunSpec) -> dict[str, Any]:
    """Attributes of the store by which a new run can be recognised later, as JSON values."""
    marks = {schema.PROBE_KEY: _probe(spec.problem)}
    # Events that are not streamed are in the store itself.
    return marks | ({schema.FILE_KEY: file.digest(spec.problem)} if (file := spec.streamed) else {})


def reopen(spec: RunSpec, n_ranks: int) -> None:
    """Prepare a run that has ended early to be resumed; called once, before any rank starts.

    Raises
    ------
    ValueError
        If the store holds another run than that of `spec` on `n_ranks` ranks; the text lists the differences.
    """
    root: Any = group.open_group(spec.store, "r")
    _repair_progress(spec.store, root)
    attributes, control = root.attrs, root[schema.CONTROL].attrs
    is_finished = read_status(spec.store).is_finished
    stored = json.loads(attributes[schema.SPEC_KEY])
    differences, wider = _differences(_without_free(stored), _without_free(spec.to_dict())), ""
    if (n_stored := attributes[schema.LAYOUT_KEY]["n_ranks"]) != n_ranks:
        differences.insert(0, f"ranks: {n_stored} in the store, {n_ranks} now")
        wider = (
            "An ensemble on more ranks is another run, too, because the events are resampled jointly for all chains. "
        )
    if changed := _changes_of_code(control.get(schema.PROBE_KEY), spec.problem):
        name = type(spec.problem).__name__
        differences.append(f"problem: the code of {name} now gives other {changed} than when the run was started")
    if spec.streamed and not differences and not is_finished:
        differences = _changes_of_file(control.get(schema.FILE_KEY), spec.streamed, spec.problem)
    if differences:
        raise ValueError(
            f"`{spec.store}` cannot be resumed, because it holds another run. {'; '.join(differences)}. {wider}Resume "
            "the run as it was started, with RunSpec.from_run(open_run(...)) on the same number of ranks; or choose "
            "another store, or replace the run with overwrite=True instead of resume=True."
        )
    if not is_finished:
        files.remove_partial_files(spec.store)
        Control(spec.store).reset()


def _repair_progress(path: str | os.PathLike[str], root: Any) -> None:
    """Where a loss of power has damaged the progress of a rank, let its newest checkpoint tell it."""
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
                f"The progress of rank {rank} in `{path}` is damaged ({error}). Its newest checkpoint tells it.",
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
            f"An earlier checkpoint is used, of step {step}."
            if step
            else ("There is no other checkpoint that all ranks have, so that the run starts again from its first step.")
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


def _probe(problem: Problem) -> dict[str, list[float]]:
    """Ranges, external knowledge, simulated events of fixed noise and a function of their features, as finite numbers.

    They agree to many digits on all machines.
    """
    n = len(problem.parameters)
    probe = {"ranges": [*problem.lower, *problem.upper], "priors": [], "measurements": [], "events": [], "features": []}
    for name in sorted(problem.priors):
        probe["priors"] += problem.priors[name]
    for name, (low, high) in sorted(intervals(problem).items()):
        probe["ranges"] += [float(([*problem.parameters, *problem.observables]).index(name)), low, high]
    for k in range(_N_POINTS):
        t = 0.2 + 0.6 * _spread(n, k)
        theta = problem.scale(t)
        for name in sorted(problem.measurements):
            probe["measurements"] += problem.measurements[name].residuals(theta).tolist()
        noise = _spread(_N_EVENTS * problem.noise_dim, k).view(_N_EVENTS, -1)
        events = events_of(problem, theta, noise)
        features = problem.features(events)
        weights = _spread(features.shape[-1], k).to(features)
        probe["events"] += events.flatten().tolist()
        probe["features"] += (features @ weights).tolist()
    return {name: np.nan_to_num(np.array(numbers, dtype=float)).tolist() for name, numbers in probe.items()}


def _spread(n: int, start: int) -> torch.Tensor:
    """Irregular numbers between 0 and 1, (n,)."""
    return (_GOLDEN * torch.arange(1 + start, 1 + start + n, dtype=torch.float64)).frac()


def _changes_of_code(stored: Any, problem: Problem) -> str:
    """What the code of a problem computes differently than when the run was started, in a word or two."""
    if not isinstance(stored, dict):  # stores written before there were such probes
        return ""
    changed = [name for name, numbers in _probe(problem).items() if not _are_same(numbers, stored.get(name, []))]
    # Changed ranges and priors change the events too, and ranges the measurements, which need not be reported.
    causes = [name for name in changed if name in ("ranges", "priors")]
    return " and ".join(causes or changed[:1])


def _are_same(numbers: list[float], stored: Any) -> bool:
    try:
        return np.allclose(numbers, stored, rtol=_SAME, atol=_SAME)
    except (TypeError, ValueError):  # another number of observables, for instance
        return False


def _changes_of_file(stored: Any, file: Observed, problem: Problem) -> list[str]:
    """What has changed in the file of events that the ranks read themselves."""
    if not isinstance(stored, dict):  # stores written before there were digests
        return []
    now = file.digest(problem)
    if now == stored:
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
