"""Reactor neutrinos: the real events of Daya Bay, and a differentiable model of what its three halls should see.

An event is (prompt energy, hall).  All that does not depend on the parameters is computed once, in float64, from the
collaboration's published inputs; a prediction then takes three small matrix products, a simulation one more inverse
CDF.
"""

import functools
import math
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..._value import Count, ValueClass, value
from ..base import Problem
from ..constants import Constant
from ..measurement import Measurement
from . import inputs

# Harmonics beyond the knots, and for the difference of the near halls.  With 14 or 20 knots they keep all linear
# information on the mixing and lose 3 % of the rest; with two harmonics less, 8 % on the difference of the last knots.
_N_MORE, _N_NEAR = 4, 8
_KNOTS, _PIVOT = (2.0, 8.0), 4.0  # MeV, of the antineutrino
_DM2_MID, _DM2_HALF, _DM2_ORDER = 2.5e-3, 0.6e-3, 10  # eV^2; error of the Taylor series below 1e-6
_PERIODS = ("6AD", "8AD", "7AD")
_HALLS = ("EH1", "EH2", "EH3")
_NUISANCES = {
    "scale": "relative energy scale",
    "rate": "relative rate, from efficiency (beyond what is correlated with the energy scale) and reactors",
    "lithium": "relative background of lithium and helium",
}
_RANGE = 4.0  # of a nuisance, in standard deviations
_SCALE_STEP = 2e-3  # about one standard deviation; the terms beyond the linear one are below 1e-5


class Survival(NamedTuple):
    """What is left of the antineutrinos, relative to no oscillation by theta13; see `DayaBay.survival`.

    Attributes
    ----------
    length_over_energy : ndarray (hall, bin)
        Mean distance over energy of the antineutrinos of each bin, m/MeV.
    observed, error : Tensor (hall, bin)
        Observed events without backgrounds over those expected without oscillation, and its statistical error.
    expected : Tensor (hall, bin)
        The same for the expected events.
    """

    length_over_energy: NDArray[np.float64]
    observed: Tensor
    error: Tensor
    expected: Tensor


class _Tables(NamedTuple):
    terms: Tensor  # (term, hall * energy): factors of 1, cos^4(theta13), sin^2(2 theta13), sin^2(2 theta13) x^k
    shapes: Tensor  # (energy, knot): log of the spectrum per unit of each shape coefficient
    response: Tensor  # (energy, bin): probability of each prompt energy
    slope: Tensor  # (energy, bin): its change per unit of the energy scale
    background: Tensor  # (hall, bin)
    lithium: Tensor  # (hall, bin): the part of the background that comes from lithium and helium
    observed: Tensor  # (hall, bin)


