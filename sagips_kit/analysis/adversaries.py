"""The two adversaries: what the generators proposed on the way, and what the discriminators say in the end."""

import numpy as np
import xarray as xr
from scipy.stats import rankdata

from ..store import schema
from ..store.status import RunStatus
from .base import for_each_run, quantiles
from .events import snapshots


@for_each_run
def evolution(run):
    """How the generated parameter vectors spread on the way.

    Parameters
    ----------
    run : DataTree
        May still be running.

    Returns
    -------
    Dataset (parameter, step)
        quantiles (parameter, step, quantile) : 2.5, 16, 50, 84 and 97.5 % of all vectors of all chains are below.
        within (parameter, step) : standard deviation of the vectors of one chain, mean over the chains.
        between (parameter, step) : standard deviation of the chains' means (NaN for one chain).

    Raises
    ------
    ValueError
        If there is no snapshot yet.
    """
    vectors = snapshots(run)["parameters"].astype(float).transpose(schema.PARAMETER, schema.STEP, ...)
    between = vectors.mean(schema.SET).std(schema.CHAIN, ddof=1) if vectors.sizes[schema.CHAIN] > 1 else np.nan
    within = vectors.std(schema.SET).mean(schema.CHAIN)
    every = quantiles(vectors.stack(vector=(schema.CHAIN, schema.SET)), "vector")
    return xr.Dataset(
        {
            "quantiles": every.transpose(schema.PARAMETER, schema.STEP, "quantile"),
            "within": within,
            "between": between * xr.ones_like(within),
        }
    ).drop_attrs()


@for_each_run
def discriminator(run, n_bins=40):
    """What each discriminator says, at the end, of generated events and of as many observed ones.

    Parameters
    ----------
    run : DataTree
    n_bins : int

    Returns
    -------
    Dataset (rank, member), (score)
        auc (rank, member) : probability that a discriminator gives an observed event a higher score than a generated
        one.  0.5 if it cannot tell them apart; it has trained on these observed events, so a little more means little.
        auc_error () : standard deviation of an AUC of one blind discriminator, from the number of its events.
        generated, observed (score,) : density of all discriminators' scores.
        low, high (score,) : edges; 0.2 % of the scores lie below and as many above.

    Raises
    ------
    ValueError
        If no scores have been written yet.
    """
    scores = run[schema.SCORES].to_dataset().load()
    if scores["observed"].isnull().all():
        status = RunStatus.from_run(run)
        raise ValueError(
            f"No scores have been written yet: the run is at step {status.step} of {status.n_steps}, and the "
            "discriminators are asked at its end. Look at losses(run) until then."
        )
    both = {name: scores[name].transpose(schema.RANK, schema.MEMBER, schema.EVENT).values for name in schema.SCORED}
    n = scores.sizes[schema.EVENT]
    low, high = np.nanquantile(np.concatenate(list(both.values()), axis=-1), [0.002, 0.998])
    edges = np.histogram_bin_edges([], n_bins, (low, high))  # wide enough for scores that are all the same
    columns = {name: ("score", _density(values, edges)) for name, values in both.items()}
    auc = ((schema.RANK, schema.MEMBER), _auc(both["observed"], both["generated"]), _AUC)
    error = ((), np.sqrt((2 * n + 1) / (12 * n * n)), {"long_name": "its deviation by chance", "units": "1"})
    coords = {
        "score": ("score", (edges[1:] + edges[:-1]) / 2, {"long_name": "discriminator's score", "units": "1"}),
        "low": ("score", edges[:-1]),
        "high": ("score", edges[1:]),
        schema.RANK: scores[schema.RANK],
        schema.MEMBER: scores[schema.MEMBER],
    }
    return xr.Dataset({"auc": auc, "auc_error": error, **columns}, coords)


_AUC = {"long_name": "probability that an observed event scores higher than a generated one", "units": "1"}


def _auc(positive, negative):
    """Mann-Whitney's statistic of the last axis, from 0 to 1; NaN where a score is."""
    n = positive.shape[-1]
    ranks = rankdata(np.concatenate([positive, negative], axis=-1), axis=-1)
    area = (ranks[..., :n].sum(-1) - n * (n + 1) / 2) / (n * negative.shape[-1])
    return np.where(np.isfinite(positive + negative).all(-1), area, np.nan)


def _density(scores, edges):
    scores = scores[np.isfinite(scores)]
    counts, _ = np.histogram(scores, edges)
    return counts / (np.diff(edges) * len(scores))
