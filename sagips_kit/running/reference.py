"""What a run is compared with, computed from the same events: the likelihood fit and the fit by the learned score.

Both may take long and must not keep a notebook waiting, so rank 0 makes them, before it trains: they are there while
the run is under way, and no rank waits for rank 0 in the middle of an exchange.  A problem whose likelihood is wrong
should not be trained, so an error of that fit ends the run.
"""

import warnings
from typing import Any

from numpy.typing import NDArray

from ..statistics.fit import ScoreFit, fit
from ..statistics.likelihood import fit_likelihood
from ..store import schema
from ..store.findings import ARRIVED, BOUND, SEVERAL, STRUCTURE
from ..store.writer import RunWriter
from .spec import RunSpec

_MOST_TO_START = 60  # parameters of a run that begins at its fit
_MOST_PARAMETERS = 24  # more take longer than ranks should wait


def has_likelihood(spec: RunSpec) -> bool:
    """Whether the run is compared with a likelihood fit."""
    return spec.reference and spec.problem.has_likelihood


def write_likelihood(spec: RunSpec, writer: RunWriter, events: NDArray) -> None:
    """Make the likelihood fit and store it, unless it is there, with the errors and warnings of `fit_likelihood`."""
    if writer.wants_likelihood():
        found = fit_likelihood(spec.problem, events)
        writer.write_likelihood(mle=found.theta, deviation=found.deviation, covariance=found.covariance)


def write_fit(spec: RunSpec, writer: RunWriter, events: NDArray) -> dict[str, Any] | None:
    """Make the fit by the learned score and store it, or the reason why there is none, with which the run continues.

    Returns where generators begin, as the state of a `Start`; None if that is in the middle of the ranges.
    """
    writer.write_fit({"state": schema.UNDER_WAY})
    try:
        result = _fit(spec, events)
    except (ValueError, NotImplementedError) as error:  # in words that say which problems and events it takes
        writer.write_fit({"state": schema.REFUSED, "reason": str(error)})
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        warnings.warn(
            f"The fit by the learned score failed: {reason}. The run continues without it. fit(problem, events) shows "
            "where it fails; RunSpec(..., fit=False) leaves it out.",
            stacklevel=2,
        )
        writer.write_fit({"state": schema.FAILED, "reason": reason})
    else:
        start, reason = _start_at(spec, result)
        words = {
            "state": schema.MADE,
            "start": reason,
            "findings": [finding.to_dict() for finding in result.findings],
            "notes": list(result.notes),
            "information": result.information,
            "contributions": [one.to_dict() for one in result.contributions],
        }
        values = {
            schema.FIT: result.theta,
            schema.FIT_DEVIATION: result.deviation,
            schema.FIT_COVARIANCE: result.covariance,
            schema.FIT_GOODNESS: result.goodness,
            schema.FIT_FREEDOM: result.n_freedom,
        }
        writer.write_fit(words, **values)
        return start
    return None


def start_of(spec: RunSpec, events: NDArray) -> dict[str, Any] | None:
    """Where generators begin, as the state of a `Start`, from a fit that is made once more."""
    try:
        return _start_at(spec, _fit(spec, events))[0]
    except Exception:  # which the store knows already
        return None


def _start_at(spec: RunSpec, result: ScoreFit) -> tuple[dict[str, Any] | None, str]:
    """The state of a `Start`; or None, and why generators look for the answer themselves though they should not."""
    if not spec.begins_at_fit:
        return None, ""
    if any(finding.kind in (STRUCTURE, BOUND, SEVERAL, ARRIVED) for finding in result.findings):
        why = "it is in doubt where the answer is"
    elif result.notes:
        why = "generators cannot follow its differences"
    else:
        try:
            return result.start().state, ""
        except Exception as error:
            why = f"this failed: {type(error).__name__}: {error}"
    return None, f"Generators did not begin at the fit, because {why}: they explored the ranges and need more steps."


def _fit(spec: RunSpec, events: NDArray) -> ScoreFit:
    n_parameters, most = len(spec.problem.parameters), _MOST_TO_START if spec.begins_at_fit else _MOST_PARAMETERS
    if n_parameters > most:
        raise ValueError(
            f"{n_parameters} parameters are too many: a run makes the fit for up to {most}. fit(problem, events) makes "
            "it for any number, but it may take long."
        )
    return fit(spec.problem, events, seed=spec.seed)
