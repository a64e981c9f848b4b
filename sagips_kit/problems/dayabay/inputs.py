"""Reactors, detectors and backgrounds of Daya Bay, as arrays of a data-taking period, from the published inputs.

Only what the collaboration's files fix; oscillation and nuisance parameters belong to the problem.
"""

import functools
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

BIN = 0.05  # MeV, of the published counts
FIRST, LAST = 18, 150  # first bin and end of the bins in use: below 0.9 MeV non-linearity would be extrapolated
N_BINS, N_HALLS = LAST - FIRST, 3
_ELECTRON, _PROTON, _NEUTRON = 0.51099895, 938.272088, 939.565421  # masses, MeV
_DEPOSITED = BIN / 2 * (np.arange(400) + 0.5)  # MeV; two per bin of the acrylic matrix, to 10 MeV
_ABOVE = _DEPOSITED > 2 * _ELECTRON
_MEV_PER_GJ, _HBAR, _HBAR_C = 6.241509074e21, 6.582119569e-22, 1.973269804e-11  # the latter in MeV s and MeV cm


def hall(detector: str) -> int:
    """Index of the hall of a detector such as "AD31": 0 and 1 near, 2 far."""
    return int(detector[2]) - 1


def baselines() -> dict[str, dict[str, float]]:
    """Distances in m: {detector: {reactor: length}}."""
    return _read("parameters/baselines.yaml")["baseline"]


def livetime(period: str, detector: str) -> NDArray[Any]:
    """Effective livetime of each day in s, (day,), after vetoes and multiplicity cut; 0 outside of the period."""
    days = _read("dayabay_dataset/dayabay_daily_detector_data.hdf5")[detector]
    return np.where(days["n_det"] == int(period[0]), days["eff_livetime"], 0)


@functools.lru_cache
def antineutrinos() -> tuple[NDArray[Any], NDArray[Any], dict[str, NDArray[Any]]]:
    """Antineutrinos of running reactors and of spent fuel, on a grid of energies that covers all prompt energies.

    Returns
    -------
    energy : ndarray (energy,)
        Energy of the antineutrino in MeV, for positrons at right angles.
    running : ndarray (energy,)
        Interactions with one proton at each point of the grid, for one antineutrino per cm^2 of the Huber-Mueller
        spectra with their correction for isotopes that are not yet in equilibrium.
    spent : dict of ndarray (energy,)
        For each reactor, antineutrinos of spent fuel in its pool in units of running ones of the same energy at a rate
        of 1 per second.
    """
    energy, _ = _energies()
    fractions = _read("parameters/reactor_fission_fractions.yaml")["fission_fractions"]
    spectra = _isotopes(energy)
    plain = sum(fractions[isotope] * spectrum for isotope, (spectrum, _) in spectra.items())
    running = plain + sum(fractions[isotope] * late for isotope, (_, late) in spectra.items())
    corrections = _read("snf_correction.hdf5")
    nominal, per_fission = _nominal_rate(fractions)
    spent = {name: nominal * _interpolated(table, energy) * plain / running for name, table in corrections.items()}
    return energy, _interactions(running / per_fission) * BIN / 2, spent


def _interactions(spectrum: NDArray[Any] | float) -> NDArray[Any]:
    """Interactions with one proton per MeV of the positron, of so many antineutrinos per cm^2 and MeV, (energy,)."""
    energy, electron = _energies()
    return spectrum * _cross_section(energy) * np.gradient(energy, electron)


def _energies() -> tuple[NDArray[Any], NDArray[Any]]:
    """Energies of antineutrino and positron in MeV, (energy,), for positrons at right angles."""
    electron = _DEPOSITED[_ABOVE] - _ELECTRON
    gap = (_NEUTRON**2 - _PROTON**2 - _ELECTRON**2) / (2 * _PROTON)
    return (electron + gap) / (1 - electron / _PROTON), electron


def _isotopes(energy: NDArray[Any]) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
    """Antineutrinos per MeV and fission of each isotope, {isotope: (energy,)}: at once, and out of equilibrium."""
    late, found = _read("nonequilibrium_correction.hdf5"), {}
    for isotope, table in _read("reactor_antineutrino_spectra_hm.hdf5").items():
        spectrum = np.exp(np.interp(energy, table["E_MeV"], np.log(table["N_density"])))
        found[isotope] = spectrum, spectrum * _interpolated(late[isotope], energy) if isotope in late else 0 * spectrum
    return found


def _interpolated(table: Any, energy: NDArray[Any]) -> NDArray[Any]:
    return np.interp(energy, table["E_MeV"], table["C"])


