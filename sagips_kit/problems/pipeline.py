"""A pipeline of stages for `Problem.simulate`: theory, sampler, smearing by a detector, selection.

The theory is a density on a grid, since both the sampler and the selection need it.

Every event moves smoothly with the parameters, selected ones too: the probability to be selected is a factor of the
density that true values are drawn from, and the measured value is drawn inside the selection.  So there are neither
weights nor events that come and go.
"""

import math

import torch

from .samplers import EDGE, WITHOUT, Separate

_OPEN = 8.0  # deviations beyond the grid to which measured values without limits are looked up
_ORDER = "should be Pipeline(theory, Separate(...) or Plane(...), Smear(...) or None, Select(...) or None)."
_PER_SIGMA, _MOST_POINTS = 20, 8  # points of measured values: for each deviation, and for each point of the grid
_LEAST = 1e-30  # probability, 11 deviations away, below which it is not inverted


class Smear:
    """Normal errors of measurement.

    Parameters
    ----------
    *sigmas : float or function
        Deviation of each observable, or a function of the true values (event,) that returns it.
    """

    def __init__(self, *sigmas):
        for sigma in sigmas:
            if not callable(sigma) and not sigma > 0:
                raise ValueError(f"Smear: sigma = {sigma!r}: should be above 0, or a function of the true values.")
        self.sigmas = sigmas

    def at(self, k, true):
        """Deviation of observable k at the true values."""
        sigma = self.sigmas[k]
        return sigma(true) if callable(sigma) else torch.full_like(true, sigma)


class Select:
    """A window for each measured observable.

    Parameters
    ----------
    *windows : (float or None, float or None)
        Lower and upper limit of each observable; None where there is no limit.
    """

    def __init__(self, *windows):
        for window in windows:
            if not (isinstance(window, (tuple, list)) and len(window) == 2):
                raise ValueError(
                    f"Select: {window!r} is no window: should be (lower, upper) for each observable, as in "
                    "Select((2.0, 9.0)), with None where there is no limit."
                )
            low, high = window
            if low is not None and high is not None and not low < high:
                raise ValueError(f"Select: window = {window!r}: the lower limit should be below the upper one.")
        self.windows = tuple(tuple(window) for window in windows)


