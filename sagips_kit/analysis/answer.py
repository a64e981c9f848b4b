"""The answer of a run, and whether it may be used: what speaks against it, what was tested, and what was not."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr

from ..store import diagnostics, schema
from ..store.findings import ARRIVED, BOUND, FAILED, SPREAD, STRUCTURE, Finding, in_order
from ..store.status import RunStatus
from ..store.witnesses import MOST_STRETCH, SEEN, stretch
from .base import (
    began_at_fit,
    circles_of,
    difference,
    for_each_run,
    gathered,
    group_of,
    rms,
    settings_of,
    witness_rows,
    witnesses_of,
)
from .estimates import estimate
from .fits import Reference, fit, fit_words, reference_of

RELIABLE, DOUBTFUL, NOT_RELIABLE, NOT_TESTED = "no fault found", "doubtful", "not reliable", "not tested"
_DOUBTFUL, _FAR = 0.5, 1.0  # RMS distances of the chains' mean from the fit, in deviations
_BESIDE = 0.5  # deviations (times `stretch`) from their fits from which witnesses that come back say something
_HARDLY = 0.1  # fraction of the way back that witnesses should move at least
_LEFT_BEHIND, _HALF_WAY = 0.8, 0.6  # fractions of their first distance at which witnesses have not come back
_APART = 1.0  # joint distance of two fits of the same events that counts
_MOVED = 1.0  # standard deviations moved in the second half of the run that count
_BY_CHANCE = 1e-3  # probability below which a spread of the chains is not that of the fit
_UNLIKE = 1.3  # ratio of the two, from which it counts if it is not by chance
# Names of the tests, as they are stored, and what the headline says of each
_GOODNESS, _APART_FROM_LIKELIHOOD = "goodness of fit, p-value", "joint distance of the fit from the likelihood fit"
_ARRIVED_AT = "RMS distance of the chains from the fit, deviations"
_STAYED = "RMS distance of the other chains from their fits, deviations"
_BEGAN, _ENDED = "RMS distance of the witnesses from their fits, deviations: at first", "at last"
_SCATTER = "spread of the chains over the deviation of the fit"
_IN_WORDS = {
    _GOODNESS: "goodness of fit p = {:.2g}",
    _APART_FROM_LIKELIHOOD: "the likelihood fit is {:.2g} deviations away",
    _ARRIVED_AT: "the chains ended {:.2g} deviations from the fit",
    _STAYED: "chains that began at the fit ended {:.2g} deviations from it",
    _BEGAN: "witnesses, which began {:.2g} deviations away,",
    _ENDED: "came back to {:.2g}",
    _SCATTER: "the chains scatter by {:.2g} of its deviations",
}
_KIND_OF = {"diverged": FAILED, "saturated": ARRIVED, "lower": BOUND, "upper": BOUND}


@dataclass(frozen=True)
class Verdict:
    """Whether a result may be used.

    Parameters
    ----------
    findings : sequence of Finding
        What makes the result unreliable, the most basic reason first.  Each is a text with a `kind`.
    doubts : sequence of Finding
        What should be looked at before the result is used.
    not_tested : sequence of str
        What could not be tested, and why.
    tests : dict of str to float
        What was measured, in words, and the number.

    See Also
    --------
    verdict : The verdict on a run.

    Examples
    --------
    >>> from sagips_kit.analysis.answer import Verdict
    >>> print(Verdict((), (), (), {"goodness of fit, p-value": 0.43}))
    NO FAULT FOUND: goodness of fit p = 0.43. No test sees a misfit that a parameter absorbs.
    """

    findings: Sequence[Finding]
    doubts: Sequence[Finding]
    not_tested: Sequence[str]
    tests: dict[str, float]

    @property
    def state(self) -> str:
        """str: "not reliable", "doubtful", "not tested" or "no fault found"."""
        if self.findings:
            return NOT_RELIABLE
        return DOUBTFUL if self.doubts else NOT_TESTED if self.not_tested else RELIABLE

    @property
    def headline(self) -> str:
        """str: The state and the most basic reason for it, or what was tested, in one line."""
        first = [*self.findings, *self.doubts]
        if first:
            others = [*dict.fromkeys(one.kind for one in first[1:] if one.kind != first[0].kind)]
            others += [NOT_TESTED] if self.not_tested else []
            also = f" (also: {', '.join(others)})" if others else ""
            return f"{self.state.upper()} ({first[0].kind}): {first[0]}{also}"
        if self.not_tested:
            return f"{self.state.upper()}: {self.not_tested[0]}"
        tests = "; ".join(_IN_WORDS[name].format(value) for name, value in self.tests.items()).replace(",;", ",")
        return f"{self.state.upper()}: {tests}. No test sees a misfit that a parameter absorbs."

    def sentences(self) -> list[str]:
        """Everything that speaks against the result, the most basic reason first.

        Returns
        -------
        list of str
            Findings, doubts, and what was not tested.
        """
        return [*self.findings, *self.doubts, *self.not_tested]

    def to_dict(self) -> dict[str, Any]:
        """The verdict as JSON values, as it is stored.

        Returns
        -------
        dict
            state, headline, findings and doubts (each a dict of kind and text), not_tested and tests.
        """
        return {
            "state": self.state,
            "headline": self.headline,
            "findings": [one.to_dict() for one in self.findings],
            "doubts": [one.to_dict() for one in self.doubts],
            "not_tested": list(self.not_tested),
            "tests": {name: value if math.isfinite(value) else None for name, value in self.tests.items()},
        }

    def __str__(self) -> str:
        lines = [f"{NOT_RELIABLE.upper()} ({one.kind}): {one}" for one in self.findings]
        lines += [f"{DOUBTFUL.upper()} ({one.kind}): {one}" for one in self.doubts]
        lines += [f"{NOT_TESTED.upper()}: {text}" for text in self.not_tested]
        return "\n".join(lines or [self.headline])


@dataclass(frozen=True)
class _Collected:
    """The parts of a verdict while they are collected; as those of `Verdict`."""

    findings: list[Finding] = field(default_factory=list)
    doubts: list[Finding] = field(default_factory=list)
    not_tested: list[str] = field(default_factory=list)
    tests: dict[str, float] = field(default_factory=dict)

    def verdict(self) -> Verdict:
        return Verdict(tuple(in_order(self.findings)), tuple(in_order(self.doubts)), tuple(self.not_tested), self.tests)


@for_each_run
def verdict(run: xr.DataTree) -> Verdict:
    """Whether the result of a run may be used.

    It rests on the tests of the fit by the learned score, and on the chains, which found their way to the answer
    without it: whether they arrived where the fit is, have the spread that it expects, and no longer move.  Of chains
    that began at the fit only the witnesses can confirm it, which began elsewhere and should have come back.  A
    discriminator that cannot tell generated from observed events is no such test: it hardly sees a result that is a
    whole deviation off.

    Parameters
    ----------
    run : DataTree
        One run, or several of `open_runs`; they may still be running.

    Returns
    -------
    Verdict
        Its `state` is "not reliable", "doubtful", "not tested" or "no fault found"; printed, it shows all reasons.  For
        several runs a DataArray of these.

    See Also
    --------
    fit : The fit by the learned score.
    estimate : The estimates of the chains beside it.

    Examples
    --------
    >>> from sagips_kit import analysis, open_run
    >>> found = analysis.verdict(open_run("runs/proxy.zarr"))
    >>> found.state, sorted({finding.kind for finding in found.findings})
    ('not reliable', ['not arrived'])
    """
    found, complaints, status = _Collected(), _complaints(run), RunStatus.from_run(run)
    _of_the_fit(run, found)
    if began_at_fit(run):  # which has looked at the ends of the ranges, in deviations
        complaints = {kind: text for kind, text in complaints.items() if kind not in ("lower", "upper")}
    found.findings.extend(Finding(_KIND_OF[kind], text) for kind, text in complaints.items())
    if status.state != "finished":
        earlier = schema.layout_of(run.attrs).earlier
        of = f" Those that are stored are of step {earlier[-1]}, from which it was continued." if earlier else ""
        found.not_tested.append(f"The chains are tested at the end of the run; it is at {status}.{of}")
    elif "diverged" not in complaints:
        _of_the_chains(run, found)
    return found.verdict()


def _of_the_fit(run: xr.DataTree, found: _Collected) -> None:
    """Add what the fit by the learned score says, and whether the likelihood fit agrees."""
    words = fit_words(run)
    if words["state"] == schema.FAILED:
        found.findings.append(Finding(FAILED, f"The fit by the learned score failed: {words['reason']}"))
        return
    if words["state"] != schema.MADE:
        reason = words["reason"].rstrip(".")
        found.not_tested.append(f"There is no fit by the learned score, whose tests find most faults: {reason}.")
        return
    found.findings.extend(words["findings"])
    found.doubts.extend(Finding(STRUCTURE, text) for text in words["notes"])
    if words.get("start"):
        found.not_tested.append(words["start"])
    values = fit(run)
    if values["n_freedom"].item() > 0:
        found.tests[_GOODNESS] = values["p_value"].item()
    else:
        found.not_tested.append(
            "The goodness of fit was not tested, because no function is left that the fit does not use."
        )
    _of_the_likelihood(run, values, found)


def _of_the_likelihood(run: xr.DataTree, values: xr.Dataset, found: _Collected) -> None:
    """Add whether the fit by the learned score is where the likelihood fit is, if there is one."""
    likelihood = group_of(run, schema.REFERENCE)[list(schema.LIKELIHOOD_FIT)].load()
    if not likelihood[schema.MLE].notnull().any():
        return
    if not all(variable.notnull().all() for variable in likelihood.values()):
        found.not_tested.append("The fit against the likelihood fit, because this does not determine all parameters.")
        return
    apart = difference(values["fit"], likelihood[schema.MLE], circles_of(run)[1])
    # In units of the larger covariance: a fit that uses less information may be farther away.
    distance = _joint(apart.values, values["covariance"].values)
    found.tests[_APART_FROM_LIKELIHOOD] = distance
    if distance > _APART and not found.findings:
        found.findings.append(
            Finding(
                ARRIVED,
                f"The fit by the learned score and the likelihood fit of the same events are {distance:.1f} deviations "
                "apart (jointly, per parameter): one of them is wrong. check_problem(problem, events) compares "
                "log_likelihood with simulate.",
            )
        )


def _joint(apart: np.ndarray, covariance: np.ndarray) -> float:
    """Length of a difference per parameter, in units of a covariance."""
    weighted = np.linalg.pinv(covariance, hermitian=True) @ apart
    return math.sqrt(max(0.0, apart @ weighted) / len(apart))


def _of_the_chains(run: xr.DataTree, found: _Collected) -> None:
    """Add what the chains of a finished run say."""
    n_chains, chains = schema.layout_of(run.attrs).n_chains, group_of(run, schema.POSTERIOR).load()
    n_wanted = n_chains - int(witnesses_of(run).sum())
    if (n_written := chains.dropna(schema.CHAIN, how="all").sizes[schema.CHAIN]) < n_wanted:
        found.findings.append(Finding(FAILED, f"Only {n_written} of {n_wanted} chains are finite numbers."))
        return
    if not settings_of(run).get("bootstrap", True):
        found.not_tested.append(
            "The spread of the chains, because all learned from the same events (bootstrap=False), so that it is no "
            "standard deviation."
        )
    values = estimate(run)
    reference = reference_of(run)
    moving = _still_moving(run, values, reference)
    if not reference.name:
        found.not_tested.append(
            "Whether the chains have arrived: there is neither a likelihood fit nor one by the learned score."
        )
        found.findings.extend(Finding(ARRIVED, text) for text in moving)
        return
    if began_at_fit(run):
        _of_the_witnesses(run, found)
        found.doubts.extend(Finding(ARRIVED, text) for text in moving)
        return
    name = "likelihood fit" if reference.name == "mle" else "fit by the learned score"
    to = values["to_mle" if reference.name == "mle" else "to_fit"]
    if not to.notnull().all():
        found.not_tested.append(f"Whether the chains have arrived: the {name} does not determine all parameters.")
        return
    found.tests[_ARRIVED_AT] = distance = float(rms(to))
    worst = int(np.argmax(abs(to.values)))
    text = (
        f"The mean of the chains is {distance:.3g} deviations from the {name} (RMS; most in "
        f"{to[schema.PARAMETER].values[worst]}, {to.values[worst]:+.3g}), so they do not "
        "confirm it. Train longer (n_steps)."
    )
    if distance > _FAR:
        found.findings.append(Finding(ARRIVED, text))
    elif distance > _DOUBTFUL:
        found.doubts.append(Finding(ARRIVED, text))
    found.doubts.extend(Finding(ARRIVED, text) for text in moving)
    if n_chains == 1:
        found.not_tested.append(
            "The spread of the chains, because there is one. Use more members (Settings.n_members)."
        )
        return
    if (text := _of_the_spread(run, values, reference, name, found.tests)) and distance <= _FAR:
        found.doubts.append(Finding(SPREAD, text))


def _of_the_witnesses(run: xr.DataTree, found: _Collected) -> None:
    """Add what the chains say of a run whose generators began at the fits of their own resamples.

    Only witnesses, which began elsewhere and whose discriminators do not see the score, can confirm these.
    """
    reference, deviation = group_of(run, schema.REFERENCE).load(), fit(run)["deviation"]

    def distance(places: xr.DataArray) -> np.ndarray:
        return rms(difference(places, reference[schema.CHAIN_FIT], circles_of(run)[1]) / deviation).values

    began, ended = distance(reference[schema.CHAIN_START]), distance(reference[schema.CHAIN_END])
    is_witness = witnesses_of(run)
    if not is_witness.any():
        found.not_tested.append(
            "Whether chains that begin elsewhere come back to the fit: a run of fewer than 3 chains has no witness. "
            "Use more members (Settings.n_members)."
        )
        return
    others = ended[~is_witness]
    found.tests[_STAYED] = left = math.sqrt((others**2).mean())
    if left > _DOUBTFUL:
        text = (
            f"The chains that began at the fits of their events left them by {left:.2g} deviations (RMS): their "
            "discriminators see something else than the fit, or learn too fast (discriminator_rate)."
        )
        found.doubts.append(Finding(ARRIVED, text))
    away, back = (math.sqrt((values[is_witness] ** 2).mean()) for values in (began, ended))
    change = difference(reference[schema.CHAIN_END], reference[schema.CHAIN_START], circles_of(run)[1])
    moved = math.sqrt((rms(change / deviation).values[is_witness] ** 2).mean())
    n_at_first, n_seen, wanted = _events_of_a_generator(run)
    if away < stretch(n_at_first) * _BESIDE:
        found.not_tested.append(
            f"Whether chains that begin elsewhere come back to the fit: the witnesses began only {away:.1g} deviations "
            "from it, because the ranges or constraints leave them no room."
        )
        return
    found.tests[_BEGAN] = away
    found.tests[_ENDED] = back
    text = (
        f"The witnesses, chains that began {away:.2g} deviations from the fits of their events, ended {back:.2g} from "
        "them (RMS)"
    )
    farther = stretch(n_seen)
    if back <= farther * _DOUBTFUL and back <= _HALF_WAY * away:
        return
    if n_seen * MOST_STRETCH**2 < SEEN:
        found.not_tested.append(
            f"Whether chains that begin elsewhere come back to the fit: the witnesses learned from {n_seen:.2g} times "
            f"as many events as were observed, and need at least {SEEN / MOST_STRETCH**2:.2g} times as many: "
            f"n_steps={wanted}, larger n_events, or more ranks that share a generator."
        )
    elif moved < _HARDLY * away:
        found.findings.append(Finding(ARRIVED, f"{text}: generators hardly moved. Train longer (n_steps)."))
    elif left > _DOUBTFUL:
        found.findings.append(Finding(ARRIVED, f"{text}, and the others left theirs: the fit may be wrong."))
    elif back > farther * _FAR or back > max(farther * _DOUBTFUL, _LEFT_BEHIND * away):
        text += ": they do not confirm the fit. Train longer (n_steps); if that does not help, only the learned score "
        found.doubts.append(Finding(ARRIVED, f"{text}sees these parameters."))
    else:
        found.doubts.append(Finding(ARRIVED, f"{text}: they confirm the fit only in part. Train longer (n_steps)."))


def _events_of_a_generator(run: xr.DataTree) -> tuple[float, float, int]:
    """Events that a generator sees, relative to the observed ones: in the first segment and in all; and in how many
    steps it sees enough for a test.
    """
    layout, n_observed = schema.layout_of(run.attrs), group_of(run, schema.OBSERVED).sizes[schema.EVENT]
    per_step = settings_of(run).get("n_events", 0) * layout.n_ranks / layout.n_replicas / n_observed
    at_first = min(layout.earlier, default=layout.n_steps)
    return at_first * per_step, layout.n_steps * per_step, math.ceil(SEEN / MOST_STRETCH**2 / max(per_step, 1e-9))


def _of_the_spread(
    run: xr.DataTree, values: xr.Dataset, reference: Reference, name: str, tests: dict[str, float]
) -> str:
    """A sentence if the chains have another spread than their reference expects; empty if not."""
    if not settings_of(run).get("bootstrap", True):
        return ""
    from scipy.special import chdtr, chdtrc  # takes a third of a second to import

    squares = ((values["deviation"] / reference.deviation) ** 2).values
    tests[_SCATTER] = ratio = math.sqrt(float(squares.mean()))
    key = schema.COVARIANCE if reference.name == "mle" else schema.FIT_COVARIANCE
    covariance = group_of(run, schema.REFERENCE)[key].values
    deviation = np.sqrt(np.diag(covariance))
    eigenvalues = np.linalg.eigvalsh(covariance / np.outer(deviation, deviation))
    # As many degrees of freedom as a sum of correlated squares has
    n_freedom = (int(values["n_chains"]) - 1) * eigenvalues.sum() ** 2 / (eigenvalues**2).sum()
    p_value = 2 * min(law(n_freedom, ratio**2 * n_freedom) for law in (chdtr, chdtrc))
    if 1 / _UNLIKE < ratio < _UNLIKE or not p_value < _BY_CHANCE:
        return ""
    return (
        f"The chains, which learn from resampled events, scatter by {ratio:.2g} times the deviations of the {name}, "
        f"with an error of {1 / math.sqrt(2 * n_freedom):.0%}. If by more, they have not settled: train longer "
        "(n_steps). If by less, they are not independent, or hardly move."
    )


def _still_moving(run: xr.DataTree, values: xr.Dataset, reference: Reference) -> list[str]:
    """Parameters that moved in the second half of the run."""
    history, (names, _) = group_of(run, schema.HISTORY)[schema.THETA], schema.names_of(run.attrs)
    generators, (low, period) = (schema.RANK, schema.MEMBER), circles_of(run)
    rows = gathered(history.isel({schema.STEP: [history.sizes[schema.STEP] // 2, -1]}), generators, low, period)
    rows = rows.where(~witness_rows(run)).stack(chain=generators)
    half, end = rows.mean("chain").transpose(schema.STEP, ...)
    moved = np.abs(difference(end, half, period).values)
    deviation = values["deviation"].values  # NaN for a single chain
    deviation = np.where(np.isfinite(deviation), deviation, reference.deviation.values)
    with np.errstate(divide="ignore", invalid="ignore"):  # if all chains are equal
        moved = moved / deviation
    if not (moved > _MOVED).any():
        return []
    found = ", ".join(f"{names[k]} ({moved[k]:.1f})" for k in np.argsort(-moved) if moved[k] > _MOVED)
    return [
        f"In the second half of the run these parameters moved by more than a standard deviation: {found}. The run may "
        "not have arrived, and then its standard deviations mean nothing. Train longer (n_steps), or look for "
        "parameters that the events hardly determine."
    ]


def _complaints(run: xr.DataTree) -> dict[str, str]:
    """What the last rows of the history agree on, by the kinds of `diagnostics`."""
    history, reference = group_of(run, schema.HISTORY), group_of(run, schema.REFERENCE)
    last = history[schema.STEP] <= history[schema.PROGRESS].min()
    rows = (
        history[[schema.THETA, schema.LOSS_DISCRIMINATOR]]
        .sel({schema.STEP: last})
        .isel({schema.STEP: slice(-diagnostics.N_ROWS, None)})
    )
    if rows.sizes[schema.STEP] < diagnostics.N_ROWS:
        return {}
    rows = rows.load().stack(generator=(schema.RANK, schema.MEMBER))
    return diagnostics.complaints(
        rows[schema.THETA].transpose(schema.STEP, "generator", schema.PARAMETER).values,
        rows[schema.LOSS_DISCRIMINATOR].transpose(schema.STEP, "generator").values,
        reference[schema.LOWER].values,
        reference[schema.UPPER].values,
        schema.names_of(run.attrs)[0],
        settings_of(run).get("loss", "likelihood"),
        schema.intervals_of(group_of(run, schema.POSTERIOR).attrs),
    )
