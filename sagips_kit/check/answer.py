"""What the events tell: do they fit to the observed ones, to the likelihood, and do they know the parameters."""

import math
import time
import warnings

import numpy as np
import scipy.stats
import torch

from ..problems.samplers import finer_grids
from ..statistics.fisher import fisher_information, information_and_score
from ..statistics.information import Information
from ..training.networks import Discriminator
from ..training.settings import Settings
from .report import mend, note

_N_EVENTS = 20_000
_NO_CHANCE = 1e-6  # probability below which a difference is no accident
_OUTSIDE = 0.01  # fraction of observed events that may lie where no simulated one does
_SLOW = 20.0  # times the networks' own time, from where on the simulation should be looked at
_LOST = 1.5  # deviation by the features, relative to that by the likelihood
_N_WAVES = 8
_COARSE, _FINE = 0.3, 0.1  # deviations: by which grids may move the answer, and at which new ones aim
_SEEN = 1e-9  # information, relative to the best known parameter's


def observed(case):
    """Observed events look like simulated ones."""
    problem = case.problem
    sample = case.events[: _N_EVENTS * problem.n_categories]
    if case.is_closure and problem.n_categories == 1:
        simulated = problem.simulate(case.middle, _uniform(case, _N_EVENTS)).numpy()
        for name, one, other in zip(problem.observables, sample.numpy().T, simulated.T, strict=True):
            test = scipy.stats.ks_2samp(one, other)
            if test.pvalue < _NO_CHANCE:
                yield mend(
                    f"{name}: observed events and those simulated at the truth have different distributions (the "
                    f"fractions below {test.statistic_location:.4g} differ by {test.statistic:.2f}). Noise is uniform "
                    "in [0, 1), not normal; or `observed` uses other formulas or units."
                )
        return
    t = torch.rand((64, len(case.width)), generator=case.random(), dtype=torch.float64)
    rows = _uniform(case, 64 * 512).view(64, 512, -1)
    simulated = torch.vmap(problem.simulate)(problem.scale(t), rows).flatten(0, 1)
    outside = ((sample < simulated.amin(0)) | (sample > simulated.amax(0))).double().mean(0)
    for name, fraction in zip(problem.observables, outside.tolist(), strict=True):
        if fraction > _OUTSIDE:
            yield mend(
                f"{name}: {fraction:.0%} of the observed events lie where no simulated one does, for any parameters in "
                "their ranges. Compare units and selection; noise is uniform in [0, 1), not normal."
            )


def _uniform(case, n_events):
    return torch.rand((n_events, case.problem.noise_dim), generator=case.random(), dtype=torch.float64)


def likelihood(case):
    """The likelihood is that of the simulated events."""
    problem, theta = case.problem, case.middle
    if not problem.has_likelihood:
        yield note("no log_likelihood: a run will have no reference fit to be compared with.")
        return
    statistic = problem.statistic(problem.simulate(theta, _uniform(case, _N_EVENTS)))
    score = torch.func.grad(problem.log_likelihood)(theta, statistic) * case.width
    matrix, pulls = _curvature(case, statistic)
    if not (score.isfinite().all() and matrix.isfinite().all()):
        yield mend("log_likelihood of events simulated at the same parameters, or its derivative, is not finite.")
        return
    step = torch.linalg.pinv(matrix, rtol=1e-9, hermitian=True) @ score
    distance = float(score @ step)
    if abs(distance) > scipy.stats.chi2.isf(_NO_CHANCE, len(theta)):
        moves = ", ".join(
            f"{name} by {move:+.2g}"
            for name, move in zip(problem.parameters, (step * case.width).tolist(), strict=True)
        )
        yield mend(
            f"log_likelihood is not that of simulate: for {_N_EVENTS} events simulated at known parameters it wants to "
            f"move {moves}, which is {abs(distance) ** 0.5:.0f} standard deviations."
        )
        return
    yield from _lost_information(case, matrix + pulls)


def _curvature(case, statistic):
    """Information in the likelihood and in the constraints, in units of the ranges: (parameter, parameter) each."""
    problem, theta, width = case.problem, case.middle, case.width
    matrix = -torch.func.hessian(problem.log_likelihood)(theta, statistic) * torch.outer(width, width)
    pulls = torch.func.jacrev(lambda theta: problem.residuals(theta, statistic))(theta) * width
    return matrix, pulls.T @ pulls


def _lost_information(case, matrix):
    whole = Information(case.problem.parameters, case.width.numpy(), matrix.numpy())
    events = case.problem.simulate(case.middle, _uniform(case, _N_EVENTS))
    seen = _information(case.problem, case, events.numpy())
    ratio = seen.deviation / whole.deviation
    if np.nanmax(ratio, initial=0) > _LOST:
        worst = int(np.nanargmax(ratio))
        yield note(
            f"linear functions of the features know {case.problem.parameters[worst]} to {ratio[worst]:.1f} times the "
            "deviation that the likelihood does. The discriminator may find the rest, but slowly: give `features` "
            "what the derivatives of the log-likelihood contain."
        )


def _information(problem, case, events):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it is told in the report
        return fisher_information(problem, case.middle, events)