class Pipeline:
    """Theory, sampler, smearing and selection, one after the other.

    Parameters
    ----------
    theory : function
        (theta, *grids) -> densities at the points of the grids, non-negative and of any norm: one (grid,) for each
        observable with `Separate`, a table (x, y) with `Plane`.  An efficiency that depends on the true values is a
        factor of it.
    sampler : Separate or Plane
    smear : Smear or None
    select : Select or None
        Needs `smear`: without it, let the grids end where the selection does.

    Attributes
    ----------
    noise_dim : int
        What the problem's `noise_dim` should be.

    Raises
    ------
    ValueError
        For a theory that is no function, stages of different numbers of observables, or a selection without smearing.
    """

    def __init__(self, theory, sampler, smear=None, select=None):
        if not callable(theory):
            raise ValueError(f"theory = {theory!r}: should be a function (theta, *grids) -> density. {WITHOUT}")
        for given, kinds in [(sampler, Separate), (smear, Smear | None), (select, Select | None)]:
            if not isinstance(given, kinds):
                raise ValueError(f"a {type(given).__name__} is not in its place: {_ORDER}")
        n = len(sampler.grids)
        for name, given in [("Smear", smear and smear.sigmas), ("Select", select and select.windows)]:
            if given is not None and len(given) != n:
                raise ValueError(f"{name} is for {len(given)} observables, and the sampler for {n}: give one for each.")
        if select is not None and smear is None:
            raise ValueError("select without smear: let the sampler's grids end where the selection does.")
        self.theory, self.sampler, self.smear = theory, sampler, smear
        self._windows = select.windows if select is not None else ((None, None),) * n
        self.noise_dim = n if smear is None else 2 * n
        self._check_windows()

    def simulate(self, theta, noise):
        """Measured and selected events, (parameter,), (event, noise_dim) -> (event, observable)."""
        if noise.shape[-1] != self.noise_dim:
            raise ValueError(
                f"noise of {noise.shape[-1]} columns: this Pipeline needs {self.noise_dim}. Write in the class of the "
                "problem: noise_dim = <your pipeline>.noise_dim."
            )
        noise = noise.T.contiguous()
        true = self.sampler.sample(self._accepted(theta), noise[: len(self.sampler.grids)])
        if self.smear is not None:
            rows = noise[len(true) :]
            true = [self._measured(k, *each) for k, each in enumerate(zip(true, rows, strict=True))]
        return torch.stack(true, dim=-1)

    def norm(self, theta):
        """Integral of the theory's density, nothing selected: a scalar, differentiable."""
        return self.sampler.integral(self.sampler.density(self.theory, theta))

    def efficiency(self, theta):
        """Fraction of the true events that is selected: a scalar, differentiable."""
        return self.sampler.integral(self._accepted(theta)) / self.norm(theta)

    def log_likelihood(self, theta, events):
        """Log-likelihood of measured and selected events (event, observable): a scalar, differentiable."""
        density, points = self.sampler.density(self.theory, theta), self.sampler.grids_like(theta)
        norm = self.sampler.integral(self._accepted(theta))
        if self.smear is not None:
            points = [self._points(k, grid) for k, grid in enumerate(points)]
            density = self.sampler.convolve(density, [self._response(k, at) for k, at in enumerate(points)])
        return self.sampler.log_at(density, points, events.to(theta)).sum() - len(events) * norm.log()

    def _accepted(self, theta):
        """The density of the true values of events that are selected."""
        density = self.sampler.density(self.theory, theta)
        if self.smear is None:
            return density
        factors = []
        for k, grid in enumerate(self.sampler.grids_like(theta)):
            _, below, above = _tails(*self._limits(k, grid, self.smear.at(k, grid)))
            factors.append(above - below)
        return self.sampler.weigh(density, factors)

    def _check_windows(self):
        """Raise ValueError for a window that no event of the grid can get into."""
        for k, (grid, window) in enumerate(zip(self.sampler.grids, self._windows, strict=True)):
            if self.smear is not None:
                _, below, above = _tails(*self._limits(k, grid, self.smear.at(k, grid)))
                if not (above > below).any():
                    raise ValueError(f"Select: window = {window}: the grid goes from {grid[0]:g} to {grid[-1]:g}.")

    def _limits(self, k, true, sigma):
        """The window of observable k in deviations from the true values."""
        low, high = self._windows[k]
        lower = torch.full_like(true, -torch.inf) if low is None else (low - true) / sigma
        upper = torch.full_like(true, torch.inf) if high is None else (high - true) / sigma
        return lower, upper

    def _measured(self, k, true, u):
        """Normal around the true values, inside the window."""
        sigma = self.smear.at(k, true)
        sign, below, above = _tails(*self._limits(k, true, sigma))
        # The fraction u lies below the event in either tail, so none jumps when it comes to the other one.
        u = torch.where(sign > 0, u, 1 - u).clamp(EDGE, 1 - EDGE)
        probability = below + (above - below) * u
        pull = torch.special.ndtri(probability.clamp(min=_LEAST))
        # Rounding must not carry an event out of the window.
        measured = true + sigma * sign * pull
        return measured if self._windows[k] == (None, None) else measured.clamp(*self._windows[k])

    def _points(self, k, grid):
        """Where the density of measured values is computed, over the window: no coarser than the grid.

        Between them it is interpolated, so they lie close in comparison with the errors of measurement.
        """
        low, high = self._windows[k]
        sigma = self.smear.at(k, grid)
        low = grid[0] - _OPEN * sigma[0] if low is None else torch.as_tensor(low).to(grid)
        high = grid[-1] + _OPEN * sigma[-1] if high is None else torch.as_tensor(high).to(grid)
        wanted = math.ceil(_PER_SIGMA * float((high - low) / sigma.min()))
        n = max(len(grid), min(wanted, _MOST_POINTS * len(grid)))
        return low + (high - low) * torch.linspace(0, 1, n).to(grid)

    def _response(self, k, points):
        """Density of measured values at points for each true one, times the width of its cell: (measured, grid)."""
        grid = self.sampler.grids[k].to(points)
        sigma = self.smear.at(k, grid)
        widths = torch.nn.functional.pad(grid.diff(), (1, 1))
        normal = torch.exp(-0.5 * ((points[:, None] - grid) / sigma) ** 2) / (sigma * math.sqrt(2 * math.pi))
        return normal * (widths[1:] + widths[:-1]) / 2


def _tails(low, high):
    """The part of a normal distribution between limits: sign, and probabilities below both in the lower tail.

    There they have all their digits.  Limits of the upper tail are reflected, which the sign -1 undoes.
    """
    sign = torch.where(low + high > 0, -1.0, 1.0)
    low, high = torch.where(sign > 0, low, -high), torch.where(sign > 0, high, -low)
    # torch.special.ndtr would be 1 + erf, which rounds the tail away.
    return sign, *(0.5 * torch.special.erfc(limit * -math.sqrt(0.5)) for limit in (low, high))
