"""What happened during training: convergence, pace, waiting and staleness."""

import numpy as np
import pandas as pd
import xarray as xr

from ..store import schema
from ..store.diagnostics import GUESSED, GUESSING
from .answer import verdict
from .base import (
    circles_of,
    continuous,
    difference,
    for_each_run,
    gathered,
    group_of,
    inside,
    rms,
    settings_of,
    witness_rows,
)
from .facts import fact
from .fits import reference_of


@for_each_run
def convergence(run: xr.DataTree, n_rows: int | None = 1000) -> xr.Dataset:
    """How the generated parameters approach the fit of the same events.

    This is the maximum-likelihood fit or, if the problem has no likelihood, the fit by the learned score.

    Parameters
    ----------
    run : DataTree
        One run, or several of `open_runs`; they may still be running.
    n_rows : int or None
        Maximum number of rows of the history to use, evenly spaced up to the last; None uses all.

    Returns
    -------
    Dataset (step)
        theta (step, parameter) : mean over ranks and members, without witnesses (which began away from the fit); NaN
        at steps that not all ranks have completed.  Of a periodic parameter it is the mean on the circle, as a path
        that ends inside the range and has no jumps.
        deviation (step, parameter) : standard deviation over ranks and members, likewise.
        distance (step,) : distance of `theta` to the fit, root mean square over the parameters in standard deviations
        of the fit (floor units for that of the likelihood); NaN without a fit.
        distance_each (rank, member, step) : the same for each generator, as far as it is.
        witness (rank, member) : whether it is a witness.
        elapsed (step,) : time since the start, mean over the ranks that have completed the step, s.

        The attribute `reference` names the fit: "mle", "fit", or nothing.

    See Also
    --------
    losses : Losses of the networks.
    evolution : Spread of the generated parameters.
    warnings_of : What is wrong with a run.

    Examples
    --------
    >>> from sagips_kit import analysis, open_run
    >>> values = analysis.convergence(open_run("runs/proxy.zarr"), n_rows=10)
    >>> int(values["step"][-1]), values["theta"].dims
    (200, ('step', 'parameter'))
    """
    history = _rows(run, n_rows)
    each = history[schema.THETA].load()
    # Beyond the slowest rank, a mean over the ranks that are there would jump.
    complete, is_witness = each.where(each[schema.STEP] <= history[schema.PROGRESS].min()), witness_rows(run)
    generators, (low, period) = (schema.RANK, schema.MEMBER), circles_of(run)
    complete = gathered(complete, generators, low, period)
    complete = complete.where(~is_witness)
    theta = continuous(inside(complete.mean(generators), low, period), period)
    reference = reference_of(run)

    def distance(values: xr.DataArray) -> xr.DataArray:
        return rms(difference(values, reference.centre, period) / reference.deviation)

    result = xr.Dataset(
        {
            "theta": theta,
            # `std` of older xarray warns of rows that are all NaN.
            "deviation": xr.ufuncs.sqrt(((complete - theta) ** 2).mean(generators)),
            "distance": distance(theta),
            "distance_each": distance(each),
            "witness": is_witness,
            "elapsed": history[schema.ELAPSED].mean(schema.RANK),
        }
    ).drop_attrs()
    for name in ("distance", "distance_each"):
        result[name].attrs.update(long_name=f"RMS distance to the {reference.label}", units=reference.unit)
    return result.assign_attrs(reference=reference.name)


@for_each_run
def warnings_of(run: xr.DataTree) -> list[str]:
    """What is wrong with a run, in sentences.

    These are the findings and doubts of the verdict, the most basic ones first.

    Parameters
    ----------
    run : DataTree
        One run, or several of `open_runs`; they may still be running.

    Returns
    -------
    list of str
        Empty if nothing is wrong.  For several runs each sentence begins with the label of its run.

    See Also
    --------
    verdict : Also what was tested, and what was not.

    Examples
    --------
    >>> from sagips_kit import analysis, open_run
    >>> for sentence in analysis.warnings_of(open_run("runs/proxy.zarr")):
    ...     text = f"Look out: {sentence}"
    """
    found = verdict(run)
    return [*found.findings, *found.doubts]


