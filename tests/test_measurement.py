"""Knowledge of functions of the parameters: what it weighs, how it varies between chains, and what is refused."""

import dataclasses
import pickle
import re

import numpy as np
import pytest
import torch
from gaussian import QUICK, Calibrated, Gaussian, exact_fit

from sagips_kit import Linear, Measurement, Trainer, check_problem, fisher_information, fit_likelihood
from sagips_kit._value import value
from sagips_kit.events.resampling import Resampling, check_events
from sagips_kit.running.probe import changes, probe
from sagips_kit.training.data import RankData

EVENTS = Gaussian().observed(2000, np.random.default_rng(0))
COVARIANCE = [[0.0004, -0.0003], [-0.0003, 0.0009]]

CPU = torch.device("cpu")


@value
class Measured(Linear):
    """Sum and difference of two coefficients are known from elsewhere, with correlated errors."""

    n_coefficients: int = 2

    measurements = {
        "sum and difference": Measurement(lambda c: (c[0] + c[1], c[0] - c[1]), (0.4, 1.7), covariance=COVARIANCE)
    }


DESIGN = np.array([[1.0, 1.0], [1.0, -1.0]])  # of the measured values


def closed_form(problem, events, shift=0.0):
    """Estimate and covariance of linear regression with the measured values, these moved by `shift` (value,)."""
    own, covariance = problem.posterior(events)
    weight, known = np.linalg.inv(covariance), np.linalg.inv(COVARIANCE)
    together = np.linalg.inv(weight + DESIGN.T @ known @ DESIGN)
    return together @ (weight @ own + DESIGN.T @ known @ (np.array([0.4, 1.7]) + shift)), together


def test_a_fit_is_that_of_linear_regression():
    problem = Measured()
    events = problem.observed(3000, np.random.default_rng(0))
    fit, (theta, covariance) = fit_likelihood(problem, events), closed_form(problem, events)
    np.testing.assert_allclose(fit.theta, theta, rtol=1e-6)
    np.testing.assert_allclose(fit.covariance, covariance, rtol=1e-5)
    information = fisher_information(problem, theta, events)
    np.testing.assert_allclose(information.deviation, np.sqrt(np.diag(covariance)), rtol=0.1)


def chains_of(problem, events, n_chains):
    """Where the loss of each chain, with its own events and its own shifts of what is known, is lowest."""
    resampling = Resampling(range(n_chains), n_chains, 0, True)
    settings = dataclasses.replace(QUICK, n_members=n_chains)
    data = RankData(
        problem, settings, check_events(problem, events), resampling, resampling.chains, torch.device("cpu")
    )
    n, found = len(events), []
    for k, sample in enumerate(data.constraints.statistics):
        sample = sample.double()
        shift = data.constraints.shifts[k].double()

        def loss(theta, sample=sample, shift=shift):
            penalty = problem.residuals(theta, sample, shift).square().sum() / 2
            return (penalty - problem.log_likelihood(theta, sample)) / n

        at = torch.zeros(len(problem.parameters), dtype=torch.float64)
        # One step of Newton: the loss is a parabola.
        found.append(at - torch.linalg.solve(torch.func.hessian(loss)(at), torch.func.grad(loss)(at)))
    return torch.stack(found).numpy()


@value
class Constrained(Measured):
    """The same knowledge as a constraint, which is the same for all chains."""

    measurements = {}

    def constraints(self, theta, statistic):
        return Measured.measurements["sum and difference"].residuals(theta)


