"""A fit without a likelihood: parameters at which a learned score has the same mean over simulated and observed events.

A scan of the ranges and a polish by the means of simple functions find the place, the score is learned there, and the
equation of the means is solved.  How the score is learned is in `score`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import scipy.special
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from .._circular import circles, intervals
from .._text import with_error
from ..events.resampling import check_events
from ..problems.arguments import require_arguments, require_fixed, require_start
from ..problems.base import Problem
from ..store.contributions import CONSTRAINTS, MEASUREMENTS, PRIORS, Contribution, by_group
from ..store.findings import Finding
from .basis import Basis, bases_of, coarse_bases_of
from .contributions import contributions_of
from .derivatives import wrong_derivatives
from .findings import NEAR, findings_of, moving_edges
from .goodness import goodness_of
from .score import Score, information_matrix
from .shifts import Shifts
from .simulated import Observation, Simulation
from .solve import AT_END, End, Solution, along_axes, also_solve, search, solve, units_of
from .start import Start
from .toys import Frozen, Toys

_LEAST_EVENTS = 100  # fewer say too little about the distribution of an observable
_N_SOME = 200_000  # observed events that are enough for a search
_FEW = 2  # waves for the comparison of derivatives
_LARGE = 0.1  # part of a standard deviation from which a contribution is printed
_POOR = 0.8  # information of a score, relative to the one before, below which it is learned once more
_GROWS = 5.0  # and, in these units, above which what can be learned may have no end
_N_ROUNDS = 8  # learn again, at most so many times, where the solution has moved


@dataclass(frozen=True, eq=False)
class ScoreFit:
    """What `fit` found.

    Parameters
    ----------
    parameters : tuple of str
        Names of the parameters.
    theta : ndarray (parameter,)
        The estimate, in the parameters' units.
    covariance : ndarray (parameter, parameter)
        Its covariance, by the sandwich formula: it is also valid where the model describes the events imperfectly.
    information : dict of str to float
        Information per event of the parts of the score on simulated events they were not learned from, as a fraction of
        what simple functions hold.
    goodness : float
        Chi-squared of the means of functions that the fit did not use.
    n_freedom : int
        Its degrees of freedom; 0 if nothing was tested.
    findings : tuple of Finding
        Reasons why the estimate should not be used as it is, the most basic one first: texts with a `kind`, such as
        "data" or "misfit".  Empty if none was found.
    period : ndarray (parameter,) or None
        Period of each parameter, NaN where it is not periodic; None if none is.
    notes : tuple of str
        What to know of the problem, such as derivatives of its events that are wrong; the estimate is not affected.
    contributions : tuple of Contribution
        What the standard deviations are made of: observed events, simulated events, and each piece of external
        knowledge.
    frozen : Frozen or None
        The score, which `toys`, `limits` and `shifts` need; None if the fit comes from a store.

    See Also
    --------
    fit : Make the fit.

    Examples
    --------
    >>> import numpy as np
    >>> from sagips_kit.statistics.fit import ScoreFit
    >>> result = ScoreFit(("a",), np.array([1.5]), np.array([[0.01]]), {}, 3.0, 4, ())
    >>> result.deviation, round(result.p_value, 2)
    (array([0.1]), 0.56)
    """

    parameters: tuple[str, ...]
    theta: NDArray[np.float64]
    covariance: NDArray[np.float64]
    information: dict[str, float]
    goodness: float
    n_freedom: int
    findings: tuple[Finding, ...]
    period: NDArray[np.float64] | None = None
    notes: tuple[str, ...] = ()
    contributions: tuple[Contribution, ...] = ()
    frozen: Frozen | None = field(default=None, repr=False)

    @property
    def deviation(self) -> NDArray[np.float64]:
        """ndarray (parameter,): Standard deviations, in the parameters' units."""
        return np.sqrt(np.diag(self.covariance))

    @property
    def p_value(self) -> float:
        """float: Probability of a worse goodness of fit if the model is right; NaN if nothing was tested."""
        return float(scipy.special.chdtrc(self.n_freedom, self.goodness)) if self.n_freedom else math.nan

    def toys(self, n_toys: int = 1000, seed: int = 0) -> Toys:
        """Repeat the fit on data sets that are simulated with the estimate, to see how good its intervals are.

        The score is not learned again, so this takes seconds to a minute.

        Parameters
        ----------
        n_toys : int
            Number of data sets, each of as many events as were observed.
        seed : int
            Seed of their events.

        Returns
        -------
        Toys
            Their estimates and deviations; `coverage()` is the fraction of the intervals that contain the truth.

        Raises
        ------
        ValueError
            If there are less than 2 data sets, or the result does not hold the score.
        """
        if n_toys < 2:
            raise ValueError(f"n_toys = {n_toys}: should be 2 or more, such as 1000.")
        return self._score().toys(n_toys, seed)

    def limits(self, level: float = 0.9) -> NDArray[np.float64]:
        """Confidence intervals that respect the ends of the ranges, as where these are physical limits.

        They are those of Feldman and Cousins for a measurement that is normally distributed, whose estimate may be
        beyond the end.  The ends of the ranges of other parameters are not taken into account.

        Parameters
        ----------
        level : float
            Confidence level, between 0 and 1.

        Returns
        -------
        ndarray (parameter, 2)
            Lower and upper limits, in the parameters' units; the end of a range where there is no limit before it.

        Raises
        ------
        ValueError
            If the level is not between 0 and 1, or the result does not hold the score.

        References
        ----------
        Feldman and Cousins, Phys. Rev. D 57, 3873 (1998), arXiv physics/9711021.

        Examples
        --------
        >>> import numpy as np
        >>> from sagips_kit import Linear, fit
        >>> problem = Linear(n_coefficients=1)
        >>> result = fit(problem, problem.observed(2000, np.random.default_rng(0)))
        >>> low, high = result.limits(0.68)[0]
        >>> round((high - low) / result.deviation[0])
        2
        """
        if not 0 < level < 1:
            raise ValueError(f"The level is {level}: should be between 0 and 1, such as 0.9.")
        return self._score().limits(level)

    def shifts(self, variations: Mapping[str, Problem | ArrayLike]) -> Shifts:
        """How the estimate would change if the events were others, as for a table of systematic errors.

        The score is not learned again, so this takes a second for each; shifts of more than 3 deviations are rough.

        Parameters
        ----------
        variations : mapping of str to array_like (event, observable) or Problem
            By name, the observed events with something changed, such as a scale, or the events of another generator;
            or a problem with another `simulate`, whose events with the estimate would take the place of this problem's.

        Returns
        -------
        Shifts
            The changes of the estimate, with their errors from the finite samples.  Print it for a table.

        Raises
        ------
        ValueError
            If the events do not fit the problem, a problem has other parameters or observables, or the result does not
            hold the score.

        Examples
        --------
        >>> import numpy as np
        >>> from sagips_kit import Linear, fit
        >>> problem = Linear(n_coefficients=1)
        >>> events = problem.observed(2000, np.random.default_rng(0))
        >>> found = fit(problem, events).shifts({"one part in 1000 more": 1.001 * events})
        >>> found.shift.shape, found.variations
        ((1, 1), ('one part in 1000 more',))
        """
        return self._score().shifts(variations)

    def _score(self) -> Frozen:
        if self.frozen is None:
            raise ValueError("This result holds no score. Type result = fit(problem, events) again.")
        return self.frozen

    def start(self) -> Start:
        """Where generators begin that start at this fit: for `Trainer(..., start=result.start())`.

        Returns
        -------
        Start
            The score, and the fit of each chain's resample.

        Raises
        ------
        ValueError
            If the result does not hold the score, or parameters were fixed.
        """
        frozen = self._score()
        if len(self.parameters) < len(frozen.simulation.problem.parameters):
            raise ValueError("Generators make all parameters: type result = fit(problem, events) without fixed.")
        return Start.of(frozen.simulation.problem, frozen.observed, frozen.score, frozen.solution)

    def _parts(self) -> list[str]:
        """What each standard deviation is made of, if not of the events alone."""
        groups, parts = by_group(self.contributions), [""] * len(self.parameters)
        if {CONSTRAINTS, PRIORS, MEASUREMENTS} & groups.keys():
            for k, deviation in enumerate(self.deviation):
                large = {name: sizes[k] for name, sizes in groups.items() if sizes[k] > _LARGE * deviation}
                parts[k] = f"  ({', '.join(f'{name} {size:.2g}' for name, size in large.items())})"
        return parts

    def __str__(self) -> str:
        width = max(map(len, self.parameters))
        rows = zip(self.parameters, self.theta, self.deviation, strict=True)
        lines = [f"{name:{width}}  {with_error(value, deviation)}" for name, value, deviation in rows]
        lines = [f"{line}{parts}" for line, parts in zip(lines, self._parts(), strict=True)]
        tested = f"chi-squared {self.goodness:.1f} / {self.n_freedom}, p = {self.p_value:.2g}"
        lines.append(f"goodness of fit: {tested if self.n_freedom else 'not tested'}")
        lines += [f"NOT RELIABLE: {text}" for text in self.findings]
        return "\n".join([*lines, *(f"note: {text}" for text in self.notes)])


