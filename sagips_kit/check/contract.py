"""Names, shapes, derivatives, batches and devices: what can be said without looking at the numbers."""

import math
import warnings
from numbers import Real

import torch

from ..events.resampling import check_events
from ..store.schema import check_names
from .report import mend, place

_N = 5  # events; a number that no observable has by chance
_WITHOUT = (
    "The kit learns by this derivative and cannot do without. Write the formulas with torch, without .numpy(), "
    ".item(), float() and .detach(). If your simulator is a program of its own, fill histograms by it for many "
    "parameters, and let a Pipeline draw events of a density that interpolates them: README.md, 'A simulator without "
    "derivatives'."
)


def names(case):
    """Names are unique, and whatever refers to them uses them."""
    problem = case.problem
    wanted = ("parameters", "lower", "upper", "observables", "noise_dim")
    if missing := [name for name in wanted if not hasattr(problem, name)]:
        yield mend(f"{', '.join(missing)}: missing. A class needs {', '.join(wanted)}.")
        return
    for kind in ("parameters", "observables"):
        given = getattr(problem, kind)
        if not (isinstance(given, tuple) and given and all(isinstance(name, str) for name in given)):
            yield mend(f"{kind} = {given!r}: should be a tuple of names, for instance {kind} = ('a', 'b') or ('a',).")
            return
    n = len(problem.parameters)
    try:
        check_names(problem.parameters, problem.observables)
    except ValueError as error:
        yield mend(str(error))
    if both := set(problem.parameters) & set(problem.observables):
        yield mend(f"{', '.join(sorted(both))}: names a parameter and an observable. Rename one of them.")
    known = {*problem.parameters, *problem.observables}
    for kind, allowed in [
        ("units", known),
        ("long_names", known),
        ("published", set(problem.parameters)),
        ("priors", set(problem.parameters)),
    ]:
        for name in sorted(set(getattr(problem, kind)) - allowed):
            yield mend(f"{kind} has {name!r}, which is not there. Allowed: {', '.join(sorted(allowed))}.")
    for kind in ("published", "priors"):
        for name, given in getattr(problem, kind).items():
            if not (_are_numbers(given, 2) and given[1] > 0):
                yield mend(
                    f"{kind}[{name!r}] = {given!r}: should be (value, deviation), the deviation above 0, for instance "
                    "(1.0, 0.1)."
                )
    yield from _ranges(problem, n)
    yield from _priors_in_range(problem)
    if not (isinstance(problem.noise_dim, int) and problem.noise_dim > 0):
        yield mend(f"noise_dim = {problem.noise_dim!r}: should be 1 or more, the uniform numbers of an event.")


def _ranges(problem, n):
    for kind in ("lower", "upper", *(("truth",) if problem.truth is not None else ())):
        given = getattr(problem, kind)
        if not _are_numbers(given, n):
            yield mend(f"{kind} = {given}: should be {n} finite numbers, one for each of {problem.parameters}.")
            return
    truth = problem.truth if problem.truth is not None else [None] * n
    for name, low, true, high in zip(problem.parameters, problem.lower, truth, problem.upper, strict=True):
        if not low < high:
            yield mend(f"{name}: lower = {low} should be below upper = {high}.")
        elif true is not None and not low < true < high:
            yield mend(f"{name}: truth = {true} should be above {low} and below {high}, where it is sought.")


def _priors_in_range(problem):
    for name, low, high in zip(problem.parameters, problem.lower, problem.upper, strict=False):
        given = problem.priors.get(name)
        if _are_numbers(given, 2) and not low <= given[0] <= high:
            yield mend(
                f"priors[{name!r}] = {given!r}: its value should be from {low} to {high}, the range of {name}. Mend "
                "one of the two."
            )


def _are_numbers(given, n):
    """Whether these are n finite numbers in a row."""
    given = given.tolist() if hasattr(given, "tolist") else given
    is_row = isinstance(given, tuple | list) and len(given) == n
    return is_row and all(isinstance(number, Real) and math.isfinite(number) for number in given)


