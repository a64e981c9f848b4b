"""Generators that begin at a fit: where they begin, what witnesses show, and that a wrong method is seen."""

import dataclasses
import importlib
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from gaussian import Gaussian
from mpi_launcher import TESTS, mpiexec
from test_resume import SMALL, assert_same_bits, file_of, files_of, stop_at

from sagips_kit import Ring, RunSpec, Settings, Trainer, analysis, fit, open_run, prepare, run
from sagips_kit.events.resampling import Resampling
from sagips_kit.ranks.world import World
from sagips_kit.statistics.start import Start
from sagips_kit.store.witnesses import is_witness, stretch
from sagips_kit.training import schedules
from sagips_kit.training.state_dicts import flattened, nested

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.append(str(BENCHMARKS))
problems = importlib.import_module("problems")
HeavyTails, Normal, Ambiguous = problems.REGULAR["HeavyTails"], problems.REGULAR["Normal"], problems.AMBIGUOUS["Square"]
Incomes, Aftershocks = problems.REGULAR["Incomes"], problems.REGULAR["Aftershocks"]
SETTINGS = Settings(n_members=4, n_events=512, generator_widths=(32, 32), discriminator_widths=(64, 64))


class Calibrated(HeavyTails):
    """With a prior that is half as good as the events, which each chain meets shifted."""

    priors = {"position": (1.35, 0.02)}


@pytest.mark.parametrize("kind", [HeavyTails, Calibrated])
def test_chains_begin_at_the_fits_of_their_own_events(kind, rng):
    problem = kind()
    events = problem.observed(4000, rng)
    result = fit(problem, events)
    start = Start.restored(problem, events, nested(flattened(result.start().state)))
    chosen = Resampling(range(2), 2, 5, True).indices(len(events))
    shifts = torch.tensor([[1.3], [-0.4]]) if problem.priors else torch.zeros(2, 0)
    found = start.fits_of(torch.as_tensor(events), chosen, shifts).numpy()
    for theta, indices, shift in zip(found, chosen, shifts.numpy(), strict=True):
        again = problem
        if problem.priors:
            value, deviation = problem.priors["position"]
            again = kind()
            again.priors = {"position": (value + shift[0] * deviation, deviation)}
        own = fit(again, events[indices.numpy()])
        assert np.abs(own.theta - result.theta).max() > 0.2 * result.deviation.min()
        assert (theta - own.theta) / result.deviation == pytest.approx(0, abs=0.15)


def test_the_score_of_a_restored_start_is_the_same_and_has_a_derivative(rng):
    problem = Normal()
    events = problem.observed(2000, rng)
    start = fit(problem, events).start()
    restored = Start.restored(problem, events, nested(flattened(start.state)))
    some = torch.tensor(events[:6], dtype=torch.float32).reshape(2, 3, 2).requires_grad_()
    scores = restored.features(some)
    assert scores.dtype == torch.float32 and scores.shape == (2, 3, 5)
    assert torch.equal(scores, start.features(some))
    (slope,) = torch.autograd.grad(scores[0, 1, 2], some)
    assert slope[0, 1].abs().min() > 0 and slope[0, 0].abs().max() == slope[1].abs().max() == 0


def test_a_quarter_of_the_chains_are_witnesses():
    assert [[chain for chain in range(n) if is_witness(chain, n)] for n in (3, 4, 10)] == [[2], [3], [7, 8, 9]]


def test_a_run_keeps_two_chains_for_its_deviations():
    assert not any(is_witness(chain, n) for n in (1, 2) for chain in range(n))


def make_trainer(problem, events, start, n_steps=400, **changes):
    return Trainer(problem, dataclasses.replace(SETTINGS, **changes), events, n_steps=n_steps, start=start, seed=3)


def distances(trainer, theta, deviation):
    """RMS distance of each chain from the fit of its own events, in deviations."""
    return np.sqrt((((theta - trainer.chain_fits) / deviation) ** 2).mean(axis=1))


