"""A problem: unknown parameters, a differentiable pipeline that ends in events, and the observed events.

A problem is written for ONE parameter vector, with plain torch; whoever needs many (the trainer, the tests) maps it by
`torch.vmap`.  It never draws random numbers while simulating: all noise comes in as an argument.  Nothing here knows
networks, ranks or files.
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor


class Problem(ABC):
    """Base class of all problems.

    Attributes
    ----------
    parameters : tuple of str
        Names of the unknowns, in the order of `theta`.
    lower, upper : tuple of float
        Range of each parameter; the generator's output always lies inside it.
    units : dict of str to str
        Units of parameters and observables where they have one.
    long_names : dict of str to str
        What parameters and observables are, in words, where their names do not say it.
    observables : tuple of str
        Names of an event's columns.
    noise_dim : int
        Uniform random numbers that one event consumes.
    n_categories : int
        Number of categories of events, see `category`.
    image : (int, int) or None
        Rows and columns, if the parameters are pixels of an image, row by row: for Settings(generator="convolution").
    truth : tuple of float or None
        The parameters the observed events were made with (closure test), else None.
    published : dict of str to (value, deviation)
        Published measurements to compare with, if any.
    priors : dict of str to (value, deviation)
        What is known of parameters beside the events, from a calibration for instance, with normal errors.
    """

    parameters: tuple[str, ...]
    lower: tuple[float, ...]
    upper: tuple[float, ...]
    observables: tuple[str, ...]
    noise_dim: int
    n_categories: int = 1
    units: dict[str, str] = {}
    long_names: dict[str, str] = {}
    image: tuple[int, int] | None = None
    truth: tuple[float, ...] | None = None
    published: dict[str, tuple[float, float]] = {}
    priors: dict[str, tuple[float, float]] = {}

    def __repr__(self):
        # Without the place in memory, which is another one on each rank.
        return f"{type(self).__name__}({'...' if vars(self) else ''})"

    @abstractmethod
    def simulate(self, theta: Tensor, noise: Tensor) -> Tensor:
        """Events of one parameter vector: pure, and differentiable in `theta`.

        Parameters
        ----------
        theta : Tensor (parameter,)
        noise : Tensor (event, noise_dim)
            Uniform numbers in [0, 1).

        Returns
        -------
        Tensor (event, observable)
        """

    def observed(self, n_events, rng):
        """The observed events, or a closure sample of them; not needed where they come from elsewhere.

        Parameters
        ----------
        n_events : int or None
            How many; None takes the problem's own number.
        rng : numpy.random.Generator

        Returns
        -------
        ndarray (event, observable)
        """
        name = type(self).__name__
        raise NotImplementedError(
            f"{name} has no events of its own. Give them: RunSpec(events=Observed(path)), check_problem(problem, "
            f"events); or write {name}.observed(n_events, rng)."
        )

    def features(self, events: Tensor) -> Tensor:
        """What the discriminator sees of each event, (..., observable) -> (..., feature); the events by default."""
        return events

    def category(self, events: Tensor) -> Tensor:
        """Category of each event, (..., observable) -> (...) of int from 0 to n_categories - 1.

        For observables that `simulate` cannot vary smoothly, such as the detector that saw the event: it makes equal
        shares of all categories, whatever `theta`, and the trainer gives each the weight of its observed share.
        """
        return torch.zeros_like(events[..., 0], dtype=torch.long)

    def statistic(self, events: Tensor) -> Tensor:
        """What the likelihood and the constraints need of the observed events; the events themselves by default."""
        return events

    def constraints(self, theta: Tensor, statistic: Tensor) -> Tensor:
        """Further knowledge on `theta`, as residuals in units of their standard deviations: (constraint,)."""
        return theta[:0]

    def residuals(self, theta: Tensor, statistic: Tensor, shift=0.0) -> Tensor:
        """The constraints, then the distances from the priors, in units of their deviations; not to be overridden.

        Parameters
        ----------
        theta : Tensor (parameter,)
        statistic : Tensor
        shift : Tensor (prior,)
            By how much the priors' values are moved up, in deviations: another calibration would give other ones.

        Returns
        -------
        Tensor (constraint,)
        """
        constraints = self.constraints(theta, statistic)
        if not self.priors:
            return constraints
        columns = [self.parameters.index(name) for name in self.priors]
        value, deviation = torch.tensor(list(self.priors.values()), dtype=theta.dtype, device=theta.device).T
        return torch.cat([constraints, (theta[columns] - value) / deviation - shift])

    def log_likelihood(self, theta: Tensor, statistic: Tensor) -> Tensor:
        """Log-likelihood of the observed events without the constraints: a scalar, differentiable in `theta`."""
        raise NotImplementedError(
            f"{type(self).__name__} declares no log_likelihood, so it has no likelihood reference."
        )

    @property
    def has_likelihood(self) -> bool:
        """Whether the class declares a `log_likelihood`; not to be overridden."""
        return type(self).log_likelihood is not Problem.log_likelihood

    def image_of_parameters(self):
        """`image`; not to be overridden.

        Raises
        ------
        ValueError
            If there is none, or it does not have as many pixels as there are parameters.
        """
        n, name = len(self.parameters), type(self).__name__
        if self.image is None or math.prod(self.image) != n:
            raise ValueError(
                f'Settings(generator="convolution"): the {n} parameters of {name} should be pixels of an image, and '
                f"its `image` is {self.image}. Say in the class how many there are: image = (rows, columns)."
            )
        return self.image

    def scale(self, t: Tensor) -> Tensor:
        """Map t in (0, 1), the generator's output, to theta: (..., parameter) -> (..., parameter)."""
        lower, upper = (torch.as_tensor(bound, dtype=t.dtype, device=t.device) for bound in (self.lower, self.upper))
        return lower + (upper - lower) * t
