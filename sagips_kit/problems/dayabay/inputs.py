"""What Daya Bay's published inputs say of reactors, detectors and backgrounds, as arrays of a period.

Everything here is fixed by the collaboration's files; what oscillation and nuisances make of it belongs to the problem.
"""

import functools
import math

import numpy as np
import scipy.special

BIN = 0.05  # MeV, of the published counts
FIRST, LAST = 18, 150  # bins in use: below 0.9 MeV the non-linearity curve is extrapolated
N_BINS, N_HALLS = LAST - FIRST, 3
_ELECTRON, _PROTON, _NEUTRON = 0.51099895, 938.272088, 939.565421  # masses, MeV
_DEPOSITED = BIN / 2 * (np.arange(400) + 0.5)  # MeV; two per bin of the acrylic matrix, to 10 MeV
_ABOVE = _DEPOSITED > 2 * _ELECTRON
_MEV_PER_GJ, _HBAR, _HBAR_C = 6.241509074e21, 6.582119569e-22, 1.973269804e-11  # the latter in MeV s and MeV cm


def hall(detector):
    """0 and 1 for the near halls, 2 for the far one, of a name such as AD31."""
    return int(detector[2]) - 1


def baselines():
    """Distances in m: {detector: {reactor: length}}."""
    return _read("parameters/baselines.yaml")["baseline"]


def livetime(period, detector):
    """Effective livetime of each day in s, (day,): vetoes and the multiplicity cut included, other periods zero."""
    days = _read("dayabay_dataset/dayabay_daily_detector_data.hdf5")[detector]
    return np.where(days["n_det"] == int(period[0]), days["eff_livetime"], 0)


@functools.lru_cache
def antineutrinos():
    """Antineutrinos of running reactors and of spent fuel, on a grid of energies that covers all prompt ones.

    Returns
    -------
    energy : ndarray (energy,)
        Of the antineutrino in MeV, for positrons at right angles.
    running : ndarray (energy,)
        Interactions per point of the grid of one antineutrino per cm^2 in one proton, by the Huber-Mueller spectra with
        their correction for isotopes that are not yet in equilibrium.
    spent : dict of ndarray (energy,)
        Of each reactor, antineutrinos of spent fuel in its pool in a second per running one of the same energy and
        rate.
    """
    electron = _DEPOSITED[_ABOVE] - _ELECTRON
    energy = (electron + (_NEUTRON**2 - _PROTON**2 - _ELECTRON**2) / (2 * _PROTON)) / (1 - electron / _PROTON)
    fractions = _read("parameters/reactor_fission_fractions.yaml")["fission_fractions"]
    late = _read("nonequilibrium_correction.hdf5")
    plain, running = np.zeros((2, energy.size))
    for isotope, table in _read("reactor_antineutrino_spectra_hm.hdf5").items():
        spectrum = fractions[isotope] * np.exp(np.interp(energy, table["E_MeV"], np.log(table["N_density"])))
        plain += spectrum
        running += spectrum * (1 + _interpolated(late[isotope], energy) if isotope in late else 1)
    corrections = _read("snf_correction.hdf5")
    nominal, per_fission = _nominal_rate(fractions)
    spent = {name: nominal * _interpolated(table, energy) * plain / running for name, table in corrections.items()}
    return energy, running / per_fission * _cross_section(energy) * np.gradient(energy, electron) * BIN / 2, spent


def _interpolated(table, energy):
    return np.interp(energy, table["E_MeV"], table["C"])


def _nominal_rate(fractions):
    """Antineutrinos per s of a reactor at nominal power, and per fission."""
    yields = _read("parameters/antineutrinos_per_fission_huber_mueller.yaml")["antineutrinos_per_fission"]
    energies = _read("parameters/reactor_energy_per_fission.yaml")["energy_per_fission"]
    power = _read("parameters/reactor_thermal_power_nominal.yaml")["nominal_thermal_power"]
    per_fission = sum(fractions[isotope] * yields[isotope] for isotope in fractions)
    mev = sum(fractions[isotope] * energies[isotope][0] for isotope in fractions)
    return power * _MEV_PER_GJ / mev * per_fission, per_fission