def fit(
    problem: Problem,
    events: ArrayLike,
    *,
    start: Mapping[str, float] | None = None,
    fixed: Mapping[str, float] | None = None,
    seed: int = 0,
) -> ScoreFit:
    """Fit the parameters to observed events by a score learned from the simulator; no likelihood is needed.

    The score, the derivative of the log-density of an event with respect to the parameters, holds all information that
    an event has.  It is learned from simulated events and their derivatives, near the solution; the estimate is where
    its means over simulated and observed events agree, together with constraints, priors and measurements.  This takes
    2 to 20 s for a few parameters.

    What speaks against the estimate is reported in `findings`: repeated events, values that the simulation does not
    reach, an edge that moves with a parameter, what the events do not determine, ends of ranges, halves of the events
    that disagree, several answers, and a model that does not fit.

    Parameters
    ----------
    problem : Problem
        Where the derivative of its `simulate` is missing or is not that of the events, differences of events are used
        instead, and `notes` says so.  Its `features` and `log_likelihood` are not used.
    events : array_like (event, observable)
        Observed events, 100 or more.
    start : mapping of str to float, optional
        Values of all parameters that are not fixed, near which an answer is looked for.  By default all ranges are
        searched, which finds other answers, too.
    fixed : mapping of str to float, optional
        Parameters that keep the given values; the result has only the others.
    seed : int
        Seed of the simulated events and of the network.

    Returns
    -------
    ScoreFit
        Estimate, covariance, goodness of fit, and the findings that speak against using them.  Estimates of periodic
        parameters are inside their ranges, which have no ends.

    Raises
    ------
    ValueError
        If the events do not fit the problem, are too few, no place in the ranges gives finite events, or `start` or
        `fixed` name what is no parameter, or values outside its range.

    See Also
    --------
    fit_likelihood : The fit of a problem that declares a likelihood.
    fisher_information : Deviations that the problem's own features allow.

    References
    ----------
    The local score of simulators with likelihood-ratio weights: Brehmer et al., arXiv 1805.12244.

    Examples
    --------
    >>> import numpy as np
    >>> from sagips_kit import Linear, fit
    >>> problem = Linear(n_coefficients=1)
    >>> events = problem.observed(2000, np.random.default_rng(0))
    >>> result = fit(problem, events)
    >>> mean, covariance = problem.posterior(events)
    >>> np.allclose(result.theta, mean, atol=0.1 * np.sqrt(covariance[0, 0])), result.findings
    (True, ())
    """
    require_arguments("fit(problem, events)", problem, events)
    fixed = require_fixed(problem, {} if fixed is None else fixed)
    start = None if start is None else require_start(problem, start, fixed)
    checked = check_events(problem, events).astype(np.float64)
    if len(checked) < _LEAST_EVENTS:
        raise ValueError(f"{len(checked)} events are too few: fit needs {_LEAST_EVENTS} or more.")
    observed = Observation(problem, checked)
    simulation = Simulation(problem, problem.statistic(observed.events), seed, fixed)
    bases = bases_of(observed.coordinates)
    plain, more = coarse_bases_of(observed.coordinates)
    # Positions see where events are rare, as many parameters need; far from the solution they may mislead a search.
    n_functions = plain(observed.coordinates(observed.events[:1], category=observed.category[:1])[0]).shape[1]
    coarse = plain if n_functions > 2 * len(simulation.parameters) else more
    some, few = observed.some(_N_SOME), Basis(observed.coordinates, _FEW)
    place = None
    if start is not None:
        given = [start[name] for name in simulation.parameters]
        place = simulation.t_of(torch.tensor(given, dtype=torch.float64))
    places = _search(simulation, some, coarse, place)
    wrong = list(simulation.parameters)
    if not simulation.uses_differences:
        wrong = _wrong(simulation, some, few, places[0])
        if wrong:
            simulation.uses_differences = True
            places = search(simulation, some, coarse, place)
    score, solution, axes, edges = _learn(simulation, observed, some, bases, coarse, places[0], seed)
    # Far from the solution the derivative may be right.
    if not wrong and (wrong := _wrong(simulation, observed, few, solution)):
        simulation.uses_differences = True
        places = search(simulation, some, coarse, place)
        score, solution, axes, edges = _learn(simulation, observed, some, bases, coarse, places[0], seed)
    others = also_solve(simulation, some, score, solution, axes, [place.t for place in places[1:]])
    goodness = goodness_of(simulation, observed, score, plain, solution)
    findings = findings_of(simulation, observed, solution, others, goodness, edges)
    t = solution.t
    scale = simulation.scale(t).numpy()
    period = circles(simulation.parameters, intervals(problem))[1] if problem.periodic else None
    return ScoreFit(
        simulation.parameters,
        simulation.theta(t).numpy(),
        solution.covariance.numpy() * np.outer(scale, scale),
        score.gains,
        *goodness,
        tuple(findings),
        period,
        tuple(_notes(problem, wrong, start, fixed)),
        tuple(contributions_of(simulation, solution)),
        Frozen(simulation, observed, score, solution, period),
    )


