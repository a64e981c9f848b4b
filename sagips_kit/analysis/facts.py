"""What a run is and where it comes from: its spec, state and environment."""

import json
from collections import Counter
from typing import Any

import pandas as pd
import xarray as xr

from .._text import counted, printable, with_error
from ..store import schema
from ..store.status import RunStatus
from .answer import verdict
from .base import began_at_fit, each_run, for_each_run, group_of, settings_of, single_run, state, witnesses_of
from .fits import fit, goodness_words


def spec(run: xr.DataTree) -> dict[str, Any]:
    """The spec that a run was started with, as JSON values.

    Parameters
    ----------
    run : DataTree
        A single run.

    Returns
    -------
    dict
        The fields of the spec; `RunSpec.from_run(run)` makes a RunSpec of it.

    Raises
    ------
    ValueError
        If several runs are given.

    See Also
    --------
    fact : One field of the spec or its settings, also of several runs.

    Examples
    --------
    >>> from sagips_kit import analysis, open_run
    >>> analysis.spec(open_run("runs/proxy.zarr"))["n_steps"]
    200
    """
    single_run(run, "spec", "fact(runs, 'seed') for one of its fields")
    return json.loads(run.attrs[schema.SPEC_KEY])


@for_each_run
def fact(run: xr.DataTree, name: str) -> Any:
    """One fact by which runs differ.

    Parameters
    ----------
    run : DataTree
        One run, or several of `open_runs`.
    name : str
        "mode" (of exchange), "ranks", "members", "problem", "state", or a field of the spec or of its settings, such as
        "seed", "n_steps" or "n_events".

    Returns
    -------
    str, int, float or None
        None if the run does not know it; for several runs a DataArray of these.

    See Also
    --------
    open_runs : Open several runs along one of these facts.
    spec : All fields of the spec.

    Examples
    --------
    >>> from sagips_kit import analysis, open_run
    >>> run = open_run("runs/proxy.zarr")
    >>> analysis.fact(run, "members"), analysis.fact(run, "problem")
    (2, 'Proxy')
    """
    layout, given = schema.layout_of(run.attrs), spec(run)
    known = settings_of(run) | given
    known |= {"ranks": layout.n_ranks, "members": layout.n_members, "state": state(run)}
    known |= {"mode": run.attrs[schema.MODE_KEY], "problem": run.attrs[schema.PROBLEM_KEY]}
    found = known.get(name)
    return found if found != "" and isinstance(found, str | int | float) else None


@for_each_run
def environment(run: xr.DataTree) -> pd.Series:
    """What a run ran on: versions, git revision, hosts, devices and MPI libraries.

    Parameters
    ----------
    run : DataTree
        One run, or several of `open_runs`.

    Returns
    -------
    pandas.Series
        Texts; "2 ranks: nid001, 2 ranks: nid002" where ranks differ.  For several runs a DataFrame with a row for each.

    See Also
    --------
    describe : What a run is and how far it is, as text.

    Examples
    --------
    >>> from sagips_kit import analysis, open_run
    >>> environment = analysis.environment(open_run("runs/proxy.zarr"))
    >>> {"host", "device", "git revision", "torch"} <= set(environment.index)
    True
    """
    rows = {"created": run.attrs[schema.CREATED_KEY], "created on": run.attrs[schema.HOSTNAME_KEY]}
    rows["git revision"] = run.attrs[schema.REVISION_KEY] or "none"
    for name in schema.of_group(schema.ENVIRONMENT):
        counts = Counter(str(text) or "unknown" for text in group_of(run, schema.ENVIRONMENT)[name].values)
        rows[name] = ", ".join(
            f"{counted(n, 'rank')}: {text}" if len(counts) > 1 else text for text, n in counts.items()
        )
    return pd.Series(rows | run.attrs[schema.VERSIONS_KEY], name="environment")