def _cross_section(energy):
    """Of inverse beta decay in cm^2, to first order in 1 / nucleon mass: equation 14 of Phys. Rev. D 60, 053003."""
    known = _read("parameters/ibd_constants.yaml")
    lifetime = _read("parameters/pdg2024.yaml")["NeutronLifeTime"]
    f, g, magnetic = known["f"], known["g"], known["f2"]
    gap, nucleon = _NEUTRON - _PROTON, (_NEUTRON + _PROTON) / 2
    cosine, weights = np.polynomial.legendre.leggauss(5)
    energy = energy[:, None]
    first = energy - gap
    speed = np.sqrt(np.maximum(first**2 - _ELECTRON**2, 0)) / first
    recoil = energy / nucleon * (1 - speed * cosine) * first + (gap**2 - _ELECTRON**2) / (2 * nucleon)
    second = first - recoil
    momentum = np.sqrt(np.maximum(second**2 - _ELECTRON**2, 0))
    turned = (first + gap) * (1 - cosine / speed) - gap
    gamma = (
        2 * (f + magnetic) * g * ((2 * first + gap) * (1 - speed * cosine) - _ELECTRON**2 / first)
        + (f**2 + g**2) * (gap * (1 + speed * cosine) + _ELECTRON**2 / first)
        + (f**2 + 3 * g**2) * turned
        + (f**2 - g**2) * turned * speed * cosine
    )
    plain = (f**2 + 3 * g**2 + (f**2 - g**2) * momentum / second * cosine) * second * momentum
    each = plain - gamma / nucleon * first**2 * speed
    scale = 2 * math.pi**2 * _HBAR_C**2 * _HBAR / (_ELECTRON**5 * known["PhaseSpaceFactor"] * lifetime)
    return scale / (f**2 + 3 * g**2) / 2 * each @ weights


