"""The contract of a problem: misspelt attributes, unsupported event weights, and refined grids of pipelines."""

import warnings

import numpy as np
import pytest
import torch
from gaussian import QUICK, Calibrated, Gaussian

from sagips_kit import (
    Image,
    Pipeline,
    Problem,
    RunSpec,
    Separate,
    Trainer,
    check_problem,
    fisher_information,
    fit_likelihood,
    floor_step,
    prepare,
)
from sagips_kit._value import value
from sagips_kit.check.answer import grids
from sagips_kit.check.case import Case
from sagips_kit.problems.base import misspelt

EVENTS = Gaussian().observed(2000, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("prior", "priors"),
        ("measurement", "measurements"),
        ("unit", "units"),
        ("long_name", "long_names"),
        ("publishd", "published"),
        ("thruth", "truth"),
        ("feature", "features"),
        ("simulat", "simulate"),
        ("constraint", "constraints"),
        ("noise_dims", "noise_dim"),
    ],
)
def test_a_misspelt_attribute_is_reported_instead_of_ignored(given, meant, tmp_path):
    text = f"`{given}` is not part of the contract .* Did you mean `{meant}`"
    with pytest.warns(UserWarning, match=f"^Mine: {text}"):
        mine = type("Mine", (Gaussian,), {given: {}})()
    (found,) = check_problem(mine, EVENTS).to_fix
    assert found.check == "names" and f"Did you mean `{meant}`?" in found.text
    spec = RunSpec(problem=mine, store=str(tmp_path / "run.zarr"))
    with pytest.raises(ValueError, match=f"Mine cannot be trained: {text}"):
        prepare(spec, n_ranks=1)
    assert not list(tmp_path.iterdir())


def test_a_forgotten_prior_is_found_in_a_value_and_in_an_object():
    with pytest.warns(UserWarning, match=r"^Forgotten: `prior` .* name it `_prior`"):

        @value
        class Forgotten(Gaussian):
            prior = Calibrated.priors

    mine = Free()
    mine.prior = Calibrated.priors
    assert [finding.check for finding in check_problem(mine, EVENTS).to_fix] == ["names"]


class Free(Gaussian.__mro__[1]):
    """The Gaussian as a plain class, whose instances can have attributes."""

    parameters, lower, upper, truth = Gaussian.parameters, Gaussian.lower, Gaussian.upper, Gaussian.truth
    observables, noise_dim = Gaussian.observables, Gaussian.noise_dim
    simulate, features = Gaussian.simulate, Gaussian.features


class Mixin:
    unit = "GeV"


def test_names_of_other_things_cause_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")

        class Mine(Mixin, Gaussian):
            unit = "MeV"  # declared by another base
            n_observed, true_units, features_of_x, likelihood, simulator = 1000, {}, (), None, None
            _prior, period = {}, 24.0

            def simulate(self, theta, noise):
                return super().simulate(theta, noise)

            def simulated(self):
                """Defined next to the method that it is named after."""

    assert misspelt(Mine()) == []


class Weighted(Gaussian):
    """Events with weights, which are not supported yet."""

    def simulate(self, theta, noise):
        return super().simulate(theta, noise), torch.zeros_like(noise[:, 0])


DOORS = {
    "Trainer": lambda problem: Trainer(problem, QUICK, EVENTS, n_steps=2).run(),
    "fisher_information": lambda problem: fisher_information(problem, problem.truth, EVENTS),
    "floor_step": lambda problem: floor_step(problem, problem.truth, EVENTS),
    "prepare": lambda problem: prepare(RunSpec(problem=problem, store="none.zarr"), n_ranks=1),
}


@pytest.mark.parametrize("door", DOORS)
def test_event_weights_are_refused_with_one_message(door):
    with pytest.raises((NotImplementedError, ValueError), match="event weights are not supported yet") as error:
        DOORS[door](Weighted())
    assert "Weighted.simulate returns a tuple of 2" in str(error.value) and "torch.stack" in str(error.value)


def test_the_check_of_problems_refuses_event_weights():
    (found,) = check_problem(Weighted(), EVENTS).to_fix
    assert found.check == "shapes" and "event weights are not supported yet" in found.text
    # The likelihood fit does not simulate, so it has no weights to refuse.
    assert np.array_equal(fit_likelihood(Weighted(), EVENTS).theta, fit_likelihood(Gaussian(), EVENTS).theta)


def normal(theta, x):
    return torch.exp(-0.5 * ((x - theta[0]) / theta[1]) ** 2)


COARSE = Pipeline(normal, Separate(torch.arange(-8, 8.001, 1.0)))


class AsAttribute(Gaussian):
    pipeline = COARSE

    def simulate(self, theta, noise):
        return self.pipeline.simulate(theta, noise)


class AsStaticMethods(Gaussian):
    simulate = staticmethod(COARSE.simulate)


class InTheObject(Free):
    def __init__(self):
        self.detector = COARSE

    def simulate(self, theta, noise):
        return self.detector.simulate(theta, noise)


class ByAnotherName(AsAttribute):
    pipeline = property(lambda self: None)
    detector = COARSE

    def simulate(self, theta, noise):
        return self.detector.simulate(theta, noise)


@value
class AsProperty(AsAttribute):
    n_points: int = 17

    @property
    def pipeline(self):
        return Pipeline(normal, Separate(torch.linspace(-8, 8, self.n_points)))


@pytest.mark.parametrize("kind", [AsAttribute, AsStaticMethods, InTheObject, ByAnotherName, AsProperty])
def test_grids_are_refined_wherever_a_problem_holds_its_pipeline(kind):
    problem, theta = kind(), torch.tensor([0.3, 0.7], dtype=torch.float64)
    noise = torch.rand((1000, 1), dtype=torch.float64)
    before = problem.simulate(theta, noise)
    finer = problem.refined(2)
    assert isinstance(finer, kind) and repr(finer) == repr(problem)
    assert torch.equal(finer.simulate(theta, noise), COARSE.refined(2).simulate(theta, noise))
    assert not torch.equal(finer.simulate(theta, noise), before)
    assert torch.equal(problem.simulate(theta, noise), before)


def test_a_problem_without_a_pipeline_is_not_refined():
    problem = Gaussian()
    assert problem.refined(2) is problem
    assert len(Image(n_pixels=3).refined(2).pipeline.sampler.grids[0]) == 33


class InAGlobal(Gaussian):
    def simulate(self, theta, noise):
        return COARSE.simulate(theta, noise)


class MadeAnew(Gaussian):
    def simulate(self, theta, noise):
        return Pipeline(normal, Separate(torch.linspace(-8, 8, 17))).simulate(theta, noise)


@pytest.mark.parametrize("kind", [InAGlobal, MadeAnew, AsStaticMethods])
def test_grids_that_cannot_be_tried_are_worth_a_note(kind):
    found = [text for _, text in grids(Case(kind(), EVENTS, None, 0))]
    assert ("grids are too coarse" if kind is AsStaticMethods else "Write pipeline = Pipeline") in found[0]


def test_a_problem_is_abstract():
    with pytest.raises(TypeError, match="simulate"):
        Problem()
