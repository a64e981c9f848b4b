"""The fit by the learned score that a run contains, and which fit the results of a run are compared with."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from ..store import schema
from ..store.contributions import Contribution
from ..store.findings import Finding
from ..store.status import RunStatus
from .base import for_each_run, group_of

PART = "part"  # dimension of what an uncertainty is made of


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

        All are NaN if the run has no fit. The attributes are `state` ("made", "under way", "refused" or "failed", or
        "none" if it has not been begun or was switched off), `findings` (list of sentences that say why the estimate
        should not be used as it is), `notes` (sentences about the problem that do not concern this fit), `information`
        (of the parts of the score) and `reason` (why there is no fit).

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
    from scipy.special import chdtrc  # takes a third of a second to import

    p_value = chdtrc(values["n_freedom"], values["goodness"])
    values["p_value"] = xr.DataArray(np.where(values["n_freedom"] > 0, p_value, np.nan))
    return xr.Dataset(values).drop_attrs().assign_attrs(words)


@for_each_run
def impacts(run: xr.DataTree) -> xr.Dataset:
    """What the uncertainty of a run's fit by the learned score is made of.

    The parts are the observed events, the simulated events, and each prior, measurement and kind of constraint.

    Parameters
    ----------
    run : DataTree
        One run, or several of `open_runs`; they may still be running.

    Returns
    -------
    Dataset (part, parameter)
        impact (part, parameter) : standard deviations that each part contributes, in the parameters' units, whose
        squares add up; of a prior, or a measurement of one number, the change of the estimate if this number were one
        of its standard deviations larger, which may be negative.
        share (part, parameter) : the fraction of the variance.
        pull (part,) : difference of the estimate from the number that was known, in its standard deviations; NaN for
        parts that are no single number.
        fit, deviation (parameter,) : the estimate and its standard deviation.

        The coordinate `group` is "events", "simulation", "constraints", "priors", "measurements", or "ranges" for what
        nothing but the range limits.

    Raises
    ------
    ValueError
        If the run has no such fit, or one of an earlier version, which did not keep these numbers.

    See Also
    --------
    sagips_kit.plot.impacts : Draw them.

    Examples
    --------
    >>> from sagips_kit import analysis, open_run
    >>> values = analysis.impacts(open_run("runs/proxy.zarr"))
    >>> values["part"].values.tolist()
    ['events', 'constraints', 'simulation']
    >>> values["share"].sum("part").round(6).values.tolist()
    [1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    """
    values = fit(run)
    require_fit(values.attrs)
    stored = values.attrs["contributions"]
    if not stored:
        raise ValueError(
            "The fit of this run is of an earlier version, which did not keep what its uncertainty is made of. Fit the "
            "events again: plot.impacts(fit(problem, events))."
        )
    parameters = [str(name) for name in values[schema.PARAMETER].values]
    contributions = [Contribution.from_dict(one) for one in stored]
    return impacts_of(parameters, values["fit"].values, values["deviation"].values, contributions)


def impacts_of(
    parameters: Sequence[str], estimate: np.ndarray, deviation: np.ndarray, contributions: Sequence[Contribution]
) -> xr.Dataset:
    """What `impacts` returns, of a fit."""
    impact = np.array([one.impact for one in contributions])
    return xr.Dataset(
        {
            "impact": ((PART, schema.PARAMETER), impact),
            "share": ((PART, schema.PARAMETER), np.square(impact / deviation)),
            "pull": (PART, [one.pull for one in contributions]),
            "fit": (schema.PARAMETER, estimate),
            "deviation": (schema.PARAMETER, deviation),
        },
        {
            PART: [one.name for one in contributions],
            "group": (PART, [one.group for one in contributions]),
            schema.PARAMETER: list(parameters),
        },
    )


def require_fit(words: Mapping[Any, Any]) -> None:
    """ValueError with the reason if a run, of whose fit these are the words, has no fit by the learned score."""
    if words["state"] != schema.MADE:
        raise ValueError(f"The run has no fit by the learned score: {words['reason'].rstrip('.')}.")


def fit_words(run: xr.DataTree) -> dict[str, Any]:
    """State, findings, information and, unless there is one, the reason of the fit by the learned score."""
    nothing: dict[str, Any] = {
        "state": "none",
        "reason": "",
        "findings": [],
        "notes": [],
        "information": {},
        "contributions": [],
    }
    words = nothing | group_of(run, schema.REFERENCE).attrs.get(schema.FIT_KEY, {})
    reasons = {"none": _why_none(run), schema.UNDER_WAY: "rank 0 is making it"}
    reason = words["reason"] or reasons.get(words["state"], "")
    return words | {"reason": reason, "findings": [Finding.from_stored(one) for one in words["findings"]]}


def _why_none(run: xr.DataTree) -> str:
    if json.loads(run.attrs[schema.SPEC_KEY]).get("fit") is False:
        return "it was switched off (RunSpec(fit=False))"
    return "an early version wrote the run" if RunStatus.from_run(run).steps.any() else "it has not been begun"


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
