"""One run or several side by side, and the chains of a run that have been written."""

import functools
import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import PurePath
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
import pandas as pd
import xarray as xr

from .. import _circular
from .._partition import resampling_blocks
from ..store import schema
from ..store.status import RunStatus
from ..store.witnesses import is_witness

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


def settings_of(run: xr.DataTree) -> dict[str, Any]:
    """The training settings of a run as JSON values; empty if its spec has none."""
    return json.loads(run.attrs[schema.SPEC_KEY]).get("settings", {})


@for_each_run
def state(run: xr.DataTree) -> str:
    """How far a run is, in one word.

    Parameters
    ----------
    run : DataTree
        One run, or several of `open_runs`.

    Returns
    -------
    str
        "finished"; "stopped" early on request; "stopping", which is still on the way to that step; or "unfinished",
        which has steps left.  For several runs a DataArray of these.

    See Also
    --------
    describe : What a run is and how far it is, as text.

    Examples
    --------
    >>> from sagips_kit import analysis, open_run
    >>> analysis.state(open_run("runs/proxy.zarr"))
    'finished'
    """
    return RunStatus.from_run(run).state


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
        A variable for each parameter (chain, draw), or for each observable (chain, draw, event).  Values of a periodic
        parameter are within half a period of their mean, so some may be outside of its range, and means, standard
        deviations and histograms are computed as usual.

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
        status = RunStatus.from_run(run)
        if status.state == "stopped":
            raise ValueError(
                f"No chain has been written: the run was stopped at step {status.step} of {status.n_steps}. Continue "
                "it with resume=True, or look at convergence(run)."
            )
        raise ValueError(
            f"No chain has been written yet: the run is at step {status.step} of {status.n_steps}. Look at "
            "convergence(run) until it ends, then open the run again."
        )
    return gathered_chains(chains) if group == schema.POSTERIOR else chains


def began_at_fit(run: xr.DataTree) -> bool:
    """Whether the generators of a run began at the fits of their own resamples."""
    return bool(group_of(run, schema.REFERENCE)[schema.CHAIN_FIT].notnull().any())


def witness_rows(run: xr.DataTree) -> xr.DataArray:
    """Which generators (rank, member) of the history began away from the fit."""
    return group_of(run, schema.HISTORY)[schema.WITNESS].load() == 1


def witnesses_of(run: xr.DataTree) -> np.ndarray:
    """Which chains (chain,) of a run began away from its fit, to see whether they come back."""
    n_chains, began = schema.layout_of(run.attrs).n_chains, began_at_fit(run)
    return np.array([began and is_witness(chain, n_chains) for chain in range(n_chains)])


def gathered_chains(chains: xr.Dataset) -> xr.Dataset:
    """Chains in which the values of periodic parameters are near their mean, so that the usual statistics hold."""
    around = schema.intervals_of(chains.attrs)
    return chains.assign(
        {
            name: gathered(chains[name], chains[name].dims, xr.DataArray(low), xr.DataArray(high - low))
            for name, (low, high) in around.items()
            if name in chains
        }
    )


def spread_of_chains(means: xr.DataArray, attributes: Mapping[Any, Any]) -> xr.DataArray:
    """Standard deviation of the chains around the mean of each block of those that were resampled together.

    Each of these means is that of the events themselves.  With one mean for all, the variance would be too low by 1/16.
    `attributes` are those of the posterior, which say how many chains there were, witnesses included.  Of chains that
    all learned from the same events it is NaN: they differ by less than repetitions of the experiment would.
    """
    if str(attributes.get(schema.UNCERTAINTY_KEY, "")).startswith(schema.NO_UNCERTAINTY):
        return np.nan * means.mean(schema.CHAIN)
    n_chains = means.sizes[schema.CHAIN]
    chain = means[schema.CHAIN].values if schema.CHAIN in means.coords else np.arange(n_chains)
    stops = [stop for _, stop in resampling_blocks(int(attributes.get(schema.RESAMPLED_KEY, n_chains)))]
    block = xr.DataArray(np.searchsorted(stops, chain, side="right"), dims=schema.CHAIN)
    parts = [means.isel({schema.CHAIN: np.flatnonzero(block == one)}) for one in np.unique(block)]
    residuals = xr.concat([part - part.mean(schema.CHAIN) for part in parts], schema.CHAIN)
    n_freedom = n_chains - len(parts)
    variance = (residuals**2).sum(schema.CHAIN) / n_freedom if n_freedom else np.nan * means.mean(schema.CHAIN)
    return variance**0.5


def circles_of(run: xr.DataTree) -> tuple[xr.DataArray, xr.DataArray]:
    """Lower end and period of the parameters of a run, (parameter,) each; NaN where they are not periodic."""
    names = schema.names_of(run.attrs)[0]
    ends = _circular.circles(names, schema.intervals_of(group_of(run, schema.POSTERIOR).attrs))
    low, period = (xr.DataArray(one, {schema.PARAMETER: names}) for one in ends)
    return low, period


def gathered(values: xr.DataArray, dims: Sequence[Hashable], low: xr.DataArray, period: xr.DataArray) -> xr.DataArray:
    """The equivalent values within half a period of their mean along `dims`; the same where the period is NaN."""
    if not period.notnull().any():
        return values
    found = xr.apply_ufunc(
        lambda *given: _circular.gathered(*given, n_axes=len(dims)),
        values,
        low,
        period,
        input_core_dims=[list(dims), [], []],
        output_core_dims=[list(dims)],
        keep_attrs="override",
    )
    return found.transpose(*values.dims)


def difference(one: xr.DataArray, other: xr.DataArray, period: xr.DataArray) -> xr.DataArray:
    """`one` - `other`, along the shorter way around the circle where there is a period."""
    return xr.apply_ufunc(_circular.difference, one, other, period)


def continuous(values: xr.DataArray, period: xr.DataArray) -> xr.DataArray:
    """The equivalent values whose path along the steps has no jumps and ends as given; the same where there is none."""
    if not (period.notnull().any() and values.sizes[schema.STEP]):
        return values
    dims = [[schema.STEP], []]
    found = xr.apply_ufunc(_circular.continuous, values, period, input_core_dims=dims, output_core_dims=dims[:1])
    return found.transpose(*values.dims)


def inside(values: xr.DataArray, low: xr.DataArray, period: xr.DataArray) -> xr.DataArray:
    """The equivalent values in the interval that begins at `low`; the same where the period is NaN."""
    return xr.apply_ufunc(_circular.inside, values, low, period, keep_attrs="override")


def quantiles(values: xr.DataArray, dim: str) -> xr.DataArray:
    """The median, and the ends of the bands that contain 68 % and 95 % of the values along `dim`, along `quantile`."""
    return values.quantile(QUANTILES, dim, skipna=True)


def rms(distances: xr.DataArray) -> xr.DataArray:
    """Root mean square over the parameters."""
    return xr.ufuncs.sqrt((distances**2).mean(schema.PARAMETER))
