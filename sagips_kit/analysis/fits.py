"""The fit by the learned score that a run contains, and which fit the results of a run are compared with."""

from typing import Any, NamedTuple

import numpy as np
import scipy.stats
import xarray as xr

from ..store import schema
from ..store.findings import Finding
from .base import for_each_run, group_of


@for_each_run
def fit(run: xr.DataTree) -> xr.Dataset:
    """The fit of a run's events by a learned score, which needs no likelihood and is made before the ranks train.

    Parameters
    ----------
    run : DataTree
        One run, or several of `open_runs`; they may still be running.

    Returns
    -------
    Dataset (parameter, parameter_2)
        fit, deviation (parameter,) : the estimate and its standard deviation.
        covariance, correlation (parameter, parameter_2) : of the estimates.
        goodness, n_freedom, p_value () : chi-squared of means of functions that the fit did not use, its degrees of
        freedom, and the probability of a worse value if the model is right; NaN if nothing was tested.

        All are NaN if the run has no fit.  The attributes are `state` ("made", "under way", "refused" or "failed", or
        "none" if no fit was asked for), `findings` (list of sentences that say why the estimate should not be used as
        it is), `notes` (sentences about the problem that do not concern this fit), `information` (of the parts of the
        score) and `reason` (why there is no fit).

    See Also
    --------
    sagips_kit.fit : Make such a fit without a run.
    estimate : The estimates of the generators beside those of the fits.

    Examples
    --------
    >>> from sagips_kit import analysis, open_run
    >>> values = analysis.fit(open_run("runs/proxy.zarr"))
    >>> values["fit"].dims, values.attrs["state"]
    (('parameter',), 'made')
    """
    reference, words = group_of(run, schema.REFERENCE), fit_words(run)
    is_made = words["state"] == schema.MADE
    names = {
        "fit": schema.FIT,
        "deviation": schema.FIT_DEVIATION,
        "covariance": schema.FIT_COVARIANCE,
        "goodness": schema.FIT_GOODNESS,
        "n_freedom": schema.FIT_FREEDOM,
    }
    # Numbers count only with their words, which are written last.
    values = {name: reference[key].load().where(is_made) for name, key in names.items()}
    deviation = values["deviation"]
    across = deviation.rename({schema.PARAMETER: schema.PARAMETER_2})
    values["correlation"] = values["covariance"] / (deviation * across)
    p_value = scipy.stats.chi2.sf(values["goodness"], values["n_freedom"])
    values["p_value"] = xr.DataArray(np.where(values["n_freedom"] > 0, p_value, np.nan))
    return xr.Dataset(values).drop_attrs().assign_attrs(words)


def fit_words(run: xr.DataTree) -> dict[str, Any]:
    """State, findings, information and reason of the fit by the learned score."""
    nothing: dict[str, Any] = {"state": "none", "reason": "", "findings": [], "notes": [], "information": {}}
    words = nothing | group_of(run, schema.REFERENCE).attrs.get(schema.FIT_KEY, {})
    return words | {"findings": [Finding.from_stored(one) for one in words["findings"]]}


def goodness_words(values: xr.Dataset) -> str:
    """The goodness of fit of what `fit` returned, in words."""
    n_freedom = values["n_freedom"].item()
    if not n_freedom > 0:
        return "goodness of fit not tested"
    return f"chi-squared {values['goodness'].item():.1f} / {n_freedom:.0f}, p = {values['p_value'].item():.2g}"


class Reference(NamedTuple):
    """What the estimates of a run are compared with.

    Attributes
    ----------
    name : str
        "mle" for the likelihood fit, "fit" for the fit by the learned score, empty if the run has neither.
    label, unit : str
        The name and the unit of distances to it, for axes.
    centre, deviation : DataArray (parameter,)
        Estimate and standard deviation; NaN if the run has neither.
    """

    name: str
    label: str
    unit: str
    centre: xr.DataArray
    deviation: xr.DataArray


def reference_of(run: xr.DataTree) -> Reference:
    """The likelihood fit of a run; without one, the fit by the learned score."""
    likelihood = group_of(run, schema.REFERENCE)[[schema.MLE, schema.DEVIATION]].load()
    has_likelihood, words = bool(likelihood[schema.MLE].notnull().any()), fit_words(run)
    if has_likelihood or words["state"] != schema.MADE:
        name = "mle" if has_likelihood else ""
        return Reference(name, "MLE", "floor units", likelihood[schema.MLE], likelihood[schema.DEVIATION])
    values, label = fit(run), "fit, which is not reliable" if words["findings"] else "fit"
    return Reference("fit", label, "its deviations", values["fit"], values["deviation"])
