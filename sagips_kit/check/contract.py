"""Checks of names, shapes, derivatives, batches and devices: what does not depend on the numbers."""

import math
import warnings
from collections.abc import Iterator, Mapping
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._circular import intervals
from .._text import allowed
from ..events.entries import is_blurred
from ..events.resampling import check_events
from ..problems.base import Problem, misspelt
from ..problems.measurement import Measurement
from ..store.schema import check_names
from .case import Case
from .report import Remark, fix, note, place

_N = 5  # events; unlikely to equal a number of observables
_ROUNDING = 1e-6  # of numbers in single precision, relative to a period
_COARSE = 1e-5  # distance of neighbouring numbers in single precision, relative to a range
_WITHOUT = (
    "Training needs this derivative. Write the formulas with torch, without .numpy(), .item(), float() and .detach(). "
    "If your simulator is an external program, fill histograms with it for many parameters, and let a Pipeline draw "
    "events from a density that interpolates them: docs/howto/no_derivative.md."
)


def names(case: Case) -> Iterator[Remark]:
    """Names are unique and used consistently, and numbers lie in the ranges."""
    problem = case.problem
    for text in misspelt(problem):
        yield fix(text)
    wanted = ("parameters", "lower", "upper", "observables", "noise_dim")
    if missing := [name for name in wanted if not hasattr(problem, name)]:
        yield fix(f"{', '.join(missing)}: missing. A class needs {', '.join(wanted)}.")
        return
    for kind in ("parameters", "observables"):
        given = getattr(problem, kind)
        if not (isinstance(given, tuple) and given and all(isinstance(name, str) for name in given)):
            yield fix(f"{kind} = {given!r}: should be a tuple of names, for instance {kind} = ('a', 'b') or ('a',).")
            return
    try:
        check_names(problem.parameters, problem.observables)
    except ValueError as error:
        yield fix(str(error))
    if both := set(problem.parameters) & set(problem.observables):
        yield fix(f"{', '.join(sorted(both))}: names a parameter and an observable. Rename one of them.")
    yield from _dictionaries(problem)
    yield from _ranges(problem)
    yield from _priors_in_range(problem)
    yield from _measurements(problem)
    try:
        intervals(problem)
    except ValueError as error:
        yield fix(str(error))
    if not (isinstance(problem.noise_dim, int) and problem.noise_dim > 0):
        yield fix(f"noise_dim = {problem.noise_dim!r}: should be 1 or more, the uniform numbers for each event.")


def _dictionaries(problem: Problem) -> Iterator[Remark]:
    """What is said about parameters and observables by name."""
    parameters, known = set(problem.parameters), {*problem.parameters, *problem.observables}
    if isinstance(problem.interest, str):
        yield fix(f"interest = {problem.interest!r}: should be several names, such as ({problem.interest!r},).")
        return
    places = {"units": known, "long_names": known, "labels": known, "published": parameters, "priors": parameters}
    places["interest"] = parameters
    for kind, names in places.items():
        for name in sorted(set(getattr(problem, kind)) - names):
            yield fix(f"{kind} has {name!r}, which does not exist. {allowed(name, sorted(names))}")
    if (n := len(problem.category_names)) not in (0, problem.n_categories):
        yield fix(f"category_names has {n} names: should have n_categories = {problem.n_categories}, or none.")
    for kind in ("published", "priors"):
        for name, given in getattr(problem, kind).items():
            if not (_are_numbers(given, 2) and given[1] > 0):
                yield fix(
                    f"{kind}[{name!r}] = {given!r}: should be (value, deviation), the standard deviation above 0, for "
                    "instance (1.0, 0.1)."
                )


def _ranges(problem: Problem) -> Iterator[Remark]:
    n = len(problem.parameters)
    for kind in ("lower", "upper", *(("truth",) if problem.truth is not None else ())):
        given = getattr(problem, kind)
        if not _are_numbers(given, n):
            yield fix(f"{kind} = {given}: should be {n} finite numbers, one for each of {problem.parameters}.")
            return
    truth = problem.truth if problem.truth is not None else [None] * n
    for name, low, true, high in zip(problem.parameters, problem.lower, truth, problem.upper, strict=True):
        if not low < high:
            yield fix(f"{name}: lower = {low} should be below upper = {high}.")
        elif true is not None and not (low < true < high or (name in problem.periodic and low <= true <= high)):
            yield fix(f"{name}: truth = {true} should be above {low} and below {high}, the range of the answer.")


def _priors_in_range(problem: Problem) -> Iterator[Remark]:
    for name, low, high in zip(problem.parameters, problem.lower, problem.upper, strict=False):
        given: Any = problem.priors.get(name)
        if _are_numbers(given, 2) and not low <= given[0] <= high:
            yield fix(
                f"priors[{name!r}] = {given!r}: its value should be from {low} to {high}, the range of {name}. Change "
                "the prior or the range."
            )


