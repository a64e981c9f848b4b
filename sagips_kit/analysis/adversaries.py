"""The two adversaries: what generators propose during training, and how well discriminators judge at the end."""

import numpy as np
import xarray as xr

from ..store import schema
from ..store.status import RunStatus
from .base import circles_of, continuous, for_each_run, gathered, group_of, quantiles, spread_of_chains
from .events import snapshots


@for_each_run
def evolution(run: xr.DataTree) -> xr.Dataset:
    """Spread of the generated parameter vectors during training.

    Values of a periodic parameter are taken within half a period of their mean at each step, and this mean is a path
    without jumps, which ends inside the range.

    Parameters
    ----------
    run : DataTree
        One run, or several of `open_runs`; they may still be running.

    Returns
    -------
    Dataset (parameter, step)
        quantiles (parameter, step, quantile) : 2.5, 16, 50, 84 and 97.5 % quantiles of all vectors of all chains.
        within (parameter, step) : standard deviation of the vectors of one chain, mean over the chains.
        between (parameter, step) : standard deviation of the means of the chains (NaN for one chain).

    Raises
    ------
    ValueError
        If there is no snapshot yet.

    See Also
    --------
    snapshots : The vectors themselves.
    convergence : Their mean in each row of the history.

    Examples
    --------
    >>> from sagips_kit import analysis, open_run
    >>> analysis.evolution(open_run("runs/proxy.zarr"))["quantiles"].dims
    ('parameter', 'step', 'quantile')
    """
    vectors = snapshots(run)[schema.TAKEN_PARAMETERS].astype(float).transpose(schema.PARAMETER, schema.STEP, ...)
    circles, both = circles_of(run), (schema.CHAIN, schema.SET)
    of_chains, together = gathered(vectors, (schema.SET,), *circles), gathered(vectors, both, *circles)
    means = gathered(of_chains.mean(schema.SET), (schema.CHAIN,), *circles)
    between = spread_of_chains(means, group_of(run, schema.POSTERIOR).attrs)
    within = of_chains.std(schema.SET).mean(schema.CHAIN)
    centre = together.mean(both)
    every = quantiles((together + (continuous(centre, circles[1]) - centre)).stack(vector=both), "vector")
    return xr.Dataset(
        {
            "quantiles": every.transpose(schema.PARAMETER, schema.STEP, "quantile"),
            "within": within,
            "between": between * xr.ones_like(within),
        }
    ).drop_attrs()


@for_each_run
def discriminator(run: xr.DataTree, n_bins: int = 40) -> xr.Dataset:
    """Scores that the discriminators give, at the end of a run, to generated events and to as many observed ones.

    Parameters
    ----------
    run : DataTree
        One run, or several of `open_runs`.
    n_bins : int
        Number of bins of the histograms of scores.

    Returns
    -------
    Dataset (rank, member), (score)
        auc (rank, member) : probability that a discriminator gives an observed event a higher score than a generated
        one.  It is 0.5 if the discriminator cannot separate them; since it was trained on these observed events, a
        slightly higher value means little.
        auc_error () : standard deviation of the AUC of one discriminator that guesses, from the number of events.
        generated, observed (score,) : densities of the scores of all discriminators.
        low, high (score,) : edges; 0.2 % of the scores are below and 0.2 % above.

    Raises
    ------
    ValueError
        If no scores have been written yet.

    See Also
    --------
    losses : Losses of the discriminators during training.
    observed_and_generated : The events themselves.

    Examples
    --------
    >>> from sagips_kit import analysis, open_run
    >>> values = analysis.discriminator(open_run("runs/proxy.zarr"), n_bins=10)
    >>> values["auc"].dims, values["generated"].sizes["score"]
    (('rank', 'member'), 10)
    """
    scores = group_of(run, schema.SCORES).load()
    if scores[schema.SCORE_OBSERVED].isnull().all():
        status = RunStatus.from_run(run)
        raise ValueError(
            f"No scores have been written yet: the run is at step {status.step} of {status.n_steps}, and the "
            "discriminators score events at its end. Look at losses(run) until then."
        )
    observed, generated = (
        scores[name].transpose(schema.RANK, schema.MEMBER, schema.EVENT).values
        for name in (schema.SCORE_OBSERVED, schema.SCORE_GENERATED)
    )
    return _judged(observed, generated, scores[schema.RANK], scores[schema.MEMBER], n_bins)


def _judged(
    observed: np.ndarray, generated: np.ndarray, rank: xr.DataArray, member: xr.DataArray, n_bins: int
) -> xr.Dataset:
    """AUC and histograms of scores (rank, member, event)."""
    n = observed.shape[-1]
    low, high = np.nanquantile(np.concatenate([generated, observed], axis=-1), [0.002, 0.998])
    edges = np.histogram_bin_edges([], n_bins, (low, high))  # wide enough even if all scores are equal
    coords = {
        "score": ("score", (edges[1:] + edges[:-1]) / 2, {"long_name": "discriminator's score", "units": "1"}),
        "low": ("score", edges[:-1]),
        "high": ("score", edges[1:]),
        schema.RANK: rank,
        schema.MEMBER: member,
    }
    error = np.sqrt((2 * n + 1) / (12 * n * n))
    return xr.Dataset(
        {
            "auc": ((schema.RANK, schema.MEMBER), _auc(observed, generated), _AUC),
            "auc_error": ((), error, {"long_name": "its deviation by chance", "units": "1"}),
            "generated": ("score", _density(generated, edges)),
            "observed": ("score", _density(observed, edges)),
        },
        coords,
    )


_AUC = {"long_name": "probability that an observed event scores higher than a generated one", "units": "1"}


def _auc(positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """Mann-Whitney statistic over the last axis, from 0 to 1; NaN if any score is."""
    from scipy.stats import rankdata  # takes a second to import

    n = positive.shape[-1]
    ranks = rankdata(np.concatenate([positive, negative], axis=-1), axis=-1)
    area = (ranks[..., :n].sum(-1) - n * (n + 1) / 2) / (n * negative.shape[-1])
    return np.where(np.isfinite(positive + negative).all(-1), area, np.nan)


def _density(scores: np.ndarray, edges: np.ndarray) -> np.ndarray:
    scores = scores[np.isfinite(scores)]
    counts, _ = np.histogram(scores, edges)
    return counts / (np.diff(edges) * len(scores))