def test_witnesses_begin_elsewhere_and_come_back_while_the_others_stay(rng):
    problem = HeavyTails()
    events = problem.observed(20_000, rng)
    result = fit(problem, events)
    with make_trainer(problem, events, result.start()) as trainer:
        began = distances(trainer, trainer.chain_starts, result.deviation)
        # Ten times as many events as were observed are few for a witness, so it comes from farther away.
        assert began == pytest.approx([0, 0, 0, 2 * stretch(400 * 512 / 20_000)], abs=1e-6) and began[3] > 4
        first = next(trainer.iterate(1)).theta
        assert distances(trainer, first, result.deviation) == pytest.approx(began, abs=0.05)
        trainer.run()
        ended = distances(trainer, trainer.draws.mean(1), result.deviation)
        assert (ended[:3] < 0.2).all() and ended[3] < 0.5
        seen = trainer.gan._seen[:, 0]
        assert (seen[:3] == 1).all() and (seen[3, :2] == 0).all() and (seen[3, 2:] == 1).all()


def test_discriminators_do_not_learn_few_events_by_heart():
    """Else generators leave the answer; by 2.5 deviations without a decay of the weights."""
    problem = Normal()
    events = problem.observed(100, np.random.default_rng(1))
    result = fit(problem, events)
    trainer = make_trainer(problem, events, result.start(), 300, n_members=4)
    trainer.run()
    away = distances(trainer, trainer.chain_ends, result.deviation)
    assert (away[~trainer.is_witness] < 0.5).all() and (away[trainer.is_witness] < 1).all()


@pytest.mark.parametrize("kind", [HeavyTails, Incomes, Aftershocks])
def test_generators_begin_with_steps_as_long_as_the_deviations(kind, rng):
    # Also where the fit takes a parameter by its logarithm (scale, delay), and near an end of its range (delay).
    problem = kind()
    events = problem.observed(20_000, rng)
    result = fit(problem, events)
    width = torch.tensor([upper - lower for lower, upper in zip(problem.lower, problem.upper, strict=True)])
    with make_trainer(problem, events, result.start(), n_steps=2000) as trainer:
        generator, deviation = trainer.gan.generator, torch.as_tensor(result.deviation) / width
        began = torch.as_tensor(trainer.chain_fits) / width - torch.tensor(problem.lower) / width
        slopes = generator.slopes(began.clamp(2 * deviation, 1 - 2 * deviation))
        steps = (generator.axes.double() * slopes[:, None]).norm(dim=1) / len(events) ** 0.5
        assert (steps / deviation)[:3].numpy() == pytest.approx(1, abs=0.15)


class Undefined(HeavyTails):
    """With a constraint that does not exist far from the answer."""

    def constraints(self, theta, statistic):
        return (theta[:1] - 1.3) / 0.1 + 0 * (1.36 - theta[:1]).sqrt()


def test_a_witness_begins_where_constraints_are_defined(rng):
    problem = Undefined()
    events = problem.observed(20_000, rng)
    with make_trainer(problem, events, fit(problem, events).start(), n_steps=20) as trainer:
        assert (trainer.chain_starts[-1] != trainer.chain_fits[-1]).any()
        assert np.isfinite(trainer.chain_starts).all() and trainer.chain_starts[-1, 0] < 1.36


# Mutants of the method that a run must report


def no_training(monkeypatch):
    monkeypatch.setattr(schedules, "first_rates_at_a_fit", lambda n_steps, n_events, settings: (0.0, 1e-3))


def shifted(monkeypatch):
    """All chains are taken to be at a place 1.5 deviations beside the answer."""
    fits_of = Start.fits_of

    def beside(self, *given):
        return fits_of(self, *given) + 1.5 * self.state["covariance"].diag().sqrt() * torch.tensor([10.0, 4.8])

    monkeypatch.setattr(Start, "fits_of", beside)


