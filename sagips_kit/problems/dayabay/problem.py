"""Reactor neutrinos: the real events of Daya Bay, and a differentiable model of what its three halls should see.

An event is (prompt energy, hall).  Whatever does not depend on the parameters is computed once, in float64, from the
collaboration's published inputs; a prediction is then three small matrix products, a simulation one inverse CDF more.
"""

import functools
import math
from typing import Literal, NamedTuple

import numpy as np
import torch

from ..._value import Count, value
from ..base import Problem
from . import inputs

# Harmonics beyond the knots, and for the difference of the near halls: they keep all linear information on the mixing,
# and all but 3 % on the rest, of 14 or 20 knots (with two harmonics less, 8 %, the last knots one against the other).
_N_MORE, _N_NEAR = 4, 8
_KNOTS, _PIVOT = (2.0, 8.0), 4.0  # MeV, of the antineutrino
_DM2_MID, _DM2_HALF, _DM2_ORDER = 2.5e-3, 0.6e-3, 10  # eV^2; error of the Taylor series below 1e-6
_PERIODS = ("6AD", "8AD", "7AD")
_HALLS = ("EH1", "EH2", "EH3")
_NUISANCES = {
    "scale": "relative energy scale",
    "efficiency": "relative efficiency, beyond what goes with the energy scale",
    "lithium": "relative background of lithium and helium",
}
_RANGE = 4.0  # deviations, of a nuisance
_SCALE_STEP = 2e-3  # about a deviation: what is left beyond the linear term is below 1e-5


class _Tables(NamedTuple):
    terms: torch.Tensor  # (term, hall * energy): factors of 1, cos^4(theta13), sin^2(2 theta13), sin^2(2 theta13) x^k
    shapes: torch.Tensor  # (energy, knot): log of the spectrum per unit of each shape coefficient
    response: torch.Tensor  # (energy, bin): probability of each prompt energy
    slope: torch.Tensor  # (energy, bin): its change per unit of the energy scale
    background: torch.Tensor  # (hall, bin)
    lithium: torch.Tensor  # (hall, bin): the part of the background that comes from lithium and helium
    observed: torch.Tensor  # (hall, bin)


