"""The problems in the how-to pages, exactly as printed there, keep their contract."""

import numpy as np
import pytest
import run_code
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
