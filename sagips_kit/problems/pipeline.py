"""A pipeline of stages for `Problem.simulate`: theory, sampler, smearing by a detector, selection.

The theory is a density on a grid, because both the sampler and the selection need it.

Each event moves smoothly with the parameters, also after a selection: the probability to be selected is a factor of
the density that true values are drawn from, and the measured value is drawn inside the selection.  No event has a
weight, and none appears or disappears.
"""

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any, Self, TypeAlias

import torch
from torch import Tensor

from .samplers import EDGE, WITHOUT, Sampler

# A standard deviation, or a function of the true values (event,) that returns one for each
Sigma: TypeAlias = float | Callable[[Tensor], Tensor]
Window: TypeAlias = tuple[float | None, float | None]

_OPEN = 8.0  # standard deviations beyond the grid to which measured values without limits are tabulated
_ORDER = "should be Pipeline(theory, Separate(...) or Plane(...), Smear(...) or None, Select(...) or None)."
_PER_SIGMA, _MOST_POINTS = 20, 8  # points of measured values: per standard deviation, and at most per point of the grid
_LEAST = 1e-30  # probability, 11 standard deviations away, below which it is not inverted


class Smear:
    """Normal errors of measurement, a stage of a `Pipeline`.

    Parameters
    ----------
    *sigmas : float or function
        Standard deviation of each observable, in its unit; a function of the true values (event,) returns one for each
        event.

    Raises
    ------
    ValueError
        For a standard deviation that is not positive.

    See Also
    --------
    Select : Select measured values.
    Pipeline : Where the stage is used.

    Examples
    --------
    An energy with a relative resolution, and an angle:

    >>> import torch
    >>> from sagips_kit import Smear
    >>> smear = Smear(lambda energy: 0.1 * energy.sqrt(), 0.02)
    >>> smear.at(0, torch.tensor([4.0, 9.0]))
    tensor([0.2000, 0.3000])
    """

    def __init__(self, *sigmas: Sigma):
        for sigma in sigmas:
            if not callable(sigma) and not sigma > 0:
                raise ValueError(f"Smear: sigma = {sigma!r}: should be above 0, or a function of the true values.")
        self.sigmas = sigmas

    def at(self, k: int, true: Tensor) -> Tensor:
        """Return the standard deviation of an observable at true values.

        Parameters
        ----------
        k : int
            Index of the observable.
        true : Tensor (event,)
            Its true values.

        Returns
        -------
        Tensor (event,)
            The standard deviations.
        """
        sigma = self.sigmas[k]
        return sigma(true) if callable(sigma) else torch.full_like(true, sigma)


class Select:
    """A window for each measured observable, a stage of a `Pipeline`.

    Parameters
    ----------
    *windows : (float or None, float or None)
        Lower and upper limit of each observable, in its unit; None where there is no limit.

    Attributes
    ----------
    windows : tuple of (float or None, float or None)
        The windows.

    Raises
    ------
    ValueError
        For what is not a pair, or limits in the wrong order.

    See Also
    --------
    Smear : Errors of measurement, which a selection needs.
    Pipeline : Where the stage is used.

    Examples
    --------
    The first observable between 2 and 9, the second above 0.1:

    >>> from sagips_kit import Select
    >>> Select((2.0, 9.0), (0.1, None)).windows
    ((2.0, 9.0), (0.1, None))
    """

    def __init__(self, *windows: Window):
        for window in windows:
            if not (isinstance(window, (tuple, list)) and len(window) == 2):
                raise ValueError(
                    f"Select: {window!r} is not a window: should be (lower, upper) for each observable, as in "
                    "Select((2.0, 9.0)), with None where there is no limit."
                )
            low, high = window
            if low is not None and high is not None and not low < high:
                raise ValueError(f"Select: window = {window!r}: the lower limit should be below the upper one.")
        self.windows: tuple[Window, ...] = tuple((low, high) for low, high in windows)