def _nominal_rate(fractions: dict[str, float]) -> tuple[float, float]:
    """Antineutrinos per second of a reactor at nominal power, and antineutrinos per fission."""
    yields = _read("parameters/antineutrinos_per_fission_huber_mueller.yaml")["antineutrinos_per_fission"]
    energies = _read("parameters/reactor_energy_per_fission.yaml")["energy_per_fission"]
    power = _read("parameters/reactor_thermal_power_nominal.yaml")["nominal_thermal_power"]
    per_fission = sum(fractions[isotope] * yields[isotope] for isotope in fractions)
    mev = sum(fractions[isotope] * energies[isotope][0] for isotope in fractions)
    return power * _MEV_PER_GJ / mev * per_fission, per_fission


def _cross_section(energy: NDArray[Any]) -> NDArray[Any]:
    """Cross section of inverse beta decay in cm^2 to first order in 1 / nucleon mass, (energy,).

    Equation 14 of Phys. Rev. D 60, 053003.
    """
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
def exposures(period: str, spent_fuel: float = 1.0) -> dict[str, dict[str, NDArray[Any]]]:
    """Antineutrinos per cm^2 times protons, {detector: {reactor: (energy,)}}, for the detectors of the period.

    With this part of those that spent fuel should emit.
    """
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
            emitted = days @ weekly[np.arange(days.size) // 7] + spent_fuel * days.sum() * spent[reactor]
            per_area = emitted / (4 * np.pi * (100 * length) ** 2)
            found.setdefault(detector, {})[reactor] = per_area * protons * corrections[detector]
    return found


@functools.lru_cache
def response(scale: float = 1.0, last: int = LAST) -> NDArray[Any]:
    """Probability of each prompt bin, after energy loss in acrylic, non-linearity and resolution.

    Parameters
    ----------
    scale : float
        Energy scale, relative to the nominal one.
    last : int
        End of the bins.

    Returns
    -------
    ndarray (energy, bin)
        The probabilities, for the energies of `antineutrinos`.
    """
    from scipy.special import ndtr  # takes a third of a second to import

    n_acrylic = len(_DEPOSITED) // 2
    acrylic = _read("detector_iav_matrix.hdf5")["iav_matrix"][:n_acrylic, :n_acrylic]
    curve = _read("detector_lsnl_curves.hdf5")["nominal"]
    known = curve["E_MeV"] * curve["f"]
    below_known = np.minimum(_DEPOSITED - curve["E_MeV"][0], 0) * (known[1] - known[0]) / np.diff(curve["E_MeV"])[0]
    visible = scale * (np.interp(_DEPOSITED, curve["E_MeV"], known) + below_known)
    a, b, c = (value for value, _ in _read("parameters/detector_eres.yaml")["eres"].values())
    sigma = np.sqrt((a * visible) ** 2 + b**2 * visible + c**2)
    below = ndtr((BIN * np.arange(FIRST, last + 1)[:, None] - visible) / sigma)
    return (np.diff(below, axis=0) @ np.kron(acrylic, np.eye(2))).T[_ABOVE]


def unoscillated(period: str, last: int = LAST) -> dict[str, NDArray[Any]]:
    """Expected events without oscillation and backgrounds, {detector: (bin,)}."""
    _, running, _ = antineutrinos()
    folded = response(last=last)
    return {name: sum(each.values()) * running @ folded for name, each in exposures(period).items()}


@functools.lru_cache
def backgrounds(period: str) -> dict[str, NDArray[Any]]:
    """Expected background events of each source, {source: (hall, bin)}."""
    rates = {row["Label"].decode(): row for row in _read("dayabay_dataset/dayabay_background_rates.hdf5")[period]}
    found = {}
    for key, shape in _read(f"dayabay_dataset/dayabay_background_spectra_{period}.hdf5").items():
        source, detector = key.removeprefix("spectrum_shape_").rsplit("_", 1)
        n_events = rates[f"{source}_rate"][detector] * livetime(period, detector).sum() / 86400
        into = found.setdefault(source, np.zeros((N_HALLS, N_BINS)))
        into[hall(detector)] += n_events * shape["N"][FIRST:LAST]
    return found


def observed(period: str) -> NDArray[Any]:
    """Observed events, (hall, bin)."""
    counts = np.zeros((N_HALLS, N_BINS))
    for key, histogram in _read(f"dayabay_dataset/dayabay_ibd_spectra_{period}.hdf5").items():
        counts[hall(key.removeprefix("ibd_spectrum_"))] += histogram["N"][FIRST:LAST]
    return counts


def solar() -> tuple[float, float]:
    """Dm^2_21 in eV^2 and sin^2(2 theta12)."""
    known = _read("parameters/survival_probability_solar.yaml")
    return known["DeltaMSq21"][0], known["SinSq2Theta12"][0]


@functools.lru_cache
def reactor_errors(periods: tuple[str, ...]) -> NDArray[Any]:
    """Published errors of the reactors, as covariance of the relative event rates of the halls.

    Power, fission fractions, isotopes out of equilibrium and spent fuel of each reactor vary independently of those of
    the others.  The relative rate of all events is left out, since the norm is free, and differences between the
    spectra of reactors are neglected.

    Parameters
    ----------
    periods : tuple of str
        Data-taking periods that are combined.

    Returns
    -------
    ndarray (hall, hall)
        The covariance.
    """
    _, running, spent = antineutrinos()
    seen = running * response().sum(-1)
    events, without_spent_fuel = np.zeros((2, N_HALLS, len(spent)))
    for into, spent_fuel in ((events, 1.0), (without_spent_fuel, 0.0)):
        for period in periods:
            for detector, by_reactor in exposures(period, spent_fuel).items():
                into[hall(detector)] += [by_reactor[name] @ seen for name in spent]
    each = events.sum(-1, keepdims=True)
    shares, spent_shares = events / each, (events - without_spent_fuel) / each
    deviation = _percent("reactor_snf", "snf_scale")
    covariance = _variance_of_a_reactor() * shares @ shares.T + deviation**2 * spent_shares @ spent_shares.T
    without_norm = np.eye(N_HALLS) - (each / each.sum()).T
    return without_norm @ covariance @ without_norm.T


def _variance_of_a_reactor() -> float:
    """Relative variance of the events from a reactor, without its spent fuel."""
    energy, _ = _energies()
    seen = _interactions(1.0) * response().sum(-1)
    fractions = _read("parameters/reactor_fission_fractions.yaml")["fission_fractions"]
    energies = _read("parameters/reactor_energy_per_fission.yaml")["energy_per_fission"]
    spectra = _isotopes(energy)
    events = {name: fractions[name] * (now + late) @ seen for name, (now, late) in spectra.items()}
    n_events = sum(events.values())
    out_of_equilibrium = [fractions[name] * late @ seen / n_events for name, (_, late) in spectra.items()]
    # At a given power, more fissions of one isotope are fewer of the others.
    mev = sum(fractions[name] * energies[name][0] for name in fractions)
    file = _raw("parameters/reactor_fission_fractions_scale.yaml")
    published, correlation = (file[kind]["fission_fractions_scale"] for kind in ("parameters", "correlations"))
    slopes = np.array(
        [
            published[name][1] / 100 * (events[name] / n_events - fractions[name] * energies[name][0] / mev)
            for name in correlation["names"]
        ]
    )
    power = _percent("reactor_thermal_power_uncertainty", "thermal_power_scale")
    late = _percent("reactor_nonequilibrium_correction", "nonequilibrium_scale")
    return power**2 + slopes @ np.array(correlation["matrix"]) @ slopes + late**2 * np.square(out_of_equilibrium).sum()


def _percent(file: str, name: str) -> float:
    """A published relative deviation."""
    return _read(f"parameters/{file}.yaml")[name][1] / 100


@functools.lru_cache
def detector_errors(periods: tuple[str, ...]) -> tuple[NDArray[Any], NDArray[Any], float, NDArray[Any]]:
    """Published errors of the nuisance parameters of each hall, namely of the mean of its detectors.

    Parameters
    ----------
    periods : tuple of str
        Data-taking periods that are combined.

    Returns
    -------
    scale, efficiency : ndarray (hall,)
        Relative standard deviations of energy scale and efficiency.
    correlation : float
        Correlation of the two.
    lithium : ndarray (hall,)
        Relative standard deviation of the background of lithium and helium.
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


def _lithium_errors(periods: tuple[str, ...]) -> NDArray[Any]:
    """Relative error of each hall, (hall,): errors are added over its detectors, and in quadrature over periods."""
    rates = _read("parameters/background_rates_correlated.yaml")["lithium_helium"]
    total, square = np.zeros((2, N_HALLS))
    for period in periods:
        sums = np.zeros((2, N_HALLS))
        for detector, rate in rates[period].items():
            sums[:, hall(detector)] += np.array(rate) * livetime(period, detector).sum()
        total, square = total + sums[0], square + sums[1] ** 2
    return np.sqrt(square) / total


def _read(file: str) -> Any:
    """Parameters of a published YAML file, or {name: table} of an HDF5 file."""
    return _raw(file)["parameters"] if file.endswith(".yaml") else _raw(file)


@functools.lru_cache
def _raw(file: str) -> Any:
    """Content of a published file."""
    try:
        import h5py
        import yaml
        from dayabay_data_official.dataset import get_path_data
    except ImportError as error:
        text = f'DayaBay needs {error.name} to read the published data. Type: pip install "sagips_kit[dayabay]"'
        raise ModuleNotFoundError(text, name=error.name) from None
    path = get_path_data("hdf5") / file
    if path.suffix == ".yaml":
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    with h5py.File(path, locking=False) as tables:  # some parallel filesystems have no locks
        return {name: table[:] for name, table in tables.items()}
