"""Checks of the answer to expect: do events agree with observed ones and the likelihood, and determine the parameters.

The statistics themselves, such as Fisher information, are in the package `statistics`; here are comparisons of them at
the point, with the events and the noise of a `Case`.
"""

import inspect
import math
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.special
import torch
from numpy.typing import NDArray
from torch import Tensor

from .._circular import circles, intervals
from ..problems.base import Problem, events_of
from ..problems.pipeline import Pipeline
from ..statistics.features import features_of
from ..statistics.fisher import fisher_information, information_and_score
from ..statistics.information import Information
from .case import Case
from .report import Remark, fix, note

_N_EVENTS = 20_000
_NO_CHANCE = 1e-6  # probability below which a difference is not a fluctuation
_OUTSIDE = 0.01  # fraction of observed events that may lie where no simulated one does
_LOST = 1.5  # standard deviation from the features, relative to that from the likelihood
_N_WAVES = 8
_COARSE, _FINE = 0.3, 0.1  # shifts of the answer by the grids, in standard deviations: largest allowed, and aimed at
_SEEN = 1e-9  # least information on a parameter, relative to that on the best known one


def observed(case: Case) -> Iterator[Remark]:
    """Observed values are where simulated ones are, and have their distribution if the truth is known."""
    from scipy.stats import ks_2samp  # takes a second to import

    problem = case.problem
    sample = case.around(case.events[: _N_EVENTS * problem.n_categories])
    if case.is_closure and problem.n_categories == 1:
        simulated = case.around(case.simulate(case.middle, case.independent_noise(_N_EVENTS))).numpy()
        for name, one, other in zip(problem.observables, sample.numpy().T, simulated.T, strict=True):
            test: Any = ks_2samp(one, other)  # SciPy gives its result no type
            if test.pvalue < _NO_CHANCE:
                yield fix(
                    f"{name}: observed events and those simulated at the truth have different distributions (the "
                    f"fractions below {test.statistic_location:.4g} differ by {test.statistic:.2f}). Noise is uniform "
                    "in [0, 1), not normal; or `observed` uses other formulas or units."
                )
        return
    t = torch.rand((64, len(case.width)), generator=case.random(), dtype=torch.float64)
    rows = case.independent_noise(64 * 512).view(64, 512, -1)
    simulated = case.around(torch.vmap(case.simulate)(problem.scale(t), rows).flatten(0, 1))
    outside = ((sample < simulated.amin(0)) | (sample > simulated.amax(0))).double().mean(0)
    for name, fraction in zip(problem.observables, outside.tolist(), strict=True):
        if fraction > _OUTSIDE:
            yield fix(
                f"{name}: {fraction:.0%} of the observed events lie where no simulated one does, for any parameters in "
                "their ranges. Compare units and selection; noise is uniform in [0, 1), not normal."
            )


def likelihood(case: Case) -> Iterator[Remark]:
    """The likelihood is that of the simulated events."""
    problem, theta = case.problem, case.middle
    if not problem.has_likelihood:
        yield note("there is no log_likelihood, so a run will have no reference fit to be compared with.")
        return
    statistic = problem.statistic(case.simulate(theta, case.independent_noise(_N_EVENTS)))
    score = torch.func.grad(problem.log_likelihood)(theta, statistic) * case.width
    matrix, pulls = _curvature(case, statistic)
    if not (score.isfinite().all() and matrix.isfinite().all()):
        yield fix("log_likelihood of events simulated at the same parameters, or its derivative, is not finite.")
        return
    step = torch.linalg.pinv(matrix, rtol=1e-9, hermitian=True) @ score
    distance = float(score @ step)
    if abs(distance) > scipy.special.chdtri(len(theta), _NO_CHANCE):
        moves = ", ".join(
            f"{name} by {move:+.2g}"
            for name, move in zip(problem.parameters, (step * case.width).tolist(), strict=True)
        )
        yield fix(
            f"log_likelihood is not that of simulate: for {_N_EVENTS} events simulated at known parameters, its "
            f"maximum is shifted: {moves}, which is {abs(distance) ** 0.5:.0f} standard deviations. Compare the "
            "formulas of the two."
        )
        return
    yield from _lost_information(case, matrix + pulls)


def _curvature(case: Case, statistic: Tensor) -> tuple[Tensor, Tensor]:
    """Information in the likelihood and in the constraints, in units of the ranges: (parameter, parameter) each."""
    problem, theta, width = case.problem, case.middle, case.width
    matrix = -torch.func.hessian(problem.log_likelihood)(theta, statistic) * torch.outer(width, width)
    pulls = torch.func.jacrev(lambda theta: problem.residuals(theta, statistic))(theta) * width
    return matrix, pulls.T @ pulls


def _lost_information(case: Case, matrix: Tensor) -> Iterator[Remark]:
    whole = Information(case.problem.parameters, case.width.numpy(), matrix.numpy())
    events = case.simulate(case.middle, case.independent_noise(_N_EVENTS))
    seen = _information(case.problem, case, events.numpy())
    ratio = seen.deviation / whole.deviation
    if np.nanmax(ratio, initial=0) > _LOST:
        worst = int(np.nanargmax(ratio))
        yield note(
            f"linear functions of the features determine {case.problem.parameters[worst]} with {ratio[worst]:.1f} "
            "times the standard deviation that the likelihood allows. The discriminator may find the rest, but slowly: "
            "add the derivatives of the log-density of an event to `features`."
        )


