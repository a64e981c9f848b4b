"""Checks of simulated events: noise, reproducibility, finite numbers and derivatives."""

import contextlib
import itertools
import random
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from .case import Case
from .report import Remark, fix

_N_ROWS = 256
_LAST = 1 - 2**-24  # the largest number in the trainer's noise
_N_SLOPE, _STEP = 20_000, 5e-3  # events, and step in units of the range, of finite differences
_TOLERANCE, _N_SIGMA = 0.03, 5
_UNLIKELY = 918_273  # a seed that no simulator is likely to use


def noise(case: Case) -> Iterator[Remark]:
    """Each column of the noise matters, and each event depends on its own row only."""
    theta, rows = case.middle, case.noise(_N_ROWS)
    events = case.simulate(theta, rows)
    for column in range(case.problem.noise_dim):
        other = rows.clone()
        other[:, column] = rows[:, column].flip(0)
        if torch.equal(case.simulate(theta, other), events):
            yield fix(f"column {column} of the noise changes no event. Use it, or reduce noise_dim.")
    if not _same(case.simulate(theta, rows.flip(0)).flip(0), events):
        yield fix(
            "events depend on other rows than their own: the same rows of noise in another order give other events. "
            "Take all randomness from `noise`, row by row."
        )
    elif not _same(case.simulate(theta, rows[:7]), events[:7]):
        yield fix(
            "an event depends on how many others are simulated with it. Compute each from its own row of `noise`."
        )


def reproducible(case: Case) -> Iterator[Remark]:
    """All randomness comes from the noise."""
    theta, rows = case.middle, case.noise(_N_ROWS)
    with _kept_random_states():
        # To a state in which a simulator that sets its own seed cannot have left the streams.
        for seed in (torch.manual_seed, np.random.seed, random.seed):
            seed(_UNLIKELY)
        before = _random_states()
        events = case.simulate(theta, rows)
        if not _same(case.simulate(theta, rows), events):
            yield fix(
                "the same parameters and noise give different events, so there is randomness in simulate. Take it from "
                "`noise`, whose noise_dim columns are uniform."
            )
        elif _random_states() != before:
            yield fix("simulate draws from a global random stream. Take all randomness from `noise`.")


def _same(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-9, atol=1e-12, equal_nan=True)


def _random_states():
    numpy_state = np.random.get_state(legacy=False)["state"]  # noqa: NPY002
    return torch.get_rng_state().tolist(), numpy_state["key"].tolist(), numpy_state["pos"], random.getstate()


@contextlib.contextmanager
def _kept_random_states():
    """Restore all global random streams at the end."""
    kept = np.random.get_state(), random.getstate()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        np.random.set_state(kept[0])  # noqa: NPY002
        random.setstate(kept[1])


def finite(case: Case) -> Iterator[Remark]:
    """Events, features and derivatives are finite up to the ends of the ranges."""
    extremes = torch.tensor([[0.0], [_LAST], [0.5]]).expand(-1, case.problem.noise_dim)
    rows = torch.cat([extremes, case.noise(29, torch.float32)])
    for where, theta in _ends(case):
        found = _infinite(case, theta.float(), rows)
        if found:
            yield fix(f"at {where} {found}.")
            return


def _ends(case: Case) -> Iterator[tuple[str, Tensor]]:
    """Points to look at, as words and theta: each parameter at its ends, then corners slightly inside the ranges."""
    problem, n = case.problem, len(case.width)
    t_middle = (case.middle - case.problem.scale(torch.zeros_like(case.width))) / case.width
    for k, name in enumerate(problem.parameters):
        for end, words in [(0.0, "its lower end"), (1.0, "its upper end")]:
            theta = problem.scale(t_middle.index_fill(0, torch.tensor(k), end))
            yield f"{name} = {theta[k]:.4g}, {words},", theta
    corners = (torch.rand((64, n), generator=case.random()) < 0.5).double()
    for corner in corners:
        theta = problem.scale(1e-4 + (1 - 2e-4) * corner)
        values = ", ".join(f"{name} = {one:.4g}" for name, one in zip(problem.parameters, theta, strict=True))
        yield f"{values} (near a corner of the ranges)", theta


def _infinite(case: Case, theta: Tensor, rows: Tensor) -> str | None:
    """What is not finite at theta, in words; None if all is finite."""
    features_at = case.features_at
    features, pull, *_ = torch.func.vjp(lambda theta: features_at(case.simulate(theta, rows)), theta)
    events = case.simulate(theta, rows)
    for name, array in [("events", events), ("features", features)]:
        bad = ~array.isfinite().all(-1)
        if bad.all():
            return f"all {name} are NaN or infinite"
        if bad.any():
            row = tuple(rows[int(bad.int().argmax())].tolist())
            return f"{name} are NaN or infinite for the noise {row}. Noise goes from 0 to {_LAST:.8f}, both included"
    if not pull(torch.ones_like(features))[0].isfinite().all():
        return "the derivative of the features is NaN or infinite, though they are finite"
    for name, function in _conditions(case).items():
        if not function(theta).isfinite().all():
            return f"{name} are NaN or infinite"
    return None


def _conditions(case: Case) -> dict[str, Callable[[Tensor], Tensor]]:
    """Residuals of constraints and measurements, as functions of theta by their names."""
    problem = case.problem
    residuals = {f"measurements[{name!r}]": known.residuals for name, known in problem.measurements.items()}
    return {"constraints": lambda theta: problem.constraints(theta, case.statistic)} | residuals