@for_each_run
def timeline(run: xr.DataTree, n_bins: int = 200) -> xr.Dataset:
    """How the ranks spent their time.

    Parameters
    ----------
    run : DataTree
        One run, or several of `open_runs`; they may still be running.
    n_bins : int
        Number of equal intervals of time.

    Returns
    -------
    Dataset (rank, time)
        waiting (rank, time) : fraction of the interval spent waiting for other ranks; NaN where a rank has no rows.
        compute_s, waited_s (rank,) : total times, s.
        time (time,) : centre of each interval, s since the start.

    See Also
    --------
    pace : Steps and events per second.

    Examples
    --------
    >>> from sagips_kit import analysis, open_run
    >>> analysis.timeline(open_run("runs/proxy.zarr"), n_bins=50)["waiting"].shape
    (1, 50)
    """
    history = _rows(run, None)
    elapsed, waited = (_by_rank(history[name]) for name in (schema.ELAPSED, schema.WAITED))
    ends = np.nanmax(elapsed, axis=1, initial=0)
    edges = np.linspace(0, ends.max(initial=0) or 1.0, n_bins + 1)  # without rows, any bins that differ
    waiting = np.full((len(ends), n_bins), np.nan)
    for rank, (times, waits) in enumerate(zip(elapsed, waited, strict=True)):
        is_there = np.isfinite(times)
        total = np.interp(edges, np.r_[0, times[is_there]], np.r_[0, np.cumsum(waits[is_there])])
        has_rows = (edges[1:] <= ends[rank] * (1 + 1e-9)) & (ends[rank] > 0)
        waiting[rank, has_rows] = (np.diff(total) / np.maximum(np.diff(edges), 1e-9))[has_rows]
    total = np.nansum(waited, axis=1)
    result = xr.Dataset(
        {
            "waiting": ((schema.RANK, "time"), waiting, _described("share of time spent waiting", "1")),
            "compute_s": (schema.RANK, ends - total, _described("time not spent waiting", "s")),
            "waited_s": (schema.RANK, total, _described("time spent waiting for other ranks", "s")),
        },
        {schema.RANK: history[schema.RANK].values},
    )
    time = (edges[1:] + edges[:-1]) / 2
    return result.assign_coords(time=("time", time, _described("time since the start", "s")))


@for_each_run
def staleness(run: xr.DataTree, n_rows: int | None = 1000) -> xr.Dataset:
    """Age of the oldest message that entered the mean of a step.

    Parameters
    ----------
    run : DataTree
        One run, or several of `open_runs`; they may still be running.
    n_rows : int or None
        Maximum number of rows of the history to use, evenly spaced up to the last; None uses all.

    Returns
    -------
    Dataset (step)
        mean, low, high : mean, minimum and maximum over the ranks that have completed the step, in steps.

    See Also
    --------
    timeline : Where ranks waited for each other.

    Examples
    --------
    >>> from sagips_kit import analysis, open_run
    >>> list(analysis.staleness(open_run("runs/proxy.zarr")).data_vars)
    ['mean', 'low', 'high']
    """
    return _spread(_rows(run, n_rows)[schema.STALENESS].load(), [schema.RANK])


@for_each_run
def losses(run: xr.DataTree, n_rows: int | None = 1000) -> xr.Dataset:
    """Losses of discriminators and generators.

    Parameters
    ----------
    run : DataTree
        One run, or several of `open_runs`; they may still be running.
    n_rows : int or None
        Maximum number of rows of the history to use, evenly spaced up to the last; None uses all.

    Returns
    -------
    Dataset (network, step)
        mean, low, high : mean, minimum and maximum over the members of all ranks that have completed the step;
        `network` is "discriminator" or "generator".
        distance : root mean square, over the same members, of the loss minus that of a discriminator that guesses.

    See Also
    --------
    discriminator : How well discriminators separate generated from observed events.

    Examples
    --------
    >>> from sagips_kit import analysis, open_run
    >>> analysis.losses(open_run("runs/proxy.zarr"))["network"].values.tolist()
    ['discriminator', 'generator']
    """
    history = _rows(run, n_rows)
    networks = {"discriminator": schema.LOSS_DISCRIMINATOR, "generator": schema.LOSS_GENERATOR}
    loss, each = fact(run, "loss") or "likelihood", [schema.RANK, schema.MEMBER]
    parts: list[xr.Dataset] = []
    for name, guess in zip(networks.values(), (GUESSING[loss], GUESSED[loss]), strict=True):
        losses = history[name].load()
        distance = xr.ufuncs.sqrt(((losses - guess) ** 2).mean(each))
        parts.append(_spread(losses, each).assign(distance=distance))
    return xr.concat(parts, xr.Variable("network", list(networks)))


