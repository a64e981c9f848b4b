"""One run or several side by side, and the chains of a run that are there."""

import functools
from pathlib import PurePath

import numpy as np
import pandas as pd
import xarray as xr

from ..store import schema
from ..store.status import RunStatus

QUANTILES = (0.025, 0.16, 0.5, 0.84, 0.975)


def each_run(runs):
    """The runs of a tree by their labels, {None: run} for a single one: dict of DataTree."""
    _check_opened(runs)
    if schema.ALONG_KEY not in runs.attrs:
        return {None: runs}
    labels = runs[runs.attrs[schema.ALONG_KEY]].values.tolist()
    return dict(zip(labels, runs.children.values(), strict=True))


def single_run(run, name, instead=None):
    """Raise ValueError, in the name of a function, if several runs were given instead of one."""
    _check_opened(run)
    if schema.ALONG_KEY in run.attrs:
        child = next(iter(run.children))
        text = f"{name} takes a single run, and these are {len(run.children)}. Take one, such as runs[{child!r}]"
        raise ValueError(f"{text}, or type {instead}." if instead else f"{text}.")


def _check_opened(run):
    """Raise TypeError for the path of a run, or anything else that is none."""
    if not isinstance(run, xr.DataTree):
        how = repr(str(run)) if isinstance(run, (str, PurePath)) else "path"
        raise TypeError(f"{run!r} is not an opened run. Type open_run({how}).")


def for_each_run(function):
    """Let a function of one run take several: what it returns for each gets their dimension in front."""

    @functools.wraps(function)
    def function_of_runs(run, *args, **options):
        _check_opened(run)
        if schema.ALONG_KEY not in run.attrs:
            return function(run, *args, **options)
        dim, results = run.attrs[schema.ALONG_KEY], []
        for label, one in each_run(run).items():
            try:
                results.append(function(one, *args, **options))
            except ValueError as error:
                raise ValueError(f"{dim} = {label}: {error}") from None
        return _joined(results, run[dim].to_index())

    return function_of_runs


def _joined(results, labels):
    if isinstance(results[0], pd.DataFrame):
        return pd.concat(results, keys=labels.tolist(), names=[labels.name])
    if isinstance(results[0], str):
        return "\n\n".join(f"{labels.name} = {label}\n{text}" for label, text in zip(labels, results, strict=True))
    if not isinstance(results[0], xr.Dataset):
        return xr.DataArray(np.array(results), {labels.name: labels})
    options = {"coords": "minimal", "compat": "override", "combine_attrs": "drop_conflicts"}
    return xr.concat(results, labels, data_vars="all", join="outer", **options)


def state(run):
    """How far a run is, in one word: "unfinished", "stopping", "stopped" or "finished"; see `read_status`."""
    return RunStatus.from_run(run).state


def written(run, group):
    """The chains of `group` that have been written, in memory.

    Parameters
    ----------
    run : DataTree
    group : {"posterior", "posterior_predictive"}

    Returns
    -------
    Dataset (chain, draw, ...)

    Raises
    ------
    ValueError
        If there is none yet.
    """
    # Only chains without any number: one that diverged in a parameter stays, and shows.
    chains = run[group].to_dataset().load().dropna(schema.CHAIN, how="all")
    if not chains.sizes[schema.CHAIN]:
        status = RunStatus.from_run(run)
        if status.state == "stopped":
            raise ValueError(
                f"No chain has been written: the run was stopped at step {status.step} of {status.n_steps}. Go on with "
                "it by resume=True, or look at convergence(run)."
            )
        raise ValueError(
            f"No chain has been written yet: the run is at step {status.step} of {status.n_steps}. Look at "
            "convergence(run) until it ends, then open the run again."
        )
    return chains


def quantiles(values, dim):
    """The median, and the ends of the bands that hold 68 % and 95 % of the values along `dim`, along `quantile`."""
    return values.quantile(QUANTILES, dim, skipna=True)


def rms(distances):
    """Root mean square over the parameters."""
    return np.sqrt((distances**2).mean(schema.PARAMETER))
