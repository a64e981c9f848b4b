"""What `check_problem` finds in good problems, and in problems that each violate one part of the contract."""

import re

import numpy as np
import pytest
import torch
from gaussian import Gaussian

from sagips_kit import (
    DayaBay,
    Observed,
    Pipeline,
    Problem,
    Proxy,
    RunSpec,
    Separate,
    Settings,
    Trainer,
    check_problem,
    prepare,
)
from sagips_kit.check.case import Case
from sagips_kit.check.report import FIX, NOTE, OK, findings
from sagips_kit.check.speed import speed

TABLE = torch.linspace(-1, 1, 201)


class Decay(Problem):
    """Lifetimes on top of a uniform background: a good problem, whose subclasses have one fault each."""

    parameters = ("lifetime", "signal")
    lower, upper, truth = (0.5, 0.2), (3.0, 0.9), (1.5, 0.6)
    observables = ("time", "energy")
    units = {"lifetime": "ns", "time": "ns"}
    noise_dim = 2

    def simulate(self, theta, noise):
        time = -theta[0] * torch.log1p(-noise[:, 0])
        energy = theta[1] + noise[:, 1]
        return torch.stack([time, energy], dim=-1)

    def observed(self, n_events, rng):
        noise = torch.as_tensor(rng.random((n_events or 4000, 2)))
        return Decay.simulate(self, torch.tensor(self.truth, dtype=noise.dtype), noise).numpy()


class Double(Decay):
    """Its constants make events of double precision."""

    shift = torch.zeros(2, dtype=torch.float64)

    def simulate(self, theta, noise):
        return super().simulate(theta, noise) + self.shift


class LateEvents(Decay):
    """Events at unix times."""

    offset = 1.7e9

    def simulate(self, theta, noise):
        return super().simulate(theta, noise) + torch.tensor([self.offset, 0]).to(theta)

    def observed(self, n_events, rng):
        return super().observed(n_events, rng) + np.array([self.offset, 0])


class LateStart(Decay):
    """The unix time is a parameter."""

    parameters, units = ("start", "signal"), {"time": "s"}
    lower, upper, truth = (1.7e9, 0.2), (1.7e9 + 5, 0.9), (1.7e9 + 1, 0.6)

    def simulate(self, theta, noise):
        return torch.stack([theta[0] - torch.log1p(-noise[:, 0]), theta[1] + noise[:, 1]], dim=-1)

    def observed(self, n_events, rng):
        noise = torch.as_tensor(rng.random((n_events or 4000, 2)))
        return self.simulate(torch.tensor(self.truth, dtype=noise.dtype), noise).numpy()


class WrongShape(Decay):
    def simulate(self, theta, noise):
        return super().simulate(theta, noise).T


class NanAtTheEdge(Decay):
    lower = (0.0, 0.2)

    def simulate(self, theta, noise):
        return super().simulate(theta, noise) ** torch.stack([theta[0].log().exp() / theta[0], theta[0] ** 0])


class NotDifferentiable(Decay):
    def simulate(self, theta, noise):
        is_signal = noise[:, 1] < theta[1]
        time, energy = super().simulate(theta, noise).T
        return torch.stack([torch.where(is_signal, time, 5 * noise[:, 0]), energy], dim=-1)


class UnusedParameter(Decay):
    parameters = ("lifetime", "signal", "spin")
    lower, upper, truth = (0.5, 0.2, 0.0), (3.0, 0.9, 1.0), (1.5, 0.6, 0.5)


class DegeneratePair(UnusedParameter):
    def simulate(self, theta, noise):
        return super().simulate(torch.stack([theta[0], 0.5 * (theta[1] + theta[2])]), noise)

    def observed(self, n_events, rng):
        noise = torch.as_tensor(rng.random((n_events or 4000, 2)))
        return self.simulate(torch.tensor(self.truth, dtype=noise.dtype), noise).numpy()


class HiddenRandomness(Decay):
    def simulate(self, theta, noise):
        return super().simulate(theta, noise) + torch.as_tensor(np.random.default_rng().normal(size=noise.shape)).to(
            noise
        )