@for_each_run
def pace(run: xr.DataTree, after: int = 0) -> xr.Dataset:
    """How fast a run was.

    Parameters
    ----------
    run : DataTree
        One run, or several of `open_runs`; they may still be running.
    after : int
        Number of steps at the beginning to ignore, since the first steps allocate memory and load a GPU's programs.
        Counting begins with the last row of the history among them.

    Returns
    -------
    Dataset
        ranks : number of ranks.
        duration : of the slowest rank so far, s.
        step_rate : steps per second of the slowest rank; NaN if no step counts yet.
        event_rate : events generated per second by all ranks together; NaN if the spec does not contain n_events.
        waiting : fraction of the ranks' time spent waiting for others.

    See Also
    --------
    timeline : When the ranks waited.

    Examples
    --------
    >>> from sagips_kit import analysis, open_run
    >>> values = analysis.pace(open_run("runs/proxy.zarr"), after=50)
    >>> int(values["ranks"]), values["step_rate"].attrs["units"]
    (1, '1/s')
    """
    layout = schema.layout_of(run.attrs)
    history = _rows(run, None)
    elapsed, waited = (_by_rank(history[name]) for name in (schema.ELAPSED, schema.WAITED))
    counts = history[schema.STEP].values > after
    steps = group_of(run, schema.HISTORY)[schema.PROGRESS].values - history[schema.STEP].values[~counts].max(initial=0)
    each = np.nanmax(elapsed, axis=1, initial=0) - np.nanmax(elapsed[:, ~counts], axis=1, initial=0)
    waited_s = np.nansum(waited[:, counts])
    step_rate = float(np.min(steps / each)) if each.all() else np.nan
    n_events = layout.n_ranks * layout.n_members * settings_of(run).get("n_events", np.nan)
    waiting = float(waited_s / each.sum()) if each.sum() else np.nan
    return xr.Dataset(
        {
            "ranks": ((), layout.n_ranks, _described("number of ranks", "1")),
            "duration": ((), float(each.max()), _described("time of training", "s")),
            "step_rate": ((), step_rate, _described("steps per second", "1/s")),
            "event_rate": ((), step_rate * n_events, _described("events generated per second", "1/s")),
            "waiting": ((), waiting, _described("share of time spent waiting", "1")),
        }
    )


def of_ranks(run: xr.DataTree) -> pd.DataFrame:
    """How far, how fast and how patient each rank is, over the last tenth of its rows.

    Returns
    -------
    pandas.DataFrame
        Per rank: host, step, steps/s, waiting (fraction of the time), staleness (steps); NaN before the second row.
    """
    history, progress = _rows(run, None), group_of(run, schema.HISTORY)[schema.PROGRESS].values
    names = (schema.ELAPSED, schema.WAITED, schema.STALENESS)
    elapsed, waited, age = (_by_rank(history[name]) for name in names)
    n_back, rows, steps = max(1, elapsed.shape[1] // 10), [], history[schema.STEP].values
    for rank, step in enumerate(progress):
        last = int(np.searchsorted(steps, step, side="right")) - 1
        first, row = max(0, last - n_back), [step, np.nan, np.nan, np.nan]
        if last > first:
            took_s = max(elapsed[rank, last] - elapsed[rank, first], 1e-9)
            rate, waits_s = (steps[last] - steps[first]) / took_s, waited[rank, first + 1 : last + 1].sum()
            row[1:] = rate, waits_s / took_s, age[rank, last]
        rows.append(row)
    table = pd.DataFrame(rows, columns=["step", "steps/s", "waiting", "staleness"]).rename_axis("rank")
    table.insert(0, "host", group_of(run, schema.ENVIRONMENT)[schema.HOST].values)
    return table


def _described(long_name: str, units: str) -> dict[str, str]:
    return {schema.LONG_NAME_KEY: long_name, schema.UNITS_KEY: units}


def _by_rank(values: xr.DataArray) -> np.ndarray:
    """The values as ndarray (rank, step)."""
    return values.transpose(schema.RANK, schema.STEP).values


def _spread(values: xr.DataArray, dims: list[str]) -> xr.Dataset:
    return xr.Dataset({"mean": values.mean(dims), "low": values.min(dims), "high": values.max(dims)}).drop_attrs()


def _rows(run: xr.DataTree, n_rows: int | None) -> xr.Dataset:
    """The rows of the history that some rank has completed, thinned to `n_rows`; read when they are used."""
    history = group_of(run, schema.HISTORY)
    n = int((history[schema.STEP] <= history[schema.PROGRESS].max()).sum())
    stride = 1 if n_rows is None else max(1, -(-n // n_rows))
    return history.isel({schema.STEP: slice((n - 1) % stride if n else 0, n, stride)})