@value
class DayaBay(Problem):
    """Neutrino mixing from 5.5 million real events of Daya Bay.

    Unknown are sin^2(2 theta13), Dm^2_32 (normal ordering), the norm of all reactor events, and a correction of the
    Huber-Mueller spectrum: its logarithm at `n_knots` energies, relative to the one near 4 MeV, linear in between, its
    mean over the expected events taken out to leave the norm alone.  An observed event is a count of the published
    50 keV histograms, spread uniformly over its bin (the resolution is three times wider), if within 0.9 to 7.5 MeV.

    Nuisances with their published errors as priors are, for each hall, energy scale, efficiency and the background of
    lithium and helium.  Fixed is what near and far halls share, for the free spectrum takes it up (isotopes out of
    equilibrium, spent fuel, non-linearity, resolution), and what is below 0.03 % of the events (other backgrounds).

    Parameters
    ----------
    period : {"6AD", "8AD", "7AD", "all"}
        Data-taking period, named by its number of detectors.  The publication used them all.
    n_knots : int
        Shape coefficients of the reactor spectrum, `spectrum_1` (2 MeV) to `spectrum_<n_knots>` (8 MeV).
    nuisances : bool
        Without them all errors are statistical.

    References
    ----------
    Data: Zenodo 10.5281/zenodo.17587229.  Published values: Phys. Rev. Lett. 130, 161802 (2023).
    """

    period: Literal["6AD", "8AD", "7AD", "all"] = "8AD"
    n_knots: Count = 14
    nuisances: bool = True

    observables = ("energy", "hall")
    noise_dim = 1
    n_categories = inputs.N_HALLS
    units = {"dm2_32": "eV^2", "energy": "MeV"}
    published = {"sin2_2theta13": (0.0851, 0.0024), "dm2_32": (2.466e-3, 0.060e-3)}

    @property
    def parameters(self):
        return ("sin2_2theta13", "dm2_32", *(f"spectrum_{k + 1}" for k in range(self.n_knots)), "norm", *self.priors)

    @property
    def lower(self):
        nuisances = (-_RANGE * deviation for _, deviation in self.priors.values())
        return (0.03, _DM2_MID - _DM2_HALF, *[-0.25] * self.n_knots, 0.85, *nuisances)

    @property
    def upper(self):
        nuisances = (_RANGE * deviation for _, deviation in self.priors.values())
        return (0.14, _DM2_MID + _DM2_HALF, *[0.25] * self.n_knots, 1.1, *nuisances)

    @property
    def priors(self):
        if not self.nuisances:
            return {}
        scale, efficiency, correlation, lithium = inputs.detector_errors(self._periods)
        deviations = (scale, efficiency * math.sqrt(1 - correlation**2), lithium)
        return {
            f"{kind}_{hall}": (0.0, float(deviation))
            for kind, halls in zip(_NUISANCES, deviations, strict=True)
            for hall, deviation in zip(_HALLS, halls, strict=True)
        }

    @property
    def long_names(self):
        names = {
            "sin2_2theta13": "sin^2(2 theta13)",
            "dm2_32": "Dm^2_32 (normal ordering)",
            "norm": "norm of all reactor events",
            "energy": "prompt energy",
            "hall": "experimental hall (0 and 1 near, 2 far)",
        }
        nuisances = [name.split("_") for name in self.priors]
        return names | {f"{kind}_{hall}": f"{_NUISANCES[kind]}, {hall}" for kind, hall in nuisances}

    def spectra(self, theta):
        """Expected events, backgrounds included, (parameter,) -> (hall, bin of 50 keV)."""
        tables = self._tables(theta)
        mixing, x = theta[:1], (theta[1:2] - _DM2_MID) / _DM2_HALF
        shapes, norm, nuisances = theta[2:].split([self.n_knots, 1, len(self.priors)])
        cos4_theta13 = (0.5 + 0.5 * (1 - mixing).sqrt()) ** 2
        factors = torch.cat([x**0, cos4_theta13, mixing, *(mixing * x**k for k in range(_DM2_ORDER))])
        interacting = (factors @ tables.terms).view(inputs.N_HALLS, -1) * (tables.shapes @ shapes).exp()
        nominal = interacting @ tables.response
        if not self.nuisances:
            return norm * nominal + tables.background
        scale, efficiency, lithium = nuisances.view(len(_NUISANCES), inputs.N_HALLS, 1)
        seen = norm * (1 + efficiency + self._efficiency_by_scale * scale)
        return seen * (nominal + scale * (interacting @ tables.slope)) + tables.background + lithium * tables.lithium

    def simulate(self, theta, noise):
        # One CDF through all halls, rising by 1 in each: a hall's share of the noise does not depend on theta.
        cdf = _shares(self.spectra(theta)).cumsum(-1) + torch.arange(inputs.N_HALLS).to(theta)[:, None]
        cdf = torch.nn.functional.pad(cdf.flatten(), (1, 0))
        u = inputs.N_HALLS * noise[:, 0]
        cell = torch.searchsorted(cdf.detach(), u, right=True).clamp(1, inputs.N_HALLS * inputs.N_BINS) - 1
        low, high = cdf.gather(-1, cell), cdf.gather(-1, cell + 1)
        energy = inputs.BIN * (inputs.FIRST + cell % inputs.N_BINS + (u - low) / (high - low))
        return torch.stack([energy, (cell // inputs.N_BINS).to(energy)], dim=-1)

    def observed(self, n_events, rng):
        counts = _tables(self._periods, self.n_knots)[-1].astype(int)
        if n_events is not None and not 0 < n_events <= counts.sum():
            raise ValueError(f"DayaBay(period={self.period!r}) has {counts.sum()} events; {n_events} were asked for.")
        cell = rng.permutation(np.repeat(np.arange(counts.size), counts.ravel()))[:n_events]
        # The margin keeps float32 rounding from carrying an event over the edge of its bin.
        within = rng.uniform(1e-5, 1 - 1e-5, cell.size)
        energy = inputs.BIN * (inputs.FIRST + cell % inputs.N_BINS + within)
        return np.stack([energy, cell // inputs.N_BINS], axis=-1).astype(np.float32)

    def features(self, events):
        # Harmonics of sqrt(energy), about as wide as the resolution everywhere; with their differences between halls.
        low, high = math.sqrt(inputs.BIN * inputs.FIRST), math.sqrt(inputs.BIN * inputs.LAST)
        x = (events[..., :1].sqrt() - low) / (high - low)
        waves = torch.cat([2 * x - 1, (math.pi * torch.arange(1, self.n_knots + _N_MORE + 1).to(x) * x).cos()], dim=-1)
        hall = (events[..., 1:] == torch.arange(inputs.N_HALLS).to(events)).to(events)
        columns = [hall, waves, (2 * hall[..., 2:] - 1) * waves]
        if self.nuisances:
            columns.append((hall[..., :1] - hall[..., 1:2]) * waves[..., :_N_NEAR])
        return torch.cat(columns, dim=-1)

    def category(self, events):
        return events[..., 1].long()

    def statistic(self, events):
        bins = (events[:, 0].double() / inputs.BIN - inputs.FIRST).long().clamp(0, inputs.N_BINS - 1)
        cells = events[:, 1].long() * inputs.N_BINS + bins
        counts = torch.bincount(cells, minlength=inputs.N_HALLS * inputs.N_BINS)
        return counts.view(inputs.N_HALLS, inputs.N_BINS).double()

    def constraints(self, theta, statistic):
        observed = statistic.sum(-1).to(theta)
        return (self._expected(theta, statistic).sum(-1) - observed) / observed.sqrt()

    def chi_squared(self, theta, statistic):
        """Pearson's chi^2 of the observed counts of each hall, rate and shape, for the expected ones at theta: (hall,).

        Of data that follow these it has as many degrees of freedom as a hall has bins, 132.
        """
        expected = self._expected(theta, statistic)
        return ((statistic.to(theta) - expected).square() / expected).sum(-1)

    def log_likelihood(self, theta, statistic):
        return (statistic.to(theta) * _shares(self.spectra(theta)).log()).sum()

    def _expected(self, theta, statistic):
        """The expected counts of as many events as there are in the statistic, which may be those of a subsample."""
        return statistic.sum().to(theta) / self._tables(theta).observed.sum() * self.spectra(theta)

    @property
    def _periods(self):
        return _PERIODS if self.period == "all" else (self.period,)

    @property
    def _efficiency_by_scale(self):
        """Change of the efficiency per unit of the energy scale, by their published correlation."""
        scale, efficiency, correlation, _ = inputs.detector_errors(self._periods)
        # The same in all halls: their deviations shrink alike.
        return float(correlation * efficiency[0] / scale[0])

    def _tables(self, like):
        # The cache holds no tensors: those made inside a transform (vmap, grad) must not outlive it.
        return _Tables(*(torch.as_tensor(array).to(like) for array in _tables(self._periods, self.n_knots)))


def _shares(x):
    return x / x.sum(-1, keepdim=True)


@functools.lru_cache
def _tables(periods, n_knots):
    energy, running, _ = inputs.antineutrinos()
    response = inputs.response()
    terms = sum(_oscillation(period, energy) for period in periods) * running
    slope = (inputs.response(1 + _SCALE_STEP) - inputs.response(1 - _SCALE_STEP)) / (2 * _SCALE_STEP)
    by_source = [inputs.backgrounds(period) for period in periods]
    lithium = sum(sources["lithium_helium"] for sources in by_source)
    background = sum(sum(sources.values()) for sources in by_source)
    observed = sum(inputs.observed(period) for period in periods)
    shapes = _shapes(n_knots, energy, terms[0].sum(0) * response.sum(-1))
    return terms.reshape(len(terms), -1), shapes, response, slope, background, lithium, observed


def _oscillation(period, energy):
    """Antineutrinos per area times protons, in the terms of the survival probability: (term, hall, energy)."""
    lengths = inputs.baselines()
    terms = np.zeros((3 + _DM2_ORDER, inputs.N_HALLS, energy.size))
    for detector, by_reactor in inputs.exposures(period).items():
        for name, exposure in by_reactor.items():
            terms[:, inputs.hall(detector)] += exposure * _survival(lengths[detector][name] / energy)
    return terms


def _survival(ratio):
    """Terms of the survival probability at L / E [m / MeV], (energy,) -> (term, energy).

    cos^2(theta12) sin^2(D31) + sin^2(theta12) sin^2(D32) = 1/2 - Re(wave), a Taylor series in x, Dm^2_32 in its range.
    """
    dm2_21, sin2_2theta12 = inputs.solar()
    cos2_theta12 = 0.5 + 0.5 * math.sqrt(1 - sin2_2theta12)
    slow, mid, half = (2 * 1.266932679 * dm2 * ratio for dm2 in (dm2_21, _DM2_MID, _DM2_HALF))
    wave = 0.5 * np.exp(1j * mid) * (1 - cos2_theta12 + cos2_theta12 * np.exp(1j * slow))
    taylor = [(wave * (1j * half) ** k).real / math.factorial(k) for k in range(_DM2_ORDER)]
    return np.stack([ratio**0, -sin2_2theta12 * np.sin(slow / 2) ** 2, -0.5 * ratio**0, *taylor])


def _shapes(n_knots, energy, expected):
    knots = np.linspace(*np.sqrt(_KNOTS), n_knots + 1) ** 2  # wider where the resolution is worse and events are few
    hats = np.stack([np.interp(energy, knots, row) for row in np.eye(n_knots + 1)], axis=-1)
    return np.delete(hats - expected @ hats / expected.sum(), np.abs(knots - _PIVOT).argmin(), axis=1)