@value
class DayaBay(Problem, metaclass=ValueClass):
    """Neutrino mixing from 5.5 million real events of Daya Bay.

    The unknowns are sin^2(2 theta13), Dm^2_32 (normal ordering), the norm of all reactor events, and a correction of
    the Huber-Mueller spectrum.  The correction is the logarithm of the spectrum at `n_knots` energies relative to the
    one near 4 MeV, linear in between; its mean over the expected events is subtracted, so it does not change the norm.
    An observed event is a count of the published 50 keV histograms from 0.9 to 7.5 MeV, at a uniformly random energy in
    its bin (the resolution is three times wider).

    Nuisance parameters, with their published errors, are the energy scale, the relative rate and the background of
    lithium and helium of each hall.  The rates are uncertain by the efficiency of the detectors and, with correlations
    between the halls, by power, fission fractions, isotopes out of equilibrium and spent fuel of each reactor.  Fixed
    are effects common to near and far halls, which the free spectrum absorbs (non-linearity, resolution), differences
    between the spectra of reactors, and backgrounds below 0.03 % of the events.

    Parameters
    ----------
    period : {"6AD", "8AD", "7AD", "all"}
        Data-taking period, named after its number of detectors.  The publication used all.
    n_knots : int
        Number of shape coefficients of the reactor spectrum, `spectrum_1` (2 MeV) to `spectrum_<n_knots>` (8 MeV).
    nuisances : bool
        Whether to fit the nuisance parameters; without them all errors are statistical.

    Raises
    ------
    ModuleNotFoundError
        On first use of the data if their package is missing; the text shows the command that installs it.

    See Also
    --------
    Problem : The contract of all problems, and the methods of this one.

    References
    ----------
    Data: Zenodo 10.5281/zenodo.17587229.  Published values: Phys. Rev. Lett. 130, 161802 (2023).

    Examples
    --------
    >>> import numpy as np
    >>> from sagips_kit import DayaBay
    >>> problem = DayaBay(period="8AD")
    >>> problem.observed(5, np.random.default_rng(0)).shape  # energy in MeV, and hall
    (5, 2)
    >>> len(problem.parameters), len(problem.priors), len(problem.measurements["rate"])
    (26, 6, 3)
    >>> problem.published["sin2_2theta13"]
    (0.0851, 0.0024)
    """

    period: Literal["6AD", "8AD", "7AD", "all"] = "8AD"
    n_knots: Count = 14
    nuisances: bool = True

    observables = ("energy", "hall")
    noise_dim = 1
    n_categories = inputs.N_HALLS
    category_names = _HALLS
    interest = ("sin2_2theta13", "dm2_32")
    units = {"dm2_32": "eV^2", "energy": "MeV"}
    published = {"sin2_2theta13": (0.0851, 0.0024), "dm2_32": (2.466e-3, 0.060e-3)}

    @property
    def parameters(self) -> tuple[str, ...]:
        """tuple of str: Names of the unknowns, nuisance parameters last."""
        spectrum = (f"spectrum_{k + 1}" for k in range(self.n_knots))
        return ("sin2_2theta13", "dm2_32", *spectrum, "norm", *self._nuisances)

    @property
    def lower(self) -> tuple[float, ...]:
        """tuple of float (parameter,): Lower ends of the ranges."""
        nuisances = (-_RANGE * deviation for deviation in self._nuisances.values())
        return (0.03, _DM2_MID - _DM2_HALF, *[-0.25] * self.n_knots, 0.85, *nuisances)

    @property
    def upper(self) -> tuple[float, ...]:
        """tuple of float (parameter,): Upper ends of the ranges."""
        nuisances = (_RANGE * deviation for deviation in self._nuisances.values())
        return (0.14, _DM2_MID + _DM2_HALF, *[0.25] * self.n_knots, 1.1, *nuisances)

    @property
    def priors(self) -> dict[str, tuple[float, float]]:
        """dict of str to (value, deviation): Published errors of the other nuisance parameters than the rates."""
        return {name: (0.0, deviation) for name, deviation in self._nuisances.items() if not name.startswith("rate")}

    @property
    def measurements(self) -> dict[str, Measurement]:
        """dict of str to Measurement: Published errors of the rates of the halls, which are correlated."""
        if not self.nuisances:
            return {}
        return {"rate": _rates(self._periods, self.parameters.index(f"rate_{_HALLS[0]}"))}

    @property
    def _nuisances(self) -> dict[str, float]:
        """Published deviations of the nuisance parameters."""
        if not self.nuisances:
            return {}
        scale, _, _, lithium = inputs.detector_errors(self._periods)
        deviations = (scale, np.sqrt(_rate_errors(self._periods).diagonal()), lithium)
        return {
            f"{kind}_{hall}": float(deviation)
            for kind, halls in zip(_NUISANCES, deviations, strict=True)
            for hall, deviation in zip(_HALLS, halls, strict=True)
        }

    @property
    def long_names(self) -> dict[str, str]:
        """dict of str to str: Descriptions of parameters and observables."""
        names = {
            "sin2_2theta13": "sin^2(2 theta13)",
            "dm2_32": "Dm^2_32 (normal ordering)",
            "norm": "norm of all reactor events",
            "energy": "prompt energy",
            "hall": "experimental hall (0 and 1 near, 2 far)",
        }
        nuisances = [name.split("_") for name in self._nuisances]
        return names | {f"{kind}_{hall}": f"{_NUISANCES[kind]}, {hall}" for kind, hall in nuisances}

    @property
    def labels(self) -> dict[str, str]:
        """dict of str to str: Symbols of parameters and observables, for pictures and LaTeX."""
        symbols = {
            "sin2_2theta13": r"$\sin^2 2\theta_{13}$",
            "dm2_32": r"$\Delta m^2_{32}$",
            "norm": r"$N$",
            "energy": "prompt energy",
        }
        spectrum = {f"spectrum_{k + 1}": f"$s_{{{k + 1}}}$" for k in range(self.n_knots)}
        letters = dict(zip(_NUISANCES, (r"\epsilon", r"\rho", "b"), strict=True))
        nuisances = [name.split("_") for name in self._nuisances]
        halls = {f"{kind}_{hall}": rf"${letters[kind]}_{{\mathrm{{{hall}}}}}$" for kind, hall in nuisances}
        return symbols | spectrum | halls

    def spectra(self, theta: Tensor) -> Tensor:
        """Return the expected numbers of events, including backgrounds.

        Parameters
        ----------
        theta : Tensor (parameter,)
            The parameters, in their own units.

        Returns
        -------
        Tensor (hall, bin)
            Expected counts in bins of 50 keV from 0.9 to 7.5 MeV, differentiable.
        """
        tables = self._tables(theta)
        mixing, x = theta[:1], (theta[1:2] - _DM2_MID) / _DM2_HALF
        shapes, norm, nuisances = theta[2:].split([self.n_knots, 1, len(self._nuisances)])
        cos4_theta13 = (0.5 + 0.5 * (1 - mixing).sqrt()).square()
        powers = x ** torch.arange(_DM2_ORDER, dtype=theta.dtype, device=theta.device)
        factors = torch.cat([torch.ones_like(x), cos4_theta13, mixing, mixing * powers])
        interacting = (factors @ tables.terms).view(inputs.N_HALLS, -1) * (tables.shapes @ shapes).exp()
        nominal = interacting @ tables.response
        if not self.nuisances:
            return norm * nominal + tables.background
        scale, rate, lithium = nuisances.view(len(_NUISANCES), inputs.N_HALLS, 1)
        seen = norm * (1 + rate + self._efficiency_by_scale * scale)
        return seen * (nominal + scale * (interacting @ tables.slope)) + tables.background + lithium * tables.lithium

    def simulate(self, theta: Tensor, noise: Tensor) -> Tensor:
        # One CDF over all halls that rises by 1 in each, so a hall's share of the noise does not depend on theta.
        cdf = _shares(self.spectra(theta)).cumsum(-1) + _count(inputs.N_HALLS, theta)[:, None]
        cdf = torch.nn.functional.pad(cdf.flatten(), (1, 0))
        u = inputs.N_HALLS * noise[:, 0]
        cell = torch.searchsorted(cdf.detach(), u, right=True).clamp(1, inputs.N_HALLS * inputs.N_BINS) - 1
        low, high = cdf.gather(-1, cell), cdf.gather(-1, cell + 1)
        energy = inputs.BIN * (inputs.FIRST + cell % inputs.N_BINS + (u - low) / (high - low))
        return torch.stack([energy, (cell // inputs.N_BINS).to(energy)], dim=-1)

    def observed(self, n_events: int | None, rng: np.random.Generator) -> "NDArray[Any]":
        counts = _tables(self._periods, self.n_knots)[-1].astype(int)
        if n_events is not None and not 0 < n_events <= counts.sum():
            every = f"the events of DayaBay(period={self.period!r})"
            raise ValueError(f"n_events = {n_events}: should be from 1 to {counts.sum()}, {every}; or None for all.")
        # Small integers, because millions of them are put into a random order.
        cell = rng.permutation(np.repeat(np.arange(counts.size, dtype=np.int16), counts.ravel()))[:n_events]
        # The margin prevents that rounding to float32 carries an event over the edge of its bin.
        within = rng.uniform(1e-5, 1 - 1e-5, cell.size)
        events = np.empty((cell.size, 2), np.float32)
        events[:, 0] = inputs.BIN * (inputs.FIRST + cell % inputs.N_BINS + within)
        events[:, 1] = cell // inputs.N_BINS
        return events

    def features(self, events: Tensor) -> Tensor:
        # Harmonics of sqrt(energy), in which the resolution is nearly constant, and their differences between halls.
        low, high = math.sqrt(inputs.BIN * inputs.FIRST), math.sqrt(inputs.BIN * inputs.LAST)
        x = (events[..., :1].sqrt() - low) / (high - low)
        waves = torch.cat([2 * x - 1, (math.pi * (_count(self.n_knots + _N_MORE, x) + 1) * x).cos()], dim=-1)
        hall = (events[..., 1:] == _count(inputs.N_HALLS, events)).to(events)
        columns = [hall, waves, (2 * hall[..., 2:] - 1) * waves]
        if self.nuisances:
            columns.append((hall[..., :1] - hall[..., 1:2]) * waves[..., :_N_NEAR])
        return torch.cat(columns, dim=-1)

    def category(self, events: Tensor) -> Tensor:
        return events[..., 1].long()

    def statistic(self, events: Tensor) -> Tensor:
        bins = (events[:, 0].double() / inputs.BIN - inputs.FIRST).long().clamp(0, inputs.N_BINS - 1)
        cells = events[:, 1].long() * inputs.N_BINS + bins
        counts = torch.bincount(cells, minlength=inputs.N_HALLS * inputs.N_BINS)
        return counts.view(inputs.N_HALLS, inputs.N_BINS).double()

    def constraints(self, theta: Tensor, statistic: Tensor) -> Tensor:
        observed = statistic.sum(-1).to(theta)
        return (self._expected(theta, statistic).sum(-1) - observed) / observed.sqrt()

    def chi_squared(self, theta: Tensor, statistic: Tensor) -> Tensor:
        """Return Pearson's chi^2 of the observed counts of each hall, rate and shape together.

        Parameters
        ----------
        theta : Tensor (parameter,)
            The parameters of the expected counts, in their own units.
        statistic : Tensor (hall, bin)
            Observed counts, as `statistic` returns them.

        Returns
        -------
        Tensor (hall,)
            The chi^2.  For counts drawn from the expected ones it has 132 degrees of freedom, the bins of a hall.
        """
        expected = self._expected(theta, statistic)
        return ((statistic.to(theta) - expected).square() / expected).sum(-1)

    def survival(self, theta: Tensor, statistic: Tensor) -> Survival:
        """Return the observed and the expected survival of antineutrinos, by their distance over energy.

        Parameters
        ----------
        theta : Tensor (parameter,)
            The parameters of backgrounds and expected counts, in their own units.
        statistic : Tensor (hall, bin)
            Observed counts, as `statistic` returns them.

        Returns
        -------
        Survival
            Of each hall and bin: length_over_energy, observed, error and expected.
        """
        tables, scale = self._tables(theta), statistic.sum().to(theta) / self._tables(theta).observed.sum()
        background = tables.background
        if self.nuisances:
            background = background + theta[-inputs.N_HALLS :, None] * tables.lithium
        without = self.spectra(torch.cat([torch.zeros_like(theta[:1]), theta[1:]])) - background
        observed = statistic.to(theta) / scale
        return Survival(
            _length_over_energy(self._periods),
            (observed - background) / without,
            (observed / scale).sqrt() / without,
            (self.spectra(theta) - background) / without,
        )

    def log_likelihood(self, theta: Tensor, statistic: Tensor) -> Tensor:
        return (statistic.to(theta) * _shares(self.spectra(theta)).log()).sum()

    def _expected(self, theta: Tensor, statistic: Tensor) -> Tensor:
        """Expected counts (hall, bin), scaled to the size of the statistic, which may be that of a subsample."""
        return statistic.sum().to(theta) / self._tables(theta).observed.sum() * self.spectra(theta)

    @property
    def _periods(self) -> tuple[str, ...]:
        return _PERIODS if self.period == "all" else (self.period,)

    @property
    def _efficiency_by_scale(self) -> float:
        """Change of the efficiency per unit of the energy scale, from their published correlation."""
        scale, efficiency, correlation, _ = inputs.detector_errors(self._periods)
        # The same in all halls, whose deviations are reduced by equal factors.
        return float(correlation * efficiency[0] / scale[0])

    def _tables(self, like: Tensor) -> _Tables:
        return _Tables(*(table.like(like) for table in _constants(self._periods, self.n_knots)))


@functools.lru_cache
def _constants(periods: tuple[str, ...], n_knots: int) -> tuple[Constant, ...]:
    return tuple(Constant(table) for table in _tables(periods, n_knots))


def _count(n: int, like: Tensor) -> Tensor:
    """The numbers 0 to n - 1."""
    return torch.arange(n, dtype=like.dtype, device=like.device)


def _shares(x: Tensor) -> Tensor:
    """Shares of the last dimension, of sum 1."""
    return x / x.sum(-1, keepdim=True)


@functools.lru_cache
def _rates(periods: tuple[str, ...], first: int) -> Measurement:
    """Published errors of the relative rates of the halls, which are parameters from `first` on."""
    halls = slice(first, first + inputs.N_HALLS)
    return Measurement(lambda theta: theta[halls], np.zeros(inputs.N_HALLS), covariance=_rate_errors(periods))


def _rate_errors(periods: tuple[str, ...]) -> NDArray[Any]:
    """Covariance of the relative rates, (hall, hall)."""
    _, efficiency, correlation, _ = inputs.detector_errors(periods)
    return np.diag(efficiency**2 * (1 - correlation**2)) + inputs.reactor_errors(periods)


@functools.lru_cache
def _tables(periods: tuple[str, ...], n_knots: int) -> tuple[NDArray[Any], ...]:
    """The arrays of `_Tables`, in its order."""
    energy, running, _ = inputs.antineutrinos()
    response = inputs.response()
    terms = _total(_oscillation(period, energy) for period in periods) * running
    slope = (inputs.response(1 + _SCALE_STEP) - inputs.response(1 - _SCALE_STEP)) / (2 * _SCALE_STEP)
    by_source = [inputs.backgrounds(period) for period in periods]
    lithium = _total(sources["lithium_helium"] for sources in by_source)
    background = _total(_total(sources.values()) for sources in by_source)
    observed = _total(inputs.observed(period) for period in periods)
    shapes = _shapes(n_knots, energy, terms[0].sum(0) * response.sum(-1))
    return terms.reshape(len(terms), -1), shapes, response, slope, background, lithium, observed


def _total(arrays: Iterable[NDArray[Any]]) -> NDArray[Any]:
    return functools.reduce(np.add, arrays)


def _oscillation(period: str, energy: NDArray[Any]) -> NDArray[Any]:
    """Antineutrinos per area times protons, for each term of the survival probability: (term, hall, energy)."""
    lengths = inputs.baselines()
    terms = np.zeros((3 + _DM2_ORDER, inputs.N_HALLS, energy.size))
    for detector, by_reactor in inputs.exposures(period).items():
        for name, exposure in by_reactor.items():
            terms[:, inputs.hall(detector)] += exposure * _survival(lengths[detector][name] / energy)
    return terms


@functools.lru_cache
def _length_over_energy(periods: tuple[str, ...]) -> NDArray[np.float64]:
    """Mean of L / E [m / MeV] of the antineutrinos of each bin, without oscillation: (hall, bin)."""
    energy, running, _ = inputs.antineutrinos()
    lengths, seen = inputs.baselines(), running[:, None] * inputs.response()
    events, sums = np.zeros((2, inputs.N_HALLS, inputs.N_BINS))
    for period in periods:
        for detector, by_reactor in inputs.exposures(period).items():
            for name, exposure in by_reactor.items():
                events[inputs.hall(detector)] += exposure @ seen
                sums[inputs.hall(detector)] += lengths[detector][name] * (exposure / energy) @ seen
    return sums / events


def _survival(ratio: NDArray[Any]) -> NDArray[Any]:
    """Terms of the survival probability at L / E [m / MeV]: (energy,) -> (term, energy).

    cos^2(theta12) sin^2(D31) + sin^2(theta12) sin^2(D32) = 1/2 - Re(wave), as a Taylor series in x, the
    position of Dm^2_32 in its range.
    """
    dm2_21, sin2_2theta12 = inputs.solar()
    cos2_theta12 = 0.5 + 0.5 * math.sqrt(1 - sin2_2theta12)
    slow, mid, half = (2 * 1.266932679 * dm2 * ratio for dm2 in (dm2_21, _DM2_MID, _DM2_HALF))
    wave = 0.5 * np.exp(1j * mid) * (1 - cos2_theta12 + cos2_theta12 * np.exp(1j * slow))
    taylor = [(wave * (1j * half) ** k).real / math.factorial(k) for k in range(_DM2_ORDER)]
    return np.stack([ratio**0, -sin2_2theta12 * np.sin(slow / 2) ** 2, -0.5 * ratio**0, *taylor])


def _shapes(n_knots: int, energy: NDArray[Any], expected: NDArray[Any]) -> NDArray[Any]:
    """Log of the spectrum per unit of each shape coefficient, (energy, knot), its mean over expected events removed."""
    first, last = np.sqrt(_KNOTS)
    knots = np.linspace(first, last, n_knots + 1) ** 2  # wider where the resolution is worse and events are few
    hats = np.stack([np.interp(energy, knots, row) for row in np.eye(n_knots + 1)], axis=-1)
    return np.delete(hats - expected @ hats / expected.sum(), np.abs(knots - _PIVOT).argmin(), axis=1)
