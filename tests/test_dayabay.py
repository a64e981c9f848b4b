"""The Daya Bay problem: published data, a consistent model, and an answer that agrees with the published one."""

import sys

import numpy as np
import pytest
import scipy.stats
import torch

from sagips_kit import DayaBay, fisher_information
from sagips_kit.problems.dayabay import inputs
from sagips_kit.running.described import shown_of
from sagips_kit.statistics.likelihood import fit_likelihood
from sagips_kit.store import schema
from sagips_kit.store.shown import Shown


@pytest.fixture(scope="module")
def problem():
    pytest.importorskip("dayabay_data_official")
    return DayaBay()


@pytest.fixture
def theta(problem):
    """A parameter vector far from the middle of the ranges, (parameter,)."""
    t = torch.rand(len(problem.parameters), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return problem.scale(t)


def at_published_total(problem, theta):
    """The same vector without nuisances, and with the norm for which the expected and observed totals agree."""
    theta, norm = theta.clone(), problem.parameters.index("norm")
    theta[norm:] = 0.0
    background, n_observed = problem.spectra(theta).sum(), len(problem.observed(None, np.random.default_rng(0)))
    theta[norm] = 1.0
    theta[norm] = (n_observed - background) / (problem.spectra(theta).sum() - background)
    return theta


def nuisance_errors(problem):
    """Deviations of the nuisance parameters by their names."""
    rates = np.sqrt(problem.measurements["rate"].covariance.diagonal())
    errors = {name: deviation for name, (_, deviation) in problem.priors.items()}
    return errors | {f"rate_EH{k + 1}": rate for k, rate in enumerate(rates)}


def test_batched_events_stay_in_the_window_and_halls(problem):
    t, noise = torch.rand(3, len(problem.parameters)), torch.rand(3, 600, problem.noise_dim)
    t[0], t[1] = 0.0, 1.0
    events = torch.vmap(problem.simulate)(problem.scale(t), noise)
    assert events.shape == (3, 600, 2) and events.dtype == torch.float32
    assert events[..., 0].min() >= 0.9 and events[..., 0].max() <= 7.5
    assert torch.equal(events[..., 1], (3 * noise[..., 0]).floor())
    features = problem.features(events)
    assert features.shape == (3, 600, 49) and features.dtype == torch.float32
    assert features.abs().max() <= 1 + 1e-5


def test_gradient_is_that_of_finite_differences(problem, theta):
    noise = torch.rand(200, 1, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    jacobian = torch.func.jacrev(problem.simulate)(theta, noise)
    for k, width in enumerate(np.subtract(problem.upper, problem.lower)):
        step = torch.zeros_like(theta)
        step[k] = 1e-6 * width
        difference = (problem.simulate(theta + step, noise) - problem.simulate(theta - step, noise)) / (2e-6 * width)
        torch.testing.assert_close(jacobian[..., k], difference, rtol=1e-4, atol=1e-6 / width)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_simulated_events_follow_the_spectra(problem, theta, dtype):
    n_events = 300_000
    noise = (torch.arange(n_events, dtype=torch.float64)[:, None] + 0.5) / n_events
    counts = problem.statistic(problem.simulate(theta.to(dtype), noise.to(dtype)))
    spectra = problem.spectra(theta)
    expected = spectra / spectra.sum(-1, keepdim=True) * n_events / 3
    torch.testing.assert_close(counts, expected, rtol=0, atol=2.0)


def test_observed_events_are_the_published_counts(problem):
    h5py = pytest.importorskip("h5py")
    from dayabay_data_official.dataset import get_path_data

    expected = np.zeros((3, 132))
    with h5py.File(get_path_data("hdf5") / "dayabay_dataset/dayabay_ibd_spectra_8AD.hdf5") as tables:
        for hall, detectors in enumerate((("AD11", "AD12"), ("AD21", "AD22"), ("AD31", "AD32", "AD33", "AD34"))):
            for detector in detectors:
                table = tables[f"ibd_spectrum_{detector}"][:]
                inside = (table["E_min_MeV"] > 0.875) & (table["E_max_MeV"] < 7.525)
                expected[hall] += table["N"][inside]
    events = torch.as_tensor(problem.observed(None, np.random.default_rng(0)))
    np.testing.assert_array_equal(problem.statistic(events).numpy(), expected)
    assert problem.n_categories == 3
    np.testing.assert_array_equal(problem.category(events).bincount(), expected.sum(1))


def test_subsample_is_drawn_without_replacement(problem):
    rng = np.random.default_rng(0)
    few = problem.observed(1000, rng)
    assert few.shape == (1000, 2) and few.dtype == np.float32
    with pytest.raises(ValueError, match="n_events = 4000000: should be from 1 to 3083250, the events of DayaBay"):
        problem.observed(4_000_000, rng)


def test_likelihood_and_constraints_peak_where_the_events_come_from(problem, theta):
    theta = at_published_total(problem, theta)
    expected = problem.spectra(theta)

    def joint(x):
        return problem.log_likelihood(x, expected) - 0.5 * problem.residuals(x, expected).square().sum()

    width = torch.tensor(np.subtract(problem.upper, problem.lower))
    fisher = -torch.func.hessian(joint)(theta) * torch.outer(width, width)
    assert (
        torch.linalg.eigvalsh(fisher).min() > 25
    )  # every direction is known to a fifth of the range, even with little mixing
    assert (torch.func.grad(joint)(theta) * width).abs().max() < 1e-9 * fisher.diagonal().max()


@pytest.mark.parametrize(("period", "n_knots", "tolerance"), [("8AD", 14, 2.0), ("all", 20, 0.5)])
@pytest.mark.parametrize("nuisances", [True, False])
def test_fit_is_near_the_published_result(period, n_knots, tolerance, nuisances):
    """Within `tolerance` combined deviations; all periods are the publication's data, so they must agree better."""
    pytest.importorskip("dayabay_data_official")
    problem = DayaBay(period=period, n_knots=n_knots, nuisances=nuisances)
    events = problem.observed(None, np.random.default_rng(0))
    fit = fit_likelihood(problem, events, n_starts=1)
    for name, (published, published_deviation) in problem.published.items():
        k = problem.parameters.index(name)
        assert abs(fit.theta[k] - published) < tolerance * np.hypot(fit.deviation[k], published_deviation)
        # The publication may use slightly more information than the data release contains.
        assert 0.6 < fit.deviation[k] / published_deviation < (1.05 if period == "all" else 1.3)
    chi_squared = problem.chi_squared(torch.as_tensor(fit.theta), problem.statistic(torch.as_tensor(events)))
    assert (scipy.stats.chi2.sf(chi_squared, 132) > 0.01).all()


@pytest.mark.parametrize("n_knots", [14, 20])
def test_features_keep_nearly_all_information(n_knots):
    pytest.importorskip("dayabay_data_official")
    problem = DayaBay(n_knots=n_knots)
    events = problem.observed(500_000, np.random.default_rng(3))
    fit = fit_likelihood(problem, events, n_starts=1)
    seen = fisher_information(problem, fit.theta, events, n_simulated=100_000).deviation / fit.deviation
    assert seen.max() < 1.05
    assert seen[:2].max() < 1.02


def test_nuisances_widen_the_errors_and_are_known_no_worse_than_published(problem):
    events = problem.observed(None, np.random.default_rng(0))
    fit, statistical = (fit_likelihood(one, events, n_starts=1) for one in (problem, DayaBay(nuisances=False)))
    wider = fit.deviation[:17] / statistical.deviation
    assert 1.05 < wider[0] < 1.5 and 1.05 < wider[1] < 1.5 and wider.min() > 0.999
    deviations = np.array([nuisance_errors(problem)[name] for name in problem.parameters[17:]])
    assert (fit.deviation[17:] < deviations).all() and (np.abs(fit.theta[17:]) < 3 * deviations).all()
    information = fisher_information(problem, fit.theta, events)
    np.testing.assert_allclose(information.deviation, fit.deviation, rtol=0.05)


def test_each_nuisance_has_the_effect_that_it_is_named_after(problem):
    """Energy scale, rate and lithium of one hall, shifted by two deviations, agree with the published inputs."""
    theta = problem.scale(torch.full((len(problem.parameters),), 0.5, dtype=torch.float64))
    nominal = problem.spectra(theta)

    def moved(name):
        other = theta.clone()
        size = 2 * nuisance_errors(problem)[name]
        other[problem.parameters.index(name)] = size
        return problem.spectra(other) - nominal, size

    background = sum(inputs.backgrounds("8AD").values())
    change, size = moved("rate_EH3")
    torch.testing.assert_close(change[2], size * (nominal - torch.as_tensor(background))[2])
    assert (change[:2] == 0).all()
    change, size = moved("lithium_EH1")
    torch.testing.assert_close(change[0], size * torch.as_tensor(inputs.backgrounds("8AD")["lithium_helium"][0]))
    change, size = moved("scale_EH2")
    # Energies grow: events move from the rising side of the spectrum to the falling side.
    energy = 0.9 + 0.05 * (torch.arange(132) + 0.5)
    signal = (nominal - torch.as_tensor(background))[1]
    mean = [(counts * energy).sum() / counts.sum() for counts in (signal, signal + change[1])]
    assert (mean[1] / mean[0] - 1).item() == pytest.approx(size, rel=0.1)
    # Efficiency and energy scale of a detector grow together, with their published correlation.
    assert (change.sum() / signal.sum()).item() == pytest.approx(0.545 * 0.1063 / 0.2 * size, rel=0.1)


def test_errors_of_reactors_move_halls_against_each_other(problem):
    """Each reactor varies by 0.85 %, which mostly cancels between halls."""
    assert inputs._variance_of_a_reactor() ** 0.5 == pytest.approx(0.0085, abs=0.0005)
    covariance = inputs.reactor_errors(("8AD",))
    events = problem.spectra(problem.scale(torch.full((26,), 0.5, dtype=torch.float64))).sum(-1).numpy()
    deviation = covariance.diagonal() ** 0.5
    # The relative rate of all events is that of the norm, which is free.
    assert np.sqrt(events @ covariance @ events) < 0.03 * (deviation @ events)
    assert (deviation > 0.001).all() and (deviation < 0.003).all()
    assert covariance[0, 1] < 0 < covariance[1, 2], "other reactors are near the first hall"


def test_chi_squared_detects_a_wrong_spectrum(problem, theta, rng):
    theta = at_published_total(problem, theta)
    counts = torch.as_tensor(rng.poisson(problem.spectra(theta)))
    right = problem.chi_squared(theta, counts)
    assert (scipy.stats.chi2.sf(right, 132) > 1e-4).all() and (scipy.stats.chi2.cdf(right, 132) > 1e-4).all()
    wrong = theta.clone()
    wrong[problem.parameters.index("spectrum_10")] += 0.2
    assert (scipy.stats.chi2.sf(problem.chi_squared(wrong, counts), 132) < 1e-6).all()


def test_survival_over_distance_and_energy(problem, theta):
    theta = at_published_total(problem, theta)
    counts = problem.spectra(theta)
    found = problem.survival(theta, counts)
    torch.testing.assert_close(found.observed, found.expected)
    without = problem.survival(torch.cat([0 * theta[:1], theta[1:]]), counts).expected
    torch.testing.assert_close(without, torch.ones_like(without))
    # The first minimum of 1 - sin^2(2 theta13) sin^2(1.267 dm2 L / E), at a distance that only the far hall has.
    x, expected = (torch.as_tensor(one)[2] for one in (found.length_over_energy, found.expected))
    lowest = expected.argmin()
    assert x[lowest].item() == pytest.approx(torch.pi / 2 / (1.267 * theta[1].item()), rel=0.1)
    assert 1 - expected[lowest].item() == pytest.approx(theta[0].item(), rel=0.05)


def test_a_run_stores_how_its_problem_is_shown(problem, rng):
    shown = Shown.from_attributes({schema.SHOWN_KEY: shown_of(problem, problem.observed(1000, rng))})
    assert shown.category == "hall" and shown.of_category("hall", 2) == "EH3"
    assert shown.interest == ("sin2_2theta13", "dm2_32") and shown.priors["scale_EH1"][0] == 0
    assert {*shown.labels} <= {*problem.parameters, *problem.observables}
    assert Shown.from_attributes({}) == Shown(), "of earlier versions"


@pytest.mark.slow
def test_spectra_without_oscillation_are_those_of_the_collaboration():
    """For each detector and period, to 1 % from 1 to 8 MeV, compared with the collaboration's own forward model."""
    pytest.importorskip("dayabay_data_official")
    model = pytest.importorskip("dayabay_model").model_dayabay()
    for name in ("SinSq2Theta13", "SinSq2Theta12"):
        model.storage[f"parameters.all.survival_probability.{name}"].value = 0
    theirs = dict(model.storage["outputs.eventscount.fine.ibd_normalized"].walkitems())
    ours = {
        (detector, period): spectrum
        for period in ("6AD", "8AD", "7AD")
        for detector, spectrum in inputs.unoscillated(period, last=160).items()
    }
    assert ours.keys() == theirs.keys() and len(ours) == 21
    for key, spectrum in ours.items():
        np.testing.assert_allclose(spectrum[2:], theirs[key].data[20:160], rtol=0.01)
        assert spectrum[2:].sum() == pytest.approx(theirs[key].data[20:160].sum(), rel=1e-3)


def test_missing_data_package_names_the_line_to_type(monkeypatch):
    monkeypatch.setitem(sys.modules, "dayabay_data_official", None)
    monkeypatch.setitem(sys.modules, "dayabay_data_official.dataset", None)
    inputs._raw.cache_clear()
    with pytest.raises(ModuleNotFoundError, match=r'pip install "sagips_kit\[dayabay\]"'):
        inputs.solar()