def _search(simulation: Simulation, observed: Observation, basis: Basis, start: Tensor | None) -> list[End]:
    """Search by derivatives, or by differences if derivatives are not finite."""
    try:
        return search(simulation, observed, basis, start)
    except ValueError:
        if simulation.uses_differences:
            raise
        simulation.uses_differences = True
        return search(simulation, observed, basis, start)


def _wrong(simulation: Simulation, observed: Observation, basis: Basis, place: End | Solution) -> list[str]:
    """Parameters whose derivative is wrong."""
    deviation = units_of(place.information, observed.n)
    return wrong_derivatives(simulation, observed, basis, place.t, deviation)


def _notes(
    problem: Problem, wrong: list[str], start: Mapping[str, float] | None, fixed: Mapping[str, float]
) -> list[str]:
    """What to know of what was asked for, and of parameters whose derivative is wrong."""
    notes = []
    if fixed:
        values = ", ".join(f"{name} = {value:.7g}" for name, value in fixed.items())
        notes.append(f"Fixed: {values}. The deviations of the others do not include what is not known of it.")
    if start is not None:
        notes.append("Only the answer near the given start was looked for. Without start, all ranges are searched.")
    if wrong:
        notes.append(
            f"The derivative of {type(problem).__name__}.simulate with respect to {', '.join(wrong)} is not that of "
            "its events: where, round, cuts and counts have none. The fit uses differences of events instead. Training "
            "would need the derivative: make the events move smoothly with the parameters; check_problem shows an "
            "example."
        )
    return notes