def grids(case):
    """Grids of a Pipeline, if there is one, are fine enough for so many events."""
    problem, theta, rows = case.problem, case.middle, _uniform(case, _N_EVENTS)
    with finer_grids():
        events = problem.simulate(theta, rows)
    if torch.equal(events, problem.simulate(theta, rows)):
        return
    per_event = len(case.events) / _N_EVENTS

    def by_features():
        return information_and_score(problem, theta, events, _N_EVENTS, 0)[1]

    found = {"the answer": (_information(problem, case, case.events), by_features)}
    if problem.has_likelihood:
        statistic = problem.statistic(events)
        matrix, pulls = _curvature(case, statistic)
        information = Information(problem.parameters, case.width.numpy(), (per_event * matrix + pulls).numpy())
        slope = torch.func.grad(problem.log_likelihood)
        found["the likelihood fit"] = information, lambda: (slope(theta, statistic) * case.width).numpy()
    for what, (information, score) in found.items():
        with finer_grids():
            finer = score()
        moves = np.nan_to_num(information.step(per_event * (finer - score())))
        worst = abs(moves).max()
        if worst > _COARSE:
            n_times = math.ceil((4 / 3 * worst / _FINE) ** 0.5)  # errors fall as the squares of the spacings
            times = f"{n_times} times as many points"
            listed = ", ".join(f"{name} by {one:+.2f}" for name, one in zip(problem.parameters, moves, strict=True))
            yield mend(
                f"the grids are too coarse for {len(case.events)} events: with grids twice as fine {what} would move "
                f"in standard deviations, {listed}. Give them {times}, at least where the density bends."
            )


def parameters(case):
    """Events and constraints determine all parameters."""
    names, events = case.problem.parameters, case.events.numpy()
    seen = _information(case.problem, case, events)
    if not seen.describe_undetermined():
        return
    richer = _information(_Richer(case.problem, case.events), case, events)
    own = np.diag(richer.matrix)
    is_unseen = own <= _SEEN * own.max()
    for name in np.array(names)[is_unseen]:
        yield mend(f"{name} has no derivative in the events or constraints. Use it in simulate, or drop it.")
    kept = np.flatnonzero(~is_unseen)
    rest = Information(
        tuple(names[k] for k in kept), richer.width[kept], richer.matrix[np.ix_(kept, kept)]
    ).describe_undetermined()
    if rest:
        yield mend(rest)
    elif not is_unseen.any():
        lost = ", ".join(name for name, one in zip(names, seen.deviation, strict=True) if np.isnan(one))
        yield note(
            f"linear functions of the features do not tell {lost} apart, though the events do. The discriminator must "
            "find that, slowly: let `features` return more, such as powers, logarithms or waves of the observables."
        )


class _Richer:
    """A problem with waves of its observables and their products as further features."""

    def __init__(self, problem, events):
        self._problem, self._mean, self._spread = problem, events.mean(0), events.std(0).clamp(min=1e-12)

    def __getattr__(self, name):
        return getattr(self._problem, name)

    def features(self, events):
        place = math.pi * torch.sigmoid(1.7 * (events - self._mean) / self._spread)
        waves = torch.cos(place[..., None] * torch.arange(1, _N_WAVES + 1).to(place)).flatten(-2)
        products = [(waves * waves.roll(_N_WAVES * k, -1)) for k in range(1, (len(self._mean) + 1) // 2 + 1)]
        return torch.cat([self._problem.features(events), waves, *products], dim=-1)


def speed(case):
    """Simulating takes no longer than a few steps of the networks."""
    settings, problem = Settings(), case.problem
    theta = problem.scale(torch.full((settings.n_sets, len(problem.parameters)), 0.5)).requires_grad_()
    rows = case.noise(settings.n_events, torch.float32).view(settings.n_sets, -1, problem.noise_dim)

    def simulation():
        features = problem.features(torch.vmap(problem.simulate)(theta, rows)).flatten(0, 1)
        torch.autograd.grad(features.sum(), theta, allow_unused=True)
        return features.detach().float()[None]

    features = simulation()
    discriminator = Discriminator(features.shape[-1], settings.discriminator_widths, [case.random()])

    def networks():
        torch.autograd.grad(discriminator(features).sum(), list(discriminator.parameters()))

    own, reference = _seconds(simulation, networks)
    if own > _SLOW * reference:
        yield mend(
            f"simulating and differentiating takes {1e6 * own / settings.n_events:.3g} microseconds per event, "
            f"{own / reference:.0f} times what the networks take. Compute tables once instead of for each event, and "
            "avoid loops over events."
        )


def _seconds(*functions):
    """CPU time of one thread for each, whatever else the machine does: the least of some runs, in turns."""
    n_threads, times = torch.get_num_threads(), []
    torch.set_num_threads(1)
    try:
        while len(times) < 6 and sum(map(sum, times)) < 2:
            times.append([_cpu_time(function) for function in functions])
    finally:
        torch.set_num_threads(n_threads)
    return np.min(times[1:] or times, axis=0)  # the first one opens memory


def _cpu_time(function):
    start = time.thread_time()
    function()
    return time.thread_time() - start
