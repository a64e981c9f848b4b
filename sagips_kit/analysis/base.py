"""One run or several side by side, and the chains of a run that have been written."""

import functools
from collections.abc import Callable, Sequence
from pathlib import PurePath
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
import pandas as pd
import xarray as xr

from ..store import schema

QUANTILES = (0.025, 0.16, 0.5, 0.84, 0.975)

P = ParamSpec("P")
R = TypeVar("R")


def each_run(run: xr.DataTree) -> dict[Any, xr.DataTree]:
    """The runs of a tree by their labels.

    Parameters
    ----------
    run : DataTree
        One run, or several of `open_runs`.

    Returns
    -------
    dict of DataTree
        The runs by their labels; {None: run} for a single run.

    Raises
    ------
    TypeError
        If it is not an opened run.

    See Also
    --------
    open_runs : Open several runs for comparison.

    Examples
    --------
    >>> from sagips_kit import analysis, open_runs
    >>> runs = open_runs(["runs/proxy.zarr"], along="seed")
    >>> [(label, analysis.state(one)) for label, one in analysis.each_run(runs).items()]
    [(0, 'finished')]
    """
    _check_opened(run)
    if schema.ALONG_KEY not in run.attrs:
        return {None: run}
    labels = run.coords[run.attrs[schema.ALONG_KEY]].values.tolist()
    return dict(zip(labels, run.children.values(), strict=True))


def single_run(run: xr.DataTree, name: str, instead: str | None = None) -> None:
    """Raise ValueError if several runs were given to the function `name`, which takes one."""
    _check_opened(run)
    if schema.ALONG_KEY in run.attrs:
        child = next(iter(run.children))
        text = f"{name} takes a single run, and these are {len(run.children)}. Take one, such as runs[{child!r}]"
        raise ValueError(f"{text}, or type {instead}." if instead else f"{text}.")


def _check_opened(run: object) -> None:
    """Raise TypeError for the path of a run, or anything else that is not an opened run."""
    if not isinstance(run, xr.DataTree):
        how = repr(str(run)) if isinstance(run, (str, PurePath)) else "path"
        raise TypeError(f"{run!r} is not an opened run. Type open_run({how}).")


def for_each_run(
    function: Callable[Concatenate[xr.DataTree, P], R],
) -> Callable[Concatenate[xr.DataTree, P], R]:
    """Let a function of one run take several, too: their results are joined along the dimension of the runs.

    Datasets and tables are joined to one of their kind, lists to one list with the label of its run before each text;
    Series become the rows of a table; numbers and words become a DataArray.
    """

    @functools.wraps(function)
    def function_of_runs(run: xr.DataTree, *args: P.args, **options: P.kwargs) -> Any:
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


def _joined(results: Sequence[Any], labels: pd.Index) -> Any:
    first = results[0]
    if isinstance(first, xr.Dataset):
        # What runs do not share is NaN, so they may have different parameters and lengths.
        return xr.concat(
            results,
            labels,
            data_vars="all",
            coords="minimal",
            compat="override",
            join="outer",
            combine_attrs="drop_conflicts",
        )
    if isinstance(first, pd.DataFrame):
        return pd.concat(results, keys=labels.tolist(), names=[labels.name])
    if isinstance(first, pd.Series):
        return pd.DataFrame(results, index=labels)
    if isinstance(first, list):
        named = zip(labels, results, strict=True)
        return [f"{labels.name} = {label}: {text}" for label, texts in named for text in texts]
    # Numpy would make texts of numbers that stand beside texts.
    is_mixed = len({type(result) for result in results}) > 1
    return xr.DataArray(np.array(results, dtype=object if is_mixed else None), {labels.name: labels})


def group_of(run: xr.DataTree, name: str) -> xr.Dataset:
    """The variables of a group of a run, read when they are used."""
    return run.children[name].to_dataset()


def progress_of(run: xr.DataTree) -> tuple[int, int]:
    """Steps that all ranks have completed, and steps of the whole run."""
    return int(group_of(run, schema.HISTORY)[schema.PROGRESS].min()), schema.layout_of(run.attrs).n_steps


@for_each_run
def state(run: xr.DataTree) -> str:
    """Whether a run is finished, was stopped early on request, or neither yet.

    Parameters
    ----------
    run : DataTree
        One run, or several of `open_runs`.

    Returns
    -------
    str
        "finished", "stopped" or "unfinished"; for several runs a DataArray of these.

    See Also
    --------
    describe : What a run is and how far it is, as text.

    Examples
    --------
    >>> from sagips_kit import analysis, open_run
    >>> analysis.state(open_run("runs/proxy.zarr"))
    'finished'
    """
    step, n_steps = progress_of(run)
    if step >= n_steps:
        return "finished"
    return "stopped" if step >= int(group_of(run, schema.CONTROL)[schema.STOP_STEP]) else "unfinished"


@for_each_run
def written(run: xr.DataTree, group: str) -> xr.Dataset:
    """The chains of a group that have been written, in memory.

    Parameters
    ----------
    run : DataTree
        One run, or several of `open_runs`.
    group : {"posterior", "posterior_predictive"}
        Parameters, or events generated from them.

    Returns
    -------
    Dataset (chain, draw, ...)
        A variable for each parameter (chain, draw), or for each observable (chain, draw, event).

    Raises
    ------
    ValueError
        If no chain has been written yet, or there is no such group.

    See Also
    --------
    estimate : Estimates of the parameters from all chains.

    Examples
    --------
    >>> from sagips_kit import analysis, open_run
    >>> chains = analysis.written(open_run("runs/proxy.zarr"), "posterior")
    >>> chains["theta0"].dims
    ('chain', 'draw')
    """
    groups = (schema.POSTERIOR, schema.PREDICTIVE)
    if group not in groups:
        raise ValueError(f"group = {group!r}: should be one of {', '.join(groups)}.")
    # A chain that diverged in one parameter stays, to be seen.
    chains = group_of(run, group).load().dropna(schema.CHAIN, how="all")
    if not chains.sizes[schema.CHAIN]:
        step, n_steps = progress_of(run)
        if state(run) == "stopped":
            raise ValueError(
                f"No chain has been written: the run was stopped at step {step} of {n_steps}. Continue it with "
                "resume=True, or look at convergence(run)."
            )
        raise ValueError(
            f"No chain has been written yet: the run is at step {step} of {n_steps}. Look at convergence(run) "
            "until it ends, then open the run again."
        )
    return chains


def quantiles(values: xr.DataArray, dim: str) -> xr.DataArray:
    """The median, and the ends of the bands that contain 68 % and 95 % of the values along `dim`, along `quantile`."""
    return values.quantile(QUANTILES, dim, skipna=True)


def rms(distances: xr.DataArray) -> xr.DataArray:
    """Root mean square over the parameters."""
    return xr.ufuncs.sqrt((distances**2).mean(schema.PARAMETER))