def shapes(case):
    """Events and all that is made of them have the shapes that are expected."""
    problem, theta = case.problem, case.middle
    n_columns = len(problem.observables)
    for n_events in (_N, 1):
        events = problem.simulate(theta, case.noise(n_events))
        if not isinstance(events, torch.Tensor):
            yield mend(f"simulate gives a {type(events).__name__}: should be a torch Tensor (event, observable).")
            return
        if events.shape != (n_events, n_columns):
            yield mend(
                f"simulate gives events of shape {tuple(events.shape)} for {n_events} rows of noise: should be "
                f"({n_events}, {n_columns}), a column for each of {', '.join(problem.observables)}. For instance "
                "torch.stack([x, y], dim=-1). Each row should make an event: a selection is a factor of the density, "
                "as Select is in a Pipeline."
            )
            return
    try:
        check_events(problem, case.observed)
    except ValueError as error:
        yield mend(f"observed: {error}")
        return
    yield from _shapes_of_the_rest(case, case.events[:_N])


def _shapes_of_the_rest(case, events):
    problem, theta = case.problem, case.middle
    features = problem.features(events)
    if features.ndim != 2 or len(features) != len(events):
        yield mend(f"features gives {tuple(features.shape)} for {len(events)} events: should be (event, feature).")
    elif problem.features(events[None]).shape != (1, *features.shape):
        yield mend("features fails for several samples (sample, event, observable): index with [..., k], not [:, k].")
    categories = problem.category(case.events)
    if categories.shape != case.events.shape[:1] or categories.is_floating_point():
        yield mend(f"category gives {tuple(categories.shape)} of {categories.dtype}: should be an integer per event.")
    elif not 0 <= int(categories.min()) <= int(categories.max()) < problem.n_categories:
        yield mend(
            f"category goes from {categories.min()} to {categories.max()}: should be 0 to n_categories - 1 = "
            f"{problem.n_categories - 1}."
        )
    constraints = problem.constraints(theta, case.statistic)
    if constraints.ndim != 1:
        yield mend(f"constraints gives {tuple(constraints.shape)}: should be one-dimensional, (constraint,).")
    if problem.has_likelihood:
        value = problem.log_likelihood(theta, case.statistic)
        if value.ndim:
            yield mend(f"log_likelihood gives {tuple(value.shape)}: should be a scalar. Add .sum().")


def derivative(case):
    """Events have a derivative with respect to the parameters."""
    theta = case.middle.requires_grad_()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # float(theta[0]) warns; the text below says more
        try:
            is_there = case.problem.simulate(theta, case.noise(_N)).requires_grad
        except Exception as error:
            # Its first sentence: the second would be torch's advice to detach().
            what = " ".join(str(error).split()).split(". ")[0]
            yield mend(f"{place(error)}{type(error).__name__}: {what}. So simulate has no derivative. {_WITHOUT}")
            return
    if not is_there:
        yield mend(f"simulate has no derivative: its events do not know the parameters they are made of. {_WITHOUT}")


def batches(case):
    """Many parameter vectors at once give what each gives alone."""
    problem = case.problem
    theta, noise = case.points.float(), case.noise(_N * len(case.points), torch.float32).view(len(case.points), _N, -1)
    try:
        together = torch.vmap(problem.simulate)(theta, noise)
    except Exception as error:
        yield mend(
            f"{place(error)}{type(error).__name__} under torch.vmap, by which the trainer makes many samples at once: "
            f"{' '.join(str(error).split())} Avoid `if` and loops that look at numbers, .item(), .numpy() and writing "
            "into tensors; use torch.where."
        )
        return
    if together.dtype != torch.float32:
        yield mend(
            f"simulate makes {together.dtype} of float32: constants should follow the parameters' type, as in "
            "torch.tensor(values).to(theta)."
        )
    alone = torch.stack([problem.simulate(*one) for one in zip(theta, noise, strict=True)])
    if not torch.allclose(together, alone, rtol=1e-3, atol=1e-5, equal_nan=True):
        yield mend("simulate gives other events under torch.vmap than for a single parameter vector.")


def device(case):
    """All tensors are made where the parameters are."""
    # Without a GPU, torch's device without memory tells the same.
    where = torch.device("cuda" if torch.cuda.is_available() else "meta")
    try:
        events = case.problem.simulate(case.middle.float().to(where), case.noise(_N, torch.float32).to(where))
        results = {"simulate": events, "features": case.problem.features(events)}
    except NotImplementedError:
        return  # an operation that torch knows on real devices only
    except RuntimeError as error:
        if "device" not in str(error):
            raise
        yield mend(
            f"a tensor is made on the CPU, whatever the device of the parameters ({' '.join(str(error).split())}). "
            "Make it with device=theta.device, or move it: table.to(theta)."
        )
        return
    for name, result in results.items():
        if result.device.type != where.type:
            yield mend(f"{name} gives a tensor on {result.device} for parameters on {where}: use .to(theta).")
