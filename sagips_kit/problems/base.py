"""The contract of a problem: unknown parameters, a differentiable simulation of events, and the observed events.

A problem is written for one parameter vector in plain torch; callers that need many vectors map it with `torch.vmap`.
It draws no random numbers while simulating: all noise is an argument.  Networks, ranks and files do not belong here.
"""

import copy
import inspect
import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Self, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .._circular import Periodic, circles, intervals, wrapped
from .constants import Constant, constant
from .measurement import Measurement
from .pipeline import Pipeline
from .spelling import misspelt_in

# One number for each parameter, or a value with its standard deviation
Numbers: TypeAlias = Sequence[float] | NDArray[Any]
# Events (event, observable), or the pair of these and the logarithms of their weights (event,), which is reserved
Simulated: TypeAlias = Tensor | tuple[Tensor, Tensor]


class Problem(ABC):
    """Base class of all problems: what is unknown, how events are simulated, and what was observed.

    Derive a class, set the required attributes and write `simulate`; all else has a default.

    Attributes
    ----------
    parameters : tuple of str
        Required.  Names of the unknown parameters, in the order of `theta`.
    lower, upper : sequence of float or ndarray (parameter,)
        Required.  Range of each parameter; the generator's output always lies inside it.
    observables : tuple of str
        Required.  Names of the columns of an event.
    noise_dim : int
        Required.  Number of uniform random numbers that one event consumes.
    units : dict of str to str
        Units of parameters and observables.
    long_names : dict of str to str
        Descriptions of parameters and observables, for labels of plots.
    labels : dict of str to str
        Symbols of parameters and observables in pictures and in LaTeX, such as {"theta": r"$\\theta_{13}$"}.
    interest : sequence of str
        Parameters that are the answer: pictures and tables show them first and fold the others.  Empty for all.
    truth : sequence of float or ndarray (parameter,), or None
        Parameters that the observed events were made with, for closure tests.
    published : dict of str to (value, deviation)
        Published measurements of parameters to compare with.
    priors : dict of str to (value, deviation)
        External knowledge of single parameters with independent normal errors, for example from a calibration.
    measurements : dict of str to Measurement
        External knowledge of functions of the parameters, such as their ratio, or with correlated errors; the names are
        those of messages.
    periodic : tuple of str, or dict of str to (low, high)
        Names of angles, phases or times of day.  A tuple names parameters, whose period is their range.  A dictionary
        gives the interval, which is one period, of each periodic observable and parameter (its range), for instance
        {"phi": (-math.pi, math.pi)}.
    n_categories : int
        Number of categories of events; see the method `category`.
    category_names : sequence of str
        Their names, for titles of pictures, such as ("EH1", "EH2", "EH3").  Empty if they have none.
    image : (int, int) or None
        Numbers of rows and columns if the parameters are the pixels of an image, row by row.  Required by
        `Settings(generator="convolution")`.
    pipeline : Pipeline or None
        The pipeline that `simulate` uses, if there is one, so that `check_problem` can compare it with finer grids.

    See Also
    --------
    check_problem : Test whether a class keeps this contract.
    Measurement : Knowledge of a function of the parameters.
    Pipeline : Theory, sampler, detector and selection as ready stages of `simulate`.

    Notes
    -----
    A public attribute whose name is close to one of the contract but not equal, such as `prior` for `priors`, would
    have no effect.  It causes a warning when the class is created, and `check_problem` and `run` refuse it.  Begin the
    names of your own helpers with an underscore.

    Knowledge beside the events is given in one of three ways.  `priors` and `measurements` are results of other
    measurements: in an ensemble their values vary from chain to chain by their errors, as if they were repeated, so the
    spread of the chains contains these errors.  The method `constraints` is for what does not vary when an experiment
    is repeated, such as a norm that follows from the number of events, or a wish for smoothness: it is the same for all
    chains, so an error stated there would be missing in their spread.

    The events at both ends of a periodic parameter's range are the same.  The generator passes through these ends, and
    means, standard deviations and distances of such a parameter are those on the circle.

    Examples
    --------
    Wind speeds at a mast follow a Weibull distribution, whose scale and shape are unknown:

    >>> import numpy as np
    >>> import torch
    >>> from sagips_kit import Problem, check_problem, fit_likelihood
    >>> class Wind(Problem):
    ...     parameters = ("scale", "shape")
    ...     lower, upper, truth = (4.0, 1.2), (12.0, 3.5), (8.0, 2.0)
    ...     observables = ("speed",)
    ...     noise_dim = 1
    ...     units = {"scale": "m/s", "speed": "m/s"}
    ...     priors = {"shape": (2.0, 0.1)}
    ...
    ...     def simulate(self, theta, noise):
    ...         u = noise.clamp(1e-6, 1 - 1e-6)
    ...         return theta[0] * (-torch.log1p(-u)) ** (1 / theta[1])
    ...
    ...     def observed(self, n_events, rng):
    ...         return 8.0 * rng.weibull(2.0, (n_events or 5000, 1))
    ...
    ...     def features(self, events):
    ...         return torch.cat([events.log(), events, events**2], dim=-1)
    ...
    ...     def log_likelihood(self, theta, statistic):
    ...         ratio = statistic / theta[0]
    ...         return ((theta[1] / theta[0]).log() + (theta[1] - 1) * ratio.log() - ratio ** theta[1]).sum()
    >>> problem = Wind()
    >>> problem.simulate(torch.tensor([8.0, 2.0]), torch.rand(3, 1)).shape
    torch.Size([3, 1])
    >>> fit = fit_likelihood(problem, problem.observed(None, np.random.default_rng(0)))
    >>> bool((abs(fit.theta - problem.truth) < 4 * fit.deviation).all())
    True
    """

    parameters: tuple[str, ...]
    lower: Numbers
    upper: Numbers
    observables: tuple[str, ...]
    noise_dim: int
    n_categories: int = 1
    category_names: Sequence[str] = ()
    units: Mapping[str, str] = {}
    long_names: Mapping[str, str] = {}
    labels: Mapping[str, str] = {}
    interest: Sequence[str] = ()
    image: tuple[int, int] | None = None
    # `| Any` for type checkers: a class that sets its truth may index it without a test for None.
    truth: Numbers | Any = None
    published: Mapping[str, Numbers] = {}
    priors: Mapping[str, Numbers] = {}
    measurements: Mapping[str, Measurement] = {}
    periodic: Periodic = ()
    pipeline: Pipeline | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for text in misspelt_in(cls, vars(cls), Problem):
            warnings.warn(f"{cls.__name__}: {text}", stacklevel=2)

    def __repr__(self) -> str:
        # The default would show the address in memory, which differs between ranks.
        return f"{type(self).__name__}({'...' if vars(self) else ''})"

    @abstractmethod
    def simulate(self, theta: Tensor, noise: Tensor) -> Simulated:
        """Simulate the events of one parameter vector.

        A pure function, differentiable in `theta`: it depends on its arguments only, and each event on its own row of
        the noise only.

        Parameters
        ----------
        theta : Tensor (parameter,)
            The parameters, in their own units.
        noise : Tensor (event, noise_dim)
            Uniform numbers in [0, 1).

        Returns
        -------
        Tensor (event, observable)
            One event for each row of the noise, in the type and on the device of `theta`.  The pair (events,
            log_weights) is reserved for a coming version and refused until then.
        """

    def observed(self, n_events: int | None, rng: np.random.Generator) -> NDArray[Any]:
        """Return the observed events, or those of a closure test.

        Not needed if events are given otherwise, as by `RunSpec(events=...)`.

        Parameters
        ----------
        n_events : int or None
            Number of events; None for the problem's own number.
        rng : numpy.random.Generator
            Source of all randomness.

        Returns
        -------
        ndarray (event, observable)
            The events.

        Raises
        ------
        NotImplementedError
            If the problem has no events.
        """
        name = type(self).__name__
        raise NotImplementedError(
            f"{name} has no events of its own. Give them: RunSpec(events=Observed(path)), check_problem(problem, "
            f"events); or write {name}.observed(n_events, rng)."
        )

    def features(self, events: Tensor) -> Tensor:
        """Return what the discriminator sees of each event, in place of the features that suit any events.

        A problem that does not override this method has the normal scores of its observables, their products and waves
        of their quantiles, all from the observed events; they do not depend on units, scale and offset.  Own features
        may be better for experts: the more linearly informative, the faster a run learns.  The best are the derivatives
        of the log-density of an event with respect to the parameters.  Constants and scales do not matter, because
        features are whitened.  `super().features(events)` are the observables, periodic ones as cosine and sine.

        Parameters
        ----------
        events : Tensor (..., observable)
            Simulated or observed events.

        Returns
        -------
        Tensor (..., feature)
            The features, differentiable in `events`.
        """
        around = intervals(self)
        if around.keys().isdisjoint(self.observables):
            return events
        columns = []
        for k, name in enumerate(self.observables):
            if name not in around:
                columns.append(events[..., k])
                continue
            angle = 2 * math.pi / (around[name][1] - around[name][0]) * events[..., k]
            columns += [angle.cos(), angle.sin()]
        return torch.stack(columns, dim=-1)

    def category(self, events: Tensor) -> Tensor:
        """Return the category of each event; by default 0.

        For observables that `simulate` cannot vary smoothly, such as the detector that saw the event.  `simulate` makes
        equal shares of all categories, whatever `theta`, and the trainer weights each by its observed share.

        Parameters
        ----------
        events : Tensor (..., observable)
            Simulated or observed events.

        Returns
        -------
        Tensor (...) of int
            Categories, from 0 to n_categories - 1.
        """
        return torch.zeros_like(events[..., 0], dtype=torch.long)

    def statistic(self, events: Tensor) -> Tensor:
        """Return what the likelihood and the constraints need of the observed events; by default the events.

        Parameters
        ----------
        events : Tensor (event, observable)
            Observed events.

        Returns
        -------
        Tensor
            For example a histogram of the events; passed to `log_likelihood` and `constraints`.
        """
        return events

    def constraints(self, theta: Tensor, statistic: Tensor) -> Tensor:
        """Return conditions on the parameters as residuals; by default none.

        For what is the same whenever the experiment is repeated.  Results of other measurements, which vary, belong to
        `priors` and `measurements`: only their errors are in the spread of an ensemble.

        Parameters
        ----------
        theta : Tensor (parameter,)
            The parameters, in their own units.
        statistic : Tensor
            What `statistic` returned for the observed events.

        Returns
        -------
        Tensor (constraint,)
            Deviations from what is known, divided by its standard deviations.
        """
        return theta[:0]

    def residuals(self, theta: Tensor, statistic: Tensor, shift: Tensor | float = 0.0) -> Tensor:
        """Return the residuals of constraints, priors and measurements, in this order; not to be overridden.

        Parameters
        ----------
        theta : Tensor (parameter,)
            The parameters, in their own units.
        statistic : Tensor
            What `statistic` returned for the observed events.
        shift : Tensor (external,)
            Shifts of the values of priors, then of measurements, in standard deviations (of correlated values along the
            columns of the Cholesky factor), as if they were measured again.

        Returns
        -------
        Tensor (residual,)
            Residuals, divided by their standard deviations.
        """
        constraints, known = self.constraints(theta, statistic), []
        if self.priors:
            columns = [self.parameters.index(name) for name in self.priors]
            value, deviation = (constant(each).like(theta) for each in zip(*self.priors.values(), strict=True))
            differences = theta.index_select(0, constant(columns, int).like(theta)) - value
            known.append(self._around_the_circle(differences, self.priors) / deviation)
        known += [measurement.residuals(theta) for measurement in self.measurements.values()]
        return torch.cat([constraints, torch.cat(known) - shift]) if known else constraints

    def _around_the_circle(self, differences: Tensor, names: Iterable[str]) -> Tensor:
        """Differences of these parameters (name,), along the shorter way around for periodic ones."""
        if not self.periodic:
            return differences
        _, period = circles(tuple(names), intervals(self))
        has_period = constant(~np.isnan(period), bool).like(differences)
        of_each = constant(np.nan_to_num(period, nan=1.0)).like(differences)
        return torch.where(has_period, wrapped(differences, of_each), differences)

    def log_likelihood(self, theta: Tensor, statistic: Tensor) -> Tensor:
        """Return the log-likelihood of the observed events, without constraints, priors and measurements.

        Optional: training does not use it, but a run can be compared with the fit that maximises it.

        Parameters
        ----------
        theta : Tensor (parameter,)
            The parameters, in their own units.
        statistic : Tensor
            What `statistic` returned for the observed events.

        Returns
        -------
        Tensor ()
            The logarithm, up to a constant; twice differentiable in `theta`.

        Raises
        ------
        NotImplementedError
            If the problem declares none.
        """
        raise NotImplementedError(
            f"{type(self).__name__} declares no log_likelihood, so it has no likelihood reference."
        )

    @property
    def has_likelihood(self) -> bool:
        """Whether the class declares a `log_likelihood`; not to be overridden."""
        return type(self).log_likelihood is not Problem.log_likelihood

    def image_of_parameters(self) -> tuple[int, int]:
        """Return the checked attribute `image`; not to be overridden.

        Returns
        -------
        (int, int)
            Numbers of rows and columns.

        Raises
        ------
        ValueError
            If there is no image, or its pixels are not as many as the parameters.
        """
        n, name = len(self.parameters), type(self).__name__
        if self.image is None or math.prod(self.image) != n:
            raise ValueError(
                f'Settings(generator="convolution"): the {n} parameters of {name} should be pixels of an image, and '
                f"its `image` is {self.image}. Set it in the class: image = (rows, columns)."
            )
        return self.image

    def scale(self, t: Tensor) -> Tensor:
        """Map the generator's output linearly to the ranges of the parameters.

        Parameters
        ----------
        t : Tensor (..., parameter)
            Numbers in (0, 1); any numbers for periodic parameters, which are taken to their ranges by whole periods.

        Returns
        -------
        Tensor (..., parameter)
            Parameters between `lower` and `upper`.
        """
        ends = np.asarray(self.lower, dtype=float), np.asarray(self.upper, dtype=float)
        lower, width = (constant(values).like(t) for values in (ends[0], ends[1] - ends[0]))
        if self.periodic:
            # A step of whole periods has no derivative, so that of theta is the same everywhere.
            t = torch.where(_periodic(self).like(t), t - t.detach().floor(), t)
        return torch.addcmul(lower, width, t)

    def refined(self, n: int) -> Self:
        """Return the same problem with the grids of its pipelines refined.

        Found are pipelines that are attributes of the class or the object, and static methods made of one, such as
        `simulate = staticmethod(detector.simulate)`.

        Parameters
        ----------
        n : int
            How many times as fine the grids become.

        Returns
        -------
        Problem
            A copy; the problem itself if it holds no pipeline.
        """
        replaced = dict(_refined_pipelines(self, n))
        if not replaced:
            return self
        finer = copy.copy(self)
        own = {name: replaced.pop(name) for name in vars(self) if name in replaced}
        vars(finer).update(own)
        # A subclass, because a pipeline may be a property; set past the values' own __setattr__, which refuses.
        kind = type(self)
        object.__setattr__(finer, "__class__", type(kind)(kind.__name__, (kind,), replaced))
        return finer