def test_chains_scatter_by_the_errors_of_what_was_measured():
    """As repeated experiments would, closed form; given as a constraint the same knowledge has too small a spread."""
    problem = Measured()
    events = problem.observed(300, np.random.default_rng(0))
    theta, covariance = closed_form(problem, events)
    chains = chains_of(problem, events, 400)
    np.testing.assert_allclose(chains.mean(0), theta, atol=0.1 * np.sqrt(np.diag(covariance).min()))
    np.testing.assert_allclose(chains.std(0, ddof=1) / np.sqrt(np.diag(covariance)), 1, atol=0.15)
    correlation = np.corrcoef(chains.T)[0, 1]
    assert correlation == pytest.approx(covariance[0, 1] / np.sqrt(np.prod(np.diag(covariance))), abs=0.15)
    fixed = chains_of(Constrained(), events, 400)
    assert (fixed.std(0, ddof=1) < 0.7 * np.sqrt(np.diag(covariance))).all()


def test_the_training_sees_the_same_residuals():
    events = Measured().observed(300, np.random.default_rng(0))
    resampling = Resampling(range(2), 2, 0, True)
    data = RankData(
        Measured(), QUICK, check_events(Measured(), events), resampling, resampling.chains, torch.device("cpu")
    )
    theta = torch.tensor([[[1.0, -0.5], [0.9, -0.6]]] * 2)
    factor = np.linalg.cholesky(COVARIANCE)
    each = []
    for shift in data.constraints.shifts.numpy():
        off = theta[0].numpy() @ DESIGN.T - np.array([0.4, 1.7]) - factor @ shift
        each.append(np.einsum("sv,vw,sw->s", off, np.linalg.inv(COVARIANCE), off).mean() / (2 * 300))
    residuals = data.constraints.residuals(theta)
    np.testing.assert_allclose(residuals.square().sum((1, 2)) / (2 * 2 * 300), each, rtol=1e-4)
    assert data.constraints.shifts.abs().max() > 0.1


@value
class Known(Gaussian):
    """The mean is also known from a measurement, more precisely than from the events."""

    measurements = {"mean": Measurement(lambda theta: theta[0], 0.4, 0.01)}


def test_a_measurement_of_a_parameter_is_a_prior():
    one, other = fit_likelihood(Known(), EVENTS), fit_likelihood(Calibrated(), EVENTS)
    np.testing.assert_allclose(one.theta, other.theta, rtol=1e-12)
    np.testing.assert_allclose(one.covariance, other.covariance, rtol=1e-9)
    theta, shift = torch.tensor([0.42, 1.0], dtype=torch.float64), torch.tensor([0.5], dtype=torch.float64)
    assert Known().residuals(theta, None, shift).tolist() == pytest.approx([1.5])


def test_priors_come_before_measurements():
    class Both(Gaussian):
        priors, measurements = Calibrated.priors, Measured.measurements

    theta, shift = torch.tensor([0.42, 1.0], dtype=torch.float64), torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    expected = torch.cat([Calibrated().residuals(theta, None), Measured().residuals(theta, None)]) - shift
    torch.testing.assert_close(Both().residuals(theta, None, shift), expected)