def _measurements(problem: Problem) -> Iterator[Remark]:
    if not isinstance(problem.measurements, Mapping):
        yield fix(
            f"measurements = {problem.measurements!r}: should be a dictionary, such as {{'ratio': Measurement(lambda "
            "theta: theta[0] / theta[1], 1.26, 0.02)}."
        )
        return
    for name, given in problem.measurements.items():
        if not isinstance(given, Measurement):
            yield fix(
                f"measurements[{name!r}] = {given!r}: should be a Measurement(function, value, deviation). What is "
                "known of a single parameter may be given in `priors`."
            )


def _are_numbers(given: Any, n: int) -> bool:
    """Whether these are n finite numbers in a row."""
    given = given.tolist() if hasattr(given, "tolist") else given
    is_row = isinstance(given, tuple | list) and len(given) == n
    return is_row and all(isinstance(number, Real) and math.isfinite(number) for number in given)


def shapes(case: Case) -> Iterator[Remark]:
    """Events, and all that is computed from them, have the expected shapes."""
    problem, theta = case.problem, case.middle
    n_columns = len(problem.observables)
    for n_events in (_N, 1):
        events = case.simulate(theta, case.noise(n_events))
        if not isinstance(events, Tensor):
            yield fix(f"simulate returns a {type(events).__name__}: should be a torch Tensor (event, observable).")
            return
        if events.shape != (n_events, n_columns):
            yield fix(
                f"simulate returns events of shape {tuple(events.shape)} for {n_events} rows of noise: should be "
                f"({n_events}, {n_columns}), a column for each of {', '.join(problem.observables)}. For instance "
                "torch.stack([x, y], dim=-1). Each row should give an event: a selection is a factor of the density, "
                "like Select in a Pipeline."
            )
            return
    try:
        check_events(problem, case.observed)
    except ValueError as error:
        yield fix(f"observed: {error}")
        return
    yield from _events_inside(case)
    yield from _shapes_of_the_rest(case, case.events[:_N])


def _events_inside(case: Case) -> Iterator[Remark]:
    """Observed values of periodic observables are in their intervals."""
    names, around = case.problem.observables, intervals(case.problem)
    for name, values in zip(names, case.events.T, strict=True):
        if name not in around:
            continue
        low, high = around[name]
        margin = _ROUNDING * (high - low)
        n_outside = int(((values < low - margin) | (values > high + margin)).sum())
        if n_outside:
            yield fix(
                f"{name}: {n_outside} of {len(values)} observed values are outside of the interval in `periodic`, from "
                f"{low:g} to {high:g}; they go from {float(values.min()):g} to {float(values.max()):g}. Compare units "
                f"(degrees, radians), or give periodic = {{{name!r}: (low, high)}} with the interval of the events. To "
                f"take values there by whole periods: low + ({name} - low) % (high - low)."
            )


def _shapes_of_the_rest(case: Case, events: Tensor) -> Iterator[Remark]:
    problem, theta = case.problem, case.middle
    features = problem.features(events)
    if features.ndim != 2 or len(features) != len(events):
        yield fix(f"features returns {tuple(features.shape)} for {len(events)} events: should be (event, feature).")
    elif problem.features(events[None]).shape != (1, *features.shape):
        yield fix("features fails for several samples (sample, event, observable): index with [..., k], not [:, k].")
    categories = problem.category(case.events)
    if categories.shape != case.events.shape[:1] or categories.is_floating_point():
        yield fix(f"category returns {tuple(categories.shape)} of {categories.dtype}: should be an integer per event.")
    elif not 0 <= int(categories.min()) <= int(categories.max()) < problem.n_categories:
        yield fix(
            f"category goes from {categories.min()} to {categories.max()}: should be 0 to n_categories - 1 = "
            f"{problem.n_categories - 1}."
        )
    constraints = problem.constraints(theta, case.statistic)
    if constraints.ndim != 1:
        yield fix(f"constraints returns {tuple(constraints.shape)}: should be one-dimensional, (constraint,).")
    for name, measurement in problem.measurements.items():
        try:
            measurement.predicted(theta)
        except Exception as error:
            what = (
                str(error) if isinstance(error, ValueError) else f"the function raises {type(error).__name__}: {error}"
            )
            yield fix(f"measurements[{name!r}]: {what}")
    if problem.has_likelihood:
        value = problem.log_likelihood(theta, case.statistic)
        if value.ndim:
            yield fix(f"log_likelihood returns {tuple(value.shape)}: should be a scalar. Add .sum().")