class NormalNoise(Decay):
    """Treats the uniform noise as if it were normal."""

    def simulate(self, theta, noise):
        return theta + 0.3 * noise

    def observed(self, n_events, rng):
        return self.truth + 0.3 * rng.normal(size=(n_events or 4000, 2))


class Slow(Decay):
    def simulate(self, theta, noise):
        return torch.cat([super(Slow, self).simulate(theta, row[None]) for row in noise])


class WrongNames(Decay):
    units = {"life_time": "ns"}


class WrongDevice(Decay):
    def simulate(self, theta, noise):
        return super().simulate(theta, noise) + TABLE.mean() * torch.ones(2)


class FarPrior(Decay):
    priors = {"lifetime": (99.0, 0.1)}


FAULTS = {
    WrongShape: (
        "shapes",
        r"shape \(2, 5\) for 5 rows of noise: should be \(5, 2\), a column for each of time, energy",
    ),
    NanAtTheEdge: ("finite", r"at lifetime = 0, its lower end, all events are NaN"),
    NotDifferentiable: ("gradient", r"with respect to signal .* Look for an operation without a derivative"),
    UnusedParameter: ("parameters", r"^spin has no effect on the events or constraints"),
    DegeneratePair: ("parameters", r"undetermined.*: signal \(\+0\.82\), spin \(-0\.57\)\. Results for"),
    HiddenRandomness: ("reproducible", r"there is randomness in simulate"),
    NormalNoise: ("observed", r": observed .*Noise is uniform in \[0, 1\), not normal"),
    WrongNames: (
        "names",
        r"^units has 'life_time', which does not exist. Did you mean lifetime. Allowed: energy, lifetime, signal, time",
    ),
    FarPrior: ("names", r"^priors\['lifetime'\] = \(99.0, 0.1\): its value should be from .*, the range of lifetime"),
    WrongDevice: ("device", r"^a tensor is created on the CPU"),
}


@pytest.mark.parametrize("problem", [Gaussian(), Proxy(), DayaBay(), Decay()], ids=repr)
def test_a_good_problem_keeps_its_contract(problem):
    report = check_problem(problem, n_observed=20_000)
    assert report.is_ok, report
    assert repr(report).startswith(f"{type(problem).__name__}: keeps its contract\n  ok      names")


@pytest.mark.parametrize("kind", FAULTS, ids=lambda kind: kind.__name__)
def test_each_fault_is_found_by_its_check(kind):
    check, text = FAULTS[kind]
    report = check_problem(kind())
    found = {finding.check: finding.text for finding in report.to_fix}
    assert check in found, report
    assert re.search(text, found[check])


def test_a_slow_simulator_is_found():
    (found,) = findings("speed", speed, Case(Slow(), None, None, 0))
    assert found.verdict == FIX and re.search(r"microseconds per event, \d+ times as long as the networks", found.text)


class NoEvents(Gaussian):
    observed = Problem.observed


def test_a_problem_need_not_provide_events():
    events = Gaussian().observed(2000, np.random.default_rng(0))
    report = check_problem(NoEvents(), events)
    assert report.is_ok, report
    with pytest.raises(NotImplementedError, match=r"NoEvents has no events of its own. Give them: RunSpec\(events="):
        prepare(RunSpec(problem=NoEvents(), store="none.zarr"), n_ranks=1)


class BlackBox(Decay):
    """An external program without derivatives."""

    def simulate(self, theta, noise):
        lifetime, signal = theta.numpy()
        return super().simulate(torch.tensor([lifetime, signal]), noise)


class Detached(Decay):
    def simulate(self, theta, noise):
        return super().simulate(theta.detach(), noise)


class Float(Decay):
    def simulate(self, theta, noise):
        return super().simulate([float(theta[0]), float(theta[1])], noise)


