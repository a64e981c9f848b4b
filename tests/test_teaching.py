"""The problems with exactly known answers: a Gaussian posterior, and one with two modes."""

import dataclasses

import numpy as np
import pytest
from gaussian import QUICK

from sagips_kit import Linear, Octants, Trainer, check_problem, fisher_information, fit_likelihood


@pytest.mark.parametrize("problem", [Linear(), Linear(n_coefficients=1, sigma=0.1), Octants()], ids=repr)
def test_the_ready_problems_satisfy_their_contract(problem):
    report = check_problem(problem)
    assert report.is_ok and {finding.verdict for finding in report.findings} == {"ok"}, report


@pytest.mark.parametrize("n_coefficients", [1, 2, 4])
def test_the_posterior_of_the_polynomial_is_that_of_its_likelihood(n_coefficients):
    problem = Linear(n_coefficients=n_coefficients)
    events = problem.observed(500, np.random.default_rng(0))
    mean, covariance = problem.posterior(events)
    fit = fit_likelihood(problem, events, n_starts=1)
    np.testing.assert_allclose(fit.theta, mean, atol=1e-6)
    np.testing.assert_allclose(fit.covariance, covariance, rtol=1e-6, atol=1e-12)
    information = fisher_information(problem, mean, events)
    np.testing.assert_allclose(information.deviation, np.sqrt(np.diag(covariance)), rtol=0.1)


def test_the_posterior_covers_the_truth():
    """The pulls of 200 samples are standard normal, so the sum of their squares follows a chi^2 distribution."""
    problem = Linear()
    squares = []
    for seed in range(200):
        mean, covariance = problem.posterior(problem.observed(300, np.random.default_rng(seed)))
        pull = mean - problem.truth
        squares.append(pull @ np.linalg.solve(covariance, pull))
    # Mean and standard deviation of chi^2 with 3 degrees of freedom
    assert np.mean(squares) == pytest.approx(3, abs=4 * np.sqrt(6 / 200))


def test_both_octants_fit_the_events_equally_well():
    problem = Octants()
    events = problem.observed(None, np.random.default_rng(0))
    fit = fit_likelihood(problem, events)
    distances = [np.abs((fit.theta - mode) / fit.deviation).max() for mode in problem.modes]
    assert min(distances) < 4 and max(distances) > 50


@pytest.mark.slow
def test_generators_find_one_octant_each_and_together_both():
    problem = Octants()
    events = problem.observed(None, np.random.default_rng(0))
    fit = fit_likelihood(problem, events)
    settings = dataclasses.replace(QUICK, n_members=8)
    trainer = Trainer(problem, settings, events, n_steps=800, seed=2)
    trainer.run()
    angles = trainer.draws[..., 0]
    assert (angles.std(axis=1) < 3 * fit.deviation[0]).all(), "a generator between the modes"
    to_modes = [np.abs(angles.mean(axis=1) - angle) / fit.deviation[0] for angle, _ in problem.modes]
    assert (np.minimum(*to_modes) < 6).all()
    assert {int(k) for k in np.argmin(to_modes, axis=0)} == {0, 1}


@pytest.mark.slow
def test_training_finds_the_posterior_of_the_polynomial():
    problem = Linear()
    events = problem.observed(None, np.random.default_rng(0))
    mean, covariance = problem.posterior(events)
    trainer = Trainer(problem, dataclasses.replace(QUICK, n_members=4), events, n_steps=800)
    trainer.run()
    distance = (trainer.draws.mean((0, 1)) - mean) / np.sqrt(np.diag(covariance))
    assert np.sqrt(np.mean(distance**2)) < 0.7
