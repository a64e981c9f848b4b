"""What happened on the way: convergence, pace, waiting and staleness."""

import numpy as np
import xarray as xr

from ..store import diagnostics, schema
from .base import for_each_run, rms, state
from .estimates import estimate
from .facts import spec

_ARRIVED = 1.0  # deviations: those that arrive move by 0.1 to 0.4


@for_each_run
def convergence(run, n_rows=1000):
    """The way of the generators through parameter space.

    Parameters
    ----------
    run : DataTree
        May still be running.
    n_rows : int or None
        Rows of the history to take at most, evenly spaced up to the last; None takes all.

    Returns
    -------
    Dataset (step)
        theta (step, parameter) : mean over ranks and members; NaN at steps that not all ranks have completed.
        deviation (step, parameter) : standard deviation over ranks and members, likewise.
        distance (step,) : of `theta` to the maximum-likelihood estimate, in floor units; NaN without a reference.
        distance_each (rank, member, step) : the same of each generator, as far as it has come.
        elapsed (step,) : time since the start, mean over the ranks that have come so far, s.
    """
    history = _rows(run, n_rows)
    each = history["theta"].load()
    # Ranks come and go along the ragged end, and a mean over whoever is there would jump.
    complete = each.where(each[schema.STEP] <= history[schema.PROGRESS].min())
    generators = (schema.RANK, schema.MEMBER)
    theta = complete.mean(generators)
    reference = run[schema.REFERENCE].to_dataset()

    def distance(values):
        return rms((values - reference["mle"]) / reference["deviation"])

    result = {
        "theta": theta,
        "deviation": complete.std(generators),
        "distance": distance(theta),
        "distance_each": distance(each),
        "elapsed": history["elapsed_s"].mean(schema.RANK),
    }
    result = xr.Dataset(result).drop_attrs()
    for name in ("distance", "distance_each"):
        result[name].attrs.update(long_name="RMS distance to the MLE", units="floor units")
    return result


@for_each_run
def warnings_of(run):
    """What is wrong with the run: list of sentences.

    What its last rows agree on; and, of a finished one, parameters that moved by more than a deviation in its second
    half.  Runs that arrive move by a few tenths then; the deviations of one that did not arrive mean nothing.

    Parameters
    ----------
    run : DataTree
        May still be running.
    """
    return _complaints(run) + (_still_moving(run) if state(run) == "finished" else [])


