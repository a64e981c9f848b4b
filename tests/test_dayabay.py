"""The Daya Bay problem: its data are the published ones, its model consistent, and its answer the published one."""

import sys

import numpy as np
import pytest
import torch

from sagips_kit.likelihood import fit_likelihood
from sagips_kit.problems import dayabay
from sagips_kit.problems.dayabay import DayaBay

torch_jit = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's own, in its first hessian


@pytest.fixture(scope="module")
def problem():
    pytest.importorskip("dayabay_data_official")
    return DayaBay()


@pytest.fixture
def theta(problem):
    """A vector well off the middle of the ranges, (parameter,)."""
    t = torch.rand(len(problem.parameters), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return problem.scale(t)


def test_batched_events_stay_in_the_window_and_halls(problem):
    t, noise = torch.rand(3, len(problem.parameters)), torch.rand(3, 600, problem.noise_dim)
    t[0], t[1] = 0.0, 1.0
    events = torch.vmap(problem.simulate)(problem.scale(t), noise)
    assert events.shape == (3, 600, 2) and events.dtype == torch.float32
    assert events[..., 0].min() >= 0.9 and events[..., 0].max() <= 7.5
    assert torch.equal(events[..., 1], (3 * noise[..., 0]).floor())
    features = problem.features(events)
    assert features.shape == (3, 600, 37) and features.dtype == torch.float32
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
    with pytest.raises(ValueError, match="3083250 events; 4000000 were asked for"):
        problem.observed(4_000_000, rng)


@torch_jit
def test_likelihood_and_constraints_peak_where_the_events_come_from(problem, theta):
    n_observed = len(problem.observed(None, np.random.default_rng(0)))
    without, theta[-1] = theta.index_fill(0, torch.tensor(len(theta) - 1), 0.0), 1.0
    background, total = problem.spectra(without).sum(), problem.spectra(theta).sum()
    theta[-1] = (n_observed - background) / (total - background)
    expected = problem.spectra(theta)

    def joint(x):
        return problem.log_likelihood(x, expected) - 0.5 * problem.constraints(x, expected).square().sum()

    width = torch.tensor(np.subtract(problem.upper, problem.lower))
    fisher = -torch.func.hessian(joint)(theta) * torch.outer(width, width)
    assert (
        torch.linalg.eigvalsh(fisher).min() > 25
    )  # every direction is known to a fifth of the range, even at little mixing
    assert (torch.func.grad(joint)(theta) * width).abs().max() < 1e-9 * fisher.diagonal().max()


@torch_jit
@pytest.mark.parametrize(("period", "n_knots", "tolerance"), [("8AD", 14, 2.0), ("all", 20, 0.5)])
def test_fit_is_near_the_publication(period, n_knots, tolerance):
    """Within `tolerance` combined deviations; all periods are the publication's data, so they must agree better."""
    pytest.importorskip("dayabay_data_official")
    problem = DayaBay(period=period, n_knots=n_knots)
    events = problem.observed(None, np.random.default_rng(0))
    fit = fit_likelihood(problem, events, n_starts=1)
    for name, (published, published_deviation) in problem.published.items():
        k = problem.parameters.index(name)
        assert abs(fit.theta[k] - published) < tolerance * np.hypot(fit.deviation[k], published_deviation)
    expected, counts = problem.spectra(torch.as_tensor(fit.theta)), problem.statistic(torch.as_tensor(events))
    assert ((counts - expected).square() / expected).sum() < 1.2 * (expected.numel() - len(fit.theta))


def test_missing_data_package_names_the_line_to_type(monkeypatch):
    monkeypatch.setitem(sys.modules, "dayabay_data_official", None)
    monkeypatch.setitem(sys.modules, "dayabay_data_official.dataset", None)
    dayabay._read.cache_clear()
    dayabay._tables.cache_clear()
    with pytest.raises(ModuleNotFoundError, match=r'pip install "sagips_kit\[dayabay\]"'):
        DayaBay().observed(10, np.random.default_rng(0))
