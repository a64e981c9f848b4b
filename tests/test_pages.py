"""The problems in the how-to pages, exactly as printed there, keep their contract."""

import shutil

import iminuit
import numpy as np
import pytest
import run_code
import scipy.integrate
import scipy.special
import scipy.stats

from sagips_kit import check_problem, fit_likelihood

PAGES = {
    "Decay": "own_problem",
    "Resonance": "pipelines",
    "Calibrated": "priors",
    "Fractions": "constraints",
    "Lifetime": "nuisance",
    "Compass": "periodic",
    "Shower": "no_derivative",
}


def shown(name):
    """The problem of this name, from the blocks of its page that define something."""
    names = {}
    for _, code in run_code.blocks(run_code.PAGES[PAGES[name]]):
        if "\nclass " in code:
            exec(compile(code.partition("\nproblem = ")[0], PAGES[name], "exec"), names)
    return names[name]()


@pytest.mark.parametrize("name", PAGES)
def test_each_keeps_its_contract(name):
    report = check_problem(shown(name))
    assert report.is_ok, report


def test_histograms_find_what_the_exact_density_finds():
    problem = shown("Shower")
    events = problem.observed(None, np.random.default_rng(1))
    fit = fit_likelihood(problem, events)
    a, _, b = scipy.stats.gamma.fit(events[:, 0], floc=0)
    assert np.abs((fit.theta - [a, b]) / fit.deviation).max() < 0.5


def test_a_real_mass_peak_is_fitted_as_by_iminuit(tmp_path, monkeypatch):
    """With another density than the page: SciPy's Voigt profile, normalised by its own integral."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(run_code.ROOT / "docs/data/dimuons.root", tmp_path)
    page = run_code.PAGES["mass_peak"]
    (_, code), *_ = run_code.blocks(page)
    assert len([line for line in code.splitlines() if line]) <= 15 and "2.4952" in code
    names = run_code.run_page(page)
    result, mass = names["result"], names["file"].read(names["ZPeak"]())[:, 0]
    assert len(mass) == 490 and str(result).partition("goodness")[0] in page.read_text()

    def loss(peak, resolution, background):
        def line(x):
            return scipy.special.voigt_profile(x - peak, resolution, 2.4952 / 2)

        area, _ = scipy.integrate.quad(line, 66, 116)
        return -np.log((1 - background) * line(mass) / area + background / 50).sum()

    minuit = iminuit.Minuit(loss, *result.theta)
    minuit.errordef = iminuit.Minuit.LIKELIHOOD
    minuit.migrad().hesse()
    assert minuit.valid
    difference = result.theta - np.array(minuit.values)
    distance = np.sqrt(difference @ np.linalg.solve(np.array(minuit.covariance), difference) / 3)
    assert distance < 0.1
    np.testing.assert_allclose(result.deviation, minuit.errors, rtol=0.1)