def test_an_ensemble_of_gans_has_the_spread():
    """The measurement is far more precise than the events, so the mean varies as repeated measurements would."""
    fit = fit_likelihood(Known(), EVENTS)
    settings = dataclasses.replace(QUICK, n_members=16, n_events=256, bootstrap=True)
    trainer = Trainer(Known(), settings, EVENTS, n_steps=400)
    trainer.run()
    chains = trainer.draws.mean(axis=1)[:, 0]
    assert abs(chains.mean() - fit.theta[0]) < 0.4 * fit.deviation[0]
    assert chains.std(ddof=1) == pytest.approx(fit.deviation[0], rel=0.7)
    assert exact_fit(EVENTS)[1][0] > 2 * fit.deviation[0]


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"function": 1.0}, "function = 1.0: should be a function of theta"),
        ({"deviation": None}, "give either standard deviations or a covariance, and not both"),
        ({"covariance": [[1.0]]}, "give either standard deviations or a covariance, and not both"),
        ({"value": (1.0, np.nan)}, "value = .* should be finite numbers"),
        ({"value": "high"}, "value = 'high': should be finite numbers"),
        ({"value": np.ones((2, 2))}, r"value of shape \(2, 2\): should be a number, or several in a row"),
        ({"deviation": 0.0}, "deviation = 0.0: should be a standard deviation above 0"),
        ({"deviation": (0.1, 0.1)}, "should be a standard deviation above 0, or 1 of them"),
        ({"deviation": None, "covariance": 0.1}, r"covariance of shape \(\): should be \(1, 1\)"),
        ({"value": (1, 2), "deviation": None, "covariance": [[1, 0.5], [0, 1]]}, r"not symmetric. .* \(c \+ c.T\) / 2"),
        (
            {"value": (1, 2), "deviation": None, "covariance": [[1, 1], [1, 1]]},
            "not positive definite .* known exactly",
        ),
        ({"value": (1, 2), "deviation": None, "covariance": [[1, 0], [0, -1]]}, "not positive definite"),
    ],
)
def test_impossible_measurements_are_refused_in_words(given, text):
    with pytest.raises(ValueError, match=f"^Measurement: .*{text}"):
        Measurement(**{"function": torch.sum, "value": 1.0, "deviation": 0.1} | given)


def cut(theta):
    return theta[0] if theta[0] > 0 else -theta[0]


@pytest.mark.parametrize(
    ("given", "check", "text"),
    [
        ((0.4, 0.01), "names", r"^measurements\['mean'\] = \(0.4, 0.01\): should be a Measurement\(function"),
        (
            lambda theta: theta,
            "shapes",
            r"^measurements\['mean'\]: the function returns an array of shape \(2,\): .* be 1",
        ),
        (
            lambda theta: 1.0,
            "shapes",
            r"^measurements\['mean'\]: the function returns a float: should be numbers of torch",
        ),
        (lambda theta: theta[7], "shapes", r"^measurements\['mean'\]: the function raises IndexError"),
        (
            lambda theta: theta[0].detach(),
            "derivative",
            r"^measurements\['mean'\]: torch sees no connection from theta",
        ),
        (
            lambda theta: theta[0].detach() * theta[1],
            "gradient",
            r"the derivative of measurements\['mean'\] with .* mu",
        ),
        (cut, "batches", "under torch.vmap"),
        (lambda theta: (theta[0] - 5).sqrt(), "finite", r"measurements\['mean'\] are NaN or infinite"),
    ],
)
def test_wrong_functions_are_found(given, check, text):
    given = Measurement(given, 0.4, 0.01) if callable(given) else given
    mine = type("Mine", (Gaussian,), {"measurements": {"mean": given}})()
    found = [(finding.check, finding.text) for finding in check_problem(mine, EVENTS).to_fix]
    assert any(name == check and re.search(text, one) for name, one in found), found


def test_measurements_that_are_no_dictionary_are_refused():
    mine = type("Mine", (Gaussian,), {"measurements": [Known.measurements["mean"]]})()
    (found,) = check_problem(mine, EVENTS).to_fix
    assert found.check == "names" and "should be a dictionary" in found.text


def test_a_good_measurement_is_kept():
    assert check_problem(Known(), EVENTS).is_ok, check_problem(Known(), EVENTS)


def test_changed_measurements_are_noticed_when_a_run_is_resumed():
    stored = probe(Known())
    assert changes(Known(), stored) == ""
    changed = type("Changed", (Known,), {"measurements": {"mean": Measurement(lambda theta: theta[0], 0.5, 0.01)}})()
    assert changes(changed, stored) == "measurements"


def test_a_measurement_is_described_and_travels():
    known = Measurement(torch.sum, 0.4, 0.1)
    assert repr(known) == f"Measurement(sum, [0.4], covariance=[[{0.1**2!r}]])" and len(known) == 1
    again = pickle.loads(pickle.dumps(known))
    assert torch.equal(again.residuals(torch.ones(2)), known.residuals(torch.ones(2)))
