"""Going on with a run that has ended early: whether it is the same run, and the step that all ranks go back to."""

import datetime
import json

import numpy as np
import torch

from ..problems.base import events_of
from ..store import files, group, schema, status
from .coordination import Control

_N_POINTS, _N_EVENTS = 2, 4  # parameter vectors, and events of each, by which the code of a problem is known again
_GOLDEN = (5**0.5 - 1) / 2
_SAME = 1e-6  # relative and absolute: what machines and versions of torch may differ by
# What may be different when a run goes on: where it lies, and how it is kept safe.
_FREE = ("store", "overwrite", "checkpoint_s", "reference")


def is_begun(path):
    """Whether there is a run at `path`; raises ValueError if there is something else."""
    try:
        status.read_progress(path)
    except FileNotFoundError:
        return False
    return True


def is_finished(path):
    """Whether all ranks of the run at `path` have made all their steps."""
    progress = status.read_progress(path)
    return progress.step == progress.n_steps


def marks(spec):
    """What a new run is known again by: dict of attributes of its store, as JSON values."""
    marks = {schema.PROBE_KEY: _probe(spec.problem)}
    # Other events are in the store itself.
    return marks | ({schema.FILE_KEY: spec.events.digest(spec.problem)} if spec.streams else {})


def _probe(problem):
    """Ranges, priors, simulated events of fixed numbers and a function of their features: dict of list of finite float.

    The same to many digits on any machine.
    """
    n = len(problem.parameters)
    probe = {"ranges": [*problem.lower, *problem.upper], "priors": [], "events": [], "features": []}
    for name in sorted(problem.priors):
        probe["priors"] += problem.priors[name]
    for k in range(_N_POINTS):
        t = 0.2 + 0.6 * _spread(n, k)
        noise = _spread(_N_EVENTS * problem.noise_dim, k).view(_N_EVENTS, -1)
        events = events_of(problem, problem.scale(t), noise)
        features = problem.features(events)
        weights = _spread(features.shape[-1], k).to(features)
        probe["events"] += events.flatten().tolist()
        probe["features"] += (features @ weights).tolist()
    return {name: np.nan_to_num(np.array(numbers, dtype=float)).tolist() for name, numbers in probe.items()}


def _spread(n, start):
    """Numbers between 0 and 1 that look irregular, (n,)."""
    return (_GOLDEN * torch.arange(1 + start, 1 + start + n, dtype=torch.float64)).frac()


def reopen(spec, n_ranks):
    """Make a run that has ended ready to go on; called once, before any rank starts.

    Raises
    ------
    ValueError
        If it is another run than that of `spec` on `n_ranks` ranks; the text shows the differences.
    """
    root = group.open_group(spec.store, "r")
    attributes = root.attrs
    begun = json.loads(attributes[schema.SPEC_KEY])
    differences, wider = _differences(_without_free(begun), _without_free(spec.to_dict())), ""
    if (n_begun := attributes[schema.LAYOUT_KEY]["n_ranks"]) != n_ranks:
        differences.insert(0, f"ranks: {n_begun} in the store, {n_ranks} now")
        wider = "A wider ensemble is another run, too: its resamples are balanced over all its chains. "
    if changed := _changes_of_code(root[schema.CONTROL].attrs.get(schema.PROBE_KEY), spec.problem):
        name = type(spec.problem).__name__
        differences.append(f"problem: the code of {name} gives other {changed} than when it was begun")
    if spec.streams and not differences and not is_finished(spec.store):
        differences = _changes_of_file(root[schema.CONTROL].attrs.get(schema.FILE_KEY), spec)
    if differences:
        raise ValueError(
            f"`{spec.store}` cannot go on, it is the store of another run. {'; '.join(differences)}. {wider}Start "
            "it as it was begun, RunSpec.from_run(open_run(...)) on as many ranks; or take another store, or "
            "overwrite=True instead of resume=True."
        )
    if not is_finished(spec.store):
        files.remove_partial_files(spec.store)
        Control(spec.store).reset()


def agreed_steps(checkpoints, world):
    """The step of the checkpoint that each rank goes on from: list of int, 0 where there is none.  Collective."""
    steps = checkpoints.steps()
    if world.comm is None:
        return checkpoints.agreed([steps])
    world.barrier("all ranks to look at their checkpoints")
    return checkpoints.agreed(world.comm.allgather(steps))


def note(path, step, reached):
    """Let the store tell that its run went back to `step`, having reached `reached`, and goes on from there."""
    control = group.open_group(path, "r+")[schema.CONTROL]
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    notes = control.attrs.get(schema.RESUMED_KEY, [])
    control.attrs[schema.RESUMED_KEY] = [*notes, {"at": now, "from_step": step, "reached": reached}]


def _changes_of_code(begun, problem):
    """What a problem's code gives otherwise than when the run was begun, in a word or two."""
    if not isinstance(begun, dict):  # stores of before there were such probes
        return ""
    changed = [name for name, numbers in _probe(problem).items() if not _are_same(numbers, begun.get(name))]
    # What follows from another change says nothing.
    causes = [name for name in changed if name in ("ranges", "priors")]
    return " and ".join(causes or changed[:1])


def _are_same(numbers, begun):
    try:
        return np.allclose(numbers, begun, rtol=_SAME, atol=_SAME)
    except (TypeError, ValueError):  # other numbers of observables, for instance
        return False


def _changes_of_file(begun, spec):
    """What is different in a file of events that ranks read themselves: list of texts."""
    if not isinstance(begun, dict):  # stores of before there were digests
        return []
    now = spec.events.digest(spec.problem)
    if now == begun:
        return []
    n_begun = begun.get("rows")
    what = f"it has {now['rows']} rows now, and had {n_begun}"
    if now["rows"] == n_begun:
        what = f"other numbers are in its {n_begun} rows"
    return [f"events: `{spec.events.path}` was changed since the run was begun: {what}"]


def _without_free(fields):
    return {name: item for name, item in fields.items() if name not in _FREE}


def _differences(old, new, name=""):
    """What differs between JSON values: list of texts."""
    if isinstance(old, dict) and isinstance(new, dict):
        if old.get("type") != new.get("type"):  # the fields of another class say nothing
            return [f"{name}: {old.get('type')} in the store, {new.get('type')} now"]
        keys = sorted(old.keys() | new.keys())
        return [text for key in keys for text in _differences(old.get(key), new.get(key), f"{name}.{key}".lstrip("."))]
    if json.dumps(old) == json.dumps(new):
        return []
    return [f"{name}: {old!r} in the store, {new!r} now"]