def events_of(problem: Problem, theta: Tensor, noise: Tensor) -> Tensor:
    """Simulated events (event, observable) of `problem.simulate`, in the type of theta.

    The one place that refuses event weights.
    """
    simulated = problem.simulate(theta, noise)
    if isinstance(simulated, tuple):
        raise NotImplementedError(
            f"{type(problem).__name__}.simulate returns a tuple of {len(simulated)}: event weights are not supported "
            "yet; the pair (events, log_weights) is reserved for a coming version. Return one Tensor (event, "
            "observable), whose columns torch.stack([x, y], dim=-1) joins. In place of a weight, multiply the density "
            "that a Pipeline samples by it."
        )
    # Constants in double precision would make double what they meet.
    return simulated.to(theta.dtype) if isinstance(simulated, Tensor) and simulated.is_floating_point() else simulated


def require_problem(given: Any) -> None:
    """Raise TypeError for anything but an object with a problem's methods, ValueError for an unclear `periodic`."""
    if isinstance(given, type):
        raise TypeError(f"{given.__name__} is a class; an object of it is needed. Type {given.__name__}().")
    if not hasattr(given, "simulate"):
        raise TypeError(
            f"{type(given).__name__} is not a problem, which comes first, before the events: an object such as Proxy()."
        )
    if getattr(given, "periodic", ()):
        try:
            intervals(given)
        except ValueError as error:
            raise ValueError(f"{type(given).__name__}: {error}") from None