def derivative(case: Case) -> Iterator[Remark]:
    """Events have a derivative with respect to the parameters."""
    theta = case.middle.requires_grad_()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of float(theta[0]); the finding below says more
        try:
            is_there = case.simulate(theta, case.noise(_N)).requires_grad
        except Exception as error:
            # Only the first sentence: the second is torch's advice to detach().
            what = " ".join(str(error).split()).split(". ")[0]
            yield fix(f"{place(error)}{type(error).__name__}: {what}. So simulate has no derivative. {_WITHOUT}")
            return
        lost = [
            f"measurements[{name!r}]"
            for name, known in case.problem.measurements.items()
            if not known.predicted(theta).requires_grad
        ]
    if not is_there:
        yield fix(f"simulate has no derivative: torch sees no connection from theta to the events. {_WITHOUT}")
    if lost:
        yield fix(
            f"{', '.join(lost)}: torch sees no connection from theta to what the function returns. Write it with "
            "torch, without .numpy(), .item(), float() and .detach()."
        )


def precision(case: Case) -> Iterator[Remark]:
    """Single precision, in which networks work, is fine enough for the ranges and the events."""
    problem = case.problem
    for name, low, high in zip(problem.parameters, problem.lower, problem.upper, strict=True):
        if (coarse := _spacing(low, high)) > _COARSE * (high - low):
            yield _too_coarse(name, f"its range, from {low:.12g} to {high:.12g}", coarse, low)
    for name, values in zip(problem.observables, case.events.double().T.numpy(), strict=True):
        if is_blurred(values):
            low, middle, high = np.quantile(values, (0.16, 0.5, 0.84))
            what = f"events, of which most are from {low:.12g} to {high:.12g}"
            yield _too_coarse(name, what, _spacing(low, high), middle)


def _spacing(low: float, high: float) -> float:
    """Distance of neighbouring numbers in single precision, in an interval."""
    return float(np.spacing(np.float32(max(abs(low), abs(high)))))


def _too_coarse(name: str, what: str, coarse: float, offset: float) -> Remark:
    return fix(
        f"{name}: training works in single precision, whose numbers are {coarse:.2g} apart there; that is too coarse "
        f"for {what}. Subtract an offset such as {offset:.6g} from it in the events, in the ranges and in simulate. "
        "fit(problem, events) needs no offset."
    )


def batches(case: Case) -> Iterator[Remark]:
    """Many parameter vectors at once give the same events as one at a time."""
    theta, noise = case.points.float(), case.noise(_N * len(case.points), torch.float32).view(len(case.points), _N, -1)
    try:
        together = torch.vmap(case.simulate)(theta, noise)
        torch.vmap(lambda one: case.problem.residuals(one, case.statistic.to(one)))(theta)
    except Exception as error:
        yield fix(
            f"{place(error)}{type(error).__name__} under torch.vmap, which the trainer uses to simulate many parameter "
            f"vectors at once: {' '.join(str(error).split())} Avoid `if` and loops that depend on numbers, .item(), "
            ".numpy() and writing into tensors; use torch.where."
        )
        return
    made = case.problem.simulate(theta[0], noise[0])
    if isinstance(made, Tensor) and made.dtype != torch.float32:
        yield note(
            f"simulate returns {made.dtype} for parameters of float32, which takes longer, and is impossible on "
            "some accelerators: constants should follow their type, as in torch.tensor(values).to(theta)."
        )
    alone = torch.stack([case.simulate(*one) for one in zip(theta, noise, strict=True)])
    if not torch.allclose(together, alone, rtol=1e-3, atol=1e-5, equal_nan=True):
        yield fix(
            "simulate gives other events under torch.vmap, which the trainer uses to simulate many parameter vectors "
            "at once, than for a single vector. Look for what it keeps between calls."
        )


def device(case: Case) -> Iterator[Remark]:
    """All tensors are created on the device of the parameters."""
    # Without a GPU, torch's device without memory gives the same errors.
    where = torch.device("cuda" if torch.cuda.is_available() else "meta")
    try:
        events = case.simulate(case.middle.float().to(where), case.noise(_N, torch.float32).to(where))
        results = {"simulate": events, "features": case.problem.features(events)}
    except NotImplementedError:
        return  # an operation that torch implements on real devices only
    except RuntimeError as error:
        if "device" not in str(error):
            raise
        yield fix(
            f"a tensor is created on the CPU, whatever the device of the parameters ({' '.join(str(error).split())}). "
            "Create it with device=theta.device, or move it: table.to(theta)."
        )
        return
    for name, result in results.items():
        if result.device.type != where.type:
            yield fix(f"{name} returns a tensor on {result.device} for parameters on {where}: use .to(theta).")