@functools.lru_cache
def exposures(period):
    """Antineutrinos per cm^2 times protons, {detector: {reactor: (energy,)}}; detectors of the period only."""
    corrections = _read("parameters/detector_n_protons_correction.yaml")["n_protons_correction"]
    protons = _read("parameters/detector_n_protons_nominal.yaml")["n_protons_nominal_ad"]
    protons *= _read("parameters/detector_efficiency.yaml")["efficiency"]
    _, _, spent = antineutrinos()
    found = {}
    for detector, lengths in baselines().items():
        days = livetime(period, detector)
        if not days.any():
            continue
        for reactor, length in lengths.items():
            weekly = _read("neutrino_rate.hdf5")[reactor]["neutrino_rate_per_s"]
            emitted = days @ weekly[np.arange(days.size) // 7] + days.sum() * spent[reactor]
            per_area = emitted / (4 * np.pi * (100 * length) ** 2)
            found.setdefault(detector, {})[reactor] = per_area * protons * corrections[detector]
    return found


@functools.lru_cache
def response(scale=1.0, last=LAST):
    """Probability of each prompt bin, (energy, bin): energy lost in acrylic, non-linearity, resolution.

    Parameters
    ----------
    scale : float
        Of the energy, relative to the nominal one.
    last : int
        Where bins end.
    """
    n_acrylic = len(_DEPOSITED) // 2
    acrylic = _read("detector_iav_matrix.hdf5")["iav_matrix"][:n_acrylic, :n_acrylic]
    curve = _read("detector_lsnl_curves.hdf5")["nominal"]
    known = curve["E_MeV"] * curve["f"]
    below_known = np.minimum(_DEPOSITED - curve["E_MeV"][0], 0) * (known[1] - known[0]) / np.diff(curve["E_MeV"])[0]
    visible = scale * (np.interp(_DEPOSITED, curve["E_MeV"], known) + below_known)
    a, b, c = (value for value, _ in _read("parameters/detector_eres.yaml")["eres"].values())
    sigma = np.sqrt((a * visible) ** 2 + b**2 * visible + c**2)
    below = scipy.special.ndtr((BIN * np.arange(FIRST, last + 1)[:, None] - visible) / sigma)
    return (np.diff(below, axis=0) @ np.kron(acrylic, np.eye(2))).T[_ABOVE]


def unoscillated(period, last=LAST):
    """Expected events of each detector if antineutrinos did not oscillate, {detector: (bin,)}; no backgrounds."""
    _, running, _ = antineutrinos()
    return {name: sum(each.values()) * running @ response(last=last) for name, each in exposures(period).items()}


@functools.lru_cache
def backgrounds(period):
    """Expected background events of each source, {source: (hall, bin)}."""
    rates = {row["Label"].decode(): row for row in _read("dayabay_dataset/dayabay_background_rates.hdf5")[period]}
    found = {}
    for key, shape in _read(f"dayabay_dataset/dayabay_background_spectra_{period}.hdf5").items():
        source, detector = key.removeprefix("spectrum_shape_").rsplit("_", 1)
        n_events = rates[f"{source}_rate"][detector] * livetime(period, detector).sum() / 86400
        into = found.setdefault(source, np.zeros((N_HALLS, N_BINS)))
        into[hall(detector)] += n_events * shape["N"][FIRST:LAST]
    return found


def observed(period):
    """Observed events, (hall, bin)."""
    counts = np.zeros((N_HALLS, N_BINS))
    for key, histogram in _read(f"dayabay_dataset/dayabay_ibd_spectra_{period}.hdf5").items():
        counts[hall(key.removeprefix("ibd_spectrum_"))] += histogram["N"][FIRST:LAST]
    return counts


def solar():
    """Dm^2_21 in eV^2 and sin^2(2 theta12)."""
    known = _read("parameters/survival_probability_solar.yaml")
    return known["DeltaMSq21"][0], known["SinSq2Theta12"][0]


@functools.lru_cache
def detector_errors(periods):
    """Published deviations of nuisances, by hall; that of a hall's detectors is the one of their mean.

    Returns
    -------
    scale, efficiency : ndarray (hall,)
        Relative deviations of energy scale and efficiency.
    correlation : float
        Between the two.
    lithium : ndarray (hall,)
        Relative deviation of the background of lithium and helium.
    """
    file = _raw("parameters/detector_relative.yaml")
    published = file["parameters"]["detector_relative"]
    n_events = {}
    for period in periods:
        for name, counts in unoscillated(period).items():
            n_events[name] = n_events.get(name, 0) + counts.sum()
    shrink = [
        math.hypot(*each) / sum(each)
        for k in range(N_HALLS)
        for each in [[n for name, n in n_events.items() if hall(name) == k]]
    ]
    scale, efficiency = (
        published[key][1] / 100 * np.array(shrink) for key in ("energy_scale_factor", "efficiency_factor")
    )
    correlation = file["correlations"]["detector_relative"]["matrix"][0][1]
    return scale, efficiency, correlation, _lithium_errors(periods)


def _lithium_errors(periods):
    """Events and their deviations add up over the detectors of a hall, deviations in quadrature over periods."""
    rates = _read("parameters/background_rates_correlated.yaml")["lithium_helium"]
    total, square = np.zeros((2, N_HALLS))
    for period in periods:
        sums = np.zeros((2, N_HALLS))
        for detector, rate in rates[period].items():
            sums[:, hall(detector)] += np.array(rate) * livetime(period, detector).sum()
        total, square = total + sums[0], square + sums[1] ** 2
    return np.sqrt(square) / total


def _read(file):
    """Parameters of a published yaml file, or {name: table} of an hdf5 one."""
    return _raw(file)["parameters"] if file.endswith(".yaml") else _raw(file)


@functools.lru_cache
def _raw(file):
    """What is in a published file."""
    try:
        import h5py
        import yaml
        from dayabay_data_official.dataset import get_path_data
    except ImportError as error:
        text = f'DayaBay needs {error.name}, for the published data. Type: pip install "sagips_kit[dayabay]"'
        raise ModuleNotFoundError(text, name=error.name) from None
    path = get_path_data("hdf5") / file
    if path.suffix == ".yaml":
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    with h5py.File(path) as tables:
        return {name: table[:] for name, table in tables.items()}