def describe(run: xr.DataTree) -> str:
    """What a run is and how far it is, as a few lines of text.

    Parameters
    ----------
    run : DataTree
        One run, or several of `open_runs`.

    Returns
    -------
    str
        Each line has a name, padded to ten characters, and a text; the verdict comes first.  For several runs a
        paragraph for each, below its label.

    See Also
    --------
    environment : Versions, hosts and devices in full.
    spec : What the run was started with.

    Examples
    --------
    >>> from sagips_kit import analysis, open_run
    >>> text = analysis.describe(open_run("runs/proxy.zarr"))
    >>> print(text[text.index("problem ") :])
    problem   Proxy: theta0, theta1, theta2, theta3, theta4, theta5
    events    2000 observed: x1, x2...
    ranks     1, 2 members each
    mode      ...
    chains    2 independent generators, ...
    progress  step 200 of 200, finished
    fit       theta0 = ...; chi-squared ...
    created   ...
    ran on    ...
    versions  ...
    """
    runs = each_run(run)
    if dim := run.attrs.get(schema.ALONG_KEY):
        return "\n\n".join(f"{dim} = {label}\n{describe(one)}" for label, one in runs.items())
    facts, layout = run.attrs, schema.layout_of(run.attrs)
    parameters, observables = schema.names_of(facts)
    where = environment(run)
    source = group_of(run, schema.OBSERVED).attrs.get(schema.SOURCE_KEY)
    events = f"{group_of(run, schema.OBSERVED).sizes[schema.EVENT]} observed: {', '.join(observables)}"
    rows = {
        "problem": f"{facts[schema.PROBLEM_KEY]}: {', '.join(parameters)}",
        "events": f"{events}; from {source}" if source else events,
        "ranks": f"{layout.n_ranks}, {counted(layout.n_members, 'member')} each",
        "mode": facts[schema.MODE_KEY] or "unknown",
        "chains": counted(layout.n_chains, "independent generator") + _beginning(run),
        "progress": str(RunStatus.from_run(run)),
        "fit": _fit(run),
        "resumed": _resumed(group_of(run, schema.CONTROL).attrs.get(schema.RESUMED_KEY, [])),
        "continued": _continued(facts.get(schema.CONTINUED_KEY, [])),
        "created": f"{facts[schema.CREATED_KEY]} on {facts[schema.HOSTNAME_KEY]}",
        "ran on": f"{where[schema.HOST]} ({where[schema.DEVICE]})",
        "versions": ", ".join(f"{name} {version}" for name, version in facts[schema.VERSIONS_KEY].items()),
    }
    first = [("" if k else "verdict", text) for k, text in enumerate(str(verdict(run)).splitlines())]
    # Nothing in a store, which somebody else may have made, can begin a line of its own.
    lines = (f"{name:<10}{text}".replace("\n", "\\n") for name, text in [*first, *rows.items()] if text)
    return printable("\n".join(lines))


def _beginning(run: xr.DataTree) -> str:
    """Where the generators of a run began; empty before they have."""
    if began_at_fit(run):
        return f", which began at the fit; witnesses, which began away from it: {int(witnesses_of(run).sum())}"
    return ", which began in the middle of the ranges" if RunStatus.from_run(run).step else ""


def _fit(run: xr.DataTree) -> str:
    """The fit by the learned score in one line, or why there is none; empty if none was asked for."""
    values = fit(run)
    state = values.attrs["state"]
    if state == schema.UNDER_WAY:
        return schema.FITTING
    if state != schema.MADE:
        return f"{state}: {values.attrs['reason']}" if state in schema.FIT_STATES else ""
    rows = zip(values[schema.PARAMETER].values, values["fit"].values, values["deviation"].values, strict=True)
    numbers = ", ".join(f"{name} = {with_error(value, deviation)}" for name, value, deviation in rows)
    return f"{numbers}; {goodness_words(values)}"


def _continued(segments: list[dict[str, Any]]) -> str:
    """How a finished run was continued, in words; empty if it was not."""
    return "; ".join(
        f"from step {one['from_step']} at {one[schema.CREATED_KEY]} on {one[schema.HOSTNAME_KEY]}" for one in segments
    )


def _resumed(notes: list[dict[str, Any]]) -> str:
    """The resumptions that a store records, in words; empty if there were none."""
    if not notes:
        return ""
    last, times = notes[-1], counted(len(notes), "time")
    return f"{times}, last from step {last['from_step']} at {last['at']}, having reached {last['reached']}"