@pytest.mark.parametrize("kind", [BlackBox, Detached, Float])
def test_a_simulator_without_derivatives_gives_one_finding_that_says_what_to_do(kind):
    report = check_problem(kind())
    assert [finding.check for finding in report.to_fix] == ["derivative"]
    text = report.to_fix[0].text
    assert "has no derivative" in text and "fill histograms with it" in text and "Use tensor.detach()" not in text
    assert re.search(r"\n  skipped batches, device, .*not tried before the above is fixed", repr(report), re.DOTALL)


def test_the_repr_of_a_users_class_is_its_name():
    assert repr(Decay()) == "Decay()"


class NoNoise(Decay):
    noise_dim = property()


@pytest.mark.parametrize(
    ("problem", "text"),
    [
        (BlackBox(), r"BlackBox cannot be trained: `lifetime, signal = theta.numpy\(\)` raised .* no derivative"),
        (WrongShape(), "cannot be trained: simulate returns events of shape"),
        (NoNoise(), "cannot be trained: noise_dim: missing. A class needs parameters, lower"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_any_engine_is_touched(problem, text, tmp_path):
    with pytest.raises(ValueError, match=text):
        prepare(RunSpec(problem=problem, store=str(tmp_path / "run.zarr")), n_ranks=2)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("given", ["events.npy", Observed("events.npy")], ids=["name", "file"])
def test_a_file_instead_of_events_is_refused_with_the_line_that_reads_it(given):
    with pytest.raises(TypeError, match=r"Type Observed\(.*'events.npy'\).read\(problem\)"):
        check_problem(Decay(), given)


class SameHiddenNumbers(Decay):
    """Looks reproducible because it repeats itself, but gives each batch the same additional noise."""

    def simulate(self, theta, noise):
        hidden = np.random.default_rng(3).normal(size=noise.shape)
        return super().simulate(theta, noise) + torch.as_tensor(hidden).to(noise)


class GlobalStream(Decay):
    """Reseeds torch's global stream, which affects everything else that draws from it."""

    def simulate(self, theta, noise):
        torch.manual_seed(0)
        return super().simulate(theta, noise)


class WrongLikelihood(Gaussian):
    def log_likelihood(self, theta, statistic):
        return super().log_likelihood(theta - 0.05, statistic)


class PoorFeatures(Gaussian):
    def features(self, events):
        return torch.cat([events, events**8], dim=-1)


class Branching(Decay):
    def simulate(self, theta, noise):
        return super().simulate(theta, noise) if theta[0] > 0 else noise


def normal(theta, x):
    return torch.exp(-0.5 * ((x - theta[0]) / theta[1]) ** 2)


class Peak(Gaussian):
    """The same by a pipeline, whose grid has one point per standard deviation."""

    grid = torch.arange(-8, 8.001, 1.0, dtype=torch.float64)
    theory = staticmethod(normal)

    @property
    def pipeline(self):
        return Pipeline(self.theory, Separate(self.grid))

    def simulate(self, theta, noise):
        return self.pipeline.simulate(theta, noise)

    def log_likelihood(self, theta, statistic):
        return self.pipeline.log_likelihood(theta, statistic)


class FinePeak(Peak):
    grid = torch.arange(-8, 8.001, 0.02, dtype=torch.float64)


class Table(Peak):
    """Provides its density only at its grid points."""

    theory = staticmethod(lambda theta, x: normal(theta, Peak.grid))


OTHERS = {
    Peak: ("grids", r"too coarse for 5000 events: with grids twice as fine, .*: .*sigma by .* Use \d+ times"),
    SameHiddenNumbers: ("noise", "events depend on other rows than their own"),
    GlobalStream: ("reproducible", "draws from a global random stream"),
    WrongLikelihood: ("likelihood", r"its maximum is shifted: mu by \+0\.0.*standard deviations"),
    LateEvents: ("precision", r"time: .* too coarse for events, of which most .* Subtract an offset such as 1.7e\+09"),
    Branching: (
        "batches",
        r"`return .* if theta\[0\] > 0 else noise` raised RuntimeError under torch.vmap.*Avoid `if`",
    ),
}


def test_a_problem_in_double_precision_is_trained_in_single(tmp_path, rng):
    assert {finding.check: finding.verdict for finding in check_problem(Double()).findings}["batches"] == NOTE
    events = Double().observed(400, rng)
    with Trainer(Double(), Settings(n_members=2, n_events=64), events, n_steps=4) as trainer:
        assert np.isfinite(trainer.run().theta).all()
    with pytest.raises(
        ValueError, match=r"LateStart cannot be trained: start: .* 1.3e\+02 apart there; .* for its range"
    ):
        prepare(RunSpec(problem=LateStart(), store=str(tmp_path / "a.zarr")), n_ranks=1)


@pytest.mark.parametrize("kind", OTHERS, ids=lambda kind: kind.__name__)
def test_further_faults_are_found(kind):
    check, text = OTHERS[kind]
    found = {finding.check: finding.text for finding in check_problem(kind()).to_fix}
    assert re.search(text, found[check])


def test_grids_are_judged_by_the_number_of_events():
    few = {finding.check: finding.verdict for finding in check_problem(Peak(n_observed=5)).findings}
    assert few["grids"] == OK
    assert check_problem(FinePeak()).is_ok
    # The likelihood interpolates a table linearly between its points, but events are drawn uniformly in its cells.
    (text,) = [finding.text for finding in check_problem(Table()).to_fix if finding.check == "grids"]
    assert "with grids twice as fine, the answer would move" in text


class Folded(Gaussian):
    """The mean of x^2 alone determines only a combination of mean and deviation."""

    def features(self, events):
        return events**2


def test_poor_features_are_distinguished_from_poor_events():
    found = {finding.check: finding for finding in check_problem(Folded()).findings}
    assert found["parameters"].verdict == NOTE
    assert "do not distinguish mu, sigma, though the events do" in found["parameters"].text


def test_information_that_features_lose_is_worth_a_note():
    report = check_problem(PoorFeatures())
    (found,) = [finding for finding in report.findings if finding.check == "likelihood"]
    assert (
        report.is_ok
        and found.verdict == NOTE
        and re.search("determine sigma with .* times the standard deviation that", found.text)
    )


@pytest.mark.parametrize(
    ("name", "given", "text"),
    [
        ("priors", {"lifetime": (1.0, 0.0)}, r"^priors\['lifetime'\] = \(1.0, 0.0\): should be \(value, deviation\)"),
        ("priors", {"lifetime": 1.0}, r"^priors\['lifetime'\] = 1.0: should be"),
        ("published", {"signal": ("a", 1)}, r"^published\['signal'\] = \('a', 1\): should be"),
        ("truth", {"lifetime": 1.0}, r"^truth = \{'lifetime': 1.0\}: should be 2 finite numbers"),
        ("truth", (1.0, None), r"^truth = \(1.0, None\): should be 2 finite numbers"),
        ("truth", (5.0, 0.6), r"^lifetime: truth = 5.0 should be above 0.5 and below 3.0"),
    ],
)
def test_numbers_that_describe_a_problem_are_checked(name, given, text):
    (found,) = check_problem(type("Described", (Decay,), {name: given})()).to_fix
    assert found.check == "names" and re.search(text, found.text)


@pytest.mark.parametrize("given", [Decay, "Proxy", None])
def test_other_objects_than_problems_are_refused(given):
    with pytest.raises(TypeError, match=r"is not a Problem. Type check_problem\((Decay|MyProblem)\(\)\)"):
        check_problem(given)


def test_given_events_are_tested_instead_of_the_problems_own(rng):
    """They need not follow the truth, which belongs to the problem's own events, but they should be possible."""
    longer = np.stack([rng.exponential(2.5, 3000), 0.4 + rng.random(3000)], axis=-1)
    assert check_problem(Decay(), longer).is_ok
    in_picoseconds = longer * [1000, 1]
    (found,) = check_problem(Decay(), in_picoseconds).to_fix
    assert found.check == "observed" and re.match(r"time: \d\d% of the observed events lie where no", found.text)
    (found,) = check_problem(Decay(), longer[:, :1]).to_fix
    assert found.check == "shapes" and "shape (3000, 1)" in found.text