def _information(problem: Problem, case: Case, events: NDArray) -> Information:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # what it says is in the report
        return fisher_information(problem, case.middle, events)


def grids(case: Case) -> Iterator[Remark]:
    """Grids of a Pipeline, if there is one, are fine enough for this number of events."""
    problem, theta, rows = case.problem, case.middle, case.independent_noise(_N_EVENTS)
    finer = problem.refined(2)
    if finer is problem:
        if _makes_a_pipeline(problem):
            yield note(
                "simulate uses a Pipeline that is not an attribute of the class, so finer grids cannot be tried. Write "
                "pipeline = Pipeline(...) in the class, and self.pipeline.simulate(theta, noise) in simulate."
            )
        return
    events = events_of(finer, theta, rows)
    if torch.equal(events, case.simulate(theta, rows)):
        return
    per_event = len(case.events) / _N_EVENTS

    def by_features(problem):
        return information_and_score(problem, theta, events, _N_EVENTS, 0)[1]

    def by_likelihood(problem):
        return (torch.func.grad(problem.log_likelihood)(theta, statistic) * case.width).numpy()

    found = {"the answer": (_information(problem, case, case.events.numpy()), by_features)}
    if problem.has_likelihood:
        statistic = problem.statistic(events)
        matrix, pulls = _curvature(case, statistic)
        information = Information(problem.parameters, case.width.numpy(), (per_event * matrix + pulls).numpy())
        found["the likelihood fit"] = information, by_likelihood
    for what, (information, score) in found.items():
        moves = np.nan_to_num(information.step(per_event * (score(finer) - score(problem))))
        worst = abs(moves).max()
        if worst > _COARSE:
            n_times = math.ceil((4 / 3 * worst / _FINE) ** 0.5)  # errors fall with the square of the spacing
            listed = ", ".join(f"{name} by {one:+.2f}" for name, one in zip(problem.parameters, moves, strict=True))
            yield fix(
                f"the grids are too coarse for {len(case.events)} events: with grids twice as fine, {what} would move, "
                f"in standard deviations: {listed}. Use {n_times} times as many points, at least where the density is "
                "curved."
            )


def _makes_a_pipeline(problem: Problem) -> bool:
    """Whether the code of `simulate` names a Pipeline, or the class itself."""
    function = inspect.unwrap(type(problem).simulate)
    if not inspect.isfunction(function):
        return False
    named = [function.__globals__.get(name) for name in function.__code__.co_names]
    return any(one is Pipeline or isinstance(one, Pipeline) for one in named)


def parameters(case: Case) -> Iterator[Remark]:
    """Events and constraints determine all parameters."""
    names, events = case.problem.parameters, case.events.numpy()
    seen = _information(case.problem, case, events)
    if not seen.describe_undetermined():
        return
    stand_in: Any = _Richer(case.problem, case.events)
    richer = _information(stand_in, case, events)
    own = np.diag(richer.matrix)
    is_unseen = own <= _SEEN * own.max()
    for name in np.array(names)[is_unseen]:
        yield fix(f"{name} has no effect on the events or constraints. Use it in simulate, or remove it.")
    kept = np.flatnonzero(~is_unseen)
    rest = Information(
        tuple(names[k] for k in kept), richer.width[kept], richer.matrix[np.ix_(kept, kept)]
    ).describe_undetermined()
    if rest:
        yield fix(rest)
    elif not is_unseen.any():
        lost = ", ".join(name for name, one in zip(names, seen.deviation, strict=True) if np.isnan(one))
        yield note(
            f"linear functions of the features do not distinguish {lost}, though the events do. The discriminator must "
            "find the difference, slowly: let `features` return more, such as powers, logarithms or waves of the "
            "observables."
        )


class _Richer:
    """A problem with waves of its observables and their products as further features."""

    def __init__(self, problem: Problem, events: Tensor):
        self._problem, self._mean, self._spread = problem, events.mean(0), events.std(0).clamp(min=1e-12)
        self._features = features_of(problem, events)
        period = circles(problem.observables, intervals(problem))[1]
        self._period, self._is_periodic = torch.as_tensor(period).nan_to_num(1.0), torch.as_tensor(~np.isnan(period))

    def __getattr__(self, name: str):
        return getattr(self._problem, name)

    def features(self, events: Tensor) -> Tensor:
        """The problem's features and the waves, (..., observable) -> (..., feature)."""
        place = math.pi * torch.sigmoid(1.7 * (events - self._mean) / self._spread)
        k = torch.arange(1, _N_WAVES + 1).to(place)
        waves = torch.cos(place[..., None] * k)
        if self._is_periodic.any():  # cosine and sine of the angle, of twice the angle, and so on
            angle = 2 * math.pi * events / self._period
            around = torch.cos(angle[..., None] * ((k + 1) / 2).floor() - math.pi / 2 * ((k + 1) % 2))
            waves = torch.where(self._is_periodic[:, None], around, waves)
        waves = waves.flatten(-2)
        products = [(waves * waves.roll(_N_WAVES * k, -1)) for k in range(1, (len(self._mean) + 1) // 2 + 1)]
        return torch.cat([self._features(events), waves, *products], dim=-1)
