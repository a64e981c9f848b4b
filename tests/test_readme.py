"""The problems in README.md, exactly as printed there, keep their contract."""

import re
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from sagips_kit import check_problem, fit_likelihood

TEXT = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def shown():
    """Names and values that the code blocks with a problem define."""
    section = TEXT.partition("\n## Problems\n")[2].partition("\n### Observed events of your own\n")[0]
    names = {}
    for block in re.findall(r"```python\n(.*?)```", section, re.DOTALL):
        exec(compile(block, "README.md", "exec"), names)
    return names


@pytest.mark.parametrize("name", ["Decay", "Resonance", "Calibrated", "Compass", "Shower"])
def test_each_keeps_its_contract(shown, name):
    report = check_problem(shown[name]())
    assert report.is_ok, report


def test_histograms_find_what_the_exact_density_finds(shown):
    events = shown["Shower"]().observed(None, np.random.default_rng(1))
    fit = fit_likelihood(shown["Shower"](), events)
    a, _, b = scipy.stats.gamma.fit(events[:, 0], floc=0)
    assert np.abs((fit.theta - [a, b]) / fit.deviation).max() < 0.5