def is_periodic(problem: Problem) -> Tensor:
    """Which parameters of a problem are periodic, Tensor (parameter,) of bool."""
    return _periodic(problem).values


def _periodic(problem: Problem) -> Constant:
    return constant([name in problem.periodic for name in problem.parameters], bool)


def n_external(problem: Problem) -> int:
    """How many values the priors and measurements of a problem have, each of which varies from chain to chain."""
    return len(problem.priors) + sum(len(measurement) for measurement in problem.measurements.values())


def misspelt(problem: Problem) -> list[str]:
    """Explain each attribute of a problem whose name is close to one of the contract, so that it has no effect."""
    bodies = [vars(cls) for cls in type(problem).__mro__ if issubclass(cls, Problem) and cls is not Problem]
    return [text for body in (*bodies, vars(problem)) for text in misspelt_in(type(problem), body, Problem)]


def _refined_pipelines(problem: Problem, n: int) -> Iterator[tuple[str, Any]]:
    """Names and refined values of the attributes that are, or are methods of, a pipeline."""
    for name in dir(problem):
        held = problem.pipeline if name == "pipeline" else inspect.getattr_static(problem, name)
        if isinstance(held, Pipeline):
            yield name, held.refined(n)
        elif isinstance(held, staticmethod) and isinstance(getattr(held.__func__, "__self__", None), Pipeline):
            yield name, staticmethod(getattr(held.__func__.__self__.refined(n), held.__func__.__name__))
