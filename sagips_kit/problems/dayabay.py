"""Reactor neutrinos: the real events of Daya Bay, and a differentiable model of what its three halls should see.

An event is (prompt energy, hall).  Whatever does not depend on the parameters is computed once, in float64, from the
collaboration's published inputs; a prediction is then two small matrix products, a simulation one inverse CDF more.
Nuisances of the detectors and reactors do not belong here, so the errors of any answer are statistical.
"""

import functools
import math
from typing import Literal, NamedTuple

import numpy as np
import scipy.special
import torch

from ..problem import Problem
from ..settings import Count, value

_N_HALLS = 3
_BIN = 0.05  # MeV, of the published counts
_FIRST, _LAST, _N_BINS = 18, 150, 132  # below 0.9 MeV the non-linearity curve is extrapolated
_N_HARMONICS = 16  # keep all linear information on the mixing, and all but a few per cent on the spectrum
_KNOTS, _PIVOT = (2.0, 8.0), 4.0  # MeV, of the antineutrino
_DM2_MID, _DM2_HALF, _DM2_ORDER = 2.5e-3, 0.6e-3, 10  # eV^2; error of the Taylor series below 1e-6
_ELECTRON, _PROTON, _NEUTRON = 0.51099895, 938.272088, 939.565421  # masses, MeV


class _Tables(NamedTuple):
    terms: torch.Tensor  # (term, hall * energy): factors of 1, cos^4(theta13), sin^2(2 theta13), sin^2(2 theta13) x^k
    shapes: torch.Tensor  # (energy, knot): log of the spectrum per unit of each shape coefficient
    response: torch.Tensor  # (energy, bin): probability of each prompt energy
    background: torch.Tensor  # (hall, bin)
    observed: torch.Tensor  # (hall, bin)


