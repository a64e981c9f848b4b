"""What a run is and where it comes from: its spec, state and environment."""

import json
from collections import Counter

import pandas as pd

from .._text import counted
from ..store import schema
from ..store.status import RunStatus
from .base import for_each_run, single_run, state


def spec(run):
    """The spec of a run as JSON values; `RunSpec.from_run(run)` makes a RunSpec of it."""
    single_run(run, "spec")
    return json.loads(run.attrs[schema.SPEC_KEY])


def fact(run, name):
    """A fact by which runs differ.

    Parameters
    ----------
    run : DataTree
    name : str
        "mode" (of exchange), "ranks", "members", "problem", "state", or a field of the spec or of its settings, such as
        "seed", "n_steps" or "n_events".

    Returns
    -------
    str, int, float or None
        None for a name that the run does not know.
    """
    layout, given = run.attrs[schema.LAYOUT_KEY], spec(run)
    known = given.get("settings", {}) | given
    known |= {"ranks": layout["n_ranks"], "members": layout["n_members"], "state": state(run)}
    known |= {"mode": run.attrs[schema.MODE_KEY], "problem": run.attrs[schema.PROBLEM_KEY]}
    found = known.get(name)
    return found if found != "" and isinstance(found, str | int | float) else None


def environment(run):
    """What a run ran on: versions, git revision, hosts, devices and MPI libraries.

    Parameters
    ----------
    run : DataTree

    Returns
    -------
    pandas.Series
        Texts; "2 ranks: nid001, 2 ranks: nid002" where ranks differ.
    """
    single_run(run, "environment")
    rows = {"created": run.attrs[schema.CREATED_KEY], "created on": run.attrs[schema.HOSTNAME_KEY]}
    rows["git revision"] = run.attrs[schema.REVISION_KEY] or "none"
    for name in schema.FACTS:
        counts = Counter(str(text) or "unknown" for text in run[schema.ENVIRONMENT][name].values)
        rows[name] = ", ".join(
            f"{counted(n, 'rank')}: {text}" if len(counts) > 1 else text for text, n in counts.items()
        )
    return pd.Series(rows | run.attrs[schema.VERSIONS_KEY], name="environment")


@for_each_run
def describe(run):
    """What a run is and how far it has come, as text of a few lines.

    Parameters
    ----------
    run : DataTree

    Returns
    -------
    str
        In each line a name, filled up to ten characters, and a text.
    """
    facts, layout = run.attrs, run.attrs[schema.LAYOUT_KEY]
    place = environment(run)
    versions = ", ".join(f"{name} {version}" for name, version in facts[schema.VERSIONS_KEY].items())
    source = run[schema.OBSERVED].attrs.get(schema.SOURCE_KEY)
    events = f"{run[schema.OBSERVED].sizes[schema.EVENT]} observed: {', '.join(facts[schema.OBSERVABLES_KEY])}"
    rows = {
        "problem": f"{facts[schema.PROBLEM_KEY]}: {', '.join(facts[schema.PARAMETERS_KEY])}",
        "events": f"{events}; from {source}" if source else events,
        "ranks": f"{layout['n_ranks']}, {counted(layout['n_members'], 'member')} each",
        "mode": facts[schema.MODE_KEY] or "unknown",
        "chains": counted(layout["n_replicas"] * layout["n_members"], "independent generator"),
        "progress": str(RunStatus.from_run(run)),
        "resumed": _resumed(run[schema.CONTROL].attrs.get(schema.RESUMED_KEY, [])),
        "created": f"{facts[schema.CREATED_KEY]} on {facts[schema.HOSTNAME_KEY]}",
        "ran on": f"{place['host']} ({place['device']})",
        "versions": versions,
    }
    return "\n".join(f"{name:<10}{text}" for name, text in rows.items() if text)


def _resumed(notes):
    """In words, from what a store tells of resumptions; empty if there were none."""
    if not notes:
        return ""
    last, times = notes[-1], counted(len(notes), "time")
    return f"{times}, last from step {last['from_step']} at {last['at']}, having reached {last['reached']}"