@pytest.mark.parametrize(
    ("mutate", "text"),
    [
        (None, None),
        (
            no_training,
            "The witnesses, chains that began 2 deviations .*, ended .* from them .*: generators hardly moved",
        ),
        (shifted, "The chains that began at the fits of their events left them by"),
    ],
)
def test_a_run_that_begins_at_its_fit_says_whether_witnesses_confirm_it(mutate, text, tmp_path, monkeypatch):
    if mutate is not None:
        mutate(monkeypatch)
    spec = RunSpec(
        problem=HeavyTails(),
        store=str(tmp_path / "a.zarr"),
        settings=SETTINGS,
        n_steps=400,
        n_observed=4000,
        start="fit",
        seed=2,
    )
    run(spec, World.alone("cpu"))
    stored = open_run(spec.store)
    found = analysis.verdict(stored)
    assert stored.attrs["verdict"] == found.to_dict()
    # The chain of the witness belongs to no posterior, and to no mean over the generators.
    assert stored["posterior"]["scale"].isnull().all("draw").values.tolist() == [False, False, False, True]
    assert stored["history"]["witness"].values.tolist() == [[0, 0, 0, 1]]
    ends, last = stored["reference"]["chain_end"], stored["history"]["theta"].isel(rank=0, step=-1)
    assert ends.notnull().all() and analysis.convergence(stored)["witness"].sum() == 1
    np.testing.assert_allclose(analysis.convergence(stored)["theta"][-1], last[:3].mean("member"), rtol=1e-5)
    if text is None:
        assert found.state == "no fault found", str(found)
        assert found.tests["RMS distance of the witnesses from their fits, deviations: at first"] == pytest.approx(2)
        assert found.tests["at last"] < 0.5
    else:
        assert any(re.search(text, one) for one in found.sentences()), str(found)


# Runs


@pytest.fixture
def spec(tmp_path):
    settings = dataclasses.replace(SMALL, n_members=2, bootstrap=True)
    where = str(tmp_path / "a.zarr")
    return RunSpec(problem=HeavyTails(), store=where, settings=settings, n_steps=203, n_observed=1000, start="fit")


@pytest.mark.parametrize("has_checkpoint", [True, False])
def test_a_stopped_run_continues_with_the_same_bits(spec, tmp_path, has_checkpoint):
    whole = dataclasses.replace(spec, store=str(tmp_path / "whole.zarr"))
    run(whole, World.alone("cpu"))
    stop_at(spec, 100)
    if not has_checkpoint:  # then the fit, which the store has, is made once more
        for file in files_of(spec.store):
            file.unlink()
    assert run(spec, World.alone("cpu"), resume=True)["first_step"] == 100 * has_checkpoint
    assert_same_bits(spec.store, whole.store)
    for name in ("chain_fit", "chain_start", "fit"):
        one, two = (open_run(each.store)["reference"][name] for each in (spec, whole))
        assert one.notnull().all()
        np.testing.assert_array_equal(one, two)


@pytest.mark.mpi
def test_ranks_of_a_replica_begin_at_the_same_place(spec, nest):
    spec = dataclasses.replace(spec, problem=Gaussian(n_observed=400), exchange=Ring(), n_steps=60)
    prepare(spec, n_ranks=2)
    done = mpiexec(2, *nest.stub, TESTS / "mpi" / "rank.py", file_of(spec))
    assert done.returncode == 0, done.stdout
    stored = open_run(spec.store)
    assert stored["reference"]["chain_fit"].notnull().all() and "verdict" in stored.attrs
    theta = stored["history"]["theta"].isel(step=0).values
    np.testing.assert_array_equal(theta[0], theta[1])


def test_where_the_answer_is_in_doubt_generators_look_for_it_themselves(tmp_path):
    problem = Ambiguous(truth=(2**0.5,))
    spec = RunSpec(problem=problem, store=str(tmp_path / "a.zarr"), settings=SMALL, n_steps=20, start="fit")
    run(dataclasses.replace(spec, n_observed=2000), World.alone("cpu"))
    stored = open_run(spec.store)
    assert "several answers" in [finding.kind for finding in analysis.verdict(stored).findings]
    assert stored["reference"]["chain_fit"].isnull().all()


def test_a_fit_of_some_parameters_is_no_start(rng):
    result = fit(HeavyTails(), HeavyTails().observed(500, rng), fixed={"position": 1.3})
    with pytest.raises(ValueError, match="Generators make all parameters: type result = fit"):
        result.start()


def test_another_start_is_refused(rng):
    problem = HeavyTails()
    one, other = (problem.observed(300, rng) for _ in range(2))
    state = Trainer(problem, SMALL, one, n_steps=40, start=fit(problem, one).start()).state_dict()
    trainer = Trainer(problem, SMALL, one, n_steps=40, start=fit(problem, other).start())
    with pytest.raises(ValueError, match="the run began at another fit"):
        trainer.load_state_dict(state)