def gradient(case: Case) -> Iterator[Remark]:
    """The derivative of the features agrees with finite differences."""
    rows = case.noise(_N_SLOPE)
    for theta in case.points:
        for text in itertools.chain(_wrong_slopes(case, theta, rows), _wrong_slopes_of_conditions(case, theta)):
            yield fix(text)
            return
        for text in _wrong_equal_shares(case, theta, rows):
            yield fix(text)
            return


def _wrong_slopes(case: Case, theta: Tensor, rows: Tensor) -> Iterator[str]:
    """Parameters whose derivative differs from finite differences, in words.

    The derivative is that of the mean over many events: a step function, which has no derivative, shows only there.
    """

    features_at = case.features_at

    def features(theta):
        return features_at(case.simulate(theta, rows))

    spread = features(theta).std(0)
    spread = torch.where(spread > 0, spread, torch.inf)
    exact = torch.func.jacrev(lambda theta: features(theta).mean(0))(theta) * case.width / spread[:, None]

    def differences(k, size):
        step = torch.zeros_like(theta).index_fill(0, torch.tensor(k), size) * case.width
        return (features(theta + step) - features(theta - step)) / (2 * size * spread)

    for k, name in enumerate(case.problem.parameters):
        each = differences(k, _STEP)
        error = each.std(0) / len(rows) ** 0.5
        by_steps, own = each.mean(0), exact[:, k]
        off = (own - by_steps).abs() - _N_SIGMA * error - _TOLERANCE * by_steps.abs().max() - 1e-6
        if off.max() > 0:
            # If only the step is too long for the waves of a feature, a shorter one agrees better.
            shorter = differences(k, _STEP / 4).mean(0)
            off = torch.where((own - shorter).abs() < 0.5 * (own - by_steps).abs(), -torch.inf, off)
        if off.max() > 0:
            worst = int(off.argmax())
            yield (
                f"the derivative with respect to {name} (mean of feature {worst}, over the range of {name}, in units "
                f"of its standard deviation) is {own[worst]:.3g} by autograd and {by_steps[worst]:.3g} by finite "
                "differences. Look for an operation without a derivative between theta and the events: rounding, a "
                "comparison, a choice between kinds of events, counts, detach() or a new tensor made from theta. "
                "Choices and selections are smooth if a Pipeline samples the sum of the kinds' densities; no density "
                "may be negative."
            )


def _wrong_slopes_of_conditions(case: Case, theta: Tensor) -> Iterator[str]:
    """Constraints and measurements whose derivative differs from finite differences, in words."""
    for what, function in _conditions(case).items():
        slopes = torch.func.jacrev(function)(theta) * case.width
        for k, name in enumerate(case.problem.parameters):
            tiny = torch.zeros_like(theta).index_fill(0, torch.tensor(k), 1e-5) * case.width
            by_steps = (function(theta + tiny) - function(theta - tiny)) / 2e-5
            if not torch.allclose(by_steps, slopes[:, k], rtol=_TOLERANCE, atol=1e-3):
                yield (
                    f"the derivative of {what} with respect to {name} by autograd is not that by finite differences. "
                    "Write the function with torch, without .numpy(), float() and .detach()."
                )


def periodic(case: Case) -> Iterator[Remark]:
    """Both ends of the range of a periodic parameter, if there is one, are the same."""
    problem, rows = case.problem, case.noise(_N_SLOPE)
    for k, name in enumerate(problem.parameters):
        if name not in problem.periodic:
            continue
        low, high = (float(bound[k]) for bound in (problem.lower, problem.upper))
        ends = [case.middle.index_fill(0, torch.tensor(k), end) for end in (low, high)]
        at = f"at {name} = {low:.6g} than at {high:.6g}, though {name} is periodic"
        seen = [_described(case, theta, rows) for theta in ends]
        error = (seen[0].var(0) + seen[1].var(0)).div(len(rows)).sqrt()
        if ((seen[0].mean(0) - seen[1].mean(0)).abs() > _N_SIGMA * error + 1e-6).any():
            yield fix(
                f"simulate makes other events {at}. Its range should be one period: compare units (degrees, radians), "
                "or remove it from `periodic`."
            )
        functions = _conditions(case)
        if problem.has_likelihood:
            functions["log_likelihood"] = lambda theta: problem.log_likelihood(theta, case.statistic)
        for what, function in functions.items():
            if not torch.allclose(*(function(theta) for theta in ends), rtol=1e-6, atol=0.01):
                yield fix(
                    f"{what} differ {at}. Use functions that repeat themselves, such as sin and cos, and for a "
                    f"difference d from a known angle torch.atan2(d.sin(), d.cos()). What is known of {name} alone may "
                    "be a prior, whose difference is on the circle."
                )


def _described(case: Case, theta: Tensor, rows: Tensor) -> Tensor:
    """Features of simulated events, those that the problem would have without its own, and the squares of both."""
    events = case.simulate(theta, rows)
    columns = torch.cat([case.features_at(events), case.automatic_features_at(events)], dim=-1)
    return torch.cat([columns, columns**2], dim=-1)


def _wrong_equal_shares(case: Case, theta: Tensor, rows: Tensor) -> Iterator[str]:
    """How many events each category has, in words, unless they are equal shares."""
    n_categories = case.problem.n_categories
    counts = torch.bincount(case.problem.category(case.simulate(theta, rows)), minlength=n_categories)
    if (counts - len(rows) / n_categories).abs().max() > 6 * len(rows) ** 0.5:
        yield (
            f"simulate makes {counts.tolist()} events of the categories 0 to {n_categories - 1}: should be equal "
            "shares for any theta, because a category cannot vary smoothly. Choose it by a column of `noise`."
        )