def _learn(
    simulation: Simulation,
    observed: Observation,
    used: Observation,
    bases: list[Basis],
    coarse: Basis,
    place: End,
    seed: int,
) -> tuple[Score, Solution, Tensor, list[str]]:
    """Learn the score and solve its equation, in turns; also the axes along which it was learned, and moving edges.

    Only the last solution uses all observed events; those before it, some.
    """
    t, information, is_learned, is_rough = place.t, place.information, False, True
    for _ in range(_N_ROUNDS):
        axes, sample = along_axes(simulation, used, coarse, t, information, is_learned)
        simulation.uses_differences = sample.differences is not None
        least = _POOR * _of_events(simulation, used, t, information, axes) if is_learned else 0.0
        score = Score(sample, bases, seed, is_rough, least)
        if score.information < least:  # a network may find nothing where another does
            score = max(score, Score(sample, bases, seed + 1, is_rough, least), key=lambda one: one.information)
        solution = solve(simulation, used, score, t, axes)
        if solution.step > 1 and not is_learned:  # it ran away: learn again at this place, with what is known now
            inverse = torch.linalg.inv(axes)
            pulls = simulation.pulls(t)
            information = used.n * inverse.T @ information_matrix(score, sample) @ inverse + pulls.T @ pulls
            is_learned = True
            continue
        grows = is_learned and score.information > _GROWS * least
        edges, is_last = _state(simulation, used, score, solution, axes, grows)
        if is_last and used is not observed:
            used = observed
            solution = solve(simulation, used, score, solution.t, axes)
            edges, is_last = _state(simulation, used, score, solution, axes, grows)
        if is_last:
            break
        t, information, is_learned = solution.t, solution.information, True
        is_rough = is_rough and not _is_near(solution, axes, used.n)
    return score, solution, axes, edges


def _of_events(simulation: Simulation, used: Observation, t: Tensor, information: Tensor, axes: Tensor) -> float:
    """Information per event and direction that a score had, without that of residuals."""
    pulls = simulation.pulls(t)
    return float((axes.T @ (information - pulls.T @ pulls) @ axes).trace()) / (used.n * len(t))


def _state(
    simulation: Simulation, used: Observation, score: Score, solution: Solution, axes: Tensor, grows: bool
) -> tuple[list[str], bool]:
    """Moving edges at a solution, and whether to learn once more would not help.

    Next to a moving edge every score can be improved, without end; a solution at an end of the ranges is pushed there.
    """
    edges = moving_edges(simulation, used.n, solution, grows) if solution.move < 1 else []
    is_stuck = bool(edges) or bool(simulation.is_near_an_end(solution.t, AT_END).any())
    return edges, is_stuck or (score.is_complete and _is_near(solution, axes, used.n))


def _is_near(solution: Solution, axes: Tensor, n: int) -> bool:
    """Whether a score was learned near its solution, along directions that are as long as its deviations."""
    is_long = float(torch.linalg.eigvalsh(axes.T @ solution.information @ axes).max()) < 2 * n
    return solution.move < NEAR and is_long