class Pipeline:
    """Theory, sampler, smearing and selection in a row, for the methods of a `Problem`.

    Parameters
    ----------
    theory : function
        (theta, `*grids`) -> density at the points of the grids, not negative and of any norm: one Tensor (grid,) for
        each observable with `Separate`, a table (x, y) with `Plane`.  An efficiency that depends on true values is a
        factor of the density; several kinds of events are a sum of densities.
    sampler : Separate or Plane
        The grids, and how true values are drawn.
    smear : Smear or None
        Normal errors of measurement.
    select : Select or None
        Windows of the measured values.  It needs `smear`: without errors, let the grids end where the selection does.

    Attributes
    ----------
    noise_dim : int
        Number of uniform random numbers that one event consumes: the problem's `noise_dim`.

    Raises
    ------
    ValueError
        For a theory that is not a function, stages in the wrong order or of different numbers of observables, a
        selection without smearing, or a window that no event can reach.

    See Also
    --------
    Problem : The contract that the methods of a pipeline serve.

    Examples
    --------
    A peak on a falling background, measured with a resolution of 0.2 GeV and selected from 2 to 9 GeV:

    >>> import torch
    >>> from sagips_kit import Pipeline, Problem, Select, Separate, Smear
    >>> def density(theta, mass):
    ...     position, signal = theta
    ...     return signal * torch.exp(-0.5 * ((mass - position) / 0.3) ** 2) + torch.exp(-mass / 3)
    >>> class Peak(Problem):
    ...     parameters, lower, upper = ("position", "signal"), (4.0, 0.1), (6.0, 2.0)
    ...     observables, units = ("mass",), {"mass": "GeV", "position": "GeV"}
    ...     pipeline = Pipeline(density, Separate(torch.linspace(0, 10, 801)), Smear(0.2), Select((2.0, 9.0)))
    ...     noise_dim = pipeline.noise_dim
    ...
    ...     def simulate(self, theta, noise):
    ...         return self.pipeline.simulate(theta, noise)
    ...
    ...     def log_likelihood(self, theta, statistic):
    ...         return self.pipeline.log_likelihood(theta, statistic)
    >>> problem, theta = Peak(), torch.tensor([5.0, 0.5])
    >>> events = problem.simulate(theta, torch.rand(1000, problem.noise_dim))
    >>> events.shape, bool(events.min() >= 2), bool(events.max() <= 9)
    (torch.Size([1000, 1]), True, True)
    >>> round(problem.pipeline.efficiency(theta).item(), 2)
    0.54
    """

    def __init__(
        self,
        theory: Callable[..., Any],
        sampler: Sampler[Any],
        smear: Smear | None = None,
        select: Select | None = None,
    ):
        if not callable(theory):
            raise ValueError(f"theory = {theory!r}: should be a function (theta, `*grids`) -> density. {WITHOUT}")
        for given, kinds in [(sampler, Sampler), (smear, Smear | None), (select, Select | None)]:
            if not isinstance(given, kinds):
                raise ValueError(f"a {type(given).__name__} is in the wrong place: {_ORDER}")
        n = len(sampler.grids)
        for name, given in [("Smear", smear and smear.sigmas), ("Select", select and select.windows)]:
            if given is not None and len(given) != n:
                raise ValueError(f"{name} is for {len(given)} observables, the sampler for {n}: give one for each.")
        if select is not None and smear is None:
            raise ValueError(
                "select without smear: let the sampler's grids end where the selection does, for instance "
                "Pipeline(theory, Separate(torch.linspace(2, 9, 801)))."
            )
        self.theory, self.sampler, self.smear = theory, sampler, smear
        self._windows: tuple[Window, ...] = select.windows if select is not None else ((None, None),) * n
        self.noise_dim = n if smear is None else 2 * n
        self._check_windows()

    def simulate(self, theta: Tensor, noise: Tensor) -> Tensor:
        """Simulate measured and selected events, differentiably.

        Parameters
        ----------
        theta : Tensor (parameter,)
            The parameters, passed to the theory.
        noise : Tensor (event, noise_dim)
            Uniform numbers in [0, 1).

        Returns
        -------
        Tensor (event, observable)
            One event for each row of the noise.

        Raises
        ------
        ValueError
            For noise of another number of columns, or a density of the wrong shape.
        """
        if noise.shape[-1] != self.noise_dim:
            raise ValueError(
                f"noise of {noise.shape[-1]} columns: this Pipeline needs {self.noise_dim}. Write in the class of the "
                "problem: noise_dim = <your pipeline>.noise_dim."
            )
        noise = noise.T.contiguous()
        true = self.sampler.sample(self._accepted(theta), noise[: len(self.sampler.grids)])
        if self.smear is not None:
            rows = noise[len(true) :]
            true = [self._measured(self.smear, k, *each) for k, each in enumerate(zip(true, rows, strict=True))]
        return torch.stack(true, dim=-1)

    def norm(self, theta: Tensor) -> Tensor:
        """Return the integral of the theory's density before any selection.

        Parameters
        ----------
        theta : Tensor (parameter,)
            The parameters.

        Returns
        -------
        Tensor ()
            The integral by trapezoids, differentiable.
        """
        return self.sampler.integral(self.sampler.density(self.theory, theta))

    def efficiency(self, theta: Tensor) -> Tensor:
        """Return the fraction of the true events that is selected.

        Parameters
        ----------
        theta : Tensor (parameter,)
            The parameters.

        Returns
        -------
        Tensor ()
            Between 0 and 1, differentiable.
        """
        return self.sampler.integral(self._accepted(theta)) / self.norm(theta)

    def log_likelihood(self, theta: Tensor, events: Tensor) -> Tensor:
        """Return the log-likelihood of measured and selected events.

        Parameters
        ----------
        theta : Tensor (parameter,)
            The parameters.
        events : Tensor (event, observable)
            Measured values inside the windows.

        Returns
        -------
        Tensor ()
            The sum over the events of the logarithm of their normalised density, differentiable.
        """
        density, points = self.sampler.density(self.theory, theta), self.sampler.grids_like(theta)
        norm = self.sampler.integral(self._accepted(theta))
        if self.smear is not None:
            points = [self._points(self.smear, k, grid) for k, grid in enumerate(points)]
            responses = [self._response(self.smear, k, at) for k, at in enumerate(points)]
            density = self.sampler.convolve(density, responses)
        return self.sampler.log_at(density, points, events.to(theta)).sum() - len(events) * norm.log()

    def refined(self, n: int) -> Self:
        """Return the same pipeline on finer grids, to measure the error that the grids make.

        A theory that works only at the points of the original grids is a table, and is interpolated linearly.

        Parameters
        ----------
        n : int
            How many times as fine the grids become, at least 1.

        Returns
        -------
        Pipeline
            A new pipeline.

        Raises
        ------
        ValueError
            If `n` is not a whole number of at least 1.
        """
        finer = copy.copy(self)
        finer.sampler = self.sampler.refined(n)
        return finer

    def _accepted(self, theta: Tensor) -> Any:
        """The density of the true values of events that are selected."""
        density = self.sampler.density(self.theory, theta)
        if self.smear is None:
            return density
        return self.sampler.weigh(density, self._acceptances(self.smear, self.sampler.grids_like(theta)))

    def _acceptances(self, smear: Smear, grids: Sequence[Tensor]) -> list[Tensor]:
        """Probability of each observable to be measured inside its window, at the true values of its grid."""
        factors = []
        for k, grid in enumerate(grids):
            _, below, above = _tails(*self._limits(k, grid, smear.at(k, grid)))
            factors.append(above - below)
        return factors

    def _check_windows(self) -> None:
        """Raise ValueError for a window that no event of the grid can reach."""
        if self.smear is None:
            return
        grids = self.sampler.grids
        for grid, window, factor in zip(grids, self._windows, self._acceptances(self.smear, grids), strict=True):
            if not (factor > 0).any():
                raise ValueError(
                    f"Select: window = {window}: no event can reach it, because the grid goes from {grid[0]:g} to "
                    f"{grid[-1]:g}. Compare the units of the two."
                )

    def _limits(self, k: int, true: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """The window of observable k, in standard deviations from the true values."""
        low, high = self._windows[k]
        lower = torch.full_like(true, -torch.inf) if low is None else (low - true) / sigma
        upper = torch.full_like(true, torch.inf) if high is None else (high - true) / sigma
        return lower, upper

    def _measured(self, smear: Smear, k: int, true: Tensor, u: Tensor) -> Tensor:
        """Measured values (event,): normal around the true values, inside the window."""
        sigma = smear.at(k, true)
        sign, below, above = _tails(*self._limits(k, true, sigma))
        # In both tails the fraction u lies below the event, so none jumps where the sign changes.
        u = torch.where(sign > 0, u, 1 - u).clamp(EDGE, 1 - EDGE)
        probability = below + (above - below) * u
        pull = torch.special.ndtri(probability.clamp(min=_LEAST))
        # Rounding must not carry an event out of the window.
        measured = true + sigma * sign * pull
        return measured if self._windows[k] == (None, None) else measured.clamp(*self._windows[k])

    def _points(self, smear: Smear, k: int, grid: Tensor) -> Tensor:
        """Points over the window at which the density of measured values is tabulated: no coarser than the grid.

        The density is interpolated between them, so they are close in comparison with the errors of measurement.
        """
        low, high = self._windows[k]
        sigma = smear.at(k, grid)
        low = grid[0] - _OPEN * sigma[0] if low is None else torch.as_tensor(low).to(grid)
        high = grid[-1] + _OPEN * sigma[-1] if high is None else torch.as_tensor(high).to(grid)
        wanted = math.ceil(_PER_SIGMA * float((high - low) / sigma.min()))
        n = max(len(grid), min(wanted, _MOST_POINTS * len(grid)))
        return low + (high - low) * torch.linspace(0, 1, n).to(grid)

    def _response(self, smear: Smear, k: int, points: Tensor) -> Tensor:
        """Density of measured values at points for each true one, times the width of its cell: (measured, grid)."""
        grid = self.sampler.grids[k].to(points)
        sigma = smear.at(k, grid)
        widths = torch.nn.functional.pad(grid.diff(), (1, 1))
        normal = torch.exp(-0.5 * ((points[:, None] - grid) / sigma) ** 2) / (sigma * math.sqrt(2 * math.pi))
        return normal * (widths[1:] + widths[:-1]) / 2


def _tails(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The part of a normal distribution between limits: sign, and the probabilities below both in the lower tail.

    Probabilities have all their digits in the lower tail only.  Limits in the upper tail are reflected, which the sign
    -1 undoes.
    """
    sign = torch.where(low + high > 0, -1.0, 1.0)
    low, high = torch.where(sign > 0, low, -high), torch.where(sign > 0, high, -low)
    # torch.special.ndtr computes 1 + erf, which rounds the tail away.
    below, above = (0.5 * torch.special.erfc(limit * -math.sqrt(0.5)) for limit in (low, high))
    return sign, below, above