@value
class DayaBay(Problem):
    """Neutrino mixing from 5.5 million real events of Daya Bay.

    Unknown are sin^2(2 theta13), Dm^2_32 (normal ordering), the norm of all reactor events, and a correction of the
    Huber-Mueller spectrum: its logarithm at `n_knots` energies, relative to the one near 4 MeV, linear in between, its
    mean over the expected events taken out to leave the norm alone.  Spent-fuel and non-equilibrium corrections are
    left to it: they move the mixing by less than 0.05 deviations.  An observed event is a count of the published 50 keV
    histograms, spread uniformly over its bin (the resolution is three times wider), if within 0.9 to 7.5 MeV.

    Parameters
    ----------
    period : {"6AD", "8AD", "7AD", "all"}
        Data-taking period, named by its number of detectors.  The publication used them all.
    n_knots : int
        Shape coefficients of the reactor spectrum, `spectrum_1` (2 MeV) to `spectrum_<n_knots>` (8 MeV).

    References
    ----------
    Data: Zenodo 10.5281/zenodo.17587229.  Published values: Phys. Rev. Lett. 130, 161802 (2023).
    """

    period: Literal["6AD", "8AD", "7AD", "all"] = "8AD"
    n_knots: Count = 14

    observables = ("energy", "hall")
    noise_dim = 1
    n_categories = _N_HALLS
    units = {"dm2_32": "eV^2", "energy": "MeV"}
    long_names = {
        "sin2_2theta13": "sin^2(2 theta13)",
        "dm2_32": "Dm^2_32 (normal ordering)",
        "norm": "norm of all reactor events",
        "energy": "prompt energy",
        "hall": "experimental hall (0 and 1 near, 2 far)",
    }
    published = {"sin2_2theta13": (0.0851, 0.0024), "dm2_32": (2.466e-3, 0.060e-3)}

    @property
    def parameters(self):
        return ("sin2_2theta13", "dm2_32", *(f"spectrum_{k + 1}" for k in range(self.n_knots)), "norm")

    @property
    def lower(self):
        return (0.03, _DM2_MID - _DM2_HALF, *[-0.25] * self.n_knots, 0.85)

    @property
    def upper(self):
        return (0.14, _DM2_MID + _DM2_HALF, *[0.25] * self.n_knots, 1.1)

    def spectra(self, theta):
        """Expected events, backgrounds included, (parameter,) -> (hall, bin of 50 keV)."""
        tables = self._tables(theta)
        mixing, x = theta[:1], (theta[1:2] - _DM2_MID) / _DM2_HALF
        cos4_theta13 = (0.5 + 0.5 * (1 - mixing).sqrt()) ** 2
        factors = torch.cat([x**0, cos4_theta13, mixing, *(mixing * x**k for k in range(_DM2_ORDER))])
        interacting = (factors @ tables.terms).view(_N_HALLS, -1) * (tables.shapes @ theta[2:-1]).exp()
        return theta[-1] * (interacting @ tables.response) + tables.background

    def simulate(self, theta, noise):
        # One CDF through all halls, rising by 1 in each: a hall's share of the noise does not depend on theta.
        cdf = _shares(self.spectra(theta)).cumsum(-1) + torch.arange(_N_HALLS).to(theta)[:, None]
        cdf = torch.nn.functional.pad(cdf.flatten(), (1, 0))
        u = _N_HALLS * noise[:, 0]
        cell = torch.searchsorted(cdf.detach(), u, right=True).clamp(1, _N_HALLS * _N_BINS) - 1
        low, high = cdf.gather(-1, cell), cdf.gather(-1, cell + 1)
        energy = _BIN * (_FIRST + cell % _N_BINS + (u - low) / (high - low))
        return torch.stack([energy, (cell // _N_BINS).to(energy)], dim=-1)

    def observed(self, n_events, rng):
        counts = _tables(self.period, self.n_knots)[-1].astype(int)
        if n_events is not None and not 0 < n_events <= counts.sum():
            raise ValueError(f"DayaBay(period={self.period!r}) has {counts.sum()} events; {n_events} were asked for.")
        cell = rng.permutation(np.repeat(np.arange(counts.size), counts.ravel()))[:n_events]
        # The margin keeps float32 rounding from carrying an event over the edge of its bin.
        energy = _BIN * (_FIRST + cell % _N_BINS + rng.uniform(1e-5, 1 - 1e-5, cell.size))
        return np.stack([energy, cell // _N_BINS], axis=-1).astype(np.float32)

    def features(self, events):
        # Harmonics of sqrt(energy), about as wide as the resolution everywhere; with their far - near differences.
        low, high = math.sqrt(_BIN * _FIRST), math.sqrt(_BIN * _LAST)
        x = (events[..., :1].sqrt() - low) / (high - low)
        waves = torch.cat([2 * x - 1, (math.pi * torch.arange(1, _N_HARMONICS + 1).to(x) * x).cos()], dim=-1)
        hall = _one_hot(events)
        return torch.cat([hall, waves, (2 * hall[..., -1:] - 1) * waves], dim=-1)

    def category(self, events):
        return events[..., 1].long()

    def statistic(self, events):
        bins = (events[:, 0].double() / _BIN - _FIRST).long().clamp(0, _N_BINS - 1)
        counts = torch.bincount(events[:, 1].long() * _N_BINS + bins, minlength=_N_HALLS * _N_BINS)
        return counts.view(_N_HALLS, _N_BINS).double()

    def constraints(self, theta, statistic):
        observed = statistic.sum(-1).to(theta)
        subsample = observed.sum() / self._tables(theta).observed.sum()
        return (subsample * self.spectra(theta).sum(-1) - observed) / observed.sqrt()

    def log_likelihood(self, theta, statistic):
        return (statistic.to(theta) * _shares(self.spectra(theta)).log()).sum()

    def _tables(self, like):
        # The cache holds no tensors: those made inside a transform (vmap, grad) must not outlive it.
        return _Tables(*(torch.as_tensor(array).to(like) for array in _tables(self.period, self.n_knots)))


def _shares(x):
    return x / x.sum(-1, keepdim=True)


def _one_hot(events):
    return (events[..., 1:] == torch.arange(_N_HALLS).to(events)).to(events)


@functools.lru_cache
def _tables(period, n_knots):
    deposited = _BIN / 2 * (np.arange(400) + 0.5)  # MeV; two per bin of the acrylic matrix, to 10 MeV
    above = deposited > 2 * _ELECTRON
    energy, interacting = _interacting(deposited[above] - _ELECTRON)
    response = _response(deposited)[above]
    names = ("6AD", "8AD", "7AD") if period == "all" else (period,)
    background, observed = sum(_counts(name) for name in names)
    terms = sum(_oscillation(name, energy) for name in names) * interacting * _BIN / 2
    shapes = _shapes(n_knots, energy, terms[0].sum(0) * response.sum(-1))
    return terms.reshape(len(terms), -1), shapes, response, background, observed


def _interacting(electron):
    """Antineutrino energy for positrons at right angles; spectrum of an antineutrino times cross-section in cm^2."""
    energy = (electron + (_NEUTRON**2 - _PROTON**2 - _ELECTRON**2) / (2 * _PROTON)) / (1 - electron / _PROTON)
    naive, log = energy - (_NEUTRON - _PROTON), np.log(energy)
    power = -0.07056 + 0.02018 * log - 0.001953 * log**3  # equation 25 of Phys. Lett. B 564, 42 (2003)
    cross_section = 1e-43 * naive * np.sqrt(naive**2 - _ELECTRON**2) * energy**power
    fractions = _read("parameters/reactor_fission_fractions.yaml")["fission_fractions"]
    yields = _read("parameters/antineutrinos_per_fission_huber_mueller.yaml")["antineutrinos_per_fission"]
    spectrum = np.zeros_like(energy)
    for isotope, table in _read("reactor_antineutrino_spectra_hm.hdf5").items():
        spectrum += fractions[isotope] * np.exp(np.interp(energy, table["E_MeV"], np.log(table["N_density"])))
    spectrum /= sum(fractions[isotope] * yields[isotope] for isotope in fractions)
    return energy, spectrum * cross_section * np.gradient(energy, electron)


def _oscillation(name, energy):
    """Antineutrinos per area times protons, in the terms of the survival probability: (term, hall, energy)."""
    corrections = _read("parameters/detector_n_protons_correction.yaml")["n_protons_correction"]
    protons = _read("parameters/detector_n_protons_nominal.yaml")["n_protons_nominal_ad"]
    protons *= _read("parameters/detector_efficiency.yaml")["efficiency"]
    terms = np.zeros((3 + _DM2_ORDER, _N_HALLS, energy.size))
    for detector, baselines in _read("parameters/baselines.yaml")["baseline"].items():
        livetime = _livetime(name, detector)
        for reactor, length in baselines.items():
            weekly = _read("neutrino_rate.hdf5")[reactor]["neutrino_rate_per_s"]
            flux = livetime @ weekly[np.arange(livetime.size) // 7] / (4 * np.pi * (100 * length) ** 2)
            terms[:, int(detector[2]) - 1] += flux * protons * corrections[detector] * _survival(length / energy)
    return terms


def _survival(ratio):
    """Terms of the survival probability at L / E [m / MeV], (energy,) -> (term, energy).

    cos^2(theta12) sin^2(D31) + sin^2(theta12) sin^2(D32) = 1/2 - Re(wave), a Taylor series in x, Dm^2_32 in its range.
    """
    solar = _read("parameters/survival_probability_solar.yaml")
    (dm2_21, _), (sin2_2theta12, _) = solar["DeltaMSq21"], solar["SinSq2Theta12"]
    cos2_theta12 = 0.5 + 0.5 * math.sqrt(1 - sin2_2theta12)
    slow, mid, half = (2 * 1.266932679 * dm2 * ratio for dm2 in (dm2_21, _DM2_MID, _DM2_HALF))
    wave = 0.5 * np.exp(1j * mid) * (1 - cos2_theta12 + cos2_theta12 * np.exp(1j * slow))
    taylor = [(wave * (1j * half) ** k).real / math.factorial(k) for k in range(_DM2_ORDER)]
    return np.stack([ratio**0, -sin2_2theta12 * np.sin(slow / 2) ** 2, -0.5 * ratio**0, *taylor])


def _response(deposited):
    """Probability of each prompt bin, (deposited, bin): energy lost in acrylic, non-linearity, resolution."""
    acrylic = _read("detector_iav_matrix.hdf5")["iav_matrix"][: len(deposited) // 2, : len(deposited) // 2]
    curve = _read("detector_lsnl_curves.hdf5")["nominal"]
    visible = deposited * np.interp(deposited, curve["E_MeV"], curve["f"])
    a, b, c = (value for value, _ in _read("parameters/detector_eres.yaml")["eres"].values())
    sigma = np.sqrt((a * visible) ** 2 + b**2 * visible + c**2)
    below = scipy.special.ndtr((_BIN * np.arange(_FIRST, _LAST + 1)[:, None] - visible) / sigma)
    return (np.diff(below, axis=0) @ np.kron(acrylic, np.eye(2))).T


def _shapes(n_knots, energy, expected):
    knots = np.linspace(*np.sqrt(_KNOTS), n_knots + 1) ** 2  # wider where the resolution is worse and events are few
    hats = np.stack([np.interp(energy, knots, row) for row in np.eye(n_knots + 1)], axis=-1)
    return np.delete(hats - expected @ hats / expected.sum(), np.abs(knots - _PIVOT).argmin(), axis=1)


def _counts(name):
    """Background and observed events of a period, (2, hall, bin)."""
    counts = np.zeros((2, _N_HALLS, _N_BINS))
    rates = {row["Label"].decode(): row for row in _read("dayabay_dataset/dayabay_background_rates.hdf5")[name]}
    for key, shape in _read(f"dayabay_dataset/dayabay_background_spectra_{name}.hdf5").items():
        source, detector = key.removeprefix("spectrum_shape_").rsplit("_", 1)
        n_events = rates[f"{source}_rate"][detector] * _livetime(name, detector).sum() / 86400
        counts[0, int(detector[2]) - 1] += n_events * shape["N"][_FIRST:_LAST]
    for key, histogram in _read(f"dayabay_dataset/dayabay_ibd_spectra_{name}.hdf5").items():
        counts[1, int(key.removeprefix("ibd_spectrum_AD")[0]) - 1] += histogram["N"][_FIRST:_LAST]
    return counts


def _livetime(name, detector):
    """Effective livetime of each day in s, (day,): vetoes and the multiplicity cut included, other periods zero."""
    days = _read("dayabay_dataset/dayabay_daily_detector_data.hdf5")[detector]
    return np.where(days["n_det"] == int(name[0]), days["eff_livetime"], 0)


@functools.lru_cache
def _read(file):
    """Parameters of a published yaml file, or {name: table} of an hdf5 one."""
    try:
        import h5py
        import yaml
        from dayabay_data_official.dataset import get_path_data
    except ImportError as error:
        text = f'DayaBay needs {error.name}, for the published data. Type: pip install "sagips_kit[dayabay]"'
        raise ModuleNotFoundError(text, name=error.name) from None
    path = get_path_data("hdf5") / file
    if path.suffix == ".yaml":
        return yaml.safe_load(path.read_text(encoding="utf-8"))["parameters"]
    with h5py.File(path) as tables:
        return {name: table[:] for name, table in tables.items()}