def _still_moving(run):
    history, names = run[schema.HISTORY]["theta"], run.attrs[schema.PARAMETERS_KEY]
    rows = history.isel({schema.STEP: [history.sizes[schema.STEP] // 2, -1]})
    half, end = rows.mean((schema.RANK, schema.MEMBER)).transpose(schema.STEP, ...).values
    deviation = estimate(run)["deviation"].values  # NaN for a single chain
    deviation = np.where(np.isfinite(deviation), deviation, run[schema.REFERENCE]["deviation"].values)
    with np.errstate(divide="ignore", invalid="ignore"):  # chains that are all the same
        moved = np.abs(end - half) / deviation
    if not (moved > _ARRIVED).any():
        return []
    found = ", ".join(f"{names[k]} ({moved[k]:.1f})" for k in np.argsort(-moved) if moved[k] > _ARRIVED)
    return [
        f"More than a deviation was moved in the second half of the run by {found}: it may not have arrived, and then "
        "its deviations mean nothing. Train longer (n_steps), or look for parameters that events hardly determine."
    ]


def _complaints(run):
    """What the last rows of the history agree on."""
    history, reference = run[schema.HISTORY].to_dataset(), run[schema.REFERENCE].to_dataset()
    last = history[schema.STEP] <= history[schema.PROGRESS].min()
    rows = (
        history[["theta", "loss_discriminator"]]
        .sel({schema.STEP: last})
        .isel({schema.STEP: slice(-diagnostics.N_ROWS, None)})
    )
    if rows.sizes[schema.STEP] < diagnostics.N_ROWS:
        return []
    rows = rows.load().stack(generator=(schema.RANK, schema.MEMBER))
    loss = spec(run).get("settings", {}).get("loss", "likelihood")
    found = diagnostics.complaints(
        rows["theta"].transpose(schema.STEP, "generator", schema.PARAMETER),
        rows["loss_discriminator"].transpose(schema.STEP, "generator"),
        reference["lower"].values,
        reference["upper"].values,
        run.attrs[schema.PARAMETERS_KEY],
        loss,
    )
    return list(found.values())


@for_each_run
def timeline(run, n_bins=200):
    """How the ranks spent their time.

    Parameters
    ----------
    run : DataTree
    n_bins : int
        Equal stretches of time to look at.

    Returns
    -------
    Dataset (rank, time)
        waiting (rank, time) : share of the time spent waiting for other ranks; NaN where a rank has no rows.
        compute_s, waited_s (rank,) : totals, s.
        time (time,) : middle of each stretch, s since the start.
    """
    history = _rows(run, None)
    elapsed, waited = (history[name].transpose(schema.RANK, schema.STEP).values for name in ("elapsed_s", "waited_s"))
    ends = np.nanmax(elapsed, axis=1, initial=0)
    edges = np.linspace(0, ends.max(initial=0), n_bins + 1)
    waiting = np.full((len(ends), n_bins), np.nan)
    for rank, (times, waits) in enumerate(zip(elapsed, waited, strict=True)):
        is_there = np.isfinite(times)
        total = np.interp(edges, np.r_[0, times[is_there]], np.r_[0, np.cumsum(waits[is_there])])
        has_rows = (edges[1:] <= ends[rank] * (1 + 1e-9)) & (ends[rank] > 0)
        waiting[rank, has_rows] = (np.diff(total) / np.maximum(np.diff(edges), 1e-9))[has_rows]
    total = np.nansum(waited, axis=1)
    result = xr.Dataset(
        {
            "waiting": ((schema.RANK, "time"), waiting, {"long_name": "share of time spent waiting", "units": "1"}),
            "compute_s": (schema.RANK, ends - total, {"long_name": "time not spent waiting", "units": "s"}),
            "waited_s": (schema.RANK, total, {"long_name": "time spent waiting for other ranks", "units": "s"}),
        },
        {schema.RANK: history[schema.RANK].values},
    )
    time = (edges[1:] + edges[:-1]) / 2
    return result.assign_coords(time=("time", time, {"long_name": "time since the start", "units": "s"}))


@for_each_run
def staleness(run, n_rows=1000):
    """Age of the oldest message that entered a step's mean.

    Parameters
    ----------
    run : DataTree
    n_rows : int or None
        As in `convergence`.

    Returns
    -------
    Dataset (step)
        mean, low, high : over the ranks that have come so far, in steps.
    """
    return _spread(_rows(run, n_rows)["staleness"].load(), [schema.RANK])


@for_each_run
def losses(run, n_rows=1000):
    """Losses of discriminators and generators.

    Parameters
    ----------
    run : DataTree
    n_rows : int or None
        As in `convergence`.

    Returns
    -------
    Dataset (network, step)
        mean, low, high : over the ranks that have come so far and their members.
    """
    history = _rows(run, n_rows)
    generators = [schema.RANK, schema.MEMBER]
    parts = [_spread(history[f"loss_{name}"].load(), generators) for name in ("discriminator", "generator")]
    return xr.concat(parts, xr.Variable("network", ["discriminator", "generator"]))


@for_each_run
def pace(run, after=0):
    """How fast a run went.

    Parameters
    ----------
    run : DataTree
    after : int
        Steps at the beginning that do not count: the first ones open memory and load a GPU's programs.  Counting
        begins with the last row of the history among them.

    Returns
    -------
    Dataset
        ranks : number of ranks.
        duration : of the slowest rank so far, s.
        step_rate : steps per second, of the slowest rank; NaN where no step counts yet.
        event_rate : events generated per second by all ranks together; NaN where the spec does not tell.
        waiting : share of the ranks' time spent waiting for others.
    """
    layout, settings = run.attrs[schema.LAYOUT_KEY], spec(run).get("settings", {})
    history = _rows(run, None)
    elapsed, waited = (history[name].transpose(schema.RANK, schema.STEP).values for name in ("elapsed_s", "waited_s"))
    counts = history[schema.STEP].values > after
    steps = run[schema.HISTORY][schema.PROGRESS].values - history[schema.STEP].values[~counts].max(initial=0)
    each = np.nanmax(elapsed, axis=1, initial=0) - np.nanmax(elapsed[:, ~counts], axis=1, initial=0)
    waited_s = np.nansum(waited[:, counts])
    duration = float(each.max())
    step_rate = float(np.min(steps / each)) if each.all() else np.nan
    n_events = layout["n_ranks"] * layout["n_members"] * settings.get("n_events", np.nan)
    values = {
        "ranks": (layout["n_ranks"], "number of ranks", schema.DIMENSIONLESS),
        "duration": (duration, "time of training", "s"),
        "step_rate": (step_rate, "steps per second", "1/s"),
        "event_rate": (step_rate * n_events, "events generated per second", "1/s"),
        "waiting": (
            float(waited_s / each.sum()) if each.sum() else np.nan,
            "share of time spent waiting",
            schema.DIMENSIONLESS,
        ),
    }
    return xr.Dataset({name: ((), number, {"long_name": t, "units": u}) for name, (number, t, u) in values.items()})


def _spread(values, dims):
    return xr.Dataset({"mean": values.mean(dims), "low": values.min(dims), "high": values.max(dims)}).drop_attrs()


def _rows(run, n_rows):
    """The rows of the history that some rank has completed, thinned to `n_rows`; read when they are used."""
    history = run[schema.HISTORY].to_dataset()
    n = int((history[schema.STEP] <= history[schema.PROGRESS].max()).sum())
    stride = 1 if n_rows is None else max(1, -(-n // n_rows))
    return history.isel({schema.STEP: slice((n - 1) % stride if n else 0, n, stride)})
